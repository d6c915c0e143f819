"""The package as a whole: what importing it costs and changes, and which module may know which."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import jaxlmm

PACKAGE = Path(jaxlmm.__file__).parent
ROOT = Path(__file__).parents[1]

# Imports point up this list only: a module uses those above it. Names on one line are listed in the
# order in which they may use each other. Folders count as one module.
LAYERS = """
errors doors distributions tolerances
precision sizes
cache programs
levels factors readers
columns alignment owned relationship files draws tables
linalg
parameters
covariance
saving
design
engines
confounding
criterion
optimize
model
objective boundary
stochastic
fitting rowparts traceable responses stacking lanes chunks plotting batching
effects
simulate
bootstrap
expressions terms reading structured formula sides grouping
trial trees placing variances specs fields frame
components blups inference prediction results
interface
loading
study
datasets
testing
__init__
__main__
""".split()

HEAVY = (
    "pandas",
    "polars",
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
def test_import_changes_no_setting_and_starts_no_backend():
    # once a backend has started, jax refuses to change the number of its devices
    changed = fresh_process(
        "import jax\n"
        "before = dict(jax.config.values)\n"
        "import jaxlmm\n"
        "print(jax.config.jax_enable_x64, [k for k, v in jax.config.values.items() if before.get(k) != v])\n"
        "jax.config.update('jax_num_cpu_devices', 3)\n"
        "assert len(jax.devices('cpu')) == 3\n"
    )
    assert changed == "False []"


@pytest.mark.smoke
@pytest.mark.parametrize("module", ["jaxlmm", "jaxlmm.datasets"])
def test_import_is_light(module):
    loaded = fresh_process(f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert loaded == "[]"


def layer(path: Path) -> str:
    """The entry of LAYERS that a file of the package belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_layers(path: Path) -> set[str]:
    """Entries of LAYERS that a file imports, wherever in the file the import stands."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    package = parts[:-1]  # of "a/b/c.py" and of "a/b/__init__.py" alike: a.b
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            targets = [(*base, alias.name) for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "jaxlmm":
                name = target[1] if len(target) > 1 else "__init__"
                inside = (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()
                found.add(name if inside else "__init__")
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_up_the_list(path):
    own = layer(path)
    assert own in LAYERS, f"{own} is new: give it its place in the list of layers"
    below = {name for name in imported_layers(path) - {own} if LAYERS.index(name) > LAYERS.index(own)}
    assert not below, f"{own} may not know {sorted(below)}"


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


@pytest.mark.parametrize("extra", ["formula", "test"])
def test_the_readme_has_the_command_that_ci_runs(extra):
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith(f"pip install -e '.[{extra}]' && ") for line in lines) == 1
