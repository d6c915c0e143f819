"""A fitted model: numbers as NumPy arrays, tables in the caller's data frame library."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .arguments import Seed, doors
from .batch.chunks import Progress
from .batch.fits import BatchFit
from .batch.refitting import refit_batch
from .design.frame import ModelFrame
from .errors import DataError
from .estimates.fitted import FitBase
from .estimates.ranef import (
    RandomEffects,
    SingularDirection,
    coefficients_by,
    random_effects,
    singular_directions,
)
from .estimates.varcorr import VarCorr, flat_parts, names_along, natural_parameters, parameter_frame, varcorr
from .fitting.estimate import estimate
from .fitting.newton import Status
from .frames.alignment import aligned
from .frames.columns import extend_rows, make_frame
from .frames.owned import check_index, frame_at
from .frames.tables import Summary, Table, format_column, format_df, format_p, format_t, notes
from .inference.delta import Delta, Parameters, delta, natural
from .inference.fixed_effects.anova import Anova, anova
from .inference.fixed_effects.in_batches import Tests
from .inference.fixed_effects.linear import LinearTest, linear_test
from .inference.fixed_effects.wald import Wald, wald
from .inference.hypotheses.coding import coding_of
from .inference.identified import known_parameters, known_varcorr
from .inference.local import may_be_flat
from .inference.means.emmeans import emmeans, emtrends
from .inference.means.margins import comparisons, predictions, slopes
from .inference.means.table import EMMeans
from .inference.means.weights import Weights
from .inference.normal import normal_draws
from .inference.profiles.intervals import confint
from .inference.profiles.profile import Profile, profile
from .inference.profiles.targets import Which
from .inference.ratios.criteria import ConditionalAIC, aicc, conditional_aic
from .inference.robust.influence import Influence, influence
from .inference.robust.sandwich import Sandwich, sandwich
from .inference.robust.scores import Scores, scores, vcov_full
from .inference.shares import icc, r2
from .likelihood.confounding import shared_effects
from .likelihood.model import Model
from .likelihood.parts import own_array
from .plotting import BatchPlots, FitPlots, plot_zeta
from .prediction.choice import Random
from .prediction.forecast import predict
from .prediction.simulated import responses
from .prediction.whitening import residuals
from .runtime.precision import float64
from .saving import Call, save_batch, save_fit
from .simulation.bootstrap import Bootstrap, Statistic, bootstrap
from .simulation.draws import Draws
from .tolerances import NEARLY_FLAT


class ConvergenceWarning(UserWarning):
    """A fit ended without reaching an optimum; its numbers must not be used."""


@doors
@dataclass(frozen=True, eq=False, repr=False)
class Fit(FitBase):
    """A fitted linear mixed model, as `jaxlmm.lmm` returns it.

    Attributes
    ----------
    method : "REML" or "ML"
    model : the arrays, a `jaxlmm.Model`; ``jaxlmm.reml(fit.theta, fit.model) == fit.loglik`` (`ml` for ML fits)
    frame : names and layout of the data
    estimate : all numbers of the fit
    data : the columns that the model is made of, a copy of them as they were;  call : the other arguments of `lmm`
    given : the data that `lmm` was given, read for other columns (clusters, `by=`) while those of the model are as then
    """

    call: Call

    def caic(self) -> ConditionalAIC:
        """Conditional AIC (Vaida & Blanchard 2005), with the degrees of freedom of Greven & Kneib (2010).

        For the choice of random effects that are predicted: its likelihood is that given the random effects, its
        degrees of freedom are those of the fitted values, covariance parameters estimated along.
        """
        return conditional_aic(self)

    @property
    def aicc(self) -> float:
        """AIC corrected for few rows (Hurvich & Tsai 1989): ``-2 loglik + 2 npar nobs / (nobs - npar - 1)``."""
        return aicc(self.loglik, self.npar, self.nobs)

    @property
    def singular_directions(self) -> tuple[SingularDirection, ...]:
        """Which combinations of random effects have no variance."""
        return singular_directions(self.frame, self.estimate)

    # -- covariances and effects -----------------------------------------------------------------------------

    def varcorr(self) -> VarCorr:
        """Estimated variances, standard deviations and correlations; natural parameters of structures over columns.

        ``fit.varcorr().frame()`` has standard errors and intervals. NaN is what the data do not identify.
        """
        found = varcorr(self.frame, self.model, self.estimate, partial(natural, self))
        return known_varcorr(found, natural(self)) if may_be_flat(self) else found

    def parameters(self) -> Any:
        """Natural parameters of every covariance structure: a frame (part, name, estimate, std_error) by theta.

        NaN is what the data do not identify.
        """
        parts, at = natural_parameters(self.frame, self.model, self.estimate), natural(self)
        return parameter_frame(known_parameters(parts, at), at, self.frame.kind)

    def ranef(self, all_levels: bool = False) -> RandomEffects:
        """Predicted random effects (BLUPs) with conditional covariances, by grouping factor.

        Parameters
        ----------
        all_levels : with the levels of relationship matrices that have no data, behind the others: what their relatives
            tell of them, with its prediction error variance (Henderson 1977)

        Warns
        -----
        PrecisionWarning
            As in `predict`.
        """
        return random_effects(self, all_levels)

    def coef_by(self, group: str) -> Any:
        """Coefficients of each level of a grouping factor, fixed plus predicted random effects (lme4's ``coef``).

        A frame with a row a level and a column a coefficient. Random effects are added to the coefficient of their
        name; those that have none are columns behind the others.

        Parameters
        ----------
        group : the grouping factor, a key of `ranef`

        Raises
        ------
        DataError
            For a grouping factor that is not there, and structures over columns.
        """
        return coefficients_by(self, group)

    # -- tests -----------------------------------------------------------------------------------------------

    def test(
        self, L: Any, rhs: Any = 0.0, df: str = "satterthwaite", information: str | None = None,
        boundary_df: str | None = None, robust: str | None = None, cluster: Any = None, level: float = 0.95,
    ) -> LinearTest:  # fmt: skip
        """Test linear hypotheses ``L beta = rhs``: a t test of each row and an F test of all together.

        Parameters
        ----------
        L : (m, p) array; a name of a coefficient, or a list of names; ``{"Days": 1, "age": -1}``, weights by name; or
            several hypotheses by their names, ``{"a - b": {"a": 1, "b": -1}, ...}``
        rhs : number or (m,)
        df : degrees of freedom: "satterthwaite"; "kenward-roger", first order, the same in all parametrisations (SAS
            KR(LINEAR), pbkrtest); "kenward-roger-full", second order in the parameters of SAS; "containment",
            "between-within" (nlme, mmrm), "between-within-sas", which is between subjects for all coefficients with
            unstructured residuals and no random effects, "residual", "asymptotic" (infinite)
        information : of the covariance parameters, "observed" (as SAS and mmrm), "expected" (as pbkrtest) or
            "average"; by default observed, on the boundary see `boundary_df`
        boundary_df : for singular fits: "keep" variances of zero as parameters, in natural parameters and with
            expected information (pbkrtest; default of Kenward-Roger), or "drop" them (lmerTest; default of
            Satterthwaite)
        robust : sandwich covariance "CR0", "CR1", "CR1p", "CR1S", "CR2", "CR2-mmrm" or "CR3"
        cluster : for `robust`, a column of the data or an array; default the clusters that the model has
        level : of the intervals

        Raises
        ------
        DataError
            For unknown names, wrong shapes, and Kenward-Roger of an ML fit. Where there are no degrees of freedom
            they are NaN, with a `note`.
        """
        return linear_test(self.wald(df, information, boundary_df, robust, cluster), L, rhs, level, self.frame.kind)

    def wald(
        self, df: str = "satterthwaite", information: str | None = None, boundary_df: str | None = None,
        robust: str | None = None, cluster: Any = None,
    ) -> Wald:  # fmt: skip
        """Covariance of the coefficients and degrees of freedom by a method, for any linear hypotheses.

        Parameters are those of `test`.
        """
        return wald(self, df, information, boundary_df, robust, cluster)

    def anova(
        self, type: int | str = 3, df: str = "satterthwaite", definition: str = "sas", **options: Any
    ) -> Anova:  # fmt: skip
        """F tests of the terms of the fixed part.

        Parameters
        ----------
        type : 1, sequential; 2, adjusted for all terms that do not contain the term; 3, averaged over the cells of
            other factors with equal weights; as SAS and lmerTest define them
        definition : of types 2 and 3 without an intercept, where these two differ: "sas", differences between the
            levels of every factor; "lmertest", means of the first factor's levels, at the first level of the others
        df, options : `information`, `boundary_df`, `robust`, `cluster`: see `test`
        """
        return anova(self, type, df, definition, **options)

    def emmeans(
        self, specs: str | Sequence[str], df: str = "satterthwaite", at: Mapping[str, Any] | None = None,
        weights: Weights = "equal", level: float = 0.95, **options: Any,
    ) -> EMMeans:  # fmt: skip
        """Estimated marginal means (least-squares means), with `pairs`, `contrast` and `test`.

        Parameters
        ----------
        specs : predictors and, behind a bar, those within whose levels means are compared: ``"ARMCD | AVISIT"``
        at : values of predictors in place of all levels of factors and the means of numbers
        weights : of the combinations of other factors: "equal", "proportional" to how often they occur, "cells"; "om",
            how often in all rows with predictors (SAS's OM); or numbers, ``{"sex": {"f": 0.6, "m": 0.4}}``
        level : of the intervals
        df, options : `information`, `boundary_df`, `robust`, `cluster`: see `test`
        """
        return emmeans(self, specs, df, at, weights, level, **options)

    def emtrends(
        self, var: str, specs: str | Sequence[str] = "1", df: str = "satterthwaite",
        at: Mapping[str, Any] | None = None, weights: Weights = "equal", level: float = 0.95, **options: Any,
    ) -> EMMeans:  # fmt: skip
        """Slopes of a numeric predictor, averaged as in `emmeans`, whose parameters the others are."""
        return emtrends(self, var, specs, df, at, weights, level, **options)

    def predictions(
        self, by: str | Sequence[str] | None = None, newdata: Any = None, at: Mapping[str, Any] | None = None,
        df: str = "satterthwaite", level: float = 0.95, **options: Any,
    ) -> EMMeans:  # fmt: skip
        """Predictions of the population mean (random effects at zero), averaged over rows.

        Parameters
        ----------
        by : columns within whose combinations rows are averaged; default all rows together, "row" for each by itself
        newdata : a frame whose rows are averaged; "grid" for the reference grid of `emmeans`; default the rows of the
            fit
        at : values that a predictor is given in every row, ``{"ARMCD": ["PBO", "TRT"]}``, an average for each
        df, options : `information`, `boundary_df`, `robust`, `cluster`: see `test`
        level : of the intervals

        Returns
        -------
        EMMeans
            A table, with `frame`, `contrast`, `pairs` and `test`.
        """
        return predictions(self, by, newdata, at, df, level, **options)

    def comparisons(
        self, variables: str | Sequence[str], change: Any = None, by: str | Sequence[str] | None = None,
        newdata: Any = None, at: Mapping[str, Any] | None = None, df: str = "satterthwaite", level: float = 0.95,
        **options: Any,
    ) -> EMMeans:  # fmt: skip
        """Change of the population mean when a predictor changes and all others stay, averaged over rows.

        Parameters
        ----------
        variables : one predictor, or several, one after the other
        change : of a number, how much is added to it, "sd" for a standard deviation, default 1; of a factor
            "reference" (each level with the first, default), "pairwise" or "sequential"; of both ``(low, high)``
        by, newdata, at, df, level, options : see `predictions`
        """
        return comparisons(self, variables, change, by, newdata, at, df, level, **options)

    def slopes(
        self, variables: str | Sequence[str], by: str | Sequence[str] | None = None, newdata: Any = None,
        at: Mapping[str, Any] | None = None, df: str = "satterthwaite", level: float = 0.95, **options: Any,
    ) -> EMMeans:  # fmt: skip
        """Derivatives of the population mean with respect to numeric predictors, averaged over rows.

        The design is differentiated by central differences, extrapolated: to rounding for polynomials up to degree 6.

        Parameters
        ----------
        variables : one predictor, or several, one after the other
        by, newdata, at, df, level, options : see `predictions`
        """
        return slopes(self, variables, by, newdata, at, df, level, **options)

    def delta(self, g: Callable[[Parameters], Any], information: str = "observed") -> Delta:
        """Standard error of any function of the parameters by the delta method, gradients by autodiff.

        Parameters
        ----------
        g : function of `jaxlmm.Parameters` (coef, theta, varcorr, residual, sigma, structures) that returns a number,
            a vector or a tuple of numbers: ``lambda p: p.varcorr[0][0, 0] / (p.varcorr[0][0, 0] + p.sigma**2)``
        information : "observed", "expected" or "average"
        """
        return delta(self, g, information)

    def vcov_parameters(self, information: str = "observed") -> np.ndarray:
        """Covariance of the natural parameters (m, m) in the order of `parameters` (SAS ASYCOV); NaN at a boundary."""
        return natural(self, information).vcov

    def vcov_theta(self, information: str = "observed") -> np.ndarray:
        """Covariance of theta (k, k) by an information matrix, "observed", "expected" or "average"; NaN at -inf."""
        return natural(self, information).theta

    def r2(self, ddof: int = 0) -> Delta:
        """Marginal and conditional R squared (Nakagawa & Schielzeth 2013; Johnson 2014), with standard errors.

        The variance of the fixed part is over n - `ddof` rows: 1 as R's performance and MuMIn have it.
        """
        return r2(self, ddof)

    def icc(self) -> Delta:
        """Share of every random part, and of all, in the variance around the fixed part (intraclass correlation)."""
        return icc(self)

    # -- robustness ------------------------------------------------------------------------------------------

    def sandwich(self, kind: str = "CR2", cluster: Any = None) -> Sandwich:
        """Cluster-robust covariance of the coefficients, its degrees of freedom and joint tests; see `test`.

        Parameters
        ----------
        kind : "CR0" (SAS EMPIRICAL), "CR1", "CR1p", "CR1S", "CR2" (clubSandwich), "CR2-mmrm" or "CR3" (jackknife)
        cluster : a column of the data, or labels (nobs,); default the rows that depend on each other

        Raises
        ------
        DataError
            Where V is not block diagonal by `cluster`, or there are too few clusters.
        """
        return sandwich(self, kind, cluster)

    def scores(self, cluster: Any = None) -> Scores:
        """Parts of the clusters in the gradient of the log-likelihood: cluster (m,), beta (m, p), theta (m, k).

        They sum to zero. `cluster` as in `sandwich`.
        """
        return scores(self, cluster)

    def vcov_full(self, robust: str | None = None, cluster: Any = None) -> np.ndarray:
        """Covariance (npar, npar) of coefficients and theta, NaN for entries of theta on the boundary.

        Parameters
        ----------
        robust : None for the inverse of the observed information of both, "CR0" or "CR1" for the sandwich of Huber and
            White around it
        cluster : as in `sandwich`
        """
        return vcov_full(self, robust, cluster)

    def influence(
        self, by: Any = "row", theta: bool = True, exact: str = "flagged", threshold: float | None = None
    ) -> Influence:  # fmt: skip
        """Cook's distance, DFBETAS, leverage and changes of covariance parameters, by row or by group.

        Parameters
        ----------
        by : "row", a column of the data, or labels (nobs,)
        theta : let the covariance parameters move; with False they are kept
        exact : "flagged" fits the model again without those above the threshold, "all" without each, "none" without
            none: the others are to first order, by implicit differentiation of the optimum
        threshold : of the distances, default 4 over the number of rows or groups

        Raises
        ------
        DataError
            For unknown options and columns, and groups that are too large.
        """
        parts = natural_parameters(self.frame, self.model, self.estimate)
        names = tuple(f"{part.part} {name}" for part in parts for name in part.names)
        return influence(self, by, theta, exact, threshold, names)

    # -- predictions -----------------------------------------------------------------------------------------

    @property
    def fitted(self) -> np.ndarray:
        """Conditional means of the rows used (n,): fixed part, offset and predicted random parts.

        Random functions count, a nugget's structure too (``residual="ou(t | id) + iid()"``); residuals do not.
        """
        return self.predict()

    def predict(
        self, newdata: Any = None, random: Random = True, se: bool = False, interval: str | None = None,
        level: float = 0.95, df: str = "satterthwaite", allow_new_levels: bool = False, residual: bool = False,
        **method: Any,
    ) -> Any:  # fmt: skip
        """Predicted means, or new observations, with standard errors and intervals.

        Parameters
        ----------
        newdata : frame with the columns of the formula; default the rows of the fit. Rows with missing values are NaN;
            frames have the index of a pandas frame
        random : add the predicted random effects, and random functions at new times and places (kriging); False gives
            the population mean; some of the terms by their text or grouping factor, ``"(1 | item)"`` or ``["item"]``,
            give the mean with the effects of these, the others being zero (lme4's ``re.form``)
        se : a frame (estimate, std_error, df, lower, upper) in place of an array, as with ``interval="confidence"``
        interval : "confidence", for the mean of the row; "prediction", for an observation there, with a residual of
            its own and, where `random` leaves them out or the level is new, random effects of its own
        level : of the interval
        df, method : degrees of freedom and further options as in `test`. Errors of "satterthwaite" and of methods from
            the design take the covariance parameters as known (SAS, lme4's ``condVar``); "kenward-roger" adds what
            their estimation costs (Kackar & Harville 1984; Prasad & Rao 1990), for fixed effects the same as in `test`
        allow_new_levels : predict levels of a grouping factor that were not in the fit: their effect is zero, and its
            variance is part of the error. Levels of a relationship matrix are known: they are predicted through their
            relatives (genomic prediction)
        residual : predict the observation itself, with its residual given those of its subject that are correlated
            with it (mmrm's ``conditional=TRUE``): for structured residuals, such as visits that were missed

        Raises
        ------
        DataError
            For missing columns, unknown levels that are not allowed, and options that exclude each other.

        Warns
        -----
        PrecisionWarning
            Where variances differ so much in size that 64-bit floats do not determine a result, which is then NaN.
        """
        return predict(self, newdata, random, se, interval, level, df, allow_new_levels, residual, **method)

    def residuals(self, kind: str = "response", random: bool = True) -> np.ndarray:
        """Residuals (n,).

        Parameters
        ----------
        kind : "response", y minus its prediction; "pearson", divided by its standard deviation in the model (nlme,
            mmrm and SAS; lme4's ``scaled=TRUE``, whose default is this times `sigma`); "normalized", multiplied by the
            inverse of the Cholesky factor of the covariance matrix, so that they are independent with variance one if
            the model holds (nlme, mmrm)
        random : conditional residuals, given the predicted random effects; False gives marginal ones, ``y - X beta``

        Raises
        ------
        DataError
            For an unknown kind, and normalized residuals of too many rows that depend on each other.
        """
        return residuals(self, kind, random)

    def simulate(self, n: int = 1, seed: Seed = 0, newdata: Any = None, effects: str = "new") -> np.ndarray:
        """Draw n new responses (n, rows) from the fitted model; replicate r depends only on seed and r.

        Parameters
        ----------
        n : replicates;  seed : a whole number, or None for a fresh one, here and wherever there is a seed
        newdata : rows to draw at, groups that the fit has not seen among them; default those of the fit
        effects : "new" draws random effects anew for every group, "predicted" keeps the predicted ones (lme4's
            ``use.u=TRUE``; through relatives for further levels of a relationship matrix) and draws those of groups
            that the fit has not seen

        Raises
        ------
        DataError
            For negative numbers, unknown options, and newdata as in `predict`.
        """
        return responses(self, n, seed, newdata, effects)

    def refit(
        self, y: Any, *, missing: str = "status", weights: Any = None, column: str | None = None, values: Any = None,
        pairs: str = "rows", progress: Progress = "auto", tests: Tests | None = None,
    ) -> Fit | BatchFit:  # fmt: skip
        """Fit the same model to another response, or to many in one go.

        Parameters
        ----------
        y : (nobs,) a response, which gives a `Fit`; or (b, nobs) responses, which give a `BatchFit` with a row each;
            pandas' Series (and DataFrames by their columns) are put into the order of the rows used by their index
        missing, weights, values, pairs, progress, tests : for many responses, see `jaxlmm.fit_batch`
        column : name of the coefficient whose column of X is replaced by `values`, row by row

        Raises
        ------
        DataError
            For a wrong shape; a single response that is not finite or does not vary. Among many responses, such a
            one is a status in its row.
        """
        for name, given in (("y", y), ("weights", weights), ("values", values)):
            check_index(self, name, given)
        y, weights, values = (
            aligned(name, given, self.data, self.frame.rows)
            for name, given in (("y", y), ("weights", weights), ("values", values))
        )
        if np.ndim(y) == 2:
            if column is not None and column not in self.coef_names:
                raise DataError(f"column: found {column!r}, expected one of {', '.join(self.coef_names)}")
            return refit_batch(
                self.model, y, self.method, missing=missing, weights=weights, values=values, pairs=pairs,
                column=None if column is None else self.coef_names.index(column), progress=progress,
                names=self.coef_names, kind=self.frame.kind,
                tests=None if tests is None else tests.coded(coding_of(self)),
            )  # fmt: skip
        y = own_array("y", y, (self.nobs,))
        if np.ptp(y) == 0:
            raise DataError(f"y: constant response, all {self.nobs} values equal {float(y[0]):g}")
        frame, model = dataclasses.replace(self.frame, y=y), self.model.replace(y=y)
        return fit_frame(self.data, frame, model, self.method, self.call, given=self.given)

    def bootstrap(
        self, n: int = 1000, seed: Seed = 0, statistic: Statistic | None = None, progress: Progress = "auto"
    ) -> Bootstrap:
        """Parametric bootstrap: simulate from the fitted model, fit again, n times.

        Parameters
        ----------
        n : replicates;  seed : replicate r depends on the seed and r alone; None for a fresh one
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

    def draws(self, n: int = 1000, seed: Seed = 0, chains: int = 4) -> Draws:
        """Draws from the normal approximation around the estimates, in ArviZ's form: ``fit.draws().to_arviz()``.

        Coefficients (covariance `vcov`) and theta (`vcov_theta`) are independent of each other; covariance matrices and
        sigma are those of theta. Random effects of each level are around their predictions with `pev`, the joint
        uncertainty of effects of a level, not between levels. Entries of theta on the boundary stay there.

        Parameters
        ----------
        n : draws a chain;  seed : draw r depends on the seed and r alone; None for a fresh one
        chains : into how many chains the (independent) draws are put, for those who look at several

        Returns
        -------
        Draws
            coef, theta, sigma, "varcorr TERM" and "ranef GROUP" (not by the iterative engine, which has no `pev`).
        """
        return normal_draws(self, n, seed, chains)

    # -- intervals -------------------------------------------------------------------------------------------

    def confint(
        self, level: float = 0.95, method: str = "wald", which: Which = None, df: str = "satterthwaite",
        n: int = 1000, seed: Seed = 0,
    ) -> Any:  # fmt: skip
        """Confidence intervals as a frame: term, estimate, lower, upper.

        Parameters
        ----------
        level : coverage
        method : "wald", "profile" (see `profile`) or "bootstrap" (parametric, percentiles). Wald intervals of
            coefficients are Student's with the degrees of freedom `df`, those of covariance parameters normal on the
            scale of logarithms or of Fisher's z; they are NaN on the boundary
        which : as in `profile`
        df : for "wald", see `test`
        n, seed : replicates of the bootstrap and their seed, None for a fresh one

        Raises
        ------
        DataError
            For a level, a method or names that are not known, and profiles of a fit that has not converged.
        """
        return confint(self, level, method, which, df, n, seed)

    def profile(self, which: Which = None, level: float = 0.999) -> Profile:
        """Profile likelihoods: of -2 (restricted) log-likelihood with one quantity held at each of its values.

        Standard deviations, correlations and parameters of structures are profiled by the criterion of the fit,
        coefficients by ML, refitting REML fits, as REML has no likelihood of them (lme4 profiles everything by ML).

        Parameters
        ----------
        which : names of quantities, "coef", "covariance" (default all); a function of `jaxlmm.Parameters` (coef,
            varcorr, sigma, ...) written with jax.numpy, or functions by name, such as
            ``{"ICC": lambda at: at.varcorr[0][0, 0] / (at.varcorr[0][0, 0] + at.sigma**2)}``
        level : coverage up to which profiles are followed

        Returns
        -------
        Profile
            With ``confint(level)``, ``frame()``, ``plot()`` and, by name, curves.

        Warns
        -----
        UserWarning
            When the criterion is better along a profile than at the estimate.
        """
        return profile(self, which, level)

    # -- files -----------------------------------------------------------------------------------------------

    def save(self, path: Any, columns: str | Sequence[str] = "used") -> None:
        """Write the fit to a file, which `jaxlmm.load` reads; the loaded fit does all that this one does.

        The file holds data only (arrays and JSON, no pickle), and is complete or not there at all.

        Parameters
        ----------
        path : of the file; one that is there is replaced
        columns : "used", those that the model is made of; "all"; or names of further ones, such as clusters for
            `sandwich`. The index of a pandas frame is not kept

        Raises
        ------
        DataError
            For what cannot be written as data.
        """
        save_fit(self, path, columns)

    @property
    def plot(self) -> FitPlots:
        """Pictures: ``fit.plot.diagnostics()``, ``ranef``, ``residuals``, ``qq``, ...; needs matplotlib."""
        return FitPlots(self)

    # -- tables ----------------------------------------------------------------------------------------------

    def tidy(self, df: str = "satterthwaite", **method: Any) -> Any:
        """Fixed effects as a frame: term, estimate, std_error, statistic, df, p_value; options are those of `test`."""
        rows = self.wald(df, **method).rows(np.eye(len(self.coef)))
        columns = {
            "estimate": self.coef, "std_error": rows.se, "statistic": rows.statistic, "df": rows.df, "p_value": rows.p
        }  # fmt: skip
        return make_frame(self.frame.kind, {"term": list(self.coef_names), **columns})

    def glance(self) -> Any:
        """One row about the fit: nobs, sigma, loglik, aic, aicc, bic, df_resid, method, status, singular."""
        names = ("nobs", "sigma", "loglik", "aic", "aicc", "bic", "df_resid", "method", "status", "singular")
        return make_frame(self.frame.kind, {name: [getattr(self, name)] for name in names})

    def augment(self) -> Any:
        """The rows used, with the columns of the data and fitted, resid and fixed (population mean)."""
        fitted = self.fitted
        added = {"fitted": fitted, "resid": self.model.y - fitted, "fixed": self.predict(random=False)}
        return extend_rows(frame_at(self), self.frame.rows, added)

    def summary(self, df: str = "satterthwaite", **method: Any) -> Summary:
        """The account that lme4's users expect, as text or HTML; options are those of `test`."""
        fixed = self._fixed(self.wald(df, **method))
        return Summary((self._head(), *self.varcorr().tables(), self._groups(), fixed, self._ending()))

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
        return "\n".join([text, *self.frame.notes])

    def _fixed(self, by: Wald) -> Table:
        r = by.rows(np.eye(len(self.coef)))
        estimates, errors = format_column(self.coef, 6), format_column(r.se)
        cells = (estimates, errors, format_df(r.df), format_t(r.statistic), map(format_p, r.p))
        rows = tuple(zip(self.coef_names, *cells, strict=True))
        names = ", ".join(self.frame.aliased)
        dropped = f"dropped, combinations of other columns: {names}" if names else ""
        header = ("", "Estimate", "Std. Error", "df", "t value", "Pr(>|t|)")
        return Table("Fixed effects:", header, rows, note=notes(f"Tests: {by.label}", by.note, dropped))

    def _ending(self) -> str:
        c = self.certificate
        how = "converged" if self.converged else f"NOT CONVERGED: {self.estimate.status.advice}"
        lines = [
            f"{how} ({c.iterations} evaluations, {self.engine} engine)",
            f"gradient {c.gradient_norm:.1e}, Newton decrement {c.decrement:.1e}, "
            f"smallest eigenvalue of the scaled information {c.min_eigenvalue:.2g}",
        ]
        if self.monte_carlo is not None:
            lines.append(str(self.monte_carlo))
        lines += [f"singular fit; {direction}" for direction in self.singular_directions]
        for a, b, _ in shared_effects(self.model.random):
            lines.append(
                f"the terms of {a.name} and {b.name} share an effect: only the sum of its variances is determined"
            )
        if self.converged and not self.singular and c.min_eigenvalue < NEARLY_FLAT:
            among = " and ".join(flat_parts(self.model, self.method, self.estimate))
            lines.append(f"the likelihood is flat: the data do not tell the covariance parameters of {among} apart")
        return "\n".join(lines)

    def tables(self) -> tuple[str | Table, ...]:
        """What `summary` prints."""
        return self.summary().parts


def fit_frame(
    data: Any, frame: ModelFrame, model: Model, method: str, call: Call, start: np.ndarray | None = None,
    given: Any = None,
) -> Fit:  # fmt: skip
    """Estimate a model whose rows are described by `frame`."""
    with float64():
        found = estimate(model, method, start)
    if found.status != Status.CONVERGED:
        advice = found.status.advice
        if found.status == Status.NO_MAXIMUM and (names := names_along(frame, model, method, found)):
            advice = f"{advice}; it does so along {names}"
        warnings.warn(f"{frame.formula.text}: {advice}", ConvergenceWarning, stacklevel=4)
    return Fit(data, frame, model, found, method, call, data if given is None else given)


def _pictures_of_batch(self: BatchFit) -> BatchPlots:
    """Pictures: ``batch.plot.convergence()``, ``batch.plot.estimates()``; needs matplotlib."""
    return BatchPlots(self)


def _picture_of_profile(self: Profile, level: float = 0.95) -> Any:
    """Zeta against each quantity, straight where a Wald interval is as good: Axes of matplotlib, one a panel."""
    return plot_zeta(self.curves, level)


# Pictures and files of what is made below hang on from here: what computes the numbers knows neither.
BatchFit.plot = property(_pictures_of_batch)  # type: ignore[assignment, method-assign]
BatchFit.save = save_batch  # type: ignore[assignment, method-assign]
Profile.plot = _picture_of_profile  # type: ignore[method-assign]
