"""Traces of products of ``M = Z'V^-1 Z`` and ``E = N weights N'`` by blocks of random effects.

Second derivatives of log|V| and of the Gram along covariance blocks H and K are ``tr(M H (2 E - M) K)``. H and K being
the same in every level, a table of q_t^2 q_u^2 sums for each pair of factors holds all of them. It is made in one of
two ways: from M itself, where there are few effects; or from sums over the levels of the first factor, of which M is
block diagonal less ``W K W'``, where they are many and each has few coordinates.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from ....linalg import matmul, tril_indices
from .coupling import Coupling
from .remaining import products

MAX_MATRIX = 2.5e7  # entries of M


class Solved(NamedTuple):
    """Both levels of the elimination at one point, for a residual variance of one."""

    logdet: Array
    gram: Array  # (r, r)
    F: Array  # (q, q, groups) factors of Z_g'Z_g of the first factor
    FW: Array  # (q, q, groups), F S^-1
    B: Array  # (q, r, groups) U along the orthonormal columns of the first design
    G: tuple[Array, ...]  # covariance blocks of the other factors
    A: Array  # (Q, Q) products of the other designs after the elimination of the first
    AU: Array  # (Q, r) the same with U
    K: Array  # (Q, Q) posterior covariance of the other effects, (G^-1 + A)^-1
    KU: Array  # (Q, r) K AU


class Traces(NamedTuple):
    """Blocks of effects are numbered: the first factor is 0, the others follow.

    Attributes
    ----------
    single : (q, q) sums over the levels of diagonal blocks of M - E, a block
    double : for blocks t <= u the sums over their levels x, y of ``M[xb, yc] (2 E - M)[xa, yd]``, (a, b, c, d)
    """

    single: list[Array]
    double: dict[tuple[int, int], Array]


def traces(at: Solved, coupling: Coupling, sizes: tuple[tuple[int, int], ...], N: list[Array], w: Array) -> Traces:
    """Traces at one point.

    Parameters
    ----------
    sizes : levels m and effects q of each block, the first factor in front
    N : ``Z'V^-1 U`` (m, q, r) a block;  w : (r, r) symmetric weights
    """
    (m, q), rest = sizes[0], len(at.K)
    pairs, first = q * (q + 1) // 2, m * q
    whole = float(first) ** 2 * rest + float(first) * rest**2
    sums = pairs * (3.0 * rest**3 + float(first) * rest**2)
    if whole < sums and (first + rest) ** 2.0 <= MAX_MATRIX:
        return by_matrix(at, coupling, sizes, N, w)
    return by_sums(at, coupling, sizes, N, w)


def by_matrix(at: Solved, coupling: Coupling, sizes: tuple[tuple[int, int], ...], N: list[Array], w: Array) -> Traces:
    """`traces` from the whole of M."""
    m, q = sizes[0]
    W = jnp.einsum("abg,bgk->gak", at.FW, coupling.dense()).reshape(m * q, -1)
    KA, own, each = at.K @ at.A, matmul(at.FW, jnp.swapaxes(at.F, 0, 1)), np.arange(m)
    M00 = (-W @ at.K @ W.T).reshape(m, q, m, q).at[each, :, each].add(jnp.moveaxis(own, -1, 0)).reshape(m * q, m * q)
    M02 = W - W @ KA
    M = jnp.concatenate([jnp.concatenate([M00, M02], 1), jnp.concatenate([M02.T, at.A - at.A @ KA], 1)], 0)
    stacked = jnp.concatenate([n.reshape(-1, n.shape[-1]) for n in N], 0)
    E = stacked @ w @ stacked.T
    Y = 2.0 * E - M
    ends = np.cumsum([0, *(m * q for m, q in sizes)])

    def block(X: Array, t: int, u: int) -> Array:
        return X[ends[t] : ends[t + 1], ends[u] : ends[u + 1]].reshape(*sizes[t], *sizes[u])

    single = [jnp.trace(block(M - E, t, t), axis1=0, axis2=2) for t in range(len(sizes))]
    double = {
        (t, u): jnp.einsum("xbyc,xayd->abcd", block(M, t, u), block(Y, t, u))
        for t in range(len(sizes))
        for u in range(t, len(sizes))
    }
    return Traces(single, double)


def by_sums(at: Solved, coupling: Coupling, sizes: tuple[tuple[int, int], ...], N: list[Array], w: Array) -> Traces:
    """`traces` without M of the first factor, from sums over its levels."""
    q = sizes[0][1]
    N0 = jnp.moveaxis(N[0], 0, -1)
    N2 = jnp.concatenate([n.reshape(-1, n.shape[-1]) for n in N[1:]], 0)
    rows, columns = tril_indices(q)
    where = np.zeros((q, q), int)  # of an entry of a symmetric matrix in its lower triangle
    where[rows, columns] = where[columns, rows] = np.arange(len(rows))
    X = jnp.stack([coupling.schur(_symmetric_outer(at.FW, a, b)) for a, b in zip(rows, columns, strict=True)])
    P, M2, KX, XP = products(tuple(m for m, _ in sizes[1:]), at.G, at.K, at.A, X)
    E2 = N2 @ w @ N2.T

    M1 = matmul(at.FW, jnp.swapaxes(at.F, 0, 1))
    R = matmul(matmul(at.FW, coupling.inner(at.K)), jnp.swapaxes(at.FW, 0, 1))
    E0 = matmul(matmul(N0, w), jnp.swapaxes(N0, 0, 1))
    single = [jnp.sum(M1 - R - E0, -1)]
    T = jnp.einsum("bcg,adg->abcd", M1, 2.0 * E0 - M1 + R) + jnp.einsum("bcg,adg->abcd", R, M1)
    J = _meeting(at.FW, N0, coupling)
    KJ = jnp.einsum("kl,lbar->kbar", at.K, J)
    T = T - 2.0 * jnp.einsum("kbar,kcds,rs->abcd", J, KJ, w)
    squares = jnp.einsum("ikl,jlk->ij", KX, KX)
    double = {(0, 0): T - squares[where][:, :, where]}

    JP = jnp.einsum("kbar,kl->lbar", J, P)
    ends = np.cumsum([0, *(m * size for m, size in sizes[1:])])
    here = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    for t, (m, size) in enumerate(sizes[1:], 1):
        mine = here[t - 1]
        Pt, XPt = P[:, mine].reshape(-1, m, size), XP[:, :, mine].reshape(len(rows), -1, m, size)
        mixed = -jnp.einsum("kld,xklc->xcd", Pt, XPt)[where]
        seen = jnp.einsum("lcbar,lds,rs->abcd", JP[mine].reshape(m, size, q, q, w.shape[0]), N[t], w)
        double[0, t] = mixed + 2.0 * seen
        single.append(jnp.trace((M2 - E2)[mine, mine].reshape(m, size, m, size), axis1=0, axis2=2))
        for u in range(t, len(sizes)):
            shape = (m, size, *sizes[u])
            Mtu, Ytu = M2[mine, here[u - 1]].reshape(shape), (2.0 * E2 - M2)[mine, here[u - 1]].reshape(shape)
            double[t, u] = jnp.einsum("xbyc,xayd->abcd", Mtu, Ytu)
    return Traces(single, double)


def _symmetric_outer(FW: Array, a: int, b: int) -> Array:
    """Symmetric part of the products (q, q, groups) of rows a and b of FW."""
    product = FW[a][:, None] * FW[b][None]
    return product if a == b else 0.5 * (product + jnp.swapaxes(product, 0, 1))


def _meeting(FW: Array, N: Array, coupling: Coupling) -> Array:
    """``sum_g W_g[b, :]'N_g[a, :]`` (Q, b, a, r) for W_g = FW_g B_g."""
    q, r, groups = N.shape
    product = jnp.einsum("big,arg->ibarg", FW, N).reshape(q, q * q * r, groups)
    return coupling.across(product).reshape(-1, q, q, r)
