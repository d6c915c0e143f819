"""Covariances and semivariograms of marginal residuals within groups, beside those of the fitted model.

The empirical entry of two positions is the mean of ``r_a r_b + x_a' Phi x_b`` over the groups that have both, r being
``y - X beta``: the second term is what the estimated coefficients took off, so that it estimates V without bias at the
estimated parameters. The entry of the model is the mean of V over the same groups.

In the semivariogram half the squared difference of two residuals of a group has the mean ``(V_ii + V_jj) / 2 - V_ij``.
At each lag the dots are means over pairs, the line is the mean of what the model says of the same pairs (Diggle et al.
2002, Analysis of Longitudinal Data, section 3.4), so that unequal variances and designs need no correction. With
`robust` the means are those of Cressie & Hawkins (1980): fourth powers of mean square roots, which few outliers do not
move.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..estimates.fitted import FitBase
from ..estimates.rows import covariance, parts_of
from ..runtime.keys import generator_of
from ..tolerances import correlation_of
from . import canvas
from .canvas import column_of, groups_of

MOST = 40  # positions


class Covariances(NamedTuple):
    """Between positions (m, m): empirical, of the model, and groups that have both; NaN where none has."""

    labels: tuple[str, ...]
    empirical: np.ndarray
    model: np.ndarray
    groups: np.ndarray


def covariances(fit: FitBase, by: str | None, at: str | None) -> Covariances:
    """Both matrices; by default of the residual structure over the levels of a factor."""
    own = fit.frame.residual
    if by is None and at is None:
        if own is None or not own.columns:
            raise DataError(
                "by, at: the residuals have no structure over levels; name a grouping column with by= and a column of "
                "positions, such as the visit, with at="
            )
        codes, position, labels = np.asarray(own.group), np.asarray(fit.model.residual.position), own.columns
    elif by is None or at is None:
        raise DataError("by, at: give both, the groups and the positions within them, or neither")
    else:
        codes = groups_of(fit, "by", by)[0]
        factor = column_of(fit, "at", at).as_factor()
        position, labels = factor.values, factor.levels
    m = len(labels)
    if m > MOST:
        raise DataError(f"at: found {m} positions, expected at most {MOST}; give a coarser column")
    row = np.full((int(codes.max()) + 1, m), -1)
    row[codes, position] = np.arange(len(codes))
    if np.sum(row >= 0) < len(codes):
        raise DataError("at: some groups have a position more than once; expected one row of a group at each")
    residuals, pairs = fit.residuals("response", random=False), RowPairs(fit)
    empirical, model = np.full((m, m), np.nan), np.full((m, m), np.nan)
    groups = np.zeros((m, m), int)
    for a in range(m):
        for b in range(a + 1):
            both = (row[:, a] >= 0) & (row[:, b] >= 0)
            groups[a, b] = groups[b, a] = both.sum()
            if both.any():
                i, j = row[both, a], row[both, b]
                products = residuals[i] * residuals[j] + pairs.leverage(i, j)
                empirical[a, b] = empirical[b, a] = np.mean(products)
                model[a, b] = model[b, a] = np.mean(pairs.covariance(i, j))
    return Covariances(tuple(labels), empirical, model, groups)


def plot_covariances(fit: FitBase, by: str | None, at: str | None, correlation: bool, ax: Any) -> Any:
    """See ``FitPlots.covariance``."""
    found = covariances(fit, by, at)
    both = [correlation_of(C) if correlation else C for C in (found.empirical, found.model)]
    m = len(found.labels)
    size = float(np.clip(0.62 * m + 1.2, 2.8, 7.0))
    axes = canvas.panels(2, ax, 2, size, size)
    most = max(float(np.nanmax(np.abs(C))) for C in both) or 1.0
    what = "correlation" if correlation else "covariance"
    for axis, C, name in zip(axes, both, (f"{what} of residuals", f"{what} of the model"), strict=True):
        _heat(axis, C, found.labels, most)
        axis.set_title(name, fontsize=canvas.LABEL)
        axis.set_xlabel(at or "", fontsize=canvas.LABEL)
    return axes


def _heat(ax: Any, C: np.ndarray, labels: tuple[str, ...], most: float) -> None:
    """Grey levels by size, numbers in the cells where these are few enough to be read; negative ones in italics."""
    m = len(C)
    ax.imshow(np.abs(C) / most, cmap="Greys", vmin=0.0, vmax=1.25, aspect="auto")
    largest = most if most >= 1 else 1.0
    digits = int(np.clip(2 - np.floor(np.log10(largest)), 0, 2))
    if m <= 12:
        font = float(np.clip(78.0 / m, 6.5, canvas.TICK))
        for i in range(m):
            for j in range(m):
                if np.isfinite(C[i, j]):
                    ax.text(j, i, f"{C[i, j]:.{digits}f}", ha="center", va="center", fontsize=font,
                            style="italic" if C[i, j] < 0 else "normal",
                            color="white" if abs(C[i, j]) > 0.6 * most else "black")  # fmt: skip
    step = -(-m // 20)
    names = [canvas.short(text, 10) for text in labels[::step]]
    turned = sum(map(len, names)) > 5 * len(names)
    ax.set_xticks(range(0, m, step), names, rotation=90 if turned else 0, fontsize=canvas.TICK)
    ax.set_yticks(range(0, m, step), names, fontsize=canvas.TICK)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


class RowPairs:
    """What a fit says of pairs of rows i (m,) and j (m,)."""

    def __init__(self, fit: FitBase):
        self.fit = fit
        self.parts, self.blocks = parts_of(fit.model, fit.estimate)

    def covariance(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Cov(y_i, y_j): random parts and residuals."""
        return covariance(self.parts, self.blocks, i, j)

    def leverage(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """``x_i' Phi x_j``: what estimating the coefficients takes off the covariance of marginal residuals."""
        X = self.fit.model.X
        return np.sum((X[i] @ np.nan_to_num(self.fit.vcov)) * X[j], 1)


def pairs_within(codes: np.ndarray, most: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows of one group, group after group; of a group with more than `most` rows those of a random sample."""
    rng = generator_of("seed", seed)
    order = np.argsort(codes, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        if len(rows) > most:
            rows = np.sort(rng.choice(rows, most, replace=False))
        a, b = np.triu_indices(len(rows), 1)
        yield rows[a], rows[b]


LARGEST = 500  # rows of a group whose pairs are all used


class Semivariogram(NamedTuple):
    """By bin (m,): mean lag, pairs, semivariance of the residuals and of the model; the variance of the model."""

    lag: np.ndarray
    pairs: np.ndarray
    empirical: np.ndarray
    model: np.ndarray
    variance: float


def semivariogram(
    fit: FitBase, by: str, time: str, kind: str, bins: int, robust: bool, max_lag: float | None, seed: int = 0
) -> Semivariogram:  # fmt: skip
    """Semivariances by lag, in bins of equal numbers of pairs; equal lags are never parted."""
    codes, _ = groups_of(fit, "by", by)
    column = column_of(fit, "time", time)
    if not column.is_number:
        raise DataError(f"time: {time!r} is a factor, expected a numeric column to take differences of")
    t, residuals = np.asarray(column.values, np.float64), fit.residuals(kind, random=False)
    pairs = RowPairs(fit)
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


def _expected(pairs: RowPairs, kind: str, i: np.ndarray, j: np.ndarray) -> np.ndarray:
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
    fit: FitBase, by: str, time: str, kind: str, bins: int, robust: bool, max_lag: float | None, ax: Any
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
