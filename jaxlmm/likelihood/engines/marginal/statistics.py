"""Statistics of clusters for the marginal engine: rows by cluster, or sums of their products by pattern."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ...parts import Field
from ..base import Rows
from ..orthogonal import bucket, fine, pad_first
from .layout import BlockPlace, Bucket, Clusters, distinct

PACKED = 1e6  # numbers of outer products packed at a time
FEW = 16  # patterns that cost nothing
MAX_PRODUCTS = 5e7  # numbers of outer products kept; above it they are formed at every evaluation


class Clustered(NamedTuple):
    """Statistics of the clusters of a bucket; those behind the last cluster and pattern have no rows."""

    row: Any  # (m, T)
    pattern: Any  # (m,) None where every cluster is a pattern
    present: Any  # (P, T)
    count: Any  # (P,) clusters of each pattern
    component: Any  # (m,)
    places: tuple[Any, ...]  # a `Place` a part, None for outer terms
    W: Any  # (m, T, r) rows by cluster, zeros where there is none; None where S is enough
    S: Any  # (P, T (T+1) / 2, r (r+1) / 2) summed products, lower triangles row by row; or None

    @property
    def is_at_levels(self) -> bool:
        """Whether V of every cluster is the residual block with some levels left out."""
        last = self.places[-1]
        return not any(self.places[:-1]) and last.S is None and last.set is None

    def tight(self) -> Clustered:
        """The same with hardly more patterns than there are (NumPy): in many lanes each would cost a factorisation."""
        size = fine(int(np.flatnonzero(self.count).max(initial=0)) + 1)
        if self.pattern is None or size >= len(self.count):
            return self
        places = tuple(None if p is None else p.take(np.arange(size)) for p in self.places)
        present, count, S = (None if x is None else x[:size] for x in (self.present, self.count, self.S))
        return self._replace(present=present, count=count, places=places, S=S)

    def squares(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Sums of squares of the last column, and numbers of rows, by place (..., *shape); see `place_squares`."""
        last, present = self.places[-1], np.asarray(self.present, float)
        T = present.shape[-1]
        place = np.broadcast_to(np.arange(T), present.shape)
        if last.S is not None:
            place = np.argmax(np.asarray(last.S) > 0, -1)
        elif last.set is not None:
            sets = np.asarray(last.set)
            place = (sets if last.position is not None else sets[..., None]) * shape[-1]
            place = place + (np.arange(T) if last.position is None else np.asarray(last.position))
        place = np.broadcast_to(place, present.shape)
        if self.S is None:
            square = np.asarray(self.W)[..., -1] ** 2
            if self.pattern is not None:
                own = np.broadcast_to(np.asarray(self.pattern)[..., None], (*self.pattern.shape, T))
                place, present = (np.take_along_axis(x, own, -2) for x in (place, present))
        else:
            square = np.asarray(self.S)[..., np.cumsum(np.arange(1, T + 1)) - 1, -1]
            present = present * np.asarray(self.count)[..., None]
        return _by_place(square, place, shape), _by_place(present, place, shape)


def _by_place(values: np.ndarray, place: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sums (..., *shape) of values (..., m, T) at their places (m, T) or (..., m, T)."""
    lead, size = values.shape[:-2], int(np.prod(shape))
    flat = np.broadcast_to(place, values.shape).reshape(-1, values.shape[-2] * values.shape[-1])
    at = (np.arange(len(flat))[:, None] * size + flat).ravel()
    return np.bincount(at, values.ravel(), len(flat) * size).reshape(*lead, *shape)


def clustered(
    own: Bucket, rows: Rows, parts: tuple[Any, ...], layout: Clusters, W: Any, concrete: bool, keep: bool, xp: Any
) -> Clustered:  # fmt: skip
    """Statistics of one bucket; values of Z, weights and relationships may tell more patterns apart."""
    row, m = own.row, own.row.shape[0]
    Z = [
        _padded(rows.Z[t], xp)[row] if t in layout.inner and rows.Z[t] is not None else None for t in range(len(rows.Z))
    ]
    kin = [None if getattr(part, "relationship", None) is None else _between(part, row, xp) for part in parts]
    here = None if rows.present is None else _padded(1.0 * rows.present[:, None], xp)[row][..., 0]
    values = [value for value in (*Z, *kin, here) if value is not None]
    first, pattern, present, count, places = own.first, own.pattern, own.present, own.count, own.places
    if values:
        of_cluster = np.arange(m, dtype=np.int32) if pattern is None else pattern
        first, pattern = np.arange(m, dtype=np.int32), None
        if concrete:
            first, pattern = distinct([of_cluster, *values])
            count = np.bincount(first if pattern is None else pattern, minlength=len(first)).astype(float)
        else:
            count = np.ones(m)
        source = of_cluster[first]
        present, places = present[source], tuple(None if p is None else p.take(source) for p in places)
        present = present if here is None else present & (here[first] > 0.0)
        for t, z in enumerate(Z):
            if z is not None:
                places = (*places[:t], _valued(places[t], parts[t], z[first]), *places[t + 1 :])
        for t, A in enumerate(kin):
            if A is not None:
                places = (*places[:t], places[t]._replace(mask=A[first]), *places[t + 1 :])
    component = own.component
    if concrete:  # few numbers of clusters and patterns, so that programs are shared
        m = fine(m)
        size = m if pattern is None else fine(max(len(first), min(m, FEW)))
        row, pattern, component = pad_first(row, m, len(W)), pad_first(pattern, m), pad_first(component, m)
        present, count = pad_first(present, size), pad_first(count, size)
        places = tuple(None if p is None else p.padded(len(first), size) for p in places)
    P, T = present.shape
    r = W.shape[1]
    by_row: Any = by_cluster(W, row)
    S: Any = None
    size = P * (T * (T + 1) // 2) * (r * (r + 1) // 2)
    directions = sum(part.structure.size(part.dim) for part in parts)
    if not keep and size <= MAX_PRODUCTS and size * directions <= m * (T * r) ** 2:
        by_row, S = None, products(by_row, pattern, P)
    return Clustered(row, pattern, present, count, component, places, by_row, S)


def _valued(place: BlockPlace, part: Any, z: Any) -> BlockPlace:
    """The place with the values z (P, T, .) of Z, or of the square roots of weights for a random function."""
    if not isinstance(part, Field):
        return place._replace(S=z)
    if place.S is not None:
        return place._replace(S=place.S * z)
    return place._replace(mask=z * z[:, None, :, 0] * (1.0 if place.mask is None else place.mask))


def _between(term: Any, row: Any, xp: Any) -> Any:
    """Entries of a relationship matrix between the rows of each cluster (m, T, T), zero where there is no row."""
    A = xp.pad(xp.asarray(term.relationship), ((0, 1), (0, 1)))
    codes = xp.append(term.group, term.levels)[row]
    return A[codes[:, :, None], codes[:, None, :]]


def _padded(rows: Any, xp: Any) -> Any:
    """Rows (n, .) with a row of zeros behind."""
    return xp.concatenate([rows, xp.zeros((1, rows.shape[1]))])


def by_cluster(rows: Any, row: Any) -> Any:
    """Rows (n, r) by cluster (m, T, r), zeros where there is none."""
    xp: Any = np if isinstance(rows, np.ndarray) and isinstance(row, np.ndarray) else jnp
    return _padded(rows, xp)[row]


def products(X: np.ndarray, pattern: np.ndarray | None, patterns: int) -> np.ndarray:
    """Sums over the clusters of each pattern of the outer products of X (m, T, r), packed as `Clustered.S`."""
    T, r = X.shape[1:]
    t, u = np.tril_indices(T)
    i, j = np.tril_indices(r)
    rows, members = X.reshape(len(X), -1), _members(pattern, patterns)
    out = np.empty((patterns, len(t), len(i)))
    step = max(1, int(PACKED // (T * r) ** 2))
    for p in range(0, patterns, step):  # few at a time: unpacked products are four times as many
        full = np.stack([rows[m].T @ rows[m] for m in members[p : p + step]]).reshape(-1, T, r, T, r)
        packed = full[:, t, :, u][:, :, i, j] + full[:, u, :, t][:, :, i, j]  # an entry and its mirror image
        out[p : p + step] = np.swapaxes(packed * np.where(t == u, 0.5, 1.0)[:, None, None], 0, 1)
    return out


def repeated(
    U: np.ndarray, subject: np.ndarray, position: np.ndarray, lane: np.ndarray, lanes: int, levels: int
) -> Clustered:  # fmt: skip
    """Statistics of many data sets of repeated measures at levels, all at once; every array has the data sets in front.

    Parameters
    ----------
    U : (n, r) rows of all data sets;  subject : (n,) numbered through all of them;  position : (n,) levels
    lane : (n,) data set of each row, ascending
    """
    subjects, r = int(subject.max(initial=-1)) + 1, U.shape[1]
    home = np.zeros(subjects, np.int64)
    home[subject] = lane
    seen = np.bincount(subject, 2.0**position, subjects)  # the levels of a subject as digits
    order = np.lexsort((seen, home))
    new = np.append(True, (np.diff(home[order]) > 0) | (np.diff(seen[order]) > 0))[: len(order)]
    key = np.empty(subjects, np.int64)
    key[order] = np.cumsum(new) - 1
    own, digits = home[order][new], seen[order][new].astype(np.int64)
    rank = np.arange(len(own)) - np.searchsorted(own, own)
    P = bucket(int(rank.max(initial=0)) + 1)
    present, count = np.zeros((lanes, P, levels), bool), np.zeros((lanes, P))
    present[own, rank] = digits[:, None] >> np.arange(levels) & 1 > 0
    count[own, rank] = np.bincount(key, minlength=len(own))
    by_subject = np.zeros((subjects, levels, r))
    by_subject[subject, position] = U
    t, i = levels * (levels + 1) // 2, r * (r + 1) // 2
    S = np.zeros((lanes, P, t, i))
    S[own, rank] = products(by_subject, key, len(own))
    both = present[..., :, None] & present[..., None, :]
    place = BlockPlace(None, None, None, both.astype(float))
    return Clustered(None, None, present, count, None, (place,), None, S)


def _members(pattern: np.ndarray | None, patterns: int) -> list[np.ndarray]:
    """Clusters of each pattern."""
    if pattern is None:
        return list(np.arange(patterns)[:, None])
    order = np.argsort(pattern, kind="stable")
    return np.split(order, np.searchsorted(pattern[order], np.arange(1, patterns)))


def _by_pattern(fixed: np.ndarray, bucket: Clustered) -> list[tuple[np.ndarray, np.ndarray]]:
    """Clusters of each pattern, and rows of theirs by level (T, f, members); none where rows are kept."""
    if bucket.S is None:
        return []
    rows, patterns = by_cluster(fixed, bucket.row), _members(bucket.pattern, len(bucket.present))
    return [(members, np.ascontiguousarray(np.moveaxis(rows[members], 0, -1))) for members in patterns]


class VaryingClusters:
    """The design side of the marginal engine, which turns the last columns of U into statistics (NumPy)."""

    def __init__(self, fixed: np.ndarray, buckets: tuple[Clustered, ...]):
        self.buckets, self.fixed = buckets, fixed.shape[1]
        self.patterns = [_by_pattern(fixed, b) for b in buckets]

    @property
    def floats(self) -> int:
        """Numbers of a data set's statistics, for each column."""
        last = [b.W[..., :1] if b.S is None else b.S[..., : self.fixed + 1] for b in self.buckets]
        return sum(int(np.size(part)) for part in last)

    def __call__(self, columns: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        """For each bucket the rows (b, m, T, count) of columns, each (n, b), or their part of `Clustered.S`."""
        return tuple(self._own(b, p, columns) for b, p in zip(self.buckets, self.patterns, strict=True))

    def _own(
        self, bucket: Clustered, patterns: list[tuple[np.ndarray, np.ndarray]], columns: list[np.ndarray]
    ) -> np.ndarray:  # fmt: skip
        padded = [by_cluster(column, bucket.row) for column in columns]  # (m, T, b)
        if bucket.S is None:
            return np.moveaxis(np.stack(padded, -1), 2, 0)
        P, T = bucket.present.shape
        t, u = np.tril_indices(T)
        half = np.where(t == u, 0.5, 1.0)[:, None]
        f, b, count = self.fixed, columns[0].shape[1], len(columns)
        out = np.empty((b, P, len(t), count * f + count * (count + 1) // 2))
        for p, (members, by_level) in enumerate(patterns):
            start = 0
            for j, y in enumerate(padded):
                # a level at a time: as one product it would be large enough for threads that wait for each other
                cross = (by_level @ y[members].reshape(len(members), T * b)).reshape(T, f, T, b).transpose(3, 0, 2, 1)
                out[:, p, :, start : start + f] = (cross + np.swapaxes(cross, 1, 2))[:, t, u] * half
                start += f
                for x in padded[: j + 1]:
                    own = np.einsum("mtb,mub->btu", x[members], y[members], optimize=True)
                    out[:, p, :, start] = (own + np.swapaxes(own, 1, 2))[:, t, u] * half[:, 0]
                    start += 1
        return out
