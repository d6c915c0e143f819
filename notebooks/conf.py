"""Configuration of the documentation site: the notebooks, executed, and the reference, from the docstrings.

`python -m sphinx -T -W -j 2 notebooks notebooks/build/site` builds it, warnings being errors, two notebooks at a time;
`-D nb_execution_mode=off` leaves the notebooks as they are stored.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import jaxlmm

sys.path.insert(0, str(Path(__file__).parent))
from pages import spread

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what XLA says of the machine is no part of a page
# Pages share compiled code, in a first build what they have in common, in later ones all of it.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent / "build" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

project = "jaxlmm"
author = "the jaxlmm developers"
version = release = jaxlmm.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "numpydoc"]
exclude_patterns = ["build", "**.ipynb_checkpoints"]
html_theme = "furo"
html_title = "jaxlmm"
html_copy_source = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]

# Notebooks: executed afresh, and one that fails, or takes too long, ends the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 300
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
myst_heading_slug_func = "pages.anchor"

# Reference: a name between single backticks is a link where there is such a name.
default_role = "py:obj"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # shapes and meanings are in the docstrings
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
autosummary_generate = False  # numpydoc brings the extension along
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = spread(lines)


def setup(app: Any) -> None:
    """Put `spread` before numpydoc."""
    app.connect("autodoc-process-docstring", _process, priority=100)
