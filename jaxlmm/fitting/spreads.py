"""Units and start values of a residual structure whose levels, strata or arms differ much in size (NumPy).

Endpoints 1e6 apart are 1e12 apart in curvature, of which a common unit leaves the solver no digits, and a ratio of
their standard deviations that starts at one is far from its value.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..covariance.kinds import CovarianceMatrixKind, PositiveKind, VarianceKind
from ..likelihood.model import Model, block_at
from ..likelihood.parts import Term
from ..likelihood.prepared import Basis, turned, weighted
from ..linalg import tril_indices
from ..runtime.programs import compiled
from ..tolerances import FITTED_BY_X
from .objective import Spec

APART = 1e4  # ratio of standard deviations of places above which each has a unit of its own
STEPS = 6  # by which variances are matched; one is enough where their logarithms are linear in those of parameters


def in_own_units(
    spec: Spec, statistics: Any, places: Any, s: np.ndarray, scale: np.ndarray, basis: Basis | None = None,
    model: Model | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Start values and sizes (..., k) of the solver coordinates, from those (..., k) in one unit.

    Where the spread of what X leaves of y differs much between the `places` of the residual, as in `Prepared.coords`,
    its variances start at this spread, which is their own unit; with `basis` and `model`, whose rows these are, random
    effects are as large as the residuals of their own rows, the precise ones counting most.
    """
    if spec.profiled or not spec.parts[-1][0].size(spec.parts[-1][1]):
        return s, scale
    found = statistics.place_squares((spec.parts[-1][1],) if places is None else places.shape[:2])
    if found is not None:
        squares, rows = found
        axes = tuple(range(-1 if places is None else -2, 0))
        seen = (rows > 0) & (squares > FITTED_BY_X**2 * np.max(squares, axes, keepdims=True))  # more than rounding
        spread = squares / np.where(seen, rows, 1.0)
        highest = np.max(spread, axes, where=seen, initial=0.0)
        lowest = np.min(spread, axes, where=seen, initial=np.inf)
        lanes = np.argwhere(highest > APART**2 * lowest)
        if len(lanes):
            s, scale = (np.array(np.broadcast_to(x, (*highest.shape, x.shape[-1]))) for x in (s, scale))
            count, size = np.broadcast_to(np.where(seen, rows, 0.0), spread.shape), spec.parts[-1][0].size
            begin = s.shape[-1] - size(spec.parts[-1][1])
            for lane in map(tuple, lanes):
                own = (*lane, slice(begin, None))
                known = spread[lane].ravel(), count[lane].ravel()
                s[own], scale[own], fitted = _matched(spec, places, s[own], scale[own], *known)
                if fitted is not None and model is not None and basis is not None:
                    scale[(*lane, slice(begin))] = _of_effects(spec, basis, model, fitted)
    return _at_moments(spec, statistics, s, scale), scale


def _matched(
    spec: Spec, places: Any, s: np.ndarray, scale: np.ndarray, spread: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:  # fmt: skip
    """Start values and sizes (k,) of the residual's coordinates for variances (m,) at its places, and what they give.

    None for the latter, and what was given, where these are not `APART` after all.
    """
    structure, dim = spec.parts[-1]
    kinds = structure.kinds(dim)
    ranked = np.array([getattr(kind, "rank", None) is not None for kind in kinds], bool)
    variances = np.array([isinstance(kind, VarianceKind) for kind in kinds], bool)
    matrices = np.array([isinstance(kind, CovarianceMatrixKind) for kind in kinds], bool)
    logarithms = np.array([isinstance(kind, PositiveKind) for kind in kinds], bool)
    x, weight = np.where(ranked, 0.0, s * scale), np.sqrt(rows)
    target = np.log(np.where(rows > 0, spread, 1.0))
    for _ in range(STEPS):
        v, first, _ = map(np.asarray, _variances(spec, places, x))
        slopes = first / v[:, None] * np.where(logarithms, 1.0, np.where(variances | matrices, x, 0.0))
        step = np.linalg.lstsq(weight[:, None] * slopes, weight * (target - np.log(v)))[0]
        x = np.where(logarithms, x + step, x * np.exp(step))
    v, _, second = map(np.asarray, _variances(spec, places, x))
    seen = v[rows > 0]
    if not (np.all(np.isfinite(x)) and np.all(seen > 0) and seen.max() > APART**2 * seen.min()):
        return s, scale, None
    bent = np.max(second[rows > 0] / seen[:, None], 0)
    unit = np.where(
        variances, abs(x), np.where(matrices & (bent > 0), np.sqrt(2.0 / np.where(bent > 0, bent, 1.0)), scale)
    )
    return np.where(ranked, s, x / unit), unit, v


def _of_effects(spec: Spec, basis: Basis, model: Model, variances: np.ndarray) -> np.ndarray:
    """Sizes of the coordinates of random effects, for residual variances (m,) by place."""
    own, n, sizes = model.residual, len(model.y), [np.zeros(0)]
    place = own.position if own.coords is None else own.sets[own.group] * own.coords.shape[1] + own.position
    precise = 1.0 / variances[place]
    for part, K, unit, (structure, dim) in zip(model.random, basis.K, basis.units, spec.parts, strict=False):
        z = np.ones((n, 1))
        if isinstance(part, Term):
            z = turned(part.Z, K)
        elif part.coords is None and part.position is not None:
            z = 1.0 * (part.position[:, None] == np.arange(dim))
        square = weighted(model, z) ** 2
        seen = np.sum(square, 0)
        sd = np.sqrt(np.where(seen > 0, seen, 1.0) / np.where(seen > 0, precise @ square, 1.0))
        sizes.append(structure.unit_sizes(dim, unit * sd) if len(sd) > 1 else structure.unit_sizes(dim, unit, sd))
    return np.concatenate(sizes)


@compiled()
def _variances(spec: Spec, places: Any, x: Array) -> tuple[Array, Array, Array]:
    """Variances (m,) at the places of the residual, and first and second derivatives (m, k) in its coordinates."""
    structure, dim = spec.parts[-1]

    def of(x: Array) -> Array:
        block = block_at(structure.from_solver(x, dim), dim, places)
        return jnp.ravel(jnp.diagonal(block, axis1=-2, axis2=-1))

    def along(direction: Array) -> tuple[Array, Array]:
        def slope(x: Array) -> Array:
            return jax.jvp(of, (x,), (direction,))[1]

        return jax.jvp(slope, (x,), (direction,))

    first, second = jax.vmap(along, out_axes=1)(jnp.eye(len(x)))
    return of(x), first, second


def _at_moments(spec: Spec, statistics: Any, s: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Start coordinates s (..., k), those of an unstructured residual replaced by moments of y less what X explains.

    Halves the evaluations of a model with many visits. Eigenvalues of their correlations below a hundredth of the
    largest are raised to it: moments over the subjects that have both visits need not be positive definite.
    """
    if spec.profiled or not spec.parts[-1][0].is_matrix:
        return s
    moments = statistics.level_moments()
    if moments is None or not np.all(np.isfinite(moments)):
        return s
    d = np.sqrt(np.diagonal(moments, axis1=-2, axis2=-1))
    d = np.where(d > 0, d, np.max(d, -1, keepdims=True))  # a visit that is fitted exactly
    w, Q = np.linalg.eigh(moments / (d[..., :, None] * d[..., None, :]))
    w = np.maximum(w, 1e-2 * w[..., -1:])
    rows, columns = tril_indices(moments.shape[-1])
    L = d[..., :, None] * np.linalg.cholesky((Q * w[..., None, :]) @ np.swapaxes(Q, -1, -2))
    L = L[..., rows, columns]
    begin = s.shape[-1] - L.shape[-1]
    lead = np.broadcast_shapes(s.shape[:-1], L.shape[:-1])
    s, scale = (np.broadcast_to(x, (*lead, x.shape[-1])) for x in (s, scale))
    return np.concatenate([s[..., :begin], np.broadcast_to(L, (*lead, L.shape[-1])) / scale[..., begin:]], -1)
