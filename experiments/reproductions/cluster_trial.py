"""Type-I error of Wald, Satterthwaite, Kenward-Roger and likelihood ratio tests in cluster trials of 6 to 40 clusters.

python experiments/reproductions/cluster_trial.py [--replicates 10000] [--dir study] [--out cluster_trial.md]
"""

from __future__ import annotations

from _reproduce import decimals, main, table

from jaxlmm.study import Estimator, MixedModel, Results, Study, designs

MODEL, NULL = "y ~ arm + (1 | cluster)", "y ~ 1 + (1 | cluster)"
TESTS = {
    ("REML", "asymptotic"): "Wald z", ("REML", "satterthwaite"): "Satterthwaite", ("REML", "kenward-roger"): "KR",
    ("ML", "asymptotic"): "Wald z, ML", ("ML", "lrt"): "LRT, ML",
}  # fmt: skip


def make(replicates: int) -> Study:
    return Study(
        design=designs.cluster_trial, grid={"clusters": [6, 10, 20, 30, 40], "icc": [0.05, 0.2]},
        generate=MixedModel(MODEL, {"arm": 0.0}, {"cluster": "icc", "residual": "1 - icc"}),
        estimators=[
            Estimator("REML", MODEL, df=("asymptotic", "satterthwaite", "kenward-roger")),
            Estimator("ML", MODEL, "ML", df="asymptotic", lrt=NULL),
        ],
        targets={"arm": 0.0}, replicates=replicates, seed=640, name="cluster trial",
    )  # fmt: skip


TEXT = """# Type-I error of tests of the treatment in cluster trials

{{where}} {{command}}

Two arms of clusters of 10, `{model}`, total variance 1, no effect; {replicates:,} data sets a design, the same for all
tests; percent rejected at 5 %, Monte Carlo standard errors in brackets. REML unless it says ML. Kahan et al. (2016,
Trials 17:438, abstract): with 6 to 100 clusters the uncorrected mixed model rejects too often, up to 70 clusters;
Leyrat et al. (2018, doi 10.1093/ije/dyx169, abstract): up to 40 clusters, tests with corrected degrees of freedom at or
below 5 %. Their rates for single designs were not at hand.

{rates}

Coverage of 95 % intervals, percent, and the error of the model's standard error:

{coverage}

Kenward-Roger less Satterthwaite on the same data sets: difference of the rejection rates, percentage points:

{paired}

Variance of clusters estimated as zero, percent; data sets without a result by any test: {unusable}.

{singular}
"""


def document(results: Results, replicates: int) -> str:
    summary = results.summary()
    names = [f"{c['clusters']} clusters, ICC {c['icc']:g}" for c in results.cells]
    rows = {key: results.row(*key) for key in TESTS}

    def percent(measure: str, c: int, k: int, digits: int = 2) -> str:
        factor = 1.0 if measure == "relative_error_se" else 100.0
        value, error = factor * summary.value[measure][c, k], factor * summary.mcse[measure][c, k]
        return f"{value:.{digits}f} ({error:.{digits}f})"

    covered = {key: k for key, k in rows.items() if key[1] != "lrt"}
    difference = results.compare(("REML", "satterthwaite"), ("REML", "kenward-roger"))
    places = [i for i, m in enumerate(difference["measure"]) if m == "rejection"]
    paired = [[names[j], decimals(100 * difference["value"][i], 100 * difference["mcse"][i], 2)]
              for j, i in enumerate(places)]  # fmt: skip
    lost = sum(count for status, count in zip(*(results.statuses()[c] for c in ("status", "count")), strict=True)
               if status != "ok")  # fmt: skip
    ses = ("REML", "asymptotic"), ("REML", "kenward-roger")
    header = [*(TESTS[key] for key in covered), *(f"SE {TESTS[key]}, % error" for key in ses)]
    return TEXT.format(
        model=MODEL, replicates=replicates, unusable=lost,
        rates=table(["", *TESTS.values()],
                    [[n, *(percent("type1_error", c, k) for k in rows.values())] for c, n in enumerate(names)]),
        coverage=table(["", *header],
                       [[n, *(percent("coverage", c, k) for k in covered.values()),
                         *(percent("relative_error_se", c, rows[key], 1) for key in ses)]
                        for c, n in enumerate(names)]),
        paired=table(["", "KR - Satterthwaite"], paired),
        singular=table(["", "REML", "ML"],
                       [[n, *(percent("singular", c, rows[m, "asymptotic"]) for m in ("REML", "ML"))]
                        for c, n in enumerate(names)]),
    )  # fmt: skip


if __name__ == "__main__":
    main("cluster_trial", 10_000, make, document)
