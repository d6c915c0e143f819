"""Shares of variance in batches: those of single fits, of the rows that each response has."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxlmm
from jaxlmm.errors import DataError
from jaxlmm.inference.fixed_effects.in_batches import TestStatus


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(4)
    n = 90
    d = pd.DataFrame(
        {"g": np.arange(n) % 15, "h": rng.integers(0, 5, n), "x": rng.normal(size=n), "v": np.arange(n) // 15}
    )
    d["w"] = rng.uniform(0.5, 2.0, n)
    d["y"] = d.x + rng.normal(size=15)[d.g] + rng.normal(size=5)[d.h] + rng.normal(size=n)
    return d


def compared(data, formula, share=0.0, **options):
    """Shares of four responses, the last without any between groups, against single fits of the rows present."""
    fit = jaxlmm.lmm(f"y ~ x + {formula}", data, **options)
    rng = np.random.default_rng(7)
    Y = fit.simulate(4, seed=3)
    Y[3] -= pd.Series(Y[3]).groupby(data.g).transform("mean")
    Y[rng.random(Y.shape) < share] = np.nan
    tests = jaxlmm.Tests([[0.0, 1.0]], icc=True)
    found = fit.refit(Y, missing="drop", tests=tests).tests["icc"]
    assert set(fit.refit(Y[:1], missing="drop", tests=tests).tests) == {"satterthwaite", "icc"}
    for y, estimate, se, status in zip(Y, found.estimate, found.se, found.each_status, strict=True):
        rows = data.assign(y=y)[~np.isnan(y)]
        right = jaxlmm.lmm(f"y ~ x + {formula}", rows, **options).icc()
        np.testing.assert_allclose(estimate, right.estimate, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(se, right.se, rtol=1e-4)
        np.testing.assert_array_equal(status == TestStatus.OK, ~np.isnan(right.se))


def test_of_intercepts_with_missing_rows(data):
    compared(data, "(1 | g)", share=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("(x | g)", {}),
        ("(1 | g) + (1 | h)", {}),
        ("(1 | g)", {"weights": "w"}),
        ("(1 | g)", {"variance": "ident(h)"}),
        ("(1 | g) + exp(v | h)", {}),
        ("(1 | g)", {"relationship": {"g": np.eye(15) * 2.0 + 0.5}}),
    ],
)
def test_of_complete_responses(data, formula, options):
    compared(data, formula, **options)


def test_what_is_not_known_is_said(data):
    fit = jaxlmm.lmm("y ~ x + (x | g)", data)
    Y = np.tile(fit.model.y, (2, 1))
    Y[0, 0] = np.nan
    tests = jaxlmm.Tests([[0.0, 1.0]], icc=True)
    with pytest.raises(DataError, match="icc=True needs one design"):
        fit.refit(Y, missing="drop", tests=tests)
    with pytest.raises(DataError, match="no random parts"):
        jaxlmm.lmm("y ~ x", data, residual="iid()").refit(Y[1:], tests=tests)
    with pytest.raises(DataError, match="icc: found 'yes'"):
        jaxlmm.Tests([[0.0, 1.0]], icc="yes")
