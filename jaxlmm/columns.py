"""Columns out of pandas, polars, pyarrow or a dict of arrays, as numbers or as factors, in one plain NumPy form.

None of the frame libraries is imported here: their objects are recognised by the module of their type.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .errors import DataError


@dataclass(frozen=True, eq=False)
class Column:
    """One column of the data.

    Attributes
    ----------
    name : str
        Its name in the data.
    kind : str
        ``"number"``, ``"logical"``, ``"factor"`` or ``"time"`` (dates; only good as a grouping factor).
    values : (n,) array
        Numbers as they came (integers stay integers), or int32 codes into `levels`, -1 for a missing value.
    levels : tuple of str
        Levels of a factor or of a time; empty for numbers.
    missing : (n,) bool array or None
        Places without a value; None where all are there.
    """

    name: str
    kind: str
    values: np.ndarray
    levels: tuple[str, ...] = ()
    missing: np.ndarray | None = None

    @property
    def is_number(self) -> bool:
        """Whether the values are numbers or true/false."""
        return self.kind in ("number", "logical")

    def take(self, rows: np.ndarray) -> Column:
        """Return the column at these rows, which have no missing values; unused levels are dropped."""
        values = self.values[rows]
        levels = self.levels
        if not self.is_number:
            used = np.bincount(values, minlength=len(levels)) > 0
            if not used.all():
                recode = np.cumsum(used, dtype=np.int32) - 1
                values = recode[values]
                levels = tuple(level for level, u in zip(levels, used, strict=True) if u)
        elif self.missing is not None and values.dtype.kind == "f" and _came_as_integers(self):
            values = values.astype(np.int64)
        return replace(self, values=values, levels=levels, missing=None)

    def as_factor(self) -> Column:
        """Return the column as a factor; the levels of numbers are sorted by value."""
        if not self.is_number:
            return self
        present = self.values if self.missing is None else self.values[~self.missing]
        unique, codes = np.unique(present, return_inverse=True)
        if self.missing is not None:
            codes, inner = np.full(len(self.values), -1, dtype=np.int32), codes
            codes[~self.missing] = inner
        levels = tuple(number_label(v) for v in unique.tolist())
        return replace(self, kind="factor", values=codes.astype(np.int32), levels=levels)

    def recode(self, levels: Sequence[str]) -> np.ndarray:
        """Return codes into other `levels`, -1 for a level that is not among them and for a missing value."""
        column = self.as_factor()
        place = {level: i for i, level in enumerate(levels)}
        table = np.array([place.get(level, -1) for level in column.levels] + [-1], dtype=np.int32)
        return table[column.values]


def _came_as_integers(column: Column) -> bool:
    """Say whether floats are integers that a frame library turned into floats because some were missing."""
    present = column.values[~column.missing] if column.missing is not None else column.values
    return bool(np.all(np.isfinite(present)) and np.all(present == np.rint(present)) and np.all(abs(present) < 2**53))


def number_label(value: float) -> str:
    """Write a number as the label of a level, whole numbers without a decimal point."""
    if isinstance(value, bool):
        return str(value)
    whole = float(value).is_integer() and abs(value) < 1e15
    return str(int(value)) if whole else f"{value:.15g}"


@dataclass(frozen=True, eq=False)
class Table:
    """A data frame of any supported kind: ``"pandas"``, ``"polars"``, ``"pyarrow"`` or ``"dict"``."""

    kind: str
    data: Any
    names: tuple[str, ...]
    n: int

    def column(self, name: str) -> Column:
        """Read one column; a missing one raises `DataError` with the nearest name."""
        if name not in self.names:
            close = difflib.get_close_matches(name, self.names, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            listed = ", ".join(self.names[:30]) + (", ..." if len(self.names) > 30 else "")
            raise DataError(f"the data have no column {name!r}{hint}; there are: {listed}")
        if self.names.count(name) > 1:
            raise DataError(f"the data have more than one column named {name!r}; give them different names")
        return read_column(name, self.data[name])


def library_of(value: object) -> str:
    """Return the package that an object's type comes from."""
    return type(value).__module__.partition(".")[0]


def open_table(data: Any, what: str = "data") -> Table:
    """Recognise a data frame.

    Parameters
    ----------
    data : pandas.DataFrame, polars.DataFrame, pyarrow.Table or mapping of str to array
        All columns of a mapping have the same length.
    what : str
        The argument's name, for messages.

    Raises
    ------
    DataError
        If it is something else or has no rows.
    """
    library, shape = library_of(data), getattr(data, "shape", None)
    if library in ("pandas", "polars") and type(data).__name__ == "DataFrame" and shape is not None:
        table = Table(library, data, tuple(c for c in data.columns if isinstance(c, str)), shape[0])
    elif library == "pyarrow" and type(data).__name__ == "Table":
        table = Table(library, data, tuple(data.column_names), data.num_rows)
    elif isinstance(data, Mapping):
        sizes = {str(k): _length(v, str(k), what) for k, v in data.items()}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{k}: {s}" for k, s in list(sizes.items())[:10])
            raise DataError(f"the columns of {what} have different lengths ({listed})")
        _check_indexes(data, what)
        table = Table("dict", data, tuple(sizes), next(iter(sizes.values()), 0))
    else:
        found = f"{type(data).__module__}.{type(data).__qualname__}".removeprefix("builtins.")
        raise DataError(
            f"{what} must be a pandas or polars DataFrame, a pyarrow Table or a dict of arrays, got {found}"
        )
    if table.n == 0:
        raise DataError(f"{what} has no rows: at least one is needed")
    return table


def index_of(values: Any) -> Any:
    """The index of a pandas Series or DataFrame; None for anything else."""
    return values.index if library_of(values) == "pandas" and type(values).__name__ in ("Series", "DataFrame") else None


def _check_indexes(data: Mapping[str, Any], what: str) -> None:
    """Refuse columns whose rows pandas would not put beside each other."""
    known = [(name, index) for name, index in ((n, index_of(v)) for n, v in data.items()) if index is not None]
    for name, index in known[1:]:
        if not index.equals(known[0][1]):
            raise DataError(
                f"columns {known[0][0]!r} and {name!r} of {what} are Series with different indexes; align them "
                "(pandas.DataFrame does), or give arrays (.to_numpy())"
            )


def _length(values: Any, name: str, what: str) -> int:
    try:
        if isinstance(values, (str, bytes)):
            raise TypeError
        return len(values)
    except TypeError:
        raise DataError(f"column {name!r} of {what} must be an array or a list, got {type(values).__name__}") from None


def read_column(name: str, values: Any) -> Column:
    """Read a pandas or polars Series, an array or a list as a `Column`."""
    library = library_of(values)
    if library == "pandas":
        return _read_pandas(name, values)
    if library == "polars":
        return _read_polars(name, values)
    if library == "pyarrow":
        return _read_arrow(name, values)
    if isinstance(values, list | tuple) and any(v is np.ma.masked for v in values):
        values = [None if v is np.ma.masked else v for v in values]
    try:
        array = np.asanyarray(values)
    except ValueError:
        raise DataError(f"column {name!r} must have one dimension") from None
    return _read_array(name, array)


def _read_array(name: str, array: np.ndarray) -> Column:
    if array.ndim != 1:
        raise DataError(f"column {name!r} must have one dimension, got shape {array.shape}")
    if isinstance(array, np.ma.MaskedArray):
        return _read_masked(name, array)
    array = np.asarray(array)
    kind = array.dtype.kind
    if kind in "iuf":
        missing = np.isnan(array) if kind == "f" else None
        return Column(name, "number", array, missing=_or_none(missing))
    if kind == "b":
        return Column(name, "logical", array)
    if kind in "US":
        return _factor(name, array.astype(str) if kind == "S" else array, None)
    if kind in "Mm":
        return _factor(name, array, np.isnat(array), kind="time")
    if kind == "O":
        return _read_objects(name, array)
    raise DataError(f"column {name!r} has type {array.dtype}, which is neither numbers nor text")


def _read_masked(name: str, array: np.ma.MaskedArray) -> Column:
    """Read a masked array; what stands behind the mask is never looked at."""
    mask, values = np.ma.getmaskarray(array), np.array(array.data)
    if mask.all():
        return _read_objects(name, np.full(len(values), None, dtype=object))
    values[mask] = values[~mask][0]
    column = _read_array(name, values)
    missing = _or_none(mask if column.missing is None else mask | column.missing)
    if column.is_number or missing is None:
        return replace(column, missing=missing)
    return replace(column, values=np.where(mask, -1, column.values).astype(np.int32), missing=missing)


def _read_objects(name: str, array: np.ndarray) -> Column:
    """Read Python objects: all numbers give numbers, anything else a factor of their text."""
    missing = np.array([_is_missing(v) for v in array], dtype=bool)
    present = array[~missing]
    types = {type(v) for v in present}
    if types and all(issubclass(t, (bool, np.bool_)) for t in types):
        values = np.zeros(len(array), dtype=bool)
        values[~missing] = present.astype(bool)
        return Column(name, "logical", values, missing=_or_none(missing))
    if all(issubclass(t, (int, float, np.integer, np.floating)) for t in types):
        values = np.full(len(array), np.nan)
        values[~missing] = present.astype(np.float64)
        return Column(name, "number", values, missing=_or_none(missing))
    if any(issubclass(t, (list, tuple, dict, set, complex, np.ndarray)) for t in types):
        raise DataError(f"column {name!r} holds {next(iter(types)).__name__} objects, neither numbers nor text")
    texts = np.array(["" if m else str(v) for v, m in zip(array, missing, strict=True)], dtype=str)
    return _factor(name, texts, missing)


def _is_missing(value: Any) -> bool:
    return value is None or value != value or type(value).__name__ in ("NAType", "NaTType")


def _or_none(missing: np.ndarray | None) -> np.ndarray | None:
    return missing if missing is not None and missing.any() else None


def _factor(name: str, values: np.ndarray, missing: np.ndarray | None, kind: str = "factor") -> Column:
    """Make a factor with sorted levels."""
    missing = _or_none(missing)
    present = values if missing is None else values[~missing]
    unique, inner = np.unique(present, return_inverse=True)
    codes = np.full(len(values), -1, dtype=np.int32)
    codes[slice(None) if missing is None else ~missing] = inner
    return Column(name, kind, codes, tuple(str(v) for v in unique), missing)


def _from_codes(name: str, codes: np.ndarray, levels: Iterable[Any]) -> Column:
    """Make a factor from codes into levels in a meaningful order."""
    codes = np.asarray(codes, dtype=np.int32)
    labels = tuple(number_label(v) if isinstance(v, (int, float)) else str(v) for v in levels)
    return Column(name, "factor", codes, labels, _or_none(codes < 0))


def _from_unordered_codes(name: str, codes: np.ndarray, levels: Sequence[Any]) -> Column:
    """Make a factor from codes into text in any order; its levels are sorted."""
    labels = [str(v) for v in levels]
    order = sorted(range(len(labels)), key=labels.__getitem__)
    recode = np.empty(len(labels) + 1, dtype=np.int32)
    recode[order] = np.arange(len(labels), dtype=np.int32)
    recode[-1] = -1
    return _from_codes(name, recode[codes], [labels[i] for i in order])


def _read_pandas(name: str, values: Any) -> Column:
    dtype = getattr(values, "dtype", None)
    if dtype is None:  # a frame: two columns of this name
        raise DataError(f"the data have more than one column named {name!r}; give them different names")
    if isinstance(dtype, np.dtype) and dtype.kind != "O":
        return _read_array(name, values.to_numpy())
    if type(dtype).__name__ == "CategoricalDtype":
        series = getattr(values, "cat", values)  # a Categorical has codes and categories itself
        return _from_codes(name, np.asarray(series.codes), series.categories)
    missing = np.asarray(values.isna(), dtype=bool)
    kind = getattr(dtype, "kind", "O")
    if kind in "iuf":
        array = values.to_numpy(dtype=np.float64, na_value=np.nan)
        column = Column(name, "number", array, missing=_or_none(missing | np.isnan(array)))
        return column if column.missing is not None or kind == "f" else replace(column, values=array.astype(np.int64))
    if kind == "b":
        return Column(name, "logical", values.to_numpy(dtype=bool, na_value=False), missing=_or_none(missing))
    if kind in "Mm":
        return _read_array(name, values.to_numpy(dtype="datetime64[ns]" if kind == "M" else "timedelta64[ns]"))
    if isinstance(dtype, np.dtype):
        return _read_objects(name, values.to_numpy())
    codes, levels = values.factorize()
    return _from_unordered_codes(name, np.asarray(codes), list(levels))


def _read_polars(name: str, values: Any) -> Column:
    dtype = values.dtype
    kind = str(dtype.base_type()).lower()
    if dtype.is_numeric():
        column = _read_array(name, values.to_numpy())  # nulls come as NaN
        if dtype.is_decimal():
            column = _read_array(name, values.cast(float).to_numpy())
        return column
    missing = values.is_null().to_numpy() if values.null_count() else None
    if kind == "boolean":
        return Column(name, "logical", values.fill_null(False).to_numpy().astype(bool), missing=missing)
    if kind == "enum":
        codes = values.to_physical().cast(int).fill_null(-1).to_numpy()
        return _from_codes(name, codes, dtype.categories.to_list())
    if kind in ("string", "categorical", "object", "null"):
        return _read_polars_text(name, values, kind)
    if dtype.is_temporal():
        return _factor(name, np.array(values.cast(str).fill_null("").to_list(), dtype=str), missing, kind="time")
    raise DataError(f"column {name!r} has polars type {dtype}, which is neither numbers nor text")


def _read_polars_text(name: str, values: Any, kind: str) -> Column:
    if kind in ("object", "null"):
        return _read_objects(name, np.array(values.to_list() + [None], dtype=object)[:-1])
    text = values.cast(str) if kind == "categorical" else values
    levels = text.drop_nulls().unique(maintain_order=True)
    codes = text.rank("dense").cast(int).fill_null(0).to_numpy() - 1
    return (
        _from_codes(name, codes, sorted(levels.to_list()))
        if len(levels)
        else _read_objects(name, np.array([None] * len(values), dtype=object))
    )


def _read_arrow(name: str, values: Any) -> Column:
    """Read a column of a pyarrow Table."""
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    kind = values.type
    missing = _or_none(np.asarray(values.is_null().to_numpy(zero_copy_only=False), dtype=bool))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _read_array(name, (values.cast(pa.float64()) if pa.types.is_decimal(kind) else values).to_numpy(False))
    if pa.types.is_boolean(kind):
        array = values.fill_null(False).to_numpy(zero_copy_only=False)
        return Column(name, "logical", np.asarray(array, dtype=bool), missing=missing)
    if pa.types.is_temporal(kind):
        texts = values.cast(pa.string()).fill_null("").to_numpy(zero_copy_only=False)
        return _factor(name, np.asarray(texts, dtype=str), missing, kind="time")
    if pa.types.is_dictionary(kind):
        codes = np.asarray(values.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int32)
        levels = values.dictionary.to_pylist()
        return _from_codes(name, codes, levels) if kind.ordered else _from_unordered_codes(name, codes, levels)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _read_arrow(name, values.cast(pa.string()).dictionary_encode())
    if pa.types.is_null(kind):
        return _read_objects(name, np.array(values.to_pylist() + [None], dtype=object)[:-1])
    raise DataError(f"column {name!r} has pyarrow type {kind}, which is neither numbers nor text")


def make_frame(kind: str, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> Any:
    """Make a data frame in the caller's library.

    Parameters
    ----------
    kind : str
        ``"pandas"``, ``"polars"``, ``"pyarrow"`` or ``"dict"``.
    columns : mapping of str to sequence

    Returns
    -------
    pandas.DataFrame, polars.DataFrame, pyarrow.Table or dict of np.ndarray
    """
    if kind == "pandas":
        import pandas

        return pandas.DataFrame({k: _listed(v) for k, v in columns.items()})
    if kind == "polars":
        import polars

        return polars.DataFrame({k: _listed(v) for k, v in columns.items()}, strict=False)
    if kind == "pyarrow":
        import pyarrow

        return pyarrow.table({k: _listed(v) for k, v in columns.items()})
    if kind == "dict":
        return {k: np.asarray(v) for k, v in columns.items()}
    raise ValueError(f"kind must be 'pandas', 'polars', 'pyarrow' or 'dict', got {kind!r}")


def extend_rows(data: Any, rows: np.ndarray, added: Mapping[str, np.ndarray]) -> Any:
    """Return some rows of the caller's data, in the caller's library, with columns added.

    A column of the data that has the name of an added one is replaced.
    """
    table = open_table(data)
    if table.kind == "pandas":
        return data.iloc[rows].assign(**added)
    if table.kind == "polars":
        import polars

        return data[rows].with_columns(**{name: polars.Series(values) for name, values in added.items()})
    if table.kind == "pyarrow":
        kept = data.select([name for name in table.names if name not in added]).take(rows)
        for name, values in added.items():
            kept = kept.append_column(name, [values])
        return kept
    return {**{name: np.asanyarray(data[name])[rows] for name in table.names}, **added}


def _listed(values: Sequence[Any] | np.ndarray) -> Any:
    return list(values) if isinstance(values, tuple) else values
