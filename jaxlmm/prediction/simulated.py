"""``Fit.simulate``: new responses at the rows of the data, or at new rows with groups of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import pytrees
from ..arguments import check_choice
from ..errors import DataError
from ..estimates.effects import linear_predictor
from ..estimates.fitted import FitBase
from ..fitting.estimate import blocks_at
from ..frames.columns import extend_rows
from ..inference.hypotheses.grid import not_estimable
from ..likelihood.engines import Blocks
from ..likelihood.model import Model
from ..likelihood.parts import Field, Residual, Term
from ..runtime.precision import float64
from ..runtime.sizes import check_count, check_draws
from ..simulation.simulate import draw_rows, replicate_keys, simulate
from .newdata import NewRows, rows_of_data, rows_of_fit


def responses(fit: FitBase, n: int, seed: int, newdata: Any, effects: str) -> np.ndarray:
    """Draw (n, rows) responses; see ``Fit.simulate``."""
    check_choice("effects", effects, ("new", "predicted"))
    if newdata is None and effects == "new":
        return simulate(fit.model, fit.estimate, n, seed)
    check_count("n", n)
    if newdata is None:
        new, mean = rows_of_fit(fit.model), fit.fitted
    elif (gaps := fit.frame.gaps(newdata, True, True)).any():  # these rows are NaN, as in predictions
        out, there = np.full((n, len(gaps)), np.nan), np.flatnonzero(~gaps)
        if there.size:
            out[:, there] = responses(fit, n, seed, extend_rows(newdata, there, {}), effects)
        return out
    else:
        new = rows_of_data(fit.frame, fit.model, newdata, random=True, residual=True)
        if (unknown := not_estimable(fit, newdata)).any():
            raise DataError(
                f"newdata: the data of the fit cannot estimate the mean of {int(unknown.sum())} rows, the first being "
                f"row {int(np.argmax(unknown))}; leave these out"
            )
        mean = linear_predictor(new.X, fit.coef, new.offset)
    check_draws("n", n, len(mean))
    model = _model_at(fit.model, new)
    blocks = blocks_at(model, fit.estimate)
    if effects == "predicted":
        if newdata is not None:
            mean = fit.predict(newdata, allow_new_levels=True)
        model, blocks = _without_known(model, blocks, new)
    with float64():
        return draw_rows(model, mean, blocks, replicate_keys(seed, np.arange(n)))


def _model_at(model: Model, new: NewRows) -> Model:
    """The model at other rows; levels that the fit has not seen are independent of all others."""
    m = len(new)
    random = []
    for part, (group, place), related in zip(model.random, new.parts, new.kin, strict=False):
        if isinstance(part, Field):
            random.append(_field_at(part, group, place))
            continue
        assert group is not None
        kin = part.relationship if related is None else related.beside(part.relationship)
        levels = max(int(group.max()) + 1, part.levels if kin is None else len(kin))
        if kin is not None:
            known, kin = kin, np.eye(levels)
            kin[: len(known), : len(known)] = known
        random.append(pytrees.replace(part, Z=place, group=group, levels=levels, relationship=kin))
    residual = model.residual if model.residual.group is None else _field_at(model.residual, *new.parts[-1])
    return pytrees.replace(
        model, y=np.zeros(m), X=new.X, random=tuple(random), residual=residual, weights=new.weights, offset=new.offset,
        layout=None,
    )  # fmt: skip


def _field_at(part: Field, group: np.ndarray | None, place: np.ndarray) -> Any:
    where = {"position": place} if part.coords is None else {"coords": place}
    group = np.arange(len(place)) if group is None else group
    if isinstance(part, Residual):
        return Residual(part.structure, group, **where, dim=part.dim)
    return Field(part.structure, group, **where, dim=part.dim, name=part.name)


def _without_known(model: Model, blocks: Blocks, new: NewRows) -> tuple[Model, Blocks]:
    """The model with random effects at rows of new levels only: those of the others are in the mean."""
    random, kept = [], []
    for part, G, unknown in zip(model.random, blocks.random, new.unknown, strict=True):
        if isinstance(part, Term):
            random.append(pytrees.replace(part, Z=part.Z * unknown[:, None]))
            kept.append(G)
        elif unknown.any():
            raise DataError(
                f"effects: {part.name} has no prediction for groups that were not in the fit; use effects='new'"
            )
    return pytrees.replace(model, random=tuple(random)), Blocks(tuple(kept), blocks.residual)
