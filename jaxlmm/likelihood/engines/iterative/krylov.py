"""Systems and log-determinants of a large symmetric positive definite matrix that is known by its products only.

Several right sides at once, a column each. Nothing here is differentiated: engines have closed forms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Apply = Callable[[Array], Array]  # (Q, b) -> (Q, b)
EXHAUSTED = 1e-9  # size of a new direction, relative to the matrix, below which there is none


class Solution(NamedTuple):
    """Columns x (Q, b) with what is left of the right sides, ``residual = b - S x``."""

    x: Array
    residual: Array
    iterations: Array


def conjugate_gradients(apply: Apply, b: Array, tolerance: float, limit: int) -> Solution:
    """Solve ``S x = b`` for all columns b (Q, b) at once (Hestenes & Stiefel 1952).

    Parameters
    ----------
    tolerance : largest Euclidean norm of a column of residuals, relative to that of b
    limit : iterations, after which everything is NaN if a column has not reached the tolerance
    """
    goal = tolerance**2 * jnp.sum(b * b, 0)

    def running(state: Any) -> Array:
        _, _, _, size, count = state
        return jnp.any(size > goal) & (count < limit)

    def step(state: Any) -> Any:
        x, r, p, size, count = state
        Sp = apply(p)
        along = jnp.sum(p * Sp, 0)
        alpha = jnp.where(along > 0, size / jnp.where(along > 0, along, 1.0), 0.0)
        r = r - alpha * Sp
        new = jnp.sum(r * r, 0)
        beta = jnp.where(size > 0, new / jnp.where(size > 0, size, 1.0), 0.0)
        return x + alpha * p, r, r + beta * p, new, count + 1

    start = (jnp.zeros_like(b), b, b, jnp.sum(b * b, 0), jnp.zeros((), jnp.int32))
    x, r, _, size, count = jax.lax.while_loop(running, step, start)
    lost = jnp.where(jnp.all(size <= goal), 0.0, jnp.nan)
    return Solution(x + lost, r + lost, count)


def by_parts(function: Callable[[Array], Any], columns: Array, size: int) -> Any:
    """A function of columns (Q, b), each result with the columns behind, computed for `size` columns at a time."""
    Q, b = columns.shape
    if b <= size:
        return function(columns)
    parts = -(-b // size)
    padded = jnp.pad(columns, ((0, 0), (0, parts * size - b))).reshape(Q, parts, size)
    found = jax.lax.map(function, jnp.moveaxis(padded, 1, 0))
    back = lambda a: jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], -1)[..., :b]  # noqa: E731
    return jax.tree_util.tree_map(back, found)


def quadratic_forms(
    apply: Apply, z: Array, steps: int, function: Callable[[Array], Array], tolerance: float = 0.0
) -> Array:
    """``z'f(S) z`` for columns z (Q, b), by Lanczos tridiagonalisation and Gauss quadrature (Golub & Meurant 2010).

    With full reorthogonalisation; exact after as many steps as S has different eigenvalues. A column ends where
    conjugate gradients for it would have residuals of `tolerance`, relative to it: the same steps in other words.
    """
    size = jnp.sum(z * z, 0)
    unit = z / jnp.sqrt(jnp.where(size > 0, size, 1.0))
    diagonal, beside = _tridiagonal(apply, unit, min(steps, len(z)), tolerance)
    T = jax.vmap(lambda a, b: jnp.diag(a) + jnp.diag(b, 1) + jnp.diag(b, -1))(diagonal.T, beside[:-1].T)
    nodes, vectors = jnp.linalg.eigh(T)
    return size * jnp.sum(vectors[:, 0] ** 2 * function(nodes), -1)


def _tridiagonal(apply: Apply, start: Array, steps: int, tolerance: float) -> tuple[Array, Array]:
    """Diagonal and what stands beside it (steps, b); ones and zeros once a column has ended.

    With the pivots of ``L D L'`` of this matrix go the residuals of conjugate gradients, `left`.
    """

    def step(state: Any) -> Any:
        k, basis, v, before, alive, pivot, left, diagonal, beside = state
        basis = basis.at[k].set(v)
        w = apply(v)
        alpha = jnp.sum(v * w, 0)
        for _ in range(2):
            w = w - jnp.sum(basis * jnp.sum(basis * w, 1, keepdims=True), 0)
        beta = jnp.sqrt(jnp.sum(w * w, 0))
        pivot = alpha - before**2 / pivot
        left = left * beta / jnp.abs(pivot)
        going = alive & (beta > EXHAUSTED * (jnp.abs(alpha) + before)) & ~(left <= tolerance)
        beta = jnp.where(going, beta, 0.0)
        v = jnp.where(going, w / jnp.where(going, beta, 1.0), 0.0)
        diagonal = diagonal.at[k].set(jnp.where(alive, alpha, 1.0))
        return k + 1, basis, v, beta, going, jnp.where(going, pivot, 1.0), left, diagonal, beside.at[k].set(beta)

    ones = jnp.ones((steps, start.shape[1]))
    basis, first = jnp.zeros((steps, *start.shape)), jnp.zeros((), jnp.int32)
    alive = jnp.any(start != 0.0, 0)
    state = (first, basis, start, 0.0 * ones[0], alive, ones[0], ones[0], ones, 0.0 * ones)
    found = jax.lax.while_loop(lambda s: jnp.any(s[4]) & (s[0] < steps), step, state)
    return found[-2], found[-1]
