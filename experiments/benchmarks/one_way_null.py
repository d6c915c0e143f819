"""A million fits of a one-way model whose variance between groups is zero: from a fit, and as a study on disk.

python experiments/benchmarks/one_way_null.py [--fits 1000000] [--out one_way_null.md]
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import cpu_model, table, written

import jaxlmm
from jaxlmm.study import Estimator, MixedModel, Study, Target, run

MODEL, GROUPS, SIZE, GOAL = "y ~ 1 + (1 | g)", 18, 10, 15.0

TEXT = """# A million fits under the null of a one-way model

{where}

{groups} groups of {size} rows, no variance between groups: REML, its optimum at zero in more than half of the data
sets. "bootstrap" is `fit.bootstrap` of a fit at zero: drawn and fitted, all estimates kept in memory, in the process
that asks. "study" is `jaxlmm.study.run` with two worker processes: drawn row by row, fitted, Wald's z and the standard
deviation of each data set on disk, the workers' start and their compiling included. Both after a tenth as many that
compile what the process itself needs. Seconds of CPU are those of all threads and workers; on two cores the clock shows
half of them at best, and {goal:g} s were asked for. The clock's seconds are those of the load that stands beside them.

{found}
"""


def cpu() -> float:
    """Seconds of CPU of this process and of those that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def measured(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds by the clock and of CPU, and the result."""
    wall, processor = time.perf_counter(), cpu()
    found = call()
    return time.perf_counter() - wall, cpu() - processor, found


def fit_at_zero() -> Any:
    g, rng = np.repeat(np.arange(GROUPS), SIZE), np.random.default_rng(1)
    y = rng.standard_normal(GROUPS * SIZE)
    y -= (np.bincount(g, y) / SIZE)[g]  # no differences between groups: the estimate is zero
    return jaxlmm.lmm(MODEL, {"y": y, "g": g})


def study(fits: int) -> Study:
    return Study(
        design={"g": np.repeat(np.arange(GROUPS), SIZE)}, generate=MixedModel(MODEL, {}, {"g": 0.0, "residual": 1.0}),
        estimators=[Estimator("mixed", MODEL, df="asymptotic")],
        targets={"(Intercept)": 0.0, "sd": Target(0.0, of="sd_(Intercept)|g")}, replicates=fits, chunk=10_000, seed=1,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fits", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    fit, n = fit_at_zero(), options.fits
    fit.bootstrap(n // 10, seed=2, progress=False)  # compiled now
    wall, processor, found = measured(lambda: fit.bootstrap(n, seed=1, progress=False))
    fits, zero = found.fits, np.mean(found.fits.covariances[0][:, 0, 0] == 0.0)
    rows = [["bootstrap", wall, processor, fits.converged.mean(), zero, f"{fits.iterations.mean():.1f}"]]
    print(rows, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        wall, processor, results = measured(lambda: run(study(n), folder, "processes", 2))
        parts = [part for _, part in results.parts()]
    row = results.row("mixed", "estimate", "sd")
    zero = np.mean(np.concatenate([part["estimate"][row] for part in parts]) == 0.0)
    converged = np.mean(np.concatenate([part["converged"][row] for part in parts]))
    rows.append(["study", wall, processor, converged, zero, ""])
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("jax", "jaxlib", "numpy"))
    load = ", ".join(f"{x:.0f}" for x in os.getloadavg())
    header = [f"{n:,} fits", "s of CPU", "half of it", "us of CPU a fit", "clock s", "converged %", "at zero %",
              "evaluations a fit"]  # fmt: skip
    text = TEXT.format(
        where=f"{datetime.date.today()}, {cpu_model()}, {os.cpu_count()} cores, load {load}, Python "
        f"{platform.python_version()}, {versions}.",
        groups=GROUPS, size=SIZE, goal=GOAL, found=table(header, [
            [name, f"{p:.1f}", f"{p / 2:.1f}", f"{1e6 * p / n:.2f}", f"{w:.0f}", f"{100 * c:.3f}", f"{100 * z:.1f}", e]
            for name, w, p, c, z, e in rows
        ]),
    )  # fmt: skip
    written(text, options.out)


if __name__ == "__main__":
    main()
