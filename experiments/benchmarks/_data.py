"""Data of the benchmarks, as columns of numbers, and CSV files of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from _common import ROOT

DATASETS = ROOT / "jaxlmm" / "datasets"
INSTEVAL = ROOT / "tests" / "references" / "data" / "insteval.npz"
Columns = Mapping[str, np.ndarray]


def write_csv(path: Path, columns: Columns) -> None:
    """A file of numbers that any reader reads back to the same ones."""
    table = np.column_stack(list(columns.values()))
    np.savetxt(path, table, delimiter=",", fmt="%.17g", header=",".join(columns), comments="")


def grouped(groups: int, rows: int, q: int, seed: int = 0) -> Columns:
    """`rows` rows in each of `groups` groups, with q correlated random effects each: y, g, x1, ..., x(q-1)."""
    rng = np.random.default_rng([seed, groups, rows, q])
    g = np.repeat(np.arange(groups), rows)
    Z = np.column_stack([np.ones(len(g)), rng.normal(size=(len(g), q - 1))])
    L = np.tril(0.3 * rng.normal(size=(q, q)), -1) + np.eye(q)
    u = rng.normal(size=(groups, q)) @ L.T
    y = Z @ np.linspace(2.0, -1.0, q) + np.sum(Z * u[g], 1) + rng.normal(size=len(g))
    return {"y": y, "g": g, **{f"x{j}": Z[:, j] for j in range(1, q)}}


def crossed(subjects: int, items: int) -> Columns:
    """Every subject sees every item."""
    rng = np.random.default_rng([1, subjects, items])
    subject, item = np.repeat(np.arange(subjects), items), np.tile(np.arange(items), subjects)
    y = rng.normal(size=subjects)[subject] + 0.7 * rng.normal(size=items)[item] + rng.normal(size=len(subject))
    return {"y": y, "subject": subject, "item": item}


def crossed_responses(subjects: int, items: int, count: int) -> np.ndarray:
    """Responses (count, rows) to the design of `crossed`."""
    rng, design = np.random.default_rng([2, subjects, items]), crossed(subjects, items)
    Y = rng.normal(size=(count, subjects))[:, design["subject"]]
    Y += 0.7 * rng.normal(size=(count, items))[:, design["item"]]
    return Y + rng.normal(size=Y.shape)


def insteval() -> Columns:
    """lme4's InstEval: 73 421 ratings of 1128 lecturers by 2972 students in 14 departments."""
    with np.load(INSTEVAL) as columns:
        return {name: columns[name].astype(float) for name in ("y", "service", "s", "d", "dept")}


def maximal(subjects: int = 56, items: int = 32) -> Columns:
    """A 2 x 2 x 2 experiment in which all eight effects differ between subjects, and between items."""
    rng = np.random.default_rng(0)
    subject, item = np.repeat(np.arange(subjects), items), np.tile(np.arange(items), subjects)
    cell = (subject + item + rng.integers(0, 8, len(subject))) % 8
    a, b, c = (np.where(cell >> k & 1, 0.5, -0.5) for k in range(3))
    Z = np.column_stack([np.ones(len(a)), a, b, c, a * b, a * c, b * c, a * b * c])
    y = Z @ rng.normal(size=8) + rng.normal(size=len(a))
    for group, m in ((subject, subjects), (item, items)):
        L = 0.8 * np.tril(0.4 * rng.normal(size=(8, 8)) + np.eye(8))
        y = y + np.sum(Z * (rng.normal(size=(m, 8)) @ L)[group], 1)
    return {"y": y, "a": a, "b": b, "c": c, "subject": subject, "item": item}


def ratings(users: int = 6000, films: int = 4000, rows: int = 1_000_000) -> Columns:
    """Ratings of films by users with skewed counts, each pair once at most."""
    rng = np.random.default_rng(0)
    pairs: np.ndarray = np.zeros(0, int)
    while len(pairs) < rows:
        user = rng.permutation(users)[(users * rng.beta(0.6, 1.6, rows // 2)).astype(int)]
        film = rng.permutation(films)[(films * rng.beta(0.5, 2.5, rows // 2)).astype(int)]
        pairs = np.unique(np.concatenate([pairs, user * films + film]))
    user, film = np.divmod(np.sort(rng.permutation(pairs)[:rows]), films)
    y = 3.5 + 0.4 * rng.normal(size=users)[user] + 0.6 * rng.normal(size=films)[film] + rng.normal(size=rows)
    return {"y": y, "user": user, "film": film}
