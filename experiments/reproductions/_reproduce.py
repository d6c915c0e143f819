"""What the reproductions share: the command line, and numbers with Monte Carlo errors in markdown."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jaxlmm
from jaxlmm.study import Results, Study, run

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from _common import cpu_model, note, table, written  # noqa: E402

__all__ = ["decimals", "main", "table", "written"]


def decimals(value: float, error: float | None = None, digits: int = 3) -> str:
    """A number, with its Monte Carlo standard error in brackets."""
    return f"{value:.{digits}f}" if error is None else f"{value:.{digits}f} ({error:.{digits + 1}f})"


def main(name: str, replicates: int, make: Callable[[int], Study], document: Callable[[Results, int], str]) -> None:
    """Run a study in a directory, or go on with it there, and write what came out."""
    parser = argparse.ArgumentParser(description=name)
    parser.add_argument("--replicates", type=int, default=replicates, help="data sets in each cell")
    parser.add_argument("--dir", type=Path, help="directory of the study; default a temporary one")
    parser.add_argument("--workers", type=int, help="processes; default one a core")
    parser.add_argument("--out", type=Path, help="markdown file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        start = time.perf_counter()
        results = run(make(options.replicates), options.dir or temporary, workers=options.workers, progress=True)
        note(f"{time.perf_counter() - start:.0f} s")
        versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("jax", "jaxlib", "numpy"))
        text = document(results, options.replicates).format(
            where=f"{datetime.date.today()}, {cpu_model()}, Python {platform.python_version()}, {versions}, "
            f"jaxlmm {jaxlmm.__version__}.",
            command=f"`python experiments/reproductions/{name}.py --replicates {options.replicates}`",
        )
    written(text, options.out)
