"""Structures that depend on a further column: parameters of their own by group, variances that follow a covariate."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import JaxlmmError
from .base import Composite, Covariance, _columns, _table
from .charts import TINY, Chart, Log, Origin
from .functions import Ident, VarianceFunction
from .helpers import codes
from .kinds import VarianceKind, module_of


class ByGroup(Composite):
    """One structure with parameters of its own in every group (arm) of subjects.

    The first column of the coordinates is the group 0, ..., count-1, the same in all rows; the other columns are the
    coordinates of the structure.

    Parameters
    ----------
    part : structure; `dim` is its
    count : number of groups
    shared : names of fields that all groups have in common
    """

    shared: tuple[str, ...]

    def __init__(self, part: Covariance, count: int, shared: tuple[str, ...] = ()):
        self._set(*(part,) * count, shared=tuple(shared))
        names = [p.name for p in part.free]
        if unknown := [name for name in self.shared if name not in names]:
            raise JaxlmmError(f"ByGroup: shared {unknown} are not estimated fields of {type(part).__name__}, {names}")

    def places(self, dim: Any) -> list[np.ndarray]:
        """For every part the places of its coordinates: those of the first, and in the others what is their own."""
        part, size = self.parts[0], self.parts[0].size(dim)
        common = np.zeros(size, bool)
        if self.shared:
            common[:] = [p.name in self.shared for p in part.free for _ in range(p.size(dim))]
        own = np.cumsum(~common) - 1
        first, each = np.arange(size), int(np.sum(~common))
        return [first, *(np.where(common, first, size + k * each + own) for k in range(len(self.parts) - 1))]

    def labels(self) -> list[str]:
        """``group[0]``, ..."""
        return [f"group[{k}]" for k in range(len(self.parts))]

    def _of_columns(self, values: Any) -> list[Any]:
        return [values[..., 1:] if np.ndim(values) else values] * len(self.parts)

    def places_of(self, levels: Any) -> list[Any]:
        """All columns but the first, the group."""
        return [_columns(part, _table(self, levels, 2, at_least=True)[:, 1:]) for part in self.parts]

    def matrix(self, levels: Any) -> Array:
        """Matrix of the structure with the parameters of the group in the first column of coordinates (m, k)."""
        coords = _table(self, levels, 2, at_least=True)
        group = codes(coords[0, 0])
        part = jax.tree_util.tree_map(lambda *values: jnp.stack(values)[group], *self.parts)
        return part.matrix(_columns(part, coords[:, 1:]))


class Scaled(Composite):
    """A structure whose standard deviations are multiplied by a function of a covariate.

    Parameters
    ----------
    part : structure over all but the last column of the coordinates
    function : variance function of the last column, such as ``Power()``; `dim` is (dim of the part, number of levels
        of the covariate, 1 if it is a number)
    """

    is_product: ClassVar[bool] = True
    takes: ClassVar[tuple[type, ...]] = (Covariance, VarianceFunction)

    def __init__(self, part: Covariance, function: VarianceFunction):
        self._set(part, function)

    def dims(self, dim: Any) -> tuple[Any, ...]:
        """What the structure and the function take as their numbers of levels."""
        if not isinstance(dim, tuple) or len(dim) != 2:
            raise JaxlmmError(f"Scaled: expected dim = (dim of the structure, levels of the covariate), found {dim}")
        return dim

    def _of_columns(self, values: Any) -> list[Any]:
        return [values[..., :-1], values[..., -1:]] if np.ndim(values) else [values] * 2

    def charts(self, dim: Any, places: Any) -> list[Chart]:
        """What the solver steps in: the scale in the middle of the covariate, not where that or its log is zero."""
        found, (part, function) = super().charts(dim, places), self.parts
        own, degrees = self.places(dim)[1], self.degrees(dim)
        line = function.line(places[..., -1])
        if line is None or len(own) != len(function.fields) or part.has_fixed_scale:
            return found
        covariate, slope = line
        xp = module_of(covariate)
        middle, spread = xp.mean(covariate), xp.std(covariate)
        scaled = np.flatnonzero(degrees)
        rest = np.delete(own, slope)
        chart = Origin(own[[slope]], rest, scaled, degrees[scaled], middle, xp.where(spread > 0, spread, 1.0))
        variances = np.flatnonzero([isinstance(kind, VarianceKind) for kind in self.kinds(dim)])
        taken = [at for chart in found for at in chart.places]
        return [chart, *found, Log(np.setdiff1d(variances, taken), TINY)]

    def places_of(self, levels: Any) -> list[Any]:
        """All columns but the last, and the covariate."""
        coords = _table(self, levels, 2, at_least=True)
        return [_columns(self.parts[0], coords[:, :-1]), coords[:, -1]]

    def matrix(self, levels: Any) -> Array:
        """``g_i * part_ij * g_j``, g the function of the last column of coordinates (m, k)."""
        (part, function), (own, covariate) = self.parts, self.places_of(levels)
        g = function.factor(covariate)
        return part.matrix(own) * g[:, None] * g[None, :]

    def at_boundary(self, s: np.ndarray, dim: Any, tolerance: Any) -> np.ndarray:
        """As elsewhere; but a standard deviation where the covariate is zero may be any number that is not zero."""
        if self.parts[1].line(np.ones(1)) is not None:
            variances = np.array([isinstance(kind, VarianceKind) for kind in self.kinds(dim)], bool)
            s = np.where(variances & (s != 0), 1.0, s)
        return super().at_boundary(s, dim, tolerance)

    @property
    def has_variances(self) -> bool:
        """Whether levels differ in variance alone: a structure with one variance, its only scale, and `Ident`."""
        part, function = self.parts
        return isinstance(function, Ident) and [p.name for p in part.fields if p.kind.has_scale] == ["variance"]

    def to_sas(self, v: Any, dim: Any, chart: str) -> Any:
        """Parameters of SAS at coordinates of a chart; of `Ident` the variances of the levels (GROUP=, CSH, ARH(1))."""
        if not self.has_variances:
            return super().to_sas(v, dim, chart)
        (own, other), found = self.places(dim), v if chart == "natural" else self.solver_to_natural(v, dim)
        part = getattr(self, f"from_{chart}")(v, dim).parts[0]
        shown = jnp.concatenate([jnp.zeros(0), *map(jnp.ravel, part.reported().values())])
        variances = part.variance * found[other] ** 2
        return (found.at[own].set(shown) if shown.shape == own.shape else found).at[other].set(variances)

    def named(self, dim: Any) -> list[tuple[str, Any]]:
        """Names and values of the parameters; of `Ident` the variances of the levels, ``variances[0]``, ..."""
        (part, function), own = self.parts, self.dims(dim)[0]
        if not self.has_variances or "ratios" in function.fixed:
            return super().named(dim)
        rest = [(f"{self.labels()[0]}.{name}", x) for name, x in part.named(own) if name != "variance"]
        free = [-1] * ("variance" not in part.fixed) + [
            int(name.removeprefix("ratios[")[:-1]) for name, _ in function.named(self.dims(dim)[1])
        ]
        variances = part.variance * jnp.concatenate([jnp.ones(1), function.ratios]) ** 2
        return [(f"variances[{i + 1}]", variances[i + 1]) for i in free] + rest
