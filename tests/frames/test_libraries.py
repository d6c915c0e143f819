"""Data frames of any library, by narwhals: what pandas, polars and pyarrow have in common, and what each has alone."""

from __future__ import annotations

import datetime as dt
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from jaxlmm.errors import DataError
from jaxlmm.frames.columns import extend_rows, index_of, make_frame, open_table, read_column
from jaxlmm.frames.owned import own_columns

Geo = type("GeoDataFrame", (pd.DataFrame,), {"__module__": "geo.frame", "_constructor": property(lambda self: Geo)})
DATA = {"x": [1.5, 2.5, 3.5], "g": ["b", "a", "b"]}


def test_a_frame_of_a_library_that_is_not_known_here():
    """As geopandas has them: a subclass of pandas' in a module of its own."""
    frame = Geo(DATA, index=[7, 8, 9])
    table = open_table(frame)
    assert (table.kind, table.names, table.n) == ("pandas", ("x", "g"), 3)
    assert table.column("g").levels == ("a", "b") and table.column("x").values.tolist() == DATA["x"]
    assert index_of(frame) is frame.index
    assert isinstance(make_frame(table.kind, DATA), pd.DataFrame)
    assert list(own_columns(frame, {"g"}).columns) == ["g"]


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table, dict])
def test_rows_with_columns_added(make):
    data = make(DATA)
    found = extend_rows(data, np.array([2, 0]), {"x": np.array([10.0, 20.0]), "new": np.array(["u", "v"])})
    assert type(found) is type(data)
    table = open_table(found)
    assert table.names == ("x", "g", "new")
    assert [list(map(str, found[name])) for name in table.names] == [["10.0", "20.0"], ["b", "b"], ["u", "v"]]


def test_two_columns_of_one_name_that_nobody_reads():
    frame = pd.DataFrame([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], columns=["y", "twice", "twice"])
    assert open_table(frame).column("y").values.tolist() == [1.0, 4.0]
    assert extend_rows(frame, np.array([1]), {"new": np.array([9.0])}).iloc[0].tolist() == [4.0, 5.0, 6.0, 9.0]
    with pytest.raises(DataError, match="more than one column named 'twice'"):
        open_table(frame).column("twice")


def coded(levels, ordered=False):
    return pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0]), pa.array(levels), ordered=ordered)


CODED = {
    "text": (coded(["b", "a"]), ("a", "b"), [1, 0, -1, 1], False),
    "in order": (coded(["b", "a"], ordered=True), ("b", "a"), [0, 1, -1, 0], True),
    "numbers": (coded([30, 4]), ("4", "30"), [1, 0, -1, 1], False),
    "a level that is missing": (coded(["b", None]), ("b",), [0, -1, -1, 0], False),
    "two chunks": (pa.chunked_array([coded(["b", "a"]), coded(["c", "b"])]), ("a", "b", "c"),
                   [1, 0, -1, 1, 2, 1, -1, 2], False),
    "in pandas": (pd.Series(["b", "a", None], dtype=pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))),
                  ("a", "b"), [1, 0, -1], False),
    "numbers of pandas": (pd.Categorical([30, 4, None], [30, 4]), ("30", "4"), [0, 1, -1], True),
    "polars": (pl.Series(["b", "a", None], dtype=pl.Categorical), ("a", "b"), [1, 0, -1], False),
}  # fmt: skip


@pytest.mark.parametrize("name", CODED)
def test_categories(name):
    values, levels, codes, is_ordered = CODED[name]
    found = read_column("g", values).as_factor()
    assert (found.levels, found.values.tolist(), found.is_ordered) == (levels, codes, is_ordered)


NINE = [dt.time(9), None, dt.time(9, 0, 1)]
DAYS = [dt.date(2024, 3, 2), None, dt.date(2024, 3, 1)]
TIMES = {
    "seconds of the day": (pa.array(NINE, pa.time32("s")), ("09:00:00", "09:00:01"), [0, -1, 1]),
    "in pandas": (pd.Series(NINE, dtype=pd.ArrowDtype(pa.time64("ns"))), ("09:00:00", "09:00:01"), [0, -1, 1]),
    "days": (pa.array(DAYS, pa.date32()), ("2024-03-01", "2024-03-02"), [1, -1, 0]),
    "days in milliseconds": (pa.array(DAYS, pa.date64()), ("2024-03-01", "2024-03-02"), [1, -1, 0]),
    "days of polars": (pl.Series(DAYS), ("2024-03-01", "2024-03-02"), [1, -1, 0]),
    "a nanosecond": (pl.Series([1, None, 0]).cast(pl.Time),
                     ("00:00:00.000000000", "00:00:00.000000001"), [1, -1, 0]),
    "a zone": (pa.array([3600, None, 0], pa.timestamp("s", "Europe/Berlin")),
               ("1970-01-01T00:00:00Z", "1970-01-01T01:00:00Z"), [1, -1, 0]),
}  # fmt: skip


@pytest.mark.parametrize("name", TIMES)
def test_times(name):
    values, levels, codes = TIMES[name]
    found = read_column("t", values)
    assert (found.kind, found.levels, found.values.tolist()) == ("time", levels, codes)


def test_without_narwhals_frames_are_refused_and_arrays_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "narwhals", None)
    assert open_table(DATA).column("g").levels == ("a", "b")
    assert make_frame("dict", DATA)["x"].tolist() == DATA["x"]
    for frame in (pd.DataFrame(DATA), pl.DataFrame(DATA), pa.table(DATA)):
        for read in (open_table, lambda frame: read_column("x", frame["x"])):
            with pytest.raises(ImportError, match=r"need narwhals: pip install 'jaxlmm\[formula\]'"):
                read(frame)
    with pytest.raises(ImportError, match="narwhals"):
        make_frame("pandas", DATA)
