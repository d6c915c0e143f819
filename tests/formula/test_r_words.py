"""What an lme4 user writes in formulas is R's columns (of model.matrix, checked with R 4.2) or a sentence."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlmm.covariance import NAMES
from jaxlmm.design.frame import build_frame
from jaxlmm.errors import FormulaError
from jaxlmm.formula.parser import parse

N = 60
RNG = np.random.default_rng(4)
DATA = {
    "y": RNG.normal(size=N), "x": RNG.normal(size=N), "t": RNG.uniform(0.5, 3.0, N),
    "a": np.array(["a1", "a2", "a3"])[RNG.integers(0, 3, N)], "g": np.array([f"g{k % 7}" for k in range(N)]),
    "k": RNG.integers(1, 4, N), "l": RNG.random(N) > 0.4, "odd name": RNG.normal(size=N),
}  # fmt: skip
x, t, a, L = DATA["x"], DATA["t"], DATA["a"], DATA["l"]
ONE = np.ones(N)


def frame(fixed, random="(1 | g)"):
    return build_frame(parse(f"y ~ {fixed} + {random}", NAMES, tuple(DATA)), DATA)


@pytest.mark.parametrize(("fixed", "names", "columns"), [
    ("x > 0", ["I(x > 0)[T.True]"], [x > 0]),
    ("(x > 0)", ["I(x > 0)[T.True]"], [x > 0]),
    ("a == 'a2'", ["I(a == 'a2')[T.True]"], [a == "a2"]),
    ("(a != 'a2') + x", ["I(a != 'a2')[T.True]", "x"], [a != "a2", x]),
    ("2 * x >= -t", ["I(2 * x >= -t)[T.True]"], [2 * x >= -t]),
    ("x^2 > 1", ["I(x ** 2 > 1)[T.True]"], [x**2 > 1]),
    ("(x > 0):t", ["I(x > 0)[False]:t", "I(x > 0)[True]:t"], [(x <= 0) * t, (x > 0) * t]),
    ("(x > 0) * t", ["I(x > 0)[T.True]", "t", "I(x > 0)[T.True]:t"], [x > 0, t, (x > 0) * t]),
    ("(x > 0) * (t > 1)", ["I(x > 0)[T.True]", "I(t > 1)[T.True]", "I(x > 0)[T.True]:I(t > 1)[T.True]"],
     [x > 0, t > 1, (x > 0) & (t > 1)]),
    # true and false inside I() are a factor, also in an interaction
    ("I(l)", ["l[T.True]"], [L]),
    ("I(l):x", ["l[False]:x", "l[True]:x"], [~L * x, L * x]),
    ("pmax(x, 0) + pmin(x, 0)", ["maximum(x, 0)", "minimum(x, 0)"], [np.maximum(x, 0), np.minimum(x, 0)]),
    ("asinh(x) + atan(x)", ["arcsinh(x)", "arctan(x)"], [np.arcsinh(x), np.arctan(x)]),
    ("`odd name`", ["odd name"], [DATA["odd name"]]),
    ("x^2", ["x"], [x]),
])  # fmt: skip
def test_columns_are_those_of_r(fixed, names, columns):
    found = frame(fixed)
    assert found.coef_names == ("(Intercept)", *names)
    np.testing.assert_allclose(found.X, np.column_stack([ONE, *columns]))


def test_contrasts_by_their_names_alone():
    np.testing.assert_array_equal(frame("C(a, sum)").X, frame("C(a, contr.sum)").X)
    np.testing.assert_array_equal(frame("C(a, helmert)").X, frame("C(a, contr.helmert)").X)


def test_a_comparison_left_of_a_bar_and_without_an_intercept():
    np.testing.assert_array_equal(frame("1", "(x > 0 | g)").terms[0].Z, np.column_stack([ONE, x > 0]))
    np.testing.assert_array_equal(frame("0 + (x > 0)").X, np.column_stack([x <= 0, x > 0]))
    np.testing.assert_array_equal(frame("1", "(1 | as.factor(k))").terms[0].codes, DATA["k"] - 1)


def test_a_comparison_of_new_rows():
    found = frame("(x > 0) * t")
    new = found.design({"x": [0.5, -1.0], "t": [2.0, 3.0], "g": ["g1", "g1"]})
    np.testing.assert_array_equal(new.X, [[1, 1, 2, 2], [1, 0, 3, 0]])


@pytest.mark.parametrize(("formula", "words"), [
    ("y ~ x > 0 + t", r"needs parentheses, \(x > 0\) \+ t"),
    ("y ~ t + x > 0 + (1 | g)", "needs parentheses"),
    ("y ~ 0 + x > 0", "needs parentheses"),
    ("y ~ (x + t > 0)", r"I\(x \+ t > 0\)"),
    ("y ~ x > 0 - 1", "needs parentheses"),
    ("y ~ (1 | x > 0)", "cannot be used in a grouping factor"),
    ("y ~ !l", "compute the column in the data"),
    ("y ~ I(x > 0 & t > 0)", "compute the column in the data"),
    ("y ~ d$x", "compute the column in the data"),
    ("y ~ a %in% l", "write a:b or a/b"),
    ("y ~ x %/% 2", "compute it in the data"),
    ("y ~ relevel(a, ref = 'a2')", r"C\(a, contr.treatment\('a2'\)\)"),
    ("y ~ cut(x, 3)", "pandas.cut"),
    ("y ~ ifelse(x > 0, x, 0)", r"I\(\(x > 0\) \* x\)"),
    ("y ~ interaction(a, g)", "write a:b"),
    ("y ~ (1 | interaction(a, g))", "write a:b"),
    ("y ~ log(t, 2)", r"log2\(x\)"),
    ("y ~ factor(a, levels = c('a2', 'a1', 'a3'))", r"lists are written"),
    ("y ~ factor(a, labels = ['u', 'v', 'w'])", "levels= and contrasts=, found labels="),
    ("y ~ factor(a, ordered = TRUE)", "levels= and contrasts=, found ordered="),
    ("y ~ ordered(a)", r"C\(a, contr.poly\)"),
    ("y ~ as.numeric(x > 0)", r"I\(1 \* \(x > 0\)\)"),
    ("y ~ (0 + dummy(a, 'a1') | g)", r"I\(1 \* \(a == 'a2'\)\)"),
    ("y ~ splines::ns(x, 3)", r"write ns\(x, 3\)"),
    ("y ~ I(x - mean(x))", r"center\(x\)"),
    ("cbind(y, x) ~ t", "stand alone left of '~' in lmm"),
    ("y > 0 ~ x", "the response can only be arithmetic"),
    ("y ~ (1 | (g / a))", "nesting a/b cannot stand in parentheses"),
])  # fmt: skip
def test_other_words_are_refused_with_what_to_write(formula, words):
    with pytest.raises(FormulaError, match=words):
        parse(formula, NAMES, tuple(DATA))
