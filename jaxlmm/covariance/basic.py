"""The structures of lme4: unstructured, diagonal, scaled identity, compound symmetry."""

from __future__ import annotations

from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from .base import Covariance
from .helpers import of_levels, same, submatrix
from .kinds import IntervalKind
from .parameter import CovarianceMatrix, Variance, each_level


class Unstructured(Covariance):
    """Any covariance matrix: q variances and q(q-1)/2 covariances, log-Cholesky in ``theta``."""

    covariance: CovarianceMatrix

    def matrix(self, levels: Any) -> Array:
        """Covariances between `levels`, integer positions."""
        return submatrix(self.covariance, levels)


class Diagonal(Covariance):
    """Independent effects with a variance each."""

    variances: Annotated[Variance, each_level]

    def matrix(self, levels: Any) -> Array:
        """Diagonal matrix of the variances of `levels`, integer positions."""
        return jnp.where(same(levels), of_levels(self.variances, levels)[:, None], 0.0)


class Identity(Covariance):
    """Independent effects with one common variance."""

    variance: Variance

    def matrix(self, levels: Any) -> Array:
        """``variance * I``."""
        return jnp.where(same(levels), self.variance, 0.0)


def lowest_correlation(dim: int) -> float:
    """The lowest correlation that any two of `dim` levels can all have."""
    return -1.0 / (dim - 1) if dim > 1 else -1.0


class CompoundSymmetry(Covariance):
    """One variance and one correlation between any two levels, which may be as low as -1/(q-1)."""

    variance: Variance
    correlation: Annotated[Array, IntervalKind(lowest_correlation, 1.0)]

    def sas(self) -> dict[str, Array]:
        """The variance beside what levels have in common, and the latter, in which V is linear."""
        common = self.variance * self.correlation
        return {"residual": self.variance - common, "common": common}

    def matrix(self, levels: Any) -> Array:
        """``variance * (correlation + (1 - correlation) * I)``."""
        return self.variance * jnp.where(same(levels), 1.0, self.correlation)
