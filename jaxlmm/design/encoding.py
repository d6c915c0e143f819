"""Columns of a design matrix from one side of a formula.

Numeric columns, arithmetic on them, and factors whose coding is plain (``1 + Days``, ``sin(2 * pi * t)``,
``recipe * temperature``, ``0 + Machine``) are computed here. Transforms with a state, ``C()`` and factors
without their main effects go to formulaic, as terms that were checked one by one, with a context that holds
only the permitted functions. Both ways give the same names and numbers.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from ..errors import DataError
from ..formula import expressions
from ..formula.syntax import Formula, Side
from ..frames.columns import Column, Levels
from ..runtime.sizes import check_memory

INTERCEPT = "(Intercept)"
LOGICAL = ("False", "True")


@dataclass(frozen=True, eq=False)
class Encoder:
    """How a side becomes columns, learnt from one data set and used again for new data.

    Attributes
    ----------
    side : Side
    formula : Formula
        The formula it belongs to, for the names of columns.
    names : tuple of str
        Names of the columns.
    terms : tuple of (str, tuple of int)
        Label of each term and the positions of its columns.
    spec : object or None
        formulaic's state; None where columns are computed directly.
    seen : tuple of (str, Levels)
        The values of numeric columns that stand in ``C()``; others are unknown levels.
    """

    side: Side
    formula: Formula
    names: tuple[str, ...]
    terms: tuple[tuple[str, tuple[int, ...]], ...]
    spec: Any = None
    seen: tuple[tuple[str, Levels], ...] = ()

    def columns(self, data: Mapping[str, Column], n: int) -> np.ndarray:
        """Compute the (n, q) columns for new data, whose factors have the levels of the first data."""
        if self.spec is None:
            return _direct(self.side, self.formula, data, n)[0]
        for name, levels in self.seen:
            unknown = data[name].recode(levels) < 0
            if unknown.any():
                factor = data[name].as_factor()
                label = factor.levels[factor.values[np.argmax(unknown)]]
                raise DataError(f"column {name!r} has the level {label!r}, which was not in the data of the fit")
        from .transforms import context

        matrix = _call_formulaic(lambda: self.spec.get_model_matrix(_frame(self, data, n), context=context()))
        return _float_matrix(matrix, n)


def encode(side: Side, formula: Formula, data: Mapping[str, Column], n: int) -> tuple[np.ndarray, Encoder]:
    """Compute the columns of a side.

    Parameters
    ----------
    side : Side
    formula : Formula
        The formula it belongs to.
    data : mapping of str to Column
        The columns it uses, by their names in the data, without missing values.
    n : int
        Number of rows.

    Returns
    -------
    matrix : (n, q) float64 array
    encoder : Encoder

    Raises
    ------
    DataError
        If a column cannot be computed.
    ImportError
        If formulaic is needed and not installed.
    """
    for factor in side.factors:
        _check_readable(factor, formula, data)
    check_memory("formula", n, _count(side, formula, data), advice="these factors have too many levels together")
    if is_direct(side, formula, data):
        matrix, names, terms = _direct(side, formula, data, n)
        return matrix, Encoder(side, formula, names, terms)
    return _encode_by_formulaic(side, formula, data, n)


def _check_readable(text: str, formula: Formula, data: Mapping[str, Column]) -> None:
    """Refuse columns that may be meant as numbers or as factors: dates, and text that is written like numbers."""
    coded = expressions.categorical_variables(text)
    for name in expressions.variables(text):
        if name in expressions.CONSTANTS or name in coded:
            continue
        column = data[formula.column(name)]
        if column.kind == "time":
            raise DataError(
                f"column {column.name!r} holds dates or times; turn it into a number first, or write C({column.name}) "
                "for a factor"
            )
        if column.looks_numeric and not expressions.is_comparison(text):
            shown = ", ".join(map(repr, column.levels[:3]))
            raise DataError(
                f"column {column.name!r} holds text that is written like numbers, or both ({shown}, ...); make it "
                f"numbers in the data (pandas.to_numeric), or write C({column.name}) for a factor"
            )


def _count(side: Side, formula: Formula, data: Mapping[str, Column]) -> int:
    """How many columns a side makes, but for those of transforms, which are few, and of ``C()``, as an upper bound."""
    count = 1
    for term in side.terms:
        levels = 1
        for factor in term:
            coded = [formula.column(name) for name in expressions.categorical_variables(factor)]
            if coded and data[coded[0]].is_number:
                levels *= len(np.unique(data[coded[0]].values))
            elif coded:
                levels *= len(data[coded[0]].levels)
            elif _is_factor(factor, formula, data):
                levels *= len(_levels(factor, formula, data))
        count += levels
    return count


def side_columns(side: Side, formula: Formula) -> tuple[str, ...]:
    """Return the columns of the data that a side uses (``pi`` left out)."""
    return expression_columns(side.factors, formula)


def expression_columns(texts: tuple[str, ...], formula: Formula) -> tuple[str, ...]:
    """Return the columns of the data that expressions use (``pi`` left out)."""
    names = dict.fromkeys(v for text in texts for v in expressions.variables(text))
    return tuple(formula.column(v) for v in names if v not in expressions.CONSTANTS)


def values_of(text: str, formula: Formula, data: Mapping[str, Column], n: int) -> np.ndarray:
    """Evaluate an elementwise expression as (n,) float64; a factor in it raises `DataError`."""
    columns = {}
    for name in expressions.variables(text):
        if name in expressions.CONSTANTS:
            continue
        column = data[formula.column(name)]
        if not column.is_number:
            raise DataError(f"column {column.name!r} is not numeric, but {formula.readable(text)} computes with it")
        columns[name] = column.values
    return np.broadcast_to(expressions.evaluate(text, columns), (n,))


def is_direct(side: Side, formula: Formula, data: Mapping[str, Column]) -> bool:
    """Say whether a side needs no formulaic: arithmetic on numeric columns and plainly coded factors."""
    for factor in side.factors:
        if _is_factor(factor, formula, data):
            continue
        names = expression_columns((factor,), formula)
        if not (names and expressions.is_elementwise(factor) and all(data[name].is_number for name in names)):
            return False
    return _full_dummies(side, formula, data) is not None


def _is_factor(text: str, formula: Formula, data: Mapping[str, Column]) -> bool:
    """Say whether an expression is the bare name of a column that holds a factor or true/false, or a comparison."""
    if not text.isidentifier() or text in expressions.CONSTANTS:
        return expressions.is_comparison(text)
    return data[formula.column(text)].kind != "number"


def is_class(text: str, formula: Formula, data: Mapping[str, Column]) -> bool:
    """Say whether an expression is a factor, however it is coded."""
    return _is_factor(text, formula, data) or bool(expressions.categorical_variables(text)) or text.startswith("C(")


def _levels(text: str, formula: Formula, data: Mapping[str, Column]) -> tuple[str, ...]:
    """The levels of a factor; of true/false both, as in R, whether they occur or not."""
    column = data[formula.column(text)] if text.isidentifier() else None
    return LOGICAL if column is None or column.is_number else column.levels


def _codes(text: str, formula: Formula, data: Mapping[str, Column], n: int) -> np.ndarray:
    """The place of each row among the levels of a factor (n,)."""
    if text.isidentifier():
        return data[formula.column(text)].values.astype(np.int32)
    columns = {}
    for name in set(expressions.variables(text)) - set(expressions.CONSTANTS):
        column = data[formula.column(name)]
        columns[name] = column.values if column.is_number else np.array(column.levels)[column.values]
    try:
        found = expressions.compare(text, columns)
    except expressions.ExpressionError as error:
        raise DataError(f"{formula.readable(text)}: {error}") from None
    return np.broadcast_to(found, (n,)).astype(np.int32)


def _full_dummies(side: Side, formula: Formula, data: Mapping[str, Column]) -> frozenset[tuple[str, ...]] | None:
    """Return the terms whose factor has a column for each level; None where the coding is not plain.

    It is plain where each factor of a term can be left out and gives a term of the model: then all have a
    column for each level but the first. Without an intercept the first factor alone has a column for each
    level.
    """
    present: set[frozenset[str]] = {frozenset(term) for term in side.terms}
    if side.intercept:
        present.add(frozenset())
    full: set[tuple[str, ...]] = set()
    for term in side.terms:
        factors = [f for f in term if _is_factor(f, formula, data)]
        if all(frozenset(term) - {f} in present for f in factors):
            continue
        if len(term) > 1:
            return None
        full.add(term)
        present.add(frozenset())
    return frozenset(full)


def _direct(
    side: Side, formula: Formula, data: Mapping[str, Column], n: int
) -> tuple[np.ndarray, tuple[str, ...], tuple[tuple[str, tuple[int, ...]], ...]]:
    """Compute columns, their names, and the terms that they belong to."""
    full = _full_dummies(side, formula, data) or frozenset()
    columns = [np.ones(n)] if side.intercept else []
    names = [INTERCEPT] if side.intercept else []
    terms: list[tuple[str, tuple[int, ...]]] = [(INTERCEPT, (0,))] if side.intercept else []
    for term in side.terms:
        parts = [_coded(f, term in full, formula, data, n) for f in term]
        start = len(columns)
        for product in itertools.product(*reversed(parts)):  # the first factor varies fastest
            names.append(":".join(name for name, _ in reversed(product)))
            columns.append(functools.reduce(np.multiply, (values for _, values in product)))
        terms.append((formula.readable(":".join(term)), tuple(range(start, len(columns)))))
    matrix = np.empty((n, len(columns)))
    for j, values in enumerate(columns):
        matrix[:, j] = values
    return matrix, tuple(names), tuple(terms)


def _coded(text: str, full: bool, formula: Formula, data: Mapping[str, Column], n: int) -> list[tuple[str, np.ndarray]]:
    """Return the named columns of one factor of a term: a number itself, a factor's indicators."""
    label = formula.readable(text)
    if not _is_factor(text, formula, data):
        return [(label, values_of(text, formula, data, n))]
    codes, mark = _codes(text, formula, data, n), "" if full else "T."
    levels = list(enumerate(_levels(text, formula, data)))[0 if full else 1 :]
    return [(f"{label}[{mark}{level}]", (codes == k).astype(np.float64)) for k, level in levels]


# -- by formulaic


def _encode_by_formulaic(
    side: Side, formula: Formula, data: Mapping[str, Column], n: int
) -> tuple[np.ndarray, Encoder]:
    try:
        from formulaic import ModelSpec

        from .transforms import context
    except ImportError:
        message = "factors and transforms in a formula need formulaic: pip install 'jaxlmm[formula]'"
        raise ImportError(message) from None
    inside_c = {v for f in side.factors for v in expressions.categorical_variables(f)}
    names = [formula.column(v) for v in expressions_names(side) if v in inside_c]
    seen = tuple((name, data[name].as_factor().levels) for name in names if data[name].is_number)
    draft = Encoder(side, formula, (), (), None, seen)
    frame = _frame(draft, data, n)
    spec = ModelSpec.from_spec(_terms(side), output="numpy", na_action="ignore")
    matrix = _call_formulaic(lambda: spec.get_model_matrix(frame, context=context()))
    spec = matrix.model_spec
    labels, terms, column = [], [], 0
    for part in spec.structure:
        factors = [f.expr for f in part.term.factors]
        label = INTERCEPT if factors == ["1"] else formula.readable(":".join(factors))
        terms.append((label, tuple(range(column, column + len(part.columns)))))
        column += len(part.columns)
        labels += [INTERCEPT if c == "Intercept" else formula.readable(str(c)) for c in part.columns]
    return _float_matrix(matrix, n), Encoder(side, formula, tuple(labels), tuple(terms), spec, seen)


def expressions_names(side: Side) -> tuple[str, ...]:
    """Return the names (stand-ins included) that the factors of a side use."""
    return tuple(dict.fromkeys(v for f in side.factors for v in expressions.variables(f)))


def _terms(side: Side) -> Any:
    """Hand the checked factors to formulaic as objects, so that its own tokenizer never reads them."""
    from formulaic import SimpleFormula
    from formulaic.parser.types import Factor, Term

    def factor(text: str) -> Any:
        is_column = text.isidentifier() or expressions.is_comparison(text)
        return Factor(text, eval_method="lookup" if is_column else "python")

    intercept = [Term([Factor("1", eval_method="literal")])] if side.intercept else []
    return SimpleFormula(intercept + [Term([factor(f) for f in term]) for term in side.terms])


def _frame(encoder: Encoder, data: Mapping[str, Column], n: int) -> Any:
    """Make the pandas frame that formulaic reads: the columns that it needs, and comparisons by their text."""
    import pandas

    def categorical_of(codes: np.ndarray, levels: tuple[str, ...]) -> Any:
        return pandas.Categorical.from_codes(codes, pandas.Index(list(levels)))

    side, formula = encoder.side, encoder.formula
    categorical = {name for name, _ in encoder.seen}
    factors = {f for f in side.factors if _is_factor(f, formula, data)}
    columns: dict[str, Any] = {
        f: categorical_of(_codes(f, formula, data, n), _levels(f, formula, data)) for f in factors
    }
    for name in expressions_names(side):
        if name in expressions.CONSTANTS or name in columns:
            continue
        column = data[formula.column(name)]
        if column.is_number and column.name in categorical:
            columns[name] = _as_levels(column)
        elif column.is_number:
            columns[name] = column.values.astype(np.float64)
        else:
            columns[name] = categorical_of(column.values, column.levels)
    return pandas.DataFrame(columns)


def _as_levels(column: Column) -> np.ndarray:
    """Return numbers that stand in ``C()``, whole ones as integers: their labels have no decimal point."""
    if column.kind == "logical":
        return column.values
    factor = column.as_factor()
    numbers: list[Any] = [value for _, value in factor.levels.keys]
    if all(isinstance(v, int) or v.is_integer() for v in numbers if not isinstance(v, Decimal)):
        numbers = [v if isinstance(v, Decimal) else int(v) for v in numbers]
    values = np.array(numbers, dtype=np.float64 if any(isinstance(v, float | Decimal) for v in numbers) else None)
    if len(np.unique(values)) < len(numbers):
        raise DataError(f"column {column.name!r} has numbers in C() that floats cannot tell apart; give them as text")
    return values[factor.values]


def _call_formulaic(call: Any) -> Any:
    """Run formulaic; whatever goes wrong in it becomes one sentence."""
    try:
        from formulaic.errors import DataMismatchWarning

        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", DataMismatchWarning)  # a level that is not in C(..., levels=...)
            return call()
    except Exception as error:
        inner: BaseException | None = error
        while inner is not None:
            if isinstance(inner, DataError):  # ours, said from within
                raise inner from None
            inner = inner.__cause__ or inner.__context__
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"a term of the formula cannot be computed: {reason}") from error


def _float_matrix(matrix: Any, n: int) -> np.ndarray:
    values = np.asarray(matrix, dtype=np.float64)
    if values.shape[0] != n:  # pragma: no cover; na_action="ignore" keeps all rows
        raise DataError(f"the formula gave {values.shape[0]} rows for {n} rows of data")
    return np.ascontiguousarray(values)


def finite(matrix: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Return a matrix whose values are all finite; else `DataError` names its first bad column."""
    if not np.isfinite(matrix).all():
        bad = ~np.isfinite(matrix)
        first = int(np.argmax(bad.any(axis=0)))
        count = int(bad[:, first].sum())
        raise DataError(f"the term {names[first]} is undefined or infinite in {count} row(s); check its argument")
    return matrix
