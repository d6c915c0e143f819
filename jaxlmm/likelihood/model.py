"""The linear mixed model as a frozen pytree: arrays, covariance structures, and the engine that will do the work."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .. import pytrees
from ..arguments import check_flag, made, numbers_of, refuse_unknown, shown
from ..covariance import Covariance
from ..errors import DataError
from ..frames.alignment import refuse_masked
from ..frames.columns import same_index
from ..pytrees import frozen_pytree, is_traced, set_all
from ..runtime.precision import float64
from ..runtime.sharding import alike
from .confounding import check_terms
from .engines import MARGINAL, Blocks, Engine, choose
from .parts import Field, Residual, Term, check_design, check_weights, own_array, unwritten

Structures = tuple[tuple[Covariance, Any], ...]
REPLACED = ("y", "X", "Z", "weights", "offset", "random", "residual")  # what `Model.replace` takes


@made
@frozen_pytree(data=("y", "X", "random", "residual", "weights", "offset", "layout"), meta=("evaluator",))
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
    weights : (n,) positive, ``Var(e_i) = sigma^2 / w_i``; zeros are put in by `replace`
    offset : (n,) known part of the mean
    engine : "auto", "grouped" (terms and independent residuals, sufficient statistics), "crossed" (the same, for terms
        of several factors), "marginal" (anything else, V by clusters of dependent rows), "spectral" (one relationship
        matrix and independent residuals, diagonal after one eigendecomposition), "dense" (any V, O(n^3)) or
        "iterative" (as "crossed", where nothing can be factored: with a Monte Carlo error; `jaxlmm.Iterative` has its
        options); or an object of a class of your own, see `jaxlmm.likelihood.engines.Engine`
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
    evaluator: Engine

    def __init__(
        self, y: Any, X: Any, random: Sequence[Term | Field] = (), residual: Residual | None = None,
        weights: Any = None, offset: Any = None, engine: str | Engine = "auto", checks: bool = True,
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
        set_all(self, y=y, X=X, random=random, residual=residual, weights=weights, offset=offset)
        if not random and (null := vars(residual.structure).get("_null")):
            raise DataError(
                f"residual: {type(residual.structure).__name__}.matrix has no variance at {null}, whatever its "
                "parameters: V would be singular; add independent errors, residual=[..., 'iid()'], or random terms"
            )
        if checks:
            check_design(y, X, residual, self.size)
            if not is_traced(random, X):
                check_terms(random)
        evaluator = choose(engine, self)
        set_all(self, evaluator=evaluator, layout=evaluator.layout(self))

    @property
    def engine(self) -> str:
        """The name of the engine."""
        return self.evaluator.name

    def replace(self, **leaves: Any) -> Model:
        """Copy with other arrays of the same shapes, which may be traced; their values are not checked.

        Parameters
        ----------
        y, X, offset : as in `Model`;  Z : an array for each random term, in a list; or one, of the only term
        weights : (n,) as in `Model`; and 0 for a row that is absent, whatever stands in it: so designs of several
            numbers of rows are lanes of one `jax.vmap`, in the functions of `jaxlmm.pure`
        random, residual : parts of the same layout (groups and places)

        Raises
        ------
        TypeError
            For other names.
        DataError
            For another number of rows or arrays.

        Notes
        -----
        The engine "spectral" has decomposed the random part with its weights: with others, Z or random parts the model
        is one of the engine "marginal".
        """
        refuse_unknown("Model.replace", leaves, REPLACED)
        if self.evaluator.settled & set(leaves):
            general = pytrees.replace(self, evaluator=MARGINAL, layout=MARGINAL.layout(self))
            return general.replace(**leaves)
        if "Z" in leaves:
            leaves["random"] = self._with_designs(leaves.pop("Z"), leaves.get("random", self.random))
        n = len(self.y)
        for name, dims in (("y", 1), ("X", 2), ("weights", 1), ("offset", 1)):
            if leaves.get(name) is not None:
                leaves[name] = _of_rows(f"replace: {name}", leaves[name], n, dims)
        return pytrees.replace(self, **{name: unwritten(leaf) for name, leaf in leaves.items()})

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
        return tuple(pytrees.replace(p, Z=next(columns)) if isinstance(p, Term) else p for p in random)

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
        theta = array_of("theta", theta)
        if theta.shape != (self.size,):
            raise DataError(f"theta: expected {self.size} covariance parameters, found shape {theta.shape}")
        return theta


def checked(function: str, theta: Any, model: Any, order: str = "theta, model") -> Array:
    """Covariance parameters (k,) as an array, of a public function of theta and a model.

    Raises
    ------
    TypeError
        Where one stands in the other's place, or a fit in that of its model.
    DataError
        For another number of parameters.
    """
    if not isinstance(model, Model):
        found = f"expected a jaxlmm.Model, found {type(model).__name__}"
        if isinstance(theta, Model):
            found = "theta and model have changed places"
        elif isinstance(getattr(model, "model", None), Model):
            found += ", whose `model` it is"
        raise TypeError(f"{function}({order}): {found}")
    if isinstance(theta, Model):
        raise TypeError(f"{function}({order}): theta: expected {model.size} numbers, found a Model")
    return model._checked(theta)


def array_of(name: str, value: Any) -> Array:
    """A JAX array of numbers, traced ones included."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError):
        raise DataError(f"{name}: found {shown(value)}, expected numbers") from None


def block_at(structure: Covariance, dim: Any, coords: Any) -> Array:
    """Covariance block of a structure with values: between its levels (q, q), or in sets of coordinates (K, T, T)."""
    if coords is None:
        return structure.matrix(np.arange(dim, dtype=np.int32))
    return jax.vmap(structure.matrix)(jnp.asarray(coords))


def known_sd(model: Model, xp: Any = np) -> Any:
    """Root of the mean variance of residuals that are known, before weights; zero where they are estimated."""
    part = model.residual
    if not part.is_known:
        return xp.zeros(())
    with float64() if xp is np else contextlib.nullcontext():
        block = block_at(part.structure.from_public(jnp.zeros(0), part.dim), part.dim, part.coords)
        return xp.sqrt(xp.mean(xp.diagonal(xp.asarray(block), axis1=-2, axis2=-1)))


def _blocks(structures: Structures, coords: tuple[Any, ...], theta: Array) -> Blocks:
    """Covariance blocks of the structures, the residual's last, at public coordinates theta."""
    blocks, start = [], 0
    for (structure, dim), places in zip(structures, coords, strict=True):
        stop = start + structure.size(dim)
        blocks.append(block_at(structure.from_public(theta[start:stop], dim), dim, places))
        start = stop
    return alike(Blocks(tuple(blocks[:-1]), blocks[-1]), theta)


def _of_rows(name: str, value: Any, n: int, dims: int) -> Any:
    """An array with a row for each of the data, its values not looked at; lists and frames become arrays."""
    if not isinstance(value, jax.Array):
        refuse_masked(name, value)
        value = numbers_of(name, value)
    if len(value.shape) != dims or value.shape[0] != n:
        expected = f"({n},)" if dims == 1 else f"({n}, columns)"
        raise DataError(f"{name}: expected an array of shape {expected}, found shape {tuple(value.shape)}")
    return value
