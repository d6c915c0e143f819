"""The size of a design that reaches a power, by simulation: a root of a function that is only known with noise.

Power is modelled as ``Phi(a + b sqrt(n))`` near the root, exact for a z test whose standard error falls with sqrt(n),
and fitted by maximum likelihood to the rejections at all sizes tried whose power is near the one that is asked for.
Each stage tries sizes about the latest root, so that the model has to hold only there (as in mlpwr, Zimmer & Debelak
2023, Psychol Methods). The error of the root is that of the fit, by the delta method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import refuse_unknown
from ..distributions import check_level
from ..errors import DataError
from ..frames.columns import make_frame
from ..linalg import quadratic
from ..runtime.sizes import check_count
from .declare import Study
from .results import library
from .running import RUNNING, run

SEED_STEP = 1_000_003  # stages have seeds of their own
NEAR = 1.0  # probits from the power asked for, within which a size counts in the fit
STEPS = 30  # of Newton's method


@dataclass(frozen=True, eq=False)
class SampleSize:
    """A size, and what it was found from.

    Attributes
    ----------
    factor : its name;  power : that was asked for
    n : the smallest size (of the steps) whose fitted power is at least that
    estimate, error : the root and its Monte Carlo standard error
    sizes, rejected, replicates : what was tried;  coefficients (a, b), vcov : of the fit
    """

    factor: str
    power: float
    n: int
    estimate: float
    error: float
    sizes: np.ndarray
    rejected: np.ndarray
    replicates: np.ndarray
    coefficients: np.ndarray
    vcov: np.ndarray

    def __repr__(self) -> str:
        return (f"SampleSize({self.factor} = {self.n} for power {self.power:g}; root {self.estimate:.2f}, "
                f"error {self.error:.2f}, {int(self.replicates.sum()):,} data sets)")  # fmt: skip

    def fitted(self, n: Any) -> tuple[np.ndarray, np.ndarray]:
        """Fitted power at sizes near the root, and its standard error."""
        from scipy.special import ndtr

        x = np.stack([np.ones(np.shape(n)), np.sqrt(np.asarray(n, float))], -1)
        probit = x @ self.coefficients
        se = np.sqrt(quadratic(x, self.vcov))
        return ndtr(probit), np.exp(-0.5 * probit**2) / np.sqrt(2.0 * np.pi) * se

    def frame(self) -> Any:
        """What was tried: size, power, mcse, replicates, fitted."""
        power = self.rejected / self.replicates
        columns = {
            self.factor: self.sizes, "power": power, "mcse": np.sqrt(power * (1.0 - power) / self.replicates),
            "replicates": self.replicates.astype(int), "fitted": self.fitted(self.sizes)[0],
        }  # fmt: skip
        return make_frame(library(), columns)


def sample_size(
    study: Study, factor: str, power: float, low: int, high: int, out: Any, *, estimator: str | None = None,
    test: str | None = None, target: str | None = None, alpha: float = 0.05, step: int = 1,
    error: float | None = None, stages: int = 8, tests: Sequence[tuple[str, str, str]] | None = None,
    how: str = "all", **options: Any,
) -> SampleSize:  # fmt: skip
    """Find the level of a factor at which a test, or several together, reach a power.

    Parameters
    ----------
    study : with one cell, whose `factor` is replaced; its `replicates` are those of each size tried
    factor : a size, with which power grows;  low, high : where it is looked for, integers
    out : directory; each stage is a study in it, so that a search that was killed is gone on with
    estimator, test, target : which row, where there are several;  alpha : of the test
    step : sizes are multiples of it (2 for two equal arms)
    error : Monte Carlo standard error of the root at which to stop; default half a step
    stages : at most
    tests, how : in place of one row, (estimator, test, target) of several, of which "all" or "any" must reject
    options : `executor`, `workers`, `progress`, `mixed` of `jaxlmm.study.run`

    Returns
    -------
    SampleSize

    Raises
    ------
    DataError
        When the power is not reached between low and high, or does not grow.
    """
    refuse_unknown("sample_size", options, RUNNING)
    if len(study.cells) != 1:
        raise DataError(f"study: expected one cell, found {len(study.cells)}; sizes are tried in place of {factor!r}")
    if factor not in study.cells[0]:
        raise DataError(f"factor: found {factor!r}, expected one of {', '.join(study.cells[0]) or '(no factors)'}")
    check_level(power, "power"), check_level(alpha, "alpha")
    for name, value in (("low", low), ("high", high), ("step", step), ("stages", stages)):
        check_count(name, value)
    if not 0 < low < high or step < 1 or stages < 1:
        raise DataError(f"low, high, step, stages: expected 0 < low < high and positive integers, found {low}, {high}, "
                        f"{step}, {stages}")  # fmt: skip
    study = study.changed()  # what its functions are now
    goal = 0.5 * step if error is None else float(error)
    tried: dict[int, np.ndarray] = {}
    sizes = _rounded([low, np.sqrt(low * high), 0.5 * (np.sqrt(low) + np.sqrt(high)) ** 2, high], step, low, high)
    found: SampleSize | None = None
    for stage in range(stages):
        cells = [{**study.cells[0], factor: n} for n in sizes]
        one = study.changed(grid=cells, seed=study.seed + stage * SEED_STEP)
        results = run(one, Path(out) / f"stage-{stage:02d}", **options)
        rows = tests if tests is not None else [results.rows[results.row(estimator, test, target)]]
        for n, *counted in zip(sizes, *results.rejections(rows, alpha, how), strict=True):
            tried[n] = tried.get(n, np.zeros(2)) + np.array(counted)
        found = _root(factor, power, tried, low, high, step)
        if found.error <= goal:
            break
        around = np.array([-1.5, 0.0, 1.5]) * max(found.error, step)
        sizes = _rounded(found.estimate + around, step, low, high)
    assert found is not None
    return found


def _rounded(sizes: Any, step: int, low: int, high: int) -> list[int]:
    """Multiples of the step between the ends, each once."""
    multiples = np.rint(np.asarray(sizes, float) / step) * step
    first, last = -(-low // step) * step, high // step * step
    return sorted({int(n) for n in np.clip(multiples, first, last)})


def _root(factor: str, power: float, tried: dict[int, np.ndarray], low: int, high: int, step: int) -> SampleSize:
    from scipy.special import ndtri

    n = np.array(sorted(tried))
    hits, counts = np.array([tried[i] for i in n]).T
    hits, counts, n = hits[counts > 0], counts[counts > 0], n[counts > 0]
    goal = float(ndtri(power))
    probit = ndtri((hits + 0.5) / (counts + 1.0))
    if probit.max(initial=-np.inf) < goal or probit.min(initial=np.inf) > goal:
        listed = ", ".join(f"{i}: {h / c:.3f}" for i, h, c in zip(n, hits, counts, strict=True))
        raise DataError(f"low, high: power {power:g} is not between those from {low} to {high} ({listed}); widen them")
    near = np.abs(probit - goal) < NEAR
    for side in (probit < goal, probit >= goal):  # and the nearest on each side, however far
        near |= side & (np.abs(probit - goal) == np.abs(probit - goal)[side].min())
    try:
        ab, vcov = probit_fit(np.sqrt(n[near]), hits[near], counts[near])
    except np.linalg.LinAlgError:  # all reject at one size and none at the next: steeper than any curve
        raise DataError(f"study: replicates: {counts.min():.0f} data sets a size are too few to see how power grows "
                        f"with {factor!r}; use more") from None  # fmt: skip
    if not ab[1] > 0:
        raise DataError(f"factor: power does not grow with {factor!r} about {power:g}; use more replicates")
    root = (goal - ab[0]) / ab[1]
    slope = np.array([-1.0, -root]) / ab[1] * 2.0 * root
    error = float(np.sqrt(slope @ vcov @ slope))
    size = int(np.ceil(root**2 / step - 1e-9)) * step
    return SampleSize(factor, power, size, float(root**2), error, n, hits, counts, ab, vcov)


def probit_fit(x: Sequence[float] | np.ndarray, hits: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maximum likelihood of ``hits ~ Binomial(counts, Phi(a + b x))`` by scoring: (a, b) and their covariance."""
    from scipy.special import ndtr, ndtri

    X = np.stack([np.ones(len(x)), np.asarray(x, float)], -1)
    beta = np.linalg.lstsq(X, ndtri((hits + 0.5) / (counts + 1.0)), rcond=None)[0]
    information = np.eye(2)
    for _ in range(STEPS):
        eta = X @ beta
        p = np.clip(ndtr(eta), 1e-12, 1.0 - 1e-12)
        density = np.exp(-0.5 * eta**2) / np.sqrt(2.0 * np.pi)
        weight = counts * density**2 / (p * (1.0 - p))
        score = X.T @ (density * (hits - counts * p) / (p * (1.0 - p)))
        information = X.T @ (weight[:, None] * X)
        change = np.linalg.solve(information, score)
        beta = beta + change
        if np.max(np.abs(change)) < 1e-10:
            break
    return beta, np.linalg.inv(information)
