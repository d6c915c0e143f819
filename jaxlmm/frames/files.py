"""Data frames out of files: Parquet and CSV, by the name's ending."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
        raise DataError(f"data: there is no file {str(path)!r}")
    if path.suffix.lower() in PARQUET:
        return _parquet(path, mentioned)
    if not find_spec("pandas"):
        raise ImportError("reading CSV files needs pandas: pip install 'jaxlmm[formula]'")
    return _read(path, "CSV", lambda: _csv(path))


def _csv(path: Path) -> Any:
    """A CSV file whose large identifiers stay whole numbers beside missing ones, for which pandas makes them floats."""
    import pandas as pd

    found = pd.read_csv(path)
    large = [name for name, column in found.items() if _may_be_rounded(column)]
    texts: Any = pd.read_csv(path, dtype=str)[large] if large else {}
    for name, column in texts.items():
        if column.dropna().str.fullmatch(r"[+-]?\d+").all():
            numbers = [None if pd.isna(text) else int(text) for text in column]
            present = [number for number in numbers if number is not None]
            fits = min(present) >= -(2**63) and max(present) < 2**63
            found[name] = pd.Series(numbers, dtype="Int64" if fits else object, index=found.index)
    return found


def _may_be_rounded(column: Any) -> bool:
    """Whether pandas may have read whole numbers as floats, or as text because they do not fit."""
    if column.dtype.kind == "f":
        return bool((column.abs() >= 2**53).any())
    first = next((str(v) for v in column if v is not None and v == v and str(v)), "")
    return column.dtype.kind == "O" and first.lstrip("+-").isdigit()


def _parquet(path: Path, mentioned: Iterable[str] | None) -> Any:
    if not find_spec("pyarrow"):
        raise ImportError("reading Parquet files needs pyarrow: pip install 'jaxlmm[parquet]'")
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table() -> Any:
        names = pq.read_schema(path).names
        if mentioned is not None:
            names = [name for name in names if any(name in text for text in mentioned)]
        found = pq.read_table(path, columns=names)
        if not find_spec("pandas"):
            return found
        import pandas as pd

        frame, wide = found.to_pandas(), {pa.int64(): pd.Int64Dtype(), pa.uint64(): pd.UInt64Dtype()}
        for name, column in zip(found.column_names, found.columns, strict=True):
            if name in frame and column.null_count and column.type in wide:  # pandas would make them floats
                frame[name] = column.to_pandas(types_mapper=wide.get).array
        return frame

    return _read(path, "Parquet", table)


def _read(path: Path, kind: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except ImportError:
        raise
    except Exception as error:  # whatever a damaged file leads the parsers to
        raise DataError(f"{str(path)!r} cannot be read as {kind}: {error}") from error
