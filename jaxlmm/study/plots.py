"""Pictures of results, as matplotlib's Figures; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..distributions import t_quantile
from ..errors import DataError
from ..plotting import MARKERS, new_figure
from .estimators import ESTIMATE, Row
from .measures import BAND, check_measure
from .results import Performance, Results
from .sizing import SampleSize

PANELS = 4  # zip plots side by side
LINES = ("-", "--", ":", "-.")
SHOWN = 100_000  # intervals of a zip plot that are read
TITLES = {
    "type1_error": "type-I error", "rejection": "rejections", "model_se": "model SE", "empirical_se": "empirical SE",
    "mse": "MSE", "relative_error_se": "relative error of the SE, %",
}  # fmt: skip


def _rows(results: Results, target: str | None, measure: np.ndarray) -> list[int]:
    """Rows of a target that have the measure in some cell."""
    target = target or results.rows[0].target
    found = [k for k, row in enumerate(results.rows) if row.target == target and not np.isnan(measure[:, k]).all()]
    if not found:
        raise DataError(f"target: there is nothing to draw of {target!r}")
    return found


def label_of(row: Row) -> str:
    """Estimator and test."""
    return _plain(row.estimator if row.test == ESTIMATE else f"{row.estimator}, {row.test}")


def cell_label(results: Results, cell: int) -> str:
    """The factors of a cell, those that vary."""
    return ", ".join(f"{f}={_short(results.cells[cell][f])}" for f in _varying(results)) or "the only cell"


def _varying(results: Results) -> list[str]:
    return [f for f in results.factors if len({str(c[f]) for c in results.cells}) > 1]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else _plain(str(value))


def _plain(text: str) -> str:
    """Text in which dollars do not begin formulas."""
    return text.replace("$", r"\$")


def plot_curve(summary: Performance, factor: str, measure: str = "power", target: str | None = None) -> Any:
    """A measure over a numeric factor, with Monte Carlo bars: a panel for each combination of the other factors.

    Returns
    -------
    matplotlib's Figure
    """
    check_measure("measure", measure)
    results, value, mcse = summary.results, summary.value[measure], summary.mcse[measure]
    if factor not in results.factors:
        raise DataError(f"factor: found {factor!r}, expected one of {', '.join(results.factors) or '(no factors)'}")
    rows = _rows(results, target, value)
    others = [f for f in _varying(results) if f != factor]
    panels: dict[tuple[str, ...], list[int]] = {}
    for c, cell in enumerate(results.cells):
        panels.setdefault(tuple(f"{f}={_short(cell[f])}" for f in others), []).append(c)
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    figure = new_figure(3.6 * columns + 1.8, 3.0 * lines + 0.3)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for ax, (title, cells) in zip(axes, panels.items(), strict=False):
        cells = sorted(cells, key=lambda c: results.cells[c][factor])
        x = np.array([results.cells[c][factor] for c in cells], float)
        gap = 0.004 * (np.ptp(x) or 1.0)
        for i, k in enumerate(rows):
            shift = (i - 0.5 * (len(rows) - 1)) * gap  # bars beside each other
            ax.errorbar(x + shift, value[cells, k], BAND * mcse[cells, k], marker=MARKERS[i % len(MARKERS)],
                        markersize=4, linewidth=1.2, capsize=2, label=label_of(results.rows[k]))  # fmt: skip
        ax.set_title(", ".join(title), fontsize=10)
        ax.set_xlabel(factor)
        if measure == "type1_error":
            _band(ax, summary.alpha, summary.n[measure][cells][:, rows])
    if measure in ("power", "type1_error", "rejection"):
        axes[0].set_ylim(bottom=0.0)  # the panels share it
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax in axes[::columns]:
        ax.set_ylabel(TITLES.get(measure, measure))
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _end(grid: np.ndarray, count: int) -> None:
    """Panels beyond the last one are not there, and those above them have the numbers of the axis."""
    axes = grid.ravel()
    for spare in axes[count:]:
        spare.set_axis_off()
    for ax in axes[max(count - grid.shape[1], 0) : count]:
        ax.tick_params(labelbottom=True)


def _band(ax: Any, nominal: float, n: np.ndarray, vertical: bool = False) -> None:
    """Where a true rate of `nominal` is estimated 95 times of a hundred."""
    count = np.nanmin(np.where(n > 0, n, np.nan)) if np.any(n > 0) else np.nan
    half = BAND * np.sqrt(nominal * (1.0 - nominal) / count)
    (ax.axvspan if vertical else ax.axhspan)(nominal - half, nominal + half, color="0.9", zorder=0)
    (ax.axvline if vertical else ax.axhline)(nominal, color="0.6", linewidth=0.8, zorder=0)


def _shown(summary: Performance, measure: str, target: str | None) -> tuple[Results, np.ndarray, list[int], list[int]]:
    """The results, values of a measure, the rows of a target that have it, and the cells that do."""
    check_measure("measure", measure)
    results, value = summary.results, summary.value[measure]
    rows = _rows(results, target, value)
    return results, value, rows, [c for c in range(len(results.cells)) if not np.isnan(value[c, rows]).all()]


def plot_coverage(summary: Performance, target: str | None = None, measure: str = "coverage") -> Any:
    """Coverage (or type-I error) in every cell with Monte Carlo bars; the band is where the nominal rate would fall.

    Returns
    -------
    matplotlib's Figure
    """
    results, value, rows, cells = _shown(summary, measure, target)
    nominal = summary.level if measure == "coverage" else summary.alpha
    figure = new_figure(6.8, 0.9 + 0.16 * len(cells) * (len(rows) + 1.5))
    ax = figure.add_subplot()
    _band(ax, nominal, summary.n[measure][np.ix_(cells, rows)], vertical=True)
    for i, k in enumerate(rows):
        y = np.arange(len(cells)) + (i - 0.5 * (len(rows) - 1)) / (len(rows) + 1.5)
        bars = BAND * summary.mcse[measure][cells, k]
        ax.errorbar(value[cells, k], y, xerr=bars, linestyle="", capsize=2,
                    marker=MARKERS[i % len(MARKERS)], markersize=4, label=label_of(results.rows[k]))  # fmt: skip
    ax.set_yticks(np.arange(len(cells)), [cell_label(results, c) for c in cells])
    ax.set_ylim(len(cells) - 0.4, -0.6)
    ax.set_xlabel(TITLES.get(measure, measure))
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def plot_lollipop(summary: Performance, measure: str = "coverage", target: str | None = None) -> Any:
    """A measure of every method with Monte Carlo bars, a panel for each cell; stems begin at what it should be.

    That is the level for coverage, alpha for the type-I error, with the band in which 95 of a hundred estimates of it
    fall, and otherwise 0. Methods have their names beside them, in every picture the same place and colour.

    Returns
    -------
    matplotlib's Figure
    """
    results, value, rows, cells = _shown(summary, measure, target)
    nominal = {"coverage": summary.level, "type1_error": summary.alpha}.get(measure)
    columns = min(len(cells), PANELS)
    lines, y = -(-len(cells) // columns), np.arange(len(rows))
    widest = max(len(label_of(results.rows[k])) for k in rows)
    figure = new_figure(2.1 * columns + 0.085 * widest + 0.4, (0.26 * len(rows) + 0.75) * lines + 0.3)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax, c in zip(grid.ravel(), cells, strict=False):
        bars = BAND * summary.mcse[measure][c, rows]
        ax.hlines(y, nominal or 0.0, value[c, rows], color=[f"C{i % 10}" for i in y], linewidth=1.2)
        for i, k in enumerate(rows):
            ax.errorbar(
                value[c, k], i, xerr=bars[i], linestyle="", marker="o", markersize=5, capsize=2, color=f"C{i % 10}"
            )
        if nominal is None:
            ax.axvline(0.0, color="0.6", linewidth=0.8, zorder=0)
        else:
            _band(ax, nominal, summary.n[measure][c, rows], vertical=True)
        ax.set_title(cell_label(results, c), fontsize=9)
        ax.tick_params(labelsize=8)
    _end(grid, len(cells))
    for ax in grid.ravel()[max(len(cells) - columns, 0) : len(cells)]:
        ax.set_xlabel(TITLES.get(measure, measure))
    grid[0, 0].set_yticks(y, [label_of(results.rows[k]) for k in rows])
    grid[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    return figure


def plot_zip(
    results: Results, cell: Any = 0, target: str | None = None, rows: Sequence[int] | None = None, level: float = 0.95
) -> Any:  # fmt: skip
    """Zip plot (Morris, White & Crowther 2019): intervals by the centile of their distance from the truth.

    Those above the dashed line would not cover if coverage were nominal; those that do not cover are drawn dark.

    Returns
    -------
    matplotlib's Figure
    """
    cell = results.place(cell)
    truth, target = results.truth[cell], target or results.rows[0].target
    if rows is None:
        rows = [k for k, row in enumerate(results.rows) if row.target == target and row.test not in (ESTIMATE, "lrt")]
    if not rows:
        raise DataError(f"target: there is nothing to draw of {target!r}")
    found: list[list[np.ndarray]] = [[] for _ in rows]
    read = 0
    for task, part in results.parts(cell):
        for i, k in enumerate(rows):
            half = t_quantile(0.5 * (1.0 + level), part["df"][k]) * part["se"][k]
            found[i].append(np.stack([part["estimate"][k], half, part["se"][k]]))
        read += task.hi - task.lo
        if read >= SHOWN:
            break
    columns = min(len(rows), PANELS)
    lines = -(-len(rows) // columns)
    figure = new_figure(2.6 * columns + 0.8, 3.9 * lines + 0.3)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    axes = grid.ravel()[: len(rows)]
    _end(grid, len(rows))
    widest = 0.0
    for ax, k, parts in zip(axes, rows, found, strict=True):
        estimate, half, se = np.concatenate(parts, 1)
        good = np.isfinite(estimate) & np.isfinite(half) & (se > 0)
        estimate, half, se = estimate[good], half[good], se[good]
        if np.isnan(truth[k]) or not len(se):
            raise DataError(f"cell: the truth of {target!r} is not known there, or no data set has an interval")
        order = np.argsort(np.abs(estimate - truth[k]) / se, kind="stable")
        centile = 100.0 * (np.arange(len(order)) + 0.5) / len(order)
        lower, upper = (estimate - half)[order], (estimate + half)[order]
        covers = (lower <= truth[k]) & (truth[k] <= upper)
        for chosen, color in ((covers, "#9ecae1"), (~covers, "#c44e52")):
            ax.hlines(centile[chosen], lower[chosen], upper[chosen], color=color, linewidth=0.6, rasterized=True)
        widest = max(widest, float(np.quantile(np.abs(np.stack([lower, upper]) - truth[k]), 0.995)))
        ax.axvline(truth[k], color="black", linewidth=0.8)
        ax.axhline(100.0 * level, color="black", linewidth=0.8, linestyle="--")
        error = np.sqrt(covers.mean() * (1.0 - covers.mean()) / len(covers))
        ax.set_title(f"{label_of(results.rows[k])}\n{100 * covers.mean():.1f} ({100 * error:.1f}) % cover", fontsize=9)
        ax.set_xlabel(target)
    axes[0].set_xlim(truth[rows[0]] - widest, truth[rows[0]] + widest)
    axes[0].set_ylim(0.0, 100.0)
    for ax in grid[:, 0]:
        ax.set_ylabel("centile of |z|")
    figure.suptitle(cell_label(results, cell), fontsize=10)
    return figure


def plot_nested_loop(summary: Performance, measure: str = "coverage", target: str | None = None) -> Any:
    """Nested loop plot (Ruecker & Schwarzer 2014): a measure over all cells in order, the factors as steps below.

    Returns
    -------
    matplotlib's Figure
    """
    results, value, rows, _ = _shown(summary, measure, target)
    factors = _varying(results)
    count = len(results.cells)
    edges = np.arange(count + 1) - 0.5
    figure = new_figure(max(6.0, 0.16 * count + 3.5), 3.2 + 0.55 * len(factors))
    axes = figure.subplots(1 + len(factors), 1, sharex=True, squeeze=False,
                           height_ratios=[5.0, *[0.8] * len(factors)])[:, 0]  # fmt: skip
    for i, k in enumerate(rows):
        axes[0].stairs(value[:, k], edges, baseline=None, color=f"C{i}", linewidth=1.6, label=label_of(results.rows[k]),
                       linestyle=LINES[i % len(LINES)])  # fmt: skip
    if measure in ("coverage", "type1_error"):
        nominal = summary.level if measure == "coverage" else summary.alpha
        _band(axes[0], nominal, summary.n[measure][:, rows])
    axes[0].set_ylabel(TITLES.get(measure, measure))
    for ax, factor in zip(axes[1:], factors, strict=True):
        levels = list(dict.fromkeys(_short(c[factor]) for c in results.cells))
        steps = np.array([levels.index(_short(c[factor])) for c in results.cells])
        ax.stairs(steps, edges, baseline=None, color="0.3", linewidth=1.2)
        ax.set_yticks(range(len(levels)), levels, fontsize=7)
        ax.set_ylim(-0.5, len(levels) - 0.5)
        ax.set_ylabel(factor, rotation=0, ha="right", va="center", fontsize=9)
    axes[-1].set_xticks([])
    axes[-1].set_xlim(edges[0], edges[-1])
    axes[-1].set_xlabel("cells")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def plot_sample_size(found: SampleSize) -> Any:
    """The sizes tried with Monte Carlo bars, the fitted curve with its band, and the root.

    Returns
    -------
    matplotlib's Figure
    """
    figure = new_figure(5.2, 3.6)
    ax = figure.add_subplot()
    power = found.rejected / found.replicates
    error = np.sqrt(power * (1.0 - power) / found.replicates)
    grid = np.linspace(found.sizes.min(), found.sizes.max(), 200)
    curve, se = found.fitted(grid)
    ax.fill_between(grid, curve - BAND * se, curve + BAND * se, color="C0", alpha=0.2, linewidth=0)
    ax.plot(grid, curve, color="C0", linewidth=1.2)
    ax.errorbar(found.sizes, power, BAND * error, linestyle="", marker="o", markersize=4, capsize=2, color="0.2")
    ax.axhline(found.power, color="0.6", linewidth=0.8)
    ax.axvspan(found.estimate - BAND * found.error, found.estimate + BAND * found.error, color="C1", alpha=0.25)
    ax.axvline(found.estimate, color="C1", linewidth=1.0)
    ax.set_xlabel(found.factor)
    ax.set_ylabel("power")
    ax.set_title(f"{found.factor} = {found.n}: root {found.estimate:.1f}, error {found.error:.1f}", fontsize=10)
    return figure
