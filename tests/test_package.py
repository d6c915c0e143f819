"""The package as a whole: what importing it costs and changes, and which module may know which."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path

import pytest

import jaxlmm

PACKAGE = Path(jaxlmm.__file__).parent
ROOT = Path(__file__).parents[1]

# Rooms: the folders and modules at the top of the package. Imports point up this list only, and rooms of one line do
# not know each other.
ROOMS = [line.split() for line in """
errors tolerances
arguments distributions
runtime pytrees
linalg
frames
covariance
likelihood
fitting
formula
design
estimates
batch
simulation
inference
prediction
plotting saving
results
interface
loading
study datasets testing
__init__
__main__
""".split("\n") if line]  # fmt: skip
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}

HEAVY = (
    "pandas",
    "polars",
    "narwhals",
    "formulaic",
    "matplotlib",
    "scipy.stats",
    "scipy.special",
    "optax",
    "pyarrow",
    "distributed",
)


def fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.smoke
def test_import_is_light_changes_no_setting_and_starts_no_backend():
    # once a backend has started, jax refuses to change the number of its devices
    changed = fresh_process(
        "import sys, jax\n"
        "before = dict(jax.config.values)\n"
        "import jaxlmm.datasets\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])\n"
        "print(jax.config.jax_enable_x64, [k for k, v in jax.config.values.items() if before.get(k) != v])\n"
        "jax.config.update('jax_num_cpu_devices', 3)\n"
        "assert len(jax.devices('cpu')) == 3\n"
    )
    assert changed == "[]\nFalse []"


FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The entry of ROOMS that a file of the package belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def file_of(names: tuple[str, ...]) -> Path | None:
    """The file of a dotted name, if it is one of the package."""
    path = PACKAGE.parent.joinpath(*names)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file in FILES), None)


@functools.cache
def imported(path: Path) -> set[Path]:
    """Files of the package that a file imports, wherever in it the import stands, for type checkers too."""
    package = path.relative_to(PACKAGE.parent).parts[:-1]
    found: set[Path | None] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {file_of(tuple(alias.name.split("."))) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            found |= {file_of((*base, alias.name)) or file_of(base) for alias in node.names}
    return {file for file in found if file} - {path}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_up_the_list(path):
    own = room(path)
    assert own in FLOOR, f"{own} is new: give it its place in the list of rooms"
    below = {name for name in map(room, imported(path)) if name != own and FLOOR[name] >= FLOOR[own]}
    assert not below, f"{own} may not know {sorted(below)}"


def test_no_modules_import_each_other_in_a_circle():
    TopologicalSorter({path: imported(path) for path in FILES}).prepare()  # a CycleError names the circle


def test_the_top_of_the_package_can_be_taken_in_at_a_glance():
    rooms = [path for path in PACKAGE.iterdir() if list(path.glob("*.py"))]
    assert len(rooms) <= 16 and len(list(PACKAGE.glob("*.py"))) <= 12
    for path in FILES:
        first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
        assert first, f"{path.relative_to(PACKAGE)} does not say what it is for"


def test_a_class_name_stands_once():
    found: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name.lstrip("_"), []).append(str(path.relative_to(PACKAGE)))
    assert not {name: places for name, places in found.items() if len(places) > 1}


def test_no_module_bears_the_name_of_a_public_function():
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()
    }
    functions = {name for name in jaxlmm.__all__ if callable(getattr(jaxlmm, name))}
    assert not modules & functions


def test_everything_promised_is_there():
    for name in jaxlmm.__all__:
        assert getattr(jaxlmm, name) is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert jaxlmm.__version__ == project["version"] == version("jaxlmm")
    assert (PACKAGE / "py.typed").is_file()


def test_structures_are_found_where_they_were_for_one_version_more():
    assert len(jaxlmm.__all__) <= 55
    for name in ("Autoregressive", "Kronecker", "KnownMatrix"):
        with pytest.warns(DeprecationWarning, match=f"jaxlmm.covariance.{name}"):
            assert getattr(jaxlmm, name) is getattr(jaxlmm.covariance, name)
    with pytest.raises(AttributeError, match="Autoregresive"):
        _ = jaxlmm.Autoregresive


@pytest.mark.parametrize("extra", ["formula", "test"])
def test_the_readme_has_the_command_that_ci_runs(extra):
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith(f"pip install -e '.[{extra}]' && ") for line in lines) == 1
