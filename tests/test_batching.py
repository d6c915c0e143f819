"""Batches: every lane is the single fit of its data, whatever its neighbours, and nothing is lost."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

import jaxlmm
from jaxlmm import CompoundSymmetry, Diagonal, Model, Residual, Status, Term, fitting

N, GROUPS = 48, 8


def design(kind):
    """Model of one of several kinds on common rows, with a response to be replaced."""
    rng = np.random.default_rng(11)
    x = np.round(rng.normal(size=N), 2)
    balanced, t = np.arange(N) // 6, np.tile(np.arange(6.0), GROUPS)
    uneven = np.sort(rng.integers(0, GROUPS, N))
    X, one = np.column_stack([np.ones(N), x]), np.ones(N)
    y = rng.normal(size=N)
    return {
        "one-way": lambda: Model(y, one[:, None], [Term(one, balanced)]),
        "balanced slopes": lambda: Model(y, np.column_stack([one, t]), [Term(np.column_stack([one, t]), balanced)]),
        "uneven slopes": lambda: Model(
            y, X, [Term(X, uneven)], weights=np.linspace(0.5, 2, N), offset=np.linspace(0, 9, N)
        ),
        "nested": lambda: Model(y, X, [Term(one, balanced), Term(one, balanced // 2)]),
        "crossed": lambda: Model(y, X, [Term(one, balanced), Term(X, np.arange(N) % 5, Diagonal())]),
        "residual": lambda: Model(y, X, [], Residual(CompoundSymmetry(), balanced, t.astype(int))),
    }[kind]()


KINDS = ("one-way", "balanced slopes", "uneven slopes", "nested", "crossed", "residual")


@functools.cache
def responses(kind, b=24):
    """Responses of which about half have no variance between groups."""
    rng = np.random.default_rng(5)
    model = design(kind)
    mean = model.X.sum(1) + (0 if model.offset is None else model.offset)
    Y = mean + rng.normal(size=(b, N))
    for term in model.random:
        effects = rng.normal(size=(b, term.levels, term.dim)) * (np.arange(b) % 2)[:, None, None]
        Y += np.sum(term.Z * effects[:, term.group], -1)
    return Y


@functools.cache
def batch(kind, method="REML"):
    return jaxlmm.fit_batch(design(kind), responses(kind), method=method)


@functools.cache
def singles(kind, method="REML"):
    model = design(kind)
    with jax.enable_x64(True):
        return [fitting.estimate(model.replace(y=y), method) for y in responses(kind)]


def assert_lane(fit, i, single):
    assert Status(fit.status[i]) == single.status
    assert fit.loglik[i] == pytest.approx(single.loglik, abs=1e-8)
    np.testing.assert_allclose(fit.coef[i], single.coef, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(fit.vcov[i], single.vcov, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(np.exp(fit.theta[i]), np.exp(single.theta), rtol=1e-5, atol=1e-6)
    for G, expected in zip(fit.varcorr, single.covariances, strict=True):
        np.testing.assert_allclose(G[i], expected, rtol=1e-5, atol=1e-6)
    assert bool(fit.singular[i]) == any(single.boundary)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lane_is_the_single_fit(kind):
    fit = batch(kind)
    assert len(fit) == 24
    for i, single in enumerate(singles(kind)):
        assert_lane(fit, i, single)


def test_maximum_likelihood():
    for i, single in enumerate(singles("uneven slopes", "ML")):
        assert_lane(batch("uneven slopes", "ML"), i, single)


@pytest.mark.smoke
def test_neighbours_do_not_matter():
    Y, fit = responses("uneven slopes"), batch("uneven slopes")
    order = np.random.default_rng(0).permutation(len(Y))
    moved = jaxlmm.fit_batch(design("uneven slopes"), Y[order])
    np.testing.assert_allclose(moved.loglik, fit.loglik[order], rtol=1e-10)
    np.testing.assert_array_equal(moved.status, fit.status[order])
    np.testing.assert_array_equal(moved.singular, fit.singular[order])
    few = jaxlmm.fit_batch(design("uneven slopes"), Y[7:10])
    np.testing.assert_allclose(few.loglik, fit.loglik[7:10], rtol=1e-10)
    np.testing.assert_allclose(few.coef, fit.coef[7:10], rtol=1e-6)


def test_bad_responses_are_a_status_in_their_own_row():
    kind = "uneven slopes"
    Y, fit = responses(kind).copy(), batch(kind)
    Y[3, 5], Y[4, 0] = np.nan, np.inf
    Y[6] = 2.5  # with the offset, not constant to the model
    Y[8] = design(kind).offset + 3.0
    found = jaxlmm.fit_batch(design(kind), Y)
    bad = np.array([3, 4, 8])
    np.testing.assert_array_equal(found.status[bad], Status.BAD_RESPONSE)
    assert np.all(np.isnan(found.loglik[bad]))
    assert not found.converged[bad].any()
    rest = np.setdiff1d(np.arange(len(Y)), [*bad, 6])
    np.testing.assert_allclose(found.loglik[rest], fit.loglik[rest], rtol=1e-10)
    frame = found.to_frame()
    assert len(frame["status"]) == len(Y)
    assert frame["status"][3] == "bad_response"


def test_zero_variances_of_balanced_data_are_those_of_the_f_test():
    """REML estimates zero if and only if the mean squares' ratio is at most one."""
    Y = np.random.default_rng(2).normal(size=(400, GROUPS, 6))
    between = 6 * Y.mean(2).var(1, ddof=1)
    within = Y.var(2, ddof=1).mean(1)
    fit = jaxlmm.fit_batch(design("one-way"), Y.reshape(400, N))
    assert fit.converged.all()
    np.testing.assert_array_equal(fit.singular, between <= within)
    np.testing.assert_allclose(fit.varcorr[0][:, 0, 0], np.maximum(between - within, 0) / 6, atol=1e-7)


def test_models_that_differ_in_everything_but_their_terms():
    rng = np.random.default_rng(3)
    models = []
    for i in range(9):
        n = 30 + 5 * (i % 3)
        g, x = rng.integers(0, 5 + i % 4, n), rng.normal(size=n)
        X = np.column_stack([np.ones(n), x])
        weights = rng.uniform(0.5, 2, n) if i % 2 else None
        models.append(Model(X.sum(1) + rng.normal(size=9)[g] + rng.normal(size=n), X, [Term(X, g)], weights=weights))
    fit = jaxlmm.fit_batch(models)
    with jax.enable_x64(True):
        for i, model in enumerate(models):
            assert_lane(fit, i, fitting.estimate(model))


def test_an_interrupt_returns_what_is_done(monkeypatch):
    monkeypatch.setattr(jaxlmm.chunks, "CHUNK_FLOATS", 8 * N)
    monkeypatch.setattr(jaxlmm.chunks, "workers", lambda: 1)
    Y = responses("uneven slopes")
    seen = []

    def stop(done, total):
        seen.append((done, total))
        if done >= 16:
            raise KeyboardInterrupt

    fit = jaxlmm.batching.refit_batch(design("uneven slopes"), Y, progress=stop)
    assert seen == [(8, 24), (16, 24)]
    np.testing.assert_allclose(fit.loglik[:16], batch("uneven slopes").loglik[:16], rtol=1e-10)
    np.testing.assert_array_equal(fit.status[16:], Status.NOT_RUN)


def test_refit_of_a_formula_fit():
    data = {"y": responses("one-way")[0], "x": design("nested").X[:, 1], "g": np.arange(N) // 6}
    fit = jaxlmm.lmm("y ~ x + (1 | g)", data)
    many = fit.refit(fit.simulate(5, seed=1))
    assert many.coef_names == fit.coef_names
    again = fit.refit(fit.simulate(5, seed=1)[2])
    assert many.loglik[2] == pytest.approx(again.loglik, abs=1e-8)
    frame = many.to_frame()
    for name in ("status", "loglik", "x", "se(x)", "sigma", "theta1", "iterations"):
        assert len(frame[name]) == 5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jaxlmm.fit_batch(design("one-way"), np.zeros((3, 7))), "shape"),
        (lambda: jaxlmm.fit_batch([]), "at least one"),
        (lambda: jaxlmm.fit_batch([design("one-way"), design("nested")]), "model 1"),
        (lambda: jaxlmm.fit_batch([design("one-way")], np.zeros((1, N))), "Y"),
        (lambda: jaxlmm.fit_batch(design("one-way"), responses("one-way"), method="reml"), "method"),
    ],
)
def test_misuse_gets_one_sentence(call, words):
    with pytest.raises(jaxlmm.DataError, match=words):
        call()
