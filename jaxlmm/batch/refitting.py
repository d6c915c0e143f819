"""Fitting many data sets: one design with many responses, or models of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import jax
import numpy as np

from ..arguments import door, numbers_of
from ..errors import DataError
from ..fitting.boundary import Search
from ..fitting.estimate import as_start, by_v, says_little
from ..fitting.newton import Status
from ..fitting.objective import Spec, packing_of, scale_of
from ..fitting.recession import doubtful, logliks, lost, without_maximum
from ..fitting.spreads import in_own_units
from ..fitting.units import Estimates, at_ends
from ..frames.alignment import mask_of
from ..likelihood.confounding import check_left_by, left_by, left_in_rows
from ..likelihood.model import Model
from ..likelihood.prepared import Prepared, weighted
from ..pytrees import replace
from ..runtime.precision import float64
from ..runtime.programs import compiled
from ..tolerances import FITTED_BY_X
from .chunks import Progress, chunks, queues_of, run
from .fits import BatchFit, Fitted, Testing
from .missing import patterns, repeated, stacks_of_masked
from .queue import Runner
from .rebuilding import Rebuilt
from .responses import Design, Lane, Responses, Shared, assemble, basis_of, design_of
from .rows import is_sparse
from .stacking import Stack, floats_of, models_of_responses, stacks_of_models, stacks_of_responses, take


def _starts(
    spec: Spec, shared: Prepared | None, data: Any, scale: np.ndarray, b: int, model: Model | None
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Start coordinates (b, k) of lanes, and their sizes from those of one unit, as a single fit has them."""
    scale = np.broadcast_to(scale, (b, scale.shape[-1]))
    if shared is not None:
        start, statistics = np.tile(spec.start(shared.coords), (b, 1)), shared.statistics.of_columns(data.data)
        return in_own_units(spec, statistics, shared.coords[-1], start, scale, shared.basis, model)
    if not any(spec.placed):
        start = np.tile(spec.start((None,) * len(spec.parts)), (b, 1))
        return in_own_units(spec, data.statistics, None, start, scale)
    found = []
    for i in range(b):
        own = take(data, i)
        found.append(in_own_units(spec, own.statistics, own.coords[-1], spec.start(own.coords), scale[i]))
    empty = np.zeros((0, scale.shape[-1]))
    return tuple(np.stack(column) for column in zip(*found, strict=True)) if found else (empty, empty)  # type: ignore[return-value]


def _start(model: Model, spec: Spec, start: Any, count: int) -> np.ndarray | None:
    """Start of each of `count` data sets (count, k), or of all (k,)."""
    theta = None if start is None else as_start(model, spec, start)
    if theta is not None and theta.shape[:-1] not in ((), (count,)):
        raise DataError(f"start: expected a theta (k,), or {count}, one for each data set, found shape {theta.shape}")
    return theta


def _as_left(
    found: Estimates, spec: Spec, shared: Shared, lanes: Lane, x: np.ndarray, start: np.ndarray
) -> Estimates:  # fmt: skip
    """The estimates with the log-likelihood of their theta, where the solver has not arrived; see ``fitting``."""
    left = np.flatnonzero(doubtful(spec, found.status, x))
    if not len(left):
        return found
    place = np.resize(left, 1 << (len(left) - 1).bit_length())  # few shapes to compile
    loglik, status = found.loglik.copy(), found.status.copy()
    there = np.asarray(_logliks(spec, shared, take(lanes, place), found.theta[place]))[: len(left)]
    there = np.column_stack([there, loglik[left]])
    status[left[without_maximum(spec, status[left], x[left], start[left], there)]] = Status.NO_MAXIMUM
    loglik[left] = np.where(lost(status[left]), there[:, 0], loglik[left])
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
    start: np.ndarray | None = None  # theta (k,) or (b, k) of all data sets
    queues: int = 1  # of a chunk
    model: Model | None = None  # the design and weights that all have, but for missing rows

    @property
    def method(self) -> str:
        """What is maximised: "REML" or "ML"."""
        return "REML" if self.spec.reml else "ML"

    def fit(
        self, rows: np.ndarray, shared: Shared, lanes: Lane, few: np.ndarray | bool,
        responses: tuple[Model, np.ndarray] | None = None, design: Design | None = None,
    ) -> None:  # fmt: skip
        """Fit lanes of one shape and put them into `rows` of the result; `few`: see `says_little`; `design` of all."""
        spec, b = self.spec, len(rows)
        if not b:
            return
        scale = lanes.scale if shared.scale is None else shared.scale
        model = None if design is None or spec.profiled else design.model
        start, scale = _starts(spec, shared.prepared, lanes.data, scale, b, model)
        lanes = lanes if shared.scale is not None else lanes._replace(scale=scale)
        packing = packing_of(spec, self.out.coef.shape[1])
        basis, runner = basis_of(shared, lanes), Runner(spec, shared, lanes, b, self.queues)
        search = Search(spec, packing, scale, runner)
        if self.start is not None:
            theta = np.tile(self.start, (b, 1)) if self.start.ndim == 1 else self.start[rows]
            start = np.broadcast_to(spec.from_theta(theta, basis.K, start * scale) / scale, start.shape)
        ends, dual = search.optimum(np.arange(b), start, self.start is None, few)
        point = packing.unpack(ends.best)
        found = _as_left(at_ends(spec, basis, scale, point, ends, dual), spec, shared, lanes, point.x, start)
        self.out.put(rows, found, self.columns)
        if self.testing is not None:
            x = spec.in_absolute(point.x * scale, found.sigma)
            of = (self.model, False) if design is None else (design.original, True)
            self.testing.put(self.out.tests, rows, Fitted(spec, shared, lanes, x, found, self.columns, responses, *of))

    def fit_responses(self, rows: np.ndarray, design: Design, data: Responses, Y: np.ndarray | None = None) -> None:
        """Fit data sets that share a design; `Y` (b, n) their responses where there are any."""
        reduced = design.model is not design.original
        of_rows = None if Y is None or design.column or reduced else (design.model, Y)
        basis, few = design.template.basis, says_little(design.original)
        if self.spec.profiled:
            self.fit(rows, Shared(design.template, scale_of(self.spec, basis)), Lane(data, None), few, of_rows, design)
        else:
            lanes = Lane(data, scale_of(self.spec, data.put_into(basis)))
            self.fit(rows, Shared(design.template, None), lanes, few, of_rows, design)

    def fit_models(self, rows: np.ndarray, models: Sequence[Model]) -> None:
        """Fit data sets that are models of their own."""
        good = np.array([left_by(m.X, m.random, self.method) is None for m in models], dtype=bool)
        self.out.status[rows[~good]] = Status.BAD_COVARIATE
        kept = [m for m, is_good in zip(models, good, strict=True) if is_good]
        for stack in stacks_of_models(kept) if kept else ():
            self.fit_stack(rows[good], stack)

    def fit_stack(self, rows: np.ndarray, stack: Stack) -> None:
        """Fit data sets of one shape with designs of their own; `rows` are those of all data sets stacked."""
        free = stack.prepared.basis.n - stack.prepared.basis.rank
        good = np.flatnonzero(self.spec.fits(free, stack.spread > FITTED_BY_X))
        bad = np.setdiff1d(np.arange(len(stack.rows)), good)
        self.out.status[rows[stack.rows[bad]]] = Status.BAD_RESPONSE
        prepared = take(stack.prepared, good)
        lanes = Lane(prepared, scale_of(self.spec, prepared.basis))
        self.fit(rows[stack.rows[good]], Shared(None, None), lanes, stack.few[good])


def refit_batch(
    model: Model, Y: Any, method: str = "REML", *, missing: str = "status", weights: Any = None,
    column: int | None = None, values: Any = None, pairs: str = "rows", progress: Progress = "auto",
    names: tuple[str, ...] = (), kind: str = "dict", tests: Testing | None = None, again: Rebuilt | None = None,
    start: Any = None,
) -> BatchFit:  # fmt: skip
    """Fit one design to many responses; see `jaxlmm.fit_batch` for the arguments and the result.

    `again` makes the arrays that depend on the column that varies.
    """
    _refuse_unsuited([model])
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
        if again is None:
            columns = np.append(np.delete(columns, column), column)
            model = model.replace(X=model.X[:, columns])
    if weights is not None:
        weights = as_batch("weights", weights, n)
        if len(weights) != len(Y):
            raise DataError(f"weights: expected {len(Y)} rows as in Y, found {len(weights)}")
    spec = Spec.of(model, method)
    check_left_by(model.X, model.random, method)
    out = BatchFit.empty(count, p, spec, Status.NOT_RUN, names, kind, tests)
    with float64():
        design = Design(model, True) if column is not None and again is None else design_of(model)

    def task(rows: np.ndarray) -> None:
        first, second = divmod(rows, len(values)) if pairs == "all" and values is not None else (rows, rows)
        x = None if values is None else values[second]
        _refit_chunk(job, design, rows, Y[first], x, None if weights is None else weights[first], missing, again)

    apart = missing == "drop" or weights is not None or again is not None  # data sets may be prepared on their own
    floats = max(design.floats, floats_of(model)) if apart else design.floats
    parts = chunks(count, floats, spec.count, not apart and tests is None)
    queues, same = queues_of(parts), model if weights is None and again is None else None
    job = Job(spec, out, columns, tests, _start(model, spec, start, count), queues, same)
    if missing == "drop" and column is None and weights is None:
        order = np.argsort(patterns(Y), kind="stable")  # those of one pattern together
        parts = [order[rows] for rows in parts]
    run([partial(task, rows) for rows in parts], [len(rows) for rows in parts], progress)
    left = np.flatnonzero(lost(out.status))
    if len(left) and tests is None and column is None and weights is None and (whole := by_v(model)) is not None:
        begin = start if start is None or np.ndim(start) == 1 else np.asarray(start)[left]
        found = refit_batch(whole, Y[left], method, missing=missing, progress=False, start=begin)
        named = {f.name: take(getattr(found, f.name), found.converged) for f in fields(Estimates)}
        out.put(left[found.converged], Estimates(**named), np.arange(p))
    return out


def refit_design(
    design: Design, Y: np.ndarray, method: str = "REML", *, progress: Progress = "auto", names: tuple[str, ...] = (),
    kind: str = "dict", tests: Testing | None = None,
) -> BatchFit:  # fmt: skip
    """Fit a design that is prepared to rows Y (b, n) of its model; a row each, as `refit_batch`."""
    model, spec = design.model, Spec.of(design.model, method)
    check_left_by(model.X, model.random, method)
    out = BatchFit.empty(len(Y), model.X.shape[1], spec, Status.NOT_RUN, names, kind, tests)
    parts = chunks(len(Y), design.floats, spec.count, tests is None)
    job = Job(spec, out, np.arange(model.X.shape[1]), tests, None, queues_of(parts))

    def task(rows: np.ndarray) -> None:
        _refit_chunk(job, design, rows, Y[rows], None, None, "status", None)

    run([partial(task, rows) for rows in parts], [len(rows) for rows in parts], progress)
    return out


def fit_drawn(
    model: Model, method: str, drawer: Callable[[Design], Callable[[np.ndarray], Responses]], count: int,
    names: tuple[str, ...] = (), kind: str = "dict", progress: Progress = "auto",
) -> BatchFit:  # fmt: skip
    """Fit replicates 0..count-1 whose statistics ``drawer(design)(replicates)`` gives, chunk by chunk."""
    _refuse_unsuited([model])
    spec, p = Spec.of(model, method), model.X.shape[1]
    out = BatchFit.empty(count, p, spec, Status.NOT_RUN, names, kind)
    with float64():
        design = design_of(model)
        draw = drawer(design)
    parts = chunks(count, design.floats, spec.count, True)
    job = Job(spec, out, np.arange(p), None, None, queues_of(parts))

    def task(rows: np.ndarray) -> None:
        job.fit_responses(rows, design, draw(rows))

    run([partial(task, rows) for rows in parts], [len(rows) for rows in parts], progress)
    return out


def as_batch(name: str, value: Any, n: int, one: bool = False) -> np.ndarray:
    """A float64 array (b, n), any values; with `one` a single row (n,) will do."""
    if is_sparse(value):
        raise DataError(
            f"{name}: found a sparse matrix, expected an array; give {name}.toarray() where memory holds it"
        )
    mask = mask_of(value)
    value = numbers_of(name, value if mask is None else np.where(mask, np.nan, np.ma.getdata(value)))
    value = np.atleast_2d(value) if one else value
    if value.ndim != 2 or value.shape[1] != n:
        raise DataError(
            f"{name}: expected an array of shape (batch, {n}), found shape {value.shape}{turned(value.shape, n)}"
        )
    return value


def turned(shape: tuple[int, ...], n: int) -> str:
    """What to do with a matrix of a row an observation, as tables of cells or of times are."""
    return "; a row an observation: give its transpose" if len(shape) == 2 and shape[0] == n else ""


def _refit_chunk(
    job: Job, design: Design, rows: np.ndarray, Y: np.ndarray, x: np.ndarray | None, weights: np.ndarray | None,
    missing: str, again: Rebuilt | None,
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
    bad_y |= ~job.spec.fits(np.sum(~absent, 1) + (design.nobs - len(model.y)) - model.X.shape[1], True)
    status[rows[bad_x]], status[rows[bad_y]] = Status.BAD_COVARIATE, Status.BAD_RESPONSE
    good = ~bad_x & ~bad_y
    if again is not None and x is not None:
        _fit_rebuilt(job, model, rows, Y, x, weights, absent, np.flatnonzero(good), again)
        return
    own = good & incomplete if weights is None else good
    lost = np.flatnonzero(good & incomplete)
    if len(lost):
        varied = weights is not None or (model.weights is not None and np.ptp(model.weights) > 0)
        lost = lost[left_in_rows(model.X, model.random, job.method, ~absent[lost], model.residual.is_known, varied)]
    status[rows[lost]], own[lost] = Status.BAD_RESPONSE, False
    good[lost] = False
    _fit_shared(job, design, rows, Y, x, np.flatnonzero(good & ~own))
    if np.any(own):
        Y = np.where(absent, np.nan, Y)[own]
        x, weights = None if x is None else x[own], None if weights is None else weights[own]
        rows = rows[own]
        if weights is None and x is None:
            rows, Y = _fit_incomplete(job, design, rows, Y)
        for stack in stacks_of_responses(model, Y, weights, x) if len(rows) else ():
            job.fit_stack(rows, stack)


def _fit_incomplete(job: Job, design: Design, rows: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit responses with missing values, by what they share; those whose rows have to be worked with are left."""
    done = np.zeros(len(Y), bool)
    for mine, here in repeated(design, Y):
        (own,) = models_of_responses(design.model, Y[mine[:1]], None, None)
        _fit_shared(job, Design(own), rows[mine], Y[np.ix_(mine, here)], None, np.arange(len(mine)))
        done[mine] = True
    rows, Y = rows[~done], Y[~done]
    if design.masked is None or not len(rows):
        return rows, Y
    stacks, left = stacks_of_masked(design, Y)
    for stack in stacks:
        job.fit_stack(rows, stack)
    return rows[left], Y[left]


def _fit_rebuilt(
    job: Job, model: Model, rows: np.ndarray, Y: np.ndarray, x: np.ndarray, weights: np.ndarray | None,
    absent: np.ndarray, good: np.ndarray, again: Rebuilt,
) -> None:  # fmt: skip
    """Fit data sets whose arrays are made again for their values of a column."""
    models, places = [], []
    for i in good:
        here = np.flatnonzero(~absent[i])
        own = model.weights if weights is None else weights[i]
        try:
            models.append(again.model(model, Y[i, here], x[i, here], here, None if own is None else own[here]))
        except DataError:  # a formula that has no value there
            job.out.status[rows[i]] = Status.BAD_COVARIATE
            continue
        places.append(rows[i])
    job.fit_models(np.array(places), models)


def _fit_shared(
    job: Job, design: Design, rows: np.ndarray, Y: np.ndarray, x: np.ndarray | None, good: np.ndarray
) -> None:  # fmt: skip
    """Fit complete responses with the weights of the model, which share the design."""
    if not len(good):
        return
    if len(good) < len(Y):
        Y, x = Y[good], None if x is None else x[good]
    offset = design.model.offset
    whole = weighted(design.model, (Y if offset is None else Y - offset).T)
    size = np.sqrt(np.einsum("nb,nb->b", whole, whole))
    data = design.responses(Y, x)
    varies = job.spec.fits(1, data.residual_sd * np.sqrt(Y.shape[1]) > FITTED_BY_X * size)
    job.out.status[rows[good[~varies]]] = Status.BAD_RESPONSE
    data = data if varies.all() else take(data, np.flatnonzero(varies))
    job.fit_responses(rows[good[varies]], design, data, None if job.testing is None else Y[varies])


def _refuse_unsuited(models: Sequence[Model]) -> None:
    """A stochastic engine has one data set at a time, as its values belong to the path of one fit; zeros are pure."""
    for model in models:
        if model.weights is not None and not np.all(np.asarray(model.weights) > 0):
            raise DataError(
                "weights: found rows of no weight, which are for jaxlmm.fit and the other functions of jaxlmm.pure; in "
                "batches leave the rows out: models of other rows, or NaN in Y with missing='drop'"
            )
        if model.evaluator.stochastic:
            raise DataError(
                f"engine: {model.engine!r} fits one data set at a time, found it for a batch; call fit.refit(y) for "
                "one response after the other, or use engine='crossed'"
            )


@door
def fit_batch(
    models: Sequence[Model] | Model, Y: Any = None, method: str = "REML", *, missing: str = "status",
    weights: Any = None, column: int | None = None, values: Any = None, pairs: str = "rows",
    progress: Progress = "auto", tests: Testing | None = None, start: Any = None,
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
    start : theta (k,) to start at, or (b, k), one a data set; without it, as in `lmm`, several starts are tried

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
            progress=progress, tests=tests, start=start,
        )  # fmt: skip
    for name, value in (("Y", Y), ("weights", weights), ("column", column), ("values", values)):
        if value is not None:
            raise DataError(f"{name}: expected only with a single model; a list of models carries its own data")
    models = list(models)
    if not models:
        raise DataError("models: expected at least one model, found none")
    _refuse_unsuited(models)
    specs = [Spec.of(m, method) for m in models]
    widths = [m.X.shape[1] for m in models]
    for i, (spec, width) in enumerate(zip(specs, widths, strict=True)):
        if spec != specs[0] or width != widths[0]:
            raise DataError(f"models: model {i} has other terms or another number of columns of X than model 0")
    out = BatchFit.empty(len(models), widths[0], specs[0], Status.NOT_RUN, (), "dict", tests)
    job = Job(specs[0], out, np.arange(widths[0]), tests, _start(models[0], specs[0], start, len(models)))

    def task(rows: np.ndarray) -> None:
        job.fit_models(rows, [models[i] for i in rows])

    parts = chunks(len(models), max(map(floats_of, models)), specs[0].count)
    run([partial(task, rows) for rows in parts], [len(rows) for rows in parts], progress)
    return out
