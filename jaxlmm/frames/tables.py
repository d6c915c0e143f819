"""Tables as plain records, rendered as text, HTML, Markdown or LaTeX."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEAST = 3  # significant digits that every number is printed with
EXTREME = 1e-4, 1e9  # sizes of numbers below and from which they are printed with a power of ten


def format_column(values: Sequence[float] | np.ndarray, digits: int = 4) -> list[str]:
    """One column, `digits` significant for its largest number and the same decimals for the others.

    Numbers of which that would leave fewer than three significant digits have `digits` of their own: none is printed
    as zero that is not. Their points are in one column where decimals differ.
    """
    sizes = [abs(v) for v in values if EXTREME[0] <= abs(v) < EXTREME[1]]
    common = max(digits - 1 - _exponent(max(sizes)), 0) if sizes else 0
    cells = [_format_number(v, digits, common) for v in values]
    behind = [len(cell.partition(".")[2]) + ("." in cell) for cell in cells]
    most = max(behind, default=0)
    return [c + " " * (most - b) if c and "e" not in c else c for c, b in zip(cells, behind, strict=True)]


def _exponent(size: float) -> int:
    return int(np.floor(np.log10(size)))


def _format_number(v: float, digits: int, common: int) -> str:
    if np.isnan(v) or np.isinf(v) or v == 0:
        return "" if np.isnan(v) else f"{v:.0f}"
    if not EXTREME[0] <= abs(v) < EXTREME[1]:
        return f"{v:.{digits - 1}e}"
    high = _exponent(abs(v))
    return f"{v:.{common if common + high + 1 >= LEAST else max(digits - 1 - high, 0)}f}"


def format_df(values: Any) -> list[str]:
    """Degrees of freedom, infinite ones as such."""
    return ["" if np.isnan(v) else "Inf" if np.isinf(v) else f"{v:.1f}" if v >= 10 else f"{v:.2f}" for v in values]


def format_p(p: float) -> str:
    """A p value."""
    return "" if np.isnan(p) else "<1e-16" if p < 1e-16 else f"{p:#.3g}" if p < 0.01 else f"{p:.4f}"


def format_t(values: Any) -> list[str]:
    """Statistics that are compared with quantiles of t: three decimals, more where the number is small."""
    return ["" if np.isnan(v) else f"{v:.3f}" if abs(v) >= 0.1 or v == 0 else f"{v:.3g}" for v in values]


def notes(*lines: str) -> str:
    """What is said under a table: the lines that say something, each once."""
    return "\n".join(dict.fromkeys(filter(None, lines)))


@dataclass(frozen=True)
class Table:
    """A titled table; the first `labels` columns are text, the others numbers, aligned right."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1
    note: str = ""

    def text(self) -> str:
        """Aligned plain text."""
        every = [self.header, *self.rows]
        widths = [max(len(row[j]) for row in every) for j in range(len(self.header))]

        def line(row: tuple[str, ...]) -> str:
            cells = [
                c.ljust(w) if j < self.labels else c.rjust(w) for j, (c, w) in enumerate(zip(row, widths, strict=True))
            ]
            return " ".join(cells).rstrip()

        lines = [self.title, *(line(row) for row in every)]
        return "\n".join([*lines, self.note] if self.note else lines)

    def html(self) -> str:
        """An HTML table, everything escaped."""

        def cells(tag: str, row: tuple[str, ...]) -> str:
            align = ("left" if j < self.labels else "right" for j in range(len(row)))
            return "".join(
                f'<{tag} style="text-align:{a}">{html.escape(c)}</{tag}>' for a, c in zip(align, row, strict=True)
            )

        body = "".join(f"<tr>{cells('td', row)}</tr>" for row in self.rows)
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        head = f"<thead><tr>{cells('th', self.header)}</tr></thead>"
        return f"<table><caption>{html.escape(self.title)}</caption>{head}<tbody>{body}</tbody></table>{note}"

    def markdown(self) -> str:
        """A Markdown table, as GitHub and Quarto read it."""

        def line(row: tuple[str, ...]) -> str:
            return f"| {' | '.join(in_markdown(cell.strip()).replace('|', '&#124;') for cell in row)} |"

        rule = tuple("---" if j < self.labels else "--:" for j in range(len(self.header)))
        lines = [line(self.header), line(rule), *map(line, self.rows)]
        return "\n".join([in_markdown(self.title), "", *lines, *(["", in_markdown(self.note)] if self.note else [])])

    def latex(self) -> str:
        """A table environment with `tabular`, rules as in the package booktabs; everything escaped."""

        def line(row: tuple[str, ...]) -> str:
            return "  " + " & ".join(in_latex(cell.strip()) for cell in row) + r" \\"

        align = "".join("l" if j < self.labels else "r" for j in range(len(self.header)))
        note = [r"\par\smallskip\footnotesize " + in_latex(self.note).replace("\n", r" \\ ")] if self.note else []
        return "\n".join(
            [r"\begin{table}", r"\centering", rf"\caption{{{in_latex(self.title.rstrip(':'))}}}",
             rf"\begin{{tabular}}{{{align}}}", r"\toprule", line(self.header), r"\midrule", *map(line, self.rows),
             r"\bottomrule", r"\end{tabular}", *note, r"\end{table}"]
        )  # fmt: skip


_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


_MARKDOWN = re.compile(r"[*`\\]|(?<![^\W_])_|_(?![^\W_])|<(?=[a-zA-Z/!])")


def in_markdown(text: str) -> str:
    """Text with what Markdown reads as emphasis, code or a tag escaped."""
    return _MARKDOWN.sub(lambda found: "&lt;" if found[0] == "<" else "\\" + found[0], text)


def in_latex(text: str) -> str:
    """Text with the characters that LaTeX reads as commands escaped."""
    return "".join(_LATEX.get(c, c) for c in text)


class Shown:
    """A result that prints as its tables, in notebooks as HTML; `markdown` and `latex` are for papers."""

    def table(self) -> Table:
        """The result as a table."""
        raise NotImplementedError(f"{type(self).__name__} must implement table(self)")

    def tables(self) -> tuple[str | Table, ...]:
        """All that is printed: paragraphs and tables in order."""
        return (self.table(),)

    def __repr__(self) -> str:
        return "\n\n".join(part if isinstance(part, str) else part.text() for part in self.tables())

    def _repr_html_(self) -> str:
        parts = self.tables()
        return "".join(f"<pre>{html.escape(part)}</pre>" if isinstance(part, str) else part.html() for part in parts)

    def markdown(self) -> str:
        """The tables in Markdown."""
        parts = self.tables()
        return "\n\n".join(f"```text\n{part}\n```" if isinstance(part, str) else part.markdown() for part in parts)

    def latex(self) -> str:
        """The tables in LaTeX, with the rules of the package booktabs."""
        parts, whole = self.tables(), "\\begin{{verbatim}}\n{}\n\\end{{verbatim}}"
        return "\n\n".join(whole.format(part) if isinstance(part, str) else part.latex() for part in parts)


@dataclass(frozen=True, repr=False)
class Summary(Shown):
    """The printed account of a fit: paragraphs and tables in order."""

    parts: tuple[str | Table, ...]

    def tables(self) -> tuple[str | Table, ...]:
        """The parts."""
        return self.parts
