"""Formulas: lme4's bars, R's algebra of terms, errors with a caret, and no way from the text to Python."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlmm.errors import FormulaError
from jaxlmm.formula import expressions
from jaxlmm.formula.parser import parse


def bars(text):
    return [(bar.lhs, bar.group_label) for bar in parse(text).bars]


# What lme4 1.1-31 makes of these: findbars(expandDoubleVerts(formula)), left sides through R's terms().
LME4_BARS = {
    "y~x+(1|g)": [("1", "g")],
    "y~(x|g)": [("1 + x", "g")],
    "y~(0+x|g)": [("0 + x", "g")],
    "y~(1|a/b)": [("1", "b:a"), ("1", "a")],
    "y~(x|a/b/c)": [("1 + x", "c:b:a"), ("1 + x", "b:a"), ("1 + x", "a")],
    "y~(1|a:b)": [("1", "a:b")],
    "y~(1|a/b:c)": [("1", "b:c:a"), ("1", "a")],
    "y~(x||g)": [("1", "g"), ("0 + x", "g")],
    "y~(1+x+f||g)": [("1", "g"), ("0 + x", "g"), ("0 + f", "g")],
    "y~(0+x||g)": [("0 + x", "g")],
    "y~(x*f||g)": [("1", "g"), ("0 + x", "g"), ("0 + f", "g"), ("0 + x:f", "g")],
    "y~(x||a/b)": [("1", "b:a"), ("1", "a"), ("0 + x", "b:a"), ("0 + x", "a")],
    "y~(1|g)+x+(0+z|h)": [("1", "g"), ("0 + z", "h")],
    "y~x*z+(1|g)+(1|h)": [("1", "g"), ("1", "h")],
    "y~(x-1|g)": [("0 + x", "g")],
    "y~((1|g))": [("1", "g")],
    "y~(1|g)+(1|g)": [("1", "g"), ("1", "g")],
    "y~x+(1|(a:b))": [("1", "a:b")],
    "y~(1|a/(b:c))": [("1", "b:c:a"), ("1", "a")],
    "y~(x+z||a/b)+(1|h)": [
        ("1", "b:a"), ("1", "a"), ("0 + x", "b:a"), ("0 + x", "a"), ("0 + z", "b:a"), ("0 + z", "a"),
        ("1", "h"),
    ],
    "y~(-1+x+z||g)": [("0 + x", "g"), ("0 + z", "g")],
}  # fmt: skip


@pytest.mark.parametrize("text", LME4_BARS)
def test_bars_are_split_as_in_lme4(text):
    assert bars(text) == LME4_BARS[text]


# -- a generator of formulas with the bars that lme4's rules give for them

NAMES = ("a", "b", "c", "d")
LEFT = {  # left side: (its own text, the parts of its ||)
    "1": ("1", ["1"]),
    "x": ("1 + x", ["1", "0 + x"]),
    "0 + x": ("0 + x", ["0 + x"]),
    "x + z": ("1 + x + z", ["1", "0 + x", "0 + z"]),
    "x - 1": ("0 + x", ["0 + x"]),
    "x:z + 1": ("1 + x:z", ["1", "0 + x:z"]),
    "log(x)": ("1 + log(x)", ["1", "0 + log(x)"]),
}


@st.composite
def random_terms(draw):
    """Text of one random-effect term and the bars of findbars, expandSlash and makeInteraction."""
    lhs, double = draw(st.sampled_from(sorted(LEFT))), draw(st.booleans())
    levels = draw(
        st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True), min_size=1, max_size=3)
    )
    group = "/".join(":".join(level) for level in levels)
    nested = []
    for depth in range(len(levels), 0, -1):  # the innermost interaction first, written from the inside out
        names = list(itertools.chain.from_iterable(reversed(levels[:depth])))
        nested.append(":".join(dict.fromkeys(names)))
    whole, parts = LEFT[lhs]
    expected = [(part, g) for part in (parts if double else [whole]) for g in nested]
    return f"({lhs} {'||' if double else '|'} {group})", expected


@settings(deadline=None, max_examples=200)
@given(st.lists(random_terms(), min_size=1, max_size=3), st.permutations(["x", "a", "x:a", "0", None]), st.data())
def test_bars_and_fixed_part_in_any_order(terms, fixed, data):
    pieces = [f for f in fixed if f] + [text for text, _ in terms]
    order = data.draw(st.permutations(range(len(pieces))))
    found = parse("y ~ " + " + ".join(pieces[i] for i in order))
    in_order = [terms[i - 4][1] for i in order if i >= 4]
    assert [(b.lhs, b.group_label) for b in found.bars] == list(itertools.chain.from_iterable(in_order))
    assert found.side.intercept is False
    assert [len(t) for t in found.side.terms] == [1, 1, 2]
    assert all(found.text[b.position] == "(" for b in found.bars)


# -- the fixed part

FIXED = {
    "1": "1",
    "x": "1 + x",
    "0 + x": "0 + x",
    "-1 + x": "0 + x",
    "x - 1": "0 + x",
    "0 + x + 1": "1 + x",
    "a*b": "1 + a + b + a:b",
    "a/b": "1 + a + a:b",
    "(a + b)/c": "1 + a + b + a:b:c",
    "a:b + a + b + a": "1 + a + b + a:b",
    "a:b + b:a": "1 + a:b",
    "(a+b+c)^2": "1 + a + b + c + a:b + a:c + b:c",
    "(a+b+c)**2 - a:b": "1 + a + b + c + a:c + b:c",
    "(a+b)^9": "1 + a + b + a:b",
    "a*b - a": "1 + b + a:b",
    "a*b*c": "1 + a + b + c + a:b + a:c + b:c + a:b:c",
    "a^2": "1 + a",
    "a:a": "1 + a",
    "+ x + (z)": "1 + x + z",
    "(1 + x)": "1 + x",
    "I(x^2)": "1 + I(x ** 2)",
    "np.log(x) + sqrt( x )": "1 + log(x) + sqrt(x)",
    "sin(2*pi*t)": "1 + sin(2 * pi * t)",
    "sin(2 * np.pi * t)": "1 + sin(2 * pi * t)",
    "poly(x, 2, raw = TRUE)": "1 + poly(x, 2, raw=True)",
    "C(a, contr.sum)": "1 + C(a, contr.sum)",
    'C(a, contr.treatment("b 1"))': "1 + C(a, contr.treatment('b 1'))",
    "factor(a)": "1 + C(a)",
    "bs(x, knots=[1, 2.5, -3], degree=2)": "1 + bs(x, knots=[1, 2.5, -3], degree=2)",
    "I(x > 3):z": "1 + I(x > 3):z",
    "offset(log(t)) + x": "1 + x",
    "(1 | g)": "1",
    "x + (1 | g) + z": "1 + x + z",
}


@pytest.mark.parametrize("text", FIXED)
def test_fixed_part(text):
    assert parse(f"y ~ {text}").fixed == FIXED[text]


def test_offsets_response_and_options():
    found = parse("log(y + 1) ~ x + offset(log(t)) + offset(o) + diag(0 + x | g, d=[1, 2], by='h', v=TRUE) + ou(t | g)")
    assert found.response == "log(y + 1)"
    assert found.offsets == ("log(t)", "o")
    first, second = found.bars
    assert (first.structure, first.lhs, first.options) == (
        "diag",
        "0 + x",
        (("d", (1, 2)), ("by", "h"), ("v", True)),
    )
    assert (second.structure, second.lhs, second.group, second.options) == ("ou", "1 + t", ("g",), ())
    assert found.text[first.position :].startswith("diag(")


def test_a_transform_with_a_bar_is_a_structure():
    assert parse("y ~ exp(t | g) + exp(t)").bars[0].structure == "exp"


def test_double_bar_marks_its_parts_as_uncorrelated():
    assert [b.correlated for b in parse("y ~ (x || g) + (x | g)").bars] == [False, False, True]


def test_unusual_names_of_columns():
    found = parse("yield ~ `my col` + Sepal.Length + größe + log(`a b`) + lambda + x__y + (1 | `the group`/Block.No)")
    names = [found.column(n) for f in found.side.factors for n in expressions.variables(f)]
    assert names == ["my col", "Sepal.Length", "größe", "a b", "lambda", "x__y"]
    assert found.column(found.response) == "yield"
    assert [found.readable(f) for f in found.side.factors][3] == "log(a b)"
    assert [b.group for b in found.bars] == [("Block.No", "the group"), ("the group",)]


def test_known_structures():
    assert parse("y ~ ar1(t | g)", known_structures=["ar1"]).bars[0].structure == "ar1"
    with pytest.raises(FormulaError, match="did you mean ar1") as caught:
        parse("y ~ ar(t | g)", known_structures=["ar1", "us"])
    assert caught.value.position == 4


# -- errors: the sentence and the place

ERRORS = {
    "y ~ x + (1 | g": (8, "never closed"),
    "y ~ log(x + (1 | g)": (7, "never closed"),
    "y ~ x + 1 | g)": (13, "never opened"),
    "y ~ x + 1 | g": (10, "parentheses"),
    "y x + (1 | g)": (13, "'~'"),
    "y ~ x ~ z": (6, "only one"),
    "~ x": (0, "response"),
    "": (0, "'~'"),
    "y ~ ": (4, "right of"),
    "y ~ x +": (7, "ends"),
    "y ~ + ": (6, "ends"),
    "y ~ x + (1 | )": (13, "grouping factor is missing"),
    "y ~ x + ( | g)": (10, "did not expect"),
    "y ~ (0 | g)": (7, "nothing is left"),
    "y ~ (1 | g)*x": (4, "only added"),
    "y ~ x:(1 | g)": (6, "only added"),
    "y ~ x - (1 | g)": (8, "only added"),
    "y ~ (x + (1 | g))^2": (9, "only added"),
    "y ~ ((1 | g) | h)": (5, "inside"),
    "y ~ (1 | g | h)": (11, "one bar"),
    "y ~ (1 | g + h)": (11, "grouping factor"),
    "y ~ (1 | g * h / k)": (15, "one term for each"),
    "y ~ (1 | (g / h))": (12, "parentheses"),
    "y ~ (1 | log(g))": (9, "a column"),
    "y ~ (1 | 1)": (9, "a column"),
    "y ~ (1 | g, d=2)": (10, "expected"),
    "y ~ us(x || g)": (9, "no meaning"),
    "y ~ us(x | g, 2)": (14, "name=value"),
    "y ~ us(x | g, d=f(2))": (16, "option"),
    "y ~ x %in% f": (6, "%in%"),
    "y ~ x + .": (8, "'.'"),
    "y ~ 2*x": (4, "I(...)"),
    "y ~ 1:x": (4, "intercept"),
    "y ~ x^z": (6, "whole number"),
    "y ~ offset(x)*z": (4, "offset"),
    "y ~ offset()": (4, "empty"),
    "y ~ x z": (6, "did not expect"),
    "y ~ x, z": (5, "did not expect"),
    "y ~ 'x'": (4, "did not expect"),
    "y ~ pi": (4, "no column"),
    "y ~ I(3)": (4, "no column"),
    "3 ~ x": (0, "no column"),
    "scale(y) ~ x": (0, "single rows"),
    "y ~ f(x)": (4, "not a function"),
    "y ~ 2x": (4, "neither a number nor a name"),
    "y ~ x $ z": (6, "no meaning"),
    "y ~ `x": (4, "never closed"),
    "y ~\n x + (1 | g": (9, "never closed"),
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors_have_a_caret_at_the_place(text):
    position, words = ERRORS[text]
    with pytest.raises(FormulaError) as caught:
        parse(text)
    lines = str(caught.value).split("\n")
    assert words in lines[0]
    assert caught.value.position == position
    if text:
        assert len(lines) == 3
        assert lines[2] == " " * (4 + position) + "^"


def test_a_formula_is_text():
    with pytest.raises(FormulaError, match="int"):
        parse(3)


# -- security

HOSTILE = [
    "__import__('os').getcwd()", "x.__class__", "x.__class__.__bases__", "I(x.__class__)",
    "I((lambda: 1)())", "eval('1')", "exec('a = 1')", "open('a')", "getattr(x, 'a')", "np.load('a')",
    "np.random.rand(x)", "np.lib.npyio.os.system('id')", "np.__builtins__", "np.log.__self__",
    "[c for c in (1, 2)]", "I([c for c in x])", "I({1: x})", "{__import__('os')}", "{x}", "I({x})",
    "I(x[0])", "x[0]", "I(x if x else x)", "I(x and x)", "I(not x)", "I((w := x))", "I(f'{x}')", "f'{x}'",
    "I(x @ x)", "I(x << 9)", "log(*x)", "log(**x)", "log(x, out=x)", "C(x, _state=1)",
    "poly(x, _context=1)", "poly(x, __x=1)", "poly(x, degree=lambda: 1)",
    "poly(x, degree=__import__('os'))", "C(x, levels=[__import__('os')])", "C(x, open('a'))",
    "C(x, contr.__class__)", "C(x, contr.treatment.__globals__)", "C(x, contr.register('a'))",
    "center.__globals__", "center.__globals__['os']", "I(center.__wrapped__)", "Q('x')", "hashed(x)",
    "lag(x)", "x; import os", 'x\\', 'I(x)\nimport os', "I(x.real)(1)", "I(x)(1)", "log(x)(1)",
    "C(x, 'a`b')", "C(x, 'a{b}')", 'C(x, "a\'b")', "C(x, 'a\\x41')", "C(x, 'a\tb')", "C(x, 'a' 'b`')",
    "I(9**9**9**9)", "I(9 ** 999999999 + x)", "I([0] * 10**9 + x)", "I('a' * 10**9 + x)", "I(-(9**9)**9)",
    "I(None)", "I(x + True)", "I(x is x)", "I(x in x)", "I(1 < x < 2)", "I(yield x)", "I(await x)",
    "I(x, x)", "I(...)", "I(1j)", "I(b'x')", "log()", "ｅｖａｌ('1')", "I(x := 1)", "__x",
    "`__import__`('os')",
    "breakpoint()",
]  # fmt: skip


@pytest.mark.parametrize(
    "place", ["y ~ {} + (1 | g)", "y ~ x + ({} | g)", "y ~ a*({} + b)", "{} ~ x", "y ~ offset({})"]
)
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_refused(text, place):
    with pytest.raises(FormulaError):
        parse(place.replace("{}", text, 1))


@pytest.mark.parametrize(
    "text", ["I(np)", "I(np.log)", "log(np.os)", "C(center)", "log(log)", "x.real", "open", "`__x`"]
)
def test_names_are_names_of_columns_whatever_they_mean_in_python(text):
    """What is left after the parser are columns: the data decide whether there are such columns."""
    found = parse(f"y ~ {text}")
    names = {found.column(v) for f in found.side.factors for v in expressions.variables(f)}
    assert names <= {"np", "np.log", "np.os", "center", "log", "x.real", "open", "__x"}


def test_deep_and_long_text_is_refused():
    for text in (
        "y ~ " + "(" * 5000 + "x" + ")" * 5000,
        "y ~ I(" + "-" * 15000 + "x)",
        "y ~ " + "x + " * 10000 + "x",
    ):
        with pytest.raises(FormulaError):
            parse(text)
    many = "+".join(f"x{i}" for i in range(40))
    with pytest.raises(FormulaError, match="terms"):
        parse(f"y ~ ({many})^20")


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="xyg~|()+-*/:^., 012'\"`{}[]=<>%_é\n\\", max_size=30))
def test_any_text_gives_a_formula_or_a_formula_error(text):
    try:
        parse("y ~ " + text)
    except FormulaError as error:
        assert error.position is not None


def test_evaluation_matches_numpy():
    x = np.array([0.5, 1.0, 4.0])
    cases = {
        "I(x ** 2 - 3 * x)": x**2 - 3 * x,
        "sqrt(abs(-x)) / 2": np.sqrt(x) / 2,
        "minimum(x, 1)": np.minimum(x, 1),
        "sin(2 * pi * x) // 1 + x % 2": np.sin(2 * np.pi * x) // 1 + x % 2,
    }
    for text, expected in cases.items():
        np.testing.assert_array_equal(expressions.evaluate(text, {"x": x}), expected)
    assert np.isnan(expressions.evaluate("log(-x)", {"x": x})).all()
