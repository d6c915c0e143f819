"""Covariance parameters of a fit with their uncertainty, in coordinates where they are regular."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..covariance import Covariance
from ..estimates.fitted import FitBase
from ..fitting.objective import Spec, coordinates
from ..likelihood.model import block_at
from ..linalg import quadratic
from ..runtime.precision import float64
from ..runtime.programs import compiled_by_size
from .local import INFORMATION, Inverse, inverse, local, may_be_flat, prepared_for
from .options import check_information


class Parameters(NamedTuple):
    """What a function given to ``fit.delta`` is called with: JAX arrays, by the names they have in a fit.

    Attributes
    ----------
    coef (p,), theta (k,) : as in `jaxlmm.Fit`
    varcorr : covariance matrix (q, q) of each random part ((K, T, T) at sets of coordinates);  residual : that of the
        residuals;  sigma : () their standard deviation, NaN where they have a structure
    structures : the covariance structures with their natural parameters, the residual's last
    """

    coef: Array
    theta: Array
    varcorr: tuple[Array, ...]
    residual: Array
    sigma: Array
    structures: tuple[Covariance, ...]


@dataclass(frozen=True, eq=False)
class Uncertain:
    """Covariance parameters of a fit in coordinates where they are regular, and the covariance of these.

    Attributes
    ----------
    spec : with absolute covariances;  K : basis of each term
    x (k,) : solver's coordinates;  inverse : of their information;  note : why what is NaN, or empty
    """

    spec: Spec
    K: tuple[np.ndarray, ...]
    coords: tuple[Any, ...]
    x: Any
    inverse: Inverse | None
    note: str

    @property
    def lost(self) -> np.ndarray:
        """Directions (k, 2k) of `Inverse`, about which the data say nothing."""
        assert self.inverse is not None
        return self.inverse.lost

    def variances(self, J: np.ndarray) -> np.ndarray:
        """Variances (...) of values with slopes J (..., k): NaN where nothing moves them, or what is not identified."""
        assert self.inverse is not None
        known = np.any(J != 0, -1) & self.identifies(J)
        return np.where(known, quadratic(J, self.inverse.W), np.nan)

    def covariance(self, J: np.ndarray) -> np.ndarray:
        """J W J' for slopes J (m, k), with NaN as in `variances`."""
        assert self.inverse is not None
        known = np.isfinite(self.variances(J))
        return np.where(known[:, None] & known, J @ self.inverse.W @ J.T, np.nan)

    def identifies(self, J: np.ndarray) -> np.ndarray:
        """Whether values with slopes J (..., k) stay where they are along what the data do not identify (...)."""
        assert self.inverse is not None
        return self.inverse.identifies(J)

    def parameters(self, coef: Array, x: Array) -> Parameters:
        """Everything at fixed effects and coordinates."""
        theta, blocks, structures = values_at(self.spec, self.K, self.coords, x)
        sigma = jnp.sqrt(blocks[-1][0, 0]) if self.spec.independent else jnp.full((), jnp.nan)
        return Parameters(coef, theta, blocks[:-1], blocks[-1], sigma, structures)


def values_at(
    spec: Spec, K: Sequence[Any], coords: Sequence[Any], x: Array
) -> tuple[Array, tuple[Array, ...], tuple[Covariance, ...]]:  # fmt: skip
    """Public theta, covariance blocks and structures at solver's coordinates x, in the user's basis of the terms."""
    s = spec.in_basis(x, K)
    bound = tuple(structure.from_solver(v, dim) for structure, dim, v in spec.split(s))
    each = zip(bound, spec.parts, coords, strict=True)
    return spec.map("solver_to_public", s), tuple(block_at(own, dim, places) for own, (_, dim), places in each), bound


def uncertain(fit: FitBase, information: str = "observed") -> Uncertain:
    """Covariance of the covariance parameters by an information matrix."""
    check_information(information)
    with float64():
        spec, prepared = prepared_for(fit.model, fit.method)
        x = np.asarray(coordinates(spec, prepared, fit.theta, "solver"))
        kind = fit.estimate.information
        if information == "observed" and not may_be_flat(fit):
            found = inverse(np.where(np.isfinite(kind), kind, np.eye(len(kind))))  # NaN where not converged, see below
        else:
            run = _program(prepared.statistics, len(x))
            found = jax.device_get(run(spec, prepared, x, INFORMATION.index(information)))
    note = "" if found.definite else "the information of the covariance parameters is not positive definite"
    note = note if fit.converged else f"not converged: {fit.estimate.status.advice}"
    if note:
        found = found._replace(W=np.full_like(found.W, np.nan))
    elif found.lost.any():
        note = "empty: moved by what the data do not identify"
    return Uncertain(spec, prepared.basis.K, prepared.coords, x, found, note)


def _inverse(spec: Spec, prepared: Any, x: Array, information: Array) -> Inverse:
    found = local(spec, prepared, "solver", x)
    return inverse(jnp.stack([getattr(found, kind) for kind in INFORMATION])[information], found)


_program = compiled_by_size(_inverse)
