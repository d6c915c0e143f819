"""What is done once: a program serves REML and ML, and every variant of a test; data are prepared once a fit."""

import jax
import numpy as np

import jaxlmm
from jaxlmm import datasets

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
