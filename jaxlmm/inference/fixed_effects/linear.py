"""General linear hypotheses ``L beta = rhs`` about the coefficients, as users state and read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...arguments import numbers_of, shown
from ...distributions import check_level
from ...errors import DataError
from ...frames.alignment import refuse_masked
from ...frames.columns import make_frame
from ...frames.tables import Shown, Table, format_column, format_df, format_p, format_t, notes
from ..hypotheses.alternatives import Alternative, alternative_of
from .wald import FTest, RowTests, Wald


@dataclass(frozen=True, eq=False, repr=False)
class LinearTest(Shown):
    """Tests of the rows of ``L beta = rhs``, one by one and together.

    Attributes
    ----------
    names (m,), L (m, p), rhs (m,) : the hypotheses
    rows : `RowTests`, arrays (m,): estimate, se, df, statistic (t), p;  limits (m, 2) at `level`
    joint : `FTest`: statistic (F), num_df, den_df, p
    label : the method in words;  note : what to know about it, or empty
    side : what the rows are tested for; the joint test has both sides and no margin
    """

    names: tuple[str, ...]
    L: np.ndarray
    rhs: np.ndarray
    rows: RowTests
    joint: FTest
    limits: np.ndarray
    level: float
    label: str
    note: str
    kind: str = field(repr=False, default="dict")
    side: Alternative = field(repr=False, default=Alternative())

    def frame(self) -> Any:
        """One row a hypothesis: hypothesis, estimate, std_error, df, statistic, p_value, lower, upper."""
        r = self.rows
        columns: dict[str, Any] = {
            "hypothesis": list(self.names), "estimate": r.estimate, "std_error": r.se, "df": r.df,
            "statistic": r.statistic, "p_value": r.p, "lower": self.limits[:, 0], "upper": self.limits[:, 1],
        }  # fmt: skip
        return make_frame(self.kind, columns)

    def table(self) -> Table:
        """As text, with the joint test below."""
        r, j = self.rows, self.joint
        cells = [format_column(x) for x in (r.estimate, r.se)] + [format_df(r.df), format_t(r.statistic)]
        body = tuple(zip(self.names, *cells, map(format_p, r.p), strict=True))
        joint = f"F({j.num_df:g}, {format_df([j.den_df])[0]}) = {j.statistic:.4g}, p = {format_p(j.p)}"
        header = ("Hypothesis", "Estimate", "Std. Error", "df", "t value", self.side.probability)
        words = self.side.words("rhs", f"{self.side.delta:.6g}") if self.side != Alternative() else ""
        return Table("Linear hypotheses:", header, body, note=notes(words, joint, f"Tests: {self.label}", self.note))


def linear_test(
    wald: Wald, L: Any, rhs: Any, level: float, kind: str, side: str = "two-sided", delta: float = 0.0
) -> LinearTest:
    """Test hypotheses given as rows, coefficients by name, or weights of coefficients by name; see ``Fit.test``."""
    refuse_masked("L", L)
    refuse_masked("rhs", rhs)
    names, L = hypotheses(L, wald.names)
    L = wald.checked(L)
    if not len(L):
        raise DataError("L: expected at least one row, found none")
    if not np.all(np.isfinite(L)) or not np.all(L.any(1)):
        raise DataError("L: found rows of zeros, or weights that are not finite")
    values = numbers_of("rhs", rhs)
    if not np.all(np.isfinite(values)):
        raise DataError(f"rhs: found {shown(rhs)}, expected finite numbers")
    if values.ndim > 1 or (values.ndim == 1 and len(values) != len(L)):
        raise DataError(f"rhs: expected a number or one for each of {len(L)} rows of L, found shape {values.shape}")
    values = np.broadcast_to(values, (len(L),))
    rows, way = wald.rows(L, values), alternative_of(side, delta)
    if way != Alternative():
        statistic = way.statistic(rows.estimate - values, rows.se)
        rows = rows._replace(statistic=statistic, p=way.p(statistic, rows.df))
    names = names or tuple(expression(row, wald.names) for row in L)
    names = tuple(f"{name} = {v:g}" if v else name for name, v in zip(names, values, strict=True))
    limits = np.stack(way.limits(rows.estimate, way.reach(check_level(level), rows.df) * rows.se), -1)
    return LinearTest(names, L, values, rows, wald.joint_of(L, values), limits, level, wald.label, wald.note, kind, way)


def hypotheses(L: Any, coefficients: tuple[str, ...]) -> tuple[tuple[str, ...], Any]:
    """Names and rows of hypotheses that may be given by names of coefficients."""
    if isinstance(L, str):
        L = [L]
    if isinstance(L, Mapping):
        if all(np.isscalar(w) for w in L.values()):
            return (), [_row(L, coefficients)]
        return tuple(map(str, L)), [_row(w, coefficients) if isinstance(w, Mapping) else w for w in L.values()]
    return (tuple(L), [_row({name: 1.0}, coefficients) for name in L]) if has_names(L) else ((), L)


def has_names(L: Any) -> bool:
    """Whether hypotheses are given by names of coefficients."""
    listed = isinstance(L, Sequence) and len(L) > 0 and all(isinstance(name, str) for name in L)
    return isinstance(L, str | Mapping) or listed


def _row(weights: Mapping[str, float], coefficients: tuple[str, ...]) -> np.ndarray:
    unknown = [name for name in weights if name not in coefficients]
    if unknown:
        raise DataError(f"L: found coefficient {unknown[0]!r}, expected some of {', '.join(coefficients)}")
    return numbers_of("L", [weights.get(name, 0.0) for name in coefficients], "numbers as weights of coefficients")


def expression(row: np.ndarray, names: tuple[str, ...]) -> str:
    """``a - 0.5 b`` for a row."""
    parts = []
    for w, name in zip(row, names, strict=True):
        if w:
            size = "" if abs(w) == 1 else f"{abs(w):.4g} "
            parts.append(f"{'-' if w < 0 else '+'} {size}{name}")
    text = " ".join(parts) or "0"
    return text[2:] if text.startswith("+ ") else text
