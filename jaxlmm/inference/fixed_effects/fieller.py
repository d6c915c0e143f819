"""Ratios of linear functions of the coefficients, with intervals by Fieller's theorem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...arguments import shown
from ...distributions import two_sided
from ...errors import DataError
from ...frames.columns import make_frame
from ...frames.tables import Shown, Table, format_column, format_df, notes
from .linear import expression, hypotheses
from .wald import Wald


@dataclass(frozen=True, eq=False, repr=False)
class Ratio(Shown):
    """A ratio with its interval.

    Attributes
    ----------
    name, estimate, df, level : of the ratio, of the t test of numerator minus ratio times denominator, of the interval
    lower, upper : limits. Where they are in the wrong order, ``lower > upper``, all ratios but those between them are
        in the interval; infinite where no ratio is excluded
    label, note : the method in words, what to know
    """

    name: str
    estimate: float
    df: float
    lower: float
    upper: float
    level: float
    label: str
    note: str
    kind: str

    def frame(self) -> Any:
        """One row: term, estimate, df, lower, upper."""
        columns = {"estimate": self.estimate, "df": self.df, "lower": self.lower, "upper": self.upper}
        return make_frame(self.kind, {"term": [self.name], **{name: np.array([v]) for name, v in columns.items()}})

    def table(self) -> Table:
        """As it prints."""
        numbers = [format_column([v], 6)[0] if np.isfinite(v) else f"{v}" for v in (self.lower, self.upper)]
        row = (self.name, format_column([self.estimate], 6)[0], format_df([self.df])[0], *numbers)
        header = ("", "Ratio", "df", f"{100 * self.level:g}% from", "to")
        return Table("Ratio of coefficients (Fieller)", header, (row,), note=notes(f"Tests: {self.label}", self.note))


def fieller(wald: Wald, numerator: Any, denominator: Any, level: float, kind: str) -> Ratio:
    """See ``Fit.ratio``: all r for which the t test of ``a'beta - r b'beta = 0`` does not reject.

    Fieller (1954), Some problems in interval estimation, JRSS B 16, 175-185. Degrees of freedom are those of the test
    at the estimated ratio.
    """
    rows = []
    for what, given in (("numerator", numerator), ("denominator", denominator)):
        row = wald.checked(hypotheses(given, wald.names)[1])
        if len(row) != 1 or not np.isfinite(row).all() or not row.any():
            raise DataError(f"{what}: expected one function of the coefficients, found {shown(given)}")
        rows.append(row[0])
    L = np.array(rows)
    (a, b), V = L @ wald.coef, L @ wald.vcov @ L.T
    name = " / ".join(expression(row, wald.names) for row in rows)
    if np.isnan(wald.rows(L).estimate).any():
        nan = float("nan")
        return Ratio(name, nan, nan, nan, nan, level, wald.label, wald.note, kind)
    estimate = float(a / b) if b else float("nan")
    df = float(wald.rows(L[:1] - estimate * L[1:]).df[0])
    t = float(two_sided(level, df))
    # b^2 (1 - g) r^2 - 2 (a b - t^2 V01) r + a^2 - t^2 V00 <= 0
    second, first, zeroth = b**2 - t**2 * V[1, 1], a * b - t**2 * V[0, 1], a**2 - t**2 * V[0, 0]
    inside, note = first**2 - second * zeroth, ""
    if not np.isfinite(inside):
        lower = upper = np.nan
    elif inside < 0:
        lower, upper, note = -np.inf, np.inf, "the denominator may be zero: no ratio is excluded"
    else:
        ends = (first + np.array([-1.0, 1.0]) * np.sqrt(inside)) / second
        lower, upper = (ends.min(), ends.max()) if second > 0 else (ends.max(), ends.min())
        if second <= 0:
            note = "the denominator may be zero: the interval is all ratios but those between its limits"
    return Ratio(name, estimate, df, float(lower), float(upper), level, wald.label, notes(wald.note, note), kind)
