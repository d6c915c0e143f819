"""Inverse and log-determinant of one large symmetric matrix, by sweeping out blocks of it.

Almost all of the work is products of matrices, and one loop is compiled whatever the size. Without LAPACK, whose
threads wait for each other where cores are shared, and which takes a batch one by one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ....linalg import UNROLL, identity, inv_logdet

LEAF = 144  # size of a matrix above which it is inverted in blocks
PANELS = 8  # blocks that it is divided into


def inverse_logdet(S: Array) -> tuple[Array, Array]:
    """Inverse and log-determinant of a symmetric positive definite matrix (Q, Q), NaN where it is not.

    The sweep operator (Goodnight 1979, The American Statistician 33, 149-158) with blocks for pivots.
    """
    n = len(S)
    if n <= UNROLL:
        return inv_logdet(S)
    if n <= LEAF:
        return _eliminated(S)
    width = -(-n // PANELS)
    size = width * PANELS
    whole = identity(size).at[:n, :n].set(S)

    def sweep(j: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        A, logdet = state
        start = j * width
        columns = jax.lax.dynamic_slice(A, (0, start), (size, width))
        inverse, more = inverse_logdet(jax.lax.dynamic_slice(columns, (start, 0), (width, width)))
        swept = columns @ inverse
        A = A - swept @ columns.T
        swept = jax.lax.dynamic_update_slice(swept, -inverse, (start, 0))
        A = jax.lax.dynamic_update_slice(A, swept, (0, start))
        return jax.lax.dynamic_update_slice(A, swept.T, (start, 0)), logdet + more

    A, logdet = jax.lax.fori_loop(0, PANELS, sweep, (whole, jnp.zeros((), S.dtype)))
    return -A[:n, :n], logdet


def _eliminated(S: Array) -> tuple[Array, Array]:
    """`inverse_logdet` of a small matrix, by Gauss-Jordan elimination."""
    n = len(S)
    below = np.arange(n, dtype=np.int32)

    def eliminate(j: Array, both: Array) -> Array:
        factor = jnp.where(below > j, both[:, j] / both[j, j], 0.0)
        return both - factor[:, None] * both[j]

    both = jax.lax.fori_loop(0, n, eliminate, jnp.concatenate([S, identity(n)], 1))
    pivots = jnp.diagonal(both)
    T = both[:, n:] * jax.lax.rsqrt(pivots)[:, None]
    return T.T @ T, jnp.sum(jnp.log(pivots))
