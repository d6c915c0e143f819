"""Engines: prepared statistics and the map from covariance blocks to a Gram matrix."""

from __future__ import annotations

from .base import Blocks, Engine, Posterior, Rows
from .crossed.engine import Crossed, VaryingCrossed
from .crossed.layout import Crossing, cross, engine_for, is_function
from .dense import Dense
from .grouped.batches import Varying
from .grouped.engine import Grouped
from .iterative.engine import Krylov
from .iterative.options import Iterative, incidence
from .layout import Layout, plan
from .marginal.engine import Marginal
from .marginal.layout import Clusters, arrange
from .marginal.statistics import VaryingClusters
from .spectral import Rotation, Spectral, VaryingRotated

__all__ = [
    "Blocks",
    "Clusters",
    "Crossed",
    "Crossing",
    "Dense",
    "Engine",
    "Grouped",
    "Iterative",
    "Krylov",
    "Layout",
    "Marginal",
    "Posterior",
    "Rotation",
    "Rows",
    "Spectral",
    "Varying",
    "VaryingClusters",
    "VaryingCrossed",
    "VaryingRotated",
    "arrange",
    "cross",
    "engine_for",
    "incidence",
    "is_function",
    "plan",
]
