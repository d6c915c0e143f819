"""A known matrix, such as relationships from a pedigree or markers."""

from __future__ import annotations

from typing import Any

from jax import Array

from ..arguments import numbers_of
from ..errors import JaxlmmError
from ..frames.alignment import refuse_masked
from ..tolerances import not_semidefinite
from .base import Covariance
from .helpers import submatrix
from .parameter import Variance


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
        refuse_masked("KnownMatrix: known", self.known)
        self.__dict__["known"] = numbers_of("KnownMatrix: known", self.known, "a covariance matrix (levels, levels)")
        super().__post_init__()
        if self.known.ndim != 2 or self.known.shape[0] != self.known.shape[1]:
            raise JaxlmmError(f"KnownMatrix: expected a matrix (levels, levels), found shape {self.known.shape}")
        if problem := not_semidefinite(self.known):
            raise JaxlmmError(f"KnownMatrix: expected a covariance matrix, but {problem}")

    by_level = True  # type: ignore[assignment]  # over the levels that are its rows

    @property
    def rows(self) -> int:
        """Number of levels that the matrix is of."""
        return len(self.known)

    def check_fixed(self, dim: Any) -> None:
        """Refuse levels that the matrix does not have."""
        super().check_fixed(dim)
        if dim > self.rows:
            raise JaxlmmError(f"KnownMatrix: the matrix has {self.rows} rows for {dim} levels, of which each is one")

    def matrix(self, levels: Any) -> Array:
        """Covariances between `levels`, integer positions."""
        return self.variance * submatrix(self.known, levels)
