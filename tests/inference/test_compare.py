"""Likelihood ratio tests: tables of lme4 and nlme, laws on the boundary, the bootstrap, information criteria."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

import jaxlmm
from cases import REFERENCES, some
from jaxlmm.inference.ratios.mixtures import (
    Mixture,
    cone_mixture,
    orthant_weights,
    projected_lengths,
    simulated_weights,
)

HALF = "0.5 chi2({}) + 0.5 chi2({})".format


@functools.cache
def sleep(formula, method="REML"):
    return jaxlmm.lmm(f"Reaction ~ {formula}", jaxlmm.datasets.load("sleepstudy"), method=method)


@functools.cache
def simulated():
    """20 groups of 6 times, crossed with 7 levels."""
    rng, n = np.random.default_rng(0), 120
    d = {"g": np.repeat(np.arange(20), 6), "t": np.tile(np.arange(6), 20), "h": rng.integers(0, 7, n)}
    d |= {"x": rng.normal(size=n), "z": rng.normal(size=n)}
    slopes = 1 + 0.3 * rng.normal(size=20)[d["g"]]
    d["y"] = rng.normal(size=20)[d["g"]] + slopes * d["x"] + 0.5 * rng.normal(size=7)[d["h"]] + rng.normal(size=n)
    return d


@functools.cache
def fit(formula, residual=None, method="REML"):
    return jaxlmm.lmm(f"y ~ {formula}", simulated(), residual=residual, method=method)


# ---------------------------------------------------------------------------------------- tables of other software


def test_the_table_of_lme4():
    """R: anova(m1, m2, m3, refit = FALSE), lme4 1.1-31, default REML fits of sleepstudy."""
    table = jaxlmm.compare(
        sleep("Days + (Days | Subject)"), sleep("Days + (1 | Subject)"), sleep("Days + (Days || Subject)")
    )
    np.testing.assert_array_equal(table.npar, [4, 5, 6])
    np.testing.assert_allclose(table.aic, [1794.465085, 1753.669294, 1755.628272], atol=1e-5)
    np.testing.assert_allclose(table.bic, [1807.236913, 1769.634078, 1774.786013], atol=1e-5)
    np.testing.assert_allclose(table.statistic[1:], [42.79579, 0.04102], atol=1e-5)
    np.testing.assert_allclose(table.df[1:], [1, 1])
    # lme4 refers both to chi2(1); a variance added is on the boundary and has half of its p, a correlation is interior
    np.testing.assert_allclose(table.p[1:], [6.0763e-11 / 2, 0.8395], rtol=1e-4)
    assert table.references[1:] == (HALF(0, 1), "chi2(1)")
    frame = table.frame()
    assert isinstance(frame, pd.DataFrame) and list(frame["df"][1:]) == [1.0, 1.0]
    assert "3: Reaction ~ Days + (Days | Subject)" in str(table) and "<table>" in table._repr_html_()


def test_fixed_effects_by_maximum_likelihood():
    """REML fits with other fixed effects are refused; refitted, the ratio is that of ML fits."""
    data = pd.read_csv(REFERENCES / "data" / "orthodont.csv")
    small, large = (jaxlmm.lmm(f"distance ~ age {op} Sex + (age | Subject)", data) for op in "+*")
    with pytest.raises(jaxlmm.DataError, match="refit=True"):
        jaxlmm.compare(small, large)
    table = jaxlmm.compare(small, large, refit=True)
    by_ml = [jaxlmm.lmm(f"distance ~ age {op} Sex + (age | Subject)", data, method="ML") for op in "+*"]
    np.testing.assert_allclose(table.loglik, [f.loglik for f in by_ml], rtol=1e-10)
    assert table.p[1] == pytest.approx(stats.chi2.sf(2 * (by_ml[1].loglik - by_ml[0].loglik), 1), rel=1e-6)
    assert table.references[1] == "chi2(1)" and "maximum likelihood" in str(table)


@pytest.mark.slow
def test_the_table_of_nlme():
    """R: anova of gls(distance ~ age * Sex, Orthodont) with corAR1, and with corSymm and varIdent, nlme 3.1-162."""
    data = pd.read_csv(REFERENCES / "data" / "orthodont_visits.csv")
    small, large = (
        jaxlmm.lmm("distance ~ age * Sex", data, residual=f"{name}(visit | Subject)") for name in ("ar1", "us")
    )
    table = jaxlmm.compare(small, large)
    np.testing.assert_allclose(table.loglik, [-222.2937, -212.2734], atol=1e-4)
    assert table.statistic[1] == pytest.approx(20.04065, abs=1e-4)
    assert table.p[1] == pytest.approx(0.0102, abs=5e-5) and table.references[1] == "chi2(8)"
    assert "residual: ar1(visit | Subject)" in table.names[0]


# ---------------------------------------------------------------------------------------- laws of pairs of models

UNDEFINED, NOT_NESTED = "no test: parameters that are added are not defined", "no test: not nested"
PAIRS = [
    ("x + (1 | g)", None, "x + (x | g)", None, HALF(1, 2)),  # Stram & Lee, case 2
    ("x + (x | g)", None, "x + (x + z | g)", None, HALF(2, 3)),
    ("x + (1 | g)", None, "x + (1 | g) + (1 | h)", None, HALF(0, 1)),  # Self & Liang, case 5
    ("x + (x || g)", None, "x + (x | g)", None, "chi2(1)"),
    ("x + (1 | g)", None, "x + (1 | g)", "ar1(t | g)", "chi2(1)"),
    ("x", "ar1(t | g)", "x", "toep(t | g)", "chi2(4)"),
    ("x", "cs(t | g)", "x", "us(t | g)", "chi2(19)"),
    ("x", "cs(t | g)", "x + (1 | h)", "cs(t | g)", HALF(0, 1)),
    ("x + (1 | g)", None, "x + (1 | h) + (0 + x | g)", None, NOT_NESTED),
    ("x + (1 | g)", None, "x + (1 | g) + ou(t | g)", None, UNDEFINED),
    ("x + (1 | g)", None, "x", "cs(t | g)", "no test: the models have as many parameters"),
    ("x", "ar1(t | g)", "x", "ar1h(t | g)", "chi2(5)"),
]


@pytest.mark.parametrize(("first", "residual", "second", "other", "law"), some(PAIRS, *(PAIRS[i] for i in (2, 8))))
def test_laws(first, residual, second, other, law):
    small, large = fit(first, residual), fit(second, other)
    if small.npar < large.npar and large.loglik < small.loglik:
        small, large = large, small
    assert jaxlmm.compare(small, large).references[1].startswith(law)


def test_fixed_effects_and_variances_at_once():
    table = jaxlmm.compare(fit("x + (1 | g)", method="ML"), fit("x + z + (x | g)", method="ML"))
    assert table.references[1] == HALF(2, 3)
    T = table.statistic[1]
    assert table.p[1] == pytest.approx(0.5 * stats.chi2.sf(T, 2) + 0.5 * stats.chi2.sf(T, 3))


@pytest.mark.slow
def test_two_variances_with_information_by_dense_algebra():
    """Weights of a quadrant in the metric of 1/2 tr(P V_i P V_j) less what the other parameters take."""
    small, large = fit("x + (1 | g)"), fit("x + (x || g) + (1 | h)")
    law, d = jaxlmm.compare(small, large).laws[1], simulated()
    same = (d["g"][:, None] == d["g"]).astype(float)
    parts = [np.outer(d["x"], d["x"]) * same, (d["h"][:, None] == d["h"]) * 1.0, same, np.eye(120)]
    V = small.varcorr().groups[0].cov[0, 0] * parts[2] + small.sigma**2 * parts[3]
    W, X = np.linalg.inv(V), small.model.X
    P = W - W @ X @ np.linalg.solve(X.T @ W @ X, X.T @ W)
    information = np.array([[0.5 * np.trace(P @ A @ P @ B) for A in parts] for B in parts])
    C = np.linalg.inv(information)[:2, :2]
    angle = np.arccos(C[0, 1] / np.sqrt(C[0, 0] * C[1, 1]))  # between the normals of the two half-planes
    np.testing.assert_array_equal(law.df, [0, 1, 2])
    np.testing.assert_allclose(law.weights, [angle / (2 * np.pi), 0.5, 0.5 - angle / (2 * np.pi)], atol=1e-6)


def test_a_singular_smaller_fit_is_said():
    d = {**simulated()}
    d["y"] = np.tile([1.0, -1, 1, -1, 1, -1], 20) + 0.1 * d["x"] + 0.01 * d["z"]
    small, large = (jaxlmm.lmm(f"y ~ x + (1 | g){more}", d) for more in ("", " + (1 | h)"))
    assert small.singular
    table = jaxlmm.compare(small, large)
    assert table.references[1] == HALF(0, 1) and any("singular" in note for note in table.notes)


def test_another_basis_of_x():
    """REML log-likelihoods of another basis of X differ by a constant, which is taken off."""
    d = {**simulated(), "u": 3.0 * simulated()["x"] - 7.0}
    small, large, other = (jaxlmm.lmm(f"y ~ {f} | g)", d) for f in ("x + (1", "x + (x", "u + (x"))
    direct, turned = jaxlmm.compare(small, large), jaxlmm.compare(small, other)
    assert abs(large.loglik - other.loglik) > 0.5
    np.testing.assert_allclose(turned.statistic[1], direct.statistic[1], atol=1e-6)
    np.testing.assert_allclose(turned.p[1], direct.p[1], atol=1e-6)
    assert any("another basis" in note for note in turned.notes) and not direct.notes


# ---------------------------------------------------------------------------------------- mixtures


def test_weights_of_half_lines():
    rho = 0.6
    angle = np.arccos(rho)
    np.testing.assert_allclose(
        orthant_weights(np.array([[1, rho], [rho, 1]])), [angle / (2 * np.pi), 0.5, 0.5 - angle / (2 * np.pi)]
    )
    np.testing.assert_allclose(orthant_weights(np.eye(4)), np.array([1, 4, 6, 4, 1]) / 16)
    A = np.random.default_rng(1).normal(size=(3, 4))
    C = A @ A.T
    sd = np.sqrt(np.diagonal(C))
    exact = orthant_weights(C / np.outer(sd, sd))
    assert exact.sum() == pytest.approx(1.0) and exact[::2].sum() == pytest.approx(0.5)
    np.testing.assert_allclose(simulated_weights(C, (1, 1, 1), 20_000, 0), exact, atol=0.012)


def test_projection_on_half_lines_is_non_negative_least_squares():
    rng = np.random.default_rng(2)
    A = rng.normal(size=(4, 6))
    metric = A @ A.T
    z = rng.normal(size=(40, 4))
    near, rest = projected_lengths(z, metric, (1, 1, 1, 1))
    root = np.linalg.cholesky(metric).T
    np.testing.assert_allclose(rest, [optimize.nnls(root, root @ v)[1] ** 2 for v in z], atol=1e-6)
    np.testing.assert_allclose(near + rest, np.sum(z @ metric * z, 1), rtol=1e-5)


def test_projection_on_matrices_where_it_is_known():
    """In the metric of K H K', in which a projection clips the eigenvalues of K H K'."""
    rng, K = np.random.default_rng(3), np.array([[1.0, 0.0], [0.7, 0.4]])
    rows, columns = [0, 1, 1], [0, 0, 1]

    def matrix(v):
        return np.array([[v[0], v[1]], [v[1], v[2]]])

    T = np.array([(K @ matrix(e) @ K.T)[rows, columns] for e in np.eye(3)]).T
    metric = T.T @ np.diag([1.0, 2.0, 1.0]) @ T
    z = rng.normal(size=(40, 3))
    near, _ = projected_lengths(z, metric, (2,))
    clipped = [np.sum(np.maximum(np.linalg.eigvalsh(K @ matrix(v) @ K.T), 0) ** 2) for v in z]
    np.testing.assert_allclose(near, clipped, atol=1e-5)
    law = cone_mixture(np.linalg.inv(metric), (2,))
    # a circular cone of half-angle 45 degrees, whatever K: the share of its cap, and half less that of its dual's
    cap = 0.5 * (1 - np.sqrt(0.5))
    np.testing.assert_allclose(law.weights, [cap, 0.5 - cap, 0.5 - cap, cap], atol=0.012)
    assert law.simulated


def test_p_values_and_words():
    law = Mixture(np.array([0, 1]), np.array([0.5, 0.5]))
    assert law.p_value(2.7055) == pytest.approx(0.05, abs=1e-5) and law.p_value(0.0) == 1.0
    assert law.mean == 0.5 and str(law.plus(2)) == HALF(2, 3) and str(Mixture.chi2(4)) == "chi2(4)"


# ---------------------------------------------------------------------------------------- bootstrap


@pytest.mark.slow
def test_bootstrap_by_hand():
    small, large = fit("x + (1 | g)"), fit("x + (1 | g) + (1 | h)")
    table = jaxlmm.compare(small, large, method="bootstrap", n=40, seed=3, progress=False)
    Y = small.simulate(40, seed=3)
    T = np.maximum(2 * (large.refit(Y).loglik - small.refit(Y).loglik), 0)
    test = table.tests[1]
    np.testing.assert_allclose(test.replicates, T, atol=1e-5)
    assert table.p[1] == pytest.approx((1 + np.sum(T >= table.statistic[1])) / 41)
    scaled, p = test.bartlett(table.laws[1])
    assert scaled == pytest.approx(table.statistic[1] * 0.5 / T.mean(), rel=1e-5) and 0 < p < 1
    assert table.references[1] == "bootstrap, 40 replicates" and test.lost == 0


@pytest.mark.slow
def test_the_law_is_that_of_replicates():
    """Many groups: replicates of the ratio have the mixture that the two models give, a matrix of two effects added."""
    rng, G = np.random.default_rng(6), 150
    d = {"g": np.repeat(np.arange(G), 6), "x": rng.normal(size=6 * G), "z": rng.normal(size=6 * G)}
    d["y"] = rng.normal(size=G)[d["g"]] + rng.normal(size=6 * G)
    small, large = (jaxlmm.lmm(f"y ~ 1 + {terms}", d) for terms in ("(1 | g)", "(1 | g) + (0 + x | g) + (0 + z | g)"))
    table = jaxlmm.compare(small, large, method="bootstrap", n=600, seed=1, progress=False)
    law, T = table.laws[1], table.tests[1].replicates
    assert abs(np.mean(T == 0) - law.weights[0]) < 0.08
    for level in (0.5, 0.2, 0.1, 0.05):
        share = np.mean([law.p_value(t) <= level for t in T])
        assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / 600) + 0.01
    assert abs(T.mean() - law.mean) < 0.15


@pytest.mark.slow
def test_the_bootstrap_where_no_law_is_known():
    small, large = fit("x + (1 | g)"), fit("x + (1 | g) + ou(t | g)")
    table = jaxlmm.compare(small, large, method="bootstrap", n=9, progress=False)
    assert table.laws[1] is None and 0.1 <= table.p[1] <= 1.0


# ---------------------------------------------------------------------------------------- misuse


def other_data(**changes):
    d = {k: np.array(v) for k, v in simulated().items()}
    return jaxlmm.lmm("y ~ x + (x | g)", {**d, **changes})


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: other_data(y=simulated()["y"] + 1), "another y"),
        (lambda: jaxlmm.lmm("y ~ x + (x | g)", {k: v[:114] for k, v in simulated().items()}), "120 and 114"),
        (
            lambda: jaxlmm.lmm("y ~ x + (x | g)", {**simulated(), "w": np.full(120, 2.0)}, weights="w"),
            "another weights",
        ),
        (lambda: fit("x + (x | g)", method="ML"), "by REML and by ML"),
        (lambda: fit("z + x + (1 | g)"), "different contrasts"),
    ],
)
def test_what_cannot_be_compared(other, words):
    with pytest.raises(jaxlmm.DataError, match=words):
        jaxlmm.compare(fit("x + (1 | g)"), other())


def test_means_that_are_not_nested_get_no_test():
    table = jaxlmm.compare(fit("x + (1 | g)", method="ML"), fit("z + (x | g)", method="ML"))
    assert "not nested" in table.references[1] and np.isnan(table.p[1]) and np.all(np.isfinite(table.aic))
    with pytest.raises(jaxlmm.DataError, match="method: found 'wald'"):
        jaxlmm.compare(fit("x + (1 | g)"), fit("x + (x | g)"), method="wald")


# ---------------------------------------------------------------------------------------- information criteria


def test_aicc():
    one = sleep("Days + (Days | Subject)")
    assert one.aicc == pytest.approx(one.aic + 2 * 6 * 7 / (180 - 7))


# cAIC4 1.0 with its calculateGaussianBc corrected: in its analytic branch the second term of C is e eWe / (2 e'y), half
# of what the derivative of the criterion (and its branch analytic = FALSE) has. Without the correction its degrees of
# freedom are 31.302 and 30.970 (both in compare.R); finite differences of refits, below, are with us.
CAIC = {"REML": (31.2534667, -824.5069710, 1711.5208754), "ML": (30.9154362, -824.9295093, 1711.6898909)}


@pytest.mark.parametrize("method", CAIC)
def test_conditional_aic(method):
    found = sleep("Days + (Days | Subject)", method).caic()
    edf, loglik, value = CAIC[method]
    assert found.edf + found.residual == pytest.approx(edf, abs=3e-6)
    assert found.loglik == pytest.approx(loglik, abs=3e-6) and found.value == pytest.approx(value, abs=3e-6)


@pytest.mark.slow
def test_effective_degrees_of_freedom_are_those_of_refits():
    d, h, n = {k: v[:36] for k, v in simulated().items()}, 1e-4, 36
    d["w"] = np.random.default_rng(7).uniform(0.5, 2, n)
    one = jaxlmm.lmm("y ~ x + (1 | g)", d, residual="ar1(t | g)", weights="w")
    slopes = [one.refit(d["y"] + h * e).fitted @ e - one.refit(d["y"] - h * e).fitted @ e for e in np.eye(n)]
    found = one.caic()
    assert found.edf == pytest.approx(np.sum(slopes) / (2 * h), abs=1e-4) and found.of_theta > 0.01


def test_conditional_likelihood_by_hand():
    one = sleep("Days + (Days | Subject)")
    rest = one.model.y - one.fitted
    assert one.caic().loglik == pytest.approx(np.sum(stats.norm.logpdf(rest, scale=one.sigma)), abs=1e-6)
