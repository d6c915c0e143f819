"""What must not change, or change by a known constant, when the same data are written down in another way.

A transformation maps (model, rng, sigma of its fit) to an equivalent model, the change of its maximal restricted
log-likelihood, and the factor of its sigma.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

import jaxlmm
from jaxlmm import Diagonal, Model, Status, Term
from torture import hostile, search
from torture.hostile import CASES, LANES, N

KINDS = ("intercepts", "slopes", "independent slopes", "crossed")


def build(kind, rng, i):
    """A data set with weights; every other one has no variance between groups."""
    effect = float(i % 2)
    if kind in ("slopes", "independent slopes"):
        plain = hostile.slopes(rng, root=effect, structure=None if kind == "slopes" else Diagonal())
    else:
        plain = hostile.intercepts(rng, effect=effect)
    others = [Term(np.ones(N), hostile.uneven(rng, groups=4))] if kind == "crossed" else []
    return Model(plain.y, plain.X, [*plain.random, *others], weights=rng.uniform(0.5, 2, N))


@functools.cache
def models(kind):
    rng = np.random.default_rng([*kind.encode()])
    return [build(kind, rng, i) for i in range(LANES)]


@functools.cache
def plain_fit(kind):
    fit = jaxlmm.fit_batch(models(kind))
    assert fit.converged.all()
    return fit


def rebuilt(model, rows=None, **parts):
    """The model with some parts replaced (y, X, weights, offset, and Zs and groups of all terms), then on some rows."""
    old = {name: getattr(model, name) for name in ("y", "X", "weights", "offset")}
    old |= {"Zs": [t.Z for t in model.random], "groups": [t.group for t in model.random]}
    new = old | parts
    rows = np.arange(len(model.y)) if rows is None else rows

    def taken(a):
        return None if a is None else np.asarray(a)[rows]

    terms = [
        Term(taken(Z), taken(g), t.structure) for Z, g, t in zip(new["Zs"], new["groups"], model.random, strict=True)
    ]
    rest = {name: taken(new[name]) for name in ("weights", "offset")}
    return Model(taken(new["y"]), taken(new["X"]), terms, **rest, checks=False)  # some have confounded terms on purpose


def logdet(T):
    return np.linalg.slogdet(T)[1]


def other_order(model, rng, sigma):
    return rebuilt(model, rng.permutation(len(model.y))), 0.0, 1.0


def other_labels(model, rng, sigma):
    """Text whose order has nothing to do with the order of the rows or of the old labels."""
    groups = [np.array([f"level {k}" for k in rng.permutation(t.levels)])[t.group] for t in model.random]
    return rebuilt(model, groups=groups), 0.0, 1.0


def affine_y(model, rng, sigma):
    slope = -(10.0 ** rng.uniform(-6, 6))
    y = slope * model.y + 100 * slope * rng.normal()
    n, p = model.X.shape
    return rebuilt(model, y=y), -(n - p) * np.log(abs(slope)), abs(slope)


def y_along_x(model, rng, sigma):
    return rebuilt(model, y=model.y + model.X @ rng.normal(scale=100, size=2)), 0.0, 1.0


def other_basis_of_x(model, rng, sigma):
    T = rng.normal(size=(2, 2)) * 10 ** rng.uniform(-6, 6, 2)
    return rebuilt(model, X=model.X @ T), -logdet(T), 1.0


def other_unit_and_origin_of_x(model, rng, sigma):
    """As when degrees Fahrenheit become Celsius, in X and, where slopes vary, in Z."""
    T = np.array([[1.0, rng.normal(scale=10)], [0.0, 10 ** rng.uniform(-3, 3)]])
    Zs = [t.Z @ T if t.dim == 2 else t.Z for t in model.random]
    return rebuilt(model, X=model.X @ T, Zs=Zs), -logdet(T), 1.0


def units_of_z(model, rng, sigma):
    return rebuilt(model, Zs=[t.Z * 10 ** rng.uniform(-8, 8, t.dim) for t in model.random]), 0.0, 1.0


def other_basis_of_z(model, rng, sigma):
    return rebuilt(model, Zs=[t.Z @ rng.normal(size=(t.dim, t.dim)) for t in model.random]), 0.0, 1.0


def common_factor_of_weights(model, rng, sigma):
    """V = Z G Z' + sigma^2 / w is the same when sigma^2 grows with w, and so is the maximum."""
    factor = 10 ** rng.uniform(-8, 8)
    return rebuilt(model, weights=factor * model.weights), 0.0, np.sqrt(factor)


def known_offset(model, rng, sigma):
    offset = 10 ** rng.uniform(0, 4) * rng.normal(size=len(model.y))
    return rebuilt(model, y=model.y + offset, offset=offset), 0.0, 1.0


def split(model, rng, difference):
    """Half of the rows twice, their weight divided between the two, which differ but keep their weighted mean.

    Returns the model and v, the variances of the differences in units of sigma^2. The differences are independent of
    everything else: the log-likelihood is the old one plus that of ``difference ~ N(0, sigma^2 v)``, which is why a
    row written down twice is not a row with twice the weight.
    """
    w, some = model.weights, rng.permutation(len(model.y))[: len(model.y) // 2]
    share = rng.uniform(0.1, 0.9, len(some))
    v = 1 / (share * w[some]) + 1 / ((1 - share) * w[some])
    difference = difference * np.sqrt(v)
    rows = np.r_[np.arange(len(w)), some]
    y, weights = model.y[rows], w[rows].copy()
    y[some] += (1 - share) * difference
    y[len(w) :] -= share * difference
    weights[some], weights[len(w) :] = share * w[some], (1 - share) * w[some]
    twice = rebuilt(model, rows)
    return Model(y, twice.X, twice.random, weights=weights), v


def split_weights(model, rng, sigma):
    """With differences of their expected size the added log-likelihood has its maximum where the old one has."""
    signs = rng.choice([-1.0, 1.0], len(model.y) // 2)
    new, v = split(model, rng, sigma * signs)
    return new, -0.5 * np.sum(np.log(2 * np.pi * sigma**2 * v) + 1), 1.0


EVERYWHERE = (
    other_order, other_labels, affine_y, y_along_x, other_basis_of_x, units_of_z, common_factor_of_weights,
    known_offset, split_weights,
)  # fmt: skip
OF_SLOPES = (other_basis_of_z, other_unit_and_origin_of_x)  # these need a free covariance matrix, or none
PAIRS = [(f, kind) for f in EVERYWHERE for kind in KINDS]
PAIRS += [(f, kind) for f in OF_SLOPES for kind in KINDS if kind != "independent slopes"]


@pytest.mark.parametrize(("transform", "kind"), PAIRS, ids=lambda x: getattr(x, "__name__", x))
def test_the_same_data_in_other_words(transform, kind):
    old, rng = plain_fit(kind), np.random.default_rng([7, *transform.__name__.encode()])
    changed = [transform(m, rng, s) for m, s in zip(models(kind), old.sigma, strict=True)]
    new = jaxlmm.fit_batch([m for m, _, _ in changed])
    np.testing.assert_array_equal(new.status, old.status)
    shift, factor = np.array([[shift, factor] for _, shift, factor in changed]).T
    np.testing.assert_allclose(new.loglik - shift, old.loglik, rtol=0, atol=1e-8)
    np.testing.assert_allclose(new.sigma / factor, old.sigma, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_split_weights_at_any_parameters(kind):
    rng = np.random.default_rng(5)
    for model in models(kind)[:2]:
        theta = rng.normal(scale=0.3, size=model.size)
        sigma, difference = np.exp(theta[-1]), rng.normal(size=N // 2)
        new, v = split(model, rng, difference)
        added = -0.5 * np.sum(np.log(2 * np.pi * sigma**2 * v) + (difference / sigma) ** 2)
        expected = float(jaxlmm.reml(theta, model)) + added
        assert float(jaxlmm.reml(theta, new)) == pytest.approx(expected, abs=1e-9)


def test_a_transformation_of_coefficients():
    """Coefficients and their covariance follow X: beta in the new basis is T^-1 beta."""
    old, T = plain_fit("slopes"), np.array([[2.0, 1e5], [0.0, -3e4]])
    new = jaxlmm.fit_batch([rebuilt(m, X=m.X @ T) for m in models("slopes")])
    np.testing.assert_allclose(new.coef @ T.T, old.coef, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(T @ new.vcov @ T.T, old.vcov, rtol=1e-5, atol=1e-8)


# ---------------------------------------------------------------------------- hostile data in other words


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_hostile_data_in_another_order(name):
    """The same statuses, and log-likelihoods as near as the rounding of the data lets them be."""
    rng = np.random.default_rng(9)
    batch = CASES[name](rng)
    lanes = [batch.lane(i) for i in range(len(batch))]
    lanes = [m for m, allowed in zip(lanes, batch.allowed, strict=True) if allowed == hostile.CONVERGED]
    if not lanes:
        pytest.skip("no lane of this case has to converge")
    old = jaxlmm.fit_batch(lanes)
    new = jaxlmm.fit_batch([other_order(m, rng, 1.0)[0] for m in lanes])
    np.testing.assert_array_equal(new.status, old.status)
    for i in np.flatnonzero(old.status == Status.CONVERGED):
        tolerance = search.Rows.of(lanes[i]).tolerance(old.loglik[i])
        assert new.loglik[i] == pytest.approx(old.loglik[i], abs=tolerance)
