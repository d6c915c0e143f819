"""Coefficients, random effects and predictions that the data do not identify are NaN, the others as they are."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import jaxlmm

RNG = np.random.default_rng(3)
GROUP = np.repeat(np.arange(8), 4)
X = np.tile(np.arange(4.0) - 1, 8) + 0.1 * RNG.normal(size=32)
Y = RNG.normal(size=8)[GROUP] + (1 + RNG.normal(size=8)[GROUP]) * X + 0.5 * RNG.normal(size=32)
DATA = {"g": np.array(list("abcdefgh"))[GROUP], "x": X, "z": 1.0 * (GROUP % 2), "y": Y}


def starts(formula):
    """A fit, and one with the same likelihood that has started elsewhere."""
    fit = jaxlmm.lmm(formula, DATA)
    other = jaxlmm.lmm(formula, DATA, start=fit.theta + np.array([0.8, 0.5, 0.3, 0.0]))
    assert other.loglik == pytest.approx(fit.loglik, abs=1e-6)
    return fit, other


def same(a, b):
    """Equal where they are numbers, and NaN in the same places, which are told."""
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
    return np.isnan(a)


def test_a_slope_that_is_constant_within_groups():
    """Of groups with z = 0 the intercept is identified, of those with z = 1 intercept plus slope."""
    fit, other = starts("y ~ x + (z | g)")
    effects = [f.ranef()["g"] for f in (fit, other)]
    lost = same(*(e.values for e in effects))
    np.testing.assert_array_equal(lost, np.stack([np.arange(8) % 2 == 1, np.full(8, True)], 1))
    assert "do not identify" in str(effects[0].table())
    assert np.isfinite(fit.coef_by("g")["x"]).all() and np.isnan(fit.coef_by("g")["z"]).all()
    assert not same(fit.fitted, other.fitted).any()
    rows = {"g": ["a", "b", "a"], "x": [0.0, 0.0, 0.0], "z": [0.0, 1.0, 1.0]}
    with pytest.warns(jaxlmm.NotEstimableWarning, match="1 rows have no prediction"):
        means = [f.predict(rows) for f in (fit, other)]
    np.testing.assert_array_equal(same(*means), [False, False, True])
    assert np.isfinite(fit.tidy()["std_error"][:2]).all()


@pytest.mark.slow
def test_fixed_effects_that_take_part_of_a_slope():
    """By REML with an intercept of every group, how much of its slope is the intercept's is anybody's guess."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit, other = starts("y ~ 0 + g + (x | g)")
    assert abs(fit.coef[0] - other.coef[0]) > 1e-3  # where the solver started
    for df in ("satterthwaite", "asymptotic"):
        tests = fit.test(np.eye(8), df=df)
        assert np.isnan(tests.rows.estimate).all() and np.isnan(tests.rows.se).all() and np.isnan(tests.joint.statistic)
    assert "do not determine" in fit.wald("asymptotic").note
    assert not same(fit.fitted, other.fitted).any()
    np.testing.assert_array_equal(same(*(f.ranef()["g"].values for f in (fit, other)))[0], [True, False])
    for frame in (fit.tidy(), fit.tidy("asymptotic"), fit.confint(which="coef", method="wald")):
        assert np.isnan(frame["estimate"]).all()
    assert str(fit.coef[0])[:5] not in str(fit.summary()) and str(fit.coef[0])[:5] not in str(jaxlmm.side_by_side(fit))
    assert np.isnan(fit.correlation()["g[a]"]).all() and np.isnan(fit.r2().estimate[0])
    g = fit.delta(lambda p: (p.coef[0], p.coef[0] - p.coef[1], p.sigma))
    np.testing.assert_array_equal(np.isnan(g.estimate), [True, True, False])
    np.testing.assert_array_equal(np.isnan(g.se), [True, True, False])
