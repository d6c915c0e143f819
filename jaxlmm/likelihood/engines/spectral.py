"""The spectral engine: one random effect a level with a known relationship matrix, independent residuals.

With ``V = g K + s2 I`` and ``K = Z A Z'`` an orthogonal change of the rows, the same for all g and s2, makes V diagonal
(Patterson & Thompson 1971; Kang et al. 2008; Lippert et al. 2011; Zhou & Stephens 2012). Rows of one level differ by a
factor only, so that ``Z = H diag(norm)`` with orthonormal H, and K has the eigenvectors H P of the eigendecomposition
``diag(norm) A diag(norm) = P diag(d) P'``, a matrix of the size of the observed levels, never above the rows; in the
complement of H, of which only cross-products matter, V is s2 I. It is decomposed once; an evaluation costs
levels * r^2, and so do its derivatives, closed forms as the eigenvalues s2 + g d are linear in g and s2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from ...errors import DataError
from ...pytrees import frozen_pytree, is_traced, replace
from ...tolerances import NEGATIVE
from .base import Blocks, Expansion, Rows, Statistics, Weigh
from .grouped.batches import cross_products
from .orthogonal import orthogonalise, project
from .protocol import Engine


@frozen_pytree(data=("values", "vectors", "norm", "level", "codes", "unit"), meta=("levels",))
@dataclass(frozen=True, eq=False)
class Rotation:
    """The change of rows that makes K diagonal; k observed levels of all `levels`.

    Attributes
    ----------
    values, vectors : (k,) eigenvalues d of K, at least zero, and (k, k) matrix P
    norm, level : (k,) norm of the rows of each observed level (may be zero), and its position among all levels
    codes, unit : (n,) observed level of each row, and its entry of H
    """

    values: Any
    vectors: Any
    norm: Any
    level: Any
    codes: Any
    unit: Any
    levels: int

    @classmethod
    def find(cls, z: np.ndarray, group: np.ndarray, A: np.ndarray) -> Rotation:
        """Rotation for rows z (n,), levels `group` (n,) and relationship matrix A (levels, levels), all concrete.

        Raises
        ------
        DataError
            A is not positive semidefinite (over the observed levels), or something is traced.
        """
        if is_traced(z, group, A):
            raise DataError(
                "engine: 'spectral' decomposes the relationship matrix before anything is traced; only y and X may "
                "be traced, not Z, weights or the relationship matrix; use 'dense'"
            )
        level, codes = np.unique(group, return_inverse=True)
        level, codes = level.astype(np.int32), codes.reshape(-1).astype(np.int32)
        F, (unit,) = orthogonalise(np.asarray(z, float)[:, None], codes, len(level), np)
        norm = F[0, 0]
        d, P = np.linalg.eigh(norm[:, None] * np.asarray(A, float)[np.ix_(level, level)] * norm)
        if d[0] < -NEGATIVE * d[-1]:
            raise DataError(
                f"relationship: expected a positive semidefinite matrix; over the observed levels, with their rows, "
                f"its eigenvalues go from {d[0]:.3g} to {d[-1]:.3g}"
            )
        return cls(np.maximum(d, 0.0), P, norm, level, codes, unit, len(A))

    def apply(self, B: Any) -> tuple[Any, Any]:
        """Coordinates (k, b) of columns B (n, b) along the eigenvectors, and what is left of B (n, b)."""
        xp: Any = np if isinstance(B, np.ndarray) and isinstance(self.unit, np.ndarray) else jnp
        inside, left = project([self.unit], B, self.codes, self.values.shape[0], xp)
        return self.vectors.T @ inside[0].T, left

    def undo(self, inside: Array, left: Array) -> Array:
        """Rows (n, b) from coordinates along the eigenvectors and the rest."""
        return jnp.asarray(self.unit)[:, None] * (self.vectors @ inside)[self.codes] + left


@frozen_pytree(data=("rotation", "rest", "W", "E"))
@dataclass(frozen=True, eq=False)
class Spectral(Statistics):
    """Statistics of the spectral engine.

    Attributes
    ----------
    rest : dimension of the complement, a float
    W : (r, k) coordinates of the columns of U along the eigenvectors
    E : (r, r) cross-products of U in the complement
    """

    rotation: Rotation
    rest: Any
    W: Any
    E: Any

    @classmethod
    def prepare(cls, rows: Rows, group: np.ndarray, A: np.ndarray) -> Spectral:
        """Statistics from rows (U may be traced, Z not), codes of levels (n,) and relationship (levels, levels)."""
        return cls.rotated(rows.U, Rotation.find(rows.Z[0][:, 0], group, A))

    @classmethod
    def rotated(cls, U: Any, rotation: Rotation) -> Spectral:
        """Statistics of columns U (n, r) from a rotation that was found before."""
        inside, left = rotation.apply(U)
        return cls(rotation, np.float64(len(U) - len(rotation.values)), inside.T, left.T @ left)

    @property
    def work(self) -> int:
        """Numbers that an evaluation works with."""
        return int(np.prod(self.W.shape[-2:]))

    def with_columns(self, lane: Any) -> Spectral:
        """The same design with other last columns: W (count, k) and E (r, count), see `VaryingRotated`."""
        W, beside = lane
        keep = self.W.shape[0] - W.shape[0]
        top = jnp.concatenate([jnp.asarray(self.E)[:keep, :keep], beside[:keep]], 1)
        bottom = jnp.concatenate([beside[:keep].T, beside[keep:]], 1)
        return replace(self, W=jnp.concatenate([self.W[:keep], W]), E=jnp.concatenate([top, bottom]))

    # -- the interface ---------------------------------------------------------------------------------------

    def gram(self, C: Blocks) -> tuple[Array, Array]:
        """log|V| and U'V^-1 U."""
        logdet, v, v0 = self._inverse(C)
        return logdet, self._sums(v[None], v0[None])[0]

    def expand(self, C: Blocks, D: Blocks, weigh: Weigh) -> Expansion:
        """The Gram with its derivatives along directions D of the blocks, in closed form."""
        logdet, v, v0 = self._inverse(C)
        d, rest, along = jnp.asarray(self.rotation.values), self.rest, D.random[0][:, :, 0]
        inside, outside = [v, -v * v * d], [v0, jnp.zeros(())]  # weights in the Gram, and in its derivative in g
        if D.residual is not None:
            along = jnp.concatenate([along, D.residual[:, :, 0]], 1)
            inside, outside = [*inside, -v * v], [*outside, -v0 * v0]
        grams = self._sums(jnp.stack(inside), jnp.stack(outside))
        q, q0 = self._quadratic(weigh(grams[0]))
        slope, slope0 = v * (1.0 - v * q), v0 * (rest - v0 * q0)  # of the criterion, in each eigenvalue of V
        bend, bend0 = v * v * (2.0 * v * q - 1.0), v0 * v0 * (2.0 * v0 * q0 - rest)
        slopes = [jnp.sum(d * slope).reshape(1, 1), (jnp.sum(slope) + slope0).reshape(1, 1)]
        mixed = jnp.sum(d * bend)
        curvature = jnp.stack([jnp.sum(d * d * bend), mixed, mixed, jnp.sum(bend) + bend0]).reshape(2, 2)
        curvature = along @ curvature[: along.shape[1], : along.shape[1]] @ along.T
        gram_slopes = jnp.tensordot(along, grams[1:], 1)
        return Expansion(logdet, grams[0], Blocks((slopes[0],), slopes[1]), gram_slopes, curvature)

    def solve(self, C: Blocks, B: Array) -> Array:
        """V^-1 B: two orthogonal changes of the rows, which keep all digits."""
        _, v, v0 = self._inverse(C)
        inside, left = self.rotation.apply(jnp.asarray(B))
        return self.rotation.undo(v[:, None] * inside, v0 * left)

    # -- details ---------------------------------------------------------------------------------------------

    def _inverse(self, C: Blocks) -> tuple[Array, Array, Array]:
        """log|V| and the eigenvalues of V^-1, (k,) along the eigenvectors of K and () in the complement."""
        s2 = C.residual[0, 0]
        eigenvalues = s2 + C.random[0][0, 0] * jnp.asarray(self.rotation.values)
        return jnp.sum(jnp.log(eigenvalues)) + self.rest * jnp.log(s2), 1.0 / eigenvalues, 1.0 / s2

    def _sums(self, v: Array, v0: Array) -> Array:
        """Products of U summed over eigenvalues with weights v (t, k), v0 (t,) in the complement: (t, r, r)."""
        W = jnp.asarray(self.W)
        return (v[:, None] * W) @ W.T + v0[:, None, None] * self.E

    def _quadratic(self, weights: Array) -> tuple[Array, Array]:
        """Products of U at each eigenvalue (k,), and in the complement (), times weights (r, r)."""
        W = jnp.asarray(self.W)
        return jnp.sum((weights @ W) * W, 0), jnp.sum(weights * self.E)


class VaryingRotated:
    """The design side of the spectral engine, which turns the last columns of U into statistics (NumPy)."""

    def __init__(self, fixed: np.ndarray, statistics: Spectral):
        self.rotation, self.left = statistics.rotation, statistics.rotation.apply(fixed)[1]

    @property
    def floats(self) -> int:
        """Numbers of a data set's statistics, for each column."""
        return len(self.rotation.values) + self.left.shape[1] + 1

    def split(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (1, k, b) of columns (n, b) along the eigenvectors, and what is left of them."""
        inside, left = self.rotation.apply(columns)
        return inside[None], left

    def weights(self, random: Sequence[np.ndarray], s2: np.ndarray) -> np.ndarray:
        """``s2 V^-1`` of these coordinates (b, 1, 1, k), see `grouped.batches.Varying.weights`."""
        d = random[0][:, 0] * self.rotation.values / s2[:, None]
        return (1.0 / (1.0 + d))[:, None, None]

    def __call__(self, columns: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """W (b, count, k) and E (b, r, count) of columns, each (n, b), see `Spectral.with_columns`."""
        parts = [self.rotation.apply(column) for column in columns]
        E = cross_products(self.left, [left for _, left in parts])
        return np.stack([inside.T for inside, _ in parts], 1), np.moveaxis(E, -1, 0)


class SpectralEngine(Engine):
    """One term with one effect and a relationship matrix, and independent residuals."""

    name = "spectral"
    settled = frozenset({"weights", "random", "Z"})

    def can(self, model: Any) -> str | None:
        """A relationship matrix of one term."""
        terms = model.terms
        kin = model.residual.group is None and len(model.random) == len(terms) == 1 and terms[0].dim == 1
        if kin and terms[0].relationship is not None:
            return None
        return "needs one term with one effect and a relationship matrix, and no other"

    def preference(self, model: Any) -> int | None:
        """Wherever it can."""
        return None if self.can(model) or is_traced(model.terms[0].relationship) else 0

    def layout(self, model: Any) -> Rotation:
        """The decomposition."""
        (term,) = model.terms
        z = term.Z[:, 0] if model.weights is None else term.Z[:, 0] * np.sqrt(model.weights)
        return Rotation.find(z, term.group, term.relationship)

    def prepare(self, rows: Rows, model: Any, compact: bool = True, varying: int = 1) -> Spectral:
        """Statistics of U, the rest being decomposed."""
        return Spectral.rotated(rows.U, model.layout)

    def varying(self, rows: Rows, model: Any, statistics: Any, count: int) -> VaryingRotated:
        """See `VaryingRotated`."""
        return VaryingRotated(rows.U, statistics)
