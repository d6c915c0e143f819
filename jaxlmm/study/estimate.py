"""Fitting one estimator to the data sets of a chunk, and its rows of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..batch.fits import BatchFit
from ..batch.rebuilding import rebuilt, redrawn
from ..batch.refitting import fit_batch, refit_batch
from ..design.frame import ModelFrame
from ..errors import DataError, JaxlmmError
from ..fitting.newton import Status
from ..inference.fixed_effects.in_batches import Tests, TestStatus
from ..interface import lmm, model_of
from ..likelihood.confounding import check_left_by
from ..likelihood.model import Model
from ..simulation.bootstrap import standard, standard_names
from .drawing import Drawn, sentence_of
from .estimators import ESTIMATE, LRT, Estimator, Target
from .generate import stand_in
from .jointly import Hypotheses, values_of

# Codes of the column `status`: "ok", or why there is no result. The order is part of the files: what is new is last.
STATUSES = (
    "ok",
    *(s.name.lower() for s in Status if not s.is_fitted and s not in (Status.NO_MAXIMUM, Status.NOT_SOLVED)),
    *(s.name.lower() for s in TestStatus if s not in (TestStatus.OK, TestStatus.NOT_FITTED)),
    "unusable_data",
    "generate_failed",  # the generating function raised, or returned what is no data set
    "estimate_failed",  # the estimator raised
    "no_target",  # the estimator has no such coefficient or parameter: no row in tables
    Status.NO_MAXIMUM.name.lower(),
    Status.NOT_SOLVED.name.lower(),
)
NO_TARGET = STATUSES.index("no_target")
ABSENT = (NO_TARGET, STATUSES.index("not_run"))  # codes of rows that are in no table
RAISED = tuple(map(STATUSES.index, ("unusable_data", "generate_failed", "estimate_failed", "bad_response")))
HOPELESS = 100  # data sets that fail, the first ones of a cell, before nothing more is tried
ROBUST = (
    "robust= needs complete responses to one design, so that data sets with rows, columns or cluster sizes of their "
    "own have no sandwich here; leave it out, or write it as an analysis of your own, jaxlmm.study.Analysis"
)
# The code of every `Status`, and of every `TestStatus` of a data set that was fitted.
OF_FIT = np.array([0 if s.is_fitted else STATUSES.index(s.name.lower()) for s in sorted(Status)], np.int8)
_OF_TEST = np.array([STATUSES.index(s.name.lower()) if s.name.lower() in STATUSES else 0 for s in sorted(TestStatus)],
                    np.int8)  # fmt: skip


FLOATS = ("estimate", "se", "df", "p")
FLAGS = ("converged", "singular")


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers of R rows for b data sets, each (R, b), and why there are none, by data set."""

    estimate: np.ndarray
    se: np.ndarray
    df: np.ndarray
    p: np.ndarray
    status: np.ndarray
    converged: np.ndarray
    singular: np.ndarray
    messages: dict[int, str]

    @classmethod
    def empty(cls, rows: int, b: int) -> Numbers:
        """Nothing is known yet."""
        estimate, se, df, p = np.full((4, rows, b), np.nan)
        status = np.full((rows, b), STATUSES.index("unusable_data"), np.int8)
        return cls(estimate, se, df, p, status, np.zeros((rows, b), bool), np.zeros((rows, b), bool), {})

    def put(self, places: np.ndarray, found: Numbers) -> None:
        """Write those of some data sets."""
        for name in (*FLOATS, "status", *FLAGS):
            getattr(self, name)[:, places] = getattr(found, name)
        self.messages.update({int(places[i]): text for i, text in found.messages.items()})

    def take_row(self, row: int, places: np.ndarray, found: Numbers, other: int) -> None:
        """Write what another one has in its row `other` for some data sets."""
        for name in (*FLOATS, "status", *FLAGS):
            getattr(self, name)[row, places] = getattr(found, name)[other, places]

    def put_row(self, row: int, places: np.ndarray, values: Sequence[Any]) -> None:
        """Write results, `FLOATS` in order, of data sets that have one."""
        for name, own in zip(FLOATS, values, strict=True):
            getattr(self, name)[row, places] = own
        self.status[row, places], self.converged[row, places] = 0, True

    def fail(self, place: int, status: str, message: str) -> None:
        """Say why a data set has no numbers."""
        self.status[:, place] = STATUSES.index(status)
        self.messages[place] = message


@dataclass(frozen=True, eq=False)
class Built:
    """An estimator on a design: its model, the model without a target, hypotheses in its coefficients."""

    frame: ModelFrame
    data: Mapping[str, Any]
    model: Model
    tests: Hypotheses | None
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
        rows = len(next(iter(data.values())))
        here = {**data, response: stand_in(rows)}
        frame, model = model_of(estimator.formula, here, **estimator.options)
        if frame.response != response:
            raise DataError(f"estimator {estimator.name!r}: its response is {frame.response!r}, expected {response!r} "
                            "as it is drawn")  # fmt: skip
        known = {False: frame.coef_names, True: (*variance_names(frame), "loglik")}
        self.known = known[False], known[True]
        self.absent = {name for name, t in targets.items() if not set(t.weights) <= set(known[t.is_variance])}
        tested = [name for name, t in targets.items() if not t.is_variance and name not in self.absent]
        self.tested = [name for name in tested if not targets[name].is_joint]
        self.joint = [name for name in tested if targets[name].is_joint]
        self.built = self._built(frame, model, here)

    def __call__(self, drawn: Drawn, b: int) -> Numbers:
        """Numbers of all data sets, in the order of `rows`."""
        out = Numbers.empty(len(self.rows), b)
        complete = len(self.built.frame.rows) == len(next(iter(self.data.values())))
        varying = [name for name in drawn.columns if name != self.response]
        column = self._column(varying)
        if drawn.tables is None and complete and not self._has_gaps(drawn) and (not varying or column is not None):
            Y = drawn.columns[self.response]
            fits = self._refits(Y, column, drawn.columns.get(varying[0]) if varying else None)
            self._fill(out, np.arange(b), self.built, *fits)
            return out
        models: list[Model | None] = [None] * b
        if drawn.tables is None and complete and not (self.built.nulls or self._needs_design):
            models = redrawn(self.built.frame, self.built.model, self.data, drawn.columns, self.response)
        self._apart(out, [drawn.table(i, self.data) for i in range(b)], models)
        return out

    def _has_gaps(self, drawn: Drawn) -> bool:
        """Whether there are missing responses where these must be complete."""
        complete = self.estimator.robust is not None or self._needs_design
        return complete and bool(np.isnan(drawn.columns[self.response]).any())

    @property
    def _needs_design(self) -> bool:
        return self.built.tests is not None and self.built.tests.needs_design

    def alone(self, data: Any, key: Any = None) -> Any:
        """The fit of one data set."""
        return lmm(self.estimator.formula, data, self.estimator.method, **self.estimator.options)

    def rehearse(self, table: Mapping[str, Any]) -> None:
        """Build the model of one data set; raises what is wrong with it."""
        model = self._build(without_lost(table, self.response)).model
        check_left_by(model.X, model.random, self.estimator.method)
        if model.evaluator.stochastic:
            raise DataError(f"engine: {model.engine!r} fits one data set at a time; use engine='crossed'")

    def _build(self, data: Mapping[str, Any]) -> Built:
        return self._built(*model_of(self.estimator.formula, data, **self.estimator.options), data)

    def _built(self, frame: ModelFrame, model: Model, data: Mapping[str, Any]) -> Built:
        e = self.estimator
        nulls = {}
        for name in (*self.tested, *self.joint):
            if formula := e.null_formula(name):
                small = model_of(formula, data, **e.options)[1]
                nulls[name] = small
                if small.X.shape[1] >= model.X.shape[1] or small.size != model.size:
                    raise DataError(f"estimator {e.name!r}: lrt: {formula!r} does not leave out fixed effects only")
        return Built(frame, data, model, self._hypotheses(frame.coef_names), nulls)

    def _hypotheses(self, coef_names: Sequence[str]) -> Hypotheses | None:
        rows = {name: self._rows(name, coef_names) for name in (*self.tested, *self.joint)}
        if not rows:
            return None
        e = self.estimator

        def tests(L: np.ndarray, null: list[float]) -> Tests:
            return Tests(L, null, e.methods, e.information, e.boundary_df, e.robust)

        nulls = {name: [self.targets[name].null] * len(L) for name, L in rows.items()}
        single = [name for name in self.tested]
        together = tests(np.concatenate([rows[n] for n in single]), [nulls[n][0] for n in single]) if single else None
        return Hypotheses(together, {name: tests(rows[name], nulls[name]) for name in self.joint})

    def _rows(self, name: str, coef_names: Sequence[str]) -> np.ndarray:
        """The rows of a target: one with its weights, or one for each of its coefficients."""
        weights = self.targets[name].weights
        for coefficient in weights:
            if coefficient not in coef_names:
                raise DataError(f"targets[{name!r}]: {coefficient!r} is not a coefficient of estimator "
                                f"{self.estimator.name!r}; there are {', '.join(coef_names)}")  # fmt: skip
        rows = np.array([[w * (c == own) for own in coef_names] for c, w in weights.items()])
        return rows if self.targets[name].is_joint else rows.sum(0, keepdims=True)

    def _column(self, varying: list[str]) -> int | None:
        """The coefficient whose column of X is the only thing that varies, if so."""
        if len(varying) != 1 or varying[0] not in self.built.frame.coef_names:
            return None
        if self.estimator.robust is not None or self.built.nulls or self._needs_design:
            return None
        try:
            alone = rebuilt(self.built.frame, self.data, varying[0]) is None
        except DataError:  # something else depends on it
            alone = False
        return self.built.frame.coef_names.index(varying[0]) if alone else None

    def _refits(
        self, Y: np.ndarray, column: int | None, values: np.ndarray | None
    ) -> tuple[BatchFit, dict[str, BatchFit]]:  # fmt: skip
        """Fits of responses to the design of the cell."""
        missing = "drop" if np.isnan(Y).any() else "status"
        built, method = self.built, self.estimator.method
        tests = None if built.tests is None else built.tests.on([built])
        fits = refit_batch(built.model, Y, method, missing=missing, tests=tests, progress=False,
                           column=column, values=values)  # fmt: skip
        nulls = {n: refit_batch(m, Y, method, missing=missing, progress=False) for n, m in built.nulls.items()}
        return fits, nulls

    def _apart(self, out: Numbers, tables: list[dict[str, np.ndarray]], models: Sequence[Model | None]) -> None:
        """Data sets with designs of their own, their models where they are known: those with the same coefficients."""
        groups: dict[Any, list[tuple[int, Built]]] = {}
        for i, table in enumerate(tables):
            try:
                model = models[i]
                built = replace(self.built, model=model) if model else self._build(without_lost(table, self.response))
            except JaxlmmError as error:
                out.fail(i, "unusable_data", sentence_of(error))
                continue
            shape = (built.frame.coef_names, built.model.evaluator, len(built.model.random))
            groups.setdefault(shape, []).append((i, built))
        for members in groups.values():
            index, first = np.array([i for i, _ in members]), members[0][1]
            own_models = [built.model for _, built in members]
            tests = None if first.tests is None else first.tests.without_robust().on([own for _, own in members])
            fits = fit_batch(own_models, method=self.estimator.method, tests=tests, progress=False)
            nulls = {
                name: fit_batch([built.nulls[name] for _, built in members], method="ML", progress=False)
                for name in first.nulls
            }
            self._fill(out, index, first, fits, nulls)

    def _fill(
        self, out: Numbers, index: np.ndarray, built: Built, fits: BatchFit, nulls: Mapping[str, BatchFit]
    ) -> None:  # fmt: skip
        """Write the fits of some data sets into the rows."""
        code = OF_FIT[fits.status]
        converged, none = fits.converged, np.full((3, len(index)), np.nan)
        for r, row in enumerate(self.rows):
            if row.target in self.absent:
                out.status[r, index] = NO_TARGET
                continue
            status = code
            if row.test == LRT:
                values, status = _likelihood_ratio(built, fits, nulls[row.target], row.target, self.targets, code)
            elif row.test == ESTIMATE:
                values = (
                    np.where(converged, parameter(fits, built.frame, str(self.targets[row.target].of)), np.nan),
                    *none,
                )
            else:
                place = self.tested.index(row.target) if row.target in self.tested else None
                found = values_of(fits.tests, row.test, row.target, place)
                if found is None:
                    out.status[r, index] = STATUSES.index("estimate_failed")
                    out.messages.update(dict.fromkeys(index.tolist(), ROBUST))
                    continue
                status = np.where(code == 0, _OF_TEST[found[0]], code)
                values = (np.where(converged, found[1][0], np.nan), *found[1][1:])  # else it is no estimate
            for name, value in zip(("estimate", "se", "df", "p"), values, strict=True):
                getattr(out, name)[r, index] = value
            out.status[r, index] = status
            out.converged[r, index], out.singular[r, index] = converged, fits.singular


def variance_names(frame: ModelFrame) -> tuple[str, ...]:
    """Names of the columns of `jaxlmm.simulation.bootstrap.standard`."""
    labels = [(getattr(p, "group_label", getattr(p, "group", "")), p.columns) for p in frame.parts]
    if any(not columns for _, columns in labels):  # over coordinates, which have no matrix
        return ("sigma",)
    return standard_names(frame.coef_names, labels, True)


def parameter(fits: BatchFit, frame: ModelFrame, of: str) -> np.ndarray:
    """A standard deviation, a correlation or the log-likelihood (b,)."""
    if of in ("sigma", "loglik"):
        return fits.sigma if of == "sigma" else fits.loglik
    return standard(fits)[:, variance_names(frame).index(of)]


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
    other = OF_FIT[null.status]
    none = np.full(len(p), np.nan)
    estimate = np.where(fits.converged, none if targets[name].is_joint else estimate, np.nan)
    return (estimate, none, none, p), np.where(code == 0, other, code)


def without_lost(table: Mapping[str, Any], response: str) -> dict[str, Any]:
    """Rows whose response is there; columns of a data frame are cut by `build_frame`."""
    here = ~np.isnan(table[response])
    if here.all() or not all(isinstance(values, np.ndarray) for values in table.values()):
        return dict(table)
    return {name: values[here] for name, values in table.items()}
