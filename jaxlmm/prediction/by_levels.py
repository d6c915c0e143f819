"""Predictions and their errors by the levels of the grouping factors, from one inverse for all rows.

With K, F and s2 of `MixedModelEquations`, ``N = Z'V^-1 X = F Z'X / s2`` and ``g = x - X'Z K z / s2``, the error of
``x'beta + z'u`` for its predictor is::

    MSE = z'K z + g'Phi g           f = z - Z'a = F z - N Phi g

a being the weights of the observations and f what of the effects is not in the predictor. As ``V_i = Z H_i Z' + r_i V``
(r_i the relative change of s2), derivatives are ``f'H_i f + r_i MSE``, and what `errors` calls r_i is ``Z H_i f`` up to
columns of X, which P takes to zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..inference.robust.equations import NUMBERS, MixedModelEquations, between
from ..likelihood.engines import Blocks
from ..linalg import quadratic
from .newdata import ABSENT, SHARED, NewRows


class ByLevels:
    """Errors of new rows from those of effects and coefficients.

    Parameters
    ----------
    Q : (n, p) orthonormal columns that span X;  Phi : (p, p) covariance of their coefficients
    effects : (m, q_t) of each term, predicted, in the columns worked with
    """

    def __init__(self, levels: MixedModelEquations, Q: np.ndarray, Phi: np.ndarray, effects: list[np.ndarray]):
        self.levels, self.Phi = levels, Phi
        self.effects = np.concatenate([u.ravel() for u in effects])
        ZQ = levels.Z.T @ Q / levels.s2
        self.along, self.N = levels.K @ ZQ, levels.F @ ZQ

    def __call__(
        self, new: NewRows, x: np.ndarray, state: Callable[[int], str], blocks: tuple[Blocks, Blocks],
        errors: bool, W: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
        """Means (m,) of random parts; MSE (m,), its slopes (m, k), and what estimated parameters add (m,).

        Parameters
        ----------
        x : (m, p) rows in the basis of Q;  state : of each part, see `joined`
        blocks : covariances, and their derivatives (k, ...);  W : see `Predictor`
        """
        C, D = blocks
        at, m, k = self.levels, len(new), len(D.residual)
        codes, designs, others = [], [], np.zeros((m, 1 + k))
        for t, ((code, Z), basis, count) in enumerate(
            zip(new.parts, at.rows.prepared.basis.K, at.levels, strict=False)
        ):
            how, here, known = state(t), Z @ basis, np.asarray(code) < count
            codes.append(np.where(known & (how == SHARED), np.asarray(code), -1))
            designs.append(here)
            if how != ABSENT:  # an independent draw
                kin, level = at.kin[t], np.minimum(np.asarray(code), count - 1)
                if kin is not None:  # the variance is that of the level
                    here = here * np.where(known, np.sqrt(np.diagonal(kin)[level]), 1.0)[:, None]
                drawn = np.column_stack([quadratic(here, G) for G in (C.random[t], *D.random[t])])
                others += np.where((codes[-1] < 0)[:, None], drawn, 0.0)
        if state(len(codes)) != ABSENT:
            weight = np.ones(m) if new.weights is None else np.asarray(new.weights)
            others += np.array([C.residual[0, 0], *D.residual[:, 0, 0]]) / weight[:, None]
        z = at.design(codes, designs)
        relative = D.residual[:, 0, 0] / at.s2
        H = [d - relative[:, None, None] * G for d, G in zip(D.random, C.random, strict=True)]
        if W is not None:
            P = self.levels.F @ self.levels.products - self.N @ self.Phi @ self.N.T  # Z'P Z (q, q)
        mse, slopes, extra = np.zeros(m), np.zeros((m, k)), np.zeros(m)
        step = max(1, int(NUMBERS / z.shape[1]))
        for start in range(0, m if errors else 0, step):
            some = slice(start, start + step)
            rows = z[some]
            gap = x[some] - rows @ self.along
            mse[some] = rows.multiply(rows @ at.K).sum(1) + quadratic(gap, self.Phi)
            f = rows @ at.F.T - gap @ self.Phi @ self.N.T
            slopes[some] = relative * mse[some][:, None]
            for own, h, kin in zip(at.by_term(f), H, at.kin, strict=True):
                squares = np.swapaxes(own, 1, 2) @ between(own, kin)  # over the levels
                slopes[some] += np.tensordot(squares, h, ((1, 2), (1, 2)))
            if W is not None:
                moved = [at.mixed([h[i] for h in H], f) for i in range(k)]
                solved = [move @ P for move in moved]
                extra[some] = 2.0 * sum(W[i, j] * np.sum(moved[i] * solved[j], 1) for i in range(k) for j in range(k))
        mean = z @ self.effects
        return mean, np.maximum(mse + others[:, 0], 0.0), slopes + others[:, 1:], extra
