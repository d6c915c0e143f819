"""What cannot be held is refused by its size, in a sentence, before memory is asked for."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

SMALL = 2**28  # bytes that every machine has
MOST_DRAWS = 2**32  # the number of a draw is folded into its key as 32 bits


def check_memory(what: str, *shape: int, advice: str = "take fewer") -> None:
    """Refuse an array (*shape) of float64 that is larger than the memory there is.

    Raises
    ------
    DataError
        With its size, and that of the memory.
    """
    size = 8 * math.prod(int(length) for length in shape)
    if size > SMALL and size > (most := memory()):
        numbers = " x ".join(f"{length:,}" for length in shape)
        gib = 2**30
        raise DataError(
            f"{what}: {numbers} numbers are {size / gib:,.0f} GiB, this machine has {most / gib:,.0f}; {advice}"
        )


def check_count(name: str, value: Any) -> None:
    """Refuse what is not a non-negative integer."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 0:
        raise DataError(f"{name}: expected a non-negative integer, found {value!r}")


def check_draws(name: str, value: Any, each: int) -> None:
    """Refuse what is not a number of draws, and more draws of `each` numbers than can be held."""
    check_count(name, value)
    if value > MOST_DRAWS:
        raise DataError(f"{name}: found {value:,}, expected at most {MOST_DRAWS:,} draws")
    check_memory(name, value, max(each, 1))


def memory() -> float:
    """Bytes of the machine, or what the process is limited to."""
    found = [math.inf]
    with suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ImportError, ValueError, OSError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        found += [limit] if limit != resource.RLIM_INFINITY else []
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of a container, in both versions of Linux's groups
        with suppress(OSError, ValueError):
            found.append(int((Path("/sys/fs/cgroup") / name).read_text()))
    return float(min(found))
