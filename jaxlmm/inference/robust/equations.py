"""V^-1 by the levels of the grouping factors, where residuals are independent; levels may be relatives.

The effects of a random function are its values at the places of a group.

With crossed factors all rows depend on each other, and V^-1 is a solution a row; but rows meet in their levels only.
With ``R = s2 I``, designs Z of all levels side by side (q columns) and ``G = L L'``, by term the covariance of the
effects of a level, times the relationships between levels (Henderson, Kempthorne, Searle & von Krosigk 1959)::

    K = Cov(u | y, beta) = L S^-1 L',   S = I + L'Z'Z L / s2,   F = I - Z'Z K / s2,   Z'V^-1 = F Z' / s2

K is the inverse of Henderson's mixed model equations without X. S is inverted once, and everything about single rows
is sums over the few levels that a row has, or products with q numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...estimates.rows import sparse_rows
from ...fitting.units import root_of
from ...likelihood.engines import Blocks
from ...likelihood.parts import Field, Term
from ...linalg import psd_cholesky
from ...pytrees import once
from .partition import Partition, Rowwise

MOST = 5000  # levels times effects: matrices of twice this many numbers
DIGITS = 3e6  # condition of S above which V^-1 is applied to rows instead, which keeps the tenth digit of errors
NUMBERS = 4e6  # in arrays of rows by effects


class Places(NamedTuple):
    """Distinct coordinates of a random function in each group; rows may share them.

    Attributes
    ----------
    position : (groups, T) where they are in the set of the group, the first again where there are fewer
    own : (groups, places) number of each position of the set among the distinct ones
    sets : (groups,) the set of each group
    """

    position: np.ndarray
    own: np.ndarray
    sets: np.ndarray

    @classmethod
    def of(cls, part: Term | Field) -> Places | None:
        """None for what is not over coordinates."""
        if isinstance(part, Term) or part.coords is None:
            return None
        group, position = np.asarray(part.group), np.asarray(part.position)
        _, first, own = np.unique(
            np.column_stack([group, part.row_coords]), axis=0, return_index=True, return_inverse=True
        )
        table = Partition.of(group[first])
        numbers = np.zeros((table.size, part.coords.shape[1]), int)
        numbers[group, position] = table.slot[own.reshape(-1)]
        where = position[first][np.where(table.present, table.rows, table.rows[:, :1])]
        return cls(where, numbers, np.asarray(part.sets))


class MixedModelEquations:
    """Random effects of a fit given the data, all levels of all terms side by side; in the columns worked with.

    Attributes
    ----------
    Z : (n, q) sparse, rows multiplied by square roots of the weights;  s2 : variance of the residuals
    K, F : (q, q), see above
    levels, sizes : of each part its levels or groups, and times their effects or places
    """

    def __init__(self, rows: Rowwise):
        self.rows = rows
        random = rows.model.random
        self.levels, self.places = [_levels(part) for part in random], [Places.of(part) for part in random]
        self.sizes = [_effects(part, places) for part, places in zip(random, self.places, strict=True)]
        self.kin = [getattr(part, "relationship", None) for part in random]
        C, self.D = map(self.by_group, rows.blocks("solver", rows.x))
        self.G, self.s2 = C.random, float(C.residual[0, 0])
        here = [
            (part.group, part.Z @ k) if isinstance(part, Term) else self.placed(t, part.group, part.position)
            for t, (part, k) in enumerate(zip(random, rows.prepared.basis.K, strict=True))
        ]
        self.Z = self.design([code for code, _ in here], [Z * rows.root[:, None] for _, Z in here])
        self.products = (self.Z.T @ self.Z).toarray() / self.s2
        L = [psd_cholesky(G) if isinstance(part, Term) else _root(G) for part, G in zip(random, self.G, strict=True)]
        kin = [None if A is None else _root(A) for A in self.kin]
        S = np.eye(len(self.products)) + self.mixed(L, self.mixed(L, self.products, kin).T, kin)
        inverse = np.linalg.inv(S)
        self.condition = float(np.abs(S).sum(0).max() * np.abs(inverse).sum(0).max())
        turned, kin = [np.swapaxes(root, -1, -2) for root in L], [None if root is None else root.T for root in kin]
        self.K = self.mixed(turned, self.mixed(turned, 0.5 * (inverse + inverse.T), kin).T, kin)
        self.F = np.eye(len(S)) - self.products @ self.K

    @classmethod
    def of(cls, rows: Rowwise, columns: int) -> MixedModelEquations | None:
        """Made once, where it replaces solutions for more columns than there are effects, and keeps their digits."""
        model = rows.model
        effects = sum(_effects(part, Places.of(part)) for part in model.random)
        dependent = model.residual.group is not None or model.evaluator.stochastic
        if dependent or not 0 < effects < columns or effects > MOST:
            return None
        found = once(rows, "levels", lambda: cls(rows))
        return found if found.condition < DIGITS else None

    def by_group(self, blocks: Blocks) -> Blocks:
        """Blocks between the `Places` of random functions, by group (..., groups, T, T) if there are several."""
        random = []
        for block, at in zip(blocks.random, self.places, strict=True):
            if at is not None:
                sets, where = (at.sets[:, None, None], at.position) if len(at.sets) > 1 else (0, at.position[0])
                block = block[..., sets, where[..., :, None], where[..., None, :]]
            random.append(block)
        return blocks._replace(random=tuple(random))

    def placed(self, t: int, group: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number (m,) of the value of a random function at a position of a group, as one level; its design (m, 1)."""
        at = self.places[t]
        own = position if at is None else at.own[group, position]
        return group * (self.sizes[t] // self.levels[t]) + own, np.ones((len(group), 1))

    def design(self, codes: Sequence[np.ndarray], Z: Sequence[np.ndarray]) -> Any:
        """Rows (m, q), sparse, of designs (m, q_t) at levels (m,) of each term; level -1 has no effect."""
        starts = np.cumsum([0, *self.sizes])
        where = [
            start + np.maximum(code, 0)[:, None] * z.shape[1] + np.arange(z.shape[1])
            for start, code, z in zip(starts, codes, Z, strict=False)
        ]
        values = [np.where(code[:, None] < 0, 0.0, z) for code, z in zip(codes, Z, strict=True)]
        return sparse_rows(np.concatenate(values, 1), np.concatenate(where, 1), int(starts[-1])).T.tocsr()

    def by_term(self, f: np.ndarray) -> list[np.ndarray]:
        """Numbers (b, q) by term (b, levels, q_t)."""
        ends = np.cumsum([0, *self.sizes])
        parts = zip(self.levels, ends[:-1], ends[1:], strict=True)
        return [f[:, a:b].reshape(len(f), m, -1) for m, a, b in parts]

    def mixed(self, blocks: Sequence[np.ndarray], f: np.ndarray, kin: Sequence[Any] | None = None) -> np.ndarray:
        """Rows of f (b, q) times the matrix of blocks, see `by_group`, times `kin`, by default the relationships."""
        parts = zip(self.by_term(f), blocks, self.kin if kin is None else kin, strict=True)
        return np.concatenate([between(_times(x, G), A).reshape(len(f), -1) for x, G, A in parts], 1)

    def within(self, groups: Partition, slopes: bool) -> Iterator[np.ndarray]:
        """Entries of V^-1 between rows of a group (m, T, T), then `slopes`: in each of the solver's coordinates.

        As ``V_i = Z H_i Z' + r_i V`` with ``H_i = G_i - r_i G``, ``r_i`` the relative change of s2, they are
        ``-V^-1 Z H_i Z'V^-1 - r_i V^-1``.
        """
        D = self.D
        k, (m, T), q = len(D.residual) if slopes else 0, groups.rows.shape, self.Z.shape[1]
        out = np.zeros((1 + k, m, T, T))
        present = groups.present
        relative = np.asarray(D.residual)[:, 0, 0] / self.s2
        step = max(1, int(NUMBERS / (T * q)))
        for start in range(0, m, step):
            here = slice(start, start + step)
            there = present[here].ravel()
            Z = np.zeros((len(there), q))
            Z[there] = self.Z[groups.rows[here][present[here]]].toarray()
            E = Z @ self.F.T / self.s2
            shape = (-1, T, q)
            Z3, E3 = Z.reshape(shape), E.reshape(shape)
            one = np.eye(T) * present[here][:, :, None]
            out[0, here] = (one - (Z @ self.K).reshape(shape) @ np.swapaxes(Z3, 1, 2) / self.s2) / self.s2
            for i in range(k):
                H = [d[i] - relative[i] * G for d, G in zip(D.random, self.G, strict=True)]
                out[1 + i, here] = -self.mixed(H, E).reshape(shape) @ np.swapaxes(E3, 1, 2)
                out[1 + i, here] -= relative[i] * out[0, here]
        yield from out


def between(x: np.ndarray, kin: np.ndarray | None) -> np.ndarray:
    """Effects (b, levels, q) times a matrix between levels, None for that of levels that are independent."""
    return x if kin is None else np.swapaxes(np.swapaxes(x, 1, 2) @ kin, 1, 2)


def _levels(part: Term | Field) -> int:
    return part.levels if isinstance(part, Term) else int(part.group.max()) + 1


def _effects(part: Term | Field, places: Places | None) -> int:
    return _levels(part) * int(part.dim if places is None else places.position.shape[1])


def _times(x: np.ndarray, G: np.ndarray) -> np.ndarray:
    """Effects (b, levels, q) times a block (q, q), or one of each level (levels, q, q)."""
    return x @ G if G.ndim == 2 else np.swapaxes(np.swapaxes(x, 0, 1) @ G, 0, 1)


def _root(kin: np.ndarray) -> np.ndarray:
    """A root of covariances, or several."""
    try:
        return np.linalg.cholesky(kin)
    except np.linalg.LinAlgError:
        return np.reshape([root_of(one) for one in kin.reshape(-1, *kin.shape[-2:])], kin.shape)
