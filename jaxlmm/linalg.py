"""Small symmetric matrices: inverse with log-determinant, packing; knows no statistics.

Stacks of matrices have the matrix in front and the stack behind, ``(q, q, ...)``: an entry is then a contiguous array
over the stack, which is what vector units want. Up to ``UNROLL`` the Cholesky factorisation is written out entry by
entry, which XLA fuses over the stack (no LAPACK call per matrix); above it LAPACK or cuSOLVER is used. Derivatives
never pass through a factorisation: the rule of `inv_logdet` is written in terms of its own result and is therefore
differentiable again, to any order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .runtime.precision import unguarded
from .tolerances import PIVOT, ZERO_PIVOT

UNROLL = 6
JACOBI = 4
ONE_THREAD = 2**18  # multiplications of a product that OpenBLAS does in the thread that calls it
SWEEPS = (0, 0, 1, 5, 6)  # of Jacobi rotations by size, for all digits


def matmul(a: Array, b: Array) -> Array:
    """Products of stacks (i, k, ...) and (k, j, ...); a short inner dimension is written out so that XLA fuses it."""
    inner, depth = a.shape[1], max(a.ndim, b.ndim)
    a, b = (x.reshape(x.shape + (1,) * (depth - x.ndim)) for x in (a, b))
    if inner > UNROLL or inner == 0:
        return jnp.einsum("ik...,kj...->ij...", a, b)
    return sum((a[:, None, k] * b[None, k] for k in range(1, inner)), a[:, None, 0] * b[None, 0])


def thin(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Product of matrices one of which is long and thin (NumPy), in steps along it that the calling thread does.

    Chunks of a batch are prepared in threads of their own, beside which threads of the library that multiplies wait for
    each other: on a busy machine for ten times as long as the product takes.
    """
    (m, k), n = a.shape, b.shape[1]
    if k >= m:
        step = max(ONE_THREAD // max(m * n, 1), 1)
        rest = (a[:, i : i + step] @ b[i : i + step] for i in range(step, k, step))
        return sum(rest, a[:, :step] @ b[:step])
    out, step = np.empty((m, n)), max(ONE_THREAD // max(k * n, 1), 1)
    for i in range(0, m, step):
        np.matmul(a[i : i + step], b, out=out[i : i + step])
    return out


def transpose(a: Array) -> Array:
    """Transpose of the matrices of a stack (i, j, ...)."""
    return jnp.swapaxes(a, 0, 1)


def identity(q: int, like: Array | None = None) -> Array:
    """Identity matrix in float64; of the depth of a stack `like` (q, q, ...), to be broadcast with it."""
    eye = jnp.eye(q, dtype=jnp.float64)
    return eye if like is None else eye.reshape((q, q) + (1,) * (like.ndim - 2))


def _inverse_of_factor(S: Array) -> tuple[list[list[Array]], Array]:
    """Inverse of the Cholesky factor of S, entry by entry, and log|S|."""
    q = S.shape[0]
    L: list[list[Array]] = [[None] * q for _ in range(q)]  # type: ignore[list-item]
    T: list[list[Array]] = [[None] * q for _ in range(q)]  # type: ignore[list-item]
    logdet = jnp.zeros(S.shape[2:], S.dtype)
    for j in range(q):
        pivot = S[j, j] - sum((L[j][k] ** 2 for k in range(j)), jnp.zeros((), S.dtype))
        pivot = jnp.where(pivot > PIVOT * S[j, j], pivot, jnp.nan)
        logdet = logdet + jnp.log(pivot)
        T[j][j] = jax.lax.rsqrt(pivot)
        for i in range(j + 1, q):
            s = S[i, j] - sum((L[i][k] * L[j][k] for k in range(j)), jnp.zeros((), S.dtype))
            L[i][j] = s * T[j][j]
    for j in range(q):
        for i in range(j + 1, q):
            T[i][j] = -T[i][i] * sum((L[i][k] * T[k][j] for k in range(j + 1, i)), L[i][j] * T[j][j])
    return T, logdet


def _inv_logdet_unrolled(S: Array) -> tuple[Array, Array]:
    q = S.shape[0]
    T, logdet = _inverse_of_factor(S)

    def entry(i: int, j: int) -> Array:
        return sum((T[k][i] * T[k][j] for k in range(max(i, j) + 1, q)), T[max(i, j)][i] * T[max(i, j)][j])

    lower = {(i, j): entry(i, j) for i in range(q) for j in range(i + 1)}
    return jnp.stack([jnp.stack([lower[max(i, j), min(i, j)] for j in range(q)]) for i in range(q)]), logdet


def _inv_logdet_lapack(S: Array) -> tuple[Array, Array]:
    S = jnp.moveaxis(S, (0, 1), (-2, -1))
    L = jax.lax.linalg.cholesky(S, symmetrize_input=False)
    pivots = jnp.diagonal(L, axis1=-2, axis2=-1) ** 2
    lost = jnp.any(~(pivots > PIVOT * jnp.diagonal(S, axis1=-2, axis2=-1)), -1)
    L = jnp.where(lost[..., None, None], jnp.nan, L)
    eye = jnp.broadcast_to(identity(S.shape[-1]), S.shape)
    T = jax.lax.linalg.triangular_solve(L, eye, left_side=True, lower=True)
    logdet = 2.0 * jnp.sum(jnp.log(jnp.diagonal(L, axis1=-2, axis2=-1)), -1)
    return jnp.moveaxis(jnp.swapaxes(T, -1, -2) @ T, (-2, -1), (0, 1)), logdet


@jax.custom_jvp
def inv_logdet(S: Array) -> tuple[Array, Array]:
    """Inverse and log-determinant of symmetric positive definite matrices.

    Parameters
    ----------
    S : (q, q, ...) symmetric positive definite; only its lower triangle is read.

    Returns
    -------
    inverse : (q, q, ...)
    logdet : (...)
        Both NaN where S is not positive definite, or so nearly singular that no digit of a pivot is left (`PIVOT`),
        in that matrix of the stack alone.
    """
    if S.shape[0] == 0:
        return S, jnp.zeros(S.shape[2:], S.dtype)
    return _inv_logdet_unrolled(S) if S.shape[0] <= UNROLL else _inv_logdet_lapack(S)


@inv_logdet.defjvp
@unguarded
def _inv_logdet_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    (S,), (dS,) = primals, tangents
    inv, logdet = inv_logdet(S)
    return (inv, logdet), (-matmul(matmul(inv, dS), inv), jnp.sum(inv * dS, (0, 1)))


def eigh(S: Array) -> tuple[Array, Array]:
    """Eigenvalues (k,), in no order, and eigenvectors (k, k) of a small symmetric matrix; not to be differentiated.

    Up to ``JACOBI`` by cyclic Jacobi rotations written out, which XLA fuses over a batch (three to six times faster
    there than one LAPACK call per matrix; above it the rotations take too long to compile).
    """
    k = S.shape[0]
    if k > JACOBI:
        return jnp.linalg.eigh(S)

    def sweep(_: Any, entries: tuple[Any, Any]) -> tuple[Any, Any]:
        A, Q = [list(row) for row in entries[0]], [list(row) for row in entries[1]]
        for i in range(k):
            for j in range(i + 1, k):
                _rotate(A, Q, i, j)
        return A, Q

    A = [[S[i, j] for j in range(k)] for i in range(k)]
    Q = [[jnp.full_like(S[0, 0], float(i == j)) for j in range(k)] for i in range(k)]
    A, Q = jax.lax.fori_loop(0, SWEEPS[k], sweep, (A, Q))
    w = [A[i][i] for i in range(k)]
    return (jnp.stack(w), jnp.stack([jnp.stack(row) for row in Q])) if k else (jnp.zeros(0), jnp.zeros((0, 0)))


def _rotate(A: list[list[Array]], Q: list[list[Array]], i: int, j: int) -> None:
    """One Jacobi rotation that makes entry (i, j) of A zero (Golub & Van Loan 2013, section 8.5.2), in place."""
    a, gap = A[i][j], A[j][j] - A[i][i]
    size = jnp.abs(gap) + jnp.sqrt(gap * gap + 4.0 * a * a)
    t = jnp.where(gap >= 0, 2.0, -2.0) * a / jnp.where(size > 0, size, 1.0)
    c = jax.lax.rsqrt(1.0 + t * t)
    s = t * c
    A[i][i], A[j][j], A[i][j], A[j][i] = A[i][i] - t * a, A[j][j] + t * a, jnp.zeros_like(a), jnp.zeros_like(a)
    for m in range(len(A)):
        if m not in (i, j):
            x, y = A[m][i], A[m][j]
            A[m][i] = A[i][m] = c * x - s * y
            A[m][j] = A[j][m] = s * x + c * y
        x, y = Q[m][i], Q[m][j]
        Q[m][i], Q[m][j] = c * x - s * y, s * x + c * y


def psd_cholesky(G: Any) -> Any:
    """Lower Cholesky factors of positive semidefinite matrices (..., q, q); a zero pivot gives a zero column.

    For values only: the derivative of this factorisation does not exist at a zero pivot. NumPy's for NumPy's.
    """
    xp = jnp if isinstance(G, Array) else np
    q, L = G.shape[-1], xp.zeros(G.shape, xp.result_type(G, float))
    rows = np.arange(q, dtype=np.int32)
    for j in range(q):
        column = G[..., j] - (L[..., :, :j] @ L[..., j, :j, None])[..., 0]
        pivot = column[..., j : j + 1]
        positive = pivot > ZERO_PIVOT * abs(G[..., j, j, None])
        column = xp.where(positive & (rows >= j), column / xp.sqrt(xp.where(positive, pivot, 1.0)), 0.0)
        if xp is np:
            L[..., j] = column
        else:
            L = L.at[..., j].set(column)
    return L


def quadratic(x: Any, M: Any) -> Any:
    """``x'M x`` of rows x (..., k) and matrices M (..., k, k), as matrix products; NumPy or JAX."""
    return ((x @ M) * x).sum(-1)


@lru_cache(maxsize=64)
def tril_indices(q: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a lower triangle, column by column (lme4's order)."""
    columns, rows = np.triu_indices(q)
    return rows, columns


def lower_from_vector(v: Any, q: int, entries: tuple[np.ndarray, np.ndarray] | None = None) -> Any:
    """Lower triangular (..., q, q) from entries (..., m): all q(q+1)/2, column by column, or at given rows and columns.

    A product with a constant, which XLA fuses; NumPy in gives NumPy out.
    """
    rows, columns = tril_indices(q) if entries is None else entries
    basis = np.zeros((len(rows), q * q))
    basis[np.arange(len(rows)), rows * q + columns] = 1.0
    return (v @ basis).reshape(*v.shape[:-1], q, q)


def block_diagonal(blocks: list[Array]) -> Array:
    """Block diagonal matrix of square blocks."""
    if len(blocks) == 1:
        return blocks[0]
    sizes = [b.shape[-1] for b in blocks]
    rows = [
        jnp.concatenate([b if i == j else jnp.zeros((b.shape[-1], s), b.dtype) for j, s in enumerate(sizes)], -1)
        for i, b in enumerate(blocks)
    ]
    return jnp.concatenate(rows, -2)
