"""Start values of large models with several random terms, from moments of y less what X explains (NumPy).

Every evaluation of such a model costs much, and half of them go to come near the optimum from variances that are as
large as the residual's. Products of designs summed over rows are cheap beside one evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement

import numpy as np

from ..likelihood.engines.layout import is_plain
from ..likelihood.model import Model
from ..likelihood.prepared import Prepared, turned, weighted
from ..linalg import tril_indices
from .objective import Spec

LARGE = 1e5  # numbers that an evaluation works with, from which moments pay
SMALLEST = 0.1  # start of a standard deviation in scaled coordinates, where moments say less


def at_moments(spec: Spec, model: Model, prepared: Prepared, s: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Start coordinates (k,), standard deviations of the effects of crossed terms replaced by those of `variances`."""
    if len(model.terms) < 2 or not spec.profiled or not is_plain(model) or prepared.statistics.work < LARGE:
        return s
    X, y = weighted(model, model.X), weighted(model, model.y if model.offset is None else model.y - model.offset)
    left = y - X @ np.linalg.lstsq(X.T @ X, X.T @ y)[0]
    Z = [turned(weighted(model, term.Z), K) for term, K in zip(model.terms, prepared.basis.K, strict=True)]
    found = variances(left, Z, [term.group for term in model.terms])
    if not (np.all(np.isfinite(found)) and found[-1] > 0):
        return s
    sd = np.sqrt(np.maximum(found[:-1], 0.0) / found[-1])
    s, begin, first = np.array(s), 0, 0
    for structure, dim in spec.parts:
        if structure.is_matrix:
            rows, columns = tril_indices(dim)
            at = begin + np.flatnonzero(rows == columns)
            s[at] = np.maximum(sd[first : first + dim] / scale[at], SMALLEST)
        begin, first = begin + structure.size(dim), first + dim
    return s


def variances(y: np.ndarray, Z: list[np.ndarray], groups: list[np.ndarray]) -> np.ndarray:
    """Variances of the effects of all columns of all terms, and of the residual behind them.

    They solve ``sum_j tr(V_i V_j) v_j = y'V_i y`` with V_i the covariance that a variance of one makes: MINQUE(0)
    (Rao 1971, Journal of Multivariate Analysis 1, 445-456) of uncorrelated effects. The traces are sums of squares of
    sums of products over the cells of two factors.
    """
    dims = [z.shape[1] for z in Z]
    starts = np.cumsum([0, *dims])
    T, squares = np.zeros((starts[-1] + 1,) * 2), np.zeros(starts[-1] + 1)
    T[-1, -1], squares[-1] = np.count_nonzero(np.any([z.any(1) for z in Z], 0)), y @ y
    for t, u in combinations_with_replacement(range(len(Z)), 2):
        both = groups[t].astype(np.int64) * (groups[u].max() + 1) + groups[u]
        cells = groups[t] if t == u else np.unique(both, return_inverse=True)[1]
        for i, j, product in _products(Z[t], Z[u], t == u):
            a, b = starts[t] + i, starts[u] + j
            T[a, b] = T[b, a] = np.sum(np.bincount(cells, product) ** 2)
    for t, (z, group) in enumerate(zip(Z, groups, strict=True)):
        for i, column in enumerate(z.T, starts[t]):
            squares[i] = np.sum(np.bincount(group, column * y) ** 2)
            T[i, -1] = T[-1, i] = column @ column
    return np.linalg.lstsq(T, squares)[0]


def _products(Z: np.ndarray, W: np.ndarray, same: bool) -> Iterator[tuple[int, int, np.ndarray]]:
    for i, z in enumerate(Z.T):
        for j, w in enumerate(W.T[: i + 1] if same else W.T):
            yield i, j, z * w
