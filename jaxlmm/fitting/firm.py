"""Newton steps by a Cholesky factorisation where the Hessian has one; eigenvalues are for the others alone.

A decomposition into eigenvalues takes ten times as long and more, on a GPU above all, and most Hessians on the way to
an optimum are positive definite. Of many problems that are stepped together, only the others wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

FIRM = 1e-8  # smallest pivot of a Hessian relative to its largest entry, above which eigenvalues say nothing more
THREADED = 24  # rows from which OpenBLAS takes threads
SHARE = 8  # of the problems one in so many is decomposed at a time

Step = tuple[Any, Any, Any, Any]


def firmly(
    otherwise: Callable[[Any, Any, Any], Step], gradient: Any, hessian: Any, radius: Any, xp: Any = jnp
) -> Step:  # fmt: skip
    """Step, predicted decrease, Newton decrement and a number that is not negative where the Hessian is definite.

    Parameters
    ----------
    otherwise : the same of gradient (k,), Hessian (k, k) and trust radius () for any Hessian
    """
    if xp is np:
        firm, found = _on_host(gradient, hessian, radius)
        return found if firm else otherwise(gradient, hessian, radius)

    @jax.custom_batching.custom_vmap
    def step(gradient: Array, hessian: Array, radius: Array) -> Step:
        firm, found = _by_cholesky(gradient, hessian, radius)
        return jax.lax.cond(firm, lambda: found, lambda: otherwise(gradient, hessian, radius))

    @step.def_vmap
    def rule(size: int, batched: Any, *args: Array) -> tuple[Step, Any]:
        args = tuple(x if b else jnp.broadcast_to(x, (size, *x.shape)) for x, b in zip(args, batched, strict=True))
        firm, found = jax.vmap(_by_cholesky)(*args)
        few = max(1, size // SHARE)

        def some(state: tuple[Array, Step]) -> tuple[Array, Step]:
            left, found = state
            index = jax.lax.top_k(1.0 * left, few)[1]
            index = jnp.where(left[index], index, size)
            own = jax.vmap(otherwise)(*(x.at[index].get(mode="clip") for x in args))
            both = jax.tree_util.tree_map(lambda a, b: a.at[index].set(b, mode="drop"), found, own)
            return left.at[index].set(False, mode="drop"), both

        found = jax.lax.while_loop(lambda state: jnp.any(state[0]), some, (~firm, found))[1]
        return found, (True,) * 4

    return step(gradient, hessian, jnp.asarray(radius))


def _by_cholesky(gradient: Array, hessian: Array, radius: Array) -> tuple[Array, Step]:
    """Whether the Hessian is positive definite to some digits, and then the step."""
    L = jax.lax.linalg.cholesky(hessian)
    newton = -jax.scipy.linalg.cho_solve((L, True), gradient)
    return _clipped(L, newton, gradient, hessian, radius, jnp)


def _on_host(gradient: np.ndarray, hessian: np.ndarray, radius: Any) -> tuple[Any, Step]:
    from scipy.linalg import lapack

    L, failed = lapack.dpotrf(hessian, lower=1)
    if failed:
        return False, (gradient, radius, radius, radius)
    return _clipped(L, -lapack.dpotrs(L, gradient, lower=1)[0], gradient, hessian, radius, np)


def in_one_thread(S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and vectors of a symmetric matrix, as `numpy.linalg.eigh`.

    For that, OpenBLAS starts threads from some 30 rows on, which wait for each other far longer than they work where
    cores are shared, with XLA's threads at least. None of the routines here does for the sizes of Hessians.
    """
    from scipy.linalg import eigh_tridiagonal, lapack

    if len(S) < THREADED or not np.all(np.isfinite(S)):
        return np.linalg.eigh(S)
    reflectors, diagonal, beside, factors, _ = lapack.dsytrd(S, lower=1)
    w, Q = eigh_tridiagonal(diagonal, beside)
    for i in range(len(S) - 2, -1, -1):
        v = np.append(1.0, reflectors[i + 2 :, i])
        Q[i + 1 :] -= np.multiply.outer(factors[i] * v, v @ Q[i + 1 :])
    return w, Q


def _clipped(L: Any, newton: Any, gradient: Any, hessian: Any, radius: Any, xp: Any) -> tuple[Any, Step]:
    pivots, largest = xp.diagonal(L) ** 2, xp.max(xp.diagonal(hessian))
    smallest = xp.min(pivots) / largest  # NaN where there is no factor
    decrement = -xp.sum(gradient * newton)
    length = xp.sqrt(xp.sum(newton**2))
    move = newton * xp.minimum(1.0, radius / xp.maximum(length, 1e-300))
    predicted = -xp.sum(gradient * move) - 0.5 * xp.sum(move * (hessian @ move))
    return smallest > FIRM, (move, predicted, decrement, smallest)
