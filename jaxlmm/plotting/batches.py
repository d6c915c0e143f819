"""Many fits at a glance: how they ended, and what they estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from ..fitting.newton import Status
from . import canvas

SMALLEST = 1e-18  # decrements below are drawn there


def statuses(batch: Any) -> list[tuple[str, int]]:
    """How the fits ended, by frequency, singular ones among the converged apart."""
    found: list[tuple[str, int]] = []
    for status in Status:
        here = np.asarray(batch.status) == status
        name = status.name.lower().replace("_", " ")
        singular = here & np.asarray(batch.singular) & status.is_fitted
        found += [(name, int(np.sum(here & ~singular))), (f"{name}, singular", int(np.sum(singular)))]
    return sorted((x for x in found if x[1]), key=lambda x: -x[1])


def plot_convergence(batch: Any, ax: Any) -> np.ndarray:
    """See ``BatchPlots.convergence``."""
    if not len(batch):
        raise DataError("plot: the batch has no fits")
    axes = canvas.panels(4, ax, 2, 3.8, 2.7)
    ran = np.asarray(batch.iterations) > 0
    good = np.asarray(batch.converged) & ran
    _draw_statuses(axes[0], batch)
    _histogram(axes[1], [batch.iterations[good], batch.iterations[ran & ~good]], "evaluations", whole=True)
    decrement = np.log10(np.maximum(np.abs(batch.decrement), SMALLEST))
    _histogram(axes[2], [decrement[good], decrement[ran & ~good]], "Newton decrement, log10")
    smallest = np.asarray(batch.min_eigenvalue)
    with np.errstate(all="ignore"):
        size = np.log10(np.where(smallest > 0, smallest, np.nan))
    flat = int(np.sum(ran & (smallest <= 0)))
    title = f"{flat} not positive, not drawn" if flat else ""
    _histogram(axes[3], [size[good], size[ran & ~good]], "smallest eigenvalue, log10", title=title)
    canvas.legend(axes[1])
    return axes


def _draw_statuses(ax: Any, batch: Any) -> None:
    found = statuses(batch)
    place = np.arange(len(found))
    fitted = ["converged" in name or "deficient" in name for name, _ in found]
    bars = ax.barh(place, [count for _, count in found], height=0.6, color=["0.75" if f else "white" for f in fitted],
                   edgecolor=canvas.INK, hatch=["" if f else "////" for f in fitted], linewidth=0.8)  # fmt: skip
    ax.bar_label(bars, [f"{count} ({100 * count / len(batch):.3g} %)" for _, count in found], padding=3,
                 fontsize=canvas.TICK - 1)  # fmt: skip
    canvas.label(ax, "data sets")
    ax.set_yticks(place, [name for name, _ in found])
    ax.set_ylim(len(found) - 0.3, -0.7)
    ax.margins(x=0.35)


def _histogram(ax: Any, parts: Sequence[np.ndarray], name: str, whole: bool = False, title: str = "") -> None:
    """Counts of the fits that converged, and on top, hatched, of others."""
    parts = [np.asarray(part, np.float64) for part in parts]
    parts = [part[np.isfinite(part)] for part in parts]
    values = np.concatenate(parts)
    canvas.label(ax, name, "data sets", title)
    if not len(values):
        ax.text(0.5, 0.5, "none", transform=ax.transAxes, ha="center", fontsize=canvas.TICK)
        return
    low, high = values.min(), values.max()
    if whole:
        step = max(int(np.ceil((high - low + 1) / 40)), 1)
        edges = np.arange(low - 0.5, high + 0.5 + step, step)
    else:
        edges = np.linspace(low, high if high > low else low + 1.0, 31)
    below = np.zeros(len(edges) - 1)
    for part, color, hatch, text in zip(parts, ("0.75", "white"), ("", "////"), ("converged", "others"), strict=True):
        if len(part):
            count = np.histogram(part, edges)[0]
            ax.bar(edges[:-1], count, np.diff(edges), bottom=below, align="edge", color=color, edgecolor=canvas.INK,
                   hatch=hatch, linewidth=0.6, label=text)  # fmt: skip
            below = below + count


def plot_estimates(batch: Any, which: str | Sequence[str] | None, truth: Mapping[str, float] | None, ax: Any) -> Any:
    """See ``BatchPlots.estimates``."""
    known = columns_of(batch)
    wanted = list(known) if which is None else [which] if isinstance(which, str) else list(which)
    for argument, names in (("which", wanted), ("truth", list(truth or {}))):
        for name in names:
            if name not in known:
                raise DataError(f"{argument}: found {name!r}, expected some of {', '.join(known)}")
    good = np.asarray(batch.converged)
    if not good.any():
        raise DataError("plot: none of the fits converged, see plot.convergence()")
    axes = canvas.panels(len(wanted), ax, width=3.0, height=2.4)
    for axis, name in zip(axes, wanted, strict=True):
        values = known[name][good]
        values = values[np.isfinite(values)]
        axis.hist(values, bins=min(40, max(8, int(np.sqrt(len(values))))), color="0.8", edgecolor=canvas.INK,
                  linewidth=0.5)  # fmt: skip
        if len(values):
            axis.axvline(values.mean(), color=canvas.INK, linewidth=1.3, label="mean")
        if truth and name in truth:
            axis.axvline(truth[name], color=canvas.ACCENT, linewidth=1.6, linestyle="--", label="truth")
        canvas.label(axis, name, "data sets")
    if truth:
        canvas.legend(axes[wanted.index(next((name for name in wanted if name in truth), wanted[0]))])
    return canvas.squeezed(axes)


def plot_shares(batch: Any, names: Sequence[str] | None, ax: Any) -> Any:
    """See ``BatchPlots.variances``."""
    sd = {name: own for name, own in columns_of(batch).items() if name not in batch.coef_names}
    sd = {name: own for name, own in sd.items() if name == "sigma" or name.startswith("sd")}
    variances = np.stack([own[np.asarray(batch.converged)] ** 2 for own in sd.values()])
    if "sigma" not in sd or not variances.size:
        raise DataError("plot: shares of variance are of fits with independent residuals that converged; found none")
    if names is not None and len(names) != len(sd):
        raise DataError(f"names: expected {len(sd)}, for {', '.join(sd)}; found {len(names)}")
    ax = canvas.one_panel(ax, 1.2 + 1.1 * len(sd), 3.4)
    found = ax.violinplot(list(variances / variances.sum(0)), showmedians=True, widths=0.8)
    for body in found["bodies"]:
        body.set(facecolor="0.75", edgecolor=canvas.INK, alpha=1.0)
    ax.set_xticks(np.arange(1, len(sd) + 1), list(sd if names is None else names))
    canvas.label(ax, "", "share of variance")
    return ax


def columns_of(batch: Any) -> dict[str, np.ndarray]:
    """Estimates (b,) by name: coefficients, standard deviations of random effects by term and column, sigma."""
    names = batch.coef_names or tuple(f"coef{j + 1}" for j in range(batch.coef.shape[1]))
    out = {name: batch.coef[:, j] for j, name in enumerate(names)}
    for t, G in enumerate(batch.varcorr):
        out |= {f"sd{t + 1}.{i + 1}": np.sqrt(G[:, i, i]) for i in range(G.shape[1])}
    if np.isfinite(batch.sigma).any():
        out["sigma"] = batch.sigma
    return out
