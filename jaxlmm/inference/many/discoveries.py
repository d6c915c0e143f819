"""False discovery rates of many p values."""

from __future__ import annotations

import numpy as np

from ...errors import DataError

METHODS = ("bh", "storey")
_LAMBDA = np.arange(0.05, 0.96, 0.05)


def qvalues(p: np.ndarray, method: str = "bh") -> np.ndarray:
    """Smallest false discovery rates (b,) at which each is called; NaN where p is.

    Parameters
    ----------
    p : (b,) p values
    method : "bh" (Benjamini & Hochberg 1995); "storey", of which the share of true nulls is estimated (Storey 2002; the
        cut that the bootstrap of Storey, Taylor & Siegmund 2004 finds in closed form, as in R's qvalue)

    Raises
    ------
    DataError
        For another method.
    """
    if method not in METHODS:
        raise DataError(f"method: found {method!r}, expected one of {', '.join(METHODS)}")
    p = np.asarray(p, np.float64)
    out, known = np.full(p.shape, np.nan), np.isfinite(p)
    small = p[known]
    if not len(small):
        return out
    order, m = np.argsort(small), len(small)
    scaled = small[order] * m / np.arange(1, m + 1) * (null_share(small) if method == "storey" else 1.0)
    found = np.empty(m)
    found[order] = from_above(scaled)
    out[known] = found
    return out


def from_above(scaled: np.ndarray) -> np.ndarray:
    """The smallest of each and those behind it, at most 1: step-up procedures."""
    return np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])


def null_share(p: np.ndarray) -> float:
    """The share of true null hypotheses among p values (m,), at most 1.

    Where none of them is above the cut one is counted as such, as Storey, Taylor & Siegmund (2004) do: a share of zero
    would make every discovery a true one. (R's qvalue is an error there.)
    """
    m = len(p)
    above = np.array([np.sum(p >= cut) for cut in _LAMBDA])
    share = above / (m * (1.0 - _LAMBDA))
    error = above / (m**2 * (1.0 - _LAMBDA) ** 2) * (1.0 - above / m) + (share - np.quantile(share, 0.1)) ** 2
    best = np.argmin(error)
    return float(min(max(share[best], 1.0 / (m * (1.0 - _LAMBDA[best]))), 1.0))
