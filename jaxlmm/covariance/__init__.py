"""Covariance structures, one class of a few lines each."""

from __future__ import annotations

from .base import Composite, Covariance, Kronecker, Over, Product, Sum
from .basic import CompoundSymmetry, Diagonal, Identity, Unstructured
from .composition import ByGroup, Scaled
from .functions import FUNCTIONS, ConstPower, Exp, Ident, Power, VarianceFunction
from .helpers import distances, lags, powers, roots
from .heterogeneous import BandedUnstructured, FactorAnalytic, HeterogeneousCompoundSymmetry, HuynhFeldt, ReducedRank
from .known import KnownMatrix
from .serial import (
    AnteDependence,
    Autoregressive,
    AutoregressiveMovingAverage,
    HeterogeneousAnteDependence,
    HeterogeneousAutoregressive,
    HeterogeneousToeplitz,
    Toeplitz,
)
from .spatial import ContinuousAutoregressive, Exponential, Gaussian, Matern, OrnsteinUhlenbeck, Spherical

# Names as in mmrm, and those of glmmTMB that do not mean something else there (its toep and cs are heterogeneous).
NAMES: dict[str, type[Covariance]] = {
    "us": Unstructured,
    "us_banded": BandedUnstructured,
    "diag": Diagonal,
    "homdiag": Identity,
    "iid": Identity,
    "cs": CompoundSymmetry,
    "homcs": CompoundSymmetry,
    "csh": HeterogeneousCompoundSymmetry,
    "hf": HuynhFeldt,
    "ar1": Autoregressive,
    "ar1h": HeterogeneousAutoregressive,
    "hetar1": HeterogeneousAutoregressive,
    "ad": AnteDependence,
    "adh": HeterogeneousAnteDependence,
    "toep": Toeplitz,
    "homtoep": Toeplitz,
    "toeph": HeterogeneousToeplitz,
    "arma11": AutoregressiveMovingAverage,
    "rr": ReducedRank,
    "fa": FactorAnalytic,
    "ou": OrnsteinUhlenbeck,
    "car1": ContinuousAutoregressive,
    "exp": Exponential,
    "sp_exp": Exponential,
    "gau": Gaussian,
    "sp_gau": Gaussian,
    "sp_sph": Spherical,
    "matern": Matern,
}

OVER_ORDER = frozenset({"ar1", "ar1h", "hetar1", "ad", "adh", "toep", "homtoep", "toeph", "arma11", "us_banded"})
OVER_COORDINATES = frozenset({"ou", "car1", "exp", "sp_exp", "gau", "sp_gau", "sp_sph", "matern"})

__all__ = [
    "FUNCTIONS",
    "NAMES",
    "OVER_COORDINATES",
    "OVER_ORDER",
    "AnteDependence",
    "Autoregressive",
    "AutoregressiveMovingAverage",
    "BandedUnstructured",
    "ByGroup",
    "Composite",
    "CompoundSymmetry",
    "ConstPower",
    "ContinuousAutoregressive",
    "Covariance",
    "Diagonal",
    "Exp",
    "Exponential",
    "FactorAnalytic",
    "Gaussian",
    "HeterogeneousAnteDependence",
    "HeterogeneousAutoregressive",
    "HeterogeneousCompoundSymmetry",
    "HeterogeneousToeplitz",
    "HuynhFeldt",
    "Ident",
    "Identity",
    "KnownMatrix",
    "Kronecker",
    "Matern",
    "OrnsteinUhlenbeck",
    "Over",
    "Power",
    "Product",
    "ReducedRank",
    "Scaled",
    "Spherical",
    "Sum",
    "Toeplitz",
    "Unstructured",
    "VarianceFunction",
    "distances",
    "lags",
    "powers",
    "roots",
]
