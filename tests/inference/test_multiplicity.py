"""Adjusted p values and limits against exact integrals, scipy's studentized range and R's mvtnorm."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, special, stats

from jaxlmm.inference.means.multiplicity import METHODS, Reach, adjusted, critical, range_tail


def dunnett(limit, k, df):
    """P(max |T_i| > limit) for k groups against a control of the same size: a double integral."""
    z, w = np.polynomial.hermite_e.hermegauss(100)
    w = w / w.sum()

    def given(s):
        inside = special.ndtr(z + np.sqrt(2) * limit * s) - special.ndtr(z - np.sqrt(2) * limit * s)
        return (1 - w @ inside**k) * stats.chi.pdf(s * np.sqrt(df), df) * np.sqrt(df)

    return integrate.quad(given, 0, 5, epsabs=1e-10, points=[1], limit=200)[0]


def equal_correlation(k):
    return 0.5 + 0.5 * np.eye(k)


def of_pairs(k):
    D = np.array([np.eye(k)[i] - np.eye(k)[j] for i in range(k) for j in range(i + 1, k)])
    return D @ D.T / 2


@pytest.mark.parametrize(("k", "df", "atol"), [(2, 7.5, 1e-7), (3, 12.0, 5e-6), (5, 20.0, 1e-5), (10, 60.0, 1e-4)])
def test_dunnett_is_exact(k, df, atol):
    for limit in (2.3, 3.1):
        found = Reach(equal_correlation(k)).exceed(np.array([limit]), np.array([df]))[0]
        assert found == pytest.approx(dunnett(limit, k, df), abs=atol)


@pytest.mark.parametrize(("k", "atol"), [(3, 1e-8), (5, 1e-5)])
def test_pairs_of_independent_means_have_tukeys_range(k, atol):
    """A singular correlation matrix: k (k - 1) / 2 differences of k means."""
    for t, df in ((2.1, 9.3), (3.4, 40.0), (2.5, np.inf)):
        found = Reach(of_pairs(k)).exceed(np.array([t]), np.array([df]))[0]
        assert found == pytest.approx(range_tail(np.sqrt(2) * t, k, df), abs=atol)


def test_any_correlation():
    """R: 1 - pmvt(-c, c, df = 11, corr = A, GenzBretz(maxpts = 2e6)), whose error estimate is 3e-5 to 5e-5."""
    A = np.array([[1, 0.3, -0.2, 0.5], [0.3, 1, 0.4, 0.1], [-0.2, 0.4, 1, 0.6], [0.5, 0.1, 0.6, 1]])
    found = Reach(A).exceed(np.array([1.5, 2.4, 3.2]), np.full(3, 11.0))
    np.testing.assert_allclose(found, [0.416933, 0.1093799, 0.0282626], atol=4e-5)
    assert critical("mvt", 0.95, np.full(4, 11.0), A, 0)[0] == pytest.approx(2.8662, abs=1e-3)


def test_one_comparison_is_a_t_test():
    t, df = np.array([2.2]), np.array([8.4])
    plain = 2 * stats.t.sf(2.2, 8.4)
    for method in METHODS:
        assert adjusted(method, t, df, np.eye(1), 2)[0] == pytest.approx(plain, rel=1e-8)
        limit = critical(method, 0.9, df, np.eye(1), 2)[0]
        assert limit == pytest.approx(stats.t.isf(0.05, 8.4), rel=1e-7)


def of_range(q, k, df):
    """P(studentized range > q) by quadrature over the smallest mean and over the standard error."""
    z, w = np.polynomial.legendre.leggauss(200)
    z, w = 9 * z, 9 * w * stats.norm.pdf(9 * z)
    inner = lambda s: 1 - k * w @ (special.ndtr(z + q * s) - special.ndtr(z)) ** (k - 1)  # noqa: E731
    if np.isinf(df):
        return inner(1.0)
    mix = lambda s: inner(s) * stats.chi.pdf(s * np.sqrt(df), df) * np.sqrt(df)  # noqa: E731
    low, high = stats.chi.ppf([1e-15, 1 - 1e-15], df) / np.sqrt(df)
    return integrate.quad(mix, low, high, epsabs=1e-12, limit=400)[0]


@pytest.mark.parametrize("df", [1.3, 4.5, 60.0, 3e5, np.inf])
@pytest.mark.parametrize("k", [3, 40])
def test_the_studentized_range(df, k):
    q = np.array([1.0, 3.5, 6.0, 25.0])
    np.testing.assert_allclose(range_tail(q, k, df), [of_range(x, k, df) for x in q], rtol=0, atol=2e-9)


def test_the_studentized_range_far_out():
    """By quadrature over the logarithm of the standard error; limits where tails are long."""
    expected = {(3, 0.4, 1e6): 0.003737, (3, 1.0, 1e4): 0.000135, (8, 1.0, 1e6): 2.272e-6, (8, 2.0, 1e4): 8.779e-8}
    for (k, df, q), p in expected.items():
        assert range_tail(q, k, df) == pytest.approx(p, rel=1e-3)
    for df in (0.4, 1.0):
        limit = critical("tukey", 0.999, np.full(6, df), of_pairs(4), 4)
        np.testing.assert_allclose(adjusted("tukey", limit, np.full(6, df), of_pairs(4), 4), 1e-3, rtol=1e-5)


def test_limits_at_many_degrees_of_freedom():
    """Those that are interpolated are those that are found one by one."""
    df = np.array([np.inf, 3e5, *np.geomspace(1.5, 300, 18)])
    for method in ("tukey", "mvt"):
        alone = [critical(method, 0.9, df[i : i + 1].repeat(6), of_pairs(4), 4)[0] for i in range(0, 20, 3)]
        repeated = np.r_[df, df, df][: 6 * 10]
        np.testing.assert_allclose(critical(method, 0.9, repeated, of_pairs(4), 4)[0:20:3], alone, rtol=1e-7)


def test_the_range_of_normal_means():
    """Closed form for two, and the table's 3.314 for three."""
    assert range_tail(2.5, 2, np.inf) == pytest.approx(2 * stats.norm.sf(2.5 / np.sqrt(2)), abs=1e-12)
    assert range_tail(3.3145, 3, np.inf) == pytest.approx(0.05, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_limits_and_p_values_agree(method):
    """A statistic at the limit has p = 1 - level (where all are equal, for the stepwise ones)."""
    df = np.full(6, 12.5)
    limit = critical(method, 0.95, df, of_pairs(4), 4)
    p = adjusted(method, limit, df, of_pairs(4), 4)
    expected = 0.05 / 6 if method in ("hochberg", "hommel", "fdr") else 0.05
    np.testing.assert_allclose(p, expected, rtol=1e-6)


def test_stepwise_methods():
    """R: p.adjust(c(.01, .04, .03, .005), "holm"), "fdr"."""
    t = stats.norm.isf(np.array([0.01, 0.04, 0.03, 0.005]) / 2)
    found = [adjusted(m, -t, np.full(4, np.inf), np.eye(4), 0) for m in ("holm", "fdr", "sidak")]
    np.testing.assert_allclose(found[0], [0.03, 0.06, 0.06, 0.02], rtol=1e-9)
    np.testing.assert_allclose(found[1], [0.02, 0.04, 0.04, 0.02], rtol=1e-9)
    np.testing.assert_allclose(found[2], 1 - (1 - np.array([0.01, 0.04, 0.03, 0.005])) ** 4, rtol=1e-9)


def test_bounds_hold_far_out():
    """Never below one test's p value nor above Bonferroni's, where quadrature has no digits left."""
    t, df = np.array([3.0, 12.0, 30.0]), np.array([25.0, 80.0, np.inf])
    plain = adjusted("none", t, df, equal_correlation(3), 3)
    for method in ("tukey", "mvt"):
        p = adjusted(method, t, df, equal_correlation(3), 3)
        assert np.all(p >= plain) and np.all(p <= 3 * plain + 1e-9) and p[2] < 1e-9
