"""Linear combinations of coefficients and predicted random effects: narrow-space inference.

SAS's ``ESTIMATE ... | ...``: with the levels of a grouping factor at hand as the population (McLean, Sanders & Stroup
1991, American Statistician 45, 54-64). A combination is a weighted sum of rows that are predicted (see `errors`), so
that its weights a of the data, ``b = (-a, 1)``, give with their errors the covariances between combinations too, ``b'V
b`` and their derivatives ``b'V_i b``, from which degrees of freedom follow as those of coefficients do. Second
derivatives of the MSE have a part ``b'V_ij b`` beside that of the weights: the full form of Kenward and Roger takes
half of it, summed with W, away (Prasad & Rao 1990; Harville & Jeske 1992), which for coefficients is their R_ij.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..design.grouping import FrameTerm
from ..errors import DataError
from ..estimates.fitted import FitBase
from ..estimates.rows import through
from ..fitting.units import root_of
from ..frames.columns import extend_rows
from ..inference.fixed_effects.linear import LinearTest, linear_test
from ..inference.fixed_effects.wald import NOT_POSITIVE, Wald, degrees
from ..inference.means.margins import averaged_rows, combinations, predictions
from ..inference.means.table import EMMeans, type_of
from ..likelihood.engines.orthogonal import bucket, pad_last
from ..likelihood.parts import Term
from .choice import Random, parts_of
from .errors import Predictor
from .newdata import ABSENT, SHARED, NewRows, check_known, joined, rows_of_data, unplaced

NUMBERS = 2e8  # in arrays of rows by combinations


def names_effects(L: Any) -> bool:
    """Whether hypotheses have weights of predicted effects, ``("Subject", "308")`` among their names."""
    if not isinstance(L, Mapping):
        return False
    several = [row for row in L.values() if isinstance(row, Mapping)] or [L]
    return any(isinstance(name, tuple) for row in several for name in row)


def combination_test(
    fit: FitBase, L: Mapping[Any, Any], rhs: Any, level: float, side: str, delta: float, df: str, **method: Any
) -> LinearTest:  # fmt: skip
    """Tests of combinations by name, see ``Fit.test``."""
    several = any(isinstance(row, Mapping) for row in L.values())
    rows = list(L.values()) if several else [L]
    if not all(isinstance(row, Mapping) for row in rows):
        raise DataError("L: of several hypotheses by their names each is weights by name, {'a': {...}, 'b': {...}}")
    labels = {name: _effect(fit, name) for row in rows for name in row if isinstance(name, tuple)}
    effects = list(dict.fromkeys(labels.values()))
    at = combined(fit, *_rows_of(fit, effects), (*fit.coef_names, *(effect.label for effect in effects)), df, **method)
    weights: list[dict[str, Any]] = []
    for row in rows:
        weights.append({})
        for name, weight in row.items():
            label = labels[name].label if name in labels else name
            weights[-1][label] = weights[-1][label] + weight if label in weights[-1] else weight
    given: Any = dict(zip(L, weights, strict=True)) if several else weights[0]
    return linear_test(at, given, rhs, level, fit.frame.kind, side, delta)


class _Effect(NamedTuple):
    """A predicted effect, or the average of those of all levels (`code` None): its term and column there."""

    label: str
    term: int
    code: int | None
    column: int


def _rows_of(fit: FitBase, effects: Sequence[_Effect]) -> tuple[NewRows, np.ndarray, list[bool]]:
    """Rows of single coefficients, then of single effects of levels, and their shares in what has a name."""
    p, parts = len(fit.coef), fit.model.random
    counts = [len(fit.frame.parts[effect.term].levels) for effect in effects]
    levels = [np.arange(m) if e.code is None else np.array([e.code]) for e, m in zip(effects, counts, strict=True)]
    owner = np.concatenate([np.arange(p), *(np.full(len(own), p + k) for k, own in enumerate(levels))])
    places = []
    for t, part in enumerate(parts):
        if not isinstance(part, Term):
            places.append(unplaced(part, len(owner)))
            continue
        codes, Z = np.zeros(len(owner), int), np.zeros((len(owner), part.dim))
        for k, (effect, own) in enumerate(zip(effects, levels, strict=True)):
            if effect.term == t:
                codes[owner == p + k], Z[owner == p + k, effect.column] = own, 1.0 / len(own)
        places.append((codes, Z))
    X = np.eye(len(owner), p)
    known = tuple(np.zeros(len(owner), bool) for _ in parts)
    new = NewRows(X, None, None, (*places, (None, owner)), known, (None,) * len(parts))
    return new, (owner[:, None] == np.arange(p + len(effects))) * 1.0, [isinstance(part, Term) for part in parts]


def _effect(fit: FitBase, name: tuple[Any, ...]) -> _Effect:
    """The predicted effect with a name, (group, level) or (group, level, column)."""
    if len(name) not in (2, 3):
        raise DataError(f"L: found {name!r}, expected (group, level) or (group, level, column) of a predicted effect")
    group, level, *chosen = name
    terms = [(t, part) for t, part in enumerate(fit.frame.parts) if isinstance(part, FrameTerm)]
    columns = [(c, t, part, k) for t, part in terms if part.group == group for k, c in enumerate(part.columns)]
    if not columns:
        known = ", ".join(dict.fromkeys(part.group for _, part in terms)) or "none"
        raise DataError(f"L: found a predicted effect of {group!r}, expected one of the grouping factors: {known}")
    found = [c for c in columns if not chosen or c[0] == chosen[0]]
    if len(found) != 1:
        names = ", ".join(repr(c[0]) for c in columns)
        raise DataError(f"L: found {name!r}, expected one of the effects of {group} as third entry: {names}")
    column, t, part, k = found[0]
    code = None if level is ... else part.levels.find(level)
    if code is None and level is not ...:
        raise DataError(
            f"L: found level {level!r} of {group!r}, which is not in the fit; it has {part.levels[0]!r}, ..."
        )
    text = "average" if code is None else part.levels[code]
    return _Effect(f"{group} {text}" + f" {column}" * (len(columns) > 1), t, code, k)


def predicted_means(
    fit: FitBase, random: Random, by: Any, newdata: Any, at: Mapping[str, Any] | None, df: str, level: float,
    type: str, bias_adjust: bool | float, **method: Any,
) -> EMMeans:  # fmt: skip
    """Averages over rows of means with predicted random effects; see ``Fit.predictions``."""
    if isinstance(newdata, str):
        raise DataError("random: averages with random effects are of rows of the data, or of a frame as newdata")
    if bias_adjust is True:
        raise DataError("bias_adjust: with random=, give the standard deviation of what is left out as a number")
    plain = predictions(fit, by, newdata, at, "asymptotic", level, type, bias_adjust)
    scale, _ = type_of(fit, type, bias_adjust)
    rows, parts = averaged_rows(fit, by, newdata, list(at or {})), parts_of(fit, random)
    own, kept = (fit.data, fit.frame.rows) if newdata is None else (newdata, rows.kept)
    held = combinations(fit, at)
    values = {name: np.repeat([one[name] for one in held], rows.n) for name in held[0]}
    new = rows_of_data(fit.frame, fit.model, extend_rows(own, np.tile(kept, len(held)), values), parts, False)
    check_known(fit.frame, new, parts)
    groups, m = np.concatenate([rows.groups + k * rows.count for k in range(len(held))]), rows.count * len(held)
    if (len(fit.model.y) + len(groups)) * m > NUMBERS:
        raise DataError(f"by: {m} averages with random effects have too many covariances; use fit.predict(se=True)")
    size = np.bincount(groups, minlength=m)
    shares = (groups[:, None] == np.arange(m)) / np.maximum(size, 1)
    shift = plain.shift
    if scale is not None:  # to first order, as without random effects
        eta = Predictor.of(fit, "solver")(new, _states(parts), errors=False).mean
        slope, fixed = scale(eta, order=1), eta - (0.0 if new.offset is None else new.offset)
        shift, shares = shares.T @ (scale(eta) - slope * fixed), shares * slope[:, None]
    wald = combined(fit, new, shares, parts, tuple(f"average {i + 1}" for i in range(m)), df, **method)
    lacking = np.where(np.isfinite(plain.L).all(1), 0.0, np.nan)[:, None]
    there = ", ".join(part.text for part, wanted in zip(fit.frame.parts, parts, strict=True) if wanted)
    note = plain.note.replace("random effects at zero", f"with predicted effects of {there}")
    return replace(plain, wald=wald, functions=np.eye(m) + lacking, shift=shift, note=note)


def _states(parts: Sequence[bool]) -> Callable[[int], str]:
    """Which parts of the data new rows share."""
    return lambda part: SHARED if part < len(parts) and parts[part] else ABSENT


def combined(
    fit: FitBase, new: NewRows, shares: np.ndarray, parts: Sequence[bool], names: tuple[str, ...], df: str,
    **method: Any,
) -> Wald:  # fmt: skip
    """Sums of predicted rows as quantities to be tested.

    Parameters
    ----------
    shares : (N, m) weights of N rows in m sums;  parts : which random parts of the data these have
    df, method : see ``Fit.test``

    Raises
    ------
    DataError
        For methods that are for coefficients alone, and fits without an optimum.
    """
    if method.get("robust") is not None:
        raise DataError(
            "robust: sandwich covariances are for coefficients; with predicted effects leave robust= out, with "
            "df='satterthwaite' or a Kenward-Roger method"
        )
    if not fit.converged:
        raise DataError(f"the fit has no optimum, so errors are not known: {fit.estimate.status.advice}")
    by = fit.wald(df, **method)
    chart, found = by.parameters if by.parameters is not None else ("solver", None)
    at, state = Predictor.of(fit, chart), _states(parts)
    value = at(new, state, errors=False).mean - (0.0 if new.offset is None else new.offset)
    mse, slopes, extra, bent = _covariances(at, new, shares, state)
    root, total = root_of(mse), mse
    if found is None:
        X = shares.T @ new.X
        return replace(
            by, names=names, coef=shares.T @ value, vcov=mse, root=root, _coding=None,
            _row_df=lambda L: by._row_df(L @ X), _joint=lambda L: (1.0, float(np.min(by._row_df(L @ X)))),
        )  # fmt: skip
    back, hidden = np.linalg.pinv(root) if np.isfinite(root).all() else root, None
    W, note = found.W, by.note
    if df.startswith("kenward"):
        hidden, total = back @ extra(found.lost @ found.lost.T) @ back.T, mse + extra(W)
    if df == "kenward-roger-full":
        total = total - 0.5 * bent(W)
        if not note and np.min(np.linalg.eigvalsh(back @ total @ back.T + np.eye(len(back)) - back @ root)) <= 0:
            note, W = NOT_POSITIVE, np.full_like(W, np.nan)
    row_df, joint = degrees(df, root, -(back @ slopes @ back.T), found, W, hidden)
    return replace(
        by, names=names, coef=shares.T @ value, vcov=total, root=root_of(total), note=note, _coding=None,
        _row_df=row_df, _joint=joint, _estimated_se=True,
    )  # fmt: skip


def _covariances(
    at: Predictor, new: NewRows, shares: np.ndarray, state: Callable[[int], str]
) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:  # fmt: skip
    """MSE (m, m) of sums of rows, its slopes (k, m, m), and what estimated parameters with covariance W add.

    Last ``sum_ij W_ij b'V_ij b``, of which the full form of Kenward and Roger takes a half away.
    """
    n, m = len(at.model.y), shares.shape[1]
    size = bucket(m)
    E = np.concatenate([np.zeros((n, size)), pad_last(shares, size)])
    parts, coords = joined(at.model, new, at.rows.prepared.basis.K, state)
    C, D = ([*found.random, found.residual] for found in at.rows.blocks(at.chart, at.x, coords))
    at.use_columns(size)
    x = np.linalg.solve(at.rows.R.T, new.X.T @ E[n:])
    S = at.solve(through(parts, C, E)[:n])
    b = E.copy()
    b[:n] -= S + at.VQ @ at.Phi @ (x - at.rows.Q.T @ S)
    moved = [through(parts, [d[i] for d in D], b) for i in range(len(at.x))]
    slopes = np.array([(b.T @ one)[:m, :m] for one in moved]).reshape(-1, m, m)

    def extra(W: np.ndarray) -> np.ndarray:
        """``2 sum_ij W_ij r_i'P r_j`` with ``r_i = V_i b`` at the data."""
        solved = [at.solve(one[:n]) - at.VQ @ (at.Phi @ (at.VQ.T @ one[:n])) for one in moved]
        total = sum(W[i, j] * a[:n].T @ c for i, a in enumerate(moved) for j, c in enumerate(solved))
        return np.asarray(total + np.transpose(total))[:m, :m]

    def bent(W: np.ndarray) -> np.ndarray:
        """In the parameters of SAS."""
        blocks, steps = at.rows.second_order(at.chart, at.x, coords, W)
        along = (b.T @ through(parts, [*blocks.random, blocks.residual], b))[:m, :m]
        return along - np.tensordot(np.asarray(steps), slopes, 1)

    return (b.T @ through(parts, C, b))[:m, :m], slopes, extra, bent
