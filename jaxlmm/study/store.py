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
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import JaxlmmError
from ..saving.archive import TEMPORARY, sentence, write_atomically
from .declare import Study, Task, tasks_of
from .describe import differences
from .manifest import check, signature

FORMAT = 1
MANIFEST, PARTS, LOCK = "manifest.json", "parts", "lock"
RECENT = 50  # parts from whose times the rate is taken
SHOWN = 10  # differences that are shown
TRIES, PAUSE = 5, 0.1  # to get the lock, seconds


class StudyError(JaxlmmError):
    """A study cannot be run, or not go on, as asked; what was done is kept."""


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes
    ----------
    done, total : data sets;  parts, all_parts : chunks
    running : whether a process holds the directory
    rate : data sets a second over the latest parts, NaN where not known;  left : seconds, NaN where not known
    """

    done: int
    total: int
    parts: int
    all_parts: int
    running: bool
    rate: float
    left: float

    def __str__(self) -> str:
        share = 100.0 * self.done / self.total
        text = f"{self.done:,} of {self.total:,} data sets ({share:.1f} %), {self.parts} of {self.all_parts} parts"
        if self.done == self.total:
            return text + ", complete"
        if not self.running:
            return text + ", not running: start it again to go on"
        return text + (f", {speed(self.rate, self.left)}" if self.rate > 0 else ", running")


def speed(rate: float, left: float) -> str:
    """A rate and the time left in words."""
    unit, size = next(((u, s) for u, s in (("h", 3600.0), ("min", 60.0)) if left >= 2 * s), ("s", 1.0))
    return f"{rate:,.0f} a second, {left / size:.0f} {unit} left"


def part_name(task: Task) -> str:
    """File name of a chunk."""
    return f"c{task.cell:05d}-r{task.lo:010d}-{task.hi:010d}.parquet"


class Store:
    """A study's directory, to read."""

    def __init__(self, path: Any):
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

    def tasks(self, manifest: dict[str, Any]) -> list[Task]:
        """All chunks of the study, in order."""
        study = manifest["study"]
        return tasks_of(len(study["cells"]), study["replicates"], study["chunk"])

    def done(self, tasks: Sequence[Task]) -> list[Task]:
        """Those with a part, in order."""
        try:
            present = set(os.listdir(self.parts))
        except FileNotFoundError:
            return []
        return [task for task in tasks if part_name(task) in present]

    def part(self, task: Task) -> Path:
        """Path of a chunk's part."""
        return self.parts / part_name(task)

    def is_locked(self) -> bool:
        """Whether a process runs the study now."""
        try:
            with _opened(self.path / LOCK, os.O_RDWR) as file:
                return not _try_lock(file)
        except FileNotFoundError:
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
        if self.refuse(study):
            return
        content = {"format": FORMAT, "hash": study.hash, "study": study.description, "rows": study.rows,
                   "truths": study.truths, "environments": []}  # fmt: skip
        self._write({**content, "sha256": signature(content)})

    def refuse(self, study: Study) -> bool:
        """Refuse a study that is not the one that was begun here; whether one was, that is, has parts."""
        for file in (*self.path.glob(f"{TEMPORARY}*-{MANIFEST}"), *self.parts.glob(f"{TEMPORARY}*")):
            file.unlink(missing_ok=True)
        if not any(self.parts.iterdir()):
            return False
        if not (self.path / MANIFEST).exists():
            raise StudyError(f"{self.path}: has parts but no {MANIFEST}; give an empty directory")
        found = self.manifest()
        if found["hash"] != study.hash:
            lines = differences(found["study"], study.description)
            shown = "\n    ".join(lines[:SHOWN] + ([f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []))
            raise StudyError(
                f"{self.path}: holds another study; give another directory, or the study as it was. "
                f"It differs (there -> now) in\n    {shown}"
            )
        return True

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

    def missing(self, tasks: Sequence[Task], rows: int) -> list[Task]:
        """Chunks without a complete part; a damaged one is removed."""
        import pyarrow.parquet as pq

        there = self.done(tasks)
        for task in list(there):
            try:
                good = pq.read_metadata(self.part(task)).num_rows == rows * (task.hi - task.lo)
            except Exception:  # whatever damaged bytes lead pyarrow to
                good = False
            if not good:
                self.part(task).unlink()
                there.remove(task)
        return sorted(set(tasks) - set(there))

    def put(self, task: Task, content: bytes) -> None:
        """Write a part."""
        self._saved(self.part(task), content)

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


def _try_lock(file: int) -> bool:
    """Whether the lock was free; the system takes it back when the process ends, however it ends."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def status(path: Any) -> Progress:
    """How far the study in a directory is, whoever runs it."""
    store = Store(path)
    tasks = store.tasks(store.manifest())
    there = store.done(tasks)
    total, done = (sum(t.hi - t.lo for t in some) for some in (tasks, there))
    running = store.is_locked()
    rate = _rate(store, there) if running else float("nan")
    return Progress(done, total, len(there), len(tasks), running, rate, (total - done) / rate if rate else float("nan"))


def _rate(store: Store, there: Sequence[Task]) -> float:
    """Data sets a second, from the times of the latest parts until now."""
    stamps = []
    for task in there:
        with suppress(FileNotFoundError):
            stamps.append((store.part(task).stat().st_mtime, task.hi - task.lo))
    latest = sorted(stamps)[-RECENT:]
    if len(latest) < 2:
        return float("nan")
    return sum(size for _, size in latest[1:]) / max(time.time() - latest[0][0], 1e-3)
