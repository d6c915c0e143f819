"""Directions in which covariance parameters may move from a point: the tangent cone of the parameter space."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...covariance.bands import BandKind
from ...covariance.kinds import CovarianceMatrixKind, IntervalKind, VarianceKind
from ...fitting.objective import Spec
from ...linalg import tril_indices
from ...tolerances import SINGULAR


def tangent_cone(spec: Spec, scale: np.ndarray, x: np.ndarray) -> tuple[np.ndarray | None, tuple[int, ...]]:
    """Linear maps (c, k) of directions of natural parameters into cones of matrices, and the sizes of these.

    A direction H of a covariance matrix G with null space N is tangent when ``N'H N`` is positive semidefinite. None
    for matrices with a structure of their own (banded) on the boundary.

    Parameters
    ----------
    spec : with absolute covariances;  scale : (k,) sizes of solver coordinates, see `scale_of`
    x : (k,) natural parameters
    """
    rows: list[np.ndarray] = []
    sizes: list[int] = []
    eye, begin = np.eye(len(x) + 1)[:, :-1], 0  # the last row, and values, are for coordinates that are held at one
    x, scales = np.append(x, 1.0), np.append(scale, 1.0)
    for structure, dim in spec.parts:
        own = np.arange(begin, begin + structure.size(dim))
        begin += len(own)
        for kind, at, q in _fields(structure, dim, own):
            if isinstance(kind, CovarianceMatrixKind) and kind.rank is None:
                i, j = kind.entries(q)
                N = _null_space(x[at], i, j, scales[at][i == j])
                if N.shape[1] and not kind.is_whole:
                    return None, ()
                for a, b in zip(*tril_indices(N.shape[1]), strict=True):
                    rows.append((N[i, a] * N[j, b] + np.where(i == j, 0.0, N[j, a] * N[i, b])) @ eye[at])
                sizes += [N.shape[1]] if N.shape[1] else []
                continue
            if isinstance(kind, BandKind) and kind.at_boundary(kind.to_solver(x[at], q), q, SINGULAR):
                return None, ()
            inward = np.zeros(len(at))
            if isinstance(kind, VarianceKind):
                inward[x[at] < SINGULAR**2 * scales[at] ** kind.power] = 1.0
            elif isinstance(kind, IntervalKind):
                angle = kind.to_solver(x[at], q) / (0.5 * np.pi)
                inward = -np.sign(angle) * (np.abs(angle) > 1.0 - SINGULAR)
            rows += [sign * eye[place] for sign, place in zip(inward, at, strict=True) if sign]
            sizes += [1] * int(np.sum(inward != 0))
    return np.reshape(rows, (len(rows), len(x) - 1)), tuple(sizes)


def _null_space(v: np.ndarray, i: np.ndarray, j: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Basis (q, r) of the null space of a matrix with entries v at (i, j), rows having the sizes `unit`."""
    G = np.zeros((len(unit), len(unit)))
    G[i, j] = G[j, i] = v
    w, Q = np.linalg.eigh(G / np.outer(unit, unit))
    return Q[:, w < SINGULAR**2] / unit[:, None]


def _fields(structure: Any, dim: Any, at: np.ndarray) -> list[tuple[Any, np.ndarray, Any]]:
    """Kind, places among all coordinates (-1: held), and levels of every free field, those of parts included."""
    if hasattr(structure, "parts"):
        each = zip(structure.parts, structure.dims(dim), structure.places(dim), strict=True)
        return [f for part, d, place in each for f in _fields(part, d, np.where(place < 0, -1, at[place]))]
    sizes = [p.size(dim) for p in structure.free]
    places = np.split(at, np.cumsum(sizes)[:-1]) if sizes else []
    return [(p.kind, place, p.rows(dim)) for p, place in zip(structure.free, places, strict=True)]
