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
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from ..batch.chunks import cores
from ..runtime.devices import devices
from .chunk import Bench, environment, is_one_thread, message_of, one_thread
from .declare import Study, Task
from .store import StudyError
from .worker import receive, send

GUARD = "in a script, put run(...) below `if __name__ == '__main__':`, as these processes run the script again first"
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


def compiled() -> dict[str, str]:
    """Where this process keeps compiled code, if it does, as environment variables of those that it starts."""
    import jax

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs",
             "jax_persistent_cache_min_entry_size_bytes")  # fmt: skip
    settings = jax.config.values
    return {name.upper(): str(settings[name]) for name in names} if settings.get(names[0]) else {}


class Died(Exception):
    """A worker has ended without an answer."""


class Child:
    """A worker process; see `jaxlmm.study.worker`.

    Parameters
    ----------
    gpu : the only GPU that it may see;  settings : environment variables in addition
    """

    def __init__(self, payload: bytes, gpu: str | None = None, settings: Mapping[str, str] = MappingProxyType({})):
        package = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
        environ = {**os.environ, **compiled(), **settings, **one_thread(), "PYTHONPATH": paths}
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


class Lasting:
    """A worker process that is replaced where it dies of something else than its chunk."""

    def __init__(self, payload: bytes, gpu: str | None = None, settings: Mapping[str, str] = MappingProxyType({})):
        self.payload, self.gpu, self.settings = payload, gpu, settings
        self.child: Child | None = None
        self.killed = False

    def run(self, task: Task) -> Finished:
        """Do a chunk."""
        for attempt in range(ATTEMPTS):
            try:
                self.child = self.child or Child(self.payload, self.gpu, self.settings)
                return self.child.run(task)
            except Died as error:
                self.close()
                if attempt + 1 == ATTEMPTS or self.killed:
                    raise StudyError(
                        f"{task}: {ATTEMPTS} workers died of it ({error}); is there enough memory? A smaller chunk "
                        "needs less. What was done is kept"
                    ) from error
        raise AssertionError

    def close(self) -> None:
        """End it."""
        if self.child is not None:
            self.child.close()
        self.child = None

    def kill(self) -> None:
        """End it in the middle of a chunk that another thread waits for, which closes it."""
        self.killed = True
        if (child := self.child) is not None:
            child.process.kill()


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
        payload, gpus = payload_of(study), _gpus()
        count = min(self.workers or len(gpus) or cores(), len(tasks))
        yield from _shared(tasks, [Lasting(payload, gpus[i % len(gpus)] if gpus else None) for i in range(count)])


def _shared(tasks: Sequence[Task], workers: Sequence[Any]) -> Generator[Finished, None, None]:
    """Parts of several workers, each kept busy by a thread; or the error that one of them met."""
    deal, stop = Deal(tasks), threading.Event()
    found: queue.Queue[Finished | BaseException] = queue.Queue(AHEAD * len(workers))

    def work(worker: Any) -> None:
        cell: int | None = None
        try:
            while not stop.is_set() and (task := deal.next(cell)) is not None:
                found.put(worker.run(task))
                cell = task.cell
        except BaseException as error:
            if not stop.is_set():
                found.put(error)
        finally:
            worker.close()

    for worker in workers:
        threading.Thread(target=work, args=(worker,), daemon=True).start()
    try:
        for _ in tasks:
            part = found.get()
            if isinstance(part, BaseException):
                raise part
            yield part
    finally:
        stop.set()
        with suppress(queue.Empty):  # nobody takes parts any more: let threads that wait to hand one in go on
            while True:
                found.get_nowait()
        for worker in workers:
            worker.kill()


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
        seats = [Seat(study, device) for device in devices()]
        yield from map(seats[0].run, tasks) if len(seats) == 1 else _shared(tasks, seats)


class Seat:
    """A device of this process."""

    def __init__(self, study: Study, device: Any):
        self.bench, self.device, self.environment = Bench(study), device, environment(device)

    def run(self, task: Task) -> Finished:
        """Do a chunk."""
        try:
            return Finished(task, self.bench.run(task, self.device), self.environment)
        except Exception as error:
            raise StudyError(message_of(error, task, self.bench.study.cells)) from error

    def close(self) -> None:
        """It has nothing to end."""

    kill = close
