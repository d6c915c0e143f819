"""Keys of `jax.random`: of the user's own, typed or raw, and those of seeds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..arguments import shown
from ..errors import DataError
from .precision import unguarded


def is_key(value: Any) -> bool:
    """Whether something is one key, ``jax.random.key(0)`` or ``jax.random.PRNGKey(0)``, which may be traced."""
    if not isinstance(value, Array | np.ndarray):
        return False
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value.ndim == 0
    return value.dtype == np.uint32 and value.ndim == 1 and value.size > 1


@unguarded
def key_of(name: str, seed: Any) -> Array:
    """The key of a seed, or itself.

    Raises
    ------
    DataError
        For what is neither a non-negative integer nor a key.
    """
    if is_key(seed):
        return jnp.asarray(seed)
    _check_number(name, seed)
    return jax.random.key(seed)


def _check_number(name: str, seed: Any) -> None:
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        is_array = hasattr(seed, "dtype") and np.ndim(seed)
        found = f"an array of shape {seed.shape} and type {seed.dtype}" if is_array else shown(seed)
        raise DataError(f"{name}: expected a non-negative integer or one key of jax.random, found {found}")


def check_seed(name: str, seed: Any) -> None:
    """Refuse what is neither a non-negative integer nor a key, and traced keys, for what draws on the host.

    Raises
    ------
    DataError
    """
    if isinstance(seed, jax.core.Tracer):
        raise DataError(f"{name}: found a traced key, expected one with a value; jaxlmm.pure has what can be traced")
    if not is_key(seed):
        _check_number(name, seed)


def generator_of(name: str, seed: Any) -> np.random.Generator:
    """NumPy's generator of a seed, or of the words of a key."""
    check_seed(name, seed)
    return np.random.default_rng(_words(seed) if is_key(seed) else seed)


def integer_of(name: str, seed: Any) -> Any:
    """A seed as a number, made from the words of a key; other things as they are."""
    return int(generator_of(name, seed).integers(2**62)) if is_key(seed) else seed


@unguarded
def _words(key: Any) -> list[int]:
    return [int(word) for word in np.asarray(key if key.dtype == np.uint32 else jax.random.key_data(key))]
