"""Clusters of neighbours whose statistics are beyond a threshold, and their masses."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arguments import numbers_of
from ...errors import DataError


def edges_of(neighbours: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (e,), (e,) of responses 0 .. size - 1 that are neighbours.

    Parameters
    ----------
    neighbours : length of a chain or shape of a grid, cells in C order; a boolean array, whose true cells are the
        responses, in C order; or a symmetric sparse or dense adjacency matrix (size, size)

    Raises
    ------
    DataError
        Where it is of another number of responses.
    """
    from scipy import sparse

    found = np.asarray(neighbours) if not sparse.issparse(neighbours) else None
    if found is not None and found.dtype == bool and found.shape != (size, size):
        there = found
    elif found is not None and found.ndim < 2 and np.issubdtype(found.dtype, np.integer):
        there = np.ones(tuple(np.atleast_1d(found)), bool) if np.prod(found, dtype=float) == size else np.zeros(0, bool)
    elif np.shape(neighbours) == (size, size):
        numbers = neighbours if found is None else numbers_of("neighbours", found, "an adjacency matrix of numbers")
        given = sparse.coo_array(numbers)
        if given.dtype.kind not in "biuf" or not np.isfinite(given.data).all():
            raise DataError("neighbours: found entries that are not finite, expected an adjacency matrix of numbers")
        own = given != 0  # sums of entries may cancel, or wrap around
        upper = sparse.triu(own + own.T, 1).tocoo()
        return upper.row, upper.col
    else:
        there = np.zeros(0, bool)
    if there.sum() != size:
        raise DataError(
            f"neighbours: expected the shape of a grid of {size} responses, a boolean array with as many true cells, "
            f"or an adjacency matrix ({size}, {size}); found {_shown(neighbours)}"
        )
    number = np.cumsum(there.ravel()).reshape(there.shape) - 1
    first, second = [np.zeros(0, int)], [np.zeros(0, int)]
    for axis in range(there.ndim):
        low, high = (np.moveaxis(number, axis, 0)[cut] for cut in (slice(None, -1), slice(1, None)))
        both = np.moveaxis(there, axis, 0)[:-1] & np.moveaxis(there, axis, 0)[1:]
        first, second = [*first, low[both]], [*second, high[both]]
    return np.concatenate(first), np.concatenate(second)


def masses(
    statistics: np.ndarray, threshold: float, both: bool, edges: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Clusters of statistics (b, v) beyond a threshold, of one sign each, with `both` below its negative too.

    Returns
    -------
    (b, v) number of the cluster of each, and its mass, the sum of the sizes of its statistics (Maris & Oostenveld
    2007); a mass of zero where there is none
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    b, v = statistics.shape
    with np.errstate(invalid="ignore"):
        sign = 1 * (statistics > threshold) - 1 * (both & (statistics < -threshold))
    i, j = edges
    row, pair = np.nonzero((sign[:, i] == sign[:, j]) & (sign[:, i] != 0))
    graph = coo_array((np.ones(len(row), np.int8), (row * v + i[pair], row * v + j[pair])), shape=(b * v, b * v))
    count, label = connected_components(graph.tocsr(), directed=False)
    size = np.where(sign == 0, 0.0, np.abs(statistics)).ravel()
    return label.reshape(b, v), np.bincount(label, size, count)[label].reshape(b, v)


def _shown(neighbours: Any) -> str:
    shape = np.shape(neighbours)
    return f"an array of shape {shape}" if len(shape) > 1 else f"{neighbours!r}"
