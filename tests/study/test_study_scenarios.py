"""What data are drawn from: published tables, shapes that are not normal, dropout by what was seen; several tests."""

from __future__ import annotations

import jax
import numpy as np
import pytest

pytest.importorskip("pyarrow")

from scipy import integrate, stats

from jaxlmm.errors import DataError
from jaxlmm.likelihood.drawing import Shape
from jaxlmm.study import Dropout, MixedModel, designs, published

from .test_study import responses, small


@pytest.mark.parametrize(("g", "h"), [(0.5, 0.0), (0.0, 0.1), (-0.4, 0.12), (1e-4, 0.05)])
def test_shapes_have_mean_zero_and_variance_one(g, h):
    shape = Shape.of(g, h)

    def moment(k):
        def density(z):
            x = (np.expm1(g * z) / g if g else z) * np.exp(0.5 * h * z**2)
            return ((x - shape.mean) / shape.sd) ** k * stats.norm.pdf(z)

        return integrate.quad(density, -15, 15, limit=200)[0]

    np.testing.assert_allclose([moment(1), moment(2)], [0.0, 1.0], atol=1e-7)
    if g == 0.5:
        assert moment(3) == pytest.approx(1.7502, abs=1e-3)
    if h == 0.1:
        assert moment(4) == pytest.approx(5.51, abs=0.01)
    with jax.enable_x64(True):
        x = np.asarray(shape(np.linspace(-2, 2, 5)))
    z = np.linspace(-2, 2, 5)
    plain = (np.expm1(g * z) / g if g else z) * np.exp(0.5 * h * z**2)
    np.testing.assert_allclose(x, (plain - shape.mean) / shape.sd, rtol=1e-10)


def test_published_tables_are_the_model_that_they_say():
    control, treated, sds = [10.0, 11.0, 13.0], [10.5, 12.0, 16.0], [2.0, 3.0, 4.0]
    model = published(control, treated, sds, [0.6, 0.3])
    data = designs.visits(4, 3)
    truth = model.truth(data, {}, "y")
    np.testing.assert_allclose(truth.mean.reshape(4, 3), [control, treated, control, treated])
    R = np.array([[1, 0.6, 0.3], [0.6, 1, 0.6], [0.3, 0.6, 1]])
    np.testing.assert_allclose(truth.blocks.residual.reshape(3, 3), np.outer(sds, sds) * R)
    same = published(control, treated, sds, R).truth(data, {}, "y")
    np.testing.assert_allclose(same.blocks.residual, truth.blocks.residual)
    assert truth.shapes == () and list(model.beta)[-1].startswith("arm:visit")
    for wrong, words in ((-0.9, "no responses have these"), ([0.1], "by lag"), (np.eye(2), "by lag")):
        with pytest.raises(DataError, match=words):
            published(control, treated, sds, wrong)
    with pytest.raises(DataError, match="as many finite numbers as visits"):
        published(control, treated, sds[:2], 0.5)
    for wrong in ((control[:2], treated, sds), (control, treated, [1.0, np.nan]), ([1.0, np.nan, 2.0], treated, sds)):
        with pytest.raises(DataError, match="expected as many finite numbers"):
            published(*wrong, 0.5)
    with pytest.raises(DataError, match="correlations: found 'half'"):
        published(control, treated, sds, "half")
    for size in (2.5, -1, "ten", np.nan, []):
        with pytest.raises(DataError, match="size: "):
            designs.cluster_trial(4, size)
    key, y = jax.random.key(0), np.zeros(12)
    for hazard in (1.2, -0.1, np.nan, "log(-1.0)"):
        with pytest.raises(DataError, match="hazard"):
            Dropout(hazard)(key, y, data)
    with pytest.raises(DataError, match="control: found"):
        published(["a", "b"], [1, 2], [1, 1], 0.5)


def test_shapes_are_refused_in_one_sentence():
    data = designs.cluster_trial(4, 2)
    for given, words in (
        ({"skew": {"clutser": 0.5}}, "skew: found 'clutser'"),
        ({"tails": {"cluster": 0.3}}, "kurtosis"),
    ):
        model = MixedModel("y ~ arm + (1 | cluster)", {}, {"cluster": 0.1}, **given)
        with pytest.raises(DataError, match=words):
            model.truth(data, {}, "y")


def test_designs_of_wedges_and_cross_overs():
    data = designs.stepped_wedge(6, 4, 2)
    treated = data["treated"].reshape(6, 4, 2)
    np.testing.assert_array_equal(treated[:3, :, 0], [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]])
    np.testing.assert_array_equal(treated[:3], treated[3:])
    assert len(np.unique(data["cell"])) == 24 and list(data["period"][:3]) == ["p0", "p0", "p1"]
    data = designs.crossover(4, ("ABC", "CAB"))
    assert list(data["treatment"][:6]) == list("ABCCAB") and list(data["before"][3:6]) == ["none", "C", "A"]
    for wrong in (lambda: designs.stepped_wedge(6, 1), lambda: designs.crossover(4, ("AB", "A"))):
        with pytest.raises(DataError, match="expected"):
            wrong()


@pytest.mark.slow
def test_skew_and_tails_keep_covariances():
    model = MixedModel("y ~ arm + (1 | cluster)", {}, {"cluster": 1.0, "residual": 0.5}, skew={"cluster": "g"},
                       tails={"residual": 0.1})  # fmt: skip
    grid = [{"clusters": 6, "size": 5, "g": 0.5}]
    study = small(generate=model, grid=grid, targets={"arm": 0.0}, replicates=4000, chunk=4000)
    Y = responses(study, range(4000)).reshape(4000, 6, 5)
    assert abs(Y.mean()) < 5 * np.sqrt(1.1 / 24000)
    within, between = Y.var(2, ddof=1).mean(), Y.mean(2).var()
    assert abs(within - 0.5) < 0.02 and abs(between - 1.1) < 0.06
    rest = (Y - Y.mean(2, keepdims=True)).ravel()
    assert stats.skew(Y.mean(2).ravel()) > 1.0 and abs(stats.skew(rest)) < 0.3 and stats.kurtosis(rest) > 1.0


@pytest.mark.slow
def test_dropout_by_the_last_response():
    lost = Dropout(0.1, slope="steep", center=0.5)
    model = MixedModel("y ~ time + (1 | subject)", {}, {"subject": 1.0}, lost=lost)
    assert model.mentions(["steep", "other"]) == {"steep"}
    own = {"design": lambda: designs.visits(50, 4), "targets": {"time": 0.0}, "replicates": 400, "chunk": 400}
    full = MixedModel(model.formula, {}, model.covariance)
    Y = responses(small(generate=full, grid=[{"steep": 1.5}], **own), range(400)).reshape(-1, 4)
    seen = responses(small(generate=model, grid=[{"steep": 1.5}], **own), range(400)).reshape(-1, 4)
    there = ~np.isnan(seen)
    np.testing.assert_array_equal(seen[there], Y[there])
    assert there[:, 0].all() and not (there[:, 1:] & ~there[:, :-1]).any()
    for v in (1, 2, 3):
        at_risk = there[:, v - 1]
        chance = 1.0 / (1.0 + np.exp(-(np.log(1 / 9) + 1.5 * (Y[at_risk, v - 1] - 0.5))))
        left = ~there[at_risk, v]
        for part in (Y[at_risk, v - 1] > 1.0, Y[at_risk, v - 1] < 0.0):
            error = np.sqrt(np.sum(chance[part] * (1 - chance[part])))
            assert abs(left[part].sum() - chance[part].sum()) < 5 * error
