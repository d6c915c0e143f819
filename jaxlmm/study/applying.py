"""Applying an estimator of any kind to the data sets of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ..distributions import t_tail
from ..errors import DataError
from .cells import accepted
from .declare import Study
from .drawing import RAISES, Drawn, arrays, sentence_of
from .estimate import FLOATS, HOPELESS, NO_TARGET, Fitter, Numbers, without_lost
from .estimators import Analysis, Target


class Analyst:
    """Applies an analysis to data sets of one cell, as `Fitter` does a model.

    Parameters
    ----------
    data : columns of the design;  factors : of the cell
    """

    def __init__(
        self, analysis: Analysis, targets: Mapping[str, Target], data: Mapping[str, Any], factors: Mapping[str, Any],
        response: str,
    ):  # fmt: skip
        self.estimator, self.targets, self.response = analysis, targets, response
        self.rows = analysis.rows(targets)
        self.data = arrays(data)
        self._factors = accepted(analysis.function, factors)
        self._every = jax.jit(jax.vmap(self._one, in_axes=(0,))) if analysis.vectorised else None

    def _one(self, columns: Mapping[str, Any]) -> Any:
        return self.estimator.function({**self.data, **columns}, **self._factors)

    def __call__(self, drawn: Drawn, b: int) -> Numbers:
        """Numbers of all data sets, in the order of `rows`."""
        out = Numbers.empty(len(self.rows), b)
        if self._every is not None and drawn.tables is None:
            self._write(out, np.arange(b), self._numbers(self._every(drawn.columns), b))
            return out
        for i in range(b):
            try:
                self._write(out, np.array([i]), self._numbers(self.alone(drawn.table(i, self.data)), 1))
            except MemoryError:
                raise
            except RAISES as error:  # of the user's function: a status of this data set
                out.fail(i, "estimate_failed", sentence_of(error))
        return out

    def rehearse(self, table: Mapping[str, Any]) -> None:
        """Apply it to one data set; raises what is wrong with it."""
        found = self._numbers(self.alone(table), 1)
        if not found:
            raise DataError(f"returned none of the targets {', '.join(self.targets)}")
        if wrong := _impossible(found):
            raise DataError(wrong[0])

    def alone(self, table: Mapping[str, Any], key: Any = None) -> Any:
        """What the function makes of one data set."""
        plain = {name: np.array(values) for name, values in table.items()}  # its own: others have the same data set
        plain = plain if self.estimator.vectorised else without_lost(plain, self.response)
        return self.estimator.function(plain, **self._factors)

    def _numbers(self, found: Any, b: int) -> dict[str, np.ndarray]:
        """Estimate, standard error, degrees of freedom and p-value (4, b) of the targets that were returned."""
        if not isinstance(found, Mapping):
            raise DataError(
                f"returned {type(found).__name__}, expected a mapping from targets to (estimate, se, df, p)"
            )
        if unknown := [name for name in found if name not in self.targets]:
            raise DataError(f"returned {unknown[0]!r}, expected some of the targets {', '.join(self.targets)}")
        out = {}
        for name, given in found.items():
            if isinstance(given, Mapping):
                if unknown := [key for key in given if key not in FLOATS]:
                    raise DataError(f"{name}: returned {unknown[0]!r}, expected some of {', '.join(FLOATS)}")
                given = [given.get(key) for key in FLOATS]
            several = list(given) if isinstance(given, tuple | list) or np.ndim(given) > (b > 1) else [given]
            if len(several) > len(FLOATS):
                raise DataError(f"{name}: returned {len(several)} numbers, expected (estimate, se, df, p)")
            several += [None] * (len(FLOATS) - len(several))
            if any(np.iscomplexobj(v) for v in several):
                raise DataError(f"{name}: returned complex numbers, expected real ones")
            out[name] = np.stack(
                [np.full(b, np.nan) if v is None else np.broadcast_to(v, b).astype(float) for v in several]
            )
        return out

    def _write(self, out: Numbers, places: np.ndarray, found: Mapping[str, np.ndarray]) -> None:
        wrong = _impossible(found)
        for own in found.values():
            own[:, list(wrong)] = np.nan
        for r, row in enumerate(self.rows):
            if row.target not in found:
                out.status[r, places] = NO_TARGET
                continue
            estimate, se, df, p = found[row.target]
            df = np.where(np.isnan(df) & ~np.isnan(se), np.inf, df)
            p = np.where(np.isnan(p), t_tail((estimate - self.targets[row.target].null) / se, df), p)
            has = np.isfinite(estimate) | np.isfinite(p)
            for name, values in zip(FLOATS, (estimate, se, df, p), strict=True):
                getattr(out, name)[r, places] = values
            out.status[r, places] = np.where(has, 0, out.status[r, places])
            out.converged[r, places] = has
        for i, message in wrong.items():
            out.fail(int(places[i]), "estimate_failed", message)


def _impossible(found: Mapping[str, np.ndarray]) -> dict[int, str]:
    """What is no estimate, standard error, number of degrees of freedom or p-value (4, b), by data set."""
    out: dict[int, str] = {}
    for name, (estimate, se, df, p) in found.items():
        for what, values, bad, expected in (
            ("estimate", estimate, np.isinf(estimate), "a finite number"), ("se", se, se < 0, "0 or more"),
            ("df", df, df <= 0, "a positive number"), ("p", p, (p < 0) | (p > 1), "0 to 1"),
        ):  # fmt: skip
            for i in np.flatnonzero(bad):
                out.setdefault(int(i), f"{name}: {what}: returned {values[i]:g}, expected {expected}")
    return out


def fitter_of(study: Study, estimator: Any, cell: int, data: dict[str, Any]) -> Any:
    """What applies an estimator to the data sets of a cell with the columns `data`."""
    if hasattr(estimator, "fitter"):
        return estimator.fitter(study.targets, data, study.cells[cell], study.response)
    if isinstance(estimator, Analysis):
        return Analyst(estimator, study.targets, data, study.cells[cell], study.response)
    return Fitter(estimator, study.targets, data, study.response)


def attempt(fitter: Any, drawn: Drawn, b: int) -> Numbers:
    """Numbers of all data sets; what raises for one of them is a status there, the others have their numbers."""
    out = Numbers.empty(len(fitter.rows), b)
    for i, message in drawn.errors.items():
        out.fail(i, "generate_failed", message)
    waiting, failed = [np.array([i for i in range(b) if i not in drawn.errors], int)], 0
    while waiting:
        places = waiting.pop()
        if not len(places):
            continue
        try:
            out.put(places, fitter(drawn if len(places) == b else drawn.take(places), len(places)))
            failed = -b  # there are some that do not
        except MemoryError:
            raise
        except RAISES as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                raise
            if len(places) > 1 and failed < HOPELESS:
                waiting += [places[len(places) // 2 :], places[: len(places) // 2]]
                continue
            failed += 1
            for i in places:
                out.fail(int(i), "estimate_failed", sentence_of(error))
    return out
