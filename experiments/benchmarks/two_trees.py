"""Speed of two checkouts of the package, side by side: `python experiments/benchmarks/two_trees.py OLD NEW [rounds]`.

Every round runs a fresh process of each, one after the other, so that what else the machine does meets both. Printed
are medians and their ratio: importing, first fits (compiling included), the same again (of a process the median of 20,
of batches of 5), and a batch.
"""

import json
import os
import statistics
import subprocess
import sys

WORK = """
import json, statistics, time
start = time.perf_counter()
import jaxlmm
found = {"import": time.perf_counter() - start}
def timed(name, work, times=1):
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        out = work()
        seconds.append(time.perf_counter() - start)
    found[name] = statistics.median(seconds)
    return out
sleep, fev = (jaxlmm.datasets.load(name) for name in ("sleepstudy", "fev_data"))
def slopes():
    fit = jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", sleep)
    str(fit.summary())
    return fit
def trial():
    fit = jaxlmm.lmm("FEV1 ~ RACE + ARMCD * AVISIT", fev, residual="us(AVISIT | USUBJID)")
    str(fit.anova(df="kenward-roger"))
fit = timed("random slopes and summary, first", slopes)
timed("random slopes and summary, again", slopes, 20)
timed("trial and Kenward-Roger, first", trial)
timed("trial and Kenward-Roger, again", trial, 20)
predicted = {"Days": [3.0], "Subject": ["308"]}
timed("prediction with errors, first", lambda: fit.predict(predicted, interval="prediction"))
timed("prediction with errors, again", lambda: fit.predict(predicted, interval="prediction"), 20)
Y = fit.simulate(5000, seed=1)
timed("5000 refits, first", lambda: fit.refit(Y, progress=False))
timed("5000 refits, again", lambda: fit.refit(Y, progress=False), 5)
print(json.dumps(found))
"""


def measured(tree, work=WORK):
    """Seconds of each step in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": tree}
    command = [sys.executable, "-c", work]  # which looks for packages where it is run first
    done = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(old, new, rounds=5):
    found = {old: [], new: []}
    for _ in range(int(rounds)):
        for tree in (old, new):
            found[tree].append(measured(tree))
    print("| seconds, medians | old | new | new / old |\n|---|--:|--:|--:|")
    for name in found[old][0]:
        a, b = (statistics.median(one[name] for one in found[tree]) for tree in (old, new))
        print(f"| {name} | {a:.4g} | {b:.4g} | {b / a:.2f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
