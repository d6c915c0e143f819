"""The classical mixed-model data sets, as they are analysed in the literature.

>>> from jaxlmm import datasets
>>> data = datasets.load("sleepstudy")
>>> print(datasets.describe("sleepstudy"))  # doctest: +SKIP
"""

from __future__ import annotations

import csv
import re
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..arguments import door, nearest
from ..errors import DataError
from .catalogue import CATALOGUE, Description

__all__ = ["Description", "describe", "load", "names"]

_FRAMES = ("auto", "pandas", "polars", "dict")


def names() -> tuple[str, ...]:
    """Return the names of the shipped data sets."""
    return tuple(CATALOGUE)


def describe(name: str) -> Description:
    """Return title, columns, factor levels, an example formula and the source of a data set.

    Raises
    ------
    DataError
        If no shipped data set has this name.
    """
    if name not in CATALOGUE:
        raise DataError(f"no data set is called {name!r}; {nearest(name, CATALOGUE)}")
    return CATALOGUE[name]


@door
def load(name: str, frame: str = "auto") -> Any:
    """Load a shipped data set.

    Parameters
    ----------
    name : str
        One of :func:`names`.
    frame : {"auto", "pandas", "polars", "dict"}
        What to return; "auto" is pandas where it is installed, else a dict.

    Returns
    -------
    pandas.DataFrame, polars.DataFrame or dict of str to numpy.ndarray
        Factors are categorical (pandas), Enum (polars) or text (dict). A dict of arrays cannot
        carry an order of levels, so there a factor's reference level is the first in text order.

    Raises
    ------
    DataError
        If there is no such data set or no such kind of frame.
    """
    description = describe(name)
    if frame not in _FRAMES:
        raise DataError(f"frame: got {frame!r}, expected one of {', '.join(_FRAMES)}")
    columns = _read(description)
    if frame == "auto":
        frame = "pandas" if find_spec("pandas") else "dict"
    if frame == "dict":
        return columns
    levels = {column: _levels(description, column, columns[column]) for column in description.factors}
    return _to_pandas(columns, levels) if frame == "pandas" else _to_polars(columns, levels)


def _read(description: Description) -> dict[str, np.ndarray]:
    """Columns of the data set's file: factors as text, the others as numbers (missing: NaN)."""
    file = files(__name__) / f"{description.name}.csv"
    header, *rows = csv.reader(file.read_text(encoding="utf-8").splitlines())
    texts = dict(zip(header, zip(*rows, strict=True), strict=True))
    return {
        column: np.array(text) if column in description.factors else _numbers(text) for column, text in texts.items()
    }


def _numbers(text: tuple[str, ...]) -> np.ndarray:
    """Integers where all entries are, else float64 with NaN for empty entries."""
    try:
        return np.array([int(entry) for entry in text])
    except ValueError:
        return np.array([float(entry) if entry else np.nan for entry in text])


def _levels(description: Description, column: str, values: np.ndarray) -> list[str]:
    """Levels of a factor in order: as recorded, else digits compared as numbers."""

    def natural(level: str) -> list[Any]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", level)]

    return list(description.factors[column]) or sorted({str(value) for value in values}, key=natural)


def _to_pandas(columns: dict[str, np.ndarray], levels: dict[str, list[str]]) -> Any:
    import pandas as pd

    return pd.DataFrame(
        {
            column: pd.Categorical(values, categories=levels[column]) if column in levels else values
            for column, values in columns.items()
        }
    )


def _to_polars(columns: dict[str, np.ndarray], levels: dict[str, list[str]]) -> Any:
    import polars as pl

    # polars tells missing from NaN; an empty entry of the file is missing
    return pl.DataFrame(
        [
            pl.Series(column, values, dtype=pl.Enum(levels[column]))
            if column in levels
            else pl.Series(column, values, nan_to_null=True)
            for column, values in columns.items()
        ]
    )
