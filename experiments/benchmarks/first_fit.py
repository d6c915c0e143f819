"""What a first fit costs, from starting the process to the printed summary, beside other software.

    python experiments/benchmarks/first_fit.py [--rounds 7] [--write]

Everything runs on this machine, in turn (one run of each per round, so that a slow minute hits all
alike); medians are reported. Software that is not installed is left out of the tables; nothing is
installed. `--write` puts the tables in experiments/results/first_fit.md, which keeps one section a
version of Python: run it with each.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from _common import ROOT, environment, report, table

DATA = ROOT / "jaxlmm" / "datasets" / "sleepstudy.csv"
RESULTS = ROOT / "experiments" / "results" / "first_fit.md"
FORMULA = "Reaction ~ Days + (Days | Subject)"
ROUNDS, REPEATS, PROCESSES = 7, 30, 5
LOGLIK = -871.8141359792  # lme4, polished: every program has to arrive here

READ = f"import pandas as pd; data = pd.read_csv({str(DATA)!r}, dtype={{'Subject': str}})\n"
JAXLMM = f"fit = jaxlmm.lmm({FORMULA!r}, data)\n"
MIXEDLM = f"fit = lmer({FORMULA!r}, data)\n"
STATSMODELS = "fit = smf.mixedlm('Reaction ~ Days', data, groups='Subject', re_formula='~Days').fit(reml=True)\n"
LMER = f"fit <- lmer({FORMULA}, data)\n"
READ_R = f"data <- read.csv('{DATA}', colClasses=c(Subject='character'))\n"


@dataclass(frozen=True)
class Program:
    """Whole programs (`first`) and, for the in-process table, `setup` and one `fit`."""

    name: str
    needs: str  # a Python distribution, or "Rscript"
    first: str
    setup: str = ""
    fit: str = ""
    loglik: str = ""  # an expression, checked against LOGLIK

    @property
    def is_r(self) -> bool:
        return self.needs == "Rscript"

    def command(self, code: str) -> list[str]:
        return ["Rscript", "-e", code] if self.is_r else [sys.executable, "-c", code]


FLOOR = Program("`import jax`, pandas, read the CSV: the floor", "jax", "import jax\n" + READ)
COLD = Program(
    "jaxlmm, cold",
    "jax",
    "import jaxlmm\n" + READ + JAXLMM + "print(fit.summary())",
    setup="import jaxlmm\n" + READ,
    fit=JAXLMM,
    loglik="fit.loglik",
)
PEERS = (
    Program(
        "statsmodels MixedLM",
        "statsmodels",
        "import statsmodels.formula.api as smf\n" + READ + STATSMODELS + "print(fit.summary())",
        setup="import statsmodels.formula.api as smf\n" + READ,
        fit=STATSMODELS,
        loglik="fit.llf",
    ),
    Program(
        "mixedlm",
        "mixedlm",
        "from mixedlm import lmer\n" + READ + MIXEDLM + "print(fit.summary())",
        setup="from mixedlm import lmer\n" + READ,
        fit=MIXEDLM,
        loglik="fit.logLik().value",
    ),
    Program(
        "Rscript, lme4",
        "Rscript",
        "suppressMessages(library(lme4))\n" + READ_R + LMER + "print(summary(fit))",
        setup="suppressMessages(library(lme4))\n" + READ_R,
        fit=LMER,
        loglik="as.numeric(logLik(fit))",
    ),
)


def warm_program(folder: str) -> Program:
    """jaxlmm with the compiled code of an earlier process in `folder`."""
    first = COLD.first.replace("import jaxlmm\n", f"import jaxlmm\njaxlmm.enable_compilation_cache({folder!r})\n")
    return Program("jaxlmm, compile cache warm", "jax", first)


def available(program: Program) -> bool:
    """Whether the software is on this machine."""
    if program.is_r:
        check = ["Rscript", "-e", "stopifnot(requireNamespace('lme4', quietly=TRUE))"]
        return shutil.which("Rscript") is not None and subprocess.run(check, capture_output=True).returncode == 0
    try:
        importlib.metadata.version(program.needs)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def run(command: Sequence[str]) -> tuple[float, str]:
    """Seconds a process takes from start to end, and what it prints.

    BLAS gets one thread: with more, mixedlm's fits take 3 or 70 ms depending on what else the machine is doing.
    """
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment(OPENBLAS_NUM_THREADS="1"))
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return seconds, done.stdout


def first_fits(programs: Sequence[Program], rounds: int) -> dict[str, list[float]]:
    """Seconds of every program in every round; a round before the first fills file caches."""
    seconds: dict[str, list[float]] = {program.name: [] for program in programs}
    for number in range(rounds + 1):
        for program in programs:
            taken, _ = run(program.command(program.first))
            if number:
                seconds[program.name].append(taken)
    return seconds


def first_fit_table(seconds: dict[str, list[float]]) -> str:
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    floor = medians[FLOOR.name]
    peers = [program.name for program in PEERS if program.name in medians]

    def row(name: str) -> list[str]:
        ratios = [f"{medians[name] / medians[peer]:.2f}" for peer in peers]
        spread = f"{min(seconds[name]):.2f} to {max(seconds[name]):.2f}"
        added = "" if name == FLOOR.name else f"{(medians[name] - floor) / floor:.2f}"
        return [name, f"{medians[name]:.2f}", spread, added, *ratios]

    header = ["whole process", "median s", "range s", "added / floor", *[f"x {peer}" for peer in peers]]
    return table(header, [row(name) for name in seconds])


PYTHON_LOOP = """
import time
import numpy as np
{setup}
{fit}
first = {loglik}
rng = np.random.default_rng(1)
original = data["Reaction"].to_numpy(copy=True)
seconds = []
for _ in range({repeats}):
    data["Reaction"] = original + rng.normal(0, 10, len(original))
    start = time.perf_counter()
    {fit}
    seconds.append(time.perf_counter() - start)
print("RESULT", float(first), seconds[0], float(np.median(seconds)))
"""
R_LOOP = """
{setup}
{fit}
first <- {loglik}
set.seed(1)
original <- data$Reaction
now <- function() as.numeric(Sys.time())
seconds <- numeric({repeats})
for (i in seq_len({repeats})) {{
    data$Reaction <- original + rnorm(length(original), 0, 10)
    start <- now()
    {fit}
    seconds[i] <- now() - start
}}
cat("RESULT", sprintf("%.10f", c(first, seconds[1], median(seconds))), "\\n")
"""


def later_fits(program: Program, repeats: int) -> tuple[float, float, float]:
    """Log-likelihood of the first fit; seconds of the second fit, and the median of all later ones.

    Later fits are of data sets of the same shape with another response, each from formula and frame.
    """
    loop = R_LOOP if program.is_r else PYTHON_LOOP
    code = loop.format(setup=program.setup, fit=program.fit, loglik=program.loglik, repeats=repeats)
    _, printed = run(program.command(code))
    line = next(line for line in printed.splitlines() if line.startswith("RESULT"))
    loglik, second, median = map(float, line.split()[1:])
    return loglik, second, median


def later_fit_table(programs: Sequence[Program], repeats: int) -> str:
    """The quickest of some processes each, run in turn, and the slowest to show what the machine was doing."""
    rounds = [[later_fits(program, repeats) for program in programs] for _ in range(PROCESSES)]
    ours = min(results[0][2] for results in rounds)
    rows = []
    for number, program in enumerate(programs):
        loglik, second, later = zip(*(results[number] for results in rounds), strict=True)
        times = [f"{1e3 * seconds:.1f}" for seconds in (min(second), min(later), max(later))]
        name = program.name.removesuffix(", cold")
        rows.append([name, *times, f"{min(later) / ours:.1f}", f"{loglik[0] - LOGLIK:+.0e}"])
    return table(
        ["in one process", "second fit ms", "later fits ms", "slowest process", "x jaxlmm", "loglik - lme4's"], rows
    )


GROUPS = 30


def evaluations(rows_a_group: int) -> tuple[float, float]:
    """Seconds to prepare the statistics of a random-slope model, and of one evaluation from then on.

    An evaluation is the REML log-likelihood with its exact gradient and Hessian, jitted; the model is
    concrete, so its statistics are computed once, when the function is traced.
    """
    import jax
    import numpy as np

    import jaxlmm
    from jaxlmm.model import prepare

    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(rows_a_group)
    n = GROUPS * rows_a_group
    group = np.repeat(np.arange(GROUPS), rows_a_group)
    X = np.column_stack([np.ones(n), rng.uniform(0, 9, n)])
    y = X @ [250.0, 10.0] + np.sum(X * rng.normal(size=(GROUPS, 2))[group] * [25.0, 6.0], 1)
    term = jaxlmm.Term(X, group, jaxlmm.Unstructured())
    model = jaxlmm.Model(y + rng.normal(0, 25, n), X, random=[term], engine="grouped")

    @jax.jit
    def value_and_derivatives(theta):
        value, gradient = jax.value_and_grad(jaxlmm.reml)(theta, model)
        return value, gradient, jax.hessian(jaxlmm.reml)(theta, model)

    theta = np.log([25.0, 1.0, 6.0, 25.0])
    prepared = median_seconds(lambda: prepare(model), repeats=5)
    return prepared, median_seconds(lambda: jax.block_until_ready(value_and_derivatives(theta)), repeats=300)


def evaluation_table(sizes: Sequence[int] = (10, 100, 1000, 10_000)) -> str:
    rows = []
    for size in sizes:
        prepared, seconds = evaluations(size)
        rows.append([f"{size:,}", f"{GROUPS * size:,}", f"{1e3 * prepared:.1f}", f"{1e6 * seconds:.0f}"])
    return table(["rows a group", "rows", "prepare, once, ms", "value + gradient + Hessian, us"], rows)


def median_seconds(call: Callable[[], object], repeats: int = 50) -> float:
    """Median time of `call` after one call that compiles."""
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def versions() -> str:
    """What the tables were made with."""
    names = ("numpy", "pandas", "formulaic", "statsmodels", "mixedlm")
    found = [f"{name} {importlib.metadata.version(name)}" for name in names if available(Program("", name, ""))]
    if available(PEERS[-1]):
        found.append(run(["Rscript", "-e", "cat('lme4', format(packageVersion('lme4')))"])[1])
    return ", ".join(found)


def section(rounds: int, repeats: int) -> str:
    """All tables of this Python, under one heading."""
    peers = [program for program in PEERS if available(program)]
    with tempfile.TemporaryDirectory() as folder:
        seconds = first_fits([FLOOR, COLD, warm_program(folder), *peers], rounds)
    options = "" if rounds == ROUNDS and repeats == REPEATS else f" --rounds {rounds} --repeats {repeats}"
    return f"""## Python {platform.python_version()}, jax {importlib.metadata.version("jax")}

{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}), {versions()}.
`python experiments/benchmarks/first_fit.py --write{options}`

From starting the process to the printed summary, {rounds} rounds in turn:

{first_fit_table(seconds)}

Later fits in the same process, medians of {repeats} in the quickest of {PROCESSES} processes:

{later_fit_table([COLD, *peers], repeats)}

One evaluation of the grouped engine:

{evaluation_table()}
"""


INTRODUCTION = f"""# A first fit, and the fits after it

`{FORMULA}` on sleepstudy (180 rows, 18 groups) by REML.

- Every program has one BLAS thread (mixedlm is faster and steadier for it, the others do not mind).
- "added / floor" is what a program takes beyond the floor, in units of the floor.
- Later fits are of another response each time, from formula and data frame to the fit.
- Evaluations: {GROUPS} groups, random intercept and slope, no two groups alike. The statistics are computed
  once from the rows; after that an evaluation does not see the rows.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"runs of each program (default {ROUNDS})")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"later fits in a process (default {REPEATS})")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    report(INTRODUCTION, section(options.rounds, options.repeats), RESULTS if options.write else None)


if __name__ == "__main__":
    main()
