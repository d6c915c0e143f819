"""Run the code cells of notebooks, each notebook in one namespace in a fresh process: `python .ci/notebooks.py FILES`.

What a cell prints, or its last expression displays, is only shown when a cell fails or with `-v`.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

TIMEOUT = 600  # seconds a notebook


def run_cells(path: Path) -> None:
    """Run all code cells in this process; say which one fails."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, source in enumerate(("".join(c["source"]) for c in cells if c["cell_type"] == "code"), 1):
        try:
            _run(source, f"{path.name}, code cell {number}", namespace)
        except BaseException:
            traceback.print_exc()
            sys.exit(f"{path}: code cell {number} failed:\n\n{source}")


def _run(source: str, name: str, namespace: dict[str, object]) -> None:
    """Run a cell and display its last expression, as a notebook does."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), namespace)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
        if value is not None:
            print(repr(value))
            getattr(value, "_repr_html_", str)()


def main() -> None:
    """Run every notebook in a process of its own; the first failure ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("-v", "--verbose", action="store_true", help="show what cells print")
    parser.add_argument("--here", action="store_true", help="in this process")
    given = parser.parse_args()
    if given.here:
        return [run_cells(path) for path in given.files][0]
    for path in given.files:
        start = time.perf_counter()
        command = [sys.executable, __file__, "--here", str(path)]
        shown = None if given.verbose else subprocess.PIPE
        try:
            done = subprocess.run(
                command, timeout=TIMEOUT, stdout=shown, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
                env={**os.environ, "MPLBACKEND": "agg", "PYTHONIOENCODING": "utf-8"},
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            sys.exit(f"{error.stdout or ''}\n{path}: not done after {TIMEOUT} s")
        if done.returncode:
            sys.exit(f"{done.stdout or ''}\n{path}: failed")
        print(f"{path}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
