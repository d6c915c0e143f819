"""Covariances of pairs of rows as the fitted model has them, without V as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..design import Field, Term
from ..fitting import blocks_at


def covariance_of(fit: Any, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Cov(y_i, y_j) for rows i (m,) and j (m,): random parts and residuals."""
    model, blocks = fit.model, blocks_at(fit.model, fit.estimate)
    total = _between(model.residual, blocks.residual, i, j)
    if model.weights is not None:
        total = total / np.sqrt(model.weights[i] * model.weights[j])
    for part, block in zip(model.random, blocks.random, strict=True):
        if isinstance(part, Term):
            g, h = part.group[i], part.group[j]
            A = g == h if part.relationship is None else part.relationship[g, h]
            total = total + A * np.einsum("mi,ij,mj->m", part.Z[i], np.asarray(block), part.Z[j])
        else:
            total = total + _between(part, block, i, j)
    return total


def _between(field: Field, block: Any, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    block = np.asarray(block)
    if field.group is None:
        return np.where(i == j, block[0, 0], 0.0)
    g, p = np.asarray(field.group), np.asarray(field.position)
    values = block[p[i], p[j]] if field.sets is None else block[np.asarray(field.sets)[g[i]], p[i], p[j]]
    return np.where(g[i] == g[j], values, 0.0)


def leverage_of(fit: Any, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """``x_i' Phi x_j``: what estimating the coefficients takes off the covariance of marginal residuals."""
    X = fit.model.X
    return np.einsum("mi,ij,mj->m", X[i], np.nan_to_num(fit.vcov), X[j])


def pairs_within(codes: np.ndarray, most: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows of one group, group after group; of a group with more than `most` rows those of a random sample."""
    rng = np.random.default_rng(seed)
    order = np.argsort(codes, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        if len(rows) > most:
            rows = np.sort(rng.choice(rows, most, replace=False))
        a, b = np.triu_indices(len(rows), 1)
        yield rows[a], rows[b]
