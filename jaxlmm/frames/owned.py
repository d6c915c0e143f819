"""What a fit keeps of the caller's data: a copy of the columns it is made of; others are read while these are as then.

A data frame is the caller's: columns are replaced, rows sorted and dropped after a fit, arrays written to.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from .columns import Column, OpenTable, index_of, labels_of, library_of, open_table

ADVICE = "give an array with a value for each of the rows used (.to_numpy() of a Series), or fit again"


def copied(values: Any) -> Any:
    """A copy of an array, Series, frame or matrix, or of a mapping or tuple of such, that shares no memory with it."""
    if isinstance(values, np.ndarray):
        return values.copy()
    if library_of(values) == "polars":  # its own copies, and frames made of NumPy arrays, share memory
        return values[np.arange(len(values))]
    if type(values) is dict or type(values) is tuple:
        return {k: copied(v) for k, v in values.items()} if isinstance(values, dict) else tuple(map(copied, values))
    return copy.deepcopy(values)


def own_columns(data: Any, used: Collection[str]) -> Any:
    """A copy of the columns `used`, in their order and in the library of the data."""
    table = open_table(data)
    names = [name for name in table.names if name in used]
    if table.kind == "dict":
        return {name: copied(data[name]) for name in names}
    return copied(data.select(names) if hasattr(data, "select") else data[names])


def column_at(fit: Any, name: str) -> Column:
    """A column (n_input,) of the data of a fit: from its copy or, if it is not part of the model, from the caller's.

    Raises
    ------
    DataError
        For a name that is not there, and for a column of data that have changed since the fit.
    """
    table = open_table(fit.data)
    if name not in table.names:
        table = _unchanged(fit, f"column {name!r}, which is not part of the model, may be of other rows; {ADVICE}")
    return table.column(name)


def frame_at(fit: Any, names: Sequence[str] | None = None) -> Any:
    """A frame with the columns `names` (or more), default all: the copy, or the caller's if that has others.

    Raises
    ------
    DataError
        As `column_at`.
    """
    own = labels_of(fit.data)
    others = [name for name in (labels_of(fit.given) if names is None else names) if name not in own]
    if not others:
        return fit.data
    what = ", ".join(map(repr, others[:5])) + (", ..." if len(others) > 5 else "")
    advice = "fit again; the columns of the model are in fit.data, as they were"
    return _unchanged(fit, f"columns that are not part of the model may be of other rows ({what}); {advice}").data


def check_index(fit: Any, name: str, values: Any) -> None:
    """Refuse labels of rows, of a Series or DataFrame, where they may be those of rows that have changed since the fit.

    `name` is that of the argument.
    """
    if index_of(values) is not None:
        _unchanged(fit, f"{name}: the index of the {type(values).__name__} may be of other rows; {ADVICE}")


def _unchanged(fit: Any, consequence: str) -> OpenTable:
    """The caller's data, refused where they are not as they were."""
    change = None if fit.given is fit.data else _change(open_table(fit.data), fit.given)
    if change:
        raise DataError(f"the data have changed since the fit: {change}; {consequence}")
    return open_table(fit.given)


def _change(own: OpenTable, given: Any) -> str | None:
    """What of the columns of the model is not as it was, None if they are the same."""
    try:
        now = open_table(given)
    except DataError as error:
        return str(error)
    if now.n != own.n:
        return f"they have {now.n} rows and had {own.n}"
    for name in own.names:
        if name not in now.names:
            return f"column {name!r} is not there"
        try:
            same = _same(own.column(name), now.column(name))
        except DataError as error:
            return str(error)
        if not same:
            return f"column {name!r} has other values"
    pairs = [(own.data, now.data)] if own.kind != "dict" else [(own.data[name], now.data[name]) for name in own.names]
    for a, b in ((index_of(a), index_of(b)) for a, b in pairs):
        if a is not None and not (b is not None and a.equals(b)):
            return "their index is another"
    return None


def _same(a: Column, b: Column) -> bool:
    """Whether two columns have the same values, those that are missing aside."""
    gaps, others = (np.zeros(len(c.values), bool) if c.missing is None else c.missing for c in (a, b))
    if a.kind != b.kind or a.levels.keys != b.levels.keys or not np.array_equal(gaps, others):
        return False
    if a.exact is not None or b.exact is not None:
        return a.exact is not None and b.exact is not None and np.array_equal(a.exact[~gaps], b.exact[~gaps])
    return np.array_equal(a.values[~gaps], b.values[~gaps])
