"""The integer layout of random terms: which factor is eliminated first, and which effects then belong together.

Factors are told apart and nested by their codes alone; terms of one factor are stacked, and what is left of the others
is cut into connected components of the design.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DataError
from ...pytrees import frozen_pytree
from .orthogonal import (
    fine,
    pad_first,
)

MAX_STACKED = 1500
MAX_STATISTICS = 2e8


@frozen_pytree(data=("codes", "parent", "component", "copy", "slot"), meta=("groups", "components", "inner", "copies"))
@dataclass(frozen=True, eq=False)
class Layout:
    """Integer layout of the elimination.

    Attributes
    ----------
    codes : (n,) inner group of each row;  parent : (groups,) component of each inner group
    component : (n,) component of each row
    copy : a (n,) array an outer term, which copy of its effects (level within the component) a row uses
    slot : a (levels,) array an outer term, component * copies + copy of each level; numbers of levels, components and
        copies are rounded up (`fine`), so that programs are shared
    inner : positions of the terms eliminated first;  copies : a number an outer term
    """

    codes: Any
    parent: Any
    component: Any
    copy: tuple[Any, ...]
    slot: tuple[Any, ...]
    groups: int
    components: int
    inner: tuple[int, ...]
    copies: tuple[int, ...]

    @property
    def outer(self) -> tuple[int, ...]:
        """Positions of the terms eliminated second."""
        return tuple(t for t in range(len(self.inner) + len(self.copies)) if t not in self.inner)


def lacks_terms(model: Any) -> str | None:
    """None for terms with independent levels and independent residuals, else what engines for them say."""
    if (
        model.residual.group is None
        and all(t.relationship is None for t in model.terms)
        and len(model.terms) == len(model.random)
    ):
        return None
    return "needs independent residuals and terms without relationship matrices, this model has others; use 'marginal'"


def lacks_factors(model: Any) -> str | None:
    """None for terms of several grouping factors."""
    if any(not np.array_equal(part.group, model.random[0].group) for part in model.random):
        return None
    return "needs terms of at least two grouping factors; use 'grouped'"


def is_plain(model: Any) -> bool:
    """Whether there are terms with independent levels and residuals that have to be beside them."""
    return lacks_terms(model) is None and all(t.is_plain for t in model.terms)


def factors_of(terms: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[int, ...], tuple[int, ...]]:
    """Codes, number of levels and number of effects of each term."""
    return tuple(t.group for t in terms), tuple(t.levels for t in terms), tuple(t.dim for t in terms)


def plan(groups: tuple[np.ndarray, ...], levels: tuple[int, ...], dims: tuple[int, ...], n: int) -> Layout:
    """Decide what is eliminated first from the codes of each term (host side, concrete)."""
    if not groups:
        zeros = np.zeros(n, np.int32)
        return Layout(zeros, np.zeros(1, np.int32), zeros, (), (), 1, 1, (), ())
    first = int(np.argmax(levels))
    inner = tuple(t for t, g in enumerate(groups) if levels[t] == levels[first] and np.array_equal(g, groups[first]))
    outer = [t for t in range(len(groups)) if t not in inner]
    if not outer:
        m = levels[first]
        return Layout(groups[first], np.zeros(m, np.int32), np.zeros(n, np.int32), (), (), m, 1, inner, ())
    component, components, copy, slot, copies = stack_outer(
        groups[first],
        levels[first],
        [groups[t] for t in outer],
        [levels[t] for t in outer],
        [dims[t] for t in outer],
        n,
    )
    parent = np.zeros(levels[first], np.int32)
    parent[groups[first]] = component
    return Layout(groups[first], parent, component, copy, slot, levels[first], components, inner, copies)


def stack_outer(
    codes: np.ndarray, count: int, groups: list[np.ndarray], levels: list[int], dims: list[int], n: int
) -> tuple[np.ndarray, int, tuple[np.ndarray, ...], tuple[np.ndarray, ...], tuple[int, ...]]:
    """Layout of the factors that are not eliminated with the first one, whose `codes` have `count` levels.

    Returns
    -------
    component of each row, their number, and copy, slot and copies, see `Layout`
    """
    component, components = connected([codes, *groups]) if groups else (np.zeros(n, np.int32), 1)
    copy, slot, copies = [], [], []
    for group, m in zip(groups, levels, strict=True):
        home = np.zeros(m, np.int32)
        home[group] = component
        order = np.argsort(home, kind="stable")
        starts = np.searchsorted(home[order], np.arange(components))
        local = np.empty(m, np.int32)
        local[order] = np.arange(m) - starts[home[order]]
        copies.append(int(local.max()) + 1)
        copy.append(local[group])
        slot.append((home, local))
    stacked = sum(q * c for q, c in zip(dims, copies, strict=True))
    if stacked > MAX_STACKED or max(count, n) * float(stacked) > MAX_STATISTICS:
        raise DataError(
            f"random terms: after the factor with most levels ({count}) is eliminated, {stacked} random "
            f"effects that cross it remain, too many for this version (at most {MAX_STACKED}, and rows * effects "
            f"at most {MAX_STATISTICS:.0e}); drop a term or fit a subset"
        )
    # few sizes, so that programs are shared: places that nobody has contribute nothing
    components, sizes = fine(components), tuple(map(fine, copies))
    slots = [pad_first(home * c + local, fine(len(home)), components * c)  # behind all places
             for (home, local), c in zip(slot, sizes, strict=True)]  # fmt: skip
    return component, components, tuple(copy), tuple(slots), sizes


def connected(factors: list[np.ndarray]) -> tuple[np.ndarray, int]:
    """Connected components of a design: the finest partition in which every factor is nested."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    offsets = np.cumsum([0] + [int(f.max()) + 1 for f in factors])
    nodes = [f.astype(np.int64) + o for f, o in zip(factors, offsets, strict=False)]
    i = np.concatenate([nodes[0]] * (len(nodes) - 1))
    j = np.concatenate(nodes[1:])
    graph = coo_array((np.ones(len(i), np.int8), (i, j)), shape=(offsets[-1], offsets[-1]))
    count, labels = connected_components(graph.tocsr(), directed=False)
    return labels[nodes[0]].astype(np.int32), int(count)
