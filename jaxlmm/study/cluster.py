"""Chunks on dask's `distributed`: a cluster on this machine, or the scheduler of a larger one.

SLURM and Kubernetes come through dask-jobqueue and dask-kubernetes, which start the workers. Each dask worker hands its
chunks to a process of its own like those of `Processes`, however the worker was started: the numbers are the same. On
GPUs start one dask worker a GPU (CUDA_VISIBLE_DEVICES, as dask-cuda does).
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from .declare import Study, Task
from .executors import GUARD, Finished, Lasting, compiled, payload_of
from .store import StudyError

PATIENCE = 10  # seconds without any worker
AHEAD = 3  # chunks that are with the scheduler, for each thread of the cluster
CHILDREN = "_jaxlmm_study_children"  # attribute of a dask worker: its processes by study and thread


class Dask:
    """Workers of dask; a chunk whose worker is lost is done again by another.

    Parameters
    ----------
    address : of a scheduler, or a dask cluster or client; default a cluster on this machine for the time of the run
    workers : processes of the cluster on this machine, default one a core
    """

    def __init__(self, address: Any = None, workers: int | None = None):
        if address is not None and workers is not None:
            raise StudyError("workers: is for a cluster on this machine; a scheduler has the workers that it has")
        self.address, self.workers = address, workers

    def parts(self, study: Study, tasks: Sequence[Task]) -> Generator[Finished, None, None]:
        """See `jaxlmm.study.executors.Executor`."""
        try:
            import distributed
        except ImportError as error:
            raise StudyError("executor: 'dask' needs distributed: pip install 'jaxlmm[study]'") from error
        payload, key = payload_of(study), study.hash
        settings = compiled() if self.address is None else {}  # on this machine
        with ExitStack() as stack:
            client = self.address
            if not isinstance(client, distributed.Client):
                cluster = self.address
                if cluster is None:
                    cluster = stack.enter_context(_local(distributed, self.workers))
                client = stack.enter_context(distributed.Client(cluster))
            try:
                client.wait_for_workers(1, timeout=PATIENCE)
            except TimeoutError as error:
                raise StudyError(
                    f"dask: the scheduler has had no workers for {PATIENCE} seconds; start some (dask worker ADDRESS)"
                ) from error
            try:
                yield from _parts(distributed, client, (payload, key, settings), tasks)
            finally:
                with suppress(Exception):  # workers that are gone have nothing to release
                    client.run(_release, key)


def _local(distributed: Any, workers: int | None) -> Any:
    """A cluster on this machine."""
    try:
        return distributed.LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None)
    except RuntimeError as error:
        raise StudyError(f"dask could not start its processes ({error}); {GUARD}") from error


def _parts(
    distributed: Any, client: Any, what: tuple[bytes, str, dict[str, str]], tasks: Sequence[Task]
) -> Generator[Finished, None, None]:
    """Parts as they come, with no more chunks at the scheduler than keep it busy."""
    waiting = iter(tasks)

    def submit() -> list[Any]:
        task = next(waiting, None)
        name = None if task is None else f"jaxlmm-{what[1][:12]}-{task.cell}-{task.lo}"
        return [] if task is None else [client.submit(work, *what, tuple(task), key=name, pure=False)]

    threads = max(sum(client.nthreads().values()), 1)
    pending = distributed.as_completed([f for _ in range(AHEAD * threads) for f in submit()])
    for future in pending:
        if future.status != "finished":
            raise StudyError(f"dask could not do a chunk: {future.exception()}")
        answer = future.result()
        if isinstance(answer, str):
            raise StudyError(answer)
        for new in submit():
            pending.add(new)
        yield Finished(Task(*answer[0]), *answer[1:])


def work(payload: bytes, key: str, settings: dict[str, str], task: tuple[int, int, int]) -> Any:
    """Do a chunk in the process that belongs to this thread of a dask worker; a text where it cannot be done."""
    from distributed import get_worker

    children = vars(get_worker()).setdefault(CHILDREN, {})
    place = key, threading.get_ident()
    worker = children.setdefault(place, Lasting(payload, settings=settings))
    try:
        return tuple(worker.run(Task(*task)))
    except StudyError as error:
        return str(error)


def _release(key: str, dask_worker: Any) -> None:
    """End the processes of a study."""
    children = vars(dask_worker).get(CHILDREN, {})
    for place in [place for place in children if place[0] == key]:
        children.pop(place).close()
