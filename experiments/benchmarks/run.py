"""jaxlmm beside the software that is on this machine: every workload in turn, one table, one page of plots.

    python experiments/benchmarks/run.py [--quick] [--only crossed,mmrm,scaling] [--write]

It finds lme4, nlme, glmmTMB, mmrm and lmerTest (by Rscript on the PATH) and statsmodels and mixedlm (in this Python),
installs nothing, and runs every program in a process of its own, the systems of a case in turn. A program that fails,
or takes longer than its limit, is an entry in the table, not the end. `--write` puts the table and the plots in
experiments/results/benchmarks.md and .png. The plain run takes about a quarter of an hour on two cores, `--quick` two
minutes, `--long` adds crossed models that take lme4 up to a quarter of an hour each.

`--json FILE` keeps what was measured, case by case; `--load FILE` makes the table of it again and runs nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _common import ROOT, TooSlow, command, cpu_model, note
from _peers import find_peers, versions_line
from _tables import document, plot
from _workloads import SCALING, SECTIONS, Case, Mode, Program

RESULTS = ROOT / "experiments" / "results"
COMMAND = "experiments/benchmarks/run.py"
LONG = 10.0  # seconds of a process above which one round is enough
QUICK = Mode(quick=True, rounds=1, budget=0.3, limit=60.0, scaling_limit=20.0)

Record = dict[str, Any]


def attempt(program: Program, limit: float) -> dict[str, Any]:
    """What a program found; "error" where it found nothing. Nothing it does ends the run."""
    start = time.perf_counter()
    try:
        found = program(limit)
    except TooSlow as error:
        return {"error": str(error)}
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return {"error": f"failed: {lines[-1].strip()[:120]}"}
    return {**found, "elapsed": time.perf_counter() - start}


def measured(case: Case, folder: Path, stopped: set[str]) -> list[Record]:
    """Records of a case, one a system; the systems in `stopped` are left out, those that fail are added to it."""
    records = {name: record(case, name, [], "not found") for name in case.missing}
    try:
        programs = case.setup(folder)
    except Exception as error:
        note(f"{case.section}, {case.title}: {error}")
        return [record(case, "jaxlmm", [], f"failed: {str(error).strip().splitlines()[-1][:120]}")]
    runs: dict[str, list[Any]] = {name: [] for name in programs if name not in stopped}
    for name in programs.keys() & stopped:
        records[name] = record(case, name, [], "not tried: too slow or failed at a smaller size")
    failures: dict[str, str] = {}
    for number in range(case.rounds):
        for name, found in runs.items():
            if name in failures or (found and found[0]["elapsed"] > LONG):
                continue
            load = os.getloadavg()[0]
            result = attempt(programs[name], case.limit)
            said = result.get("error") or f"{result['elapsed']:.1f} s"
            note(f"{case.section}, {case.title}, {name}, round {number + 1}: {said}")
            if "error" in result:
                failures[name] = result["error"]
            else:
                found.append({**result, "load": load})
    stopped.update(failures)
    records |= {name: record(case, name, found, failures.get(name)) for name, found in runs.items()}
    return [records[name] for name in (*programs, *case.missing)]


def record(case: Case, system: str, runs: Sequence[dict[str, Any]], error: str | None) -> Record:
    """Medians and extremes of all runs of a system, in seconds; log-likelihoods of the first."""
    out: Record = {"section": case.section, "case": case.title, "x": case.x, "system": system, "runs": len(runs)}
    if error or not runs:
        return {**out, "error": error or "no run"}
    later = [seconds for run in runs for seconds in run["later"]]
    whole = [run["process"] for run in runs if "process" in run]
    firsts = [run["first"] for run in runs if run["first"] is not None]
    found = {"process": whole, "first": firsts, "later": later}
    for name, values in found.items():
        out[name] = [statistics.median(values), min(values), max(values)] if values else None
    out |= {name: runs[0].get(name, []) for name in ("logliks", "p", "power")}
    out |= {name: runs[0].get(name) for name in ("evaluations", "singular")}
    out["failed"] = sum(run.get("failed", 0) for run in runs)
    out["load"] = [min(run["load"] for run in runs), max(run["load"] for run in runs)]
    return out


def all_records(names: Sequence[str], mode: Mode, peers: dict[str, Any], keep: Any) -> list[Record]:
    """Every case of the sections in turn; `keep` is called with all records after each."""
    records: list[Record] = []
    for name in names:
        stopped: set[str] = set()
        for case in SECTIONS[name](mode, peers):
            if case.x is None:
                stopped = set()  # other cases are other models
            with tempfile.TemporaryDirectory() as folder:
                records += measured(case, Path(folder), stopped)
            keep(records)
    return records


def header(mode: Mode, peers: dict[str, Any]) -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": str(datetime.date.today()),
        "machine": f"{cpu_model()}, {cores} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions_line(peers),
        "command": command(COMMAND, "--json", "--write"),
        "load": [round(x, 2) for x in os.getloadavg()],
        "limits": [mode.limit, mode.scaling_limit],
    }


def sections_of(text: str) -> list[str]:
    """Names of sections, "scaling" being all of that kind."""
    names = [word for name in text.split(",") if name for word in (SCALING if name == "scaling" else (name,))]
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise SystemExit(f"--only: {', '.join(unknown)}: expected some of {', '.join([*SECTIONS, 'scaling'])}")
    return [name for name in SECTIONS if name in names] or list(SECTIONS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: a look, not a measurement")
    parser.add_argument("--long", action="store_true", help="crossed models that take an hour in all")
    parser.add_argument("--only", default="", help=f"some of {', '.join([*SECTIONS, 'scaling'])}")
    parser.add_argument("--limit", type=float, help="seconds for a program (600; 30 in scaling)")
    parser.add_argument("--write", nargs="?", const=RESULTS, type=Path, metavar="FOLDER", help="write table and plots")
    parser.add_argument("--json", type=Path, help="file for the raw numbers")
    parser.add_argument("--load", type=Path, help="make the table of such a file again, without running anything")
    options = parser.parse_args()
    names = sections_of(options.only)
    if options.load:
        kept = json.loads(options.load.read_text(encoding="utf-8"))
    else:
        kept = fresh(options, names)
    text = document(kept)
    print(text)
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        (options.write / "benchmarks.md").write_text(text, encoding="utf-8")
        plot(kept["records"], options.write / "benchmarks.png")


def fresh(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Measure now."""
    limits = {"limit": options.limit, "scaling_limit": options.limit} if options.limit else {}
    mode = Mode(**{**vars(QUICK if options.quick else Mode()), "long": options.long, **limits})
    peers = find_peers()
    note(versions_line(peers))
    start = time.perf_counter()
    head = header(mode, peers)

    def keep(records: list[Record]) -> None:
        found = {**head, "load_end": round(os.getloadavg()[0], 2), "minutes": (time.perf_counter() - start) / 60}
        kept.update(found, records=list(records))
        if options.json:
            options.json.write_text(json.dumps(kept, indent=1), encoding="utf-8")

    kept: dict[str, Any] = {}
    keep([])
    all_records(names, mode, peers, keep)
    return kept


if __name__ == "__main__":
    main()
