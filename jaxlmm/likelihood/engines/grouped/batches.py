"""Statistics of columns that differ between data sets of one design, for all of them at once (NumPy)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ....linalg import thin
from ..base import Lanes, Rows
from ..layout import Layout
from ..orthogonal import Patterns, Projection, bucket, orthogonalise, pad_last, products, project
from .elimination import Factor
from .engine import Grouped, stack_rows
from .nested import placed


class Varying:
    """The design side of the grouped engine, which turns the last `count` columns of U into statistics.

    Parameters
    ----------
    fixed : (n, f) columns of U that all data sets share
    Z : random designs, rows multiplied by sqrt(weights);  layout : see `Layout`
    size : padded number of groups of the statistics, as prepared for one data set
    count : number of columns that vary
    order : places of the groups, see `nested.in_rows`
    """

    def __init__(
        self, fixed: np.ndarray, Z: tuple[np.ndarray, ...], layout: Layout, count: int, size: int,
        order: np.ndarray | None = None,
    ):  # fmt: skip
        inner, W = stack_rows(Rows(fixed, Z), layout, np)
        F, units = orthogonalise(inner, layout.codes, layout.groups, np)
        B, self.left = project(units, W, layout.codes, layout.groups, np)
        self.projection, self.layout, self.size = Projection(units, layout.codes, layout.groups), layout, size
        self.F, self.B, self._places = F, B, order
        self.patterns = None if layout.outer else Patterns.find(inner, layout.codes, B, count)
        self._order = np.argsort(layout.component, kind="stable")
        self._bounds = np.searchsorted(layout.component[self._order], np.arange(layout.components + 1))

    @property
    def floats(self) -> int:
        """Numbers of a data set's statistics, for each column."""
        return self.F.shape[0] * self.size

    def __call__(self, columns: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """B (b, q, count, size) and E (b, r, count, components) of columns, each (n, b)."""
        parts, lefts = zip(*(self.projection(y) for y in columns), strict=True)
        return self.finished(list(parts), self._products(list(lefts)))

    def finished(self, parts: list[np.ndarray], E: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same from B of each column (q, groups, b) and E (r, count, components, b), compressed and padded."""
        B = np.stack([np.moveaxis(part, -1, 1) for part in parts], 2)  # (q, b, count, groups)
        if self.patterns is not None:
            B = self.patterns.varying(B)
        B = pad_last(B, self.size) if self._places is None else placed(B, self._places)
        return np.moveaxis(B, 1, 0), np.moveaxis(E, -1, 0)

    def split(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (q, groups, b) of columns (n, b) in the span of Z by group, and what is left of them."""
        return self.projection(columns)

    def weights(self, random: Sequence[np.ndarray], s2: np.ndarray) -> np.ndarray | None:
        """``s2 V^-1`` of these coordinates (b, q, q, groups), beside one of what is left; None where factors cross.

        Parameters
        ----------
        random : covariances (b, q, q) of each term;  s2 : (b,) residual variances
        """
        if self.layout.outer:
            return None
        F, G, start = self.F, np.zeros((len(s2), len(self.F), len(self.F))), 0
        for t in self.layout.inner:
            stop = start + random[t].shape[-1]
            G[:, start:stop, start:stop], start = random[t] / s2[:, None, None], stop
        S = np.eye(len(F)) + np.einsum("iag,bij,jcg->bgac", F, G, F, optimize=True)
        return np.moveaxis(np.linalg.inv(S), 1, 3)

    def _products(self, lefts: list[np.ndarray]) -> np.ndarray:
        """Products of what is left of the columns with everything, by component: (r, count, components, b)."""
        if self.layout.components > 1:
            pieces = [self._order[a:b] for a, b in zip(self._bounds[:-1], self._bounds[1:], strict=True)]
            parts = [cross_products(self.left[rows], [y[rows] for y in lefts]) for rows in pieces]
            return np.stack(parts, 2)
        return cross_products(self.left, lefts)[:, :, None]


def cross_products(left: np.ndarray, ys: list[np.ndarray]) -> np.ndarray:
    """Products (r, count, b) of columns ys, each (n, b), with left (n, f) and with each other."""
    out = np.empty((left.shape[1] + len(ys), len(ys), ys[0].shape[1]))
    for j, y in enumerate(ys):
        out[: left.shape[1], j] = thin(left.T, y)
        for i, other in enumerate(ys):
            out[left.shape[1] + i, j] = np.einsum("nb,nb->b", other, y)
    return out


def stacked(lanes: Lanes) -> Iterator[tuple[np.ndarray, Grouped]]:
    """Statistics of data sets with one factor and rows of their own, those of one padded number of groups together."""
    U, Z, lane, many, group, _ = lanes
    groups = int(group.max(initial=-1)) + 1
    F, units = orthogonalise(np.concatenate([np.zeros((len(U), 0)), *Z], 1), group, groups, np)
    B, rest = project(units, U, group, groups, np)
    E = np.moveaxis(products(rest, lane, many, np), -1, 0)
    home = np.zeros(groups, int)
    home[group] = lane
    counts, per_lane = np.bincount(lane, minlength=many), np.bincount(home, minlength=many)
    position = np.arange(groups) - np.concatenate([[0], np.cumsum(per_lane)[:-1]])[home]
    shape = np.array([bucket(int(m)) for m in per_lane], int)
    for size in np.unique(shape):
        rows = np.flatnonzero(shape == size)
        index = np.full(many, -1)
        index[rows] = np.arange(len(rows))
        mine = np.flatnonzero(index[home] >= 0)

        def placed(a: np.ndarray, index: np.ndarray = index, mine: np.ndarray = mine, size: int = size) -> np.ndarray:
            """Arrays with the groups of all data sets last (..., groups) as rows of these (b, ..., size)."""
            out = np.zeros((int(index.max()) + 1, *a.shape[:-1], size))
            out[index[home[mine]], ..., position[mine]] = np.moveaxis(a[..., mine], -1, 0)
            return out

        factor, parent = Factor(placed(F), placed(B), E[rows][..., None]), np.zeros((len(rows), size), np.int32)
        meta = (tuple(range(len(Z))), (), (), 1, U.shape[1])
        count = counts[rows].astype(float)
        yield rows, Grouped(count, factor, None, placed(np.ones(groups)), parent, None, meta)
