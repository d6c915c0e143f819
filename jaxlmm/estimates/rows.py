"""Covariances between rows, part by part: ``V = sum_t V_t``, for rows of the data and rows that were not observed.

A part is a random term or random function of the model, or its residual. V is linear in the covariance block of a
part, so one class serves V itself and its derivatives in the covariance parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..fitting.estimate import conditioned_blocks
from ..fitting.units import Estimate
from ..likelihood.engines.marginal.layout import relatives
from ..likelihood.model import Model
from ..likelihood.parts import Field, Term


@dataclass(frozen=True, eq=False)
class TermRows:
    """A term at N rows: ``Cov = Z_i G Z_j' A[codes_i, codes_j]``.

    Attributes
    ----------
    Z : (N, q);  codes : (N,) levels, those beyond the relationship matrix are independent of all others
    kin : (m, m) relationship matrix A, or None
    """

    Z: np.ndarray
    codes: np.ndarray
    kin: np.ndarray | None = None

    def between(self, block: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Covariances between rows i and rows j, which are broadcast; `block` (q, q) is that of the effects."""
        out = np.sum((self.Z[i] @ block) * self.Z[j], -1)
        a, b = self.codes[i], self.codes[j]
        if self.kin is None:
            return out * (a == b)
        m = len(self.kin)
        known = (a < m) & (b < m)
        return out * np.where(known, self.kin[np.minimum(a, m - 1), np.minimum(b, m - 1)], a == b)

    @property
    def ties(self) -> np.ndarray:
        """Codes (N,) of what ties rows together: levels, or relatives."""
        if self.kin is None:
            return self.codes
        m = len(self.kin)
        families = relatives(self.kin)
        return np.where(self.codes < m, families[np.minimum(self.codes, m - 1)], families.max() + 1 + self.codes)

    @cached_property
    def incidence(self) -> Any:
        """Z by level (levels * q, N), sparse."""
        levels, q = int(self.codes.max()) + 1, self.Z.shape[1]
        return sparse_rows(self.Z, self.codes[:, None] * q + np.arange(q), levels * q)

    def collected(self, B: np.ndarray) -> np.ndarray:
        """``Z'B`` by level (levels, q, b), for B (N, b)."""
        return (self.incidence @ B).reshape(-1, self.Z.shape[1], B.shape[1])

    def mixed(self, block: np.ndarray, S: np.ndarray) -> np.ndarray:
        """``(A (x) G) S`` by level, for S from `collected`."""
        out = block[0, 0] * S if len(block) == 1 else np.einsum("qr,lrb->lqb", block, S)
        if self.kin is not None:
            m = len(self.kin)
            if len(out) < m:
                out = np.concatenate([out, np.zeros((m - len(out), *out.shape[1:]))])
            out[:m] = np.tensordot(self.kin, out[:m], 1)
        return out

    def spread(self, S: np.ndarray) -> np.ndarray:
        """``Z S`` by row (N, b)."""
        S = S[: int(self.codes.max()) + 1]
        return self.incidence.T @ S.reshape(-1, S.shape[2])


@dataclass(frozen=True, eq=False)
class FieldRows:
    """A random function, or the residual, at N rows: ``Cov = scale_i scale_j block[place_i, place_j]`` in a group.

    Attributes
    ----------
    group, place : (N,) group, and place in the block of the group
    scale : (N,) factor of every row, zero where the part is not there
    coords : (K, T, ...) sets of coordinates, or None;  sets : (groups,) the set of each group
    """

    group: np.ndarray
    place: np.ndarray
    scale: np.ndarray
    coords: Any = None
    sets: np.ndarray | None = None

    @classmethod
    def of(cls, field: Field, scale: np.ndarray) -> FieldRows:
        """From the arrays of a random function; without groups every row is one."""
        if field.group is None:
            n = len(scale)
            return cls(np.arange(n), np.zeros(n, int), scale)
        return cls(np.asarray(field.group), np.asarray(field.position), scale, field.coords, field.sets)

    def between(self, block: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """As `TermRows.between`; `block` is (T, T), or (K, T, T) for sets of coordinates."""
        a, b = self.group[i], self.group[j]
        where = (self.place[i], self.place[j])
        values = block[where] if self.sets is None else block[(self.sets[a], *where)]
        return np.where(a == b, values, 0.0) * self.scale[i] * self.scale[j]

    @property
    def ties(self) -> np.ndarray:
        """As `TermRows.ties`; rows where the part is not there are on their own."""
        alone = self.group.max() + 1 + np.arange(len(self.group))
        return np.where(self.scale == 0, alone, self.group)

    @property
    def places(self) -> int:
        """Size of the block of a group."""
        return int(self.place.max()) + 1 if self.coords is None else self.coords.shape[1]

    @cached_property
    def incidence(self) -> Any:
        """Scales by group and place (groups * T, N), sparse."""
        T, groups = self.places, int(self.group.max()) + 1
        return sparse_rows(self.scale[:, None], (self.group * T + self.place)[:, None], groups * T)

    def collected(self, B: np.ndarray) -> np.ndarray:
        """Sums by group and place (groups, T, b), for B (N, b)."""
        return (self.incidence @ B).reshape(-1, self.places, B.shape[1])

    def mixed(self, block: np.ndarray, S: np.ndarray) -> np.ndarray:
        """The block of each group times S from `collected`."""
        if self.sets is not None:
            return block[self.sets] @ S
        T = S.shape[1]
        return block[0, 0] * S if T == 1 else np.einsum("tu,gub->gtb", block[:T, :T], S)

    def spread(self, S: np.ndarray) -> np.ndarray:
        """By row (N, b)."""
        return self.incidence.T @ S.reshape(-1, S.shape[2])


Part = TermRows | FieldRows


def sparse_rows(values: np.ndarray, rows: np.ndarray, size: int) -> Any:
    """Matrix (size, N) with values (N, q) of each column in rows (N, q)."""
    from scipy.sparse import csr_array

    columns = np.repeat(np.arange(len(values)), values.shape[1])
    return csr_array((values.ravel(), (rows.ravel(), columns)), shape=(size, len(values)))


def through(parts: Sequence[Part], blocks: Sequence[np.ndarray], B: np.ndarray) -> np.ndarray:
    """``sum_t V_t B`` (N, b)."""
    total = np.zeros_like(B)
    for part, block in zip(parts, blocks, strict=True):
        if np.any(block) and B.size:
            total += part.spread(part.mixed(block, part.collected(B)))
    return total


def parts_of(model: Model, estimate: Estimate) -> tuple[tuple[Part, ...], tuple[np.ndarray, ...]]:
    """The random parts of a fit and its residual at its rows, with their covariance blocks."""
    n = len(model.y)
    one = np.ones(n)
    K, blocks = conditioned_blocks(model, estimate)
    random = [
        TermRows(part.Z @ k, np.asarray(part.group), part.relationship)
        if isinstance(part, Term)
        else FieldRows.of(part, one)
        for part, k in zip(model.random, K, strict=True)
    ]
    own = FieldRows.of(model.residual, one if model.weights is None else one / np.sqrt(model.weights))
    return (*random, own), (*blocks.random, blocks.residual)


def covariance(parts: Sequence[Part], blocks: Sequence[np.ndarray], i: Any, j: Any) -> np.ndarray:
    """Covariances between rows i and rows j, which are broadcast, of all parts together."""
    return np.sum([part.between(np.asarray(G), i, j) for part, G in zip(parts, blocks, strict=True)], 0)
