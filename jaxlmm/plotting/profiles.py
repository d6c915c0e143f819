"""Profiles as pictures: zeta against each quantity, and pairs of quantities with traces and contours.

A curve of zeta is a straight line where a Wald interval is as good. Pairs are those of Bates & Watts (1988, Nonlinear
Regression Analysis, section 6.1.3 and appendix 6): on the scale of zeta the trace of quantity j along the profile of
quantity i, and that of i along j, touch the contour of height t at ``zeta_i = +-t`` and ``zeta_j = +-t``. With
``zeta_i = t cos(a + d/2)``, ``zeta_j = t cos(a - d/2)`` these are four points of the phase d as a function of the angle
a, which are joined by a periodic cubic spline. The contour is exact where the traces touch it, and for a quadratic
likelihood everywhere; no further model is fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..distributions import check_level, t_quantile, two_sided
from ..errors import DataError
from . import canvas

NUMBER = 181  # points of a contour
TURN = 2.0 * np.pi


class Profiles(Protocol):
    """What is drawn, see `jaxlmm.inference.profiles.profile.Profile`."""

    @property
    def curves(self) -> tuple[DrawnCurve, ...]:
        """The profiles."""
        ...

    def trace(self, i: int, j: int) -> np.ndarray:
        """Zeta of quantity j at the nodes of the profile of quantity i."""
        ...


def joint_height(level: float) -> float:
    """The root of the quantile of chi-squared with 2 degrees of freedom."""
    return float(np.sqrt(-2.0 * np.log1p(-check_level(level))))


def contour(
    height: float, along: tuple[np.ndarray, np.ndarray], across: tuple[np.ndarray, np.ndarray]
) -> np.ndarray | None:  # fmt: skip
    """The contour (m, 2) of a height on the scale of zeta, NaN beyond the ends of profiles; None where none is known.

    Where a profile ends at the bound of the parameter space below the height, its trace has no point to touch and the
    spline goes through the others: the contour is cut at the bound.

    Parameters
    ----------
    along : zeta_i of the nodes of profile i, and zeta_j there
    across : zeta_j of the nodes of profile j, and zeta_i there
    """
    from scipy.interpolate import CubicSpline

    angles, phases = [], []
    for first_is_own, (z, trace) in ((True, along), (False, across)):
        known = np.isfinite(trace)
        for side in (1.0, -1.0):
            if known.sum() < 3 or not z[known][0] - 1e-6 <= side * height <= z[known][-1] + 1e-6:
                continue
            ratio = CubicSpline(z[known], trace[known])(side * height) / height
            u, v = 0.0 if side > 0 else np.pi, float(np.arccos(np.clip(ratio, -1.0, 1.0)))
            first, second = (u, v) if first_is_own else (v, u)
            a, d = 0.5 * (first + second), first - second
            angles.append(a if d >= 0 else -a)
            phases.append(abs(d))
    if len(angles) < 2:
        return None
    angle = np.mod(angles, TURN)
    order = np.argsort(angle, kind="stable")
    angle, gap = angle[order], np.array(phases)[order]
    apart = np.append(True, np.diff(angle) > 1e-9)
    angle, gap = angle[apart], gap[apart]
    phase = CubicSpline(np.append(angle, angle[0] + TURN), np.append(gap, gap[0]), bc_type="periodic")
    t = np.linspace(0.0, TURN, NUMBER)
    half = 0.5 * phase(t)
    points = height * np.column_stack([np.cos(t + half), np.cos(t - half)])
    for k, (z, _) in enumerate((along, across)):
        points = _cut(points, k, float(z[0]), float(z[-1]))
    return points


def _cut(points: np.ndarray, k: int, low: float, high: float) -> np.ndarray:
    """A line whose coordinate k stays within limits: NaN beyond, where it is cut on the limits themselves."""
    for limit, sign in ((low, 1.0), (high, -1.0)):
        out = sign * (points[:, k] - limit) < -1e-6
        new = np.where(out[:, None], np.nan, points)
        for i in np.flatnonzero(out[1:] != out[:-1]):
            inside, outside = (i + 1, i) if out[i] else (i, i + 1)
            part = (limit - points[inside, k]) / (points[outside, k] - points[inside, k])
            new[outside] = points[inside] + part * (points[outside] - points[inside])
        points = new
    return points


def plot_pairs(profile: Profiles, levels: Sequence[float]) -> np.ndarray:
    """A square of panels (q, q); see ``FitPlots.profile_pairs``."""
    curves = profile.curves
    if len(curves) < 2:
        raise DataError("which: expected at least two quantities for pairs, found one; fit.plot.profile draws it")
    if len({curve.criterion for curve in curves}) > 1:
        raise DataError(
            "which: coefficients have no REML likelihood, and a pair needs one criterion; choose 'coef' or "
            "'covariance', or fit with method='ML'"
        )
    heights = [joint_height(level) for level in levels]
    q = len(curves)
    size = float(np.clip(9.0 / q, 1.4, 2.4))
    axes = canvas.panels(q * q, None, q, size, size).reshape(q, q)
    goal = float(t_quantile(0.975, np.inf))
    traces = {(i, j): profile.trace(i, j) for i in range(q) for j in range(q) if i != j}
    for i in range(q):
        for j in range(q):
            ax = axes[i, j]
            if i == j:
                draw_zeta(ax, curves[i], 0.95, goal)
            else:
                _draw_pair(ax, curves, traces, (j, i), heights, natural=i > j)
            canvas.label(ax)
            ax.tick_params(labelsize=canvas.TICK - 2)
            ax.locator_params(nbins=4)
    for i, curve in enumerate(curves):
        name = canvas.wrapped(curve.name, int(9.0 * size))
        axes[i, i].set_title(name, fontsize=canvas.TICK - 1)
        axes[i, 0].set_ylabel(name if i else "zeta", fontsize=canvas.TICK - 1)
        axes[-1, i].set_xlabel(name, fontsize=canvas.TICK - 1)
    return axes


def _draw_pair(
    ax: Any, curves: Sequence[DrawnCurve], traces: dict[tuple[int, int], np.ndarray], pair: tuple[int, int],
    heights: Sequence[float], natural: bool,
) -> None:  # fmt: skip
    """Contours and traces of a pair, across and up; on the scale of the quantities or of zeta."""
    i, j = pair
    along, across = (curves[i].zeta, traces[i, j]), (curves[j].zeta, traces[j, i])
    most = max(heights)

    def place(zeta: np.ndarray, k: int) -> np.ndarray:
        if not natural:
            return zeta
        low, high = curves[k].zeta[[0, -1]]
        return np.array([curves[k].value_at(z) if low - 1e-6 <= z <= high + 1e-6 else np.nan for z in zeta])

    for height in heights:
        points = contour(height, along, across)
        if points is not None:
            ax.plot(place(points[:, 0], i), place(points[:, 1], j), color=canvas.INK, linewidth=0.9)
    for (own, other), style, turned in ((along, "-", False), (across, "--", True)):
        inside = np.abs(own) <= most
        x, y = (other, own) if turned else (own, other)
        ax.plot(place(x[inside], i), place(y[inside], j), color=canvas.ACCENT, linewidth=1.1, linestyle=style)
    if not natural:
        ax.set_xlim(-1.1 * most, 1.1 * most)
        ax.set_ylim(-1.1 * most, 1.1 * most)


POINTS = 121


class DrawnCurve(Protocol):
    """What is drawn of a profile, see `jaxlmm.inference.profiles.profile.Curve`."""

    @property
    def name(self) -> str:
        """The quantity."""
        ...

    @property
    def criterion(self) -> str:
        """Of which likelihood it is, "REML" or "ML"."""
        ...

    @property
    def estimate(self) -> float:
        """Where zeta is zero."""
        ...

    @property
    def zeta(self) -> np.ndarray:
        """Signed root deviances of the nodes, ascending."""
        ...

    def value_at(self, zeta: float) -> float:
        """The value at which the signed root deviance is `zeta`."""
        ...

    def interval(self, level: float = ...) -> tuple[float, float]:
        """Confidence limits."""
        ...


def plot_zeta(curves: Sequence[DrawnCurve], level: float = 0.95, ax: Any = None) -> Any:
    """A panel for each profile: zeta against the quantity, its interval of one level marked; see ``Profile.plot``."""
    goal = float(two_sided(level, np.inf))
    axes = canvas.panels(len(curves), ax, canvas.COLUMNS, 3.2, 2.7)
    for i, (axis, curve) in enumerate(zip(axes, curves, strict=True)):
        draw_zeta(axis, curve, level, goal)
        canvas.label(axis, curve.name, "zeta" if i % canvas.COLUMNS == 0 else "")
    return canvas.squeezed(axes)


def draw_zeta(ax: Any, curve: DrawnCurve, level: float, goal: float) -> None:
    """The curve, zero, and the limits of the interval, joined to the zeta that they belong to."""
    zeta = np.linspace(curve.zeta[0], curve.zeta[-1], POINTS)
    canvas.zero(ax)
    ax.plot([curve.value_at(z) for z in zeta], zeta, color=canvas.INK, linewidth=1.4)
    for limit, side in zip(curve.interval(level), (-1, 1), strict=True):
        if np.isfinite(limit):
            end = float(np.clip(side * goal, curve.zeta[0], curve.zeta[-1]))  # a bound may come before
            ax.plot([limit, limit], [0.0, end], color=canvas.ACCENT, linestyle="--", linewidth=1.1)
            ax.plot([limit], [0.0], color=canvas.ACCENT, marker="|", markersize=8, markeredgewidth=1.5)
    if np.isfinite(curve.estimate):
        ax.plot([curve.estimate], [0.0], color=canvas.INK, marker="o", markersize=4)
