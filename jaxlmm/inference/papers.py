"""Fits as papers print them: several side by side, collinearity of terms, and a sentence on what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from ..design.several import responses_of
from ..errors import DataError
from ..estimates.fitted import FitBase
from ..frames.columns import make_frame
from ..frames.tables import Shown, Table, format_p
from ..tolerances import correlation_of
from .hypotheses.coding import term_columns


@dataclass(frozen=True, eq=False, repr=False)
class SideBySide(Shown):
    """Several fits in one table: coefficients with standard errors, standard deviations and correlations, criteria.

    Attributes
    ----------
    names : of the fits
    blocks : rows of the table: headings, and of each row its name and its number in every fit, NaN where it has none
    errors : standard errors of the coefficients, as `blocks` has these
    note, kind
    """

    names: tuple[str, ...]
    blocks: tuple[tuple[str, dict[str, np.ndarray]], ...]
    errors: dict[str, np.ndarray]
    p: dict[str, np.ndarray]
    note: str
    kind: str

    def frame(self) -> Any:
        """One row a number: block, term, and of every fit a column, of coefficients another with the standard error."""
        rows = [(block, name, values) for block, found in self.blocks for name, values in found.items()]
        nothing = np.full(len(self.names), np.nan)
        columns: dict[str, Any] = {"block": [r[0] for r in rows], "term": [r[1] for r in rows]}
        for i, name in enumerate(self.names):
            columns[name] = [float(r[2][i]) for r in rows]
            errors = [self.errors.get(r[1], nothing) if r[0] == COEFFICIENTS else nothing for r in rows]
            columns[f"se({name})"] = [float(e[i]) for e in errors]
        return make_frame(self.kind, columns)

    def table(self) -> Table:
        """As it prints: standard errors in parentheses, p values behind them."""
        body: list[tuple[str, ...]] = []
        for block, found in self.blocks:
            if not found:
                continue
            body.append((block, *[""] * len(self.names)))
            for name, values in found.items():
                cells = ["" if np.isnan(v) else _number(v, block) for v in values]
                if block == COEFFICIENTS:
                    more = zip(cells, self.errors[name], self.p[name], strict=True)
                    cells = [c and f"{c} ({s:.3g}), p {_p(p)}" for c, s, p in more]
                body.append((f"  {name}", *cells))
        return Table("Fits side by side", ("", *self.names), tuple(body), note=self.note)


COEFFICIENTS, SPREAD, CRITERIA = "Coefficients", "SD and correlations", "Criteria"


def _number(value: float, block: str) -> str:
    return f"{value:.2f}".removesuffix(".00") if block == CRITERIA else f"{value:.4g}"


def _p(p: float) -> str:
    text = format_p(p)
    return text if text.startswith("<") else f"= {text}" if text else "unknown"


def side_by_side(
    *fits: Any, names: Sequence[str] | None = None, df: str = "satterthwaite", **options: Any
) -> SideBySide:
    """Several fits in one table, for a paper: ``latex()`` and ``markdown()`` are there as for every result.

    Parameters
    ----------
    fits : fits of `jaxlmm.lmm`
    names : of the columns; default (1), (2), ...
    df, options : of the tests, see ``Fit.test``

    Raises
    ------
    DataError
        Without fits, and for another number of names.
    """
    if not fits or not all(isinstance(fit, FitBase) for fit in fits):
        raise DataError("side_by_side: expected fits, side_by_side(fit1, fit2)")
    names = tuple(f"({i + 1})" for i in range(len(fits))) if names is None else tuple(map(str, names))
    if len(names) != len(fits) or len(set(names)) < len(names):
        raise DataError(f"names: expected {len(fits)} different ones, one a fit, found {list(names)}")
    coefficients: dict[str, np.ndarray] = {}
    errors, p, spread, criteria = (dict(coefficients) for _ in range(4))

    def put(into: dict[str, np.ndarray], name: str, i: int, value: float) -> None:
        into.setdefault(name, np.full(len(fits), np.nan))[i] = value

    tests = [fit.wald(df=df, **options) for fit in fits]
    for i, (fit, wald) in enumerate(zip(fits, tests, strict=True)):
        rows = wald.rows(np.eye(len(fit.coef)))
        for name, estimate, se, chance in zip(fit.coef_names, rows.estimate, rows.se, rows.p, strict=True):
            for into, value in ((coefficients, estimate), (errors, se), (p, chance)):
                put(into, name, i, float(value))
        found = fit.varcorr().frame()
        entries = zip(*(list(found[c]) for c in ("group", "column", "column2", "sd_or_corr")), strict=True)
        for group, column, other, value in entries:
            put(spread, " ".join(filter(None, (group, column, other and f"with {other}"))), i, float(value))
        numbers = {"observations": fit.nobs, "logLik": fit.loglik, "AIC": fit.aic, "BIC": fit.bic}
        for name, value in numbers.items():
            put(criteria, name, i, float(value))
    said = dict.fromkeys(
        f"{name}: {fit.frame.formula.text}, {fit.method}" for name, fit in zip(names, fits, strict=True)
    )
    labels = dict.fromkeys(wald.label for wald in tests)
    note = "\n".join([*said, f"standard errors in parentheses; tests: {'; '.join(labels)}"])
    blocks = ((COEFFICIENTS, coefficients), (SPREAD, spread), (CRITERIA, criteria))
    return SideBySide(names, blocks, errors, p, note, fits[0].frame.kind)


def vif(fit: FitBase) -> Any:
    """See ``Fit.vif``."""
    terms = term_columns(fit)
    if len(terms) < 2:
        raise DataError("vif: expected at least two terms besides the intercept, of which one can explain another")
    used = [j for members in terms.values() for j in members]
    R = _correlation(fit)[np.ix_(used, used)]
    place = {j: i for i, j in enumerate(used)}
    rows = []
    for members in terms.values():
        own = [place[j] for j in members]
        rest = [i for i in range(len(used)) if i not in own]
        logs = [np.linalg.slogdet(R[np.ix_(which, which)])[1] for which in (own, rest, range(len(used)))]
        rows.append((np.exp(logs[0] + logs[1] - logs[2]), len(own)))
    inflation, count = np.array(rows).T
    columns: dict[str, Any] = {"gvif": inflation, "df": count, "per_df": inflation ** (0.5 / np.maximum(count, 1))}
    return make_frame(fit.frame.kind, {"term": list(terms), **columns})


def correlation(fit: FitBase) -> Any:
    """See ``Fit.correlation``."""
    R = _correlation(fit)
    columns = {name: R[:, j] for j, name in enumerate(fit.coef_names)}
    return make_frame(fit.frame.kind, {"term": list(fit.coef_names), **columns})


def _correlation(fit: FitBase) -> np.ndarray:
    """Correlations (p, p) of the coefficients, NaN where the data do not identify what they depend on."""
    se = fit.wald("asymptotic").rows(np.eye(len(fit.coef))).se
    return np.where(np.isnan(se[:, None] + se), np.nan, correlation_of(fit.vcov))


def correlations(fit: FitBase) -> Table:
    """The correlations of the coefficients below the diagonal, as lme4's summary has them."""
    frame, names = correlation(fit), fit.coef_names
    R = np.array([np.asarray(frame[name], np.float64) for name in names])
    cells = [["" if np.isnan(r) else f"{r:.3f}" for r in row[:i]] for i, row in enumerate(R)]
    rows = tuple((name, *own, *[""] * (len(R) - len(own))) for name, own in zip(names, cells, strict=True))
    return Table("Correlation of fixed effects:", ("", *names), rows)


def quartiles(fit: FitBase) -> Table:
    """Quartiles of the scaled residuals, as lme4's summary has them."""
    cells = tuple(f"{q:.4f}" for q in np.quantile(fit.residuals("pearson"), [0.0, 0.25, 0.5, 0.75, 1.0]))
    return Table("Scaled residuals:", ("Min", "1Q", "Median", "3Q", "Max"), (cells,), labels=0)


def report(fit: FitBase, df: str = "satterthwaite", **options: Any) -> str:
    """See ``Fit.report``."""
    frame, call = fit.frame, fit.call
    how = "restricted maximum likelihood" if fit.method == "REML" else "maximum likelihood"
    own = () if frame.residual is None else (frame.residual,)
    sizes = dict.fromkeys(f"{len(p.levels)} levels of {p.group_label}" for p in (*frame.parts, *own) if p.levels)
    said = [
        f"A linear mixed model was fitted by {how} to {fit.nobs} observations"
        f"{f' ({_listed(list(sizes))})' if sizes else ''} with jaxlmm {version('jaxlmm')}."
    ]
    if frame.n_missing:
        said.append(f"{frame.n_missing} of {frame.n_input} rows were left out because of missing values.")
    terms = [frame.formula.readable(":".join(t)) for t in frame.formula.side.terms]
    intercept = "an intercept" if frame.formula.side.intercept else "no intercept"
    several = responses_of(call.written)
    responses = f"responses were {_listed(several)}, stacked" if several else f"response was {frame.response}"
    said.append(f"The {responses}; fixed effects were {_listed([intercept, *terms])}.")
    if frame.parts:
        said.append(f"Random effects were {_listed([part.text for part in frame.parts])}.")
    if call.relationship:
        said.append(f"Levels of {_listed(list(call.relationship))} had known covariances.")
    if frame.residual_text:
        said.append(f"Residuals had the covariance {frame.residual_text}.")
    else:
        said.append("Residuals were independent" + (" but for their variances." if frame.variance_text else "."))
    if frame.variance_text:
        said.append(f"Their variances depended on {frame.variance_text}.")
    if fit.model.weights is not None:
        named = f" {call.weights}" if isinstance(call.weights, str) else ""
        said.append(f"Rows were weighted{named}, variances being inverse to weights.")
    if fit.model.offset is not None:
        said.append("An offset was added to the mean.")
    if frame.aliased:
        said.append(f"Columns that others span were left out: {_listed(list(frame.aliased))}.")
    wald = fit.wald(df=df, **options)
    said.append(f"Tests of coefficients were by {wald.label}.")
    if fit.monte_carlo is not None:
        said.append("The likelihood was approximated by Monte Carlo.")
    if not fit.converged:
        said.append(f"The fit has not converged ({fit.status}); its numbers must not be used.")
    elif fit.singular:
        said.append("The fit is singular: a variance, or a combination of them, is estimated as zero.")
    return " ".join(said)


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
