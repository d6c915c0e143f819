"""Inverse and log-determinant of one large symmetric matrix, in blocks.

Most of the work is products of matrices, and half of it is left out. Without LAPACK, whose threads wait for each other
where cores are shared, and which takes a batch one by one.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..linalg import UNROLL, identity, inv_logdet

LEAF = 144  # size of a matrix above which it is factored in blocks


def inverse_logdet(S: Array) -> tuple[Array, Array]:
    """Inverse and log-determinant of a symmetric positive definite matrix (Q, Q), NaN where it is not."""
    if len(S) <= UNROLL:
        return inv_logdet(S)
    T, logdet = _inverse_factor(S)
    return _square(T), logdet


def _inverse_factor(S: Array) -> tuple[Any, Array]:
    """Inverse of the Cholesky factor, as nested blocks ``(T11, T21, T22)`` down to leaves, and log|S|."""
    n = len(S)
    if n <= LEAF:
        below = np.arange(n, dtype=np.int32)

        def eliminate(j: Array, both: Array) -> Array:
            factor = jnp.where(below > j, both[:, j] / both[j, j], 0.0)
            return both - factor[:, None] * both[j]

        both = jax.lax.fori_loop(0, n, eliminate, jnp.concatenate([S, identity(n)], 1))
        pivots = jnp.diagonal(both)
        return both[:, n:] * jax.lax.rsqrt(pivots)[:, None], jnp.sum(jnp.log(pivots))
    half = n // 2
    first, logdet = _inverse_factor(S[:half, :half])
    L = _times(first, S[half:, :half].T).T
    second, more = _inverse_factor(S[half:, half:] - L @ L.T)
    return (first, -_times(second, _times_from_right(L, first)), second), logdet + more


def _times(T: Any, X: Array) -> Array:
    """Product of a lower triangular matrix in blocks with X."""
    if not isinstance(T, tuple):
        return T @ X
    half = T[1].shape[1]
    return jnp.concatenate([_times(T[0], X[:half]), T[1] @ X[:half] + _times(T[2], X[half:])], 0)


def _times_from_right(X: Array, T: Any) -> Array:
    """Product of X with a lower triangular matrix in blocks."""
    if not isinstance(T, tuple):
        return X @ T
    half = T[1].shape[1]
    left = _times_from_right(X[:, :half], T[0]) + X[:, half:] @ T[1]
    return jnp.concatenate([left, _times_from_right(X[:, half:], T[2])], 1)


def _square(T: Any) -> Array:
    """T'T of a lower triangular matrix in blocks."""
    if not isinstance(T, tuple):
        return T.T @ T
    corner = _times_from_right(T[1].T, T[2])
    top = jnp.concatenate([_square(T[0]) + T[1].T @ T[1], corner], 1)
    return jnp.concatenate([top, jnp.concatenate([corner.T, _square(T[2])], 1)], 0)
