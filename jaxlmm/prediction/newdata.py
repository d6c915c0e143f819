"""Rows of the data and of new data side by side, as parts whose covariances are known between any two rows.

A new row meets the data in the levels of grouping factors and in the groups of random functions that both have. What
a prediction is about decides which parts a new row has at all, and which of them are those of the data: a population
mean has none, an observation in a new group has new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..design.frame import ModelFrame, NewDesign
from ..design.grouping import FrameTerm, TermDesign, group_codes
from ..errors import DataError
from ..estimates.rows import FieldRows, Part, TermRows
from ..frames.columns import open_table
from ..frames.relationship import Unobserved, places_of
from ..likelihood.model import Model
from ..likelihood.parts import Field, Residual, Term

SHARED, FRESH, ABSENT = "shared", "fresh", "absent"  # of the data, an independent draw, not there


@dataclass(frozen=True, eq=False)
class NewRows:
    """Rows to predict.

    Attributes
    ----------
    X : (m, p);  offset : (m,) or None;  weights : (m,) or None
    parts : for each random part of the model and the residual its level or group (m,), None where every row is one, and
        its columns of Z (m, q), its levels (m,) or its coordinates (m, ...)
    unknown : for each random part, rows (m,) whose level or group the fit has not seen
    kin : for each random part, levels without data that the relationship matrix has, numbered behind those of the
        data; None where there are none
    """

    X: np.ndarray
    offset: np.ndarray | None
    weights: np.ndarray | None
    parts: tuple[tuple[np.ndarray | None, np.ndarray], ...]
    unknown: tuple[np.ndarray, ...]
    kin: tuple[Unobserved | None, ...]

    def __len__(self) -> int:
        return len(self.X)

    def take(self, rows: np.ndarray) -> NewRows:
        """Some of the rows."""
        parts = [(None if g is None else g[rows], place[rows]) for g, place in self.parts]
        kin = list(self.kin)
        for t, own in enumerate(kin):
            if own is not None:
                group, kin[t] = _without_others(parts[t][0], own)
                parts[t] = (group, parts[t][1])
        offset, weights = (None if a is None else a[rows] for a in (self.offset, self.weights))
        unknown = tuple(u[rows] for u in self.unknown)
        return NewRows(self.X[rows], offset, weights, tuple(parts), unknown, tuple(kin))


def rows_of_fit(model: Model) -> NewRows:
    """The rows of the data as rows to predict."""
    n = len(model.y)
    parts = [(part.group, part.Z if isinstance(part, Term) else _places(part, n)) for part in model.random]
    parts.append((model.residual.group, _places(model.residual, n)))
    count = len(model.random)
    known, kin = (np.zeros(n, bool),) * count, (None,) * count
    return NewRows(model.X, model.offset, model.weights, tuple(parts), known, kin)


def _places(field: Field, n: int) -> np.ndarray:
    if field.group is None:
        return np.zeros(n, int)
    return np.asarray(field.position if field.coords is None else field.row_coords)


def rows_of_data(
    frame: ModelFrame, model: Model, newdata: Any, random: bool | Sequence[bool], residual: bool
) -> NewRows:  # fmt: skip
    """Rows of new data.

    Parameters
    ----------
    random, residual : whether random parts (all, or each) and the residual are needed; their columns need not be there
        otherwise

    Raises
    ------
    DataError
        See ``ModelFrame.design``.
    """
    new = frame.design(newdata, random=random, residual=residual, extend=True)
    parts: list[tuple[np.ndarray | None, np.ndarray]] = []
    unknown: list[np.ndarray] = []
    kin: list[Unobserved | None] = []
    terms, fields = iter(zip(new.terms, frame.designs, strict=False)), iter(new.fields)
    wanted = [random] * len(model.random) if isinstance(random, bool) else list(random)
    for own, part, is_wanted in zip(frame.parts if any(wanted) else (), model.random, wanted, strict=False):
        if isinstance(part, Term):
            assert isinstance(own, FrameTerm)
            (Z, codes), design = next(terms)
            codes, related = _with_relatives(own, design, codes, newdata) if is_wanted else (codes, None)
            parts.append((codes, Z))
            kin.append(related)
        else:
            given = next(fields)
            parts.append(_placed(part, given, new) if is_wanted else unplaced(part, new.n))
            kin.append(None)
        group = parts[-1][0]
        groups = len(own.levels) if isinstance(own, FrameTerm) or own.levels else 1
        groups += 0 if kin[-1] is None else len(kin[-1].own)
        unknown.append(np.zeros(new.n, bool) if group is None else group >= groups)
    if residual:
        own_residual = (None, np.zeros(new.n, int))
        parts.append(own_residual if new.residual is None else _placed(model.residual, new.residual, new))
    return NewRows(new.X, new.offset, new.weights, tuple(parts), tuple(unknown), tuple(kin))


def unplaced(part: Field, m: int) -> tuple[np.ndarray, np.ndarray]:
    """A group and a place that there are, for rows (m,) in which the part is not."""
    return np.zeros(m, int), np.repeat(_places(part, 0)[:1], m, axis=0)


def _with_relatives(
    term: FrameTerm, design: TermDesign, codes: np.ndarray, newdata: Any
) -> tuple[np.ndarray, Unobserved | None]:
    """Levels (n,), those of the relationship matrix first among those without data; and these, if there are any.

    Parameters
    ----------
    codes : (n,) levels, those without data numbered behind those of the fit
    """
    m, kin = len(term.levels), term.relatives
    new = codes >= m
    if kin is None or not new.any():
        return codes, None
    table = open_table(newdata, "newdata")
    own, grouping = group_codes(design.grouping.names, {n: table.column(n) for n in design.grouping.names})
    places = places_of(grouping.labels(), kin.labels)
    found = np.array([-1 if place is None else place for place in places])[own[new]]  # -1: not in the matrix either
    which = np.unique(found[found >= 0])
    if not which.size:
        return codes, None
    strangers = np.unique(codes[new][found < 0], return_inverse=True)[1]
    codes = codes.copy()
    codes[np.flatnonzero(new)[found >= 0]] = m + np.searchsorted(which, found[found >= 0])
    codes[np.flatnonzero(new)[found < 0]] = m + len(which) + strangers
    return codes, kin.some(which)


def _without_others(group: Any, kin: Unobserved) -> tuple[np.ndarray, Unobserved | None]:
    """Levels (n,) numbered again, with those without data that they have."""
    r, m = kin.cross.shape
    related = (group >= m) & (group < m + r)
    which, place = np.unique(group[related] - m, return_inverse=True)
    group = np.where(group >= m + r, group - r + len(which), group)
    group[related] = m + place
    return group, kin.take(which) if which.size else None


def _placed(part: Field, place: Any, new: NewDesign) -> tuple[np.ndarray | None, np.ndarray]:
    group, columns = place
    if part.group is None:  # independent errors
        return None, np.zeros(new.n, int)
    if group is None and not np.any(part.group):  # one function over all rows
        group = np.zeros(new.n, np.int32)
    if part.coords is None:
        return group, columns[0]
    coords = np.column_stack(columns).astype(float)
    return group, coords[:, 0] if part.coords.ndim == 2 else coords


def check_known(frame: ModelFrame, new: NewRows, parts: Sequence[bool]) -> None:
    """Refuse rows with a level of a grouping factor, of some of the parts, that the fit has not seen."""
    for part, unknown, wanted in zip(frame.parts, new.unknown, parts, strict=True):
        if wanted and unknown.any():
            raise DataError(
                f"newdata: {int(unknown.sum())} rows have a level of {part.group_label!r} that was not in the fit; use "
                "allow_new_levels=True to give these an effect of zero, or random=False"
            )


def joined(
    model: Model, new: NewRows, K: tuple[Any, ...], state: Callable[[int], str]
) -> tuple[tuple[Part, ...], tuple[Any, ...]]:  # fmt: skip
    """Parts at the rows of the data, then the new ones; and their coordinates, as ``Prepared.coords``.

    Rows of the data are multiplied by the square roots of the weights, as V is in ``Rowwise``.

    Parameters
    ----------
    K : basis of the columns of Z that covariance blocks belong to, see ``Basis``
    state : of the part of a number, the residual being the last: SHARED, FRESH or ABSENT in the new rows
    """
    n, m = len(model.y), len(new)
    root = np.ones(n) if model.weights is None else np.sqrt(model.weights)
    joint: list[Part] = []
    for t, part in enumerate((*model.random, model.residual)):
        is_residual = t == len(model.random)
        how = state(t)
        group, place = new.parts[t] if how != ABSENT else (None, np.zeros(m, int))
        if isinstance(part, Term):
            joint.append(_term_rows(part, new.parts[t], new.kin[t], K[t], root, how))
            continue
        old = np.ones(n) if is_residual else root
        own = np.ones(m) / (np.sqrt(new.weights) if is_residual and new.weights is not None else 1.0)
        joint.append(_field_rows(part, group, place, np.concatenate([old, own * (how != ABSENT)]), how))
    return tuple(joint), tuple(part.coords if isinstance(part, FieldRows) else None for part in joint)


def _term_rows(
    part: Term, new: tuple[Any, np.ndarray], related: Unobserved | None, K: np.ndarray, root: np.ndarray, how: str
) -> TermRows:
    (group, Z), kin = new, part.relationship
    if related is not None:
        kin = related.beside(kin)
    if how != SHARED:
        levels = part.levels if kin is None else len(kin)
        if kin is not None:  # the variance is that of the level
            level = np.minimum(group, levels - 1)
            Z = Z * np.where(group < levels, np.sqrt(np.diagonal(kin)[level]), 1.0)[:, None]
        group = levels + np.arange(len(Z))
    Z = np.concatenate([part.Z * root[:, None], Z * (how != ABSENT)]) @ K
    return TermRows(Z, np.concatenate([part.group, group]).astype(int), kin)


def _field_rows(
    part: Field | Residual, group: np.ndarray | None, place: np.ndarray, scale: np.ndarray, how: str
) -> FieldRows:  # fmt: skip
    m = len(place)
    if part.group is None:
        return FieldRows.of(part, scale)
    groups = int(part.group.max()) + 1
    if how == ABSENT:  # where the first group has a row, in the same arm, times zero
        first = int(np.argmin(part.group))
        place = np.repeat(_places(part, 0)[first : first + 1], m, axis=0)
        group = np.zeros(m, int)
    elif how == FRESH or group is None:
        group = groups + np.arange(m)
    everywhere = np.concatenate([_places(part, 0), place])
    where = {"position": everywhere} if part.coords is None else {"coords": everywhere}
    both = Field(part.structure, np.concatenate([part.group, group]), **where, dim=part.dim, name=part.name)
    return FieldRows.of(both, scale)
