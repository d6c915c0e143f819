"""Fits in files: data only, nothing that is run when it is read.

`archive` is the file, `records` are values in it, `columns` the data, `fits` what is written of a fit. Reading starts
in `jaxlmm.loading`, which knows how models are made.
"""

from __future__ import annotations

from .archive import FORMAT, Archive, read, write_atomically
from .columns import data_of
from .fits import Call, save_batch, save_fit
from .records import Unpacker

__all__ = ["FORMAT", "Archive", "Call", "Unpacker", "data_of", "read", "save_batch", "save_fit", "write_atomically"]
