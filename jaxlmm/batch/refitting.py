"""Fitting many data sets: one design with many responses, or models of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from ..arguments import door
from ..errors import DataError
from ..fitting.boundary import Search
from ..fitting.estimate import says_little
from ..fitting.newton import Status
from ..fitting.objective import Spec, moment_start, packing_of, scale_of
from ..fitting.recession import logliks, unfinished, without_maximum
from ..fitting.units import Estimates, at_ends
from ..frames.alignment import mask_of
from ..likelihood.confounding import check_left_by
from ..likelihood.model import Model
from ..likelihood.prepared import weighted
from ..pytrees import replace
from ..runtime.precision import float64
from ..runtime.programs import compiled
from ..tolerances import FITTED_BY_X
from .chunks import Progress, chunks, run
from .fits import BatchFit, Fitted, Testing
from .queue import Runner
from .responses import Design, Lane, Responses, Shared, assemble, basis_of
from .stacking import Stack, floats_of, stacks_of_models, stacks_of_responses, take


def _starts(spec: Spec, shared: Shared, lanes: Lane, b: int) -> np.ndarray:
    """Start coordinates (b, k) of lanes, as a single fit has them."""
    scale = lanes.scale if shared.scale is None else shared.scale
    if shared.prepared is not None:
        start = np.tile(spec.start(shared.prepared.coords), (b, 1))
        return moment_start(spec, shared.prepared.statistics.of_columns(lanes.data.data), start, scale)
    if any(spec.placed):
        return np.stack([spec.start(take(lanes.data.coords, i)) for i in range(b)])
    start = np.tile(spec.start((None,) * len(spec.parts)), (b, 1))
    return moment_start(spec, lanes.data.statistics, start, scale)


def _as_left(
    found: Estimates, spec: Spec, shared: Shared, lanes: Lane, x: np.ndarray, start: np.ndarray
) -> Estimates:  # fmt: skip
    """The estimates with the log-likelihood of their theta, where the solver has not arrived; see ``fitting``."""
    left = np.flatnonzero(unfinished(found.status))
    if not len(left):
        return found
    place = np.resize(left, 1 << (len(left) - 1).bit_length())  # few shapes to compile
    loglik, status = found.loglik.copy(), found.status.copy()
    there = np.asarray(_logliks(spec, shared, take(lanes, place), found.theta[place]))[: len(left)]
    loglik[left] = there[:, 0]
    status[left[without_maximum(spec, x[left], start[left], there)]] = Status.NO_MAXIMUM
    return replace(found, loglik=loglik, status=status)


@compiled()
def _logliks(spec: Spec, shared: Shared, lanes: Lane, theta: Any) -> Any:
    return jax.lax.map(lambda own: logliks(spec, assemble(shared, own[0])[0], own[1]), (lanes, theta))


@dataclass(frozen=True, eq=False)
class Job:
    """What all chunks of a batch need to know."""

    spec: Spec
    out: BatchFit
    columns: np.ndarray  # positions of the model's columns of X in those of the user
    testing: Testing | None = None

    def fit(
        self, rows: np.ndarray, shared: Shared, lanes: Lane, few: np.ndarray | bool,
        responses: tuple[Model, np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        """Fit lanes of one shape and put them into `rows` of the result; `few`: see `says_little`."""
        spec, b = self.spec, len(rows)
        if not b:
            return
        start = _starts(spec, shared, lanes, b)
        packing = packing_of(spec, self.out.coef.shape[1])
        scale = np.broadcast_to(lanes.scale if shared.scale is None else shared.scale, start.shape)
        search = Search(spec, packing, scale, Runner(spec, shared, lanes, b))
        ends, dual = search.optimum(np.arange(b), start, few=few)
        basis = basis_of(shared, lanes)
        point = packing.unpack(ends.best)
        found = _as_left(at_ends(spec, basis, scale, point, ends, dual), spec, shared, lanes, point.x, start)
        self.out.put(rows, found, self.columns)
        if self.testing is not None:
            x = spec.in_absolute(point.x * scale, found.sigma)
            self.testing.put(self.out.tests, rows, Fitted(spec, shared, lanes, x, found, self.columns, responses))

    def fit_responses(self, rows: np.ndarray, design: Design, data: Responses, Y: np.ndarray | None = None) -> None:
        """Fit data sets that share a design; `Y` (b, n) their responses where there are any."""
        of_rows = None if Y is None or design.column else (design.model, Y)
        basis, few = design.template.basis, says_little(design.model)
        if self.spec.profiled:
            self.fit(rows, Shared(design.template, scale_of(self.spec, basis)), Lane(data, None), few, of_rows)
        else:
            lanes = Lane(data, scale_of(self.spec, data.put_into(basis)))
            self.fit(rows, Shared(design.template, None), lanes, few, of_rows)

    def fit_stack(self, rows: np.ndarray, stack: Stack) -> None:
        """Fit data sets of one shape with designs of their own; `rows` are those of all data sets stacked."""
        free = stack.prepared.basis.n - stack.prepared.basis.rank
        good = np.flatnonzero((stack.spread > FITTED_BY_X) & (free > 0))
        bad = np.setdiff1d(np.arange(len(stack.rows)), good)
        self.out.status[rows[stack.rows[bad]]] = Status.BAD_RESPONSE
        prepared = take(stack.prepared, good)
        lanes = Lane(prepared, scale_of(self.spec, prepared.basis))
        self.fit(rows[stack.rows[good]], Shared(None, None), lanes, stack.few[good])


def refit_batch(
    model: Model, Y: Any, method: str = "REML", *, missing: str = "status", weights: Any = None,
    column: int | None = None, values: Any = None, pairs: str = "rows", progress: Progress = "auto",
    names: tuple[str, ...] = (), kind: str = "dict", tests: Testing | None = None,
) -> BatchFit:  # fmt: skip
    """Fit one design to many responses; see `jaxlmm.fit_batch` for the arguments and the result."""
    _refuse_stochastic([model])
    Y = as_batch("Y", Y, len(model.y))
    if missing not in ("status", "drop"):
        raise DataError(f"missing: found {missing!r}, expected 'status' or 'drop'")
    if pairs not in ("rows", "all"):
        raise DataError(f"pairs: found {pairs!r}, expected 'rows' or 'all'")
    n, p = model.X.shape
    if (column is None) != (values is None):
        raise DataError("column, values: give both (which column of X varies, and its values) or neither")
    count, columns = len(Y), np.arange(p)
    if column is not None:
        values = as_batch("values", values, n)
        if not 0 <= column < p:
            raise DataError(f"column: found {column}, expected a column of X, 0 to {p - 1}")
        if pairs == "rows" and len(values) != len(Y):
            raise DataError(f"values: expected {len(Y)} rows as in Y, found {len(values)}; or use pairs='all'")
        count = len(Y) * (len(values) if pairs == "all" else 1)
        columns = np.append(np.delete(columns, column), column)
        model = model.replace(X=model.X[:, columns])
    if weights is not None:
        weights = as_batch("weights", weights, n)
        if len(weights) != len(Y):
            raise DataError(f"weights: expected {len(Y)} rows as in Y, found {len(weights)}")
    spec = Spec.of(model, method)
    check_left_by(model.X, model.random, method)
    out = BatchFit.empty(count, p, spec, Status.NOT_RUN, names, kind, tests)
    job = Job(spec, out, columns, tests)
    with float64():
        design = Design(model, column is not None)

    def task(rows: np.ndarray) -> None:
        first, second = divmod(rows, len(values)) if pairs == "all" and values is not None else (rows, rows)
        x = None if values is None else values[second]
        _refit_chunk(job, design, rows, Y[first], x, None if weights is None else weights[first], missing)

    apart = missing == "drop" or weights is not None  # data sets may be prepared on their own
    parts = chunks(count, max(design.floats, floats_of(model)) if apart else design.floats)
    run([partial(task, rows) for rows in parts], [len(rows) for rows in parts], progress)
    return out


def fit_drawn(
    model: Model, method: str, drawer: Callable[[Design], Callable[[np.ndarray], Responses]], count: int,
    names: tuple[str, ...] = (), kind: str = "dict", progress: Progress = "auto",
) -> BatchFit:  # fmt: skip
    """Fit replicates 0..count-1 whose statistics ``drawer(design)(replicates)`` gives, chunk by chunk."""
    _refuse_stochastic([model])
    spec, p = Spec.of(model, method), model.X.shape[1]
    out = BatchFit.empty(count, p, spec, Status.NOT_RUN, names, kind)
    job = Job(spec, out, np.arange(p))
    with float64():
        design = Design(model)
        draw = drawer(design)
    parts = chunks(count, design.floats)

    def task(rows: np.ndarray) -> None:
        job.fit_responses(rows, design, draw(rows))

    run([partial(task, rows) for rows in parts], [len(rows) for rows in parts], progress)
    return out


def as_batch(name: str, value: Any, n: int) -> np.ndarray:
    """A float64 array (b, n), any values."""
    mask = mask_of(value)
    value = np.asarray(value, dtype=np.float64) if mask is None else np.where(mask, np.nan, np.ma.getdata(value))
    if value.ndim != 2 or value.shape[1] != n:
        raise DataError(f"{name}: expected an array of shape (batch, {n}), found shape {value.shape}")
    return value


def _refit_chunk(
    job: Job, design: Design, rows: np.ndarray, Y: np.ndarray, x: np.ndarray | None, weights: np.ndarray | None,
    missing: str,
) -> None:  # fmt: skip
    model, status = design.model, job.out.status
    bad_y, bad_x = np.any(np.isinf(Y), 1), np.zeros(len(Y), bool)
    absent = np.isnan(Y)
    if x is not None:
        bad_x |= np.any(np.isinf(x), 1)
        if missing == "drop":
            absent |= np.isnan(x)
        else:
            bad_x |= np.any(np.isnan(x), 1)
    if weights is not None:
        bad_x |= ~np.all(np.isfinite(weights) & (weights > 0), 1)
    incomplete = np.any(absent, 1)
    if missing == "status":
        bad_y |= incomplete
    bad_y |= np.sum(~absent, 1) <= model.X.shape[1]
    status[rows[bad_x]], status[rows[bad_y]] = Status.BAD_COVARIATE, Status.BAD_RESPONSE
    good = ~bad_x & ~bad_y
    own = good & incomplete if weights is None else good
    _fit_shared(job, design, rows, Y, x, np.flatnonzero(good & ~own))
    if np.any(own):
        Y = np.where(absent, np.nan, Y)[own]
        x, weights = None if x is None else x[own], None if weights is None else weights[own]
        for stack in stacks_of_responses(model, Y, weights, x):
            job.fit_stack(rows[own], stack)


def _fit_shared(
    job: Job, design: Design, rows: np.ndarray, Y: np.ndarray, x: np.ndarray | None, good: np.ndarray
) -> None:  # fmt: skip
    """Fit complete responses with the weights of the model, which share the design."""
    if not len(good):
        return
    if len(good) < len(Y):
        Y, x = Y[good], None if x is None else x[good]
    offset = 0.0 if design.model.offset is None else design.model.offset
    size = np.sqrt(np.sum(weighted(design.model, (Y - offset).T) ** 2, 0))
    data = design.responses(Y, x)
    varies = data.residual_sd * np.sqrt(Y.shape[1]) > FITTED_BY_X * size
    job.out.status[rows[good[~varies]]] = Status.BAD_RESPONSE
    data = data if varies.all() else take(data, np.flatnonzero(varies))
    job.fit_responses(rows[good[varies]], design, data, None if job.testing is None else Y[varies])


def _refuse_stochastic(models: Sequence[Model]) -> None:
    """A stochastic engine has one data set at a time: its values belong to the path of one fit."""
    for model in models:
        if model.evaluator.stochastic:
            raise DataError(
                f"engine: {model.engine!r} fits one data set at a time, found it for a batch; call fit.refit(y) for "
                "one response after the other, or use engine='crossed'"
            )


@door
def fit_batch(
    models: Sequence[Model] | Model, Y: Any = None, method: str = "REML", *, missing: str = "status",
    weights: Any = None, column: int | None = None, values: Any = None, pairs: str = "rows",
    progress: Progress = "auto", tests: Testing | None = None,
) -> BatchFit:  # fmt: skip
    """Fit many data sets: independent models, or one model with responses Y (b, n).

    Nothing raises and nothing is dropped once fitting has begun: every data set gets a row with a `jaxlmm.Status`.
    The result of a data set does not depend on the others, on their number or order, or on the devices (to rounding:
    1e-10 in the log-likelihood). Ctrl-C returns what is done, the rest with status "not_run".

    Parameters
    ----------
    models : models with the same terms, structures and number of columns; they may differ in everything else: y, X,
        Z, weights, rows and groups. (``Model(..., checks=False)`` leaves unusable data to a status.)
    Y : (b, n) responses for a single model
    method : "REML" or "ML"
    missing : what NaN in Y (or in `values`) means: "status" gives the row status "bad_response", "drop" leaves these
        observations out, with the number of observations, and the rank of X, counted for each row
    weights : (b, n) positive weights for each response, instead of those of the model
    column, values : column of X (a position) that differs between rows, and its values (b, n), as in genome-wide scans
    pairs : "rows" fits row i of Y with row i of `values`; "all" fits every row of Y with every row of `values` (m, n),
        row ``i * m + j`` of the result for row i of Y and j of `values`
    progress : "auto" shows a bar on a terminal for long batches (needs tqdm), False is silent, a function is called
        as ``progress(done, total)`` after every chunk
    tests : hypotheses to be tested in every data set, `jaxlmm.Tests`; the results are in ``BatchFit.tests``

    Returns
    -------
    BatchFit
        A row a data set, in order.

    Raises
    ------
    DataError
        When shapes do not fit, or the models do not have the same terms.
    """
    if isinstance(models, Model):
        Y = models.y[None] if Y is None else Y
        return refit_batch(
            models, Y, method, missing=missing, weights=weights, column=column, values=values, pairs=pairs,
            progress=progress, tests=tests,
        )  # fmt: skip
    for name, value in (("Y", Y), ("weights", weights), ("column", column), ("values", values)):
        if value is not None:
            raise DataError(f"{name}: expected only with a single model; a list of models carries its own data")
    models = list(models)
    if not models:
        raise DataError("models: expected at least one model, found none")
    _refuse_stochastic(models)
    specs = [Spec.of(m, method) for m in models]
    for m in models:
        check_left_by(m.X, m.random, method)
    widths = [m.X.shape[1] for m in models]
    for i, (spec, width) in enumerate(zip(specs, widths, strict=True)):
        if spec != specs[0] or width != widths[0]:
            raise DataError(f"models: model {i} has other terms or another number of columns of X than model 0")
    out = BatchFit.empty(len(models), widths[0], specs[0], Status.NOT_RUN, (), "dict", tests)
    job = Job(specs[0], out, np.arange(widths[0]), tests)

    def task(rows: np.ndarray) -> None:
        for stack in stacks_of_models([models[i] for i in rows]):
            job.fit_stack(rows, stack)

    parts = chunks(len(models), max(map(floats_of, models)))
    run([partial(task, rows) for rows in parts], [len(rows) for rows in parts], progress)
    return out
