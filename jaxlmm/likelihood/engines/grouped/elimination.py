"""Integrating out the random effects of independent groups: the one numerical kernel of the grouped engine.

For groups g with cross-products ``A = [Z W]'[Z W]`` (in the metric of what was eliminated before) and effects of
covariance G, integrating the effects out leaves ``W'(I + Z G Z')^-1 W`` and ``log|I + Z G Z'|``. All derivatives
follow from ``M = Z'V^-1 Z`` and ``N = Z'V^-1 W`` (design of the closed forms: Lindstrom & Bates 1988; Wolfinger,
Tobias & Sall 1994): in a direction H of G, ``D logdet = tr(M H)``, ``D gram = -N'H N``, ``D M = -M H M``,
``D N = -M H N``. The rules below state this, in A as well, so JAX differentiates them again to any order and no
derivative ever passes through a factorisation. Singular G and singular ``Z'Z`` are ordinary.

Digits: with a factor ``Z'Z = F F'``, ``Z'W = F B``, ``W'W = E + B'B`` from an orthogonalisation of the rows,
``S = I + F'G F`` is factored and ``gram = E + B'S^-1 B`` adds positive terms only: nothing cancels, whatever the
ratio of variances. The cross-products themselves then only carry derivatives with respect to data. Without such a
factor (second level, where A depends on theta) a root L of G is used instead, ``G = L L'``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from ....linalg import UNROLL, identity, inv_logdet, matmul, transpose, tril_indices
from ....runtime.precision import unguarded


class Cross(NamedTuple):
    """Cross-products of [Z W] by group; `ww` summed over the groups of each parent."""

    zz: Any  # (q, q, g)
    zw: Any  # (q, r, g)
    ww: Any  # (r, r, parents)


class Factor(NamedTuple):
    """Orthogonal factor of the same, see the module docstring."""

    F: Any  # (q, q, g)
    B: Any  # (q, r, g)
    E: Any  # (r, r, parents)


def sum_to_parents(x: Array, parent: Array, parents: int) -> Array:
    """Sum x (..., g) over the groups of each parent: (..., parents)."""
    if parents == 1:
        return jnp.sum(x, -1, keepdims=True)
    return jnp.moveaxis(jax.ops.segment_sum(jnp.moveaxis(x, -1, 0), parent, parents), 0, -1)


def quadratic(a: Array, b: Array, parent: Array, parents: int) -> Array:
    """Sum over groups of a'b for a, b (q, r, g): (r, r, parents)."""
    if parents == 1 and a.shape[1] > UNROLL:
        return jnp.einsum("qrg,qsg->rs", a, b)[..., None]
    return sum_to_parents(matmul(transpose(a), b), parent, parents)


def by_factor(G: Array, F: Array) -> tuple[Array, Array, Array]:
    """S^-1, log|S| and F S^-1 for S = I + F'G F."""
    S = identity(G.shape[0], F) + matmul(matmul(transpose(F), G), F)
    W, logdet = inv_logdet(S)
    return W, logdet, matmul(F, W)


@jax.custom_jvp
def covariance_given(G: Array, zz: Array, root: Array) -> Array:
    """Posterior covariance ``K = (G^-1 + Z'Z)^-1`` by group, with derivatives in G and Z'Z.

    From a root of G, and so without the difference of ``G - G M G``, which is r^4 times smaller than its rounding where
    effects are r times as large as their errors.
    """
    return posterior(root, zz)[0]


@covariance_given.defjvp
@unguarded
def _covariance_given_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    (G, zz, root), (H, dzz, _) = primals, tangents
    K = covariance_given(G, zz, root)
    P = identity(G.shape[0], K) - matmul(K, zz)
    return K, matmul(matmul(P, H), transpose(P)) - matmul(matmul(K, dzz), K)


def _given_data(
    G: Array, cross: Cross, root: Array | None, M: Array, N: Array
) -> tuple[Array, Array, Array]:  # fmt: skip
    """``P = I - G M``, the covariance K of the effects given the data, and ``T = G N``, by group."""
    if root is None:  # M and N have all digits
        GM = matmul(G, M)
        return identity(G.shape[0], M) - GM, G[..., None] - matmul(GM, G), matmul(G, N)
    K = covariance_given(G, cross.zz, root)
    return identity(G.shape[0], K) - matmul(K, cross.zz), K, matmul(K, cross.zw)


def posterior(L: Array, zz: Array) -> tuple[Array, Array]:
    """Posterior covariance K = (G^-1 + Z'Z)^-1 and log|I + G Z'Z|, from a root L of G."""
    W, logdet = inv_logdet(identity(L.shape[0], zz) + matmul(matmul(L.T, zz), L))
    return matmul(matmul(L, W), L.T), logdet


class Given(NamedTuple):
    """Effects of each group given its rows, from a root L of G and ``Z'Z = F F'``; nothing cancels, see `given`."""

    means: Array  # (q, q, g) what turns ``B = Q'W`` into means of the effects
    covariance: Array  # (q, q, g)
    inverse: Array  # (q, q, g) S^-1 with S = I + F'G F


def given(L: Array, F: Array) -> Given:
    """Means ``L T M'`` and covariance ``L T L'`` of effects with ``T = (I + M'M)^-1``, ``M = F'L``."""
    M = matmul(transpose(F), L)
    T, _ = inv_logdet(identity(L.shape[0], F) + matmul(transpose(M), M))
    LT = matmul(L, T)
    inverse, _ = inv_logdet(identity(L.shape[0], F) + matmul(M, transpose(M)))
    return Given(matmul(LT, transpose(M)), matmul(LT, L.T), inverse)


@jax.custom_jvp
def moments(G: Array, cross: Cross | None, factor: Factor | None, root: Array | None = None) -> tuple[Array, Array]:
    """``M = Z'V^-1 Z`` (q, q, g) and ``N = Z'V^-1 W`` (q, r, g) by group; from a factor of A or a root of G."""
    if factor is not None:
        _, _, FW = by_factor(G, jnp.asarray(factor.F))
        return matmul(FW, transpose(jnp.asarray(factor.F))), matmul(FW, jnp.asarray(factor.B))
    assert cross is not None and root is not None
    K = covariance_given(G, cross.zz, root)
    shrink = identity(G.shape[0], K) - matmul(cross.zz, K)
    return matmul(shrink, cross.zz), matmul(shrink, cross.zw)


def _moments_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    G, cross, factor, root = primals
    H, dcross, _, _ = tangents
    M, N = moments(G, cross, factor, root)
    dM, dN = jnp.zeros_like(M), jnp.zeros_like(N)
    if not _is_zero(H):
        MH = matmul(M, H)
        dM, dN = -matmul(MH, M), -matmul(MH, N)
    if dcross is not None and not (_is_zero(dcross.zz) and _is_zero(dcross.zw)):
        dzz, dzw = _instantiate(dcross.zz), _instantiate(dcross.zw)
        P, _, T = _given_data(G, cross, root, M, N)
        dM = dM + matmul(matmul(transpose(P), dzz), P)
        dN = dN + matmul(transpose(P), dzw - matmul(dzz, T))
    return (M, N), (dM, dN)


moments.defjvp(unguarded(_moments_jvp), symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def eliminate(
    parents: int,
    G: Array,
    cross: Cross | None,
    factor: Factor | None,
    weight: Array,
    parent: Array,
    root: Array | None = None,
) -> tuple[Array, Array]:
    """Log-determinant (summed with `weight` (g,)) and gram by parent (r, r, parents).

    `factor` belongs to `cross` and `root` to `G`: their derivatives are accounted for there.
    """
    if factor is not None:
        W, logdet, _ = by_factor(G, jnp.asarray(factor.F))
        B = jnp.asarray(factor.B)
        gram = factor.E + quadratic(B, matmul(W, B), parent, parents)
    else:
        assert cross is not None and root is not None
        K, logdet = posterior(root, cross.zz)
        gram = cross.ww - quadratic(cross.zw, matmul(K, cross.zw), parent, parents)
    return jnp.sum(weight * logdet), gram


def _eliminate_jvp(parents: int, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    G, cross, factor, weight, parent, root = primals
    H, dcross, _, _, _, _ = tangents
    out = eliminate(parents, G, cross, factor, weight, parent, root)
    M, N = moments(G, cross, factor, root)
    dlogdet, dgram = jnp.zeros_like(out[0]), jnp.zeros_like(out[1])
    if not _is_zero(H):
        dlogdet = jnp.sum(jnp.sum(weight * M, -1) * H)
        dgram = -quadratic(N, matmul(H, N), parent, parents)
    if dcross is not None and not all(_is_zero(t) for t in dcross):
        dzz, dzw, dww = (_instantiate(t) for t in dcross)
        _, K, T = _given_data(G, cross, root, M, N)
        dlogdet = dlogdet + jnp.sum(weight * K * dzz)
        half = quadratic(T, dzw - 0.5 * matmul(dzz, T), parent, parents)
        dgram = dgram + dww - half - transpose(half)
    return out, (dlogdet, dgram)


eliminate.defjvp(unguarded(_eliminate_jvp), symbolic_zeros=True)


class SecondOrder(NamedTuple):
    """See `second_order`."""

    logdet: Array
    gram: Array  # (r, r)
    slopes: Array  # (q, q)
    gram_slopes: Array  # (k, r, r)
    curvature: Array  # (k, k)


def second_order(
    G: Array, D: Array, factor: Factor, weight: Array, weigh: Callable[[Array], Array]
) -> SecondOrder:  # fmt: skip
    """The result of `eliminate` for one parent with first and second derivatives along directions D (k, q, q) of G.

    ``weigh`` gives the weights (r, r) of the Gram in ``logdet + sum(weights * gram)``, of which `slopes` is the
    derivative in G and `curvature` the second derivative. Everything is three products over the groups: of N with
    itself, and of ``2 N weights N' - M`` with M. (Autodiff of the rules above gives the same, more slowly.)
    """
    W, logdet, FW = by_factor(G, jnp.asarray(factor.F))
    F, B = jnp.asarray(factor.F), jnp.asarray(factor.B)
    M, N = matmul(FW, transpose(F)), matmul(FW, B)
    q, r, _ = N.shape
    WB = matmul(W, B)
    gram = factor.E[..., 0] + transpose(B).reshape(r, -1) @ transpose(WB).reshape(r, -1).T
    weights = weigh(gram)

    flat = N.reshape(q * r, -1)
    NN = (flat @ flat.T).reshape(q, r, q, r)
    slopes = jnp.sum(weight * M, -1) - jnp.einsum("arbs,rs->ab", NN, weights)
    gram_slopes = -jnp.einsum("kab,arbs->krs", D, NN)

    spread = _pairs_to_square(q)
    A = matmul(matmul(N, weights), transpose(N))
    T = spread.T @ (_lower(2.0 * A - weight * M) @ _lower(M).T) @ spread
    curvature = jnp.einsum("iab,jcd,adbc->ij", D, D, T.reshape(q, q, q, q))
    return SecondOrder(
        jnp.sum(weight * logdet), gram, slopes, gram_slopes, 0.5 * (curvature + curvature.T)
    )  # fmt: skip


def _lower(a: Array) -> Array:
    """Lower triangles (pairs, g) of symmetric matrices (q, q, g)."""
    return jnp.stack([a[i, j] for i, j in zip(*tril_indices(a.shape[0]), strict=True)])


@lru_cache(maxsize=64)
def _pairs_to_square(q: int) -> np.ndarray:
    """Matrix (pairs, q^2) that spreads a lower triangle over the whole of a symmetric matrix."""
    rows, columns = tril_indices(q)
    out = np.zeros((len(rows), q, q))
    out[np.arange(len(rows)), rows, columns] = 1.0
    out[np.arange(len(rows)), columns, rows] = 1.0
    return out.reshape(len(rows), q * q)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _instantiate(tangent: Any) -> Array:
    return jnp.zeros(tangent.shape, tangent.dtype) if _is_zero(tangent) else tangent
