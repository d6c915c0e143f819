"""What the study layer costs beside the bare batch engine, how it scales over processes, and a million fits on disk.

    python experiments/benchmarks/study.py [--rounds 3] [--fits 1000000] [--out experiments/results/study.md]

Each figure comes from a process of its own; medians over rounds. `--out` keeps one section a version of Python.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from _common import attempt, command, cpu_model, note, process, report, seconds_of, table, target_row

COMMAND = "experiments/benchmarks/study.py"
CHUNK, TURNS = 1000, 5
SLOPES, ONE_WAY, POWER = "y ~ x + (x | g)", "y ~ 1 + (1 | g)", "y ~ x + (1 | g)"
INTRODUCTION = """# Simulation studies

What `jaxlmm.study` costs. REML, float64; every chunk is drawn, fitted, tested and written as a Parquet part.

- "bare" is a loop over the same chunks in the same process, one thread: responses drawn by the same program, fitted and
  tested by `refit_batch`, kept in memory. "study" is `run(..., executor="inline")` in such a process: models, keys,
  parts on disk with fsync, the manifest, reading it at the end. Both in turn, medians of five after the first, which
  compiles. Overhead: study / bare - 1, by the clock and in processor time (CPU), which other work on the machine
  disturbs less; waiting for the disk is beside computing and not in it.
- Scaling: rates from the first part of each worker to the last part, so without starting and compiling.
- A million fits: everything, from a fresh process to the complete table, starting and compiling included.
- Memory: largest resident size of the process that runs the study, and of its workers together, sampled.

"""


EFFECT, ICC, GROUPS = 0.2, 0.3, 20  # of the study of power, ten rows a group


def design(kind: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    sizes = {"oneway": np.full(10, 5), "power": np.full(GROUPS, 10)}.get(kind, rng.integers(5, 12, 18))
    group = np.repeat(np.arange(len(sizes)), sizes)
    return {"g": group, "x": rng.standard_normal(len(group))}


def study(kind: str, replicates: int) -> Any:
    from jaxlmm.study import Estimator, MixedModel, Study

    if kind == "power":
        return Study(
            design=design(kind), generate=MixedModel(POWER, {"x": EFFECT}, {"g": ICC / (1.0 - ICC)}),
            estimators=[Estimator("m", POWER, df="asymptotic")], targets={"x": 0.0}, replicates=replicates, chunk=CHUNK,
            seed=1,
        )  # fmt: skip
    slopes = kind != "oneway"
    covariance: dict[str, Any] = {"g": [[1.0, 0.2], [0.2, 0.5]] if slopes else 0.5}
    df = {"kr": ("satterthwaite", "kenward-roger"), "satterthwaite": "satterthwaite"}.get(kind, "asymptotic")
    formula = SLOPES if slopes else ONE_WAY
    return Study(
        design=design(kind), generate=MixedModel(formula, {}, covariance), estimators=[Estimator("m", formula, df=df)],
        targets={"x" if slopes else "(Intercept)": 0.0}, replicates=replicates, chunk=CHUNK, seed=1,
    )  # fmt: skip


# -- in processes of their own -------------------------------------------------------------------------------------


def overhead(kind: str, chunks: int) -> dict[str, float]:
    import jax

    from jaxlmm.batch.refitting import refit_batch
    from jaxlmm.simulation.simulate import draw_rows
    from jaxlmm.study import run
    from jaxlmm.study.drawing import columns_of, keys_of
    from jaxlmm.study.estimate import Fitter

    one = study(kind, chunks * CHUNK)
    data = columns_of(one.data(0))
    built = Fitter(one.estimators[0], one.targets, data, "y").built
    model, mean, blocks, *_ = one.generate.truth(data, {}, "y")

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            run(one, folder, "inline")

    def bare() -> None:
        with jax.default_device(jax.local_devices()[0]), jax.enable_x64(True):
            for lo in range(0, chunks * CHUNK, CHUNK):
                Y = draw_rows(model, mean, blocks, keys_of(1, {}, np.arange(lo, lo + CHUNK)))
                refit_batch(built.model, Y, tests=built.tests, progress=False)

    times: dict[str, list[float]] = defaultdict(list)
    for turn in range(1 + TURNS):  # the first one compiles
        for name, call in (("bare", bare), ("study", whole)):
            processor = time.process_time()
            taken = seconds_of(call)[0]
            processor = time.process_time() - processor
            if turn:
                times[name].append(taken / chunks / CHUNK)
                times[f"{name} CPU"].append(processor / chunks / CHUNK)
    return {name: statistics.median(taken) for name, taken in times.items()}


def rate(kind: str, workers: int, chunks: int) -> dict[str, float]:
    from jaxlmm.study import run

    stamps: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        run(study(kind, chunks * CHUNK), folder, "processes", workers,
            progress=lambda done, total: stamps.append((time.perf_counter(), done)))  # fmt: skip
    first, last = stamps[chunks // 5], stamps[-1 - workers]  # all workers are at work
    return {"rate": (last[1] - first[1]) / (last[0] - first[0])}


def million(kind: str, workers: int, fits: int) -> dict[str, float]:
    import psutil

    from jaxlmm.study import run

    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            sizes = 0.0
            for child in psutil.Process().children(recursive=True):
                try:
                    sizes += child.memory_info().rss / 2**20
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], sizes)

    threading.Thread(target=watch, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        results = run(study(kind, fits), folder, "processes", workers)
        done = time.perf_counter() - start
        converged = float(results.summary().value["converged"][0, 0])
        summarised = time.perf_counter() - start - done
        size = sum(path.stat().st_size for path in Path(folder, "parts").iterdir()) / 2**20
    over.set()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": done, "summary": summarised, "converged": converged, "mib": size, "own": own, "workers": peak[0]}


# -- beside a loop in R, for run.py ---------------------------------------------------------------------------------


def sample(kind: str, count: int, folder: str) -> dict[str, float]:
    """The first data sets of a study as CSV files: the design, and a row of responses for each."""
    import jax

    from jaxlmm.study.drawing import drawer

    one = study(kind, CHUNK)
    with jax.enable_x64(True):
        Y = drawer(one, 0)(np.arange(count)).columns["y"]
    columns = design(kind)
    rows = np.column_stack(list(columns.values()))
    np.savetxt(Path(folder, "design.csv"), rows, "%.17g", ",", header=",".join(columns), comments="")
    np.savetxt(Path(folder, "responses.csv"), Y, "%.17g", ",")
    return {}


def timed(kind: str, replicates: int, folder: str) -> dict[str, Any]:
    """Whole studies, the first compiling and the second not; p-values and log-likelihoods of the sample."""
    import jaxlmm
    from jaxlmm.study import run

    seconds = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as place:
            taken, results = seconds_of(lambda place=place: run(study(kind, replicates), place, "inline"))
            seconds.append(taken)
            _, part = next(results.parts())
    Y = np.loadtxt(Path(folder, "responses.csv"), delimiter=",")
    fit = jaxlmm.lmm(SLOPES, {**design(kind), "y": Y[0]})
    p = part["p"][0, : len(Y)].tolist()
    return {"first": seconds[0], "later": [seconds[1] / replicates], "logliks": fit.refit(Y).loglik.tolist(), "p": p}


def powered(system: str, replicates: int) -> dict[str, Any]:
    """Power of one effect by Wald's z, all of it again: drawing and tests; x is drawn once, by mcpower every time."""
    seconds, power = [], 0.0
    for turn in range(2):
        if system == "mcpower":
            from mcpower import MCPower

            model = MCPower(POWER.replace("~", "="), family="lme")
            model.set_effects(f"x={EFFECT}").set_cluster("g", ICC=ICC, n_clusters=GROUPS)
            model.set_simulations(replicates).set_seed(turn + 1)
            with redirect_stdout(sys.stderr):
                taken, found = seconds_of(lambda m=model: m.find_power(sample_size=10 * GROUPS, target_test="x"))
            power = float(np.ravel(found["power_uncorrected"])[0])
        else:
            from jaxlmm.study import run

            with tempfile.TemporaryDirectory() as place:
                taken, results = seconds_of(lambda p=place: run(study("power", replicates), p, "inline"))
                power = float(np.mean([np.mean(part["p"] < 0.05) for _, part in results.parts()]))
        seconds.append(taken)
    return {"first": seconds[0], "later": [seconds[1] / replicates], "logliks": [], "power": [power, replicates]}


R_LOOP = """
suppressMessages(library(lmerTest))
data <- read.csv("{folder}/design.csv"); data$g <- factor(data$g)
Y <- as.matrix(read.csv("{folder}/responses.csv", header=FALSE))
now <- function() as.numeric(Sys.time())
seconds <- logliks <- p <- c()
for (i in seq_len(nrow(Y))) {{
    start <- now(); data$y <- as.numeric(Y[i, ])
    fit <- suppressMessages(suppressWarnings(lmer({formula}, data, control=lmerControl(calc.derivs=FALSE))))
    p <- c(p, coef(summary(fit))["x", "Pr(>|t|)"])
    seconds <- c(seconds, now() - start); logliks <- c(logliks, as.numeric(logLik(fit)))
}}
json <- function(x) paste0("[", paste(sprintf("%.12g", x), collapse=", "), "]")
cat(sprintf('RESULT{{"first": %.6f, "later": %s, "logliks": %s, "p": %s}}\n', seconds[1], json(median(seconds[-1])),
    json(logliks), json(p)))
"""


def r_loop(folder: Path, limit: float) -> dict[str, Any]:
    """The same data sets one by one: lmerTest's `lmer` and Satterthwaite's p-value of x."""
    code = R_LOOP.format(folder=folder, formula=SLOPES)
    return json.loads(process(["Rscript", "-e", code], {}, limit).rpartition("RESULT")[2])


# -- the whole -------------------------------------------------------------------------------------------------------


def asked(what: str, *arguments: Any, limit: float | None = None) -> dict[str, Any]:
    from jaxlmm.study.chunk import one_thread

    more = {"TF_CPP_MIN_LOG_LEVEL": "3", **(one_thread() if what in ("overhead", "timed", "powered") else {})}
    words = [sys.executable, __file__, "--ask", json.dumps([what, *arguments])]
    return json.loads(process(words, more, limit).splitlines()[-1])


def medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=60, help="of 1000, for overhead and scaling")
    parser.add_argument("--fits", type=int, default=1_000_000)
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="markdown file to bring up to date")
    options = parser.parse_args()
    if options.ask:
        what, *arguments = json.loads(options.ask)
        tasks = {
            "overhead": overhead,
            "rate": rate,
            "million": million,
            "sample": sample,
            "timed": timed,
            "powered": powered,
        }
        print(json.dumps(tasks[what](*arguments)))
        return
    words = {"slopes": "18 groups x 5 to 11 rows, q = 2, Wald", "kr": "the same, Satterthwaite and Kenward-Roger",
             "oneway": "one-way, 10 x 5, Wald"}  # fmt: skip
    rows, targets = [], []
    for kind, label in words.items():
        found = medians([asked("overhead", kind, options.chunks) for _ in range(options.rounds)])
        rows.append([label])
        for clock in ("", " CPU"):
            times = [found[name + clock] for name in ("bare", "study")]
            rows[-1] += [*(f"{1e6 * t:.1f}" for t in times), f"{100 * (times[1] / times[0] - 1.0):.1f}"]
        extra = found["study CPU"] / found["bare CPU"] - 1.0
        targets.append(target_row(f"{label}: overhead (processor time) at most 10 %", 100 * extra, 10.0, False))
        note(f"{label}: {found}")
    speeds = []
    for kind in ("slopes", "kr"):
        one, two = ([asked("rate", kind, w, options.chunks) for _ in range(options.rounds)] for w in (1, 2))
        a, b = medians(one)["rate"], medians(two)["rate"]
        speeds.append([words[kind], f"{a:,.0f}", f"{b:,.0f}", f"{b / a:.2f}"])
        targets.append(target_row(f"{words[kind]}: two processes at least 1.6 x one", b / a, 1.6, True))
        note(f"{kind}: {a:.0f} {b:.0f}")
    large = attempt(lambda: asked("million", "oneway", 2, options.fits))
    small = attempt(lambda: asked("million", "oneway", 2, options.fits // 10))
    sizes = [[f"{n:,}", f"{f['seconds']:.0f}", f"{f['summary']:.1f}", f"{f['mib']:.0f}", f"{f['own']:.0f}",
              f"{f['workers']:.0f}", f"{100 * f['converged']:.3f}"]
             for n, f in ((options.fits, large), (options.fits // 10, small))]  # fmt: skip
    targets.append(target_row(f"{options.fits:,} fits, seconds, at most 300", large["seconds"], 300.0, False))
    growth = (large["own"] + large["workers"]) / (small["own"] + small["workers"])
    targets.append(target_row("memory at ten times the size, at most 1.25 x", growth, 1.25, False))
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy", "pyarrow")}
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    section = "\n\n".join([
        f"## Python {platform.python_version()}, jax {versions['jax']}",
        f"{datetime.date.today()}, {cpu_model()}, {len(os.sched_getaffinity(0))} cores, jaxlib {versions['jaxlib']}, "
        f"numpy {versions['numpy']}, pyarrow {versions['pyarrow']}; load of the machine at the end {load}.\n"
        f"`{command(COMMAND, '--out')}`",
        "### Overhead\n",
        table(
            ["microseconds a data set, chunks of 1000", "bare", "study", "%", "bare, CPU", "study, CPU", "%"], rows
        ),
        "### Processes\n",
        table(["data sets a second", "one", "two", "ratio"], speeds),
        "### End to end, one-way 10 x 5, two processes\n",
        table(["data sets", "seconds", "summary s", "parts MiB", "own MiB", "workers MiB", "converged %"], sizes),
        "### Targets\n",
        table(["target", "found", "met"], targets),
    ]) + "\n"  # fmt: skip
    report(INTRODUCTION, section, options.out)


if __name__ == "__main__":
    main()
