"""Best linear unbiased predictors of the random effects, and what is computed from them."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .design import Term, replace
from .engines import Blocks, plan
from .fitting import Estimate
from .model import Model, Prepared, prepare


@dataclass(frozen=True)
class Effects:
    """Predicted effects of one grouping factor.

    Attributes
    ----------
    terms : positions of the model's terms that share the factor, whose effects stand side by side
    values : (m, q) predictors ``G Z'V^-1 (y - X beta)`` (Henderson 1975)
    condvar : (m, q, q) their covariance given y, theta and beta, ``G - G Z'V^-1 Z G`` (lme4's ``condVar``)
    """

    terms: tuple[int, ...]
    values: np.ndarray
    condvar: np.ndarray


def random_effects(model: Model, estimate: Estimate) -> tuple[Effects, ...]:
    """Predictors and conditional covariances, one entry a grouping factor in order of first appearance."""
    if not model.random:
        return ()
    shared: list[list[int]] = []
    for t, term in enumerate(model.random):
        for terms in shared:
            if np.array_equal(model.random[terms[0]].group, term.group):
                terms.append(t)
                break
        else:
            shared.append([t])
    merged = tuple(_merge([model.random[t] for t in terms]) for terms in shared)
    layout = model.layout
    if layout is not None and len(merged) < len(model.random):
        levels, dims = tuple(t.levels for t in merged), tuple(t.dim for t in merged)
        layout = plan(tuple(t.group for t in merged), levels, dims, len(model.y))
    G = tuple(block_diagonal([estimate.covariances[t] for t in terms]) for terms in shared)
    with jax.enable_x64(True):
        prepared = prepare(replace(model, random=merged, layout=layout), compact=False)
        beta = prepared.basis.R @ estimate.coef - prepared.basis.c
        out = jax.device_get(_posterior(prepared, Blocks(G, estimate.residual), beta))
    return tuple(Effects(tuple(t), np.array(v), np.array(c)) for t, (v, c) in zip(shared, out, strict=True))


@jax.jit
def _posterior(prepared: Prepared, C: Blocks, beta: Array) -> list[tuple[Array, Array]]:
    """Mean and covariance of the effects given the data; beta in internal coordinates."""
    moments = prepared.statistics.moments(Blocks(tuple(jnp.asarray(G) for G in C.random), jnp.asarray(C.residual)))
    out = []
    for G, N, M in zip(C.random, moments.N, moments.M, strict=True):
        values = (N[..., -1] - N[..., :-1] @ beta) @ G
        out.append((values, G - G @ M @ G))
    return out


def _merge(terms: list[Term]) -> Term:
    return terms[0] if len(terms) == 1 else replace(terms[0], Z=np.concatenate([t.Z for t in terms], 1))


def block_diagonal(blocks: list[np.ndarray]) -> np.ndarray:
    """Block diagonal matrix of square blocks."""
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
    """Values (m, q) of each term in the model's order."""
    out: dict[int, np.ndarray] = {}
    for entry in effects:
        start = 0
        for t in entry.terms:
            stop = start + model.random[t].dim
            out[t] = entry.values[:, start:stop]
            start = stop
    return tuple(out[t] for t in range(len(model.random)))
