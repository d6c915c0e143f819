"""The arrays of a formula with other values of one column of the data: all that depends on it is made again."""

from __future__ import annotations

from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..design.encoding import Encoder, encode, expression_columns, finite, is_direct, side_columns
from ..design.frame import FrameField, FrameTerm, ModelFrame, full_rank
from ..errors import DataError
from ..formula.syntax import Side
from ..frames.columns import Column, open_table, read_column
from ..likelihood.model import Model
from ..pytrees import replace


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """X and the Z of the terms for values of a column.

    Attributes
    ----------
    data : columns (n,) that the formula uses
    """

    frame: ModelFrame
    name: str
    data: dict[str, Column]

    def __call__(self, values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """X and Z of the `rows` (r,), the column having `values` (r,) there; as `jaxlmm.lmm` makes them of such data.

        Raises
        ------
        DataError
            Where the formula has no value, such as the logarithm of a negative number.
        """
        n, formula = len(rows), self.frame.formula
        data = {name: column.take(rows) for name, column in self.data.items()}
        data[self.name] = Column(self.name, "number", values)

        def made(side: Side, names: tuple[str, ...]) -> np.ndarray:
            matrix, encoder = encode(side, formula, data, n)
            if encoder.names != names:
                raise DataError(f"the columns of {side.text} are not those of the fit")
            return finite(matrix, names)

        encoder = self.frame.encoder
        X = made(encoder.side, encoder.names)[:, self.frame.kept]
        return X, [d.in_arm(made(d.encoder.side, d.encoder.names), data) for d in self.frame.designs]

    def model(self, model: Model, y: np.ndarray, values: np.ndarray, rows: np.ndarray, weights: Any) -> Model:
        """The model of the `rows`, with a response, values and weights (r,) there."""
        X, Z = self(values, rows)
        terms, random = iter(Z), []
        for part, own in zip(self.frame.parts, model.random, strict=True):
            part_of_rows = own.subset(rows, keep=model.evaluator.keeps_levels)
            random.append(replace(part_of_rows, Z=next(terms)) if isinstance(part, FrameTerm) else part_of_rows)
        offset = None if model.offset is None else model.offset[rows]
        residual = model.residual.subset(rows)
        return Model(y, X, random, residual, weights, offset, model.evaluator, checks=False)


def redrawn(
    frame: ModelFrame, model: Model, data: Any, drawn: Mapping[str, np.ndarray], response: str
) -> list[Model | None]:  # fmt: skip
    """The models of complete data sets that have other numbers (b, n) in some columns, those of all encoded at once.

    Returns
    -------
    As `jaxlmm.interface.model_of` makes them; None where it has to look at a data set, or to say what is wrong with it.
    """
    Y, table, formula = np.asarray(drawn[response], np.float64), open_table(data), frame.formula
    b, n = Y.shape
    nothing: list[Model | None] = [None] * b
    names = {name for name in frame.used if name in drawn and name != response}
    columns = {name: read_column(name, np.ravel(drawn[name])) for name in names}
    if _dependent(frame, names)[0] or any(c.kind != "number" or c.missing is not None for c in columns.values()):
        return nothing
    each = np.tile(np.arange(n), b)
    columns |= {name: table.column(name).take(each) for name in frame.used if name not in drawn}
    designs = [frame.encoder.side, *(design.encoder.side for design in frame.designs)]
    if not all(is_direct(side, formula, columns) for side in designs):
        return nothing

    def made(encoder: Encoder) -> np.ndarray:
        matrix, again = encode(encoder.side, formula, columns, b * n)
        return matrix if again.names == encoder.names else np.full((b * n, 1), np.nan)

    X = made(frame.encoder).reshape(b, n, -1)
    own = iter(frame.designs)
    Z: list[np.ndarray | None] = []
    for part, term in zip(frame.parts, model.random, strict=True):
        Z.append(None)
        if isinstance(part, FrameTerm) and names & set(side_columns((design := next(own)).encoder.side, formula)):
            if not term.structure.is_matrix:
                return nothing
            Z[-1] = design.in_arm(made(design.encoder), columns).reshape(b, n, -1)
    out = nothing
    for i, y in enumerate(Y):
        varying = [X[i], *(z[i] for z in Z if z is not None)]
        if not all(np.isfinite(values).all() for values in (y, *varying)) or np.ptp(y) == 0:
            continue
        of_rank, kept = full_rank(X[i])
        if not np.array_equal(kept, frame.kept):
            continue
        terms = [t if z is None else replace(t, Z=z[i].copy()) for t, z in zip(model.random, Z, strict=True)]
        with suppress(DataError):
            out[i] = Model(y, of_rank, terms, model.residual, model.weights, model.offset, model.evaluator)
    return out


def _dependent(frame: ModelFrame, sources: Set[str]) -> tuple[list[str], list[str]]:
    """What depends on columns beside the fixed effects: what cannot be made again with them, and random terms."""
    formula = frame.formula
    elsewhere, again, designs = [], [], iter(frame.designs)
    for part in frame.parts:
        if isinstance(part, FrameField):
            names = set(part.column_names)
        else:
            design = next(designs)
            names = {*design.grouping.names, *(() if design.arm is None else design.arm[:1])}
            if sources & set(side_columns(design.encoder.side, formula)):
                again.append(part.text)
        if sources & names:
            elsewhere.append(part.text)
    if frame.residual is not None and sources & set(frame.residual.column_names):
        elsewhere.append("the residual structure")
    given = {"weights": frame.weights_source, "offset": frame.offset_source}
    elsewhere += [f"{what}=" for what, source in given.items() if source in sources]
    offsets = [text for text in formula.offsets if sources & set(expression_columns((text,), formula))]
    return elsewhere + [f"offset({formula.readable(text)})" for text in offsets], again


def rebuilt(frame: ModelFrame, data: Any, column: str) -> Rebuilt | None:
    """How to make the arrays again when the coefficient `column` has other values; None where it is one column of X.

    Raises
    ------
    DataError
        Where something depends on it that cannot be made again: levels of factors, places, variances, and anything
        where `column` is not a number of the data itself.
    """
    formula, place = frame.formula, frame.coef_names.index(column)
    own = next(positions for _, positions in frame.fixed_terms if place in positions)
    terms = {formula.readable(":".join(term)): term for term in frame.encoder.side.terms}
    using = {label: set(expression_columns(terms.get(label, ()), formula)) for label, _ in frame.fixed_terms}
    sources = next(using[label] for label, positions in frame.fixed_terms if positions == own)
    again = [frame.coef_names[j] for j in own if j != place]  # further columns of a factor or a spline
    again += [label for label, positions in frame.fixed_terms if positions != own and using[label] & sources]
    elsewhere, terms_again = _dependent(frame, sources)
    again += terms_again
    again = [text for text in dict.fromkeys(again) if text not in elsewhere]
    if not again and not elsewhere:
        return None
    table = open_table(data)
    columns = {name: table.column(name).take(frame.rows) for name in frame.used}
    is_number = sources == {column} and columns[column].kind == "number"
    if not is_number or elsewhere:
        named = ", ".join([*elsewhere, *again])
        raise DataError(
            f"column: {column!r} is not alone: {named} would have to change with it"
            + (", which is not possible here; fit each data set with lmm, or " if elsewhere else
               f"; name a column of numbers of the data ({', '.join(sorted(sources))}), or ")
            + f"replace this column of X alone with jaxlmm.fit_batch(fit.model, Y, column={place}, values=)"
        )  # fmt: skip
    return Rebuilt(frame, column, columns)
