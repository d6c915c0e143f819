"""Data frames of pandas, polars, pyarrow ... or dicts of arrays: their columns, and new frames of the same library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments import nearest
from ..errors import DataError
from .factors import Column
from .levels import Levels, number_label
from .readers import library_of, narwhals_for, read_column

__all__ = [
    "Column",
    "Levels",
    "OpenTable",
    "extend_rows",
    "labels_of",
    "library_of",
    "make_frame",
    "number_label",
    "open_table",
    "read_column",
    "same_index",
]


@dataclass(frozen=True, eq=False)
class OpenTable:
    """A data frame of any kind that narwhals knows, ``"pandas"``, ``"polars"``, ``"pyarrow"`` ..., or ``"dict"``."""

    kind: str
    data: Any
    names: tuple[str, ...]
    n: int

    def column(self, name: str) -> Column:
        """Read one column; a missing one raises `DataError` with the nearest name."""
        if name not in self.names:
            raise DataError(f"the data have no column {name!r}; {nearest(name, self.names)}")
        if self.names.count(name) > 1:
            raise DataError(f"the data have more than one column named {name!r}; give them different names")
        return read_column(name, self.data[name])


def open_table(data: Any, what: str = "data") -> OpenTable:
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
    nw = narwhals_for(library_of(data))
    if nw is not None and nw.dependencies.is_into_dataframe(data):
        if getattr(getattr(data, "columns", None), "nlevels", 1) > 1:
            raise DataError(
                f"the columns of {what} have {data.columns.nlevels} levels (a pandas MultiIndex); give them plain "
                "names, data.columns = ['_'.join(map(str, c)) for c in data.columns]"
            )
        kind = nw.Implementation.from_native_namespace(nw.get_native_namespace(data)).value
        table = OpenTable(kind, data, tuple(name for name in labels_of(data) if isinstance(name, str)), len(data))
    elif isinstance(data, Mapping):
        sizes = {str(k): _length(v, str(k), what) for k, v in data.items()}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{k}: {s}" for k, s in list(sizes.items())[:10])
            raise DataError(f"the columns of {what} have different lengths ({listed})")
        same_index(what, **{str(name): values for name, values in data.items()})
        table = OpenTable("dict", data, tuple(sizes), next(iter(sizes.values()), 0))
    else:
        found = f"{type(data).__module__}.{type(data).__qualname__}".removeprefix("builtins.")
        raise DataError(
            f"{what} must be a DataFrame (pandas, polars, ...), a pyarrow Table or a dict of arrays, got {found}"
        )
    if table.n == 0:
        raise DataError(f"{what} has no rows: at least one is needed")
    return table


def labels_of(data: Any) -> list[Any]:
    """Names of all columns, those that are not text among them."""
    return list(data) if isinstance(data, Mapping) else list(getattr(data, "column_names", None) or data.columns)


def index_of(values: Any) -> Any:
    """The index of a Series or DataFrame of pandas or the like; None for anything else."""
    index = getattr(values, "index", None)
    return index if hasattr(index, "get_indexer") else None


def same_index(what: str, /, **values: Any) -> None:
    """Refuse Series and DataFrames that stand beside each other, by name, but have different indexes."""
    known = [(name, index) for name, index in ((n, index_of(v)) for n, v in values.items()) if index is not None]
    for name, index in known[1:]:
        if not index.equals(known[0][1]):
            raise DataError(
                f"{what}: {known[0][0]} and {name} have different indexes, rows are taken by position; align them "
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
    if kind == "dict":
        return {name: np.asarray(values) for name, values in columns.items()}
    nw = narwhals_for(kind)
    if kind == "polars":  # None, integers and floats may stand beside each other
        return nw.Implementation.POLARS.to_native_namespace().DataFrame(dict(columns), strict=False)
    listed = {name: list(values) if isinstance(values, tuple) else values for name, values in columns.items()}
    return nw.from_dict(listed, backend=kind).to_native()


def extend_rows(data: Any, rows: np.ndarray, added: Mapping[str, np.ndarray]) -> Any:
    """Return some rows of the caller's data, in the caller's library, with columns added.

    A column of the data that has the name of an added one is replaced.
    """
    table = open_table(data)
    if table.kind == "dict":
        return {**{name: np.asanyarray(data[name])[rows] for name in table.names}, **added}
    if hasattr(data, "iloc"):  # narwhals refuses two columns of one name
        return data.iloc[rows].assign(**added)
    nw = narwhals_for(library_of(data))
    frame = nw.from_native(data, eager_only=True)
    series = (nw.new_series(name, values, backend=frame.implementation) for name, values in added.items())
    return frame[rows].with_columns(*series).to_native()
