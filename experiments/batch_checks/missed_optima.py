"""What singular lanes cost, and whether an optimum is missed: batches of small data against runs from many starts.

    python experiments/batch_checks/missed_optima.py [--lanes 4000] [--out missed_optima.md]

Every set is a design of its own, q = 2: interior lanes, null ones, nearly singular ones, and tiny data, whose
likelihoods often have several optima. The reference is the best of `fit_batch` and of runs of the solver from
27 starts. Time is that of the process on all cores together, so that a busy machine changes it little.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import jaxlmm
from jaxlmm.batch.queue import Runner
from jaxlmm.batch.responses import Design, Lane, Shared
from jaxlmm.fitting.boundary import Search
from jaxlmm.fitting.newton import Status
from jaxlmm.fitting.objective import Spec, packing_of, scale_of
from jaxlmm.runtime.precision import float64

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from _common import written  # noqa: E402

from batch import cpu_model, table  # noqa: E402

SIGMA = 25.0
CORRELATIONS, FACTORS = (0.0, -0.9, 0.9), (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
MORE = 6  # starts drawn


class Set(NamedTuple):
    """A design, and SDs and correlation of intercept and slope."""

    groups: int
    fewest: int
    most: int
    sd: tuple[float, float]
    correlation: float = 0.0

    def draw(self, lanes: int) -> tuple[jaxlmm.Model, np.ndarray]:
        """A model and responses (lanes, n)."""
        rng = np.random.default_rng([self.groups, self.most])
        group = np.repeat(np.arange(self.groups), rng.integers(self.fewest, self.most + 1, self.groups))
        X = np.column_stack([np.ones(len(group)), rng.uniform(0, 9, len(group))])
        mixed = np.linalg.cholesky([[1.0, self.correlation], [self.correlation, 1.0]]).T * self.sd
        effects = rng.standard_normal((lanes, self.groups, 2)) @ mixed
        Y = SIGMA * rng.standard_normal((lanes, len(group))) + np.sum(X * effects[:, group], -1)
        return jaxlmm.Model(Y[0], X, jaxlmm.Term(X, group, jaxlmm.Unstructured())), Y


SETS = {
    "interior, 18 groups x 5 to 11": Set(18, 5, 11, (25.0, 6.0)),
    "null, the same": Set(18, 5, 11, (0.0, 0.0)),
    "SD of the slope 0.06, the same": Set(18, 5, 11, (25.0, 0.06)),
    "correlation 0.999, the same": Set(18, 5, 11, (25.0, 6.0), 0.999),
    "middling, 10 groups x 4 to 8": Set(10, 4, 8, (15.0, 4.0), 0.5),
    "middling null, 10 groups x 4 to 8": Set(10, 4, 8, (0.0, 0.0)),
    "sparse, 31 groups x 1 to 3": Set(31, 1, 3, (15.0, 4.0)),
    "tiny, 5 groups x 2 to 4": Set(5, 2, 4, (15.0, 4.0)),
    "tiny null, 5 groups x 2 to 4": Set(5, 2, 4, (0.0, 0.0)),
    "small, 10 groups x 2 to 5": Set(10, 2, 5, (15.0, 4.0), 0.5),
}


def best_of_many(model: jaxlmm.Model, Y: np.ndarray) -> np.ndarray:
    """The highest log-likelihood (b,) that runs from all starts end at."""
    spec, b = Spec.of(model, "REML"), len(Y)
    with float64():
        design = Design(model)
        shared, lanes = Shared(design.template, scale_of(spec, design.template.basis)), Lane(design.responses(Y), None)
        start, packing = np.tile(spec.start((None,)), (b, 1)), packing_of(spec, model.X.shape[1])
        search = Search(spec, packing, np.broadcast_to(shared.scale, start.shape), Runner(spec, shared, lanes, b))
        starts = [f * search._correlated(start, c) for c in CORRELATIONS for f in FACTORS]
        rng, best = np.random.default_rng(0), np.full(b, np.inf)
        pivots = 10 ** rng.uniform(-1.5, 1.0, (MORE, 2))
        starts += [start * 0 + [p[0], 0.3 * rng.standard_normal(), p[1]] for p in pivots]
        for s in starts:
            ends = search.run(np.arange(b), s)
            best = np.minimum(best, np.where(ends.status == Status.CONVERGED, search.point(ends).value, np.inf))
    return -0.5 * best


def row(name: str, data: Set, lanes: int) -> list[str]:
    model, Y = data.draw(lanes)
    jaxlmm.fit_batch(model, Y, progress=False)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        fits = jaxlmm.fit_batch(model, Y, progress=False)
        seconds.append(time.process_time() - start)
    short = best_of_many(model, Y) - np.where(fits.converged, fits.loglik, -np.inf)
    means = [fits.iterations[some].mean() if some.any() else np.nan for some in (fits.singular, ~fits.singular)]
    counts = [str(int(np.sum(short > level))) for level in (1e-6, 1e-4)]
    return [name, f"{lanes:,}", f"{100 * fits.singular.mean():.1f}", f"{fits.iterations.mean():.1f}",
            *(f"{mean:.1f}" for mean in means), f"{1e6 * min(seconds) / lanes:.1f}",
            str(int(np.sum(~fits.converged))), *counts]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lanes", type=int, default=4000)
    parser.add_argument("--out", type=Path, help="markdown file to write")
    options = parser.parse_args()
    rows = []
    for name, data in SETS.items():
        rows.append(row(name, data, options.lanes))
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    header = ["set", "lanes", "singular %", "evaluations a lane", "singular ones", "others", "CPU us a lane",
              "not converged", "missed by > 1e-6", "> 1e-4"]  # fmt: skip
    text = f"""# Missed optima, and what singular lanes cost

{datetime.date.today()}, {cpu_model()}, jax {importlib.metadata.version("jax")}.
`python experiments/batch_checks/missed_optima.py --lanes {options.lanes}`

Random intercept and slope by REML; missed is in log-likelihood, against the best of
{len(CORRELATIONS) * len(FACTORS) + MORE} starts.

{table(header, rows)}
"""
    written(text, options.out)


if __name__ == "__main__":
    main()
