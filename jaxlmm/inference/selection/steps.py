"""Backward elimination: random effects, then fixed effects, that the data do not ask for are left out one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...distributions import check_level
from ...estimates.fitted import FitBase
from ...formula.update import updated
from ...frames.columns import make_frame
from ...frames.tables import Shown, Table, format_p
from .terms import ranova, reductions, smaller_fit


@dataclass(frozen=True, eq=False, repr=False)
class Steps(Shown):
    """What was left out, in order, and the fit that remains; prints as a table.

    Attributes
    ----------
    fit : the last
    kinds, terms, p : (m,) "random" or "fixed", what was left out, its p value
    formulas : (m,) that remained
    """

    fit: FitBase
    kinds: tuple[str, ...]
    terms: tuple[str, ...]
    p: np.ndarray
    formulas: tuple[str, ...]
    note: str
    kind: str

    def frame(self) -> Any:
        """Data frame: kind, term, p_value, formula."""
        columns: dict[str, Any] = {"kind": list(self.kinds), "term": list(self.terms), "p_value": self.p}
        return make_frame(self.kind, {**columns, "formula": list(self.formulas)})

    def table(self) -> Table:
        """As it prints."""
        rows = tuple(zip(self.kinds, self.terms, map(format_p, self.p), self.formulas, strict=True))
        left = f"left: {self.fit.frame.formula.text}"
        return Table(
            "Backward elimination:", ("", "left out", "p", "what remains"), rows, labels=2, note=f"{left}\n{self.note}"
        )


def step(
    fit: FitBase, alpha_random: float = 0.1, alpha_fixed: float = 0.05, df: str = "satterthwaite", **options: Any
) -> Steps:
    """See ``Fit.step``."""
    check_level(alpha_random, "alpha_random")
    check_level(alpha_fixed, "alpha_fixed")
    left_out: list[tuple[str, str, float, str]] = []
    while left := reductions(fit):
        found = ranova(fit, left=left)
        p = np.nan_to_num(found.p[1:], nan=0.0)  # what cannot be tested stays
        if not p.max() > alpha_random:
            break
        label, formula = left[int(np.argmax(p))]
        fit = smaller_fit(fit, formula)
        left_out.append(("random", label, float(p.max()), formula))
    while True:
        tests = fit.anova(3, df=df, **options).frame()
        own = fit.frame.formula
        terms = [":".join(t) for t in own.side.terms if not any(set(t) < set(other) for other in own.side.terms)]
        droppable = {own.readable(term): own.written(term) for term in terms}
        p_of = dict(zip(map(str, tests["term"]), np.asarray(tests["p_value"], float), strict=True))
        found_p = {term: p_of[term] for term in droppable if term in p_of and np.isfinite(p_of[term])}
        if not found_p or max(found_p.values()) <= alpha_fixed:
            break
        term = max(found_p, key=lambda name: found_p[name])
        formula = updated(own.text, f". ~ . - {droppable[term]}")
        fit = smaller_fit(fit, formula)
        left_out.append(("fixed", term, found_p[term], formula))
    kinds, names, values, formulas = zip(*left_out, strict=True) if left_out else ((), (), (), ())
    note = f"p above {alpha_random:g} (random effects, likelihood ratio) or {alpha_fixed:g} (fixed, F by {df})"
    return Steps(fit, tuple(kinds), tuple(names), np.array(values), tuple(formulas), note, fit.frame.kind)
