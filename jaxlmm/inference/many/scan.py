"""Scans: many responses by many covariates, one at a time, with exact fits of the pairs that pass a threshold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...arguments import check_number
from ...batch.chunks import Progress, reporter
from ...batch.fits import BatchFit
from ...batch.refitting import as_batch, refit_batch, turned
from ...batch.rows import is_sparse
from ...distributions import f_tail, t_quantile
from ...errors import DataError
from ...fitting.newton import Status
from ...frames.columns import make_frame
from ...frames.files import Sink
from ...frames.tables import Shown, Table, format_column, format_p
from ...runtime.precision import float64
from ..fixed_effects.in_batches import METHODS, Tests
from .scanning import scanner_of, statistics_of

if TYPE_CHECKING:
    from ...estimates.fitted import FitBase

COLUMNS = ("response", "covariate", "estimate", "std_error", "score", "lrt", "p_value")
NUMBERS = 4e6  # of pairs, with the products of each, that are worked on at a time


@dataclass(frozen=True, eq=False, repr=False)
class Scan(Shown):
    """Pairs of responses and covariates beyond a threshold.

    Attributes
    ----------
    null : fits of the responses without a covariate, by maximum likelihood
    pairs : number of covariates times responses with a fit, `spanned` ones included;  found : that passed the threshold
    spanned : covariates that are combinations of X, or have values that are not finite
    threshold : of p values
    hits : columns of the pairs that passed, where they were not written to a file
    """

    null: BatchFit
    pairs: int
    found: int
    spanned: int
    threshold: float
    hits: dict[str, np.ndarray]
    kind: str = "dict"

    def frame(self) -> Any:
        """One row a pair that passed.

        `estimate`, `std_error`, `score`, `lrt` and `p_value` at the null fit's ratio of variances; from the pair's own
        fits `exact_lrt` with `exact_lrt_p` (ML), and `reml_estimate`, `reml_std_error`, `df`, `reml_p` (REML).
        """
        return make_frame(self.kind, self.hits)

    def table(self) -> Table:
        """The pairs with the smallest p values."""
        title = f"{self.found} of {self.pairs} pairs with p < {self.threshold:g}:"
        without = {"covariates without a test": self.spanned, "responses without a fit": np.sum(~self.null.converged)}
        note = "; ".join(f"{count} {what}" for what, count in without.items() if count)
        if not self.hits:
            return Table(title, ("",), (), note=note)
        top = np.argsort(self.hits["p_value"], kind="stable")[:10]
        names = ("response", "covariate", "estimate", "std_error", "p_value")
        r, c, estimate, se, p = (self.hits[name][top] for name in names)
        rows = zip(map(str, r), map(str, c), format_column(estimate), format_column(se), map(format_p, p), strict=True)
        return Table(title, ("Response", "Covariate", "Estimate", "Std. Error", "p"), tuple(rows), note=note)


def scan(
    fit: FitBase, values: Any, Y: Any, threshold: float, df: str | None, to: Any, names: Sequence[Any] | None,
    covariates: Sequence[Any] | None, progress: Progress,
) -> Scan:  # fmt: skip
    """See ``Fit.scan``."""
    check_number("threshold", threshold)
    if not 0 < threshold <= 1:
        raise DataError(f"threshold: expected a p value between 0 and 1, found {threshold!r}")
    if df is not None and df not in METHODS:
        raise DataError(f"df: found {df!r}, expected one of {', '.join(METHODS)}, or None for no refits")
    model = fit.model
    Y = as_batch("y", Y, len(model.y), one=True)
    if names is not None and len(names) != len(Y):
        raise DataError(f"names: expected {len(Y)}, one a response, found {len(names)}")
    null = refit_batch(model, Y, "ML", progress=False, names=fit.coef_names, kind=fit.frame.kind)
    good = np.flatnonzero(null.converged)
    if not len(good):
        raise DataError(f"y: none of {len(Y)} responses could be fitted, see their status in fit.refit(y)")
    with float64():
        scanner = scanner_of(model, Y[good], null, good)
    if scanner.df < 1:
        raise DataError(f"values: {scanner.n} rows are too few for {scanner.p + 1} coefficients")
    least = float(t_quantile(0.5 * threshold, scanner.df)) ** 2
    least = least / (scanner.df + least)
    pieces: list[dict[str, np.ndarray]] = []
    start = found = spanned = 0
    values = np.asarray(values) if hasattr(values, "columns") else values  # a data frame
    total = np.shape(values)[0] * len(good) if hasattr(values, "shape") else 0
    with nullcontext() if to is None else Sink(to) as sink, reporter(progress if total else False, total) as report:
        for x in _blocks(values, len(model.y), max(1, int(NUMBERS / (len(good) * (model.X.shape[1] + 4))))):
            if covariates is not None and start + len(x) > len(covariates):
                raise DataError(f"covariates: found {len(covariates)} for {start + len(x)} covariates or more")
            usable = np.isfinite(x).all(1)
            scores = scanner(np.where(usable[:, None], x, 0.0))
            spanned += int(np.sum(np.isnan(scores.share[0])))
            i, j = np.nonzero(scores.share >= least)
            if len(i):
                stats = statistics_of(scores.share[i, j], scanner.n, scanner.df)
                rows = good[i]
                piece: dict[str, np.ndarray] = {
                    "response": rows if names is None else np.asarray(names)[rows],
                    "covariate": start + j if covariates is None else np.asarray(covariates)[start + j],
                    "estimate": scores.estimate[i, j], "std_error": scores.se[i, j], "score": stats["score"],
                    "lrt": stats["lrt"], "p_value": f_tail(stats["F"], 1.0, np.float64(scanner.df)),
                }  # fmt: skip
                if df is not None:
                    piece |= _exact(model, Y[rows], x[j], null.loglik[rows], df)
                found += len(i)
                if sink is None:
                    pieces.append(piece)
                else:
                    sink.add(piece)
            start += len(x)
            report(start * len(good), total)
        if covariates is not None and len(covariates) != start:
            raise DataError(f"covariates: found {len(covariates)} for {start} covariates")
        if sink is not None and not found:
            sink.add({name: np.zeros(0) for name in COLUMNS})
    hits = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]} if pieces else {}
    return Scan(null, start * len(good), found, spanned, threshold, hits, fit.frame.kind)


def _exact(model: Any, Y: np.ndarray, x: np.ndarray, null: np.ndarray, df: str) -> dict[str, np.ndarray]:
    """Fits of pairs with the covariate in a further column: likelihood ratios by ML, tests by REML."""
    last, model = model.X.shape[1], model.replace(X=np.column_stack([model.X, x[0]]))
    tests = Tests(np.eye(last + 1)[-1:], df=df)
    ml = refit_batch(model, Y, "ML", column=last, values=x, progress=False)
    reml = refit_batch(model, Y, "REML", column=last, values=x, progress=False, tests=tests)
    test = reml.tests[df]
    ratio = np.maximum(2.0 * (ml.loglik - null), 0.0)
    return {
        "exact_lrt": ratio, "exact_lrt_p": f_tail(ratio, 1.0, np.inf), "reml_estimate": test.estimate[:, 0],
        "reml_std_error": test.se[:, 0], "df": test.df[:, 0], "reml_p": test.p[:, 0],
        "status": np.array([Status(s).name.lower() for s in reml.status]),
    }  # fmt: skip


def _blocks(values: Any, n: int, size: int) -> Iterator[np.ndarray]:
    """Covariates (m, n), an array also of a file or a sparse matrix, or blocks of them, at most `size` at a time."""
    sparse = is_sparse(values)
    if isinstance(values, np.ndarray) or sparse:
        if values.ndim != 2 or values.shape[1] != n:
            hint = turned(values.shape, n)
            raise DataError(f"values: expected covariates of {n} rows, (m, {n}), found shape {values.shape}{hint}")
        values = values.tocsr() if sparse else values
        for i in range(0, values.shape[0], size):
            yield as_batch("values", values[i : i + size].toarray() if sparse else values[i : i + size], n)
    elif isinstance(values, Iterable):
        for block in values:
            yield from _blocks(block if is_sparse(block) else np.atleast_2d(np.asanyarray(block)), n, size)
    else:
        raise DataError(f"values: found {type(values).__name__}, expected covariates (m, {n}), or blocks of them")
