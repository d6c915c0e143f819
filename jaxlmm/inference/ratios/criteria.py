"""Information criteria: small-sample AIC, and the conditional AIC for predictions that include the random effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...estimates.fitted import FitBase
from ...fitting.objective import Spec, coordinates
from ...frames.columns import make_frame
from ...frames.tables import Shown, Table
from ...likelihood.criterion import solve_normal
from ...likelihood.engines import Blocks
from ...likelihood.parts import Residual
from ...likelihood.prepared import Prepared, prepare, weighted
from ...runtime.precision import float64
from ...runtime.programs import compiled
from ...tolerances import INDEPENDENT
from ..local import blocks_at, inverse, local, may_be_flat
from ..uncertain import uncertain

NUMBERS = ("value", "loglik", "edf", "of_theta", "residual")


@dataclass(frozen=True, repr=False)
class ConditionalAIC(Shown):
    """Conditional AIC, ``-2 loglik + 2 (edf + residual)``.

    Attributes
    ----------
    value : the criterion
    loglik : conditional log-likelihood ``log p(y | predicted random effects)``
    edf : effective degrees of freedom of the fitted values, ``tr(d fitted / d y)``
    of_theta : the part of edf that comes from estimating the covariance parameters
    residual : number of parameters of the residuals
    kind : library of data frames
    """

    value: float
    loglik: float
    edf: float
    of_theta: float
    residual: int
    kind: str
    note: str = ""

    def frame(self) -> Any:
        """One row: value, loglik, edf, of_theta, residual."""
        return make_frame(self.kind, {name: [getattr(self, name)] for name in NUMBERS})

    def table(self) -> Table:
        """The criterion and what it is made of."""
        numbers = (self.value, self.loglik, self.edf, self.of_theta)
        row = (*(f"{x:.4f}" for x in numbers), str(self.residual))
        header = ("cAIC", "cond. logLik", "edf", "of theta", "residual")
        return Table("Conditional AIC:", header, (row,), labels=0, note=self.note)


def aicc(loglik: float, npar: int, nobs: int) -> float:
    """AIC with the correction of Hurvich & Tsai (1989) for nobs rows; infinite with too few."""
    left = nobs - npar - 1
    return -2.0 * loglik + 2.0 * npar * nobs / left if left > 0 else np.inf


def conditional_aic(fit: FitBase) -> ConditionalAIC:
    """Conditional AIC of a fit (Vaida & Blanchard 2005), corrected for estimated covariance parameters.

    The degrees of freedom are those of the fitted values as a function of y, covariance parameters included (Liang, Wu
    & Zou 2008; Greven & Kneib 2010), by implicit differentiation of the optimum. With ``e = R P y`` the residuals, H
    the second derivatives of -2 log-likelihood and a dot for derivatives in the parameters::

        edf = n - tr(R P) + 2 sum_ij (H^-1)_ij e._i'(P y)._j

    A variance of zero stays zero.
    """
    model = fit.model
    with float64():
        spec, prepared = Spec.of(model, fit.method).absolute, prepare(model, compact=False, orthogonal=True)
        x = jnp.asarray(coordinates(spec, prepared, fit.theta, "solver"))
        y = model.y if model.offset is None else model.y - model.offset
        rows = weighted(model, np.column_stack([model.X, y]))
        found = jax.device_get(_pieces(spec, prepared, model.residual, x, rows))
    W = inverse(found.information).W
    edf = fit.nobs - found.trace
    of_theta = float(np.sum((found.de @ W) * found.dPy))
    loglik = -0.5 * float(fit.nobs * np.log(2.0 * np.pi) + found.logdet + found.rss)
    residual = model.residual.structure.size(model.residual.dim)
    total = float(edf) + of_theta
    value, note = -2.0 * loglik + 2.0 * (total + residual), ""
    if may_be_flat(fit):  # the residuals of the predictions may depend on what the data do not identify
        lost = uncertain(fit).lost
        if np.any(np.linalg.norm(found.de @ lost, axis=0) > INDEPENDENT * np.sqrt(np.sum(found.e**2))):
            value = loglik = total = of_theta = np.nan
            note = "empty: the predicted random effects depend on covariance parameters that the data do not identify"
    return ConditionalAIC(value, loglik, total, of_theta, residual, fit.frame.kind, note)


class _Pieces(NamedTuple):
    trace: Any  # tr(R P)
    logdet: Any  # log|R|
    rss: Any  # e'R^-1 e
    e: Any  # (n,)
    de: Any  # (n, k) derivatives of e = R P y
    dPy: Any  # (n, k) of P y
    information: Any  # (k, k) observed


@compiled()
def _pieces(spec: Spec, prepared: Prepared, residual: Residual, x: Array, rows: Array) -> _Pieces:
    statistics, basis = prepared.statistics, prepared.basis

    def traces(C: Blocks) -> Array:
        logdet, gram = statistics.gram(C)
        return logdet + solve_normal(gram, basis.alias).logdet

    def vectors(x: Array) -> tuple[Array, Array]:
        C = blocks_at(spec, prepared, "solver", x)
        V = statistics.solve(C, rows)
        X, p = rows[:, :-1], rows.shape[1] - 1
        beta = jnp.linalg.solve(X.T @ V[:, :p], X.T @ V[:, p])
        Py = V[:, p] - V[:, :p] @ beta
        return _times(residual, C.residual, Py), Py

    C = blocks_at(spec, prepared, "solver", x)
    zeros = tuple(jnp.zeros_like(G) for G in C.random)
    e, Py = vectors(x)
    de, dPy = jax.jacfwd(vectors)(x)
    at = local(spec, prepared, "solver", x)
    return _Pieces(
        trace=jax.jvp(traces, (C,), (Blocks(zeros, C.residual),))[1],
        logdet=statistics.gram(Blocks(zeros, C.residual))[0] - basis.log_weights,
        rss=e @ Py,
        e=e,
        de=de,
        dPy=dPy,
        information=at.observed,
    )


def _times(residual: Residual, block: Array, u: Array) -> Array:
    """R u for rows u (n,) times the square roots of weights."""
    if residual.group is None:
        return block[0, 0] * u
    places = u.shape[0], block.shape[-1]  # at most one group a row
    spread = jnp.zeros(places).at[residual.group, residual.position].set(u)
    if residual.sets is None:
        return (spread @ block)[residual.group, residual.position]
    of_group = jnp.zeros(places[0], jnp.int32).at[residual.group].set(residual.sets[residual.group])
    return jnp.einsum("gi,gij->gj", spread, block[of_group])[residual.group, residual.position]
