"""Who does the chunks: this process, or processes that it starts; `jaxlmm.study.cluster` has dask's.

Whoever does it, a chunk is done by one device and one thread, since the last bits of numbers depend on their number.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..batch.chunks import cores
from .chunk import Bench, environment, is_one_thread, message_of, one_thread
from .declare import Study, Task
from .store import StudyError
from .worker import receive, send

ATTEMPTS = 3  # times that a chunk is given to a worker which then dies
AHEAD = 4  # parts a worker that may wait to be written


class Finished(NamedTuple):
    """A chunk that was done, and with what."""

    task: Task
    content: bytes
    environment: dict[str, Any]


class Executor(Protocol):
    """Does chunks in any order."""

    def parts(self, study: Study, tasks: Sequence[Task]) -> Generator[Finished, None, None]:
        """Parts as they come. Closing the iterator ends all work.

        Raises
        ------
        StudyError
            When a chunk cannot be done.
        """
        ...


def payload_of(study: Study) -> bytes:
    """A study for another process; functions of a script or a notebook travel by value."""
    try:
        import cloudpickle
    except ImportError:
        try:
            return pickle.dumps(study)
        except Exception as error:
            raise StudyError(f"the study cannot be sent to workers without cloudpickle: {error}") from error
    return cloudpickle.dumps(study)


class Died(Exception):
    """A worker has ended without an answer."""


class Child:
    """A worker process; see `jaxlmm.study.worker`.

    Parameters
    ----------
    gpu : the only GPU that it may see
    """

    def __init__(self, payload: bytes, gpu: str | None = None):
        package = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
        environ = {**os.environ, **one_thread(), "PYTHONPATH": paths}
        if gpu is not None:
            environ["CUDA_VISIBLE_DEVICES"] = gpu
        command = [sys.executable, "-P", "-c", f"from {__package__}.worker import main; main()"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, start_new_session=True
        )
        self.environment: dict[str, Any] = {}
        self._send((sys.path, payload))
        kind, answer = self._receive()
        if kind != "ready":
            self.close()
            raise StudyError(answer)
        self.environment = answer

    def _send(self, message: Any) -> None:
        assert self.process.stdin is not None
        try:
            send(self.process.stdin, message)
        except (OSError, ValueError) as error:
            raise Died(self._exit()) from error

    def _receive(self) -> Any:
        assert self.process.stdout is not None
        try:
            return receive(self.process.stdout)
        except (EOFError, OSError, ValueError) as error:
            raise Died(self._exit()) from error

    def _exit(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        return f"exit status {self.process.returncode}"

    def run(self, task: Task) -> Finished:
        """Do a chunk."""
        self._send(task)
        kind, answer = self._receive()
        if kind != "done":
            raise StudyError(answer)
        return Finished(task, answer, self.environment)

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


class Deal:
    """Hands out chunks: a worker stays with its cell, whose programs it has compiled, as long as that has any."""

    def __init__(self, tasks: Sequence[Task]):
        self._lock = threading.Lock()
        self._cells: dict[int, list[Task]] = {}
        self._owners: dict[int, int] = {}
        for task in reversed(tasks):
            self._cells.setdefault(task.cell, []).append(task)
        for cell in self._cells:
            self._owners[cell] = 0

    def next(self, cell: int | None) -> Task | None:
        """A chunk for a worker whose last one was of `cell`."""
        with self._lock:
            if cell is None or not self._cells.get(cell):
                if cell is not None:
                    self._owners[cell] -= 1
                open_cells = [c for c, left in self._cells.items() if left]
                if not open_cells:
                    return None
                cell = min(open_cells, key=lambda c: (self._owners[c], -len(self._cells[c]), c))
                self._owners[cell] += 1
            return self._cells[cell].pop()


class Processes:
    """Worker processes on this machine: one a core, or one a GPU where JAX finds GPUs.

    Parameters
    ----------
    workers : their number
    """

    def __init__(self, workers: int | None = None):
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise StudyError(f"workers: expected a positive integer, found {workers!r}")
        self.workers = workers

    def parts(self, study: Study, tasks: Sequence[Task]) -> Generator[Finished, None, None]:
        """See `Executor`."""
        payload, deal = payload_of(study), Deal(tasks)
        gpus = _gpus()
        count = min(self.workers or len(gpus) or cores(), len(tasks))
        found: queue.Queue[Finished | BaseException] = queue.Queue(AHEAD * count)
        crew = [_Hand(payload, deal, found, gpus[i % len(gpus)] if gpus else None) for i in range(count)]
        for hand in crew:
            hand.start()
        try:
            yield from _arrivals(found, len(tasks))
        finally:
            for hand in crew:
                hand.stop()


class _Hand(threading.Thread):
    """Keeps one worker process busy."""

    def __init__(self, payload: bytes, deal: Deal, found: queue.Queue[Any], gpu: str | None):
        super().__init__(daemon=True)
        self.payload, self.deal, self.found, self.gpu = payload, deal, found, gpu
        self.child: Child | None = None
        self.stopping = False

    def run(self) -> None:
        try:
            cell: int | None = None
            while not self.stopping and (task := self.deal.next(cell)) is not None:
                self.found.put(self._done(task))
                cell = task.cell
        except BaseException as error:
            if not self.stopping:
                self.found.put(error)
        finally:
            if self.child is not None:
                self.child.close()

    def _done(self, task: Task) -> Finished:
        """Do a chunk, by another process if the first one dies of something else than the chunk."""
        for attempt in range(ATTEMPTS):
            try:
                if self.child is None:
                    self.child = Child(self.payload, self.gpu)
                return self.child.run(task)
            except Died as error:
                if self.child is not None:
                    self.child.close()
                self.child = None
                if attempt + 1 == ATTEMPTS or self.stopping:
                    raise StudyError(
                        f"{task}: {ATTEMPTS} workers died of it ({error}); is there enough memory? A smaller chunk "
                        "needs less. What was done is kept"
                    ) from error
        raise AssertionError

    def stop(self) -> None:
        """End the worker in the middle of what it does."""
        self.stopping = True
        with suppress(queue.Empty):  # nobody takes parts any more: let a thread that waits to hand one in go on
            while True:
                self.found.get_nowait()
        if self.child is not None:
            self.child.process.kill()


def _arrivals(found: queue.Queue[Finished | BaseException], count: int) -> Generator[Finished, None, None]:
    """Parts that others hand in, or the error that one of them met."""
    for _ in range(count):
        part = found.get()
        if isinstance(part, BaseException):
            raise part
        yield part


def _gpus() -> list[str]:
    """Names of the GPUs for CUDA_VISIBLE_DEVICES, found by a process of its own, as looking takes hold of them."""
    if os.environ.get("JAX_PLATFORMS", "").lower() == "cpu" or not has_gpu_driver():
        return []
    code = "import jax; print(jax.local_device_count('gpu'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    count = int(done.stdout.split()[-1]) if done.returncode == 0 and done.stdout.strip() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",")[:count] if visible else [str(i) for i in range(count)]


def has_gpu_driver() -> bool:
    """Whether this machine may have a GPU, without asking JAX."""
    return any(Path(f"/dev/{name}").exists() for name in ("nvidia0", "nvidiactl", "kfd"))


class Inline:
    """The process itself, if it was started in the environment `jaxlmm.study.chunk.one_thread`; else one worker.

    The BLAS and XLA of a running process keep the threads that they started with. Where there are several devices
    here, each does chunks of its own.
    """

    def parts(self, study: Study, tasks: Sequence[Task]) -> Generator[Finished, None, None]:
        """See `Executor`."""
        if not is_one_thread():
            yield from Processes(1).parts(study, tasks)
            return
        import jax

        devices = jax.local_devices()
        if len(devices) == 1:
            bench, known = Bench(study), environment(devices[0])
            for task in tasks:
                yield _here(bench, task, devices[0], known)
            return
        deal = Deal(tasks)
        found: queue.Queue[Finished | BaseException] = queue.Queue(AHEAD * len(devices))
        stop = threading.Event()

        def work(device: Any) -> None:
            bench, cell, known = Bench(study), None, environment(device)
            try:
                while not stop.is_set() and (task := deal.next(cell)) is not None:
                    found.put(_here(bench, task, device, known))
                    cell = task.cell
            except BaseException as error:
                found.put(error)

        for device in devices:
            threading.Thread(target=work, args=(device,), daemon=True).start()
        try:
            yield from _arrivals(found, len(tasks))
        finally:
            stop.set()


def _here(bench: Bench, task: Task, device: Any, known: dict[str, Any]) -> Finished:
    try:
        return Finished(task, bench.run(task, device), known)
    except Exception as error:
        raise StudyError(message_of(error, task, bench.study.cells)) from error
