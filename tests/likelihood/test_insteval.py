"""InstEval, 73 421 ratings of 1128 lecturers by 2972 students in 14 departments, against lme4 1.1-31."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import jaxlmm

DATA = Path(__file__).parents[1] / "references" / "data" / "insteval.npz"

# lmer(y ~ service + (1|s) + (1|d) + (1|dept), InstEval, control = lmerControl(optimizer = "nloptwrap",
#      optCtrl = list(xtol_rel = 1e-10, ftol_rel = 1e-14))); ranef(., condVar = TRUE)
LOGLIK = -118866.917063759
COEF, SE = (3.28258775816, -0.09264169748), (0.02934581126, 0.01338918598)
SD = (0.32557328219, 0.51499649972, 0.08313787652, 1.17749749315)
EFFECTS = {  # level -> (mode, conditional SD)
    "s": {"1": (0.15341674988, 0.28540596), "2": (-0.04758341706, 0.30341609), "3": (0.30792773427, 0.22807658)},
    "d": {"1": (0.3817069120, 0.29559759), "6": (-0.4745205670, 0.20041093), "7": (0.7154628495, 0.19832647)},
    "dept": {"1": (0.02516164246, 0.054968018), "2": (-0.03670629605, 0.058796788), "3": (0.02817449999, 0.054625086)},
}


@pytest.fixture(scope="module")
def fit():
    with np.load(DATA) as columns:
        data = {name: columns[name].astype(float if name in ("y", "service") else str) for name in columns}
    return jaxlmm.lmm("y ~ service + (1|s) + (1|d) + (1|dept)", data)


@pytest.mark.slow
def test_the_fit_is_lme4s(fit):
    assert fit.engine == "crossed" and fit.converged
    assert fit.loglik == pytest.approx(LOGLIK, abs=1e-6)
    np.testing.assert_allclose(fit.coef, COEF, rtol=1e-6)
    np.testing.assert_allclose(fit.se, SE, rtol=1e-5)
    np.testing.assert_allclose([*np.sqrt(variances(fit)), fit.sigma], SD, rtol=1e-5)


@pytest.mark.slow
def test_effects_of_all_levels(fit):
    effects = fit.ranef()
    assert [len(effects[g].levels) for g in EFFECTS] == [2972, 1128, 14]
    for (group, known), variance in zip(EFFECTS.items(), variances(fit), strict=True):
        found = effects[group]
        rows = [found.levels.index(level) for level in known]
        values, sd = np.transpose(list(known.values()))
        np.testing.assert_allclose(found.values[rows, 0], values, rtol=1e-5)
        np.testing.assert_allclose(np.sqrt(found.condvar[rows, 0, 0]), sd, rtol=1e-5)
        assert np.all(found.pev[:, 0, 0] > found.condvar[:, 0, 0])
        assert np.all(found.pev[:, 0, 0] < variance + fit.vcov[0, 0])


def variances(fit):
    return [covariance[0, 0] for covariance in fit.estimate.covariances]


@pytest.mark.slow
def test_small_sample_tests_of_all_coefficients(fit):
    """With this many students the adjustment is small, and departments leave the mean few degrees of freedom."""
    satterthwaite, kenward_roger = (fit.wald(df=df).rows(np.eye(2)) for df in ("satterthwaite", "kenward-roger"))
    for found in (satterthwaite, kenward_roger):
        assert 10 < found.df[0] < 20 and 20_000 < found.df[1] < fit.nobs
    np.testing.assert_allclose(kenward_roger.df, satterthwaite.df, rtol=0.02)
    np.testing.assert_allclose(kenward_roger.se, fit.se, rtol=5e-3)
    assert np.all(kenward_roger.se > 0.9999 * fit.se)
