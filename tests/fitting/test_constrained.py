"""`jaxlmm.fit(through=)`: covariance parameters as functions of fewer, against a dense optimisation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import jaxlmm
from cases import some
from jaxlmm import DataError, Field, Model, Status, Term
from jaxlmm.covariance import OrnsteinUhlenbeck

N = 60


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def model(kind):
    rng = np.random.default_rng(3)
    g, h, t = np.repeat(np.arange(10), 6), rng.integers(0, 8, N), np.tile(np.arange(6.0), 10)
    one, x = np.ones(N), rng.normal(size=N)
    Z = np.column_stack([one, x])
    y = 1.0 + 0.5 * x + rng.normal(size=(10, 2))[g][:, 0] * 0.8 + 0.9 * rng.normal(size=8)[h] + rng.normal(size=N)
    y = y + 0.7 * x * rng.normal(size=10)[g]
    random = {
        "equal": [Term(one, g), Term(one, h)],
        "ratio": [Term(one, g), Term(one, h)],
        "correlation": [Term(Z, g), Term(Z, h)],
        "range": [Field(OrnsteinUhlenbeck(), g, coords=t), Field(OrnsteinUhlenbeck(), h, coords=t + 0.1 * x)],
    }[kind]
    return Model(y, Z, random)


def correlated(a, b, r):
    """Log-Cholesky coordinates of two standard deviations and a correlation."""
    u, r = jnp.exp(b), jnp.tanh(r)
    return [a, u * r, b + 0.5 * jnp.log1p(-(r**2))]


THROUGH = {
    "equal": (lambda phi: phi[jnp.array([0, 0, 1])], np.zeros(2)),
    "ratio": (lambda phi: jnp.stack([phi[0], phi[0] + jnp.log(2.0), phi[1]]), np.zeros(2)),
    "correlation": (
        lambda phi: jnp.stack([*correlated(phi[0], phi[1], phi[4]), *correlated(phi[2], phi[3], phi[4]), phi[5]]),
        np.array([0.0, -0.5, 0.0, -0.5, 0.1, 0.0]),
    ),
    "range": (lambda phi: jnp.stack([phi[0], phi[2], phi[1], phi[2], phi[3]]), np.array([-0.3, -0.3, 0.5, 0.0])),
}


@pytest.mark.parametrize("kind", some(THROUGH, "equal"))
def test_the_fit_is_that_of_a_dense_optimisation(kind):
    m, (h, start) = model(kind), THROUGH[kind]
    found = jax.jit(lambda y: jaxlmm.fit(m.replace(y=y), through=h, start=start))(m.y)
    dense = Model(m.y, m.X, m.random, engine="dense")
    minus = jax.jit(jax.value_and_grad(lambda phi: -jaxlmm.reml(h(phi), dense)))
    best = minimize(minus, start, jac=True, method="BFGS", options={"gtol": 1e-8})
    assert int(found.status) == Status.CONVERGED and float(found.decrement) < 1e-8
    assert float(found.loglik) >= -best.fun - 1e-8 and float(found.min_eigenvalue) > 0
    np.testing.assert_allclose(found.theta, h(found.phi), rtol=1e-12, atol=1e-12)
    assert float(found.loglik) == pytest.approx(float(jaxlmm.reml(found.theta, m)), abs=1e-9)
    vcov = np.linalg.inv(jax.jit(jax.hessian(lambda phi: -jaxlmm.reml(h(phi), dense)))(found.phi))
    np.testing.assert_allclose(found.phi_vcov, vcov, rtol=1e-3, atol=1e-9)  # of an information that is nearly singular
    J = jax.jacfwd(h)(found.phi)
    np.testing.assert_allclose(found.theta_vcov, J @ vcov @ J.T, rtol=1e-3, atol=1e-9)
    value, error = found.delta(lambda phi: jnp.exp(2.0 * h(phi)[:1]))
    assert float(value[0]) == pytest.approx(float(np.exp(2 * found.theta[0])))
    assert float(error[0, 0]) == pytest.approx(4 * float(value[0]) ** 2 * float(found.theta_vcov[0, 0]), rel=1e-9)


@pytest.mark.slow
def test_derivatives_in_the_data_and_in_what_it_closes_over():
    m, d, e = model("equal"), np.linspace(-1, 1, N), 1e-4

    @jax.jit
    def phi(y, ratio):
        h = lambda phi: jnp.stack([phi[0], phi[0] + jnp.log(ratio), phi[1]])  # noqa: E731
        found = jaxlmm.fit(m.replace(y=y), through=h, start=np.zeros(2))
        return jnp.concatenate([found.phi, jnp.diagonal(found.phi_vcov), found.coef])

    slopes = jax.jit(jax.jacrev(phi, (0, 1)))(m.y, 1.5)
    moved = (phi(m.y + e * d, 1.5) - phi(m.y - e * d, 1.5)) / (2 * e)
    np.testing.assert_allclose(slopes[0] @ d, moved, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(slopes[1], (phi(m.y, 1.5 + e) - phi(m.y, 1.5 - e)) / (2 * e), rtol=1e-5, atol=1e-7)
    many = jax.jit(jax.vmap(phi, (None, 0)))(m.y, np.array([1.0, 2.0]))
    np.testing.assert_allclose(many, [phi(m.y, r) for r in (1.0, 2.0)], rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_with_a_prior_and_what_nothing_determines():
    m, (h, start) = model("equal"), THROUGH["equal"]
    found = jaxlmm.fit(m, through=h, start=start, prior=lambda theta, blocks: -2.0 * (theta[0] - 1.0) ** 2)
    minus = jax.jit(jax.value_and_grad(lambda phi: -jaxlmm.reml(h(phi), m) + 2.0 * (phi[0] - 1.0) ** 2))
    best = minimize(minus, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(found.phi, best.x, atol=1e-6)
    free = jaxlmm.fit(m, through=lambda phi: h(jnp.stack([phi[0] + phi[2], phi[1]])), start=np.zeros(3))
    assert np.isnan(free.phi_vcov).all() and abs(float(free.min_eigenvalue)) < 1e-7
    assert float(free.loglik) == pytest.approx(float(jaxlmm.fit(m, through=h, start=start).loglik), abs=1e-8)


def test_what_gives_no_theta_is_refused():
    m, (h, start) = model("equal"), THROUGH["equal"]
    with pytest.raises(DataError, match="start: with through= expected phi"):
        jaxlmm.fit(m, through=h)
    with pytest.raises(DataError, match=r"through: expected a function that gives theta \(3,\), found"):
        jaxlmm.fit(m, through=lambda phi: phi, start=start)
