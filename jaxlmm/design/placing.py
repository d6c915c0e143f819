"""Structures over columns of the data: which levels or coordinates each row has, and how large that makes them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..covariance import (
    NAMES,
    OVER_COORDINATES,
    OVER_ORDER,
    ByGroup,
    Covariance,
    KnownMatrix,
    Kronecker,
    Product,
    Scaled,
    Sum,
    VarianceFunction,
)
from ..covariance.trial import is_shipped
from ..errors import DataError, JaxlmmError, LevelsWarning
from ..formula.specs import Leaf, Node
from ..frames.columns import Column, Levels
from ..frames.levels import key_of, order_of_text
from ..runtime.sizes import check_memory

SPATIAL = tuple(NAMES[name] for name in sorted(OVER_COORDINATES))
ORDERED = tuple(NAMES[name] for name in sorted(OVER_ORDER))
_STEPS = (NAMES["ar1"], NAMES["arma11"])  # their lags are whole numbers
_SHIPPED = frozenset(NAMES.values())
_FINE_WITH_ONE = (NAMES["us"], NAMES["diag"], NAMES["iid"])  # structures that one level is enough for


@dataclass(frozen=True, eq=False)
class Placed:
    """A structure and the place of each row.

    Attributes
    ----------
    structure : Covariance
    columns : tuple of (n,) arrays
        Codes of levels (integers) or coordinates (floats).
    dim : what sizes of the structure depend on, see `jaxlmm.Field`
    names : tuple of str
        The column of the data that each comes from.
    labels : tuple of Levels
        The levels of each column; none for coordinates.
    notes : tuple of str
        How columns are read: as levels in which order, or as distances; what was left out.
    """

    structure: Covariance
    columns: tuple[np.ndarray, ...]
    dim: Any
    names: tuple[str, ...]
    labels: tuple[Levels, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_everywhere(self) -> bool:
        """Whether it is over no column, ``iid()``."""
        return self.names == ("",)

    @property
    def arms(self) -> tuple[str, ...]:
        """Labels of the arms that have parameters of their own."""
        inner = self.structure.parts[0] if isinstance(self.structure, Scaled) else self.structure
        return tuple(f"{self.names[0]}={level}" for level in self.labels[0]) if isinstance(inner, ByGroup) else ()

    @property
    def inner_levels(self) -> tuple[str, ...]:
        """Labels of the levels that numbered parameters belong to, where there is one column of them."""
        if isinstance(self.structure, Scaled) and self.structure.has_variances:
            return self.labels[-1]
        columns = self.labels[1:] if self.arms else self.labels
        columns = columns[:-1] if isinstance(self.structure, Scaled) else columns
        return columns[0] if len(columns) == 1 else ()

    @property
    def factors(self) -> tuple[Covariance, ...]:
        """The factors of a Kronecker product; any other structure is one itself."""
        return self.structure.parts if isinstance(self.structure, Kronecker) else (self.structure,)

    @property
    def widths(self) -> tuple[int, ...]:
        """How many columns each factor takes."""
        return self.structure.widths if isinstance(self.structure, Kronecker) else (len(self.columns),)

    @property
    def is_over_levels(self) -> bool:
        """Whether the places are the levels of one column."""
        return len(self.columns) == 1 and bool(self.labels[0])

    def arrays(self) -> dict[str, Any]:
        """The place of each row as `jaxlmm.Field` takes it."""
        if self.is_over_levels:
            return {"position": self.columns[0].astype(np.int32), "dim": self.dim}
        coords = np.column_stack(self.columns).astype(np.float64)
        return {"coords": coords[:, 0] if coords.shape[1] == 1 else coords, "dim": self.dim}

    def label(self, row: int) -> str:
        """The place of one row in words, ``'time' '3'``."""
        parts = []
        for name, values, labels in zip(self.names, self.columns, self.labels, strict=True):
            parts.append(f"{name!r} {labels[values[row]]!r}" if labels else f"{name!r} {values[row]:.6g}")
        return " and ".join(parts)

    def short_label(self, row: int) -> str:
        """The place of one row, ``3, 4.5``."""
        pairs = zip(self.columns, self.labels, strict=True)
        return ", ".join(labels[values[row]] if labels else f"{values[row]:.6g}" for values, labels in pairs)


def place(tree: Leaf | Node, data: Mapping[str, Column], before: Mapping[str, Column], what: str) -> Placed:
    """Find the place of each row.

    Parameters
    ----------
    tree : Leaf or Node
    data : the columns at the rows used;  before : at all rows, for the levels that are never seen
    what : the term or argument, for messages

    Raises
    ------
    DataError
        For columns that a structure cannot be over, too few levels, levels that no row has.
    """
    if isinstance(tree, Leaf):
        return _place_leaf(tree, data, before, what)
    parts = [place(part, data, before, what) for part in tree.parts]
    alike = all((p.names, p.labels, p.dim) == (parts[0].names, parts[0].labels, parts[0].dim) for p in parts[1:])
    if tree.operator != "@" and alike:
        kind = Sum if tree.operator == "+" else Product
        notes = tuple(dict.fromkeys(note for p in parts for note in p.notes))
        return replace(parts[0], structure=kind(*(p.structure for p in parts)), notes=notes)
    if tree.operator == "+":
        raise DataError(f"{what}: structures in a sum within a product must be over the same column, in the same way")
    # entry by entry, a product over different columns is the Kronecker product at the combinations that occur
    return Placed(
        Kronecker(*(s for p in parts for s in p.factors), widths=tuple(w for p in parts for w in p.widths)),
        tuple(c for p in parts for c in p.columns),
        tuple(d for p in parts for d in (p.dim if isinstance(p.structure, Kronecker) else (p.dim,))),
        tuple(n for p in parts for n in p.names),
        tuple(k for p in parts for k in p.labels),
        tuple(note for p in parts for note in p.notes),
    )


def _place_leaf(leaf: Leaf, data: Mapping[str, Column], before: Mapping[str, Column], what: str) -> Placed:
    structure, names = leaf.structure, leaf.columns
    n = len(next(iter(data.values())).values)
    if not names:
        return Placed(structure, (np.zeros(n, np.int32),), 1, ("",), (Levels.of_text([""]),))
    columns = [data[name] for name in names]
    _check_columns(leaf, columns, what)
    mixed = [c.kind != "number" or (i == 0 and structure.by_level) for i, c in enumerate(columns)]
    if len(columns) > 1 and any(mixed):  # a structure of one's own, whose matrix is given numbers of levels
        either = [c.as_factor() if is_levels else c for c, is_levels in zip(columns, mixed, strict=True)]
        labels = tuple(c.levels if m else Levels((), ()) for c, m in zip(either, mixed, strict=True))
        m = len(labels[mixed.index(True)])
        structure.size(m)  # refuses too many
        return Placed(structure, tuple(np.array(c.values) for c in either), m, names, labels)
    if leaf.levels or columns[0].kind != "number" or structure.by_level:
        factor, notes = _levels_of(leaf, columns[0], before[names[0]], what)
        m = len(factor.levels)
        check_count(structure, leaf.text, m, what)
        check_memory(f"{what}: {leaf.text}", n, m, advice="it has too many levels")
        if structure.rows_held not in (None, m):
            raise DataError(
                f"{what}: {leaf.text} holds a matrix of {structure.rows_held} rows, but the data have {m} levels of "
                f"{names[0]!r}; levels=[...] with one for each row, in their order, says which is which"
            )
        structure.size(m)  # refuses too many
        return Placed(structure, (factor.values,), m, names, (factor.levels,), notes)
    values = tuple(np.array(column.values, np.float64) for column in columns)  # not the caller's memory
    check_count(structure, leaf.text, len(np.unique(np.column_stack(values), axis=0)), what)
    notes = (f"{leaf.text}: distances between the numbers in {names[0]}",) if isinstance(structure, ORDERED) else ()
    return Placed(structure, values, 1, names, (Levels((), ()),) * len(names), notes)


def _levels_of(leaf: Leaf, column: Column, before: Column, what: str) -> tuple[Column, tuple[str, ...]]:
    """The column as levels in their order, and what to know of them."""
    factor, is_ordered = column.as_factor(), isinstance(leaf.structure, ORDERED)
    notes: tuple[str, ...] = ()
    if leaf.levels:
        factor = _given_order(leaf, factor, what)
    elif isinstance(leaf.structure, KnownMatrix):  # its rows are the levels of all rows, complete or not
        every = before if before.missing is None else before.take(np.flatnonzero(~before.missing))
        levels = every.as_factor().levels
        factor = replace(factor, values=factor.recode(levels), levels=levels)
    else:
        used = set(factor.levels.keys)
        known = before.levels if not before.is_number else Levels((), ())
        absent = [level for level, key in zip(known, known.keys, strict=True) if key not in used]
        if absent:
            notes = (f"{leaf.text}: no complete row has {_shown(absent)} of {column.name}, left out",)
            if is_ordered:
                keep = f"{leaf.text[:-1]}, levels=[...])"
                warnings.warn(f"{what}: {notes[0]}; {keep} with all levels keeps it", LevelsWarning, stacklevel=2)
        factor = in_order(factor, f"{what}: {leaf.text}") if is_ordered else factor
    if is_ordered:
        notes += (f"{leaf.text}: levels in the order {_shown(factor.levels)}",)
    return factor, notes


def _shown(levels: Sequence[str]) -> str:
    return ", ".join(levels) if len(levels) <= 12 else f"{', '.join(levels[:6])}, ..., {levels[-1]}"


def _given_order(leaf: Leaf, factor: Column, what: str) -> Column:
    """The levels in the order of ``levels=``; those without rows stay, where no parameter is theirs alone."""
    if isinstance(leaf.structure, SPATIAL):
        raise DataError(f"{what}: levels= is for structures over levels, {leaf.text} is over times or places")
    numbers = [v for k, v in factor.levels.keys if k == "number"]
    keys = [key_of(level) if numbers else ("text", str(level)) for level in leaf.levels]
    place = dict(zip(factor.levels, factor.levels.keys, strict=True))
    keys = [place.get(str(level), key) for level, key in zip(leaf.levels, keys, strict=True)]
    missing = [level for level, key in zip(factor.levels, factor.levels.keys, strict=True) if key not in keys]
    if missing or len(set(keys)) < len(keys):
        found = f"lack {_shown(missing)}" if missing else "have a level twice"
        raise DataError(f"{what}: the levels of {leaf.text} {found}; give every level of {factor.name!r} once")
    absent = len(keys) - len(factor.levels)
    if absent and leaf.structure.size(len(keys)) > leaf.structure.size(len(factor.levels)):
        some = _shown([str(v) for v, key in zip(leaf.levels, keys, strict=True) if key not in factor.levels.keys])
        raise DataError(f"{what}: no complete row has {some} of {factor.name!r}, so its parameters are not known")
    levels = Levels.of(keys)
    return replace(factor, values=factor.recode(levels), levels=levels, is_ordered=True)


def _check_columns(leaf: Leaf, columns: list[Column], what: str) -> None:
    """Refuse columns that the structure cannot be over."""
    structure, is_own = leaf.structure, not is_shipped(leaf.structure)
    if leaf.levels and len(columns) > 1:
        raise DataError(f"{what}: levels= is for one column, {leaf.text} is over {len(columns)}")
    for column in columns:
        if column.kind != "number" and (isinstance(structure, SPATIAL) or (len(columns) > 1 and not is_own)):
            raise DataError(
                f"{what}: {leaf.text} is over times or places, but column {column.name!r} holds "
                f"{_kind(column)}; give it as numbers"
            )
        if column.kind == "time" and not structure.by_level:
            raise DataError(f"{what}: column {column.name!r} holds dates or times; turn it into a number first")
    if len(columns) > 1 and not is_own and (structure.by_level or isinstance(structure, ORDERED)):
        raise DataError(
            f"{what}: {leaf.text} takes one column, found {len(columns)}; combine them in the data, or use a structure "
            "over places such as sp_exp"
        )
    if isinstance(structure, _STEPS) and columns[0].kind == "number" and not leaf.levels:
        values = columns[0].values
        if np.any(values != np.rint(values)):
            example = values[np.argmax(values != np.rint(values))]
            raise DataError(
                f"{what}: {leaf.text} needs whole numbers, column {columns[0].name!r} has {example:g}; for times that "
                "are not equally spaced use ou or car1"
            )


def _kind(column: Column) -> str:
    return {"logical": "true/false values", "time": "dates or times"}.get(column.kind, "text or categories")


def known_order(factor: Column) -> list[int] | None:
    """The order of the levels of a factor, by the data or by the numbers in text; None where nobody knows."""
    if factor.is_ordered or len(factor.levels) < 3:
        return list(range(len(factor.levels)))
    return order_of_text(factor.levels)


def in_order(factor: Column, what: str) -> Column:
    """Levels for a structure that depends on their order: of text by the numbers in it, "Week 2" before "Week 10".

    Raises
    ------
    DataError
        Where the words are not the same, and so their order is anybody's guess.

    Warns
    -----
    LevelsWarning
        Where the order is not that of the alphabet.
    """
    order = known_order(factor)
    if order is None:
        raise DataError(
            f"{what} depends on the order of levels, but column {factor.name!r} is text, in the order of the alphabet "
            f"({_shown(factor.levels[:4])}, ...); write the structure with levels=[...] in their order, or give "
            "numbers or an ordered factor: pandas.Categorical(..., ordered=True), polars.Enum"
        )
    if order == sorted(order):
        return factor
    levels = factor.levels.at(order)
    advice = "levels=[...] in the structure gives another"
    warnings.warn(f"{what} takes {factor.name!r} in the order {_shown(levels)}; {advice}", LevelsWarning, stacklevel=2)
    return replace(factor, values=factor.recode(levels), levels=levels, is_ordered=True)


def check_count(structure: Covariance, text: str, count: int, what: str) -> None:
    """Refuse structures whose parameters need more levels or places than there are."""
    if count < 2 and type(structure) in _SHIPPED and not isinstance(structure, _FINE_WITH_ONE):
        raise DataError(f"{what}: {text} needs at least two levels or places, found {count}")
    rows = getattr(structure, "rows", count)
    if rows != count:
        raise DataError(
            f"{what}: {text} has a matrix of {rows} rows for {count} levels, and row i is the i-th level in their "
            "order; levels=[...] says which they are"
        )
    rank = getattr(structure, "d", None)
    if isinstance(rank, int) and rank > count:
        raise DataError(
            f"{what}: {text} has d = {rank} factors for {count} level(s); d is at most the number of levels"
        )


def by_arm(placed: Placed, arm: Column, shared: tuple[str, ...], what: str) -> Placed:
    """The structure with parameters of its own in each level of `arm`, but for those that are shared."""
    factor = arm.as_factor()
    try:
        structure = ByGroup(placed.structure, len(factor.levels), shared)
    except JaxlmmError as error:
        raise DataError(f"{what}: {error}") from None
    return replace(
        placed, structure=structure, columns=(factor.values, *placed.columns), names=(factor.name, *placed.names),
        labels=(factor.levels, *placed.labels),
    )  # fmt: skip


def scaled(placed: Placed, function: VarianceFunction, covariate: Column) -> Placed:
    """The structure with standard deviations that a function of a covariate multiplies."""
    labels = Levels((), ())
    if function.by_level:
        factor = covariate.as_factor()
        values, labels = factor.values, factor.levels
    else:
        values = np.array(covariate.values, np.float64)
    return replace(
        placed, structure=Scaled(placed.structure, function), columns=(*placed.columns, values),
        dim=(placed.dim, max(len(labels), 1)), names=(*placed.names, covariate.name), labels=(*placed.labels, labels),
    )  # fmt: skip
