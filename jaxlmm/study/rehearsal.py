"""What is wrong with a study is said before anybody works: every cell is built here, with a few of its replicates."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import DataError, FormulaError, JaxlmmError
from ..runtime.precision import float64
from ..runtime.sizes import check_memory
from .applying import fitter_of
from .cells import in_words
from .declare import Study
from .drawing import RAISES, TRIED, Drawn, columns_of, completed, drawer, sentence_of
from .estimate import ROBUST, Fitter

FEW = 3  # replicates that are drawn, more where these cannot be used
EXACT = 1e-8  # of the size of a mean that is a combination of columns


def rehearse(study: Study, cells: Iterable[int] | None = None) -> None:
    """Build the models of every cell here and draw a few data sets, to say what is wrong before anybody works.

    Raises
    ------
    DataError, FormulaError
        For what no replicate of a cell can do, for replicates that are all alike, and for those that do not depend on
        their key alone.
    """
    for cell in range(len(study.cells)) if cells is None else cells:
        try:
            with float64(), np.errstate(all="ignore"):
                _rehearse(study, cell)
        except JaxlmmError as error:
            if len(study.cells) == 1 or isinstance(error, FormulaError):
                raise
            raise DataError(f"cell {in_words(study.cells[cell])}: {error}") from None


def _rehearse(study: Study, cell: int) -> None:
    data = columns_of(study.data(cell))
    rows = len(next(iter(data.values()), ()))
    check_memory("chunk", min(study.chunk, study.replicates), rows, advice="make the chunks smaller")
    is_model = hasattr(study.generate, "drawer")  # which draws responses only
    fitters = _fitters(study, cell, data) if is_model else []
    try:
        draw = drawer(study, cell, FEW)
        drawn = draw(np.arange(FEW))
        again = draw(np.arange(1))
    except (JaxlmmError, MemoryError):
        raise
    except RAISES as error:
        raise DataError(f"generate: {sentence_of(error)}{_hint(study)}") from error
    if not is_model:
        data = completed(data, drawn, draw, study.response)
        fitters = _fitters(study, cell, data)
    good = [i for i in range(FEW) if i not in drawn.errors]
    if len(good) > 1 and all(_same(drawn, drawn, good[0], i) for i in good[1:]):
        raise DataError("generate: replicates 0, 1 and 2 are all alike; draw from the key (jax.random) or the rng that "
                        f"the function is given{_hint(study)}")  # fmt: skip
    if 0 in good and not (0 not in again.errors and _same(drawn, again, 0, 0)):
        raise DataError("generate: replicate 0 differs when it is drawn again; draw from the key or the rng that the "
                        f"function is given, and from nothing else{_hint(study)}")  # fmt: skip
    for fitter in fitters:
        own = drawn.tables is not None or any(name != study.response for name in drawn.columns)
        if isinstance(fitter, Fitter) and fitter.estimator.robust is not None:
            lost = getattr(study.generate, "lost", None) is not None
            if own or lost or np.isnan(drawn.columns.get(study.response, 0.0)).any():
                raise DataError(f"estimator {fitter.estimator.name!r}: {ROBUST}")
    _check_usable(draw, drawn, data, fitters, min(TRIED, study.replicates))


def _fitters(study: Study, cell: int, data: dict[str, Any]) -> list[Any]:
    """What applies the estimators to data sets of a cell, its targets looked at."""
    fitters = [fitter_of(study, e, cell, data) for e in study.estimators]
    _check_targets(study, fitters)
    if hasattr(study.generate, "truth"):
        _check_truths(study, cell, data, [f for f in fitters if isinstance(f, Fitter)])
    return fitters


def _check_targets(study: Study, fitters: Sequence[Any]) -> None:
    """Refuse a target that no estimator has."""
    models = [f for f in fitters if isinstance(f, Fitter)]
    if len(models) < len(fitters):
        return
    for name in set.intersection(*(f.absent for f in models)):
        target, estimator = study.targets[name], models[0].estimator.name
        what = "a parameter" if target.is_variance else "a coefficient"
        known = models[0].known[target.is_variance]
        missing = next(c for c in target.weights if c not in known)
        raise DataError(
            f"targets[{name!r}]: {missing!r} is not {what} of estimator {estimator!r}; there are {', '.join(known)}"
        )


def _check_truths(study: Study, cell: int, data: Mapping[str, Any], fitters: Sequence[Fitter]) -> None:
    """Refuse targets whose true value is taken from a model that does not have them."""
    _, mean, _, names, *_ = study.generate.truth(data, study.cells[cell], study.response)
    for name, target in study.targets.items():
        if target.is_variance or target.truth is not None or set(target.weights) <= set(names):
            continue
        for fitter in fitters:
            if name in fitter.absent:
                continue
            X, offset = fitter.built.model.X, fitter.built.model.offset
            rest = mean - (0.0 if offset is None else offset)
            beta = np.linalg.lstsq(X, rest, rcond=None)[0]
            size = EXACT * max(np.abs(rest).max(), 1e-300)
            value = sum(w * beta[fitter.built.frame.coef_names.index(c)] for c, w in target.weights.items())
            exact = np.abs(rest - X @ beta).max() <= size
            assumed = study.truths[cell][name]
            if not exact or assumed is None or abs(value - assumed) > max(size, EXACT * abs(value)):
                found = f"it is {value:.6g}" if exact else "it has no true value there by itself"
                raise DataError(
                    f"targets[{name!r}]: is not a coefficient of the generating model ({', '.join(names)}), and in "
                    f"estimator {fitter.estimator.name!r} {found}; give Target(truth=)"
                )


def _check_usable(draw: Any, drawn: Drawn, data: Mapping[str, Any], fitters: Sequence[Any], most: int) -> None:
    """Refuse what no estimator can use in any of the first replicates."""
    waiting: dict[int, str] = dict.fromkeys(range(len(fitters)), "")
    is_drawn = False
    for start in range(0, max(most, 1), FEW):
        drawn = drawn if start == 0 else draw(np.arange(start, start + FEW))
        for i in range(FEW):
            for k in list(waiting):
                if i in drawn.errors:
                    waiting[k] = drawn.errors[i]
                    continue
                is_drawn = True
                try:
                    fitters[k].rehearse(drawn.table(i, data))
                    del waiting[k]
                except MemoryError:
                    raise
                except RAISES as error:
                    waiting[k] = sentence_of(error)
            if not waiting:
                return
    for k, message in waiting.items():
        if not is_drawn:
            raise DataError(message if message.startswith("generate: ") else f"generate: {message}")
        raise DataError(
            f"estimator {fitters[k].estimator.name!r} can use none of the first {most} data sets; {message}"
        )


def _same(first: Drawn, second: Drawn, i: int, j: int) -> bool:
    a, b = first.table(i, {}), second.table(j, {})
    return a.keys() == b.keys() and all(
        np.shape(a[n]) == np.shape(b[n]) and np.array_equal(_plain(a[n]), _plain(b[n])) for n in a
    )


def _plain(values: Any) -> np.ndarray:
    """With missing values that equal each other."""
    a = np.asarray(values)
    return np.where(np.isnan(a), np.inf, a) if a.dtype.kind == "f" else a.astype(str) if a.dtype.kind == "O" else a


def _hint(study: Study) -> str:
    """How a function is called, where its first argument has a name of its own."""
    if hasattr(study.generate, "drawer"):
        return ""
    first = next(iter(inspect.signature(study.generate).parameters), "")
    return "" if first in ("key", "rng") else (
        f" (its first argument is called {first!r}: that is a key of JAX; call it rng for a generator of NumPy)"
    )  # fmt: skip
