"""The parametric bootstrap of a likelihood ratio, for any nested pair of models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...batch.chunks import CHUNK_FLOATS, Progress
from ...batch.refitting import refit_batch
from ...likelihood.model import Model
from ...runtime.sizes import check_draws
from ...simulation.simulate import simulate_rows
from .mixtures import Mixture

ROUNDING = 1e-7  # likelihood ratio, relative to the deviance, that is zero


@dataclass(frozen=True, eq=False)
class BootstrapTest:
    """Likelihood ratios of responses drawn from the smaller fit (Davison & Hinkley 1997, section 4.2).

    Attributes
    ----------
    statistic : for the data;  replicates : (n,), NaN where one of the two fits has not converged
    p : ``(1 + #{replicates >= statistic}) / (used + 1)``
    """

    statistic: float
    replicates: np.ndarray
    p: float

    @property
    def lost(self) -> int:
        """Replicates without a likelihood ratio, because a fit has not converged."""
        return int(np.sum(~np.isfinite(self.replicates)))

    def bartlett(self, law: Mixture) -> tuple[float, float]:
        """Statistic scaled so that the mean of the replicates is that of the asymptotic law, and its p-value."""
        scaled = self.statistic * law.mean / float(np.nanmean(self.replicates))
        return scaled, law.p_value(scaled)

    def __str__(self) -> str:
        used = len(self.replicates) - self.lost
        return f"bootstrap, {used} replicates" + (f" ({self.lost} lost: not converged)" if self.lost else "")


def bootstrap_test(
    small: Any, large: Model, statistic: float, n: int, seed: int, shift: float = 0.0, progress: Progress = "auto"
) -> BootstrapTest:  # fmt: skip
    """Refit both models to n responses drawn from the fit `small`.

    Parameters
    ----------
    small : fit;  large : model;  statistic : for the data
    n, seed : replicate r depends on the seed and r alone
    shift : added to the log-likelihoods of the larger model, see `log_scale` in `comparison`
    """
    check_draws("n", n, 3)
    parts = np.array_split(np.arange(n), max(1, int(np.ceil(n * small.nobs / (10 * CHUNK_FLOATS)))))
    replicates = []
    for part in parts:
        Y = simulate_rows(small.model, small.estimate, part, seed)
        fits = [refit_batch(model, Y, small.method, progress=progress) for model in (small.model, large)]
        ratio = cleaned(2.0 * (fits[1].loglik + shift - fits[0].loglik), fits[0].loglik)
        replicates.append(np.where(fits[0].converged & fits[1].converged, ratio, np.nan))
    drawn = np.concatenate(replicates)
    known = drawn[np.isfinite(drawn)]
    return BootstrapTest(statistic, drawn, (1.0 + np.sum(known >= statistic)) / (len(known) + 1.0))


def cleaned(ratio: Any, loglik: Any) -> np.ndarray:
    """Likelihood ratios, zero where they are rounding."""
    return np.where(np.abs(ratio) <= ROUNDING * np.maximum(1.0, np.abs(loglik)), 0.0, ratio)
