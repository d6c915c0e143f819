"""What the benchmarks share: processes, and a file of results with one section a version of Python."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LEFT_OUT = "left out"
HEADING = re.compile(r"^(?=## Python )", re.MULTILINE)


def environment(**more: str) -> dict[str, str]:
    """Of a process: no compile cache from outside; Python keeps byte code, as it does unless told otherwise."""
    left_out = ("JAX_COMPILATION", "PYTHONDONTWRITEBYTECODE")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT), kept.get("PYTHONPATH", "")]), **more}


class TooSlow(RuntimeError):
    """A process that did not end in time."""


def process(command: Sequence[str], more: dict[str, str], limit: float | None = None) -> str:
    """What a process prints; after `limit` seconds it is ended, with all that it started."""
    more = {"JAX_TRACEBACK_FILTERING": "off", **more}  # the last line of an error is the error
    try:
        started = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env=environment(**more),
        )  # fmt: skip
    except OSError as error:
        raise RuntimeError(str(error)) from error
    with started:
        try:
            printed, errors = started.communicate(timeout=limit)
        except BaseException as error:  # an interrupt too: nothing may be left running
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise TooSlow(f"> {limit:g} s") from None
    if started.returncode:
        raise RuntimeError(errors.strip() or f"exit status {started.returncode}")
    return printed


def one_thread() -> dict[str, str]:
    return {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def attempt(call: Callable[[], Any]) -> Any:
    """What the call returns, or why not: one table less is no reason to lose the others."""
    try:
        return call()
    except RuntimeError as error:
        return f"{LEFT_OUT}: {str(error).splitlines()[-1]}"


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def compilations(durations: Sequence[tuple[str, float]]) -> int:
    """Programs compiled, from what `jax.monitoring` reports."""
    return sum(event.endswith("backend_compile_duration") for event, _ in durations)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in markdown; all columns but the first are aligned to the right."""
    rule = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def target_row(text: str, value: float, limit: float, at_least: bool) -> list[str]:
    """What was asked for, what was found, and whether that is enough."""
    return [text, f"{value:.3g}", "yes" if (value >= limit if at_least else value <= limit) else "no"]


def cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def command(script: str, *places: str) -> str:
    """The command line without options that are `places`, paths on this machine."""
    kept, is_place = [], False
    for word in sys.argv[1:]:
        if is_place and not word.startswith("-"):
            is_place = False
            continue
        is_place = word in places
        if not is_place and not word.startswith(tuple(f"{place}=" for place in places)):
            kept.append(word)
    return shlex.join(["python", script, *kept])


def merged(introduction: str, old: str, new: str) -> str:
    """The file `old` with the section of the same minor version of Python replaced, newest Python first."""

    def minor(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.removeprefix("## Python ").split(",")[0].split(".")[:2])

    sections = {minor(text): text.strip() + "\n" for text in [*HEADING.split(old)[1:], new]}
    return introduction + "\n".join(sections[key] for key in sorted(sections, reverse=True))


def written(text: str, path: Path | None) -> None:
    """Print a page; write it to the file `path`, if there is one."""
    print(text)
    if path:
        path.write_text(text, encoding="utf-8")


def report(introduction: str, section: str, path: Path | None) -> None:
    """Print a section; write it to the file `path`, or bring that up to date, if there is one."""
    print(section)
    if path:
        path.parent.mkdir(exist_ok=True)
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        path.write_text(merged(introduction, old, section), encoding="utf-8")
