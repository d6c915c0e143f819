"""Best linear unbiased prediction of anything that is jointly normal with the data, with its error.

With w the quantity to predict, ``E w = x'beta``, ``K = Cov(y, w)`` and ``v = Var w``, the predictor ``x'beta-hat +
K'V^-1 (y - X beta-hat)`` is ``a'y`` with weights a that minimise ``MSE = v - 2 K'a + a'V a`` among all with ``X'a = x``
(Henderson 1975; Harville 1976; in spatial statistics, universal kriging). The MSE is computed as the variance of
``w - a'y``, a sum of positive terms, one a part of V, in which an error of the weights counts twice; as the difference
above it has no digits left where random effects are large beside the residual. Because it is a minimum, the derivative
of the MSE in a covariance parameter is that at fixed weights, ``b'V_i b`` with ``b = (-a, 1)`` and V_i the derivative
of the covariance of data and w together: no derivative of any inverse is needed. It gives the degrees of freedom of
Satterthwaite, ``2 MSE^2 / Var(MSE)`` (Fai & Cornelius 1996, for fixed effects).

Estimated covariance parameters, with covariance W, make the error larger by about ``sum_ij W_ij da_i' V da_j``, and
the estimated MSE smaller by as much (Kackar & Harville 1984; Prasad & Rao 1990; Harville & Jeske 1992), so that twice
this is added; for a fixed effect this is exactly the first-order covariance of Kenward & Roger (1997). From the
equations of the weights ``da_i = P r_i`` with ``r_i = K_i - V_i a``, so the sum is ``sum_ij W_ij r_i'P r_j``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import require_accurate
from ..estimates.effects import effects_by_term, effects_of
from ..estimates.fitted import FitBase
from ..estimates.rows import Part, TermRows, through
from ..fitting.objective import coordinates
from ..inference.robust.equations import MixedModelEquations
from ..inference.robust.partition import Partition, Rowwise
from ..likelihood.engines.layout import connected
from ..likelihood.engines.orthogonal import bucket, pad_last
from ..linalg import quadratic
from ..pytrees import once
from ..runtime.precision import float64
from .by_levels import ByLevels
from .newdata import NewRows, joined

MOST = 256  # rows predicted side by side
NUMBERS = 2e7  # in arrays of rows by predicted rows by covariance parameters


class Predicted(NamedTuple):
    """Predictions of m quantities.

    Attributes
    ----------
    mean : (m,);  mse : (m,) with covariance parameters as if known
    slopes : (m, k) derivatives of `mse` in the covariance parameters
    extra : (m,) what their estimation adds to the error, zero where it was not asked for
    """

    mean: np.ndarray
    mse: np.ndarray
    slopes: np.ndarray
    extra: np.ndarray


class JointRows(NamedTuple):
    """Rows of the data and new ones: parts, coordinates, clusters (N,), and the column (m,) of each new row."""

    parts: tuple[Part, ...]
    coords: tuple[Any, ...]
    clusters: np.ndarray
    turn: np.ndarray  # its number among the new rows of its cluster


class Predictor:
    """Predicts new rows from the data of a fit, in a chart of the covariance parameters.

    V is block diagonal by clusters of rows that depend on each other, so new rows of different clusters are predicted
    in one column: with many groups the cost is that of a few solutions with V, however many rows are predicted.

    Parameters
    ----------
    fit : Fit
    chart : "solver" or "natural", of the coordinates in which `Predicted.slopes` are
    """

    def __init__(self, fit: FitBase, chart: str = "solver"):
        self.rows, self.model, self.chart, self.coef = Rowwise(fit), fit.model, chart, fit.coef
        self.x = self.rows.x
        if chart != "solver":
            with float64():
                self.x = np.asarray(coordinates(self.rows.spec, self.rows.prepared, fit.theta, chart))
        root = self.rows.R @ np.nan_to_num(fit.estimate.inner[0])
        self.Phi = root @ root.T
        self.effects = effects_by_term(fit.model, effects_of(fit))

    @classmethod
    def of(cls, fit: FitBase, chart: str = "solver") -> Predictor:
        """The predictor of a fit in a chart, made once."""
        return once(fit, ("predictor", chart), lambda: cls(fit, chart))

    def use_columns(self, size: int) -> None:
        """Solve for Q and e, in as many columns as rows are predicted side by side: they share a compiled program."""
        p = self.rows.Q.shape[1]
        solved = once(self, "solved", lambda: self.rows.solve(pad_last(self.rows.U, max(size, p + 1))))
        require_accurate(solved)
        self.VQ, self.Ve = solved[:, :p], solved[:, p]

    def __call__(
        self, new: NewRows, state: Callable[[int], str], errors: bool = True, W: np.ndarray | None = None
    ) -> Predicted:
        """Predict.

        Parameters
        ----------
        state : see `joined`
        errors : False for means alone
        W : (k, k) covariance of the covariance parameters, for `Predicted.extra`
        """
        n, m, k = len(self.model.y), len(new), len(self.x)
        joint = self._joined(new, state)
        turn = joint.turn
        levels = MixedModelEquations.of(self.rows, int(turn.max(initial=0)) + 1)
        if levels is not None and all(kin is None for kin in new.kin):
            by_levels = once(self, "by_levels", lambda: ByLevels(levels, self.Phi))
            if (places := by_levels.placed(new, state)) is not None:
                x = np.linalg.solve(self.rows.R.T, new.X.T).T
                mean, *rest = by_levels(new, x, state, self.rows.blocks(self.chart, self.x), places, errors, W)
                return Predicted(new.X @ self.coef + (0.0 if new.offset is None else new.offset) + mean, *rest)
        size = min(MOST, int(NUMBERS / (n * (1 + (k if W is not None else 0)))), bucket(int(turn.max()) + 1))
        size = max(1, size)
        self.use_columns(size)
        out = Predicted(np.zeros(m), np.zeros(m), np.zeros((m, k)), np.zeros(m))
        for start in range(0, int(turn.max()) + 1, size):
            here = np.flatnonzero((turn >= start) & (turn < start + size))
            some = new.take(here)
            found = self._chunk(some, joint if len(here) == m else self._joined(some, state), size, errors, W)
            for whole, part in zip(out, found, strict=True):
                whole[here] = part
        return out

    def _joined(self, new: NewRows, state: Callable[[int], str]) -> JointRows:
        parts, coords = joined(self.model, new, self.rows.prepared.basis.K, state)
        clusters = _clusters(parts)
        own = np.unique(clusters[len(self.model.y) :], return_inverse=True)[1]
        return JointRows(parts, coords, clusters, Partition.of(own).slot)

    def _chunk(self, new: NewRows, joint: JointRows, size: int, errors: bool, W: np.ndarray | None) -> Predicted:
        n, m, k = len(self.model.y), len(new), len(self.x)
        parts, coords, clusters, turn = joint
        C, D = ([*found.random, found.residual] for found in self.rows.blocks(self.chart, self.x, coords))
        sums = _Sums(clusters, turn)
        E = np.zeros((n + m, size))
        E[n + np.arange(m), turn] = 1.0
        VE = through(parts, C, E)
        K = VE[:n]
        mean = new.X @ self.coef + (0.0 if new.offset is None else new.offset) + self._effects(joint, C, sums, E)
        nothing = np.zeros(m)
        if not errors:
            return Predicted(mean, nothing, np.zeros((m, k)), nothing)
        S = self.solve(K)
        gap = np.linalg.solve(self.rows.R.T, new.X.T).T - sums.along(S, self.rows.Q)
        # b = local + VQ c: what is in the cluster of the new row, and what comes with estimating beta
        local, c = E - np.concatenate([S, np.zeros((m, size))]), -gap @ self.Phi
        mse = sum(sums.form(part, block, local) for part, block in zip(parts, C, strict=True))
        mse = mse + np.sum(gap @ self.Phi * gap, 1)
        VQ = np.concatenate([self.VQ, np.zeros((m, self.VQ.shape[1]))])
        slopes, rest, common = np.zeros((m, k)), [], []
        for i in range(k):
            along = [d[i] for d in D]
            H, U = through(parts, along, local), through(parts, along, VQ)
            slopes[:, i] = sums(local * H) + 2.0 * np.sum(sums.along(local, U) * c, 1)
            slopes[:, i] += quadratic(c, self.VQ.T @ U[:n])
            if W is not None:
                rest.append(-H[:n])
                common.append(-U[:n])
        extra = nothing if W is None else 2.0 * self._spread(sums, rest, common, c, W)
        return Predicted(mean, np.maximum(mse, 0.0), slopes, extra)

    def _effects(self, joint: JointRows, C: Sequence[Any], sums: _Sums, E: np.ndarray) -> np.ndarray:
        """Predicted random effects and functions at the new rows, summed (m,)."""
        n, total = len(self.model.y), np.zeros(len(joint.turn))
        others: list[tuple[Part, np.ndarray]] = []  # functions, and levels that may be predicted through relatives
        for t, (part, block) in enumerate(zip(joint.parts, C, strict=True)):
            if isinstance(part, TermRows) and part.kin is None:
                u = self.effects[t] @ np.linalg.inv(self.rows.prepared.basis.K[t]).T
                codes = part.codes[n:]
                own = u[np.minimum(codes, len(u) - 1)]
                total += np.where(codes < len(u), np.sum(part.Z[n:] * own, 1), 0.0)
            else:
                others.append((part, block))
        if not others:
            return total
        parts, blocks = zip(*others, strict=True)
        return total + sums(through(parts, blocks, E)[:n] * self.Ve[:, None])

    def solve(self, B: np.ndarray) -> np.ndarray:
        """V^-1 B for B (n, b)."""
        return self.rows.solve(B) if np.any(B) else np.zeros_like(B)

    def _spread(
        self, sums: _Sums, rest: list[np.ndarray], common: list[np.ndarray], c: np.ndarray, W: np.ndarray
    ) -> np.ndarray:
        """``sum_ij W_ij r_i'P r_j`` (m,), r_i being `rest` (n, size), by cluster, and `common` (n, p) times c."""
        k = len(rest)
        solved_rest, solved_common = [self.solve(r) for r in rest], [self.solve(u) for u in common]
        total, g = np.zeros(len(c)), []
        for i in range(k):
            of_rest = sum(W[i, j] * solved_rest[j] for j in range(k))
            of_common = sum(W[i, j] * solved_common[j] for j in range(k))
            total += sums(rest[i] * of_rest) + 2.0 * np.sum(sums.along(rest[i], of_common) * c, 1)
            total += quadratic(c, common[i].T @ of_common)
            g.append(sums.along(rest[i], self.VQ) + c @ (self.VQ.T @ common[i]).T)
        both = np.stack(g)  # (k, m, p)
        return total - np.sum((both @ self.Phi) * np.tensordot(W, both, 1), (0, 2))


class _Sums:
    """Sums over the cluster of each new row, in its column, of arrays (n or N, size)."""

    def __init__(self, clusters: np.ndarray, turn: np.ndarray):
        from scipy.sparse import csr_array

        N = len(clusters)
        self.clusters = clusters
        self.every = csr_array((np.ones(N), (clusters, np.arange(N))), shape=(int(clusters.max()) + 1, N))
        self.data = self.every[:, : N - len(turn)]
        self.turn, self.own = turn, clusters[N - len(turn) :]

    def __call__(self, A: np.ndarray) -> np.ndarray:
        """(m,)."""
        sums = self.every if len(A) == self.every.shape[1] else self.data
        return (sums @ A)[self.own, self.turn]

    def form(self, part: Part, block: np.ndarray, A: np.ndarray) -> np.ndarray:
        """``b'V_t b`` (m,) for the covariance V_t of a part and the columns b of A (N, size), by cluster."""
        from scipy.sparse import csr_array

        collected = part.collected(A)
        levels = len(collected)
        home = np.zeros(levels, int)
        if isinstance(part, TermRows):
            home[part.codes] = self.clusters
        else:
            there = part.scale != 0  # others stand in any group
            home[part.group[there]] = self.clusters[there]
        forms = np.sum(collected * part.mixed(block, collected)[:levels], 1)
        by_level = csr_array((np.ones(levels), (home, np.arange(levels))), shape=(self.every.shape[0], levels))
        return (by_level @ forms)[self.own, self.turn]

    def along(self, A: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Sums (m, p) of A times each of the columns (n or N, p)."""
        sums = [self(A * column[: len(A), None]) for column in columns.T]
        return np.column_stack([np.zeros((len(self.turn), 0)), *sums])  # of no columns too


def _clusters(parts: Sequence[Part]) -> np.ndarray:
    """Codes (N,) of the finest clusters of rows that no part ties together."""
    ties = [part.ties for part in parts]
    return connected([np.arange(len(ties[0])), *ties])[0]
