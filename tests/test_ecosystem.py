"""Results as tables in the caller's library, files as data, draws for ArviZ, and what the root folder promises."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jaxlmm
from jaxlmm.__main__ import main
from jaxlmm.frames import files
from jaxlmm.simulation import draws

ROOT = Path(__file__).parents[1]
SLEEP = "Reaction ~ Days + (Days | Subject)"
FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.Table, "dict": dict}


@cache
def data(kind):
    if kind == "pyarrow":
        return pa.Table.from_pandas(data("pandas"), preserve_index=False)
    return jaxlmm.datasets.load("sleepstudy", kind)


@cache
def fit(kind="pandas", formula=SLEEP):
    return jaxlmm.lmm(formula, data(kind))


@cache
def batch(kind="pandas"):
    Y = fit(kind).simulate(4, seed=1)
    Y[3, 0] = np.nan
    return fit(kind).refit(Y)


RESULTS = {
    "test": lambda f: f.test("Days"),
    "anova": lambda f: f.anova(),
    "emtrends": lambda f: f.emtrends("Days"),
    "predictions": lambda f: f.predictions("Subject"),
    "varcorr": lambda f: f.varcorr(),
    "ranef": lambda f: f.ranef()["Subject"],
    "r2": lambda f: f.r2(),
    "sandwich": lambda f: f.sandwich("CR0"),
    "scores": lambda f: f.scores(),
    "caic": lambda f: f.caic(),
    "influence": lambda f: f.influence("Subject", exact="none"),
    "profile": lambda f: f.profile("sigma"),
    "batch": lambda f: batch(f.frame.kind),
    "tests": lambda f: jaxlmm.Tests([[0, 1]]).empty(3, f.frame.kind)["satterthwaite"],
    "permutation": lambda f: f.permutation("Days", n=3, flip="Subject", progress=False),
    "scan": lambda f: f.scan(np.random.default_rng(0).normal(size=(2, f.nobs)), threshold=1.0, df=None),
    "bootstrap": lambda f: f.bootstrap(4, progress=False),
    "compare": lambda f: jaxlmm.compare(f, fit(f.frame.kind, "Reaction ~ Days + (1 | Subject)")),
    "rlrt": lambda f: jaxlmm.rlrt(fit(f.frame.kind, "Reaction ~ Days + (1 | Subject)"), n=20),
}


def frame_of(result):
    for name in ("frame", "to_frame", "confint"):
        if hasattr(result, name):
            return getattr(result, name)()
    raise AssertionError(f"{type(result).__name__} has no frame")


@pytest.mark.parametrize("name", RESULTS)
def test_results_print_as_tables(name):
    result = RESULTS[name](fit())
    text, page = repr(result), result._repr_html_()
    assert str(result) == text and "array(" not in text and "object at" not in text
    assert not re.match(r"\w+\(\w+=", text), "the fields of a dataclass are no table"
    assert len(text.splitlines()) >= 2
    assert "<table>" in page and "array(" not in page
    assert isinstance(frame_of(result), pd.DataFrame) and len(frame_of(result))


def names_of(frame):
    return list(frame) if isinstance(frame, dict) else list(getattr(frame, "column_names", None) or frame.columns)


@pytest.mark.parametrize("kind", ["polars", "pyarrow", "dict"])
@pytest.mark.parametrize("name", ["test", "ranef", "sandwich", "scores", "caic", "batch", "tests", "varcorr"])
def test_frames_are_of_the_callers_kind(name, kind):
    found, expected = frame_of(RESULTS[name](fit(kind))), frame_of(RESULTS[name](fit()))
    assert type(found) is FRAMES[kind]
    assert names_of(found) == list(expected.columns)
    for column in expected.select_dtypes("number"):
        np.testing.assert_allclose(np.asarray(found[column]), expected[column], rtol=1e-5, atol=1e-6)


def test_clusters_have_their_labels():
    scores = fit().scores()
    assert list(scores.cluster) == list(fit().ranef()["Subject"].levels)
    named = fit().scores("Subject")
    np.testing.assert_allclose(scores.beta, named.beta)
    assert list(named.cluster) == list(scores.cluster)
    np.testing.assert_allclose(scores.frame()["Days"], scores.beta[:, 1])
    np.testing.assert_allclose(scores.beta.sum(0), 0, atol=1e-6)


def test_html_is_escaped():
    new = data("pandas").rename(columns={"Subject": "a<b>"})
    found = jaxlmm.lmm("Reaction ~ Days + (Days | `a<b>`)", new)
    for result in (found.ranef(), found.varcorr(), found):
        assert "a&lt;b&gt;" in result._repr_html_() and "a<b>" not in result._repr_html_()


def test_a_batch_says_how_its_fits_ended():
    text = repr(batch())
    assert text.startswith("Fits of 4 data sets, 3 converged") and "bad_response: 1" in text
    assert "Days" in text and "nan" not in text.lower()


# -- pyarrow and files


def test_a_pyarrow_table_is_read_as_pandas_is():
    frame = pd.DataFrame(
        {
            "y": [1.0, 2.0, None, 4.0, 5.0, 7.0],
            "x": pd.array([1, 2, 3, None, 5, 9], dtype="Int64"),
            "s": ["b", "a", None, "a", "c", "c"],
            "c": pd.Categorical(["u", "t", "u", "t", None, "u"], ["u", "t"], ordered=True),
            "b": pd.array([True, None, False, True, True, False], dtype="boolean"),
            "d": pd.to_datetime(["2020-01-01", None, *["2021-03-04"] * 4]),
        }
    )
    from jaxlmm.frames.columns import open_table

    arrow, plain = open_table(pa.Table.from_pandas(frame)), open_table(frame)
    for name in frame:
        a, b = arrow.column(name), plain.column(name)
        assert a.kind == b.kind, name
        missing = np.zeros(6, bool) if b.missing is None else b.missing
        np.testing.assert_array_equal(np.zeros(6, bool) if a.missing is None else a.missing, missing)
        np.testing.assert_array_equal(a.values[~missing], b.values[~missing])
        assert name == "d" or a.levels == b.levels, name


def test_pyarrow_in_and_out(tmp_path):
    one, other = fit("pyarrow"), fit()
    assert one.loglik == other.loglik
    rows = one.augment()
    assert isinstance(rows, pa.Table) and rows.column_names[-3:] == ["fitted", "resid", "fixed"]
    np.testing.assert_array_equal(np.asarray(rows["fitted"]), other.fitted)
    one.save(tmp_path / "fit")
    loaded = jaxlmm.load(tmp_path / "fit")
    assert loaded.data.equals(one.data) and loaded.loglik == one.loglik
    np.testing.assert_array_equal(one.predict(data("pyarrow")), other.predict(data("pandas")))


def test_parquet_and_csv_by_their_path(tmp_path, capsys):
    parquet, table = tmp_path / "trial.parquet", tmp_path / "trial.csv"
    data("pandas").assign(note="x").to_parquet(parquet)
    data("pandas").to_csv(table, index=False)
    for path in (parquet, str(parquet), table):
        assert jaxlmm.lmm(SLEEP, path).loglik == pytest.approx(fit().loglik, abs=1e-9)
    assert "note" in jaxlmm.lmm(SLEEP, parquet).data
    assert list(files.read_file(parquet, [SLEEP])) == ["Reaction", "Days", "Subject"]
    assert main(["fit", str(parquet), SLEEP]) == 0
    assert "251.405" in capsys.readouterr().out


def test_files_that_cannot_be_read(tmp_path, monkeypatch, capsys):
    path = tmp_path / "trial.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(jaxlmm.DataError, match="cannot be read as Parquet"):
        jaxlmm.lmm(SLEEP, path)
    with pytest.raises(jaxlmm.DataError, match="there is no file"):
        jaxlmm.lmm(SLEEP, tmp_path / "nowhere.csv")
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs pyarrow: pip install 'jaxlmm\[parquet\]'"):
        jaxlmm.lmm(SLEEP, path)
    assert main(["fit", str(path), SLEEP]) == 2
    assert "needs pyarrow" in capsys.readouterr().err


def test_without_pandas_a_parquet_file_is_a_pyarrow_table(tmp_path, monkeypatch):
    pq.write_table(data("pyarrow"), tmp_path / "trial.parquet")
    monkeypatch.setattr(files, "find_spec", lambda name: name != "pandas")
    assert isinstance(files.read_file(tmp_path / "trial.parquet"), pa.Table)


# -- draws


def test_draws_around_the_estimates():
    found = fit().draws(500, seed=1, chains=2)
    own = found.groups["posterior"]
    assert {name: values.shape[:2] for name, values in own.items()} == dict.fromkeys(own, (2, 500))
    for name, values in own.items():
        assert values.shape[2:] == tuple(len(found.coords[d]) for d in found.dims.get(name, ()))
    coef = found["coef"].reshape(1000, 2)
    error = 5 / np.sqrt(1000)
    np.testing.assert_allclose(coef.mean(0), fit().coef, atol=error * fit().se.max())
    np.testing.assert_allclose(np.cov(coef.T), fit().vcov, atol=error * 2 * fit().vcov.max())
    theta = found["theta"].reshape(1000, -1)
    sd = np.sqrt(np.diagonal(fit().vcov_theta()))
    np.testing.assert_allclose(theta.std(0), sd, rtol=error)
    np.testing.assert_allclose(found["sigma"].reshape(-1), np.exp(theta[:, -1]), rtol=1e-12)
    G = found["varcorr (1 + Days | Subject)"].reshape(1000, 2, 2)
    np.testing.assert_allclose(np.linalg.cholesky(G)[:, 0, 0], np.exp(theta[:, 0]), rtol=1e-9)
    effects, entry = found["ranef Subject"].reshape(1000, 18, 2), fit().ranef()["Subject"]
    assert found.coords["Subject level"] == list(entry.levels)
    spread = np.sqrt(np.diagonal(entry.pev, axis1=1, axis2=2))
    np.testing.assert_allclose(effects.mean(0), entry.values, atol=error * spread.max())
    np.testing.assert_allclose(effects.std(0), spread, rtol=error)


def test_draws_depend_on_the_seed_alone():
    few, many = fit().draws(3, seed=2, chains=1), fit().draws(5, seed=2, chains=1)
    np.testing.assert_array_equal(few["coef"], many["coef"][:, :3])
    assert np.all(few["coef"] != fit().draws(3, seed=3, chains=1)["coef"])


def test_draws_on_the_boundary_stay_there():
    singular = jaxlmm.lmm("Yield ~ 1 + (1 | Batch)", jaxlmm.datasets.load("dyestuff2"))
    found = singular.draws(4)
    assert np.all(found["theta"][..., 0] == -np.inf) and np.all(found["varcorr (1 | Batch)"] == 0)
    assert np.all(np.isfinite(found["sigma"])) and np.ptp(found["sigma"]) > 0


def test_replicates_of_the_bootstrap():
    boot = fit().bootstrap(8, progress=False)
    found = boot.draws()
    good = np.isfinite(boot.values).all(1)
    np.testing.assert_array_equal(found["coef"][0], boot.values[good][:, :2])
    assert found.coords["coefficient"] == ["(Intercept)", "Days"] and found.coords["parameter"][-1] == "sigma"
    own = fit().bootstrap(8, statistic=lambda r: r.coef[1] / r.sigma, progress=False).draws()
    assert own["statistic"].shape == (1, 8, 1)


@pytest.mark.parametrize(("version", "nested"), [("1.3.0", True), ("0.22.0", False)])
def test_arviz_is_called_as_its_versions_want(monkeypatch, version, nested):
    calls = []

    class Fake:
        __version__ = version

        @staticmethod
        def from_dict(*args, **kwargs):
            calls.append((args, kwargs))
            return "data"

    monkeypatch.setitem(sys.modules, "arviz", Fake)
    found = draws.Draws({"posterior": {"a": np.zeros((1, 2, 3))}}, {"k": ["x", "y", "z"]}, {"a": ["k"]})
    assert found.to_arviz() == "data"
    ((args, kwargs),) = calls
    assert kwargs["coords"] == {"k": ["x", "y", "z"]} and kwargs["dims"] == {"a": ["k"]}
    assert ("posterior" in args[0]) if nested else ("posterior" in kwargs and not args)
    assert "a (chain: 1, draw: 2, k: 3)" in repr(found)


def test_arviz_itself():
    az = pytest.importorskip("arviz", exc_type=ImportError)
    tree = fit().draws(20, seed=1).to_arviz()
    assert float(tree["posterior"]["coef"].sel(coefficient="Days").mean()) == pytest.approx(10.5, abs=3)
    assert len(az.summary(tree)) > 2


def test_arviz_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxlmm\[arviz\]'"):
        draws.Draws({"posterior": {}}, {}, {}).to_arviz()


# -- the root folder


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.fullmatch(r"\d+\.\d+\.\d+", jaxlmm.__version__)
    assert project["version"] == jaxlmm.__version__
    assert re.search(r"^version: (\S+)$", citation, re.MULTILINE)[1] == jaxlmm.__version__
    assert re.search(r"^license: (\S+)$", citation, re.MULTILINE)[1] == project["license"]
    assert re.findall(r"^## \[(.+?)\]", changes, re.MULTILINE)[:2] == ["Unreleased", jaxlmm.__version__]


def test_contributing_has_ten_commands_and_no_dead_links():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    commands = re.search(r"```sh\n(.*?)```", text, re.DOTALL)[1].splitlines()
    assert [int(re.search(r"# (\d+)", line)[1]) for line in commands] == list(range(1, 11))
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert (ROOT / link).exists(), link
    for path in re.findall(r"`((?:tests|experiments|notebooks|\.ci)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.slow
def test_type_checkers_know_what_functions_return():
    done = subprocess.run([sys.executable, "-m", "mypy", "tests/typed.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
