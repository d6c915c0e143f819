"""Estimates of what the data do not identify are NaN: wherever they stand is where the solver started."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..design.fields import FrameField
from ..design.grouping import FrameTerm
from ..estimates.fitted import FitBase
from ..estimates.ranef import RandomEffects, coefficients_by
from ..estimates.varcorr import GroupCovariance, PartParameters, VarCorr
from ..frames.columns import make_frame
from ..frames.tables import Table, notes
from ..simulation.bootstrap import Bootstrap
from ..tolerances import INDEPENDENT
from .delta import Natural, natural
from .unidentified import unidentified

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


def known_effects(found: RandomEffects, fit: FitBase) -> RandomEffects:
    """Predicted random effects, those that the data do not identify NaN; with the reason."""
    moves = unidentified(fit)
    if moves is None:
        return found
    out, parts = dict(found), dict[str, list[np.ndarray]]()
    for t, part in enumerate(fit.frame.parts):
        parts.setdefault(part.text if isinstance(part, FrameField) else part.group, []).append(moves.effects(t))
    for key, each in parts.items():
        own = np.concatenate(each, 1)
        if not own.any():
            continue
        entry, columns = out[key], np.any(own, 0)
        rest = np.tile(columns, (len(entry.values) - len(own), 1))  # levels without data
        own = np.concatenate([own, rest])
        unknown = columns[:, None] | columns
        condvar, pev = (np.where(unknown, np.nan, x) for x in (entry.condvar, entry.pev))
        values = np.where(own, np.nan, entry.values)
        out[key] = dataclasses.replace(entry, values=values, condvar=condvar, pev=pev, note=REASON)
    return RandomEffects(out)


def known_coefficients(fit: FitBase, group: str) -> Any:
    """Coefficients of each level, those that the data do not identify NaN."""
    table, moves = coefficients_by(fit, group), unidentified(fit)
    if moves is None:
        return table
    parts = [t for t, part in enumerate(fit.frame.parts) if isinstance(part, FrameTerm) and part.group == group]
    names = [name for name in table.columns if name != group] if hasattr(table, "columns") else list(table)[1:]
    values = {name: np.asarray(table[name], np.float64) for name in names}
    for d, change in enumerate(moves.coef):
        along = coefficients_by(fit, group, change, np.concatenate([moves.values[t][d] for t in parts], 1))
        for name, value in values.items():
            size = INDEPENDENT * (np.sqrt(np.nanmean(value**2)) + np.sqrt(moves.at.vcov.diagonal().min(initial=0.0)))
            values[name] = np.where(np.abs(np.asarray(along[name], np.float64)) > size, np.nan, value)
    return make_frame(fit.frame.kind, {group: list(table[group]), **values})


def known_place(at: Natural, place: tuple[int, ...]) -> bool:
    """Whether the data identify a covariance parameter at a place as in `ProfileTarget`; coefficients have none."""
    if len(place) < 2:
        return all(bool(at.identified[0][m]) for m in place)
    part, i, j = place
    return bool(at.identified[1 + part][i, i] if i == j else known_correlations(at, part)[i, j])


def known_bootstrap(found: Bootstrap, fit: FitBase, is_standard: bool) -> Bootstrap:
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
