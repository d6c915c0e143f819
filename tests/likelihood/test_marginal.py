"""Repeated measures without random effects: the marginal engine against the dense one, and its front."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
from cases import case_names, load_case, load_data, some
from jaxlmm import Model, Residual, Status, Unstructured
from jaxlmm.covariance import CompoundSymmetry
from jaxlmm.fitting import estimate as fitting
from jaxlmm.likelihood.engines import Blocks
from jaxlmm.likelihood.engines.marginal import statistics as clustered
from jaxlmm.likelihood.prepared import prepare

SUBJECTS, VISITS = 24, 4
CASES = [
    n
    for n in case_names(plain=False)
    if n.startswith(("fev_", "orthodont_")) and load_case(n)["structure"].get("residual")
]


@functools.cache
def data():
    """Rows in any order, about a quarter missing at random, one subject with a single visit."""
    rng = np.random.default_rng(0)
    subject, visit = np.repeat(np.arange(SUBJECTS), VISITS), np.tile(np.arange(VISITS), SUBJECTS)
    keep = (rng.random(len(subject)) > 0.25) & ~((subject == 3) & (visit > 0))
    order = rng.permutation(np.flatnonzero(keep))
    subject, visit = subject[order], visit[order]
    n = len(subject)
    X = np.column_stack([np.ones(n), visit, rng.normal(size=n)])
    y = X.sum(1) + rng.normal(size=SUBJECTS)[subject] + rng.normal(size=n) * (1 + visit)
    return y, X, subject, visit, rng.uniform(0.5, 2, n)


def model(engine="auto", structure=None):
    y, X, subject, visit, weights = data()
    return Model(y, X, [], Residual(structure or Unstructured(), subject, visit), weights=weights, engine=engine)


def symmetric(*shape):
    A = np.random.default_rng(sum(shape)).normal(size=shape)
    return A + np.swapaxes(A, -1, -2)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@jax.jit
def expanded(statistics, C, D):
    return statistics.expand(C, D, jnp.linalg.inv)


@jax.jit
def solved(statistics, C, B):
    return statistics.solve(C, B)


@pytest.mark.parametrize("compact", [True, False], ids=["products", "rows"])
def test_expansion_is_that_of_the_dense_matrix(compact):
    A = symmetric(VISITS, VISITS)
    C, D = Blocks((), jnp.asarray(A @ A + np.eye(VISITS))), Blocks((), jnp.asarray(symmetric(3, VISITS, VISITS)))
    found = expanded(prepare(model(), compact=compact).statistics, C, D)
    expected = expanded(prepare(model("dense")).statistics, C, D)
    for name in ("logdet", "gram", "gram_slopes", "curvature"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-8, atol=1e-10, err_msg=name)
    along = [jnp.tensordot(D.residual, e.slopes.residual, 2) for e in (found, expected)]
    np.testing.assert_allclose(along[0], along[1], rtol=1e-9)


def test_solve():
    A = symmetric(VISITS, VISITS)
    C, B = Blocks((), jnp.asarray(A @ A + np.eye(VISITS))), np.random.default_rng(1).normal(size=(len(data()[0]), 2))
    rows = prepare(model(), compact=False).statistics
    np.testing.assert_allclose(solved(rows, C, B), solved(prepare(model("dense")).statistics, C, B), atol=1e-10)


US, CS = Unstructured(), CompoundSymmetry()


@pytest.mark.parametrize(
    ("structure", "method"),
    some([(US, "REML"), (CS, "REML"), (US, "ML"), (CS, "ML")], (US, "REML")),
    ids=["us-REML", "cs-REML", "us-ML", "cs-ML"],
)
def test_fits_are_those_of_the_dense_engine(structure, method):
    found, expected = (fitting.estimate(model(engine, structure), method) for engine in ("auto", "dense"))
    assert found.status == expected.status == Status.CONVERGED
    assert found.loglik == pytest.approx(expected.loglik, abs=1e-8)
    np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-6)
    np.testing.assert_allclose(found.residual, expected.residual, rtol=1e-5, atol=1e-7)
    likelihood = jaxlmm.reml if method == "REML" else jaxlmm.ml
    assert float(likelihood(found.theta, model("auto", structure))) == pytest.approx(found.loglik, abs=1e-9)


@pytest.mark.parametrize("products", [clustered.MAX_PRODUCTS, 0], ids=["products", "rows"])
@pytest.mark.slow
def test_batches(products, monkeypatch):
    monkeypatch.setattr(clustered, "MAX_PRODUCTS", products)
    y, X, *_ = data()
    rng = np.random.default_rng(2)
    Y, x = y + rng.normal(size=(5, len(y))), rng.normal(size=(5, len(y)))
    fit = jaxlmm.fit_batch(model(), Y, column=1, values=x)
    assert fit.converged.all()
    for i in (0, 4):
        moved = X.copy()
        moved[:, 1] = x[i]
        one = fitting.estimate(model("dense").replace(y=Y[i], X=moved))
        assert fit.loglik[i] == pytest.approx(one.loglik, abs=1e-8)
        np.testing.assert_allclose(fit.coef[i], one.coef, rtol=1e-6)
        np.testing.assert_allclose(fit.residual[i], one.residual, rtol=1e-5, atol=1e-7)
    assert np.isnan(fit.sigma).all()


def fitted(name):
    """A recorded case and its fit."""
    case = load_case(name)
    s = case["structure"]
    text = f"{s['residual']}({s['time']} | {s['within']})"
    return case, jaxlmm.lmm(case["formula"], load_data(case), method=case["method"], residual=text)


@pytest.mark.parametrize("name", some(CASES, "fev_us_reml", "orthodont_ar1_reml"))
def test_recorded_marginal_models(name):
    """mmrm and nlme: log-likelihood to 1e-6, coefficients to 1e-5 of their SE, SE to 1e-5, covariances to 1e-4."""
    case, fit = fitted(name)
    assert fit.engine == "marginal" and fit.converged
    assert fit.loglik == pytest.approx(case["loglik"], abs=1e-6)
    se = np.array(list(case["se"].values()))
    np.testing.assert_allclose(fit.coef, list(case["fixef"].values()), rtol=0, atol=1e-5 * se.min())
    np.testing.assert_allclose(fit.se, se, rtol=1e-5)
    recorded = np.array(case["theta"]["cov"])
    np.testing.assert_allclose(fit.varcorr().residual.cov, recorded, rtol=1e-4, atol=1e-4 * np.abs(recorded).max())


@functools.cache
def trial():
    data = jaxlmm.datasets.load("fev_data", "dict")
    return jaxlmm.lmm("FEV1 ~ RACE + ARMCD * AVISIT", data, residual="us(AVISIT | USUBJID)")


@pytest.mark.smoke
def test_a_trial_by_formula():
    fit = trial()
    assert fit.engine == "marginal" and fit.sigma is None
    text = str(fit.summary())
    for words in ("Residual: us(AVISIT | USUBJID)", "USUBJID, 197", "Residual covariance:", "VIS4"):
        assert words in text
    varcorr = fit.varcorr()
    assert varcorr.residual.columns == ("VIS1", "VIS2", "VIS3", "VIS4")
    np.testing.assert_allclose(varcorr.residual.cov, fit.estimate.residual)


def test_a_trial_is_simulated_and_refitted():
    fit = trial()
    boot = fit.bootstrap(3, seed=1)
    assert boot.names == fit.coef_names
    assert fit.refit(fit.simulate(2, seed=1)).converged.all()


@pytest.mark.parametrize(
    ("residual", "words"),
    [
        ("us(visit)", "rows with 'visit'"),
        ("us(visit | id / arm)", "needs one level of 'id'"),
        ("(visit | id)", "not a covariance structure"),
        ("us(visit + arm | id)", "arm"),
        ("nope(visit | id)", "nope is not a known"),
        ("us(visit | arm)", "rows with 'visit'"),
        ("us(week | id)", "week"),
        ("ou(visit | id)", "times or places"),
        (3, "must be text"),
    ],
)
def test_bad_residuals_get_one_sentence(residual, words):
    rng = np.random.default_rng(4)
    rows = {"id": np.repeat(np.arange(9), 3), "visit": np.tile(["a", "b", "c"], 9), "y": rng.normal(size=27)}
    rows["arm"] = rows["id"] % 2
    with pytest.raises(jaxlmm.JaxlmmError, match=words):
        jaxlmm.lmm("y ~ arm", rows, residual=residual)


def test_ordered_structures_need_the_levels_of_a_factor():
    rng = np.random.default_rng(5)
    rows = {"id": np.repeat(np.arange(9), 3), "t": np.tile([1.0, 2.0, 3.0], 9), "y": rng.normal(size=27)}
    with pytest.raises(jaxlmm.FormulaError, match="over the levels of a factor"):
        jaxlmm.lmm("y ~ t + ar1(0 + t | id)", rows)


@pytest.mark.parametrize("name", some(["ovary_ar1_reml", "ovary_ar1_ml"], "ovary_ar1_ml"))
def test_recorded_residuals_beside_random_effects(name):
    """nlme: random intercept and slope, AR(1) over the ranks of the times of a mare."""
    case = load_case(name)
    data = load_data(case)
    data["step"] = data.groupby("Mare", observed=True)["Time"].rank().astype(int)
    fit = jaxlmm.lmm(case["formula"], data, method=case["method"], residual="ar1(step | Mare)")
    assert fit.engine == "marginal" and fit.converged
    assert fit.loglik == pytest.approx(case["loglik"], abs=1e-6)
    se = np.array(list(case["se"].values()))
    np.testing.assert_allclose(fit.coef, list(case["fixef"].values()), rtol=0, atol=1e-5 * se.min())
    np.testing.assert_allclose(fit.se, se, rtol=1e-5)
    found = dict(zip(*(fit.parameters()[column] for column in ("name", "estimate")), strict=True))
    assert found["correlation"] == pytest.approx(case["theta"]["rho"], rel=1e-4)
    assert np.sqrt(found["variance"]) == pytest.approx(case["theta"]["sigma"], rel=1e-4)
    effects = fit.ranef()["Mare"]
    recorded = np.array([case["condVar"]["Mare"][level] for level in effects.levels])
    np.testing.assert_allclose(effects.condvar, recorded, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(fit.fitted[:6], case["fitted_head"], rtol=1e-5)
