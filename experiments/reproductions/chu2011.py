"""Treatment effects in multicentre trials: Chu et al. (2011, BMC Med Res Methodol 11:21), Table 6, models A, B and C.

python experiments/reproductions/chu2011.py [--replicates 10000] [--dir study] [--out chu2011.md]
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from _reproduce import decimals, main, table

from jaxlmm.study import Estimator, Results, Study, designs

EFFECT = 0.5
CENTRES = {45: 4, 18: 10, 6: 30}
MODELS = {
    "A": Estimator("A", "y ~ arm", df="residual", residual="iid()"),
    "B": Estimator("B", "y ~ arm + C(centre)", df="residual", residual="iid()"),
    "C": Estimator("C", "y ~ arm + (1 | centre)", df="satterthwaite"),
}
# (mean, SD, average SE) by centres, ICC and model, from Table 6
PUBLISHED = {
    (45, 0.01): {"A": (0.502, 0.146, 0.150), "B": (0.506, 0.162, 0.172), "C": (0.502, 0.145, 0.149)},
    (45, 0.05): {"A": (0.511, 0.154, 0.154), "B": (0.510, 0.174, 0.172), "C": (0.511, 0.155, 0.152)},
    (45, 0.20): {"A": (0.494, 0.168, 0.166), "B": (0.496, 0.180, 0.172), "C": (0.496, 0.165, 0.159)},
    (18, 0.01): {"A": (0.495, 0.148, 0.150), "B": (0.494, 0.156, 0.157), "C": (0.495, 0.148, 0.150)},
    (18, 0.05): {"A": (0.498, 0.150, 0.153), "B": (0.498, 0.152, 0.157), "C": (0.498, 0.149, 0.151)},
    (18, 0.20): {"A": (0.497, 0.169, 0.166), "B": (0.500, 0.161, 0.157), "C": (0.499, 0.159, 0.153)},
    (6, 0.01): {"A": (0.499, 0.153, 0.149), "B": (0.499, 0.155, 0.150), "C": (0.499, 0.153, 0.149)},
    (6, 0.05): {"A": (0.502, 0.150, 0.153), "B": (0.501, 0.150, 0.151), "C": (0.503, 0.149, 0.150)},
    (6, 0.20): {"A": (0.510, 0.165, 0.164), "B": (0.507, 0.151, 0.152), "C": (0.507, 0.151, 0.151)},
}
THEIRS = 1000  # data sets that the errors of the published numbers are reckoned for


def trial(key, data, centres, icc):
    """Half of the patients, whoever they are, get the treatment; residual variance 1."""
    allocation, between, within = jax.random.split(key, 3)
    n = len(data["centre"])
    arm = jax.random.permutation(allocation, jnp.arange(n) % 2).astype(float)
    effects = jnp.sqrt(icc / (1.0 - icc)) * jax.random.normal(between, (centres,), float)
    return {"arm": arm, "y": EFFECT * arm + effects[data["centre"]] + jax.random.normal(within, (n,), float)}


def make(replicates: int) -> Study:
    cells = [{"centres": c, "size": s, "icc": icc} for c, s in CENTRES.items() for icc in (0.01, 0.05, 0.20)]
    return Study(
        design=designs.multicentre, grid=cells, generate=trial, estimators=list(MODELS.values()),
        targets={"arm": EFFECT}, replicates=replicates, seed=2011, name="Chu et al. 2011",
    )  # fmt: skip


TEXT = """# Multicentre trials: Chu et al. 2011, Table 6

{{where}} {{command}}

Chu R, Thabane L, Ma J, Holbrook A, Pullenayegum E, Devereaux PJ (2011), BMC Med Res Methodol 11:21: 180 patients in
centres of equal size, half of them treated whoever they are (chance imbalance within centres), effect 0.5, residual
variance 1, variance of centres ICC / (1 - ICC) (inferred from the published standard errors). A ignores the centres, B
has a fixed effect for each, C a random intercept (REML). {replicates:,} data sets a cell here, the same for all models;
Monte Carlo standard errors in brackets. The table does not say how many data sets theirs are; z is for {theirs:,}.

{table}

z: their number less ours, over the standard error of the difference. Largest |z|: {largest:.1f}; root mean square:
{rms:.2f} (1 is expected if nothing differs; B and C are of the same data as A, so not independent).

Coverage of 95 % intervals and power at 5 % (A, B: t with residual degrees of freedom; C: Satterthwaite), percent:

{coverage}
"""


def document(results: Results, replicates: int) -> str:
    summary, rows, more, zs = results.summary(), [], [], []
    for c, cell in enumerate(results.cells):
        published = PUBLISHED[cell["centres"], cell["icc"]]
        name = f"{cell['centres']} x {cell['size']}, ICC {cell['icc']:.2f}"
        rates = [name]
        for model, theirs in published.items():
            k = results.row(model)
            bias, sd, se = ((summary.value[m][c, k], summary.mcse[m][c, k])
                            for m in ("bias", "empirical_se", "model_se"))  # fmt: skip
            own = [(EFFECT + bias[0], bias[1]), sd, se]
            own_z = []
            for (value, error), their in zip(own[:2], theirs[:2], strict=True):
                own_z.append((their - value) / np.hypot(error * np.sqrt(1 + replicates / THEIRS), 0.001 / np.sqrt(12)))
            zs += own_z
            pairs = [f"{t:.3f} | {decimals(*o)}" for t, o in zip(theirs, own, strict=True)]
            rows.append([name, model, *" | ".join(pairs).split(" | "), *(f"{z:+.1f}" for z in own_z)])
            for measure in ("coverage", "power"):
                rates.append(decimals(100 * summary.value[measure][c, k], 100 * summary.mcse[measure][c, k], 1))
        more.append(rates)
    header = ["centres x patients", "model", "mean", "here", "SD", "here", "average SE", "here", "z mean", "z SD"]
    covered = [f"{m} {what}" for m in MODELS for what in ("coverage", "power")]
    return TEXT.format(
        replicates=replicates, theirs=THEIRS, table=table(header, rows), largest=np.max(np.abs(zs)),
        rms=np.sqrt(np.mean(np.square(zs))), coverage=table(["centres x patients", *covered], more),
    )  # fmt: skip


if __name__ == "__main__":
    main("chu2011", 10_000, make, document)
