"""The base class of covariance structures, and structures made of structures: sums, products, Kronecker products.

A structure is its annotated natural parameters and the covariance matrix that they make. A composition only says how
coordinates of its parts are laid out in its own vector (`Composite.places`) and how their matrices are combined;
everything else is in `Composite`.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import JaxlmmError
from ..linalg import lower_from_vector, tril_indices
from .charts import Chart, Log, distinct
from .helpers import codes
from .kinds import Kind, PositiveKind, VarianceKind, concatenated, module_of
from .parametric import Parametric


class Covariance(Parametric):
    """A covariance structure: a small frozen pytree whose leaves are natural parameters.

    A subclass declares its natural parameters as annotated fields and implements `matrix`; that is all::

        class OrnsteinUhlenbeck(jaxlmm.Covariance):
            variance: Variance
            range: Positive

            def matrix(self, t):
                return self.variance * jnp.exp(-abs(t[:, None] - t[None, :]) / self.range)

    Field kinds are `Variance`, `Positive`, `Correlation`, `CovarianceMatrix`; ``Annotated[Variance, each_level]``
    is a vector with one entry a level, ``Annotated[Variance, 3]`` one of three. What is given to a field in the class
    is where its search starts, ``range: Positive = 2.0``, or several places in a tuple, the best end of which counts;
    that of a variance is relative to the residual's. Fields without a kind are options: numbers, text, arrays, which
    are copied. `matrix` must be positive semidefinite at all allowed values, and should be homogeneous of degree one in
    its `Variance` and `CovarianceMatrix` fields: then sigma can be profiled out beside it. It may read arrays of its
    module or of a closure, which are part of the key of compiled code as they are when a model is made.

    Numbers in a column are coordinates, unless the class says ``by_level = True``, or a field depends on levels: then
    their levels are numbered 0, 1, ... in order, and arrays that it holds have a row for each.
    An instance without values (``OrnsteinUhlenbeck()``) is a structure to be estimated; a field that is given a value
    is fixed at it (``OrnsteinUhlenbeck(range=2.0)``), and `tied` makes entries of a vector share a parameter.
    ``A + B``, ``A * B`` and ``A @ B`` are the sum, the elementwise and the Kronecker product.
    """

    def matrix(self, levels: Any) -> Array:
        """Covariance matrix (m, m) at `levels` (m,): positions 0, 1, ... of the levels, or coordinates."""
        raise NotImplementedError(f"{type(self).__name__} must implement matrix(self, levels)")

    def over(self, text: str, levels: Sequence[Any] = ()) -> Over:
        """The structure over columns of a data frame: ``"time | id"``, ``"lat + lon"``, ``"visit | arm / id"``.

        `levels` are those of the one column in their order, which is otherwise that of the data.
        """
        if not isinstance(text, str) or isinstance(levels, str):
            raise JaxlmmError(f"over: found {text!r}, {levels=}; expected text such as 't | id', and levels in a list")
        return Over(self, text, tuple(levels))

    def __add__(self, other: Covariance) -> Sum:
        return Sum(self, other)

    def __mul__(self, other: Covariance) -> Product:
        return Product(self, other)

    def __matmul__(self, other: Covariance) -> Kronecker:
        return Kronecker(self, other)

    @property
    def is_matrix(self) -> bool:
        """Whether the structure is one free covariance matrix, and not made of it by a `matrix` of the user's own."""
        whole = len(self.free) == len(self.fields) == 1 and self.free[0].is_matrix and self.free[0].kind.is_whole
        return whole and type(self).matrix.__module__.startswith(f"{__package__}.")

    def charts(self, dim: Any, places: Any) -> list[Chart]:
        """What the solver steps in: logarithms of variances beside a range."""
        kinds = self.kinds(dim)
        if not any(isinstance(kind, PositiveKind) and kind.first is None for kind in kinds):
            return []
        return [Log(np.flatnonzero([isinstance(kind, VarianceKind) for kind in kinds]))]

    def in_basis(self, s: Any, dim: int, K: Any) -> Any:
        """Coordinates (..., size) of ``K G K'``, K (..., q, q) lower triangular; unchanged unless a free matrix."""
        if not self.is_matrix or dim < 2:
            return s
        rows, columns = tril_indices(dim)
        return (K @ lower_from_vector(s, dim))[..., rows, columns]

    def checked(self, where: str, dim: Any = None) -> Covariance:
        """The structure itself, or a clear error when it cannot be estimated (for `dim` levels, when given)."""
        if not isinstance(self, Covariance) or type(self) is Covariance:
            raise JaxlmmError(f"{where}: expected a covariance structure such as Unstructured(), found {self!r}")
        if self.has_values:
            raise JaxlmmError(
                f"{where}: {type(self).__name__} has values of parameters that are estimated; give a structure without "
                f"values, such as {type(self).__name__}(), or one that is constructed with them, which fixes them"
            )
        if dim is not None:
            self.check_fixed(dim)
            self.size(dim)  # of what is tied
        return self.reading()


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

    def places_of(self, levels: Any) -> list[Any]:
        """Levels or coordinates as each part takes them."""
        return [levels] * len(self.parts)

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

    def reading(self) -> Any:
        """The structure with a key of the arrays that methods of its parts read now."""
        return self._with(parts=tuple(part.reading() for part in self.parts))

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

    def _of_columns(self, values: Any) -> list[Any]:
        """What every part takes of values (..., d), one a column of the coordinates; a number is that of all."""
        return [values] * len(self.parts)

    def start(self, dim: Any, distance: Any = 1.0) -> np.ndarray:
        """Start values in coordinates of the solver; `distance` is a typical one, or (d,) along each coordinate."""
        each = zip(self.parts, self.dims(dim), self._of_columns(distance), strict=True)
        return self._gathered([part.start(d, far) for part, d, far in each], dim)

    def alternatives(self, dim: Any) -> np.ndarray:
        """Further starts (a, size) in coordinates of the solver, NaN where a start is as `start` has it."""
        each = list(zip(self.parts, self.dims(dim), strict=True))
        unchanged = [np.full(part.size(d), np.nan) for part, d in each]
        rows = [
            self._gathered([*unchanged[:i], row, *unchanged[i + 1 :]], dim)
            for i, (part, d) in enumerate(each)
            for row in part.alternatives(d)
        ]
        return np.reshape(np.array(rows, float), (len(rows), self.size(dim)))

    def charts(self, dim: Any, places: Any) -> list[Chart]:
        """What the solver steps in."""
        each = zip(self.parts, self.dims(dim), self.places(dim), self._of_columns(places), strict=True)
        found = [chart.moved(at) for part, d, at, own in each for chart in part.charts(d, own)]
        return distinct([chart for chart in found if HELD not in chart.places])

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

    def unit_sizes(self, dim: Any, unit: Any, sd: Any = 1.0, xp: Any = np) -> Any:
        """Sizes (..., size) of the solver coordinates; `unit` (..., q) counts where a part has q levels."""
        relative = [self.is_product and k > 0 for k in range(len(self.parts))]
        each = zip(self.parts, self.dims(dim), relative, strict=True)
        sizes = [part.unit_sizes(d, unit[..., :0] if of_one else unit, xp=xp) for part, d, of_one in each]
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

    def at_boundary(self, s: np.ndarray, dim: Any, tolerance: Any) -> np.ndarray:
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
            s += [INSIDE * (getattr(kind, "starts_at_zero", False)) for kind in part.kinds(dim)]
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

    def _of_columns(self, values: Any) -> list[Any]:
        return [values[..., columns] if np.ndim(values) else values for columns in self._slices]

    def places_of(self, levels: Any) -> list[Any]:
        """The columns of each part."""
        coords = _table(self, levels, sum(self.widths))
        return [_columns(part, coords[:, own]) for part, own in zip(self.parts, self._slices, strict=True)]

    def matrix(self, levels: Any) -> Array:
        """Product of the matrices of the parts at their columns of coordinates (m, k)."""
        each = zip(self.parts, self.places_of(levels), strict=True)
        return reduce(operator.mul, [part.matrix(own) for part, own in each])


@dataclass(frozen=True)
class Over:
    """A structure over columns of a data frame, ``Autoregressive().over("time | id")``.

    Parameters
    ----------
    structure : covariance structure
    text : its columns and after a bar the subjects, such as "lat + lon | site" or "visit | arm / id"
    levels : of the column in their order, or none
    """

    structure: Covariance
    text: str
    levels: tuple[Any, ...] = ()
