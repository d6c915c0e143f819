"""One replicate of a study again: its data, the fits of all estimators, its rows; to look at what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments import doors
from ..errors import DataError
from ..frames.columns import make_frame
from ..runtime.precision import float64
from ..runtime.sizes import check_count
from .applying import Analyst, attempt, fitter_of
from .cells import in_words, place_of
from .chunk import columns_of_numbers
from .declare import Study
from .drawing import Drawn, columns_of, completed, drawer
from .estimate import STATUSES
from .estimators import Row
from .results import library


@doors
@dataclass(frozen=True, eq=False, repr=False)
class StudyReplicate:
    """A replicate of a study, see ``Study.replicate``.

    Attributes
    ----------
    study : where it is from;  cell : place of its cell;  number : its own
    """

    study: Study
    cell: int
    number: int
    drawn: Drawn
    design: Mapping[str, Any]

    def __repr__(self) -> str:
        where = in_words(self.study.cells[self.cell])
        return f"Replicate({self.number}{f' of {where}' if where else ''})"

    @property
    def factors(self) -> dict[str, Any]:
        """The factors of its cell."""
        return dict(self.study.cells[self.cell])

    @property
    def data(self) -> Any:
        """Its data set, a frame of pandas where that is installed; lost responses are missing.

        Raises
        ------
        DataError
            With what the generating function raised.
        """
        if self.drawn.errors:
            raise DataError(f"{self}: the generating function raised {self.drawn.errors[0]}")
        return make_frame(library(), self.drawn.table(0, self.design))

    @property
    def fits(self) -> dict[str, Any]:
        """What each estimator makes of it: a `jaxlmm.Fit`, or what an analysis of one's own returns; see `fit`."""
        return {estimator.name: self.fit(estimator.name) for estimator in self.study.estimators}

    def fit(self, estimator: str | None = None) -> Any:
        """What one estimator makes of it; it raises here what is a status in the study.

        Parameters
        ----------
        estimator : its name, where there are several
        """
        known = {e.name: e for e in self.study.estimators}
        name = next(iter(known)) if estimator is None and len(known) == 1 else estimator
        if name not in known:
            raise DataError(f"estimator: found {estimator!r}, expected one of {', '.join(known)}")
        data, fitter = self.data, self._fitter(known[name])
        data = self.drawn.table(0, self.design) if isinstance(fitter, Analyst) else data
        return fitter.alone(data, self.drawn.analysis_keys[0])

    def rows(self) -> Any:
        """Its rows as they are in the study: estimator, test, target, estimate, se, df, p, status, ..., message."""
        with float64(), np.errstate(all="ignore"):
            numbers = columns_of_numbers([attempt(self._fitter(e), self.drawn, 1) for e in self.study.estimators])
        columns: dict[str, Any] = {n: [getattr(row, n) for row in self.study.rows] for n in Row._fields}
        columns |= {name: values[:, 0] for name, values in numbers.items()}
        columns["status"] = [STATUSES[code] for code in columns["status"]]
        return make_frame(library(), columns)

    def _fitter(self, estimator: Any) -> Any:
        data = completed(dict(self.design), self.drawn, lambda _: self.drawn, self.study.response)
        return fitter_of(self.study, estimator, self.cell, data)


def replicate(study: Study, cell: int | Mapping[str, Any] = 0, number: int = 0) -> StudyReplicate:
    """Draw one replicate again.

    Parameters
    ----------
    cell : place among ``study.cells``, or factors that only one of them has, ``{"clusters": 8, "icc": 0.1}``
    number : of the replicate, as in ``Results.frame``

    Returns
    -------
    StudyReplicate
        With `data`, `fits` (full `jaxlmm.Fit` objects) and `rows`.
    """
    check_count("replicate", number)
    cell = place_of(study.cells, cell)
    design = columns_of(study.data(cell))
    with float64(), np.errstate(all="ignore"):
        drawn = drawer(study, cell)(np.array([number]))
    return StudyReplicate(study, cell, number, drawn, design)


Study.replicate = replicate  # type: ignore[assignment,method-assign]
