"""Studies as declared: what they draw, what they fit, which rows come out, what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("pyarrow")

import jaxlmm
from jaxlmm.study import Dropout, Estimator, MixedModel, Study, Target, designs
from jaxlmm.study.chunk import Bench
from jaxlmm.study.declare import Row, Task
from jaxlmm.study.describe import described, differences
from jaxlmm.study.drawing import drawer
from jaxlmm.study.estimate import STATUSES
from jaxlmm.study.parts import numbers_of

MODEL = "y ~ arm + (1 | cluster)"


def small(**changes):
    """Six clusters of five, 12 data sets a cell."""
    study = Study(
        design=designs.cluster_trial,
        grid={"clusters": [6], "size": [5], "icc": [0.1]},
        generate=MixedModel(MODEL, {"(Intercept)": 1.0, "arm": 0.5}, {"cluster": "icc", "residual": "1 - icc"}),
        estimators=[Estimator("mixed", MODEL, df=("asymptotic", "satterthwaite"))],
        targets={"arm": None, "sd": Target("sqrt(icc)", of="sd_(Intercept)|cluster")},
        replicates=12,
        seed=7,
        chunk=12,
    )
    return dataclasses.replace(study, **changes)


def table_of(study, task=None):
    """The arrays (rows, b) of a chunk, through its file."""
    task = task or study.tasks[0]
    return numbers_of(io.BytesIO(Bench(study).run(task)), study.rows, task.hi - task.lo)


def responses(study, replicates, cell=0):
    with jax.enable_x64(True):
        return drawer(study, cell)(np.asarray(replicates)).columns["y"]


@pytest.mark.smoke
def test_replicates_do_not_depend_on_chunks_or_order():
    study = small()
    whole = responses(study, range(12))
    for chunk in (7, 12):
        one = dataclasses.replace(study, chunk=chunk)
        np.testing.assert_array_equal(responses(one, [5, 3, 4]), whole[[5, 3, 4]])
    other = dataclasses.replace(study, grid={**study.grid, "icc": [0.2, np.float64(0.1)], "clusters": 6.0})
    np.testing.assert_array_equal(responses(other, range(3), cell=1), whole[:3])
    assert not np.array_equal(responses(other, range(3), cell=0), whole[:3])
    assert not np.array_equal(responses(small(seed=8), range(3)), whole[:3])


def test_keys_are_folded_as_promised():
    def normal(key, data):
        return jax.random.normal(key, (len(data["cluster"]),), float)

    study = small(generate=normal, targets={"arm": 0.0}, grid=[{"clusters": n, "size": 5} for n in (4, 6)])
    words = hashlib.sha256(b'{"clusters": 6, "size": 5}').digest()[:8]
    key = jax.random.key(7)
    for word in (words[:4], words[4:]):
        key = jax.random.fold_in(key, int.from_bytes(word, "big"))
    expected = jax.random.normal(jax.random.fold_in(key, 11), (30,), float)
    np.testing.assert_array_equal(responses(study, [11], cell=1)[0], expected)


def test_rows_are_those_of_single_fits():
    study = small()
    Y, data, found = responses(study, range(12)), designs.cluster_trial(6, 5), table_of(study)
    assert study.rows == [
        Row("mixed", "asymptotic", "arm"), Row("mixed", "satterthwaite", "arm"), Row("mixed", "estimate", "sd"),
    ]  # fmt: skip
    for i in (0, 1, 11):
        fit = jaxlmm.lmm(MODEL, {**data, "y": Y[i]})
        test = fit.test([[0.0, 1.0]], df="satterthwaite").rows
        np.testing.assert_allclose(found["estimate"][:2, i], fit.coef[1], rtol=1e-6)
        np.testing.assert_allclose(found["se"][:2, i], fit.se[1], rtol=1e-6)
        np.testing.assert_allclose(found["df"][:2, i], [np.inf, test.df[0]], rtol=1e-5)
        np.testing.assert_allclose(found["p"][1, i], test.p[0], rtol=1e-5)
        np.testing.assert_allclose(found["estimate"][2, i], np.sqrt(fit.varcorr().groups[0].cov[0, 0]), atol=1e-6)
        assert found["singular"][0, i] == fit.singular
    assert found["converged"].all() and (found["status"] == 0).all()
    assert np.isnan(found["p"][2]).all()


def test_the_generating_model_has_the_moments_that_it_says():
    study = small(
        generate=MixedModel(
            "y ~ arm + (arm | cluster)", {"arm": "2 * icc"}, {"cluster": [[0.5, 0.2], [0.2, 0.4]], "residual": 0.3}
        ),
        replicates=4000, chunk=4000, targets={"arm": None},
    )  # fmt: skip
    assert study.truths == [{"arm": 0.2}]
    Y, data = responses(study, range(4000)), designs.cluster_trial(6, 5)
    X = np.stack([np.ones(30), data["arm"]], 1)
    same = data["cluster"][:, None] == data["cluster"]
    V = X @ np.array([[0.5, 0.2], [0.2, 0.4]]) @ X.T * same + 0.3 * np.eye(30)
    mean, covariance = Y.mean(0), np.cov(Y.T)
    assert np.abs(mean - 0.2 * data["arm"]).max() < 5 * np.sqrt(V.max() / 4000)
    error = np.sqrt((np.outer(np.diag(V), np.diag(V)) + V**2) / 4000)
    assert (np.abs(covariance - V) < 5 * error).all()


def test_structures_at_their_parameters():
    model = MixedModel("y ~ 1", {}, {"residual": {"variance": 2.0, "correlation": 0.5}}, residual="ar1(time | subject)")
    data = designs.visits(3, 4)
    blocks = model.truth(data, {}, "y")[2]
    lag = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    np.testing.assert_allclose(blocks.residual.reshape(4, 4), 2.0 * 0.5**lag, rtol=1e-12)
    text = MixedModel("y ~ 1", {}, {}, residual="ar1(time | subject, variance=2, correlation=0.5)")
    np.testing.assert_allclose(text.truth(data, {}, "y")[2].residual, blocks.residual, rtol=1e-12)


def test_who_drops_out_does_not_come_back():
    model = MixedModel("y ~ time + (1 | subject)", {}, {"subject": 1.0}, lost=Dropout("2 * half"))
    study = small(design=lambda: designs.visits(50, 4), generate=model, grid=[{"half": 0.1}], targets=["time"],
                  replicates=100, chunk=100)  # fmt: skip
    there = ~np.isnan(responses(study, range(100)).reshape(100, 50, 4))
    assert there[:, :, 0].all() and not (there[:, :, 1:] & ~there[:, :, :-1]).any()
    for visit in (1, 2, 3):
        share = 0.8**visit
        assert abs(there[:, :, visit].mean() - share) < 5 * np.sqrt(share * (1 - share) / 5000)


def trial(key, data):
    """A random allocation, and a response that is lost now and then."""
    first, second, third = jax.random.split(key, 3)
    arm = jax.random.permutation(first, jnp.arange(30) % 2).astype(float)
    y = arm + jax.random.normal(second, (6,), float)[data["cluster"]] + jax.random.normal(third, (30,), float)
    return {"arm": arm, "y": y}


def with_holes(key, data):
    drawn = trial(key, data)
    return {**drawn, "y": jnp.where(jax.random.bernoulli(key, 0.1, (30,)), jnp.nan, drawn["y"])}


def by_numpy(rng, data):
    """Trials whose sizes differ; in the first, all are in one arm."""
    cluster = np.repeat(np.arange(6), rng.integers(3, 7, 6))
    arm = rng.integers(0, 2, len(cluster)).astype(float)
    return {"cluster": cluster, "arm": arm, "y": arm + rng.standard_normal(6)[cluster] + rng.standard_normal(len(arm))}


@pytest.mark.parametrize(
    "generate",
    [trial, pytest.param(with_holes, marks=pytest.mark.slow), pytest.param(by_numpy, marks=pytest.mark.slow)],
)
def test_designs_that_vary_are_those_of_single_fits(generate):
    study = small(generate=generate, targets={"arm": 1.0})
    found = table_of(study)
    with jax.enable_x64(True):
        drawn = drawer(study, 0)(np.arange(12))
    for i in (0, 11):
        data = (
            drawn.tables[i]
            if drawn.tables
            else {**designs.cluster_trial(6, 5), **{k: v[i] for k, v in drawn.columns.items()}}
        )
        here = ~np.isnan(data["y"])
        fit = jaxlmm.lmm(MODEL, {k: v[here] for k, v in data.items()})
        np.testing.assert_allclose(found["estimate"][0, i], fit.coef[1], rtol=1e-6)
        np.testing.assert_allclose(found["se"][0, i], fit.se[1], rtol=1e-6)
    assert (found["status"] == 0).all()


def test_data_that_cannot_be_used_have_a_status():
    def generate(rng, data):
        y = rng.standard_normal(30)
        kind = rng.integers(3)
        return {"y": {0: y, 1: y * np.nan, 2: np.full(30, 2.0)}[kind], "kind": np.full(30, kind)}

    study = small(generate=generate, targets={"arm": 0.0}, replicates=12, chunk=12)
    with jax.enable_x64(True):
        kinds = drawer(study, 0)(np.arange(12)).columns["kind"][:, 0]
    found = table_of(study)
    assert set(kinds) == {0, 1, 2}
    np.testing.assert_array_equal(found["status"][0] == 0, kinds == 0)
    assert np.isnan(found["p"][:, kinds > 0]).all() and np.isnan(found["estimate"][:, kinds > 0]).all()
    assert {STATUSES[s] for s in found["status"][0, kinds > 0]} <= {"bad_response", "unusable_data"}


def test_likelihood_ratio_tests():
    estimator = Estimator("ml", MODEL, "ML", df="asymptotic", lrt="y ~ 1 + (1 | cluster)")
    study = small(estimators=[estimator], targets={"arm": None})
    found, Y = table_of(study), responses(study, range(12))
    assert study.rows[1] == Row("ml", "lrt", "arm")
    data = designs.cluster_trial(6, 5)
    fits = [jaxlmm.lmm(f, {**data, "y": Y[2]}, "ML") for f in (MODEL, "y ~ 1 + (1 | cluster)")]
    np.testing.assert_allclose(found["p"][1, 2], jaxlmm.compare(*fits).p[1], rtol=1e-5)
    assert np.isnan(found["se"][1]).all()


def test_changes_are_found_wherever_they_are():
    study = small()
    assert study.hash == small(name="another").hash
    lines = differences(study.description, small(seed=8, chunk=20).description)
    assert lines == ["seed: 7 -> 8", "chunk: 12 -> 20"]
    changed = small(estimators=[Estimator("mixed", MODEL, df="residual")])
    assert len(differences(study.description, changed.description)) == 1

    def scaled(by):
        return lambda key, data: by * jax.random.normal(key, (30,))

    assert described(scaled(1.0)) != described(scaled(2.0))
    assert described(np.zeros(100)) != described(np.ones(100))
    lines = differences(described(trial), described(with_holes))
    assert any("source" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replicates": 0}, "replicates: expected at least 1"),
        ({"seed": -1}, "seed: expected a non-negative integer"),
        ({"targets": {}}, "targets: expected at least one"),
        ({"targets": {"arm": "sqrt(icx)"}}, "cannot evaluate 'sqrt(icx)'"),
        ({"estimators": [Estimator("a", MODEL), Estimator("a", MODEL)]}, "different names"),
        ({"estimators": [Estimator("a", MODEL, df="kr")]}, "df: found 'kr'"),
        ({"estimators": [Estimator("a", MODEL, "ML", df="kenward-roger")]}, "is for REML"),
        ({"estimators": [Estimator("a", MODEL, lrt="y ~ 1 + (1 | cluster)")]}, "needs method='ML'"),
        ({"generate": 3}, "generate: expected a MixedModel"),
        ({"grid": {"estimate": [1]}}, "factor 'estimate' is not a usable name"),
        ({"grid": {"sizes": [1]}, "targets": {"arm": 0.0}}, "design: cannot be called with the factors ['sizes']"),
    ],
)
def test_what_cannot_be_run_is_refused(changes, message):
    with pytest.raises(jaxlmm.DataError) as error:
        small(**changes).data(0)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": {"harm": 0.0}}, "'harm' is not a coefficient of estimator 'mixed'; there are (Intercept), arm"),
        ({"targets": {"s": Target(1.0, of="sd_x")}}, "'sd_x' is not a parameter of estimator 'mixed'"),
        ({"generate": MixedModel(MODEL, {"harm": 1.0}, {"cluster": 1.0})}, "beta: found 'harm'"),
        ({"generate": MixedModel(MODEL, {}, {"clutter": 1.0})}, "covariance['cluster']: not given"),
        ({"generate": MixedModel(MODEL, {}, {"cluster": -1.0})}, "covariance['cluster']"),
        ({"estimators": [Estimator("a", "z ~ arm + (1 | cluster)")]}, "'z'"),
    ],
)
def test_models_that_cannot_be_built_are_refused_before_anybody_works(changes, message):
    from jaxlmm.study.rehearsal import rehearse

    with pytest.raises(jaxlmm.JaxlmmError) as error:
        rehearse(small(**changes))
    assert message in str(error.value)


def test_a_chosen_device_does_a_batch_alone_in_one_thread():
    from jaxlmm.batch.chunks import workers
    from jaxlmm.batch.queue import devices

    device = jax.local_devices()[-1]
    with jax.default_device(device):
        assert devices() == (device,) and workers() == 1
    assert devices() == tuple(jax.local_devices())


def test_tasks_are_chunks_of_cells():
    study = small(replicates=10, chunk=4, grid=[{"clusters": 6, "size": 5, "icc": i} for i in (0.1, 0.2)])
    assert study.tasks == [Task(c, lo, hi) for c in (0, 1) for lo, hi in ((0, 4), (4, 8), (8, 10))]
