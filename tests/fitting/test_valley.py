"""A zero pivot over a row that is not zero: a saddle, and a curved valley that leads away from it."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxlmm.fitting.newton import CURVATURE, VALLEY, Packing, Status, minimise

ROWS = np.array([[0.0], [1.0], [1.0]])  # of a factor (a; b, c)
LENGTH, STIFF, SLOPE = 0.15, 500.0, 25.0


def criterion(x, cross):
    """What a criterion is near G = diag(0, LENGTH^2): it knows b^2 + c^2, and a through its square and through a b."""
    a, b, c = x
    return SLOPE * a**2 + 2 * cross * a * b + STIFF * (b**2 + c**2 - LENGTH**2) ** 2 + 1375.0


@pytest.mark.parametrize("cross", [0.1, 0.3, 1.0])
def test_the_saddle_is_left_along_the_curve(cross):
    """Straight steps once ended at the saddle, 9e-6 short for cross = 0.1, and took twice the evaluations else."""
    with jax.enable_x64(True):
        packing = Packing(3, (), ROWS)
        found = [jax.jit(each(criterion)) for each in (lambda f: f, jax.grad, jax.hessian)]
        state = minimise(
            lambda x: np.concatenate([x, *(np.ravel(each(x, cross)) for each in found)]),
            packing, np.array([6e-7, 1.2e-5, 0.146]), 200, np,
        )  # fmt: skip
    k = cross**2 / SLOPE
    lowest = 1375.0 - k * LENGTH**2 - k**2 / (4 * STIFF)
    assert state.status == Status.CONVERGED
    assert packing.derivatives(state.best)[1] == pytest.approx(lowest, abs=5e-8)
    assert state.iteration <= 14


def power(x):
    return abs(x) ** 2.6, 2.6 * abs(x) ** 1.6 * np.sign(x), 2.6 * 1.6 * abs(x) ** 0.6


def decay(x):
    return np.exp(-x), -np.exp(-x), np.exp(-x)


@pytest.mark.parametrize(("f", "most"), [(power, 5), (decay, 6)])
def test_steps_that_fall_short_by_the_same_part_are_prolonged(f, most):
    """A correlation at zero over a power of its distance, a constant that vanishes: 13 and 27 evaluations once."""

    def evaluate(x):
        value, slope, curvature = f(x[0])
        return np.array([*x, value + (x[1] - 1.0) ** 2, slope, 2 * (x[1] - 1.0), curvature, 0.0, 0.0, 2.0])

    state = minimise(evaluate, Packing(2, ()), np.array([0.7, 0.5]), 100, np)
    assert state.status == Status.CONVERGED and state.iteration <= most
    assert Packing(2, ()).derivatives(state.best)[1] < 1e-10


def test_rows_are_turned_where_the_valley_is():
    packing, x = Packing(3, (), ROWS), np.array([0.1, 0.0, 2.0])
    step = np.array([0.05, 1.0, 0.5])
    y = packing.turned(x, x + step, 0.1 * VALLEY, 1.0, np)  # as long as the step along the row says
    assert y[0] == pytest.approx(0.15) and np.hypot(y[1], y[2]) == pytest.approx(2.5)
    assert y[1] / y[2] == pytest.approx(1.0 / 2.5)
    for decrement, curvature in ((10.0 * VALLEY, 1.0), (1e-9, 1.0)):  # far away, and at the last digits
        np.testing.assert_array_equal(packing.turned(x, x + step, decrement, curvature, np), x + step)
    np.testing.assert_allclose(packing.turned(x, x + step, 1e-9, -2 * CURVATURE, np), y)  # away from a saddle
    np.testing.assert_array_equal(packing.turned(x, -x, 0.1 * VALLEY, 1.0, np), -x)  # through zero: no turn
    assert Packing(3, ()).turned(x, step, 0.0, 0.0, np) is step
