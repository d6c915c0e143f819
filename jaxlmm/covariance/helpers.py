"""What structures are made of: powers, distances and roots whose derivatives are finite everywhere."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from ..errors import JaxlmmError
from ..runtime.precision import refuse_after_fork, unguarded
from .kinds import module_of

TINY = 1e-100  # variances below are zero: the second derivative of their root would overflow


def powers(rho: Any, lag: Any) -> Array:
    """``rho ** |lag|`` with a finite value, gradient and Hessian at rho = 0, where ``**`` has NaN.

    Any other safe power too: ``powers(lags(t) / range, damp)``, whose base is zero on the diagonal.

    Parameters
    ----------
    rho : number or array; may be negative where lags are integers (of any dtype), and is NaN there otherwise
    lag : array that broadcasts with `rho`, of either sign

    Returns
    -------
    array of the shape of both; ``0 ** 0`` is one

    Notes
    -----
    At rho = 0 the k-th derivative of ``rho ** lag`` is infinite when ``lag < k`` is not an integer; it is zero here.
    """
    refuse_after_fork()
    return safe_power(jnp.asarray(rho, float), _size(module_of(lag).asarray(lag, dtype=float)))


@jax.custom_jvp
def safe_power(base: Array, exponent: Any) -> Array:
    """``base ** exponent``, zero where the base is zero and the exponent is not."""
    size = jnp.abs(base)
    value = jnp.where(size > 0, jnp.power(jnp.where(size > 0, size, 1.0), exponent), jnp.where(exponent == 0, 1.0, 0.0))
    parity = jnp.mod(exponent, 2.0)
    of_negative = jnp.where(parity == 0, value, jnp.where(parity == 1, -value, jnp.nan))
    return jnp.where(base < 0, of_negative, value)


@partial(safe_power.defjvp, symbolic_zeros=True)
@unguarded
def _safe_power_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    (base, exponent), (dbase, dexponent) = primals, tangents
    value = safe_power(base, exponent)
    tangent = jnp.zeros_like(value)
    if not isinstance(dbase, SymbolicZero):
        # the exponent of the derivative falls by one until it is zero, there the next derivative is zero
        tangent += jnp.where(exponent == 0, 0.0, exponent * safe_power(base, exponent - 1.0)) * dbase
    if not isinstance(dexponent, SymbolicZero):
        tangent += value * jnp.log(jnp.where(base > 0, base, 1.0)) * dexponent
    return value, tangent


def _size(x: Any) -> Any:
    """Absolute values, with a derivative of zero at zero (that of ``abs`` is one there)."""
    return x * module_of(x).sign(x)


def distances(coords: Any) -> Any:
    """Euclidean distances (m, m) between points, with finite derivatives at distance zero (which are zero there).

    Parameters
    ----------
    coords : (m,) positions on a line, or (m, d) points; NumPy in gives NumPy out, a constant to compiled code
    """
    xp = module_of(coords)
    points = xp.asarray(coords, dtype=float)
    if points.ndim == 1:
        return lags(points)
    return roots(xp.sum((points[:, None] - points[None, :]) ** 2, -1))


def lags(times: Any) -> Any:
    """Absolute differences (m, m) between times (m,), integers of integers, with a derivative of zero at zero."""
    return _size(times[:, None] - times[None, :])


def roots(x: Any) -> Any:
    """Square roots; the derivative at zero, which is infinite, is taken to be zero, and so are numbers below 1e-100.

    For standard deviations from variances: in the solver's coordinate s, with ``variance = s**2``, the root is
    ``abs(s)``, and zero is the mean of its two slopes; with ``variance = s**4``, for structures that take such roots,
    it is smooth.
    """
    xp = module_of(x)
    positive = x > TINY
    return xp.where(positive, xp.sqrt(xp.where(positive, x, 1.0)), 0.0)


def same(levels: Any) -> Any:
    """Whether two levels (m,), or places (m, d), are the same (m, m)."""
    equal = levels[:, None] == levels[None, :]
    return equal if equal.ndim == 2 else equal.all(-1)


def codes(levels: Any) -> Any:
    """Levels as integers; in a table of coordinates they are floats."""
    return levels.astype(np.int32) if levels.dtype.kind == "f" else levels


def of_levels(values: Any, levels: Any) -> Any:
    """Entries of a vector (q,) at `levels` (m,); nothing is gathered when they are known to be 0, ..., q-1."""
    return values if _is_all(levels, values.shape[0]) else _indexable(values, levels)[codes(levels)]


def submatrix(matrix: Any, levels: Any) -> Any:
    """Rows and columns of a matrix (q, q) at `levels` (m,)."""
    if _is_all(levels, matrix.shape[0]):
        return matrix
    at = codes(levels)
    return _indexable(matrix, levels)[at[:, None], at[None, :]]


def _indexable(values: Any, levels: Any) -> Any:
    """A constant in the form that traced levels can index."""
    return jnp.asarray(values) if isinstance(levels, Array) else values


def _is_all(levels: Any, q: int) -> bool:
    return isinstance(levels, np.ndarray) and np.array_equal(levels, np.arange(q))


def covariances(variances: Array, correlations: Array, levels: Any) -> Array:
    """Covariance matrix (m, m) from the variances (q,) of all levels and the correlations (m, m) between `levels`.

    The diagonal is the variances themselves, smooth where one of them is zero.
    """
    v = of_levels(variances, levels)
    sd = roots(v)
    return jnp.where(same(levels), v[:, None], correlations * sd[:, None] * sd[None, :])


def check_count(structure: Any, name: str) -> None:
    """Refuse an option that is not a positive whole number."""
    count = getattr(structure, name)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise JaxlmmError(f"{type(structure).__name__}: expected {name} = 1, 2, ..., found {count!r}")
