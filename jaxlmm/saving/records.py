"""Values as JSON can hold them, arrays aside, and back: floats bit for bit, classes by a name that is looked up.

An object of JSON has one key, its tag: ``{"tuple": [...]}``, ``{"array": "a3"}``, ``{"record": ["Estimate", ...]}``.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from .. import covariance
from ..covariance.content import frozen
from ..covariance.parametric import Parametric
from ..errors import DataError
from ..formula.specs import class_of
from ..likelihood.engines import NAMED, Engine
from .archive import NUMBERS

# by class alone: files of earlier versions know other modules
SHIPPED = {c.__qualname__: c for c in vars(covariance).values() if isinstance(c, type)}


def name_of(cls: type) -> str:
    """Qualified name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


class Packer:
    """Turns values into JSON; `arrays` are those that it met."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def array(self, values: Any) -> dict[str, str]:
        """Put an array aside."""
        name = f"a{len(self.arrays)}"
        self.arrays[name] = np.asarray(values, order="C")
        return {"array": name}

    def pack(self, value: Any, what: str) -> Any:
        """A value as JSON; `what` it is, for messages.

        Raises
        ------
        DataError
            For an object that cannot be written without its code.
        """
        if value is None or isinstance(value, bool | str) or type(value) is int:
            return value
        if type(value) is float:
            return value if np.isfinite(value) else {"float": str(value)}
        if isinstance(value, np.ndarray | np.generic | jax.Array) and np.asarray(value).dtype.kind in NUMBERS:
            return self.array(value)
        if isinstance(value, enum.Enum):
            return {"enum": [type(value).__name__, value.value]}
        if isinstance(value, Parametric):
            state = {name: v for name, v in vars(value).items() if name != "_read"}  # of this process
            state = self.pack(state, f"{type(value).__name__} in {what}")
            return {"structure": [self.pack(type(value), what), state]}
        if isinstance(value, type) and issubclass(value, Parametric):
            return {"class": [name_of(value), [p.name for p in value.fields]]}
        if isinstance(value, Engine) and not (dataclasses.is_dataclass(value) and value.name in NAMED):
            return {"engine": value.name}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return self._record(type(value), value._fields, value, what)
        if dataclasses.is_dataclass(value) and type(value).__module__.startswith("jaxlmm."):
            return self._record(type(value), tuple(f.name for f in dataclasses.fields(value)), value, what)
        if isinstance(value, Mapping):
            return {"dict": [[self.pack(k, what), self.pack(v, f"{k!r} of {what}")] for k, v in value.items()]}
        if isinstance(value, list):
            return [self.pack(v, what) for v in value]
        if isinstance(value, tuple):
            return {"tuple": [self.pack(v, what) for v in value]}
        raise DataError(
            f"save: {what} holds an object of {name_of(type(value))}, which cannot be written as data; expected "
            "numbers, text, arrays or covariance structures"
        )

    def _record(self, cls: type, names: tuple[str, ...], value: Any, what: str) -> Any:
        own = [[name, self.pack(getattr(value, name), f"{name} of {what}")] for name in names]
        return {"record": [cls.__name__, own]}


class Unpacker:
    """Turns JSON and arrays into values.

    Parameters
    ----------
    arrays : by name
    records : classes that may be made, by name
    structures : classes of covariance structures that are not shipped, by the name they have in formulas
    path : of the file, for messages
    engines : that are not shipped
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        records: Mapping[str, Any],
        structures: Mapping[str, Any],
        path: Any,
        engines: Sequence[Engine] = (),
    ):
        self.arrays, self.records, self.structures, self.path = arrays, records, structures, path
        self.engines = {**NAMED, **{engine.name: engine for engine in engines}}

    def unpack(self, value: Any) -> Any:
        """The value of what `Packer.pack` gave.

        Raises
        ------
        DataError
            For a covariance structure or an engine that is not known.
        KeyError, TypeError, ValueError
            For what `Packer.pack` does not give.
        """
        if isinstance(value, list):
            return [self.unpack(v) for v in value]
        if not isinstance(value, dict):
            return value
        ((tag, content),) = value.items()
        if tag == "float":
            return {"nan": float("nan"), "inf": float("inf"), "-inf": -float("inf")}[content]
        if tag == "array":
            found = self.arrays[content]
            return found if found.ndim else found[()]
        if tag == "constant":  # of version 0.1
            return self.unpack(content)
        if tag == "tuple":
            return tuple(self.unpack(v) for v in content)
        if tag == "dict":
            return {self.unpack(k): self.unpack(v) for k, v in content}
        if tag == "enum":
            return self.records[content[0]](content[1])
        if tag == "record":
            return self.records[content[0]](**{name: self.unpack(v) for name, v in content[1]})
        if tag == "engine":
            if content not in self.engines:
                raise DataError(
                    f"engines: {self.path} was made with the engine {content!r}, which is not one of jaxlmm; give an "
                    "object of its class, jaxlmm.load(path, engines=[...])"
                )
            return self.engines[content]
        if tag == "class":
            return self.structure(*content)
        if tag == "structure":
            structure: Any = object.__new__(self.unpack(content[0]))  # its values have been checked when it was made
            structure.__dict__.update((name, frozen(name, v)) for name, v in self.unpack(content[1]).items())
            return structure
        raise ValueError(f"unknown kind of value {tag!r}")

    def structure(self, qualified: str, fields: list[str], name: str | None = None) -> type:
        """The class of a covariance structure: a shipped one, or one that was given."""
        short = qualified.rpartition(".")[2]
        classes = {n: class_of(c) for n, c in self.structures.items()}
        given = [c for n, c in classes.items() if n == name or c.__qualname__ == short]
        shipped = SHIPPED.get(short) if qualified.startswith("jaxlmm.covariance.") else None
        found: Any = shipped or (given[0] if given else None)
        if found is None:
            raise DataError(
                f"{self.path}: the fit has the covariance structure {qualified}, which is not one of jaxlmm's; give "
                f"its class: jaxlmm.load(path, structures={{{name or short!r}: {short}}})"
            )
        if [p.name for p in found.fields] != fields:
            raise DataError(
                f"structures: {name_of(found)} has the parameters {[p.name for p in found.fields]}, but the fit in "
                f"{self.path} was made with {fields}; give the class that it was made with"
            )
        return found
