"""Profiles as pictures: zeta against each quantity, a straight line where a Wald interval is as good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..distributions import check_level, t_quantile
from . import canvas

POINTS = 121


class Curve(Protocol):
    """What is drawn of a profile, see `jaxlmm.inference.profile.Curve`."""

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


def plot_zeta(curves: Sequence[Curve], level: float = 0.95, ax: Any = None, columns: int = canvas.COLUMNS) -> Any:
    """A panel for each profile: zeta against the quantity, its interval of one level marked; see ``Profile.plot``."""
    goal = float(t_quantile(0.5 * (1.0 + check_level(level)), np.inf))
    axes = canvas.panels(len(curves), ax, columns, 3.2, 2.7)
    for i, (axis, curve) in enumerate(zip(axes, curves, strict=True)):
        draw_zeta(axis, curve, level, goal)
        canvas.label(axis, curve.name, "zeta" if i % columns == 0 else "")
    return canvas.squeezed(axes)


def draw_zeta(ax: Any, curve: Curve, level: float, goal: float) -> None:
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
