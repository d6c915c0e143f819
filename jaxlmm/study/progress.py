"""How far a study is, whoever runs it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .declare import Task, tasks_of
from .manifest import replicates_of, share_of
from .store import Store

RECENT = 50  # parts from whose times the rate is taken


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes
    ----------
    done, total : data sets;  parts, all_parts : chunks
    running : whether a process holds the directory
    rate : data sets a second over the latest parts, NaN where not known;  left : seconds, NaN where not known
    share : (k, n) where the directory has the k-th of n shares, which all these numbers are of; else (1, 1)
    """

    done: int
    total: int
    parts: int
    all_parts: int
    running: bool
    rate: float
    left: float
    share: tuple[int, int] = (1, 1)

    def __str__(self) -> str:
        share = 100.0 * self.done / max(self.total, 1)
        text = f"{self.done:,} of {self.total:,} data sets ({share:.1f} %), {self.parts} of {self.all_parts} parts"
        if self.share[1] > 1:
            text = f"share {self.share[0]}/{self.share[1]}: {text}"
        if self.done == self.total:
            return text + ", complete"
        if not self.running:
            return text + ", not running: start it again to go on"
        return text + (f", {speed(self.rate, self.left)}" if self.rate > 0 else ", running")


def speed(rate: float, left: float) -> str:
    """A rate and the time left in words."""
    unit, size = next(((u, s) for u, s in (("h", 3600.0), ("min", 60.0)) if left >= 2 * s), ("s", 1.0))
    return f"{rate:,.0f} a second, {left / size:.0f} {unit} left"


def status(path: Any) -> Progress:
    """How far the study in a directory is, whoever runs it."""
    store = Store(path)
    manifest = store.manifest()
    counts = replicates_of(manifest)
    chunk, (which, of) = manifest["study"]["chunk"], share_of(manifest)
    every = store.there(counts)
    left = tasks_of(counts, chunk, every)
    if of > 1:
        starts = {(task.cell, task.lo) for task in tasks_of(counts, chunk)[which - 1 :: of]}
        every, left = ([t for t in some if (t.cell, t.lo // chunk * chunk) in starts] for some in (every, left))
    short = {task._replace(only=()) for task in store.short(manifest, every)}
    there = [task for task in every if task not in short]
    total, done = (sum(t.hi - t.lo for t in some) for some in ([*every, *left], there))
    running = store.is_locked()
    rate = _rate(store, there) if running else float("nan")
    left_s = (total - done) / rate if rate else float("nan")
    return Progress(done, total, len(there), len(every) + len(left), running, rate, left_s, (which, of))


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
