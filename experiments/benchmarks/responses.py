"""Thousands of responses on one design: genes in cells, voxels, outcomes of families, sign flips; time and memory.

    python experiments/benchmarks/responses.py [--scale 0.05] [--only genes,voxels] > experiments/results/responses.md

Every section is a process of its own, so that its peak memory is its own. `--scale 1` has the published sizes, but for
a quarter of the cells, on which a fit does not depend; below, the numbers of responses (and of rows) are that part of
them, and the rows "would take" multiply what was measured.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import cpu_model, process

INTRODUCTION = """# Many responses

{date}, {cpu}, {cores} cores (load {load:.0f}), Python {python}, jax {jax}. Scale {scale:g} of the published sizes,
REML, float64. Wall and processor seconds after a first call that compiles; beside other work the second say more.

"""


def spent(call: Any) -> tuple[Any, float, float]:
    """What a call returns, with its wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def counts(rng: Any, genes: int, donor: np.ndarray, treated: np.ndarray, rate: float) -> Any:
    """Log-normalised counts (genes, cells) of a negative binomial by donor, sparse, without effects of treatment."""
    from scipy import sparse

    donors, rows = donor.max() + 1, []
    for _ in range(genes):
        mean = np.exp(np.log(rate) + 0.7 * rng.normal() + rng.uniform(0.1, 0.8) * rng.normal(size=donors))
        rows.append(sparse.csr_array(np.log1p(rng.poisson(mean[donor] * rng.gamma(2.0, 0.5, len(donor))))[None]))
    return sparse.vstack(rows, format="csr")


def cells(rng: Any, donors: int, n: int, types: int) -> dict[str, Any]:
    """Columns of a design: donors with cells of several types, half of the donors treated."""
    donor = np.sort(np.append(np.arange(donors), rng.integers(0, donors, n - donors)))
    kind = rng.integers(0, types, n)
    return {"donor": donor, "kind": np.array([f"k{k:02d}" for k in kind]), "treated": 1.0 * (donor % 2),
            "depth": rng.lognormal(0.0, 0.3, n), "y": rng.normal(size=n)}  # fmt: skip


def genes(scale: float) -> dict[str, Any]:
    """FLASH-MM's vignette: 6000 genes, 120 000 cells of 25 donors, p = 14; p values without effects."""
    import jaxlmm

    rng = np.random.default_rng(1)
    many, n = max(200, int(6000 * scale)), max(3000, int(120_000 * min(scale, 0.25)))
    data = cells(rng, 25, n, 12)
    Y = counts(rng, many, data["donor"], data["treated"], 0.5)
    fit = jaxlmm.lmm("y ~ treated + kind + log(depth) + (1 | donor)", data)
    row = 1.0 * (np.array(fit.coef_names) == "treated")[None]
    (own, reduced), wall_of_statistics, cpu_of_statistics = spent(lambda: (s := fit.statistics(), s.reduced(Y)))
    from jaxlmm.batch.refitting import refit_design

    def fitted(*df: str) -> Any:
        return refit_design(own.design, reduced, tests=jaxlmm.Tests(row, df=df) if df else None, progress=False)

    fitted(), fitted("kenward-roger")  # compile
    _, wall, cpu = spent(fitted)
    found, wall_kr, cpu_kr = spent(lambda: fitted("kenward-roger"))
    right = found.tests["kenward-roger"].p[:, 0]
    test = fitted("residual").tests["residual"]
    alone = jaxlmm.fit_batch(jaxlmm.Model(data["y"], fit.model.X), Y[:200].toarray(), progress=False,
                             tests=jaxlmm.Tests(row, df="residual")).tests["residual"].p[:, 0]  # fmt: skip

    def share(p: np.ndarray, level: float) -> float:
        return float(np.mean(p[np.isfinite(p)] <= level))

    out = {"genes x cells x donors": f"{many} x {n} x 25", "coefficients": len(fit.coef_names),
           "statistics, s": f"{wall_of_statistics:.2f} ({cpu_of_statistics:.2f} CPU)",
           "fits, genes/s": f"{many / wall:.0f} ({many / cpu:.0f} a CPU second)",
           "with Kenward-Roger, ratio": f"{wall_kr / wall:.2f} ({cpu_kr / cpu:.2f} CPU)",
           "converged": f"{np.mean(found.converged):.4f}"}  # fmt: skip
    for level in (0.05, 0.01):
        out |= {f"true nulls with p <= {level:g}: Kenward-Roger, t with n - p, cells as independent":
                f"{share(right, level):.3f}, {share(test.p[:, 0], level):.3f}, {share(alone, level):.3f}"}  # fmt: skip
    return out


def stream(scale: float) -> dict[str, Any]:
    """11 596 genes, 500 000 cells of 259 donors: sparse blocks, made as they are read, never dense."""
    import jaxlmm

    rng = np.random.default_rng(2)
    many, n = max(100, int(11_596 * scale)), max(5000, int(500_000 * scale))
    data = cells(rng, 259, n, 8)
    fit = jaxlmm.lmm("y ~ treated + kind + log(depth) + (1 | donor)", data)
    row = 1.0 * (np.array(fit.coef_names) == "treated")[None]
    blocks = [counts(rng, min(50, many - i), data["donor"], data["treated"], 0.1) for i in range(0, many, 50)]

    def fitted() -> Any:
        return fit.refit(iter(blocks), tests=jaxlmm.Tests(row, df="kenward-roger"), progress=False)

    fitted()
    found, wall, cpu = spent(fitted)
    _, _, reading = spent(lambda: fit.statistics().reduced(iter(blocks)))
    full = sum(block.nnz for block in blocks) / many / n
    whole = 11_596 / many * (reading * 500_000 / n + max(cpu - reading, 0.0))
    return {"genes x cells x donors": f"{many} x {n} x 259", "share that is not zero": f"{full:.2f}",
            "all, with Kenward-Roger, s": f"{wall:.1f} ({cpu:.1f} CPU, {reading:.1f} of them reading)",
            "11 596 x 500 000 would take, CPU s": f"{whole:.0f}",
            "converged": f"{np.mean(found.converged):.4f}"}  # fmt: skip


def families(scale: float) -> dict[str, Any]:
    """FEMA's design: 10 000 observations, 5000 outcomes, family + subject + error; moments beside REML."""
    import jaxlmm

    rng = np.random.default_rng(3)
    many, n = max(100, int(5000 * scale)), max(1000, int(10_000 * scale))
    seen = rng.random(n) < 0.9  # two children of a family, each seen twice, but for a tenth of the visits
    family, subject = (np.unique((np.arange(n) // k)[seen], return_inverse=True)[1] for k in (4, 2))
    n = len(family)
    age = rng.normal(size=n)
    truth = np.array([0.3, 0.3, 0.4])  # family, subject, error
    Y = sum(np.sqrt(v) * rng.normal(size=(many, g.max() + 1))[:, g]
            for v, g in zip(truth, (family, subject, np.arange(n)), strict=True))  # fmt: skip
    columns = {"y": Y[0], "family": family, "subject": subject, "age": age}
    fit = jaxlmm.lmm("y ~ age + (1 | family) + (1 | subject)", columns)
    fit.refit(Y, progress=False)
    found, wall, cpu = spent(lambda: fit.refit(Y, progress=False))
    parts = np.column_stack([*(C[:, 0, 0] for C in found.covariances), found.sigma**2])
    X = fit.model.X
    left = Y - (Y @ X) @ np.linalg.solve(X.T @ X, X.T)
    i, j = pairs(family)
    same = subject[i] == subject[j]
    between = np.array([np.mean(y[i[~same]] * y[j[~same]]) for y in left])
    within = np.array([np.mean(y[i[same]] * y[j[same]]) for y in left])
    square = np.mean(left**2, 1)
    moments = np.column_stack([between, within - between, square - within])
    binned = (np.floor(np.clip(moments / moments.sum(1, keepdims=True), 0, 1) * 20) + 0.5) / 20
    out = {"outcomes x rows": f"{many} x {n}", "all, s": f"{wall:.2f} ({cpu:.2f} CPU)",
           "converged": f"{np.mean(found.converged):.4f}"}  # fmt: skip
    shares = {"REML": parts / parts.sum(1, keepdims=True), "moments": moments / moments.sum(1, keepdims=True),
              "moments in 20 bins": binned}  # fmt: skip
    for k, name in enumerate(("family", "subject", "error")):
        values = (f"{way} {s[:, k].mean() - truth[k]:+.4f} / {np.sqrt(np.mean((s[:, k] - truth[k]) ** 2)):.4f}"
                  for way, s in shares.items())  # fmt: skip
        out[f"share of {name}: bias / root mean square error"] = ", ".join(values)
    return out


def pairs(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows with the same code."""
    order = np.argsort(codes, kind="stable")
    first, second = [], []
    for lag in range(1, np.bincount(codes).max()):
        alike = codes[order[:-lag]] == codes[order[lag:]]
        first.append(order[:-lag][alike])
        second.append(order[lag:][alike])
    return np.concatenate(first), np.concatenate(second)


def voxels(scale: float) -> dict[str, Any]:
    """200 000 voxels, 100 people with 4 visits, 5 % of the images missing in every voxel for itself."""
    import jaxlmm

    rng = np.random.default_rng(4)
    many, people, visits = max(2000, int(200_000 * scale)), 100, 4
    g, t = np.repeat(np.arange(people), visits), np.tile(np.arange(visits) - 1.5, people)
    arm = np.repeat(1.0 * (rng.random(people) < 0.5), visits)
    Y = rng.normal(size=(many, len(g)))
    for i in range(0, many, 1000):
        Y[i : i + 1000] += 0.8 * rng.normal(size=(len(Y[i : i + 1000]), people))[:, g] + 0.2 * t
    some = Y.copy()
    for y in some:
        y[rng.random(len(g)) < 0.05] = np.nan
    fit = jaxlmm.lmm("y ~ t * arm + (1 | g)", {"y": Y[0], "g": g, "t": t, "arm": arm})
    out: dict[str, Any] = {"voxels x images": f"{many} x {len(g)}"}
    of: dict[str, tuple[float, float]] = {}
    for name, data, how in (("complete", Y, "status"), ("5 % missing", some, "drop")):
        fit.refit(data, missing=how, progress=False)
        found, *of[name] = spent(lambda data=data, how=how: fit.refit(data, missing=how, progress=False))
        wall, cpu = of[name]
        out[f"{name}, s"] = f"{wall:.2f} ({cpu:.2f} CPU), {1e6 * cpu / many:.0f} us of CPU a voxel, " + (
            f"{np.mean(found.converged):.4f} converged"
        )
    out["ratio of CPU"] = f"{of['5 % missing'][1] / of['complete'][1]:.2f}"
    return out


def flips(scale: float) -> dict[str, Any]:
    """1000 sign flips of 20 000 responses, a random intercept, 20 subjects with 4 rows; all fitted by REML."""
    import jaxlmm

    rng = np.random.default_rng(5)
    many, draws = max(200, int(20_000 * scale)), max(50, int(1000 * scale))
    g = np.repeat(np.arange(20), 4)
    Y = rng.normal(size=(many, len(g))) + 0.8 * rng.normal(size=(many, 20))[:, g]
    fit = jaxlmm.lmm("y ~ 1 + (1 | g)", {"y": Y[0], "g": g})
    fit.permutation("(Intercept)", Y, 5, flip="g", progress=False)
    found, wall, cpu = spent(lambda: fit.permutation("(Intercept)", Y, draws, flip="g", progress=False))
    fits = many * draws
    return {"responses x flips": f"{many} x {draws}", "all, s": f"{wall:.1f} ({cpu:.1f} CPU)",
            "CPU a fit, us": f"{1e6 * cpu / fits:.1f}", "statistics lost": int(found.lost.sum()),
            "20 000 x 1000 would take, CPU s": f"{2e7 * cpu / fits:.0f}"}  # fmt: skip


SECTIONS = {section.__name__: section for section in (genes, stream, families, voxels, flips)}
PUBLISHED = """
Published by others, on their machines: FLASH-MM 11 596 genes x 500 000 cells in 1.4 h, tests by t with n - p; dream 13
minutes of 12 cores for one experiment; FEMA moments in 20 bins, without REML.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.05)
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.section:
        found = SECTIONS[given.section](given.scale)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps(found | {"peak memory, GB": f"{memory:.2f}"}))
        return
    import jax

    print(INTRODUCTION.format(
        date=datetime.date.today(), cpu=cpu_model(), cores=len(os.sched_getaffinity(0)), load=os.getloadavg()[0],
        python=platform.python_version(), jax=jax.__version__, scale=given.scale), end="")  # fmt: skip
    for name in given.only.split(","):
        command = [sys.executable, str(Path(__file__)), "--section", name, "--scale", str(given.scale)]
        found = json.loads(process(command, {}).splitlines()[-1])
        print(f"## {name}\n\n{SECTIONS[name].__doc__}\n\n| | |\n| --- | --- |")
        print("\n".join(f"| {key} | {value} |" for key, value in found.items()) + "\n", flush=True)
    print(PUBLISHED.strip())


if __name__ == "__main__":
    main()
