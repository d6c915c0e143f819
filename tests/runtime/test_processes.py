"""Processes, and the settings of JAX of the program around: fits work, or say at once that they cannot."""

from __future__ import annotations

import multiprocessing as mp
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxlmm

SLEEP = "Reaction ~ Days + (Days | Subject)"
LOGLIK = -871.814135979  # lme4
SCRIPT = """
import multiprocessing as mp, sys
import jaxlmm

def fitted(_):
    return jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", jaxlmm.datasets.load("sleepstudy", "dict")).loglik

if __name__ == "__main__":
    how, before = sys.argv[1:]
    if before == "fit":
        fitted(0)
    with mp.get_context(how).Pool(1) as pool:
        try:
            print(pool.map(fitted, range(1)))
        except jaxlmm.JaxlmmError as error:
            print("refused:", error)
"""
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


def pool(tmp_path, how, before):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    done = subprocess.run([sys.executable, path, how, before], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_fork
def test_a_process_forked_after_a_fit_says_so_and_does_not_wait(tmp_path):
    printed = pool(tmp_path, "fork", "fit")
    assert printed.startswith("refused: this process was forked") and "'spawn'" in printed and "study" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "before"),
    [
        pytest.param("fork", "nothing", marks=needs_fork),
        ("spawn", "fit"),
        pytest.param("forkserver", "fit", marks=needs_fork),
    ],
)
def test_processes_that_work(tmp_path, how, before):
    assert float(pool(tmp_path, how, before).strip("[]\n")) == pytest.approx(LOGLIK, abs=1e-8)


def _refused(name, do, answers):
    try:
        do()
        answers.put((name, "ran"))
    except jaxlmm.JaxlmmError as error:
        answers.put((name, str(error)))


@needs_fork
@pytest.mark.filterwarnings("ignore:os.fork")
def test_every_door_of_a_forked_process_is_refused(tmp_path):
    with jax.enable_x64(True):
        fit = jaxlmm.lmm(SLEEP, jaxlmm.datasets.load("sleepstudy"))
        model, theta = fit.model, fit.theta
    fit.save(tmp_path / "fit")
    doors = {
        "lmm": lambda: jaxlmm.lmm(SLEEP, jaxlmm.datasets.load("sleepstudy")),
        "load": lambda: jaxlmm.load(tmp_path / "fit"),
        "refit": lambda: fit.refit(np.stack([fit.frame.y] * 2)),
        "bootstrap": lambda: fit.bootstrap(3),
        "simulate": lambda: fit.simulate(2),
        "kenward-roger": lambda: fit.tidy(df="kenward-roger"),
        "profile": lambda: fit.confint(method="profile"),
        "reml": lambda: jaxlmm.reml(theta, model),
        "gram": lambda: jaxlmm.gram(theta, model),
        "fit": lambda: jaxlmm.fit(model),
        "powers": lambda: jaxlmm.powers(0.5, np.arange(3.0)),
    }
    context = mp.get_context("fork")
    for name, do in doors.items():
        answers = context.SimpleQueue()
        child = context.Process(target=_refused, args=(name, do, answers), daemon=True)
        child.start()
        child.join(60)
        if child.is_alive():
            child.kill()
            pytest.fail(f"{name} waits for ever")
        assert "forked" in answers.get()[1], name


# ---------------------------------------------------------------------------- settings of JAX


def small():
    rng = np.random.default_rng(1)
    g, v = np.repeat(np.arange(8), 6), np.tile(np.arange(6), 8)
    x, e = rng.normal(size=(2, 48))
    y = x + rng.normal(size=8)[g] + e
    kin = rng.normal(size=(8, 8))
    table = {
        "y": y,
        "x": x,
        "g": g,
        "v": v,
        "f": np.array(list("abc"))[rng.integers(0, 3, 48)],
        "h": rng.integers(0, 4, 48),
    }
    return pd.DataFrame(table), pd.DataFrame(kin @ kin.T + 8 * np.eye(8), index=range(8), columns=range(8))


MODELS = {
    "grouped": ("y ~ x + (x | g)", {}),
    "crossed": ("y ~ x + (1 | g) + (1 | h)", {}),
    "marginal": ("y ~ x", {"residual": "ar1(v | g)"}),
    "dense": ("y ~ x + (1 | g)", {"engine": "dense"}),
    "spectral": ("y ~ x + (1 | g)", {"relationship": True}),
    "iterative": ("y ~ x + (1 | g) + (1 | h)", {"engine": "iterative"}),
}
SETTINGS = {
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
    "jax_transfer_guard": "disallow",
}


@pytest.fixture
def strict():
    """A program that is strict with itself."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax.clear_caches()
    for name, value in SETTINGS.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def numbers(engine):
    data, kin = small()
    formula, options = MODELS[engine]
    options = {k: {"g": kin} if k == "relationship" else v for k, v in options.items()}
    fit = jaxlmm.lmm(formula, data, **options)
    out = [fit.loglik, *fit.coef, *fit.tidy()["std_error"], *np.ravel(fit.fitted)]
    if engine != "iterative":
        out += [*fit.tidy(df="kenward-roger")["df"], *fit.predict(data.head(3), interval="prediction")["std_error"]]
        out += [*fit.refit(fit.simulate(2, seed=1)).loglik, *fit.bootstrap(2).se]
    return np.array(out, float)


def test_the_settings_are_strict(strict):
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.add(jax.device_put(np.ones((2, 2), np.float32)), jax.device_put(np.ones(2, np.float32)))
    with pytest.raises(Exception, match="host-to-device"):
        jnp.sin(np.ones(2, np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("engine", MODELS)
def test_fits_work_under_strict_settings(engine, strict):
    found = numbers(engine)
    for name, value in dict(zip(SETTINGS, ("allow", "standard", "allow"), strict=True)).items():
        jax.config.update(name, value)
    np.testing.assert_allclose(found, numbers(engine), rtol=1e-9)


def test_the_pure_layer_works_under_strict_settings(strict):
    data, _ = small()
    with jax.enable_x64(True):
        fit = jaxlmm.lmm("y ~ x + (1 | g)", data)
        value, slope = jax.jit(jax.value_and_grad(jaxlmm.reml))(jax.device_put(fit.theta), jax.device_put(fit.model))
        assert float(value) == pytest.approx(fit.loglik, abs=1e-9)
        assert np.all(np.abs(jax.device_get(slope)) < 1e-4)
