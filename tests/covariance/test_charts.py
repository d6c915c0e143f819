"""The coordinates that the solver steps in: one fit for every unit and origin of times and covariates."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxlmm
from cases import some
from jaxlmm.covariance.charts import Charts, Decay, Log, Origin
from jaxlmm.errors import JaxlmmError

CHARTS = Charts(
    (
        Decay(np.array([1]), 30.0),
        Origin(np.array([3]), np.array([4]), np.array([0, 2]), np.array([1.0, 0.5]), 7.0, 2.0),
        Log(np.array([0, 2])),
    )
)


def criterion(s):
    return jnp.sum(jnp.sin(s * jnp.arange(1, 6))) + s[0] * s[3] * s[1] + s[4] * s[2] ** 2


@pytest.mark.parametrize("xp", [pytest.param(np, marks=pytest.mark.slow), jnp])
@pytest.mark.slow
def test_derivatives_are_those_of_the_criterion_in_the_chart(xp):
    s = np.array([0.7, 1.1, 0.3, 0.05, 0.2])
    x = CHARTS.to(xp.asarray(s))
    np.testing.assert_allclose(CHARTS.back(x), s, rtol=1e-14)
    found = CHARTS.pulled(xp.asarray(s), *(xp.asarray(f(criterion)(s)) for f in (jax.grad, jax.hessian)))

    def of_x(x):
        return criterion(CHARTS.back(x))

    np.testing.assert_allclose(found[0], jax.grad(of_x)(jnp.asarray(x)), rtol=1e-10)
    np.testing.assert_allclose(found[1], jax.hessian(of_x)(jnp.asarray(x)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("angle", [-0.5 * np.pi, 0.5 * np.pi])
def test_ends_of_a_correlation_stay_where_they_are(angle):
    s = np.array([0.7, angle, 0.3, 0.05, 0.2])
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(CHARTS.back(CHARTS.to(s)), s, atol=1e-7)
        assert np.all(np.isfinite(CHARTS.pulled(s, np.ones(5), np.eye(5))[1]))


def data(seed=1, groups=20, rows=6):
    rng = np.random.default_rng(seed)
    n = groups * rows
    g = np.repeat(np.arange(groups), rows)
    z, t = rng.uniform(0.5, 4, n), np.tile(np.arange(rows), groups) + rng.uniform(0, 0.8, n)
    e = rng.normal(size=n)
    V = np.exp(-abs(t[:, None] - t) / 3.0) * (g[:, None] == g)
    y = np.linalg.cholesky(V) @ rng.normal(size=n)
    sd = {"exp": np.exp(0.4 * z), "power": z**0.8, "const_power": 0.7 + z**1.2}
    return pd.DataFrame({"g": g, "z": z, "t": t, "y": y, **{name: e * s for name, s in sd.items()}})


SAME = [  # variance function, unit, origin: the functions of the same form, with another standard deviation at zero
    ("exp", 1.0, 100.0),
    ("exp", 1e6, 0.0),
    ("exp", 1e-4, -0.003),
    ("power", 1e6, 0.0),
    ("power", 1e-5, 0.0),
    ("const_power", 1e6, 0.0),
]


@pytest.mark.parametrize(("name", "unit", "origin"), some(SAME, ("const_power", 1e6, 0.0)))
def test_variance_functions_have_one_fit_in_every_unit(name, unit, origin):
    d = data()
    fits = [jaxlmm.lmm(f"{name} ~ 1", d.assign(z=z), variance=f"{name}(z)") for z in (d.z, d.z * unit + origin)]
    one, other = fits
    assert one.status == other.status == "converged" and not other.singular
    assert abs(one.loglik - other.loglik) < 1e-6
    assert other.certificate.iterations <= one.certificate.iterations + 5 < 40
    slopes = [fit.parameters()["estimate"].to_numpy()[-1] for fit in fits]
    assert slopes[1] == pytest.approx(slopes[0] / (unit if name == "exp" else 1.0), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("days", [365.25, 3.15576e7])
def test_car1_is_ou_in_seconds_days_and_years(days):
    d = data()
    years = jaxlmm.lmm("y ~ 1", d, residual="ou(t | g)")
    for unit in (1.0, days):
        found = jaxlmm.lmm("y ~ 1", d.assign(t=d.t * unit), residual="car1(t | g)")
        assert found.status == "converged" and abs(found.loglik - years.loglik) < 1e-6
        assert found.certificate.iterations < 35
        scale, correlation = (fit.parameters()["estimate"].to_numpy()[-1] for fit in (years, found))
        assert -1.0 / np.log(correlation) == pytest.approx(unit * scale, rel=1e-4)


def test_refits_of_a_variance_function_are_the_fits():
    d = data()
    fit = jaxlmm.lmm("exp ~ 1", d.assign(z=d.z + 100), variance="exp(z)")
    Y = np.stack([d.exp, d.exp[::-1], d.exp + d.z])
    batch = fit.refit(Y)
    for row, y in enumerate(Y):
        assert batch.loglik[row] == pytest.approx(fit.refit(y).loglik, abs=1e-8)


def test_times_too_short_for_a_correlation_over_one_unit_are_refused():
    with pytest.raises(JaxlmmError, match="smaller unit"):
        jaxlmm.lmm("y ~ 1", data().assign(t=lambda d: d.t * 1e-3), residual="car1(t | g)")
