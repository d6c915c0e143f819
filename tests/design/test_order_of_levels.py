"""Structures over an order: text in natural order, levels given or left out, numbers as distances or as order."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import jaxlmm
from jaxlmm.covariance import Autoregressive
from jaxlmm.design.frame import build_frame
from jaxlmm.errors import DataError, FormulaError, LevelsWarning
from jaxlmm.formula.parser import parse

VISITS, SUBJECTS = 6, 24
WEEKS = [f"Week {4 * v}" for v in range(VISITS)]  # "Week 12" sorts before "Week 4"
WORDS = ["screening", "baseline", "early", "mid", "late", "end"]
rng = np.random.default_rng(3)
ROOT = np.linalg.cholesky(0.8 ** np.abs(np.subtract.outer(np.arange(VISITS), np.arange(VISITS))))
DATA = pd.DataFrame({
    "id": np.repeat(np.arange(SUBJECTS), VISITS),
    "v": np.tile(np.arange(VISITS), SUBJECTS),
    "y": (rng.normal(size=(SUBJECTS, VISITS)) @ ROOT.T).ravel(),
})  # fmt: skip
DATA["week"] = [WEEKS[v] for v in DATA.v]
DATA["word"] = [WORDS[v] for v in DATA.v]
DATA["cat"] = pd.Categorical(DATA.week, WEEKS)
GAP = DATA[DATA.v != 2]


def fit(residual, data=DATA):
    return jaxlmm.lmm("y ~ 1", data, residual=residual)


@pytest.mark.parametrize("structure", ["ar1", "ar1h", "toep", "toeph", "ad", "adh", "arma11"])
def test_text_is_taken_in_natural_order_with_a_warning(structure):
    with pytest.warns(
        LevelsWarning, match="takes 'week' in the order Week 0, Week 4, Week 8, Week 12, Week 16, Week 20"
    ):
        places = jaxlmm.interface.model_of("y ~ 1", DATA, residual=f"{structure}(week | id)")[0].residual.placed
    assert places.labels[0] == tuple(WEEKS)
    np.testing.assert_array_equal(places.columns[0], DATA.v)


def test_the_likelihood_is_that_of_the_order():
    by_number = fit("ar1(v | id)")
    with pytest.warns(LevelsWarning):
        by_text = fit("ar1(week | id)")
    np.testing.assert_allclose(by_text.loglik, by_number.loglik, rtol=1e-9)
    assert "ar1(week): levels in the order Week 0, Week 4, Week 8" in str(by_text.summary())
    assert "ar1(v): distances between the numbers in v" in str(by_number.summary())


def test_an_order_that_is_known_needs_no_warning():
    single = DATA.assign(week=[f"V{v}" for v in DATA.v])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known = [fit("ar1(cat | id)"), fit("ar1(week | id)", single), fit(f"ar1(week | id, levels={WEEKS})")]
        known += [fit(Autoregressive().over("week | id", levels=WEEKS)), fit(f"ar1(word | id, levels={WORDS})")]
    for one in known:
        np.testing.assert_allclose(one.loglik, known[0].loglik, rtol=1e-9)


def test_words_have_no_order_of_their_own():
    with pytest.raises(
        DataError, match=r"word.*is text, in the order of the alphabet.*write the structure with levels="
    ):
        fit("ar1(word | id)")
    with pytest.raises(FormulaError, match=r"write ar1\(week \| id\), or give an ordered factor"):
        jaxlmm.lmm("y ~ 1 + ar1(0 + week | id)", DATA)


def test_levels_without_rows_are_left_out_and_said_or_kept():
    """Left out the visits around them are neighbours, as in mmrm; kept the distance is two, as that of the numbers."""
    with pytest.warns(LevelsWarning, match=r"no complete row has Week 8 of cat, left out; ar1\(cat, levels="):
        without = fit("ar1(cat | id)", GAP)
    assert "no complete row has Week 8 of cat, left out" in str(without.summary())
    dropped = GAP.assign(v=GAP.v - (GAP.v > 2))
    np.testing.assert_allclose(without.loglik, fit("ar1(v | id)", dropped).loglik, rtol=1e-9)
    kept = fit(f"ar1(cat | id, levels={WEEKS})", GAP)
    np.testing.assert_allclose(kept.loglik, fit("ar1(v | id)", GAP).loglik, rtol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unordered = fit("csh(cat | id)", GAP)  # no distance depends on it: a note is enough
    assert "no complete row has Week 8 of cat, left out" in str(unordered.summary())
    with pytest.raises(DataError, match="no complete row has Week 8 of 'cat', so its parameters are not known"):
        fit(f"us(cat | id, levels={WEEKS})", GAP)


def test_numbers_are_distances_or_an_order():
    assert fit("ar1(v | id)", GAP).frame.notes == ("ar1(v): distances between the numbers in v",)
    by_order = fit("ar1h(v | id)", GAP)
    assert by_order.frame.notes == ("ar1h(v): levels in the order 0, 1, 3, 4, 5",)
    as_levels = fit("ar1(v | id, levels=[0, 1, 3, 4, 5])", GAP)
    dropped = GAP.assign(v=GAP.v - (GAP.v > 2))
    np.testing.assert_allclose(as_levels.loglik, fit("ar1(v | id)", dropped).loglik, rtol=1e-9)


@pytest.mark.parametrize(
    "levels, words",
    [(WEEKS[:3], "lack Week 12"), ([*WEEKS, WEEKS[0]], "a level twice"), ([*WEEKS[:5], "Week 99"], "lack Week 20")],
)
def test_levels_that_are_not_those_of_the_column(levels, words):
    with pytest.raises(DataError, match=words):
        fit(f"ar1(week | id, levels={levels})")
    with pytest.raises(DataError, match="levels= is for structures over levels"):
        fit("sp_exp(v | id, levels=[1, 2])")


def test_ordered_factors_have_treatment_contrasts_and_the_summary_says_so():
    data = DATA.assign(dose=pd.Categorical(DATA.v.map(lambda v: "abc"[v % 3]), list("abc"), ordered=True))
    found = build_frame(parse("y ~ dose"), data)
    assert found.coef_names == ("(Intercept)", "dose[T.b]", "dose[T.c]")
    note = "dose, an ordered factor, has treatment contrasts; C(dose, contr.poly) has R's polynomial ones"
    assert found.notes == (note,)
    polynomial = build_frame(parse("y ~ C(dose, contr.poly)"), data)
    np.testing.assert_allclose(
        polynomial.X[:3, 1:], [[-(0.5**0.5), 6**-0.5], [0, -2 * 6**-0.5], [0.5**0.5, 6**-0.5]], atol=1e-12
    )
    assert not polynomial.notes
    pl = pytest.importorskip("polars")
    for one in (pl.Series(data.dose.tolist(), dtype=pl.Enum(list("abc"))), pl.Series(data.dose.tolist())):
        notes = build_frame(parse("y ~ dose"), {"y": DATA.y.tolist(), "dose": one}).notes
        assert notes == ((note,) if one.dtype == pl.Enum else ())
