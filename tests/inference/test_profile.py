"""Profile likelihood and confidence intervals: lme4's, dense constrained optimisation, closed forms, the boundary."""

from __future__ import annotations

import functools
import re

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

import jaxlmm
import oracle
from cases import load_case, load_data, some
from jaxlmm.errors import DataError
from test_references import fitted, plain

Z95 = stats.norm.ppf(0.975)
TARGET = Z95**2

# lme4 1.1-31: confint(lmer(..., REML = FALSE), oldNames = FALSE), which profiles the ML criterion of REML fits too
DYESTUFF2 = {  # Yield ~ 1 + (1 | Batch), Dyestuff2, a variance of zero
    "sd_(Intercept)|Batch": (0.0, 2.084043489),
    "sigma": (2.892831020, 4.815832552),
    "(Intercept)": (4.312100217, 7.019092347),
}
ORTHODONT = {  # distance ~ age * Sex + (age | Subject): the correlation can be anything
    "sd_(Intercept)|Subject": (None, 4.14817573911),  # lme4's 0.00126677 by interpolation
    "sd_age|Subject": (0.0, 0.33856304958),
    "cor_age.(Intercept)|Subject": (-1.0, 1.0),
    "sigma": (1.09703145900, 1.58849610509),
    "(Intercept)": (14.34930909921, 18.33194091281),
    "age": (0.61623869109, 0.95251130665),
}
PENICILLIN = {  # diameter ~ 1 + (1 | plate) + (1 | sample)
    "sd_(Intercept)|plate": (0.6335659669, 1.1821039914),
    "sd_(Intercept)|sample": (1.0957891882, 3.5562916368),
    "sigma": (0.4858454002, 0.6294534785),
    "(Intercept)": (21.2666273836, 24.6778176162),
}


def ml_fit(name):
    case = load_case(name)
    return jaxlmm.lmm(case["formula"], load_data(case), method="ML")


@functools.cache
def sleepstudy():
    return fitted("sleepstudy_reml")[1]


def check(profile, expected, rtol):
    for name, limits in expected.items():
        found = profile[name].interval()
        for value, limit in zip(found, limits, strict=True):
            if limit is not None:
                assert value == pytest.approx(limit, rel=rtol, abs=1e-9), name


@pytest.mark.parametrize("name", some(["sleepstudy_ml", "dyestuff_ml"], "sleepstudy_ml"))
def test_recorded_intervals(name):
    case, fit = fitted(name)
    frame = fit.confint(method="profile")
    assert list(frame.columns) == ["term", "estimate", "lower", "upper"]
    found = {plain(row.term): (row.lower, row.upper) for row in frame.itertuples()}
    assert set(found) == set(case["confint_profile_95"])
    for term, limits in case["confint_profile_95"].items():
        np.testing.assert_allclose(found[term], limits, rtol=1e-3)


def test_lme4_with_a_variance_of_zero():
    check(fitted("dyestuff2_singular_ml")[1].profile(level=0.95), DYESTUFF2, 1e-3)


@pytest.mark.slow
def test_lme4_with_ends_of_the_parameter_space():
    profile = fitted("orthodont_slope_ml")[1].profile(level=0.95)
    check(profile, ORTHODONT, 1e-3)
    assert profile["sd_age|Subject"].lower_end == "bound"


@pytest.mark.slow
def test_lme4_with_crossed_factors():
    check(ml_fit("penicillin_crossed_reml").profile(level=0.95), PENICILLIN, 1e-3)


def test_coefficients_of_reml_fits_are_profiled_by_ml():
    case, fit = fitted("sleepstudy_ml")
    profile = sleepstudy().profile("coef", level=0.95)
    assert {curve.criterion for curve in profile.curves} == {"ML"}
    np.testing.assert_allclose(profile.intervals(), fit.profile("coef", level=0.95).intervals(), rtol=1e-6)
    assert list(sleepstudy().confint(method="profile", which="coef").estimate) == list(sleepstudy().coef)


# -- dense: the criterion minimised by a general optimiser with the quantity held at the limit


def balanced(fit, subjects, V, reml):
    """-2 log-likelihood of subjects one after the other, all with the covariance V."""
    y, X = fit.model.y.reshape(subjects, -1), fit.model.X.reshape(subjects, len(V), -1)
    sign, logdet = np.linalg.slogdet(V)
    if sign <= 0:
        return np.inf
    W = np.linalg.inv(V)
    A, a = np.einsum("gip,ij,gjq->pq", X, W, X), np.einsum("gip,ij,gj->p", X, W, y)
    r = y - X @ np.linalg.solve(A, a)
    n, p = y.size, len(a)
    value = subjects * logdet + np.einsum("gi,ij,gj->", r, W, r)
    return (n - p) * oracle.LOG_2PI + value + np.linalg.slogdet(A)[1] if reml else n * oracle.LOG_2PI + value


def random_slopes(fit):
    """-2 restricted log-likelihood of (sd, sd, correlation, sigma)."""
    Z = np.column_stack([np.ones(10), np.arange(10.0)])

    def deviance(v):
        a, b, r, sigma = v
        G = np.array([[a * a, r * a * b], [r * a * b, b * b]])
        return balanced(fit, 18, Z @ G @ Z.T + sigma**2 * np.eye(10), True)

    return deviance


def least(deviance, start, j, value):
    """The criterion with entry j of its argument held."""
    others = [i for i in range(len(start)) if i != j]

    def held(u):
        v = np.empty(len(start))
        v[others], v[j] = u * np.asarray(start)[others], value
        return deviance(v)

    options = {"xatol": 1e-7, "fatol": 1e-9, "maxfev": 4000}
    return optimize.minimize(held, np.ones(len(others)), method="Nelder-Mead", options=options).fun


@pytest.mark.parametrize("name", ["sd_Days|Subject", "cor_Days.(Intercept)|Subject", "sigma"])
def test_restricted_profile_against_a_dense_one(name):
    fit = sleepstudy()
    profile = fit.profile("covariance", level=0.95)
    order = ["sd_(Intercept)|Subject", "sd_Days|Subject", "cor_Days.(Intercept)|Subject", "sigma"]
    start, deviance = [profile[n].estimate for n in order], random_slopes(fit)
    assert deviance(start) == pytest.approx(-2 * fit.loglik, abs=1e-6)
    for limit in profile[name].interval():
        rise = least(deviance, start, order.index(name), limit) + 2 * fit.loglik
        assert rise == pytest.approx(TARGET, abs=1e-4)


@functools.cache
def orthodont(structure, method="REML"):
    data = load_data("orthodont_ar1_reml").assign(visit=lambda d: d.age.astype(int) // 2)  # 4, ..., 7
    return jaxlmm.lmm("distance ~ age", data, residual=f"{structure}(visit | Subject)", method=method)


LAGS = np.abs(np.arange(4)[:, None] - np.arange(4))


@pytest.mark.parametrize(
    ("structure", "correlation"),
    [
        ("ar1", lambda v: v[0] ** LAGS),
        pytest.param("toep", lambda v: np.append(1.0, v)[LAGS], marks=pytest.mark.slow),
    ],
)
def test_residual_structures_against_dense_profiles(structure, correlation):
    """Parameters that are coordinates of the solver (ar1) and some that are functions of several (toep)."""
    fit = orthodont(structure)
    profile = fit.profile("covariance", level=0.95)
    start = [curve.estimate for curve in profile.curves]

    def deviance(v):
        return balanced(fit, 27, v[0] * correlation(v[1:]), True)

    np.testing.assert_allclose(start, list(fit.parameters()["estimate"]), rtol=1e-8)
    for j in (0, len(start) - 1):
        for limit in profile.curves[j].interval():
            rise = least(deviance, start, j, limit) + 2 * fit.loglik
            assert rise == pytest.approx(TARGET, abs=1e-4)


def test_a_coefficient_beside_a_residual_structure():
    """By refits to y less the column times the limit, without the column."""
    fit = orthodont("ar1", "ML")
    for limit in fit.profile("age", level=0.95)["age"].interval():
        held = jaxlmm.lmm(
            "rest ~ 1",
            fit.data.assign(rest=lambda d, x=limit: d.distance - x * d.age),
            residual="ar1(visit | Subject)",
            method="ML",
        )
        assert 2 * (fit.loglik - held.loglik) == pytest.approx(TARGET, abs=1e-5)


@pytest.mark.slow
def test_an_unstructured_residual():
    """By permuting levels: the standard deviation of the last visit is no special case."""
    fit = orthodont("us")
    turned = jaxlmm.lmm("distance ~ age", fit.data.assign(visit=lambda d: -d.visit), residual="us(visit | Subject)")
    names = [f"sd_{i}|Residual" for i in fit.frame.residual.columns]
    mirrored = [f"sd_{i}|Residual" for i in turned.frame.residual.columns][::-1]
    found = fit.profile(names, level=0.95).intervals()
    np.testing.assert_allclose(found, [turned.profile(mirrored, level=0.95)[n].interval() for n in mirrored], rtol=1e-6)


# -- functions of the parameters


def icc(at):
    return at.varcorr[0][0, 0] / (at.varcorr[0][0, 0] + at.sigma**2)


@pytest.mark.slow
def test_functions_that_are_parameters_have_their_intervals():
    fit = sleepstudy()
    same = {
        "sd": lambda at: jnp.sqrt(at.varcorr[0][1, 1]),
        "sigma2": lambda at: at.residual[0, 0],
        "variance": lambda at: at.structures[0].covariance[0, 0],
    }
    limits = fit.profile(same, level=0.95).intervals()
    expected = fit.profile("covariance", level=0.95)
    np.testing.assert_allclose(limits[0], expected["sd_Days|Subject"].interval(), rtol=1e-6)
    np.testing.assert_allclose(limits[1], np.square(expected["sigma"].interval()), rtol=1e-6)
    np.testing.assert_allclose(limits[2], np.square(expected["sd_(Intercept)|Subject"].interval()), rtol=1e-6)


def one_way(values):
    """-2 restricted log-likelihood of a balanced one-way layout (k, m), in (variance between, variance within)."""
    k, m = values.shape
    within = np.sum((values - values.mean(1, keepdims=True)) ** 2)
    between = m * np.sum((values.mean(1) - values.mean()) ** 2)

    def deviance(b, w):
        total = w + m * b
        det = (k - 1) * np.log(total) + k * (m - 1) * np.log(w)
        return det + between / total + within / w

    return deviance


@pytest.mark.parametrize("name", some(["dyestuff_reml", "dyestuff2_singular_reml"], "dyestuff2_singular_reml"))
def test_the_intraclass_correlation_by_its_closed_form(name):
    case, fit = fitted(name)
    data = load_data(case)
    deviance = one_way(np.array([g.Yield.to_numpy() for _, g in data.groupby("Batch", observed=True)]))

    def least_at(rho):  # over the total variance
        return optimize.minimize_scalar(
            lambda u: deviance(rho * np.exp(u), (1 - rho) * np.exp(u)), bounds=(0, 12), method="bounded",
            options={"xatol": 1e-10},
        ).fun  # fmt: skip

    curve = fit.profile(icc, level=0.95).curves[0]
    assert curve.name == "icc"
    lower, upper = curve.interval()
    best = least_at(curve.estimate)
    assert least_at(upper) - best == pytest.approx(TARGET, abs=1e-4)
    if fit.singular:
        assert (lower, curve.lower_end) == (pytest.approx(0.0, abs=1e-9), "extreme")
    else:
        assert least_at(lower) - best == pytest.approx(TARGET, abs=1e-4)


def test_a_function_of_coefficients():
    """A ratio of coefficients by Fieller's argument: the profile of c is that of the coefficient c' beta = 0."""
    case, fit = fitted("sleepstudy_ml")
    lower, upper = fit.profile({"ratio": lambda at: at.coef[0] / at.coef[1]}, level=0.95)["ratio"].interval()
    data = load_data(case)
    for ratio in (lower, upper):
        held = jaxlmm.lmm("Reaction ~ 0 + both + (Days | Subject)", data.assign(both=data.Days + ratio), method="ML")
        assert 2 * (fit.loglik - held.loglik) == pytest.approx(TARGET, abs=1e-5)


# -- curves


def test_curves_are_signed_roots_of_the_deviance():
    fit = sleepstudy()
    profile = fit.profile(["sigma", "sd_Days|Subject"], level=0.99)
    for curve in profile.curves:
        assert np.all(np.diff(curve.value) > 0)
        assert np.all(np.diff(curve.zeta) > 0)
        assert curve.zeta[[0, -1]] == pytest.approx([-2.5758293, 2.5758293], abs=1e-5)
    start, deviance = list(fit.varcorr().groups[0].sd), random_slopes(fit)
    start = [*start, fit.varcorr().groups[0].corr[1, 0], fit.sigma]
    curve = profile["sigma"]
    i = 3
    assert least(deviance, start, 3, curve.value[i]) + 2 * fit.loglik == pytest.approx(curve.zeta[i] ** 2, abs=1e-4)
    frame = profile.frame()
    assert list(frame.columns) == ["term", "criterion", "value", "zeta"]
    assert len(frame) == sum(len(c.value) for c in profile.curves)


@pytest.mark.slow
def test_intervals_between_the_nodes_of_curves_are_exact_to_five_digits():
    fit = sleepstudy()
    curves = fit.profile("covariance")
    for level in (0.6, 0.85, 0.975):
        exact = fit.confint(level, method="profile", which="covariance")
        np.testing.assert_allclose(curves.intervals(level), exact[["lower", "upper"]], rtol=2e-5, atol=2e-5)


def test_no_limits_beyond_what_was_profiled():
    profile = sleepstudy().profile("sigma", level=0.9)
    assert np.isnan(profile.intervals(0.95)).all()
    assert not np.isnan(profile.intervals(0.9)).any()


def test_a_correlation_beside_a_variance_of_zero_can_be_anything():
    rng = np.random.default_rng(3)
    group, x = np.repeat(np.arange(8), 4), np.tile(np.arange(4.0), 8)
    y = np.repeat(rng.normal(size=8), 4) + rng.normal(size=32)
    y = y - np.tile(y.reshape(8, 4).mean(0), 8) + x  # slopes have less variation than errors alone would give
    fit = jaxlmm.lmm("y ~ x + (x | g)", {"y": y, "x": x, "g": group.astype(str)})
    assert fit.singular
    curve = fit.profile("cor_x.(Intercept)|g", level=0.95).curves[0]
    assert curve.interval() == (-1.0, 1.0)


def test_printed_and_plotted():
    pytest.importorskip("matplotlib")
    profile = sleepstudy().profile(["sigma", "Days"], level=0.96)
    assert "sigma REML" in " ".join(str(profile).split())
    assert "Days ML" in " ".join(str(profile).split())
    assert "<table" in profile._repr_html_()
    panels = profile.plot()
    assert [axes.get_xlabel() for axes in panels] == ["sigma", "Days"]


# -- the other methods of confint, and errors


def test_wald_intervals():
    fit = sleepstudy()
    frame = fit.confint(0.9)
    by_name = {row.term: (row.estimate, row.lower, row.upper) for row in frame.itertuples()}
    wald = fit.wald("satterthwaite")
    limits = wald.interval(wald.rows(np.eye(2)), 0.9)
    np.testing.assert_allclose([by_name["(Intercept)"][1:], by_name["Days"][1:]], limits)
    found = fit.varcorr().frame(0.9)
    names = ["sd_(Intercept)|Subject", "sd_Days|Subject", "cor_Days.(Intercept)|Subject", "sigma"]
    expected = found[["sd_or_corr", "lower", "upper"]].to_numpy()
    np.testing.assert_allclose([by_name[name] for name in names], expected, rtol=1e-10)


def test_wald_intervals_of_structures_and_functions():
    fit = orthodont("ar1")
    rows = fit.confint(which="covariance")
    parameters = fit.parameters()
    z = np.exp(Z95 * parameters.std_error[0] / parameters.estimate[0])
    assert (rows.lower[0], rows.upper[0]) == pytest.approx((parameters.estimate[0] / z, parameters.estimate[0] * z))
    center, half = np.arctanh(rows.estimate[1]), Z95 * parameters.std_error[1] / (1 - rows.estimate[1] ** 2)
    assert (rows.lower[1], rows.upper[1]) == pytest.approx(tuple(np.tanh([center - half, center + half])))
    own = sleepstudy().confint(which={"icc": icc})
    assert own[["lower", "upper"]].to_numpy()[0] == pytest.approx(sleepstudy().delta(icc).confint()[0])


def test_wald_intervals_are_missing_on_the_boundary():
    fit = fitted("dyestuff2_singular_reml")[1]
    rows = fit.confint(which="covariance")
    assert np.isnan([rows.lower[0], rows.upper[0]]).all()
    assert np.isfinite([rows.lower[1], rows.upper[1]]).all()


def test_bootstrap_intervals():
    fit = fitted("dyestuff_reml")[1]
    boot = fit.bootstrap(100, seed=3)
    rows = fit.confint(method="bootstrap", n=100, seed=3, which="covariance")
    keep = [i for i, name in enumerate(boot.names) if name not in fit.coef_names]
    assert list(rows.term) == [boot.names[i] for i in keep]
    np.testing.assert_allclose(rows[["lower", "upper"]], boot.intervals()[keep])
    own = fit.confint(method="bootstrap", n=100, seed=3, which={"icc": icc})
    assert 0.0 <= own.lower[0] < own.estimate[0] < own.upper[0] < 1.0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"method": "exact"}, "method: found 'exact'"),
        ({"level": 95}, "level: expected a number between 0 and 1, found 95"),
        ({"which": "Sunday"}, "which: found 'Sunday', expected 'coef', 'covariance', a function, or some of"),
        ({"which": ["sigma", "Sunday"], "method": "profile"}, "which: found 'Sunday'"),
        ({"which": []}, "which: found no name"),
        ({"which": {"both": lambda at: at.coef}, "method": "profile"}, "which: both returned an array of shape (2,)"),
    ],
)
def test_what_cannot_be_asked_for(arguments, text):
    with pytest.raises(DataError, match=re.escape(text)):
        sleepstudy().confint(**arguments)
