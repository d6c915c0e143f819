"""Tests of hypotheses in every data set of a batch: those of single fits, and closed forms."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import jaxlmm
from batches import design, responses
from cases import some
from jaxlmm import DataError, Model, Term, Tests, TestStatus
from jaxlmm.inference.fixed_effects.in_batches import LaneTests

METHODS = ("satterthwaite", "kenward-roger", "kenward-roger-full", "residual", "asymptotic")
OK = TestStatus.OK


@functools.cache
def data():
    """24 subjects in three visits, items that cross them."""
    rng = np.random.default_rng(7)
    subject, t = np.divmod(np.arange(72), 3)
    x, item = rng.normal(size=72), (5 * np.arange(72) + subject) % 6
    return {"y": rng.normal(size=72), "id": subject, "t": t.astype(float), "visit": t.astype(str), "x": x,
            "item": item, "w": rng.uniform(0.5, 2, 72)}  # fmt: skip


MODELS = {
    "slopes": ("y ~ t + x + (t | id)", {}),
    "crossed": ("y ~ t + x + (1 | id) + (1 | item)", {"weights": "w"}),
    "ar1": ("y ~ t + x + (1 | item)", {"residual": "ar1(visit | id)"}),
}


@functools.cache
def fit(name):
    formula, options = MODELS[name]
    return jaxlmm.lmm(formula, data(), **options)


@functools.cache
def drawn(b=6):
    """Responses with effects of subjects and items, without the one, or without the other."""
    d, rng = data(), np.random.default_rng(8)
    a, c, e = rng.normal(size=(b, 24, 2)), rng.normal(size=(b, 6)), rng.normal(size=(b, 72))
    i = np.arange(b) % 3
    subjects = (a[:, d["id"], 0] + 0.7 * a[:, d["id"], 1] * d["t"]) * (i != 1)[:, None]
    return 1 + 0.3 * d["t"] + subjects + c[:, d["item"]] * (i != 2)[:, None] + e


L, RHS = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, -1.0]]), np.array([0.2, 0.1])


def check(found, i, by, rows=L, rhs=RHS, rtol=1e-5, of=None):
    """Lane i of a batch against a single fit's tests; `of`: those of the fit whose design says how rows are written."""
    assert found.status[i] == OK and by.note == ""
    single = by.rows(rows, rhs)
    for name in ("estimate", "se", "df", "p"):
        np.testing.assert_allclose(getattr(found, name)[i], getattr(single, name), rtol=rtol, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(found.statistic[i], single.statistic, rtol=rtol, atol=1e-6)
    joint = by.joint_of(rows, rhs)
    joint = joint if of is None else by.joint(*of.canonical(rows, rhs))._replace(statistic=joint.statistic)
    assert found.num_df == joint.num_df
    assert found.joint[i] == pytest.approx(joint.statistic, rel=rtol, abs=1e-9)
    assert found.den_df[i] == pytest.approx(joint.den_df, rel=rtol)
    assert found.joint_p[i] == pytest.approx(joint.p, rel=100 * rtol, abs=1e-12)


@functools.cache
def singles(name):
    return [fit(name).refit(y) for y in drawn()]


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("slopes", ("satterthwaite", "residual")),
        pytest.param("crossed", ("kenward-roger",), marks=pytest.mark.slow),
        *(pytest.param(name, METHODS, marks=pytest.mark.slow) for name in MODELS),
    ],
    ids=lambda given: given if isinstance(given, str) else str(len(given)),
)
def test_every_lane_is_its_single_fit(name, methods):
    """Interior and singular lanes by every method."""
    batch = fit(name).refit(drawn(), tests=Tests(L, RHS, df=methods))
    assert tuple(batch.tests) == methods
    singular = [single.singular for single in singles(name)]
    assert any(singular) and not all(singular)
    for method in methods:
        for i, single in enumerate(singles(name)):
            check(batch.tests[method], i, single.wald(method))


@pytest.mark.parametrize("name", ["slopes", pytest.param("ar1", marks=pytest.mark.slow)])
def test_degrees_of_freedom_of_the_design_are_those_of_single_fits(name):
    methods = ("satterthwaite", "containment") + (("between-within", "between-within-sas") if name == "slopes" else ())
    batch = fit(name).refit(drawn(), tests=Tests(L, RHS, df=methods))
    for method in methods[1:]:
        for i in (0, 4):
            check(batch.tests[method], i, singles(name)[i].wald(method))
    assert not np.allclose(batch.tests["containment"].df, batch.tests["satterthwaite"].df)


@pytest.mark.slow
@pytest.mark.parametrize("df", ["kenward-roger", "satterthwaite"])
def test_rows_that_repeat_others(df):
    """The third row is a combination of the first two; single fits take the eigenvectors of all three."""
    rows, rhs = np.vstack([L, 2 * (L[0] - L[1])]), np.append(RHS, 2 * (RHS[0] - RHS[1]))
    batch = fit("slopes").refit(drawn(), tests=Tests(rows, rhs, df=df))
    for i, single in enumerate(singles("slopes")):
        check(batch.tests[df], i, single.wald(df), rows, rhs)


@pytest.mark.parametrize(
    ("df", "information", "boundary"),
    some(
        [
            ("kenward-roger", "expected", None),
            ("satterthwaite", "expected", "keep"),
            ("kenward-roger", "average", "drop"),
        ],
        ("satterthwaite", "expected", "keep"),
    ),
)
@pytest.mark.parametrize("name", ["slopes", pytest.param("ar1", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_information_and_boundary_are_those_of_single_fits(name, df, information, boundary):
    batch = fit(name).refit(drawn(), tests=Tests(L, RHS, df, information, boundary))
    for i, single in enumerate(singles(name)):
        check(batch.tests[df], i, single.wald(df, information, boundary))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["CR0", "CR3"])
def test_robust_tests(kind):
    batch = fit("slopes").refit(drawn(), tests=Tests(L, RHS, df="residual", robust=kind))
    assert tuple(batch.tests) == ("residual", kind)
    for i, single in enumerate(singles("slopes")):
        by = single.wald(robust=kind)
        rows = by.rows(L, RHS)
        np.testing.assert_allclose(batch.tests[kind].se[i], rows.se, rtol=1e-6)
        np.testing.assert_allclose(batch.tests[kind].df[i], rows.df, rtol=1e-5)


def subset(d, keep):
    return {name: column[keep] for name, column in d.items()}


@pytest.mark.slow
def test_missing_responses_are_dropped_lane_by_lane():
    """Against fits of the rows that are there; a lane of which nothing is left has no tests."""
    Y = drawn()[:4].copy()
    rng = np.random.default_rng(9)
    Y[rng.random(Y.shape) < 0.15] = np.nan
    Y[3] = np.nan
    methods = ("satterthwaite", "kenward-roger")
    batch = fit("slopes").refit(Y, missing="drop", tests=Tests(L, RHS, df=methods))
    for i in range(3):
        keep = np.isfinite(Y[i])
        single = jaxlmm.lmm(MODELS["slopes"][0], subset(data() | {"y": Y[i]}, keep))
        for method in methods:
            check(batch.tests[method], i, single.wald(method), of=fit("slopes").wald(method))
    for method in methods:
        found = batch.tests[method]
        assert found.status[3] == TestStatus.NOT_FITTED
        assert np.isnan([found.df[3], found.se[3], found.p[3]]).all() and np.isnan(found.joint_p[3])


@pytest.mark.slow
def test_coefficients_that_a_lane_cannot_estimate():
    """Visits 1 and 2 are missing: no slope of t, but one of x."""
    Y = drawn()[:2].copy()
    Y[1, data()["t"] > 0] = np.nan
    model = Model(Y[0], fit("crossed").model.X, [Term(np.ones(72), data()["item"])])
    x_only = np.array([[0.0, 0.0, 1.0]])
    slope, rest = (
        jaxlmm.fit_batch(model, Y, missing="drop", tests=Tests(rows, df=("satterthwaite", "kenward-roger"))).tests
        for rows in (L, x_only)
    )
    single = jaxlmm.lmm("y ~ x + (1 | item)", subset(data() | {"y": Y[1]}, data()["t"] == 0))
    for method in slope:
        assert list(slope[method].status) == [OK, TestStatus.NOT_ESTIMABLE]
        assert np.isnan(slope[method].df[1]).all()
        check(rest[method], 1, single.wald(method), [[0.0, 1.0]], 0.0)


@pytest.mark.slow
def test_a_column_that_differs_between_lanes():
    values = np.random.default_rng(10).normal(size=(3, 72))
    batch = fit("slopes").refit(drawn()[:3], column="x", values=values, tests=Tests(L, RHS, df=("kenward-roger",)))
    for i in range(3):
        single = jaxlmm.lmm(MODELS["slopes"][0], data() | {"y": drawn()[i], "x": values[i]})
        check(batch.tests["kenward-roger"], i, single.wald("kenward-roger"))


@pytest.mark.slow
def test_weights_of_each_lane():
    weights = np.random.default_rng(11).uniform(0.5, 2, size=(2, 72))
    batch = fit("crossed").refit(drawn()[:2], weights=weights, tests=Tests(L, RHS))
    for i in range(2):
        single = jaxlmm.lmm(MODELS["crossed"][0], data() | {"y": drawn()[i], "w": weights[i]}, weights="w")
        check(batch.tests["satterthwaite"], i, single.wald())


@pytest.mark.slow
def test_models_with_designs_of_their_own():
    """Rows, groups and covariates differ."""
    rng = np.random.default_rng(12)
    fits = []
    for i, y in enumerate(drawn()[:4]):
        keep = np.sort(rng.choice(72, 60 + 3 * (i % 2), replace=False))
        fits.append(jaxlmm.lmm(MODELS["slopes"][0], subset(data() | {"y": y, "x": rng.normal(size=72)}, keep)))
    methods = ("satterthwaite", "kenward-roger")
    batch = jaxlmm.fit_batch([one.model for one in fits], tests=Tests(L, RHS, df=methods))
    # without a formula, joint tests are about the columns of X in their units
    columns = SimpleNamespace(canonical=lambda *_: (np.eye(3)[1:], np.array([0.2, 0.1])))
    for method in methods:
        for i, single in enumerate(fits):
            check(batch.tests[method], i, single.wald(method), of=columns)


@pytest.mark.slow
def test_ml_lanes():
    whole = jaxlmm.lmm(MODELS["crossed"][0], data(), method="ML", weights="w")
    batch = whole.refit(drawn()[:3], tests=Tests(L, RHS))
    for i, y in enumerate(drawn()[:3]):
        single = jaxlmm.lmm(MODELS["crossed"][0], data() | {"y": y}, method="ML", weights="w")
        check(batch.tests["satterthwaite"], i, single.wald())
    with pytest.raises(DataError, match="REML"):
        jaxlmm.fit_batch(fit("crossed").model, drawn()[:2], method="ML", tests=Tests(L, df="kenward-roger"))


@pytest.mark.parametrize(
    "methods",
    [("satterthwaite", "residual"), pytest.param(METHODS, marks=pytest.mark.slow)],
    ids=lambda given: str(len(given)),
)
def test_bad_lanes_have_a_status_and_change_nothing(methods):
    Y = drawn()[:5].copy()
    Y[1, 3], Y[3] = np.nan, 2.5
    tests = Tests(L, RHS, df=methods)
    batch, alone = fit("slopes").refit(Y, tests=tests), fit("slopes").refit(drawn()[:5], tests=tests)
    for method, found in batch.tests.items():
        good = [0, 2, 4]
        assert list(np.flatnonzero(found.status != OK)) == [1, 3]
        assert np.all(found.status[[1, 3]] == TestStatus.NOT_FITTED)
        for name in ("estimate", "se", "df", "statistic", "p", "joint", "den_df", "joint_p"):
            values = getattr(found, name)
            assert np.isnan(values[[1, 3]]).all()
            np.testing.assert_allclose(values[good], getattr(alone.tests[method], name)[good], rtol=1e-7, atol=1e-12)


@pytest.mark.slow
def test_results_do_not_depend_on_the_company():
    """Lanes alone, and among many that fill other shapes."""
    kind = "uneven slopes"
    model, Y = design(kind), responses(kind)
    tests = Tests(np.eye(2), df=("satterthwaite", "kenward-roger"))
    many, few = (jaxlmm.fit_batch(model, y, tests=tests).tests for y in (Y, Y[5:7]))
    for method in many:
        np.testing.assert_allclose(many[method].df[5:7], few[method].df, rtol=1e-6)
        np.testing.assert_allclose(many[method].se[5:7], few[method].se, rtol=1e-8)


GROUPS, SIZE = 8, 5


@pytest.mark.slow
@pytest.mark.parametrize("b", [2000, 20_000])
def test_balanced_one_way_data(b):
    """No variance between groups: half of the estimates are zero. Closed forms of the mean squares.

    Satterthwaite has 7 df, or 39 where the variance is zero and dropped; Kenward-Roger has 7 always.
    """
    n = GROUPS * SIZE
    Y = np.random.default_rng(13).normal(size=(b, GROUPS, SIZE)) + 0.3
    model = Model(Y[0].ravel(), np.ones((n, 1)), [Term(np.ones(n), np.repeat(np.arange(GROUPS), SIZE))])
    methods = ("satterthwaite", "kenward-roger", "kenward-roger-full")
    found = jaxlmm.fit_batch(model, Y.reshape(b, n), tests=Tests([[1.0]], 0.3, df=methods)).tests
    between = SIZE * Y.mean(2).var(1, ddof=1)
    within = Y.var(2, ddof=1).mean(1)
    zero = between <= within
    assert 0.45 < zero.mean() < 0.65
    variance = np.where(zero, Y.reshape(b, n).var(1, ddof=1), between) / n
    clear = np.abs(between / within - 1) > 1e-3  # beyond doubt on which side
    gap = Y.mean((1, 2)) - 0.3
    for method, tests in found.items():
        df = np.where(zero & (method == "satterthwaite"), n - 1.0, GROUPS - 1.0)
        fine = tests.status == OK
        assert np.all(fine[clear]), f"{method}: {np.sum(~fine & clear)} without df"
        for name in ("df", "se", "statistic", "p", "den_df", "joint", "joint_p"):
            assert np.isfinite(getattr(tests, name)[fine]).all(), name
        assert np.all(tests.df[fine] > 0) and np.all(tests.den_df[fine] > 0)
        use = clear & fine
        np.testing.assert_allclose(tests.df[use, 0], df[use], rtol=1e-4, err_msg=method)
        np.testing.assert_allclose(tests.den_df[use], df[use], rtol=1e-4)
        np.testing.assert_allclose(tests.se[use, 0], np.sqrt(variance[use]), rtol=1e-6)
        np.testing.assert_allclose(tests.joint[use], gap[use] ** 2 / variance[use], rtol=1e-5, atol=1e-12)
    level = np.mean(found["kenward-roger"].p[:, 0] < 0.05)
    assert level < 0.05 + 3 * np.sqrt(0.05 * 0.95 / b)  # conservative: zeros are pooled


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: Tests(np.zeros((2, 3))), "L: expected"),
        (lambda: Tests([[np.nan, 1.0]]), "L: expected"),
        (lambda: Tests(np.ones((1, 2, 2))), "L: expected"),
        (lambda: Tests(L, [1.0, 2.0, 3.0]), "rhs: expected"),
        (lambda: Tests(L, df="kr"), "df: found 'kr'"),
        (lambda: Tests(L, df=("satterthwaite", "between")), "df: found 'between'"),
        (lambda: jaxlmm.fit_batch(fit("slopes").model, drawn()[:2], tests=Tests(L, df="containment")), "of a formula"),
        (
            lambda: fit("slopes").refit(
                np.where(np.arange(72) == 3, np.nan, drawn()[:2]), missing="drop", tests=Tests(L, df="between-within")
            ),
            "lost rows",
        ),
        (lambda: Tests(L, information="fisher"), "information: found 'fisher'"),
        (lambda: Tests(L, boundary_df="no"), "boundary_df: found 'no'"),
        (lambda: Tests(L, robust="CR2"), "robust: found 'CR2'"),
        (lambda: fit("slopes").refit(drawn()[:2], tests=Tests([[1.0, 0.0]])), "L has 2 columns, expected 3"),
        pytest.param(
            lambda: fit("slopes").refit(drawn()[:2], weights=np.ones((2, 72)), tests=Tests(L, robust="CR0")),
            "robust= needs one model",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: fit("crossed").refit(drawn()[:2], tests=Tests(L, df="residual", robust="CR0")),
            "at least 2 independent clusters",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bad_requests_get_one_sentence(given, words):
    with pytest.raises(DataError, match=words):
        given()


@pytest.mark.slow
def test_hypotheses_are_judged_one_by_one():
    """Three arms, of which one is missing in some data sets: what the other two say is tested, nothing else."""
    rng = np.random.default_rng(3)
    subject = np.repeat(np.arange(18), 3)
    frame = {"id": subject, "x": rng.normal(size=54), "arm": np.array(list("ABC"))[subject % 3]}
    frame["y"] = rng.normal(size=54) + rng.normal(size=18)[subject]
    whole = jaxlmm.lmm("y ~ arm + x + (1 | id)", frame)
    L = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [0, -1, 1, 0], [0, 0, 0, 1]])  # B - A, C - A, C - B, x
    Y = np.stack([frame["y"], *(np.where(frame["arm"] == arm, np.nan, frame["y"]) for arm in "CBA"), np.full(54, 1.0)])
    many = whole.refit(Y, missing="drop", tests=Tests(L, df=["satterthwaite", "kenward-roger"]))
    N, F = TestStatus.NOT_ESTIMABLE, TestStatus.NOT_FITTED
    expected = [[OK] * 4, [OK, N, N, OK], [N, OK, N, OK], [N, N, OK, OK], [F] * 4]
    for df, found in many.tests.items():
        np.testing.assert_array_equal(found.each_status, expected)
        np.testing.assert_array_equal(found.status, [OK, N, N, N, F])
        for name in ("estimate", "se", "df", "p"):
            np.testing.assert_array_equal(np.isfinite(getattr(found, name)), np.array(expected) == OK)
        for lane, arms, row in ((1, "AB", 0), (2, "AC", 1), (3, "BC", 2)):
            some = np.isin(frame["arm"], list(arms))
            one = jaxlmm.lmm("y ~ arm + x + (1 | id)", {k: v[some] for k, v in frame.items()})
            single = one.wald(df).rows(np.eye(3)[1:])
            for name in ("estimate", "se", "df", "p"):
                np.testing.assert_allclose(getattr(found, name)[lane, [row, 3]], getattr(single, name), rtol=1e-5)
        assert "not_estimable: 3" in str(found) and list(found.frame()["joint_status"][4:8]) == ["not_estimable"] * 4


@pytest.mark.slow
def test_what_is_not_identified_matters_to_hypotheses_that_it_moves():
    """Means of a visit whose variance is told by nothing, as it is saturated, and of the others."""
    rng = np.random.default_rng(5)
    subject, visit = np.divmod(np.arange(60), 3)
    frame = {"id": subject, "visit": visit.astype(str), "y": rng.normal(size=60) + rng.normal(size=20)[subject]}
    frame["only"] = np.where(visit == 2, subject, -1).astype(str)
    kept = (visit != 2) | (subject < 2)  # two subjects at the last visit, each with a mean of its own
    frame = {k: v[kept] for k, v in frame.items()}
    with pytest.warns(jaxlmm.DroppedColumnsWarning):
        one = jaxlmm.lmm("y ~ 0 + C(visit) + C(only)", frame, residual="diag(visit | id)")
    many = jaxlmm.fit_batch(one.model, tests=Tests(np.eye(one.model.X.shape[1])))
    single = one.wald().rows(np.eye(len(one.coef)))
    found = many.tests["satterthwaite"]
    np.testing.assert_array_equal(np.isfinite(found.df[0]), np.isfinite(single.df))
    there = np.isfinite(single.df)
    assert 0 < there.sum() < len(there)
    np.testing.assert_allclose(found.df[0, there], single.df[there], rtol=1e-5)
    assert not np.any((found.each_status[0] == OK) & ~np.isfinite(found.p[0]))


def test_other_hypotheses_of_the_same_rows():
    """Non-inferiority, equivalence and a null, each from estimates and errors as they are."""
    estimate, se, df = np.array([[1.0, -0.5]]), np.array([[0.5, 0.4]]), np.array([[8.0, np.nan]])
    one = np.zeros(1)
    found = LaneTests(estimate, se, df, estimate / se, estimate, one, one, one, 2.0, np.zeros(1, int))
    less = found.against(side="greater", delta=0.3)
    np.testing.assert_allclose(less.p[0, 0], stats.t.sf((1.0 + 0.3) / 0.5, 8), rtol=1e-12)
    assert np.isnan(less.p[0, 1]) and less.joint is found.joint
    same = found.against(null=[0.8, 0.0], delta=1.5)
    np.testing.assert_allclose(same.p[0, 0], stats.t.cdf((0.2 - 1.5) / 0.5, 8), rtol=1e-12)
    np.testing.assert_allclose(found.against(0.4).p[0, 0], 2 * stats.t.sf(0.6 / 0.5, 8), rtol=1e-12)
    with pytest.raises(DataError, match="side: found 'above'"):
        found.against(side="above")
    for null in (np.nan, [0.0, 0.0, 0.0], [[0.0, 0.0]]):
        with pytest.raises(DataError, match="null: found"):
            found.against(null)


@pytest.mark.parametrize(
    "L", ["x", ["x", "(Intercept)"], {"x": 2.0, "(Intercept)": -1.0}, {"a": {"x": 1.0}, "b": [1, 0]}]
)
def test_hypotheses_by_name(L):
    rng = np.random.default_rng(8)
    data = {"g": np.arange(40) % 8, "x": rng.normal(size=40), "y": rng.normal(size=40)}
    fit = jaxlmm.lmm("y ~ x + (1 | g)", data)
    Y = fit.simulate(3, seed=1)
    found = fit.refit(Y, tests=jaxlmm.Tests(L)).tests["satterthwaite"]
    right = fit.refit(Y[1]).test(L)
    assert found.names == right.names
    np.testing.assert_allclose(found.statistic[1], right.rows.statistic, rtol=1e-6)
    assert list(found.frame()["hypothesis"])[: len(right.names)] == list(right.names)
    assert list(found.top(1, right.names[-1])["statistic"])[0] in found.statistic[:, -1]


def test_names_that_nothing_has():
    data = {"g": np.arange(40) % 8, "x": np.arange(40.0), "y": np.sin(np.arange(40))}
    fit = jaxlmm.lmm("y ~ x + (1 | g)", data)
    Y = np.tile(fit.model.y, (2, 1))
    with pytest.raises(DataError, match="found coefficient 'z', expected some of"):
        fit.refit(Y, tests=jaxlmm.Tests("z"))
    with pytest.raises(DataError, match=r"names of coefficients are for Fit.refit"):
        jaxlmm.fit_batch([fit.model], tests=jaxlmm.Tests("x"))
    with pytest.raises(DataError, match="hypothesis: found 'z', expected 'x' or 0 to 0"):
        fit.refit(Y, tests=jaxlmm.Tests("x")).tests["satterthwaite"].top(hypothesis="z")
