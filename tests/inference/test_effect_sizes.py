"""Standardised effects against R's effectsize 0.8.3 and emmeans 1.8.4 (experiments/references/numbers), and by hand."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import stats

import jaxlmm
from jaxlmm.errors import DataError
from jaxlmm.inference.effect_sizes import noncentrality


@cache
def oats():
    return jaxlmm.lmm("yield ~ Variety * C(Nitrogen) + (1 | Block/Variety)", jaxlmm.datasets.load("oats"))


def test_shares_of_variance_of_terms():
    found = oats().effect_sizes()
    assert list(found["term"]) == ["Variety", "C(Nitrogen)", "Variety:C(Nitrogen)"]
    expected = {
        "eta2": [0.229030217576, 0.715292623569, 0.0388095073332], "lower": [0, 0.558486812385, 0],
        "upper": [0.563164469178, 0.801187212795, 0.0545024859981], "epsilon2": [0.0748365315508, 0.696312146923, 0],
        "omega2": [0.0694798541434, 0.691934398692, 0],
    }  # fmt: skip
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-9, err_msg=name)


def test_noncentrality_has_its_probability():
    for below in (0.025, 0.5, 0.975):
        nc = noncentrality(37.0, 3.0, 45.0, below)
        np.testing.assert_allclose(stats.ncf.cdf(37.0, 3.0, 45.0, nc), below, rtol=1e-6)
    assert noncentrality(0.1, 3.0, 45.0, 0.975) == 0.0
    assert np.isnan(noncentrality(1e12, 1.0, 5.3, 0.975))  # beyond SciPy's distribution function


def test_differences_in_standard_deviations():
    """emmeans' eff_size with sigma(m) and edf = 51, but for its degrees of freedom, which are those of the means."""
    fit = oats()
    pairs = fit.emmeans("C(Nitrogen)" if "C(Nitrogen)" in fit.frame.levels else "Nitrogen").pairs()
    found = fit.standardized(pairs, sd=fit.sigma, edf=51)
    np.testing.assert_allclose(
        found["effect_size"], [-1.465365947084, -2.617619512313, -3.306466752395, -1.152253565229, -1.841100805311,
                               -0.688847240082], rtol=1e-5,
    )  # fmt: skip
    np.testing.assert_allclose(
        found["std_error"], [0.363542357920, 0.422240351177, 0.467220145009, 0.352317559684, 0.379924986258,
                             0.340239878666], rtol=1e-5,
    )  # fmt: skip
    np.testing.assert_allclose(found["df"], 45, rtol=1e-4)
    total = fit.standardized(pairs)  # of blocks, plots and residuals
    parts = fit.varcorr()
    sd = np.sqrt(sum(float(G[0, 0]) for G in fit.estimate.covariances) + fit.sigma**2)
    np.testing.assert_allclose(total["effect_size"], pairs.frame()["estimate"] / sd, rtol=1e-8)
    V, G = fit.vcov_parameters(), np.ones(3)
    spread = G @ V @ G / (4 * sd**4)
    expected = (pairs.frame()["std_error"] / sd) ** 2 + total["effect_size"] ** 2 * spread
    np.testing.assert_allclose(total["std_error"], np.sqrt(expected), rtol=1e-6)
    half = stats.t.ppf(0.975, total["df"]) * total["std_error"]
    np.testing.assert_allclose(total["upper"] - total["effect_size"], half, rtol=1e-8)
    residual = fit.standardized(pairs, sd="residual")
    np.testing.assert_allclose(residual["effect_size"], pairs.frame()["estimate"] / parts.sigma, rtol=1e-8)


def test_what_cannot_be_standardised():
    fit = oats()
    with pytest.raises(DataError, match="contrasts: expected means or contrasts"):
        fit.standardized(fit.anova())
    with pytest.raises(DataError, match="sd: found 'sigma'"):
        fit.standardized(fit.emmeans("Variety"), sd="sigma")
    for sd in (True, np.inf, np.nan, -1.0):
        with pytest.raises(DataError, match="sd: found"):
            fit.standardized(fit.emmeans("Variety"), sd=sd)
    other = fit.refit(fit.model.y[::-1].copy())
    with pytest.raises(DataError, match="contrasts: expected those of this fit"):
        fit.standardized(other.emmeans("Variety"))
    one_sided = fit.standardized(fit.emmeans("Variety").pairs(adjust="none").against(side="greater"), sd=fit.sigma)
    both = fit.standardized(fit.emmeans("Variety").pairs(), sd=fit.sigma, level=0.9)
    np.testing.assert_allclose(one_sided["lower"], both["lower"])
    assert np.isposinf(one_sided["upper"]).all()


def test_summary_with_residuals_and_correlations():
    """lme4: summary(m)$residuals quartiles of the sleepstudy model, and -0.138 between its coefficients."""
    fit = jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", jaxlmm.datasets.load("sleepstudy"))
    text = str(fit.summary(residuals=True, correlation=True))
    scaled = text.split("Scaled residuals:")[1].split()
    assert scaled[:5] == ["Min", "1Q", "Median", "3Q", "Max"]
    np.testing.assert_allclose([float(x) for x in scaled[5:10]], [-3.9536, -0.4634, 0.0231, 0.4634, 5.1793], atol=2e-4)
    assert "-0.138" in text.split("Correlation of fixed effects:")[1]
    assert "Scaled residuals" not in str(fit.summary())
