"""Compositions of structures, fixed and tied parameters, variance functions: against plain NumPy formulas."""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
from cases import some
from jaxlmm import Covariance, JaxlmmError, Model, Positive, Term, Variance
from jaxlmm.covariance import (
    FUNCTIONS,
    NAMES,
    AnteDependence,
    Autoregressive,
    ByGroup,
    CompoundSymmetry,
    ConstPower,
    Diagonal,
    Exp,
    Exponential,
    FactorAnalytic,
    Gaussian,
    HeterogeneousAutoregressive,
    HeterogeneousCompoundSymmetry,
    HuynhFeldt,
    Ident,
    Identity,
    KnownMatrix,
    Kronecker,
    Matern,
    OrnsteinUhlenbeck,
    Over,
    Power,
    Product,
    ReducedRank,
    Scaled,
    Sum,
    Toeplitz,
    Unstructured,
    distances,
)
from jaxlmm.fitting import estimate as fitting
from jaxlmm.testing import check_covariance
from matrices import bound_by, matrix_at

RNG = np.random.default_rng(0)
PLACES = RNG.normal(size=(5, 2))
TIMES = np.array([0.0, 0.35, 1.0, 2.75, 6.5])
FIVE = np.arange(5)
K5 = np.cov(RNG.normal(size=(5, 9)))


def grid(*sizes):
    """All combinations of levels as a table of floats, the last column running fastest."""
    return np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1).reshape(-1, len(sizes)).astype(float)


def at_random(structure, dim, seed=0):
    theta = np.random.default_rng(seed).normal(scale=0.5, size=structure.size(dim))
    return theta, bound_by(structure, theta, dim)


CASES = {
    "sum": (Identity() + Gaussian(), 1, PLACES),
    "sum of three": (Autoregressive() + CompoundSymmetry() + Diagonal(), 5, None),
    "product": (HeterogeneousAutoregressive() * CompoundSymmetry(), 4, None),
    "product with matrices": (Unstructured() * Unstructured() * Toeplitz(), 3, None),
    "kronecker": (Unstructured() @ Autoregressive(), (2, 3), grid(2, 3)),
    "kronecker of three": (Unstructured() @ AnteDependence() @ CompoundSymmetry(), (2, 3, 2), grid(2, 3, 2)),
    "kronecker of a plane": (Kronecker(Diagonal(), Matern(), widths=(1, 2)), (3, 1), np.c_[[0, 1, 2, 0, 1], PLACES]),
    "kronecker with low rank": (ReducedRank(d=1) @ HeterogeneousCompoundSymmetry(), (2, 3), grid(2, 3)),
    "kronecker of sums": ((Unstructured() + Diagonal()) @ (Identity() + HuynhFeldt()), (2, 3), grid(2, 3)),
    "sum beside a kronecker": (Unstructured() @ Autoregressive() + Identity(), (2, 1), grid(2, 3)),
    "by group": (ByGroup(HeterogeneousAutoregressive(), 2), 4, np.c_[np.ones(4), np.arange(4)]),
    "by group, shared": (ByGroup(CompoundSymmetry(), 3, ("correlation",)), 3, np.c_[[2.0] * 3, np.arange(3)]),
    "by group, composite": (ByGroup(Unstructured() @ OrnsteinUhlenbeck(), 2), (2, 1), np.c_[np.zeros(6), grid(2, 3)]),
    "power": (Scaled(OrnsteinUhlenbeck(), Power()), (1, 1), np.c_[TIMES, TIMES + 0.5]),
    "exp": (Scaled(Unstructured(), Exp()), (3, 1), np.c_[FIVE[:3], TIMES[:3]]),
    "const_power": (Scaled(Identity(), ConstPower(power=2.0)), (1, 1), np.c_[TIMES, TIMES + 0.5]),
    "ident": (Scaled(Autoregressive(), Ident()), (1, 3), np.c_[TIMES[:3] * 0 + FIVE[:3], FIVE[:3]]),
    "ident of the rest": (Scaled(Exponential(), Ident()), (1, 2), np.c_[PLACES, [0, 1, 0, 1, 1]]),
    "known": (KnownMatrix(K5), 5, None),
    "known and noise": (KnownMatrix(K5) + Identity(), 5, None),
    "fixed": (Autoregressive(correlation=0.5), 4, None),
    "fixed vector": (HeterogeneousAutoregressive(variances=[1.0, 2.0, 0.5]), 3, None),
    "fixed at one number": (AnteDependence(correlations=0.3), 4, None),
    "all fixed": (CompoundSymmetry(variance=2.0, correlation=0.1), 3, None),
    "fixed matrix": (Kronecker(Unstructured(covariance=K5[:2, :2]), Autoregressive()), (2, 3), grid(2, 3)),
    "fixed in a part": (Identity() + Gaussian(range=0.7), 1, PLACES),
    "fixed in a factor": (Diagonal() @ Autoregressive(variance=2.0), (2, 3), grid(2, 3)),
    "tied": (Diagonal().tied(variances=("a", "a", "b")), 3, None),
    "tied in a factor": (Autoregressive() @ Diagonal().tied(variances=(0, 1, 0)), (2, 3), grid(2, 3)),
    "tied correlations": (AnteDependence().tied(correlations=(0, 0, 1)), 4, None),
}


DAILY = ("sum", "kronecker with low rank", "fixed in a part")


@pytest.mark.parametrize("name", some(CASES, *DAILY))
def test_every_composition_passes_the_property_test(name):
    structure, dim, coords = CASES[name]
    check_covariance(structure, dim, coords)


@pytest.mark.parametrize("name", CASES)
def test_names_hashes_and_vmap(name):
    """What fits rely on besides the properties: static in compiled code, a name a parameter, mapped over sets."""
    structure, dim, coords = CASES[name]
    theta, bound = at_random(structure, dim)
    copy = jax.tree_util.tree_map(lambda x: x, structure)
    assert hash(structure) == hash(copy) and structure == copy and structure != Identity()
    names = [n for n, _ in structure.natural(theta, dim)]
    assert len(set(names)) == len(names)
    if "rank" not in name and "sums" not in name:
        assert len(names) == structure.size(dim)
    levels = np.arange(dim) if coords is None else coords
    by_group = name.startswith("by group")  # whose levels have to be known

    @jax.jit
    def matrices(bound, sets):
        mapped = () if by_group else (jax.vmap(bound.matrix)(sets)[1], bound.matrix(levels[::-1]))
        return bound.matrix(sets[0]), bound.matrix(levels), *mapped

    traced, known, *mapped = matrices(bound, np.stack([levels, levels[::-1]]))
    np.testing.assert_allclose(traced, known, atol=1e-13)
    if mapped:
        np.testing.assert_allclose(*mapped, atol=1e-13)


# ---------------------------------------------------------------------------- formulas


def test_sums_and_products():
    rng = np.random.default_rng(1)
    structure = Autoregressive() + CompoundSymmetry()
    v, r, w, c = np.exp(0.4), np.tanh(0.3), np.exp(-1.0), -1 / 3 + (4 / 3) * 0.5 * (1 + np.tanh(0.2))
    ar1, cs = v * r ** abs(FIVE[:4, None] - FIVE[:4]), w * np.where(np.eye(4) > 0, 1.0, c)
    G = matrix_at(bound_by(structure, np.array([0.2, 0.3, -0.5, 0.2]), 4), np.arange(4))
    np.testing.assert_allclose(G, ar1 + cs, rtol=1e-12)
    product = Autoregressive() * CompoundSymmetry()
    G = matrix_at(bound_by(product, np.array([0.2, 0.3, 0.2]), 4), np.arange(4))
    np.testing.assert_allclose(G, ar1 * cs / w, rtol=1e-12)
    assert product.degrees(4).tolist() == [1, 0, 0] and structure.degrees(4).tolist() == [1, 0, 1, 0]
    assert isinstance(structure + Identity(), Sum) and len((structure + Identity()).parts) == 3
    assert isinstance(product, Product) and rng is not None


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kronecker_of_known_factors_is_dense(seed):
    rng = np.random.default_rng(seed)
    A, B, C = (np.cov(rng.normal(size=(m, 12))) for m in (2, 4, 3))
    scale = B[0, 0] * C[0, 0]
    parts = {"covariance": jnp.asarray(A * scale)}, {"covariance": jnp.asarray(B)}, {"covariance": jnp.asarray(C)}
    whole = Unstructured() @ Unstructured() @ Unstructured()
    values = [Unstructured().bind(values) for values in parts]
    theta = whole._with(parts=tuple(values)).to_public((2, 4, 3))  # its coordinates are relative to B[0, 0] and C[0, 0]
    known = [Unstructured(covariance=X) for X in (A, B, C)]
    dense = np.kron(np.kron(A, B), C)
    found = bound_by(Kronecker(*known), np.zeros(0), (2, 4, 3))
    np.testing.assert_allclose(matrix_at(found, grid(2, 4, 3)), dense)
    assert whole.size((2, 4, 3)) == 3 + 9 + 5 == len(theta)
    first = np.linalg.cholesky(A * scale)
    relative = [np.linalg.cholesky(X / X[0, 0]) for X in (B, C)]

    def public(L):
        rows, columns = np.triu_indices(len(L))[::-1]
        return np.where(rows == columns, np.log(np.abs(L[rows, columns])), L[rows, columns])

    theta = np.concatenate([public(first), *(public(L)[1:] for L in relative)])
    G = matrix_at(bound_by(whole, theta, (2, 4, 3)), grid(2, 4, 3))
    np.testing.assert_allclose(G, dense, rtol=1e-10)


def test_parameters_by_group():
    structure = ByGroup(HeterogeneousAutoregressive(), 2, shared=("correlation",))
    assert structure.size(3) == 3 + 1 + 3
    theta = np.array([0.1, 0.2, 0.3, 0.5, -0.1, -0.2, -0.3])
    bound = bound_by(structure, theta, 3)
    for group, log_sd in enumerate((theta[:3], theta[4:])):
        coords = np.c_[np.full(3, group), [2, 0, 1]]
        sd = np.exp(log_sd)[[2, 0, 1]]
        lag = abs(np.subtract.outer([2, 0, 1], [2, 0, 1]))
        np.testing.assert_allclose(matrix_at(bound, coords), np.outer(sd, sd) * np.tanh(0.5) ** lag, rtol=1e-12)
    names = [name for name, _ in structure.natural(theta, 3)]
    assert names[:4] == ["group[0].variances[0]", "group[0].variances[1]", "group[0].variances[2]", "correlation"]
    places = np.stack([np.c_[np.full(3, a), np.arange(3)] for a in (0.0, 1.0)])
    both = jax.jit(jax.vmap(bound.matrix))(places)
    assert both.shape == (2, 3, 3) and not np.allclose(both[0], both[1])
    assert bound.to_public(3) == pytest.approx(theta)


@pytest.mark.parametrize(
    ("function", "values", "expected"),
    [
        (Power(), {"power": 0.7}, lambda x: np.abs(x) ** 0.7),
        (Power(power=0.5), {}, lambda x: np.sqrt(np.abs(x))),
        (Exp(), {"rate": -0.3}, lambda x: np.exp(-0.3 * x)),
        (ConstPower(), {"const": 0.2, "power": 1.5}, lambda x: 0.2 + np.abs(x) ** 1.5),
        (Ident(), {"ratios": [0.5, 3.0]}, lambda x: np.array([1.0, 0.5, 3.0])[x.astype(int)]),
    ],
    ids=["power", "fixed", "exp", "const_power", "ident"],
)
def test_variance_functions(function, values, expected):
    x = np.array([1.0, 2.0, 1.0, 2.0, 0.0]) if isinstance(function, Ident) else np.array([0.5, -2.0, 1.0, 4.0, 3.3])
    bound = Scaled(OrnsteinUhlenbeck(), function)._with(
        parts=(
            OrnsteinUhlenbeck().bind({"variance": 2.0, "range": 1.5}),
            function.bind({k: jnp.asarray(v) for k, v in values.items()}),
        )
    )
    g = expected(x)
    G = 2.0 * np.exp(-abs(TIMES[:, None] - TIMES) / 1.5) * np.outer(g, g)
    np.testing.assert_allclose(bound.matrix(np.c_[TIMES, x]), G, rtol=1e-12)
    assert type(function) in FUNCTIONS.values()


def test_known_matrices():
    bound = KnownMatrix(K5).bind({"variance": 2.0})
    np.testing.assert_allclose(bound.matrix(np.array([3.0, 0.0])), 2 * K5[np.ix_([3, 0], [3, 0])])
    assert KnownMatrix(K5) == KnownMatrix(K5.copy()) != KnownMatrix(2 * K5) and KnownMatrix(K5).by_level
    assert KnownMatrix(np.eye(5)).bind({"variance": 2.0}) != KnownMatrix(np.eye(5)).bind({"variance": 3.0})
    for bad, why in (
        (K5[:3], "matrix \\(levels, levels\\), found shape \\(3, 5\\)"),
        (np.triu(K5), "not symmetric"),
        (K5 - 2 * np.eye(5), "not positive semidefinite .* eigenvalue"),
        (np.where(np.eye(5), np.nan, K5), "NaN or infinite"),
    ):
        with pytest.raises(JaxlmmError, match=f"KnownMatrix: .*{why}"):
            KnownMatrix(bad)


@pytest.mark.parametrize("p", [0, 1, 2, 3, 5])
def test_half_integer_matern_is_the_bessel_function(p):
    special = pytest.importorskip("scipy.special")
    nu, d = p + 0.5, distances(PLACES) + np.eye(5)  # off the diagonal, where the definition is 0/0
    a = np.sqrt(2 * nu) * d / 1.3
    expected = 2.0 * 2 ** (1 - nu) / special.gamma(nu) * a**nu * special.kv(nu, a)
    G = np.asarray(Matern(nu=nu).bind({"variance": 2.0, "range": 1.3}).matrix(PLACES))
    np.testing.assert_allclose(np.where(np.eye(5), 0, G), np.where(np.eye(5), 0, expected), rtol=1e-10)
    assert np.diag(G) == pytest.approx(2.0)


# ---------------------------------------------------------------------------- fixed and tied


def test_fixed_values():
    structure = HeterogeneousAutoregressive(variances=np.array([1.0, 4.0, 9.0]))
    assert structure.size(3) == 1 and structure.has_fixed_scale and structure.fixed == ("variances",)
    assert not structure.is_free and not structure.has_values and structure.checked("here") is structure
    bound = structure.from_public(jnp.array([0.5]), 3)
    sd = np.array([1.0, 2.0, 3.0])
    lag = abs(np.subtract.outer(np.arange(3), np.arange(3)))
    np.testing.assert_allclose(bound.matrix(np.arange(3)), np.outer(sd, sd) * np.tanh(0.5) ** lag, rtol=1e-12)
    assert bound.to_public(3) == pytest.approx([0.5]) and bound.fixed == ("variances",)
    assert structure.natural([0.5], 3) == [("correlation", pytest.approx(np.tanh(0.5)))]
    assert structure == HeterogeneousAutoregressive(variances=[1, 4, 9]) != HeterogeneousAutoregressive(variances=1)
    assert hash(structure) == hash(HeterogeneousAutoregressive(variances=[1, 4, 9]))
    same = CompoundSymmetry(variance=2.0, correlation=0.25)
    np.testing.assert_allclose(same.matrix(np.arange(2)), [[2, 0.5], [0.5, 2]])
    np.testing.assert_allclose(same.from_solver(jnp.zeros(0), 2).matrix(np.arange(2)), [[2, 0.5], [0.5, 2]])
    assert (
        not (Gaussian(range=1.0) + Identity()).has_fixed_scale and (Gaussian() + Identity(variance=1.0)).has_fixed_scale
    )
    assert not (Diagonal() @ Autoregressive(variance=2.0)).has_fixed_scale


def test_tied_entries():
    structure = Diagonal().tied(variances=("low", "low", "high"))
    assert structure.size(3) == 2 and structure != Diagonal() and hash(structure) != hash(Diagonal())
    G = structure.from_public(jnp.log(jnp.array([1.0, 2.0])), 3).matrix(np.arange(3))
    np.testing.assert_allclose(G, np.diag([1, 1, 4]), rtol=1e-12)
    assert structure.natural(np.log([1.0, 2.0]), 3) == [("variances[0]", 1.0), ("variances[2]", pytest.approx(4.0))]
    np.testing.assert_array_equal(structure.unit_sizes(3, np.array([2.0, 2.0, 5.0]), 3.0), [6, 15])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Autoregressive(correlation=1.5),
            "Autoregressive: correlation is fixed at 1.5, expected numbers from -1",
        ),
        (lambda: Identity(variance=-1.0), "Identity: variance is fixed at -1.0, expected variances"),
        (lambda: Gaussian(range=0.0), "Gaussian: range is fixed at 0.0, expected positive"),
        (
            lambda: Unstructured(covariance=[[1, 2], [2, 1]]),
            "Unstructured: covariance is fixed at (.|\n)* semidefinite",
        ),
        (lambda: Diagonal(variances=[1, 2]).checked("x", 3), "Diagonal: variances .* expected .3,. for 3 levels"),
        (lambda: CompoundSymmetry(correlation=-0.9).checked("x", 3), "CompoundSymmetry: correlation"),
        (lambda: Diagonal().tied(variances=(0, 0)).size(3), "Diagonal: 2 labels .* variances .* there are 3"),
        (lambda: Identity().tied(variance=(0,)), "Identity: variance cannot be tied"),
        (lambda: (Identity() + Diagonal()).tied(variances=(0,)), "Sum: tie entries of its parts"),
        (lambda: Identity() + "ar1", "Sum: expected covariance structures, found 'ar1'"),
        (lambda: Sum(Identity(), Power()), "Sum: expected covariance structures, found Power"),
        (lambda: (Diagonal() @ Identity()).size(3), "Kronecker: expected dim with an entry for each of 2 parts"),
        (lambda: Scaled(Identity(), Power()).size(1), "Scaled: expected dim"),
        (lambda: Kronecker(Diagonal(), Identity(), widths=(1,)), "Kronecker: widths"),
        (lambda: at_random(Identity() @ Identity(), (1, 1))[1].matrix(FIVE), "Kronecker: expected coordinates"),
        (lambda: ByGroup(Identity(), 2, ("correlation",)), "ByGroup: shared .'correlation'."),
        (
            lambda: Autoregressive().from_public(jnp.zeros(2), 3).checked("residual"),
            "residual: Autoregressive has values",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(JaxlmmError, match=message):
        make()


def test_over_levels_or_not():
    over_levels = {name for name, cls in NAMES.items() if cls().by_level}
    assert not over_levels & {
        "iid",
        "homdiag",
        "ar1",
        "arma11",
        "ou",
        "car1",
        "exp",
        "sp_exp",
        "gau",
        "sp_sph",
        "matern",
    }
    assert {
        "us",
        "diag",
        "cs",
        "csh",
        "hf",
        "ar1h",
        "ad",
        "adh",
        "toep",
        "toeph",
        "rr",
        "fa",
        "us_banded",
    } <= over_levels
    assert (Identity() + Diagonal()).by_level and not (Identity() + Gaussian()).by_level
    assert FactorAnalytic().by_level and not Scaled(Identity(), Power()).by_level


def test_start_at_a_typical_distance():
    def start(structure, dim=1, distance=30.0):
        return structure.from_solver(jnp.asarray(structure.start(dim, distance)), dim)

    assert start(Gaussian()).range == pytest.approx(30.0)
    assert start(Gaussian(), distance=np.array([3.0, 4.0])).range == pytest.approx(5.0)
    for name in ("car1", "ar1", "arma11"):
        assert start(NAMES[name]()).correlation ** 30 == pytest.approx(0.5)
    assert start(Autoregressive(), distance=1.0).correlation == 0.0
    assert start(Kronecker(Diagonal(), Matern(), widths=(1, 2)), (2, 1), np.array([9.0, 3, 4])).parts[1].range == (
        pytest.approx(5.0)
    )

    class Own(Covariance):
        variance: Variance
        range: Annotated[Positive, jaxlmm.covariance.kinds.PositiveKind(first=2.0)]

    assert start(Own()).range == pytest.approx(2.0)


def test_over_is_a_structure_and_its_columns():
    assert Gaussian().over("lat + lon | site") == Over(Gaussian(), "lat + lon | site")
    assert hash((Unstructured() @ Autoregressive()).over("trait + time | id"))


# ---------------------------------------------------------------------------- fits


def balanced(seed, sd=(1.0, 1.0, 0.8, 0.0)):
    """Twelve groups of twelve rows at four levels, whose effects have the given standard deviations."""
    rng = np.random.default_rng(seed)
    group, level = np.repeat(np.arange(12), 12), np.tile(np.arange(4), 36)
    effects = rng.normal(size=(12, 4)) @ np.linalg.cholesky(0.5 + 0.5 * np.eye(4)).T * sd
    y = effects[group, level] + rng.normal(size=144)
    X = np.column_stack([np.ones(144), level])
    return lambda structure: Model(y, X, [Term(np.eye(4)[level], group, structure)])


def check_optimum(model, found):
    """No neighbour is better, and the certificate agrees."""
    assert found.status.name == "CONVERGED"
    likelihood = jax.jit(jaxlmm.reml)
    assert likelihood(found.theta, model) == pytest.approx(found.loglik, abs=1e-8)
    for i in np.flatnonzero(np.isfinite(found.theta)):
        for step in (-1e-3, 1e-3):
            assert likelihood(found.theta + step * np.eye(len(found.theta))[i], model) <= found.loglik + 1e-10


@pytest.mark.parametrize(
    ("name", "seed"),
    [("csh", 3), pytest.param("csh", 0, marks=pytest.mark.slow)]
    + [
        pytest.param(name, k, marks=pytest.mark.slow)
        for name in ("csh", "ar1h", "adh", "toeph", "hf")
        for k in range(1, 8)
        if (name, k) != ("csh", 3)
    ],
)
def test_random_effects_of_which_a_variance_vanishes(name, seed):
    """The search used to stall in the kink of a standard deviation at zero."""
    structure = NAMES[name]()
    model = balanced(seed)(structure)
    found = fitting.estimate(model)
    check_optimum(model, found)
    if (name, seed) == ("csh", 0):  # there is an optimum at zero too, of -222.952
        assert found.loglik == pytest.approx(-222.423592, abs=1e-5)
    if (name, seed) in (("csh", 3), ("ar1h", 4)):  # the last level has none, and the curvature there says so
        assert np.isneginf(found.theta[3]) and found.certificate.min_eigenvalue > 0.1


@pytest.mark.slow
def test_fits_with_fixed_parameters():
    make = balanced(3, sd=(1.0, 1.0, 0.8, 0.9))
    found = fitting.estimate(make(Autoregressive(correlation=0.4)))
    free = make(Autoregressive())
    embedded = np.array([found.theta[0], np.arctanh(0.4), found.theta[1]])
    likelihood = jax.jit(jaxlmm.reml)
    assert likelihood(embedded, free) == pytest.approx(found.loglik, abs=1e-9)
    for step in np.array([[1e-3, 0, 0], [0, 0, 1e-3]]):
        assert likelihood(embedded + step, free) < found.loglik and likelihood(embedded - step, free) < found.loglik
    assert fitting.estimate(free).loglik > found.loglik
    scaled = fitting.estimate(make(Autoregressive(variance=0.7)))
    assert scaled.status.name == "CONVERGED"
    embedded = np.insert(scaled.theta, 0, 0.5 * np.log(0.7))
    assert likelihood(embedded, free) == pytest.approx(scaled.loglik, abs=1e-9)


@pytest.mark.slow
def test_fits_with_tied_parameters():
    make = balanced(3, sd=(1.0, 1.0, 0.8, 0.9))
    logliks = [
        fitting.estimate(make(structure)).loglik
        for structure in (
            Diagonal().tied(variances=(0, 0, 0, 0)),
            Identity(),
            Diagonal().tied(variances="aabb"),
            Diagonal(),
        )
    ]
    assert logliks[0] == pytest.approx(logliks[1], abs=1e-9) and logliks[1] < logliks[2] < logliks[3]


@pytest.mark.slow
def test_a_product_does_not_start_on_a_saddle():
    """With two correlations of zero neither has a slope; the product has either factor as a special case."""
    make = balanced(3, sd=(1.0, 1.0, 0.8, 0.9))
    found = {s: fitting.estimate(make(s)) for s in (Autoregressive(), CompoundSymmetry())}
    product = Autoregressive() * CompoundSymmetry()
    check_optimum(make(product), fitting.estimate(make(product)))
    assert fitting.estimate(make(product)).loglik >= max(f.loglik for f in found.values()) - 1e-9
