"""Intraclass correlations and heritabilities in every data set of a batch, with standard errors by the delta method."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...batch.fits import Fitted
from ...batch.responses import Lane, Shared, assemble
from ...errors import DataError
from ...fitting.objective import Spec
from ...likelihood.model import Model
from ...likelihood.parts import Term
from ...linalg import quadratic
from ...runtime.programs import compiled
from ..local import inverse, local
from ..shares import mean_weights, variances
from ..uncertain import values_at


class Shares(NamedTuple):
    """Shares of random parts in the variance around the fixed part, and of all of them where there are several.

    Attributes
    ----------
    estimate, se : (b, m) se is NaN at variances of zero
    definite (b,), known (b, m) : whether there is an information matrix, and whether the data determine each
    """

    estimate: Any
    se: Any
    definite: Any
    known: Any


def share_count(parts: int) -> int:
    """Number of shares of a model with so many random parts."""
    return parts + (parts > 1)


def shares_of(fitted: Fitted, index: np.ndarray) -> Shares:
    """Shares in some of the data sets that were fitted."""
    model = fitted.model
    if model is None or not (fitted.complete or _has_the_same_in_every_row(model)):
        raise DataError(
            "tests: icc=True needs one design, and complete responses where variances differ between rows (random "
            "slopes, relationships, fields, weights); use Fit.icc for these"
        )
    slots, place, lanes = fitted.queued(index)
    found = _shares(fitted.spec.absolute, slots, mean_weights(model), fitted.shared, lanes, fitted.x[place])
    return Shares(*(np.asarray(a)[: len(index)] for a in found))


def _has_the_same_in_every_row(model: Model) -> bool:
    """Whether shares do not depend on which rows a data set has."""
    terms = all(isinstance(t, Term) and t.relationship is None and np.all(t.Z == 1.0) for t in model.random)
    return terms and model.residual.group is None and model.weights is None


@compiled("slots")
def _shares(spec: Spec, slots: int, weights: Any, shared: Shared, lanes: Lane, x: Array) -> Shares:
    def one(inputs: tuple[Lane, Array]) -> Shares:
        prepared, _ = assemble(shared, inputs[0])

        def shares(x: Array) -> tuple[Array, Array]:
            *parts, residual = variances(weights, values_at(spec, prepared.basis.K, prepared.coords, x)[1])
            total = sum(parts, jnp.zeros(()))
            found = jnp.stack([*parts, total][: share_count(len(parts))]) / (total + residual)
            return found, found

        J, estimate = jax.jacfwd(shares, has_aux=True)(inputs[1])
        here = local(spec, prepared, "solver", inputs[1])
        inv = inverse(here.observed, here)
        variance = jnp.where(jnp.any(J != 0, 1), quadratic(J, inv.W), jnp.nan)
        return Shares(estimate, jnp.sqrt(jnp.maximum(variance, 0.0)), inv.definite, inv.identifies(J))

    return jax.lax.map(one, (lanes, x), batch_size=slots)
