"""Residual structures, fields and relationships beside random terms: the engines against the dense matrix V."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
from cases import some
from jaxlmm import Field, Model, Residual, Term, Unstructured
from jaxlmm.covariance import Autoregressive, Exponential, OrnsteinUhlenbeck
from jaxlmm.estimates.effects import random_effects
from jaxlmm.fitting.estimate import estimate
from jaxlmm.fitting.objective import Spec, objective, packing_of, scale_of
from jaxlmm.likelihood.engines import Blocks
from jaxlmm.likelihood.engines.marginal import layout as clusters
from jaxlmm.likelihood.prepared import prepare

SUBJECTS, VISITS = 12, 5


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def data(whole):
    """Rows of subjects in sites, all visits or a part of them, in any order."""
    rng = np.random.default_rng(1)
    g, t = np.repeat(np.arange(SUBJECTS), VISITS), np.tile(np.arange(VISITS), SUBJECTS)
    keep = np.ones(len(g), bool) if whole else rng.random(len(g)) > 0.25
    rows = rng.permutation(np.flatnonzero(keep))
    g, t = g[rows], t[rows]
    n = len(g)
    return {
        "g": g, "t": t, "site": g // 3, "day": 10 * g + t // 2, "item": rng.integers(0, 4, n), "x": rng.normal(size=n),
        "when": rng.uniform(0, 10, n), "place": rng.normal(size=(n, 2)), "w": rng.uniform(0.5, 2, n), "one": np.ones(n),
        "slope": np.column_stack([np.ones(n), t]), "y": rng.normal(size=n) + rng.normal(size=SUBJECTS)[g],
    }  # fmt: skip


def kin():
    lag = np.abs(np.arange(SUBJECTS)[:, None] - np.arange(SUBJECTS))
    return np.exp(-lag / 3) * (np.arange(SUBJECTS)[:, None] // 6 == np.arange(SUBJECTS) // 6)


PARTS = {
    "us": lambda d: ([], Residual(Unstructured(), d["g"], d["t"])),
    "ar1 + intercept": lambda d: ([Term(d["one"], d["g"])], Residual(Autoregressive(), d["g"], d["t"])),
    "ar1 + slope": lambda d: ([Term(d["slope"], d["g"])], Residual(Autoregressive(), d["g"], d["t"])),
    "ar1 + day in subject": lambda d: ([Term(d["one"], d["day"])], Residual(Autoregressive(), d["g"], d["t"])),
    "us + site": lambda d: ([Term(d["one"], d["site"])], Residual(Unstructured(), d["g"], d["t"])),
    "ar1 + site + slope": lambda d: (
        [Term(d["one"], d["site"]), Term(d["slope"], d["g"])],
        Residual(Autoregressive(), d["g"], d["t"]),
    ),
    "ar1 + crossed": lambda d: (
        [Term(d["one"], d["item"]), Term(d["one"], d["site"])],
        Residual(Autoregressive(), d["g"], d["t"]),
    ),
    "ou": lambda d: ([], Residual(OrnsteinUhlenbeck(), d["g"], coords=d["when"])),
    "ou at visits + slope": lambda d: (
        [Term(d["slope"], d["g"])],
        Residual(OrnsteinUhlenbeck(), d["g"], coords=1.0 * d["t"]),
    ),
    "field of time": lambda d: ([Field(OrnsteinUhlenbeck(), d["g"], coords=d["when"])], None),
    "field of visits + site": lambda d: ([Field(Autoregressive(), d["g"], d["t"]), Term(d["one"], d["site"])], None),
    "field over all rows": lambda d: ([Field(Exponential(), coords=d["place"]), Term(d["one"], d["site"])], None),
    "map of a site": lambda d: ([], Residual(Exponential(), d["site"], coords=d["place"])),
    "field of a site + ou": lambda d: (
        [Field(Exponential(), d["site"], coords=d["place"])],
        Residual(OrnsteinUhlenbeck(), d["g"], coords=d["when"]),
    ),
    "kin": lambda d: ([Term(d["one"], d["g"], relationship=kin())], None),
    "kin + crossed": lambda d: ([Term(d["slope"], d["g"], relationship=kin()), Term(d["one"], d["item"])], None),
    "kin + ar1": lambda d: (
        [Term(d["slope"], d["g"], relationship=kin())],
        Residual(Autoregressive(), d["g"], d["t"]),
    ),
}


@functools.cache
def model(name, whole=False, weighted=True, engine="auto"):
    d = data(whole)
    random, residual = PARTS[name](d)
    X = np.column_stack([d["one"], d["x"]])
    return Model(d["y"], X, random, residual, weights=d["w"] if weighted else None, engine=engine)


reml = jax.jit(jaxlmm.reml)


def expansion(m):
    """Value, gradient and Hessian of the criterion near the start."""
    prepared, spec = prepare(m), Spec.of(m, "REML")
    scale = np.asarray(scale_of(spec, prepared.basis))
    s = spec.start(prepared.coords) + 0.1 * np.arange(len(scale))
    packed = jax.jit(objective(spec, prepared, jnp.asarray(scale)))(s)
    return packing_of(spec, m.X.shape[1]).unpack(np.asarray(packed))


@pytest.mark.parametrize("name", some(PARTS, "kin + ar1"))
def test_equal_to_the_dense_matrix(name):
    theta = 0.3 * np.random.default_rng(0).normal(size=model(name).size)
    for weighted in (True, False):
        mine, dense = model(name, not weighted, weighted), model(name, not weighted, weighted, "dense")
        assert mine.engine == ("spectral" if name == "kin" else "marginal")
        np.testing.assert_allclose(reml(theta, mine), reml(theta, dense), rtol=0, atol=1e-9)
    a, b = expansion(model(name)), expansion(model(name, engine="dense"))
    np.testing.assert_allclose(a.value, b.value, rtol=1e-12)
    np.testing.assert_allclose(a.gradient, b.gradient, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(a.hessian, b.hessian, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "name",
    some(["ar1 + site + slope", "ou at visits + slope", "field of a site + ou", "kin"], "ou at visits + slope"),
)
def test_differentiable_in_the_response(name):
    mine, dense = model(name), model(name, engine="dense")
    theta = 0.2 * np.ones(mine.size)
    slope = [jax.jit(jax.grad(lambda y, m=m: jaxlmm.reml(theta, m.replace(y=y))))(m.y) for m in (mine, dense)]
    np.testing.assert_allclose(*slope, atol=1e-9)


@pytest.mark.parametrize("name", some([n for n in PARTS if n not in ("us", "ou")], "kin + ar1"))
def test_predicted_effects(name):
    """Against c V^-1 (y - X beta) and Cov(u) - c V^-1 c' with matrices written out."""
    m = model(name, whole=True)
    fit = estimate(m)
    C = jaxlmm.fitting.estimate.blocks_at(m, fit)
    dense = prepare(model(name, whole=True, engine="dense"), compact=False).statistics
    root = np.sqrt(m.weights)
    V = np.asarray(dense.covariance(Blocks(tuple(map(jnp.asarray, C.random)), jnp.asarray(C.residual))))
    V = V / np.outer(root, root)
    rest = np.linalg.solve(V, m.y - m.X @ fit.coef)
    for effects in random_effects(m, fit):
        (t,) = effects.terms
        part, G = m.random[t], C.random[t]
        if isinstance(part, Field):
            block = G if part.sets is None else G[part.sets[part.group]][:, None]
            i, j = part.position[:, None], part.position[None, :]
            K = block[i, j] if part.sets is None else G[part.sets[part.group][:, None], i, j]
            c, own = np.where(part.group[:, None] == part.group, K, 0.0)[:, None, :], np.diagonal(K)[:, None, None]
        else:
            A = np.eye(part.levels) if part.relationship is None else part.relationship
            c = A[:, part.group][:, None, :] * (G @ part.Z.T)
            own = np.diagonal(A)[:, None, None] * G
        np.testing.assert_allclose(effects.values, c @ rest, atol=1e-8)
        covariance = own - np.einsum("gai,ij,gbj->gab", c, np.linalg.inv(V), c)
        np.testing.assert_allclose(effects.condvar, covariance, atol=1e-8)
        along = c @ np.linalg.solve(V, m.X)
        added = along @ np.linalg.inv(m.X.T @ np.linalg.solve(V, m.X)) @ np.swapaxes(along, 1, 2)
        np.testing.assert_allclose(effects.pev, covariance + added, atol=1e-8)


@pytest.mark.parametrize(
    "name",
    some(["ar1 + site + slope", "ou at visits + slope", "field over all rows", "kin"], "ou at visits + slope"),
)
@pytest.mark.slow
def test_many_responses_equal_single_fits(name):
    m = model(name)
    rng = np.random.default_rng(3)
    Y = m.y + 0.3 * rng.normal(size=(3, len(m.y)))
    Y[2, :3] = np.nan
    batch = jaxlmm.fit_batch(m, Y, missing="drop", progress=False)
    assert batch.converged.all()
    for i in range(3):
        rows = np.flatnonzero(~np.isnan(Y[i]))
        one = Model(
            Y[i][rows], m.X[rows], [p.subset(rows) for p in m.random], m.residual.subset(rows), weights=m.weights[rows]
        )
        single = estimate(one)
        np.testing.assert_allclose(batch.loglik[i], single.loglik, atol=1e-6)
        np.testing.assert_allclose(batch.coef[i], single.coef, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    some(["ar1 + site + slope", "field of time", "kin + crossed", "map of a site"], "kin + crossed"),
)
@pytest.mark.slow
def test_draws_have_the_covariance_of_the_model(name):
    m = model(name)
    fit = estimate(m)
    C = jaxlmm.fitting.estimate.blocks_at(m, fit)
    dense = prepare(model(name, engine="dense"), compact=False).statistics
    root = np.sqrt(m.weights)
    V = np.asarray(dense.covariance(Blocks(tuple(map(jnp.asarray, C.random)), jnp.asarray(C.residual))))
    V = V / np.outer(root, root)
    Y = jaxlmm.simulation.simulate.simulate(m, fit, 20_000, 1) - m.X @ fit.coef
    found = Y.T @ Y / len(Y)
    spread = np.sqrt((V**2 + np.outer(np.diagonal(V), np.diagonal(V))) / len(Y))
    assert np.abs((found - V) / spread).max() < 5.5


def test_buckets_of_clusters_of_different_size(monkeypatch):
    rng = np.random.default_rng(0)
    counts = np.array([1, 2, 3, 5, 9, 17, 20, 4, 1])
    g = np.repeat(np.arange(len(counts)), counts)
    n = len(g)
    when, y, X = rng.uniform(0, 10, n), rng.normal(size=n), np.ones((n, 1))
    site = g // 3

    def build(engine="auto"):
        return Model(y, X, [Term(np.ones(n), site)], Residual(OrnsteinUhlenbeck(), g, coords=when), engine=engine)

    monkeypatch.setattr(clusters, "ONE_BUCKET", 0)
    split = build()
    assert len(split.layout.buckets) == 4
    theta = np.array([0.1, 0.2, 0.5])
    np.testing.assert_allclose(jaxlmm.reml(theta, split), jaxlmm.reml(theta, build("dense")), atol=1e-10)


def test_a_place_may_not_be_repeated_in_a_residual():
    with pytest.raises(jaxlmm.DataError, match="place is repeated within a group, where OrnsteinUhlenbeck"):
        Residual(OrnsteinUhlenbeck(), [0, 0, 1], coords=[1.0, 1.0, 2.0])
    assert Field(OrnsteinUhlenbeck(), [0, 0, 1], coords=[1.0, 1.0, 2.0]).coords.shape == (2, 2)


@pytest.mark.parametrize(
    ("A", "words"),
    [
        (np.ones((2, 2)), "expected an array of shape"),
        (np.array([[1.0, 0.5, 0], [0.2, 1, 0], [0, 0, 1]]), "symmetric"),
        (np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]]), "positive semidefinite.*eigenvalue -1"),
    ],
)
def test_relationship_matrices_that_are_none(A, words):
    with pytest.raises(jaxlmm.DataError, match=f"relationship of kin.*{words}"):
        Term(np.ones(6), [0, 0, 1, 1, 2, 2], name="kin", relationship=A)


def test_engines_that_cannot():
    with pytest.raises(jaxlmm.DataError, match="'grouped' needs independent residuals"):
        model("ar1 + slope", engine="grouped")
    with pytest.raises(jaxlmm.DataError, match="'spectral' needs one term"):
        model("ar1 + slope", engine="spectral")


def field_data(seed, range_, nugget, n=60):
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 100, (n, 2))
    d = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return places, np.linalg.cholesky(np.exp(-d / range_) + nugget * np.eye(n)) @ rng.normal(size=n)


def test_a_field_may_take_over_all_of_the_variation():
    """The residual variance of zero is an ordinary boundary: lme4's profiled scale would run to infinity there."""
    for seed in (0, 1, 2):
        places, y = field_data(seed, 20.0, 1e-9)
        fit = estimate(Model(y, np.ones((60, 1)), Field(Exponential(), coords=places)))
        assert fit.status == jaxlmm.Status.CONVERGED
        if fit.sigma == 0.0:
            assert fit.boundary[-1] and fit.theta[-1] == -np.inf
            return
    raise AssertionError("no data set with an estimate of zero")


@pytest.mark.slow
def test_ranges_are_searched_from_several_starts():
    for seed in range(4):
        places, y = field_data(seed, 4.0, 0.2)
        m = Model(y, np.ones((60, 1)), Field(jaxlmm.covariance.Gaussian(), coords=places))
        fit = estimate(m)
        assert fit.status == jaxlmm.Status.CONVERGED
        for start in (2.0, 8.0, 40.0):
            other = estimate(m, start=np.array([0.0, np.log(start), -0.7]))
            assert other.loglik <= fit.loglik + 1e-6
