"""Known covariance matrices between the levels of a grouping factor: pedigrees, genomic relationships, maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .columns import library_of, number_label
from .errors import DataError
from .tolerances import SYMMETRY, correlation_of


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


def between_levels(relationships: Mapping[str, Any], group: str, levels: tuple[str, ...]) -> np.ndarray | None:
    """The relationship matrix (m, m) of a grouping factor in the order of its levels; None where there is none.

    Parameters
    ----------
    relationships : mapping of grouping factors to matrices
        Each a DataFrame whose index and columns are levels, ``(array, labels)``, an array in the order of the sorted
        levels, or a `Precision`. There may be levels that the data do not have.
    group : str
    levels : tuple of str

    Raises
    ------
    DataError
        For a level without a row, a matrix that is not symmetric or not positive semidefinite.
    """
    if group not in relationships:
        return None
    given, what = relationships[group], f"relationship[{group!r}]"
    is_precision = isinstance(given, Precision)
    matrix, labels = _matrix(given, what)
    _check(matrix, what, is_precision)
    if labels is None:
        if len(matrix) != len(levels):
            raise DataError(
                f"{what}: a matrix without labels needs a row for each of the {len(levels)} levels of {group!r} in the "
                f"data, found shape {matrix.shape}; give labels, as a DataFrame or (array, labels)"
            )
        return np.linalg.inv(matrix) if is_precision else matrix
    place = {label: i for i, label in enumerate(labels)}
    absent = [level for level in levels if level not in place]
    if absent:
        listed = ", ".join(repr(level) for level in absent[:5])
        raise DataError(f"{what}: {len(absent)} level(s) of {group!r} have no row in the matrix: {listed}")
    rows = np.array([place[level] for level in levels])
    if is_precision:
        return np.linalg.solve(matrix, np.eye(len(matrix))[:, rows])[rows]
    return matrix[np.ix_(rows, rows)]


def plain_relationship(given: Any, what: str) -> Any:
    """A relationship as an array, ``(array, labels)`` or a `Precision` of these, labels as text."""
    matrix, labels = _matrix(given, what)
    if isinstance(given, Precision):
        return Precision(matrix, labels)
    return matrix if labels is None else (matrix, labels)


def _matrix(given: Any, what: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """The array and the labels of its rows, if there are any."""
    labels: Any = None
    if isinstance(given, Precision):
        given, labels = given.array, given.labels
    elif isinstance(given, tuple) and len(given) == 2:
        given, labels = given
    if library_of(given) == "pandas":
        own, across = _texts(given.index), _texts(given.columns)
        if set(own) != set(across) or len(set(own)) != len(own):
            raise DataError(f"{what}: the index and the columns of the DataFrame must be the same labels, each once")
        if labels is None:
            given, labels = given.to_numpy()[:, [across.index(label) for label in own]], own
    dense = given.toarray() if hasattr(given, "toarray") else given
    try:
        matrix = np.asarray(dense, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{what}: expected a matrix of numbers, found {type(given).__name__}") from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"{what}: expected a square matrix, found shape {matrix.shape}")
    if labels is None:
        return matrix, None
    texts = _texts(labels)
    if len(texts) != len(matrix) or len(set(texts)) != len(texts):
        raise DataError(
            f"{what}: expected a different label for each of the {len(matrix)} rows, found {len(set(texts))}"
        )
    return matrix, texts


def _texts(labels: Any) -> tuple[str, ...]:
    """Labels as the levels of a grouping factor are written."""
    values = [label.item() if isinstance(label, np.generic) else label for label in labels]
    return tuple(number_label(v) if isinstance(v, (int, float)) else str(v) for v in values)


def _check(matrix: np.ndarray, what: str, is_precision: bool) -> None:
    if not np.isfinite(matrix).all():
        raise DataError(f"{what}: the matrix has values that are NaN or infinite")
    scaled = correlation_of(matrix)
    gap = abs(scaled - scaled.T)
    if gap.max(initial=0.0) > SYMMETRY:
        i, j = np.unravel_index(int(np.argmax(gap)), gap.shape)
        raise DataError(
            f"{what}: the matrix is not symmetric, entry ({i}, {j}) is {matrix[i, j]:.6g}, entry ({j}, {i}) is "
            f"{matrix[j, i]:.6g}"
        )
    if _is_definite(scaled):
        return
    smallest = float(np.linalg.eigvalsh(scaled)[0]) if len(matrix) else 0.0
    if smallest < -SYMMETRY or not np.any(matrix) or (is_precision and smallest <= SYMMETRY * 1e-4):
        kind = "definite" if is_precision else "semidefinite"
        raise DataError(f"{what}: the matrix is not positive {kind}, its smallest eigenvalue is {smallest:.3g}")


def _is_definite(matrix: np.ndarray) -> bool:
    """Whether a Cholesky factor exists with pivots well away from zero, which is known much sooner than eigenvalues."""
    try:
        pivots = np.diagonal(np.linalg.cholesky(matrix))
    except np.linalg.LinAlgError:
        return False
    return bool(pivots.min(initial=np.inf) > 1e-5 * pivots.max(initial=0.0))
