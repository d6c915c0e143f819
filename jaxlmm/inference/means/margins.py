"""Predictions, comparisons and slopes averaged over rows: what a model says about the people in the data.

Each is an average over rows of the fixed part, of its change when a predictor changes, or of its derivative: linear
functions of the coefficients, whose standard errors and degrees of freedom are those of `Wald`. Random effects are at
zero; in a linear model that is the mean over them too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...design.encoding import expression_columns, side_columns
from ...distributions import check_level
from ...errors import DataError
from ...estimates.fitted import FitBase
from ...frames.columns import Column, extend_rows, open_table
from ..hypotheses.grid import coded_columns, columns_used, derivative, evaluate, extra, listed_values, reference_grid
from .scale import Scale
from .table import EMMeans, text_of, type_of

Names = str | Sequence[str] | None
Columns = dict[str, Any]  # arrays of numbers, columns of factors
ROW = "row"  # by=, an average for each row: none
CHANGES = ("reference", "pairwise", "sequential", "sd")


@dataclass(frozen=True, eq=False)
class _AveragedRows:
    """The rows that are averaged over.

    Attributes
    ----------
    columns : of the predictors and offsets;  n : rows, those without missing values
    groups : (n,) number of the average that a row counts in;  count : of averages;  labels : what these are, by name
    offset : (n,) that of the fit where it was given as an array, else None
    kept : (n,) which rows of the frame they are
    note : how many rows have missing values, or empty
    """

    columns: Columns
    n: int
    groups: np.ndarray
    count: int
    labels: dict[str, list[Any]]
    offset: np.ndarray | None
    kept: np.ndarray
    note: str = ""

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Means (count, c) of rows (n, c), NaN where there is no row."""
        sums = np.zeros((self.count, values.shape[1]))
        np.add.at(sums, self.groups, values)
        with np.errstate(invalid="ignore"):
            return sums / np.bincount(self.groups, minlength=self.count)[:, None]


def predictions(
    fit: FitBase, by: Names = None, newdata: Any = None, at: Mapping[str, Any] | None = None, df: str = "satterthwaite",
    level: float = 0.95, type: str = "link", bias_adjust: bool | float = False, **options: Any,
) -> EMMeans:  # fmt: skip
    """Average predictions of the population mean; see ``Fit.predictions``.

    Averages over the rows as they are, unlike marginal means, whose weights of other factors are equal: with `at` they
    are the standardised means of epidemiology (G-computation).
    """
    rows = averaged_rows(fit, by, newdata, list(at or {}))
    blocks, labels, scale = [], _Labels(), type_of(fit, type, bias_adjust)
    for chosen in combinations(fit, at):
        every = evaluate(fit.frame, {**rows.columns, **_constant(fit, chosen, rows.n)}, rows.n)
        if rows.offset is not None:
            every[:, -1] = rows.offset
        blocks.append(rows.mean(_functions(fit, every, scale[0])))
        labels.add({**chosen, **rows.labels}, len(blocks[-1]))
    return _table(fit, blocks, labels, "Average predictions", df, level, options, *scale, rows.note)


def comparisons(
    fit: FitBase, variables: str | Sequence[str], change: Any = None, by: Names = None, newdata: Any = None,
    at: Mapping[str, Any] | None = None, df: str = "satterthwaite", level: float = 0.95, type: str = "link",
    bias_adjust: bool | float = False, **options: Any,
) -> EMMeans:  # fmt: skip
    """Average changes of the population mean when a predictor changes and others stay; see ``Fit.comparisons``."""
    coded, scale = coded_columns(fit.frame.formula), type_of(fit, type, bias_adjust)

    def changes(columns: Columns, name: str, column: Column, n: int) -> list[tuple[str, np.ndarray]]:
        found = []
        for label, low, high in _pairs(column, name in coded, columns[name], change):
            low, high = (_functions(fit, evaluate(fit.frame, {**columns, name: x}, n), scale[0]) for x in (low, high))
            found.append((label, high - low))
        return found

    return _each(fit, variables, changes, by, newdata, at, "Average comparisons", df, level, options, *scale)


def slopes(
    fit: FitBase, variables: str | Sequence[str], by: Names = None, newdata: Any = None,
    at: Mapping[str, Any] | None = None, df: str = "satterthwaite", level: float = 0.95, type: str = "link",
    bias_adjust: bool | float = False, **options: Any,
) -> EMMeans:  # fmt: skip
    """Average derivatives of the population mean with respect to numeric predictors; see ``Fit.slopes``."""
    scale = type_of(fit, type, bias_adjust)

    def derivatives(columns: Columns, name: str, column: Column, n: int) -> list[tuple[str, np.ndarray]]:
        slope = derivative(fit.frame, columns, {name: column}, name)
        every = None if scale[0] is None else evaluate(fit.frame, columns, n)
        return [("slope", _derivatives(fit, slope, every, scale[0]))]

    return _each(fit, variables, derivatives, by, newdata, at, "Average slopes", df, level, options, *scale)


def _functions(fit: FitBase, every: np.ndarray, scale: Scale | None) -> np.ndarray:
    """Rows (n, columns + 1 + a): columns, the offset, what the model lacks; those of the response to first order.

    To first order in the coefficients, at their estimates, so that sums are the response and slopes its errors.
    """
    whole = np.column_stack([every, extra(fit, every[:, :-1])])
    if scale is None:
        return whole
    eta, offset = _predictor(fit, every), every.shape[1] - 1
    slope = scale(eta, order=1)
    out = slope[:, None] * whole
    out[:, offset] += scale(eta) - slope * eta
    return out


def _derivatives(fit: FitBase, slope: np.ndarray, every: np.ndarray | None, scale: Scale | None) -> np.ndarray:
    """As `_functions`, of the derivative with respect to a covariate; `slope` has that of `every`."""
    whole = np.column_stack([slope, extra(fit, slope[:, :-1])])
    if scale is None or every is None:
        return whole
    eta, change, offset = _predictor(fit, every), _predictor(fit, slope), every.shape[1] - 1
    bend = scale(eta, order=2) * change
    out = scale(eta, order=1)[:, None] * whole
    out += bend[:, None] * np.column_stack([every, extra(fit, every[:, :-1])])
    out[:, offset] -= bend * eta
    return out


def _predictor(fit: FitBase, every: np.ndarray) -> np.ndarray:
    """The fixed part and the offset at rows (n,)."""
    return every[:, fit.frame.kept] @ fit.coef + every[:, -1]


def _each(
    fit: FitBase, variables: str | Sequence[str], effects: Callable[..., list[tuple[str, np.ndarray]]], by: Names,
    newdata: Any, at: Mapping[str, Any] | None, title: str, df: str, level: float, options: dict[str, Any],
    scale: Scale | None, note: list[str],
) -> EMMeans:  # fmt: skip
    """The average effects of some variables, one after the other."""
    names = [variables] if isinstance(variables, str) else list(variables)
    data = _predictors(fit, names)
    rows = averaged_rows(fit, by, newdata, [*names, *(at or {})])
    blocks, labels = [], _Labels()
    for name in names:
        if name in (at or {}):
            raise DataError(f"at: {name!r} is what changes; give its values as change=(low, high)")
        for chosen in combinations(fit, at):
            columns = {**rows.columns, **_constant(fit, chosen, rows.n)}
            for contrast, every in effects(columns, name, data[name], rows.n):
                blocks.append(rows.mean(every))
                labels.add({"term": name, "contrast": contrast, **chosen, **rows.labels}, len(blocks[-1]))
    return _table(fit, blocks, labels, title, df, level, options, scale, note, rows.note)


class _Labels:
    """What the rows of a table are, by name, block by block."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {}

    def add(self, block: Mapping[str, Any], n: int) -> None:
        """Labels of n rows, each the same or a list."""
        for name, value in block.items():
            self.columns.setdefault(name, []).extend(value if isinstance(value, list) else [value] * n)


def _table(
    fit: FitBase, blocks: list[np.ndarray], labels: _Labels, title: str, df: str, level: float,
    options: dict[str, Any], scale: Scale | None, said: list[str], left_out: str = "",
) -> EMMeans:  # fmt: skip
    """Linear functions from means of all columns, the offset and what is beyond the combinations that X knows."""
    means = np.concatenate(blocks)
    width = len(fit.frame.encoder.names)
    functions, shift = np.column_stack([means[:, fit.frame.kept], means[:, width + 1 :]]), means[:, width]
    columns = labels.columns or {"mean": ["overall"]}
    return EMMeans(
        fit.wald(df=df, **options), columns, functions, shift, (), check_level(level), "none", title, fit.frame.kind,
        "; ".join(filter(None, [
            "random effects at zero", *said, f"{scale.note}, errors by the delta method" if scale else "", left_out,
        ])),
    )  # fmt: skip


# -- rows


def _predictors(fit: FitBase, names: Sequence[str]) -> dict[str, Column]:
    """Columns of predictors at the rows of the fit."""
    formula = fit.frame.formula
    known = side_columns(formula.side, formula)
    for name in names:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise DataError(f"{name!r} is not in the fixed part of the model; its predictors are: {listed}")
    return columns_used(fit, names)


def _needed(fit: FitBase) -> tuple[str, ...]:
    """Columns that the fixed part and the offset are made of."""
    frame, formula = fit.frame, fit.frame.formula
    own = side_columns(formula.side, formula)
    if frame.offset_source == "":
        return tuple(dict.fromkeys(own))
    offsets = expression_columns(formula.offsets, formula) + ((frame.offset_source,) if frame.offset_source else ())
    return tuple(dict.fromkeys((*own, *offsets)))


def averaged_rows(fit: FitBase, by: Names, newdata: Any, replaced: Sequence[str]) -> _AveragedRows:
    """The rows of the fit, of a frame or of the reference grid, and the averages that they are in.

    Columns of newdata that are `replaced` need not be there.
    """
    needed = _needed(fit)
    offset, note = None, ""
    if newdata is None:
        data, n = columns_used(fit, needed), fit.nobs
        columns = {name: _plain(column) for name, column in data.items()}
        offset = fit.frame.offset if fit.frame.offset_source == "" else None

        def read(name: str) -> Column:
            return columns_used(fit, [name])[name]

    elif isinstance(newdata, str):
        if newdata != "grid":
            raise DataError(f"newdata: found {newdata!r}, expected a data frame, or 'grid' for the reference grid")
        grid = reference_grid(fit)
        columns, n = grid.columns, len(grid.codes)

        def read(name: str) -> Column:
            if name not in columns:
                raise DataError(f"by: {name!r} is not in the reference grid; it has: {', '.join(columns) or 'nothing'}")
            return open_table(columns).column(name)

    else:
        table = open_table(newdata, "newdata")
        if fit.frame.offset_source == "":
            raise DataError("newdata: the offset was given as an array, so it is not known there; give it as a column")
        there = [name for name in needed if name in table.names or name not in replaced]
        gaps = [gap for name in there if (gap := table.column(name).missing) is not None]
        kept = np.flatnonzero(~np.any(gaps, 0)) if gaps else np.arange(table.n)
        if not kept.size:
            raise DataError("newdata: no row is without missing values in the predictors")
        if left := table.n - kept.size:
            note = f"{left} row(s) of newdata have missing values, and no prediction"
        complete = open_table(extend_rows(newdata, kept, {}), "newdata") if left else table
        columns, n, every = {name: _plain(complete.column(name)) for name in there}, kept.size, table.n
        columns |= {name: np.zeros(n) for name in needed if name not in there}
        read = table.column
    if newdata is None or isinstance(newdata, str):
        kept, every = np.arange(n), n
    names = [] if by is None else [by] if isinstance(by, str) else list(by)
    if names == [ROW]:
        return _AveragedRows(columns, n, kept, every, {ROW: list(range(every))}, offset, kept, note)
    factors = []
    for name in names:
        column = read(name)
        if column.missing is not None:
            raise DataError(f"by: column {name!r} has {int(column.missing.sum())} missing value(s)")
        values = column.values
        codes, levels = (values, list(column.levels)) if not column.is_number else (None, [])
        if codes is None:
            unique, codes = np.unique(values, return_inverse=True)
            levels = unique.tolist()
        factors.append((codes, levels))
    if not names:
        return _AveragedRows(columns, n, np.zeros(n, int), 1, {}, offset, kept, note)
    found, groups = np.unique(np.stack([codes for codes, _ in factors]), axis=1, return_inverse=True)
    labels = {name: [levels[c] for c in row] for name, row, (_, levels) in zip(names, found, factors, strict=True)}
    return _AveragedRows(columns, n, groups.reshape(-1)[kept], found.shape[1], labels, offset, kept, note)


def _plain(column: Column) -> np.ndarray | Column:
    """Values of a column as an array of numbers; a factor as it is."""
    if column.missing is not None:
        raise DataError(f"newdata has {int(column.missing.sum())} missing value(s) in column {column.name!r}")
    return column.values if column.is_number else column


def combinations(fit: FitBase, at: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Every combination of the values of predictors in `at`."""
    at = dict(at or {})
    data = _predictors(fit, list(at))
    values = [listed_values(data[name], given) for name, given in at.items()]
    return [dict(zip(at, chosen, strict=True)) for chosen in itertools.product(*values)]


def _constant(fit: FitBase, chosen: Mapping[str, Any], n: int) -> Columns:
    data = _predictors(fit, list(chosen))
    return {name: data[name].at([value], np.zeros(n, int)) for name, value in chosen.items()}


# -- changes of a predictor


def _pairs(column: Column, coded: bool, values: Any, change: Any) -> list[tuple[str, Any, Any]]:
    """Label, low and high values (n,) of every comparison of a predictor."""
    n = len(values)
    if isinstance(change, tuple | list):
        if len(change) != 2:
            raise DataError(f"change: expected two values (low, high) of {column.name!r}, found {change!r}")
        low, high = listed_values(column, list(change))
        return [_pair(column, low, high, n)]
    if column.is_number and column.kind != "logical" and not coded:
        is_word = change is None or (isinstance(change, str) and change == "sd")
        if not is_word and (isinstance(change, str) or np.ndim(change) or not np.isscalar(change)):
            raise DataError(
                f"change: {column.name!r} is numeric, expected a number, 'sd' or (low, high), found {change!r}"
            )
        step = 1.0 if change is None else float(np.std(column.values, ddof=1)) if change == "sd" else float(change)
        return [("+1 sd" if change == "sd" else f"{'+' if step > 0 else ''}{step:g}", values, values + step)]
    change = "reference" if change is None else change
    if not isinstance(change, str) or change not in CHANGES[:3]:
        raise DataError(
            f"change: {column.name!r} is a factor, expected 'reference', 'pairwise', 'sequential' or two levels, "
            f"found {change!r}"
        )
    levels: list[Any] = np.unique(column.values).tolist() if column.is_number else list(column.levels)
    if change == "reference":
        return [_pair(column, levels[0], level, n) for level in levels[1:]]
    every = itertools.pairwise(levels) if change == "sequential" else itertools.combinations(levels, 2)
    return [_pair(column, low, high, n) for low, high in every]


def _pair(column: Column, low: Any, high: Any, n: int) -> tuple[str, Any, Any]:
    first, second = (column.at([value], np.zeros(n, int)) for value in (low, high))
    return f"{text_of(high)} - {text_of(low)}", first, second
