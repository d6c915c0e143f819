"""Fits that several tests of linear hypotheses share: recorded cases, and FEV1 with random intercepts."""

from __future__ import annotations

import functools

import pandas as pd

import jaxlmm
from cases import REFERENCES, load_case, load_data


@functools.cache
def fitted(name):
    """(recorded case, fit), fitted once a process."""
    case = load_case(name)
    s = case["structure"]
    residual = f"{s['residual']}({s['time']} | {s['within']})" if s else None
    data = load_data(case)
    return case, jaxlmm.lmm(case["formula"], data, method=case["method"], weights=case["weights"], residual=residual)


def fev_data():
    """Rows with a response, and columns for offsets, weights and numbers with two values."""
    data = pd.read_csv(REFERENCES / "data" / "fev_data.csv")
    number = {name: i + 1 for i, name in enumerate(sorted(data["USUBJID"].unique()))}
    data = data.dropna(subset=["FEV1"])
    return data.assign(
        male=(data["SEX"] == "Male").astype(int),
        w=1 + data["USUBJID"].map(number) % 3,
        o=data["FEV1_BL"] / 10,
    )


@functools.cache
def fev(formula="RACE + SEX + ARMCD * AVISIT + FEV1_BL", weights=None, empty=False):
    """FEV1 with a random intercept; `empty` leaves out the cell of RACE White at VIS4."""
    data = fev_data()
    if empty:
        data = data[~((data["RACE"] == "White") & (data["AVISIT"] == "VIS4"))]
    return jaxlmm.lmm(f"FEV1 ~ {formula} + (1 | USUBJID)", data, weights=weights)
