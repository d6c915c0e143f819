"""Which value belongs to which row, and which is missing: masked arrays, Series with an index, names of columns."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import jaxlmm
from jaxlmm.errors import DataError
from jaxlmm.formula.parser import parse
from jaxlmm.frames.columns import read_column

N = 60
BAD = np.arange(N) < 5


@cache
def columns():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(10), 6)
    x = rng.normal(size=N)
    y = 0.5 * x + rng.normal(size=N) + rng.normal(size=10)[g]
    return {"y": y, "x": x, "g": g, "w": rng.uniform(0.5, 2, N), "o": rng.normal(size=N)}


def masked(values, fill):
    return np.ma.masked_array(np.where(BAD, fill, values), mask=BAD)


@cache
def without():
    return jaxlmm.lmm("y ~ x + (1 | g)", {n: v[~BAD] for n, v in columns().items()})


# ---------------------------------------------------------------------------- masked arrays


@pytest.mark.parametrize("name", ["y", "x", "g"])
def test_masked_entries_of_columns_are_missing(name):
    d = {**columns(), name: masked(columns()[name], -9999)}
    fit = jaxlmm.lmm("y ~ x + (1 | g)", d)
    assert fit.nobs == 55 and fit.frame.n_missing == 5
    np.testing.assert_allclose(fit.coef, without().coef, rtol=1e-8)
    assert np.ma.is_masked(fit.data[name])
    with pytest.raises(DataError, match=f"newdata has 5 missing value.s. in column '{name}'"):
        fit.frame.design(d, response=True)
    if name != "y":
        np.testing.assert_array_equal(np.isnan(fit.predict(d)), np.ma.getmaskarray(d[name]))


@pytest.mark.parametrize(
    "values",
    [
        np.arange(6), np.arange(6.0), np.array(list("abcabc")), np.array([True, False] * 3),
        np.arange(6).astype("datetime64[D]"), np.array(["a", None, "b", "a", "b", "a"], dtype=object),
        np.array([2**60 + k for k in range(6)]), np.array([b"a", b"b"] * 3),
    ],
    ids=lambda v: str(v.dtype),
)  # fmt: skip
def test_every_type_keeps_its_mask_and_nothing_behind_it(values):
    mask = np.array([True, False, False, True, False, False])
    found, plain = read_column("v", np.ma.masked_array(values, mask)), read_column("v", values[~mask])
    expected = mask | np.array([v is None for v in values.tolist()])
    np.testing.assert_array_equal(found.missing, expected)
    assert found.kind == plain.kind and found.levels == plain.levels
    rows = np.flatnonzero(~expected)
    kept = plain.take(np.flatnonzero(~expected[~mask]))
    np.testing.assert_array_equal(found.take(rows).values, kept.values)
    assert read_column("v", np.ma.masked_array(values, True)).missing.all()
    unmasked = read_column("v", np.ma.masked_array(values, False))
    np.testing.assert_array_equal(unmasked.values, read_column("v", values).values)


def test_the_masked_constant_in_a_list_is_missing():
    np.testing.assert_array_equal(read_column("v", [1.0, np.ma.masked, 3.0]).missing, [False, True, False])


@pytest.mark.parametrize("name", ["weights", "offset"])
def test_masked_weights_and_offsets_are_missing(name):
    values = columns()["w" if name == "weights" else "o"]
    fit = jaxlmm.lmm("y ~ x + (1 | g)", columns(), **{name: masked(values, 1e6)})
    rest = {n: v[~BAD] for n, v in columns().items()}
    expected = jaxlmm.lmm("y ~ x + (1 | g)", rest, **{name: values[~BAD]})
    np.testing.assert_allclose(fit.coef, expected.coef, rtol=1e-8)


def test_masked_responses_of_batches_are_missing():
    d = columns()
    fit = jaxlmm.lmm("y ~ x + (1 | g)", d)
    Y = np.stack([d["y"], d["y"][::-1]])
    bad = np.zeros((2, N), bool)
    bad[1, :5] = True
    hidden = np.ma.masked_array(np.where(bad, -9999.0, Y), bad)
    expected = fit.refit(np.where(bad, np.nan, Y), missing="drop")
    for given in (hidden, list(hidden)):
        np.testing.assert_array_equal(fit.refit(given, missing="drop").coef, expected.coef)
    assert fit.refit(hidden).status[1] == jaxlmm.Status.BAD_RESPONSE
    with pytest.raises(DataError, match="y: 5 values are masked"):
        fit.refit(hidden[1])


def test_masked_arrays_are_refused_by_the_arrays():
    d, one = columns(), np.ones(N)
    X = np.column_stack([one, d["x"]])
    term = jaxlmm.Term(one, d["g"])
    for words, make in {
        "y: 5 values are masked": lambda: jaxlmm.Model(masked(d["y"], 0.0), X, [term]),
        "X: 60 values": lambda: jaxlmm.Model(d["y"], np.ma.masked_greater(X, 0.99), [term]),
        "weights: 5 values": lambda: jaxlmm.Model(d["y"], X, [term], weights=masked(one, 1.0)),
        "offset: 5 values": lambda: jaxlmm.Model(d["y"], X, [term], offset=masked(one, 1.0)),
        "Z of animal: 5 values": lambda: jaxlmm.Term(masked(d["x"], 0.0), d["g"], name="animal"),
        "group of animal: 5 values": lambda: jaxlmm.Term(one, masked(d["g"], 0), name="animal"),
        "relationship of animal": lambda: jaxlmm.Term(
            one, d["g"], name="animal", relationship=np.ma.masked_array(np.eye(10), np.eye(10) == 0)
        ),
        "position of residual": lambda: jaxlmm.Residual(
            jaxlmm.Unstructured(), d["g"], masked(np.tile(np.arange(6), 10), 0)
        ),
        "coords of residual": lambda: jaxlmm.Residual(
            jaxlmm.covariance.OrnsteinUhlenbeck(), d["g"], coords=masked(np.arange(60.0), 0.0)
        ),
    }.items():
        if words.startswith("X"):
            words = f"X: {int((X > 0.99).sum())} values"
        with pytest.raises(DataError, match=words):
            make()
    with pytest.raises(DataError, match="relationship.'g'.: 90 values are masked"):
        A = np.ma.masked_array(np.eye(10), np.eye(10) == 0)
        jaxlmm.lmm("y ~ x + (1 | g)", d, relationship={"g": A})


@pytest.mark.parametrize("labels", [np.where(BAD, np.nan, 1.0), np.where(BAD, None, "a"), ["NaT"] * 5 + ["2020"] * 55])
def test_missing_labels_are_no_level(labels):
    labels = np.array(labels, "datetime64[D]") if isinstance(labels, list) else labels
    with pytest.raises(DataError, match="group of random term: 5 labels are missing"):
        jaxlmm.Term(np.ones(N), labels)


# ---------------------------------------------------------------------------- Series


@pytest.fixture(name="frame")
def _frame():
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(columns(), index=[f"row{k}" for k in range(N)])


SHUFFLED = np.random.default_rng(1).permutation(N)


@pytest.mark.parametrize("name", ["weights", "offset"])
def test_series_are_put_into_the_order_of_the_data(frame, name, tmp_path):
    column = "w" if name == "weights" else "o"
    expected = jaxlmm.lmm("y ~ x + (1 | g)", frame, **{name: column})
    series = frame[column]
    pandas = pytest.importorskip("pandas")
    longer = pandas.concat([series.iloc[SHUFFLED], pandas.Series([3.0], ["other"])])
    for given in (series, series.iloc[SHUFFLED], longer):
        fit = jaxlmm.lmm("y ~ x + (1 | g)", frame, **{name: given})
        np.testing.assert_allclose(fit.coef, expected.coef, rtol=1e-10)
    fit.save(tmp_path / "fit")
    np.testing.assert_array_equal(jaxlmm.load(tmp_path / "fit").refit(fit.model.y).coef, fit.refit(fit.model.y).coef)
    for given, words in (
        (series.reset_index(drop=True), f"{name}: the index of the Series is not that of the data, it lacks 60"),
        (series.iloc[:-1], "it lacks 1 of the rows"),
        (series.rename({"row1": "row0"}), "has labels more than once"),
    ):
        with pytest.raises(DataError, match=words):
            jaxlmm.lmm("y ~ x + (1 | g)", frame, **{name: given})
    by_position = jaxlmm.lmm("y ~ x + (1 | g)", frame, **{name: series.iloc[SHUFFLED].to_numpy()})
    assert abs(by_position.coef - expected.coef).max() > 1e-4


def test_frames_without_an_index_take_series_that_have_none(frame):
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    expected = jaxlmm.lmm("y ~ x + (1 | g)", frame, weights="w").coef
    for data in (columns(), polars.DataFrame(columns()), pyarrow.table(columns())):
        for given in (frame.w.reset_index(drop=True), polars.Series(frame.w.to_numpy()), pyarrow.array(frame.w)):
            np.testing.assert_allclose(jaxlmm.lmm("y ~ x + (1 | g)", data, weights=given).coef, expected, rtol=1e-10)
        with pytest.raises(DataError, match="an index of its own, which the data lack"):
            jaxlmm.lmm("y ~ x + (1 | g)", data, weights=frame.w)
    series = {name: frame[name] for name in frame}
    shuffled = frame.w.iloc[SHUFFLED]
    np.testing.assert_allclose(jaxlmm.lmm("y ~ x + (1 | g)", series, weights=shuffled).coef, expected, rtol=1e-10)


def test_series_with_different_indexes_are_no_data(frame):
    d = {"y": frame.y, "x": frame.x.iloc[SHUFFLED], "g": frame.g}
    with pytest.raises(DataError, match="data: y and x have different indexes"):
        jaxlmm.lmm("y ~ x + (1 | g)", d)
    with pytest.raises(DataError, match="newdata: x and g have different indexes"):
        without().predict({"x": d["x"], "g": d["g"]})
    X = frame[["x"]].iloc[SHUFFLED]
    for words, make in {
        "Model: y and X have different indexes": lambda: jaxlmm.Model(frame.y, X),
        "Model: y and weights": lambda: jaxlmm.Model(frame.y, frame[["x"]], weights=frame.w.iloc[SHUFFLED]),
        "animal: Z and group": lambda: jaxlmm.Term(X, frame.g, name="animal"),
        "residual: group and coords": lambda: jaxlmm.Residual(
            jaxlmm.covariance.OrnsteinUhlenbeck(), frame.g, coords=frame.x.iloc[SHUFFLED]
        ),
    }.items():
        with pytest.raises(DataError, match=words):
            make()


def test_responses_clusters_and_groups_by_index(frame):
    frame = frame.assign(x=frame.x.where(~BAD))
    fit = jaxlmm.lmm("y ~ x + (1 | g)", frame)
    assert fit.nobs == 55
    y = frame.o + frame.y
    expected = fit.refit(y.to_numpy()[5:])
    for given in (y, y.iloc[5:], y.iloc[SHUFFLED]):
        np.testing.assert_array_equal(fit.refit(given).coef, expected.coef)
    with pytest.raises(DataError, match="y: the index of the Series is not that of the data, it lacks 55"):
        fit.refit(y.iloc[5:].reset_index(drop=True))
    Y = frame[["y", "o"]].T
    many = fit.refit(Y.to_numpy()[:, 5:])
    for given in (Y, Y.iloc[:, SHUFFLED], Y.iloc[:, 5:]):
        np.testing.assert_array_equal(fit.refit(given).coef, many.coef)
    X = frame[["o", "w"]].T
    values = fit.refit(Y, column="x", values=X.iloc[:, SHUFFLED]).coef
    np.testing.assert_array_equal(values, fit.refit(Y, column="x", values=X.to_numpy()[:, 5:]).coef)
    with pytest.raises(DataError, match="values: the index of the DataFrame"):
        fit.refit(Y, column="x", values=X.set_axis(list(range(1, N + 1)), axis=1))
    cluster = (frame.g // 2).iloc[SHUFFLED]
    expected = fit.test("x", robust="CR1", cluster=cluster.sort_index().reindex(frame.index).to_numpy())
    found = fit.test("x", robust="CR1", cluster=cluster)
    np.testing.assert_allclose(found.frame()["p_value"], expected.frame()["p_value"], rtol=1e-10)
    a, b = fit.influence(cluster, exact="none"), fit.influence((frame.g // 2).to_numpy(), exact="none")
    np.testing.assert_allclose(a.cooks, b.cooks, rtol=1e-10)
    with pytest.raises(DataError, match="by: the index of the Series"):
        fit.influence(cluster.reset_index(drop=True))
    with pytest.raises(DataError, match="by: 1 of the rows used have no value"):
        fit.influence(np.where(np.arange(N) == 7, np.nan, frame.g))


def test_labels_beside_those_of_a_data_frame_of_relationships(frame):
    pandas = pytest.importorskip("pandas")
    A = pandas.DataFrame(np.eye(10) + 0.1, range(10), range(10))
    other = A.set_axis(list("abcdefghij")).set_axis(list("abcdefghij"), axis=1)
    jaxlmm.lmm("y ~ x + (1 | g)", frame, relationship={"g": (A, np.arange(10))})
    with pytest.raises(DataError, match="the labels given are not those of the DataFrame's index"):
        jaxlmm.lmm("y ~ x + (1 | g)", frame, relationship={"g": (other, np.arange(10))})


# ---------------------------------------------------------------------------- names

NAMES = ("pi", "e", "exp", "log", "scale", "C", "poly", "bs", "I", "np", "factor", "contr", "cs", "np.pi", "TRUE")
FORMULAS = (
    "y ~ {} + (1 | g)",
    "y ~ x + offset({}) + (1 | g)",
    "y ~ x + I(x * {}) + (1 | g)",
    "y ~ scale({}) + poly(x, 2) + (1 | g)",
    "log(exp({})) ~ x + (0 + {} | g)",
    "y ~ x * {} + (1 | g)",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_column_is_a_column_whatever_its_name(name):
    d = columns()
    plain = {**d, "q": d["o"] + 1.5}
    d = {**d, name: plain["q"]}
    for text in FORMULAS:
        design = [
            jaxlmm.interface.model_of(text.replace("{}", own), data)[1] for own, data in ((name, d), ("q", plain))
        ]
        a, b = design
        for one, other in ((a.y, b.y), (a.X, b.X), (a.offset, b.offset), (a.random[0].Z, b.random[0].Z)):
            np.testing.assert_array_equal(one, other)
        assert parse(text.replace("{}", name), None, d).text == text.replace("{}", name)


@pytest.mark.parametrize("name", ["pi", "exp", "C"])
def test_a_column_is_a_column_in_every_argument(name):
    d = columns()
    plain = {**d, "q": np.tile(np.arange(6), 10)}
    d = {**d, name: plain["q"]}
    fits = [
        jaxlmm.lmm(
            f"y ~ {own} + (1 | g)", data, residual=f"ar1({own} | g)", variance=f"power({own}, 0.1)", weights="w",
            offset=own,
        )
        for own, data in ((name, {**d, name: d[name] + 1}), ("q", {**plain, "q": plain["q"] + 1}))
    ]  # fmt: skip
    assert fits[0].loglik == fits[1].loglik
    new = {"g": np.arange(3), "w": np.ones(3), name: np.arange(3) + 1.0, "q": np.arange(3) + 1.0}
    np.testing.assert_array_equal(*(fit.predict(new) for fit in fits))
    assert fits[0].coef_names[1] == name
    grouped = [jaxlmm.interface.model_of(f"y ~ x + (1 | {own})", data)[1] for own, data in ((name, d), ("q", plain))]
    np.testing.assert_array_equal(grouped[0].random[0].group, grouped[1].random[0].group)


def test_without_such_a_column_names_mean_what_they_mean():
    d = {**columns(), "h": np.tile(["a", "b", "c"], 20)}
    a = jaxlmm.interface.model_of("y ~ sin(2 * pi * x) + C(h, contr.sum) + scale(x, scale=False) + (1 | g)", d)[1]
    np.testing.assert_allclose(a.X[:, 1], np.sin(2 * np.pi * d["x"]))
    d = {**d, "scale": d["o"], "contr.sum": d["o"], "False": d["o"], "np.pi": d["o"]}
    b = jaxlmm.interface.model_of("y ~ sin(2 * pi * x) + C(h, contr.sum) + scale(x, scale=False) + (1 | g)", d)[1]
    np.testing.assert_array_equal(a.X, b.X)
    c = jaxlmm.interface.model_of("y ~ sin(2 * np.pi * x) + (1 | g)", {**columns(), "pi": d["o"]})[1]
    np.testing.assert_allclose(c.X[:, 1], np.sin(2 * np.pi * d["x"]))


def test_means_by_a_column_called_pi():
    d = {**columns(), "pi": np.where(np.arange(N) % 2, "a", "b")}
    fit, plain = (jaxlmm.lmm(f"y ~ x * {n} + (1 | g)", {**d, "q": d["pi"]}) for n in ("pi", "q"))
    np.testing.assert_allclose(
        fit.emmeans("pi").frame()["estimate"], plain.emmeans("q").frame()["estimate"], rtol=1e-10
    )
    np.testing.assert_allclose(
        fit.slopes("x", by="pi").frame()["estimate"], plain.slopes("x", by="q").frame()["estimate"], rtol=1e-10
    )
    numbers = {**columns(), "pi": columns()["o"]}
    fit, plain = (jaxlmm.lmm(f"y ~ x * {n} + (1 | g)", {**numbers, "q": numbers["pi"]}) for n in ("pi", "q"))
    np.testing.assert_allclose(fit.slopes("pi").frame()["estimate"], plain.slopes("q").frame()["estimate"], rtol=1e-10)
    np.testing.assert_allclose(
        fit.emtrends("pi").frame()["estimate"], plain.emtrends("q").frame()["estimate"], rtol=1e-10
    )


def test_masked_hypotheses_are_refused():
    L = np.ma.masked_array(np.eye(2), [[False, True], [True, False]])
    with pytest.raises(DataError, match="L: 2 values are masked"):
        without().test(L)
    with pytest.raises(DataError, match="rhs: 1 values are masked"):
        without().test(["x", "x"], rhs=[1.0, np.ma.masked])
