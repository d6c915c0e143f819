"""Simulation envelopes: what a plot looks like for data that the fitted model has generated.

A parametric bootstrap: responses are simulated from the fit, the model is fitted again to each, and the same is
computed of every fit (Atkinson 1985, Plots, Transformations and Regression, ch. 4; Hilden-Minton 1995 for mixed
models). So shrinkage, leverage and unequal variances of residuals are in the envelope as they are in the data.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..distributions import check_level
from ..errors import DataError
from ..estimates.fitted import FitBase

FEWEST = 19


class Envelope(NamedTuple):
    """Limits (m,) of a curve."""

    lower: np.ndarray
    upper: np.ndarray


def refitted(fit: FitBase, n: int, seed: int) -> Iterator[Any]:
    """The model fitted to n simulated responses, in one batch; those that did not converge are left out.

    They serve for predictions and residuals: certificate and information are still those of `fit`.
    """
    if not n:
        return
    Y = fit.simulate(n, seed)
    batch: Any = fit.refit(Y, progress=False)
    for i in np.flatnonzero(batch.converged):
        one = batch[int(i)]
        changed = {name: getattr(one, name) for name in ("theta", "loglik", "coef", "vcov", "covariances", "residual")}
        sigma = None if fit.sigma is None else one.sigma
        estimate = dataclasses.replace(fit.estimate, sigma=sigma, **changed)
        frame = dataclasses.replace(fit.frame, y=Y[i])
        yield dataclasses.replace(fit, frame=frame, model=fit.model.replace(y=Y[i]), estimate=estimate)


def simulated(fit: FitBase, n: int, seed: int, *curves: Callable[[Any], np.ndarray]) -> tuple[np.ndarray, ...]:
    """Values (r, m) of each curve, a function of a fit, for the r of n simulated data sets that could be fitted.

    Raises
    ------
    DataError
        For n that is neither 0 nor at least `FEWEST`, and where fewer than half of the fits converge.
    """
    if n and n < FEWEST:
        raise DataError(f"n: expected 0 (no envelope) or at least {FEWEST} simulated data sets, found {n!r}")
    if n and fit.model.evaluator.stochastic:
        raise DataError(f"n: the {fit.engine} engine fits one data set at a time, use n=0 for no envelope")
    rows = [[np.asarray(curve(one)) for curve in curves] for one in refitted(fit, n, seed)]
    if len(rows) < n / 2:
        raise DataError(f"n: only {len(rows)} of {n} simulated data sets could be fitted; use n=0 for no envelope")
    return tuple(np.stack(found) for found in zip(*rows, strict=True))


def envelope(values: np.ndarray, level: float = 0.95, simultaneous: bool = False) -> Envelope:
    """The envelope of simulated curves (r, m), NaN where a curve has no value.

    Parameters
    ----------
    level : part of curves inside, at each place; or with `simultaneous` at all places at once
    simultaneous : limits at an equal number of standard deviations from the mean of the curves everywhere, such that
        the largest deviation of that part of the curves is inside (Myllymaki et al. 2017, JRSS B 79:381, studentised)
    """
    tail = 0.5 * (1.0 - check_level(level))
    with warnings.catch_warnings():  # places where no curve has a value
        warnings.simplefilter("ignore", RuntimeWarning)
        if not simultaneous:
            lower, upper = np.nanquantile(values, [tail, 1.0 - tail], axis=0, method="weibull")
            return Envelope(lower, upper)
        mean, sd = np.nanmean(values, 0), np.nanstd(values, 0, ddof=1)
        sd = np.where(sd > 0, sd, np.inf)
        largest = np.nanmax(np.abs(values - mean) / sd, axis=1)
    half = np.quantile(largest, level, method="weibull") * np.where(np.isfinite(sd), sd, 0.0)
    return Envelope(mean - half, mean + half)
