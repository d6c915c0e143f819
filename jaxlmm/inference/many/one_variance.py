"""Wald statistics of many responses to one design with a single variance beside the residual's, without its fits.

With K orthonormal beyond the columns of X that a hypothesis leaves, ``K'VK`` is ``s2 (I + r K'ZZ'K)``: in the basis of
its eigenvectors it is diagonal for every ratio r of variances. What the likelihood of r and the statistic depend on are
sums of squares and products over equal eigenvalues, few numbers a response (Patterson & Thompson 1971; Crainiceanu &
Ruppert 2004), and log-determinants that no response changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...fitting.objective import Spec
from ...likelihood.model import Model
from ...likelihood.parts import Term
from ...likelihood.prepared import orthonormal, weighted
from ...linalg import inv_logdet, matmul
from ...pytrees import frozen_pytree
from ...runtime.programs import compiled
from ...tolerances import CANCELLED, NO_LENGTH, REPEATED

LARGEST = 1e5  # numbers of the rotation: beyond them a fit costs less
STEPS = 15  # of Newton's method, after which a response has to be fitted
FARTHEST = 2.0  # that one of them goes, in logarithms of variances
SMALL = 1e-16  # decrement from which on one more step leaves rounding
ELSEWHERE = (0.1, 0.3, 1.0, 3.0)  # where the criterion must not be lower than at what was found
NOISE = 1e-11  # change of the criterion, relative to it, that is rounding


@frozen_pytree(data=("r", "xx", "level", "count", "nu", "reml"))
@dataclass(frozen=True, eq=False)
class Spectrum:
    """The design in coordinates in which V is diagonal: J distinct eigenvalues, the first of them zero.

    Attributes
    ----------
    r : (J,) eigenvalues of ZZ' beyond the other columns, relative to their mean;  xx : (h, h, J) products of the
        columns that the hypothesis is about
    level, count : (m,) what ``log|V|``, with REML that of K'VK, is the sum of: ``count log(1 + r level)``
    nu : degrees of freedom of the residual variance;  reml : 1.0 or 0.0
    """

    r: Any
    xx: Any
    level: Any
    count: Any
    nu: Any
    reml: Any


class OneVariance:
    """Statistics of rearranged errors where the model has one random effect a level, independent of the others.

    Attributes
    ----------
    spectrum : see `Spectrum`
    """

    def __init__(self, rows: np.ndarray, along: np.ndarray, first: np.ndarray, spectrum: Spectrum):
        self._rows, self._along, self._first, self.spectrum = rows, along, first, spectrum

    @classmethod
    def of(cls, model: Model, L: np.ndarray, free: np.ndarray, method: str) -> OneVariance | None:
        """The design for hypotheses L (h, p), `free` (p, p - h) being what they leave; None where a fit is needed."""
        spec, (n, p) = Spec.of(model, method), model.X.shape
        aliased = np.any(orthonormal(model.X, model.weights)[2])
        absent = model.weights is not None and not np.all(model.weights > 0)
        if not spec.profiled or spec.count != 1 or len(model.random) != 1 or aliased or absent:
            return None
        (term,) = model.random
        if not isinstance(term, Term) or term.dim != 1:
            return None
        z, g = weighted(model, term.Z)[:, 0], np.asarray(term.group)
        levels = int(g.max()) + 1
        if levels * n > LARGEST:
            return None
        Q, _, _ = orthonormal(model.X @ free, model.weights)
        Z = np.zeros((n, levels))
        Z[np.arange(n), g] = z
        x = weighted(model, model.X @ np.linalg.pinv(L))
        for _ in range(2):
            Z, x = Z - Q @ (Q.T @ Z), x - Q @ (Q.T @ x)
        U, s, _ = np.linalg.svd(Z, full_matrices=False)
        s2 = s**2
        kept = s2 > NO_LENGTH * max(np.sum(z**2), s2.max(initial=0.0))
        s2, T = s2[kept], U[:, kept].T
        if not len(s2) or n - Q.shape[1] - len(s2) < 1:
            return None
        first = np.flatnonzero(np.append(True, s2[:-1] - s2[1:] > NO_LENGTH * s2[0]))
        sizes = np.diff(np.append(first, len(s2)))
        r = np.append(0.0, np.add.reduceat(s2, first) / sizes)
        unit = float(np.mean(s2))
        along = T @ x
        inside = np.add.reduceat(along[:, :, None] * along[:, None, :], first, 0)
        left = x - T.T @ along
        xx = np.moveaxis(np.concatenate([(left.T @ left)[None], inside]), 0, -1)
        level, count = (r[1:], 1.0 * sizes) if spec.reml else np.unique(np.bincount(g, z**2), return_counts=True)
        return cls(np.concatenate([T, Q.T, left.T]), along, first, Spectrum(
            r / unit, xx, level / unit, 1.0 * count, np.float64(n - spec.reml * p), np.float64(spec.reml)
        ))  # fmt: skip

    def __call__(self, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """T of one hypothesis or Wald's F (b,) of errors (n, b), and whether it is that of a fit (b,)."""
        first, (m, h) = self._first, self._along.shape
        k = len(self._rows) - m - h
        a = self._rows @ errors
        inside = a[:m] ** 2
        whole = np.einsum("nb,nb->b", errors, errors) - np.sum(a[m : m + k] ** 2, 0)
        rest = whole - np.sum(inside, 0)
        yy = np.concatenate([rest[None], np.add.reduceat(inside, first, 0)])
        xy = np.add.reduceat(self._along[:, :, None] * a[:m, None], first, 0)
        xy = np.moveaxis(np.concatenate([a[None, m + k :], xy]), 0, 1)
        sizes = np.diff(np.append(first, m))
        start = np.log1p(np.maximum(_ratios(yy, self.spectrum, sizes), 0.05))
        found, good = _newton(self.spectrum, yy, xy, start)
        return np.asarray(found), np.asarray(good) & (rest > CANCELLED * whole)


def _ratios(yy: np.ndarray, spectrum: Spectrum, sizes: np.ndarray) -> np.ndarray:
    """Ratios of variances (b,) by mean squares, in units of the mean eigenvalue."""
    free = max(float(spectrum.nu) - sizes.sum(), 1.0)
    return np.sum(yy[1:], 0) / sizes.sum() / np.maximum(yy[0] / free, 1e-300) - 1.0


@compiled()
def _newton(spectrum: Spectrum, yy: Array, xy: Array, start: Array) -> tuple[Array, Array]:
    """Statistics at the maximum of the likelihood, and whether it is one, of responses side by side.

    In ``u = log(1 + r)`` the criterion is convex where all eigenvalues are one number, and regular at r = 0.

    Parameters
    ----------
    yy (J, b), xy (h, J, b) : sums of squares and products over equal eigenvalues;  start : (b,) of u
    """
    h = xy.shape[0]

    def solved(u: Array) -> tuple[Array, Array, Array, Array]:
        w = 1.0 / (1.0 + jnp.expm1(u) * spectrum.r[:, None])
        A = jnp.tensordot(spectrum.xx, w, 1)
        inverse, logdet = inv_logdet(A)
        b = jnp.sum(xy * w, 1)
        beta = matmul(inverse, b[:, None])[:, 0]
        return A, logdet, beta, jnp.sum(yy * w, 0) - jnp.sum(beta * b, 0)

    def criterion(u: Array) -> Array:
        _, logdet, _, rss = solved(u)
        of_V = jnp.sum(spectrum.count[:, None] * jnp.log1p(jnp.expm1(u) * spectrum.level[:, None]), 0)
        return of_V + spectrum.reml * logdet + spectrum.nu * jnp.log(rss)

    def slopes(u: Array) -> tuple[Array, Array, Array]:
        one = jnp.ones_like(u)
        (value, first), (_, second) = jax.jvp(lambda u: jax.jvp(criterion, (u,), (one,)), (u,), (one,))
        return value, first, second

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        u, trial, old, radius, done, count = state
        value, first, second = slopes(trial)
        accept = value <= old[0] + NOISE * jnp.abs(value)
        u = jnp.where(accept, trial, u)
        value, first, second = (jnp.where(accept, new, o) for new, o in zip((value, first, second), old, strict=True))
        radius = jnp.where(accept, jnp.minimum(2.0 * radius, FARTHEST), 0.25 * radius)
        move = jnp.clip(-first / jnp.maximum(jnp.abs(second), 1e-300), -radius, radius)
        trial = jnp.maximum(u + move, 0.0)
        ends = (u == 0) & (first > 0)
        last = (first**2 < SMALL * second) & (jnp.abs(move) < 1e-6)
        return u, trial, (value, first, second), radius, done | ends | last, count + 1

    b = start.shape
    old = (jnp.full(b, jnp.inf), jnp.zeros(b), jnp.ones(b))
    state = (start, start, old, jnp.full(b, FARTHEST), jnp.zeros(b, bool), 0)
    state = jax.lax.while_loop(lambda s: (s[5] < STEPS) & ~jnp.all(s[4]), step, state)
    u, done = state[1], state[4]  # one step more than what has ended
    A, _, beta, rss = solved(u)
    single = (u == 0) | (jax.grad(lambda v: jnp.sum(criterion(v)))(jnp.zeros(b)) < 0)
    if len(spectrum.r) > 2:  # there may be several maxima
        least = criterion(u)
        for other in ELSEWHERE:
            single &= criterion(jnp.full(b, other)) >= least
    good = done & single & (rss > CANCELLED * jnp.sum(yy, 0))
    s2 = rss / spectrum.nu
    if h == 1:
        return beta[0] * jnp.sqrt(A[0, 0] / s2), good
    return jnp.sum(beta * matmul(A, beta[:, None])[:, 0], 0) / s2 / h, good


def independent(L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (h, p) that span those of L, one alone as it is, and what they leave (p, p - h)."""
    _, s, Vt = np.linalg.svd(L / np.linalg.norm(L, axis=1, keepdims=True))
    rank = int(np.sum(s > REPEATED * s[0]))
    return (L if len(L) == 1 else Vt[:rank]), Vt[rank:].T
