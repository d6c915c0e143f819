"""The model as functions: everything here is pure and composes with `jax.jit`, `jax.vmap`, `jax.grad`.

With n rows, p fixed effects, k covariance parameters theta (k,), of which the random effects are integrated out, and a
`jaxlmm.Model` that is a pytree of its arrays (`Model.replace` puts traced ones in):

    reml(theta, model), ml(theta, model)   log-likelihood ()
    gram(theta, model)                     log|V| () and [X y]'V^-1 [X y] (p + 1, p + 1)
    logdet(theta, model)                   log|V| ()
    solve(theta, model, rhs)               V^-1 rhs (n,) or (n, b)
    marginal_covariance(theta, model)      V (n, n)
    blup(theta, model)                     fixed and predicted random effects with their covariances
    posterior_sample(key, theta, model)    a draw of fixed and random effects given y
    simulate(key, theta, beta, model)      a draw of y (n,)
    in_float64(function)                   a function of float32 computed in float64, gradient included
    fit(model)                             estimates, by the implicit function theorem differentiable in the data
    fit(model, through=h, start=phi)       the same over phi, theta being h(phi)

Rows of weight zero are absent: ``model.replace(weights=mask)`` makes designs of several numbers of rows lanes of one
`jax.vmap`.
"""

from __future__ import annotations

from ..likelihood.blup import Blup, PosteriorSample, blup, posterior_sample
from ..likelihood.drawing import simulate
from ..likelihood.loglik import gram, ml, reml
from ..likelihood.products import logdet, marginal_covariance, solve
from ..runtime.precision import in_float64
from .constrained import Constrained
from .traceable import fit

__all__ = [
    "Blup",
    "Constrained",
    "PosteriorSample",
    "blup",
    "fit",
    "gram",
    "in_float64",
    "logdet",
    "marginal_covariance",
    "ml",
    "posterior_sample",
    "reml",
    "simulate",
    "solve",
]
