"""Estimated means over a predictor, and coefficients, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..estimates.fitted import FitBase
from ..frames.columns import number_label, read_column
from ..inference.means.table import EMMeans
from . import canvas
from .canvas import column_of

PLACES = 61  # of a curve
QUARTILES = (0.25, 0.5, 0.75)  # where a numeric `by` is held


class Means(NamedTuple):
    """Means over a predictor: its values, labels of a factor or None, and of each level of `by` the rows (m,).

    `own` are the values or labels as the means have them; `of` the response where they are on its scale.
    """

    x: np.ndarray
    labels: tuple[str, ...] | None
    groups: tuple[str, ...]
    estimate: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    own: tuple[Any, ...] = ()
    of: str = ""


def means(
    fit: FitBase, term: str, by: str | None, at: Mapping[str, Any] | None, level: float, df: str,
    options: Mapping[str, Any],
) -> Means:  # fmt: skip
    """Estimated marginal means over a predictor, within each level of `by`; arrays (groups, m)."""
    at = dict(at or {})
    if by == term:
        raise DataError(f"by: found {by!r}, which is the predictor of the picture; choose another")
    names = [term] if by is None else [term, by]
    if by is not None and by not in at:
        at |= _held(fit, by)
    numeric = False
    if term not in at and len(fit.emmeans([term], df="asymptotic", at=at).labels[term]) == 1:
        column = column_of(fit, "term", term)
        numeric = column.is_number and np.ptp(column.values) > 0
        if numeric:
            at[term] = np.linspace(column.values.min(), column.values.max(), PLACES)
    elif term in at:
        numeric = column_of(fit, "term", term).is_number
    found = fit.emmeans(names, df=df, at=at, level=level, **options)
    frame = found.frame()
    own = list(dict.fromkeys(found.labels[term]))
    groups = list(dict.fromkeys(found.labels[by])) if by else [None]
    out = np.full((3, len(groups), len(own)), np.nan)
    numbers = np.array([np.asarray(frame[name], np.float64) for name in ("estimate", "lower", "upper")])
    for i, value in enumerate(found.labels[term]):
        out[:, groups.index(found.labels[by][i] if by else None), own.index(value)] = numbers[:, i]
    labels = tuple("" if by is None else f"{by} = {_text(g)}" for g in groups)
    of = found.shown.of if found.shown else ""
    x = np.asarray(own, np.float64) if numeric else np.arange(len(own), dtype=float)
    return Means(x, None if numeric else tuple(map(_text, own)), labels, out[0], out[1], out[2], tuple(own), of)


def _held(fit: FitBase, by: str) -> dict[str, Any]:
    """Quartiles of a numeric column that the reference grid would hold at its mean."""
    if len(fit.emmeans([by], df="asymptotic").labels[by]) > 1:
        return {}
    column = column_of(fit, "by", by)
    return {by: np.unique(np.quantile(column.values, QUARTILES))} if column.is_number else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else number_label(float(f"{value:.4g}"))


def plot_means(
    fit: FitBase, term: str, by: str | None, at: Mapping[str, Any] | None, level: float, df: str, data: bool,
    options: Mapping[str, Any], ax: Any,
) -> Any:  # fmt: skip
    """See ``FitPlots.effects``."""
    found = means(fit, term, by, at, level, df, options)
    ax = canvas.one_panel(ax, 4.8, 3.6)
    count = len(found.groups)
    if data:
        _draw_data(ax, fit, term, found)
    for g, name in enumerate(found.groups):
        style = _style(g)
        limits = found.lower[g], found.upper[g]
        if found.labels is None:
            ax.fill_between(found.x, *limits, color=style["color"], alpha=0.13, linewidth=0)
            for limit in limits:
                ax.plot(found.x, limit, color=style["color"], linewidth=0.5, linestyle=style["linestyle"])
            ax.plot(found.x, found.estimate[g], color=style["color"], linestyle=style["linestyle"], linewidth=1.7,
                    label=name or None)  # fmt: skip
        else:
            shift = (g - 0.5 * (count - 1)) * min(0.12, 0.6 / count)
            error = np.abs(np.stack(limits) - found.estimate[g])
            ax.errorbar(found.x + shift, found.estimate[g], error, capsize=3, markersize=5, linewidth=1.1,
                        elinewidth=1.1, **{**style, "linestyle": style["linestyle"] if count > 1 else ""},
                        label=name or None)  # fmt: skip
    if found.labels is not None:
        canvas.name_places(ax, found.x, found.labels)
        ax.set_xlim(-0.5, len(found.x) - 0.5)
    of = found.of or fit.frame.response
    canvas.label(ax, term, f"mean of {of}")
    canvas.legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(count, 3))
    return ax


def _style(g: int) -> dict[str, Any]:
    colors = (canvas.ACCENT, "0.1", "0.45", "#a0522d")
    return {
        "color": colors[g % len(colors)], "linestyle": canvas.LINES[g % len(canvas.LINES)],
        "marker": canvas.MARKERS[g % len(canvas.MARKERS)],
    }  # fmt: skip


def _draw_data(ax: Any, fit: FitBase, term: str, found: Means) -> None:
    column = column_of(fit, "term", term)
    y = fit.model.y
    if found.labels is None:
        canvas.points(ax, column.values, y, edgecolors="0.6", zorder=0)
        return
    shown = read_column(term, column.at(found.own, np.arange(len(found.own)))).as_factor()
    place = np.append(np.argsort(shown.values), -1)[column.recode(shown.levels)]
    here = place >= 0
    canvas.points(ax, place[here] + canvas.jitter(len(y), 0.5)[here], y[here], edgecolors="0.7", s=6.0, zorder=0)


def plot_estimates(found: EMMeans, ax: Any) -> Any:
    """See ``EMMeans.plot``: estimates and intervals, one-sided ones to the edge; the null where rows are compared."""
    frame = found.frame()
    middle, *limits = (np.asarray(frame[name], np.float64) for name in ("estimate", "lower", "upper"))
    there = np.concatenate([middle, *limits])
    there = there[np.isfinite(there)]
    if not there.size:
        raise DataError("plot: there is no estimate to be drawn")
    reach = np.ptp(there) or 1.0
    lower, upper = (np.clip(x, there.min() - reach, there.max() + reach) for x in limits)
    names = [" ".join(map(_text, row)) for row in zip(*found.labels.values(), strict=True)]
    ax, y = canvas.one_panel(ax, 4.8, 0.9 + 0.3 * len(names)), np.arange(len(names))
    if found.title == "Contrasts" or found.null:
        null = found.null if found.shown is None else float(found.shown(np.array(found.null)))
        ax.axvline(null, color="0.6", linewidth=0.8, zorder=0)
    ax.hlines(y, lower, upper, color=canvas.INK, linewidth=1.4)
    ax.plot(middle, y, linestyle="", marker="o", markersize=5, color=canvas.ACCENT)
    ax.set_ylim(len(names) - 0.4, -0.6)
    what = "estimate" if found.shown is None else found.shown.header.lower()
    canvas.label(ax, f"{what}, {100 * found.level:g} % interval")
    ax.set_yticks(y, [canvas.short(name, 40) for name in names])
    return ax


def plot_coefficients(
    fit: FitBase, which: Sequence[str] | None, level: float, df: str, options: Mapping[str, Any], ax: Any
) -> Any:  # fmt: skip
    """See ``FitPlots.coef``."""
    if which is None:
        names = [n for n in fit.coef_names if n != "(Intercept)"]
    else:
        names = [which] if isinstance(which, str) else list(which)
    names = names or list(fit.coef_names)
    unknown = [n for n in names if n not in fit.coef_names]
    if unknown:
        raise DataError(f"which: found {unknown[0]!r}, expected some of {', '.join(fit.coef_names)}")
    by = fit.wald(df, **options)
    rows = by.rows(np.eye(len(fit.coef)))
    limits = by.interval(rows, level)
    place = np.array([fit.coef_names.index(n) for n in names])
    ax = canvas.one_panel(ax, 4.8, 0.9 + 0.3 * len(names))
    y = np.arange(len(names))
    canvas.zero(ax, vertical=True)
    ax.hlines(y, limits[place, 0], limits[place, 1], color=canvas.INK, linewidth=1.4)
    ax.plot(rows.estimate[place], y, linestyle="", marker="o", markersize=5, color=canvas.ACCENT)
    ax.set_ylim(len(names) - 0.4, -0.6)
    canvas.label(ax, f"coefficient, {100 * level:g} % interval")
    ax.set_yticks(y, [canvas.short(name, 40) for name in names])
    return ax
