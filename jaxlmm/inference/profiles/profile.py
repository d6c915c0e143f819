"""Profile likelihood: curves of the signed root deviance, and intervals from it.

``zeta(psi) = sign(psi - psi_hat) sqrt(d(psi) - d_hat)``, d(psi) being the smallest -2 (restricted) log-likelihood with
the quantity of interest held at psi, is compared with a standard normal (Bates & Watts 1988, chapter 6). Coefficients
are profiled by the ML criterion, covariance parameters and functions by that of the fit.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...distributions import two_sided
from ...errors import DataError
from ...estimates.fitted import FitBase
from ...frames.columns import make_frame
from ...frames.tables import Shown, Table, format_column
from ...runtime.precision import float64
from ..delta import delta, natural
from ..identified import REASON, known_place
from ..local import may_be_flat
from .constrained import Branch, CurvePoint, center_of, follow, minimum_on
from .joint import Joint, moved
from .targets import ProfileTarget, Which, coefficients, function_target, request, select

SPACING = 0.5  # of zeta between the nodes of a curve
USUAL = (0.5, 0.8, 0.9, 0.95, 0.99)  # levels at whose limits a curve has nodes
BETTER = 1e-6  # fall of the criterion along a profile that says that the estimate is not its minimum


@dataclass(frozen=True, eq=False)
class Curve:
    """The profile of one quantity.

    Attributes
    ----------
    name : of the quantity;  criterion : "REML" or "ML";  estimate : its value at the maximum of that criterion
    value, zeta : (m,) nodes, ascending;  lower_end, upper_end : how the curve ends: "" (it goes on), "bound" (at the
        end of the parameter space), "extreme" (of a function) or "open" (the profile is flat from there)
    """

    name: str
    criterion: str
    estimate: float
    value: np.ndarray
    zeta: np.ndarray
    lower_end: str
    upper_end: str
    _target: ProfileTarget = field(repr=False)
    _psi: np.ndarray = field(repr=False)
    _slope: np.ndarray = field(repr=False)
    _z: np.ndarray = field(repr=False)  # (m, ...) coordinates of the nodes in the chart of the target

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Limits; the end of the parameter space where zeta does not get that far, NaN where the curve was cut off."""
        goal = _normal_quantile(level)
        return self._limit(-goal), self._limit(goal)

    def _limit(self, goal: float) -> float:
        upper = goal > 0
        end, last = (self.upper_end, -1) if upper else (self.lower_end, 0)
        if abs(goal) <= abs(self.zeta[last]) + 1e-6:
            return self.value_at(goal)
        if end == "extreme":
            return float(self.value[last])
        return self._target.limits[upper] if end else np.nan

    def value_at(self, zeta: float) -> float:
        """The value at which the signed root deviance is `zeta`, between the ends of the curve."""
        with float64():
            return self._target.shown(self._psi_at(zeta))

    def _psi_at(self, goal: float) -> float:
        """Where zeta is `goal`, by cubic Hermite interpolation between the nodes with their exact slopes."""
        i = int(np.clip(np.searchsorted(self.zeta, goal), 1, len(self.zeta) - 1))
        if abs(goal - self.zeta[i]) < 1e-6 or abs(goal - self.zeta[i - 1]) < 1e-6:
            return float(self._psi[i] if abs(goal - self.zeta[i]) < 1e-6 else self._psi[i - 1])
        (a, b), (za, zb) = self._psi[i - 1 : i + 1], self.zeta[i - 1 : i + 1]
        sa, sb = self._slope[i - 1 : i + 1] * (b - a)
        cubic = np.array([2 * za - 2 * zb + sa + sb, -3 * za + 3 * zb - 2 * sa - sb, sa, za - goal])
        roots = np.roots(cubic)
        inside = roots[(abs(roots.imag) < 1e-9) & (roots.real > -1e-9) & (roots.real < 1 + 1e-9)].real
        t = inside[0] if len(inside) else (goal - za) / (zb - za)
        return float(a + t * (b - a))

    def _zeta_at(self, psi: float) -> float:
        """Zeta at psi, by the same interpolation; NaN beyond the ends."""
        gap = 1e-9 * (self._psi[-1] - self._psi[0])
        if not self._psi[0] - gap <= psi <= self._psi[-1] + gap:
            return np.nan
        i = int(np.clip(np.searchsorted(self._psi, psi), 1, len(self._psi) - 1))
        (a, b), (za, zb) = self._psi[i - 1 : i + 1], self.zeta[i - 1 : i + 1]
        sa, sb = self._slope[i - 1 : i + 1] * (b - a)
        t = float(np.clip((psi - a) / (b - a), 0.0, 1.0))
        return float(((2 * za - 2 * zb + sa + sb) * t + (-3 * za + 3 * zb - 2 * sa - sb)) * t**2 + sa * t + za)


@dataclass(frozen=True, eq=False, repr=False)
class Profile(Shown):
    """Profiles of several quantities, see `Curve`; ``profile["sigma"]`` is one of them."""

    curves: tuple[Curve, ...]
    kind: str = field(repr=False)
    _joint: Joint = field(repr=False)
    note: str = ""

    def __getitem__(self, name: str) -> Curve:
        for curve in self.curves:
            if curve.name == name:
                return curve
        raise DataError(f"profile: found {name!r}, expected one of {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the quantities."""
        return tuple(curve.name for curve in self.curves)

    def intervals(self, level: float = 0.95) -> np.ndarray:
        """Confidence limits (m, 2)."""
        return np.array([curve.interval(level) for curve in self.curves]).reshape(-1, 2)

    def confint(self, level: float = 0.95) -> Any:
        """A frame: term, estimate, lower, upper; NaN limits beyond the `level` that was profiled."""
        limits = self.intervals(level)
        columns: dict[str, Any] = {"term": list(self.names), "estimate": [c.estimate for c in self.curves]}
        return make_frame(self.kind, {**columns, "lower": limits[:, 0], "upper": limits[:, 1]})

    def frame(self) -> Any:
        """The nodes of all curves: term, criterion, value, zeta."""
        columns: dict[str, list[Any]] = {"term": [], "criterion": [], "value": [], "zeta": []}
        for curve in self.curves:
            count = len(curve.value)
            values: tuple[Any, ...] = ([curve.name] * count, [curve.criterion] * count, curve.value, curve.zeta)
            for name, x in zip(columns, values, strict=True):
                columns[name] += list(x)
        return make_frame(self.kind, columns)

    if TYPE_CHECKING:  # hung on by `jaxlmm.results`

        def plot(self, level: float = 0.95) -> Any:  # noqa: D102
            ...

    def trace(self, i: int, j: int) -> np.ndarray:
        """Signed root deviance (m,) of quantity j at the nodes of the profile of quantity i, along which it moves.

        NaN where quantity j is beyond the ends of its own profile. Both are by the same criterion.
        """
        own, other = self.curves[i], self.curves[j]
        with float64():
            places = [moved(self._joint.spec, z, own._target.chart, other._target.chart) for z in own._z]
            return np.array([other._zeta_at(other._target.function(z).value) for z in places])

    def table(self) -> Table:
        """Estimates and limits of 95 % intervals."""
        limits = self.intervals()
        numbers = [format_column([c.estimate, *x], 6) for c, x in zip(self.curves, limits, strict=True)]
        rows = tuple((c.name, c.criterion, *cells) for c, cells in zip(self.curves, numbers, strict=True))
        return Table(
            "Profile likelihood:", ("", "Criterion", "Estimate", "2.5 %", "97.5 %"), rows, labels=2, note=self.note
        )


def _normal_quantile(level: float) -> float:
    return float(two_sided(level, np.inf))


def profiled(fit: FitBase, which: Which) -> tuple[Joint, list[ProfileTarget]]:
    """The quantities that `which` names."""
    joint, wanted = Joint(fit.model, fit.estimate, fit.method), request(which)
    if isinstance(wanted, Mapping):
        return joint, [function_target(joint, name, f, fit.method) for name, f in wanted.items()]
    coefs, found = select(joint, fit, wanted)
    return joint, found + (list(coefficients(joint, fit.coef_names, coefs)) if coefs else [])


def curve_of(joint: Joint, target: ProfileTarget, goals: np.ndarray, known: bool = True) -> Curve:
    """The profile of one target with nodes at the given values of zeta, ascending and positive; if it is `known`."""
    evaluate = joint.evaluator(target.chart, target.criterion)
    at = target.function(target.z)
    low, high = target.bounds
    if not known:
        nan, zeros, nowhere = np.full(2, np.nan), np.zeros(2), np.full((2, len(target.z)), np.nan)
        return Curve(target.name, target.criterion, np.nan, nan, zeros, "", "", target, nan, zeros, nowhere)
    if not np.isfinite(at.value) or not np.all(np.isfinite(at.gradient)):  # a correlation beside a variance of zero
        both, psi = np.array(target.limits), np.array(target.bounds)
        zeros, nowhere = np.zeros(2), np.full((2, len(target.z)), np.nan)
        return Curve(target.name, target.criterion, np.nan, both, zeros, "bound", "bound", target, psi, zeros, nowhere)
    center = center_of(evaluate(target.z), at)
    goals, is_cut = _cut(joint, target, center, goals)
    down, up = (follow(evaluate, target.function, center, side, goals, b) for side, b in ((-1, low), (1, high)))
    _warn(target, center, down, up)
    ends = [
        ("open" if is_cut else "") if end in ("", "extreme") and target.needs else end for end in (down.end, up.end)
    ]
    nodes = [*reversed(down.nodes), *up.nodes[1:]]
    psi = np.array([node.psi for node in nodes])
    zeta = np.array([np.sign(node.psi - center.psi) * node.zeta for node in nodes])
    slope = np.array([node.slope for node in nodes])
    value = np.array([target.shown(p) for p in psi])
    estimate = target.shown(center.psi)
    z = np.array([node.z for node in nodes])
    return Curve(target.name, target.criterion, estimate, value, zeta, ends[0], ends[1], target, psi, slope, z)


def _cut(joint: Joint, target: ProfileTarget, center: CurvePoint, goals: np.ndarray) -> tuple[np.ndarray, bool]:
    """The goals that are below the rise with a needed standard deviation of zero, and whether others were not."""
    most = np.inf
    for sd in target.needs:
        found = minimum_on(joint.evaluator(sd.chart, sd.criterion), sd.function, 0.0, sd.z, center.value)
        most = most if found is None else min(most, found.zeta)
    if goals[-1] <= most:
        return goals, False
    return np.append(goals[goals < 0.999 * most], max(0.999 * most, 1e-3)), True


def _warn(target: ProfileTarget, center: CurvePoint, *branches: Branch) -> None:
    lowest = min(node.value for branch in branches for node in branch.nodes)
    if lowest < center.value - BETTER:
        warnings.warn(
            f"{target.name}: the {target.criterion} criterion is lower along the profile (by "
            f"{center.value - lowest:.3g}) than at the estimate, which is a local optimum; start from other values",
            stacklevel=4,
        )


def profile(fit: FitBase, which: Which = None, level: float = 0.999) -> Profile:
    """Profile the likelihood of a fit, see ``Fit.profile``."""
    last = _normal_quantile(level)
    even = np.linspace(0.0, last, max(int(np.ceil(last / SPACING)), 1) + 1)[1:]
    usual = [_normal_quantile(x) for x in USUAL if x < level]
    return _profile(fit, which, np.unique([*even, *usual]))


def end_points(fit: FitBase, which: Which, level: float) -> Profile:
    """Profiles with no nodes but the estimates and the limits of intervals of one level."""
    return _profile(fit, which, np.array([_normal_quantile(level)]))


def _profile(fit: FitBase, which: Which, goals: np.ndarray) -> Profile:
    if not fit.converged:
        raise DataError(f"profile: the fit has no optimum to profile around ({fit.status})")
    with float64():
        joint, chosen = profiled(fit, which)
        known = _known(fit, which, chosen) if may_be_flat(fit) else [True] * len(chosen)
        curves = [curve_of(joint, target, goals, k) for target, k in zip(chosen, known, strict=True)]
        return Profile(tuple(curves), fit.frame.kind, joint, "" if all(known) else REASON)


def _known(fit: FitBase, which: Which, targets: list[ProfileTarget]) -> list[bool]:
    """Whether the data identify each of the targets."""
    wanted = request(which)
    if isinstance(wanted, Mapping):
        return [bool(np.isfinite(delta(fit, f).estimate).all()) for f in wanted.values()]
    at = natural(fit)
    return [known_place(at, target.place) for target in targets]
