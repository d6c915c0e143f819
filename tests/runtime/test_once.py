"""What is done once: a program serves REML and ML, and every variant of a test; data are prepared once a fit."""

import copy
import pickle

import jax
import numpy as np
import pytest

import jaxlmm
from jaxlmm import datasets
from jaxlmm.inference.uncertain import uncertain
from jaxlmm.likelihood import prepared as prepared_module
from jaxlmm.runtime.programs import PROGRAMS

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *args, **kwargs: COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


def compilations(run):
    """How many programs are compiled, or read from a cache of them, while something runs."""
    before = len(COMPILED)
    run()
    return len(COMPILED) - before


def results(method):
    """What users look at after a fit, computed."""
    fit = jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", datasets.load("sleepstudy"), method=method)
    str(fit.summary())
    fit.confint(which="Days")
    fit.confint(method="wald")
    fit.varcorr().frame()
    fit.anova()
    fit.test("Days", information="expected")
    fit.ranef()
    fit.predict(interval="prediction")
    assert np.isfinite(jaxlmm.reml(fit.theta, fit.model) + jaxlmm.ml(fit.theta, fit.model))


def test_reml_and_ml_share_their_programs():
    assert compilations(lambda: jax.jit(lambda x: x + 1)(np.ones(3))) == 1  # they are counted
    results("REML")
    assert compilations(lambda: results("ML")) == 0


def test_a_comparison_of_reml_fits_refits_them_without_compiling():
    data = datasets.load("sleepstudy")

    def compared(method):
        fits = [jaxlmm.lmm(f"Reaction ~ {x} + (Days | Subject)", data, method=method) for x in ("1", "Days")]
        return jaxlmm.compare(*fits, refit=True)

    compared("ML")
    assert compilations(lambda: compared("REML")) == 0


def test_variants_of_tests_share_their_programs():
    """Methods, information matrices and charts: a fit with a variance of zero keeps it in the natural chart."""
    inside, edge = (jaxlmm.lmm("Yield ~ 1 + (1 | Batch)", datasets.load(f"dyestuff{i}")) for i in ("", "2"))
    assert edge.singular and not inside.singular
    inside.wald("kenward-roger-full")
    uncertain(edge)  # beside a variance of zero, whether there is anything that the data do not identify
    before = len(PROGRAMS)
    df = set()
    for fit in (inside, edge):
        for method in ("satterthwaite", "kenward-roger", "kenward-roger-full"):
            for information in ("expected", "average", "observed"):
                for boundary_df in ("keep", "drop"):
                    by = fit.wald(method, information=information, boundary_df=boundary_df)
                    df.add((fit.singular, method, by.parameters[0]))
    assert len(df) == 9 and len(PROGRAMS) == before


@pytest.mark.parametrize(
    "formula, options",
    [
        ("Reaction ~ Days + (Days | Subject)", {}),
        pytest.param("Reaction ~ Days + (1 | Subject) + (1 | Days)", {}, marks=pytest.mark.slow),
        pytest.param("Reaction ~ Days + (1 | Subject)", {"residual": "ar1(Days | Subject)"}, marks=pytest.mark.slow),
    ],
)
def test_data_are_prepared_once_a_fit(monkeypatch, formula, options):
    prepared, make = [], prepared_module._prepare

    def counted(model, *kind):
        prepared.append(kind)
        return make(model, *kind)

    monkeypatch.setattr(prepared_module, "_prepare", counted)
    fit = jaxlmm.lmm(formula, datasets.load("sleepstudy"), **options)
    for _ in range(2):
        str(fit.summary())
        fit.varcorr().frame()
        fit.parameters()
        fit.confint(method="wald")
        fit.confint(which="Days")
        fit.anova(df="kenward-roger")
        fit.ranef()
        fit.predict(interval="prediction")
        fit.predict(se=True, df="kenward-roger")
        fit.residuals("normalized")
        fit.caic()
        fit.vcov_full()
        assert fit.fitted.shape == (fit.nobs,)
        jaxlmm.reml(fit.theta, fit.model)
    assert len(prepared) == len(set(prepared)) <= 3  # compact and by row in a basis of its own, compact as given


def test_what_is_kept_is_not_passed_on():
    fit = jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", datasets.load("sleepstudy"))
    model, twice = fit.model, fit.model.replace(y=2.0 * fit.model.y)
    assert float(jaxlmm.reml(fit.theta, twice)) < float(jaxlmm.reml(fit.theta, model))
    assert not hasattr(jax.tree_util.tree_map(lambda leaf: leaf, model), "_kept")
    assert not pickle.loads(pickle.dumps(model))._kept and not copy.deepcopy(model)._kept

    own = jax.tree_util.tree_map(np.array, model)  # arrays that can be written to are read every time
    before = float(jaxlmm.reml(fit.theta, own))
    own.y[:] *= 2.0
    assert float(jaxlmm.reml(fit.theta, own)) == float(jaxlmm.reml(fit.theta, twice)) < before

    gradient = jax.jit(jax.grad(lambda theta: jaxlmm.reml(theta, pickle.loads(pickle.dumps(model)))))
    assert np.max(np.abs(gradient(fit.theta))) < 1e-4
    effects = fit.ranef()["Subject"].values
    effects[:] = 0.0
    assert np.all(fit.ranef()["Subject"].values != 0.0)
