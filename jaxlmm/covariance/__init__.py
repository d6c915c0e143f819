"""Covariance structures, one class of a few lines each."""

from __future__ import annotations

from .base import Covariance
from .basic import CompoundSymmetry, Diagonal, Identity, Unstructured

NAMES: dict[str, type[Covariance]] = {
    "us": Unstructured,
    "diag": Diagonal,
    "homdiag": Identity,
    "iid": Identity,
    "cs": CompoundSymmetry,
}

__all__ = ["NAMES", "CompoundSymmetry", "Covariance", "Diagonal", "Identity", "Unstructured"]
