"""What counts as rounding: tolerances of ranks, collinearity and definiteness, and the few functions that apply them.

None has a unit. A column is compared with itself, a level with itself, a hypothesis with its own standard error; what
is judged against something larger is first brought to its size. NumPy, but for `origin`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

EPS = 2.0**-52
# Of a column of X of a formula, relative to its spread, that earlier columns leave: less, and it is dropped, as by lm.
COMBINATION = 1e-7
# The same, relative to the length of the column: what arithmetic alone leaves of a sum of other columns.
ARITHMETIC = 64.0 * EPS
# Of a column of arrays, relative to its length, that others leave: less, and it has no coefficient. Also the smallest
# singular value of columns of length one that are independent.
ALIASED = 1e-10
# Of a column of Z within a group, relative to its length there: less, and the group says nothing about its effect.
ABSENT = 1e-13
# Of columns of X over the groups of a pattern, each of length one, that others leave.
SPANNED = 1e-12
# Part of a hypothesis, in standard errors or relative to its length, that others do not say.
REPEATED = 1e-8
# Part of a unit column of a term's description that lies outside of the space that it should be in.
OUTSIDE = 1e-7
# Asymmetry of a correlation matrix, and its negative eigenvalues, that are rounding of what users computed.
SYMMETRY = 1e-8
# Pivot of a covariance matrix relative to its diagonal of which hardly a digit is left: not positive definite.
PIVOT = 1e-13
# Digits, in bits, to which rows of Z agree that are the same.
SAME_BITS = 46


def unit_columns(A: np.ndarray) -> np.ndarray:
    """Columns of length one, zeros for columns of zeros."""
    norms = np.sqrt(np.sum(A**2, 0))
    return A / np.where(norms > 0, norms, 1.0)


def column_rank(A: np.ndarray, tolerance: float = ALIASED, moved: bool = True) -> int:
    """Number of independent columns of A (n, p), whatever their units and, if `moved`, their origins (see `origin`)."""
    if not A.size:
        return 0
    R = np.linalg.qr(unit_columns(shifted(A, origin(A)) if moved else A), mode="r")
    return int(np.sum(np.linalg.svd(R, compute_uv=False) > tolerance))


def origin(X: Any, xp: Any = np) -> Any:
    """What to subtract from columns of X (n, p) so that no digits go into telling them from a constant first column.

    A multiple (p,) of the first column: zero, but for columns far from zero (years, seconds since 1970), of which it
    is the first value. Differences of numbers within a factor of two are exact, so nothing is lost.
    """
    if not X.shape[1] or not X.shape[0]:
        return xp.zeros(X.shape[1])
    first, low, high = X[0, 0], xp.min(X, 0), xp.max(X, 0)
    constant = (low[0] == high[0]) & (first != 0.0)
    far = ((low > 0.0) & (high <= 2.0 * low)) | ((high < 0.0) & (low >= 2.0 * high))
    moved = xp.where(constant & far, X[0] / xp.where(first != 0.0, first, 1.0), 0.0)
    return xp.where(np.arange(X.shape[1]) == 0, 0.0, moved)


def shifted(X: Any, by: Any) -> Any:
    """Columns less a multiple `by` (p,) of the first one."""
    return X - X[:, :1] * by


def correlation_of(A: np.ndarray) -> np.ndarray:
    """Matrices (..., q, q), rows and columns over the roots of the diagonal, or one where it is not positive."""
    d = np.diagonal(A, axis1=-2, axis2=-1)
    unit = np.sqrt(np.where(d > 0, d, 1.0))
    return A / unit[..., :, None] / unit[..., None, :]
