"""How many programs a user's fits compile: distinct shapes of what is compiled, over random trials.

Nothing is compiled here: programs are counted by what JAX tells them apart by, static arguments and the shapes of
arrays. ``python experiments/programs/count.py [trials]``; run it with an older version on PYTHONPATH to compare.
"""

import sys

import jax
import numpy as np

from jaxlmm.fitting.objective import Spec
from jaxlmm.interface import model_of
from jaxlmm.likelihood.prepared import prepare

try:
    from jaxlmm.likelihood.engines.orthogonal import row_bucket
    from jaxlmm.likelihood.prepared import lean
except ImportError:  # an older version

    def lean(prepared):
        return prepared

    def row_bucket(size):
        return size


def trial(rng):
    """Columns of a trial of random size: subjects at visits, in centres, seen by raters, some rows missing."""
    subjects, visits = int(rng.integers(24, 200)), int(rng.integers(3, 9))
    n = subjects * visits
    keep = np.sort(rng.permutation(n)[: int(0.95 * n)])
    subject = np.repeat(np.arange(subjects), visits)
    columns = {
        "g": subject,
        "k": subject % int(rng.integers(3, 12)),
        "h": rng.integers(0, int(rng.integers(4, 30)), n),
        "v": np.tile(np.arange(visits), subjects),
        "x": rng.normal(size=n),
        "y": rng.normal(size=n),
    }
    return {name: column[keep] for name, column in columns.items()}


MODELS = {
    "(1|g)": ("y ~ x + (1|g)", {}),
    "(x|g)": ("y ~ x + (x|g)", {}),
    "(1|g) + (1|h)": ("y ~ x + (1|g) + (1|h)", {}),
    "(1|k/g)": ("y ~ x + (1|k/g)", {}),
    "residual us(v|g)": ("y ~ x", {"residual": "us(v|g)"}),
    "residual ar1(v|g)": ("y ~ x", {"residual": "ar1(v|g)"}),
    "cs(v|g), (1|k)": ("y ~ x + (1|k)", {"residual": "cs(v|g)"}),
}


def shapes(tree):
    leaves, structure = jax.tree_util.tree_flatten(tree)
    return structure, tuple((np.shape(leaf), np.asarray(leaf).dtype.str) for leaf in leaves)


def programs(model, counted):
    """Keys of the programs of a fit with its tests, and of what is computed by rows."""
    spec, compact = Spec.of(model, "REML"), prepare(model, orthogonal=True)
    compact = lean(compact)
    rows = prepare(model, compact=False, orthogonal=True)
    counted["fit"].add((spec, shapes(compact)))
    counted["tests"].add((spec.absolute, shapes(compact)))
    n = row_bucket(len(model.y)) if model.engine in ("grouped", "crossed", "marginal") else len(model.y)
    counted["effects"].add((spec, shapes(rows)))
    counted["rows"].add((spec, shapes(rows), n))


def main(trials=200):
    jax.config.update("jax_enable_x64", True)
    print(f"| {trials} trials of random sizes | fit | tests | effects | rows |\n|---|---|---|---|---|")
    total = np.zeros(4, int)
    for label, (formula, options) in MODELS.items():
        rng, counted = np.random.default_rng(1), {name: set() for name in ("fit", "tests", "effects", "rows")}
        for _ in range(trials):
            programs(model_of(formula, trial(rng), **options)[1], counted)
        counts = np.array([len(found) for found in counted.values()])
        total += counts
        print(f"| {label} | " + " | ".join(map(str, counts)) + " |", flush=True)
    print("| all | " + " | ".join(map(str, total)) + " |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
