"""`jaxlmm.fit`: a fit as a pure function, equal to the host-driven one and differentiable in the data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import batches
import jaxlmm
from cases import some
from jaxlmm import Status
from jaxlmm.covariance import OrnsteinUhlenbeck
from jaxlmm.fitting import estimate as fitting

KINDS = ("one-way", "uneven slopes", "crossed", "residual")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def regular(kind):
    """A data set whose estimates are not on the boundary."""
    single = batches.singles(kind)
    i = next(i for i, one in enumerate(single) if not any(one.boundary))
    return batches.design(kind), batches.responses(kind)[i], single[i]


@pytest.mark.parametrize("kind", some(KINDS, "crossed"))
def test_equals_the_host_driven_fit(kind):
    model, y, single = regular(kind)
    found = jax.jit(lambda y: jaxlmm.fit(model.replace(y=y)))(y)
    assert int(found.status) == Status.CONVERGED
    assert float(found.loglik) == pytest.approx(single.loglik, abs=1e-8)
    np.testing.assert_allclose(np.exp(found.theta), np.exp(single.theta), rtol=1e-6)
    np.testing.assert_allclose(found.coef, single.coef, rtol=1e-6)
    np.testing.assert_allclose(found.vcov, single.vcov, rtol=1e-6)
    np.testing.assert_allclose(found.min_eigenvalue, single.min_eigenvalue, rtol=1e-4)
    assert not found.boundary.any() and not any(single.boundary)
    np.testing.assert_allclose(found.se, single.se, rtol=1e-6)


@pytest.mark.parametrize("kind", some(KINDS, "residual"))
def test_derivatives_in_the_response_are_those_of_refits(kind):
    model, y, _ = regular(kind)

    def estimates(y):
        found = jaxlmm.fit(model.replace(y=y))
        return jnp.concatenate([found.coef, jnp.exp(found.theta), found.loglik[None]])

    def refitted(y):
        one = fitting.estimate(model.replace(y=y))
        return np.concatenate([one.coef, np.exp(one.theta), [one.loglik]])

    direction, h = np.random.default_rng(0).normal(size=len(y)), 1e-4
    expected = (refitted(y + h * direction) - refitted(y - h * direction)) / (2 * h)
    forward = jax.jit(lambda y: jax.jvp(estimates, (y,), (direction,))[1])(y)
    np.testing.assert_allclose(forward, expected, atol=1e-6 * np.abs(expected).max())
    if kind == "uneven slopes":
        np.testing.assert_allclose(jax.jit(jax.jacrev(estimates))(y) @ direction, forward, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_second_derivatives_and_derivatives_in_the_design():
    model, y, _ = regular("uneven slopes")
    direction = np.linspace(-1, 1, len(y))

    def slope(t):
        return jaxlmm.fit(model.replace(y=y + t * direction)).coef[1]

    def moved(t):
        X = model.X + t * direction[:, None] * np.array([0.0, 1.0])
        return jaxlmm.fit(model.replace(y=y, X=X)).theta[0]

    first = jax.jit(jax.grad(slope))
    h = 1e-3
    assert float(jax.grad(first)(0.0)) == pytest.approx(float(first(h) - first(-h)) / (2 * h), rel=1e-4, abs=1e-9)
    assert float(jax.grad(moved)(0.0)) == pytest.approx(float(moved(h) - moved(-h)) / (2 * h), rel=1e-4)


def test_a_variance_of_zero_stays_there():
    kind = "one-way"
    i = next(i for i, one in enumerate(batches.singles(kind)) if any(one.boundary))
    model, y = batches.design(kind), batches.responses(kind)[i]
    slopes = jax.jit(lambda y: jax.jvp(lambda y: jaxlmm.fit(model.replace(y=y)), (y,), (jnp.ones_like(y),)))
    found, change = slopes(jnp.asarray(y))
    assert float(found.theta[0]) == -np.inf and float(found.covariances[0][0, 0]) == 0.0
    assert float(change.covariances[0][0, 0]) == 0.0 and found.boundary.tolist() == [True] and bool(found.singular)
    assert all(np.isfinite(leaf).all() for leaf in (change.coef, change.theta, change.loglik, change.vcov))


def test_vmap_over_data_sets():
    kind = "uneven slopes"
    model, Y = batches.design(kind), batches.responses(kind)[:8]
    found = jax.jit(jax.vmap(lambda y: jaxlmm.fit(model.replace(y=y))))(Y)
    np.testing.assert_allclose(found.loglik, batches.batch(kind).loglik[:8], atol=1e-7)


@pytest.mark.slow
def test_an_optax_transformation():
    model, y, single = regular("uneven slopes")
    found = jaxlmm.fit(model.replace(y=y), optimizer=optax.lbfgs(), max_iterations=500)
    assert int(found.status) == Status.CONVERGED
    assert float(found.loglik) == pytest.approx(single.loglik, abs=1e-8)
    stopped = jaxlmm.fit(model.replace(y=y), optimizer=optax.adam(1e-3), max_iterations=3)
    assert int(stopped.status) == Status.MAX_ITERATIONS


def test_misuse_gets_one_sentence():
    model = batches.design("one-way")
    with pytest.raises(jaxlmm.DataError, match="optimizer"):
        jaxlmm.fit(model, optimizer="lbfgs")
    with pytest.raises(jaxlmm.DataError, match="method"):
        jaxlmm.fit(model, method="ml")
    with jax.enable_x64(False), pytest.raises(jaxlmm.Float64RequiredError):
        jaxlmm.fit(model)


SHARDED = ("grouped", "crossed", "marginal", "spectral", "dense")


def sharded_model(engine):
    rng = np.random.default_rng(0)
    n, g, one = 24, np.repeat(np.arange(6), 4), np.ones(24)
    X = np.column_stack([one, np.tile(np.arange(4.0), 6)])
    terms = {
        "crossed": [jaxlmm.Term(one, g), jaxlmm.Term(one, np.tile(np.arange(4), 6))],
        "spectral": [jaxlmm.Term(one, g, relationship=np.eye(6) + 0.3)],
        "marginal": [],
    }.get(engine, [jaxlmm.Term(one, g)])
    residual = jaxlmm.Residual(OrnsteinUhlenbeck(), g, coords=X[:, 1]) if engine == "marginal" else None
    return jaxlmm.Model(rng.normal(size=n) + rng.normal(size=6)[g], X, terms, residual, engine=engine)


@pytest.mark.slow
@pytest.mark.parametrize("engine", SHARDED)
def test_fits_of_shards(engine):
    model = sharded_model(engine)

    def fits(Y):
        return jax.vmap(lambda y: jaxlmm.fit(model.replace(y=y)).loglik)(Y)

    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec, Y = jax.sharding.PartitionSpec("d"), np.stack([model.y, model.y[::-1]])
    lowered = jax.jit(jax.shard_map(fits, mesh=mesh, in_specs=spec, out_specs=spec)).lower(Y)
    assert "all_reduce" not in lowered.as_text()  # in a loop whose length differs between devices it waits for ever
    np.testing.assert_allclose(lowered.compile()(Y), jax.jit(fits)(Y), rtol=1e-10)


TWO_DEVICES = """
import sys
import jax, numpy as np
import jaxlmm
sys.path[:0] = [{tests!r}, {here!r}]
from test_traceable import sharded_model
jax.config.update("jax_enable_x64", True)
mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
lanes = jax.sharding.PartitionSpec("d")
for engine, slope in (("dense", False), ("crossed", True), ("grouped", True)):
    model = sharded_model(engine)
    loglik = lambda y: jaxlmm.fit(model.replace(y=y)).loglik
    one = jax.vmap(jax.grad(loglik) if slope else loglik)
    Y = np.stack([model.y, model.y[::-1], model.y + 1.0, np.cos(np.arange(24.0))])  # runs of different lengths
    program = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=lanes, out_specs=lanes)).lower(Y)
    assert "all_reduce" not in program.as_text()
    np.testing.assert_allclose(program.compile()(Y), jax.jit(one)(Y), rtol=1e-9, atol=1e-9)
    print(engine)
"""


@pytest.mark.slow
def test_shards_on_two_devices_run_loops_of_their_own():
    """Nothing is communicated, so no device waits for another; what takes long is to compile."""
    here = Path(__file__).parent
    code = TWO_DEVICES.format(tests=str(here.parent), here=str(here))
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": flags}
    )
    assert done.stdout.split() == ["dense", "crossed", "grouped"], done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("engine", SHARDED)
def test_derivatives_under_strict_promotion(engine):
    model, theta = sharded_model(engine), np.zeros(sharded_model(engine).size)
    fit, reml = jax.jit(lambda y: jaxlmm.fit(model.replace(y=y)).loglik), jax.jit(jaxlmm.reml)
    expected = jax.grad(fit)(model.y), jax.hessian(reml)(theta, model)
    jax.clear_caches()
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        # compiled functions are differentiated after they have been traced, where the caller's settings count
        found = jax.grad(fit)(model.y), jax.hessian(reml)(theta, model)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
