"""Several responses by cbind: the fit of the data stacked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxlmm
from jaxlmm.design.several import responses_of, stacked, standardised
from jaxlmm.errors import DataError, FormulaError


def wide():
    rng = np.random.default_rng(3)
    n, g = 60, np.repeat(np.arange(12), 5)
    u = rng.normal(size=(12, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
    x, e = rng.normal(size=n), rng.normal(size=(n, 2)) @ np.array([[0.7, 0.3], [0.0, 0.5]])
    y = np.array([1.0, -2.0]) + x[:, None] * np.array([0.5, 0.1]) + u[g] + e
    y[[3, 17], 0], y[[17, 40], 1] = np.nan, np.nan
    return pd.DataFrame({"g": g, "x": x, "arm": np.where(g % 2, "a", "b"), "y1": y[:, 0], "y2": y[:, 1]})


def by_hand(data):
    long = data.assign(row=range(len(data))).melt(["row", "g", "x", "arm"], ["y1", "y2"], "trait", "value")
    return long.sample(frac=1.0, random_state=1)


def test_the_fit_is_that_of_stacked_rows_with_traits_missing_separately():
    data = wide()
    fit = jaxlmm.lmm("cbind(y1, y2) ~ x + (1 | g)", data)
    other = jaxlmm.lmm("value ~ 0 + trait + trait:x + (0 + trait | g)", by_hand(data), residual="us(trait | row)")
    assert fit.nobs == 116 and fit.coef_names == other.coef_names
    np.testing.assert_allclose(fit.loglik, other.loglik, rtol=1e-10)
    np.testing.assert_allclose(fit.coef, other.coef, rtol=1e-6)
    np.testing.assert_allclose(fit.vcov, other.vcov, rtol=1e-5)
    np.testing.assert_allclose(fit.varcorr().residual.cov, other.varcorr().residual.cov, rtol=1e-4)
    assert fit.update(". ~ . - trait:x").coef_names == fit.coef_names[:2]


@pytest.mark.slow
def test_update_takes_data_with_a_column_for_each_response(tmp_path):
    data = wide()
    jaxlmm.lmm("cbind(y1, y2) ~ x + (1 | g)", data).save(tmp_path / "fit")
    fit, other = jaxlmm.load(tmp_path / "fit"), data.assign(x=data.x**2)
    right = jaxlmm.lmm("cbind(y1, y2) ~ x + (1 | g)", other)
    for found in (fit.update(data=other), fit.update("cbind(y1, y2) ~ x + (1 | g)", data=other)):
        assert found.coef_names == right.coef_names
        np.testing.assert_allclose(found.loglik, right.loglik, rtol=1e-10)
    with pytest.raises(DataError, match=r"data: .* expected stacked rows, with the column 'trait'; or .* cbind"):
        fit.update(". ~ . - trait:x", data=other)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("cbind(y1, y2) ~ x * arm + (x || g)",
         "value ~ 0 + trait + trait:x + trait:arm + trait:x:arm + (0 + trait | g) + (0 + trait:x | g)"),
        ("cbind(log(y1), y2) ~ 0 + arm + diag(x | g)", "value ~ 0 + trait:arm + diag(0 + trait + trait:x | g)"),
        ("cbind(y1, y2) ~ x + ar1(x | g, correlation=0.5)",
         "value ~ 0 + trait + trait:x + (us(trait) @ ar1(x, correlation=0.5) | g)"),
        ("cbind(y1, y2) ~ (us(trait) @ ar1(x) | g) + (1 | g)",
         "value ~ 0 + trait + (us(trait) @ ar1(x) | g) + (0 + trait | g)"),
        ("cbind(y1, y2) ~ .", "value ~ 0 + trait + trait:g + trait:x + trait:arm"),
    ],
)  # fmt: skip
def test_every_term_is_within_traits(formula, expected):
    text, data, times = stacked(formula, responses_of(formula), wide(), ("us", "diag", "ar1"), ())
    assert text == expected and times == 2 and len(data) == 120
    if "log" in formula:
        assert data["trait"].iloc[0] == "log(y1)"
        np.testing.assert_allclose(data["value"].iloc[0], np.log(wide()["y1"].iloc[0]))


@pytest.mark.parametrize(
    ("formula", "error", "words"),
    [
        ("cbind(y1) ~ x", FormulaError, "two different responses"),
        ("cbind(y1, y1) ~ x", FormulaError, "two different responses"),
        ("cbind(y1, arm) ~ x", DataError, "column 'arm' is not numeric"),
        ("cbind(y1, y2) ~ x + ar1(0 + arm | g)", FormulaError, "no form for several responses"),
        ("cbind(y1, nothing) ~ x", DataError, "no column 'nothing'"),
        ("cbind(y1, empty) ~ x", DataError, "cbind: empty has no values"),
        ("cbind(y1, log(negative)) ~ x", DataError, "cbind: log\\(negative\\) has no values"),
    ],
)
def test_what_has_no_form_for_several_responses(formula, error, words):
    with pytest.raises(error, match=words):
        jaxlmm.lmm(formula, wide().assign(empty=np.nan, negative=-1.0))
    with pytest.raises(DataError, match="column 'row': a column of this name is made for cbind"):
        jaxlmm.lmm("cbind(y1, y2) ~ x", wide().assign(row=1))


def test_a_standardised_response_is_arithmetic():
    data = wide()
    y = data["y1"].dropna()
    text = standardised("scale(y1) ~ x + (1 | g)", data)
    assert text == f"(y1 - {float(np.mean(y))!r}) / {float(np.std(y, ddof=1))!r} ~ x + (1 | g)"
    assert standardised("center(log(x)) ~ g", pd.DataFrame({"x": [1.0, np.e, np.nan]})) == "(log(x) - 0.5) ~ g"
    assert standardised("y1 ~ scale(x)", data) == "y1 ~ scale(x)"
    with pytest.raises(DataError, match=r"response: scale\(x\) does not vary"):
        standardised("scale(x) ~ 1", pd.DataFrame({"x": [1.0, 1.0]}))


@pytest.mark.slow
def test_means_of_a_standardised_response_are_those_of_the_response():
    """Transformed back; differences are differences of the response."""
    data = wide()
    fit = jaxlmm.lmm("scale(y1) ~ arm + (1 | g)", data)
    plain = jaxlmm.lmm("y1 ~ arm + (1 | g)", data)
    for found, expected in (
        (fit.emmeans("arm", type="response"), plain.emmeans("arm")),
        (fit.emmeans("arm", type="response").pairs(), plain.emmeans("arm").pairs()),
    ):
        for name in ("estimate", "std_error", "lower", "upper", "p_value")[: 4 if "mean" in found.title else 5]:
            np.testing.assert_allclose(found.frame()[name], expected.frame()[name], rtol=1e-5)
    np.testing.assert_allclose(fit.predict(data.head(3), type="response"), plain.predict(data.head(3)), rtol=1e-6)
