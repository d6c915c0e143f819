"""Pages as they are stored, and what the site is made of; `notebooks/refresh.py --check` runs what is in them."""

from __future__ import annotations

import ast
import base64
import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import jaxlmm
from jaxlmm.covariance import FUNCTIONS, NAMES
from printed import differences

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PROSE = sorted(FOLDER.glob("*.md"))
# what differs between machines and runs: paths, addresses in memory, times, versions of what ran it
OF_A_MACHINE = re.compile(r"/home/|/root/|/tmp/|/usr/|site-packages|\bat 0x[0-9a-f]{6}|ipykernel|[\d.]+ s\b|Traceback")
REFERENCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((FOLDER / "reference").glob("*.rst")))


def cells(path: Path, kind: str) -> list[str]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def prose(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.suffix == ".md" else "\n".join(cells(path, "markdown"))


def anchors(path: Path) -> set[str]:
    return {pages.anchor(line.lstrip("# ")) for line in prose(path).splitlines() if line.startswith("#")}


spec = importlib.util.spec_from_file_location("pages", FOLDER / "pages.py")
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_with_their_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and notebook["nbformat_minor"] >= 5
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(notebook["metadata"]["language_info"]) == {"name"}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", name) for name in ids)
    assert all(cell["cell_type"] in ("markdown", "code") and cell["source"] for cell in notebook["cells"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert len(outputs) > len(code) / 2
    for output in outputs:
        assert output["output_type"] in ("stream", "display_data", "execute_result")
        assert output.get("name") != "stderr", output
        texts = {"text": output["text"]} if "text" in output else output["data"]
        for kind, lines in texts.items():
            assert kind in ("text", "text/plain", "text/html", "image/png")
            text = "".join(lines)
            assert len(text) < 80_000  # a picture of 60 kB
            if kind == "image/png":
                assert base64.b64decode(text).startswith(b"\x89PNG")
            else:
                assert not OF_A_MACHINE.search(text), text
    for source in cells(path, "code"):
        ast.parse(source)
    assert cells(path, "markdown")[0].startswith("# ")


def test_a_text_that_is_out_of_date_is_found():
    stored = "Days  10.467 +- 1.546, p = 3.26e-06\n"
    assert not differences("Days 10.4671 +- 1.547, p = 3.2600e-06", stored)  # a digit, and layout, of another machine
    assert differences("Days  10.567 +- 1.546, p = 3.26e-06", stored) == ["10.467 is stored, 10.567 printed"]
    assert differences("Day   10.467 +- 1.546, p = 3.26e-06", stored) and differences("Days 10.467", stored)
    assert not differences("Days  99 +- 1, p = 0", stored, numbers_vary=True)
    assert differences("Days  99 +- nan, p = 0", stored, numbers_vary=True)


def test_stored_notebooks_are_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 1_500_000


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PROSE], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", prose(path)):
        page = path if not file else path.parent / file
        assert page.is_file(), file
        assert not anchor or anchor in anchors(page), anchor


# Runs the cells of the notebook argv[1] where, beside Python itself, only jaxlmm with the extras argv[2] is there.
IN_ITS_ENVIRONMENT = """
import json, re, sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import matplotlib

matplotlib.use("agg")
wanted, waiting = set(), [("jaxlmm", extra) for extra in ("", *sys.argv[2].split(","))]
while waiting:
    name, extra = waiting.pop()
    if (name, extra) not in wanted:
        wanted.add((name, extra))
        try:
            needs = requires(name) or []
        except PackageNotFoundError:
            continue
        for need in needs:
            if ("extra ==" in need) <= (bool(extra) and re.search(rf"extra == .{extra}\\b", need) is not None):
                waiting.append((re.match(r"[\\w.-]+", need)[0].lower().replace("_", "-"), ""))
allowed = {name for name, _ in wanted}
missing = {module for module, names in packages_distributions().items()
           if not allowed & {name.lower().replace("_", "-") for name in names}}


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Refuse())
namespace = {}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), namespace)
print("refused:", len(missing))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first_fit", "predictions"])
def test_a_page_needs_what_its_first_lines_say(name):
    path = FOLDER / f"{name}.ipynb"
    extras = re.search(r"pip install -e '\.\[([\w,]+)\]'", cells(path, "markdown")[0])[1]
    command = [sys.executable, "-c", IN_ITS_ENVIRONMENT, str(path), extras]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=FOLDER)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.rsplit("refused:", 1)[1]) > 20


def test_the_site_has_every_page():
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    listed = [name for block in re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL)
              for name in block.split() if not name.startswith(":")]  # fmt: skip
    assert {path.stem for path in [*NOTEBOOKS, *PROSE]} - {"index"} <= set(listed)
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
    assert all(hasattr(jaxlmm.covariance, kind) for kind in shown.values())
    assert all(f'"{name}(' in shelf for name in FUNCTIONS)
