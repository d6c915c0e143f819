"""What a public function may be called with: its options by their names, yes or no, and seeds."""

from __future__ import annotations

import difflib
import functools
import inspect
import numbers
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np

from .errors import DataError

C = TypeVar("C", bound=Callable[..., Any])
T = TypeVar("T", bound=type)

Seed = int | Any  # a whole number, a key of `jax.random` (runtime.keys), or None for a fresh one, which `door` draws

JUDGED = ("level", "threshold")  # numbers with checks of their own, whose words say more
ELSEWHERE = {  # words that are honoured in another place, of other functions and packages
    "prior": "jaxlmm.fit(jaxlmm.lmm(formula, data).model, prior=f) adds f(theta, blocks) to the log-likelihood",
    "through": "jaxlmm.fit(jaxlmm.lmm(formula, data).model, through=h, start=phi) fits theta = h(phi)",
    "REML": "write method='REML' or method='ML'",
    "family": "jaxlmm fits linear models, of normal errors",
    "control": "write engine= or start=",
    "na_action": "rows with missing values are dropped and counted",
}
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
            return f"{function}: no option {name!r}; {ELSEWHERE.get(name) or nearest(name, known)}"
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


def check_mapping(name: str, value: Any, example: str = "{'name': value}") -> None:
    """Refuse what is no mapping."""
    if not isinstance(value, Mapping):
        raise DataError(f"{name}: found {shown(value)}, expected a mapping such as {example}")


def check_number(name: str, value: Any, finite: bool = False) -> None:
    """Refuse what is no number, such as text, True and NaN."""
    of_array = hasattr(value, "__array__") and np.shape(value) == () and np.asarray(value).dtype.kind in "iuf"
    number = (isinstance(value, numbers.Real) and not isinstance(value, bool)) or isinstance(value, Decimal) or of_array
    if not number or not (np.isfinite(float(value)) if finite else value == value):
        raise DataError(f"{name}: found {shown(value)}, expected a number")


def check_flag_or_number(name: str, value: Any) -> None:
    """Refuse what is neither True nor False nor a number."""
    if not isinstance(value, (bool, np.bool_)):
        check_number(name, value)


def check_word(name: str, value: Any) -> None:
    """Refuse for an option that is a word what has several values, and cannot be compared with one."""
    if isinstance(value, list | dict | set) or (hasattr(value, "__array__") and np.ndim(value)):
        raise DataError(f"{name}: found {shown(value)}, expected text")


def check_choice(name: str, value: Any, known: Iterable[Any]) -> None:
    """Refuse what is not one of the values that there are."""
    known = list(known)
    if value not in known:
        raise DataError(f"{name}: found {shown(value)}, expected one of {', '.join(map(str, known))}")


def check_names(name: str, value: Any) -> None:
    """Refuse what is neither text nor several texts."""
    several = isinstance(value, Iterable) and not isinstance(value, Mapping | set | frozenset)
    several &= not hasattr(value, "columns")  # a data frame has names too
    if not (several and all(isinstance(one, str) for one in value)):
        raise DataError(f"{name}: found {shown(value)}, expected a name or a list of names")


def check_function(name: str, value: Any) -> None:
    """Refuse what cannot be called."""
    if not callable(value):
        raise DataError(f"{name}: found {shown(value)}, expected a function")


def check_progress(value: Any) -> None:
    """Refuse for `progress` what says neither how to show it nor is a function of what is done and the total."""
    if not callable(value):
        if isinstance(value, bool) or (isinstance(value, str) and value == "auto"):
            return
        raise DataError(f"progress: found {shown(value)}, expected 'auto', True, False or a function")
    try:
        inspect.signature(value).bind(0, 1)
    except TypeError:
        raise DataError(f"progress: found {shown(value)}, expected a function of (done, total)") from None
    except ValueError:  # built in, without a signature
        return


def numbers_of(name: str, value: Any, what: str = "numbers") -> np.ndarray:
    """An array of floats, or the error of an argument that is none, such as text, complex numbers and dates."""
    try:
        found = np.asarray(value)
        is_text = found.dtype == object and any(isinstance(v, str) for v in found.flat)
        if found.dtype.kind in "biufVO" and not is_text:  # "9" is not 9
            return np.asarray(value, float)
    except (TypeError, ValueError):
        pass
    raise DataError(f"{name}: found {shown(value)}, expected {what}")


def shown(value: Any) -> str:
    """A value in a message: itself, or its type where that is long."""
    text = repr(value)
    return f"a {type(value).__name__}" if len(text) > 60 or "\n" in text else text


def fresh_seed() -> int:
    """A seed that nobody has chosen."""
    return secrets.randbits(31)


def door(function: C) -> C:
    """Decorator of a public function that holds its caller to its signature.

    Options that it does not have are a TypeError with its name, where it hands options on to tests too; parameters
    annotated as bool take True or False and nothing else, those as numbers, mappings, functions or names such, words no
    arrays;
    ``seed=None`` is a seed drawn from the system.
    """
    signature = inspect.signature(function)
    parameters = signature.parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"]
    known = tuple(dict.fromkeys((*names, *(TESTS if any(p.kind == p.VAR_KEYWORD for p in parameters) else ()))))
    own = [p for p in parameters if p.name not in JUDGED]
    checks = [(p.name, check) for p in own if (check := _check_of(str(p.annotation))) is not None]

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        refuse_unknown(function.__qualname__, kwargs, known)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{function.__qualname__}: {error}; it takes {', '.join(names)}") from None
        for name, check in checks:
            if name in given:
                check(f"{function.__qualname__}: {name}", given[name])
        if "seed" in names and "seed" in given and given["seed"] is None:
            bound = signature.bind(*args, **kwargs)
            bound.arguments["seed"] = fresh_seed()
            args, kwargs = bound.args, bound.kwargs
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]


def _check_of(annotation: str) -> Callable[[str, Any], None] | None:
    """What holds a parameter to its annotation, where there is something."""
    kinds = annotation.removesuffix(" | None")
    known = {
        "bool": check_flag, "<class 'bool'>": check_flag, "str": check_word, "str | Sequence[str]": check_names,
        "float": check_number, "bool | float": check_flag_or_number,
    }  # fmt: skip
    if annotation == "Progress":
        return lambda name, value: check_progress(value)
    generic = {"Mapping[": check_mapping, "Callable[": check_function}
    found = known.get(kinds) or next((c for start, c in generic.items() if kinds.startswith(start)), None)
    if found is None or " | " in kinds.partition("]")[2]:
        return None
    return found if kinds == annotation else lambda name, value: None if value is None else found(name, value)


def doors(cls: T) -> T:
    """Class decorator: `door` for the public methods of a class that have options."""
    for name, method in list(vars(cls).items()):
        if not name.startswith("_") and inspect.isfunction(method) and len(inspect.signature(method).parameters) > 1:
            setattr(cls, name, door(method))
    return cls


def made(cls: T) -> T:
    """Class decorator: options that the constructor does not have are a TypeError with the nearest, as of a `door`."""
    init = cls.__init__  # type: ignore[misc]
    _, *parameters = inspect.signature(init).parameters.values()
    known = [p.name for p in parameters]
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        return cls

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        refuse_unknown(cls.__name__, kwargs, known)
        init(self, *args, **kwargs)

    cls.__init__ = checked  # type: ignore[misc]
    return cls
