"""Types II and III as R's lmerTest 3.1 and as SAS have them: crossed transforms, no intercept, one term."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import jaxlmm
from jaxlmm.errors import DataError
from jaxlmm.inference.hypotheses.coding import term_hypotheses

LEFT_OUT = [0, 6, 29, 54, 89, 90, 101]


@functools.cache
def fit(terms):
    data = jaxlmm.datasets.load("orthodont").drop(index=LEFT_OUT)
    data["Sex"], data["visit"] = data.Sex.astype(str), pd.Categorical(data.age)
    return jaxlmm.lmm(f"distance ~ {terms} + (1 | Subject)", data)


def rows(terms, type, **options):
    return fit(terms).anova(type, **options).frame()[["statistic", "num_df", "den_df"]].to_numpy()


# lmerTest: a poly, scale, bs or ns that is crossed with a factor contains it as another factor would
TYPE_TWO = {
    "Sex * age": [(0.45235519, 1, 96.658354), (115.54682574, 1, 72.168294), (6.12826997, 1, 72.120572)],
    "Sex * poly(age, 2)": [(9.6860882, 1, 24.939796), (56.7404598, 2, 70.535846), (3.0935916, 2, 70.613411)],
    "Sex * scale(age)": [(9.718624, 1, 24.958361), (115.546825, 1, 72.168294), (6.128270, 1, 72.120572)],
    "Sex * bs(age, df=3)": [(9.7266472, 1, 24.918573), (37.0706443, 3, 68.533872), (2.0673815, 3, 68.564962)],
    "Sex * log(age)": [(2.6939010, 1, 79.503295), (110.6729816, 1, 72.203422), (5.8165233, 1, 72.147431)],
}
TYPE_THREE = {
    "Sex * poly(age, 2)": [(9.6784439, 1, 24.942307), (50.5421997, 2, 70.613411), (3.0935916, 2, 70.613411)],
    "Sex * bs(age, df=3)": [(3.2038232, 1, 47.218237), (32.9407424, 3, 68.564962), (2.0673815, 3, 68.564962)],
}


@pytest.mark.parametrize("terms", TYPE_TWO)
def test_type_two_of_a_factor_crossed_with_a_transform(terms):
    np.testing.assert_allclose(rows(terms, 2), TYPE_TWO[terms], rtol=1e-4)


@pytest.mark.parametrize("terms", TYPE_THREE)
def test_type_three_of_a_factor_crossed_with_a_transform(terms):
    np.testing.assert_allclose(rows(terms, 3), TYPE_THREE[terms], rtol=1e-4)


WITHOUT_INTERCEPT = {
    "0 + Sex + visit": {
        2: [(1201.43533, 2, 33.639652), (35.61628, 3, 71.543079)],
        3: [(1201.43533, 2, 33.639652), (35.61628, 3, 71.543079)],
    },
    "0 + Sex * visit": {
        2: [(1228.7910185, 2, 32.595168), (37.0706437, 3, 68.533927), (2.0673815, 3, 68.565677)],
        3: [(1226.4862749, 2, 33.659165), (32.9407419, 3, 68.565677), (2.0673815, 3, 68.565677)],
    },
    "0 + visit + Sex": {
        1: [(1044.1079716, 4, 48.244884), (9.6197391, 1, 24.919904)],
        3: [(393.0599873, 4, 48.202329), (9.6197391, 1, 24.919904)],
    },
}


@pytest.mark.parametrize("terms", WITHOUT_INTERCEPT)
def test_without_an_intercept_as_lmertest(terms):
    for type, wanted in WITHOUT_INTERCEPT[terms].items():
        np.testing.assert_allclose(rows(terms, type, definition="lmertest"), wanted, rtol=1e-4)


def test_without_an_intercept_as_sas():
    """SAS gives every factor a column a level: without an intercept too there are differences between these to test."""
    for terms in ("0 + Sex + visit", "0 + Sex * visit"):
        with_intercept = rows(terms.removeprefix("0 + "), 3)
        np.testing.assert_allclose(rows(terms, 3), with_intercept, rtol=1e-6)
    assert "hypotheses are those of SAS; definition='lmertest'" in str(fit("0 + Sex + visit").anova())
    assert len(term_hypotheses(fit("0 + Sex"))["Sex"]) == 2  # alone its levels are all that there is


def test_with_an_intercept_the_definitions_agree():
    for type in (2, 3):
        a, b = (rows("Sex * poly(age, 2)", type, definition=which) for which in ("sas", "lmertest"))
        np.testing.assert_allclose(a, b)
    with pytest.raises(DataError, match="definition: found 'R', expected 'sas' or 'lmertest'"):
        fit("Sex * age").anova(definition="R")


def test_one_term_has_one_test_whatever_the_type():
    """lmerTest on unbalanced data: F 34.6954 on 2 and 5.0884 df for every type."""
    data = jaxlmm.datasets.load("machines").drop(index=[0, 1, 2, 7, 19, 29, 30])
    machines = jaxlmm.lmm("score ~ Machine + (Machine | Worker)", data)
    for type in (1, 2, 3):
        found = machines.anova(type).frame().iloc[0]
        np.testing.assert_allclose([found.statistic, found.num_df, found.den_df], [34.69536, 2, 5.08838], rtol=2e-4)


@pytest.mark.parametrize(
    "terms, same",
    [
        ("flag * age", "text * age"),
        ("0 + flag * Sex", "0 + text * Sex"),
        ("I(age > 9) * Sex", "text * Sex"),
        ("poly(age, 2):flag", "poly(age, 2):text"),
        ("C(Sex, [[0.5], [-0.5]]) * flag", "Sex * text"),
    ],
)
def test_coding_does_not_matter(terms, same):
    """True/false and comparisons are the factor of their values, contrasts of one's own those of R."""
    data = fit("Sex").given.assign(flag=lambda d: d.age > 9, text=lambda d: np.where(d.age > 9, "True", "False"))
    a, b = (jaxlmm.interface.model_of(f"distance ~ {x} + (1 | Subject)", data)[0] for x in (terms, same))
    for type in (1, 2, 3):
        found, wanted = (term_hypotheses(SimpleNamespace(frame=x, data=data, given=data), type) for x in (a, b))
        for mine, theirs in zip(found.values(), wanted.values(), strict=True):
            rows, other = (L @ np.linalg.pinv(x.X) for L, x in ((mine, a), (theirs, b)))  # as functions of the means
            np.testing.assert_allclose(np.linalg.pinv(other) @ other, np.linalg.pinv(rows) @ rows, atol=1e-8)
