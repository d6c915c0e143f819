"""Shipped analyses of studies against loops by hand: selection, steps, bootstrap, laws of a variance, permutations."""

from __future__ import annotations

import jax
import numpy as np
import pytest

pytest.importorskip("pyarrow")

from scipy import stats

import jaxlmm
from jaxlmm.errors import DataError
from jaxlmm.study import Dropout, Estimator, MixedModel, Target, analyses, designs
from jaxlmm.study.resampling import share_above, slabs
from jaxlmm.study.selecting import choice

from .test_study import MODEL, responses, small, table_of

TARGETS = {"arm": None, "sd": Target("sqrt(icc)", of="sd_(Intercept)|cluster"), "chosen": Target(of="chosen")}
OLS, WITHOUT = Estimator("ols", "y ~ arm", residual="iid()"), Estimator("without", "y ~ 1 + (1 | cluster)")
WITH = Estimator("with", MODEL)
ALL = [
    analyses.Selection("aic", [OLS, WITH], by="aic"),
    analyses.Selection("back", [WITHOUT, WITH], by="backward", alpha=0.2),
    analyses.bootstrap(MODEL, WITHOUT.formula, "arm", n=19),
    analyses.rlrt(MODEL, "sd", n=500),
    analyses.permutation("y ~ arm", "arm", "arm", unit="cluster", n=19, residual="iid()"),
    analyses.steps(MODEL, ["arm"]),
]


def cheap(study):
    """Numbers by row, without a file."""
    found = table_of(study)
    return dict(zip(study.rows, zip(*(found[n] for n in ("estimate", "p", "status")), strict=True), strict=True))


def test_rules_choose_as_by_hand():
    loglik = np.array([[-10.0, -10.0, -np.inf, -10.0, -np.inf], [-9.5, -7.0, -9.0, -np.inf, -np.inf],
                       [-9.4, -6.9, -8.0, -5.0, -np.inf]])  # fmt: skip
    npar, nobs = np.array([2, 3, 5]), 20
    for by, price in (("aic", 2.0), ("bic", np.log(nobs))):
        best = [np.argmin([-2 * v + price * k for v, k in zip(own, npar, strict=True)]) for own in loglik.T]
        np.testing.assert_array_equal(choice(loglik, npar, nobs, by, 0.05), best)
    # 2 * 0.5 on 1, 2 * 3 on 1; then 2 * .1 on 2, 2 * 1 on 2
    assert list(choice(loglik, npar, nobs, "lrt", 0.05)) == [0, 1, 1, 0, 0]
    assert list(choice(loglik, npar, nobs, "backward", 0.05)) == [0, 1, 1, 2, 0]
    assert list(choice(loglik, npar, nobs, "backward", 0.4)) == [1, 1, 2, 2, 0]  # chi2(2) tail of 2 is .368


def test_assignments_are_dealt_to_units_within_strata():
    test = analyses.permutation("y ~ arm", "arm", "arm", unit="cluster", within="site", n=300, residual="iid()")
    data = {**designs.cluster_trial(8, 3), "site": np.repeat(["a", "b"], 12)}
    values = test.assignments(data, np.arange(24), [1, 2])
    assert (values.reshape(300, 8, 3) == values.reshape(300, 8, 3)[:, :, :1]).all()
    per_site = values.reshape(300, 2, 4, 3)[..., 0]
    assert (per_site.sum(2) == 2).all()
    found = {tuple(row) for row in per_site[:, 0]}
    assert len(found) == 6  # all of them: 4 choose 2
    with pytest.raises(DataError, match="differs between rows"):
        test.assignments({**data, "arm": np.arange(24) % 2.0}, np.arange(24), [1, 2])
    drawn = np.array([[1.0, 2.0, np.nan], [0.0, 5.0, 5.0]])
    np.testing.assert_allclose(share_above(drawn, np.array([2.0, 5.0])), [2 / 3, 3 / 4])
    assert [len(part) for part in slabs(np.arange(50), 999)] == [17, 17, 16] and slabs(np.zeros(0, int), 9) == []


def test_what_cannot_be_compared_is_refused():
    study = small(targets=TARGETS, estimators=[WITH])
    bad = {
        "expected one of aic": analyses.Selection("s", [OLS, WITH], by="p"),
        "the same tests": analyses.Selection("s", [OLS, Estimator("b", MODEL, df="asymptotic")]),
        "two or more": analyses.Selection("s", [OLS]),
        "target: found 'x'": analyses.bootstrap(MODEL, WITHOUT.formula, "x"),
        "expected a standard deviation": analyses.rlrt(MODEL, "arm"),
        "a coefficient or weights": analyses.permutation(MODEL, "sd", "arm"),
        "a positive number": analyses.bootstrap(MODEL, WITHOUT.formula, "arm", n=0),
    }
    for words, estimator in bad.items():
        with pytest.raises(DataError, match=words):
            small(targets=TARGETS, estimators=[estimator])
    later = {
        "expected each to have more parameters": analyses.Selection("s", [WITH, WITHOUT]),
        "REML does not compare": analyses.bootstrap(MODEL, WITHOUT.formula, "arm", method="REML"),
        "one random term": analyses.rlrt("y ~ 1 + (1 | cluster) + (1 | arm)", "sd"),
        "is a parameter of the model": analyses.cross_validation(MODEL, "arm"),
        "expected a column of numbers": analyses.permutation(MODEL, "arm", "cluster"),
    }
    data = designs.cluster_trial(6, 5)
    for words, estimator in later.items():
        with pytest.raises(DataError, match=words):
            estimator.fitter(study.targets, data, {}, "y")


@pytest.mark.slow
def test_selection_and_steps_are_those_of_single_fits():
    study = small(targets=TARGETS, estimators=[ALL[0], ALL[1], ALL[5]])
    Y, data, found = responses(study, range(12)), designs.cluster_trial(6, 5), cheap(study)
    chose = []
    for i in range(6):
        here = {**data, "y": Y[i]}
        ols, mixed = jaxlmm.lmm("y ~ arm", here, residual="iid()"), jaxlmm.lmm(MODEL, here)
        best = min((ols, mixed), key=lambda fit: fit.aic)
        is_ols = best is ols
        p = best.test([[0.0, 1.0]]).rows.p[0]
        estimate, own_p, status = (v[i] for v in found["aic", "satterthwaite", "arm"])
        np.testing.assert_allclose([estimate, own_p], [best.coef[1], p], rtol=1e-5)
        sd = 0.0 if is_ols else np.sqrt(mixed.varcorr().groups[0].cov[0, 0])
        np.testing.assert_allclose(found["aic", "estimate", "sd"][0][i], sd, atol=1e-6)
        assert found["aic", "ols", "chosen"][0][i] == is_ols and found["aic", "with", "chosen"][0][i] == 1 - is_ols

        large, null = (jaxlmm.lmm(f, here, method="ML") for f in (MODEL, WITHOUT.formula))
        keep = stats.chi2.sf(2 * (large.loglik - null.loglik), 1) <= 0.2
        chose.append(keep)
        estimate, own_p, status = (v[i] for v in found["back", "satterthwaite", "arm"])
        p = mixed.test([[0.0, 1.0]]).rows.p[0]
        np.testing.assert_allclose([estimate, own_p], [mixed.coef[1], p] if keep else [0.0, 1.0], rtol=1e-5)

        if i > 1:
            continue
        last = mixed.step().fit
        estimate, own_p, status = (v[i] for v in found["backward steps", "satterthwaite", "arm"])
        if "arm" in last.coef_names:
            np.testing.assert_allclose(own_p, last.test([[0.0, 1.0]]).rows.p[0], rtol=1e-5)
        else:
            assert (estimate, own_p, status) == (0.0, 1.0, 0)
    assert 0 < sum(chose) < 6
    again = study.replicate(0, chose.index(True)).fit("back")
    assert again.method == "REML" and again.coef_names == ("(Intercept)", "arm")


@pytest.mark.slow
def test_drawn_laws_are_those_of_a_loop():
    study = small(targets=TARGETS, estimators=ALL[2:5])
    Y, data, found = responses(study, range(12)), designs.cluster_trial(6, 5), cheap(study)
    for i in (5,):
        here, key = {**data, "y": Y[i]}, study.replicate(0, i).drawn.analysis_keys[0]
        null, large = (jaxlmm.lmm(f, here, method="ML") for f in (WITHOUT.formula, MODEL))
        observed, drawn = 2 * (large.loglik - null.loglik), []
        for y in null.simulate(19, seed=key):
            one = {**data, "y": y}
            pair = [jaxlmm.lmm(f, one, method="ML").loglik for f in (WITHOUT.formula, MODEL)]
            drawn.append(2 * (pair[1] - pair[0]))
        p = (1 + np.sum(np.array(drawn) >= observed - 1e-8)) / 20
        np.testing.assert_allclose(
            [v[i] for v in found["bootstrap", "bootstrap", "arm"]], [large.coef[1], p, 0], rtol=1e-5
        )

        mixed = jaxlmm.lmm(MODEL, here)
        np.testing.assert_allclose(found["RLRT", "rlrt", "sd"][1][i], jaxlmm.rlrt(mixed, n=500).p, rtol=1e-12)

        def t(arm, y=Y[i]):
            X = np.stack([np.ones(30), arm], 1)
            beta, rss = np.linalg.lstsq(X, y, rcond=None)[:2]
            return abs(beta[1]) / np.sqrt(rss[0] / 28 * np.linalg.inv(X.T @ X)[1, 1])

        values = ALL[4].assignments(data, np.arange(30), jax.random.key_data(key))
        p = (1 + sum(t(arm) >= t(data["arm"]) * (1 - 1e-6) for arm in values)) / 20
        np.testing.assert_allclose(found["permutation", "permutation", "arm"][1][i], p, rtol=1e-12)
    # a permutation of clusters has 20 assignments, two of which are as extreme as any
    assert found["permutation", "permutation", "arm"][1].min() >= 1 / 20


@pytest.mark.slow
def test_cross_validation_in_every_data_set_is_the_loop():
    test = analyses.cross_validation(MODEL, "error", unit="cluster", folds=3)
    study = small(estimators=[test], targets={"error": Target(of="mse")})
    Y, data, found = responses(study, range(12)), designs.cluster_trial(6, 5), cheap(study)
    for i in (2, 7):
        gaps = []
        for k in range(3):
            out = data["cluster"] % 3 == k
            one = jaxlmm.lmm(MODEL, {**{n: v[~out] for n, v in data.items()}, "y": Y[i][~out]})
            means = one.predict({n: v[out] for n, v in data.items()}, allow_new_levels=True)
            gaps.append((Y[i][out] - means) ** 2)
        np.testing.assert_allclose(
            found["cross-validation", "cross-validation", "error"][0][i], np.mean(gaps), rtol=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_degrees_of_freedom_of_designs_are_those_of_single_fits(dropout):
    lost = Dropout(dropout) if dropout else None
    formula = "y ~ arm * visit + (1 | subject)"
    names = ("arm:visit[T.v1]", "arm:visit[T.v2]")
    df = ("containment", "between-within", "between-within-sas")
    study = small(
        design=lambda: designs.visits(12, 3), generate=MixedModel(formula, {"arm": 0.3}, {"subject": 1.0}, lost=lost),
        grid=(), estimators=[Estimator("mixed", formula, df=df)], replicates=4, chunk=4,
        targets={"arm": None, "both": Target(of=names)},
    )  # fmt: skip
    found = cheap(study)
    for i in (0, 3):
        fit = study.replicate(0, i).fit()
        for method in df:
            single = fit.test({"arm": 1.0}, df=method).rows
            np.testing.assert_allclose(found["mixed", method, "arm"][1][i], single.p[0], rtol=1e-5)
            joint = fit.test(list(names), df=method).joint
            np.testing.assert_allclose(found["mixed", method, "both"][1][i], joint.p, rtol=1e-5)


@pytest.mark.slow
def test_laws_do_not_depend_on_chunks_and_lost_rows_have_their_own_design():
    model = MixedModel("y ~ time + (1 | subject)", {"time": 0.3}, {"subject": 1.0}, lost=Dropout(0.2))
    test = analyses.bootstrap("y ~ time + (1 | subject)", "y ~ 1 + (1 | subject)", "time", n=9)
    own = {"design": lambda: designs.visits(12, 3), "generate": model, "grid": (), "targets": ["time"],
           "estimators": [test], "replicates": 3}  # fmt: skip
    found, parts = table_of(small(**own, chunk=3)), small(**own, chunk=2)
    for name in ("estimate", "p"):
        pieces = np.concatenate([table_of(parts, task)[name] for task in parts.tasks], 1)
        np.testing.assert_array_equal(found[name], pieces)
    here = small(**own).replicate(0, 1)
    np.testing.assert_allclose(found["p"][0, 1], here.fit().p[1], rtol=1e-12)
    assert (found["status"] == 0).all()
