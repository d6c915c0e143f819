"""Fitting one data set: start values, the solver, and the certificate of what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .boundary import SLOPE, Ends, Search, boundaries, has_few_groups
from .design import Term
from .engines import Blocks
from .errors import DataError
from .model import Basis, Model, Prepared, conditioned, lean, ml, prepare, reml, weighted
from .objective import Spec, moment_start, objective, packing_of, scale_of
from .optimize import Evaluate, Point, Status, minimise
from .precision import float64
from .programs import compiled
from .stochastic import MonteCarlo, is_stochastic, monte_carlo, path_of
from .tolerances import correlation_of

MAX_ITERATIONS = 200
INSIDE = 0.05  # how far a start on the boundary is moved towards the usual one
QUICKLY = {"xla_backend_optimization_level": 0}  # compiler options that leave out the expensive passes
SHORT = 200_000  # numbers * parameters below which compiling costs more than running
PERFECT = 1e-8  # residual SD relative to that of least squares, below which the fit is perfect


def _evaluate(spec: Spec, prepared: Prepared, scale: Array, s: Array) -> Array:
    """Everything at scaled coordinates s, as one packed vector: all that a single fit has to compile."""
    return objective(spec, prepared, scale, with_slopes=True)(s)


def compiled_by_size(function: Callable[..., Any], *static: str) -> Callable[..., Callable[..., Any]]:
    """Compile a function in two ways; ``choose(statistics, k)`` gives the one for statistics and k parameters.

    A small problem is compiled without the expensive passes: running it takes less time than they would.
    """
    slow = compiled(*static)(function)
    quick = compiled(*static, options=QUICKLY)(function)

    def choose(statistics: Any, k: int) -> Callable[..., Any]:
        size = sum(np.size(leaf) for leaf in jax.tree_util.tree_leaves(statistics))
        return quick if size * k < SHORT and jax.default_backend() == "cpu" else slow

    return choose


_evaluations = compiled_by_size(_evaluate, "spec")


def evaluator(spec: Spec, prepared: Prepared, scale: np.ndarray) -> Evaluate:
    """The compiled objective of one data set, for the host."""
    evaluate = _evaluations(prepared.statistics, len(scale))
    prepared, scale = jax.device_put((lean(prepared), scale))  # once, not at every evaluation
    return lambda s: np.asarray(evaluate(spec, prepared, scale, s))


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


def estimate(model: Model, method: str = "REML", start: np.ndarray | None = None) -> Estimate:
    """Fit one concrete model; 64-bit floats must be on. `start` (k,) is a public theta, of a singular fit too."""
    spec = Spec.of(model, method)
    prepared = prepare(model, orthogonal=True)
    scale = scale_of(spec, prepared.basis)
    packing = packing_of(spec, model.X.shape[1], with_slopes=True)
    stochastic = is_stochastic(prepared)
    at = partial(evaluator, spec, scale=scale)
    evaluate = path_of(spec, prepared, scale, packing, at) if stochastic else at(prepared)

    reached: list[np.ndarray] = []

    def run(lanes: np.ndarray, s: np.ndarray) -> Ends:
        states = [minimise(evaluate, packing, one, MAX_ITERATIONS, np) for one in s]
        reached.extend(state.best for state in states)
        columns = [(state.best, state.status, state.decrement, state.iteration) for state in states]
        return Ends(*(np.stack(column) for column in zip(*columns, strict=True)))

    s = moment_start(spec, prepared.statistics, spec.start(prepared.coords), scale)
    if start is not None:
        try:
            theta = np.asarray(start, float)
        except (TypeError, ValueError):
            raise DataError(f"start: expected {model.size} numbers as in fit.theta, found {start!r}") from None
        given = _from_theta(spec, model, theta, prepared.basis) / scale
        # on the boundary all slopes away from it are zero, so a singular start is moved off it
        s = given if np.all(np.isfinite(theta)) else (1.0 - INSIDE) * given + INSIDE * np.asarray(s)
    search = Search(spec, packing, scale, run)
    ends, dual = search.optimum(np.zeros(1, int), s[None], start is None, says_little(model))
    if not any(np.array_equal(best, ends.best[0]) for best in reached):  # other signs: derivatives at these
        again = evaluate(packing.unpack(ends.best[0]).x)
        ends = ends._replace(best=again[None]) if np.all(np.isfinite(again)) else ends
    point = packing.unpack(ends.best)
    with np.errstate(all="ignore"):  # rows that are not finite are NaN in the end
        found = in_units(spec, prepared.basis, scale, point, ends, dual)
        local = _local(spec, prepared.basis, scale, point)
        single = _single(spec, found, point, ends, float(dual[0]), local)
        if stochastic:
            return _with_errors(single, spec, prepared, scale, packing.unpack(ends.best[0]))
        return _as_left(single, spec, model)


def _as_left(found: Estimate, spec: Spec, model: Model) -> Estimate:
    """The estimate with the log-likelihood of its theta to the last digit, where the solver has not arrived.

    It stops where the likelihood rises towards covariances that are singular; there the rounding of coordinates counts.
    """
    if found.status not in (Status.STALLED, Status.MAX_ITERATIONS):
        return found
    return replace(found, loglik=float((reml if spec.reml else ml)(found.theta, model)))


def _with_errors(found: Estimate, spec: Spec, prepared: Prepared, scale: np.ndarray, point: Point) -> Estimate:
    """The estimate with its log-likelihood and Monte Carlo error."""
    if found.status == Status.NOT_FINITE:
        return found
    loglik, errors = monte_carlo(spec, prepared, scale, point)
    status = found.status if np.isfinite(loglik) else Status.NOT_FINITE
    return replace(found, loglik=loglik, monte_carlo=errors, status=status)


def says_little(model: Model) -> bool:
    """Whether there may be several optima, see `has_few_groups`."""
    free = [t for t in model.random if isinstance(t, Term) and t.structure.is_matrix and t.dim > 1]
    return any(has_few_groups(t.dim, t.levels, len(model.y)) for t in free)


def _local(spec: Spec, basis: Basis, scale: np.ndarray, point: Point) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observed information, slopes of X'V^-1 X and root of the first point, see `Estimate`.

    Where sigma is profiled out, the second derivatives are first those of coordinates relative to it and its
    logarithm, in which they are known: the Hessian of the profiled criterion is a Schur complement of theirs.
    """
    if not np.any(point.aux.normal.rss):  # nothing was evaluated
        k = len(scale) + spec.profiled
        nothing = np.full(point.aux.normal.Phi.shape[1:], np.nan)
        return np.full((k, k), np.nan), np.full((k, *nothing.shape), np.nan), nothing
    normal, x = point.aux.normal, point.x[0] * scale
    H, P = 0.5 * point.hessian[0], point.aux.gram_slopes[0]
    p = P.shape[-1] - 1
    beta, rss, Phi = normal.beta[0], normal.rss[0], normal.Phi[0]
    J = np.diag(scale)  # of absolute coordinates in those that H and P belong to
    if spec.profiled:
        nu = basis.n - basis.rank if spec.reml else basis.n
        sigma, v = np.sqrt(rss / nu), np.append(-beta, 1.0)
        relative = np.einsum("kij,i,j->k", P, v, v)[:, None] / sigma**2  # change of rss
        H = np.block([[H + 0.5 * relative @ relative.T / nu, -relative], [-relative.T, np.full((1, 1), 2.0 * nu)]])
        gram = np.linalg.inv(normal.Phi[0])
        P = np.concatenate([P[:, :p, :p], -2.0 * gram[None]]) / sigma**2
        Phi = sigma**2 * Phi
        degrees = np.concatenate([np.zeros(0), *(c.degrees(dim) for c, dim in spec.parts)])
        J = np.diag(np.append(scale * sigma**degrees, sigma))
        J[:-1, -1] = x * sigma**degrees * degrees  # in log sigma
    back = np.linalg.inv(J)
    root = root_of(Phi)
    slopes = np.einsum("ki,kab->iab", back, root.T @ P[:, :p, :p] @ root)
    return back.T @ H @ back, slopes, np.linalg.solve(basis.R, root) if p else root


def _from_theta(spec: Spec, model: Model, theta: np.ndarray, basis: Basis) -> np.ndarray:
    """Solver coordinates of a public theta."""
    wrong = f"start: expected {model.size} covariance parameters as in fit.theta, found {theta}"
    if theta.shape != (model.size,) or np.any(np.isnan(theta)) or (spec.profiled and np.isinf(theta[-1])):
        raise DataError(wrong)
    sigma = np.exp(theta[-1]) if spec.profiled else 1.0
    values = []
    for t, (structure, dim, v) in enumerate(spec.split(theta)):
        s = structure.public_to_solver(v, dim) / sigma ** structure.degrees(dim)
        turned = t < len(basis.K) and not spec.placed[t]
        values.append(structure.in_basis(s, dim, np.linalg.inv(basis.K[t])) if turned else s)
    s = np.concatenate([np.zeros(0), *values])
    if not np.all(np.isfinite(s)):
        raise DataError(wrong)
    return s


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
    nu = np.broadcast_to(basis.n - basis.rank if spec.reml else basis.n, (b,))
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


def blocks_at(model: Model, estimate: Estimate) -> Blocks:
    """Absolute covariance blocks of a fit, those at sets of coordinates (K, T, T) included; NumPy."""
    if any(places is not None for places in model.coords):
        with float64():
            found = jax.device_get(_blocks_of(model, jnp.asarray(estimate.theta)))
        pairs = zip(found.random, estimate.covariances, strict=True)
        return Blocks(tuple(b if e.size == 0 else e for b, e in pairs), found.residual)
    return Blocks(estimate.covariances, estimate.residual)


def conditioned_blocks(model: Model, estimate: Estimate) -> tuple[tuple[np.ndarray, ...], Blocks]:
    """Basis K of the columns of Z of each random part, as in `Basis`, and absolute covariance blocks in it; NumPy.

    In the user's basis a covariate far from zero makes entries of covariance blocks large, and what they say of rows a
    small difference.
    """
    K = []
    for part in model.random:
        if isinstance(part, Term):
            K.append(conditioned(weighted(model, part.Z), part.structure.is_matrix)[0])
        else:
            K.append(np.eye(part.dim if part.coords is None else 1))
    spec = Spec.of(model, "REML").absolute
    with float64():
        x = spec.coordinates(estimate.theta, tuple(K))
        return tuple(K), jax.device_get(_conditioned(spec, model.coords, x))


@compiled("spec")
def _conditioned(spec: Spec, coords: tuple[Any, ...], x: Array) -> Blocks:
    return spec.blocks(x, coords)


@compiled()
def _blocks_of(model: Model, theta: Array) -> Blocks:
    return model.blocks(theta)


def _single(
    spec: Spec, found: Estimates, point: Point, ends: Ends, dual: float, local: tuple[np.ndarray, ...]
) -> Estimate:  # fmt: skip
    """The first row, with its certificate."""
    return Estimate(
        theta=found.theta[0],
        sigma=float(found.sigma[0]) if spec.independent else None,
        loglik=float(found.loglik[0]),
        coef=found.coef[0],
        vcov=found.vcov[0],
        covariances=tuple(G[0] for G in found.covariances),
        residual=found.residual[0],
        boundary=tuple(bool(b) for b in found.boundary[0]),
        status=Status(int(found.status[0])),
        certificate=Certificate(
            gradient_norm=float(np.abs(point.gradient[0]).max(initial=0.0)),
            decrement=float(ends.decrement[0]),
            min_eigenvalue=float(found.min_eigenvalue[0]),
            dual=None if np.isnan(dual) else dual,
            iterations=int(ends.iterations[0]),
        ),
        information=local[0],
        slopes=local[1],
        root=local[2],
    )


def jacobi_eigenvalues(H: np.ndarray) -> np.ndarray:
    """Smallest eigenvalues of finite H (b, k, k) scaled to unit diagonal; directions without curvature give zero."""
    if not H.shape[-1]:
        return np.full(len(H), np.nan)
    d = np.sqrt(np.abs(np.diagonal(H, axis1=-2, axis2=-1)))
    d = np.maximum(np.maximum(d, 1e-6 * d.max(-1, keepdims=True)), 1e-4)
    return np.linalg.eigvalsh(H / (d[:, :, None] * d[:, None, :]))[:, 0]
