"""A fitted model: numbers as NumPy arrays, tables in the caller's data frame library."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import Seed, check_choice, doors
from .batch.chunks import Progress
from .batch.fits import BatchFit
from .batch.rebuilding import rebuilt
from .batch.refitting import refit_batch
from .batch.rows import is_sparse
from .batch.statistics import SufficientStatistics
from .design.fields import on_diagonal
from .design.frame import ModelFrame
from .design.several import TRAIT, responses_of
from .errors import DataError, JaxlmmError
from .estimates.fitted import FitBase
from .estimates.ranef import RandomEffects, SingularDirection, random_effects, singular_directions
from .estimates.varcorr import VarCorr, flat_parts, names_along, natural_parameters, parameter_frame, varcorr
from .fitting.estimate import estimate, estimate_by_v, no_covariance
from .fitting.newton import Status
from .fitting.units import Estimate
from .formula.update import updated
from .frames.alignment import aligned
from .frames.columns import extend_rows, make_frame, open_table
from .frames.files import read_file
from .frames.owned import check_index, frame_at
from .frames.tables import Summary, Table, format_column, format_df, format_p, format_t, notes
from .inference.delta import Delta, delta, natural
from .inference.effect_sizes import effect_sizes, standardized
from .inference.fixed_effects.anova import Anova, anova
from .inference.fixed_effects.fieller import Ratio, fieller
from .inference.fixed_effects.in_batches import Tests
from .inference.fixed_effects.linear import LinearTest, linear_test
from .inference.fixed_effects.wald import Wald, wald
from .inference.hypotheses.coding import coding_of
from .inference.identified import known_bootstrap, known_coefficients, known_effects, known_parameters, known_varcorr
from .inference.local import may_be_flat
from .inference.many.permutation import Permutations, permutation_test
from .inference.many.scan import Scan, scan
from .inference.means.emmeans import emmeans, emtrends
from .inference.means.margins import comparisons, predictions, slopes
from .inference.means.table import EMMeans
from .inference.means.weights import Weights
from .inference.normal import normal_draws
from .inference.papers import correlation, correlations, quartiles, report, vif
from .inference.power import PowerTable, power
from .inference.profiles.intervals import confint
from .inference.profiles.profile import Profile, profile
from .inference.profiles.targets import Which
from .inference.ratios.criteria import ConditionalAIC, aicc, conditional_aic
from .inference.robust.influence import Influence, influence
from .inference.robust.sandwich import Sandwich, sandwich
from .inference.robust.scores import Scores, scores, vcov_full
from .inference.selection.advice import Advice, advise
from .inference.selection.steps import Steps, step
from .inference.selection.terms import TermTests, drop1, ranova
from .inference.shares import icc, r2
from .inference.uncertain import Parameters
from .likelihood.confounding import shared_effects
from .likelihood.model import Model
from .likelihood.parts import own_array
from .plotting import BatchPlots, FitPlots, plot_estimates, plot_zeta
from .prediction.choice import Random
from .prediction.combinations import combination_test, names_effects, predicted_means
from .prediction.forecast import predict
from .prediction.in_batches import predict_batch
from .prediction.simulated import responses
from .prediction.whitening import residuals
from .pytrees import once
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

    Notes
    -----
    `coef`, `vcov`, `se`, `sigma` and `theta` are the point that the solver found, at which ``jaxlmm.reml(fit.theta,
    fit.model) == fit.loglik``. Where the data do not identify covariance parameters, it is one of many with the same
    likelihood, between which those that depend on them differ; all tables (`tidy`, `summary`, `test`, `varcorr`,
    `parameters`, `ranef`, ...) have NaN for these, with the reason.
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

    def ranef(
        self, all_levels: bool = False, levels: Mapping[str, Sequence[Any]] | None = None
    ) -> RandomEffects:  # fmt: skip
        """Predicted random effects (BLUPs) with conditional covariances, by grouping factor.

        NaN where the data do not identify the covariance parameters that they depend on.

        Parameters
        ----------
        all_levels : with the levels of relationship matrices that have no data, behind the others: what their relatives
            tell of them, with its prediction error variance (Henderson 1977)
        levels : ``{"movie": ["Alien", "Brazil"]}``, these of these grouping factors alone, in this order. Their
            covariances are found by the iterative engine too, at the cost of solving the equations for each

        Raises
        ------
        DataError
            For grouping factors and levels that are not there.

        Warns
        -----
        PrecisionWarning
            As in `predict`.
        """
        chosen = levels if isinstance(levels, Mapping) else None
        found = known_effects(random_effects(self, all_levels, chosen), self)
        return found if levels is None else found.at(levels)

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
        return known_coefficients(self, group)

    # -- tests -----------------------------------------------------------------------------------------------

    def test(
        self, L: Any, rhs: Any = 0.0, df: str = "satterthwaite", information: str | None = None,
        boundary_df: str | None = None, robust: str | None = None, cluster: Any = None, level: float = 0.95,
        side: str = "two-sided", delta: float = 0.0,
    ) -> LinearTest:  # fmt: skip
        """Test linear hypotheses ``L beta = rhs``: a t test of each row and an F test of all together.

        Parameters
        ----------
        L : (m, p) array; a name of a coefficient, or a list of names; ``{"Days": 1, "age": -1}``, weights by name; or
            several hypotheses by their names, ``{"a - b": {"a": 1, "b": -1}, ...}``. Predicted effects have names
            ``("Subject", "308")`` or, of several, ``("Subject", "308", "Days")``, with ``...`` for the average of all
            levels: inference about the levels that there are, SAS's ``ESTIMATE ... | ...``
        rhs : number or (m,)
        df : degrees of freedom: "satterthwaite"; "kenward-roger", first order, the same in all parametrisations (SAS
            KR(LINEAR), pbkrtest); "kenward-roger-full", second order in the parameters of SAS; "containment",
            "between-within" (nlme, mmrm), "between-within-sas" (DDFM=BW: by subject-by-effect interactions, and with
            unstructured residuals and no random effects between subjects), "residual", "asymptotic" (infinite);
            with `robust` "hotelling": Satterthwaite for single rows, Pustejovsky and Tipton's (2018) approximate
            Hotelling test of several, clubSandwich's HTZ
        information : of the covariance parameters, "observed" (as SAS and mmrm), "expected" (as pbkrtest) or
            "average"; by default observed, on the boundary see `boundary_df`
        boundary_df : for singular fits: "keep" variances of zero as parameters, in natural parameters and with
            expected information (pbkrtest; default of Kenward-Roger), or "drop" them (lmerTest; default of
            Satterthwaite)
        robust : sandwich covariance "CR0", "CR1", "CR1p", "CR1S", "CR2", "CR2-mmrm" or "CR3"
        cluster : for `robust`, a column of the data or an array; default the clusters that the model has
        level : of the intervals
        side, delta : what each row is tested for: "two-sided", "greater" or "less" than `rhs`, one-sided with intervals
            of one side; with a margin `delta` equivalence, non-inferiority ("greater") or non-superiority ("less")

        Raises
        ------
        DataError
            For unknown names, wrong shapes, and Kenward-Roger of an ML fit. Where there are no degrees of freedom
            they are NaN, with a `note`.
        """
        options = dict(df=df, information=information, boundary_df=boundary_df, robust=robust, cluster=cluster)
        if names_effects(L):
            return combination_test(self, L, rhs, level, side, delta, **options)
        return linear_test(self.wald(**options), L, rhs, level, self.frame.kind, side, delta)

    def ratio(
        self, numerator: Any, denominator: Any, level: float = 0.95, df: str = "satterthwaite", **options: Any
    ) -> Ratio:
        """Ratio of two linear functions of the coefficients, with Fieller's (1954) interval.

        Parameters
        ----------
        numerator, denominator : a name of a coefficient, weights by name, or p numbers, as rows of L in `test`
        df, options : `information`, `boundary_df`, `robust`, `cluster`: see `test`

        Raises
        ------
        DataError
            For unknown names and more than one function.
        """
        return fieller(self.wald(df=df, **options), numerator, denominator, level, self.frame.kind)

    def wald(
        self, df: str = "satterthwaite", information: str | None = None, boundary_df: str | None = None,
        robust: str | None = None, cluster: Any = None,
    ) -> Wald:  # fmt: skip
        """Covariance of the coefficients and degrees of freedom by a method, for any linear hypotheses.

        Parameters are those of `test`.
        """
        return wald(self, df, information, boundary_df, robust, cluster)

    def anova(self, type: int | str = 3, df: str = "satterthwaite", definition: str = "sas", **options: Any) -> Anova:
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
        weights: Weights = "equal", level: float = 0.95, type: str = "link", bias_adjust: bool | float = False,
        **options: Any,
    ) -> EMMeans:  # fmt: skip
        """Estimated marginal means (least-squares means), with `pairs`, `contrast` and `test`.

        Parameters
        ----------
        specs : predictors and, behind a bar, those within whose levels means are compared: ``"ARMCD | AVISIT"``
        at : values of predictors in place of all levels of factors and the means of numbers
        weights : of the combinations of other factors: "equal", "proportional" to how often they occur, "cells"; "om",
            how often in all rows with predictors (SAS's OM); or numbers, ``{"sex": {"f": 0.6, "m": 0.4}}``
        level : of the intervals
        type : "response" for means of y where the response is ``log(y)``, ``sqrt(y)``, ...: transformed back, contrasts
            of logarithms as ratios; default "link", the scale of the model
        bias_adjust : with "response", means instead of medians; True for the SD around the fixed part, or an SD
        df, options : `information`, `boundary_df`, `robust`, `cluster`: see `test`
        """
        return emmeans(self, specs, df, at, weights, level, type, bias_adjust, **options)

    def emtrends(
        self, var: str, specs: str | Sequence[str] = "1", df: str = "satterthwaite",
        at: Mapping[str, Any] | None = None, weights: Weights = "equal", level: float = 0.95, type: str = "link",
        **options: Any,
    ) -> EMMeans:  # fmt: skip
        """Slopes of a numeric predictor, averaged as in `emmeans`, whose parameters the others are.

        With ``type="response"`` of a logarithm: the ratio that belongs to one more.
        """
        return emtrends(self, var, specs, df, at, weights, level, type, **options)

    def predictions(
        self, by: str | Sequence[str] | None = None, newdata: Any = None, at: Mapping[str, Any] | None = None,
        df: str = "satterthwaite", level: float = 0.95, type: str = "link", bias_adjust: bool | float = False,
        random: Random = False, **options: Any,
    ) -> EMMeans:  # fmt: skip
        """Predictions of the population mean (random effects at zero), or of groups, averaged over rows.

        Parameters
        ----------
        by : columns within whose combinations rows are averaged; default all rows together, "row" for each by itself
        newdata : a frame whose rows are averaged, those with missing values left out; "grid" for the reference grid of
            `emmeans`; default the rows of the fit
        at : values that a predictor is given in every row, ``{"ARMCD": ["PBO", "TRT"]}``, an average for each
        df, options : `information`, `boundary_df`, `robust`, `cluster`: see `test`
        level : of the intervals
        type, bias_adjust : see `emmeans`; averages of the response itself, errors by the delta method
        random : as in `predict`, the random parts whose predictions count: with ``by="Subject", random=True`` means of
            the subjects that there are

        Returns
        -------
        EMMeans
            A table, with `frame`, `contrast`, `pairs` and `test`.
        """
        if random is not False:
            return predicted_means(self, random, by, newdata, at, df, level, type, bias_adjust, **options)
        return predictions(self, by, newdata, at, df, level, type, bias_adjust, **options)

    def comparisons(
        self, variables: str | Sequence[str], change: Any = None, by: str | Sequence[str] | None = None,
        newdata: Any = None, at: Mapping[str, Any] | None = None, df: str = "satterthwaite", level: float = 0.95,
        type: str = "link", bias_adjust: bool | float = False, **options: Any,
    ) -> EMMeans:  # fmt: skip
        """Change of the population mean when a predictor changes and all others stay, averaged over rows.

        Parameters
        ----------
        variables : one predictor, or several, one after the other
        change : of a number, how much is added to it, "sd" for a standard deviation, default 1; of a factor
            "reference" (each level with the first, default), "pairwise" or "sequential"; of both ``(low, high)``
        by, newdata, at, df, level, type, bias_adjust, options : see `predictions`
        """
        return comparisons(self, variables, change, by, newdata, at, df, level, type, bias_adjust, **options)

    def slopes(
        self, variables: str | Sequence[str], by: str | Sequence[str] | None = None, newdata: Any = None,
        at: Mapping[str, Any] | None = None, df: str = "satterthwaite", level: float = 0.95, type: str = "link",
        bias_adjust: bool | float = False, **options: Any,
    ) -> EMMeans:  # fmt: skip
        """Derivatives of the population mean with respect to numeric predictors, averaged over rows.

        The design is differentiated by central differences, extrapolated: to rounding for polynomials up to degree 6.

        Parameters
        ----------
        variables : one predictor, or several, one after the other
        by, newdata, at, df, level, type, bias_adjust, options : see `predictions`
        """
        return slopes(self, variables, by, newdata, at, df, level, type, bias_adjust, **options)

    # -- other models of the same data ------------------------------------------------------------------------

    def update(
        self, formula: str | None = None, data: Any = None, method: str | None = None, weights: Any = ...,
        offset: Any = ..., residual: Any = ..., variance: Any = ..., relationship: Any = ..., structures: Any = ...,
        engine: Any = ..., start: Any = None,
    ) -> Fit:  # fmt: skip
        """Fit again with some arguments of `jaxlmm.lmm` changed, as R's ``update``; the others are as they were.

        Parameters
        ----------
        formula : with dots for what was there: ``". ~ . - x"``, ``"log(.) ~ . + (1 | h)"``; after ``cbind`` that is the
            formula of the stacked rows, in which a slope for each response is ``trait:x``
        data : as for `jaxlmm.lmm`; after ``cbind`` rows that have the responses in columns, or stacked ones
        method, weights, offset, residual, variance, relationship, structures, engine, start : see `jaxlmm.lmm`

        Raises
        ------
        FormulaError, DataError
            As `jaxlmm.lmm`; for a term that is not there to be taken out.
        """
        changes = dict(
            weights=weights, offset=offset, residual=residual, variance=variance, relationship=relationship,
            structures=structures, engine=engine,
        )  # fmt: skip
        arguments = self.call.arguments() | {name: given for name, given in changes.items() if given is not ...}
        data = read_file(data) if isinstance(data, str | Path) else data
        if data is not None and self.call.written and TRAIT not in open_table(data).names:
            if formula is not None and not responses_of(formula):
                raise DataError(
                    f"data: with another formula, of {self.frame.formula.text}, expected stacked rows, with the column "
                    f"{TRAIT!r}; or a whole formula of cbind() for these data"
                )
            arguments["formula"] = formula or self.call.written
        elif formula is not None:
            arguments["formula"] = updated(self.frame.formula.text, formula)
        if data is None:
            try:
                data = frame_at(self)
            except DataError:  # the caller's frame has other rows by now: what the fit owns
                data = self.data
        assert self.call.maker is not None
        fit: Fit = self.call.maker(data=data, method=method or self.method, start=start, **arguments)
        return fit

    def drop1(self, type: int | str = 3, definition: str = "sas") -> TermTests:
        """Likelihood-ratio tests of the terms of the fixed part, all fits by maximum likelihood.

        Each row is the model whose coefficients satisfy the hypothesis ``L beta = 0`` that `anova` tests by F. For
        terms that are in no other these are the models without them (R's ``drop1``); type 3 of the others is
        ``afex::mixed(method="LRT")``.

        Parameters
        ----------
        type, definition : see `anova`
        """
        return drop1(self, type, definition)

    def ranova(self, law: str = "mixture") -> TermTests:
        """Likelihood-ratio tests of the random effects, each left out: ``Days in (Days | Subject)``, ``(1 | Subject)``.

        Parameters
        ----------
        law : "mixture", which a variance on the boundary has (see `jaxlmm.compare`); "chi2", lmerTest's, too large

        Raises
        ------
        DataError
            Without random effects.
        """
        return ranova(self, law)

    def step(
        self, alpha_random: float = 0.1, alpha_fixed: float = 0.05, df: str = "satterthwaite", **options: Any
    ) -> Steps:
        """Backward elimination: random effects by `ranova`, then terms by type III F tests, the least likely first.

        P values after a selection are too small: this is for exploring.

        Parameters
        ----------
        alpha_random, alpha_fixed : p values up to which random effects and terms stay, as in lmerTest's ``step``
        df, options : of the F tests, see `test`
        """
        return step(self, alpha_random, alpha_fixed, df, **options)

    def advise(self, n: int = 10_000, seed: Seed = 0) -> Advice:
        """What a fit on the boundary, a flat one or one without an optimum means, and what could be left out.

        Parameters
        ----------
        n, seed : draws for exact tests of single variances, see `jaxlmm.rlrt`
        """
        return advise(self, n, seed)

    # -- functions of the parameters --------------------------------------------------------------------------

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
    ) -> Influence:
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
        type: str = "link", **method: Any,
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
        type : "response" where the response is ``log(y)``, ``sqrt(y)``, ...: estimates (medians) and limits are
            transformed back, errors by the delta method

        Raises
        ------
        DataError
            For missing columns, unknown levels that are not allowed, and options that exclude each other.

        Warns
        -----
        PrecisionWarning
            Where variances differ so much in size that 64-bit floats do not determine a result, which is then NaN.
        """
        return predict(self, newdata, random, se, interval, level, df, allow_new_levels, residual, type, **method)

    def predict_batch(
        self, batch: BatchFit, y: Any, newdata: Any = None, random: Random = True, allow_new_levels: bool = False,
        type: str = "link",
    ) -> np.ndarray:  # fmt: skip
        """Predicted means (b, m) by every fit of a batch, as `predict` gives them by single fits.

        With responses that lack the rows of a fold, ``Y`` NaN there and ``fit.refit(Y, missing="drop")``, these are
        the predictions of cross-validation.

        Parameters
        ----------
        batch : of ``fit.refit(y)``;  y : (b, nobs) its responses
        newdata, random, allow_new_levels, type : as in `predict`; default the rows of the fit

        Raises
        ------
        DataError
            For a batch of other responses, and random functions or relatives at new places.
        """
        return predict_batch(self, batch, y, newdata, random, allow_new_levels, type)

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
        n : replicates;  seed : a whole number, a key of `jax.random`, or None for a fresh one, here and wherever there
            is a seed
        newdata : rows to draw at, groups that the fit has not seen among them, NaN where values are missing; default
            those of the fit
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
            pandas' Series (and DataFrames by their columns) are put into the order of the rows used by their index.
            Sparse matrices of SciPy (b, nobs), lists of them and iterators of blocks of responses go through
            `statistics`
        missing, weights, values, pairs, progress, tests : for many responses, see `jaxlmm.fit_batch`
        column : name of the coefficient that has other `values`, row by row, as in scans. Where it is a number of the
            data, all columns of X and random slopes that depend on it (``tr:dose``, ``I(dose**2)``, ``(dose | donor)``)
            are made again, as if each row had been fitted by `lmm`; else it must be the only one that has its variables

        Raises
        ------
        DataError
            For a wrong shape; a single response that is not finite or does not vary. Among many responses, such a
            one is a status in its row. For a column on which something depends that cannot be made again.
        """
        if is_sparse(y) or isinstance(y, Iterator) or (isinstance(y, list | tuple) and any(map(is_sparse, y))):
            if any(given is not None for given in (weights, column, values)):
                raise DataError("y: weights=, column= and values= are for arrays (b, n), not sparse or streamed")
            return self.statistics().fit(y, tests=tests, progress=progress, missing=missing)
        for name, given in (("y", y), ("weights", weights), ("values", values)):
            check_index(self, name, given)
        y, weights, values = (
            aligned(name, given, self.data, self.frame.rows)
            for name, given in (("y", y), ("weights", weights), ("values", values))
        )
        if np.ndim(y) == 2:
            if column is not None:
                check_choice("column", column, self.coef_names)
            asked = None if tests is None else tests.coded(coding_of(self), self.coef_names)
            if asked is not None and asked.needs_design:
                if column is not None or (missing == "drop" and np.isnan(np.asarray(y, float)).any()):
                    raise DataError("tests: df from the design is that of all rows and columns as they were fitted; "
                                    "found column= or lost rows, for which use df='satterthwaite'")  # fmt: skip
                asked = asked.on([self])
            return refit_batch(
                self.model, y, self.method, missing=missing, weights=weights, values=values, pairs=pairs,
                column=None if column is None else self.coef_names.index(column), progress=progress,
                names=self.coef_names, kind=self.frame.kind, tests=asked,
                again=None if column is None or values is None else rebuilt(self.frame, self.data, column),
            )  # fmt: skip
        for name, value in (("weights", weights), ("column", column), ("values", values), ("tests", tests)):
            if value is not None:
                raise DataError(f"{name}: for many responses, y of shape (b, {self.nobs}); found one response")
        y = own_array("y", y, (self.nobs,))
        if np.ptp(y) == 0 and not self.model.residual.is_known:
            raise DataError(f"y: constant response, all {self.nobs} values equal {float(y[0]):g}")
        frame, model = dataclasses.replace(self.frame, y=y), self.model.replace(y=y)
        return fit_frame(self.data, frame, model, self.method, self.call, given=self.given)

    def statistics(self) -> SufficientStatistics:
        """The design as sufficient statistics, for many responses of many rows: fits cost nothing for each row.

        ``fit.refit(Y)`` takes sparse matrices and iterators by it; ``fit.statistics().fit(Y)`` arrays and files too.

        Raises
        ------
        DataError
            For models with random functions, relationships or residual structures.
        """

        def asked(tests: Any) -> Any:
            coded = tests.coded(coding_of(self), self.coef_names)
            return coded.on([self]) if coded.needs_design else coded

        found = partial(SufficientStatistics, self.model, self.method, self.coef_names, self.frame.kind, asked)
        return once(self.model, "sufficient statistics", found)

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
        found = bootstrap(
            self.model, self.estimate, self.method, n, seed, statistic, self.coef_names, terms, self.frame.kind,
            progress,
        )  # fmt: skip
        return known_bootstrap(found, self, statistic is None) if may_be_flat(self) else found

    def permutation(
        self, L: Any, y: Any = None, n: int = 1000, *, flip: Any = None, within: Any = None, between: Any = None,
        rhs: float = 0.0, side: str = "two-sided", threshold: float | None = None, neighbours: Any = None,
        names: Sequence[Any] | None = None, seed: Seed = 0, progress: Progress = "auto",
    ) -> Permutations:  # fmt: skip
        """Permutation tests of a hypothesis in many responses, with family-wise error over all of them.

        Residuals of what the hypothesis leaves of the model are rearranged and added to its fitted values (Freedman &
        Lane 1983), and the whole model is fitted again, with its covariance parameters. Say by groups of rows, a column
        of the data or labels, which rearrangements leave the law of the errors as it is; all are made where they are
        at most `n`.

        Parameters
        ----------
        L : as in `test`; t of one row, Wald's F of several
        y : (v, nobs) responses, such as genes, voxels or times; default that of the fit
        n : rearrangements, that of the data among them
        flip : groups whose rows change their signs together (symmetric errors), such as subjects
        within : groups within which rows change places, for what differs within them
        between : groups that change places as wholes with others of as many rows, taken in the order of the data, for
            what differs between them
        side : "two-sided", "greater" or "less", for a hypothesis of one row
        threshold, neighbours : of the statistic, and which responses are neighbours, for clusters by mass: the shape of
            a grid (``v``, or ``(x, y, z)`` in C order), a boolean array with a true cell a response, or a sparse
            adjacency matrix (v, v)
        names : (v,) of the responses;  seed : of the rearrangements;  progress : see `jaxlmm.fit_batch`

        Raises
        ------
        DataError
            Where nothing can be rearranged, and for wrong shapes. Responses with missing values have a status.
        """
        y = self.model.y if y is None else aligned("y", y, self.data, self.frame.rows)
        return permutation_test(
            self, L, y, n, flip, within, between, rhs, side, threshold, neighbours, seed, names, progress
        )

    def scan(
        self, values: Any, y: Any = None, threshold: float = 1e-5, *, df: str | None = "satterthwaite", to: Any = None,
        names: Sequence[Any] | None = None, covariates: Sequence[Any] | None = None, progress: Progress = "auto",
    ) -> Scan:  # fmt: skip
        """Test every covariate beside the fixed effects in every response, as in genome-wide and eQTL scans.

        Every response has an exact fit without a covariate (ML). At its ratio of variances all pairs have a score
        statistic, a likelihood ratio and an F test (EMMAX, GEMMA's score test); pairs that pass the threshold are
        fitted again, all parameters free, for the likelihood ratio by ML and the test by REML. With one grouping factor
        or one relationship matrix all responses share coordinates in which pairs are products of matrices; several
        factors, random functions and residual structures take a solution of V a pair.

        Parameters
        ----------
        values : (m, nobs) covariates, an array also of a file (`numpy.memmap`), a sparse matrix of SciPy, or an
            iterable of blocks of them; without missing values
        y : (b, nobs) responses; default that of the fit
        threshold : p value of the F test below which a pair is kept
        df : of the tests of these pairs, as in `test`; None for no fits of them
        to : path of a Parquet (needs pyarrow) or CSV file to which pairs are written block by block, instead of kept
        names, covariates : (b,) and (m,), of what is scanned;  progress : see `jaxlmm.fit_batch`

        Raises
        ------
        DataError
            For variances that are fixed or not proportional to those of y, and wrong shapes.
        """
        y = self.model.y if y is None else aligned("y", y, self.data, self.frame.rows)
        values = aligned("values", values, self.data, self.frame.rows)
        return scan(self, values, y, threshold, df, to, names, covariates, progress)

    def power(
        self, target: Any = None, effect: Any = None, n: int = 1000, tests: str | Sequence[str] = "satterthwaite",
        null: float = 0.0, alpha: float = 0.05, seed: Seed = 0, progress: Progress = "auto",
    ) -> PowerTable:  # fmt: skip
        """Power of tests of coefficients, by simulation from the fit at effects that one chooses.

        Parameters
        ----------
        target : a coefficient, several, or weights of them, as `L` of `test`; several hypotheses have the joint F test
            in addition, and how often each of their t tests, and any of them, reject.
            Default the only coefficient beside the intercept
        effect : true value of the hypothesis, or several, which are drawn with common random numbers; or true values
            of coefficients, ``{"Days": 5.0}``; default the estimates, whose power says no more than their p-value
        n : data sets;  tests : one or several methods of degrees of freedom, "satterthwaite", "kenward-roger",
            "kenward-roger-full", "residual", "asymptotic"
        null : value that is tested;  alpha : of the tests;  seed : data set r depends on the seed and r alone

        Returns
        -------
        PowerTable
            With `power` and its Monte Carlo error `mcse`; `jaxlmm.study.power_curve` has other sizes of the design.
        """
        return power(self, target, effect, n, tests, null, alpha, seed, progress)

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
        names = {"estimate": "estimate", "std_error": "se", "statistic": "statistic", "df": "df", "p_value": "p"}
        columns = {name: getattr(rows, own) for name, own in names.items()}
        return make_frame(self.frame.kind, {"term": list(self.coef_names), **columns})

    def glance(self) -> Any:
        """One row about the fit: nobs, sigma, loglik, aic, aicc, bic, df_resid, method, status, singular."""
        names = ("nobs", "sigma", "loglik", "aic", "aicc", "bic", "df_resid", "method", "status", "singular")
        columns = {name: [getattr(self, name)] for name in names}
        if may_be_flat(self):
            columns["sigma"] = [self.varcorr().sigma]
        return make_frame(self.frame.kind, columns)

    def augment(self) -> Any:
        """The rows used, with the columns of the data and fitted, resid and fixed (population mean)."""
        fitted = self.fitted
        added = {"fitted": fitted, "resid": self.model.y - fitted, "fixed": self.predict(random=False)}
        return extend_rows(frame_at(self), self.frame.rows, added)

    def vif(self) -> Any:
        """How much the variance of a term's coefficients grows by the other terms (Fox & Monette 1992; ``car::vif``).

        A frame: term, gvif (of a single coefficient the VIF), df, and ``gvif^(1 / (2 df))``, comparable between terms.

        Raises
        ------
        DataError
            For fewer than two terms.
        """
        return vif(self)

    def correlation(self) -> Any:
        """Correlations of the coefficients, as lme4's summary prints them: a frame with a row and a column for each."""
        return correlation(self)

    def effect_sizes(
        self, type: int | str = 3, df: str = "satterthwaite", level: float = 0.95, definition: str = "sas",
        **options: Any,
    ) -> Any:  # fmt: skip
        """Shares of variance of the terms, from their F tests: a frame (term, eta2, lower, upper, epsilon2, omega2).

        Partial eta squared ``F r / (F r + df)`` with the interval of the noncentrality of F (Steiger 2004); epsilon and
        omega squared are less biased. As R's effectsize has them for mixed models.

        Parameters
        ----------
        type, df, definition, options : see `anova`;  level : of the intervals
        """
        return effect_sizes(self, type, df, level, definition, **options)

    def standardized(
        self, contrasts: EMMeans, sd: str | float = "total", edf: float = np.inf, level: float = 0.95
    ) -> Any:
        """Means or contrasts in standard deviations: a frame (labels, effect_size, std_error, df, lower, upper).

        Parameters
        ----------
        contrasts : of `emmeans`, `comparisons` and the like, such as ``fit.emmeans("arm").pairs()``
        sd : "total", of all that varies around the fixed part (Westfall, Kenny & Judd 2014); "residual"; or a number,
            estimated with `edf` degrees of freedom (emmeans' ``eff_size``)
        level : of the intervals, by the delta method with Student's t, each by itself; those of one-sided contrasts
            (`EMMeans.against`) have one limit
        """
        return standardized(self, contrasts, sd, edf, level)

    def report(self, df: str = "satterthwaite", **options: Any) -> str:
        """What was done, in sentences for a methods section, every option that the fit was made with named.

        Parameters
        ----------
        df, options : of the tests, see `test`
        """
        return report(self, df, **options)

    def summary(
        self, df: str = "satterthwaite", residuals: bool = False, correlation: bool = False, **method: Any
    ) -> Summary:
        """The account that lme4's users expect, as text or HTML.

        Parameters
        ----------
        df, method : see `test`
        residuals : with the quartiles of the residuals divided by their standard deviations
        correlation : with the correlations of the coefficients
        """
        scaled = (quartiles(self),) if residuals else ()
        fixed = (self._fixed(self.wald(df, **method)), *((correlations(self),) if correlation else ()))
        return Summary((self._head(), *scaled, *self.varcorr().tables(), self._groups(), *fixed, self._ending()))

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
        estimates, errors = format_column(r.estimate, 6), format_column(r.se)
        cells = (estimates, errors, format_df(r.df), format_t(r.statistic), map(format_p, r.p))
        rows = tuple(zip(self.coef_names, *cells, strict=True))
        names = ", ".join(self.frame.aliased)
        dropped = f"dropped, combinations of other columns: {names}" if names else ""
        header = ("", "Estimate", "Std. Error", "df", "t value", "Pr(>|t|)")
        return Table("Fixed effects:", header, rows, note=notes(f"Tests: {by.label}", by.note, dropped))

    def _ending(self) -> str:
        c = self.certificate
        if not len(self.theta):
            return f"all covariance parameters are known: generalised least squares ({self.engine} engine)"
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
    data: Any,
    frame: ModelFrame,
    model: Model,
    method: str,
    call: Call,
    start: np.ndarray | None = None,
    given: Any = None,
) -> Fit:
    """Estimate a model whose rows are described by `frame`."""
    with float64():
        found = estimate(model, method, start)
        wanted = call.engine
        if wanted == "auto" and (by_v := estimate_by_v(model, method, found, start)):
            model, found = by_v
            call = dataclasses.replace(call, engine=model.engine)
    if found.status == Status.NO_MAXIMUM and (other := _with_zeros(data, frame, found, method, call)):
        return dataclasses.replace(other, given=data if given is None else given)
    text = found.status.advice if found.status != Status.CONVERGED else no_covariance(model, found)
    if found.status == Status.NO_MAXIMUM and (names := names_along(frame, model, method, found)):
        text = f"{text}; it does so along {names}"
    if text:
        warnings.warn(f"{frame.formula.text}: {text}", ConvergenceWarning, stacklevel=4)
    return Fit(data, frame, model, found, method, call, data if given is None else given)


def _with_zeros(data: Any, frame: ModelFrame, found: Estimate, method: str, call: Call) -> Fit | None:
    """The fit with residuals `on_diagonal`, where the likelihood rises to a maximum with a variance of zero."""
    residual = on_diagonal(frame.residual, frame.terms)
    if residual is None or "+" in str(call.residual) or call.maker is None:
        return None
    with warnings.catch_warnings(), contextlib.suppress(JaxlmmError):
        warnings.simplefilter("ignore")
        made: Any = call.maker(data=data, method=method, **call.arguments() | {"residual": residual, "variance": None})
        other: Fit = made if np.array_equal(made.frame.y, frame.y) else made.refit(frame.y)
        if other.converged and other.loglik >= found.loglik:
            return other
    return None


def _pictures_of_batch(self: BatchFit) -> BatchPlots:
    """Pictures: ``batch.plot.convergence()``, ``batch.plot.estimates()``; needs matplotlib."""
    return BatchPlots(self)


def _picture_of_profile(self: Profile, level: float = 0.95) -> Any:
    """Zeta against each quantity, straight where a Wald interval is as good: Axes of matplotlib, one a panel."""
    return plot_zeta(self.curves, level)


def _picture_of_means(self: EMMeans, ax: Any = None) -> Any:
    """Estimates with their intervals, a line for each row, on the scale that is shown: matplotlib's Axes."""
    return plot_estimates(self, ax)


# Pictures and files of what is made below hang on from here: what computes the numbers knows neither.
BatchFit.plot = property(_pictures_of_batch)  # type: ignore[assignment, method-assign]
BatchFit.save = save_batch  # type: ignore[assignment, method-assign]
Profile.plot = _picture_of_profile  # type: ignore[method-assign]
EMMeans.plot = _picture_of_means  # type: ignore[method-assign]
