"""What tests of fixed effects cost, beside mmrm, pbkrtest and lmerTest.

    python experiments/inference/speed.py [--rounds 3] [--lanes 2000] [--r-lib folder] [--out inference_speed.md]

Programs run in turn, each in a process of its own; figures are medians over rounds. Packages of R that are not
installed (looked for in `--r-lib` too) are named and left out. `--out` keeps one section a version of Python.
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
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from _common import (  # noqa: E402
    LEFT_OUT,
    attempt,
    command,
    cpu_model,
    note,
    one_thread,
    process,
    report,
    seconds_of,
    table,
    target_row,
)

COMMAND = "experiments/inference/speed.py"
WARM, NOISE, R_REPEATS = 7, 0.02, 5  # later calls, SD of what is added to their responses, calls in R
PEER_ROWS = (500, 2000, 7000)
LIMIT = 60  # seconds a program of R may take
DF = ("satterthwaite", "kenward-roger", "kenward-roger-full")


# -- models ---------------------------------------------------------------------------------------------------------


def three_levels(rows: int) -> dict[str, Any]:
    """Rows of 10 in classes, 5 classes a school."""
    rng = np.random.default_rng(rows)
    classes, schools = rows // 10, rows // 50
    cls = np.repeat(np.arange(classes), 10)
    school = cls // 5
    x = rng.standard_normal(rows)
    y = x + rng.standard_normal(schools)[school] + 0.7 * rng.standard_normal(classes)[cls] + rng.standard_normal(rows)
    return {"y": y, "x": x, "arm": (school % 2).astype(float), "school": school, "class": cls}


def model(name: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Formula, data and options of `jaxlmm.lmm`; the response is a column of its own, `y`."""
    import jaxlmm

    if name == "fev":
        data = {k: np.asarray(v) for k, v in jaxlmm.datasets.load("fev_data", "dict").items()}
        data["y"] = np.asarray(data["FEV1"], float)
        keep = ~np.isnan(data["y"])
        return (
            "y ~ RACE + SEX + ARMCD * AVISIT",
            {k: v[keep] for k, v in data.items()},
            {"residual": "us(AVISIT | USUBJID)"},
        )
    if name == "sleepstudy":
        data = {k: np.asarray(v) for k, v in jaxlmm.datasets.load("sleepstudy", "dict").items()}
        return "y ~ Days + (Days | Subject)", data | {"y": np.asarray(data["Reaction"], float)}, {}
    if name == "trial":
        cluster = np.repeat(np.arange(20), 10)
        rng = np.random.default_rng(1)
        y = 0.5 * rng.standard_normal(20)[cluster] + rng.standard_normal(200)
        return "y ~ arm + (1 | cluster)", {"y": y, "arm": cluster % 2 * 1.0, "cluster": cluster}, {}
    return "y ~ x * arm + (1 | school / class)", three_levels(int(name.partition(" ")[2])), {}


# -- programs of jaxlmm, each in a process of its own -----------------------------------------------------------------


def child_methods(name: str) -> dict[str, Any]:
    """First and later: fitting, its summary, tests by each method; in milliseconds."""
    import jaxlmm

    formula, data, options = model(name)
    rng = np.random.default_rng(0)
    scale = NOISE * float(np.std(data["y"]))

    def once(change: float) -> dict[str, float]:
        y = data["y"] + change * rng.standard_normal(len(data["y"]))
        out = {}
        out["fit"], fit = seconds_of(lambda: jaxlmm.lmm(formula, data | {"y": y}, **options))
        out["summary"], _ = seconds_of(lambda: str(fit.summary()))
        for df in DF[1:]:
            out[df], _ = seconds_of(lambda: fit.wald(df).rows(np.eye(len(fit.coef))))  # noqa: B023
        return {key: 1e3 * value for key, value in out.items()}

    first = once(0.0)
    once(scale)
    later = [once(scale) for _ in range(WARM)]
    return {"first": first, "later": {key: statistics.median(one[key] for one in later) for key in first}}


def child_lanes(name: str, lanes: int) -> dict[str, Any]:
    """Batches without and with tests in turn: compile seconds, and microseconds a data set."""
    import jaxlmm

    formula, data, options = model(name)
    fit = jaxlmm.lmm(formula, data, **options)
    y = np.asarray(data["y"])
    Y = y + 0.5 * np.std(y - np.asarray(fit.fitted)) * np.random.default_rng(2).standard_normal((lanes, len(y)))
    L = np.eye(len(fit.coef))[-1:]
    tests = (
        {"fit": None}
        | {df: jaxlmm.Tests(L, df=df) for df in DF}
        | {"CR2-mmrm": jaxlmm.Tests(L, df=(), robust="CR2-mmrm")}
    )
    calls: dict[str, Callable[[], Any]] = {
        key: (lambda wanted=wanted: fit.refit(Y, tests=wanted, progress=False)) for key, wanted in tests.items()
    }
    firsts = {key: seconds_of(call)[0] for key, call in calls.items()}
    later: dict[str, list[float]] = {key: [] for key in calls}
    for _ in range(5):
        for key, call in calls.items():
            later[key].append(seconds_of(call)[0])
    medians = {key: statistics.median(values) for key, values in later.items()}
    ratios = {key: statistics.median(a / b for a, b in zip(later[key], later["fit"], strict=True)) for key in calls}
    result = calls["kenward-roger"]()
    return {
        "compile": {key: firsts[key] - medians[key] for key in calls},
        "microseconds": {key: 1e6 * value / lanes for key, value in medians.items()},
        "ratio": ratios,
        "converged": float(np.mean(result.converged)),
        "singular": float(np.mean(result.singular)),
    }


def run_child(name: str, *arguments: str) -> dict[str, Any]:
    done = process([sys.executable, str(Path(__file__)), "--child", name, *arguments], {"TF_CPP_MIN_LOG_LEVEL": "3"})
    return json.loads(done.rpartition("RESULT")[2])


# -- programs of R --------------------------------------------------------------------------------------------------

R_START = """
.libPaths(c({library}, .libPaths()))
suppressMessages(suppressWarnings({{{packages}}}))
now <- function() as.numeric(Sys.time())
data <- read.csv("{path}", stringsAsFactors=TRUE)
y <- data$y
set.seed(1)
again <- function(call) {{
    seconds <- numeric({repeats})
    for (i in seq_along(seconds)) {{
        data$y <<- y + rnorm(length(y), 0, {noise} * sd(y))
        start <- now(); call(); seconds[i] <- now() - start
    }}
    median(seconds)
}}
"""
R_MMRM = """
data$USUBJID <- factor(data$USUBJID); data$AVISIT <- factor(data$AVISIT)
fit <- function(method, vcov) mmrm(y ~ RACE + SEX + ARMCD * AVISIT + us(AVISIT | USUBJID), data=data,
                                   method=method, vcov=vcov)
call <- function(method, vcov) function() invisible(capture.output(print(summary(fit(method, vcov)))))
invisible(fit("Satterthwaite", "Asymptotic"))
cat("RESULT", again(call("Satterthwaite", "Asymptotic")), again(call("Kenward-Roger", "Kenward-Roger")),
    again(call("Kenward-Roger", "Kenward-Roger-Linear")), "\\n")
"""
R_LMER = """
fit <- function() lmer({formula}, data=data)
invisible(fit())
model <- NULL
a <- again(function() model <<- fit())
b <- again(function() invisible(capture.output(print(summary(fit())))))
c <- again(function() vcovAdj(model))
cat("RESULT", a, b, c, "\\n")
"""


def run_r(packages: list[str], body: str, data: dict[str, Any], library: str, repeats: int) -> list[float]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        names = list(data)
        lines = [",".join(names), *(",".join(str(data[n][i]) for n in names) for i in range(len(data[names[0]])))]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        load = "; ".join(f"library({package})" for package in packages)
        words = {"library": json.dumps(library), "packages": load, "path": str(path)}
        program = R_START.format(**words, repeats=repeats, noise=NOISE) + body
        printed = process(["timeout", str(LIMIT), "Rscript", "-e", program], one_thread())
    return [float(word) for word in printed.rpartition("RESULT")[2].split()]


def peer(packages: list[str], body: str, name: str, library: str, repeats: int = R_REPEATS) -> Any:
    if shutil.which("Rscript") is None:
        return f"{LEFT_OUT}: no Rscript"
    _, data, _ = model(name)
    return attempt(lambda: run_r(packages, body, data, library, repeats))


# -- tables ---------------------------------------------------------------------------------------------------------


def middle(rounds: list[dict[str, Any]], *keys: str) -> float:
    def value(one: Any) -> float:
        for key in keys:
            one = one[key]
        return float(one)

    return statistics.median(value(one) for one in rounds)


def middles(rounds: list[Any]) -> Any:
    """Medians of lists; what was left out stays a word."""
    good = [one for one in rounds if not isinstance(one, str)]
    return [statistics.median(column) for column in zip(*good, strict=True)] if good else rounds[0]


SINGLE = ("fev", "sleepstudy", "three-level 7000")
LANES = ("trial", "sleepstudy", "fev")


def single_tables(found: dict[str, Any]) -> tuple[str, str]:
    warm, first = [], []
    for name in SINGLE:
        rounds = found[name]
        for place, rows in (("later", warm), ("first", first)):
            t = {key: middle(rounds, place, key) for key in ("fit", "summary", *DF[1:])}
            cells = [f"{value:,.1f}" for value in t.values()] + [f"{t['summary'] / t['fit']:.2f}"]
            rows.append([name, *cells, f"{t['fit'] + t['kenward-roger']:,.1f}"])
    header = ["model", "fit ms", "summary ms", "KR ms", "KR full ms", "summary / fit", "fit and KR ms"]
    return table(header, warm), table(header, first)


def peer_tables(found: dict[str, Any]) -> str:
    rows = []
    ours = {name: found[name] for name in SINGLE}

    def total(name: str, key: str) -> float:
        return statistics.median(one["later"]["fit"] + one["later"][key] for one in ours[name])

    def add(model: str, what: str, mine: float, theirs: Any, place: int) -> None:
        if isinstance(theirs, str):
            rows.append([model, what, f"{mine:,.1f}", theirs, ""])
        else:
            rows.append(
                [model, what, f"{mine:,.1f}", f"{1e3 * theirs[place]:,.1f}", f"{1e3 * theirs[place] / mine:.1f}"]
            )

    mmrm = middles(found["mmrm"])
    add("fev", "fit and summary, Satterthwaite; mmrm", total("fev", "summary"), mmrm, 0)
    add("fev", "fit and KR, full; mmrm", total("fev", "kenward-roger-full"), mmrm, 1)
    add("fev", "fit and KR, first-order; mmrm", total("fev", "kenward-roger"), mmrm, 2)
    lmer = middles(found["lmer sleepstudy"])
    add("sleepstudy", "fit and summary, Satterthwaite; lmerTest", total("sleepstudy", "summary"), lmer, 1)
    kr = statistics.median(one["later"]["kenward-roger"] for one in ours["sleepstudy"])
    add("sleepstudy", "KR of a fit; pbkrtest::vcovAdj", kr, lmer, 2)
    for size in PEER_ROWS:
        name = f"three-level {size}"
        mine = statistics.median(one["later"]["kenward-roger"] for one in found[name])
        add(name, "KR of a fit; pbkrtest::vcovAdj", mine, middles(found[f"lmer {name}"]), 2)
    return table(["model", "what", "jaxlmm ms", "R ms", "R / jaxlmm"], rows)


def lane_table(found: dict[str, Any]) -> str:
    rows = []
    for name in LANES:
        rounds = found[f"lanes {name}"]
        for key in ("fit", *DF, "CR2-mmrm"):
            spent = middle(rounds, "microseconds", key)
            extra = "" if key == "fit" else f"{middle(rounds, 'ratio', key) - 1:.2f}"
            rest = [f"{middle(rounds, 'compile', key):.1f}", f"{100 * middle(rounds, 'singular'):.1f}"]
            rows.append([name, key, f"{spent:,.0f}", f"{middle(rounds, 'ratio', key):.2f}", extra, *rest])
    header = ["model", "what", "us a data set", "all / fit", "tests / fit", "compile s", "singular %"]
    return table(header, rows)


def targets(found: dict[str, Any]) -> str:
    fev = statistics.median(one["later"]["fit"] + one["later"]["kenward-roger"] for one in found["fev"])
    rows = [target_row("fev: fit and KR, warm, at most 200 ms", fev, 200, False)]
    big = middle(found["three-level 7000"], "later", "kenward-roger")
    rows.append(target_row("7,000 rows, three levels: KR, warm, at most 5,000 ms", big, 5000, False))
    big = middle(found["three-level 7000"], "first", "kenward-roger")
    rows.append(target_row("the same, first call in a process, at most 5,000 ms", big, 5000, False))
    for name in LANES:
        for key in DF:
            ratio = middle(found[f"lanes {name}"], "ratio", key)
            rows.append(target_row(f"{name}: batch with {key}, at most 3 times the fits", ratio, 3, False))
    for name in SINGLE:
        for place, words in (("later", "warm"), ("first", "first in a process")):
            ratio = statistics.median(one[place]["summary"] / one[place]["fit"] for one in found[name])
            rows.append(
                target_row(f"{name}: summary (Satterthwaite), {words}, at most 0.5 of the fit", ratio, 0.5, False)
            )
    return table(["target", "found", "met"], rows)


INTRODUCTION = """# Speed of tests of fixed effects

- Programs run in turn, each in a fresh process; figures are medians over the rounds. R has one thread, jaxlmm what JAX
  takes. Later calls are to new responses (the first and noise of 2 % of its SD), medians of {warm} in jaxlmm, {r} in R.
- fev: `RACE + SEX + ARMCD * AVISIT`, `us(AVISIT | USUBJID)`, 537 rows; sleepstudy: `Days + (Days | Subject)`;
  three-level: `x * arm + (1 | school / class)`, 10 rows a class, 5 classes a school; trial: `arm + (1 | cluster)`,
  20 x 10.
- KR: `fit.wald("kenward-roger")` and the t tests of all coefficients; summary: text with Satterthwaite's df, with
  everything a summary has. KR is after the summary of the same fit, and KR full after KR. mmrm: a fit and its printed
  summary. pbkrtest: `vcovAdj` of a fit, no tests.
- Batches: one row of L; "all / fit" is fitting and tests over fitting alone, the median of ratios of calls in turn.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lanes", type=int, default=2000)
    parser.add_argument("--r-lib", default="", help="folder with packages of R besides those installed")
    parser.add_argument("--peers", type=int, default=1, help="0 leaves R out")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, name, *rest = options.child
        print("RESULT", json.dumps(child_methods(name) if kind == "methods" else child_lanes(name, int(rest[0]))))
        return
    start, found = time.perf_counter(), {}

    def keep(key: str, value: Any) -> None:
        found.setdefault(key, []).append(value)
        note(f"{time.perf_counter() - start:.0f} s, {key}: {value}")

    for _ in range(options.rounds):
        for name in (*SINGLE, *(f"three-level {size}" for size in PEER_ROWS if size != 7000)):
            keep(name, run_child("methods", name))
        if options.peers:
            keep("mmrm", peer(["mmrm"], R_MMRM, "fev", options.r_lib))
            packages = ["lme4", "pbkrtest", "lmerTest"]
            body = R_LMER.format(formula="y ~ Days + (Days | Subject)")
            keep("lmer sleepstudy", peer(packages, body, "sleepstudy", options.r_lib))
            for size in PEER_ROWS:
                name, body = f"three-level {size}", R_LMER.format(formula="y ~ x * arm + (1 | school / class)")
                earlier = found.get(f"lmer {name}", [""])[0]
                out = isinstance(earlier, str) and earlier.startswith(LEFT_OUT)
                one = earlier if out else peer(packages, body, name, options.r_lib, 1 if size > 1000 else R_REPEATS)
                keep(f"lmer {name}", one)
        else:
            for key in ("mmrm", "lmer sleepstudy", *(f"lmer three-level {size}" for size in PEER_ROWS)):
                found[key] = [LEFT_OUT]
        for name in LANES:
            keep(f"lanes {name}", run_child("lanes", name, str(options.lanes)))
        options.out_text = section_of(found, options, time.perf_counter() - start)
        if options.out:  # after each round: what is there is not lost
            report(INTRODUCTION.format(warm=WARM, r=R_REPEATS) + "\n", options.out_text, options.out)
    if not options.out:
        print(options.out_text)


def section_of(found: dict[str, Any], options: argparse.Namespace, seconds: float) -> str:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "numpy")]
    warm, first = single_tables(found)
    machine = f"{cpu_model()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end (a shared machine)"
    return f"""## Python {platform.python_version()}, {", ".join(versions)}

{datetime.date.today()}, {machine}.
`{command(COMMAND, "--out", "--r-lib")}`: {seconds:.0f} s, {len(found["fev"])} rounds.
{r_versions(options.r_lib) if options.peers else "Without R."}

### Targets

{targets(found)}

### One fit: later calls

{warm}

### One fit: first calls in a process, with compiling

{first}

### Beside R, later calls

{peer_tables(found)}

### Batches of {options.lanes:,}

{lane_table(found)}
"""


def r_versions(library: str) -> str:
    program = f"""
.libPaths(c({json.dumps(library)}, .libPaths()))
for (p in c("mmrm", "lme4", "pbkrtest", "lmerTest"))
    if (requireNamespace(p, quietly=TRUE)) cat(p, format(packageVersion(p)), "; ")
cat(R.version.string)
"""
    return str(attempt(lambda: process(["Rscript", "-e", program], {}).strip()))


if __name__ == "__main__":
    main()
