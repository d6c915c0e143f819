"""Nearly singular fits in a batch: do all converge, and are they as good as lme4's?

    python experiments/batch_checks/near_singular.py [--lanes 20000] [--lme4 200] [--out near_singular.md]

One unbalanced random-slope design; half of the responses have a well-conditioned covariance of intercept and slope,
half one that is singular or nearly so. All are refitted in one batch; on some of each kind lme4 is run with tight
tolerances, and log-likelihoods and singularity are compared. Needs Rscript with lme4.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

import jaxlmm

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from _common import written  # noqa: E402

from batch import SIGMA, WORKLOADS, cpu_model, one_thread, process, seconds_of, table, versions, write_csv  # noqa: E402

DESIGN = WORKLOADS["unbalanced"]
SD = np.array([25.0, 6.0])
KINDS = {  # SD of the slope and correlation
    "well-conditioned": (6.0, 0.07),
    "slope variance 0": (0.0, 0.0),
    "slope SD 0.06": (0.06, 0.0),
    "correlation 0.999": (6.0, 0.999),
    "correlation -1": (6.0, -1.0),
}
WORSE = 1e-6  # log-likelihood
TOLERANCE = 1e-4  # of isSingular

R_SCRIPT = f"""
suppressMessages(library(lme4))
folder <- commandArgs(trailingOnly=TRUE)[1]
data <- read.csv(file.path(folder, "design.csv")); data$g <- factor(data$g)
Y <- as.matrix(read.csv(file.path(folder, "responses.csv"), header=FALSE))
theta <- as.matrix(read.csv(file.path(folder, "theta.csv"), header=FALSE))
control <- lmerControl(calc.derivs=FALSE, optCtrl=list(xtol_abs=1e-10, ftol_abs=1e-11, maxeval=100000))
polish <- lmerControl("bobyqa", calc.derivs=FALSE, optCtrl=list(rhobeg=0.01, rhoend=1e-9, maxfun=100000))
out <- sapply(seq_len(nrow(Y)), function(i) {{
    data$y <- as.numeric(Y[i, ])
    f <- suppressMessages(lmer({DESIGN.formula}, data, control=control))
    criterion <- lmer({DESIGN.formula}, data, devFunOnly=TRUE)
    best <- f
    for (k in 1:3) best <- suppressMessages(lmer({DESIGN.formula}, data, control=polish, start=getME(best, "theta")))
    c(as.numeric(logLik(f)), isSingular(f, tol={TOLERANCE}), as.numeric(logLik(best)),
      isSingular(best, tol={TOLERANCE}), -criterion(theta[i, ]) / 2, getME(f, "theta"))
}})
write.table(format(t(out), digits=17), file.path(folder, "out.csv"), sep=",",
            quote=FALSE, row.names=FALSE, col.names=FALSE)
"""


def draw(lanes: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """The design, responses (lanes, n) and the kind of each: the first half well-conditioned, the others in turn."""
    rng = np.random.default_rng(20_000)
    group, X = design = DESIGN.design()
    half = lanes // 2
    kind = np.concatenate([np.zeros(half, int), 1 + np.arange(lanes - half) % (len(KINDS) - 1)])
    slope, corr = np.array(list(KINDS.values()))[kind].T
    normal = rng.standard_normal((lanes, DESIGN.groups, 2))
    first = SD[0] * normal[..., 0]
    second = slope[:, None] * (corr[:, None] * normal[..., 0] + np.sqrt(1 - corr**2)[:, None] * normal[..., 1])
    mean = X @ [250.0, 10.0] + first[:, group] + second[:, group] * X[:, 1]
    return design, mean + SIGMA * rng.standard_normal((lanes, len(group))), kind


class Lme4(NamedTuple):
    """What lme4 finds, by lane."""

    loglik: np.ndarray
    singular: np.ndarray
    polished: np.ndarray  # log-likelihood after restarts from where it ended
    polished_singular: np.ndarray
    criterion: np.ndarray  # its log-likelihood at jaxlmm's estimates
    theta: np.ndarray  # (b, 3) relative factor


def lme4(design: tuple[np.ndarray, np.ndarray], Y: np.ndarray, theta: np.ndarray) -> Lme4:
    """Fit responses Y (b, n) by lme4 and evaluate its criterion at `theta` (b, 3)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_csv(folder / "design.csv", DESIGN.frame(Y[0], design))
        np.savetxt(folder / "responses.csv", Y, delimiter=",", fmt="%.17g")
        np.savetxt(folder / "theta.csv", theta, delimiter=",", fmt="%.17g")
        (folder / "script.R").write_text(R_SCRIPT)
        process(["Rscript", str(folder / "script.R"), str(folder)], one_thread())
        out = np.loadtxt(folder / "out.csv", delimiter=",", ndmin=2)
    return Lme4(out[:, 0], out[:, 1] == 1, out[:, 2], out[:, 3] == 1, out[:, 4], out[:, 5:])


def relative_factor(fits: jaxlmm.BatchFit) -> np.ndarray:
    """lme4's theta (b, 3) of the batch: the Cholesky factor of the covariance relative to sigma^2."""
    G = fits.varcorr[0] / fits.sigma[:, None, None] ** 2
    a = np.sqrt(G[:, 0, 0])
    with np.errstate(all="ignore"):
        b = np.where(a > 0, G[:, 1, 0] / a, 0.0)
    return np.column_stack([a, b, np.sqrt(np.maximum(G[:, 1, 1] - b**2, 0.0))])


def batch_table(fits: jaxlmm.BatchFit, kind: np.ndarray) -> str:
    """All lanes, by kind."""
    rows = []
    for k, name in enumerate(KINDS):
        mine = kind == k
        statuses = Counter(jaxlmm.Status(s).name.lower() for s in fits.status[mine])
        rest = ", ".join(f"{count} {status}" for status, count in statuses.items() if status != "converged")
        cells = [mine.sum(), fits.converged[mine].sum(), fits.singular[mine].sum(), fits.iterations[mine].max()]
        rows.append([name, *(f"{cell:,}" for cell in cells), f"{fits.iterations[mine].mean():.1f}", rest or "-"])
    return table(["kind", "lanes", "converged", "singular", "most evaluations", "mean", "other statuses"], rows)


def comparison_table(difference: np.ndarray, ours: np.ndarray, theirs: np.ndarray, kind: np.ndarray) -> str:
    """Lanes on which lme4 was run, by kind."""
    rows = []
    for k, name in enumerate(KINDS):
        d, a, b = difference[kind == k], ours[kind == k], theirs[kind == k]
        if len(d):
            counts = [len(d), np.sum(~(d >= -WORSE)), np.sum(d > WORSE), np.sum(a & b), np.sum(a & ~b), np.sum(b & ~a)]
            rows.append([name, *map(str, counts), f"{d.min():+.1e}", f"{d.max():+.1e}"])
    return table(["kind", "lanes", f"below lme4 by > {WORSE:g}", f"above by > {WORSE:g}", "singular in both",
                  "jaxlmm only", "lme4 only", "lowest difference", "highest"], rows)  # fmt: skip


def disagreements(lanes: np.ndarray, fits: jaxlmm.BatchFit, kind: np.ndarray, theirs: Lme4) -> str:
    """Every lane where a flag differs or a log-likelihood differs by more than WORSE, with what decides it."""
    ours, rows = relative_factor(fits), []
    difference = fits.loglik - theirs.loglik
    for i in np.flatnonzero((fits.singular != theirs.singular) | ~(np.abs(difference) <= WORSE)):
        flags = [str(bool(f[i])) for f in (fits.singular, theirs.singular, theirs.polished_singular)]
        smallest = [f"{factor[i, [0, 2]].min():.2e}" for factor in (ours, theirs.theta)]
        differences = [f"{d:+.1e}" for d in (difference[i], fits.loglik[i] - theirs.polished[i])]
        status = jaxlmm.Status(fits.status[i]).name.lower()
        theta = numbers(ours[i], theirs.theta[i])
        rows.append([list(KINDS)[kind[i]], str(lanes[i]), status, *flags, *differences, *smallest, *theta])
    header = ["kind", "lane", "status", "singular: jaxlmm", "lme4", "lme4 restarted", "loglik - lme4's",
              "- restarted lme4's", "smallest diagonal of the relative factor: jaxlmm", "lme4",
              "theta: jaxlmm", "lme4"]  # fmt: skip
    return table(header, rows) if rows else "None."


def numbers(*vectors: np.ndarray) -> list[str]:
    return [" ".join(f"{v:.6g}" for v in vector) for vector in vectors]


def counts(fits: jaxlmm.BatchFit, loglik: np.ndarray, singular: np.ndarray) -> str:
    """How often the batch is worse than lme4, how often better, and how often the flags differ."""
    difference = fits.loglik - loglik
    below, above = int(np.sum(~(difference >= -WORSE))), int(np.sum(difference > WORSE))
    return (
        f"of {len(fits)} lanes {below} are below it by more than {WORSE:g} (lowest {difference.min():+.1e}), "
        f"{above} above (highest {difference.max():+.1e}); {int(np.sum(fits.singular != singular))} other flags"
    )


def report(lanes: int, checked: int) -> str:
    design, Y, kind = draw(lanes)
    fit = jaxlmm.lmm(DESIGN.formula, DESIGN.frame(Y[0], design))
    seconds, fits = seconds_of(lambda: fit.refit(Y))
    chosen = np.unique(np.linspace(0, lanes - 1, min(checked, lanes)).round().astype(int))
    again = fit.refit(Y[chosen])
    theirs = lme4(design, Y[chosen], relative_factor(again))
    own = float(np.max(np.abs(theirs.criterion - again.loglik)))
    apart = float(np.max(np.abs(again.loglik - fits.loglik[chosen])))
    return f"""# Nearly singular fits in a batch

{datetime.date.today()}, {cpu_model()}, Python {platform.python_version()}, jax {importlib.metadata.version("jax")},
{versions(["lme4"])}. `python experiments/batch_checks/near_singular.py --lanes {lanes} --lme4 {checked}`

`{DESIGN.formula}` by REML, {DESIGN.label}; SDs {SD[0]:g} (intercept), {SD[1]:g} (slope) and {SIGMA:g} (residual)
but for what the kind says. lme4: `lmer` from its own start, `calc.derivs=FALSE`, xtol_abs 1e-10, ftol_abs 1e-11;
`isSingular(tol={TOLERANCE:g})`. "lme4 restarted": three times from where it ended, by bobyqa of minqa (rhoend 1e-9).

- converged: {int(fits.converged.sum()):,} of {lanes:,} ({seconds:.1f} s with compiling)
- beside lme4: {counts(again, theirs.loglik, theirs.singular)}
- beside lme4 restarted: {counts(again, theirs.polished, theirs.polished_singular)}
- lme4's own criterion at jaxlmm's estimates differs from jaxlmm's log-likelihood by at most {own:.1e}
- the same lanes fitted in another batch: log-likelihoods differ by at most {apart:.0e}

{batch_table(fits, kind)}

Where lme4 was run, jaxlmm minus lme4:

{comparison_table(again.loglik - theirs.loglik, again.singular, theirs.singular, kind[chosen])}

Disagreements in the flag, or by more than {WORSE:g} in log-likelihood either way:

{disagreements(chosen, again, kind[chosen], theirs)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lanes", type=int, default=20_000)
    parser.add_argument("--lme4", type=int, default=200, help="lanes on which lme4 is run")
    parser.add_argument("--out", type=Path, help="markdown file to write")
    options = parser.parse_args()
    text = report(options.lanes, options.lme4)
    written(text, options.out)


if __name__ == "__main__":
    main()
