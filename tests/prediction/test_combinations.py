"""Narrow-space inference against Henderson's equations written out, and against SAS's published split plot."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
from dense_inference import jacobian
from jaxlmm.errors import DataError

# SAS/STAT, The MIXED Procedure, example "Split-Plot Design" (data: Stroup 1989); blocks, then A, then B
YIELD = [[[56, 41], [50, 36], [39, 35]], [[30, 25], [36, 28], [33, 30]], [[32, 24], [31, 27], [15, 19]],
         [[30, 25], [35, 30], [17, 18]]]  # fmt: skip


@cache
def split_plot():
    plots = [(b, a, c) for b in range(4) for a in range(3) for c in range(2)]
    data = {name: np.array([f"{name}{p[k] + 1}" for p in plots]) for k, name in enumerate(("Block", "A", "B"))}
    return jaxlmm.lmm("Y ~ A * B + (1 | Block/A)", {**data, "Y": np.ravel(YIELD).astype(float)})


def test_a_mean_in_three_spaces_is_that_of_sas():
    """The "a1 mean" of SAS's example: narrow, of these blocks and plots; intermediate, of these blocks; broad."""
    broad = {"(Intercept)": 1, "B[T.B2]": 0.5}
    blocks = {**broad, ("Block", ...): 1}
    plots = {("A:Block", f"A1:Block{k}"): 0.25 for k in range(1, 5)}
    found = split_plot().test({"narrow": {**blocks, **plots}, "intermed": blocks, "broad": broad})
    np.testing.assert_allclose(found.rows.estimate, [32.875] * 3, rtol=1e-8)
    np.testing.assert_allclose(found.rows.se, [1.0817, 2.2396, 4.5403], atol=5e-5)
    np.testing.assert_allclose(found.rows.statistic, [30.39, 14.68, 7.24], atol=5e-3)
    np.testing.assert_allclose(found.rows.df[:2], [9, 6], rtol=1e-4)
    assert found.names == ("narrow", "intermed", "broad")


@pytest.mark.slow
def test_means_of_predicted_groups_are_in_the_space_of_the_parts_that_count():
    fit = split_plot()
    for random, error in ((True, 1.0817), ("Block", 2.2396), (False, 4.5403)):
        found = fit.predictions("A", random=random)
        np.testing.assert_allclose(found._tests["std_error"], error, atol=5e-5)
    assert "with predicted effects of" in str(fit.predictions("A", random=True))


@cache
def slopes():
    data = jaxlmm.datasets.load("sleepstudy").drop(index=[3, 17, 44, 45, 120]).reset_index(drop=True)
    data["w"] = np.tile([1.0, 2.0, 0.5, 1.5, 1.0], 35)
    return data, jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", data, weights="w")


L = {
    "308 at 3": {"(Intercept)": 1, "Days": 3, ("Subject", "308", "(Intercept)"): 1, ("Subject", 308, "Days"): 3},
    "309 - 308": {("Subject", "309", "Days"): 1, ("Subject", "308", "Days"): -1},
    "all": {"Days": 1, ("Subject", ..., "Days"): 1},
    "Days": {"Days": 1},
}


@cache
def henderson():
    """Covariance (4, 4) of the errors of L as a function of the parameters (G00, G01, G11, s2)."""
    data, fit = slopes()
    codes = data["Subject"].astype("category").cat.codes.to_numpy()
    X = np.column_stack([np.ones(len(data)), data["Days"]])
    Z = np.zeros((len(data), 36))
    for j in range(2):
        Z[np.arange(len(data)), 2 * codes + j] = X[:, j]
    K = np.zeros((4, 38))
    K[0, :2], K[0, 2:4] = [1, 3], [1, 3]
    K[1, [3, 5]] = [-1, 1]
    K[2, 1], K[2, 3::2] = 1, 1 / 18
    K[3, 1] = 1

    def errors(x):
        G = np.array([[x[0], x[1]], [x[1], x[2]]])
        both = np.column_stack([X, Z])
        A = both.T @ (both * data["w"].to_numpy()[:, None]) / x[3]
        A[2:, 2:] += np.kron(np.eye(18), np.linalg.inv(G))
        return K @ np.linalg.inv(A) @ K.T

    return errors, fit.parameters()["estimate"].to_numpy()


def test_errors_and_degrees_of_freedom_are_those_of_hendersons_equations():
    _, fit = slopes()
    errors, x = henderson()
    found = fit.test(L)
    mse = errors(x)
    np.testing.assert_allclose(found.rows.se, np.sqrt(np.diagonal(mse)), rtol=1e-7)
    W, D = fit.vcov_parameters(), jacobian(errors, x)
    along = np.diagonal(D, axis1=1, axis2=2)
    df = 2 * np.diagonal(mse) ** 2 / np.einsum("im,ij,jm->m", along, W, along)
    np.testing.assert_allclose(found.rows.df, df, rtol=1e-5)
    u = fit.ranef()["Subject"].values
    b = fit.coef
    np.testing.assert_allclose(
        found.rows.estimate,
        [b[0] + 3 * b[1] + u[0, 0] + 3 * u[0, 1], u[1, 1] - u[0, 1], b[1] + u[:, 1].mean(), b[1]], rtol=1e-7,
    )  # fmt: skip
    e = found.rows.estimate
    np.testing.assert_allclose(found.joint.statistic, e @ np.linalg.solve(mse, e) / 4, rtol=1e-6)
    # Fai & Cornelius (1996): t statistics along the eigenvectors of the covariance
    _, Q = np.linalg.eigh(mse)
    slope = np.einsum("am,iab,bm->im", Q, D, Q)
    nu = 2 * np.diagonal(Q.T @ mse @ Q) ** 2 / np.einsum("im,ij,jm->m", slope, W, slope)
    E = np.sum(nu / (nu - 2))
    np.testing.assert_allclose(found.joint.den_df, 2 * E / (E - 4), rtol=1e-4)
    assert found.joint.num_df == 4
    assert found.names == tuple(L)
    assert fit.test(L["309 - 308"]).names == ("Subject 309 Days - Subject 308 Days",)


@pytest.mark.slow
def test_kenward_roger_adds_what_estimated_parameters_cost():
    """Each as `predict` and `test` have it: a row of the data, and a coefficient."""
    data, fit = slopes()
    found = fit.test(L, df="kenward-roger").rows
    row = fit.predict({"Days": [3.0], "Subject": ["308"]}, df="kenward-roger", se=True)
    one = fit.test("Days", df="kenward-roger").rows
    for k, expected in ((0, (row["std_error"][0], row["df"][0])), (3, (one.se[0], one.df[0]))):
        np.testing.assert_allclose((found.se[k], found.df[k]), expected, rtol=1e-7)


@pytest.mark.slow
def test_the_full_form_of_kenward_and_roger_takes_second_derivatives_in():
    """By derivatives of dense matrices: MSE, less its expected bias, plus the variance that weights of y get."""
    rng = np.random.default_rng(5)
    t, g = np.tile(np.arange(5.0), 9), np.repeat(np.arange(9), 5)
    root = np.linalg.cholesky(0.6 ** np.abs(t[:5, None] - t[:5]))
    y = t + 2 * rng.normal(size=9)[g] + (root @ rng.normal(size=(5, 9))).T.ravel() * 2
    data = {"y": y, "t": t, "g": np.array([f"s{k}" for k in g])}
    fit = jaxlmm.lmm("y ~ t + (1 | g)", data, residual="ar1(t | g)")
    L = {
        "t": {"t": 1},
        "s0 at 2": {"(Intercept)": 1, "t": 2, ("g", "s0"): 1},
        "s3 - s0": {("g", "s3"): 1, ("g", "s0"): -1},
    }
    with jax.enable_x64(True):
        X, Z, same = jnp.column_stack([np.ones(45), t]), np.eye(9)[g], g[:, None] == g
        K, U = np.array([[0, 1, 0], [1, 2, 0.0]]), np.zeros((9, 3))
        U[0, 1], U[0, 2], U[3, 2] = 1, -1, 1

        def solved(x):
            V = x[0] * Z @ Z.T + same * x[1] * x[2] ** jnp.abs(t[:, None] - t)
            W = jnp.linalg.inv(V)
            return V, W, jnp.linalg.inv(X.T @ W @ X)

        def weights(x):
            _, W, Phi = solved(x)
            C = x[0] * Z @ U
            return W @ C + W @ X @ Phi @ (K - X.T @ W @ C)

        def mse(x):
            a, C = weights(x), x[0] * Z @ U
            return x[0] * U.T @ U - a.T @ C - C.T @ a + a.T @ solved(x)[0] @ a

        def criterion(x):
            V, W, Phi = solved(x)
            r = y - X @ Phi @ X.T @ W @ y
            return 0.5 * (jnp.linalg.slogdet(V)[1] - jnp.linalg.slogdet(Phi)[1] + r @ W @ r)

        x = jnp.array(fit.parameters()["estimate"])
        assert np.abs(jax.grad(criterion)(x)).max() < 1e-5
        W, J = jnp.linalg.inv(jax.hessian(criterion)(x)), jax.jacfwd(weights)(x)
        bias = 0.5 * jnp.einsum("ij,abij->ab", W, jax.hessian(mse)(x))
        expected = mse(x) - bias + jnp.einsum("ij,nai,nm,mbj->ab", W, J, solved(x)[0], J)
    found = fit.test(L, df="kenward-roger-full").rows
    np.testing.assert_allclose(found.se, np.sqrt(np.diagonal(expected)), rtol=1e-6)
    np.testing.assert_allclose(found.df, fit.test(L, df="kenward-roger").rows.df, rtol=1e-9)
    coefficient = fit.test("t", df="kenward-roger-full").rows
    np.testing.assert_allclose(found.se[0], coefficient.se[0], rtol=1e-9)
    assert np.abs(found.se / fit.test(L, df="kenward-roger").rows.se - 1).min() > 1e-4


@pytest.mark.slow
def test_averages_of_rows_have_the_effects_of_these_rows():
    """Also with values of a predictor, in new data, and compared with each other."""
    data, fit = slopes()
    means = fit.predictions("Subject", at={"Days": [0, 3]}, random=True)
    both = fit.test({"a": L["308 at 3"], "b": L["308 at 3"] | {("Subject", 308, "Days"): 5}})
    at = means.labels["Days"].index(3)
    np.testing.assert_allclose(means._tests["estimate"][at], both.rows.estimate[0], rtol=1e-8)
    np.testing.assert_allclose(means._tests["std_error"][at], both.rows.se[0], rtol=1e-7)
    np.testing.assert_allclose(means._tests["df"][at], both.rows.df[0], rtol=1e-6)
    new = {"Days": [3.0, 3.0], "Subject": ["308", "309"]}
    found = fit.predictions("Subject", newdata=new, random=True).contrast("revpairwise")
    gap = {("Subject", s, c): w * v for s, w in ((309, 1), (308, -1)) for c, v in (("(Intercept)", 1), ("Days", 3))}
    other = fit.test(gap).rows
    np.testing.assert_allclose(found._tests["std_error"], other.se, rtol=1e-7)
    np.testing.assert_allclose(found._tests["df"], other.df, rtol=1e-6)


@pytest.mark.parametrize(
    ("L", "message"),
    [
        ({("Site", "308"): 1}, "expected one of the grouping factors: Subject"),
        ({("Subject", "308"): 1}, r"expected one of the effects of Subject as third entry: '\(Intercept\)', 'Days'"),
        ({("Subject", "nobody", "Days"): 1}, "level 'nobody' of 'Subject', which is not in the fit"),
        ({("Subject",): 1}, r"expected \(group, level\)"),
        ({"Dayz": 1, ("Subject", "308", "Days"): 1}, "found coefficient 'Dayz'"),
    ],
)
def test_what_is_no_predicted_effect(L, message):
    with pytest.raises(DataError, match=message):
        slopes()[1].test(L)


def test_methods_that_are_for_coefficients_alone():
    fit = slopes()[1]
    with pytest.raises(DataError, match="robust: sandwich covariances are for coefficients"):
        fit.test(L, robust="CR2")
    with pytest.raises(DataError, match="random: averages with random effects are of rows"):
        fit.predictions("Subject", newdata="grid", random=True)
    with pytest.raises(DataError, match="too many|nobody|not in the fit"):
        fit.predictions("Subject", newdata={"Days": [1.0], "Subject": ["nobody"]}, random=True)


def test_averages_on_the_scale_of_the_response():
    """Means of exp, with the covariance of the rows' own predictions (delta method)."""
    rng = np.random.default_rng(0)
    g, x, o = np.arange(60) % 10, rng.normal(size=60), 0.1 * rng.normal(size=60)
    y = np.exp(0.3 * x + o + 0.5 * rng.normal(size=10)[g] + 0.3 * rng.normal(size=60))
    fit = jaxlmm.lmm("log(y) ~ x + offset(o) + (1 | g)", {"y": y, "x": x, "o": o, "g": g})
    rows = fit.predictions("row", random=True)
    level = np.exp(np.asarray(rows.frame()["estimate"]))
    np.testing.assert_allclose(level, np.exp(fit.fitted), rtol=1e-12)
    W = (g[:, None] == np.arange(10)) / 6.0
    means = fit.predictions("g", random=True, type="response")
    np.testing.assert_allclose(means.frame()["estimate"], W.T @ level, rtol=1e-12)
    J = W * level[:, None]
    np.testing.assert_allclose(means.frame()["std_error"], np.sqrt(np.diag(J.T @ rows.vcov @ J)), rtol=1e-10)
    assert "with predicted effects of (1 | g); back-transformed from log(y) to y" in means.table().note
    corrected = fit.predictions("g", random=True, type="response", bias_adjust=0.3).frame()["estimate"]
    np.testing.assert_allclose(corrected, W.T @ level * (1 + 0.3**2 / 2), rtol=1e-12)
    with pytest.raises(DataError, match="bias_adjust: with random="):
        fit.predictions("g", random=True, type="response", bias_adjust=True)


@pytest.mark.slow
@pytest.mark.parametrize(("random", "kept"), [("item", [1]), (["g"], [0]), (True, [0, 1])])
@pytest.mark.parametrize("spread", [False, 0.3])
def test_averages_of_the_response_with_some_random_terms_by_the_delta_method(random, kept, spread):
    """Errors from Henderson's equations written out, in the direction of the derivative of the average."""
    rng = np.random.default_rng(3)
    g, i = np.divmod(np.arange(48), 6)
    x, o = rng.normal(size=(2, 48))
    eta = 1 + 0.3 * x + 0.5 * rng.normal(size=8)[g] + 0.4 * rng.normal(size=6)[i] + o
    data = {"g": g.astype(str), "item": i.astype(str), "x": x, "o": o, "y": np.exp(eta + 0.3 * rng.normal(size=48))}
    fit = jaxlmm.lmm("log(y) ~ x + offset(o) + (1 | g) + (1 | item)", data)
    s = fit.parameters()["estimate"]
    v = [float(s[k]) for k in range(3)]
    X, Z = np.column_stack([np.ones(48), x]), [np.eye(8)[g], np.eye(6)[i]]
    both = np.column_stack([X, *Z])
    A = both.T @ both / v[2] + np.diag(np.r_[0, 0, np.full(8, 1 / v[0]), np.full(6, 1 / v[1])])
    C = np.linalg.inv(A)
    there = np.column_stack([X, *(z if k in kept else 0 * z for k, z in enumerate(Z))])
    eta = there @ (C @ both.T @ (np.log(data["y"]) - o)) / v[2] + o
    factor = 1 + 0.5 * spread**2
    groups = np.eye(6)[i] / 8
    D = groups.T @ (factor * np.exp(eta)[:, None] * there)
    means = fit.predictions("item", random=random, type="response", bias_adjust=spread)
    found = means.frame()
    np.testing.assert_allclose(found["estimate"], groups.T @ (factor * np.exp(eta)), rtol=1e-7)
    np.testing.assert_allclose(found["std_error"], np.sqrt(np.diagonal(D @ C @ D.T)), rtol=1e-7)
    assert "with predicted effects of" in str(means)
    assert "back-transformed from log(y) to y" in str(means)


@pytest.mark.slow
@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger", "residual"])
def test_single_rows_are_predictions_also_of_random_functions(df):
    rng = np.random.default_rng(0)
    g, t = np.repeat(np.arange(8), 6), np.tile(np.arange(6.0), 8)
    data = {"g": np.array([f"s{k}" for k in g]), "t": t, "x": rng.normal(size=48)}
    root = np.linalg.cholesky(np.exp(-np.abs(t[:6, None] - t[:6])))
    data["y"] = data["x"] + rng.normal(size=8)[g] + (root @ rng.normal(size=(6, 8))).T.ravel() + rng.normal(size=48)
    fit = jaxlmm.lmm("y ~ x + (1 | g) + ou(t | g)", data)
    new = {"g": np.array(["s1", "s3"]), "t": np.array([2.5, 7.0]), "x": np.array([0.0, 1.0])}
    found, expected = fit.predictions("row", newdata=new, random=True, df=df).frame(), fit.predict(new, se=True, df=df)
    for name in ("estimate", "std_error", "df"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9)
