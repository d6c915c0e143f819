"""Levels of a relationship matrix that have no data: their predictions through relatives against dense matrices."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest

import jaxlmm
from jaxlmm.errors import DataError

ANIMALS, SEEN = 24, 14


def labels(kind):
    """Names of all animals: those without data are among the others in the order of sorting."""
    names = np.random.default_rng(8).permutation(ANIMALS)
    return np.array([f"a{k:02d}" for k in names]) if kind == "text" else 7 * names + 3


@cache
def pedigree():
    """Additive relationships; the last four have no relative, and each of the last two data-less ones has a clone."""
    rng = np.random.default_rng(5)
    A = np.eye(ANIMALS)
    for i in range(6, ANIMALS - 4):
        sire, dam = rng.choice(i, 2, replace=False)
        A[i, :i] = A[:i, i] = (A[sire, :i] + A[dam, :i]) / 2
        A[i, i] = 1 + A[sire, dam] / 2
    return A


@cache
def clones():
    """The same, with copies of animals: 15 and 16 of 2, which has data, 17 of 16; 3 of 4, both with data. Singular."""
    copies = np.arange(ANIMALS)
    copies[[15, 16, 17, 3]] = 2, 2, 16, 4
    copies[17] = 2
    return pedigree()[np.ix_(copies, copies)]


@cache
def data(kind="text"):
    rng = np.random.default_rng(3)
    animal = rng.permutation(np.arange(70) % SEEN)
    root = np.linalg.cholesky(pedigree()[:SEEN, :SEEN])
    u, x, herd = root @ rng.normal(size=(SEEN, 2)), rng.normal(size=70), rng.integers(0, 5, 70)
    y = 1.0 + 0.5 * x + 2.0 * u[animal, 0] + u[animal, 1] * x + rng.normal(size=5)[herd] + 0.7 * rng.normal(size=70)
    d = {
        "y": y,
        "x": x,
        "animal": labels(kind)[animal],
        "herd": np.array([f"h{k}" for k in herd]),
        "t": np.arange(70.0),
    }
    return {**d, "w": rng.uniform(0.5, 2.0, 70)}


MODELS = {
    "spectral": ("y ~ x + (1 | animal)", {}),
    "slopes": ("y ~ x + (x | animal)", {}),
    "herds": ("y ~ x + (1 | animal) + (1 | herd)", {}),
    "apart": ("y ~ x + (x || animal)", {"weights": "w"}),
    "residuals": ("y ~ x + (1 | animal)", {"residual": "ar1(t | herd)"}),
}


def given(A, form, kind="text"):
    """A relationship matrix with rows in an order of its own."""
    order = np.random.default_rng(11).permutation(ANIMALS)
    A, names = A[np.ix_(order, order)], labels(kind)[order]
    if form == "frame":
        pandas = pytest.importorskip("pandas")
        return pandas.DataFrame(A, names, names)
    return jaxlmm.Precision(np.linalg.inv(A), names) if form == "precision" else (A, names)


@cache
def fitted(name, form="pair", singular=False, kind="text"):
    formula, options = MODELS[name]
    A = clones() if singular else pedigree()
    return jaxlmm.lmm(formula, data(kind), relationship={"animal": given(A, form, kind)}, **options)


def henderson(fit, A, kind="text"):
    """Predictions (ANIMALS * q,) of all animals, condvar and pev, by n x n matrices, in the order of `labels`."""
    model, d = fit.model, data(kind)
    number = {label: i for i, label in enumerate(labels(kind))}
    codes = np.array([number[a] for a in d["animal"].tolist()])
    blocks = jaxlmm.fitting.estimate.blocks_at(model, fit.estimate)
    V = jaxlmm.estimates.rows.covariance(
        *jaxlmm.estimates.rows.parts_of(model, fit.estimate), np.arange(70)[:, None], np.arange(70)
    )
    own = [t for t, part in enumerate(fit.frame.parts) if part.group_label == "animal"]
    Z = np.concatenate([model.random[t].Z for t in own], 1)
    G = np.zeros((Z.shape[1],) * 2)
    start = 0
    for t in own:
        q = len(blocks.random[t])
        G[start : start + q, start : start + q] = blocks.random[t]
        start += q
    prior = np.kron(A, G)
    incidence = np.einsum("na,nq->naq", codes[:, None] == np.arange(ANIMALS), Z).reshape(70, -1)
    c, X = prior @ incidence.T, model.X
    solved = np.linalg.solve(V, np.column_stack([X, model.y - X @ fit.coef]))
    condvar = prior - c @ np.linalg.solve(V, c.T)
    H = c @ solved[:, :-1]
    return c @ solved[:, -1], condvar, condvar + H @ np.linalg.inv(X.T @ solved[:, :-1]) @ H.T


def test_against_the_mixed_model_equations_of_all_animals():
    """Henderson (1977): the equations with A^-1 of all animals, with data or without, give both directly."""
    fit = fitted("spectral")
    number = {label: i for i, label in enumerate(labels("text"))}
    W = np.array([[number[a] == i for i in range(ANIMALS)] for a in data()["animal"]]) * 1.0
    X, ratio = fit.model.X, fit.sigma**2 / fit.estimate.covariances[0][0, 0]
    left = np.block([[X.T @ X, X.T @ W], [W.T @ X, W.T @ W + ratio * np.linalg.inv(pedigree())]])
    inverse = np.linalg.inv(left)
    solution = inverse @ np.concatenate([X.T @ fit.model.y, W.T @ fit.model.y])
    found = fit.ranef(all_levels=True)["animal"]
    order = [number[a] for a in found.levels]
    assert sorted(order) == list(range(ANIMALS)) and sorted(order[:SEEN]) == list(range(SEEN))
    np.testing.assert_allclose(found.values[:, 0], solution[2:][order], atol=1e-8)
    pev = fit.sigma**2 * np.diagonal(inverse)[2:]
    np.testing.assert_allclose(found.pev[:, 0, 0], pev[order], rtol=1e-7)


@pytest.mark.parametrize(
    ("name", "form", "singular", "kind"),
    [
        ("spectral", "frame", True, "text"), ("slopes", "precision", False, "numbers"),
        pytest.param("herds", "frame", True, "text", marks=pytest.mark.slow), ("apart", "pair", True, "numbers"),
        ("residuals", "precision", False, "text"),
    ],
)  # fmt: skip
def test_against_dense_matrices(name, form, singular, kind):
    fit, A = fitted(name, form, singular, kind), clones() if singular else pedigree()
    values, condvar, pev = henderson(fit, A, kind)
    found, seen = fit.ranef(all_levels=True)["animal"], fit.ranef()["animal"]
    q = len(found.columns)
    number = {str(label): i for i, label in enumerate(labels(kind))}
    order = np.array([number[a] for a in found.levels])
    size = np.abs(values).max()
    np.testing.assert_allclose(found.values, values.reshape(-1, q)[order], atol=1e-7 * size)
    for own, every in ((found.condvar, condvar), (found.pev, pev)):
        whole = every.reshape(ANIMALS, q, ANIMALS, q)[order, :, order]
        np.testing.assert_allclose(own, whole, atol=1e-7 * np.abs(whole).max())
    np.testing.assert_array_equal(found.values[:SEEN], seen.values)
    np.testing.assert_array_equal(found.pev[:SEEN], seen.pev)
    assert seen.levels == found.levels[:SEEN]

    # rows of every animal: values and errors of its mean at its own x
    x = np.linspace(-1, 1, ANIMALS)
    new = {"animal": labels(kind), "x": x, "herd": np.full(ANIMALS, "h1"), "t": 200.0 + np.arange(ANIMALS)}
    new["w"] = np.ones(ANIMALS)
    got = fit.predict(new, se=True)
    np.testing.assert_allclose(got["estimate"], fit.predict(new), atol=1e-8 * size)
    z = np.stack([np.ones(ANIMALS), x][:q], 1)
    mean = fit.coef[0] + fit.coef[1] * x + np.einsum("iq,iq->i", z, values.reshape(-1, q))
    if name == "herds":
        mean += fit.ranef()["herd"].values[1, 0]
    np.testing.assert_allclose(got["estimate"], mean, atol=1e-7 * size)


def test_errors_of_predictions_of_animals_without_data(monkeypatch):
    """``Var(x'b + u_a - x'b-hat - u-hat_a)``, in one go and in small chunks."""
    fit = fitted("spectral")
    _, _, pev = henderson(fit, pedigree())
    new = {"animal": labels("text"), "x": np.zeros(ANIMALS)}
    V = fit.model.random[0].relationship[np.ix_(*(fit.model.random[0].group,) * 2)] * fit.estimate.covariances[0][0, 0]
    V = V + fit.sigma**2 * np.eye(70)
    vi = np.linalg.inv(V)
    X, number = fit.model.X, {a: i for i, a in enumerate(labels("text"))}
    codes = np.array([number[a] for a in data()["animal"]])
    c = pedigree()[:, codes] * fit.estimate.covariances[0][0, 0]
    gap = np.array([1.0, 0.0]) - c @ vi @ X
    variances = np.diagonal(pedigree()) * fit.estimate.covariances[0][0, 0] - np.einsum("an,nm,am->a", c, vi, c)
    mse = variances + np.einsum("ap,pq,aq->a", gap, fit.vcov, gap)
    got = fit.predict(new, se=True, df="kenward-roger")
    plain = fit.predict(new, se=True)
    np.testing.assert_allclose(plain["std_error"], np.sqrt(mse), rtol=1e-7)
    assert np.all(got["std_error"] > plain["std_error"])
    monkeypatch.setattr("jaxlmm.prediction.errors.MOST", 5)
    for name, values in fit.predict(new, se=True).items():
        np.testing.assert_allclose(values, plain[name], rtol=1e-6)
    with_residual = fit.predict(new, interval="prediction")
    np.testing.assert_allclose(with_residual["std_error"] ** 2, mse + fit.sigma**2, rtol=1e-7)
    anew = fit.predict(
        new, interval="prediction", random=False
    )  # an animal of that inbreeding, of which nothing is known
    expected = np.diagonal(pedigree()) * fit.estimate.covariances[0][0, 0] + fit.sigma**2 + fit.vcov[0, 0]
    np.testing.assert_allclose(anew["std_error"] ** 2, expected, rtol=1e-7)


def test_a_twin_at_half_has_half_the_prediction_and_a_clone_has_it_all():
    A = np.eye(SEEN + 2)
    A[SEEN, 0] = A[0, SEEN] = 0.5
    A[:, SEEN + 1] = A[:, 1]
    A[SEEN + 1] = A[:, SEEN + 1]
    A[SEEN + 1, SEEN + 1] = 1.0
    names = [*labels("text")[:SEEN], "twin", "clone"]
    fit = jaxlmm.lmm("y ~ x + (1 | animal)", data(), relationship={"animal": (A, names)})
    found = fit.ranef(all_levels=True)["animal"]
    at = {level: found.values[i, 0] for i, level in enumerate(found.levels)}
    np.testing.assert_allclose(at["twin"], 0.5 * at[names[0]], rtol=1e-9)
    np.testing.assert_allclose(at["clone"], at[names[1]], rtol=1e-9)
    pev = {level: found.pev[i, 0, 0] for i, level in enumerate(found.levels)}
    np.testing.assert_allclose(pev["clone"], pev[names[1]], rtol=1e-9)
    assert abs(at["twin"]) > 0.3
    new = {"animal": np.array(["twin", "clone", names[0], names[1]]), "x": np.zeros(4)}
    np.testing.assert_allclose(fit.predict(new) - fit.coef[0], [at["twin"], at["clone"], at[names[0]], at[names[1]]])


def test_the_same_as_with_rows_that_say_nothing():
    """A row of very small weight gives an animal a place in the data."""
    fit, d = fitted("apart"), data()
    rest = labels("text")[SEEN:]
    more = {"y": 0.0, "x": 0.0, "herd": "h0", "t": 0.0, "w": 1e-9}
    longer = {n: np.concatenate([v, rest if n == "animal" else np.full(len(rest), more[n])]) for n, v in d.items()}
    other = jaxlmm.lmm(MODELS["apart"][0], longer, relationship={"animal": given(pedigree(), "pair")}, weights="w")
    # at the same parameters
    theta = dataclasses.replace(other.estimate, **{
        name: getattr(fit.estimate, name) for name in ("theta", "sigma", "coef", "vcov", "covariances", "residual")
    })  # fmt: skip
    found, known = fit.ranef(all_levels=True)["animal"], dataclasses.replace(other, estimate=theta).ranef()["animal"]
    order = [known.levels.index(level) for level in found.levels]
    np.testing.assert_allclose(found.values, known.values[order], atol=1e-5)
    np.testing.assert_allclose(found.pev, known.pev[order], atol=1e-5)


def test_simulation_of_animals_without_data():
    fit = fitted("spectral")
    new = {"animal": np.append(labels("text")[[1, 16, 17, 17]], "nobody"), "x": np.zeros(5)}
    kept = fit.simulate(4000, seed=2, newdata=new, effects="predicted")
    mean = fit.predict(new, allow_new_levels=True)
    assert mean[4] == pytest.approx(fit.coef[0])
    np.testing.assert_allclose(kept.mean(0), mean, atol=0.25)
    np.testing.assert_allclose(kept.std(0)[:4], fit.sigma, rtol=0.06)
    variance = fit.estimate.covariances[0][0, 0]
    np.testing.assert_allclose(kept.std(0)[4], np.sqrt(variance + fit.sigma**2), rtol=0.06)
    anew = np.cov(fit.simulate(20000, seed=2, newdata=new).T)
    places = [1, 16, 17, 17]
    expected = np.zeros((5, 5))
    expected[:4, :4] = variance * pedigree()[np.ix_(places, places)]
    expected[4, 4] = variance
    np.testing.assert_allclose(anew, expected + fit.sigma**2 * np.eye(5), atol=0.06 * expected.max())


def test_animals_of_the_matrix_are_known_and_others_are_not():
    fit = fitted("spectral")
    new = {"animal": np.array(["zz", labels("text")[20], "aa", labels("text")[0]]), "x": np.zeros(4)}
    with pytest.raises(DataError, match="2 rows have a level of 'animal' that was not in the fit"):
        fit.predict(new)
    got = fit.predict(new, allow_new_levels=True, se=True)
    np.testing.assert_allclose(got["estimate"][[0, 2]], fit.coef[0], rtol=1e-9)
    np.testing.assert_allclose(got["std_error"][0], got["std_error"][2], rtol=1e-9)
    alone = fit.predict({"animal": labels("text")[[20]], "x": np.zeros(1)}, se=True)
    np.testing.assert_allclose([got["estimate"][1], got["std_error"][1]], [alone["estimate"][0], alone["std_error"][0]])


@pytest.mark.parametrize("form", ["frame", "precision"])
def test_saved_fits_know_the_animals_without_data(tmp_path, form):
    fit = fitted("spectral", form)
    fit.save(tmp_path / "fit")
    loaded = jaxlmm.load(tmp_path / "fit")
    for name in ("values", "condvar", "pev", "levels"):
        a, b = (getattr(f.ranef(all_levels=True)["animal"], name) for f in (fit, loaded))
        np.testing.assert_array_equal(a, b)
    new = {"animal": labels("text"), "x": np.zeros(ANIMALS)}
    np.testing.assert_array_equal(fit.predict(new), loaded.predict(new))
    refitted = fit.refit(fit.model.y[::-1].copy())
    assert len(refitted.ranef(all_levels=True)["animal"].levels) == ANIMALS


def test_without_further_levels_all_levels_are_those_of_the_data():
    fit = jaxlmm.lmm("y ~ x + (1 | herd)", data())
    a, b = fit.ranef()["herd"], fit.ranef(all_levels=True)["herd"]
    assert a.levels == b.levels
    np.testing.assert_array_equal(a.values, b.values)
