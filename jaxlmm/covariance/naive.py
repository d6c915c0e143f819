"""Powers and roots as an author first writes them, ``(abs(lag) / range) ** damp``, with derivatives that are finite.

``x ** p`` and ``sqrt(x)`` have none at x = 0, where distances are, though the matrix has. What a `matrix` of the
user's own computes is traced, and these two are replaced by `helpers.powers` and `helpers.roots`, whose derivatives
at zero are zero, as a distance of zero does not depend on parameters; values are the same.
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
        found = _evaluated(closed.jaxpr, closed.consts, values)
        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(form), found)

    return own


def _root(x: Array) -> Array:
    zero = (x >= 0.0) & (x <= TINY)
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))


MENDED: dict[str, Callable[..., Any]] = {"pow": safe_power, "sqrt": _root}


def _evaluated(jaxpr: Any, consts: Any, args: Any) -> list[Any]:
    """What a jaxpr computes, with the rules of `MENDED`; loops, and functions with own rules, as they are."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        values, name = [read(v) for v in eqn.invars], eqn.primitive.name
        if name in MENDED:
            found = [MENDED[name](*values)]
        elif name in ("jit", "pjit"):
            inner = eqn.params["jaxpr"]
            found = _evaluated(inner.jaxpr, inner.consts, values)
        else:
            bound: Any = eqn.primitive.get_bind_params(eqn.params)  # with functions in front in older versions
            functions, params = bound if isinstance(bound, tuple) else ((), bound)
            given = eqn.primitive.bind(*functions, *values, **params)
            found = given if eqn.primitive.multiple_results else [given]
        known.update(zip(eqn.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars]
