"""Tests of terms and degrees of freedom of the design, against recorded fits, lmerTest, nlme and textbooks."""

from __future__ import annotations

import types

import numpy as np
import pandas as pd
import pytest

import jaxlmm
from cases import case_names, load_case, some
from jaxlmm.errors import DataError
from jaxlmm.inference.hypotheses.coding import term_hypotheses
from jaxlmm.inference.small_sample.degrees import between_within, rule_of
from linear import fev, fev_data, fitted

WITH_ANOVA = [n for n in case_names() if load_case(n).get("anova") and not n.startswith("ovary")]
KENWARD_ROGER = [
    n for n in WITH_ANOVA
    if load_case(n)["structure"] is None and any(row["ddf"] == "Kenward-Roger" for row in load_case(n)["anova"])
]  # fmt: skip


def recorded(case, ddf):
    return [row for row in case["anova"] if row["ddf"] == ddf]


def same_span(A, B):
    A, B = (np.linalg.qr(np.atleast_2d(np.asarray(M, float)).T)[0] for M in (A, B))
    return A.shape == B.shape and np.allclose(A @ (A.T @ B), B, atol=1e-9)


@pytest.mark.parametrize(
    "name",
    some(WITH_ANOVA, "cake_reml", "fev_us_reml", "sleepstudy_weighted_reml"),
)
def test_type_three_of_recorded_fits(name):
    case, fit = fitted(name)
    found = fit.anova()
    table = found.frame()
    assert list(table["term"]) == [row["term"] for row in recorded(case, "Satterthwaite")]
    for i, row in enumerate(recorded(case, "Satterthwaite")):
        L = np.array(row["L"], float)
        assert same_span(found.hypotheses[row["term"]], L)
        np.testing.assert_allclose(found.hypotheses[row["term"]], L, atol=1e-9)
        assert table["num_df"][i] == row["numDF"]
        np.testing.assert_allclose(table["statistic"][i], row["F"], rtol=1e-4)
        np.testing.assert_allclose(table["den_df"][i], row["denDF"], rtol=1e-3)
        np.testing.assert_allclose(table["p_value"][i], row["p"], rtol=1e-2)


@pytest.mark.parametrize("name", some(KENWARD_ROGER, "cake_reml"))
def test_kenward_roger_of_recorded_fits(name):
    case, fit = fitted(name)
    rows = recorded(case, "Kenward-Roger")
    table = fit.anova(df="kenward-roger", information="expected").frame()
    np.testing.assert_allclose(table["statistic"], [row["F"] for row in rows], rtol=1e-4)
    np.testing.assert_allclose(table["den_df"], [row["denDF"] for row in rows], rtol=1e-4)


# options(digits = 12); m <- lmer(FEV1 ~ RACE + SEX + ARMCD * AVISIT + FEV1_BL + (1 | USUBJID), fev_data)
# anova(m, type = 1), anova(m, type = 2): DenDF and F of lmerTest 3.1-3
UNBALANCED = {
    1: ([187.791877804, 186.620782555, 187.173992334, 418.397161349, 199.193921751, 417.96199391],
        [39.113088809, 0.380996413, 29.432170893, 154.951504018, 25.637543058, 0.327677958]),
    2: ([188.958841769, 188.036767044, 187.497247888, 417.396405683, 199.735550275, 418.054848111],
        [25.705054142, 0.567790439, 32.965878006, 155.086413443, 25.787484483, 0.327677958]),
    3: ([188.958841769, 188.036767044, 187.797520974, 417.253284145, 199.735550275, 418.054848111],
        [25.705054142, 0.567790439, 32.67231984, 154.785433506, 25.787484483, 0.327677958]),
}  # fmt: skip


@pytest.mark.parametrize("type", [1, 2, 3])
def test_types_of_lmertest(type):
    table = fev().anova(type).frame()
    np.testing.assert_allclose(table["den_df"], UNBALANCED[type][0], rtol=1e-6)
    np.testing.assert_allclose(table["statistic"], UNBALANCED[type][1], rtol=1e-6)
    assert fev().anova("I" * type).type == type


# m2 <- lmer(FEV1 ~ ARMCD * poly(FEV1_BL, 2) + SEX * log(WEIGHT) + (1 | USUBJID), fev_data); F of anova(m2, type = t)
CURVED = {
    1: [29.536300898, 9.161535531, 0.124100138, 1.052031852, 0.844621462, 0.613591655],
    2: [30.992757995, 9.072800079, 0.67664801, 0.915587222, 0.837563361, 0.613591655],
    3: [31.100286991, 9.029964805, 0.67664801, 1.172158823, 0.837563361, 0.613591655],
}


@pytest.mark.parametrize("type", [1, 2, 3])
def test_covariates_and_transforms(type):
    """lmerTest; for type 2 of ARMCD it takes poly(), a matrix, for a factor, and ARMCD to be within it."""
    table = fev("ARMCD * poly(FEV1_BL, 2) + SEX * log(WEIGHT)").anova(type).frame()
    from_ = 1 if type == 2 else 0
    np.testing.assert_allclose(table["statistic"][from_:], CURVED[type][from_:], rtol=1e-6)


def test_empty_cells_are_those_of_sas():
    """lmerTest, which has SAS's definition: anova(lmer(FEV1 ~ RACE * AVISIT + (1 | USUBJID)), type = 2 and 3)."""
    fit = fev("RACE * AVISIT", empty=True)
    found = fit.anova()
    np.testing.assert_allclose([t.statistic for t in found.tests], [19.72741, 130.80224, 1.10765], rtol=1e-6)
    np.testing.assert_allclose([t.den_df for t in found.tests], [209.624474, 376.078046, 375.3511781], rtol=1e-6)
    assert "cells" in str(found)
    two = fit.anova(2).frame()
    np.testing.assert_allclose(two["statistic"], [19.8642, 132.27846, 1.10765], rtol=1e-6)


@pytest.mark.parametrize("formula", ["a * b + x", "a * b * x", "a + a:b", "0 + a + b", "x + x:a", "a * x + b"])
def test_types_one_and_two_are_reductions_of_sums_of_squares(formula):
    """What the hypotheses of a term say is what the space of X loses without it: dense projections."""
    frame = small(formula)
    for type in (1, 2):
        found = term_hypotheses(frame, type)
        labels = list(found)
        parts = [set(label.split(":")) for label in labels]
        for i, label in enumerate(labels):
            above = [j for j, p in enumerate(parts) if p > parts[i] and ("x" in p) == ("x" in parts[i])]
            others = range(i) if type == 1 else [j for j in range(len(parts)) if j != i and j not in above]
            one = [np.ones((N, 1))] * frame.frame.formula.side.intercept
            before = np.column_stack([np.zeros((N, 1)), *one, *(full_columns(parts[j]) for j in others)])
            larger = np.column_stack([before, full_columns(parts[i])])
            gained = projection(larger) - projection(before)  # E(y) at right angles to this is the hypothesis
            rows = gained @ frame.frame.X
            rank = np.linalg.matrix_rank(rows, tol=1e-8)
            assert len(found[label]) == rank
            U, s, Vt = np.linalg.svd(rows)
            assert rank == 0 or same_span(found[label], Vt[:rank])


def test_type_three_averages_cells_equally():
    """With all cells filled the hypothesis of a main effect is equality of unweighted means of cells."""
    frame = small("a * b + x")
    cells = np.array([[1.0, i == 1, i == 2, j == 1, 0.0, i == 1 and j == 1, i == 2 and j == 1]
                      for i in range(3) for j in range(2)], float)  # fmt: skip
    names = list(frame.frame.coef_names)
    order = ["(Intercept)", "a[T.a1]", "a[T.a2]", "b[T.b1]", "x", "a[T.a1]:b[T.b1]", "a[T.a2]:b[T.b1]"]
    cells = cells[:, [order.index(n) for n in names]]
    means = cells.reshape(3, 2, -1).mean(1)
    assert same_span(term_hypotheses(frame)["a"], means[1:] - means[0])
    means = cells.reshape(3, 2, -1).mean(0)
    assert same_span(term_hypotheses(frame)["b"], means[1:] - means[0])


@pytest.mark.parametrize("coding", ["C(a, contr.sum)", "C(a, contr.helmert)"])
def test_hypotheses_do_not_depend_on_the_coding(coding):
    plain, coded = small("a * b + x"), small(f"{coding} * b + x")
    change = np.linalg.lstsq(coded.frame.X, plain.frame.X, rcond=None)[0]  # coded coefficients from plain ones
    for type in (1, 2, 3):
        for mine, theirs in zip(
            term_hypotheses(plain, type).values(), term_hypotheses(coded, type).values(), strict=True
        ):
            assert same_span(mine, theirs @ change)


def test_true_and_false_are_levels():
    frame = small("a * flag")
    with_text = small("a * label")
    for mine, theirs in zip(term_hypotheses(frame).values(), term_hypotheses(with_text).values(), strict=True):
        assert same_span(mine, theirs)
    assert len(term_hypotheses(small("0 + flag + x"))["flag"]) == 2  # R: flagFALSE and flagTRUE


def test_a_nested_factor_contains_the_one_it_is_in():
    """SAS: B(A) contains A, so the type III hypothesis of A in A + B(A) is that of A in A * B."""
    nested, crossed = small("a / b"), small("a * b")
    change = np.linalg.lstsq(nested.frame.X, crossed.frame.X, rcond=None)[0]
    for type in (2, 3):
        assert same_span(term_hypotheses(nested, type)["a"] @ change, term_hypotheses(crossed, type)["a"]) == (
            type == 3
        )


def test_terms_without_columns_have_nothing_to_test():
    fit = jaxlmm.lmm("y ~ a + a2 + (1 | g)", {**DATA, "a2": DATA["a"]})
    found = fit.anova()
    assert np.isnan(found.tests[1].p) and found.tests[1].num_df == 0 and "nothing to test" in str(found)


def test_messages_and_tables():
    with pytest.raises(DataError, match="type: found 4, expected 1, 2 or 3"):
        fev().anova(4)
    text = str(fev().anova())
    assert "Type III" in text and "Satterthwaite" in text and "Pr(>F)" in text
    assert "<table>" in fev().anova()._repr_html_()
    assert isinstance(fev().anova().frame(), pd.DataFrame)


# ---------------------------------------------------------------------------- degrees of freedom of the design


def test_balanced_designs_have_those_of_the_analysis_of_variance():
    """Split plot: 6 blocks x 3 varieties x 4 levels: (6 - 1)(3 - 1) = 10 and 3 (6 - 1)(4 - 1) = 45."""
    _, fit = fitted("oats_splitplot_reml")
    for df in ("containment", "between-within"):
        assert list(fit.anova(df=df).frame()["den_df"]) == [10, 45, 45]
        assert df in str(fit.anova(df=df)).lower()
    assert rule_of(fit, "residual")(np.eye(1)) == 60
    assert list(fit.anova(df="residual").frame()["den_df"]) == [60, 60, 60]
    assert np.isinf(fit.anova(df="asymptotic").frame()["den_df"]).all()


def test_containment_of_random_slopes():
    """18 subjects with two effects each: 17 of either beside X. Orthodont: Sex is in no random effect of Subject."""
    _, fit = fitted("sleepstudy_reml")
    assert list(rule_of(fit, "containment")(np.eye(2))) == [17, 17]
    _, fit = fitted("orthodont_slope_reml")
    n, rank = 108, np.linalg.matrix_rank(np.column_stack([fit.model.X, dense_z(fit)]))
    assert list(rule_of(fit, "containment")(np.eye(4))) == [25, 25, n - rank, n - rank]


def test_containment_has_a_limit(monkeypatch):
    monkeypatch.setattr("jaxlmm.inference.small_sample.degrees._LARGEST", 100)
    with pytest.raises(DataError, match="needs the rank of a matrix of 3e.02 numbers"):
        rule_of(small("x"), "containment")(np.eye(2))


def test_containment_does_not_depend_on_the_order_of_terms():
    data = {**DATA, "h": np.array([f"{g}{a}" for g, a in zip(DATA["g"], DATA["a"], strict=True)])}
    found = [
        rule_of(small(f"a + b + {terms}", data, random=""), "containment")(np.eye(4))
        for terms in ("(1 | g) + (1 | g:a)", "(1 | g:a) + (1 | g)", "(1 | g/a)")
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_between_within_of_mmrm():
    """mmrm's rule: 197 subjects, 537 rows; RACE (2), SEX, ARMCD between: 197 - 1 - 4; visits within: 537 - 197 - 6."""
    _, fit = fitted("fev_us_reml")
    subjects = fev_data()["USUBJID"].nunique()
    between, within = subjects - 1 - 4, 537 - subjects - 6
    expected = [within, *[between] * 4, *[within] * 6]
    np.testing.assert_array_equal(between_within(fit, np.eye(11)), expected)
    both = np.zeros((1, 11))
    both[0, [4, 8]] = 1
    assert between_within(fit, both)[0] == min(between, within)


def test_between_within_of_sas():
    """FEV1 ~ ARMCD: 195 in each of references/sas/mmrm/empirical_*_lsmean.csv."""
    fit = fev("ARMCD")
    assert fit.emmeans("ARMCD", df="between-within").pairs().frame()["df"][0] == 195


@pytest.mark.parametrize(
    "residual", ["us(AVISIT | USUBJID)", pytest.param("us(AVISIT | ARMCD / USUBJID)", marks=pytest.mark.slow)]
)
def test_between_within_of_sas_with_an_unstructured_residual(residual):
    """SAS/STAT, DDFM=BETWITHIN: TYPE=UN and no RANDOM have between-subject df for all effects, 197 - 1 - 3."""
    fit = jaxlmm.lmm("FEV1 ~ RACE + ARMCD * AVISIT", fev_data(), residual=residual)
    np.testing.assert_array_equal(fit.anova(df="between-within-sas").frame()["den_df"], [193] * 4)
    np.testing.assert_array_equal(fit.tidy(df="between-within-sas")["df"], [193] * 10)
    np.testing.assert_array_equal(fit.anova(df="between-within").frame()["den_df"], [193, 193, 334, 334])
    assert "Between-within of SAS" in str(fit.anova(df="between-within-sas"))


def test_between_within_of_sas_goes_by_terms():
    """A factor with one level that is constant within subjects and others that are not is within, all of it."""
    one = np.repeat(np.arange(8), 5)
    a = np.where(one < 3, "a2", np.array(["a0", "a1"])[np.arange(40) % 2])
    fit = small("a", {**DATA, "a": a, "g": np.array([f"g{i}" for i in one])})
    np.testing.assert_array_equal(between_within(fit, np.eye(3)), [31, 31, 6])
    np.testing.assert_array_equal(between_within(fit, np.eye(3), sas=True), [7, 30, 30])


def repeated(fixed, arms=2, subjects=12, a=3, b=4, times=1, without=(), random=" + (1 | g)", residual=None):
    """Every subject has all cells of a and b, `times` rows each; arms take turns."""
    g, i, j = (x.ravel() for x in np.meshgrid(range(subjects), range(a), range(b), indexing="ij"))
    g, i, j = (np.delete(np.repeat(x, times), list(without)) for x in (g, i, j))
    data = {
        "g": np.array([f"g{k:02}" for k in g]),
        "arm": np.array([f"arm{k % arms}" for k in g]),
        "y": 1.0 * i + j * g,
    }
    data |= {"a": np.array([f"a{k}" for k in i]), "b": np.array([f"b{k}" for k in j]), "age": g**2.0, "x": j * 1.0}
    return small(fixed, data, random, residual)


def sas_df(fit):
    """By term of the fixed part, the intercept first."""
    L = np.eye(fit.frame.X.shape[1])
    found = between_within(fit, L, sas=True)
    return {label: set(found[list(columns)]) for label, columns in fit.frame.fixed_terms}


@pytest.mark.parametrize(("fixed", "expected"), [
    # (n - g) (levels - 1), n = 12 subjects in g = 2 arms
    ("arm * a * b", {"arm": 10, "a": 20, "b": 30, "arm:a": 20, "arm:b": 30, "a:b": 60, "arm:a:b": 60}),
    ("a * b", {"a": 22, "b": 33, "a:b": 66}),
    ("arm + age + a + b", {"arm": 9, "age": 9, "a": 22, "b": 33}),
    # one term within subjects has factors: not divided, 144 - 12 - 2
    ("arm + a", {"arm": 10, "a": 130}),
    ("arm + x + arm:x", {"arm": 10, "x": 130, "arm:x": 130}),
    # a and its interaction with the arm share subject by a
    ("arm * a", {"arm": 10, "a": 20, "arm:a": 20}),
    # a covariate keeps all that is within, 144 - 12 - 6
    ("a + b + x:arm", {"a": 22, "b": 33 - 1}),
])  # fmt: skip
def test_between_within_of_sas_by_interactions(fixed, expected):
    """SAS/STAT, DDFM=BETWITHIN: within-subject df by subject-by-effect interactions; counted by hand."""
    found = sas_df(repeated(fixed))
    assert {name: found[name] for name in expected} == {name: {df} for name, df in expected.items()}


def test_between_within_of_sas_of_a_split_plot():
    """Yates' oats, blocks as subjects; published results of SAS: 10, 15 and 30, with a plot less 29."""
    assert sas_df(repeated("a * b", subjects=6, random=" + (1 | g / a)")) == {
        "(Intercept)": {5},
        "a": {10},
        "b": {15},
        "a:b": {30},
    }
    assert sas_df(repeated("a * b", subjects=6, without=(7,)))["a:b"] == {29}


def test_between_within_of_sas_has_the_intercept_between_subjects():
    """SAS, language scores of 2287 pupils in 131 schools: DF 129 and, of three pupil covariates, 2153."""
    rng = np.random.default_rng(1)
    school = np.r_[np.arange(131), rng.integers(0, 131, 2287 - 131)]
    pupils = rng.normal(size=(2287, 3))
    data = {"g": np.array([f"s{k}" for k in school]), "y": pupils[:, 0], "mean": rng.normal(size=131)[school]}
    fit = small("u + v + w + mean", {**data, **dict(zip("uvw", pupils.T, strict=True))})
    np.testing.assert_array_equal(between_within(fit, np.eye(5), sas=True), [129, 2153, 2153, 2153, 129])
    together = np.array([[1.0, 1, 0, 0, 0]])  # as LSMEANS, by the effect
    assert between_within(fit, together, sas=True) == 2153


def test_between_within_of_nlme():
    """R: lme(FEV1 ~ RACE + ARMCD * AVISIT + WEIGHT, random = ~ 1 | USUBJID): DF of summary()$tTable."""
    fit = fev("RACE + ARMCD * AVISIT + WEIGHT")
    expected = dict.fromkeys(fit.coef_names, 333.0)
    expected |= dict.fromkeys((n for n in fit.coef_names if n.startswith(("RACE", "ARMCD")) and ":" not in n), 193.0)
    np.testing.assert_array_equal(between_within(fit, np.eye(len(fit.coef))), list(expected.values()))


def test_between_within_needs_nested_groups():
    _, fit = fitted("penicillin_crossed_reml")
    with pytest.raises(DataError, match="nested groups, but 'plate' is not within 'sample'"):
        fit.wald(df="between-within").rows(np.eye(1))
    with pytest.raises(DataError, match="needs subjects"):
        between_within(small("a", {**DATA, "x": np.arange(N)}, random="", residual="ou(x)"), np.eye(3))


# ---------------------------------------------------------------------------- small data without a fit

N = 40
_RNG = np.random.default_rng(5)
DATA = {
    "a": np.array(["a0", "a1", "a2"])[np.r_[0, 0, 1, 1, 2, 2, _RNG.integers(0, 3, N - 6)]],
    "b": np.array(["b0", "b1"])[np.r_[0, 1, 0, 1, 0, 1, _RNG.integers(0, 2, N - 6)]],
    "x": np.round(_RNG.normal(size=N), 2) + 3.0,
    "g": np.array([f"g{i % 5}" for i in range(N)]),
    "y": _RNG.normal(size=N),
}
DATA["flag"] = DATA["b"] == "b1"
DATA["label"] = DATA["b"]


def small(fixed, data=DATA, random=" + (1 | g)", residual=None):
    """What hypotheses need of a fit: its data and frame."""
    from jaxlmm.covariance import NAMES
    from jaxlmm.design.frame import build_frame
    from jaxlmm.formula.parser import parse
    from jaxlmm.formula.specs import residual_of

    formula = parse(f"y ~ {fixed}{random}")
    frame = build_frame(formula, data, residual=residual_of(residual, None, NAMES) if residual else None)
    return types.SimpleNamespace(data=data, frame=frame)


def full_columns(names):
    """Columns of a term with an indicator for every level of every factor."""
    out = np.ones((N, 1))
    for name in sorted(names):
        v = DATA[name]
        part = v[:, None] if name == "x" else (v[:, None] == np.unique(v)).astype(float)
        out = np.einsum("ni,nj->nij", out, part).reshape(N, -1)
    return out


def projection(A):
    U, s, _ = np.linalg.svd(A, full_matrices=False)
    U = U[:, s > 1e-9 * max(s.max(), 1.0)]
    return U @ U.T


def dense_z(fit):
    blocks = []
    for term in fit.frame.terms:
        block = np.zeros((len(term.Z), len(term.levels), term.Z.shape[1]))
        block[np.arange(len(term.Z)), term.codes] = term.Z
        blocks.append(block.reshape(len(term.Z), -1))
    return np.column_stack(blocks)
