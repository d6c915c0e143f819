"""What `run.py` measured as a table in markdown, and as plots."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from _common import note, table

Record = dict[str, Any]
CLOSE = 1e-4  # of log-likelihoods: the same optimum of the same criterion
TITLES = {
    "first": ("First fit", "Start of the process to the printed summary: imports, reading, compiling, the fit."),
    "single": ("Single fits", ""),
    "crossed": ("Crossed factors", ""),
    "mmrm": ("Repeated measures, unstructured", "nlme is `gls` with `corSymm` and `varIdent`."),
    "batch": (
        "Batches",
        "jaxlmm: `fit.refit` (trials: `fit_batch`) of all responses in one call, seconds of the first call with "
        "compiling, then of a later call over the number of responses, on two cores. The others: a loop over 10 to "
        "100 of the same data sets on one core, extrapolated; lme4 and mixedlm by `refit`, statsmodels and glmm by "
        "`fit`. lme4's log-likelihoods are of `lmer`, its `refit` of a REML fit has another criterion.",
    ),
    "study": (
        "A simulation study",
        "jaxlmm: `jaxlmm.study.run` with one process, drawing, tests and files included; first run, with compiling, "
        "then a data set of a second run. lmerTest: a loop over the first data sets of that study, `lmer` and "
        "Satterthwaite's p-value, responses read from a file, extrapolated. mcpower: `find_power`, all threads it "
        "takes, a normal x drawn anew for every data set, where jaxlmm's is drawn once.",
    ),
    "n": ("Scaling in rows", "Random intercept and slope."),
    "groups": ("Scaling in groups", "Random intercept and slope."),
    "q": ("Scaling in random effects of a group", "Unstructured."),
    "T": ("Scaling in visits", "Unstructured, two arms, dropout."),
    "B": ("Scaling in responses of a batch", "As in the batches; seconds of one fit."),
}
AXES = {"n": "rows", "groups": "groups", "q": "random effects a group", "T": "visits", "B": "responses in a batch"}
INTRODUCTION = """# jaxlmm beside other software

REML, float64, all on one machine in one run; each program in a process of its own, the systems of a case in turn.

- "first" is the first fit of a process from formula and data frame, compiling included, imports not; "later" the
  median of the fits after it, each of another response (the same with noise), in all rounds; in brackets the lowest
  and the highest. Programs whose first fit takes more than 5 s have no later ones, and run once if more than 10 s.
- "x jaxlmm" is the time (the later one, or the first where there is no other) over jaxlmm's later one.
- "log-likelihood" is that of the first fit, "off" its difference to jaxlmm's, positive where the other found more;
  of batches the largest difference of all compared. What is beyond 1e-4 is marked with an exclamation mark.
- lme4 with `lmerControl(calc.derivs=FALSE)`, otherwise defaults everywhere. glmmTMB fits repeated measures with a
  residual variance near zero, hence a log-likelihood a little off. mixedlm and statsmodels have one BLAS thread, which
  suits them best.
- glmm without degrees of freedom (`satterthwaite=False`), from formula and columns.
- "> 30 s" is a program that was ended then; at larger sizes it was not tried.

"""


def duration(seconds: float) -> str:
    """Three digits with a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= 0.9995 * size or unit == "us":
            value = seconds / size
            return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}" if value < 100 else f"{value:.0f} {unit}"
    raise AssertionError


def spread(values: Sequence[float] | None) -> str:
    """Median, lowest and highest."""
    if not values:
        return ""
    middle, low, high = values
    return duration(middle) if low == high else f"{duration(middle)} ({duration(low)} to {duration(high)})"


def main_time(record: Record) -> float | None:
    """What systems are compared by."""
    if "error" in record:
        return None
    found = record["process"] if record["section"] == "first" else record["later"] or record["first"]
    return found[0] if found else None


def difference(record: Record, ours: Record | None) -> float | None:
    """Largest difference of the log-likelihoods that both have, theirs less ours; NaN counts as the largest."""
    if ours is None or record is ours or "error" in record or "error" in ours:
        return None
    pairs = list(zip(record["logliks"], ours["logliks"], strict=False))
    found = [a - b for a, b in pairs]
    return max(found, key=lambda d: float("inf") if d != d else abs(d), default=None)


def far(value: float) -> bool:
    return not abs(value) <= CLOSE  # NaN is far


def criterion(record: Record, ours: Record | None) -> list[str]:
    """The log-likelihood, or how many were compared, and how far it is from jaxlmm's."""
    values = record["logliks"]
    shown = f"{values[0]:.5f}" if len(values) == 1 else f"{len(values)} of them" if values else ""
    off = difference(record, ours)
    return [shown, "" if off is None else f"{off:+.0e}" + (" !" if far(off) else "")]


def rows_of(records: Sequence[Record]) -> list[list[str]]:
    """Rows of one case."""
    ours = next((r for r in records if r["system"] == "jaxlmm" and "error" not in r), None)
    reference = main_time(ours) if ours else None
    out = []
    for record in records:
        if "error" in record:
            out.append([record["case"], record["system"], record["error"], *[""] * 4])
            continue
        seconds = main_time(record)
        times = f"{seconds / reference:.3g}" if seconds and reference else ""
        first = record["process"] if record["section"] == "first" else record["first"]
        later = spread(None if record["section"] == "first" else record["later"])
        if record["failed"]:
            later += f", {record['failed']} failed"
        out.append([record["case"], record["system"], spread(first), later, times, *criterion(record, ours)])
    return out


def section_table(name: str, records: Sequence[Record]) -> str:
    """Heading, words and table of a section."""
    title, words = TITLES[name]
    cases = [list(group) for _, group in groupby(records, key=lambda r: r["case"])]
    head = ["", "system", "whole process" if name == "first" else "first", "later", "x jaxlmm", "log-likelihood", "off"]
    rows = [row for case in cases for row in rows_of(case)]
    if name == "first":
        head, rows = head[:3] + head[4:], [row[:3] + row[4:] for row in rows]
    loads = [x for r in records for x in r.get("load", [])]
    noted = f"Load of the machine when programs began: {min(loads):.1f} to {max(loads):.1f}." if loads else ""
    notes = (noted, p_values(cases), evaluations(cases), powers(cases))
    return "\n\n".join(part for part in (f"## {title}", words, table(head, rows), *notes) if part)


def evaluations(cases: Sequence[Sequence[Record]]) -> str:
    """What the lanes of batches took, easy ones or not."""
    known = [r for case in cases for r in case if r.get("evaluations") is not None]
    said = [f"{r['case']}: {r['evaluations']:.1f}, {100 * r['singular']:.0f} % singular" for r in known]
    return "Evaluations a lane: " + "; ".join(said) + "." if said else ""


def powers(cases: Sequence[Sequence[Record]]) -> str:
    """Estimates of power with Monte Carlo errors, and the time to the same error, relative to jaxlmm's."""
    lines = []
    for case in cases:
        known = [r for r in case if r.get("power")]
        said = [f"{r['system']} {r['power'][0]:.4f} ({monte_carlo(r):.4f})" for r in known]
        same = [(r["later"][0] * monte_carlo(r) ** 2 * r["power"][1]) for r in known]
        said += [f"{b / same[0]:.3g} x the time to the same error" for b in same[1:]]
        lines += ["Power (Monte Carlo error): " + ", ".join(said) + "."] if known else []
    return "\n".join(lines)


def monte_carlo(record: Record) -> float:
    """Monte Carlo error of a power."""
    power, replicates = record["power"]
    return float((power * (1.0 - power) / replicates) ** 0.5)


def p_values(cases: Sequence[Sequence[Record]]) -> str:
    """How far p-values of the same data sets are apart."""
    lines = []
    for case in cases:
        known = [r for r in case if r.get("p")]
        for other in known[1:]:
            apart = [abs(a - b) for a, b in zip(other["p"], known[0]["p"], strict=False)]
            lines.append(f"Largest difference of {len(apart)} p-values, {other['system']}: {max(apart):.0e}.")
    return "\n".join(lines)


def agreement(records: Sequence[Record]) -> str:
    """How many systems arrived where jaxlmm did, and who did not."""
    total, apart = 0, []
    for _, group in groupby(records, key=lambda r: (r["section"], r["case"])):
        case = list(group)
        ours = next((r for r in case if r["system"] == "jaxlmm"), None)
        for record in case:
            off = difference(record, ours)
            total += off is not None
            if off is not None and far(off):
                apart.append(f"- {record['case']}, {record['system']}: {off:+.1e}")
    near = f"{total - len(apart)} of {total} log-likelihoods are within {CLOSE:g} of jaxlmm's."
    return "\n".join([near + (" The others, theirs less jaxlmm's:\n" if apart else ""), *apart])


def document(kept: dict[str, Any]) -> str:
    """The whole page."""
    records = kept["records"]
    where = (
        f"{kept['date']}, {kept['machine']}, Python {kept['python']}, {kept['versions']}. "
        f"Load at the start {kept['load'][0]:.1f}, at the end {kept['load_end']:.1f}; {kept['minutes']:.0f} minutes; "
        f"limits {kept['limits'][0]:g} s, in scaling {kept['limits'][1]:g} s.\n`{kept['command']}`"
    )
    parts = [where]
    for name, group in groupby(records, key=lambda r: r["section"]):
        parts.append(section_table(name, list(group)))
    if any(r["x"] is not None for r in records):
        parts.append("![time of a fit by size](benchmarks.png)")
    parts.append("## Agreement\n\n" + agreement(records))
    return INTRODUCTION + "\n\n".join(parts) + "\n"


# -- plots ------------------------------------------------------------------------------------------------------------


# Colours that differ in lightness as well, and markers: the page is to be read in print.
STYLES = {
    "jaxlmm": ("#000000", "o"), "lme4": ("#D55E00", "s"), "mixedlm": ("#0072B2", "^"), "statsmodels": ("#CC79A7", "v"),
    "nlme": ("#009E73", "D"), "glmmTMB": ("#E69F00", "P"), "mmrm": ("#56B4E9", "X"),
}  # fmt: skip


def curves(records: Sequence[Record], section: str) -> dict[str, list[tuple[float, float]]]:
    """Points (size, seconds) of every system, and of jaxlmm's first fits."""
    out: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        seconds = main_time(record)
        if record["section"] == section and seconds:
            out.setdefault(record["system"], []).append((record["x"], seconds))
            if record["system"] == "jaxlmm" and record["first"]:
                first = record["first"][0] / (record["x"] if section == "B" else 1.0)
                out.setdefault("jaxlmm, first fit, compiling", []).append((record["x"], first))
    if section == "B" and out:  # loops cost the same for each response
        end = max(x for x, _ in out.get("jaxlmm", [(1.0, 0.0)]))
        out = {name: points + ([] if "jaxlmm" in name else [(end, points[0][1])]) for name, points in out.items()}
    return out


def plot(records: Sequence[Record], path: Path) -> None:
    """Seconds of a fit by size, one panel a kind of size; none where matplotlib is missing or nothing was scaled."""
    sections = [name for name in AXES if any(r["section"] == name for r in records)]
    if not sections:
        return
    try:
        import matplotlib
    except ImportError:
        note("no plots: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, 3, figsize=(10, 6.2), layout="constrained")
    panels = list(grid.flat)
    shown: dict[str, Any] = {}
    for axes, name in zip(panels, sections, strict=False):
        for system, points in curves(records, name).items():
            colour, marker = STYLES.get(system.partition(",")[0], ("#888888", "."))
            dashes = "--" if "first" in system else "-"
            face = "none" if "first" in system else colour
            (line,) = axes.loglog(
                *zip(*points, strict=True), dashes, color=colour, marker=marker, markerfacecolor=face, markersize=5
            )
            shown.setdefault(system, line)
        sizes = sorted({r["x"] for r in records if r["section"] == name})
        axes.set_xticks(sizes, labels=[f"{x:,.0f}" for x in sizes])
        axes.minorticks_off()
        axes.set_xlabel(AXES[name])
        axes.set_ylabel("seconds of a fit")
        axes.grid(alpha=0.3, which="major")
    for axes in panels[len(sections) :]:
        axes.set_axis_off()
    panels[-1].legend(shown.values(), shown.keys(), loc="center", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
