"""Permutation tests against full enumeration in closed forms; clusters of neighbours; what is refused."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import minimize_scalar

import jaxlmm
from jaxlmm.errors import DataError
from jaxlmm.fitting.newton import Status
from jaxlmm.inference.hypotheses.alternatives import alternative_of
from jaxlmm.inference.many.neighbours import edges_of, masses
from jaxlmm.inference.many.one_variance import OneVariance, independent
from jaxlmm.inference.many.permutation import _Counts
from jaxlmm.inference.many.rearrangements import Scheme
from jaxlmm.runtime.precision import float64


def responses(v, n, groups, seed=0, effect=0.8):
    rng = np.random.default_rng(seed)
    return (
        effect
        + rng.normal(size=(v, n))
        + 1.5 * rng.normal(size=(v, n // groups))[:, np.repeat(range(n // groups), groups)]
    )


def mean_by_groups(y, arms):
    """T of the difference of two arms, or of the mean, of a balanced one-way model: its REML fit in closed form."""
    m, k = y.shape
    means = y.mean(1)
    X = np.column_stack([np.ones(m), arms]) if arms is not None else np.ones((m, 1))
    beta, *_ = np.linalg.lstsq(X, means, rcond=None)
    between, inside = k * np.sum((means - X @ beta) ** 2), np.sum((y - means[:, None]) ** 2)
    df = m - X.shape[1]
    if between / df < inside / (m * (k - 1)):  # no variance between groups
        variance = (between + inside) / (df + m * (k - 1)) / k
    else:
        variance = between / df / k
    return beta[-1] / np.sqrt(variance * np.linalg.inv(X.T @ X)[-1, -1])


def by_counting(statistics):
    """P values (v,) alone and by the largest of all, statistics (n, v) with those of the data first."""
    size = np.abs(statistics)
    least = size[0] * (1 - 1e-6)
    return np.mean(size >= least, 0), np.mean(size.max(1)[:, None] >= least, 0)


def test_all_sign_flips_of_groups():
    Y, g = responses(3, 12, 2), np.repeat(np.arange(6), 2)
    fit = jaxlmm.lmm("y ~ 1 + (1 | g)", {"y": Y[0], "g": g})
    found = fit.permutation("(Intercept)", Y, 100, flip="g", progress=False)
    flips = [np.repeat(s, 2) for s in product([1, -1], repeat=6)]
    expected = np.array([[mean_by_groups((s * y).reshape(6, 2), None) for y in Y] for s in flips])
    p, p_max = by_counting(expected)
    assert found.exact and len(found.maxima) == 64 and not found.lost.any()
    np.testing.assert_allclose(found.statistic, expected[0], rtol=1e-6)
    np.testing.assert_allclose(np.sort(found.maxima), np.sort(np.abs(expected).max(1)), rtol=1e-5)
    np.testing.assert_array_equal(found.p, p)
    np.testing.assert_array_equal(found.p_max, p_max)
    one = fit.permutation("(Intercept)", Y[:1], 100, flip=g, side="greater", progress=False)
    assert one.p[0] == np.mean(expected[:, 0] >= expected[0, 0] * (1 - 1e-6))
    assert np.mean(found.maxima >= found.critical(0.1)) <= 0.1 and found.critical(0.01) == np.inf
    table = found.frame()
    assert list(table["response"]) == [0, 1, 2] and "p (max)" in str(found)


def unbalanced(v=3):
    """A design of 8 groups with weights, columns between and within them; responses with more or less between them."""
    rng = np.random.default_rng(4)
    g = np.sort(np.append(np.arange(8), rng.integers(0, 8, 22)))
    X = np.column_stack([np.ones(30), rng.normal(size=(8, 1))[g], rng.normal(size=30)])
    Y = rng.normal(size=(v, 30)) + np.linspace(0, 3, v)[:, None] * rng.normal(size=(v, 8))[:, g]
    return g, X, Y, rng.uniform(0.5, 2, 30)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_one_variance_is_found_without_fits(method):
    """Statistics at the maximum of dense likelihoods, by a search of one dimension."""
    g, X, Y, w = unbalanced()
    root, reml = np.sqrt(w)[:, None], method == "REML"
    model = jaxlmm.Model(Y[0], X, [jaxlmm.Term(np.ones((30, 1)), g)], weights=w)
    L, free = independent(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0], [0.0, 1.0, 1.0]]))
    with float64():
        found, good = OneVariance.of(model, L, free, method)(root * Y.T)
    assert good.all()
    W = root * X
    for y, F in zip(Y * root[:, 0], found, strict=True):

        def at(log, y=y):
            V = np.exp(log) * np.outer(root, root) * np.equal.outer(g, g) + np.eye(30)
            inverse = np.linalg.inv(V)
            A = W.T @ inverse @ W
            beta = np.linalg.solve(A, W.T @ inverse @ y)
            rss, nu = (y - W @ beta) @ inverse @ (y - W @ beta), 30 - 3 * reml
            value = nu * np.log(rss) + np.linalg.slogdet(V)[1] + reml * np.linalg.slogdet(A)[1]
            return value, (L @ beta) @ np.linalg.solve(L @ np.linalg.inv(A) @ L.T, L @ beta) / (rss / nu) / 2

        best = minimize_scalar(lambda log: at(log)[0], bounds=(-30, 6), method="bounded", options={"xatol": 1e-10}).x
        assert F == pytest.approx(at(best)[1], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("L", "method"), [("x", "REML"), ("z", "ML"), (["x", "z"], "REML")])
def test_statistics_without_fits_are_those_of_fits(L, method, monkeypatch):
    g, X, Y, w = unbalanced()
    Y = np.vstack([Y, np.full(30, 2.0), 3 * X[:, 1], Y[0] + 1e8])  # constant, fitted by X, far from zero
    data = {"y": Y[0], "g": g, "x": X[:, 1], "z": X[:, 2]}
    fit = jaxlmm.lmm("y ~ x + z + (1 | g)", data, weights=w, offset=X[:, 2], method=method)
    run = lambda: fit.permutation(L, Y, 150, flip="g", seed=1, rhs=0.0 if len(L) > 1 else 0.2, progress=False)  # noqa: E731
    quick = run()
    monkeypatch.setattr(OneVariance, "of", lambda *_: None)
    slow = run()
    np.testing.assert_allclose(quick.statistic, slow.statistic, rtol=1e-6)
    np.testing.assert_allclose(quick.maxima, slow.maxima, rtol=1e-6)
    assert (quick.status == Status.BAD_RESPONSE).sum() == 2
    for name in ("p", "p_max", "status", "lost"):
        np.testing.assert_array_equal(getattr(quick, name), getattr(slow, name))


@pytest.mark.slow
def test_all_exchanges_of_groups():
    """Groups that change places as wholes; a response with a missing value has a status, and no part in the others."""
    Y, g, arm = responses(3, 10, 2, 1), np.repeat(np.arange(5), 2), np.repeat([0.0, 0, 1, 1, 1], 2)
    Y[1, 4] = np.nan
    fit = jaxlmm.lmm("y ~ arm + (1 | g)", {"y": Y[0], "g": g, "arm": arm})
    found = fit.permutation({"arm": 1}, Y, 120, between="g", progress=False)
    orders = list(permutations(range(5)))
    expected = [[mean_by_groups(y.reshape(5, 2)[list(o)], arm[::2]) for y in Y[[0, 2]]] for o in orders]
    p, p_max = by_counting(np.array(expected))
    np.testing.assert_array_equal(found.p[[0, 2]], p)
    np.testing.assert_array_equal(found.p_max[[0, 2]], p_max)
    assert found.status[1] == Status.BAD_RESPONSE and np.isnan([found.p[1], found.p_max[1], found.statistic[1]]).all()


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
def test_nuisance_covariates_stay_in_their_place(several):
    """Freedman and Lane without random effects, weighted, with an offset and a value of the hypothesis."""
    rng = np.random.default_rng(2)
    n, Y = 6, rng.normal(size=(2, 6))
    x, z, w, o = rng.normal(size=n), rng.normal(size=n), rng.uniform(0.5, 2, n), rng.normal(size=n)
    fit = jaxlmm.lmm("y ~ x + z", {"y": Y[0], "x": x, "z": z}, weights=w, offset=o, residual="iid()")
    L, rhs = (["x", "z"], 0.0) if several else ("x", 0.3)
    found = fit.permutation(L, Y, 720, within=np.zeros(n, int), rhs=rhs, progress=False)
    root = np.sqrt(w)
    X = root[:, None] * np.column_stack([np.ones(n), x, z])
    tested = [1, 2] if several else [1]
    X0 = np.delete(X, tested, 1)
    expected = []
    for order in permutations(range(n)):
        row = []
        for y in Y:
            target = root * (y - o) - X[:, 1] * rhs
            fitted = X0 @ np.linalg.lstsq(X0, target, rcond=None)[0]
            star = fitted + (target - fitted)[list(order)]
            beta = np.linalg.lstsq(X, star, rcond=None)[0]
            V = np.sum((star - X @ beta) ** 2) / (n - 3) * np.linalg.inv(X.T @ X)[np.ix_(tested, tested)]
            F = beta[tested] @ np.linalg.solve(V, beta[tested]) / len(tested)
            row.append(F if several else np.sign(beta[1]) * np.sqrt(F))
        expected.append(row)
    p, p_max = by_counting(np.array(expected))
    np.testing.assert_allclose(found.statistic, expected[0], rtol=1e-7)
    np.testing.assert_array_equal(found.p, p)
    np.testing.assert_array_equal(found.p_max, p_max)


def test_rearrangements():
    """Every one once, nothing first; blocks of one size change places, rows in order; random ones are legal."""
    g, h = np.array([0, 0, 1, 1, 2, 2, 3]), np.array([0, 1, 0, 1, 0, 1, 1])
    scheme = Scheme.of(7, None, None, g)
    assert scheme.count == 6 == len(list(scheme.all()))  # the fourth is alone with its size
    for index, sign in scheme.all():
        assert np.all(sign == 1) and index[6] == 6 and np.all(index[1:6:2] == index[0:6:2] + 1)
    both = Scheme.of(7, h, g, g)
    found = [tuple(index * sign) + tuple(sign) for index, sign in both.all()]
    assert len(found) == len(set(found)) == both.count == 6 * 8 * 4
    assert found[0] == (*range(7), *[1.0] * 7)
    for index, sign in both.draws(20, np.random.default_rng(0)):
        assert np.all(np.sort(index) == np.arange(7)) and sign[0] == sign[2] == sign[4]
        assert np.all(g[index[0:6:2]] == g[index[1:6:2]])


def test_clusters_of_neighbours():
    t = np.array([[3.0, 2.5, 0, -3, -4, 3], [0, 0, 0, 0, 0, 0], [-2.5, -2.5, -2.5, 2.5, 1, np.nan]])
    label, mass = masses(t, 2.0, True, edges_of(6, 6))
    np.testing.assert_allclose(mass, [[5.5, 5.5, 0, 7, 7, 3], [0] * 6, [7.5, 7.5, 7.5, 2.5, 0, 0]])
    assert label[0, 0] == label[0, 1] != label[0, 3] == label[0, 4]
    np.testing.assert_allclose(masses(t, 2.0, False, edges_of(6, 6))[1][2], [0, 0, 0, 2.5, 0, 0])
    grid = np.zeros((3, 4), bool)
    grid[0], grid[:, 0] = True, True
    for shape, pairs in (((2, 3), 7), ((2, 2, 2), 12), (grid, 5)):
        size = int(shape.sum() if isinstance(shape, np.ndarray) else np.prod(shape))
        i, j = edges_of(shape, size)
        assert len(i) == pairs and np.all(i < j) and j.max() == size - 1
    ring = sparse.csr_array((np.ones(5), (range(5), [1, 2, 3, 4, 0])), shape=(5, 5))
    assert sorted(zip(*edges_of(ring, 5), strict=True)) == [(0, 1), (0, 4), (1, 2), (2, 3), (3, 4)]


def test_adjacency_of_any_kind():
    """Empty, dense, of small integers whose sums wrap around, directed with signs, stored zeros; NaN is refused."""
    pair = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    signed = np.array([[7, 2, 0], [-2, 0, 0], [0, 0, 0]])
    stored = sparse.coo_array(([1.0, 1.0, 0.0], ([0, 1, 1], [1, 0, 2])), shape=(3, 3))
    for given in (pair, pair == 1, (128 * pair).astype(np.uint8), signed, stored, sparse.csc_matrix(pair)):
        assert list(zip(*edges_of(given, 3), strict=True)) == [(0, 1)]
    i, j = edges_of(sparse.csr_array((3, 3)), 3)
    assert len(i) == len(j) == 0
    np.testing.assert_allclose(masses(np.array([[3.0, 4, -5]]), 2.0, True, (i, j))[1], [[3, 4, 5]])
    for bad in (np.where(pair == 1, np.nan, 0.0), pair.astype(str)):
        with pytest.raises(DataError, match="neighbours: found .*, expected an adjacency matrix"):
            edges_of(bad, 3)


def test_statistics_that_were_lost_are_the_largest():
    """In the law of the maximum too, so that no p value is above its family-wise one."""
    counts = _Counts(alternative_of("two-sided", 0.0), None, None, np.ones(3, bool), True)
    statistics = np.array([[3.0, 1.0, np.nan], [1.0, np.nan, 9.0], [-1.0, 0.5, 9.0], [2.0, 0.0, np.nan]])
    counts.add(statistics[:2], np.ones((2, 3), int))
    counts.add(statistics[2:], np.ones((2, 3), int))
    found = counts.result(3, True, ("a", "b", "c"), "x", "dict")
    np.testing.assert_array_equal(found.lost, [0, 1, 2])
    np.testing.assert_allclose(found.p[:2], [1 / 4, 2 / 4])
    np.testing.assert_allclose(found.p_max[:2], [2 / 4, 1.0])
    assert np.isnan(found.p_max[2]) and np.all(found.maxima == [3, np.inf, 1, 2])


def test_cluster_mass_of_neighbouring_responses():
    rng = np.random.default_rng(3)
    Y, g = rng.normal(size=(8, 12)) + rng.normal(size=(8, 6))[:, np.repeat(range(6), 2)], np.repeat(range(6), 2)
    Y[2:5] += 3.0
    fit = jaxlmm.lmm("y ~ 1 + (1 | g)", {"y": Y[0], "g": g})
    found = fit.permutation("(Intercept)", Y, 100, flip="g", threshold=2.0, neighbours=8, names=list("abcdefgh"))
    expected = np.array([[mean_by_groups((np.repeat(s, 2) * y).reshape(6, 2), None) for y in Y]
                         for s in product([1, -1], repeat=6)])  # fmt: skip
    mass = masses(expected, 2.0, True, edges_of(8, 8))[1]
    np.testing.assert_allclose(found.clusters.maxima, mass.max(1), rtol=1e-5)
    own = found.clusters.label[3]
    assert own == 0 and set(np.flatnonzero(found.clusters.label == 0)) >= {2, 3, 4}
    assert found.clusters.p[0] == np.mean(mass.max(1) >= mass[0, 3] * (1 - 1e-6)) <= 2 / 64
    assert "p_cluster" in found.frame() and "Mass" in str(found)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.permutation("x", n=10), "flip, within, between: give the groups"),
        (lambda f: f.permutation("x", between=[0, 0, 0, 1, 1, 2], n=10), "flip, within, between: give the groups"),
        (lambda f: f.permutation("z", flip="g"), "L: found coefficient 'z'"),
        (lambda f: f.permutation("x", flip="g", threshold=2.0), "threshold, neighbours: give both"),
        (
            lambda f: f.permutation("x", flip="g", threshold=2.0, neighbours=7),
            "neighbours: expected the shape of a grid",
        ),
        (lambda f: f.permutation("x", flip="g", threshold=-1, neighbours=1), "threshold: expected a positive"),
        (lambda f: f.permutation(["x", "(Intercept)"], flip="g", side="less"), "side: several hypotheses"),
        (lambda f: f.permutation("x", [np.nan] * 6, flip="g"), "y: all 1 responses have missing"),
        (lambda f: f.permutation("x", flip="g", names=["a", "b"]), "names: expected 1"),
    ],
)
def test_messages(call, message):
    data = {"y": [1.0, 2, 4, 3, 5, 9], "x": [0.0, 1, 0, 2, 1, 3], "g": [0, 0, 1, 1, 2, 2]}
    with pytest.raises(DataError, match=message):
        call(jaxlmm.lmm("y ~ x", data, residual="iid()"))
