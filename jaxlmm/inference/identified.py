"""Estimates of what the data do not identify are NaN: wherever they stand is where the solver started."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from ..estimates.varcorr import GroupCovariance, PartParameters, VarCorr
from ..frames.tables import Table, notes
from .delta import Natural

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
