"""A table of linear functions of the coefficients: means, slopes, and contrasts of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...arguments import doors
from ...design.encoding import expression_columns
from ...distributions import check_level
from ...errors import DataError
from ...frames.columns import make_frame, number_label
from ...frames.tables import Shown, Table, format_column, format_df, format_p, format_t, notes
from ...tolerances import ESTIMABLE
from ..fixed_effects.wald import FTest, Wald
from .contrasts import ADJUSTMENT, Custom, coefficients
from .multiplicity import METHODS, adjusted, critical

_WORDS = {
    "tukey": "Tukey", "dunnett": "Dunnett (multivariate t)", "mvt": "multivariate t", "bonferroni": "Bonferroni",
    "holm": "Holm (intervals: Bonferroni)", "sidak": "Sidak", "fdr": "Benjamini-Hochberg (intervals: Bonferroni)",
}  # fmt: skip


@doors
@dataclass(frozen=True, eq=False, repr=False)
class EMMeans(Shown):
    """Estimated marginal means, slopes, or contrasts of them: linear functions of the coefficients, one a row.

    Prints as a table; `frame` gives it as a data frame. Contrasts are of the same kind, so they have contrasts too
    (``means.pairs().contrast("pairwise", by="contrast")`` compares differences).

    Attributes
    ----------
    wald : the tests of the fit, with their degrees of freedom
    labels : dict of str to list
        What each row is: levels of predictors, names of contrasts.
    functions : (m, p + a) float64 array
        Its coefficients, and those of columns that are not in the model (see `Grid.extra`); NaN where there is no row.
    shift : (m,) float64 array
        What the offset adds.
    by : tuple of str
        Labels within whose combinations rows are compared and adjusted.
    level : float
        Of the intervals.
    adjust : str
        One of tukey, dunnett, mvt, bonferroni, holm, sidak, fdr, none.
    title : str
    kind : str
        Library of data frames.
    note : str
    means : int
        How many means the contrasts of each family are between.
    """

    wald: Wald
    labels: dict[str, list[Any]]
    functions: np.ndarray
    shift: np.ndarray
    by: tuple[str, ...]
    level: float
    adjust: str
    title: str
    kind: str
    note: str = ""
    means: int = 0

    # -- numbers

    @cached_property
    def L(self) -> np.ndarray:
        """Coefficients (m, p); NaN in rows that the data cannot estimate."""
        p = len(self.wald.coef)
        unknown = np.any(np.abs(self.functions[:, p:]) > ESTIMABLE, axis=1)
        return np.where(unknown[:, None], np.nan, self.functions[:, :p])

    @cached_property
    def _tests(self) -> dict[str, np.ndarray]:
        """Columns of numbers (m,): NaN where a row cannot be estimated."""
        names = ("estimate", "std_error", "df", "lower", "upper", "statistic", "p_value")
        out = {name: np.full(len(self.L), np.nan) for name in names}
        for rows in self._families():
            rows = rows[np.isfinite(self.L[rows]).all(axis=1)]
            if not rows.size:
                continue
            L, shift = self.L[rows], self.shift[rows]
            found = self.wald.rows(L, rhs=-shift)
            estimate = L @ self.wald.coef + shift
            family = (found.df, self._correlation(L), self.means)
            half = critical(self.adjust, self.level, *family) * found.se
            p = adjusted(self.adjust, found.statistic, *family)
            numbers = (estimate, found.se, found.df, estimate - half, estimate + half, found.statistic, p)
            for name, values in zip(names, numbers, strict=True):
                out[name][rows] = values
        return out

    def _correlation(self, L: np.ndarray) -> np.ndarray:
        cov = L @ self.wald.vcov @ L.T
        se = np.sqrt(np.maximum(np.diagonal(cov), 1e-300))
        return cov / np.outer(se, se)

    def _families(self) -> list[np.ndarray]:
        """Positions of the rows of each combination of the labels in `by`, in order."""
        found: dict[tuple[Any, ...], list[int]] = {}
        for i in range(len(self.L)):
            found.setdefault(tuple(self.labels[name][i] for name in self.by), []).append(i)
        return [np.array(rows) for rows in found.values()]

    @property
    def vcov(self) -> np.ndarray:
        """Covariance matrix (m, m) of the estimates."""
        return self.L @ self.wald.vcov @ self.L.T

    # -- contrasts and tests

    def contrast(
        self, method: str | Custom = "eff", by: str | Sequence[str] | None = None, adjust: str | None = None,
        ref: int | str = 0, level: float | None = None,
    ) -> EMMeans:  # fmt: skip
        """Contrasts between rows.

        Parameters
        ----------
        method : "pairwise", "revpairwise", "trt.vs.ctrl", "consec", "eff" or "poly"; or a dict from names to
            coefficients, one a row within each combination of `by`; or an array of them
        by : labels within whose combinations rows are compared; default those of the means, () for none
        adjust : "tukey", "dunnett", "mvt", "bonferroni", "holm", "sidak", "fdr" or "none", within combinations of `by`;
            default as in R's emmeans: Tukey for pairs, Dunnett for comparisons with a control, mvt for consecutive
            levels, fdr for effects, none for others
        ref : label or position of the control
        level : of the intervals, which are adjusted too

        Raises
        ------
        DataError
            For an unknown method, control, label or adjustment, and Tukey's adjustment of contrasts that are not pairs.
        """
        by = self.by if by is None else (by,) if isinstance(by, str) else tuple(by)
        for name in by:
            if name not in self.labels:
                raise DataError(f"by: found {name!r}, expected some of {', '.join(self.labels)}")
        pairs = isinstance(method, str) and method in ("pairwise", "revpairwise")
        default = ADJUSTMENT.get(method, "none") if isinstance(method, str) else "none"
        adjust = default if adjust is None else adjust
        if adjust not in METHODS:
            raise DataError(f"adjust: found {adjust!r}, expected one of {', '.join(METHODS)}")
        if adjust == "tukey" and not pairs:
            raise DataError("adjust: 'tukey' is for all pairs; use 'mvt', which is exact for any contrasts")
        own = [name for name in self.labels if name not in by]
        rename = {"contrast": "contrast of"}
        labels: dict[str, list[Any]] = {"contrast": [], **{rename.get(name, name): [] for name in by}}
        rows, sizes = [], []
        texts = {name: texts_of(self.labels[name]) for name in own}
        for family in dataclasses.replace(self, by=by)._families():
            names = [" ".join(texts[n][i] for n in own) for i in family]
            new, C = coefficients(method, names, ref)
            inside = np.zeros((len(C), len(self.L)))
            inside[:, family] = C
            rows.append(inside)
            sizes.append(len(family))
            labels["contrast"] += new
            for name in by:
                labels[rename.get(name, name)] += [self.labels[name][family[0]]] * len(new)
        C = np.concatenate(rows)
        used, gaps = C != 0, ~np.isfinite(self.functions).all(axis=1)
        functions = C @ np.where(gaps[:, None], 0.0, self.functions)
        functions[(used & gaps).any(axis=1)] = np.nan
        return dataclasses.replace(
            self, labels=labels, functions=functions, shift=C @ self.shift, adjust=adjust,
            by=tuple(rename.get(n, n) for n in by), level=self.level if level is None else check_level(level),
            title="Contrasts", means=max(sizes),
        )  # fmt: skip

    def pairs(self, by: str | Sequence[str] | None = None, adjust: str = "tukey") -> EMMeans:
        """All differences of two rows, ``contrast("pairwise")``."""
        return self.contrast("pairwise", by=by, adjust=adjust)

    def test(self, joint: bool = False) -> Any:
        """Tests of zero as a frame: each row, or with `joint` an F test of all rows in each combination of `by`."""
        if not joint:
            wanted = ("estimate", "std_error", "df", "statistic", "p_value")
            return make_frame(self.kind, {**self.labels, **{name: self._tests[name] for name in wanted}})
        columns: dict[str, list[Any]] = {name: [] for name in (*self.by, "num_df", "den_df", "statistic", "p_value")}
        for rows in self._families():
            usable = rows[np.isfinite(self.L[rows]).all(axis=1)]
            nothing = FTest(np.nan, 0.0, np.nan, np.nan)
            found = self.wald.joint_of(self.L[usable], rhs=-self.shift[usable]) if usable.size else nothing
            values = (found.num_df, found.den_df, found.statistic, found.p)
            for name, value in zip(columns, [*(self.labels[n][rows[0]] for n in self.by), *values], strict=True):
                columns[name].append(value)
        return make_frame(self.kind, columns)

    # -- tables

    def frame(self) -> Any:
        """Data frame: labels, estimate, std_error, df, lower, upper, statistic, p_value."""
        return make_frame(self.kind, {**self.labels, **self._tests})

    def table(self) -> Table:
        """As it prints."""
        numbers = self._tests
        header = ("Estimate", "Std. Error", "df", f"{100 * self.level:g}% from", "to", "t value", "Pr(>|t|)")
        columns = [texts_of(values) for values in self.labels.values()]
        columns += [format_column(numbers["estimate"], 6), format_column(numbers["std_error"])]
        columns += [format_df(numbers["df"])]
        columns += [format_column(numbers[name], 6) for name in ("lower", "upper")]
        columns += [format_t(numbers["statistic"])]
        columns += [[format_p(v) for v in numbers["p_value"]]]
        lines = [f"Tests: {self.wald.label}", self.wald.note, self.note]
        if np.isnan(self.L).any():
            lines.append("empty rows: the data cannot estimate them")
        size = max(map(len, self._families()), default=0)
        if self.adjust != "none" and size > 1:
            lines.append(f"adjusted for {size} comparisons: {_WORDS[self.adjust]}")
        rows = tuple(zip(*columns, strict=True))
        return Table(self.title, (*self.labels, *header), rows, labels=len(self.labels), note=notes(*lines))


def texts_of(values: Sequence[Any]) -> list[str]:
    """Levels or numbers of a column as labels, rounded where that confuses none."""
    texts = [text_of(value) for value in values]
    if len(set(texts)) < len(set(values)):
        return [value if isinstance(value, str) else number_label(value) for value in values]
    return texts


def text_of(value: Any) -> str:
    """A level or a number as a label."""
    return value if isinstance(value, str) else number_label(round(value, 6) if isinstance(value, float) else value)


def scale_of(fit: Any) -> list[str]:
    """What says the scale of means, where the response is not a column as it stands."""
    formula = fit.frame.formula
    plain = expression_columns((formula.response,), formula) == (fit.frame.response,)
    return [] if plain else [f"on the scale of {fit.frame.response}"]
