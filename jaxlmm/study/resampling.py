"""Tests whose law is drawn in every data set: the parametric bootstrap, the exact law of one variance, permutations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..batch.fits import BatchFit
from ..batch.rebuilding import rebuilt
from ..batch.refitting import refit_batch
from ..design.frame import ModelFrame
from ..errors import DataError, JaxlmmError
from ..estimates.effects import linear_predictor
from ..fitting.estimate import blocks_at
from ..frames.columns import open_table
from ..inference.ratios.comparison import compare
from ..inference.ratios.exact import check_tested, law_of, rlrt
from ..inference.ratios.resampling import cleaned
from ..interface import lmm, model_of
from ..likelihood.confounding import check_left_by
from ..likelihood.model import Model
from ..prediction.in_batches import predicted
from ..prediction.newdata import rows_of_fit
from ..runtime.sizes import check_draws
from ..simulation.simulate import draw_rows, replicate_keys
from .drawing import Drawn, sentence_of
from .estimate import FLOATS, OF_FIT, Numbers, parameter, without_lost
from .estimators import Estimator, Row, Target
from .generate import stand_in

SLAB = 20_000  # data sets that are fitted together
TIES = 1e-6  # of a statistic: permutations that are the same assignment have the same one, but for rounding

Built = tuple[ModelFrame, Model]


@dataclass(frozen=True, eq=False)
class Resampled:
    """What tests that draw have in common, see `jaxlmm.study.analyses`.

    Attributes
    ----------
    name : in tables;  target : that is tested;  large : the model with it;  n : draws in a data set
    """

    name: str
    target: str
    large: Estimator
    n: int

    test = ""

    def rows(self, targets: Mapping[str, Target]) -> list[Row]:
        """One."""
        return [Row(self.name, self.test, self.target)]

    def check(self, targets: Mapping[str, Target]) -> None:
        """Refuse what cannot be tested."""
        where = f"estimator {self.name!r}"
        if self.target not in targets:
            raise DataError(f"{where}: target: found {self.target!r}, expected one of {', '.join(targets)}")
        if targets[self.target].null != 0.0:
            raise DataError(f"{where}: tests that {self.target!r} is 0, found a target whose null is "
                            f"{targets[self.target].null:g}")  # fmt: skip
        check_draws(f"{where}: n", self.n, 1)
        if not self.n:
            raise DataError(f"{where}: n: expected a positive number of draws, found 0")
        if self.large.method not in ("REML", "ML"):
            raise DataError(f"{where}: method: found {self.large.method!r}, expected 'REML' or 'ML'")

    def fitter(self, targets: Mapping[str, Target], data: Mapping[str, Any], factors: Any, response: str) -> Resampler:
        """What applies it to the data sets of a cell."""
        return Resampler(self, targets[self.target], data, response)

    def build(self, data: Mapping[str, Any], target: Target) -> list[Built]:
        """The models, the one with the target first."""
        return [model_of(self.large.formula, data, **self.large.options)]

    def fits(self, built: Sequence[Built], Y: np.ndarray) -> list[BatchFit]:
        """Fits of all models to responses (b, n)."""
        return [refit_batch(model, Y, self.large.method, progress=False) for _, model in built]

    def ratios(self, fits: Sequence[BatchFit]) -> np.ndarray:
        """Likelihood ratios (b,), NaN where one has not converged."""
        large, small = fits
        ratio = cleaned(2.0 * (large.loglik - small.loglik), small.loglik)
        return np.where(large.converged & small.converged, ratio, np.nan)

    def estimates(self, design: TestedDesign, Y: np.ndarray, fits: Sequence[BatchFit], target: Target) -> np.ndarray:
        """Of the target (b,), NaN where it has none."""
        if target.is_variance:
            return parameter(fits[0], design.built[0][0], str(target.of))
        return np.full(len(Y), np.nan) if target.is_joint else fits[0].coef @ design.weights

    def fitted(self, data: Any, model: Estimator) -> Any:
        """The fit of one data set."""
        return lmm(model.formula, data, model.method, **model.options)


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
        """Shares (b,) of assignments with as large a |t|."""
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

    def alone(self, data: Any, key: Any) -> Any:
        """The fit of one data set, whose t is compared."""
        return self.fitted(data, self.large)


@dataclass(frozen=True, eq=False)
class CrossValidation(Resampled):
    """See `jaxlmm.study.analyses.cross_validation`; n : folds."""

    unit: str | None
    random: bool

    test = "cross-validation"

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

    def alone(self, data: Any, key: Any) -> Any:
        """The fit of one data set."""
        return self.fitted(data, self.large)


class TestedDesign:
    """Models on a design, and what is found once for it."""

    def __init__(self, test: Resampled, target: Target, data: Mapping[str, Any]):
        self.data, self.built = data, test.build(data, target)
        self.law: np.ndarray | None = None
        names = self.built[0][0].coef_names
        unknown = [name for name in target.weights if name not in names and not target.is_variance]
        if isinstance(test, CrossValidation):
            if len(unknown) < len(target.weights) or target.is_variance:
                raise DataError(f"estimator {test.name!r}: target: {test.target!r} is a parameter of the model; give "
                                "it one of its own, such as Target(of='mse')")  # fmt: skip
        elif unknown:
            raise DataError(f"estimator {test.name!r}: {unknown[0]!r} is not a coefficient; there are "
                            f"{', '.join(names)}")  # fmt: skip
        self.weights = np.array([target.weights.get(name, 0.0) for name in names])


class Resampler:
    """Applies a test to data sets of one cell, those of one design together."""

    def __init__(self, test: Any, target: Target, data: Mapping[str, Any], response: str):
        self.estimator, self.target, self.data, self.response = test, target, data, response
        self.rows = test.rows({})
        self.rows_of_design = len(next(iter(data.values())))
        self.design = TestedDesign(test, target, {**data, response: stand_in(self.rows_of_design)})

    def __call__(self, drawn: Drawn, b: int) -> Numbers:
        """Numbers of all data sets."""
        out, keys = Numbers.empty(1, b), drawn.analysis_keys
        is_shared = drawn.tables is None and set(drawn.columns) == {self.response}
        if is_shared and not np.isnan(drawn.columns[self.response]).any():
            frame = self.design.built[0][0]
            if len(frame.rows) == self.rows_of_design:
                self._fill(out, np.arange(b), self.design, drawn.columns[self.response], keys)
                return out
        for i in range(b):
            try:
                design = TestedDesign(
                    self.estimator, self.target, without_lost(drawn.table(i, self.data), self.response)
                )
            except JaxlmmError as error:
                out.fail(i, "unusable_data", sentence_of(error))
                continue
            self._fill(out, np.array([i]), design, design.built[0][1].y[None], keys[i : i + 1])
        return out

    def _fill(self, out: Numbers, places: np.ndarray, design: TestedDesign, Y: np.ndarray, keys: Any) -> None:
        fits = self.estimator.fits(design.built, Y)
        p, large, none = self.estimator.p_values(design, Y, fits, keys), fits[0], np.full(len(Y), np.nan)
        estimate = self.estimator.estimates(design, Y, fits, self.target)
        for name, values in zip(FLOATS, (np.where(large.converged, estimate, np.nan), none, none, p), strict=True):
            getattr(out, name)[0, places] = values
        status = np.max([OF_FIT[fit.status] for fit in fits], 0)
        out.status[0, places] = status
        out.converged[0, places], out.singular[0, places] = large.converged, large.singular

    def rehearse(self, table: Mapping[str, Any]) -> None:
        """Build the models of one data set; raises what is wrong with it."""
        design = TestedDesign(self.estimator, self.target, without_lost(table, self.response))
        for _, model in design.built:
            check_left_by(model.X, model.random, self.estimator.large.method)

    def alone(self, data: Any, key: Any) -> Any:
        """What the test makes of one data set."""
        return self.estimator.alone(data, key)


def slabs(places: np.ndarray, n: int) -> list[np.ndarray]:
    """Data sets, cut such that with n draws in each they can be fitted together."""
    return np.array_split(places, -(-len(places) * n // SLAB)) if len(places) else []


def share_above(drawn: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """``(1 + #{drawn >= observed}) / (used + 1)`` of draws (b, n), those that are NaN not used."""
    return (1.0 + np.sum(drawn >= observed[:, None], 1)) / (1.0 + np.sum(np.isfinite(drawn), 1))


def errors_of(fits: BatchFit, weights: np.ndarray) -> np.ndarray:
    """Standard errors (b,) of a combination of coefficients."""
    return np.sqrt(np.einsum("i,bij,j->b", weights, fits.vcov, weights))
