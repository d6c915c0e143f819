"""Natural parameters and their unconstrained coordinates.

Every kind of parameter has two charts. The *public* chart is the one of ``fit.theta`` (log standard deviations,
log-Cholesky; entries of minus infinity on the boundary). The *solver* chart is the one the optimiser walks in: there
a zero variance and a correlation of one are ordinary, stationary points (signed square root, plain Cholesky factor,
sine), never at infinity. The *natural* chart has the values themselves, of a covariance matrix its lower triangle: V is
linear in variances and covariances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..linalg import lower_from_vector, psd_cholesky, tril_indices
from ..tolerances import NULL, not_semidefinite

NEARLY_ZERO = 1e-20  # its fourth power is a variance that is zero for all purposes, with derivatives of its root
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
    """A variance, closed at zero. Public: log standard deviation. Solver: s with ``variance = s**power``, power even.

    With power 2, s is the signed standard deviation. With power 4, for structures that multiply standard deviations,
    these are ``s**2``: smooth in s, where ``|s|`` has a kink in which the search would get stuck.
    """

    power: int = 2

    has_scale: ClassVar[bool] = True

    @property
    def degree(self) -> float:
        """The power of the standard deviation of y that a solver coordinate is proportional to."""
        return 2.0 / self.power

    def from_public(self, u: Array, dim: int) -> Array:
        """Natural value of public coordinates."""
        return jnp.exp(2.0 * u)

    def to_public(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Public coordinates of a natural value (host side)."""
        with np.errstate(divide="ignore"):
            return 0.5 * np.log(value)

    def from_solver(self, s: Array, dim: int) -> Array:
        """Natural value of solver coordinates."""
        if self.power > 2:  # at zero the curvature of the root, which is not zero, would be lost
            s = s + jnp.where(jnp.abs(s) < NEARLY_ZERO, NEARLY_ZERO, 0.0)
        return s**self.power

    def to_solver(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Solver coordinates of a natural value (host side)."""
        return np.sqrt(value) ** self.degree

    def public_to_solver(self, u: Any, dim: int) -> Any:
        """Canonical solver coordinates of public ones, minus infinity included."""
        return module_of(u).exp(self.degree * u)

    def from_natural(self, v: Any, dim: int) -> Any:
        """Natural value of natural coordinates."""
        return v

    def solver_to_natural(self, s: Any, dim: int) -> Any:
        """Natural coordinates of solver coordinates, with derivatives."""
        return self.from_solver(s, dim)

    def start(self, dim: int, distance: float = 1.0) -> float:
        """Start value on a scale where the residual variance is one."""
        return 1.0

    def canonical(self, s: Any, dim: int) -> Any:
        """The representative among equivalent solver coordinates."""
        return abs(s)

    signed = canonical

    def solver_to_public(self, s: Any, dim: int) -> Any:
        """Public coordinates of canonical solver coordinates, without a detour that costs digits."""
        return _log_size(s) / self.degree

    def snapped(self, s: Any, dim: int, tolerance: float) -> Any:
        """Coordinates with everything within `tolerance` of the boundary, in standard deviations, put on it."""
        return module_of(s).where(abs(s) < tolerance**self.degree, 0.0, s)

    def at_boundary(self, s: np.ndarray, dim: int, tolerance: Any) -> np.ndarray:
        """Whether canonical coordinates (..., size) are on the boundary of their space, up to `tolerance`."""
        return np.any(np.abs(s) < tolerance**self.degree, -1)

    def admits(self, value: np.ndarray, dim: int | None = None) -> bool:
        """Whether a value can be fixed."""
        return bool(np.all(value >= 0))

    def __str__(self) -> str:
        return "variances, not negative"


class _OpenKind:
    """Shared by kinds without a boundary: their coordinates are what they are."""

    has_scale: ClassVar[bool] = False
    degree: ClassVar[float] = 0.0

    def public_to_solver(self, u: Any, dim: int) -> Any:
        """Canonical solver coordinates of public ones, which are the same."""
        return u

    def from_natural(self, v: Any, dim: int) -> Any:
        """Natural value of natural coordinates."""
        return v

    def solver_to_natural(self, s: Any, dim: int) -> Any:
        """Natural coordinates of solver coordinates, with derivatives."""
        return self.from_solver(s, dim)  # type: ignore[attr-defined]

    def canonical(self, s: Any, dim: int) -> Any:
        """The representative among equivalent solver coordinates."""
        return s

    signed = canonical

    def solver_to_public(self, s: Any, dim: int) -> Any:
        """Public coordinates of canonical solver coordinates (host side)."""
        return s

    def snapped(self, s: Any, dim: int, tolerance: float) -> Any:
        """An open parameter has no boundary to be put on."""
        return s

    def at_boundary(self, s: np.ndarray, dim: int, tolerance: Any) -> np.ndarray:
        """An open parameter has no boundary."""
        return np.zeros(s.shape[:-1], bool)


@dataclass(frozen=True)
class PositiveKind(_OpenKind):
    """A positive number, open at zero (ranges, shapes): the logarithm in both charts.

    It starts at `first`, a number or a function of the number of levels; without one, as ranges do, at `times` the
    typical distance between coordinates.
    """

    first: Bound | None = None
    times: float = 1.0

    def from_public(self, u: Array, dim: int) -> Array:
        """Natural value of public coordinates."""
        return jnp.exp(u)

    def to_public(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Public coordinates of a natural value (host side)."""
        return np.log(value)

    from_solver = from_public
    to_solver = to_public

    def start(self, dim: int, distance: float = 1.0) -> float:
        """Start value."""
        return self.times * distance if self.first is None else _at(self.first, dim)

    def admits(self, value: np.ndarray, dim: int | None = None) -> bool:
        """Whether a value can be fixed."""
        return bool(np.all(value > 0))

    def __str__(self) -> str:
        return "positive numbers"


@dataclass(frozen=True)
class RealKind(_OpenKind):
    """Any number without a unit: itself in both charts."""

    first: float = 0.0

    def from_public(self, u: Any, dim: int) -> Any:
        """Natural value of public coordinates."""
        return u

    def to_public(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Public coordinates of a natural value (host side)."""
        return value

    from_solver = from_public
    to_solver = to_public

    def start(self, dim: int, distance: float = 1.0) -> float:
        """Start value."""
        return self.first

    def admits(self, value: np.ndarray, dim: int | None = None) -> bool:
        """Whether a value can be fixed."""
        return bool(np.all(np.isfinite(value)))

    def __str__(self) -> str:
        return "finite numbers"


@dataclass(frozen=True)
class IntervalKind:
    """A number in a closed interval. Public: scaled atanh. Solver: arcsine, stationary at both ends.

    A bound may be a function of the number of levels, as the -1/(q-1) of compound symmetry. It starts at `first`, a
    function of the typical distance between coordinates; without one at zero if that is inside, else in the middle.
    """

    lower: Bound = -1.0
    upper: Bound = 1.0
    first: Callable[[float], float] | None = None

    has_scale: ClassVar[bool] = False
    degree: ClassVar[float] = 0.0

    @property
    def starts_at_zero(self) -> bool:
        """Whether zero is inside of the interval and, at distances of one, the start value."""
        inside = (callable(self.lower) or self.lower < 0.0) and (callable(self.upper) or self.upper > 0.0)
        return inside and (self.first is None or self.first(1.0) == 0.0)

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

    def public_to_solver(self, u: Any, dim: int) -> Any:
        """Canonical solver coordinates of public ones, infinities included."""
        xp = module_of(u)
        return xp.arcsin(xp.tanh(u))

    def from_natural(self, v: Any, dim: int) -> Any:
        """Natural value of natural coordinates."""
        return v

    def solver_to_natural(self, s: Any, dim: int) -> Any:
        """Natural coordinates of solver coordinates, with derivatives."""
        return self.from_solver(s, dim)

    def start(self, dim: int, distance: float = 1.0) -> float:
        """Start value."""
        if self.first is not None:
            return self.first(distance)
        return 0.0 if self.starts_at_zero else 0.5 * (_at(self.lower, dim) + _at(self.upper, dim))

    def canonical(self, s: np.ndarray, dim: int) -> np.ndarray:
        """The representative among equivalent solver coordinates."""
        xp = module_of(s)
        return xp.arcsin(xp.sin(s))

    signed = canonical

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

    def at_boundary(self, s: np.ndarray, dim: int, tolerance: Any) -> np.ndarray:
        """Whether canonical coordinates (..., size) are at an end of the interval, up to `tolerance`."""
        return np.any(0.5 * np.pi - np.abs(s) < tolerance, -1)

    def admits(self, value: np.ndarray, dim: int | None = None) -> bool:
        """Whether a value can be fixed; without `dim` as far as bounds do not depend on the number of levels."""
        lo, hi = (np.nan if callable(b) and dim is None else _at(b, dim or 0) for b in (self.lower, self.upper))
        return not np.any((value < lo) | (value > hi) | np.isnan(value))

    def __str__(self) -> str:
        lo, hi = ("a bound by the number of levels" if callable(b) else f"{b:g}" for b in (self.lower, self.upper))
        return f"numbers from {lo} to {hi}"


@dataclass(frozen=True)
class CovarianceMatrixKind:
    """A (q, q) covariance matrix. Public: log-Cholesky, column by column. Solver: the plain Cholesky factor.

    With `bands` the factor, and with it the matrix, has that many diagonals, the main one included; with `rank` the
    factor has that many columns. The zeros are no coordinates.
    """

    bands: int | None = None
    rank: int | None = None

    has_scale: ClassVar[bool] = True
    degree: ClassVar[float] = 1.0

    @property
    def is_whole(self) -> bool:
        """Whether it is any covariance matrix."""
        return self.bands is None and self.rank is None

    def entries(self, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the entries of the factor that are coordinates."""
        rows, columns = tril_indices(dim)
        if self.is_whole:
            return rows, columns
        kept = (rows - columns < (self.bands or dim)) & (columns < (self.rank or dim))
        return rows[kept], columns[kept]

    def _diagonal(self, dim: int) -> np.ndarray:
        rows, columns = self.entries(dim)
        return rows == columns

    def _factor(self, s: Any, dim: int) -> Any:
        """Factors (..., q, q) from their coordinates."""
        return lower_from_vector(s, dim, self.entries(dim))

    def from_public(self, u: Array, dim: int) -> Array:
        """Natural value of public coordinates."""
        diagonal = self._diagonal(dim)
        return self.from_solver(jnp.where(diagonal, jnp.exp(jnp.where(diagonal, u, 0.0)), u), dim)

    def to_public(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Public coordinates of a natural value (host side)."""
        return self.solver_to_public(self.to_solver(value, dim), dim)

    def from_solver(self, s: Array, dim: int) -> Array:
        """Natural value of solver coordinates."""
        L = self._factor(s, dim)
        return jnp.sum(L[:, None, :] * L[None, :, :], -1)

    def to_solver(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Solver coordinates of a natural value (host side)."""
        L = psd_cholesky(np.asarray(value))
        if self.rank is not None:  # zero pivots leave zero columns, which need not be the last ones
            L = L[:, np.argsort(~np.any(L, 0), kind="stable")]
        return L[self.entries(dim)]

    def public_to_solver(self, u: Any, dim: int) -> Any:
        """Canonical solver coordinates of public ones, minus infinity included."""
        xp, diagonal = module_of(u), self._diagonal(dim)
        return xp.where(diagonal, xp.exp(xp.where(diagonal, u, 0.0)), u)

    def from_natural(self, v: Array, dim: int) -> Array:
        """Natural value of natural coordinates: the lower triangle, of a low-rank matrix the factor."""
        if self.rank is not None:
            return self.from_solver(v, dim)
        T = self._factor(v, dim)
        return T + T.T - jnp.diag(jnp.diagonal(T))

    def solver_to_natural(self, s: Array, dim: int) -> Array:
        """Natural coordinates of solver coordinates, with derivatives."""
        return s if self.rank is not None else self.from_solver(s, dim)[self.entries(dim)]

    def start(self, dim: int, distance: float = 1.0) -> np.ndarray:
        """Start value: the identity, or of a lower rank with no level without variance."""
        rank = min(self.rank or dim, dim)
        L = np.concatenate([np.eye(rank), np.full((dim - rank, rank), rank**-0.5)])
        return L @ L.T

    def canonical(self, s: Any, dim: int) -> Any:
        """Factor with non-negative diagonal; without `rank`, a zero pivot has a zero column (the latter in NumPy)."""
        if self.rank is None and not isinstance(s, Array):
            s = self._with_zero_columns(s, dim)
        return self.signed(s, dim)

    def signed(self, s: Any, dim: int) -> Any:
        """Factor with non-negative diagonal, which is that of the same matrix to the last digit."""
        rows, columns = self.entries(dim)
        return s * module_of(s).where(s[..., rows == columns] < 0, -1.0, 1.0)[..., columns]

    def _with_zero_columns(self, s: np.ndarray, dim: int) -> np.ndarray:
        """Other factors of the same matrices, where a zero pivot stands over a column that is not zero."""
        L, s = self._factor(s, dim), s.copy()
        pivots = np.abs(np.diagonal(L, axis1=-2, axis2=-1))
        below = np.abs(np.tril(L, -1)).max(-2, initial=0.0)
        least = NULL * np.minimum(np.abs(s).max(-1, initial=0.0), 1.0)
        odd = np.any((pivots < least[..., None]) & (below > 0), -1)
        for lane in map(tuple, np.argwhere(odd)):
            s[lane] = psd_cholesky(L[lane] @ L[lane].T)[self.entries(dim)]
        return s

    def solver_to_public(self, s: Any, dim: int) -> Any:
        """Public coordinates of canonical solver coordinates, without a detour that costs digits."""
        xp, diagonal = module_of(s), self._diagonal(dim)
        return xp.where(diagonal, _log_size(xp.where(diagonal, s, 1.0)), s)

    def snapped(self, s: Any, dim: int, tolerance: float) -> Any:
        """Factor with every small column set to zero."""
        return module_of(s).where(self._small(s, dim, tolerance)[..., self.entries(dim)[1]], 0.0, s)

    def at_boundary(self, s: np.ndarray, dim: int, tolerance: Any) -> np.ndarray:
        """Whether the matrix has a lower rank than its pattern allows."""
        return np.any(self._small(s, dim, tolerance), -1)

    def _small(self, s: Any, dim: int, tolerance: float) -> Any:
        """Columns with a pivot, or in a low-rank factor all of their entries, below `tolerance`."""
        if self.rank is None:
            return abs(s[..., self._diagonal(dim)]) < tolerance
        xp, columns = module_of(s), self.entries(dim)[1]
        return xp.stack([xp.all(abs(s[..., columns == j]) < tolerance, -1) for j in range(min(self.rank, dim))], -1)

    def admits(self, value: np.ndarray, dim: int | None = None) -> bool:
        """Whether a value can be fixed."""
        square = value.ndim == 2 and value.shape[0] == value.shape[1]
        return square and not not_semidefinite(value)

    def __str__(self) -> str:
        return "a symmetric positive semidefinite matrix (levels, levels)"


Kind = VarianceKind | PositiveKind | RealKind | IntervalKind | CovarianceMatrixKind
