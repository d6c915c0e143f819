"""Fits in files: a loaded fit is the saved one, files are data only, and what is no such file is refused."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import replace
from fractions import Fraction

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest

import jaxlmm
from jaxlmm.fitting.monte_carlo import MonteCarlo
from jaxlmm.interface import model_of
from jaxlmm.loading import RECORDS
from jaxlmm.saving import Unpacker, data_of
from jaxlmm.saving.columns import pack_data
from jaxlmm.saving.records import Packer

SLEEP = "Reaction ~ Days + (Days | Subject)"


class Slow(jaxlmm.Covariance):
    """Like the page in the README."""

    variance: jaxlmm.Variance
    range: jaxlmm.Positive

    def matrix(self, t):
        return self.variance / (1 + jaxlmm.distances(t) / self.range)


def sleep(kind="pandas"):
    return jaxlmm.datasets.load("sleepstudy", kind)


@pytest.fixture(scope="module")
def fit():
    with jax.enable_x64(True):
        return jaxlmm.lmm(SLEEP, sleep())


def again(fit, path, **options):
    fit.save(path)
    return jaxlmm.load(path, **options)


def same(a, b):
    """Whether two results are the same, bit for bit."""
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    elif isinstance(a, pl.DataFrame):
        assert a.equals(b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    else:
        np.testing.assert_array_equal(a, b)


def test_a_loaded_fit_does_what_the_original_does(fit, tmp_path):
    loaded = again(fit, tmp_path / "fit.jaxlmm")
    assert str(loaded.summary()) == str(fit.summary())
    assert str(loaded.summary(df="kenward-roger")) == str(fit.summary(df="kenward-roger"))
    for name in ("theta", "coef", "vcov", "fitted", "loglik", "sigma", "aic"):
        same(getattr(fit, name), getattr(loaded, name))
    assert loaded.estimate.certificate == fit.estimate.certificate
    assert loaded.estimate.status is jaxlmm.Status.CONVERGED and loaded.estimate.monte_carlo is None
    new = {"Days": [1.0, 20.0], "Subject": ["308", "372"]}
    same(fit.predict(new), loaded.predict(new))
    same(fit.ranef()["Subject"].frame(), loaded.ranef()["Subject"].frame())
    same(fit.test("Days", df="kenward-roger").frame(), loaded.test("Days", df="kenward-roger").frame())
    same(fit.anova().frame(), loaded.anova().frame())
    same(fit.emtrends("Days").frame(), loaded.emtrends("Days").frame())
    same(fit.simulate(3, seed=1), loaded.simulate(3, seed=1))
    same(fit.refit(fit.simulate(4, seed=2)).theta, loaded.refit(fit.simulate(4, seed=2)).theta)
    same(fit.varcorr().frame(), loaded.varcorr().frame())
    same(fit.confint(method="profile", which="sigma"), loaded.confint(method="profile", which="sigma"))
    same(fit.augment().reset_index(drop=True), loaded.augment())


def test_equal_fits_give_equal_bytes(fit, tmp_path):
    loaded = again(fit, tmp_path / "a")
    loaded.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("kind", ["pandas", "polars", "dict"])
def test_the_kind_of_the_data_is_kept(kind, tmp_path):
    fit = jaxlmm.lmm(SLEEP, sleep(kind))
    loaded = again(fit, tmp_path / "fit")
    same(fit.data, loaded.data)
    same(fit.tidy(), loaded.tidy())
    assert type(loaded.data) is type(fit.data)


def trial():
    data = jaxlmm.datasets.load("fev_data")
    data["SITE"] = np.arange(len(data)) // 4 % 5
    return data


def test_residual_structures_levels_and_missing_rows(tmp_path):
    fit = jaxlmm.lmm("FEV1 ~ ARMCD * AVISIT", trial(), residual="us(AVISIT | ARMCD / USUBJID)")
    loaded = again(fit, tmp_path / "fit")
    same(fit.emmeans("ARMCD | AVISIT").frame(), loaded.emmeans("ARMCD | AVISIT").frame())
    assert loaded.frame.n_missing == fit.frame.n_missing > 0
    same(fit.sandwich("CR0").vcov, loaded.sandwich("CR0").vcov)
    assert list(loaded.data.columns) == ["FEV1", "ARMCD", "AVISIT", "USUBJID"]


def test_further_columns_are_kept_on_request(fit, tmp_path):
    data = sleep().assign(half=lambda d: d["Subject"].cat.codes // 2, note="x")
    fit = jaxlmm.lmm(SLEEP, data)
    fit.save(tmp_path / "one", columns="half")
    loaded = jaxlmm.load(tmp_path / "one")
    same(fit.sandwich("CR0", "half").vcov, loaded.sandwich("CR0", "half").vcov)
    assert "note" not in loaded.data
    fit.save(tmp_path / "all", columns="all")
    pd.testing.assert_frame_equal(jaxlmm.load(tmp_path / "all").data, data)
    with pytest.raises(jaxlmm.DataError, match="columns: found 'site'"):
        fit.save(tmp_path / "none", columns=["site"])


def test_arguments_of_all_kinds(tmp_path):
    rng = np.random.default_rng(0)
    data = sleep("polars")
    names = data["Subject"].unique().sort().cast(str).to_list()
    A = pd.DataFrame(np.kron(np.eye(9), [[1.0, 0.5], [0.5, 1.0]]), index=names, columns=names)
    options = {"method": "ML", "weights": rng.uniform(1, 2, 180), "offset": pl.Series(rng.normal(size=180))}
    fit = jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", data, relationship={"Subject": A}, **options)
    loaded = again(fit, tmp_path / "fit")
    assert loaded.method == "ML" and loaded.engine == fit.engine == "spectral"
    same(loaded.model.weights, fit.model.weights)
    same(loaded.model.offset, fit.model.offset)
    same(loaded.model.random[0].relationship, fit.model.random[0].relationship)
    assert loaded.simulate(1).tobytes() == fit.simulate(1).tobytes()
    precise = jaxlmm.lmm(
        "Reaction ~ Days + (1 | Subject)", data, relationship={"Subject": jaxlmm.Precision(np.linalg.inv(A), names)}
    )
    same(again(precise, tmp_path / "precise").fitted, precise.fitted)


def test_options_of_the_iterative_engine_and_monte_carlo_errors(tmp_path):
    rng = np.random.default_rng(1)
    a, b = np.divmod(np.arange(120), 12)
    data = {"y": rng.normal(size=120) + rng.normal(size=10)[a] + rng.normal(size=12)[b], "a": a, "b": b}
    fit = jaxlmm.lmm("y ~ 1 + (1 | a) + (1 | b)", data)
    call = replace(fit.call, engine=jaxlmm.Iterative(probes=8, seed=3))
    errors = MonteCarlo(8, 64, 3, 0.1, np.array([0.1, np.nan]), np.array([np.inf, 0.2]), 1e-5, 1e-6, 1e-6)
    estimate = replace(fit.estimate, monte_carlo=errors)
    frame, model = model_of(data=data, **call.arguments())
    fit = replace(fit, frame=frame, model=model, call=call, estimate=estimate)
    loaded = again(fit, tmp_path / "fit")
    assert loaded.call.engine == call.engine == loaded.model.layout.options and loaded.engine == "iterative"
    assert str(loaded.monte_carlo) == str(errors)
    same(loaded.monte_carlo.theta_se, errors.theta_se)


def test_a_refitted_response_is_kept(fit, tmp_path):
    y = fit.simulate(1, seed=5)[0]
    other = fit.refit(y)
    loaded = again(other, tmp_path / "fit")
    same(loaded.model.y, y)
    same(loaded.residuals(), other.residuals())
    assert str(loaded) == str(other)


def test_structures_of_ones_own_are_asked_for(tmp_path):
    named = jaxlmm.lmm("Reaction ~ Days", sleep(), residual="slow(Days | Subject)", structures={"slow": Slow})
    placed = jaxlmm.lmm("Reaction ~ Days", sleep(), residual=Slow(range=2.0).over("Days | Subject"))
    for fit, hint in ((named, "'slow': Slow"), (placed, "'Slow': Slow")):
        fit.save(tmp_path / "fit")
        with pytest.raises(jaxlmm.DataError, match=rf"covariance structure .*Slow.*structures=\{{{hint}\}}"):
            jaxlmm.load(tmp_path / "fit")
        loaded = jaxlmm.load(tmp_path / "fit", structures={"slow": Slow})
        assert str(loaded) == str(fit)
        same(loaded.fitted, fit.fitted)
    named.save(tmp_path / "fit")
    with pytest.raises(jaxlmm.DataError, match="Unstructured has the parameters .* was made with .*'range'"):
        jaxlmm.load(tmp_path / "fit", structures={"slow": jaxlmm.Unstructured})


def test_structures_made_in_python(tmp_path):
    K = np.exp(-0.3 * np.abs(np.subtract.outer(np.arange(10), np.arange(10))))
    residual = (jaxlmm.covariance.KnownMatrix(K) + jaxlmm.covariance.CompoundSymmetry()).over("Days | Subject")
    fit = jaxlmm.lmm("Reaction ~ Days", sleep(), residual=residual)
    loaded = again(fit, tmp_path / "fit")
    assert loaded.call.residual == residual and str(loaded) == str(fit)


def test_batches(fit, tmp_path):
    Y = fit.simulate(4, seed=1)
    Y[3, 0] = np.nan
    batch = replace(fit.refit(Y), tests=jaxlmm.Tests([[0, 1]], df=("residual", "kenward-roger")).empty(4))
    batch.tests["residual"].p[:2, 0] = 0.25, 1e-300
    loaded = again(batch, tmp_path / "batch")
    same(batch.to_frame(), loaded.to_frame())
    assert loaded.coef_names == batch.coef_names and len(loaded) == 4
    same(loaded.varcorr[0], batch.varcorr[0])
    for method, found in batch.tests.items():
        same(found.p, loaded.tests[method].p)
        same(found.status, loaded.tests[method].status)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "batch").read_bytes()


def test_files_of_version_0_1_are_read(fit, tmp_path):
    def older(header):
        del header["sha256"]
        header["format"] = 1
        where = header["content"].get("estimate", header["content"])["record"]
        numbers = dict(where[1])
        if where[0] == "BatchFit":
            numbers |= {"varcorr": numbers.pop("covariances"), "singular": numbers.pop("boundary")}
        else:
            own = ("gradient_norm", "decrement", "min_eigenvalue", "dual", "iterations")
            numbers["certificate"] = {"record": ["Certificate", [[name, numbers.pop(name)] for name in own]]}
        where[1] = list(numbers.items())

    def by_row(name, content):  # whether any part is singular, not each
        array = np.load(io.BytesIO(content))
        out = io.BytesIO()
        np.save(out, array.any(1) if array.dtype == bool and array.ndim == 2 else array)
        return out.getvalue()

    batch = fit.refit(fit.simulate(4, seed=1))
    fit.save(tmp_path / "fit")
    batch.save(tmp_path / "batch")
    (tmp_path / "fit").write_bytes(changed((tmp_path / "fit").read_bytes(), older))
    (tmp_path / "batch").write_bytes(changed((tmp_path / "batch").read_bytes(), older, by_row))
    loaded, rows = jaxlmm.load(tmp_path / "fit"), jaxlmm.load(tmp_path / "batch")
    assert loaded.certificate == fit.certificate and str(loaded) == str(fit)
    same(batch.to_frame(), rows.to_frame())
    same(batch.varcorr[0], rows.varcorr[0])


# -- columns of all types


def round_trip(data, names=None):
    packer = Packer()
    content = json.loads(json.dumps(pack_data(data, names or list(data), packer), allow_nan=False))
    return data_of(content, Unpacker(packer.arrays, RECORDS, {}, "file"))


def test_columns_of_pandas():
    data = pd.DataFrame(
        {
            "float32": np.array([1.5, np.nan, -0.0], np.float32),
            "uint8": np.array([1, 2, 255], np.uint8),
            "bool": [True, False, True],
            "Int64": pd.array([2**60 + 1, None, 3], dtype="Int64"),
            "UInt8": pd.array([1, None, 3], dtype="UInt8"),
            "boolean": pd.array([True, None, False], dtype="boolean"),
            "Float64": pd.array([0.1, None, 3], dtype="Float64"),
            "str": ["a", "é\n", ""],
            "string": pd.array(["a", None, ""], dtype="string"),
            "object": np.array(["1", 1, True], dtype=object),
            "gaps": pd.Series([None, float("nan"), "x"], dtype=object),
            "texts": pd.Series(["a", "b", "a"], dtype=object),
            "ordered": pd.Categorical(["lo", None, "hi"], categories=["lo", "mid", "hi"], ordered=True),
            "numbers": pd.Categorical([3, 1, 3], categories=[3, 2, 1]),
            "dates": pd.to_datetime(["2020-01-01", None, "2021-05-05"]),
            "zoned": pd.to_datetime(["2020-01-01", None, "2021-05-05"]).tz_localize("Europe/Berlin"),
            "spans": pd.to_timedelta([1, None, 3], unit="h"),
            "arrow": pd.array([1, None, 3], dtype="int64[pyarrow]"),
        }
    ).set_index(np.array([7, 8, 9]))
    found = round_trip(data)
    pd.testing.assert_frame_equal(found, data.reset_index(drop=True), check_exact=True)
    assert [type(v) for v in found["object"]] == [str, int, bool]
    assert found["gaps"][0] is None and found["gaps"][1] != found["gaps"][1]


def test_columns_of_polars_and_of_arrow_in_a_dict():
    data = pl.DataFrame(
        {
            "x": [1, None, 3],
            "e": pl.Series(["b", None, "a"], dtype=pl.Enum(["b", "a"])),
            "c": pl.Series(["z", "y", "z"], dtype=pl.Categorical),
            "t": pl.Series(["z", None, ""]),
            "d": pl.Series(["2020-01-01", None, "2021-01-01"]).str.to_date(),
        }
    )
    found = round_trip(data)
    assert found.equals(data) and found.schema == data.schema
    mixed = {
        "list": [1.0, 2.0, 3.0],
        "text": np.array(["a", "bc", ""]),
        "series": pd.Series(["u", "v", "u"], dtype="category"),
        "polars": data["e"],
        "masked": np.ma.MaskedArray([1, 2, 3], [False, True, False]),
        "days": np.array(["2020-01-01", "NaT", "2021-01-01"], "datetime64[D]"),
    }
    found = round_trip(mixed)
    for name in ("list", "text", "days"):
        np.testing.assert_array_equal(found[name], mixed[name])
    pd.testing.assert_series_equal(found["series"], mixed["series"])
    assert found["polars"].equals(mixed["polars"]) and found["polars"].dtype == data["e"].dtype
    assert found["masked"].tolist() == [1, None, 3]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pd.Series([Fraction(1, 3), Fraction(2)]), "a value of column 'x' holds an object of fractions.Fraction"),
        (pd.period_range("2020", periods=2, freq="M").to_series(), "column 'x' has pandas type period"),
        (pd.Series([object(), object()]), "column 'x' holds an object"),
    ],
)
def test_columns_that_cannot_be_written(values, message):
    with pytest.raises(jaxlmm.DataError, match=message):
        pack_data(pd.DataFrame({"x": values.to_numpy() if values.dtype == object else values}), ["x"], Packer())


# -- what is no such file


@pytest.fixture(scope="module")
def content(fit, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "fit"
    fit.save(path)
    return path.read_bytes()


def changed(content, header=lambda found: None, arrays=lambda name, data: data):
    """The file with another header or other arrays."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "header.json":
                found = json.loads(data)
                header(found)
                data = json.dumps(found).encode()
            elif (data := arrays(name, data)) is None:
                continue
            new.writestr(name, data)
    return out.getvalue()


def refused(content, tmp_path, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(jaxlmm.DataError, match=message) as error:
        jaxlmm.load(tmp_path / "file")
    assert "\n" not in str(error.value)


def test_the_helper_changes_nothing_by_itself(content, fit, tmp_path):
    (tmp_path / "file").write_bytes(changed(content))
    assert str(jaxlmm.load(tmp_path / "file")) == str(fit)


def test_foreign_and_damaged_files(content, tmp_path):
    damaged = "found none or a damaged one"
    for part in (b"", b"not a zip", content[: len(content) // 2], content[:-30], content[100:]):
        refused(part, tmp_path, damaged)
    other = io.BytesIO()
    np.savez(other, a=np.zeros(3))
    refused(other.getvalue(), tmp_path, "another zip archive")
    refused(changed(content, lambda h: h.update(name="other")), tmp_path, "another zip archive")
    refused(
        changed(content, arrays=lambda name, data: None if name == "a3.npy" else data), tmp_path, "damaged: KeyError"
    )
    refused(changed(content, lambda h: h["content"].pop("estimate")), tmp_path, "the file is damaged")
    refused(changed(content, lambda h: h["content"]["estimate"]["record"].__setitem__(0, "os")), tmp_path, "damaged")
    with pytest.raises(FileNotFoundError):
        jaxlmm.load(tmp_path / "nowhere")


def test_damaged_arrow_data_are_refused(tmp_path):
    fit = jaxlmm.lmm(SLEEP, sleep("polars"))
    fit.save(tmp_path / "polars")
    content, numbers = (tmp_path / "polars").read_bytes(), io.BytesIO()
    np.save(numbers, np.arange(200, dtype=np.uint8))
    bad = changed(content, arrays=lambda name, data: numbers.getvalue() if name == "a0.npy" else data)
    refused(bad, tmp_path, "the file is damaged: ValueError polars cannot read the data")


def test_a_changed_byte_is_noticed(content, tmp_path):
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        places = [
            (entry.header_offset + 80, entry.file_size - 60) for entry in file.infolist() if entry.file_size > 200
        ]
    for begin, size in places:
        bad = bytearray(content)
        bad[begin + int(rng.integers(size - 10))] ^= 0xFF
        refused(bytes(bad), tmp_path, "found none or a damaged one")


def test_pickles_are_never_read(content, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    pickled = io.BytesIO()
    np.save(pickled, np.array([Evil()], object), allow_pickle=True)
    bad = changed(content, arrays=lambda name, data: pickled.getvalue() if name == "a0.npy" else data)
    refused(bad, tmp_path, "damaged one: Object arrays cannot be loaded")
    assert not (tmp_path / "ran").exists()


def test_a_later_format_is_named(content, tmp_path):
    later = changed(content, lambda h: h.update(format=99, version="7.1.0"))
    refused(later, tmp_path, "has format 99, written by jaxlmm 7.1.0; .* reads formats up to 2")


def test_another_model_of_the_same_data_is_noticed(content, tmp_path):
    def double(header):
        header["content"]["layout"]["dict"] = [
            [k, ["(Intercept)", "days"] if k == "coefficients" else v] for k, v in header["content"]["layout"]["dict"]
        ]

    refused(changed(content, double), tmp_path, "makes another model of the data")


def test_a_file_that_is_there_survives_a_failure(fit, tmp_path, monkeypatch):
    path = tmp_path / "fit"
    fit.save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        fit.save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["fit"]
