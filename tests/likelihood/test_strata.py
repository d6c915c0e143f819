"""Balanced designs by strata, and many small components by closed forms, beside V itself."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlmm import Model, Term
from jaxlmm.likelihood.engines import Rows
from jaxlmm.likelihood.engines.grouped.nested import Components
from jaxlmm.likelihood.engines.strata import Decomposition, Strata
from jaxlmm.likelihood.prepared import prepare
from likelihood.test_crossed import blocks, directions
from likelihood.test_iterative import close, expansion

A, B = np.repeat(np.arange(6), 6), np.tile(np.repeat(np.arange(3), 2), 6)  # six levels, three in each, two rows


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def model(kind, engine="auto"):
    rng = np.random.default_rng(0)
    one, x = np.ones(36), rng.normal(size=36)
    keep = np.arange(36) if "uneven" not in kind else np.flatnonzero(rng.random(36) < 0.8)
    terms = {
        "nested": [(one, A), (one, 3 * A + B)],
        "three levels": [(one, A // 2), (one, A), (one, 3 * A + B)],
        "crossed": [(one, A), (one, B)],
        "slopes, uneven": [(np.column_stack([one, x]), A), (one, 3 * A + B)],
        "within, uneven": [(one, A), (x, A), (one, 3 * A + B)],
        "vectors within, uneven": [(one, A), (np.column_stack([one, x]), 3 * A + B)],
    }[kind]
    y, X = 5.0 + rng.normal(size=36), np.column_stack([one, x])
    made = [Term(z[keep], np.unique(g[keep], return_inverse=True)[1]) for z, g in terms]
    return Model(y[keep], X[keep], made, engine=engine)


def same(kind, cls):
    found, dense = model(kind), model(kind, "dense")
    own, reference = (prepare(m).statistics for m in (found, dense))
    assert isinstance(own, cls)
    C = blocks(found, 0)
    w = jnp.asarray([[2.0, 0.3, 0.1], [0.3, 1.0, -0.2], [0.1, -0.2, 0.7]])
    results = expansion(own, C, directions(C), w), expansion(reference, C, directions(C), w)
    for a, b in zip(*map(jax.tree_util.tree_leaves, results), strict=True):
        close(a, b, 1e-10)
    for a, b in zip(own.gram(C), reference.gram(C), strict=True):
        close(a, b, 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crossed", "nested"])
def test_strata_equal_the_dense_engine(kind):
    same(kind, Strata)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slopes, uneven", "within, uneven", "vectors within, uneven"])
def test_components_equal_the_dense_engine(kind):
    same(kind, Components)


@pytest.mark.parametrize("kind", ["nested", "three levels", "crossed"])
def test_strata_are_those_of_the_analysis_of_variance(kind):
    own = prepare(model(kind)).statistics
    expected = {"nested": [6, 12], "three levels": [3, 3, 12], "crossed": [1, 5, 2]}
    assert isinstance(own, Strata)
    assert sorted(own.count[own.count > 0][:-1]) == sorted(expected[kind])
    assert own.count.sum() == 36.0
    close(np.sum(own.P, -1), np.eye(3) * np.diagonal(np.sum(own.P, -1)), 1e-12)  # U is orthogonal


def test_what_is_not_balanced_has_no_strata():
    one = np.ones((36, 1))
    assert Decomposition.find((one, one), (A, B)) is not None
    keep = np.arange(35)
    assert Decomposition.find((one[keep], one[keep]), (A[keep], B[keep])) is None
    assert Decomposition.find((np.tile(one, 2), one), (A, B)) is None


@pytest.mark.parametrize("kind", ["nested", "slopes, uneven"])
def test_other_responses_have_the_statistics_of_a_model_of_their_own(kind):
    of = model(kind)
    Y = np.random.default_rng(1).normal(size=(4, len(of.y)))
    ones = [prepare(of.replace(y=y), orthogonal=True).statistics for y in Y]
    shared = prepare(of, orthogonal=True).statistics
    Q = np.linalg.qr(of.X)[0] * np.sign(np.diagonal(np.linalg.qr(of.X)[1]))
    left = Y.T - Q @ (Q.T @ Y.T)
    Z = tuple(t.Z for t in of.terms)
    lanes = of.evaluator.varying(Rows(Q, Z), of, shared, 1)([left])
    for i, expected in enumerate(ones):
        found = shared.with_columns(jax.tree_util.tree_map(lambda a: a[i], lanes))  # noqa: B023
        for a, b in zip(*map(jax.tree_util.tree_leaves, (found, expected)), strict=True):
            close(a, b, 1e-11)
