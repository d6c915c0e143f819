"""Estimated covariances as users see them: matrices of terms, natural parameters of structures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from .columns import make_frame
from .fields import FrameField
from .fitting import Estimate
from .frame import ModelFrame
from .grouping import FrameTerm
from .model import Model
from .tables import Table, format_column


@dataclass(frozen=True)
class GroupCovariance:
    """Covariance of the effects of one term: `sd` (q,), `corr` (q, q; NaN where an SD is zero), `cov` (q, q)."""

    group: str
    columns: tuple[str, ...]
    sd: np.ndarray
    corr: np.ndarray
    cov: np.ndarray

    @classmethod
    def of(cls, group: str, columns: tuple[str, ...], G: np.ndarray) -> GroupCovariance:
        """From a covariance matrix."""
        sd = np.sqrt(np.diagonal(G))
        with np.errstate(divide="ignore", invalid="ignore"):
            corr = G / np.outer(sd, sd)
        np.fill_diagonal(corr, 1.0)
        return cls(group, columns, sd, corr, G)


@dataclass(frozen=True)
class PartParameters:
    """Natural parameters of one part of the model: its text, their names, their values (k,)."""

    part: str
    names: tuple[str, ...]
    values: np.ndarray


@dataclass(frozen=True)
class VarCorr:
    """Estimated covariances of all terms, in the order of the formula, and of the residuals.

    The residual SD is `sigma`; where the residuals have a structure, it is None and `residual` their covariance.
    Structures that are not over the levels of a factor are in `structures`, by their parameters.
    """

    groups: tuple[GroupCovariance, ...]
    sigma: float | None
    kind: str = "dict"
    residual: GroupCovariance | None = None
    structures: tuple[PartParameters, ...] = ()

    @property
    def _all(self) -> tuple[GroupCovariance, ...]:
        return self.groups if self.residual is None else (*self.groups, self.residual)

    def frame(self) -> Any:
        """One row a variance or covariance: group, column, column2, covariance, sd_or_corr (as in lme4)."""
        rows: list[tuple[str, str, str, float, float]] = []
        for g in self._all:
            rows += [(g.group, c, "", g.cov[i, i], g.sd[i]) for i, c in enumerate(g.columns)]
            pairs = [(i, j) for i in range(len(g.columns)) for j in range(i + 1, len(g.columns))]
            rows += [(g.group, g.columns[i], g.columns[j], g.cov[i, j], g.corr[i, j]) for i, j in pairs]
        if self.sigma is not None:
            rows.append(("Residual", "", "", self.sigma**2, self.sigma))
        for part in self.structures:
            for name, value in zip(part.names, part.values, strict=True):
                both = (value, np.sqrt(value)) if _is_variance(name) else (np.nan, value)
                rows.append((part.part, name, "", *both))
        names = ("group", "column", "column2", "covariance", "sd_or_corr")
        return make_frame(self.kind, dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))

    def table(self) -> Table:
        """As lme4 prints it: group, name, variance, SD, correlations with the columns before."""
        rows = []
        for g in self._all:
            for i, column in enumerate(g.columns):
                rows.append((g.group if i == 0 else "", column, g.cov[i, i], g.sd[i], g.corr[i, :i]))
        if self.sigma is not None:
            rows.append(("Residual", "", self.sigma**2, self.sigma, np.zeros(0)))
        variances, sds = format_column([r[2] for r in rows]), format_column([r[3] for r in rows])
        most = max((len(r[4]) for r in rows), default=0)
        header = ("Groups", "Name", "Variance", "Std.Dev.", *(("Corr",) + ("",) * (most - 1) if most else ()))
        body = tuple(
            (
                r[0],
                r[1],
                v,
                s,
                *("" if np.isnan(c) else f"{c:.2f}" for c in r[4]),
                *("",) * (most - len(r[4])),
            )
            for r, v, s in zip(rows, variances, sds, strict=True)
        )
        return Table("Random effects:" if self.groups else "Residual covariance:", header, body, labels=2)

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

    def __str__(self) -> str:
        return "\n\n".join(table.text() for table in self.tables())

    __repr__ = __str__


def varcorr(frame: ModelFrame, model: Model, estimate: Estimate) -> VarCorr:
    """Covariance matrices of the parts over effects and levels, natural parameters of the others."""
    parameters = natural_parameters(frame, model, estimate)
    groups, structures = [], []
    for part, G, natural in zip(frame.parts, estimate.covariances, parameters, strict=False):
        if part.columns:
            groups.append(GroupCovariance.of(part.group_label, part.columns, G))
        else:
            structures.append(natural)
    residual, sigma = None, estimate.sigma
    if frame.residual is not None and frame.residual.columns:
        residual = GroupCovariance.of("Residual", frame.residual.columns, estimate.residual)
    elif frame.residual is not None:
        structures.append(parameters[-1])
    return VarCorr(tuple(groups), sigma, frame.kind, residual, tuple(structures))


def natural_parameters(frame: ModelFrame, model: Model, estimate: Estimate) -> tuple[PartParameters, ...]:
    """Natural parameters of every part in the order of ``fit.theta``, the residual last."""
    found, start = [], 0
    own: tuple[FrameTerm | FrameField | None, ...] = (*frame.parts, frame.residual)
    for part, named in zip((*model.random, model.residual), own, strict=True):
        stop = start + part.structure.size(part.dim)
        natural = part.structure.natural(estimate.theta[start:stop], part.dim)
        text = "Residual" if named is None else named.text if named is not frame.residual else f"Residual {named.text}"
        names = tuple(_labelled(name, named) for name, _ in natural)
        found.append(PartParameters(text, names, np.array([float(value) for _, value in natural])))
        start = stop
    return tuple(found)


def _is_variance(name: str) -> bool:
    """Whether a parameter is a variance: ``variance``, ``ByGroup[0].variances[1]``, not ``covariance[1,0]``."""
    return name.rpartition(".")[2].startswith("variance")


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


def parameter_frame(parts: tuple[PartParameters, ...], kind: str) -> Any:
    """One row a parameter: part, name, estimate."""
    rows = [(p.part, name, value) for p in parts for name, value in zip(p.names, p.values, strict=True)]
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], []]
    return make_frame(kind, dict(zip(("part", "name", "estimate"), columns, strict=True)))
