"""Hypotheses in the fits of a chunk: t tests of targets of one row, and F tests of those of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..batch.fits import Fitted
from ..inference.fixed_effects.in_batches import LaneTests, Tests
from ..inference.hypotheses.coding import coding_of


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """What is tested in every data set.

    Attributes
    ----------
    single : t tests of all targets of one row;  joint : F tests by target
    """

    single: Tests | None
    joint: Mapping[str, Tests]

    def empty(self, b: int, kind: str, parts: int) -> dict[str, LaneTests]:
        """Results without numbers for b data sets: by method, and by method and target."""
        out = {} if self.single is None else self.single.empty(b, kind, parts)
        for name, tests in self.joint.items():
            out |= {joint_key(method, name): lanes for method, lanes in tests.empty(b, kind, parts).items()}
        return out

    def put(self, tests: dict[str, LaneTests], rows: np.ndarray, fitted: Fitted) -> None:
        """Test what was fitted."""
        if self.single is not None:
            self.single.put(tests, rows, fitted)
        for name, own in self.joint.items():
            own.put({method: tests[joint_key(method, name)] for method in own.keys}, rows, fitted)

    @property
    def needs_design(self) -> bool:
        """Whether degrees of freedom are counted in designs."""
        return any(tests.needs_design for tests in self._every)

    @property
    def _every(self) -> tuple[Tests, ...]:
        return (*(() if self.single is None else (self.single,)), *self.joint.values())

    def on(self, designs: Sequence[Any]) -> Hypotheses:
        """The same for one design of all data sets, or one for each: their `frame` and `data`.

        Several coefficients are tested in the coding of the factors of the first.
        """
        single = None if self.single is None else self.single.on(designs)
        coding = coding_of(designs[0]) if self.joint else None
        joint = {name: tests.coded(coding).on(designs) for name, tests in self.joint.items() if coding is not None}
        return Hypotheses(single, joint)

    def without_robust(self) -> Hypotheses:
        """The same without sandwiches, which need complete responses to one design."""
        joint = {name: _plain(tests) for name, tests in self.joint.items()}
        return Hypotheses(None if self.single is None else _plain(self.single), joint)


def _plain(tests: Tests) -> Tests:
    return Tests(tests.L, tests.rhs, tests.df, tests.information, tests.boundary_df)


def joint_key(method: str, target: str) -> str:
    """Where the F tests of a target are found."""
    return f"{method}\0{target}"


def values_of(
    tests: Mapping[str, Any], method: str, target: str, place: int | None
) -> tuple[Any, tuple[Any, ...]] | None:
    """Status, and estimate, standard error, degrees of freedom and p-value of a target; `place` among the t tests."""
    found = tests.get(method if place is not None else joint_key(method, target))
    if found is None:
        return None
    if place is None:
        none = np.full(len(found.joint), np.nan)
        return found.status, (none, none, found.den_df, found.joint_p)
    return found.status, tuple(getattr(found, name)[:, place] for name in ("estimate", "se", "df", "p"))
