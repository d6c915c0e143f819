"""Reading the text of a formula: tokens, errors with a caret, and what all parsers share - groups and options."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import NoReturn

from ..errors import FormulaError

LONGEST_TEXT, DEEPEST = 20_000, 40
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<name>(?:[^\W\d]|\.(?=[^\W\d]))\w*(?:\.\w+)*)
    |(?P<quoted>`[^`]+`)
    |(?P<string>"[^"\\\n]*"|'[^'\\\n]*')
    |(?P<operator>\*\*|\|\||%[^%]*%|==|!=|<=|>=|[-+*/:^|~(),=<>\[\]@.])""",
    re.VERBOSE,
)
_LITERALS = {"TRUE": "True", "FALSE": "False", "inf": "1e999", "Inf": "1e999"}

Options = tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Token:
    """One word of the text: its kind ("name", "number", ..., "end"), itself, and where it starts."""

    kind: str
    text: str
    position: int


class Reader:
    """Tokens of a text and a place among them."""

    what = "formula"

    def __init__(self, text: str):
        self.text = text
        self.shown = re.sub(r"\s", " ", text)  # one line, so that the caret stands under its place
        self.tokens = self._tokenise()
        self.at = 0

    def fail(self, message: str, position: int) -> NoReturn:
        """Raise the error with a caret under a place."""
        raise FormulaError(message, text=self.shown, position=min(position, len(self.shown)))

    # -- tokens

    def _tokenise(self) -> list[Token]:
        if len(self.text) > LONGEST_TEXT:
            raise FormulaError(f"the {self.what} is longer than {LONGEST_TEXT} characters")
        tokens, position, opened = [], 0, []
        while position < len(self.text):
            match = _TOKEN.match(self.text, position)
            if match is None:
                self._bad_character(position)
            token = Token(match.lastgroup or "", match.group(), position)
            position = match.end()
            if token.kind == "space":
                continue
            if token.text == "(":
                opened.append(token.position)
            elif token.text == ")":
                if not opened:
                    self.fail("this closing parenthesis was never opened", token.position)
                opened.pop()
            if len(opened) > DEEPEST:
                self.fail("parentheses are nested too deeply", token.position)
            if token.kind == "name" and any(part.startswith("__") for part in token.text.split(".")):
                self.fail("names that start with '__' are not allowed", token.position)
            tokens.append(token)
        if opened:
            self.fail("this parenthesis is never closed", opened[-1])
        return [*tokens, Token("end", "", len(self.text))]

    def _bad_character(self, position: int) -> NoReturn:
        character = self.text[position]
        if character in "`\"'":
            self.fail(f"this {character} is never closed, or there is nothing in it", position)
        if character in "!&$":
            self.fail(f"{character!r} has no meaning in a {self.what}: compute the column in the data first", position)
        if character.isdigit():
            self.fail("this is neither a number nor a name (put backquotes round unusual names)", position)
        self.fail(f"{character!r} has no meaning in a {self.what}", position)

    @property
    def token(self) -> Token:
        """The token that comes next."""
        return self.tokens[self.at]

    def next(self) -> Token:
        """Take the next token."""
        self.at += 1
        return self.tokens[self.at - 1]

    def accept(self, text: str) -> bool:
        """Take the next token if it is this operator."""
        found = self.token.text == text and self.token.kind == "operator"
        self.at += found
        return found

    def expect(self, text: str, where: str) -> None:
        """Take the next token, which must be this."""
        if self.token.text != text or self.token.kind == "string":
            found = self.token.text or f"the end of the {self.what}"
            self.fail(f"expected {text!r} {where}, found {found}", self.token.position)
        self.at += 1

    def unexpected(self, token: Token) -> NoReturn:
        """Say that a token cannot stand where it is."""
        if token.text.startswith("%"):
            advice = "write a:b or a/b, or compare, (a == 'a1')" if token.text == "%in%" else "compute it in the data"
            self.fail(f"the operator {token.text} is not supported; {advice}", token.position)
        if self.token.text == ":" and token.text == ":":
            self.fail("names of packages are not known here: write ns(x, 3) for splines::ns(x, 3)", token.position)
        if token.kind == "end":
            self.fail(f"the {self.what} ends where a term is expected", token.position)
        self.fail(f"did not expect {token.text} here", token.position)

    # -- grouping factors

    def groups(self, first: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        """Parse grouping factors between slashes, each as the columns of an interaction; `first` was read before."""
        levels = [first or self.group_interaction()]
        while self.accept("/"):
            levels.append(self.group_interaction())
        if self.token.text not in (")", ",") and self.token.kind != "end":
            text = self.token.text
            if text in ("|", "||"):
                self.fail("a random-effect term has only one bar", self.token.position)
            hint = "write one term for each factor" if text in ("+", "*") else "only : and / are supported"
            self.fail(f"{text} cannot be used in a grouping factor: {hint}", self.token.position)
        return levels

    def group_interaction(self) -> tuple[str, ...]:
        """Parse ``a:b``."""
        names = self._group_name()
        while self.accept(":"):
            names += self._group_name()
        return names

    def _group_name(self) -> tuple[str, ...]:
        token = self.next()
        if token.kind == "quoted":
            return (token.text[1:-1],)
        if token.kind == "name" and self.token.text == "(" and token.text in ("C", "factor", "as.factor"):
            self.at += 1
            names = self._group_name()
            self.expect(")", "after the grouping factor")
            return names
        if token.kind == "name" and self.token.text == "(":
            advice = "write a:b" if token.text == "interaction" else "compute it in the data first"
            self.fail(f"a grouping factor is a column; {advice}", token.position)
        if token.kind == "name":
            return (token.text,)
        if token.text == "(" and token.kind == "operator":
            names = self.group_interaction()
            self.expect(")", "after the grouping factor (nesting a/b cannot stand in parentheses)")
            return names
        if token.kind == "number":
            self.fail("a grouping factor is a column, not a number", token.position)
        self.fail("the grouping factor is missing right of the bar", token.position)

    # -- columns and options of structures

    def plain_columns(self) -> tuple[str, ...]:
        """Take ``a + b``, names of columns and nothing else; else nothing is taken and there are none."""
        start, names = self.at, []
        while self.token.kind in ("name", "quoted"):
            token = self.next()
            names.append(token.text[1:-1] if token.kind == "quoted" else token.text)
            if not self.accept("+"):
                if self.token.text in (")", ",", "|", "||") or self.token.kind == "end":
                    return tuple(dict.fromkeys(names))
                break
        self.at = start
        return ()

    def options(self) -> Options:
        """Parse ``, name=value`` up to the closing parenthesis; the first may stand without its comma."""
        found: dict[str, object] = {}
        while self.accept(",") or (not found and self.option_follows):
            name = self.next()
            if name.kind != "name" or name.text in found:
                self.fail("expected an option as name=value, each once", name.position)
            self.expect("=", "after the name of an option")
            found[name.text] = self._column_name() if name.text == "by" else self.literal()
        return tuple(found.items())

    @property
    def option_follows(self) -> bool:
        """Whether the next tokens are ``name =``."""
        return self.token.kind == "name" and self.tokens[self.at + 1].text == "="

    def _column_name(self) -> str:
        token = self.next()
        if token.kind not in ("name", "quoted", "string"):
            self.fail("expected the name of a column", token.position)
        return token.text if token.kind == "name" else token.text[1:-1]

    def literal(self) -> object:
        """Parse a number, text, True, False, inf or a list of these; lists become tuples."""
        start, depth = self.at, 0
        while self.token.kind != "end" and (depth or self.token.text not in (",", ")")):
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(self.next().text, 0)
        words = [_LITERALS.get(t.text, t.text) for t in self.tokens[start : self.at]]
        try:
            return _frozen(ast.literal_eval(" ".join(words)))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            self.fail("an option must be a number, text, True, False or a list of these", self.tokens[start].position)


def _frozen(value: object) -> object:
    """Turn lists into tuples, so that terms stay hashable."""
    return tuple(_frozen(v) for v in value) if isinstance(value, (list, tuple)) else value
