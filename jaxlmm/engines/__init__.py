"""Engines: prepared statistics and the map from covariance blocks to a Gram matrix."""

from __future__ import annotations

from .base import Blocks, Engine, Moments, Rows
from .dense import Dense
from .grouped import Grouped, Layout, plan
from .marginal import Marginal, VaryingVisits, Visits, find_visits
from .varying import Varying

__all__ = [
    "Blocks",
    "Dense",
    "Engine",
    "Grouped",
    "Layout",
    "Marginal",
    "Moments",
    "Rows",
    "Varying",
    "VaryingVisits",
    "Visits",
    "find_visits",
    "plan",
]
