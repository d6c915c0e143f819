"""REML and ML from a Gram matrix: one small inverse, from which beta and its covariance fall out.

Glossary used throughout the numerical code: y response, X fixed design (n, p) with its rank, Z random design, G and R
covariances of random effects and residuals, V = Z G Z' + R, U = [X y], Phi = (X'V^-1 X)^-1, beta = Phi X'V^-1 y,
rss = (y - X beta)'V^-1(y - X beta).

REML or ML is a number `reml`, 1.0 or 0.0, that multiplies what only REML has: one compiled program serves both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..linalg import inv_logdet

LOG_2PI = float(np.log(2.0 * np.pi))


class Normal(NamedTuple):
    """Solution of the generalised normal equations."""

    Phi: Any  # (p, p)
    beta: Any  # (p,)
    rss: Any  # ()
    logdet: Any  # log|X'V^-1 X|


def solve_normal(gram: Array, alias: Any) -> Normal:
    """Generalised least squares from the Gram matrix of [X y]; aliased columns of X (zeros, alias = 1) have beta 0."""
    p = gram.shape[-1] - 1
    Phi, logdet = inv_logdet(gram[:p, :p] + jnp.diag(jnp.asarray(alias)))
    beta = Phi @ gram[:p, p]
    return Normal(Phi, beta, gram[p, p] - gram[:p, p] @ beta, logdet)


def deviance(logdet_v: Array, normal: Normal, n: Any, rank: Any, reml: Any) -> Array:
    """-2 log-likelihood, REML (seed equation; Harville 1977) or ML; lme4's constant, no log|X'X|."""
    return (n - reml * rank) * LOG_2PI + logdet_v + reml * normal.logdet + normal.rss


def profiled_deviance(logdet_v: Array, normal: Normal, n: Any, rank: Any, reml: Any) -> Array:
    """-2 log-likelihood with sigma^2 = rss / nu profiled out; logdet_v and rss for sigma = 1 (Bates et al. 2015)."""
    nu = n - reml * rank
    return logdet_v + nu * (1.0 + LOG_2PI + jnp.log(normal.rss / nu)) + reml * normal.logdet


def gram_curvature(normal: Normal, P: Array, n: Any, rank: Any, reml: Any, profiled: bool) -> Array:
    """Second derivatives (k, k) of either deviance along directions P (k, p+1, p+1) of the Gram matrix."""
    p = normal.beta.shape[0]
    v = jnp.concatenate([-normal.beta, jnp.ones(1)])
    Pv = P @ v
    weight = (n - reml * rank) / normal.rss if profiled else 1.0
    H = -2.0 * weight * (Pv[:, :p] @ normal.Phi @ Pv[:, :p].T)
    if profiled:
        drss = Pv @ v
        H = H - weight / normal.rss * drss[:, None] * drss[None, :]
    PPhi = P[:, :p, :p] @ normal.Phi
    return H - reml * jnp.einsum("iab,jba->ij", PPhi, PPhi)


def gram_slopes(normal: Normal, n: Any, rank: Any, reml: Any, profiled: bool) -> Array:
    """Derivative of either deviance in the Gram matrix (p+1, p+1): ``v v' / s + Phi``, v = (-beta, 1)."""
    v = jnp.concatenate([-normal.beta, jnp.ones(1)])
    weight = (n - reml * rank) / normal.rss if profiled else 1.0
    return weight * v[:, None] * v[None, :] + reml * jnp.pad(normal.Phi, ((0, 1), (0, 1)))
