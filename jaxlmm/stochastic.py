"""Fits whose log-likelihood has a Monte Carlo error: values along the path, and the error of what was found.

Random vectors give the criterion and its gradient errors of their own, independent of each other. The vectors being
the same in all evaluations, the gradient is a smooth function, and its root is the estimate; values are made to agree
with it by integrating it from point to point. At the estimate further vectors give the log-likelihood, a gradient that
is independent of the first one, and the spread of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .criterion import gram_slopes, solve_normal
from .engines import Blocks, Krylov
from .model import Basis, Prepared
from .objective import Spec, deviance_of
from .optimize import Evaluate, Packing, Point


@dataclass(frozen=True)
class MonteCarlo:
    """Monte Carlo error of a fit by the iterative engine.

    Attributes
    ----------
    probes, seed : random vectors that the estimates were found with
    final_probes : random vectors that gave the log-likelihood and the numbers below, independent of the first
    loglik_se : standard error of the log-likelihood
    theta_se : (k,) Monte Carlo standard errors of theta, which more probes would take away; NaN where theta is infinite
    relative_se : (k,) the same relative to the statistical standard errors of theta
    gradient_norm, decrement : as in `jaxlmm.Certificate`, of the gradient by the final probes. Half of the decrement
        is what the log-likelihood lacks of its maximum because of the Monte Carlo error
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


def path_of(prepared: Prepared, packing: Packing, compile: Callable[[Prepared], Evaluate]) -> Evaluate:
    """The criterion along the path of one fit, its values being integrals of its gradient.

    From the nearest point that was evaluated before, by the rule of the trapezium with second derivatives (two-point
    Hermite). The first value leaves out what is random of the log-determinant.
    """
    evaluate = compile(prepared._replace(statistics=prepared.statistics.unvalued))
    known: list[np.ndarray] = []

    def along(s: Any) -> np.ndarray:
        x = np.asarray(s)
        distances = [float(np.sum((packing.derivatives(point)[0] - x) ** 2)) for point in known]
        nearest = int(np.argmin(distances)) if known else 0
        if known and distances[nearest] == 0.0:
            return known[nearest]
        found = np.array(evaluate(s))
        if known:
            x0, value, g0, H0 = packing.derivatives(known[nearest])
            _, _, g1, H1 = packing.derivatives(found)
            step = x - x0
            found[packing.value_at] = value + 0.5 * step @ (g0 + g1) + step @ (H0 - H1) @ step / 12.0
        if np.all(np.isfinite(found)):
            known.append(found)
        return found

    return along


def monte_carlo(spec: Spec, prepared: Prepared, scale: np.ndarray, point: Point) -> tuple[float, MonteCarlo]:
    """The log-likelihood at a point and its error, by further probes.

    Coordinates s solve ``g(s) = 0`` for a gradient whose noise has covariance ``Cov(g) / probes``, estimated from the
    spread over probes, so that theirs is ``H^-1 Cov(g) H^-1 / probes``.
    """
    options, s = prepared.statistics.options, point.x
    final = prepared._replace(statistics=prepared.statistics.final)
    value, logdets, gradients = jax.device_get(_spread(spec, final, jnp.asarray(scale), jnp.asarray(s)))
    k = len(s)
    noise = np.cov(gradients, rowvar=False).reshape(k, k)
    inverse = np.linalg.pinv(point.hessian, rcond=1e-12, hermitian=True)
    J, of_sigma = _theta_slopes(spec, prepared.basis, scale, point)
    with np.errstate(all="ignore"):
        theta_se = np.sqrt(np.diagonal(J @ inverse @ noise @ inverse @ J.T) / options.probes)
        own = np.sqrt(np.diagonal(2.0 * J @ inverse @ J.T) + of_sigma)
        relative_se = theta_se / own
    gradient = np.mean(gradients, 0)
    return -0.5 * float(value), MonteCarlo(
        probes=options.probes,
        final_probes=options.final_probes,
        seed=options.seed,
        loglik_se=0.5 * float(np.std(logdets, ddof=1)) / np.sqrt(len(logdets)),
        theta_se=theta_se,
        relative_se=relative_se,
        gradient_norm=float(np.abs(gradient).max(initial=0.0)),
        decrement=float(gradient @ inverse @ gradient),
        expected_decrement=float(np.sum(inverse * noise) * (1.0 / options.probes + 1.0 / options.final_probes)),
    )


@partial(jax.jit, static_argnames=("spec",))
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

    And the variance (m,) that theta has because sigma, given these, has one.
    """
    normal, slopes = point.aux.normal, point.aux.gram_slopes
    nu = basis.n - basis.rank if spec.reml else basis.n
    sigma, change = np.full((), np.nan), np.zeros(len(point.x))
    if spec.profiled:
        v = np.append(-normal.beta, 1.0)
        sigma = np.sqrt(normal.rss / nu)
        change = np.einsum("kij,i,j->k", slopes, v, v) / (2.0 * nu * sigma)

    def theta(step: Array, log_sigma: Array) -> Array:
        return spec.theta((point.x + step) * scale, (sigma + change @ step) * jnp.exp(log_sigma), basis.K)

    J, of_sigma = jax.jacfwd(theta, (0, 1))(jnp.zeros(len(point.x)), jnp.zeros(()))
    return np.asarray(J), np.asarray(of_sigma) ** 2 / (2.0 * nu) * spec.profiled


def is_stochastic(prepared: Prepared) -> bool:
    """Whether the criterion has a Monte Carlo error."""
    return isinstance(prepared.statistics, Krylov)
