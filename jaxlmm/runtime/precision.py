"""The settings of JAX under which the package computes, whatever the program around it has set; not after a fork."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from ..arguments import check_function
from ..errors import Float64RequiredError, JaxlmmError

R = TypeVar("R", bound=Callable[..., Any])

# Threads of JAX, and locks that they hold, do not come along into a forked process: what runs JAX there waits for ever.
_STARTED: list[bool] = []  # not empty once the package has run JAX
_FORKED: list[bool] = []  # not empty in a process that was forked after that

_GUARDS = ("jax_transfer_guard", *(f"jax_transfer_guard_{way}_to_{end}" for way, end in (
    ("host", "device"), ("device", "device"), ("device", "host"),
)))  # fmt: skip


@contextmanager
def float64() -> Iterator[None]:
    """Compute with 64-bit floats; guards of the user's own code (ranks, types, transfers) are off for the package's.

    Raises
    ------
    JaxlmmError
        In a process that was forked after the package had run JAX.
    """
    refuse_after_fork()
    with jax.enable_x64(True), _own():
        yield


@contextmanager
def pure() -> Iterator[None]:
    """What functions that the user composes with JAX's run under: their floats are the user's.

    Raises
    ------
    Float64RequiredError
        When 64-bit floats are off.
    JaxlmmError
        See `float64`.
    """
    refuse_after_fork()
    if not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise Float64RequiredError(
            "64-bit floats are off, and a likelihood in float32 is not usable. Set "
            "jax.config.update('jax_enable_x64', True) at the top of your program, or call inside "
            "'with jax.enable_x64(True):', with jax.grad inside of it too, as derivatives are computed where it is "
            "called; in a program of float32, jaxlmm.pure.in_float64(function) does both; jaxlmm.lmm() does it itself"
        )
    with _own():
        yield


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function computed with 64-bit floats, gradient included, for a program of float32.

    A network in float32 may so end in ``jaxlmm.reml``. Derivatives of what is called inside ``with
    jax.enable_x64(True)`` are computed where `jax.grad` is called, which is outside: they lose their digits, or fail.

    Parameters
    ----------
    function : of arrays of floats, or pytrees of them, with one number for result

    Returns
    -------
    A function of the same arguments, whose result and gradient have their type; to be differentiated once, in reverse
    (`jax.custom_vjp`): the gradient is computed along with the value.
    """
    check_function("function", function)

    def forward(*args: Any) -> tuple[Any, Any]:
        dtype = jnp.result_type(*jax.tree_util.tree_leaves(args))
        with jax.enable_x64(True):
            wide = jax.tree_util.tree_map(lambda x: jnp.asarray(x, jnp.float64), args)
            value, slopes = jax.value_and_grad(function, tuple(range(len(args))))(*wide)
            narrow = jax.tree_util.tree_map(lambda slope, x: slope.astype(jnp.result_type(x)), slopes, args)
            return value.astype(dtype), narrow

    @jax.custom_vjp
    def head(*args: Any) -> Any:
        return forward(*args)[0]

    head.defvjp(forward, lambda slopes, c: jax.tree_util.tree_map(lambda slope: c.astype(slope.dtype) * slope, slopes))
    return wraps(function)(head)


def unguarded(rule: R) -> R:
    """Decorator of rules of derivatives, which JAX may run when the package's function has long returned."""

    @wraps(rule)
    def own(*args: Any) -> Any:
        with _own():
            return rule(*args)

    return own  # type: ignore[return-value]


def _own() -> AbstractContextManager[Any]:
    """JAX's own choices in place of the user's, where these are others."""
    config: Any = jax.config
    own = ExitStack()
    if config.jax_numpy_rank_promotion != "allow":
        own.enter_context(jax.numpy_rank_promotion("allow"))
    if config.jax_numpy_dtype_promotion != "standard":
        own.enter_context(jax.numpy_dtype_promotion("standard"))
    if any(getattr(config, name) not in (None, "allow") for name in _GUARDS):
        own.enter_context(jax.transfer_guard("allow"))
    return own


def refuse_after_fork() -> None:
    """Raise in a process in which JAX cannot run.

    Raises
    ------
    JaxlmmError
        In a process that was forked after the package had run JAX.
    """
    if _FORKED:
        raise JaxlmmError(
            "this process was forked from one in which jaxlmm had run JAX, and JAX cannot run in it: it would wait for "
            "ever. Start processes with multiprocessing.get_context('spawn') or 'forkserver', or with joblib's default "
            "backend; fork before the first fit; or use jaxlmm.study for simulations"
        )
    if not _STARTED:
        _STARTED.append(True)


def _after_fork() -> None:
    """Note in a child whether the package had run JAX in its parent; no lock is taken here."""
    if _STARTED:
        _FORKED.append(True)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
