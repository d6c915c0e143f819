"""Measures of performance as they are printed."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..frames.tables import Table

SHOWN = {
    "mean": ("mean", 1.0, 4),
    "bias": ("bias", 1.0, 4), "empirical_se": ("empirical SE", 1.0, 4), "model_se": ("model SE", 1.0, 4),
    "relative_error_se": ("SE error %", 1.0, 2), "coverage": ("coverage %", 100.0, 2),
    "type1_error": ("type-I error %", 100.0, 2), "power": ("power %", 100.0, 2),
    "rejection": ("rejected %", 100.0, 2), "mse": ("MSE", 1.0, 4), "converged": ("converged %", 100.0, 2),
    "singular": ("singular %", 100.0, 2), "usable": ("with result %", 100.0, 2),
}  # fmt: skip


def performance_table(summary: Any, target: str) -> Table:
    """Measures of a target, Monte Carlo standard errors in brackets: a row a cell, estimator and test."""
    results = summary.results
    rows = [k for k, row in enumerate(results.rows) if row.target == target]
    shown = [m for m in SHOWN if not np.isnan(summary.value[m][:, rows]).all()]
    header = (*results.factors, "estimator", "test", *(SHOWN[m][0] for m in shown), "data sets")
    lines, begun = [], {task.cell for task in results.tasks}
    for c, cell in enumerate(results.cells):
        for k in rows:
            if c in begun and not summary.n["usable"][c, k]:
                continue  # the estimator has no such target
            numbers = [_number(summary.value[m][c, k], summary.mcse[m][c, k], *SHOWN[m][1:]) for m in shown]
            count = f"{int(summary.n['usable'][c, k]):,}"
            words = [str(cell[f]) for f in results.factors]
            lines.append((*words, results.rows[k].estimator, results.rows[k].test, *numbers, count))
    level = f"intervals of {100 * summary.level:g} %, tests at {100 * summary.alpha:g} %"
    note = f"Monte Carlo standard errors in brackets; {level}. A rate of 0 or 100 % has an error of 0 by its formula."
    return Table(target, header, tuple(lines), labels=len(results.factors) + 2, note=note)


def _number(value: float, error: float, factor: float, digits: int) -> str:
    return "" if np.isnan(value) else f"{factor * value:.{digits}f} ({factor * error:.{digits}f})"


def frame_table(frame: Any, note: str = "") -> Table:
    """A frame as it is."""
    names = list(frame) if isinstance(frame, dict) else list(frame.columns)
    lines = zip(*(map(str, frame[name]) for name in names), strict=True)
    return Table("", tuple(names), tuple(lines), labels=len(names) - 1, note=note)
