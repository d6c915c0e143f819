"""Rows of weight zero are absent: equal to the model of the other rows, in every exact engine, under vmap and grad."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
from jaxlmm import DataError, Field, Model, Residual, Status, Term, pure
from jaxlmm.covariance import Autoregressive, OrnsteinUhlenbeck

N = 24
ENGINES = ("grouped", "nested", "crossed", "spectral", "dense", "relatives", "visits", "times")
KEEP = ~np.isin(np.arange(N), [0, 3, 7, 8, 16, 23])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def model(kind, masked=False):
    """A model of all rows, or of those that count."""
    rng = np.random.default_rng(0)
    g, h, t = np.repeat(np.arange(6), 4), rng.integers(0, 3, N), rng.permutation(N) / 4.0
    x, root = 2000.0 + rng.normal(size=N), rng.normal(size=(6, 6))
    y, w = rng.normal(size=N) + rng.normal(size=6)[g] + rng.normal(size=3)[h], rng.uniform(0.5, 2, N)
    rows = np.flatnonzero(KEEP) if masked else np.arange(N)
    g, h, t, x, y, w, visit = (a[rows] for a in (g, h, t, x, y, w, np.tile(np.arange(4), 6)))
    one, A = np.ones(len(rows)), root @ root.T / 6 + np.eye(6)
    Z, X = np.column_stack([one, x - 2000]), np.column_stack([one, x])
    function, own = Field(OrnsteinUhlenbeck(), g, coords=t), Term(one, g, relationship=A)
    random, residual, engine = {
        "grouped": ([Term(Z, g)], None, "grouped"),
        "nested": ([Term(one, g), Term(one, g // 2)], None, "grouped"),
        "crossed": ([Term(one, g), Term(one, h)], None, "crossed"),
        "spectral": ([own], None, "spectral"),
        "dense": ([own], Residual(OrnsteinUhlenbeck(), g, coords=t), "dense"),
        "relatives": ([own, Term(one, h)], None, "marginal"),
        "visits": ([], Residual(Autoregressive(), g, visit), "marginal"),
        "times": ([Term(one, h), function], None, "marginal"),
    }[kind]
    return Model(y, X, random, residual, weights=w, offset=3.0 * (x - 2000), engine=engine)


def masked(m, weights):
    """The model of all rows with anything at all in those of no weight."""
    gone = weights == 0.0
    Z = {"Z": [jnp.where(gone[:, None], jnp.nan, t.Z) for t in m.terms]} if m.terms else {}
    return m.replace(
        y=jnp.where(gone, jnp.nan, m.y), X=jnp.where(gone[:, None], jnp.inf, m.X), weights=weights,
        offset=jnp.where(gone, jnp.nan, m.offset), **Z,
    )  # fmt: skip


def both(kind):
    m = model(kind)
    return m, model(kind, True), np.where(KEEP, m.weights, 0.0), 0.3 * np.random.default_rng(1).normal(size=m.size)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENGINES)
def test_likelihoods_and_gradients_are_those_of_the_other_rows(kind):
    m, other, weights, theta = both(kind)

    def values(theta, weights):
        own = masked(m, weights)
        return jnp.stack([jaxlmm.reml(theta, own), jaxlmm.ml(theta, own), pure.logdet(theta, own)])

    def expected(theta, weights):
        own = other.replace(weights=weights)
        return jnp.stack([jaxlmm.reml(theta, own), jaxlmm.ml(theta, own), pure.logdet(theta, own)])

    found = jax.jit(jax.vmap(values, (None, 0)))(theta, np.stack([weights, m.weights]))
    np.testing.assert_allclose(found[0], jax.jit(expected)(theta, other.weights), rtol=1e-11)
    np.testing.assert_allclose(found[1, :2], [jaxlmm.reml(theta, m), jaxlmm.ml(theta, m)], rtol=1e-11)
    slopes, right = jax.jit(jax.jacrev(values, (0, 1)))(theta, weights), jax.jit(jax.jacrev(expected, (0, 1)))
    right = right(theta, other.weights)
    np.testing.assert_allclose(slopes[0], right[0], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(slopes[1][:, KEEP], right[1], rtol=1e-9, atol=1e-10)
    assert not np.any(slopes[1][:, ~KEEP])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENGINES)
def test_effects_solutions_and_draws_are_those_of_the_other_rows(kind):
    m, other, weights, theta = both(kind)
    own = masked(m, weights)
    found, right = jax.jit(lambda w: pure.blup(theta, masked(m, w)))(weights), pure.blup(theta, other)
    for a, b in zip(jax.tree_util.tree_leaves(found), jax.tree_util.tree_leaves(right), strict=True):
        rows = a.shape[0] == N and b.shape[0] == KEEP.sum()
        np.testing.assert_allclose(a[KEEP] if rows else a[: len(b)], b, rtol=1e-9, atol=1e-10)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree_util.tree_leaves(found))  # at the places of the others too
    B = np.where(KEEP, m.y, np.nan)
    solved = pure.solve(theta, own, B)
    np.testing.assert_allclose(solved[KEEP], pure.solve(theta, other, other.y), rtol=1e-9, atol=1e-12)
    assert not np.any(solved[~KEEP])
    V = pure.marginal_covariance(theta, own)
    np.testing.assert_allclose(V[np.ix_(KEEP, KEEP)], pure.marginal_covariance(theta, other), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(V[~KEEP], np.eye(N)[~KEEP])
    key = jax.random.key(0)
    drawn = pure.simulate(key, theta, np.ones(2), own)
    assert np.isnan(drawn[~KEEP]).all() and np.isfinite(drawn[KEEP]).all()
    assert all(np.isfinite(x).all() for x in jax.tree_util.tree_leaves(pure.posterior_sample(key, theta, own)))


def test_a_row_without_weight_is_absent():
    m, other, weights, theta = both("grouped")
    gone = weights == 0.0
    own = m.replace(y=np.where(gone, np.nan, m.y), X=np.where(gone[:, None], np.inf, m.X), weights=weights)
    assert float(jaxlmm.reml(theta, own)) == pytest.approx(float(jaxlmm.reml(theta, other)), abs=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENGINES)
def test_fits_of_lanes_with_rows_of_their_own(kind):
    m, other, weights, _ = both(kind)
    few = np.where(np.arange(N) < 2, 1.0, 0.0)
    masks = np.stack([weights, m.weights, few, np.zeros(N), np.where(m.X[:, 1] == m.X[0, 1], 1.0, 0.0)])

    def coefs(weights):
        found = jaxlmm.fit(masked(m, weights))
        return found.coef.sum(), found

    slopes, found = jax.jit(jax.vmap(jax.grad(coefs, has_aux=True)))(masks)
    right = jaxlmm.fit(other.replace(y=jnp.asarray(other.y)))
    assert list(found.status[:2]) == [Status.CONVERGED] * 2 and set(np.asarray(found.status[2:])) == {Status.NOT_FINITE}
    assert int(right.status) == Status.CONVERGED
    assert float(found.loglik[0]) == pytest.approx(float(right.loglik), abs=1e-10)
    for name in ("coef", "vcov"):
        np.testing.assert_allclose(getattr(found, name)[0], getattr(right, name), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(np.exp(found.theta[0]), np.exp(right.theta), rtol=1e-6, atol=1e-2)  # one is 0, nearly
    assert np.isfinite(slopes[:2]).all() and not np.any(slopes[0][~KEEP])
    assert all(np.isnan(x[2:]).all() for x in (found.loglik, found.theta, found.coef, found.vcov, *found.covariances))


def test_elsewhere_zeros_are_refused():
    m = model("grouped")
    with pytest.raises(DataError, match="weights: 24 of 24 are zero or negative.*model.replace"):
        Model(m.y, m.X, m.random, weights=np.zeros(N))
    with pytest.raises(DataError, match="weights: found rows of no weight"):
        jaxlmm.fit_batch(m.replace(weights=1.0 * KEEP), m.y[None])


@pytest.mark.slow
def test_collinear_columns_that_are_traced_give_no_number():
    m = model("grouped")
    assert np.isnan(jax.jit(lambda X: jaxlmm.reml(np.zeros(m.size), m.replace(X=X)))(np.ones((N, 2))))


def test_a_level_without_rows_in_a_balanced_design():
    g, h, one = np.repeat(np.arange(6), 4), np.tile(np.arange(4), 6), np.ones(N)
    theta, y, keep = np.array([0.1, -0.2, 0.3]), model("crossed").y, g != 5
    m = Model(y, one[:, None], [Term(one, g), Term(one, h)], engine="crossed")
    other = Model(y[keep], one[keep][:, None], [Term(one[keep], g[keep]), Term(one[keep], h[keep])], engine="crossed")
    own = float(jaxlmm.reml(theta, m.replace(weights=1.0 * keep)))
    assert own == pytest.approx(float(jaxlmm.reml(theta, other)), abs=1e-10)
    m = Model(y, one[:, None], [Term(1.0 * keep, g), Term(one, h)], engine="crossed")
    dense = Model(y, one[:, None], m.random, engine="dense")
    assert float(jaxlmm.reml(theta, m)) == pytest.approx(float(jaxlmm.reml(theta, dense)), abs=1e-10)
