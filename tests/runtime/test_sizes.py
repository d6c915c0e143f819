"""Numbers in texts and arguments that would make memory: refused by size, in a sentence, before memory is asked for."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxlmm
from cases import some
from jaxlmm.runtime import sizes
from jaxlmm.study import Estimator, MixedModel, Study, designs, toml

MANY = 10**12


@pytest.fixture(scope="module")
def fit():
    with jax.enable_x64(True):
        return jaxlmm.lmm("Reaction ~ Days + (Days | Subject)", jaxlmm.datasets.load("sleepstudy"))


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("bs(Days, df=10**9)", r"bs: df: found '10 \*\* 9', expected a whole number up to 1000"),
        ("bs(Days, df=1000000000)", "bs: df"),
        ("bs(Days, 1000000000)", "bs: df"),
        ("bs(Days, 5, None, 1000000)", "bs: degree"),
        ("bs(Days, degree=1000000)", "bs: degree"),
        ("poly(Days, 1000000)", "poly: degree"),
        ("poly(Days, degree=10**6)", "poly: degree"),
        ("poly(Days, degree=-1)", "poly: degree"),
        ("cr(Days, df=10**9)", "cr: df"),
        ("cs(Days, 10**9)", "cs: df"),
        ("cc(Days, df=1e9)", "cc: df"),
        ("(Days + Subject)**1000000000", "a power of terms"),
        ("(" + " + ".join(f"x{i}" for i in range(300)) + ")**99", "more than 2000 terms"),
        ("*".join(f"x{i}" for i in range(300)), "more than 2000 terms"),
        ("(" * 9000 + "Days" + ")" * 9000, "nested too deeply"),
        ("(" * 100_000 + "Days" + ")" * 100_000, "longer than 20000 characters"),
        ("I(" + "-" * 15000 + "Days)", "too deeply nested"),
        ("I(9**9**9**9)", "write this power"),
        ("rr(Days | Subject, d=" + "[" * 9000 + ")", "an option must be"),
        ("rr(Days | Subject, d=" + "9" * 9000 + ")", "an option must be"),
        ("rr(Days | Subject, d=1000000000)", "at most the number of levels"),
    ],
)
def test_formulas(term, message):
    with pytest.raises(jaxlmm.JaxlmmError, match=message):
        jaxlmm.lmm(f"Reaction ~ {term} + (1 | Subject)", jaxlmm.datasets.load("sleepstudy"))


def test_transforms_of_a_sensible_size_are_those_that_they_were():
    data = jaxlmm.datasets.load("sleepstudy")
    frame = jaxlmm.lmm("Reaction ~ bs(Days, df=4, degree=2) + poly(Days, 2) + (1 | Subject)", data).frame
    assert frame.encoder.names[1:5] == tuple(f"bs(Days, df=4, degree=2)[{i}]" for i in range(1, 5))


@pytest.mark.parametrize(
    "name", some(["us", "toep", "toeph", "ar1h", "ad", "adh", "diag", "cs", "csh", "hf"], "us", "toep")
)
def test_structures_over_very_many_levels(name):
    n = 400_000
    data = {"y": np.arange(n) % 7.0, "g": np.arange(n) // 2, "v": np.arange(n)}
    with pytest.raises(jaxlmm.DataError, match=r"400,000 x 400,000 numbers are 1,192 GiB, .* too many levels"):
        jaxlmm.lmm("y ~ 1", data, residual=f"{name}(v | g)")


def test_structures_with_too_many_parameters():
    with pytest.raises(jaxlmm.JaxlmmError, match="covariance have too many parameters for 1,000 levels"):
        jaxlmm.Field(jaxlmm.Unstructured(), np.zeros(3), position=np.array([0, 1, 999]))
    with pytest.raises(jaxlmm.DataError, match="position has 1000000000, expected at most"):
        jaxlmm.Field(jaxlmm.covariance.Identity(), np.zeros(3), position=np.array([0, 1, 10**9]))
    assert jaxlmm.Unstructured().size(100) == 5050


def test_factors_with_too_many_levels_together():
    n = 20_000
    labels = [f"a{i}" for i in range(n)]
    data = {"y": np.arange(n) % 7.0, "a": labels, "b": labels, "g": np.arange(n) // 2}
    for formula in ("y ~ a:b + (1 | g)", "y ~ (a:b | g)", "y ~ C(g):a + (1 | g)"):
        with pytest.raises(jaxlmm.DataError, match="too many levels together"):
            jaxlmm.lmm(formula, data)


@pytest.mark.parametrize("n", [10**10, MANY, 2**70])
@pytest.mark.parametrize("name", ["simulate", "new", "bootstrap", "draws", "chains", "rlrt", "compare"])
def test_draws(name, n, fit):
    data = jaxlmm.datasets.load("sleepstudy")
    calls = {
        "simulate": lambda: fit.simulate(n),
        "new": lambda: fit.simulate(n, newdata=data.head(2)),
        "bootstrap": lambda: fit.bootstrap(n),
        "draws": lambda: fit.draws(n),
        "chains": lambda: fit.draws(10, chains=n),
        "rlrt": lambda: jaxlmm.rlrt(fit, n=n),
        "compare": lambda: jaxlmm.compare(
            jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", data), fit, method="bootstrap", n=n
        ),
    }
    with pytest.raises(jaxlmm.DataError, match="n: found .*, expected at most 4,294,967,296 draws"):
        calls[name]()


def test_draws_that_do_not_fit_into_memory(fit, monkeypatch):
    monkeypatch.setattr(sizes, "memory", lambda: 2.0**30)
    with pytest.raises(jaxlmm.DataError, match="n: 1,000,000 x 180 numbers are 1 GiB, this machine has 1; take fewer"):
        fit.simulate(10**6)
    assert fit.simulate(2).shape == (2, 180)


def test_grids(fit):
    for call in (fit.emmeans, fit.predictions):
        options = {"at": {"Days": range(10**10)}}
        with pytest.raises(jaxlmm.DataError, match="at: 'Days' has 10,000,000,000 values"):
            call("Days", **options) if call == fit.emmeans else call(**options)
    with pytest.raises(jaxlmm.DataError, match="probes: found 1000000000000"):
        jaxlmm.Iterative(probes=MANY)


def trial(**changes):
    options = {
        "design": designs.cluster_trial, "grid": {"clusters": [6], "size": [4]},
        "generate": MixedModel("y ~ arm + (1 | cluster)", {}, {"cluster": 0.1, "residual": 0.9}),
        "estimators": [Estimator("mixed", "y ~ arm + (1 | cluster)", df="asymptotic")],
        "targets": {"arm": 0.0}, "replicates": 4, "chunk": 2,
    }  # fmt: skip
    return Study(**(options | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replicates": MANY}, "replicates: expected at least 1, at most 4,294,967,296"),
        ({"chunk": MANY}, "chunk: expected at least 1"),
        ({"replicates": 2**32, "chunk": 1}, "4,294,967,296 files, more than 1,000,000; make the chunks larger"),
        ({"grid": {"clusters": range(10**10), "size": [4]}}, "grid: makes at least 1,000,001 cells"),
        ({"grid": {"a": range(2000), "b": range(2000)}}, "grid: makes at least 4,000,000 cells"),
    ],
)
def test_studies(changes, message):
    with pytest.raises(jaxlmm.DataError, match=message):
        trial(**changes)


def test_designs_and_chunks():
    from jaxlmm.study.rehearsal import rehearse

    for make, *counts in (
        (designs.visits, 10**9, 10**6), (designs.cluster_trial, MANY), (designs.crossed, 10**6, 10**7),
        (designs.cluster_trial, 10, MANY), (designs.multicentre, 10**7, 10**7),
    ):  # fmt: skip
        with pytest.raises(jaxlmm.DataError, match="numbers are .* GiB"):
            make(*counts)
    with pytest.raises(jaxlmm.DataError, match="make the chunks smaller"):
        rehearse(trial(replicates=2**32, chunk=2**32))


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "design = 'cluster_trial'\ngenerate = { formula = 'y ~ arm + (1 | cluster)', beta = 3, covariance = 4 }\n"
        "replicates = 2\ntargets = { arm = [1] }\nestimators = [{ name = 'm', formula = 'y ~ arm' }]",
        "design = 'cluster_trial'\ngenerate = 'nowhere.py:f'\nreplicates = 2\ntargets = 3\nestimators = 4",
    ],
)
def test_toml_of_other_kinds(text, tmp_path):
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(jaxlmm.JaxlmmError) as error:
        toml.read_study(tmp_path / "study.toml")
    assert str(error.value).startswith(str(tmp_path))
