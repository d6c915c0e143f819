"""Likelihood-ratio tests of every term: fixed effects by ML (`drop1`), random effects (`ranova`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...arguments import check_choice
from ...errors import DataError
from ...estimates.fitted import FitBase
from ...fitting.estimate import estimate
from ...fitting.newton import Status
from ...formula.parser import parse
from ...formula.syntax import Side
from ...formula.update import Summand, Written, joined
from ...frames.columns import extend_rows, make_frame
from ...frames.owned import frame_at
from ...frames.tables import Shown, Table, format_p, notes
from ...runtime.precision import float64
from ...tolerances import REPEATED
from ..hypotheses.coding import term_hypotheses
from ..ratios.comparison import by_ml, compare
from ..ratios.mixtures import Mixture
from ..ratios.resampling import cleaned

LAWS = ("mixture", "chi2")


@dataclass(frozen=True, eq=False, repr=False)
class TermTests(Shown):
    """Tests of a model against those without a term; prints as a table.

    Attributes
    ----------
    terms : what is left out, in each row behind the first, which is the model itself
    npar, loglik, aic : (m,)
    statistic, df, p : (m,) likelihood ratio; NaN in the first row
    references : (m,) words for the law of p
    title, note, kind
    """

    terms: tuple[str, ...]
    npar: np.ndarray
    loglik: np.ndarray
    aic: np.ndarray
    statistic: np.ndarray
    df: np.ndarray
    p: np.ndarray
    references: tuple[str, ...]
    title: str
    note: str
    kind: str

    def frame(self) -> Any:
        """Data frame: term, npar, loglik, aic, statistic, df, p_value, reference."""
        columns = {name: getattr(self, name) for name in ("npar", "loglik", "aic", "statistic", "df")}
        more: dict[str, Any] = {"p_value": self.p, "reference": list(self.references)}
        return make_frame(self.kind, {"term": list(self.terms), **columns, **more})

    def table(self) -> Table:
        """As it prints."""

        def column(values: np.ndarray, form: str) -> list[str]:
            return ["" if np.isnan(v) else f"{v:{form}}" for v in values]

        numbers = [column(v, form) for v, form in (
            (self.npar, ".0f"), (self.loglik, ".3f"), (self.aic, ".2f"), (self.statistic, ".4f"), (self.df, ".0f"),
        )]  # fmt: skip
        rows = tuple(zip(self.terms, *numbers, map(format_p, self.p), self.references, strict=True))
        header = ("without", "npar", "logLik", "AIC", "LRT", "Df", "Pr(>Chisq)", "Reference")
        return Table(self.title, header, rows, note=self.note)


def drop1(fit: FitBase, type: int | str = 3, definition: str = "sas") -> TermTests:
    """See ``Fit.drop1``: the model without the hypothesis space of a term, X restricted to ``L beta = 0``, by ML."""
    hypotheses = term_hypotheses(fit, type, definition)
    full: Any = by_ml(fit)
    rows = [_Dropped("(the model)", full.npar, full.loglik)]
    for term, L in hypotheses.items():
        if not len(L):
            rows.append(_Dropped(term, full.npar, np.nan, df=0.0, reference="no test: a combination of other terms"))
            continue
        _, sizes, turn = np.linalg.svd(L / np.linalg.norm(L, axis=1, keepdims=True))
        rank = int(np.sum(sizes > REPEATED * sizes[0]))
        smaller = full.model.replace(X=full.model.X @ turn[rank:].T)
        with float64():
            found = estimate(smaller, "ML")
        statistic = float(cleaned(2.0 * (full.loglik - found.loglik), full.loglik))
        law, usable = Mixture.chi2(rank), full.converged and found.status == Status.CONVERGED
        p = float(law.p_value(statistic)) if usable else np.nan
        reference = str(law) if usable else "no test: a fit has not converged"
        rows.append(_Dropped(term, full.npar - rank, found.loglik, statistic, float(rank), p, reference))
    note = "fitted by maximum likelihood"
    return _table(rows, "Likelihood-ratio tests of fixed effects:", note, fit.frame.kind)


def ranova(fit: FitBase, law: str = "mixture", left: list[tuple[str, str]] | None = None) -> TermTests:
    """See ``Fit.ranova``; `left` are the `reductions`, where these are known."""
    check_choice("law", law, LAWS)
    rows, said = [_Dropped("(the model)", fit.npar, fit.loglik)], list[str]()
    for label, formula in reductions(fit) if left is None else left:
        small = smaller_fit(fit, formula)
        found = compare(small, fit)
        df = float(found.df[1])
        p, reference = found.p[1], found.references[1]
        if law == "chi2" and np.isfinite(found.statistic[1]):
            plain = Mixture.chi2(int(df))
            p, reference = plain.p_value(found.statistic[1]), str(plain)
        rows.append(_Dropped(label, small.npar, small.loglik, found.statistic[1], df, float(p), reference))
        said += found.notes
    if len(rows) == 1:
        raise DataError("ranova: the model has no random effects to be left out")
    return _table(
        rows, "Likelihood-ratio tests of random effects:", notes(f"fitted by {fit.method}", *said), fit.frame.kind
    )


def reductions(fit: FitBase) -> list[tuple[str, str]]:
    """What can be left out of the random effects of a fit, and the formula without it.

    Each effect of a plain term, ``Days in (Days | Subject)``; a term with one effect, and one with a structure, whole.
    """
    response, items = Written(fit.frame.formula.text).parts()
    found = []
    for i, item in enumerate(items):
        if not item.is_random:
            continue
        for label, left in _reduced(item, fit):
            texts = [*items[:i], *(Summand("+", text) for text in left), *items[i + 1 :]]
            found.append((label, joined(response, texts)))
    return found


def _reduced(item: Summand, fit: FitBase) -> list[tuple[str, list[str]]]:
    """Labels of what a random-effect term can lose, and the terms that are left of it."""
    if not item.text.startswith("("):
        return [(item.text, [])]
    parsed = parse(f"y ~ {item.text}", {}, fit.frame.used)
    bars, written = parsed.bars, parsed.written
    texts = [f"({written(bar.lhs)} | {bar.group_text})" for bar in bars]
    found = []
    for i, bar in enumerate(bars):
        others, side = [*texts[:i], *texts[i + 1 :]], bar.side
        effects = [("1",)] * side.intercept + list(side.terms)
        if len(effects) == 1:
            found.append((texts[i] if len(bars) > 1 else item.text, others))
            continue
        for term in side.terms:
            if any(set(term) < set(other) for other in side.terms):
                continue  # an effect within another
            left = Side(side.intercept, tuple(other for other in side.terms if other != term))
            name, rest = parsed.readable(":".join(term)), f"({written(left.text)} | {bar.group_text})"
            found.append((f"{name} in {texts[i]}", [*others[:i], rest, *others[i:]]))
    return found


def smaller_fit(fit: FitBase, formula: str) -> Any:
    """The fit of another formula to the same rows; a linear model where no random effects are left."""
    items = Written(formula).parts()[1]
    alone = not any(item.is_random for item in items) and fit.call.residual is None and fit.call.variance is None
    return fit.update(formula, data=same_rows(fit), **({"residual": "iid()"} if alone else {}), **_arrays(fit))


def same_rows(fit: FitBase) -> Any:
    """The data of a fit at the rows that it used, which smaller models are to be fitted to."""
    return extend_rows(frame_at(fit), fit.frame.rows, {})


def _arrays(fit: FitBase) -> dict[str, Any]:
    """Weights and offsets that were given as arrays, at these rows."""
    given = {name: getattr(fit.call, name) for name in ("weights", "offset")}
    return {
        name: np.asarray(v)[fit.frame.rows] for name, v in given.items() if v is not None and not isinstance(v, str)
    }


@dataclass(frozen=True)
class _Dropped:
    term: str
    npar: int
    loglik: float
    statistic: float = np.nan
    df: float = np.nan
    p: float = np.nan
    reference: str = ""


def _table(rows: list[_Dropped], title: str, note: str, kind: str) -> TermTests:
    def column(name: str) -> np.ndarray:
        return np.array([getattr(row, name) for row in rows], float)

    npar, loglik = column("npar"), column("loglik")
    return TermTests(
        tuple(row.term for row in rows), npar, loglik, 2.0 * npar - 2.0 * loglik, column("statistic"), column("df"),
        column("p"), tuple(row.reference for row in rows), title, note, kind,
    )  # fmt: skip
