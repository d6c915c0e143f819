"""Right at any ratio of variances: effects, predictions and residuals against augmented least squares in long double.

The oracle knows theta alone. With relative factors L of the effects' covariances and residual SDs s of the rows,
coefficients and effects u = L v are the least squares solution of [X/s  Z L/s; 0  I] (Henderson 1959; Bates & DebRoy
2004), whose orthogonal factor gives standard errors: nothing is squared, and 64 binary digits are carried.
"""

from __future__ import annotations

import functools
import warnings
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest

import jaxlmm
from cases import some
from jaxlmm.errors import PrecisionWarning
from jaxlmm.inference.robust.partition import Rowwise

LONG = np.longdouble
GROUPS, ROWS, ITEMS = 12, 6, 8


def orthogonal(A):
    """Orthonormal columns Q and triangular R of A, by Gram-Schmidt twice, in long double."""
    Q, R = np.zeros(A.shape, LONG), np.zeros((A.shape[1],) * 2, LONG)
    for j in range(A.shape[1]):
        v = A[:, j].astype(LONG)
        for _ in range(2 if j else 0):
            c = Q[:, :j].T @ v
            v, R[:j, j] = v - Q[:, :j] @ c, R[:j, j] + c
        R[j, j] = np.sqrt(v @ v)
        Q[:, j] = v / R[j, j]
    return Q, R


def solved(R, b):
    x = np.zeros(b.shape, LONG)
    for j in range(len(b))[::-1]:
        x[j] = (b[j] - R[j, j + 1 :] @ x[j + 1 :]) / R[j, j]
    return x


def factor(theta, q, diagonal):
    """Cholesky factor from log-Cholesky coordinates, column by column."""
    L, theta = np.zeros((q, q), LONG), iter(np.asarray(theta, LONG))
    for j in range(q):
        for i in range(j, q):
            if i == j:
                L[i, j] = np.exp(next(theta))
            elif not diagonal:
                L[i, j] = next(theta)
    return L


def oracle(fit, sd, diagonal=False):
    """Means, their errors, effects and their prediction error variances, from the model's arrays and theta alone."""
    model, n, start, columns, spread = fit.model, len(fit.model.y), 0, [], []
    for term in model.random:
        q = term.dim
        size = q if diagonal else q * (q + 1) // 2
        L = factor(fit.theta[start : start + size], q, diagonal)
        start += size
        ZL = np.asarray(term.Z, LONG) @ L
        columns += [ZL * (np.asarray(term.group) == g)[:, None] for g in range(term.levels)]
        spread.append(np.kron(np.eye(term.levels), L))
    ZL, X, w = np.concatenate(columns, 1), np.asarray(model.X, LONG), 1 / np.asarray(sd, LONG)[:, None]
    k, p = ZL.shape[1], X.shape[1]
    below = np.concatenate([np.eye(k, dtype=LONG), np.zeros((k, p), LONG)], 1)
    Q, R = orthogonal(np.concatenate([np.concatenate([ZL, X], 1) * w, below]))
    y = np.concatenate([np.asarray(model.y, LONG) * w[:, 0], np.zeros(k, LONG)])
    c = Q.T @ y
    c = c + Q.T @ (y - Q @ c)
    inverse = solved(R, np.eye(k + p, dtype=LONG))
    v, root, stop = solved(R, c)[:k], inverse[:k], 0
    effects, errors = [], []
    for term, L in zip(model.random, spread, strict=True):
        own = slice(stop, stop + len(L))
        stop += len(L)
        effects.append((L @ v[own]).reshape(term.levels, term.dim))
        T = (L @ root[own]).reshape(term.levels, term.dim, -1)
        errors.append(np.einsum("lik,ljk->lij", T, T))
    mean = (Q[:n] @ c) / w[:, 0]
    return SimpleNamespace(
        mean=np.asarray(mean, float),
        error=np.asarray(np.sqrt(np.sum(Q[:n] ** 2, 1)) / w[:, 0], float),
        effects=[np.asarray(e, float) for e in effects],
        pev=[np.asarray(e, float) for e in errors],
    )


DESIGNS = {
    "intercepts": ("(1 | g)", {}),
    "slopes": ("(x | g)", {}),
    "independent slopes": ("(x || g)", {}),
    "nested, inner large": ("(1 | g/s)", {}),
    "nested, outer large": ("(1 | g/s)", {}),
    "crossed": ("(1 | g) + (1 | item)", {}),
    "crossed slopes": ("(x | g) + (1 | item)", {}),
    "dense": ("(x | g)", {"engine": "dense"}),
    "marginal": ("(1 | g) + (1 | item)", {"engine": "marginal"}),
    "marginal slopes": ("(x | g)", {"engine": "marginal"}),
    "variance function": ("(1 | g) + (1 | item)", {"variance": "exp(v)"}),
}


@functools.cache
def case(design, ratio, centre):
    """A fit of simulated data and the right answers at its theta."""
    rng = np.random.default_rng(2)
    n = GROUPS * ROWS
    g, v = np.divmod(np.arange(n), ROWS)
    d = pd.DataFrame({"g": g, "s": v // 3, "item": rng.permutation(np.arange(n) % ITEMS), "v": v / ROWS})
    d["x"] = centre + (v if centre else v + rng.normal(size=n))
    large, slope, item, inner = (rng.normal(size=k) for k in (GROUPS, GROUPS, ITEMS, 2 * GROUPS))
    signal = {
        "nested, inner large": large[g] + ratio * inner[2 * g + d.s],
        "nested, outer large": ratio * large[g] + inner[2 * g + d.s],
        "crossed": large[g] + ratio * item[d.item],
        "marginal": large[g] + ratio * item[d.item],
        "variance function": ratio * large[g] + item[d.item],
    }
    text, options = DESIGNS[design]
    slopes = ratio * slope[g] * (d.x - centre) if "x" in text else 0.0
    rest = item[d.item] if design == "crossed slopes" else 0.0
    d["y"] = 10 + signal.get(design, ratio * large[g] + slopes + rest) + rng.normal(size=n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxlmm.ConvergenceWarning)
        fit = jaxlmm.lmm(f"y ~ x + {text}", d, **options)
    sd = np.exp(np.full(n, fit.theta[-1]))
    if "variance" in options:
        natural = fit.parameters().estimate.to_numpy()
        sd = np.sqrt(natural[-2]) * np.exp(natural[-1] * d.v.to_numpy())
    return fit, d, sd, oracle(fit, sd, diagonal="||" in text)


EVERY = [(d, r, c) for d in DESIGNS for r in (1.0, 1e2, 1e3, 1e4, 1e5) for c in (0.0, 2003.0)]
CASES = some(EVERY, ("slopes", 1e5, 2003.0))


@pytest.mark.parametrize(("design", "ratio", "centre"), CASES)
def test_effects_predictions_and_residuals(design, ratio, centre):
    fit, d, sd, right = case(design, ratio, centre)
    size, rtol = sd.max(), 1e-9 + 4e-14 * ratio**2  # of engines that form V; the others are better
    if not fit.converged and np.isnan(fit.fitted).all():  # a theta far from any optimum, with other ratios
        with pytest.warns(PrecisionWarning, match="are NaN"):
            fit.predict(d)
        return
    np.testing.assert_allclose(fit.fitted / size, right.mean / size, rtol=1e-11, atol=rtol)
    np.testing.assert_allclose(fit.predict(d) / size, fit.fitted / size, rtol=1e-11, atol=rtol)
    np.testing.assert_allclose(fit.residuals("normalized"), (fit.model.y - right.mean) / sd, atol=rtol)
    effects = fit.ranef()
    start = {label: 0 for label in effects}
    for t, part in enumerate(fit.frame.parts):
        found, q = effects[part.group], right.effects[t].shape[1]
        own = slice(start[part.group], start[part.group] + q)
        start[part.group] += q
        scale = np.sqrt(np.einsum("lii->li", right.pev[t]))
        atol = 1e-5 + 1e-13 * ratio**2
        np.testing.assert_allclose(found.values[:, own] / scale, right.effects[t] / scale, rtol=1e-7, atol=atol)
        square = scale[:, :, None] * scale[:, None, :]
        np.testing.assert_allclose(found.pev[:, own, own] / square, right.pev[t] / square, rtol=1e-5, atol=atol)
    if fit.converged:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PrecisionWarning)
            at = fit.predict(d, se=True, df="asymptotic")
        np.testing.assert_allclose(at["estimate"] / size, right.mean / size, rtol=1e-11, atol=rtol)
        np.testing.assert_allclose(at["std_error"], right.error, rtol=1e-6 + 2e-16 * ratio**2)


def test_what_float64_does_not_determine_is_said():
    """With a ratio of 1e9 the covariances of rows have no digits of the residual's: NaN with a warning, not numbers."""
    fit, d, _, right = case("slopes", 1e9, 0.0)
    np.testing.assert_allclose(fit.fitted, right.mean, rtol=1e-9)
    rows = Rowwise(fit)
    with pytest.warns(PrecisionWarning, match="are NaN"):
        found = rows.solve(np.eye(len(d))[:, :3])
    assert np.all(np.isnan(found) | np.isfinite(found)) and np.isnan(found).any()


def test_solutions_are_checked_row_by_row():
    from jaxlmm.likelihood.engines.solving import refined

    with jax.enable_x64(True):
        V = np.diag([1.0, 2.0, 4.0]) + 0.1
        exact, B = np.linalg.inv(V), np.ones((3, 2))
        B[:, 1] = [1.0, 0.0, -1.0]

        def found(inverse):
            return np.asarray(refined(lambda x: inverse @ x, lambda x: V @ x, lambda x: np.abs(V) @ x, B))

        np.testing.assert_allclose(found(exact * (1 + 1e-4)), exact @ B, rtol=1e-10)  # refined
        assert np.isnan(found(0.5 * exact)).all()  # not near enough to be refined


@pytest.mark.parametrize("engine", ["crossed", "marginal", "dense"])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_rows_that_a_factor_without_variance_leaves_apart(engine, scale):
    """V has blocks then: the solution in the other blocks is zero, but for rounding that nothing is compared with."""
    rng = np.random.default_rng(0)
    n = 108
    d = pd.DataFrame({"g": rng.integers(0, 24, n), "h": np.arange(n) % 6, "x": rng.normal(size=n)})
    d["e"] = rng.normal(size=n)
    d["y"] = scale * (d.x + rng.normal(size=6)[d.h] + d.e - d.groupby("g").e.transform("mean"))
    fit = jaxlmm.lmm("y ~ x + (1 | g) + (1 | h)", d, engine=engine)
    of_g, of_h, residual = fit.parameters().estimate
    assert of_g == 0.0 < of_h
    h, X = d.h.to_numpy(), np.column_stack([np.ones(n), d.x])
    V = of_h * (h[:, None] == h) + residual * np.eye(n)
    new = d.iloc[:8].assign(g=99)
    C = of_h * (h[:8, None] == h)
    D = X[:8] - C @ np.linalg.solve(V, X)
    error = (
        of_h
        - np.einsum("ij,ji->i", C, np.linalg.solve(V, C.T))
        + np.einsum("ij,jk,ik->i", D, np.linalg.inv(X.T @ np.linalg.solve(V, X)), D)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrecisionWarning)
        found = fit.predict(new, allow_new_levels=True, se=True, df="asymptotic")["std_error"]
    np.testing.assert_allclose(found, np.sqrt(error), rtol=1e-8)
