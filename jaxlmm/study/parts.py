"""The files of chunks: a row for each data set, estimator, test and target, in Parquet."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .declare import Task
from .estimate import FLAGS, FLOATS, STATUSES
from .estimators import Row


def part_of(rows: Sequence[Row], task: Task, numbers: Mapping[str, np.ndarray]) -> bytes:
    """Arrays (R, b) as a Parquet file: rows of one estimator, test and target together, replicates ascending."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    b = task.hi - task.lo
    columns: dict[str, Any] = {
        "cell": pa.array(np.full(len(rows) * b, task.cell, np.int32)),
        "replicate": pa.array(np.tile(np.arange(task.lo, task.hi, dtype=np.int64), len(rows))),
    }
    for name in Row._fields:
        levels = list(dict.fromkeys(getattr(row, name) for row in rows))
        codes = np.repeat([levels.index(getattr(row, name)) for row in rows], b).astype(np.int32)
        columns[name] = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(levels, pa.string()))
    for name in FLOATS:
        columns[name] = pa.array(_canonical(numbers[name].ravel()))
    status = numbers["status"].ravel().astype(np.int32)
    columns["status"] = pa.DictionaryArray.from_arrays(pa.array(status), pa.array(STATUSES, pa.string()))
    for name in FLAGS:
        columns[name] = pa.array(numbers[name].ravel())
    columns["message"] = pa.array(numbers["message"].ravel(), pa.string()).dictionary_encode()
    sink = pa.BufferOutputStream()
    coded = [*Row._fields, "status", "message"]
    options = {"compression": "zstd", "use_dictionary": coded, "write_statistics": False, "write_page_checksum": True}
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue().to_pybytes()


def merged(old: bytes, new: bytes, rows: Sequence[Row], task: Task) -> bytes:
    """A part with rows that came later: the same bytes as if all had been computed at once."""
    b = task.hi - task.lo
    before, after = (numbers_of(io.BytesIO(part), rows, b, messages=True) for part in (old, new))
    later = np.array([row.estimator in task.only for row in rows])[:, None]
    return part_of(rows, task, {name: np.where(later, after[name], before[name]) for name in before})


def _canonical(values: np.ndarray) -> np.ndarray:
    """The same numbers with one kind of NaN: its bits are not those of the arithmetic that made it."""
    return np.where(np.isnan(values), np.nan, values)


def _rows_in(table: Any, b: int) -> list[Row]:
    """The rows of a part, each of `b` data sets."""
    if len(table) % b:
        raise ValueError(f"it has {len(table)} rows, expected a multiple of {b}")
    return [Row(*row) for row in zip(*(table[name][::b].to_pylist() for name in Row._fields), strict=True)]


def lacking(source: Any, rows: Sequence[Row], b: int) -> tuple[str, ...]:
    """Estimators some of whose rows a part does not have; none where it is not a part of the study at all."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        if file.metadata.num_rows == len(rows) * b:
            return ()
        there = set(_rows_in(file.read(columns=list(Row._fields)), b))
    return tuple(dict.fromkeys(row.estimator for row in rows if row not in there)) if there < set(rows) else ()


def numbers_of(source: Any, rows: Sequence[Row], b: int, messages: bool = False) -> dict[str, np.ndarray]:
    """The arrays (R, b) of a part, `status` as codes of `STATUSES`; rows that it does not have yet are not run.

    Raises
    ------
    ValueError, OSError
        For a part that is damaged.
    """
    import pyarrow.parquet as pq

    words = ["message"] if messages else []
    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        if file.metadata.num_rows > len(rows) * b:
            raise ValueError(f"it has {file.metadata.num_rows} rows, expected {len(rows) * b}")
        table = file.read(columns=[*Row._fields, *FLOATS, "status", *FLAGS, *words])
    out: dict[str, np.ndarray] = {name: table[name].to_numpy() for name in (*FLOATS, *FLAGS)}
    out["status"] = _codes(table["status"].combine_chunks())
    out |= {name: np.array(table[name].to_pylist(), object) for name in words}
    there = _rows_in(table, b)
    out = {name: values.reshape(len(there), b) for name, values in out.items()}
    if there == list(rows):
        return out
    if not set(there) <= set(rows):
        raise ValueError("it has rows of another study")
    empty: dict[str, Any] = {**dict.fromkeys(FLOATS, np.nan), **dict.fromkeys(FLAGS, False), "message": None}
    place = np.array([there.index(row) if row in there else -1 for row in rows])
    lost = (place < 0)[:, None]
    empty["status"] = STATUSES.index("not_run")
    return {name: np.where(lost, empty[name], values[place]) for name, values in out.items()}


def messages_of(source: Any) -> list[tuple[str, str, str, int]]:
    """Estimator, status, message and replicate of the rows of a part that have a message."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        table = file.read(columns=["estimator", "status", "message", "replicate"])
    table = table.filter(pc.is_valid(table["message"]))
    return list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))


def _codes(array: Any) -> np.ndarray:
    """Codes of `STATUSES` of a dictionary array, whose own dictionary may be shorter."""
    places = np.array([STATUSES.index(word) for word in array.dictionary.to_pylist()], np.int8)
    return places[array.indices.to_numpy(zero_copy_only=False)]
