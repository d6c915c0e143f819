"""The scripts of experiments/: they parse and say what they do, find peers or their absence, and write their tables."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cases import case_names, load_case

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
pytestmark = pytest.mark.skipif(not EXPERIMENTS.is_dir(), reason="experiments/ is in the repository, not in packages")
BENCHMARKS = EXPERIMENTS / "benchmarks"
SCRIPTS = sorted(EXPERIMENTS.rglob("*.py")) if EXPERIMENTS.is_dir() else []


@pytest.fixture
def module(monkeypatch):
    """Import of a module of experiments/benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(EXPERIMENTS)):
            del sys.modules[name]


def test_scripts_compile_and_say_what_they_do():
    assert len(SCRIPTS) > 15
    for path in SCRIPTS:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        compile(tree, str(path), "exec")
        assert ast.get_docstring(tree), path


def test_help():
    done = subprocess.run([sys.executable, str(BENCHMARKS / "run.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("--quick", "--only", "--write", "--limit", "installs nothing"):
        assert word in done.stdout


def test_unknown_sections_are_named(module):
    run = module("run")
    assert run.sections_of("scaling,first") == ["first", *run.SCALING]
    with pytest.raises(SystemExit, match="nowhere"):
        run.sections_of("nowhere")


def test_peers_without_r(module, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = module("_peers").find_peers()
    assert found["R"] is None and found["lme4"] is None and set(found) >= {"statsmodels", "mixedlm", "mmrm"}
    assert "not found: " in module("_peers").versions_line(found)
    assert module("_peers").distributions(["numpy", "no-such-thing"])["no-such-thing"] is None


def test_peers_by_an_r_that_answers(module, monkeypatch, tmp_path):
    """Of packages only those that it names are there."""
    answers = tmp_path / "Rscript"
    answers.write_text("#!/bin/sh\necho R 4.9.9\necho lme4 9.1\n")
    answers.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = module("_peers").r_packages(["lme4", "nlme"])
    assert found == {"R": "4.9.9", "lme4": "9.1", "nlme": None}


def fake_case(workloads, programs, missing=(), **more):
    return workloads.Case("crossed", "a case", lambda folder: programs, missing, **more)


def good(seconds, loglik):
    return lambda limit: {"first": 3 * seconds, "later": [seconds, 2 * seconds], "logliks": [loglik]}


def test_failures_are_entries(module, tmp_path):
    """A crash, one that takes too long and one that is not installed; the others go on."""
    run, workloads, common = module("run"), module("_workloads"), module("_common")

    def crash(limit):
        raise RuntimeError("a long story\nit fell")

    def sleep(limit):
        return common.process([sys.executable, "-c", "import time; time.sleep(60)"], {}, limit)

    programs = {"jaxlmm": good(0.001, -5.0), "lme4": crash, "nlme": sleep, "mixedlm": good(0.1, -5.5)}
    stopped: set[str] = set()
    case = fake_case(workloads, programs, ("glmmTMB",), rounds=2, limit=0.3)
    records = {r["system"]: r for r in run.measured(case, tmp_path, stopped)}
    assert records["lme4"]["error"] == "failed: it fell"
    assert records["nlme"]["error"] == "> 0.3 s"
    assert records["glmmTMB"]["error"] == "not found"
    assert records["jaxlmm"]["runs"] == records["mixedlm"]["runs"] == 2
    assert records["jaxlmm"]["later"] == [0.0015, 0.001, 0.002]
    assert stopped == {"lme4", "nlme"}
    again = {r["system"]: r for r in run.measured(case, tmp_path, stopped)}
    assert again["lme4"]["error"].startswith("not tried") and again["mixedlm"]["runs"] == 2


def canned(module, tmp_path):
    run, workloads = module("run"), module("_workloads")
    programs = {"jaxlmm": good(0.001, -5.0), "lme4": good(0.0123, -5.0), "mixedlm": good(0.1, -5.5)}
    records = run.measured(fake_case(workloads, programs, ("glmmTMB",)), tmp_path, set())
    for x in (10, 100):
        case = workloads.Case("n", f"{x} rows", lambda folder: programs, x=x)
        records += run.measured(case, tmp_path, set())
    head = run.header(workloads.Mode(), {"R": None, "lme4": None})
    return {**head, "load_end": 0.0, "minutes": 1.0, "records": records}


def test_power_and_evaluations_beside_the_table(module, tmp_path):
    run, workloads, tables = module("run"), module("_workloads"), module("_tables")
    ours = {"first": 1.0, "later": [2e-6], "logliks": [], "power": [0.5, 100], "evaluations": 6.6, "singular": 0.01}
    other = {"first": 1.0, "later": [2e-6], "logliks": [], "power": [0.9, 100]}
    case = fake_case(workloads, {"jaxlmm": lambda limit: ours, "mcpower": lambda limit: other})
    text = tables.section_table("study", run.measured(case, tmp_path, set()))
    assert "jaxlmm 0.5000 (0.0500), mcpower 0.9000 (0.0300), 0.36 x the time to the same error" in text
    assert "Evaluations a lane: a case: 6.6, 1 % singular." in text


def test_the_table(module, tmp_path):
    tables, kept = module("_tables"), canned(module, tmp_path)
    text = tables.document(kept)
    assert "| a case | glmmTMB | not found |" in text
    assert "| a case | lme4 | 36.9 ms | 18.4 ms (12.3 ms to 24.6 ms) | 12.3 | -5.00000 | +0e+00 |" in text
    assert "-5e-01 !" in text and "3 of 6 log-likelihoods are within 0.0001" in text
    assert "- 10 rows, mixedlm: -5.0e-01" in text
    assert kept["date"] in text and "not found: R, lme4" in text
    assert tables.difference({"system": "b", "logliks": [float("nan")]}, {"system": "a", "logliks": [1.0]}) != 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (12.345, "12.3 s"),
        (1.0, "1.00 s"),
        (0.9996, "1.00 s"),
        (0.0456, "45.6 ms"),
        (123e-6, "123 us"),
        (2e-6, "2.00 us"),
    ],
)
def test_durations(module, seconds, text):
    assert module("_tables").duration(seconds) == text


def test_the_plot(module, tmp_path):
    pytest.importorskip("matplotlib")
    tables, kept = module("_tables"), canned(module, tmp_path)
    curves = tables.curves(kept["records"], "n")
    assert [x for x, _ in curves["lme4"]] == [10, 100] and "jaxlmm, first fit, compiling" in curves
    tables.plot(kept["records"], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_programs_of_every_system(module):
    """The calls have each system's own spelling, and Python's programs are valid."""
    programs, workloads = module("_programs"), module("_workloads")
    slopes, visits, crossed = workloads.SLEEPSTUDY, workloads.FEV, workloads.two_factors("s", "i")
    assert programs.call_of("nlme", slopes).startswith("lme(Reaction ~ Days, data, random=~ Days | Subject")
    assert "corSymm(form=~ visit | USUBJID)" in programs.call_of("nlme", visits)
    assert programs.call_of("mmrm", visits) == "mmrm(FEV1 ~ RACE + SEX + ARMCD * AVISIT + us(AVISIT | USUBJID), data)"
    assert programs.call_of("glmm", crossed) == "glmm.fit(data, 'y ~ 1 + (1 | s) + (1 | i)', satterthwaite=False)"
    assert "statsmodels" not in programs.systems_for(crossed) and "lme4" not in programs.systems_for(visits)
    for problem in (slopes, visits, crossed):
        for system in programs.systems_for(problem):
            command = programs.command_of(system, problem, Path("data.csv"), 3, 1.0)
            if command[0] != "Rscript":
                compile(command[2], system, "exec")
            else:
                assert command[2].count("{") == command[2].count("}")


@pytest.mark.parametrize("quick", [True, False])
def test_every_section_has_cases(module, quick):
    """With and without peers; a missing peer is in the plan as missing."""
    workloads, peers = module("_workloads"), module("_peers")
    names = ("R", *peers.R, *peers.PYTHON)
    for found in (dict.fromkeys(names), dict.fromkeys(names, "1.0")):
        for name, make in workloads.SECTIONS.items():
            cases = make(workloads.Mode(quick=quick), found)
            assert cases and all(case.section == name for case in cases)
            assert not found["lme4"] or not any(case.missing for case in cases)
            assert (name in workloads.SCALING) == (cases[0].x is not None)


def test_the_index_has_every_case():
    text = (EXPERIMENTS / "results" / "references.md").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert set(case_names()) <= set(rows)
    for name in case_names():
        loglik = float(rows[name].split(" | ")[5])
        assert loglik < 1e-6, name
        assert load_case(name)["software"] in rows[name]


def test_reference_scripts_are_there_for_tests_and_read_nothing_of_one_machine():
    folder = EXPERIMENTS / "references"
    for path in (folder / "numbers").glob("*.R"):
        if path.stem != "common":
            assert list(Path(__file__).parent.rglob(f"test_{path.stem}.py")), path
            assert path.name in (folder / "README.md").read_text(encoding="utf-8")
    for path in folder.rglob("*.R"):
        text = path.read_text(encoding="utf-8")
        assert "install.packages" not in text and '"/' not in text, path
