"""The file: a zip archive of plain arrays (.npy) and a JSON header; equal content gives equal bytes."""

from __future__ import annotations

import io
import json
import os
import zipfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError

NAME, FORMAT = "jaxlmm", 1
HEADER, TEMPORARY = "header.json", ".tmp-"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every entry, so that bytes depend on the content alone


class Archive(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    kind : "fit" or "batch";  content : as JSON has it, with names of arrays
    arrays : by name
    """

    kind: str
    content: Any
    arrays: dict[str, np.ndarray]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is there completely or not at all, also after a crash of the machine."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write(path: Any, archive: Archive) -> None:
    """Write an archive, see `write_atomically`."""
    header = {"name": NAME, "format": FORMAT, "version": version(NAME)}
    header |= {"kind": archive.kind, "content": archive.content}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        file.writestr(zipfile.ZipInfo(HEADER, EPOCH), json.dumps(header, allow_nan=False, indent=1))
        for name, array in archive.arrays.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy", EPOCH), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    write_atomically(Path(path), buffer.getvalue())


def read(path: Any) -> Archive:
    """Read an archive.

    Raises
    ------
    DataError
        For another file, a damaged one, and one of a later format.
    OSError
        Where there is no file, or it cannot be opened.
    """
    content = Path(path).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            header = json.loads(file.read(HEADER))
            known = isinstance(header, dict) and header.get("name") == NAME
            if known and header["format"] == FORMAT:
                names = [name.removesuffix(".npy") for name in file.namelist() if name != HEADER]
                arrays = {name: _array(file.read(f"{name}.npy")) for name in names}
                return Archive(header["kind"], header["content"], arrays)
    except KeyError as error:
        found = "it has no header" if HEADER in str(error) else f"{error} is missing"
        raise DataError(f"{path}: expected a file written by fit.save(), found another zip archive: {found}") from None
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"{path}: expected a file written by fit.save(), found none or a damaged one: {error}"
        ) from None
    if not known:
        raise DataError(f"{path}: expected a file written by fit.save(), found another zip archive")
    raise DataError(
        f"{path}: has format {header['format']!r}, written by jaxlmm {header.get('version')}; this is jaxlmm "
        f"{version(NAME)}, which reads format {FORMAT}: install a version that is as new"
    )


def _array(content: bytes) -> np.ndarray:
    """An array that is read without any pickle."""
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
