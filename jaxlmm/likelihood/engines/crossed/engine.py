"""The crossed engine: several factors, of which the one with the most effects is eliminated level by level.

What remains are the effects of all other factors, stacked (Q of them). An evaluation assembles their Q x Q matrix from
the levels of the first factor in which they meet, and factors it once:

    levels * q^3  +  pairs of effects that meet in a level * q^2  +  Q^3

(the blocked Cholesky of Bates, Maechler, Bolker & Walker 2015, section 3, with the first block by levels). Derivatives
are closed forms in ``M = Z'V^-1 Z`` and ``N = Z'V^-1 U``: the inverse of the Q x Q matrix is formed once, and nothing
is differentiated through a factorisation.

Digits: with orthonormal columns of the first design in every level the matrix is a constant plus positive terms, as in
`elimination`; the constant, what of the other factors the first does not span, is exactly zero where it is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ....linalg import block_diagonal, identity, inv_logdet, matmul, psd_cholesky, transpose
from ....pytrees import frozen_pytree, replace
from ....tolerances import ABSENT
from ..base import Blocks, Expansion, Posterior, Rows, Statistics, Weigh, fitted, homogeneous, lengthened
from ..grouped.batches import cross_products
from ..grouped.elimination import Given, given
from ..orthogonal import Projection, group_sum, orthogonalise, pad_first, project, row_bucket
from ..solving import refined, through_terms
from .coupling import Coupling, coupling_of, entries_of
from .layout import Crossing
from .remaining import remaining
from .traces import Solved, traces


class CrossedSource(NamedTuple):
    """What row-level products need (`Crossed.solve`, `Crossed.posterior`)."""

    units: list[Any]  # orthonormal columns (n,) of the first design
    Z: tuple[Any, ...]
    layout: Crossing

    def lengthened(self) -> CrossedSource:
        """Rows of zeros behind the last, up to one of few numbers, so that programs are shared (NumPy)."""
        size = row_bucket(len(self.layout.codes))

        def more(a: Any) -> Any:
            return pad_first(a, size)

        layout = self.layout
        codes = {"codes": more(layout.codes), "outer_codes": tuple(map(more, layout.outer_codes)), "grouped": None}
        return CrossedSource([more(a) for a in self.units], tuple(map(more, self.Z)), replace(layout, **codes))


class BothLevels(NamedTuple):
    """Both levels at one point, for a residual variance of one."""

    logdet: Array
    W: Array  # (q, q, groups) S^-1 of the first factor
    G: tuple[Array, ...]  # covariance blocks of the other factors
    A: Array  # (Q, Q) products of the other designs after the elimination of the first
    K: Array  # (Q, Q) posterior covariance of the other effects, (G^-1 + A)^-1


class Columns(NamedTuple):
    """Statistics of columns U (n, r)."""

    B: Any  # (q, r, levels) along the orthonormal columns of the first design
    EZ: Any  # (Q, r) products with the other designs of what is left
    EU: Any  # (r, r) and with each other


@frozen_pytree(data=("n", "F", "E", "columns", "coupling", "source"), meta=("inner", "levels", "dims"))
@dataclass(frozen=True, eq=False)
class Crossed(Statistics):
    """Statistics of the crossed engine.

    Attributes
    ----------
    F : (q, q, groups) factors of Z_g'Z_g;  coupling : see `coupling`
    E : (Q, Q) products of the other designs, of what the first does not span
    inner : positions of the terms eliminated first;  levels, dims : levels and effects of each other term
    """

    n: Any
    F: Any
    E: Any
    columns: Columns
    coupling: Coupling
    source: CrossedSource | None
    inner: tuple[int, ...]
    levels: tuple[int, ...]
    dims: tuple[int, ...]

    pads_rows: ClassVar[bool] = True

    @classmethod
    def prepare(cls, rows: Rows, layout: Crossing, compact: bool = True) -> Crossed:
        """Statistics from concrete rows (NumPy); without `compact` rows are kept for `solve` and `posterior`."""
        Z = [rows.Z[t] for t in layout.outer]
        inner = np.concatenate([rows.Z[t] for t in layout.inner], 1)
        F, units = orthogonalise(inner, layout.codes, layout.groups, np)
        dims = tuple(z.shape[1] for z in Z)
        effects = sum(m * q for m, q in zip(layout.levels, dims, strict=True))
        entries = entries_of(units, layout.codes, Z, list(layout.outer_codes), layout.levels)
        coupling = coupling_of(entries, layout.groups, effects)
        E = unspanned(Z, layout, entries, effects)
        source = CrossedSource(units, rows.Z, layout)
        columns = columns_of(rows.U, source, np)
        kept = None if compact else source.lengthened()
        return cls(rows.count, F, E, columns, coupling, kept, layout.inner, layout.levels, dims)

    @property
    def work(self) -> int:
        """Numbers that an evaluation works with."""
        q, r, groups = self.columns.B.shape[-3:]
        return groups * q * (q + r) + 4 * self.E.shape[-1] ** 2

    @property
    def outer(self) -> tuple[int, ...]:
        """Positions of the terms that are not eliminated first."""
        return tuple(t for t in range(len(self.inner) + len(self.levels)) if t not in self.inner)

    def with_columns(self, lane: Columns) -> Crossed:
        """The same design with other last columns of U, see `VaryingCrossed`."""
        old, count = self.columns, lane.EU.shape[-1]
        keep = old.EU.shape[-1] - count
        B = jnp.concatenate([jnp.asarray(old.B)[:, :keep], lane.B], 1)
        EZ = jnp.concatenate([jnp.asarray(old.EZ)[:, :keep], lane.EZ], 1)
        top = jnp.concatenate([jnp.asarray(old.EU)[:keep, :keep], lane.EU[:keep]], 1)
        bottom = jnp.concatenate([lane.EU[:keep].T, lane.EU[keep:]], 1)
        return replace(self, columns=Columns(B, EZ, jnp.concatenate([top, bottom], 0)))

    # -- the interface ---------------------------------------------------------------------------------------

    def gram(self, C: Blocks) -> tuple[Array, Array]:
        """log|V| and U'V^-1 U."""
        s2 = C.residual[0, 0]
        at = self._solved(C, self.columns)
        return self.n * jnp.log(s2) + at.logdet, at.gram / s2

    @property
    def row_count(self) -> int:
        """Number of rows, those of zeros behind included."""
        return len(self._source().layout.codes)

    @lengthened
    def solve(self, C: Blocks, B: Array) -> Array:
        """V^-1 B by ``R^-1 (B - Z u)`` with the mean u of the effects given B."""
        source = self._source()
        codes = [self._codes(t) for t in range(len(source.Z))]
        fixed = jax.lax.stop_gradient(C)
        at, inner, s2 = self._eliminated(fixed), self._given(fixed), fixed.residual[0, 0]

        def direct(X: Array) -> Array:
            columns = columns_of(X, source, jnp)
            KX = at.K @ self._beside(at, columns)
            return (X - fitted(source.Z, codes, self._means(inner, columns.B, KX, C))) / s2

        outer = dict(zip(self.outer, self.levels, strict=True))
        levels = [outer.get(t, source.layout.groups) for t in range(len(codes))]
        times = partial(through_terms, source.Z, codes, levels, C)
        return refined(direct, times(), times(absolute=True), jnp.asarray(B))

    def posterior(self, C: Blocks) -> Posterior:
        """Effects of every term given the data, by level."""
        s2, at, inner = C.residual[0, 0], self._eliminated(C), self._given(C)
        KU = at.K @ self._beside(at, self.columns)
        spread = matmul(matmul(inner.means, self.coupling.inner(at.K)), transpose(inner.means))
        covariances: dict[int, Array] = {}
        for t, a, b in self._inner_blocks(C):
            covariances[t] = jnp.moveaxis((inner.covariance + spread)[a:b, a:b], -1, 0)
        for (t, m, q), (a, b) in self._outer_blocks():
            block = at.K[a:b, a:b].reshape(m, q, m, q)
            covariances[t] = jnp.moveaxis(jnp.diagonal(block, axis1=0, axis2=2), -1, 0)
        means = self._means(inner, jnp.asarray(self.columns.B), KU, C)
        return Posterior(tuple(means), tuple(s2 * covariances[t] for t in range(len(C.random))))

    def expand(self, C: Blocks, D: Blocks, weigh: Weigh) -> Expansion:
        """The Gram with its derivatives along directions D of the blocks, in closed form.

        With ``M = Z'V^-1 Z``: derivatives of log|V| are ``tr(M H)`` and ``-tr(M H M K)``, those of the Gram ``-N'H N``
        and ``N'H M K N + N'K M H N``, see `traces`.
        """

        def relative(random: tuple[Any, ...], weigh: Weigh) -> Expansion:
            at = self._solved(C, self.columns)
            weights = weigh(at.gram)
            found = self._N(C, at)
            N = [jnp.concatenate([found[t] for t in self.inner], 1), *(found[t] for t in self.outer)]
            sizes = tuple((n.shape[0], n.shape[1]) for n in N)
            single, double = traces(at, self.coupling, sizes, N, 0.5 * (weights + weights.T))
            H = [jax.vmap(lambda *blocks: block_diagonal(list(blocks)))(*(random[t] for t in self.inner))]
            H += [random[t] for t in self.outer]
            gram_slopes: Any = 0.0
            for h, n in zip(H, N, strict=True):
                gram_slopes = gram_slopes - jnp.einsum("kab,arbs->krs", h, jnp.einsum("lar,lbs->arbs", n, n))
            curvature: Any = 0.0
            for (t, u), T in double.items():
                part = jnp.einsum("iab,jcd,abcd->ij", H[t], H[u], T)
                curvature = curvature + (0.5 * (part + part.T) if t == u else part + part.T)
            slopes = dict(zip(self.outer, single[1:], strict=True))
            for t, a, b in self._inner_blocks(C):
                slopes[t] = single[0][a:b, a:b]
            blocks = Blocks(tuple(slopes[t] for t in range(len(C.random))), None)
            return Expansion(at.logdet, at.gram, blocks, gram_slopes, curvature)

        return homogeneous(self.n, C, D, weigh, relative)

    # -- both levels -----------------------------------------------------------------------------------------

    def _eliminated(self, C: Blocks) -> BothLevels:
        """Both levels at covariances C, relative to the residual variance."""
        s2, F = C.residual[0, 0], jnp.asarray(self.F)
        G = block_diagonal([C.random[t] for t in self.inner]) / s2
        W, logdets = inv_logdet(identity(G.shape[0], F) + matmul(matmul(transpose(F), G), F))
        A = self.E + self.coupling.schur(W)
        others = tuple(C.random[t] / s2 for t in self.outer)
        K, logdet = remaining(self.levels, others, A)
        return BothLevels(jnp.sum(logdets) + logdet, W, others, A, K)

    def _beside(self, at: BothLevels, columns: Columns) -> Array:
        """Products (Q, r) of the other designs with columns, after the elimination of the first."""
        return columns.EZ + self.coupling.across(matmul(at.W, jnp.asarray(columns.B)))

    def _solved(self, C: Blocks, columns: Columns) -> Solved:
        """What `traces` needs of both levels, and the Gram of the columns."""
        at, F, B = self._eliminated(C), jnp.asarray(self.F), jnp.asarray(columns.B)
        WB, AU = matmul(at.W, B), self._beside(at, columns)
        UU = columns.EU + jnp.einsum("qrg,qsg->rs", B, WB)
        KU = at.K @ AU
        gram = UU - AU.T @ KU
        return Solved(at.logdet, gram, F, matmul(F, at.W), B, at.G, at.A, AU, at.K, KU)

    def _given(self, C: Blocks) -> Given:
        """Effects of the first factor given the rows and the other effects."""
        root = block_diagonal([psd_cholesky(C.random[t]) for t in self.inner]) / jnp.sqrt(C.residual[0, 0])
        return given(root, jnp.asarray(self.F))

    def _means(self, inner: Given, along: Array, outer: Array, C: Blocks) -> list[Array]:
        """Means (m, q, b) of the effects of each term given columns.

        Parameters
        ----------
        along : (q, b, groups) columns along the orthonormal columns of the first design;  outer : (Q, b) other effects
        """
        first = matmul(inner.means, along - self.coupling.back(outer))
        found = {t: outer[a:b].reshape(m, q, -1) for (t, m, q), (a, b) in self._outer_blocks()}
        for t, a, b in self._inner_blocks(C):
            found[t] = jnp.moveaxis(first[a:b], -1, 0)
        return [found[t] for t in range(len(C.random))]

    def _N(self, C: Blocks, at: Solved) -> dict[int, Array]:
        """Z'V^-1 U of every term (m, q, r), for a residual variance of one."""
        N0, N2 = matmul(at.FW, at.B - self.coupling.back(at.KU)), at.AU - at.A @ at.KU
        out = {t: N2[a:b].reshape(m, q, -1) for (t, m, q), (a, b) in self._outer_blocks()}
        for t, a, b in self._inner_blocks(C):
            out[t] = jnp.moveaxis(N0[a:b], -1, 0)
        return out

    # -- layout ----------------------------------------------------------------------------------------------

    def _inner_blocks(self, C: Blocks) -> list[tuple[int, int, int]]:
        """Position, first effect and the one after the last of each term eliminated first."""
        ends = np.cumsum([0, *(C.random[t].shape[0] for t in self.inner)])
        return list(zip(self.inner, ends[:-1], ends[1:], strict=True))

    def _outer_blocks(self) -> list[tuple[tuple[int, int, int], tuple[int, int]]]:
        """Position, levels, effects a level and range of the effects of each other term."""
        ends = np.cumsum([0, *(m * q for m, q in zip(self.levels, self.dims, strict=True))])
        terms = zip(self.outer, self.levels, self.dims, strict=True)
        return list(zip(terms, zip(ends[:-1], ends[1:], strict=True), strict=True))

    def _source(self) -> CrossedSource:
        if self.source is None:
            raise ValueError("row-level products need statistics prepared with compact=False")
        return self.source

    def _codes(self, t: int) -> Any:
        layout = self._source().layout
        return layout.codes if t in self.inner else layout.outer_codes[self.outer.index(t)]


def columns_of(U: Any, source: CrossedSource, xp: Any) -> Columns:
    """Statistics of columns U (n, r)."""
    layout = source.layout
    B, left = project(source.units, U, layout.codes, layout.groups, xp)
    return Columns(B, products_with(left, source, xp), left.T @ left)


def products_with(left: Any, source: CrossedSource, xp: Any) -> Any:
    """Products (Q, r) of columns (n, r) with the designs that are not eliminated first."""
    parts = []
    for t, codes, m in zip(source.layout.outer, source.layout.outer_codes, source.layout.levels, strict=True):
        sums = [group_sum(source.Z[t][:, a, None] * left, codes, m, xp) for a in range(source.Z[t].shape[1])]
        parts.append(xp.stack(sums, 1).reshape(-1, left.shape[1]))
    return xp.concatenate(parts, 0)


def unspanned(Z: list[np.ndarray], layout: Crossing, entries: Any, effects: int) -> np.ndarray:
    """Products (Q, Q) of the other designs less what the first spans: sparse products (NumPy)."""
    from scipy.sparse import csr_array

    n = len(layout.codes)
    starts = np.cumsum([0, *(m * z.shape[1] for m, z in zip(layout.levels, Z, strict=True))])
    index = [
        s + c[:, None].astype(np.int64) * z.shape[1] + np.arange(z.shape[1])
        for s, c, z in zip(starts, layout.outer_codes, Z, strict=False)
    ]
    columns, values = np.concatenate(index, 1), np.concatenate(Z, 1)
    whole = csr_array(
        (values.ravel(), columns.ravel(), np.arange(n + 1) * columns.shape[1]), shape=(n, effects)
    )  # fmt: skip
    A = (whole.T @ whole).toarray()
    size = np.sqrt(np.diagonal(A))
    for value in entries.value:
        spanned = csr_array((value, (entries.level, entries.effect)), shape=(layout.groups, effects))
        A -= (spanned.T @ spanned).toarray()
    A[np.abs(A) <= ABSENT * size[:, None] * size] = 0.0
    return A


class VaryingCrossed:
    """The design side of the crossed engine, which turns the last `count` columns of U into statistics (NumPy).

    Parameters
    ----------
    fixed : (n, f) columns of U that all data sets share
    Z : random designs, rows multiplied by sqrt(weights);  layout : see `Crossing`
    """

    def __init__(self, fixed: np.ndarray, Z: tuple[np.ndarray, ...], layout: Crossing):
        inner = np.concatenate([Z[t] for t in layout.inner], 1)
        _, units = orthogonalise(inner, layout.codes, layout.groups, np)
        self.source = CrossedSource(units, Z, layout)
        _, self.left = project(units, fixed, layout.codes, layout.groups, np)
        self.projection = Projection(units, layout.codes, layout.groups)

    @property
    def floats(self) -> int:
        """Numbers of a data set's statistics, for each column."""
        _, Z, layout = self.source
        effects = sum(m * Z[t].shape[1] for m, t in zip(layout.levels, layout.outer, strict=True))
        return len(self.source.units) * layout.groups + effects

    def __call__(self, columns: list[np.ndarray]) -> Columns:
        """Statistics of columns, each (n, b), with a leading axis (b, ...)."""
        parts, lefts = zip(*(self.projection(y) for y in columns), strict=True)
        B = np.stack([np.moveaxis(part, -1, 0) for part in parts], 2)
        EZ = np.stack([products_with(y, self.source, np).T for y in lefts], -1)
        return Columns(B, EZ, np.moveaxis(cross_products(self.left, list(lefts)), -1, 0))
