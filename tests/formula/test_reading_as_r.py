"""Formulas as R 4.2 and lme4 1.1-31 read them: names of model.matrix, estimates of lmer, bases of splines."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxlmm
from jaxlmm.design.frame import build_frame
from jaxlmm.errors import DataError, DroppedColumnsWarning, FormulaError
from jaxlmm.formula.parser import parse

DATA = jaxlmm.datasets.load("sleepstudy")
N = len(DATA)
DATA["T"] = [True, False, False] * (N // 3)
DATA["U"] = [True, True, False, False] * (N // 4)
DATA["g"] = list("abcde") * (N // 5)
DATA["h"] = list("pqq") * (N // 3)
DATA["x"] = np.round(np.cos(np.arange(1, N + 1)), 3)
COLUMNS = tuple(DATA.columns)


def frame(terms, data=DATA):
    return build_frame(parse(f"Reaction ~ {terms}", None, tuple(data)), data)


def fitted(terms, data=DATA):
    return jaxlmm.lmm(f"Reaction ~ {terms}", data)


# -- true and false, comparisons

TRUE_FALSE = {
    "Days:T": "Days:T[False] Days:T[True]",
    "Days*T": "Days T[T.True] Days:T[T.True]",
    "0 + T": "T[False] T[True]",
    "0 + Days:T": "Days:T[False] Days:T[True]",
    "I(x > 0)": "I(x > 0)[T.True]",
    "Days:I(x > 0)": "Days:I(x > 0)[False] Days:I(x > 0)[True]",
    "I(h == 'q')": "I(h == 'q')[T.True]",
    "T + I(T * x)": "T[T.True] I(T * x)",
}


@pytest.mark.parametrize("terms", TRUE_FALSE)
def test_true_and_false_are_a_factor(terms):
    found = [name for name in frame(terms).coef_names if name != "(Intercept)"]
    assert " ".join(found) == TRUE_FALSE[terms]


LMER = {
    "Days*T + (1|Subject)": (-888.732692077, [254.18679793288, 9.88266582374, -8.34507925319, 1.75386040758]),
    "Days:T + (1|Subject)": (-892.281634901, [251.4051048485, 10.3216438555, 10.7585701678]),
    "0 + T + (T|Subject)": (-949.233950461, [298.565520126, 298.262624333]),
    "Days:I(x > 0) + (1|Subject)": (-892.296075566, [251.3708994533, 10.2449508908, 10.7152750748]),
}


@pytest.mark.parametrize("terms", LMER)
def test_true_and_false_as_lmer(terms):
    loglik, coef = LMER[terms]
    fit = fitted(terms)
    np.testing.assert_allclose(fit.loglik, loglik, rtol=1e-8)
    np.testing.assert_allclose(fit.coef, coef, rtol=1e-5)


def test_new_rows_of_true_and_false():
    """One value alone, numbers 0 and 1, columns that formulaic makes: all are the levels of the fit."""
    for terms in ("Days*T + (1|Subject)", "poly(Days, 2):T + (1|Subject)", "Days*I(x > 0) + (1|Subject)"):
        fit = fitted(terms)
        rows = DATA.iloc[:6]
        every = fit.predict(rows)
        np.testing.assert_allclose(fit.predict(rows[rows["T"]]), every[rows["T"]])
        np.testing.assert_allclose(fit.predict(rows.assign(T=rows["T"].astype(int))), every)
    with pytest.raises(DataError, match="as numbers, but held true/false"):
        fitted("Days*T + (1|Subject)").predict(rows.assign(T=0.5))


def test_comparisons_that_mean_nothing_are_refused():
    with pytest.raises(DataError, match="can only be compared with text"):
        frame("I(h > 'q')")
    with pytest.raises(DataError, match="undefined in some rows"):
        frame("I(log(x) > 0)")


# -- the order of variables, as the names of R's model.matrix have it

ORDER = {
    "x:g + Days*g": ["Days", "g", "x:g", "g:Days"],
    "g:x - x + x:Days": ["g:x", "x:Days"],
    "Days + x:g:Days": ["Days", "Days:x:g"],
    "b*c + a*c": ["b", "c", "a", "b:c", "c:a"],
    "meanses*cses + sector*cses": ["meanses", "cses", "sector", "meanses:cses", "cses:sector"],
    "b*a - b": ["a", "b:a"],
    "(c + b + a)^2": ["c", "b", "a", "c:b", "c:a", "b:a"],
    "x + (g*Days | s) + Days*g": ["x", "Days", "g", "Days:g"],
}


@pytest.mark.parametrize("terms", ORDER)
def test_variables_in_the_order_of_their_first_appearance(terms):
    assert [":".join(term) for term in parse(f"y ~ {terms}").side.terms] == ORDER[terms]


def test_left_of_a_bar_the_order_is_its_own():
    (bar,) = parse("y ~ x*g + (g*x | s)").bars
    assert bar.lhs == "1 + g + x + g:x"


# -- the dot and crossed grouping factors


def test_a_dot_is_every_column_that_is_not_named_elsewhere():
    found = parse("log(y) ~ . + (1 | s/t) + offset(o)", None, ("a", "y", "s", "t", "o", "w", "b c"), {"w"})
    assert found.text == "log(y) ~ (a + `b c`) + (1 | s/t) + offset(o)"
    assert parse("y ~ .^2 - x", None, ("y", "x", "z")).side.terms == (("z",), ("x", "z"))
    assert parse("y ~ a + (. | g)", None, ("y", "a", "g")).bars[0].lhs == "1 + a"
    with pytest.raises(FormulaError, match="of which there are none"):
        parse("y ~ . + (1 | g)", None, ("y", "g"))
    fit = fitted(". + (1 | Subject)", DATA[["Reaction", "Days", "Subject", "x"]])
    np.testing.assert_allclose(fit.coef, fitted("Days + x + (1 | Subject)").coef)
    assert fit.call.formula == "Reaction ~ (Days + x) + (1 | Subject)"


def test_crossed_grouping_factors():
    """As reformulas::expandAllGrpVars: (1 | f*g) is (1 | f) + (1 | g) + (1 | f:g)."""
    assert [bar.group_label for bar in parse("y ~ (x | f*g)").bars] == ["f", "g", "f:g"]
    with pytest.raises(FormulaError, match="one term for each"):
        parse("y ~ (1 | f*g/h)")


# -- contrasts

SUM = "C(g, contr.sum)"
SPELLINGS = {
    "C(g, Sum)": SUM,
    "C(g, 'sum')": SUM,
    "C(g, contr='contr.sum')": SUM,
    "C(g, Treatment('b'))": "C(g, contr.treatment(base='b'))",
    "C(g, Treatment(reference='b'))": "C(g, contr.treatment(base='b'))",
    "C(g, Helmert)": "C(g, contr.helmert)",
    "as.factor(g)": "C(g)",
    "C(g, [[1,0,0,0], [0,1,0,0], [0,0,1,0], [0,0,0,1], [-1,-1,-1,-1]])": SUM,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_contrasts(spelling):
    np.testing.assert_array_equal(frame(f"{spelling} * x").X, frame(f"{SPELLINGS[spelling]} * x").X)


def test_contrast_matrices_of_ones_own():
    """R: contrasts(f) <- matrix; without an intercept the factor has a column for each level."""
    thirds = "C(f, [[1/3, -1/2], [1/3, 1/2], [-2/3, 0]])"
    data = DATA.assign(f=list("uvw") * (N // 3))
    found = frame(f"{thirds} + x", data)
    rows = np.array([[1 / 3, -0.5], [1 / 3, 0.5], [-2 / 3, 0]])
    np.testing.assert_allclose(found.X[:3, 1:3], rows)
    assert frame(f"0 + {thirds}", data).X.shape[1] == 3
    fit = fitted(f"{thirds} + (1 | Subject)", data)
    np.testing.assert_allclose(fit.predict(data.iloc[[2]], random=False), fit.frame.X[2] @ fit.coef)
    assert fit.anova().frame().num_df[0] == 2
    for wrong in ("[[1, 0], [0, 1]]", "[[1, 1], [0, 0], [-1, -1]]", "[-1, 0, 1]", "[[1], [0, 1], [1]]"):
        with pytest.raises(DataError, match=r"C\(\): "):
            frame(f"C(f, {wrong})", data)


def test_what_contrasts_are_not():
    with pytest.raises(DataError, match="the base is a level, not its number: found 2, the levels are 'a'"):
        frame("C(g, contr.treatment(base=2))")
    with pytest.raises(FormulaError, match=r"'foo' are not contrasts; there are contr\.SAS"):
        frame("C(g, 'foo')")
    with pytest.raises(FormulaError, match=r"contr\.foo are not contrasts; there are contr\.SAS"):
        frame("C(g, contr.foo)")
    for text in ("contr.treatment(2)", "contr.treatment(2, base=1)", "contr.sum(2)"):  # n in R, no level
        with pytest.raises(FormulaError, match="the number of levels is that of the factor, leave it out"):
            frame(f"C(g, {text})")
    np.testing.assert_array_equal(frame("C(Days, contr.sdif)").X, frame("C(Days, contr.diff)").X)  # of MASS
    assert frame("C(Days, Treatment(2))").coef_names == frame("C(Days, contr.treatment(base=2))").coef_names
    with pytest.raises(FormulaError, match=r"as\.numeric is not a function"):
        frame("as.numeric(g)")
    with pytest.raises(FormulaError, match="standardise it in the data first"):
        parse("scale(y) ~ x")


# -- natural splines, R's splines::ns

NS_DAYS = [
    [0, 0, 0],
    [-0.0756533021308, 0.245478424911, -0.163652283274],
    [-0.0981338642095, 0.442549740777, -0.2950331605177],
    [-0.0142689461838, 0.542806838551, -0.3618712257009],
    [0.1974791658303, 0.518673613620, -0.3396095695740],
    [0.4321080810443, 0.425897979089, -0.2345492700102],
    [0.5529803825017, 0.341058852495, -0.0607059016633],
    [0.4601423355561, 0.323276697036, 0.1671982513590],
    [0.2003749348016, 0.361838158558, 0.4316140671342],
    [-0.1428571428571, 0.428571428571, 0.7142857142857],
]
NS_X = [
    [1.66743842911e-01, 0.60629977664036, 0.1790550423338, 0.0459202302035],
    [3.08579725401e-01, -0.09252192319033, 0.4617876379269, -0.3541151498490],
    [2.06938524030e-06, -0.00418567710561, 0.0179516047063, -0.0137659276007],
]
NS_OUTSIDE = [
    [0, 0.418653183673, -1.795527049205, 1.376873865532],
    [0.559664347488, 0.284246470155, 0.138519834917, -0.104347545625],
    [0, -2.530390098593, 1.198318274816, 2.332071823776],
]
NS_KNOTS = [
    [0.49849563091847, 0.3158638354248, 0.12324566186182],
    [-0.05698213909376, 0.5022425370622, -0.34363963062151],
]
NS_INTERCEPT = [[0.282380878268, 0.369073379127, 0.314848972203], [0.239175835782, 0.435196977569, -0.254323419709]]


def test_natural_splines():
    np.testing.assert_allclose(frame("ns(Days, df=3)").X[:10, 1:], NS_DAYS, atol=1e-11)
    found = frame("ns(x, df=4)")
    np.testing.assert_allclose(found.X[:3, 1:], NS_X, atol=1e-11)
    np.testing.assert_allclose(found.design({"x": [-2, 0.1, 2]}).X[:, 1:], NS_OUTSIDE, atol=1e-11)  # linear outside
    np.testing.assert_allclose(frame("ns(x, knots=[-0.3, 0.4])").X[:2, 1:], NS_KNOTS, atol=1e-11)
    np.testing.assert_allclose(frame("0 + ns(x, df=3, intercept=True)").X[:2], NS_INTERCEPT, atol=1e-11)
    with pytest.raises(DataError, match=r"ns\(\): knots must lie between"):
        frame("ns(x, knots=[3])")


# -- columns that may be numbers or factors


@pytest.mark.parametrize("write", [
    lambda v: f"{v},5", lambda v: f"{v}%", lambda v: f" {v} ", lambda v: f"1,00{v}.0",
    *(lambda v, absent=absent: str(v) if v else absent for absent in (".", "", "NA", "n/a", "-", "NaN")),
])  # fmt: skip
def test_numbers_of_other_programs_are_no_silent_factor(write):
    """Decimal commas, percent, and what SAS, R and spreadsheets write for missing values beside numbers."""
    data = DATA.assign(d=[write(v) for v in DATA.Days])
    with pytest.raises(DataError, match=r"column 'd' holds text that is written like numbers"):
        frame("d", data)
    assert len(frame("C(d)", data).coef_names) == 10


def test_objects_that_are_numbers_are_numbers_and_periods_are_times():
    data = DATA.assign(d=[Fraction(v, 2) for v in DATA.Days])
    np.testing.assert_array_equal(frame("d", data).X[:, 1], DATA.Days / 2)
    with pytest.raises(DataError, match="column 'd' holds dates or times"):
        frame("d", data.assign(d=pd.PeriodIndex.from_ordinals(DATA.Days, freq="M")))


def test_text_that_is_written_like_numbers_is_no_silent_factor():
    pl, pa = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    values = {"Reaction": DATA.Reaction.tolist(), "d": DATA.Days.astype(str).tolist()}
    for data in (values, pd.DataFrame(values), pl.DataFrame(values), pa.table(values)):
        with pytest.raises(DataError, match=r"column 'd' holds text that is written like numbers.*write C\(d\)"):
            build_frame(parse("Reaction ~ d"), data)
        assert build_frame(parse("Reaction ~ C(d)"), data).X.shape[1] == 10
        assert build_frame(parse("Reaction ~ (1 | d)"), data).terms[0].Z.shape[1] == 1
    for chosen in (pd.Categorical(values["d"]), pl.Series(values["d"], dtype=pl.Categorical)):
        assert build_frame(parse("Reaction ~ d"), {**values, "d": chosen}).X.shape[1] == 10  # declared to be a factor
    mixed = DATA.assign(d=[*DATA.Days[:-1], "7"])
    with pytest.raises(DataError, match="or both"):
        frame("d", mixed)


def test_dates_are_a_factor_on_request():
    data = DATA.assign(day=pd.Timestamp("2020-01-01") + pd.to_timedelta(DATA.Days, unit="D"))
    assert frame("C(day)", data).coef_names[1] == "C(day)[T.2020-01-02]"
    with pytest.raises(DataError, match=r"dates or times.*write C\(day\)"):
        frame("day", data)


# -- the page of the documentation

PAGE = (Path(__file__).parents[2] / "notebooks" / "contrasts.md").read_text(encoding="utf-8")
ROWS = [line.replace(r"\|", "¦").strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| ")]
HERE = [code.replace("¦", "|") for row in ROWS if "`" in row[2] for code in re.findall("`([^`]*)`", row[2])]


@pytest.mark.parametrize("terms", HERE)
def test_what_the_page_says_can_be_written(terms):
    n = 24
    x = np.tile(np.linspace(-1, 2, n // 3), 3)
    data = {name: [*"abc"] * (n // 3) for name in "fg"} | {name: [*"pq"] * (n // 2) for name in "abch"}
    data |= {
        "x": x,
        "z": np.cos(x) + 2,
        "flag": x > 0.3,
        "y": np.sin(5 * x),
        "day": np.datetime64("2024-01-01") + np.arange(n) % 4,
    }
    if "log" in terms or "sqrt" in terms:
        data["x"] = x + 2
    if terms == "y ~ .":
        data = {name: data[name] for name in ("x", "z", "y")}
    found = build_frame(parse(terms if "~" in terms else f"y ~ {terms}", None, tuple(data)), data)
    assert found.X.shape[0] == n and len(found.coef_names) + len(found.parts) + (found.offset is not None) > 1


def test_transforms_are_those_of_r():
    data = DATA.assign(f=list("abc") * (N // 3))

    def columns(terms):
        return frame(terms, data).X[:, 1:]

    x = DATA.x.to_numpy()
    np.testing.assert_allclose(columns("scale(x)")[:, 0], (x - x.mean()) / x.std(ddof=1))
    np.testing.assert_allclose(columns("center(x)")[:, 0], x - x.mean(), atol=1e-12)
    poly = columns("poly(x, 3)")
    np.testing.assert_allclose(poly.T @ poly, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(poly.sum(0), 0, atol=1e-12)
    sdif = [[-2 / 3, -1 / 3], [1 / 3, -1 / 3], [1 / 3, 2 / 3]]  # MASS::contr.sdif(3)
    np.testing.assert_allclose(columns("C(f, contr.diff)")[:3], sdif)
    np.testing.assert_allclose(columns("C(f, contr.helmert)")[:3], [[-1, -1], [1, -1], [0, 2]])
    np.testing.assert_allclose(columns("C(f, contr.SAS)")[:3], [[1, 0], [0, 1], [0, 0]])
    np.testing.assert_allclose(columns("C(f, levels=['c', 'a', 'b'])")[:3], [[1, 0], [0, 1], [0, 0]])


def test_a_factor_of_one_level_is_reported_as_a_dropped_column():
    data = DATA.assign(one="a")
    with pytest.warns(DroppedColumnsWarning, match="dropped, as combinations of columns before them: one, Days:one"):
        fit = fitted("Days * one + (1 | Subject)", data)
    assert "dropped, combinations of other columns: one, Days:one" in str(fit.summary())
    assert "cells of an interaction are empty" not in str(fit.anova())
    assert frame("C(one)", data).aliased == ("C(one)",)
    assert frame("Days + (1 + one | Subject)", data).notes == ("one has one level: no column in 1 + one",)


def test_decimals_are_numbers_in_every_library():
    pl, pa = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    values = {"Reaction": DATA.Reaction.tolist(), "d": [Decimal(f"{d}.25") for d in DATA.Days]}
    values["d"][3] = None
    for data in (values, pd.DataFrame(values), pl.DataFrame(values), pa.table(values)):
        found = build_frame(parse("Reaction ~ d"), data)
        np.testing.assert_array_equal(found.X[:5, 1], [0.25, 1.25, 2.25, 4.25, 5.25])
