"""The marginal engine: no random effects, a residual covariance within subjects (repeated measures, MMRM).

Subjects observed at the same positions share one factorisation, and their outer products are summed once: with S_p
the sum of ``vec(U_i) vec(U_i)'`` over the subjects of pattern p, log|V| and U'V^-1 U are sums over patterns, of
counts times log|R_p| and of the entries of R_p^-1 times those of S_p. An evaluation costs patterns * T^3, whatever the
number of subjects; derivatives in R are closed forms in R_p^-1, as in Wolfinger, Tobias & Sall (1994).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..design import frozen_pytree, replace
from ..linalg import identity, inv_logdet
from .base import Blocks, Expansion, Moments, Rows, Weigh, expand

MAX_PRODUCTS = 5e7  # numbers of outer products kept; above it they are formed at every evaluation


@frozen_pytree(data=("row", "pattern", "position", "present", "count"))
@dataclass(frozen=True, eq=False)
class Visits:
    """Integer layout of repeated measures.

    Attributes
    ----------
    row : (m, T) row of each subject's visit, the number of rows where there is none
    pattern : (m,) pattern of each subject
    position, present : (P, T) positions of each pattern, and whether there is one
    count : (P,) subjects of each pattern
    """

    row: Any
    pattern: Any
    position: Any
    present: Any
    count: Any


def find_visits(subject: np.ndarray, position: np.ndarray) -> Visits:
    """Patterns of visits from codes of subjects (n,) and positions (n,) of their rows (host side, concrete)."""
    n, subjects = len(subject), int(subject.max(initial=-1)) + 1
    order = np.lexsort((position, subject))
    counts = np.bincount(subject, minlength=subjects)
    T = int(counts.max(initial=1))
    slot = np.arange(n) - np.concatenate([[0], np.cumsum(counts)[:-1]])[subject[order]]
    row, where = np.full((subjects, T), n, np.int32), np.full((subjects, T), -1, np.int32)
    row[subject[order], slot], where[subject[order], slot] = order, position[order]
    unique, pattern, count = np.unique(where, axis=0, return_inverse=True, return_counts=True)
    return Visits(row, pattern.reshape(-1).astype(np.int32), np.maximum(unique, 0), unique >= 0, count.astype(float))


@frozen_pytree(data=("visits", "U", "S"))
@dataclass(frozen=True, eq=False)
class Marginal:
    """Statistics of the marginal engine.

    Attributes
    ----------
    U : (m, T, r) rows by subject, zeros where there is no visit; None where S is enough
    S : (P * T * T, r * r) summed outer products, or None
    """

    visits: Visits
    U: Any
    S: Any

    name: ClassVar[str] = "marginal"

    @classmethod
    def prepare(cls, rows: Rows, visits: Visits, compact: bool = True) -> Marginal:
        """Statistics from rows; with `compact` (concrete values only) the rows are not kept."""
        U = by_subject(rows.U, visits)
        P, T = visits.position.shape
        if isinstance(U, Array) or not compact or P * (T * U.shape[-1]) ** 2 > MAX_PRODUCTS:
            return cls(visits, U, None)
        return cls(visits, None, products(U, U, visits).reshape(P * T * T, -1))

    @property
    def work(self) -> int:
        """Numbers that an evaluation works with."""
        P, T = self.visits.position.shape[-2:]
        r2 = self.U.shape[-1] * T if self.S is None else self.S.shape[-1]
        return P * T * T + (self.U.shape[-3] * r2 if self.S is None else r2)

    def with_columns(self, lane: Any) -> Marginal:
        """The same design with other last columns of U (n, count), or their products (P * T * T, r, count)."""
        if self.S is None:
            U = jnp.asarray(self.U)[..., : -lane.shape[1]]
            return replace(self, U=jnp.concatenate([U, by_subject(lane, self.visits)], -1))
        r, count = lane.shape[-2:]
        S = jnp.asarray(self.S).reshape(-1, r, r)
        P, T = self.visits.position.shape
        turned = jnp.swapaxes(lane.reshape(P, T, T, r, count), 1, 2).reshape(-1, r, count)
        bottom = jnp.swapaxes(turned, 1, 2)[:, :, : r - count]
        S = jnp.concatenate([S[:, : r - count, : r - count], bottom], 1)
        return replace(self, S=jnp.concatenate([S, lane], 2).reshape(-1, r * r))

    # -- the interface ---------------------------------------------------------------------------------------

    def gram(self, C: Blocks) -> tuple[Array, Array]:
        """log|V| and U'V^-1 U."""
        inverse, logdet = self._inverse(C.residual)
        return jnp.sum(self.visits.count * logdet), self._contract(inverse)

    def expand(self, C: Blocks, D: Blocks, weigh: Weigh) -> Expansion:
        """The Gram with its derivatives along directions D of the blocks, in closed form."""
        if self.S is None or D.residual is None:
            return expand(self.gram, C, D, weigh)
        inverse, logdet = self._inverse(C.residual)
        gram = self._contract(inverse)
        weights = weigh(gram)
        P, T, _ = inverse.shape
        k, r, dim = D.residual.shape[0], gram.shape[0], C.residual.shape[0]
        count = jnp.asarray(self.visits.count)[:, None, None]
        A = (jnp.asarray(self.S) @ weights.reshape(-1)).reshape(P, T, T)
        IA = inverse @ (0.5 * (A + jnp.swapaxes(A, 1, 2)))
        onehot = self._onehot(dim)
        by_pattern = count * inverse - IA @ inverse
        slopes = jnp.einsum("pta,ptu,pub->ab", onehot, by_pattern, onehot)
        E = jnp.einsum("pta,kab,pub->kptu", onehot, D.residual, onehot)
        IE = inverse @ E
        IEI = IE @ inverse
        gram_slopes = -(IEI.reshape(k, -1) @ jnp.asarray(self.S)).reshape(k, r, r)
        F = 2.0 * IA @ IE - count * IE
        curvature = F.reshape(k, -1) @ jnp.swapaxes(IE, 2, 3).reshape(k, -1).T
        return Expansion(
            jnp.sum(self.visits.count * logdet), gram, Blocks((), slopes), gram_slopes, 0.5 * (curvature + curvature.T)
        )

    def solve(self, C: Blocks, B: Array) -> Array:
        """V^-1 B."""
        inverse, _ = self._inverse(C.residual)
        visits = self.visits
        solved = inverse[visits.pattern] @ by_subject(jnp.asarray(B), visits)
        return jnp.zeros((B.shape[0] + 1, B.shape[1])).at[visits.row].set(solved)[:-1]

    def moments(self, C: Blocks) -> Moments:
        """There are no random effects."""
        return Moments((), (), lambda D: self.gram(D)[0], C)

    def cluster_grams(self, C: Blocks) -> Array:
        """U_i'V_i^-1 U_i of each subject (prepare with ``compact=False``)."""
        if self.U is None:
            raise ValueError("clusters need statistics prepared with compact=False")
        inverse, _ = self._inverse(C.residual)
        return jnp.einsum("mti,mtu,muj->mij", self.U, inverse[self.visits.pattern], self.U)

    # -- details ---------------------------------------------------------------------------------------------

    def _inverse(self, R: Array) -> tuple[Array, Array]:
        """Inverse (P, T, T), zero where there is no visit, and log-determinant (P,) of R for each pattern."""
        position, present = jnp.asarray(self.visits.position), jnp.asarray(self.visits.present)
        both = (present[:, :, None] & present[:, None, :]).transpose(1, 2, 0)
        R_p = jnp.where(both, R[position[:, :, None], position[:, None, :]].transpose(1, 2, 0), 0.0)
        R_p = R_p + identity(R_p.shape[0], R_p) * ~present.T
        inverse, logdet = inv_logdet(R_p)
        return jnp.where(both, inverse, 0.0).transpose(2, 0, 1), logdet

    def _contract(self, inverse: Array) -> Array:
        if self.S is None:
            return jnp.einsum("mti,mtu,muj->ij", self.U, inverse[self.visits.pattern], self.U)
        flat = inverse.reshape(-1) @ jnp.asarray(self.S)
        r = int(round(flat.shape[0] ** 0.5))
        return flat.reshape(r, r)

    def _onehot(self, dim: int) -> Array:
        """(P, T, dim) one at the position of each visit."""
        visits = self.visits
        here = jnp.asarray(visits.position)[:, :, None] == jnp.arange(dim, dtype=jnp.int32)
        return (here & jnp.asarray(visits.present)[:, :, None]).astype(jnp.float64)


def by_subject(U: Any, visits: Visits) -> Any:
    """Rows (n, r) by subject and visit (m, T, r), zeros where there is no visit."""
    xp: Any = np if isinstance(U, np.ndarray) and isinstance(visits.row, np.ndarray) else jnp
    return xp.concatenate([U, xp.zeros((1, U.shape[1]))])[visits.row]


def products(U: np.ndarray, W: np.ndarray, visits: Visits) -> np.ndarray:
    """Sums over the subjects of each pattern of the outer products of U and W (m, T, .): (P, T, T, r, s) in NumPy."""
    P, T = visits.position.shape
    r, s = U.shape[-1], W.shape[-1]
    order = np.argsort(visits.pattern, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(visits.count)]).astype(int)
    out = np.empty((P, T, T, r, s))
    for p in range(P):
        members = order[bounds[p] : bounds[p + 1]]
        left, right = U[members].reshape(len(members), -1), W[members].reshape(len(members), -1)
        out[p] = (left.T @ right).reshape(T, r, T, s).transpose(0, 2, 1, 3)
    return out


class VaryingVisits:
    """The design side of the marginal engine, which turns the last columns of U into statistics (NumPy)."""

    def __init__(self, fixed: np.ndarray, visits: Visits):
        self.fixed, self.visits = by_subject(fixed, visits), visits

    def __call__(self, columns: list[np.ndarray]) -> np.ndarray:
        """Products (b, P * T * T, r, count) of columns, each (n, b), with the fixed ones and each other."""
        b, f, count = columns[0].shape[1], self.fixed.shape[-1], len(columns)
        P, T = self.visits.position.shape
        padded = [by_subject(column, self.visits) for column in columns]  # (m, T, b)
        out = np.empty((b, P, T, T, f + count, count))
        order = np.argsort(self.visits.pattern, kind="stable")
        bounds = np.concatenate([[0], np.cumsum(self.visits.count)]).astype(int)
        for p in range(P):
            members = order[bounds[p] : bounds[p + 1]]
            for j, y in enumerate(padded):
                out[:, p, ..., :f, j] = np.einsum("mtf,mub->btuf", self.fixed[members], y[members], optimize=True)
                for i, x in enumerate(padded):
                    out[:, p, ..., f + i, j] = np.einsum("mtb,mub->btu", x[members], y[members])
        return out.reshape(b, P * T * T, f + count, count)
