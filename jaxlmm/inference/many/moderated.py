"""Residual variances of many responses shrunk to what they have in common, and tests by them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...errors import DataError

OFFSET = 1e-5  # of the median variance, to which smaller ones are raised where the prior is estimated, as limma does


class Shrunken(NamedTuple):
    """Variances given all of them.

    Attributes
    ----------
    variance : (b,) posterior means, ``(df s^2 + prior_df prior) / (df + prior_df)``
    prior, prior_df : the scaled inverse chi-squared law of the variances; infinite where all are one
    """

    variance: np.ndarray
    prior: float
    prior_df: float


def shrunken(variance: np.ndarray, df: np.ndarray) -> Shrunken:
    """Empirical Bayes estimates of variances with chi-squared errors.

    Smyth (2004), Linear models and empirical Bayes methods for assessing differential expression in microarray
    experiments, Statist. Appl. Genet. Mol. Biol. 3, section 6.2: moments of the logarithms, as R's limma has them.

    Parameters
    ----------
    variance, df : (b,) estimates and their degrees of freedom; those that are not positive and finite say nothing

    Raises
    ------
    DataError
        For fewer than three variances.
    """
    from scipy.special import digamma, polygamma

    good = np.isfinite(variance) & np.isfinite(df) & (variance > 0) & (df > 0)
    if good.sum() < 3:
        raise DataError(f"moderated: expected at least 3 responses with a variance, found {int(good.sum())}")
    s2, half = np.maximum(variance[good], OFFSET * np.median(variance[good])), 0.5 * df[good]
    e = np.log(s2) - digamma(half) + np.log(half)
    beyond = np.var(e, ddof=1) - np.mean(polygamma(1, half))
    if beyond > 0:
        prior_df = 2.0 * _trigamma_inverse(float(beyond))
        prior = float(np.exp(np.mean(e) + digamma(prior_df / 2) - np.log(prior_df / 2)))
        out = (df * variance + prior_df * prior) / (df + prior_df)
    else:
        prior_df, prior = np.inf, float(np.mean(s2))
        out = np.full(len(variance), prior)
    return Shrunken(np.where(good, out, np.nan), prior, prior_df)


def moderation(variance: np.ndarray, df: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior over estimated variances (b,), and degrees of freedom with those of the prior (b,)."""
    found = shrunken(variance, df)
    with np.errstate(divide="ignore", invalid="ignore"):
        return found.variance / variance, np.minimum(df + found.prior_df, np.nansum(df))


def _trigamma_inverse(x: float) -> float:
    """Y with ``trigamma(y) = x``, by Newton steps that approach from below (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    if x > 1e7 or x < 1e-6:  # where it is nearly 1 / y^2, or 1 / y
        return x**-0.5 if x > 1.0 else 1.0 / x
    y = 0.5 + 1.0 / x
    for _ in range(50):
        at = polygamma(1, y)
        step = at * (1.0 - at / x) / polygamma(2, y)
        y += step
        if -step / y < 1e-10:
            break
    return float(y)
