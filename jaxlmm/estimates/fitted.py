"""What was fitted: data, model and estimates, and the numbers that are read from them without further work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..design.frame import ModelFrame
from ..fitting.monte_carlo import MonteCarlo
from ..fitting.newton import Status
from ..fitting.units import Certificate, Estimate
from ..frames.tables import Shown
from ..likelihood.model import Model


@dataclass(frozen=True, eq=False, repr=False)
class FitBase(Shown):
    """The part of `jaxlmm.Fit` that its results are made from; the results themselves are methods of `Fit`.

    Attributes
    ----------
    method, model, frame, estimate, data, call, given : see `jaxlmm.Fit`
    """

    data: Any
    frame: ModelFrame
    model: Model
    estimate: Estimate
    method: str
    call: Any
    given: Any

    if TYPE_CHECKING:  # results may ask for each other, by the names that `Fit` gives them

        def __getattr__(self, name: str) -> Any:  # noqa: D105
            ...

    # -- numbers ---------------------------------------------------------------------------------------------

    @property
    def loglik(self) -> float:
        """Maximised (restricted) log-likelihood, lme4's constant."""
        return self.estimate.loglik

    @property
    def coef(self) -> np.ndarray:
        """Fixed effects (p,), as the solver found them, see `jaxlmm.Fit`."""
        return self.estimate.coef

    @property
    def coef_names(self) -> tuple[str, ...]:
        """Names of the fixed effects."""
        return self.frame.coef_names

    @property
    def vcov(self) -> np.ndarray:
        """Covariance of the fixed effects (p, p), ``(X'V^-1 X)^-1``."""
        return self.estimate.vcov

    @property
    def se(self) -> np.ndarray:
        """Standard errors of the fixed effects (p,)."""
        return np.sqrt(np.diagonal(self.vcov))

    @property
    def theta(self) -> np.ndarray:
        """Covariance parameters (k,), unconstrained; see `jaxlmm.reml`, and `parameters` for natural ones by name."""
        return self.estimate.theta

    @property
    def sigma(self) -> float | None:
        """Residual standard deviation (None where the residual has a structure of its own)."""
        return self.estimate.sigma

    @property
    def nobs(self) -> int:
        """Rows used."""
        return len(self.model.y)

    @property
    def npar(self) -> int:
        """Number of parameters, fixed and covariance."""
        return len(self.coef) + len(self.theta)

    @property
    def df_resid(self) -> int:
        """Rows minus parameters."""
        return self.nobs - self.npar

    @property
    def aic(self) -> float:
        """``-2 loglik + 2 npar``, under REML too (lme4's convention)."""
        return -2.0 * self.loglik + 2.0 * self.npar

    @property
    def bic(self) -> float:
        """``-2 loglik + npar log(nobs)``."""
        return -2.0 * self.loglik + self.npar * float(np.log(self.nobs))

    # -- how it went -----------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        """How the optimisation ended: "converged" or a word of `jaxlmm.Status`."""
        return self.estimate.status.name.lower()

    @property
    def converged(self) -> bool:
        """Whether an optimum was reached and certified."""
        return self.estimate.status == Status.CONVERGED

    @property
    def certificate(self) -> Certificate:
        """Gradient norm, Newton decrement, smallest eigenvalue of the information, dual check."""
        return self.estimate.certificate

    @property
    def monte_carlo(self) -> MonteCarlo | None:
        """Monte Carlo error of a fit by the iterative engine; None for the others, which are exact."""
        return self.estimate.monte_carlo

    @property
    def singular(self) -> bool:
        """Whether a covariance matrix is singular (a variance of zero, a correlation of one)."""
        return any(self.estimate.boundary)

    @property
    def engine(self) -> str:
        """The engine that evaluated the likelihood."""
        return self.model.engine
