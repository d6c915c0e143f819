"""What a public function may be called with: its options by their names, yes or no, and seeds."""

from __future__ import annotations

import difflib
import functools
import inspect
import secrets
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

import numpy as np

from .errors import DataError

C = TypeVar("C", bound=Callable[..., Any])
T = TypeVar("T", bound=type)

Seed = int | Any  # a whole number, a key of `jax.random` (runtime.keys), or None for a fresh one, which `door` draws

TESTS = ("df", "information", "boundary_df", "robust", "cluster")  # options of tests that functions hand on


def refuse_unknown(function: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuse options that a function does not have.

    Raises
    ------
    TypeError
        That names the function and the nearest option, as Python's own would without it.
    """
    if said := unknown_option(function, given, known):
        raise TypeError(said)


def unknown_option(function: str, given: Iterable[str], known: Collection[str]) -> str:
    """What to say of the first option that there is not; empty where all are known."""
    for name in given:
        if name not in known:
            return f"{function}: no option {name!r}; {nearest(name, known)}"
    return ""


def nearest(name: Any, known: Collection[str]) -> str:
    """What may have been meant by a name that is not known, whatever its case, and what there is."""
    lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(str(name).lower(), lower, 1)
    hint = f"did you mean {lower[close[0]]!r}? " if close else ""
    return f"{hint}there are {', '.join(list(known)[:30]) or 'none'}{', ...' * (len(known) > 30)}"


def options_of(function: Callable[..., Any], given: Collection[str]) -> Collection[str]:
    """Names of the parameters of a function; those given where it takes any."""
    parameters = inspect.signature(function).parameters
    return given if any(p.kind == p.VAR_KEYWORD for p in parameters.values()) else tuple(parameters)


def check_flag(name: str, value: Any) -> None:
    """Refuse for an option that is yes or no what is neither True nor False."""
    if not isinstance(value, (bool, np.bool_)):
        raise DataError(f"{name}: found {value!r}, expected True or False")


def fresh_seed() -> int:
    """A seed that nobody has chosen."""
    return secrets.randbits(31)


def door(function: C) -> C:
    """Decorator of a public function that holds its caller to its signature.

    Options that it does not have are a TypeError with its name, where it hands options on to tests too; parameters
    annotated as bool take True or False and nothing else; ``seed=None`` is a seed drawn from the system.
    """
    signature = inspect.signature(function)
    parameters = signature.parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"]
    known = tuple(dict.fromkeys((*names, *(TESTS if any(p.kind == p.VAR_KEYWORD for p in parameters) else ()))))
    flags = [p.name for p in parameters if p.annotation in ("bool", bool)]

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        refuse_unknown(function.__qualname__, kwargs, known)
        given = signature.bind_partial(*args, **kwargs).arguments
        for name in flags:
            if name in given:
                check_flag(f"{function.__qualname__}: {name}", given[name])
        if "seed" in names and "seed" in given and given["seed"] is None:
            bound = signature.bind(*args, **kwargs)
            bound.arguments["seed"] = fresh_seed()
            args, kwargs = bound.args, bound.kwargs
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]


def doors(cls: T) -> T:
    """Class decorator: `door` for the public methods of a class that have options."""
    for name, method in list(vars(cls).items()):
        if not name.startswith("_") and inspect.isfunction(method) and len(inspect.signature(method).parameters) > 1:
            setattr(cls, name, door(method))
    return cls
