"""The spectral engine against the formulas of the mixed model written out with dense matrices in NumPy."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import some
from jaxlmm.errors import DataError
from jaxlmm.likelihood.engines.base import Blocks, Rows, expand
from jaxlmm.likelihood.engines.spectral import Rotation, Spectral, VaryingRotated

R = 4  # columns of U


class Data(NamedTuple):
    rows: Rows
    group: np.ndarray
    A: np.ndarray

    @property
    def Z(self):
        """Z (n, levels), without A."""
        return self.rows.Z[0] * (self.group[:, None] == np.arange(len(self.A)))

    def V(self, g, s2):
        return g * self.Z @ self.A @ self.Z.T + s2 * np.eye(len(self.group))


@functools.cache
def data(case):
    """Rows in any order, each multiplied by a root of a weight (times a covariate in "slope")."""
    rng = np.random.default_rng(3)
    n, m, rank = {
        "fewer rows": (12, 20, 20), "as many": (15, 15, 15), "repeated": (40, 9, 9), "singular": (40, 12, 5),
        "slope": (30, 8, 8), "one level": (6, 1, 1), "zero relationship": (9, 4, 0), "zero rows": (9, 4, 4),
    }[case]  # fmt: skip
    group = rng.permutation(m)[:n] if n <= m else rng.integers(0, m, n)
    z = rng.uniform(0.5, 2.0, n) if case != "as many" else np.ones(n)
    if case == "slope":  # one level has zeros only, one row of another is zero
        z = z * rng.normal(size=n) * (group != 3)
        z[np.flatnonzero(group == 1)[0]] = 0.0
    z = z * (case != "zero rows")
    B = rng.normal(size=(m, rank))
    return Data(Rows(rng.normal(size=(n, R)), (z[:, None],)), group.astype(np.int32), B @ B.T)


CASES = ("fewer rows", "as many", "repeated", "singular", "slope", "one level", "zero relationship", "zero rows")
POINTS = ((0.7, 1.3), (0.0, 0.4), (50.0, 1.0), (1e-6, 2.0))


def blocks(g, s2):
    return Blocks((jnp.full((1, 1), g),), jnp.full((1, 1), s2))


@functools.cache
def prepared(case):
    return Spectral.prepare(*data(case))


def close(found, expected, rtol=1e-9):
    scale = np.abs(expected).max(initial=1e-300)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * scale)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@jax.jit
def offered(statistics, C, B):
    """Everything but the expansion."""

    def along(C):
        return jax.jvp(lambda C: statistics.gram(C)[0], (C,), (blocks(1.0, 0.0),))[1]

    traces = jax.jvp(along, (C,), (blocks(1.0, 0.0),))
    return statistics.gram(C), statistics.solve(C, B), traces


@jax.jit
def both_expansions(statistics, C, D, weights):
    """In closed form and by differentiation."""
    arguments = C, D, lambda gram: weights + jnp.linalg.inv(gram + jnp.eye(R))
    return statistics.expand(*arguments), expand(statistics.gram, *arguments)


@pytest.mark.parametrize("case", some(CASES, "fewer rows", "repeated", "singular", "slope", "zero relationship"))
def test_gram_and_solve(case):
    d, U = data(case), data(case).rows.U
    B = np.random.default_rng(1).normal(size=(len(U), 2))
    for point in POINTS:
        V = d.V(*point)
        (logdet, gram), solved, traces = offered(prepared(case), blocks(*point), B)
        assert float(logdet) == pytest.approx(np.linalg.slogdet(V)[1], rel=1e-10, abs=1e-10)
        close(gram, U.T @ np.linalg.solve(V, U))
        close(solved, np.linalg.solve(V, B))
        K = np.linalg.solve(V, d.Z @ d.A @ d.Z.T)
        close(traces, [np.trace(K), -np.trace(K @ K)])


@pytest.mark.parametrize(
    ("case", "free"),
    some(
        [(case, free) for case in CASES for free in (True, False)],
        ("fewer rows", True), ("repeated", False), ("singular", True), ("slope", False), ("zero relationship", True),
    ),
)  # fmt: skip
def test_expansion_is_that_of_autodiff(case, free):
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(R, R))
    weights = weights + weights.T
    D = Blocks((rng.normal(size=(3, 1, 1)),), rng.normal(size=(3, 1, 1)) if free else None)
    for point in POINTS:
        found, expected = both_expansions(prepared(case), blocks(*point), D, weights)
        for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert one.shape == two.shape
            close(one, two)


def test_expansion_is_that_of_the_dense_matrix():
    d, (g, s2) = data("repeated"), POINTS[0]
    U, W = d.rows.U, np.eye(R)
    D = Blocks((jnp.ones((2, 1, 1)) * jnp.array([1.0, 0.0])[:, None, None],), jnp.array([0.0, 1.0])[:, None, None])
    found = jax.jit(lambda statistics: statistics.expand(blocks(g, s2), D, lambda _: jnp.asarray(W)))(
        prepared("repeated")
    )
    P = np.linalg.inv(d.V(g, s2))
    parts = d.V(1.0, 0.0), d.V(0.0, 1.0)
    close(found.gram_slopes, np.stack([-U.T @ P @ H @ P @ U for H in parts]))
    slopes = [np.trace(P @ H) - np.trace(U.T @ P @ H @ P @ U) for H in parts]
    close(np.ravel([found.slopes.random[0], found.slopes.residual]), slopes)
    second = [[2 * np.trace(U.T @ P @ H @ P @ K @ P @ U) - np.trace(P @ H @ P @ K) for K in parts] for H in parts]
    close(found.curvature, second)


@pytest.mark.parametrize("case", some(["fewer rows", "as many", "repeated"], "fewer rows"))
@pytest.mark.parametrize("count", [1, 2])
def test_many_responses_are_each_of_them(case, count):
    d, b, C = data(case), 3, blocks(0.7, 1.3)
    rng, fixed = np.random.default_rng(2), d.rows.U[:, : R - count]
    columns = [rng.normal(size=(len(d.group), b)) for _ in range(count)]
    template = prepared(case)
    lanes = VaryingRotated(fixed, template)(columns)
    D = Blocks((jnp.ones((1, 1, 1)),), jnp.ones((1, 1, 1)))

    @jax.jit
    def evaluate(statistics):
        return statistics.expand(C, D, jnp.linalg.inv)

    found = jax.jit(jax.vmap(lambda lane: evaluate(template.with_columns(lane))))(lanes)
    for i in range(b):
        U = np.column_stack([fixed, *(column[:, i] for column in columns)])
        alone = evaluate(Spectral.prepare(d.rows._replace(U=U), d.group, d.A))
        for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
            close(one[i], two)


def test_compiled_and_differentiated_in_the_data():
    d, C = data("repeated"), blocks(0.7, 1.3)
    statistics = prepared("repeated")
    close(jax.jit(lambda s: s.gram(C)[1])(statistics), statistics.gram(C)[1])
    assert jax.vmap(lambda s: s.gram(C)[0])(jax.tree.map(lambda x: np.stack([x, x]), statistics)).shape == (2,)
    rotation, U = Rotation.find(d.rows.Z[0][:, 0], d.group, d.A), d.rows.U
    slope = jax.jit(jax.grad(lambda U: jnp.trace(Spectral.rotated(U, rotation).gram(C)[1])))(U)
    close(slope, 2.0 * np.linalg.solve(d.V(0.7, 1.3), U))


def test_relationship_with_a_negative_eigenvalue():
    d = data("as many")
    lowest, vectors = np.linalg.eigh(d.A)
    rounding = d.A - (lowest[0] + 1e-12) * np.outer(vectors[:, 0], vectors[:, 0])
    assert Rotation.find(np.ones(15), d.group, rounding).values.min() == 0.0
    with pytest.raises(DataError, match="relationship: expected a positive semidefinite"):
        Rotation.find(np.ones(15), d.group, d.A - lowest[3] * np.eye(15))


def test_what_may_be_traced():
    d = data("repeated")
    with pytest.raises(DataError, match="spectral.*traced"):
        jax.jit(lambda A: Spectral.prepare(d.rows, d.group, A).gram(blocks(1.0, 1.0)))(d.A)
