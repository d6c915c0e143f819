"""Bad input gets one clear sentence of the package's own errors, never a traceback of JAX or NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import jaxlmm
from jaxlmm.errors import DataError, FormulaError, JaxlmmError

N = 24


def good():
    rng = np.random.default_rng(2)
    x = rng.normal(size=N)
    g = np.repeat(np.array(list("abcdef")), 4)
    y = 1 + x + np.repeat(rng.normal(size=6), 4) + rng.normal(size=N)
    f = np.tile(np.array(["low", "mid", "high", "mid"]), 6)
    return {"y": y, "x": x, "g": g, "f": f, "w": np.ones(N)}


FORMULA = "y ~ x + (1 | g)"


def replaced(**columns):
    return good() | columns


def with_entry(column, row, value):
    data = good()
    data[column] = data[column].astype(float)
    data[column][row] = value
    return data


def check(caught, *words):
    message = str(caught.value)
    for word in words:
        assert word.lower() in message.lower(), (word, message)
    assert "jax." not in message.replace("jax.config", "")
    assert "Traceback" not in message
    sentence = message.split("\n")[0]
    assert 20 < len(sentence) < 400
    assert caught.value.__cause__ is None or isinstance(caught.value, JaxlmmError)


BAD_DATA = {
    "missing column": ("y ~ z + (1 | g)", good(), ["z", "column"]),
    "missing group": ("y ~ x + (1 | gg)", good(), ["gg", "g"]),
    "response missing": ("yy ~ x + (1 | g)", good(), ["yy"]),
    "response is text": ("f ~ x + (1 | g)", good(), ["f", "numeric"]),
    "infinite response": (FORMULA, with_entry("y", 3, np.inf), ["y", "infinite"]),
    "infinite predictor": (FORMULA, with_entry("x", 5, -np.inf), ["x", "infinite"]),
    "constant response": (FORMULA, replaced(y=np.full(N, 3.0)), ["y", "constant"]),
    "as many levels as rows": (FORMULA, replaced(g=np.arange(N)), ["g", "levels", "24"]),
    "one level": (FORMULA, replaced(g=np.full(N, "a")), ["g", "level"]),
    "as many effects as rows": ("y ~ x + (x | h)", replaced(h=np.repeat(np.arange(12), 2)), ["h", "24"]),
    "empty": (FORMULA, {k: v[:0] for k, v in good().items()}, ["row"]),
    "all rows incomplete": (FORMULA, replaced(x=np.full(N, np.nan)), ["row", "missing"]),
    "not a frame": (FORMULA, 3.0, ["data"]),
    "columns of unequal length": (FORMULA, replaced(x=np.zeros(N - 1)), ["x", "length"]),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data(name):
    formula, data, words = BAD_DATA[name]
    with pytest.raises(DataError) as caught:
        jaxlmm.lmm(formula, data)
    check(caught, *words)


def test_fewer_rows_than_coefficients():
    data = {k: v[:6] for k, v in good().items()}
    data["g"] = np.array(list("aabbcc"))
    with pytest.raises(DataError) as caught:
        jaxlmm.lmm("y ~ poly(x, 4) + w:x + f + (1 | g)", data)
    check(caught, "6")


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (-np.ones(N), ["weights", "negative"]),
        (np.r_[0.0, np.ones(N - 1)], ["weights", "zero"]),
        (np.ones(N - 1), ["weights", "24"]),
        ("nothing", ["weights", "nothing"]),
        ("f", ["weights", "f"]),
        (np.r_[np.inf, np.ones(N - 1)], ["weights"]),
    ],
)
def test_bad_weights(weights, words):
    with pytest.raises(DataError) as caught:
        jaxlmm.lmm(FORMULA, good(), weights=weights)
    check(caught, *words)


@pytest.mark.parametrize("offset", [np.ones(N - 1), "nothing", "f"])
def test_bad_offset(offset):
    with pytest.raises(DataError) as caught:
        jaxlmm.lmm(FORMULA, good(), offset=offset)
    check(caught, "offset")


BAD_FORMULAS = {
    "y ~ x + (1 | g": "(",
    "y ~ x + 1 | g)": ")",
    "y x + (1 | g)": None,
    "y ~ x ~ (1 | g)": "~",
    "~ x + (1 | g)": None,
    "y ~ ": None,
    "y ~ x + (1 | )": None,
    "y ~ x + ( | g)": None,
    "y ~ x + (1 | g)*x": None,
    "y ~ x + ((1 | g) | h)": None,
    "y ~ x %in% f + (1 | g)": "%",
    "": None,
}


@pytest.mark.parametrize("formula", BAD_FORMULAS)
def test_bad_formula_has_a_caret(formula):
    with pytest.raises(FormulaError) as caught:
        jaxlmm.lmm(formula, good())
    place = BAD_FORMULAS[formula]
    if place is not None:
        lines = str(caught.value).split("\n")
        column = lines[-1].index("^")
        assert lines[-1].strip() == "^"
        assert lines[-2].strip() == formula.strip()
        assert lines[-2][column] == place


def test_bad_formula_that_is_no_text():
    with pytest.raises(JaxlmmError, match="formula"):
        jaxlmm.lmm(3, good())


@pytest.mark.smoke
@pytest.mark.parametrize(
    "fixed",
    [
        "__import__('os').getcwd()",
        "x.__class__",
        "I((lambda: 1)())",
        "eval('1')",
        "open('a')",
        "np.load('a')",
        "[c for c in (1, 2)]",
        "{__import__('os')}",
        "`__import__('os')`",
        "exec('a = 1')",
        "I(x[0])",
        "center.__globals__",
    ],
)
@pytest.mark.parametrize("place", ["fixed", "bar", "response"])
def test_formula_text_cannot_reach_python(fixed, place):
    formula = {
        "fixed": f"y ~ {fixed} + (1 | g)",
        "bar": f"y ~ x + ({fixed} | g)",
        "response": f"{fixed} ~ x + (1 | g)",
    }[place]
    with pytest.raises(JaxlmmError):
        jaxlmm.lmm(formula, good())


def test_callers_variables_are_not_visible():
    secret = np.arange(float(N))  # noqa: F841
    with pytest.raises(DataError, match="secret"):
        jaxlmm.lmm("y ~ secret + (1 | g)", good())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "RMEL"}, ["method", "RMEL", "REML", "ML"]),
        ({"method": "reml "}, ["method", "REML"]),
        ({"engine": "fast"}, ["engine", "fast", "grouped"]),
    ],
)
def test_misspelt_options(options, words):
    with pytest.raises(JaxlmmError) as caught:
        jaxlmm.lmm(FORMULA, good(), **options)
    check(caught, *words)


def test_unknown_structure():
    with pytest.raises(JaxlmmError) as caught:
        jaxlmm.lmm("y ~ x + nonsense(0 + x | g)", good())
    check(caught, "nonsense")


def test_a_formula_without_random_effects():
    """Either fitted as generalised least squares or refused in words that name the missing bar."""
    with pytest.raises(JaxlmmError) as caught:
        jaxlmm.lmm("y ~ x", good())
    check(caught, "random")


def test_crossed_terms_too_large():
    n = 30_000
    rng = np.random.default_rng(0)
    data = {"y": rng.normal(size=n), "a": rng.integers(0, 9000, size=n), "b": rng.integers(0, 8500, size=n)}
    with pytest.raises(JaxlmmError) as caught:
        jaxlmm.lmm("y ~ 1 + (1 | a) + (1 | b)", data, engine="crossed")
    check(caught, "'crossed' can have 8000", "engine='iterative'")


TWICE = {"g2": np.array([f"other {x}" for x in good()["g"]])}


@pytest.mark.parametrize(
    "formula, words",
    [
        ("y ~ x + (1 | g) + (1 | g2)", ("g and g2", "the same effects", "drop one")),
        ("y ~ x + (x | g) + (1 + x | g)", ("g and g", "the same effects", "drop one")),
        ("y ~ g + (1 | g)", ("effects of g", "fixed effects", "drop the term")),
    ],
)
def test_confounded_terms_are_named(formula, words):
    with pytest.raises(DataError) as caught:
        jaxlmm.lmm(formula, good() | TWICE)
    check(caught, *words)


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ x + (1 | g) + (x | g)",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("y ~ x + (x || g2) + (x | g)", "y ~ x + (f || g)")),
    ],
)
def test_terms_that_share_an_effect_are_fitted_and_named(formula):
    """As lme4 does; its (f || g) is one of them."""
    text = str(jaxlmm.lmm(formula, good() | TWICE).summary())
    assert "share an effect: only the sum of its variances is determined" in text


@pytest.mark.slow
def test_terms_of_one_factor_that_share_nothing_are_not_confounded():
    separate = jaxlmm.lmm("y ~ x + (1 | g) + (0 + x | g)", good())
    assert separate.converged and "share" not in str(separate.summary())
    n, rng = 60, np.random.default_rng(0)
    X, g = np.column_stack([np.ones(n), rng.normal(size=n)]), np.arange(n) % 10
    both = [jaxlmm.Term(X, g, jaxlmm.covariance.CompoundSymmetry()), jaxlmm.Term(X, g, jaxlmm.Diagonal())]
    assert len(jaxlmm.Model(rng.normal(size=n), X, both).random) == 2


# ---------------------------------------------------------------------------- a fit and new data


@pytest.fixture(scope="module")
def fit():
    return jaxlmm.lmm("y ~ x + f + (1 | g)", good())


def new_rows(**columns):
    return {"x": np.array([0.1, 0.2]), "f": np.array(["low", "mid"]), "g": np.array(["a", "b"])} | columns


def test_unknown_level_of_a_fixed_factor(fit):
    with pytest.raises(DataError) as caught:
        fit.predict(new_rows(f=np.array(["low", "huge"])))
    check(caught, "f", "huge")


def test_unknown_group_without_leave(fit):
    with pytest.raises(DataError) as caught:
        fit.predict(new_rows(g=np.array(["a", "new"])))
    check(caught, "g", "new", "allow_new_levels")
    assert np.all(np.isfinite(fit.predict(new_rows(g=np.array(["a", "new"])), random=False)))


def test_new_data_without_a_column(fit):
    data = new_rows()
    del data["x"]
    with pytest.raises(DataError) as caught:
        fit.predict(data)
    check(caught, "x")


@pytest.mark.parametrize("y", [np.ones(N - 1), np.full(N, np.nan), np.array(["a"] * N), np.full(N, 2.0)])
def test_bad_refit(fit, y):
    with pytest.raises(JaxlmmError) as caught:
        fit.refit(y)
    check(caught, "y")


def test_bad_residual_kind_and_simulation_size(fit):
    with pytest.raises(JaxlmmError, match="pearson"):
        fit.residuals("perason")
    with pytest.raises(JaxlmmError, match="n"):
        fit.simulate(-1, seed=1)


def test_nothing_is_lost_after_a_refusal(fit):
    """Errors leave the fit and the caller's data as they were."""
    before, data = fit.fitted.copy(), good()
    copies = {k: v.copy() for k, v in data.items()}
    with pytest.raises(DataError):
        jaxlmm.lmm(FORMULA, data, weights=-np.ones(N))
    with pytest.raises(DataError):
        fit.predict(new_rows(f=np.array(["low", "huge"])))
    assert np.array_equal(fit.fitted, before)
    assert all(np.array_equal(data[k], copies[k]) for k in data)


def test_optional_packages_are_named_when_absent(monkeypatch):
    import sys

    for name in [m for m in sys.modules if m == "formulaic" or m.startswith("formulaic.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "formulaic", None)
    with pytest.raises(ImportError, match=r"jaxlmm\[formula\]"):
        jaxlmm.lmm("y ~ poly(x, 2) + f + (1 | g)", good())


def test_slips_of_those_who_come_from_elsewhere_are_named():
    with pytest.raises(FormulaError, match=r"is a '\+' missing, x \+ \(\.\.\.\)"):
        jaxlmm.lmm("y ~ x (1 | g)", good())
    fit = jaxlmm.lmm("y ~ x + (1 | g)", good())
    with pytest.raises(DataError, match=r"found a Fit, .* jaxlmm.compare\(fit, other\)"):
        fit.anova(fit)
    with pytest.raises(DataError, match="no file 'sleepstudy'; shipped data are jaxlmm.datasets.load"):
        jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", "sleepstudy")
