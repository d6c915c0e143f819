"""The finite-sample law of the likelihood ratio of one variance: exact tables, RLRsim, dense linear algebra."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from scipy import sparse, stats

import jaxlmm
from jaxlmm.inference.ratios.exact import draw

N = 20_000


def balanced(groups, size, reml=True, n=N):
    mu = np.ones(groups - 1)
    nu = groups * size - (1 if reml else 0)
    with jax.enable_x64(True):
        return draw(mu, mu if reml else np.ones(groups), nu, groups * size - groups, n, seed=3)


# 90, 95 and 99 % of the RLRT and its size at the nominal 5 % of the mixture, from 4e6 draws; balanced one-way layouts
TABLE = {
    (5, 5): (1.297, 2.288, 4.898, 0.0381),
    (5, 20): (1.158, 2.088, 4.570, 0.0328),
    (20, 5): (1.470, 2.493, 5.132, 0.0436),
}


@pytest.mark.parametrize("layout", TABLE)
def test_quantiles_of_balanced_layouts(layout):
    drawn, (*quantiles, size) = balanced(*layout), TABLE[layout]
    for share, quantile in zip((0.9, 0.95, 0.99), quantiles, strict=True):
        within = 4 * np.sqrt(share * (1 - share) / N)
        assert abs(np.mean(drawn <= quantile) - share) < within
    assert abs(np.mean(drawn > stats.chi2.isf(0.1, 1)) - size) < 4 * np.sqrt(0.05 * 0.95 / N)


@pytest.mark.parametrize(("groups", "size"), [(3, 2), (5, 5), (10, 5)])
def test_probability_of_zero_is_that_of_an_f_ratio(groups, size):
    rest = groups * (size - 1)
    for reml, limit in ((True, 1.0), (False, groups / (groups - 1))):
        exact = stats.f.cdf(limit, groups - 1, rest)
        assert abs(np.mean(balanced(groups, size, reml) == 0.0) - exact) < 4 * np.sqrt(0.25 / N)


def test_supremum_is_that_of_a_search():
    """Every draw is the largest value over lambda, found here by brute force."""
    mu, rng = np.array([0.01, 0.2, 0.9, 1.0]), np.random.default_rng(0)
    from jaxlmm.inference.ratios import exact

    square, c = rng.chisquare(1, (50, 4)), rng.chisquare(20, 50)
    grid = np.geomspace(1e-5, 1e7, exact.GRID)
    with jax.enable_x64(True):
        found = np.asarray(exact._supremum(square, c, mu, mu, 24, grid))
    lam = np.append(0.0, np.geomspace(1e-6, 1e8, 200_000))
    for w, rest, value in zip(square, c, found, strict=True):
        rss = np.sum(w[:, None] / (1 + lam * mu[:, None]), 0) + rest
        best = np.max(24 * np.log((w.sum() + rest) / rss) - np.sum(np.log1p(lam * mu[:, None]), 0))
        assert value == pytest.approx(best, abs=1e-7)


@functools.cache
def data():
    """An unbalanced part of sleepstudy: seq_len(180) %% 7 < 1 + as.integer(Subject) %% 6 & Days > 3 in R."""
    d = {k: np.asarray(v) for k, v in jaxlmm.datasets.load("sleepstudy").items()}
    subject = np.unique(d["Subject"], return_inverse=True)[1] + 1
    keep = (np.arange(1, 181) % 7 < 1 + subject % 6) & (d["Days"] > 3)
    return {k: v[keep] for k, v in d.items()}


# RLRsim 3.1-8, lme4 1.1-31: quantile(RLRTSim(X, Z, qr(X), diag(18), nsim = 1e6), c(.9, .95, .99)), LRTSim likewise with
# q = 0; exactRLRT(m)$statistic, exactLRT(m, lm(...))$statistic
RLRSIM = {
    ("(1 | Subject)", "REML"): (32.25393, (1.47868, 2.51086, 5.19733)),
    ("(1 | Subject)", "ML"): (None, (1.19128, 2.17235, 4.79516)),
    ("(0 + Days | Subject)", "REML"): (None, (1.45381, 2.49413, 5.16045)),
    ("(0 + Days | Subject)", "ML"): (30.131179, None),
}


@pytest.mark.parametrize(("term", "method"), RLRSIM)
def test_rlrsim(term, method):
    statistic, quantiles = RLRSIM[term, method]
    test = jaxlmm.rlrt(jaxlmm.lmm(f"Reaction ~ Days + {term}", data(), method=method), n=N)
    assert test.exact and test.p == 1 / (N + 1)
    if statistic is not None:
        assert test.statistic == pytest.approx(statistic, abs=1e-4)
    for share, quantile in zip((0.9, 0.95, 0.99), quantiles or (), strict=bool(quantiles)):
        assert abs(np.mean(test.replicates <= quantile) - share) < 4.5 * np.sqrt(share * (1 - share) / N)


def test_draws_do_not_depend_on_their_number():
    fit = jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", data())
    many, few = (jaxlmm.rlrt(fit, n=n, seed=5) for n in (300, 40))
    np.testing.assert_allclose(few.replicates, many.replicates[:40], atol=1e-9)
    assert np.abs(jaxlmm.rlrt(fit, n=40, seed=6).replicates - few.replicates).max() > 0.1
    assert "RLRT" in str(few) and "(1 | Subject) 32.2539" in str(few) and "300 draws" in repr(many)


@pytest.mark.slow
def test_many_responses_share_a_law():
    """Each as a test of its own fit, dense and sparse; one without variation and one with a missing value."""
    rng = np.random.default_rng(6)
    g = np.repeat(np.arange(8), 4)
    Y = rng.poisson(1.5, (4, 32)) + np.linspace(0, 1.5, 4)[:, None] * rng.normal(size=(4, 8))[:, g]
    fit = jaxlmm.lmm("y ~ 1 + (1 | g)", {"y": Y[3], "g": g})
    bad = np.vstack([Y, np.full(32, 2.0), np.where(np.arange(32) == 3, np.nan, Y[0])])
    many = jaxlmm.rlrt(fit, n=500, y=bad)
    for i, y in enumerate(Y):
        one = jaxlmm.rlrt(fit.refit(y), n=500)
        assert (many.statistic[i], many.p[i]) == pytest.approx((one.statistic, one.p), abs=1e-8)
    assert np.isnan(many.p[4:]).all() and list(many.frame()["status"][4:]) == ["bad_response", "bad_response"]
    counts = rng.poisson(1.0, (3, 32)).astype(float)
    np.testing.assert_allclose(jaxlmm.rlrt(fit, n=500, y=sparse.csr_array(counts)).p,
                               jaxlmm.rlrt(fit, n=500, y=counts).p, rtol=1e-12)  # fmt: skip
    assert "(1 | g) in 6 responses" in str(many)
    other = jaxlmm.lmm("y ~ 1 + (1 | g) + (1 | h)", {"y": Y[3], "g": g, "h": np.tile(np.arange(4), 8)})
    with pytest.raises(jaxlmm.errors.DataError, match="y: many responses have one law"):
        jaxlmm.rlrt(other, "(1 | g)", y=Y)


def test_weights_and_other_terms_by_dense_algebra():
    """Eigenvalues from V_0 as a matrix, with the other term at its estimate without the tested one."""
    rng = np.random.default_rng(4)
    d = {"g": rng.integers(0, 7, 50), "h": np.arange(50) % 5, "x": rng.normal(size=50), "w": rng.uniform(0.5, 2, 50)}
    d["y"] = rng.normal(size=5)[d["h"]] + rng.normal(size=50)
    fit = jaxlmm.lmm("y ~ x + (1 | g) + (1 | h)", d, weights="w")
    null = jaxlmm.lmm("y ~ x + (1 | h)", d, weights="w")
    test = jaxlmm.rlrt(fit, "(1|g)", n=50, seed=1)
    assert not test.exact and test.statistic == pytest.approx(max(2 * (fit.loglik - null.loglik), 0), abs=1e-6)
    same = d["h"][:, None] == d["h"]
    V = null.varcorr().groups[0].cov[0, 0] * same + null.sigma**2 * np.diag(1 / d["w"])
    W, X, E = np.linalg.inv(V), null.model.X, np.eye(7)[d["g"]]
    P = W - W @ X @ np.linalg.solve(X.T @ W @ X, X.T @ W)
    mu = np.linalg.eigvalsh(E.T @ P @ E)
    mu = mu[mu > 1e-8 * mu[-1]]
    with jax.enable_x64(True):
        expected = draw(mu, mu, 48, 48 - len(mu), 50, seed=1)
    np.testing.assert_allclose(test.replicates, expected, atol=1e-6)


def test_relationship_and_structure():
    """A relationship matrix enters through its root; ``iid(0 + f | g)`` is one variance of several effects."""
    rng = np.random.default_rng(5)
    d = {"g": np.repeat(np.arange(6), 5), "f": np.tile(list("abcde"), 6), "y": rng.normal(size=30)}
    L = np.tril(rng.normal(size=(6, 6))) * 0.4 + np.eye(6)
    A = L @ L.T
    fit = jaxlmm.lmm("y ~ 1 + (1 | g)", d, relationship={"g": A})
    test, Z = jaxlmm.rlrt(fit, n=30), np.eye(6)[d["g"]]
    centred = Z - Z.mean(0)
    mu = np.linalg.eigvalsh(centred @ A @ centred.T)[-5:]
    with jax.enable_x64(True):
        np.testing.assert_allclose(test.replicates, draw(mu, mu, 29, 24, 30, 0), atol=1e-6)
    d["y"] = d["y"] + rng.normal(size=30) * 0.1
    several = jaxlmm.rlrt(jaxlmm.lmm("y ~ 1 + iid(0 + f | h)", {**d, "h": np.arange(30) // 10}), n=30)
    assert np.isfinite(several.p)


@pytest.mark.parametrize(
    ("formula", "term", "words"),
    [
        ("Reaction ~ Days + (Days | Subject)", None, "not a term with one variance"),
        ("Reaction ~ Days + (1 | Subject)", "(1 | s)", "expected one of"),
        ("Reaction ~ Days + (Days || Subject)", None, "expected one of"),
    ],
)
def test_misuse_gets_one_sentence(formula, term, words):
    with pytest.raises(jaxlmm.DataError, match=words):
        jaxlmm.rlrt(jaxlmm.lmm(formula, data()), term)
