"""The grouped engine: sufficient statistics by group, free of the number of rows.

The factor with the most levels is eliminated group by group; what remains, if anything (outer factors of a nesting,
other factors, stacked within each connected component of the design), is eliminated from the Schur complement. One
factor, nested factors and moderately sized crossed factors are therefore exact at a cost of

    groups * q^3  +  components * Q^3        (Q: stacked effects of the remaining factors within a component)

an evaluation. Groups with the same Z'Z share one factorisation: a balanced design of any number of groups is
compressed to at most q (p+1) pseudo-groups a pattern.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ....linalg import block_diagonal, identity, matmul, psd_cholesky, transpose
from ....pytrees import frozen_pytree, replace
from ..base import Blocks, Expansion, Posterior, Rows, Statistics, Weigh, expand, fitted, homogeneous, lengthened
from ..layout import Layout
from ..orthogonal import (
    Patterns,
    bucket,
    group_sum,
    orthogonalise,
    pad_first,
    pad_last,
    products,
    project,
    row_bucket,
)
from ..solving import refined, through_terms
from .elimination import Cross, Factor, Given, eliminate, given, posterior, quadratic, second_order


class Source(NamedTuple):
    """What is kept for row-level products (`Grouped.solve`, `Grouped.posterior`)."""

    rows: Rows
    layout: Layout
    units: list[Any]  # orthonormal columns (n,) of the inner design
    left: Any  # (n, Q) what these leave of the stacked outer designs

    def lengthened(self) -> Source:
        """Rows of zeros behind the last, up to one of few numbers, so that programs are shared (NumPy)."""
        rows, layout = self.rows, self.layout
        size = row_bucket(len(rows.U))

        def more(a: Any) -> Any:
            return pad_first(a, size)

        codes = {"codes": more(layout.codes), "component": more(layout.component)}
        long = replace(layout, **codes, copy=tuple(map(more, layout.copy)))
        return Source(
            Rows(more(rows.U), tuple(map(more, rows.Z))), long, [more(u) for u in self.units], more(self.left)
        )


class Eliminated(NamedTuple):
    """Both levels at one point, for a residual variance of one; see `given`."""

    inner: Given
    B: Any  # (q, Q, groups) outer designs along the orthonormal columns of the inner
    W: Any  # (q, q, groups) S^-1 of the inner level
    K: Any  # (Q, Q, components) covariance of the outer effects given the data


@frozen_pytree(data=("n", "factor", "cross", "weight", "parent", "source"), meta=("shape",))
@dataclass(frozen=True, eq=False)
class Grouped(Statistics):
    """Statistics of the grouped engine.

    ``shape`` is (inner, outer, copies, components, r): positions of the terms of both levels and sizes.
    """

    n: Any
    factor: Factor
    cross: Cross | None
    weight: Any
    parent: Any
    source: Source | None
    shape: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int, int]

    pads_rows: ClassVar[bool] = True

    @classmethod
    def prepare(cls, rows: Rows, layout: Layout, compact: bool = True, varying: int = 1) -> Grouped:
        """Statistics from rows.

        Parameters
        ----------
        compact : compress patterns and pad to a bucket of shapes (concrete values only); otherwise the rows are
            kept too and `solve` and `posterior` are available.
        varying : number of last columns of U that `with_columns` may replace.
        """
        r = rows.U.shape[1]
        if not compact:
            size = row_bucket(layout.groups)
            layout = replace(layout, groups=size, parent=pad_first(layout.parent, size))
        concrete = not any(isinstance(leaf, Array) for leaf in jax.tree_util.tree_leaves((rows, layout)))
        xp: Any = np if concrete else jnp
        Z, W = stack_rows(rows, layout, xp)
        codes, component, components, parent = (
            layout.codes,
            layout.component,
            layout.components,
            layout.parent,
        )
        stop = (lambda x: x) if concrete else jax.lax.stop_gradient
        F, units = orthogonalise(stop(Z), codes, layout.groups, xp)
        B, left = project(units, stop(W), codes, layout.groups, xp)
        factor, weight = Factor(F, B, products(left, component, components, xp)), xp.ones(layout.groups)
        cross = None if concrete else _cross(Z, W, codes, layout.groups, component, components)
        if concrete and compact:
            del units, left, W  # of all rows
        if concrete and compact:
            factor, weight, parent = compacted(factor, parent, None if layout.outer else (Z, codes), varying)
        n = rows.count
        source: Source | None = None
        if not compact:
            source = Source(rows, layout, units, left[:, : left.shape[1] - r])
            source = source.lengthened() if concrete else source
        shape = (layout.inner, layout.outer, layout.copies, components, r)
        return cls(n, factor, cross, weight, parent, source, shape)

    @property
    def work(self) -> int:
        """Numbers that an evaluation works with."""
        q, r, groups = self.factor.B.shape[-3:]
        return q * (q + r) * groups + int(np.prod(self.factor.E.shape[-3:]))

    def with_columns(self, lane: Any) -> Grouped:
        """The same design with other last columns: B (q, count, g) and E (r, count, components), see `Varying`."""
        Bv, Ev = lane
        keep = self.factor.B.shape[1] - Bv.shape[1]
        B = jnp.concatenate([jnp.asarray(self.factor.B)[:, :keep], Bv], 1)
        top = jnp.concatenate([jnp.asarray(self.factor.E)[:keep, :keep], Ev[:keep]], 1)
        bottom = jnp.concatenate([transpose(Ev[:keep]), Ev[keep:]], 1)
        return replace(self, factor=Factor(self.factor.F, B, jnp.concatenate([top, bottom], 0)))

    # -- the interface ---------------------------------------------------------------------------------------

    def gram(self, C: Blocks) -> tuple[Array, Array]:
        """log|V| and U'V^-1 U."""
        logdet, grams = self._grams(C)
        return logdet, jnp.sum(grams, -1)

    def expand(self, C: Blocks, D: Blocks, weigh: Weigh) -> Expansion:
        """The Gram with its derivatives along directions D of the blocks; in closed form with one level."""
        inner, outer, _, components, _ = self.shape
        if outer or not inner or components > 1:
            return expand(self.gram, C, D, weigh)

        def relative(random: tuple[Any, ...], weigh: Weigh) -> Expansion:
            H = jax.vmap(lambda *blocks: block_diagonal(list(blocks)))(*random)
            found = second_order(self._inner_block(C), H, self.factor, jnp.asarray(self.weight), weigh)
            ends = np.cumsum([0, *(len(G) for G in C.random)])
            slopes = tuple(found.slopes[a:b, a:b] for a, b in zip(ends[:-1], ends[1:], strict=True))
            return Expansion(found.logdet, found.gram, Blocks(slopes, None), found.gram_slopes, found.curvature)

        return homogeneous(self.n, C, D, weigh, relative)

    @property
    def row_count(self) -> int:
        """Number of rows, those of zeros behind included."""
        return int(self._source().rows.U.shape[0])

    @lengthened
    def solve(self, C: Blocks, B: Array) -> Array:
        """V^-1 B by ``R^-1 (B - Z u)`` with the mean u of the effects given B."""
        source = self._source()
        layout, Z = source.layout, source.rows.Z
        codes = [self._codes(t) for t in range(len(Z))]
        at, s2 = self._eliminated(jax.lax.stop_gradient(C)), jax.lax.stop_gradient(C.residual[0, 0])

        def direct(X: Array) -> Array:
            along, left = project(source.units, X, layout.codes, layout.groups, jnp)
            pairs = source.left[:, :, None] * left[:, None, :]
            beside = jnp.moveaxis(group_sum(pairs, layout.component, layout.components, jnp), 0, -1)
            return (X - fitted(Z, codes, self._by_term(*self._means(at, along, beside), C))) / s2

        levels = [
            layout.groups if t in layout.inner else len(layout.slot[layout.outer.index(t)]) for t in range(len(Z))
        ]
        times = partial(through_terms, Z, codes, levels, C)
        return refined(direct, times(), times(absolute=True), jnp.asarray(B))

    def posterior(self, C: Blocks) -> Posterior:
        """Effects of every term given the data, by level."""
        at, s2, r = self._eliminated(C), C.residual[0, 0], self.shape[4]
        B, E = jnp.asarray(self.factor.B), jnp.asarray(self.factor.E)
        means = self._by_term(*self._means(at, B[:, -r:], E[:-r, -r:]), C)
        spread = matmul(at.inner.means, at.B)
        inner = at.inner.covariance + matmul(matmul(spread, at.K[..., self.parent]), transpose(spread))
        covariances = self._by_term(inner, at.K, C, blocks=True)
        return Posterior(tuple(means), tuple(s2 * x for x in covariances))

    def _eliminated(self, C: Blocks) -> Eliminated:
        inner, outer, _, components, r = self.shape
        s2, B, E = C.residual[0, 0], jnp.asarray(self.factor.B), jnp.asarray(self.factor.E)
        roots = [psd_cholesky(C.random[t]) for t in inner]
        root = block_diagonal(roots) / jnp.sqrt(s2) if inner else jnp.zeros((0, 0))
        at = given(root, jnp.asarray(self.factor.F))
        B = B[:, :-r]
        W = at.inverse
        A = E[:-r, :-r] + quadratic(B, matmul(W, B), self.parent, components)
        K = posterior(self._outer_root(C), A)[0] if outer else A
        return Eliminated(at, B, W, K)

    def _means(self, at: Eliminated, along: Array, beside: Array) -> tuple[Array, Array]:
        """Means of inner (q, b, groups) and outer effects (Q, b, components) given columns (n, b).

        Parameters
        ----------
        along : (q, b, groups) columns along the orthonormal columns of the inner design
        beside : (Q, b, components) products of what is left of them with what is left of the outer designs
        """
        components = self.shape[3]
        outer = matmul(at.K, beside + quadratic(at.B, matmul(at.W, along), self.parent, components))
        return matmul(at.inner.means, along - matmul(at.B, outer[..., self.parent])), outer

    def _by_term(self, inner: Array, outer: Array, C: Blocks, blocks: bool = False) -> list[Array]:
        """Values (m, q, b) of each term from those of stacked effects; the diagonal blocks with `blocks`."""
        found: dict[int, Array] = {}
        start = 0
        for t in self.shape[0]:
            stop = start + C.random[t].shape[0]
            found[t] = jnp.moveaxis(inner[start:stop, start:stop] if blocks else inner[start:stop], -1, 0)
            start = stop
        if self.shape[1]:
            dims = [C.random[t].shape[0] for t in self.shape[1]]
            every = unstack(outer, self.shape[2], self._source().layout.slot, dims, blocks)
            found |= dict(zip(self.shape[1], every, strict=True))
        return [found[t] for t in range(len(C.random))]

    # -- the two levels --------------------------------------------------------------------------------------

    def _grams(self, C: Blocks) -> tuple[Array, Array]:
        inner, outer, _, components, _ = self.shape
        s2 = C.residual[0, 0]
        logdet = self.n * jnp.log(s2)
        if not inner:
            gram = jnp.asarray(self.factor.E)
        elif not outer:
            extra, gram = self._eliminate_inner(C)
            logdet = logdet + extra
        else:
            extra, _ = self._eliminate_inner(C)
            cross = self._outer_cross(C)
            ones, own = jnp.ones(components), jnp.arange(components, dtype=jnp.int32)
            more, gram = eliminate(components, self._outer_block(C), cross, None, ones, own, self._outer_root(C))
            logdet = logdet + extra + more
        return logdet, gram / s2

    def _eliminate_inner(self, C: Blocks) -> tuple[Array, Array]:
        weight, parent = jnp.asarray(self.weight), jnp.asarray(self.parent)
        return eliminate(self.shape[3], self._inner_block(C), self.cross, self.factor, weight, parent)

    def _outer_cross(self, C: Blocks) -> Cross:
        _, gram = self._eliminate_inner(C)
        q = gram.shape[0] - self.shape[4]
        return Cross(gram[:q, :q], gram[:q, q:], gram[q:, q:])

    def _inner_block(self, C: Blocks) -> Array:
        return block_diagonal([C.random[t] for t in self.shape[0]]) / C.residual[0, 0]

    def _outer_block(self, C: Blocks) -> Array:
        return self._stacked(list(C.random)) / C.residual[0, 0]

    def _outer_root(self, C: Blocks) -> Array:
        """A root of the outer block, from roots of the small blocks."""
        roots = self._stacked([psd_cholesky(G) for G in C.random]) / jnp.sqrt(C.residual[0, 0])
        return jax.lax.stop_gradient(roots)

    def _stacked(self, blocks: list[Array]) -> Array:
        _, outer, copies, _, _ = self.shape
        return stacked_blocks([blocks[t] for t in outer], copies)

    def _source(self) -> Source:
        if self.source is None:
            raise ValueError("row-level products need statistics prepared with compact=False")
        return self.source

    def _codes(self, t: int) -> Any:
        layout = self._source().layout
        if t in layout.inner:
            return layout.codes
        position = layout.outer.index(t)
        slot = layout.component * layout.copies[position] + layout.copy[position]
        levels = layout.slot[position]
        index = jnp.zeros(layout.components * layout.copies[position], jnp.int32)
        return index.at[levels].set(jnp.arange(len(levels), dtype=jnp.int32))[slot]


def stacked_blocks(blocks: list[Array], copies: tuple[int, ...]) -> Array:
    """Block diagonal matrix with every outer term's block once a copy."""
    return block_diagonal([jnp.kron(identity(c), block) for block, c in zip(blocks, copies, strict=True)])


def compacted(
    factor: Factor, parent: np.ndarray, rows: tuple[np.ndarray, np.ndarray] | None, varying: int = 1
) -> tuple[Factor, np.ndarray, np.ndarray]:  # fmt: skip
    """Compressed patterns and empty groups up to a bucket of sizes, so that compiled code is shared (NumPy).

    Patterns are those of `rows`, Z (n, q) and group (n,); None for groups that others cross.
    """
    F, B, E = factor
    weight = np.ones(F.shape[-1])
    if rows is not None:
        fixed, last = B[:, :-varying], B[:, None, -varying:]
        patterns = Patterns.find(*rows, fixed, varying)
        B = np.concatenate([patterns.fixed(fixed, varying), patterns.varying(last)[:, 0]], 1)
        F, weight, parent = F[..., patterns.source], patterns.weight, np.zeros(B.shape[-1], np.int32)
    size = bucket(len(weight))
    return Factor(pad_last(F, size), pad_last(B, size), E), pad_last(weight, size), pad_last(parent, size)


def stack_rows(rows: Rows, layout: Layout, xp: Any) -> tuple[Any, Any]:
    """Inner Z (n, q) and W = [outer Z stacked by copy, U] (n, Q + r)."""
    n = rows.U.shape[0]
    inner = [rows.Z[t] for t in layout.inner]
    Z = inner[0] if len(inner) == 1 else xp.concatenate([xp.zeros((n, 0)), *inner], 1)
    return Z, stack_columns(rows, layout, xp)


def stack_columns(rows: Rows, layout: Any, xp: Any) -> Any:
    """W = [outer Z stacked by copy, U] (n, Q + r), for the `outer`, `copies` and `copy` of a layout."""
    parts = []
    for t, copies, copy in zip(layout.outer, layout.copies, layout.copy, strict=True):
        onehot = copy[:, None] == np.arange(copies, dtype=np.int32)
        parts.append(xp.reshape(onehot[:, :, None] * rows.Z[t][:, None, :], (rows.U.shape[0], -1)))
    return xp.concatenate([*parts, rows.U], 1) if parts else rows.U


def _cross(Z: Array, W: Array, codes: Any, groups: int, component: Any, components: int) -> Cross:
    """Cross-products as polynomials of the data, which carry derivatives with respect to data."""
    zz = group_sum(Z[:, :, None] * Z[:, None, :], codes, groups, jnp)
    zw = group_sum(Z[:, :, None] * W[:, None, :], codes, groups, jnp)
    return Cross(jnp.moveaxis(zz, 0, -1), jnp.moveaxis(zw, 0, -1), products(W, component, components, jnp))


def unstack(
    x: Array, copies: tuple[int, ...], slots: tuple[Any, ...], dims: list[int], blocks: bool = False
) -> list[Array]:
    """Cut stacked values (Q, b, components) into levels (m, q, b) of each outer term; with `blocks` diagonal blocks."""
    x, out, start = jnp.moveaxis(x, -1, 0), [], 0
    for c, slot, q in zip(copies, slots, dims, strict=True):
        stop = start + c * q
        own = x[:, start:stop]
        if blocks:
            own = own[:, :, start:stop].reshape(-1, c, q, c, q)
            own = jnp.moveaxis(jnp.diagonal(own, axis1=1, axis2=3), -1, 1)
        out.append(own.reshape(-1, q, own.shape[-1])[slot])
        start = stop
    return out
