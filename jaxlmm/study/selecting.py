"""Selection among models in every data set: by information criteria, or by likelihood ratios up or down a list."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..distributions import check_level
from ..errors import DataError
from ..fitting.objective import Spec
from .drawing import Drawn
from .estimate import Fitter, Numbers
from .estimators import CHOSEN, ESTIMATE, Estimator, Row, Target

RULES = ("aic", "bic", "lrt", "backward")
LOGLIK = "\0loglik"  # a target of the models, that no user's can have the name of


@dataclass(frozen=True, eq=False)
class Selection:
    """An analysis that chooses a model in every data set, and tests by what it has chosen.

    Models with different fixed effects are compared by maximum likelihood, as by lme4's ``anova``; the numbers reported
    are those of the models as they are given. A coefficient or a standard deviation that the chosen model does not have
    is estimated as 0, with p = 1 for a coefficient (whose null is 0): whatever has been left out has not been found.

    Parameters
    ----------
    name : in tables
    candidates : several `Estimator` with the same tests, from the smallest to the largest
    by : "aic", "bic"; "lrt", from the smallest upwards as long as the next one is significantly better; or "backward",
        from the largest downwards as long as the next one is not significantly worse. Likelihood ratios are compared
        with chi-squared, their df being parameters, as software does where variances are left out too
    alpha : of these likelihood ratio tests

    Notes
    -----
    A model that has no usable fit is never chosen; "backward" goes on to the next smaller one, and "lrt" ends below it.
    A target ``Target(of="chosen")`` has a row for each candidate, with 1 where it has been chosen, else 0.
    """

    name: str
    candidates: Sequence[Estimator]
    by: str = "backward"
    alpha: float = 0.05

    def rows(self, targets: Mapping[str, Target]) -> list[Row]:
        """What there is a row of numbers for: tests, then which candidate was chosen."""
        own = [row for row in self.candidates[0].rows(targets) if targets[row.target].of != CHOSEN]
        chosen = [name for name, target in targets.items() if target.of == CHOSEN]
        every = [*own, *(Row("", one.name, name) for name in chosen for one in self.candidates)]
        return [row._replace(estimator=self.name) for row in every]

    def check(self, targets: Mapping[str, Target]) -> None:
        """Refuse what cannot be compared."""
        where = f"estimator {self.name!r}"
        if self.by not in RULES:
            raise DataError(f"{where}: by: found {self.by!r}, expected one of {', '.join(RULES)}")
        check_level(self.alpha, f"{where}: alpha")
        own = self.candidates if isinstance(self.candidates, Sequence) else ()
        if len(own) < 2 or not all(isinstance(one, Estimator) for one in own):
            raise DataError(f"{where}: candidates: expected two or more jaxlmm.study.Estimator, from small to large")
        for one in self.candidates:
            one.check(targets)
        tests = [[row[1:] for row in one.rows(targets)] for one in self.candidates]
        names = {one.name for one in self.candidates}
        if any(one != tests[0] for one in tests) or len(names) < len(tests):
            raise DataError(f"{where}: candidates: expected different names and the same tests (df, robust, lrt)")

    def fitter(self, targets: Mapping[str, Target], data: Mapping[str, Any], factors: Any, response: str) -> Selector:
        """What applies it to the data sets of a cell."""
        return Selector(self, targets, data, response)


class Selector:
    """Fits all candidates to data sets of one cell, and takes the rows of one of them in each."""

    def __init__(self, selection: Selection, targets: Mapping[str, Target], data: Mapping[str, Any], response: str):
        self.estimator, self.targets = selection, targets
        self.rows = selection.rows(targets)
        wanted = {name: target for name, target in targets.items() if target.of != CHOSEN}
        wanted[LOGLIK] = Target(of="loglik")

        def fitter(one: Estimator) -> Fitter:
            return Fitter(one, wanted, dict(data), response)

        self.fitters = [fitter(one) for one in selection.candidates]
        spans = [set(f.built.frame.coef_names) for f in self.fitters]
        methods = {one.method for one in selection.candidates}
        by_ml = len(methods) > 1 or ("REML" in methods and any(span != spans[0] for span in spans))
        plain: dict[str, Any] = {"df": "asymptotic", "robust": None, "lrt": None}
        self.compared = [
            fitter(dataclasses.replace(one, method="ML", **plain)) if by_ml and one.method == "REML" else own
            for one, own in zip(selection.candidates, self.fitters, strict=True)
        ]
        self.npar = np.array([_parameters(f) for f in self.fitters])
        if selection.by in ("lrt", "backward") and (np.diff(self.npar) < 1).any():
            raise DataError(f"estimator {selection.name!r}: candidates: expected each to have more parameters than the "
                            f"one before, found {', '.join(map(str, self.npar))}")  # fmt: skip

    def __call__(self, drawn: Drawn, b: int) -> Numbers:
        """Numbers of all data sets, in the order of `rows`."""
        found = [fitter(drawn, b) for fitter in self.fitters]
        others = [
            own if fit is other else other(drawn, b)
            for own, fit, other in zip(found, self.fitters, self.compared, strict=True)
        ]
        logliks, nobs = np.stack([_loglik(n, f) for n, f in zip(others, self.compared, strict=True)]), self._nobs(drawn)
        logliks = np.where(np.stack([_loglik(n, f) for n, f in zip(found, self.fitters, strict=True)]) > -np.inf,
                           logliks, -np.inf)  # fmt: skip
        chosen = choice(logliks, self.npar, nobs, self.estimator.by, self.estimator.alpha)
        out = Numbers.empty(len(self.rows), b)
        for k, (own, fitter) in enumerate(zip(found, self.fitters, strict=True)):
            here = np.flatnonzero(chosen == k)
            self._take(out, here, own, fitter)
            out.messages.update({i: own.messages[i] for i in here.tolist() if i in own.messages})
        return out

    def _take(self, out: Numbers, here: np.ndarray, own: Numbers, fitter: Fitter) -> None:
        """The numbers of a candidate where it was chosen."""
        place = {row[1:]: r for r, row in enumerate(fitter.rows)}
        fitted = np.isfinite(_loglik(own, fitter))[here]
        for r, row in enumerate(self.rows):
            target = self.targets[row.target]
            if target.of == CHOSEN:
                is_it = float(row.test == fitter.estimator.name)
                out.put_row(r, here[fitted], (is_it, np.nan, np.nan, np.nan))
                out.status[r, here[~fitted]] = own.status[place[ESTIMATE, LOGLIK], here[~fitted]]
                continue
            out.take_row(r, here, own, place[row[1:]])
            if row.target in fitter.absent and any(row.target not in f.absent for f in self.fitters):
                zero = not target.is_variance or str(target.of).startswith("sd_")
                p = 1.0 if not target.is_variance and target.null == 0.0 else np.nan
                out.put_row(r, here[fitted], (0.0 if zero and not target.is_joint else np.nan, np.nan, np.nan, p))

    def _nobs(self, drawn: Drawn) -> Any:
        response = self.fitters[0].response
        if drawn.tables is not None:
            return np.array([np.sum(~np.isnan(table[response])) for table in drawn.tables])
        return np.sum(~np.isnan(drawn.columns[response]), 1)

    def rehearse(self, table: Mapping[str, Any]) -> None:
        """Build the candidates; raises what is wrong with one."""
        for fitter in self.fitters:
            fitter.rehearse(table)

    def alone(self, table: Mapping[str, Any], key: Any = None) -> Any:
        """The fit of one data set that is chosen."""
        fits = [fitter.alone(table) for fitter in self.fitters]
        logliks = np.array([[f.loglik if f.converged else -np.inf] for f in (g.alone(table) for g in self.compared)])
        logliks[[not fit.converged for fit in fits]] = -np.inf
        return fits[int(choice(logliks, self.npar, fits[0].nobs, self.estimator.by, self.estimator.alpha)[0])]


def choice(logliks: np.ndarray, npar: np.ndarray, nobs: Any, by: str, alpha: float) -> np.ndarray:
    """Which of m models with log-likelihoods (m, b), -inf without a fit, is chosen in each of b data sets."""
    from scipy.special import chdtrc

    m, b = logliks.shape
    if by in ("aic", "bic"):
        price = np.broadcast_to(2.0 if by == "aic" else np.log(nobs), (b,))
        return np.argmin(-2.0 * logliks + npar[:, None] * price, 0)
    usable = np.isfinite(logliks)
    at, going = np.full(b, 0 if by == "lrt" else m - 1), np.ones(b, bool)
    for k in range(m - 1) if by == "lrt" else reversed(range(m - 1)):
        small, large = logliks[k], logliks[k + 1]
        with np.errstate(invalid="ignore"):
            p = chdtrc(npar[k + 1] - npar[k], np.maximum(2.0 * (large - small), 0.0))
        if by == "lrt":
            going &= usable[k + 1] & (~usable[k] | (p <= alpha))
            at = np.where(going, k + 1, at)
        else:
            going &= ~usable[k + 1] | (usable[k] & (p > alpha))
            at = np.where(going, k, at)
    return at


def _parameters(fitter: Fitter) -> int:
    """Fixed and covariance parameters, as `jaxlmm.Fit.npar`."""
    model = fitter.built.model
    spec = Spec.of(model, "ML")
    return int(model.X.shape[1] + sum(own.size(dim) for own, dim in spec.parts) + spec.profiled)


def _loglik(numbers: Numbers, fitter: Fitter) -> np.ndarray:
    """Log-likelihoods (b,), -inf where there is no fit."""
    values = numbers.estimate[fitter.rows.index(Row(fitter.estimator.name, ESTIMATE, LOGLIK))]
    return np.where(np.isnan(values), -np.inf, values)
