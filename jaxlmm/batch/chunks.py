"""Chunks of a long batch: their size, the threads they run in, progress and interruption."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from threading import Event
from typing import Any, Literal

import jax
import numpy as np

from ..arguments import check_progress
from ..runtime.devices import chosen_device, devices, numbers_at_once, platform
from ..runtime.precision import float64
from .queue import LEAST, sizes

Progress = Callable[[int, int], Any] | Literal["auto"] | bool

CHUNK_FLOATS = 4e6  # numbers of data read at a time
# Rows for each core up to which one thread prepares all for the queues of all cores: with fewer, what Python does for a
# chunk, one thread at a time, takes longer than the chunk.
TOGETHER = 300
LONG = 2.0  # seconds after which a bar is shown


def workers() -> int:
    """Threads that run compiled programs side by side: one a core of a CPU, where JAX sees it as one device.

    One thread in a scope ``jax.default_device(device)``: whoever chooses a device runs batches side by side themselves.
    """
    if chosen_device() is not None or jax.default_backend() != "cpu" or jax.local_device_count() > 1:
        return 1
    return cores()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chunks(b: int, n: int, parameters: int = 0, together: bool = False) -> list[np.ndarray]:
    """Rows 0..b-1 of n numbers each in chunks that fit a queue and the memory, as many for every worker.

    With `together` few rows are one chunk, the queues of which are all workers'. On a GPU the memory is its own, where
    the solver's derivatives in the covariance parameters stand too.
    """
    most, each = CHUNK_FLOATS, n
    if platform() != "cpu":
        most, each = numbers_at_once() or most, n + 2 * (parameters + 1) ** 2
    size = max(1, min(sizes(b)[0] * len(devices()), int(most // max(each, 1))))
    share = max(1, min(workers(), b // LEAST))
    if together and b <= min(size, TOGETHER * share):
        share = 1
    count = -(-b // (size * share)) * share
    return [rows for rows in np.array_split(np.arange(b), count) if len(rows)] if b else []


def queues_of(parts: Sequence[np.ndarray]) -> int:
    """Queues of each of the chunks: one chunk has those of all workers."""
    return workers() if len(parts) == 1 else 1


def run(tasks: Sequence[Callable[[], None]], counts: Sequence[int], progress: Progress) -> None:
    """Run tasks on all cores until they are done or the user interrupts, which is not an error.

    Parameters
    ----------
    counts : number of rows of each task;  progress : see `jaxlmm.fit_batch`
    """
    stop = Event()

    def one(i: int) -> int:
        if not stop.is_set():
            with float64(), np.errstate(all="ignore"):
                tasks[i]()
        return counts[i]

    total = sum(counts)
    with reporter(progress, total) as report, ThreadPoolExecutor(workers()) as pool:
        try:
            done = 0
            for count in _in_turn(pool, one, len(tasks)):
                done += count
                report(done, total)
        except KeyboardInterrupt:
            pass
        finally:
            stop.set()


def _in_turn(pool: ThreadPoolExecutor, task: Callable[[int], int], count: int) -> Iterator[int]:
    """Results of task(0), task(1), ... as they come; without threads where one worker would do."""
    if workers() == 1 or count == 1:
        yield from (task(i) for i in range(count))
        return
    for future in as_completed([pool.submit(task, i) for i in range(count)]):
        yield future.result()


@contextmanager
def reporter(progress: Progress, total: int) -> Any:
    """A function (done, total) that shows progress."""
    check_progress(progress)
    if callable(progress):
        yield progress
        return
    bar = _bar(total, progress is True) if progress else None
    if bar is None:
        yield lambda done, total: None
        return
    with bar:
        yield lambda done, total: bar.update(done - bar.n)


def _bar(total: int, always: bool) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, unit="fit", delay=0.0 if always else LONG, disable=False if always else None)
