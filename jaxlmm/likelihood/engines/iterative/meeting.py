"""Where the levels of two factors meet: products with the sparse matrix of their cross-products.

A level's entries are kept in rows of a few, padded; a product gathers each of these and adds it to a running sum in one
loop of XLA, which takes a few tenths of a nanosecond an entry where vectors fit in the cache (scatter-add, and
gathering a whole row at once, take twenty times as long).
"""

from __future__ import annotations

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
    value : (rows, width, q, r), zeros where there is no entry
    owner : (rows,) level of the first factor, ascending; rows of zeros behind belong to the last
    """

    index: Any
    value: Any
    owner: Any
    levels: int

    @classmethod
    def of(cls, first: np.ndarray, other: np.ndarray, value: np.ndarray, levels: int) -> Meeting:
        """From entries with their levels, sorted by the first (NumPy)."""
        width = max(1, WIDTH // value.shape[-1])
        count = np.bincount(first, minlength=levels)
        rows = -(-count // width)
        place = np.arange(len(first)) + np.repeat((np.cumsum(rows) - rows) * width - (np.cumsum(count) - count), count)
        total = fine(int(rows.sum()))  # few sizes, so that programs are shared
        index = np.zeros(total * width, np.int32)
        index[place] = other
        values = np.zeros((total * width, *value.shape[1:]))
        values[place] = value
        owner = pad_first(np.repeat(np.arange(levels, dtype=np.int32), rows), total, levels - 1)
        return cls(index.reshape(total, width), values.reshape(total, width, *value.shape[1:]), owner, levels)

    def __call__(self, x: Array) -> Array:
        """Product (m, q, b) with x (levels of the other factor, r, b)."""
        index, value = jnp.asarray(self.index), jnp.asarray(self.value)
        _, width, _, r = value.shape
        parts = [
            value[:, w, :, d, None] * _taken(x[:, d], index[:, w])[:, None] for w in range(width) for d in range(r)
        ]
        return self._summed(sum(parts[1:], parts[0]))

    def squared(self, K: Array) -> Array:
        """Sums (q, q, m) of ``B_j K_j B_j'`` over the blocks of each level, for K (r, r, levels of the other)."""
        index, value = jnp.asarray(self.index), jnp.asarray(self.value)
        _, width, _, r = value.shape
        parts = [
            value[:, w, :, None, c] * value[:, w, None, :, d] * _taken(K[c, d], index[:, w])[:, None, None]
            for w in range(width)
            for c in range(r)
            for d in range(r)
        ]
        return jnp.moveaxis(self._summed(sum(parts[1:], parts[0])), 0, -1)

    def _summed(self, parts: Array) -> Array:
        return jax.ops.segment_sum(parts, jnp.asarray(self.owner), self.levels, indices_are_sorted=True)


def _taken(x: Array, index: Array) -> Array:
    return x.at[index].get(mode="promise_in_bounds")


def meetings(
    codes: tuple[np.ndarray, ...], Z: tuple[np.ndarray, ...], levels: tuple[int, ...]
) -> tuple[tuple[Meeting | None, ...], ...]:
    """Meetings of each factor with each other one from rows: codes (n,), designs (n, q) (NumPy)."""
    found: list[list[Meeting | None]] = [[None] * len(codes) for _ in codes]
    for t in range(len(codes)):
        for u in range(t + 1, len(codes)):
            key, where = np.unique(codes[t].astype(np.int64) * levels[u] + codes[u], return_inverse=True)
            value = np.empty((len(key), Z[t].shape[1], Z[u].shape[1]))
            for a in range(value.shape[1]):
                for d in range(value.shape[2]):
                    value[:, a, d] = np.bincount(where, Z[t][:, a] * Z[u][:, d], len(key))
            first, other = key // levels[u], key % levels[u]
            found[t][u] = Meeting.of(first, other, value, levels[t])
            order = np.argsort(other, kind="stable")
            found[u][t] = Meeting.of(other[order], first[order], np.swapaxes(value[order], 1, 2), levels[u])
    return tuple(tuple(row) for row in found)
