"""Whether a further run of the solver can still lead to anything but an optimum that is known.

Judged along the straight line between the covariances of the two points, on which the values at both ends and the
slopes there are known from their evaluations: nothing here depends on units or coordinates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .newton import Packing, State
from .objective import Spec

FAR = 8.0  # criterion at a start above that of an optimum, beyond which there is no other one, unless data say little
NEAR, NEARER = 4.0, 1.0  # the same, below which a run may be in the basin of the optimum; where data say little
# Slopes at both ends, relative to that of the chord: a cubic between them has no minimum of its own (Fritsch & Carlson
# 1980), and at the point itself, which may be next to another optimum, there is a clear way down.
LEAST, MOST = 0.3, 3.0
MODEL = 0.1  # error of the fall that the Newton model predicts, relative to that to the optimum, where data say little
CLOSE, ALIKE = 0.5, 0.2  # the same at sets of coordinates: of both models, in solver coordinates that are so close


class Basins:
    """What has to be known of optima, and where it is in the solver's packed points.

    Parts at sets of coordinates keep no covariances; where there are any, a run ends where the quadratic models of both
    points say the same of what is between them.
    """

    def __init__(self, spec: Spec, packing: Packing):
        sizes = [q * q for q in spec.sizes if q]
        begin, count = packing.aux_at, sum(sizes)
        self.blocks, self.slopes = slice(begin, begin + count), slice(begin + count, begin + 2 * count)
        self.value, self.says = packing.value_at, not any(spec.placed)
        self.packing, self.scales = packing, np.array([kind.has_scale for kind, _ in spec.kinds], bool)
        k = len(self.scales)
        self.size = 2 + (2 * count if self.says else k + k * k)

    def known(self, best: np.ndarray, optimal: np.ndarray, far: np.ndarray) -> np.ndarray:
        """What runs are compared with: packed points (b, size) that are `optimal` (b,), and from where none pays.

        Parameters
        ----------
        far : (b,) criterion above that of the optimum, at the start, beyond which a run ends; infinite where data say
            so little that there may be several optima
        """
        own = best[:, self.blocks], best[:, self.slopes]
        if not self.says:
            point = self.packing.unpack(best)
            own = point.x, point.hessian.reshape(len(best), -1)
        rows = np.concatenate([best[:, [self.value]], far[:, None], *own], -1)
        return np.where(optimal[:, None], rows, np.nan)

    def holds(self, known: Any, state: State, xp: Any) -> Any:
        """Whether a run may end because all that it can reach is a row of `known` (size,)."""
        if not self.says:
            return self._reaches(known, state, xp)
        value, best = known[0], state.best
        half = (self.size - 2) // 2
        way, slopes = known[2 : 2 + half] - best[self.blocks], known[2 + half :]
        fall, little = best[self.value] - value, xp.isinf(known[1])
        at = -xp.sum(way * best[self.slopes]) / fall
        end = -xp.sum(way * slopes) / fall
        inside = (fall > 0) & (fall < NEAR) & (at > LEAST) & (at < MOST) & (end > -LEAST) & (end < MOST)
        inside &= ~little | ((fall < NEARER) & (xp.abs(0.5 * state.decrement - fall) < MODEL * fall))
        return inside | ((state.iteration == 1) & (fall > known[1]))

    def _reaches(self, known: Any, state: State, xp: Any) -> Any:
        k = len(self.scales)
        x, value, _, _ = self.packing.derivatives(state.best)
        optimum, hessian = known[2 : 2 + k], known[2 + k :].reshape(k, k)
        way = xp.where(self.scales, xp.abs(x) - xp.abs(optimum), x - optimum)  # of sizes either sign is the same
        fall = value - known[0]
        near = (fall > 0) & (fall < NEARER) & (xp.max(xp.abs(way), initial=0.0) < CLOSE)
        same = xp.abs(0.5 * state.decrement - fall) < ALIKE * fall
        return near & same & (xp.abs(0.5 * way @ hessian @ way - fall) < ALIKE * fall)
