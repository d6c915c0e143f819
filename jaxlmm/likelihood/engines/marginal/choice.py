"""Which models the marginal engine can do, and how it is prepared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ....errors import DataError
from ..base import Lanes, Rows
from ..dense import MAX_DENSE_ROWS
from ..protocol import Engine
from .engine import Marginal
from .layout import MOST_LEVELS, Clusters, arrange
from .statistics import VaryingClusters, repeated

PATTERNS = 32  # of visits that a data set is expected to have at most


class MarginalEngine(Engine):
    """Any V, by clusters of dependent rows."""

    name = "marginal"

    def preference(self, model: Any) -> int | None:
        """Where no other engine is asked."""
        return 3

    def inverts_residual(self, model: Any) -> bool:
        """Where terms cross clusters: they are eliminated with it."""
        return bool(model.layout.outer)

    def layout(self, model: Any) -> Clusters:
        """See `Clusters`; refuses clusters that are too large."""
        found = arrange(model.random, model.residual, len(model.y))
        largest = max((bucket.row.shape[1] for bucket in found.buckets), default=0)
        if largest > MAX_DENSE_ROWS:
            raise DataError(
                f"engine: {largest} rows depend on each other through a residual structure, a field or a "
                f"relationship matrix, more than {MAX_DENSE_ROWS}, above which their covariance matrix is too large"
            )
        return found

    def prepare(self, rows: Rows, model: Any, compact: bool = True, varying: int = 1) -> Marginal:
        """See `Marginal.prepare`."""
        return Marginal.prepare(rows, (*model.random, model.residual), model.layout, compact)

    def varying(self, rows: Rows, model: Any, statistics: Any, count: int) -> VaryingClusters:
        """See `VaryingClusters`."""
        return VaryingClusters(rows.U, statistics.buckets)

    def factor(self, model: Any) -> tuple[np.ndarray, int] | None:
        """The subjects of a residual structure over levels, without terms."""
        residual = model.residual
        if model.random or residual.group is None or residual.coords is not None or residual.dim > MOST_LEVELS:
            return None
        return residual.group, int(residual.group.max(initial=-1)) + 1

    def stacked(self, model: Any, lanes: Lanes) -> Iterator[tuple[np.ndarray, Marginal]]:
        """All data sets together."""
        U, _, lane, count, group, position = lanes
        assert position is not None
        visits = repeated(U, group, position, lane, count, model.residual.dim)
        yield np.arange(count), Marginal.of_many(visits, U.shape[1])

    def floats(self, model: Any) -> int:
        """Products of the rows of each pattern of visits."""
        found = self.factor(model)
        if found is None:
            return 0
        levels, r = model.residual.dim, model.X.shape[1] + 1
        return min(found[1], 2**levels, PATTERNS) * levels * (levels + 1) * r * (r + 1) // 4
