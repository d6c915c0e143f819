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
# Smallest eigenvalue of their products above which they clearly are, without a factorisation of all rows.
CLEARLY = 1e-6
# Of a column of Z within a group, relative to its length there: less, and the group says nothing about its effect.
ABSENT = 1e-13
# Of columns of X over the groups of a pattern, each of length one, that others leave.
SPANNED = 1e-12
# Eigenvalue of a cross-product relative to the largest, or to that of columns of length one, below which it is zero.
NO_LENGTH = 1e-12
# Entries of the commutator of two matrices of length one that is zero.
COMMUTE = 1e-12
# Eigenvalue, or singular value, of what a test or a distribution stands on, relative to the largest, that is zero.
POSITIVE = 1e-10
# Part of y, relative to its length, that X leaves: less, and X fits it exactly.
FITTED_BY_X = 1e-13
# Part of a sum of squares that is left after subtraction: less, and it is computed anew from rows.
CANCELLED = 1e-6
# Residual standard deviation relative to that of least squares: less, and the fit is perfect.
PERFECT = 1e-8
# Part of a hypothesis, in standard errors or relative to its length, or of a unit column, that others do not say.
REPEATED = 1e-8
# Of a column of length one, orthogonal to others, what these leave of it over some of the rows: less, and products of
# these columns are not worked with.
THIN = 0.03
# Difference of statistics of rearranged data, relative to them, that is what the solver leaves: they are the same.
TIED = 1e-6
# Difference of right-hand sides of hypotheses that should be equal, relative to their sizes.
CONTRADICTED = 1e-6
# Part of a unit column of a term's description that lies outside of the space that it should be in.
OUTSIDE = 1e-7
# Asymmetry of a correlation matrix, and its negative eigenvalues, that are rounding of what users computed.
SYMMETRY = 1e-8
# Smallest eigenvalue of a correlation matrix that has an inverse.
DEFINITE = 1e-12
# Smallest pivot of a Cholesky factor relative to the largest, above which no eigenvalue is needed to see that.
FAR_FROM_SINGULAR = 1e-5
# Negative eigenvalue relative to the largest that is rounding of a product of three matrices.
NEGATIVE = 1e-6
# Asymmetry of a matrix that a structure computes, relative to its largest entry.
MIRRORED = 1e-10
# Pivot of a covariance matrix relative to its diagonal of which hardly a digit is left: not positive definite.
PIVOT = 1e-13
# The same of a matrix that may be singular: the pivot is zero.
ZERO_PIVOT = 1e-15
# Pivot of a factor in the solver's coordinates, in standard deviations of the residual and not above its entries, that
# is zero.
NULL = 1e-8
# Standard deviation relative to that of the residual, distance of a correlation from its bound (as an angle): less,
# and the parameter is on the boundary; lme4's tolerance of isSingular.
SINGULAR = 1e-4
# The same where levels have variances of their own, which may be in other units than most rows.
FAINT = 1e-6
# Eigenvalue of the observed information of covariance parameters below which algebra has to tell whether it is zero.
SUSPICIOUS = 0.02
# Standard deviation relative to that of the residual at which this eigenvalue is not trusted.
SMALL = 0.01
# Eigenvalue of the information of covariance parameters, scaled to unit diagonal, that is zero.
FLAT = 1e-8
# The same of the laws that two nested models allow, and of directions from one to the other.
FLAT_LAW = 1e-9
# The same where the summary of a fit says that the likelihood is flat.
NEARLY_FLAT = 1e-5
# Roots of curvatures, relative to the largest and in themselves, below which a direction has none.
NO_CURVATURE, NO_CURVATURE_AT_ALL = 1e-6, 1e-4
# Relative change of X'V^-1 X along a direction, or relative singular value or pivot of directions, that counts.
INDEPENDENT = 1e-6
# Smallest relative eigenvalue of the information that rows leave when others, a cluster, are taken away.
DETERMINED = 1e-8
# Coefficients that the fit has not, in a hypothesis: more, and it has no estimate.
ESTIMABLE = 1e-6
# Digits, in bits, to which rows of Z agree that are the same.
SAME_BITS = 46


def unit_columns(A: np.ndarray) -> np.ndarray:
    """Columns of length one, zeros for columns of zeros."""
    norms = np.sqrt(np.sum(A**2, 0))
    return A / np.where(norms > 0, norms, 1.0)


def column_rank(A: np.ndarray, moved: bool = True) -> int:
    """Number of independent columns of A (n, p), whatever their units and, if `moved`, their origins (see `origin`)."""
    if not A.size:
        return 0
    A = unit_columns(shifted(A, origin(A)) if moved else A)
    if np.linalg.eigvalsh(A.T @ A)[0] > CLEARLY:
        return A.shape[1]
    R = np.linalg.qr(A, mode="r")
    return int(np.sum(np.linalg.svd(R, compute_uv=False) > ALIASED))


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


def not_semidefinite(K: np.ndarray, definite: bool = False) -> str:
    """Why matrices (..., q, q) are not symmetric and positive semidefinite, or `definite`; empty when they are."""
    if not np.all(np.isfinite(K)):
        return "it has entries that are NaN or infinite"
    C = correlation_of(K)
    gap = np.abs(C - np.swapaxes(C, -1, -2))
    if gap.max(initial=0.0) > SYMMETRY:
        *lead, i, j = np.unravel_index(int(np.argmax(gap)), gap.shape)
        pair = K[(*lead, i, j)], K[(*lead, j, i)]
        return f"it is not symmetric, entry ({i}, {j}) is {pair[0]:.6g}, entry ({j}, {i}) is {pair[1]:.6g}"
    if _is_far_from_singular(C):
        return ""
    smallest = float(np.linalg.eigvalsh(C).min()) if C.size else 0.0
    if smallest >= -SYMMETRY and not (definite and smallest <= DEFINITE):
        return ""
    kind = "definite" if definite else "semidefinite"
    return f"it is not positive {kind} (scaled to a diagonal of ones, it has the eigenvalue {smallest:.3g})"


def _is_far_from_singular(C: np.ndarray) -> bool:
    """Whether a Cholesky factor exists with pivots well away from zero, which is known much sooner than eigenvalues."""
    try:
        pivots = np.diagonal(np.linalg.cholesky(C), axis1=-2, axis2=-1)
    except np.linalg.LinAlgError:
        return False
    return bool(np.all(pivots.min(-1, initial=np.inf) > FAR_FROM_SINGULAR * pivots.max(-1, initial=0.0)))
