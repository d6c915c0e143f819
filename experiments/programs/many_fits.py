"""Mixed fits of random sizes, structures and engines in one process: its memory and its memory maps stay bounded.

``python experiments/programs/many_fits.py [fits] [folder]``: every third fit with summary, prediction and Kenward-Roger
tests. With a folder compiled programs are kept in it: those dropped from memory are loaded again instead of compiled.
"""

import sys
import time
import warnings
from pathlib import Path

import numpy as np

import jaxlmm
from jaxlmm.runtime.programs import PROGRAMS, memory_maps

MAPS, MEGABYTES = 10_000, 2000
MODELS = (
    ("y ~ x + (1|g)", {}),
    ("y ~ x + (x|g)", {}),
    ("y ~ x + (1|g) + (1|h)", {}),
    ("y ~ x + (1|k/g)", {}),
    ("y ~ x", {"residual": "us(v|g)"}),
    ("y ~ x", {"residual": "ar1(v|g)"}),
    ("y ~ x + ou(v|g)", {}),
    ("y ~ x + (1|k)", {"residual": "cs(v|g)"}),
    ("y ~ x + (1|g)", {"engine": "dense"}),
    ("y ~ x + (1|g)", {"engine": "marginal"}),
)


def trial(rng):
    """Columns of a trial of random size, some rows missing."""
    subjects, visits = int(rng.integers(12, 60)), int(rng.integers(3, 7))
    n = subjects * visits
    subject = np.repeat(np.arange(subjects), visits)
    columns = {
        "g": subject,
        "k": subject % int(rng.integers(3, 6)),
        "h": rng.integers(0, int(rng.integers(4, 9)), n),
        "v": np.tile(np.arange(visits), subjects),
        "x": rng.normal(size=n),
    }
    columns["y"] = columns["x"] + rng.normal(size=subjects)[subject] + rng.normal(size=n)
    keep = np.sort(rng.permutation(n)[: int(0.95 * n)])
    return {name: column[keep] for name, column in columns.items()}


def megabytes():
    """Resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))


def main(fits=5000, folder=None):
    warnings.simplefilter("ignore")
    if folder:
        jaxlmm.enable_compilation_cache(folder)
    rng, start, most = np.random.default_rng(0), time.time(), np.zeros(2, int)
    refused = 0
    for i in range(1, fits + 1):
        formula, options = MODELS[rng.integers(len(MODELS))]
        data = trial(rng)
        try:
            fit = jaxlmm.lmm(formula, data, **options)
            if i % 3 == 0:
                str(fit.summary())
                fit.predict({name: column[:4] for name, column in data.items()}, interval="prediction")
                fit.anova(df="kenward-roger")
        except jaxlmm.JaxlmmError:  # no optimum, or the tests are not defined on the boundary
            refused += 1
        most = np.maximum(most, (memory_maps(), megabytes()))
        if i % max(fits // 20, 1) == 0:
            seconds = round(time.time() - start)
            print(f"| {i} | {memory_maps()} | {megabytes()} | {len(PROGRAMS)} | {seconds} |", flush=True)
    print(f"{fits} fits ({refused} refused): at most {most[0]} memory maps and {most[1]} MB")
    if most[0] > MAPS or most[1] > MEGABYTES:
        sys.exit(f"expected at most {MAPS} memory maps and {MEGABYTES} MB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:3])
