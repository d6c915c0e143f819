"""V^-1 applied to rows: an engine's direct solution, refined and then checked against V itself, row by row.

Where random effects are large beside the residual, entries of V are large, those of V^-1 are not, and a direct solution
is off by the square of the ratio of both. Iterative refinement (Wilkinson 1963; Higham 2002, Accuracy and Stability of
Numerical Algorithms, chapter 12) leaves an error that V itself has to rounding, whatever the solution it starts from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ...runtime.sharding import alike
from .base import Blocks, fitted
from .orthogonal import group_sum

STEPS = 3  # the direct solution, and two of refinement
BACKWARD = 1e-9  # largest residual of a row, relative to the sizes of what it is the difference of
FORWARD = 1e-3  # largest last step, relative to the solution

Apply = Callable[[Array], Array]


def refined(direct: Apply, times: Apply, sizes: Apply, B: Array) -> Array:
    """Solution S of ``V S = B`` (n, b); NaN in columns that fail the check.

    Derivatives of any order are those of the equation, ``V dS = dB - dV S``: `direct` need not have any, nor be exact.

    Parameters
    ----------
    direct : approximate product with V^-1;  times : product with V
    sizes : product with the absolute values of V
    """
    return jax.lax.custom_linear_solve(times, B, lambda _, B: _refined(direct, times, sizes, B), symmetric=True)


def _refined(direct: Apply, times: Apply, sizes: Apply, B: Array) -> Array:
    def step(_: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        S, _ = state
        change = direct(B - times(S))
        return S + change, change

    start = alike(jnp.zeros_like(B), B)
    S, change = jax.lax.fori_loop(0, STEPS, step, (start, start))
    largest = jnp.max(jnp.abs(S), 0, initial=0.0)
    good = jnp.max(jnp.abs(change), 0, initial=0.0) <= FORWARD * largest
    scale = jnp.abs(B) + sizes(jnp.abs(S))
    # rows whose solution is zero (of another group, where factors that join the groups have no variance) hold rounding
    # of rounding, to which nothing of their own can be compared
    rounding = jnp.finfo(S.dtype).eps * jnp.max(scale, 0, initial=0.0)
    close = jnp.abs(B - times(S)) <= BACKWARD * (scale + rounding)
    return jnp.where(good & jnp.all(close, 0), S, jnp.nan)


def through_terms(Z: Any, codes: Any, levels: Any, C: Blocks, absolute: bool = False) -> Apply:
    """Product with V, or with absolute values, of terms with independent levels and independent residuals.

    Parameters
    ----------
    Z, codes, levels : designs (n, q), levels of the rows (n,) and their number, an entry a term
    """
    Z = [jnp.abs(z) if absolute else jnp.asarray(z) for z in Z]
    random = [jnp.abs(G) if absolute else G for G in C.random]

    def times(X: Array) -> Array:
        effects = []
        for z, code, m, G in zip(Z, codes, levels, random, strict=True):
            sums = group_sum(z[:, :, None] * X[:, None, :], code, m, jnp)
            effects.append(jnp.einsum("ij,mjb->mib", G, sums))
        return C.residual[0, 0] * X + fitted(Z, codes, effects)

    return times
