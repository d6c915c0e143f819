"""Studies on disk: killed and gone on with, refused, locked, without room; the same bytes whoever does the work."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("distributed")

import psutil

import jaxlmm
from cases import some
from jaxlmm.study import StudyError, read, status
from jaxlmm.study.chunk import one_thread
from jaxlmm.study.declare import Task
from jaxlmm.study.store import locked, part_name
from jaxlmm.study.toml import read_study

# 40 parts, of two cells whose models are of one shape; the generating function is the script's own
SCRIPT = """
import sys
import numpy as np
from jaxlmm.study import Estimator, Study, designs, run

def generate(rng, data, icc):
    effects = np.sqrt(icc) * rng.standard_normal(6)
    return effects[data["cluster"]] + np.sqrt(1 - icc) * rng.standard_normal(30)

study = Study(
    design=lambda: designs.cluster_trial(6, 5), grid={"icc": [0.05, 0.3]}, generate=generate,
    estimators=[Estimator("mixed", "y ~ arm + (1 | cluster)", df="asymptotic")],
    targets={"arm": 0.0}, replicates=300, seed=3, chunk=15,
)

if __name__ == "__main__":
    out, executor, workers = sys.argv[1:4]
    run(study, out, executor, int(workers) or None)
"""
EXECUTORS = some([("inline", 0), ("processes", 1), ("dask", 1)], ("processes", 1))
TIMEOUT = 120.0


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The script, and a cache of compiled code: what is compiled once is not what these tests are about."""
    folder = tmp_path_factory.mktemp("study")
    path = folder / "study.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(scope="module")
def reference(script):
    """The study without disturbance."""
    out = script.parent / "reference"
    process = start(script, out, "processes", 1)
    assert process.wait(TIMEOUT) == 0
    return out


def environ(script, executor):
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(script.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    package = str(Path(jaxlmm.__file__).parents[1])
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))}
    return {**os.environ, **cache, **paths, **(one_thread() if executor == "inline" else {})}


def start(script, out, executor, workers, room=None):
    """A process that runs the study; `room` is the size of a file that the kernel refuses to go beyond."""
    command = [sys.executable, str(script), str(out), executor, str(workers)]
    if room is not None:
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room})); "
        run = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
        command[1:1] = ["-c", limit + run]
    return subprocess.Popen(command, env=environ(script, executor), stderr=subprocess.PIPE, text=True)


def parts_of(out):
    return {path.name: path.read_bytes() for path in sorted((out / "parts").glob("*.parquet"))}


def kill_at(process, out, parts, whom, later):
    """Kill -9 the process, or a worker of it, so long after there are so many parts; False where it ended before."""
    end = time.monotonic() + TIMEOUT
    while process.poll() is None and time.monotonic() < end:
        if len(list((out / "parts").glob("c*.parquet"))) >= parts:
            time.sleep(later)
            family = psutil.Process(process.pid).children(recursive=True)
            victim = process.pid if whom == "itself" or not family else family[-1].pid
            os.kill(victim, signal.SIGKILL)
            if victim == process.pid:
                process.wait(TIMEOUT)
                _, alive = psutil.wait_procs(family, timeout=20)
                assert not alive, "workers outlive who started them"
            return True
        time.sleep(0.002)
    return False


def survives(script, out, reference, executor, workers, kills, seed):
    """Kill the study at random moments, go on with it, and compare what it ends with."""
    draw, killed = random.Random(seed), 0
    moments = sorted(draw.randint(0, 37) for _ in range(kills))  # numbers of parts
    while True:
        process = start(script, out, executor, workers)
        while killed < kills:
            whom = "itself" if executor == "inline" else draw.choice(["itself", "worker"])
            if not kill_at(process, out, moments[killed], whom, 0.05 * draw.random()):
                break
            killed += 1
            if whom == "itself":
                break
        _, errors = process.communicate(timeout=TIMEOUT)
        if process.returncode == 0:
            break
        # several workers killed over one chunk are reason to stop, with a sentence
        assert process.returncode == -signal.SIGKILL or "StudyError: " in errors, errors
    assert read(out).complete
    assert parts_of(out) == parts_of(reference)
    assert not [path for path in out.rglob(".tmp-*")]
    return killed


@pytest.mark.slow
@pytest.mark.parametrize(("executor", "workers"), EXECUTORS)
def test_killed_twice_it_ends_with_the_same_bytes(script, reference, tmp_path, executor, workers):
    assert survives(script, tmp_path / "out", reference, executor, workers, 2, seed=2) >= 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("executor", "workers"), [("inline", 0), ("processes", 2), ("dask", 2)])
def test_killed_twenty_times_it_ends_with_the_same_bytes(script, reference, tmp_path, executor, workers):
    assert survives(script, tmp_path / "out", reference, executor, workers, 20, seed=20) >= 18


def test_progress_and_resume(script, reference, tmp_path):
    assert status(reference).done == 600 and "complete" in str(status(reference))
    out = tmp_path / "out"
    (out / "parts").mkdir(parents=True)
    (out / "manifest.json").write_bytes((reference / "manifest.json").read_bytes())
    for name, content in list(parts_of(reference).items())[5:]:
        (out / "parts" / name).write_bytes(content)
    damaged = out / "parts" / part_name(Task(1, 285, 300))
    damaged.write_bytes(damaged.read_bytes()[:-20])
    (out / "parts" / ".tmp-1-left-behind").write_bytes(b"half")
    found = status(out)
    assert (found.parts, found.all_parts, found.done, found.running) == (35, 40, 525, False)
    assert "not running" in str(found)
    process = start(script, out, "processes", 1)
    assert process.wait(TIMEOUT) == 0
    assert parts_of(out) == parts_of(reference)


def test_another_study_is_refused_with_the_difference(reference):
    study = read_study(_changed(reference, "seed=3", "seed=4"))
    with locked(reference) as store, pytest.raises(StudyError) as error:
        store.begin(study)
    assert "holds another study" in str(error.value) and "seed: 3 -> 4" in str(error.value)
    study = read_study(_changed(reference, "standard_normal(6)", "standard_t(3, 6)"))
    with locked(reference) as store, pytest.raises(StudyError, match=r"standard_t\(3, 6\)"):
        store.begin(study)


def _changed(reference, old, new):
    text = (reference.parent / "study.py").read_text()
    assert old in text
    path = reference.parent / f"changed_{abs(hash(new))}.py"
    path.write_text(text.replace(old, new))
    return path


def test_other_software_is_refused_unless_accepted(reference, tmp_path):
    manifest = json.loads((reference / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    known = manifest["environments"][0]
    assert known["threads"] == 1 and known["dtype"] == "float64"
    with locked(tmp_path) as store:
        store.admit(known, mixed=False)
        other = {**known, "jax": "0.0.1"}
        with pytest.raises(StudyError, match="jax: '.*' -> '0.0.1'"):
            store.admit(other, mixed=False)
        store.admit(other, mixed=True)
        assert store.manifest()["environments"] == [known, other]


def test_one_run_at_a_time(tmp_path):
    code = ("import sys; from jaxlmm.study.store import locked\n"
            "with locked(sys.argv[1]): print('held', flush=True); sys.stdin.read()")  # fmt: skip
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert holder.stdout.readline().strip() == "held"
    with pytest.raises(StudyError, match=f"in use by another run \\(process {holder.pid} on"), locked(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path):  # the lock has died with its process
        pass


@pytest.mark.slow
def test_no_room_is_one_sentence_and_can_be_gone_on_with(script, reference, tmp_path):
    out = tmp_path / "out"
    size = max(len(content) for content in parts_of(reference).values())
    room = (reference / "manifest.json").stat().st_size + 100
    assert room < size, "the limit must stop parts, not the manifest"

    process = start(script, out, "processes", 1, room)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    sentence = errors.strip().splitlines()[-1]
    assert "StudyError" in sentence and "cannot write c00000-r" in sentence and "run the study again" in sentence
    assert parts_of(out) == {} and (out / "manifest.json").exists() and not list(out.rglob(".tmp-*"))
    assert status(out).done == 0


@pytest.mark.parametrize("place", ["/proc/nowhere", "file/below"])
def test_a_directory_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be used for a study: "), locked(tmp_path / place):
        pass


def test_there_is_no_study(tmp_path):
    with pytest.raises(StudyError, match="no study has been started here"):
        status(tmp_path)


@pytest.mark.slow
def test_a_scheduler_without_workers_says_so(tmp_path, monkeypatch):
    import distributed

    from jaxlmm.study import cluster, run
    from studies import plain

    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with distributed.LocalCluster(n_workers=0, dashboard_address=None) as nobody:
        with pytest.raises(StudyError, match="the scheduler has had no workers for 1 seconds"):
            run(plain(), tmp_path, cluster.Dask(nobody))


NO_GUARD = """
import sys
from jaxlmm.study import run
from studies import plain
run(plain(), sys.argv[1], "dask", 1)
"""


@pytest.mark.slow
def test_dask_without_a_main_guard_says_what_to_do(tmp_path):
    (tmp_path / "script.py").write_text(NO_GUARD)
    paths = os.pathsep.join([str(Path(jaxlmm.__file__).parents[1]), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "out")], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": paths}, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 1 and "put run(...) below `if __name__ == '__main__':`" in done.stderr.splitlines()[-1]


def test_workers_share_the_cache_of_compiled_code():
    import jax

    from jaxlmm.study.executors import compiled

    before = jax.config.values["jax_compilation_cache_dir"]
    try:
        jax.config.update("jax_compilation_cache_dir", "/somewhere")
        assert compiled()["JAX_COMPILATION_CACHE_DIR"] == "/somewhere"
        jax.config.update("jax_compilation_cache_dir", None)
        assert compiled() == {}
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.slow
def test_workers_of_a_cluster_on_this_machine_share_it_too(monkeypatch):
    from contextlib import nullcontext

    from jaxlmm.study import cluster
    from studies import plain

    distributed, seen = pytest.importorskip("distributed"), []

    class Client:
        def __init__(self, address):
            self.run = self.wait_for_workers = lambda *args, **options: None

        __enter__, __exit__ = (lambda self: self), (lambda self, *error: None)

    monkeypatch.setattr(distributed, "Client", Client)
    monkeypatch.setattr(cluster, "_local", lambda *args: nullcontext("here"))
    monkeypatch.setattr(cluster, "_parts", lambda module, client, what, tasks: iter([seen.append(what[2])]))
    monkeypatch.setattr(cluster, "compiled", lambda: {"JAX_COMPILATION_CACHE_DIR": "/somewhere"})
    for address in (None, "tcp://elsewhere"):
        list(cluster.Dask(address).parts(plain(), []))
    assert seen == [{"JAX_COMPILATION_CACHE_DIR": "/somewhere"}, {}]
