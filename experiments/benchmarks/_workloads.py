"""The workloads of `run.py`: cases, each with a program for every system that can do it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _data
import _refits
import mmrm
from _common import process, seconds_of
from _peers import Versions
from _programs import Problem, command_of, result_of, run, systems_for

import batch
import study

Program = Callable[[float], dict[str, Any]]  # of a limit in seconds
FLOOR, CACHED = "`import jax`, pandas, read the data: the floor", "jaxlmm, compile cache warm"


@dataclass(frozen=True)
class Mode:
    """How much is measured: `limit` seconds for a process, `budget` for the later fits in it."""

    quick: bool = False
    long: bool = False

    rounds: int = 3
    budget: float = 1.0
    limit: float = 600.0
    scaling_limit: float = 30.0


@dataclass(frozen=True)
class Case:
    """One row of the plan. `setup` writes data into a folder and returns the programs, by system.

    `x` is the value on the axis of a plot; `missing` are systems that could do it and are not on this machine.
    """

    section: str
    title: str
    setup: Callable[[Path], dict[str, Program]]
    missing: tuple[str, ...] = ()
    x: float | None = None
    rounds: int = 1
    limit: float = 600.0


def problem_case(
    section: str, title: str, problem: Problem, data: Path | Callable[[], _data.Columns], mode: Mode, peers: Versions,
    repeats: int = 30, without: Sequence[str] = (), x: float | None = None,
) -> Case:  # fmt: skip
    """A model on a file, or on columns that are written when the case begins, `without` some systems."""
    asked = [name for name in systems_for(problem) if name not in without]
    missing = tuple(name for name in asked if name != "jaxlmm" and not peers[name])

    def setup(folder: Path) -> dict[str, Program]:
        path = data if isinstance(data, Path) else folder / "data.csv"
        if not isinstance(data, Path):
            _data.write_csv(path, data())
        return {
            name: partial(run, command_of(name, problem, path, repeats, mode.budget), name)
            for name in asked
            if name not in missing
        }

    scaling = x is not None
    rounds, limit = (1, mode.scaling_limit) if scaling else (mode.rounds, mode.limit)
    return Case(section, title, setup, missing, x, rounds, limit)


SLEEPSTUDY = Problem("Reaction", "Days", (("Days", "Subject"),), ("Subject",))
SINGLE = {
    "sleepstudy, 180 rows, slopes": ("sleepstudy", SLEEPSTUDY),
    "oats, 72 rows, split plot": (
        "oats",
        Problem("yield", "Variety * Nitrogen", (("1", "Block/Variety"),), ("Block", "Variety", "Nitrogen")),
    ),
    "penicillin, 144 rows, crossed": (
        "penicillin",
        Problem("diameter", "1", (("1", "plate"), ("1", "sample")), ("plate", "sample")),
    ),
}


def first(mode: Mode, peers: Versions) -> list[Case]:
    """Whole processes: start, imports, reading, the fit, its summary."""
    path = _data.DATASETS / "sleepstudy.csv"
    asked = systems_for(SLEEPSTUDY)
    missing = tuple(name for name in asked if name != "jaxlmm" and not peers[name])

    def program(name: str, start: str = "") -> Program:
        return partial(run, command_of(name, SLEEPSTUDY, path, 1, 0.0, start, show=True), name)

    def setup(folder: Path) -> dict[str, Program]:
        cached = program("jaxlmm", f"jaxlmm.enable_compilation_cache({str(folder / 'cache')!r})")
        try:
            cached(mode.limit)  # fills it
        except RuntimeError:
            pass  # its own run says why
        found = {FLOOR: partial(floor, path), "jaxlmm": program("jaxlmm"), CACHED: cached}
        return found | {name: program(name) for name in asked if name != "jaxlmm" and name not in missing}

    rounds = mode.rounds if mode.quick else mode.rounds + 1
    return [Case("first", "sleepstudy", setup, missing, rounds=rounds, limit=mode.limit)]


def floor(path: Path, limit: float) -> dict[str, Any]:
    """What no program that uses jax and pandas can do without."""
    code = f"import jax\nimport pandas as pd\npd.read_csv({str(path)!r})\n"
    seconds, printed = seconds_of(lambda: process([sys.executable, "-c", code + 'print("RESULT{}")'], {}, limit))
    return {**result_of(printed), "process": seconds, "first": None, "later": [], "logliks": []}


def single(mode: Mode, peers: Versions) -> list[Case]:
    """Fits of another response each in one process, from formula and data frame."""
    chosen = list(SINGLE.items())[: 2 if mode.quick else None]
    return [
        problem_case("single", title, problem, _data.DATASETS / f"{name}.csv", mode, peers)
        for title, (name, problem) in chosen
    ]


def two_factors(first: str, second: str, fixed: str = "1", columns: str = "1") -> Problem:
    return Problem("y", fixed, ((columns, first), (columns, second)), (first, second))


def crossed(mode: Mode, peers: Versions) -> list[Case]:
    case = partial(problem_case, "crossed", mode=mode, peers=peers)
    subjects = two_factors("subject", "item")
    cases = [case("40 subjects x 20 items, 800 rows", subjects, lambda: _data.crossed(40, 20))]
    if not mode.quick:
        insteval = Problem("y", "service", (("1", "s"), ("1", "d"), ("1", "dept")), ("s", "d", "dept"))
        cases += [
            case("InstEval, 73 421 rows", insteval, _data.insteval, without=("glmmTMB",)),
        ]
    if mode.long:  # an hour in all
        large = two_factors("subject", "item", "a * b * c", "a * b * c")
        only = ("glmmTMB", "mixedlm")
        cases += [
            case("56 x 32, 8 x 8 covariances of both, 1792 rows", large, _data.maximal, without=only),
            case("6000 users x 4000 films, 1e6 rows", two_factors("user", "film"), _data.ratings, without=only),
        ]
    return cases


FEV = Problem("FEV1", "RACE + SEX + ARMCD * AVISIT", factors=("USUBJID", "AVISIT"), visits="AVISIT | USUBJID")
VISITS = Problem("y", "baseline + arm * AVISIT", factors=("USUBJID", "AVISIT"), visits="AVISIT | USUBJID")


def trial(subjects: int, visits: int) -> _data.Columns:
    """One trial of two arms with dropout, in the columns of `VISITS`."""
    one = mmrm.Trial("", "models", subjects=subjects, visits=visits)
    rows, y = one.design(), one.responses(1, 0)[0]
    columns = {"USUBJID": rows["id"], "AVISIT": rows["visit"] + 1, "visit": rows["visit"] + 1}
    columns |= {"arm": rows["arm"], "baseline": rows["baseline"], "y": y}
    return {name: values[y == y] for name, values in columns.items()}


def repeated(mode: Mode, peers: Versions) -> list[Case]:
    """Unstructured covariances of visits."""
    case = partial(problem_case, "mmrm", mode=mode, peers=peers)
    cases = [case("fev_data, 197 subjects x 4 visits", FEV, _data.DATASETS / "fev_data.csv")]
    if not mode.quick:
        cases.append(case("a trial, 1000 subjects x 10 visits", VISITS, lambda: trial(1000, 10)))
    return cases


def lanes_case(name: str, lanes: int, mode: Mode, peers: Versions, section: str, others: bool, x: Any = None) -> Case:
    """`fit.refit` of many responses beside loops over some of them."""
    asked = ("glmm", "lme4", "mixedlm", "statsmodels") if others else ()
    missing = tuple(peer for peer in asked if not peers[peer])

    def setup(folder: Path) -> dict[str, Program]:
        batch.write_data(batch.WORKLOADS[name], folder)
        systems = ["jaxlmm", *(peer for peer in asked if peer not in missing)]
        return {system: partial(refits, system, name, folder, lanes) for system in systems}

    title = f"{batch.WORKLOADS[name].label}, {lanes:,} responses"
    rounds = 1 if x is not None else mode.rounds
    return Case(section, title, setup, missing, x, rounds, mode.limit)


def refits(system: str, name: str, folder: Path, lanes: int, limit: float) -> dict[str, Any]:
    found = batch.one_run(system, name, folder, lanes, limit)
    if system == "jaxlmm":
        taken = [found["warm"] / found["lanes"]]
        own = {key: found[key] for key in ("evaluations", "singular")}
        return {"first": found["first"], "later": taken, "logliks": found["logliks"], **own}
    return {"first": None, "later": [found["seconds"]], "logliks": found["logliks"]}


def crossed_case(lanes: int, mode: Mode, peers: Versions) -> Case:
    """Refits of a crossed design beside loops."""
    asked, problem = ("glmm", "lme4", "mixedlm"), two_factors("subject", "item")
    missing = tuple(peer for peer in asked if not peers[peer])

    def setup(folder: Path) -> dict[str, Program]:
        _data.write_csv(folder / "data.csv", _data.crossed(40, 20))
        _refits.write_responses(folder, _data.crossed_responses(40, 20, lanes))
        systems = ["jaxlmm", *(peer for peer in asked if peer not in missing)]
        return {system: partial(_refits.run, system, problem, folder) for system in systems}

    title = f"crossed, 40 subjects x 20 items, {lanes:,} responses"
    return Case("batch", title, setup, missing, rounds=mode.rounds, limit=mode.limit)


def trials_case(lanes: int, sets: int, mode: Mode, peers: Versions) -> Case:
    """A batch of trials with dropout of their own beside loops."""
    names = {package: peer for peer, package in mmrm.PEERS.items()}
    missing = tuple(package for package in names if not peers[package])

    def setup(folder: Path) -> dict[str, Program]:
        path = folder / "trials.csv"
        mmrm.write_trials(mmrm.TRIALS["models"], sets, path)
        programs: dict[str, Program] = {"jaxlmm": partial(trials, lanes, sets)}
        for package, peer in names.items():
            if package not in missing:
                programs[package] = partial(trial_loop, peer, path)
        return programs

    title = f"trials, 200 subjects x 4 visits, dropout, {lanes:,} data sets"
    return Case("batch", title, setup, missing, rounds=1, limit=mode.limit)


def trials(lanes: int, sets: int, limit: float) -> dict[str, Any]:
    found = mmrm.worker("batch", "refit", lanes, str(sets), limit)
    return {"first": found["first"], "later": [found["warm"] / found["lanes"]], "logliks": found["logliks"]}


def trial_loop(peer: str, path: Path, limit: float) -> dict[str, Any]:
    found = mmrm.peer_batch(peer, path, limit)
    return {"first": None, "later": [found["seconds"]], "logliks": found["logliks"]}


def batches(mode: Mode, peers: Versions) -> list[Case]:
    if mode.quick:
        return [lanes_case("unbalanced", 2000, mode, peers, "batch", True)]
    refit = [lanes_case(name, 20_000, mode, peers, "batch", True) for name in ("unbalanced", "null", "near", "oneway")]
    return [*refit, crossed_case(4000, mode, peers), trials_case(1000, 10, mode, peers)]


def studies(mode: Mode, peers: Versions) -> list[Case]:
    """A study of type-I error by Satterthwaite's test beside a loop over lmerTest."""
    replicates, count = (2000, 20) if mode.quick else (20_000, 100)
    missing = () if peers["lmerTest"] else ("lmerTest",)

    def setup(folder: Path) -> dict[str, Program]:
        study.asked("sample", "satterthwaite", count, str(folder), limit=mode.limit)
        ours = partial(_study, replicates, folder)
        return {"jaxlmm": ours} | ({} if missing else {"lmerTest": partial(study.r_loop, folder)})

    title = f"18 groups x 5 to 11 rows, slopes, Satterthwaite, {replicates:,} data sets"
    return [
        Case("study", title, setup, missing, rounds=mode.rounds, limit=mode.limit),
        power_case(replicates, mode, peers),
    ]


def power_case(replicates: int, mode: Mode, peers: Versions) -> Case:
    """A study of power by Wald's z beside mcpower, drawing included."""
    missing = () if peers["mcpower"] else ("mcpower",)

    def setup(folder: Path) -> dict[str, Program]:
        systems = [name for name in ("jaxlmm", "mcpower") if name not in missing]
        return {name: partial(_powered, name, replicates) for name in systems}

    title = f"power, 20 groups x 10 rows, one effect, z, {replicates:,} data sets"
    return Case("study", title, setup, missing, rounds=mode.rounds, limit=mode.limit)


def _powered(system: str, replicates: int, limit: float) -> dict[str, Any]:
    return study.asked("powered", system, replicates, limit=limit)


def _study(replicates: int, folder: Path, limit: float) -> dict[str, Any]:
    return study.asked("timed", "satterthwaite", replicates, str(folder), limit=limit)


# -- scaling ----------------------------------------------------------------------------------------------------------


def slopes(q: int = 2) -> Problem:
    columns = " + ".join(f"x{j}" for j in range(1, q)) or "1"
    return Problem("y", columns, ((columns, "g"),), ("g",))


def scaling_rows(mode: Mode, peers: Versions) -> list[Case]:
    return [
        problem_case("n", f"{50 * r:,} rows in 50 groups", slopes(), partial(_data.grouped, 50, r, 2), mode, peers, 5,
                     x=50 * r)
        for r in ((10, 100) if mode.quick else (10, 100, 1000, 10_000))
    ]  # fmt: skip


def scaling_groups(mode: Mode, peers: Versions) -> list[Case]:
    return [
        problem_case("groups", f"{m:,} groups of 5 rows", slopes(), partial(_data.grouped, m, 5, 2), mode, peers, 5,
                     x=m)
        for m in ((20, 200) if mode.quick else (20, 200, 2000, 20_000))
    ]  # fmt: skip


def scaling_effects(mode: Mode, peers: Versions) -> list[Case]:
    return [
        problem_case("q", f"{q} effects in each of 100 groups of 20 rows", slopes(q),
                     partial(_data.grouped, 100, 20, q), mode, peers, 5, x=q)
        for q in ((1, 3) if mode.quick else (1, 2, 4, 8))
    ]  # fmt: skip


def scaling_visits(mode: Mode, peers: Versions) -> list[Case]:
    return [
        problem_case("T", f"{t} visits of 150 subjects", VISITS, partial(trial, 150, t), mode, peers, 5, x=t)
        for t in ((3, 5) if mode.quick else (3, 6, 10, 16))
    ]


def scaling_lanes(mode: Mode, peers: Versions) -> list[Case]:
    sizes = (100, 2000) if mode.quick else (100, 1000, 10_000, 100_000)
    return [lanes_case("unbalanced", b, mode, peers, "B", b == sizes[0], b) for b in sizes]


SECTIONS: dict[str, Callable[[Mode, Versions], list[Case]]] = {
    "first": first, "single": single, "crossed": crossed, "mmrm": repeated, "batch": batches, "study": studies,
    "n": scaling_rows, "groups": scaling_groups, "q": scaling_effects, "T": scaling_visits, "B": scaling_lanes,
}  # fmt: skip
SCALING = ("n", "groups", "q", "T", "B")
