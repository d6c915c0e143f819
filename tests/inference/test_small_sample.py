"""Satterthwaite and Kenward-Roger against lmerTest, pbkrtest, mmrm, SAS, JMP, and tests that have exact answers."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxlmm
import linear
from cases import REFERENCES, case_names, load_case, load_data, some
from covariance.test_definitions import ALIKE, CASES, extended, fitted

SAS = REFERENCES / "sas"
REML = [name for name in case_names() if load_case(name)["method"] == "REML"]
PLAIN = [name for name in case_names(plain=True) if name in REML and load_case(name).get("kenward_roger")]
MARGINAL = [name for name in REML if load_case(name).get("kenward_roger_linear")]


DAILY = (  # a case of each structure
    "cake_reml", "dyestuff2_singular_reml", "fev_us_reml", "oats_splitplot_reml", "ovary_ar1_ml",
    "penicillin_crossed_reml", "sleepstudy_reml", "sleepstudy_weighted_reml",
)  # fmt: skip


@functools.cache
def recorded(name):
    """(recorded case, fit), fitted once a process."""
    if not name.startswith("ovary"):
        return linear.fitted(name)
    case = load_case(name)
    data = load_data(case)
    data["step"] = data.groupby("Mare", observed=True)["Time"].rank().astype(int)
    return case, jaxlmm.lmm(case["formula"], data, method=case["method"], residual="ar1(step | Mare)")


@functools.cache
def wald(name, *options, **more):
    return recorded(name)[1].wald(*options, **more)


def each(table, *keys):
    """Columns of a recorded table of coefficients."""
    return (np.array([row[key] for row in table.values()]) for key in keys)


def coefficients(by):
    return by.rows(np.eye(len(by.coef)))


# ---------------------------------------------------------------------------- recorded cases


@pytest.mark.parametrize("name", some(case_names(), *DAILY))
def test_satterthwaite_of_coefficients(name):
    case, _ = recorded(name)
    by = wald(name)
    rows = coefficients(by)
    se, df, t, p = each(case["satterthwaite"], "se", "df", "t", "p")
    np.testing.assert_allclose(rows.se, se, rtol=1e-5)
    np.testing.assert_allclose(rows.df, df, rtol=1e-4)
    np.testing.assert_allclose(rows.statistic, t, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(rows.p, p, rtol=2e-3, atol=1e-12)
    assert by.note == "" and by.label.startswith("Satterthwaite, observed information")


WITH_TERMS = [name for name in case_names() if load_case(name).get("anova")]


@pytest.mark.parametrize("name", some(WITH_TERMS, *(name for name in DAILY if name in WITH_TERMS)))
def test_satterthwaite_of_terms_with_the_recorded_basis(name):
    case, _ = recorded(name)
    tests = [test for test in case["anova"] if test["ddf"].startswith("Satterthwaite")]
    assert tests
    for test in tests:
        found = wald(name).joint(test["L"])
        assert found.num_df == test["numDF"]
        assert found.statistic == pytest.approx(test["F"], rel=1e-4, abs=1e-8), test["term"]
        assert found.den_df == pytest.approx(test["denDF"], rel=1e-4), test["term"]
        assert found.p == pytest.approx(test["p"], rel=1e-3, abs=1e-12)


def check_coefficients(by, table, vcov=None):
    rows = coefficients(by)
    se, df, t, p = each(table, "se_adj", "df", "t", "p")
    np.testing.assert_allclose(rows.se, se, rtol=1e-4)
    np.testing.assert_allclose(rows.df, df, rtol=1e-4)
    np.testing.assert_allclose(rows.statistic, t, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(rows.p, p, rtol=5e-3, atol=1e-12)
    if vcov is not None:
        np.testing.assert_allclose(by.vcov, vcov, rtol=1e-4, atol=1e-5 * np.abs(vcov).max())


def check_terms(by, case, ddf):
    """Kenward-Roger F tests, which no basis of a term changes, by the basis recorded with Satterthwaite."""
    basis = {test["term"]: test["L"] for test in case["anova"] if test["ddf"] == "Satterthwaite"}
    tests = [test for test in case["anova"] if test["ddf"] == ddf]
    assert tests or not basis
    for test in tests:
        found = by.joint(basis[test["term"]])
        assert found.num_df == test["numDF"]
        assert found.statistic == pytest.approx(test["F"], rel=1e-4, abs=1e-8), test["term"]
        assert found.den_df == pytest.approx(test["denDF"], rel=1e-4), test["term"]


@pytest.mark.parametrize("name", some(PLAIN, "sleepstudy_reml", "penicillin_crossed_reml", "dyestuff2_singular_reml"))
def test_kenward_roger_of_pbkrtest(name):
    case, _ = recorded(name)
    by = wald(name, "kenward-roger", "expected", "keep")
    check_coefficients(by, case["kenward_roger"], case["kenward_roger_vcov"])
    check_terms(by, case, "Kenward-Roger")


@pytest.mark.parametrize(
    "name",
    some([name for name in MARGINAL if load_case(name).get("kenward_roger_expected_info")], "orthodont_us_reml"),
)
def test_kenward_roger_with_expected_information_of_unstructured_covariances(name):
    case, _ = recorded(name)
    check_coefficients(wald(name, "kenward-roger", "expected"), case["kenward_roger_expected_info"]["coef"])


@pytest.mark.parametrize("name", some(MARGINAL, "fev_us_reml"))
def test_kenward_roger_of_mmrm_without_second_derivatives(name):
    case, _ = recorded(name)
    by = wald(name, "kenward-roger")
    assert by.label == "Kenward-Roger, observed information"
    check_coefficients(by, case["kenward_roger_linear"], case["kenward_roger_linear_vcov"])
    check_terms(by, case, "Kenward-Roger-Linear")


def test_kenward_roger_with_second_derivatives_is_not_that_of_mmrm():
    """Theirs are in the parameters of their optimiser: a Cholesky factor and logarithms; the df are the same."""
    case, _ = recorded("fev_us_reml")
    full, first = (
        coefficients(wald("fev_us_reml", "kenward-roger-full")),
        coefficients(wald("fev_us_reml", "kenward-roger")),
    )
    se, df = each(case["kenward_roger"], "se_adj", "df")
    np.testing.assert_allclose(full.se, first.se, rtol=1e-9)  # V is linear in variances and covariances
    np.testing.assert_allclose(full.df, df, rtol=1e-4)
    assert np.all(full.se > 1.003 * se)


def test_compound_symmetry_of_mmrm_is_the_random_intercept_of_pbkrtest():
    """Balanced, so that observed and expected information give one adjustment: 0.98131224 in both."""
    rows = coefficients(wald("orthodont_cs_reml", "kenward-roger", "expected"))
    assert rows.se[0] == pytest.approx(0.98131224, abs=1e-8)


@pytest.mark.parametrize(
    ("df", "expected"),
    [("kenward-roger", 5.0), ("kenward-roger-full", 5.0), ("satterthwaite", 29.0)],
)
def test_a_variance_of_zero(df, expected):
    """dyestuff2: pbkrtest keeps it as a parameter (6 batches), lmerTest does not (30 rows)."""
    by = wald("dyestuff2_singular_reml", df)
    rows = coefficients(by)
    assert rows.df[0] == pytest.approx(expected, rel=1e-6)
    assert rows.se[0] == pytest.approx(0.678388031232524, rel=1e-6)
    kept = df != "satterthwaite"
    assert f"singular fit: variances of zero {'kept' if kept else 'dropped'}" in by.label
    assert f"{'expected' if kept else 'observed'} information" in by.label
    assert by.note == ""


def test_the_other_rule_for_a_variance_of_zero():
    other = {"satterthwaite": "keep", "kenward-roger": "drop"}
    found = {df: coefficients(wald("dyestuff2_singular_reml", df, boundary_df=rule)) for df, rule in other.items()}
    assert found["satterthwaite"].df[0] == pytest.approx(5.0, rel=1e-6)
    assert found["kenward-roger"].df[0] == pytest.approx(29.0, rel=1e-6)


def test_an_ml_fit_with_a_variance_of_zero():
    case, _ = recorded("dyestuff2_singular_ml")
    rows = coefficients(wald("dyestuff2_singular_ml"))
    (df,) = each(case["satterthwaite"], "df")
    np.testing.assert_allclose(rows.df, df, rtol=1e-4)


# ---------------------------------------------------------------------------- SAS: repeated measures

STRUCTURES = {
    "us": "us(AVISIT | USUBJID)",
    "ar1": "ar1(AVISIT | USUBJID)",
    "arh1": "ar1h(AVISIT | USUBJID)",
    "cs": "cs(AVISIT | USUBJID)",
    "csh": "csh(AVISIT | USUBJID)",
    "adh": "adh(AVISIT | USUBJID)",
    "toep": "toep(AVISIT | USUBJID)",
    "toeph": "toeph(AVISIT | USUBJID)",
    "spexp": "sp_exp(VISITN + VISITN2 | USUBJID)",
}


@functools.cache
def trial(structure):
    """FEV1 ~ ARMCD of the files in sas/mmrm."""
    data = pd.read_csv(REFERENCES / "data" / "fev_data.csv").dropna(subset=["FEV1"])
    return jaxlmm.lmm("FEV1 ~ ARMCD", data, residual=STRUCTURES[structure])


FIRST, FULL = "kenward-roger", "kenward-roger-full"


@pytest.mark.parametrize(
    ("structure", "df"),
    some(
        [(s, df) for df in (FIRST, FULL) for s in STRUCTURES],
        ("ar1", FIRST),
        ("ar1", FULL),
    ),
)
def test_kenward_roger_of_sas(structure, df):
    full = (df == "kenward-roger-full") != (structure == "spexp")  # the two files of spexp are swapped
    sas = pd.read_csv(SAS / "mmrm" / f"{'kr' if full else 'kr1'}_{structure}.csv").iloc[0]
    rows = trial(structure).wald(df).rows([[0.0, 1.0]])
    assert rows.estimate[0] == pytest.approx(sas["Estimate"], rel=2e-4)
    assert rows.se[0] == pytest.approx(sas["StdErr"], rel=2e-4)
    assert rows.df[0] == pytest.approx(sas["DF"], rel=4e-4)


def test_published_numbers_of_an_autoregressive_trial():
    full, first = (trial("ar1").wald(df).rows([[0.0, 1.0]]) for df in ("kenward-roger-full", "kenward-roger"))
    assert full.se[0] == pytest.approx(0.958654, abs=6e-7)
    assert first.se[0] == pytest.approx(0.960581, abs=6e-7)
    assert first.df[0] == pytest.approx(188.4695, abs=1e-4)


# ---------------------------------------------------------------------------- SAS, JMP and R: designed experiments


def sleep():
    return load_data("sleepstudy_reml").assign(Days2=lambda d: d["Days"] ** 2)


def pastry():
    d = pd.read_csv(SAS / "smallsample/data/Data_Pastry_Dough_Experiment_Chapter_7.csv")
    d.columns = ["Day", "FR", "MC", "SS", "LEI", "CEI"]
    for name in ("FR", "MC", "SS"):
        low, high = d[name].min(), d[name].max()
        d[name] = (2 * d[name] - low - high) / (high - low)
    return d.assign(FR2=d["FR"] ** 2, MC2=d["MC"] ** 2, SS2=d["SS"] ** 2)


def tunnel():
    d = pd.read_csv(SAS / "smallsample/data/Data_wind_tunnel_Chapter_10.csv").rename(columns={"Whole Plots": "WP"})
    return d.assign(**{f"{name}2": d[name] ** 2 for name in ("FRH", "RRH", "YA", "GC")})


def battery():
    d = pd.read_csv(SAS / "smallsample/data/Data_battery_cell_Chapter_11.csv")
    return d.rename(columns={"Whole Plots": "WP", "Subplots": "SP"})


def drugs():
    d = pd.read_csv(SAS / "smallsample/data/Data_bioequivalence.csv")
    orders = {"formulation": ["T", "R"], "sequence": ["BABA", "ABAB"], "period": [4, 1, 2, 3]}
    for name, order in orders.items():
        d[name] = pd.Categorical(d[name], categories=order)
    return d


def pairs(names):
    return [f"{a}:{b}" for i, a in enumerate(names) for b in names[i + 1 :]]


def squares(names):
    return [*names, *pairs(names), *(f"{a}2" for a in names)]


def slow(*values):
    return some(values)


DOUGH, TUNNEL, CELL = ["FR", "MC", "SS"], ["FRH", "RRH", "YA", "GC"], [f"X{i}" for i in range(1, 7)]
FORMULATION = "log_data ~ formulation + sequence + period"

# File: data, formula. Covariance parameters in the order of SAS.
EXPERIMENTS = {
    "sleep_study": (sleep, "Reaction ~ Days + (Days || Subject)"),
    "sleep_study_corr": (sleep, "Reaction ~ Days + (Days | Subject)"),
    "sleep_study_quadratic": (sleep, "Reaction ~ Days + Days2 + (Days + Days2 || Subject)"),
    "sleep_study_corr_quadratic": (sleep, "Reaction ~ Days + Days2 + (Days + Days2 | Subject)"),
    "sleep_study_some_corr_quadratic": (
        sleep, "Reaction ~ Days + Days2 + (1 | Subject) + (0 + Days + Days2 | Subject)"),
    "pastry_dough": (pastry, f"LEI ~ {' + '.join(squares(DOUGH))} + (1 | Day)"),
    "wind_tunnel": (tunnel, f"EFFICIENCY ~ {' + '.join(squares(TUNNEL))} + (1 | WP)"),
    "battery_cell": (battery, f"Y ~ {' + '.join(CELL + pairs(CELL))} + (1 | WP) + (1 | SP)"),
    "bioequivalence_homogeneous": (drugs, f"{FORMULATION} + (1 | subject)"),
    "bioequivalence_intermediate": (drugs, f"{FORMULATION} + (0 + formulation | subject)"),
}  # fmt: skip
INTERIOR = some(
    [name for name in EXPERIMENTS if name != "bioequivalence_intermediate"],
    "sleep_study_corr", "pastry_dough", "bioequivalence_homogeneous",
)  # fmt: skip
INDUSTRIAL = some(["sleep_study", "pastry_dough", "wind_tunnel", "battery_cell"], "pastry_dough")


@functools.cache
def experiment(name, method="REML"):
    load, formula = EXPERIMENTS[name]
    return jaxlmm.lmm(formula, load(), method=method)


def sas(name, kind):
    return pd.read_csv(SAS / "smallsample/results" / f"Results_{name}_sas_{kind}.csv")


def coefficient(row):
    """The name that a row of a SAS, JMP or R table has in a fit."""
    effect = str(row.iloc[0])
    if effect in ("period", "formulation", "sequence"):
        return f"{effect}[T.{str(row[effect]).strip()}]"
    names = {"days": "Days", "days*days": "Days2", "Intercept": "(Intercept)"}
    if effect in names:
        return names[effect]
    parts = effect.removeprefix("I(").removesuffix("^2)").replace("*", ":").split(":")
    if effect.endswith("^2)"):
        parts *= 2
    return f"{parts[0]}2" if len(parts) == 2 and parts[0] == parts[1] else ":".join(parts)


def table(fit, frame, se, df):
    """SE and df of a table in the order of the fit's coefficients, the levels left out by SAS dropped."""
    frame = frame.dropna(subset=[se])
    place = {coefficient(row): i for i, (_, row) in enumerate(frame.iterrows())}
    assert set(place) == set(fit.coef_names), set(place) ^ set(fit.coef_names)
    order = [place[name] for name in fit.coef_names]
    return frame[se].to_numpy()[order], frame[df].to_numpy()[order]


# Where SAS stopped early, JMP is at our optimum
LOOSE = ("battery_cell", "sleep_study_quadratic", "sleep_study_some_corr_quadratic")


@pytest.mark.slow
@pytest.mark.parametrize("df", ["kenward-roger", "kenward-roger-full", "satterthwaite"])
@pytest.mark.parametrize("name", INTERIOR)
def test_sas_on_designed_experiments(name, df):
    """V is linear in its parameters, in which full and first-order Kenward-Roger agree."""
    fit = experiment(name)
    se, expected = table(fit, sas(name, "sw" if df == "satterthwaite" else "kr"), "StdErr", "DF")
    rows = coefficients(fit.wald(df))
    np.testing.assert_allclose(rows.se, se, rtol=5e-5 if name in LOOSE else 1e-6)
    np.testing.assert_allclose(rows.df, expected, rtol=4e-4 if name in LOOSE else 1e-5)


@pytest.mark.parametrize("name", INDUSTRIAL)
def test_jmp_on_designed_experiments(name):
    """Kenward-Roger with observed information; its files name interactions of centred factors."""
    fit = experiment(name)
    file = pd.read_csv(SAS / "smallsample/results" / f"Results_{name}_jmp.csv")
    rows = coefficients(fit.wald("kenward-roger"))
    for column, found, rtol in (("Std Error", rows.se, 1e-6), ("DFDen", rows.df, 1e-5)):
        np.testing.assert_allclose(np.sort(file[column]), np.sort(found), rtol=rtol)


LISTED = {"sleep_study_corr_quadratic": [0, 1, 3, 2, 4, 5, 6]}  # by rows of the triangle, ours by columns


@pytest.mark.parametrize("name", INTERIOR)
def test_covariance_of_covariance_parameters_of_sas(name):
    """The inverse of the observed information of variances and covariances."""
    fit = experiment(name)
    file = sas(name, "asycov")
    expected = file[[c for c in file if c.startswith("CovP") and c != "CovParm"]].to_numpy()
    order = LISTED.get(name, range(len(expected)))
    found = fit.vcov_parameters()[np.ix_(order, order)]
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    tolerance = 4e-4 if name in LOOSE else 1e-5
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance)
    se = np.asarray(fit.parameters()["std_error"])[list(order)]
    np.testing.assert_allclose(se, np.sqrt(np.diag(expected)), rtol=tolerance)


def test_an_ml_fit_of_sas():
    fit = experiment("bioequivalence_homogeneous", "ML")
    se, df = table(fit, sas("bioequivalence_homogeneous", "sw_ml"), "StdErr", "DF")
    rows = coefficients(fit.wald())
    np.testing.assert_allclose(rows.se, se, rtol=2e-5)
    np.testing.assert_allclose(rows.df, df, rtol=5e-5)
    asycov = sas("bioequivalence_homogeneous", "asycov_ml")[["CovP1", "CovP2"]].to_numpy()
    np.testing.assert_allclose(fit.vcov_parameters(), asycov, rtol=5e-4)
    with pytest.raises(jaxlmm.DataError, match="REML"):
        fit.wald("kenward-roger")


@pytest.mark.parametrize(
    ("kind", "method", "df"),
    [("kr", "REML", "kenward-roger"), ("sw", "REML", "satterthwaite"), ("sw_ml", "ML", "satterthwaite")],
)
def test_terms_of_sas(kind, method, df):
    """F tests of formulation, sequence and the three differences between periods; JMP has the same."""
    fit = experiment("bioequivalence_homogeneous", method)
    by, names = fit.wald(df), np.array([name.split("[")[0] for name in fit.coef_names])
    for row in sas("bioequivalence_homogeneous", f"tests3_{kind}").itertuples():
        found = by.joint(np.eye(len(names))[names == row.Effect])
        assert found.num_df == row.NumDF
        assert found.statistic == pytest.approx(row.FValue, rel=5e-5)
        assert found.den_df == pytest.approx(row.DenDF, rel=5e-5 if row.NumDF == 1 or kind == "kr" else 1e-3)


@pytest.mark.parametrize("name", INDUSTRIAL)
def test_expected_information_of_r(name):
    """The files of lmerTest: Kenward-Roger of pbkrtest, with expected information."""
    fit = experiment(name)
    file = pd.read_csv(SAS / "smallsample/results" / f"Results_{name}_lmertest.csv")
    se, df = table(fit, file, "coefficients.Std..Error", "coefficients.df")
    rows = coefficients(fit.wald("kenward-roger", "expected"))
    np.testing.assert_allclose(rows.se, se, rtol=2e-5)
    np.testing.assert_allclose(rows.df, df, rtol=1e-4)


def test_kenward_roger_of_a_published_example():
    """sleepstudy in SAS, TYPE=UN and TYPE=FA0(2): standard errors of the first order, and df in all forms."""
    fit = experiment("sleep_study_corr")
    for df in ("kenward-roger", "kenward-roger-full"):
        np.testing.assert_allclose(coefficients(fit.wald(df)).se, [6.82455653, 1.54578890], rtol=1e-7)
    for kind in ("sw", "kr"):
        np.testing.assert_allclose(
            coefficients(fit.wald("kenward-roger")).df, sas("sleep_study_fa0", kind)["DF"], rtol=1e-6
        )


def factor(p, reverse=False):
    """Cholesky factor by rows, and the residual variance: parameters of TYPE=FA0(2)."""
    G = p.varcorr[0][::-1, ::-1] if reverse else p.varcorr[0]
    a = jnp.sqrt(G[0, 0])
    return a, G[1, 0] / a, jnp.sqrt(G[1, 1] - G[1, 0] ** 2 / G[0, 0]), p.sigma**2


def test_covariance_of_a_cholesky_factor_of_sas():
    found = experiment("sleep_study_corr").delta(factor)
    expected = sas("sleep_study_fa0", "asycov")[["CovP1", "CovP2", "CovP3", "CovP4"]].to_numpy()
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(found.vcov / scale, expected / scale, rtol=0, atol=5e-5)


@pytest.mark.slow
def test_an_optimum_on_the_boundary_in_sas():
    """A correlation of one: SAS, in a Cholesky factor whose last entry is zero, leaves that out."""
    fit = experiment("bioequivalence_intermediate")
    assert fit.singular
    se, df = table(fit, sas("bioequivalence_intermediate", "sw"), "StdErr", "DF")
    for method in ("satterthwaite", "kenward-roger"):
        rows = coefficients(fit.wald(method, boundary_df="drop"))
        np.testing.assert_allclose(rows.df, df, rtol=4e-4)
    np.testing.assert_allclose(fit.se, se, rtol=2e-4)
    expected = sas("bioequivalence_intermediate", "asycov")[["CovP1", "CovP2", "CovP4"]].to_numpy()[[0, 1, 3]]
    found = fit.delta(lambda p: tuple(v for i, v in enumerate(factor(p, True)) if i != 2))
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(found.vcov / scale, expected / scale, rtol=0, atol=2e-4)


@functools.cache
def heterogeneous():
    return jaxlmm.lmm(f"{FORMULATION} + (0 + formulation | subject)", drugs(), variance="ident(formulation)")


@pytest.mark.slow
def test_residual_variances_by_formulation_in_sas():
    """On the boundary too; MIXED and GLIMMIX differ by 1e-4 in the df."""
    fit = heterogeneous()
    assert fit.singular
    file = pd.read_csv(SAS / "smallsample/results/Results_bioequivalence_heterogeneous_glimmix_pe.csv")
    _, df = table(fit, file, "StdErr", "DF")
    rows = coefficients(fit.wald("kenward-roger", boundary_df="drop"))
    np.testing.assert_allclose(rows.df, df, rtol=4e-4)


# ---------------------------------------------------------------------------- tests with exact answers

EXTRA = np.array([[0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
                  [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]])  # fmt: skip


@functools.cache
def soporifics():
    """R's `sleep` (Student 1908)."""
    d = {"extra": EXTRA.ravel(), "drug": np.repeat(["a", "b"], 10), "ID": np.tile(np.arange(10), 2)}
    return jaxlmm.lmm("extra ~ drug", d, residual="us(drug | ID)")


INFORMATION = ("observed", "expected", "average")


@pytest.mark.parametrize(
    ("df", "information"),
    some(
        [(df, information) for information in INFORMATION for df in (FIRST, FULL, "satterthwaite")],
        (FULL, "observed"), (FIRST, "expected"), ("satterthwaite", "average"),
    ),
)  # fmt: skip
def test_a_paired_t_test(df, information):
    """Unstructured covariance of a pair: the exact test, with a standard error of 0.3890 and 9 df."""
    gap = EXTRA[1] - EXTRA[0]
    se = gap.std(ddof=1) / np.sqrt(10)
    assert se == pytest.approx(0.3890, abs=5e-5)
    found = soporifics().test("drug[T.b]", df=df, information=information)
    assert found.rows.se[0] == pytest.approx(se, rel=1e-7)
    assert found.rows.df[0] == pytest.approx(9.0, rel=1e-6)
    assert found.rows.statistic[0] == pytest.approx(gap.mean() / se, rel=1e-6)
    assert found.joint.statistic == pytest.approx((gap.mean() / se) ** 2, rel=1e-6)
    assert found.joint.den_df == pytest.approx(9.0, rel=1e-6)


@pytest.mark.parametrize("df", ["kenward-roger", *slow("kenward-roger-full"), "satterthwaite"])
def test_a_balanced_split_plot_is_its_anova(df):
    """Varieties against their plots in blocks (10 df), nitrogen and interaction against subplots (45 df)."""
    case, fit = recorded("oats_splitplot_reml")
    d = load_data(case)
    y = d.pivot_table("yield", "Block", ["Variety", "Nitrogen"], observed=True).to_numpy().reshape(6, 3, 4)
    m = y.mean()
    B, V, N = (y.mean(axis=axes, keepdims=True) - m for axes in ((1, 2), (0, 2), (0, 1)))
    BV, VN = (y.mean(axis=a, keepdims=True) - m - left - right for a, left, right in ((2, B, V), (0, V, N)))
    plots = 4 * np.sum(BV**2) / 10
    rest = np.sum((y - m - B - V - BV - N - VN) ** 2) / 45
    expected = [
        (24 * np.sum(V**2) / 2 / plots, 10),
        (18 * np.sum(N**2) / 3 / rest, 45),
        (6 * np.sum(VN**2) / 6 / rest, 45),
    ]
    tests = [test for test in case["anova"] if test["ddf"] == "Satterthwaite"]
    for test, (F, den) in zip(tests, expected, strict=True):
        found = fit.wald(df).joint(test["L"])
        assert found.statistic == pytest.approx(F, rel=1e-6), test["term"]
        assert found.den_df == pytest.approx(den, rel=1e-5), test["term"]


@pytest.mark.parametrize("df", ["kenward-roger", *slow("kenward-roger-full"), "satterthwaite"])
def test_welch_is_an_approximation_by_satterthwaite(df):
    """Two groups with variances of their own: Welch's (1947) test, for which Satterthwaite (1946) has the df."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=7), 1 + 3 * rng.normal(size=12)
    d = {"y": np.r_[a, b], "g": np.repeat(["a", "b"], [7, 12])}
    parts = np.array([a.var(ddof=1) / 7, b.var(ddof=1) / 12])
    welch = parts.sum() ** 2 / (parts**2 / [6, 11]).sum()
    rows = jaxlmm.lmm("y ~ g", d, variance="ident(g)").test("g[T.b]", df=df).rows
    assert rows.df[0] == pytest.approx(welch, rel=1e-6)
    if df == "satterthwaite":
        assert rows.se[0] == pytest.approx(np.sqrt(parts.sum()), rel=1e-7)


# ---------------------------------------------------------------------------- identities


@pytest.mark.parametrize("information", ["observed", *slow("expected", "average")])
@pytest.mark.parametrize(
    "name",
    some(["sleepstudy_reml", "penicillin_crossed_reml", "fev_toeph_reml", "orthodont_us_reml"], "sleepstudy_reml"),
)
def test_kenward_roger_and_satterthwaite_have_one_df_of_one_contrast(name, information):
    _, fit = recorded(name)
    L = np.vstack([np.eye(len(fit.coef)), np.random.default_rng(0).normal(size=(3, len(fit.coef)))])
    found = [fit.wald(df, information) for df in ("satterthwaite", "kenward-roger", "kenward-roger-full")]
    dfs = [by.rows(L).df for by in found]
    np.testing.assert_allclose(dfs[1], dfs[0], rtol=1e-6)
    np.testing.assert_allclose(dfs[2], dfs[0], rtol=1e-6)
    for by in found:  # a joint test of a single row is its t test
        joint, rows = by.joint(L[-1:]), by.rows(L[-1:])
        assert joint.den_df == pytest.approx(rows.df[0], rel=1e-6)
        assert joint.statistic == pytest.approx(rows.statistic[0] ** 2, rel=1e-6)


@functools.cache
def alike(name):
    case, *models, _ = ALIKE[name]
    d = extended(CASES[case].data(0))
    return [fitted(formula, d, **options) for formula, options in models]


SAME = [
    "cs is a random intercept", "ar1 is ou at equal steps", "rr(full) is us between levels", "ident is diag",
    "products commute",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("information", ["observed", *slow("expected", "average")])
@pytest.mark.parametrize("name", some(SAME, "ar1 is ou at equal steps"))
def test_no_parametrisation_changes_first_order_tests(name, information):
    one, two = alike(name)
    L = np.vstack([np.eye(len(one.coef)), np.ones(len(one.coef))])
    for df in ("satterthwaite", "kenward-roger"):
        rows = [fit.wald(df, information).rows(L) for fit in (one, two)]
        np.testing.assert_allclose(rows[0].se, rows[1].se, rtol=2e-6)
        np.testing.assert_allclose(rows[0].df, rows[1].df, rtol=2e-5)
        joint = [fit.wald(df, information).joint(np.eye(len(one.coef))) for fit in (one, two)]
        np.testing.assert_allclose(*joint, rtol=3e-5)


@pytest.mark.slow
def test_full_kenward_roger_depends_on_the_parameters():
    """In those of SAS a random intercept and compound symmetry are linear alike; ar1's and ou's are not."""
    same, other = alike("cs is a random intercept"), alike("ar1 is ou at equal steps")
    full = [coefficients(fit.wald("kenward-roger-full")).se for fit in (*same, *other)]
    first = [coefficients(fit.wald("kenward-roger")).se for fit in (*same, *other)]
    np.testing.assert_allclose(full[0], first[0], rtol=1e-7)
    np.testing.assert_allclose(full[1], first[1], rtol=1e-7)
    assert np.abs(full[2] / first[2] - 1).max() > 1e-4 and np.abs(full[2] / full[3] - 1).max() > 1e-5


@pytest.mark.slow
def test_full_kenward_roger_of_variances_by_arm():
    """V is linear in SAS's variances by GROUP=: two samples are Welch's t test, whichever way it is written."""
    r = np.random.default_rng(0)
    a, b = r.normal(0, 1, 9), r.normal(0.5, 4, 14)
    d = {"y": np.r_[a, b], "arm": ["A.1"] * 9 + ["B.1"] * 14, "id": [f"s{i}" for i in range(23)], "v": ["v1"] * 23}
    se = np.sqrt(a.var(ddof=1) / 9 + b.var(ddof=1) / 14)
    assert (b.mean() - a.mean()) / se == pytest.approx(-1.182818, abs=1e-6)  # scipy's ttest_ind, equal_var=False
    for options in ({"variance": "ident(arm)"}, {"residual": "iid(v | arm / id)"}):
        fit = jaxlmm.lmm("y ~ arm", d, **options)
        assert fit.test("arm[T.B.1]", df="kenward-roger-full").rows.se[0] == pytest.approx(se, rel=1e-6)
    fit = jaxlmm.lmm("y ~ arm", d, variance="ident(arm)")
    by_level = fit.parameters()
    assert list(by_level["name"]) == ["variances[A.1]", "variances[B.1]"]
    np.testing.assert_allclose(by_level["estimate"], [a.var(ddof=1), b.var(ddof=1)], rtol=1e-5)
    # the information of a variance is (n - 1) / (2 variance^2)
    expected = by_level["estimate"] * np.sqrt(2 / np.array([8, 13]))
    np.testing.assert_allclose(by_level["std_error"], expected, rtol=1e-5)
    table, limits = fit.varcorr().frame(), fit.confint(which="covariance")
    np.testing.assert_allclose(table["sd_or_corr"], [a.std(ddof=1), b.std(ddof=1)], rtol=1e-5)
    for end in ("lower", "upper"):  # all on the scale of logarithms
        np.testing.assert_allclose(limits[end], table[end] ** 2, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cs", "toep"])
def test_variances_by_level_are_the_heterogeneous_structure(name):
    """``csh`` and ``cs`` with ``ident`` are one model, with the same parameters, in those of SAS too."""
    data = jaxlmm.datasets.load("fev_data")
    one = jaxlmm.lmm("FEV1 ~ ARMCD", data, residual=f"{name}(AVISIT | USUBJID)", variance="ident(AVISIT)")
    two = jaxlmm.lmm("FEV1 ~ ARMCD", data, residual=f"{name}h(AVISIT | USUBJID)")
    for column in ("estimate", "std_error"):
        np.testing.assert_allclose(one.parameters()[column], two.parameters()[column], rtol=1e-4)
    first, second = (coefficients(fit.wald("kenward-roger-full")) for fit in (one, two))
    np.testing.assert_allclose(first.se, second.se, rtol=1e-6)
    np.testing.assert_allclose(first.df, second.df, rtol=1e-5)


@functools.cache
def without_items():
    """Compound symmetry and a random intercept, both beside items whose variance is zero."""
    d = dict(CASES["weights and cs"].data(0))
    means = np.array([np.mean(d["y"][d["item"] == i]) for i in range(8)])
    d["y"] = d["y"] - 1.2 * (means - means.mean())[d["item"]]
    one = fitted("y ~ x + (1 | item)", d, residual="cs(visit | id)")
    return one, fitted("y ~ x + (1 | item) + (1 | id)", d)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["keep", *slow("drop")])
@pytest.mark.parametrize("df", ["kenward-roger", *slow("satterthwaite", "kenward-roger-full")])
def test_a_singular_fit_by_two_texts(df, rule):
    """One model, linear in the parameters of SAS: every form agrees, and the full one with the first-order one."""
    one, two = without_items()
    assert one.singular and two.singular and one.loglik == pytest.approx(two.loglik, abs=1e-7)
    rows = [coefficients(fit.wald(df, boundary_df=rule)) for fit in (one, two)]
    np.testing.assert_allclose(rows[0].se, rows[1].se, rtol=1e-6)
    np.testing.assert_allclose(rows[0].df, rows[1].df, rtol=1e-5)
    if df.endswith("full"):
        first = coefficients(two.wald("kenward-roger", boundary_df=rule))
        np.testing.assert_allclose(rows[1].se, first.se, rtol=1e-6)


def test_units_and_bases_of_the_coefficients_do_not_matter():
    """Days in weeks from day 4, and the response times 1000: the same tests."""
    data = sleep().assign(Weeks=lambda d: (d["Days"] - 4) / 7, Micro=lambda d: 1000 * d["Reaction"])
    first = recorded("sleepstudy_reml")[1]
    other = jaxlmm.lmm("Micro ~ Weeks + (Weeks | Subject)", data)
    for df in ("satterthwaite", "kenward-roger", "kenward-roger-full"):
        a, b = first.wald(df), other.wald(df)
        L = np.array([[1.0, 4.0], [0.0, 7.0], [1.0, 11.0]])
        one, two = a.rows(L), b.rows([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        np.testing.assert_allclose(1000 * one.se, two.se, rtol=1e-7)
        np.testing.assert_allclose(one.df, two.df, rtol=1e-6)
        np.testing.assert_allclose(a.joint(np.eye(2)), b.joint(np.eye(2)), rtol=1e-6)


def test_rows_that_repeat_others_do_not_count():
    case, fit = recorded("cake_reml")
    L = np.array([test["L"] for test in case["anova"] if test["term"] == "temperature"][0])
    more = np.vstack([L, L[0] - 2 * L[1], np.zeros_like(L[0])])
    for df in ("satterthwaite", "kenward-roger"):
        np.testing.assert_allclose(fit.wald(df).joint(more)[:3], fit.wald(df).joint(L)[:3], rtol=1e-6)
    with pytest.raises(jaxlmm.DataError, match="rhs"):
        fit.wald().joint(np.vstack([L[0], L[0]]), np.array([0.0, 1.0]))


# ---------------------------------------------------------------------------- how users ask


def test_hypotheses_by_name_and_by_weight():
    _, fit = recorded("cake_reml")
    names = fit.coef_names
    matrix = np.zeros((2, len(names)))
    matrix[0, 1], matrix[1, [1, 2]] = 1.0, [1.0, -1.0]
    by_name = fit.test(names[1])
    np.testing.assert_array_equal(by_name.L, matrix[:1])
    by_weight = fit.test({"first": {names[1]: 1}, "gap": {names[1]: 1, names[2]: -1}}, rhs=[0.0, 2.0])
    plain = fit.test(matrix, rhs=[0.0, 2.0])
    np.testing.assert_array_equal(by_weight.L, matrix)
    np.testing.assert_array_equal(by_weight.rows.statistic, plain.rows.statistic)
    assert by_weight.names[0] == "first" and by_weight.names[1].startswith("gap")
    assert plain.rows.statistic[1] == pytest.approx((plain.rows.estimate[1] - 2) / plain.rows.se[1])
    frame = by_weight.frame()
    half = np.diff(by_weight.limits, axis=1)[:, 0] / 2
    np.testing.assert_allclose(frame["upper"] - frame["estimate"], half, rtol=1e-12)
    assert "Satterthwaite" in repr(by_weight) and "gap" in repr(by_weight)
    for bad in ("nothing", np.ones((1, 3)), {"nothing": 1.0}):
        with pytest.raises(jaxlmm.DataError):
            fit.test(bad)


def test_tables_name_the_method():
    _, fit = recorded("sleepstudy_reml")
    text = str(fit.summary(df="kenward-roger", information="expected"))
    assert "Kenward-Roger, expected information" in text and "17.0" in text
    tidy = fit.tidy(df="kenward-roger")
    np.testing.assert_allclose(tidy["std_error"], [6.82455653, 1.54578890], rtol=1e-6)
    np.testing.assert_allclose(tidy["df"], 17.0, rtol=1e-6)
    assert np.all(np.isinf(fit.tidy(df="asymptotic")["df"]))
    limits = fit.test("Days", df="kenward-roger", level=0.9).limits[0]
    np.testing.assert_allclose(limits, 10.4672859595959 + 1.54578889 * 1.739606726 * np.array([-1, 1]), rtol=1e-7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"df": "kr"}, "df: found 'kr'"),
        ({"information": "fisher"}, "information: found 'fisher'"),
        ({"boundary_df": "yes"}, "boundary_df: found 'yes'"),
        ({"cluster": "Subject"}, "robust="),
        ({"df": "kenward-roger", "robust": "CR2"}, "robust="),
    ],
)
def test_bad_options_get_one_sentence(options, words):
    with pytest.raises(jaxlmm.DataError, match=words):
        recorded("sleepstudy_reml")[1].wald(**options)
