"""How the factor eliminated first meets the effects of all others: products with its sparse cross-products.

With B_g = Q_g'Z_rest (q, Q) for every level g of the first factor, Q_g being orthonormal columns of its design, an
evaluation needs ``sum_g B_g'D_g B_g`` for symmetric D_g and products of B_g with vectors. Two ways to keep B:

`Pairs`: every pair of effects that meets in a level, in the order of where it is added; and `Full`: B as a dense array.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..design import frozen_pytree
from ..linalg import tril_indices

PAIR = 30.0  # cost of a pair, in multiplications of a matrix product
MAX_PAIRS = 4e7
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
        return flat.T @ jnp.einsum("ijg,jgk->igk", D, B).reshape(flat.shape)

    def across(self, N: Array) -> Array:
        """``sum_g B_g'N_g`` (Q, b) for N (q, b, levels)."""
        return jnp.einsum("qgk,qbg->kb", self.B, N)

    def back(self, V: Array) -> Array:
        """``B_g V`` (q, b, levels) for V (Q, b)."""
        return jnp.einsum("qgk,kb->qbg", self.B, V)

    def inner(self, K: Array) -> Array:
        """``B_g K B_g'`` (q, q, levels) for symmetric K (Q, Q)."""
        B = jnp.asarray(self.B)
        return jnp.einsum("igk,jgk->ijg", B, (B.reshape(-1, B.shape[-1]) @ K).reshape(B.shape))


Coupling = Pairs | Full


def coupling_of(entries: Entries, levels: int, effects: int) -> Coupling:
    """The way that takes less time."""
    q = len(entries.value)
    count = np.bincount(entries.level, minlength=levels).astype(float)
    pairs = 0.5 * q * (q + 1) / 2 * np.sum(count * (count + 1))
    dense = q * levels * float(effects) ** 2
    if dense > SMALL and pairs <= MAX_PAIRS and PAIR * pairs < dense:
        return Pairs.of(entries, levels, effects)
    return Full.of(entries, levels, effects)
