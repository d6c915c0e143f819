"""One process fits models of ever new shapes: its memory and its memory maps stay bounded.

Scaled: ``python experiments/programs/many_fits.py`` does 5000 fits in an hour or more, nearly all of it compiling.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from jaxlmm.runtime.programs import memory_maps

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "programs" / "many_fits.py"
FITS = 300  # before programs were dropped 150 to 300 such fits ended the process


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not SCRIPT.is_file() or memory_maps() is None, reason="needs the repository and /proc")
def test_hundreds_of_fits_of_new_shapes_stay_bounded():
    done = subprocess.run([sys.executable, SCRIPT, str(FITS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
