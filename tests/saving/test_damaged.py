"""Damaged files, and files that were made to do harm: each loads equal to what was saved, or is one sentence."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import subprocess
import sys
import threading
import zipfile

import jax
import numpy as np
import pytest

import jaxlmm
from cases import some
from jaxlmm.saving.archive import write_atomically
from jaxlmm.study import Estimator, Inline, MixedModel, Study, StudyError, designs, read, report, run, status
from jaxlmm.study.store import locked

VALUES = [None, 0, -1, 1e308, "x", [], {}, True, 2**70, {"array": "a0"}, {"array": "zz"}, {"float": "nan"},
          {"record": ["Fit", []]}, {"class": ["builtins.eval", ["x"]]}, {"enum": ["Status", 99]},
          {"structure": [{"class": ["os.system", []]}, {"dict": []}]}, "y ~ __import__('os')"]  # fmt: skip


@pytest.fixture(scope="module")
def fit():
    with jax.enable_x64(True):
        return jaxlmm.lmm("Yield ~ 1 + (1 | Batch)", jaxlmm.datasets.load("dyestuff"))


@pytest.fixture(scope="module")
def saved(fit, tmp_path_factory):
    """Bytes of a fit and of a batch."""
    folder = tmp_path_factory.mktemp("saved")
    fit.save(folder / "fit")
    fit.refit(fit.simulate(3, seed=1)).save(folder / "batch")
    return {name: (folder / name).read_bytes() for name in ("fit", "batch")}


def packed(header, arrays, how=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as file:
        file.writestr("header.json", header if isinstance(header, str) else json.dumps(header))
        for name, content in arrays.items():
            file.writestr(name, content)
    return out.getvalue()


def taken_apart(content):
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        arrays = {name: file.read(name) for name in file.namelist() if name != "header.json"}
        return json.loads(file.read("header.json")), arrays


def paths(value, before=()):
    """Places in JSON."""
    if before:
        yield before
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in pairs:
        yield from paths(entry, (*before, key))


def edited(value, place, new):
    value = copy.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = new
    return value


def loaded(content, path):
    """What was loaded, None where it was refused in one sentence."""
    path.write_bytes(content)
    try:
        return jaxlmm.load(path)
    except jaxlmm.JaxlmmError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error) and len(str(error)) < 600
        return None


def equal(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("loglik", "coef", "theta", "sigma"))


@pytest.mark.parametrize("kind", ["fit", "batch"])
def test_flipped_bits_and_cut_files(kind, saved, tmp_path):
    chance, content = random.Random(1), saved[kind]
    whole = loaded(content, tmp_path / "f")
    for _ in range(150):
        bad = bytearray(content)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        found = loaded(bytes(bad), tmp_path / "f")
        assert found is None or equal(found, whole)
    for _ in range(30):
        assert loaded(content[: chance.randrange(len(content))], tmp_path / "f") is None


@pytest.mark.parametrize("kind", some(["fit", "batch"], "fit"))
def test_edited_fields(kind, saved, tmp_path):
    chance = random.Random(2)
    header, arrays = taken_apart(saved[kind])
    whole = loaded(packed(header, arrays), tmp_path / "f")
    places = list(paths(header))
    for _ in range(150):
        place, value = chance.choice(places), chance.choice(VALUES)
        found = loaded(packed(edited(header, place, value), arrays), tmp_path / "f")
        assert found is None or equal(found, whole), (place, value)
        if "sha256" not in place:  # one who forges the digest gets no further than errors of the package
            header_ = {k: v for k, v in edited(header, place, value).items() if k != "sha256"}
            loaded(packed(header_, arrays), tmp_path / "f")


def npy(text, content=b"", version=b"\x01\x00"):
    head = text.encode().ljust(118 if version == b"\x01\x00" else 116) + b"\n"
    size = len(head).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + head + content


@pytest.mark.parametrize(
    "array",
    [
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-2, -3), }", bytes(48)),
        npy("{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000,), }"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }"),
        npy("{'descr': '|V8', 'fortran_order': False, 'shape': (3,), }", bytes(24)),
        npy("((((((((((" * 10),
        b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 100,
        b"\x93NUMPY\x09\x00" + b" " * 200,
        b"",
    ],
    ids=["huge", "negative", "no_size", "objects", "void", "nested", "long_header", "version", "empty"],
)
def test_arrays_are_as_large_as_they_say(array, saved, tmp_path):
    header, arrays = taken_apart(saved["fit"])
    assert loaded(packed(header, arrays | {"a0.npy": array}), tmp_path / "f") is None


def test_a_small_file_cannot_become_large(saved, tmp_path):
    resource = pytest.importorskip("resource")
    header, arrays = taken_apart(saved["fit"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bomb = packed(header, arrays | {"zero.npy": bytes(2**28)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**19
    made = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert loaded(bomb, tmp_path / "f") is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - made < 2**16, before


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_other_ways_to_be_no_file(saved, tmp_path):
    header, arrays = taken_apart(saved["fit"])
    for text in ("[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000, "null", "[]", '"x"', "1e999"):
        assert loaded(packed(text, arrays), tmp_path / "f") is None
    deep = {}
    for _ in range(400):
        deep = {"tuple": [deep]}
    assert loaded(packed(edited(header, ("content", "estimate"), deep), arrays), tmp_path / "f") is None
    for value in ("1", True, 1.5, None, 0, -1, 99, [1]):
        assert loaded(packed({**header, "format": value}, arrays), tmp_path / "f") is None
    twice = io.BytesIO(packed(header, arrays))
    with zipfile.ZipFile(twice, "a") as file:
        file.writestr("a0.npy", arrays["a0.npy"])
    assert loaded(twice.getvalue(), tmp_path / "f") is None
    rows = edited(header, ("content", "data", "rows"), 10**12)
    assert loaded(packed(rows, arrays), tmp_path / "f") is None


# ---------------------------------------------------------------------------- writing


def test_threads_save_to_one_path(fit, tmp_path):
    errors = []

    def save():
        try:
            for _ in range(10):
                fit.save(tmp_path / "one")
                assert jaxlmm.load(tmp_path / "one").loglik == fit.loglik
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and os.listdir(tmp_path) == ["one"]


def test_processes_with_one_number_write_to_one_path(tmp_path, monkeypatch):
    """As two machines may have them."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    opened, go_on = threading.Event(), threading.Event()
    sync = os.fsync

    def slow(file):
        if not opened.is_set():
            opened.set()
            go_on.wait(30)
        sync(file)

    monkeypatch.setattr(os, "fsync", slow)
    first = threading.Thread(target=write_atomically, args=(tmp_path / "x", b"first"))
    first.start()
    assert opened.wait(30)
    write_atomically(tmp_path / "x", b"second")
    assert (tmp_path / "x").read_bytes() == b"second"
    go_on.set()
    first.join()
    assert (tmp_path / "x").read_bytes() == b"first" and os.listdir(tmp_path) == ["x"]


def test_names_and_folders_that_cannot_be_written(fit, tmp_path):
    long = "\N{GREEK SMALL LETTER ALPHA}" * 120
    fit.save(tmp_path / long)
    assert jaxlmm.load(tmp_path / long).loglik == fit.loglik
    with pytest.raises(FileNotFoundError, match="nowhere/fit'"):
        fit.save(tmp_path / "nowhere" / "fit")
    with pytest.raises(OSError):  # noqa: PT011 - of the system
        fit.save(tmp_path)
    assert os.listdir(tmp_path) == [long]


# ---------------------------------------------------------------------------- studies


def trial(**changes):
    options = {
        "design": designs.cluster_trial, "grid": {"clusters": [6, 8], "size": [4]},
        "generate": MixedModel("y ~ arm + (1 | cluster)", {}, {"cluster": 0.1, "residual": 0.9}),
        "estimators": [Estimator("mixed", "y ~ arm + (1 | cluster)", df="asymptotic")],
        "targets": {"arm": 0.0}, "replicates": 4, "chunk": 2,
    }  # fmt: skip
    return Study(**(options | changes))


MARK = "<script>alert(1)</script>"
BAD = "$x_1^{$"  # no formula of matplotlib


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study that was run, with names that mean something in HTML and to matplotlib."""
    pytest.importorskip("pyarrow")
    out = tmp_path_factory.mktemp("study") / "out"
    estimator = Estimator(MARK + BAD, "y ~ arm + (1 | cluster)", df="asymptotic")
    run(trial(name=MARK, estimators=[estimator]), out, Inline(), progress=False)
    return out


def copied(study, tmp_path):
    (tmp_path / "parts").mkdir()
    for path in (study / "parts").iterdir():
        (tmp_path / "parts" / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_a_report_escapes_everything(study, tmp_path):
    out = copied(study, tmp_path)
    manifest = json.loads((study / "manifest.json").read_text())
    manifest["environments"] = [{MARK: MARK}]
    (out / "manifest.json").write_text(json.dumps(manifest))
    page = report(out).read_text()
    assert "<script" not in page and page.count("&lt;script") > 5
    html = read(out).summary()._repr_html_()
    assert "<script" not in html and "&lt;script" in html


def test_damaged_manifests(study, tmp_path):
    out, chance = copied(study, tmp_path), random.Random(3)
    content = (study / "manifest.json").read_bytes()
    manifest, whole = json.loads(content), str(read(study).summary())

    def check(content):
        (out / "manifest.json").write_bytes(content)
        try:
            status(out)
            found = str(read(out).summary())
        except StudyError as error:
            assert str(error).startswith(str(out)) and "\n" not in str(error)
            return
        assert found == whole

    for _ in range(150):
        bad = bytearray(content)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        check(bytes(bad))
    for _ in range(20):
        check(content[: chance.randrange(len(content))])
    places = list(paths(manifest))
    for _ in range(200):
        check(json.dumps(edited(manifest, chance.choice(places), chance.choice(VALUES))).encode())
    for text in ("[" * 100_000, "null", "[]", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")):
        check(text.encode("latin-1"))


def test_numbers_of_a_forged_manifest_make_no_memory(study, tmp_path):
    from jaxlmm.study.describe import digest
    from jaxlmm.study.manifest import signature

    out = copied(study, tmp_path)
    manifest = json.loads((study / "manifest.json").read_text())
    manifest["study"] |= {"replicates": 10**15, "chunk": 1}
    manifest["hash"] = digest(manifest["study"])
    manifest["sha256"] = signature(manifest)
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StudyError, match="files, more than"):
        status(out)


def test_damaged_parts(study, tmp_path):
    out, chance = copied(study, tmp_path), random.Random(4)
    (out / "manifest.json").write_bytes((study / "manifest.json").read_bytes())
    whole, part = str(read(study).summary()), next((out / "parts").iterdir())
    content = part.read_bytes()
    for _ in range(100):
        bad = bytearray(content)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        part.write_bytes(bytes(bad))
        try:
            found = str(read(out).summary())
        except StudyError as error:
            assert str(error).startswith(str(part)) and "\n" not in str(error)
        else:
            assert found == whole
    part.write_bytes(content[:40])
    with pytest.raises(StudyError, match="damaged .*; remove it and run the study again"):
        read(out).summary()


def test_a_study_that_cannot_start_has_not_claimed_its_directory(tmp_path):
    pytest.importorskip("pyarrow")
    out = tmp_path / "out"
    with pytest.raises(jaxlmm.JaxlmmError, match="nothing"):
        run(trial(estimators=[Estimator("mixed", "y ~ nothing + (1 | cluster)")]), out, Inline(), progress=False)
    with pytest.raises(StudyError, match="no study has been started here"):
        status(out)
    with locked(out) as store:  # a run that was killed before its first part has claimed nothing either
        store.begin(trial(seed=1))
        assert store.manifest()["study"]["seed"] == 1
        store.begin(trial(seed=2))
        assert store.manifest()["study"]["seed"] == 2


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="no such flag")
@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_lock_does_not_follow_links(make, tmp_path):
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    out.mkdir()
    make(victim, out / "lock")
    with pytest.raises(StudyError, match="cannot be used for a study"), locked(out):
        pass
    assert victim.read_text() == "precious"


def test_the_command_line_says_that_it_runs_files():
    done = subprocess.run(
        [sys.executable, "-m", "jaxlmm", "study", "--help"], capture_output=True, text=True, check=True
    )
    assert "is run, here and in the workers" in " ".join(done.stdout.split())
