"""Structures over columns: every syntax, the arrays it gives, what is refused, and the likelihoods of the fits."""

from __future__ import annotations

import functools
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
import oracle
from cases import some
from jaxlmm import DataError, FormulaError, JaxlmmError, Unstructured
from jaxlmm.covariance import NAMES, Autoregressive
from jaxlmm.design.frame import build_frame
from jaxlmm.formula.parser import parse
from jaxlmm.formula.specs import residual_of
from jaxlmm.formula.structures import parse_place, parse_residual, parse_variance
from jaxlmm.formula.syntax import Composed, Item, Part
from jaxlmm.frames.levels import Levels
from jaxlmm.frames.relationship import Precision, between_levels

SUBJECTS, VISITS = 20, 4
N = SUBJECTS * VISITS


@functools.cache
def _columns():
    rng = np.random.default_rng(0)
    subject, t = np.divmod(np.arange(N), VISITS)
    h = rng.uniform(1.0, 3.0, N)
    L = np.linalg.cholesky(0.6 ** abs(np.subtract.outer(np.arange(VISITS), np.arange(VISITS))))
    own = (rng.normal(size=(SUBJECTS, VISITS)) @ L.T).ravel()
    x = rng.normal(size=N)
    return {
        "y": 1 + x + 1.3 * own + 0.7 * np.sqrt(h) * rng.normal(size=N),
        "x": x,
        "h": h,
        "id": np.char.add("s", (10 + subject).astype(str)),
        "t": t,
        "week": np.array([0, 1, 3, 7])[t],
        "time": t + np.round(rng.uniform(0, 0.5, N), 2),
        "visit": np.array(list("abcd"))[t],
        "trait": np.array(["p", "q"])[t % 2],
        "half": t // 2,
        "arm": np.array(["u", "v"])[subject % 2],
        "site": subject // 5,
        "lat": rng.uniform(0, 10, N),
        "lon": rng.uniform(0, 10, N),
        "f": np.array(["k", "l", "m"])[rng.integers(0, 3, N)],
        "flag": t % 2 == 0,
        "day": np.datetime64("2024-01-01") + t,
    }


def columns(**new):
    return {name: values.copy() for name, values in _columns().items()} | new


def frame_of(formula="y ~ x", residual=None, variance=None, data=None, related=()):
    residual = residual_of(residual, variance, NAMES)
    return build_frame(parse(formula, NAMES), data or columns(), residual=residual, known=NAMES, related=related)


# ---------------------------------------------------------------------------- text

US, AR1 = Part("us", ("trait",), (), 1), Part("ar1", ("time",), (), 13)

ITEMS = {
    "us(visit | id)": [Item(Part("us", ("visit",)), ("id",))],
    "ar1(week | cow, correlation=0.5)": [Item(Part("ar1", ("week",), (("correlation", 0.5),)), ("cow",))],
    "us(visit | arm / id)": [Item(Part("us", ("visit",)), ("id",), ("arm",))],
    "ar1h(visit | arm:sex / id:site, shared=('correlation',))": [
        Item(Part("ar1h", ("visit",)), ("id", "site"), ("arm", "sex"), ("correlation",))
    ],
    "us(visit | id, by=arm)": [Item(Part("us", ("visit",)), ("id",), ("arm",))],
    "sp_exp(lat + lon | site)": [Item(Part("sp_exp", ("lat", "lon")), ("site",))],
    "matern(t, nu=inf)": [Item(Part("matern", ("t",), (("nu", np.inf),)))],
    "sp_gau(lat + lon) + iid()": [
        Item(Part("sp_gau", ("lat", "lon"))),
        Item(Part("iid", (), (), 20), position=20),
    ],
    "iid(variance=1)": [Item(Part("iid", (), (("variance", 1),)))],
    "(us(trait) @ ar1(time) | id)": [Item(Composed("@", (US, AR1)), ("id",))],
    "(us(trait) * ar1(time) | arm / id)": [Item(Composed("*", (US, AR1)), ("id",), ("arm",))],
    "(us(trait) + ar1(time) | id)": [Item(US, ("id",)), Item(AR1, ("id",))],
    "`my id`(t | id)": None,
}


@pytest.mark.parametrize("text", [text for text, found in ITEMS.items() if found])
def test_items_of_a_residual(text):
    assert list(parse_residual(text, NAMES)) == ITEMS[text]


def test_products_are_flat_and_parentheses_nest():
    (item,) = parse_residual("(us(a) @ ar1(b) @ cs(c) | id)", NAMES)
    assert [part.name for part in item.shape.parts] == ["us", "ar1", "cs"]
    (item,) = parse_residual("((ar1(t) + iid(t)) @ us(trait) | id)", NAMES)
    assert (item.shape.operator, item.shape.parts[0].operator) == ("@", "+")
    assert item.text == "((ar1(t) + iid(t)) @ us(trait) | id)"


def test_places_and_variance_functions():
    item, names = parse_place("`my time` | arm / id", "Mine")
    assert (item.text, names) == ("Mine(my time | arm / id)", ("my time",))
    assert parse_place("lat + lon", "Mine")[0].group == ()
    assert parse_variance("power(x, 0.5)", ["power"]) == ("power", "x", (0.5,), ())
    assert parse_variance("const_power(x, power=-1)", ["const_power"]) == ("const_power", "x", (), (("power", -1),))


BAD_TEXT = {
    "": (0, "expected a structure"),
    "us(visit | a / b / c)": (9, "arm / group"),
    "nope(visit | id)": (0, "nope is not a known covariance structure"),
    "us(log(visit) | id)": (3, "expected columns"),
    "us(0 + visit | id)": (3, "expected columns"),
    "(us(t | id) * ar1(t))": (12, "round the whole product"),
    "us(t | id) @ ar1(t | id)": (11, "round the whole product"),
    "(visit | id)": (1, "not a covariance structure"),
    "us(visit | id) x": (15, "did not expect x"),
    "us(visit | id": (2, "never closed"),
    "us(visit | id, correlation=f(x))": (27, "an option must be"),
    "us(visit || id)": (9, "has no meaning"),
    "(us(t) + cs(t) | id, d=2)": (0, "option d"),
}


@pytest.mark.parametrize("text", BAD_TEXT)
def test_bad_residual_text_gets_a_caret(text):
    position, words = BAD_TEXT[text]
    with pytest.raises(FormulaError, match=words) as caught:
        parse_residual(text, NAMES)
    assert caught.value.position == position


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("square(x)", "not a known variance function"),
        ("power", "variance function of a column"),
        ("power(x + z)", "one column"),
        ("power(log(x))", "one column"),
        ("power(x, 1, 2)", "1 parameter"),
        ("power(x, height=2)", "height"),
        ("power(x) + 1", "did not expect"),
        (3, "must be text"),
    ],
)
def test_bad_variance_text(text, words):
    with pytest.raises(FormulaError, match=words):
        residual_of(None, text, NAMES)


def test_terms_of_a_formula_over_columns():
    text = "y ~ ou(t | id) + matern(x + z, nu=1.5) + (us(trait) @ ar1(time) | id) + us(x | g) + ar1(0 + t | g)"
    shapes = [bar.shape and bar.shape.text for bar in parse(text, NAMES).bars]
    assert shapes == ["ou(t)", "matern(x + z)", "(us(trait) @ ar1(time))", "us(x)", None]
    (bar,) = parse("y ~ sp_exp(lat + lon)", NAMES).bars
    assert bar.group == ()
    assert [b.group for b in parse("y ~ ou(t | a/b)").bars] == [("b", "a"), ("a",)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("y ~ matern(log(x))", "over all rows takes columns"),
        ("y ~ sp_nope(x)", "sp_nope is not a known"),
        ("y ~ (us(a) @ ar1(t) | b/id)", "do not nest"),
        ("y ~ (us(a) @ x | id)", "not a covariance structure"),
        ("y ~ us(x | id, by=3)", "name of a column"),
        ("y ~ a @ b", "did not expect @"),
    ],
)
def test_bad_terms_over_columns(text, words):
    with pytest.raises(FormulaError, match=words):
        parse(text, NAMES)


# ---------------------------------------------------------------------------- arrays


def test_a_factor_gives_positions_and_numbers_coordinates():
    data = columns()
    for text, over in (
        ("us(visit | id)", "position"),
        ("ar1(visit | id)", "position"),
        ("toep(week | id)", "position"),
    ):
        found = frame_of(residual=text).residual.arguments()
        np.testing.assert_array_equal(found[over], data["t"])
        assert found["dim"] == VISITS
    for text, name in (("ar1(week | id)", "week"), ("ou(time | id)", "time")):
        found = frame_of(residual=text).residual.arguments()
        np.testing.assert_array_equal(found["coords"], data[name])
        assert found["coords"].dtype == np.float64
        assert found["dim"] == 1
    found = frame_of("y ~ x + sp_exp(lat + lon | site)").fields[0].arguments()
    np.testing.assert_array_equal(found["coords"], np.column_stack([data["lat"], data["lon"]]))
    np.testing.assert_array_equal(found["group"], data["site"])
    assert frame_of("y ~ x + matern(lat + lon)").fields[0].arguments()["group"] is None


def test_true_and_false_are_levels():
    found = frame_of("y ~ x + ar1(flag | id)").fields[0]
    assert found.columns == ("False", "True")
    np.testing.assert_array_equal(found.arguments()["position"], columns()["flag"])


def test_products_over_columns():
    found = frame_of(residual="(us(trait) @ ar1(half) | id)").residual
    np.testing.assert_array_equal(found.arguments()["coords"], np.column_stack([columns()["t"] % 2, columns()["half"]]))
    assert found.arguments()["dim"] == (2, 1)
    assert found.structure == Unstructured() @ Autoregressive()
    found = frame_of(residual="(ar1(visit) * cs(visit) | id)").residual
    assert found.structure == Autoregressive() * jaxlmm.covariance.CompoundSymmetry()
    assert found.arguments()["dim"] == VISITS
    found = frame_of(residual="(ar1(week) * cs(week) | id)").residual  # one takes times, the other levels
    np.testing.assert_array_equal(found.arguments()["coords"], np.column_stack([columns()["week"], columns()["t"]]))
    assert found.arguments()["dim"] == (1, VISITS)
    found = frame_of(residual="(us(trait) @ sp_exp(lat + lon) | id)").residual
    assert found.structure.widths == (1, 2)


def test_arms_and_variance_functions_add_columns():
    data = columns()
    found = frame_of(residual="us(visit | arm / id)", variance="power(h)").residual
    expected = np.column_stack([data["arm"] == "v", data["t"], data["h"]])
    np.testing.assert_array_equal(found.arguments()["coords"], expected)
    assert found.arguments()["dim"] == (VISITS, 1)
    found = frame_of("y ~ x + (1 | id)", variance="ident(f)").residual
    np.testing.assert_array_equal(found.arguments()["group"], np.arange(N))
    assert found.arguments()["dim"] == (1, 3)


def test_by_in_terms_and_fields():
    found = frame_of("y ~ x + us(x | id, by=arm) + ou(time | site, by=arm)")
    first, second = found.terms
    assert first.columns == ("(Intercept)[arm=u]", "x[arm=u]")
    inside = columns()["arm"] == "u"
    np.testing.assert_array_equal(first.Z[:, 1], np.where(inside, columns()["x"], 0))
    np.testing.assert_array_equal(second.Z[:, 0], ~inside)
    (field,) = found.fields
    assert len(field.levels) == 8  # four sites in two arms
    assert field.arguments()["coords"].shape == (N, 2)


def test_the_nugget_is_the_residual_and_the_last_item_otherwise():
    found = frame_of(residual="sp_gau(lat + lon) + iid()")
    assert found.residual is None
    assert [field.text for field in found.fields] == ["sp_gau(lat + lon)"]
    found = frame_of("y ~ x + (1 | site)", residual="iid() + ar1(t | id)")
    assert found.residual is None
    assert [type(part).__name__ for part in found.parts] == ["FrameTerm", "FrameField"]
    found = frame_of(residual="ar1(t | id) + cs(visit | id)")
    assert (found.fields[0].text, found.residual.text) == ("ar1(t | id)", "cs(visit | id)")
    with pytest.raises(FormulaError, match="more than once"):
        frame_of(residual="iid() + iid()")


def test_structures_of_python_over_columns():
    kronecker = (Unstructured() @ Autoregressive()).over("trait + half | id")
    assert frame_of(residual=kronecker).residual.arguments()["dim"] == (2, 1)
    assert frame_of(residual=Unstructured().over("visit | arm / id")).residual.placed.arms == ("arm=u", "arm=v")
    total = (Autoregressive() + jaxlmm.covariance.CompoundSymmetry()).over("visit | id")
    assert frame_of(residual=total).residual.arguments()["dim"] == VISITS
    with pytest.raises(FormulaError, match="2 columns, found 1"):
        frame_of(residual=(Unstructured() @ Autoregressive()).over("trait | id"))


def test_missing_values_in_the_columns_of_a_structure_drop_rows():
    data = columns(time=np.where(np.arange(N) == 3, np.nan, columns()["time"]))
    assert len(frame_of("y ~ x + ou(time | id)", data=data).y) == N - 1
    assert len(frame_of(residual="ou(time | id)", data=data).y) == N - 1
    h = np.where(np.arange(N) < 2, np.nan, columns()["h"])
    assert len(frame_of("y ~ x + (1 | id)", variance="power(h)", data=columns(h=h)).y) == N - 2


# ---------------------------------------------------------------------------- refusals


REFUSED = {
    "a repeated time": ("y ~ x", {"residual": "us(trait | id)"}, r"'id' 's10' has 2 rows with 'trait' 'p'"),
    "a repeated time in order": ("y ~ x", {"residual": "ar1(half | id)"}, "'id' 's10' has 2 rows with 'half' 0"),
    "a repeated place": ("y ~ x", {"residual": "ou(half | id)"}, r"2 rows with 'half' 0.*iid\(\)"),
    "a rank below the levels": ("y ~ x", {"residual": "rr(visit | id)"}, r"rank d = 2 between 4 levels.*iid\(\)"),
    "over all rows": ("y ~ x", {"residual": "us(visit)"}, "there are 20 rows with 'visit' 'a'"),
    "an id in two arms": ("y ~ x", {"residual": "us(visit | f / id)"}, r"needs one level of 'f'"),
    "text as coordinates": ("y ~ x + ou(visit | id)", {}, r"ou\(visit\) is over times or places.*text"),
    "true and false as coordinates": ("y ~ x", {"residual": "sp_exp(flag + lat | id)"}, "true/false"),
    "dates": ("y ~ x + ar1(day | id)", {}, "dates or times"),
    "parts of steps": ("y ~ x + ar1(time | id)", {}, "whole numbers.*ou or car1"),
    "parts of steps in arma11": ("y ~ x", {"residual": "arma11(time | id)"}, "whole numbers.*ou or car1"),
    "two columns of levels": ("y ~ x", {"residual": "us(t + half | id)"}, "takes one column, found 2"),
    "two columns in order": ("y ~ x + ar1(t + half | id)", {}, "takes one column, found 2"),
    "sums over different columns": ("y ~ x", {"residual": "((ar1(t) + cs(visit)) @ us(trait) | id)"}, "same column"),
    "one level": ("y ~ x", {"residual": "toep(one | id)", "data": columns(one=["v"] * N)}, r"toep\(one\).*two"),
    "one time": ("y ~ x + ar1(one | id)", {"data": columns(one=np.ones(N))}, r"ar1\(one\).*two"),
    "zero to a power": ("y ~ x", {"variance": "power(t)"}, "other than zero, but 20"),
    "text to a power": ("y ~ x", {"variance": "exp(visit)"}, "'visit' holds text"),
    "a constant covariate": ("y ~ x", {"variance": "power(one)", "data": columns(one=np.ones(N))}, "constant"),
    "one level of ident": ("y ~ x", {"variance": "ident(one)", "data": columns(one=["v"] * N)}, "two levels"),
    "a missing column": ("y ~ x", {"variance": "power(hh)"}, "no column 'hh'"),
    "a missing arm": ("y ~ x + us(x | id, by=arms)", {}, "no column 'arms'"),
    "shared in a term": ("y ~ x + us(x | id, by=arm, shared='covariance')", {}, "'shared' is for structures"),
    "shared that is not there": ("y ~ x", {"residual": "ar1(t | arm / id, shared='rho')"}, "rho"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_data_for_structures_get_one_sentence(name):
    formula, options, words = REFUSED[name]
    with pytest.raises(DataError, match=words) as caught:
        frame_of(formula, **options)
    assert "\n" not in str(caught.value)


def test_a_repeated_place_is_fine_beside_independent_errors():
    assert frame_of("y ~ x + ou(half | id)").fields
    assert frame_of(residual="ou(half | id) + iid()").fields
    few = columns()
    few = {k: v[np.r_[0, 4:N]] for k, v in few.items()}
    assert frame_of(residual="ar1(t | id)", data=few).residual is not None  # a subject with one visit


class Lopsided(jaxlmm.Covariance):
    variance: jaxlmm.Variance

    def matrix(self, levels):
        return self.variance * (jnp.eye(len(levels)) + jnp.arange(len(levels)) / 10)


class Narrow(jaxlmm.Covariance):
    variance: jaxlmm.Variance

    def matrix(self, levels):
        return self.variance * jnp.ones(len(levels))


@pytest.mark.parametrize(
    ("formula", "options", "words"),
    [
        ("y ~ x + rr(0 + visit | id, d=5)", {}, "rr.*d = 5 factors for 4 level"),
        ("y ~ x + ar1(0 + one | id)", {"data": columns(one=["v"] * N)}, "ar1.*two levels"),
        ("y ~ x + ar1(week | id, correlation=1.5)", {}, "ar1.*correlation.*1.5"),
        ("y ~ x + matern(t | id, nu=0.7)", {}, "matern.*nu"),
        ("y ~ x + ar1(week | id, rho=0.5)", {}, "ar1.*rho"),
        ("y ~ x + ou(0 + t | id)", {}, r"write ou\(column \| group\)"),
        ("y ~ x + ar1(0 + t | id)", {}, "over the levels of a factor"),
        ("y ~ x", {"residual": "us()"}, r"us\(\) needs the columns"),
        ("y ~ x", {"residual": 3}, "residual must be text"),
        ("y ~ x", {"residual": Lopsided().over("visit | id")}, "Lopsided.matrix is not symmetric"),
        ("y ~ x", {"residual": Narrow().over("visit | id")}, r"Narrow.matrix must return shape \(4, 4\)"),
        ("y ~ x + narrow(t | id)", {"structures": {"narrow": Narrow}}, "Narrow.matrix must return"),
        ("y ~ x + narrow(0 + visit | id)", {"structures": {"narrow": Narrow}}, "Narrow.matrix must return"),
        ("y ~ x + (1 | id)", {"relationship": {"cow": np.eye(3)}}, "no random effects are by 'cow'"),
        ("y ~ x + (1 | id)", {"relationship": {"id": np.eye(3)}}, "20 levels of 'id'"),
    ],
)
def test_what_lmm_refuses(formula, options, words):
    options = dict(options)
    with pytest.raises(JaxlmmError, match=words):
        jaxlmm.lmm(formula, options.pop("data", columns()), **options)


# ---------------------------------------------------------------------------- relationship matrices

LEVELS = ("a", "b", "c")
A = np.array([[1.0, 0.5, 0.2], [0.5, 1.0, 0.1], [0.2, 0.1, 1.0]])


def test_relationships_in_the_order_of_the_levels():
    pandas = pytest.importorskip("pandas")
    order = [2, 0, 1]
    shuffled, labels = A[np.ix_(order, order)], [LEVELS[i] for i in order]
    larger = np.eye(5)
    larger[:3, :3] = A
    for given in (
        A,
        (shuffled, labels),
        (larger, [*LEVELS, "d", "e"]),
        pandas.DataFrame(shuffled, labels, labels),
        pandas.DataFrame(shuffled, labels, labels)[["b", "a", "c"]],
        Precision(np.linalg.inv(shuffled), labels),
        Precision(np.linalg.inv(larger), [*LEVELS, "d", "e"]),
        Precision(pandas.DataFrame(np.linalg.inv(shuffled), labels, labels)),
        Precision(np.linalg.inv(A)),
    ):
        np.testing.assert_allclose(between_levels({"id": given}, "id", Levels.of_text(LEVELS))[0], A, atol=1e-12)
    assert between_levels({"id": A}, "other", Levels.of_text(LEVELS)) == (None, None)
    for levels in (Levels.of_text(["1", "2", "3"]), Levels.of([("number", i) for i in (1, 2, 3)])):
        for given in (np.array([3, 1, 2]), [3.0, 1.0, 2.0], ["3", "1", "2"]):
            np.testing.assert_allclose(between_levels({"id": (shuffled, given)}, "id", levels)[0], A)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (A + np.triu(A), "not symmetric"),
        (A - 1.2 * np.eye(3), "not positive semidefinite"),
        (Precision(np.ones((3, 3))), "not positive definite"),
        (np.zeros((3, 3)), "not positive"),
        (A[:2], "square"),
        (A[0], "square"),
        ((A, ["a", "b"]), "label for each of the 3 rows"),
        ((A, ["a", "b", "b"]), "different label"),
        ((A, ["a", "b", "d"]), "1 level.s. of 'id' have no row in the matrix: 'c'"),
        (A[:2, :2], "3 levels of 'id'"),
        (A * np.nan, "NaN"),
        ("A", "matrix of numbers"),
    ],
)
def test_bad_relationships_name_the_factor(given, words):
    with pytest.raises(DataError, match=words) as caught:
        between_levels({"id": given}, "id", Levels.of_text(LEVELS))
    assert "'id'" in str(caught.value)


def test_a_relationship_tells_a_level_a_row_from_the_residual():
    data = columns(row=np.arange(N))
    with pytest.raises(DataError, match="as many levels"):
        frame_of("y ~ x + (1 | row)", data=data)
    assert frame_of("y ~ x + (1 | row)", data=data, related={"row"}).terms


# ---------------------------------------------------------------------------- fits

DATA = _columns()
SAME_ID = DATA["id"][:, None] == DATA["id"]
KIN = 0.5 * (np.eye(SUBJECTS) + np.ones((SUBJECTS, SUBJECTS)))
LAGS = abs(np.subtract.outer(DATA["t"], DATA["t"]))
GAPS = abs(np.subtract.outer(DATA["time"], DATA["time"]))
PLACES = np.column_stack([DATA["lat"], DATA["lon"]])
FAR = np.sqrt(((PLACES[:, None] - PLACES) ** 2).sum(-1))


def fitted(formula, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxlmm.results.ConvergenceWarning)
        return jaxlmm.lmm(formula, columns(), **options)


def parameters(fit):
    table = fit.parameters()
    return [float(value) for value in table["estimate"]]


def two_by_two(a, b, c):
    return np.array([[a, b], [b, c]])


def symmetric(values):
    m = int((np.sqrt(8 * len(values) + 1) - 1) / 2)
    out = np.zeros((m, m))
    rows, cols = np.triu_indices(m)  # column by column of the lower triangle
    out[cols, rows] = out[rows, cols] = values
    return out


def by_arm(matrices):
    return np.choose((DATA["arm"] == "v").astype(int)[:, None], [SAME_ID * matrices[0], SAME_ID * matrices[1]])


T, TRAIT, HALF, H = DATA["t"], (DATA["trait"] == "q").astype(int), DATA["half"], DATA["h"]
LEVEL_F = np.unique(DATA["f"], return_inverse=True)[1]
EYE = np.eye(N)


def at(matrix, codes):
    return matrix[np.ix_(codes, codes)]


def matern32(far, length):
    a = np.sqrt(3) * far / length
    return (1 + a) * np.exp(-a)


# formula, options, V by the definition from the natural parameters in the order of the table
FITS = {
    "us by arm": ("y ~ x", {"residual": "us(visit | arm / id)"},
                  lambda p: by_arm([at(symmetric(p[:10]), T), at(symmetric(p[10:]), T)])),
    "shared": ("y ~ x", {"residual": "ar1(t | arm / id, shared='correlation')"},
               lambda p: by_arm([p[0] * p[1] ** LAGS, p[2] * p[1] ** LAGS])),
    "us @ ar1": ("y ~ x", {"residual": "(us(trait) @ ar1(half) | id)"},
                 lambda p: SAME_ID * at(two_by_two(*p[:3]), TRAIT) * p[3] ** abs(np.subtract.outer(HALF, HALF))),
    "us @ ar1 of Python": ("y ~ x", {"residual": (Unstructured() @ Autoregressive()).over("trait + half | id")},
                 lambda p: SAME_ID * at(two_by_two(*p[:3]), TRAIT) * p[3] ** abs(np.subtract.outer(HALF, HALF))),
    "ar1 with gaps": ("y ~ x", {"residual": "ar1(week | id)"},
                      lambda p: SAME_ID * p[0] * p[1] ** abs(np.subtract.outer(DATA["week"], DATA["week"]))),
    "ou": ("y ~ x", {"residual": "ou(time | id)"}, lambda p: SAME_ID * p[0] * np.exp(-GAPS / p[1])),
    "ou as a term": ("y ~ x + ou(time | id)", {}, lambda p: SAME_ID * p[0] * np.exp(-GAPS / p[1]) + p[2] * EYE),
    "ou beside a random intercept and a structure": (
        "y ~ x + ou(time | id) + (1 | site)", {"residual": "cs(visit | id)"},
        lambda p: SAME_ID * (p[0] * np.exp(-GAPS / p[1]) + p[3] * (p[4] + (1 - p[4]) * EYE))
        + p[2] * (DATA["site"][:, None] == DATA["site"])),
    "nugget": ("y ~ x", {"residual": "sp_exp(lat + lon) + iid()"}, lambda p: p[0] * np.exp(-FAR / p[1]) + p[2] * EYE),
    "matern": ("y ~ x + matern(lat + lon, nu=1.5)", {}, lambda p: p[0] * matern32(FAR, p[1]) + p[2] * EYE),
    "ar1 by arm": ("y ~ x + ar1(visit | id, by=arm)", {},
                   lambda p: by_arm([p[0] * p[1] ** LAGS, p[2] * p[3] ** LAGS]) + p[4] * EYE),
    "slopes by arm": ("y ~ x + diag(0 + x | id, by=arm)", {},
                      lambda p: by_arm([p[0] * np.outer(DATA["x"], DATA["x"]), p[1] * np.outer(DATA["x"], DATA["x"])])
                      + p[2] * EYE),
    "fixed correlation": ("y ~ x + ar1(visit | id, correlation=0.5)", {},
                          lambda p: SAME_ID * p[0] * 0.5**LAGS + p[1] * EYE),
    "known error variances": ("y ~ x + (1 | id)", {"residual": "iid(variance=0.5)"},
                              lambda p: p[0] * SAME_ID + 0.5 * EYE),
    "power": ("y ~ x + (1 | id)", {"variance": "power(h)"},
              lambda p: p[0] * SAME_ID + p[1] * np.diag(H ** (2 * p[2]))),
    "fixed power": ("y ~ x + (1 | id)", {"variance": "power(h, 0.5)"}, lambda p: p[0] * SAME_ID + p[1] * np.diag(H)),
    "exp": ("y ~ x", {"residual": "ar1(visit | id)", "variance": "exp(h)"},
            lambda p: SAME_ID * p[0] * p[1] ** LAGS * np.exp(p[2] * np.add.outer(H, H))),
    "const_power": ("y ~ x + (1 | id)", {"variance": "const_power(h, const=0.5)"},
                    lambda p: p[0] * SAME_ID + p[1] * np.diag((0.5 + H ** p[2]) ** 2)),
    "ident": ("y ~ x + (1 | id)", {"variance": "ident(f)"},
              lambda p: p[0] * SAME_ID + np.diag(np.array(p[1:4])[LEVEL_F])),
    "relationship": ("y ~ x + (1 | id)", {"relationship": {"id": KIN}},
                     lambda p: p[0] * np.kron(KIN, np.ones((VISITS, VISITS))) + p[1] * EYE),
    "relationship beside ar1": (
        "y ~ x + (1 | id)", {"relationship": {"id": Precision(np.linalg.inv(KIN))}, "residual": "ar1(t | id)"},
        lambda p: p[0] * np.kron(KIN, np.ones((VISITS, VISITS))) + SAME_ID * p[1] * p[2] ** LAGS),
}  # fmt: skip


DAILY = (  # the other kinds are among those of every day of test_definitions.py
    "shared", "us @ ar1 of Python", "known error variances",
)  # fmt: skip


@pytest.mark.parametrize("name", some(FITS, *DAILY))
def test_fits_have_the_likelihood_of_the_definition(name):
    formula, options, covariance = FITS[name]
    fit = fitted(formula, **options)
    assert fit.converged
    V = covariance(parameters(fit))
    X = np.column_stack([np.ones(N), DATA["x"]])
    assert fit.loglik == pytest.approx(oracle.loglik(V, DATA["y"], X), abs=1e-7)
    np.testing.assert_allclose(fit.coef, oracle.gls(V, DATA["y"], X)[0], rtol=1e-6)
    assert np.all(np.isfinite(fit.fitted))
    assert fit.npar == 2 + len(parameters(fit))
    text = str(fit.summary())
    assert "converged" in text and "nan" not in text


ALIKE = {
    "ar1 of a factor": ("y ~ x + ar1(visit | id)", "y ~ x + ar1(t | id)", {}),
    "ar1 as effects": ("y ~ x + ar1(visit | id)", "y ~ x + ar1(0 + visit | id)", {}),
    "a term beside iid": ("y ~ x + ar1(t | id)", "y ~ x", {"residual": "ar1(t | id) + iid()"}),
    "car1 is ou": ("y ~ x + car1(time | id)", "y ~ x + ou(time | id)", {}),
}


@pytest.mark.parametrize("name", some(ALIKE, "ar1 as effects", "a term beside iid"))
def test_different_texts_of_one_model(name):
    first, second, options = ALIKE[name]
    assert fitted(first).loglik == pytest.approx(fitted(second, **options).loglik, abs=1e-6)


class Decay(jaxlmm.Covariance):
    """A user's structure over times."""

    variance: jaxlmm.Variance
    range: jaxlmm.Positive

    def matrix(self, t):
        return self.variance * jnp.exp(-abs(t[:, None] - t[None, :]) / self.range)


@pytest.mark.slow
def test_a_structure_of_ones_own_is_as_good_as_a_shipped_one():
    expected = fitted("y ~ x + ou(time | id)").loglik
    assert fitted("y ~ x + ou(time | id)", structures={"ou": Decay}).loglik == pytest.approx(expected, abs=1e-8)
    assert fitted("y ~ x + decay(time | id)", structures={"decay": Decay}).loglik == pytest.approx(expected, abs=1e-8)
    expected = fitted("y ~ x", residual="ou(time | arm / id)").loglik
    assert fitted("y ~ x", residual=Decay().over("time | arm / id")).loglik == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_frames_of_other_libraries_and_ordered_levels(kind):
    library = pytest.importorskip(kind)
    order = ["d", "b", "c", "a"]
    data = columns()
    frame = library.DataFrame(data)
    if kind == "pandas":
        frame["visit"] = library.Categorical(frame["visit"], categories=order)
    else:
        frame = frame.with_columns(library.col("visit").cast(library.Enum(order)))
    found = build_frame(parse("y ~ x", NAMES), frame, residual=residual_of("ar1(visit | id)", None, NAMES)).residual
    assert found.columns == tuple(order)
    np.testing.assert_array_equal(found.arguments()["position"], [order.index(v) for v in data["visit"]])


@pytest.mark.slow
def test_tables_of_a_model_with_structures():
    fit = fitted("y ~ x + ou(time | id) + (1 | site)", residual="us(visit | id)", variance="power(h, 0.5)")
    table = fit.parameters()
    assert table["part"][:3].tolist() == ["ou(time | id)"] * 2 + ["(1 | site)"]
    assert table["name"][:3].tolist() == ["variance", "range", "covariance[(Intercept), (Intercept)]"]
    text = str(fit.summary())
    for words in ("Residual: us(visit | id)", "Variance: power(h, 0.5)", "Covariance structures:", "range", "id, 20"):
        assert words in text
    frame = fit.varcorr().frame()
    errors = {"se_covariance", "se_sd_or_corr", "lower", "upper"}
    assert set(frame) == {"group", "column", "column2", "covariance", "sd_or_corr"} | errors
    inside = np.isfinite(frame["lower"])
    assert inside.any()
    np.testing.assert_array_less(frame["lower"][inside], frame["sd_or_corr"][inside])
    by_arm = fitted("y ~ x", residual="us(visit | arm / id)").parameters()["name"]
    assert by_arm[1] == "[arm=u].covariance[b, a]"
    scaled = fitted("y ~ x", residual="cs(visit | arm / id)", variance="exp(h)").parameters()["name"]
    assert scaled.tolist()[1:3] == ["[arm=u].correlation", "[arm=v].variance"]


def test_random_functions_are_predicted_at_the_rows_of_the_fit():
    fit = fitted("y ~ x + ou(time | id) + (1 | site)")
    effects = fit.ranef()
    assert set(effects) == {"ou(time | id)", "site"}
    values = effects["ou(time | id)"]
    assert values.levels[0] == f"s10: {DATA['time'][0]:g}"
    variance, length, site, error = parameters(fit)
    K = SAME_ID * variance * np.exp(-GAPS / length)
    V = K + site * (DATA["site"][:, None] == DATA["site"]) + error * EYE
    r = DATA["y"] - fit.predict(random=False)
    np.testing.assert_allclose(values.values[:, 0], K @ np.linalg.solve(V, r), atol=1e-6)
    np.testing.assert_allclose(fit.predict(columns()), fit.fitted, atol=1e-8)
    np.testing.assert_allclose(fit.predict(columns(), random=False), fit.predict(random=False))


def test_terms_by_arm_are_predicted_for_new_data():
    fit = fitted("y ~ x + us(x | id, by=arm)")
    np.testing.assert_allclose(fit.predict(columns()), fit.fitted, atol=1e-10)
    with pytest.raises(DataError, match="'arm'"):
        fit.predict(columns(arm=["w"] * N))


@pytest.mark.slow
def test_a_refit_and_a_bootstrap_keep_the_structures():
    fit = fitted("y ~ x + ou(time | id)")
    assert fit.refit(fit.simulate(1, seed=2)[0]).engine == fit.engine
    assert fit.bootstrap(2, seed=1, progress=False).names == (*fit.coef_names, "sigma")


@pytest.mark.parametrize("name", ["us", pytest.param("ar1h", marks=pytest.mark.slow)])
def test_covariances_of_arms_are_those_of_fits_to_each(name):
    """With a mean of its own too, nothing connects the arms."""
    data = jaxlmm.datasets.load("fev_data")
    found = jaxlmm.lmm("FEV1 ~ ARMCD", data, residual=f"{name}(AVISIT | ARMCD / USUBJID)").varcorr()
    assert found.residual is None and found.structures == () and "VIS1[ARMCD=PBO]" in str(found)
    both, columns = found.frame(), ["covariance", "sd_or_corr", "se_covariance", "se_sd_or_corr", "lower", "upper"]
    for k, arm in enumerate(("PBO", "TRT")):
        alone = jaxlmm.lmm("FEV1 ~ 1", data[data["ARMCD"] == arm], residual=f"{name}(AVISIT | USUBJID)").varcorr()
        np.testing.assert_allclose(found.arms[k].cov, alone.residual.cov, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(
            both[columns].iloc[10 * k : 10 * k + 10], alone.frame()[columns], rtol=1e-3, atol=1e-3
        )
