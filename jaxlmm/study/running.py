"""Running a study: what is missing is done, whoever did the rest."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

from ..arguments import door
from ..errors import DataError
from .declare import Study
from .executors import Executor, Finished, Inline, Processes, has_gpu_driver
from .rehearsal import rehearse
from .results import Results, read
from .store import OpenStore, locked, speed

EVERY = 1.0  # seconds between lines of progress


@door
def run(
    study: Study, out: Any, executor: Executor | str = "processes", workers: int | None = None,
    progress: Callable[[int, int], Any] | bool | str = "auto", mixed: bool = False,
) -> Results:  # fmt: skip
    """Run a study in a directory, or what is left of it there.

    Every chunk of replicates becomes a file that appears when it is complete. A run that was killed is gone on with by
    the same call, and ends with the same bytes as if it had not been. One process at a time holds the directory.

    Parameters
    ----------
    study : see `Study`
    out : directory
    executor : "processes" (worker processes on this machine), "inline" (one at a time), "dask" (a local cluster), or
        an object such as `jaxlmm.study.cluster.Dask`. Chunks come out the same, byte for byte, on one kind of device
    workers : number of worker processes; default one a core, or one a GPU
    progress : "auto" prints a line on a terminal, True always, False never; a function is called as
        ``progress(done, total)`` in data sets
    mixed : go on with other versions of software, or on another kind of device, than the study was begun with

    Returns
    -------
    Results

    Raises
    ------
    StudyError
        When the directory holds another study, is in use, or cannot be written, and when a chunk cannot be done.
    DataError
        When the models cannot be built.
    """
    who = _executor(executor, workers)
    with locked(out) as store:
        begun = store.refuse(study)
        tasks = study.tasks
        missing = store.missing(tasks, len(study.rows))
        total = len(study.cells) * study.replicates
        done = total - sum(t.hi - t.lo for t in missing)
        report = _reporter(progress, done, total)
        if missing:
            if not has_gpu_driver():  # where there is one, JAX would take hold of the GPU that workers need
                rehearse(study, sorted({task.cell for task in missing}))
            if not begun:  # a study that cannot start does not claim the directory
                store.begin(study)
            for size in _written(who.parts(study, missing), store, mixed):
                done += size
                report(done, total)
    return read(out)


def _written(parts: Generator[Finished, None, None], store: OpenStore, mixed: bool) -> Iterator[int]:
    """Write parts as they come, each while the next one is computed; how many data sets are on disk now."""
    with closing(parts), ThreadPoolExecutor(1) as pool:
        writing: deque[tuple[Future[None], int]] = deque()
        for part in parts:
            store.admit(part.environment, mixed)
            writing.append((pool.submit(store.put, part.task, part.content), part.task.hi - part.task.lo))
            while len(writing) > 1:
                future, size = writing.popleft()
                future.result()
                yield size
        for future, size in writing:
            future.result()
            yield size


def _executor(executor: Executor | str, workers: int | None) -> Executor:
    if not isinstance(executor, str):
        if workers is not None:
            raise DataError("workers: give it to the executor, or the executor's name")
        return executor
    if executor == "inline":
        return Inline()
    if executor == "processes":
        return Processes(workers)
    if executor == "dask":
        from .cluster import Dask

        return Dask(workers=workers)
    raise DataError(f"executor: found {executor!r}, expected 'inline', 'processes', 'dask' or an executor")


def _reporter(
    progress: Callable[[int, int], Any] | bool | str, before: int, total: int
) -> Callable[[int, int], Any]:  # fmt: skip
    """A function (done, total) that shows progress."""
    if callable(progress):
        return progress
    if progress != "auto" and not isinstance(progress, bool):
        raise DataError(f"progress: found {progress!r}, expected 'auto', True, False or a function")
    if not progress or (progress == "auto" and not sys.stderr.isatty()):
        return lambda done, total: None
    start, last = time.monotonic(), [0.0]
    end = "\r" if sys.stderr.isatty() else "\n"

    def report(done: int, total: int) -> None:
        now = time.monotonic()
        if now - last[0] < EVERY and done < total:
            return
        last[0] = now
        rate = (done - before) / max(now - start, 1e-9)
        text = f"{done:,} of {total:,} data sets, {speed(rate, (total - done) / max(rate, 1e-9))}"
        print(f"{text:<78}", end="\n" if done == total else end, file=sys.stderr, flush=True)

    return report
