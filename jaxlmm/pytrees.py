"""Frozen dataclasses as JAX pytrees: registered once, copied with changes, never checked twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from .arguments import refuse_unknown

T = TypeVar("T")


def frozen_pytree(data: Sequence[str] | None = None, meta: Sequence[str] = ()) -> Callable[[type[T]], type[T]]:
    """Class decorator: register a frozen dataclass as a pytree whose constructor checks are skipped by JAX.

    All of its fields are data where none are named.
    """

    def register(cls: type[T]) -> type[T]:
        names = [f.name for f in dataclasses.fields(cls)] if data is None else data  # type: ignore[arg-type]

        def flatten_with_keys(obj: Any) -> tuple[Any, Any]:
            children = [(jax.tree_util.GetAttrKey(name), getattr(obj, name)) for name in names]
            return children, tuple(getattr(obj, name) for name in meta)

        def unflatten(aux: Any, children: Any) -> Any:
            obj = object.__new__(cls)
            for name, value in (*zip(names, children, strict=True), *zip(meta, aux, strict=True)):
                object.__setattr__(obj, name, value)
            return obj

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten)
        return cls

    return register


def is_traced(*values: Any) -> bool:
    """True when any leaf is a JAX tracer (inside jit, vmap or grad), whose values cannot be looked at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree_util.tree_leaves(values))


def replace(obj: T, **changes: Any) -> T:
    """Copy of a frozen dataclass with some fields changed and no values checked; a TypeError for other names."""
    names = [field.name for field in dataclasses.fields(obj)]  # type: ignore[arg-type]
    refuse_unknown(f"replace of {type(obj).__name__}", changes, names)
    new = object.__new__(type(obj))
    for name in names:
        object.__setattr__(new, name, changes.get(name, getattr(obj, name)))
    return new


class _Kept(dict[Any, Any]):
    """What was made of a frozen object; not pickled, nor copied deeply."""

    def __reduce__(self) -> Any:
        return _Kept, ()


def once(obj: Any, key: Any, make: Callable[[], T]) -> T:
    """What `make` gives, kept with a frozen object under a key; its copies with changes, and JAX, make their own."""
    kept = vars(obj).setdefault("_kept", _Kept())
    if key in kept:
        return kept[key]
    found = make()
    return found if is_traced(found) else kept.setdefault(key, found)


def set_all(obj: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass inside its own constructor."""
    for name, value in values.items():
        object.__setattr__(obj, name, value)
