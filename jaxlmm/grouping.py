"""Random-effect terms of a formula as arrays: columns, group codes and levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .columns import Column
from .errors import DataError
from .relationship import Relatives
from .sides import Encoder, encode, finite
from .structured import take_arm
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

    def codes(self, data: Mapping[str, Column], extend: bool = False) -> np.ndarray:
        """Return the place of each row's group among the levels.

        A combination that does not occur there is -1 or, to `extend` them, one of further levels in order of sorting.
        """
        parts = [data[name].recode(levels) for name, levels in zip(self.names, self.levels, strict=True)]
        key = _mixed_radix(parts, [len(levels) for levels in self.levels])
        place = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        known = (self.keys[place] == key) & np.all([p >= 0 for p in parts], axis=0)
        if extend and not known.all():
            own = group_codes(self.names, data)[0][~known]
            place[~known] = len(self.keys) + np.unique(own, return_inverse=True)[1]
            return place.astype(np.int32)
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
    position : int
        Where the term starts in the text of the formula.
    text : str
        The term as it was written, without options.
    relatives : Relatives or None
        Levels that the data do not have but a relationship matrix of the grouping factor has.
    """

    columns: tuple[str, ...]
    Z: np.ndarray
    codes: np.ndarray
    levels: tuple[str, ...]
    group: str
    structure: str | None = None
    options: tuple[tuple[str, object], ...] = ()
    position: int = 0
    text: str = ""
    relatives: Relatives | None = None

    @property
    def group_label(self) -> str:
        """The grouping factor."""
        return self.group


@dataclass(frozen=True, eq=False)
class TermDesign:
    """How a term becomes arrays, learnt from one data set and used again for new data.

    Attributes
    ----------
    encoder : Encoder
        Of the columns left of the bar.
    grouping : Grouping
    arm : (str, tuple of str, int) or None
        A column, its levels, and the one of them in whose rows alone the term is not zero (``by=``).
    """

    encoder: Encoder
    grouping: Grouping
    arm: tuple[str, tuple[str, ...], int] | None = None

    @property
    def arm_label(self) -> str:
        """``[arm=a]``; empty without ``by=``."""
        return "" if self.arm is None else f"[{self.arm[0]}={self.arm[1][self.arm[2]]}]"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(name + self.arm_label for name in self.encoder.names)

    def rows(
        self, coded: Mapping[str, Column], data: Mapping[str, Column], n: int, extend: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Columns (n, q) and group codes (n,) of new data; `coded` has the levels of the first data."""
        Z = finite(self.encoder.columns(coded, n), self.encoder.names)
        return self.in_arm(Z, data), self.grouping.codes(data, extend)

    def in_arm(self, Z: np.ndarray, data: Mapping[str, Column]) -> np.ndarray:
        """The columns, zero outside of the arm."""
        if self.arm is None:
            return Z
        column, levels, k = self.arm
        codes = data[column].recode(levels)
        if (codes < 0).any():
            raise DataError(f"column {column!r} has a level that was not in the data of the fit: {', '.join(levels)}")
        return Z * (codes == k)[:, None]


def random_terms(
    bar: Bar, formula: Formula, data: Mapping[str, Column], n: int, weights: np.ndarray | None, related: bool = False
) -> list[tuple[FrameTerm, TermDesign]]:  # fmt: skip
    """Evaluate one bar: its arrays, and what is needed to make them again; a term for each level of ``by=``.

    Parameters
    ----------
    related : the levels have a known relationship, which tells effects of every row from the residual
    """
    Z, encoder = encode(bar.side, formula, data, n)
    Z = finite(Z, encoder.names)
    codes, grouping = group_codes(bar.group, data)
    levels = grouping.labels()
    _check_size(bar, len(levels), Z.shape[1], n, weights, related)
    options, arm, shared = take_arm(bar.options)
    if shared:
        raise DataError(
            f"{bar.structure}({bar.lhs} | {bar.group_label}): 'shared' is for structures over columns and residuals; "
            "these are random effects of columns"
        )
    designs = [TermDesign(encoder, grouping)]
    if arm:
        names = data[arm[0]].as_factor().levels
        designs = [TermDesign(encoder, grouping, (arm[0], names, k)) for k in range(len(names))]
    text = f"{bar.structure or ''}({formula.readable(bar.lhs)} | {bar.group_label})"
    return [
        (
            FrameTerm(
                d.names,
                d.in_arm(Z, data),
                codes,
                levels,
                bar.group_label,
                bar.structure,
                options,
                bar.position,
                text + d.arm_label,
            ),
            d,
        )
        for d in designs
    ]


def group_codes(names: tuple[str, ...], data: Mapping[str, Column]) -> tuple[np.ndarray, Grouping]:
    """The place of each row (n,) among the combinations of the levels of columns, and these."""
    factors = [data[name].as_factor() for name in names]
    key = _mixed_radix([f.values for f in factors], [len(f.levels) for f in factors])
    keys, codes = np.unique(key, return_inverse=True)
    return codes.astype(np.int32), Grouping(names, tuple(f.levels for f in factors), keys)


def _mixed_radix(parts: list[np.ndarray], sizes: list[int]) -> np.ndarray:
    """Number combinations of codes, the first code slowest."""
    key = np.zeros(len(parts[0]), dtype=np.int64)
    for part, size in zip(parts, sizes, strict=True):
        key = key * size + part
    return key


def _check_size(bar: Bar, levels: int, q: int, n: int, weights: np.ndarray | None, related: bool) -> None:
    """Refuse terms that cannot be estimated, as lme4 does."""
    if levels < 2:
        raise DataError(f"the grouping factor {bar.group_label!r} has only one level; at least two are needed")
    if related or bar.structure not in _FREE_STRUCTURES:
        return
    known_variances = weights is not None and np.ptp(weights) > 0 and q == 1
    if levels * q >= n and not (known_variances and levels <= n):
        what = f"({bar.lhs} | {bar.group_label})"
        if levels >= n:
            message = f"the grouping factor {bar.group_label!r} has as many levels as there are observations ({n})"
            raise DataError(f"{message}: its effects cannot be told from the residual")
        message = f"the term {what} has {levels * q} random effects ({levels} levels x {q} columns)"
        raise DataError(f"{message} for {n} observations: they cannot be told from the residual")
