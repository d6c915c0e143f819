"""lme4's formula language: text in, response, fixed part and random-effect terms out.

The operators ``+ - : * / ^``, the bars and the nesting of grouping factors are parsed here; what is inside a
function call goes through the whitelist of `jaxlmm.formula.expressions`. formulaic only ever sees sums of products
that were written by this module, so that no text of the user's reaches it unchecked.
"""

from __future__ import annotations

import bisect
import itertools
import keyword
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache

from ..covariance import NAMES, OVER_COORDINATES
from ..errors import FormulaError
from . import expressions
from .structures import StructureReader
from .syntax import Bar, Formula, Part, Side
from .tokens import Reader, Token

__all__ = ["Bar", "Formula", "Side", "parse"]

_MOST_TERMS = 2_000
_VALUES = {"TRUE", "FALSE", "True", "False", "None", *(f"contr.{name}" for name in expressions.CONTRASTS)}
_VALUES |= set(expressions.PATSY)
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
_DOT = "every.other.column"
_ASCII_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def parse(
    text: str, known_structures: Collection[str] | None = None, columns: Collection[str] = (),
    elsewhere: Collection[str] = (),
) -> Formula:  # fmt: skip
    """Parse a formula in lme4's syntax.

    Parameters
    ----------
    text : str
        For example ``"y ~ x * a + (1 + x | g) + (1 | site/plot) + offset(log(t))"``.
    known_structures : collection of str, optional
        Names allowed in ``name(lhs | g)``; None allows any.
    columns : collection of str
        Columns of the data: a name among them is the column, whatever it means elsewhere (``pi``, ``exp``, ``C``).
    elsewhere : collection of str
        Columns of other arguments, which ``.`` leaves out. It stands for every column but these, those of the response
        and of offsets, and grouping factors; the text of the formula that is returned has their names.

    Returns
    -------
    Formula

    Raises
    ------
    FormulaError
        With a caret under the place that is not understood.
    """
    if not isinstance(text, str):
        raise FormulaError(f"formula must be text such as 'y ~ x + (1 | g)', got {type(text).__name__}")
    names = None if known_structures is None else frozenset(known_structures)
    reserved = expressions.RESERVED & set(columns)
    if "." in text:
        text = _without_dots(text, names, tuple(columns), reserved, set(elsewhere))
    return _parse(text, names, reserved)


def _without_dots(
    text: str, known: frozenset[str] | None, columns: tuple[str, ...], reserved: frozenset[str], elsewhere: set[str]
) -> str:
    """The text with the names of columns in the place of ``.``."""
    reader = Reader(text)
    dots = [token.position for token in reader.tokens if token.text == "." and token.kind == "operator"]
    if not dots:
        return text
    stem = _DOT
    while stem in text or stem in columns:
        stem += "_"

    def with_dots(names: str) -> str:
        starts = [0, *(place + 1 for place in dots)]
        return names.join(text[a:b] for a, b in zip(starts, [*dots, len(text)], strict=True))

    found = _parse(with_dots(stem), known, reserved)
    used = [found.column(name) for part in (found.response, *found.offsets) for name in expressions.variables(part)]
    used += [name for bar in found.bars for name in (*bar.group, str(dict(bar.options).get("by", "")))]
    others = [name for name in columns if name not in {*used, *elsewhere}]
    if not others or any("`" in name for name in others):
        reader.fail("'.' stands for all other columns of the data, of which there are none to name here", dots[0])
    plain = [name if _ASCII_NAME.match(name) and not keyword.iskeyword(name) else f"`{name}`" for name in others]
    return with_dots(f"({' + '.join(plain)})")


@lru_cache(maxsize=256)
def _parse(text: str, known_structures: frozenset[str] | None, columns: frozenset[str]) -> Formula:
    return _Parser(text, known_structures, columns).formula()


@dataclass
class _Parsed:
    """Terms, bars and offsets met while parsing; ``()`` is the intercept, ``("0",)`` its removal.

    `order` has the factors of terms as they appear in the text, those of subtracted terms too.
    """

    terms: list[tuple[str, ...]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    offsets: list[str] = field(default_factory=list)
    position: int = 0
    order: tuple[str, ...] = ()

    def side(self) -> Side:
        """The sum as R's ``terms()`` has it: factors of a term in the order of their first appearance."""
        intercept = True
        for term in self.terms:
            if term in ((), ("0",)):
                intercept = term == ()
        place = {factor: i for i, factor in reversed(list(enumerate(self.order)))}
        proper = [tuple(sorted(t, key=place.__getitem__)) for t in self.terms if t not in ((), ("0",))]
        return Side(intercept, tuple(sorted(_unique(proper), key=len)))


def _unique(terms: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Drop repeated terms; ``a:b`` and ``b:a`` are the same term."""
    found: dict[object, tuple[str, ...]] = {}
    for term in terms:
        found.setdefault(frozenset(term), term)
    return list(found.values())


class _Parser(StructureReader):
    """Recursive descent with R's precedence: ``^``, then ``:``, then ``* /``, then ``+ -``, then bars."""

    def __init__(self, text: str, known_structures: frozenset[str] | None, columns: frozenset[str]):
        super().__init__(text, known_structures)
        self.columns = columns  # of the data, those that would mean something else
        self.aliases: dict[str, str] = {}
        self.stem = "col_"
        while self.stem in text:
            self.stem += "_"

    # -- the formula

    def formula(self) -> Formula:
        tildes = [i for i, t in enumerate(self.tokens) if t.text == "~" and t.kind == "operator"]
        if not tildes:
            self.fail("a formula needs a '~' between the response and the model", len(self.text))
        if len(tildes) > 1:
            self.fail("a formula has only one '~'", self.tokens[tildes[1]].position)
        if tildes[0] == 0:
            self.fail("the response is missing left of '~'", self.tokens[0].position)
        response = self._elementwise(self.tokens[: tildes[0]], "the response", self.tokens[0].position)
        self.at = tildes[0] + 1
        if self.token.kind == "end":
            self.fail("the model is missing right of '~' (write '1' for an intercept only)", len(self.text))
        found = self.sum()
        if self.token.text in ("|", "||"):
            self.fail("put parentheses round a random-effect term: (1 | g)", self.token.position)
        if self.token.kind != "end":
            self.unexpected(self.token)
        aliases = tuple((alias, name) for name, alias in self.aliases.items())
        return Formula(self.text, response, found.side(), tuple(found.bars), tuple(found.offsets), aliases)

    # -- sums and products of terms

    def sum(self) -> _Parsed:
        start = self.token.position
        total = _Parsed(position=start)
        compared = self._compared()
        sign = self.next().text if self.token.text in ("+", "-") else "+"
        while True:
            position = self.token.position
            value = self._comparison(compared) if self.at == compared else self.product()
            total.order += value.order
            if sign == "+":
                total.terms += value.terms
                total.bars += value.bars
                total.offsets += value.offsets
            else:
                self._plain(value, "subtracted", position, constants=True)
                self._subtract(total, value)
            if len(total.terms) > _MOST_TERMS:
                self.fail(f"the formula has more than {_MOST_TERMS} terms", position)
            if self.token.text not in ("+", "-"):
                return total
            sign = self.next().text

    def _pieces(self) -> list[tuple[int, int]]:
        """Places of the first and after the last token of what is added or subtracted from here on."""
        depth, start, pieces = 0, self.at, []
        for i in range(self.at, len(self.tokens)):
            token = self.tokens[i]
            ends = token.kind == "end" or (token.kind == "operator" and token.text in ("|", "||", ",", ")"))
            signed = i > self.at and self.tokens[i - 1].text in (*COMPARISONS, "+", "-", "*", "/")
            if depth == 0 and (ends or (token.text in ("+", "-") and not signed)):
                pieces += [(start, i)] if i > start else []
                start = i + 1
                if ends:
                    break
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.text, 0) if token.kind == "operator" else 0
        return pieces

    def _compared(self) -> int | None:
        """Place of a comparison among what is added from here on, refused where there is more than it and bars."""

        def operators(a: int, b: int) -> list[Token]:
            depths = itertools.accumulate({"(": 1, ")": -1}.get(t.text, 0) for t in self.tokens[a:b])
            return [t for t, depth in zip(self.tokens[a:b], depths, strict=True) if t.text in COMPARISONS and not depth]

        pieces = self._pieces()
        found = [(a, b) for a, b in pieces if operators(a, b)]
        if not found:
            return None
        bars = [p for p in pieces if any(t.text in ("|", "||") for t in self.tokens[p[0] : p[1]])]
        if len(found) > 1 or len(pieces) > 1 + len(bars):
            self.fail(
                "a comparison beside other terms needs parentheses, (x > 0) + t, and sums in one I(x + t > 0); R "
                "compares all that is on its sides",
                operators(*found[0])[0].position,
            )
        return found[0][0]

    def _comparison(self, start: int) -> _Parsed:
        """Parse ``x > 0``, which is ``I(x > 0)``."""
        ((_, stop),) = [piece for piece in self._pieces() if piece[0] == start]
        tokens, self.at = self.tokens[start:stop], stop
        name = Token("name", "I", tokens[0].position)
        around = [Token("operator", text, tokens[0].position) for text in "()"]
        return self._term([name, around[0], *tokens, around[1]])

    @staticmethod
    def _subtract(total: _Parsed, value: _Parsed) -> None:
        removed = {frozenset(t) for t in value.terms if t not in ((), ("0",))}
        total.terms = [t for t in total.terms if t in ((), ("0",)) or frozenset(t) not in removed]
        if () in value.terms:
            total.terms.append(("0",))
        if ("0",) in value.terms:
            total.terms.append(())

    def product(self) -> _Parsed:
        left = self.interaction()
        while self.token.text in ("*", "/") or self.token.text.startswith("%"):
            operator = self.next()
            if operator.text.startswith("%"):
                self.unexpected(operator)
            right = self.interaction()
            self._plain(left, f"combined by {operator.text!r}", left.position)
            self._plain(right, f"combined by {operator.text!r}", right.position)
            if operator.text == "*":
                crossed = self._cross(left.terms, right.terms, operator.position)
                terms = left.terms + right.terms + crossed
            else:
                nest: tuple[str, ...] = tuple(dict.fromkeys(f for term in left.terms for f in term))
                terms = left.terms + self._cross([nest], right.terms, operator.position)
            left = _Parsed(_unique(terms), position=left.position, order=left.order + right.order)
        return left

    def interaction(self) -> _Parsed:
        left = self.power()
        while self.token.text == ":":
            operator = self.next()
            right = self.power()
            self._plain(left, "combined by ':'", left.position)
            self._plain(right, "combined by ':'", right.position)
            crossed = self._cross(left.terms, right.terms, operator.position)
            left = _Parsed(crossed, position=left.position, order=left.order + right.order)
        return left

    def power(self) -> _Parsed:
        base = self.primary()
        if self.token.text not in ("^", "**"):
            return base
        operator = self.next()
        exponent = self.next()
        if not re.fullmatch(r"[1-9]\d{0,2}", exponent.text):
            self.fail("a power of terms must be a whole number; for powers of x write I(x**2)", exponent.position)
        self._plain(base, "raised to a power", base.position)
        terms = base.terms
        for _ in range(int(exponent.text) - 1):
            grown = _unique(terms + self._cross(terms, base.terms, operator.position))
            if len(grown) == len(terms):
                break
            terms = grown
        return _Parsed(sorted(terms, key=len), position=base.position, order=base.order)

    def _cross(self, left: list[tuple[str, ...]], right: list[tuple[str, ...]], position: int) -> list[tuple[str, ...]]:
        if len(left) * len(right) > _MOST_TERMS:
            self.fail(f"this makes more than {_MOST_TERMS} terms", position)
        return _unique([tuple(dict.fromkeys(a + b)) for a in left for b in right])

    def _plain(self, value: _Parsed, what: str, position: int, constants: bool = False) -> None:
        """Refuse bars, offsets and (mostly) constants where only ordinary terms make sense."""
        if value.bars:
            self.fail(f"a random-effect term cannot be {what}, only added", value.bars[0].position)
        if value.offsets:
            self.fail(f"an offset cannot be {what}, only added", position)
        if not constants and any(t in ((), ("0",)) for t in value.terms):
            self.fail(f"0 and 1 (the intercept) cannot be {what}", position)

    def primary(self) -> _Parsed:
        token = self.next()
        if token.text == "(" and token.kind == "operator":
            return self.parenthesis(token)
        if token.kind == "number":
            if token.text not in ("0", "1"):
                self.fail("numbers other than 0 and 1 (the intercept) need I(...), as in I(2 * x)", token.position)
            return _Parsed([()] if token.text == "1" else [("0",)], position=token.position)
        if token.kind == "name" and self.token.text == "(":
            return self.call(token)
        if token.kind in ("name", "quoted"):
            return self._term([token])
        self.at -= 1
        self.unexpected(token)

    def parenthesis(self, opening: Token) -> _Parsed:
        if any(token.text == "@" for token in self.tokens[self.at : self._closing(self.at - 1)]):
            return self.composite(opening)
        inner = self.sum()
        if self.token.text in ("|", "||"):
            bars = self.bar(inner, opening.position, None)
            self.expect(")", "after the grouping factor")
            return _Parsed(bars=bars, position=opening.position)
        self.expect(")", "to close the parenthesis")
        inner.position = opening.position
        return inner

    # -- function calls and random-effect terms

    def call(self, name: Token) -> _Parsed:
        closing = self._closing(self.at)
        inside = self.tokens[self.at + 1 : closing]
        if self._has_bar(inside) or self._is_over_rows(name.text):
            return self.structure(name)
        if name.text in NAMES and name.text in expressions.ELEMENTWISE and self._is_sum_of_columns(inside):
            columns = " + ".join(token.text for token in inside[::2])
            self.fail(
                f"{name.text}({columns}) is the {name.text} of a sum here; for a covariance over places write "
                f"sp_{name.text}({columns}), for the {name.text} of the sum I({name.text}({columns}))", name.position,
            )  # fmt: skip
        start = self.at - 1
        self.at = closing + 1
        if name.text == "offset":
            return _Parsed(offsets=[self._elementwise(inside, "an offset", name.position)], position=name.position)
        return self._term(self.tokens[start : closing + 1])

    def _is_over_rows(self, name: str) -> bool:
        """Whether it names a structure that can be over all rows, without a bar, and no function of the formula."""
        is_own = self.known_structures is not None and name in self.known_structures and name not in NAMES
        return name.startswith("sp_") or ((is_own or name in OVER_COORDINATES) and name not in expressions.RESERVED)

    @staticmethod
    def _is_sum_of_columns(tokens: list[Token]) -> bool:
        names, signs = tokens[::2], tokens[1::2]
        return bool(signs) and all(t.kind in ("name", "quoted") for t in names) and all(t.text == "+" for t in signs)

    def _closing(self, opening: int) -> int:
        depth = 0
        for i in range(opening, len(self.tokens)):
            depth += {"(": 1, ")": -1}.get(self.tokens[i].text, 0)
            if depth == 0:
                return i
        self.fail("this parenthesis is never closed", self.tokens[opening].position)

    @staticmethod
    def _has_bar(tokens: list[Token]) -> bool:
        depth = 0
        for token in tokens:
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            if depth == 0 and token.text in ("|", "||"):
                return True
        return False

    def structure(self, name: Token) -> _Parsed:
        """Parse ``name(lhs | group, option=value)``, or without a bar a structure over all rows."""
        self.check_known(name, also=f"; or is a '+' missing, {name.text} + (...)?")
        self.expect("(", "after the name of a structure")
        start = self.at
        columns = self.plain_columns()
        self.at = start
        inner = self.sum()
        if self.token.text == "||":
            self.fail(f"'||' has no meaning inside {name.text}(...): use '|'", self.token.position)
        if self.token.text == "|":
            bars = self.bar(inner, name.position, name.text, columns)
        elif columns:
            options = self.options()
            shape = Part(name.text, columns, options, name.position)
            bars = [Bar(Side(False), (), True, name.text, options, name.position, shape)]
        else:
            self.fail(f"{name.text} over all rows takes columns, such as {name.text}(x + y)", name.position)
        self.expect(")", f"to close {name.text}(...)")
        return _Parsed(bars=bars, position=name.position)

    def composite(self, opening: Token) -> _Parsed:
        """Parse ``(us(trait) @ ar1(time) | group, by=arm)``."""
        self.at -= 1
        bars = []
        for item in self.item():
            options = (("by", item.arm[0]), ("shared", item.shared)) if item.arm else ()
            bars.append(Bar(Side(False), item.group, True, None, options, item.position, item.shape))
        return _Parsed(bars=bars, position=opening.position)

    def arm_and_group(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Parse the one grouping factor of a product of structures."""
        bar = self.next()
        levels = self.groups()
        if len(levels) > 1:
            self.fail("products of structures do not nest: write a term for each grouping factor", bar.position)
        return (), levels[0]

    def bar(self, inner: _Parsed, position: int, structure: str | None, columns: tuple[str, ...] = ()) -> list[Bar]:
        """Parse from the bar up to the closing parenthesis; nesting and ``||`` are expanded as in lme4."""
        operator = self.next()
        if inner.bars:
            self.fail("a random-effect term cannot stand inside another one", inner.bars[0].position)
        self._plain(inner, "put left of a bar", position, constants=True)
        side = inner.side()
        if not side.intercept and not side.terms:
            self.fail("nothing is left of this bar: write 1 or a column", operator.position)
        nested = self._group_sets()
        options = self.options() if structure is not None else ()
        correlated = operator.text == "|"
        sides = [side] if correlated else _independent(side)
        shape = Part(structure, columns, options, position) if structure is not None and columns else None
        return [Bar(s, g, correlated, structure, options, position, shape) for s in sides for g in nested]

    def _group_sets(self) -> list[tuple[str, ...]]:
        """Grouping factors of the terms that a bar makes: ``a/b`` gives ``b:a`` and ``a``, ``a*b`` also ``b``."""
        factors = [self.group_interaction()]
        while self.accept("*"):
            factors.append(self.group_interaction())
        if len(factors) == 1:
            return _nested(self.groups(factors[0]))
        if self.token.text == "/" or len(factors) > 5:
            self.fail("write one term for each of these grouping factors", self.token.position)
        sets = [s for k in range(1, len(factors) + 1) for s in itertools.combinations(factors, k)]
        return [tuple(dict.fromkeys(name for part in chosen for name in part)) for chosen in sets]

    # -- expressions

    def _term(self, tokens: list[Token]) -> _Parsed:
        text = self._expression(tokens)
        if not set(expressions.variables(text)) - set(expressions.CONSTANTS):
            self.fail("this term uses no column", tokens[0].position)
        return _Parsed([(text,)], position=tokens[0].position, order=(text,))

    def _elementwise(self, tokens: list[Token], what: str, position: int) -> str:
        if not tokens:
            self.fail(f"{what} is empty", position)
        text = self._expression(tokens)
        if not expressions.is_elementwise(text):
            advice = ""
            if what == "the response" and text.partition("(")[0] in ("scale", "center"):
                advice = "; standardise it in the data first, z = (y - y.mean()) / y.std(), and write z ~ ..."
            self.fail(f"{what} can only be arithmetic and functions of single rows, such as log(y){advice}", position)
        if not expressions.variables(text) and what == "the response":
            self.fail(f"{what} uses no column", position)
        return text

    def _expression(self, tokens: list[Token]) -> str:
        """Check tokens as a Python expression and return it in standard spelling."""
        words, starts, length = [], [], 0
        for i, token in enumerate(tokens):
            after = tokens[i + 1].text if i + 1 < len(tokens) else ""
            words.append(self._word(token, after, i > 0 and tokens[i - 1].text in (",", "=", "[")))
            starts.append(length)
            length += len(words[-1]) + 1
        try:
            return expressions.normalise(" ".join(words))
        except expressions.ExpressionError as error:
            place = max(bisect.bisect_right(starts, error.column) - 1, 0)
            self.fail(str(error), tokens[place].position)

    def _word(self, token: Token, after: str, further: bool) -> str:
        """Spell one token in Python; names of columns that are unusual, or mean something else, get a stand-in.

        Parameters
        ----------
        after : the next word, which says whether it is the name of a function or of an argument
        further : whether it is a further argument, where True, None and contrasts are themselves
        """
        called = after in ("(", "=")
        if token.text == "^":
            return "**"
        if token.text in ("|", "||", "~") or token.text.startswith("%"):
            self.fail(f"{token.text} cannot stand here", token.position)
        if token.kind == "quoted":
            return self._alias(token.text[1:-1])
        if called and token.text in expressions.R_NAMES:
            return expressions.R_NAMES[token.text]
        if after == "(" and token.text in expressions.ADVICE:
            self.fail(
                f"{token.text} is not a function of formulas here: {expressions.ADVICE[token.text]}", token.position
            )
        if called and "." in token.text and token.text.partition(".")[0] not in ("np", "contr"):
            self.fail(f"{token.text} is not a function that formulas can call; compute it in the data", token.position)
        if token.kind != "name" or called:
            return token.text
        if token.text in self.columns and not (further and token.text in _VALUES):
            return self._alias(token.text)
        if token.text.startswith("contr."):
            return token.text
        if token.text == "np.pi":
            return "pi"
        if token.text in ("True", "False", "None"):
            return token.text
        plain = _ASCII_NAME.match(token.text) and not keyword.iskeyword(token.text)
        return token.text if plain else self._alias(token.text)

    def _alias(self, name: str) -> str:
        return self.aliases.setdefault(name, f"{self.stem}{len(self.aliases)}_")


def _independent(side: Side) -> list[Side]:
    """Split the left side of ``||`` as lme4 does: each term alone, a factor's columns together."""
    parts = [Side(True)] if side.intercept else []
    return parts + [Side(False, (term,)) for term in side.terms]


def _nested(levels: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Expand nesting as in lme4: ``a/b`` gives ``b:a`` and then ``a``."""
    paths = [levels[k::-1] for k in reversed(range(len(levels)))]
    return [tuple(dict.fromkeys(name for part in parts for name in part)) for parts in paths]
