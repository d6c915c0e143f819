"""Fitting one estimator to the data sets of a chunk, and its rows of numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..batch.fits import BatchFit
from ..batch.refitting import fit_batch, refit_batch
from ..design.frame import ModelFrame
from ..errors import DataError, JaxlmmError
from ..fitting.newton import Status
from ..inference.fixed_effects.in_batches import Tests, TestStatus
from ..interface import model_of
from ..likelihood.model import Model
from ..simulation.bootstrap import standard, standard_names
from .declare import ESTIMATE, LRT, Estimator, Row, Target
from .generate import Drawn, stand_in

# Codes of the column `status`: "ok", or why there is no result. The order is part of the files: what is new is last.
STATUSES = (
    "ok",
    *(s.name.lower() for s in Status if not s.is_fitted and s != Status.NO_MAXIMUM),
    *(s.name.lower() for s in TestStatus if s not in (TestStatus.OK, TestStatus.NOT_FITTED)),
    "unusable_data",
    Status.NO_MAXIMUM.name.lower(),
)
# The code of every `Status`, and of every `TestStatus` of a data set that was fitted.
_OF_FIT = np.array([0 if s.is_fitted else STATUSES.index(s.name.lower()) for s in sorted(Status)], np.int8)
_OF_TEST = np.array([STATUSES.index(s.name.lower()) if s.name.lower() in STATUSES else 0 for s in sorted(TestStatus)],
                    np.int8)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers of R rows for b data sets, each (R, b)."""

    estimate: np.ndarray
    se: np.ndarray
    df: np.ndarray
    p: np.ndarray
    status: np.ndarray
    converged: np.ndarray
    singular: np.ndarray

    @classmethod
    def empty(cls, rows: int, b: int) -> Numbers:
        """Nothing is known yet."""
        estimate, se, df, p = np.full((4, rows, b), np.nan)
        status = np.full((rows, b), STATUSES.index("unusable_data"), np.int8)
        return cls(estimate, se, df, p, status, np.zeros((rows, b), bool), np.zeros((rows, b), bool))


@dataclass(frozen=True, eq=False)
class Built:
    """An estimator on a design: its model, the model without a target, hypotheses in its coefficients."""

    frame: ModelFrame
    model: Model
    tests: Tests | None
    nulls: Mapping[str, Model]


class Fitter:
    """Fits an estimator to data sets of one cell.

    Parameters
    ----------
    data : columns of the design
    """

    def __init__(self, estimator: Estimator, targets: Mapping[str, Target], data: Mapping[str, Any],
                 response: str):  # fmt: skip
        self.estimator, self.targets, self.data, self.response = estimator, targets, data, response
        self.rows = estimator.rows(targets)
        self.tested = [name for name, target in targets.items() if not target.is_variance]
        rows = len(next(iter(data.values())))
        self.built = self._build({**data, response: stand_in(rows)})
        if self.built.frame.response != response:
            raise DataError(f"estimator {estimator.name!r}: its response is {self.built.frame.response!r}, expected "
                            f"{response!r} as it is drawn")  # fmt: skip
        self._check_variances()

    def __call__(self, drawn: Drawn, b: int) -> Numbers:
        """Numbers of all data sets, in the order of `rows`."""
        out = Numbers.empty(len(self.rows), b)
        complete = len(self.built.frame.rows) == len(next(iter(self.data.values())))
        varying = [name for name in drawn.columns if name != self.response]
        column = self._column(varying)
        if drawn.tables is None and complete and (not varying or column is not None):
            fits = self._refits(
                drawn.columns[self.response], column, drawn.columns.get(varying[0]) if varying else None
            )
            self._fill(out, np.arange(b), self.built, *fits)
            return out
        tables = drawn.tables
        if tables is None:
            tables = [{**self.data, **{k: v[i] for k, v in drawn.columns.items()}} for i in range(b)]
        self._apart(out, tables)
        return out

    def _build(self, data: Mapping[str, Any]) -> Built:
        e = self.estimator
        frame, model = model_of(e.formula, data, **e.options)
        nulls = {}
        for name in self.tested:
            if formula := e.null_formula(name):
                small = model_of(formula, data, **e.options)[1]
                nulls[name] = small
                if small.X.shape[1] >= model.X.shape[1] or small.size != model.size:
                    raise DataError(f"estimator {e.name!r}: lrt: {formula!r} does not leave out fixed effects only")
        return Built(frame, model, self._hypotheses(frame.coef_names), nulls)

    def _hypotheses(self, coef_names: Sequence[str]) -> Tests | None:
        e = self.estimator
        if not self.tested:
            return None
        L = np.zeros((len(self.tested), len(coef_names)))
        for i, name in enumerate(self.tested):
            for coefficient, weight in self.targets[name].weights.items():
                if coefficient not in coef_names:
                    raise DataError(f"targets[{name!r}]: {coefficient!r} is not a coefficient of estimator {e.name!r}; "
                                    f"there are {', '.join(coef_names)}")  # fmt: skip
                L[i, coef_names.index(coefficient)] = weight
        null = [self.targets[name].null for name in self.tested]
        return Tests(L, null, e.methods, e.information, e.boundary_df, e.robust)

    def _check_variances(self) -> None:
        names = self._variance_names(self.built)
        for name, target in self.targets.items():
            if target.is_variance and target.of not in names:
                raise DataError(f"targets[{name!r}]: {target.of!r} is not a parameter of estimator "
                                f"{self.estimator.name!r}; there are {', '.join(names)}")  # fmt: skip

    def _variance_names(self, built: Built) -> tuple[str, ...]:
        """Names of the columns of `jaxlmm.simulation.bootstrap.standard`."""
        labels = [(getattr(p, "group_label", getattr(p, "group", "")), p.columns) for p in built.frame.parts]
        sizes = [len(c) for _, c in labels]
        if any(not size for size in sizes):  # over coordinates, which have no matrix
            return ("sigma",)
        return standard_names(built.frame.coef_names, labels, True)

    def _column(self, varying: list[str]) -> int | None:
        """The coefficient whose column of X is the only thing that varies, if so."""
        if len(varying) != 1 or varying[0] not in self.built.frame.coef_names:
            return None
        e = self.estimator
        text = " ".join(
            str(t) for t in (e.formula, e.residual or "", e.variance or "", e.weights or "", e.offset or "")
        )
        alone = len(re.findall(rf"(?<![\w.]){re.escape(varying[0])}(?![\w.])", text)) == 1 and e.robust is None
        return self.built.frame.coef_names.index(varying[0]) if alone and not self.built.nulls else None

    def _refits(
        self, Y: np.ndarray, column: int | None, values: np.ndarray | None
    ) -> tuple[BatchFit, dict[str, BatchFit]]:  # fmt: skip
        """Fits of responses to the design of the cell."""
        missing = "drop" if np.isnan(Y).any() else "status"
        built, method = self.built, self.estimator.method
        fits = refit_batch(built.model, Y, method, missing=missing, tests=built.tests, progress=False,
                           column=column, values=values)  # fmt: skip
        nulls = {n: refit_batch(m, Y, method, missing=missing, progress=False) for n, m in built.nulls.items()}
        return fits, nulls

    def _apart(self, out: Numbers, tables: list[dict[str, np.ndarray]]) -> None:
        """Data sets with designs of their own: those with the same coefficients together."""
        groups: dict[Any, list[tuple[int, Built]]] = {}
        for i, table in enumerate(tables):
            try:
                built = self._build(_without_lost(table, self.response))
            except JaxlmmError:
                continue  # its status says so
            shape = (built.frame.coef_names, built.model.evaluator, len(built.model.random))
            groups.setdefault(shape, []).append((i, built))
        for members in groups.values():
            index, first = np.array([i for i, _ in members]), members[0][1]
            models = [built.model for _, built in members]
            fits = fit_batch(models, method=self.estimator.method, tests=first.tests, progress=False)
            nulls = {
                name: fit_batch([built.nulls[name] for _, built in members], method="ML", progress=False)
                for name in first.nulls
            }
            self._fill(out, index, first, fits, nulls)

    def _fill(
        self, out: Numbers, index: np.ndarray, built: Built, fits: BatchFit, nulls: Mapping[str, BatchFit]
    ) -> None:  # fmt: skip
        """Write the fits of some data sets into the rows."""
        code = _OF_FIT[fits.status]
        converged = fits.converged
        for r, row in enumerate(self.rows):
            status, values = code, _values(fits, row, self.tested, converged)
            if row.test == LRT:
                values, status = _likelihood_ratio(built, fits, nulls[row.target], row.target, self.targets, code)
            elif row.test == ESTIMATE:
                of = self.targets[row.target].of
                place = self._variance_names(built).index(of) if of != "sigma" else None
                column = fits.sigma if place is None else standard(fits)[:, place]
                values = (np.where(converged, column, np.nan), *np.full((3, len(index)), np.nan))
            else:
                status = np.where(code == 0, _OF_TEST[fits.tests[row.test].status], code)
            for name, value in zip(("estimate", "se", "df", "p"), values, strict=True):
                getattr(out, name)[r, index] = value
            out.status[r, index] = status
            out.converged[r, index], out.singular[r, index] = converged, fits.singular


def _values(fits: BatchFit, row: Row, tested: Sequence[str], converged: np.ndarray) -> tuple[np.ndarray, ...]:
    """Estimate, standard error, degrees of freedom and p-value of a hypothesis by a test."""
    found = fits.tests.get(row.test)
    if found is None:
        return ()
    j = tested.index(row.target)
    lost = np.where(converged, 0.0, np.nan)  # what has not converged is no estimate
    return found.estimate[:, j] + lost, found.se[:, j], found.df[:, j], found.p[:, j]


def _likelihood_ratio(
    built: Built, fits: BatchFit, null: BatchFit, name: str, targets: Mapping[str, Target], code: np.ndarray
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:  # fmt: skip
    """Chi-squared test against the model without a target; the estimate has no standard error here."""
    from scipy.special import chdtrc

    weights = targets[name].weights
    names = built.frame.coef_names
    estimate = sum(w * fits.coef[:, names.index(c)] for c, w in weights.items())
    added = built.model.X.shape[1] - built.nulls[name].X.shape[1]
    both = fits.converged & null.converged
    p = np.where(both, chdtrc(added, np.maximum(2.0 * (fits.loglik - null.loglik), 0.0)), np.nan)
    other = _OF_FIT[null.status]
    none = np.full(len(p), np.nan)
    estimate = np.where(fits.converged, estimate, np.nan)
    return (estimate, none, none, p), np.where(code == 0, other, code)


def _without_lost(table: Mapping[str, np.ndarray], response: str) -> dict[str, np.ndarray]:
    """Rows whose response is there."""
    here = ~np.isnan(table[response])
    return dict(table) if here.all() else {name: values[here] for name, values in table.items()}
