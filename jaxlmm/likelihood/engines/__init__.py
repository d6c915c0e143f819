"""Engines: prepared statistics and the map from covariance blocks to a Gram matrix."""

from __future__ import annotations

from .base import Blocks, Posterior, Rows, Statistics, expansion_of
from .choice import DENSE, ENGINES, MARGINAL, NAMED, choose
from .iterative.options import Iterative
from .protocol import Engine, Whole

__all__ = [
    "DENSE",
    "ENGINES",
    "MARGINAL",
    "NAMED",
    "Blocks",
    "Engine",
    "Iterative",
    "Posterior",
    "Rows",
    "Statistics",
    "Whole",
    "choose",
    "expansion_of",
]
