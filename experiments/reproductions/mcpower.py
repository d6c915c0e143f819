"""Power in the Gaussian benchmark cases of MCPower, rebuilt: least squares and mixed models with drawn predictors.

python experiments/reproductions/mcpower.py [--replicates 300] [--out mcpower.md]

The designs are those that its repository lists (benchmarks/benchmark_cases.json, MCPower 1.x): standard normal
predictors, factors as dummies, effects in units of the residual, n rows; for mixed models 20 or 100 clusters with an
intraclass correlation of 0.2 (so that the variance of clusters is 0.25). Beside the power of a study stands, for least
squares, the exact one, the noncentral t averaged over drawn designs, and what the package `mcpower` says.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from _reproduce import decimals, table
from scipy import stats

from jaxlmm.study import Estimator, Study, run

# name: rows, terms with effects (the first is tested), factors with their shares, clusters, correlation of x1 and x2
CASES = {
    "ols_simple": (100, {"x1": 0.27}, {}, 0, 0.0),
    "ols_multi": (120, {"x1": 0.25, "x2": 0.25, "x3": 0.0, "x4": 0.0, "x5": 0.0}, {}, 0, 0.0),
    "ols_factor": (120, {"x1": 0.25, "f2": 0.5, "f3": 0.5}, {"f": (0.34, 0.33, 0.33)}, 0, 0.0),
    "ols_interaction": (80, {"x1": 0.3, "x2": 0.3, "x1:x2": 0.3}, {}, 0, 0.0),
    "ols_wide": (200, {f"x{k}": 0.2 * (k < 3) for k in range(1, 16)}, {}, 0, 0.0),
    "ols_large_n": (1500, {"x1": 0.07, "x2": 0.07, "x3": 0.0}, {}, 0, 0.0),
    "ols_correlated": (100, {"x1": 0.3, "x2": 0.3, "x3": 0.0}, {}, 0, 0.4),
    "ols_factor_inter": (100, {"x1": 0.4, "f2": 0.5, "x1:f2": 0.3}, {"f": (0.5, 0.5)}, 0, 0.0),
    "ols_factor3_inter": (
        100, {"x1": 0.5, "f2": 0.5, "f3": 0.5, "x1:f2": 0.3, "x1:f3": 0.3}, {"f": (0.34, 0.33, 0.33)}, 0, 0.0,
    ),
    "lme_simple": (400, {"x1": 0.15}, {}, 20, 0.0),
    "lme_multi": (400, {"x1": 0.15, "x2": 0.15, "x3": 0.0, "x4": 0.0, "x5": 0.0}, {}, 20, 0.0),
    "lme_factor": (400, {"x1": 0.15, "f2": 0.5}, {"f": (0.5, 0.5)}, 20, 0.0),
    "lme_interaction": (400, {"x1": 0.15, "x2": 0.15, "x1:x2": 0.15}, {}, 20, 0.0),
    "lme_many_clusters": (1500, {"x1": 0.07, "x2": 0.07, "x3": 0.0}, {}, 100, 0.0),
    "lme_factor_inter": (400, {"x1": 0.2, "f2": 0.5, "x1:f2": 0.3}, {"f": (0.5, 0.5)}, 20, 0.0),
}  # fmt: skip
ICC, ALPHA = 0.2, 0.05
DF = ("asymptotic", "satterthwaite", "kenward-roger")


def columns(rng, case):
    """The predictors of a data set, each a column."""
    n, effects, factors, _, correlation = CASES[case]
    out = {name: rng.standard_normal(n) for name in effects if name.startswith("x") and ":" not in name}
    if correlation:
        out["x2"] = correlation * out["x1"] + np.sqrt(1 - correlation**2) * out["x2"]
    for name, shares in factors.items():
        level = rng.choice(len(shares), n, p=shares)
        out |= {f"{name}{k + 1}": (level == k).astype(float) for k in range(1, len(shares))}
    return out


def terms(found, case):
    """Columns of the terms, products made."""
    return {t: np.prod([found[name] for name in t.split(":")], axis=0) for t in CASES[case][1]}


def drawn(rng, data, case, clusters, null):
    found, (n, effects, *_) = columns(rng, case), CASES[case]
    y = sum(w * x for (w, x) in zip(effects.values(), terms(found, case).values(), strict=True) if not null)
    y = y + rng.standard_normal(n)
    if clusters:
        y = y + np.sqrt(ICC / (1 - ICC)) * rng.standard_normal(clusters)[data["g"]]
    return {**found, "y": y}


def design(case, clusters):
    n = CASES[case][0]
    return {"row": np.arange(n)} | ({"g": np.arange(n) * clusters // n} if clusters else {})


def make(case, replicates, clusters, null=False):
    fixed = "y ~ " + " + ".join(CASES[case][1])
    own = (
        [Estimator("mixed", f"{fixed} + (1 | g)", df=DF)] if clusters
        else [Estimator("OLS", fixed, residual="iid()", df="residual")]
    )  # fmt: skip
    return Study(
        design=design, grid=[{"case": case, "clusters": clusters, "null": null}], generate=drawn, estimators=own,
        targets={"x1": 0.0 if null else CASES[case][1]["x1"]}, replicates=replicates, chunk=replicates, seed=15,
    )  # fmt: skip


def exact(case, draws=400):
    """Power of the t test of least squares, over designs."""
    n, effects, *_ = CASES[case]
    rng, out = np.random.default_rng(1), []
    for _ in range(draws):
        X = np.column_stack([np.ones(n), *terms(columns(rng, case), case).values()])
        se, df = np.sqrt(np.linalg.inv(X.T @ X)[1, 1]), n - X.shape[1]
        t, shift = stats.t.ppf(1 - ALPHA / 2, df), effects["x1"] / se
        out.append(stats.nct.sf(t, df, shift) + stats.nct.cdf(-t, df, shift))
    return float(np.mean(out))


# percent, and seconds of CPU, of mcpower 1.4.1 with 10 000 data sets; family "lme" with df_method "asymptotic"
PEER = {
    "ols_simple": (75.1, 0.04), "ols_multi": (75.5, 0.09), "ols_factor": (75.9, 0.07), "ols_interaction": (72.1, 0.04),
    "ols_wide": (76.5, 0.31), "ols_large_n": (76.3, 0.53), "ols_correlated": (76.1, 0.06),
    "ols_factor_inter": (78.0, 0.06), "ols_factor3_inter": (79.8, 0.07), "lme_simple": (82.9, 0.28),
    "lme_multi": (82.6, 0.49), "lme_factor": (82.9, 0.36), "lme_interaction": (82.6, 0.37),
    "lme_many_clusters": (74.3, 1.04), "lme_factor_inter": (78.5, 0.44),
}  # fmt: skip

TEXT = """# Power in MCPower's Gaussian benchmark cases

{where}

{replicates} data sets a case, predictors drawn anew in each; power of the test of `x1` at 5 %, percent, Monte Carlo
standard errors in brackets. Of mixed models it is Wald z, as MCPower was asked to. Exact: the noncentral t over 400
designs. MCPower: version 1.4.1, 10 000 data sets. It is far ahead in time here: predictors are drawn anew, so that
every data set has a design of its own, which a study builds from its formula (seconds of CPU for its data sets,
compiling included; MCPower's for its own).

{power}

The first mixed model without effects at 6 clusters of 16 rows: type-I error, percent; {many:,} data sets. Its predictor
varies within clusters, so that six of them do it no harm (MCPower: 5.1).

{null}
"""


def rate(study, folder):
    start = time.process_time()
    results = run(study, folder, "inline")
    summary = results.summary(alpha=ALPHA)
    measure = "type1_error" if study.cells[0]["null"] else "power"
    found = {row.test: (100 * summary.value[measure][0, k], 100 * summary.mcse[measure][0, k])
             for k, row in enumerate(results.rows)}  # fmt: skip
    return found, time.process_time() - start


def main():
    import argparse
    import datetime
    import importlib.metadata
    import platform

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=300)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case, (n, _, _, clusters, _) in CASES.items():
            found, seconds = rate(make(case, options.replicates, clusters), f"{folder}/{case}")
            first = found.get("residual") or found["asymptotic"]
            known = "" if clusters else f"{100 * exact(case):.1f}"
            percent, theirs = PEER[case]
            times = [f"{seconds:.0f}", f"{theirs:.2f}"]
            rows.append([case, str(n), str(clusters or ""), decimals(*first, 1), known, f"{percent:.1f}", *times])
            print(rows[-1], flush=True)
        CASES["six clusters"] = (96, {"x1": 0.15}, {}, 6, 0.0)
        null, _ = rate(make("six clusters", 4 * options.replicates, 6, True), f"{folder}/null")
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("jax", "jaxlib", "numpy"))
    text = TEXT.format(
        replicates=options.replicates, many=4 * options.replicates,
        where=f"{datetime.date.today()}, Python {platform.python_version()}, {versions}",
        power=table(["case", "rows", "clusters", "study", "exact", "MCPower", "s", "MCPower, s"], rows),
        null=table(["Wald z", "Satterthwaite", "Kenward-Roger"], [[decimals(*null[test], 2) for test in DF]]),
    )  # fmt: skip
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
