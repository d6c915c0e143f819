"""Tables as plain records, rendered as text or HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


def format_column(values: Sequence[float] | np.ndarray, digits: int = 4) -> list[str]:
    """One column with common decimals: `digits` significant for its largest, two for its smallest number."""
    finite = np.abs([v for v in values if np.isfinite(v) and v != 0])
    if not len(finite):
        return ["" if np.isnan(v) else "0" if v == 0 else f"{v:g}" for v in values]
    high, low = int(np.floor(np.log10(finite.max()))), int(np.floor(np.log10(finite.min())))
    decimals = max(digits - 1 - high, min(1 - low, digits + 1), 0)
    if decimals > 8 or high > 8:
        return ["" if np.isnan(v) else f"{v:.{digits - 1}e}" for v in values]
    return ["" if np.isnan(v) else f"{v:.{decimals}f}" for v in values]


def format_df(values: Any) -> list[str]:
    """Degrees of freedom, infinite ones as such."""
    return ["" if np.isnan(v) else "Inf" if np.isinf(v) else f"{v:.1f}" if v >= 10 else f"{v:.2f}" for v in values]


def format_p(p: float) -> str:
    """A p value."""
    return "" if np.isnan(p) else "<1e-16" if p < 1e-16 else f"{p:.2e}" if p < 1e-4 else f"{p:.4f}"


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


class Shown:
    """A result that prints as its table, in notebooks as HTML."""

    def table(self) -> Table:
        """The result as a table."""
        raise NotImplementedError(f"{type(self).__name__} must implement table(self)")

    def __repr__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()


@dataclass(frozen=True)
class Summary:
    """The printed account of a fit: paragraphs and tables in order."""

    parts: tuple[str | Table, ...] = field(repr=False)

    def __str__(self) -> str:
        return "\n\n".join(p if isinstance(p, str) else p.text() for p in self.parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(f"<pre>{html.escape(p)}</pre>" if isinstance(p, str) else p.html() for p in self.parts)
