"""How means of a transformed response are read on its own scale: back-transformed, and differences as ratios."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...errors import DataError
from ...formula import expressions
from ...formula.syntax import Formula
from ...runtime.precision import float64

Function = Callable[[Any], Any]
_HALF_PI = float(np.pi / 2)
_INVERSE: dict[str, Function] = {
    "log": jnp.exp, "log2": jnp.exp2, "log10": lambda x: 10.0**x, "log1p": jnp.expm1, "logit": jax.lax.logistic,
    "exp": lambda x: jnp.log(jnp.maximum(x, 0.0)), "exp2": lambda x: jnp.log2(jnp.maximum(x, 0.0)),
    "expm1": lambda x: jnp.log1p(jnp.maximum(x, -1.0)), "sqrt": lambda x: jnp.maximum(x, 0.0) ** 2,
    "cbrt": lambda x: x**3, "sinh": jnp.arcsinh, "arcsinh": jnp.sinh, "arctanh": jnp.tanh,
    "tanh": lambda x: jnp.arctanh(jnp.clip(x, -1.0, 1.0)),
    "arcsin": lambda x: jnp.sin(jnp.clip(x, -_HALF_PI, _HALF_PI)),
    "arctan": lambda x: jnp.tan(jnp.clip(x, -_HALF_PI, _HALF_PI)),
}  # fmt: skip
"""Of the functions of formulas; values that a function cannot have are the nearest that it can, so that limits stay."""

_LN: dict[str, float] = {
    "log": 1.0,
    "log2": float(np.log(2.0)),
    "log10": float(np.log(10.0)),
    "log1p": 1.0,
    "logit": 1.0,
}


@dataclass(frozen=True, eq=False)
class Scale:
    """A monotone function from the scale of the model to that of what is shown.

    Attributes
    ----------
    header : of the column of estimates;  note : for under the table
    back : from the scale of the model, a JAX function of a number;  forward : to it, of a number; None if unknown
    null : what zero on the scale of the model is here, where that is what estimates are tested against
    differences : the scale of differences; None where that is the model's
    again : differences of these are on this scale too
    of : the column whose scale this is
    """

    header: str
    note: str
    back: Function
    forward: Callable[[float], float] | None
    null: str = "0"
    differences: Scale | None = None
    again: bool = False
    of: str = ""

    def __call__(self, eta: Any, order: int = 0) -> np.ndarray:
        """Values on this scale, or their derivatives of an order, of an array of any shape."""
        function = self.back
        for _ in range(order):
            function = jax.grad(function)
        eta = np.asarray(eta, np.float64)
        with float64():
            return np.asarray(jax.vmap(function)(jnp.asarray(eta.reshape(-1)))).reshape(eta.shape)

    def of_table(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns with estimates, limits and, by the delta method, standard errors on this scale."""
        eta = columns["estimate"]
        at, slope = self(eta), self(eta, order=1)
        way = np.sign(slope)
        ends = [self(columns[end]) for end in ("lower", "upper")]
        # limits on the other side of a pole, as of 1 / y where the limit of the mean is negative, are infinite
        ends = [
            np.where(sign * way * (end - at) < 0, sign * way * np.inf, end)
            for sign, end in zip((-1, 1), ends, strict=True)
        ]
        lower, upper = np.minimum(*ends), np.maximum(*ends)
        return {
            **columns,
            "estimate": at,
            "std_error": np.abs(slope) * columns["std_error"],
            "lower": lower,
            "upper": upper,
        }

    def corrected(self, sd: float) -> Scale:
        """Means of the response rather than of its transform, ``g(eta) + sd^2 g''(eta) / 2`` (R's emmeans)."""
        back, second = self.back, jax.grad(jax.grad(self.back))
        note = f"{self.note}, bias-adjusted with SD {sd:.4g}"
        return dataclasses.replace(
            self, note=note, back=lambda eta: back(eta) + 0.5 * sd**2 * second(eta), forward=None
        )  # fmt: skip

    def of_model(self, what: str, value: float) -> float:
        """The value on the scale of the model.

        Raises
        ------
        DataError
            For values that this scale does not have.
        """
        if self.forward is None:
            raise DataError(f"{what}: means that are bias-adjusted have no such tests; use bias_adjust=False")
        with np.errstate(all="ignore"):
            found = float(self.forward(value))
        if not np.isfinite(found):
            raise DataError(f"{what}: found {value}, which estimates on this scale ({self.note}) cannot be")
        return found


class _Step(NamedTuple):
    """The outermost function of an expression: its inverse, its name if it has one, and what is within it."""

    inverse: Function
    inside: ast.expr
    name: str = ""
    is_linear: bool = False


def response_scale(formula: Formula) -> Scale | None:
    """The scale of the response that a formula transforms; None where it is a column as it stands.

    Raises
    ------
    DataError
        For a response of several columns, and functions that have no inverse.
    """
    node: ast.expr = ast.parse(formula.response, mode="eval").body
    if isinstance(node, ast.Name):
        return None
    text, names = formula.readable(formula.response), expressions.variables(formula.response)
    of = formula.column(names[0])
    steps: list[_Step] = []
    differences, factor, is_linear = None, 1.0, True
    while not isinstance(node, ast.Name):
        step = _step(node, text)
        if is_linear and not step.is_linear and step.name in _LN:
            inner = f"{of} + 1" if step.name == "log1p" else formula.readable(ast.unparse(step.inside))
            what = "Odds ratio" if step.name == "logit" else "Ratio"
            per = factor * _LN[step.name]
            note = f"{what.lower()}s of {inner}, from {text}"
            differences = Scale(what, note, partial(_exp, per), partial(_log, per), "1", again=True)
        factor *= float(step.inverse(1.0) - step.inverse(0.0)) if step.is_linear else 1.0
        is_linear &= step.is_linear
        steps.append(step)
        node = step.inside
    if is_linear:
        note = f"differences of {of}, from {text}"
        differences = Scale("Difference", note, lambda d: factor * d, lambda d: d / factor, again=True)

    def inverse(eta: Any) -> Any:
        for step in steps:
            eta = step.inverse(eta)
        return eta

    def forward(value: float) -> float:
        return float(expressions.evaluate(formula.response, {names[0]: np.array(value, np.float64)}))

    return Scale("Response", f"back-transformed from {text} to {of}", inverse, forward, differences=differences, of=of)


def _exp(factor: float, x: Any) -> Any:
    return jnp.exp(factor * x)


def _log(factor: float, ratio: float) -> float:
    return float(np.log(ratio) / factor)


def _step(node: ast.expr, text: str) -> _Step:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        inside, name = node.args[0], node.func.id
        if name == "I":
            return _Step(lambda x: x, inside, is_linear=True)
        odds = inside.left if name == "log" and isinstance(inside, ast.BinOp) else None
        if odds is not None and ast.unparse(inside) == f"{ast.unparse(odds)} / (1 - {ast.unparse(odds)})":
            return _Step(_INVERSE["logit"], odds, "logit")
        if name in _INVERSE:
            return _Step(_INVERSE[name], inside, name)
    elif isinstance(node, ast.UnaryOp):
        sign = -1.0 if isinstance(node.op, ast.USub) else 1.0
        return _Step(lambda x: sign * x, node.operand, is_linear=True)
    elif isinstance(node, ast.BinOp):
        before, behind = _number(node.left), _number(node.right)
        inverse = _inverse_of(type(node.op), before, behind)
        if inverse is not None:
            is_linear = not isinstance(node.op, ast.Pow) and (behind is not None or not isinstance(node.op, ast.Div))
            return _Step(inverse, node.right if behind is None else node.left, is_linear=is_linear)
    raise DataError(f"type: {text} is no function of one column with a known inverse; use type='link'")


def _inverse_of(operation: type[ast.operator], before: float | None, behind: float | None) -> Function | None:
    """The inverse of arithmetic with a number, which stands before or behind what is within."""
    c = behind if before is None else before
    if c is None or before is not None and behind is not None:
        return None
    if operation is ast.Add:
        return lambda x: x - c
    if operation is ast.Sub:
        return (lambda x: x + c) if before is None else (lambda x: c - x)
    if operation is ast.Mult and c:
        return lambda x: x / c
    if operation is ast.Div and c:
        return (lambda x: x * c) if before is None else (lambda x: c / x)
    if operation is ast.Pow and before is None and c:
        if c % 2 == 1:
            return lambda x: jnp.sign(x) * jnp.abs(x) ** (1.0 / c)
        return lambda x: jnp.maximum(x, 0.0) ** (1.0 / c)
    if operation is ast.Pow and before is not None and c > 0 and c != 1:
        return lambda x: jnp.log(jnp.maximum(x, 0.0)) / np.log(c)
    return None


def _number(node: ast.expr) -> float | None:
    """The value of an expression without columns."""
    text = ast.unparse(node)
    known = set(expressions.variables(text)) <= set(expressions.CONSTANTS)
    return float(expressions.evaluate(text, {})) if known else None
