"""Residuals as pictures: against fitted values or columns, normal quantiles, four diagnostic panels of one fit.

The envelopes are those of data sets simulated from the fit. The smooth curve is local-linear: straight lines fitted to
the nearest points, with weights that fall off with distance (Cleveland 1979, JASA 74:829), without the iterations that
make it robust: outliers are to be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..estimates.fitted import FitBase
from ..frames.columns import Column
from . import canvas
from .canvas import chosen, column_of
from .envelope import Envelope, envelope, simulated


def root_size(values: np.ndarray) -> np.ndarray:
    """Roots of absolute values, whose distribution is less skew than theirs."""
    return np.sqrt(np.abs(values))


def plot_diagnostics(fit: FitBase, kind: str, n: int, seed: int, level: float, ax: Any) -> np.ndarray:
    """See ``FitPlots.diagnostics``."""
    places, mean, _ = trend(fit, "fitted", kind, True)
    _, spread, _ = trend(fit, "fitted", kind, True, root_size)
    ordered, name = sample(fit, "residuals", None, kind, True)
    curves: list[Callable[[Any], np.ndarray]] = [mean, spread, ordered]
    groups = [g for g, found in fit.ranef().items() if len(found.levels) > 2] if fit.model.random else []
    text = ""
    if groups:
        effects, text = sample(fit, groups[0], None, kind, True)
        curves.append(effects)
    found = simulated(fit, n, seed, *curves)
    around = [envelope(x, level) for x in found] if n else [None] * len(curves)
    axes = canvas.panels(4, ax, 2, 4.0, 3.2)
    draw_trend(axes[0], fit, kind, True, None, places, mean(fit), around[0])
    draw_quantiles(axes[1], ordered(fit), name, around[2])
    draw_trend(axes[2], fit, kind, True, None, places, spread(fit), around[1], root_size, f"root of |{name}|")
    if groups:
        draw_quantiles(axes[3], effects(fit), text, around[3])
    else:
        _draw_observed(axes[3], fit)
    return axes


def _draw_observed(ax: Any, fit: FitBase) -> None:
    """The response against fitted values, where there are no random effects to look at."""
    x = fit.fitted
    ends = np.array([x.min(), x.max()])
    ax.plot(ends, ends, color=canvas.GREY, linewidth=1.0)
    canvas.points(ax, x, fit.model.y)
    canvas.label(ax, "fitted values", fit.frame.response)


def normal_scores(n: int) -> np.ndarray:
    """Quantiles of the normal distribution at ``(i - 1/2) / n``."""
    from scipy.special import ndtri

    return np.asarray(ndtri((np.arange(n) + 0.5) / n))


def quartile_line(scores: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of the line through the quartiles."""
    (a, b), (u, v) = np.quantile(scores, [0.25, 0.75]), np.quantile(values, [0.25, 0.75])
    slope = (v - u) / (b - a) if b > a else 0.0
    return float(u - slope * a), float(slope)


def sample(
    fit: FitBase, of: str, column: str | None, kind: str, random: bool
) -> tuple[Callable[[Any], np.ndarray], str]:
    """The function that gives the sorted values of any fit, and their name."""
    if of == "residuals":
        return lambda f: np.sort(f.residuals(kind, random)), name_of(kind, random)
    found = fit.ranef()
    group = chosen("of", of, ("residuals", *found))
    column = chosen("column", column, found[group].columns, found[group].columns[0])
    j = found[group].columns.index(column)
    return lambda f: np.sort(f.ranef()[group].values[:, j]), f"effects of {group}: {column}"


def plot_quantiles(
    fit: FitBase, of: str, column: str | None, kind: str, random: bool, n: int, seed: int, level: float,
    simultaneous: bool, ax: Any,
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


PLACES = 60  # of a smooth curve
FEW = 40  # levels that are labelled


def name_of(kind: str, random: bool) -> str:
    """How an axis calls residuals."""
    which = "" if random else "marginal "
    return f"{'' if kind == 'response' else kind + ' '}{which}residuals"


def fitted_of(fit: FitBase, random: bool) -> np.ndarray:
    """Conditional means of the rows, or population means."""
    return fit.fitted if random else fit.predict(random=False)


def level_means(codes: np.ndarray, values: np.ndarray, levels: int) -> np.ndarray:
    """Means of the rows of each level, NaN of a level without any."""
    with np.errstate(invalid="ignore"):
        return np.bincount(codes, values, levels) / np.bincount(codes, minlength=levels)


def trend(
    fit: FitBase, against: str, kind: str, random: bool, size: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> tuple[np.ndarray, Callable[[Any], np.ndarray], Column | None]:
    """Places (m,), the function that gives the curve of any fit there, and the column if it is not fitted values.

    A smooth curve over numbers, the means at the levels of a factor; `size` is a function of the residuals.
    """
    column = None if against == "fitted" else column_of(fit, "against", against)
    if column is not None and not column.is_number:
        count = len(column.levels)
        return np.arange(count), lambda f: level_means(column.values, size(f.residuals(kind, random)), count), column
    given = None if column is None else np.asarray(column.values, np.float64)

    def where(f: Any) -> np.ndarray:
        return fitted_of(f, random) if given is None else given

    places = np.linspace(where(fit).min(), where(fit).max(), PLACES)
    return places, lambda f: local_linear(where(f), size(f.residuals(kind, random)), places), column


def plot_residuals(
    fit: FitBase, kind: str, against: str, random: bool, n: int, seed: int, level: float, simultaneous: bool, ax: Any
) -> Any:
    """See ``FitPlots.residuals``."""
    places, curve, column = trend(fit, against, kind, random)
    found = simulated(fit, n, seed, curve)
    ax = canvas.one_panel(ax)
    draw_trend(
        ax, fit, kind, random, column, places, curve(fit), envelope(found[0], level, simultaneous) if n else None
    )
    return ax


def draw_trend(
    ax: Any, fit: FitBase, kind: str, random: bool, column: Column | None, places: np.ndarray, curve: np.ndarray,
    around: Envelope | None, size: Callable[[np.ndarray], np.ndarray] | None = None, name: str = "",
) -> None:  # fmt: skip
    """Points, curve and envelope."""
    values = fit.residuals(kind, random)
    if size is None:
        canvas.zero(ax)
    else:
        values = size(values)
    if column is not None and not column.is_number:
        _draw_levels(ax, column, values, curve, around)
    else:
        x = fitted_of(fit, random) if column is None else column.values
        if around is not None:
            inside = np.isfinite(around.lower) & np.isfinite(around.upper)
            canvas.band(ax, places[inside], around.lower[inside], around.upper[inside])
        canvas.points(ax, x, values)
        ax.plot(places, curve, color=canvas.ACCENT, linewidth=1.8)
    if column is None:
        x_name = "fitted values" if random else "fitted population means"
    else:
        x_name = column.name
    canvas.label(ax, x_name, name or name_of(kind, random))


def _draw_levels(ax: Any, column: Column, values: np.ndarray, means: np.ndarray, around: Envelope | None) -> None:
    count = len(column.levels)
    place = np.arange(count)
    canvas.points(ax, column.values + canvas.jitter(len(values), 0.5), values, s=5.0)
    if around is not None:
        ax.vlines(
            place, around.lower, around.upper, color=canvas.GREY, linewidth=5.0 if count <= FEW else 1.5, alpha=0.5
        )
    ax.plot(place, means, linestyle="", marker="_", markersize=9 if count <= FEW else 4, markeredgewidth=2.0,
            color=canvas.ACCENT)  # fmt: skip
    if count <= FEW:
        canvas.name_places(ax, place, column.levels)
    else:
        ax.set_xticks([])


SPAN = 0.75  # part of the points that a line is fitted to


def local_linear(x: np.ndarray, y: np.ndarray, at: np.ndarray, span: float = SPAN) -> np.ndarray:
    """The smooth of y (n,) over x (n,) at places (m,); NaN beyond the range of x.

    Each value is that of a weighted least-squares line, with weights ``(1 - (d / h)^3)^3`` for the distance d and the
    distance h of the nearest ``span * n`` points.
    """
    x, y, at = (np.asarray(a, np.float64) for a in (x, y, at))
    n = len(x)
    width = np.ptp(x)
    if n < 2 or width == 0:
        return np.where((at >= x.min()) & (at <= x.max()), y.mean(), np.nan)
    near = int(np.clip(np.ceil(span * n), 2, n))
    out = np.full(len(at), np.nan)
    for i, place in enumerate(at):
        if not x.min() - 1e-12 * width <= place <= x.max() + 1e-12 * width:
            continue
        d = x - place
        size = np.abs(d)
        h = max(np.partition(size, near - 1)[near - 1] * (1 + 1e-9), 1e-9 * width)
        w = np.clip(1.0 - (size / h) ** 3, 0.0, None) ** 3
        total, first, second = w.sum(), w @ d, w @ d**2
        spread = second - first**2 / total
        slope = 0.0 if spread <= 1e-12 * width**2 * total else (w @ (d * y) - first * (w @ y) / total) / spread
        out[i] = (w @ y - slope * first) / total
    return out
