"""Running a study: what is missing is done, whoever did the rest."""

from __future__ import annotations

import io
import multiprocessing
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np

from ..arguments import check_progress, door, shown
from ..batch.chunks import Progress
from ..errors import DataError
from .cells import in_words, key_of
from .declare import Study, Task
from .estimate import HOPELESS, RAISED, STATUSES
from .executors import GUARD, Executor, Finished, Inline, Processes, has_gpu_driver
from .manifest import replicates_of
from .parts import numbers_of
from .progress import speed
from .rehearsal import rehearse
from .results import Results, read
from .store import OpenStore, StudyError, locked

RUNNING = ("executor", "workers", "progress", "mixed")  # options of `run` of functions that run studies
EVERY = 1.0  # seconds between lines of progress


@door
def run(
    study: Study, out: Any, executor: Executor | str = "processes", workers: int | None = None,
    progress: Progress = "auto", mixed: bool = False,
    shard: str | tuple[int, int] | None = None,
) -> Results:  # fmt: skip
    """Run a study in a directory, or what is left of it there.

    Every chunk of replicates becomes a file that appears when it is complete. A run that was killed is gone on with by
    the same call, and ends with the same bytes as if it had not been. One process at a time holds the directory.

    A directory grows: further cells, more replicates, further estimators and targets are computed without running again
    what is there. Anything else that numbers depend on must be as it was: the seed, the design, the generating model,
    estimators and targets by their names, and all of the user's own code that these call, constants of modules included
    (not: files that are read, environment variables, installed packages, whose versions of the core are recorded).

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
    shard : ``(3, 40)`` or ``"3/40"`` does the third of forty shares of the chunks, for arrays of jobs, each in a
        directory of its own; `jaxlmm.study.merge` puts them together

    Returns
    -------
    Results

    Raises
    ------
    StudyError
        When the directory holds another study, is in use, or cannot be written, when a chunk cannot be done, and when
        none of the first hundred data sets of a cell can be used.
    DataError
        When the models cannot be built, replicates are alike, or no replicate can be drawn.
    KeyboardInterrupt
        With a sentence that says how to go on. A data set for which a function raises is a status in its row.

    Warns
    -----
    UserWarning
        Where nothing uses a factor of the grid.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise StudyError(f"a process that works for a study began it again; {GUARD}")
    if not isinstance(study, Study):
        raise DataError(f"study: found {shown(study)}, expected a jaxlmm.study.Study")
    check_progress(progress)
    who, (which, of) = _executor(executor, workers), _share(shard)
    for factor in study.unused:
        warnings.warn(f"grid: nothing uses the factor {factor!r}: its levels are the same", UserWarning, stacklevel=3)
    study = study.changed()  # what its functions are now, before they keep anything for themselves
    with locked(out) as store:
        joined, manifest, is_new = store.refuse(study)
        own = {key_of(cell) for cell in study.cells}
        cells = {i for i, cell in enumerate(joined.cells) if key_of(cell) in own}
        mine = [task for task in joined.tasks if task.cell in cells][which - 1 :: of]
        starts, chunk = {(task.cell, task.lo) for task in mine}, joined.chunk
        total = sum(task.hi - task.lo for task in mine)

        def left() -> tuple[list[Task], int]:
            """What is to do, and how many data sets are done."""
            every = store.missing(joined, replicates_of(manifest), cells)
            some = [task for task in every if (task.cell, task.lo // chunk * chunk) in starts]
            return some, total - sum(task.hi - task.lo for task in some)

        missing, done = left()
        report = _reporter(progress)
        if missing and not has_gpu_driver():  # where there is one, JAX would take hold of the GPU that workers need
            rehearse(joined, sorted({task.cell for task in missing}))
        if is_new:  # a study that cannot start does not claim the directory
            store.begin(study)
        store.note((which, of))
        try:
            if missing:
                report(done, total)
            parts = who.parts(joined, missing) if missing else _none()
            with closing(_written(parts, store, joined, mixed)) as sizes:  # what is being written is written
                for size in sizes:
                    done += size
                    report(done, total)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{store.path}: interrupted; {left()[1]:,} of {total:,} data sets are kept, the same call goes on"
            ) from None
    return read(out)


def _none() -> Generator[Finished, None, None]:
    yield from ()


def _written(
    parts: Generator[Finished, None, None], store: OpenStore, study: Study, mixed: bool
) -> Generator[int, None, None]:  # fmt: skip
    """Write parts as they come, each while the next one is computed; how many data sets are on disk now."""
    watch = Watch(study)
    with closing(parts), ThreadPoolExecutor(1) as pool:
        writing: deque[tuple[Future[None], int]] = deque()
        for part in parts:
            watch.look(part)
            store.admit(part.environment, mixed)
            task = part.task
            writing.append((pool.submit(store.put, task, part.content, study.rows), task.hi - task.lo))
            while len(writing) > 1:
                future, size = writing.popleft()
                future.result()
                yield size
        for future, size in writing:
            future.result()
            yield size


class Watch:
    """Looks at the first data sets of each cell: where none can be used, time is better spent otherwise."""

    def __init__(self, study: Study):
        self.study = study
        self.good: set[int] = set()
        self.seen: dict[int, list[np.ndarray]] = {}

    def look(self, part: Finished) -> None:
        """Raise a `StudyError` where nothing comes out of the first hundred data sets of a cell."""
        cell = part.task.cell
        if cell in self.good or part.task.only:
            return
        found = numbers_of(io.BytesIO(part.content), self.study.rows, part.task.hi - part.task.lo, messages=True)
        status = np.concatenate([*self.seen.pop(cell, []), found["status"]], 1)
        names = [row.estimator for row in self.study.rows]
        fine = {name for name, own in zip(names, status, strict=True) if not np.isin(own, RAISED).all()}
        hopeless = [name for name in names if name not in fine]
        if (status == 0).any() and not hopeless:
            self.good.add(cell)
        elif status.shape[1] < HOPELESS:
            self.seen[cell] = [status]
        else:
            who = hopeless[0] if hopeless else names[0]
            k = names.index(who)
            words = next(filter(None, found["message"][k]), "")
            where = in_words(self.study.cells[cell])
            raise StudyError(
                f"{f'cell {where}: ' if where else ''}none of the first {status.shape[1]} data sets has a result of "
                f"{'any estimator' if not hopeless else f'estimator {who!r}'} ({STATUSES[status[k, -1]]}"
                f"{f': {words}' if words else ''}); what was done in other cells is kept"
            )


def _share(shard: Any) -> tuple[int, int]:
    """Which of how many shares of the chunks is done."""
    if shard is None:
        return 1, 1
    pair = shard.split("/") if isinstance(shard, str) else shard
    try:
        which, of = map(int, pair)
    except (TypeError, ValueError):
        which, of = 0, 0
    if not 1 <= which <= of:
        raise DataError(f"shard: found {shard!r}, expected such as '3/40', the third of forty")
    return which, of


def _executor(executor: Executor | str, workers: int | None) -> Executor:
    if not isinstance(executor, str):
        if workers is not None:
            raise DataError("workers: give it to the executor, or the executor's name")
        if not hasattr(executor, "parts"):
            raise DataError(f"executor: found {shown(executor)}, expected 'inline', 'processes', 'dask' or an executor")
        return executor
    if executor == "inline":
        if workers not in (None, 1):
            raise DataError(f"workers: found {workers!r}, but 'inline' does one chunk at a time; use 'processes'")
        return Inline()
    if executor == "processes":
        return Processes(workers)
    if executor == "dask":
        from .cluster import Dask

        return Dask(workers=workers)
    raise DataError(f"executor: found {executor!r}, expected 'inline', 'processes', 'dask' or an executor")


def _reporter(progress: Progress) -> Callable[[int, int], Any]:
    """A function (done, total) that shows progress."""
    if callable(progress):
        return progress
    if not progress or (progress == "auto" and not sys.stderr.isatty()):
        return lambda done, total: None
    seen: list[tuple[float, int]] = []  # the rate is that of what comes after the second: programs are compiled for it
    end = "\r" if sys.stderr.isatty() else "\n"

    def report(done: int, total: int) -> None:
        now = time.monotonic()
        if seen and now - seen[-1][0] < EVERY and done < total:
            return
        seen.append((now, done))
        text = f"{done:,} of {total:,} data sets"
        if len(seen) == 1:
            text += ", models are compiled first"
        elif done > seen[1][1]:
            rate = (done - seen[1][1]) / max(now - seen[1][0], 1e-9)
            text += f", {speed(rate, (total - done) / rate)}"
        print(f"{text:<78}", end="\n" if done == total else end, file=sys.stderr, flush=True)

    return report
