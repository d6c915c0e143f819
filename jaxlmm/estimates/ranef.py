"""Predicted random effects as users see them: by grouping factor, and the directions in which there are none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..design.fields import FrameField
from ..design.frame import ModelFrame
from ..design.grouping import FrameTerm
from ..errors import DataError
from ..fitting.units import Estimate
from ..frames.columns import Levels, make_frame
from ..frames.tables import Shown, Table, format_column, notes
from .effects import effects_of
from .fitted import FitBase

SHOWN = 10  # levels that are printed


@dataclass(frozen=True, repr=False)
class GroupEffects(Shown):
    """Predicted random effects of one grouping factor.

    `values` (m, q) by level and column; `condvar` (m, q, q), their covariance given the data with theta and beta
    taken as known (lme4's ``condVar``); `pev` (m, q, q), the variance of their prediction errors, which includes that
    of the estimated beta (Henderson 1975). Both are NaN by the iterative engine but of levels that were
    asked for. Of a structure over columns, one row an observation. Levels without data, where they were asked for,
    stand behind the others.
    """

    group: str
    levels: Levels
    columns: tuple[str, ...]
    values: np.ndarray
    condvar: np.ndarray
    pev: np.ndarray
    kind: str = "dict"
    note: str = ""

    def at(self, levels: Sequence[Any]) -> GroupEffects:
        """Those of some levels, given by their values or labels, in this order."""
        at = positions(self.group, self.levels, levels)
        rows = {name: getattr(self, name)[at] for name in ("values", "condvar", "pev")}
        return replace(self, levels=self.levels.at(at), **rows)

    def frame(self) -> Any:
        """One row a level: its label and the effects."""
        columns = {c: self.values[:, j] for j, c in enumerate(self.columns)}
        return make_frame(self.kind, {self.group: list(self.levels), **columns})

    def table(self) -> Table:
        """The first levels."""
        cells = [format_column(x[:SHOWN]) for x in self.values.T]
        rows = tuple(zip(self.levels[:SHOWN], *cells, strict=True))
        left = len(self.levels) - len(rows)
        title = f"Predicted effects of {self.group}, {len(self.levels)} levels:"
        return Table(title, ("", *self.columns), rows, note=notes(f"and {left} more" if left else "", self.note))


class RandomEffects(Mapping[str, GroupEffects]):
    """Predicted random effects by label of the grouping factor; of structures over columns by their text."""

    def __init__(self, entries: Mapping[str, GroupEffects]):
        self._entries = dict(entries)

    def at(self, levels: Mapping[str, Sequence[Any]]) -> RandomEffects:
        """Those of some levels of some grouping factors."""
        if not isinstance(levels, Mapping) or not levels or not set(levels) <= set(self):
            known = ", ".join(map(repr, self))
            raise DataError(f"levels: found {levels!r}, expected lists of levels by grouping factor, which are {known}")
        return RandomEffects({group: self[group].at(own) for group, own in levels.items()})

    def __getitem__(self, group: str) -> GroupEffects:
        return self._entries[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        parts = (f"{g}: {len(e.levels)} levels x ({', '.join(e.columns)})" for g, e in self._entries.items())
        return f"RandomEffects({'; '.join(parts)})"

    def _repr_html_(self) -> str:
        return "".join(entry.table().html() for entry in self._entries.values())


@dataclass(frozen=True)
class SingularDirection:
    """A combination of random effects whose variance is estimated as zero: `direction` (q,) of length one."""

    group: str
    columns: tuple[str, ...]
    direction: np.ndarray

    def __str__(self) -> str:
        parts = [f"{d:+.3g} {c}" for d, c in zip(self.direction, self.columns, strict=True) if abs(d) > 5e-4]
        return f"{self.group}: no variance along {' '.join(parts)}"


def positions(group: str, known: Levels, levels: Sequence[Any]) -> np.ndarray:
    """Places of levels, given by their values or labels, among those of a grouping factor."""
    if isinstance(levels, str) or not len(levels):
        raise DataError(f"levels: found {levels!r} for {group!r}, expected a list of its levels")
    find = known.place_of if isinstance(levels, Levels) else known.find
    found = [find(value) for value in (levels.keys if isinstance(levels, Levels) else levels)]
    if None in found:
        missing = levels[found.index(None)]
        raise DataError(f"levels: {missing!r} is no level of {group!r}; it has {known[0]!r}, ...")
    return np.array(found)


def random_effects(
    fit: FitBase, all_levels: bool = False, chosen: Mapping[str, Sequence[Any]] | None = None
) -> RandomEffects:  # fmt: skip
    """Predictors (BLUPs) with conditional covariances: an entry a grouping factor, and a structure over columns.

    Parameters
    ----------
    all_levels : with those of relationship matrices that have no data
    chosen : by grouping factor, levels whose covariances the iterative engine finds; the entries are of all levels
    """
    entries: dict[str, GroupEffects] = {}
    frame = fit.frame
    kin = [p.relatives if all_levels and isinstance(p, FrameTerm) else None for p in frame.parts]
    found = effects_of(fit, kin if any(own is not None for own in kin) else None)
    if chosen and fit.model.evaluator.stochastic:
        firsts = [frame.parts[effects.terms[0]] for effects in found]
        terms = [(t, p) for t, p in enumerate(firsts) if isinstance(p, FrameTerm) and p.group in chosen]
        own = {t: positions(p.group, p.levels, chosen[p.group]) for t, p in terms}
        found = effects_of(fit, chosen=own)
    for effects in found:
        parts = [frame.parts[t] for t in effects.terms]
        first = parts[0]
        columns: tuple[str, ...] = ("value",)
        if isinstance(first, FrameField):
            key, levels = first.text, Levels.of_text(first.row_labels())
        else:
            key, levels = first.group, first.levels
            others = kin[effects.terms[0]]
            levels = levels if others is None else levels + others.labels
            columns = tuple(c for part in parts if isinstance(part, FrameTerm) for c in part.columns)
        arrays = (effects.values.copy(), effects.condvar.copy(), effects.pev.copy())  # the fit's own stay as they are
        entries[key] = GroupEffects(key, levels, columns, *arrays, frame.kind)
    return RandomEffects(entries)


def coefficients_by(fit: FitBase, group: str, coef: np.ndarray | None = None, values: np.ndarray | None = None) -> Any:
    """See ``Fit.coef_by``. ``b:a`` and ``a:b`` are one name; effects by group are of the groups that a level is in.

    Of other coefficients (p,) and effects (m, q) where they are given.
    """
    factors = list(dict.fromkeys(p.group for p in fit.frame.parts if isinstance(p, FrameTerm)))
    if group not in factors:
        raise DataError(f"group: found {group!r}, expected one of the grouping factors: {', '.join(factors) or 'none'}")
    effects = random_effects(fit)[group]
    columns = {
        _parts(name): (name, np.full(len(effects.levels), b))
        for name, b in zip(fit.coef_names, fit.coef if coef is None else coef, strict=True)
    }
    suffixes = [design.arm_label for design in fit.frame.designs]
    for label, column in zip(effects.columns, (effects.values if values is None else values).T, strict=True):
        name = next((label.removesuffix(end) for end in suffixes if end and label.endswith(end)), label)
        own, sum_before = columns.get(_parts(name), (name, 0.0))
        columns[_parts(name)] = own, sum_before + column
    return make_frame(effects.kind, {group: list(effects.levels), **dict(columns.values())})


def _parts(name: str) -> tuple[str, ...]:
    return tuple(sorted(name.split(":")))


def singular_directions(frame: ModelFrame, estimate: Estimate) -> tuple[SingularDirection, ...]:
    """Which combinations of random effects, or of levels, have no variance."""
    found = []
    for part, G, boundary in zip(frame.parts, estimate.covariances, estimate.boundary, strict=False):
        if boundary and G.size:
            found.append(SingularDirection(part.group_label, part.columns, np.linalg.eigh(G)[1][:, 0]))
    return tuple(found)
