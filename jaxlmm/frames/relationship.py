"""Known covariance matrices between the levels of a grouping factor: pedigrees, genomic relationships, maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..arguments import made
from ..errors import DataError
from ..tolerances import not_semidefinite
from .alignment import refuse_masked
from .columns import Levels, index_of, read_column


@made
@dataclass(frozen=True, eq=False)
class Precision:
    """The inverse of a relationship matrix, as pedigrees give it.

    Parameters
    ----------
    array : (m, m) array, DataFrame or sparse matrix, positive definite
    labels : (m,) levels of the grouping factor in the order of the rows; default those of a DataFrame
    """

    array: Any
    labels: Sequence[Any] | None = None


@dataclass(frozen=True, eq=False)
class Unobserved:
    """Some levels without data: their relationships to the m levels with data, and between themselves.

    Attributes
    ----------
    cross : (r, m);  own : (r, r)
    """

    cross: np.ndarray
    own: np.ndarray

    def beside(self, A: np.ndarray) -> np.ndarray:
        """The relationship matrix (m + r, m + r) of the levels with data, whose own is A, and these behind them."""
        return np.block([[A, self.cross.T], [self.cross, self.own]])

    def take(self, which: np.ndarray) -> Unobserved:
        """Some of them."""
        return Unobserved(self.cross[which], self.own[np.ix_(which, which)])


@dataclass(frozen=True, eq=False)
class Relatives:
    """Levels of a relationship matrix that the data do not have.

    Attributes
    ----------
    labels : (r,) their labels, in the order of the matrix
    rows : (r,) their rows in the matrix;  observed : (m,) those of the levels of the data
    given : (M, M) the matrix, or its inverse
    """

    labels: Levels
    rows: np.ndarray
    observed: np.ndarray
    given: np.ndarray
    is_precision: bool

    @cached_property
    def matrix(self) -> np.ndarray:
        """The relationship matrix (M, M)."""
        return np.linalg.inv(self.given) if self.is_precision else self.given

    @property
    def cross(self) -> np.ndarray:
        """Relationships (r, m) to the levels of the data."""
        return self.matrix[np.ix_(self.rows, self.observed)]

    @property
    def variances(self) -> np.ndarray:
        """Relationships (r,) to themselves."""
        return np.diagonal(self.matrix)[self.rows]

    def some(self, which: np.ndarray) -> Unobserved:
        """Relationships of some of them, positions in `labels`."""
        rows = self.rows[which]
        return Unobserved(self.matrix[np.ix_(rows, self.observed)], self.matrix[np.ix_(rows, rows)])


def between_levels(
    relationships: Mapping[str, Any], group: str, levels: Levels
) -> tuple[np.ndarray | None, Relatives | None]:
    """The relationship matrix (m, m) of a grouping factor in the order of its levels, and the levels without data.

    Both are None where there is none.

    Parameters
    ----------
    relationships : mapping of grouping factors to matrices
        Each a DataFrame whose index and columns are levels, ``(array, labels)``, an array in the order of the sorted
        levels, or a `Precision`. There may be levels that the data do not have. A label is the level of the same
        value or, as names of columns are text, the one that is written like it.
    group : str
    levels : Levels

    Raises
    ------
    DataError
        For a level without a row, a matrix that is not symmetric or not positive semidefinite.
    """
    if group not in relationships:
        return None, None
    given, what = relationships[group], f"relationship[{group!r}]"
    is_precision = isinstance(given, Precision)
    matrix, labels = _matrix(given, what)
    kind = "definite" if is_precision else "semidefinite"
    problem = not_semidefinite(matrix, is_precision)
    if problem or not np.any(matrix):
        problem = problem or f"it is not positive {kind}, all of it is zero"
        raise DataError(f"{what}: expected a symmetric, positive {kind} matrix, but {problem}")
    if labels is None:
        if len(matrix) != len(levels):
            raise DataError(
                f"{what}: a matrix without labels needs a row for each of the {len(levels)} levels of {group!r} in the "
                f"data, found shape {matrix.shape}; give labels, as a DataFrame or (array, labels)"
            )
        return (np.linalg.inv(matrix) if is_precision else matrix), None
    places = places_of(levels, labels)
    absent = [level for level, place in zip(levels, places, strict=True) if place is None]
    if absent:
        listed = ", ".join(repr(level) for level in absent[:5])
        raise DataError(f"{what}: {len(absent)} level(s) of {group!r} have no row in the matrix: {listed}")
    rows = np.array(places)
    others = np.setdiff1d(np.arange(len(labels)), rows)
    kin = Relatives(labels.at(others.tolist()), others, rows, matrix, is_precision) if others.size else None
    if is_precision:
        return np.linalg.solve(matrix, np.eye(len(matrix))[:, rows])[rows], kin
    return matrix[np.ix_(rows, rows)], kin


def plain_relationship(given: Any, what: str) -> Any:
    """A relationship as an array, ``(array, labels)`` or a `Precision` of these, labels as numbers or text."""
    matrix, found = _matrix(given, what)
    pairs = zip(found, found.keys, strict=True) if found else ()
    labels = found and tuple(value if kind in ("number", "logical") else label for label, (kind, value) in pairs)
    if isinstance(given, Precision):
        return Precision(matrix, labels)
    return matrix if labels is None else (matrix, labels)


def _matrix(given: Any, what: str) -> tuple[np.ndarray, Levels | None]:
    """The array and the labels of its rows, if there are any."""
    labels: Any = None
    if isinstance(given, Precision):
        given, labels = given.array, given.labels
    elif isinstance(given, tuple) and len(given) == 2:
        given, labels = given
    if index_of(given) is not None:
        own, across = _levels(given.index, what), _levels(given.columns, what)
        order = places_of(own, across)
        if len(own) != len(across) or None in order:
            raise DataError(f"{what}: the index and the columns of the DataFrame must be the same labels, each once")
        given_labels = None if labels is None else _levels(labels, what)
        if given_labels is not None and given_labels.keys != own.keys and type(given.index).__name__ != "RangeIndex":
            raise DataError(f"{what}: the labels given are not those of the DataFrame's index; give one of the two")
        if labels is None:
            given, labels = given.to_numpy()[:, order], own
    refuse_masked(what, given)
    dense = given.toarray() if hasattr(given, "toarray") else given
    try:
        matrix = np.asarray(dense, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{what}: expected a matrix of numbers, found {type(given).__name__}") from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"{what}: expected a square matrix, found shape {matrix.shape}")
    if labels is None:
        return matrix, None
    found = labels if isinstance(labels, Levels) else _levels(labels, what)
    if len(found) != len(matrix):
        raise DataError(f"{what}: expected a label for each of the {len(matrix)} rows, found {len(found)}")
    return matrix, found


def _levels(labels: Any, what: str) -> Levels:
    """Labels as levels of a factor."""
    values = list(labels)
    column = read_column(what, values).as_factor()
    if len(column.levels) != len(values):
        raise DataError(
            f"{what}: expected a different label for each of the {len(values)} rows, found {len(column.levels)}"
        )
    return column.levels.at(column.values.tolist())


def places_of(wanted: Levels, among: Levels) -> list[int | None]:
    """The place of each level among others, by its value or else its label."""
    by_label = {label: i for i, label in enumerate(among)}
    by_key = {key: i for i, key in enumerate(among.keys)}
    return [by_key.get(key, by_label.get(label)) for label, key in zip(wanted, wanted.keys, strict=True)]
