"""A fit of a formula from a `Model` of plain arrays, and models whose coordinates and relationships are traced."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
from cases import some
from jaxlmm import DataError, Field, Model, Residual, Term, Unstructured
from jaxlmm.covariance import Autoregressive, Diagonal, OrnsteinUhlenbeck

N, G = 48, 12


@functools.cache
def model(kind):
    rng = np.random.default_rng(5)
    g, visit, h = np.repeat(np.arange(G), 4), np.tile(np.arange(4), G), rng.integers(0, 5, N)
    one, t, root = np.ones(N), visit + rng.uniform(size=N), rng.normal(size=(G, G))
    X = np.column_stack([one, t])
    y = X @ [1.0, 0.5] + rng.normal(size=G)[g] + 0.6 * rng.normal(size=5)[h] + rng.normal(size=N)
    random, residual = {
        "slopes": ([Term(X, g)], None),
        "diagonal": ([Term(X, g, Diagonal()), Term(one, h)], None),
        "relatives": ([Term(one, g, relationship=root @ root.T / G + np.eye(G)), Term(one, h)], None),
        "function": ([Term(one, h), Field(OrnsteinUhlenbeck(), g, coords=t)], None),
        "visits": ([], Residual(Unstructured(), g, visit)),
        "series": ([Term(one, h)], Residual(Autoregressive(), g, visit)),
        "times": ([], Residual(OrnsteinUhlenbeck(), g, coords=t)),
        "linear": ([], None),
    }[kind]
    return Model(y, X, random, residual, weights=rng.uniform(0.5, 2.0, N), offset=0.1 * t)


KINDS = ("slopes", "diagonal", "relatives", "function", "visits", "series", "times", "linear")


@pytest.mark.parametrize("kind", some(KINDS, "linear"))
def test_a_fit_of_arrays_has_all_that_one_of_a_formula_has(kind):
    m = model(kind)
    fit = jaxlmm.lmm(m)
    with jax.enable_x64(True):
        assert fit.loglik == pytest.approx(float(jaxlmm.reml(fit.theta, m)), abs=1e-9)
        again = jaxlmm.fit_batch(m, m.y[None])
        assert fit.loglik == pytest.approx(float(again.loglik[0]), abs=1e-8)
        np.testing.assert_allclose(fit.coef, again.coef[0], rtol=1e-6)
        if m.terms:
            effects = jaxlmm.pure.blup(fit.theta, m).values[0]
            np.testing.assert_allclose(fit.ranef()["g0"].values, effects, rtol=1e-6, atol=1e-9)
    assert fit.engine == m.engine and fit.frame.coef_names == ("x0", "x1")
    assert "x1" in str(fit.summary())
    np.testing.assert_allclose(fit.predict(random=False), m.X @ fit.coef + m.offset, rtol=1e-12)
    assert fit.refit(m.y + 1.0).loglik == pytest.approx(fit.loglik, abs=1e-6)


def test_what_has_no_formula_is_said():
    m = model("slopes")
    with pytest.raises(DataError, match="data: a Model has its own"):
        jaxlmm.lmm(m, {"y": m.y})
    with pytest.raises(DataError, match="data: expected a data frame"):
        jaxlmm.lmm("y ~ x")
    levels = Field(Autoregressive(), m.random[0].group, np.tile(np.arange(4), G))
    with pytest.raises(DataError, match="a random function over levels, cannot be written as a formula"):
        jaxlmm.lmm(Model(m.y, m.X, [levels]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("function", "times", "relatives"))
def test_coordinates_and_relationships_may_be_traced(kind):
    """Value and derivatives as of models that are made of values."""
    m = model(kind)
    part = m.residual if kind == "times" else m.random[-1] if kind == "function" else m.random[0]
    given = part.relationship if kind == "relatives" else part.row_coords
    theta = 0.2 * np.random.default_rng(0).normal(size=m.size)

    def made(values):
        if kind == "relatives":
            return Model(m.y, m.X, [Term(part.Z, part.group, relationship=values), m.random[1]])
        if kind == "times":
            return Model(m.y, m.X, [], Residual(part.structure, part.group, coords=values))
        return Model(m.y, m.X, [m.random[0], Field(part.structure, part.group, coords=values)])

    with jax.enable_x64(True):
        value, slope = jax.jit(jax.value_and_grad(lambda v: jaxlmm.reml(theta, made(v))))(given)
        assert float(value) == pytest.approx(float(jaxlmm.reml(theta, made(np.asarray(given)))), rel=1e-12)
        d, h = np.random.default_rng(1).normal(size=np.shape(given)), 1e-5
        d = d + d.T if kind == "relatives" else d
        moved = [float(jaxlmm.reml(theta, made(np.asarray(given) + k * h * d))) for k in (-1, 1)]
        assert float(jnp.sum(slope * d)) == pytest.approx((moved[1] - moved[0]) / (2 * h), rel=1e-6)
        many = jax.jit(jax.vmap(lambda v: jaxlmm.fit(made(v)).loglik))(np.stack([given, given]))
        np.testing.assert_allclose(many, float(jaxlmm.fit(made(np.asarray(given))).loglik), atol=1e-7)
    if kind != "relatives":
        made_of = jax.eval_shape(lambda v: made(v).coords[-1 if kind == "times" else 1], given)
        assert made_of.shape[0] == G  # each group has a set of its own
