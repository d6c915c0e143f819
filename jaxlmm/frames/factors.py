"""One column of data in plain NumPy form: numbers, or codes into levels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import DataError
from .levels import Key, Levels, check_alike, key_of, numbered, sort_keys

_NUMBER = re.compile(r"\s*[-+]?(\d+[.,]?\d*|[.,]\d+|\d{1,3}(,\d{3})+\.\d*)([eE][-+]?\d+)?\s*%?\s*")
_ABSENT = frozenset({"", ".", "-", "?", "na", "n/a", "#n/a", "nan", "null"})  # what is written for missing values


@dataclass(frozen=True, eq=False)
class Column:
    """One column of the data.

    Attributes
    ----------
    name : str
        Its name in the data.
    kind : str
        ``"number"``, ``"logical"``, ``"factor"`` or ``"time"`` (dates; only good as a grouping factor).
    values : (n,) array
        Numbers as they came (integers stay integers, 0 or NaN for a missing value), or int32 codes into `levels`, -1
        for a missing value.
    levels : Levels
        Labels of the levels of a factor or of a time, with their values; empty for numbers.
    missing : (n,) bool array or None
        Places without a value; None where all are there.
    exact : (n,) array of Python numbers or None
        Where `values` are rounded: large integers beside fractions, decimal numbers of many digits.
    is_ordered : bool
        Whether the data say what the order of the levels is; that of text is the alphabet's.
    is_declared : bool
        Whether the data say that it is a factor, a categorical column.
    is_ordinal : bool
        Whether they say that it is an ordered one.
    """

    name: str
    kind: str
    values: np.ndarray
    levels: Levels = field(default_factory=lambda: Levels((), ()))
    missing: np.ndarray | None = None
    exact: np.ndarray | None = None
    is_ordered: bool = True
    is_declared: bool = False
    is_ordinal: bool = False

    def __len__(self) -> int:
        return len(self.values)

    @property
    def looks_numeric(self) -> bool:
        """Whether it is text written like numbers, or has numbers beside others; declared categories do not."""
        kinds = {kind for kind, _ in self.levels.keys}
        if self.kind != "factor" or self.is_declared or not kinds:
            return False
        there = [level for level in self.levels if level.strip().lower() not in _ABSENT]
        is_text = kinds == {"text"} and bool(there) and all(map(_NUMBER.fullmatch, there))
        return bool(kinds & {"number", "decimal"}) or is_text

    @property
    def is_number(self) -> bool:
        """Whether the values are numbers or true/false."""
        return self.kind in ("number", "logical")

    def take(self, rows: np.ndarray) -> Column:
        """Return the column at these rows, which have no missing values; unused levels are dropped."""
        values = self.values[rows]
        levels = self.levels
        if not self.is_number:
            used = np.bincount(values, minlength=len(levels)) > 0
            if not used.all():
                recode = np.cumsum(used, dtype=np.int32) - 1
                values = recode[values]
                levels = levels.at(np.flatnonzero(used).tolist())
        elif self.missing is not None and values.dtype.kind == "f" and _came_as_integers(self):
            values = values.astype(np.int64)
        exact = None if self.exact is None else self.exact[rows]
        return replace(self, values=values, levels=levels, missing=None, exact=exact)

    def at(self, values: Sequence[Any], codes: np.ndarray) -> Any:
        """Rows with other values: codes (n,) into `values`, numbers or labels of its levels."""
        if self.is_number:
            return np.array(values)[codes]
        place = np.array([self.levels.index(value) for value in values], dtype=np.int32)
        return Column(self.name, "factor", place[codes], self.levels, is_declared=True)

    def as_factor(self) -> Column:
        """Return the column as a factor; the levels of numbers are sorted by value.

        Raises
        ------
        DataError
            For floats so large that they stand for several whole numbers, each of which may have been another group.
        """
        if not self.is_number:
            return self
        there = slice(None) if self.missing is None else ~self.missing
        if self.exact is not None:
            _check_distinct(self.name, np.array([v for v in self.exact[there] if isinstance(v, float)]))
            return factor(self.name, *distinct(self.exact, self.missing), missing=self.missing)
        present = self.values[there]
        _check_distinct(self.name, present)
        unique, inner = numbered(present)
        codes = np.full(len(self.values), -1, dtype=np.int32)
        codes[there] = inner
        kind = "number" if self.kind == "number" else "logical"
        levels = Levels.of([(kind, value) for value in unique.tolist()])
        return replace(self, kind="factor", values=codes, levels=levels)

    def recode(self, levels: Levels) -> np.ndarray:
        """Return codes into other `levels`, -1 for a level that is not among them and for a missing value.

        Raises
        ------
        DataError
            For a level that may be among them, but came as another type or with another precision.
        """
        column = self.as_factor()
        place = {key: i for i, key in enumerate(levels.keys)}
        table = np.array([place.get(key, -1) for key in column.levels.keys] + [-1], dtype=np.int32)
        absent = np.flatnonzero(table[:-1] < 0)
        if len(absent) and len(levels):
            used = np.bincount(column.values[column.values >= 0], minlength=len(column.levels)) > 0
            check_alike([column.levels.keys[i] for i in absent if used[i]], levels.keys, self.name)
        return table[column.values]


def factor(
    name: str, codes: np.ndarray, keys: Sequence[Key], missing: np.ndarray | None = None, kind: str = "factor",
    sort: bool = True, is_ordered: bool = True, is_declared: bool = False, is_ordinal: bool = False,
) -> Column:  # fmt: skip
    """Make a factor from codes into values, -1 for a missing one; values that are the same level share it."""
    order = sort_keys(dict.fromkeys(keys)) if sort else list(dict.fromkeys(keys))
    place = {key: i for i, key in enumerate(order)}
    table = np.array([place[key] for key in keys] + [-1], dtype=np.int32)
    codes = table[np.asarray(codes)]
    try:
        levels = Levels.of(order)
    except DataError as error:
        raise DataError(f"column {name!r}: {error}") from None
    missing = codes < 0 if missing is None else missing
    missing = missing if missing.any() else None
    return Column(
        name, kind, codes, levels, missing, is_ordered=is_ordered, is_declared=is_declared, is_ordinal=is_ordinal
    )


def distinct(values: np.ndarray, missing: np.ndarray | None) -> tuple[np.ndarray, list[Key]]:
    """Codes (n,) of Python objects into their distinct keys, -1 for a missing one."""
    there = slice(None) if missing is None else ~missing
    present: list[Any] = values[there].tolist()
    kinds = list(map(type, present))
    try:
        items = present if len(set(kinds)) <= 1 else list(zip(kinds, present, strict=True))  # True is not 1
        index = {item: i for i, item in enumerate(dict.fromkeys(items))}
    except TypeError:
        raise DataError("objects that cannot be hashed cannot be levels; make them numbers or text") from None
    place: dict[Key, int] = {}
    own = [place.setdefault(key_of(item if items is present else item[1]), len(place)) for item in index]
    codes = np.full(len(values), -1, dtype=np.int32)
    codes[there] = np.array(own, dtype=np.int32)[[index[item] for item in items]]
    return codes, list(place)


def _came_as_integers(column: Column) -> bool:
    """Say whether floats are integers that a frame library turned into floats because some were missing."""
    present = column.values[~column.missing] if column.missing is not None else column.values
    return bool(np.all(np.isfinite(present)) and np.all(present == np.rint(present)) and np.all(abs(present) < 2**53))


def _check_distinct(name: str, values: np.ndarray) -> None:
    """Refuse whole numbers that were rounded to floats: neighbours, other people's numbers, are one then."""
    if values.dtype.kind != "f" or not len(values):
        return
    limit = 2.0 ** (np.finfo(values.dtype).nmant + 1)
    large = np.isfinite(values) & (np.abs(values) >= limit)
    if large.any() and np.all(values[np.isfinite(values)] == np.rint(values[np.isfinite(values)])):
        example = float(values[np.argmax(large)])
        raise DataError(
            f"column {name!r} holds whole numbers as floats that are too large to be told apart, such as {example:.0f} "
            f"(from {limit:.0f} on); give them as integers or text where levels are meant"
        )
