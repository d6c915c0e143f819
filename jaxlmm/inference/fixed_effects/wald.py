"""Tests of linear combinations of the coefficients, with the degrees of freedom that a method gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import check_choice, numbers_of
from ...distributions import f_tail, t_tail, two_sided
from ...errors import DataError
from ...estimates.fitted import FitBase
from ...fitting.objective import Spec, coordinates
from ...fitting.units import root_of
from ...likelihood.prepared import Prepared
from ...runtime.precision import float64
from ...runtime.programs import compiled_by_size
from ...tolerances import CONTRADICTED, INDEPENDENT, REPEATED
from ..hypotheses.coding import coding_of
from ..local import INFORMATION, Inverse, expanded, inverse, local_of, may_be_flat, prepared_for
from ..options import chart_of, check_options
from ..robust.sandwich import KINDS, sandwich
from ..small_sample import kenward_roger, satterthwaite
from ..small_sample.degrees import rule_of
from ..unidentified import Unidentified, unidentified

DF = (
    "satterthwaite", "kenward-roger", "kenward-roger-full", "containment", "between-within", "between-within-sas",
    "residual", "asymptotic",
)  # fmt: skip
HOTELLING = "hotelling"  # of sandwich covariances only
WORDS = {
    "satterthwaite": "Satterthwaite", "kenward-roger": "Kenward-Roger", "kenward-roger-full": "Kenward-Roger full",
    "between-within-sas": "Between-within of SAS",
}  # fmt: skip
KNOWN = "covariances known"
NOT_DEFINITE = "the information of the covariance parameters is not positive definite: no degrees of freedom"
NOT_POSITIVE = "the adjusted covariance of the coefficients is not positive definite; use df='satterthwaite'"
NOT_IDENTIFIED = "empty: the data do not determine covariance parameters that the variance depends on"


class RowTests(NamedTuple):
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
    root : (p, p) with ``vcov = root root'``, from which standard errors are made
    label : the method in words, for the output;  note : what to know about it, or empty
    method, information : as asked for, or as chosen (``information`` is None where none is used)
    parameters : chart of the covariance parameters and the inverse of their information, where the method uses them
    unidentified : what moves along directions about which the data say nothing; estimates and errors that do are NaN
    """

    names: tuple[str, ...]
    coef: np.ndarray
    vcov: np.ndarray
    root: np.ndarray
    method: str
    information: str | None
    label: str
    note: str
    _row_df: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    _joint: Callable[[np.ndarray], tuple[float, float]] = field(repr=False)  # scale of F, denominator df
    parameters: tuple[str, Inverse] | None = field(default=None, repr=False)
    _coding: Callable[[], Any] | None = field(default=None, repr=False)
    _estimated_se: bool = field(default=False, repr=False)  # whether standard errors depend on the parameters too
    unidentified: Unidentified | None = field(default=None, repr=False)

    def rows(self, L: Any, rhs: Any = 0.0) -> RowTests:
        """Test ``L beta = rhs`` row by row, L (m, p)."""
        L = self.checked(L)
        estimate, se = L @ self.coef - rhs, np.linalg.norm(L @ self.root, axis=1)
        df = np.asarray(self._row_df(L), float) if len(L) else np.zeros(0)
        if self._estimated_se or self.method.startswith("kenward"):
            se = np.where(np.isnan(df), np.nan, se)
        if self.unidentified is not None:
            estimate = np.where(self.unidentified.estimates(L), np.nan, estimate)
            se = np.where(self.unidentified.variances(L) | np.isnan(estimate), np.nan, se)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = estimate / se
        return RowTests(estimate + rhs, se, df, t, t_tail(t, df))

    def interval(self, rows: RowTests, level: float = 0.95) -> np.ndarray:
        """Confidence limits (m, 2) of rows."""
        half = two_sided(level, rows.df) * rows.se
        return np.stack([rows.estimate - half, rows.estimate + half], -1)

    def joint(self, L: Any, rhs: Any = 0.0) -> FTest:
        """F test of all rows of ``L beta = rhs`` together; rows that repeat others do not count.

        Satterthwaite's degrees of freedom are those of the rows as they are given, see `canonical`.
        """
        L = self.checked(L)
        if self.unidentified is not None and (self.unidentified.estimates(L) | self.unidentified.variances(L)).any():
            return FTest(np.nan, float(np.linalg.matrix_rank(L)), np.nan, np.nan)
        gap = np.broadcast_to(L @ self.coef - rhs, (len(L),))
        scaled = L * np.sqrt(np.maximum(np.diagonal(self.vcov), 0.0))
        size = np.linalg.norm(scaled, axis=1)
        if not np.all(np.isfinite(size)) or not np.any(size > 0):
            return FTest(np.nan, 0.0, np.nan, np.nan)
        r = np.linalg.matrix_rank(scaled / np.where(size > 0, size, 1.0)[:, None], tol=REPEATED)
        inner = L @ self.root
        se = np.linalg.norm(inner, axis=1)
        se = np.where(se > 0, se, 1.0)
        U, w, _ = np.linalg.svd(inner / se[:, None])  # each hypothesis in its own standard error
        gap, sizes = gap / se, (np.abs(L) @ np.abs(self.coef) + np.abs(rhs)) / se
        if np.any(np.abs(U[:, r:].T @ gap) > CONTRADICTED * np.linalg.norm(sizes)):
            raise DataError("rhs: rows of L are combinations of each other, and their right-hand sides contradict that")
        if not (len(w) >= r and w[r - 1] > REPEATED):
            return FTest(np.nan, float(r), np.nan, np.nan)
        full = L if r == len(L) else U[:, :r].T @ (L / se[:, None])
        scale, df = self._joint(full)
        F = float(scale * np.sum((U[:, :r].T @ gap / w[:r]) ** 2) / r)
        return FTest(F, float(r), float(df), float(f_tail(F, r, df)))

    def joint_of(self, L: Any, rhs: Any = 0.0) -> FTest:
        """F test of all rows of ``L beta = rhs`` together, the same for all rows that say the same."""
        found = self.joint(L, rhs)
        if found.num_df < 2 or not np.isfinite(found.statistic):
            return found
        return self.joint(*self.canonical(L, rhs))._replace(statistic=found.statistic)

    def canonical(self, L: Any, rhs: Any = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """The same hypotheses in the basis that does not depend on how they, or X, are written (see `hypotheses`).

        Rows (r, p) of full rank, and right-hand sides (r,). As they are given where they are not finite.
        """
        L = self.checked(L)
        rhs = np.broadcast_to(np.asarray(rhs, float), (len(L),))
        if self._coding is None or len(L) < 2 or not np.all(np.isfinite(L)) or not L.any():
            return L, rhs
        coding = self._coding()
        rows = coding.canonical(L)
        turn = np.linalg.lstsq(coding.of(L).T, coding.of(rows).T, rcond=REPEATED)[0]
        return rows, turn.T @ rhs

    def checked(self, L: Any) -> np.ndarray:
        """L as a float array (m, p); a vector is one row."""
        L = np.atleast_2d(numbers_of("L", L, "rows of numbers, names of coefficients, or weights by their names"))
        if L.ndim != 2 or L.shape[1] != len(self.coef):
            raise DataError(f"L: expected {len(self.coef)} columns, one a coefficient, found shape {L.shape}")
        return L


def check_tests(
    df: str, information: str | None = None, boundary_df: str | None = None, robust: str | None = None,
    cluster: Any = None,
) -> None:  # fmt: skip
    """Refuse unknown options of tests, see ``Fit.test``."""
    if df not in DF and (df != HOTELLING or robust is None):
        sandwiches = f"; with robust= {HOTELLING} too" if df == HOTELLING else ""
        raise DataError(f"df: found {df!r}, expected one of {', '.join(DF)}{sandwiches}")
    check_options(information, boundary_df)
    if robust is not None:
        check_choice("robust", robust, KINDS)
    if cluster is not None and robust is None:
        raise DataError("cluster: only with robust=, such as robust='CR2'")


def wald(
    fit: FitBase, df: str = "satterthwaite", information: str | None = None, boundary_df: str | None = None,
    robust: str | None = None, cluster: Any = None,
) -> Wald:  # fmt: skip
    """Choose the covariance of the coefficients and the degrees of freedom; see ``Fit.test`` for the arguments."""
    check_tests(df, information, boundary_df, robust, cluster)
    if robust is not None:
        found = _robust(fit, df, robust, cluster)
    elif not df.startswith(("satterthwaite", "kenward")):
        found = _plain(fit, df, fit.vcov, fit.estimate.inner[0], "")
    else:
        found = _small_sample(fit, df, information, boundary_df)
    unknown = unidentified(fit)
    if unknown is None:
        return found
    every = np.eye(len(fit.coef))
    note = NOT_IDENTIFIED if (unknown.estimates(every) | unknown.variances(every)).any() else ""
    return replace(found, unidentified=unknown, note=found.note or note)


def _plain(fit: FitBase, df: str, vcov: np.ndarray, root: np.ndarray, prefix: str) -> Wald:
    """Degrees of freedom from the design alone."""
    rule = rule_of(fit, df)
    note = "" if fit.converged else f"not converged: {fit.estimate.status.advice}"
    return Wald(
        fit.coef_names, fit.coef, vcov, root, df, None, f"{prefix}{WORDS.get(df, df.capitalize())}", note,
        rule, lambda L: (1.0, float(np.min(rule(L)))), None, partial(coding_of, fit),
    )  # fmt: skip


def _robust(fit: FitBase, df: str, kind: str, cluster: Any) -> Wald:
    """A sandwich estimator, with its own degrees of freedom or those of the design."""
    if df.startswith("kenward"):
        raise DataError(f"df: {df!r} has a covariance of its own; with robust= use 'satterthwaite' or a simple one")
    found = sandwich(fit, kind, cluster)
    if df not in ("satterthwaite", HOTELLING):
        return _plain(fit, df, found.vcov, root_of(found.vcov), f"{found.label}, ")
    note = "" if fit.converged else f"not converged: {fit.estimate.status.advice}"

    def joint(L: np.ndarray) -> tuple[float, float]:
        r, (F, _, den) = len(L), found.joint(L, test="satterthwaite" if df == "satterthwaite" else "HTZ")
        scale = 1.0 if df == "satterthwaite" else den / (den + r - 1.0)
        return (scale if np.isfinite(F) else np.nan), den  # NaN with fewer clusters than rows of L

    if found.clusters <= len(fit.coef):
        few = (
            f"{found.clusters} clusters are not more than the {len(fit.coef)} coefficients: do not rely on these tests"
        )
        note = note or few
    label = f"{found.label}, Satterthwaite" + ", approximate Hotelling tests" * (df == HOTELLING)
    root, coding = root_of(found.vcov), partial(coding_of, fit)
    return Wald(fit.coef_names, fit.coef, found.vcov, root, df, None, label, note, found.df, joint, None, coding)


def _small_sample(fit: FitBase, df: str, information: str | None, boundary_df: str | None) -> Wald:
    """Satterthwaite and Kenward-Roger."""
    is_kr = df != "satterthwaite"
    if is_kr and fit.method != "REML":
        raise DataError(f"df: {df!r} is for REML fits, found method 'ML'; fit with method='REML'")
    if not len(fit.theta):  # V is known: coefficients are normal
        return replace(
            _plain(fit, "asymptotic", fit.vcov, fit.estimate.inner[0], ""), method=df, label=f"{WORDS[df]}, {KNOWN}"
        )
    chart, information = chart_of(df, information, boundary_df, fit.singular)
    kind = fit.estimate.information
    at_hand = chart == "solver" and information == "observed" and not is_kr and np.all(np.isfinite(kind))
    if at_hand and not may_be_flat(fit):
        (root, P), found, change, hidden = fit.estimate.inner, inverse(kind), None, None
    else:
        root, P, found, change, hidden = _compiled(fit, chart, information, df)
    own, W = root, found.W  # all in the basis of `root`, in which the coefficients are uncorrelated
    note = "" if np.all(np.isfinite(W)) and found.definite else NOT_DEFINITE
    if is_kr and change is not None and not note and len(change):
        note = "" if np.min(np.linalg.eigvalsh(change)) > 0 else NOT_POSITIVE
        own = root if note else root @ np.linalg.cholesky(change)
    vcov = own @ own.T
    note = note if fit.converged else f"not converged: {fit.estimate.status.advice}"
    label = f"{WORDS[df]}, {information} information"
    if fit.singular:
        label += f", singular fit: variances of zero {'kept' if chart == 'natural' else 'dropped'}"
    if note:
        W, vcov, own = np.full_like(W, np.nan), np.where(is_kr, np.nan, vcov), np.where(is_kr, np.nan, own)

    row_df, joint = degrees(df, root, P, found, W, hidden)
    if not note and np.isnan(row_df(np.eye(len(root)))).any():
        note = NOT_IDENTIFIED
    return Wald(
        fit.coef_names, fit.coef, vcov, own, df, information, label, note, row_df, joint,
        (chart, found._replace(W=W)), partial(coding_of, fit),
    )  # fmt: skip


def degrees(
    df: str, root: np.ndarray, P: np.ndarray, found: Inverse, W: np.ndarray, hidden: np.ndarray | None
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], tuple[float, float]]]:  # fmt: skip
    """Satterthwaite's or Kenward and Roger's rules for rows (m, p), and for all together: scale of F, denominator df.

    Parameters
    ----------
    root : (p, p) of the covariance of the estimates, in whose basis P (k, p, p) and `hidden` are
    P : derivatives of the inverse of their covariance;  found, W : covariance of the parameters, NaN for no df
    hidden : what Kenward and Roger would add along what the data say nothing about, or None
    """
    is_kr, Phi, lost = df != "satterthwaite", np.eye(root.shape[1]), bool(np.isnan(W).any())

    def known(U: np.ndarray) -> bool:
        """Whether the law of hypotheses U (r, p) does not depend on what the data say nothing about."""
        V = np.linalg.qr(U.T)[0]
        still = found.known(V.T @ P @ V).all()
        return bool(still and (not is_kr or hidden is None or np.abs(V.T @ hidden @ V).max(initial=0) < INDEPENDENT))

    def joint(L: np.ndarray) -> tuple[float, float]:
        if lost or not known(L @ root):
            return 1.0, np.nan
        if not is_kr:
            return 1.0, float(satterthwaite.joint_df(L @ root, Phi, P, W))
        scale, den = kenward_roger.joint(L @ root, Phi, P, W)
        return float(scale), float(den)

    def row_df(L: np.ndarray) -> np.ndarray:
        if lost:
            return np.full(len(L), np.nan)
        df = satterthwaite.row_df(L @ root, Phi, P, W)
        return np.where([known(u[None]) for u in L @ root], df, np.nan) if found.lost.any() else df

    return row_df, joint


def _compiled(fit: FitBase, chart: str, information: str, df: str) -> tuple[Any, ...]:
    """A root of Phi; in its basis P, the inverse of the information, Kenward and Roger's covariance, what it lacks."""
    with float64():
        spec, prepared = prepared_for(fit.model, fit.method)
        x = coordinates(spec, prepared, fit.theta, chart)
        at, size = (spec, prepared, float(chart == "natural"), x), (prepared.statistics, len(x))
        Phi, P, found, total, hidden = jax.device_get(_program(*size)(*at, INFORMATION.index(information)))
        if df == "kenward-roger-full":
            total = total + np.asarray(_curvature(*size)(*at, P, found.W))
    R, inner = prepared.basis.R, root_of(Phi)
    change = np.eye(len(R)) + 2.0 * inner.T @ total @ inner
    root = np.linalg.solve(R, inner) if len(R) else inner
    return root, inner.T @ P @ inner, found, 0.5 * (change + change.T), inner.T @ hidden @ inner


def _quantities(
    spec: Spec, prepared: Prepared, chart: Array, x: Array, information: Array
) -> tuple[Array, Array, Inverse, Array, Array]:  # fmt: skip
    """Phi, P, the inverse of an information matrix, and what adjusts Phi for Kenward-Roger; internal units.

    Last what would adjust it along directions without information, if these had a variance of one.

    Methods, information matrices and charts (0 of the solver, 1 of natural parameters) share one compiled program.
    """
    at = expanded(spec, prepared, chart, x)
    found = local_of(spec, prepared, chart, x, at)
    kind = jnp.stack([getattr(found, name) for name in INFORMATION])[information]
    inv = inverse(kind, found)
    both = jax.vmap(partial(kenward_roger.adjustment, at))(jnp.stack([inv.W, inv.lost @ inv.lost.T]))
    return found.Phi, found.P, inv, both[0], both[1]


_program, _curvature = compiled_by_size(_quantities), compiled_by_size(kenward_roger.curvature)

__all__ = ["DF", "FTest", "RowTests", "Wald", "wald"]
