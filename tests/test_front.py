"""The front as users meet it: frames in and out, tables, prediction, simulation, refitting.

All tests here run in JAX's default single precision outside: the high-level calls must not care.
"""

from __future__ import annotations

import functools
import re

import jax
import numpy as np
import pytest

import jaxlmm

N = 48
FORMULA = "y ~ x + f + (x | g)"


@pytest.fixture(autouse=True)
def default_precision():
    with jax.enable_x64(False):
        yield


@functools.cache
def _columns():
    rng = np.random.default_rng(2)
    x = np.round(rng.normal(size=N), 3)
    codes = np.repeat(np.arange(8), 6)
    f = np.tile(np.array(["low", "mid", "high"]), 16)
    b = rng.normal(size=(8, 2)) * [1.5, 0.8]
    y = 1 + x + (f == "mid") + b[codes, 0] + b[codes, 1] * x + rng.normal(size=N)
    return {"y": y, "x": x, "f": f, "g": np.array(list("abcdefgh"))[codes]}


def columns():
    return {k: v.copy() for k, v in _columns().items()}


def pandas_frame(data):
    return pytest.importorskip("pandas").DataFrame(data)


def polars_frame(data):
    return pytest.importorskip("polars").DataFrame(data)


MAKERS = {"dict": dict, "pandas": pandas_frame, "polars": polars_frame}


@functools.cache
def fit_from(kind):
    return jaxlmm.lmm(FORMULA, MAKERS[kind](columns()))


@functools.cache
def fit():
    return fit_from("pandas")


def column(frame, name):
    """One column of any of the three kinds of frame."""
    return np.asarray(frame[name])


def names_of(frame):
    return list(frame) if isinstance(frame, dict) else list(frame.columns)


def is_kind(frame, kind):
    if kind == "dict":
        return isinstance(frame, dict)
    return type(frame).__module__.split(".")[0] == kind


# ---------------------------------------------------------------------------- frames in and out


@pytest.mark.parametrize("kind", ["dict", "polars"])
def test_every_kind_of_frame_gives_the_same_fit(kind):
    other, expected = fit_from(kind), fit()
    assert other.loglik == pytest.approx(expected.loglik, abs=1e-9)
    np.testing.assert_allclose(other.coef, expected.coef, rtol=1e-9)
    np.testing.assert_allclose(other.theta, expected.theta, rtol=1e-7, atol=1e-8)
    assert other.coef_names == expected.coef_names


@pytest.mark.parametrize("kind", MAKERS)
def test_tables_come_back_in_the_callers_library(kind):
    f = fit_from(kind)
    for table in (f.tidy(), f.glance(), f.augment(), f.varcorr().frame(), f.ranef()["g"].frame()):
        assert is_kind(table, kind)


def test_lists_in_a_dict_and_integer_columns():
    lists = {k: v.tolist() for k, v in columns().items()}
    assert jaxlmm.lmm(FORMULA, lists).loglik == pytest.approx(fit().loglik, abs=1e-9)


def test_results_are_numpy_in_double_precision():
    for value in (
        fit().coef,
        fit().se,
        fit().vcov,
        fit().theta,
        fit().fitted,
        fit().residuals(),
        fit().predict(),
    ):
        assert isinstance(value, np.ndarray)
        assert value.dtype == np.float64
    for value in (fit().loglik, fit().sigma, fit().aic, fit().bic):
        assert isinstance(value, float)
    assert isinstance(fit().nobs, int)
    assert isinstance(fit().converged, bool)
    assert isinstance(fit().singular, bool)


def test_the_data_are_not_changed():
    frame = pandas_frame(columns())
    copy = frame.copy()
    jaxlmm.lmm(FORMULA, frame)
    assert frame.equals(copy)


# ---------------------------------------------------------------------------- what a fit says


def test_dimensions_and_criteria():
    f = fit()
    assert [n.replace("T.", "") for n in f.coef_names] == ["(Intercept)", "x", "f[low]", "f[mid]"]
    assert (f.nobs, f.npar) == (N, 4 + 4)
    assert f.df_resid == N - 8
    assert f.aic == pytest.approx(-2 * f.loglik + 2 * 8)
    assert f.bic == pytest.approx(-2 * f.loglik + np.log(N) * 8)
    np.testing.assert_allclose(f.se, np.sqrt(np.diag(f.vcov)), rtol=1e-12)
    assert f.theta.shape == (4,)
    assert f.theta[-1] == pytest.approx(np.log(f.sigma), abs=1e-10)
    assert f.method == "REML"
    assert str(f.status).lower().endswith("converged")


def test_varcorr():
    (g,) = fit().varcorr().groups
    assert (g.group, tuple(g.columns)) == ("g", ("(Intercept)", "x"))
    np.testing.assert_allclose(g.cov, np.outer(g.sd, g.sd) * g.corr, rtol=1e-10)
    l11, l21, l22 = fit().theta[:3]
    L = np.array([[np.exp(l11), 0], [l21, np.exp(l22)]])
    np.testing.assert_allclose(g.cov, L @ L.T, rtol=1e-9)
    text = str(fit().varcorr())
    assert re.search(r"Groups\s+Name\s+.*Std\.\s?Dev", text)
    assert "Residual" in text


def test_bars_without_correlations():
    f = jaxlmm.lmm("y ~ x + f + (x || g)", columns())
    assert [tuple(g.columns) for g in f.varcorr().groups] == [("(Intercept)",), ("x",)]
    assert tuple(f.ranef()["g"].columns) == ("(Intercept)", "x")
    assert f.ranef()["g"].condvar.shape == (8, 2, 2)
    by_hand = jaxlmm.lmm("y ~ x + f + (1 | g) + (0 + x | g)", columns())
    assert by_hand.loglik == pytest.approx(f.loglik, abs=1e-8)
    diagonal = jaxlmm.lmm("y ~ x + f + diag(1 + x | g)", columns())
    assert diagonal.loglik == pytest.approx(f.loglik, abs=1e-8)


def test_a_factor_stays_together_in_a_double_bar():
    """As in lme4: (f || g) is (1 | g) + (0 + f | g), with the factor's effects correlated."""
    data = columns() | {"h": np.where(np.arange(N) % 2, "u", "v")}
    f = jaxlmm.lmm("y ~ x + (h || g)", data)
    assert [tuple(g.columns) for g in f.varcorr().groups] == [("(Intercept)",), ("h[u]", "h[v]")]


def test_weights_by_column_and_by_array_and_offset_in_the_formula():
    w = np.linspace(0.5, 2, N)
    by_name = jaxlmm.lmm(FORMULA, columns() | {"w": w}, weights="w")
    by_array = jaxlmm.lmm(FORMULA, columns(), weights=w)
    assert by_name.loglik == pytest.approx(by_array.loglik, abs=1e-10)
    assert by_name.loglik != pytest.approx(fit().loglik, abs=1e-3)
    o = {"o": np.linspace(0, 3, N)}
    in_formula = jaxlmm.lmm("y ~ x + f + offset(o) + (x | g)", columns() | o)
    as_argument = jaxlmm.lmm(FORMULA, columns() | o, offset="o")
    moved = jaxlmm.lmm(FORMULA, columns() | {"y": columns()["y"] - o["o"]})
    assert in_formula.loglik == pytest.approx(moved.loglik, abs=1e-8)
    assert as_argument.loglik == pytest.approx(moved.loglik, abs=1e-8)
    np.testing.assert_allclose(in_formula.fitted, moved.fitted + o["o"], atol=1e-6)


def test_residuals():
    f = jaxlmm.lmm(FORMULA, columns(), weights=np.linspace(0.5, 2, N))
    np.testing.assert_allclose(f.fitted + f.residuals("response"), columns()["y"], atol=1e-10)
    np.testing.assert_allclose(
        f.residuals("pearson") * f.sigma, f.residuals() * np.sqrt(np.linspace(0.5, 2, N)), atol=1e-10
    )


# ---------------------------------------------------------------------------- missing rows, rank


@pytest.mark.parametrize("kind", MAKERS)
def test_rows_with_missing_values_are_dropped_and_counted(kind):
    data = columns()
    data["y"][3], data["x"][10] = np.nan, np.nan
    data["g"] = data["g"].astype(object)
    data["g"][20] = None
    data["unused"] = np.full(N, np.nan)
    keep = np.setdiff1d(np.arange(N), [3, 10, 20])
    made = MAKERS[kind]({k: v.tolist() if v.dtype == object else v for k, v in data.items()})
    found = jaxlmm.lmm(FORMULA, made)
    complete = jaxlmm.lmm(FORMULA, {k: v[keep] for k, v in columns().items()})
    assert found.nobs == N - 3
    assert found.loglik == pytest.approx(complete.loglik, abs=1e-8)
    text = str(found.summary())
    assert re.search(r"\b3\b[^\n]*(missing|dropped)|(missing|dropped)[^\n]*\b3\b", text)


def test_redundant_columns_are_dropped_and_named():
    data = columns() | {"twice": 2 * columns()["x"] + 1}
    found = jaxlmm.lmm("y ~ x + twice + f + (x | g)", data)
    assert found.coef_names == fit().coef_names
    assert found.loglik == pytest.approx(fit().loglik, abs=1e-8)
    assert "twice" in str(found.summary())
    np.testing.assert_allclose(found.predict(data), found.fitted, atol=1e-9)


# ---------------------------------------------------------------------------- summary and tables


def test_summary_reads_like_lme4():
    text = str(fit().summary())
    for words in (
        "REML",
        FORMULA,
        "Random effects",
        "Groups",
        "Name",
        "Variance",
        "Corr",
        "Residual",
        "Fixed effects",
        "Estimate",
        "t value",
        "Number of obs: 48",
        "AIC",
        "BIC",
    ):
        assert words in text, words
    assert re.search(r"Std\.\s?Dev", text)
    assert re.search(r"Std\.\s?Error", text)
    assert re.search(r"groups:\s+g,\s+8", text)
    assert re.search(r"log-?\s?lik", text, re.IGNORECASE)
    assert re.search(r"converge", text, re.IGNORECASE)
    row = next(line for line in text.split("\n") if line.startswith("(Intercept)"))
    estimate, se, _, t, _ = (float(v) for v in row.split()[1:6])
    assert estimate == pytest.approx(fit().coef[0], rel=1e-3)
    assert se == pytest.approx(fit().se[0], rel=1e-3)
    assert t == pytest.approx(fit().coef[0] / fit().se[0], rel=1e-2)
    assert max(map(len, text.split("\n"))) <= 100
    assert "nan" not in text.lower()


def test_html_is_escaped_and_complete():
    html = fit().summary()._repr_html_()
    assert "<table" in html
    assert "(Intercept)" in html
    assert html.count("<table") == html.count("</table>")
    odd = columns()
    odd["g"] = np.char.add("<b>", odd["g"])
    text = jaxlmm.lmm("y ~ x + C(f) + (1 | g)", odd).summary()._repr_html_()
    assert "<b>a" not in text
    assert "<b>" not in fit()._repr_html_().replace("<body", "") or "<script" not in fit()._repr_html_()


def test_repr_is_short_enough_to_print():
    assert "y ~ x" in repr(fit()) or "y ~ x" in str(fit())
    assert len(repr(fit())) < 4000


@pytest.mark.parametrize("kind", MAKERS)
def test_tidy(kind):
    table = fit_from(kind).tidy()
    names = names_of(table)
    for name in ("term", "estimate", "std_error", "statistic"):
        assert name in names
    terms = list(column(table, "term"))
    where = [terms.index(n) for n in fit().coef_names]
    np.testing.assert_allclose(column(table, "estimate")[where].astype(float), fit().coef, rtol=1e-9)
    np.testing.assert_allclose(column(table, "std_error")[where].astype(float), fit().se, rtol=1e-9)
    statistic = column(table, "statistic")[where].astype(float)
    np.testing.assert_allclose(statistic, fit().coef / fit().se, rtol=1e-9)


@pytest.mark.parametrize("kind", MAKERS)
def test_glance(kind):
    table = fit_from(kind).glance()
    expected = {"nobs": N, "sigma": fit().sigma, "loglik": fit().loglik, "aic": fit().aic, "bic": fit().bic}
    for name, value in expected.items():
        assert len(column(table, name)) == 1
        assert float(column(table, name)[0]) == pytest.approx(value)


@pytest.mark.parametrize("kind", MAKERS)
def test_augment(kind):
    table = fit_from(kind).augment()
    for name in columns():
        assert list(column(table, name)) == list(columns()[name])
    added = [n for n in names_of(table) if n not in columns()]
    fitted, resid = (next(n for n in added if n.lstrip(".").startswith(w)) for w in ("fitted", "resid"))
    np.testing.assert_allclose(column(table, fitted), fit().fitted, atol=1e-9)
    np.testing.assert_allclose(column(table, resid), fit().residuals(), atol=1e-9)


def test_augment_leaves_out_dropped_rows():
    data = columns()
    data["y"][3] = np.nan
    table = jaxlmm.lmm(FORMULA, pandas_frame(data)).augment()
    assert len(table) == N - 1
    np.testing.assert_allclose(table["x"], np.delete(data["x"], 3))


# ---------------------------------------------------------------------------- prediction


@pytest.mark.parametrize("kind", MAKERS)
def test_predicting_the_data_gives_the_fitted_values(kind):
    f = fit_from(kind)
    data = MAKERS[kind](columns())
    np.testing.assert_allclose(f.predict(data), f.fitted, atol=1e-9)
    np.testing.assert_allclose(f.predict(), f.fitted, atol=1e-12)
    rows = MAKERS[kind]({k: v[5:9] for k, v in columns().items() if k != "y"})
    np.testing.assert_allclose(f.predict(rows), f.fitted[5:9], atol=1e-9)


def test_prediction_without_random_effects_and_for_new_levels():
    f = fit()
    new = {"x": np.array([0.5, 0.5]), "f": np.array(["mid", "mid"]), "g": np.array(["a", "never"])}
    names = [n.replace("T.", "") for n in f.coef_names]
    mean = f.coef[0] + 0.5 * f.coef[1] + f.coef[names.index("f[mid]")]
    np.testing.assert_allclose(f.predict(new, random=False), [mean, mean], rtol=1e-9)
    b = f.ranef()["g"].values[0]
    np.testing.assert_allclose(f.predict(new, allow_new_levels=True), [mean + b[0] + 0.5 * b[1], mean], rtol=1e-9)
    del new["g"]
    np.testing.assert_allclose(f.predict(new, random=False), [mean, mean], rtol=1e-9)


def test_stateful_transforms_remember_the_training_data():
    f = jaxlmm.lmm("y ~ poly(x, 2) + f + (1 | g)", columns())
    few = {k: v[:3] for k, v in columns().items()}
    np.testing.assert_allclose(f.predict(few), f.fitted[:3], atol=1e-8)


def test_prediction_with_an_offset():
    data = columns() | {"o": np.linspace(0, 3, N)}
    f = jaxlmm.lmm("y ~ x + f + offset(o) + (x | g)", data)
    np.testing.assert_allclose(f.predict({k: v[:4] for k, v in data.items()}), f.fitted[:4], atol=1e-9)


# ---------------------------------------------------------------------------- simulation and refitting


def test_simulation_has_the_model_s_moments():
    """Mean X beta and covariance V, by 4000 draws within five standard errors."""
    f = fit()
    draws = f.simulate(4000, seed=1)
    assert draws.shape == (4000, N)
    assert isinstance(draws, np.ndarray)
    assert draws.dtype == np.float64
    x, g = columns()["x"], columns()["g"]
    G = f.varcorr().groups[0].cov
    Z = np.column_stack([np.ones(N), x])
    V = np.where(g[:, None] == g[None, :], Z @ G @ Z.T, 0) + f.sigma**2 * np.eye(N)
    sd = np.sqrt(np.diag(V))
    assert np.max(np.abs(draws.mean(0) - f.predict(random=False)) / sd) < 5 / np.sqrt(4000)
    error = (np.cov(draws.T) - V) / np.outer(sd, sd)
    assert np.max(np.abs(error)) < 5 * np.sqrt(2 / 4000)


def test_simulation_is_reproducible():
    np.testing.assert_array_equal(fit().simulate(3, seed=7), fit().simulate(3, seed=7))
    assert not np.array_equal(fit().simulate(3, seed=7), fit().simulate(3, seed=8))
    np.testing.assert_array_equal(fit_from("dict").simulate(2, seed=7).shape, (2, N))


def test_weights_enter_the_simulation():
    w = np.where(np.arange(N) % 2, 100.0, 1.0)
    f = jaxlmm.lmm("y ~ x + (1 | g)", columns(), weights=w)
    draws = f.simulate(2000, seed=3)
    variance = f.varcorr().groups[0].cov[0, 0] + f.sigma**2 / w
    np.testing.assert_allclose(draws.var(0), variance, rtol=0.25)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_refit_is_a_fit_of_the_new_response(method):
    f = jaxlmm.lmm(FORMULA, columns(), method=method)
    y = f.simulate(1, seed=5)[0]
    again, fresh = f.refit(y), jaxlmm.lmm(FORMULA, columns() | {"y": y}, method=method)
    assert again.loglik == pytest.approx(fresh.loglik, abs=1e-8)
    np.testing.assert_allclose(again.coef, fresh.coef, atol=1e-6)
    np.testing.assert_allclose(again.fitted, fresh.fitted, atol=1e-5)
    assert again.method == method
    assert again.coef_names == f.coef_names
    assert f.loglik == pytest.approx(jaxlmm.lmm(FORMULA, columns(), method=method).loglik, abs=1e-10)
    same = f.refit(columns()["y"])
    assert same.loglik == pytest.approx(f.loglik, abs=1e-8)


# ---------------------------------------------------------------------------- process-wide promises


def test_threads_fit_side_by_side():
    """The precision scope is thread-local: fits in worker threads are double precision too."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        logliks = list(pool.map(lambda _: jaxlmm.lmm(FORMULA, columns()).loglik, range(4)))
    np.testing.assert_allclose(logliks, fit().loglik, atol=1e-9)
