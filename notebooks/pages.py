"""How pages are made of files: anchors as in Jupyter, links out of the folder, docstrings as numpydoc reads them."""

from __future__ import annotations

import re

SECTIONS = ("Parameters", "Attributes")
WIDTH = 108  # columns of a docstring's line; one that is not full was not wrapped, so what is below it is a description


def anchor(title: str) -> str:
    """Where a link within a page leads, as in Jupyter."""
    return title.replace(" ", "-")


def beside(text: str) -> str:
    """Links to Markdown files that are no pages of the site, which are in folders beside it, as links to the files."""
    return re.sub(r"\[([^\]]+)\]\((\.\./[^)#\s]+\.md)\)", r"{download}`\1 <\2>`", text)


def spread(lines: list[str]) -> list[str]:
    """Rewrite the parameters of a docstring as numpydoc reads them: a line of names, below it what they are.

    The package writes ``name : what it is``, sometimes several on a line, ``a : this;  b : that``; numpydoc takes
    what is behind the colon for a type.
    """
    out: list[str] = []
    at = 0
    while at < len(lines):
        out.append(lines[at])
        at += 1
        if lines[at - 1].strip() not in SECTIONS or at == len(lines) or not re.fullmatch(r"\s*-{3,}", lines[at]):
            continue
        indent = len(lines[at]) - len(lines[at].lstrip())
        out.append(lines[at])
        at += 1
        start = at
        while at < len(lines) and not (at + 1 < len(lines) and re.fullmatch(r"\s*-{3,}", lines[at + 1])):
            at += 1
        out += [*_entries(lines[start:at], indent), ""]
    return out


def _entries(lines: list[str], indent: int) -> list[str]:
    out: list[str] = []
    for head, below in _grouped(lines, indent):
        name, colon, text = head.partition(" : ")
        wrapped = bool(below) and len(f"{head} {below[0].split()[0]}") > WIDTH
        if not colon or (below and not wrapped):
            out += [head, *below]
            continue
        words = " ".join([text.strip(), *(line.strip() for line in below)]).strip()
        for part in re.split(r";  (?=[\w*]+(?:, [\w*]+)* : )", f"{name.strip()} : {words}"):
            name, _, text = part.partition(" : ")
            out += [" " * indent + name, " " * (indent + 4) + text]
    return out


def _grouped(lines: list[str], indent: int) -> list[tuple[str, list[str]]]:
    """Lines at the indent of the section, each with those that are further in."""
    groups: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.strip() and (len(line) - len(line.lstrip()) == indent or not groups):
            groups.append((line, []))
        elif groups and line.strip():
            groups[-1][1].append(line)
    return groups
