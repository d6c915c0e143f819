"""Where else a likelihood of correlations over distances may have an optimum, told from single evaluations (NumPy).

As a function of its range such a likelihood often has several optima, of few data: a short range in place of
independent errors, one as long as all distances in place of an intercept, and what is between. So the criterion is
looked at along a grid of ranges, once with little and once with much of independent errors beside the field, as large
as is best. A run pays from the lowest points of these paths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..covariance.kinds import VarianceKind
from .newton import Point
from .objective import Spec

TIMES = np.array([0.025, 0.06, 0.15, 0.4, 1.0, 2.5, 7.0, 25.0])  # the start values of ranges
ANGLES = np.linspace(-1.4, 1.4, len(TIMES))  # in place of ranges, where a correlation may be negative
FINE = np.geomspace(0.03, 8.0, 20)  # the same, where there are no errors beside the field
# Share of a field in the variance of it and of the errors beside it: on one path, and on the other; the last one where
# the field has come out as nothing, or as more errors, as the likelihood may rise with a little of another. A little in
# place of much with correlations of steps: strong ones are of little where there is no range that could be short.
MUCH, MIDDLE, FAINT, LITTLE = 0.9, 0.35, 0.03, 0.1
LEAST = 1e-3  # standard deviation below which nothing says how large a part is
DIP = 1e-3  # by which the criterion is lower than at a neighbour
HIGH, HIGHER = 2.0, 6.0  # criterion above the known optimum from where no run pays; where there is a field alone
MOST = 3  # runs


@dataclass(frozen=True)
class Distances:
    """Which solver coordinates (k,) are what."""

    ranges: np.ndarray  # logarithms of ranges
    decays: np.ndarray  # correlations over one unit of distance, as angles
    turns: np.ndarray  # the same of steps, which may be negative; only where there are errors beside
    own: np.ndarray  # sizes of the parts that have these
    beside: np.ndarray  # sizes of errors beside them
    powers: np.ndarray  # of a standard deviation that sizes are

    @classmethod
    def of(cls, spec: Spec, ranges: np.ndarray, decays: np.ndarray, turns: np.ndarray) -> Distances:
        """Of all coordinates, some of which are ranges, decays or turns."""
        owners = {part for (_, part), one in zip(spec.kinds, ranges | decays | turns, strict=True) if one}
        own = np.array([kind.has_scale and part in owners for kind, part in spec.kinds], bool)
        last = np.array([isinstance(k, VarianceKind) and i == len(spec.parts) - 1 for k, i in spec.kinds], bool)
        return cls(ranges, decays, turns, own, last & ~own, np.where(spec.degrees > 0, spec.degrees, 1.0))

    @property
    def times(self) -> np.ndarray:
        """The start values of ranges, along a path."""
        return TIMES if self.beside.any() else FINE

    @property
    def count(self) -> int:
        """Number of trials."""
        return len(TIMES) * 2 if self.beside.any() else len(FINE)

    def trials(self, s: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Points (t, b, k) to be evaluated, path after path, from start values s (b, k) and the known optima."""
        base = np.where(self._moved, s, known)
        shapes = [self._shape(base, s, which) for which in (self.own, self.beside)]
        sizes = [np.mean(self._sd(base, which)[:, which] ** 2, -1) for which in self._sized]
        total = np.sqrt(sum(sizes, np.zeros(len(base))))[:, None]
        every = []
        for share in self._shares(known, s):
            x = base
            for which, shape, part in zip((self.own, self.beside), shapes, (share, 1.0 - share), strict=True):
                x = np.where(which, (shape * total * np.sqrt(part[:, None])) ** self.powers, x)
            every += [self._at(x, s, i) for i in range(len(self.times))]
        return np.stack(every)

    def without_errors(self, x: np.ndarray) -> np.ndarray:
        """Points (b, k) with nothing beside the field, and as much in all: a ridge between both is curved, and long."""
        own, beside = (np.sum(self._sd(x, which) ** 2, -1, keepdims=True) for which in (self.own, self.beside))
        more = np.sqrt((own + beside) / np.maximum(own, 1e-300))
        return np.where(self.beside, 0.0, np.where(self.own, x * more**self.powers, x))

    def valleys(self, value: np.ndarray, s: np.ndarray, known: np.ndarray, lowest: np.ndarray) -> np.ndarray:
        """Numbers (m, b) of the trials of which a run pays, best ones first; -1 for none.

        Parameters
        ----------
        value : (t, b) criterion of the trials
        known, lowest : (b, k), (b,) the known optimum
        """
        t, b = value.shape
        paths, log = value.reshape(-1, len(self.times), b), np.log(self.times)[:, None]
        padded = np.pad(paths, ((0, 0), (1, 1), (0, 0)), "edge")
        before, after = padded[:, :-2], padded[:, 2:]
        dip = (paths < np.maximum(before, after) - DIP) & (paths < np.minimum(before, after) + DIP)
        # the dip of the known optimum itself: on the path next to it, between the neighbours of its range
        at, shares = self._range(known, s), self._shares(known, s)
        away = np.abs(shares - self._share(known))
        ends = np.pad(log, ((1, 1), (0, 0)), constant_values=((-np.inf, np.inf), (0, 0)))
        own = (away == np.min(away, 0))[:, None] & (at > ends[:-2]) & (at < ends[2:])
        limit = np.where(shares == FAINT, -DIP, HIGH if self.beside.any() else HIGHER)[:, None]
        cost = np.where(dip & ~own & (paths < lowest + limit), paths, np.inf).reshape(t, b)
        order = np.argsort(cost, 0)[:MOST]
        return np.where(np.isfinite(np.take_along_axis(cost, order, 0)), order, -1)

    @property
    def _moved(self) -> np.ndarray:
        return self.ranges | self.decays | self.turns

    @property
    def _sized(self) -> list[np.ndarray]:
        return [which for which in (self.own, self.beside) if which.any()]

    def _sd(self, x: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Standard deviations (b, k) that the sizes among x are."""
        return np.where(which, np.abs(x) ** (1.0 / self.powers), 0.0)

    def _shape(self, x: np.ndarray, s: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Standard deviations (b, k) relative to their root mean square; those of s where these are nearly zero."""
        found = []
        for sd in (self._sd(x, which), self._sd(s, which)):
            size = np.sqrt(np.sum(sd**2, -1, keepdims=True) / max(np.sum(which), 1))
            found.append((size, sd / np.where(size > 0, size, 1.0)))
        return np.where(found[0][0] > LEAST, found[0][1], found[1][1])

    def _share(self, x: np.ndarray) -> np.ndarray:
        """Of the field at x (b, k), (b,)."""
        own, beside = (np.sum(self._sd(x, which) ** 2, -1) for which in (self.own, self.beside))
        return own / np.maximum(own + beside, 1e-300)

    def _shares(self, known: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Those of the paths (1 or 2, b)."""
        if not self.beside.any():
            return np.ones((1, len(known)))
        share = self._share(known)
        nothing = (share < 0.3 * FAINT) | (self._range(known, s) < np.log(TIMES[0]))
        first = MUCH if np.any(self.ranges | self.decays) else LITTLE
        return np.stack([np.full_like(share, first), np.where(nothing, FAINT, MIDDLE)])

    def _range(self, x: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Logarithm of how many times the ranges of s those of x are (b,), on average."""
        ranges = np.where(self.ranges, x - s, 0.0)
        decays = np.where(self.decays, np.log(_log(s) / np.minimum(_log(x), -1e-300)), 0.0)
        turns = np.where(self.turns, np.interp(x, ANGLES, np.log(TIMES)), 0.0)
        return np.sum(ranges + decays + turns, -1) / np.sum(self._moved)

    def _at(self, x: np.ndarray, s: np.ndarray, i: int) -> np.ndarray:
        """Points (b, k) with ranges times what they are in s: the correlation over a distance is one to its power."""
        times = self.times[i]
        angle = 2.0 * np.arcsin(np.exp(0.5 * _log(s) / times)) - 0.5 * np.pi
        found = np.where(self.decays, angle, np.where(self.ranges, s + np.log(times), x))
        return np.where(self.turns, ANGLES[i % len(ANGLES)], found)


def scaled(point: Point, degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (m, k) with all covariances times what is best, and the criterion there (m,).

    With V times c it is ``nu log c + rss / c`` and what c does not change; the slope at one is ``nu - rss``.
    """
    with np.errstate(all="ignore"):
        rss = point.aux.normal.rss
        nu = rss + 0.5 * np.sum(point.gradient * point.x * degrees, -1)
        c = np.where((nu > 0) & (rss > 0), rss / nu, 1.0)
        return point.x * c[:, None] ** (0.5 * degrees), point.value + nu * np.log(c) + rss * (1.0 / c - 1.0)


def _log(s: np.ndarray) -> np.ndarray:
    """Logarithm of correlations that are angles."""
    return 2.0 * np.log(np.maximum(np.sin(0.5 * s + 0.25 * np.pi), 1e-150))
