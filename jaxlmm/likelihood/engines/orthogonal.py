"""Sufficient statistics of groups from rows, by orthogonalisation: ``Z = Q F'``, ``B = Q'W`` and what is left of W."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...linalg import psd_cholesky
from ...tolerances import ABSENT, ARITHMETIC, EPS, SAME_BITS, SPANNED

SOME = 2**16  # rows that are hashed at a time, in the cache


def group_sum(x: Any, codes: Any, groups: int, xp: Any) -> Any:
    """Sum rows x (n, ...) by group: (groups, ...)."""
    if xp is not np:
        return jax.ops.segment_sum(x, codes, groups)
    if x.ndim == 1:
        return np.bincount(codes, x, groups)
    flat = x.reshape(len(x), -1)
    out = np.stack([np.bincount(codes, column, groups) for column in flat.T], -1) if flat.shape[1] else flat[:groups]
    return out.reshape(groups, *x.shape[1:])


def orthogonalise(Z: Any, codes: Any, groups: int, xp: Any, tolerance: float = ABSENT) -> tuple[Any, list[Any]]:
    """Gram-Schmidt, twice, on the columns of Z (n, q) in all groups at once.

    Returns
    -------
    F (q, q, groups) lower triangular with Z_g'Z_g = F_g F_g', and q columns (n,), orthonormal within every group,
    with Z_g = Q_g F_g'. A column of Z without a part of its own in a group (single rows, repeated values) has a
    zero row and column of F there; `tolerance` is the part of its length that is none.
    """
    q = Z.shape[1]
    F = [[xp.zeros(groups)] * q for _ in range(q)]
    units: list[Any] = []
    for j in range(q):
        z = Z[:, j]
        size = group_sum(z * z, codes, groups, xp)
        for _ in range(2):
            for i, unit in enumerate(units):
                part = group_sum(unit * z, codes, groups, xp)
                F[j][i] = F[j][i] + part
                z = z - unit * part[codes]
        left = group_sum(z * z, codes, groups, xp)
        present = left > tolerance**2 * size
        norm = xp.sqrt(xp.where(present, left, 1.0))
        F[j][j] = xp.where(present, norm, 0.0)
        units.append(z * xp.where(present, 1.0 / norm, 0.0)[codes])
    return xp.stack([xp.stack(row) for row in F]) if q else xp.zeros((0, 0, groups)), units


def project(units: list[Any], W: Any, codes: Any, groups: int, xp: Any) -> tuple[Any, Any]:
    """Split W (n, r) along orthonormal columns: B (q, r, groups) with B_g = Q_g'W_g, and what is left of W."""
    B: list[Any] = []
    W = np.array(W, order="F") if xp is np else W
    for unit in units:
        total = xp.zeros((groups, W.shape[1]))
        for _ in range(2):
            if xp is np:  # a column at a time, which takes the memory of one
                for j, w in enumerate(W.T):
                    part = np.bincount(codes, unit * w, groups)
                    total[:, j] += part
                    w -= unit * part[codes]
                continue
            part = group_sum(unit[:, None] * W, codes, groups, xp)
            total = total + part
            W = W - unit[:, None] * part[codes]
        B.append(total.T)
    return xp.stack(B) if B else xp.zeros((0, W.shape[1], groups)), W


class Projection:
    """`project` for many columns at once: the orthonormal columns of all groups as one sparse matrix (NumPy)."""

    def __init__(self, units: list[np.ndarray], codes: np.ndarray, groups: int):
        from scipy.sparse import csr_array

        q, n = len(units), len(codes)
        values = np.concatenate([*units, np.zeros(0)])
        rows = (np.arange(q)[:, None] * groups + codes).ravel()
        self.shape = (q, groups)
        self.T = csr_array((values, (rows, np.tile(np.arange(n), q))), shape=(q * groups, n))
        self.back = self.T.T

    def __call__(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (q, groups, b) of columns y (n, b), and what is left of them."""
        total: Any = 0.0
        for _ in range(2):
            part = self.T @ y
            total = total + part
            y = y - self.back @ part
        return np.reshape(total, (*self.shape, y.shape[1])), y


def products(W: Any, component: Any, components: int, xp: Any) -> Any:
    """W_c'W_c by component (r, r, components)."""
    if components == 1:
        return (W.T @ W)[..., None]
    if xp is not np:
        return xp.moveaxis(group_sum(W[:, :, None] * W[:, None, :], component, components, xp), 0, -1)
    order = np.argsort(component, kind="stable")
    bounds = np.searchsorted(component[order], np.arange(components + 1))
    W = W[order]
    parts = [W[a:b].T @ W[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    return np.stack(parts, -1)


@dataclass(frozen=True)
class Patterns:
    """Replacement of groups with the same F by fewer pseudo-groups with the same sums (NumPy, design only).

    Every result depends on the groups of a pattern only through the sum of ``vec(B_g) vec(B_g)'``. The columns of X
    span few directions over the groups of a pattern (rho, often one); rotated onto these, rho pseudo-groups carry X
    and the part of y along them, and q more carry the rest of y, of which only a (q, q) matrix matters.
    (With `count` columns that vary, y and perhaps one of X: q * count more.)

    Attributes
    ----------
    kept : groups that stay as they are;  rotations : (members, V (count, rho)) a compressed pattern
    source : (pseudo-groups,) a group with the F of each;  weight : its share of the log-determinant
    """

    kept: np.ndarray
    rotations: tuple[tuple[np.ndarray, np.ndarray], ...]
    source: np.ndarray
    weight: np.ndarray

    @classmethod
    def find(cls, Z: np.ndarray, codes: np.ndarray, fixed: np.ndarray, count: int = 1) -> Patterns:
        """Patterns of groups from rows Z (n, q) and B (q, f, groups) of the columns that do not vary.

        `count` columns vary (the response, perhaps a column of X) and will be given to `varying`.
        """
        q, groups = len(fixed), fixed.shape[-1]
        rows = fixed.reshape(-1, groups).T
        whole = np.sqrt(np.sum(rows**2, 0))
        most = q * count
        if groups <= most + 1 or q == 0:
            return cls(np.arange(groups), (), np.arange(groups), np.ones(groups))
        keys = same_rows(Z, codes, groups)
        _, first, pattern, counts = np.unique(keys, axis=0, return_index=True, return_inverse=True, return_counts=True)
        pattern = pattern.reshape(-1)
        order = np.argsort(pattern, kind="stable")
        bounds = np.concatenate([[0], np.cumsum(counts)])
        kept, rotations, source, weight = [], [], [], []
        for k, members_count in enumerate(counts):
            members = order[bounds[k] : bounds[k + 1]]
            V = _row_space(rows[members], whole) if members_count > most + 1 else None
            if V is None or V.shape[1] + most >= members_count:
                kept.append(members)
                continue
            rotations.append((members, V))
            pseudo = V.shape[1] + most
            source.append(np.full(pseudo, first[k]))
            weight.append(np.full(pseudo, members_count / pseudo))
        stay = np.concatenate([np.zeros(0, int), *kept])
        return cls(
            stay, tuple(rotations), np.concatenate([stay, *source]), np.concatenate([np.ones(len(stay)), *weight])
        )

    def fixed(self, B: np.ndarray, count: int = 1) -> np.ndarray:
        """Columns that do not vary (q, f, groups) for the pseudo-groups: (q, f, pseudo-groups)."""
        q, f = B.shape[:2]
        parts = [B[..., self.kept]]
        for members, V in self.rotations:
            parts += [B[..., members] @ V, np.zeros((q, f, q * count))]
        return np.concatenate(parts, -1)

    def varying(self, B: np.ndarray) -> np.ndarray:
        """Columns that vary (q, b, count, groups) for the pseudo-groups: (q, b, count, pseudo-groups)."""
        q, b, count, _ = B.shape
        parts = [B[..., self.kept]]
        for members, V in self.rotations:
            y = B[..., members]
            along = y @ V
            rest = np.moveaxis(y - along @ V.T, 0, 1).reshape(b, q * count, len(members))
            root = psd_cholesky(rest @ np.swapaxes(rest, 1, 2))
            parts += [along, np.moveaxis(root.reshape(b, q, count, -1), 0, 1)]
        return np.concatenate(parts, -1)


def row_keys(Z: np.ndarray, codes: np.ndarray, groups: int) -> np.ndarray:
    """Keys (2, n) of rows of Z (n, q), the same for rows that are the same.

    Numbers are the same that agree to `SAME_BITS`, or are rounding beside others of their column in their group:
    nothing is compared with another column or group, so that units and weights do not matter. Each row is hashed to
    two integers of 64 bits (the finaliser of splitmix64).
    """
    largest = np.zeros((Z.shape[1], groups))
    for of_column, z in zip(largest, Z.T, strict=True):
        np.maximum.at(of_column, codes, np.abs(z))
    keys = np.zeros((2, len(Z)), np.uint64)
    for start in range(0, len(Z), SOME):
        some = slice(start, start + SOME)
        numbers = []
        for of_column, z in zip(largest, Z[some].T, strict=True):
            small = np.abs(z) <= 8.0 * EPS * of_column[codes[some]]
            fraction, exponent = np.frexp(np.where(small, 0.0, z))
            numbers.append(np.ldexp(np.round(np.ldexp(fraction, SAME_BITS)), exponent - SAME_BITS) + 0.0)  # no -0.0
        for k, seed in enumerate((0x9E3779B97F4A7C15, 0xD1B54A32D192ED03)):
            row = np.full(len(Z[some]), seed, np.uint64)
            for column in numbers:
                row = _mixed(row ^ column.view(np.uint64)) + np.uint64(seed)
            keys[k, some] = _mixed(row)
    return keys


def same_rows(Z: np.ndarray, codes: np.ndarray, groups: int) -> np.ndarray:
    """Keys (groups, 2), sums of `row_keys`: equal where groups have the same rows of Z (n, q), in any order."""
    keys = np.zeros((groups, 2), np.uint64)
    np.add.at(keys, codes, row_keys(Z, codes, groups).T)
    return keys


def _mixed(x: np.ndarray) -> np.ndarray:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def _row_space(M: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Orthonormal V (count, rho) with V V'M = M, every column to its own size; `whole` are sizes over all groups."""
    norms = np.sqrt(np.sum(M**2, 0))
    there = norms > ARITHMETIC * whole
    U, s, _ = np.linalg.svd(M[:, there] / norms[there], full_matrices=False)
    return U[:, s > SPANNED * s.max(initial=0.0)]


def bucket(size: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: at most half as much again."""
    power = 1 << max(size - 1, 0).bit_length()
    return power * 3 // 4 if power >= 4 and size <= power * 3 // 4 else power


def fine(size: int, coarse: int = 32) -> int:
    """The next of 1, 2, 3, 4, 6, 8, ..., `coarse`, and above it in steps of a quarter, from 256 on an eighth at most.

    For levels, clusters and rows. Those that there are not contribute exactly nothing, and programs are shared.
    """
    if size <= coarse:
        return bucket(size)
    step = 1 << (size - 1).bit_length() - (3 if size <= 256 else 4)
    return -(-size // step) * step


def row_bucket(size: int) -> int:
    """Number of rows, or of groups of rows, to work with by rows: coarse, since there time is not what counts."""
    return fine(size, 4096)


def pad_first(x: Any, size: int, value: Any = 0) -> Any:
    """Rows of `value` behind the first axis up to `size`; None is itself."""
    if x is None or len(x) >= size:
        return x
    more = np.full((size - len(x), *x.shape[1:]), value, x.dtype)
    return (np if isinstance(x, np.ndarray) else jnp).concatenate([x, more])


def pad_last(x: np.ndarray, size: int) -> np.ndarray:
    """Add zeros behind the last axis up to `size`: empty groups contribute nothing."""
    return np.concatenate([x, np.zeros((*x.shape[:-1], size - x.shape[-1]), x.dtype)], -1)
