"""One chunk of a study, from keys to the bytes of its part: a pure function of the study and the task."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..errors import JaxlmmError
from ..runtime.devices import devices
from ..runtime.precision import float64
from .applying import attempt, fitter_of
from .declare import Study, Task
from .drawing import Drawer, columns_of, completed, drawer
from .estimate import FLAGS, FLOATS, Numbers
from .parts import part_of

SHARE, LEAST = 0.6, 1e9  # of the machine's memory over its cores, and bytes, above which programs are dropped
# What makes a process work with one thread; NPROC is read by XLA, the others by the BLAS of NumPy and SciPy.
ONE_THREAD = {"NPROC": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
XLA_FLAGS = ("--xla_cpu_multi_thread_eigen=false", "--xla_gpu_deterministic_ops=true")
SINGLE = "JAXLMM_STUDY_ONE_THREAD"  # says that a process was started with all of these


def one_thread() -> dict[str, str]:
    """Environment variables of a process in which numbers do not depend on the number of cores."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    return {**ONE_THREAD, SINGLE: "1", "XLA_FLAGS": " ".join([*flags, *(f for f in XLA_FLAGS if f not in flags)])}


def is_one_thread() -> bool:
    """Whether this process was started so."""
    return os.environ.get(SINGLE) == "1"


def environment(device: Any = None) -> dict[str, Any]:
    """What the last bits of numbers depend on, beside the study."""
    import jaxlib
    import pyarrow
    import scipy

    device = devices()[0] if device is None else device
    return {
        "jaxlmm": version("jaxlmm"),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "pyarrow": pyarrow.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device.device_kind,
        "threads": 1 if is_one_thread() else "any",
        "dtype": "float64",
    }


class Bench:
    """Does the chunks of a study, one device and one thread each; keeps what the last cell had to prepare."""

    def __init__(self, study: Study):
        self.study = study
        self.cell: int | None = None
        self.prepared: tuple[Drawer, Sequence[Any]]

    def run(self, task: Task, device: Any = None) -> bytes:
        """The part of a task, as the bytes of a Parquet file."""
        device = devices()[0] if device is None else device
        with jax.default_device(device), float64(), np.errstate(all="ignore"):
            rows = [row for row in self.study.rows if not task.only or row.estimator in task.only]
            return part_of(rows, task, columns_of_numbers(self.numbers(task)))

    def numbers(self, task: Task) -> list[Numbers]:
        """Numbers of each estimator."""
        study = self.study
        is_new, b = self.cell != task.cell, task.hi - task.lo
        if is_new:
            _forget()
        draw = drawer(study, task.cell) if is_new else self.prepared[0]
        drawn = draw(np.arange(task.lo, task.hi))
        if is_new:
            data = columns_of(study.data(task.cell))
            data = completed(data, drawn, draw, study.response)
            fitters = [fitter_of(study, e, task.cell, data) for e in study.estimators]
            self.cell, self.prepared = task.cell, (draw, fitters)
        each = self.prepared[1]
        return [attempt(f, drawn, b) for f in each if not task.only or f.estimator.name in task.only]


def _forget() -> None:
    """Drop programs of earlier cells where they have piled up; cells of the same shape share theirs."""
    with suppress(OSError):
        pages, size = int(Path("/proc/self/statm").read_text().split()[1]), os.sysconf("SC_PAGE_SIZE")
        most = SHARE * os.sysconf("SC_PHYS_PAGES") / (os.cpu_count() or 1)
        if pages * size > max(most * size, LEAST):
            jax.clear_caches()


def columns_of_numbers(numbers: Sequence[Numbers]) -> dict[str, np.ndarray]:
    """Numbers of estimators one below the other: arrays (R, b), `status` as codes, messages as words."""
    out = {name: np.concatenate([getattr(n, name) for n in numbers]) for name in (*FLOATS, "status", *FLAGS)}
    out["message"] = np.full(out["status"].shape, None, object)
    first = 0
    for found in numbers:
        own = out["message"][first : first + len(found.status)]
        for i, text in found.messages.items():
            own[found.status[:, i] > 0, i] = text
        first += len(own)
    return out


def message_of(error: BaseException, task: Task, cells: Sequence[Mapping[str, Any]]) -> str:
    """What went wrong in a chunk, in one sentence."""
    known = isinstance(error, JaxlmmError)
    where = ", ".join(f"{k}={v!r}" for k, v in cells[task.cell].items())
    what = str(error) if known else f"{type(error).__name__}: {error}"
    return f"{task}{f' ({where})' if where else ''}: {what}"
