"""The dense engine: V itself, one n x n Cholesky. Any V; the specification the other engines are tested against."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ...tolerances import PIVOT
from .protocol import Engine
from .solving import Apply

MAX_DENSE_ROWS = 5000


class Dense(Engine):
    """O(n^3) time and O(n^2) memory an evaluation."""

    name = "dense"

    def can(self, model: Any) -> str | None:
        """A matrix that is not too large."""
        n = len(model.y)
        too_large = f"forms an n x n matrix, sensible up to {MAX_DENSE_ROWS} rows; found {n}"
        return too_large if n > MAX_DENSE_ROWS else None

    def gram(self, V: Array, U: Array) -> tuple[Array, Array]:
        """log|V| and U'V^-1 U."""
        L = jnp.linalg.cholesky(V)
        L = jnp.where(jnp.all(jnp.diagonal(L) ** 2 > PIVOT * jnp.diagonal(V)), L, jnp.nan)
        W = jax.lax.linalg.triangular_solve(L, U, left_side=True, lower=True)
        return 2.0 * jnp.sum(jnp.log(jnp.diagonal(L))), W.T @ W

    def inverse(self, V: Array) -> Apply:
        """Product with V^-1."""
        L = jnp.linalg.cholesky(V)
        return lambda X: jax.scipy.linalg.cho_solve((L, True), X)
