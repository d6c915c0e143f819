"""Data frames to arrays: columns and names as in R, levels, missing values, new data, bad input."""

from __future__ import annotations

import builtins
import datetime
import pickle
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import case_names, load_case, load_data
from jaxlmm.design import encoding as sides
from jaxlmm.design.frame import build_frame, make_frame
from jaxlmm.errors import DataError, FormulaError, JaxlmmError
from jaxlmm.formula.parser import parse
from jaxlmm.frames.columns import open_table

N = 36


def columns():
    rng = np.random.default_rng(5)
    rows = np.arange(N)
    return {
        "y": rng.normal(size=N),
        "x": np.arange(1, N + 1) ** 1.3,
        "z": rng.normal(size=N),
        "k": rows % 4 + 10,
        "a": np.array(["a1", "a2", "a3"])[rows % 3],
        "b": np.array(["b1", "b2"])[rows // 3 % 2],
        "g": np.array(list("fedcba"))[rows // 6],
        "t": np.exp(rng.normal(size=N)),
        "flag": rng.normal(size=N) > 0,
    }


def frame_of(formula, data=None, **arguments):
    return build_frame(parse(formula), columns() if data is None else data, **arguments)


MAKERS = {"dict": dict, "pandas": pd.DataFrame, "polars": pl.DataFrame}


def r_name(name):
    """R's name of a column: recipe[T.B] is recipeB."""
    return re.sub(r"\[(?:T\.)?([^\]]*)\]", r"\1", name)


# -- against R


@pytest.mark.parametrize("name", case_names())
def test_columns_and_rows_of_reference_cases(name):
    case = load_case(name)
    found = build_frame(parse(case["formula"]), load_data(case), weights=case.get("weights"))
    assert [r_name(c) for c in found.coef_names] == list(case["fixef"])
    assert found.X.shape == (case["n"], case["p"])
    assert found.aliased == ()
    expected = found.X @ np.array(list(case["fixef"].values()))
    if case.get("fitted_population_head") is not None:
        np.testing.assert_allclose(expected[:6], case["fitted_population_head"], rtol=1e-8)
    for term in found.terms:
        recorded = (case["ranef"] or {}).get(term.group)
        if recorded is not None:
            assert len(term.levels) == recorded["n_levels"]
            assert set(recorded["rows"]) <= set(term.levels)
            assert {r_name(c) for c in term.columns} <= set(recorded["columns"])


# colnames(model.matrix(~ ..., data)) of R 4.2; only sides that formulaic parametrises as R does.
R_COLUMNS = {
    "a*b": ["(Intercept)", "aa2", "aa3", "bb2", "aa2:bb2", "aa3:bb2"],
    "b*a": ["(Intercept)", "bb2", "aa2", "aa3", "bb2:aa2", "bb2:aa3"],
    "x+a*b": ["(Intercept)", "x", "aa2", "aa3", "bb2", "aa2:bb2", "aa3:bb2"],
    "a*b+x": ["(Intercept)", "aa2", "aa3", "bb2", "x", "aa2:bb2", "aa3:bb2"],
    "a*x": ["(Intercept)", "aa2", "aa3", "x", "aa2:x", "aa3:x"],
    "0+a": ["aa1", "aa2", "aa3"],
    "0+a*x": ["aa1", "aa2", "aa3", "x", "aa2:x", "aa3:x"],
    "0+a+b": ["aa1", "aa2", "aa3", "bb2"],
    "0+x+a": ["x", "aa1", "aa2", "aa3"],
    "(a+b+x)^2": ["(Intercept)", "aa2", "aa3", "bb2", "x", "aa2:bb2", "aa3:bb2", "aa2:x", "aa3:x", "bb2:x"],
    "a/b": ["(Intercept)", "aa2", "aa3", "aa1:bb2", "aa2:bb2", "aa3:bb2"],
    "x/a": ["(Intercept)", "x", "x:aa2", "x:aa3"],
    "a*b*x": [
        "(Intercept)", "aa2", "aa3", "bb2", "x", "aa2:bb2", "aa3:bb2", "aa2:x", "aa3:x", "bb2:x", "aa2:bb2:x",
        "aa3:bb2:x",
    ],
    "x*z": ["(Intercept)", "x", "z", "x:z"],
    "b+x:z": ["(Intercept)", "bb2", "x:z"],
    "log(x)+a": ["(Intercept)", "log(x)", "aa2", "aa3"],
    "a*b-1": ["aa1", "aa2", "aa3", "bb2", "aa2:bb2", "aa3:bb2"],
    "a*(b+x)": ["(Intercept)", "aa2", "aa3", "bb2", "x", "aa2:bb2", "aa3:bb2", "aa2:x", "aa3:x"],
    "0+a:b": ["aa1:bb1", "aa2:bb1", "aa3:bb1", "aa1:bb2", "aa2:bb2", "aa3:bb2"],
    "0+a:x": ["aa1:x", "aa2:x", "aa3:x"],
    "1": ["(Intercept)"],
    "0+x": ["x"],
    "poly(x,2)": ["(Intercept)", "poly(x, 2)1", "poly(x, 2)2"],
    "(a+x)*b": ["(Intercept)", "aa2", "aa3", "x", "bb2", "aa2:bb2", "aa3:bb2", "x:bb2"],
    "z*x*a": [
        "(Intercept)", "z", "x", "aa2", "aa3", "z:x", "z:aa2", "z:aa3", "x:aa2", "x:aa3", "z:x:aa2",
        "z:x:aa3",
    ],
    "x:a+a+x": ["(Intercept)", "aa2", "aa3", "x", "x:aa2", "x:aa3"],
    "b:a+a+b": ["(Intercept)", "aa2", "aa3", "bb2", "bb2:aa2", "bb2:aa3"],
}  # fmt: skip


@pytest.mark.parametrize("fixed", R_COLUMNS)
def test_columns_are_named_and_ordered_as_in_r(fixed):
    found = frame_of(f"y ~ {fixed}")
    assert [r_name(c) for c in found.coef_names] == R_COLUMNS[fixed]
    values = {"(Intercept)": np.ones(N)} | {k: v for k, v in columns().items() if k in "xz"}
    values |= {f"a{v}": (columns()["a"] == v) * 1.0 for v in ("a1", "a2", "a3")}
    values |= {f"b{v}": (columns()["b"] == v) * 1.0 for v in ("b1", "b2")}
    for j, name in enumerate(R_COLUMNS[fixed]):
        if not name.startswith(("log", "poly")):
            product = np.prod([values[part] for part in name.split(":")], axis=0)
            np.testing.assert_allclose(found.X[:, j], product, rtol=1e-12)


# -- computed here or by formulaic: the same


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(["x", "z", "a", "b", "flag", "I(x ** 2)", "sin(2 * pi * z)"]), min_size=1, max_size=4),
    st.sampled_from(["+", "*"]),
    st.sampled_from(["1", "0"]),
    st.sampled_from(["", " + a:b", " + x:a"]),
)
def test_direct_columns_equal_those_of_formulaic(factors, operator, intercept, extra):
    formula = parse(f"y ~ {intercept} + {f' {operator} '.join(factors)}{extra}")
    data = {name: column.take(np.arange(N)) for name, column in read(columns()).items()}
    if not sides.is_direct(formula.side, formula, data):
        return
    values, here = sides.encode(formula.side, formula, data, N)
    expected, there = sides._encode_by_formulaic(formula.side, formula, data, N)
    assert there.spec is not None and here.spec is None
    assert here.names == there.names
    assert here.terms == there.terms
    np.testing.assert_allclose(values, expected, rtol=1e-14)


def read(data):
    table = open_table(data)
    return {name: table.column(name) for name in table.names}


def test_sleepstudy_needs_neither_formulaic_nor_pandas():
    code = (
        "import sys, numpy as np\nfrom jaxlmm.formula.parser import parse\n"
        "from jaxlmm.design.frame import build_frame\n"
        "r = np.arange(24.0)\n"
        "d = {'y': np.sin(r), 'x': r, 'f': [*'abc'] * 8, 'g': r // 6}\n"
        "build_frame(parse('y ~ x * f + log(x + 1) + (x | g)'), d)\n"
        "assert not {'narwhals', 'pandas', 'polars', 'formulaic', 'scipy.stats'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_formulaic_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "formulaic", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxlmm\[formula\]'"):
        frame_of("y ~ poly(x, 2) + (1 | g)")


# -- kinds of frames and columns


@pytest.mark.parametrize("formula", ["y ~ x + (x | g)", "y ~ a * flag + C(k) + (0 + a | g) + (1 | k:b)"])
def test_every_kind_of_frame_gives_the_same_arrays(formula):
    frames = {kind: frame_of(formula, make(columns())) for kind, make in MAKERS.items()}
    first = frames["dict"]
    for kind, found in frames.items():
        assert found.kind == kind
        assert found.coef_names == first.coef_names
        np.testing.assert_array_equal(found.X, first.X)
        np.testing.assert_array_equal(found.y, first.y)
        for one, other in zip(found.terms, first.terms, strict=True):
            assert (one.columns, one.levels, one.group) == (other.columns, other.levels, other.group)
            np.testing.assert_array_equal(one.Z, other.Z)
            np.testing.assert_array_equal(one.codes, other.codes)
            assert one.codes.dtype == np.int32


LEVELS = ["low", "mid", "high"]
TEXT = np.array(LEVELS)[np.arange(N) % 3]
FACTORS = {
    "pandas categorical": (pd.Series(pd.Categorical(TEXT, LEVELS)), LEVELS),
    "pandas categorical with an unused level": (pd.Series(pd.Categorical(TEXT, ["none", *LEVELS])), LEVELS),
    "pandas ordered": (pd.Series(pd.Categorical(TEXT, LEVELS, ordered=True)), LEVELS),
    "pandas string": (pd.Series(TEXT, dtype="string"), sorted(LEVELS)),
    "pandas objects": (pd.Series(TEXT.astype(object), dtype=object), sorted(LEVELS)),
    "polars enum": (pl.Series(list(TEXT), dtype=pl.Enum(LEVELS)), LEVELS),
    "polars categorical": (pl.Series(list(TEXT), dtype=pl.Categorical), sorted(LEVELS)),
    "polars string": (pl.Series(list(TEXT)), sorted(LEVELS)),
    "list": (list(TEXT), sorted(LEVELS)),
    "bytes": (TEXT.astype("S"), sorted(LEVELS)),
    "numbers": (np.arange(N) % 3 + 9, ["9", "10", "11"]),
    "floats": (np.arange(N) % 3 / 4, ["0", "0.25", "0.5"]),
    "booleans": (np.arange(N) % 2 == 0, ["False", "True"]),
    "nullable integers": (pd.Series(np.arange(N) % 3 + 9, dtype="Int64"), ["9", "10", "11"]),
    "days": (np.datetime64("2020-01-01") + np.arange(N) % 2, ["2020-01-01", "2020-01-02"]),
    "polars days": (
        pl.Series([datetime.date(2020, 1, 1 + i % 2) for i in range(N)]),
        ["2020-01-01", "2020-01-02"],
    ),
}


@pytest.mark.parametrize("kind", FACTORS)
def test_levels(kind):
    values, levels = FACTORS[kind]
    found = frame_of("y ~ x + (1 | f)", columns() | {"f": values})
    assert found.terms[0].levels == tuple(levels)
    texts = [str(v.decode() if isinstance(v, bytes) else v) for v in list(values)]
    for i in (0, 1, 2):
        label = found.terms[0].levels[found.terms[0].codes[i]]
        assert texts[i].startswith(label) or float(texts[i]) == float(label)
    if not kind.endswith("days"):
        fixed = "f" if kind not in ("numbers", "floats", "nullable integers", "booleans") else "C(f)"
        assert [
            r_name(c)[len(fixed) :] for c in frame_of(f"y ~ {fixed}", columns() | {"f": values}).coef_names[1:]
        ] == levels[1:]


def test_levels_of_interactions():
    found = frame_of("y ~ x + (1 | b:a) + (1 | a/b)")
    assert found.terms[0].levels == ("b1:a1", "b1:a2", "b1:a3", "b2:a1", "b2:a2", "b2:a3")
    assert [t.group for t in found.terms] == ["b:a", "b:a", "a"]
    data = columns()
    for i in range(N):
        assert found.terms[0].levels[found.terms[0].codes[i]] == f"{data['b'][i]}:{data['a'][i]}"


def test_integers_with_gaps_keep_integer_labels():
    k = pd.Series(columns()["k"]).astype(float)
    k[3] = np.nan
    found = frame_of("y ~ C(k) + (1 | k)", pd.DataFrame(columns() | {"k": k}))
    assert found.terms[0].levels == ("10", "11", "12", "13")
    assert found.coef_names == ("(Intercept)", "C(k)[T.11]", "C(k)[T.12]", "C(k)[T.13]")


def test_unusual_names():
    data = {
        "the y": columns()["y"],
        "Sepal.Length": columns()["x"],
        "lambda": columns()["a"],
        "my g": columns()["g"],
    }
    found = frame_of("`the y` ~ Sepal.Length * lambda + poly(Sepal.Length, 2) + (1 | `my g`)", data)
    assert found.response == "the y"
    assert found.coef_names[:4] == ("(Intercept)", "Sepal.Length", "lambda[T.a2]", "lambda[T.a3]")
    assert "poly(Sepal.Length, 2)[2]" in found.coef_names
    assert found.aliased == ("poly(Sepal.Length, 2)[1]",)
    assert found.terms[0].group == "my g"


# -- missing values


@pytest.mark.parametrize("kind", MAKERS)
def test_missing_values_are_dropped_and_counted(kind):
    data = {k: list(v) for k, v in columns().items()}
    data["x"][0] = None
    data["a"][1] = None
    data["y"][2] = float("nan")
    data["g"][3] = None
    data["z"][4] = None  # not used
    data["flag"][5] = None
    found = frame_of("y ~ x + a + flag + (1 | g)", MAKERS[kind](data), weights=np.r_[np.ones(N - 1), np.nan])
    assert found.rows.tolist() == [4, *range(6, N - 1)]
    assert (found.n_missing, found.n_input) == (6, N)
    whole = frame_of("y ~ x + a + flag + (1 | g)")
    np.testing.assert_array_equal(found.X, whole.X[found.rows])
    np.testing.assert_array_equal(found.y, whole.y[found.rows])


def test_levels_lost_with_their_rows():
    data = columns()
    data["x"] = np.where(data["a"] == "a1", np.nan, data["x"])
    data["x"][:6] = np.nan
    found = frame_of("y ~ x + a + (1 | g)", data)
    assert found.coef_names == ("(Intercept)", "x", "a[T.a3]")
    assert found.terms[0].levels == tuple("abcde")


# -- weights, offset, rank


def test_weights_and_offsets():
    data = columns()
    found = frame_of("y ~ x + offset(log(t)) + (1 | g)", data, weights="t", offset=data["z"])
    np.testing.assert_array_equal(found.weights, data["t"])
    np.testing.assert_allclose(found.offset, np.log(data["t"]) + data["z"])
    assert frame_of("y ~ x + (1 | g)").offset is None
    with pytest.raises(DataError, match="array"):
        found.design(data)
    by_name = frame_of("y ~ x + offset(log(t)) + (1 | g)", data, offset="z")
    np.testing.assert_allclose(by_name.design(data).offset, found.offset)


def test_redundant_columns_are_left_out_and_named():
    data = columns()
    data |= {"twice": 2 * data["x"] + 1, "sum": data["x"] + data["z"], "null": np.zeros(N)}
    found = frame_of("y ~ x + twice + null + z + sum + a + (1 | g)", data)
    assert found.coef_names == ("(Intercept)", "x", "z", "a[T.a2]", "a[T.a3]")
    assert found.aliased == ("twice", "null", "sum")
    assert found.fixed_terms == (
        ("(Intercept)", (0,)), ("x", (1,)), ("twice", ()), ("null", ()), ("z", (2,)), ("sum", ()),
        ("a", (3, 4)),
    )  # fmt: skip
    np.testing.assert_array_equal(found.design(data).X, found.X)


def test_an_empty_cell_of_a_crossing():
    data = {k: v[(columns()["a"] != "a3") | (columns()["b"] != "b2")] for k, v in columns().items()}
    found = frame_of("y ~ a * b + (1 | g)", data)
    assert found.aliased == ("a[T.a3]:b[T.b2]",)
    assert np.linalg.matrix_rank(found.X) == found.X.shape[1] == 5


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(2, 7))
def test_rank_rule_keeps_a_basis_of_earliest_columns(seed, p):
    from jaxlmm.design.frame import full_rank

    rng = np.random.default_rng(seed)
    X = rng.normal(size=(20, p))
    redundant = [j for j in range(1, p) if rng.random() < 0.4]
    for j in redundant:
        X[:, j] = X[:, :j] @ rng.normal(size=j)
    found, kept = full_rank(X * 10.0 ** rng.integers(-6, 6, size=p))  # units of columns do not matter
    assert kept.tolist() == [j for j in range(p) if j not in redundant]
    assert found.shape == (20, len(kept))


# -- new data

STATEFUL = (
    "y ~ poly(x, 2) + bs(z, df=5) + scale(t) + center(k) * a + C(k) + flag + offset(z) + (scale(x) | g) + (1 | a/b)"
)


@pytest.mark.parametrize("kind", MAKERS)
def test_new_data_use_the_state_of_the_fit(kind):
    whole = frame_of(STATEFUL, MAKERS[kind](columns()))
    some = np.array([3, 30, 8, 17])
    new = whole.design(MAKERS[kind]({k: v[some] for k, v in columns().items()}), response=True)
    assert new.n == 4
    np.testing.assert_allclose(new.X, whole.X[some], rtol=1e-12)
    np.testing.assert_allclose(new.offset, whole.offset[some])
    np.testing.assert_array_equal(new.y, whole.y[some])
    for (Z, codes), term in zip(new.terms, whole.terms, strict=True):
        np.testing.assert_allclose(Z, term.Z[some], rtol=1e-12)
        np.testing.assert_array_equal(codes, term.codes[some])


def test_unknown_groups_and_unknown_levels():
    found = frame_of("y ~ x + a + C(k) + (1 | g) + (1 | g:k)")
    new = {"x": [1.0, 2], "a": ["a3", "a1"], "k": [11, 10], "g": ["zz", "a"]}
    design = found.design(new)
    assert design.terms[0][1].tolist() == [-1, found.terms[0].levels.index("a")]
    assert design.terms[1][1][0] == -1
    assert design.y is None
    assert found.design({k: v for k, v in new.items() if k != "g"}, random=False).terms == ()
    with pytest.raises(DataError, match="'a'.*'a9'"):
        found.design(new | {"a": ["a3", "a9"]})
    with pytest.raises(DataError, match="'k'.*'99'"):
        found.design(new | {"k": [11, 99]})
    with pytest.raises(DataError, match="no column 'x'"):
        found.design({k: v for k, v in new.items() if k != "x"})
    with pytest.raises(DataError, match="1 missing value.*'x'"):
        found.design(new | {"x": [1.0, np.nan]})
    with pytest.raises(DataError, match="'x'"):
        found.design(new | {"x": [1.0, np.inf]})
    with pytest.raises(DataError, match="numeric"):
        found.design(new | {"x": ["u", "v"]})
    with pytest.raises(DataError, match="no rows"):
        found.design({k: [] for k in new})


def test_a_model_frame_can_be_pickled():
    found = frame_of("y ~ poly(x, 2) + a + (1 | g)")
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.design(columns()).X, found.X)


# -- bad input


def changed(**new):
    return columns() | new


def with_value(name, value):
    data = columns()
    data[name] = data[name].astype(float)
    data[name][[4, 9]] = value
    return data


GAPS = [1.0 if i in (4, 9) else None for i in range(N)]

BAD = {
    "not a frame": ("y ~ x", [1, 2], "dict of arrays, got list"),
    "a number": ("y ~ x", 3.0, "got float"),
    "no rows": ("y ~ x", {"y": [], "x": []}, "no rows"),
    "empty dict": ("y ~ x", {}, "no rows"),
    "unequal lengths": ("y ~ x", changed(x=np.ones(3)), "different lengths"),
    "scalar column": ("y ~ x", changed(x=3.0), "'x'.*array or a list"),
    "matrix column": ("y ~ x", changed(x=np.ones((N, 2))), "one dimension"),
    "ragged column": ("y ~ x", changed(x=[[1]] * (N - 1) + [[1, 2]]), "one dimension"),
    "complex column": ("y ~ x", changed(x=np.ones(N) * 1j), "complex"),
    "missing column": ("y ~ xx + (1 | g)", None, "no column 'xx'.*did you mean 'x'.*there are y, x"),
    "missing group": ("y ~ x + (1 | gg)", None, "no column 'gg'"),
    "duplicate column": ("y ~ x", pd.DataFrame(np.ones((5, 3)), columns=["y", "x", "x"]), "more than one"),
    "text response": ("a ~ x + (1 | g)", None, "must be numeric.*'a' holds text"),
    "boolean response": ("flag ~ x + (1 | g)", None, "must be numeric.*'flag' holds true/false"),
    "constant response": ("y ~ x + (1 | g)", changed(y=np.ones(N)), "constant"),
    "infinite": ("y ~ x + (1 | g)", with_value("x", np.inf), "'x' is infinite in 2 row"),
    "infinite response": ("y ~ x + (1 | g)", with_value("y", -np.inf), "'y' is infinite in 2 row"),
    "infinite group": ("y ~ x + (1 | t)", with_value("t", np.inf), "'t' is infinite in 2 row"),
    "all missing": ("y ~ x + (1 | g)", changed(x=np.full(N, np.nan)), "no complete rows.*'x'"),
    "all None": ("y ~ a + (1 | g)", changed(a=[None] * N), "no complete rows.*'a'"),
    "no complete row": ("y ~ x + z", with_value("x", np.nan) | {"z": GAPS},
                        "no complete rows"),
    "undefined": ("y ~ log(z) + (1 | g)", None, r"log\(z\) is undefined"),
    "undefined in formulaic": ("y ~ C(a):log(z) + (1 | g)", None, "undefined"),
    "undefined response": ("log(z) ~ x + (1 | g)", None, "undefined"),
    "undefined offset": ("y ~ x + offset(log(z)) + (1 | g)", None, r"offset\(log\(z\)\) is undefined"),
    "text in arithmetic": ("y ~ log(a) + (1 | g)", None, "cannot be computed|not numeric"),
    "text in offset": ("y ~ x + offset(a) + (1 | g)", None, "'a' is not numeric"),
    "dates": ("y ~ d + (1 | g)", changed(d=np.datetime64("2020-01-01") + np.arange(N)), "dates or times"),
    "bad knots": ("y ~ bs(x, knots='u') + (1 | g)", None, "cannot be computed"),
    "one level": ("y ~ x + (1 | g)", changed(g=["u"] * N), "only one level"),
    "levels = rows": ("y ~ x + (1 | g)", changed(g=np.arange(N)), f"as many levels as .* observations .{N}."),
    "effects = rows": ("y ~ x + (x | g)", changed(g=np.arange(N) // 2), "36 random effects"),
    "too few rows": ("y ~ x + z + a + k", {k: v[:6] for k, v in columns().items()}, "6 complete rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_data_gets_one_sentence(name):
    formula, data, words = BAD[name]
    with pytest.raises(DataError, match=words) as caught:
        frame_of(formula, data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (np.r_[-1.0, np.ones(N - 1)], "1 are negative"),
        (np.r_[0.0, np.ones(N - 1)], "1 are zero: drop"),
        (np.ones(N - 1), f"{N} rows"),
        ([], f"{N} rows"),
        (2.0, f"{N} rows"),
        ("tt", "weights='tt'.*did you mean 't'"),
        ("a", "numeric"),
        (np.r_[np.inf, np.ones(N - 1)], "infinite in 1"),
        (np.full(N, np.nan), "no complete rows"),
    ],
)
def test_bad_weights(weights, words):
    with pytest.raises(DataError, match=words):
        frame_of("y ~ x + (1 | g)", weights=weights)


def test_known_variances_allow_a_level_for_each_row():
    """Weights that differ tell an effect of each row from the residual, as in a meta-analysis."""
    data = columns() | {"study": np.arange(N)}
    assert len(frame_of("y ~ x + (1 | study)", data, weights="t").terms[0].levels) == N
    with pytest.raises(DataError, match="as many levels"):
        frame_of("y ~ x + (1 | study)", data, weights=np.ones(N))
    assert frame_of("y ~ x + ar1(0 + a | study)", data).terms[0].structure == "ar1"


# -- formula text cannot reach Python


@pytest.mark.parametrize(
    "text",
    [
        "open", "I(open)", "exit", "C(print)", "log(np)", "I(np.os)", "np.random", "center", "C(center)",
        "log(log)",
        "poly(x, degree='__import__(1)')", "C(a, contr.treatment('a1) + __import__(1) + (a'))",
        "C(a, contr.treatment(\"] + __import__(1) + [\"))", "`__import__(1)`", "I(`__import__(1)`)",
        "C(`{open(1)}`)",
        "C(a, levels=['a1', 'a2', 'a3) + __import__(1)'])", "`__FORMULAIC_STATE__`", "`__builtins__`",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["y ~ {} + (1 | g)", "y ~ x + (0 + {} | g)", "y ~ x:{}"])
def test_hostile_text_ends_in_an_error_and_runs_nothing(text, place, monkeypatch):
    formula = place.replace("{}", text)
    frame_of("y ~ poly(x, 2) + C(a):b")  # formulaic is loaded before __import__ is watched

    def watched(name, *args, **kwargs):
        assert isinstance(name, str), "the text of the formula was run"
        return original(name, *args, **kwargs)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", watched)
    with pytest.raises(JaxlmmError):
        frame_of(formula)


def test_the_callers_variables_are_invisible():
    secret = np.ones(N)  # noqa: F841
    for text in ("secret", "I(secret)", "C(secret)", "poly(secret, 2)"):
        with pytest.raises(DataError, match="no column 'secret'"):
            frame_of(f"y ~ {text} + (1 | g)")


def test_columns_with_dangerous_names_are_only_data():
    data = columns() | {"open": columns()["x"], "__import__": columns()["z"], "np": columns()["t"]}
    found = frame_of("y ~ poly(open, 2) + `__import__` + C(a):np + (1 | g)", data)
    assert found.coef_names[1:3] == ("poly(open, 2)[1]", "poly(open, 2)[2]")
    with pytest.raises(FormulaError):
        frame_of("y ~ __import__", data)


# -- frames out


@pytest.mark.parametrize("kind", MAKERS)
def test_make_frame(kind):
    made = make_frame(kind, {"term": ("a", "b"), "value": np.array([1.0, 2.0])})
    assert isinstance(made, {"dict": dict, "pandas": pd.DataFrame, "polars": pl.DataFrame}[kind])
    assert list(made["term"]) == ["a", "b"]
    np.testing.assert_array_equal(np.asarray(made["value"]), [1.0, 2.0])


def test_make_frame_of_an_unknown_kind():
    with pytest.raises(ValueError, match="arrow"):
        make_frame("arrow", {})
