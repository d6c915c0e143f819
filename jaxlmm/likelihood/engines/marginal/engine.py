"""The marginal engine: any V that is block diagonal by clusters of rows, with what crosses clusters eliminated after.

Residual structures, random functions and the random terms nested in their groups make up V of a cluster. Clusters that
look alike (subjects with the same visits) are one pattern: they share a factorisation, and where they are many their
outer products are summed once. With S_p the sum of ``vec(U_i) vec(U_i)'`` over the clusters of pattern p, log|V| and
U'V^-1 U are sums over patterns, of counts times log|V_p| and of the entries of V_p^-1 times those of S_p. An
evaluation costs patterns * T^3, whatever the number of subjects; derivatives are closed forms in V_p^-1, as in
Wolfinger, Tobias & Sall (1994). Random terms that are coarser than clusters, or cross them, are columns beside U and
are eliminated from the cross-products, by connected component, as in the grouped engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ....linalg import identity, inv_logdet, matmul, psd_cholesky
from ....pytrees import frozen_pytree, replace
from ..base import Blocks, Expansion, Posterior, Rows, Statistics, Weigh, directions, expand
from ..grouped.elimination import Cross, eliminate, posterior
from ..grouped.engine import stack_columns, stacked_blocks, unstack
from ..orthogonal import group_sum
from ..solving import Apply, refined
from .layout import Clusters
from .statistics import Clustered, by_cluster, clustered


@frozen_pytree(data=("buckets", "slot"), meta=("outer", "copies", "components", "r"))
@dataclass(frozen=True, eq=False)
class Marginal(Statistics):
    """Statistics of the marginal engine: buckets of clusters, and the layout of outer terms (see `Clusters`)."""

    buckets: tuple[Clustered, ...]
    slot: tuple[Any, ...]
    outer: tuple[int, ...]
    copies: tuple[int, ...]
    components: int
    r: int

    pads_rows: ClassVar[bool] = True

    @classmethod
    def prepare(cls, rows: Rows, parts: tuple[Any, ...], layout: Clusters, compact: bool = True) -> Marginal:
        """Statistics from rows; with `compact` (concrete values only) the rows are not kept where they need not be.

        Parameters
        ----------
        rows : U, and for each random part its Z; for a `Field` the square roots of the weights (n, 1), None without
        parts : random parts of the model, and its residual
        """
        concrete = not any(isinstance(leaf, Array) for leaf in jax.tree_util.tree_leaves((rows, parts)))
        xp: Any = np if concrete else jnp
        W, r = stack_columns(rows, layout, xp), rows.U.shape[1]
        keep = not (concrete and compact) or bool(layout.outer)
        buckets = tuple(clustered(b, rows, parts, layout, W, concrete, keep, xp) for b in layout.buckets)
        return cls(buckets, layout.slot, layout.outer, layout.copies, layout.components, r)

    @classmethod
    def of_many(cls, clusters: Clustered, r: int) -> Marginal:
        """Statistics of many data sets, with the data sets in front of every array, see `repeated`."""
        return cls((clusters,), (), (), (), 1, r)

    @property
    def work(self) -> int:
        """Numbers that an evaluation works with."""
        total = 0
        for b in self.buckets:
            P, T = b.present.shape[-2:]
            total += P * T * T + int(np.prod(b.W.shape[-3:] if b.S is None else b.S.shape[-3:]))
        return total

    def with_columns(self, lane: tuple[Any, ...]) -> Marginal:
        """The same design with other last columns of U, see `VaryingClusters`."""
        buckets = []
        for b, own in zip(self.buckets, lane, strict=True):
            if b.S is None:
                W = jnp.concatenate([jnp.asarray(b.W)[..., : -own.shape[-1]], own], -1)
                buckets.append(b._replace(W=W))
            else:
                S = jnp.concatenate([jnp.asarray(b.S)[..., : -own.shape[-1]], own], -1)
                buckets.append(b._replace(S=S))
        return replace(self, buckets=tuple(buckets))

    def of_columns(self, lanes: tuple[Any, ...]) -> Marginal:
        """The last columns of U alone, those of many data sets (b, ...), for `level_moments` and `place_squares`."""
        pairs = zip(self.buckets, lanes, strict=True)
        return replace(self, buckets=tuple(b._replace(**{"W" if b.S is None else "S": own}) for b, own in pairs))

    def tight(self) -> Marginal:
        """See `Clustered.tight`."""
        return replace(self, buckets=tuple(b.tight() for b in self.buckets))

    def lean(self) -> Marginal:
        """The same without what evaluations do not read, whose shapes would tell programs apart."""
        buckets = (b if b.S is None else b._replace(row=None, pattern=None, component=None) for b in self.buckets)
        return replace(self, buckets=tuple(buckets))

    # -- the interface ---------------------------------------------------------------------------------------

    def gram(self, C: Blocks) -> tuple[Array, Array]:
        """log|V| and U'V^-1 U."""
        logdet, gram, _ = self._eliminated(C)
        return logdet, gram

    def expand(self, C: Blocks, D: Blocks, weigh: Weigh) -> Expansion:
        """The Gram with its derivatives along directions D of the blocks, in closed form unless terms are outer."""
        if self.outer:
            return expand(self.gram, C, D, weigh)
        solved = [_SolvedBucket(b, self.r, C) for b in self.buckets]
        gram = _total([s.gram() for s in solved])
        weights = weigh(gram)
        free = directions(C, D)
        gram_slopes, curvature, by_pattern = [], [], []
        for s in solved:
            slope, one, second = s.second_order(free, weights)
            by_pattern.append(slope)
            gram_slopes.append(one)
            curvature.append(second)
        (slopes,) = jax.vjp(lambda C: [_linear(b, C) for b in self.buckets], C)[1](by_pattern)
        second = _total(curvature)
        return Expansion(_logdet(solved), gram, slopes, _total(gram_slopes), 0.5 * (second + second.T))

    def solve(self, C: Blocks, B: Array) -> Array:
        """V^-1 B (B is multiplied by square roots of weights, as the rows of U were)."""
        return refined(self._direct(jax.lax.stop_gradient(C)), self._times(C), self._times(C, True), jnp.asarray(B))

    def _direct(self, C: Blocks) -> Apply:
        """Product with V^-1 from the inverses of the clusters."""
        solved = [_SolvedBucket(b, self.r, C) for b in self.buckets]
        Z, K = self._outer_designs(), self.given(C) if self.outer else None

        def direct(X: Array) -> Array:
            parts = [by_cluster(X, b.row) for b in self.buckets]
            if K is not None:
                sums = [jnp.swapaxes(z, -1, -2) @ s.times(x) for z, s, x in zip(Z, solved, parts, strict=True)]
                effects = jnp.moveaxis(matmul(K, self._by_component(sums)), -1, 0)  # (components, Q, b)
                parts = [x - z @ effects[b.component] for x, z, b in zip(parts, Z, self.buckets, strict=True)]
            return _rows(self.buckets, [s.times(x) for s, x in zip(solved, parts, strict=True)], X)

        return direct

    def _times(self, C: Blocks, absolute: bool = False) -> Apply:
        """Product with V, or with absolute values."""
        size = jnp.abs if absolute else lambda x: x
        V = [size(_of_clusters(b, _present(b, _linear(b, C)))) for b in self.buckets]
        Z = [size(z) for z in self._outer_designs()]

        def times(X: Array) -> Array:
            parts = [by_cluster(X, b.row) for b in self.buckets]
            values = [v @ x for v, x in zip(V, parts, strict=True)]
            if self.outer:
                sums = self._by_component([jnp.swapaxes(z, -1, -2) @ x for z, x in zip(Z, parts, strict=True)])
                effects = jnp.moveaxis(matmul(size(self._outer_block(C)), sums), -1, 0)
                values = [v + z @ effects[b.component] for v, z, b in zip(values, Z, self.buckets, strict=True)]
            return _rows(self.buckets, values, X)

        return times

    def _outer_designs(self) -> list[Array]:
        """Designs of the outer terms by cluster (m, T, Q), a bucket; nothing without such terms."""
        return [jnp.asarray(b.W)[..., : b.W.shape[-1] - self.r] for b in self.buckets] if self.outer else []

    def given(self, C: Blocks) -> Array:
        """Covariance (Q, Q, components) of the stacked outer effects given the data."""
        _, _, gram = self._eliminated(C)
        Q = gram.shape[0] - self.r
        return posterior(self._outer_root(C), gram[:Q, :Q])[0]

    def posterior(self, C: Blocks) -> Posterior:
        """Effects given the data, by level, of outer terms only (their order); see `covariances` for the others."""
        if not self.outer:
            return Posterior((), ())
        _, _, gram = self._eliminated(C)
        K, Q = self.given(C), gram.shape[0] - self.r
        dims = [C.random[t].shape[0] for t in self.outer]
        means = unstack(matmul(K, gram[:Q, Q:]), self.copies, self.slot, dims)
        return Posterior(tuple(means), tuple(unstack(K, self.copies, self.slot, dims, blocks=True)))

    def covariances(self, C: Blocks) -> tuple[tuple[Array, ...] | None, ...]:
        """Covariances between the rows of a cluster due to each random part and the residual; None for outer terms.

        An array (m, T, T) a bucket, zeros where there is no row.
        """
        zeros = jax.tree_util.tree_map(jnp.zeros_like, C)
        out: list[Any] = []
        for t in range(len(C.random) + 1):
            if t in self.outer:
                out.append(None)
                continue
            only = zeros._replace(residual=C.residual)
            if t < len(C.random):
                only = zeros._replace(random=(*zeros.random[:t], C.random[t], *zeros.random[t + 1 :]))
            out.append(tuple(_of_clusters(b, _present(b, _linear(b, only))) for b in self.buckets))
        return tuple(out)

    def outer_rows(self, C: Blocks) -> tuple[tuple[Array, Array], ...]:
        """For each bucket rows (m, T, Q) and covariance given the data (m, Q, Q) of the outer effects they meet."""
        if not self.outer:
            return tuple((jnp.zeros((*b.row.shape, 0)), jnp.zeros((len(b.row), 0, 0))) for b in self.buckets)
        K = jnp.moveaxis(self.given(C), -1, 0)
        return tuple((z, K[b.component]) for z, b in zip(self._outer_designs(), self.buckets, strict=True))

    def level_moments(self) -> np.ndarray | None:
        """Mean products (..., q, q) of what X leaves of y between levels, over the clusters that have both (NumPy).

        None unless rows stand at their levels; statistics may be of many data sets (..., leading axes).
        """
        b = self.buckets[0]
        if len(self.buckets) > 1 or not b.is_at_levels:
            return None
        present = np.asarray(b.present, float)
        both = present[..., :, None] * present[..., None, :]
        pairs = np.sum(np.asarray(b.count)[..., None, None] * both, -3)
        if b.S is None:
            y = np.asarray(b.W)[..., -1]
            sums = np.swapaxes(y, -1, -2) @ y
        else:
            sums = _unpaired(np.sum(np.asarray(b.S)[..., -1], -2), present.shape[-1])
        return sums / np.maximum(pairs, 1.0)

    def place_squares(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Sums of squares (..., *shape) of what X leaves of y at each place of the residual, and numbers of rows."""
        squares = [b.squares(shape) for b in self.buckets]
        return np.sum([square for square, _ in squares], 0), np.sum([rows for _, rows in squares], 0)

    # -- details ---------------------------------------------------------------------------------------------

    def _eliminated(self, C: Blocks) -> tuple[Array, Array, Any]:
        """log|V|, U'V^-1 U, and with outer terms the Gram of [Z U] (Q + r, Q + r, components) without them."""
        if not self.outer:
            solved = [_SolvedBucket(b, self.r, C) for b in self.buckets]
            return _logdet(solved), _total([s.gram() for s in solved]), None
        logdet, grams, gram = self._by_component_gram(C)
        return logdet, jnp.sum(grams, -1), gram

    def _by_component_gram(self, C: Blocks) -> tuple[Array, Array, Array]:
        solved = [_SolvedBucket(b, self.r, C) for b in self.buckets]
        gram = self._by_component([s.products(s.bucket.W) for s in solved])
        G, root = self._outer_block(C), self._outer_root(C)
        cross = _cross(gram, gram.shape[0] - self.r)
        ones, own = jnp.ones(self.components), jnp.arange(self.components, dtype=jnp.int32)
        more, grams = eliminate(self.components, G, cross, None, ones, own, root)
        return _logdet(solved) + more, grams, gram

    def _by_component(self, products: list[Array]) -> Array:
        """Sums (., ., components) of products (m, ., .) of the clusters of each bucket."""
        sums = [group_sum(x, b.component, self.components, jnp) for x, b in zip(products, self.buckets, strict=True)]
        return jnp.moveaxis(_total(sums), 0, -1)

    def _outer_block(self, C: Blocks) -> Array:
        """Stacked covariance of the outer effects."""
        return stacked_blocks([C.random[t] for t in self.outer], self.copies)

    def _outer_root(self, C: Blocks) -> Array:
        """A root of it."""
        return jax.lax.stop_gradient(stacked_blocks([psd_cholesky(C.random[t]) for t in self.outer], self.copies))


class _SolvedBucket:
    """A bucket with the inverses and log-determinants of the V of its patterns."""

    def __init__(self, bucket: Clustered, r: int, C: Blocks):
        self.bucket, self.r = bucket, r
        present = jnp.asarray(bucket.present)
        both = present[:, :, None] & present[:, None, :]
        V = jnp.where(both, _linear(bucket, C), identity(present.shape[1]) * ~present[:, None, :])
        inverse, self.logdet = inv_logdet(jnp.moveaxis(V, 0, -1))
        self.inverse = jnp.where(both, jnp.moveaxis(inverse, -1, 0), 0.0)

    def of_clusters(self) -> Array:
        """Inverses (m, T, T)."""
        return _of_clusters(self.bucket, self.inverse)

    def times(self, X: Array) -> Array:
        """V^-1 X for X (m, T, b)."""
        return self.of_clusters() @ X

    def products(self, X: Array) -> Array:
        """X'V^-1 X (m, b, b)."""
        return jnp.swapaxes(X, -1, -2) @ self.times(X)

    def gram(self) -> Array:
        """Sum over clusters of U'V^-1 U (r, r)."""
        if self.bucket.S is None:
            W = jnp.asarray(self.bucket.W)
            return jnp.einsum("mti,mtj->ij", W, self.times(W))
        flat = _lower(self.inverse).reshape(-1)
        return _symmetric(flat @ jnp.asarray(self.bucket.S).reshape(len(flat), -1), self.r)

    def second_order(self, D: Blocks, weights: Array) -> tuple[Array, Array, Array]:
        """Slopes in V (P, T, T), slopes of the Gram (k, r, r) and curvature (k, k) along k directions D."""
        b, inverse, k = self.bucket, self.inverse, D.residual.shape[0]
        count = jnp.asarray(b.count)[:, None, None]
        W = 0.5 * (weights + weights.T)
        if b.is_at_levels and b.S is None and b.present.shape[1] <= 4 * k:
            return self._at_levels(D.residual, W)
        E = jax.vmap(lambda d: _linear(b, d))(D)
        IA = inverse @ self._weighted(W)
        slopes = count * inverse - IA @ inverse
        IE = inverse @ E
        F = 2.0 * IA @ IE - count * IE
        curvature = F.reshape(k, -1) @ jnp.swapaxes(IE, 2, 3).reshape(k, -1).T
        if b.S is None:
            Y = self.times(jnp.asarray(b.W))
            E = E if b.pattern is None else E[:, b.pattern]
            gram_slopes = -jnp.einsum("mti,kmtu,muj->kij", Y, E, Y, optimize="optimal")
        else:
            flat = _lower(IE @ inverse).reshape(k, -1)
            gram_slopes = -_symmetric(flat @ jnp.asarray(b.S).reshape(flat.shape[1], -1), self.r)
        return slopes, gram_slopes, curvature

    def _at_levels(self, D: Array, weights: Array) -> tuple[Array, Array, Array]:
        """The same where rows stand at their levels: directions D (k, T, T) are those of V in all patterns.

        Sums over patterns and clusters come first, of products that do not depend on the directions.
        """
        b, inverse, k, T = self.bucket, self.inverse, D.shape[0], D.shape[-1]
        Y = self.times(jnp.asarray(b.W))  # (m, T, r)
        flat = Y.reshape(len(Y), -1)
        YY = (flat.T @ flat).reshape(T, self.r, T, self.r).transpose(0, 2, 1, 3)
        gram_slopes = -(D.reshape(k, -1) @ YY.reshape(T * T, -1)).reshape(k, self.r, self.r)
        N = _pattern_sum(Y @ weights @ jnp.swapaxes(Y, -1, -2), b)
        P, information = len(N), jnp.asarray(b.count)[:, None, None] * inverse
        K = (2.0 * N - information).reshape(P, -1).T @ inverse.reshape(P, -1)  # [ab, cd]
        turned = K.reshape(T, T, T, T).transpose(1, 2, 3, 0).reshape(T * T, T * T)  # [bc, da]
        curvature = D.reshape(k, -1) @ turned @ D.reshape(k, -1).T
        return information - N, gram_slopes, curvature

    def _weighted(self, weights: Array) -> Array:
        """Sum over the clusters of each pattern of U w U' (P, T, T)."""
        b = self.bucket
        if b.S is None:
            W = jnp.asarray(b.W)
            return _pattern_sum(W @ weights @ jnp.swapaxes(W, -1, -2), b)
        rows, columns = np.tril_indices(self.r)
        packed = jnp.asarray(b.S) @ (weights[rows, columns] * np.where(rows == columns, 1.0, 2.0))
        return _unpaired(packed, b.present.shape[-1])


def _logdet(solved: list[_SolvedBucket]) -> Array:
    """Log-determinants summed over all clusters."""
    return _total([jnp.sum(s.bucket.count * s.logdet) for s in solved])


def _linear(bucket: Clustered, C: Blocks) -> Array:
    """V of each pattern (P, T, T), or its change along a direction C: linear in C."""
    T, total = bucket.present.shape[-1], 0.0
    for place, block in zip(bucket.places, (*C.random, C.residual), strict=True):
        if place is None:
            continue
        if place.S is not None:
            S = jnp.asarray(place.S)
            V = S @ block @ jnp.swapaxes(S, -1, -2)
        elif place.set is None:
            V = block
        elif place.position is None:
            V = block[place.set][:, :T, :T]
        else:
            position = jnp.asarray(place.position)
            V = block[jnp.asarray(place.set)[:, :, None], position[:, :, None], position[:, None, :]]
        total = total + (V if place.mask is None else V * place.mask)
    return jnp.broadcast_to(total, (*bucket.present.shape, T))


def _present(bucket: Clustered, V: Array) -> Array:
    """V (P, T, T) with zeros where there is no row."""
    present = jnp.asarray(bucket.present)
    return jnp.where(present[:, :, None] & present[:, None, :], V, 0.0)


def _lower(A: Array) -> Array:
    """Lower triangles (..., T (T+1) / 2) of symmetric matrices, row by row."""
    rows, columns = np.tril_indices(A.shape[-1])
    return A[..., rows, columns]


def _unpaired(v: Any, T: int) -> Any:
    """Symmetric matrices (..., T, T) from sums as in `Clustered.S`, where an entry and its mirror image are one."""
    rows, columns = np.tril_indices(T)
    return _symmetric(v * np.where(rows == columns, 1.0, 0.5), T)


def _symmetric(v: Any, T: int) -> Any:
    """Symmetric matrices (..., T, T) from their lower triangles."""
    full = np.zeros((T, T), int)
    rows, columns = np.tril_indices(T)
    full[rows, columns] = full[columns, rows] = np.arange(len(rows))
    return v[..., full]


def _of_clusters(bucket: Clustered, A: Array) -> Array:
    return A if bucket.pattern is None else A[bucket.pattern]


def _pattern_sum(X: Array, bucket: Clustered) -> Array:
    """Sums of X (m, ...) over the clusters of each pattern."""
    return X if bucket.pattern is None else group_sum(X, bucket.pattern, len(bucket.count), jnp)


def _rows(buckets: tuple[Clustered, ...], values: list[Array], like: Array) -> Array:
    """Values (m, T, b) of each bucket in the order of the rows (n, b)."""
    out = jnp.zeros((like.shape[0] + 1, like.shape[1]))
    for b, value in zip(buckets, values, strict=True):
        out = out.at[b.row].set(value)
    return out[:-1]


def _cross(gram: Array, Q: int) -> Cross:
    return Cross(gram[:Q, :Q], gram[:Q, Q:], gram[Q:, Q:])


def _total(values: list[Any]) -> Any:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
