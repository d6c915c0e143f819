"""What a study is made of, as plain JSON: to recognise it again, and to say what has changed."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import inspect
import json
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..frames.columns import library_of
from .programs import class_parts, function_of, function_parts, is_own

LISTED = 32  # numbers of an array that are written out; larger ones have a digest


def described(value: Any) -> Any:
    """A value as JSON can hold it: programs by what they do (see `programs`), large arrays by a digest."""
    return _described(value, frozenset(), {})


def _described(value: Any, above: frozenset[int], programs: dict[int, tuple[int, Any]]) -> Any:
    """`above`: what this is a part of, by identity; `programs`: those that are described elsewhere already."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, np.generic):
        return _described(value.item(), above, programs)
    if id(value) in above:
        return {"again": _name(value)}
    if id(value) in programs:
        return {"again": f"{_name(value)} ({programs[id(value)][0]})"}

    def inner(entry: Any) -> Any:
        return _described(entry, above | {id(value)}, programs)

    def program(make: Any, what: Any) -> dict[str, Any]:
        programs[id(value)] = len(programs), value
        parts: dict[str, Any] = make(what, inner)
        return parts

    if isinstance(value, Mapping):
        return {str(key): inner(entry) for key, entry in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(inner, value), key=lambda entry: json.dumps(entry, sort_keys=True))
    if isinstance(value, list | tuple):
        return [inner(entry) for entry in value]
    if isinstance(value, type):
        return {"class": _name(value), **program(class_parts, value)}
    if library_of(value) in ("pandas", "polars") and hasattr(value, "columns"):
        return {str(name): inner(value[name]) for name in value.columns}
    if isinstance(value, functools.partial):
        return {"partial": inner(value.func), "args": inner(value.args), "keywords": inner(value.keywords)}
    if inspect.ismethod(value) and inspect.isfunction(value.__func__):
        return {"method": inner(value.__func__), "of": inner(value.__self__)}
    if callable(value) and (function := function_of(value)) is not None:
        return {"function": _name(function), **program(function_parts, function)}
    if hasattr(value, "__array__"):
        try:
            array, beside = _array(np.asarray(value)), _beside(value)
        except TypeError:  # keys of JAX
            return _state(value)
        return {"values": array, **inner(beside)} if beside else array
    kind = {"program": inner(type(value))} if is_own(type(value).__module__) else {}
    if dataclasses.is_dataclass(value):
        own = {f.name: inner(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **own, **kind}
    if inspect.isroutine(value) or inspect.ismodule(value) or isinstance(value, np.ufunc):
        return {"function": _name(value)}
    if hasattr(value, "__dict__"):
        return {"kind": _name(type(value)), "state": inner(vars(value)), **kind}
    return _state(value)


def _state(value: Any) -> dict[str, Any]:
    """What is neither data nor a program: a digest of its pickle, which has no addresses."""
    try:
        content = hashlib.sha256(pickle.dumps(value)).hexdigest()
    except Exception:  # locks, files, ...: of these the kind alone
        content = ""
    return {"kind": _name(type(value)), "sha256": content}


def _array(a: np.ndarray) -> Any:
    if a.size <= LISTED:
        return described(a.tolist())
    content = "\0".join(map(str, a.ravel().tolist())).encode() if a.dtype.kind == "O" else a.tobytes()
    return {"array": list(a.shape), "dtype": str(a.dtype), "sha256": hashlib.sha256(content).hexdigest()}


def _beside(value: Any) -> dict[str, Any]:
    """What its array would lose: which entries are masked, levels of a factor in their order, labels of rows."""
    out: dict[str, Any] = {}
    dtype: Any = getattr(value, "dtype", None)
    index: Any = getattr(value, "index", None)
    levels: Any = getattr(dtype, "categories", None)
    if np.ma.isMaskedArray(value):
        out["mask"] = np.ma.getmaskarray(value)
    if hasattr(levels, "__len__"):
        out |= {"levels": list(levels), "ordered": bool(getattr(dtype, "ordered", False))}
    is_counted = type(index).__name__ == "RangeIndex" and (index.start, index.step) == (0, 1)
    if hasattr(index, "equals") and not is_counted:
        out["labels"] = np.asarray(index)
    return out


def _name(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", type(value).__qualname__)
    module = getattr(value, "__module__", None)
    return str(name) if module in (None, "__main__", "builtins") else f"{module}.{name}"


def digest(description: Any) -> str:
    """One word for a description."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Where two descriptions differ, a line each: ``estimators[0].method: 'REML' -> 'ML'``."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        nothing = "nothing"
        pairs = [(f"{where}.{k}" if where else k, old.get(k, nothing), new.get(k, nothing)) for k in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    elif old == new:
        return []
    else:
        return [f"{where}: {_short(old, new)} -> {_short(new, old)}"]
    return [line for name, a, b in pairs for line in differences(a, b, name)]


def _short(value: Any, other: Any) -> str:
    """A value on one line; of a text of several lines, the first line that the other does not have."""
    if isinstance(value, str) and isinstance(other, str) and "\n" in value + other:
        lines, others = value.splitlines(), other.splitlines()
        value = next((a for a, b in zip(lines, [*others, *[""] * len(lines)], strict=False) if a != b), "").strip()
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
