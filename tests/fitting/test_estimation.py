"""Optima: self-consistency, invariances, singular fits, saddle points, brute force and closed forms."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import jaxlmm
import oracle
from cases import REFERENCES, load_case, load_data

ROWS, GROUPS = 24, 6
CODES = np.repeat(np.arange(GROUPS), (2, 3, 4, 4, 5, 6))


def sample(seed, sd=(1.0, 0.6), sigma=1.0):
    """Unbalanced data on dyadic grids (sums with large offsets stay exact): y ~ x + (x | g)."""
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(size=ROWS) * 2**10) / 2**10
    b = rng.normal(size=(GROUPS, 2)) * sd
    y = 2 + x + b[CODES, 0] + b[CODES, 1] * x + sigma * rng.normal(size=ROWS)
    return {"y": np.round(y * 2**12) / 2**12, "x": x, "g": np.array([f"g{c}" for c in CODES])}


SLOPE, INTERCEPT = "y ~ x + (x | g)", "y ~ x + (1 | g)"
REGULAR = 8  # a seed whose slope model has an interior optimum


@functools.cache
def base(method="REML"):
    fit = jaxlmm.lmm(SLOPE, sample(REGULAR), method=method)
    assert not fit.singular
    return fit


def refitted(method="REML", formula=SLOPE, **columns):
    return jaxlmm.lmm(formula, sample(REGULAR) | columns, method=method)


def same_fit(found, expected, rtol=1e-6):
    assert found.loglik == pytest.approx(expected.loglik, abs=1e-7)
    assert np.max(np.abs(found.coef - expected.coef) / expected.se) < rtol
    np.testing.assert_allclose(found.se, expected.se, rtol=rtol)
    np.testing.assert_allclose(found.varcorr().groups[0].cov, expected.varcorr().groups[0].cov, rtol=10 * rtol)
    assert found.sigma == pytest.approx(expected.sigma, rel=rtol)


# ---------------------------------------------------------------------------- self-consistency


@pytest.mark.parametrize("method", [pytest.param("REML", marks=pytest.mark.smoke), "ML"])
def test_loglik_is_the_likelihood_at_theta(method):
    fit = base(method)
    function = jaxlmm.reml if method == "REML" else jaxlmm.ml
    assert float(function(fit.theta, fit.model)) == pytest.approx(fit.loglik, abs=1e-9)
    G, sigma = fit.varcorr().groups[0].cov, fit.sigma
    data = sample(REGULAR)
    X = np.column_stack([np.ones(ROWS), data["x"]])
    V = oracle.marginal([(X, CODES, G)], sigma, ROWS)
    assert oracle.loglik(V, data["y"], X, method == "REML") == pytest.approx(fit.loglik, abs=1e-8)
    beta, vcov = oracle.gls(V, data["y"], X)
    np.testing.assert_allclose(fit.coef, beta, rtol=1e-8)
    np.testing.assert_allclose(fit.vcov, vcov, rtol=1e-8)


def test_effects_at_the_optimum_are_the_textbook_ones():
    fit, data = base(), sample(REGULAR)
    X = np.column_stack([np.ones(ROWS), data["x"]])
    terms = [(X, CODES, fit.varcorr().groups[0].cov)]
    V = oracle.marginal(terms, fit.sigma, ROWS)
    effects = fit.ranef()["g"]
    assert list(effects.levels) == [f"g{i}" for i in range(GROUPS)]
    np.testing.assert_allclose(effects.values, oracle.blups(terms, V, data["y"], X)[0], atol=1e-8)
    np.testing.assert_allclose(effects.condvar, oracle.conditional_variances(terms, V)[0], atol=1e-8)
    fitted = X @ fit.coef + np.sum(X * effects.values[CODES], axis=1)
    np.testing.assert_allclose(fit.fitted, fitted, atol=1e-8)
    np.testing.assert_allclose(fit.residuals(), data["y"] - fitted, atol=1e-8)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_no_neighbour_is_better(method):
    """The gradient of the public log-likelihood vanishes and its Hessian is negative definite."""
    import jax

    fit = base(method)
    function = jaxlmm.reml if method == "REML" else jaxlmm.ml
    derivatives = jax.jit(lambda t: (jax.grad(function)(t, fit.model), jax.hessian(function)(t, fit.model)))
    gradient, hessian = map(np.asarray, derivatives(fit.theta))
    assert np.all(np.linalg.eigvalsh(hessian) < 0)
    assert gradient @ np.linalg.solve(-hessian, gradient) < 1e-10


def test_the_certificate_of_an_interior_optimum():
    certificate = base().certificate
    assert base().converged is True
    assert certificate.decrement < 1e-8
    assert certificate.min_eigenvalue > 0
    assert np.isfinite(certificate.gradient_norm)


# ---------------------------------------------------------------------------- invariances


def test_row_order():
    order = np.random.default_rng(4).permutation(ROWS)
    shuffled = {k: v[order] for k, v in sample(REGULAR).items()}
    fit = jaxlmm.lmm(SLOPE, shuffled)
    same_fit(fit, base())
    np.testing.assert_allclose(fit.fitted, base().fitted[order], atol=1e-6)


def test_group_labels():
    relabelled = np.array(["zyxwvu"[c] for c in CODES])
    fit = refitted(g=relabelled)
    same_fit(fit, base())
    np.testing.assert_allclose(fit.ranef()["g"].values[::-1], base().ranef()["g"].values, atol=1e-6)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize(("shift", "factor"), [(5.0, 8.0), (-3.0, -0.125), (0.0, 2.0**30), (0.0, 2.0**-30)])
def test_response_shifted_and_scaled(method, shift, factor):
    fit = refitted(method, y=shift + factor * sample(REGULAR)["y"])
    expected = base(method)
    df = ROWS - 2 if method == "REML" else ROWS
    assert fit.loglik == pytest.approx(expected.loglik - df * np.log(abs(factor)), abs=1e-6)
    np.testing.assert_allclose(fit.coef - [shift, 0], factor * expected.coef, rtol=1e-6, atol=1e-6 * abs(factor))
    assert fit.sigma == pytest.approx(abs(factor) * expected.sigma, rel=1e-6)
    np.testing.assert_allclose(fit.varcorr().groups[0].corr, expected.varcorr().groups[0].corr, atol=1e-5)


def test_a_large_constant_in_the_response():
    fit = refitted(y=1e9 + sample(REGULAR)["y"])
    assert fit.loglik == pytest.approx(base().loglik, abs=1e-5)
    assert fit.coef[1] == pytest.approx(base().coef[1], abs=1e-4 * base().se[1])
    np.testing.assert_allclose(fit.varcorr().groups[0].sd, base().varcorr().groups[0].sd, rtol=1e-4)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_predictor_rescaled_in_both_parts(method, factor):
    """x in other units, in the fixed part and in the bar; REML shifts by log|factor| (no X'X term)."""
    fit = refitted(method, x=factor * sample(REGULAR)["x"])
    expected = base(method)
    shift = np.log(factor) if method == "REML" else 0.0
    assert fit.loglik == pytest.approx(expected.loglik - shift, abs=1e-6)
    np.testing.assert_allclose(fit.coef * [1, factor], expected.coef, rtol=1e-5)
    np.testing.assert_allclose(fit.varcorr().groups[0].sd * [1, factor], expected.varcorr().groups[0].sd, rtol=1e-5)
    assert fit.converged


@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_random_effect_columns_rescaled(factor):
    fit = refitted(formula="y ~ x + (z | g)", z=factor * sample(REGULAR)["x"])
    assert fit.loglik == pytest.approx(base().loglik, abs=1e-7)
    sds = fit.varcorr().groups[0].sd * [1, factor]
    np.testing.assert_allclose(sds, base().varcorr().groups[0].sd, rtol=1e-5)


def test_unit_weights_and_an_offset_in_the_column_space_change_nothing():
    same_fit(jaxlmm.lmm(SLOPE, sample(REGULAR), weights=np.ones(ROWS)), base())
    offset = jaxlmm.lmm(SLOPE, sample(REGULAR) | {"o": 3 + 2 * sample(REGULAR)["x"]}, offset="o")
    assert offset.loglik == pytest.approx(base().loglik, abs=1e-7)
    np.testing.assert_allclose(offset.coef + [3, 2], base().coef, atol=1e-6)
    np.testing.assert_allclose(offset.fitted, base().fitted, atol=1e-6)


def test_weights_scale_sigma_alone():
    """Var = sigma^2 / w: weights four times as large double sigma and change nothing else."""
    w = np.random.default_rng(8).uniform(0.5, 2, size=ROWS)
    one, four = (jaxlmm.lmm(SLOPE, sample(REGULAR) | {"w": k * w}, weights="w") for k in (1, 4))
    assert four.sigma == pytest.approx(2 * one.sigma, rel=1e-6)
    np.testing.assert_allclose(four.coef, one.coef, rtol=1e-6)
    assert four.loglik == pytest.approx(one.loglik, abs=1e-7)


def test_engines_agree():
    same_fit(
        jaxlmm.lmm(SLOPE, sample(REGULAR), engine="dense"),
        jaxlmm.lmm(SLOPE, sample(REGULAR), engine="grouped"),
    )


def test_order_of_terms():
    case = load_case("pastes_nested_reml")
    one = jaxlmm.lmm("strength ~ 1 + (1 | batch) + (1 | cask:batch)", load_data(case))
    assert one.loglik == pytest.approx(case["loglik"], abs=1e-6)
    assert [g.group for g in one.varcorr().groups] == ["batch", "cask:batch"]


# ---------------------------------------------------------------------------- singular fits


def mentions_singular(fit):
    text = str(fit.summary())
    assert "singular" in text.lower()
    return text


@pytest.mark.parametrize(
    "name", [pytest.param("dyestuff2_singular_reml", marks=pytest.mark.smoke), "dyestuff2_singular_ml"]
)
def test_zero_variance(name):
    case = load_case(name)
    fit = jaxlmm.lmm(case["formula"], load_data(case), method=case["method"])
    assert fit.singular is True
    assert fit.converged is True
    assert np.isneginf(fit.theta[0])
    assert fit.varcorr().groups[0].sd[0] == 0
    assert np.all(fit.ranef()["Batch"].values == 0)
    assert np.all(fit.ranef()["Batch"].condvar == 0)
    assert "Batch" in mentions_singular(fit)
    function = jaxlmm.reml if case["method"] == "REML" else jaxlmm.ml
    assert float(function(fit.theta, fit.model)) == pytest.approx(fit.loglik, abs=1e-9)
    assert np.all(np.isfinite(fit.vcov))


def degenerate(seed=0):
    """Slopes that are an exact multiple of the intercepts: the optimum has correlation +-1."""
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(size=ROWS) * 2**10) / 2**10
    b = 2 * rng.normal(size=GROUPS)
    y = 1 + x + b[CODES] * (1 + 0.5 * x) + rng.normal(size=ROWS)
    return {"y": y, "x": x, "g": np.array([f"g{c}" for c in CODES])}


def test_correlation_of_one():
    """Over a few data sets: a singular fit is at the boundary and no worse than brute force."""
    singular = 0
    for seed in range(6):
        data = degenerate(seed)
        fit = jaxlmm.lmm(SLOPE, data)
        X = np.column_stack([np.ones(ROWS), data["x"]])
        assert fit.loglik > oracle.best_loglik(X, CODES, data["y"], X, seed=seed) - 1e-6
        g = fit.varcorr().groups[0]
        lowest = np.linalg.eigvalsh(g.cov)[0]
        if fit.singular:
            singular += 1
            assert lowest < 1e-6 * g.cov.max()
            assert abs(g.corr[0, 1]) == pytest.approx(1, abs=1e-3)
            mentions_singular(fit)
        else:
            assert lowest > 1e-9 * g.cov.max()
    assert singular >= 2


def test_the_direction_of_a_singular_fit_is_named():
    """The combination of effects without variance: G times it is zero; the summary prints it."""
    for seed in range(6):
        fit = jaxlmm.lmm(SLOPE, degenerate(seed))
        if fit.singular:
            break
    (found,) = fit.singular_directions
    assert (found.group, tuple(found.columns)) == ("g", ("(Intercept)", "x"))
    assert str(found) in str(fit.summary())
    direction = np.asarray(found.direction)
    G = fit.varcorr().groups[0].cov
    assert np.linalg.norm(G @ direction) < 1e-4 * np.linalg.norm(G) * np.linalg.norm(direction)


@pytest.mark.parametrize(("method", "limit"), [("REML", 1.0), ("ML", 6 / 5)])
def test_balanced_one_way_data(method, limit):
    """Estimates are the truncated ANOVA ones, and the variance is exactly 0 if and only if F <= limit."""
    rng = np.random.default_rng(30)
    tables = rng.normal(size=(40, 6, 5)) + 0.3 * rng.normal(size=(40, 6, 1))
    data = {"y": tables[0].ravel(), "g": np.repeat(np.array(list("abcdef")), 5)}
    first = jaxlmm.lmm("y ~ 1 + (1 | g)", data, method=method)
    zeros = 0
    for table in tables:
        fit = first.refit(table.ravel())
        between, within = oracle.mean_squares(table)
        assert fit.singular is bool(between / within <= limit)
        zeros += fit.singular
        variance, residual = oracle.one_way_estimates(table, method == "REML")
        assert fit.sigma**2 == pytest.approx(residual, rel=1e-6)
        assert fit.varcorr().groups[0].cov[0, 0] == pytest.approx(variance, rel=1e-4, abs=1e-6 * residual)
        assert fit.loglik == pytest.approx(oracle.one_way_loglik(table, variance, residual, method == "REML"), abs=1e-8)
        assert fit.converged
    assert 5 < zeros < 35


# ---------------------------------------------------------------------------- brute force


@pytest.mark.parametrize("q", [1, 2])
def test_no_optimum_is_missed(q):
    """Fifteen small data sets, a third without any group variance, against scipy from several starts."""
    formula = INTERCEPT if q == 1 else SLOPE
    for seed in range(15):
        sd = [(1.0, 0.6), (0.4, 0.0), (0.0, 0.0)][seed % 3]
        data, method = sample(100 + seed, sd), ("REML", "ML")[seed % 2]
        fit = jaxlmm.lmm(formula, data, method=method)
        X = np.column_stack([np.ones(ROWS), data["x"]])
        best = oracle.best_loglik(X[:, :q], CODES, data["y"], X, method == "REML", seed)
        assert fit.loglik > best - 1e-6, (seed, fit.loglik, best)
        assert fit.converged, seed
        V = oracle.marginal([(X[:, :q], CODES, fit.varcorr().groups[0].cov)], fit.sigma, ROWS)
        assert oracle.loglik(V, data["y"], X, method == "REML") == pytest.approx(fit.loglik, abs=1e-8)


def test_saddle_point_data():
    """A bioequivalence study on which optimisers stopped at a saddle point (MixedModels.jl issue 705)."""
    pandas = pytest.importorskip("pandas")
    text = dict.fromkeys(["sub", "seq", "per", "trt"], "category")
    data = pandas.read_csv(REFERENCES / "data" / "saddlepointdata.csv", dtype=text)
    data["logAUCT"] = np.log(data["AUCT"])
    fit = jaxlmm.lmm("logAUCT ~ trt + seq + per + (0 + trt | sub)", data)
    assert fit.nobs == 221  # eight areas are missing
    data = data.dropna()
    y, codes = data["logAUCT"].to_numpy(), pandas.Categorical(data["sub"]).codes.astype(int)

    def indicators(column):
        return pandas.get_dummies(data[column]).to_numpy(float)

    X = np.column_stack([np.ones(len(y)), *(indicators(c)[:, 1:] for c in ("trt", "seq", "per"))])
    Z = indicators("trt")
    best = 24.858232557  # lme4 1.1-31, and BFGS on the oracle from three starts
    assert fit.loglik == pytest.approx(best, abs=1e-6)
    assert fit.converged
    V = oracle.marginal([(Z, codes, fit.varcorr().groups[0].cov)], fit.sigma, len(y))
    assert oracle.loglik(V, y, X) == pytest.approx(fit.loglik, abs=1e-7)


def test_a_flat_likelihood_is_said():
    """Of two rows a pair, differing by one covariate's sign, slopes and errors cannot be told apart given the pairs."""
    rng = np.random.default_rng(0)
    x, g = np.tile([-1.0, 1.0], 15), np.repeat(np.arange(15), 2)
    data = {"y": rng.normal(size=30) + 3 * rng.normal(size=15)[g] * x, "x": x, "g": g}
    text = str(jaxlmm.lmm("y ~ (1 | g) + (0 + x | g)", data).summary())
    assert "the likelihood is flat: the data do not tell the covariance parameters of g and" in text
    assert "flat" not in str(base().summary())
