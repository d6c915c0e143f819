"""The independent optimiser against the textbook definition and closed forms; nothing is fitted by jaxlmm here."""

from __future__ import annotations

import numpy as np
import pytest

import oracle
from jaxlmm import Diagonal, Model, Term, Unstructured
from jaxlmm.covariance import Identity
from torture import search


def benign(structure, seed=0):
    rng = np.random.default_rng(seed)
    codes, x = np.arange(30) % 5, rng.normal(size=30)
    X = np.column_stack([np.ones(30), x])
    y = X.sum(1) + rng.normal(size=5)[codes] + rng.normal(size=30)
    terms = [Term(X, codes, structure), Term(np.ones(30), np.arange(30) // 10)]
    return Model(y, X, terms, weights=rng.uniform(0.5, 2, 30), offset=rng.normal(size=30))


def textbook(model, factors, sigma):
    terms = [(t.Z, t.group, L @ L.T) for t, L in zip(model.random, factors, strict=True)]
    return oracle.loglik(oracle.marginal(terms, sigma, len(model.y), model.weights), model.y - model.offset, model.X)


@pytest.mark.parametrize(
    ("structure", "theta", "factor"),
    [
        (Unstructured(), [0.1, -0.3, -0.5], [[np.exp(0.1), 0], [-0.3, np.exp(-0.5)]]),
        (Diagonal(), [0.1, -np.inf], [[np.exp(0.1), 0], [0, 0]]),
        (Identity(), [0.3], np.exp(0.3) * np.eye(2)),
    ],
)
def test_the_form_in_the_complement_of_x_is_the_textbook_definition(structure, theta, factor):
    model = benign(structure)
    expected = textbook(model, [np.array(factor), np.array([[0.7]])], 1.3)
    assert search.loglik_at(model, np.array([*theta, np.log(0.7), np.log(1.3)])) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("structure", [Unstructured(), Diagonal(), Identity()])
def test_slopes_of_the_criterion(structure):
    model = benign(structure)
    problem = search.Problem(model, search.Rows.of(model))
    v = np.random.default_rng(1).normal(size=len(problem.parts))
    expected = oracle.gradient(lambda v: problem(v)[0], v)
    found = problem(v)[1]
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("effect", [0.0, 1.0])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_the_optimum_of_balanced_data_is_that_of_the_mean_squares(effect, scale):
    rng = np.random.default_rng(4)
    table = 5 + effect * rng.normal(size=(6, 1)) + rng.normal(size=(6, 4))
    expected = oracle.one_way_loglik(table, *oracle.one_way_estimates(table)) - 23 * np.log(scale)
    codes, X = np.repeat(np.arange(6), 4), np.ones((24, 1))
    model = Model(scale * table.ravel(), X, [Term(np.full(24, 1 / scale), codes)])
    assert search.best_loglik(model) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_the_search_by_group_finds_the_same(effect):
    model = benign(Unstructured())
    model = Model(model.y + effect * model.X @ [0, 1], model.X, model.random[:1])
    assert search.best_loglik_by_group(model) == pytest.approx(search.best_loglik(model), abs=1e-7)


def test_an_offset_costs_no_digits():
    """Integers, so that adding the offset rounds nothing."""
    model = benign(Unstructured())
    y = np.round(64 * model.y) / 64
    plain = search.best_loglik(model.replace(y=y, offset=None))
    moved = search.best_loglik(model.replace(y=y + 2.0**30, offset=None))
    assert moved == pytest.approx(plain, abs=1e-9)
