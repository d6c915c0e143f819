"""A study is recognised by what its functions do: all of the user's own that they read, and nothing else."""

from __future__ import annotations

import enum
import functools
import subprocess
import sys
from types import ModuleType

import jax
import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("polars")

import pandas as pd
import polars as pl

from jaxlmm.study import StudyError, analyses, designs, run
from jaxlmm.study.describe import described, differences
from studies import Here, plain

EFFECT = 1.0
HELPERS = ModuleType("helpers_of_a_study")
exec("SCALE = 2.0\ndef scaled(x):\n    return SCALE * x\n", vars(HELPERS))


def shifted(arm):
    return [EFFECT * a for a in arm]


def generate(rng, data):
    """Draw."""
    return np.array(shifted(data["arm"])) + rng.standard_normal(30)


class Scaled:
    def __init__(self, by):
        self.by = by

    def __call__(self, rng, data):
        return self.by * self.noise(rng)

    def noise(self, rng):
        return EFFECT * rng.standard_normal(30)


@jax.jit
def compiled(key, data):
    return jax.random.normal(key, (30,)) * EFFECT


def by_module(rng, data):
    return HELPERS.scaled(rng.standard_normal(30))


def forth(n):
    return back(n - 1) if n else EFFECT


def back(n):
    return forth(n)


PROGRAMS = [generate, Scaled(1.0), compiled, forth, Scaled, functools.partial(generate, data={}), {"of": [generate]},
            Scaled(1.0).noise]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_constant_that_is_read_anywhere_below_is_a_part(program, monkeypatch):
    before = described(program)
    assert before == described(program)
    monkeypatch.setattr(sys.modules[__name__], "EFFECT", 2.0)
    lines = differences(before, described(program))
    assert lines and all(line.endswith("EFFECT: 1.0 -> 2.0") for line in lines)


class Held:
    SD = EFFECT

    def __call__(self, rng, data):
        return self.SD * rng.standard_normal(30)


class Level(enum.Enum):
    LOW = 1.0


def by_class(rng, data):
    return Held.SD


def by_member(rng, data):
    return Level.LOW.value


def noisy(rng, data):
    return noisy.sd * rng.standard_normal(30)


noisy.sd = 1.0


def imports_a_name(rng, data):
    from helpers_of_a_study import SCALE

    return SCALE


def imports_a_module(rng, data):
    import helpers_of_a_study as own

    return own.SCALE


@pytest.mark.parametrize(
    ("program", "holder", "name"),
    [(Held(), Held, "SD"), (Held, Held, "SD"), (by_class, Held, "SD"), (by_member, Level.LOW, "_value_"),
     (noisy, noisy, "sd"), (imports_a_name, HELPERS, "SCALE"), (imports_a_module, HELPERS, "SCALE")],
)  # fmt: skip
def test_attributes_and_what_is_imported_within_are_parts(program, holder, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "helpers_of_a_study", HELPERS)
    before = described(program)
    assert before == described(program)
    monkeypatch.setattr(holder, name, 5.0)
    assert any(line.endswith("-> 5.0") for line in differences(before, described(program)))


def times(factor):
    def decorate(function):
        @functools.wraps(function)
        def scaled(rng, data):
            return factor * function(rng, data)

        return scaled

    return decorate


def test_decorators_of_ones_own_are_parts():
    one, two = described(times(1.0)(generate)), described(times(2.0)(generate))
    assert differences(one, two) == ["captured.factor: 1.0 -> 2.0"]
    assert "return factor * function" in one["source"] and "EFFECT" in str(one)
    assert "vmap" not in described(jax.vmap(generate))["source"]


LABELS = pd.Categorical(["a", "b"], ["a", "b"])


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (LABELS, LABELS.reorder_categories(["b", "a"])),
        (LABELS, LABELS.as_ordered()),
        (pd.Series(LABELS), pd.Series(LABELS.reorder_categories(["b", "a"]))),
        (pd.DataFrame({"f": LABELS}), pd.DataFrame({"f": LABELS.reorder_categories(["b", "a"])})),
        (pd.DataFrame({"x": [1, 2]}, index=["a", "b"]), pd.DataFrame({"x": [1, 2]}, index=["b", "a"])),
        (np.ma.array([1.0, 2.0], mask=[0, 1]), np.ma.array([1.0, 2.0], mask=[1, 0])),
        (pl.Series(["a", "b"], dtype=pl.Enum(["a", "b"])), pl.Series(["a", "b"], dtype=pl.Enum(["b", "a"]))),
    ],
)  # fmt: skip
def test_order_of_levels_masks_and_labels_are_parts_of_data(one, two):
    assert described(one) != described(two)
    assert described(pd.Series([1.0, 2.0])) == [1.0, 2.0]


def test_attributes_of_modules_of_ones_own_are_parts(monkeypatch):
    before = described(by_module)
    monkeypatch.setattr(HELPERS, "SCALE", 3.0)
    (line,) = differences(before, described(by_module))
    assert line.endswith("SCALE: 2.0 -> 3.0")
    monkeypatch.setattr(HELPERS, "scaled", shifted)
    assert described(by_module) != before


def test_state_and_source_of_objects_are_parts():
    assert described(Scaled(1.0)) != described(Scaled(2.0))
    local = type(
        "Scaled", (), {"__call__": lambda self, rng, data: 0.0, "__init__": lambda self: setattr(self, "by", 1.0)}
    )
    assert described(local()) != described(Scaled(1.0))


def test_lambdas_of_one_line_are_told_apart():
    one, two, other = lambda rng: rng + 1, lambda rng: rng + 2, lambda rng: rng + 1  # noqa: E731
    assert described(one)["source"] == "lambda rng: rng + 1" == described(other)["source"]
    assert described(two)["source"] == "lambda rng: rng + 2"


def test_what_is_installed_stands_by_its_name():
    assert set(described(np.linalg.norm)) == {"function"}
    assert "source" not in described(designs.cluster_trial) and "source" not in described(analyses.ClusterMeans)
    assert described(analyses.cluster_means(arm="a")) != described(analyses.cluster_means(arm="b"))


NO_FILE = "def f(rng, data):\n    return [(lambda y: y in {'a', 'b', 'c'})(1), [x for x in data if x]]\n"


def test_functions_without_a_file_are_the_same_wherever_they_are_made():
    found = []
    for _ in range(2):
        place: dict = {"__name__": "__main__"}
        exec(NO_FILE, place)
        found.append(described(place["f"]))
    assert found[0] == found[1] and found[0]["source"].startswith("sha256:")
    exec(NO_FILE.replace("'c'", "'d'"), place)
    assert described(place["f"]) != found[0]


def test_classes_without_a_file_are_what_their_methods_do():
    def made(text):
        place: dict = {"__name__": "__main__", "EFFECT": 1.0}
        exec(text, place)
        return described(place["Model"]())

    text = "class Model:\n    def __call__(self, rng, data):\n        return EFFECT * rng.normal(size=3)\n"
    assert made(text) == made(text) and "EFFECT" in str(made(text))
    assert made(text) != made(text.replace("size=3", "size=4"))


@pytest.mark.slow
def test_functions_without_a_file_are_the_same_in_every_process():
    code = NO_FILE + "from jaxlmm.study.describe import described; print(described(f), described(object()))"
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                       env={**__import__("os").environ, "PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1


def test_a_study_is_not_its_name_or_its_chunks():
    assert plain().hash == plain(name="other", chunk=7).hash
    for changed in ({"seed": 4}, {"replicates": 25}, {"generate": generate, "grid": {}, "targets": {"arm": 1.0}}):
        assert plain(**changed).hash != plain().hash


def test_programs_are_not_mixed_in_a_directory(tmp_path, monkeypatch):
    study = {"generate": generate, "grid": {}, "targets": {"arm": None}}

    def stop(done, total):
        if done == 10:
            raise KeyboardInterrupt

    one = plain(**study)
    with pytest.raises(KeyboardInterrupt, match="interrupted; 20 of 24 data sets are kept, the same call goes on"):
        run(one, tmp_path, Here(), progress=stop)
    monkeypatch.setattr(sys.modules[__name__], "EFFECT", 2.0)
    for again in (one, plain(**study)):
        with pytest.raises(StudyError, match=r"EFFECT: 1\.0 -> 2\.0"):
            run(again, tmp_path, Here())
    monkeypatch.undo()
    whole = run(plain(**study), tmp_path, Here())
    assert whole.complete
    smaller = run(plain(**study, name="renamed", chunk=4), tmp_path / "smaller", Here())
    assert smaller.digest() == whole.digest() and len(smaller.tasks) == 6


def test_what_functions_keep_for_themselves_while_they_run_is_not_a_change(tmp_path):
    from jaxlmm.study import run_until

    def remembers(rng, data):
        kept.append(1)
        return rng.standard_normal(30)

    kept: list[int] = []
    study = plain(generate=remembers, grid={}, targets=["arm"])
    results = run_until(study, tmp_path, "rejection", 0.06, executor=Here())
    assert results.complete and len(results.tasks) > 3
    kept.clear()  # as in another process
    assert run(study, tmp_path, Here()).complete
