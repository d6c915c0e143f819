"""The dense engine: V itself, one n x n Cholesky. Any V; the specification the other engines are tested against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from ...linalg import identity
from ...pytrees import frozen_pytree, replace
from ...tolerances import PIVOT
from ..parts import Field
from .base import Blocks, Expansion, Rows, Weigh, expand
from .solving import refined


@frozen_pytree(data=("U", "Z", "parts"))
@dataclass(frozen=True, eq=False)
class Dense:
    """Statistics of the dense engine are the rows themselves: O(n^3) time and O(n^2) memory an evaluation."""

    U: Any
    Z: tuple[Any, ...]
    parts: tuple[Any, ...]

    name: ClassVar[str] = "dense"

    @classmethod
    def prepare(cls, rows: Rows, parts: tuple[Any, ...]) -> Dense:
        """Keep the rows; `parts` are the random parts of the model and its residual, see ``Marginal.prepare``."""
        return cls(rows.U, rows.Z, parts)

    @property
    def work(self) -> int:
        """Numbers that an evaluation works with."""
        return self.U.shape[-2] ** 2

    def with_columns(self, lane: Any) -> Dense:
        """The same design with other last columns of U (n, count)."""
        return replace(self, U=jnp.concatenate([jnp.asarray(self.U)[:, : -lane.shape[1]], lane], 1))

    def covariance(self, C: Blocks) -> Array:
        """V (n, n)."""
        V = self._between(self.parts[-1], C.residual)
        for Z, part, block in zip(self.Z, self.parts[:-1], C.random, strict=True):
            if isinstance(part, Field):
                V = V + (1.0 if Z is None else Z * Z.T) * self._between(part, block)
            else:
                A = identity(part.levels) if part.relationship is None else jnp.asarray(part.relationship)
                V = V + A[part.group[:, None], part.group[None, :]] * (Z @ block @ Z.T)
        return V

    def _between(self, field: Field, block: Array) -> Array:
        """Covariances of a random function between rows."""
        if field.group is None:
            return block[0, 0] * identity(self.U.shape[-2])
        i, j, g = field.position[:, None], field.position[None, :], field.group
        values = block[i, j] if field.sets is None else block[jnp.asarray(field.sets)[g][:, None], i, j]
        return jnp.where(g[:, None] == g[None, :], values, 0.0)

    def gram(self, C: Blocks) -> tuple[Array, Array]:
        """log|V| and U'V^-1 U."""
        V = self.covariance(C)
        L = jnp.linalg.cholesky(V)
        L = jnp.where(jnp.all(jnp.diagonal(L) ** 2 > PIVOT * jnp.diagonal(V)), L, jnp.nan)
        W = jax.lax.linalg.triangular_solve(L, jnp.asarray(self.U), left_side=True, lower=True)
        return 2.0 * jnp.sum(jnp.log(jnp.diagonal(L))), W.T @ W

    def expand(self, C: Blocks, D: Blocks, weigh: Weigh) -> Expansion:
        """The Gram with its derivatives along directions D of the blocks."""
        return expand(self.gram, C, D, weigh)

    def solve(self, C: Blocks, B: Array) -> Array:
        """V^-1 B."""
        V = self.covariance(C)
        L = jax.lax.stop_gradient(jnp.linalg.cholesky(V))
        return refined(
            lambda X: jax.scipy.linalg.cho_solve((L, True), X),
            lambda X: V @ X,
            lambda X: jnp.abs(V) @ X,
            jnp.asarray(B),
        )

    def cluster_grams(self, C: Blocks) -> Array:
        """One cluster: the dense engine does not look for blocks."""
        return self.gram(C)[1][None]
