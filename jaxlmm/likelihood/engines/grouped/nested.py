"""Many small components of groups: two eliminations with closed forms of all derivatives, by component.

As `second_order` does for one level. With ``w = F S^-1 B`` of the outer design, products A of it after the elimination
of the inner effects, and the posterior covariance K of the outer effects, ``M = Z'V^-1 Z`` of a component has blocks

    M1 - w K w'  (inner groups, M1 on the diagonal),  w P  (inner, outer),  A P  (outer),  P = I - K A,

and second derivatives are ``tr(M H (2 E - M) K)`` with ``E = N weights N'``, as in `crossed.traces`, from sums over the
groups of a component. These stand in rows of equal length, padded with empty ones, so that sums are along an axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ....linalg import UNROLL, block_diagonal, identity, matmul, transpose
from ....pytrees import frozen_pytree
from ..base import Blocks, Expansion, Weigh, homogeneous
from .elimination import Factor, by_factor, posterior
from .engine import Grouped, stacked_blocks

WASTE = 2.0  # groups with empty ones, relative to those that there are


def in_rows(parent: np.ndarray, components: int, effects: int) -> np.ndarray | None:
    """Groups of each component in turn, as many places for each, `len(parent)` where there is none (NumPy).

    None where closed forms by component are not worth it: many empty places, or many stacked effects of the others.
    """
    count = np.bincount(parent, minlength=components)
    width = int(count.max(initial=1))
    if effects > UNROLL or components < 2 or components * width > WASTE * len(parent):
        return None
    order = np.argsort(parent, kind="stable")
    place = np.arange(len(parent)) - np.repeat(np.cumsum(count) - count, count)
    found = np.full((components, width), len(parent))
    found[parent[order], place] = order
    return found.ravel()


def placed(x: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Values (..., groups) in the places of `in_rows`, zeros in the empty ones."""
    return np.concatenate([x, np.zeros((*x.shape[:-1], 1))], -1)[..., order]


@frozen_pytree(data=("n", "factor", "cross", "weight", "parent", "source"), meta=("shape",))
@dataclass(frozen=True, eq=False)
class Components(Grouped):
    """Statistics as `Grouped`, the groups in the places of `in_rows`."""

    @classmethod
    def of(cls, found: Grouped, order: np.ndarray) -> Components:
        """From statistics with groups in the order of the layout."""
        F, B, E = found.factor
        components = found.shape[3]
        factor = Factor(placed(F, order), placed(B, order), E)
        parent = np.repeat(np.arange(components, dtype=np.int32), len(order) // components)
        return cls(found.n, factor, None, placed(np.asarray(found.weight), order), parent, None, found.shape)

    def expand(self, C: Blocks, D: Blocks, weigh: Weigh) -> Expansion:
        """The Gram with its derivatives along directions D of the blocks, in closed form."""
        inner, outer, copies, _, r = self.shape

        def relative(random: tuple[Any, ...], weigh: Weigh) -> Expansion:
            first = jax.vmap(lambda *blocks: block_diagonal(list(blocks)))(*(random[t] for t in inner))
            second = jax.vmap(lambda *blocks: stacked_blocks(list(blocks), copies))(*(random[t] for t in outer))
            found = self._closed(C, first, second, weigh)
            slopes: dict[int, Array] = {}
            start = 0
            for t in inner:
                stop = start + len(C.random[t])
                slopes[t] = found.slopes.random[0][start:stop, start:stop]
                start = stop
            start = 0
            for t, count in zip(outer, copies, strict=True):
                q = len(C.random[t])
                stop = start + count * q
                own = found.slopes.random[1][start:stop, start:stop].reshape(count, q, count, q)
                slopes[t] = jnp.trace(own, axis1=0, axis2=2)
                start = stop
            blocks = Blocks(tuple(slopes[t] for t in range(len(C.random))), None)
            return found._replace(slopes=blocks)

        return homogeneous(self.n, C, D, weigh, relative)

    def _closed(self, C: Blocks, H1: Array, H2: Array, weigh: Weigh) -> Expansion:
        """`expand` for a residual variance of one, along inner and outer blocks H1 (k, q, q) and H2 (k, Q, Q)."""
        components, r = self.shape[3:]
        F, B = (jnp.asarray(x).reshape(*x.shape[:2], components, -1) for x in (self.factor.F, self.factor.B))
        E, Q = jnp.asarray(self.factor.E), B.shape[1] - r
        W, logdet, FW = by_factor(self._inner_block(C), F)
        S = E + jnp.sum(matmul(transpose(B), matmul(W, B)), -1)
        A, AU, UU = S[:Q, :Q], S[:Q, Q:], S[Q:, Q:]
        K, more = posterior(self._outer_root(C), A)
        KU = matmul(K, AU)
        gram = jnp.sum(UU - matmul(transpose(AU), KU), -1)
        w = weigh(gram)
        w = 0.5 * (w + w.T)

        FB = matmul(FW, B)
        V, P = FB[:, :Q], identity(Q, K) - matmul(K, A)
        N1, N2 = FB[:, Q:] - matmul(V, KU[..., None]), matmul(transpose(P), AU)
        M1, M2 = matmul(FW, transpose(F)), matmul(A, P)
        R = matmul(matmul(V, K[..., None]), transpose(V))
        NN = [_outer(N1), _outer(N2)]  # (q, r, q, r)
        slopes = [
            jnp.sum(M, tuple(range(2, M.ndim))) - jnp.einsum("arbs,rs->ab", n, w)
            for M, n in zip((M1 - R, M2), NN, strict=True)
        ]
        gram_slopes = -(jnp.einsum("kab,arbs->krs", H1, NN[0]) + jnp.einsum("kab,arbs->krs", H2, NN[1]))

        E1, E2 = (matmul(matmul(N, w), transpose(N)) for N in (N1, N2))
        VT = transpose(V)
        J = jnp.sum(VT[:, :, None, None] * N1[None, None], -1)  # (Q, b, a, r, c)
        X = jnp.sum(V[:, None, :, None] * V[None, :, None, :], -1)  # (a, b, Q, Q, c)
        Jw = jnp.einsum("kbarc,rs->kbasc", J, w)
        KJ, KX = jnp.einsum("klc,lbarc->kbarc", K, J), jnp.einsum("klc,ablmc->abkmc", K, X)
        T = _pairs(M1, 2.0 * E1 - M1 + R) + _pairs(R, M1)
        T = T - 2.0 * jnp.einsum("kbasx,kcdsx->abcd", Jw, KJ) - jnp.einsum("abklx,cdlkx->abcd", KX, KX)
        XP = jnp.einsum("kcx,bakmx,mdx->abcd", P, X, P)
        mixed = 2.0 * jnp.einsum("kcx,kbasx,dsx->abcd", P, Jw, N2) - XP
        double = {(0, 0): T, (0, 1): mixed, (1, 1): _pairs(M2, 2.0 * E2 - M2)}
        H = (H1, H2)
        curvature: Any = 0.0
        for (t, u), table in double.items():
            part = jnp.einsum("iab,jcd,abcd->ij", H[t], H[u], table)
            curvature = curvature + (0.5 * (part + part.T) if t == u else part + part.T)
        value: Any = jnp.sum(jnp.asarray(self.weight) * logdet.ravel()) + jnp.sum(more)
        return Expansion(value, gram, Blocks(tuple(slopes), None), gram_slopes, curvature)


def _outer(N: Array) -> Array:
    """Sum over the stack of products (q, r, q, r) of N (q, r, ...) with itself."""
    flat = N.reshape(N.shape[0] * N.shape[1], -1)
    return (flat @ flat.T).reshape(N.shape[:2] * 2)


def _pairs(M: Array, Y: Array) -> Array:
    """Sum over the stack of ``M[b, c] Y[a, d]``, (a, b, c, d), of symmetric M and Y (q, q, ...)."""
    q = M.shape[0]
    return jnp.einsum("bcx,adx->abcd", M.reshape(q, q, -1), Y.reshape(q, q, -1))
