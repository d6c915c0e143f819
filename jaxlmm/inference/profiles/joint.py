"""-2 log-likelihood of covariance parameters and coefficients together, for profiles.

With v = (-beta, 1), ``d = n log 2 pi + log|V| + v'[X y]'V^-1 [X y]v``, which REML penalises by ``log|X'V^-1 X|``: its
minimum over beta is the restricted criterion. One compiled function serves ML, REML, coefficients, covariance
parameters and functions of both. The coordinates are those of the solver, in which a variance of zero is an ordinary
point; a free covariance matrix is ``T L L' T'`` with any T, so that the first pivots of L can be the standard
deviation and the correlation of any two effects.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from ...errors import DataError
from ...fitting.newton import Packing, Point, Status, minimise
from ...fitting.objective import Spec, scale_of, second_order
from ...fitting.units import Estimate
from ...likelihood.criterion import LOG_2PI, solve_normal
from ...likelihood.engines import Blocks
from ...likelihood.model import Model
from ...likelihood.prepared import Prepared
from ...linalg import lower_from_vector, psd_cholesky, tril_indices
from ...runtime.programs import compiled_by_size
from ..local import prepared_for
from ..uncertain import Parameters, Uncertain

MAX_ITERATIONS = 100


class Chart(NamedTuple):
    """Coordinates z = (s, b): T (q, q) of each part that is a free matrix, else None; scale (k,) of the s of others."""

    T: tuple[Any, ...]
    scale: Any


class ProfileState(NamedTuple):
    """An estimate in no chart: of each part the covariance matrix (q, q) or scaled coordinates, and b (p,)."""

    parts: tuple[np.ndarray, ...]
    b: np.ndarray


def _turned(spec: Spec, coords: tuple[Any, ...], chart: Chart, s: Array) -> Blocks:
    """Covariance blocks at coordinates s (k,)."""
    C = spec.blocks(s * chart.scale, coords)
    pairs = zip((*C.random, C.residual), chart.T, strict=True)
    turned = [block if T is None else T @ block @ T.T for block, T in pairs]
    return Blocks(tuple(turned[:-1]), turned[-1])


def _evaluate(spec: Spec, prepared: Prepared, chart: Chart, reml: Array, z: Array) -> Array:
    """The criterion at z with exact gradient and Hessian, as a packed `Point`; `reml` is 0.0 or 1.0."""
    statistics, basis, coords = prepared
    p, sd = basis.R.shape[0], basis.residual_sd
    s, v = z[: len(z) - p], jnp.append(-sd * z[len(z) - p :], 1.0)
    blocks = partial(_turned, spec, coords, chart)

    def weigh(gram: Array) -> Array:
        return v[:, None] * v[None, :] + reml * jnp.pad(solve_normal(gram, basis.alias).Phi, ((0, 1), (0, 1)))

    _, found, gradient, curvature = second_order(statistics, blocks, s, weigh)
    normal = solve_normal(found.gram, basis.alias)
    penalty = normal.logdet + basis.logdet_scale() - basis.rank * LOG_2PI
    d = basis.n * LOG_2PI + found.logdet - basis.log_weights + v @ found.gram @ v + reml * penalty

    P = found.gram_slopes
    PPhi = P[:, :p, :p] @ normal.Phi
    of_s = curvature - reml * jnp.einsum("iab,jba->ij", PPhi, PPhi)
    of_both = -2.0 * sd * (P @ v)[:, :p]
    of_b = 2.0 * sd**2 * (found.gram[:p, :p] + jnp.diag(jnp.asarray(basis.alias)))
    gradient = jnp.concatenate([gradient, -2.0 * sd * (found.gram @ v)[:p]])
    hessian = jnp.block([[of_s, of_both], [of_both.T, of_b]])
    return Packing(len(z), ()).pack(Point(z, d, gradient, hessian, ()))


_compiled = compiled_by_size(_evaluate)

Evaluate = Callable[[np.ndarray], Point]


def moved(spec: Spec, z: np.ndarray, source: Chart, target: Chart) -> np.ndarray:
    """Coordinates in one chart of the point that has coordinates z in another; NaN stays."""
    if not np.all(np.isfinite(z)):
        return np.full_like(z, np.nan)
    values, k = [np.zeros(0)], 0
    for (structure, dim, s), T, U in zip(spec.split(z), source.T, target.T, strict=True):
        scale = np.asarray(source.scale[k : k + len(s)])
        k += len(s)
        if T is None:
            values.append(structure.canonical(s * scale, dim) / scale)
            continue
        turn = np.linalg.solve(U, T) @ lower_from_vector(s, dim)
        values.append(psd_cholesky(turn @ turn.T)[tril_indices(dim)])
    return np.concatenate([*values, z[k:]])


class Joint:
    """The criterion of one model around its estimate.

    Attributes
    ----------
    spec : absolute covariances;  k, p : numbers of covariance parameters and of coefficients
    offsets : where the coordinates of each part begin
    units : typical standard deviation (q,) of the effects of each part that is a free matrix, else None
    """

    def __init__(self, model: Model, estimate: Estimate, method: str):
        self.method = method
        self.spec, self.prepared = spec, prepared = prepared_for(model, method)
        basis = prepared.basis
        self.p, self.sd = basis.R.shape[0], float(basis.residual_sd)
        sizes = [structure.size(dim) for structure, dim in spec.parts]
        self.offsets, self.k = np.cumsum([0, *sizes])[:-1], sum(sizes)
        self.scale = np.array(scale_of(spec, basis))
        self.units: list[Any] = []
        for t, (structure, dim) in enumerate(spec.parts):
            if not structure.is_matrix or spec.placed[t]:
                self.units.append(None)
                continue
            random = t < len(basis.K)
            unit = np.sqrt(np.sum((basis.K[t] * basis.units[t]) ** 2, 1)) if random else np.ones(dim)
            self.units.append(self.sd * unit)
            self.scale[self.offsets[t] : self.offsets[t] + sizes[t]] = 1.0
        self._compiled = _compiled(prepared.statistics, self.k)
        self._states = {method: self._state_of(estimate)}

    def _state_of(self, estimate: Estimate) -> ProfileState:
        blocks, values = (*estimate.covariances, estimate.residual), []
        for t, (structure, dim, u) in enumerate(self.spec.split(estimate.theta)):
            place = slice(self.offsets[t], self.offsets[t] + len(u))
            s = blocks[t] if self.units[t] is not None else structure.public_to_solver(u, dim) / self.scale[place]
            values.append(np.asarray(s))
        return ProfileState(tuple(values), (self.prepared.basis.R @ estimate.coef - self.prepared.basis.c) / self.sd)

    def state(self, criterion: str) -> ProfileState:
        """The maximum of a criterion, "REML" or "ML"; of that which the fit has not used, found from its estimate."""
        if criterion not in self._states:
            chart, z = self.chart(self._states[self.method])
            evaluate = self.evaluator(chart, criterion)
            packing = Packing(len(z), ())
            found = minimise(lambda z: packing.pack(evaluate(z)), packing, z, MAX_ITERATIONS, np)
            if found.status != Status.CONVERGED:
                raise DataError(
                    f"profile: found no maximum of the {criterion} criterion, fit with method={criterion!r}"
                )
            self._states[criterion] = self._state_at(chart, packing.unpack(found.best).x)
        return self._states[criterion]

    def _state_at(self, chart: Chart, z: np.ndarray) -> ProfileState:
        values = []
        for t, (structure, dim, s) in enumerate(self.spec.split(z[: self.k])):
            if self.units[t] is not None:
                L = self.units[t][:, None] * lower_from_vector(s, dim)
                values.append(L @ L.T)
            else:
                place = slice(self.offsets[t], self.offsets[t] + len(s))
                values.append(structure.canonical(s * self.scale[place], dim) / self.scale[place])
        return ProfileState(tuple(values), z[self.k :])

    def chart(self, state: ProfileState, part: int = -1, first: tuple[int, ...] = ()) -> tuple[Chart, np.ndarray]:
        """A chart in which the `first` effects of a part come first, and the coordinates of a state in it."""
        turns: list[Any] = []
        values = []
        for t, ((_, dim), unit, value) in enumerate(zip(self.spec.parts, self.units, state.parts, strict=True)):
            if unit is None:
                turns.append(None)
                values.append(value)
                continue
            order = list(first) if t == part else []
            order += [i for i in range(dim) if i not in order]
            turn = np.diag(unit)[:, order]
            turns.append(np.linalg.solve(self.prepared.basis.K[t], turn) if t < len(self.prepared.basis.K) else turn)
            relative = (value / np.outer(unit, unit))[np.ix_(order, order)]
            values.append(psd_cholesky(relative)[tril_indices(dim)])
        return Chart(tuple(turns), self.scale), np.concatenate([np.zeros(0), *values, state.b])

    def parameters(self, z: Array) -> Parameters:
        """The parameters of the model at coordinates z (k + p,) of the chart in which no effect is moved, traceable."""
        factors = [
            self.scale[self.offsets[t] : self.offsets[t] + structure.size(dim)]
            if self.units[t] is None
            else self.units[t][tril_indices(dim)[0]]
            for t, (structure, dim) in enumerate(self.spec.parts)
        ]
        x = z[: self.k] * np.concatenate([np.zeros(0), *factors])
        basis = self.prepared.basis
        coef = jnp.linalg.solve(jnp.asarray(basis.R), basis.c + self.sd * z[self.k :])
        none = np.zeros(0)
        return Uncertain(self.spec, (), self.prepared.coords, none, None, "").parameters(coef, x)

    def evaluator(self, chart: Chart, criterion: str) -> Evaluate:
        """The criterion on the host, by z (k + p,)."""
        packing, reml = Packing(self.k + self.p, ()), float(criterion == "REML")

        def evaluate(z: np.ndarray) -> Point:
            return packing.unpack(np.asarray(self._compiled(self.spec, self.prepared, chart, reml, z)))

        return evaluate
