"""What a simulation study is: cells, data, estimators, targets, replicates, a seed."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ..arguments import made
from ..errors import DataError
from ..runtime.sizes import MOST_DRAWS, check_count
from .cells import accepted, cells_of, named_in, resolved
from .describe import described, digest
from .estimators import Analysis, Row, estimators_of, targets_of
from .manifest import count_tasks

CHUNK = 1000
KEPT = "_programs"  # attribute of a study that was made from another one


class Task(NamedTuple):
    """A chunk: replicates lo..hi-1 of a cell, by all estimators or, where others have done theirs, by some."""

    cell: int
    lo: int
    hi: int
    only: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"cell {self.cell}, replicates {self.lo} to {self.hi - 1}"


@made
@dataclass(frozen=True, eq=False)
class Study:
    """A simulation study; see `jaxlmm.study.run`.

    Replicate r of a cell is drawn with the key ``fold_in(fold_in(fold_in(key(seed), w1), w2), r)``, where w1 and w2 are
    made of the values of the cell's factors: it is the same whatever the chunks, the executor and the order, and
    whatever other cells and levels there are.

    Parameters
    ----------
    design : a function of the cell's factors that returns the data without the response (data frame or dict of
        columns), see `jaxlmm.study.designs`; or such data. Columns that only `generate` returns need not be there
    generate : `MixedModel`, or a function ``f(key, data, **factors)`` in JAX or ``f(rng, data, **factors)`` in NumPy
        that returns a response (n,), or a dict of columns that differ between data sets (of NumPy, of any length);
        NaN in the response are rows that were lost
    estimators : a sequence of `Estimator`, and of analyses of one's own, `Analysis` or functions ``f(data)`` that
        return ``{target: (estimate, se, df, p)}``; all are applied to the same data
    targets : names (coefficients) with true values, or with a `Target`; a sequence of names where the truth is the
        generating model's
    replicates : data sets in each cell
    seed : of the whole study; a number, as a study that was interrupted goes on with it
    grid : the cells: factors and their levels (one, or a sequence; a level may be a list, a matrix, a mapping), all
        combinations of which are taken, the last factor fastest; or the cells one by one, a sequence of mappings
    response : its column
    chunk : data sets that are simulated and fitted together, and are a part on disk
    name, aims : in reports

    Raises
    ------
    DataError
        For what cannot be run, in one sentence.
    """

    design: Any
    generate: Any
    estimators: Any
    targets: Any
    replicates: int
    seed: int = 0
    grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]] = ()
    response: str = "y"
    chunk: int = CHUNK
    name: str = field(default="study")
    aims: str = ""

    def __post_init__(self) -> None:
        for name, value in (("estimators", estimators_of(self.estimators)), ("targets", targets_of(self.targets))):
            object.__setattr__(self, name, value)
        self._check()

    @cached_property
    def cells(self) -> tuple[dict[str, Any], ...]:
        """The factors of each cell."""
        return cells_of(self.grid)

    def _check(self) -> None:
        check_count("seed", self.seed)
        for name in ("name", "aims", "response"):
            if not isinstance(getattr(self, name), str):
                raise DataError(f"{name}: found {getattr(self, name)!r}, expected text")
        for name in ("replicates", "chunk"):
            check_count(name, getattr(self, name))
            if not 1 <= getattr(self, name) <= MOST_DRAWS:
                raise DataError(f"{name}: expected at least 1, at most {MOST_DRAWS:,}, found {getattr(self, name)}")
        names = [e.name for e in self.estimators]
        if not names or len(set(map(str, names))) < len(names) or not all(isinstance(name, str) for name in names):
            raise DataError(f"estimators: expected one or more with different names, found {names}")
        if not self.targets:
            raise DataError("targets: expected at least one, such as the name of a coefficient")
        try:
            count_tasks(len(self.cells), self.replicates, self.chunk)
        except ValueError as error:
            raise DataError(f"chunk: {error}") from None
        if not hasattr(self.generate, "drawer") and not callable(self.generate):
            raise DataError("generate: expected a MixedModel, or a function of (key, data) or (rng, data)")
        for estimator in self.estimators:
            estimator.check(self.targets)
        self.truths  # noqa: B018 - says what is wrong with expressions now, not in a worker

    @cached_property
    def unused(self) -> tuple[str, ...]:
        """Factors that neither the design, nor the generating model, nor a truth depends on."""
        known = list(self.cells[0])
        used = named_in([target.truth for target in self.targets.values()])
        own = [e.function for e in self.estimators if isinstance(e, Analysis)]
        for part in (self.design, self.generate, *own):
            if hasattr(part, "mentions"):
                used |= part.mentions(known)
            elif hasattr(part, "drawer"):
                return ()  # an object that may use all
            elif callable(part):
                used |= accepted(part, dict.fromkeys(known)).keys()
        return tuple(factor for factor in known if factor not in used)

    if TYPE_CHECKING:  # hung on by `single`

        def replicate(self, cell: int | Mapping[str, Any] = 0, number: int = 0) -> Any:  # noqa: D102
            ...

    @property
    def rows(self) -> list[Row]:
        """What every data set has a row of numbers for, in the order of the parts."""
        return [row for estimator in self.estimators for row in estimator.rows(self.targets)]

    @property
    def tasks(self) -> list[Task]:
        """All chunks, in order."""
        return tasks_of([self.replicates] * len(self.cells), self.chunk)

    @cached_property
    def truths(self) -> list[dict[str, float | None]]:
        """True values of the targets in each cell, None where not known."""
        return [{name: self._truth(name, cell) for name in self.targets} for cell in self.cells]

    def _truth(self, name: str, cell: Mapping[str, Any]) -> float | None:
        target = self.targets[name]
        if target.truth is not None:
            return resolved(target.truth, cell, f"targets[{name!r}]")
        known = getattr(self.generate, "beta", None)
        if known is None or target.is_variance:
            return None
        values = {c: resolved(known.get(c, 0.0), cell, f"beta[{c!r}]") for c in target.weights}
        if target.is_joint:
            return max(values.values(), key=abs)
        return sum(w * values[c] for c, w in target.weights.items())

    def data(self, cell: int) -> Any:
        """The design of a cell."""
        if not callable(self.design):
            return self.design
        used = accepted(self.design, self.cells[cell])  # others are for the generating model
        try:
            inspect.signature(self.design).bind(**used)
        except TypeError as error:
            raise DataError(f"design: cannot be called with the factors {list(self.cells[cell])}: {error}") from None
        return self.design(**used)

    @property
    def programs(self) -> dict[str, Any]:
        """What the study does now, as JSON; or did when it was `changed`: functions may fill caches of their own."""
        return vars(self).get(KEPT) or {
            name: described(getattr(self, name)) for name in ("targets", "estimators", "design", "generate")
        }

    @property
    def description(self) -> dict[str, Any]:
        """All that the numbers depend on, as JSON."""
        names = ("name", "aims", "replicates", "seed", "chunk", "response", "cells")
        return {name: described(getattr(self, name)) for name in names} | self.programs

    def changed(self, **changes: Any) -> Study:
        """The same programs with other cells, replicates or seed."""
        new = dataclasses.replace(self, **changes)
        vars(new)[KEPT] = self.programs
        return new

    @property
    def hash(self) -> str:
        """Digest of the description; its name, its aims and its chunks are not what a study is."""
        words = ("name", "aims", "chunk")
        return digest({name: part for name, part in self.description.items() if name not in words})


def tasks_of(replicates: Sequence[int], chunk: int, there: Iterable[Task] = ()) -> list[Task]:
    """The chunks of what is not there, in order, cut at multiples of the chunk; `replicates` of each cell."""
    done: dict[int, list[Task]] = {}
    for task in there:
        done.setdefault(task.cell, []).append(task)
    out = []
    for cell, count in enumerate(replicates):
        at = 0
        for lo, hi in [*sorted((t.lo, t.hi) for t in done.get(cell, ())), (count, count)]:
            while at < min(lo, count):
                end = min((at // chunk + 1) * chunk, lo, count)
                out.append(Task(cell, at, end))
                at = end
            at = max(at, hi)
    return out
