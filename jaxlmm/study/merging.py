"""Shares of a study that were run in directories of their own, in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arguments import door
from .describe import differences
from .manifest import replicates_of
from .results import Results, read
from .store import SHOWN, Store, StudyError, locked


@door
def merge(out: Any, shares: Sequence[Any], mixed: bool = False) -> Results:
    """Put the parts of directories into one, which ends with the same bytes as if it had been run alone.

    Parameters
    ----------
    out : directory, new or of the same study;  shares : directories of `run` with ``shard=``
    mixed : accept other versions of software, or another kind of device, than the first one has

    Raises
    ------
    StudyError
        When they hold different studies, or none.
    """
    if not shares:
        raise StudyError("merge: expected one or more directories of the same study, found none")
    with locked(out) as store:
        for path in shares:
            source = Store(path)
            manifest = source.manifest()
            there = store.known_manifest()
            if there is None:
                store.copy_manifest(manifest)
            elif lines := differences(_same(there), _same(manifest)):
                raise StudyError(f"{path}: holds another study than {out} (there -> here): {'; '.join(lines[:SHOWN])}")
            for environment in manifest["environments"]:
                store.admit(environment, mixed)
            counts = replicates_of(manifest)
            present = {task[:3] for task in store.there(counts)}
            for task in source.there(counts):
                if task[:3] not in present:
                    store.put(task, source.part(task).read_bytes(), ())
    return read(out)


def _same(manifest: dict[str, Any]) -> dict[str, Any]:
    return {**{k: v for k, v in manifest["study"].items() if k not in ("name", "aims")}, "rows": manifest["rows"]}
