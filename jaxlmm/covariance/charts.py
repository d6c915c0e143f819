"""Coordinates in which the solver steps, where its own depend on the unit or the origin of times and covariates.

A correlation over one unit of time is nearly one in seconds and nearly zero in centuries, and a standard deviation at
covariate zero means nothing where the covariate is a year. Points and derivatives stay in the solver's coordinates s;
only a step is taken in others x, which are the same for every unit: the correlation over a typical distance; the rate
or power over a typical spread, and the standard deviation at the middle of the covariate.

Each chart has `to` (x of s), `back` (s of x) and `derivatives`: ds/dx (k, k), and the Hessian (k, k) that the curvature
of s makes with a gradient. NumPy and JAX.
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

    def derivatives(self, s: Any, gradient: Any) -> tuple[Any, Any]:
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
        bent = _put(xp.zeros(k), self.at, second * gradient[self.at])
        return xp.diag(_put(xp.ones(k), self.at, first)), xp.diag(bent)


class Origin(NamedTuple):
    """A variance function by its slope over a typical spread, and what it multiplies at the middle of the covariate.

    ``log g`` is ``slope * v`` with v the covariate or its logarithm, or g has a constant beside ``exp(slope * v)``, the
    logarithm of which is another coordinate. What is multiplied is proportional to g to the power `degrees`.
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

    def _in_middle(self, s: Any, slope: Any, constant: Any, sign: float) -> Any:
        """Coordinates with what is multiplied divided (sign 1) or multiplied (-1) by its multiple in the middle."""
        xp = module_of(s)
        log = slope * self.middle + xp.sum(xp.logaddexp(0.0, constant))
        s = _put(s, self.own, s[self.own] * xp.exp(-sign * self.degrees * log))
        return _put(s, self.constant, constant if sign < 0 else constant + slope * self.middle)

    def start(self, s: Any) -> Any:
        """Start values (k,) from those of structures, which are meant for a middle of zero (of logarithms too)."""
        return self._in_middle(s, s[self.slope], s[self.constant], 1.0)

    def to(self, s: Any) -> Any:
        """Coordinates x (k,) of s."""
        slope = s[self.slope]
        x = self._in_middle(s, slope, s[self.constant] - slope * self.middle, -1.0)
        return _put(x, self.slope, slope * self.spread)

    def back(self, x: Any) -> Any:
        """Coordinates s (k,) of x."""
        slope = x[self.slope] / self.spread
        return _put(self._in_middle(x, slope, x[self.constant], 1.0), self.slope, slope)

    def derivatives(self, s: Any, gradient: Any) -> tuple[Any, Any]:
        """See the module; ``s = x exp(m)``, m a function of slope and constant."""
        xp, k, rate = module_of(s), s.shape[0], self.middle / self.spread
        slope, own = s[self.slope], s[self.own]
        x = s[self.constant] - slope * self.middle
        part = 1.0 / (1.0 + xp.exp(-x))  # of the constant in the multiple
        units = np.eye(k)
        row = rate * units[self.slope[0]]
        if len(x):
            row = row + part[0] * units[self.constant[0]]
        of_m = _put(xp.zeros(k), self.own, self.degrees)
        log = slope * self.middle + xp.sum(xp.logaddexp(0.0, x))
        times = _put(xp.ones(k), self.own, xp.exp(-self.degrees * log))
        value = _put(xp.zeros(k), self.own, own)
        J = xp.diag(_put(times, self.slope, 1.0 / self.spread)) - (value * of_m)[:, None] * row[None, :]
        if len(x):
            J = J + rate * units[self.constant[0]][:, None] * units[self.slope[0]][None, :]
        mixed = -(gradient * of_m * times)[:, None] * row[None, :]
        bent = mixed + mixed.T + xp.sum(gradient * value * of_m**2) * row[:, None] * row[None, :]
        if len(x):
            second = xp.sum(gradient * value * of_m) * part[0] * (1.0 - part[0])
            bent = bent - second * xp.diag(units[self.constant[0]])
        return J, bent


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

    def derivatives(self, s: Any, gradient: Any) -> tuple[Any, Any]:
        """See the module."""
        xp, k = module_of(s), s.shape[0]
        own = s[self.at]
        bent = _put(xp.zeros(k), self.at, gradient[self.at] * own)
        return xp.diag(_put(xp.ones(k), self.at, xp.sqrt(own**2 + self.small**2))), xp.diag(bent)


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
        for chart in self.each:
            J, bent = chart.derivatives(s, gradient)
            gradient, hessian, s = J.T @ gradient, J.T @ hessian @ J + bent, chart.to(s)
        return gradient, hessian


IDENTITY = Charts()
