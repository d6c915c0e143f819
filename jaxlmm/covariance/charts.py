"""Coordinates in which the solver steps, where its own depend on the unit or the origin of times and covariates.

A correlation over one unit of time is nearly one in seconds and nearly zero in centuries, and a standard deviation at
covariate zero means nothing where the covariate is a year. Points and derivatives stay in the solver's coordinates s;
only a step is taken in others x, which are the same for every unit: the correlation over a typical distance; the rate
or power over a typical spread, and the standard deviation at the middle of the covariate.

Each chart has `to` (x of s), `back` (s of x) and `derivatives`: the diagonal of ds/dx, its rank-one rest as a column
and the place of its row, and the Hessian that the curvature of s makes with a gradient. NumPy and JAX.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .kinds import module_of

END = 1e-12  # distance from the ends of a correlation over a typical distance within which the chart is not bent
SMALL, TINY = 0.1, 1e-4  # standard deviations, relative to that of y, below which they are their own coordinates
QUARTER = 0.25 * np.pi


def typical(places: Any) -> Any:
    """Typical distance along each column of sets of coordinates (K, T, ...): a quarter of their extent, (d,)."""
    xp = module_of(places)
    places = xp.reshape(places, (*places.shape[:2], -1))
    extent = xp.mean(xp.max(places, 1) - xp.min(places, 1), 0)
    return xp.where(extent > 0, 0.25 * extent, 1.0)


def _put(x: Any, at: np.ndarray, values: Any) -> Any:
    """Copy of x (k,) with entries `at` replaced."""
    if module_of(x) is not np:
        return x.at[at].set(values)
    x = np.array(x)
    x[at] = values
    return x


class Decay(NamedTuple):
    """A correlation over one unit of distance, in [0, 1], by the one over a typical distance."""

    at: np.ndarray  # (1,) its place
    distance: Any

    def moved(self, at: np.ndarray) -> Decay:
        """The same at the places of a larger vector."""
        return self._replace(at=at[self.at])

    @property
    def places(self) -> list[int]:
        """The coordinates that it is of."""
        return self.at.tolist()

    def start(self, s: Any) -> Any:
        """Start values (k,) from those of structures, which know typical distances."""
        return s

    def _angle(self, angle: Any, power: Any) -> Any:
        """Arcsine coordinate of the `power` of the correlation at one."""
        xp = module_of(angle)
        log = xp.log1p(-(xp.cos(0.5 * angle + QUARTER) ** 2))
        found = xp.exp(power * log)
        return 2.0 * xp.arctan2(xp.sqrt(found), xp.sqrt(-xp.expm1(power * log))) - 2.0 * QUARTER

    def to(self, s: Any) -> Any:
        """Coordinates x (k,) of s."""
        return _put(s, self.at, self._angle(s[self.at], self.distance))

    def back(self, x: Any) -> Any:
        """Coordinates s (k,) of x."""
        return _put(x, self.at, self._angle(x[self.at], 1.0 / self.distance))

    def derivatives(self, s: Any, gradient: Any) -> tuple[Any, Any, int | None, Any]:
        """See the module; with u the correlation over the distance D, c over one, ``c = u**(1/D)``."""
        xp, k, D = module_of(s), s.shape[0], self.distance
        angle = s[self.at]
        rest = xp.cos(0.5 * angle + QUARTER) ** 2  # 1 - c
        log = xp.log1p(-rest)
        u, last = xp.exp(D * log), -xp.expm1(D * log)  # u and 1 - u
        inside = (u > END) & (last > END) & (rest > 0)
        u, last, rest, c = (xp.where(inside, v, 0.5) for v in (u, last, rest, xp.exp(log)))
        r = xp.sqrt(last / u)
        first = xp.where(inside, xp.sqrt(c * last / (u * rest)) / D, 1.0)
        second = xp.where(inside, 0.5 * first * (r / (D * rest) - r - 1.0 / r), 0.0)
        diagonal = _put(xp.ones(k), self.at, first)
        bent = _put(xp.zeros(k), self.at, second * gradient[self.at])
        return diagonal, xp.zeros(k), None, xp.diag(bent)


class Origin(NamedTuple):
    """A variance function by its slope over a typical spread, and what it multiplies at the middle of the covariate.

    ``log g`` is about ``slope * v`` with v the covariate or its logarithm: standard deviations are multiplied by
    ``exp(slope * middle)``, to the power `degrees` of theirs, and a constant beside the power too.
    """

    slope: np.ndarray  # (1,) place
    constant: np.ndarray  # () or (1,) place of the logarithm of a constant beside the power
    own: np.ndarray  # places of the coordinates of what is multiplied
    degrees: np.ndarray  # of the latter
    middle: Any
    spread: Any

    def moved(self, at: np.ndarray) -> Origin:
        """The same at the places of a larger vector."""
        return self._replace(slope=at[self.slope], constant=at[self.constant], own=at[self.own])

    @property
    def places(self) -> list[int]:
        """The coordinates that it is of."""
        return np.concatenate([self.slope, self.constant, self.own]).tolist()

    def start(self, s: Any) -> Any:
        """Start values (k,) from those of structures, which are meant for a middle of zero (of logarithms too)."""
        return self._moved(s, s[self.slope], 1.0)

    def _moved(self, s: Any, slope: Any, sign: float) -> Any:
        xp = module_of(s)
        s = _put(s, self.own, s[self.own] * xp.exp(-sign * self.degrees * slope * self.middle))
        return _put(s, self.constant, s[self.constant] + sign * slope * self.middle)

    def to(self, s: Any) -> Any:
        """Coordinates x (k,) of s."""
        slope = s[self.slope]
        return _put(self._moved(s, slope, -1.0), self.slope, slope * self.spread)

    def back(self, x: Any) -> Any:
        """Coordinates s (k,) of x."""
        slope = x[self.slope] / self.spread
        return _put(self._moved(x, slope, 1.0), self.slope, slope)

    def derivatives(self, s: Any, gradient: Any) -> tuple[Any, Any, int | None, Any]:
        """See the module."""
        xp, k, rate = module_of(s), s.shape[0], self.middle / self.spread
        times = xp.exp(-self.degrees * s[self.slope] * self.middle)
        diagonal = _put(_put(xp.ones(k), self.own, times), self.slope, 1.0 / self.spread)
        column = _put(_put(xp.zeros(k), self.own, -self.degrees * rate * s[self.own]), self.constant, rate)
        mixed = _put(xp.zeros(k), self.own, -gradient[self.own] * self.degrees * rate * times)
        squared = xp.sum(gradient[self.own] * (self.degrees * rate) ** 2 * s[self.own])
        mixed = _put(mixed, self.slope, 0.5 * squared)
        unit = np.zeros(k)
        unit[self.slope] = 1.0
        bent = mixed[:, None] * unit[None, :]
        return diagonal, column, int(self.slope[0]), bent + bent.T


class Log(NamedTuple):
    """Variances by about the logarithm of their root where that is not small, ``s = small sinh(x)``.

    As a range grows, or a constant beside a power, the likelihood has a valley in which products of their powers with
    the variance stay the same: straight in logarithms only. Near zero x is proportional to s.
    """

    at: np.ndarray  # places
    small: float = SMALL

    @property
    def places(self) -> list[int]:
        """The coordinates that it is of."""
        return self.at.tolist()

    def moved(self, at: np.ndarray) -> Log:
        """The same at the places of a larger vector."""
        return Log(at[self.at], self.small)

    def start(self, s: Any) -> Any:
        """Start values (k,)."""
        return s

    def to(self, s: Any) -> Any:
        """Coordinates x (k,) of s."""
        return _put(s, self.at, module_of(s).arcsinh(s[self.at] / self.small))

    def back(self, x: Any) -> Any:
        """Coordinates s (k,) of x."""
        return _put(x, self.at, self.small * module_of(x).sinh(x[self.at]))

    def derivatives(self, s: Any, gradient: Any) -> tuple[Any, Any, int | None, Any]:
        """See the module."""
        xp, k = module_of(s), s.shape[0]
        own = s[self.at]
        bent = _put(xp.zeros(k), self.at, gradient[self.at] * own)
        return _put(xp.ones(k), self.at, xp.sqrt(own**2 + self.small**2)), xp.zeros(k), None, xp.diag(bent)


Chart = Decay | Origin | Log


def distinct(charts: list[Chart]) -> list[Chart]:
    """Charts without those of coordinates that a chart before them has, which groups share."""
    found: list[Chart] = []
    taken: set[int] = set()
    for chart in charts:
        if not taken & set(chart.places):
            found.append(chart)
            taken |= set(chart.places)
    return found


class Charts(NamedTuple):
    """The charts of all parts, of coordinates of their own; none where the solver steps in its own coordinates."""

    each: tuple[Chart, ...] = ()

    def to(self, s: Any) -> Any:
        """Coordinates x (k,) to step in."""
        for chart in self.each:
            s = chart.to(s)
        return s

    def back(self, x: Any) -> Any:
        """Coordinates s (k,) of the solver."""
        for chart in self.each[::-1]:
            x = chart.back(x)
        return x

    def start(self, s: Any) -> Any:
        """Start values (k,) from those of structures."""
        for chart in self.each:
            s = chart.start(s)
        return s

    def pulled(self, s: Any, gradient: Any, hessian: Any) -> tuple[Any, Any]:
        """Gradient (k,) and Hessian (k, k) in x of those in s."""
        xp = module_of(s)
        for chart in self.each:
            diagonal, column, row, bent = chart.derivatives(s, gradient)
            J = xp.diag(diagonal)
            if row is not None:
                unit = np.zeros(len(diagonal))
                unit[row] = 1.0
                J = J + column[:, None] * unit[None, :]
            gradient, hessian, s = J.T @ gradient, J.T @ hessian @ J + bent, chart.to(s)
        return gradient, hessian


IDENTITY = Charts()
