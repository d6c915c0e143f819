"""Correlations of a banded Toeplitz matrix: those at lags 1, ..., k, the others being zero.

With q levels they are possible where ``I + T(r)`` is positive semidefinite, T(r) having r on its diagonals: a convex
set around zero that depends on q (with one lag ``|r| <= 1 / (2 cos(pi / (q + 1)))``), and has moving averages of order
k, possible with any number of levels, inside. Along a ray s the set ends where the size ``m(s) = -lambda_min(T(s))`` is
one, so that ``r = s sin(m) / m`` takes any numbers s onto the set, as the sine takes angles to correlations (derived
here).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jax import Array

from .kinds import module_of

HALF_PI = 0.5 * np.pi
TINY = 1e-8  # size up to which s sin(m) / m is s to the last digit
ROUNDING = 1e-12
FAR = 20.0  # its hyperbolic tangent is one


def _arctanh(x: Any) -> Any:
    xp = module_of(x)
    inside = x < 1.0
    return xp.where(inside, xp.minimum(xp.arctanh(xp.where(inside, x, 0.0)), FAR), FAR)


@dataclass(frozen=True)
class BandKind:
    """Correlations (k,) of neighbours up to lag ``bands - 1``. Solver: ``s sin(m) / m``. Public: ``u tanh(m) / m``.

    On the boundary public coordinates have the size `FAR`, for infinity: their direction says where.
    """

    bands: int

    has_scale: ClassVar[bool] = False
    degree: ClassVar[float] = 0.0
    starts_at_zero: ClassVar[bool] = True

    def shape(self, dim: int) -> tuple[int]:
        """Number of correlations of `dim` levels."""
        return (max(min(self.bands, dim) - 1, 0),)

    def size(self, s: Any, dim: int) -> tuple[Any, Any]:
        """Size m (..., 1) of s (..., k), and where there is one: elsewhere s is zero, and m is not."""
        xp = module_of(s)
        zero = xp.zeros((*s.shape[:-1], 1))
        lags = np.minimum(abs(np.arange(dim)[:, None] - np.arange(dim)), s.shape[-1] + 1)
        here = xp.max(abs(s), -1, keepdims=True, initial=0.0) > TINY
        somewhere = xp.where(here, s, np.eye(1, s.shape[-1])[0])  # eigenvalues of zero have no derivatives
        least = xp.linalg.eigvalsh(xp.concatenate([zero, somewhere, zero], -1)[..., lags])[..., :1]
        return -least, here

    def _times(self, s: Any, dim: int, of: Any) -> Any:
        """The ray of s at another size, a function of its own."""
        if not s.shape[-1]:
            return s
        m, here = self.size(s, dim)
        return s * module_of(s).where(here, of(m) / m, 1.0)

    def from_solver(self, s: Array, dim: int) -> Array:
        """Natural value of solver coordinates."""
        return self._times(s, dim, lambda m: abs(module_of(m).sin(m)))

    def to_solver(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Solver coordinates of a natural value (host side)."""
        return self._times(np.asarray(value, float), dim, lambda m: np.arcsin(np.minimum(m, 1.0)))

    def from_public(self, u: Array, dim: int) -> Array:
        """Natural value of public coordinates."""
        return self._times(u, dim, lambda m: module_of(m).tanh(m))

    def to_public(self, value: np.ndarray, dim: int) -> np.ndarray:
        """Public coordinates of a natural value (host side)."""
        return self._times(np.asarray(value, float), dim, _arctanh)

    def public_to_solver(self, u: Any, dim: int) -> Any:
        """Canonical solver coordinates of public ones."""
        return self._times(u, dim, lambda m: module_of(m).arcsin(module_of(m).tanh(m)))

    def solver_to_public(self, s: Any, dim: int) -> Any:
        """Public coordinates of canonical solver coordinates."""
        return self._times(s, dim, lambda m: _arctanh(module_of(m).sin(m)))

    def from_natural(self, v: Any, dim: int) -> Any:
        """Natural value of natural coordinates."""
        return v

    def solver_to_natural(self, s: Any, dim: int) -> Any:
        """Natural coordinates of solver coordinates, with derivatives."""
        return self.from_solver(s, dim)

    def start(self, dim: int, distance: float = 1.0) -> float:
        """Start value."""
        return 0.0

    def canonical(self, s: Any, dim: int) -> Any:
        """The representative among equivalent solver coordinates: that within the first quarter turn."""
        xp = module_of(s)
        return self._times(s, dim, lambda m: xp.where(m < HALF_PI, m, xp.arcsin(abs(xp.sin(m)))))

    signed = canonical

    def snapped(self, s: Any, dim: int, tolerance: float) -> Any:
        """Coordinates of a matrix that is within `tolerance` of a singular one put there."""
        return self._times(s, dim, lambda m: module_of(s).where(HALF_PI - m < tolerance, HALF_PI, m))

    def at_boundary(self, s: np.ndarray, dim: int, tolerance: Any) -> np.ndarray:
        """Whether the matrix is singular, up to `tolerance`."""
        if not s.shape[-1]:
            return np.zeros(s.shape[:-1], bool)
        m, here = self.size(s, dim)
        return (here & (HALF_PI - m < tolerance))[..., 0]

    def admits(self, value: np.ndarray, dim: int | None = None) -> bool:
        """Whether a value can be fixed; without `dim` as far as it does not depend on the number of levels."""
        if not np.all(np.abs(value) <= 1.0):
            return False
        if dim is None or np.shape(value) != self.shape(dim) or not np.size(value):
            return True
        m, here = self.size(value, dim)
        return bool(np.all(~here | (m <= 1.0 + ROUNDING)))

    def __str__(self) -> str:
        return f"{self.bands - 1} correlations with which the matrix is positive semidefinite"
