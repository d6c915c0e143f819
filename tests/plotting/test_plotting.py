"""Pictures: the numbers behind them against independent computations, what is drawn, and what is refused."""

from __future__ import annotations

import functools
import sys
from types import SimpleNamespace

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from scipy.interpolate import CubicSpline  # noqa: E402
from scipy.optimize import minimize_scalar  # noqa: E402
from scipy.stats import chi2, norm  # noqa: E402

import jaxlmm  # noqa: E402
import oracle  # noqa: E402
from cases import load_data  # noqa: E402
from jaxlmm.plotting import batches, canvas, covariances, means, profiles, ranef  # noqa: E402
from jaxlmm.plotting.covariances import RowPairs, pairs_within  # noqa: E402
from jaxlmm.plotting.envelope import envelope, refitted  # noqa: E402
from jaxlmm.plotting.residuals import local_linear, normal_scores, quartile_line  # noqa: E402


@pytest.fixture(autouse=True)
def nothing_stays_behind():
    """No picture may change a setting of matplotlib."""
    before = dict(matplotlib.rcParams)
    yield
    plt.close("all")
    assert {k: v for k, v in matplotlib.rcParams.items() if before[k] != v} == {}


@functools.cache
def sleep():
    return jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy_reml"))


@functools.cache
def sleep_covariance():
    """V by the textbook, and that of y - X beta."""
    fit = sleep()
    term = fit.model.random[0]
    V = oracle.marginal([(term.Z, term.group, fit.estimate.covariances[0])], fit.sigma, fit.nobs)
    return V, V - fit.model.X @ fit.vcov @ fit.model.X.T


@functools.cache
def dyestuff():
    return jaxlmm.lmm("Yield ~ 1 + (1 | Batch)", load_data("dyestuff_reml"))


@functools.cache
def visits():
    """A saturated mean and an unstructured covariance matrix, complete data: its estimate is that of residuals."""
    data = load_data("orthodont_us_reml")
    return jaxlmm.lmm("distance ~ C(age) * Sex", data, residual="us(age | Subject)")


@functools.cache
def batch():
    """21 data sets, of which one is missing and one constant."""
    fit = sleep()
    Y = fit.simulate(21, 3)
    Y[0], Y[1] = np.nan, 1.0
    return fit.refit(Y)


# -- random effects


@pytest.mark.parametrize("variance", ["condvar", "pev"])
def test_caterpillar_is_ranef_with_intervals(variance):
    fit = sleep()
    effects = fit.ranef()["Subject"]
    found = ranef.caterpillar(fit, None, variance, "Days", 0.9)
    order = np.argsort(effects.values[:, 1])
    np.testing.assert_array_equal(found.values, effects.values[order])
    assert found.labels == tuple(effects.levels[i] for i in order)
    variances = np.diagonal(getattr(effects, variance), axis1=1, axis2=2)
    np.testing.assert_allclose(found.half, norm.ppf(0.95) * np.sqrt(variances)[order])
    axes = fit.plot.ranef(variance=variance, sort="Days", level=0.9)
    for j, ax in enumerate(axes):
        np.testing.assert_array_equal(ax.lines[-1].get_xdata(), found.values[:, j])
        (bars,) = ax.collections
        ends = np.stack([found.values - found.half, found.values + found.half], 2)
        np.testing.assert_allclose([s[:, 0] for s in bars.get_segments()], ends[:, j])
    assert [ax.get_xlabel() for ax in axes] == ["(Intercept)", "Days"]
    assert [t.get_text() for t in axes[0].get_yticklabels()] == list(found.labels)


def test_the_extremes_alone():
    fit = sleep()
    every, found = (ranef.caterpillar(fit, None, "pev", "Days", 0.9, few) for few in (None, 2))
    assert found.labels == every.labels[:2] + every.labels[-2:]
    np.testing.assert_array_equal(found.half, every.half[[0, 1, -2, -1]])
    assert (
        ranef.caterpillar(fit, None, "pev", None, 0.9, 9).labels
        == ranef.caterpillar(fit, None, "pev", None, 0.9).labels
    )
    for given, message in (({"extremes": 0}, "extremes: found 0"), ({"extremes": 1.5}, "a number of levels")):
        with pytest.raises(jaxlmm.DataError, match=message):
            fit.plot.ranef(**given)
    some = fit.ranef(levels={"Subject": ["335", 308]})["Subject"]
    assert some.levels == ("335", "308")
    for levels in ({"Subject": ["335", 1]}, {"Subject": "335"}, {"subject": ["335"]}, ["335"], {"Subject": []}):
        with pytest.raises(jaxlmm.DataError, match="levels: "):
            fit.ranef(levels=levels)


def test_many_levels_have_no_labels(monkeypatch):
    monkeypatch.setattr(ranef, "LABELLED", 5)
    ax = sleep().plot.ranef(sort="")[0]
    assert not ax.get_yticklabels() and ax.get_ylabel() == "Subject (18 levels)"
    np.testing.assert_array_equal(ax.lines[-1].get_xdata(), sleep().ranef()["Subject"].values[:, 0])


def test_shrinkage_starts_at_least_squares_by_group():
    fit = sleep()
    X, y, codes = fit.model.X, fit.model.y, fit.model.random[0].group
    alone = np.array([np.linalg.lstsq(X[codes == g], y[codes == g], rcond=None)[0] for g in range(18)])
    found = ranef.shrinkage(fit, "Subject", coef=True)
    np.testing.assert_allclose(found.alone, alone, rtol=1e-8)
    np.testing.assert_allclose(found.predicted, fit.coef + fit.ranef()["Subject"].values)
    deviations = ranef.shrinkage(fit, None, coef=False)
    np.testing.assert_allclose(deviations.alone, alone - fit.coef, atol=1e-8)
    ax = fit.plot.shrinkage()
    assert isinstance(ax, Axes) and (ax.get_xlabel(), ax.get_ylabel()) == ("(Intercept)", "Days")
    np.testing.assert_allclose(ax.lines[0].get_xydata(), deviations.alone)
    np.testing.assert_allclose(ax.lines[1].get_xydata(), deviations.predicted)


def test_shrinkage_of_one_column_holds_other_factors_at_their_effects():
    fit = jaxlmm.lmm("diameter ~ 1 + (1 | plate) + (1 | sample)", load_data("penicillin_crossed_reml"))
    plate, sample = (part.group for part in fit.model.random)
    rest = fit.model.y - fit.coef[0] - fit.ranef()["sample"].values[sample, 0]
    mean = np.array([rest[plate == g].mean() for g in range(24)])
    np.testing.assert_allclose(ranef.shrinkage(fit, "plate", False).alone[:, 0], mean, atol=1e-9)
    with pytest.raises(jaxlmm.DataError, match="several, choose one of 'plate', 'sample'"):
        fit.plot.shrinkage()
    assert len(fit.plot.shrinkage("plate").get_yticklabels()) == 24


def test_groups_without_enough_rows_have_no_arrow():
    data = load_data("sleepstudy_reml")
    few = data[(data.Subject != "308") | (data.Days == 0)].reset_index(drop=True)
    fit = jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", few)
    found = ranef.shrinkage(fit, "Subject", False)
    np.testing.assert_array_equal(np.isnan(found.alone).any(1), np.array(found.levels) == "308")
    ax = fit.plot.shrinkage()
    assert ax.get_legend().get_title().get_text() == "1 levels with too few rows have no arrow"
    assert len(ax.lines[0].get_xdata()) == 17 and len(ax.lines[1].get_xdata()) == 18


# -- smooth curves and envelopes


def test_the_smoother_is_weighted_least_squares():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=40), rng.normal(size=40)
    at = np.array([-0.5, x.min(), 0.5, x.max(), 1.5])
    np.testing.assert_allclose(local_linear(x, 3 - 2 * x, at)[1:4], 3 - 2 * at[1:4])
    assert np.isnan(local_linear(x, y, at)[[0, 4]]).all()
    distance = np.abs(x - 0.5)
    root = np.sqrt(np.clip(1 - (distance / np.sort(distance)[19]) ** 3, 0, None) ** 3)
    line = np.linalg.lstsq(np.column_stack([root, root * (x - 0.5)]), root * y, rcond=None)[0]
    np.testing.assert_allclose(local_linear(x, y, at, 0.5)[2], line[0], rtol=1e-6)
    np.testing.assert_allclose(local_linear(np.ones(4), y[:4], np.array([1.0, 2.0])), [y[:4].mean(), np.nan])


def test_envelopes_cover_what_they_say():
    """Of new curves from the same distribution: at each place, and as wholes."""
    rng = np.random.default_rng(1)
    curves, new = (np.cumsum(rng.normal(size=(m, 30)), 1) for m in (999, 4000))
    point, whole = envelope(curves, 0.9), envelope(curves, 0.9, simultaneous=True)
    inside = (point.lower <= new) & (new <= point.upper)
    assert abs(inside.mean() - 0.9) < 0.015
    assert abs(((whole.lower <= new) & (new <= whole.upper)).all(1).mean() - 0.9) < 0.03
    np.testing.assert_array_equal(point.lower[0], np.sort(curves[:, 0])[49])  # the 50th of 999: (n + 1) 0.05
    half = curves.copy()
    half[::2, 5] = np.nan  # curves without a value there do not count
    np.testing.assert_array_equal(envelope(half, 0.9).upper[5], envelope(curves[1::2], 0.9).upper[5])


def test_simulated_fits_are_those_of_refit():
    fit = sleep()
    Y = fit.simulate(19, 5)
    found = list(refitted(fit, 19, 5))
    assert len(found) == 19
    one = fit.refit(Y[7])
    np.testing.assert_allclose(found[7].residuals(), one.residuals(), atol=1e-3)
    np.testing.assert_allclose(found[7].ranef()["Subject"].values, one.ranef()["Subject"].values, atol=1e-3)


def test_quantile_plots_and_their_coverage():
    """Data simulated from the fit are within the envelope of other simulated data as often as they should be."""
    fit = sleep()
    values = np.sort(fit.residuals())
    ax = fit.plot.qq(n=99, seed=1)
    drawn = np.concatenate([c.get_offsets() for c in ax.collections[1:]])
    drawn = drawn[np.argsort(drawn[:, 0])]
    np.testing.assert_allclose(drawn, np.column_stack([norm.ppf((np.arange(180) + 0.5) / 180), values]))
    lower, upper = (line.get_ydata() for line in ax.lines[1:3])
    filled = ax.collections[-1].get_offsets()
    assert len(filled) == np.sum((values < lower) | (values > upper)) > 0  # outliers of this data set
    others = np.stack([np.sort(f.residuals()) for f in refitted(fit, 99, 2)])
    assert abs(((lower <= others) & (others <= upper)).mean() - 0.95) < 0.03
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("normal quantiles", "residuals")
    effects = fit.plot.qq("Subject", column="Days", n=0)
    np.testing.assert_allclose(effects.collections[0].get_offsets()[:, 1], np.sort(fit.ranef()["Subject"].values[:, 1]))
    intercept, slope = quartile_line(normal_scores(200), 3 + 2 * normal_scores(200))
    np.testing.assert_allclose([intercept, slope], [3, 2])


@pytest.mark.parametrize("against", ["fitted", "Days", "Subject"])
def test_residuals_against_what_is_asked_for(against):
    fit = sleep()
    ax = fit.plot.residuals("pearson", against, random=False, n=19)
    r = fit.residuals("pearson", random=False)
    offsets = ax.collections[0 if against == "Subject" else 1].get_offsets()
    np.testing.assert_allclose(offsets[:, 1], r)
    if against == "Subject":
        codes = fit.model.random[0].group
        np.testing.assert_allclose(ax.lines[-1].get_ydata(), [r[codes == g].mean() for g in range(18)], atol=1e-12)
        assert np.abs(offsets[:, 0] - codes).max() <= 0.25
    else:
        x = fit.predict(random=False) if against == "fitted" else fit.model.X[:, 1]
        np.testing.assert_allclose(offsets[:, 0], x)
        places, curve = ax.lines[-1].get_data()
        np.testing.assert_allclose(curve, local_linear(x, r, places))
    assert ax.get_xlabel() == {"fitted": "fitted population means"}.get(against, against)
    assert ax.get_ylabel() == "pearson marginal residuals"


def test_diagnostics_are_the_single_pictures():
    fit = sleep()
    axes = fit.plot.diagnostics(n=19, seed=4)
    single = fit.plot.residuals(n=19, seed=4), fit.plot.qq(n=19, seed=4), fit.plot.qq("Subject", n=19, seed=4)
    for ax, other in zip(axes[[0, 1, 3]], single, strict=True):
        assert len(ax.lines) == len(other.lines)
        for mine, theirs in zip(ax.lines, other.lines, strict=True):
            np.testing.assert_array_equal(mine.get_ydata(), theirs.get_ydata())
    np.testing.assert_allclose(axes[2].collections[1].get_offsets()[:, 1], np.sqrt(np.abs(fit.residuals())))


def test_diagnostics_without_random_effects():
    fit = visits()
    axes = fit.plot.diagnostics("normalized", n=0)
    np.testing.assert_allclose(axes[3].collections[0].get_offsets(), np.column_stack([fit.fitted, fit.model.y]))
    assert axes[0].get_ylabel() == "normalized residuals"


# -- covariance


@pytest.mark.parametrize("robust", [False, True])
def test_semivariogram(robust):
    """By the definition, over all pairs of rows, with V of the textbook."""
    fit = sleep()
    _, left = sleep_covariance()
    codes, day, r = fit.model.random[0].group, fit.model.X[:, 1], fit.model.y - fit.model.X @ fit.coef
    i, j = np.triu_indices(fit.nobs, 1)
    i, j = (k[codes[i] == codes[j]] for k in (i, j))
    lag, gap = np.abs(day[i] - day[j]), r[i] - r[j]
    found = covariances.semivariogram(fit, "Subject", "Days", "response", 15, robust, None)
    np.testing.assert_array_equal(found.lag, np.arange(1, 10))
    for k, d in enumerate(found.lag):
        here = lag == d
        assert found.pairs[k] == here.sum()
        a, b = i[here], j[here]
        np.testing.assert_allclose(found.model[k], np.mean(0.5 * (left[a, a] + left[b, b]) - left[a, b]), rtol=1e-8)
        mean = np.mean(gap[here] ** 2)
        if robust:
            mean = np.mean(np.sqrt(np.abs(gap[here]))) ** 4 / (0.457 + 0.494 / here.sum())
        np.testing.assert_allclose(found.empirical[k], 0.5 * mean)
    ax = fit.plot.semivariogram("Subject", "Days", robust=robust)
    np.testing.assert_allclose(ax.collections[0].get_offsets(), np.column_stack([found.lag, found.empirical]))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), found.model)
    assert ax.get_xlabel() == "lag in Days within Subject"


def test_robust_semivariances_are_right_for_normal_differences():
    rng = np.random.default_rng(2)
    gap = rng.normal(size=(4000, 40))
    found = np.mean(np.sqrt(np.abs(gap)), 1) ** 4 / (2 * (0.457 + 0.494 / 40))
    assert abs(found.mean() - 0.5) < 0.01


def test_bins_do_not_part_equal_lags():
    lag = np.repeat(np.arange(100.0), 3)
    code = covariances._bins(lag, 10)
    assert np.all(np.bincount(code) == 30)
    assert np.all(np.diff(code.reshape(100, 3), axis=1) == 0)
    code = covariances._bins(np.array([1.0] * 50 + [2.0, 3.0, 4.0]), 3)
    assert len(set(code[:50])) == 1 and set(code) == set(range(code.max() + 1))
    few = covariances.semivariogram(sleep(), "Subject", "Days", "normalized", 3, False, 6.0)
    assert len(few.lag) <= 3 and few.pairs.sum() == 18 * sum(10 - d for d in range(1, 7))
    np.testing.assert_array_equal(few.model, 1.0)


def test_covariances_of_a_random_slope():
    fit = sleep()
    V, left = sleep_covariance()
    found = covariances.covariances(fit, "Subject", "Days")
    r = (fit.model.y - fit.model.X @ fit.coef).reshape(18, 10)
    np.testing.assert_allclose(found.model, V[:10, :10], rtol=1e-8)
    corrections = (V - left)[:10, :10]
    np.testing.assert_allclose(found.empirical, r.T @ r / 18 + corrections, rtol=1e-8)
    assert found.labels == tuple(map(str, range(10))) and np.all(found.groups == 18)


def test_covariances_of_pairs_of_rows():
    """Weights, irregular times and a grouping factor: entries of V by the textbook."""
    rng = np.random.default_rng(7)
    n = 90
    person, site, t, w = (
        np.repeat(np.arange(15), 6),
        np.repeat(np.arange(5), 18),
        rng.uniform(0, 5, n),
        rng.uniform(1, 2, n),
    )
    term = jaxlmm.Term(np.ones((n, 1)), site)
    residual = jaxlmm.Residual(jaxlmm.covariance.OrnsteinUhlenbeck(), person, coords=t)
    model = jaxlmm.Model(rng.normal(size=n), np.ones((n, 1)), [term], residual, w)
    theta = np.array([0.3, -0.2, 0.4])
    estimate = SimpleNamespace(theta=theta, covariances=(np.exp([[2 * theta[0]]]),), residual=np.zeros((0, 0)))
    fit = SimpleNamespace(model=model, estimate=estimate)
    (_, variance), (_, length) = residual.structure.natural(theta[1:], 1)
    V = variance * (person[:, None] == person) * np.exp(-np.abs(t[:, None] - t) / length) / np.sqrt(np.outer(w, w))
    V += np.exp(2 * theta[0]) * (site[:, None] == site)
    i, j = (k.ravel() for k in np.indices((n, n)))
    np.testing.assert_allclose(RowPairs(fit).covariance(i, j).reshape(n, n), V, rtol=1e-8)
    seen = [p for a, b in pairs_within(person, 4, 0) for p in zip(a, b, strict=True)]
    assert len(set(seen)) == 15 * 6 and all(person[a] == person[b] for a, b in seen)


def test_covariances_of_a_saturated_model_are_its_estimate():
    fit = visits()
    found = covariances.covariances(fit, None, None)
    np.testing.assert_allclose(found.model, fit.estimate.residual, rtol=1e-10)
    np.testing.assert_allclose(found.empirical, fit.estimate.residual, rtol=1e-5)
    axes = fit.plot.covariance(correlation=True)
    texts = [[float(t.get_text()) for t in ax.texts] for ax in axes]
    expected = fit.varcorr().residual.corr
    np.testing.assert_allclose(texts[1], expected.ravel(), atol=0.005)
    assert [t.get_text() for t in axes[0].get_xticklabels()] == ["8", "10", "12", "14"]


# -- parameters


def test_means_over_a_number():
    fit = sleep()
    found = means.means(fit, "Days", None, None, 0.9, "satterthwaite", {})
    assert found.labels is None and found.x[[0, -1]].tolist() == [0, 9]
    rows = np.column_stack([np.ones(means.PLACES), found.x])
    np.testing.assert_allclose(found.estimate[0], rows @ fit.coef)
    tests = fit.test(rows[[0, 30]], level=0.9).frame()
    np.testing.assert_allclose(found.lower[0, [0, 30]], tests["lower"], rtol=1e-6)
    np.testing.assert_allclose(found.upper[0, [0, 30]], tests["upper"], rtol=1e-6)
    ax = fit.plot.effects("Days", level=0.9, data=True)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Days", "mean of Reaction")
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), found.estimate[0])


def test_estimates_with_their_intervals():
    """A line a row; the null of contrasts, and one-sided intervals to the edge."""
    fit = visits()
    pairs = fit.emmeans("Sex").pairs()
    frame, ax = pairs.frame(), pairs.plot()
    np.testing.assert_allclose(ax.lines[-1].get_xdata(), frame["estimate"])
    (segment,) = ax.collections[0].get_segments()
    np.testing.assert_allclose(segment[:, 0], [frame["lower"][0], frame["upper"][0]])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["Male - Female"] and ax.lines[0].get_xdata()[0] == 0
    assert len(fit.emmeans("Sex").plot().lines) == 1
    assert np.isfinite(pairs.against(side="greater").plot().collections[0].get_segments()[0]).all()


def test_means_over_factors_and_beside():
    fit = visits()
    frame = fit.emmeans(["age", "Sex"]).frame()
    found = means.means(fit, "age", "Sex", None, 0.95, "satterthwaite", {})
    assert found.labels == ("8", "10", "12", "14") and found.groups == ("Sex = Male", "Sex = Female")
    for g, sex in enumerate(("Male", "Female")):
        own = frame[frame.Sex == sex].sort_values("age")
        np.testing.assert_allclose(found.estimate[g], own.estimate)
        np.testing.assert_allclose(found.upper[g], own.upper)
    ax = fit.plot.effects("age", by="Sex")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["Sex = Male", "Sex = Female"]
    styles = [c.lines[0].get_linestyle() + c.lines[0].get_marker() for c in ax.containers]
    assert len(set(styles)) == 2  # not told apart by color alone


def test_a_number_beside_is_held_at_its_quartiles():
    fit = jaxlmm.lmm("distance ~ age * Sex + (1 | Subject)", load_data("orthodont_us_reml"))
    found = means.means(fit, "Sex", "age", None, 0.95, "asymptotic", {})
    assert found.groups == ("age = 9.5", "age = 11", "age = 12.5")
    np.testing.assert_allclose(np.diff(found.estimate[:, 0]), 1.5 * fit.coef[fit.coef_names.index("age")])
    given = means.means(fit, "age", "Sex", {"age": [8, 14]}, 0.95, "asymptotic", {})
    assert given.x.tolist() == [8, 14] and given.labels is None


def test_coefficients():
    fit = visits()
    ax = fit.plot.coef(level=0.9)
    expected = fit.confint(0.9, which="coef")
    segments = np.array([s[:, 0] for s in ax.collections[0].get_segments()])
    np.testing.assert_allclose(segments, expected[["lower", "upper"]].to_numpy()[1:])
    assert [t.get_text() for t in ax.get_yticklabels()] == list(fit.coef_names[1:])
    assert len(fit.plot.coef("(Intercept)").collections[0].get_segments()) == 1


@functools.cache
def dyestuff_profile():
    return dyestuff().profile(["sd_(Intercept)|Batch", "sigma"])


def deviance(sd, sigma):
    """-2 restricted log-likelihood of dyestuff."""
    model = dyestuff().model
    V = oracle.marginal([(model.random[0].Z, model.random[0].group, np.array([[sd**2]]))], sigma, 30)
    return -2 * oracle.loglik(V, model.y, model.X)


def lowest(f, low, high):
    return minimize_scalar(f, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x


def test_profile_traces_are_conditional_optima():
    profile = dyestuff_profile()
    sd, sigma = profile.curves
    for node in (1, len(sd.value) // 2, len(sd.value) - 1):
        best = lowest(lambda s, given=sd.value[node]: deviance(given, s), 20, 120)
        np.testing.assert_allclose(sigma.value_at(profile.trace(0, 1)[node]), best, rtol=1e-5)
    for node in (0, len(sigma.value) - 1):
        best = lowest(lambda s, given=sigma.value[node]: deviance(s, given), 1, 200)
        np.testing.assert_allclose(sd.value_at(profile.trace(1, 0)[node]), best, rtol=1e-4)


def test_contours_of_pairs():
    """On a contour the deviance is the height squared, about that of the best value of both."""
    profile = dyestuff_profile()
    sd, sigma = profile.curves
    along, across = (sd.zeta, profile.trace(0, 1)), (sigma.zeta, profile.trace(1, 0))
    for level in (0.5, 0.8):
        height = profiles.joint_height(level)
        np.testing.assert_allclose(height**2, chi2.ppf(level, 2))
        points = profiles.contour(height, along, across)
        values = [(sd.value_at(a), sigma.value_at(b)) for a, b in points[::10] if np.isfinite(a + b)]
        assert len(values) > 10
        rise = np.array([deviance(*v) for v in values]) - deviance(sd.estimate, sigma.estimate)
        np.testing.assert_allclose(np.sqrt(rise), height, rtol=0.05)


def test_contours_of_a_quadratic_are_ellipses():
    z = np.linspace(-3, 3, 13)
    for rho in (-0.7, 0.0, 0.9):
        points = profiles.contour(2.0, (z, rho * z), (z, rho * z))
        a, b = points.T
        np.testing.assert_allclose((a * a - 2 * rho * a * b + b * b) / (1 - rho**2), 4.0, rtol=1e-8)
    bounded = np.linspace(-1, 3, 9)  # the first quantity ends at zeta = -1
    points = profiles.contour(2.0, (bounded, 0 * bounded), (z, 0 * z))
    known = points[np.isfinite(points).all(1)]
    np.testing.assert_allclose(np.sum(known**2, 1), 4.0, rtol=0.02)
    np.testing.assert_allclose(known[:, 0].min(), -1.0)
    assert np.isnan(points).any()


def test_profiles_are_drawn():
    fit, profile = dyestuff(), dyestuff_profile()
    axes = fit.plot.profile(profile)
    assert [ax.get_xlabel() for ax in axes] == list(profile.names)
    value, zeta = axes[1].lines[1].get_data()
    np.testing.assert_allclose(CubicSpline(value, zeta)(profile["sigma"].value), profile["sigma"].zeta, atol=1e-4)
    marked = [line.get_xdata()[0] for line in axes[1].lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(marked, profile["sigma"].interval())
    square = fit.plot.profile_pairs(profile, levels=(0.5,))
    assert square.shape == (2, 2) and square[1, 0].get_xlabel() == "sd_(Intercept)|Batch"
    height = profiles.joint_height(0.5)
    contour = square[0, 1].lines[0].get_xydata()
    np.testing.assert_allclose(np.nanmax(contour, 0), height, rtol=1e-3)
    natural = square[1, 0].lines[0].get_xdata()
    np.testing.assert_allclose(np.nanmax(natural), profile.curves[0].value_at(height), rtol=1e-3)


# -- influence and batches


def test_influence_names_what_is_beyond():
    fit = sleep()
    options = {"theta": False, "exact": "none"}
    found = fit.influence("Subject", threshold=0.1, **options)
    ax = fit.plot.influence("Subject", threshold=0.1, **options)
    drawn = np.concatenate([line.get_xydata() for line in ax.lines if line.get_marker() == "o"])
    np.testing.assert_allclose(drawn[np.argsort(drawn[:, 0]), 1], found.cooks)
    named = {t.get_text() for t in ax.texts}
    assert named and named <= set(found.labels[found.cooks > 0.1])
    axes = fit.plot.influence("Subject", "dfbetas", **options)
    assert [ax.get_title() for ax in axes] == list(fit.coef_names)
    limits = [line.get_ydata()[0] for line in axes[0].lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(limits, np.array([-2, 2]) / np.sqrt(18))
    assert fit.plot.influence("Subject", "covratio", **options).get_ylabel() == "COVRATIO"


def test_convergence_of_batches():
    found = batch()
    count = dict(batches.statuses(found))
    assert count["bad response"] == 2 and sum(count.values()) == 21
    axes = found.plot.convergence()
    assert {t.get_text() for t in axes[0].get_yticklabels()} == set(count)
    assert sum(bar.get_height() for bar in axes[1].patches) == 19
    assert sum(bar.get_height() for bar in axes[2].patches) == 19


def test_estimates_of_batches():
    found = batch()
    assert list(batches.columns_of(found)) == ["(Intercept)", "Days", "sd1.1", "sd1.2", "sigma"]
    np.testing.assert_allclose(batches.columns_of(found)["sd1.2"][2:], np.sqrt(found.varcorr[0][2:, 1, 1]))
    axes = found.plot.estimates(truth={"Days": 10.0})
    assert all(sum(bar.get_height() for bar in ax.patches) == 19 for ax in axes)
    np.testing.assert_allclose(axes[1].lines[0].get_xdata(), np.mean(found.coef[2:, 1]))
    assert axes[1].lines[1].get_xdata()[0] == 10.0
    assert isinstance(found.plot.estimates("sigma"), Axes)
    none = sleep().refit(np.full((2, 180), np.nan))
    with pytest.raises(jaxlmm.DataError, match="none of the fits converged"):
        none.plot.estimates()
    assert none.plot.convergence()[1].texts[0].get_text() == "none"


# -- axes, and what is refused


def test_axes_of_the_user_are_drawn_on():
    figure, axes = plt.subplots(2, 2)
    assert sleep().plot.coef(ax=axes[0, 0]) is axes[0, 0]
    assert sleep().plot.ranef(ax=axes[1])[1] is axes[1, 1]
    assert list(sleep().plot.diagnostics(n=0, ax=axes)) == list(axes.ravel())
    assert plt.get_fignums() == [figure.number]
    with pytest.raises(jaxlmm.DataError, match="ax: expected 2 axes, one a panel, found 4"):
        sleep().plot.ranef(ax=axes)


def test_names_are_broken_at_separators():
    assert canvas.wrapped("cor_Days.(Intercept)|Subject", 14) == "cor_Days\n.(Intercept)\n|Subject"
    assert canvas.wrapped("sigma", 3) == "sigma"
    assert canvas.short("x" * 30, 10) == "x" * 9 + "\u2026"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.ranef("Subjekt"), "group: found 'Subjekt', expected one of 'Subject'"),
        (lambda p: p.ranef(sort="x"), r"sort: found 'x', expected one of '\(Intercept\)', 'Days'"),
        (lambda p: p.ranef(variance="x"), "variance: found 'x'"),
        (lambda p: p.ranef(level=2), "level: expected"),
        (lambda p: p.qq("Worker"), "of: found 'Worker', expected one of 'residuals', 'Subject'"),
        (lambda p: p.qq("Subject", column="x", n=0), "column: found 'x'"),
        (lambda p: p.qq(n=5), "n: expected 0"),
        (lambda p: p.residuals(against="x"), "against: the data have no column 'x'"),
        (lambda p: p.residuals(kind="x", n=0), "kind: found 'x'"),
        (lambda p: p.semivariogram("Subject", "Subject"), "time: 'Subject' is a factor"),
        (lambda p: p.covariance(), "by, at: the residuals have no structure"),
        (lambda p: p.covariance("Subject"), "by, at: give both"),
        (lambda p: p.covariance("Days", "Days"), "at: some groups have a position more than once"),
        (lambda p: p.coef("x"), "which: found 'x'"),
        (lambda p: p.effects("x"), "'x' is not in the fixed part"),
        (lambda p: p.effects("Days", by="Days"), "by: found 'Days'"),
        (lambda p: p.influence(measure="x"), "measure: found 'x'"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(jaxlmm.DataError, match=message):
        call(sleep().plot)


def test_pairs_that_are_refused():
    plots = dyestuff().plot
    with pytest.raises(jaxlmm.DataError, match="at least two quantities"):
        plots.profile_pairs("sigma")
    with pytest.raises(jaxlmm.DataError, match="one criterion"):
        plots.profile_pairs(["sigma", "(Intercept)"])
    with pytest.raises(jaxlmm.DataError, match="group: the model has none"):
        visits().plot.ranef()


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(jaxlmm.DataError, match="plot: needs matplotlib, which is not installed"):
        sleep().plot.coef()
