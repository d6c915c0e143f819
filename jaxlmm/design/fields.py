"""Structures within groups as arrays: terms such as ``ou(t | id)``, residuals such as ``us(visit | arm / id)``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..covariance import ConstPower, Covariance, Ident, Identity, Power, ReducedRank, Scaled, VarianceFunction
from ..errors import DataError
from ..formula.specs import FieldSpec, Leaf, ResidualSpec
from ..frames.columns import Column, Levels
from .grouping import Grouping, group_codes
from .placing import Placed, by_arm, place, scaled


@dataclass(frozen=True, eq=False)
class FrameField:
    """A structure within groups as arrays.

    Attributes
    ----------
    placed : Placed
        The structure and the place of each row.
    group : (n,) int32 codes or None
        Groups, between which rows are independent; None for one over all rows.
    levels : Levels
        Labels of the groups.
    label : str
        The grouping factor, "" over all rows.
    text : str
        As it was written.
    grouping : Grouping or None
        Of the groups, None where there are none or every row is one.
    arm : Grouping or None
        Of the arms whose parameters are their own; they are the first of the columns of `placed`.
    """

    placed: Placed
    group: np.ndarray | None
    levels: Levels
    label: str
    text: str
    grouping: Grouping | None = None
    arm: Grouping | None = None

    @property
    def column_names(self) -> tuple[str, ...]:
        """Columns of the data that say where a row is."""
        by = [g.names for g in (self.grouping, self.arm) if g is not None]
        own = self.placed.names[0 if self.arm is None else 1 :]
        return tuple(dict.fromkeys(name for names in (*by, own) for name in names if name))

    def rows(self, data: Mapping[str, Column], n: int) -> tuple[np.ndarray | None, tuple[np.ndarray, ...]]:
        """Groups (n,), those not seen in the fit numbered behind the others, and places of new rows.

        Groups in different arms are different groups, whatever they are called.

        Raises
        ------
        DataError
            For a level, such as a visit or an arm, that was not in the data of the fit.
        """
        group = None if self.grouping is None else self.grouping.codes(data, extend=True)
        columns: list[np.ndarray] = []
        for i, (name, labels) in enumerate(zip(self.placed.names, self.placed.labels, strict=True)):
            if self.arm is not None and i == 0:
                codes = self.arm.codes(data)
            elif not name:  # iid()
                codes = np.zeros(n, np.int32)
            elif labels:
                codes = data[name].recode(labels)
            else:
                _check_number(data[name], self.text)
                columns.append(np.asarray(data[name].values, np.float64))
                continue
            if (codes < 0).any():
                raise DataError(
                    f"newdata: {int((codes < 0).sum())} row(s) have a level of {name!r} that was not in the data of "
                    f"the fit, and {self.text} has no covariance for it; known levels: {', '.join(labels[:10])}"
                )
            columns.append(codes)
        if self.arm is not None and group is not None:
            group = self._in_arms(group, columns[0])
        return group, tuple(columns)

    def _in_arms(self, group: np.ndarray, arm: np.ndarray) -> np.ndarray:
        """Groups of new rows, one that has rows in another arm than in the fit, or in several, being one for each."""
        assert self.group is not None
        count = int(self.group.max()) + 1
        own = np.empty(count, np.int64)
        own[self.group] = self.placed.columns[0]
        other = (group >= count) | (arm != own[np.minimum(group, count - 1)])
        if not other.any():
            return group
        pairs = np.column_stack([group, arm])[other]
        group = group.copy()
        group[other] = count + np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
        return group

    @property
    def structure(self) -> Covariance:
        """The covariance structure."""
        return self.placed.structure

    @property
    def is_known(self) -> bool:
        """Whether no parameter of it is estimated."""
        return self.structure.size(self.placed.dim) == 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Labels of the levels where it is over those of one column, whose covariance matrix says it all; else none."""
        return self.placed.labels[0] if self.placed.is_over_levels and not self.placed.is_everywhere else ()

    @property
    def group_label(self) -> str:
        """How tables call it: its grouping factor, or its text over all rows."""
        return self.label or self.text

    def row_labels(self) -> tuple[str, ...]:
        """The group and the place of each row in words."""
        n = len(self.placed.columns[0])
        groups = [""] * n if self.group is None or not self.levels else [self.levels[g] + ": " for g in self.group]
        return tuple(group + self.placed.short_label(i) for i, group in enumerate(groups))

    def arguments(self) -> dict[str, Any]:
        """What `jaxlmm.Field` and `jaxlmm.Residual` are made of."""
        if self.placed.is_everywhere:  # independent errors with a variance that is fixed
            return {"structure": self.structure}
        return {"structure": self.structure, "group": self.group, **self.placed.arrays()}


def frame_field(spec: FieldSpec, data: Mapping[str, Column], before: Mapping[str, Column], what: str) -> FrameField:
    """Evaluate a term over columns.

    Parameters
    ----------
    spec : FieldSpec
    data : columns at the rows used;  before : at all rows
    what : the term or argument, for messages
    """
    placed = place(spec.tree, data, before, what)
    names, arms = spec.item.group, None
    if spec.item.arm:  # independent from arm to arm; often groups are within arms anyway
        arm, arms = _interaction(spec.item.arm, data)
        placed = by_arm(placed, arm, spec.item.shared, what)
        names = (*spec.item.arm, *spec.item.group)
    group, levels, grouping = _groups(names, data)
    return FrameField(placed, group, levels, ":".join(spec.item.group), spec.text, grouping, arms)


def frame_residual(spec: ResidualSpec, data: Mapping[str, Column], before: Mapping[str, Column]) -> FrameField | None:
    """Evaluate the residual structure, its standard deviations scaled by the variance function; None for iid.

    Raises
    ------
    DataError
        For a place that a subject has more than once, or a subject in two arms.
    """
    what = f"residual={spec.text!r}"
    n = len(next(iter(data.values())).values)
    own = spec.residual
    if own is None or own.is_iid:
        if own is None and spec.function is None:
            return None
        structure = Identity() if own is None else own.tree.structure  # type: ignore[union-attr]
        if spec.function is None and structure.is_free:
            return None
        placed = place(Leaf(structure, (), "iid()"), data, before, what)
        group, label, text = np.arange(n, dtype=np.int32), "", "iid()"
        levels = Levels((), ())
        grouping = arms = None
    else:
        placed = place(own.tree, data, before, what)
        _check_regular(placed, what)
        codes, levels, grouping = _groups(own.item.group, data)
        arms = None
        group, label, text = (np.zeros(n, np.int32) if codes is None else codes), ":".join(own.item.group), own.text
        if own.item.arm:
            arm, arms = _interaction(own.item.arm, data)
            _check_one_arm(group, levels, arm, label, what)
            placed = by_arm(placed, arm, own.item.shared, what)
        _check_distinct(placed, group, levels, label, what)
    if spec.function is not None:
        check_covariate(spec.function, data[spec.covariate])
        placed = scaled(placed, spec.function, data[spec.covariate])
    return FrameField(placed, group, levels, label, text, grouping, arms)


def on_diagonal(residual: FrameField | None, terms: Iterable[Any]) -> str | None:
    """Residuals ``iid()`` with ``ident(f)`` as a diagonal matrix over f in groups of a term; None where they are not.

    The ratios of `Ident` have no place for a variance of zero, which the likelihood may ask for beside effects of such
    groups. A group has no level twice.
    """
    if residual is None or residual.text != "iid()" or not isinstance(residual.placed.structure, Scaled):
        return None
    structure, name, level = residual.placed.structure, residual.placed.names[-1], residual.placed.columns[-1]
    if not structure.has_variances or not structure.is_free:
        return None
    found = (term.group for term in terms if np.unique([term.codes, level], axis=1).shape[1] == len(level))
    return next((f"diag({name} | {group})" for group in found), None)


def _groups(names: tuple[str, ...], data: Mapping[str, Column]) -> tuple[np.ndarray | None, Levels, Grouping | None]:
    if not names:
        return None, Levels((), ()), None
    codes, grouping = group_codes(names, data)
    return codes, grouping.labels(), grouping


def _interaction(names: tuple[str, ...], data: Mapping[str, Column]) -> tuple[Column, Grouping]:
    codes, grouping = group_codes(names, data)
    return Column(":".join(names), "factor", codes, grouping.labels()), grouping


def _check_number(column: Column, text: str) -> None:
    """Refuse text where the fit had times or coordinates."""
    if column.kind != "number":
        raise DataError(f"newdata: column {column.name!r} of {text} was numeric in the data of the fit")


def _check_regular(placed: Placed, what: str) -> None:
    """Refuse reduced rank where it would be the whole covariance of the rows of a subject."""
    if isinstance(placed.structure, ReducedRank) and placed.structure.d < placed.dim:
        raise DataError(
            f"{what}: a covariance matrix of rank d = {placed.structure.d} between {placed.dim} levels is singular; "
            "write '+ iid()' beside it, or use fa"
        )


def _check_one_arm(group: np.ndarray, levels: Levels, arm: Column, label: str, what: str) -> None:
    first = np.full(int(group.max()) + 1, -1)
    first[group[::-1]] = arm.values[::-1]
    wrong = np.flatnonzero(arm.values != first[group])
    if wrong.size:
        row = wrong[0]
        name = f"{label!r} {levels[group[row]]!r}" if levels else "the one group of all rows"
        found = " and ".join(repr(arm.levels[k]) for k in (first[group[row]], arm.values[row]))
        raise DataError(
            f"{what}: {name} has rows with {arm.name!r} {found}; each group needs one level of {arm.name!r}"
        )


def _check_distinct(placed: Placed, group: np.ndarray, levels: Levels, label: str, what: str) -> None:
    keys = np.column_stack([group, *placed.columns])
    _, first, counts = np.unique(keys, axis=0, return_index=True, return_counts=True)
    if (counts == 1).all():
        return
    row = int(first[np.argmax(counts > 1)])
    subject = f"{label!r} {levels[group[row]]!r} has" if levels else "there are"
    raise DataError(
        f"{what}: {subject} {int(counts[counts > 1][0])} rows with {placed.label(row)}; each row of a subject needs a "
        f"{'level' if placed.is_over_levels else 'place'} of its own (with '+ iid()' beside it, it may be repeated)"
    )


def check_covariate(function: VarianceFunction, column: Column) -> None:
    """Refuse a covariate that the function is not defined for."""
    name = type(function).__name__
    if isinstance(function, Ident):
        if len(column.as_factor().levels) < 2:
            raise DataError(f"variance: ident({column.name}) needs at least two levels, found one")
        return
    if column.kind != "number":
        raise DataError(f"variance: {name} needs numbers, but column {column.name!r} holds text, levels or dates")
    if isinstance(function, Power | ConstPower) and np.any(column.values == 0):
        count = int(np.sum(column.values == 0))
        raise DataError(
            f"variance: {name} needs values other than zero, but {count} of column {column.name!r} are zero"
        )
    if np.ptp(column.values) == 0:
        raise DataError(f"variance: column {column.name!r} is constant, so the parameters of {name} cannot be told")
