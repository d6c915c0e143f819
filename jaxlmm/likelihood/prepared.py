"""Sufficient statistics of a model, prepared once, and the basis that they are in.

X is replaced by an orthonormal basis and y by its residuals, columns of Z by nearly orthogonal ones: then nothing
cancels when covariates or y are far from zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import DataError
from ..pytrees import once, replace
from ..runtime.programs import compiled
from ..tolerances import ALIASED, origin, shifted
from .engines import Rows, Statistics
from .engines.orthogonal import orthogonalise
from .model import Model, known_sd
from .parts import Term

COLLINEAR = 0.1  # part of a column of Z that the others do not explain, below which the columns are orthogonalised


class Basis(NamedTuple):
    """How the internal columns relate to [X y]: ``X = Q R``, ``y - offset = Q c + residual``, rows times sqrt(w).

    Working with Q and residuals, nothing cancels when y or X carry a large offset.
    """

    R: Any  # (p, p) upper triangular
    c: Any  # (p,)
    log_weights: Any  # sum of log w
    n: Any  # number of rows, a float
    alias: Any  # (p,) one for columns of X that the columns before them span, whose column of Q is zero; else zero
    residual_sd: Any  # of least squares, the scale of y; at least that of residuals whose covariance is known
    K: tuple[
        Any, ...
    ]  # (q, q) lower triangular for each term, Z K being the columns worked with; (1, 1) for a field over coordinates
    units: tuple[Any, ...]  # (q,) one over the root mean square of the columns of Z K; ones for a field

    @property
    def rank(self) -> Any:
        """Rank of X."""
        return self.alias.shape[-1] - self.alias.sum(-1)

    def logdet_scale(self) -> Any:
        """log|X'V^-1 X| minus that of the internal columns."""
        return 2.0 * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(jnp.asarray(self.R)))))


class Prepared(NamedTuple):
    """Everything the likelihood needs of a model, computed once."""

    statistics: Any  # `engines.Statistics`
    basis: Basis
    coords: tuple[Any, ...]  # as `Model.coords`


def lean(prepared: Prepared) -> Prepared:
    """The same for compiled evaluations, without what only tells their shapes apart."""
    return prepared._replace(statistics=prepared.statistics.lean())


def prepare(
    model: Model, compact: bool = True, varying: int = 1, orthogonal: bool = False, nobs: int | None = None
) -> Prepared:  # fmt: skip
    """Statistics of a model for its engine; in NumPy when the model is concrete, in one traced function otherwise.

    Those of NumPy arrays that nobody writes to are kept with the model: one of each kind is made.

    Parameters
    ----------
    compact, varying : see ``Engine.prepare``
    orthogonal : work with orthogonal columns of Z where the covariance matrix is free, see `conditioned`
    nobs : number of rows that those of the model stand for, where it is another
    """
    if any(isinstance(leaf, Array) for leaf in jax.tree_util.tree_leaves(model)):
        return _prepare_traced(model, compact, orthogonal)
    kind = (compact, orthogonal, np, varying, nobs)
    data = (model.y, model.X, model.weights, model.offset, *(term.Z for term in model.terms))
    if any(isinstance(a, np.ndarray) and a.flags.writeable for a in data):
        return _prepare(model, *kind)
    return once(model, ("prepared", *kind), lambda: _prepare(model, *kind))


@compiled("compact", "orthogonal")
def _prepare_traced(model: Model, compact: bool, orthogonal: bool) -> Prepared:
    return _prepare(model, compact, orthogonal, jnp)


def weighted(model: Model, a: Any, xp: Any = np) -> Any:
    """Rows (n, ...) multiplied by the square roots of the weights."""
    if model.weights is None:
        return a
    root = square_roots(model.weights, xp)
    return a * (root[:, None] if a.ndim == 2 else root)


def square_roots(weights: Any, xp: Any = np, none: float = 0.0) -> Any:
    """Square roots of weights, whose derivative is zero where they are; `none` stands for the root of zero."""
    there = weights != 0.0
    return xp.where(there, xp.sqrt(xp.where(there, weights, 1.0)), none)


def counted(model: Model, xp: Any = np) -> tuple[Model, Any]:
    """The model with the first row that counts in place of those of no weight, and which rows count (n,).

    What stood there, which may be no numbers, then enters nothing, nor do derivatives. The second is None where all do.
    """
    if model.weights is None or (xp is np and np.all(model.weights)):
        return model, None
    present = model.weights != 0.0
    first = np.argmax(present) if xp is np else jax.lax.argmax(present, 0, np.int32)  # in programs of float32 too

    def filled(a: Any) -> Any:
        return None if a is None else xp.where(present.reshape((-1,) + (1,) * (a.ndim - 1)), a, a[first])

    random = tuple(replace(part, Z=filled(part.Z)) if isinstance(part, Term) else part for part in model.random)
    return replace(model, y=filled(model.y), X=filled(model.X), offset=filled(model.offset), random=random), present


def _prepare(
    model: Model, compact: bool, orthogonal: bool, xp: Any, varying: int = 1, nobs: int | None = None
) -> Prepared:  # fmt: skip
    n = len(model.y)
    model, present = counted(model, xp)
    y = weighted(model, model.y if model.offset is None else model.y - model.offset, xp)
    Q, R, alias = orthonormal(model.X, model.weights, xp)
    c = Q.T @ y
    left = y - Q @ c
    again = Q.T @ left
    residual = left - Q @ again
    log_weights = xp.zeros(()) if model.weights is None else 2.0 * xp.sum(xp.log(square_roots(model.weights, xp, 1.0)))
    Z: list[Any] = []
    K: list[Any] = []
    units: list[Any] = []
    count = nobs if present is None else xp.maximum((1.0 * present).sum(), 1.0)
    for part in model.random:
        if isinstance(part, Term):
            z = weighted(model, part.Z, xp)
            k, unit = conditioned(z, orthogonal and part.structure.is_matrix, xp, count)
            z = turned(z, k) if orthogonal and not (xp is np and np.array_equal(k, np.eye(len(k)))) else z
        else:
            z = None if model.weights is None else weighted(model, xp.ones((n, 1)), xp)
            size = part.dim if part.coords is None else 1
            k, unit = xp.eye(size), xp.ones(size)
        for found, value in zip((Z, K, units), (z, k, unit), strict=True):
            found.append(value)
    rows = Rows(xp.concatenate([Q, residual[:, None]], 1), tuple(Z), present)
    basis = Basis(R, c + again, log_weights, rows.count, alias, xp.zeros(()), tuple(K), tuple(units))
    if present is not None:  # too few rows say nothing: their lane has a status
        basis = basis._replace(n=xp.where(rows.count < basis.rank + bool(model.size), np.nan, rows.count))
    sd = xp.sqrt(xp.sum(residual**2) / xp.maximum(n - basis.rank, 1))
    basis = basis._replace(residual_sd=xp.maximum(sd, known_sd(model, xp)))
    statistics = model.evaluator.prepare(rows, model, compact, varying)
    if not isinstance(statistics, Statistics):
        raise DataError(f"engine: {model.engine!r} prepares {type(statistics).__name__}, expected engines.Statistics")
    return Prepared(statistics, basis, model.coords)


def turned(Z: Any, K: Any) -> Any:
    """Z K (n, q), for one K (q, q) or one of each row (n, q, q).

    Column by column: equal rows of Z give equal rows to the last digit, which BLAS does not say.
    """
    q = Z.shape[-1]
    return sum((Z[..., i, None] * K[..., i, :] for i in range(1, q)), Z[..., 0, None] * K[..., 0, :])


def orthonormal(X: Any, weights: Any = None, xp: Any = np) -> tuple[Any, Any, Any]:
    """Q (n, p), R (p, p) and alias (p,) with ``W^1/2 X = Q R``; an aliased column has a zero in Q and a one in R.

    The origins of the columns are moved first, see `origin`: then Q has all digits of a column far from zero too.
    """
    p = X.shape[1]
    alias = np.zeros(p)
    if not p:
        return X, xp.zeros((0, 0)), alias
    moved = origin(X, xp) if xp is np else jax.lax.stop_gradient(origin(X, xp))
    X = shifted(X, moved)
    X = X if weights is None else X * square_roots(weights, xp)[:, None]
    Q, R = xp.linalg.qr(X)
    signs = xp.where(xp.diagonal(R) < 0, -1.0, 1.0)  # as Gram-Schmidt has them
    Q, R = Q * signs, R * signs[:, None]
    if xp is not np:  # columns that others span, where nothing can be left out: no numbers
        whole = jnp.all(jnp.diagonal(R) > ALIASED * jnp.sqrt(jnp.sum(jax.lax.stop_gradient(X) ** 2, 0)))
        R = jnp.where(whole, R, jnp.nan)
    if xp is np and (len(X) < p or np.any(np.diagonal(R) <= ALIASED * np.sqrt(np.sum(X**2, 0)))):
        F, units = orthogonalise(X, np.zeros(len(X), np.int32), 1, np, ALIASED)
        Q, R = np.stack(units, 1), F[:, :, 0].T
        alias = 1.0 * (np.diagonal(R) == 0)
        R = R + np.diag(alias)
    return Q, R + R[:, :1] * moved, alias


def conditioned(Z: Any, free: bool, xp: Any = np, count: Any = None) -> tuple[Any, Any]:
    """K (q, q) lower triangular such that the columns of Z K are orthogonal with a mean square of one, and their units.

    The maximum of the likelihood over all covariance matrices of the effects does not depend on the basis of Z, the
    solver's path does: a covariate far from zero makes intercepts and slopes nearly collinear. K is lower triangular so
    that Cholesky factors correspond, ``L = K L'``. It is the identity for other structures (`free` False), one column,
    columns that are dependent to rounding, and columns that are not nearly dependent, where the user's basis is more
    often the one in which effects are uncorrelated. `count` is the number of rows of which it is the mean, default all.
    """
    n, q = Z.shape
    Z = jax.lax.stop_gradient(Z) if xp is jnp else Z
    count = n if count is None else count
    rms = xp.sqrt(xp.sum(Z**2, 0) / count)
    units = 1.0 / xp.where(rms > 0, rms, 1.0)
    if not free or q < 2 or n < q:
        return xp.eye(q), units
    R = xp.linalg.qr(Z[:, ::-1] * units[::-1], mode="r") / xp.sqrt(count)  # columns orthogonal to those behind them
    return inverse_chart(R, units, xp)


def inverse_chart(R: Any, units: Any, xp: Any = np) -> tuple[Any, Any]:
    """K (..., q, q) and units (..., q) from R (..., q, q) of the columns of Z in reverse order times `units`."""
    diagonal = xp.diagonal(R, axis1=-2, axis2=-1)
    size = abs(diagonal)
    whole = (xp.all(size > ALIASED, -1) & xp.any(size < COLLINEAR, -1))[..., None, None]
    eye = xp.eye(R.shape[-1])
    R = xp.where(whole, R * xp.where(diagonal < 0, -1.0, 1.0)[..., None], eye)
    K = xp.linalg.inv(R)[..., ::-1, ::-1] * units[..., :, None]
    return xp.where(whole, K, eye), xp.where(whole[..., 0], xp.ones_like(units), units)
