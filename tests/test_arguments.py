"""No word of a caller is dropped: options are honoured, or refused with the name of the function and the nearest."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxlmm
from jaxlmm.inference.ratios.mixtures import simulated_weights
from jaxlmm.interface import model_of
from jaxlmm.testing import check_covariance


@pytest.fixture(scope="module")
def sleep():
    return jaxlmm.datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def fit(sleep):
    return jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", sleep)


def test_replace_takes_designs_of_terms(sleep, fit):
    X = np.column_stack([np.ones(180), sleep["Days"].to_numpy(float)])
    model = jaxlmm.Model(sleep["Reaction"].to_numpy(), X, random=[jaxlmm.Term(X, sleep["Subject"])])
    with jax.enable_x64():

        @jax.jit
        def value(Z):
            return jaxlmm.reml(fit.theta, model.replace(Z=Z))

        found = jax.vmap(value)(np.stack([X, 2 * X, 3 * X]))
        np.testing.assert_allclose(found, [-871.814, -880.488, -890.851], atol=1e-3)
        slope = jax.grad(lambda scale: value(scale * X))(2.0)
        central = (value(2.001 * X) - value(1.999 * X)) / 0.002
        assert slope == pytest.approx(float(central), rel=1e-5)
        assert float(jaxlmm.reml(fit.theta, model.replace(y=list(model.y)))) == pytest.approx(fit.loglik)


def test_replace_takes_an_array_for_each_term():
    rng = np.random.default_rng(0)
    n, g, h = 24, np.repeat(np.arange(6), 4), np.tile(np.arange(4), 6)
    y, z, theta = rng.normal(size=n), rng.normal(size=n), np.array([0.1, -0.2, 0.3])
    one = np.ones(n)

    def model(a, b):
        return jaxlmm.Model(y, one[:, None], random=[jaxlmm.Term(a, g), jaxlmm.Term(b, h)])

    with jax.enable_x64():
        found = jaxlmm.ml(theta, model(one, one).replace(Z=[2 * one, z]))
        assert float(found) == pytest.approx(float(jaxlmm.ml(theta, model(2 * one, z))), rel=1e-12)
    for wrong in ([one], one, [one, one[:5]], [one, np.ones((n, 2))]):
        with pytest.raises(jaxlmm.DataError, match="Z"):
            model(one, one).replace(Z=wrong)


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("Y", "did you mean 'y'"),
        ("weight", "did you mean 'weights'"),
        ("x", "did you mean 'X'"),
        ("engine", "there are y, X, Z"),
        ("offsets", "offset"),
    ],
)
def test_replace_refuses_other_names(fit, given, near):
    with pytest.raises(TypeError, match=rf"Model\.replace: no option '{given}'; .*{near}"):
        fit.model.replace(**{given: fit.model.y})
    with pytest.raises(TypeError, match="replace of Term: no option 'z'"):
        jaxlmm.pytrees.replace(fit.model.random[0], z=1.0)
    with pytest.raises(jaxlmm.DataError, match=r"replace: y: expected an array of shape \(180,\), found shape \(90,\)"):
        fit.model.replace(y=fit.model.y[:90])


@pytest.fixture(scope="module")
def crossed():
    rng = np.random.default_rng(3)
    s, i = np.repeat(np.arange(8), 6), np.tile(np.arange(6), 8)
    y = rng.normal(size=8)[s] + 2.0 * rng.normal(size=6)[i] + 0.3 * i + rng.normal(size=48)
    data = {"y": y, "x": 0.1 * np.arange(48) % 1, "subj": s.astype(str), "item": i.astype(str)}
    return data, jaxlmm.lmm("y ~ x + (1 | subj) + (1 | item)", data)


def henderson(data, fit):
    """Coefficients with predicted effects of subjects and items, and the covariance of their errors."""
    Z = [np.asarray(data[g])[:, None] == np.unique(data[g]) for g in ("subj", "item")]
    W = np.column_stack([np.ones(48), data["x"], *Z]).astype(float)
    variances = [C[0, 0] for C in fit.estimate.covariances]
    prior = np.diag(np.concatenate([[0, 0], np.repeat(1 / variances[0], 8), np.repeat(1 / variances[1], 6)]))
    C = np.linalg.inv(W.T @ W / fit.sigma**2 + prior)
    return W, C @ W.T @ data["y"] / fit.sigma**2, C


@pytest.mark.parametrize("random", ["item", "(1|item)", ["(1 | item)"], "~ (1 | item)", ("item", "item")])
def test_predict_with_some_of_the_terms(crossed, random):
    data, fit = crossed
    W, solution, C = henderson(data, fit)
    W = W.copy()
    W[:, 2:10] = 0.0  # without subjects
    np.testing.assert_allclose(fit.predict(random=random), W @ solution, rtol=1e-8)
    np.testing.assert_allclose(fit.predict(data, random=random), W @ solution, rtol=1e-8)
    found = fit.predict(random=random, se=True)
    np.testing.assert_allclose(found["estimate"], W @ solution, rtol=1e-8)
    np.testing.assert_allclose(found["std_error"], np.sqrt(np.einsum("ij,jk,ik->i", W, C, W)), rtol=1e-8)


def test_predict_of_observations_draws_other_terms_anew(crossed):
    data, fit = crossed
    W, solution, C = henderson(data, fit)
    W = W.copy()
    W[:, 2:10] = 0.0
    fresh = fit.estimate.covariances[0][0, 0] + fit.sigma**2
    new = {**data, "subj": np.full(48, "new")}  # not shared, so it need not be known
    found = fit.predict(new, random="item", interval="prediction")
    np.testing.assert_allclose(found["std_error"] ** 2, np.einsum("ij,jk,ik->i", W, C, W) + fresh, rtol=1e-8)
    np.testing.assert_allclose(fit.predict(new, random="item"), W @ solution, rtol=1e-8)
    everything = fit.predict(random=["subj", "(1 | item)"], se=True)
    np.testing.assert_array_equal(everything["std_error"], fit.predict(se=True)["std_error"])
    np.testing.assert_array_equal(fit.predict(random=[]), fit.predict(random=False))
    without = {name: data[name] for name in ("x", "item")}  # columns of other terms need not be there
    np.testing.assert_allclose(fit.predict(without, random="item"), W @ solution, rtol=1e-8)
    errors = fit.predict(without, random="item", se=True)["std_error"]
    np.testing.assert_allclose(errors**2, np.einsum("ij,jk,ik->i", W, C, W), rtol=1e-8)


def test_predict_with_some_effects_of_a_factor(sleep):
    fit = jaxlmm.lmm("Reaction ~ Days + (Days || Subject)", sleep)
    fixed, slopes = fit.predict(random=False), fit.predict(random="(0 + Days | Subject)")
    np.testing.assert_allclose(slopes + fit.predict(random="(1 | Subject)") - fixed, fit.fitted, rtol=1e-12)
    np.testing.assert_array_equal(fit.predict(random="Subject"), fit.fitted)
    np.testing.assert_array_equal(fit.predict(random="(Days || Subject)"), fit.fitted)
    assert np.abs(slopes - fixed).max() > 1


@pytest.mark.parametrize("random", ["nonsense", "no", 1, 0, None, "(1 | subject)", ["item", 2], "~0", "", {"item"}])
def test_predict_refuses_other_random_parts(crossed, random):
    with pytest.raises(jaxlmm.DataError, match="random: found"):
        crossed[1].predict(random=random)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"re_form": None}, TypeError, r"Fit\.predict: no option 're_form'"),
        ({"randm": False}, TypeError, "did you mean 'random'"),
        ({"allow_new_level": True}, TypeError, "did you mean 'allow_new_levels'"),
        ({"df": "banana"}, jaxlmm.DataError, "df: found 'banana'"),
        ({"information": "banana"}, jaxlmm.DataError, "information: found 'banana'"),
        ({"robust": "CR9"}, jaxlmm.DataError, "robust: found 'CR9'"),
        ({"level": 95}, jaxlmm.DataError, "level: expected"),
        ({"se": "no"}, jaxlmm.DataError, r"Fit\.predict: se: found 'no', expected True or False"),
        ({"residual": 1}, jaxlmm.DataError, "residual: found 1"),
        ({"allow_new_levels": "yes"}, jaxlmm.DataError, "allow_new_levels: found 'yes'"),
    ],
)
def test_predict_refuses_what_it_does_not_know(crossed, given, error, said):
    with pytest.raises(error, match=said):
        crossed[1].predict(**given)


@pytest.mark.slow
def test_predict_with_some_random_functions():
    rng = np.random.default_rng(5)
    g, t = np.repeat(np.arange(8), 6), np.tile(np.arange(6.0), 8)
    y = rng.normal(size=8)[g] + np.cumsum(rng.normal(size=(8, 6)), 1).ravel() + 0.5 * rng.normal(size=48)
    data = {"y": y, "t": t, "g": g.astype(str), "h": np.tile(list("abc"), 16)}
    fit = jaxlmm.lmm("y ~ 1 + ou(t | g) + (1 | h)", data)
    fixed = fit.predict(random=False)
    for rows in (None, data):  # without and with covariances between old and new rows
        function, effect = fit.predict(rows, random="ou(t|g)"), fit.predict(rows, random="h")
        np.testing.assert_allclose(function + effect - fixed, fit.fitted, rtol=1e-9)
        np.testing.assert_array_equal(function, fit.predict(rows, random="g"))
        assert np.abs(function - fixed).max() > 0.5
    for name, left in (("g", "tg"), ("h", "h")):
        rows = {column: data[column] for column in left}
        np.testing.assert_allclose(fit.predict(rows, random=name), fit.predict(random=name), rtol=1e-9)
    np.testing.assert_allclose(fit.predict(random="g", se=True)["estimate"], fit.predict(random="g"), rtol=1e-9)
    np.testing.assert_allclose(fit.predict(random="h", se=True)["estimate"], fit.predict(random="h"), rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda f: f.test("x", information=None, robus="CR2"), "Fit.test: no option 'robus'; did you mean 'robust'"),
        (lambda f: f.anova(dff="kenward-roger"), r"Fit\.anova: no option 'dff'; did you mean 'df'"),
        (lambda f: f.emmeans("x", typ="response"), r"Fit\.emmeans: no option 'typ'"),
        (lambda f: f.emmeans("x", weight="cells"), "Fit.emmeans: no option 'weight'; did you mean 'weights'"),
        (lambda f: f.emtrends("x", levels=0.9), "Fit.emtrends: no option 'levels'; did you mean 'level'"),
        (lambda f: f.predictions(infomation="expected"), "Fit.predictions: .*did you mean 'information'"),
        (lambda f: f.comparisons("x", chnge=2), "Fit.comparisons: .*did you mean 'change'"),
        (lambda f: f.slopes("x", cluters="subj"), "Fit.slopes: .*did you mean 'cluster'"),
        (lambda f: f.tidy(conf_int=True), "Fit.tidy: no option 'conf_int'"),
        (lambda f: jaxlmm.Tests(ic=True), "Tests: no option 'ic'; did you mean 'icc'"),
        (
            lambda f: f.statistics().fit([[]], mising="drop"),
            "Statistics.fit: no option 'mising'; did you mean 'missing'",
        ),
        (lambda f: jaxlmm.Model(f.model.y, f.model.X, weight=1), "Model: no option 'weight'; did you mean 'weights'"),
        (lambda f: jaxlmm.Term(np.ones(3), grp=[1, 2, 3]), "Term: no option 'grp'; did you mean 'group'"),
        (lambda f: jaxlmm.Residual(positions=[0, 1]), "Residual: no option 'positions'; did you mean 'position'"),
        (lambda f: jaxlmm.Iterative(probe=3), "Iterative: no option 'probe'; did you mean 'probes'"),
        (lambda f: jaxlmm.Unstructured(covarianc=1), "Unstructured: no option 'covarianc'; did you mean 'covariance'"),
        (lambda f: jaxlmm.study.Dropout(bye="x"), "Dropout: no option 'bye'"),
        (lambda f: jaxlmm.load("x", structure={}), "load: no option 'structure'; did you mean 'structures'"),
        (lambda f: f.summary(boundary="drop"), "Fit.summary: .*did you mean 'boundary_df'"),
        (lambda f: f.simulate(use_u=True), "Fit.simulate: no option 'use_u'"),
        (lambda f: f.simulate(sed=1), "Fit.simulate: .*did you mean 'seed'"),
        (lambda f: f.confint(methd="profile"), "Fit.confint: .*did you mean 'method'"),
        (lambda f: f.emmeans("x").test(nul=2.0), "EMMeans.test: no option 'nul'"),
        (lambda f: f.emmeans("x").contrast(methd="eff"), "EMMeans.contrast: .*did you mean 'method'"),
        (lambda f: f.emmeans("x").pairs(adjst="holm"), "EMMeans.pairs: .*did you mean 'adjust'"),
        (lambda f: jaxlmm.lmm("y ~ x", {}, residul="iid()"), "lmm: .*did you mean 'residual'"),
        (lambda f: jaxlmm.lmm("y ~ x", {}, prior=abs), r"lmm: no option 'prior'; jaxlmm\.fit\(.*prior=f\)"),
        (lambda f: jaxlmm.lmm("y ~ x", {}, REML=False), "lmm: no option 'REML'; write method='REML' or method='ML'"),
        (lambda f: f.bootstrap(nsim=9), "Fit.bootstrap: no option 'nsim'"),
        (lambda f: f.wald(roboust="CR2"), "Fit.wald: .*did you mean 'robust'"),
        (lambda f: jaxlmm.study.sample_size(None, "n", 0.8, 2, 9, "", worker=2), "sample_size: .*mean 'workers'"),
        (lambda f: f.plot.coef(whch="x"), "FitPlots.coef: .*did you mean 'which'"),
        (lambda f: jaxlmm.compare(f, f, refitt=True), "compare: .*did you mean 'refit'"),
    ],
)
def test_unknown_options_name_the_function_that_was_called(crossed, call, said):
    with pytest.raises(TypeError, match=said):
        call(crossed[1])


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda f: f.emmeans("x").test(2.0), "EMMeans.test: joint"),
        (lambda f: f.residuals(random="no"), "Fit.residuals: random"),
        (lambda f: f.ranef("subj"), "Fit.ranef: all_levels"),
        (lambda f: f.influence(theta="no"), "Fit.influence: theta"),
        (lambda f: f.plot.covariance(correlation=1), "FitPlots.covariance: correlation"),
        (lambda f: jaxlmm.compare(f, f, refit="no"), "compare: refit"),
        (lambda f: jaxlmm.Model(f.model.y, f.model.X, checks="no"), "checks"),
        (lambda f: jaxlmm.study.designs.crossed(2, 2, within="no"), "crossed: within"),
    ],
)
def test_yes_or_no_is_true_or_false(crossed, call, name):
    with pytest.raises(jaxlmm.DataError, match=rf"{name}: found .*, expected True or False"):
        call(crossed[1])


def test_numpys_true_and_false_are_bools(crossed):
    fit = crossed[1]
    np.testing.assert_array_equal(fit.predict(random=np.False_), fit.predict(random=False))
    np.testing.assert_array_equal(fit.residuals(random=np.bool_(False)), fit.residuals(random=False))


def test_without_a_seed_draws_are_fresh(crossed):
    fit = crossed[1]
    assert np.any(fit.simulate(1, seed=None) != fit.simulate(1, seed=None))
    np.testing.assert_array_equal(fit.simulate(1, 7), fit.simulate(1, seed=7))
    assert np.any(fit.simulate(1, None) != fit.simulate(1))
    assert jaxlmm.Iterative(seed=None) != jaxlmm.Iterative(seed=None)
    with pytest.raises(
        jaxlmm.DataError, match="seed: expected a non-negative integer or one key of jax.random, found 'a'"
    ):
        fit.simulate(1, seed="a")


@pytest.mark.parametrize("level", ["Days", 95, True, None, [0.9]])
def test_levels_are_numbers_between_0_and_1(crossed, level):
    with pytest.raises(jaxlmm.DataError, match="level: .*expected a number between 0 and 1"):
        crossed[1].confint(level)
    with pytest.raises(jaxlmm.DataError, match="which="):
        crossed[1].confint("Days")
    with pytest.raises(jaxlmm.DataError, match="df: found 'banana'"):
        crossed[1].confint(df="banana", method="bootstrap")


@pytest.fixture(scope="module")
def groups():
    rng = np.random.default_rng(1)
    g, s = np.repeat(["A", "B"], 100), np.tile(np.arange(20), 10)
    y = rng.normal(size=20)[s] + rng.normal(size=200) * np.where(g == "A", 1, 3)
    return {"y": y, "g": g, "s": s.astype(str), "t": np.repeat(np.arange(10.0), 20), "h": np.where(s % 2, "C", "D")}


@pytest.mark.slow
def test_errors_by_group_are_honoured(groups):
    fit = jaxlmm.lmm("y ~ g + (1 | s)", groups, residual="iid(by=g)")
    assert fit.loglik == pytest.approx(-398.33, abs=0.005)  # -451.84 with one variance
    same = jaxlmm.lmm("y ~ g + (1 | s)", groups, variance="ident(g)")
    np.testing.assert_allclose(fit.theta, same.theta)
    assert "ident(g)" in str(fit.summary())
    in_sum = jaxlmm.lmm("y ~ g", groups, residual="ou(t | s) + iid(by=g)")
    other = jaxlmm.lmm("y ~ g", groups, residual="ou(t | s) + iid()", variance="ident(g)")
    assert in_sum.loglik == pytest.approx(other.loglik, abs=1e-8)
    assert len(in_sum.theta) == 4


@pytest.mark.parametrize(
    ("formula", "given", "said"),
    [
        ("y ~ g + (1 | s)", {"residual": "iid(by=g, variance=1)"}, r"variance='ident\(g\)'"),
        ("y ~ g + (1 | s)", {"residual": "iid(by=g)", "variance": "exp(t)"}, r"variance='ident\(g\)'"),
        ("y ~ g", {"residual": "ou(t | s, shared='range')"}, "shared= is for parameters by group"),
        ("y ~ g + (us(g) @ ou(t, shared='range') | s)", {}, "shared= is for parameters by group"),
        ("y ~ g + ou(t | s, shared='range')", {}, "shared= is for parameters by group"),
        ("y ~ g", {"residual": "ou(t | g / s, by=h)"}, "write one"),
        ("y ~ g", {"residual": "(ou(t, range=2) | s, range=3)"}, "option range stands twice"),
        ("y ~ g", {"residual": "ou(t | s, rang=2)"}, "ou: no option 'rang'; did you mean 'range'"),
        ("y ~ g + (1 | s)", {"variance": "power(t, 1, power=2)"}, "power twice"),
        ("y ~ g + (1 | s)", {"variance": "ident(g, ratio=2)"}, "ident: no option 'ratio'; did you mean 'ratios'"),
    ],
)
def test_structures_refuse_what_they_would_drop(groups, formula, given, said):
    with pytest.raises(jaxlmm.FormulaError, match=said):
        jaxlmm.lmm(formula, groups, **given)


def test_options_inside_and_behind_the_bar_both_count(groups):
    d = {k: v[:100] for k, v in groups.items()}
    _, model = model_of("y ~ 1 + (1 | t)", d, residual="(ou(t, range=2.0) | s, variance=0.5)")
    assert model.size == 1  # of the term: both of the residual are fixed


@pytest.mark.parametrize("term", ["(Days | Subject)", "(Days || Subject)", "ar1(Days | Subject)"])
def test_a_singular_fit_is_a_start(sleep, term):
    rng = np.random.default_rng(0)
    noise = 20 * rng.normal(size=(2, 180))[int("ar1" in term)] + (
        np.repeat(30 * rng.normal(size=18), 10) if "ar1" in term else 0
    )
    data = {"y": 300 + 10 * sleep["Days"].to_numpy() + noise, "Days": sleep["Days"], "Subject": sleep["Subject"]}
    fit = jaxlmm.lmm(f"y ~ Days + {term}", data)
    assert fit.singular and not np.all(np.isfinite(fit.theta))
    again = jaxlmm.lmm(f"y ~ Days + {term}", data, start=fit.theta)
    assert again.converged and again.singular
    assert again.loglik == pytest.approx(fit.loglik, abs=1e-8)
    for wrong in (np.full(len(fit.theta), np.nan), np.full(len(fit.theta), np.inf), fit.theta[:1], "zero"):
        with pytest.raises(jaxlmm.DataError, match="start: (expected|found)"):
            jaxlmm.lmm(f"y ~ Days + {term}", data, start=wrong)


def test_a_singular_start_leaves_the_boundary(sleep, fit):
    again = jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", sleep, start=[-np.inf, 0.0, -np.inf, 3.0])
    assert again.loglik == pytest.approx(fit.loglik, abs=1e-8)


def test_keys_are_accepted_wherever_a_seed_is(crossed):
    fit, typed, raw = crossed[1], jax.random.key(7), jax.random.PRNGKey(7)
    for key in (typed, raw, np.asarray(raw)):
        np.testing.assert_array_equal(fit.simulate(2, seed=key), fit.simulate(2, seed=7))
    draws = [fit.draws(4, seed=seed, chains=1)["coef"] for seed in (7, typed, raw)]
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[0], draws[2])
    same, other = jaxlmm.Iterative(seed=typed), jaxlmm.Iterative(seed=jax.random.key(8))
    assert same == jaxlmm.Iterative(seed=raw) != other
    one, two = (simulated_weights(np.eye(3), (2,), 100, seed) for seed in (typed, raw))
    np.testing.assert_array_equal(one, two)
    with pytest.raises(jaxlmm.DataError, match=r"one key of jax.random, found an array of shape \(2,\) and type key"):
        fit.simulate(1, seed=jax.random.split(typed))
    with pytest.raises(jaxlmm.DataError, match="seed: found a traced key"):
        jax.jit(lambda key: fit.simulate(1, seed=key))(typed)


@pytest.mark.slow
def test_keys_of_resampling():
    fit = jaxlmm.lmm("Yield ~ 1 + (1 | Batch)", jaxlmm.datasets.load("dyestuff", "dict"))
    key = jax.random.key(3)
    np.testing.assert_array_equal(fit.bootstrap(5, seed=key).values, fit.bootstrap(5, seed=3).values)
    assert jaxlmm.rlrt(fit, n=200, seed=key).p == jaxlmm.rlrt(fit, n=200, seed=3).p
    check_covariance(jaxlmm.Unstructured(), 2, seed=key)


WRONG = [3, "text", ["a", 1], {"a"}, np.eye(2), object()]  # kinds that nothing below can be


@pytest.mark.parametrize("wrong", [*WRONG, [("Subject", np.eye(18))]], ids=lambda v: type(v).__name__)
def test_mappings_are_mappings(sleep, fit, wrong):
    for name, call in (
        ("lmm: relationship", lambda: jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", sleep, relationship=wrong)),
        ("structures", lambda: jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", sleep, structures=wrong)),
        ("Fit.emmeans: at", lambda: fit.emmeans("1", at=wrong)),
        ("Fit.predictions: at", lambda: fit.predictions(at=wrong)),
    ):
        with pytest.raises(
            jaxlmm.DataError, match=f"{name}: found (.|\\n)*, expected (a mapping|classes or structures)"
        ):
            call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f: f.emmeans(None), "specs: found None, expected a name or a list of names"),
        (lambda f: f.emmeans({"Days": 1}), "specs: found .*, expected a name"),
        (lambda f: f.emmeans("1", weights=np.eye(2)), "weights: found .*, expected one of"),
        (lambda f: f.predictions(by=f.data), "by: found a DataFrame, expected a name"),
        (lambda f: f.comparisons("Days", change={"a": 1}), "change: .* expected a number"),
        (lambda f: f.comparisons("Days", change=np.eye(2)), "change: .* expected a number"),
        (lambda f: f.anova(df=np.ones(3)), "Fit.anova: df: found .*, expected text"),
        (lambda f: f.predict(interval=f.data), "Fit.predict: interval: found a DataFrame, expected text"),
        (lambda f: f.vcov_parameters(None), "information: found None, expected one of observed"),
        (lambda f: f.test(object()), "L: found .*, expected rows of numbers"),
        (lambda f: f.test({"Days": "no"}), "L: found .*, expected numbers as weights of coefficients"),
        (lambda f: f.test("Days", rhs="text"), "rhs: found 'text', expected numbers"),
        (lambda f: f.test([[0, np.nan]]), "L: found rows of zeros, or weights that are not finite"),
        (lambda f: f.test({"Days": 0.0}), "L: found rows of zeros, or weights that are not finite"),
        (lambda f: f.ratio([1, np.nan], [0, 1]), "numerator: expected one function of the coefficients"),
        (lambda f: f.ratio([1, 0], [0, 0]), "denominator: expected one function of the coefficients"),
        (lambda f: f.emmeans("1").contrast({"a": [np.nan]}), "method: found .*, expected finite numbers"),
        (lambda f: f.refit(f.model.y.astype(str)), "y: found a ndarray, expected numbers"),  # "9" is not 9
        (lambda f: f.refit(f.model.y + 0j), "y: found a ndarray, expected numbers"),
        (lambda f: f.model.replace(y=np.ma.masked_greater(f.model.y, 300.0)), "y: .* values are masked"),
        (lambda f: f.model.replace(y=f.model.y.astype(str)), "y: found a ndarray, expected numbers"),
        (lambda f: f.permutation([["0", "1"]], within="Subject"), "L: found .*, expected rows of numbers"),
        (lambda f: f.permutation([[0, np.nan]], within="Subject"), "L: expected rows .* that are not zero"),
        (lambda f: f.statistics().fit(f.model.y.astype(str)[None]), "Y: found a ndarray, expected numbers"),
        (lambda f: jaxlmm.covariance.KnownMatrix(known=np.ma.masked_equal(np.eye(2), 0)), "known: .* masked"),
        (lambda f: f.refit(f.model.y.astype("M8[D]")), "y: found a ndarray, expected numbers"),
        (lambda f: f.test("Days", rhs={"a": 1}), "rhs: found .*, expected numbers"),
        (lambda f: f.confint(which=3), "which: found 3, expected names, a function"),
        (lambda f: f.confint(which={"a": 1}), "which: found .*, expected names, a function"),
        (lambda f: f.confint(which=np.eye(2)), "which: found .*, expected names, a function"),
        (lambda f: f.delta(None), "g: found None, expected a function"),
        (lambda f: f.influence(threshold="text"), "threshold: found 'text', expected a number"),
        (lambda f: f.influence(threshold=[1, 2]), "threshold: found 2 numbers, expected one"),
        (lambda f: f.r2(ddof=np.eye(2)), "ddof: found"),
        (lambda f: f.refit(f.model.y, weights=np.ones(180)), "weights: for many responses"),
        (lambda f: f.refit(f.model.y, column="Days"), "column: for many responses"),
    ],
)
def test_wrong_kinds_are_named(fit, call, words):
    with pytest.raises(jaxlmm.DataError, match=words):
        call(fit)


def test_words_that_are_arrays(sleep):
    with pytest.raises(jaxlmm.DataError, match="lmm: method: found a Series, expected text"):
        jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", sleep, method=sleep["Days"])


def test_numbers_are_numbers(sleep, fit):
    """Text, lists, True, NaN and what is not finite in the place of a number, a word or rows."""
    means = jaxlmm.lmm("log(Reaction) ~ Days + (1 | Subject)", sleep).emmeans("Days", at={"Days": [0, 9]})
    calls = [
        (lambda v: fit.emmeans(("Days",), type="response", bias_adjust=v), "bias_adjust", ["x", [1], np.nan]),
        (lambda v: means.test(null=v), "null", ["a", [1, 2], {}, np.nan, np.inf, True, np.zeros((2, 2))]),
        (lambda v: means.test(side=v), "side", [["less"], {}, 1]),
        (lambda v: means.test(delta=v), "delta", [np.zeros((2, 2)), "x", -1.0]),
        (lambda v: means.contrast(v), "contrast|method", [["x"], object(), lambda labels: labels]),
        (lambda v: means.contrast("trt.vs.ctrl", ref=v), "ref", [None, 1.5, [1], True]),
        (lambda v: means.contrast("pairwise", by=v), "by", [3, object(), ["nobody"]]),
        (lambda v: fit.test("Days", rhs=v), "rhs", [None, np.nan, np.inf, "x"]),
        (lambda v: fit.update(v), "formula", [3, ["x"], True]),
        (lambda v: fit.power("Days", effect=v, n=2), "effect", ["x", ["x"], {"Days": "x"}, np.nan]),
        (lambda v: fit.power("Days", effect=1, null=v, n=2), "null", ["x", [1, 2], np.nan, np.inf]),
        (lambda v: fit.power("Days", effect=1, n=v), "n", [True, 1.5, "x"]),
        (lambda v: fit.power("Days", effect=1, n=2, seed=v), "seed", [[1, 2], ["x"], True, -1]),
        (lambda v: fit.power(v, effect=1, n=2), "target", [object()]),
        (lambda v: fit.advise(n=v), "n", ["x", -1, True]),
        (lambda v: jaxlmm.lmm_in_turn("Reaction ~ Days", sleep, v), "alternatives", [None, 3, [1], "us"]),
        (lambda v: jaxlmm.study.power_curve(fit, "Days", along="Subject", to=v, n=2), "to", [None, "x", 3.5, 1]),
        (lambda v: jaxlmm.Tests(v), "L", [[["x"]], object()]),
        (lambda v: fit.refit(np.ones((2, 180)), tests=jaxlmm.Tests(v)), "L", ["x", ["x"], {"Days": "x"}]),
        (lambda v: jaxlmm.Tests(np.eye(2), v), "rhs", ["x", {}, np.nan]),
        (lambda v: jaxlmm.Tests(np.eye(2), df=v), "df", [None, 3, ["x"]]),
        (lambda v: fit.refit(np.ones((2, 180)), weights=v), "weights", ["x", {}, object()]),
        (lambda v: fit.refit(np.ones((2, 180)), column="Days", values=v), "values", ["x", {}, object()]),
        (lambda v: jaxlmm.pure.logdet(v, fit.model), "theta", [None, "x", ["x"], {}]),
        (lambda v: jaxlmm.pure.solve(fit.theta, fit.model, v), "rhs", [None, "x", object()]),
        (lambda v: jaxlmm.fit(fit.model, prior=v), "prior", ["x", 3, [1]]),
        (lambda v: jaxlmm.fit(fit.model, max_iterations=v), "max_iterations", [None, "x", 1.5, -1]),
        (lambda v: jaxlmm.pure.in_float64(v), "function", [None, 3]),
    ]
    with jax.enable_x64():
        for call, name, values in calls:
            for value in values:
                with pytest.raises(jaxlmm.JaxlmmError, match=name):
                    call(value)


def test_false_of_numpy_adjusts_nothing(sleep):
    fit = jaxlmm.lmm("log(Reaction) ~ Days + (1 | Subject)", sleep)
    means = [
        fit.emmeans("Days", type="response", bias_adjust=given) for given in (False, np.False_, True, np.True_, 0.5)
    ]
    values = [means.frame()["estimate"].iloc[0] for means in means]
    assert values[0] == values[1] and values[2] == values[3]
    adjusted = values[0] * (1 + 0.5 * 0.5**2)  # second derivative of exp
    assert values[4] == pytest.approx(adjusted) and values[2] != values[0]


def test_calls_and_progress_of_another_kind_get_a_sentence(fit):
    with pytest.raises(
        TypeError, match=r"published: missing a required argument: 'treated'; it takes control, treated"
    ):
        jaxlmm.study.published(3)
    with pytest.raises(jaxlmm.DataError, match=r"published: |control, treated, sds: .* found shapes \(\), \(\), \(\)"):
        jaxlmm.study.published(3, 4, 5, 0.5)
    for wrong in (3, "yes", [1], np.zeros(2), lambda: None, lambda done: None):
        for call in (lambda p: fit.refit(np.ones((2, 180)), progress=p), lambda p: fit.bootstrap(2, progress=p)):
            with pytest.raises(jaxlmm.DataError, match=r"progress: found .* expected .*function"):
                call(wrong)
