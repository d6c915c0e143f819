"""Satterthwaite's degrees of freedom (Giesbrecht & Burns 1985; Fai & Cornelius 1996; Kuznetsova et al. 2017).

Phi (p, p) is the covariance of the coefficients, P (k, p, p) the derivatives of its inverse in covariance parameters,
W (k, k) their covariance; all functions work in NumPy and in JAX.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...covariance.kinds import module_of
from ...linalg import eigh, quadratic

EQUAL = 1e-8  # relative difference of degrees of freedom that are the same


def row_df(L: Any, Phi: Any, P: Any, W: Any) -> Any:
    """Degrees of freedom (m,) of every row of L (m, p): ``2 f^2 / f'W f'``, f = L Phi L' (infinite without slope)."""
    xp = module_of(Phi)
    A = L @ Phi
    f = xp.sum(A * L, -1)
    slope = -quadratic(A, P).T
    spread = quadratic(slope, W)
    none = spread <= 0
    return xp.where(none, xp.inf, 2.0 * f**2 / xp.where(none, 1.0, spread))


def joint_df(L: Any, Phi: Any, P: Any, W: Any) -> Any:
    """Denominator degrees of freedom of L (r, p) of full row rank (Fai & Cornelius 1996).

    The statistic is the mean of r squared t statistics that are uncorrelated, along the eigenvectors of L Phi L'. They
    depend on how the rows of L are chosen where r > 1.
    """
    xp, r = module_of(Phi), len(L)
    if r == 1:
        return row_df(L, Phi, P, W)[0]
    _, Q = (np.linalg.eigh if xp is np else eigh)(L @ Phi @ L.T)
    nu = row_df(Q.T @ L, Phi, P, W)
    return pooled(nu, r)


def pooled(nu: Any, r: int) -> Any:
    """Denominator degrees of freedom of the mean of r squared, uncorrelated t statistics with nu (r,) of their own."""
    xp = module_of(nu)
    inside = xp.where((nu > 2.0) & xp.isfinite(nu), nu, 4.0)
    E = xp.sum(xp.where(xp.isfinite(nu), inside / (inside - 2.0), 1.0))
    found = xp.where(E > r, 2.0 * E / xp.where(E > r, E - r, 1.0), xp.inf)
    found = xp.where(xp.any(nu <= 2.0), 2.0, found)
    finite = xp.where(xp.isfinite(nu), nu, 0.0)
    same = xp.all(xp.isfinite(nu)) & (xp.max(finite) - xp.min(finite) < EQUAL * xp.max(finite))
    return xp.where(xp.any(xp.isnan(nu)), xp.nan, xp.where(same, xp.mean(finite), found))
