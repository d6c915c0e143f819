"""Natural parameters and their unconstrained coordinates.

Every kind of parameter has two charts. The *public* chart is the one of ``fit.theta`` (log standard deviations,
log-Cholesky; entries of minus infinity on the boundary). The *solver* chart is the one the optimiser walks in: there
a zero variance and a correlation of one are ordinary, stationary points (signed square root, plain Cholesky factor,
sine), never at infinity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from .linalg import lower_from_vector, tril_indices

Bound = float | Callable[[int], float]


def module_of(x: Any) -> Any:
    """jax.numpy for JAX arrays, traced ones included, and numpy for NumPy's."""
    return jnp if isinstance(x, Array) else np


def concatenated(like: Any, values: list[Any]) -> Any:
    """Coordinates side by side (..., k), none giving (..., 0), with the leading axes of `like`."""
    xp = module_of(like)
    return xp.concatenate([xp.zeros((*like.shape[:-1], 0)), *values], -1)


def _log_size(s: Any) -> Any:
    """Logarithm of |s|, minus infinity at zero, with a derivative of zero there."""
    xp = module_of(s)
    size = xp.abs(s)
    return xp.where(size > 0, xp.log(xp.where(size > 0, size, 1.0)), -xp.inf)


def _at(bound: Bound, dim: int) -> float:
    return bound(dim) if callable(bound) else bound


@dataclass(frozen=True)
class VarianceKind:
    """A variance, closed at zero. Public: log standard deviation. Solver: signed standard deviation."""

    has_scale = True  # solver coordinates are proportional to the standard deviation of y

    def from_public(self, u: Array, dim: int) -> Array:
        """Natural value of public coordinates."""
        return jnp.exp(2.0 * u)

    def to_public(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Public coordinates of a natural value (host side)."""
        with np.errstate(divide="ignore"):
            return 0.5 * np.log(value)

    def from_solver(self, s: Array, dim: int) -> Array:
        """Natural value of solver coordinates."""
        return s**2

    def to_solver(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Solver coordinates of a natural value (host side)."""
        return np.sqrt(value)

    def start(self, dim: int) -> float:
        """Start value on a scale where the residual variance is one."""
        return 1.0

    def canonical(self, s: Any, dim: int) -> Any:
        """The representative among equivalent solver coordinates."""
        return abs(s)

    def solver_to_public(self, s: Any, dim: int) -> Any:
        """Public coordinates of canonical solver coordinates, without a detour that costs digits."""
        return _log_size(s)

    def snapped(self, s: Any, dim: int, tolerance: float) -> Any:
        """Coordinates with everything within `tolerance` of the boundary put on it."""
        return module_of(s).where(abs(s) < tolerance, 0.0, s)

    def at_boundary(self, s: np.ndarray, dim: int, tolerance: float) -> np.ndarray:
        """Whether canonical coordinates (..., size) are on the boundary of their space, up to `tolerance`."""
        return np.any(np.abs(s) < tolerance, -1)


class _OpenKind:
    """Shared by kinds without a boundary: their coordinates are what they are."""

    has_scale: ClassVar[bool] = False

    def canonical(self, s: Any, dim: int) -> Any:
        """The representative among equivalent solver coordinates."""
        return s

    def solver_to_public(self, s: Any, dim: int) -> Any:
        """Public coordinates of canonical solver coordinates (host side)."""
        return s

    def snapped(self, s: Any, dim: int, tolerance: float) -> Any:
        """An open parameter has no boundary to be put on."""
        return s

    def at_boundary(self, s: np.ndarray, dim: int, tolerance: float) -> np.ndarray:
        """An open parameter has no boundary."""
        return np.zeros(s.shape[:-1], bool)


@dataclass(frozen=True)
class PositiveKind(_OpenKind):
    """A positive number, open at zero (ranges, shapes): the logarithm in both charts.

    The start value may be a function of the number of levels.
    """

    first: Bound = 1.0

    def from_public(self, u: Array, dim: int) -> Array:
        """Natural value of public coordinates."""
        return jnp.exp(u)

    def to_public(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Public coordinates of a natural value (host side)."""
        return np.log(value)

    from_solver = from_public
    to_solver = to_public

    def start(self, dim: int) -> float:
        """Start value."""
        return _at(self.first, dim)


@dataclass(frozen=True)
class RealKind(_OpenKind):
    """Any number without a unit: itself in both charts, zero at the start."""

    def from_public(self, u: Any, dim: int) -> Any:
        """Natural value of public coordinates."""
        return u

    def to_public(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Public coordinates of a natural value (host side)."""
        return value

    from_solver = from_public
    to_solver = to_public

    def start(self, dim: int) -> float:
        """Start value."""
        return 0.0


@dataclass(frozen=True)
class IntervalKind:
    """A number in a closed interval. Public: scaled atanh. Solver: arcsine, stationary at both ends.

    A bound may be a function of the number of levels, as the -1/(q-1) of compound symmetry.
    """

    lower: Bound = -1.0
    upper: Bound = 1.0

    has_scale: ClassVar[bool] = False

    def _scale(self, x: Any, dim: int) -> Any:
        lo, hi = _at(self.lower, dim), _at(self.upper, dim)
        return lo + (hi - lo) * 0.5 * (1.0 + x)

    def _unit(self, value: np.ndarray, dim: int) -> np.ndarray:
        lo, hi = _at(self.lower, dim), _at(self.upper, dim)
        return np.clip(2.0 * (value - lo) / (hi - lo) - 1.0, -1.0, 1.0)

    def from_public(self, u: Array, dim: int) -> Array:
        """Natural value of public coordinates."""
        return self._scale(jnp.tanh(u), dim)

    def to_public(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Public coordinates of a natural value (host side)."""
        with np.errstate(divide="ignore"):
            return np.arctanh(self._unit(value, dim))

    def from_solver(self, s: Array, dim: int) -> Array:
        """Natural value of solver coordinates."""
        return self._scale(jnp.sin(s), dim)

    def to_solver(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Solver coordinates of a natural value (host side)."""
        return np.arcsin(self._unit(value, dim))

    def start(self, dim: int) -> float:
        """Start value: zero where the interval contains it in its interior, else the middle."""
        lo, hi = _at(self.lower, dim), _at(self.upper, dim)
        return 0.0 if lo < 0.0 < hi else 0.5 * (lo + hi)

    def canonical(self, s: np.ndarray, dim: int) -> np.ndarray:
        """The representative among equivalent solver coordinates."""
        xp = module_of(s)
        return xp.arcsin(xp.sin(s))

    def solver_to_public(self, s: Any, dim: int) -> Any:
        """Public coordinates of canonical solver coordinates."""
        xp = module_of(s)
        x = xp.sin(s)
        inside = abs(x) < 1.0
        return xp.where(inside, xp.arctanh(xp.where(inside, x, 0.0)), xp.copysign(xp.inf, x))

    def snapped(self, s: Any, dim: int, tolerance: float) -> Any:
        """Coordinates with everything within `tolerance` of an end of the interval put on it."""
        xp = module_of(s)
        end = 0.5 * np.pi * xp.sign(s)
        return xp.where(abs(end - s) < tolerance, end, s)

    def at_boundary(self, s: np.ndarray, dim: int, tolerance: float) -> np.ndarray:
        """Whether canonical coordinates (..., size) are at an end of the interval, up to `tolerance`."""
        return np.any(0.5 * np.pi - np.abs(s) < tolerance, -1)


@dataclass(frozen=True)
class CovarianceMatrixKind:
    """A (q, q) covariance matrix. Public: log-Cholesky, column by column. Solver: the plain Cholesky factor."""

    has_scale = True

    def entries(self, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the entries of the factor that are coordinates."""
        return tril_indices(dim)

    def from_public(self, u: Array, dim: int) -> Array:
        """Natural value of public coordinates."""
        rows, columns = tril_indices(dim)
        diagonal = rows == columns
        entries = jnp.where(diagonal, jnp.exp(jnp.where(diagonal, u, 0.0)), u)
        return self.from_solver(entries, dim)

    def to_public(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Public coordinates of a natural value (host side)."""
        return self.solver_to_public(self.to_solver(value, dim), dim)

    def from_solver(self, s: Array, dim: int) -> Array:
        """Natural value of solver coordinates."""
        L = lower_from_vector(s, dim)
        return jnp.sum(L[:, None, :] * L[None, :, :], -1)

    def to_solver(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Solver coordinates of a natural value (host side)."""
        return semidefinite_factor(np.asarray(value))[tril_indices(dim)]

    def start(self, dim: int) -> np.ndarray:
        """Start value."""
        return np.eye(dim)

    def canonical(self, s: Any, dim: int) -> Any:
        """Cholesky factor with non-negative diagonal in which a zero pivot has a zero column (the latter in NumPy)."""
        rows, columns = tril_indices(dim)
        if isinstance(s, Array):
            return s * jnp.where(s[..., rows == columns] < 0, -1.0, 1.0)[..., columns]
        L = factor_matrix(s, dim)
        pivots = np.abs(np.diagonal(L, axis1=-2, axis2=-1))
        largest = np.abs(s).max(-1, initial=0.0)
        below = np.abs(np.tril(L, -1)).max(-2, initial=0.0)
        odd = np.any((pivots < 1e-8 * largest[..., None]) & (below > 0), -1)
        for lane in np.argwhere(odd):
            L[tuple(lane)] = semidefinite_factor(L[tuple(lane)] @ L[tuple(lane)].T)
        signs = np.where(np.diagonal(L, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
        return (L * signs[..., None, :])[..., rows, columns]

    def solver_to_public(self, s: Any, dim: int) -> Any:
        """Public coordinates of canonical solver coordinates, without a detour that costs digits."""
        rows, columns = tril_indices(dim)
        xp = module_of(s)
        return xp.where(rows == columns, _log_size(xp.where(rows == columns, s, 1.0)), s)

    def snapped(self, s: np.ndarray, dim: int, tolerance: float) -> np.ndarray:
        """Cholesky factor with every column whose pivot is below `tolerance` set to zero."""
        _, columns = tril_indices(dim)
        return module_of(s).where(self._small(s, dim, tolerance)[..., columns], 0.0, s)

    def at_boundary(self, s: np.ndarray, dim: int, tolerance: float) -> np.ndarray:
        """Whether the matrix is singular: a pivot of its Cholesky factor below `tolerance`."""
        return np.any(self._small(s, dim, tolerance), -1)

    def _small(self, s: np.ndarray, dim: int, tolerance: float) -> np.ndarray:
        rows, columns = tril_indices(dim)
        return abs(s[..., rows == columns]) < tolerance


@dataclass(frozen=True)
class FactorKind:
    """A (q, q) covariance matrix whose Cholesky factor is zero outside of a pattern.

    With `bands` the factor, and with it the matrix, has that many diagonals, the main one included; with `rank` it
    has that many columns. Charts as for `CovarianceMatrixKind`, without the zeros.
    """

    bands: int | None = None
    rank: int | None = None

    has_scale: ClassVar[bool] = True

    def entries(self, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the entries of the factor that are coordinates."""
        rows, columns = (index[self._kept(dim)] for index in tril_indices(dim))
        return rows, columns

    def _kept(self, dim: int) -> np.ndarray:
        rows, columns = tril_indices(dim)
        return (rows - columns < (self.bands or dim)) & (columns < (self.rank or dim))

    def _full(self, s: Any, dim: int) -> Any:
        """Coordinates (..., q(q+1)/2) of the whole lower triangle, zeros included."""
        kept = self._kept(dim)
        return s @ np.eye(len(kept))[kept]

    def _diagonal(self, dim: int) -> np.ndarray:
        rows, columns = self.entries(dim)
        return rows == columns

    def from_public(self, u: Array, dim: int) -> Array:
        """Natural value of public coordinates."""
        diagonal = self._diagonal(dim)
        return self.from_solver(jnp.where(diagonal, jnp.exp(jnp.where(diagonal, u, 0.0)), u), dim)

    def to_public(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Public coordinates of a natural value (host side)."""
        return self.solver_to_public(self.to_solver(value, dim), dim)

    def from_solver(self, s: Array, dim: int) -> Array:
        """Natural value of solver coordinates."""
        return CovarianceMatrixKind().from_solver(self._full(s, dim), dim)

    def to_solver(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Solver coordinates of a natural value (host side)."""
        L = semidefinite_factor(np.asarray(value))
        if self.rank is not None:  # zero pivots leave zero columns, which need not be the last ones
            L = L[:, np.argsort(~np.any(L, 0), kind="stable")]
        return L[self.entries(dim)]

    def start(self, dim: int) -> np.ndarray:
        """Start value."""
        return np.diag(1.0 * (np.arange(dim) < (self.rank or dim)))

    def canonical(self, s: Any, dim: int) -> Any:
        """Factor with non-negative diagonal; with bands, a zero pivot has a zero column (the latter in NumPy)."""
        if self.rank is None and not isinstance(s, Array):
            return CovarianceMatrixKind().canonical(self._full(s, dim), dim)[..., self._kept(dim)]
        negative = s[..., self._diagonal(dim)] < 0
        return s * module_of(s).where(negative, -1.0, 1.0)[..., self.entries(dim)[1]]

    def solver_to_public(self, s: Any, dim: int) -> Any:
        """Public coordinates of canonical solver coordinates, without a detour that costs digits."""
        xp, diagonal = module_of(s), self._diagonal(dim)
        return xp.where(diagonal, _log_size(xp.where(diagonal, s, 1.0)), s)

    def snapped(self, s: Any, dim: int, tolerance: float) -> Any:
        """Factor with every small column set to zero."""
        return module_of(s).where(self._small(s, dim, tolerance)[..., self.entries(dim)[1]], 0.0, s)

    def at_boundary(self, s: np.ndarray, dim: int, tolerance: float) -> np.ndarray:
        """Whether the matrix has a lower rank than its pattern allows."""
        return np.any(self._small(s, dim, tolerance), -1)

    def _small(self, s: Any, dim: int, tolerance: float) -> Any:
        """Columns with a pivot, or in a low-rank factor all of their entries, below `tolerance`."""
        if self.rank is None:
            return abs(s[..., self._diagonal(dim)]) < tolerance
        xp, columns = module_of(s), self.entries(dim)[1]
        return xp.stack([xp.all(abs(s[..., columns == j]) < tolerance, -1) for j in range(min(self.rank, dim))], -1)


def factor_matrix(s: np.ndarray, dim: int) -> np.ndarray:
    """Lower triangular factors (..., q, q) from their entries (..., q(q+1)/2) in NumPy."""
    rows, columns = tril_indices(dim)
    L = np.zeros((*s.shape[:-1], dim, dim))
    L[..., rows, columns] = s
    return L


def semidefinite_factor(G: np.ndarray) -> np.ndarray:
    """Lower Cholesky factor of a positive semidefinite matrix in NumPy; a zero pivot gives a zero column."""
    q = len(G)
    L = np.zeros((q, q))
    for j in range(q):
        column = G[j:, j] - L[j:] @ L[j]
        if column[0] > 1e-15 * G[j, j]:
            L[j:, j] = column / np.sqrt(column[0])
    return L


Kind = VarianceKind | PositiveKind | RealKind | IntervalKind | CovarianceMatrixKind | FactorKind


@dataclass(frozen=True)
class PerLevel:
    """Marks a field as a vector with one entry a level (plus `extra`): ``Annotated[Variance, each_level]``."""

    extra: int = 0

    def __sub__(self, fewer: int) -> PerLevel:
        return PerLevel(self.extra - fewer)


each_level = PerLevel()

Variance = Annotated[Array, VarianceKind()]
Positive = Annotated[Array, PositiveKind()]
Real = Annotated[Array, RealKind()]
Correlation = Annotated[Array, IntervalKind(-1.0, 1.0)]
CovarianceMatrix = Annotated[Array, CovarianceMatrixKind()]


def interval(lower: Bound, upper: Bound) -> IntervalKind:
    """Kind of a field bounded on both sides: ``Annotated[Array, interval(0.0, 2.0)]``."""
    return IntervalKind(lower, upper)


@dataclass(frozen=True)
class Field:
    """One annotated field of a covariance structure: its name, kind and size."""

    name: str
    kind: Kind
    per_level: PerLevel | None = None

    def shape(self, dim: int) -> tuple[int, ...]:
        """Shape of the natural value for `dim` levels."""
        if isinstance(self.kind, CovarianceMatrixKind | FactorKind):
            return (dim, dim)
        return () if self.per_level is None else (dim + self.per_level.extra,)

    def size(self, dim: int) -> int:
        """Number of coordinates for `dim` levels."""
        if isinstance(self.kind, CovarianceMatrixKind | FactorKind):
            return len(self.kind.entries(dim)[0])
        return int(np.prod(self.shape(dim), dtype=int))

    def start(self, dim: int) -> np.ndarray:
        """Natural start value."""
        return np.broadcast_to(np.asarray(self.kind.start(dim), float), self.shape(dim))

    def scale(self, dim: int, unit: Any, xp: Any = np) -> Any:
        """Size of each solver coordinate when column i of Z has root mean square ``1 / unit[..., i]``.

        The optimiser sees coordinates divided by these, so that a unit step is one residual standard deviation.
        """
        if isinstance(self.kind, CovarianceMatrixKind | FactorKind):
            return unit[..., self.kind.entries(dim)[0]]
        if isinstance(self.kind, VarianceKind):
            if self.per_level is not None and self.per_level.extra == 0:
                return unit
            common = 1.0 / xp.sqrt(xp.mean(unit**-2.0, -1, keepdims=True))
            return xp.repeat(common, self.size(dim), -1)
        return xp.ones((*unit.shape[:-1], self.size(dim)))
