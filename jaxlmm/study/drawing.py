"""Drawing the data sets of a chunk, each from a key of its own; what a user's function raises is a status there."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import DataError, JaxlmmError
from ..frames.alignment import mask_of, refuse_masked
from ..frames.columns import library_of, open_table, read_column
from ..runtime.programs import compiled
from .cells import accepted, key_of
from .declare import Study

MESSAGE = 300  # characters of what was raised
RAISES = (Exception, SystemExit)  # of a user's function that are a status: only its user ends a study
TRIED = 100  # replicates at most until one can be used
ANALYSIS = 2_000_000  # what the keys of analyses are folded with, beyond any term's
NO_KEYS = np.zeros((0, 2), np.uint32)


class Drawn(NamedTuple):
    """The data sets of a chunk.

    Attributes
    ----------
    columns : arrays (b, n) in place of the design's
    tables : whole tables where sizes differ, a data set each
    errors : what was raised instead of a data set, by its position
    keys : (b, words) of JAX, for analyses that draw themselves
    """

    columns: Mapping[str, np.ndarray]
    tables: list[dict[str, Any]] | None = None
    errors: Mapping[int, str] = MappingProxyType({})
    keys: np.ndarray = NO_KEYS

    def take(self, places: np.ndarray) -> Drawn:
        """Some of the data sets."""
        tables = None if self.tables is None else [self.tables[i] for i in places]
        errors = {j: self.errors[i] for j, i in enumerate(places.tolist()) if i in self.errors}
        columns = {name: values[places] for name, values in self.columns.items()}
        return Drawn(columns, tables, errors, self.keys[places] if len(self.keys) else self.keys)

    @property
    def names(self) -> set[str]:
        """Columns that are drawn."""
        return set(self.columns).union(*self.tables or ())

    @property
    def analysis_keys(self) -> Array:
        """A key of each data set (b,), other than those that it was drawn with."""
        return _folded(jax.random.wrap_key_data(jnp.asarray(self.keys)), np.uint32(ANALYSIS))

    def table(self, place: int, data: Mapping[str, Any]) -> dict[str, Any]:
        """One data set, on the columns of the design."""
        if self.tables is not None:
            return dict(self.tables[place])
        return {**data, **{name: values[place] for name, values in self.columns.items()}}


Drawer = Callable[[np.ndarray], Drawn]


def keys_of(seed: int, cell: Mapping[str, Any], replicates: np.ndarray) -> Array:
    """A key for each replicate (b,), see `Study`; 64-bit floats must be on."""
    words = np.frombuffer(hashlib.sha256(key_of(cell).encode()).digest()[:8], ">u4").astype(np.uint32)
    return _of_replicates(jax.random.key(seed), words, replicates.astype(np.uint32))


@compiled()
def _of_replicates(key: Array, words: Array, replicates: Array) -> Array:
    base = jax.random.fold_in(jax.random.fold_in(key, words[0]), words[1])
    return jax.vmap(partial(jax.random.fold_in, base))(replicates)


@compiled()
def _folded(keys: Array, word: Array) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, word)


def drawer(study: Study, cell: int, most: int | None = None) -> Drawer:
    """A function of replicates (b,) that draws them, b being at most `most`, default the study's chunk."""
    data = columns_of(study.data(cell))
    factors = study.cells[cell]
    if hasattr(study.generate, "drawer"):
        draw = study.generate.drawer(data, factors, study.response)
    elif next(iter(inspect.signature(study.generate).parameters), "") == "rng":
        draw = _by_numpy(study.generate, data, factors, study.response)
    else:
        draw = _by_jax(study.generate, data, factors, study.response)

    def drawn(replicates: np.ndarray) -> Drawn:
        padded = np.resize(replicates, most or min(study.chunk, study.replicates))  # one shape to compile
        keys, b = keys_of(study.seed, factors, padded), len(replicates)
        found = draw(keys, b)
        columns = {name: values[:b] for name, values in found.columns.items()}
        return found._replace(columns=columns, keys=np.asarray(jax.random.key_data(keys))[:b])

    return drawn


def columns_of(data: Any) -> dict[str, Any]:
    """A design as columns of its library, which know the order of their levels and identifiers to the last digit."""
    table = open_table(data, "design")
    for name in table.names:
        refuse_masked(f"design: column {name!r}", table.data[name])
    return {name: table.data[name] for name in table.names}


def completed(data: dict[str, Any], drawn: Drawn, draw: Drawer, response: str) -> dict[str, Any]:
    """A design to build models on: columns that only data sets have, as some of them are `drawn`, are of the first."""
    if not drawn.errors and drawn.names <= {*data, response}:
        return data
    every = (draw(np.array([replicate])) for replicate in range(TRIED))
    first = next((one.table(0, data) for one in every if not one.errors), data)
    new = {name: values for name, values in first.items() if name not in data and name != response}
    sizes = {len(values) for values in (*data.values(), *new.values())}
    return {**data, **new} if len(sizes) == 1 else {name: first[name] for name in first if name != response}


def arrays(data: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Columns as a user's functions have them: arrays that nobody can write to, as the next data set needs them."""
    out = {}
    for name, values in data.items():
        out[name] = np.array(values)
        out[name].setflags(write=False)
    return out


def _table(found: Any, response: str) -> dict[str, Any]:
    """What a user's function returned, a response, columns or a data frame, as columns of one length.

    Masked entries are missing; declared categories of a data frame stay what they are.
    """
    if hasattr(found, "columns") and library_of(found) is not None:
        columns = columns_of(found)
        for name, values in columns.items():
            column = read_column(name, values)
            if column.kind == "number" and column.missing is not None:
                columns[name] = np.where(column.missing, np.nan, column.values)
            elif not (column.kind == "factor" and column.is_declared):
                columns[name] = np.asarray(values)
    else:
        given = dict(found) if isinstance(found, Mapping) else {response: found}
        columns = {name: _plain(values) for name, values in given.items()}
    _check_response(columns, response)
    sizes = {name: np.shape(values) for name, values in columns.items()}
    if (
        len(set(sizes.values())) > 1
        or len(sizes[response]) != 1
        or np.asarray(columns[response]).dtype.kind not in "fiub"
    ):
        listed = ", ".join(f"{name} of shape {size}" for name, size in sizes.items())
        raise DataError(f"generate: returned {listed}; expected numbers (n,) and columns of that length")
    return columns


def _plain(values: Any) -> np.ndarray:
    """An array, masked entries of which are missing."""
    mask = mask_of(values)
    return np.asarray(values) if mask is None else np.where(mask, np.nan, np.ma.getdata(values))


def _by_jax(
    function: Callable[..., Any], data: dict[str, Any], factors: Mapping[str, Any], response: str
) -> Callable[[Array, int], Drawn]:  # fmt: skip
    """The user's function, vectorised and compiled; text among the columns stays what it is."""
    chosen, data = accepted(function, factors), arrays(data)

    @jax.jit
    @jax.vmap
    def every(key: Array) -> dict[str, Array]:
        found = function(key, data, **chosen)
        return dict(found) if isinstance(found, Mapping) else {response: found}

    def draw(keys: Array, count: int) -> Drawn:
        columns = {name: np.asarray(values) for name, values in every(keys).items()}
        rows = len(next(iter(data.values())))
        for name, values in columns.items():
            if values.ndim != 2 or values.shape[1] != rows:
                raise DataError(
                    f"generate: {name!r} has shape {values.shape[1:]} in a data set, expected ({rows},) as in the "
                    "design; data sets whose sizes differ need a NumPy function f(rng, data), or NaN in the response"
                )
        _check_response(columns, response)
        return Drawn({n: v.astype(np.float64) if v.dtype.kind == "f" else v for n, v in columns.items()})

    return draw


def _by_numpy(
    function: Callable[..., Any], data: dict[str, Any], factors: Mapping[str, Any], response: str
) -> Callable[[Array, int], Drawn]:  # fmt: skip
    """The user's function, one data set after the other."""
    chosen, given = accepted(function, factors), arrays(data)
    rows = len(next(iter(data.values())))

    def draw(keys: Array, count: int) -> Drawn:
        tables: list[dict[str, Any]] = []
        errors = {}
        for i, words in enumerate(np.asarray(jax.random.key_data(keys))[:count]):
            try:
                tables.append(
                    _table(function(np.random.default_rng([int(w) for w in words]), given, **chosen), response)
                )
            except RAISES as error:  # of the user's function: a status of this data set
                tables.append({response: np.full(rows, np.nan)})
                errors[i] = sentence_of(error)
        good = [table for i, table in enumerate(tables) if i not in errors]
        names = good[0].keys() if good else {response}
        if all(t.keys() == names and all(_is_plain(v, rows) for v in t.values()) for t in good):
            filled = [{**good[0], **t} if i in errors and good else t for i, t in enumerate(tables)]
            return Drawn({name: np.stack([t[name] for t in filled]) for name in names}, errors=errors)
        return Drawn({}, [t if len(t[response]) != rows else {**data, **t} for t in tables], errors)

    return draw


def _is_plain(values: Any, rows: int) -> bool:
    return isinstance(values, np.ndarray) and values.shape == (rows,)


def sentence_of(error: BaseException) -> str:
    """What was raised, in one line that is the same wherever and whenever it is raised."""
    text = " ".join(str(error).split())
    text = text if isinstance(error, JaxlmmError) else f"{type(error).__name__}: {text}"
    return re.sub(r"0x[0-9a-fA-F]+", "0x...", text)[:MESSAGE]


def _check_response(columns: Mapping[str, Any], response: str) -> None:
    if response not in columns:
        raise DataError(f"generate: returned {sorted(columns)}, expected the response {response!r} among them")
