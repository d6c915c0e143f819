"""From a formula and a data frame to the arrays of a linear mixed model, and the same for new data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arguments import nearest
from ..covariance import NAMES
from ..errors import DataError
from ..formula.expressions import CONSTANTS
from ..formula.specs import FieldSpec, ResidualSpec, Structures, field_of
from ..formula.structures import take_arm
from ..formula.syntax import Bar, Formula, Side
from ..frames.alignment import aligned
from ..frames.columns import Column, Levels, OpenTable, make_frame, open_table, read_column
from ..tolerances import ARITHMETIC, COMBINATION, origin, shifted
from .encoding import Encoder, encode, expression_columns, finite, side_columns, values_of
from .fields import FrameField, frame_field, frame_residual
from .grouping import FrameTerm, TermDesign, random_terms

__all__ = ["FrameTerm", "ModelFrame", "NewDesign", "build_frame", "make_frame"]

LOGICAL = Levels.of([("logical", False), ("logical", True)])
Place = tuple[np.ndarray | None, tuple[np.ndarray, ...]]  # group and place of rows


@dataclass(frozen=True, eq=False)
class NewDesign:
    """Arrays for new data, in the columns of a fitted model.

    Attributes
    ----------
    X : (n, p) float64 array
    terms : tuple of (Z, codes)
        For each random-effect term; groups that the fit has not seen are -1, or numbered behind the others.
    fields : tuple of (codes or None, columns)
        Group and place of each row for each structure over columns.
    residual : (codes or None, columns) or None
        The same for the residual structure, where it was asked for and there is one.
    weights : (n,) float64 array or None
        Where the residual was asked for.
    offset : (n,) float64 array or None
    n : int
    y : (n,) float64 array or None
        The response where it was asked for.
    """

    X: np.ndarray
    terms: tuple[tuple[np.ndarray, np.ndarray], ...]
    offset: np.ndarray | None
    n: int
    y: np.ndarray | None = None
    fields: tuple[Place, ...] = ()
    residual: Place | None = None
    weights: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class ModelFrame:
    """The arrays of a linear mixed model and what is needed to make them again for new data.

    Attributes
    ----------
    y : (n,) float64 array
    X : (n, p) float64 array
        Of full column rank.
    coef_names : tuple of str
        Names of its columns.
    aliased : tuple of str
        Columns left out because they are combinations of earlier ones, and factors of one level.
    response : str
    parts : tuple of FrameTerm and FrameField
        Random-effect terms and structures over columns in the order of the formula, then those of the residual.
    weights, offset : (n,) float64 array or None
    rows : (n,) int array
        Positions of the rows used.
    n_missing : int
        Rows dropped because a used column has no value there.
    n_input : int
        Rows of the data.
    kind : str
        ``"pandas"``, ``"polars"`` or ``"dict"``.
    fixed_terms : tuple of (str, tuple of int)
        Label of each fixed term and the positions of its columns in `X`.
    formula : Formula
    """

    y: np.ndarray
    X: np.ndarray
    coef_names: tuple[str, ...]
    aliased: tuple[str, ...]
    response: str
    parts: tuple[FrameTerm | FrameField, ...]
    weights: np.ndarray | None
    offset: np.ndarray | None
    rows: np.ndarray
    n_missing: int
    n_input: int
    kind: str
    fixed_terms: tuple[tuple[str, tuple[int, ...]], ...]
    formula: Formula
    encoder: Encoder
    kept: np.ndarray  # positions of the columns of X among all of the encoder's
    designs: tuple[TermDesign, ...]  # of the terms
    levels: Mapping[str, Levels]  # of the factors in the fixed part and left of bars
    offset_source: str | None  # column of the offset argument; "" for an array
    weights_source: str | None  # column of the weights; "" for an array
    used: tuple[str, ...]  # columns of the data that the model is made of
    residual: FrameField | None = None
    residual_text: str = ""
    variance_text: str = ""
    coding: tuple[str, ...] = ()  # what to know of the contrasts of factors

    @property
    def terms(self) -> tuple[FrameTerm, ...]:
        """The random-effect terms among the parts."""
        return tuple(part for part in self.parts if isinstance(part, FrameTerm))

    @property
    def fields(self) -> tuple[FrameField, ...]:
        """The structures over columns among the parts."""
        return tuple(part for part in self.parts if isinstance(part, FrameField))

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of how columns were read: the order of levels, levels left out, contrasts of ordered factors."""
        own = () if self.residual is None else (self.residual,)
        return tuple(dict.fromkeys(note for field in (*self.fields, *own) for note in field.placed.notes)) + self.coding

    def design(
        self,
        newdata: Any,
        response: bool = False,
        random: bool | Sequence[bool] = True,
        residual: bool = False,
        extend: bool = False,
    ) -> NewDesign:  # fmt: skip
        """Compute the design of new data.

        Parameters
        ----------
        newdata : pandas.DataFrame, polars.DataFrame or dict of arrays
            With the columns of the formula (the response only where asked for).
        response : bool
            Whether to evaluate the response too.
        random : bool, or one for each part
            Whether to evaluate the random parts; without them their columns need not be there. Where only some are
            wanted, the others have no effect (Z = 0) and no place.
        residual : bool
            Whether to evaluate the places of a residual structure and the weights too.
        extend : bool
            Number levels of grouping factors that the fit has not seen, behind the others.

        Raises
        ------
        DataError
            For missing columns or values, infinite values, and levels of a factor in the fixed part that were
            not in the data of the fit. Unknown levels of grouping factors get code -1, unless they `extend` them.
        """
        table, formula = open_table(newdata, "newdata"), self.formula
        if self.offset_source == "":
            message = "the offset was given as an array, so it is not known for newdata; give it as a column"
            raise DataError(message)
        if residual and self.weights_source == "":
            raise DataError("the weights were given as an array, so they are not known for newdata; give a column")
        wanted = [random] * len(self.parts) if isinstance(random, bool) else list(random)
        data = {name: _complete(table.column(name)) for name in self._columns(response, wanted, residual)}
        _check_finite(data)
        coded = {name: self._recoded(column) for name, column in data.items()}
        X = finite(self.encoder.columns(coded, table.n)[:, self.kept], self.coef_names)
        terms, fields = [], []
        designs = iter(self.designs)
        for part, is_wanted in zip(self.parts if any(wanted) else (), wanted, strict=False):
            if isinstance(part, FrameField):
                fields.append(part.rows(data, table.n) if is_wanted else (None, ()))
                continue
            design, q = next(designs), part.Z.shape[1]
            nothing = np.zeros((table.n, q)), np.zeros(table.n, np.int32)
            terms.append(design.rows(coded, data, table.n, extend) if is_wanted else nothing)
        places = self.residual.rows(data, table.n) if residual and self.residual else None
        weights = None
        if residual and self.weights_source:
            weights = _weights(np.asarray(data[self.weights_source].values, np.float64))
        offset = _offset(formula, data, self.offset_source, None, table.n)
        y = _response(formula, data, table.n) if response else None
        return NewDesign(X, tuple(terms), offset, table.n, y, tuple(fields), places, weights)

    def _columns(self, response: bool, wanted: Sequence[bool], residual: bool) -> tuple[str, ...]:
        """Columns of new data that `design` needs, `wanted` being the random parts."""
        formula = self.formula
        texts = formula.offsets + ((formula.response,) if response else ())
        own = [part for part, is_wanted in zip(self.parts, wanted, strict=True) if is_wanted]
        places_of_terms = {part.position for part in own if isinstance(part, FrameTerm)}
        plain = _bar_columns([bar for bar in formula.bars if bar.position in places_of_terms], formula)
        plain += tuple(name for part in own if isinstance(part, FrameField) for name in part.column_names)
        if residual:
            plain += (self.residual.column_names if self.residual else ()) + _names(self.weights_source)
        plain += _names(self.offset_source)
        return tuple(dict.fromkeys(side_columns(formula.side, formula) + expression_columns(texts, formula) + plain))

    def gaps(self, newdata: Any, random: bool | Sequence[bool] = True, residual: bool = False) -> np.ndarray:
        """Which rows (n,) of new data have a missing value in a column that their design needs."""
        table = open_table(newdata, "newdata")
        wanted = [random] * len(self.parts) if isinstance(random, bool) else list(random)
        missing = (table.column(name).missing for name in self._columns(False, wanted, residual))
        return np.logical_or.reduce([np.zeros(table.n, bool), *(gap for gap in missing if gap is not None)])

    def _recoded(self, column: Column) -> Column:
        """Give a factor of the fixed part the levels that it had in the fit."""
        levels = self.levels.get(column.name)
        if levels is None:
            if not column.is_number and column.name in _side_columns(self.formula):
                raise DataError(f"column {column.name!r} was numeric in the data of the fit and is not in newdata")
            return column
        is_logical = levels.keys == LOGICAL.keys
        if is_logical and column.kind == "number" and np.isin(column.values, (0, 1)).all():
            column = replace(column, kind="logical", values=column.values.astype(bool))
        codes = column.recode(levels)
        if (codes < 0).any():
            factor = column.as_factor()
            level = factor.levels[factor.values[np.argmax(codes < 0)]]
            message = f"column {column.name!r} has the level {level!r}, which was not in the data of the fit"
            raise DataError(f"{message}; known levels: {_listed(levels)}")
        if is_logical:
            return Column(column.name, "logical", codes.astype(bool))
        return Column(column.name, "factor", codes, levels, is_declared=True)


def build_frame(
    formula: Formula, data: Any, weights: Any = None, offset: Any = None,
    residual: ResidualSpec | None = None, known: Structures = NAMES, related: Collection[str] = (),
) -> ModelFrame:  # fmt: skip
    """Evaluate a formula on data.

    Parameters
    ----------
    formula : Formula
        From `jaxlmm.formula.parser.parse`.
    data : pandas.DataFrame, polars.DataFrame or dict of arrays
    weights, offset : str or (n_input,) array, optional
        A column of the data or an array as long as the data. Var(e_i) = sigma^2 / weights_i.
    residual : ResidualSpec, optional
        From `jaxlmm.formula.specs.residual_of`.
    known : mapping of names to covariance classes
    related : collection of str
        Grouping factors with a known relationship between their levels.

    Returns
    -------
    ModelFrame
        Rows with a missing value in a used column are dropped and counted.

    Raises
    ------
    DataError
        With one sentence that says what is wrong with the data.
    """
    table = open_table(data)
    specs = [field_of(bar, known, formula.text) for bar in formula.bars]
    residual = ResidualSpec(None) if residual is None else residual
    columns = _used_columns(formula, table, specs, residual)
    extra = {key: _argument(key, v, table) for key, v in (("weights", weights), ("offset", offset)) if v is not None}
    rows = _complete_rows([*columns.values(), *extra.values()], table.n)
    full = len(rows) == table.n
    data_used = {name: c if full and c.is_number else c.take(rows) for name, c in columns.items()}
    n = len(rows)
    _check_finite(data_used)
    formula = _with_factors(formula, data_used)
    y = _response(formula, data_used, n)
    errors = frame_residual(residual, data_used, columns)
    known_errors = errors is not None and errors.is_known
    if np.ptp(y) == 0 and not known_errors:
        raise DataError(f"the response {_name(formula)} is constant: there is nothing to explain")
    w = _weights(extra["weights"].values[rows]) if "weights" in extra else None
    source, weights_source = (None if v is None else v if isinstance(v, str) else "" for v in (offset, weights))
    shift = extra["offset"].values[rows] if "offset" in extra else None
    every, encoder = encode(formula.side, formula, data_used, n)
    X, kept = full_rank(finite(every, encoder.names))
    names = tuple(encoder.names[j] for j in kept)
    if n < X.shape[1] + (not known_errors):
        raise DataError(f"{n} complete rows cannot determine {X.shape[1]} fixed effects; more rows are needed")
    parts: list[FrameTerm | FrameField] = []
    designs: list[TermDesign] = []
    for bar, spec in zip(formula.bars, specs, strict=True):
        if spec is not None:
            parts.append(frame_field(spec, data_used, columns, spec.text))
            continue
        for term, design in random_terms(bar, formula, data_used, n, w, bar.group_label in related or known_errors):
            parts.append(term)
            designs.append(design)
    what = f"residual={residual.text!r}"
    parts += [frame_field(spec, data_used, columns, what) for spec in residual.fields]
    return ModelFrame(
        y=y,
        X=X,
        coef_names=names,
        aliased=_without_coefficient(encoder, kept),
        response=_name(formula),
        parts=tuple(parts),
        weights=w,
        offset=_offset(formula, data_used, None, shift, n),
        rows=rows,
        n_missing=table.n - n,
        n_input=table.n,
        kind=table.kind,
        fixed_terms=_fixed_terms(encoder, kept),
        formula=formula,
        encoder=encoder,
        kept=kept,
        designs=tuple(designs),
        levels={
            name: LOGICAL if data_used[name].is_number else data_used[name].levels
            for name in _side_columns(formula)
            if data_used[name].kind != "number"
        },
        offset_source=source,
        weights_source=weights_source,
        used=tuple(dict.fromkeys((*columns, *_names(weights_source), *_names(source)))),
        residual=errors,
        residual_text=residual.text,
        variance_text=residual.variance,
        coding=(*_coding(formula, data_used), *_one_level(formula, designs)),
    )


# -- rows and columns


def _names(source: str | None) -> tuple[str, ...]:
    return (source,) if source else ()


def _name(formula: Formula) -> str:
    return formula.readable(formula.response)


def _side_columns(formula: Formula) -> tuple[str, ...]:
    """Return the columns in the fixed part and left of bars."""
    sides = (formula.side, *(bar.side for bar in formula.bars))
    return tuple(dict.fromkeys(name for side in sides for name in side_columns(side, formula)))


def _coding(formula: Formula, data: Mapping[str, Column]) -> tuple[str, ...]:
    """What R would do otherwise: ordered factors have polynomial contrasts there, and those of other factors here."""
    sides = (formula.side, *(bar.side for bar in formula.bars))
    names = dict.fromkeys(f for side in sides for f in side.factors if f.isidentifier() and f not in CONSTANTS)
    ordinal = [formula.column(f) for f in names if data[formula.column(f)].is_ordinal]
    return tuple(
        f"{name}, an ordered factor, has treatment contrasts; C({name}, contr.poly) has R's polynomial ones"
        for name in ordinal
    )


def _one_level(formula: Formula, designs: Sequence[TermDesign]) -> tuple[str, ...]:
    """Terms left of bars that have no column."""
    empty = [(label, d.encoder.side) for d in designs for label, columns in d.encoder.terms if not columns]
    return tuple(f"{label} has one level: no column in {formula.readable(side.text)}" for label, side in empty)


def _bar_columns(bars: Sequence[Bar], formula: Formula) -> tuple[str, ...]:
    """Return the columns of random-effect terms."""
    names = [n for bar in bars for n in (*side_columns(bar.side, formula), *bar.group, *take_arm(bar.options)[1])]
    return tuple(dict.fromkeys(names))


def _used_columns(
    formula: Formula, table: OpenTable, specs: list[FieldSpec | None], residual: ResidualSpec
) -> dict[str, Column]:  # fmt: skip
    texts = (formula.response, *formula.offsets)
    names = expression_columns(texts, formula) + side_columns(formula.side, formula)
    names += _bar_columns(formula.bars, formula) + residual.columns
    names += tuple(name for spec in specs if spec is not None for name in spec.columns)
    return {name: table.column(name) for name in dict.fromkeys(names)}


def _argument(what: str, value: Any, table: OpenTable) -> Column:
    """Read the argument `weights` or `offset`: a column's name or an array."""
    if isinstance(value, str):
        if value not in table.names:
            raise DataError(f"{what}={value!r} is not a column of the data; {nearest(value, table.names)}")
        column = table.column(value)
    else:
        value = aligned(what, value, table.data)
        if not hasattr(value, "__len__") or len(value) != table.n:
            size = len(value) if hasattr(value, "__len__") else type(value).__name__
            message = f"{what} must be a column's name or an array as long as the data ({table.n} rows), got {size}"
            raise DataError(message)
        column = read_column(what, value)
    if column.kind != "number":
        raise DataError(f"{what} must be numeric, got text or true/false values")
    values = column.values.astype(np.float64)
    infinite = int(np.isinf(values).sum())
    if infinite:
        raise DataError(f"{what} is infinite in {infinite} row(s)")
    return Column(what, "number", values, missing=column.missing)


def _complete_rows(columns: list[Column], n: int) -> np.ndarray:
    gaps = [(c.name, c.missing) for c in columns if c.missing is not None]
    if not gaps:
        return np.arange(n)
    missing = np.any([m for _, m in gaps], axis=0)
    if missing.all():
        empty = [name for name, m in gaps if m.all()]
        why = (
            f"column {empty[0]!r} has only missing values" if empty else "each row has a missing value in a used column"
        )
        raise DataError(f"the data have no complete rows: {why}")
    return np.flatnonzero(~missing)


def _complete(column: Column) -> Column:
    if column.missing is not None:
        count = int(column.missing.sum())
        raise DataError(f"newdata has {count} missing value(s) in column {column.name!r}; fill or drop these rows")
    return column


def _check_finite(data: Mapping[str, Column]) -> None:
    for name, column in data.items():
        if column.values.dtype.kind == "f":
            count = int(np.isinf(column.values).sum())
            if count:
                raise DataError(f"column {name!r} is infinite in {count} row(s); correct or drop them")


def _listed(levels: tuple[str, ...]) -> str:
    return ", ".join(levels[:10]) + (", ..." if len(levels) > 10 else "")


# -- response, weights, offset


def _response(formula: Formula, data: Mapping[str, Column], n: int) -> np.ndarray:
    for name in expression_columns((formula.response,), formula):
        if data[name].kind != "number":
            found = {"logical": "true/false values", "time": "dates or times"}.get(
                data[name].kind, "text or categories"
            )
            raise DataError(f"the response must be numeric, but column {name!r} holds {found}")
    y = np.array(values_of(formula.response, formula, data, n), dtype=np.float64)
    return finite(y[:, None], (_name(formula),))[:, 0]


def _weights(weights: np.ndarray) -> np.ndarray:
    if (weights < 0).any():
        raise DataError(f"weights must be positive, but {int((weights < 0).sum())} are negative")
    if (weights == 0).any():
        count = int((weights == 0).sum())
        raise DataError(f"weights must be positive, but {count} are zero: drop those rows instead")
    return weights


def _offset(
    formula: Formula, data: Mapping[str, Column], column: str | None, given: np.ndarray | None, n: int
) -> np.ndarray | None:
    """Add up the offsets of the formula, of a column and of an array."""
    parts = [values_of(text, formula, data, n) for text in formula.offsets]
    names = [f"offset({formula.readable(text)})" for text in formula.offsets]
    if column:
        parts.append(np.asarray(data[column].values, dtype=np.float64))
    if given is not None:
        parts.append(given)
    if not parts:
        return None
    names += ["offset"] * (len(parts) - len(names))
    finite(np.column_stack(parts), tuple(names))
    return np.sum(parts, axis=0)


# -- fixed effects


def full_rank(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out columns that are combinations of earlier ones, with the rule of R's lm.

    A column goes where what earlier ones leave of it is less than 1e-7 of its spread about zero or about its mean, or
    no more than rounding of its length; lm knows its length alone, and drops seconds since 1970. Once X = Q R is
    known, the small R stands for X.
    """
    kept = np.arange(X.shape[1])
    if not kept.size or not len(X):
        return X, kept
    lengths = np.sqrt(np.einsum("ij,ij->j", X, X))
    moved = shifted(X, origin(X))
    spread = np.minimum(np.sqrt(len(X)) * np.std(moved, 0), lengths)
    least = np.maximum(COMBINATION * np.where(spread > 0, spread, lengths), ARITHMETIC * lengths)
    R = np.asarray(np.linalg.qr(moved, mode="r"))
    while True:
        diagonal = np.zeros(len(kept))
        diagonal[: min(R.shape)] = np.abs(np.diagonal(R))
        redundant = np.flatnonzero(diagonal <= least[kept])
        if not redundant.size:
            return (X if len(kept) == X.shape[1] else np.ascontiguousarray(X[:, kept])), kept
        kept = np.delete(kept, redundant[0])
        if not kept.size:
            return X[:, :0], kept
        R = np.asarray(np.linalg.qr(np.delete(R, redundant[0], axis=1), mode="r"))


def _with_factors(formula: Formula, data: Mapping[str, Column]) -> Formula:
    """``I(a)`` of a factor, or of true and false, is the factor ``a``, as in R."""

    def bare(factor: str) -> str:
        name = factor[2:-1] if factor.startswith("I(") else ""
        return name if name.isidentifier() and data[formula.column(name)].kind != "number" else factor

    def of(side: Side) -> Side:
        return replace(side, terms=tuple(tuple(map(bare, term)) for term in side.terms))

    bars = tuple(replace(bar, side=of(bar.side)) for bar in formula.bars)
    return replace(formula, side=of(formula.side), bars=bars)


def _without_coefficient(encoder: Encoder, kept: np.ndarray) -> tuple[str, ...]:
    """Columns that are combinations of others, and terms without any column: their factor has one level."""
    dropped = [name for j, name in enumerate(encoder.names) if j not in set(kept)]
    return (*dropped, *(label for label, columns in encoder.terms if not columns))


def _fixed_terms(encoder: Encoder, kept: np.ndarray) -> tuple[tuple[str, tuple[int, ...]], ...]:
    place = {int(j): i for i, j in enumerate(kept)}
    return tuple((label, tuple(place[j] for j in columns if j in place)) for label, columns in encoder.terms)
