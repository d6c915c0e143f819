"""What is drawn in every data set: the parametric bootstrap, the law of one variance, permutations, folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..batch.fits import BatchFit
from ..batch.rebuilding import rebuilt
from ..batch.refitting import refit_batch
from ..errors import DataError
from ..estimates.effects import linear_predictor
from ..fitting.estimate import blocks_at
from ..frames.columns import open_table
from ..inference.ratios.comparison import compare
from ..inference.ratios.exact import check_tested, law_of, rlrt
from ..interface import model_of
from ..likelihood.model import Model
from ..prediction.in_batches import predicted
from ..prediction.newdata import rows_of_fit
from ..simulation.simulate import draw_rows, replicate_keys
from .estimators import Estimator, Target
from .resampling import Built, Resampled, TestedDesign, errors_of, share_above, slabs

TIES = 1e-6  # of a statistic: permutations that are the same assignment have the same one, but for rounding


@dataclass(frozen=True, eq=False)
class NestedBootstrap(Resampled):
    """See `jaxlmm.study.analyses.bootstrap`; small : the model without the target."""

    small: Estimator

    test = "bootstrap"

    def build(self, data: Mapping[str, Any], target: Target) -> list[Built]:
        """Both models."""
        large, small = (model_of(one.formula, data, **one.options) for one in (self.large, self.small))
        if self.large.method == "REML" and large[0].coef_names != small[0].coef_names:
            raise DataError(f"estimator {self.name!r}: method: REML does not compare fixed effects, use method='ML'")
        if large[1].size != small[1].size:
            raise DataError(f"estimator {self.name!r}: null: uses other rows than the formula")
        return [large, small]

    def p_values(self, design: TestedDesign, Y: np.ndarray, fits: Sequence[BatchFit], keys: Any) -> np.ndarray:
        """Shares (b,) of responses drawn from the smaller fit with as large a ratio; those of `jaxlmm.compare`."""
        observed, model = self.ratios(fits), design.built[1][1]
        p = np.full(len(Y), np.nan)
        for places in slabs(np.flatnonzero(np.isfinite(observed)), self.n):
            draws = []
            for i in places:
                null: Any = fits[1].row(int(i))
                mean = linear_predictor(model.X, null.coef, model.offset)
                draws.append(draw_rows(model, mean, blocks_at(model, null), replicate_keys(keys[i], np.arange(self.n))))
            drawn = self.ratios(self.fits(design.built, np.concatenate(draws))).reshape(len(places), self.n)
            p[places] = share_above(drawn, observed[places])
        return p

    def alone(self, data: Any, key: Any) -> Any:
        """The comparison of the fits of one data set."""
        fits = [self.fitted(data, model) for model in (self.small, self.large)]
        return compare(*fits, method="bootstrap", n=self.n, seed=key, progress=False)


@dataclass(frozen=True, eq=False)
class RLRTest(Resampled):
    """See `jaxlmm.study.analyses.rlrt`."""

    test = "rlrt"

    def check(self, targets: Mapping[str, Target]) -> None:
        """Refuse what is not a standard deviation."""
        super().check(targets)
        if not str(targets[self.target].of).startswith("sd_"):
            raise DataError(f"estimator {self.name!r}: target: expected a standard deviation, such as one with "
                            f"of='sd_(Intercept)|cluster', found {self.target!r}")  # fmt: skip

    def build(self, data: Mapping[str, Any], target: Target) -> list[Built]:
        """The model, and without its one variance."""
        frame, model = model_of(self.large.formula, data, **self.large.options)
        if len(model.random) != 1 or not model.residual.is_iid:
            raise DataError(f"estimator {self.name!r}: expected one random term and independent residuals, where the "
                            "law is the same in all data sets; use jaxlmm.study.analyses.bootstrap")  # fmt: skip
        check_tested(model, model.random[0], frame.parts[0].text)
        null = Model(model.y, model.X, (), model.residual, weights=model.weights, offset=model.offset)
        return [(frame, model), (frame, null)]

    def p_values(self, design: TestedDesign, Y: np.ndarray, fits: Sequence[BatchFit], keys: Any) -> np.ndarray:
        """From one law for all data sets of a design."""
        model, observed = design.built[0][1], self.ratios(fits)
        if design.law is None:
            design.law = np.sort(law_of(model, model.random[0], self.large.method, self.n, 0))
        p = (1.0 + self.n - np.searchsorted(design.law, observed)) / (self.n + 1.0)
        return np.where(np.isnan(observed), np.nan, p)

    def alone(self, data: Any, key: Any) -> Any:
        """The test of one data set."""
        return rlrt(self.fitted(data, self.large), n=self.n)


@dataclass(frozen=True, eq=False)
class PermutationTest(Resampled):
    """See `jaxlmm.study.analyses.permutation`."""

    exchange: str
    unit: str | None
    within: str | None

    test = "permutation"

    def check(self, targets: Mapping[str, Target]) -> None:
        """Refuse what has no t."""
        super().check(targets)
        if targets[self.target].is_joint or targets[self.target].is_variance:
            raise DataError(f"estimator {self.name!r}: target: expected a coefficient or weights of some, found "
                            f"{self.target!r}")  # fmt: skip

    def build(self, data: Mapping[str, Any], target: Target) -> list[Built]:
        """The model, after a look at what is exchanged."""
        built = super().build(data, target)
        if self.exchange not in built[0][0].coef_names:
            raise DataError(f"estimator {self.name!r}: exchange: expected a column of numbers that is a coefficient, "
                            f"one of {', '.join(built[0][0].coef_names)}, found {self.exchange!r}")  # fmt: skip
        return built

    def p_values(self, design: TestedDesign, Y: np.ndarray, fits: Sequence[BatchFit], keys: Any) -> np.ndarray:
        """Shares (b,) of assignments with as large an absolute t."""
        frame, model = design.built[0]
        column, again = frame.coef_names.index(self.exchange), rebuilt(frame, design.data, self.exchange)
        statistic = np.abs(fits[0].coef @ design.weights) / errors_of(fits[0], design.weights)
        p = np.full(len(Y), np.nan)
        for places in slabs(np.flatnonzero(fits[0].converged), self.n):
            values = [self.assignments(design.data, frame.rows, jax.random.key_data(keys[i])) for i in places]
            moved = refit_batch(
                model, np.repeat(Y[places], self.n, 0), self.large.method, column=column, again=again, progress=False,
                values=np.concatenate(values),
            )  # fmt: skip
            drawn = np.abs(moved.coef @ design.weights) / errors_of(moved, design.weights)
            drawn = np.where(moved.converged, drawn, np.nan).reshape(len(places), self.n)
            p[places] = share_above(drawn, statistic[places] * (1.0 - TIES))
        return p

    def assignments(self, data: Mapping[str, Any], rows: np.ndarray, words: Any) -> np.ndarray:
        """The exchanged column (n draws, rows), its values dealt to the units anew."""
        table = open_table(data)

        def codes(name: str | None) -> np.ndarray:
            return np.zeros(len(rows), int) if name is None else table.column(name).take(rows).as_factor().values

        values = np.asarray(table.column(self.exchange).take(rows).values, float)
        unit = np.arange(len(rows)) if self.unit is None else np.unique(codes(self.unit), return_inverse=True)[1]
        first = np.unique(unit, return_index=True)[1]
        stratum = codes(self.within)
        for name, own in ((self.exchange, values), (self.within, stratum)):
            if (own != own[first][unit]).any():
                raise DataError(f"estimator {self.name!r}: unit: {name!r} differs between rows of a {self.unit!r}")
        own, stratum = values[first], stratum[first]
        order = np.random.default_rng([int(word) for word in np.asarray(words)]).random((self.n, len(own)))
        dealt = np.empty_like(order)
        for k in np.unique(stratum):
            members = np.flatnonzero(stratum == k)
            dealt[:, members] = own[members][np.argsort(order[:, members], 1)]
        return dealt[:, unit]


@dataclass(frozen=True, eq=False)
class CrossValidation(Resampled):
    """See `jaxlmm.study.analyses.cross_validation`; n : folds."""

    unit: str | None
    random: bool

    test = "cross-validation"
    estimates_error = True

    def estimates(self, design: TestedDesign, Y: np.ndarray, fits: Sequence[BatchFit], target: Target) -> np.ndarray:
        """Mean squared errors (b,) of rows predicted by the fits without their fold."""
        frame, model = design.built[0]
        table = open_table(design.data)
        unit = np.arange(len(model.y))
        if self.unit is not None:
            unit = np.unique(table.column(self.unit).take(frame.rows).as_factor().values, return_inverse=True)[1]
        if self.n < 2 or self.n > unit.max() + 1:
            raise DataError(f"estimator {self.name!r}: folds: expected 2 to {unit.max() + 1} (units), found {self.n}")
        fold = unit % self.n
        left_out = fold == np.arange(self.n)[:, None]
        without = np.where(left_out, np.nan, Y[:, None, :]).reshape(-1, len(model.y))
        found = refit_batch(model, without, self.large.method, missing="drop", progress=False)
        means = predicted(model, found, without, rows_of_fit(model), (self.random,) * len(model.random))
        means = np.where(found.converged[:, None], means, np.nan).reshape(len(Y), self.n, -1)
        return np.mean((Y - np.einsum("bkn,kn->bn", np.where(left_out, means, 0.0), left_out.astype(float))) ** 2, 1)

    def p_values(self, design: TestedDesign, Y: np.ndarray, fits: Sequence[BatchFit], keys: Any) -> np.ndarray:
        """None."""
        return np.full(len(Y), np.nan)
