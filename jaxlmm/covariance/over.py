"""A structure and the columns of a data frame that it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Covariance


@dataclass(frozen=True)
class Over:
    """A structure over columns of a data frame, ``Autoregressive().over("time | id")``.

    Parameters
    ----------
    structure : covariance structure
    text : its columns and after a bar the subjects, such as "lat + lon | site" or "visit | arm / id"
    """

    structure: Covariance
    text: str
