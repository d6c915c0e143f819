"""How the factor eliminated first meets the effects of all others: products with its sparse cross-products.

With B_g = Q_g'Z_rest (q, Q) for every level g of the first factor, Q_g being orthonormal columns of its design, an
evaluation needs ``sum_g B_g'D_g B_g`` for symmetric D_g and products of B_g with vectors. Two ways to keep B:

`Pairs`: every pair of effects that meets in a level, in the order of where it is added; and `Full`: B as a dense array.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ....linalg import tril_indices
from ....pytrees import frozen_pytree

PAIR = 30.0  # cost of a pair, in multiplications of a matrix product
MAX_PAIRS = 4e7
MAX_FULL = 1e8  # entries of a dense array
CHUNK = 2e7  # entries of one that is made again at every evaluation
STRIPS, WIDE = 8, 800  # strips of a symmetric matrix, and its size above which it is made in strips
SMALL = 2e7  # multiplications below which a dense array is kept in any case: programs depend on sizes alone


class Entries(NamedTuple):
    """Nonzero columns of all B_g, by level and then by effect (NumPy)."""

    level: np.ndarray  # (nnz,)
    effect: np.ndarray  # (nnz,) positions among the stacked effects
    value: np.ndarray  # (q, nnz)


def entries_of(
    units: list[np.ndarray], codes: np.ndarray, Z: list[np.ndarray], groups: list[np.ndarray], levels: tuple[int, ...]
) -> Entries:  # fmt: skip
    """Entries from rows: orthonormal columns `units` (n,) by level `codes`; Z (n, q_t) and codes of the others."""
    parts, start = [], 0
    for z, group, m in zip(Z, groups, levels, strict=True):
        keys, where = np.unique(codes.astype(np.int64) * m + group, return_inverse=True)
        size, dim = len(keys), z.shape[1]
        value = np.array([[np.bincount(where, unit * column, size) for column in z.T] for unit in units])
        effect = start + (keys % m)[:, None] * dim + np.arange(dim)
        level = np.repeat(keys // m, dim)
        parts.append((level, effect.ravel(), np.swapaxes(value, 1, 2).reshape(len(units), -1)))
        start += m * dim
    level, effect, value = (np.concatenate(part, -1) for part in zip(*parts, strict=True))
    order = np.argsort(level * start + effect, kind="stable")
    return Entries(level[order].astype(np.int32), effect[order].astype(np.int32), value[:, order])


@frozen_pytree(data=("level", "effect", "value", "source", "target", "product"), meta=("levels", "effects"))
@dataclass(frozen=True, eq=False)
class Pairs:
    """B by its entries, and every pair of them in a level, of which only those with row >= column are kept.

    Attributes
    ----------
    level, effect, value : see `Entries`
    source : (pairs,) level of each pair;  target : (pairs,) ascending, position in the lower triangle (Q, Q)
    product : (q (q+1) / 2, pairs) what multiplies the entries of D_g, lower triangle
    """

    level: Any
    effect: Any
    value: Any
    source: Any
    target: Any
    product: Any
    levels: int
    effects: int

    @classmethod
    def of(cls, entries: Entries, levels: int, effects: int) -> Pairs:
        """From entries (NumPy)."""
        count = np.bincount(entries.level, minlength=levels)
        first = np.concatenate([[0], np.cumsum(count)])[entries.level]
        place = np.arange(len(first)) - first
        ends = np.cumsum(place + 1)
        row = np.repeat(np.arange(len(first)), place + 1)
        column = np.arange(len(row)) - (ends - place - 1)[row] + first[row]
        target = entries.effect[row].astype(np.int64) * effects + entries.effect[column]
        order = np.argsort(target, kind="stable")
        row, column = row[order], column[order]
        b, rows, columns = entries.value, *tril_indices(len(entries.value))
        product = np.array([
            b[i][row] * b[j][column] + (b[j][row] * b[i][column] if i != j else 0.0)
            for i, j in zip(rows, columns, strict=True)
        ])  # fmt: skip
        wide = np.int32 if effects**2 < 2**31 else np.int64
        target = target[order].astype(wide)
        return cls(entries.level, entries.effect, b, entries.level[row], target, product, levels, effects)

    def schur(self, D: Array) -> Array:
        """``sum_g B_g'D_g B_g`` (Q, Q) for symmetric D (q, q, levels)."""
        rows, columns = tril_indices(D.shape[0])
        taken = [p * D[i, j][self.source] for p, i, j in zip(self.product, rows, columns, strict=True)]
        Q = self.effects
        flat = jax.ops.segment_sum(sum(taken[1:], taken[0]), self.target, Q * Q, indices_are_sorted=True)
        lower = flat.reshape(Q, Q)
        return lower + jnp.tril(lower, -1).T

    def across(self, N: Array) -> Array:
        """``sum_g B_g'N_g`` (Q, b) for N (q, b, levels)."""
        terms = jnp.einsum("qe,qbe->eb", self.value, N[..., self.level])
        return jax.ops.segment_sum(terms, self.effect, self.effects)

    def back(self, V: Array) -> Array:
        """``B_g V`` (q, b, levels) for V (Q, b)."""
        terms = jnp.einsum("qe,eb->eqb", self.value, V[self.effect])
        return jnp.moveaxis(jax.ops.segment_sum(terms, self.level, self.levels, indices_are_sorted=True), 0, -1)

    def dense(self) -> Array:
        """B (q, levels, Q) itself."""
        empty = jnp.zeros((len(self.value), self.levels, self.effects))
        return empty.at[:, self.level, self.effect].set(self.value)

    def inner(self, K: Array) -> Array:
        """``B_g K B_g'`` (q, q, levels) for symmetric K (Q, Q): the transpose of `schur`."""
        q = self.value.shape[0]
        zero = jnp.zeros((q, q, self.levels))
        (found,) = jax.vjp(self.schur, zero)[1](K)
        return 0.5 * (found + jnp.swapaxes(found, 0, 1))


@frozen_pytree(data=("B",))
@dataclass(frozen=True, eq=False)
class Full:
    """B (q, levels, Q) as a dense array; methods as in `Pairs`."""

    B: Any

    @classmethod
    def of(cls, entries: Entries, levels: int, effects: int) -> Full:
        """From entries (NumPy)."""
        B = np.zeros((len(entries.value), levels, effects))
        B[:, entries.level, entries.effect] = entries.value
        return cls(B)

    def schur(self, D: Array) -> Array:
        """``sum_g B_g'D_g B_g`` (Q, Q) for symmetric D (q, q, levels)."""
        B = jnp.asarray(self.B)
        flat = B.reshape(-1, B.shape[-1])
        return symmetric_product(flat, jnp.einsum("ijg,jgk->igk", D, B).reshape(flat.shape))

    def across(self, N: Array) -> Array:
        """``sum_g B_g'N_g`` (Q, b) for N (q, b, levels)."""
        return jnp.einsum("qgk,qbg->kb", self.B, N)

    def back(self, V: Array) -> Array:
        """``B_g V`` (q, b, levels) for V (Q, b)."""
        return jnp.einsum("qgk,kb->qbg", self.B, V)

    def dense(self) -> Array:
        """B (q, levels, Q) itself."""
        return jnp.asarray(self.B)

    def inner(self, K: Array) -> Array:
        """``B_g K B_g'`` (q, q, levels) for symmetric K (Q, Q)."""
        B = jnp.asarray(self.B)
        return jnp.einsum("igk,jgk->ijg", B, (B.reshape(-1, B.shape[-1]) @ K).reshape(B.shape))


@frozen_pytree(data=("level", "effect", "value"), meta=("levels", "width", "effects"))
@dataclass(frozen=True, eq=False)
class Chunked:
    """B made dense for some levels of the first factor at a time; methods as in `Pairs`.

    Attributes
    ----------
    level, effect : (chunks, capacity) place of each entry, `level` within its chunk and `width` where there is none
    value : (chunks, q, capacity)
    levels, width, effects : levels of the first factor, of a chunk, and effects Q
    """

    level: Any
    effect: Any
    value: Any
    levels: int
    width: int
    effects: int

    @classmethod
    def of(cls, entries: Entries, levels: int, effects: int) -> Chunked:
        """From entries (NumPy)."""
        width = max(1, min(levels, int(CHUNK / (len(entries.value) * effects))))
        ends = np.searchsorted(entries.level, np.arange(0, levels + width, width))
        count = np.diff(ends)
        level = np.full((len(count), count.max()), width, np.int32)
        effect, value = np.zeros_like(level), np.zeros((len(count), len(entries.value), count.max()))
        for chunk, (a, b) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
            level[chunk, : b - a] = entries.level[a:b] - chunk * width
            effect[chunk, : b - a] = entries.effect[a:b]
            value[chunk, :, : b - a] = entries.value[:, a:b]
        return cls(level, effect, value, levels, width, effects)

    def schur(self, D: Array) -> Array:
        """``sum_g B_g'D_g B_g`` (Q, Q) for symmetric D (q, q, levels)."""
        return self._sum(lambda chunk, D: chunk.schur(D), D, (self.effects, self.effects))

    def across(self, N: Array) -> Array:
        """``sum_g B_g'N_g`` (Q, b) for N (q, b, levels)."""
        return self._sum(lambda chunk, N: chunk.across(N), N, (self.effects, N.shape[1]))

    def back(self, V: Array) -> Array:
        """``B_g V`` (q, b, levels) for V (Q, b)."""
        return self._each(lambda chunk: chunk.back(V))

    def dense(self) -> Array:
        """B (q, levels, Q) itself."""
        return jnp.moveaxis(self._each(lambda chunk: jnp.moveaxis(jnp.asarray(chunk.B), 1, -1)), -1, 1)

    def inner(self, K: Array) -> Array:
        """``B_g K B_g'`` (q, q, levels) for symmetric K (Q, Q)."""
        return self._each(lambda chunk: chunk.inner(K))

    def _chunk(self, entries: tuple[Any, Any, Any]) -> Full:
        level, effect, value = entries
        empty = jnp.zeros((value.shape[0], self.width + 1, self.effects))
        return Full(empty.at[:, level, effect].set(value)[:, : self.width])

    def _sum(self, term: Callable[[Full, Array], Array], D: Array, shape: tuple[int, ...]) -> Array:
        """Sum over chunks, D (..., levels) being given by chunks."""
        padding = [(0, 0)] * (D.ndim - 1) + [(0, len(self.level) * self.width - self.levels)]
        parts = jnp.moveaxis(jnp.pad(D, padding).reshape(*D.shape[:-1], -1, self.width), -2, 0)

        def add(total: Array, each: tuple[Any, Array]) -> tuple[Array, None]:
            return total + term(self._chunk(each[0]), each[1]), None

        return jax.lax.scan(add, jnp.zeros(shape), ((self.level, self.effect, self.value), parts))[0]

    def _each(self, of: Callable[[Full], Array]) -> Array:
        """Results (..., levels) chunk by chunk."""
        parts = jax.lax.map(lambda entries: of(self._chunk(entries)), (self.level, self.effect, self.value))
        whole = jnp.moveaxis(parts, 0, -2)
        return whole.reshape(*whole.shape[:-2], -1)[..., : self.levels]


def symmetric_product(X: Array, Y: Array) -> Array:
    """X'Y (Q, Q) where it is known to be symmetric; a large one by strips of its lower triangle alone."""
    Q = X.shape[1]
    if Q < WIDE:
        return X.T @ Y
    cuts = np.linspace(0, Q, STRIPS + 1).astype(int)
    strips = [X[:, a:].T @ Y[:, a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    lower = jnp.concatenate([jnp.pad(s, ((Q - len(s), 0), (0, 0))) for s in strips], 1)
    lower = jnp.tril(lower)
    return lower + jnp.tril(lower, -1).T


Coupling = Pairs | Full | Chunked


def coupling_of(entries: Entries, levels: int, effects: int) -> Coupling:
    """The way that takes less time, within the memory for it."""
    q = len(entries.value)
    count = np.bincount(entries.level, minlength=levels).astype(float)
    pairs = 0.5 * q * (q + 1) / 2 * np.sum(count * (count + 1))
    size = q * float(levels) * effects
    if size * effects > SMALL and pairs <= MAX_PAIRS and PAIR * pairs < size * effects:
        return Pairs.of(entries, levels, effects)
    return (Full if size <= MAX_FULL else Chunked).of(entries, levels, effects)
