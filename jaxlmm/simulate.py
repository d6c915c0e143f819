"""Drawing responses from a fitted model."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .design import Residual, Term
from .errors import DataError
from .fitting import Estimate
from .model import Model
from .parameters import semidefinite_factor
from .predict import linear_predictor


def simulate(model: Model, estimate: Estimate, n: int, seed: int) -> np.ndarray:
    """Draw n responses (n, rows): new random effects and new residuals.

    Replicate r depends only on the seed and r (its key is ``fold_in(key(seed), r)``), not on n.
    """
    for name, value in (("n", n), ("seed", seed)):
        if not isinstance(value, (int, np.integer)) or value < 0:
            raise DataError(f"{name}: expected a non-negative integer, found {value!r}")
    mean = linear_predictor(model.X, estimate.coef, model.offset)
    factors = tuple(semidefinite_factor(G) for G in (*estimate.covariances, estimate.residual))
    with jax.enable_x64(True):
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(np.arange(n, dtype=np.uint32))
        return np.array(_draw(keys, mean, model.random, model.residual, model.weights, factors))


@jax.jit
def _draw(
    keys: Array,
    mean: Array,
    random: tuple[Term, ...],
    residual: Residual,
    weights: Any,
    factors: tuple[Array, ...],
) -> Array:
    def one(key: Array) -> Array:
        y = mean
        for t, term in enumerate(random):
            normal = jax.random.normal(jax.random.fold_in(key, t + 1), (term.levels, term.dim), jnp.float64)
            effects = normal @ factors[t].T
            y = y + jnp.sum(term.Z * effects[term.group], -1)
        groups = mean.shape[0]  # at most one subject a row
        normal = jax.random.normal(jax.random.fold_in(key, 0), (groups, residual.dim), jnp.float64)
        error = normal @ factors[-1].T
        error = error[:, 0] if residual.group is None else error[residual.group, residual.position]
        return y + (error if weights is None else error / jnp.sqrt(weights))

    return jax.vmap(one)(keys)
