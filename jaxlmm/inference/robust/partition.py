"""Rows by cluster, V^-1 applied to rows, and what both give: the blocks of V^-1, for every engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...errors import DataError, require_accurate
from ...estimates.fitted import FitBase
from ...estimates.rows import covariance, parts_of
from ...fitting.objective import Spec, coordinates
from ...frames.alignment import aligned
from ...frames.columns import read_column
from ...frames.owned import check_index, column_at
from ...likelihood.engines import Blocks
from ...likelihood.engines.layout import connected
from ...likelihood.engines.marginal.layout import linked
from ...likelihood.engines.marginal.statistics import by_cluster
from ...likelihood.engines.orthogonal import group_sum, pad_first, row_bucket
from ...likelihood.model import Model
from ...likelihood.prepared import Prepared, orthonormal, prepare, weighted
from ...runtime.precision import float64
from ...runtime.programs import compiled, compiled_by_size
from ..local import blocks_at
from ..small_sample.kenward_roger import second_order

MOST_NUMBERS = 1e8  # rows * rows of the largest cluster, above which the blocks of V^-1 are not formed


class Partition(NamedTuple):
    """Clusters of rows; T is the size of the largest.

    Attributes
    ----------
    labels : (m,);  codes : (n,) cluster of each row;  slot : (n,) its place in there
    rows : (m, T) rows of each cluster, n where there is none
    """

    labels: np.ndarray
    codes: np.ndarray
    slot: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray, labels: Any = None) -> Partition:
        """From codes 0, 1, ... of every row."""
        counts = np.bincount(codes)
        order = np.argsort(codes, kind="stable")
        slot = np.empty(len(codes), int)
        slot[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.full((len(counts), int(counts.max(initial=1))), len(codes))
        rows[codes, slot] = np.arange(len(codes))
        return cls(np.arange(len(counts)) if labels is None else np.asarray(labels), codes, slot, rows)

    @property
    def size(self) -> int:
        """Number of clusters."""
        return len(self.rows)

    @property
    def present(self) -> np.ndarray:
        """Whether there is a row (m, T)."""
        return self.rows < len(self.codes)

    def sum(self, x: np.ndarray) -> np.ndarray:
        """Sums (m, ...) of rows x (n, ...)."""
        return group_sum(x, self.codes, self.size, np)

    def split(self, x: np.ndarray) -> np.ndarray:
        """Rows (n, b) by cluster (m, T, b), zeros where there is none."""
        return by_cluster(x, self.rows)

    def slots(self) -> np.ndarray:
        """Indicators (n, T) of the place of each row in its cluster: V^-1 times these is the blocks of V^-1 by row."""
        n, T = len(self.codes), self.rows.shape[1]
        if n * float(T) > MOST_NUMBERS:
            raise DataError(
                f"the largest of {self.size} clusters of dependent rows has {T} of {n} rows; the blocks of V^-1, "
                "which this needs, would be too large"
            )
        return (self.slot[:, None] == np.arange(T)) * 1.0


def dependent(model: Model) -> Partition:
    """The finest clusters by which V is block diagonal: rows that random parts or the residual structure connect."""
    own = np.arange(len(model.y), dtype=np.int32)
    residual = own if model.residual.group is None else np.asarray(model.residual.group)
    return Partition.of(connected([own, residual, *(linked(part) for part in model.random)])[0])


def labelled(fit: FitBase, name: str, by: Any) -> Partition:
    """Clusters by a column of the data, or by an array with an entry for every row used or every row of the data.

    A pandas Series is put into the order of the data by its index.

    Raises
    ------
    DataError
        For an array of another length, or missing labels; `name` is that of the argument.
    """
    rows, n = fit.frame.rows, len(fit.model.y)
    if isinstance(by, str):
        column = column_at(fit, by)
        codes, names = column.as_factor().values[rows], np.array(column.as_factor().levels, dtype=object)
    else:
        check_index(fit, name, by)
        by = aligned(name, by, fit.data, rows)
        shape = (len(by),) if isinstance(by, list | tuple) else np.shape(by)
        if shape not in ((n,), (fit.frame.n_input,)):
            raise DataError(
                f"{name}: expected a column or one label for each of the {n} rows used, found shape {shape}"
            )
        column = read_column(name, by)
        factor = column.as_factor()
        codes = factor.values if shape == (n,) else factor.values[rows]
        is_plain = column.is_number and column.exact is None and column.values.dtype != np.uint64
        names = np.array([v for _, v in factor.levels.keys] if is_plain else factor.levels, dtype=object)
    if np.any(codes < 0):
        where = f" in {by!r}" if isinstance(by, str) else ""
        raise DataError(f"{name}: {int(np.sum(codes < 0))} of the rows used have no value{where}")
    used, codes = np.unique(codes, return_inverse=True)
    return Partition.of(codes.reshape(-1), names[used])


def robust_clusters(fit: FitBase, cluster: Any = None) -> Partition:
    """Clusters for a sandwich: those of V, or wider ones by `cluster`, see `labelled`.

    Raises
    ------
    DataError
        Where V is not block diagonal by `cluster`, or there is one cluster only.
    """
    own = dependent(fit.model)
    if own.size < 2:
        raise DataError(
            "cluster: the random effects connect all rows (crossed factors, or one group), V is not block diagonal, "
            "and a sandwich needs at least 2 independent clusters"
        )
    if cluster is None:
        return own._replace(labels=_names(fit, own))
    found = labelled(fit, "cluster", cluster)
    pairs = np.unique(np.column_stack([own.codes, found.codes]), axis=0)
    if len(pairs) > own.size:
        torn = int(np.sum(np.bincount(pairs[:, 0]) > 1))
        what = f"{cluster!r}" if isinstance(cluster, str) else "the labels given"
        raise DataError(
            f"cluster: V is not block diagonal by {what}: {torn} of {own.size} groups of dependent rows have rows in "
            "more than one cluster; expected a factor within which all random effects and residuals are nested"
        )
    if found.size < 2:
        raise DataError("cluster: expected at least 2 clusters, found 1")
    return found


def _names(fit: FitBase, own: Partition) -> np.ndarray:
    """Labels of the clusters: the levels of the grouping factor that they are, or numbers from 1."""
    parts = [*zip(fit.frame.parts, fit.model.random, strict=True), (fit.frame.residual, fit.model.residual)]
    for part, arrays in parts:
        if part is None or arrays.group is None or len(part.levels) != own.size:
            continue
        pairs = np.unique(np.column_stack([own.codes, arrays.group]), axis=0)
        if len(pairs) == own.size:
            return np.array(part.levels, dtype=object)[pairs[:, 1]]
    return np.arange(1, own.size + 1)


def require_converged(fit: FitBase) -> None:
    """Refuse to look at the neighbourhood of estimates that are none."""
    if not fit.converged:
        raise DataError(f"the fit has no optimum to look at: {fit.estimate.status.advice}")


class Rowwise:
    """V^-1 of a fit applied to rows, with derivatives in the solver's coordinates x (k,), all covariances absolute.

    Rows stand multiplied by the square roots of the weights, and so does V.

    Attributes
    ----------
    Q : (n, p) orthonormal columns that span X;  R : (p, p) with ``X = Q R``;  e : (n,) ``y - X beta``
    root : (n,) square roots of the weights
    """

    def __init__(self, fit: FitBase):
        model = fit.model
        self.model, self.estimate = model, fit.estimate
        with float64():
            self.spec = Spec.of(model, fit.method).absolute
            self.prepared = prepare(model, compact=False, orthogonal=True)
            self.x = np.asarray(coordinates(self.spec, self.prepared, fit.theta, "solver"))
        self.Q, self.R, _ = orthonormal(model.X, model.weights)
        mean = model.X @ fit.coef + (0.0 if model.offset is None else model.offset)
        self.e = weighted(model, model.y - mean)
        self.root = weighted(model, np.ones(len(self.e)))

    @property
    def U(self) -> np.ndarray:
        """[Q e] (n, p + 1)."""
        return np.column_stack([self.Q, self.e])

    def blocks(self, chart: str, x: np.ndarray, coords: tuple[Any, ...] | None = None) -> tuple[Blocks, Blocks]:
        """Covariance blocks of all parts, and their derivatives (k, ...) in coordinates x (k,) of a chart.

        Parameters
        ----------
        coords : of other rows than those of the data, as ``Prepared.coords``
        """
        with float64():
            coords = self.prepared.coords if coords is None else coords
            return jax.device_get(_with_slopes(self.spec, chart, coords, x))

    def second_order(self, chart: str, x: np.ndarray, coords: tuple[Any, ...], W: np.ndarray) -> tuple[Blocks, Any]:
        """Second derivatives of covariance blocks, summed with weights W (k, k); see `kenward_roger.second_order`."""
        with float64():
            return jax.device_get(_bent(self.spec, chart, coords, x, W))

    def solve(self, B: np.ndarray) -> np.ndarray:
        """V^-1 B for B (n, b); NaN, with a warning, in columns that float64 does not determine."""
        with float64():
            found = np.asarray(self._compiled(_solves)(self.spec, self.prepared, self.x, self._long(B)))[: len(B)]
        require_accurate(found)
        return found

    def covariances(self, clusters: Partition) -> np.ndarray:
        """V between the rows of each cluster (m, T, T), the identity where there is none."""
        parts, blocks = parts_of(self.model, self.estimate)
        rows, present = np.minimum(clusters.rows, len(self.e) - 1), clusters.present
        root = self.root[rows]
        V = covariance(parts, blocks, rows[:, :, None], rows[:, None, :]) * root[:, :, None] * root[:, None, :]
        both = present[:, :, None] & present[:, None, :]
        return np.where(both, V, np.eye(rows.shape[1]) * ~present[:, :, None])

    def slopes(self, B: np.ndarray) -> Iterator[np.ndarray]:
        """Derivatives of V^-1 B, one coordinate after the other."""
        run = self._compiled(_slopes)
        for direction in np.eye(len(self.x)):
            with float64():
                yield np.asarray(run(self.spec, self.prepared, self.x, direction, self._long(B)))[: len(B)]

    def in_residual(self, B: np.ndarray) -> np.ndarray:
        """``V^-1 R V^-1 B``, the derivative of -V^-1 B in the size of the residual covariance R."""
        with float64():
            return np.asarray(self._compiled(_in_residuals)(self.spec, self.prepared, self.x, self._long(B)))[: len(B)]

    def _long(self, B: np.ndarray) -> np.ndarray:
        """Rows of zeros behind those of B where the engine can have them, so that programs are shared."""
        return pad_first(B, row_bucket(len(B))) if self.prepared.statistics.pads_rows else B

    def _compiled(self, choose: Any) -> Any:
        return choose(self.prepared.statistics, max(len(self.x), 1))

    def grams(self, clusters: Partition) -> np.ndarray:
        """[Q e]'V^-1 [Q e] of every cluster (m, p + 1, p + 1)."""
        U = self.U
        S = self.solve(U)
        return np.stack([clusters.sum(U * column[:, None]) for column in S.T], -1)


@compiled("chart")
def _with_slopes(spec: Spec, chart: str, coords: tuple[Any, ...], x: Array) -> tuple[Blocks, Blocks]:
    def at(x: Array) -> Blocks:
        return spec.blocks(x, coords, chart)

    return at(x), jax.vmap(lambda v: jax.jvp(at, (x,), (v,))[1])(jnp.eye(len(x)))


@compiled("chart")
def _bent(spec: Spec, chart: str, coords: tuple[Any, ...], x: Array, W: Array) -> tuple[Blocks, Array]:
    return second_order(spec, chart, x, W, lambda x: spec.blocks(x, coords, chart))


def _solve(spec: Spec, prepared: Prepared, x: Array, B: Array) -> Array:
    return prepared.statistics.solve(blocks_at(spec, prepared, "solver", x), B)


def _slope(spec: Spec, prepared: Prepared, x: Array, direction: Array, B: Array) -> Array:
    return jax.jvp(lambda x: _solve(spec, prepared, x, B), (x,), (direction,))[1]


def _in_residual(spec: Spec, prepared: Prepared, x: Array, B: Array) -> Array:
    C = blocks_at(spec, prepared, "solver", x)
    only = jax.tree_util.tree_map(jnp.zeros_like, C)._replace(residual=C.residual)
    return -jax.jvp(lambda C: prepared.statistics.solve(C, B), (C,), (only,))[1]


_solves, _slopes, _in_residuals = (compiled_by_size(f) for f in (_solve, _slope, _in_residual))
