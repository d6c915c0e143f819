"""Scans against dense matrices: score statistics, likelihood ratios, exact fits of pairs, files."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import minimize_scalar

import jaxlmm
from jaxlmm.covariance.basic import Identity
from jaxlmm.errors import DataError
from jaxlmm.inference.many.scanning import Scanner, scanner_of, statistics_of
from jaxlmm.likelihood.products import marginal_covariance

N, M, B = 36, 5, 3


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    g = np.sort(np.append(np.arange(12), rng.integers(0, 12, N - 12)))
    A = rng.normal(size=(12, 30))
    kin = A @ A.T / 30
    x = rng.normal(size=N)
    Y = rng.normal(size=(B, N)) + (np.linalg.cholesky(kin) @ rng.normal(size=(12, B))).T[:, g]
    snps = rng.binomial(2, 0.4, (M, 12)).astype(float)[:, g] + 0.1 * rng.normal(size=(M, N))
    return {"g": g, "x": x, "Y": Y, "snps": snps, "kin": kin, "w": rng.uniform(0.5, 2, N), "o": rng.normal(size=N)}


def terms_of(kind, data):
    """Terms, their Z, and for three responses covariances of these."""
    ones, g = np.ones((N, 1)), data["g"]
    slopes = np.column_stack([np.ones(N), data["x"]])
    G = np.array([[[0.8, 0.2], [0.2, 0.5]], [[0.1, 0.0], [0.0, 0.0]], [[2.0, -0.7], [-0.7, 0.3]]])
    return {
        "slopes": ([jaxlmm.Term(slopes, g)], (G,)),
        "two": ([jaxlmm.Term(ones, g), jaxlmm.Term(data["x"][:, None], g)], (G[:, :1, :1], G[:, 1:, 1:])),
        "none": ([], ()),
        "kin": ([jaxlmm.Term(ones, g, relationship=data["kin"])], (G[:, :1, :1],)),
    }[kind]


@pytest.mark.parametrize("kind", ["slopes", "two", "none", "kin"])
@pytest.mark.parametrize("more", [False, True], ids=["plain", "weights and offset"])
def test_scores_are_those_of_dense_matrices(data, kind, more):
    terms, covariances = terms_of(kind, data)
    w, o = (data["w"], data["o"]) if more else (None, None)
    X = np.column_stack([np.ones(N), data["x"]])
    model = jaxlmm.Model(data["Y"][0], X, terms, weights=w, offset=o)
    sigma = np.array([0.7, 1.2, 0.4])
    x = np.vstack([data["snps"], 3.0 + 2.0 * data["x"]])
    scanner = Scanner(model, data["Y"] + 1e4, covariances, sigma)
    found = scanner(x)
    for i in range(B):
        V = sigma[i] ** 2 * np.diag(1.0 / (np.ones(N) if w is None else w))
        for t, C in zip(terms, covariances, strict=True):
            A = np.equal.outer(data["g"], data["g"]) if kind != "kin" else data["kin"][np.ix_(data["g"], data["g"])]
            V = V + A * (t.Z @ C[i] @ t.Z.T)
        inverse = np.linalg.inv(V)
        P = inverse - inverse @ X @ np.linalg.solve(X.T @ inverse @ X, X.T @ inverse)
        y = data["Y"][i] - (0.0 if o is None else o)
        xPx, xPy, yPy = np.einsum("mi,ij,mj->m", x[:M], P, x[:M]), x[:M] @ P @ y, y @ P @ y
        np.testing.assert_allclose(found.share[i, :M], xPy**2 / (xPx * yPy), rtol=1e-8)
        np.testing.assert_allclose(found.estimate[i, :M], xPy / xPx, rtol=1e-8)
        W = np.column_stack([X, x[0]])  # Wald's test of the first by generalised least squares
        beta = np.linalg.solve(W.T @ inverse @ W, W.T @ inverse @ y)
        rss = (y - W @ beta) @ inverse @ (y - W @ beta)
        se = np.sqrt(rss / (N - 3) * np.linalg.inv(W.T @ inverse @ W)[2, 2])
        np.testing.assert_allclose(found.se[i, 0], se, rtol=1e-8)
        stats = statistics_of(found.share[i, 0], N, scanner.df)
        np.testing.assert_allclose(stats["F"], (beta[2] / se) ** 2, rtol=1e-8)
        np.testing.assert_allclose(stats["lrt"], N * np.log(yPy / rss), rtol=1e-8)
    assert np.isnan(found.share[:, M]).all()  # spanned by X


def test_pairs_are_those_of_single_fits(data, tmp_path):
    """Likelihood ratios and REML tests by `lmm`; files; blocks; a response and a covariate without a test."""
    columns = {"g": data["g"], "x": data["x"], "y": data["Y"][0]}
    fit = jaxlmm.lmm("y ~ x + (1 | g)", columns)
    Y, x = np.vstack([data["Y"][:2], np.full(N, np.nan)]), np.vstack([data["snps"][:3], np.full(N, np.nan)])
    found = fit.scan(x, Y, threshold=1.0, names=["a", "b", "c"])
    hits = found.hits
    assert (found.pairs, found.found, found.spanned) == (8, 6, 1) and list(hits["response"]) == list("aaabbb")
    for k in (0, 4):
        own = {**columns, "y": Y[k // 3], "s": x[k % 3]}
        wide, null = (jaxlmm.lmm(f"y ~ x{more} + (1 | g)", own, method="ML") for more in (" + s", ""))
        test = jaxlmm.lmm("y ~ x + s + (1 | g)", own).test("s").rows
        np.testing.assert_allclose(hits["exact_lrt"][k], 2 * (wide.loglik - null.loglik), atol=1e-7)
        np.testing.assert_allclose(
            [hits[name][k] for name in ("reml_estimate", "reml_std_error", "df", "reml_p")],
            [test.estimate[0], test.se[0], test.df[0], test.p[0]], rtol=1e-5,
        )  # fmt: skip
        assert hits["lrt"][k] <= hits["exact_lrt"][k] + 1e-8  # one ratio of variances for both
    assert fit.scan(x, Y, threshold=1e-12).found == 0 and "0 of 8 pairs" in str(fit.scan(x, Y, threshold=1e-12))
    for threshold in (1e-12, 1.0):
        text = str(fit.scan(x, Y, threshold=threshold, df=None))
        assert "1 covariates without a test; 1 responses without a fit" in text
    for name in ("hits.csv", "hits.parquet"):
        streamed = fit.scan(iter([sparse.csr_array(x[:1]), x[1:]]), Y, threshold=1.0, df=None, to=tmp_path / name)
        assert streamed.found == 6 and not streamed.hits
    import pyarrow.parquet

    assert fit.scan(x, Y, threshold=1e-12, to=tmp_path / "none.parquet").found == 0
    assert len(pyarrow.parquet.read_table(tmp_path / "none.parquet")) == 0

    table = pyarrow.parquet.read_table(tmp_path / "hits.parquet")
    with (tmp_path / "hits.csv").open() as file:
        rows = list(csv.DictReader(file))
    by_pair = {(r, c): p for r, c, p in zip(hits["response"], hits["covariate"], hits["p_value"], strict=True)}
    for r, c, p in zip(*(table[n].to_pylist() for n in ("response", "covariate", "p_value")), strict=True):
        assert by_pair["abc"[r], c] == pytest.approx(p, rel=1e-9)
    assert [float(row["p_value"]) for row in rows] == table["p_value"].to_pylist()


@pytest.mark.slow
def test_relationship_is_gemma(data):
    """Null maximum by one-dimensional search of dense likelihoods; GEMMA's score statistic and likelihood ratio."""
    fit = jaxlmm.lmm("y ~ x + (1 | g)", {"g": data["g"], "x": data["x"], "y": data["Y"][0]},
                     relationship={"g": data["kin"]})  # fmt: skip
    found = fit.scan(data["snps"], data["Y"], threshold=1.0)
    K = data["kin"][np.ix_(data["g"], data["g"])]

    def profile(y, X):
        def minus(log_ratio):
            H = np.exp(log_ratio) * K + np.eye(N)
            inverse = np.linalg.inv(H)
            P = inverse - inverse @ X @ np.linalg.solve(X.T @ inverse @ X, X.T @ inverse)
            return 0.5 * (N * np.log(y @ P @ y) + np.linalg.slogdet(H)[1]), P

        grid = np.linspace(-12, 8, 81)
        at = grid[np.argmin([minus(g)[0] for g in grid])]
        best = minimize_scalar(lambda g: minus(g)[0], bounds=(at - 0.5, at + 0.5), method="bounded",
                               options={"xatol": 1e-9}).x  # fmt: skip
        return minus(best)

    for i, y in enumerate(data["Y"]):
        X = np.column_stack([np.ones(N), data["x"]])
        null, P = profile(y, X)
        for j, x in enumerate(data["snps"]):
            k = i * M + j
            score = N * (x @ P @ y) ** 2 / ((y @ P @ y) * (x @ P @ x))
            np.testing.assert_allclose(found.hits["score"][k], score, rtol=1e-4, atol=1e-5)
            other, _ = profile(y, np.column_stack([X, x]))
            np.testing.assert_allclose(found.hits["exact_lrt"][k], 2 * (null - other), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crossed", "residual", "function"])
def test_scans_of_any_covariance(data, kind):
    """Several factors, with weights; a residual structure; a random function: dense null fits, exact fits of hits."""
    g, t, w = data["g"], np.arange(N) - np.searchsorted(data["g"], data["g"]), data["w"]
    columns = {"g": g, "x": data["x"], "y": data["Y"][0], "h": np.arange(N) % 4, "t": t}
    random, options = {
        "crossed": (" + (1 | g) + (1 | h)", {"weights": w}), "residual": ("", {"residual": "ar1(t | g)"}),
        "function": (" + ou(t | g)", {}),
    }[kind]  # fmt: skip
    fit = jaxlmm.lmm(f"y ~ x{random}", columns, **options)
    found = fit.scan(data["snps"], data["Y"], threshold=1.0)
    assert (found.pairs, found.found, found.spanned) == (B * M, B * M, 0)
    X, s2 = np.column_stack([np.ones(N), data["x"]]), found.null.sigma**2
    for i, y in enumerate(data["Y"]):
        V = np.asarray(marginal_covariance(found.null.theta[i], fit.model))
        if kind == "crossed":
            own = sum(
                C[i] * np.equal.outer(c, c) for C, c in zip(found.null.covariances, (g, columns["h"]), strict=True)
            )
            np.testing.assert_allclose(V, own + s2[i] * np.diag(1 / w), rtol=1e-10)
        inverse = np.linalg.inv(V)
        P = inverse - inverse @ X @ np.linalg.solve(X.T @ inverse @ X, X.T @ inverse)
        for j, x in enumerate(data["snps"]):
            k = i * M + j
            assert found.hits["estimate"][k] == pytest.approx((x @ P @ y) / (x @ P @ x), rel=1e-7)
            share = (x @ P @ y) ** 2 / ((x @ P @ x) * (y @ P @ y))
            assert found.hits["score"][k] == pytest.approx(N * share, rel=1e-7, abs=1e-12)
            assert found.hits["lrt"][k] <= found.hits["exact_lrt"][k] + 1e-7
    wide, null = (
        jaxlmm.lmm(f"y ~ x{more}{random}", {**columns, "s": data["snps"][0]}, method="ML", **options)
        for more in (" + s", "")
    )
    assert found.hits["exact_lrt"][0] == pytest.approx(2 * (wide.loglik - null.loglik), abs=1e-6)


def test_scores_are_of_a_scale_that_is_estimated(data):
    """Known residual variances were tested as if they were not."""
    known = jaxlmm.Residual(Identity(variance=1.0))
    for terms in ([], [jaxlmm.Term(np.ones((N, 1)), data["g"])]):
        model = jaxlmm.Model(data["Y"][0], np.ones((N, 1)), terms, residual=known)
        with pytest.raises(DataError, match="scan: score statistics .* fixed"):
            scanner_of(model, data["Y"], None, np.arange(B))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, x: f.scan(x[:, 1:]), "values: expected covariates of 36 rows"),
        (lambda f, x: f.scan(x.T), "found shape .36, 5.; a row an observation: give its transpose"),
        (lambda f, x: f.scan(x, sparse.csr_array(x)), "y: found a sparse matrix"),
        (lambda f, x: f.scan(3.0), "values: found float"),
        (lambda f, x: f.scan(x, threshold=0), "threshold: expected a p value"),
        (lambda f, x: f.scan(x, df="none"), "df: found 'none'"),
        (lambda f, x: f.scan(x, threshold="p"), "threshold: found 'p', expected a number"),
        (lambda f, x: f.scan(x, names=["a", "b"]), "names: expected 1"),
        (lambda f, x: f.scan(x, threshold=1e-99, df=None, covariates=["a"]), "covariates: found 1 for"),
        (lambda f, x: f.scan(x, threshold=1e-99, df=None, covariates=["a"] * 99), "covariates: found 99 for"),
        (lambda f, x: f.scan(x, np.full((2, N), np.nan)), "y: none of 2 responses could be fitted"),
    ],
)
def test_messages(data, call, message):
    fit = jaxlmm.lmm("y ~ x + (1 | g)", {"g": data["g"], "x": data["x"], "y": data["Y"][0]})
    with pytest.raises(DataError, match=message):
        call(fit, data["snps"])
