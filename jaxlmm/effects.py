"""Best linear unbiased predictors of the random effects, and what is computed from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .design import Field, Term, replace
from .engines import Blocks, Clusters, Iterative, arrange
from .engines.orthogonal import group_sum
from .fitting import Estimate, blocks_at
from .model import Model, Prepared, layout_of, prepare, weighted
from .programs import compiled


@dataclass(frozen=True)
class Effects:
    """Predicted effects of one grouping factor.

    Attributes
    ----------
    terms : positions of the model's terms that share the factor, whose effects stand side by side; or of a field, whose
        value is predicted at every row (m = n, q = 1)
    values : (m, q) predictors ``G Z'V^-1 (y - X beta)`` (Henderson 1975)
    condvar : (m, q, q) their covariance given y, theta and beta, ``G - G Z'V^-1 Z G`` (lme4's ``condVar``);
        NaN by the iterative engine
    pev : (m, q, q) prediction error variance, of the predictors less the effects, with beta estimated: the blocks of
        the inverse of Henderson's mixed model equations, ``condvar + H vcov H'`` with ``H = G Z'V^-1 X``
    """

    terms: tuple[int, ...]
    values: np.ndarray
    condvar: np.ndarray
    pev: np.ndarray


def random_effects(model: Model, estimate: Estimate) -> tuple[Effects, ...]:
    """Predictors and their covariances: an entry a grouping factor in order of first appearance, and a field."""
    if not model.random:
        return ()
    shared: list[list[int]] = []
    for t, part in enumerate(model.random):
        for terms in shared:
            if _is_mergeable(model.random[terms[0]], part):
                terms.append(t)
                break
        else:
            shared.append([t])
    found = blocks_at(model, estimate)
    merged = tuple(_merge([model.random[t] for t in terms]) for terms in shared)
    C = Blocks(tuple(block_diagonal([found.random[t] for t in terms]) for terms in shared), found.residual)
    with jax.enable_x64(True):
        if model.engine in ("grouped", "crossed", "iterative"):
            out = _by_moments(_replanned(model, merged), C, estimate)
        else:
            out = _by_clusters(replace(model, random=merged), C, estimate)
    vcov = np.nan_to_num(estimate.vcov)  # aliased coefficients are zero
    return tuple(
        Effects(tuple(t), np.array(v), np.array(c), c + H @ vcov @ np.swapaxes(H, 1, 2))
        for t, (v, c, H) in zip(shared, out, strict=True)
    )


def _is_mergeable(first: Term | Field, other: Term | Field) -> bool:
    """Whether two parts are effects of the same levels."""
    if isinstance(first, Field) or isinstance(other, Field) or not np.array_equal(first.group, other.group):
        return False
    A, B = first.relationship, other.relationship
    return A is B or (A is not None and B is not None and np.array_equal(A, B))


def _replanned(model: Model, merged: tuple[Term, ...]) -> Model:
    """The model with merged terms."""
    if len(merged) == len(model.random):
        return model
    options = model.layout.options if model.engine == "iterative" else Iterative()
    layout = layout_of(model.engine, merged, len(model.y), options)
    return replace(model, random=merged, layout=layout)


def _by_moments(model: Model, C: Blocks, estimate: Estimate) -> Any:
    prepared = prepare(model, compact=False)
    found = jax.device_get(_posterior(prepared, C, prepared.basis.R @ estimate.coef - prepared.basis.c))
    return [[a[: part.levels] for a in each] for part, each in zip(model.terms, found, strict=True)]


@compiled()
def _posterior(prepared: Prepared, C: Blocks, beta: Array) -> list[tuple[Array, Array, Array]]:
    """Mean and covariance of the effects given the data, and H of `Effects`; beta in internal coordinates."""
    moments = prepared.statistics.moments(Blocks(tuple(jnp.asarray(G) for G in C.random), jnp.asarray(C.residual)))
    out = []
    for G, N, M in zip(C.random, moments.N, moments.M, strict=True):
        values = (N[..., -1] - N[..., :-1] @ beta) @ G
        out.append((values, G - G @ M @ G, G @ N[..., :-1] @ prepared.basis.R))
    return out


def _by_clusters(model: Model, C: Blocks, estimate: Estimate) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Mean and covariance of the effects, and H of `Effects`, from V^-1 by clusters (NumPy, once a fit).

    With ``c = Cov(u, y)`` the effects have mean ``c V^-1 (y - X beta)`` and covariance ``Cov(u) - c V^-1 c'``; rows of
    y depend on effects within their cluster only, unless terms are outer, whose moments the engine has.
    """
    layout = arrange(model.random, model.residual, len(model.y))
    model = replace(model, engine="marginal", layout=layout)
    statistics = prepare(model, compact=False).statistics
    rest = weighted(model, model.y - linear_predictor(model.X, estimate.coef, model.offset))
    columns = np.column_stack([rest, weighted(model, model.X)])
    blocks, solved, inverses, M = jax.device_get(_solved(statistics, C, columns))
    out: list[Any] = []
    for t, (part, G) in enumerate(zip(model.random, C.random, strict=True)):
        if isinstance(part, Field):
            root = weighted(model, np.ones(len(rest)))
            found, variances = np.zeros_like(solved), np.zeros(len(rest))
            for row, K, V in _clusters(layout, blocks[t], inverses):
                K = K / root[row]  # the covariance of the function with the rows
                found[row] = K.T @ solved[row]
                variances[row] = np.diagonal(K).copy() / root[row] - np.sum(K * (V @ K), 0)
            out.append((found[:, :1], variances[:, None, None], found[:, None, 1:]))
            continue
        Z = weighted(model, part.Z)
        A = part.relationship
        N = np.stack([group_sum(Z * s[:, None], part.group, part.levels, np) for s in solved.T], -1)
        found = G @ (N if A is None else np.tensordot(A, N, 1))
        values, H = found[..., 0], found[..., 1:]
        if t in layout.outer:
            out.append((values, G - G @ M[layout.outer.index(t)][: part.levels] @ G, H))
            continue
        cov = np.tile(G, (part.levels, 1, 1)) * (1.0 if A is None else np.diagonal(A)[:, None, None])
        for row, _, V in _clusters(layout, inverses, inverses):
            levels = np.unique(part.group[row])
            between = levels[:, None] == part.group[row] if A is None else A[np.ix_(levels, part.group[row])]
            c = between[:, None, :] * (G @ Z[row].T)  # (levels, q, rows)
            cov[levels] -= c @ V @ np.swapaxes(c, 1, 2)
        out.append((values, cov, H))
    return out


@compiled()
def _solved(statistics: Any, C: Blocks, B: Array) -> Any:
    """Covariances of the fields by cluster, V^-1 B, V^-1 by cluster, and Z'V^-1 Z of outer terms by level."""
    C = Blocks(tuple(jnp.asarray(G) for G in C.random), jnp.asarray(C.residual))
    inner = [None if t in statistics.outer else statistics.covariance(C, t) for t in range(len(C.random))]
    return inner, statistics.solve(C, B), statistics.inverse(C), statistics.moments(C).M


def _clusters(layout: Clusters, blocks: Any, inverses: Any) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows of each cluster, with the matrices (T, T) between them of two lists by bucket."""
    n = len(layout.component)
    for bucket, K, V in zip(layout.buckets, blocks, inverses, strict=True):
        for row, k, v in zip(bucket.row, K, V, strict=False):  # behind these are clusters without rows
            here = np.flatnonzero(row < n)
            yield row[here], k[np.ix_(here, here)], v[np.ix_(here, here)]


def _merge(terms: list[Any]) -> Any:
    return terms[0] if len(terms) == 1 else replace(terms[0], Z=np.concatenate([t.Z for t in terms], 1))


def block_diagonal(blocks: list[np.ndarray]) -> np.ndarray:
    """Block diagonal matrix of square blocks; a single one, whatever its shape, is itself."""
    if len(blocks) == 1:
        return blocks[0]
    q = sum(len(b) for b in blocks)
    out = np.zeros((q, q))
    start = 0
    for b in blocks:
        out[start : start + len(b), start : start + len(b)] = b
        start += len(b)
    return out


def linear_predictor(
    X: np.ndarray, coef: np.ndarray, offset: np.ndarray | None,
    terms: tuple[tuple[np.ndarray, np.ndarray], ...] = (), effects: tuple[np.ndarray, ...] = (),
) -> np.ndarray:  # fmt: skip
    """``X beta + offset + sum_t Z_t u_t`` for terms (Z, codes) and effects (m, q); code -1 has effect zero."""
    mean = X @ coef
    if offset is not None:
        mean = mean + offset
    for (Z, codes), values in zip(terms, effects, strict=True):
        mean = mean + np.where(codes >= 0, np.sum(Z * values[codes], 1), 0.0)
    return mean


def effects_by_term(model: Model, effects: tuple[Effects, ...]) -> tuple[np.ndarray, ...]:
    """Values of each random part in the model's order: (m, q) of a term, (n, 1) of a field."""
    out: dict[int, np.ndarray] = {}
    for entry in effects:
        start = 0
        for t in entry.terms:
            part = model.random[t]
            stop = start + (1 if isinstance(part, Field) else part.dim)
            out[t] = entry.values[:, start:stop]
            start = stop
    return tuple(out[t] for t in range(len(model.random)))
