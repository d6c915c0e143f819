"""Start values of large crossed models: moments against dense traces, and the same optimum from fewer evaluations."""

from __future__ import annotations

import numpy as np
import pytest

import jaxlmm
from jaxlmm.fitting import estimate, moments


def test_moments_solve_the_equations_of_dense_matrices():
    rng, n = np.random.default_rng(0), 60
    groups = [rng.integers(0, 7, n), rng.integers(0, 5, n)]
    Z = [np.column_stack([np.ones(n), rng.normal(size=n)]), rng.normal(size=(n, 1))]
    y = rng.normal(size=n)
    columns = [(g, z) for g, part in zip(groups, Z, strict=True) for z in part.T]
    V = [z[:, None] * (g[:, None] == g) * z for g, z in columns] + [np.eye(n)]
    T = np.array([[np.sum(a * b) for b in V] for a in V])
    right = np.linalg.solve(T, [y @ v @ y for v in V])
    np.testing.assert_allclose(moments.variances(y, Z, groups), right, rtol=1e-9)


@pytest.mark.slow
def test_optima_from_moments_are_those_from_the_usual_starts(monkeypatch):
    rng, n = np.random.default_rng(1), 4000
    data = {"x": rng.normal(size=n), "a": rng.integers(0, 300, n), "b": (200 * rng.beta(0.6, 1.6, n)).astype(int)}
    data["y"] = 0.3 * rng.normal(size=300)[data["a"]] + 0.6 * rng.normal(size=200)[data["b"]] + rng.normal(size=n)
    evaluations = []
    evaluator = estimate.evaluator

    def counting(*args, **kwargs):
        evaluate = evaluator(*args, **kwargs)
        evaluations.append(0)

        def counted(s):
            evaluations[-1] += 1
            return evaluate(s)

        return counted

    monkeypatch.setattr(estimate, "evaluator", counting)
    for formula in ("y ~ x + (1|a) + (1|b)", "y ~ x + (1|a) + (x|b)"):  # of the latter the optimum may be singular
        new = jaxlmm.lmm(formula, data, engine="crossed")
        with monkeypatch.context() as usual:
            usual.setattr(moments, "LARGE", np.inf)
            old = jaxlmm.lmm(formula, data, engine="crossed")
        assert evaluations[-2] < evaluations[-1]
        assert new.loglik == pytest.approx(old.loglik, abs=1e-9)
        np.testing.assert_allclose(new.theta, old.theta, atol=1e-6)
        np.testing.assert_allclose(new.vcov, old.vcov, rtol=1e-7)
