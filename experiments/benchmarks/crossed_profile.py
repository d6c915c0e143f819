"""Processor seconds of single fits of large models, first and again, in one process for this source tree.

    PYTHONPATH=tree python experiments/benchmarks/crossed_profile.py insteval|maximal|q8|ratings [fits]

Processor time of all threads, not the clock: old and new trees can be compared where other work shares the cores.
"""

from __future__ import annotations

import os
import resource
import sys
import time

import _data
import numpy as np
import pandas as pd

import jaxlmm
from jaxlmm.fitting import estimate

SLOPES = "+".join(f"x{j}" for j in range(1, 8))
WORKLOADS = {
    "insteval": (_data.insteval, "y ~ service + (1|s) + (1|d) + (1|dept)", ("s", "d", "dept")),
    "maximal": (_data.maximal, "y ~ a*b*c + (a*b*c|subject) + (a*b*c|item)", ("subject", "item")),
    "q8": (lambda: _data.grouped(200, 20, 8), f"y ~ {SLOPES} + ({SLOPES}|g)", ("g",)),
    "ratings": (_data.ratings, "y ~ 1 + (1|user) + (1|film)", ("user", "film")),
}


def usage() -> tuple[float, float]:
    """Processor seconds and peak memory in gigabytes."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6


def main(name: str, fits: int = 3) -> None:
    """Fit, and fit again with responses moved by rounding."""
    columns, formula, factors = WORKLOADS[name]
    data = pd.DataFrame(columns()).astype(dict.fromkeys(factors, int)).astype(dict.fromkeys(factors, "category"))
    rng, spent = np.random.default_rng(0), []
    evaluator = estimate.evaluator

    def counting(*args, **kwargs):
        evaluate = evaluator(*args, **kwargs)

        def timed(s):
            begin = usage()[0]
            found = evaluate(s)
            spent.append(usage()[0] - begin)
            return found

        return timed

    estimate.evaluator = counting
    for number in range(fits):
        spent.clear()
        begin, clock = usage()[0], time.perf_counter()
        fit = jaxlmm.lmm(formula, data)
        cpu, wall = usage()[0] - begin, time.perf_counter() - clock
        took = f"cpu {cpu:.2f} s, wall {wall:.2f} s, {len(spent)} evaluations of {np.median(spent):.3f} s cpu"
        machine = f"peak {usage()[1]:.2f} GB, load {os.getloadavg()[0]:.0f}"
        print(f"{name} fit {number + 1}: {took}, loglik {fit.loglik:.9f}, {machine}", flush=True)
        data["y"] += 1e-9 * rng.normal(size=len(data))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
