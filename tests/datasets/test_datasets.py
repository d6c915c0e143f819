"""The shipped data sets against the references' copies."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from cases import REFERENCES, case_names, load_case, load_data
from jaxlmm import datasets
from jaxlmm.errors import DataError


def data_name(case_name):
    return Path(load_case(case_name)["data"]).stem


SHIPPED_CASES = [name for name in case_names() if data_name(name) in datasets.names()]


@pytest.mark.parametrize("name", SHIPPED_CASES)
def test_same_data_and_same_order_of_levels_as_the_reference(name):
    case = load_case(name)
    expected = load_data(case)
    found = datasets.load(data_name(name), frame="pandas")
    used = list(case["factors"])
    numbers = [column for column in expected.columns if column not in datasets.describe(data_name(name)).factors]
    for column in used:
        assert list(found[column].cat.categories) == case["factors"][column]
        assert list(found[column]) == list(expected[column])
    pd.testing.assert_frame_equal(found[numbers], expected[numbers])


@pytest.mark.parametrize("name", datasets.names())
def test_file_is_the_references_file(name):
    shipped = files("jaxlmm.datasets") / f"{name}.csv"
    assert shipped.read_bytes() == (REFERENCES / "data" / f"{name}.csv").read_bytes()


@pytest.mark.parametrize("name", datasets.names())
def test_three_kinds_of_frame_agree_and_the_description_names_every_column(name):
    description = datasets.describe(name)
    frame = datasets.load(name, "pandas")
    assert list(frame.columns) == list(description.columns)
    assert set(description.factors) <= set(description.columns)
    assert description.source and description.title and description.name == name
    assert all(column in str(description) for column in description.columns)

    arrays = datasets.load(name, "dict")
    enums = datasets.load(name, "polars")
    assert isinstance(enums, pl.DataFrame) and enums.columns == list(arrays) == list(frame.columns)
    for column, values in arrays.items():
        assert isinstance(values, np.ndarray)
        if column in description.factors:
            assert values.tolist() == list(frame[column]) == enums[column].to_list()
            assert enums[column].dtype.categories.to_list() == list(frame[column].cat.categories)
        else:
            np.testing.assert_array_equal(values, frame[column].to_numpy())
            assert enums[column].null_count() == np.isnan(values).sum()


def test_auto_is_pandas_here():
    assert isinstance(datasets.load("sleepstudy"), pd.DataFrame)


def test_a_name_misspelt_gets_a_suggestion():
    with pytest.raises(DataError, match="'slepstudy'.*did you mean 'sleepstudy'"):
        datasets.load("slepstudy")
    with pytest.raises(DataError, match="there are sleepstudy, dyestuff"):
        datasets.describe("zzz")


def test_an_unknown_kind_of_frame_is_refused():
    with pytest.raises(DataError, match="frame: got 'arrow', expected one of auto, pandas"):
        datasets.load("sleepstudy", frame="arrow")
