"""The fits of many data sets, a row each, and how each of them ended."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from jax.tree_util import tree_map

from ..fitting.newton import Status
from ..fitting.objective import Spec
from ..fitting.units import Estimates
from ..frames.columns import make_frame
from ..frames.tables import Shown, Table, format_column
from ..likelihood.model import Model
from .queue import sizes
from .responses import Lane, Shared

Replicate = Estimates  # one row of a `BatchFit`: its numbers by the same names


@dataclass(frozen=True, eq=False, repr=False)
class BatchFit(Shown, Estimates):
    """Fits of many data sets, one row each; nothing is dropped, `status` says how each ended.

    Attributes
    ----------
    theta (b, k), coef (b, p), loglik (b,), ... : as in `jaxlmm.Estimates`, an axis of data sets before all others; NaN
        where not fitted
    converged, singular : (b,) bool
    coef_names : names of the coefficients;  kind : of the frames that it gives
    tests : the tests that were asked for, by method: `jaxlmm.LaneTests`
    """

    coef_names: tuple[str, ...] = ()
    kind: str = "dict"
    tests: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.loglik)

    def __getitem__(self, row: int) -> Replicate:
        """One fit."""
        return self.row(row)

    @property
    def converged(self) -> np.ndarray:
        """Whether each fit reached a certified optimum (b,), those with aliased columns of X included."""
        return np.isin(self.status, [s for s in Status if s.is_fitted])

    if TYPE_CHECKING:  # hung on by `jaxlmm.results`: what computes the numbers knows neither pictures nor files

        @property
        def plot(self) -> Any:  # noqa: D102
            ...

        def save(self, path: Any) -> None:  # noqa: D102
            ...

    def table(self) -> Table:
        """How the fits ended, and what the coefficients of those that have converged are on average."""
        good, names = self.converged, self.coef_names or tuple(f"b{j + 1}" for j in range(self.coef.shape[1]))
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # means of nothing are NaN
            numbers = (np.mean(self.coef[good], 0), np.std(self.coef[good], 0, ddof=1), np.mean(self.se[good], 0))
        cells = (format_column(numbers[0], 6), format_column(numbers[1]), format_column(numbers[2]))
        title = f"Fits of {len(self)} data sets, {int(good.sum())} converged, {int(self.singular.sum())} singular:"
        others = [s for s in Status if not s.is_fitted and np.any(self.status == s)]
        notes = [f"{s.name.lower()}: {int(np.sum(self.status == s))}" for s in others]
        notes += [f"tests: {', '.join(self.tests)}"] if self.tests else []
        header = ("", "Mean estimate", "SD", "Mean SE")
        return Table(title, header, tuple(zip(names, *cells, strict=True)), note="; ".join(notes))

    def to_frame(self) -> Any:
        """One row a data set: status, log-likelihood, sigma, coefficients with standard errors, theta."""
        columns: dict[str, Any] = {
            "status": [Status(s).name.lower() for s in self.status],
            "converged": self.converged,
            "singular": self.singular,
            "loglik": self.loglik,
            "sigma": self.sigma,
        }
        for j, name in enumerate(self.coef_names):
            columns[name] = self.coef[:, j]
            columns[f"se({name})"] = self.se[:, j]
        columns |= {f"theta{j + 1}": self.theta[:, j] for j in range(self.theta.shape[1])}
        columns |= {name: getattr(self, name) for name in ("decrement", "min_eigenvalue", "iterations")}
        return make_frame(self.kind, columns)

    @classmethod
    def empty(
        cls, b: int, p: int, spec: Spec, status: Status, names: tuple[str, ...], kind: str,
        testing: Testing | None = None,
    ) -> BatchFit:  # fmt: skip
        """Rows of NaN with one status."""
        k = sum(c.size(dim) for c, dim in spec.parts) + spec.profiled

        def nan(*shape: int) -> np.ndarray:
            return np.full((b, *shape), np.nan)

        *covariances, residual = (nan(dim, dim) for dim in spec.sizes)
        return cls(
            theta=nan(k), sigma=nan(), loglik=nan(), coef=nan(p), vcov=nan(p, p), covariances=tuple(covariances),
            residual=residual, status=np.full(b, status, int), iterations=np.zeros(b, int), decrement=nan(),
            boundary=np.zeros((b, len(spec.parts)), bool), min_eigenvalue=nan(), coef_names=names, kind=kind,
            tests={} if testing is None else testing.empty(b, kind, len(spec.sizes) - 1),
        )  # fmt: skip

    def put(self, rows: np.ndarray, found: Estimates, columns: np.ndarray) -> None:
        """Fill rows with what was found; `columns` are the positions of the coefficients."""
        places = {"coef": np.ix_(rows, columns), "vcov": np.ix_(rows, columns, columns)}
        for name, values in vars(found).items():
            mine = getattr(self, name)
            for own, theirs in zip(mine, values, strict=True) if name == "covariances" else ((mine, values),):
                own[places.get(name, rows)] = theirs


def joined(parts: Sequence[tuple[np.ndarray, BatchFit]]) -> BatchFit:
    """One batch of several, each with the positions of its rows in it."""
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))

    def together(values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, np.ndarray):
            return np.concatenate(values)[order]
        if isinstance(first, tuple):
            return tuple(
                together(own) if isinstance(own[0], np.ndarray) else own[0] for own in zip(*values, strict=True)
            )
        if isinstance(first, dict):
            return {name: together([value[name] for value in values]) for name in first}
        if is_dataclass(first):
            own = {f.name: together([getattr(value, f.name) for value in values]) for f in fields(first)}
            return replace(first, **own)  # type: ignore[type-var]
        return first

    return together([fit for _, fit in parts])


class Fitted(NamedTuple):
    """What tests start from: the fits of data sets of one shape."""

    spec: Spec
    shared: Shared
    lanes: Lane
    x: np.ndarray  # (b, k) coordinates of ``spec.absolute``
    found: Estimates
    columns: np.ndarray  # positions of the coefficients in those of the user
    rows: tuple[Model, np.ndarray] | None  # the design and the responses (b, n), where data sets share it
    model: Model | None  # the design as it was given, where there is one
    complete: bool  # whether these data sets have all of its rows

    def queued(self, index: np.ndarray) -> tuple[int, np.ndarray, Lane]:
        """How many of some data sets to map over side by side; their places, repeated to few shapes, and lanes."""
        statistics = (self.lanes.data if self.shared.prepared is None else self.shared.prepared).statistics
        capacity, slots = sizes(len(index), statistics.work, self.spec.count)
        place = np.resize(index, -(-len(index) // capacity) * capacity)
        return slots, place, tree_map(lambda a: np.asarray(a)[place], self.lanes)


class Testing(Protocol):
    """Tests of given hypotheses in every data set, see `jaxlmm.Tests`."""

    @property
    def needs_design(self) -> bool:
        """Whether they count in the terms of a formula."""
        ...

    def empty(self, b: int, kind: str, parts: int) -> dict[str, Any]:
        """Results without numbers for b data sets of a model with random parts, with frames of a library."""
        ...

    def put(self, tests: dict[str, Any], rows: np.ndarray, fitted: Fitted) -> None:
        """Test what was fitted and fill `rows` of the results."""
        ...
