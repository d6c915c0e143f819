"""The cells of a study: the factors of its grid, each cell known by its values, not by its place."""

from __future__ import annotations

import inspect
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..arguments import check_number, shown
from ..errors import DataError
from ..formula.expressions import ExpressionError, evaluate, normalise, variables
from .describe import described, digest
from .manifest import MOST_TASKS

RESERVED = ("cell", "replicate", "estimator", "test", "target", "estimate", "se", "df", "p", "status", "message",
            "measure", "value", "mcse", "count", "converged", "singular", "key", "rng", "data")  # fmt: skip


def cells_of(grid: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The factors of each cell, the last one fastest.

    Raises
    ------
    DataError
        For no or too many cells, and for a level or a cell that is there twice.
    """
    if isinstance(grid, Mapping):
        levels = {factor: _levels(given) for factor, given in grid.items()}
        if (count := math.prod(map(len, levels.values()))) > MOST_TASKS:
            raise DataError(f"grid: makes at least {count:,} cells, more than {MOST_TASKS:,}; take fewer levels")
        for factor, values in levels.items():
            if not values:
                raise DataError(f"grid: the factor {factor!r} has no levels; give it at least one")
            if (again := _repeated(map(key_of, values))) is not None:
                raise DataError(f"grid: {factor!r} has the level {label(values[again])!r} twice")
        cells = tuple(dict(zip(levels, chosen, strict=True)) for chosen in itertools.product(*levels.values()))
    else:
        given = list(grid) if isinstance(grid, Iterable) else [grid]
        if not all(isinstance(cell, Mapping) for cell in given):
            raise DataError(f"grid: found {shown(grid)}, expected factors and their levels, or cells one by one")
        cells = tuple(dict(cell) for cell in given) or ({},)
    if any(set(cell) != set(cells[0]) for cell in cells):
        raise DataError("grid: expected the same factors in every cell")
    for factor in cells[0]:
        if not str(factor).isidentifier() or factor in RESERVED:
            raise DataError(f"grid: the factor {factor!r} is not a usable name, choose another")
    if (again := _repeated(map(key_of, cells))) is not None:
        raise DataError(f"grid: the cell {in_words(cells[again])} is there twice")
    if not isinstance(grid, Mapping):
        levels = {factor: [cell[factor] for cell in cells] for factor in cells[0]}
    for factor, values in levels.items():
        known: dict[str, str] = {}
        for value in values:
            shown_as = label(value)
            text = str(int(shown_as) if isinstance(shown_as, bool) else shown_as)
            if known.setdefault(text, key := key_of(value)) != key:
                raise DataError(f"grid: {factor!r} has two levels that tables would both show as {text!r}; give them "
                                "as numbers, or as text, throughout")  # fmt: skip
    return cells


def settled(grid: Any) -> Any:
    """A grid that can be gone through again and again."""
    if isinstance(grid, Mapping):
        return {factor: _levels(given) if isinstance(given, Iterator) else given for factor, given in grid.items()}
    return list(itertools.islice(grid, MOST_TASKS + 1)) if isinstance(grid, Iterator) else grid


def place_of(cells: Sequence[Mapping[str, Any]], cell: Any) -> int:
    """Place of a cell, given by itself or by factors that only one of them has.

    Raises
    ------
    DataError
        Where there is none, or several.
    """
    if isinstance(cell, Mapping):
        wanted = {name: key_of(value) for name, value in cell.items()}
        found = [i for i, own in enumerate(cells) if all(n in own and key_of(own[n]) == k for n, k in wanted.items())]
        if len(found) != 1:
            raise DataError(f"cell: {len(found)} cells have {in_words(cell)}, expected one; the factors are "
                            f"{', '.join(cells[0]) or '(none)'}")  # fmt: skip
        return found[0]
    if not isinstance(cell, int | np.integer) or isinstance(cell, bool) or not 0 <= cell < len(cells):
        raise DataError(f"cell: found {shown(cell)}, expected 0 to {len(cells) - 1}, or factors")
    return int(cell)


def _levels(given: Any) -> list[Any]:
    """The levels of a factor: a text, a number, a mapping or a data frame is one."""
    single = isinstance(given, str | bytes | Mapping) or hasattr(given, "columns")
    if single or not isinstance(given, Iterable) or (isinstance(given, np.ndarray) and given.ndim == 0):
        return [given]
    return list(itertools.islice(given, MOST_TASKS + 1))


def _repeated(keys: Iterable[str]) -> int | None:
    """The place of the first one that was there before."""
    seen: set[str] = set()
    for i, key in enumerate(keys):
        if key in seen:
            return i
        seen.add(key)
    return None


def key_of(value: Any) -> str:
    """A cell or a level as one text: the same for 5, 5.0 and NumPy's 5, whatever the order of the factors."""
    return json.dumps(_canonical(described(value)), sort_keys=True)


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _canonical(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_canonical(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def label(level: Any) -> Any:
    """A level as tables show it: a number or a text; lists, matrices and mappings are one short text."""
    value = described(level)
    if value is None or isinstance(value, str | int | float):
        return value
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:48]}... ({digest(value)[:6]})"


def in_words(cell: Mapping[str, Any]) -> str:
    """A cell as ``clusters=8, size=[5, 15]``; nothing where there are no factors."""
    return ", ".join(f"{name}={label(value)!r}" for name, value in cell.items())


def accepted(function: Callable[..., Any], factors: Mapping[str, Any]) -> dict[str, Any]:
    """The factors that a function takes: all of them if it has ``**``."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(factors)
    return {name: value for name, value in factors.items() if name in parameters}


def resolved(value: Any, factors: Mapping[str, Any], what: str) -> float:
    """A finite number, or the value of an expression of the factors."""
    if not isinstance(value, str):
        check_number(what, float(value) if isinstance(value, bool | np.bool_) else value, finite=True)
        return float(value)
    columns = {k: np.array([v], float) for k, v in factors.items() if isinstance(v, int | float | np.number)}
    try:
        with np.errstate(all="ignore"):
            found = float(np.ravel(evaluate(normalise(value), columns))[0])
    except (ExpressionError, KeyError, IndexError) as error:
        raise DataError(
            f"{what}: cannot evaluate {value!r} with the factors {', '.join(columns) or '(none)'}: {error}"
        ) from None
    check_number(f"{what}, {value!r},", found, finite=True)
    return found


def named_in(value: Any) -> set[str]:
    """The factors that numbers, expressions, and lists and mappings of these mention."""
    if isinstance(value, str):
        try:
            return set(variables(normalise(value)))
        except (ExpressionError, SyntaxError):
            return set()
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return set().union(*map(named_in, entries))
