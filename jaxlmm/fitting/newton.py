"""A trust-region Newton method on the exact Hessian, as a pure step function.

One evaluation a step, no inner loop: a step is a fixed amount of work, so that many problems can be stepped together.
The quadratic model uses the absolute values of the eigenvalues (saddle-free Newton: Dauphin et al. 2014), the step
is clipped to the trust radius, and a stationary point with a direction of negative curvature is left along it.
Convergence is judged by the Newton decrement g'|H|^-1 g, which does not depend on the scale of anything.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..covariance.charts import IDENTITY, Charts
from ..linalg import JACOBI, eigh
from ..runtime.sharding import alike
from .firm import firmly, in_one_thread

DECREMENT = 1e-13  # Newton decrement below which a run has converged: twice what -2 log-likelihood can still fall
STATIONARY = 1e-6  # decrement below which a point may be left along negative curvature, or rounding may end the run
CURVATURE = 1e-7  # negative eigenvalue of the Hessian, relative to the largest, that counts
FLATTEST = 1e-10  # eigenvalue relative to the largest that smaller ones are raised to, in the quadratic model
SHALLOW = 1e-4  # negative eigenvalue, relative to the largest, that may be of a fall that rounding hides
NOISE = 1e-11  # change of the criterion, relative to it, that is rounding: neither a gain nor a loss
FIRST_RADIUS = 1.0  # of the trust region, in scaled coordinates
LARGEST_RADIUS = 1e8
SURPRISE = 100.0  # gain, in units of the predicted one plus one, that is not believed
SMALLEST_RADIUS = 1e-9  # below which the run has stalled
LONGEST = 16.0  # times a step, where one after the other falls short
ALIKE = 0.9  # squared cosine of a step and the one before, in the metric of the Hessian, from which they are one way
NEARLY = 1.0  # decrement below which steps are prolonged
PATIENCE = 40  # evaluations after which a step from a stationary point that changes nothing ends the run, saddle or not
VALLEY = 1e-2  # decrement below which rows of Cholesky factors are turned, see `Packing.turned`

Evaluate = Callable[[Any], Any]


class Status(IntEnum):
    """How an optimisation ended."""

    RUNNING = 0
    CONVERGED = 1
    MAX_ITERATIONS = 2
    STALLED = 3
    NOT_FINITE = 4
    NOT_OPTIMAL = 5
    PERFECT_FIT = 6
    BAD_RESPONSE = 7
    NOT_RUN = 8
    RANK_DEFICIENT = 9
    BAD_COVARIATE = 10
    NO_MAXIMUM = 11
    NOT_SOLVED = 12

    @property
    def is_fitted(self) -> bool:
        """Whether there is a certified optimum."""
        return self in (Status.CONVERGED, Status.RANK_DEFICIENT)

    @property
    def advice(self) -> str:
        """One sentence on what happened and what to do."""
        return _ADVICE[self]


_ADVICE = {
    Status.RUNNING: "the optimiser has not finished",
    Status.CONVERGED: "converged",
    Status.MAX_ITERATIONS: "stopped at the iteration limit before convergence; start from other values (start=)",
    Status.STALLED: "no step improves the criterion, but its gradient is not zero; look at the scale of the data, "
    "or at a covariance with more parameters than the data can tell",
    Status.NOT_FINITE: "the criterion is not finite at the start values: the covariance matrix of the response is not "
    "positive definite there (independent errors beside a residual structure make it so), or numbers overflow; start "
    "from other values (start=)",
    Status.BAD_RESPONSE: "the response has missing or infinite values, or no variation that X does not fit exactly",
    Status.NOT_RUN: "interrupted before this one was fitted",
    Status.RANK_DEFICIENT: "converged; some columns of X are combinations of others and have no coefficient",
    Status.BAD_COVARIATE: "the varying column of X or the weights have missing, infinite or otherwise unusable values, "
    "or leave REML nothing to estimate a variance from (all effects of a random term are among the fixed ones)",
    Status.PERFECT_FIT: "the residual variance tends to zero: the model fits the response exactly",
    Status.NO_MAXIMUM: "no maximum: the likelihood rises, without end or to a limit, as the covariance becomes "
    "singular or infinite; take one with fewer parameters, or fix one of them",
    Status.NOT_SOLVED: "conjugate gradients did not solve the equations of the random effects in max_iterations: "
    "levels are hardly connected, or variances very large beside that of the residual; allow more, by "
    "engine=jaxlmm.Iterative(max_iterations=20000), or use engine='crossed'",
    Status.NOT_OPTIMAL: "stationary, but a neighbouring covariance has a higher likelihood; start from other values",
}


class Point(NamedTuple):
    """A point with everything that is known there."""

    x: Any
    value: Any
    gradient: Any
    hessian: Any
    aux: Any


class State(NamedTuple):
    """State of the optimiser: the best point so far, packed into one vector, and the point to be tried next."""

    best: Any
    trial: Any
    predicted: Any
    radius: Any
    decrement: Any
    curvature: Any
    iteration: Any
    status: Any
    stretch: Any  # times the Newton step that is being tried; zero where the next must not be prolonged


class Packing:
    """How a `Point` is laid out in one vector; `unpack` works in JAX and, on the host, in NumPy.

    Parameters
    ----------
    k : number of coordinates
    aux : pytree of anything with shapes, as the objective returns it
    rows : (k, r) which coordinates are in each row of Cholesky factors, those with one entry left out; 0.0 or 1.0
    """

    def __init__(self, k: int, aux: Any, rows: np.ndarray | None = None):
        self._rows = rows
        empty = np.empty
        template = Point(empty(k), empty(()), empty(k), empty((k, k)), aux)
        leaves, self._structure = jax.tree_util.tree_flatten(template)
        self._shapes = [np.shape(leaf) for leaf in leaves]
        self._bounds = np.cumsum([0, *(int(np.prod(shape)) for shape in self._shapes)])

    @property
    def size(self) -> int:
        """Length of the vector."""
        return int(self._bounds[-1])

    @property
    def value_at(self) -> int:
        """Position of the value in the vector."""
        return int(self._bounds[1])

    @property
    def aux_at(self) -> int:
        """Position of the first of the other numbers in the vector."""
        return int(self._bounds[4])

    def derivatives(self, packed: Any) -> tuple[Any, Any, Any, Any]:
        """x, value, gradient and Hessian alone."""
        k = self._shapes[0][0]
        x, value, gradient = packed[:k], packed[k], packed[k + 1 : 2 * k + 1]
        return x, value, gradient, packed[2 * k + 1 : 2 * k + 1 + k * k].reshape(k, k)

    def turned(self, x: Any, trial: Any, decrement: Any, curvature: Any, xp: Any) -> Any:
        """The trial point with rows of factors as long as the step along them says, and the rest of it a turn.

        Where a pivot is nearly zero the likelihood has a curved valley: it knows the lengths of the rows below, the
        variances, much better than their directions. Straight steps along it, and away from a saddle, are short. Far
        from an optimum and at the last digits steps are what they are.
        """
        rows = self._rows
        if rows is None:
            return trial
        old, new, length = x**2 @ rows, trial**2 @ rows, (x * trial) @ rows
        turns = (decrement < VALLEY) & ((decrement > STATIONARY) | (curvature < -CURVATURE))
        turns = turns & (length > 0.1 * old) & (new > 0)
        factor = xp.where(turns, length / xp.sqrt(xp.where(turns, old * new, 1.0)), 1.0)
        return trial * (1.0 + rows @ (factor - 1.0))

    def pack(self, point: Point) -> Array:
        """One vector of all numbers."""
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree_util.tree_leaves(point)])

    def unpack(self, packed: Any) -> Point:
        """Inverse of `pack`."""
        parts = zip(self._bounds[:-1], self._bounds[1:], self._shapes, strict=True)
        leaves = [packed[..., a:b].reshape((*packed.shape[:-1], *shape)) for a, b, shape in parts]
        return jax.tree_util.tree_unflatten(self._structure, leaves)


def initial_state(packing: Packing, x: Any, xp: Any = jnp) -> State:
    """State before the first evaluation at start values x (k,); `xp` is jax.numpy or numpy."""
    infinite, zero, radius = xp.full((), xp.inf), xp.zeros(()), xp.full((), FIRST_RADIUS)
    count = xp.zeros((), xp.int32)
    return State(xp.zeros(packing.size), xp.asarray(x), zero, radius, infinite, zero, count, count, zero)


def newton_step(gradient: Any, hessian: Any, radius: Any, xp: Any) -> tuple[Any, Any, Any, Any]:
    """Step, predicted decrease, Newton decrement and smallest relative curvature (where all are positive, a sign)."""
    if len(gradient) <= JACOBI:
        return _by_eigenvalues(gradient, hessian, radius, xp)
    return firmly(partial(_by_eigenvalues, xp=xp), gradient, hessian, radius, xp)


def _by_eigenvalues(gradient: Any, hessian: Any, radius: Any, xp: Any) -> tuple[Any, Any, Any, Any]:
    w, Q = eigh(hessian) if xp is jnp else in_one_thread(hessian)
    largest = xp.max(xp.abs(w), initial=0.0)
    modified = xp.maximum(xp.abs(w), FLATTEST * largest + 1e-300)
    c = Q.T @ gradient
    decrement = xp.sum(c**2 / modified)
    curvature = xp.min(w, initial=xp.inf) / (largest + 1e-300)
    saddle = (curvature < -CURVATURE) & (decrement < STATIONARY)
    lowest = xp.arange(w.shape[0]) == (xp.argmin(w) if w.shape[0] else 0)
    away = xp.where(c > 0, -radius, radius)
    coefficients = -c / modified + xp.where(saddle & lowest, away, 0.0)
    length = xp.sqrt(xp.sum(coefficients**2))
    coefficients = coefficients * xp.minimum(1.0, radius / xp.maximum(length, 1e-300))
    predicted = -xp.sum(c * coefficients + 0.5 * w * coefficients**2)
    return Q @ coefficients, predicted, decrement, curvature


def advance(packing: Packing, state: State, evaluated: Any, xp: Any = jnp, charts: Charts = IDENTITY) -> State:
    """Accept or reject the trial point, `evaluated` being all that is known there (packed), and choose the next.

    Pure, and the same code in JAX (inside a compiled loop, over many problems) and in NumPy (driven from the host,
    where only the objective needs compiling). Points are in the coordinates of the objective, steps in `charts`.
    """
    old_x, old_value, _, _ = packing.derivatives(state.best)
    _, new_value, new_gradient, new_hessian = packing.derivatives(evaluated)
    finite = xp.isfinite(new_value) & xp.all(xp.isfinite(new_gradient)) & xp.all(xp.isfinite(new_hessian))
    first = state.iteration == 0
    gain = xp.where(first, xp.inf, old_value - new_value)
    noise = NOISE * xp.maximum(1.0, xp.abs(new_value))
    expected = first | (gain < SURPRISE * (1.0 + state.predicted))  # else V is singular but for rounding
    accept = finite & expected & ((gain > 0) | (xp.abs(gain) <= noise))
    best = xp.where(accept, evaluated, state.best)
    x, _, gradient, hessian = packing.derivatives(best)

    ratio = xp.where(xp.abs(gain) <= noise, 1.0, gain / xp.maximum(state.predicted, 1e-300))
    way = charts.to(state.trial) - charts.to(old_x)
    length = xp.sqrt(xp.sum(way**2))
    radius = xp.where(accept & (ratio > 0.25), state.radius, 0.25 * xp.minimum(state.radius, length))
    grown = xp.minimum(2.0 * state.radius, LARGEST_RADIUS)
    radius = xp.where(accept & (ratio > 0.75) & (length > 0.9 * state.radius), grown, radius)
    radius = xp.where(first, state.radius, radius)

    gradient, hessian = charts.pulled(x, gradient, hessian)
    move, predicted, decrement, curvature = newton_step(gradient, hessian, radius, xp)
    good = accept & (state.stretch > 0) & (curvature >= -CURVATURE) & (decrement < NEARLY)
    stretch = xp.where(good, prolonged(gradient, hessian, way, decrement, state.stretch, xp), 1.0)
    whole = xp.sqrt(xp.sum(move**2)) < radius * (1.0 - 1e-6)
    small = decrement < DECREMENT
    exhausted = (decrement < STATIONARY) & (xp.abs(gain) <= noise) & (decrement > 0.5 * state.decrement)
    exhausted &= state.curvature >= -CURVATURE  # a step away from a saddle gains little, and is the first of some
    hidden = (radius < SMALLEST_RADIUS) | (~accept & ~first & (state.predicted < noise))  # by rounding, what is left
    exhausted = exhausted | ((decrement < STATIONARY) & hidden)
    done = (small | exhausted) & (curvature >= -CURVATURE)
    done = done | ((decrement < STATIONARY) & hidden & (curvature > -SHALLOW))  # a saddle that leads nowhere
    done = done | ((decrement < STATIONARY) & (xp.abs(gain) <= noise) & (state.iteration >= PATIENCE))
    status = xp.where(done, Status.CONVERGED, Status.RUNNING)
    status = xp.where(~done & hidden, Status.STALLED, status)
    status = xp.where(first & ~finite, Status.NOT_FINITE, status).astype(xp.int32)
    count = state.iteration + 1
    to = charts.back(charts.to(x) + xp.where(whole, stretch, 1.0) * move)
    trial = packing.turned(x, to, decrement, curvature, xp)
    stretch = xp.where(accept & whole, stretch, 0.0)
    return State(best, trial, predicted, radius, decrement, curvature, count, status, stretch)


def prolonged(gradient: Any, hessian: Any, way: Any, decrement: Any, stretch: Any, xp: Any) -> Any:
    """How much longer than the Newton step one should be, after `way` (k,), `stretch` times the Newton step before.

    Where the criterion is not quadratic (a correlation of zero over some power of its distance; a constant that goes to
    zero, in logarithms) Newton steps fall short by the same part time after time. That part is what the secant through
    the last two steps says.
    """
    bend = way @ hessian @ way
    along = -gradient @ way
    same = (along > 0) & (along**2 > ALIKE * decrement * bend)
    short = 1.0 / xp.where(stretch > 0, stretch, 1.0) - along / xp.maximum(bend, 1e-300)
    factor = 1.0 / xp.maximum(short, 1.0 / LONGEST)
    return xp.where(same & (factor > 1.2), factor, 1.0)


def abandoned(state: State, known: Any, xp: Any = jnp) -> State:
    """The state, ended where all that the run can reach is `known`."""
    status = xp.where((state.status == Status.RUNNING) & known, Status.NOT_OPTIMAL, state.status)
    return state._replace(status=status.astype(xp.int32))


def minimise(
    evaluate: Evaluate, packing: Packing, x: Any, max_iterations: int, xp: Any = jnp, charts: Charts = IDENTITY,
    leads_to: Callable[[State], Any] | None = None,
) -> State:  # fmt: skip
    """Step until an end or until `max_iterations` evaluations are spent.

    Parameters
    ----------
    evaluate : maps a point (k,) to a packed `Point`
    xp : jax.numpy for a loop that can be traced, numpy for one driven from the host
    charts : what is stepped in
    leads_to : whether all that a run can reach is known, which ends it as "not optimal"
    """

    def running(state: State) -> Any:
        return (state.status == Status.RUNNING) & (state.iteration < max_iterations)

    def step(state: State) -> State:
        state = advance(packing, state, evaluate(state.trial), xp, charts)
        return state if leads_to is None else abandoned(state, leads_to(state), xp)

    state = initial_state(packing, x, xp)
    if xp is jnp:
        state = jax.lax.while_loop(running, step, alike(state, x))
    else:
        with np.errstate(all="ignore"):  # a rejected point may be anything
            while running(state):
                state = step(state)
    ended = xp.where(state.status == Status.RUNNING, Status.MAX_ITERATIONS, state.status)
    return state._replace(status=ended.astype(xp.int32))
