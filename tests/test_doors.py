"""No word of a caller is dropped: options are honoured, or refused with the name of the function and the nearest."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxlmm


@pytest.fixture(scope="module")
def sleep():
    return jaxlmm.datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def fit(sleep):
    return jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", sleep)


def test_replace_takes_designs_of_terms(sleep, fit):
    X = np.column_stack([np.ones(180), sleep["Days"].to_numpy(float)])
    model = jaxlmm.Model(sleep["Reaction"].to_numpy(), X, random=[jaxlmm.Term(X, sleep["Subject"])])
    with jax.enable_x64():

        def value(Z):
            return jaxlmm.reml(fit.theta, model.replace(Z=Z))

        found = jax.vmap(value)(np.stack([X, 2 * X, 3 * X]))
        np.testing.assert_allclose(found, [-871.814, -880.488, -890.851], atol=1e-3)
        slope = jax.grad(lambda scale: value(scale * X))(2.0)
        central = (value(2.001 * X) - value(1.999 * X)) / 0.002
        assert slope == pytest.approx(float(central), rel=1e-5)
        assert float(jaxlmm.reml(fit.theta, model.replace(y=list(model.y)))) == pytest.approx(fit.loglik)


def test_replace_takes_an_array_for_each_term():
    rng = np.random.default_rng(0)
    n, g, h = 24, np.repeat(np.arange(6), 4), np.tile(np.arange(4), 6)
    y, z, theta = rng.normal(size=n), rng.normal(size=n), np.array([0.1, -0.2, 0.3])
    one = np.ones(n)

    def model(a, b):
        return jaxlmm.Model(y, one[:, None], random=[jaxlmm.Term(a, g), jaxlmm.Term(b, h)])

    with jax.enable_x64():
        found = jaxlmm.ml(theta, model(one, one).replace(Z=[2 * one, z]))
        assert float(found) == pytest.approx(float(jaxlmm.ml(theta, model(2 * one, z))), rel=1e-12)
    for wrong in ([one], one, [one, one[:5]], [one, np.ones((n, 2))]):
        with pytest.raises(jaxlmm.DataError, match="Z"):
            model(one, one).replace(Z=wrong)


@pytest.mark.parametrize(
    ("given", "near"),
    [("Y", "y"), ("weight", "weights"), ("x", "X"), ("engine", "there are y, X, Z"), ("offsets", "offset")],
)
def test_replace_refuses_other_names(fit, given, near):
    with pytest.raises(TypeError, match=rf"Model\.replace: no option '{given}'; .*{near}"):
        fit.model.replace(**{given: fit.model.y})
    with pytest.raises(TypeError, match="replace of Term: no option 'z'"):
        jaxlmm.design.replace(fit.model.random[0], z=1.0)
    with pytest.raises(jaxlmm.DataError, match=r"replace: y: expected an array of shape \(180,\), found shape \(90,\)"):
        fit.model.replace(y=fit.model.y[:90])
