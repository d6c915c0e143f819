"""Estimates in the user's units, and the certificate that they are an optimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..likelihood.prepared import Basis
from ..tolerances import correlation_of
from .boundary import SLOPE, Ends, boundaries
from .monte_carlo import MonteCarlo
from .newton import Point, Status
from .objective import Spec

PERFECT = 1e-8  # residual SD relative to that of least squares, below which the fit is perfect


@dataclass(frozen=True)
class Certificate:
    """Evidence that a fit is an optimum.

    Attributes
    ----------
    gradient_norm : largest entry of the gradient of -2 log-likelihood, in scaled solver coordinates
    decrement : Newton decrement ``g'|H|^-1 g``; half of it is the predicted remaining decrease
    min_eigenvalue : smallest eigenvalue of the Hessian scaled to unit diagonal (Jacobi)
    dual : smallest slope of -2 log-likelihood into the cone of covariance matrices over the null directions of the
        estimates, relative to its size; not below zero at an optimum, None when no matrix is singular
    iterations : evaluations of the criterion with gradient and Hessian
    """

    gradient_norm: float
    decrement: float
    min_eigenvalue: float
    dual: float | None
    iterations: int


@dataclass(frozen=True)
class Estimate:
    """Everything estimated from one data set, in NumPy.

    Attributes
    ----------
    theta (k,), sigma, loglik, coef (p,), vcov (p, p) : as in `jaxlmm.Fit`
    covariances : absolute covariance matrix of each random part;  residual : residual block (absolute); (0, 0) where a
        part has sets of coordinates, see `blocks_at`
    boundary : for each part whether it is on the boundary of its space
    information : observed information (k, k) of the covariance parameters in the solver's chart, of absolute
        covariances in the basis of ``prepare(model, orthogonal=True)``
    slopes : (k, p, p) derivatives of X'V^-1 X in the same coordinates, of coefficients in the basis `root`
    monte_carlo : what is random of these numbers, None where nothing is
    root : (p, p) with ``vcov = root root'``: a hypothesis l has the standard error ``|l'root|``, to all digits where
        l'vcov l would have lost them (covariates far from zero)
    """

    theta: np.ndarray
    sigma: float | None
    loglik: float
    coef: np.ndarray
    vcov: np.ndarray
    covariances: tuple[np.ndarray, ...]
    residual: np.ndarray
    boundary: tuple[bool, ...]
    status: Status
    certificate: Certificate
    information: np.ndarray
    slopes: np.ndarray
    monte_carlo: MonteCarlo | None = None
    root: np.ndarray | None = None  # not in files of earlier versions, whose slopes are in the user's units

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


class Estimates(NamedTuple):
    """Fits in the user's units, a row each; as in `Estimate`, NaN where the criterion was not finite."""

    theta: np.ndarray
    sigma: np.ndarray  # NaN where the residual has a structure
    loglik: np.ndarray
    coef: np.ndarray
    vcov: np.ndarray
    covariances: tuple[np.ndarray, ...]
    residual: np.ndarray
    boundary: np.ndarray
    status: np.ndarray
    min_eigenvalue: np.ndarray


def in_units(
    spec: Spec, basis: Basis, scale: np.ndarray, point: Point, ends: Ends, dual: np.ndarray
) -> Estimates:  # fmt: skip
    """Everything in the user's units, for points with one row a fit; `basis` and `scale` may be shared or by row."""
    normal, blocks, s = point.aux.normal, point.aux.blocks, point.x
    b, p = len(s), basis.R.shape[-1]
    nu = np.broadcast_to(basis.n - spec.reml * basis.rank, (b,))
    sigma = np.full(b, np.nan)
    if spec.independent:
        sigma = np.sqrt(normal.rss / nu if spec.profiled else blocks.residual[:, 0, 0])
    factor = sigma if spec.profiled else np.ones(b)
    root = np.linalg.inv(basis.R) if p else np.zeros((0, 0))
    status = np.where((ends.status == Status.CONVERGED) & (dual < SLOPE), Status.NOT_OPTIMAL, ends.status)
    aliased = np.broadcast_to(np.asarray(basis.alias) > 0, (b, p))
    status = np.where((status == Status.CONVERGED) & np.any(aliased, -1), Status.RANK_DEFICIENT, status)
    if spec.profiled:
        perfect = (status != Status.NOT_FINITE) & ~(sigma > PERFECT * basis.residual_sd)
        status = np.where(perfect, Status.PERFECT_FIT, status)
    lost = np.where(status == Status.NOT_FINITE, np.nan, 1.0)
    known = np.where(aliased, np.nan, lost[:, None])
    square = (lost * factor**2)[:, None, None]
    return Estimates(
        theta=lost[:, None] * spec.theta(s * scale, sigma, basis.K),
        sigma=lost * sigma,
        loglik=lost * -0.5 * point.value,
        coef=known * np.einsum("...ij,...j->...i", root, basis.c + normal.beta),
        vcov=square * known[:, :, None] * known[:, None, :] * (root @ normal.Phi @ np.swapaxes(root, -1, -2)),
        covariances=tuple(
            np.zeros((b, 0, 0)) if G is None else K @ G @ np.swapaxes(K, -1, -2) * square
            for G, K in zip(blocks.random, basis.K, strict=True)
        ),
        residual=np.zeros((b, 0, 0)) if blocks.residual is None else blocks.residual * square,
        boundary=boundaries(spec, s),
        status=status.astype(int),
        min_eigenvalue=lost * jacobi_eigenvalues(point.hessian),
    )


def jacobi_eigenvalues(H: np.ndarray) -> np.ndarray:
    """Smallest eigenvalues of finite H (b, k, k) scaled to unit diagonal; directions without curvature give zero."""
    if not H.shape[-1]:
        return np.full(len(H), np.nan)
    d = np.sqrt(np.abs(np.diagonal(H, axis1=-2, axis2=-1)))
    d = np.maximum(np.maximum(d, 1e-6 * d.max(-1, keepdims=True)), 1e-4)
    return np.linalg.eigvalsh(H / (d[:, :, None] * d[:, None, :]))[:, 0]
