"""Average predictions, comparisons and slopes: by hand, beside marginal means, and with covariances of any method."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

import jaxlmm


@cache
def sleep(formula="Reaction ~ Days + I(Days**2) + (Days | Subject)", **options):
    return jaxlmm.lmm(formula, jaxlmm.datasets.load("sleepstudy"), **options)


@cache
def trial():
    return jaxlmm.lmm("FEV1 ~ ARMCD * AVISIT + AGE + (1 | USUBJID)", fev())


@cache
def fev():
    data = jaxlmm.datasets.load("fev_data")
    rng = np.random.default_rng(1)
    people = data["USUBJID"].cat.codes
    return data.assign(AGE=rng.normal(50, 10, people.max() + 1)[people], SMOKES=rng.random(len(data)) < 0.3)


def by_hand(fit, L):
    """Estimate, standard error and degrees of freedom of linear functions."""
    rows = fit.wald().rows(L)
    return rows.estimate, rows.se, rows.df


def check(found, fit, L, rtol=1e-9):
    frame = found.frame()
    for name, value in zip(("estimate", "std_error", "df"), by_hand(fit, np.atleast_2d(L)), strict=True):
        np.testing.assert_allclose(frame[name], value, rtol=rtol, err_msg=name)


def test_the_average_prediction_is_the_average_row():
    fit = sleep()
    check(fit.predictions(), fit, fit.model.X.mean(0))
    rows = fit.predictions("row").frame()
    np.testing.assert_allclose(rows["estimate"], fit.predict(random=False), rtol=1e-12)
    again = fit.predict(random=False, se=True)
    np.testing.assert_allclose(rows["std_error"], again["std_error"], rtol=1e-9)


def test_predictions_at_values_and_by_groups():
    fit = sleep()
    at = fit.predictions(at={"Days": [0, 9]})
    assert at.labels == {"Days": [0, 9]}
    check(at, fit, [[1, 0, 0], [1, 9, 81]])
    check(at.contrast({"late - early": [-1, 1]}), fit, [0, 9, 81])
    new = pd.DataFrame({"Days": [1.0, 2.0, 5.0], "who": ["a", "b", "a"]})
    by = fit.predictions("who", new)
    assert by.labels == {"who": ["a", "b"]}
    check(by, fit, [[1, 3, 13], [1, 2, 4]])


def test_standardised_means_of_a_trial():
    """Everyone in one arm and in the other: the rows as they are, not equal weights of the visits."""
    fit = trial()
    X = []
    for arm in ("PBO", "TRT"):
        new = fev().iloc[fit.frame.rows].assign(ARMCD=pd.Categorical([arm] * fit.nobs, ["PBO", "TRT"]))
        X.append(fit.frame.design(new, random=False).X.mean(0))
    check(fit.predictions(at={"ARMCD": ["PBO", "TRT"]}), fit, X)
    check(fit.comparisons("ARMCD"), fit, X[1] - X[0])
    check(fit.comparisons("ARMCD", change=("TRT", "PBO")), fit, X[0] - X[1])


def test_the_reference_grid_gives_marginal_means():
    fit = trial()
    for by in ("ARMCD", ["ARMCD", "AVISIT"]):
        found, means = fit.predictions(by, "grid").frame(), fit.emmeans(by).frame()
        both = found.merge(means, on=by, suffixes=("", "_means"), validate="1:1")
        assert len(both) == len(means)
        for name in ("estimate", "std_error", "df", "lower", "upper"):
            np.testing.assert_allclose(both[name], both[f"{name}_means"], rtol=1e-9)
    pairs = fit.emmeans("ARMCD | AVISIT").contrast("revpairwise").frame()
    found = fit.comparisons("ARMCD", by="AVISIT", newdata="grid").frame()
    np.testing.assert_allclose(found["estimate"], pairs["estimate"], rtol=1e-9)
    np.testing.assert_allclose(found["p_value"], pairs["p_value"], rtol=1e-9)


def test_comparisons_of_factors():
    fit = trial()
    visits = ["VIS1", "VIS2", "VIS3", "VIS4"]
    reference = fit.comparisons("AVISIT")
    assert reference.labels["contrast"] == [f"{v} - VIS1" for v in visits[1:]]
    pairs = fit.comparisons("AVISIT", "pairwise")
    assert pairs.labels["contrast"] == [f"{b} - {a}" for i, a in enumerate(visits) for b in visits[i + 1 :]]
    steps = fit.comparisons("AVISIT", "sequential")
    assert steps.labels["contrast"] == [f"{b} - {a}" for a, b in zip(visits, visits[1:], strict=False)]
    np.testing.assert_allclose(steps.frame()["estimate"].sum(), reference.frame()["estimate"].iloc[-1])
    both = fit.comparisons(["ARMCD", "AGE"])
    assert both.labels["term"] == ["ARMCD", "AGE"] and both.labels["contrast"] == ["TRT - PBO", "+1"]


def test_comparisons_of_numbers_and_truth_values():
    fit = sleep()
    x = fit.model.X[:, 1]
    check(fit.comparisons("Days"), fit, [0, 1, 2 * x.mean() + 1])
    check(fit.comparisons("Days", -2), fit, [0, -2, 4 - 4 * x.mean()])
    check(fit.comparisons("Days", (0, 9)), fit, [0, 9, 81])
    sd = np.std(x, ddof=1)
    check(fit.comparisons("Days", "sd", by="Days"), fit, [[0, sd, 2 * d * sd + sd**2] for d in range(10)])
    smokers = jaxlmm.lmm("FEV1 ~ SMOKES + (1 | USUBJID)", fev())
    found = smokers.comparisons("SMOKES")
    assert found.labels["contrast"] == ["True - False"]
    check(found, smokers, [0, 1])
    coded = sleep("Reaction ~ C(Days) + (1 | Subject)").comparisons("Days")
    assert coded.labels["contrast"] == [f"{d} - 0" for d in range(1, 10)]


def test_slopes_are_exact_for_polynomials():
    fit = sleep()
    check(fit.slopes("Days"), fit, [0, 1, 2 * fit.model.X[:, 1].mean()])
    check(fit.slopes("Days", by="Days"), fit, [[0, 1, 2 * d] for d in range(10)])
    check(fit.slopes("Days", newdata={"Days": [3.0]}), fit, [0, 1, 6])
    trend = fit.emtrends("Days").frame()
    found = fit.slopes("Days", newdata="grid").frame()
    np.testing.assert_allclose(found["estimate"], trend["estimate"], rtol=1e-9)


def test_slopes_of_transformed_predictors():
    fit = sleep("Reaction ~ log(Days + 1) + (1 | Subject)")
    d = np.unique(fit.data["Days"])
    check(fit.slopes("Days", by="Days"), fit, np.column_stack([0 * d, 1 / (d + 1)]), rtol=1e-8)


def test_slopes_at_the_ends_of_the_data():
    """Beyond them a spline is not defined; a square root has no slope at zero."""
    spline = sleep("Reaction ~ bs(Days, df=5) + (1 | Subject)")
    days = np.linspace(0, 9, 7)
    found = spline.slopes("Days", "row", newdata={"Days": days}).frame()["estimate"]
    h = 1e-5
    a, b = (spline.predict({"Days": np.clip(days + sign * h, 0, 9)}, random=False) for sign in (1, -1))
    np.testing.assert_allclose(found, (a - b) / (np.clip(days + h, 0, 9) - np.clip(days - h, 0, 9)), rtol=1e-3)
    root = sleep("Reaction ~ sqrt(Days) + (1 | Subject)")
    check(root.slopes("Days", newdata={"Days": [4.0, 9.0]}), root, [0, (0.25 + 1 / 6) / 2], rtol=1e-8)
    with pytest.raises(jaxlmm.DataError, match="'Days' has no slope at an end"):
        root.slopes("Days")


def test_methods_of_standard_errors():
    fit = trial()
    for options in ({"df": "kenward-roger"}, {"robust": "CR0"}, {"df": "asymptotic"}):
        found = fit.comparisons("AGE", **options).frame()
        test = fit.test("AGE", **options).frame()
        np.testing.assert_allclose(found["std_error"], test["std_error"], rtol=1e-9)
        np.testing.assert_allclose(found["p_value"], test["p_value"], rtol=1e-7)


def test_offsets_move_predictions_alone():
    data = jaxlmm.datasets.load("sleepstudy").assign(o=np.arange(180) / 7.0)
    plain = jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", data)
    for offset in ("o", data["o"].to_numpy()):
        fit = jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", data.assign(Reaction=data.Reaction + data.o), offset=offset)
        moved = fit.predictions("row").frame()["estimate"] - plain.predictions("row").frame()["estimate"]
        np.testing.assert_allclose(moved, data["o"], atol=1e-6)
        found = fit.comparisons("Days").frame()["estimate"]
        np.testing.assert_allclose(found, plain.comparisons("Days").frame()["estimate"], atol=1e-8)
    with pytest.raises(jaxlmm.DataError, match="offset was given as an array"):
        fit.predictions(newdata={"Days": [1.0]})


def test_what_the_data_cannot_tell_is_empty():
    data = fev().query("not (ARMCD == 'TRT' and AVISIT == 'VIS4')")
    fit = jaxlmm.lmm("FEV1 ~ ARMCD * AVISIT + (1 | USUBJID)", data)
    found = fit.comparisons("ARMCD", by="AVISIT", newdata="grid")
    np.testing.assert_array_equal(np.isnan(found.frame()["estimate"]), [False, False, False, True])
    assert np.isnan(fit.predictions(at={"ARMCD": "TRT"}).frame()["estimate"][0])
    assert np.isfinite(fit.predictions().frame()["estimate"][0])


@pytest.mark.parametrize("kind", ["polars", "dict"])
def test_kinds_of_frames(kind):
    fit = jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", jaxlmm.datasets.load("sleepstudy", kind))
    found = fit.predictions("Subject").frame()
    assert type(found) is type(fit.data) and len(found["Subject"]) == 18


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.comparisons("Subject"), "'Subject' is not in the fixed part"),
        (lambda f: f.slopes("Dais"), "'Dais' is not in the fixed part of the model; its predictors are: Days"),
        (lambda f: f.comparisons("Days", "pairwise"), "change: 'Days' is numeric"),
        (lambda f: f.comparisons("Days", (1, 2, 3)), "change: expected two values"),
        (lambda f: f.comparisons("Days", at={"Days": 1}), "at: 'Days' is what changes"),
        (lambda f: f.predictions(newdata="rows"), "newdata: found 'rows'"),
        (lambda f: f.predictions("Day"), "no column 'Day'"),
        (lambda f: f.predictions("Subject", "grid"), "by: 'Subject' is not in the reference grid"),
        (lambda f: f.predictions(newdata={"Days": [np.nan, np.nan]}), "missing values"),
        (lambda f: f.predictions(level=2), "level"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(jaxlmm.DataError, match=message):
        call(sleep())


def test_levels_and_factors_in_errors():
    with pytest.raises(jaxlmm.DataError, match="change: 'ARMCD' is a factor"):
        trial().comparisons("ARMCD", 1.0)
    with pytest.raises(jaxlmm.DataError, match="'ARMCD' has no level 'X'"):
        trial().predictions(at={"ARMCD": "X"})
    with pytest.raises(jaxlmm.DataError, match="'ARMCD' is a factor: slopes are of numeric"):
        trial().slopes("ARMCD")


@pytest.mark.slow
def test_rows_with_missing_values_are_empty_and_keep_their_place():
    """As in `predict`: NaN in their row, left out of averages, and said."""
    rng = np.random.default_rng(1)
    data = {"x": rng.normal(size=40), "f": np.array(list("ab"))[np.arange(40) % 2], "g": np.arange(40) // 4}
    data["y"] = 1 + 0.5 * data["x"] + rng.normal(size=40)
    fit = jaxlmm.lmm("y ~ x * f + (1 | g)", data)
    new = {"x": np.array([0.5, np.nan, 1.5, 2.0]), "f": np.array(["a", "a", "b", "b"]), "g": np.array([0, 1, 2, 3])}
    there = [0, 2, 3]
    whole = {name: values[there] for name, values in new.items()}
    for f in (
        lambda data, **by: fit.predictions(newdata=data, **by),
        lambda data, **by: fit.comparisons("f", newdata=data, **by),
        lambda data, **by: fit.slopes("x", newdata=data, **by),
    ):
        rows, some = f(new, by="row"), f(whole, by="row")
        estimate = np.asarray(rows.frame()["estimate"], float)
        assert len(estimate) == 4 and np.isnan(estimate[1]) and "1 row(s) of newdata have missing values" in str(rows)
        np.testing.assert_allclose(estimate[there], some.frame()["estimate"])
        np.testing.assert_allclose(np.asarray(rows.frame()["std_error"], float)[there], some.frame()["std_error"])
        for by in (None, "f"):
            average, other = f(new, by=by).frame(), f(whole, by=by).frame()
            np.testing.assert_allclose(average["estimate"], other["estimate"])
    np.testing.assert_array_equal(np.isnan(fit.predict(new)), [False, True, False, False])
    drawn = fit.simulate(3, seed=1, newdata=new)
    assert np.isnan(drawn[:, 1]).all()
    np.testing.assert_array_equal(drawn[:, there], fit.simulate(3, seed=1, newdata=whole))
    assert np.isnan(fit.simulate(2, newdata={**new, "x": np.full(4, np.nan)})).all()
