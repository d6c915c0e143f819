"""One formula made from another: R's ``. ~ . - x + (1 | g)``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..arguments import shown
from ..errors import FormulaError
from .parser import parse
from .tokens import Reader


class Summand(NamedTuple):
    """A term as it is written, with its sign."""

    sign: str
    text: str

    @property
    def is_random(self) -> bool:
        """Whether it is a random-effect term."""
        return "|" in self.text

    @property
    def plain(self) -> str:
        """Without spaces, to be compared."""
        return "".join(self.text.split())


class Written(Reader):
    """The text of a formula, taken apart at ``~`` and at the signs between its terms."""

    def parts(self) -> tuple[str, list[Summand]]:
        """The response and the terms.

        Raises
        ------
        FormulaError
            Without one ``~``, or with nothing between two signs.
        """
        tildes = [token.position for token in self.tokens if token.text == "~" and token.kind == "operator"]
        if len(tildes) != 1:
            self.fail("a formula has one '~' between the response and the model", 0)
        found, depth, sign, start = [], 0, "+", tildes[0] + 1
        for token in self.tokens:
            if token.position < start and token.kind != "end":
                continue
            depth += (token.text in ("(", "[")) - (token.text in (")", "]")) if token.kind == "operator" else 0
            if token.kind == "end" or (depth == 0 and token.kind == "operator" and token.text in ("+", "-")):
                text = self.text[start : token.position].strip()
                if text:
                    found.append(Summand(sign, text))
                elif found or token.kind == "end":
                    self.fail("a term is missing", token.position)
                sign, start = token.text, token.position + 1
        return self.text[: tildes[0]].strip(), found


def updated(old: str, change: str) -> str:
    """The formula `old` changed as R's ``update`` does.

    A dot left of ``~`` is the old response, right of it all old terms: ``. ~ . - x``, ``log(.) ~ .``,
    ``. ~ . + (1 | h)``. Random-effect terms are taken out as they are written: ``. ~ . - (1 | g)``.

    Raises
    ------
    FormulaError
        For a text that is no formula, and a term that is not there to be taken out.
    """
    if not isinstance(change, str):
        raise FormulaError(f"formula: found {shown(change)}, expected text such as '. ~ . - x'")
    response, items = Written(old).parts()
    new_response, changes = Written(change).parts()
    made: list[Summand] = []
    for item in changes:
        if item.text == ".":
            if item.sign == "-":
                raise FormulaError(
                    "all terms cannot be taken out; write those that are wanted", text=change, position=0
                )
            made += items
            continue
        same = [one for one in made if one.plain == item.plain and one.sign == "+"]
        if item.sign == "-" and same:
            made = [one for one in made if one not in same]
        elif item.sign == "-" and item.is_random:
            there = ", ".join(one.text for one in made if one.is_random) or "none"
            raise FormulaError(
                f"{item.text} cannot be taken out; random-effect terms are {there}", text=change, position=0
            )
        elif item.sign == "-":
            _check_there(item, made, change)
            made.append(item)
        elif not same:
            made.append(item)
    fixed = [item for item in made if not item.is_random]
    ordered = [*fixed, *(item for item in made if item.is_random)]
    return joined(_response(response, new_response), ordered)


def _check_there(item: Summand, made: list[Summand], change: str) -> None:
    """Refuse to take out what is not there: of responses in ``cbind`` a slope is ``trait:x``."""
    fixed = [one for one in made if not one.is_random]
    try:
        before, after = (parse(joined("y", items)).side for items in (fixed, [*fixed, item]))
    except FormulaError:  # for the formula as a whole to be said, or of columns with the names of functions
        return
    if before == after and item.plain != "0":  # which puts an intercept in
        there = ", ".join(":".join(term) for term in before.terms) or "none"
        raise FormulaError(f"{item.text} cannot be taken out; terms are {there}", text=change, position=0)


def joined(response: str, items: Iterable[Summand]) -> str:
    """A formula from its response and its terms."""
    right = "".join(f" {item.sign} {item.text}" for item in items).removeprefix(" + ").strip() or "1"
    return f"{response} ~ {right}"


def _response(old: str, new: str) -> str:
    """The new left side, its dots replaced."""
    words = Written(f"{new} ~ 1")
    out, at = "", 0
    for token in words.tokens:
        if token.text == "." and token.kind == "operator":
            whole = (
                new.strip() == "."
                or new[: token.position].rstrip()[-1:] == "("
                and new[token.position + 1 :].lstrip()[:1] == ")"
            )
            out, at = out + new[at : token.position] + (old if whole else f"({old})"), token.position + 1
    return out + new[at:]
