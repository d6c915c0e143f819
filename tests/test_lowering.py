"""Programs of the package lower for CUDA and TPU, without either at hand (`jax.export`)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cases import some
from jaxlmm import Field, Model, Residual, Term, Unstructured, pure
from jaxlmm.covariance import Autoregressive, OrnsteinUhlenbeck

PLATFORMS = ("cuda", "tpu")


@functools.cache
def model(kind):
    rng = np.random.default_rng(0)
    n, g, t = 24, np.repeat(np.arange(6), 4), np.tile(np.arange(4), 6)
    one, X = np.ones(n), np.column_stack([np.ones(n), rng.normal(size=n)])
    random, residual, engine = {
        "grouped": ([Term(X, g)], None, "grouped"),
        "nested": ([Term(one, g), Term(one, g // 2)], None, "grouped"),
        "crossed": ([Term(one, g), Term(one, t)], None, "crossed"),
        "visits": ([], Residual(Unstructured(), g, t), "marginal"),
        "times": ([Field(OrnsteinUhlenbeck(), g, coords=t * 1.0)], None, "marginal"),
        "terms and visits": ([Term(one, t % 2)], Residual(Autoregressive(), g, t), "marginal"),
        "spectral": ([Term(one, g, relationship=np.eye(6) + 0.3)], None, "spectral"),
        "dense": ([Term(X, g, relationship=np.eye(6) + 0.3)], None, "dense"),
    }[kind]
    return Model(rng.normal(size=n) + rng.normal(size=6)[g], X, random, residual, engine=engine)


def of_data(f):
    return lambda theta, y, m: f(theta, m.replace(y=y))


PROGRAMS = {
    "reml": of_data(pure.reml),
    "gradient": of_data(jax.grad(pure.reml)),
    "hessian": of_data(jax.hessian(pure.reml)),
    "solve": lambda theta, y, m: pure.solve(theta, m, y),
    "blup": of_data(pure.blup),
    "posterior": of_data(lambda theta, m: pure.posterior_sample(jax.random.key(0), theta, m)),
    "simulate": of_data(lambda theta, m: pure.simulate(jax.random.key(0), theta, jnp.zeros(2), m)),
    "fit": of_data(lambda theta, m: pure.fit(m)),
    "fits": lambda theta, y, m: jax.vmap(lambda y: pure.fit(m.replace(y=y)).coef)(jnp.stack([y, 2.0 * y])),
    "prior": of_data(lambda theta, m: pure.fit(m, prior=lambda theta, blocks: -jnp.sum(theta**2))),
    "first order": of_data(lambda theta, m: pure.fit(m, optimizer=optax.lbfgs())),
    "slopes of a fit": lambda theta, y, m: jax.jacrev(lambda y: pure.fit(m.replace(y=y)).coef)(y),
}
KINDS = ("grouped", "nested", "crossed", "visits", "times", "terms and visits", "spectral", "dense")
EVERY = [(program, kind) for kind in KINDS for program in PROGRAMS]
QUICK = [
    ("gradient", "terms and visits"), ("gradient", "spectral"), ("fit", "grouped"), ("solve", "crossed"),
    ("blup", "dense"), ("posterior", "times"),
]  # fmt: skip


@pytest.mark.parametrize(("program", "kind"), some(EVERY, *QUICK))
def test_programs_lower_for_accelerators(program, kind):
    m, f = model(kind), PROGRAMS[program]
    with jax.enable_x64(True):
        found = jax.export.export(jax.jit(lambda theta, y: f(theta, y, m)), platforms=PLATFORMS)(np.zeros(m.size), m.y)
        assert found.platforms == PLATFORMS and found.nr_devices == 1
