"""A model of plain arrays as a formula and columns, so that all that a fit of a formula has is there for it too."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..covariance import Unstructured
from ..errors import DataError
from ..likelihood.model import Model
from ..likelihood.parts import Field, Term
from ..pytrees import is_traced

NO_FORMULA = "lmm(model): {} cannot be written as a formula; jaxlmm.fit(model) and jaxlmm.pure do without one"


def of_arrays(model: Model, given: dict[str, Any]) -> tuple[Any, ...]:
    """Formula, data, weights, offset, residual, relationship, structures and engine for `jaxlmm.lmm` of a model.

    Columns are y, x0, x1, ... of X, and of random part t its groups ``g{t}`` (those of the first part with the same),
    ``z{t}_0``, ... of Z or coordinates ``c{t}_0``, ...; of a structured residual ``id``, and ``level`` or ``t0``, ...

    Raises
    ------
    DataError
        For traced arrays, for random functions over levels, and for other arguments that are `given` beside it.
    """
    for name, value in given.items():
        if value is not None:
            raise DataError(f"{name}: a Model has its own, expected lmm(model, method=..., start=...)")
    if is_traced(model):
        raise DataError("lmm(model): expected concrete arrays, found traced ones; jaxlmm.fit(model) takes them")
    data: dict[str, np.ndarray] = {"y": np.asarray(model.y)}
    structures: dict[str, Any] = {}
    related: dict[str, Any] = {}

    def columns(prefix: str, values: Any) -> str:
        values = np.asarray(values).reshape(len(model.y), -1)
        data.update((f"{prefix}{j}", column) for j, column in enumerate(values.T))
        return " + ".join(f"{prefix}{j}" for j in range(values.shape[1]))

    def groups(t: int, part: Term | Field, known: dict[str, Any]) -> str:
        A = getattr(part, "relationship", None)
        for name, other in known.items():
            if np.array_equal(data[name], part.group) and A is other:
                return name
        known[f"g{t}"], data[f"g{t}"] = A, np.asarray(part.group)
        if A is not None:
            related[f"g{t}"] = (np.asarray(A), list(range(len(A))))
        return f"g{t}"

    terms, known = ["0", *([columns("x", model.X)] if model.X.shape[1] else [])], dict[str, Any]()
    for t, part in enumerate(model.random):
        name = "" if isinstance(part.structure, Unstructured) and isinstance(part, Term) else f"s{t}"
        if name:
            structures[name] = part.structure
        if isinstance(part, Term):
            terms.append(f"{name}(0 + {columns(f'z{t}_', part.Z)} | {groups(t, part, known)})")
        elif part.coords is None:
            raise DataError(NO_FORMULA.format(f"{part.name}, a random function over levels,"))
        else:
            bar = f" | {groups(t, part, known)}" if np.ptp(part.group) else ""
            terms.append(f"{name}({columns(f'c{t}_', part.row_coords)}{bar})")
    weights, offset = (None if a is None else np.asarray(a) for a in (model.weights, model.offset))
    residual = _residual(model, data, columns)
    text = f"y ~ {' + '.join(terms)}"
    return text, data, weights, offset, residual, related or None, structures or None, model.evaluator


def _residual(model: Model, data: dict[str, np.ndarray], columns: Any) -> Any:
    """The argument `residual`, and its columns."""
    part = model.residual
    if part.is_iid:
        return None if model.random else "iid()"
    if part.group is None:
        raise DataError(NO_FORMULA.format(f"a residual {type(part.structure).__name__}() without subjects"))
    data["id"] = np.asarray(part.group)
    if part.coords is not None:
        return part.structure.over(f"{columns('t', part.row_coords)}{' | id' if np.ptp(part.group) else ''}")
    names = np.array([f"level {i:07d}" for i in range(part.dim)])  # words, as numbers would be distances
    data["level"] = names[part.position]
    seen = np.unique(part.position)
    return part.structure.over("level | id", levels=() if len(seen) == part.dim else tuple(names.tolist()))


def check_same(made: Model, model: Model) -> None:
    """Refuse a model whose formula means another one."""
    for own, other in zip((*made.random, made.residual), (*model.random, model.residual), strict=True):
        if own.structure != other.structure or own.dim != other.dim:
            raise DataError(NO_FORMULA.format(f"{other.name} with {type(other.structure).__name__}"))
