"""A study in the order in which papers report one: aims, data, estimands, methods, performance.

Morris, White & Crowther (2019), Using simulation studies to evaluate statistical methods, Stat Med 38:2074-2102.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..frames.tables import Shown, Table, in_latex
from .cells import in_words, label
from .estimators import CHOSEN, ESTIMATE
from .manifest import replicates_of
from .measures import BAND
from .tables import SHOWN, performance_table

Part = str | Table
MEANING = {
    "mean": "mean of the estimates, where the truth is not known",
    "bias": "mean of the estimates less the truth",
    "empirical_se": "standard deviation of the estimates",
    "mse": "mean squared difference of estimate and truth",
    "model_se": "root mean square of the standard errors",
    "relative_error_se": "model SE over empirical SE, less one",
    "coverage": "share of intervals that hold the truth",
    "type1_error": "share of tests that reject where the null is true",
    "power": "share of tests that reject where it is not",
    "rejection": "share of tests that reject, where the truth is not known",
    "converged": "share of data sets with an optimum",
    "singular": "share of fits with a covariance matrix on its boundary",
    "usable": "share of data sets with a result",
}
OPTIONS = ("residual", "variance", "weights")
DATA = (
    ("formula", "beta", "covariance", "residual", "variance", "skew", "tails", "lost"),
    ("residual", "variance", "weights"),
)


@dataclass(frozen=True, eq=False, repr=False)
class Ademp(Shown):
    """Paragraphs and tables under headings; `html`, `markdown` and `latex` are for papers.

    Attributes
    ----------
    sections : headings and what stands under them
    """

    sections: tuple[tuple[str, tuple[Part, ...]], ...]

    def tables(self) -> tuple[Part, ...]:
        """All of it, headings among the paragraphs."""
        return tuple(part for heading, parts in self.sections for part in (heading.upper(), *parts))

    def html(self) -> str:
        """Headings, paragraphs and tables."""
        return "".join(
            f"<h2>{html.escape(heading)}</h2>" + "".join(
                f"<p>{html.escape(part)}</p>" if isinstance(part, str) else f"<div class='wide'>{part.html()}</div>"
                for part in parts
            )
            for heading, parts in self.sections
        )  # fmt: skip

    _repr_html_ = html

    def markdown(self) -> str:
        """The same in Markdown."""
        return "\n\n".join(
            text for heading, parts in self.sections
            for text in (f"## {heading}", *(p if isinstance(p, str) else p.markdown() for p in parts))
        )  # fmt: skip

    def latex(self) -> str:
        """The same in LaTeX, tables with the rules of the package booktabs."""
        return "\n\n".join(
            text for heading, parts in self.sections
            for text in (rf"\subsection*{{{in_latex(heading)}}}",
                         *(in_latex(p) if isinstance(p, str) else p.latex() for p in parts))
        )  # fmt: skip


def ademp(summary: Any) -> Ademp:
    """See ``Performance.ademp``."""
    study = summary.results.manifest["study"]
    shown = [m for m in SHOWN if not np.isnan(summary.value[m]).all()]
    return Ademp((
        ("Aims", (study.get("aims") or "Not stated; Study(aims=...) has them here.",)),
        ("Data-generating mechanisms", tuple(_data(summary.results, study))),
        ("Estimands", (_estimands(summary.results, study),)),
        ("Methods", (_methods(summary.results, study),)),
        ("Performance measures", tuple(_measures(summary, shown))),
        ("Results", tuple(_results(summary))),
    ))  # fmt: skip


def _data(results: Any, study: Mapping[str, Any]) -> Iterator[Part]:
    generate, design = study["generate"], study["design"]
    if "formula" in generate:
        given = [f"{name} {_words(generate[name])}" for name in DATA if generate.get(name)]
        yield f"Responses come from a linear mixed model: {'; '.join(given)}. Coefficients not listed are 0."
    else:
        yield f"Data sets come from the function {_words(generate)}, whose source is in the file of the study."
    known = isinstance(design, Mapping) and {"function", "method", "partial"} & set(design)
    yield f"The design is {_words(design)}." if known else "The design is one table of data."
    levels = {f: list(dict.fromkeys(cell[f] for cell in results.cells)) for f in results.factors}
    count, size = len(results.cells), int(np.prod([len(v) for v in levels.values()])) if levels else 1
    if levels:
        factors = "; ".join(f"{name}: {', '.join(map(str, values))}" for name, values in levels.items())
        how = "all combinations" if size == count else f"{count} of the {size} combinations"
        yield f"Factors: {factors} ({count} cells, {how})."
    each = sorted(set(replicates_of(results.manifest)))
    sizes = f"{each[0]:,}" if len(each) == 1 else f"{each[0]:,} to {each[-1]:,}"
    begun = sum(task.hi - task.lo for task in results.tasks)
    rest = "" if results.complete else f" The study is not complete: {begun:,} data sets are done."
    yield (f"{sizes} data sets in each cell, each from a key of its own, made of the seed {study['seed']}, the factors "
           f"of the cell and the number of the data set; all methods are applied to the same ones.{rest}")  # fmt: skip


def _estimands(results: Any, study: Mapping[str, Any]) -> Table:
    rows = []
    for name, target in study["targets"].items():
        truths = {truth.get(name) for truth in results.manifest["truths"]}
        known = sorted(t for t in truths if t is not None)
        text = ", ".join(f"{t:g}" for t in known[:4]) + (f", ... {known[-1]:g}" if len(known) > 4 else "")
        rows.append((name, _words(target["of"]), text or "not known", f"{target['null']:g}"))
    return Table("Estimands", ("estimand", "of", "true values", "tested value"), tuple(rows), labels=4)


def _methods(results: Any, study: Mapping[str, Any]) -> Table:
    rows = []
    chosen = [name for name, target in study["targets"].items() if target["of"] == CHOSEN]
    for one in study["estimators"]:
        model = one.get("formula") or one.get("large", {}).get("formula") or ""
        small = one.get("small", {}).get("formula")
        options = [f"{name} {_words(one[name])}" for name in OPTIONS if one.get(name)]
        if "candidates" in one:
            model = "one of " + " | ".join(own["formula"] for own in one["candidates"])
            options.append(f"chosen by {one['by']}")
        if "function" in one:
            model = _words(one["function"])
        model = "; ".join([f"{model} against {small}" if small else model, *options])
        method = one.get("method") or one.get("large", {}).get("method") or ""
        tests = dict.fromkeys(row.test for row in results.rows if row.estimator == one["name"]
                              and row.test != ESTIMATE and row.target not in chosen)  # fmt: skip
        rows.append((one["name"], model, method, ", ".join(tests)))
    return Table("Methods", ("method", "model", "estimated by", "tests"), tuple(rows), labels=4)


def _measures(summary: Any, shown: list[str]) -> Iterator[Part]:
    rows = tuple((SHOWN[m][0], MEANING[m]) for m in shown)
    yield Table("Measures", ("measure", "meaning"), rows, labels=2,
                note=f"Intervals of {100 * summary.level:g} %, tests at {100 * summary.alpha:g} %. Monte Carlo "
                     "standard errors by Morris, White & Crowther (2019, Table 6).")  # fmt: skip
    yield conditional(summary)


def conditional(summary: Any) -> str:
    """What the numbers are conditional on."""
    results, share, count = summary.results, summary.value["usable"], summary.n["usable"]
    there = np.nan_to_num(count) > 0
    if not (there & (share < 1.0)).any():
        return "Every method has a result in every data set: nothing is conditional."
    c, k = np.unravel_index(np.argmin(np.where(there, share, 2.0)), share.shape)
    some = [row for i, row in enumerate(results.rows) if (there[:, i] & (share[:, i] < 1.0)).any()]
    where, row = in_words(results.cells[c]), results.rows[k]
    listed = "; ".join(dict.fromkeys(_name(one) + f", {one.target}" for one in some[:8]))
    return (
        "Bias and empirical SE are of the data sets in which a model has an optimum; coverage, rejection and model SE "
        "of those in which the test has a result; others are counted, not replaced. "
        f"{len(some)} of {len(results.rows)} rows of numbers have no result somewhere, and are conditional on "
        f"having one: {listed}{' and others' if len(some) > 8 else ''}. The lowest share with a result is "
        f"{100 * share[c, k]:.1f} % ({_name(row)}, {row.target}{f'; {where}' if where else ''}). Two methods that lose "
        "different data sets are compared on those that both have by Results.compare."
    )


def _results(summary: Any) -> Iterator[Part]:
    results = summary.results
    for target in dict.fromkeys(row.target for row in results.rows):
        rows = [(k, row) for k, row in enumerate(results.rows) if row.target == target]
        for k, row in rows:
            if found := list(_sentences(summary, k)):
                yield f"{target}, {_name(row)}: {'; '.join(found)}."
        yield performance_table(summary, target)


def _sentences(summary: Any, k: int) -> Iterator[str]:
    """What is remarkable of a row of numbers over the cells."""
    for measure, nominal in (("type1_error", summary.alpha), ("coverage", summary.level), ("power", None),
                             ("rejection", None)):  # fmt: skip
        value, n = summary.value[measure][:, k], summary.n[measure][:, k]
        there = ~np.isnan(value)
        if not there.any():
            continue
        text = f"{SHOWN[measure][0].removesuffix(' %')} {_range(100 * value[there], 1)} %"
        if nominal is not None:
            error = np.sqrt(nominal * (1.0 - nominal) / n[there])
            out = int(np.sum(np.abs(value[there] - nominal) > BAND * error))
            text += (
                f" (nominal {100 * nominal:g} %, outside of its 95 % Monte Carlo band in {out} of {there.sum()} cells)"
            )
        yield text
    bias, error = summary.value["bias"][:, k], summary.mcse["bias"][:, k]
    there = ~np.isnan(bias) & (error > 0)
    if there.any():
        yield (f"bias {_range(bias[there], 4)}, at most {np.max(np.abs(bias[there]) / error[there]):.1f} Monte Carlo "
               "standard errors from 0")  # fmt: skip
    usable = summary.value["usable"][:, k]
    if (usable < 1.0).any():
        yield f"with a result in {_range(100 * usable[~np.isnan(usable)], 1)} % of the data sets"


def _range(values: np.ndarray, digits: int) -> str:
    low, high = (f"{v:.{digits}f}" for v in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _name(row: Any) -> str:
    return row.estimator if row.test in (ESTIMATE, "") else f"{row.estimator}, {row.test}"


def _words(value: Any) -> str:
    """A described value in a few words: functions by their names, mappings as pairs."""
    if isinstance(value, Mapping):
        for key in ("function", "method", "partial"):
            if key in value:
                name = _words(value[key])
                return str(value.get("source") or name) if name.endswith("<lambda>") else name
        if "kind" in value:
            own = {k: v for k, v in value.items() if k not in ("kind", "program") and v not in (None, "")}
            return f"{value['kind']}({_words(own)})"
        return ", ".join(f"{name} = {_words(own)}" for name, own in value.items())
    if isinstance(value, list) and not any(isinstance(own, list | Mapping) for own in value):
        return ", ".join(map(str, value))
    return str(label(value))
