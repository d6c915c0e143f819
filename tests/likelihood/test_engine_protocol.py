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
from jaxlmm import Model, Residual, Term
from jaxlmm.likelihood.engines import Engine, Statistics
from jaxlmm.likelihood.parts import Field

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
    rng = np.random.default_rng(5)
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
    return found.coef, found.theta, found.loglik, found.status


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
    "varcorr": lambda f: f.varcorr.frame(),
    "glance": lambda f: f.glance(),
    "augment": lambda f: f.augment(),
    "ranef": lambda f: [(e.values, e.condvar, e.pev) for e in f.ranef()._effects],
    "fitted": lambda f: f.fitted,
    "predict": lambda f: f.predict(data()[:4], interval="prediction"),
    "residuals": lambda f: [
        f.residuals(kind, random) for kind in ("response", "pearson", "normalized") for random in (True, False)
    ],
    "anova": lambda f: f.anova().frame(),
    "anova by kenward-roger": lambda f: f.anova(df="kenward-roger").frame(),
    "emmeans": lambda f: f.emmeans("arm").frame(),
    "confint": lambda f: f.confint().frame(),
    "profile": lambda f: f.confint("coef", method="profile").frame(),
    "simulate": lambda f: f.simulate(2, seed=3),
    "bootstrap": lambda f: f.bootstrap(3, seed=1).values,
    "refit": lambda f: f.refit(responses()[0]).loglik,
    "refit of many": lambda f: batch_of(f.refit(responses())),
    "refit of incomplete": lambda f: batch_of(f.refit(gaps(), missing="drop")),
    "influence": lambda f: f.influence("id").cooks,
    "sandwich": lambda f: f.sandwich().vcov,
    "scores": lambda f: f.scores().values,
    "conditional AIC": lambda f: f.caic.aic,
    "r2": lambda f: f.r2.estimate,
}


@pytest.mark.parametrize("result", RESULTS)
def test_every_result_of_a_fit(result):
    own, known = both()
    assert own.engine == own.model.engine == "inverse"
    found, expected = numbers(RESULTS[result](own)), numbers(RESULTS[result](known))
    assert len(expected)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
