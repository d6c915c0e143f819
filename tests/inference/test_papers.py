"""Tables and sentences for papers."""

from __future__ import annotations

import numpy as np
import pytest

import jaxlmm
from jaxlmm.errors import DataError


@pytest.fixture(scope="module")
def data():
    return jaxlmm.datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def fits(data):
    large = jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", data)
    return jaxlmm.lmm("Reaction ~ 1 + (1 | Subject)", data), large


def test_fits_side_by_side(fits):
    found = jaxlmm.side_by_side(*fits, names=["null", "slopes"], df="asymptotic")
    frame = found.frame().set_index(["block", "term"])
    assert np.isnan(frame.loc[("Coefficients", "Days"), "null"])
    np.testing.assert_allclose(frame.loc[("Coefficients", "Days"), ["slopes", "se(slopes)"]].astype(float),
                               [fits[1].coef[1], fits[1].se[1]])  # fmt: skip
    np.testing.assert_allclose(frame.loc[("SD and correlations", "Residual"), ["null", "slopes"]].astype(float),
                               [f.sigma for f in fits])  # fmt: skip
    assert frame.loc[("Criteria", "observations"), "slopes"] == 180
    text = str(found)
    assert "10.47 (1.55), p = 1.26e-11" in text or "10.47 (1.55), p" in text
    assert "slopes: Reaction ~ Days + (Days | Subject), REML" in text
    assert "tests: robust covariance CR0, 18 clusters" in str(jaxlmm.side_by_side(*fits, df="asymptotic", robust="CR0"))
    assert "\\toprule" in found.latex() and "| Days |" in found.markdown().replace("|   Days", "| Days")
    with pytest.raises(DataError, match="names: expected 2 different ones"):
        jaxlmm.side_by_side(*fits, names=["a", "a"])
    with pytest.raises(DataError, match="side_by_side: expected fits"):
        jaxlmm.side_by_side()


def test_variance_inflation_is_that_of_least_squares(data):
    """1 / (1 - R^2) of each covariate given the others; of a factor by determinants (Fox & Monette 1992)."""
    rng = np.random.default_rng(0)
    f = np.array(["a", "b", "c"])[rng.integers(0, 3, 180)]
    x = rng.normal(size=180) + (f == "b")
    z = 0.6 * x + rng.normal(size=180)
    fit = jaxlmm.lmm("Reaction ~ x + z + f", data.assign(x=x, z=z, f=f), residual="iid()")
    found = fit.vif()
    X = fit.model.X
    names = list(fit.coef_names)
    j = names.index("z")
    others = np.delete(X, j, axis=1)
    rest = X[:, j] - others @ np.linalg.lstsq(others, X[:, j], rcond=None)[0]
    expected = np.sum((X[:, j] - X[:, j].mean()) ** 2) / np.sum(rest**2)
    np.testing.assert_allclose(found["gvif"][1], expected, rtol=1e-8)
    assert list(found["term"]) == ["x", "z", "f"] and list(found["df"]) == [1, 1, 2]
    C = np.corrcoef(X[:, 1:].T)
    own, rest = [2, 3], [0, 1]
    det = np.linalg.det
    np.testing.assert_allclose(
        found["gvif"][2], det(C[np.ix_(own, own)]) * det(C[np.ix_(rest, rest)]) / det(C), rtol=1e-8
    )
    np.testing.assert_allclose(found["per_df"][2], found["gvif"][2] ** 0.25)


def test_correlations_of_coefficients(fits):
    """lme4: Correlation of Fixed Effects, Days with (Intercept) -0.138."""
    found = fits[1].correlation()
    assert found["(Intercept)"][1] == pytest.approx(-0.138, abs=5e-4) and found["Days"][1] == pytest.approx(1.0)
    with pytest.raises(DataError, match="vif: expected at least two terms"):
        fits[1].vif()


def test_a_report_names_every_option(data):
    rng = np.random.default_rng(1)
    more = data.assign(w=rng.uniform(1, 2, 180), o=1.0, visit=np.tile(np.arange(10), 18))
    more.loc[5, "Reaction"] = np.nan
    fit = jaxlmm.lmm(
        "Reaction ~ Days + offset(o) + (1 | Subject)", more, method="ML", weights="w", residual="ar1(visit | Subject)",
        variance="exp(Days)",
    )  # fmt: skip
    text = fit.report(df="residual")
    for words in (
        "by maximum likelihood to 179 observations", "18 levels of Subject", "1 of 180 rows were left out",
        "an intercept and Days", "(1 | Subject)", "ar1(visit | Subject)", "exp(Days)", "weighted w", "An offset",
        "by Residual",
    ):  # fmt: skip
        assert words in text, words
    plain = jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", data).report()
    assert "restricted maximum likelihood" in plain and "Residuals were independent." in plain
    assert "Satterthwaite, observed information" in plain and "weighted" not in plain and "left out" not in plain
