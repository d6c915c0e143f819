"""Functions as an author first writes them, ``(abs(lag) / range) ** damp``, with derivatives that are finite.

``x ** p``, ``sqrt(x)``, ``a / x``, ``arccos(x)`` have none at x = 0 or 1, where distances of zero are, though the
matrix has; and a NaN that ``jnp.where`` does not take leaves its mark in derivatives. What a `matrix` of the user's own
computes is traced, and at points without a derivative these functions get one of zero, as a distance of zero does
not depend on parameters; values are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Literal

from .helpers import TINY, safe_power

Matrix = Callable[[Any, Any], Any]


def mended(matrix: Matrix) -> Matrix:
    """The method `matrix` of a class of the user's own, differentiable at distances of zero."""

    @wraps(matrix)
    def own(self: Any, levels: Any) -> Any:
        leaves, tree = jax.tree_util.tree_flatten(self)
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Array)]
        if not places:
            return matrix(self, levels)

        def of(values: list[Any]) -> Any:
            filled = list(leaves)
            for i, value in zip(places, values, strict=True):
                filled[i] = value
            return matrix(jax.tree_util.tree_unflatten(tree, filled), levels)

        values = [leaves[i] for i in places]
        closed, form = jax.make_jaxpr(of, return_shape=True)(values)
        found = _evaluated(closed.jaxpr, closed.consts, [(v, False) for v in values])
        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(form), [v for v, _ in found])

    return own


Rule = Callable[..., Any]


def _held(primitive: Any, singular: Any, regular: float, *args: Any, **params: Any) -> Array:
    """A primitive whose derivatives are zero at `singular` points, where its last argument is `regular` for them."""
    value = jax.lax.stop_gradient(primitive.bind(*args, **params))
    safe = jnp.where(singular, jnp.asarray(regular, jnp.result_type(args[-1])), args[-1])
    return jnp.where(singular, value, primitive.bind(*args[:-1], safe, **params))


def _held_where(singular: Callable[[Any], Any], regular: float) -> Rule:
    return lambda primitive, *args, **params: _held(primitive, singular(args[-1]), regular, *args, **params)


def _root(primitive: Any, x: Array, **params: Any) -> Array:
    return jnp.where((x >= 0.0) & (x <= TINY), 0.0, _held(primitive, x <= TINY, 1.0, x, **params))


def _power(primitive: Any, base: Array, exponent: Any) -> Array:
    undefined = ((base < 0) & (exponent != jnp.round(exponent))) | ((base == 0) & (exponent < 0))
    value = jnp.where(base < 0, jnp.nan, jnp.inf)
    return jnp.where(undefined, value, safe_power(jnp.where(undefined, 1.0, base), exponent))


def _arc(primitive: Any, x: Array, **params: Any) -> Array:
    """Of a cosine, which may be beyond one by rounding."""
    x = jnp.where((jnp.abs(x) > 1.0) & (jnp.abs(x) <= 1.0 + BEYOND), jnp.sign(x), x)
    return _held(primitive, jnp.abs(x) >= 1.0, 0.0, x, **params)


def _times(primitive: Any, x: Array, y: Array, **params: Any) -> Array:
    product = jax.lax.stop_gradient(primitive.bind(x, y, **params))
    good = jnp.isfinite(product)
    return jnp.where(good, primitive.bind(*(jnp.where(good, v, 1) for v in (x, y)), **params), product)


BEYOND = 1e-12
MENDED: dict[str, Rule] = {
    "pow": _power,
    "integer_pow": lambda primitive, x, y: _held(primitive, (x == 0) & (y < 0), 1.0, x, y=y),
    "sqrt": _root,
    "acos": _arc,
    "asin": _arc,
    "div": _held_where(lambda x: x == 0, 1.0),
    "log": _held_where(lambda x: x <= 0, 1.0),
    "log1p": _held_where(lambda x: x <= -1, 0.0),
    "rsqrt": _held_where(lambda x: x <= 0, 1.0),
    "cbrt": _held_where(lambda x: x == 0, 1.0),
    "acosh": _held_where(lambda x: x <= 1, 2.0),
    "atanh": _held_where(lambda x: jnp.abs(x) >= 1, 0.0),
}


def _evaluated(jaxpr: Any, consts: Any, args: Any) -> list[Any]:
    """What a jaxpr computes, with the rules of `MENDED`; loops, and functions with own rules, as they are.

    Arguments and results are pairs of a value and whether it may be infinite, as the results of these rules are: its
    products have no derivatives there either.
    """
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*((c, False) for c in consts), *args], strict=True))

    def read(atom: Any) -> Any:
        return (atom.val, False) if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        pairs, name = [read(v) for v in eqn.invars], eqn.primitive.name
        values, infinite = [v for v, _ in pairs], any(flag for _, flag in pairs)
        rule = _times if name == "mul" and infinite else MENDED.get(name)
        if name in ("jit", "pjit"):
            inner = eqn.params["jaxpr"]
            found = _evaluated(inner.jaxpr, inner.consts, pairs)
        elif rule is not None and jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating):
            found = [(rule(eqn.primitive, *values, **eqn.params), True)]
        else:
            bound: Any = eqn.primitive.get_bind_params(eqn.params)  # with functions in front in older versions
            functions, params = bound if isinstance(bound, tuple) else ((), bound)
            given = eqn.primitive.bind(*functions, *values, **params)
            found = [(v, infinite) for v in (given if eqn.primitive.multiple_results else [given])]
        known.update(zip(eqn.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars]
