"""The semivariogram of marginal residuals within groups, beside that of the fitted model.

Half the squared difference of two residuals of a group has the mean ``(V_ii + V_jj) / 2 - V_ij``. At each lag the
dots are means over pairs, the line is the mean of what the model says of the same pairs (Diggle et al. 2002, Analysis
of Longitudinal Data, section 3.4), so that unequal variances and designs need no correction. With `robust` the means
are those of Cressie & Hawkins (1980): fourth powers of mean square roots, which few outliers do not move.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from . import canvas
from .columns import column_of, groups_of
from .pairwise import Pairs, pairs_within

LARGEST = 500  # rows of a group whose pairs are all used


class Semivariogram(NamedTuple):
    """By bin (m,): mean lag, pairs, semivariance of the residuals and of the model; the variance of the model."""

    lag: np.ndarray
    pairs: np.ndarray
    empirical: np.ndarray
    model: np.ndarray
    variance: float


def semivariogram(
    fit: Any, by: str, time: str, kind: str, bins: int, robust: bool, max_lag: float | None, seed: int = 0
) -> Semivariogram:  # fmt: skip
    """Semivariances by lag, in bins of equal numbers of pairs; equal lags are never parted."""
    codes, _ = groups_of(fit, "by", by)
    column = column_of(fit, "time", time)
    if not column.is_number:
        raise DataError(f"time: {time!r} is a factor, expected a numeric column to take differences of")
    t, residuals = np.asarray(column.values, np.float64), fit.residuals(kind, random=False)
    pairs = Pairs(fit)
    lags, squares, models = [], [], []
    for i, j in pairs_within(codes, LARGEST, seed):
        lags.append(np.abs(t[i] - t[j]))
        squares.append(0.5 * (residuals[i] - residuals[j]) ** 2)
        models.append(_expected(pairs, kind, i, j))
    lag, square, model = (np.concatenate(x) for x in (lags, squares, models))
    limit = lag.max(initial=0.0) if max_lag is None else max_lag
    keep = lag <= limit
    if not keep.any() or np.ptp(t) == 0:
        raise DataError(f"by: no two rows of a group of {by!r} have different {time!r}, so there are no lags")
    lag, square, model = lag[keep], square[keep], model[keep]
    code = _bins(lag, bins)
    count = np.bincount(code)
    means = [np.bincount(code, x) / count for x in (lag, square, model)]
    if robust:  # |r_i - r_j|^(1/2) is close to normal; the denominator makes its fourth power unbiased
        means[1] = (np.bincount(code, (2.0 * square) ** 0.25) / count) ** 4 / (2.0 * (0.457 + 0.494 / count))
    rows = np.arange(len(t))
    variance = 1.0 if kind != "response" else float(np.mean(pairs.covariance(rows, rows)))
    return Semivariogram(means[0], count, means[1], means[2], variance)


def _expected(pairs: Pairs, kind: str, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    if kind == "normalized":  # uncorrelated with variance one
        return np.ones(len(i))

    def left(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        size = 1.0
        if kind == "pearson":
            size = np.sqrt(pairs.covariance(i, i) * pairs.covariance(j, j))
        return (pairs.covariance(i, j) - pairs.leverage(i, j)) / size

    return 0.5 * (left(i, i) + left(j, j)) - left(i, j)


def _bins(lag: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each pair: every lag its own where there are few, else of about equal numbers of pairs."""
    distinct, inverse, counts = np.unique(lag, return_inverse=True, return_counts=True)
    if len(distinct) <= bins:
        return inverse.reshape(-1)
    middle = np.cumsum(counts) - 0.5 * counts
    code = np.minimum((middle * bins / len(lag)).astype(int), bins - 1)
    return np.unique(code, return_inverse=True)[1][inverse.reshape(-1)]


def plot_semivariogram(
    fit: Any, by: str, time: str, kind: str, bins: int, robust: bool, max_lag: float | None, ax: Any
) -> Any:  # fmt: skip
    """See ``FitPlots.semivariogram``."""
    found = semivariogram(fit, by, time, kind, bins, robust, max_lag)
    ax = canvas.one_panel(ax)
    size = 12.0 + 60.0 * found.pairs / found.pairs.max()
    canvas.points(ax, found.lag, found.empirical, s=size, edgecolors=canvas.INK, alpha=1.0, label="residuals")
    ax.plot(found.lag, found.model, color=canvas.ACCENT, linewidth=1.8, label="model")
    ax.axhline(found.variance, color=canvas.GREY, linewidth=0.9, linestyle=":", label="variance of the model")
    ax.set_ylim(bottom=0.0)
    name = "" if kind == "response" else kind + " "
    canvas.label(ax, f"lag in {time} within {by}", f"semivariance of {name}residuals")
    canvas.legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.0)
    return ax
