"""lme4's formula language: text in, response, fixed part and random-effect terms out.

The operators ``+ - : * / ^``, the bars and the nesting of grouping factors are parsed here; what is inside a
function call goes through the whitelist of `jaxlmm.expressions`. formulaic only ever sees sums of products
that were written by this module, so that no text of the user's reaches it unchecked.
"""

from __future__ import annotations

import ast
import bisect
import difflib
import keyword
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NoReturn

from . import expressions
from .errors import FormulaError
from .terms import Bar, Formula, Side

__all__ = ["Bar", "Formula", "Side", "parse"]

_LONGEST_TEXT, _DEEPEST, _MOST_TERMS = 20_000, 40, 2_000
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<name>(?:[^\W\d]|\.(?=[^\W\d]))\w*(?:\.\w+)*)
    |(?P<quoted>`[^`]+`)
    |(?P<string>"[^"\\\n]*"|'[^'\\\n]*')
    |(?P<operator>\*\*|\|\||%[^%]*%|==|!=|<=|>=|[-+*/:^|~(),=<>\[\]])""",
    re.VERBOSE,
)
_ASCII_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def parse(text: str, known_structures: Collection[str] | None = None) -> Formula:
    """Parse a formula in lme4's syntax.

    Parameters
    ----------
    text : str
        For example ``"y ~ x * a + (1 + x | g) + (1 | site/plot) + offset(log(t))"``.
    known_structures : collection of str, optional
        Names allowed in ``name(lhs | g)``; None allows any.

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
    return _parse(text, names)


def parse_residual(text: str, known_structures: Collection[str]) -> tuple[Bar, Formula]:
    """Parse a residual structure such as ``"us(visit | id)"``.

    Returns
    -------
    its bar, and a formula in which the names of its columns are resolved

    Raises
    ------
    FormulaError
        When it is not one structure of one column within groups.
    """
    if not isinstance(text, str):
        raise FormulaError(f"residual must be text such as 'us(visit | id)', got {type(text).__name__}")
    example = "expected one structure of one column within subjects, such as us(visit | id)"
    if "|" not in text:
        raise FormulaError(f"residual={text!r}: {example}")
    formula = parse(f"residual ~ {text}", known_structures)
    if len(formula.bars) != 1 or formula.side.terms or formula.offsets:
        detail = "; separate parameters by arm, us(visit | arm / id), are not supported yet" if "/" in text else ""
        raise FormulaError(f"residual={text!r}: {example}{detail}")
    bar = formula.bars[0]
    if bar.structure is None or len(bar.group) != 1 or len(bar.side.terms) != 1 or len(bar.side.terms[0]) != 1:
        raise FormulaError(f"residual={text!r}: {example}")
    return bar, formula


@lru_cache(maxsize=256)
def _parse(text: str, known_structures: frozenset[str] | None) -> Formula:
    return _Parser(text, known_structures).formula()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


@dataclass
class _Sum:
    """Terms, bars and offsets met while parsing; ``()`` is the intercept, ``("0",)`` its removal."""

    terms: list[tuple[str, ...]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    offsets: list[str] = field(default_factory=list)
    position: int = 0

    def side(self) -> Side:
        intercept = True
        for term in self.terms:
            if term in ((), ("0",)):
                intercept = term == ()
        proper = [t for t in self.terms if t not in ((), ("0",))]
        return Side(intercept, tuple(sorted(_unique(proper), key=len)))


def _unique(terms: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Drop repeated terms; ``a:b`` and ``b:a`` are the same term."""
    found: dict[object, tuple[str, ...]] = {}
    for term in terms:
        found.setdefault(frozenset(term), term)
    return list(found.values())


class _Parser:
    """Recursive descent with R's precedence: ``^``, then ``:``, then ``* /``, then ``+ -``, then bars."""

    def __init__(self, text: str, known_structures: frozenset[str] | None):
        self.text = text
        self.shown = re.sub(r"\s", " ", text)  # one line, so that the caret stands under its place
        self.known_structures = known_structures
        self.aliases: dict[str, str] = {}
        self.stem = "col_"
        while self.stem in text:
            self.stem += "_"
        self.tokens = self._tokenise()
        self.at = 0

    def fail(self, message: str, position: int) -> NoReturn:
        raise FormulaError(message, text=self.shown, position=min(position, len(self.shown)))

    # -- tokens

    def _tokenise(self) -> list[_Token]:
        if len(self.text) > _LONGEST_TEXT:
            raise FormulaError(f"the formula is longer than {_LONGEST_TEXT} characters")
        tokens, position, opened = [], 0, []
        while position < len(self.text):
            match = _TOKEN.match(self.text, position)
            if match is None:
                self._bad_character(position)
            token = _Token(match.lastgroup or "", match.group(), position)
            position = match.end()
            if token.kind == "space":
                continue
            if token.text == "(":
                opened.append(token.position)
            elif token.text == ")":
                if not opened:
                    self.fail("this closing parenthesis was never opened", token.position)
                opened.pop()
            if len(opened) > _DEEPEST:
                self.fail("parentheses are nested too deeply", token.position)
            if token.kind == "name" and any(part.startswith("__") for part in token.text.split(".")):
                self.fail("names that start with '__' are not allowed", token.position)
            tokens.append(token)
        if opened:
            self.fail("this parenthesis is never closed", opened[-1])
        return [*tokens, _Token("end", "", len(self.text))]

    def _bad_character(self, position: int) -> NoReturn:
        character = self.text[position]
        if character == ".":
            self.fail("'.' (all other columns) is not supported: name the columns", position)
        if character in "`\"'":
            self.fail(f"this {character} is never closed, or there is nothing in it", position)
        if character.isdigit():
            self.fail("this is neither a number nor a name (put backquotes round unusual names)", position)
        self.fail(f"{character!r} has no meaning in a formula", position)

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    def next(self) -> _Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def expect(self, text: str, where: str) -> None:
        if self.token.text != text or self.token.kind == "string":
            found = self.token.text or "the end of the formula"
            self.fail(f"expected {text!r} {where}, found {found}", self.token.position)
        self.at += 1

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
            self._unexpected(self.token)
        aliases = tuple((alias, name) for name, alias in self.aliases.items())
        return Formula(self.text, response, found.side(), tuple(found.bars), tuple(found.offsets), aliases)

    def _unexpected(self, token: _Token) -> NoReturn:
        if token.text.startswith("%"):
            self.fail(f"the operator {token.text} is not supported; write a:b or a/b", token.position)
        if token.kind == "end":
            self.fail("the formula ends where a term is expected", token.position)
        self.fail(f"did not expect {token.text} here", token.position)

    # -- sums and products of terms

    def sum(self) -> _Sum:
        start = self.token.position
        total = _Sum(position=start)
        sign = self.next().text if self.token.text in ("+", "-") else "+"
        while True:
            position = self.token.position
            value = self.product()
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

    @staticmethod
    def _subtract(total: _Sum, value: _Sum) -> None:
        removed = {frozenset(t) for t in value.terms if t not in ((), ("0",))}
        total.terms = [t for t in total.terms if t in ((), ("0",)) or frozenset(t) not in removed]
        if () in value.terms:
            total.terms.append(("0",))
        if ("0",) in value.terms:
            total.terms.append(())

    def product(self) -> _Sum:
        left = self.interaction()
        while self.token.text in ("*", "/") or self.token.text.startswith("%"):
            operator = self.next()
            if operator.text.startswith("%"):
                self._unexpected(operator)
            right = self.interaction()
            self._plain(left, f"combined by {operator.text!r}", left.position)
            self._plain(right, f"combined by {operator.text!r}", right.position)
            if operator.text == "*":
                crossed = self._cross(left.terms, right.terms, operator.position)
                terms = left.terms + right.terms + crossed
            else:
                nest: tuple[str, ...] = tuple(dict.fromkeys(f for term in left.terms for f in term))
                terms = left.terms + self._cross([nest], right.terms, operator.position)
            left = _Sum(_unique(terms), position=left.position)
        return left

    def interaction(self) -> _Sum:
        left = self.power()
        while self.token.text == ":":
            operator = self.next()
            right = self.power()
            self._plain(left, "combined by ':'", left.position)
            self._plain(right, "combined by ':'", right.position)
            left = _Sum(self._cross(left.terms, right.terms, operator.position), position=left.position)
        return left

    def power(self) -> _Sum:
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
        return _Sum(sorted(terms, key=len), position=base.position)

    def _cross(self, left: list[tuple[str, ...]], right: list[tuple[str, ...]], position: int) -> list[tuple[str, ...]]:
        if len(left) * len(right) > _MOST_TERMS:
            self.fail(f"this makes more than {_MOST_TERMS} terms", position)
        return _unique([tuple(dict.fromkeys(a + b)) for a in left for b in right])

    def _plain(self, value: _Sum, what: str, position: int, constants: bool = False) -> None:
        """Refuse bars, offsets and (mostly) constants where only ordinary terms make sense."""
        if value.bars:
            self.fail(f"a random-effect term cannot be {what}, only added", value.bars[0].position)
        if value.offsets:
            self.fail(f"an offset cannot be {what}, only added", position)
        if not constants and any(t in ((), ("0",)) for t in value.terms):
            self.fail(f"0 and 1 (the intercept) cannot be {what}", position)

    def primary(self) -> _Sum:
        token = self.next()
        if token.text == "(" and token.kind == "operator":
            return self.parenthesis(token)
        if token.kind == "number":
            if token.text not in ("0", "1"):
                self.fail("numbers other than 0 and 1 (the intercept) need I(...), as in I(2 * x)", token.position)
            return _Sum([()] if token.text == "1" else [("0",)], position=token.position)
        if token.kind == "name" and self.token.text == "(":
            return self.call(token)
        if token.kind in ("name", "quoted"):
            return self._term([token])
        self.at -= 1
        self._unexpected(token)

    def parenthesis(self, opening: _Token) -> _Sum:
        inner = self.sum()
        if self.token.text in ("|", "||"):
            bars = self.bar(inner, opening.position, None)
            self.expect(")", "after the grouping factor")
            return _Sum(bars=bars, position=opening.position)
        self.expect(")", "to close the parenthesis")
        inner.position = opening.position
        return inner

    # -- function calls and random-effect terms

    def call(self, name: _Token) -> _Sum:
        closing = self._closing(self.at)
        inside = self.tokens[self.at + 1 : closing]
        if self._has_bar(inside):
            return self.structure(name)
        start = self.at - 1
        self.at = closing + 1
        if name.text == "offset":
            return _Sum(offsets=[self._elementwise(inside, "an offset", name.position)], position=name.position)
        return self._term(self.tokens[start : closing + 1])

    def _closing(self, opening: int) -> int:
        depth = 0
        for i in range(opening, len(self.tokens)):
            depth += {"(": 1, ")": -1}.get(self.tokens[i].text, 0)
            if depth == 0:
                return i
        self.fail("this parenthesis is never closed", self.tokens[opening].position)

    @staticmethod
    def _has_bar(tokens: list[_Token]) -> bool:
        depth = 0
        for token in tokens:
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            if depth == 0 and token.text in ("|", "||"):
                return True
        return False

    def structure(self, name: _Token) -> _Sum:
        """Parse ``name(lhs | group, option=value)``."""
        known = self.known_structures
        if known is not None and name.text not in known:
            close = difflib.get_close_matches(name.text, sorted(known), 1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
            self.fail(f"{name.text} is not a known covariance structure; {hint}", name.position)
        self.expect("(", "after the name of a structure")
        inner = self.sum()
        if self.token.text == "||":
            self.fail(f"'||' has no meaning inside {name.text}(...): use '|'", self.token.position)
        bars = self.bar(inner, name.position, name.text)
        self.expect(")", "after the grouping factor")
        return _Sum(bars=bars, position=name.position)

    def bar(self, inner: _Sum, position: int, structure: str | None) -> list[Bar]:
        """Parse from the bar up to the closing parenthesis; nesting and ``||`` are expanded as in lme4."""
        operator = self.next()
        if inner.bars:
            self.fail("a random-effect term cannot stand inside another one", inner.bars[0].position)
        self._plain(inner, "put left of a bar", position, constants=True)
        side = inner.side()
        if not side.intercept and not side.terms:
            self.fail("nothing is left of this bar: write 1 or a column", operator.position)
        groups = self.groups()
        options = self.options() if structure is not None else ()
        correlated = operator.text == "|"
        sides = [side] if correlated else _independent(side)
        return [Bar(s, g, correlated, structure, options, position) for s in sides for g in groups]

    def groups(self) -> list[tuple[str, ...]]:
        """Parse a grouping factor; ``a/b`` gives ``b:a`` and then ``a``."""
        levels = [self.group_interaction()]
        while self.token.text == "/":
            self.at += 1
            levels.append(self.group_interaction())
        if self.token.text not in (")", ","):
            text = self.token.text
            if text in ("|", "||"):
                self.fail("a random-effect term has only one bar", self.token.position)
            hint = "write one term for each factor" if text in ("+", "*") else "only : and / are supported"
            self.fail(f"{text} cannot be used in a grouping factor: {hint}", self.token.position)
        nested = [levels[k::-1] for k in reversed(range(len(levels)))]
        return [tuple(dict.fromkeys(name for part in parts for name in part)) for parts in nested]

    def group_interaction(self) -> tuple[str, ...]:
        names = self.group_name()
        while self.token.text == ":":
            self.at += 1
            names += self.group_name()
        return names

    def group_name(self) -> tuple[str, ...]:
        token = self.next()
        if token.kind == "quoted":
            return (token.text[1:-1],)
        if token.kind == "name" and self.token.text == "(" and token.text in ("C", "factor"):
            self.at += 1
            names = self.group_name()
            self.expect(")", "after the grouping factor")
            return names
        if token.kind == "name" and self.token.text == "(":
            self.fail("a grouping factor is a column; compute it in the data first", token.position)
        if token.kind == "name":
            return (token.text,)
        if token.text == "(" and token.kind == "operator":
            names = self.group_interaction()
            self.expect(")", "after the grouping factor (nesting a/b cannot stand in parentheses)")
            return names
        if token.kind == "number":
            self.fail("a grouping factor is a column, not a number", token.position)
        self.fail("the grouping factor is missing right of the bar", token.position)

    def options(self) -> tuple[tuple[str, object], ...]:
        found: dict[str, object] = {}
        while self.token.text == ",":
            self.at += 1
            name = self.next()
            if name.kind != "name" or name.text in found:
                self.fail("expected an option as name=value, each once", name.position)
            self.expect("=", "after the name of an option")
            found[name.text] = self._literal()
        return tuple(found.items())

    def _literal(self) -> object:
        start, depth = self.at, 0
        while self.token.kind != "end" and (depth or self.token.text not in (",", ")")):
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(self.next().text, 0)
        tokens = self.tokens[start : self.at]
        words = [{"TRUE": "True", "FALSE": "False"}.get(t.text, t.text) for t in tokens]
        try:
            return _frozen(ast.literal_eval(" ".join(words)))
        except (ValueError, SyntaxError, TypeError):
            self.fail(
                "an option must be a number, text, True, False or a list of these",
                self.tokens[start].position,
            )

    # -- expressions

    def _term(self, tokens: list[_Token]) -> _Sum:
        text = self._expression(tokens)
        if not set(expressions.variables(text)) - set(expressions.CONSTANTS):
            self.fail("this term uses no column", tokens[0].position)
        return _Sum([(text,)], position=tokens[0].position)

    def _elementwise(self, tokens: list[_Token], what: str, position: int) -> str:
        if not tokens:
            self.fail(f"{what} is empty", position)
        text = self._expression(tokens)
        if not expressions.is_elementwise(text):
            self.fail(f"{what} can only be arithmetic and functions of single rows, such as log(y)", position)
        if not expressions.variables(text) and what == "the response":
            self.fail(f"{what} uses no column", position)
        return text

    def _expression(self, tokens: list[_Token]) -> str:
        """Check tokens as a Python expression and return it in standard spelling."""
        words, starts, length = [], [], 0
        for i, token in enumerate(tokens):
            called = i + 1 < len(tokens) and tokens[i + 1].text == "("
            words.append(self._word(token, called))
            starts.append(length)
            length += len(words[-1]) + 1
        try:
            return expressions.normalise(" ".join(words))
        except expressions.ExpressionError as error:
            place = max(bisect.bisect_right(starts, error.column) - 1, 0)
            self.fail(str(error), tokens[place].position)

    def _word(self, token: _Token, called: bool) -> str:
        """Spell one token in Python; unusual names of columns get a stand-in."""
        if token.text == "^":
            return "**"
        if token.text in ("|", "||", "~") or token.text.startswith("%"):
            self.fail(f"{token.text} cannot stand here", token.position)
        if token.kind == "quoted":
            return self._alias(token.text[1:-1])
        if token.kind != "name" or called or token.text.startswith("contr."):
            return token.text
        if token.text == "np.pi":
            return "pi"
        if token.text in ("True", "False", "None"):
            return token.text
        plain = _ASCII_NAME.match(token.text) and not keyword.iskeyword(token.text)
        return token.text if plain else self._alias(token.text)

    def _alias(self, name: str) -> str:
        return self.aliases.setdefault(name, f"{self.stem}{len(self.aliases)}_")


def _frozen(value: object) -> object:
    """Turn lists into tuples, so that terms stay hashable."""
    return tuple(_frozen(v) for v in value) if isinstance(value, (list, tuple)) else value


def _independent(side: Side) -> list[Side]:
    """Split the left side of ``||`` as lme4 does: each term alone, a factor's columns together."""
    parts = [Side(True)] if side.intercept else []
    return parts + [Side(False, (term,)) for term in side.terms]
