"""The iterative engine: exact with complete sets of probes, within its stated Monte Carlo error with random ones."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
from cases import some
from jaxlmm import DataError, Iterative, Model, Term
from jaxlmm.likelihood.engines.iterative.krylov import conjugate_gradients, quadratic_forms
from jaxlmm.likelihood.engines.iterative.meeting import meetings
from jaxlmm.likelihood.prepared import prepare
from jaxlmm.pytrees import replace
from likelihood.test_crossed import blocks, design, directions

QUICKLY = {"xla_backend_optimization_level": 0}
CASES = some(["vectors", "nested", *range(40)], "vectors")
FINE = Iterative(tolerance=1e-7, steps=400)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def close(found, expected, tolerance):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * max(1.0, np.abs(expected).max()))


def complete(statistics, seed=0):
    """The engine with a set of probes over which averages are exact: rows of orthogonal matrices."""
    rng = np.random.default_rng(seed)

    def rows(sizes):
        b = max(sizes)
        orthogonal = np.linalg.qr(rng.normal(size=(b, b)))[0] * np.sqrt(b)
        return tuple(orthogonal[:m] for m in sizes)

    probes = rows([b.shape[0] for b in statistics.B])
    (starts,) = rows([sum(b.shape[0] * b.shape[1] for b in statistics.B[1:])])
    return replace(statistics, probes=probes, starts=starts)


@functools.cache
def rows_of(case):
    """y, X, terms and weights: two factors, one with slopes and a separate term; three, one nested; or `design`."""
    if isinstance(case, int):
        return design(case)
    rng = np.random.default_rng(0)
    n, x = 70, rng.normal(size=70)
    one, a, b = np.ones(n), np.minimum(rng.geometric(0.2, n) - 1, 11), rng.integers(0, 6, n)
    if case == "vectors":
        terms = [Term(np.column_stack([one, x]), b), Term(one, a), Term(x, a, name="slopes of a")]
        return rng.normal(size=n), np.column_stack([one, x]), terms, rng.uniform(0.5, 2.0, n)
    terms = [Term(one, a), Term(one, 3 * b + rng.integers(0, 3, n)), Term(one, b)]
    return rng.normal(size=n), np.column_stack([one, x]), terms, None


@functools.cache
def pair(case):
    """The model, statistics of the iterative engine with complete probes, and of the dense one."""
    y, X, terms, weights = rows_of(case)
    models = [Model(y, X, terms, weights=weights, engine=engine) for engine in (FINE, "dense")]
    own, dense = (prepare(model).statistics for model in models)
    return models[1], complete(own), dense


@functools.partial(jax.jit, compiler_options=QUICKLY)
def expansion(statistics, C, D, w):
    return statistics.expand(C, D, lambda gram: w + 0.1 * gram)


@functools.partial(jax.jit, compiler_options=QUICKLY)
def gram(statistics, C):
    return statistics.gram(C)


@functools.partial(jax.jit, compiler_options=QUICKLY)
def rows_at(statistics, C, B):
    """Solutions, and mean effects of each term."""
    return statistics.solve(C, B), *statistics.posterior(C).means


# -- exact with complete probes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("singular", [False, True], ids=["regular", "singular"])
@pytest.mark.parametrize("case", CASES)
def test_everything_equals_the_dense_engine_with_complete_probes(case, singular):
    model, own, dense = pair(case)
    C = blocks(model, 0, singular)
    D, w = directions(C), np.random.default_rng(0).normal(size=(model.X.shape[1] + 1,) * 2)
    w = jnp.asarray(w @ w.T)
    for found, expected in zip(gram(own, C), gram(dense, C), strict=True):
        close(found, expected, 1e-11)
    found, expected = expansion(own, C, D, w), expansion(dense, C, D, w)
    for a, b in zip(jax.tree_util.tree_leaves(found), jax.tree_util.tree_leaves(expected), strict=True):
        close(a, b, 1e-8)


@pytest.mark.slow
def test_the_part_of_the_residual_variance_can_be_fixed():
    model, own, dense = pair("vectors")
    C = blocks(model, 0)
    D = directions(C)._replace(residual=None)
    found, expected = (expansion(s, C, D, jnp.eye(model.X.shape[1] + 1)) for s in (own, dense))
    close(found.gram_slopes, expected.gram_slopes, 1e-9)
    close(found.curvature, expected.curvature, 1e-8)


@pytest.mark.slow
def test_draws_average_to_the_expansion():
    model, own, _ = pair("vectors")
    C, w = blocks(model, 0), jnp.eye(model.X.shape[1] + 1)
    found = expansion(own, C, directions(C), w)
    logdets, value, slopes = own.draws(C, lambda gram: w + 0.1 * gram)
    close(np.mean(logdets), found.logdet, 1e-12)
    close(value, found.gram, 1e-12)
    for a, b in zip((*slopes.random, slopes.residual), (*found.slopes.random, found.slopes.residual), strict=True):
        close(np.mean(a, 0), b, 1e-10)


def test_solutions_and_effects_equal_those_of_the_crossed_engine():
    y, X, terms, weights = rows_of("vectors")
    models = [Model(y, X, terms, weights=weights, engine=engine) for engine in (FINE, "crossed")]
    own, crossed = (prepare(model, compact=False).statistics for model in models)
    own, C, B = complete(own), blocks(models[0], 0), np.random.default_rng(1).normal(size=(len(y), 2))
    for a, b in zip(rows_at(own, C, B), rows_at(crossed, C, B), strict=True):
        close(a, b[: len(a)], 1e-10)


@pytest.mark.slow
def test_the_likelihood_has_derivatives():
    model, own, dense = pair("nested")

    def value(statistics, at):
        logdet, gram = statistics.gram(model.blocks(at))
        return logdet + jnp.sum(jnp.linalg.inv(gram))

    theta = 0.3 * np.random.default_rng(0).normal(size=model.size)

    def derivatives(statistics):
        def slopes(at):
            gradient = jax.grad(functools.partial(value, statistics))(at)
            return gradient, gradient

        return jax.jit(jax.jacfwd(slopes, has_aux=True), compiler_options=QUICKLY)(theta)

    for found, expected in zip(derivatives(own), derivatives(dense), strict=True):
        close(found, expected, 1e-8)


@pytest.mark.slow
def test_the_likelihood_is_a_function_of_the_model():
    y, X, terms, weights = rows_of("nested")
    theta = jnp.zeros(4)
    found, expected = (
        jax.value_and_grad(jaxlmm.reml)(theta, Model(y, X, terms, weights=weights, engine=engine))
        for engine in (Iterative(probes=64), "crossed")
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)  # fewer effects than the part without randomness has
    np.testing.assert_allclose(found[1], expected[1], atol=0.2 * np.max(np.abs(expected[1])))


# -- the pieces ----------------------------------------------------------------------------------------------------


def test_meetings_multiply_like_the_dense_cross_products():
    rng = np.random.default_rng(0)
    n, levels = 300, (40, 7)
    codes = tuple(np.r_[np.arange(m), rng.integers(0, m, n - m)].astype(np.int32) for m in levels)
    Z = (rng.normal(size=(n, 2)), rng.normal(size=(n, 3)))
    whole = [np.zeros((n, m, z.shape[1])) for m, z in zip(levels, Z, strict=True)]
    for dense, code, z in zip(whole, codes, Z, strict=True):
        dense[np.arange(n), code] = z
    cross = np.einsum("nia,njd->iajd", *whole)
    found = meetings(codes, Z, levels)
    counts = meetings(codes, (np.ones((n, 1)), np.full((n, 1), 0.5)), levels)
    assert (found[0][1].value.dtype, counts[0][1].value.dtype) == (np.float64, np.float32)
    ones = jnp.ones((7, 1, 1))
    close(counts[0][1](ones)[:, 0, 0], 0.5 * np.bincount(codes[0]), 1e-14)
    x, K = rng.normal(size=(7, 3, 5)), rng.normal(size=(3, 3, 7))
    close(found[0][1](jnp.asarray(x)), np.einsum("iajd,jdb->iab", cross, x), 1e-12)
    back = rng.normal(size=(40, 2, 5))
    close(found[1][0](jnp.asarray(back)), np.einsum("iajd,iab->jdb", cross, back), 1e-12)
    close(found[0][1].squared(jnp.asarray(K)), np.einsum("iajc,cdj,ibjd->abi", cross, K, cross), 1e-12)
    assert found[0][0] is None


def test_quadrature_is_exact_when_the_space_is_exhausted():
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    S = (Q * np.repeat([0.5, 1.0, 4.0], 10)) @ Q.T  # three different eigenvalues
    z = np.column_stack([rng.normal(size=(30, 3)), Q[:, 0], np.zeros(30)])
    expected = np.sum((Q.T @ z) ** 2 * np.log(np.repeat([0.5, 1.0, 4.0], 10))[:, None], 0)
    close(quadratic_forms(lambda v: S @ v, jnp.asarray(z), 20, jnp.log), expected, 1e-11)


def test_quadrature_ends_where_its_errors_are_small():
    S = np.diag(np.linspace(0.5, 2.0, 60))
    z, seen = np.random.default_rng(0).normal(size=(60, 4)), []

    def apply(v):
        jax.debug.callback(lambda: seen.append(1))
        return S @ v

    found = quadratic_forms(apply, jnp.asarray(z), 60, jnp.log, 1e-5)
    close(found, np.log(np.diagonal(S)) @ z**2, 1e-9)
    jax.effects_barrier()
    assert len(seen) < 20


def test_a_solution_that_is_not_reached_is_not_a_number():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(50, 50))
    S, b = A @ A.T + 1e-3 * np.eye(50), jnp.asarray(rng.normal(size=(50, 2)))
    found = conjugate_gradients(lambda v: S @ v, b, 1e-8, 1000)
    close(S @ found.x, b, 1e-6)
    assert np.all(np.isnan(conjugate_gradients(lambda v: S @ v, b, 1e-8, 5).x))


# -- fits ----------------------------------------------------------------------------------------------------------


@functools.cache
def data(n=3000):
    rng = np.random.default_rng(0)
    a, b, c = (np.r_[np.arange(m), rng.integers(0, m, n - m)] for m in (80, 45, 12))
    x = rng.normal(size=n)
    y = 1.0 + 0.5 * x + 0.7 * rng.normal(size=80)[a] + rng.normal(size=n)
    y += 0.4 * rng.normal(size=45)[b] + 0.3 * rng.normal(size=12)[c]
    return {"y": y, "x": x, "a": a, "b": b, "c": c, "w": rng.uniform(0.5, 2.0, n)}


FORMULA = "y ~ x + (1 | a) + (1 | b) + (1 | c)"


@functools.cache
def exact():
    return jaxlmm.lmm(FORMULA, data(), weights="w", engine="crossed")


@functools.cache
def by_seed(seed):
    return jaxlmm.lmm(FORMULA, data(), weights="w", engine=Iterative(seed=seed, probes=8, final_probes=16))


@pytest.mark.slow
def test_errors_over_seeds_are_those_that_are_stated():
    fits = [by_seed(seed) for seed in range(20)]
    errors = np.array([fit.theta - exact().theta for fit in fits])
    stated = np.array([fit.monte_carlo.theta_se for fit in fits])
    assert all(fit.converged for fit in fits)
    spread = np.sqrt(np.mean(stated**2, 0))
    assert np.all(np.abs(np.mean(errors, 0)) < 4 * spread / np.sqrt(len(errors)))
    ratio = np.sqrt(np.mean(errors**2, 0)) / spread
    assert np.all((ratio > 0.5) & (ratio < 1.7)), ratio
    assert np.all(spread < 0.3 * np.sqrt(np.diagonal(exact().vcov_theta())))
    expected = np.mean([fit.monte_carlo.expected_decrement for fit in fits])
    assert 0.3 * expected < np.mean([fit.monte_carlo.decrement for fit in fits]) < 2.5 * expected


@pytest.mark.slow
def test_stated_errors_cover_the_exact_fit():
    fit = by_seed(0)  # of twenty seeds, which the slow test above has
    assert np.all(np.abs(fit.theta - exact().theta) < 3.5 * fit.monte_carlo.theta_se)
    assert abs(fit.loglik - exact().loglik) < 3.5 * fit.monte_carlo.loglik_se + fit.monte_carlo.expected_decrement


@pytest.mark.slow
def test_small_components_are_solved_exactly_but_not_fitted_so():
    """Where log-determinants have no error, the log-likelihood still lacks what theta, which has one, takes."""
    rng = np.random.default_rng(7)
    half = rng.integers(0, 2, 600)
    a, b = 20 * half + rng.integers(0, 20, 600), 15 * half + rng.integers(0, 15, 600)
    y = rng.normal(size=40)[a] + rng.normal(size=30)[b] + rng.normal(size=600)
    frame, formula = {"y": y, "a": a, "b": b}, "y ~ 1 + (1 | a) + (1 | b)"
    expected = jaxlmm.lmm(formula, frame, engine="crossed")
    for seed in range(4):
        found = jaxlmm.lmm(formula, frame, engine=Iterative(seed=seed))
        assert expected.loglik - 3.5 * found.monte_carlo.loglik_se < found.loglik <= expected.loglik + 1e-8
        assert 1e-5 < found.monte_carlo.loglik_se < 0.05


@pytest.mark.slow
def test_a_chain_has_a_fit_within_its_errors_or_a_status_that_says_why():
    rng = np.random.default_rng(0)
    a = np.r_[np.arange(90), rng.integers(0, 90, 510)]
    b = np.minimum(a + np.r_[np.zeros(90, int), rng.integers(0, 2, 510)], 89)  # level i meets i and i + 1
    y = 3.0 * rng.normal(size=90)[a] + 3.0 * rng.normal(size=90)[b] + rng.normal(size=600)
    frame, formula = {"y": y, "a": a, "b": b}, "y ~ 1 + (1 | a) + (1 | b)"
    found, expected = (jaxlmm.lmm(formula, frame, engine=engine) for engine in (Iterative(), "crossed"))
    assert found.converged
    assert np.all(np.abs(found.theta - expected.theta) < 3.5 * found.monte_carlo.theta_se)
    assert abs(found.loglik - expected.loglik) < 3.5 * found.monte_carlo.loglik_se
    with pytest.warns(jaxlmm.ConvergenceWarning, match="hardly connected"):
        assert jaxlmm.lmm(formula, frame, engine=Iterative(max_iterations=12)).status == "not_solved"


@pytest.mark.slow
def test_relative_errors_are_relative_to_statistical_ones():
    errors = by_seed(0).monte_carlo
    np.testing.assert_allclose(
        errors.theta_se / errors.relative_se, np.sqrt(np.diagonal(exact().vcov_theta())), rtol=0.02
    )


@pytest.mark.slow
def test_log_likelihoods_over_seeds_are_within_their_errors():
    d = data()
    frame = {**d, "b": d["b"] * 12 + d["c"]}  # more effects than the part without randomness has
    formula = "y ~ x + (1 | a) + (1 | b)"
    model = jaxlmm.lmm(formula, frame, engine="crossed").model
    theta = jnp.asarray([-0.3, -0.9, 0.0])
    model = Model(model.y, model.X, model.random, engine=Iterative(probes=8))
    statistics = prepare(model).statistics
    draws = jax.jit(lambda s, C: s.draws(C, lambda gram: gram)[0], compiler_options=QUICKLY)
    exact = jaxlmm.gram(theta, Model(model.y, model.X, model.random, engine="crossed"))[0]
    found = np.array([draws(statistics.with_stream(stream, 8), model.blocks(theta)) for stream in range(2, 22)])
    errors, stated = np.mean(found, 1) - exact, np.std(found, 1, ddof=1) / np.sqrt(8)
    spread = np.sqrt(np.mean(stated**2))
    assert 0.0 < spread < 0.1
    assert np.abs(np.mean(errors)) < 4 * spread / np.sqrt(len(errors))
    assert 0.5 < np.sqrt(np.mean(errors**2)) / spread < 1.7


@pytest.mark.slow
def test_coefficients_and_effects_are_those_of_the_exact_fit():
    fit = jaxlmm.lmm(FORMULA, data(), weights="w", engine=Iterative(seed=3))
    np.testing.assert_allclose(fit.coef, exact().coef, atol=0.01 * exact().se.min())
    np.testing.assert_allclose(fit.se, exact().se, rtol=0.01)
    found, expected = fit.ranef(), exact().ranef()
    for name in "abc":
        size = np.sqrt(np.mean(expected[name].condvar))
        assert np.all(np.isnan(found[name].condvar))  # not to be had by random vectors
        np.testing.assert_allclose(found[name].values, expected[name].values, atol=0.05 * size)
    np.testing.assert_allclose(fit.fitted, exact().fitted, atol=0.02)
    np.testing.assert_allclose(fit.tidy()["df"], exact().tidy()["df"], rtol=0.1)


@pytest.mark.slow
def test_variances_of_chosen_effects_are_those_of_the_exact_engine():
    fit = by_seed(0)
    exactly = jaxlmm.pure.blup(fit.theta, exact().model)
    found = fit.ranef(levels={"b": [7, "31"], "a": np.arange(0, 80, 2)})
    assert list(found) == ["b", "a"] and found["b"].levels == ("7", "31")
    for t, name, rows in ((0, "a", np.arange(0, 80, 2)), (1, "b", np.array([7, 31]))):
        close(found[name].condvar, exactly.condvar[t][rows], 1e-8)
        close(found[name].pev, exactly.pev[t][rows], 1e-8)
        np.testing.assert_array_equal(found[name].values, fit.ranef()[name].values[rows])
    picture = fit.plot.ranef("a", variance="pev", extremes=3)
    assert len(picture.get_yticklabels()) == 6 and np.all(np.isfinite(picture.collections[0].get_segments()[0]))


@pytest.mark.slow
def test_variances_of_chosen_vectors_in_another_basis():
    rng = np.random.default_rng(0)
    a, b, x = rng.integers(0, 30, 900), rng.integers(0, 20, 900), 50.0 + rng.normal(size=900)
    y = rng.normal(size=30)[a] + rng.normal(size=30)[a] * (x - 50) + rng.normal(size=20)[b] + rng.normal(size=900)
    frame, formula = {"y": y, "x": x, "a": a, "b": b}, "y ~ x + (x | a) + (1 | b)"
    found = jaxlmm.lmm(formula, frame, engine=Iterative(probes=8, final_probes=8))
    exactly = jaxlmm.pure.blup(found.theta, jaxlmm.lmm(formula, frame, engine="crossed").model)
    own = found.ranef(levels={"a": np.arange(30)})["a"]
    close(own.condvar, exactly.condvar[0], 1e-7)
    close(own.pev, exactly.pev[0], 1e-7)


@pytest.mark.slow
def test_a_seed_gives_the_same_fit_and_is_recorded():
    options = Iterative(seed=1, probes=8, final_probes=16)
    one, two = (jaxlmm.lmm(FORMULA, data(), weights="w", engine=options) for _ in range(2))
    assert one.loglik == two.loglik
    np.testing.assert_array_equal(one.theta, two.theta)
    assert one.monte_carlo.seed == 1
    assert one.theta[0] != by_seed(0).theta[0]
    assert one.engine == "iterative"
    assert "Monte Carlo (seed 1, 8 + 16 probes)" in str(one.summary())
    assert exact().monte_carlo is None


@pytest.mark.slow
def test_variances_of_zero():
    frame = {**data(), "y": data()["y"][::-1]}  # nothing to do with the levels
    found, expected = (
        jaxlmm.lmm(FORMULA, frame, weights="w", engine=engine)
        for engine in (Iterative(probes=8, final_probes=16), "crossed")
    )
    assert expected.singular
    assert found.converged
    assert found.estimate.boundary == expected.estimate.boundary
    finite = np.isfinite(expected.theta)
    np.testing.assert_array_equal(np.isfinite(found.theta), finite)
    np.testing.assert_allclose(found.theta[finite], expected.theta[finite], atol=1e-6)  # one factor is left: exact
    np.testing.assert_array_equal(np.isfinite(found.monte_carlo.theta_se), finite)


@pytest.mark.slow
def test_vectors_and_two_terms_of_a_factor():
    rng = np.random.default_rng(2)
    d = data()
    y = d["y"] + d["x"] * (0.5 * rng.normal(size=80)[d["a"]] + 0.3 * rng.normal(size=45)[d["b"]])
    frame = {**d, "y": y}
    formula = "y ~ x + (x | a) + (1 | b) + (0 + x | b)"
    found = jaxlmm.lmm(formula, frame, engine=Iterative(probes=32, final_probes=32))
    expected = jaxlmm.lmm(formula, frame, engine="crossed")
    assert found.converged
    assert np.all(np.abs(found.theta - expected.theta) < 5 * found.monte_carlo.theta_se)
    assert np.all(found.monte_carlo.relative_se < 0.3)
    values, reference = found.ranef()["b"].values, expected.ranef()["b"].values
    np.testing.assert_allclose(values, reference, atol=0.02)


@pytest.mark.slow
def test_a_fit_whose_equations_are_not_solved_says_so():
    with pytest.warns(jaxlmm.ConvergenceWarning, match="max_iterations"):
        fit = jaxlmm.lmm(FORMULA, data(), engine=Iterative(max_iterations=1))
    assert fit.status == "not_solved"
    assert np.isnan(fit.loglik)
    assert np.all(np.isnan(fit.coef))


@pytest.mark.slow
def test_another_response_of_the_same_model():
    fit = by_seed(0).refit(2.0 * data()["y"])
    assert fit.converged
    assert fit.monte_carlo.probes == 8
    np.testing.assert_allclose(fit.theta, by_seed(0).theta + np.log(2.0), atol=1e-7)


# -- what cannot be had --------------------------------------------------------------------------------------------


def test_many_responses_are_refused():
    y = np.stack([data()["y"], data()["y"][::-1]])
    with pytest.raises(DataError, match="iterative.*crossed"):
        by_seed(0).refit(y)
    with pytest.raises(DataError, match="iterative.*crossed"):
        jaxlmm.fit_batch([by_seed(0).model])


def test_traced_data_are_refused():
    model, theta = by_seed(0).model, exact().theta

    def value(y):
        return jaxlmm.reml(theta, model.replace(y=y))

    with pytest.raises(DataError, match="iterative.*concrete"):
        jax.jit(value)(model.y)


def test_one_factor_is_refused():
    with pytest.raises(DataError, match="two grouping factors"):
        jaxlmm.lmm("y ~ x + (1 | a)", data(), engine="iterative")


@pytest.mark.parametrize("options", [{"probes": 1}, {"seed": -1}, {"steps": 2.5}, {"tolerance": 0.5}])
def test_options_out_of_range(options):
    with pytest.raises(DataError, match=next(iter(options))):
        Iterative(**options)


def test_terms_and_residuals_that_are_not_independent_are_refused():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 4, 40)
    term = Term(np.ones(40), group, relationship=np.eye(4))
    with pytest.raises(DataError, match="iterative"):
        Model(
            rng.normal(size=40), np.ones((40, 1)), [term, Term(np.ones(40), rng.integers(0, 5, 40))], engine="iterative"
        )
