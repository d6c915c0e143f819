"""The device of a scope does all of the work: counted with three virtual ones, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORK = """
import warnings

import jax
import jax._src.interpreters.pxla as pxla
import numpy as np

import jaxlmm

run, places = pxla.ExecuteReplicated.__call__, set()


def counted(self, *args, **kwargs):
    found = run(self, *args, **kwargs)
    places.update(d.id for leaf in jax.tree_util.tree_leaves(found) for d in leaf.devices())
    return found


pxla.ExecuteReplicated.__call__ = counted
warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
g, c, x = np.repeat(np.arange(12), 5), np.tile(np.arange(6), 10), rng.normal(size=60)
y = rng.normal(size=60) + rng.normal(size=12)[g]
data, Y = {"y": y, "x": x, "g": g, "c": c}, rng.normal(size=(40, 60))
model = jaxlmm.Model(y, np.column_stack([np.ones(60), x]), [jaxlmm.Term(np.ones(60), g)])
tests = jaxlmm.Tests([[0, 1]], df=("satterthwaite",))


def pure():
    with jax.enable_x64(True):
        return jaxlmm.fit(model).loglik


with jax.default_device(jax.devices()[2]):
    fit = jaxlmm.lmm("y ~ x + (1 | g)", data)
    for name, work in {
        "lmm": lambda: fit.test("x", df="kenward-roger").rows,
        "predictions": lambda: (fit.ranef(), fit.predict(data)),
        "refit": lambda: fit.refit(Y, tests=tests),
        "fit_batch": lambda: jaxlmm.fit_batch([model, model.replace(y=2 * y)]),
        "statistics": lambda: fit.statistics().fit(Y),
        "scan": lambda: fit.scan(rng.normal(size=(5, 60)), Y[:3]),
        "permutation": lambda: fit.permutation([0, 1], Y[:3], n=20, within="g", seed=1),
        "bootstrap": lambda: fit.bootstrap(5, seed=1),
        "fit": pure,
        "crossed": lambda: jaxlmm.lmm("y ~ x + (1 | g) + (1 | c)", data),
        "iterative": lambda: jaxlmm.lmm("y ~ x + (1 | g) + (1 | c)", data, engine="iterative"),
    }.items():
        work()
        print(name, sorted({*places, *(d.id for a in jax.live_arrays() for d in a.devices())}), flush=True)
"""


@pytest.mark.slow
def test_everything_runs_on_the_device_of_a_scope():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=3"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", WORK], env=environment, capture_output=True, text=True, timeout=900)
    lines = done.stdout.splitlines()
    assert len(lines) == 11, done.stderr[-2000:]
    assert all(line.endswith("[2]") for line in lines), lines
