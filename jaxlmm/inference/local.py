"""The criterion in the neighbourhood of an estimate: three information matrices and the derivatives of X'V^-1 X.

V is linear in its covariance blocks, so everything follows from the first two derivatives of log|V| and of the Gram
in block directions, for every structure and engine. With D_i = dC/dx_i and a dot for derivatives along them, in a
chart x of the covariance parameters (Harville 1977; Gilmour, Thompson & Cullis 1995)::

    tr(V^-1 V_i V^-1 V_j)   = - logdet..        Q_ij + Q_ji = (X'V^-1 X)..
    expected information    = 1/2 tr(P V_i P V_j)  = - 1/2 (logdet.. + tr Phi (X'V^-1 X).. - tr Phi P_i Phi P_j)
    average information     = 1/2 y'P V_i P V_j P y

and the observed information adds the second derivatives of the blocks. No n x n matrix is formed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..covariance.kinds import module_of
from ..estimates.fitted import FitBase
from ..fitting.newton import DECREMENT
from ..fitting.objective import Spec, along_coordinates, pulled_back, scale_of
from ..likelihood.criterion import Normal, gram_curvature, gram_slopes, solve_normal
from ..likelihood.engines import Blocks, expansion_of
from ..likelihood.model import Model
from ..likelihood.prepared import Prepared, lean, prepare
from ..linalg import eigh
from ..tolerances import FLAT, INDEPENDENT, NO_CURVATURE_AT_ALL, SMALL, SUSPICIOUS, correlation_of

INFORMATION = ("observed", "expected", "average")


class Local(NamedTuple):
    """Quantities at covariance parameters x (k,), all covariances absolute.

    Attributes
    ----------
    Phi (p, p), P (k, p, p) : ``(X'V^-1 X)^-1`` and derivatives of X'V^-1 X in x, in the orthonormal basis of X
    observed, expected, average : (k, k) information matrices of x
    scale : (k,) size of the diagonal of `expected` before what estimating beta takes from it
    """

    Phi: Any
    P: Any
    observed: Any
    expected: Any
    average: Any
    scale: Any


class Expanded(NamedTuple):
    """The engine's part of `Local`, from which further sums are made."""

    C: Blocks
    normal: Normal
    P: Array  # (k, p+1, p+1)
    slopes: Blocks  # derivative of the criterion in the blocks
    total: Array  # (k, k) second derivatives, along D, of the criterion as far as linear in the Gram
    of_trace: Array  # (k, k) the same without the residual sum of squares
    bend: Callable[[Array], Array]  # W (k, k) -> sum_ij W_ij times the second derivatives (p+1, p+1) of the Gram


def blocks_at(spec: Spec, prepared: Prepared, chart: Any, x: Array) -> Blocks:
    """Covariance blocks at coordinates of a chart, which may be traced, see `jaxlmm.fitting.objective.in_chart`."""
    return spec.blocks(x, prepared.coords, chart)


def expanded(spec: Spec, prepared: Prepared, chart: Any, x: Array) -> Expanded:
    """One expansion of the engine for both weights of the Gram that information matrices are made of.

    It is linear in these weights, so that its transpose has the second derivatives of the Gram themselves.
    """
    basis, blocks, statistics = prepared.basis, partial(blocks_at, spec, prepared, chart), prepared.statistics
    C = blocks(x)
    D = along_coordinates(blocks, x)
    normal = solve_normal(statistics.gram(C)[1], basis.alias)
    total = gram_slopes(normal, basis.n, basis.rank, spec.reml, False)
    of_rss = gram_slopes(normal, basis.n, basis.rank, 0.0, False)

    def curvature(weights: Array) -> tuple[Array, Any]:
        found = jax.vmap(lambda w: expansion_of(statistics, C, D, lambda gram: w))(weights)
        return found.curvature, found

    (both, pull, found) = jax.vjp(curvature, jnp.stack([total, total - of_rss]), has_aux=True)
    slopes = jax.tree_util.tree_map(lambda a: a[0], found.slopes)

    def bend(W: Array) -> Array:
        return pull(jnp.stack([W, jnp.zeros_like(W)]))[0][0]

    return Expanded(C, normal, found.gram_slopes[0], slopes, both[0], both[1], bend)


def local_of(spec: Spec, prepared: Prepared, chart: Any, x: Array, at: Expanded) -> Local:
    """`Local` from what the engine gives."""
    basis, normal = prepared.basis, at.normal
    p, v = normal.beta.shape[0], jnp.append(-normal.beta, 1.0)
    PhiP = normal.Phi @ at.P[:, :p, :p]
    taken = spec.reml * jnp.einsum("iab,jba->ij", PhiP, PhiP)
    expected = 0.5 * (taken - at.of_trace)
    scale = 0.5 * jnp.abs(jnp.diagonal(taken)) + 0.5 * jnp.abs(jnp.diagonal(at.of_trace))
    Pv = (at.P @ v)[:, :p]
    average = 0.25 * (at.total - at.of_trace - 2.0 * Pv @ normal.Phi @ Pv.T)

    _, bent = pulled_back(partial(blocks_at, spec, prepared, chart), x, at.slopes)
    of_criterion = gram_curvature(normal, at.P, basis.n, basis.rank, spec.reml, False)
    observed = 0.5 * (at.total + of_criterion + bent)
    return Local(normal.Phi, at.P[:, :p, :p], observed, expected, average, scale)


def local(spec: Spec, prepared: Prepared, chart: str, x: Array) -> Local:
    """`Local` at coordinates x (k,) of a chart; a pure function."""
    return local_of(spec, prepared, chart, x, expanded(spec, prepared, chart, x))


class Inverse(NamedTuple):
    """Covariance (k, k) of covariance parameters, and whether there is one.

    Attributes
    ----------
    W : zero along the directions `lost`
    definite : whether there is no direction of negative information
    lost : (k, 2k) directions about which the data say nothing, a column each, zero for the others
    unit : (k,) sizes of the parameters that information is compared in
    """

    W: Any
    definite: Any
    lost: Any
    unit: Any

    def known(self, slopes: Any) -> Any:
        """Whether quantities with relative slopes (k, ...) in the parameters do not move along `lost` (...)."""
        xp = module_of(self.W)
        change = xp.abs(xp.tensordot(self.lost.T, slopes, 1))
        return xp.max(change, 0, initial=0.0) < INDEPENDENT

    def identifies(self, J: Any) -> Any:
        """Whether values with slopes J (..., k) stay where they are along `lost` (...)."""
        xp = module_of(self.W)
        spread = xp.linalg.norm(J * self.unit, axis=-1)[None]
        moved = xp.abs(xp.tensordot(self.lost.T, xp.moveaxis(J, -1, 0), 1))
        return ~xp.any(moved > INDEPENDENT * spread, 0)

    def identified(self, Phi: Any, P: Any) -> Any:
        """Whether X'V^-1 X does not move along `lost`."""
        return module_of(self.W).all(self.known(P @ Phi))


def may_be_flat(fit: FitBase) -> bool:
    """Whether the observed information may have directions without any, so that algebra has to decide."""
    information = fit.estimate.information
    if not fit.converged or fit.monte_carlo is not None or not np.all(np.isfinite(information)):
        return False
    d = np.abs(np.diagonal(information))
    low = len(d) > 0 and d.min() < NO_CURVATURE_AT_ALL**2 * d.max()
    if low or np.linalg.eigvalsh(correlation_of(information)).min(initial=1.0) < SUSPICIOUS:
        return True
    return fit.estimate.decrement >= DECREMENT or _is_near_boundary(fit)


def _is_near_boundary(fit: FitBase) -> bool:
    """Whether a variance is small, of which what the gradient lacks to zero looks like information."""
    spec, prepared = prepared_for(fit.model, fit.method)
    s = spec.coordinates(np.asarray(fit.theta), prepared.basis.K) / scale_of(spec, prepared.basis)
    return any(structure.at_boundary(v, dim, SMALL) for structure, dim, v in spec.split(s) if len(v))


def inverse(information: Any, local: Local | None = None) -> Inverse:
    """Invert an information matrix (k, k), leaving out directions without information.

    With `local`, what the data do not identify is decided by algebra: along a null vector v of the expected
    information, whose entries are ``tr(P V_i P V_j) / 2``, ``P V_v P`` is zero, and the distribution of what the
    criterion depends on does not change. Rounding is told by `Local.scale`. What remains are directions without
    curvature, such as the solver's coordinates of a variance of zero under expected information. NumPy or JAX.
    """
    xp = module_of(information)
    factor = eigh if xp is jnp else np.linalg.eigh
    size = xp.abs(xp.diagonal(information))
    one = xp.eye(len(size))
    gone = 0.0 * one
    if local is not None:
        judged = local.scale > 0
        size = xp.where(judged, local.scale, size)
        d = xp.sqrt(xp.where(size > 0, size, 1.0))
        within = xp.where(judged[:, None] & judged[None, :], local.expected / (d[:, None] * d[None, :]), one)
        w, Q = factor(within)
        gone = Q * (w < FLAT)
    d = xp.sqrt(xp.where(size > 0, size, 1.0))
    keep = one - gone @ gone.T
    w, Q = factor(keep @ (information / (d[:, None] * d[None, :])) @ keep + gone @ gone.T)
    flat = xp.abs(w) < FLAT
    W = (Q * xp.where(flat, 0.0, 1.0 / xp.where(flat, 1.0, w))) @ Q.T - gone @ gone.T
    lost = xp.concatenate([gone, Q * flat], 1) / d[:, None]
    return Inverse(W / (d[:, None] * d[None, :]), xp.all(w > -FLAT), lost, 1.0 / d)


def prepared_for(model: Model, method: str) -> tuple[Spec, Prepared]:
    """Specification with absolute covariances and statistics of a concrete model."""
    return Spec.of(model, method).absolute, lean(prepare(model, orthogonal=True))
