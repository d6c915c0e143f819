"""Lines of the dictionary (notebooks/translation.ipynb) that promise numbers of other systems: call, number there.

Numbers of lme4 1.1-31, lmerTest 3.1-3, pbkrtest 0.5-2 and clubSandwich 0.5.8 were printed by R 4.2.2, those of
performance by 0.10.2; those of mmrm are in references/cases, those of SAS in references/sas, or follow by the rule
that SAS documents and the number of subjects.
"""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest

import jaxlmm
from cases import REFERENCES, load_case, load_data
from jaxlmm.errors import DataError

MMRM = load_case("fev_us_reml")
SAS = REFERENCES / "sas"


@functools.cache
def sas(name):
    return pd.read_csv(SAS / f"{name}.csv")


@functools.cache
def models():
    """What the calls below are evaluated in."""
    data = {name: jaxlmm.datasets.load(name) for name in ("sleepstudy", "machines", "fev_data")}
    sleepstudy, fev = data["sleepstudy"], data["fev_data"]
    bio = pd.read_csv(SAS / "smallsample/data/Data_bioequivalence.csv").astype({"period": str, "subject": str})
    weighted = sleepstudy.assign(w=np.tile([1.0, 2, 3, 4, 5], 36))
    slopes = "Reaction ~ Days + (Days | Subject)"
    one = "log_data ~ sequence + C(period) + formulation + (0 + formulation | subject)"
    return {
        "np": np, "jaxlmm": jaxlmm, "lmm": jaxlmm.lmm, "fev": fev,
        "WORKERS": ("score ~ Machine + (1 | Worker)", data["machines"]),
        "GROWTH": ("distance ~ age * Sex + (age | Subject)", jaxlmm.datasets.load("orthodont")),
        "observed": fev["FEV1"].notna().to_numpy(),
        "y": sleepstudy["Reaction"].to_numpy() ** 1.01,
        "new": {"Days": [3.0, 4.0], "Subject": ["308", "new"]},
        "fit": jaxlmm.lmm(slopes, sleepstudy),
        "small": jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", sleepstudy),
        "weighted": jaxlmm.lmm(slopes, weighted, weights="w"),
        "by_machine": jaxlmm.lmm("score ~ Machine + (0 + Machine | Worker)", data["machines"]),
        "trial": jaxlmm.lmm(MMRM["formula"], load_data(MMRM), residual="us(AVISIT | USUBJID)"),
        "visits": jaxlmm.lmm("FEV1 ~ RACE + ARMCD * AVISIT", fev, residual="us(AVISIT | USUBJID)"),
        "arms": jaxlmm.lmm("FEV1 ~ ARMCD", fev, residual="us(AVISIT | USUBJID)"),
        "bioequivalence": jaxlmm.lmm(one, bio),
        "plots": jaxlmm.lmm("yield ~ Variety * C(Nitrogen) + (1 | Block/Variety)", jaxlmm.datasets.load("oats")),
    }  # fmt: skip


OF_MACHINES = next(row for row in load_case("machines_full_reml")["anova"] if row["ddf"] == "Satterthwaite")
LME4 = [
    ("fixef(m)", "fit.coef", [251.40510485, 10.46728596]),
    ("sqrt(diag(vcov(m)))", "fit.se", [6.824596695, 1.545789644]),
    ("sigma(m)", "fit.sigma", 25.59179572),
    ("VarCorr(m)", "fit.varcorr().frame()['sd_or_corr']", [24.740657995, 5.922137659, 0.0655512382, 25.591795722]),
    ("ranef(m)$Subject", "fit.ranef()['Subject'].frame().loc[0, ['(Intercept)', 'Days']]", [2.258550950, 9.198975766]),
    ("attr(ranef(m)$Subject, 'postVar')", "fit.ranef()['Subject'].condvar[0].ravel()",
     [145.7055875, -21.444503598, -21.444503598, 5.312282912]),
    ("coef(m)$Subject", "fit.coef_by('Subject').iloc[:2, 1:]",
     [[253.6636558, 19.666261725], [211.0063668, 1.847605344]]),
    ("coef(m)$Subject, of one random intercept", "small.coef_by('Subject')['Days'].iloc[:2]", [10.46728596] * 2),
    ("REMLcrit(m)", "-2 * fit.loglik", 1743.628272),
    ("AIC(m)", "fit.aic", 1755.628272),
    ("BIC(m)", "fit.bic", 1774.786013),
    ("nobs(m)", "fit.nobs", 180),
    ("df.residual(m)", "fit.df_resid", 174),
    ("isSingular(m)", "fit.singular", False),
    ("fitted(m)", "fit.fitted[:1]", [253.6636558]),
    ("residuals(m)", "fit.residuals()[:1]", [-4.103655798]),
    ("residuals(m, type = 'pearson')", "fit.residuals('pearson')[:3] * fit.sigma",
     [-4.103655798, -14.625217524, -42.195579249]),
    ("residuals(m, type = 'pearson'), with weights", "weighted.residuals('pearson')[:3] * weighted.sigma",
     [2.79852877109, -12.99397566824, -66.20519194337]),
    ("residuals(m, type = 'pearson', scaled = TRUE)", "fit.residuals('pearson')[:3]",
     [-0.1603504437, -0.5714807074, -1.6487932190]),
    ("predict(m, new, allow.new.levels = TRUE)", "fit.predict(new, allow_new_levels=True)", [312.662441, 293.2742487]),
    ("predict(m, new, re.form = NA)", "fit.predict(new, random=False)", [282.8069627, 293.2742487]),
    ("refit(m, y)", "fit.refit(y).coef", [265.6783148301, 11.1978520472]),
    ("confint(m, method = 'Wald')", "fit.confint(df='asymptotic', which='coef')[['lower', 'upper']]",
     [[238.02914112, 264.78106858], [7.43759393, 13.49697799]]),
    ("anova(small, m, refit = FALSE)", "jaxlmm.compare(small, fit).frame().iloc[1][['statistic', 'df']]",
     [42.83681, 2]),
    ("cooks.distance(influence(m, 'Subject'))", "fit.influence(by='Subject', exact='all').cooks[:3] * (18 - 2) / 18",
     [0.08214840507, 0.13202079796, 0.09824074429]),
    ("lmerTest: summary(m)", "fit.tidy()[['std_error', 'df', 'statistic']]",
     [[6.824596695, 16.99972629, 36.838089646], [1.545789644, 16.99998373, 6.771481489]]),
    ("lmerTest: summary(m, ddf = 'Kenward-Roger')",
     "fit.tidy(df='kenward-roger', information='expected')[['std_error', 'df']]",
     [[6.824596695, 17], [1.545789644, 17]]),
    ("lmerTest: anova(m)", "by_machine.anova().frame()[['statistic', 'num_df', 'den_df']]",
     [[OF_MACHINES[name] for name in ("F", "numDF", "denDF")]]),
    ("lmerTest: anova(m, type = 1)", "by_machine.anova(type=1).frame()['statistic']", [OF_MACHINES["F"]]),
    ("lmerTest: contest(m, c(0, 1))", "fit.test([0, 1]).joint[:3]", [45.85296156, 1, 16.99998373]),
    ("pbkrtest: KRmodcomp(m, small)", "fit.test('Days', df='kenward-roger', information='expected').joint",
     [45.85296, 1, 17, 3.2638e-06]),
    ("emmeans(m, ~ Machine)", "by_machine.emmeans('Machine').frame()['std_error']",
     [1.68071119, 3.52854672, 1.80627336]),
    ("clubSandwich: vcovCR(m, type = 'CR2')", "fit.sandwich('CR2').vcov",
     [[46.57457185941, -1.45109570585], [-1.45109570585, 2.38946331191]]),
    ("performance: r2(m)", "fit.r2(ddof=1).estimate", [0.2786511, 0.7992199]),
]  # fmt: skip


MEANS = "by_machine.emmeans('Machine')"
AROUND = [  # printed by experiments/references/numbers/dictionary.R too
    ("quantile(residuals(m, type = 'pearson', scaled = TRUE))",
     "np.quantile(fit.residuals('pearson'), [0, 0.25, 0.5, 0.75, 1])",
     [-3.95356374, -0.46339962, 0.02311714, 0.46339902, 5.17925645]),
    ("cov2cor(vcov(m))", "fit.correlation()['Days']", [-0.1375594, 1]),
    ("lmerTest: ranova(m)", "fit.ranova(law='chi2').frame().iloc[1][['loglik', 'statistic', 'df', 'p_value']]",
     [-893.232542697, 42.8368134364, 2, 4.99e-10]),
    ("lmerTest: step(m)", "[len(by_machine.step().terms)]", [0]),
    ("afex: mixed(method = 'LRT')", "lmm(*WORKERS).drop1().frame().iloc[1][['npar', 'statistic', 'df']]",
     [3, 75.46637, 2]),
    ("update(m, . ~ . - Days)", "fit.update('. ~ . - Days').loglik", -884.922451929),
    ("emmeans: pairs(e)", f"{MEANS}.pairs().frame()[['estimate', 'std_error', 'df', 'statistic', 'p_value']]",
     [[-7.96666666667, 2.42085078770, 5, -3.29085406963, 0.048065807274723],
      [-13.91666666667, 1.54010011400, 5, -9.03620910106, 0.000652499193158],
      [-5.95, 2.44647525354, 5, -2.43207038019, 0.125319097649476]]),
    ("emmeans: contrast(e, 'trt.vs.ctrl', adjust = 'none')",
     f"{MEANS}.contrast('trt.vs.ctrl', adjust='none').frame()['p_value']", [0.021693072916272, 0.000277339261213]),
    ("emmeans: contrast(e, 'consec', adjust = 'none')",
     f"{MEANS}.contrast('consec', adjust='none').frame()['p_value']", [0.0216930729163, 0.0592293680711]),
    ("emmeans: contrast(e, 'identity')", f"{MEANS}.contrast('identity').frame()['statistic']",
     [31.1508316181, 17.0954864221, 36.6900302327]),
    ("emmeans: contrast(e, list(h = c(-1, -1, 2)))", f"{MEANS}.contrast('helmert').frame().iloc[1:]['std_error']",
     [3.29450762913]),
    ("emmeans: contrast(e, list(half = ...))", f"{MEANS}.contrast({{'half': [-1, 0.5, 0.5]}}).frame()['statistic']",
     [6.7599091758]),
    ("emmeans: test(e, null = 50, side = '>')", f"{MEANS}.test(null=50, side='>')[['statistic', 'p_value']]",
     [[1.40152298451, 0.109987798830159], [2.92534663587, 0.016404713606676], [9.00872651116, 0.000140690623187]]),
    ("emmeans: test(pairs(e), delta = 5, adjust = 'holm')",
     f"{MEANS}.pairs().test(delta=5, adjust='holm')[['statistic', 'p_value']]",
     [[1.225464486181, 1], [5.789666909065, 1], [0.388313758181, 1]]),
    ("emmeans: confint(e, side = '<')", f"{MEANS}.confint(side='<')['upper']",
     [55.7422703461, 67.4324144650, 69.9119501653]),
    ("emmeans: eff_size(e, sigma(m), edf = 40)",
     f"fit.standardized({MEANS}.pairs(), by_machine.sigma, 40)[['effect_size', 'std_error', 'lower', 'upper']]",
     [[-8.28500460086, 2.68258273448, -15.1808030569, -1.389206144772],
      [-14.47275908309, 2.27673273676, -20.3252869061, -8.620231260094],
      [-6.18775448223, 2.63661278406, -12.9653834187, 0.589874454205]]),
    ("effectsize: eta_squared(m, alternative = 'two.sided')",
     "by_machine.effect_sizes().loc[0, ['eta2', 'lower', 'upper']]", [0.942533709947, 0.663137017952, 0.977597725056]),
    ("emmeans: emtrends(m, ~ 1, 'Days')", "fit.emtrends('Days').frame().loc[0, ['estimate', 'std_error', 'lower']]",
     [10.4672859596, 1.54578893243, 7.20595637568]),
    ("clubSandwich: coef_test(m, V)", "fit.tidy(robust='CR2')[['std_error', 'statistic', 'df']]",
     [[6.82455653207, 36.83830644044, 17], [1.54578889629, 6.77148476398, 17]]),
    ("clubSandwich: Wald_test(m, constrain_zero(1:2), V, test = 'HTZ')",
     "fit.test(np.eye(2), robust='CR2', df='hotelling').joint[:3]", [705.844298847, 2, 16]),
    ("performance: icc(m)", "fit.icc().estimate[-1]", 0.721658457680),
    ("car: vif(m)", "lmm(*GROWTH).vif()['gvif']", [1.6875, 4.43821395017, 5.12571395017]),
    ("broom.mixed: glance(m)", "fit.glance().loc[0, ['nobs', 'sigma', 'loglik', 'aic', 'bic', 'df_resid']]",
     [180, 25.5918158926, -871.814135979, 1755.62827196, 1774.78601306, 174]),
    ("broom.mixed: augment(m)", "fit.augment()[['fitted', 'resid', 'fixed']].iloc[:2]",
     [[253.663670349, -4.10367034908, 251.405104848], [273.329928213, -14.62522821290, 261.872390808]]),
    ("nlme: summary(lme(...))$tTable", "lmm(*GROWTH).tidy(df='between-within')[['std_error', 'df', 'statistic']]",
     [[1.0185319666399, 79, 16.043310897652], [0.0859995173503, 79, 9.120690722079],
      [1.5957329154176, 25, 0.646788859687], [0.1347353495429, 79, -2.262431845010]]),
]  # fmt: skip


def column(table, key):
    return [row[key] for row in MMRM[table].values()]


def of_terms(ddf, *names):
    return [[row[name] for name in names] for row in MMRM["anova"] if row["ddf"] == ddf]


def of_means(ddf):
    """Rows of emmeans(m, ~ ARMCD | AVISIT)."""
    found = next(one for one in MMRM["emmeans"] if one["ddf"] == ddf)
    return [[row[name] for name in ("emmean", "SE", "df", "lower.CL")] for row in found["rows"]]


N, SUBJECTS = MMRM["n"], MMRM["n_subjects"]
TREATED, MEANS_OF_MMRM = MMRM["satterthwaite"]["ARMCDTRT"], "[['estimate', 'std_error', 'df', 'lower']]"
OF_MMRM = [
    ("coef(m)", "trial.coef", list(MMRM["fixef"].values())),
    ("logLik(m)", "trial.loglik", MMRM["loglik"]),
    ("AIC(m)", "-2 * trial.loglik + 2 * len(trial.theta)", MMRM["aic_package"]),
    ("BIC(m)", "-2 * trial.loglik + np.log(197) * len(trial.theta)", MMRM["bic_package"]),
    ("vcov(m), vcov = 'Kenward-Roger-Linear'", "trial.wald('kenward-roger').vcov", MMRM["kenward_roger_linear_vcov"]),
    ("df_1d(m, L)", "trial.tidy().loc[4, ['estimate', 'std_error', 'df', 'statistic', 'p_value']]",
     [TREATED[name] for name in ("estimate", "se", "df", "t", "p")]),
    ("car::Anova(m, type = 'III')", "trial.anova().frame()[['statistic', 'num_df']]",
     of_terms("Satterthwaite", "F", "numDF")),
    ("car::Anova(m, type = 'III'), Kenward-Roger-Linear",
     "trial.anova(df='kenward-roger').frame()[['statistic', 'num_df', 'den_df']]",
     of_terms("Kenward-Roger-Linear", "F", "numDF", "denDF")),
    ("emmeans(m, ~ ARMCD | AVISIT)", f"trial.emmeans('ARMCD | AVISIT').frame(){MEANS_OF_MMRM}",
     of_means("Satterthwaite")),
    ("emmeans(m, ~ ARMCD | AVISIT), Kenward-Roger-Linear",
     f"trial.emmeans('ARMCD | AVISIT', df='kenward-roger').frame(){MEANS_OF_MMRM}", of_means("Kenward-Roger-Linear")),
    *((f"{name}(AVISIT | USUBJID)", f"trial.update(residual='{name}(AVISIT | USUBJID)').loglik",
       load_case(f"fev_{name}_reml")["loglik"])
      for name in ("cs", "csh", "toep", "toeph", "ar1", "ar1h", "ad", "adh")),
    ("method = 'Satterthwaite'", "trial.tidy()['df']", column("satterthwaite", "df")),
    ("method = 'Kenward-Roger', vcov = 'Kenward-Roger-Linear'", "trial.tidy(df='kenward-roger')['std_error']",
     column("kenward_roger_linear", "se_adj")),
    ("method = 'Between-Within'", "trial.tidy(df='between-within')['df']",
     [N - SUBJECTS - 6, *[SUBJECTS - 5] * 4, *[N - SUBJECTS - 6] * 6]),
    ("method = 'Residual'", "trial.tidy(df='residual')['df']", [N - 11] * 11),
    ("vcov = 'Empirical'", "trial.tidy(robust='CR0')['std_error']", list(MMRM["robust_se"]["Empirical"].values())),
    ("vcov = 'Empirical-Bias-Reduced'", "trial.tidy(robust='CR2-mmrm')['std_error']",
     list(MMRM["robust_se"]["Empirical-Bias-Reduced"].values())),
    ("vcov = 'Empirical-Jackknife'", "trial.tidy(robust='CR3')['std_error']",
     list(MMRM["robust_se"]["Empirical-Jackknife"].values())),
    ("VarCorr(m)", "trial.varcorr().residual.cov", MMRM["theta"]["cov"]),
]  # fmt: skip

P = sas("mmrm/predict_un_satterthwaite")
FULL, FIRST, ROBUST = (sas(f"mmrm/{name}").iloc[0] for name in ("kr_us", "kr1_us", "empirical_us_lsmean"))
KR = sas("smallsample/results/Results_bioequivalence_intermediate_sas_kr").query("formulation == 'R'").iloc[0]
ASYCOV = sas("smallsample/results/Results_sleep_study_corr_sas_asycov").filter(like="CovP").drop(columns="CovParm")
OF_SAS = [
    ("MODEL / DDFM=KR", "arms.tidy(df='kenward-roger-full').loc[1, ['std_error', 'df']]", FULL[["StdErr", "DF"]]),
    ("MODEL / DDFM=KR(LINEAR)", "arms.tidy(df='kenward-roger').loc[1, ['std_error', 'df']]", FIRST[["StdErr", "DF"]]),
    ("MODEL / DDFM=KR, G on the boundary",
     "bioequivalence.tidy(df='kenward-roger-full', boundary_df='drop').iloc[-1:][['std_error', 'df']]",
     [KR[["StdErr", "DF"]]]),
    ("MODEL / DDFM=BW, TYPE=UN", "visits.anova(df='between-within-sas').frame()['den_df']", [193] * 4),
    ("MODEL / DDFM=BW, several factors within subjects", "plots.anova(df='between-within-sas').frame()['den_df']",
     [10, 15, 30]),
    ("LSMEANS, DDFM=BW", "plots.emmeans('Nitrogen', df='between-within-sas').frame()['df']", [15] * 4),
    ("LSMEANS / DIFF, DDFM=BW",
     "plots.emmeans('Variety | Nitrogen', df='between-within-sas').pairs().test(joint=True)['den_df']", [30] * 4),
    ("MODEL / DDFM=RESIDUAL", "visits.tidy(df='residual')['df']", [N - 10] * 10),
    ("MODEL / OUTP=", "np.where(observed, arms.predict(fev), arms.predict(fev, residual=True))", P["P"]),
    ("MODEL / OUTP=, StdErrPred", "np.where(observed, arms.predict(fev, se=True)['std_error'],"
     " arms.predict(fev, residual=True, interval='prediction')['std_error'])", P["PSD"]),
    ("MODEL / OUTPM=", "arms.predict(fev, random=False)", P["PM"]),
    ("MODEL / OUTPM=, StdErrPred", "arms.predict(fev, random=False, se=True)['std_error']", P["PMSD"]),
    # all rows by race (and visit, as often as each other), those without a response too: by hand from the cell means
    ("LSMEANS / OM", "visits.emmeans('ARMCD', weights='om').frame()['estimate']", [40.6291, 44.3912]),
    ("PROC MIXED EMPIRICAL",
     "arms.tidy(robust='CR0', df='between-within-sas').loc[1, ['estimate', 'std_error', 'df']]",
     ROBUST[["Estimate", "StdErr", "DF"]]),
    ("PROC MIXED COVTEST", "fit.varcorr().frame()['se_covariance']",
     np.sqrt(np.diagonal(ASYCOV))[[0, 2, 1, 3]]),  # ours: the variances first
    ("PROC MIXED ASYCOV", "fit.vcov_parameters()", ASYCOV),
    ("PROC MIXED IC", "[-2 * visits.loglik + k * len(visits.theta) for k in (2, np.log(197))]", [3407.373, 3440.205]),
]  # fmt: skip


REFITS = ("ranova", "step(", "update", "WORKERS", "GROWTH")  # which fit further models


@pytest.mark.parametrize(
    ("there", "here", "number"),
    [pytest.param(*line, marks=pytest.mark.slow) if any(word in line[1] for word in REFITS) else line
     for line in LME4 + AROUND + OF_MMRM + OF_SAS],
)  # fmt: skip
def test_the_number_is_theirs(there, here, number):
    found = np.asarray(eval(here, models()), float)
    expected = np.asarray(number, float)
    size = np.abs(expected).max()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=4e-4, atol=1e-6 * size, err_msg=there)


def test_effects_without_a_coefficient_of_their_name_are_columns_of_their_own():
    """coef(m)$Worker has 52.35556 and MachineA -5.59159 of worker 6; MachineB there, -8.61713, is a sum with fixef."""
    found = models()["by_machine"].coef_by("Worker").set_index("Worker").loc["6"]
    names = ["(Intercept)", "Machine[A]", "Machine[B]", "Machine[T.B]"]
    np.testing.assert_allclose(found[names], [52.35556, -5.59159, -8.61713 - 7.96667, 7.96667], rtol=1e-3)


def test_coefficients_by_level_make_the_fitted_values():
    """Whatever the order of columns, and with variances by group: X times a level's coefficients is its mean."""
    data = jaxlmm.datasets.load("orthodont")
    one = jaxlmm.lmm("distance ~ Sex:age + age + (age | Subject)", data)
    two = jaxlmm.lmm("distance ~ age * Sex + us(age | Subject, by=Sex)", data)
    for fit in (one, two):
        by = fit.coef_by("Subject").set_index("Subject").loc[data["Subject"].astype(str), list(fit.coef_names)]
        np.testing.assert_allclose(np.sum(fit.model.X * by.to_numpy(), 1), fit.fitted, rtol=1e-8)


def test_coefficients_by_what_is_not_a_grouping_factor():
    with pytest.raises(DataError, match="group: found 'Day', expected one of the grouping factors: Subject"):
        models()["fit"].coef_by("Day")
    with pytest.raises(DataError, match="grouping factors: none"):
        models()["arms"].coef_by("USUBJID")
    with pytest.raises(DataError, match="ddof: found 2, expected 0 or 1"):
        models()["fit"].r2(ddof=2)
