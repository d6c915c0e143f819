"""Toeplitz matrices with bands (SAS TOEP(q), TOEPH(q)): their set, moving averages, and fits against dense formulas."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import toeplitz

import jaxlmm
from jaxlmm.covariance import HeterogeneousToeplitz, Toeplitz
from jaxlmm.covariance.bands import BandKind
from jaxlmm.errors import JaxlmmError
from jaxlmm.testing import check_covariance


def test_a_moving_average():
    """Of order two with weights 1, 0.7, -0.4: covariances 1.65, 0.42, -0.4, then zero."""
    weights = np.array([1.0, 0.7, -0.4])
    covariances = np.correlate(weights, weights, "full")[2:]
    structure = Toeplitz(bands=3)
    bound = structure.bind({"variance": covariances[0], "partial": jnp.asarray(covariances[1:] / covariances[0])})
    expected = toeplitz(np.append(covariances, np.zeros(3)))
    np.testing.assert_allclose(bound.matrix(np.arange(6)), expected, atol=1e-12)
    np.testing.assert_allclose(bound.matrix(np.array([4, 1, 3])), expected[np.ix_([4, 1, 3], [4, 1, 3])], atol=1e-12)
    for chart in ("public", "solver"):
        again = getattr(structure, f"from_{chart}")(jnp.asarray(getattr(bound, f"to_{chart}")(6)), 6)
        np.testing.assert_allclose(again.matrix(np.arange(6)), expected, atol=1e-12)
    np.testing.assert_allclose(bound.sas()["covariances"], covariances)


@pytest.mark.parametrize("dim", [2, 5])
def test_one_lag_reaches_the_last_correlation_that_is_possible(dim):
    """1 / (2 cos(pi / (q + 1))), beyond the 1/2 of a moving average."""
    kind, end = BandKind(2), 0.5 / np.cos(np.pi / (dim + 1))
    s = np.array([[-np.pi / 2], [0.3], [0.0], [np.pi / 2]]) / end**-1
    np.testing.assert_allclose(kind.from_solver(s, dim)[:, 0], end * np.sin(s[:, 0] / end), atol=1e-12)
    np.testing.assert_array_equal(kind.at_boundary(s, dim, 1e-4), [True, False, False, True])
    public = kind.solver_to_public(s, dim)
    assert np.all(np.isfinite(public))
    np.testing.assert_allclose(kind.public_to_solver(public, dim), s, atol=1e-12)
    np.testing.assert_allclose(kind.canonical(s * 1.9, dim), kind.to_solver(kind.from_solver(s * 1.9, dim), dim))
    assert kind.admits(np.array([end]), dim) and not kind.admits(np.array([1.01 * end]), dim)


def test_all_lags_with_as_many_bands_as_levels():
    """Any correlations by lag, those of a first-order autoregression among them."""
    r = 0.6 ** np.arange(4)
    structure = Toeplitz(bands=4).bind({"variance": 2.0, "partial": jnp.asarray(r[1:])})
    again = Toeplitz(bands=4).from_solver(jnp.asarray(structure.to_solver(4)), 4)
    np.testing.assert_allclose(again.matrix(np.arange(4)), 2.0 * toeplitz(r), atol=1e-12)
    assert Toeplitz(bands=9).size(4) == 4 and Toeplitz(bands=1).size(4) == 1


@pytest.mark.slow
@pytest.mark.parametrize("structure", [Toeplitz(bands=2), HeterogeneousToeplitz(bands=3)])
def test_the_checks_for_authors(structure):
    check_covariance(structure, 4)


def rows(subjects=40, weeks=5, repeats=1, seed=0):
    """A moving average within subjects, with gaps."""
    rng = np.random.default_rng(seed)
    e = rng.normal(size=(subjects, weeks + 2))
    y = e[:, 2:] + 0.9 * e[:, 1:-1] + 0.6 * e[:, :-2] + 0.5 * (np.arange(subjects) % 2)[:, None]
    i, j = np.nonzero(rng.random((subjects, weeks)) < 0.85)
    i, j = np.repeat(i, repeats), np.repeat(j, repeats)
    noise = 0.3 * rng.normal(size=len(i)) * (repeats > 1)
    return {"id": np.array([f"s{k}" for k in i]), "week": j, "arm": i % 2 * 1.0, "y": y[i, j] + noise}


def dense(d, S, reml, noise=0.0):
    """Log-likelihood from the textbook."""
    X, j = np.column_stack([np.ones(len(d["y"])), d["arm"]]), d["week"]
    V = S[j[:, None], j] * (d["id"][:, None] == d["id"]) + noise * np.eye(len(j))
    W = np.linalg.inv(V)
    XWX = X.T @ W @ X
    e = d["y"] - X @ np.linalg.solve(XWX, X.T @ W @ d["y"])
    n = len(j) - 2 * reml
    restricted = np.linalg.slogdet(XWX)[1] if reml else 0.0
    return -0.5 * (np.linalg.slogdet(V)[1] + restricted + e @ W @ e + n * np.log(2 * np.pi))


def assert_optimum(criterion, p, loglik):
    """The value at p, and that small steps in each natural parameter lower it by their squares."""
    assert criterion(p) == pytest.approx(loglik, abs=1e-8)
    steps = 1e-4 * np.eye(len(p))
    slopes = [(criterion(p + h) - criterion(p - h)) / 2e-4 for h in steps]
    curvatures = [(criterion(p + h) - 2 * loglik + criterion(p - h)) / 1e-8 for h in steps]
    np.testing.assert_allclose(slopes, 0.0, atol=1e-3)
    assert max(curvatures) < 0


@pytest.mark.parametrize(
    ("name", "method"),
    [("toep", "REML"), *(pytest.param(*p, marks=pytest.mark.slow) for p in (("toep", "ML"), ("toeph", "REML")))],
)
def test_residuals_against_dense_matrices(name, method):
    d = rows()
    fit = jaxlmm.lmm("y ~ arm", d, residual=f"{name}(week | id, bands=3)", method=method)
    p = np.asarray(fit.parameters()["estimate"])
    variances = 1 if name == "toep" else 5

    def criterion(p):
        sd = np.sqrt(np.broadcast_to(p[:variances], 5))
        S = sd[:, None] * toeplitz(np.concatenate([[1.0], p[variances:], [0.0, 0.0]])) * sd
        return dense(d, S, method == "REML")

    assert fit.converged and len(p) == variances + 2
    assert_optimum(criterion, p, fit.loglik)


@pytest.mark.slow
def test_a_random_term_beside_independent_errors():
    d = rows(repeats=2)
    fit = jaxlmm.lmm("y ~ arm + toep(week | id, bands=3)", d)
    p = np.asarray(fit.parameters()["estimate"])
    assert fit.converged and not fit.singular
    assert_optimum(lambda p: dense(d, p[0] * toeplitz([1, p[1], p[2], 0, 0]), True, p[3]), p, fit.loglik)


@pytest.mark.slow
def test_correlations_that_end_at_a_singular_matrix():
    """Effects that are drawn from it: the correlation is the largest that can be."""
    rng, end = np.random.default_rng(0), 0.5 / np.cos(np.pi / 5)
    values, vectors = np.linalg.eigh(toeplitz([1, end, 0, 0]))
    u = 3.0 * rng.normal(size=(60, 4)) @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    d = {"id": np.repeat([f"s{k:02}" for k in range(60)], 8), "week": np.tile(np.repeat(np.arange(4), 2), 60)}
    d |= {"y": np.repeat(u.ravel(), 2) + rng.normal(size=480), "arm": np.repeat(np.arange(60) % 2, 8)}
    fit = jaxlmm.lmm("y ~ arm + toep(week | id, bands=2)", d)
    p = np.asarray(fit.parameters()["estimate"])
    assert fit.converged and fit.singular and p[1] == pytest.approx(end)
    value = dense(d, p[0] * toeplitz([1, p[1], 0, 0]), True, p[2])
    assert value == pytest.approx(fit.loglik, abs=1e-7)
    assert value > dense(d, p[0] * toeplitz([1, 0.99 * end, 0, 0]), True, p[2])
    again = jaxlmm.lmm("y ~ arm + toep(week | id, bands=2)", d, start=fit.theta)
    assert again.loglik == pytest.approx(fit.loglik, abs=1e-7)


@pytest.mark.parametrize("bands", [0, -1, 1.5, True, "two"])
def test_bands_are_a_positive_whole_number(bands):
    with pytest.raises(JaxlmmError, match="Toeplitz: expected bands = 1, 2, ..., found"):
        Toeplitz(bands=bands)
    with pytest.raises(JaxlmmError, match="bands"):
        jaxlmm.lmm("y ~ arm", rows(), residual=f"toep(week | id, bands={bands!r})")


def test_correlations_that_cannot_be_fixed():
    with pytest.raises(JaxlmmError, match="1 correlations with which the matrix is positive semidefinite"):
        jaxlmm.lmm("y ~ arm", rows(), residual=Toeplitz(bands=2, partial=[0.7]).over("week | id"))
