"""Standardised effects: shares of variance of terms from F tests, and differences in standard deviations."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..distributions import check_level
from ..errors import DataError
from ..estimates.fitted import FitBase
from ..frames.columns import make_frame
from .delta import delta
from .means.table import EMMeans
from .shares import mean_residual, total_variance
from .uncertain import Parameters

SDS = ("total", "residual")


def effect_sizes(
    fit: FitBase, type: int | str = 3, df: str = "satterthwaite", level: float = 0.95, definition: str = "sas",
    **options: Any,
) -> Any:  # fmt: skip
    """See ``Fit.effect_sizes``."""
    tail, tests = 0.5 * (1.0 - check_level(level)), fit.anova(type, df, definition, **options)
    names = ("eta2", "lower", "upper", "epsilon2", "omega2")
    columns = {name: np.full(len(tests.tests), np.nan) for name in names}
    for i, (F, r, den, _) in enumerate(tests.tests):
        if not (np.isfinite(F) and np.isfinite(den) and r > 0):
            continue
        limits = (noncentrality(F, r, den, below) for below in (1.0 - tail, tail))
        found = (
            F * r / (F * r + den), *(nc / (nc + den) for nc in limits),
            max(0.0, (F - 1.0) * r / (F * r + den)), max(0.0, (F - 1.0) * r / (F * r + den + 1.0)),
        )  # fmt: skip
        for name, value in zip(names, found, strict=True):
            columns[name][i] = value
    return make_frame(tests.kind, {"term": list(tests.hypotheses), **columns})


def noncentrality(F: float, r: float, den: float, below: float) -> float:
    """The noncentrality of the F distribution that is below F with a probability; 0 where all are less.

    NaN of F so large, above 1e8, that SciPy's distribution function has no value.
    """
    from scipy.optimize import brentq
    from scipy.special import ncfdtr

    def gap(nc: float) -> float:
        return float(ncfdtr(r, den, nc, F)) - below

    if not gap(0.0) > 0.0:
        return 0.0
    top = 1.0
    while gap(top) > 0.0:
        top *= 2.0
    try:
        return float(brentq(gap, 0.0, top, xtol=1e-10, rtol=1e-12))
    except ValueError:
        return np.nan


def standardized(fit: FitBase, contrasts: EMMeans, sd: str | float, edf: float, level: float) -> Any:
    """See ``Fit.standardized``: ``Var d = Var(estimate) / sd^2 + d^2 Var(log sd)``, coefficients and SD independent."""
    if not isinstance(contrasts, EMMeans):
        raise DataError("contrasts: expected means or contrasts, such as fit.emmeans('arm').pairs()")
    if contrasts.shown is not None:
        raise DataError("contrasts: on the scale of the response; standardise those with type='link'")
    if isinstance(sd, str) and sd in SDS:
        if not np.array_equal(contrasts.wald.coef, fit.coef):
            raise DataError("contrasts: expected those of this fit, found another's, or of predicted effects")

        def variance(p: Parameters) -> Any:
            return total_variance(fit.model, p) if sd == "total" else mean_residual(fit.model, p)

        found = delta(fit, lambda p: 0.5 * jnp.log(variance(p)))
        size, spread = float(np.exp(found.estimate[0])), float(found.vcov[0, 0])
    else:
        if isinstance(sd, str | bool) or not 0 < float(sd) < np.inf or not edf > 0:
            raise DataError(f"sd: found {sd!r} (edf={edf!r}), expected 'total', 'residual' or a positive number")
        size, spread = float(sd), 0.5 / edf
    frame = contrasts.frame()
    estimate, se, df = (np.asarray(frame[name], np.float64) for name in ("estimate", "std_error", "df"))
    d = estimate / size
    error = np.sqrt((se / size) ** 2 + d**2 * spread)
    side = contrasts.side  # one-sided contrasts have one limit
    lower, upper = side.limits(d, side.reach(check_level(level), df) * error)
    columns = {"effect_size": d, "std_error": error, "df": df, "lower": lower, "upper": upper}
    return make_frame(contrasts.kind, {**contrasts.labels, **columns})
