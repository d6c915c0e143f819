"""What formulaic is given beside its own transforms: natural splines as R's, contrast matrices of one's own."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from formulaic.materializers.types import FactorValues
from formulaic.transforms import TRANSFORMS
from formulaic.transforms.contrasts import Contrasts
from formulaic.utils.stateful_transforms import stateful_transform

from ..errors import DataError
from ..formula import expressions
from ..frames.levels import number_label
from ..tolerances import REPEATED


def context() -> dict[str, Any]:
    """Everything, besides the columns, that an expression can name."""
    stateful = {name: TRANSFORMS[name] for name in sorted(expressions.STATEFUL - {"C", "ns"})}
    own = {"C": _coded, "ns": _natural_spline, "I": TRANSFORMS["I"], "contr": TRANSFORMS["contr"]}
    return {**expressions.ELEMENTWISE, **expressions.CONSTANTS, **stateful, **own}


class _Matrix(Contrasts):
    """Contrasts from a matrix, a row a level; where all columns are needed, an indicator for each level, as in R."""

    def __init__(self, rows: Any):
        try:
            self.rows = np.asarray(rows, dtype=np.float64)
        except (TypeError, ValueError):
            raise DataError("C(): the rows of a contrast matrix must be lists of numbers of one length") from None
        self.rows = self.rows.reshape(len(self.rows), -1)

    @Contrasts.override
    def _get_coding_matrix(self, levels: Sequence[Hashable], reduced_rank: bool = True, sparse: bool = False) -> Any:
        m = len(levels)
        if self.rows.shape != (m, m - 1):
            raise DataError(
                f"C(): found a contrast matrix with {len(self.rows)} rows and {self.rows.shape[1]} columns, expected a "
                f"row for each of {m} levels ({', '.join(map(str, levels))}) and {m - 1} columns"
            )
        full = np.column_stack([np.ones(m), self.rows])
        if np.linalg.matrix_rank(full, tol=REPEATED * np.linalg.norm(full)) < full.shape[1]:
            raise DataError("C(): columns of the contrast matrix are combinations of each other or of a constant")
        return self.rows if reduced_rank else np.eye(m)

    @Contrasts.override
    def get_coding_column_names(self, levels: Sequence[Hashable], reduced_rank: bool = True) -> Sequence[Hashable]:
        return list(range(1, self.rows.shape[1] + 1)) if reduced_rank else levels

    @Contrasts.override
    def get_coefficient_row_names(self, levels: Sequence[Hashable], reduced_rank: bool = True) -> Sequence[Hashable]:
        return list(levels)


def _coded(data: Any, contrasts: Any = None, levels: Any = None) -> Any:
    """``C(data, contrasts)``, contrasts also as a matrix."""
    base = getattr(contrasts, "base", None)
    if isinstance(base, str | int | float):
        known = list(getattr(data, "categories", getattr(getattr(data, "cat", None), "categories", np.unique(data))))
        known = known if levels is None else list(levels)
        if base not in known:
            shown = ", ".join(repr(k) if isinstance(k, str) else number_label(k) for k in known[:20])
            raise DataError(f"C(): the base is a level, not its number: found {base!r}, the levels are {shown}")
    return TRANSFORMS["C"](
        data, _Matrix(contrasts) if isinstance(contrasts, list | tuple) else contrasts, levels=levels
    )


@stateful_transform
def _natural_spline(
    x: Any, df: int | None = None, knots: Any = None, intercept: bool = False, lower: float | None = None,
    upper: float | None = None, _state: dict[str, Any] = {},  # noqa: B006 - formulaic replaces it
) -> Any:  # fmt: skip
    """The basis of R's ``splines::ns``: cubic between knots, linear beyond the range of the data or the bounds.

    B-splines whose second derivatives vanish at the ends: the null space of these two conditions, by QR.
    """
    from scipy.interpolate import BSpline

    x = np.asarray(x, dtype=np.float64)
    if not _state:
        low, high = float(x.min()) if lower is None else lower, float(x.max()) if upper is None else upper
        inner = max((1 if df is None else df) - 1 - intercept, 0)
        if knots is None:
            knots = np.quantile(x[(x >= low) & (x <= high)], np.linspace(0, 1, inner + 2)[1:-1])
        knots = np.sort(np.atleast_1d(np.asarray(knots, dtype=np.float64)))
        if len(knots) and not low < knots[0] <= knots[-1] < high:
            raise DataError(f"ns(): knots must lie between {low:g} and {high:g}; use fewer df, or give knots")
        _state["knots"] = np.concatenate([[low] * 4, knots, [high] * 4])
    every = _state["knots"]
    splines = BSpline(every, np.eye(len(every) - 4), 3)
    ends = every[[0, -1]]
    drop = 0 if intercept else 1
    curvature = splines(ends, 2)[:, drop:]
    null = np.linalg.qr(curvature.T, mode="complete")[0][:, 2:]
    inside = np.clip(x, *ends)
    values = splines(inside) + (x - inside)[:, None] * splines(inside, 1)
    basis = values[:, drop:] @ null
    columns = {j + 1: basis[:, j] for j in range(basis.shape[1])}
    return FactorValues(columns, kind="numerical", spans_intercept=bool(intercept), format="{name}[{field}]")
