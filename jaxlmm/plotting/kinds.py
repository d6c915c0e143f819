"""The pictures that fits and batches offer, with their options: ``fit.plot`` and ``batch.plot``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..arguments import Seed, doors
from ..estimates.fitted import FitBase
from .batches import plot_convergence, plot_estimates, plot_shares
from .covariances import plot_covariances, plot_semivariogram
from .deletions import plot_influence
from .discoveries import plot_p_values, plot_volcano, tests_of
from .means import plot_coefficients, plot_means
from .profiles import plot_pairs, plot_zeta
from .ranef import plot_caterpillar, plot_shrinkage
from .residuals import plot_diagnostics, plot_quantiles, plot_residuals

LEVELS = (0.5, 0.8, 0.95)  # of the contours of pairs


@doors
@dataclass(frozen=True)
class FitPlots:
    """Pictures of a fit: ``fit.plot.ranef()``, ``fit.plot.qq()``, ...; needs matplotlib.

    Every kind returns matplotlib's Axes, or an array of them where it has several panels, and takes `ax`, the Axes (or
    as many as it has panels) to draw on; the default is a new figure of pyplot (pairs always have their own). Nothing
    is shown or saved, and no setting of matplotlib is changed. Wherever a name is not known, `jaxlmm.DataError` lists
    those that are.
    """

    fit: FitBase

    # -- random effects --------------------------------------------------------------------------------------

    def ranef(
        self, group: str | None = None, variance: str = "condvar", sort: str | None = None, level: float = 0.95,
        ax: Any = None, extremes: int | None = None,
    ) -> Any:  # fmt: skip
        """Caterpillar plot: predicted random effects with intervals, a panel a column.

        Parameters
        ----------
        group : grouping factor, as in ``fit.ranef()``; needed where there are several
        variance : of the intervals: "condvar", given the parameters (as lme4), or "pev", of the prediction errors
            with estimated coefficients
        sort : the column by which levels are sorted, default the first; "" for the order of the data
        level : of the normal intervals
        extremes : the lowest and highest so many of the levels alone, which have intervals by the iterative engine too
        """
        return plot_caterpillar(self.fit, group, variance, sort, level, ax, extremes)

    def shrinkage(self, group: str | None = None, coef: bool = False, ax: Any = None) -> Any:
        """Least-squares estimates of each group alone, with arrows to its predictors; a panel a pair of columns.

        Parameters
        ----------
        group : grouping factor; needed where there are several
        coef : add the fixed effects of the same name, so that the axes are those of coefficients by group
        """
        return plot_shrinkage(self.fit, group, coef, ax)

    # -- residuals -------------------------------------------------------------------------------------------

    def residuals(
        self, kind: str = "response", against: str = "fitted", random: bool = True, n: int = 99, seed: Seed = 0,
        level: float = 0.95, simultaneous: bool = False, ax: Any = None,
    ) -> Any:  # fmt: skip
        """Residuals against fitted values or a column, with a local-linear smooth (means, for a factor).

        The band is where the smooth lies for data simulated from the fit and fitted again.

        Parameters
        ----------
        kind : as in ``fit.residuals``
        against : "fitted" or a column of the data
        random : residuals from the predictions with random effects; False: from the population means
        n : simulated data sets, 0 for no band;  seed : of these
        level : part of the simulated smooths in the band, at each place or, with `simultaneous`, as wholes
        """
        return plot_residuals(self.fit, kind, against, random, n, seed, level, simultaneous, ax)

    def qq(
        self, of: str = "residuals", column: str | None = None, kind: str = "response", random: bool = True,
        n: int = 99, seed: Seed = 0, level: float = 0.95, simultaneous: bool = False, ax: Any = None,
    ) -> Any:  # fmt: skip
        """Normal quantile plot with the envelope of data simulated from the fit and fitted again.

        Values outside of the envelope are filled. The line goes through the quartiles.

        Parameters
        ----------
        of : "residuals" or a grouping factor, whose predicted effects are drawn
        column : of the random effects, default the first
        kind, random : of residuals, as in `residuals`
        n, seed, level, simultaneous : of the envelope, as in `residuals`
        """
        return plot_quantiles(self.fit, of, column, kind, random, n, seed, level, simultaneous, ax)

    def diagnostics(
        self, kind: str = "response", n: int = 99, seed: Seed = 0, level: float = 0.95, ax: Any = None
    ) -> Any:  # fmt: skip
        """Four panels: residuals against fitted values, their quantiles, their size, quantiles of random effects.

        The last is of the first grouping factor; without one, the response against fitted values.

        Parameters
        ----------
        kind : of residuals, as in ``fit.residuals``
        n, seed, level : of the envelopes, as in `residuals`; all panels are from the same simulated data
        ax : four Axes
        """
        return plot_diagnostics(self.fit, kind, n, seed, level, ax)

    # -- covariance ------------------------------------------------------------------------------------------

    def semivariogram(
        self, by: str, time: str, kind: str = "response", bins: int = 15, robust: bool = True,
        max_lag: float | None = None, ax: Any = None,
    ) -> Any:  # fmt: skip
        """Semivariances of marginal residuals by their distance in time, with those of the fitted model.

        Parameters
        ----------
        by : grouping factor or column, within whose levels pairs of rows are taken (of at most 500 rows of a level)
        time : numeric column
        kind : of residuals; of "normalized" ones the model's semivariance is one at every lag
        bins : most dots; each stands for about as many pairs, larger dots for more
        robust : means of Cressie & Hawkins (1980), not moved by few outliers; False: plain means of squares
        max_lag : largest distance
        """
        return plot_semivariogram(self.fit, by, time, kind, bins, robust, max_lag, ax)

    def covariance(
        self, by: str | None = None, at: str | None = None, correlation: bool = False, ax: Any = None
    ) -> Any:  # fmt: skip
        """Covariance matrices of marginal residuals between the positions of a group: of the data, of the model.

        Parameters
        ----------
        by, at : columns of the groups and of the positions within them; default those of a residual structure over
            levels, such as ``us(visit | id)``
        correlation : of correlations in place of covariances
        ax : two Axes
        """
        return plot_covariances(self.fit, by, at, correlation, ax)

    # -- parameters ------------------------------------------------------------------------------------------

    def coef(
        self, which: str | Sequence[str] | None = None, level: float = 0.95, df: str = "satterthwaite", ax: Any = None,
        **options: Any,
    ) -> Any:  # fmt: skip
        """Coefficients with their intervals.

        Parameters
        ----------
        which : names, default all but the intercept
        level : of the intervals;  df, options : degrees of freedom and others, as in ``fit.test``
        """
        return plot_coefficients(self.fit, which, level, df, options, ax)

    def effects(
        self, term: str, by: str | None = None, at: Mapping[str, Any] | None = None, level: float = 0.95,
        df: str = "satterthwaite", data: bool = False, ax: Any = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Estimated means over a predictor, with intervals: a curve, or the levels of a factor.

        Parameters
        ----------
        term : predictor of the fixed part
        by : another one, a curve for each of its levels (of a numeric one: at its quartiles)
        at : values of predictors, as in ``fit.emmeans``; others are averaged over their levels or held at their means
        level : of the intervals;  df, options : as in ``fit.emmeans``
        data : draw the observations too
        """
        return plot_means(self.fit, term, by, at, level, df, data, options, ax)

    def profile(self, which: Any = None, level: float = 0.95, ax: Any = None) -> Any:
        """Profile likelihoods, zeta against each quantity: straight where a Wald interval is as good.

        Parameters
        ----------
        which : as in ``fit.profile``, or a profile
        level : of the intervals that are marked
        """
        profile = which if hasattr(which, "curves") else self.fit.profile(which)
        return plot_zeta(profile.curves, level, ax)

    def profile_pairs(self, which: Any = None, levels: Sequence[float] = LEVELS) -> Any:
        """Contours of the likelihood of two quantities at a time, with the traces of their profiles.

        Below the diagonal on the scale of the quantities, above it on that of zeta, where the contours of a quadratic
        likelihood are ellipses; solid traces are those along the horizontal, dashed ones along the vertical quantity.

        Parameters
        ----------
        which : as in ``fit.profile``, or a profile; default the covariance parameters, for ML fits all
        levels : joint coverage of the contours, by chi-squared with 2 degrees of freedom
        """
        if which is None and self.fit.method == "REML":
            which = "covariance"
        profile = which if hasattr(which, "curves") else self.fit.profile(which)
        return plot_pairs(profile, levels)

    # -- influence -------------------------------------------------------------------------------------------

    def influence(
        self, by: Any = "row", measure: str = "cooks", theta: bool = True, exact: str = "flagged",
        threshold: float | None = None, ax: Any = None,
    ) -> Any:  # fmt: skip
        """Influence of rows or groups on the estimates; those beyond the threshold are named.

        Parameters
        ----------
        by, theta, exact, threshold : as in ``fit.influence``
        measure : "cooks", "cooks_theta" (of covariance parameters), "mdffits", "covratio", "leverage" or "dfbetas", a
            panel a coefficient, with limits of ``2 / sqrt(m)`` for m rows or groups (Belsley, Kuh & Welsch 1980)
        """
        return plot_influence(self.fit, by, measure, theta, exact, threshold, ax)


@doors
@dataclass(frozen=True)
class BatchPlots:
    """Pictures of a batch of fits, see `FitPlots`: ``batch.plot.convergence()``, ``batch.plot.estimates()``."""

    batch: Any

    def convergence(self, ax: Any = None) -> Any:
        """Four panels: how the fits ended, and evaluations, Newton decrements and smallest eigenvalues.

        Parameters
        ----------
        ax : four Axes
        """
        return plot_convergence(self.batch, ax)

    def estimates(
        self, which: str | Sequence[str] | None = None, truth: Mapping[str, float] | None = None, ax: Any = None
    ) -> Any:  # fmt: skip
        """Histograms of the estimates of the fits that converged, with their means.

        Parameters
        ----------
        which : coefficients by name, "sd1.2", the standard deviation of the second column of the first random term,
            "sigma"; default all
        truth : true values by name, drawn as lines
        """
        return plot_estimates(self.batch, which, truth, ax)

    def variances(self, names: Sequence[str] | None = None, ax: Any = None) -> Any:
        """Violins of the shares of variance of each column of the random parts and of the residual, over all fits.

        Parameters
        ----------
        names : of these, the residual's last; default "sd1.1", ... as in `estimates`
        """
        return plot_shares(self.batch, names, ax)

    def volcano(
        self, tests: str | Any = None, hypothesis: int = 0, q: float = 0.05, method: str = "bh", ax: Any = None
    ) -> Any:
        """Estimates against the logarithm of p, those with a false discovery rate below `q` filled.

        Parameters
        ----------
        tests : a key of ``batch.tests``, default the first; or tests, ``batch.tests[...].moderated(batch.sigma)``
        hypothesis : row of L
        q, method : the rate, and how it is found, "bh" or "storey"
        """
        return plot_volcano(tests_of(self.batch, tests), hypothesis, q, method, ax)

    def p_values(self, tests: str | Any = None, hypothesis: int = 0, ax: Any = None) -> Any:
        """Two panels: a histogram of p values, and they against those of as many true nulls, on logarithmic axes.

        Parameters
        ----------
        tests, hypothesis : see `volcano`
        ax : two Axes
        """
        return plot_p_values(tests_of(self.batch, tests), hypothesis, ax)
