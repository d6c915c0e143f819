"""F tests of the terms of the fixed part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...estimates.fitted import FitBase
from ...frames.columns import make_frame
from ...frames.tables import Shown, Table, format_column, format_df, format_p, notes
from ..hypotheses.coding import TYPES, term_hypotheses
from .wald import FTest, Wald


@dataclass(frozen=True, eq=False, repr=False)
class Anova(Shown):
    """F tests of terms; prints as a table.

    Attributes
    ----------
    hypotheses : dict of str to (r, p) array
        Rows L of each term; the test is of ``L beta = 0``.
    tests : tuple of FTest
    wald : the tests of the fit, with their degrees of freedom
    type : 1, 2 or 3
    kind : str
        Library of data frames.
    note : str
    """

    hypotheses: dict[str, np.ndarray]
    tests: tuple[FTest, ...]
    wald: Wald
    type: int
    kind: str
    note: str = ""

    def frame(self) -> Any:
        """Data frame: term, statistic (F), num_df, den_df, p_value."""
        columns: dict[str, Any] = {"term": list(self.hypotheses)}
        for i, name in enumerate(("statistic", "num_df", "den_df", "p_value")):
            columns[name] = np.array([test[i] for test in self.tests])
        return make_frame(self.kind, columns)

    def table(self) -> Table:
        """As it prints."""
        columns = [
            list(self.hypotheses),
            [f"{t.num_df:.0f}" for t in self.tests],
            format_df([t.den_df for t in self.tests]),
            format_column([t.statistic for t in self.tests]),
            [format_p(t.p) for t in self.tests],
        ]
        lines = [f"Tests: {self.wald.label}", self.wald.note, self.note]
        if not self.hypotheses:
            lines.append("nothing to test: the fixed part is an intercept")
        empty = [term for term, L in self.hypotheses.items() if not len(L)]
        if empty:
            lines.append(f"nothing to test, combinations of other terms: {', '.join(empty)}")
        rows = tuple(zip(*columns, strict=True))
        title = f"Type {'I' * self.type} tests of fixed effects:"
        return Table(title, ("", "num df", "den df", "F value", "Pr(>F)"), rows, note=notes(*lines))


def anova(
    fit: FitBase, type: int | str = 3, df: str = "satterthwaite", definition: str = "sas", **options: Any
) -> Anova:  # fmt: skip
    """F tests of the terms of the fixed part; see `term_hypotheses` for the types and ``Fit.test`` for `df`.

    Raises
    ------
    DataError
        For another type, definition or method.
    """
    hypotheses = term_hypotheses(fit, type, definition)
    wald = fit.wald(df=df, **options)
    nothing = FTest(np.nan, 0.0, np.nan, np.nan)
    tests = tuple(wald.joint(L) if len(L) else nothing for L in hypotheses.values())
    dropped = set(fit.frame.aliased) & set(fit.frame.encoder.names)  # columns; not terms without any
    empty = TYPES[type] == 3 and any(":" in name for name in dropped)
    notes = ["some cells of an interaction are empty: type III hypotheses depend on which"] if empty else []
    if TYPES[type] > 1 and len(hypotheses) > 1 and not fit.frame.formula.side.intercept:
        own, other = ("SAS", "lmertest") if definition == "sas" else ("lmerTest", "sas")
        notes.append(f"without an intercept: hypotheses are those of {own}; definition={other!r} gives others")
    return Anova(hypotheses, tests, wald, TYPES[type], fit.frame.kind, "\n".join(notes))
