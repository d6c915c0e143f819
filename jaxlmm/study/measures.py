"""Performance measures with Monte Carlo standard errors (Morris, White & Crowther 2019, Stat Med 38:2074, Table 6).

Everything comes from means and sums of squares, which are added up chunk by chunk: memory does not grow with the study.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..distributions import t_quantile
from ..errors import DataError
from .estimate import ABSENT

BAND = 1.959963984540054  # Monte Carlo bands and bars are of 95 %
QUANTITIES = ("estimate", "square", "variance", "covered", "rejected", "converged", "singular", "usable")
MEASURES = (
    "mean", "bias", "empirical_se", "mse", "model_se", "relative_error_se", "coverage", "type1_error", "power",
    "rejection", "converged", "singular", "usable",
)  # fmt: skip


def check_measure(name: str, value: Any) -> None:
    """Refuse what is no measure."""
    if value not in MEASURES:
        raise DataError(f"{name}: found {value!r}, expected some of {', '.join(MEASURES)}")


class Moments(NamedTuple):
    """Number, mean and sum of squared deviations of quantities, arrays of one shape, NaN values left out."""

    n: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Of values (..., b), over the last axis."""
        known = ~np.isnan(values)
        n = known.sum(-1).astype(float)
        mean = np.sum(np.where(known, values, 0.0), -1) / np.maximum(n, 1.0)
        squares = np.sum(np.where(known, (values - mean[..., None]) ** 2, 0.0), -1)
        return cls(n, mean, squares)

    def __add__(self, other: Moments) -> Moments:  # type: ignore[override]
        """Of both together (Chan, Golub & LeVeque 1983)."""
        n = self.n + other.n
        share = other.n / np.maximum(n, 1.0)
        gap = other.mean - self.mean
        return Moments(n, self.mean + gap * share, self.squares + other.squares + gap**2 * self.n * share)

    @property
    def variance(self) -> np.ndarray:
        """Of one value, NaN where there are fewer than two."""
        return np.where(self.n > 1, self.squares / np.where(self.n > 1, self.n - 1.0, 1.0), np.nan)

    @property
    def error(self) -> np.ndarray:
        """Standard error of the mean."""
        return np.sqrt(self.variance / np.where(self.n > 0, self.n, np.nan))


def quantities(
    part: Mapping[str, np.ndarray], truth: np.ndarray, level: float, alpha: float
) -> np.ndarray:  # fmt: skip
    """What is added up, (R, len(QUANTITIES), b), of a part's arrays (R, b); `truth` (R,), NaN where not known.

    `covered`: the interval estimate +- t(df) se holds the truth; `rejected`: p <= alpha. Both are NaN without a result.
    """
    usable, there = part["status"] == 0, ~np.isin(part["status"], ABSENT)
    estimate = np.where(part["converged"], part["estimate"], np.nan)
    gap = estimate - truth[:, None]
    half = t_quantile(0.5 * (1.0 + level), part["df"]) * part["se"]
    has_limits = usable & ~np.isnan(half) & ~np.isnan(gap)
    has_p = usable & ~np.isnan(part["p"])
    columns = {
        "estimate": estimate,
        "square": gap**2,
        "variance": np.where(usable, part["se"] ** 2, np.nan),
        "covered": np.where(has_limits, np.abs(gap) <= half, np.nan),
        "rejected": np.where(has_p, part["p"] <= alpha, np.nan),
        "converged": np.where(there, part["converged"], np.nan),
        "singular": np.where(part["converged"], part["singular"], np.nan),
        "usable": np.where(there, usable, np.nan),
    }
    return np.stack([np.asarray(columns[name], float) for name in QUANTITIES], 1)


def performance(moments: Moments, truth: np.ndarray, null: np.ndarray) -> dict[str, tuple[np.ndarray, ...]]:
    """For each of `MEASURES`: value, Monte Carlo standard error and number of data sets, each (...,).

    `moments` have the quantities on their last axis. A rate of 0 or 1 has an error of 0 by the formula.
    """
    at = {name: Moments(*(array[..., i] for array in moments)) for i, name in enumerate(QUANTITIES)}
    estimate, variance = at["estimate"], at["variance"]
    n = np.where(estimate.n > 1, estimate.n, np.nan)
    empirical = np.sqrt(estimate.variance)
    nothing = np.where(variance.n > 0, 1.0, np.nan)
    model = np.sqrt(nothing * variance.mean)
    ratio = model / empirical
    spread = variance.variance / (4.0 * np.where(variance.n > 0, variance.n, np.nan))
    known = ~np.isnan(truth)
    is_null = known & np.isclose(truth, null, rtol=0.0, atol=1e-12)

    def rate(name: str, where: Any = True) -> tuple[np.ndarray, ...]:
        m = at[name]
        p = np.where((m.n > 0) & where, m.mean, np.nan)
        return p, np.sqrt(p * (1.0 - p) / np.maximum(m.n, 1.0)), m.n

    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "mean": (np.where(~known & (estimate.n > 0), estimate.mean, np.nan),
                     np.where(known, np.nan, estimate.error), estimate.n),
            "bias": (np.where(known & (estimate.n > 0), estimate.mean - truth, np.nan),
                     np.where(known, estimate.error, np.nan), estimate.n),
            "empirical_se": (empirical, empirical / np.sqrt(2.0 * (n - 1.0)), estimate.n),
            "mse": (np.where(known & (at["square"].n > 0), at["square"].mean, np.nan), at["square"].error,
                    at["square"].n),
            "model_se": (model, np.sqrt(spread) / model, variance.n),
            "relative_error_se": (100.0 * (ratio - 1.0),
                                  100.0 * ratio * np.sqrt(spread / model**4 + 1.0 / (2.0 * (n - 1.0))), variance.n),
            "coverage": rate("covered"),
            "type1_error": rate("rejected", is_null),
            "power": rate("rejected", known & ~is_null),
            "rejection": rate("rejected", ~known),
            "converged": rate("converged"),
            "singular": rate("singular"),
            "usable": rate("usable"),
        }  # fmt: skip


def paired(a: Mapping[str, Moments], b: Mapping[str, Moments], both: Mapping[str, Moments]) -> dict[str, Any]:
    """Differences b - a between two estimators on the same data sets, with errors that use the pairing.

    Parameters
    ----------
    a, b : moments of "estimate", "rejected", "covered" and "variance" over the data sets in which both have them
    both : moments of the differences

    Returns
    -------
    value, error and number by measure. "relative_precision" is 100 ((EmpSE_a / EmpSE_b)^2 - 1), how much more precise b
    is, with the error of Table 6.
    """
    out = {}
    names = {"estimate": "estimate", "rejected": "rejection", "covered": "coverage", "variance": "model_variance"}
    for quantity, name in names.items():
        d = both[quantity]
        out[name] = (np.where(d.n > 0, d.mean, np.nan), d.error, d.n)
    d, va, vb = both["estimate"], a["estimate"].variance, b["estimate"].variance
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = va / vb
        correlation = (va + vb - d.variance) / (2.0 * np.sqrt(va * vb))
        error = 200.0 * ratio * np.sqrt(np.maximum(1.0 - correlation**2, 0.0) / (d.n - 1.0))
        out["relative_precision"] = (100.0 * (ratio - 1.0), np.where(d.n > 1, error, np.nan), d.n)
    return out
