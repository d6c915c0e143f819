"""What a function does, as plain JSON: its source, and all of the user's own that it reads.

Followed are defaults, closures, module constants and functions, classes with their methods, and attributes of the
user's modules. What is installed (packages, the standard library) stands by its name: its versions are in the manifest.
Not covered: files that are read, environment variables, and what is looked up by a text (``getattr``, ``globals``).
"""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import importlib
import inspect
import linecache
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

Describe = Callable[[Any], Any]


@functools.cache
def is_own(module: Any) -> bool:
    """Whether a module is the user's: a script, a notebook, a file that is not installed."""
    if not isinstance(module, str):
        return False
    top = module.partition(".")[0]
    if top == __package__.partition(".")[0] or (top in sys.stdlib_module_names and top != "__main__"):
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return top != "builtins"
    path, installed = Path(file).resolve(), {sysconfig.get_path(n) for n in ("stdlib", "purelib", "platlib")}
    return not any(path.is_relative_to(Path(p).resolve()) for p in installed if p) and not (
        {"site-packages", "dist-packages"} & set(path.parts)
    )


def function_of(value: Any) -> FunctionType | None:
    """The function below decorators such as ``jax.jit`` and ``functools.lru_cache``, if there is one.

    A decorator of the user's own is a function that has the one below among what it has captured.
    """
    try:
        found = inspect.unwrap(value, stop=lambda own: inspect.isfunction(own) and is_own(_home(own)))
    except ValueError:
        return None
    return found if inspect.isfunction(found) else None


def _home(function: FunctionType) -> Any:
    """The module that its code stands in; its ``__module__`` may be that of what it decorates."""
    return function.__globals__.get("__name__")


def function_parts(function: FunctionType, describe: Describe) -> dict[str, Any]:
    """Source of a user's function, and what it has and reads; of others what they have captured."""
    captured = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            captured[name] = cell.cell_contents
        except ValueError:  # not set yet
            continue
    if not is_own(_home(function)):
        return {"captured": describe(captured)} if captured else {}
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    read = _globals_of(function.__code__, function.__globals__)
    attributes = {name: own for name, own in vars(function).items() if name != "__wrapped__"}
    parts = {"defaults": defaults, "captured": captured, "reads": read, "attributes": attributes}
    return {"source": source_of(function), **{key: describe(part) for key, part in parts.items() if part}}


def class_parts(kind: type, describe: Describe) -> dict[str, Any]:
    """Source of a user's class and of its bases, and what their methods read."""
    if not is_own(kind.__module__):
        return {}
    bases = [describe(base) for base in kind.__bases__ if is_own(base.__module__)]
    read: dict[str, Any] = {}
    methods: dict[str, FunctionType] = {}
    attributes: dict[str, Any] = {}
    for name, value in vars(kind).items():
        plain = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if (method := function_of(plain)) is not None and method.__module__ == kind.__module__:
            read |= _globals_of(method.__code__, method.__globals__)
            methods[name] = method
        elif not (name.startswith("__") or inspect.isroutine(value) or inspect.isdatadescriptor(value)):
            attributes[name] = value
    read.pop(kind.__name__, None)
    # classes of a notebook have no file: what their methods do
    source = source_of(kind) or {name: source_of(method) for name, method in methods.items()}
    parts = {"bases": bases, "reads": describe(read), "attributes": describe(attributes)}
    return {"source": source, **{key: part for key, part in parts.items() if part}}


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A code and those of the functions and comprehensions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _globals_of(code: CodeType, known: dict[str, Any]) -> dict[str, Any]:
    """Values of the globals that a code reads, and of the attributes of the user's modules."""
    names, attributes = set(), set()
    found: dict[str, Any] = {}
    modules: list[ModuleType] = []
    for one in _codes(code):
        steps = list(dis.get_instructions(one))
        for k, step in enumerate(steps):
            if step.opname == "IMPORT_NAME":  # within the function; two constants before it are how far up, and what
                modules += _imported("." * (steps[k - 2].argval or 0) + step.argval, known)
            elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                names.add(step.argval)
            elif step.opname.startswith(("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM")):
                attributes.add(step.argval)
    for module in modules:
        found |= _attributes(module, module.__name__, attributes)
    for name in sorted(names & known.keys()):
        value = known[name]
        if not isinstance(value, ModuleType):
            found[name] = value
        else:
            found |= _attributes(value, name, attributes)
    return found


def _imported(name: str, known: dict[str, Any]) -> list[ModuleType]:
    """A module that a function imports when it is called, if it is the user's, and packages that it is in."""
    try:
        found = importlib.import_module(name, known.get("__package__"))
    except Exception:  # what cannot be imported is said when it is
        return []
    parts = found.__name__.split(".")
    every = [sys.modules.get(".".join(parts[: k + 1])) for k in range(len(parts))]
    return [module for module in every if module is not None and is_own(module.__name__)]


def _attributes(module: ModuleType, name: str, attributes: set[str]) -> dict[str, Any]:
    """Attributes of a user's module, and of modules in it, among those that a code asks for."""
    if not is_own(module.__name__):
        return {}
    found: dict[str, Any] = {}
    for attribute in sorted(attributes & vars(module).keys()):
        value, place = getattr(module, attribute), f"{name}.{attribute}"
        is_module = isinstance(value, ModuleType)
        found |= _attributes(value, place, attributes - {attribute}) if is_module else {place: value}
    return found


def source_of(value: Any) -> str | None:
    """Its text without comments and docstrings, or a digest of its byte code where there is no file, if it has any."""
    code = getattr(value, "__code__", None)
    try:
        if code is not None and code.co_name == "<lambda>":
            return _lambda(code)
        return _plain(textwrap.dedent(inspect.getsource(code or value)).strip())
    except (OSError, TypeError, SyntaxError, IndexError):
        return None if code is None else "sha256:" + hashlib.sha256(repr(_steps(code)).encode()).hexdigest()


def _lambda(code: CodeType) -> str:
    """The text of a lambda, found by the place of its body: several may stand on a line."""
    lines = linecache.getlines(code.co_filename)
    tree = ast.parse("".join(lines))
    places = [(a, c) for a, _, c, _ in code.co_positions() if a is not None and c is not None]
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Lambda) and n.lineno == code.co_firstlineno]
    first = min(p for p in places if p[1] or p[0] != code.co_firstlineno)
    inside = [n for n in nodes if _starts(n.body) <= first <= (n.body.end_lineno or 0, n.body.end_col_offset or 0)]
    return ast.unparse(max(inside, key=lambda n: _starts(n.body)) if inside else nodes[0])


def _starts(node: ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _steps(code: CodeType) -> tuple[Any, ...]:
    """What byte code does, without places in files and addresses."""

    def plain(constant: Any) -> Any:
        if isinstance(constant, CodeType):
            return _steps(constant)
        return sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant

    return code.co_code, tuple(map(plain, code.co_consts)), code.co_names, code.co_freevars


def _plain(source: str) -> str:
    """Code in standard spelling."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
