"""Hostile data: every lane ends in a certified optimum that many starts elsewhere do not beat, or in a fitting status.

A line of counts a case is printed: ``pytest -rP tests/torture`` or ``pytest -s``.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import jaxlmm
import oracle
from cases import some
from jaxlmm import Model, Status, Term
from torture import hostile, search
from torture.hostile import CASES

SEEDS = 20  # of the slow runs
DAILY = (
    "scales of every column", "repeated and empty columns of z", "every row its own group with weights", "two groups",
    "groups in x", "nested with single members", "not finite", "beyond the range of squares",
)  # fmt: skip


def fit(batch):
    return jaxlmm.fit_batch(batch.models if batch.Y is None else batch.models[0], batch.Y)


def is_finite(found, i):
    """Whether all estimates of a lane are numbers; a zero variance is minus infinity in theta."""
    numbers = [found.loglik, found.sigma, found.coef, found.vcov, *found.varcorr]
    return all(np.all(np.isfinite(a[i])) for a in numbers) and not np.any(np.isnan(found.theta[i]))


def faults(found, i, model, seed):
    """What is wrong with a lane that claims to have converged, and whether it is ahead of the search."""
    if not is_finite(found, i):
        return ["has numbers that are not finite"], False
    rows = search.Rows.of(model)
    loglik, theta = float(found.loglik[i]), found.theta[i]
    tolerance = rows.tolerance(loglik)
    best, own = search.best_loglik(model, seed, rows=rows), search.loglik_at(model, theta, rows)
    coef, se = search.coefficients_at(model, theta, rows)
    off = max(np.max(np.abs(found.coef[i] - coef) / se), np.max(np.abs(found.se[i] / se - 1)))
    out = []
    if not loglik >= best - tolerance:
        out.append(f"stops at {loglik:.9f}, the search at {best:.9f} (tolerance {tolerance:.1e})")
    if not abs(own - loglik) <= tolerance:
        out.append(f"says {loglik:.9f}, but its own theta has {own:.9f} (tolerance {tolerance:.1e})")
    if not off <= tolerance:
        out.append(f"has coefficients that are {off:.1e} standard errors from those of its own theta")
    return out, loglik > best + tolerance


def examine(name, seed):
    """Counts of statuses and a sentence on every lane with a fault."""
    batch = CASES[name](np.random.default_rng([seed, *name.encode()]))
    found = fit(batch)
    assert len(found) == len(batch)
    counts, wrong = Counter(), []
    for i, allowed in enumerate(batch.allowed):
        status = Status(found.status[i]).name
        counts[status] += 1
        lane = [] if status in allowed else [f"is {status}, expected {' or '.join(sorted(allowed))}"]
        if status == "CONVERGED":
            problems, ahead = faults(found, i, batch.lane(i), seed)
            lane += problems
            counts["singular"] += bool(found.singular[i])
            counts["ahead of the search"] += int(ahead)
        wrong += [f"{name}, seed {seed}, lane {i}: {sentence}" for sentence in lane]
    return counts, wrong


def report(name, counts, record):
    """Print one line."""
    lanes = sum(count for key, count in counts.items() if key.isupper())
    text = ", ".join(f"{count} {key}" for key, count in sorted(counts.items()) if count)
    record("statuses", text)
    print(f"{name}: {lanes} lanes: {text}")


@pytest.mark.parametrize("name", some(CASES, *DAILY))
def test_hostile(name, record_property):
    counts, wrong = examine(name, 0)
    report(name, counts, record_property)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CASES)
def test_hostile_of_many_seeds(name, record_property):
    counts, wrong = Counter(), []
    for seed in range(1, SEEDS + 1):
        more, faulty = examine(name, seed)
        counts += more
        wrong += faulty
    report(name, counts, record_property)
    assert not wrong, "\n".join(wrong)


# ---------------------------------------------------------------------------- very many


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lanes", "together"), [(40, 8), pytest.param(3000, 3000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_several_optima(lanes, together):
    """The smallest data sets have the most optima; none of many may be missed."""
    rng = np.random.default_rng([0, lanes])
    models, wrong = [hostile.few_rows(rng) for _ in range(lanes)], []
    for start in range(0, lanes, together):
        found = jaxlmm.fit_batch(models[start : start + together])
        for i, status in enumerate(found.status):
            converged = status == Status.CONVERGED
            sentences = (
                faults(found, i, models[start + i], start + i)[0] if converged else [f"is {Status(status).name}"]
            )
            wrong += [f"{start + i} {sentence}" for sentence in sentences]
    assert not wrong, f"{len(wrong)} of {lanes} lanes:\n" + "\n".join(wrong)


@pytest.mark.parametrize("lanes", [256, pytest.param(20_000, marks=pytest.mark.slow)])
def test_many_lanes_against_closed_forms(lanes, record_property):
    """Balanced data of all scales, half of them without a variance between groups, some with holes."""
    rng = np.random.default_rng(lanes)
    effect = np.where(np.arange(lanes) % 2, 1.0, 0.0)[:, None, None] * rng.normal(size=(lanes, 8, 1))
    tables = rng.normal(size=(lanes, 1, 1)) + effect + rng.normal(size=(lanes, 8, 6))
    scale = 10 ** rng.uniform(-8, 8, lanes)
    Y = tables.reshape(lanes, 48) * scale[:, None]
    bad = rng.random(lanes) < 0.1
    Y[bad, rng.integers(0, 48, bad.sum())] = rng.choice([np.nan, np.inf, -np.inf], bad.sum())
    model = Model(tables[0].ravel(), np.ones((48, 1)), [Term(np.ones(48), np.repeat(np.arange(8), 6))])
    found = jaxlmm.fit_batch(model, Y)
    report("closed forms", Counter(Status(s).name for s in found.status), record_property)
    np.testing.assert_array_equal(found.status, np.where(bad, Status.BAD_RESPONSE, Status.CONVERGED))
    good = np.flatnonzero(~bad)
    truth = np.array([oracle.one_way_estimates(t) for t in tables[good]])
    expected = np.array([oracle.one_way_loglik(t, *e) for t, e in zip(tables[good], truth, strict=True)])
    np.testing.assert_allclose(found.loglik[good], expected - 47 * np.log(scale[good]), rtol=0, atol=1e-7)
    np.testing.assert_array_equal(found.singular[good], truth[:, 0] == 0)
    np.testing.assert_allclose(found.varcorr[0][good, 0, 0] / scale[good] ** 2, truth[:, 0], atol=1e-7)


@pytest.mark.parametrize("groups", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_many_groups(groups):
    """Three rows a group on average, some groups with one."""
    rng = np.random.default_rng(groups)
    model = hostile.slopes(rng, n=3 * groups, groups=groups)
    roots = [np.eye(2), np.zeros((2, 2)), np.diag([1.0, 0.0]), np.array([[1.0, 0.0], [-1.0, 0.0]])]
    Y = np.concatenate([hostile.responses(rng, model, root, b=1) for root in roots])
    found = jaxlmm.fit_batch(model, Y)
    assert found.converged.all()
    for i, y in enumerate(Y):
        best = search.best_loglik_by_group(model.replace(y=y))
        assert found.loglik[i] >= best - 1e-6 - 1e-9 * abs(best)
        assert found.loglik[i] <= best + 1e-3  # and it is a likelihood of the same model


# ---------------------------------------------------------------------------- neighbours


def test_lanes_without_numbers_do_not_disturb_the_others():
    model = CASES["scales of y"](np.random.default_rng(1)).models[0]
    Y = hostile.responses(np.random.default_rng(2), model)
    clean = jaxlmm.fit_batch(model, Y)
    Y[::2, 5] = np.nan, np.inf, -np.inf, 1e300
    found = jaxlmm.fit_batch(model, Y)
    assert not found.converged[::2].any()
    np.testing.assert_array_equal(found.status[1::2], clean.status[1::2])
    np.testing.assert_allclose(found.loglik[1::2], clean.loglik[1::2], rtol=1e-12)
    np.testing.assert_allclose(found.coef[1::2], clean.coef[1::2], rtol=1e-10)
    for field in (found.loglik, found.sigma, found.coef, found.theta, found.vcov):
        assert np.all(np.isnan(field[:6:2]))


def test_a_lane_that_fits_perfectly_does_not_disturb_the_others():
    batch = CASES["perfect fits"](np.random.default_rng(3))
    together, alone = fit(batch), jaxlmm.fit_batch(batch.models[0], batch.Y[-2:])
    np.testing.assert_array_equal(together.status[-2:], alone.status)
    np.testing.assert_allclose(together.loglik[-2:], alone.loglik, rtol=1e-12)
