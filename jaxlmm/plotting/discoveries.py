"""Tests of thousands of responses in a picture: volcano, histogram and quantiles of p values."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import check_choice
from ..distributions import check_level
from ..errors import DataError
from ..inference.many.discoveries import qvalues
from . import canvas

SMALLEST = 1e-300  # p values below are drawn there


def tests_of(batch: Any, tests: Any) -> Any:
    """Tests by their key, as they are, or the first of the batch."""
    if tests is not None and not isinstance(tests, str):
        return tests
    if not batch.tests:
        raise DataError("plot: the batch has no tests; fit it with tests=jaxlmm.Tests(...)")
    key = next(iter(batch.tests)) if tests is None else tests
    check_choice("tests", key, batch.tests)
    return batch.tests[key]


def _column(tests: Any, hypothesis: int) -> tuple[np.ndarray, np.ndarray]:
    """Estimates and p values of the data sets with a test."""
    if not 0 <= hypothesis < tests.p.shape[1]:
        raise DataError(f"hypothesis: found {hypothesis}, expected 0 to {tests.p.shape[1] - 1}")
    p = tests.p[:, hypothesis]
    known = np.isfinite(p)
    if not known.any():
        raise DataError("plot: no data set has a test; their status says why")
    return tests.estimate[known, hypothesis], np.maximum(p[known], SMALLEST)


def plot_volcano(tests: Any, hypothesis: int, q: float, method: str, ax: Any) -> Any:
    """See ``BatchPlots.volcano``."""
    check_level(q, "q")
    estimate, p = _column(tests, hypothesis)
    called = qvalues(p, method) <= q
    ax = canvas.one_panel(ax, 4.8, 3.8)
    for here, color, name in ((~called, "0.75", None), (called, canvas.ACCENT, f"{int(called.sum())} with q <= {q:g}")):
        ax.plot(
            estimate[here], -np.log10(p[here]), ".", markersize=3, color=color, label=name, rasterized=len(p) > 5000
        )
    canvas.label(ax, "estimate", "-log10 p")
    canvas.legend(ax)
    return ax


def plot_p_values(tests: Any, hypothesis: int, ax: Any) -> np.ndarray:
    """See ``BatchPlots.p_values``."""
    _, p = _column(tests, hypothesis)
    axes = canvas.panels(2, ax, 2, 3.8, 3.0)
    axes[0].hist(p, np.linspace(0, 1, 21), color="0.75", edgecolor=canvas.INK, linewidth=0.8)
    axes[0].axhline(len(p) / 20, color=canvas.ACCENT, linewidth=1.0, linestyle="--")
    canvas.label(axes[0], "p", "data sets")
    expected = -np.log10((np.arange(len(p)) + 0.5) / len(p))
    axes[1].plot(expected, -np.log10(np.sort(p)), ".", markersize=3, color=canvas.INK, rasterized=len(p) > 5000)
    axes[1].plot([0, expected[0]], [0, expected[0]], color=canvas.ACCENT, linewidth=1.0, linestyle="--")
    canvas.label(axes[1], "-log10 p of true nulls", "-log10 p")
    return axes
