"""What crossed factors cost, beside lme4 and mixedlm: whole fits, and refits of one design.

    python experiments/benchmarks/crossed.py --insteval insteval.csv [--rounds 3] [--only insteval,maximal] [--write]

Programs run in turn on this machine, each in a process of its own; medians over rounds are reported. Software that is
not installed is named and left out; nothing is installed. `--insteval` is lme4's data set of that name as a CSV file.
`--write` puts the table in experiments/results/crossed.md, one section a version of Python.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from _common import ROOT, attempt, command, cpu_model, note, process, report, table

RESULTS = ROOT / "experiments" / "results" / "crossed.md"
PATIENCE = 2400  # seconds for a program
INTRODUCTION = """# Crossed factors

REML, float64; whole fits from formula and data frame to the fit. "first" is the first fit of a process, compiling
included, imports not; "later" the median of the fits after it. Programs run in turn, medians over rounds.

"""

PYTHON = """
import json, os, time
import pandas as pd
data = pd.read_csv({path!r}, dtype={{name: str for name in {factors!r}}})
{imports}
seconds = []
for _ in range({repeats}):
    start = time.perf_counter()
    {fit}
    seconds.append(time.perf_counter() - start)
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps([seconds, {loglik}, int(peak[0].split()[1]) / 1e6]))
"""
JAXLMM = dict(imports="import jaxlmm", fit="fit = jaxlmm.lmm({formula!r}, data)", loglik="fit.loglik")
MIXEDLM = dict(
    imports="from mixedlm import lmer", fit="fit = lmer({formula!r}, data)", loglik="float(fit.logLik().value)"
)
LME4 = """
suppressMessages(library(lme4))
data <- read.csv({path!r}); for (name in c({names})) data[[name]] <- factor(data[[name]])
seconds <- c()
for (i in 1:{repeats}) seconds <- c(seconds, system.time(fit <- suppressMessages(suppressWarnings(lmer({formula},
    data, control=lmerControl(calc.derivs=FALSE)))))[["elapsed"]])
peak <- grep("VmHWM", readLines("/proc/self/status"), value=TRUE)
cat(sprintf("[[%s], %.10f, %s]", paste(seconds, collapse=","), as.numeric(logLik(fit)),
    as.numeric(gsub("[^0-9]", "", peak)) / 1e6))
"""
REFIT = """
import json, time
import numpy as np, pandas as pd, jaxlmm
data, Y = pd.read_csv({path!r}, dtype=str).astype({{"y": float}}), np.load({responses!r})
fit = jaxlmm.lmm({formula!r}, data)
seconds = []
for _ in range(4):
    start = time.perf_counter()
    found = fit.refit(Y)
    seconds.append(time.perf_counter() - start)
print(json.dumps([seconds, len(Y)]))
"""
REFIT_LME4 = """
suppressMessages(library(lme4))
data <- read.csv({path!r}); for (name in c({names})) data[[name]] <- factor(data[[name]])
fit <- lmer({formula}, data)
y <- simulate(fit, {count})
seconds <- system.time(for (i in 1:{count}) suppressMessages(suppressWarnings(refit(fit, y[[i]]))))[["elapsed"]]
cat(sprintf("[[%f], {count}]", seconds))
"""


@dataclass(frozen=True)
class Case:
    """Data with a formula."""

    title: str
    formula: str
    factors: tuple[str, ...]
    repeats: int
    rounds: int = 9  # at most


CASES = {
    "insteval": Case("InstEval, 73 421 rows", "y ~ service + (1|s) + (1|d) + (1|dept)", ("s", "d", "dept"), 3),
    "maximal": Case(
        "56 x 32, 8 x 8 twice, 1792 rows", "y ~ a*b*c + (a*b*c|subject) + (a*b*c|item)", ("subject", "item"), 2, 1
    ),
    "ratings": Case("1e6 ratings, 6000 x 4000", "y ~ 1 + (1|user) + (1|film)", ("user", "film"), 1, 1),
    "refit": Case("refits, 40 x 20", "y ~ 1 + (1|subject) + (1|item)", ("subject", "item"), 1),
}


def simulated(name: str, insteval: str) -> pd.DataFrame:
    """Data of a case."""
    rng = np.random.default_rng(0)
    if name == "insteval":
        return pd.read_csv(insteval)
    if name == "ratings":
        pairs: np.ndarray = np.zeros(0, int)
        while len(pairs) < 1_000_000:
            weight_user, weight_film = rng.permutation(6000), rng.permutation(4000)
            user = weight_user[(6000 * rng.beta(0.6, 1.6, 500_000)).astype(int)]
            film = weight_film[(4000 * rng.beta(0.5, 2.5, 500_000)).astype(int)]
            pairs = np.unique(np.concatenate([pairs, user * 4000 + film]))
        pairs = np.sort(rng.permutation(pairs)[:1_000_000])
        user, film = pairs // 4000, pairs % 4000
        y = 3.5 + 0.4 * rng.normal(size=6000)[user] + 0.6 * rng.normal(size=4000)[film] + rng.normal(size=len(pairs))
        return pd.DataFrame({"y": y, "user": user, "film": film})
    subjects, items = (56, 32) if name == "maximal" else (40, 20)
    subject, item = np.repeat(np.arange(subjects), items), np.tile(np.arange(items), subjects)
    if name == "refit":
        y = rng.normal(size=subjects)[subject] + 0.7 * rng.normal(size=items)[item] + rng.normal(size=len(subject))
        return pd.DataFrame({"y": y, "subject": subject, "item": item})
    cell = (subject + item + rng.integers(0, 8, len(subject))) % 8
    a, b, c = (np.where(cell >> k & 1, 0.5, -0.5) for k in range(3))
    Z = np.column_stack([np.ones(len(a)), a, b, c, a * b, a * c, b * c, a * b * c])
    y = Z @ rng.normal(size=8) + rng.normal(size=len(a))
    for group, m in ((subject, subjects), (item, items)):
        y = y + np.sum(
            Z * (rng.normal(size=(m, 8)) @ (0.8 * np.tril(rng.normal(size=(8, 8)) * 0.4 + np.eye(8))))[group], 1
        )
    return pd.DataFrame({"y": y, "a": a, "b": b, "c": c, "subject": subject, "item": item})


def save_responses(data: pd.DataFrame, path: str, count: int = 4000) -> None:
    """Responses from the model that the data come from, as lme4's `simulate` draws them from its fit."""
    rng, subject, item = np.random.default_rng(1), data.subject.to_numpy(), data.item.to_numpy()
    effects = rng.normal(size=(count, 40))[:, subject] + 0.7 * rng.normal(size=(count, 20))[:, item]
    np.save(path, effects + rng.normal(size=(count, len(data))))


def runs(name: str, case: Case, path: str) -> dict[str, list[str]]:
    """Command lines of the programs."""
    names = ", ".join(f'"{factor}"' for factor in case.factors)
    known = dict(path=path, factors=case.factors, formula=case.formula, names=names, repeats=case.repeats)
    if name == "refit":
        script = REFIT.format(**known, responses=path + ".npy")
        return {
            "jaxlmm": [sys.executable, "-c", script],
            "lme4": ["Rscript", "-e", REFIT_LME4.format(**known, count=100)],
        }
    out = {
        "jaxlmm": [sys.executable, "-c", PYTHON.format(**known, **{k: v.format(**known) for k, v in JAXLMM.items()})]
    }
    if name == "insteval":  # the others take it very long
        mixedlm = {k: v.format(**known) for k, v in MIXEDLM.items()}
        out["mixedlm"] = [sys.executable, "-c", PYTHON.format(**known, **mixedlm)]
    out["lme4"] = ["Rscript", "-e", LME4.format(**known)]
    return out


def measured(name: str, insteval: str, rounds: int) -> list[list[str]]:
    """Rows of the table for a case."""
    case, rows = CASES[name], []
    with tempfile.TemporaryDirectory() as place:
        path = str(Path(place) / "data.csv")
        data = simulated(name, insteval)
        data.to_csv(path, index=False)
        if name == "refit":
            save_responses(data, path + ".npy")
        found: dict[str, list] = {}
        for _ in range(min(rounds, case.rounds)):
            for program, line in runs(name, case, path).items():
                line = ["timeout", str(PATIENCE), *line]
                result = attempt(lambda line=line: json.loads(process(line, {}).splitlines()[-1]))
                note(f"{name} {program} {result}")
                found.setdefault(program, []).append(result)
    for program, results in found.items():
        good = [r for r in results if not isinstance(r, str)]
        if not good:
            rows.append([case.title, program, f"left out: an error, or more than {PATIENCE} s", "", "", ""])
            continue
        first = statistics.median(r[0][0] for r in good)
        later = [s for r in good for s in r[0][1:]]
        again = statistics.median(later) if later else first
        if name == "refit":
            rate = good[0][1] / again
            rows.append(
                [f"{case.title}, {good[0][1]}", program, f"{first:.2f}", f"{again:.2f}", f"{rate:.0f} a second", ""]
            )
        else:
            rows.append([case.title, program, f"{first:.2f}", f"{again:.2f}", f"{good[0][1]:.5f}", f"{good[0][2]:.2f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--insteval", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name != "insteval" or options.insteval]
    rows = [row for name in names for row in measured(name, options.insteval, options.rounds)]
    load = os.getloadavg()[0]
    line = command("experiments/benchmarks/crossed.py", "--insteval")
    section = (
        f"## Python {platform.python_version()}, {datetime.date.today()}\n\n{cpu_model()}, {os.cpu_count()} cores, "
        f"load {load:.1f} at the end; {options.rounds} rounds; `{line}`\n\n"
    )
    header = ["", "program", "first, s", "later, s", "log-likelihood", "peak, GB"]
    report(INTRODUCTION, section + table(header, rows) + "\n", RESULTS if options.write else None)


if __name__ == "__main__":
    main()
