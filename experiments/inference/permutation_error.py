"""Family-wise error of permutation tests of mixed models over neighbouring responses, by simulation without effects.

``python experiments/inference/permutation_error.py [data sets] > experiments/results/permutation_error.md``. Responses
are correlated along a chain; all are fitted again by REML in every rearrangement.
"""

import sys

import numpy as np

import jaxlmm

SUBJECTS, VISITS, RESPONSES, REARRANGEMENTS, LEVEL = 12, 3, 10, 99, 0.05


def noise(rng, shape, law):
    """Errors correlated along the responses."""
    draw = rng.normal(size=shape) if law == "normal" else rng.standard_t(3, size=shape)
    for i in range(1, shape[0]):
        draw[i] = 0.7 * draw[i - 1] + np.sqrt(1 - 0.49) * draw[i]
    return draw


def responses(rng, g, law):
    return noise(rng, (RESPONSES, len(g)), law) + 0.8 * noise(rng, (RESPONSES, SUBJECTS), law)[:, g]


def main(sets: int) -> None:
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(SUBJECTS), VISITS)
    age, arm, visit = rng.normal(size=SUBJECTS)[g], (np.arange(SUBJECTS) % 2)[g], np.tile(np.arange(VISITS), SUBJECTS)
    columns = {"g": g, "age": age, "arm": 1.0 * arm, "visit": 1.0 * visit, "y": responses(rng, g, "normal")[0]}
    designs = {
        "mean, signs of subjects": ("y ~ 1 + (1 | g)", "(Intercept)", {"flip": "g"}),
        "arm beside age, subjects change places": ("y ~ arm + age + (1 | g)", "arm", {"between": "g"}),
        "visit beside arm, rows of subjects": ("y ~ visit * arm + (1 | g)", "visit:arm", {"within": "g"}),
    }
    print("# Family-wise error of permutation tests\n")
    print(f"{sets} data sets without effects, {SUBJECTS} subjects with {VISITS} rows, {RESPONSES} responses correlated "
          f"along a chain, {REARRANGEMENTS + 1} rearrangements, every one fitted by REML. Shares of data sets with an "
          f"error at {LEVEL:g}; their Monte Carlo error is {np.sqrt(LEVEL * (1 - LEVEL) / sets):.3f}. Satterthwaite's "
          "t tests of each response, without adjustment, beside them.\n")  # fmt: skip
    print("| hypothesis, rearrangements | errors | largest statistic | heaviest cluster | any t test |")
    print("| --- | --- | --: | --: | --: |")
    for name, (formula, L, how) in designs.items():
        fit = jaxlmm.lmm(formula, columns)
        row = 1.0 * (np.array(fit.coef_names) == L)[None]
        for law in ("normal", "t(3)"):
            found = np.zeros((sets, 3))
            for i in range(sets):
                Y = responses(rng, g, law)
                own = fit.permutation(L, Y, REARRANGEMENTS + 1, threshold=2.0, neighbours=RESPONSES, seed=i,
                                      progress=False, **how)  # fmt: skip
                p = fit.refit(Y, tests=jaxlmm.Tests(row), progress=False).tests["satterthwaite"].p
                lightest = own.clusters.p.min(initial=1.0)
                found[i] = own.p_max.min() <= LEVEL, lightest <= LEVEL, np.nanmin(p) <= LEVEL
            share = " | ".join(f"{x:.3f}" for x in found.mean(0))
            print(f"| {name} | {law} | {share} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
