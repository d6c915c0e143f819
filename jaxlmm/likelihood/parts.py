"""Raw arrays of a model and all checks of array input.

Vocabulary used everywhere: n rows, p columns of X, and for a random term q columns of Z and m levels of its
grouping factor. Integer layout (codes of levels) is data too, so that models of one shape share compiled code.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ..arguments import made, numbers_of
from ..covariance import ByGroup, Covariance, Identity, Scaled, Unstructured
from ..covariance.charts import typical
from ..covariance.trial import tried
from ..errors import DataError
from ..frames.alignment import refuse_masked
from ..frames.columns import same_index
from ..frames.levels import numbered
from ..pytrees import frozen_pytree, is_traced, replace, set_all
from ..tolerances import FITTED_BY_X, column_rank, not_semidefinite, origin, shifted, unit_columns

MOST_PLACES = 1_000_000  # numbers of levels of a random function


def as_array(name: str, value: Any, shape: tuple[int | None, ...]) -> Any:
    """`value` as a float64 NumPy array of `shape` (None: any length), or unchanged if traced."""
    if not is_traced(value):
        refuse_masked(name, value)
        value = numbers_of(name, value)
    if len(value.shape) != len(shape) or any(s is not None and s != v for s, v in zip(shape, value.shape, strict=True)):
        expected = "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
        raise DataError(f"{name}: expected an array of shape {expected}, found shape {tuple(value.shape)}")
    if not is_traced(value) and not np.all(np.isfinite(value)):
        bad = int(np.sum(~np.isfinite(value)))
        raise DataError(f"{name}: {bad} values are NaN or infinite; drop or repair these rows first")
    return value


def own_array(name: str, value: Any, shape: tuple[int | None, ...]) -> Any:
    """As `as_array`, read-only, and copied where others may write to it."""
    return unwritten(as_array(name, value, shape))


def unwritten(value: Any) -> Any:
    """An array that nobody writes to: itself if it is read-only with memory of its own, else a copy; other values."""
    if not isinstance(value, np.ndarray):
        return value
    if value.flags.writeable or value.base is not None:
        value = value.copy(order="K")
        value.setflags(write=False)
    return value


def as_codes(name: str, group: Any, n: int) -> tuple[np.ndarray, int]:
    """Level codes 0, 1, ... (n,) int32 and the number of levels, from any array of labels."""
    if is_traced(group):
        raise DataError(f"{name}: grouping factors must be concrete arrays, found a traced value; vmap over y, X, Z")
    refuse_masked(name, group)
    group = np.asarray(group)
    if group.shape != (n,):
        raise DataError(f"{name}: expected one label a row, shape ({n},), found shape {group.shape}")
    missing = _missing(group)
    if missing:
        raise DataError(f"{name}: {missing} labels are missing (NaN or None); drop these rows, or give them a label")
    labels, codes = numbered(group)
    return codes, len(labels)


@made
@frozen_pytree(data=("Z", "group", "relationship"), meta=("structure", "levels", "name"))
@dataclasses.dataclass(frozen=True, init=False, eq=False)
class Term:
    """A random term: draws of q effects with covariance `structure`, one draw a level of `group`.

    Parameters
    ----------
    Z : (n, q) design of the effects, or (n,) for q = 1
    group : (n,) labels of the grouping factor; sorted labels become levels 0, 1, ...
    structure : covariance structure of the q effects, default `Unstructured`
    name : label used in messages and tables
    relationship : (m, m) positive semidefinite matrix A between the sorted levels, ``Cov(u_g, u_h) = A_gh G``; default
        independent levels. It may be traced, and is not checked then
    """

    Z: Any
    group: Any
    structure: Covariance
    levels: int
    name: str
    relationship: Any

    def __init__(
        self, Z: Any, group: Any, structure: Covariance | None = None, name: str = "", relationship: Any = None
    ):  # fmt: skip
        name = name or "random term"
        same_index(name, Z=Z, group=group)
        Z = Z if is_traced(Z) else np.asanyarray(Z)
        Z = Z[:, None] if Z.ndim == 1 else Z
        codes, levels = as_codes(f"group of {name}", group, Z.shape[0])
        structure = Unstructured() if structure is None else structure
        structure = Covariance.checked(structure, f"structure of {name}", Z.shape[-1])
        set_all(
            self, Z=own_array(f"Z of {name}", Z, (None, None)), group=codes, levels=levels, name=name,
            structure=tried(structure, Z.shape[-1], np.arange(Z.shape[-1], dtype=np.int32), name),
            relationship=None if relationship is None else check_relationship(name, relationship, levels),
        )  # fmt: skip

    @property
    def dim(self) -> int:
        """Number q of effects a level."""
        return self.Z.shape[-1]

    @property
    def is_plain(self) -> bool:
        """Whether independent residuals have to be there beside it.

        Relatives, and as many effects of a structure as rows, may take over all of the variation.
        """
        saturates = self.levels * self.dim >= self.Z.shape[0] and not self.structure.is_matrix
        return self.relationship is None and not saturates

    def subset(self, rows: np.ndarray, keep: bool = False) -> Term:
        """The term of some rows, with the levels that are left or, to `keep` shapes, with all of them."""
        if keep:
            return replace(self, Z=self.Z[rows], group=self.group[rows])
        levels = np.unique(self.group[rows])
        known = None if self.relationship is None else self.relationship[np.ix_(levels, levels)]
        return Term(self.Z[rows], self.group[rows], self.structure, self.name, known)


@made
@frozen_pytree(data=("group", "position", "coords", "sets"), meta=("structure", "dim", "name"))
@dataclasses.dataclass(frozen=True, init=False, eq=False)
class Field:
    """A random function of the place of each row, with covariance `structure` between places.

    Rows of one group share a draw of the function, rows of different groups are independent. A place is one of a few
    levels (`position`), or has coordinates: times, points on a map.

    Parameters
    ----------
    structure : covariance structure over the places
    group : (n,) labels; default one function over all rows
    position : (n,) integers 0, 1, ..., the level of each row
    coords : (n,) or (n, d) coordinates of each row, in place of `position`; they may be traced: then each group has a
        set of its own, and nothing is checked or tried of the structure
    dim : what sizes of the structure depend on; default the number of levels, or 1 with coordinates
    name : label used in messages and tables

    Attributes
    ----------
    position : (n,) level of each row, or its place in the set of coordinates of its group
    coords : (K, T) or (K, T, d) the distinct sets of coordinates, padded with copies of their first; or None
    sets : (groups,) the set of each group, or None
    row_coords : (n,) or (n, d) coordinates of each row, ``coords[sets[group], position]``, or None
    """

    group: Any
    position: Any
    coords: Any
    sets: Any
    structure: Covariance
    dim: Any
    name: str

    def __init__(
        self, structure: Covariance, group: Any = None, position: Any = None, coords: Any = None, dim: Any = None,
        name: str = "",
    ):  # fmt: skip
        name = name or "random function"
        structure = Covariance.checked(structure, f"structure of {name}")
        if (position is None) == (coords is None):
            raise DataError(f"{name}: give position or coords, one of the two")
        same_index(name, group=group, position=position, coords=coords)
        n = len(position if coords is None else coords)
        codes = np.zeros(n, np.int32) if group is None else as_codes(f"group of {name}", group, n)[0]
        sets = None
        if coords is None:
            places = position = _levels(name, position)
            dim = int(position.max(initial=0)) + 1 if dim is None else dim
        else:
            coords = as_array(f"coords of {name}", coords, (None,) * max(np.ndim(coords), 1))
            if not is_traced(coords):
                _check_arms(name, structure, codes, coords)
            places, (position, coords, sets) = coords, _sets(codes, coords)
            dim = 1 if dim is None else dim
        structure = structure.checked(f"structure of {name}", dim)
        if not is_traced(coords):
            structure = tried(
                structure, dim, places, name, 1.0 if coords is None else typical(coords), coords is not None
            )
        set_all(
            self, structure=structure, group=codes, position=position, coords=coords, sets=sets, dim=dim, name=name
        )  # fmt: skip

    @property
    def row_coords(self) -> Any:
        """Coordinates of each row (n,) or (n, d), None where places are levels."""
        if self.coords is None:
            return None
        return self.coords[np.asarray(self.sets)[self.group], self.position]

    def subset(self, rows: np.ndarray, keep: bool = True) -> Any:
        """The random function at some rows, with the same levels."""
        if self.group is None:
            return self
        if self.coords is None:
            return replace(self, group=self.group[rows], position=self.position[rows])
        group = as_codes("group", self.group[rows], len(rows))[0]
        position, coords, sets = _sets(group, self.row_coords[rows])
        return replace(self, group=group, position=position, coords=coords, sets=sets)


@made
@frozen_pytree(data=("group", "position", "coords", "sets"), meta=("structure", "dim", "name"))
@dataclasses.dataclass(frozen=True, init=False, eq=False)
class Residual(Field):
    """The residual covariance: `structure` over the places of the rows of a group.

    ``Residual()`` is independent errors of one variance. With weights w, ``Cov(e_i, e_j)`` is divided by
    ``sqrt(w_i w_j)``. Rows of different groups are independent, and no two rows of a group have the same place.

    Parameters
    ----------
    structure : covariance structure, default `Identity` (one variance)
    group : (n,) labels of subjects; default one group with coordinates, else every row its own
    position : (n,) integers 0..dim-1, the level (visit) of each row;  coords : (n,) or (n, d) in its place
    dim : see `Field`
    """

    def __init__(
        self, structure: Covariance | None = None, group: Any = None, position: Any = None, coords: Any = None,
        dim: Any = None,
    ):  # fmt: skip
        structure = Identity() if structure is None else structure
        if position is None and coords is None:
            if group is not None:
                raise DataError("residual: give position or coords with group")
            structure = Covariance.checked(structure, "structure of residual", 1)
            structure = tried(structure, 1, np.zeros(1, np.int32), "residual")
            set_all(
                self, structure=structure, group=None, position=None, coords=None, sets=None, dim=1, name="residual"
            )
            return
        if position is not None and group is None:
            raise DataError("residual: give both group and position, or neither")
        super().__init__(structure, group, position, coords, dim, "residual")
        if is_traced(coords):
            return
        places = np.stack([self.group, self.position], 1)[:, :, None] if coords is None else None
        if places is None:
            rows = np.asarray(self.row_coords, float).reshape(len(self.group), -1)
            places = np.column_stack([self.group, rows])[:, :, None]
        if len(np.unique(places[:, :, 0], axis=0)) != len(places):
            what = "position" if coords is None else "place"
            raise DataError(
                f"residual: a {what} is repeated within a group, where {type(structure).__name__} would be singular; "
                "each row needs its own (a Field of this structure with independent residuals may repeat it)"
            )

    @property
    def is_known(self) -> bool:
        """Whether their covariance is fixed, as by known sampling variances: then y may be anything."""
        return self.structure.size(self.dim) == 0

    @property
    def is_iid(self) -> bool:
        """True for independent errors of one variance."""
        return self.group is None and isinstance(self.structure, Identity)


def _levels(name: str, position: Any) -> np.ndarray:
    refuse_masked(f"position of {name}", position)
    position = np.asarray(position)
    if position.dtype.kind not in "iu" or position.ndim != 1 or position.min(initial=0) < 0:
        raise DataError(f"{name}: position must be a vector of integers 0, 1, ...")
    if (largest := int(position.max(initial=0))) > MOST_PLACES:
        raise DataError(
            f"{name}: position has {largest}, expected at most {MOST_PLACES:,}; number the levels 0, 1, ..."
        )
    return position.astype(np.int32)


def _check_arms(name: str, structure: Covariance, group: np.ndarray, coords: np.ndarray) -> None:
    """Refuse a group with rows in several arms where each arm has parameters of its own, see `ByGroup`."""
    inner = structure.parts[0] if isinstance(structure, Scaled) else structure
    if not isinstance(inner, ByGroup) or coords.ndim != 2:
        return
    arm = coords[:, 0]
    first = np.empty(int(group.max(initial=-1)) + 1)
    first[group] = arm
    if np.any(arm != first[group]):
        raise DataError(
            f"{name}: {len(np.unique(group[arm != first[group]]))} group(s) have several values in the first column of "
            "coords, which says whose parameters a whole group has; make the rows of each a group of their own"
        )


def _sets(group: np.ndarray, coords: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place (n,) of each row in the set of its group; distinct sets (K, T, ...); the set of each group (groups,)."""
    n, traced = len(group), is_traced(coords)
    columns = () if traced else coords.reshape(len(coords), -1).T  # where they are traced, the order of the rows
    order = np.lexsort((*columns[::-1], group))
    counts = np.bincount(group)
    slot = (np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)).astype(np.int32)
    position = np.empty(n, np.int32)
    position[order] = slot
    row = np.full((len(counts), int(counts.max(initial=1))), -1)
    row[group[order], slot] = order
    table = coords[np.where(row < 0, row[:, :1], row)]
    if traced:
        return position, table, np.arange(len(counts), dtype=np.int32)
    _, first, sets = np.unique(table.reshape(len(counts), -1), axis=0, return_index=True, return_inverse=True)
    return position, table[first], sets.reshape(-1).astype(np.int32)


def _missing(labels: np.ndarray) -> int:
    """How many labels are missing values."""
    if labels.dtype.kind == "O":
        return sum(v is None or v != v or type(v).__name__ in ("NAType", "NaTType") for v in labels)
    return int(np.sum(labels != labels)) if labels.dtype.kind in "fmM" else 0


def check_relationship(name: str, A: Any, levels: int) -> Any:
    """A symmetric positive semidefinite matrix between the levels of a grouping factor."""
    A = as_array(f"relationship of {name}", A, (levels, levels))
    if is_traced(A):
        return 0.5 * (A + A.T)
    if problem := not_semidefinite(A) or ("" if np.any(A) else "it is zero"):
        raise DataError(f"relationship of {name}: expected a symmetric, positive semidefinite matrix, but {problem}")
    return 0.5 * (A + A.T)


def check_weights(weights: Any, n: int) -> Any:
    """Positive case weights (n,): ``Var(e_i) = sigma^2 / w_i``."""
    weights = own_array("weights", weights, (n,))
    if not is_traced(weights) and np.any(weights <= 0):
        raise DataError(
            f"weights: {int(np.sum(weights <= 0))} of {n} are zero or negative, expected positive numbers "
            "(Var = sigma^2 / weight); drop the rows that should not count, or where they have to stay, as under "
            "jax.vmap, put zeros in by model.replace(weights=...)"
        )
    return weights


def check_design(y: Any, X: Any, residual: Residual, size: int) -> None:
    """Refuse a design in which REML does not exist: n <= p, collinear X, constant or exactly fitted y.

    With known variances of the residuals any y will do, and without a parameter to be estimated (`size`) n = p.
    """
    n, p = X.shape
    if n < p or (n == p and (size or not n)):
        raise DataError(f"X: {p} columns need more than {p} rows, found {n}")
    if is_traced(y, X):
        return
    rank = column_rank(X)
    if rank < p:
        raise DataError(f"X: {p} columns but rank {rank}; drop the redundant columns (lmm() does this by itself)")
    if residual.is_known:
        return
    if np.ptp(y) == 0:
        raise DataError(f"y: constant response, all {n} values equal {float(y[0]):g}; there is nothing to model")
    Q, _ = np.linalg.qr(unit_columns(shifted(X, origin(X))))
    left = y - Q @ (Q.T @ y)
    if np.sum((left - Q @ (Q.T @ left)) ** 2) <= (FITTED_BY_X * np.sqrt(np.sum(y**2))) ** 2:
        raise DataError("y: the columns of X fit it exactly; no variation is left to estimate a variance from")
