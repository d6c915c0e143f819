"""Fitting one data set: start values, the solver, and the certificate of what was found."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..arguments import numbers_of
from ..covariance.trial import ROUNDING, is_shipped
from ..errors import DataError
from ..likelihood.confounding import check_left_by
from ..likelihood.engines import DENSE, Blocks
from ..likelihood.model import Model
from ..likelihood.parts import Term
from ..likelihood.prepared import Basis, Prepared, conditioned, lean, prepare, weighted
from ..pytrees import replace
from ..runtime.precision import float64
from ..runtime.programs import compiled, compiled_by_size
from .boundary import Ends, Search, has_few_groups
from .moments import at_moments
from .monte_carlo import is_solved, monte_carlo, path_of
from .newton import Evaluate, Point, Status, minimise
from .objective import Spec, objective, packing_of, scale_of
from .recession import doubtful, logliks, lost, without_maximum
from .spreads import in_own_units
from .units import Estimate, Estimates, at_ends, root_of

MOST_ROWS = 500  # for which V itself is factored where another way to the likelihood fails


def _evaluate(spec: Spec, prepared: Prepared, scale: Array, s: Array) -> Array:
    """Everything at scaled coordinates s, as one packed vector: all that a single fit has to compile."""
    return objective(spec, prepared, scale, with_slopes=True)(s)


_evaluations = compiled_by_size(_evaluate)


def evaluator(spec: Spec, prepared: Prepared, scale: np.ndarray) -> Evaluate:
    """The compiled objective of one data set, for the host."""
    evaluate = _evaluations(prepared.statistics, len(scale))
    prepared, scale = jax.device_put((lean(prepared), scale))  # once, not at every evaluation
    return lambda s: np.asarray(evaluate(spec, prepared, scale, s))


def estimate(model: Model, method: str = "REML", start: np.ndarray | None = None) -> Estimate:
    """Fit one concrete model; 64-bit floats must be on. `start` (k,) is a public theta, of a singular fit too."""
    spec = Spec.of(model, method)
    check_left_by(model.X, model.random, method)
    prepared = prepare(model, orthogonal=True)
    s, scale = spec.start(prepared.coords), scale_of(spec, prepared.basis)
    s, scale = in_own_units(spec, prepared.statistics, prepared.coords[-1], s, scale, prepared.basis, model)
    stochastic = model.evaluator.stochastic
    packing = packing_of(spec, model.X.shape[1], with_slopes=True)
    at = partial(evaluator, spec, scale=scale)
    lost: list[np.ndarray] = []
    evaluate = path_of(spec, prepared, scale, packing, at, lost) if stochastic else at(prepared)

    charts = spec.charts(prepared.coords)
    reached: list[np.ndarray] = []

    def run(lanes: np.ndarray, s: np.ndarray, known: np.ndarray, most: np.ndarray) -> Ends:
        leads = [partial(search.basins.holds, row, xp=np) for row in known]
        each = zip(s, most, leads, strict=True)
        states = [minimise(evaluate, packing, one, count, np, charts, leads_to) for one, count, leads_to in each]
        reached.extend(state.best for state in states)
        columns = [(state.best, state.status, state.decrement, state.iteration) for state in states]
        return Ends(*(np.stack(column) for column in zip(*columns, strict=True)))

    if start is not None:
        theta = as_start(model, spec, start)
        s = spec.from_theta(theta, prepared.basis.K, np.asarray(s) * scale) / scale
        if not np.all(np.isfinite(s)):
            raise DataError(f"start: expected {model.size} covariance parameters as in fit.theta, found {theta}")
    search = Search(spec, packing, scale, run)
    first = s if start is not None or stochastic else at_moments(spec, model, prepared, s, scale)
    ends, dual = search.optimum(np.zeros(1, int), s[None], start is None, says_little(model), first[None])
    if not any(np.array_equal(best, ends.best[0]) for best in reached):  # other signs: derivatives at these
        again = evaluate(packing.unpack(ends.best[0]).x)
        ends = ends._replace(best=again[None]) if np.all(np.isfinite(again)) else ends
    point = packing.unpack(ends.best)
    with np.errstate(all="ignore"):  # rows that are not finite are NaN in the end
        found = at_ends(spec, prepared.basis, scale, point, ends, dual)
        local = _local(spec, prepared.basis, scale, point)
        single = _single(spec, found, point, float(dual[0]), local)
        if stochastic:
            return _with_errors(single, spec, prepared, scale, packing.unpack(ends.best[0]), lost)
        return _as_left(single, spec, prepared, point.x, s)


def by_v(model: Model) -> Model | None:
    """The model by the engine that factors V itself, where V is small and that may find an optimum that others do not.

    Terms that cross clusters are eliminated with the inverse of what is within clusters, the residual covariance. That
    may be singular at the optimum where V is not.
    """
    if not model.evaluator.inverts_residual(model) or len(model.y) > MOST_ROWS:
        return None
    return replace(model, evaluator=DENSE, layout=DENSE.layout(model))


def estimate_by_v(
    model: Model, method: str, found: Estimate, start: np.ndarray | None = None
) -> tuple[Model, Estimate] | None:  # fmt: skip
    """The model `by_v` and its optimum, where `found` is none; None where there is no optimum either."""
    whole = by_v(model) if lost(found.status) else None
    if whole is None:
        return None
    other = estimate(whole, method, start)
    return (whole, other) if other.status.is_fitted else None


def _as_left(found: Estimate, spec: Spec, prepared: Prepared, x: np.ndarray, start: np.ndarray) -> Estimate:
    """The estimate with the log-likelihood of its theta to the last digit, where the solver has not arrived.

    It stops where the likelihood rises towards covariances that are singular; there the rounding of coordinates counts.
    """
    if not doubtful(spec, found.status, x)[0]:
        return found
    there = np.append(_logliks(spec, lean(prepared), found.theta), found.loglik)
    none = without_maximum(spec, found.status, x, start, there[None])[0]
    status = Status.NO_MAXIMUM if none else found.status
    return replace(found, loglik=float(there[0]) if lost(status) else found.loglik, status=status)


_logliks = compiled()(logliks)


def _with_errors(
    found: Estimate, spec: Spec, prepared: Prepared, scale: np.ndarray, point: Point, lost: list[np.ndarray]
) -> Estimate:  # fmt: skip
    """The estimate with its log-likelihood and Monte Carlo error; `lost` are points of its path without a value."""
    if not found.status.is_fitted and lost and not is_solved(spec, prepared, scale, lost[-1]):
        found = replace(found, status=Status.NOT_SOLVED)
    if np.all(np.isnan(found.theta)):
        return found
    loglik, errors = monte_carlo(spec, prepared, scale, point)
    status = found.status if np.isfinite(loglik) else Status.NOT_SOLVED
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
    if not any(map(np.any, jax.tree_util.tree_leaves(point))):  # nothing was evaluated
        k = len(scale) + spec.profiled
        nothing = np.full(point.aux.normal.Phi.shape[1:], np.nan)
        return np.full((k, k), np.nan), np.full((k, *nothing.shape), np.nan), nothing
    normal, x = point.aux.normal, point.x[0] * scale
    H, P = 0.5 * point.hessian[0], point.aux.gram_slopes[0]
    p = P.shape[-1] - 1
    beta, rss, Phi = normal.beta[0], normal.rss[0], normal.Phi[0]
    J = np.diag(scale)  # of absolute coordinates in those that H and P belong to
    if spec.profiled:
        nu = basis.n - spec.reml * basis.rank
        sigma, v = np.sqrt(rss / nu), np.append(-beta, 1.0)
        relative = (P @ v @ v)[:, None] / sigma**2  # change of rss
        H = np.block([[H + 0.5 * relative @ relative.T / nu, -relative], [-relative.T, np.full((1, 1), 2.0 * nu)]])
        gram = np.linalg.inv(normal.Phi[0])
        P = np.concatenate([P[:, :p, :p], -2.0 * gram[None]]) / sigma**2
        Phi = sigma**2 * Phi
        degrees = spec.degrees
        J = np.diag(np.append(scale * sigma**degrees, sigma))
        J[:-1, -1] = x * sigma**degrees * degrees  # in log sigma
    back = np.linalg.inv(J)
    root = root_of(Phi)
    slopes = np.einsum("ki,kab->iab", back, root.T @ P[:, :p, :p] @ root)
    return back.T @ H @ back, slopes, np.linalg.solve(basis.R, root) if p else root


def as_start(model: Model, spec: Spec, start: Any) -> np.ndarray:
    """Public theta (..., k) to start at."""
    theta = numbers_of("start", start, f"{model.size} numbers as in fit.theta")
    if (
        theta.shape[-1:] != (model.size,)
        or np.any(np.isnan(theta))
        or (spec.profiled and np.any(np.isinf(theta[..., -1])))
    ):
        raise DataError(f"start: expected {model.size} covariance parameters as in fit.theta, found {theta}")
    return theta


def blocks_at(model: Model, estimate: Estimate) -> Blocks:
    """Absolute covariance blocks of a fit, those at sets of coordinates (K, T, T) included; NumPy."""
    if any(places is not None for places in model.coords):
        with float64():
            found = jax.device_get(_blocks_of(model, jnp.asarray(estimate.theta)))
        pairs = zip(found.random, estimate.covariances, strict=True)
        return Blocks(tuple(b if e.size == 0 else e for b, e in pairs), found.residual)
    return Blocks(estimate.covariances, estimate.residual)


def no_covariance(model: Model, estimate: Estimate) -> str:
    """What to say of a structure of the user's whose matrix at the estimates is no covariance; mostly nothing.

    Beside independent errors the likelihood does not mind, as long as V is positive definite.
    """
    parts = [*model.random, model.residual]
    if all(is_shipped(part.structure) for part in parts):
        return ""
    blocks = blocks_at(model, estimate)
    for part, block in zip(parts, (*blocks.random, blocks.residual), strict=True):
        lowest = np.min(np.linalg.eigvalsh(block), initial=np.inf) / max(np.max(np.abs(block), initial=0.0), 1e-300)
        if lowest < -ROUNDING:
            return (
                f"the matrix of {part.name} is not positive semidefinite at the estimates (its smallest eigenvalue is "
                f"{lowest:.3g} of its largest entry), so it is no covariance; restrict the parameters of "
                f"{type(part.structure).__name__}"
            )
    return ""


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


@compiled()
def _conditioned(spec: Spec, coords: tuple[Any, ...], x: Array) -> Blocks:
    return spec.blocks(x, coords)


@compiled()
def _blocks_of(model: Model, theta: Array) -> Blocks:
    return model.blocks(theta)


def _single(
    spec: Spec, found: Estimates, point: Point, dual: float, local: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> Estimate:  # fmt: skip
    """The first row, with its certificate."""
    numbers = dict(vars(found.row(0)))
    numbers |= {name: float(numbers[name]) for name in ("decrement", "min_eigenvalue")}
    numbers |= {"boundary": tuple(map(bool, numbers["boundary"])), "iterations": int(numbers["iterations"])}
    if not spec.independent:
        numbers["sigma"] = None
    information, slopes, root = local
    return Estimate(
        **numbers,
        gradient_norm=float(np.abs(point.gradient[0]).max(initial=0.0)),
        dual=None if np.isnan(dual) else dual,
        information=information,
        slopes=slopes,
        root=root,
    )
