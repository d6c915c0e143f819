"""Structures over ordered levels, such as visits: autoregressive, ante-dependent, Toeplitz.

All take the positions 0, 1, ... of the levels, in any order and with gaps. In a formula the numbers of a column are
such positions for ar1 and arma11, so that their differences are distances; for the others, and of text, the levels in
their order have positions without gaps, unless ``levels=`` says which there are. Formulas as in the documentation of
mmrm ("Covariance types") and of SAS PROC MIXED ("Covariance structures", table of the REPEATED statement).
"""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .bands import BandKind
from .base import Covariance
from .helpers import check_count, codes, covariances, distances, lags, powers, submatrix
from .kinds import IntervalKind, Kind, module_of
from .parameter import ByOption, Correlation, SmoothVariance, Variance, each_level

SHORT = 4  # recursions up to this length are written out; the time to compile longer ones does not grow


def _is_short(steps: Array) -> bool:
    return steps.shape[0] <= SHORT


def _per_step(distance: float) -> float:
    """Start value of a correlation per step: zero for neighbours; over gaps, where powers of zero are flat, not."""
    return 0.0 if distance <= 1.0 else 0.5 ** (1.0 / distance)


OverGaps = Annotated[Array, IntervalKind(-1.0, 1.0, first=_per_step)]


class Autoregressive(Covariance):
    """First-order autoregressive, ``variance * correlation**|i - j|`` (mmrm ar1, SAS AR(1))."""

    variance: Variance
    correlation: OverGaps

    def matrix(self, levels: Any) -> Array:
        """Covariances between `levels`, integer positions."""
        return self.variance * powers(self.correlation, distances(levels))


class HeterogeneousAutoregressive(Covariance):
    """First-order autoregressive correlations, ``sd_i sd_j correlation**|i - j|`` (mmrm ar1h, SAS ARH(1))."""

    variances: Annotated[SmoothVariance, each_level]
    correlation: Correlation

    def matrix(self, levels: Any) -> Array:
        """Covariances between `levels`, integer positions."""
        return covariances(self.variances, powers(self.correlation, distances(levels)), levels)


def _next_row(row: Any, now: Any) -> tuple[Any, Any]:
    """Products along the path to the next level, from those to this one."""
    step, unit = now
    row = step * row + unit
    return row, row


def _along_path(steps: Array, levels: Any) -> Array:
    """Products of the correlations of neighbours (q-1,) along the path between any two of `levels`."""
    units = np.eye(steps.shape[0] + 1)
    _, rows = jax.lax.scan(_next_row, jnp.asarray(units[0]), (steps, units[1:]), unroll=_is_short(steps))
    lower = jnp.concatenate([units[:1], rows])
    return submatrix(lower + lower.T - units, levels)


class AnteDependence(Covariance):
    """First-order ante-dependence, ``variance * prod_{k=i}^{j-1} correlation_k`` for i < j (mmrm ad; Gabriel 1962).

    Each level depends on those before it through its neighbour only, as strongly as that neighbour's correlation.
    """

    variance: Variance
    correlations: Annotated[Correlation, each_level - 1]

    def matrix(self, levels: Any) -> Array:
        """Covariances between `levels`, integer positions."""
        return self.variance * _along_path(self.correlations, levels)


class HeterogeneousAnteDependence(Covariance):
    """Ante-dependence, ``sd_i sd_j prod_{k=i}^{j-1} correlation_k`` for i < j (mmrm adh, SAS ANTE(1); Kenward 1987)."""

    variances: Annotated[SmoothVariance, each_level]
    correlations: Annotated[Correlation, each_level - 1]

    def matrix(self, levels: Any) -> Array:
        """Covariances between `levels`, integer positions."""
        return covariances(self.variances, _along_path(self.correlations, levels), levels)


def _next_lag(state: Any, now: Any) -> tuple[Any, Any]:
    """One step of `autocorrelations`, in vectors of full length so that it can be compiled once for all lags."""
    phi, reverse, recent, error = state  # coefficients from the first and from the last, latest autocorrelations first
    partial, unit = now
    new = jnp.sum(phi * recent) + partial * error
    longer = jnp.append(partial, (reverse - partial * phi)[:-1])
    phi = phi - partial * reverse + partial * unit
    return (phi, longer, jnp.append(new, recent[:-1]), error * (1.0 - partial**2)), new


def autocorrelations(partial: Array) -> Array:
    """Autocorrelations (q,) at lags 0, ..., q-1 from partial autocorrelations (q-1,) at lags 1, ..., q-1.

    The Durbin-Levinson recursion backwards (Barndorff-Nielsen & Schou 1973, Monahan 1984): with phi the coefficients
    of the best linear prediction from the last k values and v its relative error variance,
    ``r[k+1] = sum_j phi[j] r[k+1-j] + partial[k+1] v``, then ``phi[j] -= partial[k+1] phi[k+1-j]``,
    ``phi[k+1] = partial[k+1]`` and ``v *= 1 - partial[k+1]**2``. It maps the cube (-1, 1)**(q-1) one to one onto the
    positive definite Toeplitz correlation matrices, and its closure into the semidefinite ones; it is a polynomial,
    smooth at the edges too.
    """
    n = partial.shape[0]
    if n == 0:
        return jnp.ones(1)
    zero = jnp.zeros(n)
    start = (zero, zero, zero, jnp.ones(()))
    _, found = jax.lax.scan(_next_lag, start, (partial, np.eye(n)), unroll=_is_short(partial))
    return jnp.append(1.0, found)


def _by_bands(structure: Any) -> Kind | BandKind:
    return IntervalKind(-1.0, 1.0) if structure.bands is None else BandKind(structure.bands)


ByLag = Annotated[Array, ByOption(_by_bands), each_level - 1]


def _by_lag(structure: Any) -> Array:
    """Correlations at lags 0, 1, ...; with `bands` those that are not zero."""
    r = structure.partial
    return autocorrelations(r) if structure.bands is None else jnp.append(1.0, r)


def _between(structure: Any, levels: Any) -> Array:
    """Correlations between `levels`."""
    r, apart = _by_lag(structure), lags(codes(levels))
    return r[apart] if structure.bands is None else jnp.append(r, 0.0)[jnp.minimum(apart, len(r))]


def _check_bands(structure: Any) -> None:
    if structure.bands is not None:
        check_count(structure, "bands")


class Toeplitz(Covariance):
    """A covariance for every lag, ``autocovariance[|i - j|]`` (mmrm toep, SAS TOEP, glmmTMB homtoep).

    The parameters are the variance and the partial autocorrelations, which are free of each other: any values in
    (-1, 1) give a positive definite matrix, see `autocorrelations`.

    Parameters
    ----------
    bands : number of diagonals, the main one included, beyond which covariances are zero (SAS TOEP(q)): 1 is
        independence, 2 has neighbours correlated, as a moving average of order one. `partial` are then the correlations
        at lags 1, ..., bands - 1, see `jaxlmm.covariance.bands`
    """

    variance: Variance
    partial: ByLag
    bands: int | None = None

    def __post_init__(self) -> None:
        _check_bands(self)
        super().__post_init__()

    def reported(self) -> dict[str, Array]:
        """The variance and the correlations at lags 1, 2, ..., the parameters of SAS and mmrm."""
        return {"variance": self.variance, "correlations": _by_lag(self)[1:]}

    def sas(self) -> dict[str, Array]:
        """The covariance at every lag."""
        return {"covariances": self.variance * _by_lag(self)}

    def matrix(self, levels: Any) -> Array:
        """Covariances between `levels`, integer positions."""
        return self.variance * _between(self, levels)


class HeterogeneousToeplitz(Covariance):
    """A correlation for every lag, ``sd_i sd_j autocorrelation[|i - j|]`` (mmrm toeph, SAS TOEPH, glmmTMB toep).

    The parameters are variances and partial autocorrelations, see `Toeplitz`, also for `bands` (SAS TOEPH(q)).
    """

    variances: Annotated[SmoothVariance, each_level]
    partial: ByLag
    bands: int | None = None

    def __post_init__(self) -> None:
        _check_bands(self)
        super().__post_init__()

    def reported(self) -> dict[str, Array]:
        """Variances (q,) and correlations at lags 1, 2, ..., the parameters of SAS."""
        return {"variances": self.variances, "correlations": _by_lag(self)[1:]}

    def matrix(self, levels: Any) -> Array:
        """Covariances between `levels`, integer positions."""
        return covariances(self.variances, _between(self, levels), levels)


class AutoregressiveMovingAverage(Covariance):
    """First-order autoregressive moving average, ``variance * gamma * correlation**(|i - j| - 1)`` (SAS ARMA(1,1)).

    SAS's gamma is the correlation at lag one. Its range depends on `correlation`: the spectral density
    ``1 + 2 gamma (cos w - correlation) / (1 - 2 correlation cos w + correlation**2)`` is monotone in cos w and not
    negative at both ends if and only if ``gamma = (correlation + smoothness) / 2`` with `smoothness` in [-1, 1]
    (derived here). At ``smoothness = correlation`` it is AR(1), at correlation 0 a moving average; at the ends the
    process has no power at the lowest (-1) or highest (1) frequency: its moving average is not invertible.
    """

    variance: Variance
    correlation: OverGaps
    smoothness: Correlation

    @property
    def gamma(self) -> Array:
        """Correlation at lag one."""
        return 0.5 * (self.correlation + self.smoothness)

    def reported(self) -> dict[str, Array]:
        """Variance, gamma and correlation, the parameters of SAS."""
        return {"variance": self.variance, "gamma": self.gamma, "correlation": self.correlation}

    def matrix(self, levels: Any) -> Array:
        """Covariances between `levels`, integer positions."""
        lag = lags(levels)
        decay = powers(self.correlation, module_of(lag).maximum(lag - 1, 0))
        return self.variance * jnp.where(lag == 0, 1.0, self.gamma * decay)


__all__ = [
    "AnteDependence",
    "Autoregressive",
    "AutoregressiveMovingAverage",
    "HeterogeneousAnteDependence",
    "HeterogeneousAutoregressive",
    "HeterogeneousToeplitz",
    "Toeplitz",
    "autocorrelations",
]
