"""Columns of data frames (by narwhals), NumPy and lists, read as numbers or as factors of their exact values.

Neither narwhals nor a frame library is imported before one of its objects is met.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np

from ..errors import DataError
from .factors import Column, distinct, factor
from .levels import key_of, sort_keys, time_keys

_CONTAINERS = (list, tuple, dict, set, complex, np.ndarray)
_NUMBERS = (int, float, Decimal, np.integer, np.floating)


def library_of(value: object) -> str:
    """Return the package that an object's type comes from, pandas for the Series and frames that are built on it."""
    libraries = [kind.__module__.partition(".")[0] for kind in type(value).__mro__]
    return "pandas" if "pandas" in libraries else libraries[0]


def narwhals_for(library: str) -> Any:
    """The module narwhals, where there may be data frames of the library; else None.

    Raises
    ------
    ImportError
        Where there are and narwhals is missing, with the command that installs it.
    """
    if library in ("builtins", "numpy", "jax", "jaxlib"):
        return None
    try:
        import narwhals
    except ImportError as error:
        if library in ("pandas", "polars", "pyarrow"):
            raise ImportError(f"data frames of {library} need narwhals: pip install 'jaxlmm[formula]'") from error
        return None
    return narwhals


def read_column(name: str, values: Any) -> Column:
    """Read a Series, an array or a list as a `Column`; one that is one already is returned.

    Raises
    ------
    DataError
        For values that are neither numbers nor can be levels.
    """
    if isinstance(values, Column):
        return values
    try:
        series = _series_of(values)
        return _read_array(name, as_array(name, values)) if series is None else _read_series(name, series)
    except DataError as error:
        if repr(name) in str(error):
            raise
        raise DataError(f"column {name!r}: {error}") from None


# -- NumPy and lists


def as_array(name: str, values: Any) -> np.ndarray:
    """An array; a list as objects where NumPy would change values, as 1 beside "1" or 2**60 beside 0.5."""
    if isinstance(values, np.ndarray):
        return values
    try:
        array = np.asarray(values)
    except ValueError:
        raise DataError(f"column {name!r} must have one dimension") from None
    if array.ndim != 1 or hasattr(values, "__array__"):
        return array
    with np.errstate(invalid="ignore"):
        is_rounded = array.dtype.kind == "f" and bool(np.any(np.abs(array) >= 2.0**53))
    return _objects(values) if is_rounded or array.dtype.kind in "US" else array


def _objects(values: Iterable[Any]) -> np.ndarray:
    return np.array([*values, None], dtype=object)[:-1]  # None keeps NumPy from looking into the values


def _read_array(name: str, array: np.ndarray) -> Column:
    if array.ndim != 1:
        raise DataError(f"column {name!r} must have one dimension, got shape {array.shape}")
    if isinstance(array, np.ma.MaskedArray):
        absent = np.ma.getmaskarray(array)
        return _with_gaps(_read_array(name, np.asarray(array.data)[~absent]), absent)
    kind = array.dtype.kind
    if kind in "iuf":
        array = array.astype(np.float64) if array.dtype == np.longdouble else array
        missing = np.isnan(array) if kind == "f" else None
        return Column(name, "number", array, missing=_or_none(missing))
    if kind == "b":
        return Column(name, "logical", array)
    if kind in "US":
        unique, codes = np.unique(array, return_inverse=True)
        return factor(name, codes, [key_of(v) for v in unique.tolist()], is_ordered=False)
    if kind in "Mm":
        return _read_times(name, array)
    if kind in "OT":
        return _read_objects(name, array.astype(object))
    raise DataError(f"column {name!r} has type {array.dtype}, which is neither numbers nor text")


def _read_objects(name: str, array: np.ndarray) -> Column:
    """Read Python objects: all numbers give numbers, anything else a factor of their values."""
    types = set(map(type, array))
    is_text = types <= {str, type(None)}
    missing = np.array([v is None if is_text else _is_missing(v) for v in array], dtype=bool)
    present = array[~missing]
    types = set(map(type, present))
    if types and all(issubclass(t, (bool, np.bool_)) for t in types):
        return _with_gaps(Column(name, "logical", present.astype(bool)), missing)
    if all(map(_is_of_numbers, types)):
        return _with_gaps(_read_numbers(name, present), missing)
    wrong = [t.__name__ for t in types if issubclass(t, _CONTAINERS)]
    if wrong:
        raise DataError(f"column {name!r} holds {wrong[0]} objects, neither numbers nor text")
    codes, keys = distinct(array, missing)
    is_time = all(kind in ("time", "instant", "duration", "clock") or kind.endswith(".Period") for kind, _ in keys)
    return factor(name, codes, keys, missing, "time" if is_time else "factor", is_ordered=is_time)


def _read_numbers(name: str, values: np.ndarray) -> Column:
    """Read Python numbers; `exact` has those that floats would round."""
    if len(values) and all(isinstance(v, int | np.integer) for v in values):
        low, high = min(values), max(values)
        for kind in (np.int64, np.uint64):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return Column(name, "number", values.astype(kind))
    try:
        floats = values.astype(np.float64)
    except OverflowError:
        raise DataError(f"column {name!r} holds a number that is too large for a float") from None
    keys = map(key_of, values)
    is_exact = all(key == ("number", number) for key, number in zip(keys, floats.tolist(), strict=True))
    is_large = any(abs(v) >= 2**53 and not isinstance(v, float | np.floating) for v in values)
    return Column(name, "number", floats, exact=values if is_large or not is_exact else None)


def _is_of_numbers(kind: type) -> bool:
    """Whether objects are numbers: those of Python, and others that are one float, such as fractions."""
    return issubclass(kind, _NUMBERS) or (
        hasattr(kind, "__float__") and not issubclass(kind, (np.generic, *_CONTAINERS))
    )


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, Decimal):
        return value.is_nan()
    return isinstance(value, (float, np.floating, np.datetime64, np.timedelta64)) and bool(value != value)


def _or_none(missing: np.ndarray | None) -> np.ndarray | None:
    return missing if missing is not None and missing.any() else None


def _with_gaps(column: Column, absent: np.ndarray) -> Column:
    """The column of all rows from that of those which are there."""
    if not absent.any():
        return column
    empty = np.nan if column.values.dtype.kind == "f" else 0 if column.is_number else -1
    values = np.full(len(absent), empty, dtype=column.values.dtype)
    values[~absent] = column.values
    missing = absent.copy()
    missing[~absent] |= False if column.missing is None else column.missing
    exact = None
    if column.exact is not None:
        exact = np.full(len(absent), None, dtype=object)
        exact[~absent] = column.exact
    return replace(column, values=values, missing=missing, exact=exact)


def _read_times(name: str, array: np.ndarray, kind: str | None = None) -> Column:
    absent = np.isnat(array)
    unique, codes = np.unique(array[~absent], return_inverse=True)
    return _with_gaps(factor(name, codes, time_keys(unique, kind), kind="time"), absent)


def _read_categories(name: str, codes: np.ndarray, categories: Iterable[Any], is_ordered: bool) -> Column:
    """Read codes into categories in an order that was given, or is that of sorting."""
    keys = [key_of(value) for value in categories]
    known = is_ordered or any(kind != "text" for kind, _ in keys) or keys != sort_keys(keys)
    return factor(name, codes, keys, sort=False, is_ordered=known, is_declared=True, is_ordinal=is_ordered)


# -- data frames


def _series_of(values: Any) -> Any:
    """A column of a data frame as narwhals' Series; None for anything else."""
    library = library_of(values)
    nw = narwhals_for(library)
    if nw is None:
        return None
    if library == "pandas" and values.ndim == 1:
        import pandas

        values = pandas.Series(values)
    elif library == "pyarrow" and not hasattr(values, "chunks"):
        import pyarrow

        values = pyarrow.chunked_array([values])
    found = nw.from_native(values, allow_series=True, eager_only=True, pass_through=True)
    return found if isinstance(found, nw.Series) else None


def _read_series(name: str, series: Any) -> Column:
    import narwhals as nw

    dtype, own = series.dtype, getattr(series.to_native(), "dtype", None)
    if isinstance(own, np.dtype):  # narwhals takes objects for text
        return _read_array(name, series.to_numpy())
    if type(own).__name__ == "ArrowDtype":
        return read_column(name, series.to_arrow())
    missing = _or_none(series.is_null().to_numpy())
    if isinstance(dtype, nw.Categorical) and series.implementation.is_polars():
        return replace(_read_coded(name, series.cast(nw.String)), is_declared=True)
    if isinstance(dtype, nw.String | nw.Categorical | nw.Enum):
        return _read_coded(name, series)
    if dtype.is_integer() and not isinstance(dtype, nw.Int128 | nw.UInt128):
        return Column(name, "number", series.fill_null(0).to_numpy(), missing=missing)
    if dtype.is_float():
        return _read_array(name, series.to_numpy())  # NaN where there is none
    if isinstance(dtype, nw.Boolean):
        return Column(name, "logical", series.fill_null(False).to_numpy().astype(bool), missing=missing)
    if not dtype.is_temporal():
        return _read_objects(name, _objects(series.to_list()))
    kind = None
    if isinstance(dtype, nw.Time):
        series, kind = series.cast(nw.Time).cast(nw.Int64).cast(nw.Duration("ns")), "clock"
    elif getattr(dtype, "time_zone", None):
        series, kind = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None), "instant"
    return _read_times(name, series.to_numpy(), kind)


def _read_coded(name: str, series: Any) -> Column:
    """Read text and categories; narwhals gives neither codes nor categories that are no text."""
    import narwhals as nw

    native, is_text = series.to_native(), isinstance(series.dtype, nw.String)
    if series.implementation.is_pyarrow():
        import pyarrow as pa

        array = (native.cast(pa.large_string()).dictionary_encode() if is_text else native).combine_chunks()
        levels = array.dictionary.to_pylist()
        if any(map(_is_missing, levels)):
            return read_column(name, array.dictionary_decode())
        codes = np.asarray(array.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int32)
        if not array.type.ordered:
            return factor(name, codes, [key_of(v) for v in levels], is_ordered=False, is_declared=not is_text)
        return _read_categories(name, codes, levels, True)
    if is_text:
        native = series.cast(nw.Enum(series.drop_nulls().unique().sort().to_list())).to_native()
    if series.implementation.is_polars():
        codes, levels, is_ordered = native.to_physical().cast(int).fill_null(-1), native.dtype.categories, True
    else:
        native = native.to_pandas() if hasattr(native, "to_pandas") else native  # of modin and the like
        codes, levels, is_ordered = native.cat.codes, native.cat.categories, bool(native.cat.ordered)
    if is_text:
        return factor(name, codes.to_numpy(), [key_of(v) for v in levels], is_ordered=False)
    return _read_categories(name, codes.to_numpy(), levels, is_ordered)
