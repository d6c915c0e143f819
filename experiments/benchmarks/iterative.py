"""What the iterative engine costs on ratings of up to 1e7 rows, and how large its Monte Carlo error is.

    python experiments/benchmarks/iterative.py [--rows 10000,100000,1000000,10000000] [--exact 100000] [--write]

Each size runs in a process of its own: a first fit, compiling included, and a second one of another response. Users and
films are n/100 and n/200, with skewed numbers of ratings. Up to `--exact` rows the crossed engine fits the same data.
`--write` puts the table, and a plot where matplotlib is installed, in experiments/results.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import ROOT, command, cpu_model, note, report, table

RESULTS = ROOT / "experiments" / "results" / "iterative.md"
PLOT = RESULTS.with_suffix(".png")
INTRODUCTION = """# The iterative engine

Ratings of n/100 users and n/200 films with skewed counts, ``y ~ x + (1 | user) + (1 | film)``, REML, float64, default
options (32 probes, 64 for the certificate). "first" is the first fit of a process from the data in memory, compiling
included; "later" one of another response after it. "theta" is the largest Monte Carlo standard error of a covariance
parameter relative to its statistical standard error; "off" the largest difference to the exact fit by the crossed
engine in the same units, where that was made; "loglik" the Monte Carlo standard error of the log-likelihood.
Times depend on what else the machine does, see the load.

"""


def ratings(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows with skewed numbers of ratings."""
    rng = np.random.default_rng(seed)
    users, films = n // 100, n // 200
    user = rng.permutation(users)[(users * rng.beta(0.6, 1.6, n)).astype(int)]
    film = rng.permutation(films)[(films * rng.beta(0.5, 2.5, n)).astype(int)]
    x = rng.normal(size=n)
    return {"x": x, "user": user, "film": film, "y": response(user, film, x, rng)}


def response(user: np.ndarray, film: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A draw of y."""
    effects = 0.4 * rng.normal(size=user.max() + 1)[user] + 0.6 * rng.normal(size=film.max() + 1)[film]
    return 3.5 + 0.2 * x + effects + rng.normal(size=len(x))


def one(n: int, exact: bool) -> dict[str, Any]:
    """Fit twice in this process."""
    import resource

    import jaxlmm

    data = ratings(n)
    formula = "y ~ x + (1 | user) + (1 | film)"
    seconds, fits = [], []
    for _ in range(2):
        start = time.perf_counter()
        fit = jaxlmm.lmm(formula, data, engine="iterative")
        seconds.append(time.perf_counter() - start)
        note(f"n {n}: {seconds[-1]:.1f} s, {fit.certificate}\n{fit.monte_carlo}")
        fits.append(fit)
        data = {**data, "y": response(data["user"], data["film"], data["x"], np.random.default_rng(1))}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    first = fits[0]
    errors = first.monte_carlo
    out = {
        "n": n, "status": first.status, "seconds": seconds, "peak": peak, "evaluations": first.certificate.iterations,
        "theta": first.theta.tolist(), "relative": float(np.nanmax(errors.relative_se)), "loglik": errors.loglik_se,
        "decrement": errors.decrement, "off": None,
    }  # fmt: skip
    if exact:
        other = jaxlmm.lmm(formula, ratings(n), engine="crossed")
        own = errors.theta_se / errors.relative_se
        out["off"] = float(np.max(np.abs(first.theta - other.theta) / own))
        out["loglik_off"] = first.loglik - other.loglik
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="10000,100000,1000000,10000000")
    parser.add_argument("--exact", type=int, default=100_000)
    parser.add_argument("--one", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.one <= options.exact)))
        return
    found = []
    for n in map(int, options.rows.split(",")):
        line = [sys.executable, str(Path(__file__)), "--one", str(n), "--exact", str(options.exact)]
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            note(f"n {n}: failed")
            continue
        found.append(json.loads(done.stdout.splitlines()[-1]))
    write(found, command("experiments/benchmarks/iterative.py"), options.write)


def write(found: list[dict[str, Any]], line: str, keep: bool) -> None:
    """Print the table, and keep it with the plot if asked to."""
    rows = [
        [
            f"{r['n']:.0e}", f"{r['n'] // 100} x {r['n'] // 200}", r["status"], str(r["evaluations"]),
            *(f"{s:.1f}" for s in r["seconds"]), f"{r['peak']:.1f}", f"{r['relative']:.3f}",
            "" if r["off"] is None else f"{r['off']:.3f}", f"{r['loglik']:.1e}",
        ]
        for r in found
    ]  # fmt: skip
    header = [
        "rows", "levels", "status", "evaluations", "first, s", "later, s", "peak, GB", "theta", "off", "loglik",
    ]  # fmt: skip
    load = os.getloadavg()[0]
    section = (
        f"## Python {platform.python_version()}, {datetime.date.today()}\n\n{cpu_model()}, {os.cpu_count()} cores, "
        f"load {load:.1f} at the end; `{line}`\n\n"
    )
    report(INTRODUCTION, section + table(header, rows) + "\n", RESULTS if keep else None)
    if keep:
        plot(found)


def plot(found: list[dict[str, Any]]) -> None:
    """Time and memory by rows."""
    try:
        import matplotlib
    except ImportError:
        note("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    n = [r["n"] for r in found]
    figure, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
    axes.loglog(n, [r["seconds"][0] for r in found], "o-", label="first fit, s")
    axes.loglog(n, [r["seconds"][1] for r in found], "o-", label="later fit, s")
    axes.loglog(n, [r["peak"] for r in found], "s--", label="peak memory, GB")
    axes.set_xlabel("rows")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(PLOT, dpi=150)


if __name__ == "__main__":
    main()
