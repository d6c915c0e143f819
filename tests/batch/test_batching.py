"""Batches: every lane is the single fit of its data, whatever its neighbours, and nothing is lost."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxlmm
from batches import GROUPS, KINDS, N, batch, design, responses, singles
from cases import some
from jaxlmm import Model, Status, Term
from jaxlmm.batch.responses import design_of
from jaxlmm.errors import DataError
from jaxlmm.fitting import estimate as fitting


def assert_lane(fit, i, single):
    assert Status(fit.status[i]) == single.status
    assert fit.loglik[i] == pytest.approx(single.loglik, abs=1e-8)
    np.testing.assert_allclose(fit.coef[i], single.coef, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(fit.vcov[i], single.vcov, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(np.exp(fit.theta[i]), np.exp(single.theta), rtol=1e-5, atol=1e-6)
    for G, expected in zip(fit.varcorr, single.covariances, strict=True):
        np.testing.assert_allclose(G[i], expected, rtol=1e-5, atol=1e-6)
    assert bool(fit.singular[i]) == any(single.boundary)


@pytest.mark.parametrize("kind", some(KINDS, "uneven slopes", "crossed"))
def test_a_lane_is_the_single_fit(kind):
    fit = batch(kind)
    assert len(fit) == 24
    for i, single in enumerate(singles(kind)):
        assert_lane(fit, i, single)


def test_one_record_for_a_fit_a_batch_and_its_rows():
    fit, single = batch("one-way"), singles("one-way")[3]
    assert type(fit[3]) is jaxlmm.Replicate is jaxlmm.Estimates
    assert isinstance(fit, jaxlmm.Estimates) and isinstance(single, jaxlmm.Estimates)
    leaves = jax.tree_util.tree_leaves
    for field in dataclasses.fields(jaxlmm.Estimates):
        whole, row, alone = (leaves(getattr(one, field.name)) for one in (fit, fit[3], single))
        for own, one in zip(whole, row, strict=True):
            np.testing.assert_array_equal(own[3], one)
        if field.name not in ("iterations", "decrement"):
            for own, one in zip(alone, row, strict=True):
                np.testing.assert_allclose(own, one, rtol=1e-4, atol=1e-6)
    assert fit[3].status is Status(fit.status[3]) and fit[3].singular == fit.singular[3]
    np.testing.assert_array_equal(fit[3].se, fit.se[3])


def test_maximum_likelihood():
    for i, single in enumerate(singles("uneven slopes", "ML")):
        assert_lane(batch("uneven slopes", "ML"), i, single)


@pytest.mark.smoke
def test_neighbours_do_not_matter():
    Y, fit = responses("uneven slopes"), batch("uneven slopes")
    order = np.random.default_rng(0).permutation(len(Y))
    moved = jaxlmm.fit_batch(design("uneven slopes"), Y[order])
    np.testing.assert_allclose(moved.loglik, fit.loglik[order], rtol=1e-10)
    np.testing.assert_array_equal(moved.status, fit.status[order])
    np.testing.assert_array_equal(moved.singular, fit.singular[order])
    few = jaxlmm.fit_batch(design("uneven slopes"), Y[7:10])
    np.testing.assert_allclose(few.loglik, fit.loglik[7:10], rtol=1e-10)
    np.testing.assert_allclose(few.coef, fit.coef[7:10], rtol=1e-6)


def test_bad_responses_are_a_status_in_their_own_row():
    kind = "uneven slopes"
    Y, fit = responses(kind).copy(), batch(kind)
    Y[3, 5], Y[4, 0] = np.nan, np.inf
    Y[6] = 2.5  # with the offset, not constant to the model
    Y[8] = design(kind).offset + 3.0
    found = jaxlmm.fit_batch(design(kind), Y)
    bad = np.array([3, 4, 8])
    np.testing.assert_array_equal(found.status[bad], Status.BAD_RESPONSE)
    assert np.all(np.isnan(found.loglik[bad]))
    assert not found.converged[bad].any()
    rest = np.setdiff1d(np.arange(len(Y)), [*bad, 6])
    np.testing.assert_allclose(found.loglik[rest], fit.loglik[rest], rtol=1e-10)
    frame = found.to_frame()
    assert len(frame["status"]) == len(Y)
    assert frame["status"][3] == "bad_response"


def test_zero_variances_of_balanced_data_are_those_of_the_f_test():
    """REML estimates zero if and only if the mean squares' ratio is at most one."""
    Y = np.random.default_rng(2).normal(size=(400, GROUPS, 6))
    between = 6 * Y.mean(2).var(1, ddof=1)
    within = Y.var(2, ddof=1).mean(1)
    fit = jaxlmm.fit_batch(design("one-way"), Y.reshape(400, N))
    assert fit.converged.all()
    np.testing.assert_array_equal(fit.singular, between <= within)
    np.testing.assert_allclose(fit.varcorr[0][:, 0, 0], np.maximum(between - within, 0) / 6, atol=1e-7)


def test_models_that_differ_in_everything_but_their_terms():
    rng = np.random.default_rng(3)
    models = []
    for i in range(5):
        n = 30 + 5 * (i % 3)
        g, x = rng.integers(0, 5 + i % 4, n), rng.normal(size=n)
        X = np.column_stack([np.ones(n), x])
        weights = rng.uniform(0.5, 2, n) if i % 2 else None
        models.append(Model(X.sum(1) + rng.normal(size=9)[g] + rng.normal(size=n), X, [Term(X, g)], weights=weights))
    fit = jaxlmm.fit_batch(models)
    with jax.enable_x64(True):
        for i, model in enumerate(models):
            assert_lane(fit, i, fitting.estimate(model))


def test_an_interrupt_returns_what_is_done(monkeypatch):
    with jax.enable_x64(True):
        floats = jaxlmm.batch.responses.Design(design("uneven slopes")).floats
    monkeypatch.setattr(jaxlmm.batch.chunks, "CHUNK_FLOATS", 8 * floats)
    monkeypatch.setattr(jaxlmm.batch.chunks, "workers", lambda: 1)
    Y = responses("uneven slopes")
    seen = []

    def stop(done, total):
        seen.append((done, total))
        if done >= 16:
            raise KeyboardInterrupt

    fit = jaxlmm.batch.refitting.refit_batch(design("uneven slopes"), Y, progress=stop)
    assert seen == [(8, 24), (16, 24)]
    np.testing.assert_allclose(fit.loglik[:16], batch("uneven slopes").loglik[:16], rtol=1e-10)
    np.testing.assert_array_equal(fit.status[16:], Status.NOT_RUN)


def subset(model, rows, y, **changes):
    """The model of some rows, with another response, and X or weights as given."""
    X, weights = changes.get("X", model.X), changes.get("weights", model.weights)
    return Model(
        y[rows], X[rows], [Term(t.Z[rows], t.group[rows], t.structure) for t in model.random],
        model.residual.subset(rows), None if weights is None else weights[rows],
        None if model.offset is None else model.offset[rows],
    )  # fmt: skip


def assert_equals_fit_of(fit, i, model):
    with jax.enable_x64(True):
        assert_lane(fit, i, fitting.estimate(model))


OWN = ("uneven slopes", "crossed", "residual")  # stacked at once; one by one; dense


@pytest.mark.parametrize("kind", some(OWN, "uneven slopes"))
def test_missing_observations_can_be_left_out(kind):
    model, Y = design(kind), responses(kind)[:6].copy()
    rng = np.random.default_rng(1)
    Y[1, 3], Y[2, rng.choice(N, 9, replace=False)], Y[3, 0], Y[4] = np.nan, np.nan, np.inf, np.nan
    fit = jaxlmm.fit_batch(model, Y, missing="drop")
    for i in (0, 1, 2, 5):
        assert_equals_fit_of(fit, i, subset(model, ~np.isnan(Y[i]), Y[i]))
    np.testing.assert_array_equal(fit.status[3:5], Status.BAD_RESPONSE)
    kept = jaxlmm.fit_batch(model, Y)
    np.testing.assert_array_equal(kept.status[1:5], Status.BAD_RESPONSE)


def test_lost_rows_that_leave_groups_among_the_fixed_effects_are_a_status():
    """Where `lmm` of the rows that are left refuses the model, for REML alone; the other lanes are fitted."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(3), 10)
    X = np.column_stack([np.ones(30), group == 1.0])
    Y = rng.normal(size=(4, 30))
    Y[1, 20:], Y[2, 3] = np.nan, np.nan
    model = Model(Y[0], X, [Term(np.ones(30), group)])
    fit = jaxlmm.fit_batch(model, Y, missing="drop")
    assert [Status(s).name for s in fit.status] == ["CONVERGED", "BAD_RESPONSE", "CONVERGED", "CONVERGED"]
    with pytest.raises(DataError, match="combinations of the fixed effects"):
        jaxlmm.fit_batch(Model(Y[1, :20], X[:20], [Term(np.ones(20), group[:20])]))


@pytest.mark.parametrize("method", some(("REML", "ML"), "ML"))
def test_lost_rows_that_leave_effects_no_rows_are_a_status(method):
    """A level alone, as many effects as rows: what `lmm` refuses of the rows that are left, in batches of both ways."""
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(6), 5), rng.normal(size=30)
    Y = rng.normal(size=(4, 30))
    Y[1, g != 2], Y[2, np.arange(30) % 5 > 0], Y[3, np.arange(30) % 5 > 1] = np.nan, np.nan, np.nan
    for formula, refused in (("y ~ x + (1 | g)", (1, 2)), ("y ~ x + (x | g)", (1, 2, 3))):
        fit = jaxlmm.lmm(formula, {"y": Y[0], "x": x, "g": g}, method=method)
        for i in (1, 2, 3):
            here = np.isfinite(Y[i])
            if i in refused:
                with pytest.raises(DataError, match="only one level|as many levels|cannot be told"):
                    jaxlmm.lmm(formula, {"y": Y[i, here], "x": x[here], "g": g[here]}, method=method)
        status = fit.refit(Y, missing="drop").status
        assert [i for i in range(4) if status[i] == Status.BAD_RESPONSE] == list(refused)
        np.testing.assert_array_equal(fit.statistics().fit(Y, method, missing="drop").status, status)


@pytest.mark.parametrize("kind", some(OWN, "crossed"))
def test_weights_of_each_response(kind):
    model, Y = design(kind), responses(kind)[:6]
    weights = np.random.default_rng(2).uniform(0.5, 2, Y.shape)
    weights[2, 5] = -1.0
    fit = jaxlmm.fit_batch(model, Y, weights=weights)
    assert fit.status[2] == Status.BAD_COVARIATE
    for i in (0, 4):
        assert_equals_fit_of(fit, i, subset(model, np.ones(N, bool), Y[i], weights=weights[i]))


@pytest.mark.parametrize("kind", some(("balanced slopes", *OWN), "balanced slopes"))
def test_a_column_of_X_that_varies(kind):
    model, Y = design(kind), responses(kind)[:6]
    x = np.random.default_rng(3).normal(size=Y.shape)
    x[2], x[3, 0] = 3.0, np.nan
    fit = jaxlmm.fit_batch(model, Y, column=1, values=x)

    def with_column(i):
        return np.column_stack([model.X[:, 0], x[i]])

    for i in (0, 5):
        assert_equals_fit_of(fit, i, subset(model, np.ones(N, bool), Y[i], X=with_column(i)))
    assert Status(fit.status[2]) == Status.RANK_DEFICIENT and fit.converged[2]
    with jax.enable_x64(True):
        without = fitting.estimate(subset(model, np.ones(N, bool), Y[2], X=model.X[:, :1]))
    assert fit.loglik[2] == pytest.approx(without.loglik, abs=1e-8)
    np.testing.assert_allclose(fit.coef[2], [without.coef[0], np.nan], rtol=1e-6)
    assert Status(fit.status[3]) == Status.BAD_COVARIATE
    every = jaxlmm.fit_batch(model, Y[:2], column=1, values=x[[0, 4, 1]], pairs="all")
    assert len(every) == 6
    np.testing.assert_allclose(every.loglik[[0, 5]], fit.loglik[:2], rtol=1e-10)


def test_a_column_in_front_keeps_its_place():
    model, Y = design("uneven slopes"), responses("uneven slopes")[:3]
    x = np.random.default_rng(4).uniform(1, 2, Y.shape)
    fit = jaxlmm.fit_batch(model, Y, column=0, values=x)
    X = np.column_stack([x[1], model.X[:, 1]])
    assert_equals_fit_of(fit, 1, subset(model, np.ones(N, bool), Y[1], X=X))


def test_aliased_columns_and_unusable_data_are_statuses():
    rng = np.random.default_rng(6)
    models = []
    for i in range(4):
        g, x = rng.integers(0, 6, N), rng.normal(size=N)
        X = np.column_stack([np.ones(N), x, x**2 if i % 2 else 2 * x])
        models.append(Model(x + rng.normal(size=6)[g] + rng.normal(size=N), X, [Term(np.ones(N), g)], checks=False))
    models.append(models[1].replace(y=np.ones(N)))
    fit = jaxlmm.fit_batch(models)
    names = [Status(s).name for s in fit.status]
    assert names == ["RANK_DEFICIENT", "CONVERGED", "RANK_DEFICIENT", "CONVERGED", "BAD_RESPONSE"]
    assert np.isnan(fit.coef[0, 2]) and np.isnan(fit.vcov[0, 2]).all() and np.isfinite(fit.vcov[0, :2, :2]).all()
    assert_equals_fit_of(fit, 1, models[1])
    with jax.enable_x64(True):
        without = fitting.estimate(models[0].replace(X=models[0].X[:, :2]))
    assert fit.loglik[0] == pytest.approx(without.loglik, abs=1e-8)
    np.testing.assert_allclose(fit.coef[0, :2], without.coef, rtol=1e-6)


@pytest.mark.parametrize("devices", some([2, 4], 2))
def test_devices_do_not_matter(devices, tmp_path):
    code = (
        "import sys, numpy as np, jax, jaxlmm; sys.path.insert(0, 'tests'); import batches as t\n"
        f"assert len(jax.devices()) == {devices}\n"
        "fit = jaxlmm.fit_batch(t.design('uneven slopes'), t.responses('uneven slopes'))\n"
        f"np.savez({str(tmp_path / 'fit.npz')!r}, loglik=fit.loglik, theta=fit.theta, status=fit.status)"
    )
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, fit = np.load(tmp_path / "fit.npz"), batch("uneven slopes")
    np.testing.assert_allclose(found["loglik"], fit.loglik, rtol=1e-10)
    np.testing.assert_allclose(np.exp(found["theta"]), np.exp(fit.theta), atol=1e-6)
    np.testing.assert_array_equal(found["status"], fit.status)


def test_a_refit_of_a_formula_by_the_name_of_a_column():
    rng = np.random.default_rng(8)
    data = {"y": responses("one-way")[0], "x": rng.normal(size=N), "g": np.arange(N) // 6}
    fit = jaxlmm.lmm("y ~ x + (1 | g)", data)
    x, seen = rng.normal(size=(3, N)), []
    scan = fit.refit(responses("one-way")[:2], column="x", values=x, pairs="all", progress=lambda *n: seen.append(n))
    one = jaxlmm.lmm("y ~ x + (1 | g)", {**data, "y": responses("one-way")[1], "x": x[2]})
    assert scan.loglik[5] == pytest.approx(one.loglik, abs=1e-8)
    np.testing.assert_allclose(scan.coef[5], one.coef, rtol=1e-6)
    assert seen[-1] == (6, 6)
    assert scan[5].coef[1] == scan.coef[5, 1]


def test_refit_of_a_formula_fit():
    data = {"y": responses("one-way")[0], "x": design("nested").X[:, 1], "g": np.arange(N) // 6}
    fit = jaxlmm.lmm("y ~ x + (1 | g)", data)
    many = fit.refit(fit.simulate(5, seed=1))
    assert many.coef_names == fit.coef_names
    again = fit.refit(fit.simulate(5, seed=1)[2])
    assert many.loglik[2] == pytest.approx(again.loglik, abs=1e-8)
    frame = many.to_frame()
    for name in ("status", "loglik", "x", "se(x)", "sigma", "theta1", "iterations"):
        assert len(frame[name]) == 5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jaxlmm.fit_batch(design("one-way"), np.zeros((3, 7))), "shape"),
        (lambda: jaxlmm.fit_batch([]), "at least one"),
        (lambda: jaxlmm.fit_batch([design("one-way"), design("nested")]), "model 1"),
        (lambda: jaxlmm.fit_batch([design("one-way")], np.zeros((1, N))), "Y"),
        (lambda: jaxlmm.fit_batch(design("one-way"), responses("one-way"), missing="omit"), "missing"),
        (lambda: jaxlmm.fit_batch(design("one-way"), responses("one-way"), column=0), "column, values"),
        (
            lambda: jaxlmm.fit_batch(design("one-way"), responses("one-way"), column=7, values=np.ones((24, N))),
            "column",
        ),
        (lambda: jaxlmm.fit_batch(design("one-way"), responses("one-way"), column=0, values=np.ones((3, N))), "values"),
        (lambda: jaxlmm.fit_batch(design("one-way"), responses("one-way"), weights=np.ones(N)), "weights"),
        (lambda: jaxlmm.fit_batch(design("one-way"), responses("one-way"), progress="yes"), "progress"),
        (lambda: jaxlmm.fit_batch(design("one-way"), responses("one-way"), method="reml"), "method"),
    ],
)
def test_misuse_gets_one_sentence(call, words):
    with pytest.raises(jaxlmm.DataError, match=words):
        call()


ELSEWHERE = ("y ~ tr * dose + (1 | g)", "y ~ dose + (dose | g)", "y ~ tr + dose + I(dose**2) + (1 | g)",
             "y ~ dose + scale(dose):tr + (0 + dose | g)")  # fmt: skip


@pytest.mark.parametrize("formula", some(ELSEWHERE, ELSEWHERE[0], ELSEWHERE[1]))
def test_all_that_depends_on_a_column_is_made_again(formula):
    if "scale" in formula:
        pytest.importorskip("formulaic")
    rng = np.random.default_rng(9)
    Y, doses = responses("one-way")[:3].copy(), rng.uniform(1, 3, (3, N))
    data = {"y": Y[0], "tr": np.arange(N) % 2 * 1.0, "dose": doses[0], "g": np.arange(N) // 6}
    Y[2, [3, 8]], doses[2, 9] = np.nan, np.nan
    fit = jaxlmm.lmm(formula, data)
    found = fit.refit(Y, column="dose", values=doses, missing="drop")
    for i in range(3):
        one = jaxlmm.lmm(formula, {**data, "y": Y[i], "dose": doses[i]})
        assert found.loglik[i] == pytest.approx(one.loglik, abs=1e-7)
        np.testing.assert_allclose(found.coef[i], one.coef, rtol=1e-5, atol=1e-7)
    assert Status(fit.refit(Y, column="dose", values=doses).status[2]) in (Status.BAD_RESPONSE, Status.BAD_COVARIATE)


def test_a_column_on_which_something_else_depends_is_refused_by_name():
    rng = np.random.default_rng(10)
    data = {"y": responses("one-way")[0], "dose": rng.uniform(1, 2, N), "f": np.arange(N) % 3.0, "g": np.arange(N) // 6}
    Y = responses("one-way")[:2]
    for formula, options, column, named in (
        ("y ~ dose + (1 | g)", {"variance": "power(dose)"}, "dose", "the residual structure"),
        ("y ~ dose + (1 | g)", {"weights": "dose"}, "dose", "weights="),
        ("y ~ dose + offset(dose * 2) + (1 | g)", {}, "dose", "offset(dose * 2)"),
        ("y ~ f + (1 | g) + (1 | f)", {}, "f", "1 | f)"),
        ("y ~ dose * g + (1 | g)", {}, "dose:g", "dose, g"),
        ("y ~ log(dose) + (dose | g)", {}, "log(dose)", "(1 + dose | g)"),
        ("y ~ C(f) + (1 | g)", {}, "C(f)[T.1]", "C(f)[T.2]"),
    ):
        fit = jaxlmm.lmm(formula, data, **options)
        with pytest.raises(jaxlmm.DataError, match="not alone") as error:
            fit.refit(Y, column=column, values=np.ones((2, N)))
        assert named in str(error.value), formula
    fit = jaxlmm.lmm("y ~ log(dose) + I(dose**2) + (1 | g)", data)
    with pytest.raises(jaxlmm.DataError, match="for many responses"):
        fit.refit(Y[0], column="log(dose)", values=np.ones(N))


@pytest.mark.parametrize("sizes", [(20, 20), (20, 25, 31)])
def test_least_squares_of_designs_of_their_own(sizes):
    rng, models = np.random.default_rng(11), []
    for n in sizes:
        models.append(Model(rng.normal(size=n), np.column_stack([np.ones(n), rng.normal(size=n)])))
    found = jaxlmm.fit_batch(models, tests=jaxlmm.Tests([[0.0, 1.0]], df="residual"))
    for i, model in enumerate(models):
        coef, square = np.linalg.lstsq(model.X, model.y, rcond=None)[:2]
        vcov = square[0] / (len(model.y) - 2) * np.linalg.inv(model.X.T @ model.X)
        np.testing.assert_allclose(found.coef[i], coef, rtol=1e-10)
        np.testing.assert_allclose(found.vcov[i], vcov, rtol=1e-10)
        assert found.tests["residual"].df[i, 0] == sizes[i] - 2
    assert found.converged.all()


@pytest.mark.parametrize("residual", ["us(v | g)", "ar1(v | g)"])
def test_lanes_of_few_patterns_factor_no_others(residual):
    """One fit has room for patterns that there are not, so that programs are shared: each would cost every lane."""
    rng = np.random.default_rng(4)
    g, v = np.repeat(np.arange(30), 4), np.tile(np.arange(4), 30)
    keep = v < np.where(np.arange(30) % 5, 4, 2)[g]
    data = {"y": rng.normal(size=keep.sum()), "g": g[keep], "v": v[keep]}
    fit = jaxlmm.lmm("y ~ v", data, residual=residual)
    (bucket,) = design_of(fit.model).template.statistics.buckets
    assert len(bucket.count) == 2 and len(fit.model.y) == bucket.count @ bucket.present.sum(1)
    Y = rng.normal(size=(3, len(fit.model.y)))
    for lane, y in zip(fit.refit(Y).to_frame()["loglik"], Y, strict=True):
        assert lane == pytest.approx(jaxlmm.lmm("y ~ v", {**data, "y": y}, residual=residual).loglik, abs=1e-8)
