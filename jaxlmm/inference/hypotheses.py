"""Hypotheses about the terms of the fixed part: rows L with ``L beta = 0``, of types I, II and III as SAS defines them.

Everything happens in the column space of X. A term is described twice: by its own columns of X, however they are
coded, and by the columns W of the over-parametrised model, an indicator for each level of each factor. W spans what X
spans, ``W = X M``, so a row l of hypotheses about the coefficients of X is the estimable function ``l M`` of the
parameters of W. In these the definitions do not depend on the coding of X and hold with empty cells too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import expressions
from ..columns import Column
from ..errors import DataError
from ..sides import encode, side_columns
from ..terms import Side
from .grid import columns_used

TYPES = {1: 1, 2: 2, 3: 3, "1": 1, "2": 2, "3": 3, "I": 1, "II": 2, "III": 3}
_TOLERANCE = 1e-7  # relative length below which a direction is rounding


@dataclass(frozen=True, eq=False)
class _Term:
    """A term: its columns of X, and those of the over-parametrised model in the coordinates of an orthonormal basis."""

    label: str
    classes: frozenset[str]
    covariates: tuple[str, ...]
    own: tuple[int, ...]
    W: np.ndarray

    def contains(self, other: _Term) -> bool:
        """Whether it has the covariates of the other term, its factors, and further factors."""
        return self.covariates == other.covariates and self.classes > other.classes


def term_hypotheses(fit: Any, type: int | str = 3) -> dict[str, np.ndarray]:
    """Rows of hypotheses (r, p) of every term but the intercept.

    Parameters
    ----------
    fit : a fit with `frame`, `data` and `model`
    type : 1, 2 or 3
        1: of the terms in their order, each adjusted for those before it. 2: adjusted for all terms that do not
        contain it. 3: functions of the parameters of the term and of terms that contain it, orthogonal to those of
        the latter alone; averages over the cells of other factors with equal weights where no cell is empty.

    Returns
    -------
    dict
        From labels of terms. Where a term has nothing to test (all its columns are combinations of others), no rows.
        The basis is that of R's lmerTest, on which Satterthwaite's degrees of freedom of several rows depend: the
        identity in the term's own columns; for type 1, and for a type 2 term in another one, unit triangular.

    Raises
    ------
    DataError
        For another type.

    Notes
    -----
    Goodnight (1980), Tests of hypotheses in fixed effects linear models, Comm. Statist. A 9, 167-180; SAS/STAT, The
    Four Types of Estimable Functions. Distances are those of the rows (X'X, not X'V^-1 X), as in SAS and lmerTest.
    """
    if type not in TYPES:
        raise DataError(f"type: found {type!r}, expected 1, 2 or 3")
    kind = TYPES[type]
    X = fit.frame.X
    scale = np.sqrt(np.mean(X**2, axis=0)) if X.shape[1] else np.ones(0)
    basis, R = np.linalg.qr(X / scale)
    terms = _terms(fit, basis)
    out = {}
    for i, term in enumerate(terms):
        if not term.label:
            continue
        above = [t for t in terms if t.contains(term)]
        if kind == 3:
            T = _type_three(term, above, terms, R)
        else:
            T = _adjusted(term, terms[:i] if kind == 1 else [t for t in terms if t is not term and t not in above], R)
        triangular = kind == 1 or (kind == 2 and above)
        L, pivots = _unit_rows(T, term.own) if triangular else _reduced(T, term.own)
        L = np.where(np.abs(L) < 1e-9 * np.abs(L).max(axis=1, keepdims=True, initial=0.0), 0.0, L)
        out[term.label] = L * scale / scale[pivots][:, None]
    return out


# -- the over-parametrised model


def _terms(fit: Any, basis: np.ndarray) -> list[_Term]:
    """The intercept (without label) and the terms; W spans what X spans, or it is no description of the model."""
    frame = fit.frame
    formula, side = frame.formula, frame.formula.side
    data = columns_used(fit, side_columns(side, formula))
    for logical_too in (True, False):
        every = [_Term("", frozenset(), (), (), basis.T @ np.ones((len(basis), 1)))] if side.intercept else []
        missed = 0.0
        own = [columns for _, columns in frame.fixed_terms][int(side.intercept) :]
        for names, columns in zip(side.terms, own, strict=True):
            classes = frozenset(f for f in names if _is_class(f, formula, data, logical_too))
            W = np.ones((len(basis), 1))
            for name in names:
                part = _columns_of(name, name in classes, formula, data, len(basis))
                W = (W[:, :, None] * part[:, None, :]).reshape(len(basis), -1)
            inside = basis.T @ W
            missed = max(missed, float(np.max(np.sum(W**2, 0) - np.sum(inside**2, 0)) / len(basis)))
            label = formula.readable(":".join(names))
            every.append(_Term(label, classes, tuple(sorted(set(names) - classes)), columns, inside))
        if missed < _TOLERANCE:
            return every
    raise DataError(f"anova: the terms of {formula.fixed!r} are coded so that their hypotheses are not defined")


def _is_class(text: str, formula: Any, data: dict[str, Column], logical_too: bool) -> bool:
    if not text.isidentifier():
        return bool(expressions.categorical_variables(text)) or text.startswith("C(")
    column = data.get(formula.column(text))
    return column is not None and (not column.is_number or (logical_too and column.kind == "logical"))


def _columns_of(text: str, is_class: bool, formula: Any, data: dict[str, Column], n: int) -> np.ndarray:
    """An indicator for each level of a factor; the columns of a covariate, root mean square 1."""
    columns = encode(Side(False, ((text,),)), formula, data, n)[0]
    if not is_class:
        return columns / np.sqrt(np.maximum(np.mean(columns**2, axis=0), 1e-300))
    return np.column_stack([1.0 - columns, columns]) if columns.shape[1] == 1 and not columns.all() else columns


# -- linear algebra of small matrices


def _adjusted(term: _Term, before: list[_Term], R: np.ndarray) -> np.ndarray:
    """Rows of what the term adds to the space of other terms: ``Q' X``, Q orthonormal in the order of its columns."""
    Q = _span([t.W for t in before], len(R))
    start = Q.shape[1]
    for j in term.own:
        rest = R[:, j] - Q @ (Q.T @ R[:, j])
        rest = rest - Q @ (Q.T @ rest)  # once more for rounding
        length = np.linalg.norm(rest)
        if length > _TOLERANCE * np.linalg.norm(R[:, j]):
            Q = np.column_stack([Q, rest / length])
    return Q[:, start:].T @ R


def _span(parts: list[np.ndarray], q: int) -> np.ndarray:
    if not parts:
        return np.zeros((q, 0))
    U, s, _ = np.linalg.svd(np.column_stack(parts), full_matrices=False)
    return U[:, s > _TOLERANCE * max(s.max(initial=0.0), 1e-300)]


def _type_three(term: _Term, above: list[_Term], terms: list[_Term], R: np.ndarray) -> np.ndarray:
    """Functions of a term and those above it, orthogonal to functions of those above it alone."""
    M = {id(t): np.linalg.solve(R, t.W) for t in terms}
    others = [M[id(t)] for t in terms if t is not term and t not in above]
    mine = _annihilator(others, len(R))
    upper = _annihilator([*others, M[id(term)]], len(R))
    every = np.column_stack(list(M.values()))
    return _annihilator([mine @ every @ (upper @ every).T], len(mine)) @ mine


def _annihilator(parts: list[np.ndarray], q: int) -> np.ndarray:
    """Orthonormal rows u with ``u A = 0``."""
    A = np.column_stack([np.zeros((q, 1)), *parts])
    U, s, _ = np.linalg.svd(A)
    rank = int(np.sum(s > _TOLERANCE * max(float(s.max(initial=0.0)), 1e-300)))
    return U[:, rank:].T


def _unit_rows(T: np.ndarray, own: tuple[int, ...]) -> tuple[np.ndarray, list[int]]:
    """Divide each row by its first entry among the term's own columns; the columns of these."""
    pivots = [next(j for j in own if abs(row[j]) > _TOLERANCE * np.abs(row).max()) for row in T]
    return T / T[np.arange(len(T)), pivots][:, None], pivots


def _reduced(T: np.ndarray, own: tuple[int, ...]) -> tuple[np.ndarray, list[int]]:
    """Reduced row echelon form with pivots in the term's own columns, first to last, and the columns of these."""
    T = T.copy()
    pivots: list[int] = []
    for j in (*own, *(j for j in range(T.shape[1]) if j not in own)):
        row = len(pivots)
        if row == len(T):
            break
        best = row + int(np.argmax(np.abs(T[row:, j])))
        if abs(T[best, j]) < 1e-6:
            continue
        T[[row, best]] = T[[best, row]]
        T[row] /= T[row, j]
        rest = np.arange(len(T)) != row
        T[rest] -= T[rest, j][:, None] * T[row]
        pivots.append(j)
    return T, pivots
