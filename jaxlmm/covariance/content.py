"""What compiled code depends on besides its arguments: arrays that a structure holds, and what its methods read."""

from __future__ import annotations

import dis
import hashlib
import inspect
import sys
import weakref
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import jax
import numpy as np
from jax import Array

from ..errors import JaxlmmError

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


class Content:
    """A value of arrays that is part of compiled code: compared and hashed by content (the hash computed once)."""

    def __init__(self, value: Any):
        self.value = value
        self.key = key_of(value)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Content) and self.key == other.key)

    def __repr__(self) -> str:
        return f"array{np.shape(self.value)}" if isinstance(self.value, np.ndarray) else repr(self.value)


def frozen(what: str, value: Any) -> Any:
    """An option as it is kept: arrays copied and read-only, lists of numbers as arrays, other lists as tuples.

    Raises
    ------
    JaxlmmError
        For what cannot be compared by content.
    """
    if isinstance(value, list) and (rows := {np.shape(v) for v in value if isinstance(v, list | int | float)}):
        value = np.array(value) if len(rows) == 1 and all(isinstance(v, list | int | float) for v in value) else value
    if isinstance(value, np.ndarray | Array) and value.dtype != object:
        value = np.array(value)
        value.setflags(write=False)
        return value
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return tuple(frozen(what, one) for one in value)
    try:
        hash(value)
    except TypeError:
        raise JaxlmmError(
            f"{what}: options are part of compiled code and compared by content, expected numbers, text, arrays or "
            f"tuples of them, found {type(value).__name__}; give its values as an array"
        ) from None
    return value


def key_of(value: Any) -> Hashable:
    """A key that is equal for equal content, of arrays by a digest."""
    if isinstance(value, np.ndarray | Array):
        return _digest(np.asarray(value))
    if isinstance(value, tuple):
        return tuple(map(key_of, value))
    return value


_KNOWN: dict[int, tuple[weakref.ref[np.ndarray], Hashable]] = {}  # digests of arrays that nobody writes to, by id


def _digest(array: np.ndarray) -> Hashable:
    known = _KNOWN.get(id(array))
    if known is not None and known[0]() is array:
        return known[1]
    found = array.shape, array.dtype.str, hashlib.blake2b(array.tobytes()).digest()
    if not array.flags.writeable and array.base is None:
        place = id(array)
        _KNOWN[place] = weakref.ref(array, lambda _: _KNOWN.pop(place, None)), found
    return found


def read_by(cls: type, base: type) -> Hashable:
    """What the methods that a class has beside those of `base` read: values and functions of their module and closures.

    Arrays, numbers and text count by their values, functions of the user's by their code and what they read in turn.
    """
    seen: set[int] = set()
    own = [c for c in cls.__mro__ if issubclass(c, base) and not _is_library(c)]
    methods = [m for c in own for name, m in vars(c).items() if not name.startswith("__")]
    return tuple(
        key for m in methods for key in _keys(getattr(m, "fget", None) or getattr(m, "__func__", m), seen, True)
    )


def _keys(value: Any, seen: set[int], own: bool = False) -> Iterator[Hashable]:
    """Keys of a value, and of what a function reads; the code of a method, its `own`, goes with its class."""
    function = inspect.unwrap(value) if callable(value) else value
    if not isinstance(function, FunctionType):
        for leaf in jax.tree_util.tree_leaves(value):
            if isinstance(leaf, np.ndarray | Array | np.generic) and not isinstance(leaf, jax.core.Tracer):
                if leaf.dtype != object:
                    yield key_of(np.asarray(leaf))
            elif isinstance(leaf, _PLAIN):
                yield type(leaf).__name__, leaf
            elif isinstance(leaf, FunctionType):
                yield from _keys(leaf, seen)
        return
    if id(function) in seen or _is_library(function):
        return
    seen.add(id(function))
    for code in _codes(function.__code__):
        if not own:
            yield code.co_code, tuple(c for c in code.co_consts if isinstance(c, _PLAIN))
        for name in sorted({i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}):
            yield from ((name, key) for key in _keys(function.__globals__.get(name), seen))
    for cell in function.__closure__ or ():
        try:
            yield from _keys(cell.cell_contents, seen)
        except ValueError:  # empty
            continue
    yield from _keys((function.__defaults__, function.__kwdefaults__), seen)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _is_library(value: type | Callable[..., Any]) -> bool:
    """Whether it is of this package or installed, and so does not change while a program runs."""
    root = (value.__module__ or "").partition(".")[0]
    file = getattr(sys.modules.get(value.__module__), "__file__", None) or ""
    return root == "jaxlmm" or root in sys.stdlib_module_names - {"__main__"} or "site-packages" in Path(file).parts
