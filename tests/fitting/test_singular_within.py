"""A residual covariance that is singular at the optimum, where effects that cross its subjects keep V regular."""

import numpy as np
import pytest

import jaxlmm

SUBJECTS, ITEMS = 5, 6


def waves(seed):
    """A wave of known length for each subject, of which a serial correlation leaves nothing, and effects of items."""
    rng = np.random.default_rng(seed)
    id, t = np.repeat(np.arange(SUBJECTS), 3), np.tile(np.arange(3), SUBJECTS)
    item = np.concatenate([rng.permutation(ITEMS)[:3] for _ in range(SUBJECTS)])
    a, b = rng.normal(size=(2, SUBJECTS))
    y = a[id] * np.cos(0.9 * t) + b[id] * np.sin(0.9 * t) + rng.normal(size=ITEMS)[item]
    return {"y": y, "id": id, "visit": np.array(list("abc"))[t], "item": item}


def dense_reml(d, parameters):
    """From the formula, with V itself: variance of the items, of the visits, and two correlations."""
    item, variance, *correlations = parameters
    lag = np.abs(np.subtract.outer(d["visit"].view(np.int32), d["visit"].view(np.int32)))
    R = variance * np.array([1.0, *correlations])[lag] * np.equal.outer(d["id"], d["id"])
    V, X = R + item * np.equal.outer(d["item"], d["item"]), np.ones((len(lag), 1))
    W = np.linalg.solve(V, X)
    r = d["y"] - X @ np.linalg.solve(X.T @ W, W.T @ d["y"])
    terms = (len(r) - 1) * np.log(2 * np.pi), np.linalg.slogdet(V)[1], np.linalg.slogdet(X.T @ W)[1]
    return -0.5 * (sum(terms) + r @ np.linalg.solve(V, r))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_an_optimum_that_only_v_itself_can_tell_is_found(seed):
    d = waves(seed)
    fit = jaxlmm.lmm("y ~ 1 + (1 | item)", d, residual="toep(visit | id)")
    parameters = np.asarray(fit.parameters()["estimate"])
    partial = (parameters[3] - parameters[2] ** 2) / (1 - parameters[2] ** 2)
    assert fit.status == "converged" and fit.engine == "dense" and fit.certificate.iterations <= 100
    assert partial == pytest.approx(-1.0, abs=1e-6)
    assert fit.loglik == pytest.approx(dense_reml(d, parameters), abs=1e-5)
    assert fit.loglik == pytest.approx(float(jaxlmm.reml(fit.theta, fit.model)), abs=1e-6)
    for change in (0.9, 1.1):
        assert dense_reml(d, parameters * [change, 1, 1, 1]) < fit.loglik
        assert dense_reml(d, parameters * [1, change, 1, 1]) < fit.loglik


@pytest.mark.slow
def test_lanes_find_it_too():
    d = waves(0)
    with pytest.warns(jaxlmm.ConvergenceWarning):  # asked for by name, the engine is what it is
        fit = jaxlmm.lmm("y ~ 1 + (1 | item)", d, residual="toep(visit | id)", engine="marginal")
    assert fit.engine == "marginal"
    batch = jaxlmm.fit_batch(fit.model, np.stack([d["y"], d["y"] + d["visit"].view(np.int32) % 2]))
    assert batch.converged.all()
    assert batch.loglik[0] == pytest.approx(jaxlmm.lmm("y ~ 1 + (1 | item)", d, residual="toep(visit | id)").loglik)
