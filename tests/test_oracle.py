"""The oracle itself against recorded lme4 numbers and against closed forms; jaxlmm is not used here."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import oracle

REFERENCES = Path(__file__).parent / "references"


def recorded(name):
    """A recorded case and its data as text columns, factors coded in recorded level order."""
    case = json.loads((REFERENCES / "cases" / f"{name}.json").read_text())
    with open(REFERENCES / case["data"], newline="") as handle:
        rows = list(csv.DictReader(handle))
    columns = {k: [row[k] for row in rows] for k in rows[0]}
    codes = {
        f: np.array([levels.index(v) for v in columns[f]]) for f, levels in case["factors"].items() if f in columns
    }
    return case, columns, codes


def numbers(columns, name):
    return np.array([float(v) for v in columns[name]])


def covariances(case):
    return {(g["group"], tuple(g["columns"])): np.array(g["cov"]) for g in case["theta"]["groups"]}


def compare(case, terms, y, X, weights=None):
    """Log-likelihood, coefficients, their covariance, BLUPs, conditional variances at the recorded theta."""
    reml = case["method"] == "REML"
    V = oracle.marginal([t for _, t in terms], case["theta"]["sigma"], len(y), weights)
    assert abs(oracle.loglik(V, y, X, reml) - case["loglik"]) < 1e-8
    beta, vcov = oracle.gls(V, y, X)
    np.testing.assert_allclose(beta, list(case["fixef"].values()), rtol=1e-8)
    np.testing.assert_allclose(vcov, case["vcov_fixef"], rtol=1e-7)
    plain = [t for _, t in terms]
    modes, variances = oracle.blups(plain, V, y, X), oracle.conditional_variances(plain, V)
    for (group, levels), values, condvar in zip([label for label, _ in terms], modes, variances, strict=True):
        rows = case["ranef"][group]["rows"]
        np.testing.assert_allclose([values[levels.index(k)] for k in rows], list(rows.values()), atol=1e-5)
        cond = case["condVar"][group]
        expected = np.array(list(cond.values()))
        assert np.abs(np.array([condvar[levels.index(k)] for k in cond]) - expected).max() <= 1e-6 * expected.max()


@pytest.mark.parametrize(
    "name", ["sleepstudy_reml", "sleepstudy_ml", "sleepstudy_indep_reml", "sleepstudy_weighted_reml"]
)
def test_sleepstudy(name):
    case, columns, codes = recorded(name)
    days = numbers(columns, "Days")
    X = np.column_stack([np.ones_like(days), days])
    blocks = [np.array(g["cov"]) for g in case["theta"]["groups"]]
    G = blocks[0] if len(blocks) == 1 else np.diag([b[0, 0] for b in blocks])
    label = ("Subject", case["factors"]["Subject"])
    weights = numbers(columns, case["weights"]) if case["weights"] else None
    compare(case, [(label, (X, codes["Subject"], G))], numbers(columns, "Reaction"), X, weights)


@pytest.mark.parametrize("name", ["dyestuff_reml", "dyestuff_ml", "dyestuff2_singular_reml", "dyestuff2_singular_ml"])
def test_one_way(name):
    case, columns, codes = recorded(name)
    y, one = numbers(columns, "Yield"), np.ones((30, 1))
    G = np.array(case["theta"]["groups"][0]["cov"])
    compare(case, [(("Batch", case["factors"]["Batch"]), (one, codes["Batch"], G))], y, one)
    table = y[np.argsort(codes["Batch"], kind="stable")].reshape(6, 5)
    reml = case["method"] == "REML"
    variance, residual = oracle.one_way_estimates(table, reml)
    assert variance == pytest.approx(G[0, 0], rel=1e-6, abs=1e-12)
    assert residual == pytest.approx(case["theta"]["sigma"] ** 2, rel=1e-6)
    assert oracle.one_way_loglik(table, variance, residual, reml) == pytest.approx(case["loglik"], abs=1e-8)
    best = oracle.best_loglik(one, codes["Batch"], y, one, reml)
    assert best == pytest.approx(case["loglik"], abs=1e-7)


def test_crossed_and_nested():
    case, columns, codes = recorded("penicillin_crossed_reml")
    y, one, G = numbers(columns, "diameter"), np.ones((144, 1)), covariances(case)
    terms = [((g, case["factors"][g]), (one, codes[g], G[g, ("(Intercept)",)])) for g in ("plate", "sample")]
    compare(case, terms, y, one)

    case, columns, codes = recorded("pastes_nested_reml")
    y, one, G = numbers(columns, "strength"), np.ones((60, 1)), covariances(case)
    batches, casks = case["factors"]["batch"], case["factors"]["cask"]
    inner = codes["cask"] * len(batches) + codes["batch"]
    labels = [f"{c}:{b}" for c in casks for b in batches]
    terms = [
        (("cask:batch", labels), (one, inner, G["cask:batch", ("(Intercept)",)])),
        (("batch", batches), (one, codes["batch"], G["batch", ("(Intercept)",)])),
    ]
    compare(case, terms, y, one)


def test_three_columns():
    case, columns, codes = recorded("machines_full_reml")
    indicators = np.eye(3)[codes["Machine"]]
    X = indicators.copy()
    X[:, 0] = 1.0
    G = np.array(case["theta"]["groups"][0]["cov"])
    label = ("Worker", case["factors"]["Worker"])
    compare(case, [(label, (indicators, codes["Worker"], G))], numbers(columns, "score"), X)


def test_prediction_error_variance_exceeds_the_conditional_one_by_the_cost_of_beta():
    """First sleepstudy subject: conditional 145.706, 5.312; with beta estimated 171.616, 6.966."""
    case, columns, codes = recorded("sleepstudy_reml")
    days = numbers(columns, "Days")
    X = np.column_stack([np.ones_like(days), days])
    terms = [(X, codes["Subject"], np.array(case["theta"]["groups"][0]["cov"]))]
    V = oracle.marginal(terms, case["theta"]["sigma"], len(days))
    pev = oracle.prediction_error_variances(terms, V, X)[0][0]
    condvar = oracle.conditional_variances(terms, V)[0][0]
    np.testing.assert_allclose(np.diag(condvar), [145.706, 5.312], atol=2e-3)
    np.testing.assert_allclose(np.diag(pev), [171.616, 6.966], atol=2e-3)


def test_finite_differences_are_accurate():
    def f(x):
        return np.exp(x[0]) * np.sin(x[1]) + x[0] ** 3

    x = np.array([0.3, 0.7])
    e, s, c = np.exp(0.3), np.sin(0.7), np.cos(0.7)
    np.testing.assert_allclose(oracle.gradient(f, x), [e * s + 3 * 0.09, e * c], rtol=1e-11)
    np.testing.assert_allclose(oracle.hessian(f, x), [[e * s + 1.8, e * c], [e * c, -e * s]], rtol=1e-8)


@pytest.mark.parametrize("reml", [True, False])
def test_closed_form_one_way_is_the_optimum_of_the_dense_likelihood(reml):
    rng = np.random.default_rng(5)
    table = rng.normal(size=(5, 4)) + 2 * rng.normal(size=(5, 1))
    codes, one = np.repeat(np.arange(5), 4), np.ones((20, 1))

    def dense(v):
        V = oracle.marginal([(one, codes, np.array([[v[0]]]))], np.sqrt(v[1]), 20)
        return oracle.loglik(V, table.ravel(), one, reml)

    estimates = np.array(oracle.one_way_estimates(table, reml))
    assert dense(estimates) == pytest.approx(oracle.one_way_loglik(table, *estimates, reml), abs=1e-10)
    np.testing.assert_allclose(oracle.gradient(dense, estimates), 0, atol=1e-6)
