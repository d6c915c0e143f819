"""The log-likelihood, restricted or not, as a pure function of the covariance parameters and the data."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from ..runtime.precision import pure
from ..runtime.programs import compiled
from .criterion import deviance, solve_normal
from .model import (
    Model,
    Structures,
    _blocks,
    checked,
)
from .prepared import (
    Prepared,
    prepare,
)


def gram(theta: Any, model: Model) -> tuple[Array, Array]:
    """log|V| and ``[X y]'V^-1 [X y]`` (p+1, p+1) at theta; y without its offset."""
    with pure():
        theta = checked("gram", theta, model)
        return _gram(model._structures, theta, prepare(model))


def reml(theta: Any, model: Model) -> Array:
    """Restricted log-likelihood, a pure function.

    Parameters
    ----------
    theta : (k,) log-Cholesky coordinates of the absolute covariances: for each term in order the lower triangle of
        the Cholesky factor, column by column, logarithms on its diagonal (for other structures each field's
        unconstrained value); last the residual, log sigma. Minus infinity is a variance of zero.
    model : see `Model`

    Returns
    -------
    () log-likelihood ``-(n-p)/2 log 2pi - 1/2 log|V| - 1/2 log|X'V^-1 X| - 1/2 rss`` (lme4's constant).

    Raises
    ------
    Float64RequiredError
        When 64-bit floats are off.
    TypeError
        When theta and model have changed places.
    """
    with pure():
        theta = checked("reml", theta, model)
        return _loglik(model._structures, theta, prepare(model), 1.0)


def ml(theta: Any, model: Model) -> Array:
    """Log-likelihood maximised over beta: ``-n/2 log 2pi - 1/2 log|V| - 1/2 rss``. Parameters as in `reml`."""
    with pure():
        theta = checked("ml", theta, model)
        return _loglik(model._structures, theta, prepare(model), 0.0)


@compiled("structures")
def _loglik(structures: Structures, theta: Array, prepared: Prepared, reml: Any) -> Array:
    logdet, inner = _inner_gram(structures, theta, prepared)
    normal = solve_normal(inner, prepared.basis.alias)
    normal = normal._replace(logdet=normal.logdet + prepared.basis.logdet_scale())
    return -0.5 * deviance(logdet, normal, prepared.basis.n, prepared.basis.rank, reml)


@compiled("structures")
def _gram(structures: Structures, theta: Array, prepared: Prepared) -> tuple[Array, Array]:
    logdet, inner = _inner_gram(structures, theta, prepared)
    basis, p = prepared.basis, inner.shape[0] - 1
    T = jnp.zeros((p + 1, p + 1)).at[:p, :p].set(basis.R).at[:p, p].set(basis.c).at[p, p].set(1.0)
    return logdet, T.T @ inner @ T


def _inner_gram(structures: Structures, theta: Array, prepared: Prepared) -> tuple[Array, Array]:
    logdet, inner = prepared.statistics.gram(_blocks(structures, prepared.coords, theta))
    return logdet - prepared.basis.log_weights, inner
