"""The structures of lme4: unstructured, diagonal, scaled identity, compound symmetry."""

from __future__ import annotations

from typing import Annotated

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..parameters import CovarianceMatrix, IntervalKind, Variance, each_level
from .base import Covariance


def _same(levels: Array) -> Array:
    return levels[:, None] == levels[None, :]


def _all_levels(levels: Array | np.ndarray, dim: int) -> bool:
    """Whether `levels` are known to be 0, ..., dim-1, so that nothing needs to be gathered."""
    return isinstance(levels, np.ndarray) and np.array_equal(levels, np.arange(dim))


class Unstructured(Covariance):
    """Any covariance matrix: q variances and q(q-1)/2 covariances, log-Cholesky in ``theta``."""

    covariance: CovarianceMatrix

    def matrix(self, levels: Array) -> Array:
        """Covariances between `levels`, integer positions."""
        if _all_levels(levels, self.covariance.shape[-1]):
            return self.covariance
        return self.covariance[levels[:, None], levels[None, :]]


class Diagonal(Covariance):
    """Independent effects with a variance each."""

    variances: Annotated[Variance, each_level]

    def matrix(self, levels: Array) -> Array:
        """Diagonal matrix of the variances of `levels`, integer positions."""
        return jnp.where(_same(levels), self.variances[levels][:, None], 0.0)


class Identity(Covariance):
    """Independent effects with one common variance."""

    variance: Variance

    def matrix(self, levels: Array) -> Array:
        """``variance * I``."""
        return jnp.where(_same(levels), self.variance, 0.0)


def _lowest(dim: int) -> float:
    return -1.0 / (dim - 1) if dim > 1 else -1.0


class CompoundSymmetry(Covariance):
    """One variance and one correlation between any two levels, which may be as low as -1/(q-1)."""

    variance: Variance
    correlation: Annotated[Array, IntervalKind(_lowest, 1.0)]

    def matrix(self, levels: Array) -> Array:
        """``variance * (correlation + (1 - correlation) * I)``."""
        return self.variance * jnp.where(_same(levels), 1.0, self.correlation)
