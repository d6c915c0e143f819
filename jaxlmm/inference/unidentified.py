"""What moves along directions about which the data say nothing: coefficients, random effects, and their sums.

The likelihood is the same along these, but by REML the fixed effects need not be: where both an intercept of every
group and a slope with a covariance to it stand in a model, V says how much of the slope is the intercept's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..estimates.fitted import FitBase
from ..likelihood.blup import Blup, means
from ..likelihood.engines import Blocks
from ..likelihood.model import Model
from ..likelihood.prepared import Prepared, prepare
from ..pytrees import once
from ..runtime.precision import float64
from ..runtime.programs import compiled
from ..tolerances import INDEPENDENT
from .local import may_be_flat
from .uncertain import uncertain, values_at


class Unidentified(NamedTuple):
    """Changes along each of d directions.

    Attributes
    ----------
    along (d, k) : the directions, in the solver's coordinates
    coef (d, p), vcov (d, p, p) : of the coefficients and their covariance
    values : of the predicted effects of each random part (d, m, q)
    at : the coefficients' covariance (p, p) and the predicted effects, which they are changes of
    sd : standard deviation of what X leaves of y
    """

    along: np.ndarray
    coef: np.ndarray
    vcov: np.ndarray
    values: tuple[np.ndarray, ...]
    at: Blup
    sd: float

    def estimates(self, L: np.ndarray) -> np.ndarray:
        """Whether the estimates of hypotheses L (m, p) move (m,)."""
        se = np.sqrt(np.maximum(np.einsum("mi,ij,mj->m", L, self.at.vcov, L), 0.0))
        return np.max(np.abs(self.coef @ L.T), 0, initial=0.0) > INDEPENDENT * se

    def variances(self, L: np.ndarray) -> np.ndarray:
        """Whether the variances of hypotheses L (m, p) move (m,)."""
        variance = np.einsum("mi,ij,mj->m", L, self.at.vcov, L)
        change = np.einsum("mi,dij,mj->dm", L, self.vcov, L)
        return np.max(np.abs(change), 0, initial=0.0) > INDEPENDENT * np.abs(variance)

    def effects(self, part: int) -> np.ndarray:
        """Whether the predicted effects of a random part move (m, q)."""
        value = np.asarray(self.at.values[part])
        size = np.sqrt(np.mean(value**2, 0)) + INDEPENDENT * np.max(np.abs(self.values[part]), (0, 1), initial=0.0)
        return np.max(np.abs(self.values[part]), 0, initial=0.0) > INDEPENDENT * size

    def means(self, change: np.ndarray) -> np.ndarray:
        """Whether predictions with these changes (d, m) move (m,)."""
        return np.max(np.abs(change), 0, initial=0.0) > INDEPENDENT * self.sd


def unidentified(fit: FitBase) -> Unidentified | None:
    """What moves along the directions about which the data say nothing; None where there are none."""
    return once(fit, "unidentified", lambda: _unidentified(fit))


def _unidentified(fit: FitBase) -> Unidentified | None:
    if not may_be_flat(fit):
        return None
    at = uncertain(fit)
    directions = at.lost[:, np.any(at.lost != 0, 0)].T
    if not len(directions):
        return None
    with float64():
        prepared = prepare(fit.model, compact=False)
        run = [_along(at.spec, at.K, at.coords, at.x, v, fit.model, prepared) for v in directions]
    values = tuple(np.stack(each) for each in zip(*(change.values for _, change in run), strict=True))
    coef, vcov = (np.stack([np.asarray(getattr(change, name)) for _, change in run]) for name in ("coef", "vcov"))
    return Unidentified(directions, coef, vcov, values, jax.device_get(run[0][0]), float(prepared.basis.residual_sd))


@compiled()
def _along(spec: Any, K: Any, coords: Any, x: Array, v: Array, model: Model, prepared: Prepared) -> tuple[Blup, Blup]:
    """Coefficients and effects at coordinates x (k,), and their change along v."""

    def at(x: Array) -> Blup:
        blocks = values_at(spec, K, coords, x)[1]
        return means(Blocks(blocks[:-1], blocks[-1]), model, prepared)

    return jax.jvp(at, (jnp.asarray(x),), (jnp.asarray(v),))
