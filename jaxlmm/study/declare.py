"""What a simulation study is: cells, data, estimators, targets, replicates, a seed."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..formula.expressions import ExpressionError, evaluate, normalise
from ..inference.fixed_effects.in_batches import METHODS, Tests
from ..runtime.sizes import MOST_DRAWS, check_count
from .describe import described, digest
from .manifest import MOST_TASKS, count_tasks

CHUNK = 1000
ESTIMATE = "estimate"  # the test of targets that have none: variances
LRT = "lrt"


class Row(NamedTuple):
    """What a data set has one row of numbers for."""

    estimator: str
    test: str
    target: str


class Task(NamedTuple):
    """A chunk: replicates lo..hi-1 of a cell."""

    cell: int
    lo: int
    hi: int

    def __str__(self) -> str:
        return f"cell {self.cell}, replicates {self.lo} to {self.hi - 1}"


@dataclass(frozen=True, eq=False)
class Target:
    """A quantity that is estimated.

    Parameters
    ----------
    truth : its true value: a number, an expression of the factors of the grid (``"effect"``, ``"sqrt(icc)"``), or None,
        then that of the generating model's coefficients
    of : a coefficient's name, weights of several ``{"arm": 1, "arm:visit2": 1}``, or what a bootstrap reports of
        variances: ``"sigma"``, ``"sd_(Intercept)|cluster"``; default the target's own name
    null : the value that is tested
    """

    truth: Any = None
    of: str | Mapping[str, float] | None = None
    null: float = 0.0

    @property
    def is_variance(self) -> bool:
        """Whether it is a standard deviation or a correlation, of which there is no test."""
        return isinstance(self.of, str) and (self.of == "sigma" or self.of.startswith(("sd_", "cor_")))

    @property
    def weights(self) -> Mapping[str, float]:
        """Weights of the coefficients."""
        return {self.of: 1.0} if isinstance(self.of, str) else self.of or {}


@dataclass(frozen=True, eq=False)
class Estimator:
    """A model that is fitted to every data set, and the tests of its coefficients; see `jaxlmm.lmm` and `jaxlmm.Tests`.

    Parameters
    ----------
    name : in tables
    formula, method, residual, variance, weights, offset, relationship, structures, engine : as for `jaxlmm.lmm`
    df : degrees of freedom, one or several of "satterthwaite", "kenward-roger", "kenward-roger-full", "residual",
        "asymptotic" (Wald's z), all from the same fit
    robust : a sandwich of `jaxlmm.Tests` in addition
    lrt : formula of the model without the target, for a likelihood ratio test in addition (by ML); a mapping from
        targets to formulas where there are several
    information, boundary_df : as in `jaxlmm.Tests`
    """

    name: str
    formula: str
    method: str = "REML"
    df: str | Sequence[str] = "satterthwaite"
    robust: str | None = None
    lrt: str | Mapping[str, str] | None = None
    residual: Any = None
    variance: str | None = None
    weights: str | None = None
    offset: str | None = None
    relationship: Mapping[str, Any] | None = None
    structures: Mapping[str, Any] | None = None
    engine: str = "auto"
    information: str | None = None
    boundary_df: str | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """The df methods."""
        return (self.df,) if isinstance(self.df, str) else tuple(self.df)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `jaxlmm.lmm` beside formula, data and method."""
        names = ("residual", "variance", "weights", "offset", "relationship", "structures", "engine")
        return {name: getattr(self, name) for name in names}

    def null_formula(self, target: str) -> str | None:
        """The model without a target."""
        return self.lrt.get(target) if isinstance(self.lrt, Mapping) else self.lrt

    def rows(self, targets: Mapping[str, Target]) -> list[Row]:
        """What there is a row of numbers for, in order: tests, then targets."""
        robust = () if self.robust is None else (self.robust,)
        tested = [name for name, target in targets.items() if not target.is_variance]
        out = [Row(self.name, test, name) for test in (*self.methods, *robust) for name in tested]
        out += [Row(self.name, LRT, name) for name in tested if self.null_formula(name)]
        return out + [Row(self.name, ESTIMATE, name) for name, target in targets.items() if target.is_variance]

    def check(self, targets: Mapping[str, Target]) -> None:
        """Refuse what cannot be done, before anything runs."""
        if self.method not in ("REML", "ML"):
            raise DataError(f"estimator {self.name!r}: method: found {self.method!r}, expected 'REML' or 'ML'")
        for method in self.methods:
            if method not in METHODS:
                raise DataError(f"estimator {self.name!r}: df: found {method!r}, expected some of {', '.join(METHODS)}")
            if method.startswith("kenward") and self.method == "ML":
                raise DataError(f"estimator {self.name!r}: df: {method!r} is for REML, found method 'ML'")
        Tests([[1.0]], df=self.methods, information=self.information, boundary_df=self.boundary_df, robust=self.robust)
        tested = [name for name, target in targets.items() if not target.is_variance]
        if self.lrt is None:
            return
        if self.method != "ML":
            raise DataError(f"estimator {self.name!r}: lrt compares fixed effects, which needs method='ML'")
        if isinstance(self.lrt, str) and len(tested) > 1:
            raise DataError(f"estimator {self.name!r}: lrt: expected a mapping from targets to formulas, as there are "
                            f"several targets ({', '.join(tested)})")  # fmt: skip
        for name in tested:
            if self.null_formula(name) and targets[name].null != 0.0:
                raise DataError(f"estimator {self.name!r}: lrt leaves the target out, which tests 0, not the null "
                                f"{targets[name].null:g} of {name!r}")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Study:
    """A simulation study; see `jaxlmm.study.run`.

    Replicate r of cell c is drawn with the key ``fold_in(fold_in(key(seed), c), r)``: it is the same whatever the
    chunks, the executor and the order.

    Parameters
    ----------
    design : a function of the cell's factors that returns the data without the response (data frame or dict of
        columns), see `jaxlmm.study.designs`; or such data
    generate : `MixedModel`, or a function ``f(key, data, **factors)`` in JAX or ``f(rng, data, **factors)`` in NumPy
        that returns a response (n,), or a dict of columns that differ between data sets (of NumPy, of any length);
        NaN in the response are rows that were lost
    estimators : a sequence of `Estimator`, all fitted to the same data
    targets : names (coefficients) with true values, or with a `Target`; a sequence of names where the truth is the
        generating model's
    replicates : data sets in each cell
    seed : of the whole study; a number, as a study that was interrupted goes on with it
    grid : the cells: factors and their levels, all combinations of which are taken, the last factor fastest; or the
        cells one by one, a sequence of mappings
    response : its column
    chunk : data sets that are simulated and fitted together, and are a part on disk
    name : in reports

    Raises
    ------
    DataError
        For what cannot be run, in one sentence.
    """

    design: Any
    generate: Any
    estimators: Sequence[Estimator]
    targets: Any
    replicates: int
    seed: int = 0
    grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]] = ()
    response: str = "y"
    chunk: int = CHUNK
    name: str = field(default="study")

    def __post_init__(self) -> None:
        estimators = (self.estimators,) if isinstance(self.estimators, Estimator) else tuple(self.estimators)
        for name, value in (("estimators", estimators), ("targets", _targets(self.targets))):
            object.__setattr__(self, name, value)
        self._check()

    @cached_property
    def cells(self) -> tuple[dict[str, Any], ...]:
        """The factors of each cell."""
        if not isinstance(self.grid, Mapping):
            return tuple(dict(cell) for cell in self.grid) or ({},)
        levels = [list(itertools.islice(v, MOST_TASKS + 1)) for v in self.grid.values()]
        if (count := math.prod(map(len, levels))) > MOST_TASKS:
            raise DataError(f"grid: makes at least {count:,} cells, more than {MOST_TASKS:,}; take fewer levels")
        return tuple(dict(zip(self.grid, chosen, strict=True)) for chosen in itertools.product(*levels))

    def _check(self) -> None:
        if not self.cells:
            raise DataError("grid: a factor has no levels; give each at least one")
        check_count("seed", self.seed)
        for name in ("replicates", "chunk"):
            check_count(name, getattr(self, name))
            if not 1 <= getattr(self, name) <= MOST_DRAWS:
                raise DataError(f"{name}: expected at least 1, at most {MOST_DRAWS:,}, found {getattr(self, name)}")
        names = [e.name for e in self.estimators]
        if not names or len(set(names)) < len(names):
            raise DataError(f"estimators: expected one or more with different names, found {names}")
        if not self.targets:
            raise DataError("targets: expected at least one, such as the name of a coefficient")
        try:
            count_tasks(len(self.cells), self.replicates, self.chunk)
        except ValueError as error:
            raise DataError(f"chunk: {error}") from None
        if any(set(cell) != set(self.cells[0]) for cell in self.cells):
            raise DataError("grid: expected the same factors in every cell")
        for factor in self.cells[0]:
            if not str(factor).isidentifier() or factor in ("key", "rng", "data", *RESERVED):
                raise DataError(f"grid: the factor {factor!r} is not a usable name, choose another")
        if not hasattr(self.generate, "drawer") and not callable(self.generate):
            raise DataError("generate: expected a MixedModel, or a function of (key, data) or (rng, data)")
        for estimator in self.estimators:
            estimator.check(self.targets)
        self.truths  # noqa: B018 - says what is wrong with expressions now, not in a worker

    @property
    def rows(self) -> list[Row]:
        """What every data set has a row of numbers for, in the order of the parts."""
        return [row for estimator in self.estimators for row in estimator.rows(self.targets)]

    @property
    def tasks(self) -> list[Task]:
        """All chunks, in order."""
        return tasks_of(len(self.cells), self.replicates, self.chunk)

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
        return sum(w * resolved(known.get(c, 0.0), cell, f"beta[{c!r}]") for c, w in target.weights.items())

    def data(self, cell: int) -> Any:
        """The design of a cell."""
        if not callable(self.design):
            return self.design
        try:
            inspect.signature(self.design).bind(**self._used(cell))
        except TypeError as error:
            raise DataError(f"design: cannot be called with the factors {list(self.cells[cell])}: {error}") from None
        return self.design(**self._used(cell))

    def _used(self, cell: int) -> dict[str, Any]:
        """The factors that the design takes; others are for the generating model."""
        return accepted(self.design, self.cells[cell])

    @cached_property
    def description(self) -> dict[str, Any]:
        """All that the numbers depend on, as JSON."""
        names = ("name", "replicates", "seed", "chunk", "response", "cells", "targets", "estimators")
        out = {name: described(getattr(self, name)) for name in names}
        return {**out, "design": described(self.design), "generate": described(self.generate)}

    @property
    def hash(self) -> str:
        """Digest of the description."""
        return digest(self.description)


def tasks_of(cells: int, replicates: int, chunk: int) -> list[Task]:
    """All chunks, in order."""
    starts = range(0, replicates, chunk)
    return [Task(cell, lo, min(lo + chunk, replicates)) for cell in range(cells) for lo in starts]


RESERVED = ("cell", "replicate", "estimator", "test", "target", "estimate", "se", "df", "p", "status", "measure",
            "value", "mcse", "count", "converged", "singular")  # fmt: skip


def accepted(function: Callable[..., Any], factors: Mapping[str, Any]) -> dict[str, Any]:
    """The factors that a function takes: all of them if it has ``**``."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(factors)
    return {name: value for name, value in factors.items() if name in parameters}


def resolved(value: Any, factors: Mapping[str, Any], what: str) -> float:
    """A number, or the value of an expression of the factors."""
    if not isinstance(value, str):
        return float(value)
    columns = {k: np.array([v], float) for k, v in factors.items() if isinstance(v, int | float)}
    try:
        return float(np.ravel(evaluate(normalise(value), columns))[0])
    except (ExpressionError, KeyError, IndexError) as error:
        raise DataError(
            f"{what}: cannot evaluate {value!r} with the factors {', '.join(columns) or '(none)'}: {error}"
        ) from None


def _targets(given: Any) -> dict[str, Target]:
    if isinstance(given, str):
        given = [given]
    pairs = given.items() if isinstance(given, Mapping) else [(name, None) for name in given]
    out = {}
    for name, value in pairs:
        target = value if isinstance(value, Target) else Target(value)
        of = name if target.of is None else target.of
        if not isinstance(of, str | Mapping) or not of:
            raise DataError(f"targets[{name!r}]: of: expected a name or weights of coefficients, found {of!r}")
        out[name] = Target(target.truth, of if isinstance(of, str) else dict(of), float(target.null))
    return out
