"""Power of tests of coefficients by simulation from a fit, with effects that one chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..arguments import check_names, check_number, numbers_of
from ..batch.chunks import Progress
from ..batch.refitting import refit_batch
from ..distributions import check_level
from ..errors import DataError
from ..estimates.fitted import FitBase
from ..frames.columns import make_frame
from ..frames.tables import Shown, Table
from ..likelihood.model import Model
from ..runtime.sizes import check_count
from .fixed_effects.in_batches import Tests
from .fixed_effects.linear import hypotheses

JOINT, EVERY, ANY = "all together", "each of them", "any of them"  # an F test; t tests in the same data set


class Rejections(NamedTuple):
    """How often a test rejects: `size` of the design (None for that of the fit), `n` data sets with a result."""

    size: int | None
    hypothesis: str
    effect: float
    test: str
    rejected: int
    n: int


@dataclass(frozen=True, eq=False, repr=False)
class PowerTable(Shown):
    """Power of tests, see ``Fit.power`` and `jaxlmm.study.power_curve`.

    Attributes
    ----------
    rows : tuple of `Rejections`;  alpha : of the tests
    along : the grouping factor of the sizes, "" where there is the design of the fit alone
    drawn : data sets in each row;  kind : library of the frame
    """

    rows: tuple[Rejections, ...]
    alpha: float
    along: str
    drawn: int
    kind: str = "dict"

    @property
    def power(self) -> np.ndarray:
        """Share of the data sets with a result in which each test rejects (rows,)."""
        return np.array([row.rejected / row.n if row.n else np.nan for row in self.rows])

    @property
    def mcse(self) -> np.ndarray:
        """Monte Carlo standard errors of `power` (rows,)."""
        n = np.array([row.n if row.n else np.nan for row in self.rows])
        return np.sqrt(self.power * (1.0 - self.power) / n)

    def frame(self) -> Any:
        """A row each: the size, hypothesis, effect, test, power, mcse, count of data sets with a result."""
        sizes: dict[str, Any] = {self.along: [row.size for row in self.rows]} if self.along else {}
        columns: dict[str, Any] = {
            name: [getattr(row, name) for row in self.rows] for name in ("hypothesis", "effect", "test")
        }
        numbers: dict[str, Any] = {"power": self.power, "mcse": self.mcse, "count": [row.n for row in self.rows]}
        return make_frame(self.kind, {**sizes, **columns, **numbers})

    def table(self) -> Table:
        """Percent, with Monte Carlo standard errors."""
        first = (self.along,) if self.along else ()
        lines = [
            (*([str(row.size)] if self.along else []), row.hypothesis,
             "" if np.isnan(row.effect) else f"{row.effect:g}", row.test, f"{100 * p:.1f} ({100 * e:.1f})",
             f"{row.n:,}")
            for row, p, e in zip(self.rows, self.power, self.mcse, strict=True)
        ]  # fmt: skip
        header = (*first, "", "effect", "test", "power %", "data sets")
        lost = sum(self.drawn - row.n for row in self.rows)
        note = (
            f"tests at {100 * self.alpha:g} %, Monte Carlo standard errors in brackets; where the null holds this is "
        )
        note += "the type-I error" + (f"; {lost:,} fits or tests without a result are left out" if lost else "")
        return Table("Power by simulation", header, tuple(lines), labels=len(first) + 1, note=note)


class Question(NamedTuple):
    """What is tested, and where: rows L (m, p), their names, null values (m,), coefficients (e, p) to draw from."""

    L: np.ndarray
    names: tuple[str, ...]
    null: np.ndarray
    coefficients: np.ndarray


def question(coef_names: tuple[str, ...], coef: np.ndarray, target: Any, effect: Any, null: float) -> Question:
    """Read the arguments of ``Fit.power``."""
    if target is None:
        others = [name for name in coef_names if name != "(Intercept)"]
        if len(others) != 1:
            raise DataError(f"target: expected one of {', '.join(coef_names)}, as there are several")
        target = others
    given, rows = hypotheses(target, coef_names)
    L = np.atleast_2d(numbers_of("target", rows, "names or weights of coefficients"))
    if L.ndim != 2 or L.shape[1] != len(coef) or not np.any(L, 1).all():
        raise DataError(f"target: expected names or weights of {', '.join(coef_names)}")
    names = given or tuple(" + ".join(f"{w:g} {n}" for w, n in zip(r, coef_names, strict=True) if w) for r in L)
    check_number("null", null, finite=True)
    nulls = np.full(len(L), float(null))
    if isinstance(effect, Mapping):
        if unknown := [name for name in effect if name not in coef_names]:
            raise DataError(f"effect: found {unknown[0]!r}, expected some of {', '.join(coef_names)}")
        changed = numbers_of("effect", [[effect.get(name, b) for name, b in zip(coef_names, coef, strict=True)]])
        if not np.isfinite(changed).all():
            raise DataError(f"effect: expected finite numbers, found {effect!r}")
        return Question(L, names, nulls, changed)
    if effect is None:
        return Question(L, names, nulls, coef[None])
    values = np.atleast_1d(numbers_of("effect", effect, "a number or several, or {coefficient: value}"))
    if len(L) > 1 or values.ndim > 1 or not values.size or not np.isfinite(values).all():
        raise DataError(f"effect: expected a number or several for one hypothesis, found {effect!r}; for several "
                        "hypotheses give {coefficient: value}")  # fmt: skip
    # the smallest change of the coefficients by which the hypothesis has the effect
    step = L[0] / (L[0] @ L[0])
    return Question(L, names, nulls, coef + (values - L[0] @ coef)[:, None] * step)


def checked(n: int, tests: str | Sequence[str], alpha: float) -> tuple[str, ...]:
    """The tests, of which there is one, as there is a data set."""
    check_level(alpha, "alpha")
    check_count("n", n)
    check_names("tests", tests)
    names = (tests,) if isinstance(tests, str) else tuple(tests)
    if n < 1 or not names:
        raise DataError(f"{'n' if n < 1 else 'tests'}: expected at least one, found none")
    return names


def rejections(
    model: Model, method: str, Y: np.ndarray, X: np.ndarray, coef: np.ndarray, ask: Question, tests: Sequence[str],
    alpha: float, size: int | None = None, progress: Progress = "auto",
) -> list[Rejections]:  # fmt: skip
    """Fit responses Y (b, n) that were drawn at `coef`, moved to other coefficients, and count."""
    out = []
    for changed in ask.coefficients:
        moved = Y + X @ (changed - coef)
        asked = Tests(ask.L, ask.null, df=tuple(tests))
        found = refit_batch(model, moved, method, progress=progress, tests=asked)
        effects = ask.L @ changed
        for test in tests:
            p = found.tests[test].p
            several = [(name, effects[i], p[:, i]) for i, name in enumerate(ask.names)]
            if len(ask.names) > 1:
                several.append((JOINT, np.nan, found.tests[test].joint_p))
                several += [(EVERY, np.nan, p.max(1)), (ANY, np.nan, p.min(1))]
            for name, effect, values in several:
                good = ~np.isnan(values) & found.converged
                count = int(np.sum(values[good] <= alpha))
                out.append(Rejections(size, name, float(effect), test, count, int(good.sum())))
    return out


def power(
    fit: FitBase, target: Any, effect: Any, n: int, tests: str | Sequence[str], null: float, alpha: float, seed: int,
    progress: Progress,
) -> PowerTable:  # fmt: skip
    """See ``Fit.power``."""
    names = checked(n, tests, alpha)
    ask = question(fit.coef_names, fit.coef, target, effect, null)
    Y = fit.simulate(n, seed)
    rows = rejections(fit.model, fit.method, Y, fit.model.X, fit.coef, ask, names, alpha, None, progress)
    return PowerTable(tuple(rows), alpha, "", n, fit.frame.kind)
