"""Which factor of a crossed design is eliminated first, and the integer layout of the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from ....errors import DataError
from ....linalg import UNROLL
from ....pytrees import frozen_pytree
from ..layout import MAX_STACKED, MAX_STATISTICS, Layout, plan
from ..orthogonal import fine

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
    groups : levels of the first factor;  inner : positions of its terms;  levels : a number an outer term; numbers of
        levels are rounded up (`fine`), so that programs are shared
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


def factors(
    groups: tuple[np.ndarray, ...], levels: tuple[int, ...], dims: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:  # fmt: skip
    """Positions of the terms of each factor, that with most effects first."""
    members: list[list[int]] = []
    for t, group in enumerate(groups):
        for terms in members:
            if levels[terms[0]] == levels[t] and np.array_equal(groups[terms[0]], group):
                terms.append(t)
                break
        else:
            members.append([t])
    members.sort(key=lambda terms: -levels[terms[0]] * sum(dims[t] for t in terms))
    return tuple(tuple(terms) for terms in members)


def effects_of(terms: Iterable[int], levels: tuple[int, ...], dims: tuple[int, ...]) -> int:
    """Number of effects of some terms."""
    return sum(levels[t] * dims[t] for t in terms)


def cross(groups: tuple[np.ndarray, ...], levels: tuple[int, ...], dims: tuple[int, ...], n: int) -> Crossing:
    """Decide what is eliminated first from the codes of each term (host side, concrete)."""
    inner = factors(groups, levels, dims)[0]
    outer = [t for t in range(len(groups)) if t not in inner]
    left = effects_of(outer, levels, dims)
    if left > MAX_EFFECTS:
        raise DataError(
            f"engine: 'crossed' can have {MAX_EFFECTS} random effects besides those of the factor with most of them, "
            f"found {left}; use engine='iterative', which works with a small Monte Carlo error"
        )
    small = left <= MAX_STACKED and max(n, levels[inner[0]]) * left <= MAX_STATISTICS
    return Crossing(
        groups[inner[0]],
        tuple(groups[t] for t in outer),
        plan(groups, levels, dims, n) if small else None,
        fine(levels[inner[0]]),
        inner,
        tuple(fine(levels[t]) for t in outer),
    )


class Rest(NamedTuple):
    """What the choice between the engines for terms with independent residuals depends on, see `rest_of`."""

    is_short: bool  # there is one factor, or there are two nested ones of few effects, which "grouped" writes out
    is_moderate: bool  # "crossed" is fastest
    is_possible: bool  # and not too many effects for it


def rest_of(groups: tuple[np.ndarray, ...], levels: tuple[int, ...], dims: tuple[int, ...]) -> Rest:
    """Which effects remain after the factor with most of them is eliminated."""
    others = factors(groups, levels, dims)[1:]
    nested = not is_crossed(list(zip(groups, levels, strict=True)))
    left = effects_of(chain(*others), levels, dims)
    short = nested and len(others) < 2 and sum(dims[t] for t in chain(*others)) <= UNROLL
    return Rest(short, left <= (MANY_NESTED if nested else MAX_EFFECTS), left <= MAX_EFFECTS)
