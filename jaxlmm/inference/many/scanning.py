"""Score statistics of many covariates beside many null fits.

V^-1 of each response weights coordinates that they share (`Scanner`) or, with several factors, random functions or
residual structures, is applied to every block of covariates (`SolvingScanner`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...batch.fits import BatchFit
from ...covariance.trial import is_free_in_scale
from ...errors import DataError
from ...likelihood.engines import Rows
from ...likelihood.model import Model
from ...likelihood.parts import Term
from ...likelihood.prepared import Prepared, orthonormal, prepare, weighted
from ...likelihood.products import solved
from ...linalg import inv_logdet, tril_indices
from ...runtime.precision import float64
from ...runtime.programs import compiled
from ...tolerances import ALIASED


class PairScores(NamedTuple):
    """For b responses and m covariates, each added alone to the null model at the null fit's ratio of variances.

    Attributes
    ----------
    share : (b, m) squared partial correlation, NaN where the null model spans a covariate
    estimate, se : (b, m) generalised least squares
    """

    share: np.ndarray
    estimate: np.ndarray
    se: np.ndarray


def scanner_of(model: Model, Y: np.ndarray, null: BatchFit, rows: np.ndarray) -> Scanner | SolvingScanner:
    """What tests covariates beside the null fits of `rows`, whose responses are Y (b, n).

    Raises
    ------
    DataError
        Where variances are known, or do not have a scale in common: the scores are those of one that is estimated.
    """
    parts = (*model.random, model.residual)
    if not all(is_free_in_scale(part.structure, part.dim) for part in parts):
        raise DataError(
            "scan: score statistics are for covariances of which every multiple is one, and this model has one that is "
            "fixed or that is not proportional to its variances; use fit.refit(Y, column=, values=, pairs='all')"
        )
    if model.residual.is_iid and all(isinstance(part, Term) for part in model.random):
        found = Scanner(model, Y, tuple(C[rows] for C in null.covariances), null.sigma[rows])
        if found.of_y is not None:
            return found
    return SolvingScanner(model, Y, null.theta[rows])


def scores_of(xPx: np.ndarray, xPy: np.ndarray, yPy: np.ndarray, df: int) -> PairScores:
    """From products (b, m), NaN where there is no test, and yPy (b,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.minimum(xPy**2 / (xPx * yPy[:, None]), 1.0)
        return PairScores(share, xPy / xPx, np.sqrt(yPy[:, None] * (1.0 - share) / (df * xPx)))


class SolvingScanner:
    """As `Scanner`, for all covariances that have a scale in common; V^-1 is applied to every covariate.

    Parameters
    ----------
    Y : (b, n);  theta : (b, k) of the null fits
    """

    def __init__(self, model: Model, Y: np.ndarray, theta: np.ndarray):
        self.Q, _, alias = orthonormal(model.X, model.weights)
        self.model, self.n, self.p = model, len(model.y), model.X.shape[1] - int(np.sum(alias))
        self.df, self.theta = self.n - self.p - 1, theta
        self.prepared, self.Q = prepare(model, compact=False), self.Q[:, ~(alias > 0)]
        self.left = self._left(weighted(model, (Y if model.offset is None else Y - model.offset).T))

    def _left(self, columns: np.ndarray) -> np.ndarray:
        """Columns (n, b) less what X explains of them, which P takes away anyhow."""
        for _ in range(2):
            columns = columns - self.Q @ (self.Q.T @ columns)
        return columns

    def __call__(self, x: np.ndarray) -> PairScores:
        """Scores of covariates x (m, n)."""
        columns = weighted(self.model, x.T)
        left = self._left(columns)
        m = len(x)
        padded = np.pad(left, ((0, 0), (0, (1 << (m - 1).bit_length()) - m)))  # few shapes to compile
        with float64():
            found = _products(self.model, self.prepared, self.Q, self.theta, self.left.T, padded)
        xPx, xPy, yPy = map(np.asarray, found)
        own = np.sum(left**2, 0) > ALIASED**2 * np.sum(columns**2, 0)
        return scores_of(np.where(own, xPx[:, :m], np.nan), xPy[:, :m], yPy, self.df)


@compiled()
def _products(
    model: Model, prepared: Prepared, Q: Array, theta: Array, Y: Array, x: Array
) -> tuple[Array, Array, Array]:  # fmt: skip
    """``x'Px`` and ``x'Py`` (b, m), and ``y'Py`` (b,), of rows times roots of weights, a response at a time."""
    root = jnp.ones(len(Q)) if model.weights is None else jnp.sqrt(model.weights)

    def one(inputs: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        theta, y = inputs
        U = jnp.concatenate([Q, y[:, None], x], 1)
        S = solved(prepared, model, model.blocks(theta), U / root[:, None]) / root[:, None]
        p = Q.shape[1]
        QU = S[:, :p].T @ U
        inner = inv_logdet(QU[:, :p])[0] @ QU[:, p:]
        Py = U[:, p:].T @ S[:, p] - inner.T @ QU[:, p]
        xPx = jnp.sum(x * S[:, p + 1 :], 0) - jnp.sum(inner[:, 1:] * QU[:, p + 1 :], 0)
        return xPx, Py[1:], Py[0]

    return jax.lax.map(one, (theta, Y))


class Scanner:
    """Responses with their null fits, in which covariates are tested block by block.

    With V of a response, P its projection ``V^-1 - V^-1 X (X'V^-1 X)^-1 X'V^-1``, the squared partial correlation is
    ``(x'Py)^2 / (x'Px y'Py)``. In coordinates in which V is block diagonal for all responses alike, these products are
    products of matrices: of the covariates and of their squares.

    Parameters
    ----------
    Y : (b, n);  covariances, sigma : of the null fits, as in `jaxlmm.BatchFit`

    Attributes
    ----------
    of_y : None where there are no such coordinates, as with several grouping factors
    """

    of_y: np.ndarray | None

    def __init__(self, model: Model, Y: np.ndarray, covariances: tuple[np.ndarray, ...], sigma: np.ndarray):
        self.Q, _, alias = orthonormal(model.X, model.weights)
        self.model, self.n, self.p = model, len(model.y), model.X.shape[1] - int(np.sum(alias))
        Z = tuple(weighted(model, t.Z) for t in model.random if isinstance(t, Term))
        statistics = prepare(model, varying=1, orthogonal=True).statistics
        self.parts = model.evaluator.varying(Rows(self.Q, Z), model, statistics, 1)
        W = self.parts.weights(covariances, sigma**2) if hasattr(self.parts, "weights") else None
        self.of_y = None
        if W is None:
            return
        b, q = W.shape[:2]
        offset = 0.0 if model.offset is None else model.offset
        along, self.left = self._split(weighted(model, (Y - offset).T))
        own, self.beside = self.parts.split(self.Q)
        i, j = tril_indices(q)
        self.pairs, twice = (i, j), np.where(i == j, 1.0, 2.0)
        self.squares = (W[:, i, j] * twice[:, None]).reshape(b, len(i) * W.shape[3])
        y = np.einsum("bacg,cgb->bag", W, along, optimize=True)
        self.of_y = y.reshape(b, q * W.shape[3])
        WQ = np.einsum("bacg,cgp->bpag", W, own, optimize=True)
        self.of_Q = WQ.reshape(b, own.shape[-1], q * W.shape[3])
        XX = np.einsum("bpag,agr->bpr", WQ, own, optimize=True) + self.beside.T @ self.beside
        XX = XX + np.diag(1.0 * (alias > 0))
        self.inverse = np.linalg.inv(XX)
        Xy = np.einsum("bpag,agb->bp", WQ, along, optimize=True) + (self.beside.T @ self.left).T
        yy = np.einsum("bag,agb->b", y, along, optimize=True) + np.sum(self.left**2, 0)
        self.beta = np.einsum("bpr,br->bp", self.inverse, Xy)
        self.yPy = yy - np.sum(self.beta * Xy, 1)

    @property
    def df(self) -> int:
        """Rows less coefficients, with one covariate."""
        return self.n - self.p - 1

    def _split(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates and rest of columns (n, b) less what X explains of them, which P takes away anyhow."""
        for _ in range(2):
            columns = columns - self.Q @ (self.Q.T @ columns)
        return self.parts.split(columns)

    def __call__(self, x: np.ndarray) -> PairScores:
        """Scores of covariates x (m, n)."""
        columns = weighted(self.model, x.T)
        size = np.sum(columns**2, 0)
        along, left = self._split(columns)
        i, j = self.pairs
        flat = along.reshape(len(along) * along.shape[1], len(x))
        rest = np.sum(left**2, 0)
        inside = np.sum(flat**2, 0) + rest  # of x without what X explains
        xx = self.squares @ (along[i] * along[j]).reshape(self.squares.shape[1], len(x)) + rest
        xy = self.of_y @ flat + self.left.T @ left
        Xx = self.of_Q @ flat + self.beside.T @ left
        xPy = xy - np.einsum("bp,bpm->bm", self.beta, Xx)
        xPx = xx - np.sum(Xx * (self.inverse @ Xx), 1)
        return scores_of(np.where(inside > ALIASED**2 * size, xPx, np.nan), xPy, self.yPy, self.df)


def statistics_of(share: Any, n: int, df: int) -> dict[str, Any]:
    """Score, likelihood ratio and F statistic of squared partial correlations, at a given ratio of variances.

    The score statistic is by the null fit's maximum likelihood variance, the ratio's variance is profiled out; F has
    one and `df` degrees of freedom, exactly where the ratio of variances is the true one (Kang et al. 2008).
    """
    with np.errstate(divide="ignore"):
        return {"score": n * share, "lrt": -n * np.log1p(-share), "F": df * share / (1.0 - share)}
