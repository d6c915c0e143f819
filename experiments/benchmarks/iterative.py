"""What the iterative engine costs on ratings of up to 2.5e7 rows, and how large its Monte Carlo error is.

    python experiments/benchmarks/iterative.py [--rows 10000,100000,1000000,10000000] [--exact 100000] [--write]
    python experiments/benchmarks/iterative.py --shape movielens [--rows 1000000,5000000,25000095] [--method ML]

Each size runs in a process of its own: a first fit, compiling included, and a second one of another response (with
`--shape plain`). Users and films are n/100 and n/200 with skewed numbers of ratings; or their numbers of ratings have
the published quantiles of MovieLens. Up to `--exact` rows the crossed engine fits the same data. `--write` puts the
table, and a plot where matplotlib is installed, in experiments/results.
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

# Ratings a user and a movie: how many, and the share of levels that have so many at least. Numbers of levels, least and
# largest numbers are those of MovieLens 25M, from its README and Bates & Alday, Embrace Uncertainty, "A large-scale
# observational study", which also says that nearly 20 % of the movies are rated once, more than half at most 6 times,
# and that the median user has about 70. Shares between are those of the 32M data, in the table of cut-offs beside that
# chapter (data/sizespeed.csv of its repository). The share without a number is such that the mean is as published.
USERS, FILMS, ROWS, ROW_BITS = 162_541, 59_047, 25_000_095, 25
BY_USER = ((20, 1.0), (40, 0.7208), (80, 0.4697), (500, None), (32_202, 1 / USERS))
BY_FILM = (
    (1, 1.0), (2, 0.7796), (5, 0.5198), (10, 0.3785), (15, 0.3130), (20, 0.2766), (50, 0.1899), (5_000, None),
    (81_491, 1 / FILMS),
)  # fmt: skip


def numbers(shares: tuple[tuple[int, float | None], ...], levels: int, n: int) -> np.ndarray:
    """Ratings (levels,) of each level, n in all: log-linear between the shares, with the mean of the whole data."""
    place = -np.log((np.arange(levels) + 0.5) / levels)  # as shares that have more
    mean = ROWS / (USERS if shares is BY_USER else FILMS)

    def at(free: float) -> np.ndarray:
        known = [(np.log(x), -np.log(free if share is None else share)) for x, share in shares]
        return np.exp(np.interp(place, [p for _, p in known], [x for x, _ in known]))

    low, high = shares[-1][1], shares[-3][1]
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if np.mean(at(middle)) < mean else (low, middle)
    whole = np.floor(np.cumsum(at(low)) * (n / np.sum(at(low))) + 0.5).astype(np.int64)
    return np.diff(whole, prepend=0)


def movielens(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Ratings with the published margins, at random within them; pairs that meet twice are drawn anew three times."""
    rng = np.random.default_rng(seed)
    sizes = USERS * n // ROWS, FILMS * n // ROWS
    user, film = (
        np.repeat(np.arange(m, dtype=np.int32), numbers(shares, m, n))
        for shares, m in zip((BY_USER, BY_FILM), sizes, strict=True)
    )
    rng.shuffle(film)
    for _ in range(3):
        key = ((user.astype(np.int64) * sizes[1] + film) << ROW_BITS) + np.arange(n)
        key.sort()
        again = (key[1:] & ((1 << ROW_BITS) - 1))[(key[1:] ^ key[:-1]) >> ROW_BITS == 0]
        places = np.unique(np.concatenate([again, rng.integers(0, n, len(again))]))
        film[places] = film[rng.permutation(places)]
    x = rng.normal(size=n).astype(np.float32)
    effects = 0.53 * rng.normal(size=sizes[0])[user] + 0.56 * rng.normal(size=sizes[1])[film]
    return {"x": x, "user": user, "film": film, "y": 3.5 + 0.2 * x + 0.85 * (effects + rng.normal(size=n))}


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


def large(n: int, method: str) -> dict[str, Any]:
    """One fit in this process, of ratings with the margins of MovieLens: seconds, and of all processors together."""
    import resource

    import jaxlmm

    def memory() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

    data = movielens(n)
    before, start, cpu = memory(), time.perf_counter(), time.process_time()
    fit = jaxlmm.lmm("y ~ x + (1 | user) + (1 | film)", data, method=method, engine="iterative")
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    note(f"n {n}: {seconds:.1f} s, {cpu:.1f} s of processors, {fit.certificate}\n{fit.monte_carlo}")
    return {
        "n": n, "levels": [part.levels for part in fit.model.terms], "method": method, "status": str(fit.status),
        "evaluations": int(fit.certificate.iterations), "seconds": seconds, "cpu": cpu, "data": before,
        "peak": memory(), "theta": fit.theta.tolist(), "relative": float(np.nanmax(fit.monte_carlo.relative_se)),
        "loglik": float(fit.monte_carlo.loglik_se), "value": float(fit.loglik),
    }  # fmt: skip


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
    parser.add_argument("--shape", choices=("plain", "movielens"), default="plain")
    parser.add_argument("--method", default="REML")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.one:
        plain = options.shape == "plain"
        done = one(options.one, options.one <= options.exact) if plain else large(options.one, options.method)
        print(json.dumps(done))
        return
    found = []
    for n in map(int, options.rows.split(",")):
        line = [sys.executable, str(Path(__file__)), "--one", str(n), "--exact", str(options.exact)]
        line += ["--shape", options.shape, "--method", options.method]
        ended = subprocess.run(line, stdout=subprocess.PIPE, text=True)
        if ended.returncode:
            note(f"n {n}: failed")
            continue
        found.append(json.loads(ended.stdout.splitlines()[-1]))
    if options.shape == "movielens":
        print("\n".join(map(json.dumps, found)))
        return
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
