"""Keys of `jax.random`: of the user's own, typed or raw, and those of seeds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import DataError


def is_key(value: Any) -> bool:
    """Whether something is one key, ``jax.random.key(0)`` or ``jax.random.PRNGKey(0)``, which may be traced."""
    if not isinstance(value, Array | np.ndarray):
        return False
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value.ndim == 0
    return value.dtype == np.uint32 and value.ndim == 1 and value.size > 1


def check_seed(name: str, value: Any) -> None:
    """Refuse what is neither a non-negative integer nor a key."""
    if not is_key(value) and (not isinstance(value, int | np.integer) or value < 0):
        raise DataError(f"{name}: expected a non-negative integer or one key of jax.random, found {_said(value)}")


def key_of(name: str, seed: Any) -> Array:
    """The key of a seed, or itself."""
    check_seed(name, seed)
    return jnp.asarray(seed) if is_key(seed) else jax.random.key(seed)


def generator_of(name: str, seed: Any) -> np.random.Generator:
    """NumPy's generator of a seed, or of the words of a key."""
    check_seed(name, seed)
    if not is_key(seed):
        return np.random.default_rng(seed)
    words = seed if seed.dtype == np.uint32 else jax.random.key_data(seed)
    return np.random.default_rng([int(word) for word in np.asarray(words)])


def _said(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return repr(value) if not shape else f"an array of shape {tuple(shape)} and type {value.dtype}"
