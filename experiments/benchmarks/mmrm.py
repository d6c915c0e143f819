"""What repeated measures cost, beside nlme's gls, glmmTMB and mmrm: one large fit, small ones, and batches of trials.

    python experiments/benchmarks/mmrm.py --bcva bcva_data.csv [--rounds 3] [--lanes 1000] [--out results.md]

Programs run in turn on this machine, each in a process of its own; medians over rounds are reported. Software that is
not installed is named and left out; nothing is installed. `--bcva` is mmrm's data set of that name as a CSV file;
without it there are no tables of it. `--peers ""` leaves the others out. `--out` keeps one section a version of
Python: run it with each.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    ROOT,
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

COMMAND = "experiments/benchmarks/mmrm.py"
DATA = ROOT / "tests" / "references" / "data"
CORES, WARM = 2, 3  # of the batches: cores of jaxlmm, and calls after the first
LONG = 30.0  # seconds of a process above which one round is enough


# -- data sets ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """A data set of visits (AVISIT, in alphabetical order) of subjects (USUBJID), and its fixed effects."""

    response: str
    fixed: str

    @property
    def formula(self) -> str:
        return f"{self.response} ~ {self.fixed}"


STUDIES = {
    "bcva": Study("BCVA_CHG", "BCVA_BL + RACE + ARMCD * AVISIT"),
    "fev": Study("FEV1", "RACE + SEX + ARMCD * AVISIT"),
}
RESIDUAL = "us(AVISIT | USUBJID)"
PEERS = {"gls": "nlme", "glmmTMB": "glmmTMB", "mmrm": "mmrm"}  # and their packages

PYTHON = """
import time
import pandas as pd
{imports}
data = pd.read_csv({path!r}, dtype={{"USUBJID": str}})
"""
JAXLMM = """
start = time.perf_counter()
fit = jaxlmm.lmm({formula!r}, data, residual={residual!r})
seconds = time.perf_counter() - start
print(fit.summary())
print("RESULT", seconds, fit.loglik)
"""
R = """
suppressMessages(library({package}))
data <- read.csv("{path}", colClasses=c(USUBJID="character"), stringsAsFactors=TRUE)
data <- data[!is.na(data${response}), ]
data$USUBJID <- factor(data$USUBJID); data$visit <- as.integer(data$AVISIT)
now <- function() as.numeric(Sys.time())
fit <- function(data) {call}
start <- now()
fitted <- fit(data)
seconds <- now() - start
"""
R_FIRST = """
print(summary(fitted))
cat("RESULT", format(c(seconds, as.numeric(logLik(fitted))), digits=15), "\\n")
"""
R_LATER = """
first <- seconds; loglik <- as.numeric(logLik(fitted))
set.seed(1)
original <- data${response}
seconds <- numeric({repeats})
for (i in seq_len({repeats})) {{
    data${response} <- original + rnorm(length(original), 0, 0.1 * sd(original))
    start <- now()
    fit(data)
    seconds[i] <- now() - start
}}
cat("RESULT", format(c(first, loglik, seconds), digits=15), "\\n")
"""
R_CALLS = {
    "gls": """gls({formula}, data, correlation=corSymm(form=~ visit | USUBJID), weights=varIdent(form=~ 1 | AVISIT),
        method="REML", control=glsControl(maxIter=500, msMaxIter=500))""",
    "glmmTMB": """suppressWarnings(glmmTMB({formula} + us(0 + AVISIT | USUBJID), data, dispformula=~ 0, REML=TRUE))""",
    "mmrm": "mmrm({formula} + us(AVISIT | USUBJID), data)",
}


def r_fit(peer: str, formula: str) -> str:
    return R_CALLS[peer].format(formula=formula)


def r_start(peer: str, study: Study, path: Path) -> str:
    call = r_fit(peer, study.formula)
    return R.format(package=PEERS[peer], path=path, response=study.response, call=call)


def results_of(printed: str) -> list[float]:
    """The numbers behind the word RESULT."""
    return [float(word) for word in printed.rpartition("RESULT")[2].split()]


# -- one data set, a fresh process ----------------------------------------------------------------------------------


def first_program(name: str, study: Study, path: Path) -> list[str]:
    """A whole program: read the data, fit, print the summary."""
    if name in PEERS:
        return ["Rscript", "-e", r_start(name, study, path) + R_FIRST]
    start = PYTHON.format(path=str(path), imports="import jax" if name == "floor" else "import jaxlmm")
    fit = 'print("RESULT 0 0")' if name == "floor" else JAXLMM.format(formula=study.formula, residual=RESIDUAL)
    return [sys.executable, "-c", start + fit]


def first_fits(names: Sequence[str], study: Study, path: Path, rounds: int) -> dict[str, Any]:
    """(process, fit, log-likelihood) of every program in every round; those that take long run once."""
    found: dict[str, Any] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            if isinstance(found[name], str) or (found[name] and found[name][0][0] > LONG):
                continue
            note(f"round {number + 1}: {study.response}, {name}")
            more = {} if name in PEERS else {"JAX_PLATFORMS": "cpu"}
            run = attempt(lambda n=name, m=more: seconds_of(lambda: process(first_program(n, study, path), m)))
            if isinstance(run, str):
                found[name] = run
            else:
                found[name].append((run[0], *results_of(run[1])))
    return found


def first_table(found: dict[str, Any]) -> str:
    ours, rows = found["jaxlmm"], []
    for name, runs in found.items():
        if isinstance(runs, str):
            rows.append([name, runs, *[""] * 5])
            continue
        whole, fit, loglik = (statistics.median(column) for column in zip(*runs, strict=True))
        spread = f"{min(run[0] for run in runs):.2f} to {max(run[0] for run in runs):.2f}"
        if name == "floor":
            rows.append(["`import jax`, pandas, the CSV: the floor", f"{whole:.2f}", spread, str(len(runs)), *[""] * 3])
            continue
        times = "" if isinstance(ours, str) else f"{whole / statistics.median(run[0] for run in ours):.1f}"
        rows.append([name, f"{whole:.2f}", spread, str(len(runs)), times, f"{fit:.2f}", f"{loglik:.6f}"])
    header = ["whole process", "median s", "range s", "runs", "x jaxlmm", "the fit alone s", "log-likelihood"]
    return table(header, rows)


# -- later fits in one process --------------------------------------------------------------------------------------


def work_later(name: str, repeats: int, path: str) -> dict[str, Any]:
    """First fit and later ones, each of another response, from formula and data frame to the fit."""
    import jax
    import pandas as pd

    durations: list[tuple[str, float]] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, value, **_: durations.append((event, value)))
    import jaxlmm

    study = STUDIES[name]
    data = pd.read_csv(path, dtype={"USUBJID": str})

    def fit() -> Any:
        return jaxlmm.lmm(study.formula, data, residual=RESIDUAL)

    first, fitted = seconds_of(fit)
    parts = {part: sum(seconds for event, seconds in durations if part in event) for part in STAGES}
    durations.clear()
    rng = np.random.default_rng(1)
    original = data[study.response].to_numpy(copy=True)
    later, evaluations = [], []
    for _ in range(repeats):
        data[study.response] = original + rng.normal(0, 0.1 * np.nanstd(original), len(original))
        seconds, again = seconds_of(fit)
        later.append(seconds)
        evaluations.append(again.certificate.iterations)
    return {
        "first": first,
        "loglik": fitted.loglik,
        "later": later,
        "evaluations": float(np.mean(evaluations)),
        "recompiled": compilations(durations),
        **parts,
    }


STAGES = {  # of compiling, as in the names of the events that jax reports
    "jaxpr_trace_duration": "tracing s",
    "jaxpr_to_mlir_module_duration": "lowering s",
    "backend_compile_duration": "XLA s",
}


def peer_later(peer: str, study: Study, path: Path, repeats: int) -> dict[str, Any]:
    code = r_start(peer, study, path) + R_LATER.format(response=study.response, repeats=repeats)
    first, loglik, *later = results_of(process(["Rscript", "-e", code], {}))
    return {"first": first, "loglik": loglik, "later": later}


def later_fits(names: Sequence[str], key: str, path: Path, rounds: int, repeats: int) -> dict[str, Any]:
    found: dict[str, Any] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            note(f"round {number + 1}: later fits of {key}, {name}")
            few = max(1, repeats // 4)
            if name == "jaxlmm":
                run = attempt(lambda: worker("later", key, repeats, str(path)))
            else:
                run = attempt(lambda n=name, c=few: peer_later(n, STUDIES[key], path, c))
            if isinstance(run, str):
                found[name] = run
                break
            found[name].append(run)
    return found


def milliseconds(values: Sequence[float]) -> str:
    return f"{1e3 * statistics.median(values):.1f}"


def later_row(name: str, runs: Any, ours: float | None) -> list[str]:
    if isinstance(runs, str):
        return [name, runs, *[""] * 6]
    later = [statistics.median(run["later"]) for run in runs]
    slowest = max(max(run["later"]) for run in runs)
    return [
        name,
        milliseconds([run["first"] for run in runs]),
        milliseconds([run["later"][0] for run in runs]),
        milliseconds(later),
        f"{1e3 * slowest:.1f}",
        "" if ours is None else f"{statistics.median(later) / ours:.1f}",
        f"{middle(runs, 'evaluations'):.1f}" if "evaluations" in runs[0] else "",
        f"{runs[0]['loglik']:.6f}",
    ]


def later_table(found: dict[str, Any]) -> str:
    ours = None if isinstance(found["jaxlmm"], str) else median_later(found["jaxlmm"])
    header = ("in one process", "first fit ms", "second ms", "later, median", "slowest", "x jaxlmm",
              "evaluations a fit", "log-likelihood")  # fmt: skip
    return table(header, [later_row(name, runs, ours) for name, runs in found.items()])


def median_later(runs: Sequence[dict[str, Any]]) -> float:
    return statistics.median(statistics.median(run["later"]) for run in runs)


def compile_seconds(runs: Sequence[dict[str, Any]]) -> float:
    """First fit minus the second."""
    return statistics.median(run["first"] - run["later"][0] for run in runs)


def compile_table(found: dict[str, Any]) -> str:
    """What the first fit takes beyond later ones."""
    rows = []
    for name, runs in found.items():
        if not isinstance(runs, str):
            cells = [f"{middle(runs, stage):.2f}" for stage in STAGES]
            rows.append([name, f"{compile_seconds(runs):.2f}", *cells, str(max(run["recompiled"] for run in runs))])
    return table(["compiling", "first - second fit s", *STAGES.values(), "programs in later fits"], rows)


# -- batches of trials ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """200 subjects in two arms, 4 visits; every data set has responses and missing visits of its own."""

    label: str
    call: str  # "models" (fit_batch of models) or "refit" (one model, Y with NaN)
    dropout: float = 0.2  # part of the subjects who leave before the last visit
    gaps: float = 0.0  # part of the other visits that are missed
    subjects: int = 200
    visits: int = 4

    def design(self) -> dict[str, np.ndarray]:
        """Columns of the rows of all subjects and visits."""
        rng = np.random.default_rng(1)
        subject = np.arange(self.subjects)
        columns = {"id": subject, "arm": subject % 2, "baseline": rng.normal(50.0, 10.0, self.subjects)}
        rows = {name: np.repeat(column, self.visits) for name, column in columns.items()}
        return {**rows, "visit": np.tile(np.arange(self.visits), self.subjects)}

    def X(self) -> np.ndarray:
        """Of ``baseline + arm * visit``."""
        d = self.design()
        visit = 1.0 * (d["visit"][:, None] == np.arange(1, self.visits))
        arm = d["arm"][:, None]
        return np.column_stack([np.ones(len(arm)), d["baseline"], arm, visit, arm * visit])

    def responses(self, b: int, seed: int) -> np.ndarray:
        """(b, rows), NaN where a visit is missing; everybody has the first one."""
        rng, t = np.random.default_rng([2, seed]), np.arange(self.visits)
        sd, near = np.sqrt(40.0 + 10.0 * t), 0.7 ** abs(t[:, None] - t)
        L = np.linalg.cholesky(sd[:, None] * sd * (0.35 + 0.4 * near + 0.25 * np.eye(self.visits)))
        mean = self.X() @ np.concatenate([[5.0, 0.8, 1.0], 1.0 * t[1:], 0.5 * t[1:]])
        y = (rng.standard_normal((b, self.subjects, self.visits)) @ L.T).reshape(b, -1) + mean
        hazard = 1.0 - (1.0 - self.dropout) ** (1.0 / (self.visits - 1))
        seen = np.minimum(rng.geometric(hazard, (b, self.subjects)), self.visits)[..., None]
        missing = (t >= seen) | ((t > 0) & (rng.uniform(size=(b, self.subjects, self.visits)) < self.gaps))
        return np.where(missing.reshape(b, -1), np.nan, y)


TRIALS = {
    "models": Trial("dropout, `fit_batch(models)`", "models"),
    "refit": Trial('dropout, `fit_batch(model, Y, missing="drop")`', "refit"),
    "gaps": Trial("dropout and 3 % of visits missed, the same call", "refit", gaps=0.03),
}
TRIAL_FIXED = "baseline + arm * visit"
PEER_SEED = 77  # the data sets that the peers see; jaxlmm fits them once, to compare


def batch_call(trial: Trial) -> tuple[Callable[[np.ndarray], Any], Callable[[Any], Any]]:
    """From responses to what is fitted, and the fits of that."""
    import jaxlmm

    X, d = trial.X(), trial.design()

    def model(y: np.ndarray) -> Any:
        rows = np.flatnonzero(~np.isnan(y))
        residual = jaxlmm.Residual(jaxlmm.Unstructured(), d["id"][rows], d["visit"][rows])
        return jaxlmm.Model(y[rows], X[rows], residual=residual)

    if trial.call == "models":
        return lambda Y: [model(y) for y in Y], lambda models: jaxlmm.fit_batch(models, progress=False)
    full = model(Trial("", "", dropout=1e-9).responses(1, 0)[0])
    return lambda Y: Y, lambda Y: jaxlmm.fit_batch(full, Y, missing="drop", progress=False)


def work_batch(name: str, lanes: int, checked: str) -> dict[str, Any]:
    """First and later calls, each over data sets of their own, and the log-likelihoods of the peers' data sets."""
    import jax

    durations: list[tuple[str, float]] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, value, **_: durations.append((event, value)))
    trial = TRIALS[name]
    prepared, call = batch_call(trial)
    drawn = [trial.responses(lanes, seed) for seed in range(WARM + 1)]
    building, batches = zip(*(seconds_of(lambda Y=Y: prepared(Y)) for Y in drawn), strict=True)
    first, result = seconds_of(lambda: call(batches[0]))
    programs = compilations(durations)
    durations.clear()
    warm = [seconds_of(lambda batch=batch: call(batch))[0] for batch in batches[1:]]
    later = compilations(durations)  # before those of the check
    compared = call(prepared(trial.responses(int(checked), PEER_SEED))) if int(checked) else None
    return {
        "lanes": lanes,
        "building": statistics.median(building) if trial.call == "models" else 0.0,
        "first": first,
        "programs": programs,
        "warm": statistics.median(warm),
        "slowest": max(warm),
        "recompiled": later,
        "evaluations": float(np.mean(result.iterations)),
        "converged": float(np.mean(result.converged)),
        "logliks": [] if compared is None else compared.loglik.tolist(),
    }


R_BATCH = """
suppressMessages(library({package}))
data <- read.csv("{path}")
data$AVISIT <- factor(data$AVISIT); data$USUBJID <- factor(data$USUBJID)
sets <- split(data, data$set)
now <- function() as.numeric(Sys.time())
fit <- function(data) {call}
for (set in sets) {{
    start <- now()
    fitted <- fit(set)
    seconds <- now() - start
    cat("RESULT", format(c(seconds, as.numeric(logLik(fitted))), digits=15), "\\n")
}}
"""


def write_trials(trial: Trial, count: int, path: Path) -> None:
    """Data sets one below the other, under the names that the peers' calls have."""
    d, lines = trial.design(), ["set,USUBJID,AVISIT,visit,arm,baseline,y"]
    for i, y in enumerate(trial.responses(count, PEER_SEED)):
        for row in np.flatnonzero(~np.isnan(y)):
            visit = d["visit"][row] + 1
            cells = (i, d["id"][row], visit, visit, d["arm"][row], repr(float(d["baseline"][row])), repr(float(y[row])))
            lines.append(",".join(map(str, cells)))
    path.write_text("\n".join(lines) + "\n")


def peer_batch(peer: str, path: Path, limit: float | None = None) -> dict[str, Any]:
    """Median seconds a data set in a loop, and log-likelihoods."""
    call = r_fit(peer, "y ~ " + TRIAL_FIXED.replace("visit", "AVISIT"))
    code = R_BATCH.format(package=PEERS[peer], path=path, call=call)
    printed = process(["Rscript", "-e", code], one_thread(), limit)
    seconds, logliks = zip(*(results_of(line) for line in printed.splitlines() if "RESULT" in line), strict=True)
    return {"seconds": statistics.median(seconds), "logliks": list(logliks)}


def batches(peers: Sequence[str], names: Sequence[str], lanes: int, sets: int, rounds: int) -> dict[str, Any]:
    """Results of jaxlmm by kind of trial, and of the peers (on the data of the first kinds), one a round."""
    found: dict[str, Any] = {name: [] for name in (*names, *peers)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trials.csv"
        if peers:
            write_trials(TRIALS["models"], sets, path)
        for number in range(rounds):
            for name in found:
                note(f"round {number + 1}: batch, {name}")
                if name in PEERS:
                    run = attempt(lambda n=name: peer_batch(n, path))
                else:
                    run = attempt(lambda n=name: worker("batch", n, lanes, str(sets)))
                if isinstance(run, str):
                    found[name] = run
                    break
                found[name].append(run)
    return found


def us_a_set(runs: Sequence[dict[str, Any]]) -> float:
    return 1e6 * middle(runs, "warm") / runs[0]["lanes"]


def batch_row(name: str, runs: Any) -> list[str]:
    if isinstance(runs, str):
        return [TRIALS[name].label, runs, *[""] * 9]
    lanes = runs[0]["lanes"]
    return [
        TRIALS[name].label,
        f"{lanes:,}",
        f"{middle(runs, 'first'):.2f}",
        f"{statistics.median(run['first'] - run['warm'] for run in runs):.2f}",
        f"{us_a_set(runs):.0f}",
        f"{1e6 * max(run['slowest'] for run in runs) / lanes:.0f}",
        f"{1e6 * middle(runs, 'building') / lanes:.0f}",
        f"{runs[0]['evaluations']:.2f}",
        f"{100 * runs[0]['converged']:.2f}",
        *(str(max(run[key] for run in runs)) for key in ("programs", "recompiled")),
    ]


def batch_table(found: dict[str, Any]) -> str:
    header = ("data sets", "number", "first call s", "compile s", "us a data set", "slowest", "building models us",
              "evaluations", "converged %", "programs compiled", "and later")  # fmt: skip
    return table(header, [batch_row(name, runs) for name, runs in found.items() if name in TRIALS])


def peer_table(found: dict[str, Any]) -> str:
    """Each peer's time a data set, how many times that of jaxlmm it is, and how log-likelihoods differ."""
    names = [name for name in ("models", "refit") if found.get(name) and not isinstance(found[name], str)]
    rows = []
    for peer in (name for name in found if name in PEERS):
        runs = found[peer]
        if isinstance(runs, str):
            rows.append([peer, runs, *[""] * (len(names) + 1)])
            continue
        times = [f"{1e6 * middle(runs, 'seconds') / us_a_set(found[name]):.0f}" for name in names]
        cells = [f"{1e3 * middle(runs, 'seconds'):.0f}", *times]
        if names:
            difference = np.subtract(found[names[0]][0]["logliks"], runs[0]["logliks"])
            cells.append(f"{difference.min():+.0e} to {difference.max():+.0e}")
        rows.append([peer, *cells])
    return table(["a loop of", "ms a data set", *[f"x `{name}`" for name in names], "loglik - its"], rows)


# -- the report -----------------------------------------------------------------------------------------------------


def worker(kind: str, name: str, number: int, place: str, limit: float | None = None) -> Any:
    """Run `work_<kind>` in a fresh process on the CPU; batches on CORES cores."""
    more = {"JAX_PLATFORMS": "cpu"}
    words = [sys.executable, str(Path(__file__).resolve()), "--worker", kind, name, str(number), place]
    return json.loads(process(words, more, limit).rpartition("RESULT")[2])


def work(kind: str, name: str, number: str, place: str) -> None:
    if kind == "batch" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    print("RESULT" + json.dumps(globals()[f"work_{kind}"](name, int(number), place)))


def middle(runs: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def missing(peer: str) -> bool:
    check = ["Rscript", "-e", f"stopifnot(requireNamespace('{PEERS[peer]}', quietly=TRUE))"]
    return shutil.which("Rscript") is None or subprocess.run(check, capture_output=True).returncode != 0


def versions(peers: Sequence[str]) -> str:
    found = [f"{name} {importlib.metadata.version(name)}" for name in ("jaxlib", "numpy", "pandas")]
    for peer in peers:
        found.append(process(["Rscript", "-e", f"cat('{PEERS[peer]}', format(packageVersion('{PEERS[peer]}')))"], {}))
    return ", ".join(found)


def target_table(first: dict[str, Any], later: dict[str, Any], batch: dict[str, Any], peers: Sequence[str]) -> str:
    """What was asked for, and what this run found."""
    rows = []

    def good(runs: Any) -> bool:
        return bool(runs) and not isinstance(runs, str)

    for peer in peers:
        if good(first.get(peer)) and good(first.get("jaxlmm")):
            whole, ours = (statistics.median(run[0] for run in first[name]) for name in (peer, "jaxlmm"))
            rows.append(target_row(f"bcva, whole process: {peer}'s time over jaxlmm's", whole / ours, 1.0, True))
    if good(later.get("bcva")):
        second = statistics.median(run["later"][0] for run in later["bcva"])
        rows.append(target_row("bcva, second fit at most 0.3 s", second, 0.3, False))
        rows.append(target_row("bcva, compile at most 5 s", compile_seconds(later["bcva"]), 5.0, False))
    if good(later.get("fev")):
        rows.append(target_row("fev, warm at most 20 ms", 1e3 * median_later(later["fev"]), 20.0, False))
    for name in ("models", "refit"):
        for peer in (peer for peer in peers if peer != "mmrm"):  # nothing was asked beside mmrm
            if good(batch.get(name)) and good(batch.get(peer)):
                times = 1e6 * middle(batch[peer], "seconds") / us_a_set(batch[name])
                rows.append(target_row(f"batch, `{name}`: at least 300 x {peer}", times, 300.0, True))
    return table(["target", "found", "met"], rows)


INTRODUCTION = f"""# Repeated measures

Unstructured residual covariance within subjects, REML, float64. jaxlmm, mmrm, nlme's gls (`corSymm`,
`varIdent`) and glmmTMB (`us(0 + visit | subject)`, `dispformula = ~ 0`, a residual variance near zero, hence its
log-likelihoods a little off).

- Programs run in turn, each in a fresh process; figures are medians over the rounds. A program that takes more than
  {LONG:.0f} s runs once.
- bcva: `{STUDIES["bcva"].formula}`, 10 visits of 1000 subjects, 8605 rows, 55 covariance parameters. fev:
  `{STUDIES["fev"].formula}`, 4 visits of 197 subjects, 537 rows.
- Whole process: from starting it to the printed summary, imports and compiling included.
- Later fits are of another response each, from formula and data frame to the fit.
- Batches: {TRIALS["models"].subjects} subjects, {TRIALS["models"].visits} visits, two arms, `y ~ {TRIAL_FIXED}`; every
  data set has its own responses and dropout: about a fifth of its subjects leave before the last visit. jaxlmm uses
  {CORES} cores; its time a data set is the median of {WARM} calls after the first, each over other data sets, from
  responses (or models) to results. "compile" is the first call minus that; "programs compiled" in the first call,
  "and later" in the others. The peers fit some of the data sets in a loop on one core (one BLAS thread).

"""


def section(options: argparse.Namespace) -> str:
    """All tables of this Python, under one heading."""
    asked = [peer for peer in options.peers.split(",") if peer]
    peers = [peer for peer in asked if not missing(peer)]
    absent = [f"not installed, left out: {peer}" for peer in asked if peer not in peers]
    files = {"fev": DATA / "fev_data.csv"}
    if options.bcva.exists():
        files["bcva"] = options.bcva.resolve()
    else:
        absent.append("no file of bcva, left out (`--bcva`)")
    for name in ("floor", "jaxlmm", *peers):  # fills file caches
        attempt(lambda n=name: process(first_program(n, STUDIES["fev"], files["fev"]), {}))
    first = {}
    if "bcva" in files:
        first = first_fits(("floor", "jaxlmm", *peers), STUDIES["bcva"], files["bcva"], options.rounds)
    later = {"fev": later_fits(("jaxlmm", *peers), "fev", files["fev"], options.rounds, options.repeats)}
    if "bcva" in files:
        later["bcva"] = later_fits(("jaxlmm",), "bcva", files["bcva"], options.rounds, options.repeats)
    names = [name for name in options.trials.split(",") if name in TRIALS]
    batch = batches(peers if options.sets else (), names, options.lanes, options.sets, options.rounds) if names else {}
    ours = {name: found["jaxlmm"] for name, found in later.items()}
    parts = [
        f"## Python {platform.python_version()}, jax {importlib.metadata.version('jax')}",
        f"{datetime.date.today()}, {cpu_model()}, {os.cpu_count()} cores, {versions(peers)}.\n"
        f"`{command(COMMAND, '--out', '--bcva')}`",
        *(["\n".join(f"- {line}" for line in absent)] if absent else []),
        *(["### bcva, first fit\n\n" + first_table(first)] if first else []),
        *(f"### {name}, later fits\n\n{later_table(found)}" for name, found in later.items()),
        "### Compiling\n\n" + compile_table(ours),
        *(["### Batches\n\n" + batch_table(batch)] if names else []),
        *([peer_table(batch)] if names and peers and options.sets else []),
        "### Targets\n\n" + target_table(first, ours, batch, peers),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bcva", type=Path, default=DATA / "bcva_data.csv", help="mmrm's bcva_data as a CSV file")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each program")
    parser.add_argument("--repeats", type=int, default=20, help="later fits in a process (a quarter of it for peers)")
    parser.add_argument("--lanes", type=int, default=1000, help="data sets a batch")
    parser.add_argument("--sets", type=int, default=20, help="data sets that the peers fit, and jaxlmm to compare")
    parser.add_argument("--trials", default=",".join(TRIALS), help='kinds of batches; "" for none')
    parser.add_argument("--peers", default=",".join(PEERS), help='"" leaves them out')
    parser.add_argument("--out", type=Path, help="markdown file to write or bring up to date")
    options = parser.parse_args()
    report(INTRODUCTION, section(options), options.out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    else:
        main()
