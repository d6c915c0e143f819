"""Estimates of what the data do not identify are NaN: wherever they stand is where the solver started."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..estimates.varcorr import GroupCovariance, PartParameters, VarCorr
from ..frames.tables import Table, notes
from ..simulation.bootstrap import Bootstrap
from .delta import Natural, natural

UNKNOWN = "the data do not identify all covariance parameters"
REASON = "empty: the data do not identify these parameters, the likelihood is the same at other values of them"


@dataclass(frozen=True, repr=False)
class PartlyKnown(VarCorr):
    """Covariances of which some are not identified."""

    def table(self) -> Table:
        """The table, with the reason."""
        table = super().table()
        return dataclasses.replace(table, note=notes(table.note, REASON))


def known_parameters(parts: tuple[PartParameters, ...], at: Natural) -> tuple[PartParameters, ...]:
    """Natural parameters, those that the data do not identify NaN."""
    known = at.identified[0]
    return tuple(dataclasses.replace(p, values=np.where(known[p.places], p.values, np.nan)) for p in parts)


def known_varcorr(found: VarCorr, at: Natural) -> VarCorr:
    """Covariances, those that the data do not identify NaN; with the reason, if there are any."""
    groups = tuple(_known(g, at) for g in found.groups)
    residual = None if found.residual is None else _known(found.residual, at)
    sigma = found.sigma if found.sigma is None or at.identified[-1].all() else np.nan
    structures = known_parameters(found.structures, at)
    if all(known is None or known.all() for known in at.identified):
        return found
    arms = tuple(_known(g, at) for g in found.arms)
    return PartlyKnown(groups, sigma, found.kind, residual, structures, arms, found._uncertainty)


def known_correlations(at: Natural, part: int, arm: int | None = None) -> np.ndarray:
    """Whether the data identify the correlations (q, q) of a part, or of one of its arms."""
    here = slice(None) if arm is None else arm
    known = at.identified[1 + part][here]
    own = np.diagonal(known)
    return np.isfinite(at.correlations[part][here]) | (known & own[:, None] & own)


def known_place(at: Natural, place: tuple[int, ...]) -> bool:
    """Whether the data identify a covariance parameter at a place as in `ProfileTarget`; coefficients have none."""
    if len(place) < 2:
        return all(bool(at.identified[0][m]) for m in place)
    part, i, j = place
    return bool(at.identified[1 + part][i, i] if i == j else known_correlations(at, part)[i, j])


def known_bootstrap(found: Bootstrap, fit: Any, is_standard: bool) -> Bootstrap:
    """A parametric bootstrap, the standard statistics that the data do not identify NaN; with the reason."""
    at = natural(fit)
    if at.theta_identified.all():
        return found
    if not is_standard:  # whose function may depend on anything
        return dataclasses.replace(found, note=f"{UNKNOWN}; statistics of these are where the solver started")
    known = [True] * len(fit.coef)
    for t, part in enumerate(fit.frame.parts):
        known += [known_place(at, (t, i, j)) for i in range(len(part.columns)) for j in (i, *range(i))]
    known += [] if fit.sigma is None else [bool(at.identified[-1].all())]
    nan = np.where(known, 1.0, np.nan)
    return dataclasses.replace(found, estimate=nan * found.estimate, values=nan * found.values, note=REASON)


def _known(g: GroupCovariance, at: Natural) -> GroupCovariance:
    known = at.identified[1 + g.place][slice(None) if g.arm is None else g.arm]
    corr = known_correlations(at, g.place, g.arm)
    np.fill_diagonal(corr, True)
    return dataclasses.replace(
        g,
        cov=np.where(known, g.cov, np.nan),
        sd=np.where(np.diagonal(known), g.sd, np.nan),
        corr=np.where(corr, g.corr, np.nan),
    )
