"""Drawing responses from a fitted model."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..arguments import Seed
from ..batch.responses import Design, Responses
from ..estimates.effects import block_diagonal, linear_predictor
from ..fitting.estimate import blocks_at
from ..fitting.units import Estimate
from ..likelihood.drawing import Roots, Shape, drawn, response
from ..likelihood.engines import Blocks
from ..likelihood.engines.orthogonal import bucket
from ..likelihood.model import Model
from ..likelihood.parts import Field, Term
from ..linalg import psd_cholesky
from ..runtime.keys import check_seed, key_of
from ..runtime.precision import float64
from ..runtime.programs import compiled
from ..runtime.sizes import check_draws
from ..tolerances import NO_LENGTH


def simulate(model: Model, estimate: Estimate, n: int, seed: Seed) -> np.ndarray:
    """Draw n responses (n, rows): new random effects and new residuals.

    Replicate r depends only on the seed and r (its key is ``fold_in(key(seed), r)``), not on n.
    """
    check_draws("n", n, len(model.y))
    return simulate_rows(model, estimate, np.arange(n), seed)


def replicate_keys(seed: Seed, replicates: np.ndarray) -> Array:
    """A key for each replicate (b,)."""
    check_seed("seed", seed)
    return jax.vmap(partial(jax.random.fold_in, key_of("seed", seed)))(replicates.astype(np.uint32))


def simulate_rows(model: Model, estimate: Estimate, replicates: np.ndarray, seed: Seed) -> np.ndarray:
    """Responses (b, rows) of the given replicates."""
    mean = linear_predictor(model.X, estimate.coef, model.offset)
    with float64():
        return draw_rows(model, mean, blocks_at(model, estimate), replicate_keys(seed, replicates))


def draw_rows(
    model: Model, mean: np.ndarray, blocks: Blocks, keys: Array, shapes: tuple[Shape | None, ...] = ()
) -> np.ndarray:  # fmt: skip
    """Responses (b, rows) with a mean (rows,) and absolute covariance blocks, one for each key (b,).

    `shapes` of the random parts and the residual, where one is not normal.
    """
    parts = (*model.random, model.residual)
    with float64():
        return np.array(_draw(keys, mean, parts, model.weights, Roots.of(model, blocks), shapes))


@compiled()
def _draw(
    keys: Array, mean: Array, parts: tuple[Term | Field, ...], weights: Any, roots: Roots,
    shapes: tuple[Shape | None, ...],
) -> Array:  # fmt: skip
    def one(key: Array) -> Array:
        return response(mean, parts[:-1], *drawn(key, len(mean), parts, weights, roots, shapes))

    return jax.vmap(one)(keys)


class Sampler:
    """Draws the statistics of responses to a design without the responses.

    With one grouping factor and independent errors, everything that a fit needs of ``y = Z u + e`` is U'y for the
    orthonormal columns U of Z within groups, left'y for what U leaves of X, and the squared length of the rest of e,
    which are independent: normal, normal, and sigma^2 chi-squared. The cost does not depend on the number of rows.
    """

    def __init__(self, design: Design, estimate: Estimate):
        varying = design.varying
        model, basis = design.model, design.template.basis
        n = model.X.shape[0]
        w, V = np.linalg.eigh(varying.left.T @ varying.left)
        here = w > NO_LENGTH
        present = np.diagonal(varying.F, axis1=0, axis2=1).T > 0
        self.design, self.fixed = design, np.asarray(basis.R) @ estimate.coef
        # roots of the covariances of the effects of the columns worked with
        pairs = zip(basis.K, estimate.covariances, strict=True)
        roots = [np.linalg.solve(K, psd_cholesky(G)) for K, G in pairs]
        self.arrays = Sources(
            varying.F,
            varying.B,
            present * 1.0,
            V[:, here] * np.sqrt(w[here]),
            block_diagonal(roots),
            np.sqrt(estimate.residual[0, 0]),
            np.float64(n - int(present.sum()) - int(here.sum())),
        )

    @classmethod
    def applies(cls, model: Model) -> bool:
        """Whether statistics can be drawn without rows."""
        return model.evaluator.draws(model)

    def __call__(self, replicates: np.ndarray, seed: Seed) -> Responses:
        """Statistics of the given replicates (b,), each depending on the seed and its number only."""
        from scipy.special import gammaincinv

        padded = np.resize(replicates, bucket(len(replicates)))  # few shapes to compile
        drawn = _draw_statistics(replicate_keys(seed, padded), self.arrays)
        c, By, cross, square, uniform = (np.asarray(a)[: len(replicates)] for a in drawn)
        # chi-squared by inversion, on the host: jax.random.gamma takes longer to compile than all the rest
        square = square + self.arrays.sigma**2 * 2.0 * gammaincinv(0.5 * self.arrays.df, uniform)
        n, p = self.design.model.X.shape
        sd = np.sqrt((np.sum(By**2, (1, 2)) + square) / (n - p))
        E = np.concatenate([cross, square[:, None]], 1).T[:, None, None]
        data = self.design.varying.finished([np.moveaxis(By, 0, -1)], E)
        return Responses(c + self.fixed, sd, None, None, data)


class Sources(NamedTuple):
    """What `_draw_statistics` needs: see `Sampler`."""

    F: Any  # (q, q, g)
    B: Any  # (q, p, g), U'Q for the orthonormal basis Q of X
    present: Any  # (q, g) one where U has a column
    K: Any  # (p, rank) with K K' = left'left
    root: Any  # (q, q) of the covariance of the effects
    sigma: Any
    df: Any  # dimension of the rest


@compiled()
def _draw_statistics(keys: Array, design: Sources) -> tuple[Array, Array, Array, Array, Array]:
    """For each key, with r the residual of y on X: Q'y (p,), U'r (q, g), left'r (p,), its square, a uniform number."""
    F, B, present, K, root, sigma, _ = design

    sizes = np.cumsum([F.shape[0] * F.shape[2], present.size])

    def one(key: Array) -> tuple[Array, Array, Array, Array, Array]:
        normal = jax.random.normal(jax.random.fold_in(key, 0), (sizes[-1] + K.shape[1],), jnp.float64)
        u, e, z = jnp.split(normal, sizes)
        effects = root @ u.reshape(F.shape[0], F.shape[2])
        a = jnp.einsum("jig,jg->ig", F, effects) + sigma * present * e.reshape(present.shape)
        c = jnp.einsum("ipg,ig->p", B, a) + sigma * K @ z
        along = sigma * z - K.T @ c
        uniform = jax.random.uniform(jax.random.fold_in(key, 1), (), jnp.float64)
        return c, a - jnp.einsum("ipg,p->ig", B, c), K @ along, jnp.sum(along**2), uniform

    return jax.vmap(one)(keys)
