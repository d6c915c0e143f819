"""Power from a fit: against the noncentral t of designs in which the test is exact."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import jaxlmm
from jaxlmm.study.power import extended, power_curve

EFFECT = 1.5


def trial():
    """Sixteen clusters of four, the arms one after the other; variances that are far from zero."""
    rng, cluster = np.random.default_rng(4), np.repeat(np.arange(16), 4)
    arm = (cluster >= 8).astype(float)
    return {"y": arm + rng.normal(size=16)[cluster] + 0.5 * rng.normal(size=64), "arm": arm, "cluster": cluster}


@pytest.fixture(scope="module")
def fit():
    return jaxlmm.lmm("y ~ arm + (1 | cluster)", trial())


def exact(fit, clusters, effect):
    """Power of the t test of cluster means."""
    between = fit.varcorr().groups[0].cov[0, 0] + fit.sigma**2 / 4
    critical, shift = stats.t.ppf(0.975, clusters - 2), effect / np.sqrt(4 * between / clusters)
    return stats.nct.sf(critical, clusters - 2, shift) + stats.nct.cdf(-critical, clusters - 2, shift)


def test_power_is_that_of_the_noncentral_t(fit):
    found = fit.power("arm", effect=[0.0, EFFECT], n=1000, progress=False)
    expected = [exact(fit, 16, effect) for effect in (0.0, EFFECT)]
    assert expected[0] == pytest.approx(0.05)
    assert (np.abs(found.power - expected) < 4 * np.sqrt(np.array(expected) * (1 - np.array(expected)) / 1000)).all()
    np.testing.assert_allclose(found.mcse, np.sqrt(found.power * (1 - found.power) / 1000), rtol=1e-12)
    assert [row.n for row in found.rows] == [1000, 1000] and "power %" in str(found)
    frame = found.frame()
    assert list(frame["effect"]) == pytest.approx([0.0, EFFECT]) and list(frame["count"]) == [1000, 1000]
    again = fit.power(effect={"arm": EFFECT}, n=1000, progress=False)
    assert again.power[0] == found.power[1]  # the only coefficient, and the same data sets


def test_power_grows_with_clusters_as_the_noncentral_t_says(fit):
    found = power_curve(fit, along="cluster", to=(8, 24), effect=EFFECT, n=600, progress=False)
    expected = np.array([exact(fit, size, EFFECT) for size in (8, 24)])
    assert (np.abs(found.power - expected) < 4 * np.sqrt(expected * (1 - expected) / 600)).all()
    assert list(found.frame()["cluster"]) == [8, 24]


@pytest.mark.slow
def test_several_hypotheses_have_a_joint_test():
    data = {**trial(), "x": np.tile([0.0, 1.0, 2.0, 3.0], 16)}
    fit = jaxlmm.lmm("y ~ arm + x + (1 | cluster)", data)
    found = fit.power(
        ["arm", "x"], {"arm": 0.0, "x": 0.0}, n=800, tests=("satterthwaite", "kenward-roger"), progress=False
    )
    names = [(row.test, row.hypothesis) for row in found.rows]
    assert names == [
        (t, h)
        for t in ("satterthwaite", "kenward-roger")
        for h in ("arm", "x", "all together", "each of them", "any of them")
    ]
    one, other, joint, both, some = found.power.reshape(2, 5).T
    np.testing.assert_allclose(both + some, one + other, atol=1e-12)
    assert (np.abs(np.array([one, other, joint]) - 0.05) < 4.5 * np.sqrt(0.05 * 0.95 / 800)).all()


def test_sizes_take_levels_in_turns_and_nested_ones_with_them():
    data = trial()
    data["ward"] = np.arange(64) // 2
    data["rater"] = np.array(["a", "b"])[np.arange(64) % 2]
    fit = jaxlmm.lmm("y ~ arm + (1 | cluster/ward) + (1 | rater)", data)
    for size in (4, 16, 22):
        new = extended(fit, "cluster", size)
        assert len(np.unique(new["cluster"])) == size and len(new["y"]) == 4 * size
        assert len(np.unique(new["ward"])) == 2 * size and len(np.unique(new["rater"])) == 2
        arms = [new["arm"][new["cluster"] == c][0] for c in np.unique(new["cluster"])]
        assert sum(arms) == size / 2
    original = extended(fit, "cluster", 16)
    assert sorted(original["y"]) == sorted(data["y"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit: fit.power("leg", 1.0), "found coefficient 'leg'"),
        (lambda fit: fit.power(["arm", "(Intercept)"], 1.0), "for one hypothesis"),
        (lambda fit: fit.power("arm", {"leg": 1.0}), "effect: found 'leg'"),
        (lambda fit: fit.power("arm", 1.0, alpha=2.0), "alpha"),
        (lambda fit: fit.power("arm", 1.0, tests="kr"), "found 'kr'"),
        (lambda fit: power_curve(fit, along="arm", to=20), "along: found 'arm', expected a grouping factor: cluster"),
        (lambda fit: power_curve(fit, along="cluster", to=(1, 20)), "to: expected numbers of levels"),
        (lambda fit: power_curve(fit, along="cluster", to=()), "to: expected numbers of levels"),
        (lambda fit: fit.power("arm", []), "effect: expected a number or several for one hypothesis"),
        (lambda fit: fit.power("arm", {"arm": np.nan}), "effect: expected finite numbers"),
        (lambda fit: fit.power("arm", 1.0, n=0), "n: expected at least one, found none"),
        (lambda fit: power_curve(fit, along="cluster", to=20, tests=()), "tests: expected at least one, found none"),
    ],
)
def test_what_cannot_be_asked(fit, call, message):
    with pytest.raises(jaxlmm.DataError, match=message):
        call(fit)
