"""Many data sets that differ in their rows: statistics of all of them at once, grouped by shape (NumPy)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..fitting.boundary import has_few_groups
from ..fitting.estimate import says_little
from ..likelihood.engines.base import Lanes
from ..likelihood.engines.orthogonal import group_sum, orthogonalise, project
from ..likelihood.model import Model, known_sd
from ..likelihood.prepared import Basis, Prepared, inverse_chart, prepare, turned, weighted
from ..tolerances import ALIASED, origin, shifted


@dataclass(frozen=True)
class Stack:
    """Data sets of one shape.

    Attributes
    ----------
    rows : (b,) positions of the data sets
    prepared : statistics with a leading axis (b, ...)
    few : (b,) whether there are few groups, see `says_little`
    spread : (b,) size of y less what X explains, relative to y: rounding error where X fits y exactly
    """

    rows: np.ndarray
    prepared: Prepared
    few: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True)
class GroupedRows:
    """Rows of many data sets, one below the other, for models with one grouping factor.

    That of their terms, or the subjects of a residual structure over levels.

    Attributes
    ----------
    lane : (n,) data set of each row, ascending;  lanes : their number
    y : (n,) less its offset;  X : (n, p);  Z : (n, q) a term
    group : (n,) group of each row, ascending in `lane`, numbered through all data sets
    weights : (n,) or None
    position : (n,) level of each row for the residual structure, or None
    """

    lane: np.ndarray
    lanes: int
    y: np.ndarray
    X: np.ndarray
    Z: tuple[np.ndarray, ...]
    group: np.ndarray
    weights: np.ndarray | None
    position: np.ndarray | None

    @classmethod
    def of_models(cls, models: Sequence[Model]) -> GroupedRows:
        """Models for which `is_stackable` holds."""
        sizes = np.array([len(m.y) for m in models])
        factors = [_factor(m) for m in models]
        first = np.concatenate([[0], np.cumsum([levels for _, levels in factors])[:-1]])
        some = any(m.weights is not None for m in models)
        terms, residual = range(len(models[0].terms)), models[0].residual
        return cls(
            lane=np.repeat(np.arange(len(models)), sizes),
            lanes=len(models),
            y=np.concatenate([m.y if m.offset is None else m.y - m.offset for m in models]),
            X=np.concatenate([m.X for m in models]),
            Z=tuple(np.concatenate([m.terms[t].Z for m in models]) for t in terms),
            group=np.concatenate([codes + f for (codes, _), f in zip(factors, first, strict=True)]),
            weights=np.concatenate([np.ones(len(m.y)) if m.weights is None else m.weights for m in models])
            if some
            else None,
            position=None if residual.position is None else np.concatenate([m.residual.position for m in models]),
        )

    @classmethod
    def of_responses(cls, model: Model, Y: np.ndarray, weights: np.ndarray | None, x: np.ndarray | None) -> GroupedRows:
        """Responses Y (b, n) to one model, rows where they are NaN left out.

        `weights` (b, n) replace those of the model, `x` (b, n) the last column of X.
        """
        lane, row = np.nonzero(~np.isnan(Y))
        X = model.X[row]
        if x is not None:
            X[:, -1] = x[lane, row]
        factor, levels = _factor(model)
        codes = lane.astype(np.int64) * levels + factor[row]
        present = np.bincount(codes, minlength=len(Y) * levels) > 0
        offset = 0.0 if model.offset is None else model.offset[row]
        if weights is None and model.weights is not None:
            weights = np.broadcast_to(model.weights, Y.shape)
        return cls(
            lane=lane,
            lanes=len(Y),
            y=Y[lane, row] - offset,
            X=X,
            Z=tuple(t.Z[row] for t in model.terms),
            group=(np.cumsum(present) - 1)[codes],
            weights=None if weights is None else weights[lane, row],
            position=None if model.residual.position is None else model.residual.position[row],
        )

    def stacks(self, model: Model) -> Iterator[Stack]:
        """Statistics, data sets of one padded number of groups together; `model` has the terms."""
        counts = np.bincount(self.lane, minlength=self.lanes)
        matrices = [t.structure.is_matrix for t in model.random]
        charts = [self._chart(self._rooted(z), free) for z, free in zip(self.Z, matrices, strict=True)]
        basis, columns, spread = self._basis(counts, charts)
        basis = basis._replace(residual_sd=np.maximum(basis.residual_sd, known_sd(model)))
        Z = [turned(self._rooted(z), K[self.lane]) for z, (K, _) in zip(self.Z, charts, strict=True)]
        groups = np.zeros(int(self.group.max(initial=-1)) + 1, int)
        groups[self.group] = self.lane
        per_lane = np.bincount(groups, minlength=self.lanes)
        free = [t.dim for t in model.random if t.structure.is_matrix and t.dim > 1]
        few = np.any([has_few_groups(dim, per_lane, counts) for dim in free] or [np.zeros(self.lanes, bool)], 0)
        lanes = Lanes(columns, Z, self.lane, self.lanes, self.group, self.position)
        for rows, statistics in model.evaluator.stacked(model, lanes):
            yield Stack(rows, Prepared(statistics, take(basis, rows), model.coords), few[rows], spread[rows])

    def _rooted(self, a: np.ndarray) -> np.ndarray:
        """Rows (n, .) multiplied by the square roots of the weights."""
        return a if self.weights is None else a * np.sqrt(self.weights)[:, None]

    def _sum(self, x: np.ndarray) -> np.ndarray:
        return group_sum(x, self.lane, self.lanes, np)

    def _basis(
        self, counts: np.ndarray, charts: list[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[Basis, np.ndarray, np.ndarray]:
        """Basis of every data set; the columns [Q, residual of y] (n, p + 1); and spread, see `Stack`."""
        p, y = self.X.shape[1], self._rooted(self.y[:, None])
        moved = origin(self.X)
        X = self._rooted(shifted(self.X, moved)) if p else self.X
        R, columns = orthogonalise(X, self.lane, self.lanes, np, ALIASED)
        back = R[0].T[:, :, None] * moved if p else 0.0  # to the origins of the user
        c, left = project(columns, y, self.lane, self.lanes, np)
        alias = 1.0 * (np.diagonal(R, axis1=0, axis2=1) == 0)  # (lanes, p)
        square, total = self._sum(left[:, 0] ** 2), self._sum(y[:, 0] ** 2)
        basis = Basis(
            R=np.transpose(R, (2, 1, 0)) + alias[:, :, None] * np.eye(p) + back,
            c=c[:, 0].T if p else np.zeros((self.lanes, 0)),
            log_weights=np.zeros(self.lanes) if self.weights is None else self._sum(np.log(self.weights)),
            n=counts.astype(float),
            alias=alias,
            residual_sd=np.sqrt(square / np.maximum(counts - p + alias.sum(1), 1)),
            K=tuple(chart[0] for chart in charts),
            units=tuple(chart[1] for chart in charts),
        )
        return basis, np.column_stack([*columns, left[:, 0]]), np.sqrt(square / np.where(total > 0, total, 1.0))

    def _chart(self, Z: np.ndarray, free: bool) -> tuple[np.ndarray, np.ndarray]:
        """See `conditioned`: K (lanes, q, q) and units (lanes, q)."""
        q, counts = Z.shape[1], np.maximum(np.bincount(self.lane, minlength=self.lanes), 1)
        rms = np.sqrt(np.stack([group_sum(z**2, self.lane, self.lanes, np) for z in Z.T], -1) / counts[:, None])
        units = 1.0 / np.where(rms > 0, rms, 1.0)
        if not free or q < 2:
            return np.tile(np.eye(q), (self.lanes, 1, 1)), units
        F, _ = orthogonalise((Z * units[self.lane])[:, ::-1], self.lane, self.lanes, np)
        return inverse_chart(np.transpose(F, (2, 1, 0)) / np.sqrt(counts)[:, None, None], units)


def take(tree: Any, rows: np.ndarray | int) -> Any:
    """Rows of every array of a pytree."""
    return jax.tree_util.tree_map(lambda a: a[rows], tree)


def models_of_responses(
    model: Model, Y: np.ndarray, weights: np.ndarray | None, x: np.ndarray | None
) -> list[Model]:  # fmt: skip
    """The same as models, for designs that cannot be stacked."""
    models = []
    for i, y in enumerate(Y):
        rows = np.flatnonzero(~np.isnan(y))
        X = model.X[rows]
        if x is not None:
            X[:, -1] = x[i, rows]
        own = model.weights if weights is None else weights[i]
        models.append(
            Model(
                y[rows],
                X,
                [part.subset(rows, keep=model.evaluator.keeps_levels) for part in model.random],
                model.residual.subset(rows),
                None if own is None else own[rows],
                None if model.offset is None else model.offset[rows],
                model.evaluator,
                checks=False,
            )
        )
    return models


def _factor(model: Model) -> Any:
    """Codes and number of levels of the grouping factor by which the engine takes data sets together, if any."""
    return model.evaluator.factor(model)


def is_stackable(model: Model) -> bool:
    """Whether data sets like this one are prepared together."""
    return _factor(model) is not None


def floats_of(model: Model) -> int:
    """Numbers that one of many data sets like this one takes when it is prepared on its own, at least."""
    return model.X.size + sum(t.Z.size for t in model.terms) + model.evaluator.floats(model)


def stacks_of_responses(
    model: Model, Y: np.ndarray, weights: np.ndarray | None, x: np.ndarray | None
) -> Iterator[Stack]:  # fmt: skip
    """Statistics of responses with designs of their own, see `GroupedRows.of_responses`."""
    if is_stackable(model):
        yield from GroupedRows.of_responses(model, Y, weights, x).stacks(model)
    else:
        yield from stacks_of_models(models_of_responses(model, Y, weights, x))


def stacks_of_models(models: Sequence[Model]) -> Iterator[Stack]:
    """Statistics of models with the same terms, those of one shape together."""
    if all(is_stackable(m) and m.evaluator == models[0].evaluator for m in models):
        yield from GroupedRows.of_models(models).stacks(models[0])
        return
    prepared = [prepare(m, orthogonal=True) for m in models]
    spread = np.array([_spread(m, q.basis) for m, q in zip(models, prepared, strict=True)])
    shapes: dict[Any, list[int]] = {}
    for i, q in enumerate(prepared):
        leaves, tree = jax.tree_util.tree_flatten(q)
        shapes.setdefault((tree, tuple(np.shape(leaf) for leaf in leaves)), []).append(i)
    for members in shapes.values():
        rows = np.array(members)
        together = jax.tree_util.tree_map(_stacked, *(prepared[i] for i in members))
        few = np.array([says_little(models[i]) for i in members])
        yield Stack(rows, together, few, spread[rows])


def _stacked(*leaves: Any) -> np.ndarray:
    return np.stack([np.asarray(leaf) for leaf in leaves])


def _spread(model: Model, basis: Basis) -> float:
    y = weighted(model, model.y if model.offset is None else model.y - model.offset)
    size = float(np.sqrt(np.sum(y**2)))
    left = float(basis.residual_sd) * np.sqrt(max(len(y) - float(basis.rank), 0.0))
    return left / size if size > 0 else 0.0
