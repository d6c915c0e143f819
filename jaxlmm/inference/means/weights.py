"""Weights of an average over the reference grid that are not those of the rows used: SAS's OM, and given ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...arguments import shown
from ...errors import DataError
from ...estimates.fitted import FitBase
from ...frames.owned import column_at
from ..hypotheses.grid import WEIGHTS, Grid, count_cells

Weights = str | Mapping[str, Mapping[Any, float]]


def weighted(
    fit: FitBase, grid: Grid, weights: Weights, names: Sequence[str], slope: str | None = None
) -> tuple[Grid, str, str]:
    """The grid with the counts that `weights` means, the rule by which it is averaged, and what titles say of it."""
    if isinstance(weights, Mapping):
        return dataclasses.replace(grid, counts=_given(grid, weights, names)), "proportional", ", given weights"
    if not isinstance(weights, str) or weights not in WEIGHTS:
        expected = f"one of {', '.join(WEIGHTS)}, or numbers such as {{'sex': {{'f': 0.6, 'm': 0.4}}}}"
        raise DataError(f"weights: found {shown(weights)}, expected {expected}")
    if weights == "om":
        return dataclasses.replace(grid, counts=_observed(fit, grid, slope)), "proportional", ", observed margins"
    return grid, weights, ""


def _observed(fit: FitBase, grid: Grid, slope: str | None) -> np.ndarray:
    """Rows (their weights) of all data in the cell of each combination (g,), those without a response too."""
    whole = {name: column_at(fit, name) for name in grid.values}
    w = fit.call.weights
    weight = column_at(fit, w).values if isinstance(w, str) else np.ones(fit.frame.n_input) if w is None else w
    weight = np.asarray(weight, np.float64)
    gaps = [column.missing for column in whole.values() if column.missing is not None]
    rows = np.flatnonzero(~np.logical_or.reduce([~(weight > 0), *gaps]))
    return count_cells(fit, {name: c.take(rows) for name, c in whole.items()}, grid, weight[rows], slope)


def _given(grid: Grid, weights: Mapping[str, Mapping[Any, float]], names: Sequence[str]) -> np.ndarray:
    """Products (g,) of the given weights of levels; levels of factors without any weigh the same."""
    out = np.ones(len(grid.codes))
    for name, margin in weights.items():
        others = [n for n in grid.values if n not in names]
        if name not in others:
            listed = ", ".join(others) or "none"
            raise DataError(f"weights: found {name!r}, expected predictors that are averaged over: {listed}")
        if not isinstance(margin, Mapping):
            raise DataError(f"weights: found {margin!r} for {name!r}, expected a number for each level, by its name")
        levels, found = [str(v) for v in grid.values[name]], {str(k): v for k, v in margin.items()}
        if set(found) != set(levels):
            raise DataError(f"weights: found {', '.join(found)} for {name!r}, expected its levels {', '.join(levels)}")
        each = np.array([found[level] for level in levels], np.float64)
        if not (np.all(np.isfinite(each)) and np.all(each >= 0) and each.sum() > 0):
            raise DataError(f"weights: found {each.tolist()} for {name!r}, expected positive numbers")
        out *= each[grid.codes[:, list(grid.values).index(name)]]
    return out
