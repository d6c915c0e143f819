"""What the data do not identify is empty in every table; the rest is as in the model that says it once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxlmm

pytestmark = pytest.mark.slow


def columns():
    rng = np.random.default_rng(1)
    g, visit, h = np.repeat(np.arange(20), 4), np.tile(np.arange(4), 20), rng.integers(0, 8, 80)
    x = rng.normal(size=80)
    y = 1 + 0.5 * x + 1.2 * rng.normal(size=20)[g] + rng.normal(size=8)[h] + rng.normal(size=80)
    return pd.DataFrame({"y": y, "x": x, "g": g, "visit": visit, "h": h})


@pytest.fixture(scope="module", params=[None, -0.7])
def fits(request):
    """Subjects twice, as effects and as a correlation, from two starts; and once."""
    data, start = columns(), None if request.param is None else np.array([request.param, 0.2, 0.3, 0.1])
    twice = jaxlmm.lmm("y ~ x + (1 | g) + (1 | h)", data, residual="cs(visit | g)", start=start)
    once = jaxlmm.lmm("y ~ x + (1 | h)", data, residual="cs(visit | g)")
    np.testing.assert_allclose(twice.loglik, once.loglik, rtol=1e-9)
    return twice, once


LOST = ["sd_(Intercept)|g", "variance|Residual", "correlation|Residual"]


def same_but_lost(table, other, rtol):
    names = [c for c in table.columns if table[c].dtype == float]
    key = "term" if "term" in table else "statistic"
    a, b = table.set_index(key)[names], other.set_index(key)[names]
    lost = [name for name in LOST if name in a.index]
    assert lost and a.loc[lost].isna().all(axis=None)
    rest = [name for name in a.index if name not in LOST]
    np.testing.assert_allclose(a.loc[rest], b.loc[rest], rtol=rtol)


@pytest.mark.parametrize("method", ["wald", "profile"])
def test_intervals(fits, method):
    twice, once = fits
    same_but_lost(twice.confint(method=method), once.confint(method=method), 1e-4)
    assert method == "wald" or "do not identify" in str(twice.profile(["sd_(Intercept)|g"], level=0.5))


def test_functions_have_profiles_where_they_do_not_move(fits):
    twice, once = fits
    found = twice.confint(
        method="profile",
        which={
            "g": lambda at: at.varcorr[0][0, 0],
            "total": lambda at: at.varcorr[0][0, 0] + at.residual[0, 1],
        },
    )
    other = once.confint(method="profile", which={"total": lambda at: at.residual[0, 1]})
    assert found.loc[0, ["estimate", "lower", "upper"]].isna().all()
    np.testing.assert_allclose(
        found.loc[1, "estimate":].astype(float), other.loc[0, "estimate":].astype(float), rtol=1e-3
    )


def test_bootstrap(fits):
    twice, _ = fits
    found = twice.bootstrap(40, seed=1)
    table = found.confint().set_index("statistic")
    assert table.loc["sd_(Intercept)|g", ["estimate", "std_error", "lower", "upper"]].isna().all()
    assert table.drop("sd_(Intercept)|g").notna().all(axis=None) and "do not identify" in str(found)
    assert np.isfinite(found.confint(method="bca").set_index("statistic").loc["x"]).all()
    assert found.draws().groups["posterior"]["coef"].shape[1] == found.fits.converged.sum()
    assert "where the solver started" in str(twice.bootstrap(4, statistic=lambda one: one.coef[0]))


def test_covariances_and_draws(fits):
    twice, once = fits
    V, own = twice.vcov_full(), once.vcov_full()
    keep = [0, 1, 3]
    assert np.isnan(V[[2, 4, 5]]).all() and np.isnan(V[:, [2, 4, 5]]).all()
    np.testing.assert_allclose(V[np.ix_(keep, keep)], own[:3, :3], rtol=1e-3, atol=1e-6)
    a, b = (fit.draws(2000).groups["posterior"] for fit in fits)
    for name in ("coef", "varcorr (1 | h)", "ranef h"):
        np.testing.assert_allclose(np.std(a[name], (0, 1)), np.std(b[name], (0, 1)), rtol=0.1)
    assert np.isnan(a["varcorr (1 | g)"]).all() and np.isnan(a["ranef g"]).all()
    assert [bool(np.isnan(x).all()) for x in np.moveaxis(a["theta"], -1, 0)] == [True, False, True, True]


def test_influence_prediction_and_criteria(fits):
    twice, once = fits
    a, b = (fit.influence(by="g", exact="none").frame() for fit in fits)
    moves = [name for name in a if name.startswith("change(") and "h)" not in name]
    assert len(moves) == 3 and a[moves].isna().all(axis=None)
    rest = [name for name in a if name not in [*moves, "leverage_conditional", "cooks_theta", "flagged", "status", "g"]]
    np.testing.assert_allclose(a[rest], b[rest], rtol=1e-3, atol=1e-5)
    assert np.isnan(twice.caic().value) and "do not identify" in str(twice.caic()) and np.isfinite(once.caic().value)
    assert twice.predict(se=True).std_error.isna().all()  # of means with the effects of g
    np.testing.assert_allclose(
        twice.predict(random=False, se=True).std_error, once.predict(random=False, se=True).std_error, rtol=1e-5
    )


def test_whole_subjects_may_be_missing_in_some_responses():
    """The jackknife of BCa intervals leaves them out; groups without rows were read beyond the last row."""
    data = columns()
    Y = np.stack([np.where(data.g == k, np.nan, data.y) for k in (0, 19)])
    many = jaxlmm.lmm("y ~ x + (1 | h)", data, residual="cs(visit | g)").refit(Y, missing="drop")
    for y, coef, loglik in zip(Y, many.coef, many.loglik, strict=True):
        one = jaxlmm.lmm("y ~ x + (1 | h)", data.assign(y=y), residual="cs(visit | g)")
        np.testing.assert_allclose(coef, one.coef, rtol=1e-6)
        np.testing.assert_allclose(loglik, one.loglik, rtol=1e-10)
