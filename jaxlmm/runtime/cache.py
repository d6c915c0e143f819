"""An opt-in cache of compiled code on disk."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

import jax

from ..errors import JaxlmmError


def enable_compilation_cache(path: str | os.PathLike[str] | None = None) -> Path:
    """Keep compiled code on disk, so that the first fit of the next process starts faster.

    Call it before the first fit. Whoever can write to the directory can run code in your process, and so can whoever
    can put another one in its place: it is made for the user alone (mode 0700), and refused where others can write to
    it or to a folder above it. A folder above it may be one like /tmp, to which all may write but in which nobody can
    rename what is another's (the sticky bit). The default is a folder of the user's cache
    directory, apart for each version of jaxlib and kind of processor, since compiled code does not travel.

    Parameters
    ----------
    path : directory, optional

    Returns
    -------
    Path of the directory in use, without links.

    Raises
    ------
    JaxlmmError
        When the directory, or one above it, belongs to somebody else or others may write to it.
    """
    if path is None:
        base = os.environ.get("XDG_CACHE_HOME") or (Path.home() / ".cache")
        directory = Path(base) / "jaxlmm" / f"jaxlib-{jax.version.__version__}-{_processor()}"
    else:
        directory = Path(path)
    directory = directory.expanduser().resolve()
    _make_private(directory)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory


def _make_private(directory: Path) -> None:
    """Make a directory and those above it that are missing; none may be another user's to change."""
    path = [*reversed(directory.parents), directory]
    for folder in path:
        if hasattr(os, "getuid") and folder.exists():
            _check_private(folder, directory)
        else:
            folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid"):
        _check_private(directory, directory)


def _check_private(folder: Path, directory: Path) -> None:
    info = folder.stat()
    owners = {os.getuid()} if folder == directory else {os.getuid(), 0}
    shared = bool(info.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    if folder != directory and info.st_mode & stat.S_ISVTX:
        shared = False
    if info.st_uid not in owners or shared:
        where = str(directory) if folder == directory else f"{directory} is below {folder}, which"
        raise JaxlmmError(
            f"path: {where} can be written to by others, who could then run code in your process; "
            f"choose a directory of your own (mode 0700), not one such as {tempfile.gettempdir()}"
        )


def _processor() -> str:
    """Digest of the processor's features."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        lines = [line for line in text.splitlines() if line.startswith(("flags", "Features", "model name"))][:2]
    except OSError:
        import platform

        lines = [platform.machine(), platform.processor()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
