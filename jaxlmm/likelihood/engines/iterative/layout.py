"""Integer layout of the iterative engine, and the random signs that it works with."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from ....pytrees import frozen_pytree
from ..crossed.layout import factors


@frozen_pytree(data=("codes",), meta=("members", "levels", "options"))
@dataclasses.dataclass(frozen=True, eq=False)
class Incidence:
    """Integer layout of the iterative engine.

    Attributes
    ----------
    codes : (n,) level of each factor, that with most effects first, which is eliminated
    members : positions of the terms of each factor;  levels : a number a factor
    """

    codes: tuple[Any, ...]
    members: tuple[tuple[int, ...], ...]
    levels: tuple[int, ...]
    options: Any


def incidence(
    groups: tuple[np.ndarray, ...], levels: tuple[int, ...], dims: tuple[int, ...], options: Any
) -> Incidence:  # fmt: skip
    """Factors of the terms, from the codes of each (host side, concrete)."""
    members = factors(groups, levels, dims)
    first = [terms[0] for terms in members]
    return Incidence(tuple(groups[t] for t in first), members, tuple(levels[t] for t in first), options)


def random_signs(seed: int, stream: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    """Signs of +-1 that depend on the seed and the stream alone, whatever the precision (NumPy, int8)."""
    with jax.ensure_compile_time_eval():  # theta may be traced around it
        key = jax.random.key(seed)
        for number in stream:
            key = jax.random.fold_in(key, number)
        bits = np.asarray(jax.random.bits(key, shape, "uint8"))
    return (2 * (bits & 1).astype(np.int8) - 1).astype(np.int8)
