"""A fit owns what it was fitted to: nothing that is done to the caller's data afterwards changes its numbers."""

import functools

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import jaxlmm
from jaxlmm import DataError, Field, Model, Term, covariance
from jaxlmm.plotting.canvas import column_of

N, FORMULA = 48, "y ~ f * x + z + (1 | g)"
LIBRARIES = ("pandas", "polars", "pyarrow", "dict", "dict of Series")


def arrays():
    rng = np.random.default_rng(4)
    g = np.arange(N) // 4
    f = np.array(["a", "b", "c"])[np.arange(N) % 3]
    x, z, w = rng.normal(size=N), rng.normal(size=N), rng.uniform(0.5, 2, N)
    y = x + (f == "b") + rng.normal(size=12)[g] + rng.normal(size=N)
    return {"y": y, "f": f, "x": x, "z": z, "w": w, "g": g, "site": g // 2, "unused": np.arange(N) * 1.0}


def of_library(library, columns):
    """A frame that shares memory with the arrays where its library lets it."""
    if library == "dict":
        return columns
    if library == "dict of Series":
        return {name: pd.Series(values, copy=False) for name, values in columns.items()}
    return {"pandas": functools.partial(pd.DataFrame, copy=False), "polars": pl.DataFrame, "pyarrow": pa.table}[
        library
    ](columns)


def rotate(data, columns):
    """Change the caller's columns in every way that their library has: names, then the arrays themselves."""
    for name in ("y", "x", "z", "w", "f", "g"):
        values = np.roll(columns[name], 5)
        if isinstance(data, dict | pd.DataFrame):
            data[name] = values.copy()
        elif isinstance(data, pl.DataFrame):
            data.replace_column(data.get_column_index(name), pl.Series(name, values))
        if name not in "fg":
            columns[name][:] = values


def values_of(frame):
    """Numbers of a table of any library."""
    if isinstance(frame, pa.Table):
        frame = frame.to_pandas()
    elif isinstance(frame, pl.DataFrame):
        frame = {name: frame[name].to_list() for name in frame.columns}
    return pd.DataFrame(frame).select_dtypes("number").to_numpy()


def names_of(frame):
    return list(frame.column_names if isinstance(frame, pa.Table) else getattr(frame, "columns", frame))


DOORS = {
    "emmeans": lambda fit: values_of(fit.emmeans("f", weights="proportional", df="asymptotic").frame()),
    "emtrends": lambda fit: values_of(fit.emtrends("x", "f", df="asymptotic").frame()),
    "predictions": lambda fit: values_of(fit.predictions(by="f", df="asymptotic").frame()),
    "grid": lambda fit: values_of(fit.predictions(by="f", newdata="grid", df="asymptotic").frame()),
    "comparisons": lambda fit: values_of(fit.comparisons("x", change="sd", by="f", df="asymptotic").frame()),
    "slopes": lambda fit: values_of(fit.slopes("x", by="f", df="asymptotic").frame()),
    "predict": lambda fit: np.r_[fit.predict(), fit.predict(random=False)],
    "residuals": lambda fit: fit.residuals("pearson"),
    "simulate": lambda fit: fit.simulate(2, seed=1),
    "sandwich": lambda fit: fit.sandwich("CR1", "g").vcov,
    "scores": lambda fit: fit.scores("g").beta,
    "influence": lambda fit: fit.influence(by="g", exact="none").cooks,
    "anova": lambda fit: values_of(fit.anova(df="residual").frame()),
    "refit": lambda fit: fit.refit(fit.simulate(2, seed=3)).coef,
    "column": lambda fit: fit.refit(fit.simulate(1, seed=3), column="z", values=np.ones((1, N)) * np.arange(N)).coef,
    "bootstrap": lambda fit: fit.bootstrap(2, seed=2, progress=False).values,
    "augment": lambda fit: values_of(fit.augment()),
    "picture": lambda fit: column_of(fit, "by", "z").values,
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_no_door_reads_the_data_as_they_are_now(library, tmp_path):
    columns = arrays()
    del columns["site"], columns["unused"]
    data = of_library(library, columns)
    fit = jaxlmm.lmm(FORMULA, data, weights="w")
    before = {name: door(fit) for name, door in DOORS.items()}
    kind = type(fit.augment())
    rotate(data, columns)
    for name, door in DOORS.items():
        np.testing.assert_array_equal(door(fit), before[name], err_msg=name)
    assert type(fit.augment()) is kind and type(fit.data) is type(data)
    fit.save(tmp_path / "fit")
    loaded = jaxlmm.load(tmp_path / "fit")
    for name in ("emmeans", "predictions", "sandwich", "predict"):
        np.testing.assert_allclose(DOORS[name](loaded), before[name], rtol=1e-12, err_msg=name)


def test_a_loop_over_endpoints_that_reuses_a_column():
    data = pd.DataFrame(arrays())
    fits, at_once = {}, {}
    for name in ("z", "w"):
        data["base"] = 10 * data[name]
        fits[name] = jaxlmm.lmm("y ~ f + base + (1 | g)", data)
        at_once[name] = DOORS["emmeans"](fits[name])
    for name, fit in fits.items():
        np.testing.assert_array_equal(DOORS["emmeans"](fit), at_once[name])
        assert fit.data["base"].mean() == pytest.approx(10 * data[name].mean())


CHANGES = {
    "another value": lambda d: d.__setitem__("x", np.roll(d["x"], 1)),
    "another response": lambda d: d.__setitem__("y", 2 * d["y"]),
    "other levels": lambda d: d.__setitem__("f", np.where(d["f"] == "a", "A", d["f"])),
    "a gap": lambda d: d.__setitem__("z", np.where(np.arange(N) == 3, np.nan, d["z"])),
    "text for numbers": lambda d: d.__setitem__("x", np.array([str(v) for v in d["x"]])),
    "a column gone": lambda d: d.pop("z"),
}
FRAMES = {
    "rows dropped": lambda d: d.drop(index=range(4), inplace=True),
    "a row added": lambda d: d.__setitem__("y", d["y"]) or d.loc.__setitem__(N, d.loc[0]),
    "sorted": lambda d: d.sort_values("x", inplace=True, ignore_index=True),
    "shuffled labels": lambda d: d.__setattr__("index", np.roll(np.arange(N), 1)),
    "emptied": lambda d: d.drop(index=d.index, inplace=True),
}


def others(fit, tmp_path):
    """Doors that read a column which is not part of the model."""
    return {
        "cluster": lambda: fit.sandwich("CR1", "site").vcov,
        "tidy": lambda: values_of(fit.tidy(df="residual", robust="CR1", cluster="site")),
        "scores": lambda: fit.scores("site").beta,
        "influence": lambda: fit.influence(by="site", exact="none").cooks,
        "by": lambda: values_of(fit.predictions(by="site", df="asymptotic").frame()),
        "augment": lambda: values_of(fit.augment()),
        "picture": lambda: column_of(fit, "by", "site").values,
        "save": lambda: fit.save(tmp_path / "fit", columns="all"),
        "save one": lambda: fit.save(tmp_path / "fit", columns="site"),
    }


@functools.cache
def coefficients():
    return jaxlmm.lmm(FORMULA, arrays()).coef


@pytest.mark.parametrize("library", LIBRARIES)
def test_other_columns_are_read_while_the_data_are_as_they_were(library, tmp_path):
    columns = arrays()
    data = of_library(library, columns)
    fit = jaxlmm.lmm(FORMULA, data)
    site = columns["site"].copy()
    doors = others(fit, tmp_path)
    by_array = fit.sandwich("CR1", site).vcov
    np.testing.assert_allclose(doors["cluster"](), by_array)
    for door in doors.values():
        door()
    assert set(names_of(data)) < set(names_of(fit.augment()))
    rotate(data, columns)
    for name, door in doors.items():
        with pytest.raises(DataError) as error:
            door()
        assert "the data have changed since the fit: column 'y' has other values" in str(error.value), name
    np.testing.assert_array_equal(fit.sandwich("CR1", site).vcov, by_array)  # labels in the order of the rows


@pytest.mark.filterwarnings("ignore:The inplace keyword")
@pytest.mark.parametrize("change", [*CHANGES, *FRAMES])
def test_changes_are_found_and_named(change, tmp_path):
    data = pd.DataFrame(arrays())
    fit = jaxlmm.lmm(FORMULA, data)
    series = data["site"].copy()
    before = fit.sandwich("CR1", series).vcov
    {**CHANGES, **FRAMES}[change](data)
    for door in others(fit, tmp_path).values():
        with pytest.raises(DataError, match="the data have changed since the fit"):
            door()
    with pytest.raises(DataError, match="cluster: the index of the Series may be of other rows"):
        fit.sandwich("CR1", series)
    with pytest.raises(DataError, match="y: the index of the Series may be of other rows"):
        fit.refit(pd.Series(fit.fitted))
    np.testing.assert_array_equal(fit.sandwich("CR1", series.to_numpy()).vcov, before)
    np.testing.assert_array_equal(fit.coef, coefficients())


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_a_dict_are_found(change):
    data = arrays()
    fit = jaxlmm.lmm(FORMULA, data)
    CHANGES[change](data)
    with pytest.raises(DataError, match="the data have changed since the fit"):
        fit.sandwich("CR1", "site")


def test_columns_of_the_model_are_the_only_ones_copied_and_the_only_ones_checked():
    data = pd.DataFrame(arrays())
    data.loc[[2, 7], "x"] = np.nan
    fit = jaxlmm.lmm(FORMULA, data)
    assert list(fit.data.columns) == ["y", "f", "x", "z", "g"]
    data["site"], data["late"] = data["site"] + 1, np.arange(N) // 8  # not of the model
    assert fit.sandwich("CR1", "late").clusters == 6
    assert "late" in fit.augment().columns and len(fit.augment()) == N - 2


def test_arrays_given_beside_the_data_are_copied(tmp_path):
    data, given = arrays(), arrays()
    weights, offset = given["w"], given["unused"]
    fit = jaxlmm.lmm(FORMULA, data, weights=weights, offset=offset)
    before = {name: DOORS[name](fit) for name in ("emmeans", "predictions", "refit")}
    weights[:], offset[:] = 1.0, 0.0
    for name, expected in before.items():
        np.testing.assert_array_equal(DOORS[name](fit), expected)
    fit.save(tmp_path / "fit")
    np.testing.assert_allclose(DOORS["emmeans"](jaxlmm.load(tmp_path / "fit")), before["emmeans"], rtol=1e-12)


@pytest.mark.parametrize("kind", ["array and labels", "frame", "precision", "without labels"])
def test_relationship_matrices_are_copied(kind, tmp_path):
    levels = 12 if kind == "without labels" else 14
    A = 0.5 * np.eye(levels) + 0.5
    A[0, 1] = A[1, 0] = A[12 % levels, 3] = A[3, 12 % levels] = 0.7
    labels = list(range(levels))
    given = {
        "array and labels": (A, labels),
        "frame": pd.DataFrame(A, labels, labels, copy=False),
        "precision": jaxlmm.Precision(A, labels),
        "without labels": A,
    }[kind]
    relationship = {"g": given}
    fit = jaxlmm.lmm("y ~ x + (1 | g)", arrays(), relationship=relationship)

    def numbers(fit):
        return np.r_[fit.predict(), values_of(fit.ranef(all_levels=True)["g"].frame())[:, -1]]

    before = numbers(fit)
    A[:] = np.eye(levels)
    labels.reverse()
    relationship.clear()
    np.testing.assert_array_equal(numbers(fit), before)
    fit.save(tmp_path / "fit")
    np.testing.assert_allclose(numbers(jaxlmm.load(tmp_path / "fit")), before, rtol=1e-10)


def test_the_arrays_of_a_model_are_its_own():
    a = arrays()
    y, X, Z = a["y"], np.column_stack([np.ones(N), a["x"]]), np.ones((N, 1))
    weights, offset, group, coords = a["w"], a["unused"], a["g"], a["z"]
    relationship = np.eye(12) + 0.1
    given = (y, X, Z, weights, offset, relationship, group, coords)
    model = Model(
        y, X, [Term(Z, group, relationship=relationship), Field(covariance.Exponential(), group, coords=coords)],
        weights=weights, offset=offset,
    )  # fmt: skip
    theta = np.full(model.size, -0.3)
    again = model.replace(y=y)
    before = [float(jaxlmm.reml(theta, m)) for m in (model, again)]
    for array in given:
        array[...] = array[::-1].copy() + 1
    assert [float(jaxlmm.reml(theta, m)) for m in (model, again)] == before
    with pytest.raises(ValueError, match="read-only"):
        model.y[0] = 0.0
    assert Model(model.y, model.X).X is model.X  # nothing is copied twice


def test_a_frame_of_lmm_and_its_model_share_memory():
    fit = jaxlmm.lmm(FORMULA, arrays(), weights="w")
    assert fit.model.X is fit.frame.X and fit.model.y is fit.frame.y
    assert fit.model.random[0].Z is fit.frame.terms[0].Z and fit.model.weights is fit.frame.weights


def test_coordinates_are_copied():
    data = arrays()
    data["t"] = np.tile(np.arange(4.0), 12)
    fit = jaxlmm.lmm("y ~ x", data, residual="exp(t | g)", variance="exp(z)")
    before = fit.predict(residual=True), fit.refit(fit.simulate(1, seed=1)[0]).loglik
    data["t"][:], data["z"][:] = data["t"][::-1].copy(), 0.0
    assert not any(np.shares_memory(column, data["t"]) for column in fit.frame.residual.placed.columns)
    np.testing.assert_array_equal(fit.predict(residual=True), before[0])
    assert fit.refit(fit.simulate(1, seed=1)[0]).loglik == before[1]


def test_a_response_that_was_refitted_is_copied():
    fit = jaxlmm.lmm(FORMULA, arrays())
    y = fit.simulate(1, seed=1)[0]
    other = fit.refit(y)
    before = other.residuals()
    y[:] = 0.0
    np.testing.assert_array_equal(other.residuals(), before)
