"""Types of arrays inside `jax.shard_map`, which say along which axes of the mesh they vary (JAX's ``vma``).

JAX wants the carry of a loop, and what is pulled back, to vary as what comes of it does. Constants vary along none.
"""

from __future__ import annotations

from typing import Any

import jax


def varying_axes(*values: Any) -> frozenset[str]:
    """Axes of the mesh along which any of the leaves varies; none outside of `jax.shard_map`."""
    traced = [x for x in jax.tree_util.tree_leaves(values) if isinstance(x, jax.core.Tracer)]
    return frozenset().union(*(getattr(jax.typeof(x), "vma", frozenset()) for x in traced))


def varying(value: Any, axes: frozenset[str]) -> Any:
    """A pytree whose leaves vary along these axes."""

    def one(x: Any) -> Any:
        missing = tuple(sorted(axes - getattr(jax.typeof(x), "vma", frozenset())))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree_util.tree_map(one, value) if axes else value


def alike(value: Any, *like: Any) -> Any:
    """A pytree whose leaves vary at least as others do: a start of a loop that comes to vary as they do."""
    return varying(value, varying_axes(like))
