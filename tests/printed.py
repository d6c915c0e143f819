"""Printed text compared with what a page says it is: the same words, and numbers as near as machines are.

Needs nothing but Python: `notebooks/refresh.py` uses it where pytest is not installed.
"""

from __future__ import annotations

import math
import re

NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?")


def words(text: str) -> list[str]:
    return NUMBER.sub("#", text).split()


def numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text)]


def differences(now: str, before: str, numbers_vary: bool = False) -> list[str]:
    """Sentences about what is no longer as it was, none when the texts say the same.

    Layout does not count. Numbers may differ by 2e-3 of themselves: the last printed digit is that of a machine.
    """
    if words(now) != words(before):
        return [f"stored is\n{before.rstrip()}\nprinted is\n{now.rstrip()}"]
    if numbers_vary:
        return []
    pairs = zip(numbers(before), numbers(now), strict=True)
    return [f"{a:g} is stored, {b:g} printed" for a, b in pairs if not math.isclose(a, b, rel_tol=2e-3, abs_tol=1e-6)]
