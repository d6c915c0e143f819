"""A fit as a pure JAX function: for jit, vmap, and derivatives of estimates in the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..arguments import check_function
from ..covariance.charts import IDENTITY
from ..errors import DataError
from ..likelihood.confounding import check_left_by
from ..likelihood.engines import Blocks
from ..likelihood.model import Model
from ..likelihood.prepared import Prepared, prepare
from ..pytrees import is_traced, replace
from ..runtime.precision import pure, unguarded
from ..runtime.programs import compiled
from ..runtime.sharding import alike
from ..runtime.sizes import check_count
from ..tolerances import FLAT, SINGULAR
from .boundary import MAX_ITERATIONS, RISE
from .constrained import Constrained, Through
from .estimate import as_start
from .newton import Evaluate, Packing, Status, minimise
from .objective import Spec, criterion_at, objective, packing_of, scale_of
from .units import Estimates, in_units, jacobi_eigenvalues

if TYPE_CHECKING:  # a third of a second, which only those who use it should wait for
    import optax

Prior = Callable[[Array, Blocks], Any]

GRADIENT = 1e-6  # largest entry of the scaled gradient at which a first-order optimiser has converged


def fit(
    model: Model, method: str = "REML", optimizer: optax.GradientTransformation | None = None,
    max_iterations: int = MAX_ITERATIONS, prior: Prior | None = None, start: Any = None,
    through: Through | None = None,
) -> Estimates:  # fmt: skip
    """Fit a model as a pure function of its arrays.

    Composes with `jax.jit`, `jax.vmap` (over ``model.replace(y=...)``, X, Z, weights) and derivatives of any order in
    these arrays: estimates are differentiated by the implicit function theorem, ``d theta = -H^-1 d(gradient)`` at
    the optimum, not through the iterations. A parameter on the boundary stays there, with derivative zero.

    Under `jax.shard_map` of a vmap every device runs a loop of its own and nothing is communicated. Programs of
    gradients of crossed and dense models are large: a minute to compile, or several on a busy machine.

    It stops at a point without slope or negative curvature. `jaxlmm.lmm` and `jaxlmm.fit_batch` do more: they verify
    singular estimates on the cone of covariance matrices, and try further starts. They are also faster.

    Parameters
    ----------
    model : see `jaxlmm.Model`; 64-bit floats must be on
    method : "REML" or "ML"
    optimizer : an optax transformation to use in place of Newton's method, for models with so many covariance
        parameters that their Hessian is too dear, such as ``optax.lbfgs()``
    max_iterations : the most evaluations
    prior : function of theta (k,) and of the covariance blocks, ``prior(theta, model.blocks(theta))``, whose number is
        added to the log-likelihood, such as a log density: the mode of the posterior for theta is found, in the
        coordinates that the density is of (no Jacobian is added). Made of `jax.numpy`, twice differentiable, minus
        infinity where theta cannot be; it may close over traced values, derivatives in which are the estimates' too.
        Status, decrement and `min_eigenvalue` are those of the sum, `loglik` is without it. (The model of a formula is
        ``jaxlmm.lmm(formula, data).model``.)
    start : (k,) theta to start at, which may be traced; with `through` (j,) phi, which has to be given
    through : function h of phi (j,) that gives theta (k,), to fit over phi: equal variances of two terms
        (``lambda phi: phi[jnp.array([0, 0, 1])]``), a fixed ratio, a correlation that terms share. Made of `jax.numpy`,
        twice differentiable; it may close over traced values, derivatives in which are the estimates' too. The result
        is a `jaxlmm.pure.Constrained`, with phi and errors by the delta method

    Raises
    ------
    Float64RequiredError
        When 64-bit floats are off.
    DataError
        For an unknown method, a prior that gives no number, and `through` that gives no theta. Numerical trouble is a
        `status`, not an error.
    """
    with pure():
        if optimizer is not None:
            _check_optimizer(optimizer)
        for name, function in (("prior", prior), ("through", through)):
            if function is not None:
                check_function(name, function)
        check_count("max_iterations", max_iterations)
        if not isinstance(model, Model):
            raise TypeError(f"fit(model): expected a jaxlmm.Model, found {type(model).__name__}")
        spec, given, constants = Spec.of(model, method), Asked(), ((), ())
        check_left_by(model.X, model.random, method)
        if through is not None:
            start = jnp.asarray(np.nan if start is None else start, float)
            if start.ndim != 1:
                raise DataError(f"start: with through= expected phi (j,) to start at, found shape {start.shape}")
            own, more = _closed("through", through, (start,), (model.size,), "theta")
            given, constants = Asked(None, own), ((), more)
        elif start is not None and not is_traced(start):
            start = as_start(model, spec, start)
        if start is not None and through is None and np.shape(start) != (model.size,):
            raise DataError(f"start: expected shape ({model.size},) as of theta, found {np.shape(start)}")
        if prior is not None:
            theta = jnp.zeros(model.size)
            blocks = jax.tree_util.tree_map(lambda x: jnp.zeros(x.shape), jax.eval_shape(model.blocks, theta))
            own, more = _closed("prior", prior, (theta, blocks), (), "one number")
            given, constants = given._replace(prior=own), (more, constants[1])
        spec = spec.absolute if any(given) else spec
        return _fit(spec, optimizer, max_iterations, given, model, spec.start(model.coords), constants, start)


class Asked(NamedTuple):
    """Functions of the user's, which are part of the program; what they close over is traced."""

    prior: Callable[..., Any] | None = None
    through: Callable[..., Any] | None = None


def _closed(
    name: str, function: Callable[..., Any], like: tuple[Any, ...], shape: tuple[int, ...], what: str
) -> tuple[Callable[..., Any], tuple[Any, ...]]:  # fmt: skip
    """A function of the user's as one of its arguments and of the traced values that it closes over, and these."""
    closed, constants = jax.closure_convert(function, *like)
    found = jax.eval_shape(closed, *like, *constants)
    if getattr(found, "shape", None) != shape or not jnp.issubdtype(found.dtype, jnp.floating):
        raise DataError(f"{name}: expected a function that gives {what}{f' {shape}' if shape else ''}, found {found}")
    return (closed, tuple(constants)) if constants else (function, ())


def _check_optimizer(optimizer: Any) -> None:
    import optax

    if not isinstance(optimizer, optax.GradientTransformation):
        raise DataError(f"optimizer: expected an optax transformation such as optax.lbfgs(), found {optimizer!r}")


@compiled("optimizer", "max_iterations", "given")
def _fit(
    spec: Spec, optimizer: Any, max_iterations: int, given: Asked, model: Model, start: Array,
    constants: tuple[Any, ...], theta: Any,
) -> Estimates:  # fmt: skip
    prepared = prepare(model, compact=False, orthogonal=True)
    basis = prepared.basis
    scale = jax.lax.stop_gradient(scale_of(spec, basis, jnp))
    if given.through is not None:
        start = jax.lax.stop_gradient(theta)
    elif theta is not None:
        start = jax.lax.stop_gradient(spec.from_theta(jnp.asarray(theta), basis.K, start * scale) / scale)
    s, decrement, iterations, status, flattest = _optimum(
        optimizer, max_iterations, given, spec, prepared, scale, start, constants
    )
    x = _solver(given, spec, prepared, scale, constants, s)
    C = spec.blocks(x, prepared.coords)
    d, normal = criterion_at(spec, prepared, C)
    found = in_units(
        spec, basis, x, -0.5 * d, normal, C, status=status.astype(jnp.int32),
        iterations=iterations.astype(jnp.int32), decrement=decrement, boundary=None, min_eigenvalue=flattest,
    )  # fmt: skip
    ends = [jnp.any(jnp.isinf(u)) for _, _, u in spec.split(found.theta)]
    lost = jnp.where(status == Status.NOT_FINITE, jnp.nan, 1.0)  # no estimates are no numbers
    names = ("theta", "sigma", "loglik", "coef", "vcov", "covariances", "residual")
    numbers = jax.tree_util.tree_map(lambda x: lost * x, {name: getattr(found, name) for name in names})
    found = replace(found, boundary=jnp.array(ends, bool), **numbers)
    if given.through is None:
        return found
    H = jax.hessian(partial(_value, given, spec, prepared, scale, constants))(s)
    vcov = jnp.where(flattest > FLAT, 2.0 * jnp.linalg.inv(H), jnp.nan)
    J = jax.jacfwd(given.through)(s, *constants[1])
    return Constrained(
        **{f.name: getattr(found, f.name) for f in fields(found)}, phi=s, phi_vcov=vcov, theta_vcov=J @ vcov @ J.T
    )


def _solver(given: Asked, spec: Spec, prepared: Prepared, scale: Array, constants: tuple[Any, ...], s: Array) -> Array:
    """Solver coordinates (k,) at what is optimised: these, scaled, or phi."""
    if given.through is None:
        return s * scale
    return spec.coordinates(given.through(s, *constants[1]), prepared.basis.K)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _optimum(
    optimizer: Any, max_iterations: int, given: Asked, spec: Spec, prepared: Prepared, scale: Array,
    start: Array, constants: tuple[Any, ...],
) -> tuple[Array, ...]:  # fmt: skip
    """Scaled solver coordinates of the optimum, and decrement, iterations, status and `min_eigenvalue` as floats."""
    value_at = partial(_value, given, spec, prepared, scale, constants)
    if optimizer is None:
        free = given.through is None
        through = None if free else partial(_solver, given, spec, prepared, scale, constants)
        packing = packing_of(spec, prepared.basis.R.shape[0], size=None if free else len(start))
        evaluate = objective(spec, prepared, scale, packing=packing, through=through)
        if given.prior is not None:
            evaluate = _penalised(evaluate, packing, partial(_penalty, given, spec, prepared, scale, constants))
        charts = spec.charts(prepared.coords) if free else IDENTITY
        state = minimise(evaluate, packing, start, max_iterations, jnp, charts)
        best = packing.unpack(state.best)
        s, value, decrement, iterations, status = best.x, best.value, state.decrement, state.iteration, state.status
        flattest = jacobi_eigenvalues(best.hessian)
    else:
        s, value, decrement, iterations = _first_order(value_at, optimizer, max_iterations, start)
        status = jnp.where(decrement < GRADIENT, Status.CONVERGED, Status.MAX_ITERATIONS)
        status, flattest = jnp.where(jnp.isfinite(value), status, Status.NOT_FINITE), jnp.full((), jnp.nan)
    if given.through is not None:
        return s, decrement, iterations.astype(float), status.astype(float), flattest
    s = spec.map("canonical", s)
    edge = spec.map("snapped", s, SINGULAR)
    at_edge = value_at(edge)
    s = jnp.where(at_edge <= value + RISE * jnp.maximum(1.0, jnp.abs(value)), edge, s)
    return s, decrement, iterations.astype(float), status.astype(float), flattest


@_optimum.defjvp
@unguarded
def _optimum_jvp(
    optimizer: Any, max_iterations: int, given: Asked, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Any, Any]:  # fmt: skip
    spec, prepared, scale, _, constants = primals
    out = _optimum(optimizer, max_iterations, given, *primals)
    s = out[0]
    if not s.shape[0]:
        return out, tuple(jnp.zeros_like(x) for x in out)

    def gradient(prepared: Prepared, constants: tuple[Any, ...], s: Array) -> Array:
        return jax.grad(_value, argnums=5)(given, spec, prepared, scale, constants, s)

    moved = (prepared, constants), (tangents[1], tangents[4])
    change = jax.jvp(lambda prepared, constants: gradient(prepared, constants, s), *moved)[1]
    H = jax.jacfwd(gradient, argnums=2)(prepared, constants, s)
    ds = -jnp.linalg.solve(0.5 * (H + H.T), change[:, None])[:, 0]
    return out, (ds, *(jnp.zeros_like(x) for x in out[1:]))


def _value(given: Asked, spec: Spec, prepared: Prepared, scale: Array, constants: tuple[Any, ...], s: Array) -> Array:
    x = _solver(given, spec, prepared, scale, constants, s)
    value = criterion_at(spec, prepared, spec.blocks(x, prepared.coords))[0]
    return value if given.prior is None else value + _penalty(given, spec, prepared, scale, constants, s)


def _penalty(given: Asked, spec: Spec, prepared: Prepared, scale: Array, constants: tuple[Any, ...], s: Array) -> Array:
    """-2 times the prior at what is optimised, of absolute covariances."""
    assert given.prior is not None
    x = spec.in_basis(_solver(given, spec, prepared, scale, constants, s), prepared.basis.K)
    x = spec.map("canonical", x)
    theta = spec.map("solver_to_public", x)
    return -2.0 * given.prior(theta, spec.blocks(x, prepared.coords), *constants[0])


def _penalised(evaluate: Evaluate, packing: Packing, penalty: Callable[[Array], Array]) -> Evaluate:
    """An objective with what is added to it, and its derivatives."""

    def evaluated(s: Array) -> Array:
        point = packing.unpack(evaluate(s))
        value, gradient = jax.value_and_grad(penalty)(s)
        return packing.pack(
            point._replace(
                value=point.value + value,
                gradient=point.gradient + gradient,
                hessian=point.hessian + jax.hessian(penalty)(s),
            )
        )

    return evaluated


def _first_order(
    value: Callable[[Array], Array], optimizer: optax.GradientTransformation, max_iterations: int, start: Array
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Best point of an optax transformation: coordinates, value, largest entry of the gradient, evaluations."""
    import optax

    method = optax.with_extra_args_support(optimizer)

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        s, state, count, best = carry
        f, g = jax.value_and_grad(value)(s)
        size = jnp.max(jnp.abs(g), initial=0.0)
        better = f < best[1]
        best = tuple(jnp.where(better, new, old) for new, old in zip((s, f, size), best, strict=True))
        updates, state = method.update(g, state, s, value=f, grad=g, value_fn=value)
        return optax.apply_updates(s, updates), state, count + 1, best

    def going(carry: tuple[Any, ...]) -> Array:
        return (carry[2] < max_iterations) & (carry[3][2] >= GRADIENT)

    infinite = jnp.full((), jnp.inf)
    carry = (start, method.init(start), jnp.zeros((), jnp.int32), (start, infinite, infinite))
    _, _, count, (s, f, size) = jax.lax.while_loop(going, step, alike(carry, start))
    return s, f, size, count
