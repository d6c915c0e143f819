"""An engine from outside: one class with one method, given as ``engine=``, with which every result of a fit works."""

from __future__ import annotations

import ast
import dataclasses
import functools
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxlmm
from cases import some
from jaxlmm import Model, Term
from jaxlmm.likelihood.engines import Engine, Statistics

PACKAGE = Path(jaxlmm.__file__).parent
FORMULA = "y ~ x * arm + (x | id)"


class Inverse(Engine):
    """V by its explicit inverse."""

    name = "inverse"

    def gram(self, V, U):
        return jnp.linalg.slogdet(V)[1], U.T @ jnp.linalg.inv(V) @ U


@functools.cache
def data():
    """Rows of 9 subjects in 2 arms, 3 to 5 each."""
    rng = np.random.default_rng(27)
    rows = np.array([(s, t) for s in range(9) for t in range(5) if t < 3 or rng.random() < 0.7])
    s, t = rows.T
    y = 1.0 + 0.5 * t + rng.normal(size=9)[s] + 0.6 * rng.normal(size=9)[s] * t + 0.7 * rng.normal(size=len(s))
    arm = np.where(s % 2 == 1, "b", "a")
    return pd.DataFrame({"y": y, "x": t * 1.0, "arm": arm, "id": [f"s{i}" for i in s], "visit": t})


@functools.cache
def fitted(engine, formula=FORMULA, method="REML", **options):
    return jaxlmm.lmm(formula, data(), method=method, engine=engine, **options)


def both(formula=FORMULA, method="REML", **options):
    return fitted(Inverse(), formula, method, **options), fitted("auto", formula, method, **options)


def numbers(result):
    """All numbers of a result, a flat array."""
    if isinstance(result, pd.DataFrame):
        return result.select_dtypes("number").to_numpy(float).ravel()
    if dataclasses.is_dataclass(result):
        result = [getattr(result, field.name) for field in dataclasses.fields(result)]
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple):
        return np.concatenate([np.zeros(0), *map(numbers, result)])
    if result is None or isinstance(result, str) or callable(result):
        return np.zeros(0)
    found = np.asarray(result)
    return found.astype(float).ravel() if found.dtype.kind in "biuf" else np.zeros(0)


def batch_of(found):
    return found.coef, found.vcov, found.loglik, found.status


def gaps():
    Y = responses().copy()
    Y[:, 3], Y[1, 7:9] = np.nan, np.nan
    return Y


@functools.cache
def responses():
    return fitted("auto").simulate(3, seed=2)


RESULTS = {
    "estimates": lambda f: (f.loglik, f.coef, f.vcov, f.theta, f.sigma, f.certificate.min_eigenvalue),
    "summary": lambda f: f.tidy(),
    "kenward-roger": lambda f: f.tidy(df="kenward-roger"),
    "varcorr": lambda f: f.varcorr().frame(),
    "glance": lambda f: f.glance(),
    "augment": lambda f: f.augment(),
    "ranef": lambda f: [(e.values, e.condvar, e.pev) for e in f.ranef().values()],
    "fitted": lambda f: f.fitted,
    "predict": lambda f: f.predict(data()[:4], interval="prediction"),
    "residuals": lambda f: [
        f.residuals(kind, random) for kind in ("response", "pearson", "normalized") for random in (True, False)
    ],
    "anova": lambda f: f.anova().frame(),
    "anova by kenward-roger": lambda f: f.anova(df="kenward-roger").frame(),
    "emmeans": lambda f: f.emmeans("arm").frame(),
    "confint": lambda f: f.confint(),
    "profile": lambda f: f.confint(which="coef", method="profile"),
    "simulate": lambda f: f.simulate(2, seed=3),
    "refit": lambda f: f.refit(responses()[0]).loglik,
    "refit of many": lambda f: batch_of(f.refit(responses())),
    "refit of incomplete": lambda f: batch_of(f.refit(gaps(), missing="drop")),
    "influence": lambda f: f.influence("id").cooks,
    "sandwich": lambda f: f.sandwich().vcov,
    "scores": lambda f: (f.scores().beta, f.scores().theta),
    "conditional AIC": lambda f: (f.caic().value, f.caic().edf),
    "r2": lambda f: (f.r2().estimate, f.r2().se),
}


QUICK = ("estimates", "summary", "ranef", "sandwich")


@pytest.mark.parametrize("result", some(RESULTS, *QUICK))
def test_every_result_of_a_fit(result):
    own, known = both()
    assert own.engine == own.model.engine == "inverse"
    found, expected = numbers(RESULTS[result](own)), numbers(RESULTS[result](known))
    assert len(expected)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.slow
def test_bootstrap():
    own, dense = fitted(Inverse()), fitted("dense")  # "grouped" draws statistics, and so other responses
    np.testing.assert_allclose(own.bootstrap(3, seed=1).values, dense.bootstrap(3, seed=1).values, rtol=1e-5)


@pytest.mark.slow
def test_comparisons():
    found = []
    for engine in (Inverse(), "auto"):
        large = fitted(engine, "y ~ x + (1 | id)")
        small = fitted(engine, "y ~ x", residual="iid()")
        law = jaxlmm.compare(fitted(engine, "y ~ 1 + (1 | id)", "ML"), fitted(engine, "y ~ x + (1 | id)", "ML"))
        found.append([numbers(law.frame()), numbers(jaxlmm.compare(small, large).frame()), jaxlmm.rlrt(large).p])
    for own, known in zip(*found, strict=True):
        np.testing.assert_allclose(own, known, rtol=1e-5, atol=1e-8)


MODELS = {
    "weights": dict(formula=FORMULA, weights=np.linspace(0.5, 2.0, len(data()))),
    "residuals": dict(formula="y ~ x", residual="us(visit | id)"),
    "random function": dict(formula="y ~ x + ou(x | id)"),
    "relatives": dict(formula="y ~ x + (1 | id)", relationship={"id": 0.7 * np.eye(9) + 0.3}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_likelihood_and_its_derivatives(name):
    own, known = (jaxlmm.lmm(data=data(), engine=e, **MODELS[name]) for e in (Inverse(), "auto"))
    assert own.loglik == pytest.approx(known.loglik, abs=1e-8)
    theta = known.theta + 0.05

    @jax.jit
    def derivatives(model):
        return jax.value_and_grad(jaxlmm.reml)(theta, model), jax.hessian(jaxlmm.reml)(theta, model)

    for found, expected in zip(*(jax.tree_util.tree_leaves(derivatives(f.model)) for f in (own, known)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(
        own.ranef()["id"].condvar if own.model.terms else 0,
        known.ranef()["id"].condvar if known.model.terms else 0,
        rtol=1e-5,
        atol=1e-8,
    )


@pytest.mark.slow
def test_a_fit_as_a_pure_function():
    def loglik(y, model):
        return jaxlmm.fit(model.replace(y=y)).loglik

    found, expected = (jax.jit(jax.value_and_grad(loglik))(f.model.y, f.model) for f in both())
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-10)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_models_of_their_own_in_a_batch():
    d = data()
    parts = [d[d.arm == arm] for arm in ("a", "b")]
    found = []
    for engine in (Inverse(), "auto"):
        models = [
            Model(p.y, np.column_stack([np.ones(len(p)), p.x]), [Term(np.ones(len(p)), p.id)], engine=engine)
            for p in parts
        ]
        found.append(numbers(batch_of(jaxlmm.fit_batch(models))))
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-8)


def test_a_saved_fit_asks_for_its_engine(tmp_path):
    fit = fitted(Inverse())
    fit.save(tmp_path / "fit")
    with pytest.raises(jaxlmm.DataError, match="engines: .*'inverse'.*engines="):
        jaxlmm.load(tmp_path / "fit")
    loaded = jaxlmm.load(tmp_path / "fit", engines=[Inverse()])
    assert loaded.engine == "inverse" and loaded.loglik == fit.loglik and loaded.model.evaluator == Inverse()
    assert jaxlmm.load(tmp_path / "fit", engines=Inverse()).loglik == fit.loglik
    for wrong in ([1], 1, [Engine()]):  # of the caller, not of the file
        with pytest.raises(jaxlmm.DataError, match="^engine: .*expected"):
            jaxlmm.load(tmp_path / "fit", engines=wrong)
    for wrong in ([Inverse], {"slow": 5}):
        with pytest.raises(jaxlmm.DataError, match="^structures: found .*expected classes or structures by name"):
            jaxlmm.load(tmp_path / "fit", structures=wrong)
        with pytest.raises(jaxlmm.DataError, match="^structures: found .*expected classes or structures by name"):
            jaxlmm.lmm("y ~ 1", {"y": [1.0, 2.0, 4.0]}, structures=wrong)
    assert pickle.loads(pickle.dumps(fit)).model.evaluator == Inverse()


class Optional(Engine):
    """An engine with an option."""

    name = "optional"

    def __init__(self, by=1.0):
        self.by = by

    def can(self, model):
        return None if model.random else "needs random effects"


def simple(engine, random=True):
    d = data()
    return Model(d.y, np.ones((len(d), 1)), [Term(np.ones(len(d)), d.id)] if random else [], engine=engine)


def test_objects_of_a_class_with_equal_options_are_one_engine():
    assert (
        Optional() == Optional() and hash(Optional()) == hash(Optional()) and Optional() != Optional(2.0) != Inverse()
    )
    assert repr(Optional(2.0)) == "Optional(by=2.0)"
    trees = [jax.tree_util.tree_structure(simple(Optional(by))) for by in (1.0, 1.0, 2.0)]
    assert trees[0] == trees[1] != trees[2]


def test_what_an_engine_cannot_do_names_what_is_missing():
    theta = np.zeros(2)
    with pytest.raises(jaxlmm.DataError, match="engine: 'optional' needs random effects"):
        simple(Optional(), random=False)
    with pytest.raises(jaxlmm.DataError, match="engine: 'optional' has no method 'gram'"):
        jaxlmm.reml(theta, simple(Optional()))

    class Alone(Inverse):
        name = "alone"

        def prepare(self, rows, model, compact=True, varying=1):
            return Nothing()

    class Nothing(Statistics):
        pass

    jax.tree_util.register_static(Nothing)
    with pytest.raises(jaxlmm.DataError, match="engine: Nothing has no method 'gram'"):
        jaxlmm.reml(theta, simple(Alone()))
    for method, arguments in (("solve", (None, None)), ("posterior", (None,)), ("with_columns", (None,))):
        with pytest.raises(jaxlmm.DataError, match=f"engine: Nothing has no method '{method}'"):
            getattr(Nothing(), method)(*arguments)

    class Wrong(Alone):
        name = "wrong"

        def prepare(self, rows, model, compact=True, varying=1):
            return rows

    with pytest.raises(jaxlmm.DataError, match="engine: 'wrong' prepares Rows, expected"):
        jaxlmm.reml(theta, simple(Wrong()))


@pytest.mark.parametrize("engine", [Inverse, "inverse", 3, None, Engine()])
def test_what_is_no_engine_is_refused(engine):
    with pytest.raises(jaxlmm.DataError, match="engine: "):
        simple(engine)


def test_a_name_belongs_to_one_class():
    class Dense(Inverse):
        name = "dense"

    with pytest.raises(jaxlmm.DataError, match="engine: Dense has the name 'dense'"):
        simple(Dense())


def classes_of(base):
    """Names of the package's own subclasses."""
    own = {one.__name__ for one in base.__subclasses__() if one.__module__.startswith("jaxlmm.")}
    return own.union(*(classes_of(one) for one in base.__subclasses__()))


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if "engines" not in path.parts]


def test_no_other_module_asks_which_engine_it_is():
    kinds = classes_of(Engine) | classes_of(Statistics)
    assert {"Dense", "Marginal"} <= kinds
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            asked = []
            if isinstance(node, ast.Compare):
                asked = [getattr(side, "attr", getattr(side, "id", "")) for side in (node.left, *node.comparators)]
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                asked = [getattr(kind, "id", "") for kind in ast.walk(node.args[1])]
            assert "engine" not in asked and not kinds & set(asked), f"{path}:{node.lineno}"
