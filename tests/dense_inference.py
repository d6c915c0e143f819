"""Satterthwaite and Kenward-Roger with n x n matrices, as Kenward & Roger (1997, Biometrics 53:983) write them.

V is any function of natural parameters; its derivatives are differences of fourth order. An oracle: it shares no code
with the package.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

SLOPE = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
SECOND = {-2: -1 / 12, -1: 4 / 3, 0: -5 / 2, 1: 4 / 3, 2: -1 / 12}


def jacobian(f: Callable[[np.ndarray], Any], x: np.ndarray, step: float = 2e-3) -> np.ndarray:
    """(k, ...) derivatives of an array."""
    h = step * np.maximum(np.abs(x), 0.1)
    E = np.diag(h)
    return np.stack([sum(w * np.asarray(f(x + a * E[i])) for a, w in SLOPE.items()) / h[i] for i in range(len(x))])


def hessian(f: Callable[[np.ndarray], Any], x: np.ndarray, step: float = 1e-2) -> np.ndarray:
    """(k, k, ...) second derivatives of an array."""
    k, h = len(x), step * np.maximum(np.abs(x), 0.1)
    E, middle = np.diag(h), np.asarray(f(x))
    out = np.zeros((k, k, *middle.shape))
    for i in range(k):
        out[i, i] = sum(w * (np.asarray(f(x + a * E[i])) if a else middle) for a, w in SECOND.items()) / h[i] ** 2
    for i, j in itertools.combinations(range(k), 2):
        pairs = itertools.product(SLOPE.items(), SLOPE.items())
        total = sum(v * w * np.asarray(f(x + a * E[i] + b * E[j])) for (a, v), (b, w) in pairs)
        out[i, j] = out[j, i] = total / (h[i] * h[j])
    return out


@dataclass(frozen=True)
class Dense:
    """Model ``y ~ N(X beta, V(x))`` at estimates x (k,) of parameters of V."""

    V: Callable[[np.ndarray], np.ndarray]
    x: np.ndarray
    X: np.ndarray
    y: np.ndarray
    reml: bool = True

    def __post_init__(self) -> None:
        V, slopes, bends = self.V(self.x), jacobian(self.V, self.x), hessian(self.V, self.x)
        inv = np.linalg.inv(V)
        U = inv @ self.X
        Phi = np.linalg.inv(self.X.T @ U)
        M = inv - U @ Phi @ U.T
        N = M if self.reml else inv
        r = M @ self.y
        k = range(len(self.x))
        trace = np.array([[np.sum((N @ slopes[i]) * (N @ slopes[j]).T) for j in k] for i in k])
        square = np.array([[r @ slopes[i] @ M @ slopes[j] @ r for j in k] for i in k])
        bent = np.array([[np.sum(N * bends[i, j]) - r @ bends[i, j] @ r for j in k] for i in k])
        found = {
            "information": {
                "expected": trace / 2,  # Harville 1977
                "observed": square - trace / 2 + bent / 2,
                "average": square / 2,  # Gilmour, Thompson & Cullis 1995
            },
            "Phi": Phi,
            "beta": Phi @ U.T @ self.y,
            "score": np.array([np.sum(N * slopes[i]) - r @ slopes[i] @ r for i in k]) / 2,
            "P": np.array([-U.T @ slopes[i] @ U for i in k]),
            "Q": np.array([[U.T @ slopes[i] @ inv @ slopes[j] @ U for j in k] for i in k]),
            "R": np.array([[U.T @ bends[i, j] @ U for j in k] for i in k]),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def W(self, information: str) -> np.ndarray:
        """Covariance of the parameters."""
        return np.linalg.inv(self.information[information])

    def satterthwaite(self, L: np.ndarray, information: str = "observed") -> np.ndarray:
        """Degrees of freedom of rows (Giesbrecht & Burns 1985)."""
        W, f = self.W(information), np.einsum("ma,ab,mb->m", L, self.Phi, L)
        slope = -np.einsum("ma,ab,kbc,cd,md->mk", L, self.Phi, self.P, self.Phi, L)
        return 2 * f**2 / np.einsum("mk,kl,ml->m", slope, W, slope)

    def joint_satterthwaite(self, L: np.ndarray, information: str = "observed") -> tuple[float, float]:
        """F and its denominator df (Fai & Cornelius 1996)."""
        w, Q = np.linalg.eigh(L @ self.Phi @ L.T)
        rows, q = Q.T @ L, len(L)
        F = np.mean((rows @ self.beta) ** 2 / w)
        df = self.satterthwaite(rows, information)
        if q == 1:
            return F, df[0]
        E = np.sum(df / (df - 2)) if np.all(df > 2) else 0.0
        return F, 2 * E / (E - q) if E > q else 2.0

    def adjusted(self, information: str = "observed", full: bool = False) -> np.ndarray:
        """Covariance of the coefficients, second derivatives of V only in the full form."""
        W, Phi = self.W(information), self.Phi
        total = np.einsum("ij,ijab->ab", W, self.Q - full * self.R / 4)
        total = total - np.einsum("ij,iab,bc,jcd->ad", W, self.P, Phi, self.P)
        return Phi + 2 * Phi @ total @ Phi

    def kenward_roger(self, L: np.ndarray, information: str = "observed", full: bool = False) -> tuple[float, float]:
        """Scaled F and its denominator df."""
        W, Phi, q = self.W(information), self.Phi, len(L)
        T = L.T @ np.linalg.inv(L @ Phi @ L.T) @ L
        TPP = np.array([T @ Phi @ P @ Phi for P in self.P])
        A1 = np.einsum("ij,iaa,jbb->", W, TPP, TPP)
        A2 = np.einsum("ij,iab,jba->", W, TPP, TPP)
        B = (A1 + 6 * A2) / (2 * q)
        g = ((q + 1) * A1 - (q + 4) * A2) / ((q + 2) * A2)
        low = 3 * q + 2 * (1 - g)
        c1, c2, c3 = g / low, (q - g) / low, (q + 2 - g) / low
        E = 1 / (1 - A2 / q)
        V = 2 / q * (1 + c1 * B) / ((1 - c2 * B) ** 2 * (1 - c3 * B))
        rho = V / (2 * E**2)
        m = 4 + (q + 2) / (q * rho - 1)
        gap = L @ self.beta
        F = gap @ np.linalg.solve(L @ self.adjusted(information, full) @ L.T, gap) / q
        return m / (E * (m - 2)) * F, m

    def se(self, g: Callable[[np.ndarray, np.ndarray], Any], information: str = "observed") -> np.ndarray:
        """Standard errors of a function of coefficients and parameters, by the delta method."""
        by_beta = jacobian(lambda b: np.atleast_1d(g(b, self.x)), self.beta)
        by_x = jacobian(lambda x: np.atleast_1d(g(self.beta, x)), self.x)
        W = self.W(information)
        return np.sqrt(np.einsum("am,ab,bm->m", by_beta, self.Phi, by_beta) + np.einsum("im,ij,jm->m", by_x, W, by_x))
