"""Balanced designs of several factors: an orthogonal change of the rows makes V diagonal, whatever the variances.

Where the matrices Z_t Z_t' of terms of one effect a level commute (nested factors whose levels have equally many rows,
complete crossings, split plots, lattices) they have eigenvectors in common, and these fall into few strata, in which
each matrix is a multiple of the identity (orthogonal block structure: Nelder 1965, Proc. R. Soc. A 283, 147-162). Then

    log|V| = sum_s count_s log(lambda_s),  U'V^-1 U = sum_s P_s / lambda_s,  lambda_s = s2 + sum_t g_t value_ts

with products P_s of U within each stratum: an evaluation costs strata * r^2 whatever the number of rows and levels,
as sums of positive terms, and derivatives are those of logarithms and fractions. Components of the design that are
alike share one decomposition; those that are not have strata of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from ...pytrees import frozen_pytree, replace
from ...tolerances import ALIASED, COMMUTE, NO_LENGTH
from .base import Blocks, Expansion, Rows, Statistics, Weigh
from .grouped.batches import cross_products
from .layout import connected, factors_of, lacks_factors
from .orthogonal import bucket

MOST_EFFECTS = 400  # of a component
MOST_PATTERNS = 16  # components that differ
MOST_STRATA = 48


@dataclass(frozen=True, eq=False)
class Decomposition:
    """The change of rows that makes every Z_t Z_t' diagonal (NumPy).

    Attributes
    ----------
    T : Z' of all terms, sparse (levels, n)
    patterns : for components that are alike, their levels (c, q), and H (k, q) that turns their Z'y into coordinates
    order : of the coordinates of all patterns, those of a stratum together
    ends : (s + 1,) first of the coordinates of each stratum, and their number
    values : (t, s) eigenvalue of each Z_t Z_t' in each stratum
    """

    T: Any
    patterns: tuple[tuple[np.ndarray, np.ndarray], ...]
    order: np.ndarray
    ends: np.ndarray
    values: np.ndarray

    @classmethod
    def find(cls, Z: tuple[np.ndarray, ...], codes: tuple[np.ndarray, ...]) -> Decomposition | None:
        """From designs (n, 1) and levels (n,) of each term; None where they do not commute, or have many strata."""
        if any(z.shape[1] != 1 for z in Z):
            return None
        n, starts = len(codes[0]), np.cumsum([0, *(int(c.max()) + 1 for c in codes)])
        component, _ = connected(list(codes))
        home = np.full(starts[-1], -1)
        for code, start in zip(codes, starts, strict=False):
            home[start + code] = component
        sizes = np.bincount(home[home >= 0])
        if sizes.max() > MOST_EFFECTS or len(np.unique(sizes)) > MOST_PATTERNS:
            return None
        from scipy.sparse import csr_array

        places = np.concatenate([start + code for code, start in zip(codes, starts, strict=False)])
        T = csr_array((np.concatenate([z[:, 0] for z in Z]), (places, np.tile(np.arange(n), len(Z)))))
        term = np.repeat(np.arange(len(Z)), np.diff(starts))
        patterns: list[tuple[np.ndarray, Any]] = []
        values = []
        for levels, M in _alike((T @ T.T).tocsr(), home, sizes):
            found = diagonalised(M, term[levels[0]], len(Z))
            if found is None or len(patterns) == MOST_PATTERNS:
                return None
            patterns.append((levels, found[0]))
            values.append(np.tile(found[1], len(levels)))
        return cls._in_strata(T, tuple(patterns), np.concatenate(values, 1))

    @classmethod
    def _in_strata(cls, T: Any, patterns: tuple[Any, ...], values: np.ndarray) -> Decomposition | None:
        """Coordinates with eigenvalues `values` (t, k) in the order of strata."""
        relative = values / np.max(values, 1, keepdims=True)
        keys = np.round(relative / NO_LENGTH)
        _, stratum, count = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
        if len(count) > MOST_STRATA:
            return None
        stratum = stratum.reshape(-1)
        means = np.stack([np.bincount(stratum, row) / count for row in np.where(keys == 0, 0.0, values)])
        return cls(T, patterns, np.argsort(stratum, kind="stable"), np.cumsum([0, *count]), means)

    def __call__(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (k, b) of columns y (n, b) by stratum, and what is left of y."""
        total: Any = 0.0
        for _ in range(2):
            sums = self.T @ y
            parts, back = [], np.zeros_like(sums)
            for levels, H in self.patterns:
                part = H @ sums[levels]  # (c, k, b)
                back[levels] = H.T @ part
                parts.append(part.reshape(-1, y.shape[1]))
            total = total + np.concatenate(parts)
            y = y - self.T.T @ back
        return total[self.order], y

    def products(self, inside: tuple[Any, list[Any]], left: tuple[Any, list[Any]], size: int) -> np.ndarray:
        """Products (f + count, count, b, size) of columns, each (n, b), with fixed ones (n, f) and with each other.

        By stratum; the last one is what is `left`, those before it up to `size` are empty.
        """
        fixed, columns = inside
        pairs = zip(self.ends[:-1], self.ends[1:], strict=True)
        parts = [cross_products(fixed[a:b], [w[a:b] for w in columns]) for a, b in pairs]
        parts += [np.zeros_like(parts[0])] * (size - 1 - len(parts))
        return np.stack([*parts, cross_products(*left)], -1)


def _alike(M: Any, home: np.ndarray, sizes: np.ndarray) -> Any:
    """Levels (c, q) of components with the same cross-products (q, q), and these, from the sparse M of all levels."""
    order = np.argsort(home, kind="stable")[np.count_nonzero(home < 0) :]
    first = np.cumsum(sizes) - sizes
    for q in np.unique(sizes):
        levels = order[first[sizes == q][:, None] + np.arange(q)]
        blocks = np.zeros((len(levels), q, q))
        place = np.full(len(home), -1)
        place[levels] = np.arange(q)
        block = np.full(len(home), -1)
        block[levels] = np.arange(len(levels))[:, None]
        entries = M.tocoo()
        rows, columns = entries.coords
        mine = block[rows] >= 0
        blocks[block[rows[mine]], place[rows[mine]], place[columns[mine]]] = entries.data[mine]
        found, pattern = np.unique(blocks.reshape(len(levels), -1), axis=0, return_inverse=True)
        if len(found) > MOST_PATTERNS:
            found = found[: MOST_PATTERNS + 1]  # enough to be too many
        for k, flat in enumerate(found):
            yield levels[pattern.reshape(-1) == k], flat.reshape(q, q)


def diagonalised(M: np.ndarray, term: np.ndarray, terms: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Coordinates in which every Z_t Z_t' is diagonal, from ``M = Z'Z`` (q, q) and the term of each column (q,).

    Returns
    -------
    H (k, q), which gives the coordinates of y from Z'y, and eigenvalues (t, k); None where the matrices do not commute.
    """
    size = np.sqrt(np.diagonal(M))
    size = np.where(size > 0, size, 1.0)  # a level whose rows are zero, or have no weight
    d, V = np.linalg.eigh(M / (size[:, None] * size))
    here = d > ALIASED * d[-1]
    if np.any(here & (d < np.sqrt(ALIASED) * d[-1])):
        return None  # not clear which columns are dependent
    d, V = d[here], V[:, here]
    R = np.sqrt(d)[:, None] * V.T * size  # Z = Q R with orthonormal Q
    B = np.stack([R[:, term == t] @ R[:, term == t].T for t in range(terms)])
    unit = B / np.linalg.norm(B, axis=(1, 2), keepdims=True)
    products = unit[:, None] @ unit
    if np.max(np.abs(products - np.swapaxes(products, 2, 3)), initial=0.0) > COMMUTE:
        return None
    _, turn = np.linalg.eigh(np.tensordot(np.sqrt(2.0 + np.arange(terms)), unit, 1))
    inside = turn.T @ B @ turn
    values = np.diagonal(inside, axis1=1, axis2=2)
    largest = np.max(values, 1)
    if np.any(np.abs(inside - values[:, None] * np.eye(len(d))) > 10.0 * COMMUTE * largest[:, None, None]):
        return None
    return turn.T @ (V / np.sqrt(d)).T / size, values


@frozen_pytree(data=("values", "count", "P"))
@dataclass(frozen=True, eq=False)
class Strata(Statistics):
    """Statistics of a balanced design, by stratum; the last one is what no random effect reaches.

    Attributes
    ----------
    values : (t, s) eigenvalues of each Z_t Z_t';  count : (s,) dimensions;  P : (r, r, s) products of U
    """

    values: Any
    count: Any
    P: Any

    @classmethod
    def of(cls, rows: Rows, found: Decomposition) -> Strata:
        """Statistics from concrete rows (NumPy)."""
        inside, left = found(rows.U)
        count = np.diff(found.ends)
        size = bucket(len(count) + 1)
        none, columns = np.zeros((len(inside), 0)), [inside[:, i, None] for i in range(inside.shape[1])]
        rest = np.zeros((len(left), 0)), [left[:, i, None] for i in range(left.shape[1])]
        P = found.products((none, columns), rest, size)[:, :, 0]
        empty = size - len(count)
        values, count = np.pad(found.values, ((0, 0), (0, empty))), np.pad(count * 1.0, (0, empty))
        count[-1] = rows.count - len(inside)
        return cls(values, count, P)

    @property
    def work(self) -> int:
        """Numbers that an evaluation works with."""
        return int(np.prod(self.P.shape[-3:]))

    def with_columns(self, lane: Any) -> Strata:
        """The same design with other last columns: their products (r, count, s), see `VaryingStrata`."""
        keep = self.P.shape[0] - lane.shape[1]
        top = jnp.concatenate([jnp.asarray(self.P)[:keep, :keep], lane[:keep]], 1)
        bottom = jnp.concatenate([jnp.swapaxes(lane[:keep], 0, 1), lane[keep:]], 1)
        return replace(self, P=jnp.concatenate([top, bottom]))

    def gram(self, C: Blocks) -> tuple[Array, Array]:
        """log|V| and U'V^-1 U."""
        L, values = self._linear(C)
        return jnp.sum(self.count * jnp.log(values)), jnp.asarray(self.P) @ (1.0 / values)

    def expand(self, C: Blocks, D: Blocks, weigh: Weigh) -> Expansion:
        """The Gram with its derivatives along directions D of the blocks, in closed form."""
        L, values = self._linear(C)
        P, v = jnp.asarray(self.P), 1.0 / values
        gram = P @ v
        q = jnp.einsum("rsk,rs->k", P, weigh(gram))
        slope, bend = v * (self.count - v * q), v * v * (2.0 * v * q - self.count)  # of the criterion in each value
        each = L @ slope
        along = [d[:, :, 0] for d in (*D.random, D.residual) if d is not None]
        M = jnp.concatenate(along, 1) @ L[: len(along)]  # (k, s) change of the eigenvalues of V
        slopes = Blocks(tuple(x.reshape(1, 1) for x in each[:-1]), each[-1].reshape(1, 1))
        gram_slopes = -jnp.einsum("ks,ijs->kij", M * (v * v), P)
        return Expansion(jnp.sum(self.count * jnp.log(values)), gram, slopes, gram_slopes, (M * bend) @ M.T)

    def _linear(self, C: Blocks) -> tuple[Array, Array]:
        """Eigenvalues (s,) of V, and their derivatives (t + 1, s) in the variances, the residual one last."""
        values = jnp.asarray(self.values)
        L = jnp.concatenate([values, jnp.ones((1, values.shape[1]))])
        return L, jnp.stack([G[0, 0] for G in (*C.random, C.residual)]) @ L


class VaryingStrata:
    """The design side of balanced designs, which turns the last columns of U into statistics (NumPy)."""

    def __init__(self, fixed: np.ndarray, found: Decomposition, statistics: Strata):
        self.found, self.size, self.fixed = found, statistics.P.shape[-1], found(fixed)

    @property
    def floats(self) -> int:
        """Numbers of a data set's statistics, for each column."""
        return self.size * (self.fixed[0].shape[1] + 1)

    def __call__(self, columns: list[np.ndarray]) -> np.ndarray:
        """Products (b, r, count, s) of columns, each (n, b)."""
        parts, lefts = zip(*(self.found(column) for column in columns), strict=True)
        inside, left = self.fixed
        return np.moveaxis(self.found.products((inside, list(parts)), (left, list(lefts)), self.size), 2, 0)


def strata_of(rows: Rows, model: Any) -> Strata | None:
    """Statistics of concrete rows, None where there is one factor, or no balance."""
    found = _decomposition(rows, model) if rows.is_concrete and lacks_factors(model) is None else None
    return None if found is None else Strata.of(rows, found)


def varying_strata(rows: Rows, model: Any, statistics: Strata) -> VaryingStrata:
    """`VaryingStrata` of a design that `strata_of` has found to be balanced."""
    found = _decomposition(rows, model)
    assert found is not None
    return VaryingStrata(rows.U, found, statistics)


def _decomposition(rows: Rows, model: Any) -> Decomposition | None:
    return Decomposition.find(rows.Z, factors_of(model.terms)[0])
