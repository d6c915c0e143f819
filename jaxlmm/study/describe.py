"""What a study is made of, as plain JSON: to recognise it again, and to say what has changed."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..frames.columns import library_of

LISTED = 32  # numbers of an array that are written out; larger ones have a digest


def described(value: Any) -> Any:
    """A value as JSON can hold it, functions by their source and what they capture, large arrays by a digest."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, np.generic):
        return described(value.item())
    if isinstance(value, Mapping):
        return {str(key): described(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        entries = sorted(value) if isinstance(value, set | frozenset) else value
        return [described(entry) for entry in entries]
    if library_of(value) in ("pandas", "polars") and hasattr(value, "columns"):
        return {str(name): described(np.asarray(value[name])) for name in value.columns}
    if hasattr(value, "__array__"):
        return _array(np.asarray(value))
    if isinstance(value, functools.partial):
        return {"partial": described(value.func), "args": described(value.args), "keywords": described(value.keywords)}
    if isinstance(value, type):
        return {"class": _name(value), "source": _source(value)}
    if dataclasses.is_dataclass(value):
        own = {f.name: described(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **own}
    if inspect.isfunction(value):
        return _function(value)
    if callable(value) and not vars(value if hasattr(value, "__dict__") else type(value)):
        return {"function": _name(value)}
    state = vars(value) if hasattr(value, "__dict__") else repr(value)
    return {"kind": _name(type(value)), "state": described(state)}


def _array(a: np.ndarray) -> Any:
    if a.size <= LISTED:
        return described(a.tolist())
    content = "\0".join(map(str, a.ravel().tolist())).encode() if a.dtype.kind == "O" else a.tobytes()
    return {"array": list(a.shape), "dtype": str(a.dtype), "sha256": hashlib.sha256(content).hexdigest()}


def _function(function: Callable[..., Any]) -> dict[str, Any]:
    closure = inspect.getclosurevars(function)
    out = {"function": _name(function), "source": _source(function)}
    defaults = {
        p.name: p.default for p in inspect.signature(function).parameters.values() if p.default is not inspect._empty
    }
    for key, extra in (("defaults", defaults), ("captured", dict(closure.nonlocals))):
        if extra:
            out[key] = described(extra)
    return out


def _name(value: Any) -> str:
    name = getattr(value, "__qualname__", type(value).__qualname__)
    module = getattr(value, "__module__", None)
    return name if module in (None, "__main__", "builtins") else f"{module}.{name}"


def _source(value: Any) -> str:
    """Its text without comments and docstrings, or a digest of its byte code where there is no file."""
    try:
        return _plain(textwrap.dedent(inspect.getsource(value)).strip())
    except (OSError, TypeError):
        code = getattr(value, "__code__", None)
        known = repr((code.co_code, code.co_consts, code.co_names)) if code else repr(value)
        return "sha256:" + hashlib.sha256(known.encode()).hexdigest()


def _plain(source: str) -> str:
    """Code in standard spelling; a lambda, of which the text is a part of a statement, stays what it is."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return source
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


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
