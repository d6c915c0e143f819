"""Fits whose log-likelihood has a Monte Carlo error: values along the path, and the error of what was found.

Random vectors give the criterion and its gradient errors of their own, independent of each other. The vectors being
the same in all evaluations, the gradient is a smooth function, and its root is the estimate; values are made to agree
with it by integrating it over short steps. At the estimate further vectors give the log-likelihood, a gradient that
is independent of the first one, and the spread of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..likelihood.criterion import gram_slopes, solve_normal
from ..likelihood.engines import Blocks
from ..likelihood.prepared import Basis, Prepared
from ..runtime.programs import compiled
from ..tolerances import NO_LENGTH
from .newton import Evaluate, Packing, Point
from .objective import Spec, criterion_at, deviance_of

DISAGREE = 0.3  # how much ways to find a change of the criterion may differ, relative to it
NEGLIGIBLE = 1e-3  # and absolutely


@dataclass(frozen=True)
class MonteCarlo:
    """Monte Carlo error of a fit by the iterative engine.

    Attributes
    ----------
    probes, seed : random vectors that the estimates were found with
    final_probes : random vectors that gave the log-likelihood and the numbers below, independent of the first
    loglik_se : standard error of the log-likelihood, which includes what it lacks of its maximum
    theta_se : (k,) Monte Carlo standard errors of theta, which more probes would take away; larger by a factor where
        the decrement is larger than expected, NaN where theta is infinite
    relative_se : (k,) the same relative to the statistical standard errors of theta
    gradient_norm, decrement : as in `jaxlmm.fitting.units.Certificate`, of the gradient by the final probes. Half of
        the decrement is what the log-likelihood lacks of its maximum because of the Monte Carlo error
    expected_decrement : what that error lets expect of the decrement; far more would mean that the fit is not optimal
    """

    probes: int
    final_probes: int
    seed: int
    loglik_se: float
    theta_se: np.ndarray
    relative_se: np.ndarray
    gradient_norm: float
    decrement: float
    expected_decrement: float

    def __str__(self) -> str:
        worst = np.max(self.relative_se, initial=0.0, where=np.isfinite(self.relative_se))
        return (
            f"Monte Carlo (seed {self.seed}, {self.probes} + {self.final_probes} probes): standard error of the "
            f"log-likelihood {self.loglik_se:.2g}, of theta at most {worst:.2g} times its statistical one;\n"
            f"decrement by independent probes {self.decrement:.1e}, expected {self.expected_decrement:.1e}"
        )


def path_of(
    spec: Spec, prepared: Prepared, scale: np.ndarray, packing: Packing, compile: Callable[[Prepared], Evaluate],
    lost: list[np.ndarray],
) -> Evaluate:  # fmt: skip
    """The criterion along the path of one fit, with values that agree with its gradient where steps are short.

    A value is that of the nearest point that was evaluated before plus the integral of the gradient (two-point Hermite
    rule); where the expansions at both ends do not agree on that, as for the first steps of a fit, plus the difference
    of the values by quadrature. The first value leaves out what is random of the log-determinant. Points that have no
    value are appended to `lost`.
    """
    evaluate = compile(prepared._replace(statistics=prepared.statistics.unvalued))
    known: list[np.ndarray] = []
    values: dict[int, float] = {}

    def by_quadrature(k: int) -> float:
        if k not in values:
            values[k] = float(_value(spec, prepared, jnp.asarray(scale), jnp.asarray(packing.derivatives(known[k])[0])))
        return values[k]

    def along(s: Any) -> np.ndarray:
        x = np.asarray(s)
        distances = [float(np.sum((packing.derivatives(point)[0] - x) ** 2)) for point in known]
        nearest = int(np.argmin(distances)) if known else 0
        if known and distances[nearest] == 0.0:
            return known[nearest]
        found = np.array(evaluate(s))
        if not np.all(np.isfinite(found)):
            lost.append(x)
            return found
        known.append(found)
        if len(known) > 1:
            change, spread = _change(packing.derivatives(known[nearest]), packing.derivatives(found))
            if spread > max(DISAGREE * abs(change), NEGLIGIBLE):
                change = by_quadrature(len(known) - 1) - by_quadrature(nearest)
            found[packing.value_at] = packing.derivatives(known[nearest])[1] + change
        return found

    return along


def _change(old: Any, new: Any) -> tuple[float, float]:
    """Change of the value between two points by their derivatives, and how much the ways to find it differ."""
    (x0, _, g0, H0), (x1, _, g1, H1) = old, new
    step = x1 - x0
    bend0, bend1 = step @ H0 @ step, step @ H1 @ step
    ways = (0.5 * step @ (g0 + g1) + (bend0 - bend1) / 12.0, step @ g0 + 0.5 * bend0, step @ g1 - 0.5 * bend1)
    return float(ways[0]), float(max(ways) - min(ways))


@compiled()
def _value(spec: Spec, prepared: Prepared, scale: Array, s: Array) -> Array:
    """-2 log-likelihood by quadrature."""
    return criterion_at(spec, prepared, spec.blocks(s * scale, prepared.coords))[0]


def is_solved(spec: Spec, prepared: Prepared, scale: np.ndarray, x: np.ndarray) -> bool:
    """Whether the equations at coordinates x can be solved within the iterations that the engine has."""
    return bool(_solved(spec, prepared, jnp.asarray(scale), jnp.asarray(x)))


@compiled()
def _solved(spec: Spec, prepared: Prepared, scale: Array, s: Array) -> Array:
    return prepared.statistics.is_solved(spec.blocks(s * scale, prepared.coords))


def monte_carlo(spec: Spec, prepared: Prepared, scale: np.ndarray, point: Point) -> tuple[float, MonteCarlo]:
    """The log-likelihood at a point and its error, by further probes.

    Coordinates s solve ``g(s) = 0`` for a gradient whose noise has covariance ``Cov(g) / probes``, estimated from the
    spread over probes, so that theirs is ``H^-1 Cov(g) H^-1 / probes``. Where the decrement of the final probes is
    larger than that lets expect, errors are made larger by the root of the ratio (Birge 1932).
    """
    options, s = prepared.statistics.options, point.x
    final = prepared._replace(statistics=prepared.statistics.final)
    value, logdets, gradients = jax.device_get(_spread(spec, final, jnp.asarray(scale), jnp.asarray(s)))
    k = len(s)
    noise = np.cov(gradients, rowvar=False).reshape(k, k)
    inverse = np.linalg.pinv(point.hessian, rcond=NO_LENGTH, hermitian=True)
    J, of_sigma = _theta_slopes(spec, prepared.basis, scale, point)
    gradient = np.mean(gradients, 0)
    decrement = float(gradient @ inverse @ gradient)
    expected = float(np.sum(inverse * noise) * (1.0 / options.probes + 1.0 / options.final_probes))
    worse = max(1.0, decrement / expected if expected > 0 else 1.0)
    A = inverse @ noise / options.probes  # the decrement of theta is a sum of squares, whose mean square this gives
    lacking = 0.5 * worse * np.sqrt(max(np.trace(A) ** 2 + 2.0 * np.trace(A @ A), 0.0))
    with np.errstate(all="ignore"):
        theta_se = np.sqrt(worse * np.diagonal(J @ inverse @ noise @ inverse @ J.T) / options.probes)
        own = np.sqrt(np.diagonal(2.0 * J @ inverse @ J.T) + of_sigma)
        relative_se = theta_se / own
    return -0.5 * float(value), MonteCarlo(
        probes=options.probes,
        final_probes=options.final_probes,
        seed=int(prepared.statistics.seed),
        loglik_se=float(np.hypot(0.5 * np.std(logdets, ddof=1) / np.sqrt(len(logdets)), lacking)),
        theta_se=theta_se,
        relative_se=relative_se,
        gradient_norm=float(np.abs(gradient).max(initial=0.0)),
        decrement=decrement,
        expected_decrement=expected,
    )


@compiled()
def _spread(spec: Spec, prepared: Prepared, scale: Array, s: Array) -> tuple[Array, Array, Array]:
    """-2 log-likelihood, and each probe's log-determinant (b,) and gradient (b, k)."""
    statistics, basis, coords = prepared
    n, rank = basis.n, basis.rank

    def blocks(s: Array) -> Blocks:
        return spec.blocks(s * scale, coords)

    def weigh(gram: Array) -> Array:
        return gram_slopes(solve_normal(gram, basis.alias), n, rank, spec.reml, spec.profiled)

    C, pull = jax.vjp(blocks, s)
    logdets, gram, slopes = statistics.draws(C, weigh)
    value, _ = deviance_of(spec, basis, jnp.mean(logdets), gram)
    return value, logdets, jax.vmap(lambda S: pull(S)[0])(slopes)


def _theta_slopes(spec: Spec, basis: Basis, scale: np.ndarray, point: Point) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives (m, k) of theta in scaled coordinates, sigma following where it is profiled.

    And the variance (m,) that theta has because sigma, given these, has one. NaN where theta is infinite.
    """
    normal, slopes = point.aux.normal, point.aux.gram_slopes
    nu = basis.n - spec.reml * basis.rank
    sigma, change = np.full((), np.nan), np.zeros(len(point.x))
    if spec.profiled:
        v = np.append(-normal.beta, 1.0)
        sigma = np.sqrt(normal.rss / nu)
        change = slopes @ v @ v / (2.0 * nu * sigma)

    def theta(step: Array, log_sigma: Array) -> Array:
        return spec.theta((point.x + step) * scale, (sigma + change @ step) * jnp.exp(log_sigma), basis.K)

    none = jnp.zeros(len(point.x)), jnp.zeros(())
    J, of_sigma = jax.jacfwd(theta, (0, 1))(*none)
    known = np.where(np.isfinite(theta(*none)), 1.0, np.nan)
    return known[:, None] * np.asarray(J), np.asarray(of_sigma) ** 2 / (2.0 * nu) * spec.profiled
