"""The dense engine: V itself, one n x n Cholesky. Any V; the specification the other engines are tested against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..design import frozen_pytree, replace
from .base import Blocks, Expansion, Moments, Rows, Weigh, expand


@frozen_pytree(data=("U", "Z", "groups", "subject", "position"), meta=("levels",))
@dataclass(frozen=True, eq=False)
class Dense:
    """Statistics of the dense engine are the rows themselves: O(n^3) time and O(n^2) memory an evaluation."""

    U: Any
    Z: tuple[Any, ...]
    groups: tuple[Any, ...]
    subject: Any
    position: Any
    levels: tuple[int, ...]

    name: ClassVar[str] = "dense"

    @classmethod
    def prepare(
        cls, rows: Rows, groups: tuple[Any, ...], levels: tuple[int, ...], subject: Any, position: Any
    ) -> Dense:
        """Keep the rows; `subject` and `position` are None for independent errors."""
        n = rows.U.shape[0]
        if subject is None:
            subject, position = np.arange(n, dtype=np.int32), np.zeros(n, np.int32)
        return cls(rows.U, rows.Z, groups, subject, position, levels)

    @property
    def work(self) -> int:
        """Numbers that an evaluation works with."""
        return self.U.shape[-2] ** 2

    def with_columns(self, lane: Any) -> Dense:
        """The same design with other last columns of U (n, count)."""
        return replace(self, U=jnp.concatenate([jnp.asarray(self.U)[:, : -lane.shape[1]], lane], 1))

    def covariance(self, C: Blocks) -> Array:
        """V (n, n)."""
        same = self.subject[:, None] == self.subject[None, :]
        V = jnp.where(same, C.residual[self.position[:, None], self.position[None, :]], 0.0)
        for Z, group, G in zip(self.Z, self.groups, C.random, strict=True):
            V = V + jnp.where(group[:, None] == group[None, :], Z @ G @ Z.T, 0.0)
        return V

    def gram(self, C: Blocks) -> tuple[Array, Array]:
        """log|V| and U'V^-1 U."""
        L = jnp.linalg.cholesky(self.covariance(C))
        W = jax.lax.linalg.triangular_solve(L, jnp.asarray(self.U), left_side=True, lower=True)
        return 2.0 * jnp.sum(jnp.log(jnp.diagonal(L))), W.T @ W

    def expand(self, C: Blocks, D: Blocks, weigh: Weigh) -> Expansion:
        """The Gram with its derivatives along directions D of the blocks."""
        return expand(self.gram, C, D, weigh)

    def solve(self, C: Blocks, B: Array) -> Array:
        """V^-1 B."""
        return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(self.covariance(C)), True), B)

    def moments(self, C: Blocks) -> Moments:
        """N and M from V^-1 [U Z]."""
        full = [self._expand(Z, g, m) for Z, g, m in zip(self.Z, self.groups, self.levels, strict=True)]
        r = self.U.shape[1]
        N, M = [], []
        for Z, m, E in zip(self.Z, self.levels, full, strict=True):
            q = Z.shape[1]
            VE = self.solve(C, jnp.concatenate([self.U, E], 1))
            EVE = (E.T @ VE[:, r:]).reshape(m, q, m, q)
            N.append((E.T @ VE[:, :r]).reshape(m, q, r))
            M.append(jnp.moveaxis(jnp.diagonal(EVE, axis1=0, axis2=2), -1, 0))
        return Moments(tuple(N), tuple(M), lambda D: self.gram(D)[0], C)

    def cluster_grams(self, C: Blocks) -> Array:
        """One cluster: the dense engine does not look for blocks."""
        return self.gram(C)[1][None]

    @staticmethod
    def _expand(Z: Any, group: Any, m: int) -> Array:
        """Z with one block of columns a level (n, m q)."""
        onehot = (group[:, None] == jnp.arange(m, dtype=jnp.int32)).astype(jnp.float64)
        return (onehot[:, :, None] * Z[:, None, :]).reshape(Z.shape[0], -1)
