"""Text that names covariance structures: ``us(visit | arm / id)``, ``(us(trait) @ ar1(time) | id)``, ``power(x)``."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import replace

from ..errors import FormulaError
from .syntax import Composed, Item, Part
from .tokens import Options, Reader, Token

Shape = Part | Composed

EXAMPLES = "such as us(visit | id), ar1(week | arm / id) or sp_exp(lat + lon) + iid()"


def parse_residual(text: str, known: Collection[str]) -> tuple[Item, ...]:
    """Parse a residual structure, a sum of items such as ``"us(visit | id)"``.

    Parameters
    ----------
    text : str
    known : collection of str
        Names of covariance structures.

    Raises
    ------
    FormulaError
        With a caret under the place that is not understood.
    """
    if not isinstance(text, str):
        raise FormulaError(
            "residual must be text such as 'us(visit | id)' or a structure over columns such as "
            f"Unstructured().over('visit | id'), got {type(text).__name__}"
        )
    return _ResidualReader(text, frozenset(known)).items()


def parse_place(text: str, name: str) -> tuple[Item, tuple[str, ...]]:
    """Parse ``"visit | arm / id"`` or ``"lat + lon"``, what `Covariance.over` is given.

    Returns
    -------
    the item of a structure of this name, and the columns that it is over
    """
    return _ResidualReader(text, None).place(name)


def parse_variance(text: str, known: Collection[str]) -> tuple[str, str, tuple[object, ...], Options]:
    """Parse a variance function ``"power(x)"``: its name, the column, numbers and options.

    Raises
    ------
    FormulaError
        With a caret under the place that is not understood.
    """
    if not isinstance(text, str):
        raise FormulaError(f"variance must be text such as 'power(x)', got {type(text).__name__}")
    return _Variance(text, frozenset(known)).function()


class StructureReader(Reader):
    """Reads items: structures over columns within groups, and products of structures in parentheses."""

    def __init__(self, text: str, known_structures: frozenset[str] | None):
        super().__init__(text)
        self.known_structures = known_structures

    def check_known(self, name: Token, what: str = "covariance structure", also: str = "") -> None:
        """Refuse the name of a structure that there is not."""
        known = self.known_structures
        if known is not None and name.text not in known:
            close = difflib.get_close_matches(name.text, sorted(known), 1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
            self.fail(f"{name.text} is not a known {what}; {hint}{also}", name.position)

    def item(self) -> list[Item]:
        """Parse a product of structures, or one with its groups; ``(a + b | g)`` gives an item for each term."""
        position = self.token.position
        found = self._atom()
        while self.token.text in ("*", "@"):
            operator = self.next()
            left, right = self._shape(found, operator), self._shape(self._atom(), operator)
            found = [Item(_joined(operator.text, left, right), position=position)]
        return found

    def _shape(self, items: list[Item], operator: Token) -> Shape:
        """A structure that can be part of a product: its groups are said for the whole product."""
        if len(items) != 1 or items[0].group or items[0].arm:
            self.fail(
                "put the parentheses round the whole product and its groups, as in (us(trait) @ ar1(time) | id)",
                operator.position,
            )
        return items[0].shape

    def _atom(self) -> list[Item]:
        token = self.next()
        if token.text == "(" and token.kind == "operator":
            inner: list[Item] = self.sum_of_items()
            if self.token.text != "|":
                self.expect(")", "to close the parenthesis")
                return inner if len(inner) == 1 else [Item(self._sum_of(inner, token), position=token.position)]
            bar = self.token
            return self._within([self._shape([item], bar) for item in inner], token)
        if token.kind != "name" or self.token.text != "(":
            if token.kind in ("name", "number", "quoted"):
                self.fail(f"{token.text} is not a covariance structure: expected name(columns | group)", token.position)
            self.unexpected(token)
        self.check_known(token)
        self.at += 1
        columns = self._columns(token)
        if self.token.text == "||":
            self.fail(f"'||' has no meaning inside {token.text}(...): use '|'", self.token.position)
        if self.token.text == "|":
            return self._within([Part(token.text, columns, (), token.position)], token)
        options = self.options()
        self.expect(")", f"to close {token.text}(...)")
        own, arm, shared = take_arm(options)
        self._check_shared(arm, shared, token)
        return [Item(Part(token.text, columns, own, token.position), (), arm, shared, token.position)]

    def _check_shared(self, arm: tuple[str, ...], shared: tuple[str, ...], start: Token) -> None:
        if shared and not arm:
            self.fail("shared= is for parameters by group: write by=column beside it, or arm / id", start.position)

    def sum_of_items(self) -> list[Item]:
        """Parse a sum of items."""
        found = self.item()
        while self.accept("+"):
            found += self.item()
        return found

    def _sum_of(self, items: list[Item], opening: Token) -> Composed:
        return Composed("+", tuple(self._shape([item], opening) for item in items))

    def _columns(self, name: Token) -> tuple[str, ...]:
        columns = self.plain_columns()
        if not columns and self.token.text != ")" and not self.option_follows:
            self.fail(
                f"expected columns in {name.text}(...), such as {name.text}(visit | id); compute others in the data "
                "first", self.token.position,
            )  # fmt: skip
        return columns

    def _within(self, shapes: list[Shape], start: Token) -> list[Item]:
        """Parse from the bar to the closing parenthesis, for structures left of it."""
        arm, group = self.arm_and_group()
        options, by, shared = take_arm(self.options())
        self.expect(")", "after the grouping factor")
        self._check_shared(arm or by, shared, start)
        if arm and by:
            self.fail(f"{arm[0]} / and by={by[0]} both say whose parameters are their own: write one", start.position)
        if options and not (len(shapes) == 1 and isinstance(shapes[0], Part)):
            self.fail(f"give the option {options[0][0]} to the structure that it is for", start.position)
        if options and isinstance(shapes[0], Part):
            if twice := set(dict(options)) & set(dict(shapes[0].options)):
                self.fail(f"the option {min(twice)} stands twice", start.position)
            shapes = [replace(shapes[0], options=shapes[0].options + options)]
        return [Item(shape, group, arm or by, shared, start.position) for shape in shapes]

    def arm_and_group(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Parse ``| arm / group`` or ``| group``."""
        bar = self.next()
        levels = self.groups()
        if len(levels) > 2:
            self.fail("expected a grouping factor, or arm / group for parameters of their own", bar.position)
        return (levels[0] if len(levels) == 2 else ()), levels[-1]


def take_arm(options: Options) -> tuple[Options, tuple[str, ...], tuple[str, ...]]:
    """Take ``by=column`` and ``shared=("name", ...)`` out of the options of a structure."""
    given = dict(options)
    by, shared = given.pop("by", ""), given.pop("shared", ())
    names = (shared,) if isinstance(shared, str) else tuple(str(name) for name in shared)  # type: ignore[attr-defined]
    return tuple(given.items()), (str(by),) if by else (), names


def _joined(operator: str, left: Shape, right: Shape) -> Composed:
    """``a @ b @ c`` is one product of three."""
    first = left.parts if isinstance(left, Composed) and left.operator == operator else (left,)
    return Composed(operator, (*first, right))


class _ResidualReader(StructureReader):
    what = "residual"

    def items(self) -> tuple[Item, ...]:
        if self.token.kind == "end":
            self.fail(f"expected a structure, {EXAMPLES}", 0)
        found = self.sum_of_items()
        if self.token.kind != "end":
            self.unexpected(self.token)
        return tuple(found)

    def place(self, name: str) -> tuple[Item, tuple[str, ...]]:
        columns = self.plain_columns()
        if not columns:
            self.fail("over: expected columns, such as 't | id' or 'lat + lon'", self.token.position)
        arm, group = self.arm_and_group() if self.token.text == "|" else ((), ())
        if self.token.kind != "end":
            self.unexpected(self.token)
        return Item(Part(name, columns), group, arm), columns


class _Variance(StructureReader):
    what = "variance"

    def function(self) -> tuple[str, str, tuple[object, ...], Options]:
        name = self.next()
        if name.kind != "name" or self.token.text != "(":
            self.fail("expected a variance function of a column, such as power(x)", name.position)
        self.check_known(name, "variance function")
        self.at += 1
        columns = self.plain_columns()
        if len(columns) != 1:
            self.fail(f"expected one column in {name.text}(...)", self.token.position)
        numbers = []
        while self.token.text == "," and self.tokens[self.at + 2].text != "=":
            self.at += 1
            numbers.append(self.literal())
        options = self.options()
        self.expect(")", f"to close {name.text}(...)")
        if self.token.kind != "end":
            self.unexpected(self.token)
        return name.text, columns[0], tuple(numbers), options
