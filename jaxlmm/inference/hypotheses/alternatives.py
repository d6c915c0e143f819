"""What an estimate is tested against: a number or a margin around it, on both sides or on one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...distributions import t_quantile, t_tail
from ...errors import DataError

SIDES = {"two-sided": 0, "greater": 1, "less": -1, "!=": 0, ">": 1, "<": -1}


class Alternative(NamedTuple):
    """The hypothesis that is to be shown of an estimate.

    Without a margin that it differs from `null`, is greater or is less. With a margin `delta`: that it lies within it
    (equivalence: the larger p value of two one-sided tests, Schuirmann 1987), is greater than ``null - delta``
    (non-inferiority) or less than ``null + delta`` (non-superiority), as in R's emmeans.

    Attributes
    ----------
    way : 0 for both sides, 1 for greater, -1 for less
    delta : the margin, not negative
    """

    way: int = 0
    delta: float = 0.0

    @property
    def tails(self) -> int:
        """Tails of the distribution of t that count."""
        return 2 if self.way == 0 and not self.delta else 1

    @property
    def probability(self) -> str:
        """The heading of p values."""
        return {0: "Pr(>|t|)" if self.tails == 2 else "Pr(<t)", 1: "Pr(>t)", -1: "Pr(<t)"}[self.way]

    def statistic(self, distance: np.ndarray, se: np.ndarray) -> np.ndarray:
        """T statistics (m,) of distances between estimates and null; `evidence` says what is large.

        With a margin t is negative where equivalence is supported, as in R's emmeans.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.delta and self.way == 0:
                return (np.abs(distance) - self.delta) / se
            return (distance + self.way * self.delta) / se

    def evidence(self, statistic: np.ndarray) -> np.ndarray:
        """Statistics (m,) whose upper tail is the p value; of both sides their size."""
        if self.tails == 2:
            return np.abs(statistic)
        return -statistic if self.way <= 0 else statistic

    def p(self, statistic: np.ndarray, df: np.ndarray) -> np.ndarray:
        """P values (m,) of t statistics, not adjusted."""
        both = t_tail(statistic, df)
        if self.tails == 2:
            return both
        return np.where(self.evidence(statistic) > 0, 0.5 * both, 1.0 - 0.5 * both)

    def limits(self, estimate: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Confidence limits (m,), (m,) from how far they reach; a one-sided hypothesis has one."""
        missing = np.where(np.isnan(half), np.nan, np.inf)
        return estimate - (half if self.way >= 0 else missing), estimate + (half if self.way <= 0 else missing)

    def reach(self, level: float, df: np.ndarray) -> np.ndarray:
        """How many standard errors (m,) a limit is away from its estimate."""
        return t_quantile(0.5 * (1.0 + level) if self.way == 0 else level, df)

    def words(self, null: str, delta: str, factor: bool = False) -> str:
        """The hypothesis as a note under a table, the margin a distance or a factor; empty for the usual one."""
        less, more = ("/", "*") if factor else ("-", "+")
        if self.way == 0:
            around = f"equivalence: between {null} {less} {delta} and {null} {more} {delta}"
            return around if self.delta else f"tests of {null}" * (null != "0")
        sign, name = (">", "non-inferiority") if self.way > 0 else ("<", "non-superiority")
        if not self.delta:
            return f"one-sided tests: {sign} {null}"
        return f"{name}: {sign} {null} {less if self.way > 0 else more} {delta}"


def alternative_of(side: Any, delta: Any) -> Alternative:
    """The words of a user.

    Raises
    ------
    DataError
        For other words and a margin that is not a number of at least zero.
    """
    if side not in SIDES:
        raise DataError(f"side: found {side!r}, expected one of {', '.join(map(repr, SIDES))}")
    is_number = isinstance(delta, (int, float, np.number)) and not isinstance(delta, bool)
    if not is_number or not 0.0 <= delta < np.inf:
        raise DataError(f"delta: found {delta!r}, expected a margin of at least 0")
    return Alternative(SIDES[side], float(delta))
