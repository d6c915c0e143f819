"""Constrained minima: the smallest value of a criterion where a function of the parameters has a given value.

A profile is traced along its minima: each is predicted from the one before by the differential equation of Chen &
Jennrich (1996, JCGS 5:169) and corrected by Newton steps on the level set. An end point is the root of the signed
root deviance, found by Newton's method too (after Venzon & Moolgavkar 1988, Appl. Stat. 37:87), with a bracket around
it; where the parameter space ends before the root, the end of the space is the end point. Problems are stepped one by
one from the host, so that all of them share one small compiled function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...fitting.newton import CURVATURE, NOISE, STATIONARY, Point, newton_step

DECREMENT = 1e-10  # of the criterion, below which a constrained minimum is found
MAX_STEPS = 60
RESTORATIONS = 30
CLOSE = 1e-7  # error of the signed root deviance of an end point
FAR = 1e4  # times the distance that a quadratic criterion would have; beyond, the profile is flat


class Level(NamedTuple):
    """A function of the coordinates with its derivatives."""

    value: float
    gradient: np.ndarray
    hessian: np.ndarray


Function = Callable[[np.ndarray], Level]
Evaluate = Callable[[np.ndarray], Point]


@dataclass(frozen=True)
class CurvePoint:
    """A point of a profile.

    Attributes
    ----------
    psi : value of the function;  z : coordinates;  tangent : dz / dpsi
    value : the criterion;  zeta : root of its rise above the minimum, not negative;  slope : d zeta / d psi
    """

    psi: float
    z: np.ndarray
    tangent: np.ndarray
    value: float
    zeta: float
    slope: float


def restored(function: Function, psi: float, z: np.ndarray) -> np.ndarray | None:
    """The point of the level set near z, by Gauss-Newton steps; None where there is none."""
    for _ in range(RESTORATIONS):
        at = function(z)
        square = at.gradient @ at.gradient
        if not np.isfinite(at.value) or not square > 0:
            return None
        gap = psi - at.value
        if abs(gap) <= 1e-11 * np.sqrt(square):
            return z
        z = z + at.gradient * (gap / square)
    return None


def _tangent_space(gradient: np.ndarray) -> np.ndarray:
    """Orthonormal directions (m, m-1) along a level set."""
    return np.linalg.qr(gradient[:, None], mode="complete")[0][:, 1:]


def node(point: Point, at: Level, lowest: float) -> CurvePoint:
    """What is known of the profile at a constrained minimum."""
    a, square = at.gradient, at.gradient @ at.gradient
    multiplier = a @ point.gradient / square
    W = point.hessian - multiplier * at.hessian
    Q, normal = _tangent_space(a), a / square
    w, U = np.linalg.eigh(Q.T @ W @ Q)
    floor = 1e-10 * np.max(np.abs(w), initial=0.0) + 1e-300
    along = U @ ((U.T @ (Q.T @ (W @ normal))) / np.maximum(np.abs(w), floor))
    tangent = normal - Q @ along
    zeta = np.sqrt(max(point.value - lowest, 0.0))
    curvature = np.sqrt(max(0.5 * tangent @ W @ tangent, 0.0))
    slope = abs(multiplier) / (2.0 * zeta) if zeta > CLOSE else curvature
    return CurvePoint(at.value, point.x, tangent, float(point.value), float(zeta), float(slope))


def minimum_on(evaluate: Evaluate, function: Function, psi: float, z: np.ndarray, lowest: float) -> CurvePoint | None:
    """The minimum of the criterion over the level set ``function(z) == psi``; None where there is none.

    Newton's method along the level set: saddle-free steps of the Lagrangian's Hessian in the tangent space, within a
    trust radius, each followed by a return to the set.
    """
    start = restored(function, psi, z)
    if start is None:
        return None
    point, before = evaluate(start), np.inf
    radius: Any = 1.0
    if not np.isfinite(point.value):
        return None
    for _ in range(MAX_STEPS):
        at = function(point.x)
        multiplier = at.gradient @ point.gradient / (at.gradient @ at.gradient)
        Q = _tangent_space(at.gradient)
        W = Q.T @ (point.hessian - multiplier * at.hessian) @ Q
        move, predicted, decrement, curvature = newton_step(Q.T @ point.gradient, W, radius, np)
        stuck = decrement < STATIONARY and decrement > 0.5 * before
        if (decrement < DECREMENT or stuck) and curvature >= -CURVATURE:
            return node(point, at, lowest)
        trial = restored(function, psi, point.x + Q @ move)
        new = point if trial is None else evaluate(trial)
        gain = point.value - new.value if trial is not None and np.isfinite(new.value) else -np.inf
        noise = NOISE * max(1.0, abs(float(point.value)))
        length = float(np.linalg.norm(move))
        accepted = gain >= -noise
        if not accepted or noise < gain < 0.25 * predicted:
            radius = 0.25 * np.minimum(radius, length)
        elif gain > 0.75 * predicted and length > 0.9 * radius:
            radius = 2.0 * radius
        if accepted:
            before, point = decrement, new
        if radius < 1e-9:
            return None
    return None


@dataclass(frozen=True)
class Branch:
    """One side of a profile: nodes away from the estimate, and how it ended: "", "bound", "extreme" or "open"."""

    nodes: tuple[CurvePoint, ...]
    end: str


def center_of(point: Point, at: Level) -> CurvePoint:
    """The node at the estimate; where the function is stationary there, its tangent and slope are zero."""
    if np.linalg.norm(at.gradient) <= STATIONARY * np.linalg.norm(at.hessian):
        return CurvePoint(at.value, point.x, np.zeros_like(point.x), float(point.value), 0.0, 0.0)
    return node(point, at, float(point.value))


def _departure(evaluate: Evaluate, function: Function, center: CurvePoint, side: int, zeta: float) -> CurvePoint | None:
    """A node near an estimate at which the function is stationary (on the boundary): along its largest curvature."""
    w, U = np.linalg.eigh(side * function(center.z).hessian)
    if not w[-1] > 0:
        return None
    q = U[:, -1]
    rise = max(0.5 * q @ evaluate(center.z).hessian @ q, 1e-2)
    z = center.z + (0.3 * min(zeta, 1.0) / np.sqrt(rise)) * q
    return minimum_on(evaluate, function, function(z).value, z, center.value)


def follow(
    evaluate: Evaluate, function: Function, center: CurvePoint, side: int, goals: np.ndarray, bound: float
) -> Branch:  # fmt: skip
    """Nodes whose zeta are the `goals`, ascending, on one `side` (-1 or 1) of the center, as far as there are any.

    The `bound` is the end of the parameter space, which may be infinite. A branch ends there ("bound"), at the
    largest or smallest value that the function can have ("extreme"), or nowhere ("open": the profile stays below).
    """
    nodes = [center]
    if not np.any(center.tangent) and side * (bound - center.psi) > 0:
        first = _departure(evaluate, function, center, side, float(goals[0]))
        if first is None:
            return Branch(tuple(nodes), "extreme")
        nodes.append(first)
    for goal in goals:
        found, end = _reach(evaluate, function, center, nodes[-1], side, float(goal), bound)
        if found is not nodes[-1]:
            nodes.append(found)
        if end:
            return Branch(tuple(nodes), end)
    return Branch(tuple(nodes), "")


def _reach(
    evaluate: Evaluate, function: Function, center: CurvePoint, low: CurvePoint, side: int, goal: float, bound: float
) -> tuple[CurvePoint, str]:  # fmt: skip
    """The node with zeta equal to `goal`, and how the branch ends if that is not reached."""
    if side * (bound - low.psi) <= 0:
        return low, "bound"
    lowest = center.value - center.zeta**2
    typical = center.slope if center.slope > 0 else low.slope
    unit = max(goal, CLOSE) / typical if typical > 0 else max(abs(center.psi), 1.0)
    high, near, far = np.inf, low, FAR * unit  # distances from `low`, along `side`
    step = _newton(low, goal, unit)
    for _ in range(MAX_STEPS):
        room = side * (bound - low.psi)
        step = min(step, room)
        if high < np.inf and not 0.01 * high < step < 0.99 * high:
            step = 0.5 * high
        psi = bound if step == room else low.psi + side * step
        found = minimum_on(evaluate, function, psi, near.z + near.tangent * (psi - near.psi), lowest)
        if found is None:
            high, near = step, low
            if high < 1e-7 * unit:
                return low, "extreme"
            step = 0.5 * high
            continue
        near = found
        if abs(found.zeta - goal) < CLOSE:
            return found, ""
        if found.zeta > goal:
            high = step
            if high < 1e-13 * max(abs(low.psi), unit):
                return found, ""
            step = step + (goal - found.zeta) / found.slope if found.slope > 0 else 0.5 * high
            continue
        if psi == bound:
            return found, "bound"
        if side * (found.psi - center.psi) > far:
            return found, "open"
        high, low = high - step, found
        step = min(_newton(low, goal, 2.0 * step), 3.0 * side * (low.psi - center.psi))
    return low, "open"


def _newton(at: CurvePoint, goal: float, otherwise: float) -> float:
    """Distance to where zeta is `goal` by its slope."""
    return (goal - at.zeta) / at.slope if at.slope > 0 else otherwise
