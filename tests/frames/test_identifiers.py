"""Levels are told apart by value: large and missing integers, decimal keys, times, bytes, from every library."""

from __future__ import annotations

import datetime as dt
import pickle
import uuid
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import jaxlmm
from jaxlmm.design.frame import build_frame
from jaxlmm.design.grouping import group_codes
from jaxlmm.errors import DataError, FormulaError, LevelsWarning
from jaxlmm.formula.parser import parse
from jaxlmm.frames.columns import read_column
from jaxlmm.frames.levels import Levels, key_of, numbered

BASE = 1_234_567_890_123_456_700  # 19 digits
G, N = 10, 60
NOON = dt.datetime(2024, 3, 31, 12, 0, 0, 1)
UTC, EAST = dt.UTC, dt.timezone(dt.timedelta(hours=2))

# Values of three groups, and the types of the libraries that can hold them
KEYS = {
    "large": ([BASE, BASE + 1, BASE + 2], "Int64", None, None),
    "unsigned": ([2**64 - 3, 2**64 - 2, 2**64 - 1], "UInt64", pl.UInt64, pa.uint64()),
    "around two to the 53": ([2**53, 2**53 + 1, 2**53 + 2], "Int64", None, None),
    "larger than 64 bits": ([2**90, 2**90 + 1, 2**90 + 2], object, pl.Int128, None),
    "floats": ([0.1, 0.3, 0.1 + 0.2], None, None, None),
    "decimals": ([Decimal("0.1"), Decimal("0.30"), Decimal("7")], object, None, None),
    "long decimals": ([Decimal(f"0.12345678901234567890{i}") for i in range(1, 4)], object, None, None),
    "decimal ids": ([Decimal(BASE + i) for i in range(3)], object, None, None),
    "dates": ([dt.date(2024, 1, i) for i in (1, 2, 3)], object, None, None),
    "times": ([NOON + dt.timedelta(microseconds=i) for i in range(3)], None, None, None),
    "times with a zone": ([(NOON + dt.timedelta(hours=i)).replace(tzinfo=UTC) for i in range(3)], None, None, None),
    "durations": ([dt.timedelta(milliseconds=i) for i in (1, 2, 3)], None, None, None),
    "times of day": ([dt.time(1, 2, i) for i in range(3)], object, None, None),
    "bytes": ([b"ab", b"ab\0", b"\xff\0"], object, None, None),
    "text": (["1", "10", "2"], None, None, None),
    "text with null characters": (["a", "a\0", "b"], object, None, None),
    "booleans": ([False, True, True], "boolean", None, None),
    "identifiers": ([uuid.UUID(int=i) for i in (1, 2, 3)], object, pl.Object, "uuid"),
}  # fmt: skip


def arrow_of(values, kind):
    if kind == "uuid":
        return pa.array([v and v.bytes for v in values], type=pa.uuid())
    return pa.chunked_array([pa.array(values, type=kind)])


@pytest.mark.parametrize("gap", [False, True], ids=["complete", "with a missing value"])
@pytest.mark.parametrize("name", KEYS)
def test_every_library_gives_the_same_groups(name, gap):
    keys, of_pandas, of_polars, of_arrow = KEYS[name]
    rows = [2, 0, 1, 1, 0, 2]
    values = [keys[i] for i in rows] + [None] * gap
    columns = {"list": values, "pandas": pd.Series(values, dtype=of_pandas)}
    columns["polars"] = pl.Series(values, dtype=of_polars)
    if name != "larger than 64 bits":
        columns["pyarrow"] = arrow_of(values, of_arrow)
    if name not in ("unsigned", "text with null characters", "booleans"):
        columns["objects"] = np.array([*values, 0], dtype=object)[:-1]
        columns["categories"] = pd.Series(pd.Categorical(values))
    if name in ("large", "unsigned"):
        columns["pandas over arrow"] = pd.Series(
            values, dtype="int64[pyarrow]" if name == "large" else "uint64[pyarrow]"
        )
    expected = [keys.index(keys[i]) for i in rows]
    for kind, column in columns.items():
        found = read_column("g", column).as_factor()
        same = np.unique(expected, return_inverse=True)[1]
        assert found.values.tolist() == [*same, *[-1] * gap], kind
        assert found.levels.keys == tuple(key_of(k) for k in dict.fromkeys(keys)), kind
        assert len(set(found.levels)) == len(set(keys)), kind
        assert found.levels == read_column("g", values).as_factor().levels, kind
        if gap:
            assert found.missing.tolist() == [False] * 6 + [True], kind
    again = pickle.loads(pickle.dumps(found.levels))
    assert (again, again.keys) == (found.levels, found.levels.keys)


def test_levels_that_look_alike_have_labels_of_their_own():
    column = read_column("g", pd.Series(pd.Categorical([1, "1", 1], categories=[1, "1"])))
    assert column.levels == ("1", "'1'")
    assert column.values.tolist() == [0, 1, 0]
    assert read_column("g", [1, "1", None]).levels == ("1", "'1'")
    assert read_column("g", ["ab", b"ab"]).levels == ("'ab'", "b'ab'")
    data = {"a": ["x:y", "x", "x:y", "x"], "b": ["z", "y:z", "z", "y:z"]}
    codes, grouping = group_codes(("a", "b"), {name: read_column(name, v) for name, v in data.items()})
    assert codes.tolist() == [1, 0, 1, 0]
    assert len(set(grouping.labels())) == 2
    assert key_of(7) == key_of(7.0) == key_of(np.int8(7)) == key_of(Decimal("7.00"))
    assert len({key_of(v) for v in (1, "1", True, b"1", dt.date(1970, 1, 1))}) == 5
    assert key_of(np.float32(0.25)) == key_of(Decimal("0.25")) == key_of(0.25)


REFUSED = {
    "large floats": (np.array([BASE, BASE + 600.0]), "floats that are too large"),
    "large integers in single precision": (np.array([2**24 + 2, 2], np.float32), "floats that are too large"),
    "objects": ([object(), object()], "compared by value"),
    "picoseconds": (np.array([1, 2], "m8[ps]"), "nanoseconds"),
    "months": (np.array([1, 2], "m8[M]"), "nanoseconds"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_apart_is_refused(name):
    values, words = REFUSED[name]
    with pytest.raises(DataError, match=f"'g'.*{words}"):
        read_column("g", values).as_factor()


# -- interactions


def test_interactions_of_many_large_factors():
    m = 2**16
    rng = np.random.default_rng(1)
    data = {name: np.concatenate([rng.permutation(m), np.arange(m)]) for name in "abcde"}
    data["a"][:m] = data["a"][m:]  # 2^80 combinations: those of the first and second half differ in b to e
    columns = {name: read_column(name, values) for name, values in data.items()}
    codes, grouping = group_codes(tuple("abcde"), columns)
    table = np.column_stack(list(data.values()))
    expected = np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)
    assert len(grouping) == expected.max() + 1
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(grouping.codes(columns), codes)
    labels = grouping.labels()
    for row in (0, 5, m + 5, 2 * m - 1):
        assert labels[codes[row]] == ":".join(map(str, table[row]))
    other = {name: read_column(name, values[:4]) for name, values in data.items()}
    other["e"] = read_column("e", np.r_[data["e"][:2], data["e"][m + 2 : m + 4]])
    known = np.all(np.column_stack([data["e"][:4]]) == np.column_stack([other["e"].values]), axis=1)
    assert known[:2].all()
    np.testing.assert_array_equal(grouping.codes(other), np.where(known, codes[:4], -1))
    extended = grouping.codes(other, extend=True)
    assert (extended[~known] >= len(grouping)).all() and len(set(extended)) == 4


# -- fits


def table():
    rng = np.random.default_rng(1)
    k = np.repeat(np.arange(G), N // G)
    x = rng.normal(size=N)
    return {"k": k, "x": x, "y": x + 3 * rng.normal(size=G)[k] + rng.normal(size=N)}


@pytest.fixture(scope="module")
def reference():
    return jaxlmm.lmm("y ~ x + (1 | k)", table())


IDS = {
    "integers": lambda k: BASE + k,
    "nullable": lambda k: pd.array((BASE + k).tolist(), dtype="Int64"),
    "objects": lambda k: np.array((BASE + k).tolist(), dtype=object),
    "polars": lambda k: pl.Series((BASE + k).tolist()),
    "arrow": lambda k: pa.array((BASE + k).tolist()),
    "zoned": lambda k: pd.Series(pd.to_datetime(BASE + k, utc=True)).dt.tz_convert("Asia/Tokyo"),
    "identifiers": lambda k: [uuid.UUID(int=int(i)) for i in k],
}


@pytest.mark.parametrize("kind", IDS)
def test_fits_and_predictions_by_identifiers(kind, reference, tmp_path):
    data = table()
    data["id"] = IDS[kind](data["k"])
    fit = jaxlmm.lmm("y ~ x + (1 | id)", data)
    assert fit.loglik == reference.loglik
    assert len(set(fit.ranef()["id"].levels)) == G
    np.testing.assert_allclose(fit.predict(data), reference.fitted, rtol=0, atol=1e-12)
    other = {name: values[::-1] for name, values in data.items()} if kind != "arrow" else data
    expected = reference.fitted if kind == "arrow" else reference.fitted[::-1]
    np.testing.assert_allclose(fit.predict(other), expected, rtol=0, atol=1e-12)
    fit.save(tmp_path / "fit")
    loaded = jaxlmm.load(tmp_path / "fit")
    assert loaded.ranef()["id"].levels == fit.ranef()["id"].levels
    np.testing.assert_allclose(loaded.predict(data), reference.fitted, rtol=0, atol=1e-12)


def frame_of(keys):
    data = table()
    return build_frame(parse("y ~ x + (1 | g)"), data | {"g": [keys[i % len(keys)] for i in data["k"]]})


def codes_of(frame, values):
    """Groups of new rows with these values."""
    n = len(values)
    return frame.design({"x": np.zeros(n), "g": values}).terms[0][1].tolist()


SAME = {
    "integers": ([3, 5, 7], [
        np.array([3, 5, 7], np.int32), np.array([3, 5, 7], np.uint64), pd.array([3, 5, 7], dtype="Int64"),
        [3.0, 5.0, 7.0], np.array([3, 5, 7], np.float32), [Decimal(3), Decimal("5.0"), 7],
    ]),
    "times": ([NOON.replace(microsecond=0, day=i) for i in (1, 2, 3)], [
        np.array([f"2024-03-0{i}T12" for i in (1, 2, 3)], f"M8[{unit}]") for unit in ("h", "s", "ms", "us", "ns")
    ]),
    "days": ([dt.date(2024, 3, i) for i in (1, 2, 3)], [
        np.array([f"2024-03-0{i}" for i in (1, 2, 3)], "M8[ns]"), [dt.datetime(2024, 3, i) for i in (1, 2, 3)],
        pl.Series([dt.date(2024, 3, i) for i in (1, 2, 3)]),
    ]),
    "instants": ([NOON.replace(hour=i, tzinfo=UTC) for i in (1, 2, 3)], [
        [NOON.replace(hour=i + 2, tzinfo=EAST) for i in (1, 2, 3)],
        pd.Series([NOON.replace(hour=i, tzinfo=UTC) for i in (1, 2, 3)]).dt.tz_convert("America/New_York"),
        pl.Series([NOON.replace(hour=i, tzinfo=UTC) for i in (1, 2, 3)]).dt.convert_time_zone("Asia/Kolkata"),
        pa.array([NOON.replace(hour=i, tzinfo=UTC) for i in (1, 2, 3)], type=pa.timestamp("ns", "Europe/Berlin")),
    ]),
    "durations": ([dt.timedelta(hours=i) for i in (1, 2, 3)], [
        np.array([1, 2, 3], "m8[h]"), np.array([3600, 7200, 10800], "m8[s]"),
        pl.Series([dt.timedelta(hours=i) for i in (1, 2, 3)], dtype=pl.Duration("ms")),
    ]),
    "decimals": ([0.1, 0.2, 0.7], [[Decimal("0.1"), Decimal("0.20"), Decimal("0.7")]]),
    "text": (["a", "b", "c"], [pd.Categorical(["a", "b", "c"], ["c", "b", "a"]), np.array(["a", "b", "c"])]),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_new_data_of_other_types_units_and_zones_are_the_same_groups(name):
    keys, others = SAME[name]
    frame = frame_of(keys)
    assert codes_of(frame, keys) == [0, 1, 2]
    for values in others:
        assert codes_of(frame, values) == [0, 1, 2], values


OTHERS = {
    "text for integers": ([3, 5, 7], ["3", "5", "7"], "text, but held numbers"),
    "integers for text": (["3", "5", "7"], [3, 5, 7], "numbers, but held text"),
    "true for one": ([0, 1, 2], [True, False, True], "true/false values, but held numbers"),
    "a time without a zone": ([NOON.replace(hour=i, tzinfo=UTC) for i in (1, 2, 3)], [NOON] * 3, "without a time zone"),
    "a zone": ([NOON.replace(hour=i) for i in (1, 2, 3)], [NOON.replace(tzinfo=UTC)] * 3, "with a time zone"),
    "text of a day": ([dt.date(2024, 1, i) for i in (1, 2, 3)], ["2024-01-01"] * 3, "text, but held dates"),
    "bytes for text": (["a", "b", "c"], [b"a", b"b", b"c"], "bytes, but held text"),
    "a rounded sum": ([0.1, 0.3, 0.7], [0.1, 0.1 + 0.2, 0.7], "rounding"),
    "single precision": ([0.1, 0.3, 0.7], np.array([0.1, 0.3, 0.7], np.float32), "rounding"),
    "rounded integers": ([BASE, BASE + 1, BASE + 2], [float(BASE)] * 3, "floats that are too large"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_new_data_of_another_kind_are_refused(name):
    keys, values, words = OTHERS[name]
    with pytest.raises(DataError, match=f"'g'.*{words}"):
        frame_of(keys).design({"x": np.zeros(3), "g": values}, extend=True)


def test_unknown_groups_stay_unknown():
    frame = frame_of([3, 5, 7])
    assert codes_of(frame, [5, 8, BASE]) == [1, -1, -1]
    assert codes_of(frame_of([0.5, 1.5, 2.5]), [0.5, 1.0, 0.75]) == [0, -1, -1]
    assert codes_of(frame_of([1, "1", "b"]), [1, "1", "c"]) == [0, 1, -1]


# -- the fixed part


def test_factors_of_large_numbers_in_the_fixed_part():
    data = table()
    levels = np.array([BASE, BASE + 1, BASE + 2])
    data["id"] = levels[data["k"] % 3]
    for given in (data["id"], pd.array(data["id"].tolist(), dtype="Int64"), pl.Series(data["id"].tolist())):
        frame = build_frame(parse("y ~ C(id) + (1 | k)"), data | {"id": given})
        assert frame.coef_names == ("(Intercept)", f"C(id)[T.{BASE + 1}]", f"C(id)[T.{BASE + 2}]")
        np.testing.assert_array_equal(frame.X[:, 1:], (data["id"][:, None] == levels[1:]) * 1.0)
        new = frame.design({"id": levels.astype(np.uint64)}, random=False)
        np.testing.assert_array_equal(new.X, [[1, 0, 0], [1, 1, 0], [1, 0, 1]])
        with pytest.raises(DataError, match=f"level '{BASE + 3}', which was not"):
            frame.design({"id": levels + 1}, random=False)
    with pytest.raises(DataError, match="was numeric"):
        frame.design({"id": [str(BASE)]}, random=False)


def test_means_at_levels_by_value():
    data = table()
    kinds = np.array([1, "1", 2], dtype=object)
    data["f"] = pd.Series(pd.Categorical([kinds[i % 3] for i in range(N)], categories=list(kinds)))
    fit = jaxlmm.lmm("y ~ x + f + (1 | k)", data)
    assert fit.coef_names == ("(Intercept)", "x", "f[T.'1']", "f[T.2]")
    means = fit.emmeans("f")
    assert len(set(means.labels["f"])) == 3
    x = float(np.mean(data["x"]))
    for value, row in ((1, [1, x, 0, 0]), ("1", [1, x, 1, 0]), (2, [1, x, 0, 1])):
        found = fit.emmeans("f", at={"f": [value]}).frame()
        np.testing.assert_allclose(np.asarray(found["estimate"]), np.array(row) @ fit.coef)
    average = fit.predictions(by="f").frame()
    for i in range(len(kinds)):
        rows = np.array([i % 3 == j for j in np.arange(N) % 3])
        np.testing.assert_allclose(np.asarray(average["estimate"])[i], (fit.model.X @ fit.coef)[rows].mean())
    change = fit.comparisons("f", change=(1, "1")).frame()
    np.testing.assert_allclose(np.asarray(change["estimate"]), fit.coef[2])


# -- elsewhere


CHOSEN = {
    "numbers and text": [x for i in range(5) for x in (i, str(i))],
    "large": [2**60 + i for i in range(10)],
    "bytes": [b"a%d" % i for i in range(10)],
    "zones": list(pd.date_range("2020-01-01", periods=10, tz="Europe/Berlin")),
    "durations": list(pd.to_timedelta(np.arange(10), unit="s")),
}


@pytest.mark.parametrize("kind", CHOSEN)
def test_effects_of_chosen_levels_by_value(kind):
    """`levels=` takes values as they are in the data, and pictures of extremes show the levels that are extreme."""
    from jaxlmm.plotting.ranef import caterpillar

    rng = np.random.default_rng(5)
    g = np.arange(40) % 10
    data = pd.DataFrame({"y": 2.0 * rng.normal(size=10)[g] + rng.normal(size=40)})
    data["g"] = pd.Series([CHOSEN[kind][i] for i in g], dtype=object)
    fit = jaxlmm.lmm("y ~ 1 + (1 | g)", data)
    own = (fit.fitted - fit.coef[0])[:10]  # effects in the order of CHOSEN
    found = fit.ranef(levels={"g": [CHOSEN[kind][7], CHOSEN[kind][2]]})["g"]
    np.testing.assert_allclose(found.values[:, 0], own[[7, 2]], rtol=1e-10)
    np.testing.assert_allclose(np.ravel(caterpillar(fit, "g", "condvar", "", 0.95, 1).values), np.sort(own)[[0, -1]])


def test_clusters_and_deletions_by_identifiers(reference):
    k = reference.data["k"]
    expected = reference.influence(by="k", exact="none")
    for by in (BASE + k, pd.array((BASE + k).tolist(), dtype="Int64"), (BASE + k).tolist(), [f"s{i}" for i in k]):
        found = reference.influence(by=by, exact="none")
        np.testing.assert_allclose(found.cooks, expected.cooks)
        assert len(set(map(str, found.labels))) == G
    assert [int(i) for i in reference.influence(by=BASE + k, exact="none").labels] == (BASE + np.arange(G)).tolist()


def test_relationships_by_large_identifiers(reference):
    data = table()
    data["id"] = BASE + data["k"]
    root = np.random.default_rng(3).normal(size=(G, 2 * G))
    A = root @ root.T / (2 * G)
    expected = jaxlmm.lmm("y ~ x + (1 | k)", data, relationship={"k": A})
    order = np.random.default_rng(4).permutation(G)
    shuffled = A[np.ix_(order, order)]
    for labels in (BASE + order, (BASE + order).tolist(), [str(BASE + i) for i in order]):
        frame = pd.DataFrame(shuffled, index=labels, columns=[str(label) for label in labels])
        for given in ((shuffled, labels), frame):
            fit = jaxlmm.lmm("y ~ x + (1 | id)", data, relationship={"id": given})
            np.testing.assert_allclose(fit.loglik, expected.loglik, rtol=1e-12)
    with pytest.raises(DataError, match="too large"):
        jaxlmm.lmm("y ~ x + (1 | id)", data, relationship={"id": (shuffled, (BASE + order).astype(float))})


def test_objects_in_saved_columns_come_back(tmp_path):
    values = [Decimal("0.10"), uuid.UUID(int=3), b"a\0", dt.date(2024, 1, 1), NOON, NOON.replace(tzinfo=EAST)]
    values += [dt.time(1, 2, 3), pd.Timestamp("2024-01-01 00:00:00.000000001"), pd.Timestamp(NOON, tz="UTC"), "1", 1]
    data = table()
    data["g"] = [values[i % len(values)] for i in data["k"]]
    extra = [values[i % len(values)] for i in range(N)]
    for given in (extra, pd.Series(extra, dtype=object)):
        fit = jaxlmm.lmm("y ~ x + (1 | k)", data | {"extra": given})
        fit.save(tmp_path / "fit", columns=["extra"])
        found = list(jaxlmm.load(tmp_path / "fit").data["extra"])
        assert [(type(v), v) for v in found] == [(type(v), v) for v in extra]


def test_order_of_text_is_asked_for():
    data = {"id": np.repeat(np.arange(15), 4), "v": np.tile(np.arange(4), 15)} | {k: table()[k] for k in "xy"}
    weeks = [f"Week {2 * v + 6}" for v in data["v"]]  # 6, 8, 10, 12
    levels = [f"Week {i}" for i in (6, 8, 10, 12)]
    for visit in (weeks, pl.Series(weeks), pd.Series(weeks).astype("category")):
        with pytest.warns(LevelsWarning, match="in the order Week 6, Week 8, Week 10, Week 12"):
            placed = build_frame_with(data | {"visit": visit}).residual.placed
        assert placed.columns[0].tolist() == data["v"].tolist()
    with pytest.raises(DataError, match="order of levels.*'visit' is text.*ordered"):
        build_frame_with(data | {"visit": ["abdc"[v] * 2 for v in data["v"]]})
    for visit in (
        pd.Categorical(weeks, levels),
        pd.Categorical(weeks, levels, ordered=True),
        pl.Series(weeks, dtype=pl.Enum(levels)),
        [f"Visit {v}" for v in data["v"]],
        ["abcd"[v] for v in data["v"]],
    ):
        assert build_frame_with(data | {"visit": visit}).residual.placed.columns[0].tolist() == data["v"].tolist()
    with pytest.raises(FormulaError, match="order of levels"):
        jaxlmm.lmm("y ~ x + ar1(0 + visit | id)", data | {"visit": weeks})


def build_frame_with(data):
    from jaxlmm.covariance import NAMES
    from jaxlmm.formula.specs import residual_of

    return build_frame(parse("y ~ x"), data, residual=residual_of("ar1(visit | id)", None, NAMES))


def test_numbers_that_agree_to_six_digits_are_told_apart():
    fit = jaxlmm.lmm("y ~ x + (1 | k)", table())
    means = fit.emmeans("x", at={"x": [1e-9, 2e-9, 1.0]})
    assert [row[0] for row in means.table().rows] == ["1e-09", "2e-09", "1"]
    assert means.pairs().labels["contrast"] == ["1e-09 - 2e-09", "1e-09 - 1", "2e-09 - 1"]
    assert fit.emmeans("x", at={"x": [1 / 3, 1.0]}).pairs().labels["contrast"] == ["0.333333 - 1"]


def test_designs_of_studies_keep_levels_and_their_order():
    import jax

    from jaxlmm.study import Dropout
    from jaxlmm.study.drawing import columns_of

    data = {"id": np.repeat(BASE + np.arange(50), 4), "v": np.tile(np.arange(4), 50)}
    weeks = pd.Categorical([f"Week {2 * v + 6}" for v in data["v"]], [f"Week {i}" for i in (6, 8, 10, 12)])
    frame = pd.DataFrame({"id": pd.array(data["id"].tolist(), dtype="Int64"), "v": data["v"], "week": weeks})
    columns = columns_of(frame)
    for name in frame:
        expected = read_column(name, frame[name]).as_factor()
        assert read_column(name, columns[name]).as_factor().levels == expected.levels
    key, y = jax.random.key(1), np.zeros(200)
    lost = [np.asarray(Dropout(0.3, "id", time)(key, y, columns)) for time in ("v", "week")]
    np.testing.assert_array_equal(*lost)
    assert 0 < lost[0].sum() < 200
    with pytest.warns(LevelsWarning, match="in the order Week 6"):
        found = Dropout(0.3, "id", "week")(key, y, columns | {"week": list(map(str, weeks))})
    np.testing.assert_array_equal(found, lost[0])
    with pytest.raises(DataError, match="order of levels"):
        Dropout(0.3, "id", "week")(key, y, columns | {"week": [text.replace("Week 6", "first") for text in weeks]})


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("largest", [BASE + 2, 2**64 - 1])
def test_files_keep_identifiers_beside_missing_values(kind, largest, tmp_path):
    from jaxlmm.frames.files import read_file

    ids = [None, largest - 2, largest, largest - 1, largest]
    frame = pd.DataFrame({"id": pd.array(ids, dtype="Int64" if largest < 2**63 else "UInt64"), "x": np.arange(5) / 2})
    path = tmp_path / f"data.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    found = read_column("id", read_file(path)["id"]).as_factor()
    assert found.levels == (str(largest - 2), str(largest - 1), str(largest))
    assert found.values.tolist() == [-1, 0, 2, 1, 2]


def test_levels_find_values_and_labels():
    levels = Levels.of([key_of(v) for v in (1, "1", 0.5)])
    assert [levels.find(v) for v in (1, 1.0, "1", "'1'", "0.5", 2, "b")] == [0, 0, 1, 1, 2, None, None]


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "int64", "uint64", "float64", "bool", "U1", "O"])
@pytest.mark.parametrize("least", ["lowest", "highest", 3])
def test_values_are_numbered_as_by_sorting(kind, least):
    rng = np.random.default_rng(0)
    info = np.iinfo(kind) if np.dtype(kind).kind in "iu" else np.iinfo("int8")
    start = {"lowest": info.min, "highest": info.max - 9, 3: 3}[least]
    near = np.array([start + int(k) for k in rng.integers(0, 10, 40)], "O").astype(kind)
    far = np.array([info.min, info.max, 0, info.max], "O").astype(kind)
    for values in (near, far, near[:0]):
        labels, codes = np.unique(values, return_inverse=True)
        found = numbered(values)
        np.testing.assert_array_equal(found[0], labels)
        np.testing.assert_array_equal(found[1], codes)
        assert found[0].dtype == values.dtype and found[1].dtype == np.int32
