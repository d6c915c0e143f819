"""Notebooks are stored as they open; what is in them runs in .ci/run, by .ci/notebooks.py, which is tried here."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxlmm
from jaxlmm.covariance import FUNCTIONS, NAMES

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[str]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    for source in cells(path, "code"):
        ast.parse(source)


def test_links_of_contents_lead_to_headings():
    text = "\n".join(cells(ROOT / "notebooks" / "structures.ipynb", "markdown"))
    headings = {line.lstrip("# ").replace(" ", "-") for line in text.splitlines() if line.startswith("#")}
    assert set(re.findall(r"\]\(#(.*?)\)", text)) <= headings


def test_the_shelf_has_every_structure():
    shelf = cells(ROOT / "notebooks" / "structures.ipynb", "markdown")[-1]
    rows = [line.split("|")[1:3] for line in shelf.splitlines() if line.startswith("| `")]
    shown = {name: kind.strip(" `") for names, kind in rows for name in re.findall(r"`(\w+)`", names)}
    assert shown == {name: kind.__name__ for name, kind in NAMES.items()}
    assert all(hasattr(jaxlmm, kind) for kind in shown.values())
    assert all(f'"{name}(' in shelf for name in FUNCTIONS)


@pytest.mark.parametrize("last", ["print('two'); 1 / 0", "x = = 1", "raise SystemExit(0)"])
def test_the_cell_that_fails_is_named(tmp_path, last):
    sources = ["x = 1", last, "never"]
    path = tmp_path / "some.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": [source]} for source in sources]}))
    command = [sys.executable, str(ROOT / ".ci" / "notebooks.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.endswith(": 1 2")
    assert done.stderr.endswith("code cell 2 failed\n") and last in done.stderr
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["x = 1\n", "x"]}]}))
    assert subprocess.run(command, capture_output=True).returncode == 0
