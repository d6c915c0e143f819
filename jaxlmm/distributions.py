"""Tails and quantiles of t and F, with infinite degrees of freedom."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import DataError


def check_level(level: Any, name: str = "level") -> float:
    """Refuse what is not between 0 and 1."""
    if isinstance(level, bool) or not isinstance(level, (int, float, np.number)) or not 0.0 < level < 1.0:
        raise DataError(f"{name}: expected a number between 0 and 1, found {level!r}")
    return float(level)


def t_tail(t: Any, df: Any) -> np.ndarray:
    """Two-sided p values of t statistics; infinite degrees of freedom are the normal distribution."""
    from scipy.special import ndtr, stdtr

    t, df = np.broadcast_arrays(np.asarray(t, float), np.asarray(df, float))
    with np.errstate(invalid="ignore"):
        return 2.0 * np.where(np.isinf(df), ndtr(-np.abs(t)), stdtr(np.where(np.isinf(df), 1.0, df), -np.abs(t)))


def t_quantile(q: float, df: Any) -> np.ndarray:
    """Quantiles of t."""
    from scipy.special import ndtri, stdtrit

    df = np.asarray(df, float)
    return np.where(np.isinf(df), ndtri(q), stdtrit(np.where(np.isinf(df), 1.0, df), q))


def two_sided(level: Any, df: Any) -> np.ndarray:
    """The quantile that t is within, on either side of zero, with probability `level`; refuses what is none."""
    return t_quantile(0.5 * (1.0 + check_level(level)), df)


def f_tail(F: Any, num_df: Any, den_df: Any) -> np.ndarray:
    """Upper tail of F; with infinite denominator degrees of freedom that of chi-squared."""
    from scipy.special import chdtrc, fdtrc

    F, den_df = np.broadcast_arrays(np.asarray(F, float), np.asarray(den_df, float))
    infinite = np.isinf(den_df)
    return np.where(infinite, chdtrc(num_df, F * num_df), fdtrc(num_df, np.where(infinite, 1.0, den_df), F))


def f_quantile(q: float, num_df: int, den_df: Any) -> np.ndarray:
    """Quantiles of F; with infinite denominator degrees of freedom those of chi-squared over its degrees."""
    from scipy.special import chdtri, fdtri

    den_df = np.asarray(den_df, float)
    infinite = np.isinf(den_df)
    return np.where(infinite, chdtri(num_df, 1.0 - q) / num_df, fdtri(num_df, np.where(infinite, 1.0, den_df), q))


def bounded_limits(value: Any, se: Any, bounds: tuple[float, float], level: float) -> tuple[float, float]:
    """Normal limits of a number between bounds, on a scale without any: logarithm or, between two, Fisher's z."""
    z = float(two_sided(level, np.inf))
    value, (lower, upper) = np.float64(value), bounds
    with np.errstate(all="ignore"):
        if lower == 0.0 and upper == np.inf:
            return value / np.exp(z * se / value), value * np.exp(z * se / value)
        if np.isfinite(upper - lower):
            unit = 2.0 * (value - lower) / (upper - lower) - 1.0
            half = z * se * 2.0 / (upper - lower) / (1.0 - unit**2)
            ends = lower + (upper - lower) * 0.5 * (1.0 + np.tanh(np.arctanh(unit) + np.array([-half, half])))
            return float(ends[0]), float(ends[1])
        return value - z * se, value + z * se
