"""Run the code cells of notebooks, each notebook in a fresh process: `python .ci/notebooks.py notebooks/*.ipynb`.

Numbers of cells are printed as they start, so that the last one is the culprit of a failure or of a timeout; what
cells print is shown for a cell that fails, and with `-v`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

TIMEOUT = 600  # seconds a notebook


def run_cells(path: Path, verbose: bool) -> None:
    """Run all code cells in one namespace; the first that fails ends the process."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    namespace: dict[str, object] = {"__name__": "__main__"}
    start = time.perf_counter()
    print(f"{path}:", end="", flush=True)
    for number, source in enumerate(("".join(c["source"]) for c in cells if c["cell_type"] == "code"), 1):
        print(f" {number}", end="\n" if verbose else "", flush=True)
        printed = io.StringIO()
        try:
            with contextlib.nullcontext() if verbose else contextlib.redirect_stdout(printed):
                run_cell(source, f"<code cell {number}>", namespace)
        except (Exception, SystemExit):
            sys.exit(f"\n{source}\n\n{printed.getvalue()}{traceback.format_exc()}\n{path}: code cell {number} failed")
    print(f", {time.perf_counter() - start:.0f} s")


def run_cell(source: str, name: str, namespace: dict[str, object]) -> None:
    """Run a cell and show the value of its last expression, as text and as HTML, as a notebook does."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), namespace)
    if last is None:
        return
    value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
    if value is not None:
        print(repr(value))
        getattr(value, "_repr_html_", str)()


def main() -> None:
    """Run every notebook in a process of its own; the first failure ends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("-v", "--verbose", action="store_true", help="show what cells print")
    parser.add_argument("--here", action="store_true", help="one notebook, in this process")
    given = parser.parse_args()
    if given.here:
        run_cells(given.files[0], given.verbose)
        return
    for path in given.files:
        command = [sys.executable, __file__, "--here", str(path), *(["-v"] if given.verbose else [])]
        try:
            done = subprocess.run(command, timeout=TIMEOUT, env={**os.environ, "MPLBACKEND": "agg"})
        except subprocess.TimeoutExpired:
            sys.exit(f"\n{path}: not done after {TIMEOUT} s")
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
