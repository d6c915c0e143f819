"""Confidence intervals of one fit by three methods: Wald, profile likelihood, parametric bootstrap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ...arguments import check_choice
from ...distributions import bounded_limits, check_level
from ...errors import DataError
from ...estimates.fitted import FitBase
from ...frames.columns import make_frame
from ...runtime.precision import float64
from ..delta import Natural, delta, natural
from ..fixed_effects.wald import check_tests
from ..identified import known_place
from .joint import Joint
from .profile import end_points
from .targets import ProfileTarget, Which, request, select

METHODS = ("wald", "profile", "bootstrap")


class Intervals(NamedTuple):
    """Names, estimates (m,) and limits (m, 2)."""

    names: tuple[str, ...]
    estimate: np.ndarray
    limits: np.ndarray

    def take(self, rows: list[int]) -> Intervals:
        """Some of them."""
        return Intervals(tuple(self.names[i] for i in rows), self.estimate[rows], self.limits[rows])


def confint(fit: FitBase, level: float, method: str, which: Which, df: str, n: int, seed: int) -> Any:
    """A frame (term, estimate, lower, upper), see ``Fit.confint``."""
    if isinstance(level, str):
        raise DataError(f"level: found {level!r}, expected a number between 0 and 1; quantities are chosen by which=")
    check_level(level)
    check_choice("method", method, METHODS)
    check_tests(df)
    if method == "wald":
        found = wald_intervals(fit, level, which, df)
    elif method == "profile":
        found = profile_intervals(fit, level, which)
    else:
        found = bootstrap_intervals(fit, level, which, n, seed)
    columns = {"estimate": found.estimate, "lower": found.limits[:, 0], "upper": found.limits[:, 1]}
    return make_frame(fit.frame.kind, {"term": list(found.names), **columns})


def profile_intervals(fit: FitBase, level: float, which: Which) -> Intervals:
    """Limits by the profile likelihood; estimates are those of the fit."""
    found = end_points(fit, which, level)
    own = dict(zip(fit.coef_names, fit.coef, strict=True))
    estimate = np.array([own.get(curve.name, curve.estimate) for curve in found.curves])
    return Intervals(found.names, estimate, found.intervals(level))


def wald_intervals(fit: FitBase, level: float, which: Which, df: str) -> Intervals:
    """Student's t for coefficients; normal on a scale without bounds for covariance parameters (observed information).

    The scale is that of logarithms for standard deviations, variances and ranges, Fisher's z for what lies between
    two bounds, and else that of the parameter itself. Limits are NaN on the boundary.
    """
    wanted = request(which)
    if isinstance(wanted, Mapping):
        each = [delta(fit, f) for f in wanted.values()]
        limits = np.concatenate([one.confint(level) for one in each])
        return Intervals(tuple(wanted), np.concatenate([one.estimate for one in each]), limits)
    with float64():
        coefs, targets = select(Joint(fit.model, fit.estimate, fit.method), fit, wanted)
    places = [fit.coef_names.index(name) for name in coefs]
    wald = fit.wald(df)
    rows = wald.rows(np.eye(len(fit.coef))[places])
    at = natural(fit) if targets else None
    others = [_wald_of(target, at, level) for target in targets if at is not None]
    limits = np.concatenate([np.reshape([pair for _, pair in others], (-1, 2)), wald.interval(rows, level)])
    names = (*(target.name for target in targets), *coefs)
    return Intervals(names, np.array([*(value for value, _ in others), *rows.estimate]), limits)


def _wald_of(target: ProfileTarget, at: Natural, level: float) -> tuple[float, tuple[float, float]]:
    """Estimate and limits of one covariance parameter."""
    with float64():
        value = target.shown(target.function(target.z).value)
    with np.errstate(all="ignore"):
        if len(target.place) == 1:
            se = np.sqrt(at.vcov[target.place[0], target.place[0]])
        elif target.place[1] == target.place[2]:
            part, i, _ = target.place
            se = np.sqrt(at.covariances[part][i, i]) / (2.0 * value)
        else:
            part, i, j = target.place
            se = np.sqrt(at.correlations[part][i, j])
    return value if known_place(at, target.place) else np.nan, bounded_limits(value, se, target.limits, level)


def bootstrap_intervals(fit: FitBase, level: float, which: Which, n: int, seed: int) -> Intervals:
    """Percentile limits of the parametric bootstrap."""
    wanted = request(which)
    if isinstance(wanted, Mapping):
        functions = tuple(wanted.values())
        found = fit.bootstrap(n, seed, statistic=lambda one: [float(f(one)) for f in functions])
        return Intervals(tuple(wanted), found.estimate, found.intervals(level))
    found = fit.bootstrap(n, seed)
    every = Intervals(found.names, found.estimate, found.intervals(level))
    if wanted is None:
        return every
    unknown = set(wanted) - {"coef", "covariance", *every.names}
    if unknown or not wanted:
        raise DataError(f"which: found {sorted(unknown)}, expected 'coef', 'covariance' or some of {every.names}")
    groups = ["coef" if name in fit.coef_names else "covariance" for name in every.names]
    return every.take([i for i, name in enumerate(every.names) if name in wanted or groups[i] in wanted])
