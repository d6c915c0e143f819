"""How often a variance is estimated as zero, against the exact probability.

    python experiments/batch_checks/zero_variance.py [--datasets 200000] [--out zero_variance.md]

Balanced one-way data without any variance between K groups of J rows: the REML estimate of it is zero exactly where
the ratio of mean squares is at most 1, so with probability P(F <= 1) of an F distribution with K-1 and K(J-1) degrees
of freedom. `--datasets` is the number over all cells.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.stats

import jaxlmm

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from _common import written  # noqa: E402

from batch import cpu_model, table  # noqa: E402

GROUPS, ROWS = (3, 5, 10, 20, 100), (2, 5, 10, 20)
BATCH_FLOATS = 10_000_000  # responses drawn at a time


class Cell(NamedTuple):
    """What happened to the data sets of one design; `mismatches` holds ratios where flag and ratio disagree."""

    groups: int
    rows: int
    count: int
    zeros: int
    mismatches: np.ndarray
    largest: float  # estimated SD, relative to sigma, among those that should be zero
    statuses: Counter[str]

    @property
    def probability(self) -> float:
        return float(scipy.stats.f.cdf(1.0, self.groups - 1, self.groups * (self.rows - 1)))

    @property
    def error(self) -> float:
        """Monte Carlo standard error."""
        return float(np.sqrt(self.probability * (1 - self.probability) / self.count))

    @property
    def z(self) -> float:
        return (self.zeros / self.count - self.probability) / self.error


def mean_square_ratio(y: np.ndarray) -> np.ndarray:
    """F of responses y (b, K, J)."""
    groups, rows = y.shape[1:]
    means = y.mean(-1)
    between = rows * np.sum((means - means.mean(-1, keepdims=True)) ** 2, -1) / (groups - 1)
    within = np.sum((y - means[..., None]) ** 2, (-1, -2)) / (groups * (rows - 1))
    return between / within


def run_cell(groups: int, rows: int, count: int) -> Cell:
    rng = np.random.default_rng([groups, rows])
    group, n = np.repeat(np.arange(groups), rows), groups * rows
    fit = jaxlmm.lmm("y ~ 1 + (1 | g)", {"y": rng.standard_normal(n), "g": group})
    zeros, largest, mismatches, statuses = 0, 0.0, [], Counter()
    for start in range(0, count, max(1, BATCH_FLOATS // n)):
        Y = rng.standard_normal((min(BATCH_FLOATS // n, count - start), n))
        fits = fit.refit(Y)
        ratio = mean_square_ratio(Y.reshape(-1, groups, rows))
        zeros += int(fits.singular.sum())
        mismatches.append(ratio[fits.singular != (ratio <= 1)])
        relative = np.sqrt(fits.varcorr[0][:, 0, 0]) / fits.sigma
        largest = max(largest, float(np.max(relative[ratio <= 1], initial=0.0)))
        statuses.update(jaxlmm.Status(s).name.lower() for s in fits.status)
    return Cell(groups, rows, count, zeros, np.concatenate(mismatches), largest, statuses)


def cell_row(cell: Cell) -> list[str]:
    shares = [f"{cell.probability:.4f}", f"{cell.zeros / cell.count:.4f}", f"{cell.error:.4f}", f"{cell.z:+.2f}"]
    rest = ", ".join(f"{count} {status}" for status, count in cell.statuses.items() if status != "converged")
    ends = [str(len(cell.mismatches)), f"{cell.largest:.1g}", f"{cell.statuses['converged']:,}", rest or "-"]
    return [f"{cell.groups} x {cell.rows}", f"{cell.count:,}", *shares, *ends]


def report(datasets: int) -> str:
    start, cells = time.perf_counter(), []
    count = datasets // (len(GROUPS) * len(ROWS))
    for groups in GROUPS:
        for rows in ROWS:
            cells.append(run_cell(groups, rows, count))
            print(f"{groups} x {rows}: z = {cells[-1].z:+.2f}", file=sys.stderr, flush=True)
    square = sum(cell.z**2 for cell in cells)
    worst = max(abs(cell.z) for cell in cells)
    exceeding = 1 - (1 - 2 * scipy.stats.norm.sf(worst)) ** len(cells)
    statuses = sum((cell.statuses for cell in cells), Counter())
    mismatches = np.concatenate([cell.mismatches for cell in cells])
    header = ["groups x rows", "data sets", "P(F <= 1)", "share of zeros", "its error", "z", "mismatches",
              "largest relative SD where it should be 0", "converged", "other statuses"]  # fmt: skip
    return f"""# How often a variance is estimated as zero

{datetime.date.today()}, {cpu_model()}, Python {platform.python_version()}, jax {importlib.metadata.version("jax")}.
`python experiments/batch_checks/zero_variance.py --datasets {datasets}`: {time.perf_counter() - start:.0f} s.

Balanced one-way data without variance between groups, `y ~ 1 + (1 | g)` by REML. A mismatch is a data set whose
singular flag is not what its ratio of mean squares says (zero variance where it is at most 1).

- largest |z| {worst:.2f} of {len(cells)} cells (as large or larger by chance: p = {exceeding:.2f});
  sum of z^2 {square:.1f}, p = {scipy.stats.chi2.sf(square, len(cells)):.2f}
- mismatches: {len(mismatches)} of {count * len(cells):,}{nearest(mismatches)}
- statuses: {", ".join(f"{number:,} {status}" for status, number in statuses.most_common())}

{table(header, [cell_row(cell) for cell in cells])}
"""


def nearest(mismatches: np.ndarray) -> str:
    """How far the ratios of mismatches are from 1."""
    return f"; their ratios differ from 1 by up to {np.abs(mismatches - 1).max():.1e}" if len(mismatches) else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=200_000, help="over all cells")
    parser.add_argument("--out", type=Path, help="markdown file to write")
    options = parser.parse_args()
    text = report(options.datasets)
    written(text, options.out)


if __name__ == "__main__":
    main()
