"""New rows with missing values, their index, data frames of other libraries' classes, models without fixed effects."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest

import jaxlmm
from jaxlmm.errors import DataError

DATA = jaxlmm.datasets.load("sleepstudy")


@functools.cache
def fit(formula="Reaction ~ Days + (1 | Subject)", residual=None):
    return jaxlmm.lmm(formula, DATA, residual=residual)


ROWS = pd.DataFrame(
    {"Days": [1.0, np.nan, 3.0, 4.0], "Subject": ["308", "308", None, "309"], "other": [np.nan] * 4},
    index=[10, 20, 30, 40],
)


def test_rows_with_missing_values_are_nan():
    whole = ROWS.iloc[[0, 3]]
    for library in ("pandas", "dict", "polars"):
        rows = ROWS
        if library == "dict":
            rows = {name: ROWS[name].to_numpy() for name in ROWS}
        if library == "polars":
            rows = pytest.importorskip("polars").from_pandas(ROWS)
        np.testing.assert_array_equal(fit().predict(rows)[[0, 3]], fit().predict(whole))
        np.testing.assert_array_equal(np.isnan(fit().predict(rows)), [False, True, True, False])
        np.testing.assert_array_equal(np.isnan(fit().predict(rows, random=False)), [False, True, False, False])
    for options in ({"se": True}, {"interval": "prediction"}, {"interval": "confidence", "random": False}):
        found, wanted = fit().predict(ROWS, **options), fit().predict(whole, **options)
        np.testing.assert_allclose(found.iloc[[0, 3]], wanted, rtol=1e-12)
        assert found.iloc[1].isna().all()
    assert np.isnan(fit().predict(ROWS.iloc[[1]])).all()
    assert fit().predict(ROWS.iloc[[1, 2]], se=True).isna().all(axis=None)


def test_levels_that_nobody_knows_are_an_error_beside_gaps():
    with pytest.raises(DataError, match="have a level of 'Subject' that was not in the fit"):
        fit().predict(ROWS.assign(Subject=["308", None, "309", "999"]))


def test_the_index_of_new_data_is_kept():
    for options in ({"se": True}, {"interval": "prediction"}, {"interval": "confidence", "random": False}):
        assert fit().predict(ROWS, **options).index.equals(ROWS.index)
        assert fit().predict(ROWS.iloc[[0, 3]], **options).index.equals(ROWS.index[[0, 3]])
    shifted = jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", DATA.set_index(DATA.index + 500))
    assert shifted.predict(se=True).index[0] == 500


@pytest.mark.parametrize("options", [{}, {"df": "kenward-roger"}])
def test_without_fixed_effects(options):
    """The best linear predictor with a known mean of zero: ``K'V^-1 y`` with error ``v - K'V^-1 K``."""
    f = fit("Reaction ~ 0 + (1 | Subject)")
    found = f.predict(interval="confidence", **options)
    between, within = f.parameters().estimate
    same = DATA.Subject.to_numpy()[:, None] == DATA.Subject.to_numpy()
    V = between * same + within * np.eye(len(DATA))
    weights = np.linalg.solve(V, between * same)
    np.testing.assert_allclose(found.estimate, weights.T @ DATA.Reaction, rtol=1e-6)
    known = np.sqrt(between - np.sum(weights * between * same, 0))
    if options:
        assert np.all(found.std_error > known)  # what estimating the variances adds
    else:
        np.testing.assert_allclose(found.std_error, known, rtol=1e-6)
    observed = f.predict(DATA.iloc[:3], interval="prediction")
    np.testing.assert_allclose(observed.std_error, np.sqrt(known[:3] ** 2 + within), rtol=1e-6)
    nothing = f.predict(DATA.iloc[:3], random=False, interval="confidence")
    assert np.all(nothing[["estimate", "std_error"]] == 0)


class GeoDataFrame(pd.DataFrame):
    """As geopandas' is, a subclass."""

    __module__ = "geopandas.geodataframe"

    @property
    def _constructor(self):
        return GeoDataFrame


def test_subclasses_of_data_frames_are_data_frames():
    f = jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", GeoDataFrame(DATA))
    np.testing.assert_allclose(f.loglik, fit().loglik)
    assert f.predict(GeoDataFrame(ROWS), se=True).index.equals(ROWS.index)
    weighted = jaxlmm.lmm(
        "Reaction ~ Days + (1 | Subject)", GeoDataFrame(DATA), weights=pd.Series(1.0, index=DATA.index)
    )
    np.testing.assert_allclose(weighted.loglik, fit().loglik)


def test_columns_with_several_levels_get_a_sentence():
    data = DATA.copy()
    data.columns = pd.MultiIndex.from_product([["a"], DATA.columns])
    with pytest.raises(
        DataError, match=r"columns of data have 2 levels \(a pandas MultiIndex\); give them plain names"
    ):
        jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", data)


@pytest.mark.parametrize("column", ["Reaction", "Days", "Subject", "text", "flag"])
def test_missing_values_of_pandas_among_objects(column):
    """pd.NA beside numbers, text, true and false: the row is dropped, the type stays."""
    data = DATA.assign(text=["abc"[d % 3] for d in DATA.Days], flag=DATA.Days > 4)
    gaps = data.astype({column: object})
    gaps.loc[7, column] = pd.NA
    formula = "Reaction ~ Days + text + flag + (1 | Subject)"
    wanted = jaxlmm.interface.model_of(formula, data.drop(index=7))[0]
    for given in (gaps, {name: gaps[name].to_numpy() for name in gaps}, {name: gaps[name].tolist() for name in gaps}):
        found = jaxlmm.interface.model_of(formula, given)[0]
        np.testing.assert_array_equal(found.X, wanted.X)
        np.testing.assert_array_equal(found.y, wanted.y)
