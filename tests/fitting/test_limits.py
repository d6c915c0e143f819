"""At the limits: large designs, misspelt options, the compile cache, awkward groups, structured residuals, saddles."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
import oracle
from cases import some
from jaxlmm.errors import DataError, JaxlmmError
from jaxlmm.fitting.boundary import MAX_ITERATIONS
from jaxlmm.fitting.estimate import estimate
from jaxlmm.fitting.newton import Status, minimise
from jaxlmm.fitting.objective import Spec, objective, packing_of, scale_of
from jaxlmm.likelihood.engines.dense import MAX_DENSE_ROWS
from jaxlmm.likelihood.engines.layout import MAX_STACKED, MAX_STATISTICS, plan
from jaxlmm.likelihood.engines.orthogonal import fine
from jaxlmm.likelihood.prepared import prepare

ENGINES = ("grouped", "dense")


def close(found, expected, rtol):
    """Relative to the largest entry, as fits a gradient or Hessian."""
    assert np.max(np.abs(np.asarray(found) - expected)) <= rtol * np.max(np.abs(expected))


# ---------------------------------------------------------------------------- designs too large


def crossing(first, second):
    """Codes of two factors of so many levels whose design is connected; `first` has more."""
    i = np.arange(first, dtype=np.int32)
    return (np.r_[i, i], np.r_[i % second, (i + 1) % second]), (first, second), 2 * first


def test_the_largest_crossing_is_accepted_and_the_next_refused():
    groups, levels, n = crossing(MAX_STACKED + 200, MAX_STACKED)
    layout = plan(groups, levels, (1, 1), n)
    assert (layout.components, layout.copies) == (1, (fine(MAX_STACKED),))
    groups, levels, n = crossing(MAX_STACKED + 200, MAX_STACKED + 1)
    with pytest.raises(DataError) as caught:
        plan(groups, levels, (1, 1), n)
    message = str(caught.value)
    for word in ("random terms", str(MAX_STACKED + 200), str(MAX_STACKED + 1), f"at most {MAX_STACKED}", "subset"):
        assert word in message


def test_several_effects_a_level_count_each():
    groups, levels, n = crossing(MAX_STACKED, MAX_STACKED // 2)
    assert plan(groups, levels, (1, 2), n).components == 1
    with pytest.raises(DataError, match=str(3 * (MAX_STACKED // 2))):
        plan(groups, levels, (1, 3), n)


def test_statistics_that_would_not_fit_in_memory_are_refused():
    stacked = MAX_STACKED // 2
    first = int(MAX_STATISTICS / stacked / 2) + 1  # two rows a level
    groups, levels, n = crossing(first, stacked)
    with pytest.raises(DataError, match="rows"):
        plan(groups, levels, (1, 1), n)


def test_nested_factors_have_no_such_limit():
    outer = 4 * MAX_STACKED
    inner = np.repeat(np.arange(3 * outer, dtype=np.int32), 2)
    layout = plan((inner // 3, inner), (outer, 3 * outer), (2, 1), len(inner))
    assert (layout.components, layout.copies, layout.inner) == (fine(outer), (1,), (1,))


def long_data(n=MAX_DENSE_ROWS + 1):
    rng = np.random.default_rng(0)
    return {"y": rng.normal(size=n), "x": rng.normal(size=n), "g": np.arange(n) % 50}


def test_the_dense_engine_refuses_what_would_not_be_sensible():
    data = long_data()
    X = np.column_stack([np.ones(MAX_DENSE_ROWS + 1), data["x"]])
    term = jaxlmm.Term(X, data["g"])
    words = rf"engine: 'dense'.*{MAX_DENSE_ROWS} rows.*{MAX_DENSE_ROWS + 1}"
    with pytest.raises(DataError, match=words):
        jaxlmm.Model(data["y"], X, random=[term], engine="dense")
    with pytest.raises(DataError, match=words):
        jaxlmm.lmm("y ~ x + (x | g)", data, engine="dense")
    assert jaxlmm.Model(data["y"], X, random=[term]).engine == "grouped"
    residual = jaxlmm.Residual(jaxlmm.covariance.CompoundSymmetry(), data["g"], np.arange(MAX_DENSE_ROWS + 1) // 50)
    field = jaxlmm.Field(jaxlmm.covariance.Exponential(), coords=data["x"])
    with pytest.raises(DataError, match=f"{MAX_DENSE_ROWS + 1} rows depend on each other"):
        jaxlmm.Model(data["y"], X, random=[term, field])
    assert jaxlmm.Model(data["y"], X, random=[term], residual=residual).engine == "marginal"
    assert jaxlmm.Model(data["y"], X, residual=residual).engine == "marginal"


# ---------------------------------------------------------------------------- options


def short_data():
    rng = np.random.default_rng(1)
    codes = np.repeat(np.arange(6), 4)
    x = rng.normal(size=24)
    return {"y": x + rng.normal(size=6)[codes] + rng.normal(size=24), "x": x, "g": codes}


def test_the_grouped_engine_refuses_a_residual_structure():
    data = short_data()
    residual = jaxlmm.Residual(jaxlmm.covariance.CompoundSymmetry(), data["g"], np.arange(24) % 4)
    with pytest.raises(DataError, match="engine: 'grouped'.*residual.*'marginal'"):
        jaxlmm.Model(data["y"], np.ones((24, 1)), residual=residual, engine="grouped")
    term = jaxlmm.Term(np.ones(24), data["g"])
    assert jaxlmm.Model(data["y"], np.ones((24, 1)), [term], residual).engine == "marginal"
    with pytest.raises(JaxlmmError, match="residual must be text"):
        jaxlmm.lmm("y ~ x + (1 | g)", data, residual=residual)


@pytest.mark.parametrize("engine", ["Grouped", "densse", "", None])
def test_a_misspelt_engine(engine):
    data = short_data()
    expected = f"engine: found {engine!r}, expected one of auto, crossed, dense, grouped"
    with pytest.raises(DataError, match=expected):
        jaxlmm.Model(data["y"], np.ones((24, 1)), random=[jaxlmm.Term(np.ones(24), data["g"])], engine=engine)
    with pytest.raises(DataError, match=expected):
        jaxlmm.lmm("y ~ x + (1 | g)", data, engine=engine)


@pytest.mark.parametrize("method", ["reml", "RMEL", "", None])
def test_a_misspelt_method(method):
    data = short_data()
    model = jaxlmm.Model(data["y"], np.ones((24, 1)), random=[jaxlmm.Term(np.ones(24), data["g"])])
    expected = f"method: found {method!r}, expected 'REML' or 'ML'"
    with pytest.raises(DataError, match=expected):
        jaxlmm.lmm("y ~ x + (1 | g)", data, method=method)
    with pytest.raises(DataError, match=expected):
        estimate(model, method)


class Steps(jaxlmm.Covariance):
    """A user's structure: variances 1, 2, 3, ... times one, correlations that decay."""

    variance: jaxlmm.Variance
    decay: Annotated[jax.Array, jaxlmm.interval(0.0, 1.0)]

    def matrix(self, levels):
        first, second = levels[:, None], levels[None, :]
        return self.variance * (1 + jnp.minimum(first, second)) * (1 - self.decay) ** abs(first - second)


def test_a_structure_of_ones_own():
    """It can be fitted by formula, and its optimum is one of the textbook likelihood."""
    rng = np.random.default_rng(5)
    codes, t = np.repeat(np.arange(25), 6), np.tile(np.arange(6) // 2, 25)
    Z = np.eye(3)[t]
    G = np.asarray(Steps(variance=2.0, decay=0.5).matrix(np.arange(3)))
    effects = rng.multivariate_normal(np.zeros(3), G, size=25)
    data = {"y": effects[codes, t] + rng.normal(size=150), "t": np.array(list("abc"))[t], "g": codes}
    fit = jaxlmm.lmm("y ~ t + steps(0 + t | g)", data, structures={"steps": Steps})
    assert fit.converged

    def textbook(theta):
        structure = Steps(variance=np.exp(2 * theta[0]), decay=0.5 * (1 + np.tanh(theta[1])))
        G = np.asarray(structure.matrix(np.arange(3)))
        X = np.column_stack([np.ones(150), Z[:, 1:]])
        return oracle.loglik(oracle.marginal([(Z, codes, G)], np.exp(theta[2]), 150), data["y"], X)

    assert textbook(fit.theta) == pytest.approx(fit.loglik, abs=1e-8)
    assert not fit.singular
    assert np.max(np.abs(oracle.gradient(textbook, fit.theta))) < 1e-4


# ---------------------------------------------------------------------------- the compile cache

ENABLE = "import sys, jaxlmm; print(jaxlmm.enable_compilation_cache(*sys.argv[1:]))"
FIT = """
data = {"y": [1.0, 2.5, 2.0, 4.0, 0.5, 1.0], "g": [0, 0, 1, 1, 2, 2]}
assert jaxlmm.lmm("y ~ 1 + (1 | g)", data).converged
"""


def fresh_process(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )
    return done.returncode, done.stdout.strip(), done.stderr


needs_modes = pytest.mark.skipif(not hasattr(os, "getuid"), reason="no POSIX permissions")


@needs_modes
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_cache_that_others_can_write_to_is_refused(tmp_path, mode):
    before = jax.config.jax_compilation_cache_dir
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(JaxlmmError, match="written to by others") as caught:
        jaxlmm.enable_compilation_cache(folder)
    assert str(folder) in str(caught.value)
    assert jax.config.jax_compilation_cache_dir == before
    assert not list(folder.iterdir())


@needs_modes
@pytest.mark.parametrize(
    ("mode", "good"),
    some([(0o777, False), (0o770, False), (0o1777, True), (0o755, True)], (0o1777, True)),
)
def test_a_cache_below_a_folder_that_others_can_write_to(tmp_path, mode, good):
    """Whoever can write to a folder can put another one in place of one in it, unless the sticky bit forbids that."""
    folder = tmp_path / "above" / "between" / "cache"
    folder.parent.mkdir(parents=True)
    (tmp_path / "above").chmod(mode)
    (tmp_path / "link").symlink_to(folder.parent)
    for path in (folder, tmp_path / "link" / "cache"):
        status, printed, errors = fresh_process(ENABLE, path)
        if good:
            assert (status, printed) == (0, str(folder)), errors
        else:
            assert status == 1 and f"{folder} is below {tmp_path / 'above'}, which can be written to" in errors
            assert not folder.exists()


@needs_modes
def test_the_cache_is_private_and_holds_the_compiled_code_of_a_fit(tmp_path):
    folder = tmp_path / "cache"
    status, printed, errors = fresh_process("import os; os.umask(0)\n" + ENABLE + FIT, folder)
    assert (status, printed) == (0, str(folder)), errors
    assert folder.stat().st_mode & 0o777 == 0o700
    entries = {path.name for path in folder.iterdir()}
    assert entries
    status, _, errors = fresh_process(ENABLE + FIT, folder)
    assert status == 0, errors
    assert {path.name for path in folder.iterdir() if not path.name.endswith("atime")} <= entries


@needs_modes
def test_the_default_cache_is_a_folder_of_the_user(tmp_path):
    status, printed, errors = fresh_process(ENABLE, XDG_CACHE_HOME=str(tmp_path))
    assert status == 0, errors
    (folder,) = (tmp_path / "jaxlmm").iterdir()
    assert printed == str(folder)
    assert "jaxlib" in folder.name
    assert folder.stat().st_mode & 0o777 == 0o700


# ---------------------------------------------------------------------------- awkward groups


def awkward(name):
    """A random-slope design (y, X, codes) in which some or all groups say nothing about their slope."""
    rng = np.random.default_rng(7)
    n = 18
    codes = np.repeat(np.arange(6), 3)
    x = rng.normal(size=n)
    if name == "single rows":
        codes = np.arange(n)
    elif name == "some single rows":
        codes = np.r_[np.repeat([0, 1, 2], [6, 4, 4]), 3, 4, 5, 6]
    elif name == "covariate constant within groups":
        x = rng.normal(size=6)[codes]
    elif name == "covariate constant in one group":
        x[codes == 2] = 0.7
    elif name == "covariate zero in groups":
        x[codes < 3] = 0.0
    return x + rng.normal(size=n), np.column_stack([np.ones(n), x]), codes


AWKWARD = (
    "single rows",
    "some single rows",
    "covariate constant within groups",
    "covariate constant in one group",
    "covariate zero in groups",
)


@functools.cache
def derivatives():
    """(theta, model) -> value, gradient, Hessian; the model is traced, its statistics are part of the program."""

    def slopes(theta, model):
        value, gradient = jax.value_and_grad(jaxlmm.reml)(theta, model)
        return gradient, (value, gradient)

    def everything(theta, model):
        hessian, (value, gradient) = jax.jacfwd(slopes, has_aux=True)(theta, model)
        return value, gradient, hessian

    return jax.jit(everything)


@pytest.mark.parametrize(
    ("name", "engine"),
    some([(name, engine) for engine in ENGINES for name in AWKWARD], ("single rows", "grouped")),
)
def test_groups_that_say_nothing_about_their_slope(name, engine):
    """Textbook value, gradient and Hessian inside; finite ones where variances are zero, and in the data."""
    y, X, codes = awkward(name)
    model = jaxlmm.Model(y, X, random=[jaxlmm.Term(X, codes)], engine=engine)

    def textbook(theta):
        L = oracle.relative_factor(theta[:3], 2)
        L[np.diag_indices(2)] = np.exp(np.diag(L))
        return oracle.loglik(oracle.marginal([(X, codes, L @ L.T)], np.exp(theta[3]), len(y)), y, X)

    inside = np.array([0.1, 0.4, -0.5, -0.2])
    concrete = jax.jit(lambda t: derivatives().__wrapped__(t, model))
    for value, gradient, hessian in (concrete(inside), derivatives()(inside, model)):
        assert float(value) == pytest.approx(textbook(inside), abs=1e-9)
        close(gradient, oracle.gradient(textbook, inside), 1e-7)
        close(hessian, oracle.hessian(textbook, inside), 1e-5)
    for theta in ([-np.inf, 0, -np.inf, 0], [0.1, 0.3, -np.inf, 0], [-np.inf, 0, 0.2, 0], [8, 3, -9, -3]):
        theta = np.array(theta, float)
        for found in (concrete(theta), derivatives()(theta, model)):
            assert all(np.all(np.isfinite(f)) for f in found), (theta, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", AWKWARD[1:])
def test_fits_of_awkward_groups_end_with_finite_numbers(name):
    y, X, codes = awkward(name)
    fit = jaxlmm.lmm("y ~ x + (x | g)", {"y": y, "x": X[:, 1], "g": codes})
    assert fit.converged
    assert np.all(np.isfinite(fit.vcov))
    assert np.all(np.isfinite(fit.ranef()["g"].values))
    assert fit.loglik > oracle.best_loglik(X, codes, y, X) - 1e-6


# ---------------------------------------------------------------------------- residual structures


@functools.cache
def repeated(seed=3, effect=1.0):
    """y, X, subject, visit: up to four visits of twelve subjects, some missed, rows in disorder."""
    rng = np.random.default_rng(seed)
    subject, visit = np.divmod(np.arange(48), 4)
    keep = rng.permutation(48)[:41]
    subject, visit = subject[keep], visit[keep]
    x = rng.normal(size=41)
    y = 1 + x + effect * rng.normal(size=12)[subject] + rng.normal(size=41)
    return y, np.column_stack([np.ones(41), x]), subject, visit


def compound(theta, subject, weights=None):
    """V of the residual structure at its public parameters, four positions."""
    low = -1 / 3
    rho = low + (1 - low) * 0.5 * (1 + np.tanh(theta[1]))
    same = subject[:, None] == subject[None, :]
    V = np.exp(2 * theta[0]) * np.where(np.eye(len(subject), dtype=bool), 1.0, np.where(same, rho, 0.0))
    return V if weights is None else V / np.sqrt(np.outer(weights, weights))


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["reml", "ml"])
@pytest.mark.parametrize("case", ["alone", "weights", "beside a random slope"])
def test_derivatives_of_a_structured_residual(criterion, case):
    y, X, subject, visit = repeated()
    weights = np.random.default_rng(0).uniform(0.5, 2, len(y)) if case == "weights" else None
    other = np.arange(len(y)) % 5
    random = [jaxlmm.Term(X, other)] if case == "beside a random slope" else []
    residual = jaxlmm.Residual(jaxlmm.covariance.CompoundSymmetry(), subject, visit)
    model = jaxlmm.Model(y, X, random=random, residual=residual, weights=weights)
    assert model.engine == "marginal"

    def textbook(theta):
        V = compound(theta[-2:], subject, weights)
        if random:
            L = oracle.relative_factor(theta[:3], 2)
            L[np.diag_indices(2)] = np.exp(np.diag(L))
            V = V + oracle.marginal([(X, other, L @ L.T)], 0.0, len(y))
        return oracle.loglik(V, y, X, criterion == "reml")

    theta = np.array([0.2, -0.3, -0.4, 0.1, -0.25])[-model.size :]
    f = getattr(jaxlmm, criterion)
    value, gradient, hessian = jax.jit(lambda t: (f(t, model), jax.grad(f)(t, model), jax.hessian(f)(t, model)))(theta)
    assert float(value) == pytest.approx(textbook(theta), abs=1e-9)
    close(gradient, oracle.gradient(textbook, theta), 1e-8)
    close(hessian, oracle.hessian(textbook, theta), 1e-6)
    close(hessian, np.asarray(hessian).T, 1e-12)


@pytest.mark.parametrize(
    ("weights", "method"), some([(w, m) for w in (False, True) for m in ("REML", "ML")], (True, "REML"), (False, "ML"))
)
def test_compound_symmetry_is_the_random_intercept_where_that_is_inside(method, weights):
    y, X, subject, visit = repeated()
    one = np.ones(len(y))
    w = one * 2.0 if weights else None  # equal weights: unequal ones enter the two models differently
    intercept = estimate(jaxlmm.Model(y, X, random=[jaxlmm.Term(one, subject)], weights=w), method)
    residual = jaxlmm.Residual(jaxlmm.covariance.CompoundSymmetry(), subject, visit)
    compound = estimate(jaxlmm.Model(y, X, residual=residual, weights=w), method)
    assert intercept.status == compound.status == Status.CONVERGED
    assert compound.loglik == pytest.approx(intercept.loglik, abs=1e-8)
    np.testing.assert_allclose(compound.coef, intercept.coef, atol=1e-6)
    np.testing.assert_allclose(compound.vcov, intercept.vcov, rtol=1e-5)
    scale = 2.0 if weights else 1.0
    expected = intercept.covariances[0][0, 0] * scale + intercept.sigma**2 * np.eye(4)
    np.testing.assert_allclose(compound.residual, expected, rtol=1e-5)


def test_compound_symmetry_reaches_negative_correlations():
    """Where the random intercept stops at zero the residual structure goes on, to a higher likelihood."""
    y, X, subject, visit = repeated()
    means = np.bincount(subject, y) / np.bincount(subject)
    y = y - 1.1 * means[subject]
    intercept = estimate(jaxlmm.Model(y, X, random=[jaxlmm.Term(np.ones(len(y)), subject)]))
    model = jaxlmm.Model(y, X, residual=jaxlmm.Residual(jaxlmm.covariance.CompoundSymmetry(), subject, visit))
    compound = estimate(model)
    assert intercept.boundary == (True,)
    assert compound.status == Status.CONVERGED
    assert -1 / 3 <= compound.residual[0, 1] / compound.residual[0, 0] < 0
    assert compound.loglik > intercept.loglik + 0.1
    assert float(jaxlmm.reml(compound.theta, model)) == pytest.approx(compound.loglik, abs=1e-8)


# ---------------------------------------------------------------------------- the solver inside compiled code


def slopes_of(seed):
    """Ten responses of one random-slope design with interior optima."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(15), 6)
    x = rng.normal(size=90)
    X = np.column_stack([np.ones(90), x])
    b = rng.normal(size=(8, 15, 2)) * [1.5, 1.0]
    return np.sum(X * b[:, codes], -1) + x + rng.normal(size=(8, 90)), X, codes


def traced_fit(model, method="REML"):
    """y, start -> state of the solver and the best point, all of it JAX."""
    spec = Spec.of(model, method)
    scale = scale_of(spec, prepare(model).basis)
    packing = packing_of(spec, model.X.shape[1])

    def fit(y, s):
        evaluate = objective(spec, prepare(model.replace(y=y)), scale)
        state = minimise(evaluate, packing, s, MAX_ITERATIONS, jnp)
        return state, packing.unpack(state.best)

    return fit, np.concatenate([c.start(dim) for c, dim in spec.parts])


@pytest.mark.slow
@pytest.mark.parametrize("method", some(["REML", "ML"], "REML"))
def test_the_solver_in_compiled_code_ends_where_the_host_s_does(method):
    ys, X, codes = slopes_of(0)
    model = jaxlmm.Model(ys[0], X, random=[jaxlmm.Term(X, codes)])
    fit, start = traced_fit(model, method)
    state, point = jax.jit(fit)(ys[0], start)
    batch, points = jax.jit(jax.vmap(fit, in_axes=(0, None)))(ys, start)
    assert int(state.status) == Status.CONVERGED
    assert np.all(np.asarray(batch.status) == Status.CONVERGED)
    assert float(point.value) == pytest.approx(float(points.value[0]), abs=1e-9)
    np.testing.assert_allclose(np.abs(point.x), np.abs(points.x[0]), atol=1e-6)
    for lane, y in enumerate(ys):
        alone = estimate(model.replace(y=y), method)
        assert not any(alone.boundary)
        assert -0.5 * float(points.value[lane]) == pytest.approx(alone.loglik, abs=1e-9)
        L = np.zeros((2, 2))
        L[[0, 1, 1], [0, 0, 1]] = points.x[lane] * scale_of(Spec.of(model, method), prepare(model).basis)
        np.testing.assert_allclose(L @ L.T * alone.sigma**2, alone.covariances[0], rtol=1e-5)


SADDLES = {
    "no variance": [0.0, 0.0, 0.0],
    "no slope variance": [1.0, 0.0, 0.0],
    "no intercept variance": [0.0, 0.0, 1.0],
}


@functools.cache
def with_saddles():
    """Best log-likelihood, packing, objective and its minimisation in compiled code."""
    ys, X, codes = slopes_of(1)
    model = jaxlmm.Model(ys[0], X, random=[jaxlmm.Term(X, codes)])
    best = estimate(model)
    assert not any(best.boundary)
    spec, prepared = Spec.of(model, "REML"), prepare(model)
    packing = packing_of(spec, 2)
    evaluate = jax.jit(objective(spec, prepared, scale_of(spec, prepared.basis)))
    compiled = jax.jit(lambda s: minimise(evaluate, packing, s, MAX_ITERATIONS, jnp))
    return best.loglik, packing, evaluate, compiled


@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
@pytest.mark.parametrize("name", SADDLES)
def test_a_saddle_is_left(name, xp):
    """A zero variance is stationary in its own direction; the solver leaves it where the optimum is interior."""
    best, packing, evaluate, compiled = with_saddles()
    saddle = np.array(SADDLES[name])
    first = packing.unpack(np.asarray(evaluate(saddle)))
    zero = saddle == 0
    if name == "no variance":
        assert np.all(first.gradient == 0)  # stationary altogether
    assert first.gradient[2] == 0 or not zero[2]
    if xp is np:
        state = minimise(lambda s: np.asarray(evaluate(s)), packing, saddle, MAX_ITERATIONS, np)
    else:
        state = compiled(saddle)
    assert int(state.status) == Status.CONVERGED
    assert -0.5 * float(packing.unpack(state.best).value) == pytest.approx(best, abs=1e-9)


def test_one_variance_is_left_at_zero_and_found_again():
    """The one-way layout: from a start at zero the solver reaches the ANOVA estimate."""
    rng = np.random.default_rng(2)
    table = rng.normal(size=(8, 5)) + 1.5 * rng.normal(size=(8, 1))
    one = np.ones((40, 1))
    model = jaxlmm.Model(table.ravel(), one, random=[jaxlmm.Term(one, np.repeat(np.arange(8), 5))])
    fit, start = traced_fit(model)
    _, point = jax.jit(fit)(table.ravel(), np.zeros_like(start))
    variance, residual = oracle.one_way_estimates(table)
    assert variance > 0
    assert float(point.x[0]) ** 2 == pytest.approx(variance / residual, rel=1e-6)
    assert -0.5 * float(point.value) == pytest.approx(oracle.one_way_loglik(table, variance, residual), abs=1e-8)
