"""Many responses on one design: the part of the statistics that depends on y, for all of them at once (NumPy)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from .engines import Grouped, Rows
from .engines.grouped import stack_rows
from .engines.orthogonal import Patterns, orthogonalise, pad_last, project
from .model import Basis, Model, Prepared, prepare


class Responses(NamedTuple):
    """What differs between responses on one design, a row each.

    Attributes
    ----------
    c : (b, p) coordinates in the orthonormal basis of X
    residual_sd : (b,) of least squares
    data : engine's part, see ``with_response``
    """

    c: Any
    residual_sd: Any
    data: Any


def assemble(template: Prepared | None, lane: Any) -> Prepared:
    """One data set: the template with the response of a lane, or the lane itself where nothing is shared."""
    if template is None:
        return lane
    basis: Basis = template.basis._replace(c=lane.c, residual_sd=lane.residual_sd)
    return Prepared(template.statistics.with_response(lane.data), basis)


class Design:
    """A model without its response.

    Attributes
    ----------
    template : statistics that all responses share (those of `model`'s own response are overwritten)
    """

    def __init__(self, model: Model):
        self.model = model
        self._root = None if model.weights is None else np.sqrt(model.weights)
        X = model.X if self._root is None else model.X * self._root[:, None]
        self._Q = np.linalg.qr(X)[0]
        self.template = prepare(model)
        if isinstance(self.template.statistics, Grouped):
            self._prepare_groups()

    def _prepare_groups(self) -> None:
        """What turns a response into statistics: orthonormal columns within groups, and the patterns of groups."""
        model, layout = self.model, self.model.layout
        Z = tuple(t.Z if self._root is None else t.Z * self._root[:, None] for t in model.random)
        inner, W = stack_rows(Rows(self._Q, Z), layout, np)
        F, self._units = orthogonalise(inner, layout.codes, layout.groups, np)
        B, self._left = project(self._units, W, layout.codes, layout.groups, np)
        self._patterns = None if layout.outer else Patterns.find(F, B)
        self._size = len(self.template.statistics.weight)
        self._order = np.argsort(layout.codes, kind="stable")
        self._starts = np.searchsorted(layout.codes[self._order], np.arange(layout.groups))
        self._by_component = np.argsort(layout.component, kind="stable")
        component = layout.component[self._by_component]
        self._component_starts = np.searchsorted(component, np.arange(layout.components))

    def responses(self, Y: np.ndarray) -> Responses:
        """Statistics of responses Y (b, n), all finite."""
        y = (Y if self.model.offset is None else Y - self.model.offset).T
        if self._root is not None:
            y = y * self._root[:, None]
        c = self._Q.T @ y
        left = y - self._Q @ c
        again = self._Q.T @ left
        left = left - self._Q @ again
        n, p = self.model.X.shape
        sd = np.sqrt(np.sum(left**2, 0) / (n - p))
        data = self._group_data(left) if isinstance(self.template.statistics, Grouped) else left.T
        return Responses((c + again).T, sd, data)

    def _group_data(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By (b, q, g) and Ey (b, r, components) of residualised responses y (n, b)."""
        layout = self.model.layout
        parts = []
        for unit in self._units:
            total: Any = 0.0
            for _ in range(2):
                part = np.add.reduceat((unit[:, None] * y)[self._order], self._starts, 0)
                total = total + part
                y = y - unit[:, None] * part[layout.codes]
            parts.append(total.T)
        By = np.stack(parts) if parts else np.zeros((0, y.shape[1], layout.groups))
        if self._patterns is not None:
            By = self._patterns.response(By)
        if layout.components == 1:
            cross, square = (self._left.T @ y)[..., None], np.sum(y * y, 0)[None, :, None]
        else:
            sorted_y, sorted_x = y[self._by_component], self._left[self._by_component]
            bounds = [*self._component_starts, len(y)]
            pieces = list(zip(bounds[:-1], bounds[1:], strict=True))
            cross = np.stack([sorted_x[a:b].T @ sorted_y[a:b] for a, b in pieces], -1)
            square = np.stack([np.sum(sorted_y[a:b] ** 2, 0)[None] for a, b in pieces], -1)
        Ey = np.concatenate([cross, square], 0)
        return np.moveaxis(pad_last(By, self._size), 1, 0), np.moveaxis(Ey, 1, 0)


def stack_lanes(prepared: list[Prepared]) -> Prepared:
    """Statistics of several data sets of one shape, a row each."""
    return jax.tree_util.tree_map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *prepared)
