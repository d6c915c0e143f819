"""Reference fits of other software: see references/README.md for what a case holds.

case = load_case("sleepstudy_reml")
case["loglik"], case["fixef"], case["formula"], ...      the recorded numbers
data = load_data(case)                                   pandas, factors categorical
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

REFERENCES = Path(__file__).parent / "references"


def some(values: Iterable[Any], *quick: Any) -> list[Any]:
    """All values for `parametrize`, those that are not in `quick` slow; a value may be a tuple of arguments."""
    values = list(values)
    assert set(quick) <= set(values), set(quick) - set(values)
    return [
        v if v in quick else pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.slow)
        for v in values
    ]


@cache
def case_names(plain: bool | None = None) -> tuple[str, ...]:
    """Names of all cases; of lme4-type models only (plain=True), or of all others (plain=False)."""
    names = tuple(sorted(path.stem for path in (REFERENCES / "cases").glob("*.json")))
    if plain is None:
        return names
    return tuple(name for name in names if (load_case(name)["structure"] is None) == plain)


@cache
def load_case(name: str) -> dict[str, Any]:
    """The recorded fit: what was fitted, and the numbers. Shared between callers: do not change it."""
    return json.loads((REFERENCES / "cases" / f"{name}.json").read_text(encoding="utf-8"))


def load_data(case: str | dict[str, Any]) -> pd.DataFrame:
    """A case's data with factors as categoricals in the recorded order of levels; a fresh copy."""
    case = load_case(case) if isinstance(case, str) else case
    factors = case["factors"]
    data = pd.read_csv(REFERENCES / case["data"], dtype=dict.fromkeys(factors, str))
    for column, levels in factors.items():
        data[column] = pd.Categorical(data[column], categories=levels)
    return data
