"""Power over the size of a design: that of a fit, with more or fewer levels of a grouping factor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arguments import door, numbers_of, shown
from ..batch.chunks import Progress
from ..design.encoding import side_columns
from ..design.fields import FrameField
from ..errors import DataError
from ..frames.columns import open_table
from ..inference.power import PowerTable, checked, question, rejections
from ..interface import model_of
from ..runtime.sizes import check_memory


@door
def power_curve(
    fit: Any, target: Any = None, *, along: str, to: int | Sequence[int], effect: Any = None, n: int = 1000,
    tests: str | Sequence[str] = "satterthwaite", null: float = 0.0, alpha: float = 0.05, seed: int = 0,
    progress: Progress = "auto",
) -> PowerTable:  # fmt: skip
    """Power with other numbers of levels of a grouping factor, such as subjects, by simulation from a fit.

    Levels are taken from those of the data again and again, in turns over the patterns of covariates that they have (so
    that arms keep their shares), each with its rows and as a new level; levels of other factors that are nested in it
    are new too, crossed ones stay. As simr's `extend` and `powerCurve` do.

    Parameters
    ----------
    fit : `jaxlmm.Fit`;  target, effect, n, tests, null, alpha, seed, progress : see ``Fit.power``
    along : a grouping factor, a column;  to : its numbers of levels

    Returns
    -------
    PowerTable
        With ``frame()``; a row for each size, effect, hypothesis and test.

    Raises
    ------
    DataError
        For what is not a grouping factor, sizes at which the model cannot be built, weights or offsets given as arrays,
        and relationships between levels.
    """
    names = checked(n, tests, alpha)
    sizes = np.atleast_1d(numbers_of("to", to, "numbers of levels"))
    if sizes.ndim > 1 or not sizes.size or not all(size >= 2 and size == np.rint(size) for size in sizes):
        raise DataError(f"to: expected numbers of levels, at least 2, found {shown(to)}")
    ask = question(fit.coef_names, fit.coef, target, effect, null)
    rows = []
    for size in map(int, sizes):
        data = extended(fit, along, size)
        frame, model = model_of(data=data, **fit.call.arguments())
        if frame.coef_names != fit.coef_names:
            raise DataError(f"to: with {size} levels of {along!r} the coefficients are {', '.join(frame.coef_names)}, "
                            f"expected those of the fit; take more")  # fmt: skip
        Y = fit.simulate(n, seed, newdata=data)
        rows += rejections(model, fit.method, Y, model.X, fit.coef, ask, names, alpha, size, progress)
    return PowerTable(tuple(rows), alpha, along, n, fit.frame.kind)


def extended(fit: Any, along: str, size: int) -> dict[str, Any]:
    """The columns of the data of a fit with so many levels of a grouping factor."""
    frame, table = fit.frame, open_table(fit.data)
    if "" in (frame.weights_source, frame.offset_source) or fit.call.relationship:
        raise DataError("along: weights and offsets given as arrays, and relationships, are not known for new levels; "
                        "give columns of the data")  # fmt: skip
    groups = _grouping_columns(frame)
    if along not in groups or along in side_columns(frame.encoder.side, frame.formula):
        known = [name for name in groups if name not in side_columns(frame.encoder.side, frame.formula)]
        raise DataError(f"along: found {along!r}, expected a grouping factor: {', '.join(known) or '(there are none)'}")
    rows = frame.rows
    codes = {name: table.column(name).take(rows).as_factor().values for name in groups}
    own = np.unique(codes[along], return_inverse=True)[1]
    order = _in_turns(own, frame.X)
    chosen = [np.flatnonzero(own == order[k % len(order)]) for k in range(size)]
    check_memory("to", sum(map(len, chosen)), frame.X.shape[1])
    place, level = np.concatenate(chosen), np.repeat(np.arange(size), list(map(len, chosen)))
    out = {name: _rows_of(table.data[name], rows[place]) for name in frame.used}
    for name in groups:
        pairs = np.unique(np.stack([codes[name], own]), axis=1)
        if pairs.shape[1] == len(np.unique(codes[name])):  # nested, or the factor itself
            new = np.unique(np.stack([level, codes[name][place]]), axis=1, return_inverse=True)[1].ravel()
            is_number = table.column(name).kind == "number"
            out[name] = new if is_number else np.array([f"{name}{k + 1}" for k in range(new.max() + 1)])[new]
    return out


def _grouping_columns(frame: Any) -> list[str]:
    """Columns by which rows are grouped in random effects and residuals."""
    names = [name for design in frame.designs for name in design.grouping.names]
    for part in (*frame.parts, frame.residual):
        if isinstance(part, FrameField) and part.grouping is not None:
            names += part.grouping.names
    return list(dict.fromkeys(names))


def _in_turns(level: np.ndarray, X: np.ndarray) -> np.ndarray:
    """The levels (m,) of rows (n,), such that the first ones of them have the covariates in the shares of all."""
    first = np.unique(level, return_index=True)[1]
    between = np.all(X == X[first][level], axis=0)  # columns that are constant within levels
    pattern = np.unique(X[first][:, between], axis=0, return_inverse=True)[1].ravel()
    rank = np.zeros(len(first))
    for p in np.unique(pattern):
        mine = np.flatnonzero(pattern == p)
        rank[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    return np.lexsort([pattern, rank])


def _rows_of(values: Any, rows: np.ndarray) -> Any:
    """Rows of a column of any library."""
    if hasattr(values, "iloc"):
        return values.iloc[rows].reset_index(drop=True)
    return values[rows] if isinstance(values, np.ndarray) or hasattr(values, "gather") else np.asarray(values)[rows]
