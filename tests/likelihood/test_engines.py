"""Every engine offers the same: solve, posterior and clusters against the dense matrix itself."""

from __future__ import annotations

import functools
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import some
from jaxlmm import Diagonal, Model, Residual, Term
from jaxlmm.covariance import CompoundSymmetry
from jaxlmm.likelihood.engines import Blocks
from jaxlmm.likelihood.prepared import prepare

N = 40


@functools.cache
def model(kind, engine="auto"):
    rng = np.random.default_rng(7)
    a, one, x = np.sort(rng.integers(0, 6, N)), np.ones(N), rng.normal(size=N)
    b, c, X, y = a * 4 + rng.integers(0, 3, N), rng.integers(0, 5, N), np.column_stack([one, x]), rng.normal(size=N)
    terms = {
        "one factor": [Term(X, a)],
        "two terms of one factor": [Term(one, a), Term(x, a)],
        "nested": [Term(X, a), Term(one, b)],
        "crossed": [Term(X, a), Term(X, c, Diagonal())],
        "nested and crossed": [Term(one, c), Term(x, a), Term(one, b)],
        "no random effects": [],
    }[kind]
    return Model(y, X, terms, weights=rng.uniform(0.5, 2, N), engine=engine)


KINDS = ("one factor", "two terms of one factor", "nested", "crossed", "nested and crossed", "no random effects")
PAIRS = [(engine, kind) for engine in ("grouped", "dense") for kind in KINDS]
DAILY = (*(("grouped", kind) for kind in ("one factor", "nested", "nested and crossed")), ("dense", KINDS[-2]))


@functools.cache
def parts(kind):
    """Blocks, both engines, V of the weighted rows and the expanded Z, from their definitions."""
    m = model(kind)
    C = jax.jit(m.blocks)(0.4 * np.random.default_rng(1).normal(size=m.size))
    engines = {e: prepare(model(kind, e), compact=False).statistics for e in ("grouped", "dense")}
    root = np.sqrt(m.weights)
    Z = [np.concatenate([(root * (t.group == g))[:, None] * t.Z for g in range(t.levels)], 1) for t in m.random]
    V = np.asarray(C.residual)[0, 0] * np.eye(N)
    for z, t, G in zip(Z, m.random, C.random, strict=True):
        V += z @ np.kron(np.eye(t.levels), G) @ z.T
    return C, engines, V, Z


gram = jax.jit(lambda statistics, C: statistics.gram(C))  # outside of compiled code every operation is a program
solve = jax.jit(lambda statistics, C, B: statistics.solve(C, B))


@jax.jit
def derivatives(statistics, C, H, K):
    """Of log|V| along H, and along H and K."""

    def along(C):
        return jax.jvp(lambda C: statistics.gram(C)[0], (C,), (H,))[1]

    return jax.jvp(along, (C,), (K,))


@jax.jit
def slopes_of_solutions(statistics, C, H, K, B):
    """Of V^-1 B along H, and along H and K."""

    def along(C):
        return jax.jvp(lambda C: statistics.solve(C, B), (C,), (H,))[1]

    return jax.jvp(along, (C,), (K,))


def directions(C, seed):
    rng = np.random.default_rng(seed)

    def symmetric(G):
        H = rng.normal(size=G.shape)
        return H + H.T

    return Blocks(tuple(symmetric(G) for G in C.random), rng.normal(size=(1, 1)))


def change_of_v(kind, H):
    _, _, _, Z = parts(kind)
    out = np.asarray(H.residual)[0, 0] * np.eye(N)
    for z, t, G in zip(Z, model(kind).random, H.random, strict=True):
        out = out + z @ np.kron(np.eye(t.levels), G) @ z.T
    return out


@pytest.mark.parametrize(("engine", "kind"), some(PAIRS, *DAILY, ("grouped", "no random effects")))
def test_gram_and_solve(kind, engine):
    C, engines, V, _ = parts(kind)
    U = np.asarray(engines["dense"].U)
    logdet, found = gram(engines[engine], C)
    assert logdet == pytest.approx(np.linalg.slogdet(V)[1], abs=1e-9)
    np.testing.assert_allclose(found, U.T @ np.linalg.solve(V, U), atol=1e-9)
    B = np.random.default_rng(3).normal(size=(N, 2))
    np.testing.assert_allclose(solve(engines[engine], C, B), np.linalg.solve(V, B), atol=1e-9)


@pytest.mark.parametrize("kind", some(KINDS[:-1], "two terms of one factor", "nested and crossed"))
def test_posterior(kind):
    C, engines, V, Z = parts(kind)
    U = np.asarray(engines["dense"].U)
    found = jax.jit(lambda s: s.posterior(C))(engines["grouped"])
    for z, t, G, means, cov in zip(Z, model(kind).random, C.random, found.means, found.covariances, strict=True):
        prior = np.kron(np.eye(t.levels), G)
        expected = prior @ z.T @ np.linalg.solve(V, U)
        np.testing.assert_allclose(means[: t.levels], expected.reshape(t.levels, t.dim, U.shape[1]), atol=1e-9)
        whole = prior - prior @ z.T @ np.linalg.solve(V, z @ prior)
        whole = whole.reshape(t.levels, t.dim, t.levels, t.dim)
        np.testing.assert_allclose(cov[: t.levels], whole[np.arange(t.levels), :, np.arange(t.levels)], atol=1e-9)


@pytest.mark.parametrize(("engine", "kind"), some([pair for pair in PAIRS if pair[1] != KINDS[-1]], *DAILY))
def test_derivatives_of_the_log_determinant(kind, engine):
    C, engines, V, _ = parts(kind)
    H, K = directions(C, 1), directions(C, 2)
    VH, VK = np.linalg.solve(V, change_of_v(kind, H)), np.linalg.solve(V, change_of_v(kind, K))
    first, second = derivatives(engines[engine], C, H, K)
    assert first == pytest.approx(np.trace(VH), abs=1e-8)
    assert -second == pytest.approx(np.trace(VH @ VK), abs=1e-8)


@pytest.mark.parametrize("kind", some(["two terms of one factor", "nested and crossed"], "nested and crossed"))
@pytest.mark.parametrize("engine", ["grouped", "dense"])
def test_solutions_have_derivatives_in_the_blocks(kind, engine):
    C, engines, V, _ = parts(kind)
    H, K = directions(C, 1), directions(C, 2)
    B = np.random.default_rng(3).normal(size=(N, 2))
    first, second = slopes_of_solutions(engines[engine], C, H, K, B)
    P, VH, VK = np.linalg.inv(V), change_of_v(kind, H), change_of_v(kind, K)
    np.testing.assert_allclose(first, -P @ VH @ P @ B, atol=1e-8)
    np.testing.assert_allclose(second, P @ (VH @ P @ VK + VK @ P @ VH) @ P @ B, atol=1e-7)


def test_row_products_need_rows():
    with pytest.raises(ValueError, match="compact=False"):
        prepare(model("one factor")).statistics.solve(parts("one factor")[0], np.ones((N, 1)))


def test_balanced_groups_are_compressed_and_nothing_changes():
    """Hundred groups of one pattern cost as many pseudo-groups as X and q ask for, not hundred."""
    rng = np.random.default_rng(0)
    g, t = np.repeat(np.arange(100), 4), np.tile(np.arange(4.0), 100)
    Z, arm = np.column_stack([np.ones(400), t]), (g % 2).astype(float)
    m = Model(rng.normal(size=400), np.column_stack([Z, arm, arm * t]), [Term(Z, g)])
    statistics = prepare(m).statistics
    assert int(np.sum(np.asarray(statistics.weight) > 0)) <= 2 * 2 + 2
    assert np.sum(statistics.weight) == pytest.approx(100)
    C = m.blocks(np.array([0.3, 0.2, -0.5, 0.1]))
    logdet, found = gram(statistics, C)
    loose = gram(prepare(m, compact=False).statistics, C)
    assert logdet == pytest.approx(float(loose[0]), abs=1e-9)
    np.testing.assert_allclose(found, loose[1], atol=1e-9)


def test_the_dense_engine_takes_any_residual():
    g, t = np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5)
    keep = np.arange(20) != 6  # a visit missing
    residual = Residual(CompoundSymmetry(), g[keep], t[keep])
    m = Model(np.arange(19.0) ** 1.5, np.ones((19, 1)), [], residual, engine="dense")
    C = jax.jit(m.blocks)(np.array([0.2, 0.4]))
    V = np.where(g[keep][:, None] == g[keep], np.asarray(C.residual)[t[keep][:, None], t[keep]], 0.0)
    statistics = prepare(m).statistics
    np.testing.assert_allclose(jax.jit(statistics.covariance)(C), V, atol=1e-14)
    assert gram(statistics, C)[0] == pytest.approx(np.linalg.slogdet(V)[1])
    assert np.all(np.isfinite(jax.jit(jax.grad(lambda C: statistics.gram(C)[0]))(C).residual))


def equations(jaxpr):
    """Number of equations, those of inner functions included."""
    inner = [v for e in jaxpr.eqns for v in e.params.values() if hasattr(v, "jaxpr")]
    return len(jaxpr.eqns) + sum(equations(v.jaxpr) for v in inner)


def test_the_program_does_not_grow_with_the_levels_of_a_crossed_factor():
    """What is compiled depends on the terms, not on how many effects are stacked."""
    counts = []
    for levels in (10, 40):
        a, b = np.arange(200) % 50, np.random.default_rng(0).integers(0, levels, 200)
        m = Model(np.arange(200.0) ** 1.5, np.ones((200, 1)), [Term(np.ones(200), a), Term(np.ones(200), b)])
        statistics = prepare(m).statistics
        counts.append(equations(jax.make_jaxpr(statistics.gram)(m.blocks(np.zeros(3))).jaxpr))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "free", [pytest.param(False, marks=pytest.mark.slow), True], ids=["residual fixed", "residual free"]
)
@pytest.mark.parametrize("kind", some(KINDS[:-1], "nested and crossed"))
def test_expansions_are_those_of_the_dense_matrix(kind, free):
    """Values and first and second derivatives along directions, with weights that depend on the Gram."""
    C, engines, V, Z = parts(kind)
    D = jax.tree_util.tree_map(lambda *x: np.stack(x), *(directions(C, seed) for seed in (1, 2, 3)))
    D = D if free else D._replace(residual=None)

    def weigh(gram):
        return jnp.linalg.inv(gram)

    found = jax.jit(lambda statistics, C, D: statistics.expand(C, D, weigh))(engines["grouped"], C, D)
    logdet, dense = gram(engines["dense"], C)
    np.testing.assert_allclose(found.logdet, logdet, rtol=1e-10)
    np.testing.assert_allclose(found.gram, dense, rtol=1e-8, atol=1e-10)
    weights = weigh(dense)

    def value(t):
        residual = C.residual + (jnp.tensordot(t, D.residual, 1) if free else 0.0)
        moved = Blocks(tuple(G + jnp.tensordot(t, H, 1) for G, H in zip(C.random, D.random, strict=True)), residual)
        logdet, found = engines["dense"].gram(moved)
        return found, logdet + jnp.sum(weights * found)

    @jax.jit
    def derivatives(t):
        total = lambda t: value(t)[1]  # noqa: E731
        return jax.jacfwd(lambda t: value(t)[0])(t), jax.grad(total)(t), jax.hessian(total)(t)

    slopes, gradient, curvature = derivatives(jnp.zeros(3))
    np.testing.assert_allclose(found.gram_slopes, jnp.moveaxis(slopes, -1, 0), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(found.curvature, curvature, rtol=1e-7, atol=1e-8)
    along = sum(jnp.tensordot(H, S, 2) for H, S in zip(D.random, found.slopes.random, strict=True))
    along = along + (jnp.tensordot(D.residual, found.slopes.residual, 2) if free else 0.0)
    np.testing.assert_allclose(along, gradient, rtol=1e-7, atol=1e-8)


def test_preparing_one_factor_takes_little_more_than_the_data():
    """Of n rows, beside the model's: X, y and the groups are 5 n floats, and no more than twice that is needed."""
    n, rng = 200_000, np.random.default_rng(0)
    X, group = np.column_stack([np.ones(n), rng.normal(size=n)]), rng.integers(0, n // 50, n)
    model = Model(rng.normal(size=n), X, [Term(np.ones(n), group)])
    tracemalloc.start()
    prepare(model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10.5 * 8 * n
