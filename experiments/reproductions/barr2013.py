"""Crossed subjects and items: Barr et al. (2013, J Mem Lang 68:255), a companion table of type-I error and power.

python experiments/reproductions/barr2013.py [--replicates 6000] [--dir study] [--out barr2013.md]
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from _reproduce import decimals, main, table

from jaxlmm.study import Estimator, Results, Study, Target, designs

MAXIMAL, INTERCEPTS = "(1 + condition | subject) + (1 | item)", "(1 | subject) + (1 | item)"
# (estimator, test), 12 and 24 items: from the companion page "additional results", between-items designs
PUBLISHED = {
    ("type1_error", 0.01): {
        ("maximal", "lrt"): (0.017, 0.013), ("maximal", "asymptotic"): (0.029, 0.017),
        ("intercepts", "lrt"): (0.032, 0.039), ("intercepts", "asymptotic"): (0.055, 0.051),
    },
    ("type1_error", 0.10): {
        ("maximal", "lrt"): (0.129, 0.113), ("maximal", "asymptotic"): (0.143, 0.120),
        ("intercepts", "lrt"): (0.171, 0.177),
    },
    ("power", 0.01): {("maximal", "lrt"): (0.118, 0.185)},
}  # fmt: skip
THEIRS = 100_000
WORDS = {"lrt": "likelihood ratio", "asymptotic": "t as z", "maximal": "maximal", "intercepts": "random intercepts"}


def experiment(key, data, items, effect):
    """Variances, correlation and loss are drawn anew in each data set, all uniform."""
    parts = jax.random.split(key, 11)

    def uniform(i, low, high):
        return jax.random.uniform(parts[i], (), float, low, high)

    subjects = 24
    intercept, correlation = uniform(0, -3.0, 3.0), uniform(1, -0.8, 0.8)
    s0, s1, w0, error = (jnp.sqrt(uniform(i, 0.0, 3.0)) for i in (2, 3, 4, 5))
    z0, z1 = jax.random.normal(parts[6], (2, subjects), float)
    slope = s1 * (correlation * z0 + jnp.sqrt(1.0 - correlation**2) * z1)
    subject, item, condition = data["subject"], data["item"], data["condition"]
    n = len(subject)
    y = intercept + (s0 * z0)[subject] + (effect + slope[subject]) * condition
    y = y + (w0 * jax.random.normal(parts[7], (items,), float))[item] + error * jax.random.normal(parts[8], (n,), float)
    order = jax.random.permutation(parts[9], n)  # exactly so many rows are lost, any of them
    return jnp.where(order < jnp.rint(uniform(10, 0.0, 0.05) * n), jnp.nan, y)


def estimator(name: str, random: str) -> Estimator:
    return Estimator(name, f"y ~ condition + {random}", "ML", df="asymptotic", lrt=f"y ~ 1 + {random}")


def make(replicates: int) -> Study:
    return Study(
        design=designs.crossed, grid={"items": [12, 24], "effect": [0.0, 0.8], "subjects": [24]}, generate=experiment,
        estimators=[estimator("maximal", MAXIMAL), estimator("intercepts", INTERCEPTS)],
        targets={"condition": Target("effect")}, replicates=replicates, seed=2013, chunk=250, name="Barr et al. 2013",
    )  # fmt: skip


TEXT = """# Crossed subjects and items: Barr et al. 2013

{{where}} {{command}}

Barr DJ, Levy R, Scheepers C, Tily HJ (2013), J Mem Lang 68:255, companion page "additional results", between-items
designs: 24 subjects by 12 or 24 items, condition -0.5 and 0.5 between items, fitted by ML. In each data set anew:
intercept uniform on (-3, 3), variances on (0, 3), correlation on (-0.8, 0.8), share of rows lost on (0, 0.05); effect 0
(type-I error) or 0.8 (power). "Maximal" is `condition + {maximal}`, "random intercepts"
`condition + {intercepts}`. Theirs are 100,000 data sets, ours {replicates:,} in each cell, the same for all tests;
Monte Carlo standard errors in brackets. z: theirs less ours over the standard error of the difference.

{table}

Data sets here by how the fits ended:

{statuses}
"""


def document(results: Results, replicates: int) -> str:
    rows = []
    for (measure, alpha), published in PUBLISHED.items():
        summary = results.summary(alpha=alpha)
        for (name, test), theirs in published.items():
            k, row = results.row(name, test), []
            for items, their in zip((12, 24), theirs, strict=True):
                cell = [c["items"] == items and (c["effect"] == 0) == (measure == "type1_error") for c in results.cells]
                c = cell.index(True)
                value, error = summary.value[measure][c, k], summary.mcse[measure][c, k]
                scale = (error**2 + their * (1 - their) / THEIRS) ** 0.5
                row += [f"{their:.3f}", decimals(value, error), f"{(their - value) / scale:+.1f}"]
            what = {"type1_error": "type-I error", "power": "power"}[measure]
            rows.append([f"{what} at {alpha:g}", WORDS[name], WORDS[test], *row])
    header = ["", "model", "test", "12 items", "here", "z", "24 items", "here", "z"]
    frame = results.statuses()
    counts = [
        [str(frame[c][i]) for c in ("items", "effect", "estimator", "test", "status", "count")]
        for i in range(len(frame["count"]))
    ]
    return TEXT.format(
        replicates=replicates, maximal=MAXIMAL, intercepts=INTERCEPTS, table=table(header, rows),
        statuses=table(["items", "effect", "model", "test", "status", "data sets"], counts),
    )  # fmt: skip


if __name__ == "__main__":
    main("barr2013", 6000, make, document)
