"""Annotated natural parameters and their coordinates: what structures and variance functions have in common."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..arguments import refuse_unknown
from ..errors import JaxlmmError
from ..runtime.precision import float64
from .charts import Chart
from .content import Content, frozen, key_of, read_by
from .kinds import Kind, VarianceKind, concatenated
from .naive import mended
from .parameter import ByOption, Parameter, PerLevel, labelled

Self = TypeVar("Self", bound="Parametric")


def _declared(cls: type, namespace: dict[str, Any]) -> tuple[Parameter, ...]:
    """The annotations that are natural parameters, those that carry a kind; what is given to one is its start value."""
    found = []
    known: dict[str, Parameter] = {p.name: p for base in cls.__mro__[:0:-1] for p in getattr(base, "fields", ())}
    for name, hint in typing.get_type_hints(cls, localns=namespace, include_extras=True).items():
        marks = getattr(hint, "__metadata__", ())
        kinds = [m for m in marks if isinstance(m, Kind | ByOption)]
        if not kinds:
            continue
        where = f"{cls.__name__}: {name}"
        sizes = [PerLevel(int(m), each=False) if is_size(m) else m for m in marks if m not in kinds]
        if len(sizes) > 1 or not all(isinstance(m, PerLevel) for m in sizes):
            raise JaxlmmError(
                f"{where} is marked with {', '.join(map(repr, sizes))}; expected each_level or a length, "
                "Annotated[Variance, 3], beside the kind, and a start value behind it, range: Positive = 2.0"
            )
        given = vars(cls).get(name)
        first = known[name].first_value if name in known and name not in inspect.get_annotations(cls) else given
        p = Parameter(cls.__name__, name, kinds[-1], sizes[-1] if sizes else None, first_value=first)
        for value in p.starts if isinstance(p.kind, Kind) else ():
            number = numbers(f"{where} starts at", value)
            if not (number.size and np.isfinite(number).all() and p.kind.admits(number)):
                raise JaxlmmError(f"{where} starts at {value}, expected {p.kind}")
            if not p.is_matrix and p.kind.at_boundary(p.kind.to_solver(np.ravel(number), 9), 9, 1e-12):
                raise JaxlmmError(f"{where} starts at {value}, where all slopes are zero; start inside of its bounds")
        found.append(p)
    return tuple(found)


def is_size(mark: Any) -> bool:
    """Whether a mark is a length."""
    return isinstance(mark, int | np.integer) and not isinstance(mark, bool) and bool(mark > 0)


def numbers(what: str, value: Any) -> np.ndarray:
    """Numbers of a value that is given to a field.

    Raises
    ------
    JaxlmmError
        For text and other things.
    """
    try:
        found = np.asarray(value)
        if found.dtype.kind in "iuf":
            return found.astype(float)
    except ValueError:  # of several lengths
        pass
    raise JaxlmmError(f"{what} {value!r}, expected numbers")


class _Fields:
    """The attribute `fields`: the parameters of a class; of an instance, as its options and ties make them."""

    def __init__(self, declared: tuple[Parameter, ...]):
        self.declared, self.optional = declared, any(isinstance(p.kind, ByOption) for p in declared)

    def __get__(self, structure: Any, owner: Any = None) -> tuple[Parameter, ...]:
        if structure is None or not (self.optional or "_tied" in vars(structure) or "_smooth" in vars(structure)):
            return self.declared
        return tuple(_of_instance(p, structure) for p in self.declared)


def _of_instance(p: Parameter, structure: Parametric) -> Parameter:
    kind, tied = p.kind, dict(vars(structure).get("_tied", ())).get(p.name)
    if isinstance(kind, ByOption):
        kind = kind.kind(structure)
    if p.name in vars(structure).get("_smooth", ()):  # its matrix takes roots of these variances, see `trial`
        kind = VarianceKind(power=4)
    return p if kind is p.kind and tied is None else dataclasses.replace(p, kind=kind, tied=tied)


class Parametric:
    """A small frozen pytree whose leaves are natural parameters, declared as annotated fields.

    A field without a value is estimated; one that is given a value is fixed at it. Instances compare and hash by
    content, as they are part of compiled code.
    """

    fields: ClassVar[Any] = _Fields(())
    children: ClassVar[tuple[str, ...]] = ()  # attributes that hold further pytrees

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        caller = sys._getframe(1)
        declared = _declared(cls, {**caller.f_globals, **caller.f_locals})
        cls.fields = _Fields(declared)
        if "matrix" in vars(cls) and not _is_shipped(cls):
            cls.matrix = mended(vars(cls)["matrix"])  # type: ignore[attr-defined]
        own = inspect.get_annotations(cls)
        shipped = [vars(c) for c in cls.__mro__[1:] if _is_shipped(c)]
        for name in own.keys() - {"by_level"}:
            if any(callable(v.get(name)) or isinstance(v.get(name), property | _Fields) for v in shipped):
                raise JaxlmmError(f"{cls.__name__}: the field {name} hides what every structure has; call it {name}_")
        for p in declared:
            if p.name in own:
                setattr(cls, p.name, dataclasses.field(default=None, kw_only=True))  # a start value is in `fields`
        is_own = "__init__" in vars(cls)
        dataclasses.dataclass(frozen=True, eq=False)(cls)
        if not is_own:
            cls.__init__ = _told(cls.__init__)  # type: ignore[method-assign]
        leaves = (*(p.name for p in declared), *cls.children)
        jax.tree_util.register_pytree_with_keys(cls, _flatten_with(leaves), _unflatten_with(cls, leaves))

    def __post_init__(self) -> None:
        """Take fixed values as numbers and arrays, if they are possible ones, and options as what does not change."""
        names, own = {p.name for p in type(self).fields}, vars(self)
        for name in own.keys() - names:
            own[name] = frozen(f"{type(self).__name__}: {name}", own[name])
        for p in self.fields:
            given = getattr(self, p.name)
            if given is None or isinstance(given, jax.core.Tracer):
                continue
            value = numbers(f"{type(self).__name__}: {p.name} is fixed at", given)
            p.check(value)
            self.__dict__[p.name] = value if value.ndim else float(value)

    def _with(self: Self, **values: Any) -> Self:
        """A copy with other attributes."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, **values)
        return other

    def _key(self) -> tuple[Any, ...]:
        return type(self), *((name, key_of(value)) for name, value in vars(self).items())

    def reading(self: Self) -> Self:
        """The structure with a key of the arrays that the methods of its class read now, see `content.read_by`."""
        read = read_by(type(self), Parametric)
        return self._with(_read=read) if read else self

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Parametric) and self._key() == other._key())

    def __hash__(self) -> int:
        return hash(self._key())

    # ------------------------------------------------------------------ what is estimated

    @property
    def fixed(self) -> tuple[str, ...]:
        """Names of the fields with a value that is not estimated."""
        if "_fixed" in vars(self):
            return vars(self)["_fixed"]
        return tuple(p.name for p in type(self).fields if getattr(self, p.name) is not None)

    @property
    def free(self) -> tuple[Parameter, ...]:
        """The fields that are estimated."""
        return tuple(p for p in self.fields if p.name not in self.fixed)

    @property
    def is_free(self) -> bool:
        """True when no natural parameter has a value."""
        return all(getattr(self, p.name) is None for p in self.fields)

    @property
    def has_values(self) -> bool:
        """Whether the estimated parameters have values, as in the result of `from_public`."""
        return any(getattr(self, p.name) is not None for p in self.free)

    @property
    def has_fixed_scale(self) -> bool:
        """Whether a variance is fixed, so that the covariance matrix is not free in scale."""
        return any(p.kind.has_scale for p in self.fields if p.name in self.fixed)

    @property
    def by_level(self) -> bool:
        """Whether parameters, or their bounds, depend on the number of levels."""
        return any(p.by_level for p in self.fields)

    def given(self: Self, **options: Any) -> Self:
        """The structure with further options, or values at which parameters are fixed."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        made = type(self)(**{name: value for name, value in own.items() if value is not None} | options)
        return made._with(_tied=vars(self)["_tied"]) if "_tied" in vars(self) else made

    @property
    def rows_held(self) -> int | None:
        """Rows of the square arrays that it holds, where its class says ``by_level = True``: level i is their row i."""
        if getattr(type(self), "by_level", None) is not True:
            return None
        shapes = [np.shape(v) for v in vars(self).values() if isinstance(v, np.ndarray)]
        return next((shape[0] for shape in shapes if len(shape) == 2 and shape[0] == shape[1]), None)

    def check_fixed(self, dim: Any) -> None:
        """Refuse values that are fixed at what cannot be with `dim` levels, and more levels than a matrix has rows."""
        if self.rows_held is not None and self.rows_held < dim:
            raise JaxlmmError(f"{type(self).__name__}: it holds a matrix of {self.rows_held} rows, found {dim} levels")
        for p in self.fields:
            if p.name in self.fixed:
                p.check(np.asarray(getattr(self, p.name)), dim)

    def tied(self: Self, **labels: Any) -> Self:
        """The structure with entries of its vectors tied to each other.

        Parameters
        ----------
        labels : for fields with an entry a level, a label for each entry; entries with the same label share one
            parameter: ``Diagonal().tied(variances=("a", "a", "b"))``
        """
        ties = dict(vars(self).get("_tied", ()))
        vectors = [p.name for p in self.fields if p.per_level is not None]
        for name, group in labels.items():
            if name not in vectors:
                raise JaxlmmError(f"{type(self).__name__}: {name} cannot be tied, expected one of {vectors}")
            known = list(dict.fromkeys(group))
            ties[name] = tuple(known.index(label) for label in group)
        return self._with(_tied=tuple(ties.items()))

    # ------------------------------------------------------------------ values and coordinates

    def bind(self: Self, values: Mapping[str, Any]) -> Self:
        """The structure at given natural values, by field name."""
        return self._with(_fixed=self.fixed, **values)

    def size(self, dim: Any) -> int:
        """Number of unconstrained parameters for `dim` levels."""
        return sum(p.size(dim) for p in self.free)

    def _split(self, v: Any, dim: Any) -> list[tuple[Parameter, Any]]:
        parts, begin = [], 0
        for p in self.free:
            end = begin + p.size(dim)
            parts.append((p, v[..., begin:end]))
            begin = end
        return parts

    def _bound(self: Self, chart: str, v: Any, dim: Any) -> Self:
        values = {p.name: p.full(getattr(self, p.name), dim) for p in self.fields if p.name in self.fixed}
        return self.bind({**values, **{p.name: p.natural(chart, part, dim) for p, part in self._split(v, dim)}})

    def from_public(self: Self, theta: Array, dim: Any) -> Self:
        """The structure at unconstrained public coordinates (as in ``fit.theta``)."""
        return self._bound("from_public", theta, dim)

    def from_solver(self: Self, s: Array, dim: Any) -> Self:
        """The structure at coordinates of the solver."""
        return self._bound("from_solver", s, dim)

    def from_natural(self: Self, v: Array, dim: Any) -> Self:
        """The structure at natural coordinates: the values of its fields, of a matrix the lower triangle."""
        return self._bound("from_natural", v, dim)

    def _coordinates(self, chart: str, dim: Any) -> np.ndarray:
        found = [p.coordinates(chart, getattr(self, p.name), dim) for p in self.free]
        return np.concatenate([np.zeros(0), *found])

    def to_public(self, dim: Any) -> np.ndarray:
        """Unconstrained public coordinates of a structure with values (host side)."""
        return self._coordinates("to_public", dim)

    def to_solver(self, dim: Any) -> np.ndarray:
        """Coordinates of the solver of a structure with values (host side)."""
        return self._coordinates("to_solver", dim)

    def start(self, dim: Any, distance: Any = 1.0) -> np.ndarray:
        """Start values in coordinates of the solver; `distance` is a typical one, or (d,) along each coordinate."""
        distance = float(np.sqrt(np.sum(np.square(distance))))
        start = np.concatenate([np.zeros(0), *(p.start(dim, distance) for p in self.free)])
        return start + np.array(vars(self).get("_shift", 0.0))  # see `trial`

    def alternatives(self, dim: Any) -> np.ndarray:
        """Further starts (a, size) in coordinates of the solver, NaN where a start is as `start` has it."""
        rows, begin = [np.zeros((0, self.size(dim)))], 0
        for p in self.free:
            for value in p.alternatives(dim):
                rows.append(np.full((1, self.size(dim)), np.nan))
                rows[-1][0, begin : begin + len(value)] = value
            begin += p.size(dim)
        return np.concatenate(rows)

    def charts(self, dim: Any, places: Any) -> list[Chart]:
        """What the solver steps in, see `charts`; `places` are sets of coordinates (K, T, d)."""
        return []

    def kinds(self, dim: Any) -> list[Kind]:
        """The kind of every coordinate."""
        return [p.kind for p in self.free for _ in range(p.size(dim))]

    def degrees(self, dim: Any) -> np.ndarray:
        """The power of the standard deviation of y that every solver coordinate is proportional to, often 1 or 0."""
        return np.array([kind.degree for kind in self.kinds(dim)]) / vars(self).get("_power", 1.0)  # see `trial`

    def unit_sizes(self, dim: Any, unit: Any, sd: Any = 1.0, xp: Any = np) -> Any:
        """Sizes (..., size) of the solver coordinates for standard deviations `sd` of y, see `Parameter.scale`.

        A `unit` (..., m) that is not one of `dim` levels stands for units of one.
        """
        if unit.shape[-1] != dim:
            unit = xp.ones((*unit.shape[:-1], dim if np.ndim(dim) == 0 else 1))
        return concatenated(unit, [p.scale(dim, unit, xp) for p in self.free]) * sd ** self.degrees(dim)

    def _by_field(self, method: str, s: Any, dim: Any, *args: Any) -> Any:
        """Coordinates (..., size) to which the kinds have applied a method."""
        return concatenated(s, [getattr(p.kind, method)(v, p.rows(dim), *args) for p, v in self._split(s, dim)])

    def canonical(self, s: Any, dim: Any) -> Any:
        """The representative among equivalent solver coordinates (signs, zero columns)."""
        return self._by_field("canonical", s, dim)

    def signed(self, s: Any, dim: Any) -> Any:
        """Coordinates of the same value to the last digit, with the signs that public ones are made from."""
        return self._by_field("signed", s, dim)

    def snapped(self, s: Any, dim: Any, tolerance: float) -> Any:
        """Canonical coordinates with everything within `tolerance` of the boundary put on it."""
        return self._by_field("snapped", s, dim, tolerance)

    def solver_to_public(self, s: Any, dim: Any) -> Any:
        """Public coordinates of canonical solver coordinates."""
        return self._by_field("solver_to_public", s, dim)

    def public_to_solver(self, u: Any, dim: Any) -> Any:
        """Canonical solver coordinates of public ones."""
        return self._by_field("public_to_solver", u, dim)

    def solver_to_natural(self, s: Any, dim: Any) -> Any:
        """Natural coordinates (see `from_natural`) of solver coordinates."""
        return self._by_field("solver_to_natural", s, dim)

    def to_sas(self, v: Any, dim: Any, chart: str) -> Any:
        """Parameters as in `sas`, where they are as many, at coordinates of a chart, "solver" or "natural"."""
        values = getattr(self, f"from_{chart}")(v, dim).sas()
        natural = v if chart == "natural" else self.solver_to_natural(v, dim)
        if all(p.name in values for p in self.free):
            return natural
        found = jnp.concatenate([jnp.ravel(x) for x in values.values()])
        return found if found.shape == v.shape else natural

    def at_boundary(self, s: np.ndarray, dim: Any, tolerance: Any) -> np.ndarray:
        """Whether any parameter of coordinates (..., size) is on the boundary of its space, up to `tolerance`."""
        found = np.zeros(s.shape[:-1], bool)
        for p, v in self._split(s, dim):
            found = found | p.kind.at_boundary(v, p.rows(dim), tolerance)
        return found

    # ------------------------------------------------------------------ what users see

    def reported(self) -> dict[str, Any]:
        """What users see of a structure with values, by name: its estimated fields, or what others call parameters."""
        return {p.name: getattr(self, p.name) for p in self.free}

    def sas(self) -> dict[str, Any]:
        """The parameters of SAS PROC MIXED, in which it takes second derivatives of V; default those `reported`."""
        return self.reported()

    def named(self, dim: Any) -> list[tuple[str, Any]]:
        """Names and values of what users see of a structure with values: ``variances[0]``, ...; traceable."""
        own = {p.name: p for p in self.fields}
        values = self.reported().items()
        return [e for name, x in values for e in (own[name].entries(x) if name in own else labelled(name, x))]

    def natural(self, theta: Any, dim: Any) -> list[tuple[str, float]]:
        """Names and natural values of the parameters at public coordinates, as `named`."""
        with float64():
            theta, names = np.asarray(theta, float), list[str]()
            jax.eval_shape(lambda u: names.extend(name for name, _ in self.from_public(u, dim).named(dim)), theta)
            return [(n, float(x)) for n, x in zip(names, _natural_values(self, theta, dim), strict=True)]


@functools.partial(jax.jit, static_argnums=(0, 2))
def _natural_values(structure: Parametric, theta: Array, dim: Any) -> list[Any]:
    """The values of `named` by one program, where outside of compiled code every operation would be one."""
    return [value for _, value in structure.from_public(theta, dim).named(dim)]


def _told(init: Any) -> Any:
    """A constructor that says which arguments there are."""
    _, *names = inspect.signature(init).parameters

    @functools.wraps(init)
    def own(self: Any, *args: Any, **values: Any) -> None:
        name = type(self).__name__
        refuse_unknown(name, values, names)
        if args and len(args) > len(names) - len(type(self).fields):
            raise TypeError(
                f"{name}: found {len(args)} values without a name; it takes {', '.join(names) or 'nothing'}, by name: "
                "a parameter that is given a value is fixed at it"
            )
        init(self, *args, **values)

    return own


def _is_shipped(cls: type) -> bool:
    return cls.__module__.startswith(f"{__package__}.")


def _holds_arrays(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (isinstance(value, tuple) and any(map(_holds_arrays, value)))


def _flatten_with(leaves: tuple[str, ...]) -> Any:
    keys = [jax.tree_util.GetAttrKey(name) for name in leaves]

    def flatten(structure: Any) -> tuple[Any, Any]:
        own = vars(structure).items()
        rest = tuple((name, Content(v) if _holds_arrays(v) else v) for name, v in own if name not in leaves)
        return [(key, getattr(structure, key.name)) for key in keys], rest

    return flatten


def _unflatten_with(cls: type, leaves: tuple[str, ...]) -> Any:
    def unflatten(rest: Any, values: Any) -> Any:
        structure: Any = object.__new__(cls)
        structure.__dict__.update(zip(leaves, values, strict=True))
        structure.__dict__.update((name, v.value if isinstance(v, Content) else v) for name, v in rest)
        return structure

    return unflatten
