"""A trust-region Newton method on the exact Hessian, as a pure step function.

One evaluation a step, no inner loop: a step is a fixed amount of work, so that many problems can be stepped together.
The quadratic model uses the absolute values of the eigenvalues (saddle-free Newton: Dauphin et al. 2014), the step
is clipped to the trust radius, and a stationary point with a direction of negative curvature is left along it.
Convergence is judged by the Newton decrement g'|H|^-1 g, which does not depend on the scale of anything.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

DECREMENT = 1e-13
STATIONARY = 1e-6
CURVATURE = 1e-7
NOISE = 1e-11
FIRST_RADIUS = 1.0
LARGEST_RADIUS = 10.0
SMALLEST_RADIUS = 1e-9

Objective = Callable[[Array], tuple[Array, Array, Array, Any]]


class Status(IntEnum):
    """How an optimisation ended."""

    RUNNING = 0
    CONVERGED = 1
    MAX_ITERATIONS = 2
    STALLED = 3
    NOT_FINITE = 4
    NOT_OPTIMAL = 5

    @property
    def advice(self) -> str:
        """One sentence on what happened and what to do."""
        return _ADVICE[self]


_ADVICE = {
    Status.RUNNING: "the optimiser has not finished",
    Status.CONVERGED: "converged",
    Status.MAX_ITERATIONS: "stopped at the iteration limit before convergence; start from other values (start=)",
    Status.STALLED: "no step improves the criterion, but its gradient is not zero; look at the scale of the data",
    Status.NOT_FINITE: "the criterion is not finite at the start values: the model fits perfectly or the data are degenerate",
    Status.NOT_OPTIMAL: "stationary, but a neighbouring covariance matrix has a higher likelihood; start from other values",
}


class State(NamedTuple):
    """State of the optimiser: the best point so far, and the point to be tried next."""

    x: Array
    value: Array
    gradient: Array
    hessian: Array
    aux: Any
    trial: Array
    predicted: Array
    radius: Array
    decrement: Array
    curvature: Array
    iteration: Array
    status: Array


def initial_state(objective: Objective, x: Array) -> State:
    """State before the first evaluation, at start values x (k,)."""
    k = x.shape[0]
    aux = jax.tree_util.tree_map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(objective, x)[3])
    infinite, zero = jnp.full((), jnp.inf, x.dtype), jnp.zeros((), x.dtype)
    return State(
        x, infinite, jnp.zeros(k, x.dtype), jnp.eye(k, dtype=x.dtype), aux, x, zero,
        jnp.full((), FIRST_RADIUS, x.dtype), infinite, zero, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32),
    )  # fmt: skip


def newton_step(gradient: Array, hessian: Array, radius: Array) -> tuple[Array, Array, Array, Array]:
    """Step, predicted decrease, Newton decrement and smallest relative curvature."""
    w, Q = jnp.linalg.eigh(hessian)
    largest = jnp.max(jnp.abs(w), initial=0.0)
    modified = jnp.maximum(jnp.abs(w), 1e-10 * largest + 1e-300)
    c = Q.T @ gradient
    decrement = jnp.sum(c**2 / modified)
    curvature = jnp.min(w, initial=jnp.inf) / (largest + 1e-300)
    saddle = (curvature < -CURVATURE) & (decrement < STATIONARY)
    toward = jnp.where(c[:1] > 0, -1.0, 1.0)
    coefficients = -c / modified + jnp.where(saddle, toward * radius, 0.0) * (jnp.arange(w.shape[0]) == 0)
    length = jnp.sqrt(jnp.sum(coefficients**2))
    coefficients = coefficients * jnp.minimum(1.0, radius / jnp.maximum(length, 1e-300))
    predicted = -jnp.sum(c * coefficients + 0.5 * w * coefficients**2)
    return Q @ coefficients, predicted, decrement, curvature


def step(objective: Objective, state: State) -> State:
    """Evaluate the trial point, accept or reject it, and choose the next one. A finished state is returned as is."""
    value, gradient, hessian, aux = objective(state.trial)
    finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient)) & jnp.all(jnp.isfinite(hessian))
    first = jnp.isinf(state.value)
    gain = jnp.where(first, jnp.inf, state.value - value)
    noise = NOISE * jnp.maximum(1.0, jnp.abs(value))
    accept = finite & ((gain > 0) | (jnp.abs(gain) <= noise))
    old = (state.x, state.value, state.gradient, state.hessian, state.aux)
    new = (state.trial, value, gradient, hessian, aux)
    x, value, gradient, hessian, aux = jax.tree_util.tree_map(lambda a, b: jnp.where(accept, a, b), new, old)

    ratio = jnp.where(jnp.abs(gain) <= noise, 1.0, gain / jnp.maximum(state.predicted, 1e-300))
    length = jnp.sqrt(jnp.sum((state.trial - state.x) ** 2))
    radius = jnp.where(accept & (ratio > 0.25), state.radius, 0.25 * jnp.minimum(state.radius, length))
    grown = jnp.minimum(2.0 * state.radius, LARGEST_RADIUS)
    radius = jnp.where(accept & (ratio > 0.75) & (length > 0.9 * state.radius), grown, radius)
    radius = jnp.where(first, state.radius, radius)

    move, predicted, decrement, curvature = newton_step(gradient, hessian, radius)
    small = decrement < DECREMENT
    exhausted = (decrement < STATIONARY) & (jnp.abs(gain) <= noise) & (decrement > 0.5 * state.decrement)
    done = (small | exhausted) & (curvature >= -CURVATURE)
    status = jnp.where(done, Status.CONVERGED, Status.RUNNING)
    status = jnp.where(~done & (radius < SMALLEST_RADIUS), Status.STALLED, status)
    status = jnp.where(first & ~finite, Status.NOT_FINITE, status).astype(jnp.int32)
    after = State(
        x, value, gradient, hessian, aux, x + move, predicted, radius, decrement, curvature, state.iteration + 1, status
    )
    return jax.tree_util.tree_map(lambda a, b: jnp.where(state.status == Status.RUNNING, a, b), after, state)


def minimise(objective: Objective, x: Array, max_iterations: Array) -> State:
    """Step until every problem has ended or `max_iterations` evaluations are spent; traceable."""

    def running(state: State) -> Array:
        return (state.status == Status.RUNNING) & (state.iteration < max_iterations)

    state = jax.lax.while_loop(running, lambda s: step(objective, s), initial_state(objective, x))
    ended = jnp.where(state.status == Status.RUNNING, Status.MAX_ITERATIONS, state.status)
    return state._replace(status=ended.astype(jnp.int32))
