"""What single rows or groups do to the estimates: Cook's distances and DFBETAS by row or by group."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..estimates.fitted import FitBase
from . import canvas
from .canvas import chosen

MEASURES = ("cooks", "cooks_theta", "mdffits", "covratio", "leverage", "dfbetas")
NAMES = {
    "cooks": "Cook's distance", "cooks_theta": "Cook's distance of covariance parameters", "mdffits": "MDFFITS",
    "covratio": "COVRATIO", "leverage": "leverage",
}  # fmt: skip
NAMED = 8  # most labels of one panel
FEW = 30  # groups that are all labelled on the axis


def plot_influence(
    fit: FitBase, by: Any, measure: str, theta: bool, exact: str, threshold: float | None, ax: Any
) -> Any:  # fmt: skip
    """See ``FitPlots.influence``."""
    chosen("measure", measure, MEASURES)
    found = fit.influence(by, theta=theta, exact=exact, threshold=threshold)
    m = len(found)
    if measure == "dfbetas":
        limit = 2.0 / np.sqrt(m)
        axes = canvas.panels(len(found.coef_names), ax, 2, 4.0, 2.5)
        for j, axis in enumerate(axes):
            draw_index(axis, found.dfbetas[:, j], found.labels, (-limit, limit))
            canvas.label(axis, found.by, "DFBETAS", found.coef_names[j])
        return canvas.squeezed(axes)
    axis = canvas.one_panel(ax, 5.0, 3.4)
    values = getattr(found, measure)
    limits = {"cooks": (found.threshold,), "cooks_theta": (found.threshold,)}.get(measure, ())
    draw_index(axis, values, found.labels, limits)
    if measure == "covratio":
        canvas.zero(axis, 1.0)
    canvas.label(axis, found.by, NAMES[measure])
    return axis


def draw_index(ax: Any, values: np.ndarray, labels: np.ndarray, limits: tuple[float, ...]) -> None:
    """Stems by position, limits, and labels of the largest beyond them."""
    m = len(values)
    place = np.arange(m)
    ax.vlines(place, 0.0, values, color=canvas.GREY, linewidth=0.9 if m < 300 else 0.5, rasterized=m > canvas.MANY)
    beyond = np.zeros(m, bool)
    for limit in limits:
        ax.axhline(limit, color=canvas.INK, linestyle="--", linewidth=0.9)
        beyond |= values > limit if limit >= 0 else values < limit
    small = 3.0 if m < 300 else 1.2
    style: dict[str, Any] = {"linestyle": "", "marker": "o"}
    ax.plot(place[~beyond], values[~beyond], markersize=small, color=canvas.GREY, **style)
    ax.plot(place[beyond], values[beyond], markersize=small + 1.5, color=canvas.ACCENT, **style)
    canvas.zero(ax)
    for i in _named(values, beyond, labels):
        up = values[i] >= 0
        ax.annotate(str(labels[i]), (place[i], values[i]), (0, 4 if up else -4), textcoords="offset points",
                    ha="center", va="bottom" if up else "top", fontsize=canvas.TICK - 1)  # fmt: skip
    ax.margins(y=0.12)
    if np.nanmin(values, initial=0.0) >= 0.0:
        ax.set_ylim(bottom=0.0)
    if m <= FEW:
        names = [canvas.short(str(text), 12) for text in labels]
        turned = sum(map(len, names)) > 50
        ax.set_xticks(place, names, rotation=90 if turned else 0)
    elif not _is_position(labels):
        ax.set_xticks([])


def _named(values: np.ndarray, beyond: np.ndarray, labels: np.ndarray) -> list[int]:
    """The largest beyond the limits whose labels do not fall on each other."""
    out: list[int] = []
    span = np.ptp(np.nan_to_num(values)) or 1.0
    for i in map(int, np.argsort(-np.abs(np.nan_to_num(values)), kind="stable")):
        wide = 0.026 * max(len(str(labels[i])), 2) * len(values)
        free = all(abs(i - j) > wide or abs(values[i] - values[j]) > 0.12 * span for j in out)
        if beyond[i] and free and len(out) < NAMED:
            out.append(i)
    return out


def _is_position(labels: np.ndarray) -> bool:
    """Whether labels are the numbers 0, 1, ... that the axis shows anyway."""
    return labels.dtype.kind in "iu" and np.array_equal(labels, np.arange(len(labels)))
