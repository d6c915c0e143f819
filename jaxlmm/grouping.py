"""Random-effect terms of a formula as arrays: columns, group codes and levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .columns import Column
from .errors import DataError
from .sides import Encoder, encode, finite
from .terms import Bar, Formula

_FREE_STRUCTURES = (
    None,
    "us",
    "diag",
)  # with these, effects as many as rows cannot be told from the residual


@dataclass(frozen=True, eq=False)
class Grouping:
    """Levels of a grouping factor: those of each column and the combinations that occur."""

    names: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    keys: np.ndarray  # sorted mixed-radix numbers of the combinations, first column slowest

    def codes(self, data: Mapping[str, Column]) -> np.ndarray:
        """Return the place of each row's group among the levels, -1 for a combination that does not occur."""
        parts = [data[name].recode(levels) for name, levels in zip(self.names, self.levels, strict=True)]
        key = _mixed_radix(parts, [len(levels) for levels in self.levels])
        place = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        known = (self.keys[place] == key) & np.all([p >= 0 for p in parts], axis=0)
        return np.where(known, place, -1).astype(np.int32)

    def labels(self) -> tuple[str, ...]:
        """Return the labels of the levels, such as ``"b1:a1"``."""
        parts, rest = [], self.keys
        for levels in reversed(self.levels):
            rest, code = np.divmod(rest, len(levels))
            parts.append([levels[c] for c in code])
        return tuple(":".join(p) for p in zip(*reversed(parts), strict=True))


@dataclass(frozen=True, eq=False)
class FrameTerm:
    """One random-effect term as arrays.

    Attributes
    ----------
    columns : tuple of str
        Names of the columns of `Z`.
    Z : (n, q) float64 array
        Values of the left side of the bar, one row an observation.
    codes : (n,) int32 array
        Place of each observation's group in `levels`.
    levels : tuple of str
        Labels of the groups, ``"b1:a1"`` for an interaction.
    group : str
        The grouping factor, for example ``"Subject"`` or ``"cask:batch"``.
    structure : str or None
        Name of the covariance structure; None for an unstructured one.
    options : tuple of (str, object)
        Options of the structure.
    """

    columns: tuple[str, ...]
    Z: np.ndarray
    codes: np.ndarray
    levels: tuple[str, ...]
    group: str
    structure: str | None = None
    options: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, eq=False)
class FrameResidual:
    """A residual structure as arrays.

    Attributes
    ----------
    position, subject : (n,) int32 codes of each observation's level and subject
    levels : labels of the positions;  subjects : number of subjects
    column, group : the columns they come from
    structure, options : name of the covariance structure and its options;  text : as it was given
    """

    position: np.ndarray
    subject: np.ndarray
    levels: tuple[str, ...]
    subjects: int
    column: str
    group: str
    structure: str
    options: tuple[tuple[str, object], ...]
    text: str


def frame_residual(bar: Bar, column: str, group: str, text: str, data: Mapping[str, Column]) -> FrameResidual:
    """Evaluate a residual structure ``name(column | group)``.

    Raises
    ------
    DataError
        For a level that no row has, and a level that a subject has more than once.
    """
    visits, subjects = data[column].as_factor(), data[group].as_factor()
    absent = np.flatnonzero(np.bincount(visits.values, minlength=len(visits.levels)) == 0)
    if absent.size:
        names = ", ".join(repr(visits.levels[i]) for i in absent[:5])
        raise DataError(f"residual={text!r}: no row has the level {names} of {column!r}; drop it from the categories")
    key = subjects.values.astype(np.int64) * len(visits.levels) + visits.values
    values, counts = np.unique(key, return_counts=True)
    if (counts > 1).any():
        subject, visit = divmod(int(values[np.argmax(counts > 1)]), len(visits.levels))
        raise DataError(
            f"residual={text!r}: {group!r} {subjects.levels[subject]!r} has {int(counts.max())} rows with {column!r} "
            f"{visits.levels[visit]!r}; each row of a subject needs a level of its own"
        )
    return FrameResidual(
        visits.values.astype(np.int32), subjects.values.astype(np.int32), visits.levels, len(subjects.levels),
        column, group, bar.structure or "us", bar.options, text,
    )  # fmt: skip


def random_term(
    bar: Bar, formula: Formula, data: Mapping[str, Column], n: int, weights: np.ndarray | None
) -> tuple[FrameTerm, Encoder, Grouping]:
    """Evaluate one bar: its arrays, and what is needed to make them again for new data."""
    Z, encoder = encode(bar.side, formula, data, n)
    Z = finite(Z, encoder.names)
    codes, grouping = _group(bar, data)
    levels = grouping.labels()
    _check_size(bar, len(levels), Z.shape[1], n, weights)
    term = FrameTerm(encoder.names, Z, codes, levels, bar.group_label, bar.structure, bar.options)
    return term, encoder, grouping


def _group(bar: Bar, data: Mapping[str, Column]) -> tuple[np.ndarray, Grouping]:
    factors = [data[name].as_factor() for name in bar.group]
    key = _mixed_radix([f.values for f in factors], [len(f.levels) for f in factors])
    keys, codes = np.unique(key, return_inverse=True)
    return codes.astype(np.int32), Grouping(bar.group, tuple(f.levels for f in factors), keys)


def _mixed_radix(parts: list[np.ndarray], sizes: list[int]) -> np.ndarray:
    """Number combinations of codes, the first code slowest."""
    key = np.zeros(len(parts[0]), dtype=np.int64)
    for part, size in zip(parts, sizes, strict=True):
        key = key * size + part
    return key


def _check_size(bar: Bar, levels: int, q: int, n: int, weights: np.ndarray | None) -> None:
    """Refuse terms that cannot be estimated, as lme4 does."""
    if levels < 2:
        raise DataError(f"the grouping factor {bar.group_label!r} has only one level; at least two are needed")
    if bar.structure not in _FREE_STRUCTURES:
        return
    known_variances = weights is not None and np.ptp(weights) > 0 and q == 1
    if levels * q >= n and not (known_variances and levels <= n):
        what = f"({bar.lhs} | {bar.group_label})"
        if levels >= n:
            message = f"the grouping factor {bar.group_label!r} has as many levels as there are observations ({n})"
            raise DataError(f"{message}: its effects cannot be told from the residual")
        message = f"the term {what} has {levels * q} random effects ({levels} levels x {q} columns)"
        raise DataError(f"{message} for {n} observations: they cannot be told from the residual")
