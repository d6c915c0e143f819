"""Normal quantile plots of residuals and of predicted random effects, with the envelope of simulated data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import canvas
from .columns import chosen
from .envelope import Envelope, envelope, simulated
from .residuals import name_of


def normal_scores(n: int) -> np.ndarray:
    """Quantiles of the normal distribution at ``(i - 1/2) / n``."""
    from scipy.special import ndtri

    return np.asarray(ndtri((np.arange(n) + 0.5) / n))


def quartile_line(scores: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of the line through the quartiles."""
    (a, b), (u, v) = np.quantile(scores, [0.25, 0.75]), np.quantile(values, [0.25, 0.75])
    slope = (v - u) / (b - a) if b > a else 0.0
    return float(u - slope * a), float(slope)


def sample(fit: Any, of: str, column: str | None, kind: str, random: bool) -> tuple[Callable[[Any], np.ndarray], str]:
    """The function that gives the sorted values of any fit, and their name."""
    if of == "residuals":
        return lambda f: np.sort(f.residuals(kind, random)), name_of(kind, random)
    found = fit.ranef()
    group = chosen("of", of, ("residuals", *found))
    column = chosen("column", column, found[group].columns, found[group].columns[0])
    j = found[group].columns.index(column)
    return lambda f: np.sort(f.ranef()[group].values[:, j]), f"effects of {group}: {column}"


def plot_quantiles(
    fit: Any, of: str, column: str | None, kind: str, random: bool, n: int, seed: int, level: float, simultaneous: bool,
    ax: Any,
) -> Any:  # fmt: skip
    """See ``FitPlots.qq``."""
    curve, name = sample(fit, of, column, kind, random)
    found = simulated(fit, n, seed, curve)
    ax = canvas.one_panel(ax)
    draw_quantiles(ax, curve(fit), name, envelope(found[0], level, simultaneous) if n else None)
    return ax


def draw_quantiles(ax: Any, values: np.ndarray, name: str, around: Envelope | None) -> None:
    """Sorted values against normal scores; those outside of the envelope are filled."""
    scores = normal_scores(len(values))
    intercept, slope = quartile_line(scores, values)
    ends = scores[[0, -1]]
    ax.plot(ends, intercept + slope * ends, color=canvas.GREY, linewidth=1.0, zorder=1)
    outside = np.zeros(len(values), bool)
    if around is not None:
        canvas.band(ax, scores, around.lower, around.upper)
        outside = (values < around.lower) | (values > around.upper)
    canvas.points(ax, scores[~outside], values[~outside], zorder=2)
    if outside.any():
        canvas.points(ax, scores[outside], values[outside], facecolors=canvas.ACCENT, edgecolors=canvas.ACCENT,
                      alpha=1.0, zorder=3)  # fmt: skip
    canvas.label(ax, "normal quantiles", name)
