"""What a queue of lanes takes of a device's memory, at the sizes that it has on a GPU; nothing is run.

``python experiments/programs/queue_memory.py``: XLA's own account of the compiled queue, for a batch of small trials of
their own designs, just below and just above a capacity.
"""

from functools import partial

import jax
import numpy as np

import jaxlmm
from jaxlmm import Model, Residual, Term
from jaxlmm.batch import queue

MEGABYTE = 1e6


class Told(Exception):
    """Raised instead of running."""


def told(runner, inputs):
    """Instead of `Runner._run`: the memory of the program for the first of the queues."""
    drain = jax.jit(partial(queue._drain, runner.slots))
    memory = drain.lower(runner.spec, *inputs[0]).compile().memory_analysis()
    parts = (memory.argument_size_in_bytes, memory.temp_size_in_bytes, memory.output_size_in_bytes)
    raise Told(f"{runner.capacity} | {runner.slots} | " + " | ".join(f"{part / MEGABYTE:.1f}" for part in parts))


def trial(rng, subjects, visits, q=0):
    """A trial with a tenth of its rows missing: q random effects a subject, or an unstructured residual."""
    subject, visit = np.divmod(np.arange(subjects * visits), visits)
    here = rng.random(len(subject)) > 0.1
    subject, visit = subject[here], visit[here]
    n = len(subject)
    X, y = np.column_stack([np.ones(n), visit, subject % 2]), rng.normal(size=n)
    if not q:
        return Model(y, X, residual=Residual(jaxlmm.Unstructured(), group=subject, position=visit))
    return Model(y, X, random=[Term(np.column_stack([np.ones(n), rng.normal(size=(n, q - 1))]), subject)])


CASES = {
    "random slopes, 18 groups of 10": (18, 10, 2),
    "us(4), 200 subjects": (200, 4, 0),
    "us(8), 100 subjects": (100, 8, 0),
    "five effects, 60 groups of 12": (60, 12, 5),
}


def main():
    """Print the table."""
    queue.SIZES, queue.WORK, queue.Runner._run = {}, {}, told
    print(
        "| model | data sets | capacity | slots | arguments, MB | temporaries | output |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    for name, size in CASES.items():
        model = trial(np.random.default_rng(0), *size)
        for count in (1000, 1100):
            for batch in ("own designs", "one design"):
                try:
                    if batch == "own designs":
                        jaxlmm.fit_batch([model] * count, progress=False)
                    else:
                        jaxlmm.fit_batch(
                            model, np.random.default_rng(1).normal(size=(count, len(model.y))), progress=False
                        )
                except Told as memory:
                    print(f"| {name}, {batch} | {count} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
