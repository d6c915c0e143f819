"""What to do about a fit that is singular, flat or not converged, in sentences with numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import DataError
from ...estimates.fitted import FitBase
from ...estimates.varcorr import natural_parameters
from ...frames.tables import Shown, format_p
from ...runtime.keys import check_seed
from ...runtime.sizes import check_count
from ..delta import natural
from ..identified import known_parameters
from ..ratios.exact import rlrt
from .terms import ranova


@dataclass(frozen=True, repr=False)
class Advice(Shown):
    """Sentences; `sentences` has them one by one."""

    sentences: tuple[str, ...]

    def tables(self) -> tuple[str, ...]:
        """As they print."""
        return self.sentences


def advise(fit: FitBase, n: int = 10_000, seed: int = 0) -> Advice:
    """See ``Fit.advise``."""
    check_count("n", n)
    check_seed("seed", seed)
    if not fit.converged:
        return Advice((f"The fit has not converged ({fit.status}): {fit.estimate.status.advice}.",))
    said = [f"The fit is on the boundary: {direction}." for direction in fit.singular_directions]
    said += [f"The data do not determine {name}." for name in _unknown(fit)]
    if not said:
        return Advice(("The fit has converged at an interior optimum: nothing needs to be done.",))
    if fit.singular and fit.model.random:
        said += _without(fit, n, seed)
        said.append(
            "Coefficients, their errors and tests hold as they are; what is zero is estimated, not known to be."
        )
    return Advice(tuple(said))


def _unknown(fit: FitBase) -> list[str]:
    parts = known_parameters(natural_parameters(fit.frame, fit.model, fit.estimate), natural(fit))
    return [
        f"{name} of {part.part}"
        for part in parts for name, value in zip(part.names, np.ravel(part.values), strict=True) if np.isnan(value)
    ]  # fmt: skip


def _without(fit: FitBase, n: int, seed: int) -> list[str]:
    """Each random effect that can be left out: AIC with and without, and how likely the data are without it."""
    found, said = ranova(fit), []
    texts = [part.text for part in fit.frame.parts]
    for term, aic, p, reference in zip(found.terms[1:], found.aic[1:], found.p[1:], found.references[1:], strict=True):
        law = reference
        if term in texts:
            try:
                exact = rlrt(fit, term, n, seed)
                p, law = exact.p, "exact law of one variance" if exact.exact else "law of one variance, others known"
            except DataError:
                pass
        better = "smaller" if aic < found.aic[0] else "larger"
        chance = f"p = {format_p(p)} ({law})" if np.isfinite(p) else reference
        said.append(f"Without {term} the AIC is {aic:.2f}, {better} than {found.aic[0]:.2f} with it; {chance}.")
    return said
