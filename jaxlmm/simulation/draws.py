"""Draws by chain, in the form that ArviZ reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False, repr=False)
class Draws:
    """Draws of parameters.

    Attributes
    ----------
    groups : {group: {variable: array (chain, draw, ...)}}, the variables of interest in "posterior", where ArviZ's
        functions look for them
    coords : {dimension: labels};  dims : {variable: its dimensions after chain and draw}
    """

    groups: Mapping[str, Arrays]
    coords: Mapping[str, list[str]]
    dims: Mapping[str, list[str]]

    def __getitem__(self, variable: str) -> np.ndarray:
        """One of the variables of interest (chain, draw, ...)."""
        return self.groups["posterior"][variable]

    def __repr__(self) -> str:
        lines = []
        for group, arrays in self.groups.items():
            lines.append(group)
            for name, values in arrays.items():
                dims = ["chain", "draw", *self.dims.get(name, [])]
                sizes = (f"{dim}: {size}" for dim, size in zip(dims, np.shape(values), strict=True))
                lines.append(f"  {name} ({', '.join(sizes)})")
        return "\n".join(lines)

    def to_arviz(self) -> Any:
        """ArviZ's object, an `xarray.DataTree` (ArviZ 1.x) or an `InferenceData` (0.x).

        Raises
        ------
        ImportError
            Where ArviZ is not installed; ``draws.groups`` needs nothing.
        """
        try:
            import arviz
        except ImportError as error:
            raise ImportError("to_arviz() needs ArviZ: pip install 'jaxlmm[arviz]'") from error
        options = {"coords": dict(self.coords), "dims": dict(self.dims)}
        groups = {group: dict(arrays) for group, arrays in self.groups.items()}
        if int(arviz.__version__.split(".")[0]) >= 1:
            return arviz.from_dict(groups, **options)
        return arviz.from_dict(**groups, **options)
