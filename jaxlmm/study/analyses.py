"""Analyses that are not models of jaxlmm: functions of a data set, one's own and those that papers compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..distributions import t_tail
from ..errors import DataError
from .cells import accepted
from .declare import Study
from .drawing import Drawn, arrays, sentence_of
from .estimate import FLOATS, NO_TARGET, Fitter, Numbers, without_lost
from .estimators import Analysis, Estimator, Target


class Analyst:
    """Applies an analysis to data sets of one cell, as `Fitter` does a model.

    Parameters
    ----------
    data : columns of the design;  factors : of the cell
    """

    def __init__(
        self, analysis: Analysis, targets: Mapping[str, Target], data: Mapping[str, Any], factors: Mapping[str, Any],
        response: str,
    ):  # fmt: skip
        self.estimator, self.targets, self.response = analysis, targets, response
        self.rows = analysis.rows(targets)
        self.data = arrays(data)
        self._factors = accepted(analysis.function, factors)
        self._every = jax.jit(jax.vmap(self._one, in_axes=(0,))) if analysis.vectorised else None

    def _one(self, columns: Mapping[str, Any]) -> Any:
        return self.estimator.function({**self.data, **columns}, **self._factors)

    def __call__(self, drawn: Drawn, b: int) -> Numbers:
        """Numbers of all data sets, in the order of `rows`."""
        out = Numbers.empty(len(self.rows), b)
        if self._every is not None and drawn.tables is None:
            self._write(out, np.arange(b), self._numbers(self._every(drawn.columns), b))
            return out
        for i in range(b):
            try:
                self._write(out, np.array([i]), self._numbers(self.alone(drawn.table(i, self.data)), 1))
            except MemoryError:
                raise
            except Exception as error:  # of the user's function: a status of this data set
                out.fail(i, "estimate_failed", sentence_of(error))
        return out

    def rehearse(self, table: Mapping[str, Any]) -> None:
        """Apply it to one data set; raises what is wrong with it."""
        found = self._numbers(self.alone(table), 1)
        if not found:
            raise DataError(f"returned none of the targets {', '.join(self.targets)}")

    def alone(self, table: Mapping[str, Any]) -> Any:
        """What the function makes of one data set."""
        plain = {name: np.asarray(values) for name, values in table.items()}
        plain = plain if self.estimator.vectorised else without_lost(plain, self.response)
        return self.estimator.function(plain, **self._factors)

    def _numbers(self, found: Any, b: int) -> dict[str, np.ndarray]:
        """Estimate, standard error, degrees of freedom and p-value (4, b) of the targets that were returned."""
        if not isinstance(found, Mapping):
            raise DataError(
                f"returned {type(found).__name__}, expected a mapping from targets to (estimate, se, df, p)"
            )
        if unknown := [name for name in found if name not in self.targets]:
            raise DataError(f"returned {unknown[0]!r}, expected some of the targets {', '.join(self.targets)}")
        out = {}
        for name, given in found.items():
            if isinstance(given, Mapping):
                if unknown := [key for key in given if key not in FLOATS]:
                    raise DataError(f"{name}: returned {unknown[0]!r}, expected some of {', '.join(FLOATS)}")
                given = [given.get(key) for key in FLOATS]
            several = list(given) if isinstance(given, tuple | list) or np.ndim(given) > (b > 1) else [given]
            if len(several) > len(FLOATS):
                raise DataError(f"{name}: returned {len(several)} numbers, expected (estimate, se, df, p)")
            several += [None] * (len(FLOATS) - len(several))
            out[name] = np.stack(
                [np.full(b, np.nan) if v is None else np.broadcast_to(v, b).astype(float) for v in several]
            )
        return out

    def _write(self, out: Numbers, places: np.ndarray, found: Mapping[str, np.ndarray]) -> None:
        for r, row in enumerate(self.rows):
            if row.target not in found:
                out.status[r, places] = NO_TARGET
                continue
            estimate, se, df, p = found[row.target]
            df = np.where(np.isnan(df) & ~np.isnan(se), np.inf, df)
            p = np.where(np.isnan(p), t_tail((estimate - self.targets[row.target].null) / se, df), p)
            has = np.isfinite(estimate) | np.isfinite(p)
            for name, values in zip(FLOATS, (estimate, se, df, p), strict=True):
                getattr(out, name)[r, places] = values
            out.status[r, places] = np.where(has, 0, out.status[r, places])
            out.converged[r, places] = has


def fitter_of(study: Study, estimator: Estimator | Analysis, cell: int, data: dict[str, Any]) -> Fitter | Analyst:
    """What applies an estimator to the data sets of a cell with the columns `data`."""
    if isinstance(estimator, Analysis):
        return Analyst(estimator, study.targets, data, study.cells[cell], study.response)
    return Fitter(estimator, study.targets, data, study.response)


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
