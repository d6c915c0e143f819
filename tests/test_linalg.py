"""Small matrices: values, derivatives of any order, and failures that stay in their own matrix."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import some
from jaxlmm.linalg import (
    UNROLL,
    block_diagonal,
    eigh,
    inv_logdet,
    lower_from_vector,
    matmul,
    psd_cholesky,
    thin,
    tril_indices,
)

SIZES = (1, 2, 3, UNROLL, UNROLL + 1)


def positive(q, stack=3):
    A = np.random.default_rng(q).normal(size=(stack, q, q))
    return np.moveaxis(A @ A.transpose(0, 2, 1) + q * np.eye(q), 0, -1)


def each(S):
    """The stack in front, as NumPy wants it."""
    return np.moveaxis(np.asarray(S), -1, 0)


def plain(S):
    """The same by JAX's own linear algebra, differentiated by JAX's own rules."""
    front = jnp.moveaxis(S, -1, 0)
    return jnp.moveaxis(jnp.linalg.inv(front), 0, -1), jnp.linalg.slogdet(front)[1]


@pytest.mark.parametrize("q", SIZES)
def test_values(q):
    inverse, logdet = jax.jit(inv_logdet)(positive(q))
    np.testing.assert_allclose(each(inverse), np.linalg.inv(each(positive(q))), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(logdet, np.linalg.slogdet(each(positive(q)))[1], rtol=1e-12)


@pytest.mark.parametrize("q", some((2, 3, UNROLL + 1), 2))
def test_derivatives_to_third_order(q):
    S, H = positive(q), np.random.default_rng(1).normal(size=(q, q))
    H = (H + H.T)[..., None]

    def along(function, t):
        inverse, logdet = function(S + t * H)
        return jnp.sum(jnp.sin(inverse)) + jnp.sum(logdet**2)

    ours, theirs = (lambda t: along(inv_logdet, t)), (lambda t: along(plain, t))
    for _ in range(3):
        ours, theirs = jax.grad(ours), jax.grad(theirs)
        np.testing.assert_allclose(jax.jit(ours)(0.1), jax.jit(theirs)(0.1), rtol=1e-9)


def test_reverse_mode_of_forward_mode():
    S = positive(3)[..., 0]
    ours = jax.jacrev(jax.jacfwd(lambda S: inv_logdet(S)[1]))(S)
    inverse = np.linalg.inv(S)
    np.testing.assert_allclose(ours, -np.einsum("jk,li->ijkl", inverse, inverse).transpose(3, 2, 0, 1), rtol=1e-9)


@pytest.mark.parametrize("q", (2, UNROLL + 1))
def test_a_matrix_that_is_not_positive_definite_is_nan_alone(q):
    S = positive(q)
    S[..., 1] -= 100 * np.eye(q)
    inverse, logdet = map(np.asarray, inv_logdet(S))
    assert np.isnan(logdet[1])
    assert np.all(np.isfinite(inverse[..., [0, 2]])) and np.all(np.isfinite(logdet[[0, 2]]))


def test_no_rows_at_all():
    inverse, logdet = inv_logdet(jnp.zeros((0, 0, 4)))
    assert inverse.shape == (0, 0, 4)
    np.testing.assert_array_equal(logdet, np.zeros(4))


@pytest.mark.parametrize("inner", (0, 1, 3, UNROLL + 1))
def test_matmul(inner):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, inner, 5)), rng.normal(size=(inner, 4, 5))
    np.testing.assert_allclose(each(matmul(jnp.asarray(a), jnp.asarray(b))), each(a) @ each(b), atol=1e-14)
    single = matmul(jnp.asarray(a[..., 0]), jnp.asarray(b))  # one matrix with every one of a stack
    np.testing.assert_allclose(each(single), a[..., 0] @ each(b), atol=1e-14)


@pytest.mark.parametrize("rank", (0, 1, 2, 4))
def test_psd_cholesky_of_singular_matrices(rank):
    A = np.random.default_rng(rank).normal(size=(4, rank))
    G = A @ A.T
    L = np.asarray(psd_cholesky(jnp.asarray(G)))
    assert np.all(np.triu(L, 1) == 0)
    np.testing.assert_allclose(L @ L.T, G, atol=1e-6 * max(1.0, np.abs(G).max()))
    zero = G.copy()
    zero[1], zero[:, 1] = 0, 0
    L = np.asarray(psd_cholesky(jnp.asarray(zero)))
    np.testing.assert_array_equal(L[:, 1], 0)
    together = psd_cholesky(np.stack([G, zero]))  # in NumPy, with leading axes
    assert isinstance(together, np.ndarray)
    np.testing.assert_allclose(together[1], L, atol=1e-12)


def test_packing_is_column_by_column():
    rows, columns = tril_indices(3)
    assert list(zip(rows, columns, strict=True)) == [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (2, 2)]
    L = lower_from_vector(jnp.arange(1.0, 7.0), 3)
    np.testing.assert_array_equal(L, [[1, 0, 0], [2, 4, 0], [3, 5, 6]])


def test_block_diagonal():
    blocks = [jnp.ones((1, 1)), 2 * jnp.ones((2, 2))]
    np.testing.assert_array_equal(block_diagonal(blocks), [[1, 0, 0], [0, 2, 2], [0, 2, 2]])


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 5, 7])
def test_eigenvalues_of_small_matrices(k):
    rng = np.random.default_rng(k)
    A = rng.normal(size=(30, k, k)) * 10.0 ** rng.integers(-6, 6, size=(30, 1, 1))
    A = A + np.swapaxes(A, 1, 2)
    A[0], A[1] = 0.0, np.eye(k)  # multiple eigenvalues
    with jax.enable_x64(True):
        w, Q = jax.vmap(eigh)(A)
    size = np.maximum(np.abs(A).max((1, 2), initial=0.0), 1e-300)[:, None]
    np.testing.assert_allclose(np.sort(w) / size, np.linalg.eigvalsh(A) / size, atol=1e-13)
    np.testing.assert_allclose(Q @ np.swapaxes(Q, 1, 2), np.tile(np.eye(k), (30, 1, 1)), atol=1e-13)
    np.testing.assert_allclose(
        (Q * w[:, None]) @ np.swapaxes(Q, 1, 2) / size[..., None], A / size[..., None], atol=1e-13
    )


@pytest.mark.parametrize("shape", [(5, 7000, 9), (7000, 5, 9), (1, 300_000, 1), (300_000, 1, 2), (0, 4, 3), (3, 0, 2)])
def test_products_in_steps(shape):
    m, k, n = shape
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(m, k)), rng.normal(size=(k, n))
    np.testing.assert_allclose(thin(a, b), a @ b, rtol=1e-11, atol=1e-10)
