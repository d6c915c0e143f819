"""What is no study, no cell, no measure, no directory is said in one sentence, by whatever door it comes in."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from jaxlmm.errors import DataError, JaxlmmError
from jaxlmm.study import (
    Dropout,
    Estimator,
    MixedModel,
    Target,
    analyses,
    designs,
    merge,
    plots,
    read,
    report,
    run,
    run_until,
    sample_size,
    status,
)
from studies import Here, plain

CLUSTERS = {**designs.cluster_trial(6, 5), "y": np.zeros(30)}
MIXED = "y ~ arm + (1 | cluster)"
DECLARED = [
    ("grid", lambda: plain(grid=3)),
    ("grid", lambda: plain(grid=[1, 2])),
    ("grid", lambda: plain(grid="shift")),
    ("targets", lambda: plain(targets=3)),
    (r"targets\['arm'\]: null", lambda: plain(targets={"arm": Target(0.0, null="a")})),
    (r"targets\['arm'\]: truth", lambda: plain(targets={"arm": [1, 2]})),
    ("estimators", lambda: plain(estimators=3)),
    ("estimators", lambda: plain(estimators=[Estimator(3, MIXED)])),
    ("'a': df", lambda: plain(estimators=[Estimator("a", MIXED, df=3)])),
    ("'a': lrt", lambda: plain(estimators=[Estimator("a", MIXED, method="ML", lrt=3)])),
    ("candidates", lambda: plain(estimators=[analyses.Selection("s", 3)])),
    ("aims", lambda: plain(aims=3)),
    ("clusters", lambda: designs.cluster_trial("x")),
    ("size", lambda: designs.cluster_trial(4, "a")),
    ("beta", lambda: MixedModel(MIXED, 3, {"cluster": 1.0})),
    ("covariance", lambda: MixedModel(MIXED, {}, 3)),
    ("lost", lambda: MixedModel(MIXED, {}, {"cluster": 1.0}, lost=3)),
    ("no column 'subject'; there are", lambda: Dropout(0.1)(None, np.zeros(2), {"id": np.arange(2)})),
    ("no column 'clusters'; did you mean 'cluster'", lambda: analyses.cluster_means("clusters").function(CLUSTERS)),
    ("executor", lambda: run(plain(), "nowhere", 3)),
    ("study", lambda: run(3, "nowhere", Here())),
    ("error", lambda: run_until(plain(), "nowhere", "power", "x")),
    ("measure", lambda: run_until(plain(), "nowhere", "x", 0.1)),
    ("low", lambda: sample_size(plain(grid={"shift": 1.0}), "shift", 0.8, "a", 2, "nowhere")),
    ("cell", lambda: plain().replicate("x")),
    ("cell", lambda: plain().replicate(0.5)),
]
DIRECTORIES = [
    lambda: run(plain(), 3, Here()), lambda: run(plain(), None, Here()), lambda: report(3), lambda: status(3),
    lambda: read(3), lambda: merge(3, [3]),
]  # fmt: skip
READ = [
    ("cell", lambda results, summary: results.frame(99)),
    ("cell", lambda results, summary: results.frame({"shift": 7.0})),
    ("name", lambda results, summary: summary.measure("x", "difference", "own", "arm")),
    ("of each row", lambda results, summary: results.compare("difference", "difference")),
    ("of each row", lambda results, summary: results.rejections("difference")),
    ("of each row", lambda results, summary: results.joint_power([])),
    ("out", lambda results, summary: report(results.store.path, out=3)),
    ("measure", lambda results, summary: plots.plot_curve(summary, "shift", "x")),
    ("measure", lambda results, summary: plots.plot_lollipop(summary, "x")),
    ("measure", lambda results, summary: plots.plot_nested_loop(summary, "x")),
    ("cell", lambda results, summary: plots.plot_zip(results, 99)),
    ("target", lambda results, summary: plots.plot_zip(results, 0, "x")),
]


@pytest.mark.parametrize(("words", "call"), DECLARED)
def test_what_is_declared(words, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=words):
        call()


def test_directories():
    for call in DIRECTORIES:
        with pytest.raises(JaxlmmError, match="expected the directory of a study, found"):
            call()


def test_what_is_read(tmp_path):
    results = run(plain(), tmp_path, Here())
    summary = results.summary()
    for words, call in READ:
        with pytest.raises(JaxlmmError, match=words):
            call(results, summary)
    whole, own = results.frame(), results.frame({"shift": 1})
    np.testing.assert_array_equal(own.estimate, whole.estimate[whole["shift"] == 1.0])
    np.testing.assert_array_equal(results.frame(np.int64(1)).estimate, own.estimate)
    lists = {"design": lambda size: designs.cluster_trial(6, size), "grid": {"size": [[5], [4, 6]]}}
    study = plain(**lists, generate=lambda rng, data: rng.random(30), targets={"arm": 0.0})
    sizes = run(study, tmp_path / "sizes", Here())
    assert len(sizes.frame({"size": [4, 6]})) == 24 and sizes.place({"size": [5]}) == 0
    assert list(summary.frame("bias").measure.unique()) == ["bias"]
