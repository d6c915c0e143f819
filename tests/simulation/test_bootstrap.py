"""Parametric bootstrap: statistics drawn without rows have the law of those computed from drawn rows."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import stats

import batches
import jaxlmm
from jaxlmm.simulation.bootstrap import standard

B = 3000


@functools.cache
def fit(formula="y ~ x + (x | g)"):
    """Random slopes of which X is not in the span of Z, unbalanced; or crossed factors."""
    model = batches.design("uneven slopes")
    x, rng = model.X[:, 1], np.random.default_rng(5)
    g = model.random[0].group
    data = {"x": x, "t": rng.normal(size=len(x)), "g": g, "h": np.arange(len(x)) % 5, "w": rng.uniform(0.5, 2, len(x))}
    data["y"] = x + rng.normal(size=8)[g] + rng.normal(size=8)[g] * x + 0.7 * rng.normal(size=len(x))
    return jaxlmm.lmm(formula, data, weights="w")


@functools.cache
def booted(formula="y ~ x + (x | g)", n=B):
    return fit(formula).bootstrap(n, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("formula", ["y ~ x + (x | g)", "y ~ x + t + (1 | g)"])
def test_the_law_of_drawn_statistics_is_that_of_rows(formula):
    one = fit(formula)
    rows = one.refit(one.simulate(B, seed=7))
    drawn = booted(formula)
    assert drawn.fits.converged.all() and rows.converged.all()
    left, right = standard(rows), drawn.values
    for j, name in enumerate(drawn.names):
        a, b = left[:, j][np.isfinite(left[:, j])], right[:, j][np.isfinite(right[:, j])]
        assert stats.ks_2samp(a, b).pvalue > 1e-3, name
    assert stats.ks_2samp(rows.loglik, drawn.fits.loglik).pvalue > 1e-3


@pytest.mark.slow
def test_replicates_do_not_depend_on_their_number():
    few = fit().bootstrap(70, seed=1)
    np.testing.assert_allclose(few.fits.loglik, booted().fits.loglik[:70], rtol=1e-10)
    other = fit().bootstrap(70, seed=2)
    assert np.abs(few.fits.loglik - other.fits.loglik).min() > 1e-6


def test_intervals():
    boot = booted()
    j = boot.names.index("x")
    v = boot.values[:, j]
    low, high = boot.intervals(0.9)[j]
    np.testing.assert_allclose([low, high], np.quantile(v, [0.05, 0.95]))
    np.testing.assert_allclose(boot.intervals(0.9, "basic")[j], 2 * boot.estimate[j] - np.array([high, low]))
    # a symmetric, unbiased statistic: BCa changes little; a standard deviation: it moves the interval up
    np.testing.assert_allclose(boot.intervals(0.9, "bca")[j], [low, high], atol=0.35 * (high - low))
    k = boot.names.index("sd_x|g")
    assert boot.intervals(0.9, "bca")[k, 1] > boot.intervals(0.9)[k, 1]
    assert abs(boot.se[j] / fit().se[1] - 1) < 0.1
    frame = boot.confint()
    assert list(frame["statistic"]) == list(boot.names) and frame["replicates"][0] == B


def test_bca_by_hand():
    """The formula of Efron (1987) on a statistic whose jackknife is computed by dropping groups one by one."""
    one, boot = fit(), fit().bootstrap(200, seed=3, statistic=lambda r: r.coef[1])
    data = {**one.data}
    left_out = []
    for level in np.unique(data["g"]):
        keep = data["g"] != level
        left_out.append(jaxlmm.lmm("y ~ x + (x | g)", {k: v[keep] for k, v in data.items()}, weights="w").coef[1])
    d = np.mean(left_out) - np.array(left_out)
    a = np.sum(d**3) / (6 * np.sum(d**2) ** 1.5)
    v = boot.values[:, 0]
    z0 = stats.norm.ppf(np.mean(v < one.coef[1]))
    z = z0 + stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(v, stats.norm.cdf(z0 + z / (1 - a * z)))
    np.testing.assert_allclose(boot.intervals(method="bca")[0], expected, rtol=1e-6)


@pytest.mark.slow
def test_any_function_and_several_terms():
    crossed = fit("y ~ x + (1 | g) + (1 | h)")
    boot = crossed.bootstrap(24, seed=4)
    assert boot.names == ("(Intercept)", "x", "sd_(Intercept)|g", "sd_(Intercept)|h", "sigma")
    np.testing.assert_allclose(boot.estimate[:2], crossed.coef)
    rows = crossed.refit(crossed.simulate(24, seed=4))
    np.testing.assert_allclose(boot.fits.loglik, rows.loglik, rtol=1e-10)
    two = crossed.bootstrap(24, seed=4, statistic=lambda r: [r.sigma, r.varcorr[0][0, 0]])
    np.testing.assert_allclose(two.values[:, 0], rows.sigma, rtol=1e-6)
    assert two.values.shape == (24, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fit().bootstrap(-1), "n: expected"),
        (lambda: fit().bootstrap(10, seed=0.5), "seed: expected"),
        (lambda: booted().intervals(method="student"), "method: found 'student'"),
        (lambda: booted().intervals(level=95), "level: expected"),
    ],
)
def test_misuse_gets_one_sentence(call, words):
    with pytest.raises(jaxlmm.DataError, match=words):
        call()
