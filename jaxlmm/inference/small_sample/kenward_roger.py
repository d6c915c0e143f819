"""The adjustment of Kenward & Roger (1997, Biometrics 53:983) in its first-order and full forms, for every structure.

With ``P_i`` the derivatives of X'V^-1 X, ``Q_ij = X'V^-1 V_i V^-1 V_j V^-1 X`` and ``R_ij = X'V^-1 V_ij V^-1 X``::

    Phi_A = Phi + 2 Phi (sum_ij W_ij (Q_ij - P_i Phi P_j - R_ij / 4)) Phi

All but R_ij are invariant under reparametrisation. The first-order form leaves it out (SAS ``DDFM=KR(LINEAR)``, and
what follows where V is linear in its parameters: pbkrtest, SAS with TYPE=UN); the full form takes it in the parameters
of SAS.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...covariance.kinds import module_of
from ...fitting.objective import Spec, in_chart
from ...likelihood.prepared import Prepared
from ...linalg import inv_logdet
from ...tolerances import POSITIVE
from ..local import Expanded, blocks_at

ZERO = 1e-10  # terms of the scale of F, of order one, that are rounding


def adjustment(at: Expanded, W: Array) -> Array:
    """``sum_ij W_ij (Q_ij - P_i Phi P_j)`` (p, p) in the basis of the statistics: all of the first-order form."""
    p = at.normal.beta.shape[0]
    P = at.P[:, :p, :p]
    Q = 0.5 * at.bend(W)[:p, :p]
    return 0.5 * (Q + Q.T) - jnp.sum(P @ at.normal.Phi @ jnp.tensordot(W, P, 1), 0)


def curvature(spec: Spec, prepared: Prepared, chart: Any, x: Array, P: Array, W: Array) -> Array:
    """``-sum_ij W_ij R_ij / 4`` (p, p), what the full form adds, in the parameters of SAS whatever the chart."""
    if not len(x):
        return jnp.zeros(P.shape[1:])
    blocks, p = partial(blocks_at, spec, prepared, chart), P.shape[1]
    bent, steps = second_order(spec, chart, x, W, blocks)
    direction = jax.tree_util.tree_map(lambda a: a[None], bent)
    R = -prepared.statistics.expand(blocks(x), direction, jnp.zeros_like).gram_slopes[0, :p, :p]
    return -0.25 * (R + jnp.tensordot(steps, P, 1))


def second_order(spec: Spec, chart: Any, x: Array, W: Array, blocks: Any) -> tuple[Any, Array]:
    """``sum_ij W_ij V_ij`` in the parameters of SAS: of the blocks in the chart, less `steps` (k,) times their slopes.

    A step is the change of a coordinate with which the second derivatives of SAS's parameters in the chart go along.
    """

    def in_sas(x: Array) -> Array:
        return in_chart(chart, lambda chart, x: spec.map("to_sas", x, chart), x)

    J = jax.jacfwd(in_sas)(x)
    moving = jnp.any(J != 0, 0)  # in the solver's chart a variance of zero does not, and is no parameter
    W = W * moving[:, None] * moving[None, :]
    size = jnp.sqrt(jnp.sum(J**2, -1))
    size = jnp.where(size > 0, size, 1.0)
    steps = (_contracted(in_sas, x, W) / size) @ jnp.linalg.pinv((J / size[:, None]).T, rtol=POSITIVE)
    return _contracted(blocks, x, W), steps


def _contracted(f: Any, x: Array, W: Array) -> Any:
    """``sum_ij W_ij d2 f / dx_i dx_j`` of a function with values in any pytree."""

    def second(direction: Array, row: Array) -> Any:
        return jax.jvp(lambda x: jax.jvp(f, (x,), (direction,))[1], (x,), (row,))[1]

    every = jax.vmap(second)(jnp.eye(len(x)), W)
    return jax.tree_util.tree_map(lambda a: jnp.sum(a, 0), every)


def adjusted(Phi: Any, total: Any) -> Any:
    """The adjusted covariance of the coefficients."""
    return Phi + 2.0 * Phi @ total @ Phi


def joint(L: Any, Phi: Any, P: Any, W: Any) -> tuple[Any, Any]:
    """Scale of the F statistic and its denominator degrees of freedom for L (r, p) of full row rank.

    Kenward & Roger (1997), section 3, with the guards of pbkrtest (Halekoh & Hojsgaard 2014) where terms vanish.
    """
    xp, r = module_of(Phi), len(L)
    A = L @ Phi
    middle = A @ L.T
    inverse = np.linalg.inv(middle) if xp is np else inv_logdet(middle)[0]
    S = inverse @ (A @ P @ A.T)
    traces = xp.trace(S, axis1=1, axis2=2)
    A1 = traces @ W @ traces
    A2 = xp.sum(xp.tensordot(W, S, 1) * xp.swapaxes(S, 1, 2))
    safe = xp.where(A2 > 0, A2, 1.0)
    B = (A1 + 6.0 * A2) / (2 * r)
    g = ((r + 1) * A1 - (r + 4) * A2) / ((r + 2) * safe)
    low = 3 * r + 2 * (1 - g)
    c1, c2, c3 = g / low, (r - g) / low, (r + 2 - g) / low
    v0, v1, v2 = 1 + c1 * B, 1 - c2 * B, 1 - c3 * B
    v0 = xp.where(xp.abs(v0) < ZERO, 0.0, v0)
    E = 1.0 - A2 / r
    both = (xp.abs(E) < 1e-14) & (xp.abs(v1) < 1e-14)
    ratio = xp.where(both, 1.0, E / xp.where(v1 == 0, 1.0, v1))
    rho = ratio**2 * v0 / v2 / r
    m = 4.0 + (r + 2) / (r * rho - 1.0)
    near = xp.abs(m - 2.0) < 0.01
    scale = xp.where(near, 1.0, m * E / xp.where(near, 1.0, m - 2.0))
    return xp.where(A2 > 0, scale, 1.0), xp.where(A2 > 0, m, xp.inf)
