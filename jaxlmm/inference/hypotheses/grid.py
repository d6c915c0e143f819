"""The reference grid: every combination of the factors of the fixed part, covariates at their means."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...design.encoding import expression_columns, side_columns
from ...errors import DataError
from ...estimates.fitted import FitBase
from ...formula import expressions
from ...formula.syntax import Formula
from ...frames.columns import Column, open_table, read_column
from ...frames.owned import column_at
from ...tolerances import ESTIMABLE

Values = Mapping[str, Any]  # arrays of numbers, columns of factors
WEIGHTS = ("equal", "proportional", "cells", "om")
INWARD = np.array([-49 / 20, 6.0, -15 / 2, 20 / 3, -15 / 4, 6 / 5, -1 / 6])  # weights of values at 0, 1, ..., 6
_LARGEST = 1_000_000


def columns_used(fit: FitBase, names: Iterable[str]) -> dict[str, Column]:
    """Columns of the data at the rows of the fit."""
    return {name: column_at(fit, name).take(fit.frame.rows) for name in names}


@dataclass(frozen=True, eq=False)
class Grid:
    """Combinations of predictors, and what the fixed part is there.

    Attributes
    ----------
    values : dict
        Levels of each predictor, in the order of the fit.
    codes : (g, v) int array
        Place of each combination's value among those of each predictor.
    X : (g, p) float64 array
    offset : (g,) float64 array
    counts : (g,) float64 array
        Rows of the data (their weights) in the combination's cell of factors.
    extra : (g, a) float64 array
        What is left of the columns out of X, which are combinations of others in the data, where it is not so here: a
        function of the rows can be estimated where that function of `extra` is zero.
    columns : dict
        Values (g,) of each predictor, those of factors as a `Column`.
    nests : dict
        Factors in which a factor is nested: its levels occur with one of theirs each, or no term has it without them.
    exists : (g,) float64 array
        Zero for combinations of nested levels that do not occur; else one over the levels that are nested alike.
    """

    values: dict[str, list[Any]]
    codes: np.ndarray
    X: np.ndarray
    offset: np.ndarray
    counts: np.ndarray
    extra: np.ndarray
    columns: dict[str, Any]
    nests: dict[str, tuple[str, ...]]
    exists: np.ndarray

    def cells(self, names: Sequence[str]) -> np.ndarray:
        """Number (g,) of the combination of these predictors, the first varying fastest."""
        number, size = np.zeros(len(self.codes), dtype=np.int64), 1
        for name in names:
            number += size * self.codes[:, list(self.values).index(name)]
            size *= len(self.values[name])
        return number

    def averages(self, names: Sequence[str], weights: str) -> np.ndarray:
        """Weights (c, g), each row adding up to 1, that average over all but these predictors.

        "equal" over the combinations; "proportional" to how often the combinations of the others occur in the data;
        "cells" to how often they occur with that of these predictors (NaN for one that does not occur).
        """
        cell = self.cells(names)
        inside = np.arange(cell.max() + 1)[:, None] == cell
        rest = self.cells([v for v in self.values if v not in names])
        each = self.exists
        if weights == "cells":
            each = self.counts
        elif weights == "proportional":
            each = np.bincount(rest, weights=self.counts)[rest] * (each > 0)
        total = inside * each
        with np.errstate(invalid="ignore"):
            return total / total.sum(axis=1, keepdims=True)


def reference_grid(
    fit: FitBase, at: Mapping[str, Any] | None = None, means_of: Sequence[str] = (), slope: str | None = None
) -> Grid:
    """Make the reference grid of the fixed part.

    Factors (and true/false, and numbers with at most two values, as in R's emmeans) have all their levels, other
    numbers their mean over the rows of the fit; `at` gives other values. Columns of offsets are at their means; an
    offset that was given as an array counts with its mean.

    Parameters
    ----------
    fit : a fit
    at : name to a value or several values
    means_of : names that must be predictors
    slope : a covariate; then `X` and `offset` are derivatives with respect to it

    Raises
    ------
    DataError
        For names that are not predictors, unknown levels and grids that are too large.
    """
    frame = fit.frame
    formula = frame.formula
    predictors = side_columns(formula.side, formula)
    offsets = expression_columns(formula.offsets, formula) + ((frame.offset_source,) if frame.offset_source else ())
    at = dict(at or {})
    wanted = (*means_of, *(() if slope is None else (slope,)))
    for name in (*wanted, *at):
        if name not in predictors and (name not in offsets or name in wanted):
            listed = ", ".join(predictors) or "none"
            raise DataError(f"{name!r} is not in the fixed part of the model; its predictors are: {listed}")
    data = columns_used(fit, dict.fromkeys((*predictors, *offsets)))
    coded = coded_columns(formula)
    factors = {n for n in predictors if n in coded or _has_levels(data[n])} - {slope}
    values = {n: _values(data[n], n in factors, at.get(n)) for n in data}
    size = int(np.prod([len(v) for v in values.values()], dtype=float)) if values else 1
    if size > _LARGEST:
        raise DataError(f"the reference grid has {size} combinations; fix some predictors with at={{name: value}}")
    codes = np.array(list(itertools.product(*(range(len(v)) for v in values.values()))), dtype=int).reshape(size, -1)
    columns = {n: data[n].at(v, codes[:, k]) for k, (n, v) in enumerate(values.items())}
    every = derivative(frame, columns, data, slope) if slope else evaluate(frame, columns, size)
    X, offset = every[:, :-1], every[:, -1]
    counts = _counts(fit, data, factors, values, codes)
    nests, exists = {}, np.ones(size)
    for inner, outer in _nests(formula, data, [n for n in predictors if n in factors and len(values[n]) > 1]).items():
        share = _shares({n: data[n] for n in (*outer, inner)}, values, columns, size)
        if not share.all():
            nests[inner], exists = outer, exists * share
    return Grid(values, codes, X[:, frame.kept], offset, counts, extra(fit, X), columns, nests, exists)


# -- predictors


def coded_columns(formula: Formula) -> set[str]:
    """Columns that the formula makes factors of, ``C(x)``."""
    coded = {v for f in formula.side.factors for v in expressions.categorical_variables(f)}
    return {formula.column(v) for v in coded}


def _has_levels(column: Column) -> bool:
    return not column.is_number or column.kind == "logical" or len(np.unique(column.values)) <= 2


def _values(column: Column, is_factor: bool, given: Any) -> list[Any]:
    """The values of a predictor in the grid."""
    if given is None:
        if not column.is_number:
            return list(column.levels)
        return np.unique(column.values).tolist() if is_factor else [float(np.mean(column.values))]
    return listed_values(column, given)


def listed_values(column: Column, given: Any) -> list[Any]:
    """Values that were asked for of a predictor: one or several, levels as text."""
    if hasattr(given, "__len__") and len(given) > _LARGEST:
        raise DataError(f"at: {column.name!r} has {len(given):,} values, expected at most {_LARGEST:,}")
    listed = [given] if isinstance(given, (str, bytes)) or not hasattr(given, "__len__") else list(given)
    if not listed:
        raise DataError(f"at: {column.name!r} has no value")
    if column.is_number:
        if not all(isinstance(v, (int, float, np.number, np.bool_)) for v in listed):
            raise DataError(f"at: {column.name!r} is numeric, found {listed!r}")
        return [v.item() if hasattr(v, "item") else v for v in listed]
    places = [column.levels.find(v) for v in listed]
    if None in places:
        unknown = listed[places.index(None)]
        raise DataError(f"at: {column.name!r} has no level {unknown!r}; it has: {', '.join(column.levels[:20])}")
    return [column.levels[i] for i in places if i is not None]


def _counts(
    fit: FitBase, data: Mapping[str, Column], factors: set[str], values: Mapping[str, list[Any]], codes: np.ndarray,
    weight: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Sum of the weights (of the fit, or 1 each, if not given) of the rows in the cell of factors of each."""
    names = [n for n in values if n in factors]
    if weight is None:
        weight = np.ones(len(fit.frame.y)) if fit.frame.weights is None else fit.frame.weights
    cell, place, size = np.zeros(len(weight), dtype=np.int64), np.zeros(len(codes), dtype=np.int64), 1
    known = np.ones(len(weight), dtype=bool)
    for name in names:
        k = list(values).index(name)
        chosen = read_column(name, data[name].at(values[name], np.arange(len(values[name])))).as_factor()
        row = data[name].recode(chosen.levels)
        known &= row >= 0
        cell += size * row
        place += size * chosen.values[codes[:, k]]
        size *= len(chosen.levels)
    total = np.bincount(cell[known], weights=weight[known], minlength=size)
    return total[place]


def count_cells(
    fit: FitBase, data: Mapping[str, Column], grid: Grid, weight: np.ndarray, slope: str | None = None
) -> np.ndarray:
    """`Grid.counts` (g,) of other rows: their predictors and weights."""
    coded = coded_columns(fit.frame.formula)
    factors = {n for n in data if n in coded or _has_levels(column_at(fit, n).take(fit.frame.rows))} - {slope}
    return _counts(fit, data, factors, grid.values, grid.codes, weight)


def _nests(formula: Formula, data: Mapping[str, Column], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Factors in which each factor is nested, by the data or by the terms, as R's emmeans finds them."""
    terms = [set(expression_columns(term, formula)) for term in formula.side.terms]
    codes = {n: np.unique(data[n].values, return_inverse=True)[1] for n in names}

    def always(inner: str, outer: str) -> bool:
        return all(outer in term for term in terms if inner in term)

    def is_nested(inner: str, outer: str) -> bool:
        pairs = np.unique(np.stack([codes[inner], codes[outer]]), axis=1)
        alone = pairs.shape[1] == codes[inner].max() + 1
        return alone or (always(inner, outer) and not always(outer, inner))

    found = {inner: tuple(n for n in names if n != inner and is_nested(inner, n)) for inner in names}
    return {inner: outer for inner, outer in found.items() if outer}


def _shares(data: Mapping[str, Column], values: Mapping[str, list[Any]], columns: Values, size: int) -> np.ndarray:
    """One over how many levels of the last factor of `data` occur with those of the others (g,), or zero if not."""
    *outer, inner = (_levels(column) for column in data.values())
    *around, own = (_levels(columns[n]) for n in data)
    seen, levels = set(zip(*outer, inner, strict=True)), values[list(data)[-1]]
    shares = np.zeros(size)
    for i, (*place, level) in enumerate(zip(*around, own, strict=True)):
        here = [x for x in levels if (*place, x) in seen] or levels
        shares[i] = (level in here) / len(here)
    return shares


def _levels(values: Column | np.ndarray) -> list[Any]:
    """Levels, or numbers, of every row."""
    if not isinstance(values, Column) or values.is_number:
        return np.asarray(getattr(values, "values", values)).tolist()
    return [values.levels[c] for c in values.values]


# -- columns of the design


def evaluate(frame: Any, columns: Values, n: int) -> np.ndarray:
    """All columns of the fixed part, those out of X too, and the offset (n, columns + 1)."""
    as_array, whole = frame.offset_source == "", _whole(frame)
    if as_array:
        whole = dataclasses.replace(whole, offset_source=None, formula=dataclasses.replace(frame.formula, offsets=()))
    new = whole.design(columns if columns else {"": np.zeros(n)}, random=False)
    offset = new.offset if new.offset is not None else np.full(n, np.mean(frame.offset) if as_array else 0.0)
    return np.column_stack([new.X, offset])


def _whole(frame: Any) -> Any:
    """The frame with the columns that are out of X too."""
    names = frame.encoder.names
    return dataclasses.replace(frame, kept=np.arange(len(names)), coef_names=names)


def not_estimable(fit: FitBase, newdata: Any) -> np.ndarray:
    """Rows (n,) of new data, without missing values, whose fixed part the data of the fit cannot estimate."""
    frame = fit.frame
    if len(frame.kept) == len(frame.encoder.names):
        return np.zeros(open_table(newdata, "newdata").n, bool)
    X = _whole(frame).design(newdata, random=False).X
    return np.any(np.abs(extra(fit, X)) > ESTIMABLE, axis=1)


def derivative(frame: Any, columns: Values, data: Mapping[str, Column], name: str) -> np.ndarray:
    """Derivative of the columns and the offset with respect to a covariate.

    Central differences at steps h, h/2 and h/4, extrapolated twice to h = 0 (Richardson): exact but for rounding for
    polynomials up to degree 6, error of order h^6 otherwise, with h a hundredth of the range of the data or less. At
    the ends of that range, beyond which splines and logarithms may be undefined, `_one_sided`.
    """
    if not data[name].is_number:
        raise DataError(f"{name!r} is a factor: slopes are of numeric predictors")
    x, seen = np.asarray(columns[name], dtype=np.float64), data[name].values.astype(np.float64)
    low, high = seen.min(), seen.max()
    if low == high:
        raise DataError(f"{name!r} is constant in the data")
    ends = (x == low) | (x == high)
    at = np.where(ends, 0.5 * (low + high), x)
    inside = np.minimum(at - low, high - at)
    h = np.where(inside > 0, np.minimum(0.01 * (high - low), inside), 0.01 * (high - low))

    def central(step: np.ndarray) -> np.ndarray:
        up, down = ({**columns, name: at + sign * step} for sign in (1.0, -1.0))
        span = (up[name] - down[name])[:, None]
        return (evaluate(frame, up, len(at)) - evaluate(frame, down, len(at))) / span

    first, second, third = central(h), central(h / 2), central(h / 4)
    coarse, fine = (4.0 * second - first) / 3.0, (4.0 * third - second) / 3.0
    out = (16.0 * fine - coarse) / 15.0
    if np.any(ends):
        inward = np.where(x[ends] == low, high - low, low - high)
        out[ends] = _one_sided(frame, {n: _some(v, ends) for n, v in columns.items()}, name, inward)
    return out


def _some(values: np.ndarray | Column, rows: np.ndarray) -> np.ndarray | Column:
    return values.take(rows) if isinstance(values, Column) else np.asarray(values)[rows]


def _one_sided(frame: Any, columns: Values, name: str, inward: np.ndarray) -> np.ndarray:
    """Derivative at an end, by points at 0, h, ..., 6h of `inward` (g,): exact for polynomials up to degree 6.

    Refused where halving h changes it, as at the end of a square root.
    """
    x = np.asarray(columns[name], dtype=np.float64)

    def difference(h: float) -> np.ndarray:
        points = [evaluate(frame, {**columns, name: x + k * h * inward}, len(x)) for k in range(len(INWARD))]
        return np.tensordot(INWARD, points, 1) / (h * inward)[:, None]

    coarse, fine = difference(1e-3), difference(5e-4)
    if np.any(abs(fine - coarse) > 1e-4 * np.max(abs(fine), initial=1e-300)):
        raise DataError(f"{name!r} has no slope at an end of its range in the data; give rows inside of it as newdata")
    return fine


def extra(fit: FitBase, X: np.ndarray) -> np.ndarray:
    """What columns out of the model are beyond the combinations of others that they are in the data (g, a)."""
    frame = fit.frame
    out = np.setdiff1d(np.arange(X.shape[1]), frame.kept)
    if not out.size:
        return np.zeros((len(X), 0))
    formula = frame.formula
    data = columns_used(fit, side_columns(formula.side, formula))
    plain = dataclasses.replace(frame, offset_source=None, formula=dataclasses.replace(formula, offsets=()))
    seen = evaluate(plain, data, len(frame.y))[:, :-1]
    combination = np.linalg.lstsq(frame.X, seen[:, out], rcond=None)[0]
    return (X[:, out] - X[:, frame.kept] @ combination) / np.sqrt(np.maximum(np.mean(seen[:, out] ** 2, 0), 1e-300))
