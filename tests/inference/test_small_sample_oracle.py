"""Inference for models of every kind against dense matrices written from the literature (dense_inference.py)."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
from cases import some
from covariance.test_definitions import (
    CASES,
    PAIR,
    C,
    Case,
    P,
    Scalar,
    V,
    at,
    columns,
    cs,
    estimates,
    fitted,
    gaps,
    none,
    plain,
    same,
    us,
    visits,
)
from dense_inference import Dense, jacobian
from jaxlmm import Covariance, Positive, Variance
from jaxlmm.covariance import distances


class Rational(Covariance):
    """A structure that nobody has shipped: ``variance / (1 + (distance / range)^2)``."""

    variance: Variance
    range: Positive

    def matrix(self, t):
        return self.variance / (1 + (distances(t) / self.range) ** 2)


def slopes(d, m, *_):
    x = d["x"]
    return same(d["id"]) * (m[0, 0] + m[0, 1] * np.add.outer(x, x) + m[1, 1] * np.outer(x, x))


MODELS = {name: CASES[name] for name in (
    "two structures beside slopes", "ar1 effects beside a us residual", "variance power", "us @ ar1 residual",
    "relationship beside an ar1 residual", "relationship beside the animals' own", "matern 1.5",
    "weights, ou and crossed effects", "weights and cs", "cs by arm", "hf residual", "ar1h effects", "variance ident",
    "weights and a variance function", "us @ ar1 residual beside crossed effects",
)} | {
    "slopes beside an ar1 residual": Case(
        visits, "y ~ x + (x | id)", (us(2), V, C), (2 * PAIR, 1.0, 0.4), slopes,
        lambda d, m, v, r: same(d["id"]) * v * r ** gaps(d["t"]), {"residual": "ar1(visit | id)"}),
    "crossed effects": Case(
        visits, "y ~ x + (1 | id) + (1 | item)", (V, V, V), (1.5, 1.0, 1.0),
        lambda d, g, h, _: g * same(d["id"]) + h * same(d["item"]), plain),
    "nested effects beside a us residual": Case(
        visits, "y ~ x + (1 | site)", (V, us(5)), (3.0, np.diag([1.0, 2.0, 1.5, 1.0, 2.0]) + 0.5),
        lambda d, g, _: g * same(d["site"]), lambda d, g, m: same(d["id"]) * at(m, d["visit"]),
        {"residual": "us(visit | id)"}),
    "toep residual": Case(
        visits, "y ~ x", (V, C, C, C, C), (2.0, 0.6, 0.4, 0.3, 0.2), none,
        lambda d, v, *r: same(d["id"]) * v * np.array([1.0, *r])[gaps(d["t"]).astype(int)],
        {"residual": "toep(visit | id)"}),
    "a user's structure": Case(
        visits, "y ~ x + rational(time | id)", (V, P, V), (3.0, 2.0, 0.5),
        lambda d, v, length, _: same(d["id"]) * v / (1 + (gaps(d["time"]) / length) ** 2), plain,
        {"structures": {"rational": Rational}}),
}  # fmt: skip
# Parameters of SAS where they are not those that the fit lists: its own of these, and back.
SAS = {
    "weights and cs": (lambda p: [p[0] * p[1], p[0] * (1 - p[1])], lambda s: [sum(s), s[0] / sum(s)]),
    "toep residual": (lambda p: [p[0], *(p[0] * np.asarray(p[1:]))], lambda s: [s[0], *(np.asarray(s[1:]) / s[0])]),
    "cs by arm": (
        lambda p: [p[0] * p[1], p[0] * (1 - p[1]), p[2] * p[3], p[2] * (1 - p[3])],
        lambda s: [s[0] + s[1], s[0] / (s[0] + s[1]), s[2] + s[3], s[2] / (s[2] + s[3])]),
}  # fmt: skip
SEED = {"two structures beside slopes": 1, "ar1h effects": 1}  # of data whose optimum is interior


def interior(name, method):
    case = MODELS[name]
    d = case.data(SEED.get(name, 0))
    fit = fitted(case.formula, d, method=method, **case.options)
    assert fit.converged and not fit.singular, f"{name}: {fit.status}, {estimates(fit)}"
    return case, d, fit


@functools.cache
def pair(name, method="REML"):
    """A fit, and the dense model in the parameters that it lists."""
    case, d, fit = interior(name, method)
    X, reml = columns(case, d), method == "REML"
    found = Dense(lambda p: sum(case.covariances(d, case.values(p))), np.array(estimates(fit)), X, d["y"], reml)
    np.testing.assert_allclose(fit.vcov, found.Phi, rtol=1e-5)
    return fit, found


@functools.cache
def in_sas(name):
    """The dense model in the parameters of SAS."""
    fit, found = pair(name)
    if name not in SAS:
        return found
    to, back = SAS[name]
    return Dense(lambda s: found.V(np.array(back(s))), np.array(to(found.x)), found.X, found.y, found.reml)


def hypotheses(p):
    """Rows one by one, and together."""
    return np.vstack([np.eye(p), np.random.default_rng(1).normal(size=(1, p))]), np.eye(p)


def check(fit, dense, df, information):
    """Rows, joint test and covariance of a method."""
    by = fit.wald(df, information)
    assert by.note == "" and by.information == information
    L, whole = hypotheses(len(fit.coef))
    rows, joint = by.rows(L), by.joint(whole)
    kenward, full = df.startswith("kenward"), df.endswith("full")
    vcov = dense.adjusted(information, full) if kenward else dense.Phi
    scale = np.sqrt(np.outer(np.diag(vcov), np.diag(vcov)))
    np.testing.assert_allclose(by.vcov / scale, vcov / scale, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(rows.se, np.sqrt(np.einsum("ma,ab,mb->m", L, vcov, L)), rtol=TOLERANCE)
    np.testing.assert_allclose(rows.df, dense.satterthwaite(L, information), rtol=10 * TOLERANCE)
    how = (dense.kenward_roger, full) if kenward else (dense.joint_satterthwaite,)
    F, den = how[0](whole, information, *how[1:])
    assert joint.num_df == len(whole)
    assert joint.statistic == pytest.approx(F, rel=10 * TOLERANCE)
    assert joint.den_df == pytest.approx(den, rel=10 * TOLERANCE)


TOLERANCE = 2e-6
DAILY = {"slopes beside an ar1 residual", "crossed effects", "a user's structure"}
INFORMATION = ("observed", "expected", "average")
METHODS = ("satterthwaite", "kenward-roger", "kenward-roger-full")


def each():
    """Every model with every method; daily some by default, and two with the full form and one information."""
    out = []
    assert DAILY <= set(MODELS)
    for i, name in enumerate(MODELS):
        for j, information in enumerate(INFORMATION):
            for df in METHODS:
                daily = name in DAILY and (
                    (df == METHODS[2] and j == i % 3 and name != "a user's structure")
                    or (df == "satterthwaite" and not j)
                )
                marks = [] if daily else [pytest.mark.slow]
                out.append(pytest.param(name, df, information, marks=marks, id=f"{name}-{df}-{information}"))
    return out


@pytest.mark.parametrize(("name", "df", "information"), each())
def test_rows_and_joint_tests(name, df, information):
    check(pair(name)[0], in_sas(name) if df.endswith("full") else pair(name)[1], df, information)


@pytest.mark.parametrize("information", some(INFORMATION, "expected"))
@pytest.mark.parametrize("name", some(["crossed effects", "weights and cs"], "crossed effects"))
def test_ml_fits(name, information):
    fit, dense = pair(name, "ML")
    check(fit, dense, "satterthwaite", information)


def inverse_ok(found, expected):
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [n if n in DAILY else pytest.param(n, marks=pytest.mark.slow) for n in MODELS])
def test_covariance_of_natural_parameters(name):
    """The inverse of the observed information (SAS ASYCOV), and standard errors in the table of parameters."""
    fit, dense = pair(name)
    W = dense.W("observed")
    assert np.abs(W @ dense.score / np.sqrt(np.diag(W))).max() < 1e-5
    inverse_ok(fit.vcov_parameters(), W)
    np.testing.assert_allclose(np.asarray(fit.parameters()["std_error"]), np.sqrt(np.diag(W)), rtol=1e-5)


@pytest.mark.parametrize("information", some(["expected", "average"], "average"))
@pytest.mark.parametrize(
    ("name", "method"),
    some(
        [("slopes beside an ar1 residual", "REML"), ("crossed effects", "ML"), ("matern 1.5", "REML")],
        ("slopes beside an ar1 residual", "REML"),
    ),
)
def test_covariance_of_natural_parameters_by_other_information(name, method, information):
    fit, dense = pair(name, method)
    inverse_ok(fit.vcov_parameters(information), dense.W(information))


# ---------------------------------------------------------------------------- functions of the parameters


@pytest.mark.parametrize("method", some(["REML", "ML"], "REML"))
def test_functions_of_coefficients_and_covariances(method):
    """The minimum of a mean, a ratio of variances, a correlation and the structure's own parameter."""
    fit, dense = pair("slopes beside an ar1 residual", method)

    def g(p):
        G, residual = p.varcorr[0], p.structures[-1]
        ratio = G[1, 1] / p.residual[0, 0]
        return p.coef[0] / p.coef[1], jnp.log(ratio), G[0, 1] / jnp.sqrt(G[0, 0] * G[1, 1]), residual.correlation

    def same_in_numpy(beta, x):
        a, b, c, v, r = x
        return np.array([beta[0] / beta[1], np.log(c / v), b / np.sqrt(a * c), r])

    found = fit.delta(g)
    np.testing.assert_allclose(found.estimate, same_in_numpy(dense.beta, dense.x), rtol=1e-6)
    np.testing.assert_allclose(found.se, dense.se(same_in_numpy), rtol=1e-5)
    half = 1.959963984540054 * found.se
    np.testing.assert_allclose(found.confint()[:, 1] - found.estimate, half, rtol=1e-9)
    single = fit.delta(lambda p: p.theta[-1] * 2)
    assert single.names == ("value",) and single.estimate.shape == (1,)
    np.testing.assert_allclose(single.estimate, 2 * fit.theta[-1], rtol=1e-9)


def test_functions_by_expected_information():
    fit, dense = pair("crossed effects", "ML")
    found = fit.delta(lambda p: p.varcorr[0][0, 0] / (p.varcorr[1][0, 0] + p.sigma**2), information="expected")
    np.testing.assert_allclose(found.se, dense.se(lambda b, x: x[0] / (x[1] + x[2]), "expected"), rtol=1e-5)


def test_standard_errors_of_covariances_and_correlations():
    fit, dense = pair("slopes beside an ar1 residual")
    frame = fit.varcorr().frame()
    frame = {name: np.asarray(frame[name]) for name in frame}

    def shown(beta, x):
        a, b, c, v, r = x
        lags = v * r ** np.arange(5)
        pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
        covariances = [a, c, b, *[v] * 5, *(lags[j - i] for i, j in pairs)]
        sds = [np.sqrt(a), np.sqrt(c), b / np.sqrt(a * c), *[np.sqrt(v)] * 5, *(r ** (j - i) for i, j in pairs)]
        return np.array([covariances, sds])

    values, errors = shown(None, dense.x), dense.se(lambda b, x: shown(b, x).ravel()).reshape(2, -1)
    m = values.shape[1]
    for row, (value, se) in enumerate((("covariance", "se_covariance"), ("sd_or_corr", "se_sd_or_corr"))):
        np.testing.assert_allclose(frame[value][:m].astype(float), values[row], rtol=1e-6)
        np.testing.assert_allclose(frame[se][:m].astype(float), errors[row], rtol=1e-5)
    sd = frame["column2"][:m] == ""
    z, centre, se = 1.959963984540054, values[1], errors[1]
    upper = np.where(
        sd,
        centre * np.exp(z * se / centre),
        np.tanh(np.arctanh(np.where(sd, 0, centre)) + z * se / (1 - np.where(sd, 0, centre) ** 2)),
    )
    np.testing.assert_allclose(frame["upper"][:m].astype(float), upper, rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    some(["slopes beside an ar1 residual", "crossed effects", "relationship beside an ar1 residual", "matern 1.5",
          "weights and a variance function", "two structures beside slopes"],
         "slopes beside an ar1 residual", "crossed effects"),
)  # fmt: skip
def test_shares_of_variance(name):
    """Mean variances over the rows (Johnson 2014), the variance of the fixed part with denominator n."""
    fit, dense = pair(name)
    case = MODELS[name]
    d = case.data(SEED.get(name, 0))

    def shares(beta, x):
        K, E = (np.diag(M).mean() for M in case.covariances(d, case.values(x)))
        fixed = np.var(dense.X @ beta)
        total = fixed + K + E
        return np.array([fixed / total, (fixed + K) / total, K / (K + E)])

    expected, errors = shares(dense.beta, dense.x), dense.se(shares)
    r2, icc = fit.r2(), fit.icc()
    assert r2.names == ("marginal", "conditional")
    np.testing.assert_allclose(r2.estimate, expected[:2], rtol=1e-5)
    np.testing.assert_allclose(r2.se, errors[:2], rtol=2e-5)
    if len(icc.names) > 1:  # each part, and all of them
        assert icc.names[-1] == "all" and icc.estimate[-1] == pytest.approx(icc.estimate[:-1].sum())
    np.testing.assert_allclose(icc.estimate[-1], expected[2], rtol=1e-5)
    np.testing.assert_allclose(icc.se[-1], errors[2], rtol=2e-5)


def test_intraclass_correlation_of_a_balanced_layout():
    """F = MSB / MSW; ICC (F - 1) / (F - 1 + m) (Donner 1986)."""
    rng = np.random.default_rng(2)
    y = rng.normal(size=(9, 1)) + rng.normal(size=(9, 4))
    between, within = 4 * y.mean(1).var(ddof=1), y.var(axis=1, ddof=1).mean()
    F = between / within
    fit = jaxlmm.lmm("y ~ 1 + (1 | g)", {"y": y.ravel(), "g": np.repeat(np.arange(9), 4)})
    assert fit.icc().estimate[0] == pytest.approx((F - 1) / (F + 3), rel=1e-6)
    assert fit.r2().estimate[0] == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(jaxlmm.DataError, match="icc"):
        pair("toep residual")[0].icc()


def test_nothing_has_a_standard_error_on_the_boundary():
    """Group means nearly equal: no standard error of the zero; that of sigma^2 as in a linear model."""
    y = np.random.default_rng(4).normal(size=(8, 5))
    y = y - 0.999 * (y.mean(1, keepdims=True) - y.mean())
    fit = jaxlmm.lmm("y ~ 1 + (1 | g)", {"y": y.ravel(), "g": np.repeat(np.arange(8), 5)})
    assert fit.singular
    se = np.asarray(fit.parameters()["std_error"])
    assert np.isnan(se[0])
    assert se[1] == pytest.approx(fit.sigma**2 * np.sqrt(2 / 39), rel=1e-6)
    frame = fit.varcorr().frame()
    assert np.isnan(frame["lower"][0]) and np.isfinite(frame["lower"][1])


def test_the_differences_of_the_oracle():
    """Its derivatives on functions that are known."""
    x = np.array([0.7, -1.3])
    np.testing.assert_allclose(
        jacobian(lambda x: np.exp(x[0] * x), x)[0], [2 * 0.7 * np.exp(0.49), -1.3 * np.exp(-0.91)], rtol=1e-9
    )
    np.testing.assert_allclose(cs(2.0, 0.5, 2), [[2.0, 1.0], [1.0, 2.0]])
    assert isinstance(Scalar(), Scalar)
