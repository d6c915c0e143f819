"""Every recorded fit beside jaxlmm's: what was fitted, where the numbers are from, how close they are.

    python experiments/reproductions/index.py [--write]

It fits all cases of tests/references/cases; `--write` puts the table in experiments/results/references.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

import jaxlmm

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results" / "references.md"
for folder in (ROOT / "experiments" / "benchmarks", ROOT / "tests"):
    sys.path.append(str(folder))

from _common import note, table  # noqa: E402

from cases import case_names, load_case, load_data  # noqa: E402

INTRODUCTION = """# Recorded fits, made again

Every case of [tests/references](../../tests/references/README.md), fitted by `jaxlmm.lmm` with its default options.

- "loglik": difference of the log-likelihoods. "coefficients": the largest difference in standard errors. "SE": the
  largest relative difference. "covariances": the largest difference of a covariance parameter (standard deviation,
  correlation, or residual covariance) relative to the largest of its kind. "Satterthwaite", "Kenward-Roger": the
  largest relative difference of the degrees of freedom of coefficients; Kenward-Roger beside pbkrtest with expected
  information, beside mmrm of the first order with observed information. Empty: not recorded.
- At a variance of zero lmerTest's Satterthwaite leaves the variance out (here `boundary_df="drop"`), pbkrtest's
  Kenward-Roger keeps it.

"""


def residual_of(case: dict[str, Any]) -> str | None:
    """The residual of a case, over the ranks of a time where the case says so."""
    s = case["structure"]
    if not s:
        return None
    time = "step" if s.get("time_is") else s["time"]
    return f"{s['residual']}({time} | {s['within']})"


def fitted(case: dict[str, Any]) -> Any:
    data, s = load_data(case), case["structure"]
    if s and s.get("time_is"):
        data["step"] = data.groupby(s["within"], observed=True)[s["time"]].rank().astype(int)
    return jaxlmm.lmm(
        case["formula"], data, method=case["method"], weights=case.get("weights"), residual=residual_of(case)
    )


def r_name(name: str) -> str:
    """R's spelling of a column: Machine[T.B] -> MachineB."""
    return re.sub(r"\[T\.|\[|\]", "", name)


def relative(found: Any, recorded: Any) -> float:
    return float(np.max(np.abs(np.divide(found, recorded) - 1.0)))


def apart(found: Any, recorded: Any) -> float:
    """Largest difference in units of the largest recorded one."""
    recorded = np.asarray(recorded, float)
    return float(np.max(np.abs(np.subtract(found, recorded))) / np.abs(recorded).max())


def covariances(case: dict[str, Any], fit: Any) -> float:
    """Largest difference of standard deviations, correlations and residual covariances."""
    theta, found = case["theta"], []
    ours = {(g.group, tuple(map(r_name, g.columns))): g for g in fit.varcorr().groups}
    sds = {(group, column): sd for (group, names), g in ours.items() for column, sd in zip(names, g.sd, strict=True)}
    for g in theta.get("groups", []):
        mine = [sds[g["group"], column] for column in g["columns"]]
        found.append(float(np.max(np.abs(np.subtract(mine, g["sd"])))) / max(*g["sd"], theta["sigma"]))
        together = ours.get((g["group"], tuple(g["columns"])))
        if len(g["sd"]) > 1 and together is not None:
            found.append(float(np.max(np.abs(np.subtract(together.corr, g["corr"])))))
    if "cov" in theta:
        found.append(apart(fit.varcorr().residual.cov, theta["cov"]))
    elif fit.sigma is not None:
        found.append(relative(fit.sigma, theta["sigma"]))
    if "rho" in theta and "groups" in theta:
        names, values = (fit.parameters()[column] for column in ("name", "estimate"))
        known = dict(zip(names, values, strict=True))
        found += [relative(known["correlation"], theta["rho"]), relative(known["variance"] ** 0.5, theta["sigma"])]
    return max(found)


def degrees(case: dict[str, Any], fit: Any) -> list[float | None]:
    """Largest relative differences of Satterthwaite's and Kenward and Roger's degrees of freedom."""
    out: list[float | None] = []
    eye = np.eye(len(fit.coef))
    mmrm = case["structure"] is not None
    kr = "kenward_roger_linear" if mmrm else "kenward_roger"
    boundary = {"boundary_df": "drop"} if case["singular"] else {}
    asked = (
        ("satterthwaite", dict(df="satterthwaite", **boundary)),
        (kr, dict(df="kenward-roger", information="observed" if mmrm else "expected")),
    )
    for key, options in asked:
        recorded = case.get(key)
        if not recorded:
            out.append(None)
            continue
        out.append(relative(fit.wald(**options).rows(eye).df, [row["df"] for row in recorded.values()]))
    return out


def row(name: str) -> list[str]:
    """What a case is, and how close the fit comes."""
    case = load_case(name)
    fit = fitted(case)
    if [r_name(c) for c in fit.coef_names] != list(case["fixef"]):
        raise SystemExit(f"{name}: columns {fit.coef_names}, recorded {list(case['fixef'])}")
    se = np.array(list(case["se"].values()))
    values = [
        abs(fit.loglik - case["loglik"]),
        float(np.max(np.abs(fit.coef - np.array(list(case["fixef"].values()))) / se)),
        relative(fit.se, se),
        covariances(case, fit),
        *degrees(case, fit),
    ]
    what = f"`{case['formula']}`" + (f", `{residual_of(case)}`" if residual_of(case) else "")
    if case.get("weights"):
        what += f", weights `{case['weights']}`"
    source = case["source"].partition(";")[0].removeprefix("R ").partition(" (")[0].partition(" with ")[0]
    cells = ["" if v is None else "0" if v == 0 else f"{v:.0e}" for v in values]
    return [name, what.replace("|", "&#124;"), case["method"], source, case["software"], *cells]


def section() -> str:
    """The table of all cases."""
    rows = []
    for name in case_names():
        note(name)
        rows.append(row(name))
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("jax", "jaxlib", "numpy"))
    header = ["case", "model", "", "data", "recorded with", "loglik", "coefficients", "SE", "covariances",
              "Satterthwaite", "Kenward-Roger"]  # fmt: skip
    where = f"{datetime.date.today()}, Python {platform.python_version()}, {versions}, jaxlmm {jaxlmm.__version__}."
    return f"{where}\n`python experiments/reproductions/index.py --write`\n\n{table(header, rows)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    text = INTRODUCTION + section()
    print(text)
    if options.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
