"""Linear mixed models in JAX: lme4's formulas and numbers, exact derivatives, one pure likelihood."""

from __future__ import annotations

from . import datasets
from .batching import BatchFit, Replicate, fit_batch
from .bootstrap import Bootstrap
from .cache import enable_compilation_cache
from .covariance import CompoundSymmetry, Covariance, Diagonal, Identity, Unstructured
from .design import Residual, Term
from .errors import DataError, Float64RequiredError, FormulaError, JaxlmmError
from .interface import lmm
from .model import Model, gram, ml, reml
from .optimize import Status
from .parameters import Correlation, CovarianceMatrix, Positive, Variance, each_level, interval
from .results import ConvergenceWarning, Fit
from .traceable import Estimates, fit

__version__ = "0.1.0"

__all__ = [
    "BatchFit",
    "Bootstrap",
    "CompoundSymmetry",
    "ConvergenceWarning",
    "Correlation",
    "Covariance",
    "CovarianceMatrix",
    "DataError",
    "Estimates",
    "Diagonal",
    "Fit",
    "Float64RequiredError",
    "FormulaError",
    "Identity",
    "JaxlmmError",
    "Model",
    "Positive",
    "Replicate",
    "Residual",
    "Status",
    "Term",
    "Unstructured",
    "Variance",
    "__version__",
    "datasets",
    "each_level",
    "enable_compilation_cache",
    "fit",
    "fit_batch",
    "gram",
    "interval",
    "lmm",
    "ml",
    "reml",
]
