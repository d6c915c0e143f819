"""Predicted random effects as pictures: caterpillar plots, and how far each group's own estimate is shrunk.

The arrow of shrinkage goes from the least-squares estimate of one group, the fixed part and all other random parts held
at their estimates, to the predictor (BLUP), which is drawn towards zero the more the less the group has to say.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from ..arguments import check_choice
from ..distributions import two_sided
from ..errors import DataError
from ..estimates.fitted import FitBase
from ..likelihood.parts import Term
from . import canvas
from .canvas import chosen

LABELLED = 60  # most levels with their labels


class Caterpillar(NamedTuple):
    """What is drawn: labels (m,), effects and half widths of their intervals (m, q), in the order of the picture."""

    group: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray
    half: np.ndarray


def caterpillar(
    fit: FitBase, group: str | None, variance: str, sort: str | None, level: float, extremes: int | None = None
) -> Caterpillar:  # fmt: skip
    """Effects with intervals, sorted by a column, or with `sort` "" as the levels come; of the extreme levels alone."""
    check_choice("variance", variance, ("condvar", "pev"))
    effects = fit.ranef()
    found = effects[chosen("group", group, tuple(effects))]
    order = np.arange(len(found.levels))
    if sort != "" or extremes is not None:
        column = chosen("sort", sort or None, found.columns, found.columns[0])
        order = np.argsort(found.values[:, found.columns.index(column)], kind="stable")
    if extremes is not None:
        if not isinstance(extremes, int | np.integer) or extremes < 1:
            raise DataError(f"extremes: found {extremes!r}, expected a number of levels at each end")
        if len(order) > 2 * extremes:
            order = np.concatenate([order[:extremes], order[-extremes:]])
        found = fit.ranef(levels={found.group: found.levels.at(order)})[found.group]
        order = np.arange(len(order))
    half = float(two_sided(level, np.inf))
    variances = np.diagonal(getattr(found, variance), axis1=1, axis2=2)
    return Caterpillar(
        found.group, tuple(found.levels[i] for i in order), found.columns, found.values[order],
        half * np.sqrt(np.maximum(variances, 0.0))[order],
    )  # fmt: skip


def plot_caterpillar(
    fit: FitBase, group: str | None, variance: str, sort: str | None, level: float, ax: Any, extremes: int | None
) -> Any:  # fmt: skip
    """See ``FitPlots.ranef``."""
    found = caterpillar(fit, group, variance, sort, level, extremes)
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


TRIMMED = (0.01, 0.99)  # of the least-squares estimates of many levels are within the axes
ARROWS = 150  # most levels that have them, more have lines


class Shrinkage(NamedTuple):
    """By level (m,): least-squares estimates, NaN where a group cannot have them, and predictors (m, q)."""

    group: str
    levels: tuple[str, ...]
    columns: tuple[str, ...]
    alone: np.ndarray
    predicted: np.ndarray


def shrinkage(fit: FitBase, group: str | None, coef: bool) -> Shrinkage:
    """Estimates of groups alone and predictors, as deviations; with `coef` the fixed effects of the same name added."""
    parts = fit.frame.parts
    mine = [t for t, part in enumerate(fit.model.random) if isinstance(part, Term)]
    group = chosen("group", group, tuple(dict.fromkeys(parts[t].group_label for t in mine)))
    mine = [t for t in mine if parts[t].group_label == group]
    effects = fit.ranef()[group]
    predicted, columns = effects.values, effects.columns
    terms: list[Any] = [fit.model.random[t] for t in mine]
    codes = np.asarray(terms[0].group)
    Z = np.concatenate([term.Z for term in terms], 1)
    rest = fit.residuals() + np.sum(Z * predicted[codes], 1)
    root = np.ones(len(rest)) if fit.model.weights is None else np.sqrt(fit.model.weights)
    alone = np.full_like(predicted, np.nan)
    for level in range(len(predicted)):
        rows = np.flatnonzero(codes == level)
        solution, _, rank, _ = np.linalg.lstsq(Z[rows] * root[rows, None], rest[rows] * root[rows], rcond=None)
        if rank == Z.shape[1]:
            alone[level] = solution
    if coef:
        fixed = dict(zip(fit.coef_names, fit.coef, strict=True))
        shift = np.array([fixed.get(name, 0.0) for name in columns])
        alone, predicted = alone + shift, predicted + shift
    return Shrinkage(group, parts[mine[0]].levels, columns, alone, predicted)


def plot_shrinkage(fit: FitBase, group: str | None, coef: bool, ax: Any) -> Any:
    """See ``FitPlots.shrinkage``."""
    found = shrinkage(fit, group, coef)
    if not np.isfinite(found.alone).any():
        raise DataError(
            f"group: no level of {found.group!r} has rows enough to estimate {', '.join(found.columns)} from them alone"
        )
    q = len(found.columns)
    if q == 1:
        m = len(found.levels)
        axis = canvas.one_panel(ax, 4.4, max(1.2 + 0.15 * m, 2.4) if m <= LABELLED else 5.0)
        _draw_sorted(axis, found)
        return axis
    pairs = list(combinations(range(q), 2))
    axes = canvas.panels(len(pairs), ax, width=4.2 if q == 2 else 3.4, height=3.8 if q == 2 else 3.2)
    for axis, (i, j) in zip(axes, pairs, strict=True):
        _arrows(axis, found.alone[:, [i, j]], found.predicted[:, [i, j]])
        canvas.label(axis, found.columns[i], found.columns[j])
    _explain(axes[0], found)
    return canvas.squeezed(axes)


def _arrows(ax: Any, start: np.ndarray, end: np.ndarray) -> None:
    known = np.isfinite(start).all(1)
    few = int(known.sum()) <= ARROWS
    move = end[known] - start[known]
    if few:
        ax.quiver(*start[known].T, *move.T, angles="xy", scale_units="xy", scale=1.0, width=0.004, headwidth=4.5,
                  headlength=6.0, color=canvas.GREY, zorder=1)  # fmt: skip
    else:
        ax.plot(*np.stack([start[known], end[known]]).transpose(2, 0, 1), color="0.8", linewidth=0.5, zorder=1,
                rasterized=True)  # fmt: skip
    size = 4.5 if few else 2.0
    style: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": size, "color": canvas.INK}
    ax.plot(*start[known].T, **style, markerfacecolor="white", markeredgewidth=0.8, label="least squares")
    ax.plot(*end.T, **{**style, "color": canvas.ACCENT}, label="predicted", zorder=3)
    if not few:  # groups with next to no information are far away
        for k, limits in enumerate((ax.set_xlim, ax.set_ylim)):
            both = np.append(np.quantile(start[known, k], TRIMMED), end[:, k])
            gap = 0.05 * (np.ptp(both) or 1.0)
            limits(both.min() - gap, both.max() + gap)


def _draw_sorted(ax: Any, found: Shrinkage) -> None:
    order = np.argsort(found.predicted[:, 0], kind="stable")
    place = np.arange(len(order), dtype=float)
    start = np.column_stack([found.alone[order, 0], place])
    _arrows(ax, start, np.column_stack([found.predicted[order, 0], place]))
    few = len(order) <= LABELLED
    ax.set_yticks(place if few else [], [canvas.short(found.levels[i]) for i in order] if few else [])
    canvas.label(ax, found.columns[0], found.group if few else f"{found.group} ({len(order)} levels, sorted)")
    ax.tick_params(axis="y", length=0, labelsize=canvas.TICK - 1)
    _explain(ax, found)


def _explain(ax: Any, found: Shrinkage) -> None:
    lost = int((~np.isfinite(found.alone).all(1)).sum())
    title = f"{lost} levels with too few rows have no arrow" if lost else None
    canvas.legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, title=title, title_fontsize=canvas.TICK)
