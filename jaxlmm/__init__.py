"""Linear mixed models in JAX: lme4's formulas and numbers, exact derivatives, one pure likelihood."""

from __future__ import annotations

from . import datasets
from .batching import BatchFit, Replicate, fit_batch
from .bootstrap import Bootstrap
from .cache import enable_compilation_cache
from .covariance import (
    AnteDependence,
    Autoregressive,
    AutoregressiveMovingAverage,
    BandedUnstructured,
    CompoundSymmetry,
    ContinuousAutoregressive,
    Covariance,
    Diagonal,
    Exponential,
    FactorAnalytic,
    Gaussian,
    HeterogeneousAnteDependence,
    HeterogeneousAutoregressive,
    HeterogeneousCompoundSymmetry,
    HeterogeneousToeplitz,
    HuynhFeldt,
    Identity,
    Matern,
    OrnsteinUhlenbeck,
    ReducedRank,
    Spherical,
    Toeplitz,
    Unstructured,
    distances,
    powers,
)
from .design import Residual, Term
from .errors import DataError, Float64RequiredError, FormulaError, JaxlmmError
from .interface import lmm
from .model import Model, gram, ml, reml
from .optimize import Status
from .parameters import Correlation, CovarianceMatrix, Positive, Real, Variance, each_level, interval
from .results import ConvergenceWarning, Fit
from .traceable import Estimates, fit

__version__ = "0.1.0"

__all__ = [
    "AnteDependence",
    "Autoregressive",
    "AutoregressiveMovingAverage",
    "BandedUnstructured",
    "BatchFit",
    "Bootstrap",
    "CompoundSymmetry",
    "ContinuousAutoregressive",
    "ConvergenceWarning",
    "Correlation",
    "Covariance",
    "CovarianceMatrix",
    "DataError",
    "Diagonal",
    "Estimates",
    "Exponential",
    "FactorAnalytic",
    "Fit",
    "Float64RequiredError",
    "FormulaError",
    "Gaussian",
    "HeterogeneousAnteDependence",
    "HeterogeneousAutoregressive",
    "HeterogeneousCompoundSymmetry",
    "HeterogeneousToeplitz",
    "HuynhFeldt",
    "Identity",
    "JaxlmmError",
    "Matern",
    "Model",
    "OrnsteinUhlenbeck",
    "Positive",
    "Real",
    "ReducedRank",
    "Replicate",
    "Residual",
    "Spherical",
    "Status",
    "Term",
    "Toeplitz",
    "Unstructured",
    "Variance",
    "__version__",
    "datasets",
    "distances",
    "each_level",
    "enable_compilation_cache",
    "fit",
    "fit_batch",
    "gram",
    "interval",
    "lmm",
    "ml",
    "powers",
    "reml",
]
