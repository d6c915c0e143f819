"""How a smaller model lies in the space of a larger one, and the law of their likelihood ratio that follows.

Whether one covariance model is a special case of another is found out numerically, for every structure: parameters
of the larger model are sought at which its V is that of the smaller fit. At these, in natural parameters, the tangent
cone of the larger model and the expected information give the law (Self & Liang 1987; Stram & Lee 1994; `mixtures`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...covariance.kinds import PositiveKind
from ...fitting.objective import Spec, coordinates, criterion_at, scale_of
from ...likelihood.engines import Blocks
from ...likelihood.model import Model
from ...likelihood.prepared import Prepared, prepare
from ...runtime.precision import float64
from ...runtime.programs import compiled
from ...tolerances import FLAT_LAW, INDEPENDENT, SINGULAR
from ..local import local
from .mixtures import Mixture, cone_mixture
from .tangent import tangent_cone

SAME = 1e-7  # relative difference of covariances, and of -2 log-likelihoods, that are the same
ROWS = 500  # most rows at which covariances of two models are compared
LEVELS = 16  # levels of each grouping factor whose rows are among them
FAR = 8.0  # logarithm of a range relative to its start value, or number without a unit, on the way to infinity
INWARD = 0.1  # share of the start values in parameters of the smaller fit that are moved off the boundary

UNDEFINED = (
    "parameters that are added are not defined, or at infinity, in the smaller model, and no asymptotic law is known; "
    "use method='bootstrap'"
)


class Null(NamedTuple):
    """Law of the likelihood ratio under the smaller model: None where it is not known, and why in `note`."""

    mixture: Mixture | None
    note: str = ""


class _TwoModels(NamedTuple):
    """One of the two models: all the data, and a few rows with a dense V."""

    spec: Spec
    prepared: Prepared
    few: Prepared
    scale: np.ndarray  # (k,) of solver coordinates

    @classmethod
    def of(cls, model: Model, method: str, rows: np.ndarray) -> _TwoModels:
        spec, prepared = Spec.of(model, method).absolute, prepare(model)
        few = Model(
            model.y[rows],
            model.X[rows],
            [part.subset(rows) for part in model.random],
            model.residual.subset(rows),
            weights=None if model.weights is None else model.weights[rows],
            engine="dense",
            checks=False,
        )
        return cls(spec, prepared, prepare(few), scale_of(spec, prepared.basis))

    def covariance(self, x: np.ndarray, chart: str) -> tuple[np.ndarray, np.ndarray]:
        """Covariances (m,) between the few rows at x (k,), and their derivatives (m, k)."""
        found = jax.device_get(_covariance(self.spec, self.few, chart, jnp.asarray(x)))
        lower = np.tril_indices(found[0].shape[0])
        return found[0][lower], found[1][lower]

    def deviance(self, x: np.ndarray) -> float:
        """-2 log-likelihood at natural parameters."""
        return float(_deviance(self.spec, self.prepared, jnp.asarray(x)))

    def natural(self, s: np.ndarray) -> np.ndarray:
        """Natural parameters of solver coordinates."""
        return np.array(self.spec.map("solver_to_natural", jnp.asarray(s)))


@compiled("chart")
def _covariance(spec: Spec, few: Prepared, chart: str, x: Array) -> tuple[Array, Array]:
    def V(x: Array) -> Array:
        return few.statistics.covariance(spec.blocks(x, few.coords, chart))

    return V(x), jax.jacfwd(V)(x)


@compiled()
def _deviance(spec: Spec, prepared: Prepared, x: Array) -> Array:
    C: Blocks = spec.blocks(x, prepared.coords, "natural")
    return criterion_at(spec, prepared, C)[0]


@compiled()
def _information(spec: Spec, prepared: Prepared, x: Array) -> Array:
    return local(spec, prepared, "natural", x).expected


def null_law(small: Any, large: Any, seed: int = 0) -> Null:
    """Asymptotic law of the likelihood ratio of two fits to the same data by the same method.

    The mean space of `large` contains that of `small`. Variances that `small` has estimated as zero are taken as
    positive but small.

    Parameters
    ----------
    small, large : fits;  seed : of the simulation of weights, see `cone_mixture`
    """
    added = len(large.coef) - len(small.coef)
    if _same_covariance(small.model, large.model):
        return Null(Mixture.chi2(added)) if added else Null(None, "the models are the same")
    with float64(), np.errstate(all="ignore"):
        rows = _few_rows(small.model, large.model)
        same_mean = large.model.replace(X=small.model.X)
        sides = _TwoModels.of(small.model, small.method, rows), _TwoModels.of(same_mean, large.method, rows)
        found = _law(*sides, small.theta, large.theta, seed)
    return found if found.mixture is None else Null(found.mixture.plus(added), found.note)


def _law(small: _TwoModels, large: _TwoModels, theta_small: np.ndarray, theta_large: np.ndarray, seed: int) -> Null:
    s, note = _interior(small, theta_small)
    x_small = small.natural(s)
    V, slopes = small.covariance(x_small, "natural")
    x = _embedded(large, V, theta_large)
    if x is None:
        return Null(None, "not nested: the larger model has no parameters that give the covariance of the smaller fit")
    d = small.deviance(x_small)
    if not abs(large.deviance(x) - d) < 10.0 * SAME * max(1.0, abs(d)):
        return Null(None, "whether the covariance models are nested was not found out")
    B, sizes = tangent_cone(large.spec, large.scale, x)
    D = large.covariance(x, "natural")[1]
    added = _added(slopes, D)
    if B is None or added is None or _is_lost(large, x, D / np.sqrt(np.sum(V**2))):
        return Null(None, UNDEFINED)
    C = np.eye(len(B))
    if len(B) > 1:  # of one half-line the weights are a half each, whatever the information
        inverse = _inverse(np.array(_information(large.spec, large.prepared, jnp.asarray(x))))
        if inverse is None:
            return Null(None, UNDEFINED)
        C = B @ inverse @ B.T
    return Null(cone_mixture(C, sizes, seed=seed).plus(added - len(B)), note)


def _same_covariance(small: Model, large: Model) -> bool:
    """Whether two models have the same random parts and residual."""
    parts: list[Any] = [(m.random, m.residual) for m in (small, large)]
    shapes: list[Any] = list(map(jax.tree_util.tree_structure, parts))
    leaves, other = map(jax.tree_util.tree_leaves, parts)
    return bool(shapes[0] == shapes[1]) and all(map(np.array_equal, leaves, other))


def _few_rows(*models: Model) -> np.ndarray:
    """All rows, or those of some levels of every grouping factor."""
    n = len(models[0].y)
    if n <= ROWS:
        return np.arange(n)
    groups = [part.group for model in models for part in (*model.random, model.residual) if part.group is not None]
    rng, each, chosen = np.random.default_rng(0), ROWS // max(len(groups), 1), []
    for group in groups:
        levels = rng.permutation(int(group.max()) + 1)[:LEVELS]
        for level in levels:
            here = np.flatnonzero(group == level)
            chosen.append(here[np.linspace(0, len(here) - 1, min(len(here), each // len(levels) + 1)).astype(int)])
    return np.unique(np.concatenate([rng.permutation(n)[:LEVELS], *chosen]))


def _interior(side: _TwoModels, theta: np.ndarray) -> tuple[np.ndarray, str]:
    """Solver coordinates of a fit, its parts on the boundary moved inside, and a note of that."""
    s = np.asarray(coordinates(side.spec, side.prepared, theta, "solver"))
    start = side.spec.start(side.prepared.coords) * side.scale
    begin, note = 0, ""
    for structure, dim in side.spec.parts:
        here = slice(begin, begin + structure.size(dim))
        if structure.at_boundary((s / side.scale)[here], dim, SINGULAR):
            s[here] = (1.0 - INWARD) * s[here] + INWARD * start[here]
            note = "the smaller fit is singular; what it estimates as zero is taken as positive"
        begin = here.stop
    return s, note


def _embedded(side: _TwoModels, V: np.ndarray, theta: np.ndarray) -> np.ndarray | None:
    """Natural parameters at which the covariances between the few rows are V (m,), if there are any.

    Least squares in the solver's coordinates, from its start values and from those of the fit, polished in the natural
    parameters, where most structures are linear and zeros are no trap.
    """
    from scipy.optimize import least_squares

    size, k = np.max(np.abs(V)), len(side.scale)
    if len(V) < k:
        return None
    fitted = np.asarray(coordinates(side.spec, side.prepared, theta, "solver")) / side.scale
    start = side.spec.start(side.prepared.coords)
    for first in (start, np.where(np.abs(fitted) < INWARD, fitted + INWARD * start, fitted)):
        found = least_squares(
            lambda t: (side.covariance(t * side.scale, "solver")[0] - V) / size,
            np.where(np.isfinite(first), first, start),
            lambda t: side.covariance(t * side.scale, "solver")[1] * (side.scale / size),
            method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=200,
        )  # fmt: skip
        x = side.natural(found.x * side.scale)
        for _ in range(3):
            now, D = side.covariance(x, "natural")
            if not np.all(np.isfinite(D)):
                break
            units = np.sqrt(np.sum(D**2, 0))
            units = np.where(units > 0, units, 1.0)
            better = x + np.linalg.lstsq(D / units, V - now, rcond=FLAT_LAW)[0] / units
            if not np.max(np.abs(side.covariance(better, "natural")[0] - V)) <= np.max(np.abs(now - V)):
                break
            x = better
        if np.max(np.abs(side.covariance(x, "natural")[0] - V)) < SAME * size:
            return x
    return None


def _inverse(information: np.ndarray) -> np.ndarray | None:
    """Inverse of an information matrix, or None where it is singular."""
    d = np.sqrt(np.diagonal(information))
    if not np.all(d > 0):
        return None
    scaled = information / np.outer(d, d)
    return None if np.linalg.eigvalsh(scaled)[0] < FLAT_LAW else np.linalg.inv(scaled) / np.outer(d, d)


def _is_lost(side: _TwoModels, x: np.ndarray, D: np.ndarray) -> bool:
    """Whether a parameter without a scale, such as a range or a correlation, has no effect or has gone to infinity.

    D (m, k) are derivatives of the covariances relative to their size.
    """
    start = side.natural(side.spec.start(side.prepared.coords) * side.scale)
    effect = np.sqrt(np.sum(D**2, 0))
    for (kind, _), now, first, e in zip(side.spec.kinds, x, start, effect, strict=True):
        if isinstance(kind, PositiveKind) and not (abs(np.log(now / first)) < FAR and e * first > INDEPENDENT):
            return True
        if not kind.has_scale and not (abs(now) < FAR and e > INDEPENDENT or isinstance(kind, PositiveKind)):
            return True
    return False


def _added(small: np.ndarray, large: np.ndarray) -> int | None:
    """How many directions of the larger model (m, k) there are besides those of the smaller one, which it contains.

    None where directions vanish or coincide: a parameter that the smaller model leaves undefined (Davies 1977).
    """
    if not (np.all(np.isfinite(small)) and np.all(np.isfinite(large))):
        return None
    small, large = (A / np.maximum(np.sqrt(np.sum(A**2, 0)), 1e-300) for A in (small, large))
    rest = small - large @ np.linalg.lstsq(large, small, rcond=FLAT_LAW)[0]
    ranks = [int(np.linalg.matrix_rank(A, tol=INDEPENDENT)) for A in (small, large)]
    if ranks[1] < large.shape[1] or np.max(np.abs(rest), initial=0.0) > INDEPENDENT:
        return None
    return ranks[1] - ranks[0]
