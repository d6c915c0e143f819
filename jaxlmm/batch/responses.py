"""Many data sets on one design: what is shared, and the statistics of what varies, for all of them at once (NumPy)."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from ..likelihood.engines import Rows
from ..likelihood.model import Model, known_sd
from ..likelihood.parts import Term
from ..likelihood.prepared import Basis, Prepared, orthonormal, prepare, turned, weighted
from ..linalg import thin
from ..pytrees import once
from ..tolerances import ALIASED

IN_CACHE = 2**15  # numbers of responses that are worked on together


class Responses(NamedTuple):
    """What differs between data sets on one design, a row each.

    Attributes
    ----------
    c : (b, p) coordinates in the orthonormal basis of X
    residual_sd : (b,) of least squares
    R, alias : (b, p, p) and (b, p) as in `Basis`, None unless a column of X varies
    data : engine's part, see ``with_columns``
    """

    c: Any
    residual_sd: Any
    R: Any
    alias: Any
    data: Any

    def put_into(self, shared: Basis) -> Basis:
        """The shared basis with what differs."""
        own = {name: value for name, value in zip(self._fields[:-1], self[:-1], strict=True) if value is not None}
        return shared._replace(**own)


class Shared(NamedTuple):
    """What lanes have in common, None where each has its own: statistics, and scale of the solver coordinates (k,)."""

    prepared: Prepared | None
    scale: Any


class Lane(NamedTuple):
    """What a lane has of its own (the complement of `Shared`); arrays with one row a lane when there are many."""

    data: Any  # `Responses`, or `Prepared` where nothing is shared
    scale: Any


def basis_of(shared: Shared, lane: Lane) -> Basis:
    """The basis of one data set, or of many."""
    return lane.data.basis if shared.prepared is None else lane.data.put_into(shared.prepared.basis)


def assemble(shared: Shared, lane: Lane) -> tuple[Prepared, Any]:
    """Statistics and scale of one data set."""
    scale = lane.scale if shared.scale is None else shared.scale
    if shared.prepared is None:
        return lane.data, scale
    statistics = shared.prepared.statistics.with_columns(lane.data.data)
    return Prepared(statistics, basis_of(shared, lane), shared.prepared.coords), scale


class Design:
    """A model without its response and, if asked, without the last column of its X.

    Attributes
    ----------
    original, nobs : the model of all rows and their number, where `model` has fewer (`batch.statistics`)
    template : statistics that all data sets share (what varies is overwritten)
    rows, R : orthonormal columns of X, with their R, and the columns of Z worked with
    varying : the engine's design side, which turns columns (n, b) into its statistics, a row each
    """

    def __init__(self, model: Model, column: bool = False, nobs: int | None = None):
        self.model, self.original, self.nobs, self.column = model, model, nobs or len(model.y), column
        count = 2 if column else 1
        template = prepare(model, varying=count, orthogonal=True, nobs=nobs)
        self.template = template._replace(statistics=template.statistics.tight())
        self._known = known_sd(model)
        fixed = model.X.shape[1] - column
        self._Q, R, _ = orthonormal(model.X[:, :fixed], model.weights)
        self.R = np.pad(R, (0, int(column)))
        pairs = zip(model.random, self.template.basis.K, strict=True)
        Z = tuple(turned(weighted(model, t.Z), K) if isinstance(t, Term) else None for t, K in pairs)
        self.rows = Rows(self._Q, Z)
        self.varying = model.evaluator.varying(self.rows, model, self.template.statistics, count)

    @cached_property
    def masked(self) -> Any:
        """What gives statistics of responses that each lack rows of their own, None where the engine has no such."""
        aliased = bool(np.any(self.template.basis.alias))
        return None if self.column or aliased else self.model.evaluator.masked(self.rows, self.model)

    @property
    def floats(self) -> int:
        """Numbers a data set has of its own: its rows and its statistics."""
        return (1 + self.column) * (len(self.model.y) + self.varying.floats)

    def responses(self, Y: np.ndarray, x: np.ndarray | None = None) -> Responses:
        """Statistics of responses Y (b, n), with the last column x (b, n) of X where it varies; all finite."""
        many = max(64, IN_CACHE // Y.shape[1])
        parts = [
            self._of_some(Y[i : i + many], None if x is None else x[i : i + many])
            for i in range(0, max(len(Y), 1), many)
        ]
        if len(parts) == 1:
            return parts[0]
        return jax.tree_util.tree_map(lambda *a: np.concatenate([np.ascontiguousarray(each) for each in a]), *parts)

    def _of_some(self, Y: np.ndarray, x: np.ndarray | None) -> Responses:
        y = np.ascontiguousarray(weighted(self.model, (Y if self.model.offset is None else Y - self.model.offset).T))
        c, left = self._residual(y)
        n, p = self.nobs, self.model.X.shape[1]
        if x is None:
            sd = np.maximum(np.sqrt(np.sum(left**2, 0) / max(n - p, 1)), self._known)
            return Responses(c.T, sd, None, None, self.varying([left]))
        column = weighted(self.model, x.T)
        a, unit = self._residual(column)
        norm = np.sqrt(np.sum(unit**2, 0))
        aliased = norm <= ALIASED * np.sqrt(np.sum(column**2, 0))
        norm = np.where(aliased, 1.0, norm)
        unit = np.where(aliased, 0.0, unit / norm)
        along = np.zeros(len(Y))
        for _ in range(2):
            part = np.sum(unit * left, 0)
            along, left = along + part, left - unit * part
        alias = np.zeros((len(Y), p))
        alias[:, -1] = aliased
        R = np.tile(self.R, (len(Y), 1, 1))
        R[:, :-1, -1], R[:, -1, -1] = a.T, norm
        sd = np.maximum(np.sqrt(np.sum(left**2, 0) / np.maximum(n - p + aliased, 1)), self._known)
        return Responses(np.column_stack([c.T, along]), sd, R, alias, self.varying([unit, left]))

    def _residual(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (f, b) of y (n, b) along the fixed columns, and what is left."""
        c = thin(self._Q.T, y)
        left = y - thin(self._Q, c)
        again = thin(self._Q.T, left)
        return c + again, left - thin(self._Q, again)


def design_of(model: Model) -> Design:
    """The design of many responses to a model, made once."""
    return once(model, Design, lambda: Design(model))
