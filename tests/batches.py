"""Designs with responses, and their fits in a batch and one by one, shared by several test files."""

from __future__ import annotations

import functools

import jax
import numpy as np

import jaxlmm
from jaxlmm import Diagonal, Model, Residual, Term
from jaxlmm.covariance import CompoundSymmetry
from jaxlmm.fitting import estimate as fitting

N, GROUPS = 48, 8


def design(kind):
    """Model of one of several kinds on common rows, with a response to be replaced."""
    rng = np.random.default_rng(11)
    x = np.round(rng.normal(size=N), 2)
    balanced, t = np.arange(N) // 6, np.tile(np.arange(6.0), GROUPS)
    uneven = np.sort(rng.integers(0, GROUPS, N))
    X, one = np.column_stack([np.ones(N), x]), np.ones(N)
    y = rng.normal(size=N)
    return {
        "one-way": lambda: Model(y, one[:, None], [Term(one, balanced)]),
        "balanced slopes": lambda: Model(y, np.column_stack([one, t]), [Term(np.column_stack([one, t]), balanced)]),
        "uneven slopes": lambda: Model(
            y, X, [Term(X, uneven)], weights=np.linspace(0.5, 2, N), offset=np.linspace(0, 9, N)
        ),
        "nested": lambda: Model(y, X, [Term(one, balanced), Term(one, balanced // 2)]),
        "crossed": lambda: Model(y, X, [Term(one, balanced), Term(X, np.arange(N) % 5, Diagonal())]),
        "residual": lambda: Model(y, X, [], Residual(CompoundSymmetry(), balanced, t.astype(int))),
    }[kind]()


KINDS = ("one-way", "balanced slopes", "uneven slopes", "nested", "crossed", "residual")


@functools.cache
def responses(kind, b=24):
    """Responses of which about half have no variance between groups."""
    rng = np.random.default_rng(5)
    model = design(kind)
    mean = model.X.sum(1) + (0 if model.offset is None else model.offset)
    Y = mean + rng.normal(size=(b, N))
    for term in model.random:
        effects = rng.normal(size=(b, term.levels, term.dim)) * (np.arange(b) % 2)[:, None, None]
        Y += np.sum(term.Z * effects[:, term.group], -1)
    return Y


@functools.cache
def batch(kind, method="REML"):
    return jaxlmm.fit_batch(design(kind), responses(kind), method=method)


@functools.cache
def singles(kind, method="REML"):
    model = design(kind)
    with jax.enable_x64(True):
        return [fitting.estimate(model.replace(y=y), method) for y in responses(kind)]
