"""Columns of pandas, polars, pyarrow, NumPy and lists, read as numbers or as factors of their exact values.

None of the frame libraries is imported before one of its objects is met: these are recognised by the module of their
type.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np

from ..errors import DataError
from .factors import Column, distinct, factor
from .levels import Key, key_of, sort_keys, time_keys, unit_keys

_CONTAINERS = (list, tuple, dict, set, complex, np.ndarray)
_NUMBERS = (int, float, Decimal, np.integer, np.floating)


def library_of(value: object) -> str:
    """Return the package that an object's type comes from, pandas for the Series and frames that are built on it."""
    libraries = [kind.__module__.partition(".")[0] for kind in type(value).__mro__]
    return "pandas" if "pandas" in libraries else libraries[0]


def read_column(name: str, values: Any) -> Column:
    """Read a Series, an array or a list as a `Column`; one that is one already is returned.

    Raises
    ------
    DataError
        For values that are neither numbers nor can be levels.
    """
    if isinstance(values, Column):
        return values
    reader = {"pandas": _read_pandas, "polars": _read_polars, "pyarrow": _read_arrow}.get(library_of(values))
    try:
        return reader(name, values) if reader else _read_array(name, as_array(name, values))
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
        absent = np.isnat(array)
        unique, codes = np.unique(array[~absent], return_inverse=True)
        return _with_gaps(factor(name, codes, time_keys(unique), kind="time"), absent)
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
    if all(issubclass(t, _NUMBERS) for t in types):
        return _with_gaps(_read_numbers(name, present), missing)
    wrong = [t.__name__ for t in types if issubclass(t, _CONTAINERS)]
    if wrong:
        raise DataError(f"column {name!r} holds {wrong[0]} objects, neither numbers nor text")
    codes, keys = distinct(array, missing)
    is_time = all(kind in ("time", "instant", "duration", "clock") for kind, _ in keys)
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


def _read_times(name: str, counts: np.ndarray, absent: np.ndarray | None, unit: str, kind: str) -> Column:
    """Read counts of a unit since an origin."""
    absent = np.zeros(len(counts), dtype=bool) if absent is None else absent
    unique, codes = np.unique(counts[~absent].astype(np.int64), return_inverse=True)
    return _with_gaps(factor(name, codes, unit_keys(unique, unit, kind), kind="time"), absent)


def _read_categories(name: str, codes: np.ndarray, categories: Iterable[Any], is_ordered: bool) -> Column:
    """Read codes into categories in an order that was given, or is that of sorting."""
    keys = [key_of(value) for value in categories]
    known = is_ordered or keys != _alphabetical(keys)
    return factor(name, codes, keys, sort=False, is_ordered=known, is_declared=True, is_ordinal=is_ordered)


def _alphabetical(keys: list[Key]) -> list[Key]:
    return sort_keys(keys) if all(kind == "text" for kind, _ in keys) else []


# -- pandas


def _read_pandas(name: str, values: Any) -> Column:
    import pandas

    if getattr(values, "dtype", None) is None:  # a frame: two columns of this name
        raise DataError(f"the data have more than one column named {name!r}; give them different names")
    series = values if isinstance(values, pandas.Series) else pandas.Series(values)
    dtype = series.dtype
    kind = getattr(dtype, "kind", "O")
    if isinstance(dtype, np.dtype):
        return _read_array(name, series.to_numpy())
    if isinstance(dtype, pandas.CategoricalDtype):
        return _read_categories(name, series.cat.codes.to_numpy(), dtype.categories, bool(dtype.ordered))
    if isinstance(dtype, pandas.SparseDtype):
        return _read_array(name, np.asarray(series))
    if isinstance(dtype, pandas.ArrowDtype):
        import pyarrow as pa

        return _read_arrow(name, pa.array(series))
    missing = np.asarray(series.isna(), dtype=bool)
    if kind in "iu":
        return Column(name, "number", series.to_numpy(dtype=f"{kind}8", na_value=0), missing=_or_none(missing))
    if kind == "f":
        array = series.to_numpy(dtype=np.float64, na_value=np.nan)
        return Column(name, "number", array, missing=_or_none(missing | np.isnan(array)))
    if kind == "b":
        return Column(name, "logical", series.to_numpy(dtype=bool, na_value=False), missing=_or_none(missing))
    if isinstance(dtype, pandas.DatetimeTZDtype):
        array = series.dt.tz_convert(None).to_numpy()
        return _read_times(name, array.astype(np.int64), missing, np.datetime_data(array.dtype)[0], "instant")
    codes, levels = series.factorize()
    return factor(name, codes, [key_of(v) for v in levels], is_ordered=False)


# -- polars


def _read_polars(name: str, values: Any) -> Column:
    dtype = values.dtype
    kind = str(dtype.base_type()).lower()
    missing = values.is_null().to_numpy() if values.null_count() else None
    if dtype.is_decimal() or kind in ("int128", "uint128", "object", "null", "binary"):
        return _read_objects(name, _objects(values.to_list()))
    if dtype.is_integer():
        return Column(name, "number", values.fill_null(0).to_numpy(), missing=missing)
    if dtype.is_numeric():
        return _read_array(name, values.to_numpy())  # nulls come as NaN
    if kind == "boolean":
        return Column(name, "logical", values.fill_null(False).to_numpy().astype(bool), missing=missing)
    if kind == "enum":
        codes = values.to_physical().cast(int).fill_null(-1).to_numpy()
        return _read_categories(name, codes, dtype.categories.to_list(), True)
    if kind in ("string", "categorical"):
        text = values.cast(str) if kind == "categorical" else values
        levels = text.drop_nulls().unique(maintain_order=True)
        codes = text.rank("dense").cast(int).fill_null(0).to_numpy() - 1
        keys = [key_of(v) for v in sorted(levels.to_list())]
        return factor(name, codes, keys, is_ordered=False, is_declared=kind == "categorical")
    if dtype.is_temporal():
        unit = {"date": "D", "time": "ns"}.get(kind) or dtype.time_unit
        what = {"date": "time", "time": "clock", "duration": "duration"}.get(kind) or (
            "instant" if dtype.time_zone else "time"
        )
        return _read_times(name, values.to_physical().fill_null(0).to_numpy(), missing, unit, what)
    raise DataError(f"column {name!r} has polars type {dtype}, which is neither numbers nor text")


# -- pyarrow


def _read_arrow(name: str, values: Any) -> Column:
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    kind, types = values.type, pa.types
    missing = _or_none(np.asarray(values.is_null().to_numpy(zero_copy_only=False), dtype=bool))
    if types.is_integer(kind):
        return Column(name, "number", values.fill_null(0).to_numpy(zero_copy_only=False), missing=missing)
    if types.is_floating(kind):
        return _read_array(name, values.to_numpy(zero_copy_only=False))
    if types.is_boolean(kind):
        array = values.fill_null(False).to_numpy(zero_copy_only=False)
        return Column(name, "logical", np.asarray(array, dtype=bool), missing=missing)
    if types.is_date(kind) or types.is_timestamp(kind) or types.is_time(kind) or types.is_duration(kind):
        narrow = types.is_date32(kind) or types.is_time32(kind)
        counts = values.cast(pa.int32() if narrow else pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        unit = "D" if types.is_date32(kind) else "ms" if types.is_date64(kind) else kind.unit
        what = "clock" if types.is_time(kind) else "duration" if types.is_duration(kind) else "time"
        what = "instant" if types.is_timestamp(kind) and kind.tz else what
        return _read_times(name, counts, missing, unit, what)
    if types.is_dictionary(kind):
        levels = values.dictionary.to_pylist()
        if any(_is_missing(level) for level in levels):
            return _read_arrow(name, values.cast(kind.value_type))
        codes = np.asarray(values.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int32)
        if kind.ordered:
            return _read_categories(name, codes, levels, True)
        return factor(name, codes, [key_of(v) for v in levels], is_ordered=False, is_declared=True)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return replace(_read_arrow(name, values.cast(pa.large_string()).dictionary_encode()), is_declared=False)
    is_uuid = getattr(kind, "extension_name", "") == "arrow.uuid"
    if is_uuid or types.is_null(kind) or types.is_decimal(kind) or "binary" in str(kind):
        return _read_objects(name, _objects(values.to_pylist()))
    raise DataError(f"column {name!r} has pyarrow type {kind}, which is neither numbers nor text")
