"""The base class of covariance structures: annotated natural parameters in, a covariance matrix out."""

from __future__ import annotations

import dataclasses
import sys
import typing
from typing import Any, ClassVar

import jax
import numpy as np
from jax import Array

from ..errors import JaxlmmError
from ..linalg import tril_indices
from ..parameters import CovarianceMatrixKind, Field, Kind, PerLevel, concatenated, module_of


def _fields_of(cls: type, namespace: dict[str, Any]) -> tuple[tuple[Field, ...], tuple[str, ...]]:
    """Split annotations into natural parameters (those that carry a kind) and plain static options."""
    hints = typing.get_type_hints(cls, localns=namespace, include_extras=True)
    natural, static = [], []
    for name, hint in hints.items():
        if typing.get_origin(hint) is ClassVar or name.startswith("_"):
            continue
        marks = getattr(hint, "__metadata__", ())
        kinds = [m for m in marks if isinstance(m, Kind)]
        sizes = [m for m in marks if isinstance(m, PerLevel)]
        if kinds:
            natural.append(Field(name, kinds[-1], sizes[-1] if sizes else None))
        else:
            static.append(name)
    return tuple(natural), tuple(static)


class Covariance:
    """A covariance structure: a small frozen pytree whose leaves are natural parameters.

    A subclass declares its natural parameters as annotated fields and implements `matrix`; that is all::

        class OrnsteinUhlenbeck(jaxlmm.Covariance):
            variance: Variance
            range: Positive

            def matrix(self, t):
                return self.variance * jnp.exp(-abs(t[:, None] - t[None, :]) / self.range)

    Field kinds are `Variance`, `Positive`, `Correlation`, `CovarianceMatrix`; ``Annotated[Variance, each_level]``
    is a vector with one entry a level. Fields without a kind are static options. `matrix` must be homogeneous of
    degree one in its `Variance` and `CovarianceMatrix` fields and positive semidefinite at all allowed values.
    An instance without values (``OrnsteinUhlenbeck()``) is a structure to be estimated.
    """

    fields: ClassVar[tuple[Field, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        caller = sys._getframe(1)
        natural, static = _fields_of(cls, {**caller.f_globals, **caller.f_locals})
        cls.fields = natural
        for field in natural:
            setattr(cls, field.name, None)
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        jax.tree_util.register_dataclass(cls, [f.name for f in natural], list(static))

    def matrix(self, levels: Any) -> Array:
        """Covariance matrix (m, m) at `levels` (m,): positions 0, 1, ... of the levels, or coordinates."""
        raise NotImplementedError(f"{type(self).__name__} must implement matrix(self, levels)")

    def size(self, dim: int) -> int:
        """Number of unconstrained parameters for `dim` levels."""
        return sum(f.size(dim) for f in self.fields)

    def bind(self, values: dict[str, Any]) -> Covariance:
        """The structure at given natural values, by field name."""
        return dataclasses.replace(self, **values)  # type: ignore[type-var]

    @property
    def is_free(self) -> bool:
        """True when no natural parameter has a value yet."""
        return all(getattr(self, f.name) is None for f in self.fields)

    def _split(self, v: Any, dim: int) -> list[tuple[Field, Any]]:
        parts, start = [], 0
        for f in self.fields:
            parts.append((f, v[..., start : start + f.size(dim)]))
            start += f.size(dim)
        return parts

    def from_public(self, theta: Array, dim: int) -> Covariance:
        """The structure at unconstrained public coordinates (as in ``fit.theta``)."""
        return self.bind({f.name: _shape(f, f.kind.from_public(v, dim), dim) for f, v in self._split(theta, dim)})

    def from_solver(self, s: Array, dim: int) -> Covariance:
        """The structure at coordinates of the solver."""
        return self.bind({f.name: _shape(f, f.kind.from_solver(v, dim), dim) for f, v in self._split(s, dim)})

    def to_public(self, dim: int) -> np.ndarray:
        """Unconstrained public coordinates of a structure with values (host side)."""
        values = [np.ravel(f.kind.to_public(np.asarray(getattr(self, f.name)), dim)) for f in self.fields]
        return np.concatenate(values) if values else np.zeros(0)

    def _by_field(self, function: Any, dim: int, s: Any = None) -> Any:
        """Concatenate ``function(field, part of s)`` over the fields, for coordinates s (..., size)."""
        s = np.zeros(self.size(dim)) if s is None else s
        values = [module_of(s).reshape(function(f, v), (*s.shape[:-1], f.size(dim))) for f, v in self._split(s, dim)]
        return concatenated(s, values)

    def to_solver(self, dim: int) -> np.ndarray:
        """Coordinates of the solver of a structure with values (host side)."""
        return self._by_field(lambda f, _: f.kind.to_solver(np.asarray(getattr(self, f.name)), dim), dim)

    def start(self, dim: int) -> np.ndarray:
        """Start values in coordinates of the solver."""
        return self._by_field(lambda f, _: f.kind.to_solver(f.start(dim), dim), dim)

    def scale(self, dim: int, unit: Any, sd: Any = 1.0, xp: Any = np) -> Any:
        """Sizes (..., size) of the solver coordinates for residual standard deviations `sd`, see `Field.scale`."""
        sizes = [f.scale(dim, unit, xp) * (sd if f.kind.has_scale else xp.ones_like(sd)) for f in self.fields]
        return concatenated(unit, sizes)

    def canonical(self, s: Any, dim: int) -> Any:
        """The representative among equivalent solver coordinates (signs, zero columns)."""
        return self._by_field(lambda f, v: f.kind.canonical(v, dim), dim, s)

    def snapped(self, s: Any, dim: int, tolerance: float) -> Any:
        """Canonical coordinates with everything within `tolerance` of the boundary put on it."""
        return self._by_field(lambda f, v: f.kind.snapped(v, dim, tolerance), dim, s)

    def at_boundary(self, s: np.ndarray, dim: int, tolerance: float) -> np.ndarray:
        """Whether any parameter of coordinates (..., size) is on the boundary of its space, up to `tolerance`."""
        found = np.zeros(s.shape[:-1], bool)
        for f, v in self._split(s, dim):
            found = found | f.kind.at_boundary(v, dim, tolerance)
        return found

    @property
    def is_matrix(self) -> bool:
        """Whether the structure is one free covariance matrix."""
        return len(self.fields) == 1 and isinstance(self.fields[0].kind, CovarianceMatrixKind)

    def in_basis(self, s: Any, dim: int, K: Any) -> Any:
        """Coordinates (..., size) of ``K G K'``, K (..., q, q) lower triangular; unchanged unless a free matrix."""
        if not self.is_matrix or dim < 2:
            return s
        rows, columns = tril_indices(dim)
        place = np.zeros((len(rows), dim, dim))
        place[np.arange(len(rows)), rows, columns] = 1.0
        return (K @ module_of(s).einsum("...m,mij->...ij", s, place))[..., rows, columns]

    def solver_to_public(self, s: Any, dim: int) -> Any:
        """Public coordinates of canonical solver coordinates."""
        return self._by_field(lambda f, v: f.kind.solver_to_public(v, dim), dim, s)

    def checked(self, where: str) -> Covariance:
        """The structure itself, or a clear error when it cannot be estimated from its start values."""
        if not isinstance(self, Covariance) or type(self) is Covariance:
            raise JaxlmmError(f"{where}: expected a covariance structure such as Unstructured(), found {self!r}")
        if not self.is_free:
            raise JaxlmmError(
                f"{where}: {type(self).__name__} has parameter values; fixed parameters are not supported yet, "
                f"use {type(self).__name__}() to estimate them all"
            )
        return self


def _shape(field: Field, value: Array, dim: int) -> Array:
    return value.reshape(field.shape(dim))
