"""The iterative engine: several factors whose effects are too many for any factorisation.

Everything is products with the sparse cross-products of the factors, whose number is free of the number of rows:
conjugate gradients for the coefficients, stochastic Lanczos quadrature for the log-determinant (Ubaru, Chen & Saad
2017), and for its derivatives Hutchinson's estimator of traces with random signs that stay the same in all evaluations:

    D log|V| [H] = tr(M H),   D2 log|V| [H, K] = -tr(M H M K),   M = Z'V^-1 Z

from one solve for each random vector. Only remainders are random. Of traces their expansion to second order in the
off-diagonal blocks of the equations is known exactly and taken out (a control variate). Of the log-determinant of the
reduced equations S (see `reduced`) the trace of ``S - I`` is known; of ``log S - (S - I)`` the part in the space of the
largest eigenvalues of ``S - I`` is computed without randomness (Hutch++: Meyer, Musco, Musco & Woodruff 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ....linalg import block_diagonal
from ....pytrees import frozen_pytree, replace
from ....runtime.precision import unguarded
from ..base import Blocks, Expansion, Posterior, Rows, Statistics, Weigh, fitted, homogeneous
from ..orthogonal import group_sum
from ..solving import through_terms
from .krylov import by_parts, quadratic_forms
from .layout import Incidence, random_signs
from .meeting import Meeting, meetings
from .reduced import Answer, Columns, System, bilinear_matrix, levels_of

LEAST_TOLERANCE = 1e-13  # relative residual that is possible
BASIS = 3e7  # numbers in the basis of a Lanczos process
RANK = 32  # dimension of the space in which the log-determinant is not random
POWERS = 3  # of S - I that lead to this space


class Traced(NamedTuple):
    """What the random vectors say of derivatives."""

    slopes: tuple[Array, ...]  # see `Draws`
    products: Array  # (d, d) estimates of tr(M H M K) for all entries H, K of the blocks


class At(NamedTuple):
    """The equations at a point, relative to the residual variance."""

    system: System
    logdet: Array  # of the diagonal blocks
    squares: tuple[Array, ...]  # see `System.squares`


@frozen_pytree(
    data=("n", "A", "B", "UU", "meetings", "probes", "starts", "sketch", "seed", "source"),
    meta=("members", "dims", "options", "valued"),
)
@dataclass(frozen=True, eq=False)
class Krylov(Statistics):
    """Statistics of the iterative engine. Factors are ordered by their effects, terms of one factor merged.

    Attributes
    ----------
    A (q, q, m), B (m, q, r) : Z'Z and Z'U by level of each factor;  UU : (r, r)
    meetings : see `meeting.meetings`
    probes : (m, b) of each factor, uncorrelated with variance one, for derivatives
    starts : (Q, b) the same for the log-determinant, over all effects of all factors but the first
    sketch : (Q, at most RANK) where the search for the largest eigenvalues starts
    seed : of the random vectors, no part of `options` here, so that seeds share compiled programs
    members : positions of the terms of each factor;  dims : effects of each term
    valued : whether the log-determinant is estimated; if not, its remainder is left out
    """

    n: Any
    A: tuple[Any, ...]
    B: tuple[Any, ...]
    UU: Any
    meetings: tuple[tuple[Meeting | None, ...], ...]
    probes: tuple[Any, ...]
    starts: Any
    sketch: Any
    seed: Any
    source: tuple[Rows, Incidence] | None
    members: tuple[tuple[int, ...], ...]
    dims: tuple[int, ...]
    options: Any
    valued: bool

    @classmethod
    def prepare(cls, rows: Rows, layout: Incidence, compact: bool = True) -> Krylov:
        """Statistics from concrete rows (NumPy); without `compact` rows are kept for `solve`."""
        columns = ([rows.Z[t] for t in terms] for terms in layout.members)
        Z = tuple(own[0] if len(own) == 1 else np.concatenate(own, 1) for own in columns)
        A, B = [], []
        for z, codes, m in zip(Z, layout.codes, layout.levels, strict=True):
            q = range(z.shape[1])
            A.append(np.array([[np.bincount(codes, z[:, i] * z[:, j], m) for j in q] for i in q]))
            B.append(np.stack([group_sum(z[:, i, None] * rows.U, codes, m, np) for i in q], 1))
        found = cls(
            rows.count,
            tuple(A),
            tuple(B),
            rows.U.T @ rows.U,
            meetings(layout.codes, Z, layout.levels),
            (),
            np.zeros((0, 0), np.int8),
            np.zeros((0, 0), np.int8),
            np.int64(layout.options.seed),
            None if compact else (rows, layout),
            layout.members,
            tuple(z.shape[1] for z in rows.Z),
            replace(layout.options, seed=0),
            True,
        )
        return found.with_stream(0, layout.options.probes)

    def with_stream(self, stream: int, count: int) -> Krylov:
        """The same statistics with other random vectors, `count` of them, independent of those of other streams."""
        seed, sizes = int(self.seed), [b.shape[0] for b in self.B]
        probes = tuple(random_signs(seed, (stream, f), (m, count)) for f, m in enumerate(sizes))
        effects, last = sum(b.shape[0] * b.shape[1] for b in self.B[1:]), len(sizes)
        starts = random_signs(seed, (stream, last), (effects, count))
        sketch = random_signs(seed, (stream, last + 1), (effects, min(RANK, effects)))
        return replace(self, probes=probes, starts=starts, sketch=sketch)

    @property
    def final(self) -> Krylov:
        """The same statistics with the random vectors of the certificate."""
        return self.with_stream(1, self.options.final_probes)

    @property
    def unvalued(self) -> Krylov:
        """The same with the exact part of the log-determinant alone; derivatives are those of the whole."""
        return replace(self, valued=False)

    @property
    def work(self) -> int:
        """Numbers that an evaluation works with."""
        entries = sum(np.size(m.value) for row in self.meetings for m in row if m is not None)
        return entries * self.probes[0].shape[1]

    # -- the interface ---------------------------------------------------------------------------------------

    def gram(self, C: Blocks) -> tuple[Array, Array]:
        """log|V|, estimated, and U'V^-1 U; with first derivatives in C."""
        s2 = C.residual[0, 0]
        logdet, gram = _relative(self, self._factors(tuple(G / s2 for G in C.random)))
        return self.n * jnp.log(s2) + logdet, gram / s2

    def is_solved(self, C: Blocks) -> Array:
        """Whether conjugate gradients reach their tolerance for the columns of U."""
        at = self._at(self._factors(tuple(G / C.residual[0, 0] for G in C.random)))
        return jnp.all(jnp.isfinite(self._answered(at)[0].left))

    def solve(self, C: Blocks, B: Array) -> Array:
        """V^-1 B by ``R^-1 (B - Z G Z'V^-1 B)``."""
        if self.source is None:
            raise ValueError("row-level products need statistics prepared with compact=False")
        rows, layout = self.source
        fixed = jax.lax.stop_gradient(C)
        s2 = fixed.residual[0, 0]
        Z = [jnp.concatenate([jnp.asarray(rows.Z[t]) for t in terms], 1) for terms in self.members]
        at = self._at(self._factors(tuple(G / s2 for G in fixed.random)))

        def direct(_: Any, B: Array) -> Array:
            h = []
            for z, codes, m in zip(Z, layout.codes, layout.levels, strict=True):
                h.append(jnp.stack([group_sum(z[:, i, None] * B, codes, m, jnp) for i in range(z.shape[1])], 1))
            u = at.system.solve(tuple(h), self._finely, self.options.max_iterations).u
            return (B - fitted(Z, layout.codes, u)) / s2

        times = through_terms(Z, layout.codes, layout.levels, C._replace(random=self._factors(C.random)))
        return jax.lax.custom_linear_solve(times, jnp.asarray(B), direct, symmetric=True)

    def covariances_at(self, C: Blocks, f: int, levels: Array) -> Array:
        """Covariances given the data (b, q, q) of the effects of factor f at some levels (b,): a solution for each."""
        s2 = C.residual[0, 0]
        at = self._at(self._factors(tuple(G / s2 for G in C.random)))
        own = [v.shape[:2] for v in self.B]
        b, q = len(levels), own[f][1]
        row, effect, column = levels[:, None], jnp.arange(q)[None], jnp.arange(b * q).reshape(b, q)
        h = [jnp.zeros((*size, b * q)) for size in own]
        h[f] = h[f].at[row, effect, column].set(1.0)
        u = at.system.solve(tuple(h), self._finely, self.options.max_iterations).u[f]
        found = u[row[..., None], effect[..., None], column[:, None]]
        return 0.5 * s2 * (found + jnp.swapaxes(found, 1, 2))

    def posterior(self, C: Blocks) -> Posterior:
        """Means of the effects of every term by level; covariances are NaN, see `covariances_at` for those of some."""
        s2 = C.residual[0, 0]
        at = self._at(self._factors(tuple(G / s2 for G in C.random)))
        found = {}
        for terms, u in zip(self.members, self._answered(at)[0].u, strict=True):
            start = 0
            for t in terms:
                found[t] = u[:, start : start + self.dims[t]]
                start += self.dims[t]
        means = tuple(found[t] for t in range(len(self.dims)))
        return Posterior(means, tuple(jnp.full((*u.shape[:2], u.shape[1]), jnp.nan) for u in means))

    def expand(self, C: Blocks, D: Blocks, weigh: Weigh) -> Expansion:
        """The Gram with its derivatives along directions D of the blocks, in closed form."""

        def relative(directions: tuple[Array, ...], weigh: Weigh) -> Expansion:
            return self._expanded(tuple(G / C.residual[0, 0] for G in C.random), directions, weigh)

        return homogeneous(self.n, C, D, weigh, relative)

    def draws(self, C: Blocks, weigh: Weigh) -> tuple[Array, Array, Blocks]:
        """Each random vector's estimate of log|V| (b,), the Gram, and the derivative (b, ...) that `expand` has.

        The spread of these is the Monte Carlo error: of a log-determinant its standard deviation over sqrt(b).
        """
        s2 = C.residual[0, 0]
        G = tuple(block / s2 for block in C.random)
        at = self._at(self._factors(G))
        answer, gram = self._answered(at)
        w = weigh(gram / s2) / s2
        N = self._N(at, answer)
        found = self._traced(at).slopes
        whole = [s - jnp.einsum("mar,rs,mbs->ab", v, 0.5 * (w + w.T), v) for s, v in zip(found, N, strict=True)]
        slopes = self._by_term(whole)
        inside = sum(jnp.sum(S * block, (1, 2)) for S, block in zip(slopes, G, strict=True))
        fixed = (self.n - jnp.sum(w * gram) - inside) / s2
        logdets = self.n * jnp.log(s2) + self._logdets(at)
        return logdets, gram / s2, Blocks(tuple(S / s2 for S in slopes), fixed[:, None, None])

    # -- the equations at a point ----------------------------------------------------------------------------

    @property
    def _finely(self) -> float:
        return max(self.options.tolerance**2, LEAST_TOLERANCE)

    def _factors(self, G: tuple[Array, ...]) -> tuple[Array, ...]:
        """Covariance blocks of the factors from those of the terms."""
        return tuple(block_diagonal([G[t] for t in terms]) for terms in self.members)

    def _by_term(self, blocks: list[Array]) -> tuple[Array, ...]:
        """Blocks (..., q, q) of the terms from those of the factors."""
        found = {}
        for terms, block in zip(self.members, blocks, strict=True):
            start = 0
            for t in terms:
                stop = start + self.dims[t]
                found[t] = block[..., start:stop, start:stop]
                start = stop
        return tuple(found[t] for t in range(len(self.dims)))

    def _at(self, G: tuple[Array, ...]) -> At:
        pairs = [levels_of(block, jnp.asarray(A)) for block, A in zip(G, self.A, strict=True)]
        system = System(tuple(levels for levels, _ in pairs), self.meetings)
        return At(system, sum((jnp.sum(d) for _, d in pairs), jnp.zeros(())), system.squares())

    def _answered(self, at: At) -> tuple[Answer, Array]:
        """The solution for U, and U'V^-1 U."""
        B = tuple(jnp.asarray(b) for b in self.B)
        answer = at.system.solve(B, self._finely, self.options.max_iterations)
        return answer, jnp.asarray(self.UU) - bilinear_matrix(B, answer)

    def _N(self, at: At, answer: Answer) -> Columns:
        """Z'V^-1 U (m, q, r) by factor: ``J'(B - A_off u)``."""
        met = at.system.off(answer.u)
        return at.system.each("J", tuple(b - x for b, x in zip(self.B, met, strict=True)), turned=True)

    # -- random vectors --------------------------------------------------------------------------------------

    def _logdets(self, at: At) -> Array:
        """Estimates of ``log|T|`` from each start (b,)."""
        # the trace of S - I is minus the sum of squares of the first factor's blocks with the others
        exact = at.logdet - jnp.sum(at.system.levels[0].K * at.squares[0])
        if not self.valued:
            return exact[None]
        effects = len(self.starts)
        apply, steps = at.system.apply, self.options.steps

        def power(_: Any, V: Array) -> Array:
            return jnp.linalg.qr(apply(V) - V)[0]

        def forms(z: Array) -> Array:
            return quadratic_forms(apply, z, steps, lambda x: jnp.log(x) - (x - 1.0), self.options.tolerance)

        V = jax.lax.fori_loop(0, POWERS, power, jnp.asarray(self.sketch, jnp.float64))
        z = jnp.asarray(self.starts, jnp.float64)
        columns = jnp.concatenate([V, z - V @ (V.T @ z)], 1)
        size = max(4, int(BASIS / (effects * min(steps, effects))))
        found = by_parts(forms, columns, size)
        return exact + jnp.sum(found[: V.shape[1]]) + found[V.shape[1] :]

    def _offsets(self) -> list[int]:
        """First of the effects of each factor, and their number."""
        return [int(x) for x in np.cumsum([0, *(b.shape[1] for b in self.B)])]

    def _parts(self) -> tuple[Array, ...]:
        """Probes (parts, m, b) to be worked with one part after the other."""
        count = self.probes[0].shape[1]
        effects = sum(b.shape[0] * b.shape[1] for b in self.B)
        size = divisor(count, 4e6 / (effects * self._offsets()[-1]))
        return tuple(jnp.moveaxis(jnp.asarray(z).reshape(len(z), -1, size), 1, 0) for z in self.probes)

    def _columns(self, probes: tuple[Array, ...]) -> Columns:
        """Probes placed in one effect of one factor each: (m, q, effects * b) of all factors."""
        offsets, out = self._offsets(), []
        for f, z in enumerate(probes):
            q = offsets[f + 1] - offsets[f]
            place = np.eye(q, offsets[-1], offsets[f])[None, :, :, None]
            out.append((z.astype(jnp.float64)[:, None, None, :] * place).reshape(len(z), q, -1))
        return tuple(out)

    def _probed(self, at: At, probes: tuple[Array, ...]) -> tuple[Columns, Columns, Answer]:
        """Columns e of probes, ``h = A_off J e`` and ``Q h``."""
        e = self._columns(probes)
        h = at.system.off(at.system.each("J", e))
        return e, h, at.system.solve(h, self.options.tolerance, self.options.max_iterations)

    def _traced(self, at: At) -> Traced:
        """Traces by the probes: ``M e = J'A J e - J'A_off Q h`` in blocks, of which the trace loses ``h'Q h``."""
        system, offsets = at.system, self._offsets()
        known = [jnp.sum(lv.M - _both_sides(lv.J, D), -1) for lv, D in zip(system.levels, at.squares, strict=True)]

        def one(probes: tuple[Array, ...]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
            size = probes[0].shape[1]
            e, h, answer = self._probed(at, probes)
            first = system.each("K", h)
            y, left = (v.reshape(len(v), -1, size) for v in (answer.y, answer.left))
            cut = [[v.reshape(*v.shape[:2], -1, size) for v in columns] for columns in (h, answer.u, first)]
            slopes = []
            for f, exact in enumerate(known):
                own = range(offsets[f], offsets[f + 1])
                forms = [[_form(a, b, y, left, cut) for b in own] for a in own]
                found = jnp.stack([jnp.stack(row) for row in forms])
                slopes.append(jnp.moveaxis(exact[..., None] - 0.5 * (found + jnp.swapaxes(found, 0, 1)), -1, 0))
            rest = system.each("J", tuple(a - b for a, b in zip(h, system.off(answer.u), strict=True)), turned=True)
            products = []
            for v, r in zip(system.each("M", e), rest, strict=True):
                Y = jnp.moveaxis((v + r).reshape(*v.shape[:2], -1, size), 0, 2)  # (q, effects, m, b)
                flat = Y.reshape(Y.shape[0] * Y.shape[1], -1)
                products.append((flat @ flat.T).reshape(*Y.shape[:2], *Y.shape[:2]))
            return tuple(slopes), tuple(products)

        slopes, products = jax.lax.map(one, self._parts())
        count = self.probes[0].shape[1]
        slopes = tuple(s.reshape(count, *s.shape[2:]) for s in slopes)
        return Traced(slopes, self._table([jnp.sum(p, 0) / count for p in products]))

    def _table(self, products: list[Array]) -> Array:
        """Estimates of ``tr(M H M K)`` for H the entry (a, b) of factor f and K the entry (c, d) of factor u.

        From products by factor u (q, effects, q, effects); both factors' probes estimate it.
        """
        offsets, rows = self._offsets(), []
        for f in range(len(self.members)):
            own = slice(offsets[f], offsets[f + 1])
            blocks = [jnp.transpose(p[:, own][:, :, :, own], (1, 3, 2, 0)) for p in products]  # (a, b, c, d)
            rows.append(jnp.concatenate([x.reshape(x.shape[0] * x.shape[1], -1) for x in blocks], 1))
        table = jnp.concatenate(rows, 0)
        return 0.5 * (table + table.T)

    # -- derivatives -----------------------------------------------------------------------------------------

    def _expanded(self, G: tuple[Array, ...], D: tuple[Array, ...], weigh: Weigh) -> Expansion:
        """`expand` along random blocks for a residual variance of one; nothing but sums depends on the weights."""
        at = self._at(self._factors(G))
        answer, gram = self._answered(at)
        weights = weigh(gram)
        w = 0.5 * (weights + weights.T)
        N = self._N(at, answer)
        H = [jax.vmap(lambda *blocks: block_diagonal(list(blocks)))(*(D[t] for t in terms)) for terms in self.members]
        k = len(D[0])
        flat = jnp.concatenate([block.reshape(k, -1) for block in H], 1)
        traced = self._traced(at)

        NN = [jnp.einsum("mar,mbs->arbs", v, v) for v in N]
        gram_slopes = -jnp.einsum(
            "kx,xrs->krs", flat, jnp.concatenate([jnp.moveaxis(v, 2, 1).reshape(-1, *v.shape[1::2]) for v in NN])
        )
        slopes = [jnp.mean(s, 0) - jnp.einsum("arbs,rs->ab", v, w) for s, v in zip(traced.slopes, NN, strict=True)]
        seen = jnp.einsum("xrys,rs->xy", self._products(at, N), w)
        curvature = flat @ (2.0 * seen - traced.products) @ flat.T
        logdet = jnp.mean(self._logdets(at))
        found = Blocks(self._by_term(slopes), None)
        return Expansion(logdet, gram, found, gram_slopes, 0.5 * (curvature + curvature.T))

    def _products(self, at: At, N: Columns) -> Array:
        """``X'M X`` (d, r, d, r), where X puts effect b of N of a factor in the place of its effect a."""
        r, offsets = N[0].shape[-1], self._offsets()
        sizes = [v.shape[1] ** 2 for v in N]
        parts = []
        for f, v in enumerate(N):
            q = offsets[f + 1] - offsets[f]
            place = np.eye(q)[None, :, :, None, None]
            own = (place * v[:, None, None, :, :]).reshape(len(v), q, q * q * r)
            parts.append(jnp.pad(own, ((0, 0), (0, 0), (r * sum(sizes[:f]), r * sum(sizes[f + 1 :])))))
        X = tuple(parts)
        JX = at.system.each("J", X)
        h = at.system.off(JX)
        answer = at.system.solve(h, self.options.tolerance, self.options.max_iterations)
        pairs = zip((*X, *JX), (*at.system.each("M", X), *h), strict=True)
        whole = sum((jnp.einsum("mqa,mqb->ab", a, b) for a, b in pairs), -bilinear_matrix(h, answer))
        return whole.reshape(sum(sizes), r, sum(sizes), r)


@jax.custom_jvp
def _relative(statistics: Krylov, G: tuple[Array, ...]) -> tuple[Array, Array]:
    """log|V| and the Gram for covariances G of the factors and a residual variance of one; derivatives in G."""
    at = statistics._at(G)
    return jnp.mean(statistics._logdets(at)), statistics._answered(at)[1]


@_relative.defjvp
@unguarded
def _relative_jvp(primals: Any, tangents: Any) -> Any:
    (statistics, G), (_, dG) = primals, tangents
    at = statistics._at(G)
    answer, gram = statistics._answered(at)
    slopes = [jnp.mean(s, 0) for s in statistics._traced(at).slopes]
    N = statistics._N(at, answer)
    change = sum(jnp.sum(s * d) for s, d in zip(slopes, dG, strict=True))
    dgram = -sum(jnp.einsum("mar,ab,mbs->rs", v, d, v) for v, d in zip(N, dG, strict=True))
    return (jnp.mean(statistics._logdets(at)), gram), (change, dgram)


def _both_sides(J: Array, D: Array) -> Array:
    """``J'D J`` (q, q, m) in every level."""
    return jnp.einsum("cam,cdm,dbm->abm", J, D, J)


def _form(a: int, b: int, y: Array, left: Array, cut: list[list[Array]]) -> Array:
    """``h_a'Q h_b`` less its part of second order ``h_a'K h_b``, for each probe (b,); see `reduced.bilinear_matrix`."""
    total = jnp.sum(y[:, a] * left[:, b], 0)
    for h, u, first in zip(*cut, strict=True):
        total = total + jnp.sum(h[:, :, a] * (u[:, :, b] - first[:, :, b]), (0, 1))
    return total


def divisor(count: int, limit: float) -> int:
    """Largest divisor of a count that is not above the limit; one at least."""
    return max(d for d in range(1, count + 1) if count % d == 0 and (d <= limit or d == 1))
