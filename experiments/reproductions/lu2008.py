"""Sizes of trials with dropout analysed by MMRM (Lu, Luo & Chen 2008, Table 2): is their power 80 %?

python experiments/reproductions/lu2008.py [--replicates 2000] [--dir study] [--out lu2008.md]
"""

from __future__ import annotations

import jax
import numpy as np
from _reproduce import decimals, main, table
from scipy import stats

from jaxlmm.study import Estimator, MixedModel, Results, Study, Target, designs

EFFECT, VISITS = 0.4, 4
# inflation of the variance at the last of four visits: correlation of the first with the last, share that stays
INFLATION = {(0.1, 0.9): 1.101, (0.5, 0.9): 1.063, (0.9, 0.9): 1.014, (0.1, 0.6): 1.590, (0.5, 0.6): 1.354,
             (0.9, 0.6): 1.077}  # fmt: skip
MODEL, RESIDUAL = "y ~ arm * visit", "us(visit | subject)"
AR1 = [[f"corr ** ({abs(i - j)} / {VISITS - 1})" for i in range(VISITS)] for j in range(VISITS)]


def subjects(inflation: float) -> int:
    """Subjects in an arm by their formula: two arms of one variance, 5 % two-sided, power 80 %."""
    return int(np.ceil(2.0 * inflation * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 / EFFECT**2))


def lost(key, y, data, stays):
    """Those who leave do so at random, as many before each visit after the first."""
    u = jax.random.uniform(key, (data["subject"].max() + 1,))[data["subject"]]
    return u > 1.0 - (1.0 - stays) * data["time"] / (VISITS - 1)


def make(replicates: int) -> Study:
    last = f"arm:visit[T.v{VISITS - 1}]"
    return Study(
        design=lambda size: designs.visits(2 * size, VISITS),
        grid=[{"corr": corr, "stays": stays, "size": subjects(phi)} for (corr, stays), phi in INFLATION.items()],
        generate=MixedModel(MODEL, {last: EFFECT}, {"residual": AR1}, RESIDUAL, lost=lost),
        estimators=[Estimator("MMRM", MODEL, residual=RESIDUAL, df="satterthwaite")],
        targets={"last visit": Target(EFFECT, of={"arm": 1.0, last: 1.0})}, replicates=replicates,
        chunk=min(replicates, 500), seed=2008, name="MMRM with dropout",
    )  # fmt: skip


TEXT = """# Sizes of trials with dropout: their power

{{where}} {{command}}

Lu, Luo & Chen (2008), Sample size estimation for repeated measures analysis in randomized clinical trials with missing
data, Int J Biostat 4(1):9, doi 10.2202/1557-4679.1098, Table 2: the factor by which the variance of the difference at
the last of four visits is larger than that of complete data, for autoregressive correlations and dropout at random that
leaves equal shares at every visit (numbers as recorded in the tests of R's longpower). From it come the subjects in
each of two arms for a difference of {effect:g} standard deviations, 5 % two-sided, power 80 %, by the normal
approximation. {replicates:,} data sets each, `{model}` with residuals `{residual}`, all of them unknown, tested with
Satterthwaite's degrees of freedom; percent, Monte Carlo standard errors in brackets. t instead of z alone costs half a
percent to a percent at these sizes.

{power}
"""


def document(results: Results, replicates: int) -> str:
    value, mcse = results.summary().measure("power", "MMRM", "satterthwaite", "last visit")
    rows = [[f"{c['corr']:g}", f"{c['stays']:g}", f"{INFLATION[c['corr'], c['stays']]:.3f}", str(c["size"]), "80",
             decimals(100 * v, 100 * e, 2)] for c, v, e in zip(results.cells, value, mcse, strict=True)]  # fmt: skip
    header = ["corr. of first and last", "stay", "factor", "subjects in an arm", "published", "study"]
    return TEXT.format(effect=EFFECT, replicates=replicates, model=MODEL, residual=RESIDUAL, power=table(header, rows))


if __name__ == "__main__":
    main("lu2008", 2000, make, document)
