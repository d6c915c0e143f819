"""How time and memory grow: with rows by engine, with groups, effects a group, visits, and fits in a batch.

    python experiments/benchmarks/growth.py [--curves grouped,crossed,...] [--write]

A curve is a process that fits data of growing size twice; the second fit, of another response, is timed, from the data
in memory to the estimates. Seconds are those of all processors together, which other work on the machine changes least.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import ROOT, command, cpu_model, environment, note, report, table

ENOUGH = 1e7  # bytes by which data grow, below which memory is that of compiling
RESULTS = ROOT / "experiments" / "results" / "growth.md"
INTRODUCTION = """# How time and memory grow

Every line is a curve: sizes from the first to the last, seconds of processors at both (a whole `lmm` of data in memory,
compiled before; all processors together), the exponent between the last two sizes, and by how much the peak of memory
grows between the last two sizes, in units of the growth of the data's columns (empty where data are small).

"""


class Curve(NamedTuple):
    """Data of a size, how they are fitted, and the sizes."""

    what: str
    sizes: tuple[int, ...]
    data: Callable[[int, np.random.Generator], dict[str, np.ndarray]]
    formula: str | Callable[[int], str]
    options: dict[str, Any] = {}


def normal(rng: np.random.Generator, codes: np.ndarray) -> np.ndarray:
    """A draw of effects, one a level, by row."""
    return rng.normal(size=codes.max() + 1)[codes]


def in_groups(n: int, rng: np.random.Generator, groups: int, q: int = 2) -> dict[str, np.ndarray]:
    """Rows of groups with q effects."""
    g = np.arange(n, dtype=np.int32) % groups
    x = {f"x{j}": rng.normal(size=n) for j in range(1, q)}
    y = rng.normal(size=n) + normal(rng, g) + sum(0.5 * normal(rng, g) * v for v in x.values())
    return {"y": y, "g": g, **x}


def met(n: int, rng: np.random.Generator, first: int, second: int) -> dict[str, np.ndarray]:
    """Rows of two crossed factors with skewed counts."""
    a, b = ((m * rng.beta(0.6, 1.6, n)).astype(np.int32) for m in (first, second))
    return {"y": rng.normal(size=n) + normal(rng, a) + normal(rng, b), "a": a, "b": b}


def visits(n: int, rng: np.random.Generator, T: int) -> dict[str, np.ndarray]:
    """Patients with T visits."""
    g, t = np.divmod(np.arange(n, dtype=np.int32), T)
    return {"y": rng.normal(size=n) + normal(rng, g), "g": g, "t": t}


ROWS = tuple(10**k for k in (4, 5, 6))
CURVES = {
    "grouped": Curve("n, grouped: x1 by g, n / 10 groups", ROWS, lambda n, r: in_groups(n, r, n // 10),
                     "y ~ x1 + (x1 | g)"),
    "crossed": Curve("n, crossed: 500 x 100 levels", ROWS, lambda n, r: met(n, r, 500, 100),
                     "y ~ 1 + (1 | a) + (1 | b)", {"engine": "crossed"}),
    "iterative": Curve("n, iterative: n / 100 x n / 200 levels", ROWS, lambda n, r: met(n, r, n // 100, n // 200),
                       "y ~ 1 + (1 | a) + (1 | b)", {"engine": "iterative"}),
    "marginal": Curve("n, marginal: ar1 of 5 visits", (10**4, 10**5), lambda n, r: visits(n, r, 5),
                      "y ~ t", {"residual": "ar1(t | g)"}),
    "none": Curve("n, no random effects", ROWS, lambda n, r: in_groups(n, r, 10), "y ~ x1", {"residual": "iid()"}),
    "groups": Curve("groups, 1e5 rows: x1 by g", (10**2, 10**3, 10**4), lambda m, r: in_groups(10**5, r, m),
                    "y ~ x1 + (x1 | g)"),
    "effects": Curve("q, 2e4 rows in 1000 groups", (1, 2, 4, 8), lambda q, r: in_groups(20_000, r, 1000, q),
                     lambda q: f"y ~ 1 + ({' + '.join(['1', *(f'x{j}' for j in range(1, q))])} | g)"),
    "visits": Curve("T, 1000 patients: us by visit", (3, 6, 12), lambda T, r: visits(1000 * T, r, T), "y ~ t",
                    {"residual": "us(t | g)"}),
    "batch": Curve("B, fits of 18 groups of 10 rows: x1 by g", (10**2, 10**3, 10**4),
                   lambda B, r: in_groups(180, r, 18), "y ~ x1 + (x1 | g)"),
}  # fmt: skip


def one(name: str) -> list[dict[str, float]]:
    """The points of a curve, in this process."""
    import resource

    import jaxlmm

    def memory() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1e3

    curve, out = CURVES[name], []
    for size in curve.sizes:
        seconds = 0.0
        for again in range(2):
            data = curve.data(size, np.random.default_rng(0))
            data["y"] = data["y"] + again * np.random.default_rng(1).normal(size=len(data["y"]))
            formula = curve.formula if isinstance(curve.formula, str) else curve.formula(size)
            if name == "batch":
                Y = np.random.default_rng(2).normal(size=(size, 180)) + data["y"]
                fit, kept = jaxlmm.lmm(formula, data), Y.nbytes
                start = time.process_time()
                fit.refit(Y, progress=False)
            else:
                kept = sum(column.nbytes for column in data.values())
                start = time.process_time()
                jaxlmm.lmm(formula, data, **curve.options)
            seconds = time.process_time() - start
        out.append({"size": size, "seconds": seconds, "memory": memory(), "data": float(kept)})
        note(f"{name} {json.dumps(out[-1])}")
    return out


def line(curve: Curve, points: list[dict[str, float]]) -> list[str]:
    """A row of the table."""
    first, (before, last) = points[0], points[-2:]
    exponent = np.log(last["seconds"] / before["seconds"]) / np.log(last["size"] / before["size"])
    more, data = (last[key] - before[key] for key in ("memory", "data"))
    return [
        curve.what, f"{first['size']:g} - {last['size']:g}", f"{first['seconds']:.2f}", f"{last['seconds']:.2f}",
        f"{exponent:.2f}", f"{more / data:.1f}" if data > ENOUGH else "",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", default=",".join(CURVES))
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one)))
        return
    rows = []
    for name in options.curves.split(","):
        start = [sys.executable, str(Path(__file__)), "--one", name]
        ended = subprocess.run(start, stdout=subprocess.PIPE, text=True, env=environment())
        if ended.returncode:
            note(f"{name}: failed")
            continue
        rows.append(line(CURVES[name], json.loads(ended.stdout.splitlines()[-1])))
        note(" | ".join(rows[-1]))
    header = ["curve", "sizes", "first, s", "last, s", "exponent", "memory / data"]
    said = command("experiments/benchmarks/growth.py")
    head = f"## Python {platform.python_version()}, {datetime.date.today()}\n\n{cpu_model()}; `{said}`\n\n"
    report(INTRODUCTION, head + table(header, rows) + "\n", RESULTS if options.write else None)


if __name__ == "__main__":
    main()
