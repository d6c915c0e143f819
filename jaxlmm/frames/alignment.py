"""Values a row each that were given beside the data: Series in the order of the rows, masked entries as missing ones.

None of the frame libraries is imported here, see `columns`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import DataError
from .columns import index_of


def aligned(what: str, values: Any, data: Any, rows: np.ndarray | None = None) -> Any:
    """A pandas Series in the order of the rows of the data, by its index; anything else unchanged.

    A Series that has the index of the data is taken as it is; one with other labels beside those, or with the same in
    another order, is put into the order of the data.

    Parameters
    ----------
    what : the argument's name, for messages
    values : Series (or DataFrame, whose columns are the rows of the data), array, or anything else
    data : the data frame
    rows : (n,) positions of rows; the result has an entry for each of them, or for every row of the data

    Raises
    ------
    DataError
        For a row of the data that the index does not have, or has more than once.
    """
    own = index_of(values)
    if own is None:
        return values
    axis = values.ndim - 1
    own = values.columns if axis else own
    if axis and _is_default(own):  # nobody has named the columns
        return values
    index = _index(data)
    wanted = index if rows is None or index is None else index[rows]
    advice = f"index it as the data, or give an array ({what}.to_numpy()) if its order is that of the rows"
    if index is None:
        if _is_default(own):
            return values
        raise DataError(
            f"{what}: found a {type(values).__name__} with an index of its own, which the data lack; {advice}"
        )
    if own.equals(wanted):
        return values
    if own.equals(index):
        place = np.asarray(rows)
    else:
        place = own.get_indexer(wanted) if own.is_unique else np.full(len(wanted), -1)
    if np.any(place < 0):
        found = "has labels more than once" if not own.is_unique else f"lacks {int(np.sum(place < 0))} of the rows used"
        raise DataError(
            f"{what}: the index of the {type(values).__name__} is not that of the data, it {found}; {advice}"
        )
    return values.iloc[place] if axis == 0 else values.iloc[:, place]


def _index(data: Any) -> Any:
    """The index of a data frame, or of the Series in a dict; None where there is none."""
    if isinstance(data, Mapping):
        return next((index for index in map(index_of, data.values()) if index is not None), None)
    return index_of(data)


def _is_default(index: Any) -> bool:
    """Whether labels are 0, 1, ..., as they are where nobody has given any."""
    return type(index).__name__ == "RangeIndex" and (index.start, index.step) == (0, 1)


def mask_of(values: Any) -> np.ndarray | None:
    """Where a masked array, or a list of such, is masked; None where nothing is."""
    if isinstance(values, list | tuple) and any(isinstance(v, np.ma.MaskedArray) for v in values):
        if len({np.shape(v) for v in values}) > 1:
            return None  # no array at all, as will be said
        values = np.ma.stack([np.ma.asarray(v) for v in values])
    if not isinstance(values, np.ma.MaskedArray):
        return None
    mask = np.ma.getmaskarray(values)
    return mask if mask.any() else None


def refuse_masked(what: str, values: Any) -> None:
    """Refuse masked entries where nothing can be missing."""
    mask = mask_of(values)
    if mask is not None:
        raise DataError(f"{what}: {int(mask.sum())} values are masked (missing); drop or fill these rows first")
