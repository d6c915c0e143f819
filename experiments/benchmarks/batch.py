"""What a fit costs in a batch, beside loops of other software, and where the time goes.

    python experiments/benchmarks/batch.py [--lanes 20000] [--rounds 3] [--peers lme4,mixedlm] [--out results.md]

Every round runs each program in a process of its own, in turn; medians over rounds are reported. Software that is not
installed is named and left out; nothing is installed. `--out` keeps one section a version of Python: run it with each.
Where jax finds a GPU there is one more table, of `--sizes` lanes; naming sizes makes it on a CPU too.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import linecache
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    attempt,
    command,
    compilations,
    cpu_model,
    note,
    one_thread,
    process,
    report,
    seconds_of,
    table,
    target_row,
)
from _data import write_csv

COMMAND = "experiments/benchmarks/batch.py"
CORES, WARM = 2, 5
REFITS = {"lme4": 100, "glmm": 100, "mixedlm": 50, "statsmodels": 50}
DRAWN, CHECKED = max(REFITS.values()), 50  # responses for the peers, and those whose log-likelihoods are compared
MODELS, REPLICATES = 2000, 10_000
SIGMA = 25.0
LANES, STEPS = 128, 20  # of the measurement of an evaluation by itself


# -- data ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """A design, and how jaxlmm is called: "refit", "independent" (fit_batch of models) or "bootstrap"."""

    label: str
    columns: tuple[str, ...] = ("x",)  # of the fixed effects and of the random ones, besides the intercept
    balanced: int = 0  # rows a group; 0: 5 to 11
    groups: int = 18
    call: str = "refit"
    sd: tuple[float, ...] = (25.0, 6.0, 6.0)  # of the effects, the intercept first

    @property
    def formula(self) -> str:
        terms = " + ".join(self.columns) or "1"
        return f"y ~ {terms} + ({terms} | g)"

    def design(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Group of every row, and X (n, q), which is Z as well; a balanced x counts days, as in sleepstudy."""
        rng = np.random.default_rng([1, seed])
        sizes = np.full(self.groups, self.balanced) if self.balanced else rng.integers(5, 12, self.groups)
        group = np.repeat(np.arange(self.groups), sizes)
        drawn = [rng.uniform(0, 9, len(group)) for _ in self.columns]
        if self.balanced:
            drawn = [np.tile(np.arange(self.balanced, dtype=float), self.groups) for _ in self.columns]
        return group, np.column_stack([np.ones(len(group)), *drawn])

    def responses(self, b: int, seed: int, design: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Responses (b, n), about as variable as those of sleepstudy."""
        group, X = design
        rng = np.random.default_rng([2, seed])
        Y = rng.standard_normal((b, len(group)))
        Y *= SIGMA
        sd = np.array(self.sd)[: X.shape[1]]
        for start in range(0, b, 1000):  # in pieces: memory is measured
            rows = Y[start : start + 1000]
            u = sd * rng.standard_normal((len(rows), self.groups, X.shape[1]))
            rows += X @ np.array([250.0, 10.0, -5.0])[: X.shape[1]] + np.sum(X * u[:, group], -1)
        return Y

    def frame(self, y: np.ndarray, design: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
        group, X = design
        return {"y": y, "g": group, **{name: X[:, j + 1] for j, name in enumerate(self.columns)}}

    def data_sets(self, count: int, seed: int) -> list[tuple[tuple[np.ndarray, np.ndarray], np.ndarray]]:
        """Designs and responses of independent data sets."""
        designs = [self.design(1000 * seed + i + 1) for i in range(count)]
        return [(d, self.responses(1, 1000 * seed + i + 1, d)[0]) for i, d in enumerate(designs)]


WORKLOADS = {
    "unbalanced": Workload("unbalanced, 18 groups x 5 to 11 rows, q = 2"),
    "null": Workload("the same, no variance of the effects (null)", sd=(0.0, 0.0)),
    "near": Workload("the same, SD of the slope 0.06 (nearly singular)", sd=(25.0, 0.06)),
    "balanced": Workload("balanced, 18 x 10, q = 2", balanced=10),
    "independent": Workload("independent data sets (`fit_batch`), unbalanced, q = 2", call="independent"),
    "oneway": Workload("one-way, 10 x 5", columns=(), groups=10, balanced=5),
    "three": Workload("unbalanced, 18 groups x 5 to 11 rows, q = 3", columns=("x", "z")),
    "bootstrap": Workload("bootstrap of sleepstudy", balanced=10, call="bootstrap"),
}
PEER_SEED = 77  # the responses that the peers see; jaxlmm fits them once, to compare


def write_data(workload: Workload, folder: Path) -> None:
    """The peers' data: one CSV file of stacked data sets for independent ones, else the design and the responses."""
    if workload.call == "independent":
        sets = workload.data_sets(DRAWN, PEER_SEED)
        frames = [{"set": np.full(len(y), i), **workload.frame(y, d)} for i, (d, y) in enumerate(sets)]
        write_csv(folder / "design.csv", {key: np.concatenate([f[key] for f in frames]) for key in frames[0]})
        return
    design = workload.design()
    Y = workload.responses(DRAWN, PEER_SEED, design)
    write_csv(folder / "design.csv", workload.frame(Y[0], design))
    np.savetxt(folder / "responses.csv", Y, delimiter=",", fmt="%.17g")


# -- jaxlmm, in a process of its own --------------------------------------------------------------------------------


def prepared_call(workload: Workload, lanes: int) -> tuple[Callable[[int], Any], int, Callable[[], Any]]:
    """A function of a seed that fits a batch (its data drawn beforehand), lanes, and the fits of the peers' data."""
    import jaxlmm

    if workload.call == "independent":

        def models(count: int, seed: int) -> list[Any]:
            sets = workload.data_sets(count, seed)
            return [jaxlmm.Model(y, X, jaxlmm.Term(X, g, jaxlmm.Unstructured())) for (g, X), y in sets]

        many = models(lanes, 0)
        return lambda seed: jaxlmm.fit_batch(many), lanes, lambda: jaxlmm.fit_batch(models(CHECKED, PEER_SEED))
    design = workload.design()
    first = workload.responses(DRAWN, PEER_SEED, design)[:CHECKED]
    if workload.call == "bootstrap":
        fit = jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", jaxlmm.datasets.load("sleepstudy"))
        return lambda seed: fit.bootstrap(lanes, seed=seed + 1), lanes, lambda: None
    fit = jaxlmm.lmm(workload.formula, workload.frame(first[0], design))
    batches = [workload.responses(lanes, seed, design) for seed in range(2)]
    return lambda seed: fit.refit(batches[seed % 2]), lanes, lambda: fit.refit(first)


def batch_of(result: Any) -> Any:
    """The BatchFit in what a call returned: itself, or an attribute of a bootstrap."""
    if hasattr(result, "iterations"):
        return result
    return next((v for v in getattr(result, "__dict__", {}).values() if hasattr(v, "iterations")), None)


def work_fit(name: str, lanes: int) -> dict[str, Any]:
    """First and later calls of one workload, what was compiled, and what was found."""
    import jax

    durations: list[tuple[str, float]] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, value, **_: durations.append((event, value)))
    workload = WORKLOADS[name]
    call, lanes, checked = prepared_call(workload, lanes)
    durations.clear()
    first, result = seconds_of(lambda: call(0))
    programs = compilations(durations)
    durations.clear()
    warm = [seconds_of(lambda seed=seed: call(seed))[0] for seed in range(1, 1 + WARM)]
    later = compilations(durations)  # before those of the check
    fits, compared = batch_of(result), checked()
    return {
        "backend": jax.default_backend(),
        "lanes": lanes,
        "first": first,
        "compile": first - statistics.median(warm),
        "programs": programs,
        "warm": statistics.median(warm),
        "slowest": max(warm),
        "recompiled": later,
        "memory": device_memory(),
        "evaluations": None if fits is None else float(np.mean(fits.iterations)),
        "converged": None if fits is None else float(np.mean(fits.converged)),
        "singular": None if fits is None else float(np.mean(fits.singular)),
        "logliks": None if compared is None else compared.loglik.tolist(),
    }


def device_memory() -> float | None:
    """Peak bytes on the device, where it keeps count."""
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def resident() -> float:
    """Bytes of memory in use (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * float(resource.getpagesize())


def work_memory(name: str, lanes: int) -> dict[str, float]:
    """Peak memory of a refit beyond the process, Y and the results."""
    import jaxlmm

    workload = WORKLOADS[name]
    design = workload.design()
    fit = jaxlmm.lmm(workload.formula, workload.frame(workload.responses(1, 0, design)[0], design))
    fit.refit(workload.responses(1000, 1, design))  # compiles
    Y = workload.responses(lanes, 2, design)
    before = resident()
    fits = fit.refit(Y)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    results = result_bytes(fits)
    return {"Y": Y.nbytes, "results": results, "beyond": peak - before - results}


def result_bytes(fits: Any) -> int:
    fields = [a for value in vars(fits).values() for a in (value if isinstance(value, tuple) else (value,))]
    return sum(a.nbytes for a in fields if isinstance(a, np.ndarray))


# -- where the time goes --------------------------------------------------------------------------------------------


PERIOD, SHOWN = 0.002, 60


class Sampler(threading.Thread):
    """Looks, every other millisecond, at which function of jaxlmm each thread is in; waiting threads do not count."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.lines: dict[str, Counter[str]] = defaultdict(Counter)
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(PERIOD):
            for thread, frame in sys._current_frames().items():
                if thread != self.ident and (place := self.place(frame)):
                    self.lines[place[0]][place[1]] += 1

    @staticmethod
    def place(frame: Any) -> tuple[str, str] | None:
        """The innermost function of jaxlmm, and its line; None for a thread that waits for others."""
        while frame is not None:
            module = frame.f_globals.get("__name__", "").split(".")
            if module[0] in ("threading", "concurrent"):
                return None
            if module[0] == "jaxlmm":
                line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
                shown = line if len(line) <= SHOWN else line[: SHOWN - 3] + "..."
                name = frame.f_code.co_qualname.split(".<locals>")[0]
                return f"{module[-1]}.{name}", shown.replace("|", "/")
            frame = frame.f_back
        return None


def work_profile(name: str, lanes: int) -> dict[str, Any]:
    """Shares of the time of warm calls by function."""
    call, lanes, _ = prepared_call(WORKLOADS[name], lanes)
    call(0)
    sys.setswitchinterval(0.0005)
    sampler = Sampler()
    sampler.start()
    seconds = [seconds_of(lambda seed=seed: call(seed))[0] for seed in range(3)]
    sampler.stopped.set()
    sampler.join()
    counts = Counter({place: lines.total() for place, lines in sampler.lines.items()})
    shares = [(place, sampler.lines[place].most_common(1)[0][0], count) for place, count in counts.most_common(10)]
    total = counts.total()
    shares = [(f"`{place}`", f"`{line}`", count / total) for place, line, count in shares]
    return {"us": 1e6 * statistics.median(seconds) / lanes, "busy": PERIOD * total / sum(seconds), "shares": shares}


def work_floor(name: str, _: int) -> dict[str, float]:
    """One evaluation by itself: compiled code on lanes that stay where they are, no driver; and the hardware."""
    import jax

    import jaxlmm
    from jaxlmm.fitting.newton import initial_state
    from jaxlmm.fitting.objective import Spec, packing_of

    on_cpu = jax.default_backend() == "cpu"
    group, X = design = WORKLOADS[name].design()
    with jax.enable_x64(True):
        models = [jaxlmm.Model(y, X, jaxlmm.Term(X, group, jaxlmm.Unstructured()))
                  for y in WORKLOADS[name].responses(LANES, 3, design)]  # fmt: skip
        spec, packing = Spec.of(models[0], "REML"), packing_of(Spec.of(models[0], "REML"), X.shape[1])
        lanes, axes = stacked(models, LANES if on_cpu else 131_072)
        found = evaluation_seconds(spec, packing, lanes, axes, CORES if on_cpu else 1)
        state = sum(
            np.asarray(leaf).nbytes for leaf in initial_state(packing, spec.start((None,) * len(spec.parts)), np)
        )
        return {**found, "state": state, "bandwidth": bandwidth(on_cpu), "peak": peak_flops(on_cpu)}


def stacked(models: Sequence[Any], b: int) -> tuple[Any, Any]:
    """Statistics of b lanes as a pytree, and its axes: 0 where they differ between lanes, else None."""
    import jax

    from jaxlmm.likelihood.prepared import prepare

    trees = [jax.tree_util.tree_flatten(prepare(model)) for model in models]
    leaves = [np.stack([np.asarray(leaf) for leaf in column]) for column in zip(*(t[0] for t in trees), strict=True)]
    axes = [0 if np.any(leaf != leaf[:1]) else None for leaf in leaves]
    repeats = -(-b // len(models))
    leaves = [leaf[0] if axis is None else np.concatenate([leaf] * repeats)[:b]
              for leaf, axis in zip(leaves, axes, strict=True)]  # fmt: skip
    return jax.tree_util.tree_unflatten(trees[0][1], leaves), axes


def evaluation_seconds(spec: Any, packing: Any, lanes: Any, axes: list[int | None], threads: int) -> dict[str, float]:
    """Seconds a lane of one evaluation, without and with the solver's step; operations (XLA's count) and bytes."""
    import jax
    import jax.numpy as jnp

    from jaxlmm.fitting.newton import advance, initial_state
    from jaxlmm.fitting.objective import objective

    def alone(lane: Any, s: Any) -> Any:  # every number is used, so that all are computed
        evaluate = objective(spec, lane, scale)
        return jax.lax.fori_loop(0, STEPS, lambda _, s: s + 1e-300 * jnp.sum(evaluate(s)), s)

    def stepping(lane: Any, s: Any) -> Any:
        evaluate = objective(spec, lane, scale)
        step = lambda _, state: advance(packing, state, evaluate(state.trial), jnp)  # noqa: E731
        return jax.lax.fori_loop(0, STEPS, step, initial_state(packing, s, jnp))

    leaves, tree = jax.tree_util.tree_flatten(lanes)
    own = [leaf for leaf, axis in zip(leaves, axes, strict=True) if axis == 0]
    start = spec.start((None,) * len(spec.parts))
    s, scale = np.tile(start, (len(own[0]), 1)), np.ones(len(start))

    def over_lanes(function: Callable[[Any, Any], Any]) -> Any:
        def listed(leaves: list[Any], s: Any) -> Any:
            return function(jax.tree_util.tree_unflatten(tree, leaves), s)

        return jax.jit(jax.vmap(listed, (axes, 0))).lower(leaves, s).compile()

    arguments = jax.device_put((leaves, s))
    once = over_lanes(lambda lane, s: objective(spec, lane, scale)(s))
    return {
        "evaluation": in_threads(over_lanes(alone), arguments, threads) / (STEPS * len(s)),
        "step": in_threads(over_lanes(stepping), arguments, threads) / (STEPS * len(s)),
        "flops": float((once.cost_analysis() or {}).get("flops", np.nan)) / len(s),
        "statistics": sum(leaf.nbytes for leaf in own) / len(s),
    }


def in_threads(function: Callable[..., Any], arguments: Any, threads: int, repeats: int = 20) -> float:
    """Seconds a call, with as many threads calling as there are cores."""
    import jax

    def work(_: int) -> None:
        for _ in range(repeats):
            jax.block_until_ready(function(*arguments))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
        seconds = [seconds_of(lambda: list(pool.map(work, range(threads))))[0] for _ in range(5)]
    return min(seconds) / (repeats * threads)


def bandwidth(on_cpu: bool) -> float:
    """Bytes a second, read and written, of copying large arrays."""
    import jax
    import jax.numpy as jnp

    if on_cpu:
        pairs = [(np.zeros(2**24), np.ones(2**24)) for _ in range(CORES)]
        with ThreadPoolExecutor(CORES) as pool:
            times = [seconds_of(lambda: list(pool.map(lambda p: np.copyto(*p), pairs)))[0] for _ in range(7)]
        return CORES * 2 * 8 * 2**24 / statistics.median(times[1:])
    with jax.enable_x64(True):
        x, add = jnp.zeros(2**28), jax.jit(lambda x: x + 1.0)
        times = [seconds_of(lambda: jax.block_until_ready(add(x)))[0] for _ in range(12)]
    return 2 * 8 * 2**28 / statistics.median(times[2:])


def peak_flops(on_cpu: bool) -> float:
    """Operations a second of a product of matrices, float64."""
    import jax
    import jax.numpy as jnp

    n = 1500 if on_cpu else 8192
    with jax.enable_x64(True):
        a = np.ones((n, n)) if on_cpu else jnp.ones((n, n))
        times = [seconds_of(lambda: jax.block_until_ready(a @ a))[0] for _ in range(8)]
    return 2.0 * n**3 / statistics.median(times[2:])


# -- peers ----------------------------------------------------------------------------------------------------------

# `refit` of a REML fit minimises with n - 1 in the place of n - p (lme4 1.1-31), so values are compared with `lmer`'s.
R_SCRIPT = """
suppressMessages(library(lme4))
folder <- commandArgs(trailingOnly=TRUE)[1]
data <- read.csv(file.path(folder, "design.csv")); data$g <- factor(data$g)
control <- lmerControl(calc.derivs=FALSE)
now <- function() as.numeric(Sys.time())
timed <- function(fit) sapply(seq_len({count}), function(i) {{
    start <- now(); suppressMessages(fit(i)); now() - start
}})
values <- function(fit) sapply(seq_len({checked}), function(i) as.numeric(logLik(suppressMessages(fit(i)))))
{call}
write.table(format(c(seconds, logliks), digits=17), file.path(folder, "lme4.csv"),
            quote=FALSE, row.names=FALSE, col.names=FALSE)
"""
R_CALLS = {
    "refit": """Y <- as.matrix(read.csv(file.path(folder, "responses.csv"), header=FALSE))
fit <- suppressMessages(lmer({formula}, data, control=control))
seconds <- timed(function(i) refit(fit, newresp=as.numeric(Y[i, ])))
logliks <- values(function(i) {{ data$y <- as.numeric(Y[i, ]); lmer({formula}, data, control=control) }})""",
    "independent": """sets <- split(data, data$set)
fit <- function(i) lmer({formula}, sets[[i]], control=control)
seconds <- timed(fit)
logliks <- values(fit)""",
    "bootstrap": """data <- sleepstudy; set.seed(1)
fit <- lmer(Reaction ~ Days + (Days | Subject), data, control=control)
seconds <- timed(function(i) refit(fit, newresp=simulate(fit)[[1]]))
logliks <- numeric(0)""",
}


def run_lme4(workload: Workload, folder: Path, limit: float | None) -> dict[str, Any]:
    script = folder / "lme4.R"
    call, count = R_CALLS[workload.call].format(formula=workload.formula), REFITS["lme4"]
    script.write_text(R_SCRIPT.format(call=call, count=count, checked=CHECKED))
    process(["Rscript", str(script), str(folder)], one_thread(), limit)
    numbers = np.loadtxt(folder / "lme4.csv")
    return {"seconds": float(np.median(numbers[:count])), "logliks": numbers[count:].tolist()}


def work_mixedlm(name: str, _: int, folder: str) -> dict[str, Any]:
    """`result.refit(y)`, as fast as the solver inside it; independent data sets by `lmer`."""
    import warnings

    import pandas as pd
    from mixedlm import lmer

    warnings.simplefilter("ignore")
    workload, count = WORKLOADS[name], REFITS["mixedlm"]
    data = pd.read_csv(Path(folder) / "design.csv", dtype={"g": str})
    if workload.call == "independent":
        sets = [part for _, part in data.groupby("set")]
        timed = [seconds_of(lambda i=i: lmer(workload.formula, sets[i])) for i in range(count)]
    elif workload.call == "bootstrap":
        import jaxlmm

        sleepstudy = jaxlmm.datasets.load("sleepstudy").astype({"Subject": str})
        fit = lmer("Reaction ~ Days + (Days | Subject)", sleepstudy)
        timed = [seconds_of(lambda i=i: fit.refit(np.ravel(fit.simulate(seed=i)))) for i in range(count)]
    else:
        Y = np.loadtxt(Path(folder) / "responses.csv", delimiter=",")
        fit = lmer(workload.formula, data)
        timed = [seconds_of(lambda i=i: fit.refit(Y[i])) for i in range(count)]
    logliks = [float(result.logLik().value) for _, result in timed]
    return {"seconds": statistics.median(seconds for seconds, _ in timed), "logliks": logliks[:CHECKED]}


def work_glmm(name: str, _: int, folder: str) -> dict[str, Any]:
    """A loop over `glmm.fit`, from formula and columns, without degrees of freedom: it has no refit."""
    import warnings

    import glmm
    import pandas as pd

    warnings.simplefilter("ignore")
    workload = WORKLOADS[name]
    if workload.call == "bootstrap":
        raise RuntimeError("glmm has no bootstrap")
    data = pd.read_csv(Path(folder) / "design.csv", dtype={"g": str})
    if workload.call == "independent":
        sets = [part.to_dict("list") for _, part in data.groupby("set")]
    else:
        columns = data.to_dict("list")
        sets = [columns | {"y": y} for y in np.loadtxt(Path(folder) / "responses.csv", delimiter=",")]
    timed = [seconds_of(lambda d=d: glmm.fit(d, workload.formula, satterthwaite=False)) for d in sets[: REFITS["glmm"]]]
    logliks = [float(result.loglik) for _, result in timed]
    return {"seconds": statistics.median(seconds for seconds, _ in timed), "logliks": logliks[:CHECKED]}


def work_statsmodels(name: str, _: int, folder: str) -> dict[str, Any]:
    """A loop over `MixedLM.fit`, from formula and frame: it has no refit."""
    import warnings

    import pandas as pd
    import statsmodels.formula.api as smf

    warnings.simplefilter("ignore")
    workload = WORKLOADS[name]
    if workload.call != "refit":
        raise RuntimeError(f"statsmodels has no {workload.call}")
    data = pd.read_csv(Path(folder) / "design.csv", dtype={"g": str})
    fixed = " + ".join(workload.columns) or "1"

    def fit(y: np.ndarray) -> Any:
        model = smf.mixedlm(f"y ~ {fixed}", data.assign(y=y), groups="g", re_formula=f"~{fixed}")
        return model.fit(reml=True)

    Y = np.loadtxt(Path(folder) / "responses.csv", delimiter=",")[: REFITS["statsmodels"]]
    timed = [seconds_of(lambda y=y: fit(y)) for y in Y]
    seconds = statistics.median(taken for taken, _ in timed)
    return {"seconds": seconds, "logliks": [float(result.llf) for _, result in timed][:CHECKED]}


def missing(peer: str) -> bool:
    if peer != "lme4":
        return importlib.util.find_spec(peer) is None
    check = ["Rscript", "-e", "stopifnot(requireNamespace('lme4', quietly=TRUE))"]
    return shutil.which("Rscript") is None or subprocess.run(check, capture_output=True).returncode != 0


# -- processes ------------------------------------------------------------------------------------------------------


def worker(
    kind: str, name: str, lanes: int, folder: str = "", device: bool = False, limit: float | None = None
) -> dict[str, Any]:
    """Run `work_<kind>` in a fresh process, on CORES cores unless it is for the device."""
    more = {} if device else {"JAX_PLATFORMS": "cpu", "BATCH_BENCHMARK_CORES": str(CORES)}
    if kind in REFITS:
        more |= one_thread()
    arguments = [kind, name, str(lanes), *([folder] if folder else [])]
    printed = process([sys.executable, str(Path(__file__).resolve()), "--worker", *arguments], more, limit)
    return json.loads(printed.rpartition("RESULT")[2])


def work(kind: str, name: str, lanes: str, *folder: str) -> None:
    cores = os.environ.get("BATCH_BENCHMARK_CORES")
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    print("RESULT" + json.dumps(globals()[f"work_{kind}"](name, int(lanes), *folder)))


# -- tables ---------------------------------------------------------------------------------------------------------


def lanes_of(name: str, lanes: int) -> int:
    """Lanes of a workload: data sets that differ in their rows are fewer, a bootstrap has a size of its own."""
    return {"independent": min(lanes, MODELS), "bootstrap": min(lanes, REPLICATES)}.get(WORKLOADS[name].call, lanes)


Runs = dict[str, dict[str, list[Any]]]


def all_runs(names: Sequence[str], peers: Sequence[str], lanes: int, rounds: int) -> Runs:
    """Results by workload and program, one a round."""
    runs: Runs = {name: {program: [] for program in ("jaxlmm", *peers)} for name in names}
    with tempfile.TemporaryDirectory() as top:
        for number in range(rounds):
            for name in names:
                folder = Path(top) / name
                if not folder.exists():
                    folder.mkdir()
                    write_data(WORKLOADS[name], folder)
                note(f"round {number + 1}: {name}")
                for program in runs[name]:
                    runs[name][program].append(attempt(lambda p=program, n=name, f=folder: one_run(p, n, f, lanes)))
    return runs


def one_run(program: str, name: str, folder: Path, lanes: int, limit: float | None = None) -> dict[str, Any]:
    if program == "jaxlmm":
        return worker("fit", name, lanes_of(name, lanes), limit=limit)
    if program == "lme4":
        return run_lme4(WORKLOADS[name], folder, limit)
    return worker(program, name, 0, str(folder), limit=limit)


def middle(results: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.median(result[key] for result in results)


def failure(results: Sequence[Any]) -> str | None:
    return next((result for result in results if isinstance(result, str)), None)


def us_a_lane(results: Sequence[dict[str, Any]]) -> float:
    return 1e6 * middle(results, "warm") / results[0]["lanes"]


def share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def fit_cells(results: Sequence[dict[str, Any]]) -> list[str]:
    """Cells of a workload that need no peer."""
    us, evaluations = us_a_lane(results), results[0]["evaluations"]
    slowest = 1e6 * max(result["slowest"] for result in results) / results[0]["lanes"]
    times = [f"{middle(results, 'first'):.2f}", f"{middle(results, 'compile'):.2f}", f"{us:.1f}", f"{slowest:.1f}"]
    per = ["", ""] if evaluations is None else [f"{evaluations:.2f}", f"{us / evaluations:.2f}"]
    shares = [share(results[0]["converged"]), share(results[0]["singular"])]
    return [
        f"{results[0]['lanes']:,}",
        *times,
        *per,
        *shares,
        *(str(max(r[key] for r in results)) for key in ("programs", "recompiled")),
    ]


FIT_HEADER = ("lanes", "first call s", "compile s", "us a lane", "slowest", "evaluations a lane",
              "us a lane and evaluation", "converged %", "singular %", "programs compiled", "and later")  # fmt: skip


def fit_table(runs: Runs) -> str:
    rows, lines = [], []
    for name, programs in runs.items():
        reason = failure(programs["jaxlmm"])
        if reason:
            lines.append(f"\n- {WORKLOADS[name].label}: {reason}")
        else:
            rows.append([WORKLOADS[name].label, *fit_cells(programs["jaxlmm"])])
    return table(["workload", *FIT_HEADER], rows) + "\n" + "".join(lines)


def ratio_table(runs: Runs, peers: Sequence[str]) -> str:
    """Each peer's time a fit, how many times that of jaxlmm it is, and how log-likelihoods differ."""
    rows = []
    for name, programs in runs.items():
        if failure(programs["jaxlmm"]):
            continue
        cells = [f"{us_a_lane(programs['jaxlmm']):.1f}"]
        for peer in peers:
            reason = failure(programs[peer])
            cells += [reason, "", ""] if reason else peer_cells(programs["jaxlmm"], programs[peer])
        rows.append([WORKLOADS[name].label, *cells])
    header = [cell for peer in peers for cell in (f"{peer} ms a fit", f"x {peer}", f"loglik - {peer}'s")]
    return table(["workload", "jaxlmm us a lane", *header], rows)


def peer_cells(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> list[str]:
    seconds = middle(theirs, "seconds")
    cells = [f"{1e3 * seconds:.2f}", f"{1e6 * seconds / us_a_lane(ours):.0f}"]
    if ours[0]["logliks"] is None:
        return [*cells, ""]
    difference = np.subtract(ours[0]["logliks"], theirs[0]["logliks"])
    return [*cells, f"{difference.min():+.0e} to {difference.max():+.0e}"]


def target_table(runs: Runs) -> str:
    """What was asked for, and what this run found."""
    rows = []

    def add(text: str, value: float | None, limit: float, at_least: bool) -> None:
        if value is not None:
            rows.append(target_row(text, value, limit, at_least))

    for name, peer, limit in (("unbalanced", "lme4", 1000), ("unbalanced", "mixedlm", 100), ("balanced", "lme4", 5000)):
        add(f"{name}: at least {limit} x {peer}", ratio(runs, name, peer), limit, True)
    for name in ("null", "near"):
        if {name, "unbalanced"} <= set(runs) and not any(failure(runs[n]["jaxlmm"]) for n in (name, "unbalanced")):
            hard, easy = (runs[n]["jaxlmm"] for n in (name, "unbalanced"))
            times = us_a_lane(hard) / us_a_lane(easy)
            add(f"{name}: at most 2 x the evaluations of unbalanced", hard[0]["evaluations"] / easy[0]["evaluations"],
                2.0, False)  # fmt: skip
            add(f"{name}: at most 2 x the time of unbalanced", times, 2.0, False)
    if "bootstrap" in runs and not failure(runs["bootstrap"]["jaxlmm"]):
        results = runs["bootstrap"]["jaxlmm"]
        add(f"bootstrap of {results[0]['lanes']:,} in at most 1 s, warm", middle(results, "warm"), 1.0, False)
    compiled = [middle(p["jaxlmm"], "compile") for p in runs.values() if not failure(p["jaxlmm"])]
    add("longest compile at most 6 s", max(compiled, default=None), 6.0, False)
    return table(["target", "found", "met"], rows)


def ratio(runs: Runs, name: str, peer: str) -> float | None:
    programs = runs.get(name, {})
    if peer not in programs or failure(programs[peer]) or failure(programs["jaxlmm"]):
        return None
    return 1e6 * middle(programs[peer], "seconds") / us_a_lane(programs["jaxlmm"])


def memory_table(lanes: int) -> str:
    """Peak memory at B and 4 B lanes."""
    rows = []
    for b in (lanes, 4 * lanes):
        note(f"memory: {b}")
        found = attempt(lambda b=b: worker("memory", "unbalanced", b))
        if isinstance(found, str):
            return found
        rows.append([f"{b:,}", *[f"{found[key] / 2**20:.0f}" for key in ("Y", "results", "beyond")]])
    return table(["unbalanced, lanes", "Y MiB", "results MiB", "peak beyond these MiB"], rows)


def profile_table(names: Sequence[str], lanes: int) -> str:
    parts = []
    for name in names:
        note(f"profile: {name}")
        found = attempt(lambda n=name: worker("profile", n, lanes_of(n, lanes)))
        if isinstance(found, str):
            parts.append(found)
            continue
        shares = found["shares"]
        rows = [[place, f"{100 * part:.1f}", f"{part * found['us']:.2f}", line] for place, line, part in shares]
        title = f"{WORKLOADS[name].label} ({found['us']:.1f} us while watched, {found['busy']:.2f} threads busy)"
        parts.append(table([title, "% of busy time", "us a lane", "busiest line"], rows))
    return "\n\n".join(parts)


def floor_table(runs: Runs, device: bool = False) -> str:
    """What the arithmetic of an evaluation takes by itself, and what the hardware would allow."""
    rows = []
    for name in ("unbalanced", "balanced", "oneway", "three"):
        if name not in runs or failure(runs[name]["jaxlmm"]):
            continue
        note(f"floor: {name}")
        found = attempt(lambda n=name: worker("floor", n, 0, device=device))
        if isinstance(found, str):
            return found
        rows.append([WORKLOADS[name].label, *floor_cells(found, runs[name]["jaxlmm"])])
    header = ("us a lane and evaluation", "evaluation alone", "with the solver's step", "x evaluation alone",
              "operations", "us at the speed of dgemm", "bytes", "us at the speed of memory")  # fmt: skip
    return table(["workload", *header], rows)


def floor_cells(found: dict[str, Any], results: Sequence[dict[str, Any]]) -> list[str]:
    us = us_a_lane(results) / results[0]["evaluations"]
    alone, step = 1e6 * found["evaluation"], 1e6 * found["step"]
    moved = found["statistics"] + 2 * found["state"]
    arithmetic, traffic = 1e6 * found["flops"] / found["peak"], 1e6 * moved / found["bandwidth"]
    return [f"{us:.2f}", f"{alone:.2f}", f"{step:.2f}", f"{us / alone:.2f}",
            f"{found['flops']:,.0f}", f"{arithmetic:.3f}", f"{moved:,.0f}", f"{traffic:.3f}"]  # fmt: skip


def device_table(names: Sequence[str], sizes: Sequence[int], runs: Runs) -> str:
    """The same on the device that jax finds first, by number of lanes, with the floor that memory sets."""
    rows = []
    for name in names:
        floor = attempt(lambda n=name: worker("floor", n, 0, device=True)) if WORKLOADS[name].call == "refit" else ""
        for lanes in sizes if WORKLOADS[name].call != "independent" else [lanes_of(name, max(sizes))]:
            note(f"device: {name}, {lanes}")
            found = attempt(lambda n=name, b=lanes: worker("fit", n, b, device=True))
            cells = [found] if isinstance(found, str) else device_cells(found, floor, runs.get(name, {}).get("jaxlmm"))
            rows.append([WORKLOADS[name].label, *cells])
    header = ["workload", *FIT_HEADER, f"x {CORES} cores", "x floor of memory", "device MiB"]
    return table(header, [row + [""] * (len(header) - len(row)) for row in rows])


def device_cells(found: dict[str, Any], floor: Any, ours: Sequence[Any] | None) -> list[str]:
    us = us_a_lane([found])
    faster = f"{us_a_lane(ours) / us:.1f}" if ours and not failure(ours) else ""
    above = ""
    if isinstance(floor, dict):
        bytes_moved = found["evaluations"] * (floor["statistics"] + 2 * floor["state"])
        above = f"{1e-6 * us / (bytes_moved / floor['bandwidth']):.0f}"
    memory = "" if found["memory"] is None else f"{found['memory'] / 2**20:.0f}"
    return [*fit_cells([found]), faster, above, memory]


def backend() -> str:
    """The device jax uses by itself."""
    code = "import jax; print(jax.default_backend(), jax.local_devices()[0].device_kind, sep=': ')"
    return process([sys.executable, "-c", code], {}).strip()


def versions(peers: Sequence[str]) -> str:
    """Of what took part."""
    found = [f"{name} {importlib.metadata.version(name)}" for name in ("jaxlib", "numpy")]
    found += [f"{name} {importlib.metadata.version(name)}" for name in peers if name != "lme4"]
    if "lme4" in peers:
        code = "cat('lme4', format(packageVersion('lme4')), '(R', paste0(format(getRversion()), ')'))"
        found.append(process(["Rscript", "-e", code], {}))
    return ", ".join(found)


INTRODUCTION = f"""# Batches

Many fits in one call, beside loops over other software on the same data. REML, float64.

- Programs run in turn, each in a fresh process; figures are medians over the rounds.
- jaxlmm uses {CORES} cores, the CPU. Its time a lane is the median of {WARM} calls after the first, each over a batch
  other than the one before, from responses to results. It excludes compiling: "compile" is
  the first call minus that (the single fit before compiles its own, not counted); "programs compiled" in the first
  call, "and later" in the others.
- "evaluations" are of the criterion with gradient and Hessian, all of a lane's runs counted. The null and the nearly
  singular workload, where type I errors, bootstraps and scans live, stand beside the interior one: nothing should be
  quoted from the easy one alone.
- lme4: median of {REFITS["lme4"]} calls of `refit(fit, newresp)` with `lmerControl(calc.derivs=FALSE)`; `lmer` for
  independent data sets (building jaxlmm's models is not counted). mixedlm: median of {REFITS["mixedlm"]} calls of
  `result.refit(y)`; `lmer` for independent data sets; for the bootstrap both simulate and refit. Both are loops on one
  core, with OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1 (with more threads mixedlm is many times slower).
- "loglik - lme4's" is the lowest and the highest difference over the same {CHECKED} lanes. lme4's come from
  `lmer` at its default tolerances: `refit` of a REML fit works with n - 1 in the place of n - p (lme4 1.1-31).
- "busy time" is sampled: every other millisecond, the innermost function of jaxlmm in each thread
  that does not wait for another. Waiting for compiled code counts where its results are taken.
- Floor: "evaluation alone" is the compiled criterion with gradient and Hessian over lanes that stay in cache, on all
  {CORES} cores, without solver and driver. "operations" are XLA's count. "bytes" are the lane's statistics and the
  solver's state, read, and the state written: what an evaluation has to move when nothing stays in cache.

"""


def section(options: argparse.Namespace) -> str:
    """All tables of this Python, under one heading."""
    asked = [peer for peer in options.peers.split(",") if peer]
    peers = [peer for peer in asked if not missing(peer)]
    names = [name for name in options.workloads.split(",") if name in WORKLOADS]
    absent = [f"not installed, left out: {peer}" for peer in asked if peer not in peers]
    if "bootstrap" in names and not has_bootstrap():
        names.remove("bootstrap")
        absent.append("this jaxlmm has no `fit.bootstrap`: left out")
    runs = all_runs(names, peers, options.lanes, options.rounds)
    shown = [name for name in ("unbalanced", "null", "independent") if name in names]
    device = backend()
    parts = [
        f"## Python {platform.python_version()}, jax {importlib.metadata.version('jax')}",
        f"{datetime.date.today()}, {cpu_model()}, {os.cpu_count()} cores, {versions(peers)}.\n"
        f"`{command(COMMAND, '--out')}`",
        *(["\n".join(f"- {line}" for line in absent)] if absent else []),
        "### jaxlmm\n\n" + fit_table(runs),
        *(["### Beside other software\n\n" + ratio_table(runs, peers)] if peers else []),
        "### Targets\n\n" + target_table(runs),
        *([f"### Memory\n\n{memory_table(options.memory_lanes)}"] if options.memory_lanes else []),
        "### Where the time goes\n\n" + profile_table(shown, options.lanes),
        "### The floor\n\n" + floor_table(runs),
    ]
    sizes = [int(size) for size in options.sizes.split(",") if size]
    if sizes or not device.startswith("cpu"):
        found = device_table(names, sizes or [options.lanes, 100_000, 1_000_000], runs)
        parts.append(f"### On a device, {device}\n\n{found}")
    return "\n\n".join(parts) + "\n"


def has_bootstrap() -> bool:
    code = "import jaxlmm; print(hasattr(jaxlmm.Fit, 'bootstrap'))"
    return process([sys.executable, "-c", code], {"JAX_PLATFORMS": "cpu"}).strip() == "True"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lanes", type=int, default=20_000, help="responses a batch")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each program")
    parser.add_argument("--peers", default="lme4,mixedlm")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--memory-lanes", type=int, default=100_000, help="B of the table of memory; 0 leaves it out")
    parser.add_argument("--sizes", default="", help="lanes of the table by device, e.g. 20000,100000,1000000")
    parser.add_argument("--out", type=Path, help="markdown file to write or bring up to date")
    options = parser.parse_args()
    report(INTRODUCTION, section(options), options.out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    else:
        main()
