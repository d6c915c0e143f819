"""Random effects, random functions and residuals drawn from their covariances, and responses from the model."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import DataError
from ..linalg import psd_cholesky
from ..runtime.keys import key_of
from ..runtime.precision import pure
from ..runtime.programs import compiled
from .engines import Blocks
from .model import Model, checked
from .parts import Field, Term
from .prepared import counted, square_roots


class Roots(NamedTuple):
    """Roots of what is drawn from.

    Attributes
    ----------
    blocks : of the covariance block of each random part, the residual's last
    kin : of the relationship matrix of each random part, None where it has none
    """

    blocks: tuple[Any, ...]
    kin: tuple[Any, ...]

    @classmethod
    def of(cls, model: Model, C: Blocks) -> Roots:
        """Roots at covariance blocks; NumPy's for NumPy's."""
        known = [None if isinstance(part, Field) else part.relationship for part in model.random]
        kin = tuple(None if A is None else psd_cholesky(A if isinstance(A, Array) else np.asarray(A)) for A in known)
        return cls(tuple(psd_cholesky(G) for G in (*C.random, C.residual)), kin)


class Shape(NamedTuple):
    """Of variables that are drawn in place of standard normal ones z: ``(expm1(g z) / g exp(h z^2 / 2) - mean) / sd``.

    Tukey's g-and-h distribution (Hoaglin 1985): g makes it skew, h makes tails heavy. `mean` and `sd` are its own, so
    that covariances are what they are for normal variables.
    """

    g: Any
    h: Any
    mean: Any
    sd: Any

    @classmethod
    def of(cls, g: float, h: float) -> Shape:
        """With its moments, which need h below 1/2."""
        if g == 0.0:
            return cls(0.0, h, 0.0, (1.0 - 2.0 * h) ** -0.75)
        first = np.expm1(g**2 / (2.0 * (1.0 - h))) / (g * np.sqrt(1.0 - h))
        top = np.expm1(2.0 * g**2 / (1.0 - 2.0 * h)) - 2.0 * np.expm1(g**2 / (2.0 * (1.0 - 2.0 * h)))
        return cls(g, h, first, np.sqrt(top / (g**2 * np.sqrt(1.0 - 2.0 * h)) - first**2))

    def __call__(self, z: Array) -> Array:
        """The variables that standard normal ones become."""
        g = jnp.where(self.g == 0.0, 1.0, self.g)
        skew = jnp.where(self.g == 0.0, z, jnp.expm1(g * z) / g)
        return (skew * jnp.exp(0.5 * self.h * z**2) - self.mean) / self.sd


def drawn(
    key: Array, n: int, parts: tuple[Any, ...], weights: Any, roots: Roots, shapes: tuple[Shape | None, ...] = ()
) -> tuple[tuple[Array, ...], Array]:  # fmt: skip
    """Effects (m, q) of each term, values (n, 1) of each random function, and residuals (n,), 0 in rows of no weight.

    Parameters
    ----------
    parts : random parts of a model, and its residual
    shapes : of each part, where one is not normal
    """
    *random, residual = parts
    forms = shapes or (None,) * len(parts)

    def variables(key: Array, size: tuple[int, int], form: Shape | None) -> Array:
        normal = jax.random.normal(key, size, jnp.float64)
        return normal if form is None else form(normal)

    def field(key: Array, part: Field, root: Array, form: Shape | None) -> Array:
        groups = n if part.sets is None else part.sets.shape[0]  # at most one group a row
        normal = variables(key, (groups, root.shape[-1]), form)
        values = normal @ root.T if part.sets is None else jnp.einsum("gij,gj->gi", root[part.sets], normal)
        return values[:, 0] if part.group is None else values[part.group, part.position]

    effects = []
    for t, part in enumerate(random):
        own = jax.random.fold_in(key, t + 1)
        if isinstance(part, Field):
            effects.append(field(own, part, roots.blocks[t], forms[t])[:, None])
            continue
        normal = variables(own, (part.levels, part.dim), forms[t])
        effects.append((normal if roots.kin[t] is None else roots.kin[t] @ normal) @ roots.blocks[t].T)
    error = field(jax.random.fold_in(key, 0), residual, roots.blocks[-1], forms[-1])
    if weights is not None:
        error = jnp.where(weights != 0.0, error / square_roots(weights, jnp, 1.0), 0.0)
    return tuple(effects), error


def response(mean: Any, random: tuple[Term | Field, ...], effects: tuple[Array, ...], error: Array) -> Array:
    """Rows (n,): a mean, what `drawn` has drawn of each random part, and residuals."""
    y = mean
    for part, u in zip(random, effects, strict=True):
        y = y + (u[:, 0] if isinstance(part, Field) else jnp.sum(part.Z * u[part.group], -1))
    return y + error


def simulate(key: Any, theta: Any, beta: Any, model: Model) -> Array:
    """Draw a response from the model, a pure function.

    Parameters
    ----------
    key : a key of `jax.random`; `jax.vmap` over many draws as many responses
    theta : (k,) as in `jaxlmm.reml`;  beta : (p,) fixed effects;  model : its y is not read

    Returns
    -------
    (n,) ``offset + X beta + sum_t Z_t u_t + e``, NaN in rows of no weight. Differentiable in theta, beta and the arrays
    of the model for a fixed key. With ``jax.random.fold_in(jax.random.key(seed), r)`` it is row r of
    ``fit.simulate(seed=seed)``.

    Raises
    ------
    Float64RequiredError
        When 64-bit floats are off.
    """
    with pure():
        theta, beta = checked("simulate", theta, model, "key, theta, beta, model"), jnp.asarray(beta)
        if beta.shape != model.X.shape[1:]:
            raise DataError(f"beta: expected {model.X.shape[1]} fixed effects, found shape {beta.shape}")
        return _simulate(key_of("key", key), theta, beta, model)


@compiled()
def _simulate(key: Any, theta: Array, beta: Array, model: Model) -> Array:
    model, present = counted(model, jnp)
    effects, error = drawn_at(key, theta, model)
    mean = model.X @ beta if model.offset is None else model.X @ beta + model.offset
    y = response(mean, model.random, effects, error)
    return y if present is None else jnp.where(present, y, jnp.nan)


def drawn_at(key: Any, theta: Array, model: Model) -> tuple[tuple[Array, ...], Array]:
    """`drawn` at covariance parameters."""
    roots = Roots.of(model, model.blocks(theta))
    return drawn(key, len(model.y), (*model.random, model.residual), model.weights, roots)
