"""A fit as a pure JAX function: for jit, vmap, and derivatives of estimates in the data."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from ..errors import DataError
from ..likelihood.confounding import check_left_by
from ..likelihood.model import Model
from ..likelihood.prepared import Prepared, prepare
from ..pytrees import replace
from ..runtime.precision import pure
from ..runtime.programs import compiled
from ..tolerances import SINGULAR
from .boundary import RISE
from .estimate import MAX_ITERATIONS
from .newton import Status, minimise
from .objective import Spec, criterion_at, objective, packing_of, scale_of
from .units import Estimates, in_units, jacobi_eigenvalues

if TYPE_CHECKING:  # a third of a second, which only those who use it should wait for
    import optax

GRADIENT = 1e-6  # largest entry of the scaled gradient at which a first-order optimiser has converged


def fit(
    model: Model, method: str = "REML", optimizer: optax.GradientTransformation | None = None,
    max_iterations: int = MAX_ITERATIONS,
) -> Estimates:  # fmt: skip
    """Fit a model as a pure function of its arrays.

    Composes with `jax.jit`, `jax.vmap` (over ``model.replace(y=...)``, X, Z, weights) and derivatives of any order in
    these arrays: estimates are differentiated by the implicit function theorem, ``d theta = -H^-1 d(gradient)`` at
    the optimum, not through the iterations. A parameter on the boundary stays there, with derivative zero.

    It stops at a point without slope or negative curvature. `jaxlmm.lmm` and `jaxlmm.fit_batch` do more: they verify
    singular estimates on the cone of covariance matrices, and try further starts. They are also faster.

    Parameters
    ----------
    model : see `jaxlmm.Model`; 64-bit floats must be on
    method : "REML" or "ML"
    optimizer : an optax transformation to use in place of Newton's method, for models with so many covariance
        parameters that their Hessian is too dear, such as ``optax.lbfgs()``
    max_iterations : the most evaluations

    Raises
    ------
    Float64RequiredError
        When 64-bit floats are off.
    DataError
        For an unknown method. Numerical trouble is a `status`, not an error.
    """
    with pure():
        if optimizer is not None:
            _check_optimizer(optimizer)
        spec = Spec.of(model, method)
        check_left_by(model.X, model.random, method)
        return _fit(spec, optimizer, max_iterations, model, spec.start(model.coords))


def _check_optimizer(optimizer: Any) -> None:
    import optax

    if not isinstance(optimizer, optax.GradientTransformation):
        raise DataError(f"optimizer: expected an optax transformation such as optax.lbfgs(), found {optimizer!r}")


@compiled("optimizer", "max_iterations")
def _fit(spec: Spec, optimizer: Any, max_iterations: int, model: Model, start: Array) -> Estimates:
    prepared = prepare(model, compact=False, orthogonal=True)
    basis = prepared.basis
    scale = jax.lax.stop_gradient(scale_of(spec, basis, jnp))
    s, decrement, iterations, status, flattest = _optimum(optimizer, max_iterations, spec, prepared, scale, start)
    C = spec.blocks(s * scale, prepared.coords)
    d, normal = criterion_at(spec, prepared, C)
    found = in_units(
        spec, basis, s * scale, -0.5 * d, normal, C, status=status.astype(jnp.int32),
        iterations=iterations.astype(jnp.int32), decrement=decrement, boundary=None, min_eigenvalue=flattest,
    )  # fmt: skip
    ends = [jnp.any(jnp.isinf(u)) for _, _, u in spec.split(found.theta)]
    return replace(found, boundary=jnp.array(ends, bool))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _optimum(
    optimizer: Any, max_iterations: int, spec: Spec, prepared: Prepared, scale: Array, start: Array
) -> tuple[Array, ...]:  # fmt: skip
    """Scaled solver coordinates of the optimum, and decrement, iterations, status and `min_eigenvalue` as floats."""
    if optimizer is None:
        evaluate, packing = objective(spec, prepared, scale), packing_of(spec, prepared.basis.R.shape[0])
        state = minimise(evaluate, packing, start, max_iterations, jnp, spec.charts(prepared.coords))
        best = packing.unpack(state.best)
        s, value, decrement, iterations, status = best.x, best.value, state.decrement, state.iteration, state.status
        flattest = jacobi_eigenvalues(best.hessian)
    else:
        s, value, decrement, iterations = _first_order(spec, optimizer, max_iterations, prepared, scale, start)
        status = jnp.where(decrement < GRADIENT, Status.CONVERGED, Status.MAX_ITERATIONS)
        status, flattest = jnp.where(jnp.isfinite(value), status, Status.NOT_FINITE), jnp.full((), jnp.nan)
    s = spec.map("canonical", s)
    edge = spec.map("snapped", s, SINGULAR)
    at_edge = _value(spec, prepared, scale, edge)
    s = jnp.where(at_edge <= value + RISE * jnp.maximum(1.0, jnp.abs(value)), edge, s)
    return s, decrement, iterations.astype(float), status.astype(float), flattest


@_optimum.defjvp
def _optimum_jvp(
    optimizer: Any, max_iterations: int, primals: tuple[Spec, Prepared, Array, Array], tangents: tuple[Any, ...]
) -> tuple[Any, Any]:  # fmt: skip
    spec, prepared, scale, start = primals
    out = _optimum(optimizer, max_iterations, spec, prepared, scale, start)
    s = out[0]
    if not s.shape[0]:
        return out, tuple(jnp.zeros_like(x) for x in out)

    def gradient(prepared: Prepared, s: Array) -> Array:
        return jax.grad(_value, argnums=3)(spec, prepared, scale, s)

    change = jax.jvp(lambda prepared: gradient(prepared, s), (prepared,), (tangents[1],))[1]
    H = jax.jacfwd(gradient, argnums=1)(prepared, s)
    ds = -jnp.linalg.solve(0.5 * (H + H.T), change[:, None])[:, 0]
    return out, (ds, *(jnp.zeros_like(x) for x in out[1:]))


def _value(spec: Spec, prepared: Prepared, scale: Array, s: Array) -> Array:
    return criterion_at(spec, prepared, spec.blocks(s * scale, prepared.coords))[0]


def _first_order(
    spec: Spec, optimizer: optax.GradientTransformation, max_iterations: int, prepared: Prepared, scale: Array,
    start: Array,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Best point of an optax transformation: coordinates, value, largest entry of the gradient, evaluations."""
    import optax

    method = optax.with_extra_args_support(optimizer)

    def value(s: Array) -> Array:
        return _value(spec, prepared, scale, s)

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
    _, _, count, (s, f, size) = jax.lax.while_loop(going, step, carry)
    return s, f, size, count
