"""The file: a zip archive of plain arrays (.npy) and a JSON header; equal content gives equal bytes."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import secrets
import zipfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError

NAME, FORMAT = "jaxlmm", 2
READ = (1, FORMAT)  # the formats that this version reads; those of 0.1 have other names for some estimates
HEADER, TEMPORARY = "header.json", ".tmp-"
LONGEST = 40  # characters of a name or a version that are taken over
SHOWN = 200  # of an error of another library
NUMBERS = "biufcMmUS"  # kinds of arrays that are no Python objects
EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every entry, so that bytes depend on the content alone


class Archive(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    kind : "fit" or "batch";  content : as JSON has it, with names of arrays
    arrays : by name
    sha256 : the digest that was written with it, None in files of development versions; see `digest_of`
    """

    kind: str
    content: Any
    arrays: dict[str, np.ndarray]
    sha256: Any = None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is there completely or not at all, also after a crash of the machine.

    Whoever else writes there at the same time, in a thread, a process or on another machine, has a temporary file of
    another name; the last one wins.
    """
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}-{path.name[-LONGEST:]}")
    try:
        with open(temporary, "xb") as file:  # a new file: no link is followed
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename == str(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def write(path: Any, archive: Archive) -> None:
    """Write an archive, see `write_atomically`."""
    header = {"name": NAME, "format": FORMAT, "version": version(NAME)}
    header |= {"kind": archive.kind, "content": archive.content}
    header["sha256"] = digest_of(archive)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        file.writestr(zipfile.ZipInfo(HEADER, EPOCH), json.dumps(header, allow_nan=False, indent=1))
        for name, array in archive.arrays.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy", EPOCH), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    write_atomically(Path(path), buffer.getvalue())


def digest_of(archive: Archive) -> str:
    """Digest of the content and the arrays; an archive that has been read and has another is not what was written."""
    total = hashlib.sha256(json.dumps([archive.kind, archive.content], sort_keys=True).encode())
    for name, array in sorted(archive.arrays.items()):
        total.update(f"\0{name} {array.dtype.str} {array.shape}\0".encode())
        total.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return total.hexdigest()


def read(path: Any) -> Archive:
    """Read an archive; nothing larger than the file is made of it.

    Raises
    ------
    DataError
        For another file, a damaged one, and one of a later format.
    OSError
        Where there is no file, or it cannot be opened.
    """
    with open(path, "rb") as opened:
        try:
            with zipfile.ZipFile(opened) as file:
                return _archive(file, os.fstat(opened.fileno()).st_size)
        except _Foreign as error:
            raise DataError(f"{path}: {error}") from None
        except Exception as error:  # zipfile, json and numpy raise whatever damaged bytes lead them to
            raise DataError(
                f"{path}: expected a file written by fit.save(), found none or a damaged one: {sentence(error)}"
            ) from None


def sentence(error: Exception) -> str:
    """What an error says, the beginning of its first line; libraries quote the bytes that they did not like."""
    return ((str(error).splitlines() or [""])[0] or type(error).__name__)[:SHOWN]


class _Foreign(Exception):
    """A zip archive that is not one of this version's."""


def _archive(file: zipfile.ZipFile, size: int) -> Archive:
    """What is in a zip archive of so many bytes."""
    entries = file.infolist()
    names = [entry.filename for entry in entries]
    if HEADER not in names:
        raise _Foreign("expected a file written by fit.save(), found another zip archive: it has no header")
    if len(set(names)) < len(names):
        raise ValueError("a name stands in it twice")
    # entries are written as they are; compressed ones, and those that overlap, could expand to any size
    if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > size:
        raise ValueError("its entries are larger than the file")
    header = json.loads(file.read(HEADER))
    if not isinstance(header, dict) or header.get("name") != NAME:
        raise _Foreign("expected a file written by fit.save(), found another zip archive")
    found = header["format"]
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise ValueError(f"its format is {found!r}")
    if found not in READ:
        raise _Foreign(
            f"has format {found}, written by jaxlmm {str(header.get('version'))[:LONGEST]}; this is jaxlmm "
            f"{version(NAME)}, which reads formats up to {FORMAT}: install a version that is as new"
        )
    arrays = {name.removesuffix(".npy"): _array(file.read(name)) for name in names if name != HEADER}
    return Archive(header["kind"], header["content"], arrays, header.get("sha256"))


def _array(content: bytes) -> np.ndarray:
    """An array that is read without any pickle, and only if it is as large as it says."""
    stream = io.BytesIO(content)
    major, _ = np.lib.format.read_magic(stream)
    header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}.get(major)
    if header is None:
        raise ValueError(f"an array has version {major}")
    shape, _, dtype = header(stream)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    size = math.prod(int(length) for length in shape)
    declared = size * dtype.itemsize
    if dtype.kind not in NUMBERS or min(shape, default=0) < 0 or declared != len(content) - stream.tell():
        raise ValueError(f"an array says that it has shape {shape} and type {dtype}, and is not of that size")
    if size and not dtype.itemsize:
        raise ValueError(f"an array has {size} entries of no size")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)
