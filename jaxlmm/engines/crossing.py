"""Which factor of a crossed design is eliminated first, and the integer layout of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..design import frozen_pytree
from ..errors import DataError
from ..linalg import UNROLL
from .grouped import MAX_STACKED, MAX_STATISTICS, Layout, plan

MAX_EFFECTS = 8000  # that remain after the first factor is eliminated
MANY_NESTED = 1000  # of nested factors: above it the grouped engine, which takes a component at a time, is faster


def is_crossed(factors: list[tuple[np.ndarray, int]]) -> bool:
    """Whether there are two factors, each given by the codes of its rows and its levels, of which none is nested."""
    ordered = sorted(factors, key=lambda factor: factor[1])
    return any(
        not is_function(coarse, fine, levels)
        for i, (coarse, _) in enumerate(ordered)
        for fine, levels in ordered[i + 1 :]
    )


def is_function(coarse: np.ndarray, fine: np.ndarray, levels: int) -> bool:
    """Whether codes `coarse` are the same in all rows of each of the `levels` of `fine`."""
    seen = np.zeros(levels, coarse.dtype)
    seen[fine] = coarse
    return bool(np.array_equal(seen[fine], coarse))


@frozen_pytree(data=("codes", "outer_codes", "grouped"), meta=("groups", "inner", "levels"))
@dataclass(frozen=True, eq=False)
class Crossing:
    """Integer layout of the crossed engine.

    Attributes
    ----------
    codes : (n,) level of the first factor;  outer_codes : the same of each other term
    grouped : layout of the grouped engine, which takes over where data are traced; None where they are too large
    groups : levels of the first factor;  inner : positions of its terms;  levels : a number an outer term
    """

    codes: Any
    outer_codes: tuple[Any, ...]
    grouped: Layout | None
    groups: int
    inner: tuple[int, ...]
    levels: tuple[int, ...]

    @property
    def outer(self) -> tuple[int, ...]:
        """Positions of the terms that are not eliminated first."""
        return tuple(t for t in range(len(self.inner) + len(self.levels)) if t not in self.inner)

    @property
    def for_groups(self) -> Layout:
        """Layout of the grouped engine."""
        if self.grouped is None:
            raise DataError(
                "engine: 'crossed' needs concrete arrays, and these factors have too many levels for another engine "
                "to take traced ones (jit, vmap and derivatives over y, X, Z or weights)"
            )
        return self.grouped


def first_factor(
    groups: tuple[np.ndarray, ...], levels: tuple[int, ...], dims: tuple[int, ...]
) -> tuple[tuple[int, ...], int]:  # fmt: skip
    """Positions of the terms of the factor with most effects, and how many effects the others have."""
    same = [
        tuple(u for u in range(len(groups)) if levels[u] == levels[t] and np.array_equal(groups[u], groups[t]))
        for t in range(len(groups))
    ]
    inner = max(same, key=lambda terms: levels[terms[0]] * sum(dims[u] for u in terms), default=())
    return inner, sum(levels[t] * dims[t] for t in range(len(groups)) if t not in inner)


def cross(groups: tuple[np.ndarray, ...], levels: tuple[int, ...], dims: tuple[int, ...], n: int) -> Crossing:
    """Decide what is eliminated first from the codes of each term (host side, concrete)."""
    inner, left = first_factor(groups, levels, dims)
    if left > MAX_EFFECTS:
        raise DataError(
            f"engine: 'crossed' can have {MAX_EFFECTS} random effects besides those of the factor with most of them, "
            f"found {left}; use engine='iterative', which works with a small Monte Carlo error"
        )
    outer = [t for t in range(len(groups)) if t not in inner]
    small = left <= MAX_STACKED and max(n, levels[inner[0]]) * left <= MAX_STATISTICS
    return Crossing(
        groups[inner[0]],
        tuple(groups[t] for t in outer),
        plan(groups, levels, dims, n) if small else None,
        levels[inner[0]],
        inner,
        tuple(levels[t] for t in outer),
    )


def engine_for(groups: tuple[np.ndarray, ...], levels: tuple[int, ...], dims: tuple[int, ...], n: int) -> str:
    """The engine for terms with independent residuals: the first of these that can.

    "grouped" for one factor, and two nested ones of few effects, which it writes out; "crossed" for others. Where too
    many effects remain for it, "grouped" if they fall into small components that do not meet, else "iterative".
    """
    inner, left = first_factor(groups, levels, dims)
    outer = [t for t in range(len(groups)) if t not in inner]
    nested = not is_crossed(list(zip(groups, levels, strict=True)))
    one = all(levels[t] == levels[outer[0]] and np.array_equal(groups[t], groups[outer[0]]) for t in outer)
    if not outer or (nested and one and sum(dims[t] for t in outer) <= UNROLL):
        return "grouped"
    if left <= (MANY_NESTED if nested else MAX_EFFECTS):
        return "crossed"
    try:
        plan(groups, levels, dims, n)
    except DataError:
        return "crossed" if left <= MAX_EFFECTS else "iterative"
    return "grouped"
