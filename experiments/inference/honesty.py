"""Whether the stated Monte Carlo errors of the iterative engine cover the truth, on designs that can be fitted exactly.

    python experiments/inference/honesty.py [--kinds chain,bridge] [--seeds 0-9] [--out found.jsonl] [--write]

Every design is fitted by the crossed engine, which has no random error, and by the iterative one. `--out` appends a
line a design, and skips those that are there; `--write` makes the table in experiments/results of them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from _common import ROOT, note, report, table  # noqa: E402

RESULTS = ROOT / "experiments" / "results" / "honesty.md"
ROWS, FIRST, SECOND = 1500, 160, 120  # of all designs, so that they share programs
INTRODUCTION = """# Stated Monte Carlo errors of the iterative engine

Designs of 1500 rows that the crossed engine fits exactly, REML, default options (32 probes, 64 for the certificate).
"within" is the share of errors, iterative less exact, within 2 stated standard errors: of the log-likelihood at the
optimum, of every covariance parameter that is finite in both. "worst" is the largest error in stated standard errors.
Each kind has designs of its own seed: levels, effects, rows and response.

- skewed: ratings with few rows for most levels; complete: all levels meet alike; sparse: hardly more meetings than a
  tree has
- chain: level i meets levels i and i + 1 only; bridge: two halves with one row between them; blocks: 20 components
- strong, weak: as skewed with standard deviations 30 and .05 times those of the residual; none: one variance is zero
- three: another factor of 30 levels; slopes: of a covariate by level of the first; weights: of rows, over 4 decades
"""


def pairs(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Levels of both factors in every row; all levels have rows."""
    n, m, k = ROWS, FIRST, SECOND
    if kind == "chain":
        i = np.r_[np.arange(m), rng.integers(0, m, n - m)]
        step = np.r_[np.zeros(m, int), rng.integers(0, 2, n - m)]
        return i, np.minimum((i * k) // m + step, k - 1)
    if kind in ("bridge", "blocks"):
        blocks = 2 if kind == "bridge" else 20
        a = np.r_[np.arange(m), rng.integers(0, m, n - m)]
        inside = (a * blocks) // m
        b = (inside * k) // blocks + np.r_[np.arange(n) % (k // blocks)]
        if kind == "bridge":
            b[0] = k - 1
        return a, b
    if kind == "sparse":
        a = np.r_[np.arange(m), np.arange(k) % m, rng.integers(0, m, 2)]
        b = np.r_[np.arange(m) % k, np.arange(k), rng.integers(0, k, 2)]
        again = rng.integers(0, len(a), n - len(a))
        return np.r_[a, a[again]], np.r_[b, b[again]]
    if kind == "complete":
        return np.arange(n) % m, rng.permutation(np.arange(n) % k)
    a = np.r_[np.arange(m), (m * rng.beta(0.6, 1.6, n - m)).astype(int)]
    b = np.r_[np.arange(k), (k * rng.beta(0.5, 2.5, n - k)).astype(int)]
    return a, rng.permutation(b)


KINDS = (
    "skewed", "complete", "sparse", "chain", "bridge", "blocks", "strong", "weak", "none", "three", "slopes", "weights",
)  # fmt: skip


def design(kind: str, seed: int) -> tuple[str, dict[str, np.ndarray]]:
    """Formula and data; strong, weak, ... may be joined to a kind of pairs: chain+strong."""
    first, _, second = kind.partition("+")
    rng = np.random.default_rng([KINDS.index(first), seed])
    a, b = pairs(first, rng)
    x = rng.normal(size=ROWS)
    sizes = rng.uniform(0.3, 1.5, 2)
    if "strong" in (first, second):
        sizes = sizes * 30.0
    if "weak" in (first, second):
        sizes = sizes * 0.05
    if "none" in (first, second):
        sizes[0] = 0.0
    w = 10.0 ** rng.uniform(-2.0, 2.0, ROWS) if "weights" in (first, second) else np.ones(ROWS)
    y = 1.0 + 0.5 * x + sizes[0] * rng.normal(size=FIRST)[a] + sizes[1] * rng.normal(size=SECOND)[b]
    y = y + rng.normal(size=ROWS) / np.sqrt(w)
    data = {"x": x, "a": a, "b": b, "w": w}
    formula = "y ~ x + (1 | a) + (1 | b)"
    if first == "three":
        data["c"] = np.r_[np.arange(30), rng.integers(0, 30, ROWS - 30)]
        y = y + rng.normal(size=30)[data["c"]]
        formula += " + (1 | c)"
    if first == "slopes":
        y = y + 0.4 * x * rng.normal(size=FIRST)[a]
        formula = "y ~ x + (x | a) + (1 | b)"
    return formula, {**data, "y": y}


def one(kind: str, seed: int) -> dict[str, Any]:
    """Both fits of a design."""
    import jaxlmm

    formula, data = design(kind, seed)
    weights = "w" if "weights" in kind else None
    own = int(np.random.default_rng([*kind.encode(), seed]).integers(2**31))  # no two designs share random vectors
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = jaxlmm.lmm(formula, data, weights=weights, engine="crossed")
        found = jaxlmm.lmm(formula, data, weights=weights, engine=jaxlmm.Iterative(seed=own))
    out = {"kind": kind, "seed": seed, "status": str(found.status), "exact_status": str(exact.status)}
    out |= {"cpu": time.process_time() - start, "evaluations": int(found.certificate.iterations)}
    out["loglik_error"] = float(found.loglik - exact.loglik)
    if found.monte_carlo is not None:
        errors = found.monte_carlo
        lost = 0.5 * errors.expected_decrement
        out |= {"loglik_se": float(errors.loglik_se), "lost": float(lost), "theta_se": errors.theta_se.tolist()}
        own = errors.theta_se / errors.relative_se
        out |= {"decrement": errors.decrement, "expected": errors.expected_decrement, "own": own.tolist()}
    out |= {"theta_error": (found.theta - exact.theta).tolist(), "theta": exact.theta.tolist()}
    return out


def inside(rows: list[dict[str, Any]]) -> list[str]:
    """A line of the table."""
    finite = [r for r in rows if "theta_se" in r and np.isfinite(r["loglik_error"])]
    z = np.abs([r["loglik_error"] / r["loglik_se"] for r in finite if r["loglik_se"] > 0])
    pairs = [(e, s) for r in finite for e, s in zip(r["theta_error"], r["theta_se"], strict=True)]
    t = np.abs([e / s for e, s in pairs if np.isfinite(e) and np.isfinite(s) and s > 0])
    worst = [f"{np.max(x, initial=0.0):.1f}" for x in (z, t)]
    shares = [f"{np.sum(x <= 2)} of {len(x)}" for x in (z, t)]
    ended = sorted({r["status"] for r in rows})
    return [str(len(rows)), ", ".join(ended), shares[0], worst[0], shares[1], worst[1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seeds", default="0-16")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    low, _, high = options.seeds.partition("-")
    known = (
        [json.loads(line) for line in options.out.read_text().splitlines()]
        if options.out and options.out.exists()
        else []
    )
    done = {(r["kind"], r["seed"]) for r in known}
    for kind in options.kinds.split(","):
        for seed in range(int(low), int(high or low) + 1):
            if (kind, seed) in done:
                continue
            found = one(kind, seed)
            known.append(found)
            note(json.dumps({k: v for k, v in found.items() if k not in ("own",)}))
            if options.out:
                with options.out.open("a") as file:
                    file.write(json.dumps(found) + "\n")

    kinds = list(dict.fromkeys(r["kind"] for r in known))
    lines = [[kind, *inside([r for r in known if r["kind"] == kind])] for kind in kinds]
    header = ["kind", "designs", "status", "log-likelihood within", "worst", "theta within", "worst"]
    text = table(header, [*lines, ["all", *inside(known)]])
    report(INTRODUCTION, f"## {datetime.date.today()}\n\n{text}\n", RESULTS if options.write else None)


if __name__ == "__main__":
    main()
