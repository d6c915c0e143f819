"""Likelihoods without a maximum are said to have none, in words that name the parameters, and soon."""

import jax
import numpy as np
import pandas as pd
import pytest

import jaxlmm


def few_subjects(seed=0):
    """Four subjects with four visits: three contrasts between subjects cannot tell ten covariances."""
    rng = np.random.default_rng(seed)
    d = pd.DataFrame({"id": np.repeat(np.arange(4), 4), "visit": np.tile(list("abcd"), 4)})
    return d.assign(y=rng.normal(size=16) + rng.normal(size=4)[d.id])


def trend(seed=4):
    """A straight line, to which a smooth field comes as near as its range is large."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(0, 10, 60)
    return pd.DataFrame({"t": t, "y": 3.0 * t + rng.normal(size=60)})


def level_of_one_row(seed=1):
    """Levels of a variance of which one has a single row, which a coefficient fits exactly: ML falls without end."""
    rng = np.random.default_rng(seed)
    f = np.repeat(list("abc"), [15, 14, 1])
    return pd.DataFrame({"f": f, "y": rng.normal(size=30)})


CASES = {
    "unstructured": (few_subjects, "y ~ visit", {"residual": "us(visit | id)"}, r"covariance\[.*us\(visit \| id\)"),
    "range": (trend, "y ~ 1 + matern(t, nu=1.5)", {}, r"range.*matern"),
    "ident": (level_of_one_row, "y ~ f", {"variance": "ident(f)", "residual": "iid()", "method": "ML"}, "variances"),
}


@pytest.mark.parametrize("case", CASES)
def test_no_maximum_is_named_with_its_parameters(case):
    data, formula, options, names = CASES[case]
    with pytest.warns(jaxlmm.ConvergenceWarning, match="no maximum: .* along .*" + names):
        fit = jaxlmm.lmm(formula, data(), **options)
    assert fit.status == "no_maximum" and not fit.converged
    assert fit.certificate.iterations <= 200 and np.isfinite(fit.loglik)


def test_lanes_without_a_maximum_are_named_too():
    d = few_subjects()
    with pytest.warns(jaxlmm.ConvergenceWarning):
        fit = jaxlmm.lmm("y ~ visit", d, residual="us(visit | id)")
    batch = fit.refit(np.stack([few_subjects(seed).y for seed in range(3)]))
    assert set(batch.to_frame()["status"]) == {"no_maximum"}


def test_a_variance_that_is_small_is_no_fault():
    d = few_subjects(3)
    d = pd.concat([d, few_subjects(4).assign(id=lambda d: d.id + 4), few_subjects(5).assign(id=lambda d: d.id + 8)])
    d["y"] = d.y * np.where(d.visit == "a", 1e-3, 1.0)
    assert jaxlmm.lmm("y ~ visit", d, residual="us(visit | id)").status == "converged"


def test_a_limit_where_the_covariance_is_singular_is_no_maximum():
    """Sums of the visits of both subjects with two are what two coefficients fit: a correlation of -1 costs nothing."""
    x, e = np.random.default_rng(1).normal(size=(2, 8))
    e[[1, 3]] = -e[[0, 2]]
    d = pd.DataFrame({"id": [0, 0, 1, 1, 2, 3, 4, 5], "v": [0, 1, 0, 1, 0, 1, 0, 1], "x": x, "y": x + e})
    with pytest.warns(jaxlmm.ConvergenceWarning, match=r"no maximum: .* along correlation of Residual ar1"):
        fit = jaxlmm.lmm("y ~ x", d, residual="ar1(v | id)")
    assert fit.status == "no_maximum"
    assert [str(status) for status in fit.refit(d.y.to_numpy()[None]).to_frame()["status"]] == ["no_maximum"]
    with jax.enable_x64(True):
        found = [float(jaxlmm.reml(np.array([fit.theta[0], far]), fit.model)) for far in (-3.0, -5.0, -7.0)]
    assert found[0] < found[1] < found[2] and fit.loglik == pytest.approx(found[2], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["REML", "ML"])
def test_a_variance_of_zero_beside_effects_is_found(method):
    """Two endpoints with S12 > S11: the effect is all of the first, ``s = var(y1)``, and ``b = var(y2 - y1)``."""
    rng, n = np.random.default_rng(1), 12
    a = rng.normal(size=n)
    y = np.column_stack([a, 1.3 * a + 0.8 * rng.normal(size=n)])
    d = pd.DataFrame({"id": np.repeat(np.arange(n), 2), "end": np.tile(["a", "b"], n), "y": y.ravel()})
    fit = jaxlmm.lmm("y ~ end + (1 | id)", d, variance="ident(end)", method=method)
    s, b = y[:, 0].var(ddof=method == "REML"), (y[:, 1] - y[:, 0]).var(ddof=method == "REML")
    V, r = s + np.diag([0.0, b]), y - y.mean(0)
    right = -0.5 * (n * np.linalg.slogdet(2 * np.pi * V)[1] + np.sum(r * np.linalg.solve(V, r.T).T))
    if method == "REML":
        right += np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(n * np.linalg.inv(V))[1]
    assert fit.converged and fit.singular and fit.call.residual == "diag(end | id)"
    np.testing.assert_allclose(fit.loglik, right, rtol=1e-10)
    np.testing.assert_allclose(np.exp(2 * fit.theta), [s, 0.0, b], rtol=1e-6)
    again = fit.refit(3.0 * d.y.to_numpy())
    np.testing.assert_allclose(np.exp(2 * again.theta), [9 * s, 0.0, 9 * b], rtol=1e-6)
    other = jaxlmm.lmm("y ~ end + (1 | id)", d.assign(y=rng.normal(size=2 * n)), variance="ident(end)", method=method)
    np.testing.assert_allclose(other.refit(d.y.to_numpy()).loglik, right, rtol=1e-10)  # of another response
