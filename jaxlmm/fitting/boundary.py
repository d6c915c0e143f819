"""What the solver leaves to be decided on the boundary of the parameter space, for many problems at once (NumPy).

A fit ends in coordinates in which a zero variance is an ordinary point. Three questions remain: is a parameter that
is nearly on the boundary exactly on it; is a singular covariance matrix optimal on the cone of covariance matrices
(Karush-Kuhn-Tucker conditions), or does the likelihood rise into it; and is there a better optimum elsewhere, as
singular fits of small data often have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..covariance.bands import BandKind
from ..covariance.kinds import IntervalKind, PositiveKind, RealKind, VarianceKind
from ..linalg import lower_from_vector, psd_cholesky, tril_indices
from ..tolerances import FAINT, POSITIVE, SINGULAR
from .basins import FAR, Basins
from .newton import Packing, Point, Status
from .objective import Spec
from .recession import unfinished
from .survey import Distances, scaled

RISE = 1e-9  # relative rise of the criterion that is allowed when a parameter is put on the boundary
SLOPE = -1e-6  # slope into the cone, absolute and relative to the largest, below which a point is not optimal
RESTARTS = 3  # times that a run is continued from inside the cone
# Further starts: correlation between neighbouring effects, and times the start values. Where a covariance matrix came
# out singular; and, with the last ones, where it has few groups, as then the likelihood often has several optima.
FURTHER_STARTS = ((0.0, 0.1), (0.0, 3.0))
FEW_GROUPS_STARTS = ((-0.9, 3.0), (0.9, 3.0), (0.0, 10.0))
# Structures: further correlations (in the solver's coordinate) where a variance came out as zero, which leaves them
# undetermined.
FURTHER_CORRELATIONS = (0.6, -0.6)
LAST_STEPS = (-0.5, 0.5, -2.0, 2.0, -4.0)  # of all ranges and shapes, while no start has a finite criterion
STRONG = 1.2  # the correlations, as an angle, of one more start where there are several that data tell little of:
VAGUE = 0.15  # standard error, as an angle, above which they do
SOME = 0.4  # standard deviation, in scaled coordinates, in place of one of several that came out as zero
APART = 3.0  # of numbers that may be negative, what they are moved by there
LITTLE = 0.1  # times the start value of a residual that effects may leave nothing for
RICH = 0.75  # parameters of factors, of those of a free matrix, above which each level may be the one without a rest
MAX_ITERATIONS = 100  # evaluations of a fit, its further starts included; twice where no optimum is known yet
TYPICAL = 20  # evaluations of a further run: without room for them there is none


class Ends(NamedTuple):
    """Where runs of the solver ended, one row a problem."""

    best: np.ndarray  # (b, size) packed points
    status: np.ndarray  # (b,) int
    decrement: np.ndarray  # (b,)
    iterations: np.ndarray  # (b,) int

    def take(self, lanes: np.ndarray) -> Ends:
        """The given rows."""
        return Ends(*(field[lanes] for field in self))

    def put(self, lanes: np.ndarray, new: Ends) -> Ends:
        """Copy with the given rows replaced; iterations add up."""
        out = Ends(*(field.copy() for field in self))
        for field, value in zip(out, new, strict=True):
            field[lanes] = value
        out.iterations[lanes] += self.iterations[lanes]
        return out


def has_few_groups(dim: int, groups: Any, rows: Any) -> Any:
    """Whether data say so little about a free covariance matrix that the likelihood often has several optima.

    Fewer than three groups a parameter; or fewer than ten, with hardly more rows than effects.
    """
    parameters = dim * (dim + 1) // 2
    return (groups < 3 * parameters) | ((groups < 10 * parameters) & (rows < 2 * dim * groups))


# Lanes (b,), scaled coordinates (b, k), `Basins.known`, most evaluations (b,).
Run = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Ends]


class Search:
    """Runs of the solver followed by the decisions on the boundary."""

    def __init__(self, spec: Spec, packing: Packing, scale: np.ndarray, run: Run):
        self.spec, self.packing, self.scale, self.basins, self._run = spec, packing, scale, Basins(spec, packing), run

    def run(
        self, lanes: np.ndarray, s: np.ndarray, known: np.ndarray | None = None, most: np.ndarray | None = None
    ) -> Ends:  # fmt: skip
        """Run lanes (b,) from s (b, k) for `most` evaluations (b,), as far as it can lead to more than `known`."""
        known = np.full((len(lanes), self.basins.size), np.nan) if known is None else known
        most = np.full(len(lanes), MAX_ITERATIONS) if most is None else most
        return self._run(lanes, s, known, most.astype(np.int32))

    def optimum(
        self, lanes: np.ndarray, s: np.ndarray, further: bool = True, few: np.ndarray | bool = False,
        first: np.ndarray | None = None,
    ) -> tuple[Ends, np.ndarray]:  # fmt: skip
        """Best points found from start coordinates s (b, k), or `first`, and the dual slopes (b,; NaN where regular).

        With `further`, problems that do not converge or whose covariance matrices come out singular are started from
        elsewhere too, and those with `few` groups from more places; see `_structured` for other structures.
        """
        ends, dual = self._certified(lanes, self.run(lanes, s if first is None else first))
        if further:
            self._structured(lanes, s, ends, dual)
        if not further or not any(structure.is_matrix and dim > 1 for structure, dim in self.spec.parts):
            return ends, dual
        few = np.broadcast_to(few, len(lanes))
        again = np.flatnonzero(few | self._is_singular_matrix(ends) | (ends.status != Status.CONVERGED))
        far = np.where(few | (not self.spec.profiled), np.inf, FAR)
        # a run that came down to something smaller than its start has passed what one from below would come up to
        down = (np.abs(self.point(ends).x).max(-1) < np.abs(s).max(-1)) & (ends.status == Status.CONVERGED) & ~few
        every = [(again[~down[again]] if start[1] < 1.0 else again, *start) for start in FURTHER_STARTS]
        every += [(np.flatnonzero(few), *start) for start in FEW_GROUPS_STARTS]
        starts = [(rows, self._effects(factor) * self._correlated(s[rows], rho)) for rows, rho, factor in every]
        self._improve(starts, lanes, ends, dual, far=far)
        return ends, dual

    def _structured(self, lanes: np.ndarray, s: np.ndarray, ends: Ends, dual: np.ndarray) -> None:
        """Further starts for structures whose likelihoods often have several optima, in place.

        Ranges of a distance, loadings of factors and what a class says always; correlations where a variance is zero.
        """
        kinds, placed = self.spec.kinds, self.spec.placed
        every = np.arange(len(lanes))
        ranges = np.array(
            [placed[i] and isinstance(kind, PositiveKind) and kind.first is None for kind, i in kinds], bool
        )
        loadings = np.array([getattr(kind, "rank", None) is not None for kind, _ in kinds], bool)
        decays = np.array([placed[i] and isinstance(k, IntervalKind) and k.lower == 0.0 for k, i in kinds], bool)
        beside = len(self.spec.parts) - (not self.spec.profiled)
        turns = np.array([placed[i] and isinstance(k, IntervalKind) and i < beside for k, i in kinds], bool) & ~decays
        moved = []
        if np.any(ranges | decays | turns):
            self._surveyed(Distances.of(self.spec, ranges, decays, turns), lanes, s, ends, dual)
        if loadings.any():
            index = np.arange(len(kinds))
            moved += [
                s * np.where(loadings, change, 1.0) for change in ((-1.0) ** index, 1.0 + 0.8 * np.cos(1 + 3 * index))
            ]
            rich = {i for i, (c, q) in enumerate(self.spec.parts) if c.size(q) > RICH * q * (q + 1) / 2}
            ranked = rich & {part for (_, part), loading in zip(kinds, loadings, strict=True) if loading}
            own = np.array([part in ranked and kind.has_scale for kind, part in kinds], bool) & ~loadings
            # a common factor may be all that there is of one level, of any
            moved += [s * np.where(one, LITTLE, 1.0) for one in np.eye(len(kinds), dtype=bool)[own]]
        moved += [np.where(np.isnan(other), s, other) for other in self.spec.alternatives]
        last = np.array([i == len(self.spec.parts) - 1 > 0 and not self.spec.profiled for _, i in kinds], bool)
        levels = np.array([isinstance(kind, PositiveKind) and kind.first is not None for kind, _ in kinds], bool) & last
        if levels.any():  # effects may leave nothing of one level of a residual
            moved += [s + np.log(LITTLE) * one for one in np.eye(len(kinds))[levels]]
            own = np.array([kind.has_scale for kind, _ in kinds], bool) & last
            moved.append(np.where(own, s * LITTLE**self.spec.degrees, s) - np.log(LITTLE) * levels)
        self._improve([(every, start) for start in moved], lanes, ends, dual, rescue=False)
        shapes = np.array([not kind.has_scale for kind, _ in kinds], bool)
        for step in LAST_STEPS:
            rows = np.flatnonzero(ends.status == Status.NOT_FINITE)
            self._improve([(rows, s[rows] + step * shapes)], lanes, ends, dual)
        correlations = np.array([isinstance(kind, IntervalKind | BandKind) for kind, _ in kinds], bool) & ~decays
        parts = {i for (_, i), correlation in zip(kinds, correlations, strict=True) if correlation}
        angles = np.array([isinstance(kind, IntervalKind) for kind, _ in kinds], bool)
        if angles.any():  # a run that has left for a correlation of one may have passed an optimum of others
            rows = np.flatnonzero(unfinished(ends.status))
            turn = np.where(np.cumsum(angles) % 2, 1.0, -1.0)
            signs = (1.0, -1.0, turn, -turn) if angles.sum() > 1 else (1.0, -1.0)
            tried = [s[rows] + FURTHER_CORRELATIONS[0] * sign * angles for sign in signs]
            self._improve([(rows, start) for start in tried], lanes, ends, dual)
        if angles.sum() > 1:
            error = self._vague(ends, angles)
            rows = np.flatnonzero((error.max(-1) > VAGUE) & (ends.status == Status.CONVERGED))
            strong = np.where(angles, STRONG * np.sign(self.point(ends).x), s)
            turned = np.where(error == error.max(-1, keepdims=True), -strong, strong)
            self._improve([(rows, strong[rows]), (rows, turned[rows])], lanes, ends, dual, rescue=False)
        scales = np.array([kind.has_scale and i in parts for kind, i in kinds], bool)
        if scales.any():
            for step in FURTHER_CORRELATIONS:
                rows = np.flatnonzero(np.any(self.point(ends).x[:, scales] == 0.0, -1))
                self._improve([(rows, s[rows] + step * correlations)], lanes, ends, dual, rescue=False)
        sizes = np.array([isinstance(kind, VarianceKind) and i < beside and not placed[i] for kind, i in kinds], bool)
        if sizes.any():  # of several variances some may be zero or others may
            x = self.point(ends).x
            rows = np.flatnonzero(np.any(x[:, sizes] == 0.0, -1) & (ends.status == Status.CONVERGED))
            real = np.array([isinstance(kind, RealKind) and i < beside and not placed[i] for kind, i in kinds], bool)
            mixed = {i for (_, i), one in zip(kinds, real, strict=True) if one}  # variances are not those of levels
            others = np.array([i in mixed for _, i in kinds], bool)
            swapped = np.where(sizes & (x == 0.0), SOME, np.where(others, np.where(sizes, LITTLE**2, s), x))
            apart = [APART * one for one in np.eye(len(kinds))[real]]  # one level from all others
            apart += [-APART * real] if mixed else [np.zeros(len(kinds))]
            starts = [(rows, (swapped + more)[rows]) for more in apart]
            self._improve(starts, lanes, ends, dual, rescue=False)
        if (sizes | scales).any() and self.spec.independent and not self.spec.profiled:
            # effects may take over all of the variation
            singular = np.any(boundaries(self.spec, self.point(ends).x), -1)
            small = s * np.where(np.arange(s.shape[-1]) == s.shape[-1] - 1, LITTLE, 1.0)
            rows = np.flatnonzero(singular | (ends.status != Status.CONVERGED))
            self._improve([(rows, small[rows])], lanes, ends, dual, rescue=False)
        if scales.any():
            rows = np.flatnonzero(np.any(self.point(ends).x[:, scales] == 0.0, -1))
            if len(rows) and np.any(wanted := self._wanted(ends)):
                asked = np.where(wanted, FURTHER_CORRELATIONS[0] * wanted, s)
                self._improve([(rows, asked[rows])], lanes, ends, dual, rescue=False)

    def _surveyed(self, distances: Distances, lanes: np.ndarray, s: np.ndarray, ends: Ends, dual: np.ndarray) -> None:
        """Further starts, in place, where single evaluations along ranges say that there may be other optima."""
        if distances.beside.any():
            rows = np.flatnonzero(ends.status == Status.MAX_ITERATIONS)
            self._improve([(rows, distances.without_errors(self.point(ends).x[rows]))], lanes, ends, dual)
        known = ends.status == Status.CONVERGED
        rows = np.flatnonzero(~known | (ends.iterations + distances.count <= MAX_ITERATIONS))
        if not len(rows):
            return
        start, found, known = s[rows], self.point(ends.take(rows)), known[rows]
        trials = distances.trials(start, np.where(known[:, None], found.x, start))  # (t, b, k)
        t, b, k = trials.shape
        once = self.run(np.tile(lanes[rows], t), trials.reshape(-1, k), most=np.ones(t * b, int))
        trials, value = scaled(self.point(once), self.spec.degrees)
        value = np.where(once.status == Status.NOT_FINITE, np.inf, value).reshape(t, b)
        trials = trials.reshape(t, b, k)
        ends.iterations[rows] += t
        pays = distances.valleys(value, start, found.x, np.where(known, found.value, np.inf))
        each = [(np.flatnonzero(turn >= 0), turn[turn >= 0]) for turn in pays]
        starts = [(rows[lane], trials[turn, lane]) for lane, turn in each]
        self._improve(starts, lanes, ends, dual, rescue=False)

    def _vague(self, ends: Ends, correlations: np.ndarray) -> np.ndarray:
        """Standard errors (b, k) of correlations, as angles, else zero: where large there are often several optima."""
        H = self.point(ends).hessian
        w, Q = np.linalg.eigh(np.where(np.isfinite(H), H, 0.0))
        variance = np.sum(2.0 * Q**2 / np.maximum(w, 1e-300)[:, None, :], -1)  # of angles, by observed information
        return np.where(correlations, np.sqrt(variance), 0.0)

    def _wanted(self, ends: Ends) -> np.ndarray:
        """Signs (b, k) of several correlations along which the likelihood rises as a zero variance grows; else zero.

        The slope of the criterion in a covariance matrix of the effects says which covariances it asks for.
        """
        point = self.point(ends)
        signs, begin = np.zeros(point.x.shape), 0
        slopes = (*point.aux.slopes.random, point.aux.slopes.residual)
        for (structure, dim), S in zip(self.spec.parts, slopes, strict=False):
            at = begin + np.flatnonzero([isinstance(kind, IntervalKind) for kind in structure.kinds(dim)])
            begin += structure.size(dim)
            if S is None or len(at) != S.shape[-1] - 1 or len(at) < 2:
                continue
            of_lags = "partial" in [p.name for p in structure.free]
            diagonals = [np.diagonal(S, j + 1, -2, -1) for j in range(len(at))]
            asked = np.stack([d.sum(-1) for d in diagonals], -1) if of_lags else diagonals[0]
            signs[:, at] = -np.sign(np.nan_to_num(asked))
        return signs

    def _improve(
        self, starts: list[tuple[np.ndarray, np.ndarray]], lanes: np.ndarray, ends: Ends, dual: np.ndarray,
        rescue: bool = True, far: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Run rows (m,) from s (m, k) too, for each of the `starts` (rows, s), and keep what is better, in place.

        With `rescue`, an optimum replaces the end of a run that did not converge, even one with a better value.
        A run ends where it can lead to the known optimum only, or begins higher above it than `far` (b,). The first
        ones come first: in every round those for which the budget of their row has room.
        """
        starts = [(rows, s) for rows, s in starts if len(rows)]
        if not starts:
            return
        rows, s = (np.concatenate(column) for column in zip(*starts, strict=True))
        below = np.zeros(len(rows), bool)  # what has to be finished, as it is below the known optimum
        while len(rows):
            twice = below | np.isin(ends.status[rows], (Status.MAX_ITERATIONS, Status.NOT_FINITE))
            left = np.where(twice, 2, 1) * MAX_ITERATIONS - ends.iterations[rows]
            turn, room = _turns(rows), left // TYPICAL
            now, later = np.flatnonzero(turn < room), np.flatnonzero((turn >= room) & (room > 0))
            if not len(now):
                break
            most = np.minimum(left[now] // np.bincount(rows[now], minlength=len(lanes))[rows[now]], MAX_ITERATIONS)
            going = self._round(rows[now], s[now], most, lanes, ends, dual, rescue, far)
            below = np.arange(len(going[0]) + len(later)) < len(going[0])
            rows, s = (np.concatenate(pair) for pair in zip(going, (rows[later], s[later]), strict=True))

    def _round(
        self, rows: np.ndarray, s: np.ndarray, most: np.ndarray, lanes: np.ndarray, ends: Ends, dual: np.ndarray,
        rescue: bool, far: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """One run each from s (m, k), see `_improve`; what is below the known optimum without having arrived."""
        limit = np.full(len(rows), np.inf) if far is None else far[rows]
        optimal = ends.status[rows] == Status.CONVERGED
        known = self.basins.known(ends.best[rows], optimal, limit)
        lowest = np.where(optimal, self.point(ends).value[rows], np.inf)
        others, duals = self._certified(lanes[rows], self.run(lanes[rows], s, known, most), lowest)
        reached = self.point(others)
        going = (others.status == Status.MAX_ITERATIONS) & optimal & (reached.value < lowest)
        turn = _turns(rows)
        for part in (np.flatnonzero(turn == i) for i in range(turn.max(initial=-1) + 1)):
            mine, other = rows[part], others.take(part)
            old, new = self.point(ends).value[mine], self.point(other).value
            lost = ends.status[mine] != Status.CONVERGED
            lost &= rescue | ~(old < new)
            better = (other.status == Status.CONVERGED) & (lost | (new < old - RISE * np.maximum(1.0, np.abs(old))))
            ends.iterations[mine] += other.iterations
            for field, value in zip(ends[:-1], other[:-1], strict=True):
                field[mine[better]] = value[better]
            dual[mine[better]] = duals[part[better]]
        return rows[going], reached.x[going]

    def _effects(self, factor: float) -> np.ndarray:
        """Times what start values (k,) are, where all effects are `factor` times as large beside the residual."""
        last = len(self.spec.parts) - (not self.spec.profiled)
        scales = np.array([kind.has_scale and part < last for kind, part in self.spec.kinds], bool)
        return np.where(scales, factor, 1.0)

    def _correlated(self, s: np.ndarray, correlation: float) -> np.ndarray:
        """Start coordinates s (b, k) with a correlation between neighbouring effects of free matrices."""
        out, begin = s.copy(), 0
        for structure, dim in self.spec.parts:
            size = structure.size(dim)
            if structure.is_matrix and dim > 1:
                rows, columns = tril_indices(dim)
                L = np.linalg.cholesky(correlation ** abs(np.arange(dim)[:, None] - np.arange(dim)))
                out[:, begin : begin + size] = L[rows, columns]
            begin += size
        return out

    def point(self, ends: Ends) -> Point:
        """Unpacked points."""
        return self.packing.unpack(ends.best)

    def _certified(
        self, lanes: np.ndarray, ends: Ends, lowest: np.ndarray | float = np.inf
    ) -> tuple[Ends, np.ndarray]:  # fmt: skip
        """Put what is nearly on the boundary on it, and leave singular points from which the likelihood rises.

        What is not below the `lowest` value (b,) that is known stays beside the boundary.
        """
        lowest = np.broadcast_to(lowest, len(lanes))
        todo = np.arange(len(lanes))
        dual = np.full(len(lanes), np.nan)
        for _ in range(RESTARTS):
            ends = ends.put(todo, self._snapped(lanes[todo], ends.take(todo), lowest[todo]))
            dual[todo], better, starts = self._dual(lanes[todo], ends.take(todo))
            todo, starts = todo[better], starts[better]
            if not len(todo):
                break
            ends = ends.put(todo, self.run(lanes[todo], starts))
        return ends, dual

    def _snapped(self, lanes: np.ndarray, ends: Ends, lowest: np.ndarray) -> Ends:
        """Canonical coordinates, on the boundary where they were next to it and the criterion does not mind.

        A run that has not converged keeps its covariances to the last digit: without curvature to say so, a small pivot
        is not a zero, and its log-likelihood is that of this pivot.
        """
        point = self.point(ends)
        arrived = (ends.status == Status.CONVERGED)[:, None]
        s = np.where(arrived, self.spec.map("canonical", point.x), self.spec.map("signed", point.x))
        target = self.spec.map("snapped", s, SINGULAR)
        near = np.flatnonzero(np.any(target != s, -1) & arrived[:, 0] & (point.value < lowest))
        ends = self._at(ends._replace(iterations=np.zeros_like(ends.iterations)), s)
        if not len(near):
            return ends
        again = self.run(lanes[near], target[near])
        value = point.value[near]
        limit = value + RISE * np.maximum(1.0, np.abs(value))
        keep = (again.status == Status.CONVERGED) & (self.point(again).value <= limit)
        ends.iterations[near[~keep]] += again.iterations[~keep]
        again = self._at(again, self.spec.map("canonical", self.point(again).x))
        return ends.put(near[keep], again.take(keep))

    def _at(self, ends: Ends, s: np.ndarray) -> Ends:
        """The same ends with equivalent coordinates, which come first in a packed point."""
        best = ends.best.copy()
        best[:, : s.shape[1]] = s
        return ends._replace(best=best)

    def _is_singular_matrix(self, ends: Ends) -> np.ndarray:
        s = self.point(ends).x
        found = np.zeros(len(s), bool)
        for structure, dim, v in self.spec.split(s):
            if structure.is_matrix and dim > 1:
                found |= structure.at_boundary(v, dim, SINGULAR)
        return found

    def _dual(self, lanes: np.ndarray, ends: Ends) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Slope into the cone (NaN where regular), whether it says the point is not optimal, and where to go on.

        Over the null space of a singular estimate the derivative of the criterion in the matrix must be positive
        semidefinite; its most negative eigenvector, if any, is added to the estimate.
        """
        point = self.point(ends)
        worst, starts = np.full(len(point.x), np.nan), point.x.copy()
        begin = 0
        slopes = (*point.aux.slopes.random, point.aux.slopes.residual)
        for part, ((structure, dim, v), (_, _, size), S) in enumerate(
            zip(self.spec.split(point.x), self.spec.split(self.scale), slopes, strict=False)
        ):
            end, level = begin + v.shape[-1], _levels(self.spec, part, v)
            singular = structure.at_boundary(v, dim, SINGULAR * level) & (ends.status == Status.CONVERGED)
            rows = np.flatnonzero(singular)
            if structure.is_matrix and S is not None and len(rows):
                level = level if level.ndim == 1 else level[rows]
                size = size if size.ndim == 1 else size[lanes[rows]]
                relative, better, into = _cone_slopes(v[rows], S[rows], dim, size, level)
                worst[rows] = np.fmin(worst[rows], relative)
                starts[rows[into], begin:end] = better
            begin = end
        return worst, np.any(starts != point.x, -1), starts


def _cone_slopes(
    v: np.ndarray, S: np.ndarray, dim: int, size: np.ndarray, level: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relative slopes (b,) and, for the problems `into` where it is negative, coordinates a little inside the cone."""
    rows, columns = tril_indices(dim)
    level = np.broadcast_to(level, (len(v), dim))
    unit = np.broadcast_to(size[..., columns == 0], (len(v), dim)) * level  # the first column has an entry of every row
    S = 0.5 * (S + np.swapaxes(S, -1, -2)) * unit[:, :, None] * unit[:, None, :]
    L = lower_from_vector(v, dim) / level[:, :, None]
    G = L @ np.swapaxes(L, -1, -2)
    w, Q = np.linalg.eigh(G)
    null = w <= np.maximum(SINGULAR**2, POSITIVE * w[:, -1:])
    largest = np.maximum(np.abs(S).max((-1, -2)), 1e-300)
    within = (np.swapaxes(Q, -1, -2) @ S @ Q) * null[:, :, None] * null[:, None, :]
    within[:, np.arange(dim), np.arange(dim)] += ~null * (1.0 + dim * largest)[:, None]  # elsewhere no slope counts
    slope, direction = np.linalg.eigh(within)
    relative = slope[:, 0] / largest
    into = np.flatnonzero((relative < SLOPE) & (slope[:, 0] < SLOPE))
    step = (Q[into] @ direction[into, :, :1])[..., 0]
    inside = G[into] + 1e-2 * step[:, :, None] * step[:, None, :]
    return relative, (level[into][:, :, None] * psd_cholesky(inside))[:, rows, columns], into


def _turns(rows: np.ndarray) -> np.ndarray:
    """The how manieth of its row each entry is (m,)."""
    order = np.argsort(rows, kind="stable")
    first = np.searchsorted(rows[order], rows[order])
    turns = np.empty(len(rows), int)
    turns[order] = np.arange(len(rows)) - first
    return turns


def boundaries(spec: Spec, s: np.ndarray) -> np.ndarray:
    """For each part whether it is on the boundary of its space: (b, parts) bool.

    Coordinates are relative to the residual where it has one variance, otherwise to that of all rows together; those of
    an unstructured residual are judged level by level.
    """
    tolerance = SINGULAR if spec.independent else FAINT
    found: list[Any] = []
    for part, (structure, dim, v) in enumerate(spec.split(s)):
        found.append(structure.at_boundary(v, dim, tolerance * _levels(spec, part, v)))
    return np.stack(found, -1) if found else np.zeros((len(s), 0), bool)


def _levels(spec: Spec, part: int, v: np.ndarray) -> np.ndarray:
    """Sizes (..., dim) that levels of a part are judged in: their own in an unstructured residual, else one."""
    structure, dim = spec.parts[part]
    if part < len(spec.parts) - 1 or not structure.is_matrix or dim < 2:
        return np.ones(1)
    size = np.linalg.norm(lower_from_vector(v, dim), axis=-1)
    return np.where(size > 0, size, 1.0)
