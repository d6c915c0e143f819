"""Structures of one's own as they are first written: told at once what is wrong, or fitted as dense NumPy says."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
import oracle
from cases import some
from jaxlmm import (
    Correlation,
    Covariance,
    CovarianceMatrix,
    Field,
    Model,
    Positive,
    Real,
    Residual,
    Term,
    Variance,
    each_level,
    interval,
    positive,
)
from jaxlmm.covariance import NAMES, Identity, KnownMatrix, distances, lags, powers, roots
from jaxlmm.covariance.trial import derivatives_of, is_free_in_scale
from jaxlmm.testing import check_covariance

TIMES = np.tile(np.arange(5.0), 12)
SUBJECT = np.repeat(np.arange(12), 5)
N = len(TIMES)
X = np.column_stack([np.ones(N), TIMES])


@functools.cache
def response() -> np.ndarray:
    """Damped exponential errors and an intercept a subject."""
    rng = np.random.default_rng(2)
    V = 4.0 * np.exp(-((abs(np.subtract.outer(np.arange(5), np.arange(5))) / 2.0) ** 0.8))
    y = (rng.normal(size=(12, 5)) @ np.linalg.cholesky(V).T).ravel()
    return y + 1.0 + 0.3 * TIMES + 0.8 * rng.normal(size=12)[SUBJECT] + 0.5 * rng.normal(size=N)


def residual(structure: Covariance) -> Residual:
    return Residual(structure, group=SUBJECT, coords=TIMES)


def dense(blocks: Any) -> float:
    """REML of a covariance between the rows of a subject, the same for all."""
    return oracle.loglik(np.kron(np.eye(12), blocks), response(), X)


@functools.cache
def fitted(structure: Covariance) -> Any:
    """The fit as a residual structure over times."""
    with jax.enable_x64(True):
        return jaxlmm.fit_batch([Model(response(), X, residual=residual(structure))])


# ---------------------------------------------------------------------------- as they are first written


class Damped(Covariance):
    variance: Variance
    range: Positive
    damp: Positive

    def matrix(self, t):
        return self.variance * jnp.exp(-((jnp.abs(t[:, None] - t[None, :]) / self.range) ** self.damp))


class SafeDamped(Damped):
    def matrix(self, t):
        return self.variance * jnp.exp(-powers(lags(t) / self.range, self.damp))


class NaiveDistance(Covariance):
    variance: Variance
    range: Positive

    def matrix(self, p):
        gaps = p[:, None] - p[None, :]
        return self.variance * jnp.exp(-jnp.sqrt(jnp.sum(gaps**2, -1) / self.range**2))


class NaivePower(Covariance):
    variance: Variance
    rho: Correlation

    def matrix(self, t):
        return self.variance * self.rho ** jnp.abs(t[:, None] - t[None, :])


class NaiveRoot(Covariance):
    variances: Annotated[Variance, each_level]
    rho: Annotated[Any, interval(-0.25, 1.0)]
    by_level = True

    def matrix(self, k):
        sd = jnp.sqrt(self.variances)[k.astype(int)]
        return sd[:, None] * sd[None, :] * jnp.where(k[:, None] == k[None, :], 1.0, self.rho)


class Logarithm(Damped):
    def matrix(self, t):
        lag = jnp.abs(t[:, None] - t[None, :])
        return self.variance * jnp.exp(-jnp.exp(self.damp * jnp.log(lag / self.range)))


class Linear(Covariance):
    variance: Variance
    range: Positive

    def matrix(self, t):
        return self.variance * (1.0 - jnp.abs(t[:, None] - t[None, :]) / self.range - 2.0 * (t[:, None] != t[None, :]))


class Nan(Covariance):
    variance: Variance

    def matrix(self, t):
        return self.variance * jnp.where(t[:, None] == t[None, :], 1.0, jnp.nan)


class NumPy(Covariance):
    variance: Variance
    range: Positive

    def matrix(self, t):
        return self.variance * np.exp(-np.abs(t[:, None] - t[None, :]) / self.range)


class Branch(NumPy):
    def matrix(self, t):
        return self.variance * jnp.eye(len(t)) if self.range > 1 else jnp.ones(len(t))


class Eigen(Covariance):
    a: Real

    def matrix(self, t):
        w, U = jnp.linalg.eigh(jnp.exp(self.a) * jnp.eye(len(t)))
        return (U * w) @ U.T


class Loop(Covariance):
    variance: Variance
    rho: Correlation

    def matrix(self, t):
        def power(lag):
            return jax.lax.while_loop(lambda c: c[0] < lag, lambda c: (c[0] + 1, c[1] * self.rho), (0.0, 1.0))[1]

        return self.variance * jax.vmap(jax.vmap(power))(jnp.abs(t[:, None] - t))


class Indexed(Covariance):
    v: Annotated[Variance, 5]

    def matrix(self, t):
        return jnp.diag(self.v[t])


class Nothing(Covariance):
    variance: Variance

    def matrix(self, t):
        self.variance * jnp.eye(len(t))


class Precise(Covariance):
    tau: Positive
    rho: Annotated[Any, interval(0.0, 1.0)]

    def matrix(self, t):
        return jnp.linalg.inv(
            self.tau * (2.1 * jnp.eye(len(t)) - self.rho * (jnp.eye(len(t), k=1) + jnp.eye(len(t), k=-1)))
        )


class Table(Covariance):
    variance: Variance

    def matrix(self, t):
        return self.variance * READ[t.astype(int)][:, t.astype(int)]


class FromZero(Covariance):
    delta: Real

    def matrix(self, t):
        return jnp.diag(t**self.delta)


class Misspelt(Covariance):
    variance: Variance

    def matrix(self, t):
        return self.varaince * jnp.eye(len(t))


@pytest.mark.parametrize(
    ("structure", "words"),
    [
        (NumPy(), r"NumPy.matrix needs the values of its parameters.*write jax.numpy for numpy"),
        (Branch(), r"Branch.matrix needs the values of its parameters.*jnp.where for if"),
        (Eigen(), r"residual: Eigen.matrix has derivatives .* in a, at entry \(0, 0\), between 0.0 and 0.0 "
         r"\(a distance of zero\); eigh has no derivatives where eigenvalues are equal; write solve"),
        (Loop(), r"Loop.matrix raised .* called with variance \(\), rho \(\), levels \(5,\) float64; while_loop"),
        (Indexed(), r"Indexed.matrix raised TypeError: .* v \(5,\), levels \(5,\) float64; levels.astype\(int\)"),
        (Precise(), r"Precise.matrix\(levels\) at levels \[0.0, 1.0, 3.0, 4.0\] is not that part of the matrix of all"),
        (Table(), r"Table.matrix needs the values .* or of coordinates.*write .* jnp.asarray\(table\)\[k\]"),
        (FromZero(), r"FromZero.matrix has a variance that jumps in delta at its start, at entry \(0, 0\), of 0.0"),
        (Nothing(), r"Nothing.matrix must return a matrix of shape \(5, 5\), found NoneType"),
        (Misspelt(), r"Misspelt.matrix raised AttributeError: .* has no attribute .varaince.; called with v"),
        (Linear(), r"Linear.matrix is not positive semidefinite at its start \(variance = 1, range = 1\)"),
        (Nan(), r"Nan.matrix has values that are NaN or infinite .* entry \(0, 1\), between 0.0 and 1.0"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Covariance) else "",
)  # fmt: skip
def test_what_cannot_be_fitted_is_said_before_the_fit(structure, words):
    with pytest.raises(jaxlmm.DataError, match=words):
        residual(structure)


class SafeDistance(NaiveDistance):
    def matrix(self, p):
        return self.variance * jnp.exp(-distances(p) / self.range)


class SafePower(NaivePower):
    def matrix(self, t):
        return self.variance * powers(self.rho, lags(t))


@pytest.mark.parametrize(
    ("naive", "safe", "places"),
    [
        (Damped(), SafeDamped(), TIMES[:5]),
        (Logarithm(), SafeDamped(), TIMES[:5]),
        (NaivePower(), SafePower(), TIMES[:5]),
        (NaiveDistance(), SafeDistance(), np.column_stack([TIMES, TIMES**2])[:5]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Covariance) else "",
)
def test_powers_and_roots_are_as_those_with_finite_derivatives(naive, safe, places):
    """Value and two derivatives at distances of zero, and where a correlation is zero."""
    point = np.array([1.3, 0.7 if isinstance(naive, NaiveDistance) else 0.0, 0.6])[: naive.size(1)]
    if isinstance(naive, Damped):
        point[1] = 0.8
    with jax.enable_x64(True):
        found, right = (
            derivatives_of(lambda s, dim, c=c: c.from_natural(s, dim), 1, places)(point[None]) for c in (naive, safe)
        )
    for a, b in zip(found, right, strict=True):
        assert np.isfinite(b).all()
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


LAGS = np.abs(np.subtract.outer(t := np.array([0.0, 1.0, 2.5]), t))
POINTWISE = {
    "sinc": lambda r, h, m: m.where(h == 0, 1.0, m.sin(h / r) / (h / r)),
    "spline": lambda r, h, m: m.where(h > 0, (h / r) ** 2 * m.log(h / r), 0.0),
    "compact": lambda r, h, m: m.where(h / r < 2, (1 - h / r / 2) ** (r + 1), 0.0),
    "arc-cosine": lambda r, h, m: m.arccos((r + h.T @ h) / m.sqrt(m.outer(*2 * (m.diag(r + h.T @ h),)))),
    "hidden root": lambda r, h, m: m.where(h < 1, m.sqrt(1 - h * r), 0.0),
    "rest of a decay": lambda r, h, m: 1 - m.exp(-r / h),
    "negative power": lambda r, h, m: 1 / (1 + (h / r) ** -2.0),
    "negative whole power": lambda r, h, m: 1 / (1 + (h / r) ** -2),
    "hyperbolic": lambda r, h, m: m.exp(-m.arccosh(1 + h * r)),
    "reciprocal": lambda r, h, m: m.where(h > 0, m.tanh(r * h) / m.where(h > 0, h, 1.0), r),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_functions_without_derivatives_at_a_distance_of_zero(name):
    """Values and derivatives are those of finite differences, on the diagonal and where `jnp.where` leaves NaN out."""
    entry = POINTWISE[name]

    class Own(Covariance):
        r: Positive

        def matrix(self, h):
            return entry(self.r, h, jnp)

    with jax.enable_x64(True), np.errstate(all="ignore"):
        one = derivatives_of(lambda s, dim: Own()._with(r=s[0]), 1, LAGS)(np.array([[0.7]]))
        value, ahead, behind = (entry(r, LAGS, np) for r in (0.7, 0.7 + 1e-5, 0.7 - 1e-5))
    rounding = 5e-8 if name == "arc-cosine" else 1e-12  # of cosines of one
    np.testing.assert_allclose(one.value[0], np.nan_to_num(value), atol=rounding)
    np.testing.assert_allclose(
        one.gradient[0, :, :, 0], np.nan_to_num(ahead - behind) / 2e-5, atol=1e-2 * (rounding > 1e-9) + 1e-8
    )
    assert np.isfinite(one.Hessian).all()


def test_nothing_is_moved_where_all_is_well():
    for structure in (NaivePower(), SafeDamped(damp=0.8)):
        assert residual(structure).structure == structure
    assert residual(Damped()).structure.start(1, 1.0).shape == (3,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("structure", "matrix"),
    [
        (Damped(), lambda p, h: p[0] * np.exp(-((h / p[1]) ** p[2]))),
        (NaivePower(), lambda p, h: p[0] * p[1] ** h),
    ],
    ids=["damped", "power"],
)
def test_what_is_mended_fits_as_the_definition(structure, matrix):
    from scipy.optimize import minimize

    found, h = fitted(structure), abs(np.subtract.outer(np.arange(5.0), np.arange(5.0)))
    part = residual(structure).structure
    p = np.array([v for _, v in part.natural(found.theta[0], 1)])
    assert found.converged.all()
    assert found.loglik[0] == pytest.approx(dense(matrix(p, h)), abs=1e-9)
    best = minimize(lambda q: -dense(matrix(q, h)), p, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10})
    assert found.loglik[0] == pytest.approx(-best.fun, abs=1e-7)


@pytest.mark.slow
def test_roots_of_variances_are_fitted_as_by_csh():
    """Where a variance is zero its root has a kink, in which the search stalls; in other coordinates it has none."""
    rng = np.random.default_rng(0)
    visit = np.tile(np.arange(4), 10)
    Y = rng.normal(size=(20, 40)) * np.array([1.0, 1e-3, 1.0, 0.5])[visit] + rng.normal(size=(20, 10)).repeat(4, 1)
    Z, g = np.eye(4)[visit], np.repeat(np.arange(10), 4)
    both = [
        jaxlmm.fit_batch([Model(y, Z, [Term(Z, g, structure)]) for y in Y])
        for structure in (NaiveRoot(), NAMES["csh"]())
    ]
    assert Model(Y[0], Z, [Term(Z, g, NaiveRoot())]).random[0].structure.kinds(4)[0].power == 4
    np.testing.assert_allclose(both[0].loglik, both[1].loglik, atol=2e-5)
    assert both[0].converged.sum() >= both[1].converged.sum()


class Wiener(Covariance):
    variance: Variance

    def matrix(self, t):
        return self.variance * jnp.minimum(t[:, None], t[None, :])


def test_a_residual_without_variance_somewhere_is_said_before_the_fit():
    with pytest.raises(jaxlmm.DataError, match=r"Wiener.matrix has no variance at 0.0, .* add independent errors"):
        Model(response(), X, residual=residual(Wiener()))
    for random, errors in (((), residual(Wiener() + Identity())), ([Field(Wiener(), SUBJECT, coords=TIMES)], None)):
        with jax.enable_x64(True):
            value = jaxlmm.reml(np.zeros(2), Model(response(), X, random, errors))
        assert value == pytest.approx(dense(np.minimum.outer(TIMES[:5], TIMES[:5]) + np.eye(5)), abs=1e-8)


@pytest.mark.parametrize("name", ["start", "size", "natural", "fixed", "fields"])
def test_a_field_does_not_hide_what_structures_have(name):
    with pytest.raises(jaxlmm.JaxlmmError, match=f"Own: the field {name} hides .* call it {name}_"):
        type(Covariance)("Own", (Covariance,), {"__annotations__": {name: Positive}, "matrix": Wiener.matrix})


class Scaled(Covariance):
    """With the field that lengths are mostly called."""

    variance: Variance
    scale: Positive

    def matrix(self, t):
        return self.variance * jnp.exp(-0.5 * ((t[:, None] - t[None, :]) / self.scale) ** 2)


class Precision(Covariance):
    """By a precision, declared positive: a residual without any variance among its parameters."""

    tau: Positive
    range: Positive

    def matrix(self, t):
        return jnp.exp(-distances(t) / self.range) / self.tau


class WithoutDensity(Covariance):
    variance: Variance

    def matrix(self, t):
        return self.variance * (1.0 + t[:, None] * t[None, :])


@pytest.mark.slow
def test_a_residual_by_its_precision_and_a_field_called_scale():
    for own, usual in ((Precision(), "exp"), (Scaled(), "gau")):
        found, right = fitted(own), fitted(NAMES[usual]())
        assert found.converged.all() and found.loglik[0] == pytest.approx(right.loglik[0], abs=1e-6)


@pytest.mark.slow
def test_a_fit_whose_covariance_is_singular_everywhere_has_tables_all_the_same():
    data = {"y": response(), "t": TIMES, "g": SUBJECT}
    with pytest.warns(jaxlmm.ConvergenceWarning, match="independent errors beside a residual structure"):
        fit = jaxlmm.lmm("y ~ t", data, residual=WithoutDensity().over("t | g"))
    assert np.isnan(fit.parameters()["std_error"]).all() and "not finite" in str(fit.summary())


class Hadamard(Covariance):
    """Of one covariance matrix, and not that matrix."""

    C: CovarianceMatrix

    def matrix(self, k):
        return (self.C * jnp.array([[1.0, 0.5], [0.5, 1.0]]))[k][:, k]


class Lines(Covariance):
    """Random lines over times, with a matrix of its own size."""

    B: Annotated[CovarianceMatrix, 2]
    nugget: Variance

    def matrix(self, t):
        Z = jnp.stack([jnp.ones_like(t), t], 1)
        return Z @ self.B @ Z.T + self.nugget * jnp.eye(len(t))


@pytest.mark.slow
def test_a_matrix_of_a_covariance_matrix_is_not_taken_for_it():
    """Far from the origin of a covariate the solver works in another basis, which only a free matrix has."""
    Z, h = np.column_stack([np.ones(5), 30.0 + np.arange(5)]), np.array([[1.0, 0.5], [0.5, 1.0]])
    model = Model(response(), X, [Term(np.tile(Z, (12, 1)), SUBJECT, Hadamard())])
    with jax.enable_x64(True):
        for start in (np.array([0.3, 0.4, -0.2, 0.1]), None):
            found = jaxlmm.fit_batch([model], start=start)
            C = np.asarray(model.random[0].structure.from_public(jnp.asarray(found.theta[0, :3]), 2).C)
            by_hand = dense(Z @ (C * h) @ Z.T + np.exp(2 * found.theta[0, 3]) * np.eye(5))
            assert found.loglik[0] == pytest.approx(by_hand, abs=1e-6)
            assert found.loglik[0] == pytest.approx(float(jaxlmm.reml(found.theta[0], model)), abs=1e-7)


@pytest.mark.slow
def test_a_covariance_matrix_of_a_size_of_its_own():
    found = fitted(Lines())
    part = residual(Lines()).structure
    assert part.size(1) == 4 and not part.by_level and Lines(B=np.eye(2)).size(1) == 1
    with jax.enable_x64(True):
        B = np.asarray(part.from_public(jnp.asarray(found.theta[0]), 1).B)
        np.testing.assert_allclose(
            part.from_public(jnp.asarray(part.bind({"B": B, "nugget": 1.0}).to_public(1)), 1).B, B
        )
    names = [name for name, _ in part.natural(found.theta[0], 1)]
    assert names == ["B[0,0]", "B[1,0]", "B[1,1]", "nugget"]
    slopes = Model(response(), X, [Term(X, SUBJECT)])
    assert found.loglik[0] == pytest.approx(float(jaxlmm.fit_batch([slopes]).loglik[0]), abs=1e-6)


class Alike(Covariance):
    """One correlation, which three levels can have down to -1/2 only."""

    variance: Variance
    rho: Correlation

    def matrix(self, k):
        return self.variance * jnp.where(k[:, None] == k[None, :], 1.0, self.rho)


def test_a_matrix_that_is_no_covariance_at_the_estimates_is_said():
    """Beside independent errors V is positive definite all the same."""
    rng = np.random.default_rng(0)
    G = np.where(np.eye(3) == 1, 1.0, -0.8)  # an eigenvalue of -0.6
    means = rng.multivariate_normal(np.zeros(3), G + np.eye(3), size=60)
    e = 2.0 * rng.normal(size=(60, 3, 4))
    y = means[:, :, None] + e - e.mean(-1, keepdims=True)
    g, v = np.arange(60).repeat(12), np.tile(np.array(["a", "b", "c"]).repeat(4), 60)
    with pytest.warns(jaxlmm.ConvergenceWarning, match="of g is not positive semidefinite .* parameters of Alike"):
        jaxlmm.lmm("y ~ 1 + alike(0 + v | g)", {"y": y.ravel(), "g": g, "v": v}, structures={"alike": Alike})


# ---------------------------------------------------------------------------- not proportional to their variances


class Deviation(Covariance):
    """A standard deviation declared as a variance."""

    sigma: Variance
    range: Positive

    def matrix(self, t):
        return self.sigma**2 * jnp.exp(-lags(t) / self.range)


class PositiveVariance(Covariance):
    variance: Positive
    range: Positive

    def matrix(self, t):
        return self.variance * jnp.exp(-lags(t) / self.range)


class LogLinear(Covariance):
    a: Real
    b: Real

    def matrix(self, t):
        return jnp.where(t[:, None] == t[None, :], jnp.exp(self.a + self.b * t)[:, None], 0.0)


SCALED = [Deviation(), PositiveVariance(), LogLinear()]


def by_hand(structure: Covariance, p: Any) -> np.ndarray:
    t = np.arange(5.0)
    if isinstance(structure, LogLinear):
        return np.diag(np.exp(p[0] + p[1] * t))
    return p[0] ** (2 if isinstance(structure, Deviation) else 1) * np.exp(-abs(np.subtract.outer(t, t)) / p[1])


@pytest.mark.parametrize("structure", some(SCALED, SCALED[0]), ids=lambda s: type(s).__name__)
def test_a_term_that_is_not_proportional_to_its_variances_has_its_own_parameters(structure):
    """Sigma cannot be profiled out beside it; the parameters, theta and tests are those of the dense model."""
    assert not is_free_in_scale(structure, 5) and is_free_in_scale(SafeDamped(), 5)
    data = {"y": response(), "t": TIMES, "v": np.array([f"v{int(t)}" for t in TIMES]), "g": SUBJECT}
    fit = jaxlmm.lmm("y ~ t + mine(0 + v | g)", data, structures={"mine": structure})
    p = np.array(fit.parameters()["estimate"])
    assert fit.loglik == pytest.approx(dense(by_hand(structure, p) + p[2] * np.eye(5)), abs=1e-7)
    with jax.enable_x64(True):
        assert jaxlmm.reml(fit.theta, fit.model) == pytest.approx(fit.loglik, abs=1e-9)
    field = Model(response(), X, [Field(structure, group=SUBJECT, coords=TIMES)])
    assert jaxlmm.fit_batch([field]).loglik[0] == pytest.approx(fit.loglik, abs=1e-6)
    assert np.isfinite(fit.test("t", df="kenward-roger").rows.df[0])
    assert is_free_in_scale(fit.model.random[0].structure, 5) == isinstance(structure, Deviation)  # by its square root
    large = jaxlmm.fit_batch([fit.model.replace(y=1e3 * response())]).loglik[0]  # scale-free all the same
    assert large + (N - 2) * np.log(1e3) == pytest.approx(fit.loglik, abs=1e-6)


# ---------------------------------------------------------------------------- one likelihood, whatever the part

SHELF = [cls() for cls in dict.fromkeys(NAMES.values())]
OWN = [SafeDamped(), NaivePower(), NaiveRoot(), *SCALED]


@pytest.mark.slow
@pytest.mark.parametrize("role", ["term", "field", "residual"])
@pytest.mark.parametrize("structure", [*SHELF, *OWN], ids=lambda s: type(s).__name__)
def test_the_log_likelihood_of_a_fit_is_that_of_its_theta(structure, role):
    if type(structure).__name__ == "ReducedRank" and role == "residual":
        pytest.skip("singular")
    levels = TIMES.astype(np.int32)
    by_levels = {"position": levels, "dim": 5} if structure.by_level else {"coords": TIMES}
    random, errors = (), None
    if role == "term":
        random = [Term(np.eye(5)[levels], SUBJECT, structure)]
    elif role == "field":
        random = [Field(structure, group=SUBJECT, **by_levels)]
    else:
        errors = Residual(structure, group=SUBJECT, **by_levels)
    model = Model(response(), X, random, errors)
    with jax.enable_x64(True):
        found = jaxlmm.fit_batch([model])
        assert jaxlmm.reml(found.theta[0], model) == pytest.approx(float(found.loglik[0]), abs=1e-7)
        assert jaxlmm.fit(model).loglik <= found.loglik[0] + 1e-6


# ---------------------------------------------------------------------------- arrays that a structure holds or reads

GRID = np.array([(i, j) for i in range(3) for j in range(3)])
NEIGHBOURS = (abs(GRID[:, None] - GRID[None]).sum(-1) == 1).astype(float)
W = NEIGHBOURS / NEIGHBOURS.sum(1, keepdims=True)


class SAR(Covariance):
    """Simultaneous autoregression on a graph, level i is row i of W."""

    variance: Variance
    rho: Annotated[Any, interval(-0.99, 0.99)]
    W: Any
    by_level = True

    def matrix(self, levels):
        B = jnp.linalg.inv(jnp.eye(len(self.W)) - self.rho * self.W)
        return self.variance * (B @ B.T)[levels][:, levels]


@functools.cache
def areas() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    area = np.repeat(np.arange(9), 6)
    u = 1.2 * np.linalg.inv(np.eye(9) - 0.6 * W) @ rng.normal(size=9)
    lon, lat = GRID[area].T + 0.2 * rng.normal(size=(2, 54))
    names = np.array([f"a{k}" for k in area])
    return {"y": u[area] + rng.normal(size=54), "k": area, "area": names, "lon": lon, "lat": lat, "one": ["g"] * 54}


def test_a_structure_that_holds_a_matrix_has_a_name_in_formulas(tmp_path):
    mine, found = {"sar": SAR(W=W)}, []
    for text in (
        "sar(area)",
        "sar(k)",
        "sar(k | one)",
        "sar(area, levels=['a0','a1','a2','a3','a4','a5','a6','a7','a8'])",
    ):
        found.append(jaxlmm.lmm(f"y ~ 1 + {text}", areas(), structures=mine))
    variance, rho, sigma2 = found[0].parameters()["estimate"]
    B, k = np.linalg.inv(np.eye(9) - rho * W), areas()["k"]
    V = variance * (B @ B.T)[np.ix_(k, k)] + sigma2 * np.eye(54)
    for fit in found:
        assert fit.loglik == pytest.approx(oracle.loglik(V, areas()["y"], np.ones((54, 1))), abs=1e-7)
    found[0].save(tmp_path / "sar")
    assert jaxlmm.load(tmp_path / "sar", structures={"sar": SAR}).loglik == found[0].loglik
    fewer = {name: np.asarray(column)[6:] for name, column in areas().items()}
    with pytest.raises(jaxlmm.DataError, match="holds a matrix of 9 rows, but the data have 8 levels of 'k'; levels="):
        jaxlmm.lmm("y ~ 1 + sar(k)", fewer, structures=mine)
    with pytest.raises(jaxlmm.JaxlmmError, match="matrix of 9 rows, found 10 levels"):
        Field(SAR(W=W), position=np.arange(10))
    with pytest.raises(jaxlmm.DataError, match=r"expected classes or structures by name"):
        jaxlmm.lmm("y ~ 1 + sar(k)", fewer, structures={"sar": W})


def test_classes_structures_and_makers_of_them_by_name():
    made = functools.partial(KnownMatrix, known=np.eye(9) + 0.5)
    from jaxlmm.formula.specs import given_structures

    found = given_structures({"a": SAR, "b": SAR(W=W), "c": made})
    assert found["a"] is SAR and found["b"] == SAR(W=W.copy()) and found["c"] == made()
    assert SAR(W=W).given(rho=0.5) == SAR(W=W, rho=0.5)


def test_arrays_are_compared_by_content_and_structures_stack():
    a, b, other = SAR(W=W), SAR(W=W.copy()), SAR(W=NEIGHBOURS)
    assert a == b and hash(a) == hash(b) and a != other
    bound = [s.from_solver(jnp.asarray(s.start(9)), 9) for s in (a, b)]
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *bound)
    assert stacked.rho.shape == (2,) and stacked.W is not None
    own = W.copy()
    kept = SAR(W=own)
    own[:] = 0.0  # what is done to it later does not change the structure
    assert kept == a and not kept.W.flags.writeable
    with pytest.raises(jaxlmm.JaxlmmError, match="W: options are part of compiled code .* found dict"):
        SAR(W={"w": W})


READ = np.exp(-distances(np.arange(5.0)) / 3.0)


def known_at(k: Any) -> Any:
    return jnp.asarray(READ)[k][:, k]


class Reads(Covariance):
    variance: Variance
    nugget: Variance

    def matrix(self, t):
        return self.variance * known_at(t.astype(int)) + self.nugget * jnp.eye(len(t))


@pytest.mark.slow
def test_a_structure_sees_the_array_of_now():
    """An edited matrix makes another program."""
    global READ
    first, old = fitted(residual(Reads()).structure), READ
    try:
        READ = np.exp(-distances(np.arange(5.0)) / 30.0)
        second = jaxlmm.fit_batch([Model(response(), X, residual=residual(Reads()))])
        a, b = residual(Reads()).structure.natural(second.theta[0], 1)
        assert second.loglik[0] == pytest.approx(dense(a[1] * READ + b[1] * np.eye(5)), abs=1e-8)
        assert abs(second.loglik[0] - first.loglik[0]) > 1e-3
    finally:
        READ = old


def test_an_edited_matrix_makes_another_key():
    global READ
    before, old = residual(Reads()).structure, READ
    try:
        READ = READ.copy()
        assert residual(Reads()).structure == before
        READ[0, 1] = READ[1, 0] = 0.3
        assert residual(Reads()).structure != before
    finally:
        READ = old


def test_what_a_closure_and_a_function_of_ones_own_hold_is_part_of_the_key():
    def make(matrix, power):
        def entry(k):
            return jnp.asarray(matrix)[k][:, k] ** power

        class Closed(Covariance):
            variance: Variance

            def matrix(self, t):
                return self.variance * entry(t.astype(int))

        return Closed

    known = READ.copy()
    closed = make(known, 1)
    before, again = closed().reading(), closed().reading()
    assert before == again
    known[0, 1] = known[1, 0] = 0.3
    assert closed().reading() != before


# ---------------------------------------------------------------------------- in formulas


class MyExponential(Covariance):
    variance: Variance
    range: Positive

    def matrix(self, p):
        return self.variance * jnp.exp(-distances(p) / self.range)


@pytest.mark.slow
def test_a_class_over_places_and_all_rows_in_every_text():
    mine = {"mine": MyExponential}
    shipped = jaxlmm.lmm("y ~ 1 + sp_exp(lon + lat)", areas())
    term = jaxlmm.lmm("y ~ 1 + mine(lon + lat)", areas(), structures=mine)
    both = jaxlmm.lmm("y ~ 1", areas(), residual=[MyExponential().over("lon + lat"), "iid()"])
    assert term.loglik == pytest.approx(shipped.loglik, abs=1e-7) == both.loglik


def test_the_exponential_of_a_sum_is_not_taken_for_a_covariance():
    with pytest.raises(jaxlmm.FormulaError, match=r"write sp_exp\(lon \+ lat\), for the exp of the sum I\(exp"):
        jaxlmm.lmm("y ~ 1 + exp(lon + lat)", areas())


class Coregionalised(Covariance):
    """Two processes mixed by matrices between traits."""

    smooth: CovarianceMatrix
    range: Positive
    rough: CovarianceMatrix

    def matrix(self, p):
        trait, t = p[:, 0].astype(int), p[:, 1]
        same = (t[:, None] == t[None, :]).astype(float)
        decay = jnp.exp(-lags(t) / self.range)
        return self.smooth[trait][:, trait] * decay + self.rough[trait][:, trait] * same


@pytest.mark.slow
@pytest.mark.parametrize("column", ["trait", "number"])
def test_coregionalisation_in_one_class_from_a_formula(column):
    rng = np.random.default_rng(5)
    g, k, t = (v.ravel() for v in np.meshgrid(np.arange(20), np.arange(2), np.arange(3.0), indexing="ij"))
    y = rng.normal(size=(20, 2)).repeat(3) + 0.7 * rng.normal(size=120) + 0.3 * k
    data = {"y": y, "g": g, "trait": np.array(["a", "b"])[k.astype(int)], "number": k, "t": t}
    fit = jaxlmm.lmm("y ~ trait + t", data, residual=Coregionalised().over(f"{column} + t | g"))
    s = fit.model.residual.structure
    with jax.enable_x64(True):
        bound = s.from_public(jnp.asarray(fit.theta), fit.model.residual.dim)
    B, C, tau = (np.asarray(v) for v in (bound.smooth, bound.rough, bound.range))
    a, h = k[:6].astype(int), abs(np.subtract.outer(t[:6], t[:6]))
    V = np.kron(np.eye(20), B[np.ix_(a, a)] * np.exp(-h / tau) + C[np.ix_(a, a)] * (h == 0))
    assert fit.loglik == pytest.approx(oracle.loglik(V, y, np.column_stack([np.ones(120), k, t])), abs=1e-7)
    assert fit.predict(data, random=False).shape == (120,)


# ---------------------------------------------------------------------------- marks and starts


class Marked(Covariance):
    loadings: Annotated[Variance, 3]
    range: Positive = 2.0
    damp: Annotated[Any, positive(start=1.5)]
    shape: Annotated[Any, interval(0.0, 2.0, start=0.5)]
    other: Positive = (1.0, 5.0)

    def matrix(self, t):
        near = jnp.exp(-lags(t) / self.range)
        return jnp.sum(self.loadings) * near + 0.0 * (self.damp + self.shape + self.other)


def test_lengths_and_starts_of_fields():
    s = Marked()
    assert s.size(1) == s.size(9) == 7 and not s.by_level
    bound = s.from_solver(jnp.asarray(s.start(4, 7.0)), 4)
    assert [float(getattr(bound, n)) for n in ("range", "damp", "shape", "other")] == pytest.approx([2, 1.5, 0.5, 1])
    (row,) = s.alternatives(4)
    assert np.exp(row[-1]) == pytest.approx(5.0) and np.isnan(row[:-1]).all()
    ((pair),) = (s + Identity()).alternatives(4)
    assert len(pair) == 8 and np.exp(pair[6]) == pytest.approx(5.0)
    assert Marked(range=3.0).fixed == ("range",)

    class Later(Marked):
        pass

    assert Later().start(4)[3] == pytest.approx(np.log(2.0))


class Hills(Covariance):
    """A correlation with a hill of 0.3 at 3 and a higher one at -3."""

    variance: Variance
    x: Real = 3.0

    def matrix(self, t):
        rho = 0.3 * jnp.exp(-((self.x - 3.0) ** 2)) + 0.9 * jnp.exp(-((self.x + 3.0) ** 2))
        return self.variance * powers(rho, lags(t))


class BothHills(Hills):
    x: Real = (3.0, -3.0)


@pytest.mark.slow
def test_several_starts_and_starts_that_are_given():
    one, both = fitted(Hills()), fitted(BothHills())
    low, high = (residual(s).structure.natural(f.theta[0], 1)[1][1] for s, f in ((Hills(), one), (BothHills(), both)))
    assert low == pytest.approx(3.0, abs=0.3) and high == pytest.approx(-3.0, abs=1.0)
    assert both.loglik[0] > one.loglik[0] + 0.3
    model = Model(response(), X, residual=residual(Hills()))
    theta = np.array([0.0, -2.5])
    given = jaxlmm.fit_batch([model, model], start=np.stack([theta, one.theta[0]]))
    np.testing.assert_allclose(given.loglik, [both.loglik[0], one.loglik[0]], atol=1e-7)
    with jax.enable_x64(True):
        traced = jax.jit(lambda start: jaxlmm.fit(model, start=start).loglik)
        assert traced(theta) == pytest.approx(both.loglik[0], abs=1e-7)
        assert jaxlmm.fit(model).loglik == pytest.approx(one.loglik[0], abs=1e-7)
    with pytest.raises(jaxlmm.DataError, match=r"start: expected a theta \(k,\), or 2, one for each data set"):
        jaxlmm.fit_batch([model, model], start=np.zeros((3, 2)))
    with pytest.raises(jaxlmm.DataError, match="start: expected 2 covariance parameters"):
        jaxlmm.fit_batch(model, response()[None], start=np.zeros(3))


class TooSmooth(Covariance):
    variance: Variance
    range: Positive = 200.0

    def matrix(self, t):
        return self.variance * jnp.exp(-((lags(t) / self.range) ** 2))


@pytest.mark.slow
def test_a_start_where_the_response_has_a_density_is_looked_for():
    found = fitted(TooSmooth())
    usual = jaxlmm.fit_batch([Model(response(), X, residual=residual(NAMES["gau"]()))])
    assert found.converged.all() and found.loglik[0] == pytest.approx(usual.loglik[0], abs=1e-6)
    assert "degenerate" not in " ".join(status.advice for status in jaxlmm.Status)


@pytest.mark.parametrize("mark", [1.5, "long", 0, True], ids=str)
def test_marks_that_mean_nothing_are_refused(mark):
    with pytest.raises(jaxlmm.JaxlmmError, match="range is marked with .*; expected each_level or a length"):

        class Bad(Covariance):
            range: Annotated[Positive, mark]


@pytest.mark.parametrize(
    ("mark", "start", "words"),
    [
        (Positive, [1.0, 2.0], r"starts at a value of shape \(2,\), expected \(\)"),
        (Annotated[Positive, 2], np.ones(3), r"starts at a value of shape \(3,\), expected \(2,\)"),
        (Positive, "2", "starts at '2', expected numbers"),
        (Positive, {"a": 1}, "expected numbers"),
        (Positive, np.inf, "expected positive numbers"),
        (Correlation, 1.0, "starts at 1.0, where all slopes are zero"),
        (Variance, 0.0, "starts at 0.0, where all slopes are zero"),
        (Annotated[CovarianceMatrix, 2], 2.0, "expected a symmetric"),
    ],
)
def test_starts_that_cannot_be(mark, start, words):
    with pytest.raises(jaxlmm.JaxlmmError, match=words):
        type(Covariance)("Own", (Covariance,), {"__annotations__": {"p": mark}, "p": start})().start(4)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (lambda: interval(2.0, 1.0), "lower < start < upper"),
        (lambda: interval(0.0, 1.0, start=3.0), "lower < start < upper"),
        (lambda: interval(0.0, np.inf), "upper: found inf"),
        (lambda: interval("a", 1.0), "lower: found 'a'"),
        (lambda: positive(-1.0), "expected a positive number"),
        (lambda: positive(float("nan")), "found nan"),
        (lambda: Wiener(variance="a"), "variance is fixed at 'a', expected numbers"),
        (lambda: Wiener().over(3), "found 3"),
        (lambda: Wiener().over("t", levels="abc"), "levels in a list"),
        (lambda: SAR(W=np.array([["a"]], object)), "found ndarray"),
    ],
)
def test_values_that_cannot_be(kind, words):
    with pytest.raises(jaxlmm.JaxlmmError, match=words):
        kind()


def test_lists_of_numbers_are_arrays_and_constructors_say_what_they_take():
    assert SAR(W=W.tolist()) == SAR(W=W) and SAR(W=W.tolist()).W.shape == (9, 9)
    with pytest.raises(TypeError, match="Scaled: no option 'scal'; did you mean 'scale'"):
        Scaled(scal=2.0)
    with pytest.raises(TypeError, match="found 1 values without a name"):
        Scaled(2.0)


def test_a_start_value_has_to_be_possible():
    with pytest.raises(jaxlmm.JaxlmmError, match=r"range starts at -2.0, expected positive numbers"):

        class Bad(Covariance):
            range: Positive = -2.0


# ---------------------------------------------------------------------------- the check


@pytest.mark.parametrize(
    ("structure", "words"),
    [
        (Eigen(), r"Eigen.matrix has derivatives .* in a, at entry \(0, 0\).*eigh has no derivatives"),
        (Indexed(), r"Indexed.matrix raised TypeError: Indexer .*levels.astype\(int\)"),
        (Deviation(), r"Deviation: .* not homogeneous of degree one"),
        (PositiveVariance(), r"PositiveVariance: .* proportional to variance, which is declared Positive"),
        (Linear(), r"Linear.matrix is not positive semidefinite"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Covariance) else "",
)
def test_the_check_finds_it_and_says_what_to_write(structure, words):
    with pytest.raises(AssertionError, match=words):
        check_covariance(structure, dim=3, coords=np.arange(3.0))


def test_safe_roots():
    x = np.array([0.0, 4.0])
    assert roots(x).tolist() == [0.0, 2.0] and lags(np.array([3, 1])).tolist() == [[0, 2], [2, 0]]
    assert np.isfinite(jax.grad(lambda v: jnp.sum(roots(v)))(x)).all()
