"""A fitted model: numbers as NumPy arrays, tables in the caller's data frame library."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from . import predict as _predict
from . import simulate as _simulate
from .batching import BatchFit, refit_batch
from .blups import RandomEffects, SingularDirection, random_effects, singular_directions
from .bootstrap import Bootstrap, Statistic, bootstrap
from .chunks import Progress
from .columns import extend_rows, make_frame
from .components import VarCorr, natural_parameters, parameter_frame, varcorr
from .design import Field, Term, as_array
from .errors import DataError
from .fitting import Certificate, Estimate, estimate
from .frame import ModelFrame
from .model import Model
from .optimize import Status
from .tables import Summary, Table, format_column

FLAT = 1e-6  # smallest eigenvalue of the scaled information below which a direction has no curvature


class ConvergenceWarning(UserWarning):
    """A fit ended without reaching an optimum; its numbers must not be used."""


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """A fitted linear mixed model, as `jaxlmm.lmm` returns it.

    Attributes
    ----------
    method : "REML" or "ML"
    model : the arrays, a `jaxlmm.Model`; ``jaxlmm.reml(fit.theta, fit.model) == fit.loglik`` (`ml` for ML fits)
    frame : names and layout of the data
    estimate : all numbers of the fit
    data : what `lmm` was given
    """

    data: Any
    frame: ModelFrame
    model: Model
    estimate: Estimate
    method: str

    # -- numbers ---------------------------------------------------------------------------------------------

    @property
    def loglik(self) -> float:
        """Maximised (restricted) log-likelihood, lme4's constant."""
        return self.estimate.loglik

    @property
    def coef(self) -> np.ndarray:
        """Fixed effects (p,)."""
        return self.estimate.coef

    @property
    def coef_names(self) -> tuple[str, ...]:
        """Names of the fixed effects."""
        return self.frame.coef_names

    @property
    def vcov(self) -> np.ndarray:
        """Covariance of the fixed effects (p, p), ``(X'V^-1 X)^-1``."""
        return self.estimate.vcov

    @property
    def se(self) -> np.ndarray:
        """Standard errors of the fixed effects (p,)."""
        return np.sqrt(np.diagonal(self.vcov))

    @property
    def theta(self) -> np.ndarray:
        """Covariance parameters (k,), unconstrained; see `jaxlmm.reml`, and `parameters` for natural ones by name."""
        return self.estimate.theta

    @property
    def sigma(self) -> float | None:
        """Residual standard deviation (None where the residual has a structure of its own)."""
        return self.estimate.sigma

    @property
    def nobs(self) -> int:
        """Rows used."""
        return len(self.model.y)

    @property
    def npar(self) -> int:
        """Number of parameters, fixed and covariance."""
        return len(self.coef) + len(self.theta)

    @property
    def df_resid(self) -> int:
        """Rows minus parameters."""
        return self.nobs - self.npar

    @property
    def aic(self) -> float:
        """``-2 loglik + 2 npar``, under REML too (lme4's convention)."""
        return -2.0 * self.loglik + 2.0 * self.npar

    @property
    def bic(self) -> float:
        """``-2 loglik + npar log(nobs)``."""
        return -2.0 * self.loglik + self.npar * float(np.log(self.nobs))

    # -- how it went -----------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        """How the optimisation ended: "converged" or a word of `jaxlmm.Status`."""
        return self.estimate.status.name.lower()

    @property
    def converged(self) -> bool:
        """Whether an optimum was reached and certified."""
        return self.estimate.status == Status.CONVERGED

    @property
    def certificate(self) -> Certificate:
        """Gradient norm, Newton decrement, smallest eigenvalue of the information, dual check."""
        return self.estimate.certificate

    @property
    def singular(self) -> bool:
        """Whether a covariance matrix is singular (a variance of zero, a correlation of one)."""
        return any(self.estimate.boundary)

    @property
    def singular_directions(self) -> tuple[SingularDirection, ...]:
        """Which combinations of random effects have no variance."""
        return singular_directions(self.frame, self.estimate)

    @property
    def engine(self) -> str:
        """The engine that evaluated the likelihood."""
        return self.model.engine

    # -- covariances and effects -----------------------------------------------------------------------------

    def varcorr(self) -> VarCorr:
        """Estimated variances, standard deviations and correlations; natural parameters of structures over columns."""
        return varcorr(self.frame, self.model, self.estimate)

    def parameters(self) -> Any:
        """Natural parameters of every covariance structure as a frame: part, name, estimate, in the order of theta."""
        return parameter_frame(natural_parameters(self.frame, self.model, self.estimate), self.frame.kind)

    def ranef(self) -> RandomEffects:
        """Predicted random effects (BLUPs) with conditional covariances, by grouping factor."""
        return random_effects(self.frame, self.model, self.estimate)

    # -- predictions -----------------------------------------------------------------------------------------

    @property
    def fitted(self) -> np.ndarray:
        """Conditional means of the rows used (n,): fixed part, offset and predicted random parts.

        Random functions count, a nugget's structure too (``residual="ou(t | id) + iid()"``); residuals do not.
        """
        return self.predict()

    def predict(self, newdata: Any = None, random: bool = True, allow_new_levels: bool = False) -> np.ndarray:
        """Predicted means.

        Parameters
        ----------
        newdata : frame with the columns of the formula; default the rows of the fit
        random : add the predicted random effects; False gives the population mean
        allow_new_levels : give levels of a grouping factor that were not in the fit an effect of zero

        Raises
        ------
        DataError
            For missing columns, and unknown levels that are not allowed.
        """
        if newdata is None:
            X, offset = self.model.X, self.model.offset
            terms = tuple(_rows_of(part, self.nobs) for part in self.model.random)
        else:
            if random and self.frame.fields:
                raise DataError(
                    f"newdata: {self.frame.fields[0].text} at new places needs kriging, which is not there yet; "
                    "random=False gives the population mean"
                )
            new = self.frame.design(newdata, random=random)
            X, offset, terms = new.X, new.offset, new.terms
        if not random:
            return _predict.linear_predictor(X, self.coef, offset)
        for part, (_, codes) in zip(self.frame.parts, terms, strict=True):
            unknown = int(np.sum(codes < 0))
            if unknown and not allow_new_levels:
                raise DataError(
                    f"newdata: {unknown} rows have a level of {part.group_label!r} that was not in the fit; use "
                    "allow_new_levels=True to give these an effect of zero, or random=False"
                )
        effects = _predict.random_effects(self.model, self.estimate)
        by_term = _predict.effects_by_term(self.model, effects)
        return _predict.linear_predictor(X, self.coef, offset, terms, by_term)

    def residuals(self, kind: str = "response") -> np.ndarray:
        """Residuals (n,): "response" is y minus fitted, "pearson" that times sqrt(weight)."""
        if kind not in ("response", "pearson"):
            raise DataError(f"kind: found {kind!r}, expected 'response' or 'pearson'")
        raw = self.model.y - self.fitted
        return raw if kind == "response" or self.model.weights is None else raw * np.sqrt(self.model.weights)

    def simulate(self, n: int = 1, seed: int = 0) -> np.ndarray:
        """Draw n new responses (n, nobs) from the fitted model; replicate r depends only on seed and r."""
        return _simulate.simulate(self.model, self.estimate, n, seed)

    def refit(
        self, y: Any, *, missing: str = "status", weights: Any = None, column: str | None = None, values: Any = None,
        pairs: str = "rows", progress: Progress = "auto",
    ) -> Fit | BatchFit:  # fmt: skip
        """Fit the same model to another response, or to many in one go.

        Parameters
        ----------
        y : (nobs,) a response, which gives a `Fit`; or (b, nobs) responses, which give a `BatchFit` with a row each
        missing, weights, values, pairs, progress : for many responses, see `jaxlmm.fit_batch`
        column : name of the coefficient whose column of X is replaced by `values`, row by row

        Raises
        ------
        DataError
            For a wrong shape; a single response that is not finite or does not vary. Among many responses, such a
            one is a status in its row.
        """
        if np.ndim(y) == 2:
            if column is not None and column not in self.coef_names:
                raise DataError(f"column: found {column!r}, expected one of {', '.join(self.coef_names)}")
            return refit_batch(
                self.model, y, self.method, missing=missing, weights=weights, values=values, pairs=pairs,
                column=None if column is None else self.coef_names.index(column), progress=progress,
                names=self.coef_names, kind=self.frame.kind,
            )  # fmt: skip
        y = as_array("y", y, (self.nobs,))
        if np.ptp(y) == 0:
            raise DataError(f"y: constant response, all {self.nobs} values equal {float(y[0]):g}")
        return fit_frame(self.data, dataclasses.replace(self.frame, y=y), self.model.replace(y=y), self.method)

    def bootstrap(
        self, n: int = 1000, seed: int = 0, statistic: Statistic | None = None, progress: Progress = "auto"
    ) -> Bootstrap:
        """Parametric bootstrap: simulate from the fitted model, fit again, n times.

        Parameters
        ----------
        n : replicates;  seed : replicate r depends on the seed and r alone
        statistic : function of a fit (see `jaxlmm.Replicate`: coef, vcov, theta, varcorr, sigma, loglik) that returns
            a number or a vector; default coefficients, standard deviations and correlations of the random effects
            and sigma
        progress : see `jaxlmm.fit_batch`

        Returns
        -------
        Bootstrap
            With intervals by ``confint(level, method="percentile" | "basic" | "bca")``.
        """
        terms = [(part.group_label, part.columns) for part in self.frame.parts]
        return bootstrap(
            self.model, self.estimate, self.method, n, seed, statistic, self.coef_names, terms, self.frame.kind,
            progress,
        )  # fmt: skip

    # -- tables ----------------------------------------------------------------------------------------------

    def tidy(self) -> Any:
        """Fixed effects as a frame: term, estimate, std_error, statistic."""
        columns = {"estimate": self.coef, "std_error": self.se, "statistic": self._t_values()}
        return make_frame(self.frame.kind, {"term": list(self.coef_names), **columns})

    def _t_values(self) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.coef / self.se

    def glance(self) -> Any:
        """One row about the fit: nobs, sigma, loglik, aic, bic, df_resid, method, status, singular."""
        names = ("nobs", "sigma", "loglik", "aic", "bic", "df_resid", "method", "status", "singular")
        return make_frame(self.frame.kind, {name: [getattr(self, name)] for name in names})

    def augment(self) -> Any:
        """The rows used, with the columns of the data and fitted, resid and fixed (population mean)."""
        added = {"fitted": self.fitted, "resid": self.residuals(), "fixed": self.predict(random=False)}
        return extend_rows(self.data, self.frame.rows, added)

    def summary(self) -> Summary:
        """The account that lme4's users expect, as text or HTML."""
        return Summary((self._head(), *self.varcorr().tables(), self._groups(), self._fixed(), self._ending()))

    def _head(self) -> str:
        name = "REML" if self.method == "REML" else "maximum likelihood"
        lines = [f"Linear mixed model fit by {name}", f"Formula: {self.frame.formula.text}"]
        if self.frame.residual_text:
            lines.append(f"Residual: {self.frame.residual_text}")
        if self.frame.variance_text:
            lines.append(f"Variance: {self.frame.variance_text}")
        criterion = "REML criterion" if self.method == "REML" else "Deviance (-2 log-likelihood)"
        lines += ["", f"{criterion} at convergence: {-2 * self.loglik:.4f}", ""]
        cells = [f"{self.aic:.1f}", f"{self.bic:.1f}", f"{self.loglik:.1f}", str(self.df_resid)]
        header = ["AIC", "BIC", "logLik", "df.resid"]
        widths = [max(len(h), len(c)) for h, c in zip(header, cells, strict=True)]
        lines += [" ".join(v.rjust(w) for v, w in zip(row, widths, strict=True)) for row in (header, cells)]
        return "\n".join(lines)

    def _groups(self) -> str:
        own = () if self.frame.residual is None else (self.frame.residual,)
        sizes = dict.fromkeys(f"{p.group_label}, {len(p.levels)}" for p in (*self.frame.parts, *own) if p.levels)
        text = f"Number of obs: {self.nobs}" + (f", groups:  {'; '.join(sizes)}" if sizes else "")
        if self.frame.n_missing:
            text += f"\n{self.frame.n_missing} of {self.frame.n_input} rows dropped because of missing values"
        return text

    def _fixed(self) -> Table:
        estimates, errors = format_column(self.coef, 6), format_column(self.se)
        rows = tuple(
            (name, e, s, f"{t:.3f}")
            for name, e, s, t in zip(self.coef_names, estimates, errors, self._t_values(), strict=True)
        )
        note = ""
        if self.frame.aliased:
            note = f"dropped, combinations of other columns: {', '.join(self.frame.aliased)}"
        return Table("Fixed effects:", ("", "Estimate", "Std. Error", "t value"), rows, note=note)

    def _ending(self) -> str:
        c = self.certificate
        how = "converged" if self.converged else f"NOT CONVERGED: {self.estimate.status.advice}"
        lines = [
            f"{how} ({c.iterations} evaluations, {self.engine} engine)",
            f"gradient {c.gradient_norm:.1e}, Newton decrement {c.decrement:.1e}, "
            f"smallest eigenvalue of the scaled information {c.min_eigenvalue:.2g}",
        ]
        lines += [f"singular fit; {direction}" for direction in self.singular_directions]
        if self.converged and not self.singular and c.min_eigenvalue < FLAT:
            lines.append("the likelihood is flat in a direction: not all covariance parameters are identified")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def _rows_of(part: Term | Field, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Design and level of each row; of a random function, whose value is predicted at every row, its own."""
    return (part.Z, part.group) if isinstance(part, Term) else (np.ones((n, 1)), np.arange(n))


def fit_frame(data: Any, frame: ModelFrame, model: Model, method: str, start: np.ndarray | None = None) -> Fit:
    """Estimate a model whose rows are described by `frame`."""
    with jax.enable_x64(True):
        found = estimate(model, method, start)
    if found.status != Status.CONVERGED:
        warnings.warn(f"{frame.formula.text}: {found.status.advice}", ConvergenceWarning, stacklevel=3)
    return Fit(data, frame, model, found, method)
