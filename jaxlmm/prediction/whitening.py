"""``Fit.residuals``: marginal and conditional residuals, on the scale of the response or standardised."""

from __future__ import annotations

import numpy as np

from ..arguments import check_choice
from ..errors import DataError
from ..estimates.fitted import FitBase
from ..estimates.rows import Part, covariance, parts_of
from ..inference.robust.partition import Partition, dependent
from ..likelihood.engines.dense import MAX_DENSE_ROWS

KINDS = ("response", "pearson", "normalized")


def residuals(fit: FitBase, kind: str = "response", random: bool = True) -> np.ndarray:
    """Residuals (n,); see ``Fit.residuals``."""
    check_choice("kind", kind, KINDS)
    rest = fit.model.y - (fit.fitted if random else fit.predict(random=False))
    if kind == "response":
        return rest
    every = tuple(zip(*parts_of(fit.model, fit.estimate), strict=True))
    parts, matrices = zip(*(every[-1:] if random else every), strict=True)
    if kind == "pearson":
        rows = np.arange(len(rest))
        return rest / np.sqrt(covariance(parts, matrices, rows, rows))
    own = fit.model.residual.group
    if not random:
        clusters = dependent(fit.model)
    else:
        clusters = Partition.of(np.arange(len(rest)) if own is None else np.asarray(own))
    return _whitened(rest, parts, matrices, clusters)


def _whitened(
    rest: np.ndarray, parts: tuple[Part, ...], blocks: tuple[np.ndarray, ...], clusters: Partition
) -> np.ndarray:  # fmt: skip
    """``L^-1 r`` with the Cholesky factor of the covariance matrix of each cluster, rows in the order of the data."""
    largest = clusters.rows.shape[1]
    if largest > MAX_DENSE_ROWS:
        raise DataError(
            f"kind: 'normalized' needs the covariance matrix of {largest} rows that depend on each other, more than "
            f"{MAX_DENSE_ROWS}; use kind='pearson', or random=True"
        )
    out = np.empty(len(rest))
    for rows, present in zip(clusters.rows, clusters.present, strict=True):
        here = rows[present]
        V = covariance(parts, blocks, here[:, None], here)
        try:
            out[here] = np.linalg.solve(np.linalg.cholesky(V), rest[here])
        except np.linalg.LinAlgError:
            out[here] = np.nan  # an estimate on the boundary: some direction has no variance
    return out
