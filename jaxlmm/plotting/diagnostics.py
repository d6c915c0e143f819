"""Four diagnostic panels of one fit, from one set of simulated data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import canvas
from .envelope import envelope, simulated
from .quantiles import draw_quantiles, sample
from .residuals import draw_trend, trend


def root_size(values: np.ndarray) -> np.ndarray:
    """Roots of absolute values, whose distribution is less skew than theirs."""
    return np.sqrt(np.abs(values))


def plot_diagnostics(fit: Any, kind: str, n: int, seed: int, level: float, ax: Any) -> np.ndarray:
    """See ``FitPlots.diagnostics``."""
    places, mean, _ = trend(fit, "fitted", kind, True)
    _, spread, _ = trend(fit, "fitted", kind, True, root_size)
    ordered, name = sample(fit, "residuals", None, kind, True)
    curves: list[Callable[[Any], np.ndarray]] = [mean, spread, ordered]
    groups = [g for g, found in fit.ranef().items() if len(found.levels) > 2] if fit.model.random else []
    text = ""
    if groups:
        effects, text = sample(fit, groups[0], None, kind, True)
        curves.append(effects)
    found = simulated(fit, n, seed, *curves)
    around = [envelope(x, level) for x in found] if n else [None] * len(curves)
    axes = canvas.panels(4, ax, 2, 4.0, 3.2)
    draw_trend(axes[0], fit, kind, True, None, places, mean(fit), around[0])
    draw_quantiles(axes[1], ordered(fit), name, around[2])
    draw_trend(axes[2], fit, kind, True, None, places, spread(fit), around[1], root_size,
               f"root of |{name}|")  # fmt: skip
    if groups:
        draw_quantiles(axes[3], effects(fit), text, around[3])
    else:
        _draw_observed(axes[3], fit)
    return axes


def _draw_observed(ax: Any, fit: Any) -> None:
    """The response against fitted values, where there are no random effects to look at."""
    x = fit.fitted
    ends = np.array([x.min(), x.max()])
    ax.plot(ends, ends, color=canvas.GREY, linewidth=1.0)
    canvas.points(ax, x, fit.model.y)
    canvas.label(ax, "fitted values", fit.frame.response)
