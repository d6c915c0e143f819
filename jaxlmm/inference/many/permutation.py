"""Permutation tests of a hypothesis in many responses: family-wise error by the largest statistic, clusters by mass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ...arguments import check_number, numbers_of
from ...batch.chunks import Progress, reporter, run
from ...batch.fits import BatchFit
from ...batch.refitting import as_batch, refit_batch
from ...errors import DataError
from ...fitting.newton import Status
from ...frames.columns import make_frame
from ...frames.tables import Shown, Table, format_column, format_p, notes
from ...likelihood.prepared import orthonormal, weighted
from ...runtime.keys import generator_of
from ...runtime.precision import float64
from ...runtime.sizes import check_count
from ...tolerances import FITTED_BY_X, REPEATED, TIED
from ..fixed_effects.linear import expression, hypotheses
from ..hypotheses.alternatives import Alternative, alternative_of
from ..robust.partition import labelled
from .neighbours import edges_of, masses
from .one_variance import OneVariance, independent
from .rearrangements import Scheme

if TYPE_CHECKING:
    from ...estimates.fitted import FitBase

NUMBERS = 2e7  # of rearranged responses that are worked on at a time
LANES = 4096  # of them side by side, where none has to be fitted


@dataclass(frozen=True, eq=False)
class ClusterMasses:
    """Clusters of neighbouring responses with statistics beyond a threshold, the heaviest first.

    Attributes
    ----------
    threshold : number;  label : (v,) cluster of each response, -1 for none
    mass, p : (k,) sum of the sizes of the statistics, and p value by the heaviest cluster of each rearrangement
    maxima : (n,) of these
    """

    threshold: float
    label: np.ndarray
    mass: np.ndarray
    p: np.ndarray
    maxima: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Permutations(Shown):
    """Permutation tests of one hypothesis in v responses.

    Attributes
    ----------
    statistic : (v,) t of a hypothesis of one row, Wald's F of several
    p, p_max : (v,) p values of each response alone, and by the largest statistic of all (family-wise error)
    maxima : (n,) largest statistic of each rearrangement, that of the data first
    exact : whether all rearrangements were made
    status : (v,) of the fits to the data, `jaxlmm.Status`
    lost : (v,) rearrangements in which a response had no statistic, which count as larger ones in `p` and `p_max`
    clusters : where a threshold was given
    names : (v,) of the responses;  label : the hypothesis;  kind : of frames
    """

    statistic: np.ndarray
    p: np.ndarray
    p_max: np.ndarray
    maxima: np.ndarray
    exact: bool
    status: np.ndarray
    lost: np.ndarray
    clusters: ClusterMasses | None
    names: tuple[Any, ...]
    label: str
    kind: str = "dict"

    def critical(self, level: float = 0.05) -> float:
        """The statistic from which on p_max is at most `level`."""
        count = int(np.floor(level * len(self.maxima) + 1e-9))
        return float(np.sort(self.maxima)[-count]) if count else np.inf

    def frame(self) -> Any:
        """A row a response: statistic, p values and, where there are clusters, its own with its mass and p value."""
        columns: dict[str, Any] = {
            "response": list(self.names), "statistic": self.statistic, "p_value": self.p, "p_max": self.p_max,
            "status": [Status(s).name.lower() for s in self.status],
        }  # fmt: skip
        if (found := self.clusters) is not None:
            inside = found.label >= 0
            for name, own in (("mass", found.mass), ("p_cluster", found.p)):
                columns |= {"cluster": found.label, name: np.where(inside, np.append(own, np.nan)[found.label], np.nan)}
        return make_frame(self.kind, columns)

    def table(self) -> Table:
        """Clusters, heaviest first, or without a threshold the responses with the largest statistics."""
        how = "all" if self.exact else "random"
        title = f"Permutation tests of {self.label} in {len(self.statistic)} responses, {len(self.maxima)} {how}:"
        few = int(self.lost.sum())
        lost = f"{few} statistics of rearranged responses could not be computed and count as larger" * (few > 0)
        if (found := self.clusters) is not None:
            counts = np.bincount(found.label[found.label >= 0], minlength=len(found.mass))
            first = [self.names[np.flatnonzero(found.label == k)[0]] for k in range(len(counts))]
            rows = zip(map(str, range(len(counts))), map(str, counts), map(str, first), format_column(found.mass),
                       map(format_p, found.p), strict=True)  # fmt: skip
            note = notes(f"clusters of statistics beyond {found.threshold:.4g}; p by the heaviest of all", lost)
            return Table(title, ("", "Responses", "First", "Mass", "p"), tuple(rows)[:20], note=note)
        top = np.argsort(np.where(np.isnan(self.p_max), np.inf, self.p_max), kind="stable")[:10]
        cells = zip((str(self.names[i]) for i in top), format_column(self.statistic[top]),
                    map(format_p, self.p[top]), map(format_p, self.p_max[top]), strict=True)  # fmt: skip
        return Table(title, ("", "Statistic", "p", "p (max)"), tuple(cells), note=notes("p (max): family-wise", lost))


def permutation_test(
    fit: FitBase, L: Any, Y: Any, n: int, flip: Any, within: Any, between: Any, rhs: float, side: str,
    threshold: float | None, neighbours: Any, seed: Any, names: Sequence[Any] | None, progress: Progress,
) -> Permutations:  # fmt: skip
    """See ``Fit.permutation``."""
    check_count("n", n)
    model = fit.model
    Y = as_batch("y", Y, len(model.y), one=True)
    v = len(Y)
    if names is not None and len(names) != v:
        raise DataError(f"names: expected {v}, one a response, found {len(names)}")
    if (threshold is None) != (neighbours is None):
        raise DataError("threshold, neighbours: give both, for clusters, or neither")
    if threshold is not None:
        check_number("threshold", threshold)
    if threshold is not None and not threshold > 0:
        raise DataError(f"threshold: expected a positive number, found {threshold!r}")
    labels, rows = hypotheses(L, fit.coef_names)
    rows = np.atleast_2d(numbers_of("L", rows, "rows of numbers, or names of coefficients"))
    if rows.shape[1:] != fit.coef.shape or not (np.all(np.any(rows, 1)) and np.isfinite(rows).all()):
        raise DataError(f"L: expected rows (m, {len(fit.coef_names)}) that are not zero, found shape {rows.shape}")
    way = alternative_of(side, 0.0)
    if len(rows) > 1 and way.way:
        raise DataError(f"side: several hypotheses together have no sides; found {side!r}")
    groups = (None if by is None else labelled(fit, name, by).codes
              for name, by in (("flip", flip), ("within", within), ("between", between)))  # fmt: skip
    scheme = Scheme.of(len(model.y), *groups)
    exact = scheme.count <= n
    todo = scheme.all() if exact else scheme.draws(n, generator_of("seed", seed))
    edges = None if neighbours is None else edges_of(neighbours, v)
    usable = np.isfinite(Y).all(1)
    if not usable.any():
        raise DataError(f"y: all {v} responses have missing or infinite values")
    found = _Counts(way, threshold, edges, usable, len(rows) == 1)
    with float64():
        errors = _Errors(model, rows, rhs, Y[usable])
        size, done = max(1, int(NUMBERS // max(Y.size, 1))), 0
        count = scheme.count if exact else n
        of = partial(_of_rearranged, errors, OneVariance.of(model, errors.L, errors.free, fit.method), rows, fit.method)
        with reporter(progress, count * v) as report:
            while some := list(islice(todo, size)):
                found.add(*of(some, max(1, min(count, LANES // int(usable.sum())))))
                done += len(some)
                report(done * v, count * v)
    own = names if names is not None else range(v)
    text = ", ".join(labels) or ", ".join(expression(row, fit.coef_names) for row in rows)
    return found.result(v, exact, tuple(own), f"{text} = {rhs:g}" if rhs else text, fit.frame.kind)


class _Errors:
    """What responses have beside the hypothesis, and its rearrangements (Freedman & Lane 1983).

    Least squares in the columns of X that the hypothesis leaves give fitted values, which stay, and residuals, which
    are rearranged; weights are part of both. See Winkler, Ridgway, Webster, Smith & Nichols (2014), NeuroImage 92.
    """

    def __init__(self, model: Any, L: np.ndarray, rhs: float, Y: np.ndarray):
        self.L, self.free = independent(L)
        self.model = model
        self.fixed = model.X @ np.linalg.lstsq(L, np.full(len(L), rhs), rcond=None)[0]
        self.fixed = self.fixed if model.offset is None else self.fixed + model.offset
        y = weighted(model, (Y - self.fixed).T)
        size = np.sum(y**2, 0)
        Q, _, _ = orthonormal(model.X @ self.free, model.weights)
        self.fitted = Q @ (Q.T @ y)
        self.residuals = y - self.fitted
        again = Q @ (Q.T @ self.residuals)
        self.fitted, self.residuals = self.fitted + again, self.residuals - again
        self.varies = np.sum(self.residuals**2, 0) > FITTED_BY_X**2 * size

    def rearranged(self, index: np.ndarray, sign: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Responses `rows` (m, n) with rearranged residuals, without `rhs`, so that the hypothesis is of zero."""
        y = self.fitted[:, rows] + sign[:, None] * self.residuals[:, rows][index]
        y = y if self.model.weights is None else y / np.sqrt(self.model.weights)[:, None]
        return (y if self.model.offset is None else y + self.model.offset[:, None]).T


def _of_rearranged(
    errors: _Errors, quick: OneVariance | None, L: np.ndarray, method: str, some: list[tuple[np.ndarray, np.ndarray]],
    many: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Statistics and statuses (len(some), v), by fits where there is no quicker way, which takes `many` at a time."""
    shape = len(some), errors.residuals.shape[1]
    out, status = np.full(shape, np.nan), np.full(shape, Status.RUNNING, int)
    if quick is not None:
        _quickly(errors, quick, some, many, out, status)
        out = out**2 if len(L) > len(errors.L) == 1 else out
    left = np.nonzero(status == Status.RUNNING)
    if len(left[0]):
        every = np.split(left[1], np.cumsum(np.bincount(left[0], minlength=len(some)))[:-1])
        stars = [errors.rearranged(*one, rows) for one, rows in zip(some, every, strict=True) if len(rows)]
        fits = refit_batch(errors.model, np.concatenate(stars), method, progress=False)
        if np.any(fits.status == Status.NOT_RUN):
            raise KeyboardInterrupt
        out[left], status[left] = _statistics(L, fits), fits.status
    return out, status


def _quickly(
    errors: _Errors, quick: OneVariance, some: list[Any], many: int, out: np.ndarray, status: np.ndarray
) -> None:  # fmt: skip
    """Fill in statistics that need no fit, and their statuses, in blocks of one shape on all cores."""
    v = out.shape[1]
    width = min(v, LANES)

    def block(i: int, j: int) -> None:
        own = (some[i : i + many] * many)[:many]
        t, good = quick(np.concatenate([sign[:, None] * errors.residuals[:, j : j + width][index]
                                        for index, sign in own], 1))  # fmt: skip
        here = np.s_[i : i + many, j : j + width]
        rows = len(out[here])
        out[here] = t.reshape(many, width)[:rows]
        good = good.reshape(many, width)[:rows] & errors.varies[j : j + width]
        status[here] = np.where(good, Status.CONVERGED, Status.RUNNING)

    places = [(i, min(j, v - width)) for i in range(0, len(some), many) for j in range(0, v, width)]
    run([partial(block, *place) for place in places], [1] * len(places), False)


def _statistics(L: np.ndarray, fits: BatchFit) -> np.ndarray:
    """T of a row, or Wald's F of several, for every fit; NaN where there is none."""
    estimate = fits.coef @ L.T
    V = L @ fits.vcov @ L.T
    with np.errstate(divide="ignore", invalid="ignore"):
        if len(L) == 1:
            return estimate[:, 0] / np.sqrt(V[:, 0, 0])
        out, good = np.full(len(estimate), np.nan), np.isfinite(V).all((1, 2)) & np.isfinite(estimate).all(1)
        inverse = np.linalg.pinv(V[good], rcond=REPEATED, hermitian=True)
        out[good] = np.einsum("bi,bij,bj->b", estimate[good], inverse, estimate[good]) / np.linalg.matrix_rank(L)
        return out


class _Counts:
    """How often rearranged statistics reach those of the data, the first that come."""

    def __init__(self, way: Alternative, threshold: float | None, edges: Any, usable: np.ndarray, signed: bool):
        self.way, self.threshold, self.edges, self.usable, self.signed = way, threshold, edges, usable, signed
        self.maxima: list[np.ndarray] = []
        self.heaviest: list[np.ndarray] = []
        self.total, self.reached, self.lost = 0, 0, 0

    def add(self, statistics: np.ndarray, status: np.ndarray) -> None:
        """Statistics (b, v') of the responses that can be fitted."""
        evidence = self.way.evidence(statistics)
        if not self.total:
            self.first, self.status = statistics[0], status[0]
            self.least = evidence[0] - TIED * np.abs(evidence[0])
        none = np.isnan(evidence)
        with np.errstate(invalid="ignore"):
            self.reached = self.reached + np.sum(none | (evidence >= self.least), 0)
        self.lost, self.total = self.lost + none.sum(0), self.total + len(evidence)
        sizes = np.where(np.isnan(self.first), -np.inf, np.where(none, np.inf, evidence))
        self.maxima.append(np.max(sizes, 1, initial=-np.inf))
        if self.threshold is not None:
            label, mass = self._clusters(statistics)
            if len(self.heaviest) == 0:
                self.label, self.mass = label[0], mass[0]
            self.heaviest.append(mass.max(1, initial=0.0))

    def _clusters(self, statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        whole = np.full((len(statistics), len(self.usable)), np.nan)
        whole[:, self.usable] = statistics if self.way.way >= 0 else -statistics
        assert self.threshold is not None
        return masses(whole, self.threshold, self.signed and not self.way.way, self.edges)

    def result(self, v: int, exact: bool, names: tuple[Any, ...], label: str, kind: str) -> Permutations:
        """P values by what was counted."""

        def spread(own: Any, value: float = np.nan) -> np.ndarray:
            out = np.full(v, value)
            out[self.usable] = own
            return out

        maxima = np.concatenate(self.maxima)
        bad = np.isnan(self.first)
        below = np.searchsorted(np.sort(maxima), self.least, side="left")
        p_max = np.where(bad, np.nan, (self.total - below) / self.total)
        p = np.where(bad, np.nan, self.reached / self.total)
        clusters = None if self.threshold is None else self._result_of_clusters()
        status = spread(self.status, Status.BAD_RESPONSE).astype(int)
        return Permutations(spread(self.first), spread(p), spread(p_max), maxima, exact, status,
                            spread(self.lost, 0).astype(int), clusters, names, label, kind)  # fmt: skip

    def _result_of_clusters(self) -> ClusterMasses:
        heaviest = np.concatenate(self.heaviest)
        found, first = np.unique(self.label[self.mass > 0], return_index=True)
        mass = self.mass[self.mass > 0][first]
        order = np.argsort(-mass, kind="stable")
        number = np.full(int(self.label.max(initial=0)) + 1, -1)
        number[found[order]] = np.arange(len(order))
        mass = mass[order]
        below = np.searchsorted(np.sort(heaviest), mass * (1.0 - TIED), side="left")
        assert self.threshold is not None
        label = np.where(self.mass > 0, number[self.label], -1)
        return ClusterMasses(float(self.threshold), label, mass, (len(heaviest) - below) / len(heaviest), heaviest)
