"""Columns of pandas, polars, pyarrow and dicts of arrays in an archive, with their types, and back.

polars and pyarrow write themselves (Arrow's file format). pandas' columns are taken apart: numbers with a mask,
categories with codes, Python objects with the distinct values that they have.
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

from ..errors import DataError
from ..frames.columns import library_of, open_table
from ..frames.readers import as_array
from .records import NUMBERS, Packer, Unpacker

Names = Sequence[str]
EXACT: dict[str, Any] = {
    cls.__name__: cls for cls in (Decimal, UUID, bytes, datetime.date, datetime.datetime, datetime.time)
}


def pack_data(data: Any, names: Names, packer: Packer) -> Any:
    """The data frame of a fit with these columns; its index is left out."""
    table = open_table(data)
    if table.kind in ("polars", "pyarrow"):
        return {"kind": table.kind, "arrow": packer.array(_arrow_bytes(data.select(list(names)), "data"))}
    if table.kind not in ("pandas", "dict"):
        import narwhals as nw

        return pack_data(nw.from_native(data).to_pandas(), names, packer)
    columns = [[name, pack_column(data[name], f"column {name!r}", packer)] for name in names]
    return {"kind": table.kind, "rows": table.n, "columns": columns}


def data_of(content: Mapping[str, Any], unpacker: Unpacker) -> Any:
    """The data frame that `pack_data` wrote."""
    kind = content["kind"]
    if "arrow" in content:
        return _frame_of(kind, unpacker.unpack(content["arrow"]))
    columns = {name: column_of(column, unpacker) for name, column in content["columns"]}
    if kind == "pandas":
        import pandas as pd

        rows = content["rows"]
        if any(len(column) != rows for column in columns.values()):
            raise ValueError(f"a column has not the {rows} rows that the data have")
        return pd.DataFrame(columns, index=pd.RangeIndex(rows))
    return columns


def pack_column(values: Any, what: str, packer: Packer) -> dict[str, Any]:
    """One column: a Series, an array or a list (which comes back as an array).

    Raises
    ------
    DataError
        For a type that cannot be written.
    """
    library = library_of(values)
    if library == "polars":
        return {"polars": packer.array(_arrow_bytes(values.alias("x").to_frame(), what))}
    if library == "pandas":
        return {"pandas": _pack_pandas(values, what, packer)}
    if library == "pyarrow":
        import pyarrow as pa

        return {"pyarrow": packer.array(_arrow_bytes(pa.table({"x": values}), what))}
    if isinstance(values, np.ma.MaskedArray):
        return {"masked": [packer.array(values.data), packer.array(np.ma.getmaskarray(values))]}
    return _pack_array(as_array(what, values), what, packer)


def column_of(content: Mapping[str, Any], unpacker: Unpacker) -> Any:
    """The column that `pack_column` wrote."""
    if "polars" in content or "pyarrow" in content:
        ((kind, array),) = content.items()
        return _frame_of(kind, unpacker.unpack(array))["x"]
    if "pandas" in content:
        return _pandas_of(content["pandas"], unpacker)
    if "masked" in content:
        return np.ma.MaskedArray(*map(unpacker.unpack, content["masked"]))
    return _array_of(content, unpacker)


# -- arrays


def _pack_array(values: np.ndarray, what: str, packer: Packer) -> dict[str, Any]:
    if values.dtype.kind in NUMBERS:
        return {"values": packer.array(values)}
    if values.dtype.kind != "O" or values.ndim != 1:
        raise DataError(f"save: {what} has type {values.dtype}, which cannot be written; make it numbers or text")
    return {"objects": _pack_objects(values, what, packer)}


def _array_of(content: Mapping[str, Any], unpacker: Unpacker) -> np.ndarray:
    return unpacker.unpack(content["values"]) if "values" in content else _objects_of(content["objects"], unpacker)


def _pack_objects(values: np.ndarray, what: str, packer: Packer) -> dict[str, Any]:
    """Text, numbers, true/false and missing values of any library: the distinct ones, and which each row has."""
    place: dict[Any, int] = {}
    distinct: list[Any] = []
    codes = np.empty(len(values), np.int32)
    for i, value in enumerate(values):
        kind = type(value)
        key = (kind, None) if value is None or _is_missing(value) else (kind, value)
        if key not in place:
            place[key] = len(distinct)
            plain = value.item() if isinstance(value, np.generic) else value
            missing = kind.__name__ in ("NAType", "NaTType")
            distinct.append({"missing": kind.__name__} if missing else _pack_value(plain, what, packer))
        codes[i] = place[key]
    return {"codes": packer.array(codes), "distinct": distinct}


def _is_missing(value: Any) -> bool:
    return type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)


def _objects_of(content: Mapping[str, Any], unpacker: Unpacker) -> np.ndarray:
    distinct = np.empty(len(content["distinct"]), object)
    for i, value in enumerate(content["distinct"]):
        distinct[i] = _value_of(value, unpacker)
    return distinct[unpacker.unpack(content["codes"])]


def _pack_value(value: Any, what: str, packer: Packer) -> Any:
    """One value: as JSON has it, or as the text of its class."""
    name = type(value).__name__
    if type(value) in EXACT.values():
        return {name: value.hex() if isinstance(value, bytes) else str(value)}
    if library_of(value) == "pandas" and name in ("Timestamp", "Timedelta"):
        return {name: value.isoformat()}
    return packer.pack(value, f"a value of {what}")


def _value_of(value: Any, unpacker: Unpacker) -> Any:
    if not isinstance(value, dict) or len(value) != 1:
        return unpacker.unpack(value)
    ((name, text),) = value.items()
    if name in EXACT:
        return getattr(EXACT[name], "fromhex" if name == "bytes" else "fromisoformat", EXACT[name])(text)
    if name in ("missing", "Timestamp", "Timedelta"):
        import pandas as pd

        return {"NAType": pd.NA, "NaTType": pd.NaT}[text] if name == "missing" else getattr(pd, name)(text)
    return unpacker.unpack(value)


# -- pandas


def _pack_pandas(values: Any, what: str, packer: Packer) -> dict[str, Any]:
    import pandas as pd

    series = pd.Series(values)
    dtype = series.dtype
    if isinstance(dtype, np.dtype):
        return _pack_array(series.to_numpy(), what, packer)
    if isinstance(dtype, pd.CategoricalDtype):
        categories = _pack_pandas(dtype.categories.to_series(), what, packer)
        return {"codes": packer.array(series.cat.codes), "categories": categories, "ordered": bool(dtype.ordered)}
    missing = series.isna().to_numpy(bool)
    if isinstance(dtype, pd.StringDtype):
        texts = series.to_numpy(object).copy()
        texts[missing] = None
        return {"text": _pack_objects(texts, what, packer), "nan": getattr(dtype, "na_value", pd.NA) is not pd.NA}
    if isinstance(dtype, pd.DatetimeTZDtype):
        return {"values": packer.array(series.dt.tz_convert("UTC").dt.tz_localize(None)), "zone": str(dtype.tz)}
    kind = getattr(dtype, "kind", "O")
    if kind in "iufb":
        plain = {"b": np.bool_, "f": np.float64, "i": np.int64, "u": np.uint64}[kind]
        numbers = packer.array(series.to_numpy(dtype=plain, na_value=0))
        return {"values": numbers, "missing": packer.array(missing), "type": str(dtype)}
    raise DataError(f"save: {what} has pandas type {dtype}, which cannot be written; make it numbers or text")


def _pandas_of(content: Mapping[str, Any], unpacker: Unpacker) -> Any:
    import pandas as pd

    if "categories" in content:
        dtype = pd.CategoricalDtype(pd.Index(_pandas_of(content["categories"], unpacker)), content["ordered"])
        return pd.Series(pd.Categorical.from_codes(unpacker.unpack(content["codes"]), dtype=dtype))
    if "text" in content:
        texts = _objects_of(content["text"], unpacker)
        nan = content["nan"]
        return pd.Series(texts, dtype=pd.StringDtype(na_value=np.nan) if nan else pd.StringDtype())  # type: ignore[call-arg, unused-ignore]
    if "zone" in content:
        return pd.Series(unpacker.unpack(content["values"])).dt.tz_localize("UTC").dt.tz_convert(content["zone"])
    values = _array_of(content, unpacker)
    found = pd.Series(values, dtype=values.dtype)
    if "type" in content:
        found = found.astype(content["type"])
        found[unpacker.unpack(content["missing"])] = pd.NA
    return found


# -- Arrow


def _arrow_bytes(frame: Any, what: str) -> np.ndarray:
    """A polars or pyarrow table in Arrow's file format, as bytes."""
    buffer = io.BytesIO()
    try:
        if library_of(frame) == "polars":
            frame.write_ipc(buffer)
        else:
            import pyarrow as pa

            with pa.ipc.new_file(buffer, frame.schema) as file:
                file.write_table(frame.combine_chunks())
    except Exception as error:  # polars has no common class of errors, and Rust's panics are not of one
        raise DataError(f"save: {what} has a type that cannot be written: {error}") from error
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _frame_of(kind: str, content: np.ndarray) -> Any:
    try:
        if kind == "polars":
            import polars as pl

            return pl.read_ipc(io.BytesIO(content.tobytes()))
        import pyarrow as pa

        return pa.ipc.open_file(pa.BufferReader(content.tobytes())).read_all()
    except ImportError as error:
        raise ImportError(f"the data of this fit are of {kind}, which is not installed: pip install {kind}") from error
    except Exception as error:  # as in `_arrow_bytes`
        raise ValueError(f"{kind} cannot read the data: {error}") from error
