"""Raw arrays of a model and all checks of array input.

Vocabulary used everywhere: n rows, p columns of X, and for a random term q columns of Z and m levels of its
grouping factor. Integer layout (codes of levels) is data too, so that models of one shape share compiled code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from .covariance import Covariance, Identity, Unstructured
from .errors import DataError

T = TypeVar("T")


def frozen_pytree(data: Sequence[str], meta: Sequence[str] = ()) -> Callable[[type[T]], type[T]]:
    """Class decorator: register a frozen dataclass as a pytree whose constructor checks are skipped by JAX."""

    def register(cls: type[T]) -> type[T]:
        def flatten_with_keys(obj: Any) -> tuple[Any, Any]:
            children = [(jax.tree_util.GetAttrKey(name), getattr(obj, name)) for name in data]
            return children, tuple(getattr(obj, name) for name in meta)

        def unflatten(aux: Any, children: Any) -> Any:
            obj = object.__new__(cls)
            for name, value in (*zip(data, children, strict=True), *zip(meta, aux, strict=True)):
                object.__setattr__(obj, name, value)
            return obj

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten)
        return cls

    return register


def is_traced(*values: Any) -> bool:
    """True when any leaf is a JAX tracer (inside jit, vmap or grad), whose values cannot be looked at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree_util.tree_leaves(values))


def replace(obj: T, **changes: Any) -> T:
    """Copy of a frozen dataclass with some fields changed and no checks run."""
    new = object.__new__(type(obj))
    for field in dataclasses.fields(obj):  # type: ignore[arg-type]
        object.__setattr__(new, field.name, changes.get(field.name, getattr(obj, field.name)))
    return new


def as_array(name: str, value: Any, shape: tuple[int | None, ...]) -> Any:
    """`value` as a float64 NumPy array of `shape` (None: any length), or unchanged if traced."""
    if not is_traced(value):
        try:
            if np.iscomplexobj(value):
                raise TypeError("complex numbers")
            value = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{name}: expected numbers, found {type(value).__name__} ({error})") from None
    if len(value.shape) != len(shape) or any(s is not None and s != v for s, v in zip(shape, value.shape, strict=True)):
        expected = "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
        raise DataError(f"{name}: expected an array of shape {expected}, found shape {tuple(value.shape)}")
    if not is_traced(value) and not np.all(np.isfinite(value)):
        bad = int(np.sum(~np.isfinite(value)))
        raise DataError(f"{name}: {bad} values are NaN or infinite; drop or repair these rows first")
    return value


def as_codes(name: str, group: Any, n: int) -> tuple[np.ndarray, int]:
    """Level codes 0, 1, ... (n,) int32 and the number of levels, from any array of labels."""
    if is_traced(group):
        raise DataError(f"{name}: grouping factors must be concrete arrays, found a traced value; vmap over y, X, Z")
    group = np.asarray(group)
    if group.shape != (n,):
        raise DataError(f"{name}: expected one label a row, shape ({n},), found shape {group.shape}")
    labels, codes = np.unique(group, return_inverse=True)
    return codes.astype(np.int32), len(labels)


@frozen_pytree(data=("Z", "group"), meta=("structure", "levels", "name"))
@dataclasses.dataclass(frozen=True, init=False, eq=False)
class Term:
    """A random term: independent draws of q effects with covariance `structure`, one draw a level of `group`.

    Parameters
    ----------
    Z : (n, q) design of the effects, or (n,) for q = 1
    group : (n,) labels of the grouping factor; sorted labels become levels 0, 1, ...
    structure : covariance structure of the q effects, default `Unstructured`
    name : label used in messages and tables
    """

    Z: Any
    group: Any
    structure: Covariance
    levels: int
    name: str

    def __init__(self, Z: Any, group: Any, structure: Covariance | None = None, name: str = ""):
        Z = Z if is_traced(Z) else np.asarray(Z)
        Z = Z[:, None] if Z.ndim == 1 else Z
        name = name or "random term"
        codes, levels = as_codes(f"group of {name}", group, Z.shape[0])
        structure = Unstructured() if structure is None else structure
        set_all(
            self, Z=as_array(f"Z of {name}", Z, (None, None)), group=codes, levels=levels, name=name,
            structure=Covariance.checked(structure, f"structure of {name}"),
        )  # fmt: skip

    @property
    def dim(self) -> int:
        """Number q of effects a level."""
        return self.Z.shape[-1]


@frozen_pytree(data=("group", "position"), meta=("structure", "dim"))
@dataclasses.dataclass(frozen=True, init=False, eq=False)
class Residual:
    """The residual covariance: `structure` over the `position` of each row within its `group`.

    ``Residual()`` is independent errors of one variance. With weights w, ``Cov(e_i, e_j)`` is divided by
    ``sqrt(w_i w_j)``. Rows of different groups are independent.

    Parameters
    ----------
    structure : covariance structure, default `Identity` (one variance)
    group : (n,) labels of subjects; default every row its own
    position : (n,) integers 0..dim-1, the level (visit) of each row; default 0
    """

    group: Any
    position: Any
    structure: Covariance
    dim: int

    def __init__(self, structure: Covariance | None = None, group: Any = None, position: Any = None):
        structure = Covariance.checked(Identity() if structure is None else structure, "residual")
        if (group is None) != (position is None):
            raise DataError("residual: give both group and position, or neither")
        dim = 1
        if group is not None:
            position = np.asarray(position)
            if position.dtype.kind not in "iu" or position.ndim != 1 or position.min(initial=0) < 0:
                raise DataError("residual: position must be a vector of integers 0, 1, ...")
            position, dim = position.astype(np.int32), int(position.max(initial=0)) + 1
            group, _ = as_codes("group of the residual", group, len(position))
            pairs = np.unique(group.astype(np.int64) * dim + position)
            if len(pairs) != len(position):
                raise DataError("residual: a position is repeated within a group; each row needs its own")
        set_all(self, structure=structure, group=group, position=position, dim=dim)

    def subset(self, rows: np.ndarray) -> Residual:
        """The residual of some rows, with the same positions."""
        if self.group is None:
            return self
        return replace(self, group=self.group[rows], position=self.position[rows])

    @property
    def is_iid(self) -> bool:
        """True for independent errors of one variance, where sigma can be profiled out."""
        return self.group is None and isinstance(self.structure, Identity)


def set_all(obj: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass inside its own constructor."""
    for name, value in values.items():
        object.__setattr__(obj, name, value)


def check_weights(weights: Any, n: int) -> Any:
    """Positive case weights (n,): ``Var(e_i) = sigma^2 / w_i``."""
    weights = as_array("weights", weights, (n,))
    if not is_traced(weights) and np.any(weights <= 0):
        raise DataError(
            f"weights: {int(np.sum(weights <= 0))} of {n} are zero or negative, expected positive numbers "
            "(Var = sigma^2 / weight); drop the rows that should not count"
        )
    return weights


def check_design(y: Any, X: Any) -> None:
    """Refuse a design in which REML does not exist: n <= p, collinear X, constant or exactly fitted y."""
    n, p = X.shape
    if n <= p:
        raise DataError(f"X: {p} columns need more than {p} rows, found {n}")
    if is_traced(y, X):
        return
    norms = np.sqrt(np.sum(X**2, 0))
    Q, R = np.linalg.qr(X / np.where(norms > 0, norms, 1.0))
    rank = int(np.sum(np.linalg.svd(R, compute_uv=False) > 1e-10)) if p else 0
    if rank < p:
        raise DataError(f"X: {p} columns but rank {rank}; drop the redundant columns (lmm() does this by itself)")
    if np.ptp(y) == 0:
        raise DataError(f"y: constant response, all {n} values equal {float(y[0]):g}; there is nothing to model")
    left = y - Q @ (Q.T @ y)
    if np.sum((left - Q @ (Q.T @ left)) ** 2) <= (1e-13 * np.sqrt(np.sum(y**2))) ** 2:
        raise DataError("y: the columns of X fit it exactly; no variation is left to estimate a variance from")
