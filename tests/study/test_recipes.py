"""The recipes of the documentation run as they stand, with fewer data sets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

PAGE = Path(__file__).parents[2] / "notebooks" / "recipes.md"


@pytest.mark.slow
def test_recipes_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 9
    known: dict = {}
    for block in blocks:
        if "found = sample_size(" not in block:  # which needs as many data sets as it says
            exec(re.sub(r"(replicates|chunk)=\d+", r"\1=20", block), known)
    assert "effects differ" in capsys.readouterr().out
    assert set(known["result"].joint_power(known["pair"])) >= {"power", "mcse", "count"}
