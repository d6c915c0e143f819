"""Structures put together by sums and products, over named columns: what a text or a Python object says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .covariance import ByGroup, Covariance, Identity, Kronecker, Product, Scaled, Sum
from .doors import options_of, unknown_option
from .errors import FormulaError, JaxlmmError
from .terms import Composite, Part

Structures = Mapping[str, type[Covariance]]


@dataclass(frozen=True)
class Leaf:
    """A structure and the columns of the data that it is over; `text` as it was written."""

    structure: Covariance
    columns: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Node:
    """Structures put together, see `jaxlmm.terms.Composite`."""

    operator: str
    parts: tuple[Leaf | Node, ...]


def make_structure(
    known: Structures, name: str, options: tuple[tuple[str, object], ...], text: str, position: int | None
) -> Covariance:  # fmt: skip
    """The structure of a name with its options; what is wrong with these is said with a caret."""
    given = dict(options)
    if said := unknown_option(name, given, options_of(known[name], given)):
        raise FormulaError(said, text, position)
    try:
        return known[name](**given)
    except (TypeError, JaxlmmError) as error:
        raise FormulaError(f"structure {name!r}: {error}", text, position) from None


def tree_of(shape: Part | Composite, known: Structures, text: str) -> Leaf | Node:
    """The structures that a parsed text names."""
    if isinstance(shape, Composite):
        return Node(shape.operator, tuple(tree_of(part, known, text) for part in shape.parts))
    structure = make_structure(known, shape.name, shape.options, text, shape.position)
    if not shape.columns and not isinstance(structure, Identity):
        raise FormulaError(
            f"{shape.name}() needs the columns that it is over, such as {shape.name}(visit | id)", text, shape.position
        )
    return Leaf(structure, shape.columns, shape.text)


def tree_over(structure: Covariance, columns: tuple[str, ...], text: str) -> Leaf | Node:
    """A structure made in Python over columns, those of a Kronecker product split over its parts."""
    name = type(structure).__name__
    if isinstance(structure, ByGroup | Scaled):
        raise FormulaError(
            f"over({text!r}): {name} is made by lmm() itself, write the structure alone and 'visit | arm / id', or "
            "variance='power(x)'"
        )
    if isinstance(structure, Kronecker):
        ends = np.cumsum(structure.widths)
        if len(columns) != ends[-1]:
            raise FormulaError(f"over({text!r}): the parts of Kronecker take {ends[-1]} columns, found {len(columns)}")
        own = [columns[end - width : end] for end, width in zip(ends, structure.widths, strict=True)]
        return Node("@", tuple(tree_over(p, c, text) for p, c in zip(structure.parts, own, strict=True)))
    if isinstance(structure, Sum | Product):
        operator = "+" if isinstance(structure, Sum) else "*"
        return Node(operator, tuple(tree_over(part, columns, text) for part in structure.parts))
    return Leaf(structure, columns, f"{name}({' + '.join(columns)})")


def leaves_of(tree: Leaf | Node) -> tuple[str, ...]:
    """The columns that the structures of a tree are over."""
    if isinstance(tree, Leaf):
        return tree.columns
    return tuple(dict.fromkeys(name for part in tree.parts for name in leaves_of(part)))
