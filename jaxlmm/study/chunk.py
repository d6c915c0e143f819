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
from ..runtime.precision import float64
from .analyses import fitter_of
from .declare import Study, Task
from .drawing import Drawer, columns_of, drawer
from .estimate import FLAGS, FLOATS, STATUSES, Numbers, attempt
from .estimators import Row

MEMORY = 3e9  # bytes of a process above which compiled programs are dropped
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

    device = jax.local_devices()[0] if device is None else device
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
        device = jax.local_devices()[0] if device is None else device
        with jax.default_device(device), float64(), np.errstate(all="ignore"):
            return part_of(self.study, task, self.numbers(task))

    def numbers(self, task: Task) -> list[Numbers]:
        """Numbers of each estimator."""
        study = self.study
        if self.cell != task.cell:
            _forget()
            data = columns_of(study.data(task.cell))
            fitters = [fitter_of(study, e, task.cell, data) for e in study.estimators]
            self.cell, self.prepared = task.cell, (drawer(study, task.cell), fitters)
        draw, each = self.prepared
        drawn = draw(np.arange(task.lo, task.hi))
        return [attempt(fitter, drawn, task.hi - task.lo) for fitter in each]


def _forget() -> None:
    """Drop programs of earlier cells where they have piled up; cells of the same shape share theirs."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        if pages * os.sysconf("SC_PAGE_SIZE") > MEMORY:
            jax.clear_caches()


def part_of(study: Study, task: Task, numbers: Sequence[Numbers]) -> bytes:
    """Numbers as a Parquet file: rows of one estimator, test and target together, replicates ascending in each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, b = study.rows, task.hi - task.lo
    columns: dict[str, Any] = {
        "cell": pa.array(np.full(len(rows) * b, task.cell, np.int32)),
        "replicate": pa.array(np.tile(np.arange(task.lo, task.hi, dtype=np.int64), len(rows))),
    }
    for name in Row._fields:
        levels = list(dict.fromkeys(getattr(row, name) for row in rows))
        codes = np.repeat([levels.index(getattr(row, name)) for row in rows], b).astype(np.int32)
        columns[name] = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(levels, pa.string()))
    for name in FLOATS:
        columns[name] = pa.array(_canonical(np.concatenate([getattr(n, name).ravel() for n in numbers])))
    status = np.concatenate([n.status.ravel() for n in numbers]).astype(np.int32)
    columns["status"] = pa.DictionaryArray.from_arrays(pa.array(status), pa.array(STATUSES, pa.string()))
    for name in FLAGS:
        columns[name] = pa.array(np.concatenate([getattr(n, name).ravel() for n in numbers]))
    columns["message"] = _messages(numbers, b)
    sink = pa.BufferOutputStream()
    coded = [*Row._fields, "status", "message"]
    options = {"compression": "zstd", "use_dictionary": coded, "write_statistics": False, "write_page_checksum": True}
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue().to_pybytes()


def _messages(numbers: Sequence[Numbers], b: int) -> Any:
    """Why data sets have no numbers, null where there is nothing to say."""
    import pyarrow as pa

    words = list(dict.fromkeys(text for n in numbers for _, text in sorted(n.messages.items())))
    codes = [np.full((len(n.status), b), -1, np.int32) for n in numbers]
    for found, own in zip(numbers, codes, strict=True):
        for i, text in found.messages.items():
            own[found.status[:, i] > 0, i] = words.index(text)
    flat = np.concatenate([own.ravel() for own in codes])
    return pa.DictionaryArray.from_arrays(pa.array(flat, mask=flat < 0), pa.array(words, pa.string()))


def _canonical(values: np.ndarray) -> np.ndarray:
    """The same numbers with one kind of NaN: its bits are not those of the arithmetic that made it."""
    return np.where(np.isnan(values), np.nan, values)


def numbers_of(source: Any, rows: int, b: int | None = None) -> dict[str, np.ndarray]:
    """The arrays (rows, b) of a part, `status` as codes of `STATUSES`.

    Raises
    ------
    ValueError, OSError
        For a part that is damaged.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        if b is not None and file.metadata.num_rows != rows * b:
            raise ValueError(f"it has {file.metadata.num_rows} rows, expected {rows * b}")
        table = file.read(columns=[*FLOATS, "status", *FLAGS])
    out: dict[str, np.ndarray] = {name: table[name].to_numpy() for name in (*FLOATS, *FLAGS)}
    out["status"] = _codes(table["status"].combine_chunks())
    return {name: values.reshape(rows, -1) for name, values in out.items()}


def messages_of(source: Any) -> list[tuple[str, str, str, int]]:
    """Estimator, status, message and replicate of the rows of a part that have a message."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        table = file.read(columns=["estimator", "status", "message", "replicate"])
    table = table.filter(pc.is_valid(table["message"]))
    return list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True)) if len(table) else []


def _codes(array: Any) -> np.ndarray:
    """Codes of `STATUSES` of a dictionary array, whose own dictionary may be shorter."""
    places = np.array([STATUSES.index(word) for word in array.dictionary.to_pylist()], np.int8)
    return places[array.indices.to_numpy(zero_copy_only=False)]


def message_of(error: BaseException, task: Task, cells: Sequence[Mapping[str, Any]]) -> str:
    """What went wrong in a chunk, in one sentence."""
    known = isinstance(error, JaxlmmError)
    where = ", ".join(f"{k}={v!r}" for k, v in cells[task.cell].items())
    what = str(error) if known else f"{type(error).__name__}: {error}"
    return f"{task}{f' ({where})' if where else ''}: {what}"
