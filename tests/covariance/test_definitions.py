"""Structures against their definitions: fits of simulated data beside dense restricted likelihoods in NumPy and SciPy.

Every case has its covariance matrix written out from the literature (the documentation of nlme, glmmTMB and mmrm) as
a function of the natural parameters. Data are simulated from it, fitted by `jaxlmm.lmm`, and then

* the log-likelihood, the coefficients, their standard errors and the fitted values are those of the dense matrix at
  the estimates that the fit reports;
* SciPy, searching from these estimates and from the truth, finds no better log-likelihood.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import gamma, kv

import jaxlmm
import oracle
from cases import some
from jaxlmm import Precision

RUNS = [(0, "REML"), (1, "REML"), (2, "REML"), (2, "ML")]

Data = dict[str, Any]

# ---------------------------------------------------------------------------- data without a response


def visits(rng: np.random.Generator) -> Data:
    """18 subjects, five visits, of which 8 are missing: one subject has a single visit."""
    lost = [1, 2, 3, 4, 17, 29, 30, 64]
    subject, t = (np.delete(a, lost) for a in np.divmod(np.arange(90), 5))
    n = len(t)
    return {
        "id": np.char.add("s", (10 + subject).astype(str)),
        "t": t,
        "visit": np.array(list("abcde"))[t],
        "week": np.array([0, 1, 2, 4, 7])[t],
        "time": np.round(t + rng.uniform(0, 0.8, n), 2),
        "arm": np.array(["u", "v"])[subject % 2],
        "site": subject // 3,
        "item": (7 * np.arange(n) + subject) % 8,
        "f": np.array(["k", "l", "m"])[np.arange(n) * 5 // 7 % 3],
        "x": rng.normal(size=n),
        "h": rng.uniform(0.5, 3.0, n),
        "c": rng.normal(size=n),
        "w": rng.uniform(0.5, 2.0, n),
        "lat": rng.uniform(0, 10, n),
        "lon": rng.uniform(0, 10, n),
    }


def places(rng: np.random.Generator) -> Data:
    """80 rows at 70 places in three dimensions."""
    n = 80
    u, v, z = np.concatenate([found := rng.uniform(0, 10, (70, 3)), found[:10]]).T
    return {"u": u, "v": v, "z": z, "plot": np.arange(n) % 16, "x": rng.normal(size=n), "w": rng.uniform(0.5, 2.0, n)}


def sites(rng: np.random.Generator) -> Data:
    """No two rows at one place, for residuals without a nugget."""
    return {k: v[:70] for k, v in places(rng).items()}


def traits(rng: np.random.Generator) -> Data:
    """15 subjects, two traits at three times, of which 6 values are missing."""
    subject, row = np.divmod(np.delete(np.arange(90), [3, 10, 11, 37, 60, 85]), 6)
    trait, time = np.divmod(row, 3)
    spread = np.arange(3) + np.round(rng.uniform(0, 0.8, (15, 3)), 2)
    return {
        "id": subject,
        "trait": np.array(["p", "q"])[trait],
        "time": time,
        "day": spread[subject, time],
        "visit": np.array(list("abc"))[time],
        "site": subject % 5,
        "x": rng.normal(size=len(row)),
        "w": rng.uniform(0.5, 2.0, len(row)),
        "lat": rng.uniform(0, 10, len(row)),
        "lon": rng.uniform(0, 10, len(row)),
    }


def animals(rng: np.random.Generator) -> Data:
    """Animals 10 to 39 of a pedigree with three records each; their ancestors have none."""
    animal = np.repeat(np.arange(10, 40), 3)
    n = len(animal)
    return {
        "animal": np.char.add("a", animal.astype(str)),
        "pe": animal,
        "t": np.arange(n) % 3,
        "herd": np.arange(n) * 7 // 3 % 6,
        "x": rng.normal(size=n),
        "w": rng.uniform(0.5, 2.0, n),
    }


@functools.cache
def pedigree() -> np.ndarray:
    """Additive relationships of 40 animals (Henderson 1976's tabular method), the first ten of them founders."""
    rng = np.random.default_rng(5)
    A = np.eye(40)
    for i in range(10, 40):
        sire, dam = rng.choice(i, 2, replace=False)
        A[i, :i] = A[:i, i] = (A[sire, :i] + A[dam, :i]) / 2
        A[i, i] = 1 + A[sire, dam] / 2
    return A


# ---------------------------------------------------------------------------- natural parameters and free numbers


@dataclass(frozen=True)
class Scalar:
    """A parameter between two bounds."""

    low: float = -np.inf
    high: float = np.inf
    size: int = 1

    def natural(self, free: np.ndarray) -> float:
        (z,) = free
        if np.isfinite(self.high):
            return self.low + (self.high - self.low) / (1 + np.exp(-z))
        return z if np.isinf(self.low) else self.low + z * z

    def free(self, value: float) -> list[float]:
        if np.isfinite(self.high):
            part = np.clip((value - self.low) / (self.high - self.low), 1e-10, 1 - 1e-10)
            return [np.log(part / (1 - part))]
        return [value if np.isinf(self.low) else np.sqrt(max(value - self.low, 0.0))]

    def read(self, listed: Sequence[float]) -> float:
        return float(listed[0])


@dataclass(frozen=True)
class Matrix:
    """A covariance matrix of some rank, listed as its lower triangle column by column."""

    q: int
    rank: int

    @property
    def size(self) -> int:
        return self.q * (self.q + 1) // 2

    def natural(self, free: np.ndarray) -> np.ndarray:
        loadings = free.reshape(self.q, self.rank)
        return loadings @ loadings.T

    def free(self, value: np.ndarray) -> list[float]:
        values, vectors = np.linalg.eigh(value)
        return list((vectors * np.sqrt(np.maximum(values, 0)))[:, -self.rank :].ravel())

    def read(self, listed: Sequence[float]) -> np.ndarray:
        out = np.zeros((self.q, self.q))
        columns, rows = np.triu_indices(self.q)
        out[rows, columns] = out[columns, rows] = listed
        return out


V = P = Scalar(0.0)  # a variance; a positive number
R, C, U = Scalar(), Scalar(-1.0, 1.0), Scalar(0.0, 1.0)  # any number, a correlation, one that is not negative


def us(q: int, rank: int | None = None) -> Matrix:
    return Matrix(q, rank or q)


# ---------------------------------------------------------------------------- definitions


def gaps(*columns: Any) -> np.ndarray:
    """Euclidean distances between all rows."""
    return np.sqrt(sum(np.subtract.outer(c, c).astype(float) ** 2 for c in map(np.asarray, columns)))


def same(*columns: Any) -> np.ndarray:
    """Which rows have the same levels."""
    return np.logical_and.reduce([np.equal.outer(c, c) for c in map(np.asarray, columns)])


def at(matrix: np.ndarray, column: Any) -> np.ndarray:
    """A matrix between the levels, row by row of the data."""
    codes = np.unique(column, return_inverse=True)[1]
    return matrix[np.ix_(codes, codes)]


def cs(variance: float, correlation: float, q: int) -> np.ndarray:
    return variance * ((1 - correlation) * np.eye(q) + correlation)


def ar1(variance: float, correlation: float, q: int) -> np.ndarray:
    return variance * correlation ** gaps(np.arange(q))


def matern(distance: np.ndarray, variance: float, length: float, nu: float) -> np.ndarray:
    """Rasmussen & Williams 2006, equation 4.14, by the Bessel function; at nu = inf equation 4.9."""
    if np.isinf(nu):
        return variance * np.exp(-((distance / length) ** 2) / 2)
    a = np.sqrt(2 * nu) * distance / length
    with np.errstate(invalid="ignore", over="ignore"):
        out = 2 ** (1 - nu) / gamma(nu) * a**nu * kv(nu, a)
    return variance * np.where(a < 1e-12, 1.0, out)


def spherical(distance: np.ndarray, variance: float, length: float) -> np.ndarray:
    a = np.minimum(distance / length, 1.0)
    return variance * (1 - 1.5 * a + 0.5 * a**3)


def scaled(sd: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Standard deviations times; with weights these are 1/sqrt(w)."""
    return sd[:, None] * matrix * sd


# ---------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """A model: the covariances of its random part and of its errors by the definition, and true parameters."""

    design: Callable[[np.random.Generator], Data]
    formula: str
    spaces: Sequence[Scalar | Matrix]
    truth: Sequence[Any]
    random: Callable[..., Any]  # (data, *parameters) -> (n, n)
    errors: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    def covariances(self, d: Data, values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        n = len(d["x"])
        return self.random(d, *values) * np.ones((n, n)), self.errors(d, *values) * np.ones((n, n))

    def values(self, listed: Sequence[float]) -> list[Any]:
        """Parameters from the fit's table."""
        assert len(listed) == sum(s.size for s in self.spaces)
        ends = np.cumsum([s.size for s in self.spaces])
        return [s.read(listed[e - s.size : e]) for s, e in zip(self.spaces, ends, strict=True)]

    def free(self, values: Sequence[Any]) -> np.ndarray:
        return np.concatenate([s.free(v) for s, v in zip(self.spaces, values, strict=True)])

    def natural(self, free: np.ndarray) -> list[Any]:
        out, start = [], 0
        for s in self.spaces:
            size = s.q * s.rank if isinstance(s, Matrix) else 1
            out.append(s.natural(free[start : start + size]))
            start += size
        return out

    @functools.cache  # noqa: B019
    def data(self, seed: int) -> Data:
        rng = np.random.default_rng(seed)
        d = self.design(rng)
        K, E = self.covariances(d, self.truth)
        draws = np.linalg.cholesky(K + E + 1e-10 * np.eye(len(K))) @ rng.normal(size=len(K))
        return {"y": 1 + 0.5 * d["x"] + draws, **d}

    __hash__ = object.__hash__


def eye(d: Data) -> np.ndarray:
    return np.eye(len(d["x"]))


def none(d: Data, *_: Any) -> float:
    return 0.0


def plain(d: Data, *values: Any) -> np.ndarray:
    """Independent errors, their variance the last parameter."""
    return values[-1] * eye(d)


CASES: dict[str, Case] = {}

# Fields over all rows, in two and three dimensions.
for _nu in (0.5, 1.5, 2.5, 3.5, np.inf):
    _text = "inf" if np.isinf(_nu) else f"{_nu:g}"
    CASES[f"matern {_text}"] = Case(
        places, f"y ~ x + matern(u + v, nu={_text})", (V, P, V), (4.0, 2.5, 0.5),
        lambda d, v, length, _, nu=_nu: matern(gaps(d["u"], d["v"]), v, length, nu), plain,
    )  # fmt: skip
CASES |= {
    "matern 2.5 in 3-D": Case(
        places, "y ~ x + matern(u + v + z, nu=2.5)", (V, P, V), (4.0, 4.0, 0.5),
        lambda d, v, length, _: matern(gaps(d["u"], d["v"], d["z"]), v, length, 2.5), plain),
    "matern 1.5 of times by subject": Case(
        visits, "y ~ x + matern(time | id, nu=1.5)", (V, P, V), (3.0, 1.5, 0.5),
        lambda d, v, length, _: same(d["id"]) * matern(gaps(d["time"]), v, length, 1.5), plain),
    "matern 0.5 residual": Case(
        visits, "y ~ x + (1 | item)", (V, V, P), (0.8, 2.0, 1.5),
        lambda d, g, *_: g * same(d["item"]),
        lambda d, g, v, length: same(d["id"]) * matern(gaps(d["time"]), v, length, 0.5),
        {"residual": "matern(time | id, nu=0.5)"}),
    "exp in 2-D with a nugget": Case(
        places, "y ~ x", (V, P, V), (4.0, 3.0, 0.7),
        lambda d, v, length, _: v * np.exp(-gaps(d["u"], d["v"]) / length), plain,
        {"residual": "sp_exp(u + v) + iid()"}),
    "exp in 3-D": Case(
        places, "y ~ x + sp_exp(u + v + z)", (V, P, V), (4.0, 3.0, 0.5),
        lambda d, v, length, _: v * np.exp(-gaps(d["u"], d["v"], d["z"]) / length), plain),
    "gau in 2-D": Case(
        places, "y ~ x + sp_gau(u + v)", (V, P, V), (4.0, 2.5, 0.5),
        lambda d, v, length, _: v * np.exp(-((gaps(d["u"], d["v"]) / length) ** 2)), plain),
    "gau in 3-D with a nugget": Case(
        places, "y ~ x", (V, P, V), (4.0, 4.0, 0.5),
        lambda d, v, length, _: v * np.exp(-((gaps(d["u"], d["v"], d["z"]) / length) ** 2)), plain,
        {"residual": "sp_gau(u + v + z) + iid()"}),
    "spherical in 2-D": Case(
        places, "y ~ x + sp_sph(u + v)", (V, P, V), (4.0, 5.0, 0.5),
        lambda d, v, length, _: spherical(gaps(d["u"], d["v"]), v, length), plain),
    "spherical in 3-D with a nugget": Case(
        places, "y ~ x", (V, P, V), (4.0, 7.0, 0.5),
        lambda d, v, length, _: spherical(gaps(d["u"], d["v"], d["z"]), v, length), plain,
        {"residual": "sp_sph(u + v + z) + iid()"}),
    "exp in 3-D by plot": Case(
        sites, "y ~ x", (V, P), (3.0, 4.0), none,
        lambda d, v, length: same(d["plot"]) * v * np.exp(-gaps(d["u"], d["v"], d["z"]) / length),
        {"residual": "sp_exp(u + v + z | plot)"}),
}  # fmt: skip

# Factor analytic and reduced rank.
LOADINGS = np.array([[1.0, 0.0], [1.2, 0.6], [1.4, -0.5], [0.9, 0.9], [1.1, -0.8]])
ONE, TWO = np.outer(LOADINGS[:, 0], LOADINGS[:, 0]), LOADINGS @ LOADINGS.T
CASES |= {
    "fa(1) residual": Case(
        visits, "y ~ x", (us(5, 1), V, V, V, V, V), (ONE, 0.5, 0.8, 1.0, 0.7, 0.6), none,
        lambda d, common, *own: same(d["id"]) * at(common + np.diag(own), d["visit"]),
        {"residual": "fa(visit | id, d=1)"}),
    "fa(2) residual": Case(
        visits, "y ~ x", (us(5, 2), V, V, V, V, V), (TWO, 0.5, 0.8, 1.0, 0.7, 0.6), none,
        lambda d, common, *own: same(d["id"]) * at(common + np.diag(own), d["visit"]),
        {"residual": "fa(visit | id, d=2)"}),
    "fa(1) effects": Case(
        visits, "y ~ x + fa(0 + visit | site, d=1)", (us(5, 1), V, V, V, V, V, V),
        (ONE, 0.5, 0.8, 1.0, 0.7, 0.6, 1.0),
        lambda d, common, *own: same(d["site"]) * at(common + np.diag(own[:-1]), d["visit"]), plain),
    "rr(1) effects": Case(
        visits, "y ~ x + rr(0 + visit | id, d=1)", (us(5, 1), V), (ONE, 1.0),
        lambda d, common, _: same(d["id"]) * at(common, d["visit"]), plain),
    "rr(2) effects": Case(
        visits, "y ~ x + rr(0 + visit | id, d=2)", (us(5, 2), V), (TWO, 0.7),
        lambda d, common, _: same(d["id"]) * at(common, d["visit"]), plain),
    "rr(2) beside crossed effects": Case(
        visits, "y ~ x + rr(0 + visit | id, d=2) + (1 | item)", (us(5, 2), V, V), (TWO, 0.8, 0.7),
        lambda d, common, g, _: same(d["id"]) * at(common, d["visit"]) + g * same(d["item"]), plain),
}  # fmt: skip

# Times: irregular, with gaps, in order.
CASES |= {
    "ou residual": Case(
        visits, "y ~ x", (V, P), (2.0, 2.0), none,
        lambda d, v, length: same(d["id"]) * v * np.exp(-gaps(d["time"]) / length), {"residual": "ou(time | id)"}),
    "ou effects": Case(
        visits, "y ~ x + ou(time | id)", (V, P, V), (3.0, 2.0, 0.5),
        lambda d, v, length, _: same(d["id"]) * v * np.exp(-gaps(d["time"]) / length), plain),
    "car1 residual": Case(
        visits, "y ~ x", (V, U), (2.0, 0.5), none,
        lambda d, v, r: same(d["id"]) * v * r ** gaps(d["time"]), {"residual": "car1(time | id)"}),
    "car1 effects": Case(
        visits, "y ~ x + car1(time | id)", (V, U, V), (3.0, 0.6, 0.5),
        lambda d, v, r, _: same(d["id"]) * v * r ** gaps(d["time"]), plain),
    "ar1 of weeks with gaps": Case(
        visits, "y ~ x + (1 | item)", (V, V, C), (1.0, 2.0, -0.6),
        lambda d, g, *_: g * same(d["item"]), lambda d, g, v, r: same(d["id"]) * v * r ** gaps(d["week"]),
        {"residual": "ar1(week | id)"}),
    "arma11 residual": Case(
        visits, "y ~ x", (V, C, C), (2.0, 0.4, 0.7), none,
        lambda d, v, g, r: same(d["id"]) * v * np.where(eye(d) == 1, 1.0, g * r ** np.maximum(gaps(d["t"]) - 1, 0)),
        {"residual": "arma11(t | id)"}),
    "ar1h effects": Case(
        visits, "y ~ x + ar1h(0 + visit | site)", (V, V, V, V, V, C, V), (1.0, 2.0, 3.0, 1.5, 2.5, 0.6, 0.8),
        lambda d, *p: same(d["site"]) * at(scaled(np.sqrt(p[:5]), ar1(1.0, p[5], 5)), d["visit"]), plain),
    "hf residual": Case(
        visits, "y ~ x", (V,) * 6, (1.0, 1.5, 2.0, 2.5, 1.8, 1.2), none,
        lambda d, c, *p: same(d["id"])
        * at(np.add.outer(p, p) / 2 - c * (1 - np.eye(5)), d["visit"]), {"residual": "hf(visit | id)"}),
    "banded residual": Case(
        visits, "y ~ x", (V, R, V, R, V, R, V, R, V), (2.0, 0.9, 2.0, 0.7, 1.5, -0.6, 1.8, 0.8, 2.0), none,
        lambda d, *p: same(d["id"]) * at(np.diag(p[::2]) + np.diag(p[1::2], 1) + np.diag(p[1::2], -1), d["visit"]),
        {"residual": "us_banded(visit | id, bands=2)"}),
}  # fmt: skip

# Kronecker products.
PAIR = np.array([[1.5, 0.6], [0.6, 1.0]])
CASES |= {
    "us @ ar1 residual": Case(
        traits, "y ~ x + trait", (us(2), C), (PAIR, 0.5), none,
        lambda d, m, r: same(d["id"]) * at(m, d["trait"]) * r ** gaps(d["time"]),
        {"residual": "(us(trait) @ ar1(time) | id)"}),
    "us @ ar1 effects": Case(
        traits, "y ~ x + trait + (us(trait) @ ar1(time) | id)", (us(2), C, V), (PAIR, 0.7, 0.4),
        lambda d, m, r, _: same(d["id"]) * at(m, d["trait"]) * r ** gaps(d["time"]), plain),
    "us @ ou residual": Case(
        traits, "y ~ x + trait", (us(2), P), (PAIR, 1.5), none,
        lambda d, m, length: same(d["id"]) * at(m, d["trait"]) * np.exp(-gaps(d["day"]) / length),
        {"residual": "(us(trait) @ ou(day) | id)"}),
    "us @ ar1 residual beside crossed effects": Case(
        traits, "y ~ x + trait + (1 | site)", (V, us(2), C), (0.8, PAIR, 0.5),
        lambda d, g, *_: g * same(d["site"]),
        lambda d, g, m, r: same(d["id"]) * at(m, d["trait"]) * r ** gaps(d["time"]),
        {"residual": "(us(trait) @ ar1(time) | id)"}),
    "us @ us residual": Case(
        traits, "y ~ x + trait", (us(2), R, R, V, R, V), (PAIR, 0.4, 0.2, 0.8, 0.3, 1.2), none,
        lambda d, m, a, b, c, e, f: same(d["id"]) * at(m, d["trait"])
        * at(np.array([[1, a, b], [a, c, e], [b, e, f]]), d["visit"]), {"residual": "(us(trait) @ us(visit) | id)"}),
    "a sum in a product": Case(
        traits, "y ~ x + trait", (V, C, V, R, V), (1.0, 0.6, 0.4, 0.5, 0.8), none,
        lambda d, v, r, s, a, b: same(d["id"]) * at(np.array([[1, a], [a, b]]), d["trait"])
        * (v * r ** gaps(d["time"]) + s * same(d["time"])), {"residual": "((ar1(time) + iid(time)) @ us(trait) | id)"}),
    "a product entry by entry": Case(
        traits, "y ~ x + trait + (1 | site)", (V, V, C, P), (0.7, 1.5, 0.8, 6.0), lambda d, g, *_: g * same(d["site"]),
        lambda d, g, v, r, length: same(d["id"])
        * v * r ** gaps(d["time"]) * np.exp(-gaps(d["lat"], d["lon"]) / length),
        {"residual": "(ar1(time) * sp_exp(lat + lon) | id)"}),
    "us @ exp in 2-D": Case(
        traits, "y ~ x + trait + (us(trait) @ sp_exp(lat + lon) | site)", (us(2), P, V), (3 * PAIR, 4.0, 0.4),
        lambda d, m, length, _: same(d["site"]) * at(m, d["trait"]) * np.exp(-gaps(d["lat"], d["lon"]) / length),
        plain),
}  # fmt: skip

# Functions of covariates for the standard deviations of the errors.


def power(x: np.ndarray, p: float) -> np.ndarray:
    return abs(x) ** p


def ident(*ratios: float) -> Callable[[Data], np.ndarray]:
    return lambda d: np.r_[1.0, ratios][np.unique(d["f"], return_inverse=True)[1]]


def of_levels(variances: Sequence[float], d: Data) -> np.ndarray:
    return np.asarray(variances)[np.unique(d["f"], return_inverse=True)[1]]


def by_intercept(d: Data, g: float, *_: Any) -> np.ndarray:
    return g * same(d["id"])


FUNCTIONS = {
    "power": ("power(h)", (R,), (1.0,), lambda d, p: power(d["h"], p)),
    "power fixed": ("power(h, 0.5)", (), (), lambda d: power(d["h"], 0.5)),
    "exp": ("exp(c)", (R,), (0.4,), lambda d, p: np.exp(p * d["c"])),
    "exp fixed": ("exp(c, -0.3)", (), (), lambda d: np.exp(-0.3 * d["c"])),
    "const_power": ("const_power(h)", (P, R), (0.8, 2.0), lambda d, c, p: c + power(d["h"], p)),
    "const_power, const fixed": ("const_power(h, const=0.5)", (R,), (1.5,), lambda d, p: 0.5 + power(d["h"], p)),
    "const_power, power fixed": ("const_power(h, power=2)", (P,), (0.8,), lambda d, c: c + power(d["h"], 2)),
    "ident fixed": ("ident(f, ratios=(1.8, 0.6))", (), (), ident(1.8, 0.6)),
}
for _name, (_text, _spaces, _truth, _sd) in FUNCTIONS.items():
    CASES[f"variance {_name}"] = Case(
        visits, "y ~ x + (1 | id)", (V, V, *_spaces), (1.0, 1.0, *_truth), by_intercept,
        lambda d, g, v, *p, sd=_sd: v * np.diag(sd(d, *p) ** 2), {"variance": _text},
    )  # fmt: skip
CASES |= {
    "variance ident": Case(
        visits, "y ~ x + (1 | id)", (V, V, V, V), (1.0, 1.0, 1.8**2, 0.6**2), by_intercept,
        lambda d, _, *v: np.diag(of_levels(v, d)), {"variance": "ident(f)"}),
    "variance power of ar1": Case(
        visits, "y ~ x", (V, C, R), (1.0, 0.6, 1.0), none,
        lambda d, v, r, p: same(d["id"]) * scaled(power(d["h"], p), v * r ** gaps(d["t"])),
        {"residual": "ar1(visit | id)", "variance": "power(h)"}),
    "variance ident of ou": Case(
        visits, "y ~ x + (1 | item)", (V, V, V, V, P), (0.8, 1.0, 1.8**2, 0.6**2, 1.5),
        lambda d, g, *_: g * same(d["item"]),
        lambda d, _, *v: same(d["id"]) * scaled(np.sqrt(of_levels(v[:3], d)), np.exp(-gaps(d["time"]) / v[3])),
        {"residual": "ou(time | id)", "variance": "ident(f)"}),
}  # fmt: skip

# Several at once.
FIVE = at(ar1(2.0, 0.5, 5), np.arange(5)) + np.diag([0.0, 0.5, 1.0, 0.5, 0.0])
CASES |= {
    "ar1 effects beside a us residual": Case(
        visits, "y ~ x + ar1(0 + visit | site)", (V, C, us(5)), (1.5, 0.6, FIVE),
        lambda d, v, r, _: same(d["site"]) * v * r ** gaps(d["t"]),
        lambda d, v, r, m: same(d["id"]) * at(m, d["visit"]), {"residual": "us(visit | id)"}),
    "a field beside a cs residual and crossed effects": Case(
        visits, "y ~ x + matern(lat + lon, nu=1.5) + (1 | item)", (V, P, V, V, Scalar(-0.25, 1.0)),
        (3.0, 2.0, 0.8, 1.0, 0.4),
        lambda d, v, length, g, *_: matern(gaps(d["lat"], d["lon"]), v, length, 1.5) + g * same(d["item"]),
        lambda d, v, length, g, s, r: same(d["id"]) * s * (r + (1 - r) * eye(d)), {"residual": "cs(visit | id)"}),
    "two structures beside slopes": Case(
        visits, "y ~ x + us(x | item) + ou(time | id)", (us(2), V, P, V), (PAIR, 2.0, 2.0, 0.5),
        lambda d, m, v, length, _: same(d["item"])
        * (m[0, 0] + m[0, 1] * np.add.outer(d["x"], d["x"]) + m[1, 1] * np.outer(d["x"], d["x"]))
        + same(d["id"]) * v * np.exp(-gaps(d["time"]) / length), plain),
    "a sum in a residual": Case(
        visits, "y ~ x", (V, C, V), (2.0, 0.6, 0.5),
        lambda d, v, r, _: same(d["id"]) * v * r ** gaps(d["t"]), plain,
        {"residual": "(ar1(t) + iid(t) | id)"}),
}  # fmt: skip


# Parameters of each arm.


def by_arm(d: Data, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return same(d["id"]) * np.where((d["arm"] == "u")[:, None], first, second)


CASES |= {
    "cs by arm": Case(
        visits, "y ~ x", (V, Scalar(-0.25, 1.0)) * 2, (1.0, 0.6, 2.5, -0.1), none,
        lambda d, v, r, w, s: by_arm(d, at(cs(v, r, 5), d["t"]), at(cs(w, s, 5), d["t"])),
        {"residual": "cs(visit | arm / id)"}),
    "ar1 by arm, one correlation": Case(
        visits, "y ~ x + (1 | item)", (V, V, C, V), (0.8, 1.0, 0.6, 2.5), lambda d, g, *_: g * same(d["item"]),
        lambda d, g, v, r, w: by_arm(d, v * r ** gaps(d["t"]), w * r ** gaps(d["t"])),
        {"residual": "ar1(visit | arm / id, shared='correlation')"}),
    "ou effects by arm": Case(
        visits, "y ~ x + ou(time | id, by=arm)", (V, P, V, P, V), (4.0, 3.0, 3.0, 1.0, 0.4),
        lambda d, v, a, w, b, _: by_arm(d, v * np.exp(-gaps(d["time"]) / a), w * np.exp(-gaps(d["time"]) / b)), plain),
    "slopes by arm": Case(
        visits, "y ~ x + diag(x | id, by=arm)", (V, V, V, V, V), (1.0, 1.0, 2.0, 0.5, 0.7),
        lambda d, a, b, c, e, _: by_arm(
            d, a + b * np.outer(d["x"], d["x"]), c + e * np.outer(d["x"], d["x"])), plain),
}  # fmt: skip

# Weights: covariances are divided by sqrt(w_i w_j).


def shrunk(d: Data, matrix: np.ndarray) -> np.ndarray:
    return scaled(d["w"] ** -0.5, matrix)


CASES |= {
    "weights and cs": Case(
        visits, "y ~ x", (V, Scalar(-0.25, 1.0)), (2.0, 0.5), none,
        lambda d, v, r: shrunk(d, same(d["id"]) * at(cs(v, r, 5), d["t"])),
        {"residual": "cs(visit | id)", "weights": "w"}),
    "weights and us": Case(
        visits, "y ~ x", (us(5),), (FIVE,), none, lambda d, m: shrunk(d, same(d["id"]) * at(m, d["visit"])),
        {"residual": "us(visit | id)", "weights": "w"}),
    "weights, ou and crossed effects": Case(
        visits, "y ~ x + (1 | item)", (V, V, P), (1.0, 2.0, 2.0), lambda d, g, *_: g * same(d["item"]),
        lambda d, g, v, length: shrunk(d, same(d["id"]) * v * np.exp(-gaps(d["time"]) / length)),
        {"residual": "ou(time | id)", "weights": "w"}),
    "weights and a variance function": Case(
        visits, "y ~ x + (1 | id)", (V, V, R), (1.0, 1.0, 1.0), by_intercept,
        lambda d, g, v, p: v * np.diag(d["h"] ** (2 * p) / d["w"]), {"variance": "power(h)", "weights": "w"}),
    "weights, ar1 and a variance function": Case(
        visits, "y ~ x", (V, C, R), (1.0, 0.6, 0.5), none,
        lambda d, v, r, p: shrunk(d, same(d["id"]) * scaled(d["h"] ** p, v * r ** gaps(d["t"]))),
        {"residual": "ar1(t | id)", "variance": "power(h)", "weights": "w"}),
    "weights and a product": Case(
        traits, "y ~ x + trait", (us(2), C), (PAIR, 0.5), none,
        lambda d, m, r: shrunk(d, same(d["id"]) * at(m, d["trait"]) * r ** gaps(d["time"])),
        {"residual": "(us(trait) @ ar1(time) | id)", "weights": "w"}),
    "weights and a field": Case(
        places, "y ~ x + matern(u + v)", (V, P, V), (4.0, 2.5, 0.5),
        lambda d, v, length, _: matern(gaps(d["u"], d["v"]), v, length, 1.5),
        lambda d, *p: p[-1] * np.diag(1 / d["w"]), {"weights": "w"}),
}  # fmt: skip

# Relationships.


def kin(d: Data) -> np.ndarray:
    """Relationships of the rows' animals."""
    return pedigree()[np.ix_(d["pe"], d["pe"])]


def labels() -> list[str]:
    return [f"a{i}" for i in range(40)]


def frame() -> Any:
    pandas = pytest.importorskip("pandas")
    order = np.random.default_rng(0).permutation(40)
    names = [labels()[i] for i in order]
    return pandas.DataFrame(pedigree()[np.ix_(order, order)], names, names)


FORMS: dict[str, Callable[[], Any]] = {
    "a data frame": frame,
    "an array": lambda: pedigree()[10:, 10:],
    "an array with labels": lambda: (pedigree(), labels()),
    "a precision": lambda: Precision(np.linalg.inv(pedigree()), labels()),
    "a precision of a frame": lambda: Precision(
        pytest.importorskip("pandas").DataFrame(np.linalg.inv(pedigree()), labels(), labels())
    ),
}


@dataclass(frozen=True)
class Related:
    """A relationship made when it is used."""

    form: str

    def given(self) -> Mapping[str, Any]:
        return {"animal": FORMS[self.form]()}


CASES |= {
    "relationship": Case(
        animals, "y ~ x + (1 | animal)", (V, V), (2.0, 1.0), lambda d, a, _: a * kin(d), plain,
        {"relationship": Related("an array")}),
    "relationship beside the animals' own": Case(
        animals, "y ~ x + (1 | animal) + (1 | pe)", (V, V, V), (2.0, 0.8, 1.0),
        lambda d, a, p, _: a * kin(d) + p * same(d["pe"]), plain, {"relationship": Related("a data frame")}),
    "relationship, the animals' own and herds": Case(
        animals, "y ~ x + (1 | animal) + (1 | pe) + (1 | herd)", (V, V, V, V), (2.0, 0.8, 0.5, 1.0),
        lambda d, a, p, h, _: a * kin(d) + p * same(d["pe"]) + h * same(d["herd"]),
        lambda d, *p: p[-1] * np.diag(1 / d["w"]), {"relationship": Related("a precision"), "weights": "w"}),
    "relationship of slopes": Case(
        animals, "y ~ x + (x | animal)", (us(2), V), (PAIR, 0.7),
        lambda d, m, _: kin(d)
        * (m[0, 0] + m[0, 1] * np.add.outer(d["x"], d["x"]) + m[1, 1] * np.outer(d["x"], d["x"])), plain,
        {"relationship": Related("a data frame")}),
    "relationship beside an ar1 residual": Case(
        animals, "y ~ x + (1 | animal)", (V, V, C), (2.0, 1.0, 0.5), lambda d, a, *_: a * kin(d),
        lambda d, a, v, r: same(d["pe"]) * v * r ** gaps(d["t"]),
        {"relationship": Related("a precision"), "residual": "ar1(t | pe)"}),
}  # fmt: skip

# ---------------------------------------------------------------------------- fits and searches


def fitted(formula: str, data: Data, **options: Any) -> Any:
    if isinstance(options.get("relationship"), Related):
        options["relationship"] = options["relationship"].given()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxlmm.ConvergenceWarning)
        return jaxlmm.lmm(formula, data, **options)


def estimates(fit: Any) -> list[float]:
    """Natural parameters in the order of the fit's table."""
    return [float(value) for value in fit.parameters()["estimate"]]


def columns(case: Case, d: Data) -> np.ndarray:
    X = [np.ones(len(d["x"])), d["x"]]
    return np.column_stack([*X, d["trait"] == "q"] if " trait" in case.formula else X).astype(float)


def criterion(V: np.ndarray, U: np.ndarray, reml: bool) -> float:
    """Minus the log-likelihood from the columns U = [X y] by one Cholesky of V; infinite where it fails."""
    p = U.shape[1] - 1
    try:
        L = cholesky(V, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return np.inf
    T = np.linalg.qr(solve_triangular(L, U, lower=True, check_finite=False), mode="r").diagonal()
    logs = np.log(L.diagonal()).sum() + reml * np.log(abs(T[:p])).sum()
    value = 0.5 * (len(V) - reml * p) * oracle.LOG_2PI + logs + 0.5 * T[p] ** 2
    return value if np.isfinite(value) else np.inf


def search(case: Case, d: Data, start: Sequence[Any], reml: bool = True) -> tuple[float, list[Any]]:
    """Best log-likelihood from natural parameters, and where."""
    U = np.column_stack([columns(case, d), d["y"]])

    def value(free: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            total = sum(case.covariances(d, case.natural(free)))
            return min(criterion(total, U, reml), 1e10) if np.all(np.isfinite(total)) else 1e10

    first = case.free(start)
    found = minimize(value, first, method="BFGS", options={"maxiter": 60})
    polished = minimize(value, found.x, method="Nelder-Mead", options={"maxfev": 100})
    best = min((found, polished), key=lambda f: f.fun)
    return -float(best.fun), case.natural(best.x)


DAILY = {"fa(1) residual", "us @ ar1 effects", "relationship beside the animals' own"}


def each() -> list[Any]:
    """Every case with every data set; every day, one data set of some case of each kind."""
    assert DAILY <= set(CASES)
    out = []
    for name in CASES:
        for k, (seed, method) in enumerate(RUNS):
            marks = [pytest.mark.slow] if k or name not in DAILY else []
            out.append(pytest.param(name, seed, method, marks=marks, id=f"{name}-{seed}-{method}"))
    return out


@pytest.mark.parametrize(("name", "seed", "method"), each())
def test_a_fit_is_the_optimum_of_the_likelihood_by_the_definition(name: str, seed: int, method: str) -> None:
    case, reml = CASES[name], method == "REML"
    d = case.data(seed)
    fit = fitted(case.formula, d, method=method, **case.options)
    assert fit.converged, fit.status
    values = case.values(estimates(fit))
    K, E = case.covariances(d, values)
    V, X, y = K + E, columns(case, d), d["y"]

    assert fit.loglik == pytest.approx(oracle.loglik(V, y, X, reml), abs=1e-6)
    beta, vcov = oracle.gls(V, y, X)
    np.testing.assert_allclose(fit.coef, beta, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(fit.se, np.sqrt(np.diag(vcov)), rtol=1e-6)
    blups = X @ beta + K @ np.linalg.solve(V, y - X @ beta)
    np.testing.assert_allclose(fit.fitted, blups, rtol=1e-6, atol=1e-6)

    for start in (values, case.truth):
        best, where = search(case, d, start, reml)
        assert best < fit.loglik + 1e-5, f"{best - fit.loglik:.3g} better at {where}, reported {values}"


# ---------------------------------------------------------------------------- identities

SEEDS = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]

# Data of a case; two models; how the natural parameters of the second follow from those of the first.
ALIKE: dict[str, tuple[str, tuple[str, Data], tuple[str, Data], Callable[..., Sequence[float]] | None]] = {
    "cs is a random intercept": (
        "weights and cs", ("y ~ x", {"residual": "cs(visit | id)"}), ("y ~ x + (1 | id)", {}),
        lambda v, r: (v * r, v * (1 - r))),
    "ar1 is ou at equal steps": (
        "ar1 by arm, one correlation", ("y ~ x", {"residual": "ar1(t | id)"}), ("y ~ x", {"residual": "ou(t | id)"}),
        lambda v, r: (v, -1 / np.log(r))),
    "ar1 effects are ou at equal steps": (
        "ar1h effects", ("y ~ x + ar1(0 + visit | site)", {}), ("y ~ x + ou(t | site)", {}),
        lambda v, r, s: (v, -1 / np.log(r), s)),
    "car1 is ou": (
        "ou residual", ("y ~ x", {"residual": "car1(time | id)"}), ("y ~ x", {"residual": "ou(time | id)"}),
        lambda v, r: (v, -1 / np.log(r))),
    "sp_exp in 1-D is ou": (
        "ou residual", ("y ~ x", {"residual": "sp_exp(time | id)"}), ("y ~ x", {"residual": "ou(time | id)"}),
        lambda v, r: (v, r)),
    "matern 1/2 is exp": (
        "matern 0.5", ("y ~ x + matern(u + v, nu=0.5)", {}), ("y ~ x", {"residual": "sp_exp(u + v) + iid()"}),
        lambda *p: p),
    "matern inf is gau": (
        "matern inf", ("y ~ x + matern(u + v, nu=inf)", {}), ("y ~ x", {"residual": "sp_gau(u + v) + iid()"}),
        lambda v, length, s: (v, np.sqrt(2) * length, s)),
    "rr(full) is us": (
        "two structures beside slopes", ("y ~ x + rr(x | item, d=2) + (1 | id)", {}),
        ("y ~ x + us(x | item) + (1 | id)", {}), lambda *p: p),
    "rr(full) is us between levels": (
        "us @ ar1 effects", ("y ~ x + rr(0 + trait | id, d=2)", {}), ("y ~ x + (0 + trait | id)", {}), lambda *p: p),
    "power fixed is weights": (
        "variance power", ("y ~ x + (1 | id)", {"variance": "power(h, 0.5)"}),
        ("y ~ x + (1 | id)", {"weights": "inverse"}), lambda *p: p),
    "ident is diag": (
        "cs by arm", ("y ~ x", {"residual": "diag(visit | id)"}), ("y ~ x", {"variance": "ident(visit)"}),
        lambda *p: p),
    "us @ iid is us of each time": (
        "us @ ar1 residual", ("y ~ x", {"residual": "(us(trait) @ ar1(time, correlation=0) | id)"}),
        ("y ~ x", {"residual": "us(trait | occasion)"}), lambda *p: p),
    "products commute": (
        "us @ ar1 residual", ("y ~ x", {"residual": "(us(trait) @ ar1(time) | id)"}),
        ("y ~ x", {"residual": "(ar1(time) @ us(trait) | id)"}), None),
}  # fmt: skip


def extended(d: Data) -> Data:
    """With columns for the other of two models."""
    if "h" in d:
        return d | {"inverse": 1 / d["h"]}
    return d | {"occasion": 10 * d["id"] + d["time"]} if "trait" in d else d


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ALIKE)
def test_two_texts_of_one_model(name: str, seed: int) -> None:
    case, first, second, follow = ALIKE[name]
    d = extended(CASES[case].data(seed))
    one, two = (fitted(formula, d, **options) for formula, options in (first, second))
    assert one.converged and two.converged
    assert one.loglik == pytest.approx(two.loglik, abs=1e-7)
    np.testing.assert_allclose(one.coef, two.coef, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one.se, two.se, rtol=1e-4)
    if follow:
        np.testing.assert_allclose(follow(*estimates(one)), estimates(two), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_product_of_known_factors_is_the_dense_one(seed: int) -> None:
    d = CASES["us @ ar1 residual"].data(seed)
    factor = np.kron(cs(1.0, 0.3, 2), ar1(1.0, 0.6, 3))
    cell = 3 * (d["trait"] == "q") + d["time"]
    dense = same(d["id"]) * factor[np.ix_(cell, cell)]
    fit = fitted("y ~ x", d, residual="(cs(trait, correlation=0.3) @ ar1(time, correlation=0.6) | id)")
    X, y = np.column_stack([np.ones(len(cell)), d["x"]]), d["y"]
    beta, vcov = oracle.gls(dense, y, X)
    r = y - X @ beta
    variance = r @ np.linalg.solve(dense, r) / (len(y) - 2)
    np.testing.assert_allclose(estimates(fit), [variance], rtol=1e-6)
    np.testing.assert_allclose(fit.coef, beta, rtol=1e-8)
    np.testing.assert_allclose(fit.vcov, variance * vcov, rtol=1e-6)
    assert fit.loglik == pytest.approx(oracle.loglik(variance * dense, y, X), abs=1e-7)

    effects = fitted("y ~ x + (cs(trait, correlation=0.3) @ ar1(time, correlation=0.6) | id)", d)
    d = d | {"cell": 6 * d["id"] + cell}
    levels = np.unique(d["cell"])
    known = np.kron(np.eye(15), factor)[np.ix_(levels, levels)]
    related = fitted("y ~ x + (1 | cell)", d, relationship={"cell": known})
    assert effects.loglik == pytest.approx(related.loglik, abs=1e-7)
    np.testing.assert_allclose(estimates(effects), estimates(related), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_field_of_known_range_is_a_relationship_between_rows(seed: int) -> None:
    d = {k: v[:70] for k, v in CASES["exp in 2-D with a nugget"].data(seed).items()} | {"row": np.arange(70)}
    field_fit = fitted("y ~ x + sp_exp(u + v, range=3)", d)
    known = np.exp(-gaps(d["u"], d["v"]) / 3)
    related = fitted("y ~ x + (1 | row)", d, relationship={"row": known})
    assert field_fit.loglik == pytest.approx(related.loglik, abs=1e-7)
    np.testing.assert_allclose(estimates(field_fit), estimates(related), rtol=1e-4)
    np.testing.assert_allclose(field_fit.fitted, related.fitted, atol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_form_of_a_relationship_gives_one_fit(seed: int) -> None:
    d = CASES["relationship"].data(seed)
    fits = [fitted("y ~ x + (1 | animal)", d, relationship=Related(form)) for form in FORMS]
    V = sum(CASES["relationship"].covariances(d, estimates(fits[0])))
    expected = oracle.loglik(V, d["y"], np.column_stack([np.ones(len(V)), d["x"]]))
    for fit in fits:
        assert fit.loglik == pytest.approx(expected, abs=1e-7)
        np.testing.assert_allclose(estimates(fit), estimates(fits[0]), rtol=1e-5)


@pytest.mark.parametrize("shrink", [1.0, 0.3, 0.1, 0.01])
def test_a_compound_symmetry_correlation_down_to_its_lowest(shrink: float) -> None:
    """Balanced: closed forms from the mean squares, whose ratio brings the correlation to -1/(m-1)."""
    m, table = 5, np.random.default_rng(1).normal(size=(16, 5))
    table = table - (1 - shrink) * table.mean(1, keepdims=True)
    between, within = oracle.mean_squares(table)
    d = {"y": table.ravel(), "id": np.repeat(np.arange(16), m), "t": np.tile(np.arange(m), 16)}
    fit = fitted("y ~ 1", d, residual="cs(t | id)")
    assert fit.converged
    expected = (between - within) / (between + (m - 1) * within)
    variance, correlation = estimates(fit)
    assert -1 / (m - 1) < correlation
    np.testing.assert_allclose(1 + (m - 1) * correlation, 1 + (m - 1) * expected, rtol=1e-4)
    np.testing.assert_allclose(variance * (1 - correlation), within, rtol=1e-5)
    np.testing.assert_allclose(fit.se, [np.sqrt(between / table.size)], rtol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("structure", some(["csh", "ar1"], "ar1"))
def test_parameters_of_each_arm_are_those_of_two_fits(structure: str, seed: int) -> None:
    d = CASES["cs by arm"].data(seed)
    both = fitted("y ~ arm * x", d, residual=f"{structure}(visit | arm / id)")
    parts = [
        fitted("y ~ x", {k: v[d["arm"] == arm] for k, v in d.items()}, residual=f"{structure}(visit | id)")
        for arm in ("u", "v")
    ]
    assert both.loglik == pytest.approx(sum(fit.loglik for fit in parts), abs=1e-7)
    np.testing.assert_allclose(estimates(both), np.concatenate([estimates(f) for f in parts]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("residual", some(["us(visit | id)", "ou(time | id)"], "ou(time | id)"))
def test_weights_are_relative_to_the_covariances(residual: str, seed: int) -> None:
    d = CASES["weights and cs"].data(seed)
    d = d | {"w4": 4 * d["w"], "one": np.ones(len(d["w"]))}
    first, second = (fitted("y ~ x", d, residual=residual, weights=w) for w in ("w", "w4"))
    assert first.loglik == pytest.approx(second.loglik, abs=1e-7)
    scale = [0.25, 1.0] if residual.startswith("ou") else 0.25  # the range is not a covariance
    np.testing.assert_allclose(estimates(first), np.multiply(estimates(second), scale), rtol=1e-3, atol=1e-4)
    bare, ones = fitted("y ~ x", d, residual=residual), fitted("y ~ x", d, residual=residual, weights="one")
    assert bare.loglik == pytest.approx(ones.loglik, abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("term", ["ou(t | g)", "matern(t | g, nu=0.5)", "ar1(t | g)", "ar1(0 + f | g)"])
def test_an_error_variance_that_vanishes(term: str) -> None:
    """Beside a random function the optimum may have no independent errors: that of the function as the residual."""
    t, g = np.tile(np.arange(5), 8), np.repeat(np.arange(8), 5)
    for seed in (0, 1, 2):
        draws = np.random.default_rng(seed).normal(size=40)
        f = np.char.add("v", t.astype(str))
        d = {"y": np.linalg.cholesky(same(g) * 0.6 ** gaps(t)) @ draws, "g": g, "t": t, "f": f}
        fit = fitted(f"y ~ 1 + {term}", d)
        alone = fitted("y ~ 1", d, residual=term.replace("0 + f", "t"))
        assert fit.converged
        assert estimates(fit)[-1] < 1e-6
        assert fit.loglik == pytest.approx(alone.loglik, abs=1e-6)
        np.testing.assert_allclose(estimates(fit)[:-1], estimates(alone), rtol=1e-3)
