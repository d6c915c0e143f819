"""Sufficient statistics of groups from rows, by orthogonalisation: ``Z = Q F'``, ``B = Q'W``, ``E`` the rest."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from .elimination import Factor

RANK_TOLERANCE = 1e-10


def group_sum(x: Any, codes: Any, groups: int, xp: Any) -> Any:
    """Sum rows x (n, ...) by group: (groups, ...)."""
    if xp is not np:
        return jax.ops.segment_sum(x, codes, groups)
    if x.ndim == 1:
        return np.bincount(codes, x, groups)
    flat = x.reshape(len(x), -1)
    out = np.stack([np.bincount(codes, column, groups) for column in flat.T], -1) if flat.shape[1] else flat[:groups]
    return out.reshape(groups, *x.shape[1:])


def orthogonalise(
    Z: Any, W: Any, codes: Any, groups: int, component: Any, components: int, xp: Any
) -> tuple[Any, Any, Any]:
    """Gram-Schmidt, twice, in all groups at once.

    Parameters
    ----------
    Z (n, q), W (n, r) : rows;  codes (n,), component (n,) : group and component of each row.

    Returns
    -------
    F (groups, q, q) lower triangular with Z_g'Z_g = F_g F_g', B (groups, q, r) with Z_g'W_g = F_g B_g, and
    E (components, r, r), the cross-products of what is left of W. A column of Z without a part of its own in
    a group (single rows, repeated values) has a zero row and column there.
    """
    q, r = Z.shape[1], W.shape[1]
    F = [[xp.zeros(groups)] * q for _ in range(q)]
    B: list[Any] = []
    Q: list[Any] = []
    for j in range(q):
        z = Z[:, j]
        size = group_sum(z * z, codes, groups, xp)
        for _ in range(2):
            for i, unit in enumerate(Q):
                part = group_sum(unit * z, codes, groups, xp)
                F[j][i] = F[j][i] + part
                z = z - unit * part[codes]
        left = group_sum(z * z, codes, groups, xp)
        present = left > RANK_TOLERANCE**2 * size
        norm = xp.sqrt(xp.where(present, left, 1.0))
        F[j][j] = xp.where(present, norm, 0.0)
        Q.append(z * xp.where(present, 1.0 / norm, 0.0)[codes])
    for unit in Q:
        total = xp.zeros((groups, r))
        for _ in range(2):
            part = group_sum(unit[:, None] * W, codes, groups, xp)
            total = total + part
            W = W - unit[:, None] * part[codes]
        B.append(total)
    factor = xp.stack([xp.stack(row, -1) for row in F], -2) if q else xp.zeros((groups, 0, 0))
    coefficients = xp.stack(B, -2) if q else xp.zeros((groups, 0, r))
    return factor, coefficients, _products(W, component, components, xp)


def _products(W: Any, component: Any, components: int, xp: Any) -> Any:
    """W_c'W_c by component (components, r, r)."""
    if components == 1:
        return (W.T @ W)[None]
    if xp is not np:
        return group_sum(W[:, :, None] * W[:, None, :], component, components, xp)
    order = np.argsort(component, kind="stable")
    bounds = np.searchsorted(component[order], np.arange(components + 1))
    W = W[order]
    parts = [W[a:b].T @ W[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    return np.stack(parts)


def compress_patterns(factor: Factor, weight: np.ndarray) -> tuple[Factor, np.ndarray]:
    """Replace groups with the same F by pseudo-groups with the same sums (NumPy).

    Every result depends on the groups of a pattern only through ``sum_g vec(B_g) vec(B_g)'``, of rank at most
    q r; its triangular factor gives q r pseudo-groups, each counting for its share of the log-determinant.
    """
    F, B, E = factor
    groups, q, r = B.shape
    if groups <= q * r:
        return factor, weight
    scale = np.abs(F).max(initial=0.0) or 1.0
    keys = np.round(F.reshape(groups, -1) / scale, 11) + 0.0
    _, first, pattern, counts = np.unique(keys, axis=0, return_index=True, return_inverse=True, return_counts=True)
    pattern = pattern.reshape(-1)
    if not np.any(counts > q * r):
        return factor, weight
    order = np.argsort(pattern, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(counts)])
    parts: list[np.ndarray] = []
    index: list[int] = []
    weights: list[float] = []
    for k, count in enumerate(counts):
        members = B[order[bounds[k] : bounds[k + 1]]].reshape(count, -1)
        kept: Any = np.linalg.qr(members, mode="r") if count > q * r else members
        parts.append(kept)
        index += [int(first[k])] * len(kept)
        weights += [count / len(kept)] * len(kept)
    return Factor(F[index], np.concatenate(parts).reshape(-1, q, r), E), np.array(weights)


def bucket(size: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: at most half as much again."""
    power = 1 << max(size - 1, 0).bit_length()
    return power * 3 // 4 if power >= 4 and size <= power * 3 // 4 else power


def pad_groups(
    factor: Factor, weight: np.ndarray, parent: np.ndarray, components: int
) -> tuple[Factor, np.ndarray, np.ndarray]:
    """Add empty groups, which contribute nothing, up to the next bucket, so that compiled code is shared."""
    groups = len(weight)
    extra = bucket(groups) - groups
    parent = parent[:groups] if components > 1 else np.zeros(groups, np.int32)

    def pad(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros((extra, *x.shape[1:]), x.dtype)])

    return Factor(pad(factor.F), pad(factor.B), factor.E), pad(weight), pad(parent)
