"""A million fits of a one-way model whose variance between groups is zero, drawn and fitted.

python experiments/benchmarks/one_way_null.py [--fits 1000000]
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np

import jaxlmm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fits", type=int, default=1_000_000)
    options = parser.parse_args()
    g, rng = np.repeat(np.arange(18), 10), np.random.default_rng(1)
    y = rng.standard_normal(180)
    y -= (np.bincount(g, y) / 10)[g]  # no differences between groups: the estimate is zero
    fit = jaxlmm.lmm("y ~ 1 + (1 | g)", {"y": y, "g": g})
    fit.bootstrap(options.fits // 10, seed=2, progress=False)  # compiled now
    cpu, wall = time.process_time(), time.perf_counter()
    found = fit.bootstrap(options.fits, seed=1, progress=False)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    zero = np.mean(found.fits.covariances[0][:, 0, 0] == 0.0)
    print(f"{options.fits:,} fits, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}: {wall:.1f} s, {cpu:.1f} s of "
          f"CPU, {1e6 * cpu / options.fits:.2f} us of CPU a fit; {100 * found.fits.converged.mean():.3f} % converged, "
          f"{100 * zero:.1f} % at zero, {found.fits.iterations.mean():.1f} evaluations a fit")  # fmt: skip


if __name__ == "__main__":
    main()
