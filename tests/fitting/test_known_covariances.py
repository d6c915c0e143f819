"""Known covariances: generalised least squares and meta-analysis, against dense algebra."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm, t

import jaxlmm
import oracle
from dense_inference import Dense
from jaxlmm.covariance import KnownMatrix

N = 24


def columns():
    rng = np.random.default_rng(1)
    g, x, v = np.repeat(np.arange(6), 4), rng.normal(size=N), rng.uniform(0.2, 2.0, N)
    y = 1 + 0.5 * x + rng.normal(size=6)[g] + rng.normal(size=N) * np.sqrt(v)
    return pd.DataFrame(
        {"y": y, "x": x, "g": g, "visit": np.tile(np.arange(4), 6), "v": v, "w": 1 / v, "row": range(N)}
    )


def design(data):
    return np.column_stack([np.ones(len(data)), data.x])


def square():
    A = np.random.default_rng(2).normal(size=(N, N))
    return A @ A.T / N + np.eye(N)


def same(data, by="g"):
    return (data[by].to_numpy()[:, None] == data[by].to_numpy()) * 1.0


KNOWN = {
    "variances": (lambda d: np.diag(d.v), {"residual": "iid(variance=1)", "weights": "w"}, ""),
    "random effects too": (
        lambda d: np.diag(d.v) + 0.5 * same(d),
        {"residual": "iid(variance=1)", "weights": "w"},
        " + iid(1 | g, variance=0.5)",
    ),
    "function": (lambda d: np.diag(d.v), {"residual": "iid(variance=1)", "variance": "power(v, 0.5)"}, ""),
    "matrix": (lambda d: square(), {"residual": KnownMatrix(variance=1.0, known=square()).over("row")}, ""),
    "symmetry": (
        lambda d: 1.3 * (0.3 * same(d) + 0.7 * np.eye(N)),
        {"residual": "cs(visit | g, variance=1.3, correlation=0.3)"},
        "",
    ),
    "dense": (lambda d: np.diag(d.v), {"residual": "iid(variance=1)", "weights": "w", "engine": "dense"}, ""),
    "crossed": (
        lambda d: np.diag(d.v) + 0.5 * same(d) + 0.2 * same(d, "visit"),
        {"residual": "iid(variance=1)", "weights": "w"},
        " + iid(1 | g, variance=0.5) + iid(1 | visit, variance=0.2)",
    ),
}


@pytest.mark.parametrize(
    "kind",
    ["variances", "matrix", *(pytest.param(k, marks=pytest.mark.slow) for k in list(KNOWN)[1:] if k != "matrix")],
)
def test_generalised_least_squares(kind):
    data = columns()
    covariance, options, random = KNOWN[kind]
    fit = jaxlmm.lmm("y ~ x" + random, data, **options)
    V, X = covariance(data), design(data)
    beta, vcov = oracle.gls(V, data.y, X)
    assert fit.status == "converged" and fit.theta.shape == (0,) and not fit.singular
    np.testing.assert_allclose(fit.coef, beta, rtol=1e-12)
    np.testing.assert_allclose(fit.vcov, vcov, rtol=1e-12)
    np.testing.assert_allclose(fit.loglik, oracle.loglik(V, data.y, X), rtol=1e-13)
    for df in ("satterthwaite", "kenward-roger", "kenward-roger-full", "asymptotic"):
        test = fit.test("x", df=df)
        assert test.rows.df == np.inf
        np.testing.assert_allclose(test.rows.se, vcov[1, 1] ** 0.5, rtol=1e-12)
        np.testing.assert_allclose(test.rows.p, 2 * norm.sf(abs(beta[1]) / vcov[1, 1] ** 0.5), rtol=1e-8)
    test = fit.test("x", df="residual")
    np.testing.assert_allclose(test.rows.p, 2 * t.sf(abs(beta[1]) / vcov[1, 1] ** 0.5, N - 2), rtol=1e-8)
    assert "all covariance parameters are known: generalised least squares" in str(fit.summary())


@pytest.fixture(scope="module")
def known():
    return jaxlmm.lmm("y ~ x + iid(1 | g, variance=0.5)", columns(), residual="iid(variance=1)", weights="w")


@pytest.mark.slow
def test_everything_works_without_covariance_parameters(known, tmp_path):
    data = columns()
    V, X = np.diag(data.v) + 0.5 * same(data), design(data)
    beta, vcov = oracle.gls(V, data.y, X)
    effects = 0.5 * (same(data) @ np.linalg.solve(V, data.y - X @ beta))
    np.testing.assert_allclose(known.fitted, X @ beta + effects, rtol=1e-10)
    assert len(known.parameters()) == 0 and known.vcov_theta().shape == known.vcov_parameters().shape == (0, 0)
    np.testing.assert_allclose(known.vcov_full(), vcov, rtol=1e-10)
    # errors of predicted means, by all methods, are the same: nothing is estimated but beta
    C = 0.5 * same(data)
    P = oracle.projection(V, X)
    A = X @ vcov @ X.T @ np.linalg.inv(V)  # X beta-hat = A y
    map_ = A + C @ P
    mse = np.diag(C - map_ @ C - C @ map_.T + map_ @ V @ map_.T)
    for df in ("satterthwaite", "kenward-roger", "residual"):
        np.testing.assert_allclose(known.predict(se=True, df=df).std_error, np.sqrt(mse), rtol=1e-9)
    # intervals: the likelihood is quadratic in beta
    wald, profile = known.confint(), known.confint(method="profile")
    assert list(wald.term) == list(profile.term) == ["(Intercept)", "x"]
    np.testing.assert_allclose(profile[["lower", "upper"]], wald[["lower", "upper"]], rtol=1e-8)
    np.testing.assert_allclose(wald.upper - beta, norm.ppf(0.975) * np.sqrt(np.diag(vcov)), rtol=1e-10)
    for method in ("wald", "profile"):
        with pytest.raises(jaxlmm.DataError, match="all covariance parameters are known"):
            known.confint(method=method, which="covariance")
    boot = known.bootstrap(400, seed=1)
    np.testing.assert_allclose(boot.se[:2], np.sqrt(np.diag(vcov)), rtol=0.12)
    assert known.draws(10).groups["posterior"]["theta"].shape[-1] == 0
    # the rest agrees with itself
    path = tmp_path / "fit"
    known.save(path)
    loaded = jaxlmm.load(path)
    assert str(loaded.summary()) == str(known.summary())
    np.testing.assert_allclose(loaded.refit(2 * data.y).coef, 2 * beta, rtol=1e-12)
    many = known.refit(np.stack([data.y, 0 * data.y + 3, np.where(data.row == 2, np.nan, data.y)]))
    assert [jaxlmm.Status(s).name for s in many.status] == ["CONVERGED", "CONVERGED", "BAD_RESPONSE"]
    np.testing.assert_allclose(many.coef[:2], [beta, [3, 0]], atol=1e-12)
    fewer = known.refit(np.where(data.row == 2, np.nan, data.y)[None], missing="drop")
    keep = np.arange(N) != 2
    np.testing.assert_allclose(fewer.coef[0], oracle.gls(V[np.ix_(keep, keep)], data.y[keep], X[keep])[0], rtol=1e-10)
    assert known.simulate(3).shape == (3, N) and known.caic().edf > 2 and known.scores().theta.shape == (6, 0)
    assert np.all(known.influence(by="g", exact="all").frame().status == "converged")
    with jax.enable_x64(True):
        slope = jax.grad(lambda y: jaxlmm.fit(known.model.replace(y=y)).coef[1])(jnp.asarray(data.y))
    np.testing.assert_allclose(slope, (vcov @ X.T @ np.linalg.inv(V))[1], rtol=1e-10)


@pytest.mark.slow
def test_known_variances_take_any_response():
    data = columns()
    for y, beta in ((3.0 + 0 * data.x, [3, 0]), (2 + 3 * data.x, [2, 3])):
        plain = jaxlmm.lmm("y ~ x", data.assign(y=y), residual="iid(variance=1)", weights="w")
        free = jaxlmm.lmm("y ~ x + (1 | g)", data.assign(y=y), residual="iid(variance=1)", weights="w")
        for fit in (plain, free):
            np.testing.assert_allclose(fit.coef, beta, atol=1e-10)
            np.testing.assert_allclose(fit.vcov, oracle.gls(np.diag(data.v), data.y, design(data))[1], rtol=1e-8)
        assert free.converged and free.theta[0] == -np.inf
    two = data.iloc[[0, 5]]
    fit = jaxlmm.lmm("y ~ x", two, residual="iid(variance=1)", weights="w")  # as many rows as coefficients
    np.testing.assert_allclose(fit.vcov, oracle.gls(np.diag(two.v), two.y, design(two))[1], rtol=1e-10)
    with pytest.raises(jaxlmm.DataError, match="constant"):
        jaxlmm.lmm("y ~ x + iid(1 | g, variance=1)", data.assign(y=3.0))  # the residual variance would be zero


def test_the_matrix_belongs_to_the_levels_with_rows_or_without():
    data, V = columns(), square()
    data.loc[[3, 7], "y"] = np.nan
    fit = jaxlmm.lmm("y ~ x", data, residual=KnownMatrix(variance=1.0, known=V).over("row"))
    keep = np.flatnonzero(data.y.notna())
    some = data.iloc[keep]
    np.testing.assert_allclose(fit.coef, oracle.gls(V[np.ix_(keep, keep)], some.y, design(some))[0], rtol=1e-10)
    with pytest.raises(jaxlmm.DataError, match=r"KnownMatrix\(row\) has a matrix of 24 rows for 22 levels.*levels="):
        jaxlmm.lmm("y ~ x", some, residual=KnownMatrix(variance=1.0, known=V).over("row"))
    with pytest.raises(jaxlmm.JaxlmmError, match="matrix of 3 rows, found 4 levels"):
        jaxlmm.Field(KnownMatrix(V[:3, :3]), data.g, data.visit)


@pytest.mark.slow
@pytest.mark.parametrize("moderator", [False, True])
def test_random_effects_meta_analysis(moderator):
    rng = np.random.default_rng(3)
    k = 12
    data = pd.DataFrame({"v": rng.uniform(0.05, 0.5, k), "study": np.arange(k), "x": rng.normal(size=k)})
    data["y"] = 0.3 + 0.4 * data.x + rng.normal(size=k) * np.sqrt(data.v + 0.3)
    X = design(data)[:, : 1 + moderator]
    y, V = data.y.to_numpy(), lambda x: x[0] * np.eye(k) + np.diag(data.v)
    best = minimize_scalar(
        lambda tau2: -oracle.loglik(V([tau2]), y, X), bounds=(0, 5), method="bounded", options={"xatol": 1e-11}
    )
    formula = f"y ~ {'x' if moderator else 1} + (1 | study)"
    for options in ({"weights": 1 / data.v}, {"variance": "power(v, 0.5)"}):
        fit = jaxlmm.lmm(formula, data, residual="iid(variance=1)", **options)
        tau2 = np.exp(2 * fit.theta[0])
        np.testing.assert_allclose(tau2, best.x, rtol=1e-6)
        dense = Dense(V, np.array([tau2]), X, y)
        np.testing.assert_allclose(fit.coef, dense.beta, rtol=1e-9)
        np.testing.assert_allclose(fit.loglik, -best.fun, rtol=1e-12)
        np.testing.assert_allclose(fit.parameters().std_error[0], dense.W("observed")[0, 0] ** 0.5, rtol=1e-6)
        L = np.eye(1 + moderator)[-1:]
        kr = fit.test(L, df="kenward-roger")
        F, df = dense.kenward_roger(L)
        np.testing.assert_allclose([kr.joint.statistic, kr.joint.den_df], [F, df], rtol=1e-6)
        np.testing.assert_allclose(
            fit.predict(random=False, se=True).std_error, np.sqrt(np.diag(X @ dense.Phi @ X.T)), rtol=1e-6
        )


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e-8, 1e6])
def test_studies_that_agree_and_studies_that_do_not(size):
    data = columns()
    y = size * np.random.default_rng(5).normal(size=N)
    fit = jaxlmm.lmm("y ~ 1 + (1 | row)", data.assign(y=y), residual="iid(variance=1)", weights="w")
    assert fit.converged and fit.singular == (size < 1)
    if size > 1:
        np.testing.assert_allclose(np.exp(fit.theta[0]), np.std(y, ddof=1), rtol=1e-6)


@pytest.mark.slow
def test_terms_of_known_variance_are_not_confounded():
    data = columns()
    V, X = 0.5 * same(data) + np.eye(N), np.eye(6)[data.g]
    fit = jaxlmm.lmm("y ~ C(g) + iid(1 | g, variance=0.5)", data, residual="iid(variance=1)")
    np.testing.assert_allclose(
        fit.loglik, oracle.loglik(V, data.y, np.column_stack([np.ones(N), X[:, 1:]])), rtol=1e-12
    )
