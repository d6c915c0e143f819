"""What goes wrong, as exceptions with one clear sentence each; every one is a ``ValueError``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np


class JaxlmmError(ValueError):
    """Base class of all errors that jaxlmm raises on purpose."""


class DataError(JaxlmmError):
    """The data (frame, arrays, weights, new data) cannot be used as given."""


class DroppedColumnsWarning(UserWarning):
    """Columns of the fixed effects are combinations of others and have no coefficient."""


class Float64RequiredError(JaxlmmError):
    """The pure layer was called without 64-bit floats; estimates are never computed in float32."""


class FormulaError(JaxlmmError):
    """The text of a formula cannot be understood.

    Parameters
    ----------
    message : str
        One sentence: what was found and what is expected.
    text : str
        The formula.
    position : int, optional
        Index into `text`; the message then shows the text with a caret under that place.
    """

    def __init__(self, message: str, text: str = "", position: int | None = None):
        self.text = text
        self.position = position
        if text:
            message = f"{message}\n    {text}"
            if position is not None:
                message += f"\n    {' ' * position}^"
        super().__init__(message)


class LevelsWarning(UserWarning):
    """A structure over an order has put the levels of text into one, or left out levels without rows."""


class NotEstimableWarning(UserWarning):
    """Some predictions are NaN: the data of the fit say nothing about the mean there."""


class PrecisionWarning(UserWarning):
    """Some results are NaN, because float64 does not have the digits that they would need."""


def require_accurate(*results: Any) -> None:
    """Say that some of the results are NaN for want of digits, see `jaxlmm.likelihood.engines.solving`."""
    lost = sum(int(np.sum(~np.isfinite(x))) for x in results)
    if lost:
        warnings.warn(
            f"{lost} of {sum(np.size(x) for x in results)} numbers are NaN: covariances of the rows differ so much in "
            "size that 64-bit floats do not determine them; rescale covariates, or look for a variance that is out of "
            "proportion to the residual's",
            PrecisionWarning,
            stacklevel=3,
        )
