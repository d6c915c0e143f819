"""Which other software is on this machine. Nothing is installed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

from _common import process

PYTHON = ("mixedlm", "statsmodels", "glmm", "mcpower")
R = ("lme4", "nlme", "glmmTMB", "mmrm", "lmerTest")
OURS = ("jax", "jaxlib", "numpy", "pandas")

Versions = dict[str, str | None]


def distributions(names: Sequence[str]) -> Versions:
    """Versions of Python distributions; None where one is missing."""
    found: Versions = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def r_packages(names: Sequence[str]) -> Versions:
    """Versions of R and of packages of it, as `Rscript` on the PATH finds them; None where one is missing."""
    quoted = ", ".join(f"'{name}'" for name in names)
    code = (
        f"cat('R', format(getRversion()), '\\n'); for (name in c({quoted})) "
        "if (requireNamespace(name, quietly=TRUE)) cat(name, format(packageVersion(name)), '\\n')"
    )
    try:
        words = [line.split() for line in process(["Rscript", "-e", code], {}, limit=120.0).splitlines()]
    except RuntimeError:  # no Rscript, or one that does not run
        words = []
    installed = {line[0]: line[1] for line in words if len(line) == 2}
    return {name: installed.get(name) for name in ("R", *names)}


def find_peers() -> Versions:
    """All systems that this benchmark knows beside jaxlmm, with their versions; None where one is missing."""
    return distributions(PYTHON) | r_packages(R)


def versions_line(peers: Versions) -> str:
    """What was found, and what was not."""
    there = [f"{name} {version}" for name, version in (distributions(OURS) | peers).items() if version]
    missing = [name for name, version in peers.items() if not version]
    return ", ".join(there) + (f"; not found: {', '.join(missing)}" if missing else "")
