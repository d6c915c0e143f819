"""Measures of performance against their formulas, comparisons, sizes, pictures, the report and the command line."""

from __future__ import annotations

import base64
import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from scipy import stats

import jaxlmm
from jaxlmm.__main__ import main
from jaxlmm.errors import DataError
from jaxlmm.study import Estimator, MixedModel, Study, Target, analyses, designs, plots, published, read, status
from jaxlmm.study.chunk import Bench
from jaxlmm.study.executors import Finished
from jaxlmm.study.measures import Moments
from jaxlmm.study.page import PAGE, _csv, report
from jaxlmm.study.results import Results
from jaxlmm.study.running import run
from jaxlmm.study.sizing import _root, probit_fit, sample_size
from jaxlmm.study.toml import read_study

MODEL = "y ~ arm + (1 | cluster)"


class Here:
    """Does chunks in this process, without a thought of threads: numbers to the last bits are not the point here."""

    def parts(self, study, tasks):
        bench = Bench(study)
        for task in tasks:
            yield Finished(task, bench.run(task), {"here": True})


def declared(**changes):
    study = Study(
        design=designs.cluster_trial, grid={"size": [5], "effect": [0.0, 0.6], "clusters": [8]},
        generate=MixedModel(MODEL, {"arm": "effect"}, {"cluster": 0.1, "residual": 0.9}),
        estimators=[Estimator("mixed", MODEL, df=("asymptotic", "satterthwaite")),
                    Estimator("no clusters", "y ~ arm", df="residual", residual="iid()")],
        targets={"arm": None}, replicates=200, seed=5, chunk=60, name="two effects",
    )  # fmt: skip
    return dataclasses.replace(study, **changes)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run(declared(), tmp_path_factory.mktemp("results") / "out", Here())


def test_measures_are_those_of_morris_white_and_crowther(results):
    frame, table = results.frame(), results.summary().frame()
    assert len(frame) == 2 * 3 * 200 and results.complete
    for (effect, estimator, test), own in frame.groupby(["effect", "estimator", "test"]):
        rows = table[(table.effect == effect) & (table.estimator == estimator) & (table.test == test)]
        found = {row.measure: (row.value, row.mcse, row._asdict()["count"]) for row in rows.itertuples()}
        x, se, n = own.estimate.to_numpy(), own.se.to_numpy(), len(own)
        half = stats.t.ppf(0.975, own.df) * se
        covered, rejected = np.abs(x - effect) <= half, own.p <= 0.05
        sd, model, var = x.std(ddof=1), np.sqrt(np.mean(se**2)), np.var(se**2, ddof=1)
        square = (x - effect) ** 2
        error = np.sqrt(var / (4 * n * model**4) + 1 / (2 * (n - 1)))
        expected = {
            "bias": (x.mean() - effect, sd / np.sqrt(n)),
            "empirical_se": (sd, sd / np.sqrt(2 * (n - 1))),
            "mse": (square.mean(), np.sqrt(np.sum((square - square.mean()) ** 2) / (n * (n - 1)))),
            "model_se": (model, np.sqrt(var / (4 * n * model**2))),
            "relative_error_se": (100 * (model / sd - 1), 100 * model / sd * error),
            "coverage": (covered.mean(), np.sqrt(covered.mean() * (1 - covered.mean()) / n)),
            "power" if effect else "type1_error": (rejected.mean(), rejected.std(ddof=0) / np.sqrt(n)),
        }  # fmt: skip
        for measure, numbers in expected.items():
            np.testing.assert_allclose(found[measure][:2], numbers, rtol=1e-10, err_msg=measure)
            assert found[measure][2] == n
        assert ("power" in found) == (effect != 0.0)
        for measure in ("converged", "singular"):
            np.testing.assert_allclose(found[measure][0], own[measure].mean(), rtol=1e-12)


def test_moments_add_up_however_they_are_cut():
    values = np.random.default_rng(1).standard_normal((2, 50))
    values[0, 3:20] = np.nan
    values[1] += 1e9
    whole, parts = Moments.of(values), Moments(*np.zeros((3, 2)))
    for cut in np.split(values, [1, 10, 33], axis=1):
        parts = parts + Moments.of(cut)
    np.testing.assert_array_equal(parts.n, [33, 50])
    for name in ("mean", "variance"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-7)
    np.testing.assert_allclose(whole.variance, np.nanvar(values, 1, ddof=1), rtol=1e-7)
    assert np.isnan(Moments.of(np.full((1, 3), np.nan)).error).all()


def test_results_that_are_missing_are_counted_and_left_out(tmp_path):
    def generate(rng, data, effect):
        return rng.standard_normal(40) * (np.nan if rng.random() < 0.3 else 1.0)

    study = declared(generate=generate, targets={"arm": 0.0}, replicates=60, estimators=declared().estimators[1])
    out = run(study, tmp_path, Here())
    frame, table = out.frame(cell=0), out.summary().frame()
    lost = frame.status != "ok"
    assert 5 < lost.sum() < 35 and (frame.status[lost] == "bad_response").all() and frame.p[lost].isna().all()
    rows = table[table.effect == 0].set_index("measure")
    assert rows.value["usable"] == pytest.approx(1 - lost.mean()) and rows["count"]["usable"] == 60
    assert rows["count"]["type1_error"] == rows["count"]["bias"] == (~lost).sum()
    counts = out.statuses()
    assert counts["count"].sum() == 120


def test_joint_power_counts_data_sets(results):
    tests = [("mixed", "satterthwaite", "arm"), ("no clusters", "residual", "arm")]
    frame = results.frame(cell=1).set_index("replicate")
    p = np.stack([frame[frame.test == test].p for _, test, _ in tests])
    for how, expected in (("all", (p <= 0.05).all(0)), ("any", (p <= 0.05).any(0))):
        found = results.joint_power(tests, how=how)
        assert found.power[1] == pytest.approx(expected.mean()) and list(found["count"]) == [200, 200]
        assert found.mcse[1] == pytest.approx(expected.std() / np.sqrt(200))
    with pytest.raises(DataError, match="'all' or 'any'"):
        results.rejections(tests, how="some")


def test_the_account_says_what_a_paper_does(results):
    account = results.summary().ademp()
    text, markdown, tex = str(account), account.markdown(), account.latex()
    for words in ("AIMS", "200 data sets in each cell", "seed 5", "nothing is conditional", "cluster_trial",
                  "covariance cluster = 0.1, residual = 0.9", "type-I error"):  # fmt: skip
        assert words in text
    assert markdown.startswith("## Aims") and tex.count("\\begin{table}") == 4 and "\\_" in tex
    value = 100 * results.summary().measure("power", "mixed", "satterthwaite", "arm")[0][1]
    assert "arm, mixed, satterthwaite: type-I error" in text and f"power {value:.1f} %" in text
    csv = _csv(results.summary()).splitlines()
    assert csv[0] == "size,effect,clusters,estimator,test,target,measure,value,mcse,count"
    assert len(csv) == 1 + len(results.summary().frame())


def test_comparisons_use_the_pairing(results):
    found = results.compare(("mixed", "satterthwaite"), ("no clusters", "residual"))
    frame = results.frame(cell=1).set_index("replicate")
    a, b = frame[frame.test == "satterthwaite"], frame[frame.test == "residual"]
    one = found[found.effect == 0.6].set_index("measure")
    d = (b.p <= 0.05).astype(float) - (a.p <= 0.05)
    np.testing.assert_allclose(
        one.loc["rejection", ["value", "mcse"]].astype(float), [d.mean(), d.std() / np.sqrt(200)]
    )
    d = b.estimate - a.estimate
    np.testing.assert_allclose(one.loc["estimate", ["value", "mcse"]].astype(float), [d.mean(), d.std() / np.sqrt(200)],
                               rtol=1e-9, atol=1e-15)  # fmt: skip
    ratio, r = a.estimate.var() / b.estimate.var(), np.corrcoef(a.estimate, b.estimate)[0, 1]
    np.testing.assert_allclose(one.value["relative_precision"], 100 * (ratio - 1), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.mcse["relative_precision"], 200 * ratio * np.sqrt(max(1 - r**2, 0) / 199), atol=1e-4)
    with pytest.raises(jaxlmm.DataError, match="none fit"):
        results.compare(("mixed", "satterthwaite"), ("nobody", "residual"))


def test_probit_regression_is_the_maximum_of_its_likelihood():
    x, hits, counts = np.array([1.0, 2.0, 3.0]), np.array([12.0, 30.0, 44.0]), np.full(3, 50.0)
    best, vcov = probit_fit(x, hits, counts)

    def loglik(a, b):
        return stats.binom.logpmf(hits, counts, stats.norm.cdf(a + b * x)).sum()

    errors = np.sqrt(np.diagonal(vcov))
    top = loglik(*best)
    for step in np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]) * errors:
        assert loglik(*(best + 1e-3 * step)) < top
    # falls by half of the squared distance that the covariance says
    for step in (np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([1.0, -0.5])) * errors:
        drop = 0.5 * step @ np.linalg.solve(vcov, step)
        np.testing.assert_allclose(top - 0.5 * (loglik(*(best + step)) + loglik(*(best - step))), drop, rtol=0.1)


def test_the_root_and_its_error_from_counts():
    rng, sizes = np.random.default_rng(4), [40, 50, 60, 80]
    truth = np.array([-1.2, 0.3])  # of the probit in sqrt(n)
    exact = ((stats.norm.ppf(0.8) - truth[0]) / truth[1]) ** 2
    found = []
    for _ in range(200):
        rate = stats.norm.cdf(truth[0] + truth[1] * np.sqrt(sizes))
        tried = {n: np.array([rng.binomial(2000, p), 2000.0]) for n, p in zip(sizes, rate, strict=True)}
        found.append(_root("n", 0.8, tried, 40, 80, 1))
    estimates, errors = np.array([f.estimate for f in found]), np.array([f.error for f in found])
    assert abs(estimates.mean() - exact) < 4 * estimates.std() / np.sqrt(200)
    assert 0.85 < errors.mean() / estimates.std() < 1.15
    assert all(f.n == np.ceil(f.estimate) for f in found)


def test_sizes_between_which_everything_changes_need_more_data_sets():
    """No probit curve is steep enough, and its information is singular."""
    with pytest.raises(DataError, match="replicates: 20 data sets a size are too few"):
        _root("n", 0.8, {10: np.array([0.0, 20.0]), 20: np.array([20.0, 20.0])}, 5, 40, 1)


@pytest.mark.slow
def test_sample_size_of_a_test_whose_power_is_known(tmp_path):
    # the t test of two groups: power from the noncentral t
    study = Study(
        design=lambda n: {"arm": np.arange(n) % 2.0}, grid=[{"n": 10}],
        generate=MixedModel("y ~ arm", {"arm": 0.8}, {"residual": 1.0}),
        estimators=Estimator("t", "y ~ arm", df="residual", residual="iid()"),
        targets=["arm"], replicates=400, seed=1, chunk=400,
    )  # fmt: skip

    def power(n):
        critical = stats.t.ppf(0.975, n - 2)
        return stats.nct.sf(critical, n - 2, 0.8 * np.sqrt(n) / 2)

    found = sample_size(study, "n", 0.8, 20, 120, tmp_path, step=2, error=1.5, stages=4, executor=Here())
    exact = next(n for n in range(10, 200) if power(n) >= 0.8)
    assert found.error <= 1.5 and abs(found.estimate - exact) < 4 * found.error + 1
    assert found.n % 2 == 0 and found.n >= found.estimate > found.n - 2
    again = sample_size(
        study, "n", 0.8, 20, 120, tmp_path, step=2, error=1.5, stages=4, executor="inline"
    )  # all is there
    assert (again.n, again.estimate) == (found.n, found.estimate)
    pytest.importorskip("matplotlib")
    assert plots.plot_sample_size(found).axes
    with pytest.raises(jaxlmm.DataError, match="widen them"):
        sample_size(study, "n", 0.999, 20, 24, tmp_path / "narrow", executor=Here())


def test_pictures_show_what_they_should(results):
    pytest.importorskip("matplotlib")
    summary = results.summary()
    curve = plots.plot_curve(summary, "effect", "power")
    values, _ = summary.measure("power", "mixed", "satterthwaite", "arm")
    lines = [line.get_ydata() for line in curve.axes[0].lines]
    assert any(len(y) == 2 and np.isclose(y[1], values[1]) for y in lines)
    loop = plots.plot_nested_loop(summary)
    assert loop.axes[1].get_ylabel() == "effect"
    zipped = plots.plot_zip(results, 0)
    titles = [ax.get_title() for ax in zipped.axes]
    rate = summary.measure("coverage", "mixed", "satterthwaite", "arm")[0][0]
    assert f"{100 * rate:.1f} " in titles[1] and len(titles) == 3
    covers = plots.plot_lollipop(summary)
    assert [ax.get_title() for ax in covers.axes] == ["effect=0", "effect=0.6"]
    assert [t.get_text() for t in covers.axes[0].get_yticklabels()][0] == "mixed, asymptotic"
    ends = covers.axes[0].collections[0].get_segments()[1][:, 0]
    np.testing.assert_allclose(ends, [0.95, rate])


def test_the_report_needs_nothing_else(results):
    pytest.importorskip("matplotlib")
    page = report(results.store.path)
    text = page.read_text(encoding="utf-8")
    assert page.name == PAGE and "two effects" in text
    assert not re.search(r"(src|href)=['\"](?!data:)", text)
    pictures = re.findall(r"data:image/png;base64,([^']+)'", text)
    assert len(pictures) >= 4 and all(base64.b64decode(p).startswith(b"\x89PNG") for p in pictures)
    bias = results.summary().measure("bias", "mixed", "satterthwaite", "arm")[0][0]
    assert f"{bias:.4f} (" in text


def test_target_of_several_coefficients_and_another_null(tmp_path):
    study = declared(targets={"sum": Target(of={"(Intercept)": 1.0, "arm": 1.0}, null=0.6)}, replicates=60,
                     estimators=declared().estimators[1])  # fmt: skip
    assert study.truths == [{"sum": 0.0}, {"sum": 0.6}]
    found = run(study, tmp_path, Here()).summary().frame()
    kinds = {(row.effect, row.measure) for row in found.itertuples() if row.measure in ("power", "type1_error")}
    assert kinds == {(0.0, "power"), (0.6, "type1_error")}


TOML = """
replicates = 40
chunk = 20
design = "cluster_trial"
[grid]
clusters = [8]
[generate]
formula = "y ~ arm + (1 | cluster)"
beta = { arm = 0.5 }
covariance = { cluster = 0.1, residual = "1 - 0.1" }
[[estimators]]
name = "plain"
formula = "y ~ arm"
df = "residual"
residual = "iid()"
[targets]
arm = { truth = 0.5 }
"""


LAST, ANOTHER = "[targets]\narm = { truth = 0.5 }", "[targets]\narm = 0.5\n[[estimators]]\nanalysis ="
MIXED = TOML[TOML.index("formula") : TOML.index("[[est")]
SHIPPED = """
[[estimators]]
analysis = "bootstrap"
formula = "y ~ arm + (1 | cluster)"
null = "y ~ 1 + (1 | cluster)"
target = "arm"
n = 19
[[estimators]]
analysis = "Selection"
name = "aic"
by = "aic"
candidates = [{ name = "a", formula = "y ~ arm", residual = "iid()" }, { name = "b", formula = "y ~ (1 | cluster)" }]
[[estimators]]
analysis = "steps"
formula = "y ~ arm + (1 | cluster)"
targets = "arm"
[[estimators]]
analysis = "permutation"
formula = "y ~ arm"
target = "arm"
exchange = "arm"
unit = "cluster"
residual = "iid()"
[[estimators]]
analysis = "cluster_means"
[[estimators]]
analysis = "ols"
name = "least squares"
formula = "y ~ arm"
"""


def test_toml_names_shipped_analyses_and_published_tables(tmp_path):
    file, table = tmp_path / "study.toml", "control = [1, 2]\ntreated = [1, 3]\nsds = [1, 1]\ncorrelations = 0.5\n"
    file.write_text(TOML.replace("[targets]", SHIPPED + "[targets]").replace(MIXED, table))
    ols = Estimator("plain", "y ~ arm", df="residual", residual="iid()")
    small = Estimator("b", "y ~ (1 | cluster)")
    own = [
        ols, analyses.bootstrap(MODEL, "y ~ 1 + (1 | cluster)", "arm", n=19),
        analyses.Selection("aic", [dataclasses.replace(ols, name="a", df="satterthwaite"), small], by="aic"),
        analyses.steps(MODEL, ["arm"]), analyses.permutation("y ~ arm", "arm", "arm", "cluster", residual="iid()"),
        analyses.cluster_means(), analyses.ols("y ~ arm", "least squares"),
    ]  # fmt: skip
    same = Study(
        design=designs.cluster_trial, grid={"clusters": [8]}, generate=published([1, 2], [1, 3], [1, 1], 0.5),
        estimators=own, targets={"arm": 0.5}, replicates=40, chunk=20,
    )  # fmt: skip
    assert read_study(file).hash == same.hash


def test_toml_says_the_same_as_python(tmp_path):
    (tmp_path / "study.toml").write_text(TOML)
    study = read_study(tmp_path / "study.toml")
    same = Study(
        design=designs.cluster_trial, grid={"clusters": [8]},
        generate=MixedModel(MODEL, {"arm": 0.5}, {"cluster": 0.1, "residual": "1 - 0.1"}),
        estimators=[Estimator("plain", "y ~ arm", df="residual", residual="iid()")], targets={"arm": 0.5},
        replicates=40, chunk=20,
    )  # fmt: skip
    assert study.hash == same.hash


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("replicates = 40", "replicate = 40", "found 'replicate', expected design"),
        ("replicates = 40", "", "'replicates' is missing"),
        ('"cluster_trial"', '"cluster_trail"', "design: found 'cluster_trail', expected one of cluster_trial"),
        ('"cluster_trial"', '"own.py:design"', "design: found 'own.py:design', expected 'file.py:function'"),
        ('df = "residual"', 'dg = "residual"', "estimators, 'plain': found 'dg'"),
        ("[grid]", "[grid", "is not TOML"),
        (LAST, f'{ANOTHER} "bootstap"', "analysis: found 'bootstap'; did you mean 'bootstrap'? there are selection"),
        (LAST, f'{ANOTHER} "bootstrap"\nformula = "y ~ arm"\ntarget = "arm"', "'bootstrap': 'null' is missing"),
        (LAST, f'{ANOTHER} "ols"\nformula = "y ~ arm"\ndf = "residual"', "found 'df', expected formula, name"),
        (LAST, f'{ANOTHER} "rlrt"\nformula = "y ~ 1"\ntarget = "arm"\nn = "9"', "n: expected a non-negative integer"),
        (LAST, f'{ANOTHER} "selection"\nname = "s"\ncandidates = [1]', "expected tables [[estimators.candidates]]"),
        ("[targets]", 'structures = { own = "own" }\n[targets]', "structures are classes: write the study in Python"),
        (MIXED, "control = [1, 2]\ntreated = [1, 2]\nsds = [1, 1]\n", "generate: 'correlations' is missing"),
    ],
)
def test_toml_that_cannot_be_used_gets_a_sentence(tmp_path, capsys, old, new, message):
    (tmp_path / "study.toml").write_text(TOML.replace(old, new))
    assert main(["study", str(tmp_path / "study.toml"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxlmm: ") and message in error and "Traceback" not in error


def test_command_line(tmp_path, capsys):
    (tmp_path / "study.toml").write_text(TOML)
    out = str(tmp_path / "out")
    assert main(["study", str(tmp_path / "study.toml"), "--out", out, "--workers", "1"]) == 0
    assert "1 cells, 1 rows a data set, 40 data sets, complete" in capsys.readouterr().out
    assert main(["status", out]) == 0
    assert capsys.readouterr().out.startswith("40 of 40 data sets (100.0 %), 2 of 2 parts, complete")
    assert main(["report", out]) == 0
    assert capsys.readouterr().out.strip().endswith(PAGE)
    assert main(["status", str(tmp_path)]) == 2
    assert isinstance(read(out), Results) and status(out).done == 40


OWN = """
def weighed(data):
    high, low = (data["y"][data["arm"] == a].mean() for a in (1.0, 0.0))
    return {"arm": high - low}
"""


@pytest.mark.slow
def test_shares_on_the_command_line_end_with_the_same_bytes(tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN)
    own = '[[estimators]]\nname = "own"\nfunction = "own.py:weighed"\n[targets]'
    (tmp_path / "study.toml").write_text(TOML.replace("[targets]", own))
    file = str(tmp_path / "study.toml")
    assert main(["study", file, "--out", str(tmp_path / "whole"), "--workers", "1"]) == 0
    for k in (1, 2):
        assert main(["study", file, "--out", str(tmp_path / f"{k}"), "--workers", "1", "--shard", f"{k}/2"]) == 0
    assert main(["merge", str(tmp_path / "all"), str(tmp_path / "2"), str(tmp_path / "1")]) == 0
    assert "2 rows a data set, 40 data sets, complete" in capsys.readouterr().out
    for path in (tmp_path / "whole" / "parts").iterdir():
        assert path.read_bytes() == (tmp_path / "all" / "parts" / path.name).read_bytes()
    frame = read(tmp_path / "all").frame().set_index("estimator")
    np.testing.assert_allclose(frame.estimate["own"], frame.estimate["plain"], rtol=1e-9)
    assert main(["merge", str(tmp_path / "all"), str(tmp_path / "nothing")]) == 2


@pytest.mark.slow
def test_the_loop_of_the_page_runs_as_it_stands(tmp_path):
    page = Path(__file__).parents[2] / "notebooks" / "clusters_of_machines.md"
    if not page.is_file():
        pytest.skip("pages are in the repository, not in packages")
    (loop,) = re.findall(r"```sh\n(for .*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "own.py").write_text(OWN + "def drawn(rng, data):\n    return rng.standard_normal(len(data['arm']))\n")
    text = TOML.replace("[generate]\n" + MIXED, "").replace("[grid]", 'generate = "own.py:drawn"\n[grid]')
    text = re.sub(
        r"chunk = 20",
        "chunk = 6",
        re.sub(r'formula = .*?"iid\(\)"', 'function = "own.py:weighed"', text, flags=re.DOTALL),
    )
    (tmp_path / "study.toml").write_text(text)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    paths = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(jaxlmm.__file__).parents[1]),
    }
    environ = {**os.environ, **paths}
    done = subprocess.run(["bash", "-ec", loop], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0 and read(tmp_path / "all").complete, done.stderr
    assert status(tmp_path / "shares" / "1").done == 12 and status(tmp_path / "all").done == 40
