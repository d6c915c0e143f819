"""Caterpillar plots: predicted random effects, sorted, with their intervals."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..distributions import check_level, t_quantile
from ..errors import DataError
from . import canvas
from .columns import chosen

LABELLED = 60  # most levels with their labels
VARIANCES = ("condvar", "pev")


class Caterpillar(NamedTuple):
    """What is drawn: labels (m,), effects and half widths of their intervals (m, q), in the order of the picture."""

    group: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray
    half: np.ndarray


def caterpillar(fit: Any, group: str | None, variance: str, sort: str | None, level: float) -> Caterpillar:
    """Effects with intervals, sorted by a column, or with `sort` "" as the levels come."""
    if variance not in VARIANCES:
        raise DataError(f"variance: found {variance!r}, expected 'condvar' or 'pev'")
    effects = fit.ranef()
    found = effects[chosen("group", group, tuple(effects))]
    order = np.arange(len(found.levels))
    if sort != "":
        column = chosen("sort", sort, found.columns, found.columns[0])
        order = np.argsort(found.values[:, found.columns.index(column)], kind="stable")
    half = float(t_quantile(0.5 * (1.0 + check_level(level)), np.inf))
    variances = np.diagonal(getattr(found, variance), axis1=1, axis2=2)
    return Caterpillar(
        found.group, tuple(found.levels[i] for i in order), found.columns, found.values[order],
        half * np.sqrt(np.maximum(variances, 0.0))[order],
    )  # fmt: skip


def plot_caterpillar(
    fit: Any, group: str | None, variance: str, sort: str | None, level: float, ax: Any
) -> Any:  # fmt: skip
    """See ``FitPlots.ranef``."""
    found = caterpillar(fit, group, variance, sort, level)
    m, few = len(found.labels), len(found.labels) <= LABELLED
    height = 0.9 + 0.16 * m if few else 5.0
    axes = canvas.panels(len(found.columns), ax, 4, 3.0, max(height, 1.8), sharey=True)
    place = np.arange(m)
    for j, axis in enumerate(axes):
        canvas.zero(axis, vertical=True)
        x, half = found.values[:, j], found.half[:, j]
        axis.hlines(place, x - half, x + half, color=canvas.GREY if few else "0.75",
                    linewidth=1.2 if few else 0.5, rasterized=m > canvas.MANY)  # fmt: skip
        axis.plot(x, place, linestyle="", marker="o", color=canvas.INK, markersize=3.5 if few else 1.2)
        axis.set_ylim(-0.7, m - 0.3)
        canvas.label(axis, found.columns[j])
    if few:
        axes[0].set_yticks(place, [canvas.short(text, 24) for text in found.labels])
        axes[0].set_ylabel(found.group)
    else:
        axes[0].set_yticks([])
        axes[0].set_ylabel(f"{found.group} ({m} levels, sorted)" if sort != "" else f"{found.group} ({m} levels)")
    for axis in axes:
        axis.tick_params(axis="y", length=0, labelsize=canvas.TICK - 1)
    return canvas.squeezed(axes)
