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
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..design import frozen_pytree, replace
from ..errors import DataError
from ..linalg import block_diagonal, identity, matmul, psd_cholesky, transpose
from .base import Blocks, Expansion, Moments, Rows, Weigh, expand, fitted, homogeneous
from .elimination import Cross, Factor, eliminate, moments, posterior, second_order
from .orthogonal import Patterns, bucket, group_sum, orthogonalise, pad_last, products, project

MAX_STACKED = 1500
MAX_STATISTICS = 2e8


@frozen_pytree(data=("codes", "parent", "component", "copy", "slot"), meta=("groups", "components", "inner", "copies"))
@dataclass(frozen=True, eq=False)
class Layout:
    """Integer layout of the elimination.

    Attributes
    ----------
    codes : (n,) inner group of each row;  parent : (groups,) component of each inner group
    component : (n,) component of each row
    copy : a (n,) array an outer term, which copy of its effects (level within the component) a row uses
    slot : a (levels,) array an outer term, component * copies + copy of each level
    inner : positions of the terms eliminated first;  copies : a number an outer term
    """

    codes: Any
    parent: Any
    component: Any
    copy: tuple[Any, ...]
    slot: tuple[Any, ...]
    groups: int
    components: int
    inner: tuple[int, ...]
    copies: tuple[int, ...]

    @property
    def outer(self) -> tuple[int, ...]:
        """Positions of the terms eliminated second."""
        return tuple(t for t in range(len(self.inner) + len(self.copies)) if t not in self.inner)


def plan(groups: tuple[np.ndarray, ...], levels: tuple[int, ...], dims: tuple[int, ...], n: int) -> Layout:
    """Decide what is eliminated first from the codes of each term (host side, concrete)."""
    if not groups:
        zeros = np.zeros(n, np.int32)
        return Layout(zeros, np.zeros(1, np.int32), zeros, (), (), 1, 1, (), ())
    first = int(np.argmax(levels))
    inner = tuple(t for t, g in enumerate(groups) if levels[t] == levels[first] and np.array_equal(g, groups[first]))
    outer = [t for t in range(len(groups)) if t not in inner]
    if not outer:
        m = levels[first]
        return Layout(groups[first], np.zeros(m, np.int32), np.zeros(n, np.int32), (), (), m, 1, inner, ())
    component, components, copy, slot, copies = stack_outer(
        groups[first],
        levels[first],
        [groups[t] for t in outer],
        [levels[t] for t in outer],
        [dims[t] for t in outer],
        n,
    )
    parent = np.zeros(levels[first], np.int32)
    parent[groups[first]] = component
    return Layout(groups[first], parent, component, copy, slot, levels[first], components, inner, copies)


def stack_outer(
    codes: np.ndarray, count: int, groups: list[np.ndarray], levels: list[int], dims: list[int], n: int
) -> tuple[np.ndarray, int, tuple[np.ndarray, ...], tuple[np.ndarray, ...], tuple[int, ...]]:
    """Layout of the factors that are not eliminated with the first one, whose `codes` have `count` levels.

    Returns
    -------
    component of each row, their number, and copy, slot and copies, see `Layout`
    """
    component, components = connected([codes, *groups]) if groups else (np.zeros(n, np.int32), 1)
    copy, slot, copies = [], [], []
    for group, m in zip(groups, levels, strict=True):
        home = np.zeros(m, np.int32)
        home[group] = component
        order = np.argsort(home, kind="stable")
        starts = np.searchsorted(home[order], np.arange(components))
        local = np.empty(m, np.int32)
        local[order] = np.arange(m) - starts[home[order]]
        copies.append(int(local.max()) + 1)
        copy.append(local[group])
        slot.append(home * copies[-1] + local)
    stacked = sum(q * c for q, c in zip(dims, copies, strict=True))
    if stacked > MAX_STACKED or max(count, n) * float(stacked) > MAX_STATISTICS:
        raise DataError(
            f"random terms: after the factor with most levels ({count}) is eliminated, {stacked} random "
            f"effects that cross it remain, too many for this version (at most {MAX_STACKED}, and rows * effects "
            f"at most {MAX_STATISTICS:.0e}); drop a term or fit a subset"
        )
    return component, components, tuple(copy), tuple(slot), tuple(copies)


def connected(factors: list[np.ndarray]) -> tuple[np.ndarray, int]:
    """Connected components of a design: the finest partition in which every factor is nested."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    offsets = np.cumsum([0] + [int(f.max()) + 1 for f in factors])
    nodes = [f.astype(np.int64) + o for f, o in zip(factors, offsets, strict=False)]
    i = np.concatenate([nodes[0]] * (len(nodes) - 1))
    j = np.concatenate(nodes[1:])
    graph = coo_array((np.ones(len(i), np.int8), (i, j)), shape=(offsets[-1], offsets[-1]))
    count, labels = connected_components(graph.tocsr(), directed=False)
    return labels[nodes[0]].astype(np.int32), int(count)


class Source(NamedTuple):
    """Rows and layout kept for row-level products (`Grouped.solve`, `Grouped.moments`)."""

    rows: Rows
    layout: Layout


@frozen_pytree(data=("n", "factor", "cross", "weight", "parent", "source"), meta=("shape",))
@dataclass(frozen=True, eq=False)
class Grouped:
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

    name: ClassVar[str] = "grouped"

    @classmethod
    def prepare(
        cls, rows: Rows, layout: Layout, compact: bool = True, clusters: bool = False, varying: int = 1
    ) -> Grouped:
        """Statistics from rows.

        Parameters
        ----------
        compact : compress patterns and pad to a bucket of shapes (concrete values only); otherwise the rows are
            kept too and `solve` and `moments` are available.
        clusters : keep the Gram of each independent cluster apart (not compact).
        varying : number of last columns of U that `with_columns` may replace.
        """
        r = rows.U.shape[1]
        concrete = not any(isinstance(leaf, Array) for leaf in jax.tree_util.tree_leaves((rows, layout)))
        xp: Any = np if concrete else jnp
        Z, W = stack_rows(rows, layout, xp)
        codes, component, components, parent = (
            layout.codes,
            layout.component,
            layout.components,
            layout.parent,
        )
        if clusters and not layout.outer:
            component, components, parent = codes, layout.groups, np.arange(layout.groups, dtype=np.int32)
        stop = (lambda x: x) if concrete else jax.lax.stop_gradient
        F, units = orthogonalise(stop(Z), codes, layout.groups, xp)
        B, left = project(units, stop(W), codes, layout.groups, xp)
        factor, weight = Factor(F, B, products(left, component, components, xp)), xp.ones(layout.groups)
        cross = None if concrete else _cross(Z, W, codes, layout.groups, component, components)
        if concrete and compact:
            factor, weight, parent = compacted(factor, parent, None if layout.outer else (Z, codes), varying)
        n = np.float64(rows.U.shape[0])
        source = None if compact else Source(rows, layout)
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

    def cluster_grams(self, C: Blocks) -> Array:
        """U_c'V_c^-1 U_c of each connected component (prepare with ``clusters=True`` for each group)."""
        return jnp.moveaxis(self._grams(C)[1], -1, 0)

    def solve(self, C: Blocks, B: Array) -> Array:
        """V^-1 B by ``R^-1 (B - Z G Z'V^-1 B)``."""
        rows, layout = self._source()
        data = Grouped.prepare(Rows(jnp.asarray(B), rows.Z), layout, compact=False)
        N = data.moments(C).N
        effects = [jnp.einsum("ij,mjb->mib", G, n) for G, n in zip(C.random, N, strict=True)]
        codes = [self._codes(t) for t in range(len(rows.Z))]
        return (B - fitted(rows.Z, codes, effects)) / C.residual[0, 0]

    def moments(self, C: Blocks) -> Moments:
        """N and the diagonal blocks of M by level of every term."""
        _, layout = self._source()
        inner, outer, copies, components, r = self.shape
        s2 = C.residual[0, 0]
        N: dict[int, Array] = {}
        M: dict[int, Array] = {}
        if inner:
            M1, N1 = moments(self._inner_block(C), self.cross, self.factor)
            if outer:
                G2, cross = self._outer_block(C), self._outer_cross(C)
                root = self._outer_root(C)
                M2, N2 = moments(G2, cross, None, root)
                K2, _ = posterior(root, cross.zz)
                N12, N1 = N1[:, :-r], N1[:, -r:]
                N1 = N1 - matmul(N12, matmul(G2, N2)[..., self.parent])
                M1 = M1 - matmul(matmul(N12, K2[..., self.parent]), transpose(N12))
                unstack(N, M, N2, M2, outer, copies, layout.slot, [C.random[t].shape[0] for t in outer])
            start = 0
            for t in inner:
                stop = start + C.random[t].shape[0]
                N[t] = jnp.moveaxis(N1[start:stop], -1, 0)
                M[t] = jnp.moveaxis(M1[start:stop, start:stop], -1, 0)
                start = stop
        order = range(len(C.random))
        return Moments(tuple(N[t] / s2 for t in order), tuple(M[t] / s2 for t in order), lambda D: self.gram(D)[0], C)

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
    Z = xp.concatenate([rows.Z[t] for t in layout.inner], 1) if layout.inner else xp.zeros((n, 0))
    return Z, stack_columns(rows, layout, xp)


def stack_columns(rows: Rows, layout: Any, xp: Any) -> Any:
    """W = [outer Z stacked by copy, U] (n, Q + r), for the `outer`, `copies` and `copy` of a layout."""
    parts = []
    for t, copies, copy in zip(layout.outer, layout.copies, layout.copy, strict=True):
        onehot = copy[:, None] == np.arange(copies, dtype=np.int32)
        parts.append(xp.reshape(onehot[:, :, None] * rows.Z[t][:, None, :], (rows.U.shape[0], -1)))
    return xp.concatenate([*parts, rows.U], 1)


def _cross(Z: Array, W: Array, codes: Any, groups: int, component: Any, components: int) -> Cross:
    """Cross-products as polynomials of the data, which carry derivatives with respect to data."""
    zz = group_sum(Z[:, :, None] * Z[:, None, :], codes, groups, jnp)
    zw = group_sum(Z[:, :, None] * W[:, None, :], codes, groups, jnp)
    return Cross(jnp.moveaxis(zz, 0, -1), jnp.moveaxis(zw, 0, -1), products(W, component, components, jnp))


def unstack(
    N: dict[int, Array],
    M: dict[int, Array],
    N2: Array,
    M2: Array,
    outer: tuple[int, ...],
    copies: tuple[int, ...],
    slots: tuple[Any, ...],
    dims: list[int],
) -> None:
    """Cut stacked moments (Q, ..., components) into levels of each outer term."""
    N2, M2 = jnp.moveaxis(N2, -1, 0), jnp.moveaxis(M2, -1, 0)
    start = 0
    for t, c, slot, q in zip(outer, copies, slots, dims, strict=True):
        stop = start + c * q
        n2 = N2[:, start:stop].reshape(-1, q, N2.shape[-1])
        m2 = M2[:, start:stop, start:stop].reshape(-1, c, q, c, q)
        m2 = jnp.moveaxis(jnp.diagonal(m2, axis1=1, axis2=3), -1, 1).reshape(-1, q, q)
        N[t], M[t] = n2[slot], m2[slot]
        start = stop
