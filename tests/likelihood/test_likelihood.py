"""The pure layer: reml, ml and gram against the dense textbook, finite differences and closed forms."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
import oracle
from cases import some

N = 26
SIZES = (1, 7, 3, 1, 6, 8)  # rows of each group: unequal, two of them single rows
THETA_RESIDUAL = -0.3
ENGINES = ("grouped", "dense")


# ---------------------------------------------------------------------------- the grid of designs


@dataclasses.dataclass(frozen=True)
class Design:
    """A small data set and its random terms (Z, codes, structure name)."""

    y: np.ndarray
    X: np.ndarray
    terms: tuple
    weights: np.ndarray | None = None
    offset: np.ndarray | None = None

    def model(self, engine):
        random = [jaxlmm.Term(Z, codes, STRUCTURES[name]()) for Z, codes, name in self.terms]
        return jaxlmm.Model(self.y, self.X, random=random, weights=self.weights, offset=self.offset, engine=engine)

    def theta(self, shift=0.0):
        """An interior parameter vector, the residual last."""
        parts = [start(name, Z.shape[1]) for Z, _, name in self.terms]
        theta = np.concatenate([*parts, [THETA_RESIDUAL]])
        return theta + shift * np.cos(np.arange(theta.size))

    def covariances(self, theta):
        out, first = [], 0
        for Z, _, name in self.terms:
            size = start(name, Z.shape[1]).size
            out.append(covariance(name, theta[first : first + size], Z.shape[1]))
            first += size
        return out, np.exp(theta[first])

    def V(self, theta):
        blocks, sigma = self.covariances(theta)
        triples = [(Z, codes, G) for (Z, codes, _), G in zip(self.terms, blocks, strict=True)]
        return oracle.marginal(triples, sigma, len(self.y), self.weights)

    @property
    def response(self):
        return self.y if self.offset is None else self.y - self.offset

    def loglik(self, theta, reml=True):
        return oracle.loglik(self.V(theta), self.response, self.X, reml)


STRUCTURES = {
    "us": jaxlmm.Unstructured,
    "diag": jaxlmm.Diagonal,
    "identity": jaxlmm.covariance.Identity,
    "cs": jaxlmm.covariance.CompoundSymmetry,
}


def start(name, q):
    """Interior parameters of a structure."""
    if name == "us":
        factor = np.eye(q) * 0.2 + 0.3 * np.cos(np.add.outer(2 * np.arange(q), np.arange(q)))
        rows = [(i, j) for j in range(q) for i in range(j, q)]
        return np.array([0.2 - 0.1 * i if i == j else factor[i, j] for i, j in rows])
    return {"diag": 0.3 - 0.2 * np.arange(q), "identity": np.array([0.25]), "cs": np.array([0.3, 0.4])}[name]


def covariance(name, values, q):
    """The covariance matrix of a structure at unconstrained parameters, from the definitions."""
    if name == "us":
        factor = oracle.relative_factor(values, q)
        factor[np.diag_indices(q)] = np.exp(np.diag(factor))
        return factor @ factor.T
    if name == "diag":
        return np.diag(np.exp(2 * values))
    if name == "identity":
        return np.exp(2 * values[0]) * np.eye(q)
    low = -1 / (q - 1)
    correlation = low + (1 - low) * (1 + np.tanh(values[1])) / 2
    return np.exp(2 * values[0]) * ((1 - correlation) * np.eye(q) + correlation)


def unbalanced(q):
    """Shared fixed part, q columns of Z for unequal groups in shuffled rows."""
    rng = np.random.default_rng(10)
    codes = rng.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    x = rng.normal(size=N)
    X = np.column_stack([np.ones(N), x])
    Z = np.column_stack([np.ones(N), x, rng.normal(size=(N, 8))])[:, :q]
    y = 1 + 0.5 * x + rng.normal(size=len(SIZES))[codes] + 0.7 * rng.normal(size=N)
    return y, X, Z, codes


def one_term(q, structure="us", **extra):
    y, X, Z, codes = unbalanced(q)
    return Design(y, X, ((Z, codes, structure),), **extra)


def balanced():
    """Two patterns of eight equal groups each, and one group of its own: enough to be compressed."""
    rng = np.random.default_rng(11)
    x = np.r_[np.tile([0.0, 1.0, 2.0], 8), np.tile([0.0, 0.5, 3.0], 8), 1.0, 4.0]
    codes = np.r_[np.repeat(np.arange(16), 3), 16, 16]
    order = rng.permutation(50)
    X = np.column_stack([np.ones(50), x])[order]
    return Design(rng.normal(size=50) + x[order], X, ((X, codes[order], "us"),))


def several_terms_of_one_factor():
    y, X, Z, codes = unbalanced(3)
    return Design(y, X, ((Z[:, :1], codes, "us"), (Z[:, 1:3], codes, "us")))


def nested(order=1):
    y, X, Z, inner = unbalanced(2)
    outer = inner // 2
    terms = ((Z[:, :1], inner, "us"), (Z, outer, "us"))
    return Design(y, X, terms[::order])


def crossed():
    y, X, Z, codes = unbalanced(2)
    other = np.arange(N) % 4
    return Design(y, X, ((Z, codes, "us"), (Z[:, :1], other, "us")))


def _weights():
    return np.random.default_rng(12).uniform(0.3, 3, size=N)


DESIGNS = {
    "q1": lambda: one_term(1),
    "q2": lambda: one_term(2),
    "q3": lambda: one_term(3),
    "balanced": balanced,
    "weights": lambda: one_term(2, weights=_weights()),
    "offset": lambda: one_term(2, offset=3 + np.linspace(-2, 2, N)),
    "one factor": several_terms_of_one_factor,
    "nested": nested,
    "nested outer first": lambda: nested(-1),
    "crossed": crossed,
    "diagonal": lambda: one_term(3, "diag"),
    "identity": lambda: one_term(3, "identity"),
    "compound symmetry": lambda: one_term(3, "cs"),
    "q8": lambda: one_term(8),
}


LONG = ("q8", "nested outer first", "q3", "identity", "diagonal", "compound symmetry")
DAILY = ("q2", "crossed")  # by the dense engine
DENSE = ("q2", "q3", "balanced", "weights", "nested", "crossed", "q8")  # the others differ in nothing dense


@functools.cache
def design(name):
    return DESIGNS[name]()


@functools.cache
def model_of(name, engine):
    return design(name).model(engine)


@functools.cache
def compiled(name, engine):
    """theta -> (reml, its gradient, its Hessian), compiled once a design and engine."""
    model = model_of(name, engine)

    def slopes(theta):
        value, gradient = jax.value_and_grad(jaxlmm.reml)(theta, model)
        return gradient, (value, gradient)

    def everything(theta):
        hessian, (value, gradient) = jax.jacfwd(slopes, has_aux=True)(theta)
        return value, gradient, hessian

    return jax.jit(everything)


def evaluate(name, engine, theta):
    return tuple(np.asarray(v) for v in compiled(name, engine)(jnp.asarray(theta)))


def engines_for(name):
    return ENGINES if name in DENSE else ENGINES[:1]


def is_slow(name, engine):
    return name in LONG or (engine == "dense" and name not in DAILY)


def grid(*skip):
    """(design, engine) pairs, the most ordinary one smoke; the dense engine, but for two designs, slow."""
    marks = {("q2", "grouped"): pytest.mark.smoke}
    pairs = [(name, engine) for name in DESIGNS if name not in skip for engine in engines_for(name)]
    marks |= {pair: pytest.mark.slow for pair in pairs if is_slow(*pair)}
    return [pytest.param(*pair, marks=marks.get(pair, ())) for pair in pairs]


def close(found, expected, rtol):
    """Relative to the largest entry, as fits a gradient or Hessian."""
    scale = np.max(np.abs(expected))
    assert np.max(np.abs(np.asarray(found) - expected)) <= rtol * scale


# ---------------------------------------------------------------------------- value, gradient, Hessian


@pytest.mark.parametrize(("name", "engine"), grid())
def test_reml_value_is_the_textbook_value(name, engine):
    for shift in (0.0, 0.5):
        theta = design(name).theta(shift)
        assert evaluate(name, engine, theta)[0] == pytest.approx(design(name).loglik(theta), abs=1e-9)


@pytest.mark.parametrize(("name", "engine"), grid("q8"))
def test_ml_and_gram_are_the_textbook_values(name, engine):
    d, theta = design(name), design(name).theta(0.3)
    model = model_of(name, engine)
    value, (logdet, G) = jax.jit(lambda t: (jaxlmm.ml(t, model), jaxlmm.gram(t, model)))(theta)
    assert float(value) == pytest.approx(d.loglik(theta, reml=False), abs=1e-9)
    expected_logdet, expected = oracle.gram(d.V(theta), d.response, d.X)
    assert float(logdet) == pytest.approx(expected_logdet, abs=1e-9)
    np.testing.assert_allclose(G, expected, rtol=1e-9, atol=1e-9 * np.max(np.abs(expected)))


@pytest.mark.parametrize(("name", "engine"), grid())
def test_gradient_is_the_finite_difference_of_the_textbook_value(name, engine):
    theta = design(name).theta()
    close(evaluate(name, engine, theta)[1], oracle.gradient(design(name).loglik, theta), 1e-8)


@pytest.mark.parametrize(("name", "engine"), grid("q8"))
def test_hessian_is_the_finite_difference_of_the_textbook_value(name, engine):
    theta = design(name).theta()
    hessian = evaluate(name, engine, theta)[2]
    close(hessian, oracle.hessian(design(name).loglik, theta), 1e-6)
    close(hessian, hessian.T, 1e-12)


@pytest.mark.parametrize("name", some(DENSE, *DAILY))
def test_grouped_derivatives_are_the_dense_ones(name):
    theta = design(name).theta(0.4)
    grouped, dense = evaluate(name, "grouped", theta), evaluate(name, "dense", theta)
    assert grouped[0] == pytest.approx(dense[0], rel=1e-10)
    close(grouped[1], dense[1], 1e-8)
    close(grouped[2], dense[2], 1e-8)


@pytest.mark.parametrize("engine", some(ENGINES, "grouped"))
def test_ml_derivatives(engine):
    d, model = design("q2"), model_of("q2", engine)
    theta = d.theta()

    def textbook(t):
        return d.loglik(t, reml=False)

    close(jax.jit(jax.grad(jaxlmm.ml))(theta, model), oracle.gradient(textbook, theta), 1e-8)
    close(jax.jit(jax.hessian(jaxlmm.ml))(theta, model), oracle.hessian(textbook, theta), 1e-6)


# ---------------------------------------------------------------------------- zero variances

BOUNDARY = [
    ("q1", (0,)),
    ("q2", (2,)),  # correlation +-1
    ("q2", (0, 1, 2)),  # nothing varies
    ("q3", (5,)),
    ("balanced", (2,)),
    ("nested", (0,)),
    ("one factor", (0,)),
    ("crossed", (3,)),
    ("diagonal", (1,)),
    ("identity", (0,)),
]


@pytest.mark.parametrize(
    ("name", "zero", "engine"),
    [
        pytest.param(name, zero, engine, marks=pytest.mark.slow if is_slow(name, engine) else ())
        for name, zero in BOUNDARY
        for engine in engines_for(name)
    ],
)
def test_zero_variance_is_an_ordinary_point(name, zero, engine):
    """Entries of -inf: the value is the textbook one at G singular, derivatives are finite and flat there."""
    d = design(name)
    theta = d.theta()
    theta[list(zero)] = -np.inf
    if len(zero) == 3:
        theta[1] = 0.0
    value, gradient, hessian = evaluate(name, engine, theta)
    assert value == pytest.approx(d.loglik(theta), abs=1e-9)
    assert np.all(np.isfinite(gradient))
    assert np.all(np.isfinite(hessian))
    assert np.all(gradient[np.isneginf(theta)] == 0)


def test_a_variance_that_underflows_meets_the_zero_one():
    theta = design("q1").theta()
    limit, tiny = theta.copy(), theta.copy()
    limit[0], tiny[0] = -np.inf, -400.0
    assert evaluate("q1", "grouped", tiny)[0] == pytest.approx(evaluate("q1", "grouped", limit)[0], abs=1e-12)
    assert all(np.all(np.isfinite(v)) for v in evaluate("q1", "grouped", tiny))


@pytest.mark.parametrize(
    ("name", "engine"),
    some(
        [(name, engine) for name in ("q2", "q3") for engine in ENGINES],
        *(("q2", e) for e in ENGINES),
    ),
)
@pytest.mark.parametrize("scale", [-12.0, -6.0, 6.0, 12.0])
def test_no_nan_at_extreme_scales(name, engine, scale):
    """Variances over 20 orders of magnitude, with single-row groups and q larger than some groups."""
    theta = design(name).theta()
    theta[0] = scale
    value, gradient, hessian = evaluate(name, engine, theta)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    assert np.all(np.isfinite(hessian))


# ---------------------------------------------------------------------------- balanced one-way, closed form


def one_way(groups, m, engine, seed=3):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(groups, m)) + rng.normal(size=(groups, 1))
    one = np.ones((table.size, 1))
    term = jaxlmm.Term(one, np.repeat(np.arange(groups), m), jaxlmm.Unstructured())
    return table, jaxlmm.Model(table.ravel(), one, random=[term], engine=engine)


@pytest.mark.parametrize(
    ("criterion", "engine"),
    some([(c, e) for c in ("reml", "ml") for e in ENGINES], ("reml", "grouped"), ("ml", "dense")),
)
def test_balanced_one_way_closed_form(engine, criterion):
    """Value at any theta; at the ANOVA estimates gradient zero and Hessian negative definite."""
    table, model = one_way(5, 4, engine)
    reml = criterion == "reml"
    f = jax.jit(getattr(jaxlmm, criterion))
    theta = np.array([0.3, -0.2])
    variance, residual = np.exp(2 * theta)
    assert float(f(theta, model)) == pytest.approx(oracle.one_way_loglik(table, variance, residual, reml), abs=1e-10)

    variance, residual = oracle.one_way_estimates(table, reml)
    assert variance > 0
    best = 0.5 * np.log([variance, residual])
    np.testing.assert_allclose(jax.jit(jax.grad(f))(best, model), 0, atol=1e-10)
    assert np.all(np.linalg.eigvalsh(-np.asarray(jax.jit(jax.hessian(f))(best, model))) > 0)


def test_the_information_of_a_balanced_one_way_layout():
    """Expected -d2/d(log sd)2 at the REML estimates: V's eigenvalues give it in closed form.

    With top = s^2 + m g, -2 l = (a - 1) log top + a (m - 1) log s^2 + SSA / top + SSE / s^2 + constant;
    at the estimates SSA = (a - 1) top, SSE = a (m - 1) s^2.
    """
    a, m = 5, 4
    table, model = one_way(a, m, "grouped")
    g, s = oracle.one_way_estimates(table)
    top = s + m * g
    d_g, d_s = 2 * m * g / top, 2 * s / top  # derivatives of log top in log sd of group and residual
    expected = 0.5 * (a - 1) * np.outer([d_g, d_s], [d_g, d_s])
    expected[1, 1] += 0.5 * a * (m - 1) * 4
    found = -np.asarray(jax.jit(jax.hessian(jaxlmm.reml))(0.5 * np.log([g, s]), model))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


# ---------------------------------------------------------------------------- transformations


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        pytest.param("q2", "grouped", marks=pytest.mark.smoke),
        *some(
            [("q2", "dense"), *((name, engine) for name in ("nested", "crossed", "weights") for engine in ENGINES)],
            ("crossed", "dense"),
        ),
    ],
)
def test_jit_is_eager_and_the_model_is_a_pytree(name, engine):
    model, theta = model_of(name, engine), design(name).theta()
    leaves, treedef = jax.tree.flatten(model)
    again = jax.tree.unflatten(treedef, leaves)
    assert float(jax.jit(jaxlmm.reml)(theta, again)) == pytest.approx(float(jaxlmm.reml(theta, model)), rel=1e-13)


@pytest.mark.parametrize(
    ("name", "engine"),
    some(
        [(name, engine) for name in ("q2", "offset", "weights", "nested") for engine in ENGINES],
        ("offset", "grouped"), ("nested", "grouped"), ("weights", "dense"),
    ),
)  # fmt: skip
def test_gradient_in_y_is_minus_P_y(name, engine):
    d, model, theta = design(name), model_of(name, engine), design(name).theta()
    gradient = jax.jit(jax.grad(lambda y: jaxlmm.reml(theta, model.replace(y=y))))(d.y)
    close(gradient, oracle.score_in_y(d.V(theta), d.response, d.X), 1e-9)


def test_gradients_in_X_and_weights_are_finite_differences():
    d, model, theta = design("weights"), model_of("weights", "grouped"), design("weights").theta()
    (Z, codes, _), G = d.terms[0], d.covariances(theta)[0][0]
    sigma = d.covariances(theta)[1]

    def in_weights(w):
        return oracle.loglik(oracle.marginal([(Z, codes, G)], sigma, N, w), d.y, d.X)

    def in_x(x):
        return oracle.loglik(d.V(theta), d.y, np.column_stack([d.X[:, 0], x]))

    w_gradient, X_gradient = jax.jit(
        jax.grad(lambda w, X: jaxlmm.reml(theta, model.replace(weights=w, X=X)), argnums=(0, 1))
    )(d.weights, d.X)
    close(w_gradient, oracle.gradient(in_weights, d.weights), 1e-7)
    close(X_gradient[:, 1], oracle.gradient(in_x, d.X[:, 1]), 1e-7)


def variants(name, k=3):
    """k data sets with the layout of a design: other y, X and weights."""
    d, rng = design(name), np.random.default_rng(20)
    ys = d.y + rng.normal(size=(k, N))
    Xs = np.stack([np.column_stack([np.ones(N), rng.normal(size=N)]) for _ in range(k)])
    ws = rng.uniform(0.5, 2, size=(k, N))
    return ys, Xs, ws


@pytest.mark.parametrize("engine", some(ENGINES, "grouped"))
def test_vmap_over_y(engine):
    model, theta = model_of("q2", engine), design("q2").theta()
    ys, _, _ = variants("q2")
    batched = jax.jit(jax.vmap(lambda y: jaxlmm.reml(theta, model.replace(y=y))))(ys)
    single = [oracle.loglik(design("q2").V(theta), y, design("q2").X) for y in ys]
    np.testing.assert_allclose(batched, single, rtol=1e-11)


@pytest.mark.parametrize("engine", some(ENGINES, "grouped"))
def test_vmap_over_y_X_Z_and_weights(engine):
    """Everything but the grouping differs from lane to lane; value and gradient equal the loop's."""
    d, theta = design("weights"), design("weights").theta()
    codes = d.terms[0][1]

    def loglik(y, X, w):
        term = jaxlmm.Term(X, codes, jaxlmm.Unstructured())
        return jaxlmm.reml(theta, jaxlmm.Model(y, X, random=[term], weights=w, engine=engine))

    batch = variants("weights")
    G, sigma = d.covariances(theta)[0][0], d.covariances(theta)[1]
    single = [
        oracle.loglik(oracle.marginal([(X, codes, G)], sigma, N, w), y, X) for y, X, w in zip(*batch, strict=True)
    ]
    everything = jax.value_and_grad(loglik, argnums=(0, 1, 2))
    values, gradients = jax.jit(jax.vmap(everything))(*batch)
    np.testing.assert_allclose(values, single, rtol=1e-11)
    alone_jitted = jax.jit(everything)
    alone = [alone_jitted(*lane)[1] for lane in zip(*batch, strict=True)]
    for stacked, lanes in zip(gradients, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(stacked, np.stack(lanes), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("engine", some(ENGINES, "dense"))
def test_vmap_over_a_stack_of_models(engine):
    """Models of one layout stack like any pytree: every leaf has a batch axis."""
    codes, theta = design("weights").terms[0][1], design("weights").theta()
    models = [
        jaxlmm.Model(
            y,
            X,
            random=[jaxlmm.Term(X, codes, jaxlmm.Unstructured())],
            weights=w,
            offset=y / 2,
            engine=engine,
        )
        for y, X, w in zip(*variants("weights"), strict=True)
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
    batched = jax.jit(jax.vmap(jaxlmm.reml, in_axes=(None, 0)))(theta, stacked)
    jitted = jax.jit(jaxlmm.reml)
    np.testing.assert_allclose(batched, [jitted(theta, model) for model in models], rtol=1e-11)


def test_vmap_over_theta_with_hessian():
    thetas = np.stack([design("q2").theta(s) for s in (0.0, 0.3, -0.6)])
    batched = jax.jit(jax.vmap(compiled("q2", "grouped")))(thetas)
    for i, theta in enumerate(thetas):
        for found, expected in zip(batched, evaluate("q2", "grouped", theta), strict=True):
            np.testing.assert_allclose(found[i], expected, rtol=1e-10, atol=1e-11)


def test_balanced_groups_share_one_pattern_whatever_their_number():
    """The value of a 40-group balanced study is that of the textbook too."""
    table, model = one_way(40, 3, "grouped")
    theta = np.array([0.1, 0.2])
    value = float(jaxlmm.reml(theta, model))
    assert value == pytest.approx(oracle.one_way_loglik(table, *np.exp(2 * theta)), abs=1e-9)


def test_a_large_mean_does_not_cancel():
    """y + 1e9 with y on a grid that the sum represents exactly."""
    d, theta = design("q2"), design("q2").theta()
    y = np.round(d.y * 2**16) / 2**16
    near, far = dataclasses.replace(d, y=y), dataclasses.replace(d, y=y + 1e9)
    for engine in ENGINES:
        found = float(jaxlmm.reml(theta, far.model(engine)))
        assert found == pytest.approx(near.loglik(theta), abs=1e-6)


# ---------------------------------------------------------------------------- refusals


@pytest.mark.smoke
@pytest.mark.parametrize("function", ["reml", "ml", "gram"])
def test_single_precision_is_refused_with_the_remedy(function):
    d = design("q1")
    model = model_of("q1", "grouped")
    with jax.enable_x64(False), pytest.raises(jaxlmm.errors.JaxlmmError, match="enable_x64") as caught:
        getattr(jaxlmm, function)(d.theta(), model)
    assert "jax.config" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": np.zeros(N - 1)}, "shape"),
        ({"y": np.full(N, np.nan)}, "y"),
        ({"weights": -np.ones(N)}, "weights"),
        ({"X": np.ones((N, 2))}, "X"),
        ({"engine": "sparse"}, "engine"),
    ],
)
def test_bad_arrays_are_refused_by_name(change, words):
    d = design("q1")
    Z, codes, _ = d.terms[0]
    arguments = {"y": d.y, "X": d.X, "random": [jaxlmm.Term(Z, codes, jaxlmm.Unstructured())]} | change
    with pytest.raises(jaxlmm.errors.JaxlmmError, match=words):
        jaxlmm.Model(**arguments)


def test_theta_of_the_wrong_length_is_refused():
    with pytest.raises(jaxlmm.errors.JaxlmmError, match="theta"):
        jaxlmm.reml(np.zeros(7), model_of("q1", "grouped"))
