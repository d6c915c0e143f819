"""Nothing ends a study but its user: what raises is a status; what cannot work is said before, by name."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

pytest.importorskip("pyarrow")

import jaxlmm
from jaxlmm.__main__ import main
from jaxlmm.batch.rebuilding import redrawn
from jaxlmm.interface import model_of
from jaxlmm.study import (
    Analysis,
    Estimator,
    MixedModel,
    StudyError,
    Target,
    analyses,
    designs,
    read,
    report,
    run,
    status,
)
from jaxlmm.study.cells import cells_of
from jaxlmm.study.rehearsal import rehearse
from studies import Here, difference, normal, plain

NOTHING = {"targets": {"arm": 0.0}, "grid": {}}


def now_and_then(rng, data):
    y = rng.standard_normal(30)
    if y[0] > 1.0:
        raise ValueError(f"no sampler at {object()}")
    return y


def refuses_some(data):
    if data["y"][0] < -1.0:
        raise RuntimeError("no convergence")
    return difference(data)


def test_what_raises_in_a_replicate_is_a_status_of_its_row(tmp_path):
    study = plain(generate=now_and_then, estimators=[difference, refuses_some], replicates=60, **NOTHING)
    results = run(study, tmp_path, Here())
    frame = results.frame()
    first = np.array([np.random.default_rng([int(w) for w in words]).standard_normal(30)[0] for words in keys(study)])
    for name, own in frame.groupby("estimator"):
        expected = np.where(first > 1.0, "generate_failed", "ok")
        if name == "refuses_some":
            expected = np.where(first < -1.0, "estimate_failed", expected)
        assert list(own.status) == list(expected)
        assert own.p.isna().tolist() == [word != "ok" for word in expected]
    words = results.messages().set_index(["estimator", "status"])
    assert words.loc[("refuses_some", "estimate_failed"), "message"] == "RuntimeError: no convergence"
    assert "object at 0x..." in words.loc[("difference", "generate_failed"), "message"]
    assert words.loc[("difference", "generate_failed"), "count"] == (first > 1.0).sum()
    assert words.loc[("difference", "generate_failed"), "replicate"] == np.argmax(first > 1.0)
    usable = results.summary().frame(["usable"]).set_index("estimator")
    assert usable.value["difference"] == pytest.approx((first <= 1.0).mean()) and usable["count"]["difference"] == 60
    assert "no convergence" in report(tmp_path).read_text()


def keys(study):
    from jaxlmm.study.drawing import keys_of

    with jax.enable_x64(True):
        return np.asarray(jax.random.key_data(keys_of(study.seed, study.cells[0], np.arange(study.replicates))))


@pytest.mark.parametrize("raising", ["estimator", "generator"])
def test_what_never_works_stops_with_the_reason(tmp_path, raising):
    def fails_later(data):
        if len(seen) > 3:
            raise RuntimeError("not today")
        seen.append(1)
        return difference(data)

    def draws_little(rng, data):
        if len(seen) > 3:  # as many as the rehearsal draws
            raise ValueError("not today")
        seen.append(1)
        return rng.standard_normal(30)

    seen: list[int] = []
    changed = {"estimators": [difference, fails_later]} if raising == "estimator" else {"generate": draws_little}
    study = plain(replicates=300, chunk=40, **NOTHING, **changed)
    if raising == "estimator":
        seen += [1] * 3  # the rehearsal has the last one
    with pytest.raises(StudyError, match="none of the first 1[0-9]0 data sets has a result of .*not today") as error:
        run(study, tmp_path, Here())
    assert ("fails_later" in str(error.value)) == (raising == "estimator")


def test_one_that_raises_among_many_does_not_take_the_others_with_it():
    from jaxlmm.study.applying import attempt
    from jaxlmm.study.drawing import Drawn
    from jaxlmm.study.estimate import STATUSES, Numbers

    class Fragile:
        rows = [None]
        sizes: list[int] = []

        def __call__(self, drawn, b):
            self.sizes.append(b)
            if 13.0 in drawn.columns["y"]:
                raise ArithmeticError("thirteen")
            out = Numbers.empty(1, b)
            out.estimate[0], out.status[0] = drawn.columns["y"], 0
            return out

    found = attempt(Fragile(), Drawn({"y": np.arange(40.0)}, errors={7: "lost"}), 40)
    assert STATUSES[found.status[0, 13]] == "estimate_failed" and STATUSES[found.status[0, 7]] == "generate_failed"
    assert found.messages == {7: "lost", 13: "ArithmeticError: thirteen"}
    good = np.setdiff1d(np.arange(40), [7, 13])
    np.testing.assert_array_equal(found.estimate[0, good], good)
    assert len(Fragile.sizes) < 14


def alike(key, data):
    return np.random.normal(size=30)


def another_each_time(rng, data):
    return np.random.normal(size=30)


def writes(rng, data):
    data["arm"][:] = 0.0
    return rng.standard_normal(30)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generate": alike}, "replicates 0, 1 and 2 are all alike"),
        ({"generate": another_each_time}, "replicate 0 differs when it is drawn again"),
        ({"generate": lambda rng, data: rng.standard_normal(7)}, "expected at least|can use none|no column|length"),
        ({"generate": lambda rng, data: None}, "^generate: returned y of shape \\(\\)"),
        ({"generate": lambda rng, data: {"Y": rng.standard_normal(30)}}, "expected the response 'y'"),
        ({"generate": writes}, "read-only"),
        ({"generate": lambda r, data: r.standard_normal(30)}, "first argument is called 'r'"),
        ({"estimators": lambda data: 3.0}, "returned float, expected a mapping"),
        ({"estimators": lambda data: {"leg": 3.0}}, "returned 'leg', expected some of the targets arm"),
        ({"estimators": lambda data: {}}, "returned none of the targets"),
        ({"estimators": lambda data: {"arm": (1, 2, 3, 4, 5)}}, "returned 5 numbers"),
        ({"estimators": lambda data: 1 / 0}, "ZeroDivisionError"),
    ],
)
def test_what_no_replicate_can_do_is_said_before(changes, message):
    with pytest.raises(jaxlmm.DataError, match=message):
        rehearse(plain(**(NOTHING | changes)))


def drawn_dose(rng, data):
    dose = rng.standard_normal(20)
    return {"dose": dose, "y": dose + rng.standard_normal(5)[data["g"]] + rng.standard_normal(20)}


def new_patients(rng, data):
    return {"dose": rng.standard_normal(n := int(rng.integers(20, 40))), "g": np.arange(n) % 5, "y": rng.random(n)}


@pytest.mark.parametrize("generate", [drawn_dose, new_patients])
def test_columns_that_only_the_generating_function_has(generate):
    formula, design = "y ~ dose + (1 | g)", {"g": np.arange(20) // 4}
    study = plain(
        design=design, generate=generate, estimators=[Estimator("m", formula)], targets={"dose": 1.0}, grid={}
    )
    rehearse(study)
    wrong = Estimator("m", "y ~ doze + (1 | g)")
    with pytest.raises(jaxlmm.DataError, match="no column 'doze'"):
        rehearse(plain(design=design, generate=generate, estimators=[wrong], targets=["x"], grid={}))


@pytest.mark.slow
def test_estimates_of_columns_that_only_the_generating_function_has(tmp_path):
    formula, design = "y ~ dose + (1 | g)", {"g": np.arange(20) // 4}
    study = plain(
        design=design, generate=drawn_dose, estimators=[Estimator("m", formula)], targets={"dose": 1.0}, grid={}
    )
    frame = run(study, tmp_path, Here()).frame()
    for i in (0, 23):
        fit = jaxlmm.lmm(formula, study.replicate(0, i).data)
        np.testing.assert_allclose(frame.estimate[i], fit.coef[1], rtol=1e-6)
        np.testing.assert_allclose(study.replicate(0, i).rows()["estimate"], fit.coef[1], rtol=1e-6)


def test_every_cell_is_rehearsed(tmp_path):
    study = plain(design=designs.cluster_trial, generate=normal, estimators=analyses.cluster_means(),
                  grid={"clusters": [6, 8, 2]}, targets={"arm": 0.0})  # fmt: skip
    with pytest.raises(jaxlmm.DataError, match="cell clusters=2: .*at least 3 clusters"):
        run(study, tmp_path / "out", Here())
    with pytest.raises(StudyError, match="no study has been started here"):
        status(tmp_path / "out")


def test_what_no_fit_could_do_is_said_before():
    study = plain(design=designs.cluster_trial, estimators=Estimator("m", "y ~ arm + (1 | cluster)"), targets=["arm"],
                  grid={"clusters": [6, 2]})  # fmt: skip
    with pytest.raises(jaxlmm.DataError, match="cell clusters=2: .*combinations of the fixed effects"):
        rehearse(study)


def test_sandwiches_of_designs_of_their_own_are_refused_before():
    robust = Estimator("lmm", "y ~ arm + (1 | cluster)", robust="CR1")
    sizes = plain(generate=lambda rng, data: {n: np.asarray(v)[: 20 + rng.integers(5)] for n, v in
                                              {**data, "y": rng.standard_normal(30)}.items()}, estimators=robust,
                  **NOTHING)  # fmt: skip
    lost = MixedModel("y ~ arm", {}, {}, lost=lambda key, y, data: y > 2.0)
    for study in (sizes, plain(generate=lost, estimators=robust, **NOTHING)):
        with pytest.raises(jaxlmm.DataError, match="robust= needs complete responses to one design"):
            rehearse(study)


# -- cells


def test_levels_are_one_or_several_and_each_once():
    assert cells_of({"dist": "normal", "n": 8}) == ({"dist": "normal", "n": 8},)
    assert [c["size"] for c in cells_of({"size": [[5, 15], (10,)]})] == [[5, 15], (10,)]
    assert len(cells_of({"cov": [np.eye(2), 2 * np.eye(2)], "opt": [None, "a"]})) == 4
    for grid, message in (
        ({"n": [5, 5.0]}, "'n' has the level 5.0 twice"),
        ({"n": []}, "has no levels"),
        ([{"n": 1}, {"n": np.int64(1)}], "the cell n=1 is there twice"),
        ([{"n": 1}, {"m": 1}], "same factors in every cell"),
    ):
        with pytest.raises(jaxlmm.DataError, match=message):
            cells_of(grid)


def test_factors_that_nothing_uses_are_named(tmp_path):
    with pytest.warns(UserWarning, match="nothing uses the factor 'icc'"):
        run(plain(grid={"shift": [0.0], "icc": [0.1, 0.2]}), tmp_path, Here())
    labelled = plain(grid=[{"shift": 0.0, "name": "null"}, {"shift": 1.0, "name": "large"}])
    assert labelled.unused == ("name",)  # a label of cells that differ
    model = MixedModel("y ~ arm", {"arm": "a"}, {"residual": {"variance": "b"}}, lost=lambda key, y, data, c: y > c)
    assert plain(generate=model, grid={"a": [1, 2], "b": [1, 2], "c": [1, 2]}, targets={"arm": 0.0}).unused == ()


def test_levels_that_are_lists_and_matrices_have_tables(tmp_path):
    study = plain(design=designs.cluster_trial, grid={"clusters": [6], "size": [[5, 15], [10]]}, targets={"arm": 0.0})
    results = run(study, tmp_path, Here())
    assert set(results.frame()["size"]) == {"[5, 15]", "[10]"} == set(results.statuses()["size"])
    assert "[5, 15]" in str(results.summary()) and "[5, 15]" in report(tmp_path).read_text()


# -- truths


def test_rejections_are_power_only_where_the_truth_is_known(tmp_path):
    results = run(plain(targets=["arm"], grid={}), tmp_path, Here())
    assert set(results.summary().frame().measure) >= {"rejection"} and "rejected %" in str(results.summary())
    assert not {"power", "type1_error", "bias", "coverage"} & set(results.summary().frame().measure)


def test_a_truth_that_the_generating_model_does_not_have_is_asked_for():
    model = MixedModel("y ~ arm", {"arm": 0.5}, {"residual": 1.0})
    twice = "y ~ half"

    def design():
        data = designs.cluster_trial(6, 5)
        return {**data, "half": data["arm"] / 2}

    study = plain(design=design, generate=model, estimators=Estimator("half", twice, residual="iid()", df="residual"),
                  targets=["half"], grid={})  # fmt: skip
    with pytest.raises(jaxlmm.DataError, match="not a coefficient of the generating model .* it is 1; give Target"):
        rehearse(study)
    rehearse(plain(design=design, generate=model, estimators=study.estimators, targets={"half": 1.0}, grid={}))


def test_targets_that_one_estimator_does_not_have_are_missing_rows(tmp_path):
    study = plain(
        estimators=[analyses.ols("y ~ arm"), analyses.ols("y ~ 1", "no arm"), Analysis("own", difference)],
        targets={"arm": 0.0, "mean": Target(0.0, of="(Intercept)"), "both": Target(0.0, of=["(Intercept)", "arm"]),
                 "fit": Target(of="loglik")}, grid={}, replicates=12,
    )  # fmt: skip
    results = run(study, tmp_path, Here())
    frame = results.frame()
    rows = set(zip(frame.estimator, frame.target, strict=True))
    of_ols = {("OLS", target) for target in ("arm", "mean", "both", "fit")}
    assert rows == of_ols | {("no arm", "mean"), ("no arm", "fit"), ("own", "arm")}
    assert set(results.statuses().status) == {"ok"}
    arm = results.summary().tables()[0]
    assert [line[0] for line in arm.rows] == ["OLS", "own"]
    own = frame[(frame.replicate == 5) & (frame.estimator == "OLS")].set_index("target")
    fit = study.replicate(0, 5).fit("OLS")
    X, y = fit.model.X, fit.model.y
    F = (y @ y - np.sum((y - X @ fit.coef) ** 2)) / 2 / fit.sigma**2
    np.testing.assert_allclose([own.p["both"], own.df["both"]], [stats.f.sf(F, 2, 28), 28], rtol=1e-8)
    assert own.estimate["fit"] == pytest.approx(fit.loglik, abs=1e-8) and np.isnan(own.estimate["both"])
    assert results.summary().measure("type1_error", "OLS", "residual", "both")[0][0] == pytest.approx(
        (frame[(frame.estimator == "OLS") & (frame.target == "both")].p <= 0.05).mean()
    )


# -- what generators return


def frame_of(rng, data):
    import pandas

    n = 20 + rng.integers(5)
    size = pandas.Categorical(rng.choice(["small", "large"], n), categories=["small", "large"])
    y = pandas.array(rng.standard_normal(n), "Float64")
    y[0] = pandas.NA
    return pandas.DataFrame({"y": y, "size": size, "arm": np.arange(n) % 2 * 1.0})


@pytest.mark.slow
def test_data_frames_are_data_sets(tmp_path):
    pytest.importorskip("pandas")
    study = plain(
        design=lambda: frame_of(np.random.default_rng(0), None), generate=frame_of, replicates=12, grid={},
        estimators=[analyses.ols("y ~ size"), Analysis("own", lambda data: {"size[T.large]": len(data["y"])})],
        targets={"size[T.large]": 0.0},
    )  # fmt: skip
    frame = run(study, tmp_path, Here()).frame()
    own = frame[frame.replicate == 3].estimate.to_numpy()
    data = study.replicate(0, 3).data
    y, large = data["y"].to_numpy(float)[1:], (data["size"] == "large").to_numpy()[1:]
    expected = y[large].mean() - y[~large].mean()
    np.testing.assert_allclose(own, [expected, len(y)], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("formula", ["y ~ arm * x", "y ~ arm + I(arm * x)", "y ~ arm + x"])
def test_columns_that_are_drawn_change_all_that_depends_on_them(tmp_path, formula):
    def design():
        return {**designs.cluster_trial(6, 5), "x": np.arange(30) / 10}

    def allocated(rng, data):
        return {"arm": rng.permutation(data["arm"]), "y": rng.standard_normal(30)}

    study = plain(design=design, generate=allocated, estimators=analyses.ols(formula), replicates=6, **NOTHING)
    frame = run(study, tmp_path, Here()).frame()
    for i in (0, 5):
        data = study.replicate(0, i).data
        last = data["arm"] * data["x"] if "*" in formula else data["x"]
        columns = [np.ones(30), data["arm"], *([data["x"]] if formula == "y ~ arm * x" else []), last]
        beta = np.linalg.lstsq(np.column_stack(columns), data["y"], rcond=None)[0]
        assert frame.estimate[i] == pytest.approx(beta[1], rel=1e-8)


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("y ~ x + w + (1 | cluster)", {}),
        ("y ~ x * f + I(w**2) + (0 + x || cluster)", {}),
        ("y ~ log(x**2 + 1) + f + (1 + w | cluster)", {"weights": "size"}),
        ("y ~ w + poly(x, 2) + (1 | cluster)", None),
        ("y ~ w + offset(x) + (1 | cluster)", None),
        ("y ~ w + (1 | cluster)", {"weights": "w2", "variance": None}),
        ("y ~ w + (1 | k)", None),
        ("y ~ w + (1 | cluster)", {"variance": "power(w2)"}),
    ],
)
def test_models_of_drawn_columns_are_those_of_their_formula(formula, options):
    rng, rows = np.random.default_rng(0), np.arange(30)
    data = {"cluster": rows // 5, "f": np.array(list("abc"))[rows % 3], "size": 1.0 + rows % 4}
    drawn = {name: rng.standard_normal((5, 30)) for name in ("y", "x", "w")}
    drawn |= {"w2": rng.exponential(size=(5, 30)) + 0.1, "k": rng.integers(0, 4, (5, 30))}
    drawn["x"][3] = drawn["w"][3] = 1.0  # nothing but the intercept
    tables = [data | {name: values[i] for name, values in drawn.items()} for i in range(5)]
    elsewhere = options is None or "variance" in options
    options = {k: v for k, v in (options or {}).items() if v is not None}
    frame, model = model_of(formula, tables[0], **options)
    found = redrawn(frame, model, tables[0], drawn, "y")
    assert [one is None for one in found] == [elsewhere or i == 3 for i in range(5)]
    for i, one in enumerate(found):
        if one is not None:
            (got, kind), (want, kind_of_formula) = map(
                jax.tree.flatten, (one, model_of(formula, tables[i], **options)[1])
            )
            assert kind == kind_of_formula and all(map(np.array_equal, got, want))


# -- analyses


def vectorised(data):
    arm = data["arm"]
    means = [jnp.sum(data["y"] * (arm == a)) / jnp.sum(arm == a) for a in (0.0, 1.0)]
    return {"arm": (means[1] - means[0], jnp.sqrt(2 / 15))}


def test_analyses_in_numpy_and_in_jax_agree_and_p_values_follow(tmp_path):
    own = [difference, Analysis("mapped", vectorised, vectorised=True), analyses.cluster_means(),
           Analysis("named", lambda data: {"arm": {"p": 0.25}}, test="permutation")]  # fmt: skip
    study = plain(estimators=own, replicates=20)
    frame = run(study, tmp_path, Here()).frame()
    by = {name: part.reset_index() for name, part in frame.groupby("estimator")}
    np.testing.assert_allclose(by["mapped"].estimate, by["difference"].estimate, rtol=1e-12)
    z = by["difference"].estimate / np.sqrt(2 / 15)
    np.testing.assert_allclose(by["difference"].p, 2 * stats.norm.sf(np.abs(z)), rtol=1e-10)
    assert (by["named"].p == 0.25).all() and by["named"].estimate.isna().all() and (by["named"].status == "ok").all()
    test = by["t test of cluster means"]
    for i in (0, 21):
        data = study.replicate(i // 20, i % 20).data
        means = data.groupby("cluster")[["arm", "y"]].mean()
        t = stats.ttest_ind(means.y[means.arm == 1], means.y[means.arm == 0])
        np.testing.assert_allclose([test.p[i], test.df[i]], [t.pvalue, 4.0], rtol=1e-10)
        np.testing.assert_allclose(test.estimate[i] / test.se[i], t.statistic, rtol=1e-10)


# -- one replicate


def test_a_replicate_is_the_one_of_the_study(tmp_path):
    study = plain(estimators=[analyses.ols("y ~ arm"), difference], replicates=12)
    frame = run(study, tmp_path, Here()).frame()
    one = study.replicate({"shift": 1}, 7)
    assert repr(one) == "Replicate(7 of shift=1.0)"
    own = frame[(frame["shift"] == 1.0) & (frame.replicate == 7)].reset_index()
    assert one.fit("OLS").coef[1] == pytest.approx(own.estimate[0], rel=1e-9)
    assert one.fits["difference"]["arm"][0] == own.estimate[1]
    np.testing.assert_allclose(one.rows()[["estimate", "se", "p"]], own[["estimate", "se", "p"]], rtol=1e-9)
    with pytest.raises(jaxlmm.DataError, match="cell: 0 cells have shift=3"):
        study.replicate({"shift": 3})
    failing = plain(generate=now_and_then, replicates=60, **NOTHING)
    words = run(failing, tmp_path / "failing", Here()).messages()
    bad = failing.replicate(0, int(words.replicate[0]))
    assert bad.rows().status[0] == "generate_failed"
    with pytest.raises(jaxlmm.DataError, match="no sampler"):
        bad.data  # noqa: B018


# -- the directory


def test_a_study_grows_without_running_again_what_is_there(tmp_path):
    from jaxlmm.study import drawing

    def counted(found, response):
        calls.append(found)
        return table(found, response)

    calls: list = []
    table = drawing._table
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxlmm.study.running.rehearse", lambda *args: None)
        patch.setattr(drawing, "_table", counted)
        run(plain(replicates=20), tmp_path / "grown", Here())
        assert len(calls) == 40
        more = {"grid": {"shift": [0.5, 1.0, 0.0]}, "replicates": 35}
        run(plain(**more), tmp_path / "grown", Here())
        assert len(calls) == 40 + 35 + 2 * 15
        more["estimators"] = [analyses.cluster_means(), difference]
        grown = run(plain(**more), tmp_path / "grown", Here())
        assert grown.complete and grown.cells == [{"shift": s} for s in (0.0, 1.0, 0.5)]
        at_once = run(plain(**(more | {"grid": {"shift": [0.0, 1.0, 0.5]}})), tmp_path / "new", Here())
        assert grown.digest() == at_once.digest() and str(grown.summary()) == str(at_once.summary())
        done = len(calls)
        run(plain(replicates=10, estimators=more["estimators"]), tmp_path / "grown", Here())
        assert len(calls) == done
    assert status(tmp_path / "grown").done == 105
    for changed in (
        {"estimators": difference},
        {"seed": 4},
        {"targets": {"arm": 0.0}},
        {"grid": {"shift": [0.0], "n": [1]}},
    ):
        with pytest.raises((StudyError, jaxlmm.DataError), match="holds another study"):
            run(plain(**(more | changed)), tmp_path / "grown", Here())


def test_replicates_until_an_error_is_reached(tmp_path):
    from jaxlmm.study import run_until

    study = plain(grid={"shift": [0.0, 1.0, 30.0]}, targets=["arm"], replicates=20)
    results = run_until(study, tmp_path, "rejection", 0.06, executor=Here())
    counts = [sum(t.hi - t.lo for t in results.tasks if t.cell == c) for c in range(3)]
    errors = results.summary().mcse["rejection"][:, 0]
    assert (errors <= 0.06).all() and counts[2] < counts[1] and counts[1] >= 40 and errors[2] == 0.0
    assert (
        results.complete and results.digest() == run_until(study, tmp_path, "rejection", 0.06, executor=Here()).digest()
    )
    capped = run_until(study, tmp_path / "capped", "rejection", 0.001, most=30, executor=Here())
    assert status(tmp_path / "capped").done == 90 and capped.complete
    with pytest.raises(jaxlmm.DataError, match="measure: found 'powr'"):
        run_until(study, tmp_path, "powr", 0.1)


def test_an_estimator_that_came_later_is_interrupted_and_gone_on_with(tmp_path):
    def stop(done, total):
        if done > 20:
            raise KeyboardInterrupt

    run(plain(), tmp_path, Here())
    study = plain(estimators=[difference, analyses.cluster_means()])
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path, Here(), progress=stop)
    assert not read(tmp_path).complete and 0 < status(tmp_path).done < 48
    assert "not running" in str(status(tmp_path)) and "t test" in str(read(tmp_path).summary())
    run(study, tmp_path, Here())
    fresh = run(study, tmp_path / "fresh", Here())
    assert read(tmp_path).digest() == fresh.digest()
    parts = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    assert parts == {path.name: path.read_bytes() for path in (tmp_path / "fresh" / "parts").iterdir()}


def test_shares_are_merged_into_the_same_bytes(tmp_path):
    from jaxlmm.study import merge

    whole = run(plain(), tmp_path / "whole", Here())
    for k in (1, 2, 3, 4):
        run(plain(), tmp_path / f"{k}", Here(), shard=f"{k}/4")
    assert status(tmp_path / "4").parts == 1 and not read(tmp_path / "4").complete
    assert str(status(tmp_path / "2")) == "share 2/4: 14 of 14 data sets (100.0 %), 2 of 2 parts, complete"
    run(plain(), tmp_path / "nothing", Here(), shard="9/9")  # more shares than chunks
    assert str(status(tmp_path / "nothing")) == "share 9/9: 0 of 0 data sets (0.0 %), 0 of 0 parts, complete"
    merged = merge(tmp_path / "all", [tmp_path / k for k in ("nothing", "3", "1", "4")])
    assert not merged.complete and str(status(tmp_path / "all")).startswith("34 of 48 data sets")
    assert merge(tmp_path / "all", [tmp_path / "2"]).complete
    for path in (tmp_path / "whole" / "parts").iterdir():
        assert path.read_bytes() == (tmp_path / "all" / "parts" / path.name).read_bytes()
    assert merge(tmp_path / "all", [tmp_path / "1"]).digest() == whole.digest()
    run(plain(seed=9), tmp_path / "other", Here())
    with pytest.raises(StudyError, match="holds another study than .*seed: 3 -> 9"):
        merge(tmp_path / "all", [tmp_path / "other"])
    for shard in ("5/4", "0/4", "x", (1, 2, 3)):
        with pytest.raises(jaxlmm.DataError, match="shard: found"):
            run(plain(), tmp_path / "bad", Here(), shard=shard)
    with pytest.raises(jaxlmm.DataError, match="workers: found 3, but 'inline'"):
        run(plain(), tmp_path / "bad", "inline", workers=3)
    with pytest.raises(TypeError, match="run_until: no option 'shard'"):
        jaxlmm.study.run_until(plain(), tmp_path / "bad", "power", 0.1, shard="1/2")


def test_reports_of_studies_that_run_or_cannot_be_written(tmp_path, capsys):
    from jaxlmm.study.store import locked

    out = tmp_path / "out"

    def stop(done, total):
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plain(), out, Here(), progress=stop)
    with locked(out):
        assert status(out).running and main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0
    assert re.search("[0-9]+ of 48 data sets", (tmp_path / "page.html").read_text())
    (out / "report.html").mkdir()
    assert main(["report", str(out)]) == 2 and "give another place, out= (--out)" in capsys.readouterr().err
    (out / "lock").unlink()  # as in a copy that nobody runs
    assert not status(out).running


def test_ctrl_c_is_one_sentence_on_the_command_line(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt("out: interrupted; 3 of 4 data sets are kept, the same call goes on")

    monkeypatch.setattr("jaxlmm.__main__._status", interrupted)
    assert main(["status", "out"]) == 130
    assert capsys.readouterr().err == "jaxlmm: out: interrupted; 3 of 4 data sets are kept, the same call goes on\n"
