"""Covariances of pairs of rows as the fitted model has them, without V as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..rowparts import covariance, parts_of


class Pairs:
    """What a fit says of pairs of rows i (m,) and j (m,)."""

    def __init__(self, fit: Any):
        self.fit = fit
        self.parts, self.blocks = parts_of(fit.model, fit.estimate)

    def covariance(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Cov(y_i, y_j): random parts and residuals."""
        return covariance(self.parts, self.blocks, i, j)

    def leverage(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """``x_i' Phi x_j``: what estimating the coefficients takes off the covariance of marginal residuals."""
        X = self.fit.model.X
        return np.einsum("mi,ij,mj->m", X[i], np.nan_to_num(self.fit.vcov), X[j])


def pairs_within(codes: np.ndarray, most: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows of one group, group after group; of a group with more than `most` rows those of a random sample."""
    rng = np.random.default_rng(seed)
    order = np.argsort(codes, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        if len(rows) > most:
            rows = np.sort(rng.choice(rows, most, replace=False))
        a, b = np.triu_indices(len(rows), 1)
        yield rows[a], rows[b]
