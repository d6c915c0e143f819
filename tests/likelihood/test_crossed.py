"""The crossed engine against the dense matrix: random designs with factors that cross, nest and meet only in part."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
from cases import some
from jaxlmm import DataError, Diagonal, Model, Term
from jaxlmm.batch import stacking
from jaxlmm.estimates.effects import random_effects
from jaxlmm.fitting import estimate as fitting
from jaxlmm.likelihood.engines import Blocks
from jaxlmm.likelihood.engines.crossed import blockwise, coupling, remaining, traces
from jaxlmm.likelihood.engines.crossed import engine as crossed
from jaxlmm.likelihood.engines.crossed import layout as crossing
from jaxlmm.likelihood.engines.crossed.coupling import Chunked, Full, Pairs
from jaxlmm.likelihood.engines.crossed.engine import VaryingCrossed
from jaxlmm.likelihood.engines.grouped.engine import Grouped
from jaxlmm.likelihood.prepared import prepare

SEEDS = some(range(200), 0, 1)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def design(seed):
    """Rows, terms and weights: 2-4 factors, scalar or vector-valued, unbalanced, with levels of one row."""
    rng = np.random.default_rng(seed)
    n, factors = int(rng.integers(40, 90)), int(rng.integers(2, 5))
    one, x = np.ones(n), rng.normal(size=n)
    terms, before = [], None
    for f in range(factors):
        levels = int(rng.integers(3, 12))
        codes = np.minimum(rng.geometric(0.25, n) - 1, levels) if rng.uniform() < 0.5 else rng.integers(0, levels, n)
        if before is not None and rng.uniform() < 0.4:  # nested, or in blocks
            codes = before * 3 + codes % 3
        before = codes if levels < 8 else None
        Z = np.column_stack([one, x]) if rng.uniform() < 0.4 else (one if rng.uniform() < 0.8 else x)
        structure = Diagonal() if Z.ndim == 2 and rng.uniform() < 0.3 else None
        terms.append(Term(Z, codes, structure, name=f"factor {f}"))
    if not any(not np.array_equal(t.group, terms[0].group) for t in terms[1:]):
        terms.append(Term(one, rng.integers(0, 4, n)))
    weights = rng.uniform(0.5, 2.0, n) if rng.uniform() < 0.5 else None
    return rng.normal(size=n), np.column_stack([one, x]), terms, weights


def model(seed, engine):
    y, X, terms, weights = design(seed)
    return Model(y, X, terms, weights=weights, engine=engine)


def blocks(m, seed, singular=False):
    """Covariance blocks; with `singular` of rank one, and one of them zero."""
    rng = np.random.default_rng(seed)
    C = m.blocks(0.6 * rng.normal(size=m.size))
    if not singular:
        return C
    vectors = [rng.normal(size=len(G)) * (t > 0) for t, G in enumerate(C.random)]
    return C._replace(random=tuple(jnp.asarray(np.outer(v, v)) for v in vectors))


def directions(C, seeds=(1, 2, 3)):
    def one(seed):
        rng = np.random.default_rng(seed)
        draws = [rng.normal(size=G.shape) for G in C.random]
        return Blocks(tuple(jnp.asarray(H + H.T) for H in draws), jnp.asarray(rng.normal(size=(1, 1))))

    return jax.tree_util.tree_map(lambda *x: jnp.stack(x), *(one(seed) for seed in seeds))


def close(found, expected, tolerance):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * max(1.0, np.abs(expected).max()))


WAYS = (Pairs, Full, Chunked, Pairs)


def use(seed, monkeypatch):
    """One of the ways to keep the cross-products, of both to their traces, and of both for products of large matrices.

    By the seed's last digits: every way meets every other within twelve seeds.
    """
    way = WAYS[seed % 4]
    monkeypatch.setattr(coupling, "SMALL", 0.0 if way is Pairs else np.inf)
    monkeypatch.setattr(coupling, "PAIR", 0.0)
    monkeypatch.setattr(coupling, "MAX_FULL", 0.0 if way is Chunked else np.inf)
    monkeypatch.setattr(coupling, "CHUNK", 100.0)
    monkeypatch.setattr(coupling, "WIDE", 0 if seed % 2 else 10_000)
    name = "by_sums" if seed % 3 else "by_matrix"
    for each in ("by_sums", "by_matrix"):
        monkeypatch.setattr(traces, each, getattr(WHICH, name))
    if seed % 3 == 2:
        monkeypatch.setattr(remaining, "MANY_EFFECTS", 0)
    return way


class WHICH:
    by_sums, by_matrix = staticmethod(traces.by_sums), staticmethod(traces.by_matrix)


def quick(function):
    """Compiled without the expensive passes."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def change_of_v(m, C):
    """V of the weighted rows, or its change along a direction, from the definition."""
    root = np.ones(len(m.y)) if m.weights is None else np.sqrt(m.weights)
    V = np.asarray(C.residual)[0, 0] * np.eye(len(m.y))
    for t, G in zip(m.random, C.random, strict=True):
        Z = root[:, None] * t.Z
        V = V + (t.group[:, None] == t.group) * (Z @ np.asarray(G) @ Z.T)
    return V


@pytest.mark.parametrize("seed", SEEDS)
def test_values_and_derivatives_are_those_of_the_dense_matrix(seed, monkeypatch):
    way, m = use(seed, monkeypatch), model(seed, "crossed")
    statistics, U = prepare(m).statistics, np.asarray(prepare(model(seed, "dense")).statistics.U)
    assert isinstance(statistics.coupling, way)

    @quick
    def found_at(C, D):
        return statistics.expand(C, D, jnp.linalg.inv), statistics.gram(C)

    for singular in (False, True):
        C, D = blocks(m, seed, singular), directions(blocks(m, seed))
        D = D if seed % 2 else D._replace(residual=None)
        found, (logdet, gram) = jax.device_get(found_at(C, D))
        V = change_of_v(m, C)
        sign = [
            change_of_v(m, jax.tree_util.tree_map(lambda a, i=i: a[i], D if seed % 2 else fixed(D))) for i in range(3)
        ]
        VU, VV = np.linalg.solve(V, U), [np.linalg.solve(V, H) for H in sign]
        expected = U.T @ VU
        close(logdet, np.linalg.slogdet(V)[1], 1e-10)
        close(found.logdet, logdet, 1e-12)
        close(gram, expected, 1e-9)
        close(found.gram, gram, 1e-12)
        w = np.linalg.inv(expected)
        close(found.gram_slopes, [-VU.T @ H @ VU for H in sign], 1e-8)
        curvature = np.array([[
            -np.sum(a * b.T) + 2.0 * np.sum(w * (VU.T @ H @ b @ VU)) for b in VV] for a, H in zip(VV, sign, strict=True)
        ])  # fmt: skip
        close(found.curvature, 0.5 * (curvature + curvature.T), 1e-8)
        along = sum(np.tensordot(H, S, 2) for H, S in zip(D.random, found.slopes.random, strict=True))
        along = along + (np.tensordot(D.residual, found.slopes.residual, 2) if seed % 2 else 0.0)
        close(along, [np.trace(a) - np.sum(w * (VU.T @ H @ VU)) for a, H in zip(VV, sign, strict=True)], 1e-8)


def fixed(D):
    return D._replace(residual=np.zeros((3, 1, 1)))


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_row_products_and_effects_are_those_of_the_dense_matrix(seed, monkeypatch):
    use(seed, monkeypatch)
    m = model(seed, "crossed")
    statistics, dense = (prepare(model(seed, e), compact=False).statistics for e in ("crossed", "dense"))
    C = blocks(m, seed)
    B = np.random.default_rng(seed).normal(size=(len(m.y), 2))

    def offered(C):
        return statistics.solve(C, B), statistics.posterior(C)

    solved, found = quick(offered)(C)
    close(solved, quick(lambda C: dense.solve(C, B))(C), 1e-9)
    V, U = change_of_v(m, C), np.asarray(dense.U)
    root = np.ones(len(U)) if m.weights is None else np.sqrt(m.weights)
    for t, G, means, cov in zip(m.random, C.random, found.means, found.covariances, strict=True):
        onehot = (np.asarray(t.group)[:, None] == np.arange(t.levels)) * root[:, None]
        E = (onehot[:, :, None] * np.asarray(t.Z)[:, None, :]).reshape(len(root), -1)
        prior = np.kron(np.eye(t.levels), G)
        close(means[: t.levels].reshape(len(prior), -1), prior @ E.T @ np.linalg.solve(V, U), 1e-9)
        whole = (prior - prior @ E.T @ np.linalg.solve(V, E @ prior)).reshape(t.levels, t.dim, t.levels, t.dim)
        close(cov[: t.levels], whole[np.arange(t.levels), :, np.arange(t.levels)], 1e-8)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_likelihood_is_differentiable(seed):
    theta = 0.5 * np.random.default_rng(seed).normal(size=model(seed, "dense").size)
    found, expected = (
        [quick(f(jaxlmm.reml))(theta, model(seed, e)) for f in (lambda g: g, jax.grad, jax.hessian)]
        for e in ("crossed", "dense")
    )
    for a, b, tolerance in zip(found, expected, (1e-10, 1e-8, 1e-7), strict=True):
        close(a, b, tolerance)


@pytest.mark.parametrize("seed", some(range(20), 1))
def test_fits_are_those_of_the_dense_engine(seed):
    found, expected = (fitting.estimate(model(seed, e)) for e in ("crossed", "dense"))
    assert found.loglik == pytest.approx(expected.loglik, abs=1e-8)
    close(found.coef, expected.coef, 1e-5)
    for a, b in zip(found.covariances, expected.covariances, strict=True):
        close(a, b, 1e-4)


@pytest.mark.parametrize("seed", some([1, 4, 7], 4))
def test_prediction_errors_are_those_of_the_mixed_model_equations(seed):
    """Henderson (1975): the inverse of their matrix is the covariance of all prediction errors.

    In effects v with u = L v, G = L L', which a singular G has too.
    """
    m = model(seed, "crossed")
    fit = fitting.estimate(m)
    weights = np.ones(len(m.y)) if m.weights is None else m.weights
    columns, roots = [m.X], []
    for t, G in zip(m.random, fit.covariances, strict=True):
        w, Q = np.linalg.eigh(G)
        roots.append(Q * np.sqrt(np.maximum(w, 0.0)))
        columns.append(np.einsum("nq,nm->nmq", t.Z @ roots[-1], np.eye(t.levels)[t.group]).reshape(len(m.y), -1))
    W = np.concatenate(columns, 1)
    free = np.arange(W.shape[1]) >= m.X.shape[1]
    inverse = np.linalg.inv(W.T @ (weights[:, None] * W) / fit.sigma**2 + np.diag(1.0 * free))
    known = np.linalg.inv((W.T @ (weights[:, None] * W) / fit.sigma**2 + np.eye(W.shape[1]))[free][:, free])
    starts = np.cumsum([c.shape[1] for c in columns])
    for effects in random_effects(m, fit):
        (t,) = effects.terms  # these designs have each factor once
        shape, L = (m.random[t].levels, m.random[t].dim) * 2, roots[t]
        for found, matrix, start in (
            (effects.pev, inverse, starts[t]),
            (effects.condvar, known, starts[t] - starts[0]),
        ):
            stop = start + shape[0] * shape[1]
            blocks = np.moveaxis(np.diagonal(matrix[start:stop, start:stop].reshape(shape), axis1=0, axis2=2), -1, 0)
            close(found, L @ blocks @ L.T, 1e-8)


@pytest.mark.slow
def test_responses_with_missing_values_keep_the_shapes_of_the_design():
    """Levels that lose all of their rows stay, without any: one program fits all data sets."""
    rng = np.random.default_rng(5)
    g, h = np.repeat(np.arange(8), 5), np.tile(np.arange(5), 8)
    x = rng.normal(size=40)
    y = x + rng.normal(size=8)[g] + rng.normal(size=5)[h] + 0.5 * rng.normal(size=(4, 40))
    y[1, g == 3] = y[2, h == 2] = y[3, [0, 7, 20]] = np.nan
    X, one = np.column_stack([np.ones(40), x]), np.ones(40)
    whole = Model(y[0], X, [Term(one, g), Term(one, h)])
    assert whole.engine == "crossed"
    found = jaxlmm.fit_batch(whole, y, missing="drop", progress=False)
    for i in range(4):
        rows = ~np.isnan(y[i])
        alone = fitting.estimate(Model(y[i, rows], X[rows], [Term(one[rows], g[rows]), Term(one[rows], h[rows])]))
        assert found.loglik[i] == pytest.approx(alone.loglik, abs=1e-8)
        close(found.coef[i], alone.coef, 1e-6)
    stacks = list(stacking.stacks_of_responses(whole, y[1:], None, None))
    assert len(stacks) == 2  # what stays balanced by its strata, the other by the shapes of the design


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "count"), [(0, 4), *((seed, 12) for seed in range(8))])
def test_the_best_of_several_optima_is_found(seed, count):
    """Intercepts and slopes of few subjects and items: no random start of the dense engine finds a better one."""
    rng = np.random.default_rng(seed)
    subject, item = np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5)
    x = rng.normal(size=20)
    Z, y = np.column_stack([np.ones(20), x]), rng.normal(size=20) + x * rng.normal(size=5)[subject]
    found, other = (Model(y, Z, [Term(Z, subject), Term(Z, item)], engine=e) for e in ("crossed", "dense"))
    best = fitting.estimate(found)
    assert best.status == jaxlmm.Status.CONVERGED
    starts = [np.append(rng.normal(size=6), rng.uniform(-2, 0)) for _ in range(count)]
    others = [fitting.estimate(other, start=start).loglik for start in starts]
    assert best.loglik > max(others) - 1e-6


def test_an_expansion_is_linear_in_the_weights():
    C = blocks(model(1, "crossed"), 1)
    D, statistics = directions(C), prepare(model(1, "crossed")).statistics
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(2, *jax.eval_shape(lambda: statistics.gram(C)[1]).shape))

    @jax.jit
    def curvature(w):
        return statistics.expand(C, D, lambda gram: w).curvature

    close(curvature(u + v) + curvature(0 * u), curvature(u) + curvature(v), 1e-10)
    slope = jax.jit(lambda u, v: jax.jvp(curvature, (u,), (v,))[1])
    close(slope(u, v), curvature(u + v) - curvature(u), 1e-9)


def test_columns_of_many_data_sets_are_those_of_one():
    m = model(2, "crossed")
    Z = tuple(t.Z if m.weights is None else t.Z * np.sqrt(m.weights)[:, None] for t in m.terms)
    statistics = prepare(m, compact=False).statistics
    U = np.random.default_rng(0).normal(size=(len(m.y), 3))
    long = np.pad(U, ((0, statistics.row_count - len(U)), (0, 0)))  # rows of zeros are behind those of the data
    fixed = crossed.columns_of(long[:, :2], statistics.source, np)
    whole = crossed.columns_of(long, statistics.source, np)
    lanes = VaryingCrossed(U[:, :2], Z, m.layout)([U[:, 2:]])
    padded = crossed.Columns(*(np.zeros(np.shape(a)) for a in whole))
    padded.B[:, :2], padded.EZ[:, :2], padded.EU[:2, :2] = fixed.B, fixed.EZ, fixed.EU
    own = jaxlmm.pytrees.replace(statistics, columns=padded)
    found = own.with_columns(jax.tree_util.tree_map(lambda a: a[0], lanes)).columns
    for a, b in zip(found, whole, strict=True):
        close(a, b, 1e-12)


def test_traced_data_are_taken_by_the_grouped_engine():
    m = model(3, "crossed")
    theta = np.zeros(m.size)
    close(jax.jit(lambda y: jaxlmm.reml(theta, m.replace(y=y)))(m.y), jaxlmm.reml(theta, model(3, "dense")), 1e-9)
    assert isinstance(prepare(m.replace(y=jnp.asarray(m.y))).statistics, Grouped)
    large = jaxlmm.pytrees.replace(m, layout=jaxlmm.pytrees.replace(m.layout, grouped=None))
    with pytest.raises(DataError, match="too many levels.*traced"):
        jaxlmm.reml(theta, large.replace(y=jnp.asarray(m.y)))


def test_one_factor_is_not_for_the_crossed_engine():
    g = np.arange(20) % 5
    with pytest.raises(DataError, match="two grouping factors.*'grouped'"):
        Model(np.arange(20.0) ** 1.5, np.ones((20, 1)), [Term(np.ones(20), g)], engine="crossed")


def test_what_remains_may_be_too_much(monkeypatch):
    monkeypatch.setattr(crossing, "MAX_EFFECTS", 5)
    with pytest.raises(DataError, match="random effects besides"):
        model(0, "crossed")


@pytest.mark.parametrize("size", [7, 30, 61])
def test_the_inverse_in_blocks(size, monkeypatch):
    monkeypatch.setattr(blockwise, "LEAF", 16)
    Z = np.random.default_rng(size).normal(size=(size, size))
    S = Z @ Z.T + np.eye(size)
    inverse, logdet = jax.jit(blockwise.inverse_logdet)(S)
    close(inverse, np.linalg.inv(S), 1e-10)
    assert logdet == pytest.approx(np.linalg.slogdet(S)[1], rel=1e-12)
    broken = jax.jit(blockwise.inverse_logdet)(S - 100.0 * np.eye(size))
    assert np.isnan(broken[1])


def test_the_engine_is_chosen_from_the_factors(monkeypatch):
    rng = np.random.default_rng(0)
    one, y = np.ones((240, 1)), rng.normal(size=240)
    a, b, c = np.arange(240) % 6, np.arange(240) % 30, np.arange(240) % 120  # c within b within a

    def chosen(*terms):
        return Model(y, one, [Term(rng.normal(size=(240, q)), g) for g, q in terms]).engine

    assert chosen((c, 1)) == chosen((c, 1), (c, 2)) == chosen((a, 2), (c, 1)) == "grouped"
    assert chosen((a, 1), (b, 1), (c, 1)) == "crossed"
    assert chosen((a, 1), (rng.permutation(b), 1)) == "crossed"
    monkeypatch.setattr(crossing, "MANY_NESTED", 30)
    assert chosen((a, 1), (b, 1), (c, 1)) == "grouped"
    monkeypatch.setattr(crossing, "MAX_EFFECTS", 5)
    assert chosen((a, 1), (rng.permutation(b), 1)) == "grouped"  # small enough to be stacked
    monkeypatch.setattr("jaxlmm.likelihood.engines.layout.MAX_STACKED", 5)
    assert chosen((a, 1), (rng.permutation(b), 1)) == "iterative"
