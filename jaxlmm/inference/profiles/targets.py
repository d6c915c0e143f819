"""What is profiled: coefficients, standard deviations and correlations, parameters of structures, any function.

Every target is a function psi of the joint coordinates (`joint`) and how its values are shown. Wherever possible psi
is one of the coordinates, in a chart made for it: then the end of the parameter space is an ordinary point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import sin
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import shown
from ...covariance.kinds import IntervalKind, PositiveKind, VarianceKind
from ...errors import DataError
from ...estimates.fitted import FitBase
from ...estimates.varcorr import entry_of, natural_parameters
from ...runtime.devices import platform
from ...runtime.programs import QUICKLY
from ..uncertain import Parameters
from .constrained import Function, Level
from .joint import Chart, Joint

HALF_PI = 0.5 * np.pi


@dataclass(frozen=True)
class ProfileTarget:
    """One quantity to be profiled.

    Attributes
    ----------
    name : as tables show it;  criterion : "REML" or "ML";  group : "coef", "covariance" or "function"
    chart, z : coordinates and the estimate in them
    function : psi with derivatives;  shown : what users see of psi, ascending
    scale : "log" (psi closed at zero), "sine" (psi in [-pi/2, pi/2]) or "line"; on the log, the inverse hyperbolic
        tangent of the sine or the line, Wald intervals are symmetric
    limits : what is reported where a profile is flat up to the end of the parameter space
    place : part, row and column of a covariance matrix, or (m,) among ``fit.parameters()``; of others ()
    needs : standard deviations that a correlation needs not to be zero; without one, every value of it is as good
    """

    name: str
    criterion: str
    group: str
    chart: Chart
    z: np.ndarray
    function: Function
    shown: Callable[[float], float]
    scale: str
    limits: tuple[float, float]
    place: tuple[int, ...]
    needs: tuple[ProfileTarget, ...] = ()

    @property
    def bounds(self) -> tuple[float, float]:
        """The ends of the parameter space in psi."""
        return {"log": (0.0, np.inf), "sine": (-HALF_PI, HALF_PI), "line": (-np.inf, np.inf)}[self.scale]


def linear(a: np.ndarray, constant: float = 0.0) -> Function:
    """A linear function of the coordinates."""
    zero = np.zeros((len(a), len(a)))
    return lambda z: Level(float(a @ z + constant), a, zero)


def angle(i: int, j: int) -> Function:
    """The angle whose tangent is the ratio of two coordinates: the arcsine of a correlation."""

    def function(z: np.ndarray) -> Level:
        x, y = z[i], z[j]
        square = x * x + y * y
        gradient, hessian = np.zeros(len(z)), np.zeros((len(z), len(z)))
        with np.errstate(all="ignore"):
            gradient[[i, j]] = np.array([y, -x]) / square
            across = (x * x - y * y) / square**2
            twice = 2.0 * x * y / square**2
        hessian[[i, i, j, j], [i, j, i, j]] = -twice, across, across, twice
        return Level(float(np.arctan2(x, y)), gradient, hessian)

    return function


def smooth(f: Callable[..., Array], places: slice = slice(None), *args: Any) -> Function:
    """A function of the coordinates at `places` (and of `args`) with its derivatives, given as `expanded` has them."""

    def function(z: np.ndarray) -> Level:
        value, gradient, hessian = map(np.asarray, f(z[places], *args))
        whole, across = np.zeros(len(z)), np.zeros((len(z), len(z)))
        whole[places], across[places, places] = gradient, hessian
        return Level(float(value), whole, across)

    return function


def expanded(f: Callable[..., Array]) -> Callable[..., Any]:
    """Value, gradient and Hessian of a function in its first argument, compiled together and with little effort."""

    def every(z: Array, *args: Any) -> tuple[Array, Array, Array]:
        def with_gradient(z: Array) -> tuple[Array, tuple[Array, Array]]:
            value, gradient = jax.value_and_grad(f)(z, *args)
            return gradient, (value, gradient)

        hessian, (value, gradient) = jax.jacfwd(with_gradient, has_aux=True)(z)
        return value, gradient, hessian

    return jax.jit(every, compiler_options=QUICKLY if platform() == "cpu" else None)


def _unit_vector(size: int, i: int, value: float = 1.0) -> np.ndarray:
    out = np.zeros(size)
    out[i] = value
    return out


class ShownEffects(NamedTuple):
    """A part whose standard deviations and correlations are shown: labels of its effects, its place in the model."""

    label: str
    columns: tuple[str, ...]
    part: int


Which = str | Sequence[str] | Callable[..., Any] | Mapping[str, Callable[..., Any]] | None


def request(which: Which) -> Mapping[str, Callable[..., Any]] | list[str] | None:
    """Functions by name, or names of quantities, None standing for all."""
    if callable(which):
        return {getattr(which, "__name__", "value").replace("<lambda>", "value"): which}
    if which is None or (isinstance(which, Mapping) and all(map(callable, which.values()))):
        return which
    if isinstance(which, str):
        return [which]
    several = isinstance(which, Iterable) and not isinstance(which, Mapping)
    if not (several and all(isinstance(name, str) for name in which)):
        raise DataError(f"which: found {shown(which)}, expected names, a function, or functions by their names")
    return list(which)


def select(joint: Joint, fit: FitBase, wanted: list[str] | None) -> tuple[list[str], list[ProfileTarget]]:
    """The coefficients and the covariance parameters among the `wanted`: names, "coef" and "covariance" for all."""
    named = set(wanted or ("coef", "covariance"))
    coefs = [name for name in fit.coef_names if name in named or "coef" in named]
    rest = named - {"coef", *coefs}
    found = list(covariances(joint, fit, fit.method)) if rest else []
    if wanted is not None and "covariance" in rest and not found:
        raise DataError("which: found 'covariance', but all covariance parameters are known; expected 'coef'")
    unknown = rest - {"covariance", *(target.name for target in found)}
    if unknown or wanted == []:
        names = ", ".join([*fit.coef_names, *(target.name for target in found)])
        text = repr(sorted(unknown)[0]) if unknown else "no name"
        raise DataError(f"which: found {text}, expected 'coef', 'covariance', a function, or some of {names}")
    return coefs, [target for target in found if target.name in rest or "covariance" in rest]


def coefficients(joint: Joint, names: Sequence[str], wanted: Sequence[str]) -> Iterator[ProfileTarget]:
    """Coefficients, by the ML criterion whatever the fit has used (as lme4 does: REML has none for them)."""
    chart, z = joint.chart(joint.state("ML"))
    root = np.linalg.inv(joint.prepared.basis.R)
    for j, name in enumerate(names):
        if name in wanted:
            a = np.concatenate([np.zeros(joint.k), joint.sd * root[j]])
            function = linear(a, float(root[j] @ joint.prepared.basis.c))
            yield ProfileTarget(name, "ML", "coef", chart, z, function, float, "line", (-np.inf, np.inf), ())


def covariances(joint: Joint, fit: FitBase, criterion: str) -> Iterator[ProfileTarget]:
    """Standard deviations and correlations of free covariance matrices, parameters of other structures, sigma."""
    natural = natural_parameters(fit.frame, fit.model, fit.estimate)
    own: tuple[Any, ...] = (*fit.frame.parts, fit.frame.residual)
    for t, (named, found) in enumerate(zip(own, natural, strict=True)):
        residual = t == len(natural) - 1
        label = "Residual" if residual else named.group_label
        if residual and joint.spec.independent and len(found.names) == 1:
            yield from _sigma(joint, criterion)
        elif joint.units[t] is not None:
            yield from _matrix(joint, ShownEffects(label, named.columns, t), criterion)
        else:
            names = [f"{name}|{label}" for name in found.names]
            yield from _parameters(joint, t, criterion, names, found.places.start)


def _matrix(joint: Joint, effects: ShownEffects, criterion: str) -> Iterator[ProfileTarget]:
    """Standard deviations and correlations of a free covariance matrix, in lme4's order."""
    state, t = joint.state(criterion), effects.part
    begin, q = joint.offsets[t], len(effects.columns)
    sds = {}
    for i, name in ((i, name) for i, j, name in _names(effects) if i == j):
        chart, z = joint.chart(state, t, (i,))
        function = linear(_unit_vector(len(z), begin, joint.units[t][i]))
        sds[i] = ProfileTarget(
            name, criterion, "covariance", chart, z, function, float, "log", (0.0, np.inf), (t, i, i)
        )
    for i, j, name in _names(effects):
        if i == j:
            yield sds[i]
        else:
            chart, z = joint.chart(state, t, (j, i))
            function, ends, needs = angle(begin + 1, begin + q), (-1.0, 1.0), (sds[i], sds[j])
            yield ProfileTarget(name, criterion, "covariance", chart, z, function, sin, "sine", ends, (t, i, j), needs)


def _names(effects: ShownEffects) -> Iterator[tuple[int, int, str]]:
    columns, label = effects.columns, effects.label
    for i, column in enumerate(columns):
        yield i, i, f"sd_{column}|{label}"
        yield from ((i, j, f"cor_{column}.{columns[j]}|{label}") for j in range(i))


def _place(joint: Joint, t: int) -> slice:
    structure, dim = joint.spec.parts[t]
    return slice(int(joint.offsets[t]), int(joint.offsets[t]) + structure.size(dim))


@cache
def _entry(structure: Any, dim: Any) -> Callable[..., Any]:
    """Shown parameter m of a structure at scaled coordinates, with derivatives."""

    def entry(s: Array, scale: Array, m: Array) -> Array:
        return jnp.stack([jnp.asarray(value) for _, value in structure.from_solver(s * scale, dim).named(dim)])[m]

    return expanded(entry)


def _sigma(joint: Joint, criterion: str) -> Iterator[ProfileTarget]:
    """The standard deviation of independent residuals, the last coordinate of the parts."""
    chart, z = joint.chart(joint.state(criterion))
    function = linear(_unit_vector(len(z), joint.k - 1, joint.scale[-1]))
    part = len(joint.spec.parts) - 1
    yield ProfileTarget("sigma", criterion, "covariance", chart, z, function, float, "log", (0.0, np.inf), (part, 0, 0))


def _parameters(joint: Joint, t: int, criterion: str, names: list[str], first: int) -> Iterator[ProfileTarget]:
    """Shown parameters of a structure, which often are functions of one coordinate each."""
    chart, z = joint.chart(joint.state(criterion))
    structure, dim = joint.spec.parts[t]
    place = _place(joint, t)
    scale, entry, kinds = joint.scale[place], _entry(structure, dim), structure.kinds(dim)
    generic = np.linspace(0.61, 0.83, len(kinds))  # no entry depends on another coordinate by accident
    for m, name in enumerate(names):
        depends = np.flatnonzero(np.asarray(entry(generic, scale, m)[1]))
        kind = kinds[depends[0]] if len(depends) == 1 else None
        if not isinstance(kind, VarianceKind | IntervalKind | PositiveKind):
            is_variance = entry_of(name.rpartition("|")[0]) == "variance"
            limits, function = (0.0, np.inf) if is_variance else (np.nan, np.nan), smooth(entry, place, scale, m)
            yield ProfileTarget(name, criterion, "covariance", chart, z, function, float, "line", limits, (first + m,))
            continue
        i = int(depends[0])

        def shown(psi: float, m: int = m, i: int = i) -> float:
            s = np.array(z[place])
            s[i] = psi
            return float(entry(s, scale, m)[0])

        form = {VarianceKind: "log", IntervalKind: "sine", PositiveKind: "line"}[type(kind)]
        limits = (shown(-HALF_PI), shown(HALF_PI)) if form == "sine" else (0.0, np.inf)
        function = linear(_unit_vector(len(z), place.start + i))
        yield ProfileTarget(name, criterion, "covariance", chart, z, function, shown, form, limits, (first + m,))


def function_target(joint: Joint, name: str, f: Callable[[Parameters], Any], criterion: str) -> ProfileTarget:
    """A function of the user's, by the criterion of the fit."""
    chart, z = joint.chart(joint.state(criterion))

    def of_coordinates(z: Array) -> Array:
        value = jnp.asarray(f(joint.parameters(z)), float)
        if value.size != 1:
            raise DataError(f"which: {name} returned an array of shape {value.shape}, expected a number")
        return value.reshape(())

    function = smooth(expanded(of_coordinates))
    return ProfileTarget(name, criterion, "function", chart, z, function, float, "line", (np.nan, np.nan), ())
