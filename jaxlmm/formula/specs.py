"""What terms over columns and the arguments `residual` and `variance` ask for, before there are data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arguments import options_of, unknown_option
from ..covariance import (
    FUNCTIONS,
    NAMES,
    ByGroup,
    Composite,
    Covariance,
    Ident,
    Identity,
    Kronecker,
    Over,
    Product,
    Scaled,
    Sum,
    VarianceFunction,
)
from ..errors import DataError, FormulaError, JaxlmmError
from .structures import parse_place, parse_residual, parse_variance, take_arm
from .syntax import Bar, Composed, Item, Part

# Over effects as well as over levels: with a plain left side, us(x | g), these are of an intercept and a slope.
_OF_EFFECTS = tuple(NAMES[name] for name in ("us", "diag", "iid", "cs", "csh", "hf", "rr", "fa"))


@dataclass(frozen=True)
class FieldSpec:
    """What is known of a structure within groups before the data: its item, its structures, its text."""

    item: Item
    tree: Leaf | Node
    text: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that it uses."""
        return (*leaves_of(self.tree), *self.item.arm, *self.item.group)

    @property
    def is_iid(self) -> bool:
        """Whether it is independent from row to row, ``iid()``."""
        return isinstance(self.tree, Leaf) and not self.tree.columns


@dataclass(frozen=True)
class ResidualSpec:
    """What `residual=` and `variance=` say: the residual structure, fields beside it, the function of a covariate."""

    residual: FieldSpec | None
    fields: tuple[FieldSpec, ...] = ()
    function: VarianceFunction | None = None
    covariate: str = ""
    text: str = ""
    variance: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that it uses."""
        own = () if self.residual is None else self.residual.columns
        return (*(n for f in self.fields for n in f.columns), *own, *((self.covariate,) if self.covariate else ()))


def field_of(bar: Bar, known: Structures, text: str) -> FieldSpec | None:
    """The term as a structure over columns; None for random effects of the columns left of the bar."""
    if bar.shape is None:
        return None
    options, arm, shared = take_arm(bar.options)
    shape = replace(bar.shape, options=options) if isinstance(bar.shape, Part) else bar.shape
    if isinstance(shape, Part) and issubclass(class_of(known[shape.name]), _OF_EFFECTS):
        return None
    if shared and not arm:
        raise FormulaError("shared= is for parameters by group: write by=column beside it", text, bar.position)
    item = Item(shape, bar.group, arm, shared, bar.position)
    return FieldSpec(item, tree_of(shape, known, text), item.text)


def residual_of(residual: Any, variance: Any, known: Structures) -> ResidualSpec:
    """Read the arguments `residual` and `variance`.

    Raises
    ------
    FormulaError
        With a caret under the place that is not understood.
    """
    specs = () if residual is None else _residual_specs(residual, known)
    text = residual if isinstance(residual, str) else " + ".join(spec.text for spec in specs)
    plain = [spec for spec in specs if spec.is_iid]
    if len(plain) > 1:
        raise FormulaError(f"residual={text!r}: iid() stands more than once", text, plain[1].item.position)
    own = plain[0] if plain else specs[-1] if specs else None
    fields = tuple(spec for spec in specs if spec is not own)
    if own is not None and own.is_iid and own.item.arm:
        variance = _by_group(own, text, variance)
    if variance is None:
        return ResidualSpec(own, fields, text=text)
    name, covariate, numbers, options = parse_variance(variance, FUNCTIONS)
    return ResidualSpec(own, fields, make_function(name, numbers, options, variance), covariate, text, variance)


def _by_group(own: FieldSpec, residual: str, variance: Any) -> str:
    """``iid(by=g)`` as the variance function ``ident(g)``, which it is."""
    name, *others = own.item.arm
    assert isinstance(own.tree, Leaf)
    if variance is not None or others or own.item.shared or not own.tree.structure.is_free:
        raise FormulaError(
            f"residual={residual!r}: iid(by={name}) is a variance for each level of {name}, of which none is fixed or "
            f"shared, and has no variance= beside it; write iid() and variance='ident({name})', with their options",
            residual, own.item.position,
        )  # fmt: skip
    return f"ident({name})"


def _residual_specs(residual: Any, known: Structures) -> tuple[FieldSpec, ...]:
    if isinstance(residual, list | tuple):
        return tuple(spec for one in residual for spec in _residual_specs(one, known))
    if isinstance(residual, Over):
        item, columns = parse_place(residual.text, type(residual.structure).__name__)
        tree = tree_over(residual.structure, columns, residual.text, residual.levels)
        return (FieldSpec(item, tree, item.text),)
    return tuple(FieldSpec(i, tree_of(i.shape, known, residual), i.text) for i in parse_residual(residual, known))


Structures = Mapping[str, type[Covariance] | Covariance]


@dataclass(frozen=True)
class Leaf:
    """A structure and the columns of the data that it is over; `text` as it was written, `levels` in their order."""

    structure: Covariance
    columns: tuple[str, ...]
    text: str
    levels: tuple[object, ...] = ()


@dataclass(frozen=True)
class Node:
    """Structures put together, see `jaxlmm.formula.syntax.Composite`."""

    operator: str
    parts: tuple[Leaf | Node, ...]


def given_structures(structures: Any) -> dict[str, type[Covariance] | Covariance]:
    """Classes of structures of one's own, or structures, by name, none for None; else a `DataError`.

    What else can be called, such as a `functools.partial` of a class, is called for the structure that it makes.
    """
    if structures is None:
        return {}
    found = dict(structures) if isinstance(structures, Mapping) else {"": structures}
    for name, value in found.items():
        if callable(value) and not isinstance(value, type):
            try:
                found[name] = value()
            except TypeError:
                pass  # said below
        is_class = isinstance(found[name], type) and issubclass(found[name], Covariance)
        if not name or not (is_class or isinstance(found[name], Covariance)):
            raise DataError(
                f"structures: found {structures!r}, expected classes or structures by name, {{'slow': Slow}} or "
                "{'sar': SAR(W=W)}"
            )
    return found


def class_of(structure: type[Covariance] | Covariance) -> type[Covariance]:
    """The class of a structure, or itself."""
    return structure if isinstance(structure, type) else type(structure)


def make_structure(
    known: Structures, name: str, options: tuple[tuple[str, object], ...], text: str, position: int | None
) -> Covariance:  # fmt: skip
    """The structure of a name with its options; what is wrong with these is said with a caret."""
    given, own = dict(options), known[name]
    if said := unknown_option(name, given, options_of(class_of(own), given)):
        raise FormulaError(said, text, position)
    try:
        return own(**given) if isinstance(own, type) else own.given(**given) if given else own
    except (TypeError, JaxlmmError) as error:
        raise FormulaError(f"structure {name!r}: {error}", text, position) from None


def tree_of(shape: Part | Composed, known: Structures, text: str) -> Leaf | Node:
    """The structures that a parsed text names."""
    if isinstance(shape, Composed):
        return Node(shape.operator, tuple(tree_of(part, known, text) for part in shape.parts))
    options = dict(shape.options)
    is_own = "levels" in options_of(class_of(known[shape.name]), options)  # an option of the structure itself
    levels: Any = () if is_own else options.pop("levels", ())
    structure = make_structure(known, shape.name, tuple(options.items()), text, shape.position)
    levels = levels if isinstance(levels, tuple) else (levels,)
    if not shape.columns and not isinstance(structure, Identity):
        raise FormulaError(
            f"{shape.name}() needs the columns that it is over, such as {shape.name}(visit | id)", text, shape.position
        )
    if isinstance(structure, Composite):
        return tree_over(structure, shape.columns, text, levels)
    return Leaf(structure, shape.columns, shape.text, levels)


def tree_over(
    structure: Covariance, columns: tuple[str, ...], text: str, levels: tuple[object, ...] = ()
) -> Leaf | Node:  # fmt: skip
    """A structure made in Python over columns, those of a Kronecker product split over its parts."""
    name = type(structure).__name__
    if isinstance(structure, ByGroup | Scaled):
        raise FormulaError(
            f"over({text!r}): {name} is made by lmm() itself, write the structure alone and 'visit | arm / id', or "
            "variance='power(x)'"
        )
    if isinstance(structure, Kronecker):
        ends = np.cumsum(structure.widths)
        if levels:
            raise FormulaError(f"over({text!r}): levels are for a structure over one column, not for a product")
        if len(columns) != ends[-1]:
            raise FormulaError(f"over({text!r}): the parts of Kronecker take {ends[-1]} columns, found {len(columns)}")
        own = [columns[end - width : end] for end, width in zip(ends, structure.widths, strict=True)]
        return Node("@", tuple(tree_over(p, c, text) for p, c in zip(structure.parts, own, strict=True)))
    if isinstance(structure, Sum | Product):
        operator = "+" if isinstance(structure, Sum) else "*"
        return Node(operator, tuple(tree_over(part, columns, text, levels) for part in structure.parts))
    return Leaf(structure, columns, f"{name}({' + '.join(columns)})", levels)


def leaves_of(tree: Leaf | Node) -> tuple[str, ...]:
    """The columns that the structures of a tree are over."""
    if isinstance(tree, Leaf):
        return tree.columns
    return tuple(dict.fromkeys(name for part in tree.parts for name in leaves_of(part)))


def make_function(
    name: str, numbers: tuple[object, ...], options: tuple[tuple[str, object], ...], text: str
) -> VarianceFunction:  # fmt: skip
    """A variance function whose parameters are fixed where there are numbers."""
    kind: Any = FUNCTIONS[name]
    names = [field.name for field in kind.fields]
    if kind is Ident and numbers:
        numbers = (numbers,)  # a ratio for each level but the first
    if len(numbers) > len(names):
        raise FormulaError(f"variance={text!r}: {name} has {len(names)} parameter(s), found {len(numbers)} numbers")
    if said := unknown_option(name, dict(options), names):
        raise FormulaError(f"variance={text!r}: {said}")
    if twice := set(names[: len(numbers)]) & set(dict(options)):
        raise FormulaError(f"variance={text!r}: {name} has its {', '.join(twice)} twice")
    try:
        return kind(**dict(zip(names, numbers, strict=False)), **dict(options))
    except (TypeError, JaxlmmError) as error:
        raise FormulaError(f"variance={text!r}: {error}") from None
