"""Printed tables: significant digits of every number, notes once, and LaTeX and Markdown of every result."""

from __future__ import annotations

import numpy as np
import pytest

import jaxlmm
from cases import load_data
from jaxlmm.frames.tables import Table, format_column, format_p, format_t, notes


def shown(values, digits=4):
    return [cell.strip() for cell in format_column(values, digits)]


@pytest.mark.parametrize(
    ("values", "digits", "cells"),
    [
        ([3007.23, 17.403, 20.851], 4, ["3007", "17.40", "20.85"]),  # not 17 and 21
        ([251.405, 10.467, 1.047e-4], 6, ["251.405", "10.467", "0.000104700"]),  # not 0.000
        ([6.825, 2.013e-5], 4, ["6.825", "2.013e-05"]),
        ([612.1, 0.0, 1.2e-9, np.nan], 4, ["612.1", "0", "1.200e-09", ""]),  # zero is told from what is not
        ([1.5e12, -3.0, np.inf], 4, ["1.500e+12", "-3.000", "inf"]),
        ([], 4, []),
    ],
)
def test_every_number_has_its_digits(values, digits, cells):
    assert shown(values, digits) == cells


@pytest.mark.parametrize("digits", [4, 6])
def test_three_digits_at_least_at_any_size(digits):
    rng = np.random.default_rng(0)
    values = rng.normal(size=200) * 10.0 ** rng.uniform(-14, 14, 200)
    np.testing.assert_allclose([float(cell) for cell in shown(values, digits)], values, rtol=5e-3)
    lengths = {len(cell) - cell.index(".") for cell in format_column(values, digits) if "e" not in cell and "." in cell}
    assert len(lengths) == 1  # points under each other


def test_small_p_values_and_statistics_have_digits_too():
    assert [format_p(p) for p in (0.86543, 0.0103, 0.0012345, 7e-5, 1e-20)] == [
        "0.8654", "0.0103", "0.00123", "7.00e-05", "<1e-16",
    ]  # fmt: skip
    assert format_t([36.8381, 0.01234, 0.0, np.nan]) == ["36.838", "0.0123", "0.000", ""]


def test_notes_are_said_once():
    assert notes("a", "", "b", "a") == "a\nb"


def test_latex_and_markdown_escape_what_they_must():
    table = Table("F:", ("", "100%"), (("a|b & c_d", "1.0 "), ("~x^2", "2")), note="p < 1\n$")
    assert table.markdown() == "F:\n\n|  | 100% |\n| --- | --: |\n| a&#124;b & c_d | 1.0 |\n| ~x^2 | 2 |\n\np < 1\n$"
    names = Table("", ("",), (("_a_ < b",), ("<c>d",)), note="y ~ A*B + x*z\n`a b`").markdown()
    assert names.endswith("| \\_a\\_ < b |\n| &lt;c>d |\n\ny ~ A\\*B + x\\*z\n\\`a b\\`")
    latex = table.latex()
    assert r"a\textbar{}b \& c\_d & 1.0 \\" in latex and r"\textasciitilde{}x\textasciicircum{}2 & 2 \\" in latex
    assert r"\begin{tabular}{lr}" in latex and r"100\%" in latex and r"p \textless{} 1 \\ \$" in latex


def test_every_result_has_latex_and_markdown():
    data = load_data("sleepstudy_reml")
    fit = jaxlmm.lmm("log(Reaction) ~ Days + (1 | Subject)", data)
    means = fit.emmeans("1")
    batch = fit.refit(fit.model.y[None])
    for result in (fit, fit.summary(), fit.varcorr(), fit.anova(), means, fit.test([0, 1]), fit.icc(), batch):
        assert result.latex().count(r"\begin{table}") >= 1
        assert r"\toprule" in result.latex() and "| --- |" in result.markdown()
    assert "on the scale of log(Reaction)" in str(means)
    assert "scale" not in str(jaxlmm.lmm("Reaction ~ Days + (1 | Subject)", data).emmeans("1"))


def test_differences_of_differences_are_in_parentheses():
    rng = np.random.default_rng(1)
    data = {"a": [*"pq"] * 20, "v": [*"uuvv"] * 10, "g": np.arange(40) // 4, "y": rng.normal(size=40)}
    pairs = jaxlmm.lmm("y ~ a * v + (1 | g)", data).emmeans("a | v").pairs()
    assert pairs.contrast("pairwise", by=()).labels["contrast"] == ["(p - q u) - (p - q v)"]
