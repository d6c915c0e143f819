"""Where the levels of two factors meet: products with the sparse matrix of their cross-products.

A level's entries are kept in rows of a few, padded; a product gathers each of these and adds it to a running sum in one
loop of XLA, which takes a few tenths of a nanosecond an entry where vectors fit in the cache (scatter-add, and
gathering a whole row at once, take twenty times as long).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ....pytrees import frozen_pytree
from ..orthogonal import fine, pad_first

WIDTH = 8  # entries in a row


@frozen_pytree(data=("index", "value", "owner"), meta=("levels",))
@dataclass(frozen=True, eq=False)
class Meeting:
    """Blocks (q, r) of cross-products between the levels of one factor (m of them) and those that they meet of another.

    Attributes
    ----------
    index : (rows, width) level of the other factor
    value : (rows, width, q, r), zeros where there is no entry; of the smallest type that has these numbers exactly
    owner : (rows,) level of the first factor, ascending; rows of zeros behind belong to the last
    """

    index: Any
    value: Any
    owner: Any
    levels: int

    @classmethod
    def of(cls, start: np.ndarray, other: np.ndarray, value: np.ndarray) -> Meeting:
        """From entries, those of level i from start[i] on: levels of the other factor, and blocks (NumPy)."""
        width, levels = max(1, WIDTH // value.shape[-1]), len(start) - 1
        count = np.diff(start)
        rows = -(-count // width)
        place = np.repeat((np.cumsum(rows) - rows) * width - start[:-1], count)
        place += np.arange(len(place))
        total = fine(int(rows.sum()))  # few sizes, so that programs are shared
        index = np.zeros(total * width, np.int32)
        index[place] = other
        kind = next((k for k in (np.int8, np.float32) if np.array_equal(_cast(value, k), value)), value.dtype)
        values = np.zeros((total * width, *value.shape[1:]), kind)
        values[place] = value
        owner = pad_first(np.repeat(np.arange(levels, dtype=np.int32), rows), total, levels - 1)
        return cls(index.reshape(total, width), values.reshape(total, width, *value.shape[1:]), owner, levels)

    def __call__(self, x: Array) -> Array:
        """Product (m, q, b) with x (levels of the other factor, r, b)."""
        index, value = jnp.asarray(self.index), jnp.asarray(self.value)
        _, width, _, r = value.shape
        parts = [
            value[:, w, :, d, None].astype(x.dtype) * _taken(x[:, d], index[:, w])[:, None]
            for w in range(width)
            for d in range(r)
        ]
        return self._summed(sum(parts[1:], parts[0]))

    def squared(self, K: Array) -> Array:
        """Sums (q, q, m) of ``B_j K_j B_j'`` over the blocks of each level, for K (r, r, levels of the other)."""
        index, value = jnp.asarray(self.index), jnp.asarray(self.value)
        _, width, _, r = value.shape

        def entry(w: int, c: int) -> Array:
            return value[:, w, :, c].astype(K.dtype)

        parts = [
            entry(w, c)[:, :, None] * entry(w, d)[:, None] * _taken(K[c, d], index[:, w])[:, None, None]
            for w in range(width)
            for c in range(r)
            for d in range(r)
        ]
        return jnp.moveaxis(self._summed(sum(parts[1:], parts[0])), 0, -1)

    def _summed(self, parts: Array) -> Array:
        return jax.ops.segment_sum(parts, jnp.asarray(self.owner), self.levels, indices_are_sorted=True)


def _taken(x: Array, index: Array) -> Array:
    return x.at[index].get(mode="promise_in_bounds")


def _cast(value: np.ndarray, kind: Any) -> np.ndarray:
    with np.errstate(all="ignore"):
        return value.astype(kind)


def meetings(
    codes: tuple[np.ndarray, ...], Z: tuple[np.ndarray, ...], levels: tuple[int, ...]
) -> tuple[tuple[Meeting | None, ...], ...]:
    """Meetings of each factor with each other one from rows: codes (n,), designs (n, q) (NumPy)."""
    from scipy.sparse import coo_array

    found: list[list[Meeting | None]] = [[None] * len(codes) for _ in codes]
    for t in range(len(codes)):
        for u in range(t + 1, len(codes)):
            shape, pair = (levels[t], levels[u]), (codes[t], codes[u])
            blocks = [[coo_array((a * d, pair), shape).tocsr() for d in Z[u].T] for a in Z[t].T]
            found[t][u] = _of_blocks(blocks)
            found[u][t] = _of_blocks([[block.T.tocsr() for block in column] for column in zip(*blocks, strict=True)])
    return tuple(tuple(row) for row in found)


def _of_blocks(blocks: Sequence[Sequence[Any]]) -> Meeting:
    """From sparse matrices with the same places, one an entry of the blocks (q, r)."""
    value = np.stack([np.stack([block.data for block in row], -1) for row in blocks], 1)
    return Meeting.of(blocks[0][0].indptr, blocks[0][0].indices, value)
