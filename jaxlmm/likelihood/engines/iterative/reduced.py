"""The equations of crossed random effects at one point, by their sparse products.

Relative to the residual variance, with roots ``G_t = L_t L_t'`` and ``A = Z'Z``, they are ``T = I + L'A L``. Divided on
both sides by roots of its diagonal blocks (one a level: block Jacobi) T is the identity plus blocks of the factors that
meet, ``I + E``. The factor with most effects has no block within itself and is eliminated, which leaves

    S = I + E_rest - C'C      (C: that factor with the others)

of half the condition number's square root, for the same products. Singular and zero G are ordinary.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ....linalg import identity, matmul, psd_cholesky, transpose
from .krylov import by_parts, conjugate_gradients
from .meeting import Meeting

COLUMNS = 6e6  # numbers in the columns that are worked with at the same time


class ReducedLevels(NamedTuple):
    """What a factor alone gives, in each of its levels; all (q, q, m), for A the products Z'Z of the level."""

    W: Array  # root of K
    K: Array  # (G^-1 + A)^-1
    J: Array  # (I + G A)^-1
    M: Array  # A (I + G A)^-1


def levels_of(G: Array, A: Array) -> tuple[ReducedLevels, Array]:
    """Levels of a factor with covariance G (q, q), and the log-determinants of ``I + G A`` (m,)."""
    L = psd_cholesky(G)
    P = identity(len(G), A) + matmul(matmul(L.T, A), L)
    if len(G) == 1:
        inverse = 1.0 / P
        root, logdet = jnp.sqrt(inverse), jnp.log(P[0, 0])
        J = inverse  # without the cancellation of I - K A
        W = L[0, 0] * root
        K = W * W
    else:
        factor = jax.lax.linalg.cholesky(jnp.moveaxis(P, -1, 0), symmetrize_input=False)
        eye = jnp.broadcast_to(identity(len(G)), factor.shape)
        root = jax.lax.linalg.triangular_solve(factor, eye, left_side=True, lower=True)
        logdet = 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)), -1)
        W = jnp.moveaxis(L @ jnp.swapaxes(root, 1, 2), 0, -1)
        K = matmul(W, transpose(W))
        J = identity(len(G), A) - matmul(K, A)
    M = matmul(A, J)
    return ReducedLevels(W, K, J, 0.5 * (M + transpose(M))), logdet


def blockwise(B: Array, x: Array) -> Array:
    """Products (m, q, b) of a matrix in each level (q, q, m) with its coordinates x (m, q, b)."""
    rows = [sum(B[i, j][:, None] * x[:, j] for j in range(x.shape[1])) for i in range(x.shape[1])]
    return jnp.stack(rows, 1)


Columns = tuple[Array, ...]  # (m, q, b) of each factor


class Answer(NamedTuple):
    """Columns ``u = Q h`` for ``Q = L T^-1 L'``, the posterior covariance of the effects."""

    u: Columns
    y: Array  # (Q, b) solution of the reduced system
    left: Array  # (Q, b) residual of the reduced system


class System(NamedTuple):
    """The equations at covariances of the factors relative to the residual variance."""

    levels: tuple[ReducedLevels, ...]
    meetings: tuple[tuple[Meeting | None, ...], ...]

    def meeting(self, t: int, x: Columns, among: Any) -> Array | float:
        """Sum of the products of factor t with others that it meets."""
        parts: list[Any] = [self.meetings[t][u](x[u]) for u in among if u != t]  # type: ignore[misc]
        return reduce(lambda a, b: a + b, parts) if parts else 0.0

    def off(self, x: Columns) -> Columns:
        """Products (m, q, b) of every factor with all others."""
        every = range(len(x))
        return tuple(jnp.asarray(self.meeting(t, x, every)) for t in every)

    def each(self, name: str, x: Columns, turned: bool = False) -> Columns:
        """Products with an entry of `ReducedLevels`, or its transpose."""
        blocks = [getattr(at, name) for at in self.levels]
        return tuple(blockwise(transpose(B) if turned else B, v) for B, v in zip(blocks, x, strict=True))

    @property
    def rest(self) -> range:
        """Factors that are not eliminated."""
        return range(1, len(self.levels))

    def joined(self, parts: Any) -> Array:
        """Coordinates (Q, b) of the factors that are not eliminated."""
        return jnp.concatenate([p.reshape(-1, p.shape[-1]) for p in parts], 0)

    def cut(self, y: Array) -> list[Array]:
        """Inverse of `joined`."""
        out, start = [], 0
        for t in self.rest:
            q, _, m = self.levels[t].W.shape
            out.append(y[start : start + m * q].reshape(m, q, -1))
            start += m * q
        return out

    def apply(self, y: Array) -> Array:
        """Product of the reduced system S with y (Q, b)."""
        parts = self.cut(y)
        scaled = (None, *(blockwise(self.levels[t].W, x) for t, x in zip(self.rest, parts, strict=True)))
        through = blockwise(self.levels[0].K, self.meeting(0, scaled, self.rest))  # type: ignore[arg-type]
        out = []
        for t, x in zip(self.rest, parts, strict=True):
            met = self.meeting(t, scaled, self.rest) - self._with_first(t, through)  # type: ignore[arg-type]
            out.append(x + blockwise(transpose(self.levels[t].W), met))
        return self.joined(out)

    def _with_first(self, t: int, x: Array) -> Array:
        return self.meetings[t][0](x)  # type: ignore[misc]

    def solve(self, h: Columns, tolerance: float, limit: int) -> Answer:
        """Posterior covariance of the effects times h."""
        K0 = self.levels[0].K
        through = blockwise(K0, h[0])
        g = self.joined(
            [blockwise(transpose(self.levels[t].W), h[t] - self._with_first(t, through)) for t in self.rest]
        )
        y, left = self._solved(g, tolerance, limit)
        rest = tuple(blockwise(self.levels[t].W, x) for t, x in zip(self.rest, self.cut(y), strict=True))
        first = blockwise(K0, h[0] - self.meeting(0, (None, *rest), self.rest))  # type: ignore[arg-type]
        return Answer((first, *rest), y, left)

    def _solved(self, g: Array, tolerance: float, limit: int) -> tuple[Array, Array]:
        """Conjugate gradients, a part of the columns at a time where they are many."""

        def one(part: Array) -> tuple[Array, Array]:
            found = conjugate_gradients(self.apply, part, tolerance, limit)
            return found.x, found.residual

        return by_parts(one, g, self.columns)

    @property
    def columns(self) -> int:
        """Number of columns to work with at the same time."""
        effects = sum(at.W.shape[0] * at.W.shape[-1] for at in self.levels)
        return max(4, int(COLUMNS / effects))

    def squares(self) -> tuple[Array, ...]:
        """``sum_j A_tj K_j A_jt`` (q, q, m) of each factor t, over the levels j of others that a level of it meets."""
        every = range(len(self.levels))
        sums = []
        for t in every:
            parts = [self.meetings[t][u].squared(self.levels[u].K) for u in every if u != t]  # type: ignore[union-attr]
            sums.append(reduce(lambda a, b: a + b, parts))
        return tuple(sums)


def bilinear_matrix(h: Columns, at: Answer) -> Array:
    """``h'Q h`` (b, b) of columns and their answer, with errors of the order of the product of both residuals."""
    parts = [jnp.einsum("mqa,mqb->ab", a, b) for a, b in zip(h, at.u, strict=True)]
    found = sum(parts, at.y.T @ at.left)
    return 0.5 * (found + found.T)
