"""Engines: prepared statistics and the map from covariance blocks to a Gram matrix."""

from __future__ import annotations

from .base import Blocks, Engine, Posterior, Rows
from .clustered import VaryingClusters
from .clusters import Clusters, arrange
from .crossed import Crossed, VaryingCrossed
from .crossing import Crossing, cross, engine_for, is_function
from .dense import Dense
from .grouped import Grouped, Layout, plan
from .iterative import Krylov
from .marginal import Marginal
from .probes import Iterative, incidence
from .spectral import Rotation, Spectral, VaryingRotated
from .varying import Varying

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
