"""Whether the reference numbers come out again: runs the R scripts here and compares with the tests.

    python experiments/references/check.py numbers [anova,emmeans,... [FOLDER]]    numbers typed in tests
    python experiments/references/check.py cases FOLDER                            cases that cases_*.R wrote to FOLDER

With a FOLDER of files anova.txt, ... with what the scripts printed, R is not run again.

For `numbers` every decimal number of six digits or more in the test is looked for in what the script prints; those that
are not found are listed, with the nearest one: tolerances of tests, numbers of other origin, or something to look into.
"""

from __future__ import annotations

import ast
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
TESTS = HERE.parents[1] / "tests"
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[-+]?\d+)?")
DIGITS = 6
# Relative tolerances of quantities that R gives with fewer digits: Monte Carlo, interpolation, optimisers that stop
ROUGH = {
    "rlrt": 1e-2, "multiplicity": 1e-3, "profile": 1e-3, "emmeans": 1e-5, "insteval": 2e-5, "dictionary": 5e-5,
    "effect_sizes": 1e-5, "meta": 2e-5,
}  # fmt: skip


def typed(test: Path) -> Iterator[tuple[int, str, float]]:
    """Line, text and value of the decimal numbers with many digits in a test."""
    text = test.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            written = ast.get_source_segment(text, node) or ""
            digits = re.sub(r"e.*|[.]|^0[.]?0*", "", written).lstrip("0")
            if len(digits) >= DIGITS:
                yield node.lineno, written, node.value


def numbers(name: str, folder: Path | None = None) -> list[str]:
    """Lines for the numbers of a test that its script does not print, or did not print to a file of `folder`."""
    if folder is None:
        done = subprocess.run(["Rscript", str(HERE / "numbers" / f"{name}.R")], capture_output=True, text=True)
        if done.returncode:
            return [f"{name}: failed: {done.stderr.strip().splitlines()[-1]}"]
        output = done.stdout
    else:
        output = (folder / f"{name}.txt").read_text(encoding="utf-8")
    printed = np.array([abs(float(word)) for word in NUMBER.findall(output)])
    wanted, missing = list(typed(next(TESTS.rglob(f"test_{name}.py")))), []
    for line, written, value in wanted:
        nearest = printed[np.argmin(abs(printed - value))]
        digits = len(written.partition(".")[2].partition("e")[0])
        rounding = 0.5 * 10.0 ** (-digits) * (10.0 ** float(written.partition("e")[2] or 0))
        tolerance = max(ROUGH.get(name, 2e-6) * abs(value), 1.01 * rounding)
        if abs(nearest - value) > tolerance:
            missing.append(f"  line {line}: {written}, nearest {nearest:.12g}")
    return [f"{name}: {len(wanted) - len(missing)} of {len(wanted)} numbers come out again", *missing]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a case, with where they are."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, f"{path}/{key}")
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from leaves(part, f"{path}/{i}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, float(value)


LEFT_OUT = ("crosschecks", "tolerance_note", "mmrm_theta", "resid_head", "L")


def case(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Largest difference of two versions of a case, relative to the number or, near zero, to its list."""
    before = dict(leaves({k: v for k, v in old.items() if k not in LEFT_OUT}))
    after = dict(leaves({k: v for k, v in new.items() if k not in LEFT_OUT}))
    worst, where = 0.0, ""
    scales: dict[str, float] = {}
    for path, value in before.items():
        parent = path.rpartition("/")[0]
        scales[parent] = max(scales.get(parent, 0.0), abs(value))
    for path, value in before.items():
        scale = max(abs(value), 1e-3 * scales[path.rpartition("/")[0]], 1e-300)
        apart = abs(after.get(path, math.nan) - value) / scale
        if not apart <= worst:
            worst, where = apart, path
        if math.isnan(worst):
            break
    return f"{old['name']}: largest relative difference {worst:.0e} at {where or 'none'}"


def cases(folder: Path) -> list[str]:
    found = []
    for path in sorted((TESTS / "references" / "cases").glob("*.json")):
        again = folder / "cases" / path.name
        if not again.exists():
            found.append(f"{path.stem}: not made again")
        else:
            found.append(case(*(json.loads(p.read_text(encoding="utf-8")) for p in (path, again))))
    return found


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[1] == "cases":
        lines = cases(Path(sys.argv[2]))
    elif len(sys.argv) > 1 and sys.argv[1] == "numbers":
        every = sorted(p.stem for p in (HERE / "numbers").glob("*.R") if p.stem not in ("common", "formula"))
        names = sys.argv[2].split(",") if len(sys.argv) > 2 else every
        folder = Path(sys.argv[3]) if len(sys.argv) > 3 else None
        lines = [line for name in names for line in numbers(name, folder)]
    else:
        raise SystemExit(__doc__)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
