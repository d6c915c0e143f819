"""Predictions by all fits of a batch are those of single fits, and those of cross-validation."""

from __future__ import annotations

import numpy as np
import pytest

import jaxlmm
from jaxlmm.errors import DataError

SLEEP = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture(scope="module")
def sleep():
    fit = jaxlmm.lmm(SLEEP, jaxlmm.datasets.load("sleepstudy"))
    return fit, fit.simulate(4, seed=3)


def test_means_are_those_of_single_fits(sleep):
    fit, Y = sleep
    batch = fit.refit(Y)
    new = {"Days": np.array([0.0, 12.0, np.nan, 3.0]), "Subject": np.array(["308", "372", "308", "new"])}
    found = fit.predict_batch(batch, Y, new, allow_new_levels=True)
    at_rows, population = fit.predict_batch(batch, Y), fit.predict_batch(batch, Y, new, random=False)
    assert np.isnan(found[:, 2]).all() and not np.isnan(np.delete(found, 2, 1)).any()
    for i in (0, 3):
        one = fit.refit(Y[i])
        np.testing.assert_allclose(found[i], one.predict(new, allow_new_levels=True), rtol=1e-6)
        np.testing.assert_allclose(at_rows[i], one.fitted, rtol=1e-6)
        np.testing.assert_allclose(population[i], one.predict(new, random=False), rtol=1e-6)
    with pytest.raises(DataError, match="new"):
        fit.predict_batch(batch, Y, {name: values[3:] for name, values in new.items()})
    with pytest.raises(DataError, match="batch: expected the 2 fits"):
        fit.predict_batch(batch, Y[:2])
    with pytest.raises(DataError, match="batch: found ndarray, expected the fits of Fit.refit"):
        fit.predict_batch(Y, Y)


@pytest.mark.parametrize("random", [True, False])
def test_fits_of_other_data_are_refused(sleep, random):
    """They gave means of no model: coefficients of some responses, effects of others, and without their weights."""
    fit, Y = sleep
    twice = np.tile(2.0 * np.asarray(fit.data["Days"]), (4, 1))
    weights = np.tile(np.linspace(0.5, 2.0, 180), (4, 1))
    others = (fit.refit(Y), Y[::-1]), (fit.refit(Y, column="Days", values=twice), Y), (fit.refit(Y, weights=weights), Y)
    for batch, y in others[: 3 if random else 1]:
        with pytest.raises(DataError, match="batch: 4 fits are not those of these responses"):
            fit.predict_batch(batch, y, random=random)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["subjects", "rows"])
def test_cross_validation_is_the_loop(sleep, unit):
    fit, Y = sleep
    data = {name: np.asarray(fit.data[name]) for name in ("Days", "Subject")}
    code = np.unique(data["Subject"], return_inverse=True)[1] if unit == "subjects" else np.arange(180)
    fold = code % 3
    y = np.where(fold == np.arange(3)[:, None], np.nan, Y[0])
    means = fit.predict_batch(fit.refit(y, missing="drop"), y)
    for k in range(3):
        here, out = fold != k, fold == k
        one = jaxlmm.lmm(SLEEP, {**{n: v[here] for n, v in data.items()}, "Reaction": Y[0][here]})
        expected = one.predict({n: v[out] for n, v in data.items()}, allow_new_levels=True)
        np.testing.assert_allclose(means[k][out], expected, rtol=1e-5)


@pytest.mark.slow
def test_crossed_factors_random_functions_and_weights():
    rng = np.random.default_rng(2)
    data = {"s": np.repeat(np.arange(8), 6), "i": np.tile(np.arange(6), 8), "w": rng.uniform(0.5, 2.0, 48)}
    data["x"], data["y"] = rng.standard_normal((2, 48))
    data["y"] = data["y"] + rng.standard_normal(8)[data["s"]] + rng.standard_normal(6)[data["i"]]
    for formula, options in (
        ("y ~ x + (1 | s) + (1 | i)", {"weights": "w"}),
        ("y ~ x + (1 | s) + ar1(i | s)", {}),
        ("y ~ x", {"residual": "cs(i | s)"}),
    ):
        fit = jaxlmm.lmm(formula, data, **options)
        Y = fit.simulate(2, seed=1)
        Y[1, ::5] = np.nan
        batch = fit.refit(Y, missing="drop")
        found = fit.predict_batch(batch, Y)
        here = ~np.isnan(Y[1])
        one = jaxlmm.lmm(formula, {**{n: v[here] for n, v in data.items()}, "y": Y[1][here]}, **options)
        np.testing.assert_allclose(found[1], one.predict(data), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[0], fit.refit(Y[0]).fitted, rtol=1e-5, atol=1e-6)
