"""``Fit.predict``: what is predicted, and the intervals around it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..distributions import check_level, two_sided
from ..errors import DataError, NotEstimableWarning
from ..estimates.effects import effects_by_term, effects_of, linear_predictor
from ..estimates.fitted import FitBase
from ..frames.columns import extend_rows, index_of, make_frame, open_table
from ..inference.fixed_effects.wald import Wald, check_tests
from ..inference.hypotheses.grid import not_estimable
from ..inference.means.table import type_of
from ..inference.unidentified import unidentified
from ..likelihood.parts import Term
from ..linalg import quadratic
from ..tolerances import INDEPENDENT
from .choice import Random, parts_of
from .errors import Predictor
from .newdata import ABSENT, FRESH, SHARED, NewRows, check_known, rows_of_data, rows_of_fit

INTERVALS = (None, "confidence", "prediction")
COLUMNS = ("estimate", "std_error", "df", "lower", "upper")
MANY = 1e12  # degrees of freedom that are infinite but for rounding


def predict(
    fit: FitBase, newdata: Any = None, random: Random = True, se: bool = False, interval: str | None = None,
    level: float = 0.95, df: str = "satterthwaite", allow_new_levels: bool = False, residual: bool = False,
    type: str = "link", **method: Any,
) -> Any:  # fmt: skip
    """Means (m,), or a frame with their errors; see ``Fit.predict``."""
    scale, _ = type_of(fit, type)
    if scale is not None:
        found = predict(fit, newdata, random, se, interval, level, df, allow_new_levels, residual, **method)
        if isinstance(found, np.ndarray):
            return scale(found)
        numbers = scale.of_table({name: np.asarray(found[name], np.float64) for name in COLUMNS})
        return _indexed(fit, numbers, newdata)
    _check(fit, random, se, interval, residual)
    check_tests(df, **method)
    check_level(level)
    parts = parts_of(fit, random)
    some = random is True or any(parts)
    around = se or interval is not None
    observed = interval == "prediction" or residual  # the residual is part of what is predicted
    if newdata is None:
        new = rows_of_fit(fit.model)
    elif (gaps := gaps_of(fit, newdata, observed or parts, observed)).any():
        there = np.flatnonzero(~gaps)
        options = {"allow_new_levels": allow_new_levels, "residual": residual, **method}
        found = None
        if there.size:
            some_rows = extend_rows(newdata, there, {})
            found = predict(fit, some_rows, random, se, interval, level, df, **options)
        return _withgaps_of(fit, found, there, newdata) if around else _spread(found, there, len(gaps))
    else:
        new = rows_of_data(fit.frame, fit.model, newdata, observed or parts, observed)
        if some and not allow_new_levels:
            check_known(fit.frame, new, parts)
    if not some and not observed:
        mean = linear_predictor(new.X, fit.coef, new.offset)
        if not around:
            return _known(fit, mean, new, parts, newdata)
        rows = fit.wald(df, **method).rows(new.X)
        return _frame(fit, mean, rows.se, rows.df, level, newdata)

    def state(part: int) -> str:
        is_shared = residual if part == len(parts) else parts[part]
        return SHARED if is_shared else FRESH if observed else ABSENT

    if around:
        return _with_errors(fit, new, state, level, df, method, newdata, parts)
    if newdata is not None and (fit.frame.fields or any(kin is not None for kin in new.kin)) or residual:
        return Predictor.of(fit)(new, state, errors=False).mean
    return _known(fit, _conditional_mean(fit, new, parts), new, parts, newdata)


def _known(fit: FitBase, mean: np.ndarray, new: NewRows, parts: Sequence[bool], newdata: Any) -> np.ndarray:
    """Means (m,), NaN where they move along what the data do not identify.

    Warns
    -----
    NotEstimableWarning
        With the number of these rows.
    """
    moves, of_rows = (
        unidentified(fit),
        newdata is not None and (fit.frame.fields or any(kin is not None for kin in new.kin)),
    )
    if moves is None or (of_rows and any(parts)):
        return mean
    terms = _terms(fit, new, parts)
    each = enumerate(moves.coef)
    change = [linear_predictor(new.X, c, None, terms, tuple(v[d] for v in moves.values)) for d, c in each]
    unknown = moves.means(np.stack(change))
    if unknown.any():
        warnings.warn(
            f"{int(unknown.sum())} rows have no prediction (NaN): the data do not identify covariance parameters that "
            "they depend on",
            NotEstimableWarning,
            stacklevel=2,
        )
    return np.where(unknown, np.nan, mean)


def gaps_of(fit: FitBase, newdata: Any, random: Any, residual: bool) -> np.ndarray:
    """Rows (n,) of new data that have no prediction: a value is missing, or the data of the fit say nothing of them."""
    gaps = fit.frame.gaps(newdata, random, residual)
    there = np.flatnonzero(~gaps)
    if there.size:
        unknown = not_estimable(fit, extend_rows(newdata, there, {}) if gaps.any() else newdata)
        if unknown.any():
            warnings.warn(
                f"newdata: {int(unknown.sum())} rows have no prediction (NaN): the data of the fit cannot estimate "
                "their mean, as of a combination of levels without data",
                NotEstimableWarning,
                stacklevel=2,
            )
        gaps[there] = unknown
    return gaps


def _check(fit: FitBase, random: Random, se: bool, interval: str | None, residual: bool) -> None:
    if interval not in INTERVALS:
        raise DataError(f"interval: found {interval!r}, expected None, 'confidence' or 'prediction'")
    if residual and not (isinstance(random, (bool, np.bool_)) and random):
        raise DataError("residual: a residual that is correlated with those of the data needs random=True")
    if residual and interval == "confidence":
        raise DataError("residual: with the residual it is an observation; use interval='prediction'")
    if (se or interval) and not fit.converged:
        raise DataError(f"se: the fit has no optimum, so its errors are not known: {fit.estimate.status.advice}")


def _conditional_mean(fit: FitBase, new: NewRows, parts: Sequence[bool]) -> np.ndarray:
    """Means with predicted random effects, those of new levels zero, and random functions at the rows of the fit."""
    values = effects_by_term(fit.model, effects_of(fit))
    return linear_predictor(new.X, fit.coef, new.offset, _terms(fit, new, parts), values)


def _terms(fit: FitBase, new: NewRows, parts: Sequence[bool]) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Z and codes of each random part, -1 where there is no effect."""
    terms = []
    for part, unknown, (group, place), there in zip(fit.model.random, new.unknown, new.parts, parts, strict=False):
        if isinstance(part, Term):
            assert group is not None
            terms.append((place, np.where(unknown | ~np.bool_(there), -1, group)))
        else:
            terms.append((np.ones((len(new), 1)), np.arange(len(new)) if there else np.full(len(new), -1)))
    return tuple(terms)


def _with_errors(
    fit: FitBase, new: NewRows, state: Any, level: float, df: str, method: dict[str, Any], newdata: Any,
    parts: Sequence[bool],
) -> Any:  # fmt: skip
    if method.get("robust") is not None:
        raise DataError(
            "robust: sandwich covariances are for population means; use random=False, interval='confidence'"
        )
    if df == "kenward-roger-full":
        raise DataError("df: 'kenward-roger-full' is for fixed effects; use 'kenward-roger' or 'satterthwaite'")
    by: Wald = fit.wald(df, **method)
    chart, inverse = by.parameters if by.parameters is not None else ("solver", None)
    is_kr, at = df == "kenward-roger", Predictor.of(fit, chart)
    found = at(new, state, W=inverse.W if inverse is not None and is_kr else None)
    error = np.sqrt(found.mse + found.extra)
    if inverse is None:
        freedom = by.rows(new.X).df
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            known = inverse.known(found.slopes.T / found.mse)
        if is_kr and inverse.lost.any():
            known &= at(new, state, W=inverse.lost @ inverse.lost.T).extra < INDEPENDENT * found.mse
        variance = np.where(known | (found.mse == 0), quadratic(found.slopes, inverse.W), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = 2.0 * found.mse**2 / variance
        freedom = np.where((found.mse > 0) & ~(freedom > MANY), freedom, np.inf)
        error = np.where(known | (found.mse == 0) | ~inverse.lost.any(), error, np.nan)
    mean = _known(fit, found.mean, new, parts, newdata)
    return _frame(fit, mean, np.where(np.isnan(mean), np.nan, error), freedom, level, newdata)


def _frame(fit: FitBase, mean: np.ndarray, error: np.ndarray, df: np.ndarray, level: float, newdata: Any) -> Any:
    half = two_sided(level, df) * error
    return _indexed(fit, dict(zip(COLUMNS, (mean, error, df, mean - half, mean + half), strict=True)), newdata)


def _indexed(fit: FitBase, columns: dict[str, np.ndarray], newdata: Any) -> Any:
    """A frame with the index of the rows that it is of."""
    made = make_frame(fit.frame.kind, columns)
    index = index_of(fit.data if newdata is None else newdata)
    if index is not None and index_of(made) is not None:
        made.index = index[fit.frame.rows] if newdata is None else index
    return made


def _withgaps_of(fit: FitBase, found: Any, there: np.ndarray, newdata: Any) -> Any:
    """The frame of all rows from that of those without missing values."""
    n = open_table(newdata, "newdata").n
    own = {name: None if found is None else np.asarray(found[name]) for name in COLUMNS}
    return _indexed(fit, {name: _spread(values, there, n) for name, values in own.items()}, newdata)


def _spread(values: np.ndarray | None, there: np.ndarray, n: int) -> np.ndarray:
    """Values (n,) of all rows, NaN where there are none."""
    out = np.full(n, np.nan)
    if values is not None:
        out[there] = values
    return out
