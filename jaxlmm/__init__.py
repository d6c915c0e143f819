"""Linear mixed models in JAX: lme4's formulas and numbers, exact derivatives, one pure likelihood."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import covariance, datasets
from .batch.fits import BatchFit, Replicate
from .batch.refitting import fit_batch
from .covariance import Covariance, Diagonal, Unstructured, distances, powers
from .covariance.parameter import (
    Correlation,
    CovarianceMatrix,
    Positive,
    Real,
    Variance,
    each_level,
    interval,
    positive,
)
from .errors import (
    DataError,
    DroppedColumnsWarning,
    Float64RequiredError,
    FormulaError,
    JaxlmmError,
    LevelsWarning,
    NotEstimableWarning,
    PrecisionWarning,
)
from .fitting import pure
from .fitting.newton import Status
from .fitting.traceable import fit
from .fitting.units import Estimates
from .frames.relationship import Precision
from .inference.fixed_effects.in_batches import LaneTests, Tests, TestStatus
from .inference.papers import side_by_side
from .inference.ratios.comparison import Comparison, compare
from .inference.ratios.exact import rlrt
from .inference.uncertain import Parameters
from .interface import lmm, lmm_in_turn
from .likelihood.engines import Iterative
from .likelihood.loglik import gram, ml, reml
from .likelihood.model import Model
from .likelihood.parts import Field, Residual, Term
from .loading import load
from .results import ConvergenceWarning, Fit
from .runtime.cache import enable_compilation_cache
from .simulation.bootstrap import Bootstrap

__version__ = "0.1.0"


if TYPE_CHECKING:  # so that type checkers know what is not there
    from . import study as study
else:

    def __getattr__(name: str) -> Any:
        """`jaxlmm.study`, imported when it is first asked for; structures that stood here in version 0.1."""
        if name == "study":
            return import_module(".study", __name__)
        found = getattr(covariance, name, None)
        if isinstance(found, type) and issubclass(found, Covariance):
            warnings.warn(f"jaxlmm.{name} is jaxlmm.covariance.{name} now", DeprecationWarning, stacklevel=2)
            return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BatchFit",
    "Bootstrap",
    "Comparison",
    "ConvergenceWarning",
    "Correlation",
    "Covariance",
    "CovarianceMatrix",
    "DataError",
    "Diagonal",
    "DroppedColumnsWarning",
    "Estimates",
    "Field",
    "Fit",
    "Float64RequiredError",
    "FormulaError",
    "Iterative",
    "JaxlmmError",
    "LaneTests",
    "LevelsWarning",
    "Model",
    "NotEstimableWarning",
    "Parameters",
    "Positive",
    "Precision",
    "PrecisionWarning",
    "Real",
    "Replicate",
    "Residual",
    "Status",
    "Term",
    "TestStatus",
    "Tests",
    "Unstructured",
    "Variance",
    "__version__",
    "compare",
    "covariance",
    "datasets",
    "distances",
    "each_level",
    "enable_compilation_cache",
    "fit",
    "fit_batch",
    "gram",
    "interval",
    "lmm",
    "lmm_in_turn",
    "load",
    "ml",
    "positive",
    "powers",
    "pure",
    "reml",
    "rlrt",
    "side_by_side",
]
