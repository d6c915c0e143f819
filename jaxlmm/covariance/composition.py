"""Structures made of structures: sums, products, Kronecker products, parameters by group, variance functions.

A composition only says how coordinates of its parts are laid out in its own vector (`Composite.places`) and how their
matrices are combined; everything else is in `Composite`.
"""

from __future__ import annotations

import operator
from collections import Counter
from functools import reduce
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import JaxlmmError
from ..parameters import IntervalKind, Kind, concatenated, module_of
from .base import Covariance
from .functions import VarianceFunction
from .helpers import codes

INSIDE = 0.5  # in the solver's coordinate of a correlation, its arcsine
HELD = -1  # the place of a coordinate that is held at one


class Composite(Covariance):
    """A structure with parts, whose vector of coordinates is made of theirs.

    In a product only the first part has a scale: the first coordinate of every other part that carries one is held at
    one (a variance, the first of several, the first entry of a Cholesky factor).
    """

    children: ClassVar[tuple[str, ...]] = ("parts",)
    is_product: ClassVar[bool] = False
    takes: ClassVar[tuple[type, ...]] = (Covariance,)  # what parts may be

    parts: tuple[Any, ...]

    def _set(self, *parts: Any, **options: Any) -> None:
        for part in parts:
            if not isinstance(part, self.takes):
                raise JaxlmmError(f"{type(self).__name__}: expected covariance structures, found {part!r}")
        self.__dict__.update(parts=parts, **options)

    def dims(self, dim: Any) -> tuple[Any, ...]:
        """What each part takes as its number of levels."""
        return (dim,) * len(self.parts)

    def places(self, dim: Any) -> list[np.ndarray]:
        """For every part the places of its coordinates in the vector of all."""
        found, begin = [], 0
        for k, (part, d) in enumerate(zip(self.parts, self.dims(dim), strict=True)):
            own = np.ones(part.size(d), bool)
            if k and self.is_product and not part.has_fixed_scale:
                own[np.flatnonzero(part.degrees(d))[:1]] = False
            found.append(np.where(own, begin + np.cumsum(own) - 1, HELD))
            begin += int(own.sum())
        return found

    def _gathered(self, values: list[Any], dim: Any) -> Any:
        """One vector (..., size) from those of the parts."""
        places, first = np.unique(np.concatenate([np.zeros(0, int), *self.places(dim)]), return_index=True)
        return module_of(values[0]).concatenate(values, -1)[..., first[places != HELD]]

    def _each(self, v: Any, dim: Any, held: float) -> list[tuple[Any, Any, Any]]:
        """Part, its dimension and its coordinates, for a vector (..., size) of the whole."""
        v = concatenated(v, [v, module_of(v).full((*v.shape[:-1], 1), held)])
        places = zip(self.parts, self.dims(dim), self.places(dim), strict=True)
        return [(part, d, v[..., np.where(place == HELD, v.shape[-1] - 1, place)]) for part, d, place in places]

    def _by_part(self, method: str, s: Any, dim: Any, *args: Any) -> Any:
        return self._gathered([getattr(part, method)(v, d, *args) for part, d, v in self._each(s, dim, 1.0)], dim)

    @property
    def is_free(self) -> bool:
        """True when no natural parameter has a value."""
        return all(part.is_free for part in self.parts)

    @property
    def has_values(self) -> bool:
        """Whether the estimated parameters have values."""
        return any(part.has_values for part in self.parts)

    @property
    def has_fixed_scale(self) -> bool:
        """Whether a variance is fixed, in a product that of the first part."""
        return any(part.has_fixed_scale for part in self.parts[: 1 if self.is_product else None])

    @property
    def by_level(self) -> bool:
        """Whether parameters, or their bounds, depend on the number of levels."""
        return any(part.by_level for part in self.parts)

    @property
    def is_matrix(self) -> bool:
        """Whether the structure is one free covariance matrix."""
        return False

    def check_fixed(self, dim: Any) -> None:
        """Refuse values that are fixed at what cannot be."""
        for part, d in zip(self.parts, self.dims(dim), strict=True):
            part.check_fixed(d)

    def tied(self, **labels: Any) -> Any:
        """Entries are tied in the parts."""
        raise JaxlmmError(f"{type(self).__name__}: tie entries of its parts, such as part.tied(variances=...)")

    def size(self, dim: Any) -> int:
        """Number of unconstrained parameters."""
        return 1 + max((int(place.max(initial=HELD)) for place in self.places(dim)), default=HELD)

    def from_public(self, theta: Array, dim: Any) -> Any:
        """The structure at unconstrained public coordinates (as in ``fit.theta``)."""
        return self._with(parts=tuple(part.from_public(v, d) for part, d, v in self._each(theta, dim, 0.0)))

    def from_solver(self, s: Array, dim: Any) -> Any:
        """The structure at coordinates of the solver."""
        return self._with(parts=tuple(part.from_solver(v, d) for part, d, v in self._each(s, dim, 1.0)))

    def from_natural(self, v: Array, dim: Any) -> Any:
        """The structure at natural coordinates."""
        return self._with(parts=tuple(part.from_natural(x, d) for part, d, x in self._each(v, dim, 1.0)))

    def to_public(self, dim: Any) -> np.ndarray:
        """Unconstrained public coordinates of a structure with values (host side)."""
        return self._gathered([p.to_public(d) for p, d in zip(self.parts, self.dims(dim), strict=True)], dim)

    def to_solver(self, dim: Any) -> np.ndarray:
        """Coordinates of the solver of a structure with values (host side)."""
        return self._gathered([p.to_solver(d) for p, d in zip(self.parts, self.dims(dim), strict=True)], dim)

    def _distances(self, distance: Any) -> list[Any]:
        """Typical distances for every part, from (d,) along each coordinate."""
        return [distance] * len(self.parts)

    def start(self, dim: Any, distance: Any = 1.0) -> np.ndarray:
        """Start values in coordinates of the solver; `distance` is a typical one, or (d,) along each coordinate."""
        each = zip(self.parts, self.dims(dim), self._distances(distance), strict=True)
        return self._gathered([part.start(d, far) for part, d, far in each], dim)

    def kinds(self, dim: Any) -> list[Kind]:
        """The kind of every coordinate."""
        found = [np.array(p.kinds(d), object) for p, d in zip(self.parts, self.dims(dim), strict=True)]
        return list(self._gathered(found, dim))

    def degrees(self, dim: Any) -> np.ndarray:
        """The power of the standard deviation of y that every solver coordinate is proportional to."""
        found = [p.degrees(d) for p, d in zip(self.parts, self.dims(dim), strict=True)]
        if self.is_product:  # the scale of y is that of the first part
            found[1:] = [np.zeros_like(x) for x in found[1:]]
        return self._gathered(found, dim)

    def scale(self, dim: Any, unit: Any, sd: Any = 1.0, xp: Any = np) -> Any:
        """Sizes (..., size) of the solver coordinates; `unit` (..., q) counts where a part has q levels."""
        relative = [self.is_product and k > 0 for k in range(len(self.parts))]
        each = zip(self.parts, self.dims(dim), relative, strict=True)
        sizes = [part.scale(d, unit[..., :0] if of_one else unit, xp=xp) for part, d, of_one in each]
        return self._gathered(sizes, dim) * sd ** self.degrees(dim)

    def canonical(self, s: Any, dim: Any) -> Any:
        """The representative among equivalent solver coordinates."""
        return self._by_part("canonical", s, dim)

    def signed(self, s: Any, dim: Any) -> Any:
        """Coordinates of the same value to the last digit, with the signs that public ones are made from."""
        return self._by_part("signed", s, dim)

    def snapped(self, s: Any, dim: Any, tolerance: float) -> Any:
        """Canonical coordinates with everything within `tolerance` of the boundary put on it."""
        return self._by_part("snapped", s, dim, tolerance)

    def solver_to_public(self, s: Any, dim: Any) -> Any:
        """Public coordinates of canonical solver coordinates."""
        return self._by_part("solver_to_public", s, dim)

    def public_to_solver(self, u: Any, dim: Any) -> Any:
        """Canonical solver coordinates of public ones."""
        each = self._each(u, dim, 0.0)
        return self._gathered([part.public_to_solver(v, d) for part, d, v in each], dim)

    def solver_to_natural(self, s: Any, dim: Any) -> Any:
        """Natural coordinates of solver coordinates."""
        return self._by_part("solver_to_natural", s, dim)

    def to_sas(self, v: Any, dim: Any, chart: str) -> Any:
        """Parameters of SAS at coordinates of a chart."""
        return self._by_part("to_sas", v, dim, chart)

    def at_boundary(self, s: np.ndarray, dim: Any, tolerance: float) -> np.ndarray:
        """Whether any parameter of coordinates (..., size) is on the boundary of its space, up to `tolerance`."""
        return np.any([part.at_boundary(v, d, tolerance) for part, d, v in self._each(s, dim, 1.0)], 0)

    def labels(self) -> list[str]:
        """What names of parameters are preceded by, for every part; those that parts share are not."""
        names = [type(part).__name__ for part in self.parts]
        return [f"{n}[{names[:k].count(n)}]" if names.count(n) > 1 else n for k, n in enumerate(names)]

    def named(self, dim: Any) -> list[tuple[str, Any]]:
        """Names and values of the parameters of a structure with values: ``Autoregressive.correlation``, ..."""
        places, out = self.places(dim), []
        count, done = Counter(int(i) for place in places for i in place), {HELD}
        each = zip(self.labels(), places, self.parts, self.dims(dim), strict=True)
        for label, place, part, d in each:
            for i, (name, value) in enumerate(part.named(d)):
                at = int(place[i]) if i < len(place) else len(count)  # more names than coordinates: its own
                if at not in done:
                    out.append((name if count[at] > 1 else f"{label}.{name}", value))
            done.update(place[[count[int(i)] > 1 for i in place]].tolist())
        return out


def _flat(cls: type[Composite], parts: tuple[Any, ...]) -> list[Any]:
    """Parts, with those of the same composition taken apart."""
    return [p for part in parts for p in (part.parts if type(part) is cls else (part,))]


class Sum(Composite):
    """Sum of structures over the same coordinates, ``A + B``; `dim` is that of all parts."""

    def __init__(self, *parts: Covariance):
        self._set(*_flat(Sum, parts))

    def matrix(self, levels: Any) -> Array:
        """Sum of the matrices of the parts."""
        return reduce(operator.add, [part.matrix(levels) for part in self.parts])


class Product(Composite):
    """Elementwise product of structures over the same coordinates, ``A * B``; `dim` is that of all parts."""

    is_product: ClassVar[bool] = True

    def __init__(self, *parts: Covariance):
        self._set(*_flat(Product, parts))

    def start(self, dim: Any, distance: Any = 1.0) -> np.ndarray:
        """Start values; where correlations of two parts are zero neither has a slope: all but the first are moved."""
        starts = [part.start(dim, distance) for part in self.parts]
        for part, s in zip(self.parts[1:], starts[1:], strict=True):
            s += [INSIDE * (isinstance(kind, IntervalKind) and kind.starts_at_zero) for kind in part.kinds(dim)]
        return self._gathered(starts, dim)

    def matrix(self, levels: Any) -> Array:
        """Elementwise product of the matrices of the parts (positive semidefinite: Schur product theorem)."""
        return reduce(operator.mul, [part.matrix(levels) for part in self.parts])


def _columns(part: Covariance, coords: Any) -> Any:
    """Coordinates (m, w) as a part takes them: (m,) when there is one column, integers where they are levels."""
    if coords.shape[-1] != 1:
        return coords
    return codes(coords[:, 0]) if part.by_level else coords[:, 0]


def _table(structure: Covariance, coords: Any, width: int, at_least: bool = False) -> Any:
    """Coordinates that must be a table (m, width)."""
    shape = jnp.shape(coords)
    if len(shape) != 2 or not (shape[1] >= width if at_least else shape[1] == width):
        number = f"{width} or more" if at_least else width
        raise JaxlmmError(f"{type(structure).__name__}: expected coordinates (m, k), k = {number}, found shape {shape}")
    return coords


class Kronecker(Composite):
    """Product of structures over different columns of the coordinates, ``A @ B``.

    On a full grid, the last column running fastest, the matrix is the Kronecker product of theirs.

    Parameters
    ----------
    parts : structures; `dim` is a tuple with an entry for each
    widths : how many columns of the coordinates (m, k) each part takes, default one
    """

    is_product: ClassVar[bool] = True

    widths: tuple[int, ...]

    def __init__(self, *parts: Covariance, widths: tuple[int, ...] | None = None):
        known = [part.widths if type(part) is Kronecker else (1,) for part in parts]
        own = tuple(w for group in known for w in group) if widths is None else tuple(widths)
        self._set(*_flat(Kronecker, parts), widths=own)
        if len(own) != len(self.parts):
            raise JaxlmmError(f"Kronecker: widths {own} are not one for each of its {len(self.parts)} parts")

    def dims(self, dim: Any) -> tuple[Any, ...]:
        """What each part takes as its number of levels."""
        if not isinstance(dim, tuple) or len(dim) != len(self.parts):
            raise JaxlmmError(f"Kronecker: expected dim with an entry for each of {len(self.parts)} parts, found {dim}")
        return dim

    @property
    def _slices(self) -> list[slice]:
        ends = np.cumsum(self.widths)
        return [slice(end - width, end) for end, width in zip(ends, self.widths, strict=True)]

    def _distances(self, distance: Any) -> list[Any]:
        return [distance[columns] if np.ndim(distance) else distance for columns in self._slices]

    def matrix(self, levels: Any) -> Array:
        """Product of the matrices of the parts at their columns of coordinates (m, k)."""
        coords = _table(self, levels, sum(self.widths))
        each = zip(self.parts, self._slices, strict=True)
        matrices = [part.matrix(_columns(part, coords[:, columns])) for part, columns in each]
        return reduce(operator.mul, matrices)


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

    def _distances(self, distance: Any) -> list[Any]:
        return [distance[1:] if np.ndim(distance) else distance] * len(self.parts)

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

    def _distances(self, distance: Any) -> list[Any]:
        return [distance[:-1], distance[-1:]] if np.ndim(distance) else [distance] * 2

    def matrix(self, levels: Any) -> Array:
        """``g_i * part_ij * g_j``, g the function of the last column of coordinates (m, k)."""
        coords = _table(self, levels, 2, at_least=True)
        part, function = self.parts
        g = function.factor(coords[:, -1])
        return part.matrix(_columns(part, coords[:, :-1])) * g[:, None] * g[None, :]
