"""Random effects given the data, as pure functions: best linear unbiased predictors, and draws from the posterior."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..arguments import check_flag
from ..linalg import inv_logdet
from ..runtime.keys import key_of
from ..runtime.precision import pure, unguarded
from ..runtime.programs import compiled
from .drawing import drawn_at, response
from .engines import Blocks
from .engines.orthogonal import group_sum
from .engines.protocol import only_present
from .engines.solving import refined
from .model import Model, checked
from .parts import Field, Term
from .prepared import Prepared, counted, prepare
from .products import covariances, solved


class Blup(NamedTuple):
    """Predicted random effects and fixed effects at covariance parameters; an entry a random part.

    Attributes
    ----------
    coef (p,), vcov (p, p) : fixed effects by generalised least squares, and their covariance
    values : (m, q) by level of a term; (n, 1) values of a random function at the rows
    condvar : (m, q, q) covariance given y, theta and beta, ``G - G Z'V^-1 Z G`` (lme4's ``condVar``)
    pev : (m, q, q) prediction error variance, of the predictors less the effects, with beta estimated
    """

    coef: Array
    vcov: Array
    values: tuple[Array, ...]
    condvar: tuple[Array, ...] | None
    pev: tuple[Array, ...] | None


class PosteriorSample(NamedTuple):
    """Fixed effects (p,) and random effects, (m, q) a term and (n, 1) a random function."""

    coef: Array
    values: tuple[Array, ...]


def blup(theta: Any, model: Model, covariances: bool = True) -> Blup:
    """Best linear unbiased predictors ``G Z'V^-1 (y - X beta)`` (Henderson 1975), a pure function.

    Parameters
    ----------
    theta : (k,) as in `jaxlmm.reml`;  model : see `jaxlmm.Model`
    covariances : False leaves out `condvar` and `pev`, which take n x n numbers but for values by the engines "grouped"
        and "crossed" (their derivatives do take them)

    Returns
    -------
    `Blup`, differentiable to any order in theta and the arrays of the model. The covariances are NaN by the engine
    "iterative".

    Raises
    ------
    Float64RequiredError
        When 64-bit floats are off.
    """
    check_flag("covariances", covariances)
    with pure():
        return _blup(covariances, checked("blup", theta, model), model, prepare(model, compact=False))


def posterior_sample(key: Any, theta: Any, model: Model) -> PosteriorSample:
    """Draw fixed and random effects given y and theta, a pure function; `jax.vmap` over keys.

    Under a flat prior for the fixed effects, of which `jaxlmm.reml` is the marginal likelihood: draws of theta from
    ``reml + log prior`` with one of these for each are draws from the joint posterior. Effects and a response are drawn
    from the model, and moved by what y says beyond that response (Matheron's rule: Hoffman & Ribak 1991).

    Parameters
    ----------
    key : a key of `jax.random`;  theta, model : as in `blup`

    Returns
    -------
    `PosteriorSample`, whose mean is that of `blup` and whose covariance within levels its `pev`; differentiable for a
    fixed key

    Raises
    ------
    Float64RequiredError
        When 64-bit floats are off.
    """
    with pure():
        theta, key = checked("posterior_sample", theta, model, "key, theta, model"), key_of("key", key)
        return _sample(key, theta, model, prepare(model, compact=False))


@compiled("covariances")
def _blup(covariances: bool, theta: Array, model: Model, prepared: Prepared) -> Blup:
    C, (model, _) = model.blocks(theta), counted(model, jnp)
    found, values, H = _predicted(C, model, prepared)
    if not covariances:
        return Blup(found.coef, found.vcov, values, None, None)
    condvar = _covariances(C, model, prepared)
    pev = tuple(cov + h @ found.vcov @ jnp.swapaxes(h, 1, 2) for cov, h in zip(condvar, H, strict=True))
    return Blup(found.coef, found.vcov, values, condvar, pev)


def means(C: Blocks, model: Model, prepared: Prepared) -> Blup:
    """`blup` without covariances at covariance blocks; pure, and part of compiled programs."""
    found, values, _ = _predicted(C, counted(model, jnp)[0], prepared)
    return Blup(found.coef, found.vcov, values, None, None)


def _predicted(C: Blocks, model: Model, prepared: Prepared) -> tuple[_Fixed, tuple[Array, ...], list[Array]]:
    """Fixed effects, random effects, and how the latter change with the coefficients: H of ``pev``, by level."""
    found = _least_squares(prepared, model, C, jnp.asarray(model.y))
    both = jnp.concatenate([found.rest[:, None], found.columns], 1)
    parts = [given(part, G, both) for part, G in zip(model.random, C.random, strict=True)]
    return found, tuple(x[..., 0] for x in parts), [x[..., 1:] for x in parts]


@compiled()
def _sample(key: Array, theta: Array, model: Model, prepared: Prepared) -> PosteriorSample:
    model, _ = counted(model, jnp)
    effects, error = drawn_at(key, theta, model)
    y, C = model.y - response(jnp.zeros(len(model.y)), model.random, effects, error), model.blocks(theta)
    found = _least_squares(prepared, model, C, y)
    parts = zip(model.random, C.random, effects, strict=True)
    return PosteriorSample(found.coef, tuple(u + given(part, G, found.rest[:, None])[..., 0] for part, G, u in parts))


class _Fixed(NamedTuple):
    """Generalised least squares, with ``V^-1 (y - X beta)`` (n,) and ``V^-1 X`` (n, p)."""

    coef: Array
    vcov: Array
    rest: Array
    columns: Array


def _least_squares(prepared: Prepared, model: Model, C: Blocks, y: Array) -> _Fixed:
    basis = prepared.basis
    R, c, p = jnp.asarray(basis.R), jnp.asarray(basis.c), model.X.shape[1]
    back = jnp.linalg.inv(R) if p else R
    Q = model.X @ back
    left = (y if model.offset is None else y - model.offset) - Q @ c
    found = solved(prepared, model, C, jnp.concatenate([left[:, None], Q], 1))
    Phi, _ = inv_logdet(Q.T @ found[:, 1:] + jnp.diag(jnp.asarray(basis.alias)))
    beta = Phi @ (Q.T @ found[:, 0])
    return _Fixed(back @ (c + beta), back @ Phi @ back.T, found[:, 0] - found[:, 1:] @ beta, found[:, 1:] @ R)


def given(part: Term | Field, G: Array, S: Array) -> Array:
    """``Cov(u, y) S`` by level (m, q, b), or by row (n, 1, b), for columns S (n, b)."""
    if isinstance(part, Term):
        sums = group_sum(jnp.asarray(part.Z)[:, :, None] * S[:, None, :], part.group, part.levels, jnp)
        if part.relationship is not None:
            sums = jnp.tensordot(jnp.asarray(part.relationship), sums, 1)
        return jnp.einsum("ij,mjb->mib", G, sums)
    groups, T = len(S) if part.sets is None else part.sets.shape[0], G.shape[-1]
    sums = group_sum(S, part.group * T + part.position, groups * T, jnp).reshape(groups, T, -1)
    moved = (G if part.sets is None else G[part.sets]) @ sums
    return moved[part.group, part.position][:, None, :]


# -- covariances ---------------------------------------------------------------------------------------------


def _covariances(C: Blocks, model: Model, prepared: Prepared) -> tuple[Array, ...]:
    """Covariances given the data of the effects of each random part."""
    if model.evaluator.stochastic:
        return tuple(jnp.full((part.levels, part.dim, part.dim), jnp.nan) for part in model.terms)
    return _by_level(C, model, prepared) if model.random and model.evaluator.by_level else _from_rows(C, model)


@jax.custom_jvp
def _by_level(C: Blocks, model: Model, prepared: Prepared) -> tuple[Array, ...]:
    """Those of engines that predict by level, whose eliminations are for values only: derivatives are of rows."""
    found = prepared.statistics.posterior(C).covariances
    return tuple(cov[: part.levels] for cov, part in zip(found, model.terms, strict=True))


@_by_level.defjvp
@unguarded
def _by_level_jvp(primals: tuple[Blocks, Model, Prepared], tangents: tuple[Any, Any, Any]) -> tuple[Any, Any]:
    return _by_level(*primals), jax.jvp(_from_rows, primals[:2], tangents[:2])[1]


def _from_rows(C: Blocks, model: Model) -> tuple[Array, ...]:
    """Covariances given the data, from V itself.

    With ``c = Cov(u, y)`` and ``y = E u + others`` they are those of ``u - a'y`` with ``a = V^-1 c'``: a sum of
    positive terms, where ``Cov(u) - c V^-1 c'`` would be a small difference.
    """
    V, present = covariances(model, C), None if model.weights is None else model.weights != 0.0
    total = only_present(sum(V[1:], V[0]), present)
    factor = jnp.linalg.cholesky(jax.lax.stop_gradient(total))

    def direct(X: Array) -> Array:
        return jax.scipy.linalg.cho_solve((factor, True), X)

    out = []
    for t, (part, G) in enumerate(zip(model.random, C.random, strict=True)):
        c = _with_rows(part, G, V[t])
        c = c if present is None else jnp.where(present[:, None], c, 0.0)
        a = refined(direct, lambda X: total @ X, lambda X: jnp.abs(total) @ X, c)
        others = sum((v for s, v in enumerate(V) if s != t), jnp.zeros_like(total)) @ a
        if isinstance(part, Field):
            gap = jnp.eye(len(total)) - a
            out.append((jnp.sum(gap * (V[t] @ gap), 0) + jnp.sum(a * others, 0))[:, None, None])
            continue
        m, q = part.levels, part.dim
        gap = jnp.eye(m * q) - group_sum(jnp.asarray(part.Z)[:, :, None] * a[:, None, :], part.group, m, jnp).reshape(
            m * q, m * q
        )
        spread = jnp.einsum("ij,mjb->mib", G, gap.reshape(m, q, m * q))
        if part.relationship is not None:
            spread = jnp.tensordot(jnp.asarray(part.relationship), spread, 1)
        by_level = "xmb,xmc->mbc"
        own = jnp.einsum(by_level, gap.reshape(m * q, m, q), spread.reshape(m * q, m, q))
        out.append(own + jnp.einsum(by_level, a.reshape(-1, m, q), others.reshape(-1, m, q)))
    return tuple(out)


def _with_rows(part: Term | Field, G: Array, own: Array) -> Array:
    """Covariances (n, m q) of the rows with the effects of a part; V_t itself (n, n) of a random function."""
    if isinstance(part, Field):
        return own
    levels = jnp.eye(part.levels) if part.relationship is None else jnp.asarray(part.relationship)
    return (levels[part.group][:, :, None] * (part.Z @ G)[:, None, :]).reshape(len(own), -1)
