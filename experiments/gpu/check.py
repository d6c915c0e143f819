"""Every engine on an accelerator against the CPU, and what a lane of a batch costs there; see run.sh.

    python experiments/gpu/check.py [--platform gpu] [--sizes 1000,10000,100000,1000000] [--limit 450] [--out FILE]

Nothing is installed. Results differ from the CPU's by rounding or the script fails, after it has written its table.
Sizes that would not end within the limit, judged by the size before, are left out and named.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxlmm
from jaxlmm import Field, Model, Residual, Term, Unstructured, pure
from jaxlmm.batch.responses import Design
from jaxlmm.covariance import Autoregressive, OrnsteinUhlenbeck
from jaxlmm.fitting.objective import Spec, packing_of

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results" / "gpu.md"
LANES = 200  # of each workload that are compared with the CPU's
AGREE, CLOSE = 1e-9, 1e-7  # relative difference of pure functions and log-likelihoods, and of estimates


@dataclass
class Report:
    """What has been found, and what is wrong with it."""

    limit: float
    started: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.limit - (time.monotonic() - self.started)

    def row(self, *cells: Any) -> None:
        """A row of the table at hand, on the screen at once."""
        self.lines.append("| " + " | ".join(map(str, cells)) + " |")
        print(self.lines[-1], flush=True)

    def table(self, title: str, *columns: str) -> None:
        """Begin a table."""
        self.lines += ["", f"## {title}", ""]
        self.row(*columns)
        self.row(*("---" if i == 0 else "--:" for i in range(len(columns))))

    def fails(self, what: str) -> None:
        """Something is wrong."""
        self.wrong.append(what)
        print(f"WRONG: {what}", file=sys.stderr, flush=True)


def small(kind: str) -> Model:
    """A model of each engine and layout, with a response from it."""
    rng = np.random.default_rng(0)
    g, t = np.repeat(np.arange(12), 4), np.tile(np.arange(4), 12)
    n, one = len(g), np.ones(len(g))
    X = np.column_stack([one, rng.normal(size=n)])
    A = np.eye(12) + 0.3
    random, residual, engine = {
        "grouped": ([Term(X, g)], None, "grouped"),
        "nested": ([Term(one, g), Term(one, g // 3)], None, "grouped"),
        "crossed": ([Term(one, g), Term(one, t)], None, "crossed"),
        "iterative": ([Term(one, g), Term(one, t)], None, "iterative"),
        "visits": ([], Residual(Unstructured(), g, t), "marginal"),
        "times": ([Field(OrnsteinUhlenbeck(), g, coords=t * 1.0)], None, "marginal"),
        "terms and visits": ([Term(one, t % 2)], Residual(Autoregressive(), g, t), "marginal"),
        "spectral": ([Term(one, g, relationship=A)], None, "spectral"),
        "dense": ([Term(X, g, relationship=A)], None, "dense"),
    }[kind]
    return Model(rng.normal(size=n) + rng.normal(size=12)[g], X, random, residual, engine=engine)


KINDS = ("grouped", "nested", "crossed", "iterative", "visits", "times", "terms and visits", "spectral", "dense")


def everything(kind: str) -> list[np.ndarray]:
    """Value, gradient, effects and solutions of a model where it is called."""
    m = small(kind)
    theta = jnp.asarray(0.2 * np.random.default_rng(1).normal(size=m.size))
    value, gradient = jax.value_and_grad(pure.reml)(theta, m)
    found = pure.blup(theta, m, covariances=kind != "iterative")
    parts = (value, gradient, found.coef, found.vcov, *found.values, *(found.condvar or ()), pure.solve(theta, m, m.y))
    return [np.asarray(x) for x in parts]


def engines(report: Report, device: Any, cpu: Any) -> None:
    """Each engine on both."""
    report.table("Engines, device against CPU", "engine", "largest relative difference", "s")
    for kind in KINDS:
        start = time.monotonic()
        both = []
        for one in (device, cpu):
            with jax.default_device(one):
                both.append(everything(kind))
        worst = max(
            float(np.max(np.abs(a - b) / (1e-300 + np.max(np.abs(b))), initial=0.0)) for a, b in zip(*both, strict=True)
        )
        report.row(kind, f"{worst:.1e}", f"{time.monotonic() - start:.1f}")
        if not worst < (AGREE if kind != "iterative" else 1e-6):
            report.fails(f"engine {kind}: the device is {worst:.1e} from the CPU, expected rounding")


@dataclass(frozen=True)
class Workload:
    """A design of many responses."""

    name: str
    model: Callable[[np.random.Generator], Model]
    tests: str = ""


def slopes(q: int) -> Callable[[np.random.Generator], Model]:
    """18 groups of 5 to 11 rows with q effects each."""

    def make(rng: np.random.Generator) -> Model:
        g = np.repeat(np.arange(18), rng.integers(5, 12, 18))
        X = np.column_stack([np.ones(len(g)), *rng.normal(size=(q - 1, len(g)))])
        return Model(rng.normal(size=len(g)), X, [Term(X, g)])

    return make


def trial(visits: int, subjects: int) -> Callable[[np.random.Generator], Model]:
    """Two arms, unstructured covariance of visits, some of which are missing at the end."""

    def make(rng: np.random.Generator) -> Model:
        seen = np.where(rng.uniform(size=subjects) < 0.2, rng.integers(1, visits + 1, subjects), visits)
        g = np.repeat(np.arange(subjects), seen)
        t = np.concatenate([np.arange(s) for s in seen])
        X = np.column_stack([t == v for v in range(visits)] + [(g % 2) * (t == v) for v in range(visits)]) * 1.0
        return Model(rng.normal(size=len(g)), X, [], Residual(Unstructured(), g, t))

    return make


def crossed(subjects: int, items: int) -> Callable[[np.random.Generator], Model]:
    """Subjects and items."""

    def make(rng: np.random.Generator) -> Model:
        s, i = (a.ravel() for a in np.meshgrid(np.arange(subjects), np.arange(items), indexing="ij"))
        one = np.ones(len(s))
        X = np.column_stack([one, i % 2])
        return Model(rng.normal(size=len(s)), X, [Term(one, s), Term(one, i)], engine="crossed")

    return make


WORKLOADS = (
    Workload("q = 1, 18 groups", slopes(1)),
    Workload("q = 2, 18 groups", slopes(2)),
    Workload("q = 3, 18 groups", slopes(3)),
    Workload("q = 2, Kenward-Roger", slopes(2), "kenward-roger"),
    Workload("MMRM us(4), 100 subjects", trial(4, 100)),
    Workload("MMRM us(10), 60 subjects", trial(10, 60)),
    Workload("crossed, 20 x 10", crossed(20, 10)),
)


def responses(model: Model, count: int) -> np.ndarray:
    """Responses (count, n) with effects of the size of the errors in every term."""
    rng = np.random.default_rng(7)
    Y = rng.normal(size=(count, len(model.y)))
    for term in model.terms:
        Y += np.einsum("nq,bnq->bn", term.Z, rng.normal(size=(count, term.levels, term.dim))[:, term.group])
    if model.residual.group is not None:
        Y += rng.normal(size=(count, int(model.residual.group.max()) + 1))[:, model.residual.group]
    return Y


def bandwidth(device: Any) -> float:
    """Bytes a second that a copy reads and writes."""
    x = jax.device_put(np.ones(2**24 if device.platform == "cpu" else 2**28, np.float64), device)
    copy = jax.jit(lambda x: x + 1.0)
    jax.block_until_ready(copy(x))
    start = time.perf_counter()
    for _ in range(5):
        x = copy(x)
    jax.block_until_ready(x)
    return 5 * 2 * x.nbytes / (time.perf_counter() - start)


def batches(report: Report, device: Any, cpu: Any, sizes: list[int]) -> None:
    """Time and agreement of every workload at every size."""
    speed = bandwidth(device)
    report.lines += ["", f"Memory of the device: {speed / 1e9:,.0f} GB/s by a copy, read and write."]
    report.table(
        "Batches, float64", "workload", "lanes", "first call s", "us a lane", "evaluations a lane", "converged %",
        "bytes an evaluation", "x floor of memory", "device MiB", "largest difference of loglik",
    )  # fmt: skip
    for index, workload in enumerate(WORKLOADS):
        model = workload.model(np.random.default_rng(1))
        p, spec = model.X.shape[1], Spec.of(model, "REML")
        tests = {"tests": jaxlmm.Tests(np.eye(p)[-1], df=workload.tests)} if workload.tests else {}
        moved = 8 * (Design(model).floats + 2 * packing_of(spec, p).size)
        share, before = report.left / (len(WORKLOADS) - index), time.monotonic()
        last = 0.0  # seconds a lane of the size before
        for lanes in sizes:
            if last and (last * lanes * 2.5 > share - (time.monotonic() - before) or lanes * len(model.y) > 4e8):
                report.row(workload.name, f"{lanes:,}", "left out: no time, or more than 3 GB of responses")
                continue
            Y = responses(model, lanes)
            with jax.default_device(device):
                first, found = timed(model, Y, tests)
                again = timed(model, Y[::-1].copy(), tests)[0]
            last = again / lanes
            worst = compared(report, workload, model, Y, found, cpu, tests) if lanes == sizes[0] else float("nan")
            good = float(np.mean(found.status == jaxlmm.Status.CONVERGED))
            if good < 0.99:
                report.fails(f"{workload.name}: {100 * good:.2f} % of {lanes} lanes converged")
            evaluations = float(np.mean(found.iterations))
            floor = evaluations * moved / speed
            peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
            report.row(
                workload.name, f"{lanes:,}", f"{first:.1f}", f"{1e6 * last:.2f}", f"{evaluations:.1f}",
                f"{100 * good:.2f}", f"{moved:,}", f"{last / floor:,.0f}",
                "" if peak is None else f"{peak / 2**20:,.0f}", "" if np.isnan(worst) else f"{worst:.0e}",
            )  # fmt: skip


def timed(model: Model, Y: np.ndarray, tests: dict[str, Any]) -> tuple[float, Any]:
    """Seconds of a batch, and its result."""
    start = time.perf_counter()
    found = jaxlmm.fit_batch(model, Y, progress=False, **tests)
    return time.perf_counter() - start, found


def compared(
    report: Report, workload: Workload, model: Model, Y: np.ndarray, found: Any, cpu: Any, tests: dict[str, Any]
) -> float:  # fmt: skip
    """Largest difference of log-likelihoods from the CPU's, of the first lanes; estimates and p values are checked."""
    few = min(LANES, len(Y))
    with jax.default_device(cpu):
        ours = jaxlmm.fit_batch(model, Y[:few], progress=False, **tests)
    worst = float(np.max(np.abs(found.loglik[:few] - ours.loglik)))
    if not worst < AGREE * float(np.max(np.abs(ours.loglik))):
        report.fails(f"{workload.name}: log-likelihoods are {worst:.1e} from the CPU's")
    apart = float(np.max(np.abs(found.coef[:few] - ours.coef) / ours.se))
    if tests:
        own, other = (f.tests[workload.tests] for f in (found, ours))
        apart = max(apart, float(np.nanmax(np.abs(own.p[:few] - other.p))))
    if not apart < CLOSE:
        report.fails(f"{workload.name}: estimates or p values are {apart:.1e} from the CPU's")
    return worst


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", default="gpu", help="of the device: gpu, tpu, or cpu to try the script")
    parser.add_argument("--sizes", default="1000,10000,100000,1000000", help="lanes")
    parser.add_argument("--limit", type=float, default=450.0, help="seconds for all")
    parser.add_argument("--out", type=Path, help="file of the table")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    try:
        device, cpu = jax.devices(options.platform)[0], jax.devices("cpu")[0]
    except RuntimeError as error:
        sys.exit(f"no device of platform {options.platform!r}: {error}")
    if device.platform == "cpu" and options.out is None:
        sys.exit("--platform cpu is to try the script: name a file by --out")
    report, out = Report(options.limit), options.out or RESULTS
    report.lines = [
        "# On a GPU", "", f"{device.device_kind}, {datetime.date.today()}, jax {jax.__version__}, Python "
        f"{sys.version.split()[0]}; `bash experiments/gpu/run.sh {' '.join(sys.argv[1:])}`. Times are of a second "
        "batch, from responses to results. The floor: what evaluations move, statistics and the state of a lane, "
        "read, and the state written, at the speed of memory.",
    ]  # fmt: skip
    try:
        engines(report, device, cpu)
        batches(report, device, cpu, [int(size) for size in options.sizes.split(",")])
    except Exception as error:
        report.fails(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else error!r}")
        raise
    finally:
        ending = [f"- {what}" for what in report.wrong] or ["Everything agrees with the CPU."]
        out.write_text("\n".join([*report.lines, "", "## Verdict", "", *ending, ""]), encoding="utf-8")
        print(f"written: {out}")
    if report.wrong:
        sys.exit(f"{len(report.wrong)} checks failed")


if __name__ == "__main__":
    main()
