"""Responses whose rows come in chunks, from files of a row an observation: their sufficient statistics are sums."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import numbers_of
from ..errors import DataError
from ..frames.alignment import mask_of
from ..tolerances import CANCELLED
from .chunks import CHUNK_FLOATS


def summed(K: Any, X: np.ndarray, inner: np.ndarray, shift: Any, root: Any, source: Any, columns: Any) -> np.ndarray:
    """Rows (b, k + 1) of a reduced model: K y, orthonormal coordinates of responses y (n,), and the length of the rest.

    Parameters
    ----------
    K : (k, n) sparse or dense;  X : (n, p) in its span, ``inner`` (k, p) being K X
    root, shift : (n,) factor of the rows and what is then taken from them, or None
    source, columns : see ``SufficientStatistics.fit_rows``
    """
    n = len(X)
    chunks = chunks_of(source, columns)
    first: Any = None
    total: Any = 0.0
    square: Any = 0.0
    at = 0

    def prepared() -> Iterator[tuple[slice, Any]]:
        start = 0
        for chunk in chunks():
            chunk, mask = chunk.toarray() if hasattr(chunk, "toarray") else chunk, mask_of(chunk)
            chunk = chunk if mask is None else np.where(mask, np.nan, np.ma.getdata(chunk))
            chunk = np.atleast_2d(numbers_of("source", chunk, "chunks of numbers (m, b)"))
            rows = slice(start, start + len(chunk))
            if rows.stop > n:
                raise DataError(f"source: expected {n} rows in all, found more")
            chunk = chunk if root is None else chunk * root[rows, None]
            yield rows, chunk if shift is None else chunk - shift[rows, None]
            start = rows.stop

    def less(rows: slice, chunk: np.ndarray) -> np.ndarray:
        """Without what X explains of the first chunk, so that squares are of what differs."""
        return chunk - X[rows] @ first

    for rows, chunk in prepared():
        if first is None:
            first = np.linalg.lstsq(X[rows], np.where(np.isfinite(chunk), chunk, 0.0), rcond=None)[0]
        if chunk.shape[1] != first.shape[1]:
            raise DataError(f"source: expected {first.shape[1]} responses in every chunk, found {chunk.shape[1]}")
        left = less(rows, chunk)
        total, square, at = total + K[:, rows] @ left, square + np.sum(left**2, 0), rows.stop
    if at != n:
        raise DataError(f"source: expected {n} rows in all, found {at}")
    with np.errstate(invalid="ignore"):
        rest = square - np.sum(total**2, 0)
        doubtful = np.flatnonzero(~(rest > CANCELLED * square) & np.isfinite(square))
    if len(doubtful):
        if not isinstance(source, str | os.PathLike) and iter(source) is source:
            raise DataError(
                f"source: {len(doubtful)} responses lie so near to the span of the design that their rows have to be "
                "read twice; give a list of chunks or a file, not an iterator"
            )
        rest[doubtful] = 0.0
        for rows, chunk in prepared():
            rest[doubtful] += np.sum((less(rows, chunk)[:, doubtful] - K[:, rows].T @ total[:, doubtful]) ** 2, 0)
    return np.concatenate([total + inner @ first, np.sqrt(np.maximum(rest, 0.0))[None]]).T


def chunks_of(source: Any, columns: Sequence[str] | None) -> Callable[[], Iterator[Any]]:
    """What begins to read the chunks of rows."""
    if not isinstance(source, str | os.PathLike):
        if columns is not None:
            raise DataError("columns: expected only with a file")
        if not isinstance(source, Iterable):
            raise DataError(f"source: found {type(source).__name__}, expected a Parquet file or chunks of rows (m, b)")
        return lambda: iter(source)
    if not find_spec("pyarrow"):
        raise ImportError("reading Parquet files needs pyarrow: pip install 'jaxlmm[parquet]'")
    from pyarrow import parquet

    if not Path(source).is_file():
        raise DataError(f"source: there is no file {os.fspath(source)!r}")

    def read() -> Iterator[np.ndarray]:
        with parquet.ParquetFile(source) as file:
            names = list(file.schema_arrow.names if columns is None else columns)
            if unknown := [name for name in names if name not in file.schema_arrow.names]:
                raise DataError(f"columns: {unknown[0]!r} is not in {os.fspath(source)!r}")
            size = max(1, int(CHUNK_FLOATS // max(len(names), 1)))
            for batch in file.iter_batches(batch_size=size, columns=names):
                yield np.column_stack([batch.column(name).to_numpy(zero_copy_only=False) for name in names])

    return read
