"""A table of linear functions of the coefficients: means, slopes, and contrasts of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ...arguments import check_choice, check_names, check_number, doors
from ...design.encoding import expression_columns
from ...distributions import check_level
from ...errors import DataError
from ...estimates.fitted import FitBase
from ...frames.columns import make_frame, number_label
from ...frames.tables import Shown, Table, format_column, format_df, format_p, format_t, notes
from ...tolerances import ESTIMABLE, correlation_of
from ..fixed_effects.wald import FTest, Wald
from ..hypotheses.alternatives import Alternative, alternative_of
from ..shares import marginal_variance
from .contrasts import ADJUSTMENT, Custom, coefficients, crossed
from .multiplicity import BOTH, METHODS, TWO_SIDED, adjusted, critical
from .scale import Scale, response_scale

_WORDS = {
    "tukey": "Tukey", "dunnett": "Dunnett (multivariate t)", "mvt": "multivariate t", "scheffe": "Scheffe",
    "bonferroni": "Bonferroni", "holm": "Holm (intervals: Bonferroni)", "sidak": "Sidak",
    "hochberg": "Hochberg (intervals: Bonferroni)", "hommel": "Hommel (intervals: Bonferroni)",
    "fdr": "Benjamini-Hochberg (intervals: Bonferroni)",
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
    side, null : what is tested; the null on the scale of the model
    shown : Scale or None
        What estimates and limits are shown on, where that is not the scale of the model.
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
    side: Alternative = BOTH
    null: float = 0.0
    shown: Scale | None = None

    if TYPE_CHECKING:  # hung on by `jaxlmm.results`

        def plot(self, ax: Any = None) -> Any:  # noqa: D102
            ...

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
            found = self.wald.rows(L, rhs=self.null - shift)
            estimate = np.where(np.isnan(found.estimate), np.nan, L @ self.wald.coef + shift)
            family = (found.df, correlation_of(L @ self.wald.vcov @ L.T), self.means, self.side)
            lower, upper = self.side.limits(estimate, critical(self.adjust, self.level, *family) * found.se)
            t = self.side.statistic(estimate - self.null, found.se)
            p = adjusted(self.adjust, t, *family)
            numbers = (estimate, found.se, found.df, lower, upper, t, p)
            for name, values in zip(names, numbers, strict=True):
                out[name][rows] = values
        return out if self.shown is None else self.shown.of_table(out)

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
        self, method: str | Custom | Sequence[str | Custom] = "eff", by: str | Sequence[str] | None = None,
        adjust: str | None = None, ref: int | str = 0, level: float | None = None, interaction: bool = False,
    ) -> EMMeans:  # fmt: skip
        """Contrasts between rows.

        On the response scale (``type="response"``) differences of logarithms are ratios, of logits odds ratios; those
        of other transforms stay on the scale of the model, see `regrid`.

        Parameters
        ----------
        method : "pairwise", "revpairwise", "trt.vs.ctrl", "consec", "eff", "del.eff", "helmert", "poly" or "identity";
            or a dict from names to coefficients, one a row within each combination of `by`; an array of them; or a
            function from the labels of the rows to such a dict
        by : labels within whose combinations rows are compared; default those of the means, () for none
        adjust : "tukey", "dunnett", "mvt", "scheffe", "bonferroni", "holm", "hochberg", "hommel", "sidak", "fdr" or
            "none", within combinations of `by`; default as in R's emmeans: Tukey for pairs, Dunnett for comparisons
            with a control, mvt for consecutive levels, fdr for effects, none for others
        ref : label or position of the control
        level : of the intervals, which are adjusted too
        interaction : contrasts of contrasts, the products of `method` for each label that is not in `by`, or of a list
            with a method for each of them; not adjusted unless asked for

        Raises
        ------
        DataError
            For an unknown method, control, label or adjustment, Tukey's adjustment of contrasts that are not pairs, and
            interactions of labels whose combinations are not all there.
        """
        by = self.by if by is None else (by,) if isinstance(by, str) else by
        check_names("by", by)
        for name in by:
            if name not in self.labels:
                raise DataError(f"by: found {name!r}, expected some of {', '.join(self.labels)}")
        pairs = isinstance(method, str) and method in ("pairwise", "revpairwise") and not interaction
        default = ADJUSTMENT.get(method, "none") if isinstance(method, str) and not interaction else "none"
        adjust = check_adjust(default if adjust is None else adjust, BOTH)
        if adjust == "tukey" and not pairs:
            raise DataError("adjust: 'tukey' is for all pairs; use 'mvt', which is exact for any contrasts")
        own = [name for name in self.labels if name not in by]
        rename = {"contrast": "contrast of"}
        apart = " / " if self._is_ratio else " - "
        made: list[str] = [f"{name} contrast" for name in own] if interaction else ["contrast"]
        labels: dict[str, list[Any]] = {name: [] for name in (*made, *(rename.get(name, name) for name in by))}
        rows, sizes = [], []
        texts = {name: texts_of(self.labels[name]) for name in own}
        for family in dataclasses.replace(self, by=tuple(by))._families():
            families = [[texts[n][i] for n in own] for i in family]
            if interaction:
                new, C = crossed(method, families, own, ref, apart)
            else:
                names, C = coefficients(method, [" ".join(texts) for texts in families], ref, apart)
                new = [[name] for name in names]
            inside = np.zeros((len(C), len(self.L)))
            inside[:, family] = C
            rows.append(inside)
            sizes.append(len(family))
            for name, column in zip(made, zip(*new, strict=True), strict=True):
                labels[name] += column
            for name in by:
                labels[rename.get(name, name)] += [self.labels[name][family[0]]] * len(new)
        C = np.concatenate(rows)
        used, gaps = C != 0, ~np.isfinite(self.functions).all(axis=1)
        functions = C @ np.where(gaps[:, None], 0.0, self.functions)
        functions[(used & gaps).any(axis=1)] = np.nan
        shown, note = self._scale_of(C)
        return dataclasses.replace(
            self, labels=labels, functions=functions, shift=C @ self.shift, adjust=adjust,
            by=tuple(rename.get(n, n) for n in by), level=self.level if level is None else check_level(level),
            title="Contrasts", means=max(sizes), side=BOTH, null=0.0, shown=shown, note=notes(self.note, note),
        )  # fmt: skip

    @property
    def _is_ratio(self) -> bool:
        """Whether differences are shown as ratios."""
        found = self.shown and (self.shown if self.shown.again else self.shown.differences)
        return bool(found and found.null == "1")

    def _scale_of(self, C: np.ndarray) -> tuple[Scale | None, str]:
        """The scale of contrasts, and what to say where they lose it."""
        if self.shown is None or self.shown.again:
            return self.shown, ""
        sums = C.sum(axis=1)
        if np.allclose(sums, 1.0):
            return self.shown, ""
        if np.allclose(sums, 0.0, atol=1e-12) and self.shown.differences is not None:
            return self.shown.differences, ""
        return None, "contrasts are on the scale of the model; regrid() has those of the response"

    def pairs(self, by: str | Sequence[str] | None = None, adjust: str = "tukey") -> EMMeans:
        """All differences of two rows, ``contrast("pairwise")``."""
        return self.contrast("pairwise", by=by, adjust=adjust)

    def regrid(self) -> EMMeans:
        """The same means, on the response scale, as numbers of their own: their contrasts are differences of them.

        Errors are by the delta method, intervals symmetric.
        """
        if self.shown is None:
            raise DataError("regrid: these are on the scale of the model; ask for type='response' first")
        known = np.isfinite(self.L).all(axis=1)
        eta = np.where(known, np.where(known[:, None], self.L, 0.0) @ self.wald.coef + self.shift, np.nan)
        value, slope = self.shown(eta), self.shown(eta, order=1)
        functions = self.functions * slope[:, None]
        shift = value - np.where(known[:, None], functions[:, : self.L.shape[1]], 0.0) @ self.wald.coef
        note = notes(self.note, "errors by the delta method")
        return dataclasses.replace(self, functions=functions, shift=shift, shown=None, null=0.0, side=BOTH, note=note)

    def against(
        self, null: float | None = None, side: str = "two-sided", delta: float = 0.0, adjust: str | None = None,
        level: float | None = None,
    ) -> EMMeans:  # fmt: skip
        """The same rows with other hypotheses: a null, one side, a margin.

        Parameters
        ----------
        null : what estimates are compared with, on the scale that is shown; default zero on the scale of the model,
            which is a ratio of 1
        side : "two-sided"; "greater" or ">"; "less" or "<": what is to be shown. Intervals of one side are one-sided
        delta : a margin. With it "two-sided" is equivalence (both one-sided tests), "greater" non-inferiority, "less"
            non-superiority. On the response scale of a logarithm a factor: 1.25 for ratios between 0.8 and 1.25
        adjust, level : see `contrast`; default as they are

        Raises
        ------
        DataError
            For a null that the scale does not have, and adjustments that have no one-sided form.
        """
        if null is not None:
            check_number("null", null, finite=True)
        at, margin = 0.0 if null is None else null, delta
        if self.shown is not None:
            at = 0.0 if null is None else self.shown.of_model("null", null)
            if delta and not self.shown.again:
                raise DataError("delta: margins around back-transformed means have no one size; use regrid() first")
            margin = abs(self.shown.of_model("delta", delta)) if delta else 0.0
        found = alternative_of(side, margin)
        if self.shown is not None and float(self.shown(np.array(at), order=1)) < 0:  # the larger the smaller
            found = found._replace(way=-found.way)
        alone = max(map(len, self._families()), default=0) < 2  # nothing to adjust for
        adjust = check_adjust(adjust or ("none" if alone else self.adjust), found)
        level = self.level if level is None else check_level(level)
        return dataclasses.replace(self, side=found, null=float(at), adjust=adjust, level=level)

    def confint(self, level: float | None = None, adjust: str | None = None, side: str = "two-sided") -> Any:
        """Confidence limits as a frame: labels, estimate, std_error, df, lower, upper; see `against`."""
        found = self.against(side=side, adjust=adjust, level=level)
        wanted = ("estimate", "std_error", "df", "lower", "upper")
        return make_frame(self.kind, {**self.labels, **{name: found._tests[name] for name in wanted}})

    def test(
        self,
        joint: bool = False,
        null: float | None = None,
        side: str | None = None,
        delta: float = 0.0,
        adjust: str | None = None,
    ) -> Any:
        """Tests as a frame: each row, or with `joint` an F test of all rows in each combination of `by`.

        Parameters
        ----------
        joint : all rows of a combination together
        null, side, delta, adjust : see `against`, of which this is a frame
        """
        asked = (null, side, adjust) != (None, None, None) or delta
        at = self.against(null, "two-sided" if side is None else side, delta, adjust) if asked else self
        if not joint:
            wanted = ("estimate", "std_error", "df", "statistic", "p_value")
            return make_frame(self.kind, {**self.labels, **{name: at._tests[name] for name in wanted}})
        if at.side != BOTH:
            raise DataError("joint: an F test has no side and no margin; use joint=False")
        columns: dict[str, list[Any]] = {name: [] for name in (*self.by, "num_df", "den_df", "statistic", "p_value")}
        for rows in self._families():
            usable = rows[np.isfinite(self.L[rows]).all(axis=1)]
            nothing = FTest(np.nan, 0.0, np.nan, np.nan)
            found = self.wald.joint_of(self.L[usable], rhs=at.null - self.shift[usable]) if usable.size else nothing
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
        first = "Estimate" if self.shown is None else self.shown.header
        header = (first, "Std. Error", "df", f"{100 * self.level:g}% from", "to", "t value", self.side.probability)
        columns = [texts_of(values) for values in self.labels.values()]
        columns += [format_column(numbers["estimate"], 6), format_column(numbers["std_error"])]
        columns += [format_df(numbers["df"])]
        columns += [format_column(numbers[name], 6) for name in ("lower", "upper")]
        columns += [format_t(numbers["statistic"])]
        columns += [[format_p(v) for v in numbers["p_value"]]]
        lines = [f"Tests: {self.wald.label}", self.wald.note, self.note, *self._hypothesis()]
        if np.isnan(self.L).any():
            lines.append("empty rows: the data cannot estimate them")
        size = max(map(len, self._families()), default=0)
        if self.adjust != "none" and size > 1:
            lines.append(f"adjusted for {size} comparisons: {_WORDS[self.adjust]}")
        rows = tuple(zip(*columns, strict=True))
        return Table(self.title, (*self.labels, *header), rows, labels=len(self.labels), note=notes(*lines))

    def _hypothesis(self) -> list[str]:
        """What is tested and shown, in words."""
        if self.shown is None:
            return [self.side.words(f"{self.null:.6g}", f"{self.side.delta:.6g}")]
        null = f"{float(self.shown(np.array(self.null))):.6g}"
        is_factor = self.shown.null == "1"
        side, delta = self.side, self.side.delta
        if float(self.shown(np.array(self.null), order=1)) < 0:  # as in `against`
            side = side._replace(way=-side.way)
        if is_factor:
            delta = float(np.exp(np.abs(np.log(self.shown(np.array(delta))))))
        words = side.words(null, f"{delta:.6g}", is_factor)
        return [self.shown.note, words if words else f"tests of {null}"]


def check_adjust(adjust: str, side: Alternative) -> str:
    """Refuse adjustments that there are not, or not for a side."""
    check_choice("adjust", adjust, METHODS)
    if side.tails == 1 and adjust in TWO_SIDED:
        raise DataError(f"adjust: {adjust!r} has two sides; with side= or delta= use 'mvt' or 'holm'")
    if side.way == 0 and side.delta and adjust in ("mvt", "dunnett"):
        raise DataError(f"adjust: {adjust!r} has no form for equivalence; use 'holm', or level= of intervals")
    return adjust


def texts_of(values: Sequence[Any]) -> list[str]:
    """Levels or numbers of a column as labels, rounded where that confuses none."""
    texts = [text_of(value) for value in values]
    if len(set(texts)) < len(set(values)):
        return [value if isinstance(value, str) else number_label(value) for value in values]
    return texts


def text_of(value: Any) -> str:
    """A level or a number as a label."""
    return value if isinstance(value, str) else number_label(round(value, 6) if isinstance(value, float) else value)


def scale_of(fit: FitBase) -> list[str]:
    """What says the scale of means, where the response is not a column as it stands."""
    formula = fit.frame.formula
    plain = expression_columns((formula.response,), formula) == (fit.frame.response,)
    return [] if plain else [f"on the scale of {fit.frame.response}"]


def type_of(fit: FitBase, kind: str, bias_adjust: bool | float = False) -> tuple[Scale | None, list[str]]:
    """What means are shown on by ``type=``, and what to say of it.

    Raises
    ------
    DataError
        For other words, and a response without a known inverse.
    """
    if kind not in ("link", "response"):
        raise DataError(f"type: found {kind!r}, expected 'link', the scale of the model, or 'response'")
    scale = response_scale(fit.frame.formula) if kind == "response" else None
    if scale is None:
        if not isinstance(bias_adjust, bool | np.bool_) or bias_adjust:
            raise DataError("bias_adjust: for means of a transformed response with type='response'")
        return None, scale_of(fit) if kind == "link" else []
    if isinstance(bias_adjust, bool | np.bool_) and not bias_adjust:
        return scale, []
    return scale.corrected(_spread(fit, bias_adjust)), []


def _spread(fit: FitBase, given: bool | float) -> float:
    """The standard deviation that means are adjusted for: given, or that of the rows around the fixed part."""
    if isinstance(given, bool | np.bool_):
        return float(np.sqrt(marginal_variance(fit)))
    if not 0.0 <= given < np.inf:
        raise DataError(f"bias_adjust: found {given!r}, expected True, False or a standard deviation")
    return float(given)
