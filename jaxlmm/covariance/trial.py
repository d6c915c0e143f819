"""A structure that a user wrote is tried before it is fitted: its matrix, its derivatives, and where to start.

What can be mended is mended: a start at which a matrix is not a covariance, or has no derivatives, is moved; variances
of which a matrix takes roots get coordinates in which these are smooth; and a matrix that is not proportional to its
variances is not fitted as if it were. Anything else is said, with the parameter, the entry and what to write.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import DataError
from ..runtime.devices import platform
from ..runtime.precision import float64
from ..runtime.programs import QUICKLY
from ..tolerances import MIRRORED
from .base import Composite, Covariance
from .kinds import IntervalKind, VarianceKind
from .parametric import Parametric

MOST_PLACES = 6
MOST_COORDINATES = 60  # of which second derivatives are looked at
MOVED = 12  # coordinates that are moved one by one
SHIFTS = (1.0, -1.0, 2.0, -2.0)  # of starts, in the unit of a coordinate
EVERYWHERE = 8  # points at which all coordinates are moved
NEAR = 1e-8  # a standard deviation next to zero
KINK = 1e-4  # relative slope there, above which the matrix is not smooth in it
JUMP = 0.1  # of a variance by a step of NEAR, relative to the largest entry
STEEP = 1e-7  # of a matrix, relative to its largest entry: what its slopes do not explain of a step of NEAR
ROUNDING = 1e-9  # relative to the largest entry of a matrix
WITHOUT = {
    "while": "while_loop has no derivatives in reverse; write jax.lax.fori_loop between fixed bounds, or scan",
    "eigh": "eigh has no derivatives where eigenvalues are equal; write solve, inv or expm for functions of a matrix",
    "eig": "eig has no second derivatives; write solve, inv or expm for functions of a matrix",
    "svd": "svd has no derivatives where singular values are equal; write solve, inv or cholesky",
}


class Derivatives(NamedTuple):
    """Matrices (b, m, m) with their first and second derivatives (b, m, m, k) and (b, m, m, k, k)."""

    value: np.ndarray
    gradient: np.ndarray
    Hessian: np.ndarray


def quickly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile without the expensive passes: compiling is what takes time, the code runs a few times."""
    return jax.jit(function, compiler_options=QUICKLY if platform() == "cpu" else None)


def derivatives_of(
    chart: Callable[[Array, Any], Covariance], dim: Any, levels: Any, second: bool = True
) -> Callable[[Any], Derivatives]:
    """Everything at points (b, k) of a chart, differentiated as the optimiser does: forward over reverse."""

    def all_at(places: Any, points: Array) -> Any:
        def matrix(s: Array) -> Array:
            return jnp.asarray(chart(s, dim).matrix(places))

        def gradient(s: Array) -> tuple[Array, tuple[Array, Array]]:
            value, pull = jax.vjp(matrix, s)
            units = jnp.eye(value.size).reshape(value.size, *value.shape)
            slopes = jax.vmap(pull)(units)[0].reshape(*value.shape, s.size)
            return slopes, (value, slopes)

        def everything(s: Array) -> tuple[Array, Array, Array]:
            if not second:
                slopes, (value, _) = gradient(s)
                return value, slopes, jnp.zeros(())
            Hessian, (value, slopes) = jax.jacfwd(gradient, has_aux=True)(s)
            return value, slopes, Hessian

        return jax.lax.map(everything, points)

    program = _at(levels, all_at)
    return lambda points: Derivatives(*map(np.asarray, program(np.asarray(points, float))))


def _at(levels: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled function of levels and points as one of points; coordinates are traced, as in a fit, levels not."""
    if levels.dtype.kind != "f":
        return quickly(functools.partial(function, levels))
    program = quickly(function)
    return lambda points: program(levels, points)


def coordinate_names(structure: Parametric, dim: Any) -> list[str]:
    """Which parameter every coordinate is of: ``range``, ``variances[0]``."""
    each = [(p.name, p.size(dim)) for p in structure.free]
    return [name if size == 1 else f"{name}[{i}]" for name, size in each for i in range(size)]


def advice(structure: Parametric, dim: Any, levels: Any, s: np.ndarray) -> str:
    """Where derivatives are not finite at solver coordinates s: in which parameter, at which entry, what to write."""
    what = "write powers(x, p) for x ** p, distances(points) for the root of a sum of squares, roots(x) for sqrt(x)"
    what += " (jaxlmm.covariance), whose derivatives are finite"
    what = _hint(structure, dim, levels).removeprefix("; ") or what
    bound: Any = structure.from_solver(jnp.asarray(s), dim)

    def slopes(name: str, value: Any) -> list[Any]:
        """First and second derivatives (m, m, ...) in one parameter, the others being constants, forward."""
        first = jax.jacfwd(lambda v: jnp.asarray(bound._with(**{name: v}).matrix(levels)))
        return [first(value), jax.jacfwd(first)(value)]

    for p in structure.free:
        for found in quickly(functools.partial(slopes, p.name))(getattr(bound, p.name)):
            bad = np.argwhere(~np.isfinite(np.asarray(found)))
            if len(bad):
                i, j = (int(at) for at in bad[0][:2])
                zero = " (a distance of zero)" if np.array_equal(levels[i], levels[j]) else ""
                return f"in {p.name}, at entry ({i}, {j}), between {levels[i]} and {levels[j]}{zero}; {what}"
    return what


def tried(structure: Any, dim: Any, places: Any, what: str, distance: Any = 1.0, of_some: bool = False) -> Any:
    """The structure, what its class is of the user's own as it can be fitted.

    Parameters
    ----------
    places : (m,) levels or coordinates of rows, or (m, d), some of which are tried;  what : for messages
    distance : a typical one, see `Covariance.start`;  of_some : its matrix is also asked for at some of the places

    Raises
    ------
    DataError
        When its matrix has another shape, is not finite, symmetric or positive semidefinite, or has derivatives that
        are not finite, at its start and at all values around it that were tried.
    """
    if isinstance(structure, Composite):
        if is_shipped(structure):
            return structure
        own = structure.dims(dim), structure.places_of(places), structure._of_columns(distance)
        each = zip(structure.parts, *own, strict=True)
        return structure._with(parts=tuple(tried(part, d, at, what, far, of_some) for part, d, at, far in each))
    if is_shipped(structure) or structure.has_values:
        return structure
    places = np.unique(places, axis=0)
    some = np.append(np.arange(MOST_PLACES - 2), [len(places) // 2, len(places) - 1])
    places = places[np.unique(np.minimum(some, len(places) - 1))]
    far = tuple(np.atleast_1d(distance).tolist())
    with jax.ensure_compile_time_eval(), float64():
        return _tried(structure, dim, (places.tobytes(), places.dtype.str, places.shape), what, far, of_some)


def is_shipped(structure: Any) -> bool:
    """Whether a structure, and everything that it is composed of, is of this package."""
    if isinstance(structure, Composite):
        return all(map(is_shipped, structure.parts))
    return type(structure).__module__.startswith(f"{__package__}.")


@functools.lru_cache(maxsize=256)
def _tried(
    structure: Covariance, dim: Any, given: tuple[Any, ...], what: str, far: tuple[float, ...], of_some: bool
) -> Covariance:  # fmt: skip
    places = np.frombuffer(given[0], given[1]).reshape(given[2])
    name, size = f"{what}: {type(structure).__name__}.matrix", structure.size(dim)
    with _authors(structure, dim, places, name):
        matrix = functools.partial(_matrix, structure, dim)
        s = np.zeros(size)
        form = (
            jax.eval_shape(matrix, places, s)
            if places.dtype.kind == "f"
            else jax.eval_shape(lambda s: matrix(places, s), s)
        )
    if not hasattr(form, "shape"):
        raise DataError(f"{name} must return a matrix of shape {(len(places),) * 2}, found {type(form).__name__}")
    if form.shape != (len(places),) * 2:
        raise DataError(f"{name} must return shape {(len(places),) * 2} for {len(places)} places, found {form.shape}")
    if form.dtype != jnp.float64:
        raise DataError(f"{name} has entries of type {form.dtype}, expected float64; leave out dtype= and astype")
    if not size:
        return structure
    starts = _starts(structure, dim, np.array(far))
    variances = _plain_variances(structure, dim)
    near, twice = np.eye(size, dtype=bool)[list(variances.values())], 2.0 ** structure.degrees(dim)
    everything = derivatives_of(structure.from_solver, dim, places, size <= MOST_COORDINATES)
    here = len(starts) - 1  # a point at which no correlation is zero
    further = starts[0] + NEAR * np.eye(size)[:MOST_COORDINATES]
    points = [*starts, starts[here] * twice, *np.where(near, NEAR, starts[here]), *further]
    with _authors(structure, dim, places, name):
        found = everything(points)  # mostly the only run
    _check_jumps(structure, dim, places, name, found.value[0], found.value[-len(further) :])
    smooth = _is_smooth(found)[: len(starts)]
    smooth[0] &= not is_steep(found.value[0], found.gradient[0], found.value[-len(further) :])
    at = _first_good(structure, dim, places, name, starts, found.value[: len(starts)], smooth)
    if not smooth[here]:
        here = int(np.flatnonzero(smooth)[-1])
        points = [*starts, starts[here] * twice, *np.where(near, NEAR, starts[here]), *further]
        found = everything(points)
    slopes = found.gradient[len(starts) + 1 : len(starts) + 1 + len(near)]
    roots = tuple(n for (n, j), slope in zip(variances.items(), slopes, strict=True) if _has_kink(slope, j))
    own: dict[str, Any] = {"_smooth": roots} if roots else {}
    power = 0.0 if structure.has_fixed_scale else _power(found.value[here], found.value[len(starts)])
    if power not in (0.0, 1.0):
        own["_power"] = power
    without = ~np.diagonal(found.value[: len(starts)], axis1=1, axis2=2).any(0)
    if without.any():
        own["_null"] = str(places[without][0])  # which only a residual beside nothing else cannot have
    if of_some and len(places) > 1:
        middle = len(places) // 2
        some, G = np.delete(places, middle, 0), np.delete(np.delete(found.value[here], middle, 0), middle, 1)
        with _authors(structure, dim, some, name):
            less = np.asarray(_at(some, matrix)(starts[here]))
        if less.shape != G.shape or not np.allclose(less, G, rtol=0, atol=ROUNDING * np.max(np.abs(G))):
            raise DataError(
                f"{name}(levels) at levels {some.tolist()} is not that part of the matrix of all levels, found shape "
                f"{less.shape}; rows miss some of them, so entries may depend on their own two places only"
            )
    if at:
        own["_shift"] = tuple((starts[at] - starts[0]).tolist())
    return structure._with(**own) if own else structure


@contextlib.contextmanager
def _authors(structure: Covariance, dim: Any, places: np.ndarray, name: str) -> Iterator[None]:
    """What the author's `matrix` raises, in words: about JAX, or with what it was called with."""
    try:
        yield
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise DataError(
            f"{name} needs the values of its parameters, or of coordinates, which compiled code does not have; write "
            "jax.numpy for numpy, jnp.where for if, matrix.at[i, j].set for assignment, jnp.asarray(table)[k] for a "
            f"table of NumPy's (JAX: {str(error).splitlines()[0]})"
        ) from None
    except Exception as error:
        first = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        shapes = "".join(f"{p.name} {p.shape(dim)}, " for p in structure.fields)
        index = "; levels.astype(int) are indices" if places.dtype.kind == "f" and "ndex" in first else ""
        given = f"{shapes}levels {places.shape} {places.dtype}{index}"
        raise DataError(f"{name} raised {first}; called with {given}{_hint(structure, dim, places)}") from error


def _hint(structure: Any, dim: Any, places: Any) -> str:
    """What to write in place of functions without derivatives, where a `matrix` that can be traced calls them."""
    try:
        traced = jax.make_jaxpr(functools.partial(_matrix, structure, dim, places))(np.zeros(structure.size(dim)))
    except Exception:  # the one that is told
        return ""
    return "".join(f"; {hint}" for name, hint in WITHOUT.items() if f" {name}[" in str(traced))


def _matrix(structure: Covariance, dim: Any, places: Any, s: Array) -> Array:
    return structure.from_solver(s, dim).matrix(places)


def _starts(structure: Covariance, dim: Any, distance: np.ndarray) -> np.ndarray:
    """The start and others around it (b, k): coordinates that are no scales moved, one by one and then all."""
    start, kinds = structure.start(dim, distance), structure.kinds(dim)
    unit = np.array([0.0 if k.has_scale else 0.5 if isinstance(k, IntervalKind) else 1.0 for k in kinds])
    moved = np.flatnonzero(unit)
    rng = np.random.default_rng(0)
    one = [x * unit * (np.arange(len(unit)) == j) for j in moved[:MOVED] for x in SHIFTS]
    every = [unit * rng.choice(SHIFTS, len(unit)) for _ in range(EVERYWHERE * bool(len(moved)))]
    return start + np.stack([np.zeros(len(unit)), *one, *every])


def _first_good(
    structure: Covariance,
    dim: Any,
    places: np.ndarray,
    name: str,
    starts: np.ndarray,
    G: np.ndarray,
    smooth: np.ndarray,
) -> int:
    """The first start at which the matrix is a covariance and can be differentiated."""
    finite = np.isfinite(G).all((1, 2))
    with np.errstate(invalid="ignore"):
        gap, largest = (abs(x).max((1, 2), initial=0.0) for x in (G - np.swapaxes(G, 1, 2), G))
    if np.any(gap[finite] > MIRRORED * largest[finite]):
        raise DataError(
            f"{name} is not symmetric, entries differ from their mirror images by {np.max(gap[finite]):.3g}"
        )
    lowest = np.full(len(starts), -np.inf)
    lowest[finite] = np.linalg.eigvalsh(G[finite])[:, 0] / np.maximum(largest[finite], 1e-300)
    good = np.flatnonzero(smooth & (lowest >= -ROUNDING))
    rough = finite & ~smooth
    if len(good) and not rough[max(len(starts) - EVERYWHERE, 1) :].any():  # it may be at a point, not in a region
        return int(good[0])

    def at(i: int) -> str:
        values = np.asarray(structure.solver_to_natural(starts[i], dim))
        return ", ".join(f"{n} = {v:.3g}" for n, v in zip(coordinate_names(structure, dim), values, strict=True))

    tries = f"its start ({at(0)}) and at {len(starts) - 1} values around it"
    if not finite.any():
        i, j = np.argwhere(~np.isfinite(G[0]))[0]
        raise DataError(
            f"{name} has values that are NaN or infinite at {tries}; at the start first in entry ({i}, {j}), between "
            f"{places[i]} and {places[j]}"
        )
    if not smooth.any() or len(good):
        i = int(np.argmax(rough))
        raise DataError(
            f"{name} has derivatives that are NaN or infinite, which the fit needs, at {at(i)}: "
            f"{advice(structure, dim, places, starts[i])}"
        )
    i = int(np.argmax(np.where(smooth, lowest, -np.inf)))
    raise DataError(
        f"{name} is not positive semidefinite at {tries}; its smallest eigenvalue, relative to the largest entry, is "
        f"{lowest[i]:.3g} at best, at {at(i)}. Restrict its parameters, such as Annotated[Array, interval(0.0, 2.0)], "
        "or give a start value, range: Positive = 2.0"
    )


def _check_jumps(
    structure: Covariance, dim: Any, places: np.ndarray, name: str, value: np.ndarray, near: np.ndarray
) -> None:  # fmt: skip
    """Refuse a variance (of the diagonal) that is another one next to the start, as ``0 ** x`` at x = 0."""
    with np.errstate(invalid="ignore"):
        jumps = np.abs(np.diagonal(near, axis1=1, axis2=2) - np.diagonal(value))
    if len(found := np.argwhere(jumps > JUMP * np.max(np.abs(value), initial=0.0))):
        j, i = (int(k) for k in found[0])
        raise DataError(
            f"{name} has a variance that jumps in {coordinate_names(structure, dim)[j]} at its start, at entry "
            f"({i}, {i}), of {places[i]}: from {value[i, i]:.3g} to {near[j, i, i]:.3g}, as 0 ** x does at x = 0; move "
            "the origin of the covariate, or start elsewhere, such as x: Real = 1.0"
        )


def _power(once: np.ndarray, twice: np.ndarray) -> float:
    """The power of its variances that a matrix is proportional to, where these are multiplied by four; zero if none."""
    i = int(np.argmax(abs(once)))
    power = np.log(max(twice.flat[i] / once.flat[i], 1.0)) / np.log(4.0)
    return (
        round(power, 6) if np.allclose(twice, 4.0**power * once, rtol=1e-8, atol=ROUNDING * abs(once.flat[i])) else 0.0
    )


def _is_smooth(found: Derivatives) -> np.ndarray:
    return np.array([all(np.isfinite(x).all() for x in each) for each in zip(*found, strict=True)])


def is_steep(value: np.ndarray, gradient: np.ndarray, near: np.ndarray) -> bool:
    """Whether a matrix (m, m) has slopes that are not finite, which those (m, m, k) of powers and roots do not say.

    `near` (j, m, m) are matrices where each of the first j coordinates is moved by `NEAR`.
    """
    with np.errstate(invalid="ignore"):
        left = near - value - NEAR * np.moveaxis(gradient, -1, 0)[: len(near)]
    return bool(np.max(np.abs(left), initial=0.0) > STEEP * np.max(np.abs(value), initial=1e-300))


def _plain_variances(structure: Covariance, dim: Any) -> dict[str, int]:
    """The first coordinate of each variance whose coordinate is a standard deviation."""
    begins = np.cumsum([0, *(p.size(dim) for p in structure.free)])
    each = zip(structure.free, begins.tolist(), strict=False)
    return {p.name: begin for p, begin in each if p.kind == VarianceKind() and p.size(dim)}


def _has_kink(slope: np.ndarray, j: int) -> bool:
    """Whether the matrix takes a root of a variance: next to a standard deviation of zero it still has a slope."""
    return not abs(slope[..., j]).max(initial=0.0) < KINK * max(abs(slope).max(initial=0.0), 1.0)


@functools.lru_cache(maxsize=256)
def _has_scale(structure: Covariance, dim: Any) -> bool:
    levels, degrees = np.arange(dim, dtype=np.int32), structure.degrees(dim)
    start = structure.start(dim)
    points = [start + 0.1 * np.cos(1.0 + i + np.arange(len(start))) for i in range(2)]
    with jax.ensure_compile_time_eval(), float64():
        program = quickly(jax.vmap(lambda s: jnp.asarray(structure.from_solver(s, dim).matrix(levels))))
        once, twice = np.split(np.asarray(program(np.stack([*points, *(s * 2.0**degrees for s in points)]))), 2)
    return bool(np.allclose(twice, 4.0 * once, rtol=1e-8, atol=ROUNDING * np.max(np.abs(once), initial=0.0)))


def is_free_in_scale(structure: Covariance, dim: Any) -> bool:
    """Whether every multiple of its matrix is one of its matrices, its variances multiplied as much.

    Not where one is fixed, nor where the matrix is not proportional to its variances, which is seen by evaluating it.
    """
    if structure.has_fixed_scale:
        return False
    return is_shipped(structure) or _has_scale(structure, dim)
