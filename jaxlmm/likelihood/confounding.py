"""Random terms whose variances no data can tell apart, found from the design before anything is fitted."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np

from ..covariance import Diagonal
from ..errors import DataError
from ..pytrees import is_traced
from ..tolerances import ALIASED, column_rank, origin, shifted, unit_columns
from .engines.crossed.layout import is_function
from .parts import Field, Term


class Free(NamedTuple):
    """Columns of a term that may have any covariance matrix."""

    term: Term
    Z: np.ndarray


def check_terms(terms: tuple[Term | Field, ...]) -> None:
    """Refuse terms of which nothing can be estimated: a term twice, and covariates without digits.

    Parameters
    ----------
    terms : concrete terms

    Raises
    ------
    DataError
        Naming the terms.
    """
    for a, b, whole in shared_effects(terms):
        if whole:
            raise DataError(
                f"random terms: those of {a.name} and {b.name} have the same groups and the same effects, whose "
                "variances cannot be divided between them; drop one"
            )
    for t in terms:
        if isinstance(t, Term) and t.structure.is_matrix and column_rank(t.Z) > column_rank(t.Z, moved=False):
            raise DataError(
                f"random terms: a covariate of {t.name} is so far from zero, for its range, that its effects cannot be "
                "told from the intercepts with 64-bit floats; subtract an origin from it, such as its mean"
            )


def check_left_by(X: np.ndarray, terms: tuple[Term | Field, ...], method: str) -> None:
    """Refuse, for REML, terms whose effects are among the fixed ones. By ML their variances are zero.

    Parameters and errors as in `check_terms`; traced arrays are not looked at.
    """
    if is_traced(terms, X):
        return
    if (term := left_by(X, terms, method)) is not None:
        raise DataError(
            f"random terms: all effects of {term.name} are combinations of the fixed effects, so REML has "
            "nothing to estimate their variance from; drop the term, or the fixed effects that stand for its groups"
        )


def left_by(X: np.ndarray, terms: tuple[Term | Field, ...], method: str) -> Term | None:
    """The first term, if any, that `check_left_by` refuses; concrete arrays."""
    if method != "REML":
        return None
    few = [part for part in _all_free(terms) if part.term.levels <= X.shape[1]]
    Q = np.linalg.qr(unit_columns(shifted(X, origin(X))))[0] if few else X
    return next((part.term for part in few if _is_spanned(part, Q)), None)


def left_in_rows(
    X: np.ndarray, terms: tuple[Term | Field, ...], method: str, present: np.ndarray, known: bool = False,
    weighted: bool = False,
) -> np.ndarray:  # fmt: skip
    """Data sets (b,) whose rows `present` (b, n) of one design leave a term that cannot be estimated.

    One that `left_by` finds in them, with a single level, or with as many effects as rows, as a formula is refused:
    unless their variances are `known`, or differ between rows (`weighted`), and there are no more levels than rows.
    """
    n, few = present.sum(1), np.zeros(len(present), bool)
    found = few.copy()
    for part in _all_free(terms):
        order = np.argsort(part.term.group, kind="stable")
        _, starts = np.unique(part.term.group[order], return_index=True)
        levels = np.logical_or.reduceat(present[:, order], starts, axis=1).sum(1)
        few |= levels <= X.shape[1]
        q = part.term.dim
        found |= (levels < 2) | (not known) & (levels * q >= n) & ~((weighted and q == 1) & (levels <= n))
    for i in np.flatnonzero(few & ~found) if method == "REML" else ():
        rows = np.flatnonzero(present[i])
        found[i] = left_by(X[rows], tuple(part.subset(rows) for part in terms), method) is not None
    return found


def shared_effects(terms: tuple[Term | Field, ...]) -> list[tuple[Term, Term, bool]]:
    """Pairs of terms with the same groups and effects in common, and whether all of both.

    Of the variance of an effect that two terms have, only the sum matters.
    """
    found = []
    for a, b in combinations(_all_free(terms), 2):
        if a.term is b.term or not _same_groups(a.term, b.term):
            continue
        ranks = column_rank(a.Z), column_rank(b.Z)
        together = column_rank(np.column_stack([a.Z, b.Z]))
        if together < sum(ranks):
            found.append((a.term, b.term, ranks == (together, together)))
    return found


def _all_free(terms: tuple[Term | Field, ...]) -> list[Free]:
    plain = (t for t in terms if isinstance(t, Term) and t.relationship is None and not t.structure.has_fixed_scale)
    return [part for t in plain for part in _free(t)]


def _free(term: Term) -> list[Free]:
    if term.structure.is_matrix or term.dim == 1:
        return [Free(term, term.Z)]
    if isinstance(term.structure, Diagonal):
        return [Free(term, column[:, None]) for column in term.Z.T]
    return []


def _same_groups(a: Term, b: Term) -> bool:
    same = a.levels == b.levels
    return same and is_function(a.group, b.group, b.levels)


def _is_spanned(part: Free, Q: np.ndarray) -> bool:
    """Whether every column of the term's design, one a level and effect, is a combination of those of Q (n, p)."""
    group, levels = part.term.group, part.term.levels
    for z in part.Z.T:
        size = np.bincount(group, z**2, levels)
        along = np.stack([np.bincount(group, z * q, levels) for q in Q.T])
        if np.any(size - np.sum(along**2, 0) > ALIASED * size):
            return False
    return True
