"""The model as a frozen pytree, and the likelihood as a pure function of its parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from . import design
from .alignment import same_index
from .confounding import check_terms
from .covariance import Covariance
from .criterion import deviance, solve_normal
from .design import (
    Field,
    Residual,
    Term,
    check_design,
    check_weights,
    frozen_pytree,
    is_traced,
    own_array,
    set_all,
    unwritten,
)
from .doors import check_flag, refuse_unknown
from .engines import (
    Blocks,
    Crossed,
    Dense,
    Engine,
    Grouped,
    Iterative,
    Krylov,
    Marginal,
    Rotation,
    Rows,
    Spectral,
    arrange,
    cross,
    engine_for,
    incidence,
    plan,
)
from .engines.orthogonal import orthogonalise
from .errors import DataError
from .precision import pure
from .programs import compiled
from .tolerances import ALIASED, origin, shifted

Structures = tuple[tuple[Covariance, Any], ...]

ENGINES = ("auto", "dense", "grouped", "marginal", "spectral", "crossed", "iterative")
MAX_DENSE_ROWS = 5000
COLLINEAR = 0.1  # part of a column of Z that the others do not explain, below which the columns are orthogonalised
REPLACED = ("y", "X", "Z", "weights", "offset", "random", "residual")  # what `Model.replace` takes


@frozen_pytree(data=("y", "X", "random", "residual", "weights", "offset", "layout"), meta=("engine",))
@dataclasses.dataclass(frozen=True, init=False, eq=False)
class Model:
    """A linear mixed model: plain arrays in, a frozen pytree out.

    ``y = offset + X beta + sum_t Z_t u_t + e``, ``Cov(u_t) = A_t (x) G_t``, ``Cov(e) = R``. Leaves are the arrays:
    `jax.vmap` over ``model.replace(y=...)`` (or X, Z, weights, offset) fits or evaluates many data sets of one
    layout; the grouping factors must be concrete when the model is built.

    Parameters
    ----------
    y : (n,) response
    X : (n, p) fixed design of full column rank
    random : terms and random functions, see `Term` and `Field`; may be empty
    residual : see `Residual`; default independent errors
    weights : (n,) positive, ``Var(e_i) = sigma^2 / w_i``
    offset : (n,) known part of the mean
    engine : "auto", "grouped" (terms and independent residuals, sufficient statistics), "crossed" (the same, for terms
        of several factors), "marginal" (anything else, V by clusters of dependent rows), "spectral" (one relationship
        matrix and independent residuals, diagonal after one eigendecomposition), "dense" (any V, O(n^3)) or
        "iterative" (as "crossed", where nothing can be factored: with a Monte Carlo error; `jaxlmm.Iterative` has its
        options)
    checks : False accepts data to which the model cannot be fitted (n <= p, collinear X, constant y), for
        `jaxlmm.fit_batch`, where they get a status; and confounded terms, of which only sums are then determined

    Raises
    ------
    DataError
        Wrong shapes, non-finite or constant data, collinear X, n <= p, or an engine that cannot do this model.
    """

    y: Any
    X: Any
    random: tuple[Term | Field, ...]
    residual: Residual
    weights: Any
    offset: Any
    layout: Any
    engine: str

    def __init__(
        self, y: Any, X: Any, random: Sequence[Term | Field] = (), residual: Residual | None = None,
        weights: Any = None, offset: Any = None, engine: str | Iterative = "auto", checks: bool = True,
    ):  # fmt: skip
        check_flag("checks", checks)
        same_index("Model", y=y, X=X, weights=weights, offset=offset)
        y = own_array("y", y, (None,))
        n = y.shape[0]
        X = own_array("X", X, (n, None))
        random = (random,) if isinstance(random, Term | Field) else tuple(random)
        for part in random:
            rows = part.Z.shape[0] if isinstance(part, Term) else len(part.group)
            if rows != n:
                raise DataError(f"{part.name}: expected {n} rows as in y, found {rows}")
        residual = Residual() if residual is None else residual
        if residual.group is not None and len(residual.group) != n:
            raise DataError(f"residual: expected {n} rows as in y, found {len(residual.group)}")
        weights = None if weights is None else check_weights(weights, n)
        offset = None if offset is None else own_array("offset", offset, (n,))
        if checks:
            check_design(y, X)
            if not is_traced(random, X):
                check_terms(random, X)
        options = engine if isinstance(engine, Iterative) else Iterative()
        engine = choose_engine("iterative" if isinstance(engine, Iterative) else engine, random, residual, n)
        layout: Any = None
        if engine == "marginal":
            layout = arrange(random, residual, n)
            largest = max((bucket.row.shape[1] for bucket in layout.buckets), default=0)
            if largest > MAX_DENSE_ROWS:
                raise DataError(
                    f"engine: {largest} rows depend on each other through a residual structure, a field or a "
                    f"relationship matrix, more than {MAX_DENSE_ROWS}, above which their covariance matrix is too large"
                )
        terms = [part for part in random if isinstance(part, Term)]
        if engine == "spectral":
            z = terms[0].Z[:, 0] if weights is None else terms[0].Z[:, 0] * np.sqrt(weights)
            layout = Rotation.find(z, terms[0].group, terms[0].relationship)
        if engine in ("grouped", "crossed", "iterative"):
            layout = layout_of(engine, terms, n, options)
        set_all(
            self,
            y=y,
            X=X,
            random=random,
            residual=residual,
            weights=weights,
            offset=offset,
            layout=layout,
            engine=engine,
        )

    def replace(self, **leaves: Any) -> Model:
        """Copy with other arrays of the same shapes, which may be traced; their values are not checked.

        Parameters
        ----------
        y, X, weights, offset : as in `Model`;  Z : an array for each random term, in a list; or one, of the only term
        random, residual : parts of the same layout (groups and places)

        Raises
        ------
        TypeError
            For other names.
        DataError
            For another number of rows or arrays; what the engine has decomposed.
        """
        refuse_unknown("Model.replace", leaves, REPLACED)
        if self.engine == "spectral" and {"weights", "random", "Z"} & set(leaves):
            raise DataError("replace: engine 'spectral' has decomposed the random part; make a new Model")
        if "Z" in leaves:
            leaves["random"] = self._with_designs(leaves.pop("Z"), leaves.get("random", self.random))
        n = len(self.y)
        for name, dims in (("y", 1), ("X", 2), ("weights", 1), ("offset", 1)):
            if leaves.get(name) is not None:
                leaves[name] = _of_rows(f"replace: {name}", leaves[name], n, dims)
        return design.replace(self, **{name: unwritten(leaf) for name, leaf in leaves.items()})

    def _with_designs(self, Z: Any, random: tuple[Term | Field, ...]) -> tuple[Term | Field, ...]:
        """The random parts, their terms with other columns: an array for each, or the only one."""
        terms = [part for part in random if isinstance(part, Term)]
        each = list(Z) if isinstance(Z, list | tuple) and len(Z) == len(terms) else [Z] if len(terms) == 1 else None
        if each is None:
            raise DataError(f"replace: Z: expected a list of {len(terms)} arrays, one for each random term")
        new = []
        for own, term in zip(each, terms, strict=True):
            name = f"replace: Z of {term.name}"
            own = _of_rows(name, own, len(self.y), 1 if np.ndim(own) == 1 else 2)
            new.append(own[:, None] if own.ndim == 1 else own)
            if new[-1].shape[1] != term.dim:
                raise DataError(f"{name}: expected {term.dim} column(s), found {new[-1].shape[1]}")
        columns = iter(new)
        return tuple(design.replace(p, Z=next(columns)) if isinstance(p, Term) else p for p in random)

    @property
    def size(self) -> int:
        """Number of covariance parameters, the length of theta."""
        return sum(structure.size(dim) for structure, dim in self._structures)

    @property
    def terms(self) -> tuple[Term, ...]:
        """The random parts that are terms, not fields."""
        return tuple(part for part in self.random if isinstance(part, Term))

    @property
    def coords(self) -> tuple[Any, ...]:
        """Sets of coordinates of each part, None where it is over levels or effects; the residual last."""
        return (*(part.coords if isinstance(part, Field) else None for part in self.random), self.residual.coords)

    def blocks(self, theta: Array) -> Blocks:
        """Covariance blocks at theta: random parts in order, residual last; see ``fit.theta`` for its coordinates."""
        return _blocks(self._structures, self.coords, self._checked(theta))

    @property
    def _structures(self) -> Structures:
        return tuple((part.structure, part.dim) for part in (*self.random, self.residual))

    def _checked(self, theta: Any) -> Array:
        theta = jnp.asarray(theta)
        if theta.shape != (self.size,):
            raise DataError(f"theta: expected {self.size} covariance parameters, found shape {theta.shape}")
        return theta


def block_at(structure: Covariance, dim: Any, coords: Any) -> Array:
    """Covariance block of a structure with values: between its levels (q, q), or in sets of coordinates (K, T, T)."""
    if coords is None:
        return structure.matrix(np.arange(dim, dtype=np.int32))
    return jax.vmap(structure.matrix)(jnp.asarray(coords))


def _blocks(structures: Structures, coords: tuple[Any, ...], theta: Array) -> Blocks:
    """Covariance blocks of the structures, the residual's last, at public coordinates theta."""
    blocks, start = [], 0
    for (structure, dim), places in zip(structures, coords, strict=True):
        stop = start + structure.size(dim)
        blocks.append(block_at(structure.from_public(theta[start:stop], dim), dim, places))
        start = stop
    return Blocks(tuple(blocks[:-1]), blocks[-1])


def factors_of(terms: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[int, ...], tuple[int, ...]]:
    """Codes, number of levels and number of effects of each term."""
    return tuple(t.group for t in terms), tuple(t.levels for t in terms), tuple(t.dim for t in terms)


def layout_of(engine: str, terms: Sequence[Term], n: int, options: Iterative) -> Any:
    """Integer layout of terms with independent residuals for their engine."""
    if engine == "iterative":
        return incidence(*factors_of(terms), options)
    return (plan if engine == "grouped" else cross)(*factors_of(terms), n)


def choose_engine(engine: str, random: tuple[Term | Field, ...], residual: Residual, n: int) -> str:
    """The engine that will do the work: the one that needs least of those that can."""
    if engine not in ENGINES:
        raise DataError(f"engine: found {engine!r}, expected one of {', '.join(ENGINES)}")
    independent = residual.group is None
    terms = independent and all(isinstance(part, Term) and part.relationship is None for part in random)
    plain = terms and all(part.is_plain for part in random if isinstance(part, Term))
    kin = independent and len(random) == 1 and isinstance(random[0], Term) and random[0].relationship is not None
    kin = kin and random[0].dim == 1
    if engine == "auto":
        engine = engine_for(*factors_of(random), n) if plain else "spectral" if kin else "marginal"
    if engine in ("grouped", "crossed", "iterative") and not terms:
        raise DataError(
            f"engine: {engine!r} needs independent residuals and terms without relationship matrices, this model has "
            "others; use 'marginal'"
        )
    if engine in ("crossed", "iterative") and all(np.array_equal(part.group, random[0].group) for part in random):
        raise DataError(f"engine: {engine!r} needs terms of at least two grouping factors; use 'grouped'")
    if engine == "spectral" and not kin:
        raise DataError("engine: 'spectral' needs one term with one effect and a relationship matrix, and no other")
    if engine == "dense" and n > MAX_DENSE_ROWS:
        raise DataError(f"engine: 'dense' forms an n x n matrix, sensible up to {MAX_DENSE_ROWS} rows; found {n}")
    return engine


class Basis(NamedTuple):
    """How the internal columns relate to [X y]: ``X = Q R``, ``y - offset = Q c + residual``, rows times sqrt(w).

    Working with Q and residuals, nothing cancels when y or X carry a large offset.
    """

    R: Any  # (p, p) upper triangular
    c: Any  # (p,)
    log_weights: Any  # sum of log w
    n: Any  # number of rows, a float
    alias: Any  # (p,) one for columns of X that the columns before them span, whose column of Q is zero; else zero
    residual_sd: Any  # of least squares, the scale of y
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

    statistics: Any
    basis: Basis
    coords: tuple[Any, ...]  # as `Model.coords`


def lean(prepared: Prepared) -> Prepared:
    """The same for compiled evaluations, without what only tells their shapes apart."""
    statistics = prepared.statistics
    return prepared._replace(statistics=statistics.lean()) if isinstance(statistics, Marginal) else prepared


def prepare(
    model: Model, compact: bool = True, clusters: bool = False, varying: int = 1, orthogonal: bool = False
) -> Prepared:  # fmt: skip
    """Statistics of a model for its engine; in NumPy when the model is concrete, in one traced function otherwise.

    Parameters
    ----------
    compact, clusters, varying : see ``Grouped.prepare``
    orthogonal : work with orthogonal columns of Z where the covariance matrix is free, see `conditioned`
    """
    if any(isinstance(leaf, Array) for leaf in jax.tree_util.tree_leaves(model)):
        return _prepare_traced(model, compact, clusters, orthogonal)
    return _prepare(model, compact, clusters, orthogonal, np, varying)


@compiled("compact", "clusters", "orthogonal")
def _prepare_traced(model: Model, compact: bool, clusters: bool, orthogonal: bool) -> Prepared:
    return _prepare(model, compact, clusters, orthogonal, jnp)


def weighted(model: Model, a: Any, xp: Any = np) -> Any:
    """Rows (n, ...) multiplied by the square roots of the weights."""
    if model.weights is None:
        return a
    root = xp.sqrt(model.weights)
    return a * (root[:, None] if a.ndim == 2 else root)


def _prepare(
    model: Model, compact: bool, clusters: bool, orthogonal: bool, xp: Any, varying: int = 1
) -> Prepared:  # fmt: skip
    n, _ = model.X.shape
    y = weighted(model, model.y if model.offset is None else model.y - model.offset, xp)
    Q, R, alias = orthonormal(model.X, model.weights, xp)
    c = Q.T @ y
    left = y - Q @ c
    again = Q.T @ left
    residual = left - Q @ again
    log_weights = xp.zeros(()) if model.weights is None else xp.sum(xp.log(model.weights))
    Z: list[Any] = []
    K: list[Any] = []
    units: list[Any] = []
    for part in model.random:
        if isinstance(part, Term):
            z = weighted(model, part.Z, xp)
            k, unit = conditioned(z, orthogonal and part.structure.is_matrix, xp)
            z = turned(z, k) if orthogonal else z
        else:
            z = None if model.weights is None else weighted(model, xp.ones((n, 1)), xp)
            size = part.dim if part.coords is None else 1
            k, unit = xp.eye(size), xp.ones(size)
        for found, value in zip((Z, K, units), (z, k, unit), strict=True):
            found.append(value)
    basis = Basis(R, c + again, log_weights, np.float64(n), alias, xp.zeros(()), tuple(K), tuple(units))
    basis = basis._replace(residual_sd=xp.sqrt(xp.sum(residual**2) / (n - basis.rank)))
    rows = Rows(xp.concatenate([Q, residual[:, None]], 1), tuple(Z))
    statistics: Engine
    if model.engine == "crossed" and xp is np and not clusters:
        statistics = Crossed.prepare(rows, model.layout, compact)
    elif model.engine == "iterative":
        if xp is not np:
            raise DataError(
                "engine: 'iterative' needs concrete arrays, and takes no traced ones (jit, vmap and derivatives over y,"
                " X, Z or weights); fit one data set at a time, or use engine='crossed'"
            )
        statistics = Krylov.prepare(rows, model.layout, compact)
    elif model.engine in ("grouped", "crossed"):
        layout = model.layout if model.engine == "grouped" else model.layout.for_groups
        statistics = Grouped.prepare(rows, layout, compact, clusters, varying)
    elif model.engine == "marginal":
        statistics = Marginal.prepare(rows, (*model.random, model.residual), model.layout, compact and not clusters)
    elif model.engine == "spectral":
        statistics = Spectral.rotated(rows.U, model.layout)
    else:
        statistics = Dense.prepare(rows, (*model.random, model.residual))
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
    X = X if weights is None else X * xp.sqrt(weights)[:, None]
    Q, R = xp.linalg.qr(X)
    signs = xp.where(xp.diagonal(R) < 0, -1.0, 1.0)  # as Gram-Schmidt has them
    Q, R = Q * signs, R * signs[:, None]
    if xp is np and (len(X) < p or np.any(np.diagonal(R) <= ALIASED * np.sqrt(np.sum(X**2, 0)))):
        F, units = orthogonalise(X, np.zeros(len(X), np.int32), 1, np, ALIASED)
        Q, R = np.stack(units, 1), F[:, :, 0].T
        alias = 1.0 * (np.diagonal(R) == 0)
        R = R + np.diag(alias)
    return Q, R + R[:, :1] * moved, alias


def conditioned(Z: Any, free: bool, xp: Any = np) -> tuple[Any, Any]:
    """K (q, q) lower triangular such that the columns of Z K are orthogonal with a mean square of one, and their units.

    The maximum of the likelihood over all covariance matrices of the effects does not depend on the basis of Z, the
    solver's path does: a covariate far from zero makes intercepts and slopes nearly collinear. K is lower triangular so
    that Cholesky factors correspond, ``L = K L'``. It is the identity for other structures (`free` False), one column,
    columns that are dependent to rounding, and columns that are not nearly dependent, where the user's basis is more
    often the one in which effects are uncorrelated.
    """
    n, q = Z.shape
    Z = jax.lax.stop_gradient(Z) if xp is jnp else Z
    rms = xp.sqrt(xp.mean(Z**2, 0))
    units = 1.0 / xp.where(rms > 0, rms, 1.0)
    if not free or q < 2 or n < q:
        return xp.eye(q), units
    R = xp.linalg.qr(Z[:, ::-1] * units[::-1], mode="r") / np.sqrt(n)  # columns are orthogonalised to those behind them
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


def gram(theta: Any, model: Model) -> tuple[Array, Array]:
    """log|V| and ``[X y]'V^-1 [X y]`` (p+1, p+1) at theta; y without its offset."""
    with pure():
        return _gram(model._structures, model._checked(theta), prepare(model))


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
    """
    with pure():
        return _loglik(model._structures, model._checked(theta), prepare(model), reml=True)


def ml(theta: Any, model: Model) -> Array:
    """Log-likelihood maximised over beta: ``-n/2 log 2pi - 1/2 log|V| - 1/2 rss``. Parameters as in `reml`."""
    with pure():
        return _loglik(model._structures, model._checked(theta), prepare(model), reml=False)


# Compiled as wholes, so that calls outside of jit, derivatives included, do not run operation by operation.


@compiled("structures", "reml")
def _loglik(structures: Structures, theta: Array, prepared: Prepared, reml: bool) -> Array:
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


def _of_rows(name: str, value: Any, n: int, dims: int) -> Any:
    """An array with a row for each of the data, its values not looked at; lists and frames become arrays."""
    value = value if isinstance(value, jax.Array) else np.asarray(value, np.float64)
    if len(value.shape) != dims or value.shape[0] != n:
        expected = f"({n},)" if dims == 1 else f"({n}, columns)"
        raise DataError(f"{name}: expected an array of shape {expected}, found shape {tuple(value.shape)}")
    return value
