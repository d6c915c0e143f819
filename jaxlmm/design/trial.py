"""A structure that a user wrote is tried once, so that a mistake in its `matrix` is said before the fit."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ..covariance import NAMES, Composite, Covariance
from ..errors import DataError
from ..runtime.precision import float64
from ..tolerances import MIRRORED

MOST_PLACES = 6
_SHIPPED = frozenset(NAMES.values())


def try_matrix(structure: Covariance, places: np.ndarray, dim: Any, what: str) -> None:
    """Compute the matrix at start values and a few places (m,) or (m, k); nothing is done for shipped structures.

    Raises
    ------
    DataError
        When it has another shape, values that are not finite, or is not symmetric.
    """
    if type(structure) in _SHIPPED or isinstance(structure, Composite) or structure.has_values:
        return
    name, places = type(structure).__name__, np.unique(places, axis=0)[:MOST_PLACES]
    with float64():
        # one program: outside of compiled code every operation would be one
        matrix = np.asarray(jax.jit(lambda s: structure.from_solver(s, dim).matrix(places))(structure.start(dim)))
    expected = (len(places),) * 2
    if matrix.shape != expected:
        raise DataError(
            f"{what}: {name}.matrix must return shape {expected} for {len(places)} places, found {matrix.shape}"
        )
    if not np.isfinite(matrix).all():
        raise DataError(f"{what}: {name}.matrix has values that are NaN or infinite at its start values")
    gap = float(abs(matrix - matrix.T).max(initial=0.0))
    if gap > MIRRORED * float(abs(matrix).max(initial=0.0)):
        raise DataError(f"{what}: {name}.matrix is not symmetric, entries differ from their mirror images by {gap:.3g}")
