"""Predicted means by all fits of a batch, for cross-validation and prediction error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..batch.fits import BatchFit
from ..batch.queue import sizes
from ..batch.refitting import as_batch
from ..errors import DataError
from ..estimates.fitted import FitBase
from ..frames.alignment import aligned
from ..frames.columns import extend_rows
from ..inference.means.table import type_of
from ..likelihood.blup import given
from ..likelihood.model import Model
from ..likelihood.parts import Term
from ..likelihood.prepared import Prepared, prepare
from ..likelihood.products import covariances, solved, sum_of
from ..runtime.precision import float64
from ..runtime.programs import compiled
from ..runtime.sizes import check_memory
from .choice import Random, parts_of
from .forecast import gaps_of
from .newdata import NewRows, check_known, rows_of_data, rows_of_fit

FEW = 8  # fits whose coefficients are looked at where only these are needed
AWAY = 1e-3  # standard errors by which they may differ from generalised least squares, far above rounding


def predict_batch(
    fit: FitBase, batch: BatchFit, y: Any, newdata: Any = None, random: Random = True, allow_new_levels: bool = False,
    type: str = "link",
) -> np.ndarray:  # fmt: skip
    """Means (b, m) by the fits of a batch; see ``Fit.predict_batch``."""
    if (scale := type_of(fit, type)[0]) is not None:
        return scale(predict_batch(fit, batch, y, newdata, random, allow_new_levels))
    if not isinstance(batch, BatchFit):
        raise DataError(f"batch: found {batch.__class__.__name__}, expected the fits of Fit.refit(y)")
    model, parts = fit.model, parts_of(fit, random)
    Y = as_batch("y", aligned("y", y, fit.data, fit.frame.rows), len(model.y))
    if len(Y) != len(batch) or batch.coef.shape[1] != model.X.shape[1]:
        raise DataError(f"batch: expected the {len(Y)} fits of these responses by Fit.refit, found {len(batch)} with "
                        f"{batch.coef.shape[1]} coefficients")  # fmt: skip
    if newdata is not None and (gaps := gaps_of(fit, newdata, parts, False)).any():
        rows, out = np.flatnonzero(~gaps), np.full((len(Y), len(gaps)), np.nan)
        if len(rows):
            out[:, rows] = predict_batch(fit, batch, Y, extend_rows(newdata, rows, {}), random, allow_new_levels)
        return out
    new = rows_of_fit(model) if newdata is None else rows_of_data(fit.frame, model, newdata, parts, False)
    if newdata is not None and any(parts):
        if not allow_new_levels:
            check_known(fit.frame, new, parts)
        for part, there, kin in zip(model.random, parts, new.kin, strict=True):
            if there and (kin is not None or not isinstance(part, Term)):
                raise DataError(f"newdata: {part.name} at new places or through relatives is for Fit.predict")
    return predicted(model, batch, Y, new, parts)


def predicted(model: Model, batch: BatchFit, Y: np.ndarray, new: NewRows, parts: Sequence[bool]) -> np.ndarray:
    """Means (b, m) at new rows, with the effects of some of the random parts."""
    mean = batch.coef @ new.X.T + (0.0 if new.offset is None else new.offset)
    if not any(parts):
        some = np.flatnonzero(batch.converged & np.isfinite(Y).all(1))[:FEW]
        if len(some):
            _effects(model, batch.theta[some], batch.coef[some], batch.vcov[some], Y[some])
        return mean
    every = _effects(model, batch.theta, batch.coef, batch.vcov, Y)
    for part, unknown, (group, place), there, values in zip(
        model.random, new.unknown, new.parts, parts, every, strict=False
    ):
        if there and not isinstance(part, Term):
            mean = mean + values[..., 0]
        elif there and group is not None:
            known = np.where(unknown, 0, group)
            mean = mean + np.where(unknown, 0.0, np.einsum("mq,bmq->bm", place, values[:, known]))
    return mean


def _effects(
    model: Model, theta: np.ndarray, coef: np.ndarray, vcov: np.ndarray, Y: np.ndarray
) -> list[np.ndarray]:  # fmt: skip
    """Predicted effects of each random part, (b, levels, q), of a random function (b, n, 1).

    Raises
    ------
    DataError
        Where coefficients are not those of generalised least squares: of other responses, covariates or weights.
    """
    there = ~np.isnan(Y)
    rest = np.where(there, Y, 0.0) - coef @ model.X.T - (0.0 if model.offset is None else model.offset)
    complete, n = bool(there.all()), len(model.y)
    if not complete:
        check_memory("y", n, n, advice="predict complete responses, or fit them one by one")
    with float64():
        prepared = prepare(model, compact=False)
        capacity, slots = sizes(len(Y), prepared.statistics.work if complete else n * n)
        out: list[list[np.ndarray]] = [[] for _ in model.random]
        left = np.zeros(coef.shape)  # X'V^-1 (y - X beta)
        for first in range(0, len(Y), capacity):
            rows = np.arange(first, min(first + capacity, len(Y)))
            padded = np.resize(rows, capacity)  # few shapes to compile
            score, found = _predicted(slots, complete, model, prepared, theta[padded], rest[padded], there[padded])
            left[rows] = np.asarray(score)[: len(rows)]
            for own, values in zip(out, found, strict=True):
                own.append(np.asarray(values)[: len(rows)])
    with np.errstate(invalid="ignore"):
        away = np.abs(np.einsum("bij,bj->bi", vcov, left)) > AWAY * np.sqrt(np.diagonal(vcov, axis1=1, axis2=2))
    if away.any():
        raise DataError(
            f"batch: {int(away.any(1).sum())} fits are not those of these responses by fit.refit(y): of others "
            "(y), or of weights=, column= or values= of their own, with which fits are predicted one by one"
        )
    return [np.concatenate(own) for own in out]


@compiled("slots", "complete")
def _predicted(
    slots: int, complete: bool, model: Model, prepared: Prepared, theta: Array, rest: Array, there: Array
) -> tuple[Array, tuple[Array, ...]]:  # fmt: skip
    def one(lane: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, ...]]:
        theta, rest, there = lane
        C = model.blocks(theta)
        if complete:
            S = solved(prepared, model, C, rest[:, None])
        else:  # rows without a response are independent of all others, and zero
            V = jnp.where(there[:, None] & there, sum_of(covariances(model, C)), jnp.diag((~there).astype(float)))
            S = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(V, lower=True), (rest * there)[:, None])
        effects = tuple(given(part, G, S)[..., 0] for part, G in zip(model.random, C.random, strict=True))
        return model.X.T @ S[:, 0], effects

    return jax.lax.map(one, (theta, rest, there), batch_size=slots)
