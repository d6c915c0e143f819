"""Shares of variance: R squared and intraclass correlations, with standard errors by the delta method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import DataError
from ..estimates.fitted import FitBase
from ..likelihood.parts import Field, Residual, Term
from .delta import Delta, delta
from .uncertain import Parameters


def r2(fit: FitBase, ddof: int = 0) -> Delta:
    """See ``Fit.r2``: variance of the fixed part, and of it with the random parts, over all variance.

    The variance of a random part is its mean over the rows, ``mean_i z_i'G z_i`` (Johnson 2014, Methods in Ecology and
    Evolution 5:944), of the residual the mean of its variances; that of the fixed part is the variance of X beta over
    the rows, with denominator n - `ddof`.
    """
    if not isinstance(ddof, int | np.integer) or ddof not in (0, 1):
        raise DataError(f"ddof: found {ddof!r}, expected 0 or 1")
    X = fit.model.X - np.mean(fit.model.X, 0)
    S = X.T @ X / (len(X) - ddof)

    def shares(p: Parameters) -> tuple[Array, Array]:
        parts, residual = _variances(fit.model, p)
        fixed, random = p.coef @ S @ p.coef, sum(parts, jnp.zeros(()))
        total = fixed + random + residual
        return fixed / total, (fixed + random) / total

    return _named(delta(fit, shares), ("marginal", "conditional"))


def icc(fit: FitBase) -> Delta:
    """See ``Fit.icc``: each random part's mean variance over the sum of all and the residual's."""
    if not fit.model.random:
        raise DataError("icc: the model has no random parts; correlations of residuals are in fit.varcorr()")
    names = tuple(part.group_label if part.columns else part.text for part in fit.frame.parts)
    names = (*names, "all") if len(names) > 1 else names

    def shares(p: Parameters) -> Array:
        parts, residual = _variances(fit.model, p)
        total = sum(parts, jnp.zeros(()))
        return jnp.stack([*parts, total][: len(names)]) / (total + residual)

    return _named(delta(fit, shares), names)


def marginal_variance(fit: FitBase) -> float:
    """Variance of the rows around the fixed part, of all random parts and the residual: its mean over the rows."""
    return float(delta(fit, lambda p: total_variance(fit.model, p)).estimate[0])


def total_variance(model: Any, p: Parameters) -> Array:
    """`marginal_variance` at parameters, a function of JAX."""
    parts, residual = _variances(model, p)
    return sum(parts, jnp.zeros(())) + residual


def mean_residual(model: Any, p: Parameters) -> Array:
    """Mean variance of the residuals at parameters."""
    return _variances(model, p)[1]


def _named(found: Delta, names: tuple[str, ...]) -> Delta:
    return Delta(names, found.estimate, found.vcov, found.note, found.kind)


def _variances(model: Any, p: Parameters) -> tuple[list[Array], Array]:
    """Mean variance over the rows of every random part, and of the residual."""
    *parts, residual = variances(mean_weights(model), (*p.varcorr, p.residual))
    return parts, residual


def variances(weights: Sequence[Any], blocks: Sequence[Array]) -> list[Array]:
    """Mean variances over the rows from `mean_weights` and covariance blocks, the residual's last."""
    pairs = zip(weights, blocks, strict=True)
    return [jnp.sum(W * (G if W.ndim == G.ndim else jnp.diagonal(G, axis1=-2, axis2=-1))) for W, G in pairs]


def mean_weights(model: Any) -> tuple[np.ndarray, ...]:
    """Weights of the entries of every block, or of its diagonal, in the mean variance of a row; the residual's last."""
    every = np.ones(len(model.y))
    parts = (_of_term(part) if isinstance(part, Term) else _of_places(part, every) for part in model.random)
    return (*parts, _of_places(model.residual, every if model.weights is None else 1.0 / np.asarray(model.weights)))


def _of_term(part: Term) -> np.ndarray:
    own = 1.0 if part.relationship is None else np.diagonal(part.relationship)[part.group].reshape(-1, 1)
    return (part.Z * own).T @ part.Z / len(part.Z)


def _of_places(part: Field | Residual, by_row: np.ndarray) -> np.ndarray:
    if part.group is None:
        return np.mean(by_row, keepdims=True)
    if part.sets is None:
        return np.bincount(part.position, by_row, int(part.dim)) / len(by_row)
    sets, places = part.coords.shape[:2]
    return np.bincount(part.sets[part.group] * places + part.position, by_row, sets * places).reshape(sets, places) / (
        len(by_row)
    )
