"""The engines there are, and the choice among them: each is asked what it can do."""

from __future__ import annotations

from typing import Any

from ...errors import DataError
from .crossed.choice import CrossedEngine
from .dense import Dense
from .grouped.choice import GroupedEngine
from .iterative.options import Iterative
from .marginal.choice import MarginalEngine
from .protocol import Engine
from .spectral import SpectralEngine

DENSE, MARGINAL = Dense(), MarginalEngine()
ENGINES: tuple[Engine, ...] = (GroupedEngine(), CrossedEngine(), Iterative(), SpectralEngine(), MARGINAL, DENSE)
NAMED = {engine.name: engine for engine in ENGINES}


def choose(engine: Any, model: Any) -> Engine:
    """The engine that will do the work: the one asked for, or for "auto" the one that needs least of those that can.

    Raises
    ------
    DataError
        For what is no engine, and for an engine that cannot do this model.
    """
    found = _preferred(model) if isinstance(engine, str) and engine == "auto" else as_engine(engine)
    reason = found.can(model)
    if reason is not None:
        raise DataError(f"engine: {found.name!r} {reason}")
    return found


def _preferred(model: Any) -> Engine:
    best: tuple[int, Engine] | None = None
    for engine in ENGINES:
        rank = engine.preference(model)
        if rank is not None and (best is None or rank < best[0]):
            best = rank, engine
        if rank == 0:
            break
    assert best is not None
    return best[1]


def as_engine(engine: Any) -> Engine:
    """An engine by its name, or itself."""
    if isinstance(engine, Engine):
        known = NAMED.get(engine.name)
        if not engine.name or (known is not None and type(known) is not type(engine)):
            raise DataError(f"engine: {type(engine).__name__} has the name {engine.name!r}, expected one of its own")
        return engine
    if isinstance(engine, str) and engine in NAMED:
        return NAMED[engine]
    names = ", ".join(sorted(NAMED))
    raise DataError(f"engine: found {engine!r}, expected one of auto, {names}, or an object of a class of engines")
