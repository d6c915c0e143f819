"""Structures over levels that differ in variance or share factors: csh, Huynh-Feldt, banded, reduced rank."""

from __future__ import annotations

from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from .base import Covariance
from .basic import lowest_correlation
from .helpers import check_count, covariances, of_levels, same, submatrix
from .kinds import CovarianceMatrixKind, IntervalKind
from .parameter import ByOption, Real, SmoothVariance, Variance, each_level


class HeterogeneousCompoundSymmetry(Covariance):
    """A variance a level and one correlation, ``sd_i sd_j correlation`` (mmrm csh, SAS CSH, glmmTMB cs).

    The correlation may be as low as -1/(q-1).
    """

    variances: Annotated[SmoothVariance, each_level]
    correlation: Annotated[Array, IntervalKind(lowest_correlation, 1.0)]

    def matrix(self, levels: Any) -> Array:
        """Covariances between `levels`, integer positions."""
        return covariances(self.variances, jnp.where(same(levels), 1.0, self.correlation), levels)


class HuynhFeldt(Covariance):
    """Spherical: ``(variance_i + variance_j) / 2 - contrast`` for i != j (SAS HF; Huynh & Feldt 1970).

    All normalised contrasts between levels have the variance `contrast`, SAS's lambda, and are uncorrelated. The
    variances of the levels are not free of each other (with three levels, 1, 0.01 and 0.01 cannot be), so the
    parameters are `contrast`; `differences`, the variances of levels 1, ..., q-1 minus that of level 0 in units of
    `contrast`; and `mean`, the variance of the mean over the levels when the contrasts are known. Any values give a
    covariance matrix. With ``d = (0, differences) - their mean``, the variances are (derived here)
    ``mean + contrast (d_i + (q-1)/q + sum(d**2)/4)``. Equal variances are compound symmetry.
    """

    contrast: Variance
    mean: Variance
    differences: Annotated[Real, each_level - 1]

    def variances(self) -> Array:
        """Variances (q,) of the levels."""
        d = jnp.concatenate([jnp.zeros(1), self.differences])
        q, d = len(d), d - jnp.mean(d)
        return self.mean + self.contrast * (d + (q - 1) / q + 0.25 * jnp.sum(d**2))

    def reported(self) -> dict[str, Array]:
        """Lambda and the variances (q,) of the levels, the parameters of SAS."""
        return {"contrast": self.contrast, "variances": self.variances()}

    def matrix(self, levels: Any) -> Array:
        """Covariances between `levels`, integer positions."""
        v = of_levels(self.variances(), levels)
        return 0.5 * (v[:, None] + v[None, :]) - jnp.where(same(levels), 0.0, self.contrast)


class BandedUnstructured(Covariance):
    """Any covariance matrix in which levels that are `bands` or more apart are uncorrelated (SAS UN(q)).

    Parameters
    ----------
    bands : number of diagonals, the main one included: 1 is diagonal, 2 has neighbours correlated

    Notes
    -----
    A positive definite matrix is banded if and only if its Cholesky factor is (Golub & Van Loan 2013, section 4.3),
    whose entries are the coordinates. SAS's covariances themselves need not give a positive definite matrix.
    """

    covariance: Annotated[Array, ByOption(lambda self: CovarianceMatrixKind(bands=self.bands))]
    bands: int = 2

    def __post_init__(self) -> None:
        check_count(self, "bands")
        super().__post_init__()

    def matrix(self, levels: Any) -> Array:
        """Covariances between `levels`, integer positions."""
        return submatrix(self.covariance, levels)


class ReducedRank(Covariance):
    """Covariances of rank d, ``loadings loadings'`` with (q, d) loadings (glmmTMB rr, SAS FA0(d)).

    Loadings are identified up to rotation; the coordinates are those with zeros above the diagonal. The parameter is
    the covariance matrix itself; it is always singular, so this is for random effects and not for residuals.

    Parameters
    ----------
    d : rank, the number of latent factors
    """

    covariance: Annotated[Array, ByOption(lambda self: CovarianceMatrixKind(rank=self.d))]
    d: int = 2

    def __post_init__(self) -> None:
        check_count(self, "d")
        super().__post_init__()

    def matrix(self, levels: Any) -> Array:
        """Covariances between `levels`, integer positions."""
        return submatrix(self.covariance, levels)


class FactorAnalytic(Covariance):
    """Covariances of d common factors and a variance of its own for each level, ``loadings loadings' + D`` (SAS FA(d)).

    The parameters are the covariance matrix of the common part, of rank d as in `ReducedRank`, and the variances
    in D, which may be zero. Identified only where these are not more than the q (q+1)/2 of an unstructured matrix.

    Parameters
    ----------
    d : number of common factors
    """

    common: Annotated[Array, ByOption(lambda self: CovarianceMatrixKind(rank=self.d))]
    variances: Annotated[Variance, each_level]
    d: int = 1

    def __post_init__(self) -> None:
        check_count(self, "d")
        super().__post_init__()

    def matrix(self, levels: Any) -> Array:
        """Covariances between `levels`, integer positions."""
        own = jnp.where(same(levels), of_levels(self.variances, levels)[:, None], 0.0)
        return submatrix(self.common, levels) + own


__all__ = ["BandedUnstructured", "FactorAnalytic", "HeterogeneousCompoundSymmetry", "HuynhFeldt", "ReducedRank"]
