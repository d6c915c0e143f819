"""An opt-in cache of compiled code on disk."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

import jax

from .errors import JaxlmmError


def enable_compilation_cache(path: str | os.PathLike[str] | None = None) -> Path:
    """Keep compiled code on disk, so that the first fit of the next process starts faster.

    Call it before the first fit. Whoever can write to the directory can run code in your process: it is made for the
    user alone (mode 0700), and one that others can write to is refused. The default is a folder of the user's cache
    directory, apart for each version of jaxlib and kind of processor, since compiled code does not travel.

    Parameters
    ----------
    path : directory, optional

    Returns
    -------
    Path of the directory in use.

    Raises
    ------
    JaxlmmError
        When the directory belongs to somebody else or others may write to it.
    """
    if path is None:
        base = os.environ.get("XDG_CACHE_HOME") or (Path.home() / ".cache")
        directory = Path(base) / "jaxlmm" / f"jaxlib-{jax.version.__version__}-{_processor()}"
    else:
        directory = Path(path)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(directory)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory


def _check_private(directory: Path) -> None:
    if not hasattr(os, "getuid"):
        return
    info = directory.stat()
    if info.st_uid != os.getuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise JaxlmmError(
            f"path: {directory} can be written to by others, who could then run code in your process; "
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
