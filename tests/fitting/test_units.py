"""The same model in other units, from other origins and in other codings; and what stalled fits say they are."""

import functools
import warnings

import jax
import numpy as np
import pandas as pd
import pytest

import jaxlmm
from cases import some
from jaxlmm.fitting import boundary
from jaxlmm.fitting import estimate as fitting
from jaxlmm.likelihood.engines.orthogonal import Patterns, orthogonalise, project, same_rows
from jaxlmm.runtime.programs import PROGRAMS
from jaxlmm.tolerances import column_rank, correlation_of

G, M = 40, 5


@functools.cache
def data() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(G), M)
    x, b = rng.integers(0, 90, G * M) / 8.0, rng.normal(size=(G, 2))
    y = 1 + 0.1 * x + b[g, 0] + 0.3 * x * b[g, 1] + rng.normal(size=G * M)
    return pd.DataFrame({"g": g, "x": x, "z": rng.normal(size=G * M), "h": rng.choice(list("pqr"), G * M), "y": y})


CASES = {
    "slopes": ("y ~ x + z + h + (x | g)", {}),
    "intercepts": ("y ~ x + z + h + (1 | g)", {}),
    "marginal": ("y ~ x + z + h + (1 | g)", {"variance": "ident(h)"}),
}


def numbers(case, change=lambda d: d, jacobian=0.0):
    """Log-likelihood, tests of x and of terms, and fitted values; everything that no unit may change."""
    formula, options = CASES[case]
    fit = jaxlmm.lmm(formula, change(data()), **options)
    assert fit.status == "converged" and not fit.singular
    i = fit.coef_names.index("x")
    found = [fit.loglik + jacobian]
    for df in ("satterthwaite", "kenward-roger"):
        rows = fit.tidy(df=df)
        found += [rows["statistic"][i], rows["df"][i]]
    terms = fit.anova(3).frame()
    joint = fit.test(["x", "z"]).joint
    return np.array([*found, *terms["statistic"], *terms["den_df"], joint.statistic, joint.den_df]), fit.fitted


@functools.cache
def plain(case):
    return numbers(case)


@pytest.mark.parametrize("case", some(CASES, "slopes", "intercepts"))
@pytest.mark.parametrize(
    ("unit", "name"),
    some([(unit, name) for unit in (1e-12, 1e-9, 1e9, 1e12) for name in ("x", "z")], (1e12, "z")),
)
def test_units_of_covariates_change_nothing(case, unit, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, fitted = numbers(case, lambda d: d.assign(**{name: unit * d[name]}), np.log(unit))
    np.testing.assert_allclose(found, plain(case)[0], rtol=1e-9)
    np.testing.assert_allclose(fitted, plain(case)[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("case", "origin", "rtol"),
    some(
        [("slopes", 2000, 1e-8), ("intercepts", 2000, 1e-10), ("intercepts", 1.7e9, 1e-6), ("marginal", 1.7e9, 1e-6)],
        ("slopes", 2000, 1e-8), ("intercepts", 1.7e9, 1e-6),
    ),
)  # fmt: skip
def test_origins_of_covariates_change_nothing(case, origin, rtol):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, fitted = numbers(case, lambda d: d.assign(x=d.x + origin))
    np.testing.assert_allclose(found, plain(case)[0], rtol=rtol)
    np.testing.assert_allclose(fitted, plain(case)[1], rtol=rtol, atol=rtol)


def test_columns_are_dropped_with_one_warning_and_their_names():
    d = data().assign(twice=lambda d: 2 * d.x, sum=lambda d: d.x + d.z, seconds=lambda d: d.x + 1.7e9)
    with pytest.warns(jaxlmm.DroppedColumnsWarning, match=r"before them: twice, sum$") as caught:
        fit = jaxlmm.lmm("y ~ x + z + twice + sum + (1 | g)", d)
    assert len(caught) == 1 and fit.coef_names == ("(Intercept)", "x", "z")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jaxlmm.lmm("y ~ seconds + (1 | g)", d).coef_names == ("(Intercept)", "seconds")


def test_slopes_too_far_from_zero_for_floats_are_refused():
    with pytest.raises(jaxlmm.DataError, match="subtract an origin"):
        jaxlmm.lmm("y ~ x + (x | g)", data().assign(x=lambda d: d.x + 1.7e12))


def test_groups_are_the_same_by_their_rows_alone():
    rng = np.random.default_rng(0)
    Z = np.tile(np.column_stack([np.ones(3), [0.1, 0.2, 0.3]]), (6, 1))
    codes = np.repeat(np.arange(6), 3)
    Z[3:6] = Z[3:6][::-1]  # in another order
    Z[6:9] *= 1 + 1e-15  # rounding
    Z[9:12, 1] += 1e-9
    Z[12:15] *= 1e-9  # weights
    Z[15:18, 1] = [0.2, 0.2, 0.2]
    for unit in (1.0, 1e-12, 1e12):
        keys = same_rows(Z * [1.0, unit], codes, 6)
        same = np.all(keys == keys[0], 1)
        assert same.tolist() == [True, True, True, False, False, False]
    F, units = orthogonalise(np.tile(Z[:3], (40, 1)) * [1.0, 1e-9], np.repeat(np.arange(40), 3), 40, np)
    B, _ = project(units, np.column_stack([np.ones(120), rng.normal(size=120)]), np.repeat(np.arange(40), 3), 40, np)
    found = Patterns.find(np.tile(Z[:3], (40, 1)) * [1.0, 1e-9], np.repeat(np.arange(40), 3), B[:, :1])
    assert len(found.weight) == 3 and F.shape == (2, 2, 40)


def test_ranks_and_definiteness_know_no_units():
    rng = np.random.default_rng(1)
    A = np.column_stack([np.ones(30), rng.normal(size=(30, 2))])
    for unit in (1e-150, 1.0, 1e12):
        assert column_rank(A * [1.0, unit, 1.0]) == 3
        assert column_rank(np.column_stack([A, A @ [1.0, 2.0, 3.0]]) * [unit, 1.0, 1.0, unit]) == 3
    assert column_rank(A + [0.0, 1.7e12, 0.0]) == 3 and column_rank(A + [0.0, 1.7e12, 0.0], moved=False) == 2
    small = np.diag([1e5, 1.0, 1.0]) @ np.array([[1.0, 0, 0], [0, 1, 2], [0, 2, 1.0]]) @ np.diag([1e5, 1.0, 1.0])
    assert np.linalg.eigvalsh(correlation_of(small))[0] == pytest.approx(-1.0)
    with pytest.raises(jaxlmm.DataError, match="semidefinite"):
        group = np.repeat(np.arange(3), 4)
        jaxlmm.likelihood.parts.Term(np.ones((12, 1)), group, relationship=small * 1e-9)


@functools.cache
def coded() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    g, f = rng.integers(0, 9, 90), rng.choice(list("abc"), 90, p=[0.5, 0.3, 0.2])
    effects = rng.normal(size=(2, 9))
    y = effects[0, g] + 1.5 * effects[1, g] * (f == "b") + rng.normal(size=90)
    return pd.DataFrame({"g": g, "f": f, "h": rng.choice(list("pq"), 90), "x": rng.normal(size=90), "y": y})


@pytest.mark.slow
def test_degrees_of_freedom_do_not_depend_on_the_coding_or_the_rows():
    plain, sums = (
        jaxlmm.lmm(f"y ~ x + {fixed} + (0 + f | g)", coded())
        for fixed in ("f * h", "C(f, contr.sum) * C(h, contr.helmert)")
    )
    for type in (1, 2, 3):
        one, two = plain.anova(type), sums.anova(type)
        np.testing.assert_allclose(np.array(one.tests), np.array(two.tests), rtol=1e-6)
    den = []
    for fit in (plain, sums):
        L = list(fit.anova(3).hypotheses.values())[1]
        assert len(L) == 2
        turned = np.array([[2.0, 1.0], [1.0, -3.0]]) @ L
        more = np.vstack([turned, turned[0] - turned[1]])
        den += [fit.test(rows).joint.den_df for rows in (L, turned, more)]
        tests = fit.refit(np.stack([coded()["y"]] * 2), tests=jaxlmm.Tests(more)).tests["satterthwaite"]
        den += [*tests.den_df, fit.emmeans("f").pairs().test(joint=True)["den_df"][0]]
    np.testing.assert_allclose(den, plain.anova(3).tests[1].den_df, rtol=1e-6)
    robust = [fit.anova(3, robust="CR0").tests[1].den_df for fit in (plain, sums)]
    assert robust[0] == pytest.approx(robust[1], rel=1e-6)


@pytest.mark.parametrize(
    ("method", "limit"), some([(method, limit) for method in ("REML", "ML") for limit in (1, 3)], ("REML", 3))
)
@pytest.mark.slow
def test_a_fit_that_was_stopped_has_the_loglik_of_its_theta(method, limit, monkeypatch):
    loglik = {"REML": jaxlmm.reml, "ML": jaxlmm.ml}[method]
    model = jaxlmm.lmm("y ~ x + z + h + (x | g)", data()).model
    Y = np.stack([model.y, model.y[::-1]])
    with jax.enable_x64(True):
        monkeypatch.setattr(boundary, "MAX_ITERATIONS", limit)
        PROGRAMS.clear()
        stopped = fitting.estimate(model, method)
        assert stopped.status == jaxlmm.Status.MAX_ITERATIONS
        assert stopped.loglik == pytest.approx(float(loglik(stopped.theta, model)), rel=1e-12)
        batch = jaxlmm.fit_batch(model, Y, method)
        assert np.all(batch.status == jaxlmm.Status.MAX_ITERATIONS)
        pure = [jaxlmm.fit(model.replace(y=y), method, max_iterations=limit) for y in Y]
        for i, (y, lane, one) in enumerate(zip(Y, batch.loglik, pure, strict=True)):
            own = model.replace(y=y)
            assert lane == pytest.approx(float(loglik(batch.theta[i], own)), rel=1e-9)
            assert int(one.status) == jaxlmm.Status.MAX_ITERATIONS
            assert float(one.loglik) == pytest.approx(float(loglik(one.theta, own)), rel=1e-9)
    PROGRAMS.clear()


@pytest.mark.slow
def test_a_likelihood_without_a_maximum_has_the_value_of_its_theta():
    """As many visits as subjects: the likelihood rises towards singular matrices, where the fit stalls."""
    rng = np.random.default_rng(0)
    d = {"id": np.repeat(list("abc"), 5), "v": np.tile(list("12345"), 3)}
    d["y"] = rng.normal(size=15) * 10.0 ** np.tile(0.7 * np.arange(5), 3)
    with pytest.warns(jaxlmm.ConvergenceWarning):
        fit = jaxlmm.lmm("y ~ 1", d, residual="us(v | id)")
    batch = fit.refit(np.stack([d["y"], d["y"][::-1]]))
    with jax.enable_x64(True):
        assert fit.loglik == pytest.approx(float(jaxlmm.reml(fit.theta, fit.model)), abs=1e-9)
        for y, theta, found in zip((d["y"], d["y"][::-1]), batch.theta, batch.loglik, strict=True):
            assert found == pytest.approx(float(jaxlmm.reml(theta, fit.model.replace(y=y))), abs=0.05)


@pytest.mark.slow
def test_endpoints_in_units_a_million_apart():
    """The log-likelihood of one unit with the Jacobian of the other, in single fits and in batches."""
    rng = np.random.default_rng(4)
    effects = rng.normal(size=(40, 2)) @ np.linalg.cholesky([[1.5, 0.6], [0.6, 1.5]]).T
    names = {"id": np.repeat(np.arange(40), 2), "end": np.tile(["a", "b"], 40)}
    one, other = (np.ravel((2 + effects) * [1.0, size]) for size in (1.0, 1e6))
    fits = [jaxlmm.lmm("y ~ 0 + end", {**names, "y": y}, residual="us(end | id)") for y in (one, other)]
    jacobian = 39 * np.log(1e6)
    assert all(fit.converged and not fit.singular for fit in fits)
    assert fits[1].certificate.iterations <= fits[0].certificate.iterations + 2
    np.testing.assert_allclose(fits[1].loglik + jacobian, fits[0].loglik, rtol=1e-10)
    np.testing.assert_allclose(fits[1].se / [1.0, 1e6], fits[0].se, rtol=1e-7)
    gaps = other.copy()
    gaps[:3] = np.nan
    many = fits[0].refit(np.stack([one, other, gaps]), missing="drop")
    assert many.converged.all() and not many.singular.any()
    np.testing.assert_allclose(many.loglik[:2], [fit.loglik for fit in fits], rtol=1e-10)


@pytest.mark.parametrize(
    ("end", "how"),
    [
        ("a", {"variance": "ident(end)"}),
        *(
            pytest.param(end, how, marks=pytest.mark.slow)
            for end, how in [
                ("(0 + end | id)", {"variance": "ident(end)"}),
                ("", {"residual": "iid(by=end)"}),
                ("", {"residual": "cs(end | id)", "variance": "ident(end)"}),
                ("", {"residual": "us(end | arm / id)"}),
                ("", {"residual": "csh(end | id)"}),
                ("", {"residual": "diag(end | id)"}),
                ("", {"residual": "fa(end | id, d=1)"}),
            ]
        ),
    ],
)
def test_strata_in_units_a_million_apart(end, how):
    """Every variance starts at the spread of its own stratum: the same steps, and the likelihood of one unit."""
    rng, n, rows = np.random.default_rng(1), 24, 2
    twice = end.startswith("(")
    ends = ["a", "b", "c"][: 2 if not twice and "fa" not in how.get("residual", "") else 3]
    size = dict(zip("abc", (1.0, 1e6, 1e3), strict=True))
    d = [(f"s{i}", "xy"[i % 2], e, r) for i in range(n) for e in ends for r in range(rows if twice else 1)]
    ids, arm, level, _ = map(np.array, zip(*d, strict=True))
    units = np.array([size[e] for e in level])
    effect = rng.normal(size=(n, 4))
    one = 2.0 + effect[np.arange(n).repeat(len(d) // n), 0] + rng.normal(size=len(d))
    if twice:
        one += effect[np.arange(n).repeat(len(d) // n), 1 + np.array([ends.index(e) for e in level])]
    columns = {"id": ids, "arm": arm, "end": level}
    formula = f"y ~ 0 + end + {end}" if twice else "y ~ 0 + end"
    fits = [jaxlmm.lmm(formula, {**columns, "y": y}, **how) for y in (one, units * one)]
    assert [fit.status for fit in fits] == ["converged"] * 2
    jacobian = np.sum(np.log(units)) - sum(np.log(size[e]) for e in ends)
    np.testing.assert_allclose(fits[1].loglik + jacobian, fits[0].loglik, rtol=1e-8)
    np.testing.assert_allclose(fits[1].coef / [size[e] for e in ends], fits[0].coef, rtol=1e-5)
    many = fits[0].refit(np.stack([one, units * one]))
    assert many.converged.all()
    np.testing.assert_allclose(many.loglik, [fit.loglik for fit in fits], rtol=1e-8)
    if not twice:
        assert fits[1].certificate.iterations <= fits[0].certificate.iterations + 2
