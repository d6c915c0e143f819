"""Which models the crossed engine can do, and how it is prepared."""

from __future__ import annotations

from typing import Any

from ..base import Rows, Statistics
from ..grouped.engine import Grouped
from ..layout import factors_of, is_plain, lacks_factors, lacks_terms
from ..protocol import Engine
from ..strata import Strata, VaryingStrata, strata_of, varying_strata
from .engine import Crossed, VaryingCrossed
from .layout import Crossing, cross, rest_of


class CrossedEngine(Engine):
    """Several factors, of which the one with the most effects is eliminated level by level."""

    name = "crossed"
    by_level = keeps_levels = True

    def can(self, model: Any) -> str | None:
        """Terms of several factors."""
        return lacks_terms(model) or lacks_factors(model)

    def preference(self, model: Any) -> int | None:
        """Where not too many effects remain."""
        if not is_plain(model) or lacks_factors(model):
            return None
        rest = rest_of(*factors_of(model.terms))
        return 0 if rest.is_moderate else 1 if rest.is_possible else None

    def layout(self, model: Any) -> Crossing:
        """See `Crossing`."""
        return cross(*factors_of(model.terms), len(model.y))

    def prepare(self, rows: Rows, model: Any, compact: bool = True, varying: int = 1) -> Statistics:
        """Statistics of concrete rows, in balance `Strata`; of traced ones those of the grouped engine."""
        if compact and (found := strata_of(rows, model)) is not None:
            return found
        if rows.is_concrete:
            return Crossed.prepare(rows, model.layout, compact)
        return Grouped.prepare(rows, model.layout.for_groups, compact, varying)

    def varying(self, rows: Rows, model: Any, statistics: Any, count: int) -> VaryingCrossed | VaryingStrata:
        """See `VaryingCrossed`."""
        if isinstance(statistics, Strata):
            return varying_strata(rows, model, statistics)
        return VaryingCrossed(rows.U, rows.Z, model.layout)
