"""Comparing fits of nested models: likelihood ratio tests and information criteria in one table."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...arguments import Seed, check_choice, door
from ...batch.chunks import Progress
from ...errors import DataError
from ...estimates.fitted import FitBase
from ...fitting.estimate import estimate
from ...frames.columns import make_frame
from ...frames.tables import Shown, Summary, Table, format_p
from ...runtime.precision import float64
from ...tolerances import REPEATED
from .mixtures import Mixture
from .nested_laws import null_law
from .resampling import BootstrapTest, bootstrap_test, cleaned

METHODS = ("lrt", "bootstrap")


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Shown):
    """Fits ordered by their number of parameters, each tested against the one before.

    Attributes
    ----------
    fits : in order;  npar, loglik, aic, bic : (m,)
    statistic, df, p : (m,) likelihood ratio, parameters added, p-value; NaN for the first and where there is no test
    references : (m,) words for the law that p comes from, or why there is none
    laws : (m,) asymptotic laws, None where not known;  tests : (m,) bootstrap tests, None without
    notes : what else should be known
    """

    fits: tuple[Any, ...]
    npar: np.ndarray
    loglik: np.ndarray
    aic: np.ndarray
    bic: np.ndarray
    statistic: np.ndarray
    df: np.ndarray
    p: np.ndarray
    references: tuple[str, ...]
    laws: tuple[Mixture | None, ...]
    tests: tuple[BootstrapTest | None, ...]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The formulas of the fits, with their residuals."""
        return tuple(_name(fit.frame) for fit in self.fits)

    def frame(self) -> Any:
        """One row a fit: model, npar, aic, bic, loglik, statistic, df, p_value, reference."""
        columns = {name: getattr(self, name) for name in ("npar", "aic", "bic", "loglik", "statistic", "df")}
        columns = {"model": list(self.names), **columns, "p_value": self.p, "reference": list(self.references)}
        return make_frame(self.fits[0].frame.kind, columns)

    def summary(self) -> Summary:
        """The table as text or HTML."""

        def column(values: np.ndarray, form: str) -> list[str]:
            return ["" if np.isnan(v) else f"{v:{form}}" for v in values]

        numbers = [column(v, form) for v, form in (
            (self.npar, "d"), (self.aic, ".2f"), (self.bic, ".2f"), (self.loglik, ".3f"), (self.statistic, ".4f"),
            (self.df, ".0f"),
        )]  # fmt: skip
        labels = [str(i + 1) for i in range(len(self.fits))]
        rows = tuple(zip(labels, *numbers, map(format_p, self.p), self.references, strict=True))
        header = ("", "npar", "AIC", "BIC", "logLik", "Chisq", "Df", "Pr(>Chisq)", "Reference")
        how = "REML" if self.fits[0].method == "REML" else "maximum likelihood"
        models = "\n".join(f"{i + 1}: {name}" for i, name in enumerate(self.names))
        table = Table(f"Fits by {how}:\n{models}", header, rows, note="\n".join(self.notes))
        return Summary((table,))

    def tables(self) -> tuple[str | Table, ...]:
        """As it prints."""
        return self.summary().parts


@door
def compare(
    small: Any, large: Any, *more: Any, method: str = "lrt", n: int = 999, seed: Seed = 0, refit: bool = False,
    progress: Progress = "auto",
) -> Comparison:  # fmt: skip
    """Compare fits to the same data: each with the one before it, ordered by their number of parameters.

    The asymptotic law of the likelihood ratio is found from the two models: chi-squared where the parameters that are
    added are interior; a mixture where variances are added, ``0.5 chi2(0) + 0.5 chi2(1)`` for one variance (Self &
    Liang 1987), ``0.5 chi2(q) + 0.5 chi2(q+1)`` for one more correlated effect (Stram & Lee 1994), in general with
    weights from the expected information at the smaller fit. It needs many independent groups; see also
    `jaxlmm.rlrt`, exact for one variance. Where no law is known the reason stands in its place.

    Parameters
    ----------
    small, large, more : fits by the same method
    method : "lrt"; or "bootstrap", which simulates from the smaller fit and refits both
    n, seed : replicates of the bootstrap, and the seed of any simulation
    refit : refit all by maximum likelihood first, to compare fixed effects of REML fits
    progress : of the bootstrap, see `jaxlmm.fit_batch`

    Returns
    -------
    Comparison

    Raises
    ------
    DataError
        For fits to different data or by different methods, and REML fits with different fixed effects, whose
        likelihoods are of different contrasts of the data. X may be another basis of the same space: log-likelihoods
        are then those in the basis of the first fit.
    """
    check_choice("method", method, METHODS)
    fits = sorted((small, large, *more), key=lambda fit: fit.npar)
    _check_data(fits, refit)
    notes = []
    if refit and any(fit.method == "REML" for fit in fits):
        fits = [by_ml(fit) for fit in fits]
        notes.append("refitted by maximum likelihood")
    shifts = np.array([_log_scale(fits[0], fit) for fit in fits])
    if np.any(shifts != 0):
        notes.append("log-likelihoods are those for the X of model 1; other models have another basis of it")
    npar, loglik = np.array([fit.npar for fit in fits]), np.array([fit.loglik for fit in fits]) + shifts
    pairs = [_pair(fits[i], fits[i + 1], loglik[i : i + 2], method, n, seed, progress) for i in range(len(fits) - 1)]
    notes += [f"{i + 1} and {i + 2}: {pair.note}" for i, pair in enumerate(pairs) if pair.note]
    every = (_Pair(np.nan, np.nan, ""), *pairs)
    return Comparison(
        fits=tuple(fits),
        npar=npar,
        loglik=loglik,
        aic=-2.0 * loglik + 2.0 * npar,
        bic=-2.0 * loglik + npar * np.log(fits[0].nobs),
        statistic=np.array([pair.statistic for pair in every]),
        df=np.append(np.nan, np.diff(npar).astype(float)),
        p=np.array([pair.p for pair in every]),
        references=tuple(pair.reference for pair in every),
        laws=tuple(pair.law for pair in every),
        tests=tuple(pair.test for pair in every),
        notes=tuple(notes),
    )


class _Pair(NamedTuple):
    """Test of a fit against the one before."""

    statistic: float
    p: float
    reference: str
    law: Mixture | None = None
    test: BootstrapTest | None = None
    note: str = ""


def _pair(small: Any, large: Any, loglik: np.ndarray, method: str, n: int, seed: int, progress: Progress) -> _Pair:
    statistic = float(cleaned(2.0 * (loglik[1] - loglik[0]), loglik[1]))
    obstacle = _obstacle(small, large, statistic)
    if obstacle:
        return _Pair(np.nan, np.nan, f"no test: {obstacle}")
    law, note = null_law(small, large, seed)
    if method == "bootstrap":
        shift = loglik[1] - large.loglik - (loglik[0] - small.loglik)
        test = bootstrap_test(small, large.model, statistic, n, seed, shift, progress)
        return _Pair(statistic, test.p, str(test), law, test)
    if law is None:
        return _Pair(np.nan, np.nan, f"no test: {note}")
    return _Pair(statistic, law.p_value(statistic), str(law), law, note=note)


def _obstacle(small: Any, large: Any, statistic: float) -> str:
    """Why there is no likelihood ratio test of two fits, or an empty text."""
    for fit in (small, large):
        if not fit.converged:
            return f"{_name(fit.frame)} has not converged"
    if small.npar == large.npar:
        return "the models have as many parameters"
    if not _is_spanned(small.model.X, large.model.X):
        return "not nested: the fixed effects of the smaller model are not among those of the larger"
    if statistic < 0:
        return "not nested, or an optimum was missed: the larger model has the lower likelihood"
    return ""


def _check_data(fits: list[Any], refit: bool) -> None:
    """Refuse fits whose likelihoods are not of the same data."""
    first = fits[0]
    for fit in fits[1:]:
        if fit.nobs != first.nobs:
            raise DataError(
                f"compare: expected fits to the same rows, found {first.nobs} and {fit.nobs}; fit all to the rows "
                "without missing values in any of their columns"
            )
        for name in ("y", "weights", "offset"):
            mine, theirs = getattr(first.model, name), getattr(fit.model, name)
            if (mine is None) != (theirs is None) or (mine is not None and not np.array_equal(mine, theirs)):
                raise DataError(f"compare: expected fits to the same data in the same order, found another {name}")
        if refit:
            continue
        if fit.method != first.method:
            raise DataError("compare: found fits by REML and by ML; fit all by the same method, or use refit=True (ML)")
        X, other = first.model.X, fit.model.X
        if fit.method == "REML" and not (_is_spanned(X, other) and _is_spanned(other, X)):
            raise DataError(
                "compare: REML likelihoods of models with different fixed effects are of different contrasts of the "
                "data and cannot be compared; use refit=True, which compares the fits by maximum likelihood"
            )


def _is_spanned(X: np.ndarray, other: np.ndarray) -> bool:
    """Whether the columns of X are combinations of those of another matrix."""
    if X.shape[1] == 0 or X is other:
        return True
    size = np.sqrt(np.sum(other**2, 0))
    Q = np.linalg.qr(other / np.where(size > 0, size, 1.0))[0]
    rest = X - Q @ (Q.T @ X)
    return bool(np.all(np.sum(rest**2, 0) <= REPEATED**2 * np.sum(X**2, 0)))


def _log_scale(first: Any, fit: FitBase) -> float:
    """What the REML log-likelihood of another basis of the same X has more: ``log|X'X| / 2`` less that of the first.

    The likelihood of orthonormal contrasts, ``loglik + log|X'X| / 2``, is the same (Harville 1974).
    """
    if fit.method != "REML" or np.array_equal(first.model.X, fit.model.X):
        return 0.0
    logs = [np.sum(np.log(np.abs(np.diagonal(np.linalg.qr(m.X, mode="r"))))) for m in (fit.model, first.model)]
    return float(logs[0] - logs[1])


def by_ml(fit: FitBase) -> Any:
    """The fit by maximum likelihood."""
    if fit.method == "ML":
        return fit
    with float64():
        return dataclasses.replace(fit, estimate=estimate(fit.model, "ML"), method="ML")


def _name(frame: Any) -> str:
    """The formula with residual and variance function."""
    extra = [f"{key}: {text}" for key, text in (("residual", frame.residual_text), ("variance", frame.variance_text))
             if text]  # fmt: skip
    return ", ".join([frame.formula.text, *extra])
