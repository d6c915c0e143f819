"""`jaxlmm.pure` against the textbook: V formed and inverted in NumPy, derivatives by differences."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
from cases import some
from jaxlmm import DataError, Field, Model, Term, pure
from jaxlmm.covariance import OrnsteinUhlenbeck

N = 24
ENGINES = ("grouped", "crossed", "marginal", "spectral", "dense")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def model(kind):
    rng = np.random.default_rng(0)
    g, h, t = np.sort(rng.integers(0, 5, N)), rng.integers(0, 4, N), rng.permutation(N) / 4.0
    one, x, y, root = np.ones(N), rng.normal(size=N), rng.normal(size=N), rng.normal(size=(5, 5))
    X, A = np.column_stack([one, x]), root @ root.T / 5 + np.eye(5)
    random = {
        "grouped": [Term(X, g), Term(one, g * 4 + h)],
        "crossed": [Term(X, g), Term(one, h)],
        "marginal": [Term(X, g, relationship=A), Term(one, h), Field(OrnsteinUhlenbeck(), g, coords=t)],
        "spectral": [Term(one, g, relationship=A)],
        "dense": [Term(X, g, relationship=A), Field(OrnsteinUhlenbeck(), g, coords=t)],
        "iterative": [Term(X, g), Term(one, h)],
    }[kind]
    return Model(y, X, random, weights=rng.uniform(0.5, 2, N), offset=3.0 * x, engine=kind)


def theta_of(m):
    return 0.3 * np.random.default_rng(1).normal(size=m.size)


@functools.cache
def textbook(kind):
    """V, and of every part its design (n, effects) and the covariance of its effects, q of a level."""
    m = model(kind)
    C = jax.tree_util.tree_map(np.asarray, jax.jit(m.blocks)(theta_of(m)))
    V, parts = C.residual[0, 0] * np.diag(1 / m.weights), []
    for part, G in zip(m.random, C.random, strict=True):
        if isinstance(part, Term):
            E = np.zeros((N, part.levels, part.dim))
            E[np.arange(N), part.group] = part.Z
            E, q = E.reshape(N, -1), part.dim
            D = np.kron(np.eye(part.levels) if part.relationship is None else part.relationship, G)
        else:
            coords, same = part.row_coords, part.group[:, None] == part.group
            variance, distance = np.exp(2 * theta_of(m)[-3]), np.exp(theta_of(m)[-2])
            D = variance * np.exp(-np.abs(coords[:, None] - coords) / distance) * same
            E, q = np.eye(N), 1
        V = V + E @ D @ E.T
        parts.append((E, D, q))
    return V, parts


def blocks(M, q):
    return np.stack([M[i : i + q, i : i + q] for i in range(0, len(M), q)])


@pytest.mark.parametrize("kind", some((*ENGINES, "iterative"), "grouped"))
def test_everything_is_that_of_the_textbook(kind):
    m, theta = model(kind), theta_of(model(kind))
    V, parts = textbook(kind)
    np.testing.assert_allclose(pure.marginal_covariance(theta, m), V, rtol=1e-12, atol=1e-13)
    inverse, B = np.linalg.inv(V), np.random.default_rng(2).normal(size=(N, 3))
    np.testing.assert_allclose(pure.solve(theta, m, B), inverse @ B, rtol=1e-9, atol=1e-10)
    if kind != "iterative":  # there with a Monte Carlo error
        assert float(pure.logdet(theta, m)) == pytest.approx(np.linalg.slogdet(V)[1], rel=1e-12)
    found = pure.blup(theta, m)
    vcov = np.linalg.inv(m.X.T @ inverse @ m.X)
    beta = vcov @ m.X.T @ inverse @ (m.y - m.offset)
    rest = inverse @ (m.y - m.offset - m.X @ beta)
    P = inverse - inverse @ m.X @ vcov @ m.X.T @ inverse
    np.testing.assert_allclose(found.coef, beta, rtol=1e-9)
    np.testing.assert_allclose(found.vcov, vcov, rtol=1e-9)
    for t, (E, D, q) in enumerate(parts):
        c = D @ E.T
        np.testing.assert_allclose(np.ravel(found.values[t]), c @ rest, rtol=1e-8, atol=1e-9)
        if kind == "iterative":
            assert np.isnan(found.condvar[t]).all() and np.isnan(found.pev[t]).all()
            continue
        np.testing.assert_allclose(found.condvar[t], blocks(D - c @ inverse @ c.T, q), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(found.pev[t], blocks(D - c @ P @ c.T, q), rtol=1e-9, atol=1e-11)


def some_of_everything(theta, y, X, Z, m):
    """A smooth number of all results; Z multiplies the columns of the first term."""
    m = m.replace(
        y=y, X=X, **({} if m.engine == "spectral" else {"Z": [Z * m.terms[0].Z, *(t.Z for t in m.terms[1:])]})
    )
    found = pure.blup(theta, m)
    arrays = (*found.values, *found.condvar, *found.pev, found.coef, found.vcov, pure.solve(theta, m, y))
    return sum(jnp.sum(jnp.sin(x)) for x in arrays) + pure.logdet(theta, m)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENGINES)
def test_derivatives_in_everything_are_those_of_differences(kind):
    m = model(kind)
    at = (theta_of(m), m.y, m.X, np.ones(()))
    value = jax.jit(lambda *args: some_of_everything(*args, m))
    gradient = jax.jit(jax.grad(value, (0, 1, 2, 3)))(*at)
    rng = np.random.default_rng(3)
    for i, x in enumerate(at):
        d, h = rng.normal(size=np.shape(x)), 1e-4
        moved = [value(*at[:i], x + k * h * d, *at[i + 1 :]) for k in (-2, -1, 1, 2)]
        expected = (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * h)
        np.testing.assert_allclose(np.sum(gradient[i] * d), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("grouped", "crossed", "marginal", "dense"))
def test_third_derivatives_of_solutions(kind):
    # those of three steps of refinement, differentiated themselves, are wrong from the third on
    m, d = model(kind), np.random.default_rng(4).normal(size=model(kind).size)

    def value(t):
        return jnp.sum(pure.solve(theta_of(m) + t * d, m, m.y) * m.X[:, 1])

    def dense(t):
        return jnp.sum(jnp.linalg.solve(pure.marginal_covariance(theta_of(m) + t * d, m), m.y) * m.X[:, 1])

    third, expected = (jax.jit(jax.jacfwd(jax.jacfwd(jax.jacfwd(f))))(0.0) for f in (value, dense))
    np.testing.assert_allclose(third, expected, rtol=1e-8)


@pytest.mark.slow
def test_functions_are_mapped_over_theta_and_responses():
    m, theta = model("grouped"), theta_of(model("grouped"))
    many, Y = np.stack([theta, theta + 0.1]), np.stack([m.y, 2.0 * m.y])
    one = jax.jit(lambda theta, y: pure.blup(theta, m.replace(y=y)))
    both = jax.jit(jax.vmap(lambda theta, y: pure.blup(theta, m.replace(y=y))))(many, Y)
    for i in range(2):
        for a, b in zip(*map(jax.tree_util.tree_leaves, (one(many[i], Y[i]), both)), strict=True):
            np.testing.assert_allclose(a, b[i], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", some(ENGINES, "spectral"))
def test_posterior_draws_have_the_mean_and_the_covariance_of_the_predictors(kind):
    m, theta, b = model(kind), theta_of(model(kind)), 20_000
    found = jax.device_get(pure.blup(theta, m))
    keys = jax.random.split(jax.random.key(5), b)
    coef, values = jax.device_get(jax.jit(jax.vmap(lambda key: pure.posterior_sample(key, theta, m)))(keys))
    for draws, mean, cov in (
        (coef[:, None], found.coef[None], found.vcov[None]),
        *zip(values, found.values, found.pev, strict=True),
    ):
        off = draws - mean
        variance = np.diagonal(cov, axis1=1, axis2=2)
        assert np.all(np.abs(off.mean(0)) < 5 * np.sqrt(variance / b))
        spread = np.einsum("bmi,bmj->mij", off, off) / b
        size = np.sqrt(variance[:, :, None] * variance[:, None, :])
        assert np.all(np.abs(spread - cov) < 7 * size / np.sqrt(b))


def test_simulated_rows_are_those_of_a_fit():
    fit = jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", jaxlmm.datasets.load("sleepstudy", "dict"))
    rows = fit.simulate(2, seed=3)
    for r in range(2):
        key = jax.random.fold_in(jax.random.key(3), r)
        np.testing.assert_allclose(pure.simulate(key, fit.theta, fit.coef, fit.model), rows[r], rtol=1e-9)


@pytest.mark.slow
def test_simulated_responses_have_derivatives_in_the_parameters():
    m, key = model("dense"), jax.random.PRNGKey(1)
    simulate = jax.jit(lambda theta, beta: pure.simulate(key, theta, beta, m))
    theta, beta, h = theta_of(m), np.array([1.0, -1.0]), 1e-5
    by_theta, by_beta = jax.jacobian(simulate, (0, 1))(theta, beta)
    np.testing.assert_allclose(by_beta, m.X, atol=1e-12)
    for k, e in enumerate(np.eye(m.size)):
        expected = (simulate(theta + h * e, beta) - simulate(theta - h * e, beta)) / (2 * h)
        np.testing.assert_allclose(by_theta[:, k], expected, atol=1e-8)


FUNCTIONS = {
    "reml": lambda theta, m: pure.reml(theta, m),
    "ml": lambda theta, m: pure.ml(theta, m),
    "gram": lambda theta, m: pure.gram(theta, m),
    "logdet": lambda theta, m: pure.logdet(theta, m),
    "solve": lambda theta, m: pure.solve(theta, m, np.ones(N)),
    "marginal_covariance": lambda theta, m: pure.marginal_covariance(theta, m),
    "blup": lambda theta, m: pure.blup(theta, m),
    "posterior_sample": lambda theta, m: pure.posterior_sample(jax.random.key(0), theta, m),
    "simulate": lambda theta, m: pure.simulate(jax.random.key(0), theta, np.ones(2), m),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_that_have_changed_places_are_said_so(name):
    m, theta, call = model("grouped"), theta_of(model("grouped")), FUNCTIONS[name]
    with pytest.raises(TypeError, match=rf"{name}\(.*theta.*model.*\): theta and model have changed places"):
        call(m, theta)
    with pytest.raises(TypeError, match="expected a jaxlmm.Model, found list"):
        call(theta, [m])
    with pytest.raises(DataError, match="theta: expected 5 covariance parameters"):
        call(theta[:2], m)


def test_other_arguments_are_named():
    m, theta = model("grouped"), theta_of(model("grouped"))
    with pytest.raises(
        DataError, match=r"rhs: expected an array of shape \(24,\) or \(24, columns\), found shape \(2,\)"
    ):
        pure.solve(theta, m, np.ones(2))
    with pytest.raises(DataError, match=r"beta: expected 2 fixed effects, found shape \(\)"):
        pure.simulate(jax.random.key(0), theta, 1.0, m)
    with pytest.raises(DataError, match=r"key: expected .* one key of jax.random, found an array of shape \(3,\)"):
        pure.simulate(jax.random.split(jax.random.key(0), 3), theta, np.ones(2), m)


def test_a_network_of_float32_ends_in_a_likelihood():
    m, theta = model("spectral"), theta_of(model("spectral"))
    head = pure.in_float64(lambda theta, mean: -pure.reml(theta, m.replace(y=m.y - mean)))
    x = m.X[:, 1] ** 2  # a shift along X would change nothing
    exact = jax.jit(jax.grad(lambda theta, w: -pure.reml(theta, m.replace(y=m.y - w * x)), (0, 1)))(theta, 0.5)
    with jax.enable_x64(False):
        slopes = jax.jit(jax.grad(lambda p: head(p["theta"], p["w"] * jnp.asarray(x))))
        start = {"theta": jnp.asarray(theta), "w": jnp.asarray(0.5)}
        found = slopes(start)
        assert found["w"].dtype == found["theta"].dtype == jnp.float32
        with pytest.raises(jaxlmm.Float64RequiredError, match="jax.grad inside of it too"):
            pure.reml(theta, m)
    np.testing.assert_allclose(found["theta"], exact[0], rtol=1e-5)
    np.testing.assert_allclose(found["w"], exact[1], rtol=1e-5)
