"""Fitting many data sets: lanes of one shape go through the solver together, each on its own.

The driver keeps a fixed number of slots. A short compiled burst advances all of them by a few steps; lanes that have
ended are taken out and the next ones put in, so no lane waits for a slow neighbour and one shape is compiled. What a
lane does depends on its own data only.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .boundary import Ends, Search
from .columns import make_frame
from .errors import DataError
from .fitting import MAX_ITERATIONS, in_units
from .model import Model, Prepared, prepare
from .objective import Spec, objective, packing_of, scale_of
from .optimize import FIRST_RADIUS, Packing, State, Status, advance
from .responses import Design, assemble, stack_lanes

SLOTS = {"cpu": 128}  # lanes that a worker keeps going: what stays in a core's cache
SLOTS_OTHERWISE = 8192
STEPS = 4  # evaluations a burst
CHUNK_FLOATS = 2e7  # numbers of responses read at a time

Progress = Callable[[int, int], None]


@partial(jax.jit, static_argnames=("spec", "steps"))
def _burst(spec: Spec, template: Prepared | None, lanes: Any, scale: Any, state: State, steps: int) -> State:
    """Advance every running lane by up to `steps` evaluations."""

    def one(lane: Any, scale: Any, state: State) -> State:
        prepared = assemble(template, lane)
        packing = packing_of(spec, prepared.basis.R.shape[-1])
        evaluate = objective(spec, prepared, scale)

        def step(_: Any, old: State) -> State:
            new = advance(packing, old, evaluate(old.trial), jnp)
            running = (old.status == Status.RUNNING) & (old.iteration < MAX_ITERATIONS)
            return jax.tree_util.tree_map(lambda a, b: jnp.where(running, a, b), new, old)

        return jax.lax.fori_loop(0, steps, step, state)

    return jax.vmap(one)(lanes, scale, state)


def _take(tree: Any, rows: np.ndarray) -> Any:
    return jax.tree_util.tree_map(lambda a: a[rows], tree)


def _put(tree: Any, rows: np.ndarray, values: Any) -> None:
    """Overwrite rows of the arrays of a pytree."""
    for leaf, value in zip(jax.tree_util.tree_leaves(tree), jax.tree_util.tree_leaves(values), strict=True):
        leaf[rows] = value


class Runner:
    """Runs the solver for lanes of one shape.

    Parameters
    ----------
    template : what the lanes share, or None
    lanes : pytree of arrays with one row a lane
    scale : (b, k) sizes of the solver coordinates
    """

    def __init__(self, spec: Spec, packing: Packing, template: Prepared | None, lanes: Any, scale: np.ndarray):
        self.spec, self.packing, self.template, self.lanes, self.scale = spec, packing, template, lanes, scale

    def __call__(self, lanes: np.ndarray, s: np.ndarray) -> Ends:
        """Run `lanes` (b,) from scaled coordinates s (b, k)."""
        b = len(lanes)
        best = np.zeros((b, self.packing.size))
        ends = Ends(best, np.full(b, Status.NOT_RUN), np.full(b, np.inf), np.zeros(b, int))
        queue, lock = iter(range(b)), threading.Lock()
        most = SLOTS.get(jax.default_backend(), SLOTS_OTHERWISE)
        workers = max(1, min(os.cpu_count() or 1, -(-b // most))) if jax.default_backend() == "cpu" else 1
        slots = min(most, 1 << max(3, (-(-b // workers) - 1).bit_length()))

        def work(_: int) -> None:
            with jax.enable_x64(True):
                self._work(lanes, s, ends, queue, lock, slots)

        if workers == 1:
            work(0)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(work, range(workers)))
        return ends

    def _work(self, lanes: np.ndarray, s: np.ndarray, ends: Ends, queue: Any, lock: Any, slots: int) -> None:
        """Keep `slots` lanes going until the queue is empty."""
        owner = np.full(slots, -1)
        idle = np.zeros(slots, int)  # slots without a lane compute lane 0 and are not looked at
        data, scale = _take((self.lanes, self.scale), lanes[idle])
        state = self._fresh(s[idle])
        while True:
            free = np.flatnonzero(owner < 0)
            with lock:
                new = np.array([i for _, i in zip(free, queue, strict=False)], int)
            if len(new):
                into = free[: len(new)]
                owner[into] = new
                _put((data, scale), into, _take((self.lanes, self.scale), lanes[new]))
                _put(state, into, self._fresh(s[new]))
            if np.all(owner < 0):
                return
            out = jax.device_get(_burst(self.spec, self.template, data, scale, state, STEPS))
            state = State(*(np.array(a) for a in out))
            ended = (state.status != Status.RUNNING) | (state.iteration >= MAX_ITERATIONS)
            done = np.flatnonzero(ended & (owner >= 0))
            status = np.where(state.status == Status.RUNNING, Status.MAX_ITERATIONS, state.status)
            result = Ends(state.best, status, state.decrement, state.iteration)
            _put(ends, owner[done], result.take(done))
            owner[done] = -1

    def _fresh(self, s: np.ndarray) -> State:
        """States before the first evaluation at coordinates s (m, k)."""
        m = len(s)
        best, count = np.zeros((m, self.packing.size)), np.zeros(m, np.int32)
        zero, radius, infinite = np.zeros(m), np.full(m, FIRST_RADIUS), np.full(m, np.inf)
        return State(best, s.copy(), zero, radius, infinite, zero.copy(), count, count.copy())


@dataclass(frozen=True, eq=False)
class BatchFit:
    """Fits of many data sets, one row each; nothing is dropped, `status` says how each ended.

    Attributes
    ----------
    loglik (b,), coef (b, p), vcov (b, p, p), theta (b, k), sigma (b,) : as in `jaxlmm.Fit`, NaN where not fitted
    varcorr : covariance matrices (b, q, q), one array a term
    status : (b,) `jaxlmm.Status`;  converged, singular : (b,) bool
    decrement, min_eigenvalue : (b,) certificate;  iterations : (b,) evaluations
    """

    loglik: np.ndarray
    coef: np.ndarray
    vcov: np.ndarray
    theta: np.ndarray
    varcorr: tuple[np.ndarray, ...]
    sigma: np.ndarray
    status: np.ndarray
    singular: np.ndarray
    decrement: np.ndarray
    min_eigenvalue: np.ndarray
    iterations: np.ndarray
    coef_names: tuple[str, ...] = ()
    kind: str = field(default="dict", repr=False)

    def __len__(self) -> int:
        return len(self.loglik)

    @property
    def converged(self) -> np.ndarray:
        """Whether each fit reached a certified optimum (b,)."""
        return self.status == Status.CONVERGED

    @property
    def se(self) -> np.ndarray:
        """Standard errors of the fixed effects (b, p)."""
        return np.sqrt(np.diagonal(self.vcov, axis1=-2, axis2=-1))

    def to_frame(self) -> Any:
        """One row a data set: status, log-likelihood, sigma, coefficients with standard errors, theta."""
        columns: dict[str, Any] = {
            "status": [Status(s).name.lower() for s in self.status],
            "converged": self.converged,
            "singular": self.singular,
            "loglik": self.loglik,
            "sigma": self.sigma,
        }
        for j, name in enumerate(self.coef_names):
            columns[name] = self.coef[:, j]
            columns[f"se({name})"] = self.se[:, j]
        columns |= {f"theta{j + 1}": self.theta[:, j] for j in range(self.theta.shape[1])}
        columns |= {name: getattr(self, name) for name in ("decrement", "min_eigenvalue", "iterations")}
        return make_frame(self.kind, columns)

    @classmethod
    def empty(cls, b: int, p: int, spec: Spec, status: Status, names: tuple[str, ...], kind: str) -> BatchFit:
        """Rows of NaN with one status."""
        k = sum(c.size(dim) for c, dim in spec.parts) + spec.profiled

        def nan(*shape: int) -> np.ndarray:
            return np.full((b, *shape), np.nan)

        terms = spec.parts if spec.profiled else spec.parts[:-1]
        return cls(
            nan(), nan(p), nan(p, p), nan(k), tuple(nan(dim, dim) for _, dim in terms), nan(),
            np.full(b, status, int), np.zeros(b, bool), nan(), nan(), np.zeros(b, int), names, kind,
        )  # fmt: skip

    def put(self, rows: np.ndarray, other: BatchFit) -> None:
        """Fill rows with those of another batch."""
        for name in ("loglik", "coef", "vcov", "theta", "sigma", "status", "singular", "decrement",
                     "min_eigenvalue", "iterations"):  # fmt: skip
            getattr(self, name)[rows] = getattr(other, name)
        for mine, theirs in zip(self.varcorr, other.varcorr, strict=True):
            mine[rows] = theirs


def _fit_lanes(
    spec: Spec, template: Prepared | None, lanes: Any, scale: np.ndarray, p: int, names: tuple[str, ...], kind: str
) -> BatchFit:
    """Fit lanes of one shape and put everything in the user's units."""
    packing = packing_of(spec, p)
    search = Search(spec, packing, scale, Runner(spec, packing, template, lanes, scale))
    ends, dual = search.optimum(np.arange(len(scale)), np.tile(spec.start, (len(scale), 1)))
    shared = template.basis._replace(c=lanes.c, residual_sd=lanes.residual_sd) if template is not None else lanes.basis
    found = in_units(spec, shared, scale, packing.unpack(ends.best), ends, dual)
    return BatchFit(
        loglik=found.loglik,
        coef=found.coef,
        vcov=found.vcov,
        theta=found.theta,
        varcorr=found.covariances,
        sigma=found.sigma,
        status=found.status,
        singular=np.any(found.boundary, -1),
        decrement=ends.decrement,
        min_eigenvalue=found.min_eigenvalue,
        iterations=ends.iterations,
        coef_names=names,
        kind=kind,
    )


def refit_batch(
    model: Model, Y: Any, method: str = "REML", names: tuple[str, ...] = (), kind: str = "dict",
    progress: Progress | None = None,
) -> BatchFit:  # fmt: skip
    """Fit one design to many responses.

    Parameters
    ----------
    Y : (b, n) responses; a row with missing or infinite values, or without variation, gets a status
    progress : called as ``progress(done, total)`` after every chunk

    Returns
    -------
    BatchFit
        A row a response, in order. An interrupt (Ctrl-C) returns what is done, the rest with status "not_run".
    """
    Y = np.asarray(Y, dtype=np.float64)
    n, p = model.X.shape
    if Y.ndim != 2 or Y.shape[1] != n:
        raise DataError(f"Y: expected responses of shape (batch, {n}), found shape {Y.shape}")
    spec = Spec.of(model, method)
    out = BatchFit.empty(len(Y), p, spec, Status.NOT_RUN, names, kind)
    with jax.enable_x64(True), np.errstate(all="ignore"):
        design = Design(model)
        chunk = max(1, int(CHUNK_FLOATS // n))
        for start in range(0, len(Y), chunk):
            rows = np.arange(start, min(start + chunk, len(Y)))
            try:
                _refit_chunk(design, spec, Y[rows], rows, out)
                if progress is not None:
                    progress(int(rows[-1]) + 1, len(Y))
            except KeyboardInterrupt:
                break
    return out


def _refit_chunk(design: Design, spec: Spec, Y: np.ndarray, rows: np.ndarray, out: BatchFit) -> None:
    good = np.all(np.isfinite(Y), 1)
    out.status[rows[~good]] = Status.BAD_RESPONSE
    lanes = design.responses(Y[good])
    size = np.sqrt(np.sum(Y[good] ** 2, 1))
    varies = lanes.residual_sd * np.sqrt(Y.shape[1]) > 1e-13 * size
    out.status[rows[good][~varies]] = Status.BAD_RESPONSE
    use = np.flatnonzero(varies)
    if not len(use):
        return
    lanes = _take(lanes, use)
    if spec.profiled:
        scale = np.tile(scale_of(spec, design.model, design.template), (len(use), 1))
    else:
        bases = [design.template.basis._replace(residual_sd=sd) for sd in lanes.residual_sd]
        scale = np.stack([scale_of(spec, design.model, design.template._replace(basis=b)) for b in bases])
    p = design.model.X.shape[1]
    fitted = _fit_lanes(spec, design.template, lanes, scale, p, out.coef_names, out.kind)
    out.put(rows[good][use], fitted)


def fit_batch(models: Sequence[Model] | Model, Y: Any = None, method: str = "REML") -> BatchFit:
    """Fit many data sets: independent models, or one model with responses Y (b, n).

    Parameters
    ----------
    models : models with the same terms, structures and number of columns; they may differ in everything else, such as
        y, X, Z, weights, rows and groups. Those of one shape (up to padding) are fitted together.
    Y : (b, n) responses for a single model
    method : "REML" or "ML"

    Returns
    -------
    BatchFit
        A row a data set, in order.

    Raises
    ------
    DataError
        When the models do not have the same terms.
    """
    if isinstance(models, Model):
        return refit_batch(models, models.y[None] if Y is None else Y, method)
    if Y is not None:
        raise DataError("Y: expected only with a single model; a list of models carries its own responses")
    models = list(models)
    if not models:
        raise DataError("models: expected at least one model, found none")
    specs = [Spec.of(m, method) for m in models]
    widths = [m.X.shape[1] for m in models]
    for i, (spec, width) in enumerate(zip(specs, widths, strict=True)):
        if spec != specs[0] or width != widths[0]:
            raise DataError(f"models: model {i} has other terms or another number of columns of X than model 0")
    out = BatchFit.empty(len(models), widths[0], specs[0], Status.NOT_RUN, (), "dict")
    with jax.enable_x64(True), np.errstate(all="ignore"):
        prepared = [prepare(m) for m in models]
        scales = np.stack([scale_of(specs[0], m, q) for m, q in zip(models, prepared, strict=True)])
        shapes: dict[Any, list[int]] = {}
        for i, q in enumerate(prepared):
            leaves, tree = jax.tree_util.tree_flatten(q)
            shapes.setdefault((tree, tuple(np.shape(leaf) for leaf in leaves)), []).append(i)
        for members in shapes.values():
            rows = np.array(members)
            lanes = stack_lanes([prepared[i] for i in members])
            out.put(rows, _fit_lanes(specs[0], None, lanes, scales[rows], widths[0], (), "dict"))
    return out
