"""Prediction errors of the rows of a fit, and influence, with crossed factors: by levels, and by a solution a row.

``python experiments/inference/crossed_errors.py > experiments/results/crossed_errors.md``. Both sides are of one run:
without levels to go by, the package takes the solutions. Rows are of random subjects with random items.
"""

import time

import numpy as np

import jaxlmm
from jaxlmm.inference.robust import equations

SIZES = ((6000, 200, 40, "(1 | subject) + (1 | item)"), (24578, 600, 60, "(1 | subject) + (1 | item)"))
INFLUENCE = ((1500, 100, 30, "(1 | subject) + (1 | item)"),)
COLUMNS = ("std_error", "df")


def data(n, subjects, items):
    rng = np.random.default_rng(1)
    subject, item, x = rng.integers(0, subjects, n), rng.integers(0, items, n), rng.normal(size=n)
    effects = rng.normal(size=(subjects, 2)) * (1.0, 0.3)
    y = effects[subject, 0] + (0.5 + effects[subject, 1]) * x + 0.7 * rng.normal(size=items)[item] + rng.normal(size=n)
    return {"subject": [f"s{k}" for k in subject], "item": [f"i{k}" for k in item], "x": x, "y": y}


def both(sizes, call, values):
    """Seconds of the first call by levels and by rows, and the largest relative difference of values."""
    n, subjects, items, random = sizes
    rows, found, spent, limit = data(n, subjects, items), [], [], equations.DIGITS
    for digits in (limit, 0.0):  # the second: as if no digits were left by levels
        fit = jaxlmm.lmm(f"y ~ x + {random}", rows)
        _ = fit.summary()
        equations.DIGITS = digits
        start = time.perf_counter()
        found.append(values(call(fit)))
        spent.append(time.perf_counter() - start)
        equations.DIGITS = limit
    gap = max(float(np.max(np.abs(a - b) / np.maximum(np.abs(b), 1e-300))) for a, b in zip(*found, strict=True))
    return spent[1], spent[0], gap


def main() -> None:
    print("# Errors of rows with crossed factors\n")
    print("Seconds of the first call on a fit, compiling included; both ways in one run.\n")
    print("| what | rows | subjects, items | a solution a row | by levels | ratio | relative difference |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    tasks = [("predict(interval='prediction')", s, lambda f: f.predict(interval="prediction"),
              lambda p: [np.asarray(p[c]) for c in COLUMNS]) for s in SIZES]  # fmt: skip
    tasks += [("influence(exact='none')", s, lambda f: f.influence(exact="none"),
               lambda i: [i.cooks, i.leverage, i.leverage_conditional]) for s in INFLUENCE]  # fmt: skip
    for name, sizes, call, values in tasks:
        before, after, gap = both(sizes, call, values)
        n, subjects, items, random = sizes
        what = f"`{name}`, `{random}`".replace("|", "\\|")
        print(f"| {what} | {n} | {subjects}, {items} | {before:.1f} | {after:.2f} | {before / after:.0f} | {gap:.0e} |",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
