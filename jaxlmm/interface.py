"""From a formula and a data frame to a fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import door, shown
from .covariance import NAMES, Over
from .design.arrays import check_same, of_arrays
from .design.fields import FrameField
from .design.frame import FrameTerm, ModelFrame, build_frame
from .design.placing import ORDERED, SPATIAL, check_count, known_order
from .design.several import RESIDUAL, responses_of, stacked, standardised
from .errors import DataError, DroppedColumnsWarning, FormulaError, JaxlmmError
from .formula.parser import parse
from .formula.specs import Structures, given_structures, make_structure, residual_of
from .frames.alignment import aligned
from .frames.columns import open_table
from .frames.files import read_file
from .frames.owned import copied, own_columns
from .frames.relationship import between_levels
from .inference.selection.attempts import Attempt, Attempts
from .likelihood.engines import Engine
from .likelihood.model import Model
from .likelihood.parts import Field, Residual, Term, unwritten
from .results import ConvergenceWarning, Fit, fit_frame
from .saving import Call


@door
def lmm(
    formula: str | Model,
    data: Any = None,
    method: str = "REML",
    weights: Any = None,
    offset: Any = None,
    residual: str | Over | Sequence[str | Over] | None = None,
    variance: str | None = None,
    relationship: Mapping[str, Any] | None = None,
    structures: Structures | None = None,
    engine: str | Engine = "auto",
    start: np.ndarray | None = None,
) -> Fit:
    """Fit a linear mixed model.

    Parameters
    ----------
    formula : str
        lme4's syntax: ``"y ~ x * f + (x | g)"``, ``(x || g)``, ``(1 | a/b)``, ``(1 | a:b)``, ``offset(o)``, ``.`` for
        all columns that the call does not name elsewhere. Random
        effects with a structure: ``diag(x | g)``, ``ar1(0 + f | g)``, ``rr(0 + f | g, d=2)``. Random functions of
        times, places or levels: ``ou(t | g)``, ``ar1(week | g)``, ``matern(lon + lat, nu=1.5)`` over all rows,
        ``(us(trait) @ ar1(week) | g)``. ``by=column`` in either gives parameters of their own to each of its levels,
        numbers fix parameters: ``ar1(week | g, correlation=0.5)``. Several responses, ``cbind(y1, y2) ~ x + (x | g)``,
        are stacked, each term within `trait`, with ``us(trait | row)`` as residuals unless others are given; rows in
        which one is missing keep the others, and the fit is that of the stacked data. Or a `jaxlmm.Model` of plain
        arrays, without any other argument but `method` and `start`: its columns are ``y``, ``x0``, ... of X, and of its
        random part t the groups ``g{t}``, ``z{t}_0``, ... of Z, or coordinates ``c{t}_0``, ...; new data have these
        names.
    data : pandas.DataFrame, polars.DataFrame, pyarrow.Table or dict of arrays; or path of a Parquet or CSV file
        Data frames of other libraries are read too where narwhals knows them, such as modin's.
        Rows with missing values (NaN, None, NA, masked entries) in used columns are dropped and counted. The name of a
        column that the data have is the column in formulas, ``pi`` and ``scale`` too. The fit has a copy of the used
        columns; what is done to the data later does not change it.
    method : "REML" or "ML"
    weights : column name or array (n,), optional
        ``Var(e_i) = sigma^2 / w_i``. A pandas Series is put into the order of the data by its index.
    offset : column name or array (n,), optional
    residual : str or structure over columns, optional
        Covariance of the residuals. ``"us(visit | id)"``: a structure, the column that says which of its levels or
        times a row has, the subjects; ``"us(visit | arm / id)"``: parameters of their own in each arm;
        ``"iid(by=g)"``: a variance for each level of g; ``"sp_gau(lat + lon) + iid()"``: over all rows, with a nugget;
        ``"(us(trait) @ ar1(time) | id)"``: a Kronecker product; ``Unstructured().over("visit | id")``: a structure of
        one's own; a list, ``[Slow().over("t | id"), "iid()"]``, is their sum. Text is taken in the order of the numbers
        in it, with a warning where the alphabet has another;
        ``"ar1(visit | id, levels=['Screening', 'Week 2'])"`` gives the order, and keeps levels without rows. Numbers
        are distances for ar1 and arma11, and say the order of levels for the other structures over levels, such as
        ar1h; the summary says which. Known variances v, as in a meta-analysis: ``"iid(variance=1)"`` with weights 1/v,
        or with ``variance="power(v, 0.5)"``; a known matrix: ``KnownMatrix(variance=1.0, known=V).over("row")``, whose
        row i is the i-th level of the column. With weights w, Cov(e_i, e_j) is divided by sqrt(w_i w_j), as in mmrm.
        Default: independent.
    variance : str, optional
        Function of a column that multiplies the standard deviations of the residuals: ``"power(x)"``, ``|x|**power``;
        ``"exp(x)"``; ``"const_power(x)"``; ``"ident(f)"``, one for each level of f. Numbers fix its parameters:
        ``"power(x, 0.5)"`` (nlme's varPower, varExp, varConstPower, varIdent). Where the likelihood asks for a variance
        of zero in `ident`, beside random effects of g, the fit is that of ``residual="diag(f | g)"``.
    relationship : mapping of grouping factors to matrices, optional
        Known covariances between the levels of grouping factors: a pandas DataFrame, ``(array, labels)``, an array in
        the order of the sorted levels, or a `Precision`. Levels of a matrix that the data do not have are predicted
        through their relatives, see `Fit.ranef` and `Fit.predict`.
    structures : mapping of names to covariance classes or structures, optional
        Further names for structures: ``{"slow": Slow}``, ``{"sar": SAR(W=W)}``. Such a name is over all rows too,
        ``sar(area)``; over several columns ``matrix`` is given a table, in which text is numbers of levels.
    engine : "auto", or the name of one; see `jaxlmm.Model`; `jaxlmm.Iterative` with options, or an object of your own
    start : (k,) array, optional
        Start value of theta, such as ``fit.theta`` of another fit, a singular one too.

    Returns
    -------
    Fit

    Raises
    ------
    FormulaError
        With a caret under the place that is not understood.
    DataError
        When the data cannot be used as given.

    Warns
    -----
    DroppedColumnsWarning
        When columns of the fixed effects are combinations of those before them.
    LevelsWarning
        When a structure over an order puts text into an order that is not the alphabet's, or leaves out levels.
    ConvergenceWarning
        When the fit has not converged.
    """
    if method not in ("REML", "ML"):
        raise DataError(f"method: found {method!r}, expected 'REML' or 'ML'")
    model: Model | None = None
    if isinstance(formula, Model):
        given = {"data": data, "weights": weights, "offset": offset, "residual": residual, "variance": variance,
                 "relationship": relationship, "structures": structures}  # fmt: skip
        model, made_of = formula, of_arrays(formula, given)
        formula, data, weights, offset, residual, relationship, structures, engine = made_of
    elif data is None:
        raise DataError("data: expected a data frame, a dict of arrays or a file beside the formula, found None")
    is_file = isinstance(data, str | Path)
    if is_file:
        data = read_file(data)
    weights, offset = aligned("weights", weights, data), aligned("offset", offset, data)
    weights, offset = copied(weights), copied(offset)
    relationship = (
        None if relationship is None else {group: copied(given) for group, given in dict(relationship).items()}
    )
    structures = None if structures is None else given_structures(structures)
    text: str = standardised(formula, data)
    written = None
    if responses := responses_of(text):
        written = text
        known = {**NAMES, **(structures or {})}
        elsewhere = {name for name in (weights, offset) if isinstance(name, str)}
        elsewhere |= set(residual_of(residual, variance, known).columns)
        text, data, times = stacked(text, responses, data, known, elsewhere)
        weights, offset = (x if x is None or isinstance(x, str) else np.repeat(x, times) for x in (weights, offset))
        residual = RESIDUAL if residual is None and variance is None else residual
    call = Call(text, weights, offset, residual, variance, relationship, structures, engine, lmm, written)
    frame, made = model_of(data=data, **call.arguments())
    if model is not None:
        check_same(made, model)
    call = replace(call, formula=frame.formula.text)  # with the columns that a dot stood for
    if frame.aliased:
        names = ", ".join(frame.aliased)
        text = f"{frame.formula.text}: dropped, as combinations of columns before them: {names}"
        warnings.warn(text, DroppedColumnsWarning, stacklevel=3)
    own = data if is_file else own_columns(data, frame.used)  # nobody else has what is read from a file
    return fit_frame(own, frame, made, method, call, start, data)


@door
def lmm_in_turn(
    formula: str, data: Any, alternatives: Sequence[str | Mapping[str, Any]], method: str = "REML", weights: Any = None,
    offset: Any = None, variance: str | None = None, relationship: Mapping[str, Any] | None = None,
    structures: Structures | None = None, engine: str | Engine = "auto",
) -> Attempts:  # fmt: skip
    """Fit models in turn until one converges, such as residual structures from the richest on.

    Parameters
    ----------
    alternatives : ``["us(visit | id)", "toeph(visit | id)", "cs(visit | id)"]``, each a residual; or arguments of `lmm`
        that replace the others, ``{"formula": "y ~ x + (1 | g)"}``
    others : see `lmm`

    Returns
    -------
    Attempts
        Prints what was tried; `Attempts.fit` is the fit that converged.

    Raises
    ------
    DataError
        Where none converges, with what became of each.
    """
    known = isinstance(alternatives, list | tuple) and len(alternatives)
    if not known or not all(isinstance(given, str | Over | Mapping) for given in alternatives):
        raise DataError(f"alternatives: found {shown(alternatives)}, expected a list of residuals or arguments of lmm")
    common = {
        "formula": formula, "method": method, "weights": weights, "offset": offset, "variance": variance,
        "relationship": relationship, "structures": structures, "engine": engine,
    }  # fmt: skip
    tried: list[Attempt] = []
    for given in alternatives:
        asked = dict(given) if isinstance(given, Mapping) else {"residual": given}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                fit = lmm(data=data, **{**common, **asked})
        except JaxlmmError as error:
            tried.append(Attempt(asked, "refused", str(error).splitlines()[0]))
            continue
        tried.append(Attempt(asked, fit.status, "" if fit.converged else fit.estimate.status.advice, fit))
        if fit.converged:
            return Attempts(tuple(tried))
    said = "; ".join(f"{a.text}: {a.status}, {a.message}" for a in tried)
    raise DataError(f"none of {len(tried)} models converged: {said}")


def model_of(
    formula: str,
    data: Any,
    weights: Any = None,
    offset: Any = None,
    residual: str | Over | Sequence[str | Over] | None = None,
    variance: str | None = None,
    relationship: Mapping[str, Any] | None = None,
    structures: Structures | None = None,
    engine: str | Engine = "auto",
) -> tuple[ModelFrame, Model]:
    """The arrays of a formula on data, and the model of them, not fitted; arguments as in `lmm`."""
    known, related = {**NAMES, **given_structures(structures)}, dict(relationship or {})
    repeated = residual_of(residual, variance, known)
    elsewhere = {*repeated.columns, *(name for name in (weights, offset) if isinstance(name, str))}
    parsed = parse(formula, known, open_table(data).names, elsewhere)
    if not parsed.bars and residual is None and variance is None:
        raise FormulaError(
            'formula: no random effects; add a term such as (1 | group), or residual="iid()" for a linear model',
            parsed.text,
        )
    frame = build_frame(parsed, data, weights, offset, repeated, known, related)
    _check_used(related, frame)
    own = {name: _sealed(getattr(frame, name)) for name in ("y", "X", "weights", "offset")}
    parts = [replace(p, Z=_sealed(p.Z)) if isinstance(p, FrameTerm) else p for p in frame.parts]
    frame = replace(frame, **own, parts=tuple(parts))
    matrices = {term.group: between_levels(related, term.group, term.levels) for term in frame.terms}
    random = [
        Field(**part.arguments(), name=part.text)
        if isinstance(part, FrameField)
        else _term(part, known, matrices[part.group][0], frame)
        for part in frame.parts
    ]
    parts = [p if isinstance(p, FrameField) else replace(p, relatives=matrices[p.group][1]) for p in frame.parts]
    frame = replace(frame, parts=tuple(parts))
    errors = None if frame.residual is None else Residual(**frame.residual.arguments())
    return frame, Model(frame.y, frame.X, random, errors, weights=frame.weights, offset=frame.offset, engine=engine)


def _sealed(array: Any) -> Any:
    """An array of a frame as a `Model` takes it without copying it."""
    if array is not None:
        array.setflags(write=False)
    return unwritten(array)


def _term(term: FrameTerm, known: Structures, matrix: np.ndarray | None, frame: ModelFrame) -> Term:
    """The random effects of a term with the structure that it asks for."""
    name, text = term.structure or "us", frame.formula.text
    structure = make_structure(known, name, term.options, text, term.position)
    if isinstance(structure, SPATIAL):
        raise FormulaError(
            f"structure {name!r} is over times or places: write {name}(column | group), columns without 0 + and "
            "without transformations", text, term.position,
        )  # fmt: skip
    if isinstance(structure, ORDERED) and not _one_level_a_row(term.Z):
        raise FormulaError(
            f"structure {name!r} is over the levels of a factor; write {name}(0 + factor | group) or "
            f"{name}(column | group), not an intercept or a transformed column", text, term.position,
        )  # fmt: skip
    if isinstance(structure, ORDERED):
        for factor in term.factors:
            if known_order(factor) != list(range(len(factor.levels))):
                raise FormulaError(
                    f"structure {name!r} depends on the order of levels, but the columns of {factor.name!r} are in "
                    f"that of the alphabet; write {name}({factor.name} | {term.group}), or give an ordered factor",
                    text, term.position,
                )  # fmt: skip
    check_count(structure, f"{name}({' + '.join(term.columns)} | {term.group})", term.Z.shape[1], "formula")
    return Term(term.Z, term.codes, structure, term.group, matrix)


def _check_used(related: Mapping[str, Any], frame: ModelFrame) -> None:
    """Refuse a relationship for a grouping factor that no term has."""
    groups = list(dict.fromkeys(term.group for term in frame.terms))
    for name in related:
        if name not in groups:
            raise DataError(
                f"relationship: no random effects are by {name!r}; grouping factors are {', '.join(groups) or 'none'} "
                "(it is for terms with effects, such as (1 | id) and cs(0 + f | id), not for functions of times)"
            )


def _one_level_a_row(Z: np.ndarray) -> bool:
    """Whether every row has one level of a factor; rows of other arms (``by=``) are zero."""
    sums = Z.sum(1)
    return bool(np.all((Z == 0) | (Z == 1)) and np.all(sums <= 1) and np.any(sums == 1))
