"""Designs that many studies have, as columns without a response; a study's own is a function like these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arguments import door, numbers_of, shown
from ..errors import DataError
from ..runtime.sizes import check_memory

Columns = dict[str, np.ndarray]


def cluster_trial(clusters: int, size: Any = 10) -> Columns:
    """Two arms of clusters, by turns: columns ``cluster`` and ``arm`` (0 and 1).

    Parameters
    ----------
    clusters : their number;  size : rows in each, or a sequence that is repeated over the clusters
    """
    (clusters,) = _counts(clusters=clusters)
    each = np.atleast_1d(numbers_of("size", size, "numbers of rows"))
    if each.ndim != 1 or not each.size or not np.all((each >= 0) & (each % 1 == 0)):
        raise DataError(f"size: found {shown(size)}, expected a whole number of rows, or a sequence of them")
    each = each.astype(int)
    check_memory("clusters, size", clusters, int(each.max(initial=1)))
    sizes = np.resize(each, clusters)
    cluster = np.repeat(np.arange(clusters), sizes)
    return {"cluster": cluster, "arm": (cluster % 2).astype(float)}


def multicentre(centres: int, size: int) -> Columns:
    """Centres of `size` patients, arms by turns within each: columns ``centre`` and ``arm``."""
    centres, size = _counts(centres=centres, size=size)
    row = np.arange(centres * size)
    return {"centre": row // size, "arm": (row % 2).astype(float)}


def visits(subjects: int, visits: int) -> Columns:
    """Two arms of subjects seen at each visit: ``subject``, ``arm``, ``time`` 0, 1, ... and ``visit`` "v0", "v1"..."""
    subjects, visits = _counts(subjects=subjects, visits=visits)
    subject, time = np.repeat(np.arange(subjects), visits), np.tile(np.arange(visits), subjects)
    labels = np.array([f"v{t:0{len(str(visits - 1))}d}" for t in range(visits)])
    return {"subject": subject, "arm": (subject % 2).astype(float), "time": time.astype(float), "visit": labels[time]}


@door
def crossed(subjects: int, items: int, within: bool = False) -> Columns:
    """Every subject with every item: ``subject``, ``item``, ``condition`` (-0.5 and 0.5) between or within items."""
    subjects, items = _counts(subjects=subjects, items=items)
    subject, item = np.repeat(np.arange(subjects), items), np.tile(np.arange(items), subjects)
    turn = (subject + item if within else item) % 2
    return {"subject": subject, "item": item, "condition": turn - 0.5}


def stepped_wedge(clusters: int, periods: int, size: int = 1) -> Columns:
    """Clusters that all begin untreated and change over at the begin of period 1, 2, ..., by turns.

    Columns ``cluster``, ``period`` "p0", "p1", ..., ``treated`` (0 and 1), and ``cell``, the cluster in a period.
    """
    clusters, periods, size = _counts(clusters=clusters, periods=periods, size=size)
    if periods < 2:
        raise DataError(f"periods: expected at least 2, found {periods}")
    cell = np.arange(clusters * periods * size) // size
    cluster, period = np.divmod(cell, periods)
    labels = np.array([f"p{t:0{len(str(periods - 1))}d}" for t in range(periods)])
    treated = (period > cluster % (periods - 1)).astype(float)
    return {"cluster": cluster, "period": labels[period], "treated": treated, "cell": cell}


def crossover(subjects: int, sequences: Sequence[str] = ("AB", "BA")) -> Columns:
    """Subjects who get treatments in turns: ``subject``, ``sequence``, ``period`` "p0"..., ``treatment``, ``before``.

    Parameters
    ----------
    subjects : their number;  sequences : letters of treatments by period, given to the subjects in turns; ``before`` is
        the treatment of the period before, "none" in the first, for carry-over
    """
    (subjects,) = _counts(subjects=subjects)
    periods = len(sequences[0])
    if periods < 2 or any(len(one) != periods for one in sequences):
        raise DataError(f"sequences: expected letters for as many periods, two or more, found {list(sequences)}")
    subject, period = np.divmod(np.arange(subjects * periods), periods)
    letters = np.array([list(one) for one in sequences])[subject % len(sequences)]
    before = np.where(period == 0, "none", letters[np.arange(len(period)), period - 1])
    treatment = letters[np.arange(len(period)), period]
    return {"subject": subject, "sequence": np.array(sequences)[subject % len(sequences)],
            "period": np.array([f"p{t}" for t in period]), "treatment": treatment, "before": before}  # fmt: skip


def _counts(**counts: Any) -> tuple[int, ...]:
    for name, value in counts.items():
        if not isinstance(value, int | float | np.number) or value != np.rint(value) or value < 1:
            raise DataError(f"{name}: expected a positive integer, found {value!r}")
    whole = tuple(map(int, counts.values()))
    check_memory(", ".join(counts), *whole)
    return whole


NAMED = {f.__name__: f for f in (cluster_trial, multicentre, visits, crossed, stepped_wedge, crossover)}
