"""Batches of balanced and unbalanced designs of several factors: by strata or components, and by dense blocks.

    python experiments/benchmarks/lanes.py [--lanes 1000] [--only "nested;crossed"]

Both ways in one process, processor time of later calls of `refit`, medians of three.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from _common import note, table


def design(kind: str) -> tuple[str, dict[str, np.ndarray], list[np.ndarray]]:
    """Formula, columns, and the levels that effects are drawn for."""
    rng = np.random.default_rng(0)
    if kind == "crossed":
        a, b = np.repeat(np.arange(40), 20), np.tile(np.arange(20), 40)
        return "y ~ x + (1 | a) + (1 | b)", {"x": rng.normal(size=800), "a": a, "b": b}, [a, b]
    school, room = np.repeat(np.arange(50), 20), np.tile(np.repeat(np.arange(4), 5), 50)
    keep = rng.random(1000) < (0.85 if kind == "nested, uneven" else 1.0)
    school, room = school[keep], room[keep]
    data = {"x": rng.normal(size=len(school)), "school": school, "room": room}
    levels, formula = [school, 4 * school + room], "y ~ x + (1 | school/room)"
    if kind == "three levels":
        data["district"] = school // 5
        levels, formula = [school // 5, *levels], "y ~ x + (1 | district/school/room)"
    return formula, data, levels


KINDS = ("nested", "nested, uneven", "three levels", "crossed")


def measured(kind: str, lanes: int) -> tuple[float, np.ndarray]:
    """Processor time a lane, and log-likelihoods."""
    import jaxlmm

    formula, data, levels = design(kind)
    rng = np.random.default_rng(1)

    def draw() -> np.ndarray:
        return (
            1.0
            + data["x"]
            + rng.normal(size=len(data["x"]))
            + sum(0.6 * rng.normal(size=g.max() + 1)[g] for g in levels)
        )

    fit = jaxlmm.lmm(formula, {**data, "y": draw()})
    Y = np.stack([draw() for _ in range(lanes)])
    seconds: list[float] = []
    found: Any = None
    for _ in range(4):
        start = time.process_time()
        found = fit.refit(Y)
        seconds.append(time.process_time() - start)
    return float(np.median(seconds[1:])) / lanes, np.asarray(found.loglik)


def main() -> None:
    from jaxlmm.likelihood.engines import strata
    from jaxlmm.likelihood.engines.grouped.choice import GroupedEngine

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lanes", type=int, default=1000)
    parser.add_argument("--only", default=";".join(KINDS), help="kinds, with semicolons between them")
    options = parser.parse_args()
    find, in_rows = strata.Decomposition.find, GroupedEngine._in_rows
    rows = []
    for kind in options.only.split(";"):
        new, loglik = measured(kind, options.lanes)
        strata.Decomposition.find = classmethod(lambda *_: None)  # type: ignore[method-assign, assignment]
        GroupedEngine._in_rows = staticmethod(lambda *_: None)  # type: ignore[method-assign, assignment]
        old, before = measured(kind, options.lanes)
        strata.Decomposition.find, GroupedEngine._in_rows = find, staticmethod(in_rows)  # type: ignore[method-assign]
        off = f"{np.max(np.abs(loglik - before)):.0e}"
        rows.append([kind, f"{1e6 * old:.0f}", f"{1e6 * new:.0f}", f"{old / new:.1f}", off])
        note(str(rows[-1]))
    print(table(["design", "dense blocks, us", "now, us", "ratio", "log-likelihoods apart"], rows))


if __name__ == "__main__":
    main()
