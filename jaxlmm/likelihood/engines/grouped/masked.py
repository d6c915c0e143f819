"""Statistics of columns that each lack rows of their own, from the design that they share (NumPy).

Cross-products of the rows that are there are linear in the mask (one or zero a row), so that those of all data sets are
one product of a sparse matrix with the masks. Within orthonormal columns of the complete groups nothing cancels until
hardly a row is left; where it does, the data set is left to an orthogonalisation of its rows (`batches.stacked`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ....linalg import psd_cholesky, thin
from ....tolerances import CANCELLED, PIVOT
from ..base import Rows
from ..layout import Layout
from ..orthogonal import Projection, bucket, orthogonalise, pad_last, row_keys
from .elimination import Factor
from .engine import Grouped, stack_rows

SHARED = 8  # patterns of groups, at most, whose groups are replaced by fewer with the same sums


class MaskedPart(NamedTuple):
    """Statistics of some data sets: of groups with a common F for each of `shared`, and of the others one by one."""

    S: np.ndarray  # (b, shared, q r, q r) sums of vec(B) vec(B)'
    members: np.ndarray  # (b, shared) number of groups
    F: np.ndarray  # (b, q, q, others)
    B: np.ndarray  # (b, q, r, others)
    there: np.ndarray  # (b, others) one where there is a group
    E: np.ndarray  # (b, r, r)
    groups: np.ndarray  # (b,) groups with rows
    known: np.ndarray  # (b,) whether all digits are there


class Masked:
    """The design side of the grouped engine for the last column of U, some rows of which are missing.

    Parameters
    ----------
    fixed : (n, f) orthonormal columns of U that all data sets share
    Z : random designs, rows multiplied by sqrt(weights);  layout : with one factor
    """

    def __init__(self, fixed: np.ndarray, Z: tuple[np.ndarray, ...], layout: Layout):
        inner, _ = stack_rows(Rows(fixed, Z), layout, np)
        self.F, units = orthogonalise(inner, layout.codes, layout.groups, np)
        self.q, self.f, self.layout, self.fixed = len(units), fixed.shape[1], layout, fixed
        self.along = Projection(units, layout.codes, layout.groups)
        pairs = [units[i] * units[j] for i in range(self.q) for j in range(i + 1)]
        pairs += [unit * column for unit in units for column in fixed.T]
        self.products = Projection(pairs, layout.codes, layout.groups)
        self.keys = Projection([np.ones(len(fixed))], layout.codes, layout.groups).T.astype(np.uint64)
        self.row_keys = row_keys(inner, layout.codes, layout.groups)[0]

    def shared(self, there: np.ndarray) -> dict[int, np.ndarray]:
        """Keys of groups, with their F (q, q), of which these masks (n, b) have more than there are numbers in B."""
        if not self.q:
            return {}
        keys, counts = np.unique(self._keys(there), return_counts=True)
        most = np.argsort(-counts)[:SHARED]
        often = [k for k in keys[most[counts[most] > (self.q * (self.f + 1) + 1) * there.shape[1]]] if k]
        found, at = self._factors(there.astype(float))[0], self._keys(there)
        return {k: found[..., g, lane] for k in often for g, lane in [np.argwhere(at == k)[0]]}

    def __call__(
        self, there: np.ndarray, left: np.ndarray, inverse: np.ndarray, shared: dict[int, np.ndarray]
    ) -> MaskedPart:
        """Statistics of masks and residuals (n, b), with inverses (b, f, f) of the R of `fixed` in the rows present."""
        mask, q, b = there.astype(float), self.q, there.shape[1]
        F, own, products, known = self._factors(mask)
        B = np.empty((q, self.f + 1, self.layout.groups, b))
        for j in range(q):
            for k in range(self.f):
                done = sum((own[j, i] * B[i, k] for i in range(j)), np.zeros(()))
                B[j, k] = _divided(products[q * (q + 1) // 2 + j * self.f + k] - done, own[j, j])
        for k in reversed(range(self.f)):  # to the orthonormal columns of the rows present
            B[:, k] = sum((B[:, m] * inverse[:, m, k] for m in range(k)), B[:, k] * inverse[:, k, k])
        B[:, -1], rest = self._residual(left, mask, own)
        vec = np.ascontiguousarray(np.moveaxis(B, 3, 0)).reshape(b, q * (self.f + 1), self.layout.groups)
        E = np.empty((b, self.f + 1, self.f + 1))
        E[:, :-1, :-1] = np.eye(self.f)
        for j in range(q):
            inside = vec[:, j * (self.f + 1) : j * (self.f + 1) + self.f]
            E[:, :-1, :-1] -= inside @ np.swapaxes(inside, 1, 2)
        E[:, :-1, -1] = E[:, -1, :-1] = np.einsum("kb,bkj->bj", thin(self.fixed.T, rest), inverse)
        E[:, -1, -1] = np.sum(rest**2, 0)
        known &= E[:, -1, -1] > CANCELLED * np.sum(left**2, 0)
        keys = self._keys(there)
        present = keys != 0
        alone = present.T.copy()
        S, count = np.empty((b, len(shared), *vec.shape[1:2] * 2)), np.empty((b, len(shared)), int)
        for k, key in enumerate(shared):
            is_one = (keys == key).T
            S[:, k] = (vec * is_one[:, None]) @ np.swapaxes(vec, 1, 2)
            count[:, k] = is_one.sum(1)
            alone &= ~is_one
        lane, group = np.nonzero(alone)
        place = np.arange(len(lane)) - np.searchsorted(lane, np.arange(b))[lane]
        others = int(place.max(initial=-1)) + 1
        outs = np.zeros((b, q, q, others)), np.zeros((b, q, self.f + 1, others)), np.zeros((b, others))
        outs[0][lane, :, :, place] = np.moveaxis(F[:, :, group, lane], -1, 0)
        outs[1][lane, :, :, place] = vec[lane, :, group].reshape(len(lane), q, self.f + 1)
        outs[2][lane, place] = 1.0
        return MaskedPart(S, count, *outs, E, present.sum(0), known)

    def _keys(self, there: np.ndarray) -> np.ndarray:
        """Keys (groups, b), equal where groups have the same rows of Z, zero where they have none."""
        return self.keys @ (there * self.row_keys[:, None])

    def _factors(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """F of Z (q, q, groups, b) and of the orthonormal columns; products of these; and whether F has all digits."""
        q, groups, b = self.q, self.layout.groups, mask.shape[1]
        products = (self.products.T @ mask).reshape(-1, groups, b)
        own, known = np.zeros((q, q, groups, b)), np.ones(b, bool)
        for j in range(q):
            square = products[j * (j + 1) // 2 + j]
            pivot = square - np.sum(own[j, :j] ** 2, 0)
            there = pivot > PIVOT * square
            known &= ~np.any(there & (pivot < CANCELLED * square), 0)
            own[j, j] = np.sqrt(np.where(there, pivot, 0.0))
            for i in range(j + 1, q):
                left = products[i * (i + 1) // 2 + j] - np.sum(own[i, :j] * own[j, :j], 0)
                own[i, j] = _divided(left, own[j, j])
        return np.einsum("ijg,jkgb->ikgb", self.F, own), own, products, known

    def _residual(self, left: np.ndarray, mask: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (q, groups, b) of columns along the orthonormal columns of the rows present, and what is left."""
        total = np.zeros((self.q, self.layout.groups, left.shape[1]))
        for _ in range(2 if self.q else 0):
            part = np.reshape(self.along.T @ left, total.shape)
            for j in range(self.q):
                part[j] = _divided(part[j] - np.sum(own[j, :j] * part[:j], 0), own[j, j])
            total = total + part
            for j in reversed(range(self.q)):
                part[j] = _divided(part[j] - np.sum(own[j + 1 :, j] * part[j + 1 :], 0), own[j, j])
            left = left - mask * (self.along.back @ part.reshape(-1, left.shape[1]))
        return total, left

    def finished(
        self, parts: list[MaskedPart], shared: dict[int, np.ndarray], count: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Grouped]]:  # fmt: skip
        """Positions of data sets of one padded number of groups and their statistics; `count` (b,) rows of each."""
        q, r = self.q, self.f + 1
        most = max(part.there.shape[1] for part in parts)
        S, members, E = (np.concatenate([getattr(part, name) for part in parts]) for name in ("S", "members", "E"))
        F, B, there = (
            np.concatenate([pad_last(getattr(part, name), most) for part in parts]) for name in ("F", "B", "there")
        )
        pseudo = len(shared) * q * r
        root = np.moveaxis(psd_cholesky(S), 1, 2).reshape(len(S), q, r, pseudo)
        of_shared = [np.repeat(found[..., None], q * r, -1) for found in shared.values()]
        first = np.concatenate([np.zeros((q, q, 0)), *of_shared], -1)
        F = np.concatenate([np.broadcast_to(first, (len(F), *first.shape)), F], -1)
        B = np.concatenate([root, B], -1)
        weight = np.concatenate([np.repeat(members / max(q * r, 1), q * r, 1), there], 1)
        needed = np.array([bucket(pseudo + int(k)) for k in there.sum(1)], int)
        meta = (self.layout.inner, (), (), 1, r)
        for size in map(int, np.unique(needed)):
            rows = np.flatnonzero(needed == size)
            F_, B_, own = (pad_last(a[rows][..., :size], size) for a in (F, B, weight))
            parent = np.zeros((len(rows), size), np.int32)
            yield rows, Grouped(count[rows], Factor(F_, B_, E[rows][..., None]), None, own, parent, None, meta)


def _divided(a: np.ndarray, by: np.ndarray) -> np.ndarray:
    """A / by, zero where `by` is."""
    return np.divide(a, by, out=np.zeros(np.broadcast_shapes(a.shape, by.shape)), where=by != 0)
