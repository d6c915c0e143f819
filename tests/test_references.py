"""Every plain lme4-type reference case: recorded numbers of lme4 against jaxlmm.lmm."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest

import jaxlmm
from cases import case_names, load_case, load_data, some

NAMES = (
    "sleepstudy_reml",
    "sleepstudy_ml",
    "sleepstudy_indep_reml",
    "sleepstudy_weighted_reml",
    "dyestuff_reml",
    "dyestuff_ml",
    "dyestuff2_singular_reml",
    "dyestuff2_singular_ml",
    "penicillin_crossed_reml",
    "pastes_nested_reml",
    "cake_reml",
    "machines_full_reml",
    "machines_interaction_reml",
    "oats_splitplot_reml",
    "orthodont_slope_reml",
    "orthodont_slope_ml",
    "ergostool_reml",
    "ergostool_ml",
)
SMOKE = "sleepstudy_reml"
DAILY = (
    "sleepstudy_ml", "sleepstudy_indep_reml", "sleepstudy_weighted_reml", "dyestuff2_singular_reml",
    "penicillin_crossed_reml", "pastes_nested_reml", "cake_reml",
)  # fmt: skip


@functools.cache
def fitted(name):
    """(recorded case, fit), fitted once a session."""
    case = load_case(name)
    return case, jaxlmm.lmm(case["formula"], load_data(case), method=case["method"], weights=case["weights"])


def plain(name):
    """R's spelling of a coefficient: recipe[T.B] -> recipeB, Machine[A] -> MachineA."""
    return re.sub(r"\[T\.|\[|\]", "", name)


def recorded_groups(case):
    return {(g["group"], tuple(g["columns"])): g for g in case["theta"]["groups"]}


def fitted_groups(fit):
    return {(g.group, tuple(map(plain, g.columns))): g for g in fit.varcorr().groups}


def effect_sds(case, group, columns):
    """Recorded SDs of the effects of a group, `||` entries merged; sigma where the SD is 0."""
    sds = dict.fromkeys(columns, 0.0)
    for g in case["theta"]["groups"]:
        if g["group"] == group:
            sds.update(zip(g["columns"], g["sd"], strict=True))
    return np.array([sds[c] or case["theta"]["sigma"] for c in columns])


def matched_effects(case, fit, group):
    """The fit's effects of a group and its levels' and columns' positions in the recorded order."""
    effects = fit.ranef()[group]
    columns = [plain(c) for c in effects.columns]
    order = [columns.index(c) for c in case["ranef"][group]["columns"]]
    return effects, list(effects.levels), order


def check_loglik(case, fit):
    assert fit.loglik == pytest.approx(case["loglik"], abs=1e-6)


def check_coefficients(case, fit):
    assert [plain(c) for c in fit.coef_names] == list(case["fixef"])
    expected, se = np.array(list(case["fixef"].values())), np.array(list(case["se"].values()))
    assert np.max(np.abs(fit.coef - expected) / se) < 1e-5


def check_standard_errors(case, fit):
    np.testing.assert_allclose(fit.se, list(case["se"].values()), rtol=1e-5)


def check_vcov(case, fit):
    expected = np.array(case["vcov_fixef"])
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.max(np.abs(fit.vcov - expected) / scale) < 1e-5


def check_sds(case, fit):
    expected, found = recorded_groups(case), fitted_groups(fit)
    assert set(found) == set(expected)
    for key, g in expected.items():
        sd = np.array(g["sd"])
        tolerance = 1e-4 * np.where(sd > 0, sd, case["theta"]["sigma"])
        assert np.all(np.abs(found[key].sd - sd) < tolerance), key


def check_correlations(case, fit):
    found = fitted_groups(fit)
    for key, g in recorded_groups(case).items():
        if len(g["columns"]) > 1:
            np.testing.assert_allclose(found[key].corr, g["corr"], atol=1e-4)
        scale = np.maximum(np.abs(np.outer(g["sd"], g["sd"])), 1e-8 * case["theta"]["sigma"] ** 2)
        assert np.max(np.abs(found[key].cov - g["cov"]) / scale) < 3e-4


def check_sigma(case, fit):
    assert fit.sigma == pytest.approx(case["theta"]["sigma"], rel=1e-4)
    assert fit.varcorr().sigma == pytest.approx(fit.sigma, rel=1e-12)


def check_effects(case, fit):
    assert set(fit.ranef()) == set(case["ranef"])
    for group, recorded in case["ranef"].items():
        effects, levels, order = matched_effects(case, fit, group)
        assert len(levels) == recorded["n_levels"]
        rows = [levels.index(level) for level in recorded["rows"]]
        values = np.asarray(effects.values)[rows][:, order]
        sds = effect_sds(case, group, recorded["columns"])
        assert np.max(np.abs(values - np.array(list(recorded["rows"].values()))) / sds) < 1e-4, group


def check_conditional_variances(case, fit):
    for group, recorded in case["condVar"].items():
        effects, levels, order = matched_effects(case, fit, group)
        rows = [levels.index(level) for level in recorded]
        found = np.asarray(effects.condvar)[rows][:, order][:, :, order]
        sds = effect_sds(case, group, case["ranef"][group]["columns"])
        difference = np.abs(found - np.array(list(recorded.values()))) / np.outer(sds, sds)
        assert np.max(difference) < 1e-4, group


def check_criteria(case, fit):
    assert fit.npar == case["npar"]
    assert fit.nobs == case["n"]
    assert fit.aic == pytest.approx(case["aic"], abs=1e-5)
    assert fit.bic == pytest.approx(case["bic"], abs=1e-5)


def check_fitted(case, fit):
    tolerance = 1e-4 * case["theta"]["sigma"]
    assert len(fit.fitted) == case["n"]
    np.testing.assert_allclose(fit.fitted[:6], case["fitted_head"], atol=tolerance)
    np.testing.assert_allclose(fit.residuals()[:6], case["resid_head"], atol=tolerance)
    np.testing.assert_allclose(fit.predict()[:6], case["fitted_head"], atol=tolerance)
    np.testing.assert_allclose(fit.predict(random=False)[:6], case["fitted_population_head"], atol=tolerance)


def check_status(case, fit):
    assert fit.singular is case["singular"]
    assert fit.converged is True
    assert fit.method == case["method"]


CHECKS = (
    check_loglik,
    check_coefficients,
    check_standard_errors,
    check_vcov,
    check_sds,
    check_correlations,
    check_sigma,
    check_effects,
    check_conditional_variances,
    check_criteria,
    check_fitted,
    check_status,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", [pytest.param(SMOKE, marks=pytest.mark.smoke), *some(NAMES[1:], *DAILY)])
def test_case(name, check):
    check(*fitted(name))


@pytest.mark.parametrize("name", ["sleepstudy_reml", "sleepstudy_ml"])
def test_predictions_for_new_data(name):
    """A known subject, days beyond the data, and a subject that the fit has not seen."""
    pandas = pytest.importorskip("pandas")
    case, fit = fitted(name)
    new = pandas.DataFrame(case["predict"]["newdata"])
    tolerance = 1e-4 * case["theta"]["sigma"]
    conditional = fit.predict(new, allow_new_levels=True)
    np.testing.assert_allclose(conditional, case["predict"]["conditional"], atol=tolerance)
    np.testing.assert_allclose(fit.predict(new, random=False), case["predict"]["population"], atol=tolerance)


def test_the_list_holds_every_plain_case():
    """A reference that someone adds without a special structure is tested too."""
    assert set(NAMES) == set(case_names(plain=True))
