"""Analyses that papers compare with; one's own is a function of a data set, see `jaxlmm.study.Analysis`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments import nearest, refuse_unknown
from ..errors import DataError
from ..interface import lmm
from .estimators import MODEL, Analysis, Estimator
from .laws import CrossValidation, NestedBootstrap, PermutationTest, RLRTest
from .selecting import Selection

__all__ = ["Selection", "bootstrap", "cluster_means", "cross_validation", "ols", "permutation", "rlrt", "steps"]


def ols(formula: str, name: str = "OLS") -> Estimator:
    """Least squares with n - p degrees of freedom, which takes all rows for independent."""
    return Estimator(name, formula, residual="iid()", df="residual")


def cluster_means(
    cluster: str = "cluster", arm: str = "arm", response: str = "y", target: str | None = None,
    name: str = "t test of cluster means",
) -> Analysis:  # fmt: skip
    """The t test of the means of the clusters of two arms, with pooled variance and clusters - 2 degrees of freedom.

    Exact where clusters are of one size. The higher arm less the lower one is the estimate of `target`, by default the
    arm's name.
    """
    return Analysis(name, ClusterMeans(cluster, arm, response, target or arm), test="t")


@dataclass(frozen=True)
class ClusterMeans:
    """See `cluster_means`."""

    cluster: str
    arm: str
    response: str
    target: str

    def __call__(self, data: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float, float]]:
        """Estimate, standard error and degrees of freedom."""
        if lacking := [name for name in (self.cluster, self.arm, self.response) if name not in data]:
            raise DataError(f"the data have no column {lacking[0]!r}; {nearest(lacking[0], data)}")
        codes = np.unique(data[self.cluster], return_inverse=True)[1]
        arms, arm = np.unique(data[self.arm], return_inverse=True)
        counts = np.bincount(codes)
        means = np.bincount(codes, data[self.response]) / counts
        share = np.bincount(codes, arm) / counts
        if len(arms) != 2 or not np.isin(share, (0.0, 1.0)).all():
            raise DataError(f"{self.arm!r}: expected two arms, one for each {self.cluster!r}, found {len(arms)} arms")
        first, second = means[share == 0.0], means[share == 1.0]
        df = len(means) - 2
        if df < 1:
            raise DataError(f"{self.cluster!r}: expected at least 3 clusters, found {len(means)}")
        square = sum(np.sum((m - m.mean()) ** 2) for m in (first, second)) / df
        se = np.sqrt(square * (1.0 / len(first) + 1.0 / len(second)))
        return {self.target: (second.mean() - first.mean(), se, float(df))}


def _model(name: str, formula: str, method: str, options: Mapping[str, Any]) -> Estimator:
    """The model whose fits are compared; tests of its own are not asked for."""
    refuse_unknown(f"estimator {name!r}", options, MODEL)
    return Estimator(name, formula, method, **options)


def bootstrap(
    formula: str, null: str, target: str, n: int = 199, method: str = "ML", name: str = "bootstrap", **options: Any
) -> NestedBootstrap:  # fmt: skip
    """The parametric bootstrap of a likelihood ratio in every data set: a nested simulation.

    From the fit without the target n responses are drawn, and both models are fitted to each, those of many data sets
    together; p is ``(1 + #{drawn >= observed}) / (n + 1)``. As ``jaxlmm.compare(..., method="bootstrap")``.

    Parameters
    ----------
    formula, null : of the model with the target and without it;  target : of the study: a coefficient, or a variance
    n : draws in a data set; 19, 39, 99, ... can reject exactly at 5 %
    method : "ML"; or "REML", where the fixed effects are the same
    options : of both models: `residual`, `variance`, `weights`, `offset`, `relationship`, `structures`, `engine`
    """
    large, small = (_model(name, text, method, options) for text in (formula, null))
    return NestedBootstrap(name, target, large, n, small)


def rlrt(
    formula: str, target: str, n: int = 10_000, method: str = "REML", name: str = "RLRT", **options: Any
) -> RLRTest:  # fmt: skip
    """The exact test of one variance (`jaxlmm.rlrt`): a law of n draws, which all data sets of a design share.

    Parameters
    ----------
    formula : of a model with one random term of one variance;  target : of the study, ``"sd_(Intercept)|cluster"``
    method : "REML", or "ML" for the ordinary ratio;  options : of the model, as for `bootstrap`
    """
    return RLRTest(name, target, _model(name, formula, method, options), n)


def permutation(
    formula: str, target: str, exchange: str, unit: str | None = None, within: str | None = None, n: int = 999,
    method: str = "REML", name: str = "permutation", **options: Any,
) -> PermutationTest:  # fmt: skip
    """A permutation test: the absolute t of a coefficient among those of n random assignments.

    Exact for the null that outcomes do not depend on the assignment, if it was made as it is exchanged here.

    Parameters
    ----------
    formula : of the model whose t it is, ``residual="iid()"`` for least squares;  target : a coefficient
    exchange : column of numbers that is dealt anew, such as the arm
    unit : column of those it belongs to, such as the cluster; rows without it
    within : column of strata among which units are exchanged;  n : assignments in a data set, each a fit
    options : of the model, as for `bootstrap`
    """
    return PermutationTest(name, target, _model(name, formula, method, options), n, exchange, unit, within)


def cross_validation(
    formula: str, target: str, unit: str | None = None, folds: int = 5, random: bool = True, method: str = "REML",
    name: str = "cross-validation", **options: Any,
) -> CrossValidation:  # fmt: skip
    """The mean squared error of prediction of each row by the fit without its fold, as the estimate of a target.

    Parameters
    ----------
    formula : of the model;  target : of the study, ``Target(of="mse")`` under any name
    unit : column of those that are left out together, dealt to the folds in turns; rows without it
    folds : their number;  random : predict with random effects, those of units without rows being 0
    options : of the model, as for `bootstrap`
    """
    return CrossValidation(name, target, _model(name, formula, method, options), folds, unit, random)


def steps(
    formula: str, targets: str | Sequence[str], df: str = "satterthwaite", alpha_random: float = 0.1,
    alpha_fixed: float = 0.05, name: str = "backward steps", **options: Any,
) -> Analysis:  # fmt: skip
    """Backward elimination of random and fixed terms in every data set (``Fit.step``), then tests as if not.

    A coefficient that was left out is estimated as 0, with p = 1. One data set after the other; of a list of models
    see `Selection`, which fits all data sets together.

    Parameters
    ----------
    formula : the model to begin with;  targets : of the study, coefficients
    df, alpha_random, alpha_fixed : as for ``Fit.step``
    options : of the model, as for `bootstrap`
    """
    refuse_unknown(f"estimator {name!r}", options, MODEL)
    names = (targets,) if isinstance(targets, str) else tuple(targets)
    return Analysis(name, Elimination(formula, names, df, alpha_random, alpha_fixed, options), df)


@dataclass(frozen=True)
class Elimination:
    """See `steps`."""

    formula: str
    targets: tuple[str, ...]
    df: str
    alpha_random: float
    alpha_fixed: float
    options: Mapping[str, Any]

    def __call__(self, data: Mapping[str, np.ndarray]) -> dict[str, tuple[Any, ...]]:
        """Estimate, standard error, degrees of freedom and p value of each."""
        last = lmm(self.formula, data, **self.options).step(self.alpha_random, self.alpha_fixed, self.df).fit
        tests = last.test(np.eye(len(last.coef)), df=self.df).rows
        left = dict(zip(last.coef_names, zip(last.coef, last.se, tests.df, tests.p, strict=True), strict=True))
        return {name: left.get(name, (0.0, None, None, 1.0)) for name in self.targets}
