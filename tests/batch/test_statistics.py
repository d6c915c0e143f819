"""Sufficient statistics of a design: fits and tests are those from rows, of sparse, streamed and stored responses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import jaxlmm
from cases import some
from jaxlmm.batch.statistics import SufficientStatistics
from jaxlmm.errors import DataError
from jaxlmm.interface import model_of

FORMULAS = {
    "one factor": "y ~ x * f + (1 | g)",
    "slopes": "y ~ x + (x | g)",
    "two terms": "y ~ x + (1 | g) + (0 + x | g)",
    "crossed": "y ~ f + (1 | g) + (1 | h)",
    "nested": "y ~ x + (1 | h / g)",
    "none": "y ~ x + f",
}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    n, people = 240, 12
    g = np.sort(rng.integers(0, people, n))
    f = np.array(["a", "b"])[rng.integers(0, 2, n)]
    y = rng.normal(size=n) + rng.normal(size=people)[g]
    x, o, w = rng.normal(size=n), rng.normal(size=n), rng.uniform(0.5, 2, n)
    return {"g": g, "h": rng.integers(0, 5, n), "f": f, "x": x, "o": o, "w": w, "y": y}


def responses(data, b=5, seed=1):
    rng = np.random.default_rng(seed)
    found = rng.poisson(np.exp(0.7 * rng.normal(size=(b, 12)))[:, data["g"]]).astype(float)
    return np.log1p(found)


def same(found, expected, rtol=1e-10, own=None):
    """To rounding, as the solver takes the same path; `own` is for estimates."""
    np.testing.assert_array_equal(found.status, expected.status)
    np.testing.assert_allclose(found.loglik, expected.loglik, rtol=rtol)
    for name in ("coef", "vcov", "se", "theta", "sigma"):
        tolerance = {"rtol": own or rtol, "atol": own or rtol, "err_msg": name}
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), **tolerance)


@pytest.mark.parametrize("name", some(FORMULAS, "slopes"))
@pytest.mark.parametrize("more", some(("plain", "weights and offset"), "plain"))
def test_equal_to_refits_from_rows(data, name, more):
    quick = (name, more) == ("slopes", "plain")
    more = {} if more == "plain" else {"weights": "w", "offset": "o"}
    fit = jaxlmm.lmm(FORMULAS[name], data, **({"residual": "iid()"} if name == "none" else {}), **more)
    Y = responses(data)
    Y[3:] = np.random.default_rng(4).normal(size=(2, 240))  # variances that are zero, or nearly
    methods = ("satterthwaite", "residual") + (() if quick else ("kenward-roger",))
    tests = jaxlmm.Tests(np.eye(len(fit.coef))[-1:], df=methods)
    expected = fit.refit(Y, tests=tests)
    found = fit.statistics().fit(Y, tests=tests)
    same(found, expected)
    for method, by in expected.tests.items():
        np.testing.assert_allclose(found.tests[method].p, by.p, rtol=1e-10, err_msg=method)
        np.testing.assert_allclose(found.tests[method].df, by.df, rtol=1e-10, err_msg=method)
    same(fit.refit(sparse.csr_array(Y)), expected)
    assert fit.statistics().rows < len(data["y"]) / 2 or name in ("crossed", "nested")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one factor", "slopes", "crossed"])
def test_equal_to_refits_near_zero_variance(data, name):
    """The solver works in the units of all rows: those of reduced rows led it along another path, to 1e-7."""
    fit, rng = jaxlmm.lmm(FORMULAS[name], data), np.random.default_rng(4)
    sizes = np.repeat([0.0, 0.1, 0.2, 0.3], 10)[:, None]
    Y = rng.normal(size=(40, 240)) + sizes * rng.normal(size=(40, 12))[:, data["g"]]
    tests = jaxlmm.Tests(np.eye(len(fit.coef))[-1:], df=("satterthwaite", "kenward-roger"))
    expected = fit.refit(Y, tests=tests)
    assert 5 < expected.singular.sum() < 40
    by_rows = fit.statistics().fit_rows([Y.T[:100], Y.T[100:]], tests=tests)
    for found in (fit.statistics().fit(Y, tests=tests), by_rows):
        same(found, expected)
        assert np.mean(found.iterations == expected.iterations) > 0.9  # the last evaluation may be one of rounding
        for method, by in expected.tests.items():
            for name in ("estimate", "se", "df", "p"):
                np.testing.assert_allclose(getattr(found.tests[method], name), getattr(by, name), rtol=1e-10)


def test_any_source(data, tmp_path):
    """Files that are mapped, sparse matrices by rows and by columns, blocks of either; one response far from zero."""
    fit = jaxlmm.lmm("y ~ x + (1 | g)", data)
    Y = responses(data, 7)
    Y[3] += 1e6
    expected = fit.refit(Y)
    np.save(tmp_path / "Y.npy", Y)
    mapped = np.load(tmp_path / "Y.npy", mmap_mode="r")
    same(fit.statistics().fit(mapped), expected, 1e-7, 1e-6)
    for form in (sparse.csr_array, sparse.csc_matrix, sparse.coo_array):
        same(fit.refit(form(Y)), expected, 1e-7, 1e-6)
    for blocks in (iter, list):
        same(fit.refit(blocks([Y[:2], sparse.csr_array(Y[2:5]), Y[5:]])), expected, 1e-7, 1e-6)
    assert fit.refit(sparse.csr_array(Y)).coef_names == fit.coef_names


@pytest.mark.parametrize("weighted", some([False, True], False))
def test_chunks_of_rows(data, tmp_path, weighted):
    """A Parquet file with a column a response, chunks, dense and sparse; responses far from zero, or missing."""
    from pyarrow import parquet, table

    fit = jaxlmm.lmm("y ~ x + (1 | g)", data, **({"weights": "w", "offset": "o"} if weighted else {}))
    Y = responses(data, 5)
    Y[3] += 1e6
    expected = fit.refit(Y)
    parquet.write_table(table({f"r{i}": y for i, y in enumerate(Y)}), tmp_path / "Y.parquet", row_group_size=70)
    parts = [Y[:, :10].T, Y[:, 10:99].T, Y[:, 99:].T]
    sources = (tmp_path / "Y.parquet", iter(parts), [sparse.csr_array(part) for part in parts])
    for source in sources:
        same(fit.statistics().fit_rows(source), expected, 1e-7, 1e-6)
    exact = np.array([Y[0], data["x"] + 10.0 * data["g"] + 5e-3 * Y[1]])  # next to nothing is left of the second
    exact[1] += data["o"] if weighted else 0.0
    same(fit.statistics().fit_rows([exact.T]), fit.refit(exact), 1e-7, 1e-6)
    with pytest.raises(DataError, match="source: 1 responses lie so near"):
        fit.statistics().fit_rows(iter([exact.T]))
    other = fit.statistics().fit_rows(str(tmp_path / "Y.parquet"), ["r3", "r1"])
    np.testing.assert_allclose(other.loglik, expected.loglik[[3, 1]], rtol=1e-7)
    Y[2, 5] = np.nan
    masked = fit.statistics().fit_rows([np.ma.masked_array(Y.T[:5], np.tile(np.arange(5) == 1, (5, 1))), Y.T[5:]])
    assert masked.status[1] == jaxlmm.Status.BAD_RESPONSE and masked.converged[0]
    with pytest.raises(DataError, match="source: found .*, expected chunks of numbers"):
        fit.statistics().fit_rows([Y.T.astype(str)])
    found = fit.statistics().fit_rows([Y.T])
    assert found.status[2] == jaxlmm.Status.BAD_RESPONSE and np.isfinite(np.delete(found.loglik, 2)).all()
    for source, columns, message in (
        ([Y.T[:7]], None, "source: expected 240 rows in all, found 7"),
        ([Y.T, Y.T], None, "source: expected 240 rows in all, found more"),
        ([Y.T[:9], Y.T[9:, :2]], None, "source: expected 5 responses"),
        ([Y.T], ["r1"], "columns: expected only with a file"),
        (tmp_path / "Y.parquet", ["r9"], "columns: 'r9' is not in"),
        ("nowhere.parquet", None, "source: there is no file"),
        (3, None, "source: found int, expected a Parquet file or chunks"),
    ):
        with pytest.raises(DataError, match=message):
            fit.statistics().fit_rows(source, columns)


@pytest.fixture
def dense_shapes(monkeypatch):
    """Shapes of the sparse matrices that are made dense."""
    shapes = []
    for form in (sparse.csr_array, sparse.csc_array, sparse.coo_array, sparse.csr_matrix, sparse.csc_matrix):
        for name in ("toarray", "todense"):
            own = getattr(form, name)
            monkeypatch.setattr(
                form, name, lambda self, *a, own=own, **k: shapes.append(self.shape) or own(self, *a, **k)
            )
    return shapes


def test_sparse_responses_are_not_made_dense(data, dense_shapes):
    """By responses and by rows, only products; a design whose intercept cells span, weights, an offset."""
    Y = np.random.default_rng(2).normal(size=(4, 240)) * (np.random.default_rng(3).random((4, 240)) < 0.4)
    for formula, more in (("y ~ x * f + (1 | g)", {}), ("y ~ x + (x | g)", {"weights": "w", "offset": "o"})):
        statistics = SufficientStatistics(model_of(formula, data, **more)[1])
        expected = statistics.reduced(Y)
        np.testing.assert_allclose(statistics.reduced(sparse.csr_array(Y)), expected, atol=1e-11)
        columns = sparse.csc_array(Y.T)
        for parts in ([columns[:100], columns[100:239], columns[239:]], [columns[:9], columns[9:].toarray()]):
            found = statistics.reduced_rows(parts)
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
        parts = [Y.T[:50], columns[50:90], columns[90:]]  # what X explains of the first is taken from all
        np.testing.assert_allclose(statistics.reduced_rows(parts), expected, rtol=1e-11, atol=1e-11)
    dense_shapes.remove((231, 4)), dense_shapes.remove((231, 4))  # by this test
    assert dense_shapes and max(m * k for m, k in dense_shapes) <= 4 * 27  # a chunk of ours has 150 x 4


def test_sparse_matrices_of_any_kind(data):
    """Unsorted and repeated entries, stored zeros, integers, other formats: nothing of the user's is changed."""
    statistics = SufficientStatistics(model_of("y ~ x + (1 | g)", data)[1])
    Y = np.random.default_rng(2).integers(-2, 3, size=(3, 240))
    i, j = (a.ravel() for a in np.indices(Y.shape))
    order = np.random.default_rng(3).permutation(Y.size)
    order = order[np.argsort(i[order], kind="stable")]  # columns in any order
    twice, columns, starts = np.repeat(Y.ravel()[order], 2), np.repeat(j[order], 2), 480 * np.arange(4)
    twice[::2] -= 5  # entries of two parts
    twice[1::2] = 5
    odd = sparse.csr_matrix((twice.copy(), columns.copy(), starts), shape=Y.shape)
    whole = sparse.csr_array(1.0 * Y)
    whole.data[:7] = 0.0
    forms = [(odd, Y), (whole, whole.toarray()), (sparse.lil_array(Y), Y), (sparse.csc_array(Y != 0), Y != 0)]
    for given, dense in forms:
        expected = statistics.reduced(1.0 * dense)
        np.testing.assert_allclose(statistics.reduced(given), expected, atol=1e-11)
        np.testing.assert_allclose(statistics.reduced_rows([given.T[:1], given.T.tocsr()[1:]]), expected, atol=1e-11)
    np.testing.assert_array_equal(odd.data, twice)
    np.testing.assert_array_equal(odd.indices, columns)
    with pytest.raises(DataError, match="Y: found a sparse array of complex128"):
        statistics.reduced(sparse.csr_array(Y * 1j))
    with pytest.raises(DataError, match="source: found a sparse array of complex128"):
        statistics.reduced_rows([sparse.csr_array(Y.T * 1j)])


def test_tables_arrays_and_files_of_any_kind(data, tmp_path):
    """Data frames, mapped files of any type and order, Parquet columns with nulls and none that are no responses."""
    import pandas
    import polars
    import pyarrow
    from pyarrow import parquet

    statistics = SufficientStatistics(model_of("y ~ x + (1 | g)", data)[1])
    Y = np.random.default_rng(2).integers(-9, 10, size=(3, 240)).astype(float)
    expected = statistics.reduced(Y)
    columns = {f"r{i}": y for i, y in enumerate(Y)}
    for kind in ("<f4", ">f8", ">i4", "i1", "f2"):
        mapped = np.memmap(tmp_path / "raw", dtype=kind, mode="w+", shape=Y.shape, order="F")
        mapped[:] = Y
        np.testing.assert_allclose(statistics.reduced(mapped), expected, atol=1e-11)
        for source in (mapped.T, [mapped.T[:239], mapped.T[239:]]):
            np.testing.assert_allclose(statistics.reduced_rows(source), expected, atol=1e-11)
    for rows in (pandas.DataFrame(columns), polars.DataFrame(columns), pyarrow.table(columns), sparse.csc_matrix(Y.T)):
        for source in (rows, [rows]):
            np.testing.assert_allclose(statistics.reduced_rows(source), expected, atol=1e-11)
    for frame in (pandas.DataFrame(Y), polars.DataFrame(Y), pyarrow.table({str(i): y for i, y in enumerate(Y.T)})):
        np.testing.assert_allclose(statistics.reduced(frame), expected, atol=1e-11)
        np.testing.assert_allclose(statistics.reduced([frame, Y[:1]]), expected[[0, 1, 2, 0]], atol=1e-11)
    path = tmp_path / "Y.parquet"
    pandas.DataFrame(columns, index=[f"cell {i}" for i in range(240)]).to_parquet(path)
    np.testing.assert_allclose(statistics.reduced_rows(path), expected, atol=1e-11)
    np.testing.assert_allclose(statistics.reduced_rows(path, "r1"), expected[[1]], atol=1e-11)
    lacking = {name: pyarrow.array(y.astype(int), mask=y == i) for i, (name, y) in enumerate(columns.items())}
    whole = pyarrow.array(Y[0].astype(int))
    more = {"whole": whole, "levels": whole.dictionary_encode(), "none": pyarrow.nulls(240)}
    parquet.write_table(pyarrow.table({**lacking, **more}), path, row_group_size=7)
    found = statistics.reduced_rows(path)
    assert np.isnan(found[[0, 1, 2, 5]]).any(1).all()
    np.testing.assert_allclose(found[3:5], expected[[0, 0]], atol=1e-11)
    texts, dates = ["a"] * 240, np.arange(240).astype("M8[s]")
    parquet.write_table(pyarrow.table([Y[0], Y[1], texts, dates], ["a", "a", "b", "c"]), path)
    (tmp_path / "bad.parquet").write_text("no")
    for source, names, message in (
        (path, "a", "columns: 'a' is 2 times in"),
        (path, "b", "columns: 'b' .* holds string, expected numbers"),
        (path, ["c"], "columns: 'c' .* holds timestamp"),
        (path, [], "columns: expected at least one column"),
        (tmp_path / "bad.parquet", None, "cannot be read as Parquet"),
        (columns, None, "source: found dict, expected a Parquet file or chunks"),
    ):
        with pytest.raises(DataError, match=message):
            statistics.reduced_rows(source, names)
    for value in ({"a": Y[0]}, "Y", {1.0}):
        with pytest.raises(DataError, match="Y: found (dict|str|set), expected arrays"):
            statistics.reduced(value)


def test_hypotheses_by_name_and_the_method_are_those_of_the_fit(data):
    fit = jaxlmm.lmm("y ~ x + (1 | g)", data, method="ML")
    Y = responses(data, 4)
    asked = jaxlmm.Tests({"slope": {"x": 1.0}}, df="containment")
    expected = fit.refit(Y, tests=asked)
    for found in (fit.refit(sparse.csr_array(Y), tests=asked), fit.statistics().fit_rows([Y.T], tests=asked)):
        same(found, expected)
        assert found.coef_names == fit.coef_names and found.tests["containment"].names == ("slope",)
        np.testing.assert_allclose(found.tests["containment"].p, expected.tests["containment"].p, rtol=1e-10)
    Y[1, 3] = np.nan
    for way in (fit.refit, fit.statistics().fit):
        with pytest.raises(DataError, match="tests: df from the design is that of all rows"):
            way(Y, missing="drop", tests=asked)


def test_what_cannot_be_fitted_has_a_status(data):
    fit = jaxlmm.lmm("y ~ x + (1 | g)", data)
    Y = responses(data, 4)
    Y[1, 3], Y[2], Y[3, 0] = np.nan, 2.0, np.inf
    expected = fit.refit(Y)
    for given in (Y, sparse.csr_array(Y)):
        found = fit.statistics().fit(given)
        np.testing.assert_array_equal(found.status, expected.status)
        assert np.isnan(found.loglik[1:]).all() and np.isfinite(found.loglik[0])
    assert len(fit.refit(iter([]))) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.statistics().fit(np.zeros((2, 7))), r"Y: expected responses of 240 rows"),
        (lambda f: f.refit(sparse.csc_array((240, 2))), "a row an observation: give its transpose"),
        (lambda f: f.statistics().fit(3.0), "Y: found float"),
        (lambda f: f.refit(sparse.csr_array(np.ones((2, 240))), weights=np.ones((2, 240))), "not sparse or streamed"),
        (lambda f: f.statistics().fit(np.zeros((2, 240)), missing="no"), "missing: found 'no'"),
    ],
)
def test_messages(data, call, message):
    with pytest.raises(DataError, match=message):
        call(jaxlmm.lmm("y ~ x + (1 | g)", data))


def test_other_models_are_refused(data):
    fit = jaxlmm.lmm("y ~ x + ar1(h | g)", {**data, "h": np.arange(240)})
    with pytest.raises(DataError, match="statistics: sufficient statistics are those of grouping factors"):
        fit.statistics()
