"""The shelf of covariance structures: formulas, derivatives, identities between them, and fits of other software."""

from __future__ import annotations

import functools
import re
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
import oracle
from cases import REFERENCES, case_names, load_case, load_data, some
from jaxlmm import Correlation, Covariance, Model, Residual, Term, Variance, each_level
from jaxlmm.covariance import (
    NAMES,
    AnteDependence,
    Autoregressive,
    AutoregressiveMovingAverage,
    BandedUnstructured,
    CompoundSymmetry,
    ContinuousAutoregressive,
    Exponential,
    FactorAnalytic,
    Gaussian,
    HeterogeneousAnteDependence,
    HeterogeneousAutoregressive,
    HeterogeneousCompoundSymmetry,
    HeterogeneousToeplitz,
    HuynhFeldt,
    Matern,
    OrnsteinUhlenbeck,
    ReducedRank,
    Spherical,
    Toeplitz,
    Unstructured,
    distances,
    powers,
)
from jaxlmm.covariance import kinds as parameters
from jaxlmm.covariance.serial import autocorrelations
from jaxlmm.fitting import estimate as fitting
from jaxlmm.testing import check_covariance
from matrices import bound_by, matrix_at

STRUCTURES = tuple(dict.fromkeys(structure() for structure in NAMES.values()))
OPTIONS = (
    BandedUnstructured(bands=1),
    BandedUnstructured(bands=3),
    ReducedRank(d=1),
    ReducedRank(d=4),
    FactorAnalytic(d=2),
    Matern(nu=0.5),
    Matern(nu=2.5),
    Matern(nu=np.inf),
)
SPATIAL = (OrnsteinUhlenbeck(), ContinuousAutoregressive(), Exponential(), Gaussian(), Spherical(), *OPTIONS[-3:])
TIMES = np.array([0.0, 0.35, 1.0, 2.75, 6.5])
PLACES = np.array([[0.0, 0.0], [0.3, 1.2], [2.0, -1.0], [2.0, 0.5], [-1.5, 0.7]])


def short(structure):
    options = [f"{k}={v}" for k, v in vars(structure).items() if v is not None]
    return "-".join([type(structure).__name__, *options])


def random_public(structure, dim, seed=0):
    return np.random.default_rng(seed).normal(scale=0.6, size=structure.size(dim))


# ---------------------------------------------------------------------------- properties


@pytest.mark.parametrize("structure", STRUCTURES, ids=short)
def test_every_structure_passes_the_property_test(structure):
    check_covariance(structure)


@pytest.mark.parametrize(
    "structure", some([ReducedRank(d=4), Matern(nu=2.5), Matern(nu=np.inf)], Matern(nu=np.inf)), ids=short
)
def test_options_pass_the_property_test(structure):
    check_covariance(structure, dim=3)


@pytest.mark.parametrize(
    ("structure", "coords"),
    [
        pytest.param(ContinuousAutoregressive(), TIMES, marks=pytest.mark.slow),
        pytest.param(Exponential(), PLACES, marks=pytest.mark.slow),
        (Spherical(), np.c_[PLACES, TIMES]),
    ],
    ids=["times", "plane", "space"],
)
def test_coordinates_pass_the_property_test(structure, coords):
    check_covariance(structure, coords=coords)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 2, 7])
@pytest.mark.parametrize("structure", STRUCTURES + OPTIONS, ids=short)
def test_other_numbers_of_levels_pass_the_property_test(structure, dim):
    check_covariance(structure, dim, seed=dim)


@pytest.mark.slow
@pytest.mark.parametrize("coords", [TIMES, PLACES], ids=["times", "plane"])
@pytest.mark.parametrize("structure", SPATIAL, ids=short)
def test_other_coordinates_pass_the_property_test(structure, coords):
    if coords.ndim == 1 or not isinstance(structure, OrnsteinUhlenbeck | ContinuousAutoregressive):
        check_covariance(structure, coords=coords, seed=1)


@pytest.mark.parametrize("structure", STRUCTURES, ids=short)
def test_levels_may_be_traced_and_have_gaps(structure):
    """An engine may map `matrix` over the visits that different subjects have."""
    visits = np.array([[0, 1, 3], [4, 2, 0]], np.int32)

    @jax.jit
    def matrices(theta, traced):
        matrix = structure.from_public(theta, 5).matrix
        found = [*map(matrix, visits)], [*map(matrix, traced)], jax.vmap(matrix)(traced)
        return matrix(np.arange(5, dtype=np.int32)), *found

    G, *found = matrices(random_public(structure, 5), visits)
    expected = [np.asarray(G)[np.ix_(levels, levels)] for levels in visits]
    for known_traced_or_mapped in found:
        np.testing.assert_allclose(known_traced_or_mapped, expected, atol=1e-13)


# ---------------------------------------------------------------------------- what the property test finds


class WrongShape(Covariance):
    variance: Variance

    def matrix(self, levels):
        return self.variance * jnp.ones(len(levels))


class Asymmetric(Covariance):
    variance: Variance

    def matrix(self, levels):
        return self.variance * jnp.where(levels[:, None] >= levels[None, :], 1.0, 0.5)


class Deviations(Covariance):
    """Standard deviations declared as variances."""

    sds: Annotated[Variance, each_level]

    def matrix(self, levels):
        return jnp.diag(self.sds[levels] ** 2)


class InfiniteSlope(Covariance):
    variance: Variance
    rho: Correlation

    def matrix(self, levels):
        same = levels[:, None] == levels[None, :]
        return self.variance * jnp.where(same, 1.0, 0.1 * jnp.sqrt(abs(self.rho)))


class Unbounded(Covariance):
    """Correlations that are free in (-1, 1) one by one, but not jointly."""

    variance: Variance
    rho: Annotated[Correlation, each_level - 1]

    def matrix(self, levels):
        return self.variance * jnp.append(1.0, self.rho)[abs(levels[:, None] - levels[None, :])]


class Deaf(Covariance):
    """Does not look at the levels."""

    variances: Annotated[Variance, each_level]

    def matrix(self, levels):
        return jnp.diag(self.variances)


@jax.custom_jvp
def square(x):
    return x**2


@square.defjvp
def _square_jvp(primals, tangents):
    return square(primals[0]), primals[0] * tangents[0]


class WrongRule(Covariance):
    variance: Variance
    rho: Correlation

    def matrix(self, levels):
        same = levels[:, None] == levels[None, :]
        return self.variance * jnp.where(same, 1.0, 0.1 * square(self.rho))


class Single(Covariance):
    variance: Variance

    def matrix(self, levels):
        return (self.variance * (levels[:, None] == levels[None, :])).astype(jnp.float32)


class Broken(Covariance):
    variance: Variance

    def matrix(self, levels):
        raise RuntimeError("the author's mistake")


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (WrongShape(), r"WrongShape.matrix must return shape \(4, 4\) for 4 places, found \(4,\)"),
        (Asymmetric(), r"Asymmetric.matrix is not symmetric"),
        (Deviations(), r"Deviations: matrix\(levels\) is not homogeneous .* \(sds\)"),
        (InfiniteSlope(), r"InfiniteSlope: the gradient of .* the solver is not finite.*rho=Array\(0\."),
        (Unbounded(), r"Unbounded: matrix\(levels\) is not positive semidefinite"),
        (Deaf(), r"Deaf: matrix\(levels\) at levels .* has shape \(4, 4\)"),
        (WrongRule(), r"WrongRule: the gradient of .* differs from its finite differences"),
        (Single(), r"Single.matrix has entries of type float32"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Covariance) else "",
)
def test_the_property_test_names_the_structure_and_what_is_wrong(structure, message):
    with pytest.raises(AssertionError, match=message):
        check_covariance(structure)


def test_the_property_test_wants_a_structure_without_values():
    with pytest.raises(jaxlmm.JaxlmmError, match="has values"):
        check_covariance(bound_at(Autoregressive(), 4, 0))
    with pytest.raises(jaxlmm.JaxlmmError, match="covariance structure"):
        check_covariance("ar1")
    with pytest.raises(AssertionError, match=r"Broken.matrix raised RuntimeError: the author's mistake") as caught:
        check_covariance(Broken())
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_the_property_test_works_without_64_bit_floats_being_on():
    with jax.enable_x64(False):
        check_covariance(CompoundSymmetry(), dim=3)


# ---------------------------------------------------------------------------- formulas


def sd(v):
    return np.sqrt(v)


def toeplitz_by_regression(partial):
    """Autocorrelations whose partial correlation at every lag, from the inverse of the matrix, is as given."""
    r = np.ones(1)
    for k, p in enumerate(partial):
        inner = r[abs(np.subtract.outer(np.arange(k), np.arange(k)))]
        past = r[1:]
        solved = np.linalg.solve(inner, np.c_[past, past[::-1]]) if k else np.zeros((0, 2))
        explained, error = past[::-1] @ solved[:, 0], 1 - past @ solved[:, 0]
        r = np.append(r, explained + p * error)
    return r


DEFINITIONS = {
    Autoregressive: lambda s, i, j: s.variance * s.correlation ** abs(i - j),
    HeterogeneousAutoregressive: lambda s, i, j: sd(s.variances[i] * s.variances[j]) * s.correlation ** abs(i - j),
    CompoundSymmetry: lambda s, i, j: s.variance * (1 if i == j else s.correlation),
    HeterogeneousCompoundSymmetry: lambda s, i, j: (
        sd(s.variances[i] * s.variances[j]) * (1 if i == j else s.correlation)
    ),
    AnteDependence: lambda s, i, j: s.variance * np.prod(s.correlations[min(i, j) : max(i, j)]),
    HeterogeneousAnteDependence: lambda s, i, j: (
        sd(s.variances[i] * s.variances[j]) * np.prod(s.correlations[min(i, j) : max(i, j)])
    ),
    Toeplitz: lambda s, i, j: s.variance * toeplitz_by_regression(s.partial)[abs(i - j)],
    HeterogeneousToeplitz: lambda s, i, j: (
        sd(s.variances[i] * s.variances[j]) * toeplitz_by_regression(s.partial)[abs(i - j)]
    ),
    AutoregressiveMovingAverage: lambda s, i, j: (
        s.variance * (1 if i == j else (s.correlation + s.smoothness) / 2 * s.correlation ** (abs(i - j) - 1))
    ),
}
DECAYS = {
    OrnsteinUhlenbeck(): lambda s, d: np.exp(-d / s.range),
    ContinuousAutoregressive(): lambda s, d: s.correlation**d,
    Exponential(): lambda s, d: np.exp(-d / s.range),
    Gaussian(): lambda s, d: np.exp(-((d / s.range) ** 2)),
    Spherical(): lambda s, d: 0.0 if d > s.range else 1 - 1.5 * d / s.range + 0.5 * (d / s.range) ** 3,
    Matern(nu=0.5): lambda s, d: np.exp(-d / s.range),
    Matern(): lambda s, d: (1 + 3**0.5 * d / s.range) * np.exp(-(3**0.5) * d / s.range),
    Matern(nu=2.5): lambda s, d: (
        (1 + 5**0.5 * d / s.range + 5 * d**2 / (3 * s.range**2)) * np.exp(-(5**0.5) * d / s.range)
    ),
    Matern(nu=np.inf): lambda s, d: np.exp(-(d**2) / (2 * s.range**2)),
}


def bound_at(structure, dim, seed):
    """A structure with NumPy values."""
    bound = bound_by(structure, random_public(structure, dim, seed), dim)
    return jax.tree_util.tree_map(np.asarray, bound)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("cls", DEFINITIONS, ids=lambda cls: cls.__name__)
def test_formulas_over_levels(cls, seed):
    bound = bound_at(cls(), 5, seed)
    levels = [np.arange(5), np.array([3, 0, 4]), np.array([1, 4])][seed]
    expected = [[DEFINITIONS[cls](bound, i, j) for j in levels] for i in levels]
    np.testing.assert_allclose(matrix_at(bound, levels), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("structure", DECAYS, ids=short)
def test_formulas_over_coordinates(structure, seed):
    bound = bound_at(structure, 5, seed)
    line = isinstance(structure, OrnsteinUhlenbeck | ContinuousAutoregressive)
    for coords in (TIMES,) if line else (TIMES, PLACES):
        points = coords.reshape(5, -1)
        gaps = [[np.sqrt(np.sum((a - b) ** 2)) for b in points] for a in points]
        expected = [[bound.variance * DECAYS[structure](bound, d) for d in row] for row in gaps]
        np.testing.assert_allclose(matrix_at(bound, coords), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_huynh_feldt_is_spherical_with_any_variances_that_can_be(seed):
    """SAS's formula, parameters computed from its variances and lambda."""
    rng = np.random.default_rng(seed)
    variances, lam = 2 + rng.uniform(size=4), 1.5
    differences = (variances[1:] - variances[0]) / lam
    d = np.append(0, differences)
    mean = variances.mean() - lam * (3 / 4 + np.sum((d - d.mean()) ** 2) / 4)
    bound = HuynhFeldt(contrast=jnp.asarray(lam), mean=jnp.asarray(mean), differences=jnp.asarray(differences))
    expected = (variances[:, None] + variances[None, :]) / 2 - lam * (1 - np.eye(4))
    np.testing.assert_allclose(bound.matrix(np.arange(4)), expected, rtol=1e-12)
    assert bound.reported()["contrast"] == lam
    np.testing.assert_allclose(bound.reported()["variances"], variances, rtol=1e-12)
    contrasts = np.linalg.qr(np.c_[np.ones(4), np.eye(4)[:, :3]])[0][:, 1:]
    np.testing.assert_allclose(contrasts.T @ expected @ contrasts, lam * np.eye(3), atol=1e-12)
    # `mean` is what is left to the edge of the cone
    assert mean > 0
    assert np.linalg.eigvalsh(expected - 0.99 * mean)[0] > 0 > np.linalg.eigvalsh(expected - 1.01 * mean)[0]


@pytest.mark.parametrize(("phi", "theta"), [(0.6, 0.4), (-0.5, 0.8), (0.9, -0.7), (0.3, 3.0)])
def test_arma_covers_every_stationary_process(phi, theta):
    """Autocorrelations summed from the weights of the moving average of infinite order; theta and 1/theta are one."""
    psi = np.append(1.0, (phi + theta) * phi ** np.arange(2000))
    gamma = np.array([np.sum(psi[: len(psi) - k] * psi[k:]) for k in range(5)])
    smoothness = (phi + 2 * theta + phi * theta**2) / (1 + 2 * phi * theta + theta**2)
    assert -1 < smoothness < 1
    values = {"variance": gamma[0], "correlation": phi, "smoothness": smoothness}
    bound = AutoregressiveMovingAverage(**{k: jnp.asarray(v) for k, v in values.items()})
    lags = abs(np.subtract.outer(np.arange(5), np.arange(5)))
    np.testing.assert_allclose(bound.matrix(np.arange(5)), gamma[lags], rtol=1e-10)
    expected = {"variance": gamma[0], "gamma": gamma[1] / gamma[0], "correlation": phi}
    assert bound.reported() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("dim", [2, 3, 6, 9])
def test_partial_autocorrelations_cover_all_toeplitz_matrices(dim):
    """Of any positive definite Toeplitz matrix, also through the loop that is not written out."""
    rng = np.random.default_rng(dim)
    x = rng.normal(size=30)
    r = np.array([x[: 30 - k] @ x[k:] for k in range(dim)]) / (x @ x)  # positive definite
    R = r[abs(np.subtract.outer(np.arange(dim), np.arange(dim)))]
    inverses = [np.linalg.inv(R[: k + 1, : k + 1]) for k in range(1, dim)]
    partial = np.array([-P[0, -1] / np.sqrt(P[0, 0] * P[-1, -1]) for P in inverses])
    np.testing.assert_allclose(autocorrelations(jnp.asarray(partial)), r, rtol=1e-11)
    np.testing.assert_allclose(toeplitz_by_regression(partial), r, rtol=1e-11)
    bound = Toeplitz(variance=jnp.asarray(3.0), partial=jnp.asarray(partial))
    assert bound.reported()["variance"] == 3.0
    np.testing.assert_allclose(bound.reported()["correlations"], r[1:], rtol=1e-11)
    variances = jnp.asarray(rng.uniform(1, 2, dim))
    reported = HeterogeneousToeplitz().bind({"variances": variances, "partial": jnp.asarray(partial)}).reported()
    np.testing.assert_allclose([*reported["variances"], *reported["correlations"]], [*variances, *r[1:]], rtol=1e-11)
    singular = autocorrelations(jnp.asarray(np.append(partial[:-1], 1.0)))
    lags = abs(np.subtract.outer(np.arange(dim), np.arange(dim)))
    assert np.linalg.eigvalsh(singular[lags])[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("bands", [1, 2, 3])
def test_banded_matrices(bands):
    structure = BandedUnstructured(bands=bands)
    theta = random_public(structure, 5, bands)
    assert len(theta) == sum(5 - k for k in range(bands))
    bound = structure.from_public(jnp.asarray(theta), 5)
    G = np.asarray(bound.matrix(np.arange(5)))
    apart = abs(np.subtract.outer(np.arange(5), np.arange(5)))
    assert np.all(G[apart >= bands] == 0) and np.all(G[apart < bands] != 0)
    np.testing.assert_allclose(bound.to_public(5), theta, atol=1e-12)
    np.testing.assert_allclose(G, np.asarray(bound.covariance))
    # a zero variance in between is an ordinary point
    G = np.where(np.eye(5)[2] + np.eye(5)[2][:, None], 0.0, G)
    again = structure.from_public(jnp.asarray(structure.bind({"covariance": G}).to_public(5)), 5)
    np.testing.assert_allclose(again.covariance, G, atol=1e-12)
    s = structure.bind({"covariance": G}).to_solver(5)
    assert structure.at_boundary(s, 5, 1e-4) and not structure.at_boundary(bound.to_solver(5), 5, 1e-4)
    np.testing.assert_allclose(structure.canonical(-s, 5), s, atol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_low_rank_matrices(d):
    rng = np.random.default_rng(d)
    loadings = rng.normal(size=(5, d))
    G, variances = loadings @ loadings.T, rng.uniform(size=5)
    bound = ReducedRank(d=d).bind({"covariance": G})
    theta = bound.to_public(5)
    assert len(theta) == 5 * d - d * (d - 1) // 2
    again = ReducedRank(d=d).from_public(jnp.asarray(theta), 5)
    np.testing.assert_allclose(again.matrix(np.arange(5)), G, atol=1e-12)
    assert np.linalg.matrix_rank(again.covariance) == d
    whole = FactorAnalytic(d=d).bind({"common": jnp.asarray(G), "variances": jnp.asarray(variances)})
    np.testing.assert_allclose(whole.matrix(np.arange(5)), G + np.diag(variances), atol=1e-12)
    np.testing.assert_allclose(whole.matrix(np.array([4, 1])), (G + np.diag(variances))[np.ix_([4, 1], [4, 1])])
    # a level without loadings: the first pivot is zero and its column is not
    loadings[0] = 0.0
    flat = ReducedRank(d=d).bind({"covariance": loadings @ loadings.T})
    again = ReducedRank(d=d).from_solver(jnp.asarray(flat.to_solver(5)), 5)
    np.testing.assert_allclose(again.covariance, loadings @ loadings.T, atol=1e-12)
    s = bound.to_solver(5)
    assert not ReducedRank(d=d).at_boundary(s, 5, 1e-4)
    s[-1] = 0.0 if d < 5 else s[-1]
    np.testing.assert_array_equal(ReducedRank(d=d).canonical(-s, 5), ReducedRank(d=d).canonical(s, 5))


def test_a_column_of_loadings_that_is_zero_is_the_boundary():
    structure = ReducedRank(d=2)
    s = np.array([[1.0, 2, 3, 4, 5], [1, 2, 3, 0, 5], [1, 2, 3, 1e-6, 1e-5], [0, 2, 3, 4, 5]])
    np.testing.assert_array_equal(structure.at_boundary(s, 3, 1e-4), [False, False, True, False])
    np.testing.assert_array_equal(structure.snapped(s, 3, 1e-4)[2], [1, 2, 3, 0, 0])
    np.testing.assert_array_equal(structure.snapped(s, 3, 1e-4)[[0, 1, 3]], s[[0, 1, 3]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Matern(nu=1.0), "Matern: expected nu"),
        (lambda: Matern(nu="smooth"), "Matern: expected nu"),
        (lambda: BandedUnstructured(bands=0), "BandedUnstructured: expected bands"),
        (lambda: ReducedRank(d=1.5), "ReducedRank: expected d"),
        (lambda: FactorAnalytic(d=True), "FactorAnalytic: expected d"),
        (lambda: bound_at(OrnsteinUhlenbeck(), 5, 0).matrix(PLACES), "OrnsteinUhlenbeck: expected times"),
        (lambda: bound_at(Spherical(), 5, 0).matrix(np.ones((5, 4))), "Spherical: at most three dimensions"),
    ],
)
def test_impossible_options_are_refused(make, message):
    with pytest.raises(jaxlmm.JaxlmmError, match=message):
        make()
    assert Matern(nu="inf") == Matern(nu=np.inf)


# ---------------------------------------------------------------------------- identities


def matrix(cls, levels=None, **values):
    return np.asarray(
        cls(**jax.tree_util.tree_map(jnp.asarray, values)).matrix(np.arange(4) if levels is None else levels)
    )


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.8])
def test_identities(rho):
    four, three = np.full(4, 2.0), np.full(3, rho)
    first = np.array([rho, 0.0, 0.0])
    ar1 = matrix(Autoregressive, variance=2.0, correlation=rho)
    same_as_ar1 = [
        matrix(Toeplitz, variance=2.0, partial=first),
        matrix(HeterogeneousToeplitz, variances=four, partial=first),
        matrix(HeterogeneousAutoregressive, variances=four, correlation=rho),
        matrix(AnteDependence, variance=2.0, correlations=three),
        matrix(HeterogeneousAnteDependence, variances=four, correlations=three),
        matrix(AutoregressiveMovingAverage, variance=2.0, correlation=rho, smoothness=rho),
        matrix(ContinuousAutoregressive, variance=2.0, correlation=rho),
    ]
    if rho:
        days = 7.0 * np.arange(4)
        same_as_ar1 += [matrix(c, days, variance=2.0, range=-7 / np.log(rho)) for c in (OrnsteinUhlenbeck, Exponential)]
    for other in same_as_ar1:
        np.testing.assert_allclose(other, ar1, atol=1e-14)
    cs = matrix(CompoundSymmetry, variance=2.0, correlation=rho)
    intercept = 2.0 * rho * np.ones((4, 4)) + 2.0 * (1 - rho) * np.eye(4)
    np.testing.assert_allclose(cs, intercept, atol=1e-14)
    np.testing.assert_allclose(matrix(HeterogeneousCompoundSymmetry, variances=four, correlation=rho), cs, atol=1e-14)
    mean = 2.0 * rho + 2.0 * (1 - rho) / 4
    hf = matrix(HuynhFeldt, contrast=2.0 * (1 - rho), mean=mean, differences=np.zeros(3))
    np.testing.assert_allclose(hf, cs, atol=1e-14)


def test_negative_correlations_alternate():
    G = matrix(Autoregressive, variance=1.0, correlation=-0.5)
    np.testing.assert_array_equal(G[0], [1, -0.5, 0.25, -0.125])
    gaps = matrix(Autoregressive, np.array([0, 5, 2]), variance=1.0, correlation=-0.5)
    np.testing.assert_array_equal(gaps[0], [1, -(0.5**5), 0.25])


# ---------------------------------------------------------------------------- helpers


def test_powers_have_all_derivatives_of_a_polynomial():
    lags, rhos = np.array([0, 1, 2, 3, -2, 7]), [0.0, 0.4, -0.4, 1.0, -1.0]
    f = functools.partial(powers, lag=lags)
    for order in range(4):
        falling = [np.prod([abs(k) - i for i in range(order)]) for k in lags]  # k (k-1) ...
        rest = np.maximum(abs(lags) - order, 0)
        expected = [[c * rho**k for c, k in zip(falling, rest, strict=True)] for rho in rhos]
        np.testing.assert_allclose(jax.jit(jax.vmap(f))(jnp.array(rhos)), expected, atol=1e-14)
        if order == 2:
            reverse = jax.jacrev(jax.jacrev(lambda r: powers(r, lags)))
            np.testing.assert_allclose(jax.jit(jax.vmap(reverse))(jnp.array(rhos)), expected, atol=1e-14)
        f = jax.jacfwd(f)
    assert powers(0.5, np.array([1000, 10**6])).tolist() == [0.5**1000, 0.0]


def test_powers_with_lags_that_are_not_integers():
    lags = np.array([0.0, 0.5, 1.5, 2.25])
    np.testing.assert_allclose(powers(0.3, lags), 0.3**lags, rtol=1e-15)
    np.testing.assert_array_equal(powers(0.0, lags), [1, 0, 0, 0])
    assert np.isnan(powers(-0.3, lags)).tolist() == [False, True, True, True]
    derivatives = jax.jit(lambda r: (jax.jacfwd(powers)(r, lags), jax.jacfwd(jax.jacrev(powers))(r, lags)))
    assert np.all(np.isfinite(derivatives(0.0)))
    along = jax.jit(jax.grad(powers, 1))
    assert along(0.3, 1.5) == pytest.approx(0.3**1.5 * np.log(0.3)) and along(0.3, -1.5) == -along(0.3, 1.5)
    assert along(0.0, 1.5) == 0.0
    mapped = jax.vmap(powers, in_axes=(0, None))(jnp.array([0.0, 0.5]), lags)
    np.testing.assert_allclose(mapped, [[1, 0, 0, 0], 0.5**lags])


def test_distances_and_their_derivatives():
    points = np.concatenate([PLACES, PLACES[:1]])  # two in one place
    expected = np.sqrt(np.sum((points[:, None] - points[None]) ** 2, -1))
    found = distances(points)
    assert isinstance(found, np.ndarray) and found[0, 5] == 0.0
    np.testing.assert_allclose(found, expected, rtol=1e-15)
    np.testing.assert_allclose(distances(jnp.asarray(points)), expected, rtol=1e-15)
    np.testing.assert_array_equal(distances(np.array([3, 1, 1])), [[0, 2, 2], [2, 0, 0], [2, 0, 0]])
    for coords in (points, points[:, 0]):
        derivatives = jax.jit(lambda x: (jax.jacrev(distances)(x), jax.jacfwd(jax.jacrev(distances))(x)))
        first, second = map(np.asarray, derivatives(coords))
        assert np.all(np.isfinite(first)) and np.all(np.isfinite(second))
        assert not np.any(first[0, 5]) and np.any(first[0, 1])


def test_open_parameters_have_no_boundary():
    for kind, value in ((parameters.RealKind(), -2.5), (parameters.PositiveKind(first=float), 2.5)):
        s = kind.to_solver(np.array([value]), 3)
        assert kind.from_public(jnp.asarray(kind.solver_to_public(kind.canonical(s, 3), 3)), 3) == pytest.approx(value)
        assert not kind.at_boundary(s, 3, np.inf) and kind.snapped(s, 3, np.inf) is s
    assert parameters.RealKind().start(3) == 0.0 and parameters.PositiveKind(first=float).start(3) == 3.0
    assert parameters.PositiveKind().start(3) == 1.0


# ---------------------------------------------------------------------------- fits


@functools.cache
def fitted(name, engine="auto"):
    """(case, names of X, what is found) for a marginal model: no random effects, a structure over visits."""
    formulaic = pytest.importorskip("formulaic")
    case = load_case(name)
    response, rhs = (side.strip() for side in case["formula"].split("~"))
    data = load_data(case).dropna(subset=[response])
    X = formulaic.model_matrix(rhs, data)
    within = case["structure"]
    residual = Residual(
        NAMES[within["residual"]](),
        group=data[within["within"]].to_numpy(),
        position=data[within["time"]].cat.codes.to_numpy(),
    )
    model = Model(data[response].to_numpy(), X.to_numpy(), (), residual, engine=engine)
    with jax.enable_x64(True):
        return case, list(X.columns), fitting.estimate(model, case["method"])


MARGINAL = tuple(n for n in case_names(plain=False) if n.startswith(("fev_", "orthodont_")))
DAILY = ("fev_toep_reml", "orthodont_ar1_reml")


@pytest.mark.parametrize(
    ("name", "engine"),
    some(
        [(n, e) for e in ("auto", "dense") for n in MARGINAL],
        *((n, "auto") for n in DAILY),
        ("orthodont_us_ml", "dense"),
    ),
)
def test_fits_of_mmrm(name, engine):
    case, columns, found = fitted(name, engine)
    assert found.status.name == "CONVERGED" and len(found.theta) == case["n_varpar"]
    assert found.loglik == pytest.approx(case["loglik"], abs=1e-6)
    assert [re.sub(r"\[T\.|\]", "", c) for c in columns] == ["Intercept", *list(case["fixef"])[1:]]
    se = np.array(list(case["se"].values()))
    assert np.max(np.abs(found.coef - list(case["fixef"].values())) / se) < 1e-5
    np.testing.assert_allclose(np.sqrt(np.diag(found.vcov)), se, rtol=1e-5)
    expected = np.array(case["theta"]["cov"])
    size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.max(np.abs(found.residual - expected) / size) < 1e-4


def test_the_references_have_every_structure_of_mmrm():
    names = {load_case(n)["structure"]["residual"] for n in MARGINAL}
    assert names == {"us", "ad", "adh", "ar1", "ar1h", "cs", "csh", "toep", "toeph"}


def test_natural_parameters_are_those_of_mmrm():
    case, _, found = fitted("fev_toep_reml")
    natural = dict(Toeplitz().natural(found.theta, 4))
    assert natural.pop("variance") == pytest.approx(case["theta"]["sd"] ** 2, rel=1e-4)
    assert list(natural.values()) == pytest.approx(case["theta"]["rho"], rel=1e-4)
    case, _, found = fitted("orthodont_ar1_reml")
    bound = Autoregressive().from_public(jnp.asarray(found.theta), 4)
    assert bound.correlation == pytest.approx(case["theta"]["rho"], abs=1e-4)
    assert np.sqrt(bound.variance) == pytest.approx(case["theta"]["sd"], rel=1e-4)


def test_compound_symmetry_is_a_random_intercept():
    case, _, found = fitted("orthodont_cs_reml")
    intercept = jaxlmm.lmm("distance ~ age * Sex + (1 | Subject)", load_data(case))
    assert intercept.loglik == pytest.approx(found.loglik, abs=1e-9)
    np.testing.assert_allclose(intercept.coef, found.coef, rtol=1e-9)
    between = found.residual[0, 1]
    assert intercept.varcorr().groups[0].cov[0, 0] == pytest.approx(between, rel=1e-6)
    assert intercept.sigma**2 == pytest.approx(found.residual[0, 0] - between, rel=1e-6)


def test_spatial_exponential_of_sas():
    """SP(EXP) over two coordinates: the treatment difference at SAS's optimum, found here by a search for the range."""
    from scipy.optimize import minimize_scalar

    pandas = pytest.importorskip("pandas")
    data = pandas.read_csv(REFERENCES / "data/fev_data.csv").dropna(subset=["FEV1"])
    treated = (data["ARMCD"] == "TRT").to_numpy(float)
    rows = np.column_stack([np.ones(len(data)), treated, data[["FEV1", "VISITN", "VISITN2"]].to_numpy()])
    subjects = [rows[index] for index in data.groupby("USUBJID").indices.values()]

    def grams(log_range):
        """Sums over subjects of log|V| and [X y]'V^-1[X y] for a variance of one."""
        bound = Exponential(variance=jnp.ones(()), range=jnp.exp(log_range))
        everyone = np.asarray(bound.matrix(np.concatenate(subjects)[:, 3:]))
        ends = np.cumsum([len(s) for s in subjects])
        blocks = [everyone[end - len(s) : end, end - len(s) : end] for s, end in zip(subjects, ends, strict=True)]
        found = [oracle.gram(V, s[:, 2], s[:, :2]) for s, V in zip(subjects, blocks, strict=True)]
        return sum(logdet for logdet, _ in found), sum(gram for _, gram in found)

    def criterion(log_range):
        """-2 REML log-likelihood but for constants, the variance profiled out."""
        logdet, gram = grams(log_range)
        rss = 1 / np.linalg.inv(gram)[2, 2]
        return logdet + np.linalg.slogdet(gram[:2, :2])[1] + (len(rows) - 2) * np.log(rss)

    best = minimize_scalar(criterion, bracket=(-1.5, 0.5), options={"xtol": 1e-6})
    _, gram = grams(best.x)
    sas = pandas.read_csv(REFERENCES / "sas/mmrm/kr1_spexp.csv")
    assert np.linalg.solve(gram[:2, :2], gram[:2, 2])[1] == pytest.approx(sas["Estimate"][0], abs=2e-4)


@pytest.mark.parametrize(
    "term",
    some(
        ["rr(0 + Machine | Worker, d=3)", "us_banded(0 + Machine | Worker, bands=3)", "us(0 + Machine | Worker)"],
        "rr(0 + Machine | Worker, d=3)",
    ),
)
def test_whole_matrices_by_other_names(term):
    """Three factors of three levels, and three bands, are an unstructured matrix."""
    case = load_case("machines_full_reml")
    fit = jaxlmm.lmm(f"score ~ Machine + {term}", load_data(case))
    assert fit.converged
    assert fit.loglik == pytest.approx(case["loglik"], abs=1e-6)
    np.testing.assert_allclose(fit.coef, list(case["fixef"].values()), rtol=1e-5)
    np.testing.assert_allclose(fit.varcorr().groups[0].cov, case["theta"]["groups"][0]["cov"], rtol=1e-3)


def test_structures_by_name_beside_functions_of_the_same_name():
    rng = np.random.default_rng(4)
    g, f = np.repeat(np.arange(12), 6), np.tile(np.array(["a", "b", "c"]), 24)
    data = {"y": rng.normal(size=72) + rng.normal(size=12)[g], "x": rng.normal(size=72), "f": f, "g": g}
    fit = jaxlmm.lmm("y ~ exp(x) + ar1(0 + f | g)", data)
    assert fit.converged and fit.coef_names == ("(Intercept)", "exp(x)") and len(fit.theta) == 3
    with pytest.raises(jaxlmm.FormulaError, match="'exp' is over times or places"):
        jaxlmm.lmm("y ~ exp(x) + exp(0 + f | g)", data)
    with pytest.raises(jaxlmm.FormulaError, match="width"):
        jaxlmm.lmm("y ~ us_banded(0 + f | g, width=2)", data)


def simulated(structure, seed, subjects=12, visits=4):
    """A marginal model of data with the covariance of a random member of `structure`, some visits missing."""
    rng = np.random.default_rng(seed)
    L = np.linalg.cholesky(np.asarray(bound_at(structure, visits, seed).matrix(np.arange(visits))))
    g, t = np.repeat(np.arange(subjects), visits), np.tile(np.arange(visits), subjects)
    seen = rng.uniform(size=len(g)) < 0.9
    y = (rng.normal(size=(subjects, visits)) @ L.T)[g, t][seen]
    X = np.column_stack([np.ones(seen.sum()), t[seen]])
    return lambda other: Model(y, X, (), Residual(other, group=g[seen], position=t[seen]))


RESIDUAL = tuple(s for s in STRUCTURES + OPTIONS if not isinstance(s, ReducedRank))


@pytest.mark.parametrize(
    "structure",
    [s if isinstance(s, HuynhFeldt) else pytest.param(s, marks=pytest.mark.slow) for s in RESIDUAL],
    ids=short,
)
def test_fits_are_optima(structure):
    """No neighbour of what is found is better, and it is better than the truth it was simulated from."""
    model = simulated(structure, seed=3)(structure)
    found = fitting.estimate(model)
    assert found.status.name == "CONVERGED"
    likelihood = jax.jit(jaxlmm.reml)
    assert likelihood(found.theta, model) == pytest.approx(found.loglik, abs=1e-9)
    assert likelihood(random_public(structure, model.residual.dim, 3), model) <= found.loglik
    for i in np.flatnonzero(np.isfinite(found.theta)):
        for step in (-1e-3, 1e-3):
            moved = found.theta + step * np.eye(len(found.theta))[i]
            assert likelihood(moved, model) <= found.loglik + 1e-10


@pytest.mark.slow
def test_structures_that_coincide_fit_alike():
    """Huynh-Feldt of two levels and Toeplitz of two are unstructured and symmetric; nested structures are ordered."""
    two = simulated(Unstructured(), 5, visits=2)
    four = simulated(HeterogeneousAutoregressive(), 6)
    logliks = {}
    for key, make, structure in (
        ("us2", two, Unstructured()),
        ("hf2", two, HuynhFeldt()),
        ("adh2", two, HeterogeneousAnteDependence()),
        ("cs2", two, CompoundSymmetry()),
        ("toep2", two, Toeplitz()),
        ("ou2", two, OrnsteinUhlenbeck()),
        ("ar1", four, Autoregressive()),
        ("arma11", four, AutoregressiveMovingAverage()),
        ("toep", four, Toeplitz()),
        ("toeph", four, HeterogeneousToeplitz()),
        ("us", four, Unstructured()),
        ("banded", four, BandedUnstructured(bands=4)),
        ("fa", four, FactorAnalytic()),
    ):
        found = fitting.estimate(make(structure))
        assert found.status.name == "CONVERGED", key
        logliks[key] = found.loglik
    for a, b in (("us2", "hf2"), ("us2", "adh2"), ("cs2", "toep2"), ("us", "banded")):
        assert logliks[a] == pytest.approx(logliks[b], abs=1e-7)
    for small, large in (
        ("cs2", "us2"),
        ("ar1", "arma11"),
        ("ar1", "toep"),
        ("toep", "toeph"),
        ("toeph", "us"),
        ("fa", "us"),
    ):
        assert logliks[small] <= logliks[large] + 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("cls", [Autoregressive, HeterogeneousAutoregressive, Toeplitz, FactorAnalytic, ReducedRank])
def test_random_effects_by_both_engines(cls):
    rng = np.random.default_rng(1)
    g, f = np.repeat(np.arange(15), 6), np.tile(np.arange(3), 30)
    L = np.linalg.cholesky(2.0 * 0.6 ** abs(np.subtract.outer(np.arange(3), np.arange(3))))
    y = (rng.normal(size=(15, 3)) @ L.T)[g, f] + rng.normal(size=90)
    structure = cls(d=1) if cls in (FactorAnalytic, ReducedRank) else cls()
    Z = np.eye(3)[f]
    found = [fitting.estimate(Model(y, Z, [Term(Z, g, structure)], engine=e)) for e in ("grouped", "dense")]
    assert found[0].status.name == "CONVERGED"
    assert found[0].loglik == pytest.approx(found[1].loglik, abs=1e-7)
    np.testing.assert_allclose(found[0].covariances[0], found[1].covariances[0], atol=1e-4)
