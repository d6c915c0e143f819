"""Draws from the normal approximation to what the data say about coefficients, covariances and random effects."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import DataError
from ..estimates.fitted import FitBase
from ..likelihood.engines.orthogonal import bucket
from ..likelihood.model import Model
from ..likelihood.parts import Term
from ..linalg import psd_cholesky
from ..runtime.precision import float64
from ..runtime.programs import compiled
from ..runtime.sizes import check_count, check_draws
from ..simulation.draws import Draws
from ..simulation.simulate import replicate_keys
from .delta import natural
from .identified import REASON
from .robust.partition import require_converged


def normal_draws(fit: FitBase, n: int = 1000, seed: int = 0, chains: int = 4) -> Draws:
    """Draws from normal distributions around the estimates, see ``Fit.draws``."""
    check_count("n", n)
    if not isinstance(chains, int) or chains < 1:
        raise DataError(f"chains: expected a positive whole number, found {chains!r}")
    require_converged(fit)
    at = natural(fit)
    if not np.all(np.isfinite(at.spread)):
        raise DataError(f"draws: {at.note}")
    model = fit.model
    # without those of the engine that has no covariances; what the data do not identify is NaN
    effects = [entry for entry in fit.ranef().values() if entry.note == REASON or np.all(np.isfinite(entry.pev))]
    roots = [psd_cholesky(fit.vcov), psd_cholesky(at.spread)]
    centres = [fit.coef, fit.theta]
    for entry in effects:
        roots.append(psd_cholesky(np.nan_to_num(np.asarray(entry.pev), nan=0.0)))
        centres.append(entry.values)
    count = chains * n
    sizes = [np.size(centre) for centre in centres]
    check_draws("n", count, sum(sizes))
    with float64():
        keys = replicate_keys(seed, np.arange(bucket(count)))
        z = np.split(np.asarray(_normals(keys, sum(sizes)))[:count], np.cumsum(sizes)[:-1], 1)
        found = [
            c + np.einsum("...ij,b...j->b...i", root, part.reshape(count, *c.shape))
            for c, root, part in zip(centres, roots, z, strict=True)
        ]
        theta = np.resize(found[1], (bucket(count), len(fit.theta)))  # few shapes to compile
        of_random, of_residual = jax.tree_util.tree_map(lambda a: np.asarray(a)[:count], _blocks_at(model, theta))
    names: dict[str, np.ndarray] = {"coef": found[0], "theta": np.where(at.theta_identified, found[1], np.nan)}
    lost = set()  # grouping factors whose effects are predicted by what the data do not identify
    dims = {"coef": ["coefficient"], "theta": ["theta_dim"]}
    coords = {"coefficient": list(fit.coef_names), "theta_dim": [str(i) for i in range(len(fit.theta))]}
    for t, (part, random) in enumerate(zip(fit.frame.parts, model.random, strict=True)):
        if isinstance(random, Term):
            columns = f"{part.text} column"
            known = at.identified[1 + t]
            lost |= set() if known.all() else {part.group_label}
            names[f"varcorr {part.text}"] = np.where(known, of_random[t], np.nan)
            dims[f"varcorr {part.text}"] = [columns, f"{columns}2"]
            coords |= {columns: list(part.columns), f"{columns}2": list(part.columns)}
    if fit.sigma is not None:
        names["sigma"] = np.where(at.identified[-1].all(), np.sqrt(of_residual[:, 0, 0]), np.nan)
    for entry, draws in zip(effects, found[2:], strict=True):
        level, column = f"{entry.group} level", f"{entry.group} effect"
        names[f"ranef {entry.group}"] = np.where(entry.group in lost, np.nan, draws)
        dims[f"ranef {entry.group}"] = [level, column]
        coords |= {level: list(entry.levels), column: list(entry.columns)}
    return Draws({"posterior": {k: v.reshape(chains, n, *v.shape[1:]) for k, v in names.items()}}, coords, dims)


@compiled("size")
def _normals(keys: Array, size: int) -> Array:
    """Independent standard normals (b, size), a row a key."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,), jnp.float64))(keys)


@compiled()
def _blocks_at(model: Model, theta: Array) -> Any:
    found = jax.vmap(model.blocks)(theta)
    return found.random, found.residual
