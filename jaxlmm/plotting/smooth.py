"""A local-linear smoother: straight lines fitted to the nearest points, with weights that fall off with distance.

Cleveland (1979, JASA 74:829), without the iterations that make it robust: outliers are to be seen.
"""

from __future__ import annotations

import numpy as np

SPAN = 0.75  # part of the points that a line is fitted to


def local_linear(x: np.ndarray, y: np.ndarray, at: np.ndarray, span: float = SPAN) -> np.ndarray:
    """The smooth of y (n,) over x (n,) at places (m,); NaN beyond the range of x.

    Each value is that of a weighted least-squares line, with weights ``(1 - (d / h)^3)^3`` for the distance d and the
    distance h of the nearest ``span * n`` points.
    """
    x, y, at = (np.asarray(a, np.float64) for a in (x, y, at))
    n = len(x)
    width = np.ptp(x)
    if n < 2 or width == 0:
        return np.where((at >= x.min()) & (at <= x.max()), y.mean(), np.nan)
    near = int(np.clip(np.ceil(span * n), 2, n))
    out = np.full(len(at), np.nan)
    for i, place in enumerate(at):
        if not x.min() - 1e-12 * width <= place <= x.max() + 1e-12 * width:
            continue
        d = x - place
        size = np.abs(d)
        h = max(np.partition(size, near - 1)[near - 1] * (1 + 1e-9), 1e-9 * width)
        w = np.clip(1.0 - (size / h) ** 3, 0.0, None) ** 3
        total, first, second = w.sum(), w @ d, w @ d**2
        spread = second - first**2 / total
        slope = 0.0 if spread <= 1e-12 * width**2 * total else (w @ (d * y) - first * (w @ y) / total) / spread
        out[i] = (w @ y - slope * first) / total
    return out
