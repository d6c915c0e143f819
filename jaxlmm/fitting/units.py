"""Estimates in the user's units: one record for a fit, a batch of fits and the traceable fit."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np

from ..covariance.kinds import module_of
from ..likelihood.criterion import Normal
from ..likelihood.engines import Blocks
from ..likelihood.prepared import Basis
from ..pytrees import frozen_pytree, replace
from ..tolerances import NO_CURVATURE, NO_CURVATURE_AT_ALL, PERFECT, correlation_of
from .boundary import SLOPE, Ends, boundaries
from .monte_carlo import MonteCarlo
from .newton import Point, Status
from .objective import Spec


@frozen_pytree()
@dataclass(frozen=True, eq=False)
class Estimates:
    """Estimates of one data set, or with leading axes (b,) of many; NaN where there are none. A pytree.

    Attributes
    ----------
    theta (k,), sigma (), loglik (), coef (p,), vcov (p, p) : as in `jaxlmm.Fit`; sigma is NaN (None in a single fit)
        where the residual has a structure
    covariances : absolute covariance matrix (q, q) of each random part, `varcorr`
    residual : (d, d) covariance of the residuals of a subject, sigma squared where they are independent; like
        `covariances` empty, d = 0, where a part has sets of coordinates (but for `jaxlmm.fit`)
    status : () a `jaxlmm.Status`;  iterations : () evaluations of the criterion with gradient and Hessian
    decrement : () Newton decrement ``g'|H|^-1 g``; half of it is the predicted remaining decrease of -2 log-likelihood.
        With ``optimizer=`` of `jaxlmm.fit` the largest entry of the scaled gradient
    boundary : (parts,) whether each part is on the boundary of its space
    min_eigenvalue : () smallest eigenvalue of the Hessian scaled to unit diagonal (Jacobi)
    """

    theta: Any
    sigma: Any
    loglik: Any
    coef: Any
    vcov: Any
    covariances: tuple[Any, ...]
    residual: Any
    status: Any
    iterations: Any
    decrement: Any
    boundary: Any
    min_eigenvalue: Any

    @property
    def varcorr(self) -> tuple[Any, ...]:
        """Covariance matrices, one a random part."""
        return self.covariances

    @property
    def se(self) -> Any:
        """Standard errors of the fixed effects (p,)."""
        xp = module_of(self.vcov)
        return xp.sqrt(xp.diagonal(self.vcov, axis1=-2, axis2=-1))

    @property
    def singular(self) -> Any:
        """Whether a covariance matrix is singular (a variance of zero, a correlation of one)."""
        return module_of(self.boundary).any(self.boundary, -1)

    def row(self, i: int) -> Estimates:
        """One data set of many."""
        named = {f.name: getattr(self, f.name) for f in fields(Estimates)}
        one = Estimates(**jax.tree_util.tree_map(lambda x: x[i], named))
        return replace(one, loglik=float(one.loglik), sigma=float(one.sigma), status=Status(int(one.status)))


@dataclass(frozen=True)
class Certificate:
    """Evidence that a fit is an optimum.

    Attributes
    ----------
    gradient_norm : largest entry of the gradient of -2 log-likelihood, in scaled solver coordinates
    decrement, min_eigenvalue, iterations : as in `Estimates`
    dual : smallest slope of -2 log-likelihood into the cone of covariance matrices over the null directions of the
        estimates, relative to its size; not below zero at an optimum, None when no matrix is singular
    """

    gradient_norm: float
    decrement: float
    min_eigenvalue: float
    dual: float | None
    iterations: int


@dataclass(frozen=True, eq=False)
class Estimate(Estimates):
    """The estimates of one data set, in NumPy, and what they are certified by.

    Attributes
    ----------
    gradient_norm, dual : as in `Certificate`
    information : observed information (k, k) of the covariance parameters in the solver's chart, of absolute
        covariances in the basis of ``prepare(model, orthogonal=True)``
    slopes : (k, p, p) derivatives of X'V^-1 X in the same coordinates, of coefficients in the basis `root`
    monte_carlo : what is random of these numbers, None where nothing is
    root : (p, p) with ``vcov = root root'``: a hypothesis l has the standard error ``|l'root|``, to all digits where
        l'vcov l would have lost them (covariates far from zero)
    """

    gradient_norm: float
    dual: float | None
    information: np.ndarray
    slopes: np.ndarray
    monte_carlo: MonteCarlo | None = None
    root: np.ndarray | None = None  # not in files of earlier versions, whose slopes are in the user's units

    @property
    def certificate(self) -> Certificate:
        """The numbers that say how good an optimum it is."""
        return Certificate(**{f.name: getattr(self, f.name) for f in fields(Certificate)})

    @property
    def inner(self) -> tuple[np.ndarray, np.ndarray]:
        """`root`, and the slopes in its basis."""
        if self.root is not None:
            return self.root, self.slopes
        root = root_of(self.vcov)
        return root, root.T @ self.slopes @ root


def root_of(V: np.ndarray) -> np.ndarray:
    """A root of a positive semidefinite matrix (p, p), each row to its own size; NaN where V has no numbers."""
    if not np.all(np.isfinite(V)):
        return np.full_like(V, np.nan)
    unit = np.sqrt(np.maximum(np.diagonal(V), 0.0))
    w, Q = np.linalg.eigh(correlation_of(V))
    return unit[:, None] * Q * np.sqrt(np.maximum(w, 0.0))


def in_units(
    spec: Spec, basis: Basis, x: Any, loglik: Any, normal: Normal, blocks: Blocks, **how: Any
) -> Estimates:  # fmt: skip
    """Estimates at solver coordinates x (..., k), all in the user's units; `how` are the fields on how it went."""
    xp, lead, p = module_of(x), x.shape[:-1], basis.R.shape[-1]
    sigma = xp.full(lead, np.nan)
    if spec.independent:
        nu = basis.n - spec.reml * basis.rank
        sigma = xp.sqrt(normal.rss / nu if spec.profiled else blocks.residual[..., 0, 0])
    square = (sigma**2 if spec.profiled else xp.ones(lead))[..., None, None]
    root = xp.linalg.inv(basis.R) if p else xp.zeros((0, 0))
    empty = xp.zeros((*lead, 0, 0))
    return Estimates(
        theta=spec.theta(x, sigma, basis.K),
        sigma=sigma,
        loglik=loglik,
        coef=xp.einsum("...ij,...j->...i", root, basis.c + normal.beta),
        vcov=square * (root @ normal.Phi @ xp.swapaxes(root, -1, -2)),
        covariances=tuple(
            empty if G is None else (G if placed else K @ G @ xp.swapaxes(K, -1, -2)) * square
            for G, K, placed in zip(blocks.random, basis.K, spec.placed, strict=False)
        ),
        residual=empty if blocks.residual is None else blocks.residual * square,
        **how,
    )


def at_ends(
    spec: Spec, basis: Basis, scale: np.ndarray, point: Point, ends: Ends, dual: np.ndarray
) -> Estimates:  # fmt: skip
    """Estimates where the solver has ended, a row a point, in NumPy; `basis` and `scale` may be shared or by row."""
    found = in_units(
        spec, basis, point.x * scale, -0.5 * point.value, point.aux.normal, point.aux.blocks,
        status=ends.status, iterations=ends.iterations, decrement=ends.decrement,
        boundary=boundaries(spec, point.x), min_eigenvalue=jacobi_eigenvalues(point.hessian),
    )  # fmt: skip
    status = np.where((ends.status == Status.CONVERGED) & (dual < SLOPE), Status.NOT_OPTIMAL, ends.status)
    aliased = np.broadcast_to(np.asarray(basis.alias) > 0, found.coef.shape)
    status = np.where((status == Status.CONVERGED) & np.any(aliased, -1), Status.RANK_DEFICIENT, status)
    if spec.profiled:
        perfect = (status != Status.NOT_FINITE) & ~(found.sigma > PERFECT * basis.residual_sd)
        status = np.where(perfect, Status.PERFECT_FIT, status)
    lost = np.where(status == Status.NOT_FINITE, np.nan, 1.0)
    names = ("theta", "sigma", "loglik", "coef", "vcov", "covariances", "residual", "min_eigenvalue")
    numbers = {name: getattr(found, name) for name in names}
    numbers = jax.tree_util.tree_map(lambda x: lost.reshape(-1, *[1] * (x.ndim - 1)) * x, numbers)
    known = np.where(aliased, np.nan, 1.0)
    numbers["coef"] = known * numbers["coef"]
    numbers["vcov"] = known[:, :, None] * known[:, None, :] * numbers["vcov"]
    return replace(found, status=status.astype(int), **numbers)


def jacobi_eigenvalues(H: Any) -> Any:
    """Smallest eigenvalues of finite H (..., k, k) scaled to unit diagonal; directions without curvature give zero."""
    xp = module_of(H)
    if not H.shape[-1]:
        return xp.full(H.shape[:-2], np.nan)
    d = xp.sqrt(xp.abs(xp.diagonal(H, axis1=-2, axis2=-1)))
    d = xp.maximum(xp.maximum(d, NO_CURVATURE * d.max(-1, keepdims=True)), NO_CURVATURE_AT_ALL)
    return xp.linalg.eigvalsh(H / (d[..., :, None] * d[..., None, :]))[..., 0]
