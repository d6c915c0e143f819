"""Best linear unbiased predictors of the random effects, and what is computed from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import require_accurate
from ..fitting.estimate import conditioned_blocks
from ..fitting.units import Estimate
from ..frames.relationship import Relatives
from ..likelihood.engines import MARGINAL, Blocks
from ..likelihood.engines.marginal.layout import Clusters
from ..likelihood.engines.orthogonal import bucket, group_sum, pad_first, pad_last, row_bucket
from ..likelihood.engines.solving import FORWARD
from ..likelihood.model import Model
from ..likelihood.parts import Field, Term
from ..likelihood.prepared import Prepared, prepare, weighted
from ..pytrees import once, replace
from ..runtime.precision import float64
from ..runtime.programs import compiled, compiled_by_size
from .fitted import FitBase

MOST = 2e7  # numbers in the covariances of levels without data with rows that are held at a time
COLUMNS = 24  # effects of the iterative engine whose covariances are found at a time


@dataclass(frozen=True)
class Effects:
    """Predicted effects of one grouping factor.

    Attributes
    ----------
    terms : positions of the model's terms that share the factor, whose effects stand side by side; or of a field, whose
        value is predicted at every row (m = n, q = 1)
    values : (m, q) predictors ``G Z'V^-1 (y - X beta)`` (Henderson 1975)
    condvar : (m, q, q) their covariance given y, theta and beta, ``G - G Z'V^-1 Z G`` (lme4's ``condVar``);
        NaN by the iterative engine but for chosen levels
    pev : (m, q, q) prediction error variance, of the predictors less the effects, with beta estimated: the blocks of
        the inverse of Henderson's mixed model equations, ``condvar + H vcov H'`` with ``H = G Z'V^-1 X``
    """

    terms: tuple[int, ...]
    values: np.ndarray
    condvar: np.ndarray
    pev: np.ndarray


def effects_of(
    fit: FitBase, kin: Sequence[Relatives | None] | None = None, chosen: Mapping[int, np.ndarray] | None = None
) -> tuple[Effects, ...]:
    """`random_effects` of a fit; those of its own levels are predicted once.

    Warns
    -----
    PrecisionWarning
        Where 64-bit floats do not determine some of them.
    """
    if kin is None and not chosen:
        found = once(fit, "effects", lambda: random_effects(fit.model, fit.estimate))
    else:
        found = random_effects(fit.model, fit.estimate, kin, chosen)
    if not fit.model.evaluator.stochastic:
        require_accurate(*(x for e in found for x in (e.values, e.condvar)))
    return found


def random_effects(
    model: Model, estimate: Estimate, kin: Sequence[Relatives | None] | None = None,
    chosen: Mapping[int, np.ndarray] | None = None,
) -> tuple[Effects, ...]:  # fmt: skip
    """Predictors and their covariances: an entry a grouping factor in order of first appearance, and a field.

    Parameters
    ----------
    kin : of each random part, levels without data to predict too, behind the others, through their relatives
    chosen : by entry, the levels whose covariances the iterative engine finds
    """
    if not model.random:
        return ()
    shared: list[list[int]] = []
    for t, part in enumerate(model.random):
        for terms in shared:
            if _is_mergeable(model.random[terms[0]], part) and (not kin or kin[terms[0]] is kin[t]):
                terms.append(t)
                break
        else:
            shared.append([t])
    K, found = conditioned_blocks(model, estimate)
    random = [replace(p, Z=p.Z @ k) if isinstance(p, Term) else p for p, k in zip(model.random, K, strict=True)]
    merged = tuple(_merge([random[t] for t in terms]) for terms in shared)
    is_own = len(merged) == len(model.random)  # else prepared with terms side by side
    C = Blocks(tuple(block_diagonal([found.random[t] for t in terms]) for terms in shared), found.residual)
    with float64():
        if model.evaluator.by_level:
            compact = model.evaluator.stochastic  # as for the fit
            prepared = prepare(model if is_own else _replanned(model, merged), compact, orthogonal=is_own)
            out = _by_levels(merged, prepared, C, estimate)
            for t, levels in (chosen or {}).items():
                out[t][1] = _covariances_at(prepared.statistics, C, t, levels, out[t][1])
        else:
            turned = replace(model, random=merged)
            if is_own and model.evaluator is MARGINAL:
                layout, statistics = model.layout, prepare(model, compact=False, orthogonal=True).statistics
            else:
                layout = MARGINAL.layout(turned)
                statistics = prepare(replace(turned, evaluator=MARGINAL, layout=layout), compact=False).statistics
            relatives = [kin[t[0]] if kin else None for t in shared]
            out = _by_clusters(turned, layout, statistics, C, estimate, relatives)
    vcov = np.nan_to_num(estimate.vcov)  # aliased coefficients are zero
    effects = []
    for terms, (values, cov, H) in zip(shared, out, strict=True):
        pev = cov + H @ vcov @ np.swapaxes(H, 1, 2)
        if isinstance(model.random[terms[0]], Term):  # from the columns worked with
            k = block_diagonal([K[t] for t in terms])
            values, cov, pev = values @ k.T, k @ cov @ k.T, k @ pev @ k.T
        effects.append(Effects(tuple(terms), np.array(values), np.array(cov), np.array(pev)))
    return tuple(effects)


def _is_mergeable(first: Term | Field, other: Term | Field) -> bool:
    """Whether two parts are effects of the same levels."""
    if isinstance(first, Field) or isinstance(other, Field) or not np.array_equal(first.group, other.group):
        return False
    A, B = first.relationship, other.relationship
    return A is B or (A is not None and B is not None and np.array_equal(A, B))


def _replanned(model: Model, merged: tuple[Term, ...]) -> Model:
    """The model with merged terms."""
    new = replace(model, random=merged)
    return replace(new, layout=model.evaluator.layout(new))


def _by_levels(terms: Sequence[Any], prepared: Prepared, C: Blocks, estimate: Estimate) -> Any:
    run = _posteriors(prepared.statistics, 1)
    found = jax.device_get(run(prepared, C, prepared.basis.R @ estimate.coef - prepared.basis.c))
    return [[a[: part.levels] for a in each] for part, each in zip(terms, found, strict=True)]


def _covariances_at(statistics: Any, C: Blocks, t: int, levels: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """Covariances (m, q, q) of the effects of a term by the iterative engine, NaN but for some levels."""
    f = next(i for i, terms in enumerate(statistics.members) if t in terms)
    cov, size = np.full_like(cov, np.nan), max(1, COLUMNS // cov.shape[-1])
    for some in np.split(levels, range(size, len(levels), size)):
        found = _solutions_at(f, statistics, C, pad_first(some, bucket(len(some))))
        cov[some] = np.asarray(found)[: len(some)]
    return cov


@compiled("f")
def _solutions_at(f: int, statistics: Any, C: Blocks, levels: Array) -> Array:
    C = Blocks(tuple(jnp.asarray(G) for G in C.random), jnp.asarray(C.residual))
    found: Array = statistics.covariances_at(C, f, levels)
    return found


def _posterior(prepared: Prepared, C: Blocks, beta: Array) -> list[tuple[Array, Array, Array]]:
    """Mean and covariance of the effects given the data, and H of `Effects`; beta in internal coordinates."""
    found = prepared.statistics.posterior(Blocks(tuple(jnp.asarray(G) for G in C.random), jnp.asarray(C.residual)))
    return [
        (means[..., -1] - means[..., :-1] @ beta, cov, means[..., :-1] @ prepared.basis.R)
        for means, cov in zip(found.means, found.covariances, strict=True)
    ]


_posteriors = compiled_by_size(_posterior)


def _by_clusters(
    model: Model, layout: Clusters, statistics: Any, C: Blocks, estimate: Estimate, kin: Sequence[Relatives | None]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Mean and covariance of the effects, and H of `Effects`, cluster by cluster (NumPy, once a fit).

    With ``c = Cov(u, y)`` the effects have mean ``c V^-1 (y - X beta)``. Their covariance given the data is that of
    ``u - a'y`` with ``a = V^-1 c'``: a sum of positive terms, one a part of V, where ``Cov(u) - c V^-1 c'`` would be a
    small difference. Outer terms reach beyond the cluster, and add what is not known of their effects.
    """
    rest = weighted(model, model.y - linear_predictor(model.X, estimate.coef, model.offset))
    columns = np.column_stack([rest, weighted(model, model.X)])
    parts, solved, outer, given = jax.device_get(_solved(statistics, C, pad_first(columns, row_bucket(len(rest)))))
    solved = solved[: len(rest)]
    root = weighted(model, np.ones(len(rest)))
    out: list[Any] = []
    for t, (part, G) in enumerate(zip(model.random, C.random, strict=True)):
        if isinstance(part, Field):
            found, variances = np.zeros_like(solved), np.zeros(len(rest))
            for row, own, others, Z, K in _clusters(layout, parts, outer, t):
                found[row] = (own / root[row]).T @ solved[row]
                variances[row] = np.diagonal(_spread(own, others, Z, K, np.eye(len(row)), own)) / root[row] ** 2
            out.append((found[:, :1], variances[:, None, None], found[:, None, 1:]))
            continue
        Z = weighted(model, part.Z)
        A = part.relationship
        N = np.stack([group_sum(Z * s[:, None], part.group, part.levels, np) for s in solved.T], -1)
        found = G @ (N if A is None else np.tensordot(A, N, 1))
        values, H = found[..., 0], found[..., 1:]
        if t in layout.outer:
            out.append((values, given[layout.outer.index(t)][: part.levels], H))
            continue
        cov = np.tile(G, (part.levels, 1, 1)) * (1.0 if A is None else np.diagonal(A)[:, None, None])
        for row, own, others, outer_rows, K in _clusters(layout, parts, outer, t):
            levels = np.unique(part.group[row])
            E = ((part.group[row, None] == levels)[:, :, None] * Z[row, None, :]).reshape(len(row), -1)
            prior = np.kron(np.eye(len(levels)) if A is None else A[np.ix_(levels, levels)], G)
            whole = _spread(own, others, outer_rows, K, E, prior).reshape(len(levels), len(G), len(levels), len(G))
            cov[levels] = np.moveaxis(np.diagonal(whole, axis1=0, axis2=2), -1, 0)
        if (relatives := kin[t]) is not None:
            found = G @ np.tensordot(relatives.cross, N, 1)
            values, H = np.concatenate([values, found[..., 0]]), np.concatenate([H, found[..., 1:]])
            cov = np.concatenate([cov, _through_relatives(part, Z, G, relatives, partial(_solve, statistics, C))])
        out.append((values, cov, H))
    return out


def _through_relatives(
    part: Term, Z: np.ndarray, G: np.ndarray, kin: Relatives, solve: Callable[[np.ndarray], Any]
) -> np.ndarray:  # fmt: skip
    """Covariances given the data (r, q, q) of levels without data, which may have relatives in several clusters."""
    cov, cross, GZ = G * kin.variances[:, None, None], kin.cross, G @ Z.T
    related = np.flatnonzero(np.any(cross, 1))
    for levels in np.array_split(related, 1 + int(len(related) * GZ.size // MOST)):
        c = cross[np.ix_(levels, part.group)][:, None, :] * GZ  # (levels, q, rows)
        columns = pad_last(c.reshape(-1, len(Z)).T, bucket(c.shape[0] * c.shape[1]))
        solved = np.asarray(solve(columns))[:, : c.shape[0] * c.shape[1]]
        cov[levels] -= c @ np.swapaxes(solved.T.reshape(c.shape), 1, 2)
    return cov


@compiled()
def _solve(statistics: Any, C: Blocks, B: Array) -> Array:
    return statistics.solve(Blocks(tuple(jnp.asarray(G) for G in C.random), jnp.asarray(C.residual)), B)


@compiled()
def _solved(statistics: Any, C: Blocks, B: Array) -> Any:
    """V by part and cluster, V^-1 B, and of the outer terms rows by cluster and covariances by level."""
    C = Blocks(tuple(jnp.asarray(G) for G in C.random), jnp.asarray(C.residual))
    of_outer = statistics.posterior(C).covariances
    return statistics.covariances(C), statistics.solve(C, B), statistics.outer_rows(C), of_outer


def _clusters(layout: Clusters, parts: Any, outer: Any, t: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Rows of each cluster; covariance between them of part t, and of the others in the cluster; its outer rows."""
    n = len(layout.component)
    for k, alike in enumerate(layout.buckets):
        every = [None if part is None else part[k] for part in parts]
        (Z, K), mine = outer[k], parts[t][k]
        for i, row in enumerate(alike.row):
            here = np.flatnonzero(row < n)
            square = np.ix_(here, here)
            others = sum(x[i][square] for s, x in enumerate(every) if s != t and x is not None)
            yield row[here], mine[i][square], np.asarray(others), Z[i][here], K[i]


def _spread(
    own: np.ndarray, others: np.ndarray, Z: np.ndarray, K: np.ndarray, E: np.ndarray, prior: np.ndarray
) -> np.ndarray:  # fmt: skip
    """Covariance of effects u (k,) given the rows of a cluster, ``Cov(u) = prior`` and ``y = E u + others + Z v``.

    Parameters
    ----------
    own : ``E prior E'`` (T, T);  K : covariance of v given all data
    """
    V, c = own + others, E @ prior
    try:
        a = np.linalg.solve(V, c)
        step = np.linalg.solve(V, c - V @ a)
    except np.linalg.LinAlgError:
        return np.full(prior.shape, np.nan)
    if not np.max(abs(step), initial=0.0) <= FORWARD * np.max(abs(a), initial=0.0):
        return np.full(prior.shape, np.nan)
    a = a + step
    gap, beside = np.eye(len(prior)) - E.T @ a, a.T @ Z
    return gap.T @ prior @ gap + a.T @ others @ a + beside @ K @ beside.T


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
