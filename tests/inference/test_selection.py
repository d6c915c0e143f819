"""Terms left out of a model, against lme4 1.1 and lmerTest 3.1, and formulas made from others."""

from __future__ import annotations

import numpy as np
import pytest

import jaxlmm
from jaxlmm.errors import DataError, FormulaError
from jaxlmm.formula.update import updated


@pytest.fixture(scope="module")
def cake():
    data = jaxlmm.datasets.load("cake")
    return data.assign(temperature=data["temperature"].astype(str).astype("category"))


@pytest.fixture(scope="module")
def cakes(cake):
    return jaxlmm.lmm("angle ~ recipe * temperature + (1 | replicate/recipe)", cake)


@pytest.fixture(scope="module")
def sleep():
    return jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", jaxlmm.datasets.load("sleepstudy"))


@pytest.mark.parametrize(
    ("old", "change", "expected"),
    [
        ("y ~ a * b + (1 | g)", ". ~ . - a:b", "y ~ a * b - a:b + (1 | g)"),
        ("y ~ a + b + (1 | g)", ". ~ . - b", "y ~ a + (1 | g)"),
        ("y ~ a + (1|g) + (0 + a | g)", ". ~ . - (0+a|g)", "y ~ a + (1|g)"),
        ("y ~ a + (1 | g)", "log(.) ~ . + (1 | h)", "log(y) ~ a + (1 | g) + (1 | h)"),
        ("y / 2 ~ a + (1 | g)", "sqrt(.) ~ .", "sqrt(y / 2) ~ a + (1 | g)"),
        ("y / 2 ~ a + (1 | g)", "2 * . ~ .", "2 * (y / 2) ~ a + (1 | g)"),
        ("y ~ a + (1 | g)", ". ~ b + (a | g)", "y ~ b + (a | g)"),
        ("y ~ 1 + (1 | g)", ". ~ . - 1 + a", "y ~ a + (1 | g)"),
        ("y ~ a + (1 | g)", ". ~ . + a", "y ~ a + (1 | g)"),
        ("y ~ a - 1 + offset(o) + (1 | g)", ". ~ . - offset(o) + log(x)", "y ~ a - 1 + log(x) + (1 | g)"),
        ("y ~ a + ar1(t | g, correlation=0.5)", "z ~ .", "z ~ a + ar1(t | g, correlation=0.5)"),
        ("`a b` ~ x", ". ~ . + I(x - 1)", "`a b` ~ x + I(x - 1)"),
    ],
)
def test_formulas_with_dots(old, change, expected):
    assert updated(old, change).replace(" ", "") == expected.replace(" ", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (". ~ . - (1 | h)", r"\(1 \| h\) cannot be taken out; random-effect terms are \(1 \| g\)"),
        (". ~ . - w", "w cannot be taken out; terms are a"),
        (". ~ - .", "all terms cannot be taken out"),
        (". + x", "one '~'"),
        (". ~ . +", "a term is missing"),
    ],
)
def test_changes_that_are_none(change, message):
    with pytest.raises(FormulaError, match=message):
        updated("y ~ a + (1 | g)", change)


def test_update_fits_again(sleep):
    found = sleep.update(". ~ . - (Days | Subject) + (1 | Subject)", method="ML")
    expected = jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", jaxlmm.datasets.load("sleepstudy"), method="ML")
    assert found.loglik == expected.loglik and found.method == "ML"
    assert sleep.update().loglik == sleep.loglik
    with pytest.raises(TypeError, match=r"Fit\.update: no option 'weight'; did you mean 'weights'"):
        sleep.update(weight="w")


def test_update_of_a_loaded_fit_and_of_changed_data(tmp_path):
    data = jaxlmm.datasets.load("sleepstudy")
    fit = jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", data)
    fit.save(tmp_path / "fit.jlmm")
    again = jaxlmm.load(tmp_path / "fit.jlmm").update(". ~ . - Days")
    data["Reaction"] = 0.0
    assert fit.update(". ~ . - Days").loglik == pytest.approx(again.loglik, abs=1e-9)


def test_likelihood_ratio_tests_of_fixed_effects(cakes):
    """lme4: 2 (logLik(m) - logLik(m0)), m0 without the columns of a term in contr.sum coding; the last is drop1(m)."""
    found = cakes.drop1().frame()
    assert list(found["term"]) == ["(the model)", "recipe", "temperature", "recipe:temperature"]
    np.testing.assert_allclose(found["statistic"][1:], [3.204172898, 89.50829734, 10.53038306], rtol=1e-6)
    np.testing.assert_allclose(found["df"][1:], [2, 5, 10])
    np.testing.assert_allclose(found["p_value"][1:], [0.2014757103, 8.523283827e-18, 0.3952548799], rtol=1e-5)
    np.testing.assert_allclose(found["aic"].iloc[[0, 3]], [1680.4451, 1670.9754], atol=1e-4)


def test_random_effects_as_in_lmertest(sleep, cakes):
    """ranova(): its p values are those of chi2; the mixture's are smaller."""
    found = sleep.ranova(law="chi2").frame()
    assert list(found["term"]) == ["(the model)", "Days in (1 + Days | Subject)"]
    np.testing.assert_allclose(found["statistic"][1], 42.83681343, rtol=1e-6)
    np.testing.assert_allclose(found["p_value"][1], 4.990041431e-10, rtol=1e-5)
    np.testing.assert_allclose(found["aic"], [1755.628272, 1794.465085], rtol=1e-8)
    mixture = sleep.ranova()
    assert mixture.p[1] < found["p_value"][1] and "chi2(1)" in mixture.references[1]
    nested = cakes.ranova(law="chi2")
    np.testing.assert_allclose(nested.statistic[1:], [8.085386389, 37.89969746], rtol=1e-5)
    assert nested.terms[1:] == ("(1 | recipe:replicate)", "(1 | replicate)")


@pytest.mark.slow
def test_rows_stay_those_of_the_fit():
    """A smaller model does not take back rows that miss only what is left out, nor other weights."""
    data = jaxlmm.datasets.load("sleepstudy")
    rng = np.random.default_rng(0)
    data = data.assign(x=rng.normal(size=180), h=rng.integers(0, 6, 180))
    data.loc[[3, 50, 77], "x"] = np.nan
    fit = jaxlmm.lmm("Reaction ~ Days + x + (1 | Subject) + (0 + x | h)", data, weights=rng.uniform(1, 2, 180))
    found = fit.ranova()
    assert found.terms[1:] == ("(1 | Subject)", "(0 + x | h)") and np.isfinite(found.p).sum() == 2
    step = fit.step()
    assert step.fit.nobs == 177


def test_backward_elimination(cakes):
    """lmerTest's step(): the interaction goes, then recipe; random effects stay."""
    found = cakes.step()
    assert found.terms == ("recipe:temperature", "recipe") and found.kinds == ("fixed", "fixed")
    np.testing.assert_allclose(found.p, [0.43927, 0.22419], atol=2e-5)
    assert [name for name, *_ in found.fit.frame.formula.side.terms] == ["temperature"]
    assert "replicate" in found.formulas[-1] and "Backward elimination" in str(found)


@pytest.mark.slow
def test_down_to_a_linear_model():
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(12), 5)
    data = {"g": g, "x": rng.normal(size=60), "y": rng.normal(size=60)}
    fit = jaxlmm.lmm("y ~ x + (1 | g)", data)
    found = fit.step(alpha_random=0.3)
    assert found.kinds[0] == "random" and not found.fit.model.random
    assert found.fit.frame.residual is not None or found.fit.call.residual == "iid()"


@pytest.mark.slow
def test_advice():
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(10), 6)
    x = rng.normal(size=60)
    y = x + rng.normal(size=10)[g] + rng.normal(size=60)
    y -= np.array([np.polyfit(x[g == k], y[g == k], 1)[0] for k in range(10)])[g] * x * 0.9
    data = {"g": g, "x": x, "y": y}
    fit = jaxlmm.lmm("y ~ x + (1 | g) + (0 + x | g)", data)
    assert fit.singular
    said = "\n".join(fit.advise(n=200).sentences)
    assert "on the boundary: g: no variance along +1 x" in said
    assert "Without (0 + x | g) the AIC is" in said and "smaller than" in said and "law of one variance" in said
    interior = jaxlmm.lmm("y ~ x + (1 | g)", data).advise()
    assert interior.sentences == ("The fit has converged at an interior optimum: nothing needs to be done.",)


@pytest.mark.slow
def test_columns_with_unusual_names_are_terms_as_others():
    """Step, ranova and predictions of columns with spaces, or named as functions are, by plain names."""
    rng = np.random.default_rng(4)
    g, x, c = np.repeat(np.arange(10), 6), rng.normal(size=60), np.tile(["p", "q"], 30)
    y = rng.normal(size=10)[g] + rng.normal(size=60)
    plain = jaxlmm.lmm("y ~ x + k * w + (x | g) + (1 | h)", {"y": y, "x": x, "k": c, "w": x**2, "g": g, "h": g % 7})
    data = {"the y": y, "an x": x, "C": c, "w": x**2, "the g": g, "h": g % 7}
    fit = jaxlmm.lmm("`the y` ~ `an x` + C * w + (`an x` | `the g`) + (1 | h)", data)
    found, expected = fit.step(), plain.step()
    names = {"x": "an x", "k": "C", "g": "`the g`"}
    np.testing.assert_allclose(found.p, expected.p, rtol=1e-6)
    fixed = [term for kind, term in zip(expected.kinds, expected.terms, strict=True) if kind == "fixed"]
    assert len(fixed) >= 2
    assert list(found.terms[-len(fixed) :]) == [":".join(names.get(t, t) for t in term.split(":")) for term in fixed]
    assert fit.ranova().terms[1:] == ("an x in (1 + `an x` | `the g`)", "(1 | h)")
    for name, own in (("the g", "g"), ("(`an x` | `the g`)", "(x | g)"), ("(1 + an x | the g)", "(1 + x | g)")):
        np.testing.assert_allclose(fit.predict(random=name), plain.predict(random=own), rtol=1e-6)
    both = jaxlmm.lmm("cbind(w, y) ~ 1 + (1 | `the g`)", {"w": x, "y": y, "the g": g})
    assert both.frame.parts[0].group == "the g"
    assert "The responses were w and y, stacked; fixed effects were no intercept and trait." in both.report()


def test_no_random_effects_to_leave_out(sleep):
    with pytest.raises(DataError, match="law: found 'exact'"):
        sleep.ranova(law="exact")
    plain = jaxlmm.lmm("Reaction ~ Days", jaxlmm.datasets.load("sleepstudy"), residual="iid()")
    with pytest.raises(DataError, match="no random effects to be left out"):
        plain.ranova()


def test_structures_in_turn():
    """The first that converges is taken; the others are in the table with what happened."""
    rng = np.random.default_rng(5)
    visits, people = 6, 5
    data = {
        "id": np.repeat(np.arange(people), visits), "visit": np.tile(np.arange(visits), people),
        "y": (rng.normal(size=people)[:, None] + rng.normal(size=(people, visits))).ravel(),
    }  # fmt: skip
    found = jaxlmm.lmm_in_turn("y ~ visit", data, ["nonsense(visit | id)", {"residual": "cs(visit | id)"}, "iid()"])
    assert found.fit.converged and found.fit.call.residual == "cs(visit | id)"
    assert [a.status for a in found.attempts] == ["refused", "converged"]
    assert "nonsense" in str(found) and list(found.frame()["model"])[1] == "residual: cs(visit | id)"
    assert np.isnan(found.frame()["loglik"][0])
    with pytest.raises(DataError, match="none of 1 models converged.*nonsense"):
        jaxlmm.lmm_in_turn("y ~ visit", data, ["nonsense(visit | id)"])
    with pytest.raises(DataError, match="alternatives: found 'cs"):
        jaxlmm.lmm_in_turn("y ~ visit", data, "cs(visit | id)")
