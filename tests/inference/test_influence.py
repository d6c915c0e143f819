"""Influence: leverage against dense hat matrices, deletion against refits, first order against finite differences."""

from __future__ import annotations

import jax
import numpy as np
import pandas as pd
import pytest

import jaxlmm
from cases import some
from jaxlmm import DataError
from jaxlmm.inference.robust import equations
from oracle import gradient
from robustness import KINDS, covariance, data, fit_rows, fitted, residuals

NAMES = ("cooks", "mdffits", "covratio", "leverage")


def natural(fit):
    return fit.parameters()["estimate"].to_numpy()


def labels_of(by, fit):
    return np.arange(fit.nobs) if by == "row" else data()[by].astype(str).to_numpy()


@pytest.mark.parametrize("model", some([*KINDS, "crossed"], "both"))
def test_leverage_is_the_diagonal_of_the_hat_matrices(model):
    fit = fitted(model)
    V, R = covariance(fit)
    X, W = fit.model.X, np.linalg.inv(V)
    hat = X @ fit.vcov @ X.T @ W
    conditional = np.eye(fit.nobs) - R @ (W - W @ hat)
    by_row = fit.influence(theta=False)
    np.testing.assert_allclose(by_row.leverage, np.diag(hat), rtol=1e-8)
    np.testing.assert_allclose(by_row.leverage_conditional, np.diag(conditional), rtol=1e-7, atol=1e-10)
    assert by_row.leverage.sum() == pytest.approx(X.shape[1])
    sums = pd.Series(np.diag(hat)).groupby(data().id.to_numpy()).sum()
    np.testing.assert_allclose(fit.influence("id", theta=False).leverage, sums, rtol=1e-8)


@pytest.mark.parametrize("by", ["row", pytest.param("id", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_by_levels_and_by_solutions_of_rows(by, monkeypatch):
    """V^-1 with crossed factors from the inverse of their effects, and from a solution a row."""
    fit, found = fitted("crossed"), []
    for digits in (equations.DIGITS, 0.0):
        monkeypatch.setattr(equations, "DIGITS", digits)
        found.append(fit.influence(by, exact="none"))
    for name in (*NAMES, "cooks_theta", "dfbeta", "change", "leverage_conditional"):
        by_levels, by_rows = (getattr(one, name) for one in found)
        np.testing.assert_allclose(by_levels, by_rows, rtol=1e-9, atol=1e-10 * np.max(np.abs(by_rows)))


def test_conditional_leverage_is_the_derivative_of_fitted_values():
    fit = fitted("both")
    C = jax.device_get(fit.estimate.covariances[0])[0, 0]
    V, R = covariance(fit)
    site = data().site.to_numpy()
    random = C * (site[:, None] == site)
    np.testing.assert_allclose(random + R, V, rtol=1e-8, atol=1e-10)
    W = np.linalg.inv(V)
    blup = fit.model.X @ fit.coef + random @ W @ residuals(fit)
    np.testing.assert_allclose(fit.fitted, blup, rtol=1e-8)


MODELS = (*KINDS, "crossed")


@pytest.mark.parametrize(
    ("model", "by"),
    some(
        [(model, by) for by in ("row", "id", "visit") for model in MODELS],
        ("slopes", "row"), ("both", "row"), ("slopes", "id"), ("crossed", "visit"),
    ),
)  # fmt: skip
def test_deletion_at_the_same_theta(model, by):
    fit = fitted(model)
    V, _ = covariance(fit)
    X, labels = fit.model.X, labels_of(by, fit)
    y = fit.model.y - (0.0 if fit.model.offset is None else fit.model.offset)
    found = fit.influence(by, theta=False)
    assert set(found.status) <= {"first_order"}
    for i in range(0, len(found), 7 if by == "row" else 3):
        r = labels != found.labels[i]
        solved = np.linalg.solve(V[np.ix_(r, r)], X[r])
        after = np.linalg.inv(X[r].T @ solved)
        gap = fit.coef - after @ solved.T @ y[r]
        np.testing.assert_allclose(found.dfbeta[i], gap, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(found.dfbetas[i], gap / np.sqrt(np.diag(after)), rtol=1e-7, atol=1e-9)
        expected = {
            "cooks": gap @ np.linalg.solve(fit.vcov, gap) / len(gap),
            "mdffits": gap @ np.linalg.solve(after, gap) / len(gap),
            "covratio": np.linalg.det(after) / np.linalg.det(fit.vcov),
        }
        for name, value in expected.items():
            assert getattr(found, name)[i] == pytest.approx(value, rel=1e-7, abs=1e-10), name
    assert np.all(found.change == 0)


@pytest.mark.parametrize(
    ("model", "method", "by"),
    [
        ("slopes", "REML", "id"),
        pytest.param("serial", "ML", "row", marks=pytest.mark.slow),
        pytest.param("both", "REML", "id", marks=pytest.mark.slow),
        pytest.param("crossed", "REML", "visit", marks=pytest.mark.slow),
    ],
)
def test_exact_deletion_is_a_refit(model, method, by):
    fit = fitted(model, method)
    labels = labels_of(by, fit)
    found = fit.influence(by, exact="all")
    for i in (0, 2):
        without = fit_rows(model, labels != found.labels[i], method)
        assert found.status[i] == "converged"
        np.testing.assert_allclose(fit.coef - found.dfbeta[i], without.coef, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(natural(fit) - found.change[i], natural(without), rtol=1e-4, atol=1e-5)
        gap = fit.coef - without.coef
        assert found.cooks[i] == pytest.approx(gap @ np.linalg.solve(fit.vcov, gap) / len(gap), rel=1e-4)
        assert found.mdffits[i] == pytest.approx(gap @ np.linalg.solve(without.vcov, gap) / len(gap), rel=1e-4)
        ratio = np.linalg.det(without.vcov) / np.linalg.det(fit.vcov)
        assert found.covratio[i] == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize(
    ("model", "method", "by"),
    some([("slopes", "REML", "id"), ("slopes", "ML", "row"), ("serial", "REML", "row"), ("both", "ML", "id"),
          ("kin", "REML", "row")], ("slopes", "REML", "id")),
)  # fmt: skip
def test_first_order_is_the_limit_of_optima(model, method, by):
    """The optimum of (1 - w) loglik + w loglik without the rows moves as it says, for small w."""
    fit, criterion = fitted(model, method), getattr(jaxlmm, method.lower())
    found = fit.influence(by, exact="none")
    i = int(np.argmax(found.cooks_theta))
    part = fit_rows(model, labels_of(by, fit) != found.labels[i], method).model

    def mixed(theta, w):
        return (1.0 - w) * criterion(theta, fit.model) + w * criterion(theta, part)

    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(mixed))
        curvature = gradient(lambda theta: slope(theta, 0.0), fit.theta)

        def optimum(w):
            theta = fit.theta
            for _ in range(5):  # the curvature changes little with so small a weight
                theta = theta - np.linalg.solve(curvature, slope(theta, w))
            return theta

        step = 1e-3
        ends = [optimum(w) for w in (step, -step)]

        def coefficients(theta):
            A = np.asarray(jaxlmm.gram(theta, part)[1])
            return np.linalg.solve(A[:-1, :-1], A[:-1, -1])

        at = [_natural_at(fit, theta) for theta in ends]
        beta = [coefficients(theta) for theta in (fit.theta, *ends)]
    scale = np.abs(found.change[i]).max()
    np.testing.assert_allclose(-found.change[i], (at[0] - at[1]) / (2 * step), rtol=1e-3, atol=1e-4 * scale)
    moved = beta[0] + (beta[1] - beta[2]) / (2 * step)
    np.testing.assert_allclose(fit.coef - found.dfbeta[i], moved, rtol=1e-5, atol=1e-5)


def _natural_at(fit, theta):
    values, start = [], 0
    for part in (*fit.model.random, fit.model.residual):
        stop = start + part.structure.size(part.dim)
        values += [value for _, value in part.structure.natural(theta[start:stop], part.dim)]
        start = stop
    return np.array(values)


def test_first_order_is_near_the_refit_where_little_changes():
    frame = data()
    fit = fitted("slopes")
    first, exact = fit.influence(exact="none"), fit.influence(exact="all")
    small = exact.cooks_theta < 0.02
    assert small.sum() > 0.7 * len(frame)
    gap = np.abs(first.change - exact.change)[small].max(0)
    assert np.all(gap < 0.2 * np.abs(exact.change).max(0))
    assert np.abs(first.cooks - exact.cooks)[small].max() < 0.02


@pytest.mark.slow
def test_a_singular_matrix_stays_singular_to_first_order():
    fit = fitted("singular")
    G = fit.estimate.covariances[0]
    w, Q = np.linalg.eigh(G)
    assert w[0] < 1e-10 * w[1]
    found = fit.influence("id", exact="none")
    H = found.change[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
    assert np.abs(H).max() > 0.01
    assert np.abs(Q[:, 0] @ H @ Q[:, 0]).max() < 1e-9


@pytest.mark.slow
def test_rows_that_determine_a_coefficient():
    frame = data().assign(only=(data().id == "s03") * 1.0)
    fit = jaxlmm.lmm("y ~ x + only + (1 | id)", frame)
    found = fit.influence("id")
    i = list(found.labels).index("s03")
    assert found.status[i] == "rank_deficient"
    assert np.isnan(found.cooks[i])
    assert np.all(np.isnan(found.change[i]))
    assert np.all(np.isfinite(np.delete(found.cooks, i)))
    assert np.isfinite(found.leverage).all()
    assert found.flagged[i]


def test_only_the_flagged_are_fitted_again():
    fit = fitted("slopes")
    found = fit.influence("id", threshold=0.2)
    again = np.array(found.status) != "first_order"
    np.testing.assert_array_equal(again, found.flagged)
    assert 0 < again.sum() < len(found)
    assert fit.influence("id", exact="none").threshold == pytest.approx(4 / 18)
    assert not np.any(fit.influence("id", threshold=1e9).flagged)


def test_tables():
    fit = fitted("both")
    found = fit.influence("id", exact="none")
    frame = found.frame()
    assert list(frame.columns[:7]) == ["id", *(*NAMES[:1], "cooks_theta"), *NAMES[1:], "leverage_conditional"]
    assert "dfbetas(x)" in frame
    assert [c for c in frame if c.startswith("change(Residual ar1(visit | id) ")]
    assert len(frame) == len(found) == 18
    text = str(found)
    assert text.startswith("Most influential:\nid ")
    assert "of 18 above the threshold of 0.2222" in text
    assert "<table>" in found._repr_html_()
    dropped = data().assign(y=lambda d: d.y.where(np.arange(len(d)) != 4))
    rows = jaxlmm.lmm("y ~ x + (1 | id)", dropped).influence(exact="none")
    assert list(rows.labels[:6]) == [0, 1, 2, 3, 5, 6]  # positions in the data


def test_errors():
    fit = fitted("serial")
    with pytest.raises(DataError, match="exact: found 'yes', expected 'flagged', 'all' or 'none'"):
        fit.influence(exact="yes")
    with pytest.raises(DataError, match="no column 'ident'"):
        fit.influence("ident")
    with pytest.raises(DataError, match="by: expected at least 2 groups"):
        fit.influence(np.zeros(fit.nobs))


def test_a_perfect_fit_is_refused():
    frame = data().assign(y=lambda d: d.x + d.id.astype("category").cat.codes)
    with pytest.warns(jaxlmm.ConvergenceWarning):
        fit = jaxlmm.lmm("y ~ x + (1 | id)", frame)
    for call in (fit.influence, fit.scores, fit.vcov_full):
        with pytest.raises(DataError, match="the fit has no optimum to look at: "):
            call()
    found = fit.sandwich("CR2")
    assert np.all(np.isnan(found.vcov))
    assert np.all(np.isnan(found.df(np.eye(2))))
    assert np.isnan(found.joint(np.eye(2))[0])


@pytest.mark.slow
def test_a_model_without_fixed_effects():
    fit = jaxlmm.lmm("y ~ 0 + (1 | id)", data())
    found = fit.influence("id", exact="none")
    assert np.all(found.cooks == 0)
    assert found.cooks_theta.max() > 0
    assert fit.sandwich("CR3").vcov.shape == (0, 0)
    assert fit.vcov_full("CR0").shape == (2, 2)
