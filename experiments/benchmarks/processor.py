"""Processor time of a lane of `refit`, beside that of a fit of glmm, on interior, null and nearly singular responses.

    python experiments/benchmarks/processor.py [--sizes 1000,8000,32768]

Time of the process on all cores together, the least of five batches: other work on the machine changes it little.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _common import table

import batch
import jaxlmm

CALLS, LOOP = 5, 200
NAMES = ("unbalanced", "null", "near")


def processor(call: Callable[[], Any], calls: int = CALLS) -> float:
    """Seconds of the process, the least of some calls."""
    seconds = []
    for _ in range(calls):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return min(seconds)


def glmm_fits(workload: batch.Workload, design: Any, Y: np.ndarray) -> list[str]:
    """Milliseconds of a fit, the median of a loop; empty where glmm is not installed."""
    try:
        import glmm
    except ImportError:
        return [""]
    data = {name: value.tolist() for name, value in workload.frame(Y[0], design).items()} | {
        "g": [f"g{g}" for g in design[0]]
    }
    seconds = []
    for y in Y[:LOOP]:
        own = data | {"y": y.tolist()}
        seconds.append(processor(lambda own=own: glmm.fit(own, workload.formula, satterthwaite=False), 1))
    return [f"{1e3 * float(np.median(seconds)):.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000,8000,32768")
    sizes = [int(size) for size in parser.parse_args().sizes.split(",")]
    rows = []
    for name in NAMES:
        workload = batch.WORKLOADS[name]
        design = workload.design()
        Y = workload.responses(max(sizes), 0, design)
        fit = jaxlmm.lmm(workload.formula, workload.frame(Y[0], design))
        for size in sizes:
            fit.refit(Y[:size])
        found = fit.refit(Y)
        us = [f"{1e6 * processor(lambda fit=fit, own=Y[:b]: fit.refit(own)) / b:.1f}" for b in sizes]
        cells = [f"{found.iterations.mean():.2f}", f"{100 * found.singular.mean():.0f}", *us]
        rows.append([workload.label, *cells, *glmm_fits(workload, design, Y)])
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    us_header = [f"us a lane, B = {size:,}" for size in sizes]
    print(table(["workload", "evaluations a lane", "singular %", *us_header, "glmm ms a fit"], rows))


if __name__ == "__main__":
    main()
