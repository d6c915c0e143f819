"""Pictures; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from .errors import DataError

COLUMNS = 3  # most panels side by side
POINTS = 121


class Curve(Protocol):
    """What is drawn of a profile, see `jaxlmm.inference.profile.Curve`."""

    @property
    def name(self) -> str:
        """The quantity."""
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


def plot_zeta(curves: Sequence[Curve], level: float = 0.95) -> Any:
    """A panel for each profile: zeta against the quantity, its interval of one level marked; see ``Profile.plot``.

    Returns
    -------
    matplotlib's Figure
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError("plot: needs matplotlib, which is not installed; pip install matplotlib") from error
    columns = min(len(curves), COLUMNS)
    rows = -(-len(curves) // columns) if columns else 0
    figure = Figure(figsize=(3.4 * max(columns, 1), 2.8 * max(rows, 1)), layout="constrained")
    for i, curve in enumerate(curves):
        axes = figure.add_subplot(rows, columns, i + 1)
        zeta = np.linspace(curve.zeta[0], curve.zeta[-1], POINTS)
        axes.plot([curve.value_at(z) for z in zeta], zeta, color="C0")
        axes.axhline(0.0, color="0.8", linewidth=0.8, zorder=0)
        for limit in curve.interval(level):
            if np.isfinite(limit):
                axes.axvline(limit, color="C1", linestyle="--", linewidth=1.0)
        axes.set_xlabel(curve.name)
        axes.set_ylabel("zeta" if i % columns == 0 else "")
    return figure
