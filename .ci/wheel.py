"""Check an installed wheel, from a folder without the source: `python .ci/wheel.py`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import jaxlmm

FORMULA = "Reaction ~ Days + (Days | Subject)"
LOGLIK = -871.8141  # of lme4


def main() -> None:
    """Where it is installed, what is in it, and that it fits, saves and loads."""
    package = Path(jaxlmm.__file__).parent
    assert package.parent.name == "site-packages", f"imported from {package}, not from an installed wheel"
    assert (package / "py.typed").is_file()
    assert jaxlmm.__version__ == version("jaxlmm")
    fit = jaxlmm.lmm(FORMULA, jaxlmm.datasets.load("sleepstudy"))
    assert abs(fit.loglik - LOGLIK) < 1e-4, fit.loglik
    with tempfile.TemporaryDirectory() as folder:
        fit.save(Path(folder) / "fit")
        assert str(jaxlmm.load(Path(folder) / "fit")) == str(fit)
    for arguments in (["--help"], ["--version"], ["datasets"]):
        subprocess.run([sys.executable, "-m", "jaxlmm", *arguments], check=True, stdout=subprocess.DEVNULL)
    print(f"jaxlmm {jaxlmm.__version__} in {package}: imported, fitted, saved and loaded")


if __name__ == "__main__":
    main()
