"""Processor time of a lane of `refit`, by design, of two checkouts: `python experiments/benchmarks/designs.py OLD NEW`.

Every round runs a fresh process of each, one after the other; of a process the median of three batches after the first.
"""

import statistics
import sys

from _common import note, table
from two_trees import measured

ROUNDS = 3
DESIGNS = {
    "18 groups x 5 to 11 rows, q = 2": ("slopes(1)", 8000),
    "the same, q = 3": ("slopes(2)", 4000),
    "the same, q = 4": ("slopes(3)", 1000),
    "200 subjects x 4 visits, dropout, us(4)": ("trial()", 1000),
    "20 groups x 8 rows, 14 covariates": ("wide(20, 14)", 8000),
    "300 groups x 8 rows, 14 covariates": ("wide(300, 14)", 1000),
    "600 groups x 8 rows, 3 covariates": ("wide(600, 3)", 1000),
}
WORK = """
import json, statistics, time, warnings
import numpy as np
import jaxlmm
warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
def slopes(covariates):
    size = rng.integers(5, 12, 18)
    g, names = np.repeat(np.arange(18), size), list("xzw")[:covariates]
    data = {name: rng.normal(size=len(g)) for name in names} | {"g": g}
    Z = np.column_stack([np.ones(len(g)), *(data[name] for name in names)])
    effects = lambda b: rng.normal(size=(b, 18, Z.shape[1]))[:, g]
    draw = lambda b: np.einsum("nq,bnq->bn", Z, effects(b)) + rng.normal(size=(b, len(g)))
    terms = " + ".join(names)
    return f"y ~ {terms} + ({terms} | g)", data, {}, draw
def trial():
    s, t = np.repeat(np.arange(200), 4), np.tile(np.arange(4), 200)
    keep = t < rng.integers(2, 9, 200)[s]
    L = np.linalg.cholesky(0.5 + 0.5 * np.eye(4))
    data = {"t": np.array(list("abcd"))[t[keep]], "arm": np.array(["p", "q"])[s[keep] % 2], "s": s[keep]}
    draw = lambda b: (rng.normal(size=(b, 200, 4)) @ L.T).reshape(b, 800)[:, keep]
    return "y ~ arm * t", data, {"residual": "us(t | s)"}, draw
def wide(groups, covariates):
    g = np.repeat(np.arange(groups), 8)
    data = {f"x{i}": rng.normal(size=len(g)) for i in range(covariates)}
    draw = lambda b: rng.normal(size=(b, groups))[:, g] + rng.normal(size=(b, len(g)))
    return "y ~ " + " + ".join(data) + " + (1 | g)", data | {"g": g}, {}, draw
formula, data, options, draw = DESIGN
fit = jaxlmm.lmm(formula, {**data, "y": draw(1)[0]}, **options)
seconds = []
for _ in range(4):
    Y = draw(LANES)
    start = time.process_time()
    found = fit.refit(Y)
    seconds.append(time.process_time() - start)
print(json.dumps({"us": 1e6 * statistics.median(seconds[1:]) / LANES, "evaluations": float(np.mean(found.iterations))}))
"""


def main(old, new):
    rows = []
    for name, (design, lanes) in DESIGNS.items():
        work, found = WORK.replace("DESIGN", design).replace("LANES", str(lanes)), {old: [], new: []}
        for _ in range(ROUNDS):
            for tree in (old, new):
                found[tree].append(measured(tree, work))
        before, now = (statistics.median(one["us"] for one in found[tree]) for tree in (old, new))
        counts = [f"{found[tree][0]['evaluations']:.1f}" for tree in (old, new)]
        rows.append([name, *counts, f"{before:.0f}", f"{now:.0f}", f"{before / now:.1f}"])
        note(str(rows[-1]))
    print(table(["design", "evaluations before", "now", "us a lane before", "now", "ratio"], rows))


if __name__ == "__main__":
    main(*sys.argv[1:3])
