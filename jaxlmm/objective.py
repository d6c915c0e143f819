"""What the solver minimises: -2 log-likelihood as a function of scaled solver coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .covariance import Covariance
from .criterion import Normal, deviance, gram_slopes, profiled_deviance, solve_normal
from .engines import Blocks
from .errors import DataError
from .model import Model, Prepared
from .optimize import Evaluate, Packing, Point


@dataclass(frozen=True)
class Spec:
    """The static part of a fit: everything compiled code depends on besides shapes.

    With independent residuals sigma is profiled out and the terms are relative to sigma^2; otherwise the residual is
    the last part and all covariances are absolute.
    """

    parts: tuple[tuple[Covariance, int], ...]
    profiled: bool
    reml: bool

    @classmethod
    def of(cls, model: Model, method: str) -> Spec:
        """Specification of fitting `model` by `method`, "REML" or "ML"."""
        if method not in ("REML", "ML"):
            raise DataError(f"method: found {method!r}, expected 'REML' or 'ML'")
        parts = [(t.structure, t.dim) for t in model.random]
        profiled = model.residual.is_iid
        if not profiled:
            parts.append((model.residual.structure, model.residual.dim))
        return cls(tuple(parts), profiled, method == "REML")

    def split(self, s: Any) -> list[tuple[Covariance, int, Any]]:
        """Structure, dimension and coordinates of each part."""
        out, start = [], 0
        for structure, dim in self.parts:
            stop = start + structure.size(dim)
            out.append((structure, dim, s[..., start:stop]))
            start = stop
        return out

    def blocks(self, s: Array) -> Blocks:
        """Covariance blocks at solver coordinates."""
        matrices = [c.from_solver(v, dim).matrix(np.arange(dim, dtype=np.int32)) for c, dim, v in self.split(s)]
        if self.profiled:
            matrices.append(jnp.ones((1, 1)))
        return Blocks(tuple(matrices[:-1]), matrices[-1])

    def map(self, method: str, s: np.ndarray, *args: Any) -> np.ndarray:
        """Apply a method of the structures to their parts of s (..., k) and concatenate."""
        values = [getattr(c, method)(v, dim, *args) for c, dim, v in self.split(s)]
        return np.concatenate([np.zeros((*s.shape[:-1], 0)), *values], -1)

    @property
    def start(self) -> np.ndarray:
        """Start values: every random effect as large as the residual, in scaled coordinates."""
        return np.concatenate([np.zeros(0), *(c.start(dim) for c, dim in self.parts)])


class Evaluation(NamedTuple):
    """What is known at a point besides value, gradient and Hessian."""

    blocks: Blocks
    slopes: Blocks  # derivative of the criterion in the blocks
    normal: Normal


def objective(spec: Spec, prepared: Prepared, scale: Array) -> Evaluate:
    """-2 log-likelihood of scaled solver coordinates with exact gradient and Hessian, as a packed `Point`.

    Sigma is profiled where it can be. The gradient in the blocks is the engine's closed form; the chain to the
    coordinates, and the Hessian of the whole, is autodiff through rules that are closed forms again.
    """
    statistics, basis = prepared
    p = basis.R.shape[0]
    criterion = profiled_deviance if spec.profiled else deviance

    def gradient(s: Array) -> tuple[Array, tuple[Array, Array, Evaluation]]:
        C, to_coordinates = jax.vjp(lambda s: spec.blocks(s * scale), s)
        (logdet, gram), to_blocks = jax.vjp(statistics.gram, C)
        normal = solve_normal(gram)
        shifted = normal._replace(logdet=normal.logdet + basis.logdet_scale())
        d = criterion(logdet - basis.log_weights, shifted, basis.n, p, spec.reml)
        weights = gram_slopes(normal, basis.n, p, spec.reml, spec.profiled)
        (slopes,) = to_blocks((jnp.ones_like(logdet), weights))
        (g,) = to_coordinates(slopes)
        return g, (d, g, Evaluation(C, slopes, normal))

    packing = packing_of(spec, p)

    def evaluate(s: Array) -> Array:
        H, (d, g, evaluation) = jax.jacfwd(gradient, has_aux=True)(s)
        return packing.pack(Point(s, d, g, 0.5 * (H + H.T), evaluation))

    return evaluate


def packing_of(spec: Spec, p: int) -> Packing:
    """Layout of the solver's points for p fixed effects."""
    sizes = [dim for _, dim in spec.parts] + ([1] if spec.profiled else [])
    matrices = [np.empty((q, q)) for q in sizes]
    blocks = Blocks(tuple(matrices[:-1]), matrices[-1])
    normal = Normal(np.empty((p, p)), np.empty(p), np.empty(()), np.empty(()))
    k = sum(structure.size(dim) for structure, dim in spec.parts)
    return Packing(k, Evaluation(blocks, blocks, normal))


def column_units(model: Model) -> list[np.ndarray]:
    """One over the root mean square of each column of Z, by term: the size of one effect per residual SD."""
    units = []
    for term in model.random:
        Z = term.Z if model.weights is None else term.Z * np.sqrt(model.weights)[:, None]
        rms = np.sqrt(np.mean(Z**2, 0))
        units.append(1.0 / np.where(rms > 0, rms, 1.0))
    return units


def scale_of(spec: Spec, model: Model, prepared: Prepared) -> np.ndarray:
    """Size of every solver coordinate, so that the solver sees numbers of order one whatever the units."""
    units = column_units(model)
    sd = 1.0
    if not spec.profiled:
        units.append(np.ones(model.residual.dim))
        sd = float(prepared.basis.residual_sd)
    sizes = [c.scale(dim, unit, sd) for (c, dim), unit in zip(spec.parts, units, strict=True)]
    return np.concatenate(sizes) if sizes else np.zeros(0)
