"""Type-I error, power and coverage in stepped wedges with and without anticipation (Wang et al. 2025, Tables 3 and 7).

python experiments/reproductions/wang2025.py [--replicates 2000] [--dir study] [--out wang2025.md]
"""

from __future__ import annotations

import numpy as np
from _reproduce import decimals, main, table

from jaxlmm.study import Estimator, MixedModel, Results, Study, Target, designs

CLUSTERS, PERIODS, SIZE, SD, THEIRS = 32, 9, 100, 0.141, 2000
HH, ANT = "y ~ treated + period + (1 | cluster)", "y ~ treated + ahead + period + (1 | cluster)"
MODELS = {"HH": HH, "HH-ANT": ANT}
CELLS = [(0.0, 0.0), (0.06, 0.0), (0.075, 0.04)]
# percent of 2000 data sets, from the estimates and errors that the authors keep with their programs
PUBLISHED = {
    (0, "type1_error"): {("HH", "treated"): 4.50, ("HH-ANT", "treated"): 4.45, ("HH-ANT", "ahead"): 5.40},
    (1, "power"): {("HH", "treated"): 84.65, ("HH-ANT", "treated"): 71.35},
    (2, "coverage"): {("HH", "treated"): 79.85, ("HH-ANT", "treated"): 95.55, ("HH-ANT", "ahead"): 94.60},
}  # fmt: skip
# mean and standard deviation of the estimates, mean of their standard errors
MOMENTS = {(0, "HH", "treated"): (0.00009, 0.02015, 0.02026), (0, "HH-ANT", "treated"): (0.00002, 0.02394, 0.02399),
           (0, "HH-ANT", "ahead"): (-0.00014, 0.02217, 0.02239)}  # fmt: skip


def design() -> dict[str, np.ndarray]:
    """The wedge, and who is treated from the next period on."""
    data = designs.stepped_wedge(CLUSTERS, PERIODS, SIZE)
    ahead = data["cell"] % PERIODS == data["cluster"] % (PERIODS - 1)
    return {**data, "ahead": ahead.astype(float)}


def make(replicates: int) -> Study:
    return Study(
        design=design, grid=[{"effect": effect, "before": before} for effect, before in CELLS],
        generate=MixedModel(ANT, {"treated": "effect", "ahead": "before"}, {"cluster": SD**2, "residual": 1.0}),
        estimators=[Estimator(name, formula, df="asymptotic") for name, formula in MODELS.items()],
        targets={"treated": Target("effect"), "ahead": Target("before")},
        replicates=replicates, chunk=min(replicates, 250), seed=2025, name="stepped wedge with anticipation",
    )  # fmt: skip


TEXT = """# Stepped wedges: type-I error, power, coverage

{{where}} {{command}}

Wang, Chen, Courtright, Halpern, Harhay, Taljaard & Li (2025), On anticipation effect in stepped wedge cluster
randomized trials, arXiv 2504.08158, Table 7 (type-I error and power) and two models of Table 3 (coverage); "published"
is computed as the authors do from the estimates and standard errors of every data set, which they keep with their
programs (github.com/haowangbiostat/anticipation_swcrt, simulations I and II).

{clusters} clusters change over at {steps} steps, {size} people in each of {periods} periods, standard deviation of
clusters {sd:g}, of residuals 1; REML, Wald's z at 5 %. HH: `{hh}`; HH-ANT: with a coefficient for
the period before the change. {theirs:,} data sets there, {replicates:,} here; percent, Monte Carlo standard errors in
brackets. Of {number} differences the largest |z| is {far:.1f}.

{rates}

Estimates without effects: mean, standard deviation, average standard error, times 1000.

{moments}
"""


def document(results: Results, replicates: int) -> str:
    summary, rows, apart = results.summary(), [], []
    for (cell, measure), published in PUBLISHED.items():
        for (model, target), theirs in published.items():
            value, mcse = (100.0 * m[cell] for m in summary.measure(measure, model, "asymptotic", target))
            error = np.sqrt(theirs * (100.0 - theirs) / THEIRS)
            apart.append((value - theirs) / np.hypot(error, mcse))
            effect, before = CELLS[cell]
            rows.append([f"{effect:g}", f"{before:g}", measure.replace("1_", "-I "), model, target,
                         decimals(theirs, error, 2), decimals(value, mcse, 2), f"{apart[-1]:.1f}"])  # fmt: skip
    moments = []
    for (cell, model, target), theirs in MOMENTS.items():
        named = (summary.measure(m, model, "asymptotic", target) for m in ("bias", "empirical_se", "model_se"))
        found = [decimals(1000 * v[cell], 1000 * e[cell], 2) for v, e in named]
        pairs = ((f"{1000 * t:.2f}", f) for t, f in zip(theirs, found, strict=True))
        moments.append([model, target, *(x for pair in pairs for x in pair)])
    return TEXT.format(
        clusters=CLUSTERS, steps=PERIODS - 1, size=SIZE, periods=PERIODS, sd=SD, hh=HH, theirs=THEIRS,
        replicates=replicates, number=len(apart), far=np.abs(apart).max(),
        rates=table(["effect", "before", "", "model", "coefficient", "published", "study", "z"], rows),
        moments=table(["model", "coefficient", *(f"{m}{w}" for m in ("mean", "SD", "SE") for w in (", published", ""))],
                      moments),
    )  # fmt: skip


if __name__ == "__main__":
    main("wang2025", 2000, make, document)
