"""What the data can estimate is estimated, what they cannot is empty: against dense algebra in all dummy columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxlmm


def crossover():
    """Every sequence of three treatments; the carry-over is "none" in the first period alone."""
    rng, rows = np.random.default_rng(1), []
    for s in range(24):
        order = ["ABC", "BCA", "CAB", "ACB", "BAC", "CBA"][s % 6]
        own = rng.normal()
        for p in range(3):
            rows.append(
                (f"s{s}", f"p{p}", order[p], "none" if p == 0 else order[p - 1], own + rng.normal() + ord(order[p]))
            )
    return pd.DataFrame(rows, columns=["subj", "per", "trt", "carry", "y"])


def trial():
    """Sites within regions, three in one and two in the other."""
    rng = np.random.default_rng(2)
    n = 60
    site = np.array(["DE", "FR", "IT", "CA", "US"])[rng.integers(5, size=n)]
    one = pd.DataFrame(
        {"id": [f"i{i}" for i in range(n)], "site": site, "trt": np.where(rng.random(n) < 0.5, "A", "B")}
    )
    one["region"] = np.where(np.isin(site, ["CA", "US"]), "NA.", "EU")
    data = pd.concat([one.assign(visit=v) for v in ("v1", "v2")], ignore_index=True)
    effect = data.site.map({"DE": 0.0, "FR": 1.0, "IT": 2.5, "CA": -1.0, "US": 3.0})
    return data.assign(
        y=effect + (data.trt == "B") + rng.normal(size=n)[np.tile(np.arange(n), 2)] + rng.normal(size=2 * n)
    )


def dummies(data, terms):
    """One column a combination of levels that occurs, of each term."""
    columns = [np.ones((len(data), 1))]
    for term in terms:
        label = data[list(term)].agg("/".join, axis=1)
        columns.append((label.to_numpy()[:, None] == np.unique(label)) * 1.0)
    return np.hstack(columns)


def gls(data, group, sd, sigma, X):
    """Estimable functions of all dummy columns: a generalized inverse of X'V^-1 X, and X'V^-1 y."""
    Z = (data[group].to_numpy()[:, None] == np.unique(data[group])) * sd
    V = Z @ Z.T + sigma**2 * np.eye(len(data))
    A = X.T @ np.linalg.solve(V, X)
    return np.linalg.pinv(A), X.T @ np.linalg.solve(V, data.y.to_numpy(float))


def check(table, C, ginv, b):
    np.testing.assert_allclose(table["estimate"], C @ ginv @ b, rtol=1e-6)
    np.testing.assert_allclose(table["std_error"], np.sqrt(np.einsum("ij,jk,ik->i", C, ginv, C)), rtol=1e-6)


def sds(fit):
    return float(np.sqrt(fit.varcorr().groups[0].cov[0, 0])), fit.sigma


@pytest.mark.filterwarnings("ignore::jaxlmm.errors.DroppedColumnsWarning")
def test_differences_of_means_that_are_not_estimable_are_estimated():
    d = crossover()
    fit = jaxlmm.lmm("y ~ per + trt + carry + (1 | subj)", d)
    means = fit.emmeans("trt")
    assert np.isnan(means.frame()["estimate"]).all() and np.isnan(means.L).all()
    X = dummies(d, [("per",), ("trt",), ("carry",)])
    C = np.zeros((3, X.shape[1]))
    C[0, [4, 5]], C[1, [4, 6]], C[2, [5, 6]] = (1, -1), (1, -1), (1, -1)
    found = gls(d, "subj", *sds(fit), X)
    check(means.pairs().frame(), C, *found)
    check(fit.predictions(at={"trt": ["A", "B", "C"], "carry": "A"}).pairs().frame(), C, *found)
    assert np.isfinite(means.pairs().test(joint=True)["p_value"]).all()
    empty = {name: np.isnan(fit.emmeans(name).pairs().frame()["estimate"]).tolist() for name in ("per", "carry")}
    assert empty["per"] == [True, True, False]  # the first period cannot be told from having no carry-over
    assert empty["carry"] == [False, False, True, False, True, True]


@pytest.mark.filterwarnings("ignore::jaxlmm.errors.DroppedColumnsWarning")
def test_means_are_over_the_cells_that_a_nested_factor_has():
    d = trial()
    fit = jaxlmm.lmm("y ~ trt * visit + region / site + (1 | id)", d)
    X = dummies(d, [("trt", "visit"), ("region", "site")])
    sites = np.unique(d.region + "/" + d.site)
    found = gls(d, "id", *sds(fit), X)

    def row(cells, weights):
        share = [weights.get(s, 0.0) for s in sites]
        return [1.0, *cells, *share]

    own = {s: (0.5 / 3 if s.startswith("EU") else 0.5 / 2) for s in sites}  # regions alike, and sites within them
    order = [1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]
    check(fit.emmeans("trt | visit").frame(), np.array([row(c, own) for c in order]), *found)
    quarter = [0.25] * 4
    C = np.array([row(quarter, {s: own[s] * 2 for s in sites if s[:2] == r}) for r in ("EU", "NA")])
    check(fit.emmeans("region").frame(), C, *found)
    by_site = fit.emmeans("site | region")
    assert list(by_site.labels["site"]) == ["DE", "FR", "IT", "CA", "US"]
    names = [f"{r}/{s}" for r, s in zip(by_site.labels["region"], by_site.labels["site"], strict=True)]
    check(by_site.frame(), np.array([row(quarter, {s: 1.0}) for s in names]), *found)
    assert "site nested in region" in str(by_site)
    assert len(by_site.pairs().frame()["estimate"]) == 4
    assert np.isfinite(fit.emmeans("region", weights="proportional").frame()["estimate"]).all()


@pytest.mark.filterwarnings("ignore::jaxlmm.errors.DroppedColumnsWarning")
def test_predictions_where_the_data_say_nothing_are_empty():
    d = trial()
    d = d[~((d.trt == "B") & (d.visit == "v2"))]
    fit = jaxlmm.lmm("y ~ trt * visit + (1 | id)", d)
    new = pd.DataFrame(
        {"trt": ["A", "B", "B", None], "visit": ["v2", "v1", "v2", "v1"], "id": ["i0", "i1", "i2", "i3"]}
    )
    for options in ({"random": False}, {}, {"se": True}, {"random": False, "interval": "prediction"}):
        with pytest.warns(jaxlmm.errors.NotEstimableWarning, match="1 rows"):
            found = fit.predict(new, **options)
        values = found if isinstance(found, np.ndarray) else found["estimate"].to_numpy()
        assert np.isnan(values).tolist() == [False, False, True, True]
        np.testing.assert_allclose(values[:2], np.asarray(fit.predict(new[:2], random=options.get("random", True))))
    for effects in ("new", "predicted"):
        with pytest.raises(jaxlmm.errors.DataError, match="row 2"):
            fit.simulate(1, newdata=new[:3], effects=effects)


VISITS = ("v1", "v2", "v3", "v4")


def visits(n=48, seed=0):
    """Four visits of three arms with a covariate, unstructured."""
    rng = np.random.default_rng(seed)
    S = 0.6 ** abs(np.subtract.outer(np.arange(4), np.arange(4))) * np.outer([2, 2.5, 3, 3.5], [2, 2.5, 3, 3.5])
    y = rng.normal(size=(n, 4)) @ np.linalg.cholesky(S).T
    one = pd.DataFrame({"id": [f"s{i:02d}" for i in range(n)], "arm": np.array(["A", "B", "C"])[np.arange(n) % 3]})
    one["base"] = rng.normal(size=n)
    return pd.concat([one.assign(visit=v, y=y[:, j] + one.base) for j, v in enumerate(VISITS)], ignore_index=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::jaxlmm.errors.DroppedColumnsWarning")
@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
def test_a_saturated_visit_takes_nothing_from_the_others(df):
    d = visits()
    rng = np.random.default_rng(3)
    d = d[~((d.visit == "v3") & np.isin(d.id, rng.choice(d.id.unique(), 9, replace=False)))]
    last = d[d.visit == "v4"].groupby("arm").head(1).index
    few = d[(d.visit != "v4") | d.index.isin(last)]
    formula, how = "y ~ 0 + visit:arm + visit:base", {"residual": "us(visit | id)"}
    fit, without = jaxlmm.lmm(formula, few, **how), jaxlmm.lmm(formula, d[d.visit != "v4"], **how)
    a, b = fit.tidy(df=df).set_index("term"), without.tidy(df=df).set_index("term")
    found = a.loc[b.index, ["estimate", "std_error", "df", "statistic"]]
    np.testing.assert_allclose(found, b[["estimate", "std_error", "df", "statistic"]], rtol=1e-6)
    last = a.loc[[t for t in a.index if "v4" in t]]
    assert last["df"].isna().all() and last["p_value"].isna().all()
    assert "do not determine" in fit.wald(df=df).note
    L = [[float(t == name) for t in fit.coef_names] for name in b.index[:2]]
    M = [[float(t == name) for t in without.coef_names] for name in b.index[:2]]
    one, other = fit.test(L, df=df).joint, without.test(M, df=df).joint
    np.testing.assert_allclose([one.statistic, one.den_df], [other.statistic, other.den_df], rtol=1e-6)
    new = few[few.visit == "v1"][:3]
    mine, theirs = (f.predict(new, se=True, df=df)[["estimate", "std_error", "df"]] for f in (fit, without))
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@pytest.mark.parametrize("unit", [1.0, 1e-8, 1e8])
def test_tests_have_no_unit(unit):
    d = visits()
    d = d[~((d.visit == "v3") & (d.id < "s09"))].assign(base=lambda x: x.base * unit)
    fit = jaxlmm.lmm("y ~ 0 + visit:arm + visit:base", d, residual="us(visit | id)")
    found = fit.tidy(df="kenward-roger").iloc[-1]
    plain = jaxlmm.lmm("y ~ 0 + visit:arm + visit:base", d.assign(base=d.base / unit), residual="us(visit | id)")
    expected = plain.tidy(df="kenward-roger").iloc[-1]
    np.testing.assert_allclose(found.std_error * unit, expected.std_error, rtol=1e-8)
    np.testing.assert_allclose([found["df"], found.statistic], [expected["df"], expected.statistic], rtol=1e-7)


def test_what_the_data_do_not_identify_has_no_estimate():
    """A slope constant within groups, at two values: two variances for three parameters."""
    rng, g = np.random.default_rng(0), np.repeat(np.arange(30), 6)
    x = (g % 2) * 1.0
    y = rng.normal(size=30)[g] * (1 + 1.5 * x) + rng.normal(size=180)
    d = pd.DataFrame({"g": [f"g{i:02d}" for i in g], "x": x, "y": y})
    within = sum(np.sum((y[g == i] - y[g == i].mean()) ** 2) for i in range(30)) / 150  # balanced: sigma^2
    means = np.array([y[g == i].mean() for i in range(30)])
    variances = [np.var(means[k::2], ddof=1) - within / 6 for k in (0, 1)]  # of groups at 0, and at 1
    frames = []
    for start in (None, [0.5, 0.0, 0.5, 0.0], [2.0, -1.0, 0.3, 0.0]):
        fit = jaxlmm.lmm("y ~ x + (x | g)", d, start=start if start is None else np.array(start))
        found = fit.varcorr().frame()
        np.testing.assert_allclose(found["covariance"], [variances[0], np.nan, np.nan, within], rtol=1e-6)
        assert np.isnan(found["se_covariance"]).tolist() == [False, True, True, False]
        frames.append(found)
        at_one = fit.delta(lambda p: (p.varcorr[0].sum(), p.varcorr[0][1, 1]))
        np.testing.assert_allclose(at_one.estimate, [variances[1], np.nan], rtol=1e-6)
        assert np.isfinite(at_one.se[0]) and np.isnan(at_one.se[1]) and "identify" in at_one.note
        for table in (fit.varcorr(), fit.summary()):
            assert "do not identify" in str(table)
        np.testing.assert_allclose(fit.tidy()["df"][0], 14, rtol=1e-6)
        limits = fit.confint(which="covariance")
        assert np.isnan(limits["estimate"]).tolist() == [False, True, True, False]
        assert np.isnan(fit.parameters()["estimate"]).sum() == 2
    sd = within**2 * 2 / 150  # of the estimate of sigma^2
    se = np.sqrt(2 * (variances[0] + within / 6) ** 2 / 14 + sd / 36)
    np.testing.assert_allclose(frames[0]["se_covariance"][[0, 3]], [se, np.sqrt(sd)], rtol=1e-6)
    for other in frames[1:]:
        np.testing.assert_allclose(other.iloc[:, 3:].astype(float), frames[0].iloc[:, 3:].astype(float), rtol=1e-5)


@pytest.mark.slow
def test_visits_that_never_meet_have_no_covariance():
    d = visits()
    even = d.id.str[1:].astype(int) % 2 == 0
    d = d[~(even & (d.visit == "v3")) & ~(~even & (d.visit == "v4"))]
    fit = jaxlmm.lmm("y ~ arm * visit + base", d, residual="us(visit | id)")
    found = fit.varcorr().residual
    assert np.isnan(found.cov[3, 2]) and np.isnan(found.corr[3, 2])
    assert np.isnan(found.cov).sum() == 2 and np.isfinite(found.sd).all()
    tidy = fit.tidy()
    assert np.isfinite(tidy["df"]).all() and np.isfinite(fit.tidy(df="kenward-roger")["std_error"]).all()


@pytest.mark.parametrize(("formula", "fixed"), [("y ~ g + (1 | g)", "g"), ("y ~ g * x + (x | g)", "g * x")])
def test_by_ml_a_term_among_the_fixed_effects_has_no_variance(formula, fixed):
    """Its variance only makes the covariance of what the fixed effects leave larger: least squares is the optimum."""
    rng, g = np.random.default_rng(0), np.repeat(np.arange(8), 6)
    x = rng.normal(size=48)
    d = pd.DataFrame({"g": [f"g{i}" for i in g], "x": x, "y": rng.normal(size=8)[g] * (1 + x) + rng.normal(size=48)})
    fit = jaxlmm.lmm(formula, d, method="ML")
    one = (g[:, None] == np.arange(8)) * 1.0
    X = one if fixed == "g" else np.hstack([one, one * x[:, None]])
    rss = np.sum((d.y - X @ np.linalg.lstsq(X, d.y, rcond=None)[0]) ** 2)
    np.testing.assert_allclose(fit.loglik, -24 * (np.log(2 * np.pi * rss / 48) + 1), rtol=1e-9)
    np.testing.assert_allclose(
        [fit.sigma**2, *fit.varcorr().groups[0].sd], [rss / 48, *[0.0] * (X.shape[1] // 8)], rtol=1e-6
    )
    assert fit.singular and fit.converged
    with pytest.raises(jaxlmm.errors.DataError, match="REML has nothing"):
        jaxlmm.lmm(formula, d)


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_endpoints_in_other_units_are_the_same_model(unit):
    """Two endpoints in one unstructured matrix: the likelihood moves by the logarithm of the unit alone."""
    d = visits()
    late = d.visit.isin(["v3", "v4"])
    how = {"residual": "us(visit | id)"}
    one = jaxlmm.lmm("y ~ 0 + visit:arm", d, **how)
    two = jaxlmm.lmm("y ~ 0 + visit:arm", d.assign(y=np.where(late, unit, 1.0) * d.y), **how)
    rows = late.sum() - 6  # less the coefficients of these visits
    np.testing.assert_allclose(two.loglik + rows * np.log(unit), one.loglik, rtol=1e-7)
    assert two.converged and not two.singular
    by = np.repeat([1.0, unit], 2)
    np.testing.assert_allclose(two.varcorr().residual.cov / np.outer(by, by), one.varcorr().residual.cov, rtol=1e-4)
    assert two.coef_names == one.coef_names
    size = np.array([unit if "v3" in t or "v4" in t else 1.0 for t in one.coef_names])
    for df in ("satterthwaite", "kenward-roger"):
        a, b = one.tidy(df=df), two.tidy(df=df)
        np.testing.assert_allclose(b["std_error"] / size, a["std_error"], rtol=1e-4)
        np.testing.assert_allclose(b["df"], a["df"], rtol=1e-4)
