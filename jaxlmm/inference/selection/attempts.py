"""What came of models that were tried in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...frames.columns import make_frame
from ...frames.tables import Shown, Table


class Attempt(NamedTuple):
    """One model: what was asked for, the status of its fit or "refused", what was said; its fit."""

    asked: Mapping[str, Any]
    status: str
    message: str
    fit: Any = None

    @property
    def text(self) -> str:
        """What was asked for, in words."""
        return ", ".join(f"{name}: {value}" for name, value in self.asked.items())


@dataclass(frozen=True, eq=False, repr=False)
class Attempts(Shown):
    """Models that were tried in turn; prints as a table, `fit` is the one that converged, the last."""

    attempts: tuple[Attempt, ...]

    @property
    def fit(self) -> Any:
        """The fit that converged."""
        return self.attempts[-1].fit

    def _numbers(self, name: str) -> np.ndarray:
        return np.array([np.nan if a.fit is None else getattr(a.fit, name) for a in self.attempts], float)

    def frame(self) -> Any:
        """Data frame: model, status, npar, loglik, aic, message."""
        columns: dict[str, Any] = {
            "model": [a.text for a in self.attempts],
            "status": [a.status for a in self.attempts],
        }
        columns |= {name: self._numbers(name) for name in ("npar", "loglik", "aic")}
        return make_frame(self.fit.frame.kind, {**columns, "message": [a.message for a in self.attempts]})

    def table(self) -> Table:
        """As it prints."""
        numbers = [["" if np.isnan(v) else f"{v:.2f}" for v in self._numbers(name)] for name in ("loglik", "aic")]
        columns = ([a.text for a in self.attempts], [a.status for a in self.attempts], *numbers)
        said = "\n".join(f"{a.text}: {a.message}" for a in self.attempts if a.message)
        return Table("Tried in turn:", ("", "status", "logLik", "AIC"), tuple(zip(*columns, strict=True)), 2, said)
