"""Responses whose rows come in chunks, from files of a row an observation: their sufficient statistics are sums."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import numbers_of
from ..errors import DataError
from ..frames.alignment import mask_of
from ..frames.columns import library_of
from ..frames.files import read_as
from ..tolerances import CANCELLED
from .chunks import CHUNK_FLOATS


@np.errstate(invalid="ignore")  # of responses that are not finite
def summed(K: Any, X: np.ndarray, inner: np.ndarray, shift: Any, root: Any, source: Any, columns: Any) -> np.ndarray:
    """Rows (b, k + 1) of a reduced model: K y, orthonormal coordinates of responses y (n,), and the length of the rest.

    Parameters
    ----------
    K : (k, n) sparse or dense;  X : (n, p) in its span, ``inner`` (k, p) being K X
    root, shift : (n,) factor of the rows and what is then taken from them, or None
    source, columns : see ``SufficientStatistics.fit_rows``
    """
    n, p = X.shape
    chunks = chunks_of(source, columns)
    less = X if shift is None else np.column_stack([X, shift])  # what is taken away, times `first` and one
    first: Any = None
    total: Any = 0.0
    square: Any = 0.0
    size: Any = 0.0  # of what `square` is a difference of
    at = 0

    def prepared() -> Iterator[tuple[slice, Any]]:
        start = 0
        for chunk in chunks():
            chunk = sparse_numbers("source", chunk) if is_sparse(chunk) else _numbers(chunk)
            rows = slice(start, start + chunk.shape[0])
            if rows.stop > n:
                raise DataError(f"source: expected {n} rows in all, found more")
            if is_sparse(chunk):
                chunk.data = chunk.data if root is None else chunk.data * np.repeat(root[rows], np.diff(chunk.indptr))
            else:
                chunk = chunk if root is None else chunk * root[rows, None]
            yield rows, chunk
            start = rows.stop

    for rows, chunk in prepared():
        D, own = less[rows], K[:, rows]
        if first is None:  # of what X explains of the first chunk, so that squares are of what differs
            sparse = is_sparse(chunk)
            y = np.zeros(chunk.shape) if sparse else np.where(np.isfinite(chunk), chunk, 0.0) - D[:, p:].sum(1)[:, None]
            first = np.linalg.lstsq(D[:, :p], y, rcond=None)[0]
            first = np.concatenate([first, np.ones((less.shape[1] - p, chunk.shape[1]))])
        if chunk.shape[1] != first.shape[1]:
            raise DataError(f"source: expected {first.shape[1]} responses in every chunk, found {chunk.shape[1]}")
        if is_sparse(chunk):
            whole, mean = (chunk * chunk).sum(0), first * (D.T @ D @ first)
            total = total + (own @ chunk).toarray() - (own @ D) @ first
            square = square + whole - 2.0 * np.sum(first * (chunk.T @ D).T, 0) + np.sum(mean, 0)
            size = size + whole + np.sum(mean, 0)
        else:
            left = chunk - D @ first
            whole = np.sum(left**2, 0)
            total, square, size = total + own @ left, square + whole, size + whole
        at = rows.stop
    if at != n:
        raise DataError(f"source: expected {n} rows in all, found {at}")
    rest = square - np.sum(total**2, 0)
    doubtful = np.flatnonzero(~(rest > CANCELLED * size) & np.isfinite(square))
    if len(doubtful):
        if not isinstance(source, str | os.PathLike) and iter(source) is source:
            raise DataError(
                f"source: {len(doubtful)} responses lie so near to the span of the design that their rows have to be "
                "read twice; give a list of chunks or a file, not an iterator"
            )
        rest[doubtful] = 0.0
        again = np.zeros_like(total)
        for rows, chunk in prepared():
            many = max(1, int(CHUNK_FLOATS // max(chunk.shape[0], 1)))
            for own in (doubtful[i : i + many] for i in range(0, len(doubtful), many)):
                y = chunk[:, own].toarray() if is_sparse(chunk) else chunk[:, own]
                left = y - less[rows] @ first[:, own] - K[:, rows].T @ total[:, own]
                rest[own] += np.sum(left**2, 0)
                again[:, own] += K[:, rows] @ left
        total, rest = total + again, rest - np.sum(again**2, 0)
    return np.concatenate([total + inner @ first[:p], np.sqrt(np.maximum(rest, 0.0))[None]]).T


def _numbers(chunk: Any) -> np.ndarray:
    """A chunk of rows as floats (m, b), NaN where it is masked."""
    mask = mask_of(chunk)
    chunk = chunk if mask is None else np.where(mask, np.nan, np.ma.getdata(chunk))
    return np.atleast_2d(numbers_of("source", chunk, "chunks of numbers (m, b)"))


def is_sparse(Y: Any) -> bool:
    """Whether it is a matrix of scipy.sparse, which need not be imported to say no."""
    return type(Y).__module__.startswith("scipy.sparse")


def sparse_numbers(name: str, Y: Any) -> Any:
    """A CSR array of floats of its own, each entry once, from any sparse matrix of numbers."""
    from scipy.sparse import csr_array

    if Y.ndim != 2 or Y.dtype.kind not in "biuf":
        raise DataError(f"{name}: found a sparse array of {Y.dtype}, {Y.ndim}-d, expected matrices of numbers")
    found = csr_array(Y, dtype=np.float64)
    if not found.has_canonical_format:
        found = found.copy()  # it may share its numbers with the matrix given
        found.sum_duplicates()
    return csr_array((found.data, found.indices, found.indptr), shape=found.shape)


def is_table(value: Any) -> bool:
    """Whether it is a data frame, whose `numpy.asarray` are its numbers."""
    return library_of(value) in ("pandas", "polars", "pyarrow") and hasattr(value, "shape")


def chunks_of(source: Any, columns: Sequence[str] | None) -> Callable[[], Iterator[Any]]:
    """What begins to read the chunks of rows."""
    if not isinstance(source, str | os.PathLike):
        if columns is not None:
            raise DataError("columns: expected only with a file")
        if len(shape := getattr(source, "shape", ())) != 2:
            if not isinstance(source, Iterable) or isinstance(source, Mapping | Set | bytes):
                kind = type(source).__name__
                raise DataError(f"source: found {kind}, expected a Parquet file or chunks of rows (m, b)")
            return lambda: iter(source)
        whole = source.tocsr() if is_sparse(source) else np.asarray(source) if is_table(source) else source
        many = max(1, int(CHUNK_FLOATS // max(shape[1], 1)))
        return lambda: (whole[i : i + many] for i in range(0, shape[0], many))
    if not find_spec("pyarrow"):
        raise ImportError("reading Parquet files needs pyarrow: pip install 'jaxlmm[parquet]'")
    from pyarrow import parquet

    path = Path(source)
    if not path.is_file():
        raise DataError(f"source: there is no file {str(path)!r}")
    with read_as(path, "Parquet", lambda: parquet.ParquetFile(path)) as file:
        names = _columns(file.schema_arrow, [columns] if isinstance(columns, str) else columns, str(path))

    def read() -> Iterator[np.ndarray]:
        with parquet.ParquetFile(path) as file:
            size = max(1, int(CHUNK_FLOATS // len(names)))
            for batch in file.iter_batches(batch_size=size, columns=names):
                yield np.column_stack([batch.column(name).to_numpy(zero_copy_only=False) for name in names])

    return read


def _columns(schema: Any, columns: Sequence[str] | None, path: str) -> list[str]:
    """Names of the columns of a file, all of numbers; an index of pandas is none of them unless it is asked for."""
    from pyarrow import types

    index = (schema.pandas_metadata or {}).get("index_columns", ())
    names = [name for name in schema.names if name not in index] if columns is None else list(columns)
    if not names:
        raise DataError(f"columns: expected at least one column of {path!r}, found none")
    for name in names:
        if (count := schema.names.count(name)) != 1:
            raise DataError(f"columns: {name!r} is {'not' if not count else f'{count} times'} in {path!r}")
        kind = schema.field(name).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        is_one = (types.is_floating, types.is_integer, types.is_boolean, types.is_decimal, types.is_null)
        if not any(are(kind) for are in is_one):
            raise DataError(f"columns: {name!r} of {path!r} holds {kind}, expected numbers; give columns=")
    return names
