"""The parametric bootstrap and intervals from it (Davison & Hinkley 1997, chapter 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..arguments import check_choice
from ..batch.chunks import Progress
from ..batch.fits import BatchFit, Replicate
from ..batch.refitting import fit_drawn, refit_batch
from ..batch.responses import Design, Responses
from ..distributions import check_level
from ..fitting.units import Estimate, Estimates
from ..frames.columns import make_frame
from ..frames.tables import Shown, Table, format_column
from ..likelihood.model import Model
from ..pytrees import replace
from ..runtime.keys import check_seed
from ..runtime.sizes import check_draws
from .draws import Draws
from .simulate import Sampler, simulate_rows

METHODS = ("percentile", "basic", "bca")
BLOCKS = 100  # most blocks of groups that are left out for the acceleration of BCa intervals

Statistic = Callable[[Replicate], Any]


@dataclass(frozen=True, eq=False, repr=False)
class Bootstrap(Shown):
    """Replicates of a statistic under the fitted model.

    Attributes
    ----------
    names : of the m statistics;  estimate : (m,) their values for the data
    values : (b, m) for the replicates, NaN where one has not converged or the statistic is not defined
    fits : all replicates, a `BatchFit`;  note : why something is NaN, or empty
    """

    names: tuple[str, ...]
    estimate: np.ndarray
    values: np.ndarray
    fits: BatchFit
    kind: str
    _jackknife: Callable[[], np.ndarray]
    note: str = ""

    def __len__(self) -> int:
        return len(self.values)

    def table(self) -> Table:
        """Statistics with bias, standard error and percentile intervals."""
        rows = []
        for name, around, b, s in zip(
            self.names, np.column_stack([self.estimate, self.intervals()]), self.bias, self.se, strict=True
        ):
            estimate, *limits = format_column(around, 6)
            rows.append((name, estimate, *format_column([b, s]), *limits))
        title = f"Parametric bootstrap, {len(self)} replicates, {int(self.fits.converged.sum())} converged:"
        return Table(title, ("", "Estimate", "Bias", "Std. Error", "2.5 %", "97.5 %"), tuple(rows), note=self.note)

    @property
    def se(self) -> np.ndarray:
        """Bootstrap standard errors (m,)."""
        return np.array([np.std(v, ddof=1) if len(v) > 1 else np.nan for v in self._columns()])

    @property
    def bias(self) -> np.ndarray:
        """Mean of the replicates less the estimate (m,)."""
        return np.array([np.mean(v) if len(v) else np.nan for v in self._columns()]) - self.estimate

    def _columns(self) -> list[np.ndarray]:
        return [v[np.isfinite(v)] for v in self.values.T]

    def draws(self) -> Draws:
        """The replicates in ArviZ's form: ``boot.draws().to_arviz()``, one chain.

        They are draws of estimates under the fitted model, not of a posterior; ArviZ looks for them in this group.
        Replicates that have not converged are left out.
        """
        there = np.isfinite(self.values)
        good = self.fits.converged & (there | ~there.any(0)).all(1)
        p = len(self.fits.coef_names)
        values, coords, dims = {"statistic": self.values}, {"name": list(self.names)}, {"statistic": ["name"]}
        if p and self.names[:p] == self.fits.coef_names:
            values = {"coef": self.values[:, :p], "covariance": self.values[:, p:]}
            coords = {"coefficient": list(self.names[:p]), "parameter": list(self.names[p:])}
            dims = {"coef": ["coefficient"], "covariance": ["parameter"]}
        groups = {"posterior": values, "sample_stats": {"lp": self.fits.loglik}}
        return Draws({g: {k: v[good][None] for k, v in own.items()} for g, own in groups.items()}, coords, dims)

    def intervals(self, level: float = 0.95, method: str = "percentile") -> np.ndarray:
        """Confidence limits (m, 2).

        Parameters
        ----------
        level : coverage
        method : "percentile"; "basic", the percentile interval reflected at the estimate; or "bca", corrected for bias
            and skewness (Efron 1987), whose acceleration is that of leaving out groups of the factor with most levels
        """
        check_level(level)
        check_choice("method", method, METHODS)
        tails = np.array([0.5 * (1.0 - level), 0.5 * (1.0 + level)])
        acceleration = _acceleration(self._jackknife()) if method == "bca" else np.zeros(len(self.names))
        out = np.full((len(self.names), 2), np.nan)
        for j, v in enumerate(self._columns()):
            if not len(v) or not np.isfinite(self.estimate[j]):
                continue
            shares = _bca_shares(v, self.estimate[j], acceleration[j], tails) if method == "bca" else tails
            limits = np.quantile(v, shares)
            out[j] = 2.0 * self.estimate[j] - limits[::-1] if method == "basic" else limits
        return out

    def confint(self, level: float = 0.95, method: str = "percentile") -> Any:
        """A frame: statistic, estimate, bias, std_error, lower, upper, replicates used."""
        limits = self.intervals(level, method)
        columns: dict[str, Any] = {
            "statistic": list(self.names), "estimate": self.estimate, "bias": self.bias, "std_error": self.se,
            "lower": limits[:, 0], "upper": limits[:, 1], "replicates": [len(v) for v in self._columns()],
        }  # fmt: skip
        return make_frame(self.kind, columns)


def _bca_shares(v: np.ndarray, estimate: float, acceleration: float, tails: np.ndarray) -> np.ndarray:
    """Quantiles of the replicates that are the limits of the BCa interval (Efron 1987, equation 2.3)."""
    from scipy.special import ndtr, ndtri

    below = np.mean(v < estimate) + 0.5 * np.mean(v == estimate)
    z0 = ndtri(np.clip(below, 0.5 / len(v), 1.0 - 0.5 / len(v)))
    z = z0 + ndtri(tails)
    return ndtr(z0 + z / (1.0 - acceleration * z))


def _acceleration(left_out: np.ndarray) -> np.ndarray:
    """Skewness of the jackknife values (blocks, m), over six (Efron 1987, section 7)."""
    out = []
    for v in left_out.T:
        d = np.mean(v[np.isfinite(v)]) - v[np.isfinite(v)] if np.isfinite(v).any() else np.zeros(1)
        square = np.sum(d**2)
        out.append(np.sum(d**3) / (6.0 * square**1.5) if square > 0 else 0.0)
    return np.array(out)


def bootstrap(
    model: Model, estimate: Estimate, method: str, n: int, seed: int, statistic: Statistic | None,
    coef_names: tuple[str, ...], terms: Sequence[tuple[str, tuple[str, ...]]], kind: str, progress: Progress,
) -> Bootstrap:  # fmt: skip
    """Simulate from a fit, fit again, and collect statistics; see ``Fit.bootstrap``.

    `terms` are the labels (group, columns) of the random terms.
    """
    check_draws("n", n, len(estimate.coef) ** 2 + len(estimate.theta))
    check_seed("seed", seed)
    profiled = estimate.sigma is not None
    fits = fit_drawn(model, method, partial(_drawer, model, estimate, seed), n, coef_names, kind, progress)

    def evaluated(fits: BatchFit) -> np.ndarray:
        values = standard(fits, profiled) if statistic is None else _each(statistic, fits)
        return np.where(fits.converged[:, None], values, np.nan)

    original = replace(estimate, sigma=np.nan if estimate.sigma is None else estimate.sigma)
    center = standard(original, profiled) if statistic is None else _vector(statistic, original)
    names = standard_names(coef_names, terms, profiled) if statistic is None else _numbered(statistic, len(center))
    values = evaluated(fits) if n else np.zeros((0, len(center)))

    def jackknife() -> np.ndarray:
        return evaluated(refit_batch(model, _without_blocks(model), method, missing="drop", progress=False))

    return Bootstrap(names, center, values, fits, kind, jackknife)


def _drawer(model: Model, estimate: Estimate, seed: int, design: Design) -> Callable[[np.ndarray], Responses]:
    """Statistics of replicates (b,) of a design: drawn themselves where that is exact, else from drawn responses."""
    if Sampler.applies(model):
        return partial(Sampler(design, estimate), seed=seed)
    return lambda replicates: design.responses(simulate_rows(model, estimate, replicates, seed))


def standard(fits: Estimates, sigma: bool = True) -> np.ndarray:
    """Coefficients, standard deviations and correlations of the random effects, sigma: (..., m)."""
    columns = [*np.moveaxis(fits.coef, -1, 0)]
    for G in fits.varcorr:
        sd = np.sqrt(np.diagonal(G, axis1=-2, axis2=-1))
        with np.errstate(divide="ignore", invalid="ignore"):
            corr = G / (sd[..., :, None] * sd[..., None, :])
        for i in range(G.shape[-1]):
            columns += [sd[..., i], *(corr[..., i, j] for j in range(i))]
    if sigma:
        columns.append(fits.sigma)
    return np.stack(columns, -1)


def standard_names(
    coef_names: tuple[str, ...], terms: Sequence[tuple[str, tuple[str, ...]]], sigma: bool
) -> tuple[str, ...]:  # fmt: skip
    """Names of `standard`'s columns, in lme4's manner."""
    names = list(coef_names)
    for group, columns in terms:
        for i, column in enumerate(columns):
            names += [f"sd_{column}|{group}", *(f"cor_{column}.{columns[j]}|{group}" for j in range(i))]
    return (*names, "sigma") if sigma else tuple(names)


def _each(statistic: Statistic, fits: BatchFit) -> np.ndarray:
    rows = [_vector(statistic, fits[int(i)]) for i in np.flatnonzero(fits.converged)]
    out = np.full((len(fits), len(rows[0]) if rows else 1), np.nan)
    if rows:
        out[fits.converged] = rows
    return out


def _vector(statistic: Statistic, one: Replicate) -> np.ndarray:
    return np.asarray(statistic(one), dtype=np.float64).reshape(-1)


def _numbered(statistic: Statistic, count: int) -> tuple[str, ...]:
    name = getattr(statistic, "__name__", "statistic").replace("<lambda>", "statistic")
    return (name,) if count == 1 else tuple(f"{name}{i + 1}" for i in range(count))


def _without_blocks(model: Model) -> np.ndarray:
    """The response (blocks, n) with NaN for one block of groups of the factor with most levels in each row."""
    factors = [part.group for part in (*model.random, model.residual) if part.group is not None]
    group = max(factors, key=np.max, default=np.arange(len(model.y)))
    levels = int(group.max(initial=0)) + 1
    blocks = min(levels, BLOCKS)
    block = (group.astype(np.int64) * blocks) // levels
    return np.where(block == np.arange(blocks)[:, None], np.nan, model.y)
