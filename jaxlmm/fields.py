"""Structures within groups as arrays: terms such as ``ou(t | id)``, residuals such as ``us(visit | arm / id)``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .columns import Column
from .covariance import Covariance, Identity, ReducedRank
from .errors import DataError
from .grouping import group_codes
from .placing import Placed, by_arm, place, scaled
from .specs import FieldSpec, ResidualSpec
from .trees import Leaf
from .variances import check_covariate


@dataclass(frozen=True, eq=False)
class FrameField:
    """A structure within groups as arrays.

    Attributes
    ----------
    placed : Placed
        The structure and the place of each row.
    group : (n,) int32 codes or None
        Groups, between which rows are independent; None for one over all rows.
    levels : tuple of str
        Labels of the groups.
    label : str
        The grouping factor, "" over all rows.
    text : str
        As it was written.
    """

    placed: Placed
    group: np.ndarray | None
    levels: tuple[str, ...]
    label: str
    text: str

    @property
    def structure(self) -> Covariance:
        """The covariance structure."""
        return self.placed.structure

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
    group, levels = _groups(spec.item.group, data)
    if spec.item.arm:  # independent from arm to arm; often groups are within arms anyway
        arm = _interaction(spec.item.arm, data)
        placed = by_arm(placed, arm, spec.item.shared, what)
        group, levels = _groups((*spec.item.arm, *spec.item.group), data)
    return FrameField(placed, group, levels, ":".join(spec.item.group), spec.text)


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
        levels: tuple[str, ...] = ()
    else:
        placed = place(own.tree, data, before, what)
        _check_regular(placed, what)
        codes, levels = _groups(own.item.group, data)
        group, label, text = (np.zeros(n, np.int32) if codes is None else codes), ":".join(own.item.group), own.text
        if own.item.arm:
            arm = _interaction(own.item.arm, data)
            _check_one_arm(group, levels, arm, label, what)
            placed = by_arm(placed, arm, own.item.shared, what)
        _check_distinct(placed, group, levels, label, what)
    if spec.function is not None:
        check_covariate(spec.function, data[spec.covariate])
        placed = scaled(placed, spec.function, data[spec.covariate])
    return FrameField(placed, group, levels, label, text)


def _groups(names: tuple[str, ...], data: Mapping[str, Column]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    if not names:
        return None, ()
    codes, grouping = group_codes(names, data)
    return codes, grouping.labels()


def _interaction(names: tuple[str, ...], data: Mapping[str, Column]) -> Column:
    codes, grouping = group_codes(names, data)
    return Column(":".join(names), "factor", codes, grouping.labels())


def _check_regular(placed: Placed, what: str) -> None:
    """Refuse reduced rank where it would be the whole covariance of the rows of a subject."""
    if isinstance(placed.structure, ReducedRank) and placed.structure.d < placed.dim:
        raise DataError(
            f"{what}: a covariance matrix of rank d = {placed.structure.d} between {placed.dim} levels is singular; "
            "write '+ iid()' beside it, or use fa"
        )


def _check_one_arm(group: np.ndarray, levels: tuple[str, ...], arm: Column, label: str, what: str) -> None:
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


def _check_distinct(placed: Placed, group: np.ndarray, levels: tuple[str, ...], label: str, what: str) -> None:
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
