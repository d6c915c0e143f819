"""One model on one CSV file, fitted by any of the systems in a process of its own: first fit and later ones.

A program reads the file, fits, and fits again other responses of the same shape (the first one with noise), each from
formula and data frame to the fit, until there are `repeats` fits or the later ones have taken `budget` seconds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import one_thread, process, seconds_of

NOISE = 0.1  # standard deviation of what is added to later responses, in units of their own
PATIENCE = 5.0  # seconds of a first fit above which peers have no later one; jaxlmm compiles in its first and has one
R_SYSTEMS = ("lme4", "nlme", "glmmTMB", "mmrm")


@dataclass(frozen=True)
class Problem:
    """A model of the columns of a CSV file.

    `random` has pairs (columns, factor), as in ``(columns | factor)``; `visits` is "visit | subject" of an
    unstructured residual covariance.
    """

    response: str
    fixed: str
    random: tuple[tuple[str, str], ...] = ()
    factors: tuple[str, ...] = ()
    visits: str = ""

    @property
    def formula(self) -> str:
        return " + ".join([f"{self.response} ~ {self.fixed}", *(f"({c} | {f})" for c, f in self.random)])

    @property
    def marginal(self) -> str:
        return f"{self.response} ~ {self.fixed}"


def systems_for(problem: Problem) -> tuple[str, ...]:
    """Who can fit it, by a documented function for that kind of model."""
    if problem.visits:
        return ("jaxlmm", "nlme", "glmmTMB", "mmrm")
    systems = ["jaxlmm", "glmm", "mixedlm", "lme4", "glmmTMB"]
    if len(problem.random) == 1:
        systems.append("nlme")
        if "/" not in problem.random[0][1]:
            systems.append("statsmodels")
    return tuple(systems)


PYTHON = """
import json, time, warnings
import numpy as np
import pandas as pd
{imports}
warnings.simplefilter("ignore")
data = pd.read_csv({path!r}, dtype=dict.fromkeys({factors!r}, str))
original = data[{response!r}].to_numpy(copy=True)
scale, rng = {noise} * np.nanstd(original), np.random.default_rng(1)
def fit(data):
    return {call}
seconds, failed = [], 0
for i in range({repeats}):
    if i:
        data[{response!r}] = original + rng.normal(0, scale, len(original))
    start = time.perf_counter()
    try:
        fitted = fit(data)
        seconds.append(time.perf_counter() - start)
    except Exception:
        if not i:
            raise
        failed += 1
    if not i:
        loglik = float({loglik})
        {show}
        begun = time.perf_counter()
    if seconds[0] > {patience} or (i and time.perf_counter() - begun > {budget}):
        break
print("RESULT" + json.dumps({{"first": seconds[0], "later": seconds[1:], "logliks": [loglik], "failed": failed}}))
"""
R = """
suppressMessages(library({package}))
data <- read.csv({path}, stringsAsFactors=TRUE)
data <- data[!is.na(data${response}), ]
for (name in c({factors})) data[[name]] <- factor(data[[name]])
{more}
original <- data${response}
scale <- {noise} * sd(original); set.seed(1)
fit <- function(data) suppressMessages(suppressWarnings({call}))
now <- function() as.numeric(Sys.time())
seconds <- c(); failed <- 0
for (i in seq_len({repeats})) {{
    if (i > 1) data${response} <- original + rnorm(length(original), 0, scale)
    start <- now()
    fitted <- if (i > 1) tryCatch(fit(data), error=function(e) NULL) else fit(data)
    if (is.null(fitted)) failed <- failed + 1 else seconds <- c(seconds, now() - start)
    if (i == 1) {{ loglik <- as.numeric(logLik(fitted)); {show}; begun <- now() }}
    if (seconds[1] > {patience} || (i > 1 && now() - begun > {budget})) break
}}
cat(sprintf('RESULT{{"first": %.6f, "later": [%s], "logliks": [%.10f], "failed": %d}}\\n', seconds[1],
    paste(sprintf("%.6f", seconds[-1]), collapse=", "), loglik, failed))
"""
IMPORTS = {
    "jaxlmm": "import jaxlmm",
    "glmm": "import glmm",
    "mixedlm": "from mixedlm import lmer",
    "statsmodels": "import statsmodels.formula.api as smf",
}
LOGLIKS = {
    "jaxlmm": "fitted.loglik",
    "glmm": "fitted.loglik",
    "mixedlm": "fitted.logLik().value",
    "statsmodels": "fitted.llf",
}


def call_of(system: str, problem: Problem) -> str:
    """The expression that fits `data`, in the language of the system."""
    formula, marginal = problem.formula, problem.marginal
    visit, _, subject = (word.strip() for word in problem.visits.partition("|"))
    columns, factor = problem.random[0] if problem.random else ("", "")
    if system == "jaxlmm":
        return f"jaxlmm.lmm({formula!r}, data" + (f", residual='us({problem.visits})')" if visit else ")")
    if system == "glmm":
        return f"glmm.fit(data, {formula!r}, satterthwaite=False)"
    if system == "mixedlm":
        return f"lmer({formula!r}, data)"
    if system == "statsmodels":
        return f"smf.mixedlm({marginal!r}, data, groups={factor!r}, re_formula={'~' + columns!r}).fit(reml=True)"
    if system == "lme4":
        return f"lmer({formula}, data, control=lmerControl(calc.derivs=FALSE))"
    if system == "mmrm":
        return f"mmrm({marginal} + us({problem.visits}), data)"
    if system == "glmmTMB" and visit:
        return f"glmmTMB({marginal} + us(0 + {problem.visits}), data, dispformula=~ 0, REML=TRUE)"
    if system == "glmmTMB":
        return f"glmmTMB({formula}, data, REML=TRUE)"
    if visit:
        return (
            f"gls({marginal}, data, correlation=corSymm(form=~ visit | {subject}), method='REML', "
            f"weights=varIdent(form=~ 1 | {visit}), control=glsControl(maxIter=500, msMaxIter=500))"
        )
    return f'lme({marginal}, data, random=~ {columns} | {factor}, method="REML")'


def command_of(
    system: str, problem: Problem, path: Path, repeats: int, budget: float, start: str = "", show: bool = False
) -> list[str]:
    """The command line; `start` is code for after the imports, `show` prints the summary."""
    known: dict[str, Any] = dict(
        response=problem.response, noise=NOISE, call=call_of(system, problem), repeats=repeats, budget=budget,
        patience=1e9 if system == "jaxlmm" else PATIENCE,
    )  # fmt: skip
    if system in R_SYSTEMS:
        factors = ", ".join(f'"{name}"' for name in problem.factors)
        shown = "print(summary(fitted))" if show else ""
        visit = problem.visits.partition("|")[0].strip()
        more = f"data$visit <- as.integer(data${visit})" if visit else ""
        code = R.format(package=system, path=json.dumps(str(path)), factors=factors, show=shown, more=more, **known)
        return ["Rscript", "-e", code]
    code = PYTHON.format(
        imports=IMPORTS[system] + "\n" + start, path=str(path), factors=problem.factors, loglik=LOGLIKS[system],
        show="print(fitted.summary())" if show else "", **known,
    )  # fmt: skip
    return [sys.executable, "-c", code]


def result_of(printed: str) -> dict[str, Any]:
    return json.loads(printed.rpartition("RESULT")[2])


def run(command: Sequence[str], system: str, limit: float) -> dict[str, Any]:
    """What the process found, and how long it took from start to end (`process`).

    BLAS gets one thread in mixedlm and statsmodels, which are several times slower with more; the others have what they
    come with (glmm has one thread).
    """
    more = one_thread() if system in ("mixedlm", "statsmodels") else {"JAX_PLATFORMS": "cpu"}
    seconds, printed = seconds_of(lambda: process(command, more, limit))
    return {**result_of(printed), "process": seconds}
