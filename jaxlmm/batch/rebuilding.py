"""The arrays of a formula with other values of one column of the data: all that depends on it is made again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..design.encoding import encode, expression_columns, finite, side_columns
from ..design.frame import FrameField, FrameTerm, ModelFrame
from ..errors import DataError
from ..formula.syntax import Side
from ..frames.columns import Column, open_table
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
    elsewhere, designs = [], iter(frame.designs)
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
    elsewhere += [f"offset({formula.readable(text)})" for text in offsets]
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
