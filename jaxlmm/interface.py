"""From a formula and a data frame to a fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .covariance import NAMES, OVER_COORDINATES, OVER_ORDER, Covariance
from .design import Residual, Term
from .errors import DataError, FormulaError
from .formula import parse, parse_residual
from .frame import FrameTerm, build_frame
from .grouping import FrameResidual
from .model import Model
from .results import Fit, fit_frame


def lmm(
    formula: str,
    data: Any,
    method: str = "REML",
    weights: Any = None,
    offset: Any = None,
    residual: Any = None,
    structures: Mapping[str, type[Covariance]] | None = None,
    engine: str = "auto",
    start: np.ndarray | None = None,
) -> Fit:
    """Fit a linear mixed model.

    Parameters
    ----------
    formula : str
        lme4's syntax: ``"y ~ x * f + (x | g)"``, ``(x || g)``, ``(1 | a/b)``, ``(1 | a:b)``, ``offset(o)``, and
        structured terms such as ``diag(x | g)``, ``cs(0 + f | g)``.
    data : pandas.DataFrame, polars.DataFrame or dict of arrays
        Rows with missing values in used columns are dropped and counted.
    method : "REML" or "ML"
    weights : column name or array (n,), optional
        ``Var(e_i) = sigma^2 / w_i``.
    offset : column name or array (n,), optional
    residual : str, optional
        Covariance of the residuals within subjects, ``"us(visit | id)"``: a structure, the column that says which of
        its levels a row has, and the subjects. With weights w, Cov(e_i, e_j) is divided by sqrt(w_i w_j), as in
        mmrm. Default: independent.
    structures : mapping of names to covariance classes, optional
        Further names for structured terms in the formula.
    engine : "auto", "grouped", "marginal" or "dense"; see `jaxlmm.Model`
    start : (k,) array, optional
        Start value of theta.

    Returns
    -------
    Fit

    Raises
    ------
    FormulaError
        With a caret under the place that is not understood.
    DataError
        When the data cannot be used as given.
    """
    if method not in ("REML", "ML"):
        raise DataError(f"method: found {method!r}, expected 'REML' or 'ML'")
    known = {**NAMES, **(structures or {})}
    parsed = parse(formula, known)
    repeated = None if residual is None else (*parse_residual(residual, known), residual)
    if not parsed.bars and repeated is None:
        raise FormulaError("formula: no random effects; add at least one term such as (1 | group)", parsed.text)
    frame = build_frame(parsed, data, weights, offset, repeated)
    random = [
        Term(t.Z, t.codes, _structure(t, known, parsed.text, bar.position), t.group)
        for t, bar in zip(frame.terms, parsed.bars, strict=True)
    ]
    errors = None
    if frame.residual is not None:
        structure = _structure(frame.residual, known, frame.residual.text, None)
        errors = Residual(structure, frame.residual.subject, frame.residual.position)
    model = Model(frame.y, frame.X, random, errors, weights=frame.weights, offset=frame.offset, engine=engine)
    return fit_frame(data, frame, model, method, start)


def _structure(
    term: FrameTerm | FrameResidual, known: Mapping[str, type[Covariance]], text: str, position: int | None
) -> Covariance:  # fmt: skip
    """The covariance structure that a term asks for."""
    name = term.structure or "us"
    if name in OVER_COORDINATES and known[name] is NAMES[name]:
        raise FormulaError(
            f"structure {name!r} is over times or places, which lmm() does not take yet; jaxlmm.Model takes "
            "whole-number times as the position of Residual(...)", text, position,
        )  # fmt: skip
    if name in OVER_ORDER and isinstance(term, FrameTerm) and not _one_level_a_row(term.Z):
        raise FormulaError(
            f"structure {name!r} is over the levels of a factor; write {name}(0 + factor | group), not a numeric "
            "column or an intercept", text, position,
        )  # fmt: skip
    try:
        return known[name](**dict(term.options))  # type: ignore[arg-type]
    except TypeError as error:
        raise FormulaError(f"structure {name!r}: {error}", text, position) from None


def _one_level_a_row(Z: np.ndarray) -> bool:
    return bool(np.all((Z == 0) | (Z == 1)) and np.all(Z.sum(1) == 1))
