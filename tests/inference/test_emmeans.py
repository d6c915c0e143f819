"""Marginal means, slopes and contrasts against recorded fits, R's emmeans 1.8.4 and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

import jaxlmm
from cases import some
from jaxlmm.errors import DataError
from jaxlmm.inference.means.contrasts import coefficients
from linear import fev, fev_data, fitted

RTOL = 2e-6  # lme4 stops about there


def check(found, **columns):
    frame = found.frame()
    for name, expected in columns.items():
        np.testing.assert_allclose(frame[name], expected, rtol=RTOL if name != "p_value" else 1e-4, err_msg=name)


WAYS = {
    "satterthwaite": {"df": "satterthwaite"},
    "kenward-roger": {"df": "kenward-roger", "information": "expected"},
    "kenward-roger-linear": {"df": "kenward-roger"},
}


@pytest.mark.parametrize(
    "name",
    some(["cake_reml", "fev_us_reml", "oats_splitplot_reml", "machines_full_reml"], "cake_reml", "fev_us_reml"),
)
def test_recorded_means(name):
    case, fit = fitted(name)
    for entry in case["emmeans"]:
        way = entry["ddf"].lower()
        if case["structure"] and way == "kenward-roger":
            continue  # mmrm's default, second order in its own parameters
        frame = fit.emmeans(entry["specs"], **WAYS[way]).frame()
        rows = entry["rows"]
        for label in frame.columns[:-7]:
            assert list(frame[label]) == [row[label] for row in rows]
        names = {"estimate": "emmean", "std_error": "SE", "df": "df", "lower": "lower.CL", "upper": "upper.CL"}
        for mine, theirs in names.items():
            np.testing.assert_allclose(frame[mine], [row[theirs] for row in rows], rtol=1e-4)
        np.testing.assert_allclose(frame["statistic"], [row["t.ratio"] for row in rows], rtol=1e-4)


# m <- lmer(FEV1 ~ RACE + SEX + ARMCD * AVISIT + FEV1_BL + (1 | USUBJID), fev_data); emmeans(m, ~ RACE, weights = ...)
@pytest.mark.parametrize(
    ("weights", "estimate", "std_error", "df"),
    [
        ("equal", [40.7238450524, 41.2890733419, 46.1258625271], [0.521216272535, 0.5230397232, 0.61259908173],
         [176.295234806, 192.583271777, 196.904309604]),
        ("proportional", [40.6570739141, 41.2223022036, 46.0590913888],
         [0.518565576546, 0.522392396898, 0.613766463029], [176.439895918, 192.057644109, 196.873802557]),
        ("cells", [40.4436873382, 40.8781545299, 46.8401570571], [0.516367090112, 0.516855687121, 0.608118349195],
         [175.895410617, 191.663497294, 195.470882827]),
    ],
)  # fmt: skip
def test_weights(weights, estimate, std_error, df):
    check(fev().emmeans("RACE", weights=weights), estimate=estimate, std_error=std_error, df=df)


def averaged(fit, specs, others, share):
    """Means of `specs` from those of all cells, of which each combination of the others has a share."""
    cells = fit.emmeans([specs, *others]).frame().merge(share.rename("share").reset_index())
    return (cells["estimate"] * cells["share"]).groupby(cells[specs], observed=True).sum() / share.sum()


def test_observed_margins():
    """SAS's OM: all rows with predictors, also those without a response; RACE + ARMCD * AVISIT, 800 rows for 537."""
    whole, others = jaxlmm.datasets.load("fev_data"), ["RACE", "AVISIT"]
    found = jaxlmm.lmm("FEV1 ~ RACE + ARMCD * AVISIT", whole, residual="us(AVISIT | USUBJID)")
    for weights, rows in (("om", whole), ("proportional", whole[whole["FEV1"].notna()])):
        expected = averaged(found, "ARMCD", others, rows.groupby(others, observed=True).size())
        np.testing.assert_allclose(found.emmeans("ARMCD", weights=weights).frame()["estimate"], expected, rtol=1e-10)


@pytest.mark.parametrize("margin", [{"Asian": 3, "White": 1, "Black or African American": 1}])
def test_given_weights(margin):
    _, fit = fitted("fev_us_reml")
    means = fit.emmeans("ARMCD RACE".split()).frame()
    w = means["RACE"].map(lambda level: margin[level]).to_numpy(float) / 5
    expected = (means["estimate"] * w).groupby(means["ARMCD"], observed=True).sum()
    found = fit.emmeans("ARMCD", weights={"RACE": margin})
    np.testing.assert_allclose(found.frame()["estimate"], expected, rtol=1e-10)
    assert "given weights" in str(found)


def test_values_of_predictors():
    """emmeans(m, ~ ARMCD, at = list(FEV1_BL = c(30, 50), AVISIT = c("VIS1", "VIS4")), weights = "proportional")."""
    at = {"FEV1_BL": [30, 50], "AVISIT": ["VIS1", "VIS4"]}
    found = fev().emmeans("ARMCD", at=at, weights="proportional")
    check(found, estimate=[40.5116959731, 44.4964605945], df=[411.321345517, 380.674612046])
    assert found.frame()["std_error"][0] == pytest.approx(0.579433646658, rel=RTOL)


# pairs(emmeans(m, ~ RACE)), contrast(., "pairwise", adjust = ...)
LIMITS = {
    "tukey": ([-2.30993791974, -7.3030063166, -6.75414611096], [0.724660642, 6.628e-10, 3.50861865e-08]),
    "bonferroni": ([-2.349226266, -7.34580075131, -6.79721701901], [1.0, 6.63167925e-10, 3.51343003e-08]),
    "holm": ([-2.349226266, -7.34580075131, -6.79721701901], [0.44498992, 6.63167925e-10, 2.34228668e-08]),
    "sidak": ([-2.34450272732, -7.34065465828, -6.79203038858], [0.829036809, 6.63167854e-10, 3.51342997e-08]),
    "fdr": ([-2.349226266, -7.34580075131, -6.79721701901], [0.44498992, 6.63167925e-10, 1.75671501e-08]),
}


@pytest.mark.parametrize("adjust", list(LIMITS))
def test_pairs(adjust):
    means = fev().emmeans("RACE")
    found = means.contrast("pairwise", adjust=adjust)
    lower, p = LIMITS[adjust]
    check(found, estimate=[-0.565228289446, -5.402017474657, -4.836789185211], lower=lower)
    np.testing.assert_allclose(found.frame()["p_value"], p, rtol=2e-4)
    assert list(found.frame()["contrast"])[1] == "Asian - White"


def test_comparisons_with_a_control():
    """contrast(emmeans(m, ~ AVISIT | ARMCD), "trt.vs.ctrl", adjust = "mvt"): limits of mvtnorm, about 1e-4 of an SE."""
    found = fev().emmeans("AVISIT | ARMCD").contrast("trt.vs.ctrl").frame()
    np.testing.assert_allclose(
        found["estimate"],
        [4.82472778407, 10.28446103066, 15.22480173528, 4.93324144238, 9.31450134587, 15.71267465639],
        rtol=RTOL,
    )
    lower = [2.33984244488, 7.81410763544, 12.71176560266, 2.45044249775, 6.68186994764, 13.1975135097]
    assert np.max(np.abs(found["lower"] - lower) / found["std_error"]) < 2e-3
    np.testing.assert_allclose(found["p_value"][[0, 3]], [1.9e-5, 1.2e-5], rtol=0.1)
    assert list(found["ARMCD"]) == ["PBO"] * 3 + ["TRT"] * 3


def test_polynomials_effects_and_steps():
    """contrast(v, "poly"), contrast(v, "eff"), contrast(v, "consec", adjust = "none")."""
    means = fev().emmeans("AVISIT | ARMCD")
    poly = [51.134138452434, 0.115612920554, -1.154398004489, 51.519283872664, 1.46493186814, 2.568894945904]
    se = [3.36266062166, 1.49082539183, 3.30411439563, 3.38373137764, 1.53676350706, 3.42994907091]
    found = means.contrast("poly").frame()
    np.testing.assert_allclose(found["estimate"], poly, atol=1e-6)
    np.testing.assert_allclose(found["std_error"], se, rtol=RTOL)
    np.testing.assert_allclose(found["p_value"][0], 4.5042366982e-42, rtol=1e-4)
    found = means.contrast("eff").frame()
    np.testing.assert_allclose(found["p_value"][[2, 6]], [2.85723028467e-05, 8.57232950372e-03], rtol=1e-5)
    np.testing.assert_allclose(found["lower"][[0, 5]], [-9.20976040586, -4.16229694983], rtol=RTOL)
    found = means.contrast("consec", adjust="none").frame()
    np.testing.assert_allclose(found["lower"][1], 3.41182528007, rtol=RTOL)
    assert found["contrast"][2] == "VIS4 - VIS3"


def test_contrasts_of_contrasts():
    """contrast(contrast(v, "consec"), "revpairwise", by = "contrast", adjust = "none")."""
    steps = fev().emmeans("AVISIT | ARMCD").contrast("consec", adjust="none")
    found = steps.contrast("revpairwise", by="contrast", adjust="none")
    check(
        found, std_error=[1.49019055908, 1.50588470701, 1.52927377934], df=[413.942555311, 409.328054973, 425.932475363]
    )
    assert list(found.frame()["contrast of"]) == ["VIS2 - VIS1", "VIS3 - VIS2", "VIS4 - VIS3"]


def test_joint_tests():
    """test(contrast(v, "pairwise"), joint = TRUE): df1 and F; rows that repeat others do not count."""
    found = fev().emmeans("AVISIT | ARMCD").pairs().test(joint=True)
    assert list(found["num_df"]) == [3, 3] and list(found["ARMCD"]) == ["PBO", "TRT"]
    np.testing.assert_allclose(found["statistic"], [77.193, 78.214], atol=5e-4)
    single = fev().emmeans("ARMCD").pairs()
    assert single.test(joint=True)["statistic"][0] == pytest.approx(single.frame()["statistic"][0] ** 2)
    # all differences of an interaction's cells are its type III test
    _, fit = fitted("fev_us_reml")
    steps = fit.emmeans("AVISIT | ARMCD").contrast("consec").contrast("consec", by="contrast")
    joint = steps.contrast(np.eye(3), by=()).test(joint=True)
    anova = fit.anova().frame()
    assert joint["statistic"][0] == pytest.approx(anova["statistic"].iloc[-1], rel=1e-8)


def test_custom_contrasts():
    means = fev().emmeans("RACE")
    named = means.contrast({"White - others": [-0.5, -0.5, 1.0]}, level=0.9)
    plain = means.contrast([[-0.5, -0.5, 1.0]])
    est = means.frame()["estimate"]
    assert named.frame()["estimate"][0] == pytest.approx(est[2] - 0.5 * (est[0] + est[1]))
    assert list(named.frame()["contrast"]) == ["White - others"] and list(plain.frame()["contrast"]) == ["C1"]
    assert named.frame()["lower"][0] > plain.frame()["lower"][0] and named.level == 0.9
    np.testing.assert_allclose(named.vcov, [[named.frame()["std_error"][0] ** 2]])


# m3 <- lmer(FEV1 ~ male * ARMCD + factor(VISITN) + offset(o) + (1 | USUBJID), weights = w)
def test_numbers_with_two_values_offsets_and_weights():
    fit = fev("male * ARMCD + factor(VISITN) + offset(o)", weights="w")
    check(fit.emmeans("ARMCD"), estimate=[40.2331889944, 44.8212181821], df=[204.028106494, 175.677179410],
          std_error=[0.510020050364, 0.516950656053])  # fmt: skip
    found = fit.emmeans("VISITN")
    check(found, estimate=[34.6128339392, 40.1469190858, 44.9569759152, 50.3920854129])
    assert list(found.frame()["VISITN"]) == [1, 2, 3, 4]
    check(fit.emmeans("male", weights="proportional"), estimate=[42.7151508507, 42.3639995812],
          std_error=[0.497044657155, 0.529419831389])  # fmt: skip
    np.testing.assert_allclose(
        fit.anova().frame()["den_df"], [188.780862, 194.829002, 426.944247, 189.646652], rtol=1e-6
    )
    data = fev_data()
    as_array = jaxlmm.lmm("FEV1 ~ ARMCD + (1 | USUBJID)", data, offset=data["o"].to_numpy())
    as_column = jaxlmm.lmm("FEV1 ~ ARMCD + (1 | USUBJID)", data, offset="o")
    check(as_array.emmeans("ARMCD"), estimate=as_column.emmeans("ARMCD").frame()["estimate"])


def test_cells_that_the_data_cannot_estimate():
    """R: emmeans(m4, ~ RACE), ~ AVISIT | RACE, pairs(~ RACE | AVISIT), without rows of White at VIS4."""
    fit = fev("RACE * AVISIT", empty=True)
    found = fit.emmeans("RACE")
    check(found, estimate=[40.6911382206, 40.9099266542, np.nan], df=[173.999487961, 187.226128530, np.nan])
    assert "cannot estimate" in str(found)
    cells = fit.emmeans("AVISIT | RACE").frame()
    assert list(np.isnan(cells["estimate"])) == [False] * 11 + [True]
    pairs = fit.emmeans("RACE | AVISIT").pairs()
    frame = pairs.frame()
    assert list(np.isnan(frame["p_value"])) == [False] * 10 + [True] * 2
    np.testing.assert_allclose(frame["p_value"][[0, 1, 9]], [0.991988187394, 4.37175778e-04, 0.292476492], rtol=1e-4)
    assert list(pairs.test(joint=True)["num_df"]) == [2, 2, 2, 1]


def test_slopes_are_exact_derivatives():
    fit = fev("ARMCD * poly(FEV1_BL, 2) + SEX * log(WEIGHT)")
    found = fit.emtrends("WEIGHT", "SEX", at={"WEIGHT": [0.4]}).frame()
    coef = dict(zip(fit.coef_names, fit.coef, strict=True))
    slope = coef["log(WEIGHT)"] / 0.4
    np.testing.assert_allclose(found["estimate"], [slope, slope + coef["SEX[T.Male]:log(WEIGHT)"] / 0.4], rtol=1e-10)
    # emtrends(m2, ~ ARMCD, var = "FEV1_BL", delta.var = 1e-3), a forward difference
    found = fit.emtrends("FEV1_BL", "ARMCD").frame()
    np.testing.assert_allclose(found["estimate"], [0.130127879818, 0.204603834869], rtol=1e-4)
    np.testing.assert_allclose(found["std_error"], [0.0654518342293, 0.0592346006263], rtol=1e-4)
    assert list(fit.emtrends("WEIGHT").frame()["slope"]) == ["overall"]
    two = fev("ARMCD * male").emtrends("male", "ARMCD").pairs().frame()
    expected = dict(zip(fev("ARMCD * male").coef_names, fev("ARMCD * male").coef, strict=True))["ARMCD[T.TRT]:male"]
    assert two["estimate"][0] == pytest.approx(-expected, rel=1e-9)


def test_balanced_data_have_raw_means():
    _, fit = fitted("cake_reml")
    data = fit.data
    found = fit.emmeans("recipe * temperature").frame()
    raw = data.groupby(["temperature", "recipe"], observed=True)["angle"].mean()
    np.testing.assert_allclose(found["estimate"], raw.to_numpy(), rtol=1e-9)
    overall = fit.emmeans("1").frame()
    assert overall["estimate"][0] == pytest.approx(data["angle"].mean()) and overall["mean"][0] == "overall"


def test_a_model_of_the_intercept_alone():
    _, fit = fitted("penicillin_crossed_reml")
    frame = fit.emmeans("1", df="asymptotic").frame()
    assert frame["estimate"][0] == pytest.approx(fit.coef[0]) and np.isinf(frame["df"][0])
    half = 1.959963984540054 * frame["std_error"][0]
    assert frame["upper"][0] == pytest.approx(fit.coef[0] + half)


@pytest.mark.parametrize("kind", ["polars", "dict"])
def test_the_callers_data_frames(kind):
    polars = pytest.importorskip("polars")
    data = {k: np.array(["a", "b", "c"] * 8)[:24] if k == "t" else v for k, v in TINY.items()}
    fit = jaxlmm.lmm("y ~ t + (1 | g)", polars.DataFrame(data) if kind == "polars" else data)
    frame = fit.emmeans("t").pairs().frame()
    assert list(frame["contrast"]) == ["a - b", "a - c", "b - c"]
    assert isinstance(frame, polars.DataFrame if kind == "polars" else dict)
    assert isinstance(fit.anova().frame(), polars.DataFrame if kind == "polars" else dict)


TINY = {
    "t": None,
    "g": np.repeat([f"g{i}" for i in range(8)], 3),
    "y": np.random.default_rng(1).normal(size=24) + np.repeat(np.random.default_rng(2).normal(size=8), 3),
}


def test_tables():
    text = str(fev().emmeans("RACE | ARMCD").pairs())
    for words in ("Satterthwaite", "Tukey", "averaged over SEX, AVISIT (equal weights)", "at FEV1_BL = 40.2", "3 comp"):
        assert words in text
    assert fev().emmeans("RACE")._repr_html_().startswith("<table>")
    assert list(fev().emmeans("RACE").test().columns) == ["RACE", "estimate", "std_error", "df", "statistic", "p_value"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.emmeans("RACES"), "'RACES' is not in the fixed part .* RACE, SEX, ARMCD, AVISIT, FEV1_BL"),
        (lambda f: f.emmeans("USUBJID"), "is not in the fixed part"),
        (lambda f: f.emmeans("RACE | ARMCD | SEX"), "at most one bar"),
        (lambda f: f.emmeans("RACE | "), "expected names of predictors"),
        (lambda f: f.emmeans("RACE | RACE"), "both sides"),
        (lambda f: f.emmeans("RACE", at={"SEX": "male"}), "'SEX' has no level 'male'; it has: Female, Male"),
        (lambda f: f.emmeans("RACE", at={"FEV1_BL": "high"}), "'FEV1_BL' is numeric, found"),
        (lambda f: f.emmeans("RACE", at={"FEV1_BL": []}), "has no value"),
        (lambda f: f.emmeans("RACE", at={"FEV1_BL": np.arange(10**5)}), "reference grid has 4800000 combinations"),
        (lambda f: f.emmeans("RACE", weights="even"), "weights: found 'even', expected one of equal"),
        (lambda f: f.emmeans("RACE", weights={"RACE": {"Asian": 1}}), "'RACE', expected predictors that are averaged"),
        (lambda f: f.emmeans("RACE", weights={"SEX": {"Male": 1}}), "found Male for 'SEX', expected its levels"),
        (lambda f: f.emmeans("RACE", weights={"SEX": {"Male": -1, "Female": 1}}), "expected positive numbers"),
        (lambda f: f.emmeans("RACE", weights={"SEX": [1, 2]}), "expected a number for each level, by its name"),
        (lambda f: f.emmeans("RACE", level=95), "level"),
        (lambda f: f.emmeans("RACE", df="kr"), "df: found 'kr'"),
        (lambda f: f.emtrends("USUBJID"), "is not in the fixed part"),
        (lambda f: f.emtrends("RACE"), "'RACE' is a factor: slopes are of numeric predictors"),
        (lambda f: f.emmeans("RACE").contrast("all"), "method: found 'all', expected one of pairwise"),
        (lambda f: f.emmeans("RACE").contrast("poly", adjust="tukey"), "'tukey' is for all pairs; use 'mvt'"),
        (lambda f: f.emmeans("RACE").pairs(adjust="lsd"), "adjust: found 'lsd'"),
        (lambda f: f.emmeans("RACE").pairs(by="SEX"), "by: found 'SEX', expected some of RACE"),
        (lambda f: f.emmeans("RACE").contrast({"x": [1, -1]}), "'x': expected 3 coefficients"),
        (lambda f: f.emmeans("RACE").contrast("trt.vs.ctrl", ref="Martian"), "ref: found 'Martian', expected one of"),
        (lambda f: f.emmeans("RACE").contrast("trt.vs.ctrl", ref=3), "ref: found 3"),
    ],
)
def test_messages(call, message):
    with pytest.raises(DataError, match=message):
        call(fev())


def test_coefficients_of_contrasts():
    """poly.emmc(5), poly.emmc(6)[, 1:3] of emmeans; tables of orthogonal polynomials."""
    names, C = coefficients("poly", list("abcde"))
    assert names == ["linear", "quadratic", "cubic", "quartic"]
    np.testing.assert_array_equal(C, [[-2, -1, 0, 1, 2], [2, -1, -2, -1, 2], [-1, 2, 0, -2, 1], [1, -4, 6, -4, 1]])
    _, C = coefficients("poly", list("abcdef"))
    np.testing.assert_array_equal(C[:3], [[-5, -3, -1, 1, 3, 5], [5, -1, -4, -4, -1, 5], [-5, 7, 4, -4, -7, 5]])
    names, C = coefficients("trt.vs.ctrl", list("abc"), ref="b")
    assert names == ["a - b", "c - b"] and C.tolist() == [[1, -1, 0], [0, -1, 1]]
    names, _ = coefficients("revpairwise", list("abc"))
    assert names == ["b - a", "c - a", "c - b"]
    names, C = coefficients("pairwise", ["a"])
    assert names == [] and C.shape == (0, 1)
