"""Estimated covariances as users see them: matrices of terms, natural parameters of structures."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import jax
import numpy as np

from ..covariance import ByGroup
from ..design.fields import FrameField
from ..design.frame import ModelFrame
from ..design.grouping import FrameTerm
from ..distributions import bounded_limits
from ..fitting.objective import Spec
from ..fitting.recession import along
from ..fitting.units import Estimate
from ..frames.columns import make_frame
from ..frames.tables import Shown, Table, format_column, notes
from ..likelihood.model import Model
from ..runtime.precision import float64

MOST_SHOWN = 30  # levels of a structure in a table that is printed; frames have all
SCALE, CORRELATION, FREE = (0.0, np.inf), (-1.0, 1.0), (-np.inf, np.inf)  # bounds of what is reported


@dataclass(frozen=True)
class GroupCovariance:
    """Covariance of the effects of one term: `sd` (q,), `corr` (q, q; NaN where an SD is zero), `cov` (q, q)."""

    group: str
    columns: tuple[str, ...]
    sd: np.ndarray
    corr: np.ndarray
    cov: np.ndarray
    place: int = 0  # among the parts of the model
    arm: int | None = None  # among the arms with parameters of their own

    @classmethod
    def of(
        cls, group: str, columns: tuple[str, ...], G: np.ndarray, place: int, arm: int | None = None
    ) -> GroupCovariance:
        """From the covariance matrix of a part of the model."""
        sd = np.sqrt(np.diagonal(G))
        with np.errstate(divide="ignore", invalid="ignore"):
            corr = G / np.outer(sd, sd)
        np.fill_diagonal(corr, 1.0)
        return cls(group, columns, sd, corr, G, place, arm)


def flat_parts(model: Model, method: str, estimate: Estimate) -> list[str]:
    """Parts of the model whose parameters take part in the direction of least curvature of the likelihood."""
    spec = Spec.of(model, method).absolute
    d = np.sqrt(np.maximum(np.abs(np.diagonal(estimate.information)), 1e-300))
    direction = np.linalg.eigh(estimate.information / np.outer(d, d))[1][:, 0]
    among = {part for (_, part), size in zip(spec.kinds, np.abs(direction), strict=True) if size > 0.1}
    names = [*(part.name for part in model.random), "the residuals"]
    return [names[part] for part in sorted(among)]


@dataclass(frozen=True)
class PartParameters:
    """Natural parameters of one part of the model: its text, their names, values (k,), places among all parameters."""

    part: str
    names: tuple[str, ...]
    values: np.ndarray
    places: slice


@dataclass(frozen=True, repr=False)
class VarCorr(Shown):
    """Estimated covariances of all terms, in the order of the formula, and of the residuals.

    The residual SD is `sigma`; where the residuals have a structure, it is None and `residual` their covariance, or
    `arms` those of each arm. A term whose arms have parameters of their own is an entry of `groups` for each.
    Structures that are not over the levels of a factor are in `structures`, by their parameters. Standard errors are
    computed when they are asked for, by `frame`.
    """

    groups: tuple[GroupCovariance, ...]
    sigma: float | None
    kind: str = "dict"
    residual: GroupCovariance | None = None
    structures: tuple[PartParameters, ...] = ()
    arms: tuple[GroupCovariance, ...] = ()
    _uncertainty: Callable[[], Any] | None = field(default=None, repr=False)

    @property
    def _all(self) -> tuple[GroupCovariance, ...]:
        return (*self.groups, *self.arms) if self.residual is None else (*self.groups, self.residual)

    def frame(self, level: float = 0.95) -> Any:
        """One row a variance or covariance.

        Columns group, column, column2, covariance, sd_or_corr (as in lme4), the standard errors of both, and limits of
        the latter, on the scale of logarithms for standard deviations and of Fisher's z for correlations. They are NaN
        on the boundary.
        """
        at = None if self._uncertainty is None else self._uncertainty()
        rows: list[tuple[Any, ...]] = []
        for g, v, r in zip(self._all, *self._variances(at), strict=True):
            q = len(g.columns)
            for i in range(q):
                se = np.sqrt(v[i, i])
                rows.append((g.group, g.columns[i], "", g.cov[i, i], g.sd[i], se, _of_root(se, g.sd[i]), SCALE))
            for i, j in itertools.combinations(range(q), 2):
                se = np.sqrt(np.array([v[i, j], r[i, j]]))
                rows.append((g.group, g.columns[i], g.columns[j], g.cov[i, j], g.corr[i, j], *se, CORRELATION))
        if self.sigma is not None:
            se = np.nan if at is None else np.sqrt(at.covariances[-1][0, 0])
            rows.append(("Residual", "", "", self.sigma**2, self.sigma, se, _of_root(se, self.sigma), SCALE))
        for part in self.structures:
            errors = np.full(len(part.values), np.nan) if at is None else at.se_of(part.places)
            for name, value, se in zip(part.names, part.values, errors, strict=True):
                entry = entry_of(name)
                if entry == "variance":
                    sd = np.sqrt(value)
                    rows.append((part.part, name, "", value, sd, se, _of_root(se, sd), SCALE))
                elif entry == "covariance":
                    rows.append((part.part, name, "", value, np.nan, se, np.nan, FREE))
                else:
                    bounds = CORRELATION if "corr" in name else FREE
                    rows.append((part.part, name, "", np.nan, value, np.nan, se, bounds))
        names = ("group", "column", "column2", "covariance", "sd_or_corr", "se_covariance", "se_sd_or_corr", "bounds")
        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        limits = [
            bounded_limits(v, s, bounds, level)
            for v, s, bounds in zip(columns["sd_or_corr"], columns["se_sd_or_corr"], columns.pop("bounds"), strict=True)
        ]
        columns |= {"lower": [x[0] for x in limits], "upper": [x[1] for x in limits]}
        return make_frame(self.kind, columns)

    def _variances(self, at: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Sampling variances of covariances and of correlations, matrices in the order of `_all`."""
        if at is None:
            unknown = [np.full_like(g.cov, np.nan) for g in self._all]
            return unknown, unknown
        places = [(g.place, slice(None) if g.arm is None else g.arm) for g in self._all]
        return [at.covariances[t][k] for t, k in places], [at.correlations[t][k] for t, k in places]

    def table(self) -> Table:
        """As lme4 prints it: group, name, variance, SD, correlations with the columns before."""
        rows, note = [], ""
        for g in self._all:
            for i, column in enumerate(g.columns[:MOST_SHOWN]):
                rows.append((g.group if i == 0 else "", column, g.cov[i, i], g.sd[i], g.corr[i, :i]))
            if len(g.columns) > MOST_SHOWN:
                note = notes(note, f"the first {MOST_SHOWN} of {len(g.columns)} levels of {g.group}")
        if self.sigma is not None:
            rows.append(("Residual", "", self.sigma**2, self.sigma, np.zeros(0)))
        variances, sds = format_column([r[2] for r in rows]), format_column([r[3] for r in rows])
        most = max((len(r[4]) for r in rows), default=0)
        header = ("Groups", "Name", "Variance", "Std.Dev.", *(("Corr",) + ("",) * (most - 1) if most else ()))
        body = tuple(
            (r[0], r[1], v, s, *("" if np.isnan(c) else f"{c:.2f}" for c in r[4]), *("",) * (most - len(r[4])))
            for r, v, s in zip(rows, variances, sds, strict=True)
        )
        return Table("Random effects:" if self.groups else "Residual covariance:", header, body, labels=2, note=note)

    def structure_table(self) -> Table:
        """Natural parameters of the structures over columns."""
        rows = tuple(
            (part.part if i == 0 else "", name, f"{value:.5g}")
            for part in self.structures
            for i, (name, value) in enumerate(zip(part.names, part.values, strict=True))
        )
        return Table("Covariance structures:", ("Part", "Parameter", "Estimate"), rows, labels=2)

    def tables(self) -> tuple[Table, ...]:
        """Both tables, those that have rows."""
        return tuple(table for table in (self.table(), self.structure_table()) if table.rows)


def varcorr(
    frame: ModelFrame, model: Model, estimate: Estimate, uncertainty: Callable[[], Any] | None = None
) -> VarCorr:
    """Covariance matrices of the parts over effects and levels, natural parameters of the others."""
    own = [*frame.parts, *([] if frame.residual is None else [frame.residual])]
    by_name = any(not part.columns and not _has_arms(part) for part in own)  # else their compilation is saved
    parameters = natural_parameters(frame, model, estimate) if by_name else ()
    groups, structures, residuals, start = list[GroupCovariance](), [], list[GroupCovariance](), 0
    each = (*model.random, model.residual)
    for i, (part, of_model, G) in enumerate(zip(own, each, (*estimate.covariances, estimate.residual), strict=False)):
        stop = start + of_model.structure.size(of_model.dim)
        is_residual = part is frame.residual
        label, found = "Residual" if is_residual else part.group_label, residuals if is_residual else groups
        if part.columns:
            found.append(GroupCovariance.of(label, part.columns, G, i))
        elif _has_arms(part):
            with float64():
                every = _by_arm(of_model.structure, estimate.theta[start:stop], of_model.dim)
            for k, (arm, G) in enumerate(zip(part.placed.arms, map(np.asarray, every), strict=True)):
                columns = tuple(f"{level}[{arm}]" for level in part.placed.inner_levels)
                found.append(GroupCovariance.of(label, columns, G, i, k))
        else:
            structures.append(parameters[i])
        start = stop
    one = residuals[0] if residuals and residuals[0].arm is None else None
    arms = () if one else tuple(residuals)
    return VarCorr(tuple(groups), estimate.sigma, frame.kind, one, tuple(structures), arms, uncertainty)


def _has_arms(part: FrameTerm | FrameField) -> TypeGuard[FrameField]:
    """Whether it is one structure over several levels with parameters of its own in every arm."""
    return isinstance(part, FrameField) and isinstance(part.structure, ByGroup) and len(part.placed.inner_levels) > 1


@functools.partial(jax.jit, static_argnums=(0, 2))
def _by_arm(structure: ByGroup, theta: Any, dim: int) -> list[Any]:
    """Covariance matrices (q, q) of the arms at public coordinates."""
    return [part.matrix(np.arange(dim, dtype=np.int32)) for part in structure.from_public(theta, dim).parts]


def natural_parameters(frame: ModelFrame, model: Model, estimate: Estimate) -> tuple[PartParameters, ...]:
    """Natural parameters of every part in the order of ``fit.theta``, the residual last."""
    found, start, count = [], 0, 0
    own: tuple[FrameTerm | FrameField | None, ...] = (*frame.parts, frame.residual)
    for part, named in zip((*model.random, model.residual), own, strict=True):
        stop = start + part.structure.size(part.dim)
        natural = part.structure.natural(estimate.theta[start:stop], part.dim)
        text = "Residual" if named is None else named.text if named is not frame.residual else f"Residual {named.text}"
        names = tuple(_labelled(name, named) for name, _ in natural)
        places = slice(count, count + len(names))
        found.append(PartParameters(text, names, np.array([value for _, value in natural]), places))
        start, count = stop, places.stop
    return tuple(found)


def names_along(frame: ModelFrame, model: Model, method: str, estimate: Estimate) -> str:
    """The parameters along which a likelihood without a maximum rises, with their parts, in words."""
    parts, found = natural_parameters(frame, model, estimate), dict[str, list[str]]()
    for part, place in along(model, method, estimate.theta):
        names = parts[part].names
        found.setdefault(parts[part].part, []).append(names[min(place, len(names) - 1)])
    return " and ".join(f"{', '.join(names)} of {part}" for part, names in found.items())


def _of_root(se: Any, sd: Any) -> Any:
    """Standard error of a standard deviation from that of the variance."""
    return np.where(sd > 0, se / (2.0 * np.where(sd > 0, sd, 1.0)), np.nan)[()]


def entry_of(name: str) -> str:
    """What a parameter is by its name: "variance" (``variances[a]``, ``x.covariance[a, a]``), "covariance" or ""."""
    found = re.search(r"(?:^|\.)(variance|covariance|common)\w*(?:\[(.*)\])?$", name)
    if found is None:
        return ""
    inside = found[2] or ""
    halves = (inside[: (len(inside) - len(comma)) // 2] + comma for comma in (", ", ","))
    same = any(inside == half + half.rstrip(", ") for half in halves)
    return "variance" if found[1] == "variance" or same else "covariance"


def _labelled(name: str, part: FrameTerm | FrameField | None) -> str:
    """``variances[1]`` with the label of the level for its number, ``group[0]`` with the arm's."""
    columns = part.columns if isinstance(part, FrameTerm) else () if part is None else part.placed.inner_levels
    arms = part.placed.arms if isinstance(part, FrameField) else ()
    if arms:
        name = re.sub(r"(?:ByGroup\.)?group\[(\d+)\]", lambda match: f"[{arms[int(match.group(1))]}]", name)

    def label(match: re.Match[str]) -> str:
        places = [int(place) for place in match.group(2).split(",")]
        inside = all(place < len(columns) for place in places)
        return f"{match.group(1)}[{', '.join(columns[place] for place in places)}]" if inside else match.group()

    return re.sub(r"(variances|covariance|common)\[(\d+(?:,\d+)*)\]", label, name)


def parameter_frame(parts: tuple[PartParameters, ...], at: Any, kind: str) -> Any:
    """One row a parameter: part, name, estimate, std_error."""
    rows = [(p.part, name, value) for p in parts for name, value in zip(p.names, p.values, strict=True)]
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], []]
    names = ("part", "name", "estimate", "std_error")
    return make_frame(kind, dict(zip(names, [*columns, at.se_of(slice(None))], strict=True)))
