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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..design import frozen_pytree, replace
from ..errors import DataError
from ..linalg import UNROLL, block_diagonal, identity, inv_logdet, matmul, psd_cholesky, transpose, tril_indices
from .base import Blocks, Expansion, Moments, Rows, Weigh
from .coupling import Coupling, coupling_of, entries_of
from .grouped import MAX_STACKED, MAX_STATISTICS, Layout, plan
from .orthogonal import group_sum, orthogonalise, project
from .varying import cross_products

MAX_EFFECTS = 8000  # that remain after the first factor is eliminated
LEAF = 144  # size of a matrix above which it is factored in blocks
MANY_EFFECTS = 300  # above which products of matrices take most of the time
REGULAR = 1e-4  # smallest variance of an effect, relative to its error, above which blocks may be inverted
CLEAN = 1e-13  # relative size below which what one factor does not span of another is zero


@frozen_pytree(data=("codes", "outer_codes", "grouped"), meta=("groups", "inner", "levels"))
@dataclass(frozen=True, eq=False)
class Crossing:
    """Integer layout of the crossed engine.

    Attributes
    ----------
    codes : (n,) level of the first factor;  outer_codes : the same of each other term
    grouped : layout of the grouped engine, which takes over where data are traced; None where they are too large
    groups : levels of the first factor;  inner : positions of its terms;  levels : a number an outer term
    """

    codes: Any
    outer_codes: tuple[Any, ...]
    grouped: Layout | None
    groups: int
    inner: tuple[int, ...]
    levels: tuple[int, ...]

    @property
    def outer(self) -> tuple[int, ...]:
        """Positions of the terms that are not eliminated first."""
        return tuple(t for t in range(len(self.inner) + len(self.levels)) if t not in self.inner)

    @property
    def for_groups(self) -> Layout:
        """Layout of the grouped engine."""
        if self.grouped is None:
            raise DataError(
                "engine: 'crossed' needs concrete arrays, and these factors have too many levels for another engine "
                "to take traced ones (jit, vmap and derivatives over y, X, Z or weights)"
            )
        return self.grouped


def cross(groups: tuple[np.ndarray, ...], levels: tuple[int, ...], dims: tuple[int, ...], n: int) -> Crossing:
    """Decide what is eliminated first from the codes of each term (host side, concrete)."""
    same = [
        tuple(u for u in range(len(groups)) if levels[u] == levels[t] and np.array_equal(groups[u], groups[t]))
        for t in range(len(groups))
    ]
    inner = max(same, key=lambda terms: levels[terms[0]] * sum(dims[u] for u in terms))
    outer = [t for t in range(len(groups)) if t not in inner]
    remaining = sum(levels[t] * dims[t] for t in outer)
    if remaining > MAX_EFFECTS:
        raise DataError(
            f"random terms: {remaining} random effects remain after the factor with most of them is eliminated, more "
            f"than {MAX_EFFECTS}; drop a term or fit a subset"
        )
    small = remaining <= MAX_STACKED and max(n, levels[inner[0]]) * remaining <= MAX_STATISTICS
    return Crossing(
        groups[inner[0]],
        tuple(groups[t] for t in outer),
        plan(groups, levels, dims, n) if small else None,
        levels[inner[0]],
        inner,
        tuple(levels[t] for t in outer),
    )


class Source(NamedTuple):
    """What row-level products need (`Crossed.solve`, `Crossed.moments`)."""

    units: list[Any]  # orthonormal columns (n,) of the first design
    Z: tuple[Any, ...]
    layout: Crossing


class Columns(NamedTuple):
    """Statistics of columns U (n, r)."""

    B: Any  # (q, r, levels) along the orthonormal columns of the first design
    EZ: Any  # (Q, r) products with the other designs of what is left
    EU: Any  # (r, r) and with each other


@frozen_pytree(data=("n", "F", "E", "columns", "coupling", "source"), meta=("inner", "levels", "dims"))
@dataclass(frozen=True, eq=False)
class Crossed:
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
    source: Source | None
    inner: tuple[int, ...]
    levels: tuple[int, ...]
    dims: tuple[int, ...]

    name: ClassVar[str] = "crossed"

    @classmethod
    def prepare(cls, rows: Rows, layout: Crossing, compact: bool = True) -> Crossed:
        """Statistics from concrete rows (NumPy); without `compact` rows are kept for `solve` and `moments`."""
        Z = [rows.Z[t] for t in layout.outer]
        inner = np.concatenate([rows.Z[t] for t in layout.inner], 1)
        F, units = orthogonalise(inner, layout.codes, layout.groups, np)
        dims = tuple(z.shape[1] for z in Z)
        effects = sum(m * q for m, q in zip(layout.levels, dims, strict=True))
        entries = entries_of(units, layout.codes, Z, list(layout.outer_codes), layout.levels)
        coupling = coupling_of(entries, layout.groups, effects)
        E = unspanned(Z, layout, entries, effects)
        source = Source(units, rows.Z, layout)
        columns = columns_of(rows.U, source, np)
        kept = None if compact else source
        return cls(np.float64(len(rows.U)), F, E, columns, coupling, kept, layout.inner, layout.levels, dims)

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

    def cluster_grams(self, C: Blocks) -> Array:
        """One cluster: crossed factors leave no independent rows."""
        return self.gram(C)[1][None]

    def solve(self, C: Blocks, B: Array) -> Array:
        """V^-1 B by ``R^-1 (B - Z G Z'V^-1 B)``."""
        source, s2 = self._source(), C.residual[0, 0]
        at = self._solved(C, columns_of(jnp.asarray(B), source, jnp))
        N = self._by_term(*self._N(at))
        fitted: Any = 0.0
        for t, Z in enumerate(source.Z):
            effects = jnp.einsum("ij,mjb->mib", C.random[t], N[t]) / s2
            fitted = fitted + jnp.einsum("nq,nqb->nb", Z, effects[self._codes(t)])
        return (B - fitted) / s2

    def moments(self, C: Blocks) -> Moments:
        """N and the diagonal blocks of M by level of every term."""
        s2 = C.residual[0, 0]
        at = self._solved(C, self.columns)
        M2 = at.A - at.A @ (at.K @ at.A)
        M0 = matmul(at.FW, transpose(jnp.asarray(self.F))) - self._spread(at)
        M: dict[int, Array] = {}
        for t, size, a in self._inner_blocks(C):
            M[t] = jnp.moveaxis(M0[a : a + size, a : a + size], -1, 0)
        for t, m, q, a in self._outer_blocks():
            block = M2[a : a + m * q, a : a + m * q].reshape(m, q, m, q)
            M[t] = jnp.moveaxis(jnp.diagonal(block, axis1=0, axis2=2), -1, 0)
        N = self._by_term(*self._N(at))
        order = range(len(C.random))
        return Moments(tuple(N[t] / s2 for t in order), tuple(M[t] / s2 for t in order), lambda D: self.gram(D)[0], C)

    def expand(self, C: Blocks, D: Blocks, weigh: Weigh) -> Expansion:
        """The Gram with its derivatives along directions D of the blocks, in closed form.

        V is homogeneous: a direction is one of the random blocks alone plus a multiple of C itself, along which
        derivatives are known (Euler).
        """
        s2 = C.residual[0, 0]
        along = None if D.residual is None else D.residual[:, 0, 0] / s2
        random = D.random
        if along is not None:
            random = tuple(d - along[:, None, None] * G for d, G in zip(D.random, C.random, strict=True))
        found = self._second_order(C, tuple(d / s2 for d in random), lambda gram: weigh(gram / s2) / s2)
        logdet, gram, slopes, gram_slopes, curvature = found
        logdet, gram, gram_slopes = logdet + self.n * jnp.log(s2), gram / s2, gram_slopes / s2
        fixed = jnp.zeros_like(C.residual)
        if along is not None:
            w = weigh(gram)
            weighted = jnp.sum(w * gram)
            first = sum(jnp.einsum("kij,ij->k", d, S) for d, S in zip(random, slopes.random, strict=True)) / s2
            mixed = -(first + jnp.einsum("kij,ij->k", gram_slopes, w))  # of D with C itself
            both = along[:, None] * mixed[None, :]
            curvature = curvature + both + both.T + (2.0 * weighted - self.n) * along[:, None] * along[None, :]
            gram_slopes = gram_slopes - along[:, None, None] * gram
            in_random = sum(jnp.sum(S * G) for S, G in zip(slopes.random, C.random, strict=True)) / s2
            fixed = fixed.at[0, 0].set((self.n - weighted - in_random) / s2)
        return Expansion(logdet, gram, Blocks(tuple(S / s2 for S in slopes.random), fixed), gram_slopes, curvature)

    # -- both levels -----------------------------------------------------------------------------------------

    def _solved(self, C: Blocks, columns: Columns) -> Solved:
        """Both levels at covariances C, relative to the residual variance."""
        s2, F, B = C.residual[0, 0], jnp.asarray(self.F), jnp.asarray(columns.B)
        G = block_diagonal([C.random[t] for t in self.inner]) / s2
        W, logdets = inv_logdet(identity(G.shape[0], F) + matmul(matmul(transpose(F), G), F))
        WB = matmul(W, B)
        A = self.E + self.coupling.schur(W)
        AU = columns.EZ + self.coupling.across(WB)
        UU = columns.EU + jnp.einsum("qrg,qsg->rs", B, WB)
        K, logdet = remaining(self.levels, tuple(C.random[t] / s2 for t in self.outer), A)
        KU = K @ AU
        return Solved(jnp.sum(logdets) + logdet, UU - AU.T @ KU, matmul(F, W), B, A, AU, K, KU)

    def _N(self, at: Solved) -> tuple[Array, Array]:
        """Z'V^-1 U: (q, r, groups) of the first factor and (Q, r) of the others."""
        return matmul(at.FW, at.B - self.coupling.back(at.KU)), at.AU - at.A @ at.KU

    def _spread(self, at: Solved) -> Array:
        """What the elimination of the others takes from M of the first factor (q, q, groups)."""
        return matmul(matmul(at.FW, self.coupling.inner(at.K)), transpose(at.FW))

    def _second_order(self, C: Blocks, D: tuple[Array, ...], weigh: Callable[[Array], Array]) -> Expansion:
        """`expand` for a residual variance of one.

        With ``M = Z'V^-1 Z``: derivatives of log|V| are ``tr(M H)`` and ``-tr(M H M K)``, those of the Gram ``-N'H N``
        and ``N'H M K N + N'K M H N``. M of the first factor is block diagonal less ``W K W'``, W (its effects, Q).
        """
        at = self._solved(C, self.columns)
        weights = weigh(at.gram)
        w = 0.5 * (weights + weights.T)
        N0, N2 = self._N(at)
        q, r, _ = N0.shape
        k = len(D[0])
        H0 = jax.vmap(lambda *blocks: block_diagonal(list(blocks)))(*(D[t] for t in self.inner))
        M1, R = matmul(at.FW, transpose(jnp.asarray(self.F))), self._spread(at)
        E0 = matmul(matmul(N0, w), transpose(N0))
        rows, columns = tril_indices(q)
        X = jnp.stack([self.coupling.schur(_symmetric_outer(at.FW, a, b)) for a, b in zip(rows, columns, strict=True)])
        G2 = tuple(C.random[t] / C.residual[0, 0] for t in self.outer)
        P, M2, KX, XP = products(self.levels, G2, at.K, at.A, X)
        E2 = N2 @ w @ N2.T

        # the first factor with itself
        slope = jnp.sum(M1 - R - E0, -1)
        flat = N0.reshape(q * r, -1)
        NN = (flat @ flat.T).reshape(q, r, q, r)
        gram_slopes = -jnp.einsum("kab,arbs->krs", H0, NN)
        T = jnp.einsum("bcg,adg->abcd", M1, 2.0 * E0 - M1 + R) + jnp.einsum("bcg,adg->abcd", R, M1)
        J = self._meeting(at.FW, N0)
        KJ = jnp.einsum("kl,lbar->kbar", at.K, J)
        T = T - 2.0 * jnp.einsum("kbar,kcds,rs->abcd", J, KJ, w)
        curvature = jnp.einsum("iab,jcd,abcd->ij", H0, H0, T)
        packed = H0[:, rows, columns] * np.where(rows == columns, 1.0, 2.0)
        curvature = curvature - packed @ jnp.einsum("ikl,jlk->ij", KX, KX) @ packed.T

        # the first factor with the others, and these among themselves
        JP = jnp.einsum("kbar,kl->lbar", J, P)
        slopes: dict[int, Array] = {}
        blocks = list(self._outer_blocks())
        for t, m, size, start in blocks:
            here = slice(start, start + m * size)
            n2 = N2[here].reshape(m, size, r)
            Pt, XPt = P[:, here].reshape(-1, m, size), XP[:, :, here].reshape(len(rows), -1, m, size)
            mixed = -packed @ jnp.einsum("kld,xklc->xcd", Pt, XPt).reshape(len(rows), -1)
            seen = jnp.einsum("lcbar,lds,rs->abcd", JP[here].reshape(m, size, q, q, r), n2, w)
            mixed = mixed + 2.0 * jnp.einsum("iab,abcd->icd", H0, seen).reshape(k, -1)
            part = mixed @ D[t].reshape(k, -1).T
            curvature = curvature + part + part.T
            NN = jnp.einsum("lar,lbs->arbs", n2, n2)
            gram_slopes = gram_slopes - jnp.einsum("kab,arbs->krs", D[t], NN)
            own = (M2 - E2)[here, here].reshape(m, size, m, size)
            slopes[t] = jnp.trace(own, axis1=0, axis2=2)
            for u, other, dim, begin in blocks:
                there = slice(begin, begin + other * dim)
                Mtu = M2[here, there].reshape(m, size, other, dim)
                Ytu = (2.0 * E2 - M2)[here, there].reshape(m, size, other, dim)
                T = jnp.einsum("xbyc,xayd->abcd", Mtu, Ytu)
                curvature = curvature + jnp.einsum("iab,jcd,abcd->ij", D[t], D[u], T)
        for t, size, start in self._inner_blocks(C):
            slopes[t] = slope[start : start + size, start : start + size]
        order = range(len(C.random))
        found = Blocks(tuple(slopes[t] for t in order), None)
        return Expansion(at.logdet, at.gram, found, gram_slopes, 0.5 * (curvature + curvature.T))

    def _meeting(self, FW: Array, N: Array) -> Array:
        """``sum_g W_g[b, :]'N_g[a, :]`` (Q, b, a, r) for W_g = FW_g B_g."""
        q, r, groups = N.shape
        product = jnp.einsum("big,arg->ibarg", FW, N).reshape(q, q * q * r, groups)
        return self.coupling.across(product).reshape(-1, q, q, r)

    # -- layout ----------------------------------------------------------------------------------------------

    def _inner_blocks(self, C: Blocks) -> list[tuple[int, int, int]]:
        """Position, number of effects and first effect of each term eliminated first."""
        out, start = [], 0
        for t in self.inner:
            out.append((t, C.random[t].shape[0], start))
            start += out[-1][1]
        return out

    def _outer_blocks(self) -> list[tuple[int, int, int, int]]:
        """Position, levels, effects a level and first effect of each other term."""
        out, start = [], 0
        for t, m, q in zip(self.outer, self.levels, self.dims, strict=True):
            out.append((t, m, q, start))
            start += m * q
        return out

    def _by_term(self, N0: Array, N2: Array) -> dict[int, Array]:
        """Values of the effects (m, q, b) of each term."""
        out = {t: N2[a : a + m * q].reshape(m, q, -1) for t, m, q, a in self._outer_blocks()}
        start = 0
        for t in self.inner:
            size = self._source().Z[t].shape[1]
            out[t] = jnp.moveaxis(N0[start : start + size], -1, 0)
            start += size
        return out

    def _source(self) -> Source:
        if self.source is None:
            raise ValueError("row-level products need statistics prepared with compact=False")
        return self.source

    def _codes(self, t: int) -> Any:
        layout = self._source().layout
        return layout.codes if t in self.inner else layout.outer_codes[self.outer.index(t)]


class Solved(NamedTuple):
    """Both levels of the elimination at one point, for a residual variance of one."""

    logdet: Array
    gram: Array  # (r, r)
    FW: Array  # (q, q, groups), F S^-1
    B: Array  # see `Columns`
    A: Array  # (Q, Q) products of the other designs after the elimination of the first
    AU: Array  # (Q, r) the same with U
    K: Array  # (Q, Q) posterior covariance of the other effects, (G^-1 + A)^-1
    KU: Array  # (Q, r) K AU


def _symmetric_outer(FW: Array, a: int, b: int) -> Array:
    """Symmetric part of the products (q, q, groups) of rows a and b of FW."""
    product = FW[a][:, None] * FW[b][None]
    return product if a == b else 0.5 * (product + transpose(product))


class Products(NamedTuple):
    """What second derivatives need of the effects that are not eliminated first; X are sums by `schur`."""

    P: Array  # (Q, Q) I - K A
    M: Array  # (Q, Q) A - A K A
    KX: Array  # (x, Q, Q)
    XP: Array  # (x, Q, Q)


def products(levels: tuple[int, ...], G: tuple[Array, ...], K: Array, A: Array, X: Array) -> Products:
    """Products of the Q x Q matrices; all but one are free where no block of G is nearly singular.

    There ``S = (I + L'A L)^-1 = L^-1 K L'^-1`` with roots L of G gives ``M = L'^-1 (I - S) L^-1``, ``P = L S L^-1``.
    """

    def any_blocks() -> Products:
        KA, KX = K @ A, K @ X
        return Products(identity(len(K)) - KA, A - A @ KA, KX, X - jnp.swapaxes(KX, 1, 2) @ A)

    def regular() -> Products:
        inverses = tuple(jax.lax.linalg.triangular_solve(L, jnp.eye(len(L)), left_side=True, lower=True) for L in roots)
        turned, back = tuple(L.T for L in roots), tuple(L.T for L in inverses)
        S = both_sides(levels, inverses, inverses, K)
        Y = S @ jax.vmap(lambda x: both_sides(levels, turned, turned, x))(X)
        KX = jax.vmap(lambda y: both_sides(levels, roots, back, y))(Y)
        XP = jax.vmap(lambda y: both_sides(levels, back, back, y.T))(Y)
        P, M = both_sides(levels, roots, back, S), both_sides(levels, back, back, identity(len(S)) - S)
        return Products(P, M, KX, XP)

    if len(K) < MANY_EFFECTS:
        return any_blocks()
    roots = tuple(psd_cholesky(block) for block in G)
    starts = np.cumsum([0, *(m * len(block) for m, block in zip(levels, G, strict=True))])
    sizes = [jnp.mean(jnp.diagonal(A)[a:b]) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    smallest = [jnp.min(jnp.diagonal(L)) ** 2 * size for L, size in zip(roots, sizes, strict=True)]
    return jax.lax.cond(jnp.min(jnp.stack(smallest)) > REGULAR, regular, any_blocks)


def both_sides(levels: tuple[int, ...], left: tuple[Array, ...], right: tuple[Array, ...], X: Array) -> Array:
    """Product of X (Q, Q) with block diagonal matrices: ``B_left X B_right'``."""
    if all(len(G) == 1 for G in left):
        a, b = (jnp.concatenate([jnp.full(m, G[0, 0]) for m, G in zip(levels, B, strict=True)]) for B in (left, right))
        return a[:, None] * X * b
    return apply_blocks(levels, left, apply_blocks(levels, right, X.T).T)


def apply_blocks(levels: tuple[int, ...], blocks: tuple[Array, ...], X: Array) -> Array:
    """Product of the block diagonal matrix, every block once a level, with X (Q, b)."""
    parts, start = [], 0
    for m, G in zip(levels, blocks, strict=True):
        q = G.shape[0]
        x = X[start : start + m * q]
        parts.append(G[0, 0] * x if q == 1 else jnp.einsum("ij,mjb->mib", G, x.reshape(m, q, -1)).reshape(x.shape))
        start += m * q
    return jnp.concatenate(parts, 0)


def remaining(levels: tuple[int, ...], G: tuple[Array, ...], A: Array) -> tuple[Array, Array]:
    """Posterior covariance ``K = (G^-1 + A)^-1`` (Q, Q) and ``log|I + G A|``, from roots of the blocks of G.

    With derivatives to any order, of K itself and not of a factorisation: ``dK = P dG P' - K dA K`` and
    ``d logdet = tr(K dA) + tr(A P dG)`` with ``P = I - K A``.
    """

    @jax.custom_jvp
    def solved(G: tuple[Array, ...], A: Array) -> tuple[Array, Array]:
        roots = tuple(psd_cholesky(block) for block in G)
        turned = tuple(root.T for root in roots)
        inverse, logdet = inverse_logdet(identity(len(A)) + both_sides(levels, turned, turned, A))
        return both_sides(levels, roots, roots, inverse), logdet

    def rule(primals: Any, tangents: Any) -> Any:
        (G, A), (dG, dA) = primals, tangents
        K, logdet = solved(G, A)
        P = identity(len(A)) - K @ A
        dlogdet = jnp.sum(K * dA) + jnp.sum((A @ P) * apply_blocks(levels, dG, identity(len(A))))
        return (K, logdet), (P @ apply_blocks(levels, dG, P.T) - K @ dA @ K, dlogdet)

    solved.defjvp(rule)
    return solved(G, A)


def inverse_logdet(S: Array) -> tuple[Array, Array]:
    """Inverse and log-determinant of a symmetric positive definite matrix (Q, Q), NaN where it is not.

    In blocks above ``LEAF``: most of the work is products of matrices, and half of it is left out. Without LAPACK,
    whose threads wait for each other where cores are shared, and which takes a batch one by one.
    """
    if len(S) <= UNROLL:
        return inv_logdet(S)
    T, logdet = _inverse_factor(S)
    return _square(T), logdet


def _inverse_factor(S: Array) -> tuple[Any, Array]:
    """Inverse of the Cholesky factor, as nested blocks ``(T11, T21, T22)`` down to leaves, and log|S|."""
    n = len(S)
    if n <= LEAF:
        below = np.arange(n, dtype=np.int32)

        def eliminate(j: Array, both: Array) -> Array:
            factor = jnp.where(below > j, both[:, j] / both[j, j], 0.0)
            return both - factor[:, None] * both[j]

        both = jax.lax.fori_loop(0, n, eliminate, jnp.concatenate([S, identity(n)], 1))
        pivots = jnp.diagonal(both)
        return both[:, n:] * jax.lax.rsqrt(pivots)[:, None], jnp.sum(jnp.log(pivots))
    half = n // 2
    first, logdet = _inverse_factor(S[:half, :half])
    L = _times(first, S[half:, :half].T).T
    second, more = _inverse_factor(S[half:, half:] - L @ L.T)
    return (first, -_times(second, _times_from_right(L, first)), second), logdet + more


def _times(T: Any, X: Array) -> Array:
    """Product of a lower triangular matrix in blocks with X."""
    if not isinstance(T, tuple):
        return T @ X
    half = T[1].shape[1]
    return jnp.concatenate([_times(T[0], X[:half]), T[1] @ X[:half] + _times(T[2], X[half:])], 0)


def _times_from_right(X: Array, T: Any) -> Array:
    """Product of X with a lower triangular matrix in blocks."""
    if not isinstance(T, tuple):
        return X @ T
    half = T[1].shape[1]
    left = _times_from_right(X[:, :half], T[0]) + X[:, half:] @ T[1]
    return jnp.concatenate([left, _times_from_right(X[:, half:], T[2])], 1)


def _square(T: Any) -> Array:
    """T'T of a lower triangular matrix in blocks."""
    if not isinstance(T, tuple):
        return T.T @ T
    corner = _times_from_right(T[1].T, T[2])
    top = jnp.concatenate([_square(T[0]) + T[1].T @ T[1], corner], 1)
    return jnp.concatenate([top, jnp.concatenate([corner.T, _square(T[2])], 1)], 0)


def columns_of(U: Any, source: Source, xp: Any) -> Columns:
    """Statistics of columns U (n, r)."""
    layout = source.layout
    B, left = project(source.units, U, layout.codes, layout.groups, xp)
    return Columns(B, products_with(left, source, xp), left.T @ left)


def products_with(left: Any, source: Source, xp: Any) -> Any:
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
    A[np.abs(A) <= CLEAN * size[:, None] * size] = 0.0
    return A


class VaryingCrossed:
    """The design side of the crossed engine, which turns the last `count` columns of U into statistics (NumPy).

    Parameters
    ----------
    fixed : (n, f) columns of U that all data sets share
    Z : random designs, rows multiplied by sqrt(weights);  layout : see `Crossing`
    """

    def __init__(self, fixed: np.ndarray, Z: tuple[np.ndarray, ...], layout: Crossing):
        from scipy.sparse import csr_array

        inner = np.concatenate([Z[t] for t in layout.inner], 1)
        _, self.units = orthogonalise(inner, layout.codes, layout.groups, np)
        self.source = Source(self.units, Z, layout)
        _, self.left = project(self.units, fixed, layout.codes, layout.groups, np)
        n, q = len(fixed), len(self.units)
        rows = (np.arange(q)[:, None] * layout.groups + layout.codes).ravel()
        values = np.concatenate(self.units)
        self.T = csr_array((values, (rows, np.tile(np.arange(n), q))), shape=(q * layout.groups, n))

    @property
    def floats(self) -> int:
        """Numbers of a data set's statistics, for each column."""
        effects = sum(m * self.source.Z[t].shape[1] for m, t in zip(self.layout.levels, self.layout.outer, strict=True))
        return self.T.shape[0] + effects

    @property
    def layout(self) -> Crossing:
        """Layout of the design."""
        return self.source.layout

    def __call__(self, columns: list[np.ndarray]) -> Columns:
        """Statistics of columns, each (n, b), with a leading axis (b, ...)."""
        q, groups = len(self.units), self.layout.groups
        B, lefts = [], []
        for y in columns:
            total: Any = 0.0
            for _ in range(2):
                part = self.T @ y
                total = total + part
                y = y - self.T.T @ part
            B.append(np.moveaxis(np.reshape(total, (q, groups, -1)), -1, 0))
            lefts.append(y)
        EZ = np.stack([products_with(y, self.source, np).T for y in lefts], -1)
        return Columns(np.stack(B, 2), EZ, np.moveaxis(cross_products(self.left, lefts), -1, 0))
