"""A study as one HTML page that needs nothing else: what was run, tables, pictures."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import door, shown
from ..errors import DataError
from ..saving.archive import write_atomically
from . import plots
from .progress import status
from .results import Performance, Results, read
from .store import StudyError
from .tables import frame_table

PAGE = "report.html"
STATUS = '"ok": with a result.'
DOTS = 110  # a inch
FEW = 12  # most cells of which each has a panel
ZIPS = 4  # most cells with a zip plot
STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em;color:#222}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse;font-size:13px;margin:1em 0}
th,td{padding:.15em .7em;border-bottom:1px solid #ddd;white-space:nowrap}caption{text-align:left;font-weight:600}
@media print{body{max-width:none;margin:0}figure,table{break-inside:avoid}
pre{white-space:pre-wrap}.wide{overflow:visible}}
pre{background:#f6f6f6;padding:1em;overflow:auto;font-size:12px}img{max-width:100%}.wide{overflow-x:auto}"""


@door
def report(path: Any, level: float = 0.95, alpha: float = 0.05, out: Any = None) -> Path:
    """Write a page about a study, of what is there so far, running or not; see `jaxlmm.study.read`.

    Parameters
    ----------
    path : directory of the study;  level, alpha : of intervals and tests
    out : file of the page, default ``report.html`` in the directory

    Returns
    -------
    Path of the page.
    """
    results = read(path)
    if not results.tasks:
        raise DataError(f"{path}: no part is done yet, there is nothing to report")
    if out is not None and not isinstance(out, str | os.PathLike):
        raise StudyError(f"out: expected a file, found {shown(out)}")
    page = results.store.path / PAGE if out is None else Path(out)
    content = "".join(_page(results, results.summary(level, alpha))).encode()
    try:
        write_atomically(page, content)
    except OSError as error:
        raise StudyError(f"{page}: cannot be written: {error.strerror}; give another place, out= (--out)") from error
    return page


def _page(results: Results, summary: Performance) -> Iterator[str]:
    study, account = results.manifest["study"], summary.ademp()
    name = html.escape(study["name"])
    yield f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{name}</title>"
    yield f"<style>{STYLE}</style></head><body><h1>{name}</h1>"
    yield f"<p>{html.escape(str(status(results.store.path)))}; seed {html.escape(str(study['seed']))}.</p>"
    files = {"performance.csv": ("text/csv", _csv(summary)), "report.tex": ("text/x-tex", account.latex()),
             "report.md": ("text/markdown", account.markdown())}  # fmt: skip
    links = (f"<a download='{file}' href='data:{kind};base64,{_coded(text.encode())}'>{file}</a>"
             for file, (kind, text) in files.items())  # fmt: skip
    yield f"<p>{', '.join(links)}</p>{account.html()}"
    for target in dict.fromkeys(row.target for row in results.rows):
        yield f"<h2>Pictures: {html.escape(target)}</h2>"
        for caption, draw in _pictures(results, summary, target):
            yield _picture(caption, draw)
    yield f"<h2>How data sets ended</h2>{frame_table(results.statuses(), STATUS).html()}"
    if (messages := frame_table(results.messages())).rows:
        yield f"<h2>What was raised</h2>{messages.html()}"
    yield "<h2>What was run</h2>"
    yield f"<pre>{html.escape(json.dumps(study, indent=1, ensure_ascii=False))}</pre>"
    yield f"<pre>{html.escape(json.dumps(results.manifest['environments'], indent=1))}</pre></body></html>\n"


def _csv(summary: Performance) -> str:
    """The long table."""
    frame, out = summary.frame(), io.StringIO()
    names = list(frame) if isinstance(frame, dict) else list(frame.columns)
    writer = csv.writer(out)
    writer.writerow(names)
    writer.writerows(zip(*(list(frame[name]) for name in names), strict=True))
    return out.getvalue()


def _coded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _pictures(results: Results, summary: Performance, target: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Captions and functions that draw."""
    rows = [k for k, row in enumerate(results.rows) if row.target == target]
    numeric = [f for f in plots._varying(results) if all(isinstance(c[f], int | float) for c in results.cells)]
    for measure in ("power", "rejection", "type1_error", "coverage", "bias"):
        if np.isnan(summary.value[measure][:, rows]).all():
            continue
        title = plots.TITLES.get(measure, measure)
        if numeric and measure in ("power", "rejection", "type1_error"):
            yield (
                f"{title} over {numeric[0]}, 95 % Monte Carlo bars",
                partial(plots.plot_curve, summary, numeric[0], measure, target),
            )
        if len(results.cells) <= FEW:
            yield f"{title}, 95 % Monte Carlo bars", partial(plots.plot_lollipop, summary, measure, target)
        else:
            yield f"{title}, nested loops", partial(plots.plot_nested_loop, summary, measure, target)
    if not np.isnan(summary.value["coverage"][:, rows]).all():
        for cell in _some(len(results.cells)):
            yield "Zip plot: intervals by centile of |z|", partial(plots.plot_zip, results, cell, target)


def _some(count: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, ZIPS)).round().astype(int).tolist()))


def _picture(caption: str, draw: Callable[[], Any]) -> str:
    buffer = io.BytesIO()
    try:
        draw().savefig(buffer, format="png", dpi=DOTS)
    except ValueError as error:  # without matplotlib, or nothing to draw: the tables are there
        return f"<p>{html.escape(caption)}: {html.escape(str(error))}</p>"
    data = _coded(buffer.getvalue())
    text = html.escape(caption)
    return f"<figure><img alt='{text}' src='data:image/png;base64,{data}'><figcaption>{text}</figcaption></figure>"
