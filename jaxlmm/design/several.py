"""Responses that are made before the model: several as the rows of one, ``cbind(y1, y2) ~ x``, and ``scale(y)``.

Of several every term is within traits, ``trait + trait:x``, random effects of a group are those of all traits together,
``ar1(time | id)`` is ``(us(trait) @ ar1(time) | id)``, and residuals of a row are correlated: what one writes by
hand in lme4 and SAS.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import numpy as np

from ..errors import DataError, FormulaError
from ..formula import expressions
from ..formula.parser import parse
from ..formula.syntax import Bar, Composed, Part, Side
from ..formula.tokens import Reader
from ..formula.update import Written
from ..frames.columns import OpenTable, extend_rows, open_table

TRAIT, VALUE, ROW = "trait", "value", "row"  # columns of the stacked data
RESIDUAL = f"us({TRAIT} | {ROW})"
PLAIN = (None, "us", "diag")  # structures over the columns left of a bar, whatever these are


def responses_of(formula: Any) -> list[str]:
    """The responses in ``cbind(...)``; none where a formula has a single one."""
    if not isinstance(formula, str) or not formula.lstrip().startswith("cbind"):
        return []
    written = Written(formula).parts()[0]
    inside = written.strip().removeprefix("cbind").strip()
    if not (inside.startswith("(") and inside.endswith(")")):
        return []
    inside = inside[1:-1]
    found, depth, start = [], 0, 0
    for token in Reader(inside).tokens:
        if depth == 0 and (token.text == "," or token.kind == "end"):
            found.append(inside[start : token.position].strip())
            start = token.position + 1
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.text, 0)
    return found


def standardised(formula: Any, data: Any) -> Any:
    """``scale(y) ~ x`` with mean and SD of all y that there are in numbers, ``(y - 298.5) / 56.3 ~ x``; else as it is.

    As arithmetic it is the same in new data, and has an inverse.
    """
    found = re.match(r"\s*(scale|center)\s*\((.*)\)\s*~(.*)", formula, re.DOTALL) if isinstance(formula, str) else None
    if found is None:
        return formula
    what, inside, right = found.groups()
    parsed = parse(f"{inside} ~ 1", columns=open_table(data).names)
    y = _values(parsed.response, open_table(data), dict(parsed.aliases))
    y = y[np.isfinite(y)]
    mean, sd = (float(np.mean(y)), float(np.std(y, ddof=1))) if len(y) > 1 else (0.0, 0.0)
    if not sd > 0:
        raise DataError(f"response: {what}({inside.strip()}) does not vary")
    centred = f"({inside.strip()} {'-' if mean >= 0 else '+'} {abs(mean)!r})"
    return f"{centred if what == 'center' else f'{centred} / {sd!r}'} ~{right}"


def stacked(
    formula: str, responses: list[str], data: Any, known: Collection[str], elsewhere: Collection[str]
) -> tuple[str, Any, int]:
    """The formula of the stacked rows, their data, and how many rows each row has become.

    Parameters
    ----------
    responses : from `responses_of`
    known, elsewhere : names of structures, and columns of other arguments, see `parse`

    Raises
    ------
    FormulaError, DataError
        For fewer than two responses, for terms that have no form for several responses, and columns of the data with
        the names `trait`, `value` and `row`.
    """
    table, right = open_table(data), formula.partition("~")[2]
    one = [parse(f"{text} ~ 1", known, table.names) for text in responses]
    if len(one) < 2 or len(set(responses)) < len(one):
        raise FormulaError("cbind: expected two different responses or more", text=formula, position=0)
    used = {name for each in one for name in expressions.variables(each.response)}
    parsed = parse(f"{responses[0]} ~{right}", known, table.names, {*elsewhere, *used})
    aliases = [name for each in (*one, parsed) for _, name in each.aliases]
    taken = [name for name in (TRAIT, VALUE, ROW) if name in table.names]
    if aliases or taken:
        name, why = (aliases[0], "cannot be stacked") if aliases else (taken[0], "is made for cbind")
        raise DataError(f"column {name!r}: a column of this name {why}; give it another one")
    terms = [within(parsed.side).text, *(f"offset({text})" for text in parsed.offsets)]
    terms += [_bar(bar, parsed.text) for bar in parsed.bars]
    n, k = table.n, len(one)
    values = np.full((n, k), np.nan)
    for j, each in enumerate(one):
        values[:, j] = _values(each.response, table, {})
        if n and np.isnan(values[:, j]).all():
            raise DataError(f"cbind: {responses[j]} has no values, so its trait would be lost; leave it out")
    added = {TRAIT: np.tile(responses, n), VALUE: values.ravel(), ROW: np.repeat(np.arange(n), k)}
    return f"{VALUE} ~ {' + '.join(terms)}", extend_rows(data, np.repeat(np.arange(n), k), added), k


def _values(response: str, table: OpenTable, aliases: dict[str, str]) -> np.ndarray:
    """Values (n,) of a response, NaN where there is none."""
    columns = {name: table.column(aliases.get(name, name)) for name in expressions.variables(response)}
    for column in columns.values():
        if not column.is_number:
            raise DataError(f"column {column.name!r} is not numeric, which a response has to be")
    gaps = [column.missing for column in columns.values() if column.missing is not None]
    with np.errstate(all="ignore"):
        found = expressions.evaluate(response, {k: np.asarray(c.values, float) for k, c in columns.items()})
    return np.where(np.any(gaps, 0), np.nan, found) if gaps else found


def within(side: Side) -> Side:
    """A sum of terms, each within traits."""
    return Side(False, (((TRAIT,),) if side.intercept else ()) + tuple((TRAIT, *term) for term in side.terms))


def _bar(bar: Bar, formula: str) -> str:
    """A bar of the stacked rows: effects within traits, those of a structure over columns correlated between traits."""
    if isinstance(bar.shape, Composed):
        return f"({_written(bar.shape)[1:-1]} | {bar.group_text})"
    if bar.structure in PLAIN and bar.group:
        return f"{bar.structure or ''}({within(bar.side).text} | {bar.group_text}{_options(bar.options)})"
    if bar.shape is not None and bar.group:
        return f"(us({TRAIT}) @ {_written(bar.shape)} | {bar.group_text})"
    raise FormulaError(
        f"cbind: {bar.structure}() of effects, or over all rows, has no form for several responses; stack them in the "
        f"data and write, for example, (us({TRAIT}) @ ar1(time) | id)",
        text=formula,
        position=bar.position,
    )


def _written(shape: Part | Composed) -> str:
    """A structure over columns as one writes it."""
    if isinstance(shape, Composed):
        return "(" + f" {shape.operator} ".join(map(_written, shape.parts)) + ")"
    return f"{shape.name}({' + '.join(shape.columns)}{_options(shape.options)})"


def _options(options: tuple[tuple[str, object], ...]) -> str:
    return "".join(f", {name}={value!r}" for name, value in options)
