"""Coefficients of contrasts between means: pairwise, with a control, polynomial, custom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import combinations, product
from math import gcd, lcm
from typing import Any

import numpy as np

from ...arguments import check_choice, numbers_of, shown
from ...errors import DataError
from ...frames.alignment import refuse_masked

METHODS = (
    "pairwise", "revpairwise", "trt.vs.ctrl", "dunnett", "consec", "eff", "del.eff", "helmert", "poly", "identity",
)  # fmt: skip
ADJUSTMENT = {
    "pairwise": "tukey", "revpairwise": "tukey", "trt.vs.ctrl": "dunnett", "dunnett": "dunnett", "consec": "mvt",
    "eff": "fdr", "del.eff": "fdr",
}  # fmt: skip
"""The adjustment that goes with a method; none with others. As in R's emmeans, but Dunnett's is exact."""

EXPECTED = f"one of {', '.join(METHODS)}; a dict, an array or a function that gives coefficients"
_DEGREES = ("linear", "quadratic", "cubic", "quartic")
Custom = Mapping[str, Any] | Sequence[Any] | np.ndarray | Callable[[list[str]], Any]


def coefficients(
    method: str | Custom, labels: Sequence[str], ref: int | str = 0, apart: str = " - "
) -> tuple[list[str], np.ndarray]:
    """Names and coefficients (c, m) of contrasts of m means.

    Parameters
    ----------
    method : a word, a dict from names to m coefficients, an array (c, m), or a function of the labels that returns one
        "pairwise" A - B, "revpairwise" B - A, "trt.vs.ctrl" or "dunnett" each minus `ref`, "consec" each minus the one
        before, "eff" each minus the average of all, "del.eff" of all others, "helmert" minus that of those before (in
        whole numbers), "poly" orthogonal polynomials in equally spaced levels, in the smallest integers, as tables have
        them, "identity" the means themselves.
    labels : names of the means
    ref : label or position of the control
    apart : what stands between the names of two means

    Raises
    ------
    DataError
        For an unknown word or control, and coefficients of another length.
    """
    m, one = len(labels), np.eye(len(labels))
    if callable(method):
        method = method(list(labels))
    if not isinstance(method, str):
        return _custom(method, m)
    if method == "identity":
        return list(labels), one
    labels = [f"({label})" if apart in label else label for label in labels]  # a difference, to be subtracted
    if method in ("pairwise", "revpairwise"):
        pairs = list(combinations(range(m), 2))
        if method == "revpairwise":
            pairs = [(j, i) for j in range(m) for i in range(j)]
        return _differences(pairs, labels, apart)
    if method == "consec":
        return _differences([(i + 1, i) for i in range(m - 1)], labels, apart)
    if method in ("trt.vs.ctrl", "dunnett"):
        control = _place(ref, labels)
        return _differences([(i, control) for i in range(m) if i != control], labels, apart)
    if method == "eff":
        return [f"{label} effect" for label in labels], one - 1.0 / m
    if method == "del.eff":
        return [f"{label} effect" for label in labels], one - (1.0 - one) / max(m - 1, 1)
    if method == "helmert":
        rows = np.diag(np.arange(m, dtype=float)) - np.tri(m, k=-1)
        return [f"{label} vs earlier" for label in labels[1:]], rows[1:]
    if method == "poly":
        names = [_DEGREES[d] if d < len(_DEGREES) else f"degree {d + 1}" for d in range(min(6, m - 1))]
        return names, _polynomials(m, len(names))
    raise DataError(f"method: found {method!r}, expected {EXPECTED}")


def crossed(
    method: Any, rows: Sequence[Sequence[str]], names: Sequence[str], ref: int | str, apart: str
) -> tuple[list[list[str]], np.ndarray]:
    """Names (c, f) and coefficients (c, m) of interaction contrasts of m means that are combinations of f labels.

    Products of the contrasts of each label, by a method for all or a list with one for each.
    """
    each = list(method) if isinstance(method, (list, tuple)) else [method] * len(names)
    if len(each) != len(names):
        raise DataError(f"method: expected one for each of {', '.join(names)}, found {len(each)}")
    levels = [list(dict.fromkeys(column)) for column in zip(*rows, strict=True)]
    place = {tuple(row): i for i, row in enumerate(rows)}
    cells = list(product(*levels))
    if any(cell not in place for cell in cells):
        raise DataError(f"interaction: combinations of {', '.join(names)} are missing; compare within by=")
    parts = [
        coefficients(m, own, ref if isinstance(ref, int) or ref in own else 0, apart)
        for m, own in zip(each, levels, strict=True)
    ]
    C = parts[0][1]
    for _, one in parts[1:]:
        C = np.kron(C, one)
    out = np.zeros((len(C), len(rows)))
    out[:, [place[cell] for cell in cells]] = C
    return [list(row) for row in product(*(labels for labels, _ in parts))], out


def _differences(pairs: Sequence[tuple[int, int]], labels: Sequence[str], apart: str) -> tuple[list[str], np.ndarray]:
    one = np.eye(len(labels))
    rows = np.array([one[i] - one[j] for i, j in pairs]).reshape(-1, len(labels))
    return [f"{labels[i]}{apart}{labels[j]}" for i, j in pairs], rows


def _place(ref: int | str, labels: Sequence[str]) -> int:
    if isinstance(ref, str):
        check_choice("ref", ref, labels)
        return list(labels).index(ref)
    if not isinstance(ref, int | np.integer) or isinstance(ref, bool) or not -len(labels) <= ref < len(labels):
        raise DataError(f"ref: found {ref!r}, expected one of {', '.join(labels)} or a position")
    return ref % len(labels)


def _custom(method: Custom, m: int) -> tuple[list[str], np.ndarray]:
    if isinstance(method, Mapping):
        names, rows = [str(k) for k in method], list(method.values())
    else:
        refuse_masked("method", method)
        rows = list(np.atleast_2d(numbers_of("method", method, EXPECTED)))
        names = [f"C{i + 1}" for i in range(len(rows))]
    for name, row in zip(names, rows, strict=True):
        if np.shape(row) != (m,):
            raise DataError(f"contrast {name!r}: expected {m} coefficients, one a mean, found shape {np.shape(row)}")
    found = numbers_of("method", rows, EXPECTED).reshape(-1, m)
    if not np.isfinite(found).all():
        raise DataError(f"method: found {shown(rows)}, expected finite numbers")
    return names, found


def _polynomials(m: int, degrees: int) -> np.ndarray:
    """Orthogonal polynomials in 1..m, exact in fractions, then in the smallest integers, last level positive."""
    basis = [[Fraction(1)] * m]
    for d in range(1, degrees + 1):
        row = [Fraction(i**d) for i in range(1, m + 1)]
        for b in basis:
            share = Fraction(sum(x * y for x, y in zip(row, b, strict=True)), sum(y * y for y in b))
            row = [x - share * y for x, y in zip(row, b, strict=True)]
        basis.append(row)
    out = []
    for row in basis[1:]:
        whole = [int(x * lcm(*(y.denominator for y in row))) for x in row]
        out.append([x // gcd(*whole) for x in whole])
    return np.array(out, dtype=np.float64).reshape(degrees, m)
