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

from ..inference.robust.equations import NUMBERS, MixedModelEquations
from ..likelihood.engines import Blocks
from ..likelihood.parts import Field, Term
from ..linalg import quadratic
from .newdata import ABSENT, SHARED, NewRows


class ByLevels:
    """Errors of new rows from those of effects and coefficients.

    Parameters
    ----------
    Phi : (p, p) covariance of the coefficients of the orthonormal columns Q that span X
    """

    def __init__(self, levels: MixedModelEquations, Phi: np.ndarray):
        self.levels, self.Phi = levels, Phi
        self.effects = levels.K @ (levels.Z.T @ levels.rows.e) / levels.s2
        ZQ = levels.Z.T @ levels.rows.Q / levels.s2
        self.along, self.N = levels.K @ ZQ, levels.F @ ZQ

    def placed(
        self, new: NewRows, state: Callable[[int], str]
    ) -> tuple[list[np.ndarray], list[np.ndarray]] | None:  # fmt: skip
        """Level (m,) of new rows in each part, -1 where it is none of the data, and its design (m, q_t).

        None where a random function is drawn at places that the data do not have.
        """
        codes, designs, at = [], [], self.levels
        for t, (part, basis, count) in enumerate(
            zip(at.rows.model.random, at.rows.prepared.basis.K, at.levels, strict=True)
        ):
            how = state(t)
            if isinstance(part, Term):
                code, Z = new.parts[t]
                codes.append(np.where((np.asarray(code) < count) & (how == SHARED), np.asarray(code), -1))
                designs.append(Z @ basis)
                continue
            where = (np.full(len(new), -1), np.ones((len(new), 1)))
            if how != ABSENT:
                place = _place_of(part, *new.parts[t]) if how == SHARED else None
                if place is None:
                    return None
                where = at.placed(t, np.asarray(new.parts[t][0]), place)
            codes.append(where[0])
            designs.append(where[1])
        return codes, designs

    def __call__(
        self, new: NewRows, x: np.ndarray, state: Callable[[int], str], blocks: tuple[Blocks, Blocks],
        places: tuple[list[np.ndarray], list[np.ndarray]], errors: bool, W: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
        """Means (m,) of random parts; MSE (m,), its slopes (m, k), and what estimated parameters add (m,).

        Parameters
        ----------
        x : (m, p) rows in the basis of Q;  state : of each part, see `joined`
        blocks : covariances, and their derivatives (k, ...);  places : as `placed`;  W : see `Predictor`
        """
        at, (codes, designs) = self.levels, places
        C, D = map(at.by_group, blocks)
        m, k = len(new), len(D.residual)
        others = np.zeros((m, 1 + k))
        for t, (part, here) in enumerate(zip(at.rows.model.random, designs, strict=True)):
            if isinstance(part, Term) and state(t) != ABSENT:  # an independent draw
                kin, level = at.kin[t], np.asarray(new.parts[t][0])
                if kin is not None:  # the variance is that of the level
                    known, level = level < at.levels[t], np.minimum(level, at.levels[t] - 1)
                    here = here * np.where(known, np.sqrt(np.diagonal(kin)[level]), 1.0)[:, None]
                drawn = np.column_stack([quadratic(here, G) for G in (C.random[t], *D.random[t])])
                others += np.where((codes[t] < 0)[:, None], drawn, 0.0)
        if state(len(codes)) != ABSENT:
            weight = np.ones(m) if new.weights is None else np.asarray(new.weights)
            others += np.array([C.residual[0, 0], *D.residual[:, 0, 0]]) / weight[:, None]
        z = at.design(codes, designs)
        relative = D.residual[:, 0, 0] / at.s2
        H = [d - np.multiply.outer(relative, G) for d, G in zip(D.random, C.random, strict=True)]
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
            moved = [at.mixed([h[i] for h in H], f) for i in range(k)]
            slopes[some] = relative * mse[some][:, None]
            for i in range(k):
                slopes[some, i] += np.sum(moved[i] * f, 1)
            if W is not None:
                solved = [move @ P for move in moved]
                extra[some] = 2.0 * sum(W[i, j] * np.sum(moved[i] * solved[j], 1) for i in range(k) for j in range(k))
        mean = z @ self.effects
        return mean, np.maximum(mse + others[:, 0], 0.0), slopes + others[:, 1:], extra


def _place_of(part: Field, group: np.ndarray | None, place: np.ndarray) -> np.ndarray | None:
    """Positions (m,) of new places in the blocks of their groups; None where the data do not have one of them."""
    if group is None or np.any(group > part.group.max()):
        return None
    if part.coords is None:
        return place if np.all(place < part.dim) else None
    n = len(part.group)
    both = np.column_stack([np.concatenate([part.group, group]), np.concatenate([part.row_coords, place])])
    _, first, code = np.unique(both, axis=0, return_index=True, return_inverse=True)
    first = first[code.reshape(-1)[n:]]  # rows of the data come first
    return np.asarray(part.position)[first] if np.all(first < n) else None
