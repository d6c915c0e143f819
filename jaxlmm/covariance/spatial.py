"""Structures over coordinates: times that are not equally spaced, places on a map.

`matrix` takes coordinates, (m,) on a line or (m, d) points, and depends on their Euclidean distances only. `range` is
in the unit of the coordinates. Given the positions of factor levels it takes these as equally spaced times.
"""

from __future__ import annotations

from math import factorial, inf, sqrt
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import JaxlmmError
from .base import Covariance
from .charts import Chart, Decay, typical
from .helpers import distances, powers
from .kinds import IntervalKind, PositiveKind
from .parameter import Positive, Variance

HALVES = 10  # smoothness up to 9.5, of which the Gaussian is hardly to be told apart
SHORTEST = 0.02  # typical distance: a correlation of a half over it is, over one unit, as small as an arcsine can tell
FAR = 1e3  # distances beyond so many ranges count as this one: the covariance is zero, and powers do not overflow


def _relative(coords: Any, range: Array) -> Array:
    """Distances in units of the range."""
    return jnp.minimum(distances(coords) / range, FAR)


def _line(structure: Covariance, coords: Any) -> Any:
    """Coordinates that must be positions on a line, such as times."""
    if jnp.ndim(coords) != 1:
        raise JaxlmmError(f"{type(structure).__name__}: expected times (m,), found shape {jnp.shape(coords)}")
    return coords


class OrnsteinUhlenbeck(Covariance):
    """Ornstein-Uhlenbeck process, ``variance * exp(-|s - t| / range)`` over times (glmmTMB ou, whose rate is 1/range).

    On equally spaced times it is AR(1) with a correlation of ``exp(-1 / range)``, which cannot be negative.
    """

    variance: Variance
    range: Positive

    def matrix(self, levels: Any) -> Array:
        """Covariances between times `levels`."""
        return self.variance * jnp.exp(-_relative(_line(self, levels), self.range))


def _over_one_unit(distance: float) -> float:
    """Start value of a correlation over one unit: the one that is a half over a typical distance."""
    if distance < SHORTEST:
        raise JaxlmmError(
            f"ContinuousAutoregressive (car1): the times of a group are about {distance:.1g} apart, so that the "
            "correlation over one unit of time is zero to all digits; give times in a smaller unit, or use ou"
        )
    return 0.5 ** (1.0 / distance)


class ContinuousAutoregressive(Covariance):
    """Continuous-time AR(1), ``variance * correlation**|s - t|`` over times, correlation in [0, 1] (nlme corCAR1).

    The Ornstein-Uhlenbeck process by its correlation over one unit of time, where zero is an ordinary value (SAS
    SP(POW), mmrm's parameter of sp_exp).
    """

    variance: Variance
    correlation: Annotated[Array, IntervalKind(0.0, 1.0, first=_over_one_unit)]

    def charts(self, dim: Any, places: Any) -> list[Chart]:
        """The correlation over a typical distance, which is the same in every unit."""
        names = [p.name for p in self.free]
        return [Decay(np.array([names.index("correlation")]), typical(places)[0])] if "correlation" in names else []

    def matrix(self, levels: Any) -> Array:
        """Covariances between times `levels`."""
        return self.variance * powers(self.correlation, distances(_line(self, levels)))


class Exponential(Covariance):
    """Exponential decay with distance, ``variance * exp(-distance / range)`` (glmmTMB exp, SAS SP(EXP))."""

    variance: Variance
    range: Positive

    def matrix(self, levels: Any) -> Array:
        """Covariances between coordinates `levels`, (m,) or (m, d)."""
        return self.variance * jnp.exp(-_relative(levels, self.range))


class Gaussian(Covariance):
    """Gaussian decay with distance, ``variance * exp(-(distance / range)**2)`` (glmmTMB gau, SAS SP(GAU)).

    The process is so smooth that its matrix is close to singular at ranges beyond a few spacings.
    """

    variance: Variance
    range: Positive

    def matrix(self, levels: Any) -> Array:
        """Covariances between coordinates `levels`, (m,) or (m, d)."""
        return self.variance * jnp.exp(-(_relative(levels, self.range) ** 2))


class Spherical(Covariance):
    """Spherical, ``variance * (1 - 1.5 x + 0.5 x**3)`` for ``x = distance / range < 1``, else 0 (SAS SP(SPH)).

    Positive definite in up to three dimensions. The search starts at a range of several typical distances, since below
    the smallest distance the likelihood does not depend on the range.
    """

    variance: Variance
    range: Annotated[Array, PositiveKind(times=4.0)]

    def matrix(self, levels: Any) -> Array:
        """Covariances between coordinates `levels`, (m,) or (m, d)."""
        if jnp.ndim(levels) > 1 and jnp.shape(levels)[1] > 3:
            raise JaxlmmError(f"Spherical: at most three dimensions, found coordinates of shape {jnp.shape(levels)}")
        x = jnp.minimum(distances(levels) / self.range, 1.0)
        return self.variance * (1.0 - 1.5 * x + 0.5 * x**3)


class Matern(Covariance):
    """Matern covariance of smoothness `nu` (Rasmussen & Williams 2006, equations 4.14 to 4.17).

    With ``a = sqrt(2 nu) distance / range``: ``exp(-a)`` for nu = 0.5, ``(1 + a) exp(-a)`` for 1.5,
    ``(1 + a + a**2 / 3) exp(-a)`` for 2.5, and so on, a polynomial of degree nu - 0.5; their limit
    ``exp(-(distance / range)**2 / 2)`` for nu = inf.

    Parameters
    ----------
    nu : 0.5, 1.5 (the default), 2.5, ... or inf; in a formula the last is "inf"
    """

    variance: Variance
    range: Positive
    nu: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self.__dict__["nu"] = float(self.nu)
        except (TypeError, ValueError):
            pass  # said below
        if self.nu not in (*np.arange(HALVES) + 0.5, inf):
            raise JaxlmmError(
                f"Matern: expected nu = 0.5, 1.5, 2.5, ... up to {HALVES - 0.5} or inf, found {self.nu!r}"
            )

    def matrix(self, levels: Any) -> Array:
        """Covariances between coordinates `levels`, (m,) or (m, d)."""
        x = _relative(levels, self.range)
        if self.nu == inf:
            return self.variance * jnp.exp(-0.5 * x**2)
        a = sqrt(2.0 * self.nu) * x
        polynomial: Any = 0.0
        for coefficient in _bessel(int(self.nu)):
            polynomial = polynomial * a + coefficient
        return self.variance * polynomial * jnp.exp(-a)


def _bessel(p: int) -> list[float]:
    """Coefficients of a**p, ..., a, 1 in the Matern covariance of smoothness p + 1/2 (equation 4.16)."""
    terms = [factorial(p + i) / (factorial(i) * factorial(p - i)) * 2 ** (p - i) for i in range(p + 1)]
    return [term / terms[-1] for term in terms]


__all__ = ["ContinuousAutoregressive", "Exponential", "Gaussian", "Matern", "OrnsteinUhlenbeck", "Spherical"]
