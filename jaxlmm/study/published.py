"""A generating model from what papers print: means by visit and arm, standard deviations, correlations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..arguments import door, numbers_of
from ..errors import DataError
from ..interface import model_of
from ..tolerances import not_semidefinite
from . import designs
from .generate import MixedModel, stand_in

FORMULA, RESIDUAL = "y ~ arm * visit", "us(visit | subject)"


@door
def published(
    control: Sequence[float], treated: Sequence[float], sds: Sequence[float], correlations: Any,
    lost: Callable[..., Any] | None = None,
) -> MixedModel:  # fmt: skip
    """Two arms seen at T visits, for the design `jaxlmm.study.designs.visits`, from a table of a paper.

    Parameters
    ----------
    control, treated : means (T,) by visit of the arms 0 and 1;  sds : standard deviations (T,) by visit
    correlations : between visits: one number for all pairs; numbers (T - 1,) for lags of 1, 2, ... visits; or a matrix
    lost : which rows are lost, such as `Dropout`

    Returns
    -------
    MixedModel
        ``y ~ arm * visit`` with the residual structure ``us(visit | subject)``. The difference of the arms at the last
        visit is ``Target(of={"arm": 1, "arm:...": 1})`` with the last of its coefficients.

    Raises
    ------
    DataError
        For lengths that differ, and correlations that no responses can have.
    """
    given = {"control": control, "treated": treated, "sds": sds}
    first, second, spread = (numbers_of(name, value) for name, value in given.items())
    shapes, T = [found.shape for found in (first, second, spread)], spread.size
    if shapes != [(T,)] * 3 or T < 2 or not (spread > 0).all() or not np.isfinite([first, second, spread]).all():
        raise DataError(f"control, treated, sds: expected as many finite numbers as visits, two or more, sds positive; "
                        f"found shapes {', '.join(map(str, shapes))}")  # fmt: skip
    R = _correlations(correlations, T)
    covariance = spread[:, None] * R * spread
    if problem := not_semidefinite(R):
        raise DataError(f"correlations: no responses have these: {problem}")
    data = designs.visits(2 * T + 2, T)
    names = model_of(FORMULA, {**data, "y": stand_in(len(data["arm"]))}, residual=RESIDUAL)[0].coef_names
    change, other = first[1:] - first[0], second[1:] - second[0]
    values = [first[0], second[0] - first[0], *change, *(other - change)]
    return MixedModel(FORMULA, dict(zip(names, values, strict=True)), {"residual": covariance}, RESIDUAL, lost=lost)


def _correlations(given: Any, T: int) -> np.ndarray:
    """A matrix (T, T)."""
    found = numbers_of("correlations", given)
    lags = np.abs(np.subtract.outer(np.arange(T), np.arange(T)))
    if found.ndim == 0:
        found = np.full(T - 1, float(found))
    if found.shape == (T - 1,):
        found = np.append(1.0, found)[lags]
    if found.shape != (T, T) or not np.abs(found - found.T).max() <= 1e-12 or (np.diag(found) != 1.0).any():
        raise DataError(f"correlations: expected a number, {T - 1} of them by lag, or a symmetric matrix ({T}, {T}) "
                        f"with ones in its diagonal, found shape {np.shape(given)}")  # fmt: skip
    return found
