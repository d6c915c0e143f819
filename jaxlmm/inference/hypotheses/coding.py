"""Hypotheses about the terms of the fixed part: rows L with ``L beta = 0``, of types I, II and III as SAS defines them.

Everything happens in the column space of X. A term is described twice: by its own columns of X, however they are
coded, and by the columns W of the over-parametrised model, an indicator for each level of each factor. W spans what X
spans, ``W = X M``, so a row l of hypotheses about the coefficients of X is the estimable function ``l M`` of the
parameters of W. In these the definitions do not depend on the coding of X and hold with empty cells too.

Satterthwaite's degrees of freedom of several rows depend on the basis of their space. It is one in the coefficients of
a treatment coding, `Coding`, whatever the coding of X (so do lmerTest's tests of type III), with covariates of size
one, so that neither codings nor units nor the way that rows are written matter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...design.encoding import encode, is_class, side_columns
from ...errors import DataError
from ...estimates.fitted import FitBase
from ...formula import expressions
from ...formula.syntax import Side
from ...frames.columns import Column
from ...tolerances import INDEPENDENT, OUTSIDE, REPEATED, origin, shifted
from .grid import columns_used

TYPES = {1: 1, 2: 2, 3: 3, "1": 1, "2": 2, "3": 3, "I": 1, "II": 2, "III": 3}
DEFINITIONS = ("sas", "lmertest")


@dataclass(frozen=True, eq=False)
class _CodedTerm:
    """A term: its columns of X, and those of the over-parametrised model in the coordinates of an orthonormal basis."""

    label: str
    classes: frozenset[str]
    covariates: tuple[str, ...]
    own: tuple[int, ...]
    W: np.ndarray

    def contains(self, other: _CodedTerm) -> bool:
        """Whether it has the covariates of the other term, its factors, and further factors."""
        return self.covariates == other.covariates and self.classes > other.classes

    def contains_by_type_two(self, other: _CodedTerm) -> bool:
        """The same, transforms with columns of their own counting as factors: their origin is anybody's choice.

        So do matrices in lmerTest: the type II test of f in ``f * poly(x, 2)`` or ``f * scale(x)`` is not at x = 0.
        """
        free = [frozenset(c for c in t.covariates if expressions.is_stateful(c)) for t in (self, other)]
        mine, others = (frozenset(t.covariates) - f for t, f in zip((self, other), free, strict=True))
        return mine == others and (self.classes | free[0]) > (other.classes | free[1])


@dataclass(frozen=True, eq=False)
class Coding:
    """Coefficients of a treatment coding: ``X = basis columns C``, whose coefficients are ``C beta``.

    Attributes
    ----------
    columns (p, p) : the columns of the coding in the coordinates of an orthonormal basis of X;  C (p, p)
    terms : with their own columns those of the coding
    """

    columns: np.ndarray
    C: np.ndarray
    terms: list[_CodedTerm]

    @classmethod
    def of_columns(cls, p: int) -> Coding:
        """The columns of X themselves."""
        return cls(np.eye(p), np.eye(p), [])

    def of(self, L: np.ndarray) -> np.ndarray:
        """Rows L (m, p) as hypotheses about these coefficients."""
        return np.linalg.solve(self.C.T, np.asarray(L, float).T).T

    def canonical(self, L: np.ndarray) -> np.ndarray:
        """The basis (r, p) of the space of rows L (m, p) that is in reduced echelon form in these coefficients."""
        T = self.of(L)
        size = np.abs(T).max(axis=1, initial=0.0)
        T, pivots = _reduced(T[size > 0] / size[size > 0, None], ())
        return _clean(T[: len(pivots)]) @ self.C


def coding_of(fit: FitBase) -> Coding:
    """The treatment coding of the fixed part of a fit; of one that none describes, its own columns in units of one."""
    X = fit.frame.X
    p = X.shape[1]
    moved = origin(X)
    Z = shifted(X, moved) if p else X
    scale = np.sqrt(np.mean(Z**2, axis=0)) if p else np.ones(0)
    scale = np.where(scale > 0, scale, 1.0)
    basis, R = np.linalg.qr(Z / scale)
    every = R * scale
    every = every + every[:, :1] * moved  # of X
    terms = _terms(fit, basis)
    Q, coded = np.zeros((p, 0)), []
    columns: list[np.ndarray] = []
    for term in terms:
        first = len(columns)
        for w in term.W.T:
            rest = w - Q @ (Q.T @ w)
            rest = rest - Q @ (Q.T @ rest)  # once more for rounding
            length = np.linalg.norm(rest)
            if length > OUTSIDE * np.linalg.norm(w):
                Q = np.column_stack([Q, rest / length])
                columns.append(w)
        coded.append(replace(term, own=tuple(range(first, len(columns)))))
    if len(columns) != p:
        return Coding(R, np.linalg.solve(R, every) if p else every, terms)
    A = np.column_stack([np.zeros((p, 0)), *columns])
    return Coding(A, np.linalg.solve(A, every) if p else every, coded)


def term_hypotheses(fit: FitBase, type: int | str = 3, definition: str = "sas") -> dict[str, np.ndarray]:
    """Rows of hypotheses (r, p) of every term but the intercept.

    Parameters
    ----------
    fit : a fit with `frame`, `data` and `model`
    type : 1, 2 or 3
        1: of the terms in their order, each adjusted for those before it. 2: adjusted for all terms that do not
        contain it. 3: functions of the parameters of the term and of terms that contain it, orthogonal to those of
        the latter alone; averages over the cells of other factors with equal weights where no cell is empty.
    definition : of types 2 and 3 in models without an intercept, otherwise the same
        "sas": differences between the levels of every factor, as other factors have a column for each of their levels
        too; "lmertest": of the factor that has a column for each of its levels in X all of these, its means where
        other factors are at their first level, and so as many degrees of freedom as levels.

    Returns
    -------
    dict
        From labels of terms. Where a term has nothing to test (all its columns are combinations of others), no rows.
        The basis is that of R's lmerTest, in the coefficients of a treatment coding: the identity in the term's own
        columns; for type 1, for a type 2 term in another one, and where there is one term, unit triangular.

    Raises
    ------
    DataError
        For another type or definition.

    Notes
    -----
    Goodnight (1980), Tests of hypotheses in fixed effects linear models, Comm. Statist. A 9, 167-180; SAS/STAT, The
    Four Types of Estimable Functions. Distances are those of the rows (X'X, not X'V^-1 X), as in SAS and lmerTest.
    """
    if not isinstance(type, int | str):
        found = type.__class__.__name__
        raise DataError(f"type: found a {found}, expected 1, 2 or 3; fits are compared by jaxlmm.compare(fit, other)")
    if type not in TYPES:
        raise DataError(f"type: found {type!r}, expected 1, 2 or 3")
    if definition not in DEFINITIONS:
        raise DataError(f"definition: found {definition!r}, expected 'sas' or 'lmertest'")
    coding = coding_of(fit)
    terms, R = coding.terms, coding.columns
    kind = TYPES[type] if sum(bool(term.label) for term in terms) > 1 else 1  # all three are one test of one term
    as_coded = definition == "lmertest" and not fit.frame.formula.side.intercept
    own = {label: columns for label, columns in zip(_labels(fit), _own(fit), strict=True)}
    out = {}
    for i, term in enumerate(terms):
        if not term.label:
            continue
        above = [t for t in terms if (t.contains_by_type_two(term) if kind == 2 else t.contains(term))]
        if kind == 3:
            T = (_type_three_as_coded if as_coded else _type_three)(term, above, terms, R)
        else:
            before = terms[:i] if kind == 1 else [t for t in terms if t is not term and t not in above]
            T = _adjusted(term, [R[:, list(t.own)] if as_coded else t.W for t in before], R)
        triangular = kind == 1 or (kind == 2 and above)
        L = _unit_rows(T, term.own) if triangular else _reduced(T, term.own)[0]
        L = _clean(_clean(L) @ coding.C)
        size = np.abs(L[:, list(own[term.label])]).max(initial=0.0)  # one number: units of rows matter for the basis
        out[term.label] = L / (size if size > 0 else 1.0)
    return out


def _clean(L: np.ndarray) -> np.ndarray:
    """Rows with zeros for rounding."""
    return np.where(np.abs(L) < 0.1 * REPEATED * np.abs(L).max(axis=1, keepdims=True, initial=0.0), 0.0, L)


# -- the over-parametrised model


def _terms(fit: FitBase, basis: np.ndarray) -> list[_CodedTerm]:
    """The intercept (without label) and the terms; W spans what X spans, or it is no description of the model."""
    frame = fit.frame
    formula, side = frame.formula, frame.formula.side
    data = columns_used(fit, side_columns(side, formula))
    within = {name for names in side.terms if len(names) > 1 for name in names}
    alone = {names[0] for names in side.terms if side.intercept} - within  # whose origin no other term depends on
    every = [_CodedTerm("", frozenset(), (), (), basis.T @ np.ones((len(basis), 1)))] if side.intercept else []
    missed = 0.0
    for names, columns in zip(side.terms, _own(fit), strict=True):
        classes = frozenset(f for f in names if is_class(f, formula, data))
        is_full = len(names) == 1 and not any(t.classes or not t.label for t in every)  # it has all its columns
        W = np.ones((len(basis), 1))
        for name in names:
            part = _columns_of(name, name in classes, formula, data, len(basis), name in alone)
            part = np.roll(part, -1, axis=1) if name in classes and not is_full else part
            W = (part[:, :, None] * W[:, None, :]).reshape(len(basis), -1)  # the first factor varies fastest
        inside = basis.T @ W
        missed = max(missed, float(np.max(np.sum(W**2, 0) - np.sum(inside**2, 0)) / len(basis)))
        label = formula.readable(":".join(names))
        every.append(_CodedTerm(label, classes, tuple(sorted(set(names) - classes)), columns, inside))
    if missed < OUTSIDE:
        return every
    raise DataError(f"anova: the terms of {formula.fixed!r} are coded so that their hypotheses are not defined")


def _columns_of(text: str, is_class: bool, formula: Any, data: dict[str, Column], n: int, centred: bool) -> np.ndarray:
    """An indicator for each level of a factor; the columns of a covariate, together of size 1."""
    columns = encode(Side(False, ((text,),)), formula, data, n)[0]
    if is_class:
        return columns
    columns = columns - np.mean(columns, axis=0) if centred else columns
    size = np.sqrt(np.mean(columns**2))
    return columns / (size if size > 0 else 1.0)


def term_columns(fit: FitBase) -> dict[str, tuple[int, ...]]:
    """Columns of X of every term but the intercept, by its name."""
    return {name: columns for name, columns in zip(_labels(fit), _own(fit), strict=True) if columns}


def _own(fit: FitBase) -> list[tuple[int, ...]]:
    """Columns of X of every term but the intercept."""
    return [columns for _, columns in fit.frame.fixed_terms][int(fit.frame.formula.side.intercept) :]


def _labels(fit: FitBase) -> list[str]:
    formula = fit.frame.formula
    return [formula.readable(":".join(names)) for names in formula.side.terms]


# -- linear algebra of small matrices


def _adjusted(term: _CodedTerm, before: list[np.ndarray], R: np.ndarray) -> np.ndarray:
    """Rows of what the term adds to the space of others: ``Q' X``, Q orthonormal in the order of its columns."""
    Q = _span(before, len(R))
    start = Q.shape[1]
    for j in term.own:
        rest = R[:, j] - Q @ (Q.T @ R[:, j])
        rest = rest - Q @ (Q.T @ rest)  # once more for rounding
        length = np.linalg.norm(rest)
        if length > OUTSIDE * np.linalg.norm(R[:, j]):
            Q = np.column_stack([Q, rest / length])
    return Q[:, start:].T @ R


def _span(parts: list[np.ndarray], q: int) -> np.ndarray:
    if not parts:
        return np.zeros((q, 0))
    U, s, _ = np.linalg.svd(np.column_stack(parts), full_matrices=False)
    return U[:, s > OUTSIDE * max(s.max(initial=0.0), 1e-300)]


def _type_three(term: _CodedTerm, above: list[_CodedTerm], terms: list[_CodedTerm], R: np.ndarray) -> np.ndarray:
    """Functions of a term and those above it, orthogonal to functions of those above it alone."""
    M = {id(t): np.linalg.solve(R, t.W) for t in terms}
    others = [M[id(t)] for t in terms if t is not term and t not in above]
    mine = _annihilator(others, len(R))
    upper = _annihilator([*others, M[id(term)]], len(R))
    every = np.column_stack(list(M.values()))
    return _annihilator([mine @ every @ (upper @ every).T], len(mine)) @ mine


def _type_three_as_coded(
    term: _CodedTerm, above: list[_CodedTerm], terms: list[_CodedTerm], R: np.ndarray
) -> np.ndarray:
    """The coefficients of a term as functions of the parameters, less what those of the terms above it explain."""
    M = np.linalg.solve(R, np.column_stack([t.W for t in terms]))
    upper = [j for t in above for j in t.own]
    T = np.eye(len(R))[list(term.own)]
    T[:, upper] -= np.linalg.lstsq(M[upper].T, M[list(term.own)].T, rcond=None)[0].T
    return T


def _annihilator(parts: list[np.ndarray], q: int) -> np.ndarray:
    """Orthonormal rows u with ``u A = 0``."""
    A = np.column_stack([np.zeros((q, 1)), *parts])
    U, s, _ = np.linalg.svd(A)
    rank = int(np.sum(s > OUTSIDE * max(float(s.max(initial=0.0)), 1e-300)))
    return U[:, rank:].T


def _unit_rows(T: np.ndarray, own: tuple[int, ...]) -> np.ndarray:
    """Divide each row by its first entry among the term's own columns."""
    pivots = [next(j for j in own if abs(row[j]) > OUTSIDE * np.abs(row).max()) for row in T]
    return T / T[np.arange(len(T)), pivots][:, None]


def _reduced(T: np.ndarray, own: tuple[int, ...]) -> tuple[np.ndarray, list[int]]:
    """Reduced row echelon form with pivots in the term's own columns, first to last, and the columns of these."""
    T = T.copy()
    pivots: list[int] = []
    for j in (*own, *(j for j in range(T.shape[1]) if j not in own)):
        row = len(pivots)
        if row == len(T):
            break
        best = row + int(np.argmax(np.abs(T[row:, j])))
        if abs(T[best, j]) < INDEPENDENT:
            continue
        T[[row, best]] = T[[best, row]]
        T[row] /= T[row, j]
        rest = np.arange(len(T)) != row
        T[rest] -= T[rest, j][:, None] * T[row]
        pivots.append(j)
    return T, pivots
