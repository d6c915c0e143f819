"""The annotated parameters of a structure: name, kind, size, and which of their entries share a coordinate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..arguments import check_number
from ..errors import JaxlmmError
from ..linalg import tril_indices
from .bands import BandKind
from .kinds import Bound, CovarianceMatrixKind, IntervalKind, Kind, PositiveKind, RealKind, VarianceKind

MOST_LEVELS = 5000  # above which a covariance matrix between levels is too large, as one of dependent rows
MOST_PARAMETERS = 10_000  # above which their Hessian is


@dataclass(frozen=True)
class ByOption:
    """Marks a field whose kind is a function of the structure, of its options."""

    kind: Callable[[Any], Kind]


@dataclass(frozen=True)
class PerLevel:
    """Marks a field as a vector with one entry a level (plus `extra`), or with `extra` entries whatever the levels."""

    extra: int = 0
    each: bool = True

    def __sub__(self, fewer: int) -> PerLevel:
        return PerLevel(self.extra - fewer)

    def length(self, dim: int) -> int:
        """Number of entries for `dim` levels."""
        return max(dim + self.extra, 0) if self.each else self.extra


each_level = PerLevel()
Variance = Annotated[Array, VarianceKind()]
SmoothVariance = Annotated[Array, VarianceKind(power=4)]
Positive = Annotated[Array, PositiveKind()]
Real = Annotated[Array, RealKind()]
Correlation = Annotated[Array, IntervalKind(-1.0, 1.0)]
CovarianceMatrix = Annotated[Array, CovarianceMatrixKind()]


def interval(lower: Bound, upper: Bound, start: float | None = None) -> IntervalKind:
    """Kind of a field bounded on both sides: ``Annotated[Array, interval(0.0, 2.0)]``; it may say where it starts."""
    for name, value in (("lower", lower), ("upper", upper), ("start", start)):
        if value is not None and not callable(value):
            check_number(f"interval: {name}", value, finite=True)
    known = [x for x in (lower, start, upper) if x is not None and not callable(x)]
    if any(a >= b for a, b in pairwise(known)):
        raise JaxlmmError(f"interval({lower}, {upper}, start={start}): expected lower < start < upper")
    return IntervalKind(lower, upper, None if start is None else partial(_constant, start))


def positive(start: float) -> PositiveKind:
    """Kind of a positive field that starts at a value of its own: ``Annotated[Array, positive(start=1.0)]``."""
    check_number("positive: start", start, finite=True)
    if start <= 0:
        raise JaxlmmError(f"positive: start: found {start}, expected a positive number")
    return PositiveKind(first=start)


def _constant(value: float, distance: float) -> float:
    return value


@dataclass(frozen=True)
class Parameter:
    """One annotated field of a class `owner`: its name, kind and size, and which of its entries share a coordinate."""

    owner: str
    name: str
    kind: Any  # a Kind, in a class also ByOption
    per_level: PerLevel | None = None
    tied: tuple[int, ...] | None = None
    first_value: Any = None  # natural value to start at, or several in a tuple

    @property
    def starts(self) -> tuple[Any, ...]:
        """Natural values that the class says the search should start at."""
        given = self.first_value
        return () if given is None else given if isinstance(given, tuple) else (given,)

    @property
    def is_matrix(self) -> bool:
        """Whether the natural value is a covariance matrix."""
        return isinstance(self.kind, CovarianceMatrixKind)

    @property
    def by_level(self) -> bool:
        """Whether its size or its bounds depend on the number of levels."""
        bounds = [getattr(self.kind, name, None) for name in ("lower", "upper")]
        each = self.is_matrix if self.per_level is None else self.per_level.each
        return each or any(map(callable, bounds))

    def rows(self, dim: Any) -> Any:
        """The number of levels for its kind: of a matrix its own rows, ``Annotated[CovarianceMatrix, 2]``."""
        return self.per_level.length(dim) if self.is_matrix and self.per_level is not None else dim

    def shape(self, dim: int) -> tuple[int, ...]:
        """Shape of the natural value for `dim` levels."""
        if self.is_matrix:
            return (self.rows(dim),) * 2
        if isinstance(self.kind, BandKind):
            return self.kind.shape(dim)
        return () if self.per_level is None else (self.per_level.length(dim),)

    def size(self, dim: int) -> int:
        """Number of coordinates for `dim` levels; refused where they are too many to estimate, or to hold."""
        if self.is_matrix or (self.per_level is not None and self.per_level.each):
            count, dim = MOST_PARAMETERS + 1, self.rows(dim)
            if dim <= MOST_LEVELS:
                count = len(self.kind.entries(dim)[0]) if self.is_matrix else len(self.first(dim))
            if count > MOST_PARAMETERS:
                raise JaxlmmError(
                    f"{self.owner}: its {self.name} have too many parameters for {dim:,} levels, expected at most "
                    f"{MOST_PARAMETERS:,}; take a structure with fewer parameters, or fewer levels"
                )
            return count
        return len(self.first(dim))

    def first(self, dim: int) -> np.ndarray:
        """Entries that are coordinates: of those with the same label the first."""
        entries = int(np.prod(self.shape(dim), dtype=int))
        if self.tied is None:
            return np.arange(entries)
        if len(self.tied) != entries:
            raise JaxlmmError(
                f"{self.owner}: {len(self.tied)} labels say which {self.name} are tied, of which there are {entries}"
            )
        return np.unique(self.tied, return_index=True)[1]

    def natural(self, chart: str, v: Array, dim: int) -> Array:
        """Natural value of coordinates, `chart` is "from_public", "from_solver" or "from_natural"."""
        v = v if self.tied is None else v[..., np.asarray(self.tied)]
        return getattr(self.kind, chart)(v, self.rows(dim)).reshape(self.shape(dim))

    def coordinates(self, chart: str, value: Any, dim: int) -> np.ndarray:
        """Coordinates of a natural value (host side), `chart` is "to_public" or "to_solver"."""
        found = np.ravel(getattr(self.kind, chart)(np.asarray(value), self.rows(dim)))
        return found if self.tied is None else found[self.first(dim)]

    def check(self, value: Any, dim: int | None = None) -> None:
        """Refuse to fix the field at an impossible value (for `dim` levels, when given)."""
        if not self.kind.admits(value, None if dim is None else self.rows(dim)):
            raise JaxlmmError(f"{self.owner}: {self.name} is fixed at {value}, expected {self.kind}")
        if dim is not None and np.ndim(value) and np.shape(value) != self.shape(dim):
            raise JaxlmmError(
                f"{self.owner}: {self.name} is fixed at a value of shape {np.shape(value)}, expected "
                f"{self.shape(dim)} for {dim} levels"
            )

    def full(self, value: Any, dim: int) -> Array:
        """A fixed value in its full shape; one number stands for all entries of a vector."""
        return jnp.broadcast_to(jnp.asarray(value, float), self.shape(dim))

    def start(self, dim: int, distance: float) -> np.ndarray:
        """Start value in coordinates of the solver."""
        return self._at(self.starts[0] if self.starts else self.kind.start(self.rows(dim), distance), dim)

    def alternatives(self, dim: int) -> list[np.ndarray]:
        """Further start values, as `start`."""
        return [self._at(value, dim) for value in self.starts[1:]]

    def _at(self, value: Any, dim: int) -> np.ndarray:
        value, shape = np.asarray(value, float), self.shape(dim)
        if value.ndim and value.shape != shape:
            raise JaxlmmError(f"{self.owner}: {self.name} starts at a value of shape {value.shape}, expected {shape}")
        return self.coordinates("to_solver", np.broadcast_to(value, shape), dim)

    def scale(self, dim: int, unit: Any, xp: Any = np) -> Any:
        """Size of each solver coordinate when column i of Z has root mean square ``1 / unit[..., i]``.

        The optimiser sees coordinates divided by these, so that a unit step is one residual standard deviation.
        """
        if self.is_matrix and self.per_level is None:
            return unit[..., self.kind.entries(dim)[0]]
        if not self.kind.has_scale:
            return xp.ones((*unit.shape[:-1], self.size(dim)))
        if self.per_level is not None and self.per_level == each_level:
            return unit[..., self.first(dim)] ** self.kind.degree
        common = 1.0 / xp.sqrt(xp.mean(unit**-2.0, -1, keepdims=True))
        return xp.repeat(common, self.size(dim), -1) ** self.kind.degree

    def entries(self, value: Any) -> list[tuple[str, Any]]:
        """Names and values of what users see of a natural value; traceable."""
        if self.is_matrix:
            rows, columns = tril_indices(len(value))
            shown = rows - columns < (self.kind.bands or len(value))
            return [(f"{self.name}[{i},{j}]", value[i, j]) for i, j in zip(rows[shown], columns[shown], strict=True)]
        named = labelled(self.name, value)
        return named if self.tied is None else [named[i] for i in np.unique(self.tied, return_index=True)[1]]


def labelled(name: str, value: Any) -> list[tuple[str, Any]]:
    """A number by its name, the entries of a vector by their places."""
    return [(name, value)] if np.ndim(value) == 0 else [(f"{name}[{i}]", value[i]) for i in range(len(value))]
