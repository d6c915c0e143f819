"""Robust covariances: against dense hand computations, clubSandwich, mmrm and SAS."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pandas as pd
import pytest

import jaxlmm
from cases import REFERENCES, case_names, load_case, load_data, some
from jaxlmm import DataError
from jaxlmm.inference.robust.partition import dependent
from jaxlmm.inference.robust.sandwich import KINDS, adjusted, cr_vcov, row_df
from oracle import gradient
from robustness import CLUSTERS, covariance, data, fitted, residuals
from robustness import KINDS as MODELS


def power(S, exponent):
    """Power of symmetric matrices, zero along null directions."""
    w, Q = np.linalg.eigh(S)
    w, inside = np.where(w > 1e-10 * w.max(), w, 1.0), w > 1e-10 * w.max()
    return (Q * np.where(inside, w**exponent, 0.0)) @ Q.T


def by_hand(fit, kind, labels):
    """Covariance, and for a contrast c the covariance (m, m) of the parts of the clusters, from n x n matrices."""
    V, _ = covariance(fit)
    X, e = fit.model.X, residuals(fit)
    n, p = X.shape
    M = np.linalg.inv(X.T @ np.linalg.solve(V, X))
    parts, F = np.unique(labels), []
    for g in parts:
        r = np.flatnonzero(labels == g)
        Vg, Xg = V[np.ix_(r, r)], X[r]
        W = np.linalg.inv(Vg)
        if kind == "CR2":
            D = np.linalg.cholesky(Vg).T
            K = D.T @ power(D @ (Vg - Xg @ M @ Xg.T) @ D.T, -0.5) @ D
        elif kind == "CR2-mmrm":
            L = np.linalg.cholesky(W)
            K = Vg @ L @ power(np.eye(len(r)) - L.T @ Xg @ M @ Xg.T @ L, -0.5) @ L.T
        elif kind == "CR3":
            K = np.linalg.inv(np.eye(len(r)) - Xg @ M @ Xg.T @ W)
        else:
            K = np.eye(len(r))
        full = np.zeros((p, n))
        full[:, r] = M @ Xg.T @ W @ K
        F.append(full)
    F, m = np.array(F), len(parts)
    scale = {"CR1": m / (m - 1), "CR1p": m / (m - p), "CR1S": m * (n - 1) / ((m - 1) * (n - p))}.get(kind, 1.0)
    u = F @ e
    left = np.eye(n) - X @ M @ X.T @ np.linalg.inv(V)

    def parts_of(c):
        A = np.einsum("p,gpn->gn", c, F) @ left
        return A @ V @ A.T

    return scale * u.T @ u, parts_of


@pytest.mark.parametrize(
    ("kind", "model"),
    some(
        [(kind, model) for kind in KINDS for model in MODELS],
        *((kind, "slopes") for kind in KINDS), ("CR2", "both"), ("CR2", "serial"),
    ),
)  # fmt: skip
def test_every_kind_by_hand(model, kind):
    fit = fitted(model)
    if kind == "CR1p" and model in CLUSTERS:
        kind = "CR1"
    labels = data()[CLUSTERS.get(model, "id")].to_numpy()
    vcov, parts_of = by_hand(fit, kind, labels)
    found = fit.sandwich(kind)
    np.testing.assert_allclose(found.vcov, vcov, rtol=1e-7, atol=1e-9 * np.abs(vcov).max())
    L = np.vstack([np.eye(len(fit.coef)), np.linspace(-1, 2, len(fit.coef))])
    df = [np.trace(P) ** 2 / np.sum(P**2) for P in map(parts_of, L)]
    np.testing.assert_allclose(found.df(L), df, rtol=1e-7)


@pytest.mark.parametrize("model", ["slopes", "both"])
def test_wider_clusters(model):
    fit, sites = fitted(model), data()["site"].to_numpy()
    vcov, _ = by_hand(fit, "CR2", sites)
    np.testing.assert_allclose(fit.sandwich("CR2", "site").vcov, vcov, rtol=1e-7)
    np.testing.assert_allclose(fit.sandwich("CR2", sites).vcov, vcov, rtol=1e-7)
    assert fit.sandwich("CR2", "site").clusters == 6


@functools.cache
def recorded(name):
    """A recorded case of mmrm and its fit."""
    case = load_case(name)
    at = case["structure"]
    residual = f"{at['residual']}({at['time']} | {at['within']})"
    return case, jaxlmm.lmm(case["formula"], load_data(case), residual=residual, method=case["method"])


ROBUST = [n for n in case_names(plain=False) if load_case(n).get("robust_se")]


@pytest.mark.parametrize("name", some(ROBUST, ROBUST[0]))
def test_robust_standard_errors_of_mmrm(name):
    case, fit = recorded(name)
    kinds = {"Empirical": "CR0", "Empirical-Jackknife": "CR3", "Empirical-Bias-Reduced": "CR2-mmrm"}
    for theirs, se in case["robust_se"].items():
        np.testing.assert_allclose(fit.sandwich(kinds[theirs]).se, list(se.values()), rtol=1e-5)


SAS = [(s, w) for s in ("us", "adh", "ar1", "arh1", "cs", "csh", "spexp", "toep", "toeph") for w in (False, True)]


@pytest.mark.parametrize(("structure", "weighted"), some(SAS, ("us", False), ("ar1", True)))
def test_empirical_covariances_of_sas(structure, weighted):
    name = f"empirical_{structure}{'_weighted' if weighted else ''}_covb.csv"
    sas = pd.read_csv(REFERENCES / "sas" / "mmrm" / name)[["Col1", "Col2"]].to_numpy()[:2]
    frame = load_data("fev_us_reml")
    frame["ARMCD"] = pd.Categorical(frame["ARMCD"], ["PBO", "TRT"])
    place = "sp_exp(VISITN + VISITN2" if structure == "spexp" else f"{structure.replace('arh1', 'ar1h')}(AVISIT"
    fit = jaxlmm.lmm("FEV1 ~ ARMCD", frame, residual=f"{place} | USUBJID)", weights="WEIGHT" if weighted else None)
    np.testing.assert_allclose(fit.sandwich("CR0").vcov, sas, rtol=4e-4)


# R 4.2.2, clubSandwich 0.5.8, lme4 1.1-31, nlme 3.1-162; rows of sleepstudy without every seventh (the fourth, ...) and
# without Days > 4 of Subjects 308 to 310; of Orthodont without rows 3, 10, 11, 60, 77:
#   m <- lmer(Reaction ~ Days + I(Days^2) + (Days | Subject), d)
#   m <- gls(distance ~ age * Sex, o, corAR1(form = ~ I((age - 8) / 2) | Subject), weights = varPower(form = ~ age))
#   V <- vcovCR(m, type); sqrt(diag(V)); coef_test(m, V, "Satterthwaite")
#   Wald_test(m, constrain_zero(2:3), V, test = "HTZ")
SLEEP = {
    "CR0": ((8.15160484551, 3.82296842943, 0.371385236855), (16.7782443121, 16.1534033531, 14.8746610315),
            (23.9424625657, 14.2655519647)),
    "CR1": ((8.38793218588, 3.93380206015, 0.382152255981), (16.7782443121, 16.1534033531, 14.8746610315),
            (22.6123257565, 14.2655519647)),
    "CR1p": ((8.92963570751, 4.18785209086, 0.4068321435), (16.7782443121, 16.1534033531, 14.8746610315),
             (19.9520521381, 14.2655519647)),
    "CR1S": ((8.4489361328, 3.96241190663, 0.384931581734), (16.7782443121, 16.1534033531, 14.8746610315),
             (22.2869685514, 14.2655519647)),
    "CR2": ((8.39946961165, 3.94623865417, 0.384283673421), (16.7616750322, 16.0956277434, 14.8101827549),
            (22.4051487663, 14.2259450793)),
    "CR3": ((8.65729608887, 4.07377687759, 0.397595913473), (16.7448677043, 16.0374071825, 14.7461749196),
            (20.9445791697, 14.1863530829)),
}  # fmt: skip
ORTHODONT = {
    "CR0": ((1.48174676641, 0.121394248621), (21.3214589002, 21.5337041645), (43.9468182776, 17.9228514909)),
    "CR2": ((1.5346819011, 0.125878808065), (21.0473153666, 21.2796643717), (40.4526097691, 17.8586034512)),
    "CR3": ((1.59748693708, 0.130942792413), (20.7700333019, 21.0225394701), (37.0275627122, 17.793530572)),
}


@functools.cache
def irregular(which):
    frame = load_data(f"{which}_us_reml" if which == "orthodont" else "sleepstudy_reml")
    if which == "sleepstudy":
        late = frame.Subject.isin(["308", "309", "310"]) & (frame.Days > 4)
        return jaxlmm.lmm("Reaction ~ Days + I(Days**2) + (Days | Subject)", frame[(np.arange(180) % 7 != 3) & ~late])
    frame = pd.read_csv(REFERENCES / "data" / "orthodont.csv").drop(index=[2, 9, 10, 59, 76])
    frame["visit"] = (frame.age - 8) // 2
    return jaxlmm.lmm("distance ~ age * Sex", frame, residual="ar1(visit | Subject)", variance="power(age)")


@pytest.mark.parametrize(
    ("which", "kind", "expected"),
    [("sleepstudy", *x) for x in SLEEP.items()]
    + [pytest.param("orthodont", *x, marks=pytest.mark.slow) for x in ORTHODONT.items()],
)
def test_clubsandwich(which, kind, expected):
    se, df, (F, den) = expected
    fit = irregular(which)
    found, eye = fit.sandwich(kind), np.eye(len(fit.coef))
    last = slice(-len(se), None)  # nlme's intercept is that of the other sex
    np.testing.assert_allclose(found.se[last], se, rtol=1e-6)
    np.testing.assert_allclose(found.df(eye)[last], df, rtol=1e-6)
    statistic, num, denominator = found.joint(eye[1:], test="HTZ")
    np.testing.assert_allclose([statistic, denominator], [F, den], rtol=1e-6)
    assert num == len(eye) - 1
    joint = fit.test(eye[1:], robust=kind, df="hotelling").joint
    np.testing.assert_allclose(joint[:3], [F, num, den], rtol=1e-6)
    rows = fit.test(eye, robust=kind, df="hotelling").rows
    np.testing.assert_allclose(rows.df[last], df, rtol=1e-6)


def test_hotelling_is_for_sandwich_covariances():
    with pytest.raises(DataError, match="df: found 'hotelling', expected one of .*; with robust= hotelling too"):
        fitted("slopes").test(np.eye(5)[:2], df="hotelling")


def test_jackknife_is_deletion_at_the_same_theta():
    fit = fitted("slopes")
    V, _ = covariance(fit)
    X, y, labels = fit.model.X, fit.model.y - fit.model.offset, data()["id"].to_numpy()
    total = 0.0
    for g in np.unique(labels):
        r = labels != g
        solved = np.linalg.solve(V[np.ix_(r, r)], np.column_stack([X[r], y[r]]))
        gap = np.linalg.solve(X[r].T @ solved[:, :-1], X[r].T @ solved[:, -1]) - fit.coef
        total = total + np.outer(gap, gap)
    np.testing.assert_allclose(fit.sandwich("CR3").vcov, total, rtol=1e-7)


def test_bias_reduction_is_unbiased_where_the_model_holds():
    fit = fitted("serial")
    for kind in ("CR2", "CR2-mmrm"):
        _, parts_of = by_hand(fit, kind, data()["id"].to_numpy())
        c = np.linspace(1, 2, len(fit.coef))
        assert np.trace(parts_of(c)) == pytest.approx(c @ fit.vcov @ c, rel=1e-8)


def test_one_row_and_joint_tests_agree():
    found = fitted("slopes").sandwich("CR2")
    L = np.eye(5)[1:2]
    t = found.coef[1] / found.se[1]
    for test in ("satterthwaite", "HTZ"):
        F, num, den = found.joint(L, test=test)
        assert (F, num, den) == pytest.approx((t**2, 1, found.df(L)[0]))
    assert found.joint(L, rhs=found.coef[1])[0] == pytest.approx(0, abs=1e-20)
    F, num, den = found.joint(np.eye(5)[1:4])
    assert num == 3
    assert 2 < den < 20


def test_a_cluster_that_determines_a_coefficient():
    frame = data().assign(only=(data().id == "s03") * 1.0)
    fit = jaxlmm.lmm("y ~ x + only + (1 | id)", frame)
    for kind in ("CR2", "CR2-mmrm", "CR3"):
        found = fit.sandwich(kind)
        assert np.all(np.isfinite(found.vcov))
        assert found.se[2] < 1e-3 * fit.se[2] + found.se[0] * 2  # nothing is known about it from its own cluster
        assert np.all(found.se[:2] > 0)


def test_pure_functions_map_over_data_sets():
    fit = fitted("slopes")
    model, labels = fit.model, data()["id"].to_numpy()
    V, _ = covariance(fit)
    U = np.column_stack([model.X, model.y - model.offset])
    grams = [U[r].T @ np.linalg.solve(V[np.ix_(r, r)], U[r]) for r in (labels == g for g in np.unique(labels))]
    grams = np.array([*grams, 0.0 * grams[0]])  # a cluster that is not there
    wide = np.insert(np.insert(grams, 2, 0.0, axis=1), 2, 0.0, axis=2)  # and a column of X that is not
    keep = np.ix_([0, 1, 3, 4, 5], [0, 1, 3, 4, 5])
    with jax.enable_x64(True):
        for kind in ("CR1p", "CR2-mmrm"):
            expected = fit.sandwich(kind)
            mapped = jax.jit(jax.vmap(lambda g: cr_vcov(g, kind)))(np.stack([wide, wide]))  # noqa: B023
            np.testing.assert_allclose(mapped[1][keep], expected.vcov, rtol=1e-7)
        np.testing.assert_allclose(cr_vcov(grams, "CR1S", fit.nobs), fit.sandwich("CR1S").vcov, rtol=1e-7)
        mapped = jax.jit(jax.vmap(lambda g: row_df(adjusted(g, "CR2-mmrm"), np.eye(5))))(np.stack([grams, grams]))
        np.testing.assert_allclose(mapped[1], expected.df(np.eye(5)), rtol=1e-7)


def test_the_clusters_of_a_model():
    for model in MODELS:
        labels = data()[CLUSTERS.get(model, "id")]
        pairs = {*zip(labels, dependent(fitted(model).model).codes, strict=True)}
        assert len(pairs) == labels.nunique() == len({code for _, code in pairs})


def test_errors():
    fit = fitted("both")
    with pytest.raises(DataError, match="robust: found 'HC3', expected one of CR0"):
        fit.sandwich("HC3")
    with pytest.raises(DataError, match="V is not block diagonal by 'id': 6 of 6 groups"):
        fit.sandwich("CR0", cluster="id")
    with pytest.raises(DataError, match="more clusters than the 3 coefficients"):
        fit.sandwich("CR1p", cluster=np.where(data().site.isin(["c0", "c1"]), 0, 1))
    with pytest.raises(DataError, match="no column 'sight'"):
        fit.sandwich("CR0", cluster="sight")
    with pytest.raises(DataError, match="expected a column or one label for each"):
        fit.sandwich("CR0", cluster=np.arange(5))
    with pytest.raises(DataError, match="at least 2 clusters, found 1"):
        fit.sandwich("CR0", cluster=np.zeros(fit.nobs))
    with pytest.raises(DataError, match="random effects connect all rows"):
        fitted("crossed").sandwich()
    with pytest.raises(DataError, match="expected 'satterthwaite' or 'HTZ'"):
        fit.sandwich().joint(np.eye(3)[:1], test="LRT")


# ---------------------------------------------------------------------------- scores


@pytest.mark.parametrize(
    ("model", "method"),
    some(
        [("slopes", "REML"), ("serial", "ML"), ("both", "REML"), ("field", "ML"), ("kin", "REML")],
        ("both", "REML"),
    ),
)
def test_scores_are_derivatives_of_the_parts_of_the_likelihood(model, method):
    fit = fitted(model, method)
    labels = data()[CLUSTERS.get(model, "id")].to_numpy()
    X, e = fit.model.X, residuals(fit)
    groups = [np.flatnonzero(labels == g) for g in np.unique(labels)]

    def dense(theta):
        estimate = fit.estimate
        moved = dataclasses.replace(fit, estimate=_at(estimate, fit.model, theta), method=method)
        return covariance(moved)[0]

    def parts(z):
        beta, V = z[: X.shape[1]], dense(z[X.shape[1] :])
        out = []
        for r in groups:
            W = np.linalg.inv(V[np.ix_(r, r)])
            rest = e[r] - X[r] @ (beta - fit.coef)
            share = np.sum(fit.vcov * (X[r].T @ W @ X[r])) if method == "REML" else 0.0
            out.append(0.5 * np.linalg.slogdet(W)[1] - 0.5 * rest @ W @ rest - 0.5 * share)
        return np.array(out)

    found = fit.scores()
    expected = gradient(parts, np.concatenate([fit.coef, fit.theta]))
    order = [list(np.unique(dependent(fit.model).codes[r])) for r in groups]
    order = np.array(order)[:, 0]
    both = np.column_stack([found.beta, found.theta])[order]
    np.testing.assert_allclose(both, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())
    np.testing.assert_allclose(both.sum(0), 0, atol=1e-5 * np.abs(both).max())


def _at(estimate, model, theta):
    """The estimate with its covariances at another theta."""
    import dataclasses

    with jax.enable_x64(True):
        C = jax.device_get(jax.jit(type(model).blocks)(model, theta))
    covariances = tuple(
        np.zeros((0, 0)) if e.size == 0 else G for G, e in zip(C.random, estimate.covariances, strict=True)
    )
    return dataclasses.replace(estimate, theta=theta, covariances=covariances, residual=C.residual)


@pytest.mark.slow
def test_covariance_of_all_parameters():
    fit = fitted("serial")
    X = fit.model.X

    def of_beta(theta):
        moved = dataclasses.replace(fit, estimate=_at(fit.estimate, fit.model, theta), method="REML")
        return X.T @ np.linalg.solve(covariance(moved)[0], residuals(fit))

    A, cross = np.linalg.inv(fit.vcov), gradient(of_beta, fit.theta)
    profiled = np.asarray(jax.jit(jax.hessian(jaxlmm.reml))(fit.theta, fit.model))
    information = np.block([[A, -cross], [-cross.T, cross.T @ fit.vcov @ cross - profiled]])
    np.testing.assert_allclose(fit.vcov_full(), np.linalg.inv(information), rtol=1e-5, atol=1e-9)
    s = fit.scores("site")
    s = np.column_stack([s.beta, s.theta])
    bread = fit.vcov_full()
    np.testing.assert_allclose(fit.vcov_full("CR1", "site"), 6 / 5 * bread @ s.T @ s @ bread, rtol=1e-9)
    assert list(fit.scores("site").cluster) == [f"c{i}" for i in range(6)]
    with pytest.raises(DataError, match="expected None, 'CR0' or 'CR1'"):
        fit.vcov_full("CR2")
    with pytest.raises(DataError, match="cluster: only with robust="):
        fit.vcov_full(cluster="site")


@pytest.mark.slow
def test_singular_fits_have_scores():
    fit = fitted("singular")
    assert fit.singular
    edge = ~np.isfinite(fit.theta)
    found, full = fit.scores(), fit.vcov_full("CR0")
    assert np.all(found.theta[:, edge] == 0)
    inside = np.append(np.ones(len(fit.coef), bool), ~edge)
    assert np.all(np.isfinite(full[np.ix_(inside, inside)]))
    assert np.all(np.isnan(full[~inside]))
    np.testing.assert_allclose(fit.sandwich("CR3").vcov, by_hand(fit, "CR3", data()["id"].to_numpy())[0], rtol=1e-6)
