"""What is written of a fit: what `lmm` was called with and the estimate. The model is made again from the former."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ..errors import DataError
from ..formula.specs import Structures
from ..frames.columns import open_table
from ..frames.owned import frame_at
from ..frames.relationship import plain_relationship
from .archive import Archive, write
from .columns import pack_column, pack_data
from .records import Packer


@dataclass(frozen=True, eq=False)
class Call:
    """The arguments of `jaxlmm.lmm` that make a model of data, by their names there, and the function itself.

    `written` is the formula of several responses of which these are the stacked rows.
    """

    formula: str
    weights: Any = None
    offset: Any = None
    residual: Any = None
    variance: str | None = None
    relationship: Mapping[str, Any] | None = None
    structures: Structures | None = None
    engine: Any = "auto"
    maker: Callable[..., Any] | None = field(default=None, repr=False, compare=False)
    written: str | None = None

    def arguments(self) -> dict[str, Any]:
        """Values by name, without the function and what they were made of."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("maker", "written")}


def save_fit(fit: Any, path: Any, columns: str | Sequence[str] = "used") -> None:
    """Write a fit, see ``Fit.save``."""
    packer = Packer()
    names = list(fit.frame.used)
    if columns == "all":
        names = list(open_table(frame_at(fit)).names)
    elif columns != "used":
        names += [name for name in ([columns] if isinstance(columns, str) else columns) if name not in names]
    given = open_table(frame_at(fit, names))
    for name in names:
        if name not in given.names:
            raise DataError(f"columns: found {name!r}, expected 'used', 'all' or columns of the data")
        if given.names.count(name) > 1:
            raise DataError(f"save: the data have more than one column named {name!r}; give them different names")
    content = {
        "data": pack_data(given.data, names, packer),
        "call": _pack_call(fit.call, packer),
        "method": fit.method,
        "estimate": packer.pack(fit.estimate, "the estimate"),
        "y": packer.array(fit.model.y),
        "layout": packer.pack(layout(fit.frame), "the model"),
    }
    write(path, Archive("fit", content, packer.arrays))


def layout(frame: Any) -> dict[str, Any]:
    """What tells one model from another: names and sums of the columns of X, levels and names of the random parts."""
    parts = [*frame.parts, *(() if frame.residual is None else (frame.residual,))]
    return {
        "rows": len(frame.y),
        "coefficients": list(frame.coef_names),
        "parts": [[part.group_label, list(part.columns), len(part.levels)] for part in parts],
        "sums": np.sum(frame.X, 0),
    }


def _pack_call(call: Call, packer: Packer) -> Any:
    """The arguments; columns that were given as arrays by themselves."""
    plain, arrays = [], {}
    for name, value in call.arguments().items():
        if name in ("weights", "offset") and value is not None and not isinstance(value, str):
            arrays[name] = pack_column(value, name, packer)
            continue
        if name == "relationship" and value is not None:
            value = {group: plain_relationship(given, f"relationship[{group!r}]") for group, given in value.items()}
        plain.append([name, packer.pack(value, name)])
    return {"arguments": plain, "arrays": arrays, "written": call.written}


def save_batch(batch: Any, path: Any) -> None:
    """Write everything to a file, which `jaxlmm.load` reads; of data only, complete or not at all."""
    packer = Packer()
    content = packer.pack(batch, "the batch")
    write(path, Archive("batch", content, packer.arrays))
