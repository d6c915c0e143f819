"""Data frames of pandas, polars, pyarrow or dicts of arrays: their columns, and new frames of the same library."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from .factors import Column
from .levels import Levels, number_label
from .readers import library_of, read_column

__all__ = [
    "Column",
    "Levels",
    "Table",
    "extend_rows",
    "library_of",
    "make_frame",
    "number_label",
    "open_table",
    "read_column",
]


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
    library, shape = frame_library(data), getattr(data, "shape", None)
    if library in ("pandas", "polars") and shape is not None:
        if getattr(data.columns, "nlevels", 1) > 1:
            raise DataError(
                f"the columns of {what} have {data.columns.nlevels} levels (a pandas MultiIndex); give them plain "
                "names, data.columns = ['_'.join(map(str, c)) for c in data.columns]"
            )
        table = Table(library, data, tuple(c for c in data.columns if isinstance(c, str)), shape[0])
    elif library == "pyarrow":
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


def frame_library(data: Any) -> str:
    """The library whose data frame this is, or is a subclass of (GeoDataFrame); empty for anything else."""
    for kind in type(data).__mro__:
        library = kind.__module__.partition(".")[0]
        if (library, kind.__name__) in (("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "Table")):
            return library
    return ""


def index_of(values: Any) -> Any:
    """The index of a pandas Series or DataFrame; None for anything else."""
    names = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(values).__mro__}
    return values.index if names & {("pandas", "Series"), ("pandas", "DataFrame")} else None


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
