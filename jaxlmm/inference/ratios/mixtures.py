"""Chi-bar-square distributions: the law of a likelihood ratio where parameters stand on the boundary of their space.

Under the null hypothesis the statistic tends to the squared length of the projection of a normal vector on the cone of
directions that the larger model adds (Self & Liang 1987; Shapiro 1988; Silvapulle & Sen 2005, section 3.4), a mixture
of chi-squared distributions whose weights depend on the cone and on the information matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np

from ...linalg import tril_indices
from ...runtime.keys import generator_of
from ...tolerances import correlation_of

DRAWS = 20_000
DIAGONAL = 1e-8  # correlation below which coordinates are independent
STEPS = 2000
OFF_DIAGONAL = 0.5**0.5  # entry of a symmetric matrix over its coordinate
SMALL = 1e-10  # relative squared distance below which a point and its projection are the same


@dataclass(frozen=True, eq=False)
class Mixture:
    """``sum_j weights[j] chi2(df[j])``, chi2(0) being zero.

    Attributes
    ----------
    df, weights : (m,) degrees of freedom and weights, which add up to one
    simulated : whether the weights have a Monte Carlo error (of about 0.003)
    """

    df: np.ndarray
    weights: np.ndarray
    simulated: bool = False

    @classmethod
    def chi2(cls, df: int) -> Mixture:
        """One chi-squared distribution."""
        return cls(np.array([df]), np.ones(1))

    @property
    def mean(self) -> float:
        """Expectation."""
        return float(self.df @ self.weights)

    def p_value(self, statistic: float) -> float:
        """Probability of a value at least as large."""
        from scipy.special import chdtrc

        if not statistic > 0:
            return 1.0
        tails = [0.0 if k == 0 else chdtrc(k, statistic) for k in self.df]
        return float(self.weights @ tails)

    def plus(self, df: int) -> Mixture:
        """The law of the sum with an independent chi2(df)."""
        return Mixture(self.df + df, self.weights, self.simulated)

    def __str__(self) -> str:
        if len(self.df) == 1:
            return f"chi2({self.df[0]})"
        shown = [f"{w:.3g} chi2({k})" for k, w in zip(self.df, self.weights, strict=True) if w > 5e-4]
        return " + ".join(shown) + (" (simulated weights)" if self.simulated else "")


def cone_mixture(covariance: np.ndarray, sizes: tuple[int, ...], seed: int = 0) -> Mixture:
    """Law of the squared length of the projection of ``z ~ N(0, covariance)`` on a product of cones, in z's metric.

    Parameters
    ----------
    covariance : (c, c) of z, for every cone in turn the lower triangle of a matrix, column by column
    sizes : of the positive semidefinite matrices whose cones they are; 1 is a half-line
    seed : of the simulation, where the weights have no closed form: matrices of two rows and more, and more
        than three half-lines that are correlated
    """
    weights = orthant_weights(correlation_of(covariance)) if set(sizes) <= {1} else None
    if weights is not None:
        return Mixture(np.arange(len(weights)), weights)
    weights = simulated_weights(covariance, sizes, DRAWS, seed)
    return Mixture(np.arange(len(weights)), weights, simulated=True)


def orthant_weights(R: np.ndarray) -> np.ndarray | None:
    """Weights (r+1,) of the positive orthant for correlations R (r, r), or None where they have no closed form.

    Kudo (1963): the projection is on the face of the coordinates A when those of the dual outside of A, and those in A
    given the others, are positive.
    """
    r = len(R)
    precision = np.linalg.inv(R)
    weights = np.zeros(r + 1)
    if np.abs(R - np.eye(r)).max(initial=0.0) < DIAGONAL:
        return np.array([comb(r, j) for j in range(r + 1)]) / 2.0**r
    if r > 3:
        return None
    for subset in range(2**r):
        here = (subset >> np.arange(r)) % 2 == 1
        inside = np.linalg.inv(precision[np.ix_(here, here)])  # covariance given that the others are zero
        outside = np.linalg.inv(R[np.ix_(~here, ~here)])
        weights[here.sum()] += _orthant_probability(inside) * _orthant_probability(outside)
    return weights


def _orthant_probability(S: np.ndarray) -> float:
    """Probability that a centred normal vector of up to three entries is positive."""
    angles = np.arcsin(np.clip(correlation_of(S), -1.0, 1.0))[np.tril_indices(len(S), -1)]
    return 0.5 ** len(S) + float(np.sum(angles)) / (2.0 * np.pi) * (0.5 if len(S) == 3 else 1.0)


def simulated_weights(covariance: np.ndarray, sizes: tuple[int, ...], draws: int, seed: int) -> np.ndarray:
    """Weights (c+1,) of a product of cones of matrices, by simulation; arguments as in `cone_mixture`.

    Given the weights, the squared lengths of a projection and of what is left are a mixture of pairs of independent
    chi-squared variables, j and c - j, whose weights are estimated by maximum likelihood (EM). Those of even and of odd
    dimension add up to a half each, as of every cone that is not a linear space (Gauss and Bonnet).
    """
    from scipy.stats import chi2

    c = len(covariance)
    L = np.linalg.cholesky(covariance)
    z = generator_of("seed", seed).normal(size=(draws, c)) @ L.T
    near, rest = projected_lengths(z, np.linalg.inv(covariance), sizes)
    tiny = SMALL * (near + rest)
    weights = np.zeros(c + 1)
    weights[0], weights[c] = np.mean(near <= tiny), np.mean((rest <= tiny) & (near > tiny))
    between = (near > tiny) & (rest > tiny)
    if c > 1 and between.any():
        inner = np.arange(1, c)
        density = chi2.pdf(near[between, None], inner) * chi2.pdf(rest[between, None], c - inner)
        share = np.full(c - 1, 1.0 / (c - 1))
        for _ in range(500):
            posterior = density * share
            share = np.mean(posterior / posterior.sum(1, keepdims=True), 0)
        weights[1:c] = np.mean(between) * share
    for parity in (0, 1):
        weights[parity::2] *= 0.5 / weights[parity::2].sum()
    return weights


def projected_lengths(z: np.ndarray, metric: np.ndarray, sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Squared lengths of the projections of z (n, c) on a product of cones, and of z less these, in a metric (c, c).

    Accelerated projected gradients (Nesterov 1983, with the restarts of O'Donoghue & Candes 2015), all points at once,
    in units in which the metric has a diagonal of ones where that is possible without changing the cones.
    """
    unit = _units(metric, sizes)
    z, metric = z / unit, metric * np.outer(unit, unit)
    step = 1.0 / np.linalg.eigvalsh(metric)[-1]
    x = y = _into_cones(z, sizes)
    momentum = 1.0
    for _ in range(STEPS):
        new = _into_cones(y - step * (y - z) @ metric, sizes)
        change = new - x
        if np.max(np.abs(change)) < 1e-7 * np.max(np.abs(z)):
            break
        if np.sum((y - new) * change) > 0:
            momentum = 1.0
        following = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
        x, y, momentum = new, new + (momentum - 1.0) / following * change, following
    return _square(x, metric), _square(z - x, metric)


def _square(x: np.ndarray, metric: np.ndarray) -> np.ndarray:
    return np.sum(x @ metric * x, -1)


def _blocks(sizes: tuple[int, ...]) -> list[tuple[int, np.ndarray]]:
    """Size of each matrix and the places of its lower triangle."""
    ends = np.cumsum([q * (q + 1) // 2 for q in sizes])
    return [(q, np.arange(end - q * (q + 1) // 2, end)) for q, end in zip(sizes, ends, strict=True)]


def _units(metric: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Scales (c,) of the coordinates from scales of the rows of the matrices, which leave the cones what they are.

    Off the diagonal entries are such that sums of squares are those of the whole symmetric matrices.
    """
    out = np.ones(len(metric))
    for q, at in _blocks(sizes):
        rows, columns = tril_indices(q)
        row = np.diagonal(metric)[at[rows == columns]] ** -0.25
        out[at] = row[rows] * row[columns] * np.where(rows == columns, 1.0, OFF_DIAGONAL)
    return out


def _into_cones(z: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Nearest points in the cones, in the coordinates of `_units`: eigenvalues below zero become zero."""
    out = np.empty_like(z)
    for q, at in _blocks(sizes):
        if q == 1:
            out[:, at] = np.maximum(z[:, at], 0.0)
            continue
        rows, columns = tril_indices(q)
        weight = np.where(rows == columns, 1.0, OFF_DIAGONAL)
        H = np.zeros((len(z), q, q))
        H[:, rows, columns] = H[:, columns, rows] = z[:, at] * weight
        w, Q = np.linalg.eigh(H)
        out[:, at] = ((Q * np.maximum(w, 0.0)[:, None, :]) @ np.swapaxes(Q, 1, 2))[:, rows, columns] / weight
    return out
