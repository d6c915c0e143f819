"""Likelihoods without a maximum, told from searches that have failed (NumPy).

Where a run has not converged, either V becomes singular there, for all that 64-bit floats can tell, and the likelihood
rises on the way: log|V| falls by every contrast that V gives no variance and that is zero in y, without end or, where
X'V^-1 X becomes as large, to a limit. Or a parameter that is open, such as a range, has left for infinity, where the
likelihood has its limit.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..covariance.kinds import PositiveKind
from ..likelihood.model import Model
from ..likelihood.prepared import Prepared
from .newton import Status
from .objective import Spec, coordinates, criterion_at

RIDGE = 1e-6  # part of the residual variances that is added to them
DROP = 0.5  # change of the log-likelihood by that, or by rounding, from which on V counts as singular
FALL = 1e-4  # the same between a point that has converged and a singular V beside it, where this is a limit only
RUNAWAY = 4.0  # change of the logarithm of an open parameter that has left
EDGE = 0.03  # distance from the boundary, in the coordinates of the solver, of what is named
NEAR = 3e-3  # the same, of what is put on it


def unfinished(status: Any) -> np.ndarray:
    """Whether runs have ended without an optimum that can be told (b,)."""
    return np.isin(status, (Status.STALLED, Status.MAX_ITERATIONS))


def doubtful(spec: Spec, status: Any, x: np.ndarray) -> np.ndarray:
    """Whether the likelihood of runs that have ended at x (b, k) may have no maximum (b,)."""
    near = np.any((spec.map("snapped", x, NEAR) != x) & _correlations(spec), -1)
    return unfinished(status) | (near & np.isin(status, Status.CONVERGED))


def _correlations(spec: Spec) -> np.ndarray:
    """Which coordinates (k,) are correlations of residuals, at whose ends V is singular."""
    last = len(spec.parts) - 1 + spec.profiled
    return np.array([i == last and not kind.has_scale for kind, i in spec.kinds], bool)


def lost(status: Any) -> np.ndarray:
    """Whether runs have ended without an optimum, or where there seems to be none (b,)."""
    return unfinished(status) | np.isin(status, Status.NO_MAXIMUM)


def logliks(spec: Spec, prepared: Prepared, theta: Array) -> Array:
    """Log-likelihoods (4,) at theta (m,), with a `RIDGE`, halfway to near ends, and at near ends of correlations."""
    absolute, basis = spec.absolute, prepared.basis
    s, unit = coordinates(absolute, prepared, theta, "solver"), basis.residual_sd**absolute.degrees
    ends = unit * absolute.map("snapped", s / unit, NEAR)
    points = [s, s, 0.5 * (s + ends), jnp.where(_correlations(absolute), ends, s)]

    def at(s: Array, ridge: Array) -> Array:
        C = absolute.blocks(s, prepared.coords)
        size = basis.residual_sd**2 if spec.independent else C.residual
        eye = jnp.eye(C.residual.shape[-1]).reshape((1,) * (C.residual.ndim - 2) + C.residual.shape[-2:])
        return -0.5 * criterion_at(absolute, prepared, C._replace(residual=C.residual + ridge * eye * size))[0]

    return jax.lax.map(lambda one: at(*one), (jnp.stack(points), jnp.array([0.0, RIDGE, 0.0, 0.0])))


def without_maximum(
    spec: Spec, status: Any, x: np.ndarray, start: np.ndarray, found: np.ndarray
) -> np.ndarray:  # fmt: skip
    """Whether the likelihood of runs that are `doubtful` has no maximum (b,).

    Parameters
    ----------
    status, x, start : (b,), (b, k), (b, k) how and where they have ended, and where begun
    found : (b, 5) `logliks` where they have ended, and what it was in the coordinates of the solver
    """
    ranges = np.array([isinstance(kind, PositiveKind) for kind, _ in spec.kinds], bool)
    left = np.any(np.abs(x - start)[:, ranges] > RUNAWAY, -1)
    here, with_ridge, halfway, end, packed = found.T
    noise = ~(abs(packed - here) < DROP)
    to_end = ~(abs(end - here) < DROP)
    singular = to_end | ~(abs(with_ridge - here) < DROP)
    open_ended = left | noise | (singular & ~(halfway < here - DROP))  # beside an optimum it falls
    return np.where(unfinished(status), open_ended, to_end & ~(halfway < here - FALL))


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
