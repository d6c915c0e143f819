"""Likelihoods without a maximum, told from searches that have failed (NumPy).

Where a run has not converged, either V is singular there for all that 64-bit floats can tell, and the likelihood rises
as it becomes more so: log|V| falls without end by every contrast that V gives no variance and that is zero in y. Or a
parameter that is open, such as a range, has left for infinity, where the likelihood has its limit.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..covariance.kinds import PositiveKind
from ..likelihood.model import Model
from ..likelihood.prepared import Prepared
from .newton import Status
from .objective import Spec, loglik_at

RIDGE = 1e-6  # part of the residual variances that is added to them
DROP = 0.5  # change of the log-likelihood by that, or by rounding, from which on V counts as singular
RUNAWAY = 4.0  # change of the logarithm of an open parameter that has left
EDGE = 0.03  # distance from the boundary, in the coordinates of the solver, of what is named


def unfinished(status: Any) -> np.ndarray:
    """Whether runs have ended without an optimum that can be told (b,)."""
    return np.isin(status, (Status.STALLED, Status.MAX_ITERATIONS))


def lost(status: Any) -> np.ndarray:
    """Whether runs have ended without an optimum, or where there seems to be none (b,)."""
    return unfinished(status) | np.isin(status, Status.NO_MAXIMUM)


def logliks(spec: Spec, prepared: Prepared, theta: Any) -> Any:
    """Log-likelihood at theta, and with residual variances that are larger by `RIDGE`, and by a hundred times (3,)."""
    return jax.lax.map(lambda ridge: loglik_at(spec, prepared, theta, ridge), jnp.array([0.0, RIDGE, 100.0 * RIDGE]))


def without_maximum(spec: Spec, x: np.ndarray, start: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Whether the likelihood of runs that are `unfinished` has no maximum (b,).

    Parameters
    ----------
    x, start : (b, k) where they have ended and begun
    found : (b, 4) `logliks` where they have ended, and what it was in the coordinates of the solver
    """
    ranges = np.array([isinstance(kind, PositiveKind) for kind, _ in spec.kinds], bool)
    left = np.any(np.abs(x - start)[:, ranges] > RUNAWAY, -1)
    singular = ~np.all(np.abs(found[:, [1, 3]] - found[:, :1]) < DROP, -1)
    # it has a limit where X takes what V leaves out; else it rises by log(10) / 2 for every tenth of what is added
    return left | (singular & ~(found[:, 1] - found[:, 2] < DROP))


def along(model: Model, method: str, theta: np.ndarray) -> list[tuple[int, int]]:
    """The part, and the place among its coordinates, of all that theta (m,) has near an end of its space."""
    spec = Spec.of(model, method).absolute
    s, start = spec.map("public_to_solver", theta), spec.start(model.coords)
    s = s / np.std(model.y) ** spec.degrees
    gone = spec.map("snapped", s, EDGE) != s
    ranges = np.array([isinstance(kind, PositiveKind) for kind, _ in spec.kinds], bool)
    gone |= ranges & (np.abs(s - start) > RUNAWAY)
    parts = np.array([part for _, part in spec.kinds])
    return [(part, i - int(np.argmax(parts == part))) for i, part in enumerate(parts) if gone[i]]
