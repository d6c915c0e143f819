"""Type-I error and coverage of the tests of fixed effects, on designs of published simulations.

    python experiments/inference/type1_error.py [--replicates 10000] [--only word] [--long] [--out type1_error.md]

Every data set of a design is fitted and tested in the batch layer, `Fit.refit(Y, tests=jaxlmm.Tests(...))`, and none is
dropped: fits that did not converge and tests without degrees of freedom are counted in the tables. All methods test the
same data. Data sets of design d come from `numpy.random.default_rng([SEED, d])`, d being its number in the tables.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

import jaxlmm

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from _common import cpu_model, note, table  # noqa: E402

SEED = 20261123
PART = 2_500  # data sets in one call
SAME = 1e-6  # difference of p-values that are the same
WALD, SATTERTHWAITE, KR, FULL = "asymptotic", "satterthwaite", "kenward-roger", "kenward-roger-full"
SHORT = {WALD: "z or chi2", SATTERTHWAITE: "Satterthwaite", KR: "KR", FULL: "KR full"}


@dataclass(frozen=True)
class Design:
    """A design, what is true in it, and what is tested.

    `draw(rng, b)` gives b responses (b, n), NaN where missing; `exact(Y)` p-values of a test whose size is known.
    """

    study: str
    name: str
    formula: str
    data: dict[str, Any]
    L: np.ndarray
    beta: np.ndarray
    draw: Callable[[np.random.Generator, int], np.ndarray]
    methods: tuple[str, ...] = (WALD, SATTERTHWAITE, KR)
    residual: str | None = None
    robust: str | None = None
    method: str = "REML"
    without: str | None = None  # formula of the null model, for a likelihood ratio test
    exact: Callable[[np.ndarray], np.ndarray] | None = None
    unbounded: Callable[[np.ndarray], np.ndarray] | None = None  # whether the likelihood of each data set is
    published: dict[str, dict[float, float]] = field(default_factory=dict)
    long: bool = False  # only where asked for


@dataclass
class Tested:
    """What one method gave in all data sets of a design: t test of the last row of L, `joint_p` of all rows."""

    p: np.ndarray
    joint_p: np.ndarray
    covered: np.ndarray
    se: np.ndarray
    df: np.ndarray
    den_df: np.ndarray
    estimate: np.ndarray
    status: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        return self.status == jaxlmm.TestStatus.OK

    @property
    def others(self) -> str:
        names = Counter(jaxlmm.TestStatus(s).name.lower() for s in self.status[~self.kept])
        return ", ".join(f"{count} {name}" for name, count in names.items())


@dataclass
class Result:
    number: int
    design: Design
    tests: dict[str, Tested]
    statuses: Counter[str]
    singular: float
    fitted: int
    lrt: np.ndarray | None
    exact: np.ndarray | None
    unbounded: np.ndarray
    seconds: float
    at_zero: np.ndarray  # which data sets have a covariance parameter on its boundary


# -- designs --------------------------------------------------------------------------------------------------------


def cluster_trial(sizes: list[int], icc: float) -> Design:
    """Two arms of clusters, `y ~ arm + (1 | cluster)`; total variance 1."""
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    arm = (cluster % 2).astype(float)
    beta = np.array([1.0, 0.3])

    def draw(rng: np.random.Generator, b: int) -> np.ndarray:
        effects = np.sqrt(icc) * rng.standard_normal((b, len(sizes)))
        return beta[0] + beta[1] * arm + effects[:, cluster] + np.sqrt(1 - icc) * rng.standard_normal((b, len(cluster)))

    def means_test(Y: np.ndarray) -> np.ndarray:
        means = np.stack([Y[:, cluster == c].mean(1) for c in range(len(sizes))], 1)
        means = means - beta[1] * (np.arange(len(sizes)) % 2)
        return np.asarray(scipy.stats.ttest_ind(means[:, ::2], means[:, 1::2], axis=1).pvalue)

    equal = len(set(sizes)) == 1
    label = f"{len(sizes)} x {sizes[0]}" if equal else f"{len(sizes)} x {min(sizes)} to {max(sizes)}"
    return Design(
        "cluster trial", f"{label}, ICC {icc:g}", "y ~ arm + (1 | cluster)", {"arm": arm, "cluster": cluster},
        np.array([[0.0, 1.0]]), beta, draw, robust="CR2-mmrm", exact=means_test if equal else None,
    )  # fmt: skip


def crossed(items: int, method: str, published: dict[str, dict[float, float]]) -> Design:
    """24 subjects by items, the condition between items; variances, correlation and loss differ between data sets."""
    subjects, beta = 24, np.array([0.0, 0.8])
    subject, item = np.repeat(np.arange(subjects), items), np.tile(np.arange(items), subjects)
    condition = np.where(item % 2 == 0, -0.5, 0.5)

    def draw(rng: np.random.Generator, b: int) -> np.ndarray:
        intercept, correlation = rng.uniform(-3, 3, b), rng.uniform(-0.8, 0.8, b)
        s0, s1, w0, error = np.sqrt(rng.uniform(0, 3, (4, b, 1)))
        z0, z1 = rng.standard_normal((2, b, subjects))
        slopes = s1 * (correlation[:, None] * z0 + np.sqrt(1 - correlation[:, None] ** 2) * z1)
        Y = intercept[:, None] + (s0 * z0)[:, subject] + (beta[1] + slopes[:, subject]) * condition
        Y += (w0 * rng.standard_normal((b, items)))[:, item] + error * rng.standard_normal((b, len(item)))
        lost = np.rint(rng.uniform(0, 0.05, b) * len(item))
        place = np.argsort(np.argsort(rng.random(Y.shape), 1), 1)  # exactly so many rows are lost, any of them
        return np.where(place < lost[:, None], np.nan, Y)

    random = "(1 + condition | subject) + (1 | item)"
    return Design(
        "crossed", f"24 subjects, {items} items, {method}", f"y ~ condition + {random}",
        {"condition": condition, "subject": subject, "item": item}, np.array([[0.0, 1.0]]), beta, draw,
        methods=(WALD,) if method == "ML" else (WALD, SATTERTHWAITE, KR), method=method,
        without=f"y ~ 1 + {random}" if method == "ML" else None, published=published, long=items > 12,
    )  # fmt: skip


def repeated(subjects: int, structure: str, dropout: float) -> Design:
    """Two arms, five visits, a mean for each arm and visit; lost visits stay lost."""
    visits = 5
    subject, visit = np.repeat(np.arange(subjects), visits), np.tile(np.arange(visits), subjects)
    arm = (subject % 2).astype(float)
    beta = np.concatenate([[10.0, 1.0], 0.5 * np.arange(1, visits), 0.25 * np.arange(1, visits)])
    lag = np.abs(np.subtract.outer(np.arange(visits), np.arange(visits)))
    covariance = {"cs": np.where(lag == 0, 1.0, 0.6), "ar1": 0.7**lag, "us": 0.7**lag}[structure]
    if structure == "us":
        sd = np.linspace(1.0, 2.0, visits)
        covariance = sd[:, None] * covariance * sd
    root = np.linalg.cholesky(covariance)
    steps, extra = np.concatenate([[0], beta[2:6]]), np.concatenate([[0], beta[6:]])
    mean = beta[0] + beta[1] * arm + steps[visit] + arm * extra[visit]

    def draw(rng: np.random.Generator, b: int) -> np.ndarray:
        errors = rng.standard_normal((b, subjects, visits)) @ root.T
        leaves = np.where(rng.random((b, subjects)) < dropout, rng.integers(2, visits, (b, subjects)), visits)
        Y = mean + errors.reshape(b, -1)
        return np.where(np.arange(visits) < leaves[..., None], Y.reshape(errors.shape), np.nan).reshape(b, -1)

    def balanced(Y: np.ndarray) -> np.ndarray:
        changes = np.diff((Y - mean).reshape(-1, subjects, visits), axis=2)
        if structure == "us":
            return hotelling(changes[:, ::2], changes[:, 1::2])
        return split_plot((Y - mean).reshape(-1, subjects, visits))

    def saturated(Y: np.ndarray) -> np.ndarray:
        """Whether the last visit, given the arms and the earlier visits, leaves no residual: no matrix is the best."""
        stays = ~np.isnan(Y.reshape(-1, subjects, visits)[:, :, -1])
        arms = np.sum([stays[:, start::2].any(1) for start in (0, 1)], 0)
        return np.asarray(stays.sum(1) <= arms + visits - 1)

    known = dropout == 0 and structure in ("us", "cs")
    linear = structure != "ar1"
    return Design(
        "repeated measures", f"{structure}, {subjects} subjects" + (f", {dropout:.0%} leave" if dropout else ""),
        "y ~ arm * visit", {"arm": arm, "visit": np.array([f"v{v}" for v in visit]), "subject": subject},
        np.eye(10)[6:], beta, draw,
        methods=(WALD, SATTERTHWAITE, KR) if linear else (WALD, SATTERTHWAITE, KR, FULL),
        residual=f"{structure}(visit | subject)", robust=None if dropout else "CR3", exact=balanced if known else None,
        unbounded=saturated if structure == "us" else None,
    )  # fmt: skip


def hotelling(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """p-values of the two-sample test of equal means, of data sets (b, subjects, q): exact for normal data."""
    (n1, q), n2 = first.shape[1:], second.shape[1]
    gap = first.mean(1) - second.mean(1)
    centred = np.concatenate([first - first.mean(1, keepdims=True), second - second.mean(1, keepdims=True)], 1)
    pooled = np.einsum("bni,bnj->bij", centred, centred) / (n1 + n2 - 2)
    T2 = n1 * n2 / (n1 + n2) * np.einsum("bi,bi->b", gap, np.linalg.solve(pooled, gap[..., None])[..., 0])
    return np.asarray(scipy.stats.f.sf(T2 * (n1 + n2 - q - 1) / (q * (n1 + n2 - 2)), q, n1 + n2 - q - 1))


def split_plot(e: np.ndarray) -> np.ndarray:
    """p-values of the interaction of arms (alternating) and visits in the split-plot analysis of variance."""
    _, n, v = e.shape
    within = e - e.mean(2, keepdims=True)
    arms = [within[:, start::2] for start in (0, 1)]
    overall = within.mean(1, keepdims=True)
    between = sum(a.shape[1] * np.sum((a.mean(1) - overall[:, 0]) ** 2, 1) for a in arms)
    rest = sum(np.sum((a - a.mean(1, keepdims=True)) ** 2, (1, 2)) for a in arms)
    F = (between / (v - 1)) / (rest / ((n - 2) * (v - 1)))
    return np.asarray(scipy.stats.f.sf(F, v - 1, (n - 2) * (v - 1)))


BARR = "Barr et al. 2013"
UNEQUAL = [2, 3, 4, 5, 7, 9, 12, 15, 19, 24]


def designs() -> Iterator[Design]:
    for clusters in (6, 10, 20, 30, 70):
        for icc in (0.05, 0.2):
            yield cluster_trial([10] * clusters, icc)
    for icc in (0.05, 0.2):
        yield cluster_trial(UNEQUAL, icc)
    for items, z, lrt in ((12, (0.029, 0.143), (0.017, 0.129)), (24, (0.017, 0.120), (0.013, 0.113))):
        published = {WALD: dict(zip((0.01, 0.1), z, strict=True)), "LRT": dict(zip((0.01, 0.1), lrt, strict=True))}
        yield crossed(items, "ML", published)
        yield crossed(items, "REML", {})
    for structure, subjects in (("cs", 12), ("ar1", 12), ("us", 12), ("us", 24)):
        for dropout in (0.0, 0.2):
            yield repeated(subjects, structure, dropout)


# -- running --------------------------------------------------------------------------------------------------------


def run(number: int, design: Design, replicates: int) -> Result:
    start = time.perf_counter()
    rng = np.random.default_rng([SEED, number])
    truth = design.L @ design.beta
    tests = jaxlmm.Tests(design.L, truth, df=design.methods, robust=design.robust)
    Ys = [design.draw(rng, min(PART, replicates - first)) for first in range(0, replicates, PART)]
    first = np.where(np.isnan(Ys[0][0]), np.nanmean(Ys[0][0]), Ys[0][0])
    fit = jaxlmm.lmm(design.formula, design.data | {"y": first}, design.method, residual=design.residual)
    missing = "drop" if any(np.isnan(Y).any() for Y in Ys) else "status"
    batches = [fit.refit(Y, missing=missing, tests=tests, progress=False) for Y in Ys]
    lrt = None
    if design.without:
        # of the true effect: its part of the response is taken away, and so the null model is true
        small = jaxlmm.lmm(design.without, design.data | {"y": first}, design.method)
        known = np.asarray(fit.model.X) @ design.beta
        null = [small.refit(Y - known, missing=missing, progress=False) for Y in Ys]
        both = [a.converged & b.converged for a, b in zip(batches, null, strict=True)]
        chi2 = [2 * (a.loglik - b.loglik) for a, b in zip(batches, null, strict=True)]
        p = [np.where(ok, scipy.stats.chi2.sf(np.maximum(c, 0), 1), np.nan) for ok, c in zip(both, chi2, strict=True)]
        lrt = np.concatenate(p)
    statuses = Counter(jaxlmm.Status(s).name.lower() for batch in batches for s in batch.status)
    singular = sum(int(batch.singular.sum()) for batch in batches) / replicates
    found = {key: tested(batches, key, truth) for key in tests.keys}
    exact = None if design.exact is None else np.concatenate([design.exact(Y) for Y in Ys])
    fitted = sum(int(batch.converged.sum()) for batch in batches)
    never = np.zeros(replicates, bool)
    unbounded = never if design.unbounded is None else np.concatenate([design.unbounded(Y) for Y in Ys])
    seconds = time.perf_counter() - start
    at_zero = np.concatenate([batch.singular for batch in batches])
    return Result(number, design, found, statuses, singular, fitted, lrt, exact, unbounded, seconds, at_zero)


def tested(batches: list[Any], key: str, truth: np.ndarray) -> Tested:
    """The results of a method, put together; coverage of the 95 % interval of the last row by its truth."""
    parts = [batch.tests[key] for batch in batches]

    def column(name: str) -> np.ndarray:
        values = np.concatenate([getattr(part, name) for part in parts])
        return values[:, -1] if values.ndim == 2 else values

    half = scipy.stats.t.ppf(0.975, column("df")) * column("se")
    covered = np.abs(column("estimate") - truth[-1]) <= half
    rest = [column(name) for name in ("se", "df", "den_df", "estimate", "status")]
    return Tested(column("p"), column("joint_p"), covered, *rest)


# -- tables ---------------------------------------------------------------------------------------------------------


def share(values: np.ndarray, level: float = 0.05) -> str:
    """Of p-values up to a level, in percent, with its Monte Carlo standard error."""
    rate = float(np.mean(values <= level))
    return f"{100 * rate:.2f} ({100 * np.sqrt(rate * (1 - rate) / len(values)):.2f})"


def columns_of(results: list[Result]) -> list[str]:
    keys = dict.fromkeys(key for result in results for key in result.tests)
    return sorted(keys, key=lambda key: (key not in SHORT, list(SHORT).index(key) if key in SHORT else 0))


def rates(results: list[Result], attribute: str, last: str | None = None) -> str:
    """Rejections by method; `last`: what the exact test is."""
    keys = columns_of(results)
    rows = []
    for r in results:
        row = [str(r.number), r.design.name]
        row += [share(getattr(r.tests[k], attribute)[r.tests[k].kept]) if k in r.tests else "" for k in keys]
        rows.append(row + ([share(r.exact) if r.exact is not None else ""] if last else []))
    return table(["design", "", *(SHORT.get(k, k) for k in keys), *([last] if last else [])], rows)


def cover_share(one: Tested) -> str:
    rate = float(np.mean(one.covered[one.kept]))
    return f"{100 * rate:.2f} ({100 * np.sqrt(rate * (1 - rate) / one.kept.sum()):.2f})"


def split_table(results: list[Result]) -> str:
    """Rejections where the variance is estimated as zero, and elsewhere."""
    rows = []
    for r in results:
        for where, chosen in (("zero", r.at_zero), ("not zero", ~r.at_zero)):
            count = int(chosen.sum())
            if r.singular > 0.05:
                shares = [share(t.p[chosen & t.kept]) for t in r.tests.values()]
                rows.append([str(r.number), r.design.name, where, f"{count:,}", *shares])
    header = ["design", "", "variance of clusters", "data sets", *(SHORT.get(k, k) for k in results[0].tests)]
    return table(header, rows)


def coverage_table(results: list[Result]) -> str:
    keys = columns_of(results)
    rows = [
        [str(r.number), r.design.name, *(cover_share(r.tests[k]) if k in r.tests else "" for k in keys)]
        for r in results
    ]
    return table(["design", "", *(SHORT.get(k, k) for k in keys)], rows)


def errors_table(results: list[Result]) -> str:
    """Mean standard errors beside the standard deviation of the estimates, and degrees of freedom."""
    keys = [key for key in columns_of(results) if key != SATTERTHWAITE]  # whose standard errors are the model's
    methods = [key for key in (SATTERTHWAITE, KR) if any(key in r.tests for r in results)]
    rows = []
    for r in results:
        spread = float(np.std(r.tests[WALD].estimate[r.tests[WALD].kept]))
        ratios = [f"{np.mean(r.tests[k].se[r.tests[k].kept]) / spread:.3f}" if k in r.tests else "" for k in keys]
        dfs = [quantiles(r.tests[k]) if k in r.tests else "" for k in methods]
        rows.append([str(r.number), r.design.name, *ratios, *dfs])
    names = ["model" if key == WALD else SHORT.get(key, key) for key in keys]
    return table(["design", "", *(f"SE / SD: {n}" for n in names), *(f"df: {SHORT[k]}" for k in methods)], rows)


def status_table(results: list[Result]) -> str:
    rows = []
    for r in results:
        other = ", ".join(f"{count:,} {status}" for status, count in r.statuses.items() if status != "converged")
        lost = "; ".join(f"{SHORT.get(k, k)}: {t.others}" for k, t in r.tests.items() if t.others)
        counts = [
            f"{r.statuses['converged']:,}",
            other or "-",
            f"{r.unbounded.sum():,}",
            f"{100 * r.singular:.2f}",
            lost or "-",
        ]
        rows.append([str(r.number), r.design.name, *counts, f"{r.seconds:.0f}"])
    return table(
        ["design", "", "converged", "others", "likelihood unbounded", "singular %", "tests without result", "seconds"],
        rows,
    )


def quantiles(one: Tested) -> str:
    low, middle, high = np.quantile(one.df[one.kept], [0.0, 0.5, 1.0])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def comparisons(results: list[Result]) -> str:
    """Published rates beside ours."""
    rows = []
    for r in results:
        for key, levels in r.design.published.items():
            values = r.lrt if key == "LRT" else r.tests[key].p[r.tests[key].kept]
            values = values[~np.isnan(values)]
            for level, rate in levels.items():
                ours = float(np.mean(values <= level))
                error = np.sqrt(ours * (1 - ours) / len(values))
                z = (ours - rate) / np.hypot(error, np.sqrt(rate * (1 - rate) / 100_000))
                name = "likelihood ratio" if key == "LRT" else "t as z"
                rows.append(
                    [
                        f"{r.number}",
                        r.design.name,
                        name,
                        f"{level:g}",
                        f"{rate:.3f}",
                        f"{ours:.4f}",
                        f"{error:.4f}",
                        f"{z:+.1f}",
                    ]
                )  # noqa: E501
    return table(["design", "", "test", "level", "published", "here", "its error", "z"], rows)


def identity_table(results: list[Result]) -> str:
    """Kenward-Roger beside tests that are exact, data set by data set."""
    rows = []
    for r in results:
        if r.exact is not None:
            one = r.tests[KR]
            gaps = np.abs((one.p if len(r.design.L) == 1 else one.joint_p) - r.exact)[one.kept]
            same = 100 * np.mean(gaps < SAME)
            words = [f"{np.median(gaps):.1e}", f"{same:.2f}", f"{100 * (1 - r.singular):.2f}", f"{gaps.max():.1e}"]
            rows.append([str(r.number), r.design.name, *words])
    header = ["design", "", "median difference in p", f"below {SAME:g} %", "not singular %", "largest"]
    return table(header, rows)


INTRODUCTION = """# Type-I error and coverage of tests of fixed effects

{date}, {cpu}, Python {python}, jax {jax}, jaxlib {jaxlib}, numpy {numpy}, jaxlmm {jaxlmm}.
`python experiments/inference/type1_error.py{options}`: {seconds:.0f} s.

{replicates:,} data sets a design, REML unless it says ML; data sets of design d from `default_rng([{seed}, d])`. The
true effects are not zero and the hypotheses tested are true. Tests at 5 % unless it says otherwise, in percent, Monte
Carlo standard errors in brackets (0.22 at 5 % of 10,000). "z or chi2" is Wald's test without degrees of freedom; KR is
first-order Kenward-Roger, the same as the full one where V is linear in its parameters. Rates are of the data sets
with a result (last table). What is not said to be of a paper is ours.
"""

TRIALS = """## Cluster randomised trials

Two arms, a random intercept a cluster, `y ~ arm + (1 | cluster)`, total variance 1. Kahan et al. (2016, Trials 17:438,
abstract): a simulation with 6 to 100 clusters; the uncorrected mixed model rejects too often up to 70 clusters,
corrected ones do not. Huang (2018, Educ Psychol Meas 78:297, Table 2): 10, 20, 30 clusters of 10, 30, 50, ICC 0.05 to
0.30. Leyrat et al. (2018, doi 10.1093/ije/dyx169, abstract): up to 40 clusters of varying size, corrected tests at or
below 5 %. Of these papers are the numbers of clusters (6, 70 Kahan; 10, 20, 30 Huang), the size 10 and the ICCs 0.05
and 0.20 (Huang); the unequal sizes are ours (2 to 24, mean 10), after Leyrat. "means": the t test of cluster means,
exact for equal sizes. Rates of the papers for single designs were not at hand (figures), but for Huang's bias of the
standard errors below.
"""

SPLIT = """Rejections where the variance of clusters is estimated as zero and where it is not, of designs where it is
in more than 5 % of data sets. Kenward-Roger keeps the variance as an unknown there, as pbkrtest does; Satterthwaite
drops it, as lmerTest does (`boundary_df`):
"""

HUANG = """Huang's Table 2 gives the bias of the standard error of multilevel models with Kenward-Roger, percent of the
standard deviation of the estimates, clusters of 10. The number of data sets, and what else is in the paper's model and
design, were not at hand: this shows the order of magnitude, no agreement design by design.
"""

CROSSED = """## Crossed subjects and items

Barr et al. (2013, J Mem Lang 68:255): 24 subjects by 12 or 24 items, condition (+-1/2) between items,
`y ~ condition + (1 + condition | subject) + (1 | item)`. In each data set: intercept uniform on (-3, 3), variances
uniform on (0, 3), correlation uniform on (-0.8, 0.8), a share of rows lost uniform on (0, 0.05): all of the paper's
program (simgen; the effect 0.8 too, which is tested against itself here). Published: 100,000 data sets, ML, at
1 % and 10 % (companion page of the paper, "additional results", between-items designs, maximal model). Luke (2017,
Behav Res Methods 49:1494, abstract): likelihood ratio tests and t as z anticonservative, REML with Satterthwaite and
Kenward-Roger near 5 %; his rates were not at hand. The four comparisons below are of the same data sets, so not
independent. 24 items: with `--long`. Standard errors are below the standard
deviation of all estimates because the variances differ between data sets.
"""

REPEATED = """## Repeated measures of few subjects

Two arms, five visits, `y ~ arm * visit` with the structure that is true; the joint test is of the interaction (4 df),
the t test of its last row. Skene & Kenward (2010, Stat Med 29:2825 and 2838, abstracts): with an unstructured matrix
and very few subjects Kenward-Roger is inadequate where data are unbalanced or incomplete; of their example of cardiac
enzymes are 12 subjects in two arms (five visits here, there nine). Schaalje et al. (2002, doi 10.1198/108571102726,
abstract): Kenward-Roger better than Satterthwaite's F (Fai-Cornelius), too liberal for complex structures with few
subjects; errors grow with complexity, imbalance and fewer subjects: these are varied here. Correlations 0.6 (cs) and
0.7^lag (ar1; us with SDs from 1 to 2) are ours, and so is dropout: each subject leaves after visit 2, 3 or 4 with
probability 0.2. A first trial of 60 data sets had 0.3, where 9 unstructured fits did not converge; the last table
counts data sets whose likelihood has no maximum, and rates without them are of a selection. Rates of the papers were
not at hand. "exact": Hotelling's T2 for us, the split-plot analysis of variance for cs, complete data.
"""

HUANG_BIAS = {(10, 0.05): -2.8, (10, 0.2): -2.8, (20, 0.05): 0.3, (20, 0.2): -0.6, (30, 0.05): 2.9, (30, 0.2): 1.8}


def huang_table(results: list[Result]) -> str:
    rows = []
    for r in results:
        for (clusters, icc), bias in HUANG_BIAS.items():
            if r.design.name == f"{clusters} x 10, ICC {icc:g}":
                one = r.tests[KR]
                se, spread = one.se[one.kept], np.std(one.estimate[one.kept])
                ratio = np.mean(se) / spread
                error = ratio * np.sqrt(np.var(se) / np.mean(se) ** 2 / len(se) + 1 / (2 * len(se)))
                rows.append([r.design.name, f"{bias:+.1f}", f"{100 * (ratio - 1):+.1f}", f"{100 * error:.1f}"])
    return table(["design", "published", "here", "its error"], rows)


def document(results: list[Result], replicates: int, seconds: float) -> str:
    def of(study: str) -> list[Result]:
        return [r for r in results if r.design.study == study]

    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    parts = [
        INTRODUCTION.format(
            date=datetime.date.today(), cpu=cpu_model(), python=platform.python_version(), **versions,
            jaxlmm=jaxlmm.__version__, replicates=replicates, seed=SEED, seconds=seconds,
            options=f" --replicates {replicates}",
        )
    ]  # fmt: skip
    trials, both, visits = of("cluster trial"), of("crossed"), of("repeated measures")
    if trials:
        parts += [TRIALS, "Rejections, %:\n", rates(trials, "p", "means"), "\nCoverage of 95 % intervals, %:\n",
                  coverage_table(trials), "\n" + SPLIT, split_table(trials),
                  "\nStandard errors, degrees of freedom (median, smallest to largest):\n",
                  errors_table(trials), "\n" + HUANG, huang_table(trials), ""]  # fmt: skip
    if both:
        parts += [CROSSED, comparisons(both), "\nRejections at 5 %:\n", rates(both, "p"),
                  "\nCoverage of 95 % intervals, %:\n", coverage_table(both), "", errors_table(both), ""]  # fmt: skip
    if visits:
        parts += [REPEATED, "Rejections by the joint test, %:\n", rates(visits, "joint_p", "exact"),
                  "\nRejections by the t test, %:\n", rates(visits, "p"), "\nCoverage of 95 % intervals, %:\n",
                  coverage_table(visits), "", errors_table(visits), ""]  # fmt: skip
    parts += [
        "## Kenward-Roger and exact tests\n",
        EXACT,
        identity_table(results),
        "\n## Data sets\n",
        status_table(results),
    ]
    return "\n".join(parts) + "\n"


EXACT = """Equal cluster sizes: the t test of cluster means where the variance of clusters is not estimated as zero;
complete repeated measures: Hotelling's T2 (us) and the split-plot analysis of variance (cs). p-values of the same data
sets:
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=10_000, help="data sets a design")
    parser.add_argument("--long", action="store_true", help="24 items too, which take as long as all others")
    parser.add_argument("--only", default="", help="designs whose study or name has this word")
    parser.add_argument("--out", type=Path, help="markdown file to write")
    options = parser.parse_args()
    start, results, text = time.perf_counter(), [], "no such design"
    for number, design in enumerate(designs(), 1):
        if options.only in f"{design.study} {design.name}" and (options.long or not design.long):
            results.append(run(number, design, options.replicates))
            r = results[-1]
            p = {key: f"{100 * np.mean(t.joint_p[t.kept] <= 0.05):.2f}" for key, t in r.tests.items()}
            note(f"{number} {design.name}: {r.seconds:.0f} s, {dict(r.statuses)}, singular {r.singular:.3f}, {p}")
            text = document(results, options.replicates, time.perf_counter() - start)
            if options.out:  # after each design: what is there is not lost
                options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
