"""Run the notebooks and store what they print and draw: `python notebooks/refresh.py`, or with names of some.

`--check` runs them as well, changes nothing, and fails where a stored text is no longer what comes out. Numbers may
differ as much as between two machines; in cells that are tagged `varies` (a sampler, whose path rounding decides) they
may differ at all. Pictures must be there. The site is made of the notebooks as they are stored, so that they run once.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "tests"))
from printed import differences

COLOURS = 64  # of a picture: enough for what matplotlib draws, at a third of the size
SIDE_BY_SIDE = 2
TIMEOUT = 300  # seconds of a cell
COLOUR_CODES = re.compile(r"\x1b\[[0-9;]*m")

# What XLA says of the machine is no part of a page; pages share compiled code, in later runs all of it.
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "JAX_COMPILATION_CACHE_DIR": str(FOLDER / "build" / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


async def executed(path: Path, free: asyncio.Semaphore) -> Any:
    """The notebook with new outputs and nothing else changed, or None when a cell failed."""
    notebook = nbformat.read(path, as_version=4)
    metadata = dict(notebook.metadata)
    where = {"metadata": {"path": str(path.parent)}}
    quiet = ["--log-level=ERROR"]
    async with free:
        start = time.monotonic()
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT,
            kernel_name="python3",
            resources=where,
            record_timing=False,
            extra_arguments=quiet,
        )
        try:
            await client.async_execute()
        except CellExecutionError as error:
            print(f"{path.name}:", COLOUR_CODES.sub("", str(error)), sep="\n", flush=True)
            return None
        print(f"{path.stem}: {time.monotonic() - start:.0f} s", flush=True)
    notebook.metadata = nbformat.from_dict(metadata)  # without the version of this Python
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [stored(output) for output in merged(cell.outputs)]
    return notebook


def merged(outputs: list[Any]) -> list[Any]:
    """Outputs with what was printed in pieces put together."""
    found: list[Any] = []
    for output in outputs:
        last = found[-1] if found else None
        if last is not None and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            found.append(output)
    return found


def stored(output: Any) -> Any:
    """An output as it is kept: without metadata, pictures with few colours."""
    if "data" in output:
        output.metadata = {}
        if "image/png" in output.data:
            output.data["image/png"] = small(output.data["image/png"])
    return output


def small(picture: str) -> str:
    """A PNG picture in base64 with a palette, at once smaller and as good to look at."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    with io.BytesIO() as file:
        image.quantize(COLOURS, dither=Image.Dither.NONE).save(file, format="png", optimize=True)
        return base64.b64encode(file.getvalue()).decode("ascii")


def texts(cell: Any) -> list[tuple[str, str]]:
    """(kind, text) of a cell's outputs, a picture being its kind only."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream":
            found.append((output.name, output.text))
        elif output.output_type == "error":
            found.append(("error", output.evalue))
        else:
            found += [(kind, text if kind.startswith("text/") else "") for kind, text in sorted(output.data.items())]
    return found


def outdated(now: Any, before: Any) -> list[str]:
    """What the stored outputs of a notebook say and its cells no longer do, a sentence each."""
    found = []
    for number, (new, old) in enumerate(zip(now.cells, before.cells, strict=True)):
        if new.cell_type != "code":
            continue
        there, here = texts(old), texts(new)
        if [kind for kind, _ in there] != [kind for kind, _ in here]:
            found.append(f"cell {number}: outputs {[k for k, _ in there]} are stored, {[k for k, _ in here]} come out")
            continue
        for (kind, stored_text), (_, text) in zip(there, here, strict=True):
            varies = "varies" in new.metadata.get("tags", [])
            found += [f"cell {number}, {kind}: {line}" for line in differences(text, stored_text, numbers_vary=varies)]
    return found


async def renewed(path: Path, check: bool, free: asyncio.Semaphore) -> bool:
    """Say whether a notebook runs and, where it is only checked, is what is stored; otherwise store it."""
    notebook = await executed(path, free)
    if notebook is None:
        return False
    if not check:
        nbformat.write(notebook, path)
        return True
    lines = outdated(notebook, nbformat.read(path, as_version=4))
    print(*(f"{path.name}, {line}\n" for line in lines), sep="", end="", flush=True)
    return not lines


async def main() -> int:
    """Refresh or check the notebooks that the command line names."""
    parser = argparse.ArgumentParser(description="Run the notebooks and store, or check, what comes out.")
    parser.add_argument("names", nargs="*", help="notebooks without .ipynb, all when there are none")
    parser.add_argument("--check", action="store_true", help="change nothing, fail where a stored text is out of date")
    arguments = parser.parse_args()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    paths = [FOLDER / f"{name}.ipynb" for name in arguments.names] or sorted(FOLDER.glob("*.ipynb"))
    free = asyncio.Semaphore(SIDE_BY_SIDE)
    done = await asyncio.gather(*(renewed(path, arguments.check, free) for path in paths))
    if arguments.check and not all(done):
        print("Stored outputs are out of date: run `python notebooks/refresh.py` and commit what it changes.")
    return int(not all(done))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
