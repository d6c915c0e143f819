"""Moderated tests and false discovery rates against R's limma 3.54 and qvalue."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import polygamma

import jaxlmm
from jaxlmm.errors import DataError
from jaxlmm.inference.many.discoveries import null_share, qvalues
from jaxlmm.inference.many.moderated import _trigamma_inverse, shrunken

S2 = np.array([0.02, 0.31, 1.7, 4.2, 0.9, 0.11, 9.5, 2.2, 0.6, 0.07, 3.1, 0.4])
DF = np.array([4.5, 7, 6.2, 9, 5, 5, 8.8, 6, 7.5, 4, 6, 5.5])
Y = np.array([
    [-0.354, 0.031, -0.264, 0.45, -0.178, 0.331, 0.478, 0.625],
    [-0.161, 0.613, 0.139, 0.11, -0.407, 0.467, 0.021, -0.436],
    [0.212, -0.998, 0.124, -0.474, 0.95, 0.596, -0.802, 0.285],
    [-1.407, 1.548, -0.376, -1.151, 1.236, 0.9, 0.97, -2.767],
    [0.357, -1.357, -1.737, -0.371, -0.131, -0.642, 1.433, -0.296],
    [0.082, -3.075, -1.762, -4.53, -3.09, 1.918, -0.844, 3.074],
])  # fmt: skip
P = np.array("""
    0.01129 0.08665 0.01707 0.00015 0 0.13154 0.00174 1e-05 0 0.03621 1e-05 0.00154 0 0.04586 0.00489 0.00386 0
    0.00032 0.09358 0.17886 0 0.01394 0.00084 0.0249 0.00352 0.13419 0.00151 0.07129 9e-05 1e-05 0.07926 0.29206
    0.84037 0.94527 0.04497 0.75838 0.29689 0.65105 0.08499 0.97548 0.01362 0.53887 0.96578 0.10107 0.25675 0.89515
    0.38794 0.79429 0.3494 0.13874 0.65051 0.544 0.94524 0.57175 0.95363 0.78025 0.11828 0.83711 0.08716 0.7486
    0.06518 0.0777 0.10508 0.40669 0.97496 0.16483 0.50305 0.20155 0.19972 0.17814 0.27387 0.13062 0.85869 0.64516
    0.6028 0.97198 0.37666 0.81911 0.22674 0.20651 0.19429 0.24057 0.97972 0.52425 0.82637 0.67089 0.97771 0.05765
    0.33674 0.01261 0.36286 0.20969 0.15212 0.93581 0.40109 0.48584 0.68149 0.85404 0.91292 0.47586
""".split(), float)  # fmt: skip


def test_variances_are_those_of_limma():
    """squeezeVar(s2, df), and one without variation beyond that of chi-squared."""
    found = shrunken(S2, DF)
    np.testing.assert_allclose([found.prior_df, found.prior], [1.41407995607, 0.326908515739], rtol=1e-9)
    expected = [0.0933830424475, 0.3128416646048, 8.2300388425692, 0.3850511993628]
    np.testing.assert_allclose(found.variance[[0, 1, 6, 11]], expected, rtol=1e-9)
    same = shrunken(np.array([1, 1.1, 0.9] * 4), np.full(12, 5.0))
    assert np.isinf(same.prior_df) and same.prior == pytest.approx(1.0) and np.all(same.variance == same.prior)
    with_gaps = shrunken(np.append(S2, [np.nan, 0.0]), np.append(DF, [3.0, 3.0]))
    np.testing.assert_allclose(with_gaps.variance[:12], found.variance, rtol=1e-12)
    assert np.isnan(with_gaps.variance[12:]).all()


def test_variances_of_nearly_nothing_do_not_make_the_prior():
    """limma's fitFDist raises them to 1e-5 of the median; and the inverse of trigamma is that of any variance."""
    s2, df = np.append(S2, 1e-30), np.append(DF, 5.0)
    floor = 1e-5 * np.median(s2)
    found, raised = shrunken(s2, df), shrunken(np.append(S2, floor), df)
    np.testing.assert_allclose([found.prior, found.prior_df], [raised.prior, raised.prior_df], rtol=1e-12)
    expected = (5.0 * 1e-30 + found.prior_df * found.prior) / (5.0 + found.prior_df)
    assert found.variance[-1] == pytest.approx(expected)
    for y in (1e-6, 1e-3, 1.0, 40.0, 1e5, 1e9):
        assert _trigamma_inverse(float(polygamma(1, y))) == pytest.approx(y, rel=1e-6)


@pytest.fixture(scope="module")
def linear():
    X = np.column_stack([np.ones(8), np.repeat([0.0, 1.0], 4)])
    tests = jaxlmm.Tests(np.array([[0.0, 1.0]]), df="residual")
    return jaxlmm.fit_batch(jaxlmm.Model(Y[0], X), Y, tests=tests)


def test_moderated_tests_are_topTable(linear):
    """eBayes(lmFit(y, ~ g)), topTable(coef = 2)."""
    found = linear.tests["residual"].moderated(linear.sigma)
    t = [1.120081963781, -0.823850808321, 1.153207547689, 0.411707348219, 1.396904559446, 1.711438384541]
    p = [0.296185966926, 0.434642541264, 0.283148632741, 0.691704069785, 0.201142557020, 0.126578099551]
    np.testing.assert_allclose(found.statistic[:, 0], t, rtol=1e-8)
    np.testing.assert_allclose(found.p[:, 0], p, rtol=1e-8)
    np.testing.assert_allclose(found.df[:, 0], 7.75011364904, rtol=1e-9)
    np.testing.assert_allclose(found.joint, np.square(t), rtol=1e-8)  # one row: F is t squared
    np.testing.assert_allclose(found.joint_p, p, rtol=1e-8)
    top = found.top(3, names=list("abcdef"))
    assert list(top["dataset"]) == ["f", "e", "c"]
    np.testing.assert_allclose(top["q_value"], 0.444278950390, rtol=1e-8)
    joint = found.top(2, hypothesis=None)
    assert list(joint["dataset"]) == [5, 4] and "num_df" in joint


def test_false_discovery_rates():
    """p.adjust(p, "BH"); qvalue(p, pi0.method = "bootstrap")."""
    bh = [0.0594210526316, 0.2490285714286, 0.0742173913043, 0.0015, 0.0, 0.3195, 0.0116, 0.000125]
    np.testing.assert_allclose(qvalues(P)[:8], bh, rtol=1e-10)
    assert null_share(P) == pytest.approx(0.6375)
    np.testing.assert_allclose(qvalues(P, "storey")[:8], 0.6375 * np.array(bh), rtol=1e-10)
    gaps = qvalues(np.append(P, np.nan))
    assert np.isnan(gaps[-1]) and gaps[0] == pytest.approx(bh[0])
    tied = qvalues(np.array([0.01, 0.04, 0.04, 0.04, 0.9]))
    np.testing.assert_allclose(tied, [0.05, 0.05, 0.05, 0.05, 0.9])
    assert np.isnan(qvalues(np.full(3, np.nan), "storey")).all()


def test_no_null_above_the_cut_is_no_share_of_zero():
    """Of p values that are all small every q value was zero; R's qvalue is an error there."""
    p = np.array([0.001, 0.01, 0.02, 0.03, 0.04])
    assert null_share(p) == pytest.approx(1 / (5 * 0.95))
    np.testing.assert_allclose(qvalues(p, "storey"), qvalues(p) / (5 * 0.95))


def test_pictures(linear):
    pytest.importorskip("matplotlib").use("Agg")
    ax = linear.plot.volcano(q=0.9)
    assert ax.get_ylabel() == "-log10 p" and "with q" in ax.get_legend().get_texts()[0].get_text()
    axes = linear.plot.p_values(linear.tests["residual"].moderated(linear.sigma))
    assert len(axes) == 2
    assert [t.get_text() for t in linear.plot.variances(["residual"]).get_xticklabels()] == ["residual"]
    with pytest.raises(DataError, match="names: expected 1, for sigma; found 2"):
        linear.plot.variances(["a", "b"])
    with pytest.raises(DataError, match="tests: found 'kr', expected one of residual"):
        linear.plot.volcano("kr")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: b.tests["residual"].moderated([1.0]), r"sigma: expected \(6,\)"),
        (lambda b: b.tests["residual"].top(names=["a"]), "names: expected 6"),
        (lambda b: b.tests["residual"].top(hypothesis=4), "hypothesis: found 4"),
        (lambda b: b.tests["residual"].top(method="q"), "method: found 'q'"),
        (lambda b: shrunken(np.ones(2), np.ones(2)), "at least 3 responses"),
    ],
)
def test_messages(linear, call, message):
    with pytest.raises(DataError, match=message):
        call(linear)
