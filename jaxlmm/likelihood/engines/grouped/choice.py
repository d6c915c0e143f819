"""Which models the grouped engine can do, and how it is prepared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ....errors import DataError
from ..base import Lanes, Rows
from ..crossed.layout import rest_of
from ..layout import Layout, factors_of, is_plain, lacks_terms, plan
from ..protocol import Engine
from ..strata import Strata, VaryingStrata, strata_of, varying_strata
from .batches import Varying, stacked
from .engine import Grouped
from .masked import Masked
from .nested import Components, in_rows


class GroupedEngine(Engine):
    """Terms with independent levels and independent residuals, by group."""

    name = "grouped"
    by_level = True

    def can(self, model: Any) -> str | None:
        """Terms with independent levels."""
        return lacks_terms(model)

    def preference(self, model: Any) -> int | None:
        """One factor, or few effects besides; else many in small components that do not meet."""
        if not is_plain(model):
            return None
        rest = rest_of(*factors_of(model.terms))
        if rest.is_short or rest.is_moderate:
            return 0 if rest.is_short else None
        try:
            self.layout(model)
        except DataError:
            return None
        return 0

    def layout(self, model: Any) -> Layout:
        """See `Layout`."""
        return plan(*factors_of(model.terms), len(model.y))

    def prepare(self, rows: Rows, model: Any, compact: bool = True, varying: int = 1) -> Grouped | Strata:
        """See `Grouped.prepare`; of several factors in balance `Strata`, in many small components `Components`."""
        if compact and (found := strata_of(rows, model)) is not None:
            return found
        grouped = Grouped.prepare(rows, model.layout, compact, varying)
        order = self._in_rows(rows, model) if compact and rows.is_concrete else None
        return grouped if order is None else Components.of(grouped, order)

    @staticmethod
    def _in_rows(rows: Rows, model: Any) -> np.ndarray | None:
        layout = model.layout
        effects = sum(rows.Z[t].shape[1] * c for t, c in zip(layout.outer, layout.copies, strict=True))
        return in_rows(layout.parent, layout.components, effects) if layout.outer else None

    def varying(self, rows: Rows, model: Any, statistics: Any, count: int) -> Varying | VaryingStrata:
        """See `Varying`."""
        if isinstance(statistics, Strata):
            return varying_strata(rows, model, statistics)
        order = self._in_rows(rows, model) if isinstance(statistics, Components) else None
        return Varying(rows.U, rows.Z, model.layout, count, len(statistics.weight), order)

    def factor(self, model: Any) -> tuple[np.ndarray, int] | None:
        """That of all terms."""
        return None if model.layout.outer else (model.layout.codes, model.layout.groups)

    def stacked(self, model: Any, lanes: Lanes) -> Iterator[tuple[np.ndarray, Grouped]]:
        """Data sets of one padded number of groups together."""
        yield from stacked(lanes)

    def masked(self, rows: Rows, model: Any) -> Masked | None:
        """With one factor."""
        return None if model.layout.outer else Masked(rows.U, rows.Z, model.layout)

    def draws(self, model: Any) -> bool:
        """With one factor."""
        return self.factor(model) is not None
