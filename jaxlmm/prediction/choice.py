"""Which random parts a prediction has: all, none, or some by their text or grouping factor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arguments import nearest
from ..covariance import NAMES
from ..errors import DataError, FormulaError
from ..estimates.fitted import FitBase
from ..formula.parser import parse
from ..formula.specs import field_of

Random = bool | str | Sequence[str]


def parts_of(fit: FitBase, random: Random) -> tuple[bool, ...]:
    """Whether each random part of a fit is wanted.

    Raises
    ------
    DataError
        For what is neither True nor False nor names terms of the fit.
    """
    own = fit.frame.parts
    if isinstance(random, (bool, np.bool_)):
        return (bool(random),) * len(own)
    names = [random] if isinstance(random, str) else random
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise DataError(f"random: found {random!r}, expected True, False, or terms such as '(1 | item)' or 'item'")
    found = [False] * len(own)
    for name in names:
        wanted = [_matches(part, _plain(name)) for part in own]
        if not any(wanted):
            texts = _canonical(fit, name)
            wanted = [any(_matches(part, text) for text in texts) for part in own]
            if not texts or not all(any(_matches(part, text) for part in own) for text in texts):
                known = list(dict.fromkeys(text for part in own for text in (part.text, part.group_label)))
                raise DataError(
                    f"random: found {name!r}, expected True, False, or terms of the fit; {nearest(name, known)}"
                )
        found = [a or b for a, b in zip(found, wanted, strict=True)]
    return tuple(found)


def _matches(part: Any, text: str) -> bool:
    own = _plain(part.text)
    return text in (own, own.split("[")[0]) or sorted(text.split(":")) == sorted(part.group_label.split(":"))


def _plain(text: str) -> str:
    return "".join(text.split())


def _canonical(fit: FitBase, text: str) -> list[str]:
    """Terms that a text such as ``(x | a/b)`` stands for, as the parts of the fit have theirs."""
    formula = fit.frame.formula
    try:
        known = {**NAMES, **(fit.call.structures or {})}
        bars = parse(f"{formula.response} ~ {text.lstrip('~ ')}", known, fit.frame.used).bars
    except FormulaError:
        return []
    fields = [field_of(bar, known, text) for bar in bars]
    effects = [f"{bar.structure or ''}({bar.lhs} | {bar.group_label})" for bar in bars]
    return [_plain(effect if own is None else own.text) for effect, own in zip(effects, fields, strict=True)]
