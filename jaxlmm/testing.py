"""Checks that authors of covariance structures can put their own through; needs no test framework.

>>> import jaxlmm
>>> from jaxlmm.testing import check_covariance
>>> check_covariance(jaxlmm.Unstructured())
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .arguments import Seed, door
from .covariance import Composite, Covariance
from .covariance.kinds import PositiveKind, RealKind
from .covariance.trial import NEAR, Derivatives, advice, coordinate_names, derivatives_of, is_steep, quickly, tried
from .errors import DataError, JaxlmmError
from .runtime.keys import generator_of
from .runtime.precision import float64

__all__ = ["check_covariance"]

RANDOM = 12  # points with random values, narrowly and widely spread
STEP = 1e-5  # of finite differences
ROUNDING = 1e-9  # relative to the largest entry of a matrix
FAR = 5.0  # how much further out a coordinate without bounds is tried


@door
def check_covariance(structure: Covariance, dim: Any = 4, coords: Any = None, seed: Seed = 0) -> None:
    """Check everything that jaxlmm assumes of a covariance structure; silent when all is well.

    The optimiser and all inference differentiate `matrix` twice, start it where correlations are zero and may push
    variances to zero and correlations to their limits. So at random values, at the start, at correlation zero and with
    each coordinate at each end of its range, the matrix has to be finite, symmetric and positive semidefinite, and
    its first and second derivatives in the coordinates of the solver and of ``fit.theta`` have to be finite. It has
    to be proportional to its `Variance` and `CovarianceMatrix` parameters together, to belong to the `levels` that are
    asked for (any of them, in any order: subjects miss visits), and values have to survive the way to
    unconstrained coordinates and back. Derivatives are compared with finite differences, for those who write rules
    of their own.

    A fit does the first part of this by itself, at its own levels or coordinates: it moves a start at which the matrix
    is no covariance or has no derivatives, takes coordinates of variances in which their roots are smooth, and says
    what it cannot mend. (Powers ``**`` and ``sqrt`` in a `matrix` are taken as `jaxlmm.covariance.powers` and
    `jaxlmm.covariance.roots`, which have derivatives at zero.) Common causes: logarithms of distances, which are zero
    on the diagonal; a standard deviation that is declared a `Variance`; a variance that is declared `Positive`;
    correlations that are bounded one by one, but not jointly.

    Parameters
    ----------
    structure : Covariance
        A structure to be estimated, such as ``OrnsteinUhlenbeck()``, ``Autoregressive(correlation=0.5)`` or
        ``Unstructured() @ Autoregressive()``.
    dim : int or tuple
        Number of levels, or what else the structure takes for it.
    coords : array (m,) or (m, d), optional
        Where to evaluate `matrix`, for structures over coordinates; default the positions 0, 1, ..., dim-1.
    seed : int or key of jax.random
        Of the random values.

    Raises
    ------
    AssertionError
        With the name of the structure, what is wrong, and at which values of its parameters.
    JaxlmmError
        When `structure` is not a covariance structure, or has values that are not fixed.
    """
    structure = Covariance.checked(structure, "check_covariance", dim)
    if coords is None and not isinstance(dim, int):
        raise JaxlmmError(f"check_covariance: {type(structure).__name__} needs coords, an array (m, k), beside {dim=}")
    levels = np.arange(dim, dtype=np.int32) if coords is None else np.asarray(coords)
    try:
        with float64():
            first = structure.start(dim)
            structure = tried(structure, dim, levels, "check_covariance")
            _Trial(structure, dim, levels, generator_of("seed", seed), first).run()
    except AssertionError:
        raise
    except DataError as error:
        raise AssertionError(str(error).removeprefix("check_covariance: ")) from error.__cause__
    except Exception as error:  # raised by the author's code, or about it
        error.add_note(f"while jaxlmm.testing.check_covariance looked at {structure!r}")
        raise


class _Trial:
    """One structure at some levels; s are coordinates of the solver (k,), theta public ones."""

    def __init__(
        self, structure: Covariance, dim: Any, levels: np.ndarray, rng: np.random.Generator, first: np.ndarray
    ):  # fmt: skip
        self.structure, self.dim, self.levels, self.rng, self.first = structure, dim, levels, rng, first
        self.size = structure.size(dim)
        some = rng.permutation(len(levels))[: max(1, len(levels) - 1)]
        self.some = some  # fewer levels, in another order
        # each of these is one program: outside of compiled code every operation would be one
        self.of_solver, self.of_public = (
            quickly(functools.partial(self._values, chart)) for chart in (structure.from_solver, structure.from_public)
        )
        self.matrices = quickly(self._matrices)

    def run(self) -> None:
        """All checks, in an order in which the first that fails is the most telling."""
        self._check_form()
        thetas = self.rng.normal(size=(RANDOM, self.size)) * np.tile([1.0, 1.0, 2.0], RANDOM // 3)[:, None]
        points = self._points(thetas)
        step = STEP * np.eye(self.size)
        charts = self.structure.from_solver, self.structure.from_public
        by_solver, by_public = (derivatives_of(chart, self.dim, self.levels) for chart in charts)
        without = points[RANDOM + 1]  # powers and roots have finite derivatives there, the matrix need not
        found = by_solver([*points, *without + NEAR * np.eye(self.size), *points[0] + step, *points[0] - step])
        near = found.value[len(points) : len(points) + self.size]
        steep = is_steep(found.value[RANDOM + 1], found.gradient[RANDOM + 1], near)
        what = "the gradient of matrix(levels) in the coordinates of the solver is not finite"
        self._require(not steep, what, without)
        for s, G in zip(points, found.value, strict=False):
            self._check_matrix(s, G)
        self._check_finite(points, "the solver", found)
        self._check_slopes(points[0], found)
        again = [self._round_trip(s) for s in points]
        self._check_finite(points, "fit.theta", by_public(again))
        for s, theta, other in zip(points, thetas, again, strict=False):
            self._require(np.allclose(theta, other, atol=1e-7), "values do not survive the way to fit.theta", s)
        self._check_levels(points[0], found.value[0])
        self._check_scale(points[0], found.value[0])

    def _values(self, chart: Callable[[Array, Any], Covariance], s: Array) -> Covariance:
        return chart(s, self.dim)

    def _matrices(self, s: Array) -> tuple[Array, Array]:
        """Matrices at all levels and at some."""
        bound = self.structure.from_solver(s, self.dim)
        return jnp.asarray(bound.matrix(self.levels)), jnp.asarray(bound.matrix(self.levels[self.some]))

    def _bound(self, s: Any) -> Covariance:
        return self.of_solver(np.asarray(s, float))

    def _points(self, thetas: np.ndarray) -> list[np.ndarray]:
        """Random points, the start, one without correlation, and one at each end of each coordinate."""
        inside = [self.of_public(theta).to_solver(self.dim) for theta in thetas]
        start = self.structure.start(self.dim)
        correlations = [getattr(k, "starts_at_zero", False) for k in self.structure.kinds(self.dim)]
        without = np.where(np.array(correlations, bool), self.first, inside[0])  # the start itself may have been moved
        apart = self.rng.choice([-1.0, 1.0], size=self.size) * np.maximum(np.abs(inside[0]), 0.1)
        return [*inside, start, without, *self._ends(apart), *self._ends(-apart)]

    def _ends(self, s: np.ndarray) -> np.ndarray:
        """Each coordinate in turn, and then all, at the end of its range that is on its side, or else far out."""
        end = self.structure.snapped(s, self.dim, np.inf)
        end = np.where(end == s, s + FAR * np.sign(s), end)
        return np.concatenate([np.where(np.eye(self.size, dtype=bool), end, s), end[None]])

    def _require(self, good: Any, what: str, s: np.ndarray | None = None) -> None:
        """Fail with the name of the structure and its values at s, unless `good`."""
        if not good:
            at = "" if s is None else f", at {self._bound(s)}"
            raise AssertionError(f"{type(self.structure).__name__}: {what}{at}")

    def _check_form(self) -> None:
        """`matrix` returns a real square matrix."""
        G, _ = jax.eval_shape(self._matrices, np.asarray(self.structure.start(self.dim), float))
        shape, dtype, m = G.shape, G.dtype, len(self.levels)
        self._require(shape == (m, m), f"matrix(levels) has shape {shape}, expected {(m, m)} for {m} levels")
        self._require(dtype == jnp.float64, f"matrix(levels) has entries of type {dtype}, expected float64")

    def _check_matrix(self, s: np.ndarray, G: np.ndarray) -> None:
        """Finite, symmetric and positive semidefinite."""
        self._require(np.all(np.isfinite(G)), "matrix(levels) is not finite; restrict its parameters", s)
        largest = np.max(np.abs(G), initial=0.0)
        asymmetry = np.max(np.abs(G - G.T), initial=0.0)
        self._require(asymmetry <= ROUNDING * largest, f"matrix(levels) is not symmetric (by {asymmetry:.3g})", s)
        smallest = np.min(np.linalg.eigvalsh(G), initial=np.inf)
        what = f"matrix(levels) is not positive semidefinite (it has the eigenvalue {smallest:.3g})"
        self._require(smallest >= -ROUNDING * largest, f"{what}; restrict its parameters", s)

    def _check_finite(self, points: list[np.ndarray], chart: str, found: Derivatives) -> None:
        for name, values in zip(found._fields, found, strict=True):
            what = f"the {name} of matrix(levels) in the coordinates of {chart} is not finite,"
            for s, one in zip(points, values, strict=False):
                if not np.all(np.isfinite(one)):
                    self._require(False, f"{what} {advice(self.structure, self.dim, self.levels, s)}", s)

    def _check_slopes(self, s: np.ndarray, found: Derivatives) -> None:
        """Derivatives agree with central differences; the last 2 k points are neighbours of the first."""
        k = self.size
        for name, below, exact in (("gradient", *found[:2]), ("Hessian", *found[1:])):
            ahead, behind = below[len(below) - 2 * k : len(below) - k], below[len(below) - k :]
            differences = np.moveaxis((ahead - behind) / (2.0 * STEP), 0, -1)
            close = np.abs(differences - exact[0]) <= 1e-5 * np.max(np.abs(exact[0]), initial=1.0)
            self._require(np.all(close), f"the {name} of matrix(levels) differs from its finite differences", s)

    def _round_trip(self, s: np.ndarray) -> np.ndarray:
        """Public coordinates of s, after the same natural values were found from everywhere."""
        natural, canonical = self._bound(s), self.structure.canonical(s, self.dim)
        public = self.structure.solver_to_public(canonical, self.dim)
        ways = {
            "natural values": self._bound(natural.to_solver(self.dim)),
            "canonical coordinates of the solver": self._bound(canonical),
            "fit.theta": self.of_public(np.asarray(public, float)),
        }
        values = jax.tree_util.tree_leaves_with_path(natural)
        for way, other in ways.items():
            for (path, value), found in zip(values, jax.tree_util.tree_leaves(other), strict=True):
                good = np.max(np.abs(found - value), initial=0.0) <= 1e-7 * np.max(np.abs(value), initial=1.0)
                name = jax.tree_util.keystr(path).lstrip(".")
                self._require(good, f"values of {name} do not survive the way to {way}", s)
        return public

    def _check_levels(self, s: np.ndarray, G: np.ndarray) -> None:
        """Fewer levels in another order are the same rows and columns."""
        some, found = self.some, np.asarray(self.matrices(s)[1])
        what = f"matrix(levels) at levels {self.levels[some].tolist()} is not that part of the matrix of all levels"
        self._require(found.shape == (len(some), len(some)), f"{what}, it has shape {found.shape}")
        self._require(np.allclose(found, G[np.ix_(some, some)], rtol=0, atol=ROUNDING * np.max(np.abs(G))), what, s)

    def _check_scale(self, s: np.ndarray, G: np.ndarray) -> None:
        """Twice the standard deviations make four times the matrix, unless some are fixed."""
        if self.structure.has_fixed_scale:
            return
        degrees = self.structure.degrees(self.dim)
        loadings = np.array([isinstance(kind, RealKind) for kind in self.structure.kinds(self.dim)])
        times, least = 4.0 if any(degrees) else 1.0, ROUNDING * np.max(np.abs(G))
        scaled = (self.matrices(s * 2.0**d)[0] for d in (degrees, degrees + loadings))
        good = any(np.allclose(found, times * G, 1e-8, least) for found in scaled)
        good &= "_power" not in vars(self.structure)
        names = " and ".join(p.name for p in self.structure.free if p.kind.has_scale) or "of its parts"
        what = f"matrix(levels) is not homogeneous of degree one in its scales ({names})"
        self._require(good, f"{what}; declare variances as Variance, not standard deviations", s)
        for j, kind in enumerate(self.structure.kinds(self.dim)):
            if isinstance(kind, PositiveKind):
                name = coordinate_names(self.structure, self.dim)[j] if not isinstance(self.structure, Composite) else j
                moved = self.matrices(s + np.log(4.0) * (np.arange(len(s)) == j))[0]
                what = f"matrix(levels) is proportional to {name}, which is declared Positive; declare it Variance"
                self._require(not np.allclose(moved, 4.0 * G, 1e-8, 0), what, s)
