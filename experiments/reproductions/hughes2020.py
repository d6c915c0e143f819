"""Type-I error and power in a stepped wedge like the WA EPT study (Hughes, Heagerty, Xia & Ren 2020, Table 4).

python experiments/reproductions/hughes2020.py [--replicates 10000] [--dir study] [--out hughes2020.md]
"""

from __future__ import annotations

import numpy as np
from _reproduce import decimals, main, table

from jaxlmm.study import Estimator, Results, Study, designs

MODEL = "y ~ period + treated + (1 | cluster) + (0 + treated | cluster)"
# of the three methods, in the order of the table, for a standard deviation of treatments of 0, 0.002 and 0.008
TYPE1 = ([0.05, 0.05, 0.05], [0.06, 0.06, 0.06], [0.07, 0.07, 0.08])
POWER = ([0.29, 0.29, 0.26], [0.31, 0.31, 0.28], [0.33, 0.32, 0.30])
SIZE = 305


def drawn(rng, data, effect, spread):
    """Shares of successes in clusters by period; the probability is linear."""
    period = np.unique(data["period"], return_inverse=True)[1]
    cluster, treated = data["cluster"], data["treated"]
    own, other = rng.standard_normal((2, cluster.max() + 1))
    p = 0.09 - 0.005 * period + 0.015 * own[cluster] + (effect + spread * other[cluster]) * treated
    return rng.binomial(SIZE, np.clip(p, 0.0, 1.0)) / SIZE


def make(replicates: int) -> Study:
    return Study(
        design=lambda: designs.stepped_wedge(22, 5), grid={"effect": [0.0, -0.01], "spread": [0.0, 0.002, 0.008]},
        generate=drawn, estimators=[
            Estimator("random treatment", MODEL, df=("asymptotic", "satterthwaite")),
            Estimator("random intercept", "y ~ period + treated + (1 | cluster)", df=("asymptotic", "kenward-roger")),
        ],
        targets={"treated": "effect"}, replicates=replicates, chunk=min(replicates, 1000), seed=2020, name="wedge",
    )  # fmt: skip


TEXT = """# A stepped wedge with 22 clusters: type-I error and power

{{where}} {{command}}

Hughes, Heagerty, Xia & Ren (2020), Robust inference for the stepped wedge design, Biometrics 76:119, Table 4
(PMC7978491): binomial observations of 22 clusters in 5 periods, 305 a cluster and period, mean 0.09 - 0.005 period,
standard deviation of clusters 0.015, of treatments 0, 0.002, 0.008; effect 0 (a) or -0.01 (b). Their rates of three
methods are rounded to two decimals, from 10 000 data sets, of clusters of one size. The headings of the methods were
not at hand (the abstract compares a permutation estimate with the optimal one), so that the three stand side by side
in the order of the table. This study: linear mixed models of the shares, {replicates:,} data sets, percent rejected at
5 %, Monte Carlo standard errors in brackets. Clusters change over after periods 0 to 3 by turns, 6, 6, 5 and 5 of them.

{rates}
"""


def document(results: Results, replicates: int) -> str:
    summary, rows = results.summary(), []
    for c, cell in enumerate(results.cells):
        published = [100 * own[c % 3] for own in (POWER if cell["effect"] else TYPE1)]
        measure = "power" if cell["effect"] else "type1_error"
        found = [decimals(100 * summary.value[measure][c, k], 100 * summary.mcse[measure][c, k], 1)
                 for k in range(len(results.rows))]  # fmt: skip
        what = "power" if cell["effect"] else "type I"
        rows.append([what, f"{cell['spread']:g}", " / ".join(f"{p:.0f}" for p in published), *found])
    header = ["", "SD of treatments", "published", *(f"{row.estimator}, {row.test}" for row in results.rows)]
    return TEXT.format(replicates=replicates, rates=table(header, rows))


if __name__ == "__main__":
    main("hughes2020", 10_000, make, document)
