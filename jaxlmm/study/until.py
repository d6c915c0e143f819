"""Replicates until a measure is known well enough, a cell at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import check_number, refuse_unknown
from ..errors import DataError
from .cells import key_of
from .declare import Study
from .manifest import replicates_of
from .measures import check_measure
from .results import Results
from .running import RUNNING, run

RATES = ("coverage", "type1_error", "power", "rejection", "converged", "singular", "usable")
ROUNDS, SPARE = 20, 1.05  # at most; replicates beyond those that the error now asks for


def run_until(
    study: Study, out: Any, measure: str, error: float, most: int = 1_000_000, level: float = 0.95, alpha: float = 0.05,
    **options: Any,
) -> Results:  # fmt: skip
    """Run a study, and then more replicates of those cells in which a measure is not known to a Monte Carlo error.

    Parameters
    ----------
    study, out : as for `run`; the study's replicates are the first ones of every cell
    measure : of `Performance.frame`, such as "power";  error : its Monte Carlo standard error, wherever it has a value
    most : replicates of a cell at most;  level, alpha : of intervals and tests;  options : `executor`,
        `workers`, `progress`, `mixed` of `run`

    Returns
    -------
    Results
        Of all replicates. Errors of rates, 0 by the formula for 0 and 1, are taken as if there were four more data
        sets, two on each side (Agresti & Coull 1998).
    """
    refuse_unknown("run_until", options, RUNNING)
    check_measure("measure", measure)
    check_number("error", error)
    if not error > 0:
        raise DataError(f"error: expected a positive number, found {error!r}")
    study = study.changed()  # what its functions are now
    results = run(study, out, **options)
    for _ in range(ROUNDS):
        wanted = _wanted(results, measure, error, most, level, alpha)
        more = [(cell, wanted[key]) for cell in study.cells if (key := key_of(cell)) in wanted]
        if not more:
            break
        for cell, count in more:
            results = run(study.changed(grid=[cell], replicates=count), out, **options)
    return results


def _wanted(results: Results, measure: str, error: float, most: int, level: float, alpha: float) -> dict[str, int]:
    """Replicates of the cells that need more."""
    summary = results.summary(level, alpha)
    value, mcse, n = (np.asarray(part[measure]) for part in (summary.value, summary.mcse, summary.n))
    if measure in RATES:
        share = (value * n + 2.0) / (n + 4.0)
        mcse = np.where(np.isnan(value), np.nan, np.sqrt(share * (1.0 - share) / np.maximum(n, 1.0)))
    chunk, out = results.manifest["study"]["chunk"], {}
    counts = replicates_of(results.manifest)
    for cell, count, own in zip(results.manifest["study"]["cells"], counts, mcse, strict=True):
        worst = np.max(own[~np.isnan(own)], initial=0.0)
        if worst > error and count < most:
            needed = int(np.ceil(SPARE * count * (worst / error) ** 2 / chunk)) * chunk
            out[key_of(cell)] = min(max(needed, count + 1), most)
    return out
