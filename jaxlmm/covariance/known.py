"""A known matrix, such as relationships from a pedigree or markers."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import Array

from ..errors import JaxlmmError
from ..tolerances import not_semidefinite
from .base import Covariance
from .helpers import submatrix
from .parameter import Variance


class Constant:
    """An array that is part of compiled code: read-only, compared and hashed by content (the hash computed once)."""

    def __init__(self, values: Any):
        self.values = np.array(values, float)
        self.values.setflags(write=False)
        self.hash = hash((self.values.shape, self.values.tobytes()))

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Constant) and np.array_equal(self.values, other.values))

    def __repr__(self) -> str:
        return f"array{self.values.shape}"


class KnownMatrix(Covariance):
    """A known matrix up to a variance, ``variance * K[i, j]``.

    Parameters
    ----------
    known : (levels, levels) symmetric and positive semidefinite; level i is row i

    Raises
    ------
    JaxlmmError
        When it is not symmetric or not positive semidefinite.
    """

    variance: Variance
    known: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.known, Constant):
            return
        constant = Constant(self.known)
        if constant.values.ndim != 2 or constant.values.shape[0] != constant.values.shape[1]:
            raise JaxlmmError(f"KnownMatrix: expected a matrix (levels, levels), found shape {constant.values.shape}")
        if problem := not_semidefinite(constant.values):
            raise JaxlmmError(f"KnownMatrix: expected a covariance matrix, but {problem}")
        self.__dict__["known"] = constant

    @property
    def rows(self) -> int:
        """Number of levels that the matrix is of."""
        return len(self.known.values)

    def check_fixed(self, dim: Any) -> None:
        """Refuse levels that the matrix does not have."""
        super().check_fixed(dim)
        if dim > self.rows:
            raise JaxlmmError(f"KnownMatrix: the matrix has {self.rows} rows for {dim} levels, of which each is one")

    @property
    def by_level(self) -> bool:
        """True: it is over the levels that are its rows."""
        return True

    def matrix(self, levels: Any) -> Array:
        """Covariances between `levels`, integer positions."""
        return self.variance * submatrix(self.known.values, levels)
