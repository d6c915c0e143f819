"""The effects that remain after the first factor is eliminated: their posterior covariance and its products.

Covariance blocks are block diagonal (every term's G once a level), given as one matrix a term with its levels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ....linalg import identity, psd_cholesky
from ....runtime.precision import unguarded
from .blockwise import inverse_logdet

MANY_EFFECTS = 300  # above which products of matrices take most of the time
REGULAR = 1e-4  # smallest variance of an effect, relative to its error, above which blocks may be inverted


class Products(NamedTuple):
    """What second derivatives need of the effects that are not eliminated first; X are sums by `schur`."""

    P: Array  # (Q, Q) I - K A
    M: Array  # (Q, Q) A - A K A
    KX: Array  # (x, Q, Q)
    XP: Array  # (x, Q, Q)


def products(levels: tuple[int, ...], G: tuple[Array, ...], K: Array, A: Array, X: Array) -> Products:
    """Products of the Q x Q matrices; all but one are free where no block of G is nearly singular.

    There ``S = (I + L'A L)^-1 = L^-1 K L'^-1`` with roots L of G gives ``M = L'^-1 (I - S) L^-1``, ``P = L S L^-1``.
    """

    def any_blocks() -> Products:
        KA, KX = K @ A, K @ X
        return Products(identity(len(K)) - KA, A - A @ KA, KX, X - jnp.swapaxes(KX, 1, 2) @ A)

    def regular() -> Products:
        inverses = tuple(jax.lax.linalg.triangular_solve(L, jnp.eye(len(L)), left_side=True, lower=True) for L in roots)
        turned, back = tuple(L.T for L in roots), tuple(L.T for L in inverses)
        S = both_sides(levels, inverses, inverses, K)
        Y = S @ jax.vmap(lambda x: both_sides(levels, turned, turned, x))(X)
        KX = jax.vmap(lambda y: both_sides(levels, roots, back, y))(Y)
        XP = jax.vmap(lambda y: both_sides(levels, back, back, y.T))(Y)
        P, M = both_sides(levels, roots, back, S), both_sides(levels, back, back, identity(len(S)) - S)
        return Products(P, M, KX, XP)

    if len(K) < MANY_EFFECTS:
        return any_blocks()
    roots = tuple(psd_cholesky(block) for block in G)
    starts = np.cumsum([0, *(m * len(block) for m, block in zip(levels, G, strict=True))])
    sizes = [jnp.mean(jnp.diagonal(A)[a:b]) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    smallest = [jnp.min(jnp.diagonal(L)) ** 2 * size for L, size in zip(roots, sizes, strict=True)]
    return jax.lax.cond(jnp.min(jnp.stack(smallest)) > REGULAR, regular, any_blocks)


def both_sides(levels: tuple[int, ...], left: tuple[Array, ...], right: tuple[Array, ...], X: Array) -> Array:
    """Product of X (Q, Q) with block diagonal matrices: ``B_left X B_right'``."""
    if all(len(G) == 1 for G in left):
        a, b = (jnp.concatenate([jnp.full(m, G[0, 0]) for m, G in zip(levels, B, strict=True)]) for B in (left, right))
        return a[:, None] * X * b
    return apply_blocks(levels, left, apply_blocks(levels, right, X.T).T)


def apply_blocks(levels: tuple[int, ...], blocks: tuple[Array, ...], X: Array) -> Array:
    """Product of the block diagonal matrix, every block once a level, with X (Q, b)."""
    parts, start = [], 0
    for m, G in zip(levels, blocks, strict=True):
        q = G.shape[0]
        x = X[start : start + m * q]
        parts.append(G[0, 0] * x if q == 1 else jnp.einsum("ij,mjb->mib", G, x.reshape(m, q, -1)).reshape(x.shape))
        start += m * q
    return jnp.concatenate(parts, 0)


def remaining(levels: tuple[int, ...], G: tuple[Array, ...], A: Array) -> tuple[Array, Array]:
    """Posterior covariance ``K = (G^-1 + A)^-1`` (Q, Q) and ``log|I + G A|``, from roots of the blocks of G.

    With derivatives to any order, of K itself and not of a factorisation: ``dK = P dG P' - K dA K`` and
    ``d logdet = tr(K dA) + tr(A P dG)`` with ``P = I - K A``.
    """

    @jax.custom_jvp
    def solved(G: tuple[Array, ...], A: Array) -> tuple[Array, Array]:
        roots = tuple(psd_cholesky(block) for block in G)
        turned = tuple(root.T for root in roots)
        inverse, logdet = inverse_logdet(identity(len(A)) + both_sides(levels, turned, turned, A))
        return both_sides(levels, roots, roots, inverse), logdet

    def rule(primals: Any, tangents: Any) -> Any:
        (G, A), (dG, dA) = primals, tangents
        K, logdet = solved(G, A)
        P = identity(len(A)) - K @ A
        dlogdet = jnp.sum(K * dA) + jnp.sum((A @ P) * apply_blocks(levels, dG, identity(len(A))))
        return (K, logdet), (P @ apply_blocks(levels, dG, P.T) - K @ dA @ K, dlogdet)

    solved.defjvp(unguarded(rule))
    return solved(G, A)
