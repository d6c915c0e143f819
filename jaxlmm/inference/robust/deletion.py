"""Estimates without some of the rows, in closed form for coefficients and to first order for covariance parameters.

Rows I are left out by giving each a coefficient of its own: with ``P = V^-1 - V^-1 X Phi X'V^-1`` and
``a = P_II^-1 (P y)_I`` (Christensen, Pearson & Johnson 1992; Haslett & Dillane 2004), exactly and for every V::

    beta - beta_(I)            = Phi X'V^-1_I a                     at the same theta
    -2 loglik_(I) + 2 loglik   = log|P_II| - (P y)_I'a + const      REML; log|V^-1_II| in place of log|P_II| for ML

The optimum of ``(1 - w) loglik + w loglik_(I)`` leads from all rows (w = 0) to the others alone (w = 1). Its derivative
in w at 0, by the implicit function theorem, needs the gradient of the second line only, and is the change of theta to
first order; that of beta is the first line with its derivative in theta.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...errors import DataError
from ...tolerances import DETERMINED
from .equations import MixedModelEquations
from .partition import MOST_NUMBERS, Partition, Rowwise, dependent


class Deletion(NamedTuple):
    """For each group of rows I; NaN where X has not full rank without it. Coefficients are those of ``rows.Q``.

    Attributes
    ----------
    change : (m, p) coefficients with all rows minus those without I
    information : (p, p) of the coefficients with all rows;  after : (m, p, p) without I, at the same theta
    moved : (m, k) coordinates of theta without I minus those with all rows
    leverage, conditional : (m,) sums over I of the diagonals of X Phi X'V^-1 and of ``1 - R P``
    """

    change: np.ndarray
    information: np.ndarray
    after: np.ndarray
    moved: np.ndarray
    leverage: np.ndarray
    conditional: np.ndarray


def deletion(rows: Rowwise, groups: Partition, spread: np.ndarray | None) -> Deletion:
    """Leave out every group in turn.

    Parameters
    ----------
    spread : (k, k) inverse of the observed information of the solver's coordinates; None keeps theta
    """
    own, Q, p = dependent(rows.model), rows.Q, rows.Q.shape[1]
    gather = _Within(own, groups)
    levels = MixedModelEquations.of(rows, own.rows.shape[1])
    B = rows.U if levels is not None else np.column_stack([rows.U, own.slots()])
    S = rows.solve(B)
    by_level = levels.within(groups, slopes=spread is not None) if levels is not None else None
    WQ, Py, V_inverse = S[:, :p], S[:, p], next(by_level) if by_level is not None else gather(S[:, p + 1 :])
    information = Q.T @ WQ
    phi = np.linalg.inv(information)
    q, W = groups.split(WQ), V_inverse + gather.padding
    after = information - _t(q) @ np.linalg.solve(W, q)
    root = np.linalg.cholesky(phi)
    lost = np.linalg.eigvalsh(root.T @ after @ root)[:, :1].min(1, initial=1.0) < DETERMINED
    P = np.where(lost[:, None, None], np.eye(W.shape[1]), W - q @ phi @ _t(q))
    inverse = np.linalg.inv(P)
    a = inverse @ groups.split(Py[:, None])  # (m, T, 1)
    change = phi @ (_t(q) @ a)

    slopes, turns = [], []  # of -2 log-likelihood without I, and of the coefficients without I
    for dS in rows.slopes(B) if spread is not None else ():
        dWQ, dq = dS[:, :p], groups.split(dS[:, :p])
        dphi = -phi @ (Q.T @ dWQ) @ phi
        dbeta = phi @ (Q.T @ dS[:, p])
        dPy = groups.split((dS[:, p] - WQ @ dbeta)[:, None])
        dW, cross = next(by_level) if by_level is not None else gather(dS[:, p + 1 :]), dq @ phi @ _t(q)
        dP = dW - cross - _t(cross) - q @ dphi @ _t(q)
        dlogdet = inverse * dP if rows.spec.reml else np.linalg.inv(W) * dW
        slopes.append(np.sum(dlogdet, (1, 2)) + np.sum(a * (dP @ a - 2.0 * dPy), (1, 2)))
        da = inverse @ (dPy - dP @ a)
        turns.append(dbeta - (dphi @ (_t(q) @ a) + phi @ (_t(dq) @ a + _t(q) @ da))[:, :, 0])
    moved = np.zeros((groups.size, len(rows.x)))
    change = change[:, :, 0]
    if slopes and spread is not None:
        moved = -0.5 * np.stack(slopes, 1) @ spread
        change = change - np.einsum("mk,kmp->mp", moved, np.stack(turns))
    nan = np.where(lost, np.nan, 1.0)[:, None]
    leverage = groups.sum(np.sum((Q @ phi) * WQ, 1))
    if levels is None:
        share = _residual_share(rows, own, WQ, phi)
    else:
        of_rows = V_inverse[groups.codes, groups.slot, groups.slot]
        share = levels.s2 * (of_rows - np.sum((WQ @ phi) * WQ, 1))
    conditional = groups.sum(1.0 - share)
    return Deletion(nan * change, information, nan[:, :, None] * after, nan * moved, leverage, conditional)


class _Within:
    """Entries of a block diagonal matrix between the rows of each group: from (n, T) to (m, t, t)."""

    def __init__(self, own: Partition, groups: Partition):
        n, t = len(own.codes), groups.rows.shape[1]
        if n * float(t) > MOST_NUMBERS:
            raise DataError(f"by: the largest group has {t} of {n} rows, too many to be left out in closed form")
        codes = np.append(own.codes, -1)[groups.rows]
        self.here = (codes[:, :, None] == codes[:, None, :]) & groups.present[:, :, None]
        self.padding = ~groups.present[:, :, None] * np.eye(t)
        self.row = np.minimum(groups.rows, n - 1)[:, :, None]
        self.slot = own.slot[self.row[:, :, 0]][:, None, :]

    def __call__(self, blocks: np.ndarray) -> np.ndarray:
        return np.where(self.here, blocks[self.row, self.slot], 0.0)


def _residual_share(rows: Rowwise, own: Partition, WQ: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Diagonal (n,) of R P, from ``V^-1 R V^-1`` by clusters."""
    WRW = rows.in_residual(np.column_stack([rows.Q, own.slots()]))
    p = phi.shape[0]
    RW = rows.covariances(own) @ own.split(WRW)  # of [Q, places]
    RWQ, RW = (x[own.codes, own.slot] for x in (RW[:, :, :p], RW[:, :, p:]))
    return RW[np.arange(len(RW)), own.slot] - np.sum((RWQ @ phi) * WQ, 1)


def _t(x: np.ndarray) -> np.ndarray:
    return np.swapaxes(x, -1, -2)
