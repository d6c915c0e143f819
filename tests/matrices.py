"""Structures with values and their matrices, each by one program: outside of compiled code every operation is one."""

from __future__ import annotations

from functools import cache, partial

import jax
import numpy as np


@partial(jax.jit, static_argnums=(0, 2))
def bound_by(structure, theta, dim):
    """The structure at public coordinates."""
    return structure.from_public(theta, dim)


def matrix_at(bound, levels):
    """The matrix at levels that are known when it is compiled."""
    levels = np.asarray(levels)
    return np.asarray(_at(levels.dtype.str, levels.shape, levels.tobytes())(bound))


@cache
def _at(dtype, shape, raw):
    levels = np.frombuffer(raw, dtype).reshape(shape)
    return jax.jit(lambda bound: bound.matrix(levels))
