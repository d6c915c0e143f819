"""Notebooks as they are stored, and what the site is made of; what is in the notebooks runs when the site is built."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
from pathlib import Path
from textwrap import dedent

import pytest

import jaxlmm
from jaxlmm.covariance import FUNCTIONS, NAMES

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
REFERENCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((FOLDER / "reference").glob("*.rst")))


def cells(path: Path, kind: str) -> list[str]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def anchors(path: Path) -> set[str]:
    lines = "\n".join(cells(path, "markdown")).splitlines()
    return {pages.anchor(line.lstrip("# ")) for line in lines if line.startswith("#")}


spec = importlib.util.spec_from_file_location("pages", FOLDER / "pages.py")
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and notebook["nbformat_minor"] >= 5
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", name) for name in ids)
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("markdown", "code") and cell["source"]
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    for source in cells(path, "code"):
        ast.parse(source)
    assert cells(path, "markdown")[0].startswith("# ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    text = "\n".join(cells(path, "markdown"))
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        page = path if not file else path.parent / file
        assert page.is_file(), file
        assert not anchor or anchor in anchors(page), anchor


def test_the_site_has_every_page():
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    listed = [name for block in re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL)
              for name in block.split() if not name.startswith(":")]  # fmt: skip
    assert {path.stem for path in NOTEBOOKS} <= set(listed)
    assert "reference/index" in listed
    inner = (FOLDER / "reference" / "index.rst").read_text(encoding="utf-8").split("   :maxdepth: 1")[1].split()
    assert sorted([*inner, "index"]) == sorted(path.stem for path in (FOLDER / "reference").glob("*.rst"))


def test_the_reference_has_every_public_name():
    documented = re.findall(r"^\.\. (?:auto|py:)\w+:: (\S+)", REFERENCE, re.MULTILINE)
    assert len(set(documented)) == len(documented)
    public = {f"jaxlmm.{name}" for name in jaxlmm.__all__} | {f"jaxlmm.study.{name}" for name in jaxlmm.study.__all__}
    assert public <= set(documented)
    for name in documented:
        found, rest = jaxlmm, name.split(".")[1:]
        for i, part in enumerate(rest):
            if not hasattr(found, part):
                importlib.import_module(".".join(["jaxlmm", *rest[: i + 1]]))
            found = getattr(found, part)


def test_parameters_of_docstrings_become_what_numpydoc_reads():
    found = pages.spread(
        dedent("""\
        A function.

        Parameters
        ----------
        n : replicates;  seed : of all;  kind : "a; b"
        data : frame
            Rows with missing values are dropped.
        names : a line that is so long that it had to be wrapped in the docstring because it would otherwise have been
            longer than the others

        Returns
        -------
        x : not touched;  y : either
        """).splitlines()
    )
    expected = """\
        n
            replicates
        seed
            of all
        kind
            "a; b"
        data : frame
            Rows with missing values are dropped.
        names
            a line that is so long that it had to be wrapped in the docstring because it would otherwise have been"""
    text = "\n".join(found)
    assert dedent(expected) + " longer than the others\n" in text + "\n"
    assert "\n\nReturns\n-------\nx : not touched;  y : either" in text


def test_the_shelf_has_every_structure():
    shelf = cells(FOLDER / "structures.ipynb", "markdown")[-1]
    rows = [line.split("|")[1:3] for line in shelf.splitlines() if line.startswith("| `")]
    shown = {name: kind.strip(" `") for names, kind in rows for name in re.findall(r"`(\w+)`", names)}
    assert shown == {name: kind.__name__ for name, kind in NAMES.items()}
    assert all(hasattr(jaxlmm, kind) for kind in shown.values())
    assert all(f'"{name}(' in shelf for name in FUNCTIONS)
