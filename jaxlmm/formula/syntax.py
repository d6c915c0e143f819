"""What a formula says, as plain values: sums of terms, random-effect terms, the whole formula."""

from __future__ import annotations

from dataclasses import dataclass
from keyword import iskeyword


@dataclass(frozen=True)
class Side:
    """A sum of terms: the fixed part, or what stands left of a bar.

    Attributes
    ----------
    intercept : bool
        Whether it has one.
    terms : tuple of tuple of str
        Each term as its factors, ``(("a",), ("a", "log(x)"))`` for ``a + a:log(x)``, sorted by the number of
        factors and otherwise in the order written, as R does.
    """

    intercept: bool
    terms: tuple[tuple[str, ...], ...] = ()

    @property
    def text(self) -> str:
        """The sum as formulaic takes it, the intercept always said: ``"1 + Days"``, ``"0 + a:x"``."""
        return " + ".join(["1" if self.intercept else "0", *(":".join(term) for term in self.terms)])

    @property
    def factors(self) -> tuple[str, ...]:
        """The distinct expressions in its terms."""
        return tuple(dict.fromkeys(f for term in self.terms for f in term))


@dataclass(frozen=True)
class Part:
    """One covariance structure over columns, ``ar1(time, correlation=0.5)``.

    Attributes
    ----------
    name : str
    columns : tuple of str
        Names of columns of the data.
    options : tuple of (str, object)
    position : int
        Where it starts in the text.
    """

    name: str
    columns: tuple[str, ...] = ()
    options: tuple[tuple[str, object], ...] = ()
    position: int = 0

    @property
    def text(self) -> str:
        """The structure as it was written, without its options."""
        return f"{self.name}({' + '.join(self.columns)})"


@dataclass(frozen=True)
class Composed:
    """Structures put together by ``+`` (sum), ``*`` (product entry by entry) or ``@`` (Kronecker product)."""

    operator: str
    parts: tuple[Part | Composed, ...]

    @property
    def text(self) -> str:
        """The whole as it was written."""
        return "(" + f" {self.operator} ".join(part.text for part in self.parts) + ")"


@dataclass(frozen=True)
class Item:
    """A structure within the groups of a factor: an item of ``residual=``, or a term of the formula such as it.

    Attributes
    ----------
    shape : Part or Composite
    group : tuple of str
        Columns whose interaction is the grouping factor; none for one structure over all rows.
    arm : tuple of str
        Columns whose interaction has parameters of its own in each level, ``us(visit | arm / id)``.
    shared : tuple of str
        Parameters that all arms have in common.
    position : int
    """

    shape: Part | Composed
    group: tuple[str, ...] = ()
    arm: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    position: int = 0

    @property
    def text(self) -> str:
        """The item as it was written, without options."""
        if not self.group and not self.arm:
            return self.shape.text
        group = " / ".join(":".join(names) for names in (self.arm, self.group) if names)
        return f"{self.shape.text[:-1]} | {group})"


@dataclass(frozen=True)
class Bar:
    """One random-effect term ``(lhs | group)``.

    Attributes
    ----------
    side : Side
        What stands left of the bar.
    group : tuple of str
        Columns whose interaction is the grouping factor; ``(1 | a/b)`` gives ``("b", "a")`` and ``("a",)``. None for
        a structure over all rows.
    correlated : bool
        False for the parts of ``(lhs || group)``, which become one `Bar` for each term, as in lme4.
    structure : str or None
        The name in ``name(lhs | group)``; None for plain parentheses.
    options : tuple of (str, object)
        Further literal arguments, ``name(lhs | group, d=2)``.
    position : int
        Where the term starts in the text.
    shape : Part, Composite or None
        The structure over columns that the term may be read as, where its left side is nothing but their names.
    """

    side: Side
    group: tuple[str, ...]
    correlated: bool = True
    structure: str | None = None
    options: tuple[tuple[str, object], ...] = ()
    position: int = 0
    shape: Part | Composed | None = None

    @property
    def lhs(self) -> str:
        """The left side as text, for example ``"1 + Days"``."""
        return self.side.text

    @property
    def group_label(self) -> str:
        """The grouping factor as lme4 writes it, for example ``"cask:batch"``."""
        return ":".join(self.group)

    @property
    def group_text(self) -> str:
        """The grouping factor as a formula has it."""
        return ":".join(map(quoted, self.group))


@dataclass(frozen=True)
class Formula:
    """A parsed formula.

    Attributes
    ----------
    text : str
        As given.
    response : str
        Left of ``~``: a column or arithmetic on columns.
    side : Side
        The fixed part, bars and offsets taken out.
    bars : tuple of Bar
        Random-effect terms in the order written, nesting and ``||`` expanded.
    offsets : tuple of str
        Arguments of ``offset()``.
    aliases : tuple of (str, str)
        Stand-ins used in expressions for columns whose names are not plain identifiers, with those names.
    """

    text: str
    response: str
    side: Side
    bars: tuple[Bar, ...] = ()
    offsets: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()

    @property
    def fixed(self) -> str:
        """The fixed part as text, the intercept always said: ``"1 + Days"``."""
        return self.side.text

    def column(self, name: str) -> str:
        """Return the column of the data that a name in an expression stands for."""
        return dict(self.aliases).get(name, name)

    def readable(self, label: str) -> str:
        """Put the names of columns back for their stand-ins in a label."""
        for alias, name in self.aliases:
            label = label.replace(alias, name)
        return label

    def written(self, text: str) -> str:
        """Put the names of columns back for their stand-ins, as a formula has them."""
        for alias, name in self.aliases:
            text = text.replace(alias, quoted(name))
        return text


def quoted(name: str) -> str:
    """The name of a column as a formula has it, in backticks where it is no plain one."""
    return name if name.isidentifier() and not iskeyword(name) else f"`{name}`"
