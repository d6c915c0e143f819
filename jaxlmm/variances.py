"""Variance functions by name, as `variance=` takes them: ``power(x)``, ``exp(x, 0.5)``, ``ident(f)``."""

from __future__ import annotations

from typing import Any

import numpy as np

from .columns import Column
from .covariance import FUNCTIONS, ConstPower, Ident, Power, VarianceFunction
from .doors import unknown_option
from .errors import DataError, FormulaError, JaxlmmError


def make_function(
    name: str, numbers: tuple[object, ...], options: tuple[tuple[str, object], ...], text: str
) -> VarianceFunction:  # fmt: skip
    """A variance function whose parameters are fixed where there are numbers."""
    kind: Any = FUNCTIONS[name]
    names = [field.name for field in kind.fields]
    if kind is Ident and numbers:
        numbers = (numbers,)  # a ratio for each level but the first
    if len(numbers) > len(names):
        raise FormulaError(f"variance={text!r}: {name} has {len(names)} parameter(s), found {len(numbers)} numbers")
    if said := unknown_option(name, dict(options), names):
        raise FormulaError(f"variance={text!r}: {said}")
    if twice := set(names[: len(numbers)]) & set(dict(options)):
        raise FormulaError(f"variance={text!r}: {name} has its {', '.join(twice)} twice")
    try:
        return kind(**dict(zip(names, numbers, strict=False)), **dict(options))
    except (TypeError, JaxlmmError) as error:
        raise FormulaError(f"variance={text!r}: {error}") from None


def check_covariate(function: VarianceFunction, column: Column) -> None:
    """Refuse a covariate that the function is not defined for."""
    name = type(function).__name__
    if isinstance(function, Ident):
        if len(column.as_factor().levels) < 2:
            raise DataError(f"variance: ident({column.name}) needs at least two levels, found one")
        return
    if column.kind != "number":
        raise DataError(f"variance: {name} needs numbers, but column {column.name!r} holds text, levels or dates")
    if isinstance(function, Power | ConstPower) and np.any(column.values == 0):
        count = int(np.sum(column.values == 0))
        raise DataError(
            f"variance: {name} needs values other than zero, but {count} of column {column.name!r} are zero"
        )
    if np.ptp(column.values) == 0:
        raise DataError(f"variance: column {column.name!r} is constant, so the parameters of {name} cannot be told")
