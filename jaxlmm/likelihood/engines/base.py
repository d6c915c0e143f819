"""The interface of engines: covariance blocks in, log|V| and one small Gram matrix out.

An engine (`protocol.Engine`) prepares statistics once from data, a pytree that knows nothing of theta, REML or
structures. With ``V = sum_t Z_t (I (x) G_t) Z_t' + R`` and U the (n, r) matrix they were prepared with::

    gram(C)          -> log|V|, U'V^-1 U
    solve(C, B)      -> V^-1 B for row-level B (n, b)
    posterior(C)     -> mean and covariance of random effects given the data, by level
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...errors import DataError
from ...runtime.sharding import alike


class Blocks(NamedTuple):
    """Covariance blocks in which V is linear: one (q, q) matrix a random term, and the residual block."""

    random: tuple[Any, ...]
    residual: Any


class Rows(NamedTuple):
    """Row-level arrays that an engine prepares its statistics from, all multiplied by sqrt(weights).

    Attributes
    ----------
    present : (n,) whether a row counts: one of no weight, zeros in U and Z, does not; None where all do
    """

    U: Any
    Z: tuple[Any, ...]
    present: Any = None

    @property
    def count(self) -> Any:
        """Number of rows that count, a float."""
        return np.float64(len(self.U)) if self.present is None else (1.0 * self.present).sum()

    @property
    def is_concrete(self) -> bool:
        """Whether values can be looked at."""
        return isinstance(self.U, np.ndarray)


class Lanes(NamedTuple):
    """Rows of many data sets, one below the other, for `Engine.stacked` (NumPy).

    Attributes
    ----------
    U (n, r), Z : as in `Rows`
    lane : (n,) data set of each row, ascending;  many : number of data sets
    group : (n,) level of `Engine.factor`, numbered through all data sets
    position : (n,) level of each row for the residual structure, or None
    """

    U: np.ndarray
    Z: list[np.ndarray]
    lane: np.ndarray
    many: int
    group: np.ndarray
    position: np.ndarray | None


class Posterior(NamedTuple):
    """Random effects given the data, an entry a term: none of this is a difference of large numbers.

    Attributes
    ----------
    means : ``G Z'V^-1 U`` (m, q, r), which for y in place of U is the mean of the effects
    covariances : the blocks by level (m, q, q) of ``G - G Z'V^-1 Z G``
    """

    means: tuple[Array, ...]
    covariances: tuple[Array, ...]


class Expansion(NamedTuple):
    """log|V| and the Gram with what a Newton step needs of their derivatives.

    Attributes
    ----------
    slopes : derivative in the blocks of ``logdet + sum(weights * gram)``, the weights being those of this point
    gram_slopes : (k, r, r) derivatives of the Gram in k directions of the blocks
    curvature : (k, k) second derivatives of ``logdet + sum(weights * gram)`` along these directions
    """

    logdet: Array
    gram: Array
    slopes: Blocks
    gram_slopes: Array
    curvature: Array


Weigh = Callable[[Array], Array]


def expand(gram: Callable[[Blocks], tuple[Array, Array]], C: Blocks, D: Blocks, weigh: Weigh) -> Expansion:
    """Expansion of any statistics by forward-over-reverse differentiation.

    Parameters
    ----------
    gram : their ``gram``
    D : k directions, blocks with k in front; `residual` is None where the residual block is fixed
    weigh : weights (r, r) at a Gram, the derivative of the criterion in it
    """
    free = directions(C, D)
    (logdet, value), pull = jax.vjp(gram, C)
    weights = weigh(value)
    (slopes,) = pull((jnp.ones_like(logdet), weights))

    def first(C: Blocks) -> tuple[Array, Blocks]:
        (logdet, value), pull = jax.vjp(gram, C)
        return value, pull((jnp.ones_like(logdet), weights))[0]

    def along(direction: Blocks) -> tuple[Array, Array]:
        _, (change, slope) = jax.jvp(first, (C,), (direction,))
        pairs = zip(_leaves(free), _leaves(slope), strict=True)
        rows = [jnp.tensordot(d, s, s.ndim) for d, s in pairs]
        return change, jnp.sum(jnp.stack(rows), 0)

    gram_slopes, curvature = jax.vmap(along)(free)
    return Expansion(logdet, value, slopes, gram_slopes, 0.5 * (curvature + curvature.T))


def expansion_of(statistics: Any, C: Blocks, D: Blocks, weigh: Weigh) -> Expansion:
    """``statistics.expand``, or where no parameter is free what there is without directions."""
    if any(d is not None and len(d) for d in _leaves(D)):
        return statistics.expand(C, D, weigh)
    (logdet, gram), pull = jax.vjp(statistics.gram, C)
    (slopes,) = pull((jnp.ones_like(logdet), weigh(gram)))
    return Expansion(logdet, gram, slopes, jnp.zeros((0, *gram.shape)), jnp.zeros((0, 0)))


def fitted(Z: Any, codes: Any, effects: Any) -> Any:
    """``sum_t Z_t u_t`` (n, b) of designs (n, q), levels of the rows (n,) and effects (m, q, b), an entry a term."""
    total: Any = 0.0
    for z, code, u in zip(Z, codes, effects, strict=True):
        total = total + jnp.einsum("nq,nqb->nb", z, u[code])
    return total


def homogeneous(
    n: Any, C: Blocks, D: Blocks, weigh: Weigh, relative: Callable[[tuple[Any, ...], Weigh], Expansion]
) -> Expansion:  # fmt: skip
    """Expansion with independent residuals, from that of ``V / s2`` along its random blocks alone.

    V is homogeneous: a direction is one of the random blocks alone plus a multiple of C itself, along which
    derivatives are known (Euler).

    Parameters
    ----------
    n : number of rows
    relative : expansion for a residual variance of one along directions of the random blocks; the residual block of
        its slopes is not read
    """
    s2 = C.residual[0, 0]
    along = None if D.residual is None else D.residual[:, 0, 0] / s2
    random = D.random
    if along is not None:
        random = tuple(d - along[:, None, None] * G for d, G in zip(D.random, C.random, strict=True))
    found = relative(tuple(d / s2 for d in random), lambda gram: weigh(gram / s2) / s2)
    logdet, gram, gram_slopes = found.logdet + n * jnp.log(s2), found.gram / s2, found.gram_slopes / s2
    slopes, curvature = tuple(S / s2 for S in found.slopes.random), found.curvature
    fixed = jnp.zeros_like(C.residual)
    if along is not None:
        w = weigh(gram)
        weighted = jnp.sum(w * gram)
        first = sum(jnp.einsum("kij,ij->k", d, S) for d, S in zip(random, slopes, strict=True))
        mixed = -(first + jnp.einsum("kij,ij->k", gram_slopes, w))  # of D with C itself
        both = along[:, None] * mixed[None, :]
        curvature = curvature + both + both.T + (2.0 * weighted - n) * along[:, None] * along[None, :]
        gram_slopes = gram_slopes - along[:, None, None] * gram
        in_random = sum(jnp.sum(S * G) for S, G in zip(slopes, C.random, strict=True))
        fixed = fixed.at[0, 0].set((n - weighted - in_random) / s2)
    return Expansion(logdet, gram, Blocks(slopes, fixed), gram_slopes, curvature)


def directions(C: Blocks, D: Blocks) -> Blocks:
    """Directions D with zeros for a residual block that is fixed (None)."""
    if D.residual is not None:
        return D
    count = D.random[0].shape[0] if D.random else 0
    return D._replace(residual=alike(jnp.zeros((count, *C.residual.shape)), C.residual))


def _leaves(blocks: Blocks) -> list[Any]:
    return [*blocks.random, blocks.residual]


def lengthened(solve: Callable[..., Array]) -> Callable[..., Array]:
    """Decorator of `Statistics.solve` for those that keep rows of zeros behind the last, `row_count` in all."""

    @wraps(solve)
    def padded(self: Any, C: Blocks, B: Any) -> Array:
        n, B = len(B), jnp.asarray(B)
        return solve(self, C, jnp.pad(B, ((0, max(self.row_count - n, 0)), (0, 0))))[:n]

    return padded


class Statistics:
    """Base class of statistics: what all offer, where they need not do better."""

    pads_rows: ClassVar[bool] = False  # whether `solve` takes rows of zeros behind the last

    @property
    def work(self) -> int:
        """Numbers that an evaluation works with, to choose how many data sets are evaluated side by side."""
        return sum(int(np.size(leaf)) for leaf in jax.tree_util.tree_leaves(self))

    def gram(self, C: Blocks) -> tuple[Array, Array]:
        """log|V| and U'V^-1 U (r, r)."""
        raise self._lacks("gram", "log|V| and U'V^-1 U")

    def expand(self, C: Blocks, D: Blocks, weigh: Weigh) -> Expansion:
        """The Gram with its derivatives along directions D of the blocks, see the function `expand`."""
        return expand(self.gram, C, D, weigh)

    def solve(self, C: Blocks, B: Array) -> Array:
        """V^-1 B for B (n, b), NaN in columns that fail the check of `solving.refined`."""
        raise self._lacks("solve", "V^-1 times rows")

    def posterior(self, C: Blocks) -> Posterior:
        """Random effects given the data, of engines that predict `by_level`."""
        raise self._lacks("posterior", "random effects by level")

    def with_columns(self, lane: Any) -> Any:
        """The same design with other last columns of U, in the form that `Engine.varying` gives them."""
        raise self._lacks("with_columns", "many responses to one design")

    def of_columns(self, lanes: Any) -> Any:
        """The last columns of U alone, those of many data sets (b, ...), for `level_moments` and `place_squares`."""
        return self

    def place_squares(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
        """Sums of squares (..., *shape) of what X leaves of y at each place of the residual, and numbers of rows.

        `shape` is (q,) for levels, (K, T) for sets of coordinates; None where not known.
        """
        return None

    def level_moments(self) -> np.ndarray | None:
        """Mean products (..., q, q) of what X leaves of y between levels of the residual; None where not known."""
        return None

    def tight(self) -> Any:
        """The same for many data sets, where what is there to share programs would cost more than it saves."""
        return self

    def lean(self) -> Any:
        """The same without what evaluations do not read, whose shapes would tell programs apart."""
        return self

    def _lacks(self, method: str, what: str) -> DataError:
        return DataError(f"engine: {type(self).__name__} has no method {method!r}, by which it would give {what}")
