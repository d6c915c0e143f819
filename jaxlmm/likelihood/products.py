"""The covariance matrix of the rows as pure functions: its products, its determinant, and itself."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from ..errors import DataError
from ..runtime.precision import pure
from ..runtime.programs import compiled
from .engines import DENSE, Blocks, Whole
from .engines.protocol import only_present
from .loglik import gram
from .model import Model, array_of, checked
from .parts import Term
from .prepared import Prepared, counted, prepare, square_roots, weighted


def solve(theta: Any, model: Model, rhs: Any) -> Array:
    """``V^-1 rhs``, by the engine of the model; a pure function, differentiable to any order in all of its arrays.

    Parameters
    ----------
    theta : (k,) as in `jaxlmm.reml`;  model : its y is not read
    rhs : (n,) or (n, b)

    Returns
    -------
    of the shape of `rhs`, zero in rows of no weight; a column of NaN where 64-bit floats do not determine it (iterative
    refinement, checked against V row by row: Higham 2002, chapter 12)

    Raises
    ------
    Float64RequiredError
        When 64-bit floats are off.
    DataError
        For a right-hand side of another number of rows.
    """
    with pure():
        theta, rhs, n = checked("solve", theta, model, "theta, model, rhs"), array_of("rhs", rhs), len(model.y)
        if rhs.ndim not in (1, 2) or rhs.shape[0] != n:
            raise DataError(f"rhs: expected an array of shape ({n},) or ({n}, columns), found shape {rhs.shape}")
        return _solve(theta, model, prepare(model, compact=False), rhs)


def logdet(theta: Any, model: Model) -> Array:
    """``log|V|``, a pure function; arguments as in `solve`."""
    checked("logdet", theta, model)
    return gram(theta, model)[0]


def marginal_covariance(theta: Any, model: Model) -> Array:
    """V (n, n), the covariance matrix of the rows with the random effects integrated out; arguments as in `solve`.

    A pure function, linear in the covariance blocks ``model.blocks(theta)``; rows of no weight have those of the
    identity, so that its determinant, and its inverse between the others, are those of the others. It is as large as it
    says: `solve` and `logdet` do without it.
    """
    with pure():
        return _marginal(checked("marginal_covariance", theta, model), model)


@compiled()
def _solve(theta: Array, model: Model, prepared: Prepared, rhs: Array) -> Array:
    B = rhs[:, None] if rhs.ndim == 1 else rhs
    return solved(prepared, model, model.blocks(theta), B).reshape(rhs.shape)


@compiled()
def _marginal(theta: Array, model: Model) -> Array:
    model, present = counted(model, jnp)
    return only_present(sum_of(covariances(model, model.blocks(theta))), present)


def solved(prepared: Prepared, model: Model, C: Blocks, B: Array) -> Array:
    """V^-1 B for B (n, b), statistics being prepared with ``compact=False``; zeros in rows of no weight."""
    B = B if model.weights is None else jnp.where(model.weights[:, None] != 0.0, B, 0.0)
    return weighted(model, prepared.statistics.solve(C, weighted(model, B, jnp)), jnp)


def covariances(model: Model, C: Blocks) -> list[Array]:
    """V_t (n, n) of each random part, the residual's last; rows of no weight as if they had the weight one."""
    Z = tuple(jnp.asarray(part.Z) if isinstance(part, Term) else None for part in model.random)
    whole = Whole(jnp.zeros((len(model.y), 0)), Z, (*model.random, model.residual), DENSE)
    *random, residual = whole.covariances(C)
    if model.weights is not None:
        root = square_roots(model.weights, jnp, 1.0)
        residual = residual / (root[:, None] * root)
    return [*random, residual]


def sum_of(matrices: list[Array]) -> Array:
    """Their sum."""
    return jnp.sum(jnp.stack(matrices), 0)
