"""What a manifest says, checked before anything is made of it: whoever wrote it, and whatever happened to it since."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from .describe import differences, digest

SIGNED = ("format", "hash", "study", "rows", "truths")  # all but the environments, which are added to
FORMAT = 2
MOST_TASKS = 1_000_000  # chunks of a study, each a file


def signature(manifest: Mapping[str, Any]) -> str:
    """Digest of what does not change once a study has begun."""
    content = json.dumps({name: manifest[name] for name in SIGNED}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def check(found: Any) -> None:
    """Refuse what is not a manifest, or not the one that was written.

    Raises
    ------
    ValueError
        With what was found and what is expected.
    """
    _expect(found, dict, "the file")
    kind: type
    for name, kind in (("study", dict), ("rows", list), ("truths", list), ("environments", list), ("hash", str)):
        _expect(found.get(name), kind, name)
    study = found["study"]
    kinds: dict[str, type] = {
        "name": str,
        "cells": list,
        "targets": dict,
        "estimators": list,
        "chunk": int,
        "seed": int,
    }
    for name, kind in kinds.items():
        _expect(study.get(name), kind, f"study.{name}")
    for one in study["estimators"]:
        _expect(one, dict, "study.estimators")
        _expect(one.get("name"), str, "study.estimators.name")
    for name, target in study["targets"].items():
        _expect(target, dict, f"study.targets.{name}")
        _expect(target.get("null"), float, f"study.targets.{name}.null")
    cells, rows = study["cells"], found["rows"]
    if not cells or not all(isinstance(cell, dict) and cell.keys() == cells[0].keys() for cell in cells):
        raise ValueError("study.cells: expected the same factors in every cell")
    given = study.get("replicates")
    counts = given if isinstance(given, list) else [given] * len(cells)
    if len(counts) != len(cells):
        raise ValueError(f"study.replicates: found those of {len(counts)} cells, expected {len(cells)}")
    for name, count in (("chunk", study["chunk"]), *(("replicates", count) for count in counts)):
        _expect(count, int, f"study.{name}")
        if count < 1:
            raise ValueError(f"study.{name}: found {count}, expected at least 1")
    count_tasks(len(cells), max(counts), study["chunk"])
    if not rows or not all(_is_row(row) and row[2] in study["targets"] for row in rows):
        raise ValueError("rows: expected the estimator, the test and the target of each")
    if len(found["truths"]) != len(cells):
        raise ValueError(f"truths: found those of {len(found['truths'])} cells, expected {len(cells)}")
    for truths in found["truths"]:
        _expect(truths, dict, "truths")
        for name in {row[2] for row in rows}:
            if truths.get(name, "nothing") is not None:
                _expect(truths.get(name), float, f"truths.{name}")
    for entry in found["environments"]:
        _expect(entry, dict, "environments")
    shard = found.get("shard", [1, 1])
    if not isinstance(shard, list) or [type(k) for k in shard] != [int, int] or not 1 <= shard[0] <= shard[1]:
        raise ValueError(f"shard: found {str(shard)[:60]}, expected such as [3, 40]")
    if digest(study) != found["hash"] or found.get("sha256", signature(found)) != signature(found):
        raise ValueError("it is not as it was written: its digest differs")


def replicates_of(manifest: Mapping[str, Any]) -> list[int]:
    """Data sets of each cell."""
    study = manifest["study"]
    given = study["replicates"]
    return list(given) if isinstance(given, list) else [given] * len(study["cells"])


def share_of(manifest: Mapping[str, Any]) -> tuple[int, int]:
    """Which share of how many is done in a directory, (1, 1) for all."""
    which, of = manifest.get("shard", (1, 1))
    return which, of


def made(study: Mapping[str, Any], rows: Any, truths: Any) -> dict[str, Any]:
    """A manifest without environments."""
    content = {"format": FORMAT, "hash": digest(study), "study": study, "rows": [list(row) for row in rows],
               "truths": truths, "environments": []}  # fmt: skip
    return {**content, "sha256": signature(content)}


def conflicts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Where a description of a study says something else of what there is in another one, a line each.

    Further cells, replicates, estimators and targets are no conflict, nor are another name and other chunks.
    """
    same = ("seed", "response", "design", "generate")
    lines = differences({name: old.get(name) for name in same}, {name: new.get(name) for name in same})
    if set(old["cells"][0]) != set(new["cells"][0]):
        lines.append(f"grid: the factors {', '.join(old['cells'][0])} -> {', '.join(new['cells'][0])}")
    named = {e["name"]: e for e in new["estimators"]}
    for i, estimator in enumerate(old["estimators"]):
        lines += differences(estimator, named.get(estimator["name"], "nothing"), f"estimators[{i}]")
    for name, target in old["targets"].items():
        lines += differences(target, new["targets"].get(name, "nothing"), f"targets[{name!r}]")
    return lines


def count_tasks(cells: int, replicates: int, chunk: int) -> int:
    """The number of chunks.

    Raises
    ------
    ValueError
        Where there are too many to be files.
    """
    count = cells * -(-replicates // chunk)
    if count > MOST_TASKS:
        raise ValueError(
            f"{cells:,} cells of {replicates:,} replicates in chunks of {chunk:,} are {count:,} files, more than "
            f"{MOST_TASKS:,}; make the chunks larger"
        )
    return count


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 3 and all(isinstance(word, str) for word in row)


def _expect(found: Any, kind: type, what: str) -> None:
    """Refuse another type; an integer is a float, true is no integer."""
    kinds = (int, float) if kind is float else (kind,)
    if not isinstance(found, kinds) or isinstance(found, bool):
        raise ValueError(f"{what}: found {str(found)[:60]!r} ({type(found).__name__}), expected {kind.__name__}")
