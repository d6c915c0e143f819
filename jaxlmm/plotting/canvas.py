"""Axes to draw on, the columns and groups that are drawn against, and how everything looks.

Black, greys and one dark accent, lines told apart by style and marker. matplotlib is imported when something is drawn;
nothing global is changed: no style sheet, no rcParams.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from ..estimates.fitted import FitBase
from ..frames.columns import Column
from ..frames.owned import column_at

INK, GREY, PALE, ACCENT = "0.15", "0.55", "0.88", "#0b4f8a"
MARKERS, LINES = "osD^vP*X", ("-", "--", "-.", ":")
LABEL, TICK = 10, 9  # sizes of text in points, at the sizes that figures are made
COLUMNS = 3  # most panels side by side
MANY = 3000  # marks above which they are drawn as pixels in vector files


def _matplotlib(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"matplotlib.{module}")
    except ImportError as error:
        raise DataError("plot: needs matplotlib, which is not installed; pip install matplotlib") from error


def new_figure(width: float, height: float) -> Any:
    """A figure (inches) that pyplot does not know of."""
    return _matplotlib("figure").Figure(figsize=(width, height), layout="constrained")


def panels(
    count: int, ax: Any = None, columns: int = COLUMNS, width: float = 3.4, height: float = 2.8, **share: Any
) -> np.ndarray:  # fmt: skip
    """Axes (count,) for panels of a size, those given or those of a new figure of pyplot, `columns` side by side.

    Raises
    ------
    DataError
        Where there is nothing to draw, or `ax` has not as many axes as there are panels.
    """
    if not count:
        raise DataError("plot: there is nothing to draw")
    if ax is not None:
        given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(given) != count:
            raise DataError(f"ax: expected {count} axes, one a panel, found {len(given)}")
        return given
    columns = min(count, columns)
    lines = -(-count // columns)
    figure, axes = _matplotlib("pyplot").subplots(
        lines, columns, figsize=(width * columns, height * lines), layout="constrained", squeeze=False, **share
    )
    for spare in axes.ravel()[count:]:
        figure.delaxes(spare)
    return axes.ravel()[:count]


def one_panel(ax: Any = None, width: float = 4.6, height: float = 3.6) -> Any:
    """The axes given, or those of a new figure."""
    return panels(1, ax, width=width, height=height)[0]


def squeezed(axes: np.ndarray) -> Any:
    """What users get: the Axes where there is one, otherwise the array of them (as ``pyplot.subplots``)."""
    return axes[0] if axes.size == 1 else axes


def label(ax: Any, x: str = "", y: str = "", title: str = "") -> None:
    """Texts of a panel, and its plain frame."""
    ax.set_xlabel(x, fontsize=LABEL)
    ax.set_ylabel(y, fontsize=LABEL)
    if title:
        ax.set_title(title, fontsize=LABEL)
    ax.tick_params(labelsize=TICK)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def points(ax: Any, x: Any, y: Any, **style: Any) -> None:
    """Hollow circles, smaller and fainter the more there are."""
    n = len(np.atleast_1d(x))
    look: dict[str, Any] = {
        "s": float(np.clip(2400.0 / max(n, 1), 4.0, 22.0)),
        "linewidths": 0.7,
        "alpha": 1.0 if n < 400 else 0.6,
    }
    look |= {"facecolors": "none", "edgecolors": "0.35", "rasterized": n > MANY}
    ax.scatter(x, y, **(look | style))


def jitter(n: int, width: float) -> np.ndarray:
    """Shifts (n,) that spread points evenly over a width, the same every time: multiples of the golden section."""
    return width * (np.mod(np.arange(n) * 0.6180339887498949, 1.0) - 0.5)


def band(ax: Any, x: Any, lower: Any, upper: Any) -> None:
    """A pale band with thin edges that survive a copier."""
    ax.fill_between(x, lower, upper, color=PALE, linewidth=0, zorder=0)
    for limit in (lower, upper):
        ax.plot(x, limit, color=GREY, linewidth=0.7, linestyle="--", zorder=1)


def zero(ax: Any, at: float = 0.0, vertical: bool = False) -> None:
    """A thin reference line."""
    (ax.axvline if vertical else ax.axhline)(at, color="0.7", linewidth=0.8, zorder=0)


def legend(ax: Any, **options: Any) -> None:
    """A legend without a frame, where there is something to say."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(**({"fontsize": TICK, "frameon": False} | options))


def short(text: str, most: int = 18) -> str:
    """A label that fits beside an axis."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def name_places(ax: Any, places: np.ndarray, names: Sequence[str]) -> None:
    """Names of levels below a panel, upright where they are long."""
    texts = [short(name, max(10, 66 // len(names))) for name in names]
    ax.set_xticks(places, texts, rotation=90 if sum(map(len, names)) > 45 else 0)


def wrapped(text: str, most: int) -> str:
    """A name such as "cor_Days.(Intercept)|Subject" in lines of at most so many letters, where it can be broken."""
    lines = [""]
    for piece in re.findall(r"[.|:, ]?[^.|:, ]+|[.|:, ]", text):
        if lines[-1] and len(lines[-1]) + len(piece) > most:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def column_of(fit: FitBase, argument: str, name: str) -> Column:
    """A column of the data at the rows of the fit, which are those without missing values of the model's columns.

    Raises
    ------
    DataError
        For a name that is not there, and missing values.
    """
    try:
        column = column_at(fit, name)
    except DataError as error:
        raise DataError(f"{argument}: {error}") from None
    absent = column.missing is not None and int(column.missing[fit.frame.rows].sum())
    if absent:
        raise DataError(f"{argument}: column {name!r} has no value in {absent} of the rows used; choose a complete one")
    return column.take(fit.frame.rows)


def groups_of(fit: FitBase, argument: str, by: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes (n,) and labels of groups: a grouping factor of the model, by its label, or a column of the data."""
    for part, own in zip(fit.frame.parts, fit.model.random, strict=True):
        if part.group_label == by and part.levels and own.group is not None:
            return np.asarray(own.group), part.levels
    factor = column_of(fit, argument, by).as_factor()
    return factor.values, factor.levels


def chosen(argument: str, name: Any, choices: Sequence[str], default: str | None = None) -> str:
    """One of the `choices`; without a name the default, or the only one.

    Raises
    ------
    DataError
        Where there are none, several without a default, or others; it names them.
    """
    if not choices:
        raise DataError(f"{argument}: the model has none to choose from")
    listed = ", ".join(repr(c) for c in choices[:12]) + (", ..." if len(choices) > 12 else "")
    if name is None:
        if default is None and len(choices) > 1:
            raise DataError(f"{argument}: the model has several, choose one of {listed}")
        return default or choices[0]
    if name not in choices:
        raise DataError(f"{argument}: found {name!r}, expected one of {listed}")
    return str(name)
