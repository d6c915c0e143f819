"""Integer layout of the marginal engine: which rows depend on each other, and which clusters look alike (host side).

A cluster is a set of rows that the residual structure and the random functions tie together; random terms whose groups
lie within clusters are folded into them, all others (coarser or crossed factors) are left to be eliminated afterwards.
Clusters of similar size share a bucket of arrays, and those with the same places in it a pattern.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ....pytrees import frozen_pytree, is_traced
from ...parts import Field, Residual, Term
from ..layout import connected, stack_outer
from ..orthogonal import pad_first

MOST_LEVELS = 52  # whose presence fits into the digits of a float
ONE_BUCKET = 3e6  # clusters * T^3 below which all clusters are padded to the size of the largest


class BlockPlace(NamedTuple):
    """How one covariance block C enters V of the patterns.

    As ``mask * (S C S')``, ``mask * C[set, position]``, or, where rows stand at their levels, ``mask * C``.
    """

    S: Any  # (P, T, q) design or selector of levels; None for sets of coordinates, and for terms in a `Bucket`
    set: Any  # (P,) set of coordinates; or, with `position`, (P, T) of each row; None where C is the same for all
    position: Any  # (P, T) place in the set, None where it is 0, 1, ...
    mask: Any  # (P, T, T) or (1, T, T), None for ones

    def take(self, patterns: Any) -> BlockPlace:
        """The places of some patterns, each as often as it is named."""
        take = [None if x is None else x if x.shape[0] == 1 and x is self.mask else x[patterns] for x in self]
        return BlockPlace(*take)

    def padded(self, patterns: int, size: int) -> BlockPlace:
        """The same with zeros for patterns behind the last of `patterns`."""
        one = self.mask is not None and len(self.mask) == 1 < patterns
        return BlockPlace(*[x if x is self.mask and one else pad_first(x, size) for x in self])


class Bucket(NamedTuple):
    """Clusters of similar size.

    Attributes
    ----------
    row : (m, T) rows of each cluster, the number of rows where there is none
    pattern : (m,) pattern of each cluster, None where each has its own;  first : (P,) a cluster with each pattern
    present : (P, T) whether there is a row;  count : (P,) clusters of each pattern
    component : (m,) component of each cluster
    places : a `BlockPlace` for each random part and the residual, None for parts that are not folded
    """

    row: Any
    pattern: Any
    first: Any
    present: Any
    count: Any
    component: Any
    places: tuple[Any, ...]


@frozen_pytree(data=("buckets", "component", "copy", "slot"), meta=("inner", "copies", "components"))
@dataclass(frozen=True, eq=False)
class Clusters:
    """Layout of a model.

    Attributes
    ----------
    component : (n,) component of each row: what outer terms connect
    copy, slot, copies : of the outer terms, see `grouped.Layout`
    inner : positions of the random parts that are folded into clusters
    """

    buckets: tuple[Bucket, ...]
    component: Any
    copy: tuple[Any, ...]
    slot: tuple[Any, ...]
    inner: tuple[int, ...]
    copies: tuple[int, ...]
    components: int

    @property
    def outer(self) -> tuple[int, ...]:
        """Positions of the terms that are not folded."""
        return tuple(t for t in range(len(self.inner) + len(self.copies)) if t not in self.inner)


def arrange(random: tuple[Term | Field, ...], residual: Residual, n: int) -> Clusters:
    """Layout of a model with n rows; grouping factors must be concrete."""
    code = np.arange(n, dtype=np.int32) if residual.group is None else residual.group
    for part in random:
        if isinstance(part, Field) or not part.is_plain:
            code = _joined(code, linked(part))
    code = np.unique(code, return_inverse=True)[1].astype(np.int32)  # groups whose rows are all left out are none
    inner = [t for t, part in enumerate(random) if _is_folded(part, code)]
    outer = [t for t in range(len(random)) if t not in inner]
    clusters = int(code.max(initial=-1)) + 1
    terms = [part for t, part in enumerate(random) if t in outer and isinstance(part, Term)]
    component, components, copy, slot, copies = stack_outer(
        code, clusters, [t.group for t in terms], [t.levels for t in terms], [t.dim for t in terms], n
    )
    keys = [p.position for p in (*random, residual) if isinstance(p, Field) and p.group is not None]
    order = np.lexsort((*keys, code)) if keys else np.argsort(code, kind="stable")
    counts = np.bincount(code, minlength=clusters)
    slots = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    parts = [part if t in inner else None for t, part in enumerate(random)] + [residual]
    sizes = _sizes(counts)
    if at_levels := _stand_at_levels(inner, residual, counts, len(sizes)):
        slots = residual.position[order]
    buckets = []
    for members in sizes:
        row = np.full((clusters, residual.dim if at_levels else int(counts[members].max(initial=1))), n, np.int32)
        mine = np.isin(code[order], members)
        row[code[order][mine], slots[mine]] = order[mine]
        row = row[members]
        buckets.append(_bucket(row, parts, n, component[row.min(1)], at_levels))
    return Clusters(tuple(buckets), component, copy, slot, tuple(inner), copies, components)


def _joined(code: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The finest partition of rows that is coarser than both."""
    return code if np.array_equal(code, other) else connected([code, other])[0]


def linked(part: Term | Field) -> np.ndarray:
    """Rows that a part ties together: its groups, or the levels that a relationship matrix connects."""
    if isinstance(part, Field) or part.relationship is None:
        return np.asarray(part.group)
    if is_traced(part.relationship):  # anybody may be related to anybody
        return np.zeros(len(part.group), np.int32)
    return relatives(part.relationship)[part.group]


def relatives(relationship: np.ndarray) -> np.ndarray:
    """The family (m,) of each level, between which a relationship matrix has zeros."""
    from scipy.sparse.csgraph import connected_components

    return connected_components(relationship != 0, directed=False)[1].astype(np.int32)


def _is_folded(part: Term | Field, code: np.ndarray) -> bool:
    if isinstance(part, Field) or not part.is_plain:
        return True
    pairs = np.unique(part.group.astype(np.int64) * (int(code.max(initial=0)) + 1) + code)
    return len(pairs) == part.levels


def _sizes(counts: np.ndarray) -> list[np.ndarray]:
    """Clusters by size: all in one where that is cheap, else by powers of two."""
    largest = int(counts.max(initial=1))
    if len(counts) * largest**3 <= ONE_BUCKET or largest <= 8:
        return [np.arange(len(counts))]
    power = np.ceil(np.log2(np.maximum(counts, 4))).astype(int)
    return [np.flatnonzero(power == p) for p in np.unique(power)]


def _stand_at_levels(inner: list[int], residual: Residual, counts: np.ndarray, buckets: int) -> bool:
    """Whether rows can stand at the levels of the residual, all of V being its block with some levels left out."""
    over_levels = residual.group is not None and residual.coords is None
    return over_levels and not inner and buckets == 1 and residual.dim <= 2 * int(counts.max(initial=1))


def _bucket(row: np.ndarray, parts: list[Any], n: int, component: np.ndarray, at_levels: bool) -> Bucket:
    present = row < n
    locals_, keys = [], [present]
    for part in parts:
        local = None
        if part is not None:
            group = np.arange(n) if part.group is None else np.asarray(part.group)
            of_row = np.append(group, -1)[row]
            if row.shape[1] > 1 and np.any((of_row != of_row.max(1, keepdims=True)) & present):
                local = np.argmax(of_row[:, :, None] == of_row[:, None, :], 2)
                keys.append(local)
            if isinstance(part, Field) and part.group is not None:
                keys.append(np.append(part.position, -1)[row])
                if part.sets is not None:
                    keys.append(np.append(part.sets[part.group], -1)[row])
        locals_.append(local)
    if at_levels and row.shape[1] <= MOST_LEVELS:
        keys = [present @ 2.0 ** np.arange(row.shape[1])]
    first, pattern = distinct(keys)
    count = np.bincount(first if pattern is None else pattern, minlength=len(first)).astype(float)
    there, chosen = present[first], row[first]
    pairs = zip(parts, locals_, strict=True)
    places: list[Any] = [
        None if p is None else _place(p, None if c is None else c[first], chosen, there) for p, c in pairs
    ]
    if at_levels:
        places[-1] = BlockPlace(None, None, None, places[-1].mask)
    return Bucket(row, pattern, first, there, count, component, tuple(places))


def _place(part: Any, local: np.ndarray | None, row: np.ndarray, present: np.ndarray) -> BlockPlace:
    """Where a part enters V of the patterns with rows (P, T), whose groups are numbered by `local`."""
    both = present[:, :, None] & present[:, None, :]
    if local is not None:
        both = both & (local[:, :, None] == local[:, None, :])
    mask = None if np.all(both) else both[:1] * 1.0 if np.all(both == both[:1]) else both * 1.0
    if not isinstance(part, Field):
        return BlockPlace(None, None, None, mask)
    if part.coords is None:
        position = np.zeros(row.shape, int) if part.group is None else np.append(part.position, 0)[row]
        return BlockPlace((position[:, :, None] == np.arange(part.dim)) * present[:, :, None] * 1.0, None, None, mask)
    sets, position = np.append(part.sets[part.group], 0)[row], np.append(part.position, 0)[row]
    if local is None and np.all((position == np.arange(row.shape[1])) | ~present):
        return BlockPlace(None, sets[:, 0], None, mask)
    return BlockPlace(None, sets, position, mask)


def distinct(keys: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """A cluster with each pattern (P,), and the pattern of each (m,), from arrays (m, ...) that tell clusters apart.

    Where no two clusters are alike the patterns are the clusters in their order, and the second is None.
    """
    if len(keys[0]) == 1:  # one cluster may be large
        return np.zeros(1, np.int32), None
    table = np.concatenate([np.reshape(key, (len(key), -1)).astype(float) for key in keys], 1)
    one = table[:, 0] if table.shape[1] == 1 else table
    _, first, pattern = np.unique(one, axis=0, return_index=True, return_inverse=True)
    if len(first) == len(table):
        return np.arange(len(table), dtype=np.int32), None
    return first.astype(np.int32), pattern.reshape(-1).astype(np.int32)
