"""What pictures are drawn against: columns of the data and groups at the rows of a fit, and names among choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..columns import Column
from ..errors import DataError
from ..owned import column_at


def column_of(fit: Any, argument: str, name: str) -> Column:
    """A column of the data at the rows of the fit, which are those without missing values of the model's columns.

    Raises
    ------
    DataError
        For a name that is not there, and missing values.
    """
    try:
        column = column_at(fit, name)
    except DataError as error:
        raise DataError(f"{argument}: {error}") from None
    absent = column.missing is not None and int(column.missing[fit.frame.rows].sum())
    if absent:
        raise DataError(f"{argument}: column {name!r} has no value in {absent} of the rows used; choose a complete one")
    return column.take(fit.frame.rows)


def groups_of(fit: Any, argument: str, by: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes (n,) and labels of groups: a grouping factor of the model, by its label, or a column of the data."""
    for part, own in zip(fit.frame.parts, fit.model.random, strict=True):
        if part.group_label == by and part.levels and own.group is not None:
            return np.asarray(own.group), part.levels
    factor = column_of(fit, argument, by).as_factor()
    return factor.values, factor.levels


def chosen(argument: str, name: Any, choices: Sequence[str], default: str | None = None) -> str:
    """One of the `choices`; without a name the default, or the only one.

    Raises
    ------
    DataError
        Where there are none, several without a default, or others; it names them.
    """
    if not choices:
        raise DataError(f"{argument}: the model has none to choose from")
    listed = ", ".join(repr(c) for c in choices[:12]) + (", ..." if len(choices) > 12 else "")
    if name is None:
        if default is None and len(choices) > 1:
            raise DataError(f"{argument}: the model has several, choose one of {listed}")
        return default or choices[0]
    if name not in choices:
        raise DataError(f"{argument}: found {name!r}, expected one of {listed}")
    return str(name)
