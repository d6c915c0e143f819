"""Data frames out of files, and tables into them: Parquet and CSV, by the name's ending."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

PARQUET = (".parquet", ".parq", ".pq")


def read_file(path: Any, mentioned: Iterable[str] | None = None) -> Any:
    """Read a table.

    Parameters
    ----------
    path : of a Parquet file (.parquet, .parq, .pq; needs pyarrow), or of a CSV file (any other name; needs pandas)
    mentioned : texts; of a Parquet file only the columns whose names occur in one of them are read

    Returns
    -------
    pandas.DataFrame, or where pandas is not installed pyarrow.Table

    Raises
    ------
    DataError
        If there is no such file, or it is not such a table.
    ImportError
        Where the library is missing, with the command that installs it.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"data: there is no file {str(path)!r}; shipped data are jaxlmm.datasets.load(name)")
    if path.suffix.lower() in PARQUET:
        return _parquet(path, mentioned)
    if not find_spec("pandas"):
        raise ImportError("reading CSV files needs pandas: pip install 'jaxlmm[formula]'")
    return read_as(path, "CSV", lambda: _csv(path))


def _csv(path: Path) -> Any:
    """A CSV file whose identifiers stay whole numbers: beside missing ones, and beyond 64 bits, which come as text."""
    import pandas as pd

    found = pd.read_csv(path, dtype_backend="numpy_nullable")
    for name, column in found.items():
        texts = column.fillna("") if column.dtype == "string" else column[:0]
        if (texts != "").any() and texts.str.fullmatch(r"([+-]?\d+)?").all():
            found[name] = np.array([int(text) if text else None for text in texts], dtype=object)
    return found


def _parquet(path: Path, mentioned: Iterable[str] | None) -> Any:
    if not find_spec("pyarrow"):
        raise ImportError("reading Parquet files needs pyarrow: pip install 'jaxlmm[parquet]'")
    import pyarrow.parquet as pq

    def table() -> Any:
        names = pq.read_schema(path).names
        if mentioned is not None:
            names = [name for name in names if any(name in text for text in mentioned)]
        if not find_spec("pandas"):
            return pq.read_table(path, columns=names)
        import pandas as pd

        with pd.option_context("mode.string_storage", "pyarrow"):  # not an object of Python a row
            return pd.read_parquet(path, "pyarrow", names, dtype_backend="numpy_nullable")

    return read_as(path, "Parquet", table)


def read_as(path: Path, kind: str, read: Callable[[], Any]) -> Any:
    """What `read` gives, its errors as one of the file."""
    try:
        return read()
    except ImportError:
        raise
    except Exception as error:  # whatever a damaged file leads the parsers to
        raise DataError(f"{str(path)!r} cannot be read as {kind}: {error}") from error


class Sink:
    """A table that is written in pieces, as Parquet or CSV by the name's ending; a context manager.

    Raises
    ------
    ImportError
        For Parquet where pyarrow is missing.
    """

    def __init__(self, path: Any):
        self.path = Path(path)
        self.is_parquet = self.path.suffix.lower() in PARQUET
        if self.is_parquet and not find_spec("pyarrow"):
            raise ImportError("writing Parquet files needs pyarrow: pip install 'jaxlmm[parquet]'")
        self._writer: Any = None
        self._file: Any = None

    def __enter__(self) -> Sink:
        if not self.is_parquet:
            self._file = self.path.open("w", newline="", encoding="utf-8")
        return self

    def add(self, columns: Mapping[str, Any]) -> None:
        """Write rows; the names are those of the first piece."""
        if self.is_parquet:
            from pyarrow import parquet, table

            piece = table(dict(columns))
            self._writer = self._writer or parquet.ParquetWriter(self.path, piece.schema)
            self._writer.write_table(piece)
            return
        if self._writer is None:
            self._writer = csv.writer(self._file)
            self._writer.writerow(columns)
        self._writer.writerows(zip(*(list(values) for values in columns.values()), strict=True))

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        elif self._writer is not None:
            self._writer.close()
