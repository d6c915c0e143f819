"""Tests of linear combinations of the coefficients, with the degrees of freedom that a method gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..distributions import check_level, f_tail, t_quantile, t_tail
from ..errors import DataError
from ..fitting import compiled_by_size
from ..model import Prepared
from ..objective import Spec
from ..precision import float64
from . import kenward_roger, satterthwaite
from .degrees import between_within, containment_of, residual
from .local import INFORMATION, coordinates, expanded, inverse, local_of, prepared_for
from .options import chart_of, check_options
from .sandwich import sandwich

DF = (
    "satterthwaite", "kenward-roger", "kenward-roger-full", "containment", "between-within", "residual", "asymptotic",
)  # fmt: skip
RANK = 1e-8  # singular values of rows of L in units of standard errors that repeat others
WORDS = {"satterthwaite": "Satterthwaite", "kenward-roger": "Kenward-Roger", "kenward-roger-full": "Kenward-Roger full"}
NOT_DEFINITE = "the information of the covariance parameters is not positive definite: no degrees of freedom"
NOT_POSITIVE = "the adjusted covariance of the coefficients is not positive definite; use df='satterthwaite'"
NOT_IDENTIFIED = "the data do not determine the covariance parameters that the coefficients' variances depend on"


class Rows(NamedTuple):
    """One t test a row: arrays (m,)."""

    estimate: np.ndarray
    se: np.ndarray
    df: np.ndarray
    statistic: np.ndarray
    p: np.ndarray


class FTest(NamedTuple):
    """A joint test: F statistic, numerator and denominator degrees of freedom, p value."""

    statistic: float
    num_df: float
    den_df: float
    p: float


@dataclass(frozen=True, eq=False)
class Wald:
    """Coefficients with a covariance matrix and a rule for degrees of freedom.

    Attributes
    ----------
    names, coef (p,), vcov (p, p) : the covariance is that of the method: adjusted for Kenward-Roger, robust, ...
    label : the method in words, for the output;  note : what to know about it, or empty
    method, information : as asked for, or as chosen (``information`` is None where none is used)
    parameters : chart of the covariance parameters and their covariance (k, k), where the method uses them
    """

    names: tuple[str, ...]
    coef: np.ndarray
    vcov: np.ndarray
    method: str
    information: str | None
    label: str
    note: str
    _row_df: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    _joint: Callable[[np.ndarray], tuple[float, float]] = field(repr=False)  # scale of F, denominator df
    parameters: tuple[str, np.ndarray] | None = field(default=None, repr=False)

    def rows(self, L: Any, rhs: Any = 0.0) -> Rows:
        """Test ``L beta = rhs`` row by row, L (m, p)."""
        L = self.checked(L)
        estimate, se = L @ self.coef - rhs, np.sqrt(np.maximum(np.einsum("mi,ij,mj->m", L, self.vcov, L), 0.0))
        df = np.asarray(self._row_df(L), float) if len(L) else np.zeros(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = estimate / se
        return Rows(estimate + rhs, se, df, t, t_tail(t, df))

    def interval(self, rows: Rows, level: float = 0.95) -> np.ndarray:
        """Confidence limits (m, 2) of rows."""
        half = t_quantile(0.5 * (1.0 + check_level(level)), rows.df) * rows.se
        return np.stack([rows.estimate - half, rows.estimate + half], -1)

    def joint(self, L: Any, rhs: Any = 0.0) -> FTest:
        """F test of all rows of ``L beta = rhs`` together; rows that repeat others do not count."""
        L = self.checked(L)
        gap = np.broadcast_to(L @ self.coef - rhs, (len(L),))
        scaled = L * np.sqrt(np.maximum(np.diagonal(self.vcov), 0.0))
        size = np.linalg.norm(scaled, axis=1)
        if not np.all(np.isfinite(size)) or not np.any(size > 0):
            return FTest(np.nan, 0.0, np.nan, np.nan)
        r = np.linalg.matrix_rank(scaled / np.where(size > 0, size, 1.0)[:, None], tol=RANK)
        w, Q = np.linalg.eigh(L @ self.vcov @ L.T)
        w, rest, Q = w[-r:], Q[:, :-r], Q[:, -r:]
        if np.any(np.abs(rest.T @ gap) > 1e-6 * np.linalg.norm(np.abs(L) @ np.abs(self.coef) + np.abs(rhs))):
            raise DataError("rhs: rows of L are combinations of each other, and their right-hand sides contradict that")
        if w[0] <= 0:
            return FTest(np.nan, float(r), np.nan, np.nan)
        full = L if r == len(L) else Q.T @ L
        scale, df = self._joint(full)
        F = float(scale * np.sum((Q.T @ gap) ** 2 / w) / r)
        return FTest(F, float(r), float(df), float(f_tail(F, r, df)))

    def checked(self, L: Any) -> np.ndarray:
        """L as a float array (m, p); a vector is one row."""
        L = np.atleast_2d(np.asarray(L, float))
        if L.ndim != 2 or L.shape[1] != len(self.coef):
            raise DataError(f"L: expected {len(self.coef)} columns, one a coefficient, found shape {L.shape}")
        return L


def wald(
    fit: Any, df: str = "satterthwaite", information: str | None = None, boundary_df: str | None = None,
    robust: str | None = None, cluster: Any = None,
) -> Wald:  # fmt: skip
    """Choose the covariance of the coefficients and the degrees of freedom; see ``Fit.test`` for the arguments."""
    if df not in DF:
        raise DataError(f"df: found {df!r}, expected one of {', '.join(DF)}")
    check_options(information, boundary_df)
    if cluster is not None and robust is None:
        raise DataError("cluster: only with robust=, such as robust='CR2'")
    if robust is not None:
        return _robust(fit, df, robust, cluster)
    if not df.startswith(("satterthwaite", "kenward")):
        return _plain(fit, df, fit.vcov, "")
    return _small_sample(fit, df, information, boundary_df)


def _plain(fit: Any, df: str, vcov: np.ndarray, prefix: str) -> Wald:
    """Degrees of freedom from the design alone."""
    rule: Callable[[np.ndarray], np.ndarray]
    if df == "containment":
        rule = containment_of(fit.frame)
    elif df == "between-within":
        rule = partial(between_within, fit)
    else:
        number = np.inf if df == "asymptotic" else residual(fit)
        rule = lambda L: np.full(len(L), number)  # noqa: E731
    note = "" if fit.converged else f"not converged: {fit.estimate.status.advice}"
    return Wald(
        fit.coef_names, fit.coef, vcov, df, None, f"{prefix}{df.capitalize()}", note,
        rule, lambda L: (1.0, float(np.min(rule(L)))),
    )  # fmt: skip


def _robust(fit: Any, df: str, kind: str, cluster: Any) -> Wald:
    """A sandwich estimator, with its own degrees of freedom or those of the design."""
    if df.startswith("kenward"):
        raise DataError(f"df: {df!r} has a covariance of its own; with robust= use 'satterthwaite' or a simple one")
    found = sandwich(fit, kind, cluster)
    if df != "satterthwaite":
        return _plain(fit, df, found.vcov, f"{found.label}, ")
    note = "" if fit.converged else f"not converged: {fit.estimate.status.advice}"

    def joint(L: np.ndarray) -> tuple[float, float]:
        F, _, den = found.joint(L)
        return (1.0 if np.isfinite(F) else np.nan), den  # F is not scaled; NaN with fewer clusters than rows of L

    if found.clusters <= len(fit.coef):
        few = (
            f"{found.clusters} clusters are not more than the {len(fit.coef)} coefficients: do not rely on these tests"
        )
        note = note or few
    label = f"{found.label}, Satterthwaite"
    return Wald(fit.coef_names, fit.coef, found.vcov, df, None, label, note, found.df, joint)


def _small_sample(fit: Any, df: str, information: str | None, boundary_df: str | None) -> Wald:
    """Satterthwaite and Kenward-Roger."""
    is_kr = df != "satterthwaite"
    if is_kr and fit.method != "REML":
        raise DataError(f"df: {df!r} is for REML fits, found method 'ML'; fit with method='REML'")
    chart, information = chart_of(df, information, boundary_df, fit.singular)
    if chart == "solver" and information == "observed" and not is_kr:
        Phi, P, kind, vcov = fit.vcov, fit.estimate.slopes, fit.estimate.information, fit.vcov
    else:
        Phi, P, kind, vcov = _compiled(fit, chart, information, df)
    W, definite, identified = inverse(kind, Phi, P) if np.all(np.isfinite(kind)) else (kind, False, True)
    note = "" if definite and identified else NOT_DEFINITE if not definite else NOT_IDENTIFIED
    if is_kr and not note and len(vcov) and not np.min(np.linalg.eigvalsh(vcov)) > 0:
        note = NOT_POSITIVE
    note = note if fit.converged else f"not converged: {fit.estimate.status.advice}"
    label = f"{WORDS[df]}, {information} information"
    if fit.singular:
        label += f", singular fit: variances of zero {'kept' if chart == 'natural' else 'dropped'}"
    if note:
        W, vcov = np.full_like(W, np.nan), np.where(is_kr, np.nan, vcov)

    def joint(L: np.ndarray) -> tuple[float, float]:
        if note:
            return 1.0, np.nan
        if not is_kr:
            return 1.0, float(satterthwaite.joint_df(L, Phi, P, W))
        scale, den = kenward_roger.joint(L, Phi, P, W)
        return float(scale), float(den)

    def row_df(L: np.ndarray) -> np.ndarray:
        return np.full(len(L), np.nan) if note else satterthwaite.row_df(L, Phi, P, W)

    return Wald(fit.coef_names, fit.coef, vcov, df, information, label, note, row_df, joint, (chart, W))


def _compiled(fit: Any, chart: str, information: str, df: str) -> tuple[np.ndarray, ...]:
    """Phi, P, the information and the adjusted covariance, in the user's units."""
    chosen = np.array([kind == information for kind in INFORMATION], float)
    with float64():
        spec, prepared = prepared_for(fit.model, fit.method)
        x = coordinates(spec, prepared, fit.theta, chart)
        run = _program(prepared.statistics, len(x))
        Phi, P, kind, total = jax.device_get(run(spec, prepared, chart, df == "kenward-roger-full", chosen, x))
    R = prepared.basis.R
    root = np.linalg.inv(R) if len(R) else R
    vcov = kenward_roger.adjusted(Phi, total) if df.startswith("kenward") else Phi
    return root @ Phi @ root.T, R.T @ P @ R, kind, root @ vcov @ root.T


def _quantities(
    spec: Spec, prepared: Prepared, chart: str, full: bool, chosen: Array, x: Array
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Phi, P, the `chosen` (3,) of the information matrices, and what adjusts Phi for Kenward-Roger; internal units."""
    at = expanded(spec, prepared, chart, x)
    found = local_of(spec, prepared, chart, x, at)
    kind = jnp.tensordot(chosen, jnp.stack([found.observed, found.expected, found.average]), 1)
    W = inverse(kind, found.Phi, found.P).W
    return found.Phi, found.P, kind, kenward_roger.adjustment(spec, prepared, chart, x, at, W, full)


_program = compiled_by_size(_quantities, "spec", "chart", "full")

__all__ = ["DF", "FTest", "Rows", "Wald", "wald"]
