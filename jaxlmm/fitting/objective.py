"""What the solver minimises: -2 log-likelihood as a function of scaled solver coordinates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..covariance import Covariance
from ..covariance.charts import Chart, Charts, typical
from ..covariance.kinds import Kind, concatenated, module_of
from ..covariance.trial import is_free_in_scale
from ..errors import DataError
from ..likelihood.criterion import Normal, deviance, gram_curvature, gram_slopes, profiled_deviance, solve_normal
from ..likelihood.engines import Blocks, expansion_of
from ..likelihood.model import Model, block_at
from ..likelihood.parts import Residual, Term
from ..likelihood.prepared import Basis, Prepared
from ..linalg import tril_indices
from ..pytrees import frozen_pytree, is_traced
from ..runtime.sharding import alike
from .newton import Evaluate, Packing, Point

INSIDE = 0.05  # how far a start on the boundary is moved towards the usual one


@frozen_pytree(data=("reml",), meta=("parts", "placed", "profiled", "independent"))
@dataclass(frozen=True)
class Spec:
    """What a fit is of: everything that compiled code depends on besides shapes, and its criterion, which is a number.

    With random terms and independent residuals sigma is profiled out and the terms are relative to sigma^2. Otherwise
    (a residual structure, a variance that is fixed, a random part that can take over all of the variation, or one whose
    matrix is not proportional to its variances)
    the residual is the last part and all covariances are absolute. `placed` says which parts have sets of coordinates.
    """

    parts: tuple[tuple[Covariance, Any], ...]
    placed: tuple[bool, ...]
    profiled: bool
    independent: bool  # residuals have one variance, profiled or not
    reml: Any  # 1.0 for REML, 0.0 for ML, traced in compiled code

    @classmethod
    def of(cls, model: Model, method: str) -> Spec:
        """Specification of fitting `model` by `method`, "REML" or "ML"."""
        if method not in ("REML", "ML"):
            raise DataError(f"method: found {method!r}, expected 'REML' or 'ML'")
        parts = (*model.random, model.residual)
        independent = model.residual.is_iid
        plain = all(isinstance(part, Term) and part.is_plain for part in model.random)
        profiled = independent and plain and not model.residual.structure.has_fixed_scale
        profiled = profiled and all(is_free_in_scale(part.structure, part.dim) for part in model.random)
        if profiled:
            parts = model.random
        placed = tuple(places is not None for _, places in zip(parts, model.coords, strict=False))
        return cls(tuple((p.structure, p.dim) for p in parts), placed, profiled, independent, float(method == "REML"))

    @property
    def absolute(self) -> Spec:
        """The same with all covariances absolute and the residual the last part: what inference works with."""
        if not self.profiled:
            return self
        own = Residual()
        parts, placed = (*self.parts, (own.structure, own.dim)), (*self.placed, False)
        return replace(self, parts=parts, placed=placed, profiled=False)

    def fits(self, free: Any, varies: Any) -> Any:
        """Whether data sets can be fitted that have `free` rows more than X has ranks, and vary beside X or not.

        With known residuals any response will do, and without anything to estimate as many rows as coefficients.
        """
        known = not self.profiled and self.parts[-1][0].size(self.parts[-1][1]) == 0
        return (free >= (1 if self.profiled or len(self.degrees) else 0)) & (varies | known)

    def in_absolute(self, s: Any, sigma: Any) -> Any:
        """Solver coordinates (..., m) of `absolute` from those (..., k) of the fit, and sigma (...) if profiled."""
        if not self.profiled:
            return s
        return concatenated(s, [s * sigma[..., None] ** self.degrees, sigma[..., None]])

    def split(self, s: Any) -> list[tuple[Covariance, int, Any]]:
        """Structure, dimension and coordinates of each part."""
        out, start = [], 0
        for structure, dim in self.parts:
            stop = start + structure.size(dim)
            out.append((structure, dim, s[..., start:stop]))
            start = stop
        return out

    def blocks(self, s: Array, coords: tuple[Any, ...], chart: Any = "solver") -> Blocks:
        """Covariance blocks at coordinates of a chart, see `in_chart`; `coords` as in `Prepared`."""

        def block(structure: Covariance, dim: Any, places: Any, chart: str, v: Array) -> Array:
            return block_at(getattr(structure, f"from_{chart}")(v, dim), dim, places)

        parts = zip(self.split(s), coords, strict=False)
        matrices = [in_chart(chart, partial(block, structure, dim, p), v) for (structure, dim, v), p in parts]
        if self.profiled:
            matrices.append(jnp.ones((1, 1)))
        return alike(Blocks(tuple(matrices[:-1]), matrices[-1]), s)

    def kept(self, blocks: Blocks) -> Blocks:
        """The blocks without those at sets of coordinates, which are as many as the data have such sets."""
        every = zip((*blocks.random, blocks.residual), (*self.placed, False), strict=False)
        matrices = [None if placed else block for block, placed in every]
        return Blocks(tuple(matrices[:-1]), matrices[-1])

    def map(self, method: str, s: Any, *args: Any) -> Any:
        """Apply a method of the structures to their parts of s (..., k) and concatenate."""
        values = [getattr(c, method)(v, dim, *args) for c, dim, v in self.split(s)]
        return concatenated(s, values)

    @property
    def count(self) -> int:
        """Number of solver coordinates."""
        return sum(structure.size(dim) for structure, dim in self.parts)

    @property
    def degrees(self) -> np.ndarray:
        """The power of the standard deviation of y that every solver coordinate (k,) is proportional to."""
        return np.concatenate([np.zeros(0), *(structure.degrees(dim) for structure, dim in self.parts)])

    def in_basis(self, s: Any, K: Sequence[Any]) -> Any:
        """Solver coordinates (..., k) with the effects of each term multiplied by K: `Basis.K` leads to the user's."""
        values = [
            structure.in_basis(v, dim, K[t]) if t < len(K) and not self.placed[t] else v
            for t, (structure, dim, v) in enumerate(self.split(s))
        ]
        return concatenated(s, values)

    def theta(self, s: Any, sigma: Any, K: tuple[Any, ...]) -> Any:
        """Public coordinates (..., m) of solver coordinates s (..., k), terms being relative to sigma (...)."""
        s = self.in_basis(s, K)
        if not self.profiled:
            return self.map("solver_to_public", s)
        theta = self.map("solver_to_public", s * sigma[..., None] ** self.degrees)
        return concatenated(s, [theta, module_of(s).log(sigma)[..., None]])

    def coordinates(self, theta: Any, K: tuple[Any, ...], chart: str = "solver") -> Any:
        """Coordinates (k,) of a chart at a public theta of absolute covariances, terms in the basis of `Basis.K`."""
        s = self.in_basis(self.map("public_to_solver", theta), [module_of(theta).linalg.inv(each) for each in K])
        return s if chart == "solver" else module_of(s).asarray(self.map("solver_to_natural", jnp.asarray(s)))

    @property
    def alternatives(self) -> np.ndarray:
        """Further starts (a, k) that structures say, NaN where they are as in `start`."""
        sizes = [structure.size(dim) for structure, dim in self.parts]
        rows, begin = [np.zeros((0, sum(sizes)))], 0
        for (structure, dim), size in zip(self.parts, sizes, strict=True):
            own = structure.alternatives(dim)
            rows.append(np.pad(own, ((0, 0), (begin, sum(sizes) - begin - size)), constant_values=np.nan))
            begin += size
        return np.concatenate(rows)

    def from_theta(self, theta: Any, K: Sequence[Any], usual: Any) -> Any:
        """Solver coordinates (..., k) of a public theta (..., m) to start at, terms in the basis of `Basis.K`.

        All slopes away from a boundary are zero on it, so a start there is moved towards the `usual` one (..., k).
        """
        xp = module_of(theta)
        sigma = xp.exp(theta[..., -1:]) if self.profiled else 1.0
        s = self.map("public_to_solver", theta) / sigma**self.degrees
        s = self.in_basis(s, [xp.linalg.inv(each) for each in K])
        inside = xp.all(xp.isfinite(theta), -1, keepdims=True)
        return xp.where(inside, s, (1.0 - INSIDE) * s + INSIDE * usual)

    @property
    def kinds(self) -> list[tuple[Kind, int]]:
        """The kind of every coordinate, and the part that it belongs to."""
        return [(kind, i) for i, (structure, dim) in enumerate(self.parts) for kind in structure.kinds(dim)]

    @property
    def factor_rows(self) -> np.ndarray | None:
        """Coordinates of each row of the factors of free matrices, see `Packing`; None where there are none."""
        labels, last = [np.zeros(0, int)], 0
        for structure, dim in self.parts:
            row = tril_indices(dim)[0] if structure.is_matrix else np.zeros(structure.size(dim), int)
            labels.append(np.where(row > 0, row + last, 0))
            last += row.max(initial=0)
        return (np.concatenate(labels)[:, None] == np.arange(1, last + 1)).astype(float) if last else None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the blocks that are kept, zero for the others, that of the residual last."""
        sizes = [0 if placed else dim for (_, dim), placed in zip(self.parts, self.placed, strict=True)]
        return (*sizes, 1) if self.profiled else tuple(sizes)

    def start(self, coords: tuple[Any, ...]) -> Any:
        """Start values (k,): every random effect as large as the residual, in scaled coordinates."""
        values = []
        for (structure, dim), places in zip(self.parts, coords, strict=False):
            far = places is None or is_traced(places)
            values.append(structure.start(dim) if far else structure.start(dim, typical(places)))
        start = concatenated(np.zeros(0), values)
        return start if any(map(is_traced, coords)) else self.charts(coords).start(start)

    def charts(self, coords: tuple[Any, ...]) -> Charts:
        """What the solver steps in, for sets of coordinates of the parts."""
        found: list[Chart] = []
        begin = 0
        for (structure, dim), places in zip(self.parts, coords, strict=False):
            at = begin + np.arange(structure.size(dim))
            begin += len(at)
            if places is not None:
                sets = places.reshape(*places.shape[:2], -1)
                found += [chart.moved(at) for chart in structure.charts(dim, sets)]
        return Charts(tuple(found))


def in_chart(chart: Any, f: Callable[[str, Array], Any], v: Array) -> Any:
    """f(chart, v) in a chart of the covariance parameters, "solver" or "natural"; a number that is traced is 0 or 1."""
    if isinstance(chart, str):
        return f(chart, v)
    return jax.lax.cond(chart > 0, partial(f, "natural"), partial(f, "solver"), v)


class Evaluation(NamedTuple):
    """What is known at a point besides value, gradient and Hessian."""

    blocks: Blocks  # see `Spec.kept`
    slopes: Blocks  # derivative of the criterion in the blocks
    normal: Normal
    gram_slopes: Any = None  # (k, p+1, p+1) derivatives of the Gram in the coordinates, where asked for


def along_coordinates(blocks: Callable[[Array], Blocks], x: Array) -> Blocks:
    """Derivatives (k, ...) of covariance blocks in each of their coordinates x (k,)."""
    return jax.vmap(lambda direction: jax.jvp(blocks, (x,), (direction,))[1])(alike(jnp.eye(len(x)), x))


def pulled_back(blocks: Callable[[Array], Blocks], x: Array, slopes: Blocks) -> tuple[Array, Array]:
    """Gradient (k,) of what has `slopes` in the blocks, and the Hessian (k, k) that the blocks' curvature makes."""

    def gradient(x: Array) -> Array:
        return jax.vjp(blocks, x)[1](alike(slopes, x))[0]

    return gradient(x), jax.jacfwd(gradient)(x)


def second_order(
    statistics: Any, blocks: Callable[[Array], Blocks], s: Array, weigh: Callable[[Array], Array],
    fixed_residual: bool = False,
) -> tuple[Blocks, Any, Array, Array]:  # fmt: skip
    """Blocks, the engine's expansion, gradient and Hessian in coordinates s (k,), but for curvature in the Gram.

    The gradient in the blocks is the engine's closed form; the chain to the coordinates is autodiff.
    """
    C, D = blocks(s), along_coordinates(blocks, s)
    found = expansion_of(statistics, C, D._replace(residual=None) if fixed_residual else D, weigh)
    gradient, bent = pulled_back(blocks, s, found.slopes)
    return C, found, gradient, found.curvature + bent


def objective(
    spec: Spec, prepared: Prepared, scale: Array, with_slopes: bool = False, packing: Packing | None = None,
    through: Callable[[Array], Array] | None = None,
) -> Evaluate:  # fmt: skip
    """-2 log-likelihood of scaled solver coordinates with exact gradient and Hessian, as a packed `Point`.

    Sigma is profiled where it can be. With `through` it is a function of what that turns into solver coordinates.
    """
    statistics, basis, coords = prepared
    n, rank, reml, profiled = basis.n, basis.rank, spec.reml, spec.profiled
    packing = packing or packing_of(spec, basis.R.shape[0], with_slopes)

    def evaluate(s: Array) -> Array:
        def blocks(s: Array) -> Blocks:
            return spec.blocks(s * scale if through is None else through(s), coords)

        def weigh(gram: Array) -> Array:
            return gram_slopes(solve_normal(gram, basis.alias), n, rank, reml, profiled)

        C, found, gradient, curvature = second_order(statistics, blocks, s, weigh, fixed_residual=profiled)
        d, normal = deviance_of(spec, basis, found.logdet, found.gram)
        H = curvature + gram_curvature(normal, found.gram_slopes, n, rank, reml, profiled)
        along = found.gram_slopes if with_slopes else None
        aux = Evaluation(spec.kept(C), spec.kept(found.slopes), normal, along)
        return packing.pack(Point(s, d, gradient, H, aux))

    return evaluate


def criterion_at(spec: Spec, prepared: Prepared, C: Blocks) -> tuple[Array, Normal]:
    """-2 log-likelihood and estimates at covariance blocks, to be differentiated in anything, data included."""
    return deviance_of(spec, prepared.basis, *prepared.statistics.gram(C))


def coordinates(spec: Spec, prepared: Prepared, theta: Any, chart: str) -> Any:
    """Coordinates (k,) of a chart at a public theta, terms in the basis of `prepared`."""
    return spec.coordinates(theta, prepared.basis.K, chart)


def loglik_at(spec: Spec, prepared: Prepared, theta: Array) -> Array:
    """Log-likelihood at a public theta (m,): `jaxlmm.reml` or `jaxlmm.ml` of the model of `prepared`."""
    absolute = spec.absolute
    C = absolute.blocks(coordinates(absolute, prepared, theta, "solver"), prepared.coords)
    return -0.5 * criterion_at(absolute, prepared, C)[0]


def packing_of(spec: Spec, p: int, with_slopes: bool = False, size: int | None = None) -> Packing:
    """Layout of the solver's points for p fixed effects; of `size` numbers that solver coordinates are functions of."""
    matrices = [np.empty((q, q)) if q else None for q in spec.sizes]
    blocks = Blocks(tuple(matrices[:-1]), matrices[-1])
    normal = Normal(np.empty((p, p)), np.empty(p), np.empty(()), np.empty(()))
    k = spec.count if size is None else size
    aux = Evaluation(blocks, blocks, normal, np.empty((k, p + 1, p + 1)) if with_slopes else None)
    return Packing(k, aux, spec.factor_rows if size is None else None)


def deviance_of(spec: Spec, basis: Basis, logdet: Array, gram: Array) -> tuple[Array, Normal]:
    """-2 log-likelihood and estimates from log|V| and the Gram of the internal columns."""
    normal = solve_normal(gram, basis.alias)
    shifted = normal._replace(logdet=normal.logdet + basis.logdet_scale())
    criterion = profiled_deviance if spec.profiled else deviance
    return criterion(logdet - basis.log_weights, shifted, basis.n, basis.rank, spec.reml), normal


def scale_of(spec: Spec, basis: Basis, xp: Any = np) -> Any:
    """Size of every solver coordinate (..., k), so that the solver sees numbers of order one whatever the units.

    The leading axes are those of ``basis.residual_sd`` where sigma is not profiled, else of ``basis.units``.
    """
    residual_sd = xp.asarray(basis.residual_sd)[..., None]
    units = [xp.asarray(unit) for unit in basis.units]
    lead, sd = units[0].shape[:-1] if units else (), 1.0
    if not spec.profiled:
        lead, sd = residual_sd.shape[:-1], residual_sd
        units.append(xp.ones((*lead, 1)))
    sizes = [c.unit_sizes(dim, unit, sd, xp) for (c, dim), unit in zip(spec.parts, units, strict=True)]
    return xp.concatenate([xp.zeros((*lead, 0)), *(xp.broadcast_to(x, (*lead, x.shape[-1])) for x in sizes)], -1)
