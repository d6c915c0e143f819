"""Further starts share the evaluations that the first run of a fit has left."""

import numpy as np
import pytest

import jaxlmm
from jaxlmm.fitting.boundary import MAX_ITERATIONS, Ends, Search
from jaxlmm.fitting.newton import Status
from jaxlmm.fitting.objective import Spec, packing_of


def searched(found, used, starts):
    """What a search asks for, and where it ends; `found` are status, value and evaluations of its runs in turn."""
    g, rng = np.repeat(np.arange(6), 4), np.random.default_rng(0)
    X = np.column_stack([np.ones(24), rng.normal(size=24)])
    model = jaxlmm.Model(rng.normal(size=24), X, jaxlmm.Term(X, g, jaxlmm.Unstructured()))
    spec = Spec.of(model, "REML")
    packing, asked, answers = packing_of(spec, 2), [], iter(found)

    def ends(rows):
        best = np.zeros((len(rows), packing.size))
        best[:, :3], best[:, packing.value_at] = [1.0, 0.2, 1.0], [value for _, value, _ in rows]
        return Ends(best, np.array([s for s, *_ in rows]), np.zeros(len(rows)), np.array([n for *_, n in rows]))

    def run(lanes, s, known, most):
        asked.append(most.tolist())
        return ends([next(answers) for _ in lanes])

    known = ends([(Status.CONVERGED, 10.0, used)])
    search, dual = Search(spec, packing, np.ones((1, 3)), run), np.full(1, np.nan)
    search._improve([(np.zeros(1, int), np.ones((1, 3)))] * starts, np.zeros(1, int), known, dual)
    return asked, known


@pytest.mark.parametrize(
    ("used", "taken", "asked"),
    [
        (40, [15] * 6, [[20, 20, 20]]),  # 15 are left: no room for another
        (40, [5] * 6, [[20, 20, 20], [22, 22], [35]]),  # 45 are left, then 35
        (10, [5] * 6, [[22] * 4, [35, 35]]),
        (90, [], []),
    ],
)
def test_further_starts_share_what_is_left(used, taken, asked):
    found = [(Status.CONVERGED, 10.0, n) for n in taken]
    rounds, ends = searched(found, used, 6)
    assert rounds == asked
    assert ends.iterations[0] == used + sum(taken[: sum(map(len, asked))]) <= MAX_ITERATIONS


def test_what_is_below_the_optimum_goes_on():
    found = [(Status.MAX_ITERATIONS, 9.0, 25), (Status.CONVERGED, 10.0, 25), (Status.CONVERGED, 8.5, 12)]
    rounds, ends = searched(found, 50, 2)
    assert rounds[0] == [25, 25] and rounds[1] == [MAX_ITERATIONS]
    assert ends.best[0, 3] == 8.5 and ends.iterations[0] == 112
