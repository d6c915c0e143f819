"""Levels of factors: told apart by value, never by text, and shown by labels that differ where the values do."""

from __future__ import annotations

import datetime
import enum
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import DataError

Key = tuple[str, Hashable]  # the kind of value, and the value: equal for equal values of every data-frame library

WORDS = {
    "number": "numbers",
    "decimal": "numbers",
    "logical": "true/false values",
    "text": "text",
    "bytes": "bytes",
    "time": "dates or times without a time zone",
    "instant": "times with a time zone",
    "duration": "durations",
    "clock": "times of day",
}
UNITS = {"W": 604_800 * 10**9, "D": 86_400 * 10**9, "h": 3_600 * 10**9, "m": 60 * 10**9, "s": 10**9}
UNITS |= {"ms": 10**6, "us": 10**3, "ns": 1}  # nanoseconds
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_TIMES = frozenset({"time", "instant", "duration", "clock"})
_EXACT_FLOAT = 2**53  # from here on a float stands for several whole numbers


class Levels(tuple[str, ...]):
    """Labels of the levels of a factor, with the values that they stand for.

    Attributes
    ----------
    keys : tuple of Key
        A value for each label. Two levels share neither.
    """

    keys: tuple[Key, ...]

    def __new__(cls, labels: Iterable[str], keys: Iterable[Key]) -> Levels:
        """Levels with labels that are known to differ."""
        found = super().__new__(cls, tuple(labels))
        found.keys = tuple(keys)
        return found

    def __getnewargs__(self) -> tuple[tuple[str, ...], tuple[Key, ...]]:  # type: ignore[override]
        return tuple(self), self.keys

    @classmethod
    def of(cls, keys: Sequence[Key]) -> Levels:
        """Levels of distinct values, with the shortest labels that tell them apart."""
        return cls(_labels(keys), keys)

    @classmethod
    def of_text(cls, texts: Iterable[str]) -> Levels:
        """Levels of distinct texts."""
        labels = tuple(texts)
        return cls(labels, (("text", label) for label in labels))

    def at(self, positions: Iterable[int]) -> Levels:
        """Some of the levels, with the labels that they have."""
        chosen = list(positions)
        return Levels((self[i] for i in chosen), (self.keys[i] for i in chosen))

    def __add__(self, more: tuple[str, ...]) -> Levels:  # type: ignore[override]
        return Levels(
            super().__add__(more), self.keys + (more if isinstance(more, Levels) else self.of_text(more)).keys
        )

    def find(self, value: Any) -> int | None:
        """The position of a value, or of the level with this label; None where there is none."""
        place = self.place_of(key_of(value)) if isinstance(value, Hashable) else None
        return self._places[1].get(str(value)) if place is None else place

    def place_of(self, key: Key) -> int | None:
        """The position of the level that a key identifies, see `key_of`; None where there is none."""
        return self._places[0].get(key)

    @cached_property
    def _places(self) -> tuple[dict[Key, int], dict[str, int]]:
        return {key: i for i, key in enumerate(self.keys)}, {label: i for i, label in enumerate(self)}


# -- values


def numbered(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values, sorted, and the place (n,) of each among them; whole numbers of no wide range are not sorted."""
    if values.dtype.kind in "iu" and len(values):
        low, high = int(values.min()), int(values.max())
        if high - low <= 4 * len(values) and high < 2**63:
            place = np.subtract(values, low, dtype=np.int64)
            there = np.zeros(high - low + 1, bool)
            there[place] = True
            codes = np.cumsum(there, dtype=np.int32)[place]
            codes -= 1
            return (np.flatnonzero(there) + low).astype(values.dtype), codes
    labels, codes = np.unique(values, return_inverse=True)
    return labels, codes.astype(np.int32)


def key_of(value: Any) -> Key:
    """What identifies a level: 7, 7.0 and ``Decimal("7")`` are one, "7" and True are others.

    A decimal number is the float that is written like it, where there is one; a time is an instant in nanoseconds
    whatever its unit, one with a time zone is that of the world.

    Raises
    ------
    DataError
        For objects that are equal to nothing but themselves.
    """
    if isinstance(value, np.datetime64 | np.timedelta64):
        return time_keys(np.asarray([value]))[0]
    if isinstance(value, np.generic):
        value = float(value) if isinstance(value, np.longdouble) else value.item()
    if isinstance(value, str):
        return "text", str.__str__(value)
    if isinstance(value, bool):
        return "logical", value
    if isinstance(value, int):
        return "number", int(value)
    if isinstance(value, float):
        return "number", float(value)
    if isinstance(value, Decimal):
        return _of_decimal(value)
    if isinstance(value, Fraction):
        return "number", int(value) if value.denominator == 1 else float(value)
    if isinstance(value, bytes | bytearray):
        return "bytes", bytes(value)
    if isinstance(value, datetime.date | datetime.timedelta | datetime.time):
        return _of_time(value)
    kind: Any = type(value)
    if kind.__hash__ is None or (kind.__eq__ is object.__eq__ and not isinstance(value, enum.Enum)):
        raise DataError(
            f"{kind.__name__} objects cannot be levels: they cannot be compared by value; make them numbers or text"
        )
    return f"{kind.__module__}.{kind.__qualname__}", value


def _of_decimal(value: Decimal) -> Key:
    if value == value.to_integral_value():
        return "number", int(value)
    near = float(value)
    return ("number", near) if Decimal(repr(near)) == value else ("decimal", value)


def _of_time(value: datetime.date | datetime.timedelta | datetime.time) -> Key:
    rest = getattr(value, "nanosecond", getattr(value, "nanoseconds", 0))  # of pandas
    if isinstance(value, datetime.timedelta):
        seconds = value.days * 86_400 + value.seconds
        return "duration", seconds * 10**9 + value.microseconds * 1000 + rest
    if isinstance(value, datetime.datetime | datetime.time):
        seconds = value.hour * 3_600 + value.minute * 60 + value.second
        rest += seconds * 10**9 + value.microsecond * 1000
        if isinstance(value, datetime.time):
            if value.tzinfo is not None:
                raise DataError("times of day with a time zone cannot be levels; make them numbers or text")
            return "clock", rest
    total = (value.toordinal() - _EPOCH) * UNITS["D"] + rest
    shift = value.utcoffset() if isinstance(value, datetime.datetime) else None
    return ("time", total) if shift is None else ("instant", total - _of_time(shift)[1])  # type: ignore[operator]


def time_keys(values: np.ndarray, kind: str | None = None) -> list[Key]:
    """Keys of distinct values of datetime64 or timedelta64, in any unit; "instant" or "clock" where they mean such.

    Raises
    ------
    DataError
        For units that have no length in nanoseconds.
    """
    unit, count = np.datetime_data(values.dtype)
    kind = kind or ("time" if values.dtype.kind == "M" else "duration")
    if values.dtype.kind == "M" and unit in ("Y", "M"):
        values, unit, count = values.astype("datetime64[D]"), "D", 1
    if unit not in UNITS:
        raise DataError(f"values of type {values.dtype} cannot be levels; give them in nanoseconds or coarser units")
    return [(kind, value * UNITS[unit] * count) for value in values.astype(np.int64).tolist()]


def sort_keys(keys: Iterable[Key]) -> list[Key]:
    """Keys in the order of their values; of several kinds, by their labels."""
    keys = list(keys)
    try:
        if len({WORDS.get(kind, kind) for kind, _ in keys}) <= 1:
            return sorted(keys, key=lambda key: key[1])  # type: ignore[arg-type, return-value]
    except TypeError:  # objects without an order
        pass
    return sorted(keys, key=lambda key: (str(key[1]), key[0]))


def kinds_of(keys: Iterable[Key]) -> list[str]:
    """The kinds of values in words."""
    return sorted({WORDS.get(kind, f"{kind.rpartition('.')[2]} objects") for kind, _ in keys})


def check_alike(unknown: Sequence[Key], known: Sequence[Key], name: str) -> None:
    """Refuse values that are no levels only because they came as another type or with another precision.

    Raises
    ------
    DataError
    """
    before = kinds_of(known)
    for key in unknown:
        (own,) = kinds_of([key])
        if own not in before and before:
            raise DataError(
                f"column {name!r} has the level {_labels([key])[0]!r} of newdata as {own}, but held "
                f"{' and '.join(before)} in the data of the fit; give it as these"
            )
    floats = np.array(sorted(v for k, v in known if k == "number" and isinstance(v, float) and not v.is_integer()))
    for kind, value in unknown:
        if kind != "number" or not isinstance(value, float) or value.is_integer() or not len(floats):
            continue
        place = np.searchsorted(floats, value)
        for near in floats[max(place - 1, 0) : place + 1].tolist():
            if _is_rounded(value, near):
                raise DataError(
                    f"column {name!r} has the value {value!r} in newdata and {near!r} in the data of the fit, which "
                    "differ by rounding alone; round both, or give them as whole numbers or text"
                )


def _is_rounded(a: float, b: float) -> bool:
    """Whether two floats differ by the rounding of a sum, or one is the other in single precision."""
    single = np.float32(a) == np.float32(b) and (float(np.float32(a)) == a or float(np.float32(b)) == b)
    return bool(single or abs(a - b) <= 4 * np.spacing(max(abs(a), abs(b))))


# -- labels


def number_label(value: Any) -> str:
    """Write a number as the label of a level, whole numbers without a decimal point, others so that they differ."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, int | np.integer):
        return str(int(value))
    value = float(value)
    return str(int(value)) if value.is_integer() and abs(value) < _EXACT_FLOAT else repr(value)


def _labels(keys: Sequence[Key]) -> list[str]:
    """A label for each of distinct values; text in quotes only where it would be taken for another level."""
    units = {kind: _unit(kind, [v for k, v in keys if k == kind]) for kind in {k for k, _ in keys} & _TIMES}
    printable = all(_is_plain(v) for k, v in keys if k == "bytes")
    labels = [_label(key, units, printable) for key in keys]
    if len(set(labels)) < len(keys):
        labels = [repr(v) if k in ("text", "bytes") else label for (k, v), label in zip(keys, labels, strict=True)]
    times = Counter(labels)
    if len(times) < len(keys):
        kinds = [WORDS.get(kind, kind) for kind, _ in keys]
        labels = [f"{x} ({kind})" if times[x] > 1 else x for x, kind in zip(labels, kinds, strict=True)]
        twice = [label for label, count in Counter(labels).items() if count > 1]
        if twice:
            raise DataError(f"two levels are both written {twice[0]!r}; give them as numbers or text that differ")
    return labels


def order_of_text(labels: Sequence[str]) -> list[int] | None:
    """The order of levels of text that is beyond doubt: single letters, or numbers in the same words, ``"Week 2"``.

    None where there is none.
    """
    parts = [re.split(r"(\d+)", label) for label in labels]
    if all(len(label) == 1 for label in labels):
        return list(range(len(labels)))
    if len({tuple(part[::2]) for part in parts}) > 1:
        return None
    return sorted(range(len(labels)), key=lambda i: tuple(map(int, parts[i][1::2])))


def joined_labels(parts: Sequence[Sequence[str]]) -> list[str]:
    """Labels of combinations, such as ``"b1:a1"``; their parts in quotes where colons would confuse two of them."""
    rows = list(zip(*parts, strict=True))
    labels = [":".join(row) for row in rows]
    return labels if len(set(labels)) == len(labels) else [":".join(map(repr, row)) for row in rows]


def _label(key: Key, units: dict[str, str], printable: bool) -> str:
    kind, value = key
    if kind == "number":
        return number_label(value)
    if isinstance(value, bytes):
        return value.decode() if printable else value.hex()
    if kind == "decimal":
        return f"{value:f}".rstrip("0")
    if kind not in units:
        return str(value)
    unit: Any = units[kind]
    count = value // UNITS[unit]  # type: ignore[operator]
    if kind == "duration":
        return f"{count} {'days' if unit == 'D' else unit}"
    text = str(np.datetime64(count, unit))
    return text.partition("T")[2] if kind == "clock" else text + "Z" * (kind == "instant")


def _unit(kind: str, values: list[Any]) -> str:
    """The coarsest unit that all are whole in."""
    units = ("D", "s", "ms", "us", "ns")[0 if kind in ("time", "duration") else 1 :]
    return next(unit for unit in units if all(v % UNITS[unit] == 0 for v in values))


def _is_plain(value: Any) -> bool:
    try:
        return bool(value) and value.decode().isprintable()
    except UnicodeDecodeError:
        return False
