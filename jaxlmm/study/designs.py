"""Designs that many studies have, as columns without a response; a study's own is a function like these."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import door
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
    each = np.atleast_1d(np.asarray(size, int))
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


def _counts(**counts: Any) -> tuple[int, ...]:
    for name, value in counts.items():
        if int(value) != value or value < 1:
            raise DataError(f"{name}: expected a positive integer, found {value!r}")
    whole = tuple(map(int, counts.values()))
    check_memory(", ".join(counts), *whole)
    return whole


NAMED = {f.__name__: f for f in (cluster_trial, multicentre, visits, crossed)}
