"""What tests of studies share: small ones, and an executor that works here."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxlmm.study import Study, designs
from jaxlmm.study.chunk import Bench
from jaxlmm.study.executors import Finished


class Here:
    """Does chunks in this process, without a thought of threads: numbers to the last bits are not the point here."""

    def parts(self, study, tasks):
        bench = Bench(study)
        for task in tasks:
            yield Finished(task, bench.run(task), {"here": True})


def normal(rng, data, shift=0.0):
    """Normal responses, those of arm 1 shifted."""
    return rng.standard_normal(len(data["arm"])) + shift * data["arm"]


def difference(data):
    """The difference of two means, and a test that takes its variance as known."""
    first, second = (data["y"][data["arm"] == a] for a in (0.0, 1.0))
    return {"arm": (second.mean() - first.mean(), np.sqrt(1 / len(first) + 1 / len(second)))}


def plain(**changes):
    """Six clusters of five rows in NumPy alone, 24 data sets a cell: nothing to compile."""
    study = Study(
        design=lambda: designs.cluster_trial(6, 5), grid={"shift": [0.0, 1.0]}, generate=normal, estimators=difference,
        targets={"arm": "shift"}, replicates=24, seed=3, chunk=10,
    )  # fmt: skip
    return dataclasses.replace(study, **changes)
