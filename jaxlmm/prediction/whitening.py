"""``Fit.residuals``: marginal and conditional residuals, on the scale of the response or standardised."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DataError
from ..fitting import blocks_at
from ..inference.partition import Partition, dependent
from ..model import MAX_DENSE_ROWS, weighted
from .newdata import ABSENT, SHARED, joined, rows_of_fit
from .parts import Part

KINDS = ("response", "pearson", "normalized")


def residuals(fit: Any, kind: str = "response", random: bool = True) -> np.ndarray:
    """Residuals (n,); see ``Fit.residuals``."""
    if kind not in KINDS:
        raise DataError(f"kind: found {kind!r}, expected one of {', '.join(KINDS)}")
    rest = fit.model.y - (fit.fitted if random else fit.predict(random=False))
    if kind == "response":
        return rest
    parts, blocks = _covariances(fit, random)
    rest = weighted(fit.model, rest)
    if kind == "pearson":
        every = np.arange(len(rest))
        return rest / np.sqrt(np.sum([part.variances(G, every) for part, G in zip(parts, blocks, strict=True)], 0))
    own = fit.model.residual.group
    if not random:
        clusters = dependent(fit.model)
    else:
        clusters = Partition.of(np.arange(len(rest)) if own is None else np.unique(own, return_inverse=True)[1])
    return _whitened(rest, parts, blocks, clusters)


def _covariances(fit: Any, random: bool) -> tuple[tuple[Part, ...], tuple[np.ndarray, ...]]:
    """Parts of the residual's covariance, or of V where random parts count as residual, and their blocks."""
    blocks = blocks_at(fit.model, fit.estimate)
    K = tuple(np.eye(len(G)) if G.ndim == 2 else None for G in blocks.random)
    nobody = rows_of_fit(fit.model).take(np.arange(0))
    parts, _ = joined(fit.model, nobody, K, lambda is_residual: ABSENT if is_residual else SHARED)
    every = tuple(zip(parts, (*blocks.random, blocks.residual), strict=True))
    return tuple(zip(*(every[-1:] if random else every), strict=True))  # type: ignore[return-value]


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
        V = np.sum([part.between(G, here, here) for part, G in zip(parts, blocks, strict=True)], 0)
        try:
            out[here] = np.linalg.solve(np.linalg.cholesky(V), rest[here])
        except np.linalg.LinAlgError:
            out[here] = np.nan  # an estimate on the boundary: some direction has no variance
    return out
