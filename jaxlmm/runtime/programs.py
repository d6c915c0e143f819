"""Compiled programs, of which those least recently used are dropped before the process has too many.

JAX compiles a function again for every shape of its arguments and keeps the programs for as long as the function
lives. Each takes tens of memory maps, of which Linux allows a process 65 530 (``vm.max_map_count``); where they run out
the compiler ends the process. A program can be dropped alone if it has a function of its own, which is therefore made
for every shape: with the last reference to it its program goes, and its maps. A thread that is running a program, or
tracing through one, has such a reference. Keys need not tell everything apart that JAX does: they decide what is
dropped together, never which program is run.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from pathlib import Path
from threading import Lock
from typing import Any

import jax
import numpy as np

from .devices import platform
from .sharding import varying, varying_axes

QUICKLY = {"xla_backend_optimization_level": 0}  # compiler options that leave out the expensive passes
SHORT = 200_000  # numbers * parameters below which compiling costs more than running
MOST = 256  # programs kept, at one to four megabytes each
FEW = 32  # kept however many maps there are: others may be the user's
SHARE = 1 / 8  # of the maps that the system allows, above which programs are dropped


class Programs:
    """Programs by a key, at most `most` of them, and fewer where the process has more than `maps` memory maps.

    Parameters
    ----------
    maps : None for a share of what the system allows, without effect where it does not say
    few : number that is kept in any case
    """

    def __init__(self, most: int = MOST, maps: int | None = None, few: int = FEW):
        self.most, self.maps, self.few = most, maps, few
        self._kept: OrderedDict[Hashable, Callable[..., Any]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """The program of a key, made where there is none; only then is anything counted or dropped."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        self._make_room()
        with self._lock:
            return self._kept.setdefault(key, make())

    def clear(self) -> None:
        """Drop all programs."""
        with self._lock:
            self._kept.clear()

    def _make_room(self) -> None:
        limit = allowed_maps() if self.maps is None else self.maps
        while len(self._kept) >= self.most or (len(self._kept) > self.few and (memory_maps() or 0) > limit):
            with self._lock:
                oldest = list(self._kept)[: max(1, len(self._kept) // 8)]
                dropped = [self._kept.pop(key) for key in oldest]
            del dropped  # here they are released, outside of the lock


def memory_maps() -> int | None:
    """Memory maps of this process, None where the system does not say."""
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return None


def allowed_maps() -> float:
    """Memory maps above which programs are dropped."""
    try:
        return SHARE * int(Path("/proc/sys/vm/max_map_count").read_bytes())
    except (OSError, ValueError):
        return float("inf")


PROGRAMS = Programs()


def compiled(
    *static: str, options: dict[str, Any] | None = None, programs: Programs = PROGRAMS
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # fmt: skip
    """Decorator as `jax.jit`, whose programs are dropped when they have not been used for long.

    Parameters
    ----------
    static : names of arguments that are hashable and not traced
    options : of the compiler
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        names = list(inspect.signature(function).parameters)
        places = [names.index(name) for name in static]

        def make() -> Callable[..., Any]:
            @wraps(function)
            def own(*args: Any, **kwargs: Any) -> Any:
                return function(*args, **kwargs)

            return jax.jit(own, static_argnames=static, compiler_options=options)

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            constants = [kwargs[name] if name in kwargs else args[i] for name, i in zip(static, places, strict=True)]
            traced = [arg for i, arg in enumerate(args) if i not in places]
            if axes := varying_axes(traced, kwargs):
                args = tuple(arg if i in places else varying(arg, axes) for i, arg in enumerate(args))
                kwargs = {name: arg if name in static else varying(arg, axes) for name, arg in kwargs.items()}
            leaves, tree = jax.tree_util.tree_flatten((traced, {k: v for k, v in kwargs.items() if k not in static}))
            shapes = tuple((getattr(x, "shape", None), getattr(x, "dtype", type(x))) for x in leaves)
            return programs.get((run, *constants, tree, shapes), make)(*args, **kwargs)

        return run

    return decorate


def compiled_by_size(function: Callable[..., Any], *static: str) -> Callable[..., Callable[..., Any]]:
    """Compile a function in two ways; ``choose(statistics, k)`` gives the one for statistics and k parameters.

    A small problem is compiled without the expensive passes: running it takes less time than they would.
    """
    slow = compiled(*static)(function)
    quick = compiled(*static, options=QUICKLY)(function)

    def choose(statistics: Any, k: int) -> Callable[..., Any]:
        size = sum(np.size(leaf) for leaf in jax.tree_util.tree_leaves(statistics))
        return quick if size * k < SHORT and platform() == "cpu" else slow

    return choose
