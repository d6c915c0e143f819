"""Residuals against fitted values or a column, with a smooth curve and what that would be were the model true."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..columns import Column
from . import canvas
from .columns import column_of
from .envelope import Envelope, envelope, simulated
from .smooth import local_linear

PLACES = 60  # of a smooth curve
FEW = 40  # levels that are labelled


def name_of(kind: str, random: bool) -> str:
    """How an axis calls residuals."""
    which = "" if random else "marginal "
    return f"{'' if kind == 'response' else kind + ' '}{which}residuals"


def fitted_of(fit: Any, random: bool) -> np.ndarray:
    """Conditional means of the rows, or population means."""
    return fit.fitted if random else fit.predict(random=False)


def level_means(codes: np.ndarray, values: np.ndarray, levels: int) -> np.ndarray:
    """Means of the rows of each level, NaN of a level without any."""
    with np.errstate(invalid="ignore"):
        return np.bincount(codes, values, levels) / np.bincount(codes, minlength=levels)


def trend(
    fit: Any, against: str, kind: str, random: bool, size: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> tuple[np.ndarray, Callable[[Any], np.ndarray], Column | None]:  # fmt: skip
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
    fit: Any, kind: str, against: str, random: bool, n: int, seed: int, level: float, simultaneous: bool, ax: Any
) -> Any:  # fmt: skip
    """See ``FitPlots.residuals``."""
    places, curve, column = trend(fit, against, kind, random)
    found = simulated(fit, n, seed, curve)
    ax = canvas.one_panel(ax)
    draw_trend(
        ax, fit, kind, random, column, places, curve(fit), envelope(found[0], level, simultaneous) if n else None
    )
    return ax


def draw_trend(
    ax: Any, fit: Any, kind: str, random: bool, column: Column | None, places: np.ndarray, curve: np.ndarray,
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
        long = sum(map(len, column.levels)) > 45
        names = [canvas.short(level, max(10, 66 // count)) for level in column.levels]
        ax.set_xticks(place, names, rotation=90 if long else 0)
    else:
        ax.set_xticks([])
