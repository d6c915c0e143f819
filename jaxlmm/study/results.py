"""What came out of a study: tables of performance, comparisons, the rows themselves; read part by part."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments import shown
from ..distributions import check_level
from ..errors import DataError
from ..frames.columns import make_frame
from ..frames.tables import Shown, Table
from ..saving.archive import sentence
from .ademp import Ademp, ademp
from .cells import label, place_of
from .declare import Task, tasks_of
from .estimate import ABSENT, FLAGS, FLOATS, STATUSES
from .estimators import Row
from .manifest import replicates_of
from .measures import MEASURES, QUANTITIES, Moments, check_measure, paired, performance, quantities
from .parts import messages_of, numbers_of
from .store import Store, StudyError
from .tables import performance_table

PAIRED = ("estimate", "rejected", "covered", "variance")


@dataclass(frozen=True, eq=False, repr=False)
class Performance(Shown):
    """Measures of performance by cell, estimator, test and target.

    Attributes
    ----------
    results : what they are of;  level, alpha : of intervals and tests
    value, mcse, n : {measure: (cells, R)}: the measure, its Monte Carlo standard error, data sets that it is of
    """

    results: Results
    level: float
    alpha: float
    value: Mapping[str, np.ndarray]
    mcse: Mapping[str, np.ndarray]
    n: Mapping[str, np.ndarray]

    def frame(self, measures: str | Sequence[str] = MEASURES) -> Any:
        """A tidy frame: the factors, estimator, test, target, measure, value, mcse, count.

        Measures: mean (of the estimates, where the truth is not known), bias, empirical_se, mse, model_se,
        relative_error_se (percent), coverage, type1_error (where the null
        is true), power (where it is not), rejection (where the truth is not known), converged, singular, usable (data
        sets with a result, of all); those without a value are left out.
        """
        measures = [measures] if isinstance(measures, str) else list(measures)
        for measure in measures:
            check_measure("measures", measure)
        r = self.results
        every = itertools.product(range(len(r.cells)), range(len(r.rows)), measures)
        places = [(c, k, m) for c, k, m in every if not np.isnan(self.value[m][c, k])]
        columns: dict[str, Any] = {"measure": [m for *_, m in places]}
        for name, numbers in (("value", self.value), ("mcse", self.mcse), ("count", self.n)):
            columns[name] = np.array([numbers[m][c, k] for c, k, m in places])
        columns["count"] = columns["count"].astype(int)
        return r._tidy([c for c, *_ in places], [k for _, k, _ in places], columns)

    def tables(self) -> tuple[Table, ...]:
        """A table for each target."""
        targets = dict.fromkeys(row.target for row in self.results.rows)
        return tuple(performance_table(self, target) for target in targets)

    def ademp(self) -> Ademp:
        """Aims, data, estimands, methods and performance in words and tables, with what is conditional on a result."""
        return ademp(self)

    def measure(self, name: str, estimator: str, test: str, target: str) -> tuple[np.ndarray, np.ndarray]:
        """Value and error (cells,) of one measure of one row."""
        check_measure("name", name)
        k = self.results.row(estimator, test, target)
        return self.value[name][:, k], self.mcse[name][:, k]


class Results:
    """The results of a study in a directory, complete or as far as they are.

    Attributes
    ----------
    manifest : what was run;  factors : names of the grid's factors;  cells : their values, a mapping a cell
    rows : (estimator, test, target) that every data set has numbers for
    tasks : chunks that are there;  complete : whether all are
    kind : library of the frames, "pandas" where it is installed, else "dict"
    """

    def __init__(self, path: Any):
        self.store = Store(path)
        self.manifest = self.store.manifest()
        study = self.manifest["study"]
        self.cells: list[dict[str, Any]] = [{f: label(v) for f, v in cell.items()} for cell in study["cells"]]
        self.factors = tuple(self.cells[0])
        self.rows = [Row(*row) for row in self.manifest["rows"]]
        counts = replicates_of(self.manifest)
        self.tasks = self.store.there(counts)
        left = tasks_of(counts, study["chunk"], self.tasks)
        self.complete = not left and not self.store.short(self.manifest, self.tasks)
        self.kind = library()
        self._targets = study["targets"]

    def __repr__(self) -> str:
        done = sum(t.hi - t.lo for t in self.tasks)
        state = "complete" if self.complete else "not complete"
        return f"Results({len(self.cells)} cells, {len(self.rows)} rows a data set, {done:,} data sets, {state})"

    @property
    def truth(self) -> np.ndarray:
        """True values (cells, R), NaN where not known."""
        found = [[truths[row.target] for row in self.rows] for truths in self.manifest["truths"]]
        return np.array(found, float)

    @property
    def null(self) -> np.ndarray:
        """Values tested (R,)."""
        return np.array([self._targets[row.target]["null"] for row in self.rows], float)

    def row(self, estimator: str | None = None, test: str | None = None, target: str | None = None) -> int:
        """Position of a row; what is not given must be the only one."""
        asked = {"estimator": estimator, "test": test, "target": target}
        wanted = {name: value for name, value in asked.items() if value is not None}
        found = [i for i, row in enumerate(self.rows) if all(getattr(row, n) == v for n, v in wanted.items())]
        if len(found) != 1:
            listed = "; ".join(", ".join(row) for row in self.rows)
            what = "none" if not found else f"{len(found)}"
            raise DataError(f"estimator, test, target: {what} fit {wanted}, expected one of: {listed}")
        return found[0]

    def place(self, cell: Any) -> int:
        """Place of a cell, given by itself or by factors that only one cell has."""
        return place_of(self.manifest["study"]["cells"], cell)

    def _places(self, rows: Any, *more: Any) -> list[int]:
        """Positions of rows, each given by words."""
        several = isinstance(rows, list | tuple) and len(rows) > 0
        if not several or not all(isinstance(one, list | tuple) and 0 < len(one) + len(more) <= 3 for one in rows):
            raise DataError(f"expected (estimator, test{'' if more else ', target'}) of each row, found {shown(rows)}")
        return [self.row(*one, *more) for one in rows]

    def parts(self, cell: Any = None) -> Iterator[tuple[Task, dict[str, np.ndarray]]]:
        """Chunks in order, with arrays (R, b); `status` as codes of `jaxlmm.study.estimate.STATUSES`; see `frame`."""
        cell = None if cell is None else self.place(cell)
        for task in self.tasks:
            if cell is None or task.cell == cell:
                yield task, self._numbers(task)

    def _numbers(self, task: Task) -> dict[str, np.ndarray]:
        path = self.store.part(task)
        try:
            return numbers_of(path, self.rows, task.hi - task.lo)
        except Exception as error:  # whatever damaged bytes lead pyarrow to
            raise StudyError(f"{path}: is damaged ({sentence(error)}); remove it and run the study again") from error

    def digest(self) -> str:
        """Digest of all numbers in order: equal for equal tables, whatever the chunks."""
        total = hashlib.sha256()
        for _, part in self.parts():
            every = [part[name] for name in (*FLOATS, "status", *FLAGS)]
            total.update(np.stack(every).astype(np.float64).transpose(2, 0, 1).tobytes())  # data set by data set
        return total.hexdigest()

    def frame(self, cell: Any = None) -> Any:
        """All rows, or those of a cell, by its place or factors that only one has.

        Columns: the factors, replicate, estimator, test, target, estimate, se, df, p, status, converged, singular.

        One row for a data set, estimator, test and target. Status is "ok", or why there is no result.
        """
        blocks: dict[str, list[np.ndarray]] = {}
        for task, part in self.parts(cell):
            b, k = task.hi - task.lo, len(self.rows)
            columns = {f: np.full(k * b, self.cells[task.cell][f]) for f in self.factors}
            columns["replicate"] = np.tile(np.arange(task.lo, task.hi), k)
            columns |= {name: np.repeat([getattr(row, name) for row in self.rows], b) for name in Row._fields}
            columns |= {name: part[name].ravel() for name in FLOATS}
            columns["status"] = np.array(STATUSES)[part["status"].ravel()]
            columns |= {name: part[name].ravel() for name in FLAGS}
            there = ~np.isin(part["status"].ravel(), ABSENT)
            for name, values in columns.items():
                blocks.setdefault(name, []).append(values if there.all() else values[there])
        return make_frame(self.kind, {name: np.concatenate(values) for name, values in blocks.items()})

    def summary(self, level: float = 0.95, alpha: float = 0.05) -> Performance:
        """Measures of performance with Monte Carlo standard errors, see `Performance.frame`.

        Parameters
        ----------
        level : of intervals, estimate +- t(df) se;  alpha : of tests
        """
        check_level(level), check_level(alpha)
        truth = self.truth
        nothing = Moments(*np.zeros((3, len(self.rows), len(QUANTITIES))))
        totals = [
            sum((Moments.of(quantities(part, truth[cell], level, alpha)) for _, part in self.parts(cell)), nothing)
            for cell in range(len(self.cells))
        ]
        found = performance(Moments(*map(np.stack, zip(*totals, strict=True))), truth, self.null)
        value, mcse, n = ({name: triple[i] for name, triple in found.items()} for i in range(3))
        return Performance(self, level, alpha, value, mcse, n)

    def statuses(self) -> Any:
        """How many data sets ended how: the factors, estimator, test, target, status, count."""
        counts = np.zeros((len(self.cells), len(self.rows), len(STATUSES)), int)
        for task, part in self.parts():
            for s in set(range(len(STATUSES))) - set(ABSENT):
                counts[task.cell, :, s] += np.sum(part["status"] == s, 1)
        places = list(zip(*np.nonzero(counts), strict=True))
        columns = {"status": [STATUSES[s] for *_, s in places], "count": counts[counts > 0]}
        return self._tidy([c for c, *_ in places], [k for _, k, _ in places], columns)

    def messages(self) -> Any:
        """Why data sets have no result, where something was raised: the factors, estimator, status, message, count.

        `count` is of data sets, `replicate` the first of them, which `Study.replicate` makes again.
        """
        found: dict[tuple[int, str, str, str], set[int]] = {}
        for task in self.tasks:
            for estimator, status, message, replicate in messages_of(self.store.part(task)):
                found.setdefault((task.cell, estimator, status, message), set()).add(replicate)
        columns: dict[str, Any] = {
            name: [key[i] for key in found] for i, name in ((1, "estimator"), (2, "status"), (3, "message"))
        }
        columns |= {"count": [len(r) for r in found.values()], "replicate": [min(r) for r in found.values()]}
        return self._tidy([key[0] for key in found], None, columns)

    def compare(
        self, first: tuple[str, str], second: tuple[str, str], target: str | None = None, level: float = 0.95,
        alpha: float = 0.05,
    ) -> Any:  # fmt: skip
        """Two estimators, or two tests, on the same data sets (common random numbers): second less first.

        Parameters
        ----------
        first, second : (estimator, test);  target : needed where there are several

        Returns
        -------
        A frame: the factors, measure, value, mcse, count. Measures are differences of the means of "estimate",
        "rejection", "coverage" and "model_variance" over the data sets in which both have them, with errors that
        use the pairing; and "relative_precision", percent.
        """
        check_level(level), check_level(alpha)
        pair = self._places([first, second], target)
        places = [QUANTITIES.index(name) for name in PAIRED]
        truth, rows = self.truth, []
        for cell in range(len(self.cells)):
            total = Moments(*np.zeros((3, 3, len(PAIRED))))
            for _, part in self.parts(cell):
                found = quantities({k: v[pair] for k, v in part.items()}, truth[cell, pair], level, alpha)[:, places]
                known = ~np.isnan(found).any(0)
                a, b = np.where(known, found, np.nan)
                total = total + Moments.of(np.stack([a, b, b - a]))
            a, b, both = (
                {name: Moments(*(array[i, j] for array in total)) for j, name in enumerate(PAIRED)} for i in range(3)
            )
            rows += [(cell, name, *triple) for name, triple in paired(a, b, both).items() if not np.isnan(triple[0])]
        columns: dict[str, Any] = {"measure": [name for _, name, *_ in rows]}
        for i, name in enumerate(("value", "mcse", "count"), 2):
            columns[name] = np.array([float(row[i]) for row in rows])
        return self._tidy([c for c, *_ in rows], None, columns)

    def rejections(
        self, tests: Sequence[tuple[str, str, str]], alpha: float = 0.05, how: str = "all"
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """How often several tests reject in the same data set, and in how many all have a result: (cells,) each.

        Parameters
        ----------
        tests : (estimator, test, target) of each;  alpha : of every one of them
        how : "all" must reject, or "any" of them
        """
        check_level(alpha)
        if how not in ("all", "any"):
            raise DataError(f"how: found {how!r}, expected 'all' or 'any'")
        rows = self._places(tests)
        counts = np.zeros((2, len(self.cells)))
        for task, part in self.parts():
            p = np.where(part["status"][rows] == 0, part["p"][rows], np.nan)
            there = ~np.isnan(p).any(0)
            reject = (np.all if how == "all" else np.any)(p <= alpha, axis=0)
            counts[:, task.cell] += np.sum(reject & there), np.sum(there)
        return counts[0], counts[1]

    def joint_power(self, tests: Sequence[tuple[str, str, str]], alpha: float = 0.05, how: str = "all") -> Any:
        """`rejections` as a frame: the factors, power, mcse, count."""
        hits, n = self.rejections(tests, alpha, how)
        power = np.divide(hits, n, out=np.full(len(n), np.nan), where=n > 0)
        mcse = np.sqrt(power * (1.0 - power) / np.maximum(n, 1.0))
        columns: dict[str, Any] = {"power": power, "mcse": mcse, "count": n.astype(int)}
        return self._tidy(range(len(n)), None, columns)

    def _tidy(self, cells: Sequence[int], rows: Sequence[int] | None, columns: Mapping[str, Any]) -> Any:
        """A frame whose lines are of these cells and, if given, these rows."""
        factors = {f: [self.cells[c][f] for c in cells] for f in self.factors}
        which = {} if rows is None else {name: [getattr(self.rows[k], name) for k in rows] for name in Row._fields}
        return make_frame(self.kind, {**factors, **which, **columns})


def read(path: Any) -> Results:
    """The results in a directory.

    Raises
    ------
    StudyError
        When there is no study.
    """
    return Results(path)


def library() -> str:
    """Library of the frames that are made here."""
    from importlib.util import find_spec

    return "pandas" if find_spec("pandas") and find_spec("narwhals") else "dict"


__all__ = ["Results", "StudyError", "Performance", "read"]
