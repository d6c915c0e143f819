"""Sizes of two groups for a difference of slopes (Diggle, Heagerty, Liang & Zeger 2002, page 29): is their power 80 %?

python experiments/reproductions/diggle2002.py [--replicates 2000] [--dir study] [--out diggle2002.md]
"""

from __future__ import annotations

import numpy as np
from _reproduce import decimals, main, table
from scipy import stats

from jaxlmm.study import Estimator, MixedModel, Results, Study

SIZES = {(0.2, 100): 313, (0.2, 200): 625, (0.2, 300): 938, (0.5, 100): 196, (0.5, 200): 391, (0.5, 300): 586,
         (0.8, 100): 79, (0.8, 200): 157, (0.8, 300): 235}  # fmt: skip
MODEL, VISITS, EFFECT = "y ~ time * arm + (1 | subject)", (0.0, 2.0, 5.0), 0.5


def formula(rho: float, variance: float, size: int) -> float:
    """Power of the one-sided z test of the difference of slopes."""
    square = np.sum((np.array(VISITS) - np.mean(VISITS)) ** 2)
    return stats.norm.cdf(EFFECT * np.sqrt(size * square / (2.0 * variance * (1.0 - rho))) - stats.norm.ppf(0.95))


def design(size: int) -> dict[str, np.ndarray]:
    subject = np.repeat(np.arange(2 * size), 3)
    return {"subject": subject, "time": np.tile(VISITS, 2 * size), "arm": (subject % 2).astype(float)}


def make(replicates: int) -> Study:
    grid = [{"rho": rho, "variance": float(v), "size": size} for (rho, v), size in SIZES.items() if size < 400]
    return Study(
        design=design, grid=grid, generate=MixedModel(
            MODEL, {"time:arm": EFFECT}, {"subject": "rho * variance", "residual": "(1 - rho) * variance"}),
        estimators=[Estimator("mixed", MODEL, df="satterthwaite")], targets={"time:arm": None}, replicates=replicates,
        chunk=min(replicates, 500), seed=29, name="difference of slopes",
    )  # fmt: skip


TEXT = """# Sizes for a difference of slopes: their power

{{where}} {{command}}

Diggle, Heagerty, Liang & Zeger (2002), Analysis of Longitudinal Data, 2nd ed., page 29: subjects in each of two groups
for a difference of slopes of 0.5 with visits at 0, 2 and 5, equal correlations rho, one-sided alpha 5 %, power 80 %
(numbers as in the tests of R's longpower). "formula": the power of the z test at the size, which is rounded up.
{replicates:,} data sets each, `{model}` with unknown variances and Satterthwaite's degrees of freedom,
tested at 10 % two-sided, which is 5 % on the side of the effect but for some 1e-6; percent, Monte Carlo standard errors
in brackets. Sizes above 400 were not run.

{power}
"""


def document(results: Results, replicates: int) -> str:
    value, mcse = results.summary(level=0.9, alpha=0.1).measure("power", "mixed", "satterthwaite", "time:arm")
    rows = [[f"{c['rho']:g}", f"{c['variance']:g}", str(c["size"]), "80",
             f"{100 * formula(c['rho'], c['variance'], c['size']):.2f}", decimals(100 * v, 100 * e, 2)]
            for c, v, e in zip(results.cells, value, mcse, strict=True)]  # fmt: skip
    header = ["rho", "variance", "subjects in a group", "published", "formula", "study"]
    return TEXT.format(replicates=replicates, model=MODEL, power=table(header, rows))


if __name__ == "__main__":
    main("diggle2002", 2000, make, document)
