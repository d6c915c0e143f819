"""Responses that each lack rows of their own, to one design: bases and statistics of all of them at once (NumPy)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..fitting.boundary import has_few_groups
from ..likelihood.model import known_sd
from ..likelihood.prepared import Basis, Prepared, weighted
from ..linalg import psd_cholesky, thin, tril_indices
from ..tolerances import THIN
from .responses import IN_CACHE, Design
from .stacking import Stack, take

OFTEN = 512  # data sets from which a pattern has a design of its own, where the engine has `Engine.masked`
REPEATED = 16  # and where it has not


def patterns(Y: np.ndarray) -> np.ndarray:
    """Codes (b,) of the patterns of missing values of responses (b, n)."""
    packed = np.ascontiguousarray(np.packbits(np.isnan(Y), axis=1))
    return np.unique(packed.view(f"V{packed.shape[1]}").ravel(), return_inverse=True)[1].reshape(-1)


def repeated(design: Design, Y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of responses (b, n) with the same rows missing, where they are many, and the rows that they have."""
    codes = patterns(Y)
    least = REPEATED if design.masked is None else OFTEN
    for code in np.flatnonzero(np.bincount(codes) >= least):
        mine = np.flatnonzero(codes == code)
        yield mine, np.flatnonzero(~np.isnan(Y[mine[0]]))


def stacks_of_masked(design: Design, Y: np.ndarray) -> tuple[Iterator[Stack], np.ndarray]:
    """Stacks of responses Y (b, n), NaN where missing, and positions (m,) of those that are not among them.

    Columns of X that are orthonormal over all rows are made so over those present by a Cholesky factor of their
    products, and columns of Z within each group likewise, see `Masked`. Responses are left over whose rows present
    would lose digits by this, or a column of X: their rows have to be orthogonalised.
    """
    masked, many = design.masked, max(64, IN_CACHE // Y.shape[1])
    shared = masked.shared(~np.isnan(Y[: max(many, 256)]).T)
    Q = design.rows.U
    i, j = tril_indices(Q.shape[1])
    pairs = Q[:, i] * Q[:, j]
    found = [_statistics(design, pairs, Y[i : i + many], shared) for i in range(0, len(Y), many)]
    parts = [part for part, _ in found]
    *own, spread, good = (np.concatenate(arrays) for arrays in zip(*(arrays for _, arrays in found), strict=True))
    shared_by_all = (tuple(np.tile(a, (len(Y), *(1,) * a.ndim)) for a in same) for same in design.template.basis[-2:])
    basis = Basis(*own, *shared_by_all)  # type: ignore[arg-type]
    groups = np.concatenate([part.groups for part in parts])
    free = [t.dim for t in design.model.random if t.structure.is_matrix and t.dim > 1]
    few = np.any([has_few_groups(dim, groups, basis.n) for dim in free] or [np.zeros(len(Y), bool)], 0)

    def stacks() -> Iterator[Stack]:
        for rows, statistics in masked.finished(parts, shared, basis.n):
            mine = np.flatnonzero(good[rows])
            rows = rows[mine]
            if len(rows):
                prepared = Prepared(take(statistics, mine), take(basis, rows), design.model.coords)
                yield Stack(rows, prepared, few[rows], spread[rows])

    return stacks(), np.flatnonzero(~good)


def _statistics(design: Design, pairs: np.ndarray, Y: np.ndarray, shared: Any) -> tuple[Any, tuple[np.ndarray, ...]]:
    """Statistics of some responses; what of `Basis` is their own; spread, and whether all digits are there."""
    model, Q, there = design.model, design.rows.U, ~np.isnan(Y).T
    (b, p), mask = (len(Y), Q.shape[1]), there.astype(float)
    y = weighted(model, np.where(there, (Y if model.offset is None else Y - model.offset).T, 0.0))
    A, (rows, columns) = np.empty((b, p, p)), tril_indices(p)
    A[:, rows, columns] = A[:, columns, rows] = thin(pairs.T, mask).T
    L = psd_cholesky(A)
    whole = np.min(np.diagonal(L, axis1=1, axis2=2), 1, initial=1.0) > THIN
    inverse = np.swapaxes(np.linalg.inv(np.where(whole[:, None, None], L, np.eye(p))), 1, 2)
    c, left = np.zeros((b, p)), y
    for _ in range(2):
        along = np.einsum("bkj,kb->bj", inverse, thin(Q.T, left))
        c, left = c + along, left - mask * thin(Q, np.einsum("bkj,bj->kb", inverse, along))
    part = design.masked(there, left, inverse, shared)
    n, square, total = mask.sum(0), np.sum(left**2, 0), np.sum(y**2, 0)
    sd = np.maximum(np.sqrt(square / np.maximum(n - p, 1)), known_sd(model))
    logs = np.zeros(b) if model.weights is None else np.log(model.weights) @ mask
    spread = np.sqrt(square / np.where(total > 0, total, 1.0))
    return part, (np.swapaxes(L, 1, 2) @ design.R, c, logs, n, np.zeros((b, p)), sd, spread, whole & part.known)
