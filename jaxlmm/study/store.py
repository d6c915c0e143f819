"""The directory of a study: a manifest, parts, and a lock that dies with its process.

    DIR/manifest.json            what is run: the study's description, versions, device
    DIR/parts/c00003-r0000002000-0000003000.parquet     one chunk
    DIR/lock                     held (flock) by the process that runs the study

A file appears under its name only when it is complete: it is written beside it, synchronised and renamed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import stat
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..arguments import shown
from ..errors import JaxlmmError
from ..saving.archive import TEMPORARY, sentence, write_atomically
from .cells import key_of
from .declare import Study, Task, tasks_of
from .describe import described, differences
from .estimators import Row
from .manifest import FORMAT, check, conflicts, made, replicates_of, share_of
from .parts import lacking, merged

MANIFEST, PARTS, LOCK = "manifest.json", "parts", "lock"
SHOWN = 10  # differences that are shown
NAME = re.compile(r"c(\d{5,9})-r(\d{10,12})-(\d{10,12})\.parquet")
TRIES, PAUSE = 5, 0.1  # to get the lock, seconds


class StudyError(JaxlmmError):
    """A study cannot be run, or not go on, as asked; what was done is kept."""


def part_name(task: Task) -> str:
    """File name of a chunk."""
    return f"c{task.cell:05d}-r{task.lo:010d}-{task.hi:010d}.parquet"


class Store:
    """A study's directory, to read."""

    def __init__(self, path: Any):
        if not isinstance(path, str | os.PathLike):
            raise StudyError(f"expected the directory of a study, found {shown(path)}")
        self.path = Path(path)
        self.parts = self.path / PARTS

    def manifest(self) -> dict[str, Any]:
        """What is run here."""
        try:
            found: dict[str, Any] = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            if isinstance(found, dict) and found.get("format") != FORMAT:
                raise ValueError(f"has format {str(found.get('format'))[:20]!r}, this version reads {FORMAT}")
            check(found)
        except (FileNotFoundError, NotADirectoryError):
            raise StudyError(f"{self.path}: no study has been started here (there is no {MANIFEST})") from None
        except OSError as error:
            raise StudyError(f"{self.path / MANIFEST}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise StudyError(f"{self.path / MANIFEST}: not a manifest ({sentence(error)})") from None
        return found

    def there(self, counts: Sequence[int]) -> list[Task]:
        """The chunks that have a part, in order, of cells with so many data sets; none that says the same as others."""
        try:
            names = sorted(os.listdir(self.parts))
        except FileNotFoundError:
            return []
        out: list[Task] = []
        end, last = 0, -1
        for found in filter(None, map(NAME.fullmatch, names)):
            cell, lo, hi = map(int, found.groups())
            end = end if cell == last else 0
            if cell < len(counts) and end <= lo < hi <= counts[cell]:
                out.append(Task(cell, lo, hi))
                end, last = hi, cell
        return out

    def short(self, manifest: dict[str, Any], there: Sequence[Task]) -> list[Task]:
        """Those of the parts that lack rows of estimators and targets that came later, and these estimators."""
        if not manifest["study"].get("grown"):
            return []
        rows = [Row(*row) for row in manifest["rows"]]
        return [t._replace(only=only) for t in there if (only := lacking(self.part(t), rows, t.hi - t.lo))]

    def part(self, task: Task) -> Path:
        """Path of a chunk's part."""
        return self.parts / part_name(task)

    def is_locked(self) -> bool:
        """Whether a process runs the study now, as far as that can be seen."""
        try:
            with _opened(self.path / LOCK, os.O_RDONLY) as file:
                return not _try_lock(file, shared=True)
        except (FileNotFoundError, PermissionError):
            return False
        except OSError as error:
            raise StudyError(f"{self.path}: cannot look at its lock: {error.strerror} ({error.filename})") from error


class OpenStore(Store):
    """A study's directory, to write: only by the process that holds the lock, see `locked`."""

    def __init__(self, path: Any):
        super().__init__(path)
        self.known: list[dict[str, Any]] = []  # environments that were admitted

    def begin(self, study: Study) -> None:
        """Write the manifest, or refuse a study that is not the one that was begun here."""
        _, manifest, is_new = self.refuse(study)
        if is_new:
            self._write(manifest)

    def refuse(self, study: Study) -> tuple[Study, dict[str, Any], bool]:
        """Refuse a study that is not the one that was begun here; nothing is written.

        Returns
        -------
        The study with the cells of the directory in their places, those that were here before and then new ones; the
        manifest with what it adds; and whether that is another one than the one that is here.
        """
        for file in (*self.path.glob(f"{TEMPORARY}*-{MANIFEST}"), *self.parts.glob(f"{TEMPORARY}*")):
            file.unlink(missing_ok=True)
        new = study.description
        if not any(self.parts.iterdir()):
            return study, made(new, study.rows, study.truths), True
        if not (self.path / MANIFEST).exists():
            raise StudyError(f"{self.path}: has parts but no {MANIFEST}; give an empty directory")
        found = self.manifest()
        old = found["study"]
        if lines := conflicts(old, new):
            shown = "\n    ".join(lines[:SHOWN] + ([f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []))
            raise StudyError(
                f"{self.path}: holds another study; give another directory, or the study as it was (cells, replicates, "
                f"estimators and targets may be added). It differs (there -> now) in\n    {shown}"
            )
        own = {key_of(cell): (cell, truths) for cell, truths in zip(study.cells, study.truths, strict=True)}
        places = [key_of(cell) for cell in old["cells"]]
        keys = [*places, *(key for key in own if key not in places)]
        known = dict(zip(places, zip(old["cells"], found["truths"], strict=True), strict=True))
        cells, truths = zip(*(own.get(key) or known[key] for key in keys), strict=True)
        before = dict(zip(places, replicates_of(found), strict=True))
        counts = [max(before.get(key, 0), study.replicates if key in own else 0) for key in keys]
        rows = [list(row) for row in study.rows]
        grown = bool(old.get("grown")) or sorted(rows) != sorted(found["rows"])
        together = {
            **new, "cells": described(cells), "replicates": counts[0] if len(set(counts)) == 1 else counts,
            **({"grown": True} if grown else {}),
        }  # fmt: skip
        joined = study.changed(grid=[dict(cell) for cell in cells])
        if together == old and rows == found["rows"]:
            return joined, found, False
        return joined, {**made(together, rows, list(truths)), "environments": found["environments"]}, True

    def known_manifest(self) -> dict[str, Any] | None:
        """What is run here, None where nothing has been begun."""
        return self.manifest() if any(self.parts.iterdir()) else None

    def copy_manifest(self, manifest: dict[str, Any]) -> None:
        """Begin the study of another directory, whatever computes it."""
        self._write({**{k: v for k, v in manifest.items() if k != "shard"}, "environments": []})

    def note(self, shard: tuple[int, int]) -> None:
        """Record which share of the chunks is done here, for `status`."""
        manifest = self.manifest()
        if share_of(manifest) != shard:
            self._write({**manifest, "shard": list(shard)})

    def admit(self, environment: dict[str, Any], mixed: bool) -> None:
        """Record what a worker computes with, or refuse one whose numbers would differ from those that are there."""
        if environment in self.known:
            return
        manifest = self.manifest()
        known = manifest["environments"]
        if environment not in known:
            if known and not mixed:
                raise StudyError(
                    f"{self.path}: was begun with other software or another device, so that numbers would differ in "
                    f"their last digits (there -> now): {'; '.join(differences(known[0], environment))}. Go on there, "
                    "or accept this with mixed=True"
                )
            known.append(environment)
            self._write(manifest)
        self.known = known

    def missing(self, study: Study, counts: Sequence[int], own: Collection[int]) -> list[Task]:
        """Chunks of the cells `own` that are not there, or not with all rows; a damaged part is removed.

        `counts` are the data sets of all cells, of which those of the study itself are asked for.
        """
        import pyarrow.parquet as pq

        rows, there, short = len(study.rows), [], []
        for task in self.there(counts):
            b = task.hi - task.lo
            only: tuple[str, ...] = ()
            try:
                count = pq.read_metadata(self.part(task)).num_rows
                if count != rows * b:
                    only = lacking(self.part(task), study.rows, b)
                    count = rows * b if only else count
                good = count == rows * b
            except Exception:  # whatever damaged bytes lead pyarrow to
                good = False
            if not good:
                self.part(task).unlink()
                continue
            there.append(task)
            if only:
                short.append(task._replace(only=only))
        asked = [study.replicates if cell in own else 0 for cell in range(len(study.cells))]
        new = tasks_of(asked, study.chunk, there)
        return sorted([*new, *(task for task in short if task.cell in own and task.lo < study.replicates)])

    def put(self, task: Task, content: bytes, rows: Sequence[Row]) -> None:
        """Write a part, with the rows of those estimators that had done theirs before."""
        path = self.part(task)
        self._saved(path, content if not task.only else merged(path.read_bytes(), content, rows, task))

    def _write(self, manifest: dict[str, Any]) -> None:
        self._saved(self.path / MANIFEST, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())

    def _saved(self, path: Path, content: bytes) -> None:
        try:
            write_atomically(path, content)
        except OSError as error:
            raise StudyError(
                f"{path.parent}: cannot write {path.name}: {error.strerror}; what was done before is kept, run the "
                "study again to go on when there is room and permission"
            ) from error


@contextmanager
def locked(path: Any) -> Iterator[OpenStore]:
    """The directory, made if need be, for one process at a time.

    Raises
    ------
    StudyError
        When it cannot be made or written, or another process has it.
    """
    store = OpenStore(path)
    with ExitStack() as stack:
        try:
            store.parts.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(_opened(store.path / LOCK, os.O_RDWR | os.O_CREAT))
        except OSError as error:
            raise StudyError(
                f"{store.path}: cannot be used for a study: {error.strerror} ({error.filename})"
            ) from error
        if not _lock(file):
            owner = "unknown"
            with suppress(OSError):
                owner = os.pread(file, 200, 0).decode(errors="replace").strip()
            raise StudyError(
                f"{store.path}: is in use by another run ({owner}); wait for it, or give another directory"
            )
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except OSError as error:
            raise StudyError(f"{store.path}: cannot be written: {error.strerror}") from error
        yield store


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """A file descriptor, closed in the end; children do not inherit it. It is a file of its own, not a link."""
    file = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise OSError(errno.EEXIST, "it is a link or no file", str(path))
        yield file
    finally:
        os.close(file)


def _lock(file: int) -> bool:
    """Whether the lock was got; `status` may have it for a moment."""
    for _ in range(TRIES):
        if _try_lock(file):
            return True
        time.sleep(PAUSE)
    return False


def _try_lock(file: int, shared: bool = False) -> bool:
    """Whether the lock was free; the system takes it back when the process ends, however it ends."""
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
