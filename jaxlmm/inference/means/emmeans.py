"""Estimated marginal means and slopes: averages over a reference grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...distributions import check_level
from ...errors import DataError
from ...estimates.fitted import FitBase
from ..hypotheses.grid import Grid, reference_grid
from ..small_sample.degrees import of_effect
from .scale import Scale
from .table import EMMeans, text_of, type_of
from .weights import Weights, weighted


def emmeans(
    fit: FitBase, specs: str | Sequence[str], df: str = "satterthwaite", at: Mapping[str, Any] | None = None,
    weights: Weights = "equal", level: float = 0.95, type: str = "link", bias_adjust: bool | float = False,
    **options: Any,
) -> EMMeans:  # fmt: skip
    """Estimated marginal means (least-squares means): predictions at a reference grid, averaged over other factors.

    Parameters
    ----------
    fit : a fit
    specs : predictors and, behind a bar, those within whose levels means are compared: ``"ARMCD | AVISIT"``,
        ``"recipe * temperature"``; a list of names; ``"1"`` for one mean
    df, options : see ``Fit.test``
    at : values of predictors in place of all levels of factors and the means of numbers
    weights : "equal" for combinations of the other factors, those that exist where a factor is nested in others;
        "proportional" to how often these occur in the data; or "cells": as they occur at each combination of `specs`.
        "om": proportional in all rows with values of the predictors, those without a response too (SAS's OBSMARGINS).
        Or numbers for the levels of factors, ``{"sex": {"f": 0.6, "m": 0.4}}``, whose products are taken; levels of
        other factors weigh the same
    level : of the intervals
    type : "link", the scale of the model; "response", that of the response inside ``log(y)``, ``sqrt(y)`` and the like:
        estimates and limits are transformed back, errors by the delta method
    bias_adjust : with "response", means of the response instead of medians, for the standard deviation around the fixed
        part, or a given one; see `Scale.corrected`

    Raises
    ------
    DataError
        For names that are not predictors, unknown levels, words and weights, and a response without a known inverse.

    Notes
    -----
    Searle, Speed & Milliken (1980), Population marginal means in the linear model, American Statistician 34, 216-221.
    The grid is that of R's emmeans: numbers with one or two values count as factors.
    """
    names, by = _specs(specs)
    every = (*names, *by)
    grid, rule, of = weighted(fit, reference_grid(fit, at, every), weights, every)
    title, scale = f"Estimated marginal means{of}", type_of(fit, type, bias_adjust)
    return _averaged(fit, grid, names, by, df, rule, level, options, title, "mean", *scale)


def emtrends(
    fit: FitBase, var: str, specs: str | Sequence[str] = "1", df: str = "satterthwaite",
    at: Mapping[str, Any] | None = None, weights: Weights = "equal", level: float = 0.95, type: str = "link",
    **options: Any,
) -> EMMeans:  # fmt: skip
    """Slopes of a numeric predictor, averaged like means: the derivative of the fixed part with respect to it.

    Parameters
    ----------
    var : the predictor; the slope is at its mean, or at ``at={var: value}``
    type : "response" for the ratio by which one more multiplies a response in a logarithm, the odds of one in a logit
    others : see `emmeans`
    """
    names, by = _specs(specs)
    every = (*names, *by)
    grid, rule, of = weighted(fit, reference_grid(fit, at, every, slope=var), weights, every, var)
    scale, note = type_of(fit, type)
    if scale is not None and scale.differences is None:
        raise DataError(f"type: slopes of {fit.frame.response} are no slopes of the response; use fit.slopes(type=...)")
    shown = scale and scale.differences
    return _averaged(fit, grid, names, by, df, rule, level, options, f"Slopes of {var}{of}", "slope", shown, note)


def _averaged(
    fit: FitBase, grid: Grid, names: tuple[str, ...], by: tuple[str, ...], df: str, weights: str, level: float,
    options: dict[str, Any], title: str, what: str, shown: Scale | None, scale: list[str],
) -> EMMeans:  # fmt: skip
    every = (*names, *by)
    cells = grid.cells(every)
    there = np.unique(cells[grid.exists > 0])
    average = grid.averages(every, weights)[there]
    unknown = ~np.isfinite(average).all(axis=1)
    average[unknown] = 0.0
    functions, shift = average @ np.column_stack([grid.X, grid.extra]), average @ grid.offset
    functions[unknown] = np.nan
    first = [int(np.flatnonzero((cells == c) & (grid.exists > 0))[0]) for c in there]
    codes = {name: grid.codes[first, list(grid.values).index(name)] for name in every}
    labels = {name: [grid.values[name][c] for c in codes[name]] for name in every} or {what: ["overall"]}
    others = [n for n in grid.values if n not in every]
    over = [n for n in others if len(grid.values[n]) > 1]
    fixed = [f"{n} = {text_of(grid.values[n][0])}" for n in others if len(grid.values[n]) == 1]
    note = [f"averaged over {', '.join(over)} ({weights} weights)"] * bool(over)
    note += [f"at {', '.join(fixed)}"] * bool(fixed)
    note += [f"{inner} nested in {', '.join(outer)}: cells that there are" for inner, outer in grid.nests.items()]
    tests = fit.wald(df=df, **options)
    if df == "between-within-sas" and what == "mean" and (of := of_effect(fit, every)) is not None:
        tests = replace(tests, _row_df=of[0], _joint=of[1])
    return EMMeans(
        tests, labels, functions, shift, by, check_level(level), "none", title, fit.frame.kind,
        "; ".join(note + scale), shown=shown,
    )  # fmt: skip


def _specs(specs: str | Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names before and behind the bar."""
    if not isinstance(specs, str):
        return tuple(dict.fromkeys(str(s) for s in specs)), ()
    sides = specs.strip().removeprefix("~").split("|")
    if len(sides) > 2:
        raise DataError(f"specs: found {specs!r}, expected at most one bar, such as 'arm | visit'")
    found = []
    for side in sides:
        for sign in "*:,":
            side = side.replace(sign, "+")
        names = [name.strip().strip("`") for name in side.split("+")]
        if not all(names):
            raise DataError(f"specs: found {specs!r}, expected names of predictors such as 'arm | visit'")
        found.append(tuple(dict.fromkeys(n for n in names if n != "1")))
    first, second = found[0], found[1] if len(found) > 1 else ()
    if set(first) & set(second):
        raise DataError(f"specs: found {specs!r} with a name on both sides of the bar")
    return first, second
