"""Configuration of the documentation site: the notebooks as they are stored, and the reference, from the docstrings.

`python -m sphinx -T -W -j 2 notebooks notebooks/build/site` builds it, warnings being errors. Whether what is stored is
what comes out is checked by `python notebooks/refresh.py --check`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jaxlmm

sys.path.insert(0, str(Path(__file__).parent))
from pages import beside, spread

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

nb_execution_mode = "off"
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


def _read(app: Any, name: str, source: list[str]) -> None:
    if Path(app.env.doc2path(name)).suffix == ".md":
        source[0] = beside(source[0])


def setup(app: Any) -> None:
    """Put `spread` before numpydoc and `beside` before MyST."""
    app.connect("autodoc-process-docstring", _process, priority=100)
    app.connect("source-read", _read)
