"""Engines: prepared statistics and the map from covariance blocks to a Gram matrix."""

from __future__ import annotations

from .base import Blocks, Engine, Moments, Rows
from .clustered import VaryingClusters
from .clusters import Clusters, arrange
from .crossed import Crossed, Crossing, VaryingCrossed, cross
from .dense import Dense
from .grouped import Grouped, Layout, plan
from .marginal import Marginal
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
    "Layout",
    "Marginal",
    "Moments",
    "Rotation",
    "Rows",
    "Spectral",
    "Varying",
    "VaryingClusters",
    "VaryingCrossed",
    "VaryingRotated",
    "arrange",
    "cross",
    "plan",
]
