"""The delta method: standard errors of anything that is a function of the parameters, with gradients by autodiff."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..covariance import ByGroup, Covariance
from ..distributions import two_sided
from ..errors import DataError
from ..estimates.fitted import FitBase
from ..fitting.objective import Spec
from ..frames.columns import make_frame
from ..frames.tables import Shown, Table, format_column
from ..linalg import quadratic
from ..runtime.precision import float64
from ..runtime.programs import compiled_by_size
from ..tolerances import INDEPENDENT
from .uncertain import Parameters, uncertain, values_at
from .unidentified import unidentified


@dataclass(frozen=True, eq=False, repr=False)
class Delta(Shown):
    """Estimates with their approximate covariance.

    Attributes
    ----------
    names (m,), estimate (m,), se (m,), vcov (m, m) : se is NaN where the parameters have no covariance (`note`)
    """

    names: tuple[str, ...]
    estimate: np.ndarray
    vcov: np.ndarray
    note: str
    kind: str = field(repr=False, default="dict")

    @property
    def se(self) -> np.ndarray:
        """Standard errors (m,)."""
        return np.sqrt(np.maximum(np.diagonal(self.vcov), 0.0))

    def confint(self, level: float = 0.95) -> np.ndarray:
        """Normal limits (m, 2)."""
        half = two_sided(level, np.inf) * self.se
        return np.stack([self.estimate - half, self.estimate + half], -1)

    def frame(self, level: float = 0.95) -> Any:
        """One row a value: term, estimate, std_error, lower, upper."""
        limits = self.confint(level)
        columns = {"estimate": self.estimate, "std_error": self.se, "lower": limits[:, 0], "upper": limits[:, 1]}
        return make_frame(self.kind, {"term": list(self.names), **columns})

    def table(self) -> Table:
        """Estimates with standard errors and normal limits."""
        numbers = (self.estimate, self.se, *self.confint().T)
        rows = tuple((name, *format_column(x, 6)) for name, *x in zip(self.names, *numbers, strict=True))
        return Table("Estimates:", ("", "Estimate", "Std. Error", "2.5 %", "97.5 %"), rows, note=self.note)


def delta(fit: FitBase, g: Callable[[Parameters], Any], information: str = "observed") -> Delta:
    """Value and standard error of ``g(parameters)``; see ``Fit.delta``."""
    at = uncertain(fit, information)
    name = getattr(g, "__name__", "value").replace("<lambda>", "value")

    def vector(coef: Array, x: Array) -> tuple[Array, Array]:
        try:
            value = g(at.parameters(coef, x))
        except AttributeError as error:
            raise DataError(f"g: {error}; parameters have {', '.join(Parameters._fields)}") from error
        except jax.errors.ConcretizationTypeError as error:
            raise DataError("g: use jax.numpy, and no float() or if, on the parameters: they are traced") from error
        value = jnp.stack([jnp.asarray(v) for v in value]) if isinstance(value, tuple | list) else jnp.asarray(value)
        return value.reshape(-1), value.reshape(-1)

    with float64():
        (by_coef, by_x), value = jax.jit(jax.jacfwd(vector, (0, 1), has_aux=True))(
            jnp.asarray(fit.coef), jnp.asarray(at.x)
        )
        by_coef, by_x, value = (np.asarray(a) for a in (by_coef, by_x, value))
    assert at.inverse is not None
    W = at.inverse.W
    vcov = by_coef @ fit.vcov @ by_coef.T + by_x @ (np.nan_to_num(W) if len(W) else W) @ by_x.T
    stays, moves = at.identifies(by_x), unidentified(fit)
    if moves is not None and by_coef.any():  # coefficients move along with covariance parameters
        spread = np.sqrt(quadratic(by_coef, moves.at.vcov)) + np.linalg.norm(by_x * at.inverse.unit, axis=1)
        stays = ~np.any(np.abs(moves.coef @ by_coef.T + moves.along @ by_x.T) > INDEPENDENT * spread, 0)
    known = np.any(np.concatenate([by_coef, by_x], 1) != 0, 1) & stays  # a variance of zero, such as that
    vcov = np.where(known[:, None] & known, vcov, np.nan)
    names = (name,) if len(value) == 1 else tuple(f"{name}[{i}]" for i in range(len(value)))
    value = np.where(stays, value, np.nan)
    return Delta(names, value, vcov, at.note if np.isnan(vcov).any() else "", fit.frame.kind)


class Natural(NamedTuple):
    """Natural parameters with the Jacobians that their standard errors need.

    Attributes
    ----------
    values (m,), vcov (m, m) : natural parameters of all parts, in the order of ``fit.parameters()``
    theta (k, k) : covariance of the unconstrained parameters
    covariances : for every part over levels the variances of the entries of its matrix (q, q), of each arm where these
        have parameters of their own (arms, q, q);  correlations : those of its correlations
    identified : whether the data determine each of the values (m,), and of the entries of each block, the residual last
    spread (k, k) : `theta` as far as it is identified, zero along what is not, and on the boundary
    theta_identified : whether the data determine each entry of theta (k,)
    """

    values: np.ndarray
    vcov: np.ndarray
    theta: np.ndarray
    covariances: tuple[Any, ...]
    correlations: tuple[Any, ...]
    note: str
    identified: tuple[Any, ...]
    spread: np.ndarray
    theta_identified: np.ndarray

    def se_of(self, places: slice) -> np.ndarray:
        """Standard errors of some of the parameters."""
        return np.sqrt(np.diagonal(self.vcov)[places])


def natural(fit: FitBase, information: str = "observed") -> Natural:
    """Covariance of the natural parameters (delta method); NaN for a parameter on the boundary of its space."""
    at = uncertain(fit, information)
    with float64():
        run = _natural(at.x, 1)
        (values, _, blocks), (J, JT, JB) = jax.device_get(run(at.spec, at.K, at.coords, at.x))
    covariances: list[Any] = []
    correlations: list[Any] = []
    for G, JG in zip(blocks, JB, strict=True):
        covariances.append(None if G is None else at.variances(JG))
        correlations.append(None if G is None else at.variances(_of_correlations(G, JG)))
    known = (at.identifies(J), *(None if G is None else at.identifies(JG) for G, JG in zip(blocks, JB, strict=True)))
    assert at.inverse is not None
    JT0 = np.where(np.isfinite(JT), JT, 0.0)
    return Natural(
        values, at.covariance(J), at.covariance(JT), tuple(covariances), tuple(correlations), at.note, known,
        JT0 @ at.inverse.W @ JT0.T, at.identifies(JT0),
    )  # fmt: skip


def _of_correlations(G: np.ndarray, JG: np.ndarray) -> np.ndarray:
    """The Jacobian (..., q, q, k) of the correlations, from that of covariance matrices G (..., q, q)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        v = np.diagonal(G, axis1=-2, axis2=-1)
        size = np.sqrt(v[..., :, None] * v[..., None, :])
        Jv = np.einsum("...iik->...ik", JG) / v[..., None]
        return (JG - 0.5 * G[..., None] * (Jv[..., :, None, :] + Jv[..., None, :, :])) / size[..., None]


def _natural_values(spec: Spec, K: Any, coords: Any, x: Array) -> Any:
    def values(x: Array) -> Any:
        theta, blocks, structures = values_at(spec, K, coords, x)
        each = list(zip(structures, spec.parts, strict=True))
        named = [jnp.asarray(value) for s, (_, dim) in each for _, value in s.named(dim)]
        shown = tuple(_over_levels(s, dim, G) for (s, (_, dim)), G in zip(each, blocks, strict=True))
        return jnp.stack([jnp.zeros(()), *named])[1:], theta, shown

    return values(x), jax.jacfwd(values)(x)


def _over_levels(structure: Covariance, dim: Any, G: Array) -> Array | None:
    """The covariance matrix (q, q), those of the arms (arms, q, q), or None of what is not over levels."""
    if isinstance(structure, ByGroup) and not isinstance(dim, tuple) and dim > 1:
        return jnp.stack([part.matrix(np.arange(dim, dtype=np.int32)) for part in structure.parts])
    return None if G.ndim > 2 else G


_natural = compiled_by_size(_natural_values)
