"""Fitting one data set: start values, the solver, and the certificate of what was found."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .covariance import Covariance
from .criterion import Normal, deviance, profiled_deviance, solve_normal
from .engines import Blocks
from .errors import DataError
from .model import Model, Prepared, prepare
from .optimize import Objective, State, Status, minimise
from .parameters import CovarianceMatrixKind, semidefinite_factor
from .linalg import tril_indices

MAX_ITERATIONS = 200
SINGULAR = 1e-4  # lme4's tolerance of isSingular, on relative standard deviations
RISE = 1e-9  # relative rise of the criterion that is allowed when a parameter is put on the boundary
RESTARTS = 3


@dataclass(frozen=True)
class Spec:
    """The static part of a fit: everything compiled code depends on besides shapes.

    With independent residuals sigma is profiled out and the terms are relative to sigma^2; otherwise the residual is
    the last part and all covariances are absolute.
    """

    parts: tuple[tuple[Covariance, int], ...]
    profiled: bool
    reml: bool

    @classmethod
    def of(cls, model: Model, method: str) -> Spec:
        """Specification of fitting `model` by `method`, "REML" or "ML"."""
        if method not in ("REML", "ML"):
            raise DataError(f"method: found {method!r}, expected 'REML' or 'ML'")
        parts = [(t.structure, t.dim) for t in model.random]
        profiled = model.residual.is_iid
        if not profiled:
            parts.append((model.residual.structure, model.residual.dim))
        return cls(tuple(parts), profiled, method == "REML")

    def split(self, s: Any) -> list[tuple[Covariance, int, Any]]:
        """Structure, dimension and coordinates of each part."""
        out, start = [], 0
        for structure, dim in self.parts:
            stop = start + structure.size(dim)
            out.append((structure, dim, s[start:stop]))
            start = stop
        return out

    def blocks(self, s: Array) -> Blocks:
        """Covariance blocks at solver coordinates."""
        matrices = [c.from_solver(v, dim).matrix(np.arange(dim, dtype=np.int32)) for c, dim, v in self.split(s)]
        return Blocks(tuple(matrices), jnp.ones((1, 1))) if self.profiled else Blocks(tuple(matrices[:-1]), matrices[-1])

    def map(self, method: str, s: np.ndarray, *args: Any) -> np.ndarray:
        """Apply a method of the structures to their parts of s and concatenate."""
        values = [getattr(c, method)(v, dim, *args) for c, dim, v in self.split(s)]
        return np.concatenate(values) if values else np.zeros(0)


class Evaluation(NamedTuple):
    """What is known at a point besides value, gradient and Hessian."""

    blocks: Blocks
    slopes: Blocks  # derivative of the criterion in the blocks
    normal: Normal


def objective(spec: Spec, prepared: Prepared, scale: Array) -> Objective:
    """-2 log-likelihood of scaled solver coordinates, with exact gradient and Hessian.

    Sigma is profiled where it can be. The gradient in the blocks is the engine's closed form; the chain to the
    coordinates, and the Hessian of the whole, is autodiff through rules that are closed forms again.
    """
    statistics, basis = prepared
    p = basis.R.shape[0]
    criterion = profiled_deviance if spec.profiled else deviance

    def value(C: Blocks) -> tuple[Array, Normal]:
        logdet, gram = statistics.gram(C)
        normal = solve_normal(gram)
        shifted = normal._replace(logdet=normal.logdet + basis.logdet_scale())
        return criterion(logdet - basis.log_weights, shifted, basis.n, p, spec.reml), normal

    def gradient(s: Array) -> tuple[Array, tuple[Array, Array, Evaluation]]:
        C, pull = jax.vjp(lambda s: spec.blocks(s * scale), s)
        (d, normal), slopes = jax.value_and_grad(value, has_aux=True)(C)
        (g,) = pull(slopes)
        return g, (d, g, Evaluation(C, slopes, normal))

    def value_gradient_hessian(s: Array) -> tuple[Array, Array, Array, Evaluation]:
        H, (d, g, evaluation) = jax.jacfwd(gradient, has_aux=True)(s)
        return d, g, 0.5 * (H + H.T), evaluation

    return value_gradient_hessian


@partial(jax.jit, static_argnames=("spec",))
def solve(spec: Spec, prepared: Prepared, scale: Array, s: Array, max_iterations: Array) -> State:
    """Run the solver from scaled coordinates s; one iteration evaluates s and goes nowhere."""
    return minimise(objective(spec, prepared, scale), s, max_iterations)


@dataclass(frozen=True)
class Certificate:
    """Evidence that a fit is an optimum.

    Attributes
    ----------
    gradient_norm : largest entry of the gradient of -2 log-likelihood, in scaled solver coordinates
    decrement : Newton decrement g'|H|^-1 g; half of it is the predicted remaining decrease
    min_eigenvalue : smallest eigenvalue of the Hessian scaled to unit diagonal (Jacobi)
    dual : smallest slope of -2 log-likelihood into the cone of covariance matrices over the null directions of the
        estimates, relative to its size; not below zero at an optimum, None when no estimate is singular
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
    theta (k,), sigma, loglik, coef (p,), vcov (p, p), rss as in `jaxlmm.Fit`
    covariances : absolute covariance matrix of each term; residual : residual block (absolute)
    boundary : for each part whether it is on the boundary of its space
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


def column_units(model: Model) -> list[np.ndarray]:
    """One over the root mean square of each column of Z, by term: the size of one effect per residual SD."""
    units = []
    for term in model.random:
        Z = term.Z if model.weights is None else term.Z * np.sqrt(model.weights)[:, None]
        rms = np.sqrt(np.mean(Z**2, 0))
        units.append(1.0 / np.where(rms > 0, rms, 1.0))
    return units


def scale_of(spec: Spec, model: Model, prepared: Prepared) -> np.ndarray:
    """Size of every solver coordinate, so that the solver sees numbers of order one whatever the units."""
    units = column_units(model)
    sd = 1.0
    if not spec.profiled:
        units.append(np.ones(model.residual.dim))
        residual = np.asarray(prepared.statistics.U)[:, -1]
        sd = float(np.sqrt(np.sum(residual**2) / (len(residual) - model.X.shape[1])))
    sizes = [c.scale(dim, unit, sd) for (c, dim), unit in zip(spec.parts, units, strict=True)]
    return np.concatenate(sizes) if sizes else np.zeros(0)


def estimate(model: Model, method: str = "REML", start: np.ndarray | None = None) -> Estimate:
    """Fit one concrete model; 64-bit floats must be on. `start` (k,) is a public theta without entries of -inf."""
    spec = Spec.of(model, method)
    prepared = prepare(model)
    scale = scale_of(spec, model, prepared)
    s = np.concatenate([c.start(dim) for c, dim in spec.parts]) if spec.parts else np.zeros(0)
    if start is not None:
        s = _from_theta(spec, model, np.asarray(start, float)) / scale
    run = partial(solve, spec, prepared, scale)
    state = jax.device_get(run(s, np.int32(MAX_ITERATIONS)))
    iterations = int(state.iteration)
    if not np.isfinite(state.value):
        return _package(spec, prepared, scale, state, s, iterations, None)
    dual = None
    for _ in range(RESTARTS):
        state, s, used = _to_boundary(spec, run, state)
        iterations += used
        dual, better = _dual_check(spec, state, s, scale)
        if better is None:
            break
        state = jax.device_get(run(better, np.int32(MAX_ITERATIONS)))
        iterations += int(state.iteration)
    return _package(spec, prepared, scale, state, s, iterations, dual)


def _from_theta(spec: Spec, model: Model, theta: np.ndarray) -> np.ndarray:
    """Solver coordinates of a public theta."""
    if theta.shape != (model.size,) or not np.all(np.isfinite(theta)):
        raise DataError(f"start: expected {model.size} finite covariance parameters as in fit.theta, found {theta}")
    sigma = np.exp(theta[-1]) if spec.profiled else 1.0
    values, begin = [], 0
    for structure, dim in spec.parts:
        end = begin + structure.size(dim)
        bound = structure.from_public(jnp.asarray(theta[begin:end]), dim)
        s = structure._by_field(lambda f, _, b=bound, d=dim: f.kind.to_solver(np.asarray(getattr(b, f.name)), d), dim)
        values.append(s / structure.scale(dim, np.ones(dim), sigma))
        begin = end
    return np.concatenate(values) if values else np.zeros(0)


def _to_boundary(spec: Spec, run: Any, state: State) -> tuple[State, np.ndarray, int]:
    """Canonical coordinates; parameters next to the boundary are put on it where the criterion does not mind."""
    s = spec.map("canonical", np.asarray(state.x))
    snapped = spec.map("snapped", s, SINGULAR)
    if np.array_equal(snapped, s):
        return state._replace(x=s), s, 0
    again = jax.device_get(run(snapped, np.int32(MAX_ITERATIONS)))
    iterations = int(again.iteration)
    if again.status == Status.CONVERGED and again.value <= state.value + RISE * max(1.0, abs(float(state.value))):
        s = spec.map("canonical", np.asarray(again.x))
        return again._replace(x=s), s, iterations
    return state._replace(x=s), s, iterations


def _dual_check(spec: Spec, state: State, s: np.ndarray, scale: np.ndarray) -> tuple[float | None, np.ndarray | None]:
    """Karush-Kuhn-Tucker conditions on the cone of covariance matrices.

    At a singular optimum the slope of the criterion into the cone must not be negative over the null space of the
    estimate. If it is, coordinates with a higher likelihood are returned too.
    """
    worst, better = None, None
    start = 0
    sizes = spec.split(scale)
    for t, (structure, dim, v) in enumerate(spec.split(s)):
        stop = start + len(v)
        matrix = len(structure.fields) == 1 and isinstance(structure.fields[0].kind, CovarianceMatrixKind)
        if matrix and structure.at_boundary(v, dim, SINGULAR):
            slopes = state.aux.slopes
            S = slopes.random[t] if t < len(slopes.random) else slopes.residual
            L = np.zeros((dim, dim))
            L[tril_indices(dim)] = v
            unit = np.zeros(dim)
            rows, columns = tril_indices(dim)
            unit[rows[columns == 0]] = sizes[t][2][columns == 0]
            S = 0.5 * (S + S.T) * np.outer(unit, unit)
            w, Q = np.linalg.eigh(L @ L.T)
            null = Q[:, w <= max(SINGULAR**2, 1e-10 * w.max(initial=0.0))]
            slope, direction = np.linalg.eigh(null.T @ S @ null)
            relative = float(slope[0] / max(np.abs(S).max(), 1e-300))
            worst = relative if worst is None else min(worst, relative)
            if relative < -1e-6 and slope[0] < -1e-6:
                step = null @ direction[:, 0]
                better = s.copy()
                better[start:stop] = semidefinite_factor(L @ L.T + 1e-2 * np.outer(step, step))[tril_indices(dim)]
        start = stop
    return worst, better


def _package(
    spec: Spec, prepared: Prepared, scale: np.ndarray, state: State, s: np.ndarray, iterations: int, dual: float | None
) -> Estimate:
    """Everything in the user's units."""
    basis, normal, blocks = prepared.basis, state.aux.normal, state.aux.blocks
    p = basis.R.shape[0]
    n = float(basis.n)
    sigma = None
    if spec.profiled:
        sigma = float(np.sqrt(normal.rss / (n - p if spec.reml else n)))
    factor = 1.0 if sigma is None else sigma
    absolute = s * scale
    theta = [
        c.solver_to_public(v * c.scale(dim, np.ones(dim), factor), dim) for c, dim, v in spec.split(absolute)
    ]
    if sigma is not None:
        theta.append(np.log([sigma]))
    root = np.linalg.inv(basis.R) if p else np.zeros((0, 0))
    status = Status(int(state.status))
    if status == Status.CONVERGED and dual is not None and dual < -1e-6:
        status = Status.NOT_OPTIMAL
    return Estimate(
        theta=np.concatenate(theta),
        sigma=sigma,
        loglik=-0.5 * float(state.value),
        coef=root @ (basis.c + normal.beta),
        vcov=factor**2 * root @ normal.Phi @ root.T,
        covariances=tuple(np.asarray(G) * factor**2 for G in blocks.random),
        residual=np.asarray(blocks.residual) * factor**2,
        boundary=tuple(c.at_boundary(v, dim, SINGULAR) for c, dim, v in spec.split(s)),
        status=status,
        certificate=Certificate(
            gradient_norm=float(np.abs(state.gradient).max(initial=0.0)),
            decrement=float(state.decrement),
            min_eigenvalue=_jacobi_eigenvalue(state.hessian),
            dual=dual,
            iterations=iterations,
        ),
    )


def _jacobi_eigenvalue(H: np.ndarray) -> float:
    """Smallest eigenvalue of H scaled to unit diagonal; flat directions count as zero."""
    if not len(H) or not np.all(np.isfinite(H)):
        return float("nan")
    d = np.sqrt(np.abs(np.diagonal(H)))
    d = np.maximum(d, 1e-6 * d.max()) if d.max() > 0 else np.ones_like(d)
    return float(np.linalg.eigvalsh(H / np.outer(d, d))[0])


