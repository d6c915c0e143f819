"""Where along ranges a run of the solver pays, from single evaluations."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxlmm.fitting.survey import FAINT, FINE, MUCH, TIMES, Distances, scaled

RANGE, FIELD, ERRORS = np.eye(3, dtype=bool)


def distances(beside=ERRORS):
    return Distances(RANGE, np.zeros(3, bool), np.zeros(3, bool), FIELD, beside, np.ones(3))


def test_the_size_of_all_covariances_is_the_best():
    """In closed form: V = c V0 has the criterion nu log c + rss / c, smallest at c = rss / nu."""
    rss, nu, value = 30.0, 12.0, 7.0
    x = np.array([[0.4, 0.6, 0.8]])  # of two standard deviations the slope is shared as their parts of nu - rss
    gradient = np.array([[0.3, (nu - rss) / x[0, 1], (nu - rss) / x[0, 2]]])
    aux = SimpleNamespace(normal=SimpleNamespace(rss=np.array([rss])))
    point = SimpleNamespace(x=x, value=np.array([value]), gradient=gradient, aux=aux)
    moved, best = scaled(point, np.array([0.0, 1.0, 1.0]))
    c = np.linspace(1, 5, 100_001)
    assert best == pytest.approx(value - rss + np.min(nu * np.log(c) + rss / c), abs=1e-8)
    np.testing.assert_allclose(moved, x * [1.0, *[np.sqrt(rss / nu)] * 2])


def test_trials_have_the_variance_of_the_known_optimum_in_shares():
    s, known = np.array([[0.5, 1.0, 1.0]]), np.array([[0.7, 0.6, 0.8]])
    trials = distances().trials(s, known)[:, 0]
    np.testing.assert_allclose(trials[:, 1] ** 2 + trials[:, 2] ** 2, 1.0)
    np.testing.assert_allclose(trials[: len(TIMES), 1] ** 2, MUCH)
    np.testing.assert_allclose(trials[: len(TIMES), 0], 0.5 + np.log(TIMES))
    nothing = distances().trials(s, np.array([[0.7, 0.0, 1.0]]))[:, 0]
    np.testing.assert_allclose(nothing[len(TIMES) :, 1] ** 2, FAINT)
    assert len(distances(np.zeros(3, bool)).trials(s, known)) == len(FINE)


@pytest.mark.parametrize(("dips", "runs"), [([], []), ([1, 6], [1, 6]), ([4], []), ([6, 4], [6])])
def test_runs_pay_from_dips_beside_the_known_one(dips, runs):
    s, known = np.array([[0.5, 1.0, 1.0]]), np.array([[0.5, 0.95, 0.2]])  # range as at the start: the fifth of TIMES
    value = np.full((2 * len(TIMES), 1), 101.5)
    value[dips] = 100.5
    value[len(TIMES) :] = 130.0
    found = distances().valleys(value, s, known, np.array([100.0]))[:, 0]
    assert sorted(found[found >= 0]) == runs
