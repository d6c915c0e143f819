"""Analyses that papers compare with; one's own is a function of a data set, see `jaxlmm.study.Analysis`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .estimators import Analysis, Estimator


def ols(formula: str, name: str = "OLS") -> Estimator:
    """Least squares with n - p degrees of freedom, which takes all rows for independent."""
    return Estimator(name, formula, residual="iid()", df="residual")


def cluster_means(
    cluster: str = "cluster", arm: str = "arm", response: str = "y", target: str | None = None,
    name: str = "t test of cluster means",
) -> Analysis:  # fmt: skip
    """The t test of the means of the clusters of two arms, with pooled variance and clusters - 2 degrees of freedom.

    Exact where clusters are of one size. The higher arm less the lower one is the estimate of `target`, by default the
    arm's name.
    """
    return Analysis(name, ClusterMeans(cluster, arm, response, target or arm), test="t")


@dataclass(frozen=True)
class ClusterMeans:
    """See `cluster_means`."""

    cluster: str
    arm: str
    response: str
    target: str

    def __call__(self, data: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float, float]]:
        """Estimate, standard error and degrees of freedom."""
        codes = np.unique(data[self.cluster], return_inverse=True)[1]
        arms, arm = np.unique(data[self.arm], return_inverse=True)
        counts = np.bincount(codes)
        means = np.bincount(codes, data[self.response]) / counts
        share = np.bincount(codes, arm) / counts
        if len(arms) != 2 or not np.isin(share, (0.0, 1.0)).all():
            raise DataError(f"{self.arm!r}: expected two arms, one for each {self.cluster!r}, found {len(arms)} arms")
        first, second = means[share == 0.0], means[share == 1.0]
        df = len(means) - 2
        if df < 1:
            raise DataError(f"{self.cluster!r}: expected at least 3 clusters, found {len(means)}")
        square = sum(np.sum((m - m.mean()) ** 2) for m in (first, second)) / df
        se = np.sqrt(square * (1.0 / len(first) + 1.0 / len(second)))
        return {self.target: (second.mean() - first.mean(), se, float(df))}
