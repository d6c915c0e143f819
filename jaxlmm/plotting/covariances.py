"""Covariances of marginal residuals between the positions of a group, and those of the fitted model, side by side.

The empirical entry of two positions is the mean of ``r_a r_b + x_a' Phi x_b`` over the groups that have both, r being
``y - X beta``: the second term is what the estimated coefficients took off, so that it estimates V without bias at the
estimated parameters. The entry of the model is the mean of V over the same groups.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from . import canvas
from .columns import column_of, groups_of
from .pairwise import Pairs

MOST = 40  # positions


class Covariances(NamedTuple):
    """Between positions (m, m): empirical, of the model, and groups that have both; NaN where none has."""

    labels: tuple[str, ...]
    empirical: np.ndarray
    model: np.ndarray
    groups: np.ndarray


def covariances(fit: Any, by: str | None, at: str | None) -> Covariances:
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
    residuals, pairs = fit.residuals("response", random=False), Pairs(fit)
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


def correlations(C: np.ndarray) -> np.ndarray:
    """The correlation matrix of a covariance matrix."""
    sd = np.sqrt(np.diagonal(C))
    return C / np.outer(sd, sd)


def plot_covariances(fit: Any, by: str | None, at: str | None, correlation: bool, ax: Any) -> Any:
    """See ``FitPlots.covariance``."""
    found = covariances(fit, by, at)
    both = [correlations(C) if correlation else C for C in (found.empirical, found.model)]
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
