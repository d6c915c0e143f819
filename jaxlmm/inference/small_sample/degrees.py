"""Denominator degrees of freedom from the design alone: residual, containment, between-within.

They are what a balanced analysis of variance would take, and are exact there. With unbalanced data they are a
convention; Satterthwaite's and Kenward and Roger's take the estimated covariances into account.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ...covariance import ByGroup, Unstructured
from ...design.encoding import INTERCEPT
from ...errors import DataError
from ...estimates.fitted import FitBase
from ...formula import expressions
from ...frames.columns import open_table
from ...tolerances import OUTSIDE, unit_columns

_LARGEST = 2e8  # numbers in [X Z]


DESIGN = ("containment", "between-within", "between-within-sas")  # that need the formula


def rule_of(fit: FitBase, df: str) -> Callable[[np.ndarray], np.ndarray]:
    """Degrees of freedom (m,) of rows of L (m, p) by a method of the design, as a function.

    Parameters
    ----------
    fit : a fit, or anything with its `frame` and `data`;  df : one of `DESIGN`, "residual", "asymptotic"
    """
    if df == "containment":
        return containment_of(fit.frame)
    if df in DESIGN:
        return partial(between_within, fit, sas=df.endswith("sas"))
    n, p = fit.frame.X.shape
    return lambda L: np.full(len(L), np.inf if df == "asymptotic" else float(n - p))


def containment_of(frame: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Degrees of freedom (m,) of rows of L (m, p) by containment, the default of SAS PROC MIXED with random effects.

    A random effect contains a term of the fixed part where all of the term's factors and covariates are among its own:
    ``(1 | block:a)`` contains ``a``, ``(x | id)`` contains ``x``. Each random effect adds to the rank of [X Z], coarse
    grouping factors before fine ones; a term gets the least that a random effect that contains it adds, and where none
    does ``n - rank [X Z]``. A row takes the least of the terms that it involves; the intercept, which every random
    effect contains, only counts where it stands alone. Structures over columns and of residuals do not count.

    Notes
    -----
    SAS/STAT, The MIXED Procedure, MODEL statement, DDFM=CONTAIN. There, ranks are added in the order in which effects
    are written, and rows of ESTIMATE and LSMEANS may be treated otherwise.

    Raises
    ------
    DataError
        Where [X Z] is too large to find its rank.
    """
    by_term, rest = _contained(frame)

    def degrees(L: np.ndarray) -> np.ndarray:
        involved = np.array([[np.any(L[:, list(columns)] != 0, axis=1)] for _, columns in frame.fixed_terms])[:, 0].T
        if frame.formula.side.intercept:
            involved[:, 0] &= ~involved[:, 1:].any(axis=1)
        return _least(involved, by_term, rest)

    return degrees


def between_within(fit: FitBase, L: np.ndarray, sas: bool = False) -> np.ndarray:
    """Degrees of freedom (m,) of rows of L (m, p) between and within subjects (Schluchter & Elashoff 1990).

    A coefficient belongs to the coarsest level of nested groups within whose groups its column of X is constant: with
    subjects, to those between them or within. Level g has ``N_g - N_(g-1) - p_g``, from its number of groups N_g and
    its coefficients p_g (N_0 is 1 with an intercept, the rows are the last level). The intercept takes those of the
    rows. A row takes the least of the coefficients that it involves. With subjects alone this is R's mmrm; with nested
    random effects the rule of nlme (Pinheiro & Bates 2000, section 2.4.2), by column.

    SAS has one kind of subjects, here the coarsest groups, and goes by terms: all columns of one that changes within a
    subject are within, the others and the intercept between subjects. Where several terms within subjects have
    factors, these get the degrees of freedom of the interaction of subjects with what of the term changes within them:
    what it adds to the rank of X, subjects, and their interactions with less. With factors a and b in every subject and
    n subjects in g arms these are ``(n - g)(a - 1)``, ``(n - g)(b - 1)`` and ``(n - g)(a - 1)(b - 1)``; a term and its
    interaction with the arm share them. Where there are no random effects and the residual is unstructured (TYPE=UN,
    also with GROUP=), all coefficients are between subjects. The intercept only counts where it stands alone. LS-means
    and their differences have those of their effect, see `of_effect`. For a row over several terms SAS takes those of
    the final effect that an ESTIMATE or CONTRAST statement lists; a row of L does not say which that is, and takes the
    least of its terms, at most SAS's.

    Notes
    -----
    SAS/STAT, The MIXED Procedure, MODEL statement, DDFM=BETWITHIN; it does not say how ranks are counted where cells
    are missing.

    Raises
    ------
    DataError
        For groups that are not nested, and models without groups.
    """
    frame = fit.frame
    levels = _nested_groups(frame)
    levels = levels[:1] if sas else levels
    X, last = frame.X, len(levels)
    is_one = np.array([name == INTERCEPT for name in frame.coef_names])
    level = np.full(X.shape[1], last)
    for g in reversed(range(last)):
        level[np.all(X == X[_first_rows(levels[g])], axis=0)] = g
    if sas:
        for _, columns in frame.fixed_terms:
            level[list(columns)] = level[list(columns)].max(initial=0)
    level[is_one] = 0 if sas else last
    sizes = [int(is_one.any()), *(codes.max() + 1 for codes in levels), len(X)]
    df = np.array([sizes[g + 1] - sizes[g] - np.sum((level == g) & ~is_one) for g in range(last + 1)], float)
    of_column = np.maximum(df, 0.0)[level]
    involved = L != 0
    if sas and not frame.parts and isinstance(_of_arm(frame.residual), Unstructured):
        of_column[:] = max(df[0], 0.0)
    elif sas:
        of_column = _by_interactions(fit, levels[0], level == last, of_column)
        involved = involved & ~(is_one & (involved & ~is_one).any(1, keepdims=True))
    return _least(involved, of_column, df[-1])


def of_effect(
    fit: FitBase, names: tuple[str, ...]
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], tuple[float, float]]] | None:
    """SAS's degrees of freedom between and within subjects for LS-means by `names`: those of this term of the model.

    Of rows of L, and of an F test of them with what multiplies F; None where the model has no such term.
    """
    frame = fit.frame
    columns = [of for _, of in frame.fixed_terms[int(frame.formula.side.intercept) :]]
    terms = zip(frame.formula.side.terms, columns, strict=True)
    found = [list(of) for factors, of in terms if of and _parts(factors) == frozenset(names)]
    if not found:
        return None
    least = float(np.min(between_within(fit, np.eye(frame.X.shape[1])[found[0]], sas=True)))
    return lambda L: np.full(len(L), least), lambda L: (1.0, least)


def _by_interactions(fit: FitBase, subject: np.ndarray, within: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Degrees of freedom `df` (p,) with those within subjects divided, see `between_within`."""
    frame, df = fit.frame, df.copy()
    parts = [_changing(fit, factors, subject) for factors in frame.formula.side.terms]
    terms = [list(columns) for _, columns in frame.fixed_terms[int(frame.formula.side.intercept) :]]
    inside = [bool(columns) and bool(within[columns].all()) for columns in terms]
    divided = [k for k, factors in enumerate(frame.formula.side.terms) if inside[k] and _has_factor(frame, factors)]
    if len(divided) < 2:
        return df

    def rank(chosen: list[int]) -> int:
        """Of X, subjects, and their interactions with terms."""
        columns = [j for k in chosen for j in terms[k]]
        rest, total = unit_columns(frame.X), 0
        for rows in np.split(np.argsort(subject, kind="stable"), np.cumsum(np.bincount(subject))[:-1]):
            U, s, _ = np.linalg.svd(
                np.column_stack([np.ones(len(rows)), frame.X[rows][:, columns]]), full_matrices=False
            )
            size = int(np.sum(s > OUTSIDE * s[0]))
            rest[rows] -= U[:, :size] @ (U[:, :size].T @ rest[rows])
            total += size
        return total + int(np.sum(np.linalg.svd(rest, compute_uv=False) > OUTSIDE))

    for k in divided:
        own = [i for i, part in enumerate(parts) if inside[i] and part <= parts[k]]
        df[terms[k]] = rank(own) - rank([i for i in own if parts[i] < parts[k]])
    return df


def _first_rows(codes: np.ndarray) -> np.ndarray:
    """For every row the first one of its group."""
    first = np.zeros(codes.max() + 1, dtype=int)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    return first[codes]


def _changing(fit: FitBase, factors: tuple[str, ...], subject: np.ndarray) -> frozenset[str]:
    """The factors of a term that change within a subject."""
    first, table = _first_rows(subject), open_table(fit.data)
    names = dict(fit.frame.formula.aliases)
    codes = {
        name: table.column(names.get(name, name)).as_factor().values[fit.frame.rows]
        for name in {name for factor in factors for name in expressions.variables(factor)}
    }
    changing = {name for name, code in codes.items() if np.any(code != code[first])}
    return frozenset(factor for factor in factors if changing & set(expressions.variables(factor)))


def _has_factor(frame: Any, factors: tuple[str, ...]) -> bool:
    names = dict(frame.formula.aliases)
    return any(
        expressions.categorical_variables(f) or names.get(f, f) in frame.levels or f in frame.levels for f in factors
    )


def _of_arm(residual: Any) -> Any:
    """The structure of the residuals, that of one arm where each has its own; None for independent ones."""
    structure = None if residual is None else residual.structure
    return structure.parts[0] if isinstance(structure, ByGroup) else structure


def _least(involved: np.ndarray, df: np.ndarray, otherwise: float) -> np.ndarray:
    """The least df (m,) of what each row involves (m, k); NaN where none is left."""
    least = np.min(np.where(involved, df, np.inf), axis=1, initial=np.inf)
    least = np.where(np.isinf(least), otherwise, least)
    return np.where(least > 0, least, np.nan)


# -- random effects


def _parts(factors: tuple[str, ...]) -> frozenset[str]:
    """Columns of the data that stand alone (or in C()) in a term, and its other expressions as they are."""
    return frozenset(name for f in factors for name in (expressions.categorical_variables(f) or (f,)))


def _contained(frame: Any) -> tuple[np.ndarray, float]:
    """Degrees of freedom of each term, the intercept first, and those of what no random effect contains."""
    effects, rest = _rank_contributions(frame)
    names = (((),) if frame.formula.side.intercept else ()) + frame.formula.side.terms
    found = [[rank for has, rank in effects if rank > 0 and _parts(factors) <= has] for factors in names]
    return np.array([min(ranks, default=rest) for ranks in found], dtype=np.float64), rest


def _rank_contributions(frame: Any) -> tuple[list[tuple[frozenset[str], int]], float]:
    """Parts and rank contribution to [X Z] of each random effect; ``n - rank [X Z]``."""
    alias = {name: stand_in for stand_in, name in frame.formula.aliases}
    blocks = []
    for term, design in zip(frame.terms, frame.designs, strict=True):
        side = design.encoder.side
        names = (((),) if side.intercept else ()) + side.terms
        group = frozenset(alias.get(name, name) for name in design.grouping.names)
        for factors, (_, columns) in zip(names, design.encoder.terms, strict=True):
            blocks.append((len(term.levels), _parts(factors) | group, term.Z[:, list(columns)], term.codes))
    size = len(frame.y) * (frame.X.shape[1] + sum(n * Z.shape[1] for n, _, Z, _ in blocks))
    if size > _LARGEST:
        raise DataError(
            f"df: 'containment' needs the rank of a matrix of {size:.0e} numbers, more than {_LARGEST:.0e}; "
            "use 'satterthwaite', 'kenward-roger' or 'between-within'"
        )
    blocks.sort(key=lambda block: block[0])
    basis, _ = np.linalg.qr(frame.X)
    found = []
    for _, parts, Z, codes in blocks:
        columns = np.zeros((len(Z), Z.shape[1], codes.max() + 1))
        columns[np.arange(len(Z)), :, codes] = Z
        columns = columns.reshape(len(Z), -1)
        lengths = np.linalg.norm(columns, axis=0)
        columns = columns[:, lengths > 0] / lengths[lengths > 0]
        for _ in range(2):  # twice for rounding
            columns = columns - basis @ (basis.T @ columns)
        U, s, _ = np.linalg.svd(columns, full_matrices=False)
        rank = int(np.sum(s > OUTSIDE))
        basis = np.column_stack([basis, U[:, :rank]])
        found.append((parts, rank))
    return found, float(len(frame.y) - basis.shape[1])


def _nested_groups(frame: Any) -> list[np.ndarray]:
    """Codes of the distinct grouping factors, coarse to fine."""
    fields = [*frame.fields, *(() if frame.residual is None else (frame.residual,))]
    every = [(t.group_label, t.codes) for t in frame.terms] + [(f.label, f.group) for f in fields if f.label]
    out: list[tuple[str, np.ndarray]] = []
    for label, codes in sorted(every, key=lambda item: len(np.unique(item[1]))):
        codes = np.unique(codes, return_inverse=True)[1]
        if out:
            coarse, size = out[-1][1], out[-1][1].max() + 1
            pairs = len(np.unique(codes * np.int64(size) + coarse))
            if pairs > codes.max() + 1:
                raise DataError(f"df: 'between-within' needs nested groups, but {label!r} is not within {out[-1][0]!r}")
            if codes.max() + 1 == size:
                continue
        if codes.max() + 1 < len(codes):
            out.append((label, codes))
    if not out:
        raise DataError("df: 'between-within' needs subjects: random effects or a residual structure within groups")
    return [codes for _, codes in out]
