"""Many responses to one design with crossed factors: `refit` of them all, or a loop over the first ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from _common import one_thread, process
from _programs import Problem, result_of

LOOP, COMPARED = 40, 10  # responses of a loop, and those whose log-likelihoods are compared

JAXLMM = """
import json, time
import jaxlmm, numpy as np, pandas as pd
data = pd.read_csv({path!r}, dtype=dict.fromkeys({factors!r}, str))
Y = np.load({responses!r})
fit = jaxlmm.lmm({formula!r}, data)
seconds = []
for _ in range(4):
    start = time.perf_counter()
    found = fit.refit(Y)
    seconds.append(time.perf_counter() - start)
later = [float(np.median(seconds[1:])) / len(Y)]
print("RESULT" + json.dumps({{"first": seconds[0], "later": later, "logliks": found.loglik[:{compared}].tolist()}}))
"""
MIXEDLM = """
import json, time
import numpy as np, pandas as pd
from mixedlm import lmer
data = pd.read_csv({path!r}, dtype=dict.fromkeys({factors!r}, str))
fit = lmer({formula!r}, data)
seconds, logliks = [], []
for y in np.load({responses!r})[:{loop}]:
    start = time.perf_counter()
    found = fit.refit(y)
    seconds.append(time.perf_counter() - start)
    logliks.append(float(found.logLik().value))
later = [float(np.median(seconds))]
print("RESULT" + json.dumps({{"first": None, "later": later, "logliks": logliks[:{compared}]}}))
"""
GLMM = """
import json, time
import glmm, numpy as np, pandas as pd
data = pd.read_csv({path!r}, dtype=dict.fromkeys({factors!r}, str)).to_dict("list")
seconds, logliks = [], []
for y in np.load({responses!r})[:{loop}]:
    start = time.perf_counter()
    found = glmm.fit(data | {{"y": y}}, {formula!r}, satterthwaite=False)
    seconds.append(time.perf_counter() - start)
    logliks.append(float(found.loglik))
later = [float(np.median(seconds))]
print("RESULT" + json.dumps({{"first": None, "later": later, "logliks": logliks[:{compared}]}}))
"""
# `refit` of a REML fit minimises with n - 1 in the place of n - p (lme4 1.1-31), so values are those of `lmer`.
LME4 = """
suppressMessages(library(lme4))
data <- read.csv({path}); for (name in c({names})) data[[name]] <- factor(data[[name]])
Y <- as.matrix(read.csv({csv}, header=FALSE))
control <- lmerControl(calc.derivs=FALSE)
quiet <- function(x) suppressMessages(suppressWarnings(x))
fit <- lmer({formula}, data, control=control)
now <- function() as.numeric(Sys.time())
seconds <- sapply(seq_len(nrow(Y)), function(i) {{
    start <- now(); quiet(refit(fit, as.numeric(Y[i, ]))); now() - start }})
logliks <- sapply(seq_len({compared}), function(i) {{
    data$y <- as.numeric(Y[i, ]); as.numeric(logLik(quiet(lmer({formula}, data, control=control)))) }})
cat(sprintf('RESULT{{"first": null, "later": [%.6f], "logliks": [%s]}}\\n', median(seconds),
    paste(sprintf("%.10f", logliks), collapse=", ")))
"""


def write_responses(folder: Path, Y: np.ndarray) -> None:
    """All of them for Python, the first ones for R."""
    np.save(folder / "responses.npy", Y)
    np.savetxt(folder / "responses.csv", Y[:LOOP], delimiter=",", fmt="%.17g")


def run(system: str, problem: Problem, folder: Path, limit: float) -> dict[str, Any]:
    """`folder` has the design in data.csv, and what `write_responses` writes."""
    path, known = folder / "data.csv", dict(formula=problem.formula, compared=COMPARED, loop=LOOP)
    if system == "lme4":
        names = ", ".join(f'"{name}"' for name in problem.factors)
        csv = json.dumps(str(folder / "responses.csv"))
        code = LME4.format(path=json.dumps(str(path)), csv=csv, names=names, **known)
        return result_of(process(["Rscript", "-e", code], one_thread(), limit))
    template = {"jaxlmm": JAXLMM, "glmm": GLMM, "mixedlm": MIXEDLM}[system]
    code = template.format(path=str(path), responses=str(folder / "responses.npy"), factors=problem.factors, **known)
    more = {"JAX_PLATFORMS": "cpu"} if system == "jaxlmm" else one_thread()
    return result_of(process([sys.executable, "-c", code], more, limit))
