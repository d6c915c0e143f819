"""Responses that each lack rows of their own: statistics from masks, shared patterns, fits as of the rows present."""

from __future__ import annotations

import numpy as np
import pytest

import jaxlmm
from cases import some
from jaxlmm.batch import missing
from jaxlmm.batch.responses import Design
from jaxlmm.fitting.newton import Status
from jaxlmm.interface import model_of

FORMULAS = {
    "intercepts": "y ~ t * arm + (1 | g)",
    "slopes": "y ~ t * arm + (t | g)",
    "two terms": "y ~ t + (1 | g) + (0 + t | g)",
    "none": "y ~ t * arm",
}
METHODS = ("satterthwaite", "kenward-roger")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    people, visits = 30, 4
    n = people * visits
    g, t = np.repeat(np.arange(people), visits), np.tile(np.arange(visits) - 1.0, people)
    arm = np.repeat(1.0 * (rng.random(people) < 0.5), visits)
    y = rng.normal(size=n) + rng.normal(size=people)[g] + 0.5 * rng.normal(size=people)[g] * t
    return {"g": g, "h": g % 6, "t": t, "arm": arm, "w": rng.uniform(0.5, 2, n), "o": rng.normal(size=n), "y": y}


def responses(data, b, share=0.15, seed=1):
    rng = np.random.default_rng(seed)
    n, g = len(data["y"]), data["g"]
    Y = rng.normal(size=(b, n)) + rng.normal(size=(b, 30))[:, g] + 0.5 * rng.normal(size=(b, 30))[:, g] * data["t"]
    return np.where(rng.random((b, n)) < share, np.nan, Y)


def fitted(data, name, more=()):
    more = dict(more) | ({"residual": "iid()"} if name == "none" else {})
    return jaxlmm.lmm(FORMULAS[name], data, **more)


def of_rows(fit, data, y, more=()):
    """A single fit of the rows where y is there."""
    rows = ~np.isnan(y)
    return fitted({name: values[rows] for name, values in {**data, "y": y}.items()}, fit, more)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("more", [{}, {"weights": "w", "offset": "o"}], ids=["plain", "weights and offset"])
def test_statistics_are_those_of_the_rows_present(data, name, more):
    """log|V| and [Q y]'V^-1 [Q y] of every response against dense matrices, in NumPy alone."""
    _, model = model_of(FORMULAS[name], data, **more, **({"residual": "iid()"} if name == "none" else {}))
    Y = responses(data, 7, 0.3)
    Y[0, data["g"] < 3], Y[1, ::2] = np.nan, np.nan  # whole groups, and half of every group
    stacks, left = missing.stacks_of_masked(Design(model), Y)
    done = []
    for stack in stacks:
        for lane, row in enumerate(stack.rows):
            here, own = ~np.isnan(Y[row]), missing.take(stack.prepared, lane)
            (F, B, E), basis = own.statistics.factor, own.basis
            K = iter(basis.K)
            root = np.sqrt(np.ones(here.sum()) if model.weights is None else model.weights[here])
            V = np.eye(here.sum())
            for term in model.random:
                Z = (root[:, None] * term.Z[here]) @ next(K)
                V += 0.6 * (Z @ Z.T) * np.equal.outer(term.group[here], term.group[here])
            y = Y[row] - (0.0 if model.offset is None else model.offset)
            Q = np.linalg.solve(basis.R.T, (root[:, None] * model.X[here]).T).T
            U = np.column_stack([Q, root * y[here] - Q @ basis.c])
            S = np.eye(len(F))[..., None] + 0.6 * np.einsum("ijg,ikg->jkg", F, F)
            S = np.moveaxis(S, -1, 0)
            gram = E[..., 0] + np.einsum("irg,gij,jsg->rs", B, np.linalg.inv(S), B)
            logdet = float(own.statistics.weight @ np.linalg.slogdet(S)[1])
            np.testing.assert_allclose(gram, U.T @ np.linalg.solve(V, U), rtol=1e-11, atol=1e-11)
            np.testing.assert_allclose(logdet, np.linalg.slogdet(V)[1], rtol=1e-11)
            np.testing.assert_allclose(Q.T @ Q, np.eye(len(basis.c)), atol=1e-12)
            np.testing.assert_allclose(Q.T @ U[:, -1], 0.0, atol=1e-11)
            assert basis.n == here.sum() and own.statistics.n == here.sum()
            done.append(row)
    np.testing.assert_array_equal(np.sort([*done, *left]), np.arange(7))
    assert len(left) <= 1


@pytest.mark.parametrize("name", some(FORMULAS, "slopes"))
@pytest.mark.parametrize("more", some({"plain": {}, "weights and offset": {"weights": "w", "offset": "o"}}, "plain"))
def test_fits_and_tests_are_those_of_the_rows_present(data, name, more):
    more = {"plain": {}, "weights and offset": {"weights": "w", "offset": "o"}}[more]
    fit, Y = fitted(data, name, more), responses(data, 2)
    L = np.eye(len(fit.coef))[1:]
    tests = jaxlmm.Tests(L, df=METHODS)
    batches = [fit.refit(Y, missing="drop", tests=tests)]
    if name != "slopes":  # the slow ones
        batches.append(fit.statistics().fit(Y, missing="drop", tests=tests))
    for found in batches:
        for i, y in enumerate(Y):
            own = of_rows(name, data, y, more)
            assert found.status[i] == Status.CONVERGED and abs(found.loglik[i] - own.loglik) < 1e-9
            for key in ("coef", "vcov", "theta", "sigma"):
                np.testing.assert_allclose(getattr(found, key)[i], getattr(own, key), rtol=1e-7, atol=1e-8)
            for method in METHODS:
                here, there = found.tests[method], own.test(L, df=method)
                np.testing.assert_allclose(here.p[i], there.rows.p, rtol=1e-7)
                np.testing.assert_allclose(here.df[i], there.rows.df, rtol=1e-6)
                np.testing.assert_allclose(here.joint[i], there.joint.statistic, rtol=1e-6)
                if method == "kenward-roger":  # Satterthwaite's F depends on the coding, which is that of all rows
                    np.testing.assert_allclose(here.den_df[i], there.joint.den_df, rtol=1e-6)


@pytest.mark.slow
def test_what_the_rows_present_cannot_say_has_a_status(data):
    """An arm without data, hardly any of it, fewer rows than coefficients, nothing at all; and the complete ones."""
    fit, Y = fitted(data, "intercepts"), responses(data, 6, 0.05)
    arm = np.flatnonzero(data["arm"] == 1)
    Y[0, arm], Y[1, arm[1:]], Y[2, 3:], Y[3] = np.nan, np.nan, np.nan, np.nan
    Y[5] = np.where(np.isnan(Y[5]), 0.0, Y[5])
    tests = jaxlmm.Tests(np.eye(len(fit.coef))[1:])
    _, left = missing.stacks_of_masked(Design(fit.model), Y[:2])
    np.testing.assert_array_equal(left, [0, 1])  # by their rows
    for found in (
        fit.refit(Y, missing="drop", tests=tests),
        fit.statistics().fit(iter([Y]), missing="drop", tests=tests),
    ):
        np.testing.assert_array_equal(
            found.status,
            [Status.RANK_DEFICIENT, Status.RANK_DEFICIENT, Status.BAD_RESPONSE, Status.BAD_RESPONSE, Status.CONVERGED,
             Status.CONVERGED],
        )  # fmt: skip
        each = found.tests["satterthwaite"].each_status
        np.testing.assert_array_equal(each[:2] == jaxlmm.TestStatus.NOT_ESTIMABLE, [[0, 1, 1], [0, 1, 1]])
        np.testing.assert_array_equal(each[4:], 0)
        own = fit.refit(Y[5])
        np.testing.assert_allclose([found.loglik[5], found.coef[5, 1]], [own.loglik, own.coef[1]], rtol=1e-9)


@pytest.mark.parametrize("formula", some(["y ~ t + (1 | g)", "y ~ t + (1 | g) + (1 | h)"], "y ~ t + (1 | g)"))
def test_repeated_patterns_share_a_design(data, monkeypatch, formula):
    fit, Y = jaxlmm.lmm(formula, data), responses(data, 8, 0.0)
    Y[::2, 5:9], Y[1::2, [0, 40]] = np.nan, np.nan
    expected = fit.refit(Y, missing="drop")
    monkeypatch.setattr(missing, "OFTEN", 3)
    monkeypatch.setattr(missing, "REPEATED", 3)
    stacked = []
    monkeypatch.setattr("jaxlmm.batch.refitting.Job.fit_stack", lambda *args: stacked.append(args))
    found = fit.refit(Y, missing="drop")
    assert not stacked and len(np.unique(missing.patterns(Y))) == 2
    for name in ("loglik", "coef", "vcov", "theta", "status"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-7, atol=1e-9)
