"""`jaxlmm.fit(prior=)`: the mode of a posterior, against a dense optimisation, and what it depends on."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

import jaxlmm
from jaxlmm import DataError, Field, Model, Status, Term
from jaxlmm.covariance import OrnsteinUhlenbeck

N = 30


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def model(kind):
    """Responses without random effects: without a prior the fits are singular."""
    rng = np.random.default_rng(3)
    g, t, h = np.repeat(np.arange(6), 5), np.tile(np.arange(5.0), 6), rng.integers(0, 5, N)
    X = np.column_stack([np.ones(N), t])
    y = X @ [1.0, 0.5] + rng.normal(size=N)
    random = {
        "grouped": [Term(X, g)],
        "crossed": [Term(np.ones(N), g), Term(np.ones(N), h)],
        "marginal": [Field(OrnsteinUhlenbeck(), g, coords=t)],
    }[kind]
    return Model(y, X, random, engine=kind)


def wishart(theta, blocks, weight=2.0):
    """log det G and trace of the covariance between effects (Chung et al. 2015), and a normal prior for the rest."""
    found = -0.05 * jnp.sum((theta - 0.3) ** 2)
    for G in blocks.random:
        L = G.reshape(-1, G.shape[-1])[: G.shape[-1]]
        found += weight * 0.5 * jnp.linalg.slogdet(L)[1] - 0.5 * jnp.trace(L)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("grouped", "crossed", "marginal"))
def test_the_mode_is_that_of_a_dense_optimisation(kind):
    m = model(kind)
    alone, found = jax.jit(jaxlmm.fit)(m), jaxlmm.fit(m, prior=wishart)
    assert int(found.status) == Status.CONVERGED
    if kind != "marginal":
        assert bool(alone.boundary.any())
    assert not found.boundary.any() and np.isfinite(found.theta).all()
    dense = Model(m.y, m.X, m.random, engine="dense")
    value = jax.jit(jax.value_and_grad(lambda theta: -jaxlmm.reml(theta, dense) - wishart(theta, dense.blocks(theta))))
    best = minimize(value, np.zeros(m.size), jac=True, method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(found.theta, best.x, atol=1e-5)
    assert float(found.loglik + wishart(found.theta, m.blocks(found.theta))) >= -best.fun - 1e-9
    assert float(found.loglik) == pytest.approx(float(jaxlmm.reml(found.theta, m)), abs=1e-9)
    assert float(found.sigma) == pytest.approx(float(np.exp(found.theta[-1])), rel=1e-12)
    assert float(found.min_eigenvalue) > 0


@pytest.mark.slow
def test_estimates_have_derivatives_in_what_the_prior_closes_over():
    m = model("grouped")

    @jax.jit
    def mode(weight, y):
        return jaxlmm.fit(m.replace(y=y), prior=lambda theta, blocks: wishart(theta, blocks, weight)).theta

    slopes, d, h = jax.jit(jax.jacrev(mode, (0, 1)))(2.0, m.y), np.linspace(-1, 1, N), 1e-4
    np.testing.assert_allclose(slopes[0], (mode(2.0 + h, m.y) - mode(2.0 - h, m.y)) / (2 * h), rtol=1e-5, atol=1e-7)
    moved = (mode(2.0, m.y + h * d) - mode(2.0, m.y - h * d)) / (2 * h)
    np.testing.assert_allclose(slopes[1] @ d, moved, rtol=1e-5, atol=1e-7)
    weights = np.array([1.0, 3.0])
    both = jax.jit(jax.vmap(mode, (0, None)))(weights, m.y)
    np.testing.assert_allclose(both, [mode(w, m.y) for w in weights], atol=1e-8)


@pytest.mark.slow
def test_a_prior_that_allows_zero_leaves_variances_of_zero():
    m = model("crossed")

    def half_normal(theta, blocks):
        return -0.5 * sum(jnp.trace(G) for G in blocks.random)

    found, alone = jaxlmm.fit(m, prior=half_normal), jaxlmm.fit(m)
    np.testing.assert_array_equal(found.boundary[:2], alone.boundary)
    assert int(found.status) == Status.CONVERGED and found.boundary.any()
    by_lbfgs = jaxlmm.fit(m, prior=wishart, optimizer=optax.lbfgs())
    np.testing.assert_allclose(by_lbfgs.theta, jaxlmm.fit(m, prior=wishart).theta, atol=1e-5)


def test_a_prior_that_is_no_number_is_refused():
    m = model("crossed")
    for prior in (lambda theta, blocks: theta, lambda theta, blocks: 1, lambda theta, blocks: None):
        with pytest.raises(DataError, match="prior: expected a function that gives one number, found"):
            jaxlmm.fit(m, prior=prior)
