"""Structures and their charts: natural parameters, public coordinates, coordinates of the solver."""

from __future__ import annotations

import functools
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
from cases import some
from jaxlmm import (
    Correlation,
    Covariance,
    Diagonal,
    Model,
    Positive,
    Term,
    Unstructured,
    Variance,
    each_level,
    interval,
)
from jaxlmm.covariance import CompoundSymmetry, Identity
from jaxlmm.fitting import estimate as fitting
from matrices import bound_by, matrix_at


class Decay(Covariance):
    """A researcher's own structure, as the documentation shows it."""

    variance: Variance
    range: Positive

    def matrix(self, levels):
        return self.variance * jnp.exp(-jnp.abs(levels[:, None] - levels[None, :]) / self.range)


class Ar1h(Covariance):
    """Heterogeneous variances, one correlation, and an option that is not a parameter."""

    variances: Annotated[Variance, each_level]
    rho: Correlation
    power: float = 1.0

    def matrix(self, levels):
        lag = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
        table = jnp.stack([jnp.ones(()), self.rho, self.rho**2])  # no 0 ** 0 in the derivatives
        sd = jnp.sqrt(self.variances)
        return table[lag] * sd[:, None] * sd[None, :] * self.power


STRUCTURES = (Unstructured(), Diagonal(), Identity(), CompoundSymmetry(), Decay(), Ar1h(), Ar1h(power=2.0))
LEVELS = np.arange(3, dtype=np.int32)


def public(structure):
    return np.random.default_rng(structure.size(3)).normal(scale=0.5, size=structure.size(3))


@functools.partial(jax.jit, static_argnums=0)
def _at_solver(structure, s):
    return structure.from_solver(s, 3).matrix(LEVELS)


def at_solver(structure, s):
    return np.asarray(_at_solver(structure, np.asarray(s, float)))


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_charts_are_inverse_to_each_other(structure):
    theta = public(structure)
    bound = bound_by(structure, theta, 3)
    np.testing.assert_allclose(bound.to_public(3), theta, atol=1e-10)
    s = bound.to_solver(3)
    np.testing.assert_allclose(at_solver(structure, s), matrix_at(bound, LEVELS), atol=1e-12)
    np.testing.assert_allclose(structure.solver_to_public(structure.canonical(s, 3), 3), theta, atol=1e-9)


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_matrices_are_covariances_and_homogeneous_in_their_scales(structure):
    s = bound_by(structure, public(structure), 3).to_solver(3)
    G = at_solver(structure, s)
    np.testing.assert_allclose(G, G.T, atol=1e-14)
    assert np.linalg.eigvalsh(G).min() > 0
    twice = structure.unit_sizes(3, np.ones(3), 2.0) / structure.unit_sizes(3, np.ones(3), 1.0)
    np.testing.assert_allclose(at_solver(structure, s * twice), 4 * G, rtol=1e-12)


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_derivatives_are_finite_at_the_start_and_on_the_boundary(structure):
    def total(s):
        return jnp.sum(jnp.cos(structure.from_solver(s, 3).matrix(LEVELS)))

    derivatives = jax.jit(lambda s: (jax.grad(total)(s), jax.hessian(total)(s)))
    for s in (structure.start(3), np.zeros(structure.size(3))):
        if not (isinstance(structure, Ar1h) and not s.any()):  # its square roots of variances are not smooth at 0
            assert all(np.all(np.isfinite(found)) for found in derivatives(np.asarray(s, float)))


def test_sizes_and_names_of_parameters():
    assert [s.size(3) for s in STRUCTURES] == [6, 3, 1, 2, 2, 4, 4]
    assert [f.name for f in Ar1h.fields] == ["variances", "rho"]
    assert Ar1h(power=2.0) != Ar1h() and Ar1h() == Ar1h() and hash(Ar1h()) == hash(Ar1h())
    assert Diagonal().is_free and not Identity(variance=1.0).is_free


def test_compound_symmetry_reaches_its_lowest_correlation():
    lowest = CompoundSymmetry().from_public(jnp.array([0.0, -jnp.inf]), 4)
    assert lowest.correlation == pytest.approx(-1 / 3)
    assert np.linalg.eigvalsh(lowest.matrix(np.arange(4)))[0] == pytest.approx(0, abs=1e-12)
    assert CompoundSymmetry().from_solver(jnp.asarray(CompoundSymmetry().start(4)), 4).correlation == pytest.approx(0)


def test_an_interval_has_ends_that_are_ordinary_points():
    kind = interval(0.0, 2.0)
    assert kind.from_public(jnp.inf, 1) == 2.0 and kind.from_public(-jnp.inf, 1) == 0.0
    assert jax.grad(lambda s: kind.from_solver(s, 1))(np.pi / 2) == pytest.approx(0, abs=1e-15)
    assert kind.at_boundary(np.array([np.pi / 2 - 1e-6]), 1, 1e-4) and not kind.at_boundary(np.zeros(1), 1, 1e-4)
    np.testing.assert_array_equal(kind.snapped(np.array([1.57079, 0.3]), 1, 1e-4), [np.pi / 2, 0.3])


def test_canonical_factors():
    us = Unstructured()
    s = us.canonical(np.array([[-1.0, 2.0, -3.0], [0.0, 3.0, 4.0]]), 2)
    np.testing.assert_allclose(s, [[1, -2, 3], [0, 0, 5]])  # signs; a zero pivot has a zero column
    np.testing.assert_array_equal(us.snapped(np.array([1e-6, 0.5, 1.0]), 2, 1e-4), [0, 0, 1])
    assert list(us.at_boundary(np.array([[1.0, 0, 1], [1, 0, 1e-9]]), 2, 1e-4)) == [False, True]
    np.testing.assert_array_equal(us.solver_to_public(np.array([0.0, 0.0, 1.0]), 2), [-np.inf, 0, 0])


@pytest.mark.parametrize("structure", some([Decay(), Ar1h()], Ar1h()), ids=repr)
def test_ones_own_structure_gets_everything(structure):
    """Likelihood, derivatives and the fit of a structure that is nowhere in the package."""
    rng = np.random.default_rng(4)
    g, f = np.repeat(np.arange(12), 6), np.tile(np.arange(3), 24)
    Z = np.eye(3)[f]
    L = np.linalg.cholesky(2.0 * 0.6 ** np.abs(np.subtract.outer(np.arange(3), np.arange(3))))
    y = 1 + (rng.normal(size=(12, 3)) @ L.T)[g, f] + rng.normal(size=72)
    models = [Model(y, Z, [Term(Z, g, structure)], engine=engine) for engine in ("grouped", "dense")]
    theta = np.append(public(structure), 0.1)

    def slopes(theta, model):
        value, gradient = jax.value_and_grad(jaxlmm.reml)(theta, model)
        return gradient, (value, gradient)

    derivatives = jax.jit(jax.jacfwd(slopes, has_aux=True))
    hessians, both = zip(*(derivatives(theta, m) for m in models), strict=True)
    values, gradients = zip(*both, strict=True)
    assert values[0] == pytest.approx(float(values[1]), abs=1e-9)
    np.testing.assert_allclose(gradients[0], gradients[1], atol=1e-8)
    np.testing.assert_allclose(hessians[0], hessians[1], atol=1e-7)
    found = fitting.estimate(models[0])
    assert found.status.name == "CONVERGED"
    value = lambda theta: float(derivatives(theta, models[0])[1][0])  # noqa: E731
    assert found.loglik == pytest.approx(value(found.theta), abs=1e-9)
    for step in 1e-3 * np.eye(len(theta)):
        assert value(found.theta + step) < found.loglik
        assert value(found.theta - step) < found.loglik


def test_a_structure_by_name_in_a_formula():
    rng = np.random.default_rng(4)
    g, f = np.repeat(np.arange(12), 6), np.tile(np.array(["a", "b", "c"]), 24)
    data = {"y": rng.normal(size=72) + rng.normal(size=12)[g], "f": f, "g": g}
    fit = jaxlmm.lmm("y ~ f + decay(0 + f | g)", data, structures={"decay": Decay})
    assert fit.converged and len(fit.theta) == 3
    with pytest.raises(jaxlmm.FormulaError, match="decay"):
        jaxlmm.lmm("y ~ f + decay(0 + f | g)", data)
    with pytest.raises(jaxlmm.FormulaError, match="decay"):
        jaxlmm.lmm("y ~ f + decay(0 + f | g, d=2)", data, structures={"decay": Decay})


def test_what_is_no_structure_is_refused_clearly():
    bound = Identity().from_public(jnp.zeros(1), 1)
    with pytest.raises(jaxlmm.JaxlmmError, match="Identity has values of parameters that are estimated"):
        Term(np.ones(4), [0, 0, 1, 1], bound)
    with pytest.raises(jaxlmm.JaxlmmError, match="Unstructured"):
        Term(np.ones(4), [0, 0, 1, 1], "us")
