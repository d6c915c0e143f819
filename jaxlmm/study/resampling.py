"""Applying tests whose law is drawn in every data set; which there are is in `laws`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..batch.fits import BatchFit
from ..batch.refitting import refit_batch
from ..design.frame import ModelFrame
from ..errors import DataError, JaxlmmError
from ..inference.ratios.resampling import cleaned
from ..interface import lmm, model_of
from ..likelihood.confounding import check_left_by
from ..likelihood.model import Model
from ..runtime.sizes import check_draws
from .drawing import Drawn, sentence_of
from .estimate import FLOATS, OF_FIT, Numbers, parameter, without_lost
from .estimators import Estimator, Row, Target
from .generate import stand_in

SLAB = 20_000  # data sets that are fitted together

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
    estimates_error = False  # of prediction, rather than a parameter of the model

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

    def alone(self, data: Any, key: Any) -> Any:
        """The fit of one data set."""
        return self.fitted(data, self.large)

    def fitted(self, data: Any, model: Estimator) -> Any:
        """The fit of one data set."""
        return lmm(model.formula, data, model.method, **model.options)


class TestedDesign:
    """Models on a design, and what is found once for it."""

    def __init__(self, test: Resampled, target: Target, data: Mapping[str, Any]):
        self.data, self.built = data, test.build(data, target)
        self.law: np.ndarray | None = None
        names = self.built[0][0].coef_names
        unknown = [name for name in target.weights if name not in names and not target.is_variance]
        if test.estimates_error:
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
