"""Random-effect terms of a formula as arrays: columns, group codes and levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from ..formula.structures import take_arm
from ..formula.syntax import Bar, Formula
from ..frames.columns import Column, Levels
from ..frames.levels import joined_labels, numbered
from ..frames.relationship import Relatives
from .encoding import Encoder, encode, finite, side_columns

_FREE_STRUCTURES = (None, "us", "diag")  # with these, effects as many as rows cannot be told from the residual


@dataclass(frozen=True, eq=False)
class Grouping:
    """Levels of a grouping factor: those of each column and the combinations that occur.

    A combination of the first columns is numbered by its place among those that occur; with the next column's code it
    makes a pair, and the pairs that occur, as numbers in `pairs`, are the combinations of one column more. No number
    exceeds rows times levels, however many columns there are.
    """

    names: tuple[str, ...]
    levels: tuple[Levels, ...]
    pairs: tuple[np.ndarray, ...]  # sorted, for each column but the first

    def codes(self, data: Mapping[str, Column], extend: bool = False) -> np.ndarray:
        """Return the place of each row's group among the levels.

        A combination that does not occur there is -1 or, to `extend` them, one of further levels in order of sorting.
        """
        parts = [data[name].recode(levels) for name, levels in zip(self.names, self.levels, strict=True)]
        place = parts[0].astype(np.int64)
        for part, levels, pairs in zip(parts[1:], self.levels[1:], self.pairs, strict=True):
            pair = place * len(levels) + part
            found = np.minimum(np.searchsorted(pairs, pair), len(pairs) - 1)
            place = np.where((pairs[found] == pair) & (place >= 0) & (part >= 0), found, -1)
        known = place >= 0
        if extend and not known.all():
            own = group_codes(self.names, data)[0][~known]
            place[~known] = len(self) + np.unique(own, return_inverse=True)[1]
        return place.astype(np.int32)

    def __len__(self) -> int:
        return len(self.pairs[-1]) if self.pairs else len(self.levels[0])

    def labels(self) -> Levels:
        """Return the levels, of an interaction with labels such as ``"b1:a1"``."""
        if not self.pairs:
            return self.levels[0]
        place, parts = np.arange(len(self)), []
        for levels, pairs in zip(reversed(self.levels), reversed(self.pairs), strict=False):
            place, code = np.divmod(pairs[place], len(levels))
            parts.append([levels[c] for c in code])
        parts.append([self.levels[0][c] for c in place])
        return Levels.of_text(joined_labels(parts[::-1]))


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
    levels : Levels
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
    factors : tuple of Column
        The factors left of the bar.
    relatives : Relatives or None
        Levels that the data do not have but a relationship matrix of the grouping factor has.
    """

    columns: tuple[str, ...]
    Z: np.ndarray
    codes: np.ndarray
    levels: Levels
    group: str
    structure: str | None = None
    options: tuple[tuple[str, object], ...] = ()
    position: int = 0
    text: str = ""
    factors: tuple[Column, ...] = ()
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
    arm : (str, Levels, int) or None
        A column, its levels, and the one of them in whose rows alone the term is not zero (``by=``).
    """

    encoder: Encoder
    grouping: Grouping
    arm: tuple[str, Levels, int] | None = None

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
    bar: Bar, formula: Formula, data: Mapping[str, Column], n: int, weights: np.ndarray | None, apart: bool = False
) -> list[tuple[FrameTerm, TermDesign]]:
    """Evaluate one bar: its arrays, and what is needed to make them again; a term for each level of ``by=``.

    Parameters
    ----------
    apart : effects of every row are told from the residual, by a known relationship or by known residual variances
    """
    Z, encoder = encode(bar.side, formula, data, n)
    Z = finite(Z, encoder.names)
    codes, grouping = group_codes(bar.group, data)
    levels = grouping.labels()
    _check_size(bar, len(levels), Z.shape[1], n, weights, apart)
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
    factors = tuple(data[name] for name in side_columns(bar.side, formula) if not data[name].is_number)
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
                factors,
            ),
            d,
        )
        for d in designs
    ]


def group_codes(names: tuple[str, ...], data: Mapping[str, Column]) -> tuple[np.ndarray, Grouping]:
    """The place of each row (n,) among the combinations of the levels of columns, and these."""
    factors = [data[name].as_factor() for name in names]
    codes, found = factors[0].values.astype(np.int32), []
    for factor in factors[1:]:
        pairs, codes = numbered(codes.astype(np.int64) * len(factor.levels) + factor.values)
        found.append(pairs)
    return codes, Grouping(names, tuple(f.levels for f in factors), tuple(found))


def _check_size(bar: Bar, levels: int, q: int, n: int, weights: np.ndarray | None, apart: bool) -> None:
    """Refuse terms that cannot be estimated, as lme4 does."""
    if levels < 2:
        raise DataError(f"the grouping factor {bar.group_label!r} has only one level; at least two are needed")
    if apart or bar.structure not in _FREE_STRUCTURES:
        return
    known_variances = weights is not None and np.ptp(weights) > 0 and q == 1
    if levels * q >= n and not (known_variances and levels <= n):
        what = f"({bar.lhs} | {bar.group_label})"
        if levels >= n:
            message = f"the grouping factor {bar.group_label!r} has as many levels as there are observations ({n})"
            raise DataError(f"{message}: its effects cannot be told from the residual")
        message = f"the term {what} has {levels * q} random effects ({levels} levels x {q} columns)"
        raise DataError(f"{message} for {n} observations: they cannot be told from the residual")
